/* The handshake's messages: written, read with strict bounds, and proved. Pure, no state, any
 * thread.
 *
 * Each message is a MessagePack-RPC request or response whose argument or result is a map with
 * short keys; unknown keys are skipped, a missing one is an error. The proofs do not cover the
 * bytes but the fields, each in a fixed form, so that a key which one side does not know cannot
 * make the two differ. */
#include <sodium.h>
#include <string.h>
#include "image/mp.h"
#include "net/handshake-private.h"
#include "net/net.h"

#define SKIP_DEPTH 8u

static int malformed(tarn_error_t *err, const char *what) {
  return tarn_error_set(err, TARN_EPROTO, "malformed handshake: %s", what);
}

/* ---- reading ---- */

int tarn__envelope_read(const uint8_t *bytes, size_t size, tarn__envelope_t *out,
                        tarn_error_t *err) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  tarn__envelope_t e = {0};
  uint32_t count;
  uint64_t type, msgid;
  if (tarn_mp_read_array(&r, &count) || count != 4 || tarn_mp_read_uint(&r, 1, &type) ||
      tarn_mp_read_uint(&r, UINT32_MAX, &msgid)) {
    return malformed(err, "not a request or a response");
  }
  e.response = type == 1;
  e.msgid = (uint32_t)msgid;
  e.end = bytes + size;
  if (!e.response) {
    if (tarn_mp_read_bytes(&r, &e.method, &e.method_size)) {
      return malformed(err, "a method that is no string");
    }
    if (tarn_mp_read_array(&r, &count) || count != 1) {
      return malformed(err, "other than one argument");
    }
  } else {
    tarn_mp_reader_t peek = r;
    tarn_mp_token_t t;
    if (tarn_mp_read(&peek, &t) || tarn_mp_skip(&r, SKIP_DEPTH)) {
      return malformed(err, "no error field");
    }
    if (t.kind == TARN_MP_STR || t.kind == TARN_MP_BIN) {
      e.error = t.bytes;
      e.error_size = t.length;
    } else if (t.kind != TARN_MP_NIL) {
      e.error = (const uint8_t *)"";
    }
  }
  e.body = r.at;
  *out = e;
  return 0;
}

bool tarn__envelope_is(const tarn__envelope_t *e, const char *method) {
  return !e->response && e->method_size == strlen(method) &&
         memcmp(e->method, method, e->method_size) == 0;
}

/* Text is only ever shown and compared: what could disturb a terminal is replaced. */
static int read_text(tarn_mp_reader_t *r, char *out, size_t size) {
  const uint8_t *bytes;
  uint32_t length;
  if (tarn_mp_read_bytes(r, &bytes, &length) || length >= size) { return TARN_EPROTO; }
  memset(out, 0, size);
  for (uint32_t i = 0; i < length; i++) {
    out[i] = bytes[i] >= 0x20 && bytes[i] < 0x7f ? (char)bytes[i] : '?';
  }
  return 0;
}

static int read_exactly(tarn_mp_reader_t *r, uint8_t *out, uint32_t size) {
  const uint8_t *bytes;
  uint32_t length;
  if (tarn_mp_read_bytes(r, &bytes, &length) || length != size) { return TARN_EPROTO; }
  memcpy(out, bytes, size);
  return 0;
}

static int read_u32(tarn_mp_reader_t *r, uint32_t *out) {
  uint64_t v;
  if (tarn_mp_read_uint(r, UINT32_MAX, &v)) { return TARN_EPROTO; }
  *out = (uint32_t)v;
  return 0;
}

static int read_i64(tarn_mp_reader_t *r, int64_t *out) {
  tarn_mp_token_t t;
  if (tarn_mp_read(r, &t)) { return TARN_EPROTO; }
  if (t.kind == TARN_MP_UINT && t.v.u <= INT64_MAX) {
    *out = (int64_t)t.v.u;
  } else if (t.kind == TARN_MP_INT) {
    *out = t.v.i;
  } else {
    return TARN_EPROTO;
  }
  return 0;
}

