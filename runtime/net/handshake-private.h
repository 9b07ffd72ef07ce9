/* The handshake's messages and proofs. Pure: nonces and the secret come in as arguments. */
#ifndef TARN_NET_HANDSHAKE_PRIVATE_H
#define TARN_NET_HANDSHAKE_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "net/tls-private.h"

#define TARN__NONCE_BYTES 32
#define TARN__PROOF_BYTES 32
#define TARN__TIE_BYTES 16
#define TARN__TEXT_BYTES 32 /* version, bytecode; with the ending zero */

enum { TARN__ROLE_CONTROL, TARN__ROLE_BULK };
enum { TARN__PROOF_ACCEPTOR, TARN__PROOF_CONNECTOR, TARN__PROOF_TIE };

typedef struct tarn__hello { /* what a connector says of itself */
  char version[TARN__TEXT_BYTES], bytecode[TARN__TEXT_BYTES], host[64];
  uint8_t role;
  uint32_t id, want_id;
  uint64_t incarnation, want_incarnation;
  int64_t os_pid;
  uint8_t nonce[TARN__NONCE_BYTES];
  uint8_t
      tie[TARN__TIE_BYTES]; /* of the control lane to which a bulk lane belongs; zeros otherwise */
  bool bound;               /* not sent: the connection has TLS, and this is its session's own */
  uint8_t binding[TARN__TLS_BINDING_BYTES];
} tarn__hello_t;

typedef struct tarn__welcome { /* what an acceptor says of itself */
  char host[64];
  uint32_t id, your_id;
  uint64_t incarnation, your_incarnation;
  int64_t os_pid;
  uint8_t nonce[TARN__NONCE_BYTES];
  uint8_t proof[TARN__PROOF_BYTES];
} tarn__welcome_t;

/* The envelope of any message of the handshake. Pointers into its bytes. */
typedef struct tarn__envelope {
  bool response;
  uint32_t msgid;
  const uint8_t *method; /* a request's */
  uint32_t method_size;
  const uint8_t *error; /* a response's, null when it has none; "" when it is no text */
  uint32_t error_size;
  const uint8_t *body, *end; /* the only argument, or the result; to the message's end */
} tarn__envelope_t;

/* TARN_EPROTO with what is wrong. */
int tarn__envelope_read(const uint8_t *bytes, size_t size, tarn__envelope_t *out,
                        tarn_error_t *err);
bool tarn__envelope_is(const tarn__envelope_t *e, const char *method);
int tarn__hello_read(const tarn__envelope_t *e, tarn__hello_t *out, tarn_error_t *err);
int tarn__welcome_read(const tarn__envelope_t *e, tarn__welcome_t *out, tarn_error_t *err);
int tarn__prove_read(const tarn__envelope_t *e, uint8_t *proof, tarn_error_t *err);
/* The last reply: true, or the id that a process which joins has been given (*id is 0 otherwise). */
int tarn__joined_read(const tarn__envelope_t *e, uint32_t *id, uint64_t *incarnation,
                      tarn_error_t *err);

/* Append a message: 0, TARN_ENOMEM, TARN_ETOOBIG. */
int tarn__hello_write(tarn_buf_t *b, uint32_t msgid, const tarn__hello_t *h);
int tarn__welcome_write(tarn_buf_t *b, uint32_t msgid, const tarn__welcome_t *w);
int tarn__prove_write(tarn_buf_t *b, uint32_t msgid, const uint8_t *proof);
int tarn__joined_write(tarn_buf_t *b, uint32_t msgid, uint32_t id,
                       uint64_t incarnation); /* id 0: true */
int tarn__refusal_write(tarn_buf_t *b, uint32_t msgid, const char *text);

/* HMAC-SHA-512-256 of the label of `who` and every field of both (but the welcome's proof), and the binding where there is TLS. out: TARN__PROOF_BYTES. */
void tarn__proof_make(const uint8_t *secret, int who, const tarn__hello_t *h,
                      const tarn__welcome_t *w, uint8_t *out);
/* In constant time. */
bool tarn__proof_equal(const uint8_t *a, const uint8_t *b);
/* Is this text the secret in hexadecimal? In constant time for texts of the right length. */
bool tarn__secret_is(const uint8_t *secret, const uint8_t *hex, uint32_t size);

#endif
