/* TLS 1.3 with a pre-shared key, over OpenSSL. See tls-private.h; one thread at a time.
 *
 * A BIO of our own stands for the socket: it reads from bytes that are borrowed for the length of a call, and appends to a buffer. OpenSSL decrypts a
 * record in its own memory and copies it once, to where the caller wants it. Everything that is not used is switched off by name, and OpenSSL's
 * configuration file is not read: what this program speaks depends on nothing outside of it. OpenSSL's memory comes from tarn_malloc. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sodium.h>
#include <string.h>
#include "base/alloc.h"
#include "net/net.h"
#include "net/tls-private.h"

#define IDENTITY "tarn/1" /* of the key; another protocol has another, and another key */
#define SUITES "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS "X25519:P-256"
#define BINDING_LABEL "EXPORTER-tarn-binding"
#define KEY_BYTES 32
#define REKEY_RECORDS (UINT64_C(1) << 23) /* RFC 8446, 5.5: AES-GCM bears 2^24.5 full ones */

struct tarn__tls_context {
  SSL_CTX *ssl;
  BIO_METHOD *pipe;
  uint8_t *key; /* sodium_malloc */
  uint64_t rekey_records;
};

struct tarn__tls {
  const tarn__tls_context_t *context;
  SSL *ssl;
  const uint8_t *in; /* borrowed */
  size_t in_size;
  tarn_buf_t out;
  uint64_t records; /* written with the present key */
  bool ready;
};

/* ---- memory ---- */

static void *take(size_t size, const char *file, int line) {
  (void)file, (void)line;
  return size > 0 ? tarn_malloc(size) : NULL;
}

static void *take_again(void *p, size_t size, const char *file, int line) {
  (void)file, (void)line;
  if (size == 0) {
    tarn_free(p);
    return NULL;
  }
  return tarn_realloc(p, size);
}

static void give_back(void *p, const char *file, int line) {
  (void)file, (void)line;
  tarn_free(p);
}

/* Once for the process. Where something else has used OpenSSL before, its memory stays where it is. */
static bool start_openssl(void) {
  (void)CRYPTO_set_mem_functions(take, take_again, give_back);
  return OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL) == 1;
}

/* ---- the socket's place ---- */

static int pipe_write(BIO *bio, const char *bytes, int size) {
  tarn__tls_t *t = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  return size > 0 && tarn_buf_append(&t->out, bytes, (size_t)size) == 0 ? size : -1;
}

static int pipe_read(BIO *bio, char *out, int size) {
  tarn__tls_t *t = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (t->in_size == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  size_t n = (size_t)size < t->in_size ? (size_t)size : t->in_size;
  memcpy(out, t->in, n);
  t->in += n;
  t->in_size -= n;
  return (int)n;
}

static long pipe_ctrl(BIO *bio, int what, long number, void *pointer) {
  (void)bio, (void)number, (void)pointer;
  return what == BIO_CTRL_FLUSH;
}

static BIO_METHOD *make_pipe(void) {
  BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "tarn");
  if (m) {
    BIO_meth_set_write(m, pipe_write);
    BIO_meth_set_read(m, pipe_read);
    BIO_meth_set_ctrl(m, pipe_ctrl);
  }
  return m;
}

/* ---- the key ---- */

/* HKDF (RFC 5869) for a key as long as its hash: extract and expand are one HMAC each. By libsodium, which leaves nothing of the secret behind. */
static void derive(const uint8_t *secret, uint8_t *key) {
  static const uint8_t salt[crypto_auth_hmacsha256_BYTES], info[] = IDENTITY " tls13 psk\1";
  uint8_t extracted[crypto_auth_hmacsha256_BYTES];
  crypto_auth_hmacsha256_state state;
  _Static_assert(KEY_BYTES == crypto_auth_hmacsha256_BYTES, "one block of HKDF");
  crypto_auth_hmacsha256_init(&state, salt, sizeof salt);
  crypto_auth_hmacsha256_update(&state, secret, TARN_SECRET_BYTES);
  crypto_auth_hmacsha256_final(&state, extracted);
  crypto_auth_hmacsha256_init(&state, extracted, sizeof extracted);
  crypto_auth_hmacsha256_update(&state, info, sizeof info - 1);
  crypto_auth_hmacsha256_final(&state, key);
  sodium_memzero(&state, sizeof state);
  sodium_memzero(extracted, sizeof extracted);
}