static int read_role(tarn_mp_reader_t *r, uint8_t *out) {
  char role[16];
  if (read_text(r, role, sizeof role)) { return TARN_EPROTO; }
  bool bulk = strcmp(role, "bulk") == 0;
  if (!bulk && strcmp(role, "control") != 0) { return TARN_EPROTO; }
  *out = bulk ? TARN__ROLE_BULK : TARN__ROLE_CONTROL;
  return 0;
}

static int read_want(tarn_mp_reader_t *r, tarn__hello_t *h) {
  uint32_t count;
  if (tarn_mp_read_array(r, &count) || count != 2 || read_u32(r, &h->want_id)) {
    return TARN_EPROTO;
  }
  return tarn_mp_read_uint(r, UINT64_MAX, &h->want_incarnation);
}

enum {
  HAS_VERSION = 1,
  HAS_ROLE = 2,
  HAS_ID = 4,
  HAS_INCARNATION = 8,
  HAS_OS_PID = 16,
  HAS_WANT = 32,
  HAS_NONCE = 64,
  HAS_PROOF = 128,
  HAS_YOUR_ID = 256,
  HAS_YOUR_INCARNATION = 512
};

static bool key_is(const uint8_t *key, uint32_t size, const char *name) {
  return size == strlen(name) && memcmp(key, name, size) == 0;
}

static int hello_field(tarn_mp_reader_t *r, const uint8_t *key, uint32_t n, tarn__hello_t *h,
                       unsigned *has) {
  if (key_is(key, n, "version")) {
    *has |= HAS_VERSION;
    return read_text(r, h->version, sizeof h->version);
  }
  if (key_is(key, n, "role")) {
    *has |= HAS_ROLE;
    return read_role(r, &h->role);
  }
  if (key_is(key, n, "id")) {
    *has |= HAS_ID;
    return read_u32(r, &h->id);
  }
  if (key_is(key, n, "incarnation")) {
    *has |= HAS_INCARNATION;
    return tarn_mp_read_uint(r, UINT64_MAX, &h->incarnation);
  }
  if (key_is(key, n, "os_pid")) {
    *has |= HAS_OS_PID;
    return read_i64(r, &h->os_pid);
  }
  if (key_is(key, n, "want")) {
    *has |= HAS_WANT;
    return read_want(r, h);
  }
  if (key_is(key, n, "nonce")) {
    *has |= HAS_NONCE;
    return read_exactly(r, h->nonce, sizeof h->nonce);
  }
  if (key_is(key, n, "tie")) { return read_exactly(r, h->tie, sizeof h->tie); }
  if (key_is(key, n, "bytecode")) { return read_text(r, h->bytecode, sizeof h->bytecode); }
  if (key_is(key, n, "host")) { return read_text(r, h->host, sizeof h->host); }
  return tarn_mp_skip(r, SKIP_DEPTH);
}

static int welcome_field(tarn_mp_reader_t *r, const uint8_t *key, uint32_t n, tarn__welcome_t *w,
                         unsigned *has) {
  if (key_is(key, n, "id")) {
    *has |= HAS_ID;
    return read_u32(r, &w->id);
  }
  if (key_is(key, n, "incarnation")) {
    *has |= HAS_INCARNATION;
    return tarn_mp_read_uint(r, UINT64_MAX, &w->incarnation);
  }
  if (key_is(key, n, "os_pid")) {
    *has |= HAS_OS_PID;
    return read_i64(r, &w->os_pid);
  }
  if (key_is(key, n, "your_id")) {
    *has |= HAS_YOUR_ID;
    return read_u32(r, &w->your_id);
  }
  if (key_is(key, n, "your_incarnation")) {
    *has |= HAS_YOUR_INCARNATION;
    return tarn_mp_read_uint(r, UINT64_MAX, &w->your_incarnation);
  }
  if (key_is(key, n, "nonce")) {
    *has |= HAS_NONCE;
    return read_exactly(r, w->nonce, sizeof w->nonce);
  }
  if (key_is(key, n, "proof")) {
    *has |= HAS_PROOF;
    return read_exactly(r, w->proof, sizeof w->proof);
  }
  if (key_is(key, n, "host")) { return read_text(r, w->host, sizeof w->host); }
  return tarn_mp_skip(r, SKIP_DEPTH);
}

