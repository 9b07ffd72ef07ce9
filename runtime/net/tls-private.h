/* TLS 1.3 with a pre-shared key, as an engine without a socket: bytes of the connection go in and come out of memory. OpenSSL stays behind it.
 *
 * The key is derived from the cluster's secret (HKDF-SHA-256), so an end that does not know the secret cannot finish the handshake: there are no
 * certificates, no resumption, no early data, and a new Diffie-Hellman exchange for each connection. One thread at a time for all that hangs from one
 * context. */
#ifndef TARN_NET_TLS_PRIVATE_H
#define TARN_NET_TLS_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define TARN__TLS_RECORD_BYTES 16384u /* the most plain text that one record holds */
#define TARN__TLS_BINDING_BYTES 32
#define TARN__TLS_OUTPUT_BYTES ((size_t)1 << 20) /* beyond what callers let gather */

typedef struct tarn__tls_context tarn__tls_context_t; /* what the connections of a net share */
typedef struct tarn__tls tarn__tls_t;                 /* one end of one connection */

/* secret: TARN_SECRET_BYTES, not kept. rekey_records: after so many records a sender takes a new key; 0: well within what AES-GCM bears. */
int tarn__tls_context_create(const uint8_t *secret, uint64_t rekey_records,
                             tarn__tls_context_t **out, tarn_error_t *err);
void tarn__tls_context_destroy(tarn__tls_context_t *c); /* null allowed; after its connections */

int tarn__tls_create(tarn__tls_context_t *c, bool connector, tarn__tls_t **out);
void tarn__tls_destroy(tarn__tls_t *t); /* null allowed */

/* Could these bytes begin what a TLS end says? No message of tarn's own begins so. */
bool tarn__tls_is_record(uint8_t first);

/* What has come from the other end. Borrowed until the next call; tarn__tls_handshake and tarn__tls_read use it up. */
void tarn__tls_input(tarn__tls_t *t, const uint8_t *bytes, size_t size);
/* 1: done, and the other end knows the secret; 0: more input is needed; TARN_EAUTH, TARN_EPROTO, TARN_ENOMEM. Output may have come of any of these. */
int tarn__tls_handshake(tarn__tls_t *t, tarn_error_t *err);
bool tarn__tls_ready(const tarn__tls_t *t); /* the handshake is done */
/* Plain text of the input, at most a record's: 1 and *got > 0; 0: the input is used up; TARN_ELOST: the other end has said that no more comes;
 * TARN_EPROTO, TARN_ENOMEM: the connection is of no more use. */
int tarn__tls_read(tarn__tls_t *t, void *out, size_t size, size_t *got, tarn_error_t *err);
/* One record of plain text, at most TARN__TLS_RECORD_BYTES, becomes output. TARN_ENOMEM, TARN_EIO. */
int tarn__tls_write(tarn__tls_t *t, const void *bytes, size_t size);
void tarn__tls_close(tarn__tls_t *t); /* says, as output, that no more comes */
/* What is to be sent, in order. The caller may take it, or put another buffer in its place. */
tarn_buf_t *tarn__tls_output(tarn__tls_t *t);
/* A value that both ends of this connection know, and no other connection has. out: TARN__TLS_BINDING_BYTES. TARN_ENOMEM. */
int tarn__tls_binding(tarn__tls_t *t, uint8_t *out);

#endif