/* The key in the form in which OpenSSL takes it; both suites have the hash that goes with it. */
static SSL_SESSION *make_session(SSL *ssl) {
  static const uint8_t suite[2] = {0x13, 0x01};
  const tarn__tls_context_t *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
  const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
  SSL_SESSION *s = cipher ? SSL_SESSION_new() : NULL;
  if (s && SSL_SESSION_set1_master_key(s, c->key, KEY_BYTES) == 1 &&
      SSL_SESSION_set_cipher(s, cipher) == 1 &&
      SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION) == 1 &&
      SSL_SESSION_set1_id_context(s, (const unsigned char *)IDENTITY, sizeof IDENTITY - 1) == 1) {
    return s;
  }
  SSL_SESSION_free(s);
  return NULL;
}

static int on_connector_key(SSL *ssl, const EVP_MD *hash, const unsigned char **identity,
                            size_t *size, SSL_SESSION **session) {
  (void)hash;
  *identity = (const unsigned char *)IDENTITY;
  *size = sizeof IDENTITY - 1;
  *session = make_session(ssl);
  return *session != NULL;
}

static int on_acceptor_key(SSL *ssl, const unsigned char *identity, size_t size,
                           SSL_SESSION **session) {
  *session = NULL;
  if (size != sizeof IDENTITY - 1 || memcmp(identity, IDENTITY, size) != 0) {
    return 1; /* no key: the handshake fails, since there is no certificate either */
  }
  *session = make_session(ssl);
  return *session != NULL;
}

/* ---- context ---- */

static bool configure(tarn__tls_context_t *c) {
  SSL_CTX *ssl = c->ssl;
  SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_clear_options(ssl, SSL_OP_ENABLE_MIDDLEBOX_COMPAT | SSL_OP_ALLOW_NO_DHE_KEX);
  SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS); /* 34 KB of each idle connection */
  SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_psk_use_session_callback(ssl, on_connector_key);
  SSL_CTX_set_psk_find_session_callback(ssl, on_acceptor_key);
  /* No certificate is trusted: who offers one in place of the key is refused. */
  SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
  return SSL_CTX_set_app_data(ssl, c) == 1 &&
         SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) == 1 &&
         SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) == 1 &&
         SSL_CTX_set_ciphersuites(ssl, SUITES) == 1 && SSL_CTX_set1_groups_list(ssl, GROUPS) == 1 &&
         SSL_CTX_set_num_tickets(ssl, 0) == 1 && SSL_CTX_set_max_early_data(ssl, 0) == 1 &&
         SSL_CTX_set_recv_max_early_data(ssl, 0) == 1 &&
         SSL_CTX_set_session_id_context(ssl, (const unsigned char *)IDENTITY,
                                        sizeof IDENTITY - 1) == 1;
}

int tarn__tls_context_create(const uint8_t *secret, uint64_t rekey_records,
                             tarn__tls_context_t **out, tarn_error_t *err) {
  if (!start_openssl()) { return tarn_error_set(err, TARN_EIO, "OpenSSL cannot start"); }
  tarn__tls_context_t *c = tarn_calloc(1, sizeof *c);
  if (!c) { return tarn_error_set(err, TARN_ENOMEM, "no memory for TLS"); }
  c->rekey_records = rekey_records ? rekey_records : REKEY_RECORDS;
  c->key = sodium_malloc(KEY_BYTES);
  c->ssl = SSL_CTX_new(TLS_method());
  c->pipe = make_pipe();
  if (!c->key || !c->ssl || !c->pipe || !configure(c)) {
    tarn__tls_context_destroy(c);
    return tarn_error_set(err, TARN_ENOMEM, "no memory for TLS");
  }
  derive(secret, c->key);
  sodium_mprotect_readonly(c->key);
  *out = c;
  return 0;
}

void tarn__tls_context_destroy(tarn__tls_context_t *c) {
  if (!c) { return; }
  SSL_CTX_free(c->ssl);
  BIO_meth_free(c->pipe);
  sodium_free(c->key);
  tarn_free(c);
  ERR_clear_error();
}

/* ---- one connection ---- */