/* Walk the map in the body: one of hello, welcome is given. */
static int read_map(const tarn__envelope_t *e, tarn__hello_t *h, tarn__welcome_t *w, unsigned *has,
                    tarn_error_t *err) {
  tarn_mp_reader_t r = {e->body, e->end};
  uint32_t pairs;
  if (tarn_mp_read_map(&r, &pairs)) { return malformed(err, "no map"); }
  for (uint32_t i = 0; i < pairs; i++) {
    const uint8_t *key;
    uint32_t size;
    if (tarn_mp_read_bytes(&r, &key, &size)) { return malformed(err, "a key that is no string"); }
    if (h ? hello_field(&r, key, size, h, has) : welcome_field(&r, key, size, w, has)) {
      return tarn_error_set(err, TARN_EPROTO, "malformed handshake: field %u of %s", i + 1,
                            h ? "hello" : "the reply");
    }
  }
  return r.at == r.end ? 0 : malformed(err, "bytes after its end");
}

int tarn__hello_read(const tarn__envelope_t *e, tarn__hello_t *out, tarn_error_t *err) {
  const unsigned all =
      HAS_VERSION | HAS_ROLE | HAS_ID | HAS_INCARNATION | HAS_OS_PID | HAS_WANT | HAS_NONCE;
  unsigned has = 0;
  tarn__hello_t h = {0};
  int rc = read_map(e, &h, NULL, &has, err);
  if (rc) { return rc; }
  if ((has & all) != all) { return malformed(err, "hello lacks a field"); }
  *out = h;
  return 0;
}

int tarn__welcome_read(const tarn__envelope_t *e, tarn__welcome_t *out, tarn_error_t *err) {
  const unsigned all = HAS_ID | HAS_INCARNATION | HAS_OS_PID | HAS_YOUR_ID | HAS_YOUR_INCARNATION |
                       HAS_NONCE | HAS_PROOF;
  unsigned has = 0;
  tarn__welcome_t w = {0};
  int rc = read_map(e, NULL, &w, &has, err);
  if (rc) { return rc; }
  if ((has & all) != all) { return malformed(err, "the reply to hello lacks a field"); }
  *out = w;
  return 0;
}

int tarn__prove_read(const tarn__envelope_t *e, uint8_t *proof, tarn_error_t *err) {
  tarn_mp_reader_t r = {e->body, e->end};
  if (read_exactly(&r, proof, TARN__PROOF_BYTES) || r.at != r.end) {
    return malformed(err, "no proof of 32 bytes");
  }
  return 0;
}

int tarn__joined_read(const tarn__envelope_t *e, uint32_t *id, uint64_t *incarnation,
                      tarn_error_t *err) {
  tarn_mp_reader_t r = {e->body, e->end};
  bool yes;
  if (tarn_mp_read_bool(&r, &yes) == 0) {
    if (!yes || r.at != r.end) { return malformed(err, "the reply to prove is not true"); }
    *id = 0;
    *incarnation = 0;
    return 0;
  }
  unsigned has = 0;
  tarn__welcome_t w = {0};
  int rc = read_map(e, NULL, &w, &has, err);
  if (rc) { return rc; }
  if (!(has & HAS_YOUR_ID) || !(has & HAS_YOUR_INCARNATION) || w.your_id == 0) {
    return malformed(err, "no id to join with");
  }
  *id = w.your_id;
  *incarnation = w.your_incarnation;
  return 0;
}

/* ---- writing: the first failure stands ---- */

