/* HTTP requests of this process to others: a few transfers at a time, without a thread. libcurl does the work, and signs what is to be signed (AWS Signature
 * Version 4); it is loaded when it is first asked for, so that tarn starts and works without it.
 *
 * One descriptor is readable whenever there is something to do: who has created the fetcher polls it and calls tarn_fetch_run, then takes what has ended by
 * tarn_fetch_next. Bodies are neither gathered nor copied here: they are read from and written to where the caller says. One thread, that of who created it. */
#ifndef TARN_NET_FETCH_H
#define TARN_NET_FETCH_H

#include "base/buf.h"
#include "base/err.h"

typedef struct tarn_fetch tarn_fetch_t;

/* Everything is copied but user, which must live until the transfer has been taken or cancelled. */
typedef struct tarn_fetch_request {
  const char *method; /* "GET" */
  const char *url; /* http or https; its query sorted and escaped, as it is signed as it stands */
  const char *const *headers; /* "Name: value"; null allowed when header_count is 0 */
  size_t header_count;
  const char *sign;     /* as CURLOPT_AWS_SIGV4 has it, "aws:amz:eu-west-1:s3"; null: unsigned */
  const char *user_key; /* "KEY:SECRET"; null: none */
  const char *ca_file;  /* authorities for https; null: the system's */
  uint64_t silence_ms;  /* without a byte either way for so long: it has failed; 0: never */
  /* The body: size bytes from read, which may be asked for any of them more than once. Null: no body. */
  uint64_t body_size;
  void (*read)(void *user, uint64_t at, void *to, size_t size);
  /* Where the body of a response with the status write_status goes, in order, no more than write_max bytes (else it has failed). Null, and with
   * any other status: into the reply's text. */
  void (*write)(void *user, uint64_t at, const void *bytes, size_t size);
  int write_status;
  uint64_t write_max;
  void *user;
} tarn_fetch_request_t;

/* How a transfer has ended. Borrowed: until it is released. */
typedef struct tarn_fetch_reply {
  uint64_t number;
  void *user;
  int status;         /* of HTTP; 0: no response came */
  int code;           /* TARN_E*; 0: a whole response came, whatever it says */
  bool passing;       /* code is set, and the same request may well succeed when it is sent again */
  uint64_t written;   /* bytes that went to write */
  tarn_buf_t headers; /* the response's, a line each, as they came */
  tarn_buf_t text;    /* its body, at most TARN_FETCH_TEXT_MAX bytes of it */
  char message[256];  /* what went wrong; "" when code is 0 */
} tarn_fetch_reply_t;

#define TARN_FETCH_TEXT_MAX ((size_t)1 << 20)

/* TARN_EIO: libcurl is not installed. */
int tarn_fetch_create(tarn_fetch_t **out, tarn_error_t *err);
void tarn_fetch_destroy(tarn_fetch_t *f); /* cuts what is under way; null allowed */
int tarn_fetch_fd(const tarn_fetch_t *f); /* readable: call tarn_fetch_run */
/* Begin a transfer; *number, from 1 on, is its name. TARN_ENOMEM, TARN_EINVAL (libcurl refuses the url, or an option). */
int tarn_fetch_start(tarn_fetch_t *f, const tarn_fetch_request_t *request, uint64_t *number,
                     tarn_error_t *err);
/* Do what there is to do, waiting for something at most so long. */
void tarn_fetch_run(tarn_fetch_t *f, int timeout_ms);
/* One that has ended, in the order in which they did; null: none. The caller's until tarn_fetch_release. */
tarn_fetch_reply_t *tarn_fetch_next(tarn_fetch_t *f);
void tarn_fetch_release(tarn_fetch_reply_t *reply);
/* Cut the transfer; its reply never comes. False: there is none of that number (any more). */
bool tarn_fetch_cancel(tarn_fetch_t *f, uint64_t number);

#endif