int tarn__tls_create(tarn__tls_context_t *c, bool connector, tarn__tls_t **out) {
  tarn__tls_t *t = tarn_calloc(1, sizeof *t);
  if (!t) { return TARN_ENOMEM; }
  t->context = c;
  tarn_buf_init(&t->out, TARN__TLS_OUTPUT_BYTES);
  t->ssl = SSL_new(c->ssl);
  BIO *bio = t->ssl ? BIO_new(c->pipe) : NULL;
  if (!bio) {
    tarn__tls_destroy(t);
    return TARN_ENOMEM;
  }
  BIO_set_data(bio, t);
  BIO_set_init(bio, 1);
  SSL_set_bio(t->ssl, bio, bio);
  if (connector) {
    SSL_set_connect_state(t->ssl);
  } else {
    SSL_set_accept_state(t->ssl);
  }
  *out = t;
  return 0;
}

void tarn__tls_destroy(tarn__tls_t *t) {
  if (!t) { return; }
  SSL_free(t->ssl);
  tarn_buf_release(&t->out);
  tarn_free(t);
  ERR_clear_error();
}

bool tarn__tls_is_record(uint8_t first) { return first >= 0x14 && first <= 0x17; }

void tarn__tls_input(tarn__tls_t *t, const uint8_t *bytes, size_t size) {
  t->in = bytes;
  t->in_size = size;
}

tarn_buf_t *tarn__tls_output(tarn__tls_t *t) { return &t->out; }

bool tarn__tls_ready(const tarn__tls_t *t) { return t->ready; }

/* Why the call before has failed: the first thing that OpenSSL says of it; but memory, wherever it says that. */
static int explain(tarn_error_t *err) {
  unsigned long first = ERR_peek_error();
  int reason = ERR_GET_REASON(first);
  const char *text = ERR_reason_error_string(first);
  bool memory = first == 0;
  for (unsigned long e; (e = ERR_get_error()) != 0;) {
    memory = memory || ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE;
  }
  if (memory) { return tarn_error_set(err, TARN_ENOMEM, "no memory for TLS"); }
  if (reason == SSL_R_BINDER_DOES_NOT_VERIFY || reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    return tarn_error_set(err, TARN_EAUTH, "it did not prove that it knows the secret");
  }
  /* What an acceptor says of a key that is not its own: OpenSSL the one, RFC 8446 the other. */
  if (reason == SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER || reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR) {
    return tarn_error_set(err, TARN_EAUTH, "it has another secret");
  }
  return tarn_error_set(err, TARN_EPROTO, "TLS: %s", text ? text : "unknown error");
}

int tarn__tls_handshake(tarn__tls_t *t, tarn_error_t *err) {
  ERR_clear_error();
  int rc = SSL_do_handshake(t->ssl);
  if (rc == 1) {
    /* "Reused" is the session made of the key: without it the other end has proved nothing. */
    if (SSL_session_reused(t->ssl) != 1) {
      return tarn_error_set(err, TARN_EAUTH, "it did not prove that it knows the secret");
    }
    t->ready = true;
    return 1;
  }
  return SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ ? 0 : explain(err);
}

int tarn__tls_read(tarn__tls_t *t, void *out, size_t size, size_t *got, tarn_error_t *err) {
  if (t->in_size == 0 && SSL_pending(t->ssl) == 0) { return 0; }
  ERR_clear_error();
  int rc = SSL_read_ex(t->ssl, out, size, got);
  if (rc == 1) { return 1; }
  switch (SSL_get_error(t->ssl, rc)) {
  case SSL_ERROR_WANT_READ:
    return 0;
  case SSL_ERROR_ZERO_RETURN:
    return tarn_error_set(err, TARN_ELOST, "closed by the other end");
  default:
    return explain(err);
  }
}

int tarn__tls_write(tarn__tls_t *t, const void *bytes, size_t size) {
  size_t written = 0;
  ERR_clear_error();
  if (++t->records > t->context->rekey_records) {
    t->records = 1;
    if (SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) { return explain(NULL); }
  }
  return SSL_write_ex(t->ssl, bytes, size, &written) == 1 && written == size ? 0 : explain(NULL);
}

void tarn__tls_close(tarn__tls_t *t) {
  ERR_clear_error();
  (void)SSL_shutdown(t->ssl);
  ERR_clear_error();
}

int tarn__tls_binding(tarn__tls_t *t, uint8_t *out) {
  ERR_clear_error();
  if (SSL_export_keying_material(t->ssl, out, TARN__TLS_BINDING_BYTES, BINDING_LABEL,
                                 sizeof BINDING_LABEL - 1, NULL, 0, 0) == 1) {
    return 0;
  }
  ERR_clear_error();
  return TARN_ENOMEM;
}