static int write_request(tarn_buf_t *b, uint32_t msgid, const char *method) {
  int rc = tarn_mp_write_array(b, 4);
  if (!rc) { rc = tarn_mp_write_uint(b, 0); }
  if (!rc) { rc = tarn_mp_write_uint(b, msgid); }
  if (!rc) { rc = tarn_mp_write_cstr(b, method); }
  if (!rc) { rc = tarn_mp_write_array(b, 1); }
  return rc;
}

static int write_response(tarn_buf_t *b, uint32_t msgid) {
  int rc = tarn_mp_write_array(b, 4);
  if (!rc) { rc = tarn_mp_write_uint(b, 1); }
  if (!rc) { rc = tarn_mp_write_uint(b, msgid); }
  return rc;
}

static int put_uint(tarn_buf_t *b, int rc, const char *key, uint64_t v) {
  if (!rc) { rc = tarn_mp_write_cstr(b, key); }
  return rc ? rc : tarn_mp_write_uint(b, v);
}

static int put_int(tarn_buf_t *b, int rc, const char *key, int64_t v) {
  if (!rc) { rc = tarn_mp_write_cstr(b, key); }
  return rc ? rc : tarn_mp_write_int(b, v);
}

static int put_text(tarn_buf_t *b, int rc, const char *key, const char *text) {
  if (!rc) { rc = tarn_mp_write_cstr(b, key); }
  return rc ? rc : tarn_mp_write_cstr(b, text);
}

static int put_bin(tarn_buf_t *b, int rc, const char *key, const uint8_t *bytes, size_t size) {
  if (!rc) { rc = tarn_mp_write_cstr(b, key); }
  return rc ? rc : tarn_mp_write_bin(b, bytes, size);
}

int tarn__hello_write(tarn_buf_t *b, uint32_t msgid, const tarn__hello_t *h) {
  bool bulk = h->role == TARN__ROLE_BULK;
  int rc = write_request(b, msgid, "hello");
  if (!rc) { rc = tarn_mp_write_map(b, bulk ? 10 : 9); }
  rc = put_text(b, rc, "version", h->version);
  rc = put_text(b, rc, "role", bulk ? "bulk" : "control");
  rc = put_uint(b, rc, "id", h->id);
  rc = put_uint(b, rc, "incarnation", h->incarnation);
  rc = put_int(b, rc, "os_pid", h->os_pid);
  if (!rc) { rc = tarn_mp_write_cstr(b, "want"); }
  if (!rc) { rc = tarn_mp_write_array(b, 2); }
  if (!rc) { rc = tarn_mp_write_uint(b, h->want_id); }
  if (!rc) { rc = tarn_mp_write_uint(b, h->want_incarnation); }
  rc = put_bin(b, rc, "nonce", h->nonce, sizeof h->nonce);
  rc = put_text(b, rc, "bytecode", h->bytecode);
  rc = put_text(b, rc, "host", h->host);
  return bulk ? put_bin(b, rc, "tie", h->tie, sizeof h->tie) : rc;
}

int tarn__welcome_write(tarn_buf_t *b, uint32_t msgid, const tarn__welcome_t *w) {
  int rc = write_response(b, msgid);
  if (!rc) { rc = tarn_mp_write_nil(b); }
  if (!rc) { rc = tarn_mp_write_map(b, 8); }
  rc = put_uint(b, rc, "id", w->id);
  rc = put_uint(b, rc, "incarnation", w->incarnation);
  rc = put_int(b, rc, "os_pid", w->os_pid);
  rc = put_uint(b, rc, "your_id", w->your_id);
  rc = put_uint(b, rc, "your_incarnation", w->your_incarnation);
  rc = put_bin(b, rc, "nonce", w->nonce, sizeof w->nonce);
  rc = put_bin(b, rc, "proof", w->proof, sizeof w->proof);
  return put_text(b, rc, "host", w->host);
}

int tarn__prove_write(tarn_buf_t *b, uint32_t msgid, const uint8_t *proof) {
  int rc = write_request(b, msgid, "prove");
  return rc ? rc : tarn_mp_write_bin(b, proof, TARN__PROOF_BYTES);
}

int tarn__joined_write(tarn_buf_t *b, uint32_t msgid, uint32_t id, uint64_t incarnation) {
  int rc = write_response(b, msgid);
  if (!rc) { rc = tarn_mp_write_nil(b); }
  if (id == 0) { return rc ? rc : tarn_mp_write_bool(b, true); }
  if (!rc) { rc = tarn_mp_write_map(b, 2); }
  rc = put_uint(b, rc, "your_id", id);
  return put_uint(b, rc, "your_incarnation", incarnation);
}

int tarn__refusal_write(tarn_buf_t *b, uint32_t msgid, const char *text) {
  int rc = write_response(b, msgid);
  if (!rc) { rc = tarn_mp_write_cstr(b, text); }
  return rc ? rc : tarn_mp_write_nil(b);
}

/* ---- proofs ---- */

typedef struct transcript {
  uint8_t bytes[512];
  size_t size;
} transcript_t;

static void add_bytes(transcript_t *t, const void *bytes,
                      size_t size) { /* fields of a fixed size */
  memcpy(t->bytes + t->size, bytes, size);
  t->size += size;
}

static void add_u64(transcript_t *t, uint64_t v) {
  for (int i = 0; i < 8; i++) { t->bytes[t->size++] = (uint8_t)(v >> (8 * i)); }
}

void tarn__proof_make(const uint8_t *secret, int who, const tarn__hello_t *h,
                      const tarn__welcome_t *w, uint8_t *out) {
  static const char labels[3][16] = {"tarn acceptor", "tarn connector", "tarn tie"};
  transcript_t t = {.size = 0};
  add_bytes(&t, labels[who], sizeof labels[who]);
  add_bytes(&t, h->version,
            sizeof h->version); /* texts are filled up with zeros by who wrote or read them */
  add_bytes(&t, h->bytecode, sizeof h->bytecode);
  add_bytes(&t, h->host, sizeof h->host);
  add_u64(&t, h->role);
  add_u64(&t, h->id);
  add_u64(&t, h->incarnation);
  add_u64(&t, (uint64_t)h->os_pid);
  add_u64(&t, h->want_id);
  add_u64(&t, h->want_incarnation);
  add_bytes(&t, h->nonce, sizeof h->nonce);
  add_bytes(&t, h->tie, sizeof h->tie);
  add_bytes(&t, w->host, sizeof w->host);
  add_u64(&t, w->id);
  add_u64(&t, w->incarnation);
  add_u64(&t, (uint64_t)w->os_pid);
  add_u64(&t, w->your_id);
  add_u64(&t, w->your_incarnation);
  add_bytes(&t, w->nonce, sizeof w->nonce);
  if (h->bound) { add_bytes(&t, h->binding, sizeof h->binding); }
  _Static_assert(crypto_auth_hmacsha512256_BYTES == TARN__PROOF_BYTES, "HMAC-SHA-512-256");
  crypto_auth_hmacsha512256_state
      state; /* as good as the secret: crypto_auth would leave it behind */
  crypto_auth_hmacsha512256_init(&state, secret, TARN_SECRET_BYTES);
  crypto_auth_hmacsha512256_update(&state, t.bytes, t.size);
  crypto_auth_hmacsha512256_final(&state, out);
  sodium_memzero(&state, sizeof state);
}

bool tarn__proof_equal(const uint8_t *a, const uint8_t *b) {
  return sodium_memcmp(a, b, TARN__PROOF_BYTES) == 0;
}

bool tarn__secret_is(const uint8_t *secret, const uint8_t *hex, uint32_t size) {
  uint8_t given[TARN_SECRET_BYTES];
  size_t length = 0;
  bool same =
      size == 2 * TARN_SECRET_BYTES &&
      sodium_hex2bin(given, sizeof given, (const char *)hex, size, NULL, &length, NULL) == 0 &&
      length == sizeof given && sodium_memcmp(given, secret, sizeof given) == 0;
  sodium_memzero(given, sizeof given);
  return same;
}
