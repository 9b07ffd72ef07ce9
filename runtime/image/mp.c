/* MessagePack primitives: the symbols of mp.h's inline functions, for who calls them through a
 * pointer or the FFI, and the readers that need not be inline. Pure. Threads: any. */
#include "image/mp.h"

extern inline uint16_t tarn__mp_load16(const uint8_t *p);
extern inline uint32_t tarn__mp_load32(const uint8_t *p);
extern inline uint64_t tarn__mp_load64(const uint8_t *p);
extern inline int tarn__mp_payload(tarn_mp_reader_t *r, tarn_mp_token_t *t, tarn_mp_kind_t kind,
                                   const uint8_t *p, size_t left, uint32_t length);
extern inline int tarn__mp_counted(tarn_mp_reader_t *r, tarn_mp_token_t *t, tarn_mp_kind_t kind,
                                   const uint8_t *p, size_t left, uint32_t count);
extern inline int tarn__mp_ext(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *p,
                               size_t left, uint32_t length);
extern inline int tarn__mp_uint(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *next,
                                uint64_t v);
extern inline int tarn__mp_int(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *next,
                               int64_t v);
extern inline int tarn__mp_float(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *p,
                                 bool wide);
extern inline int tarn__mp_read_sized(tarn_mp_reader_t *r, tarn_mp_token_t *t, uint8_t code,
                                      const uint8_t *p, size_t left);
extern inline int tarn_mp_read(tarn_mp_reader_t *r, tarn_mp_token_t *t);
extern inline int tarn__mp_put(tarn_buf_t *b, unsigned code, uint64_t number, unsigned n,
                               size_t more);
extern inline int tarn_mp_write_nil(tarn_buf_t *b);
extern inline int tarn_mp_write_bool(tarn_buf_t *b, bool v);
extern inline int tarn_mp_write_uint(tarn_buf_t *b, uint64_t v);
extern inline int tarn_mp_write_int(tarn_buf_t *b, int64_t v);
extern inline int tarn_mp_write_int64(tarn_buf_t *b, int64_t v);
extern inline int tarn_mp_write_uint64(tarn_buf_t *b, uint64_t v);
extern inline int tarn_mp_write_double(tarn_buf_t *b, double v);
extern inline void tarn__mp_bytes(tarn_buf_t *b, const void *s, size_t length);
extern inline int tarn_mp_write_str(tarn_buf_t *b, const void *s, size_t length);
extern inline int tarn_mp_write_cstr(tarn_buf_t *b, const char *s);
extern inline int tarn__mp_bin_header(tarn_buf_t *b, size_t length, size_t more);
extern inline int tarn_mp_write_bin_header(tarn_buf_t *b, size_t length);
extern inline int tarn_mp_write_bin(tarn_buf_t *b, const void *s, size_t length);
extern inline int tarn_mp_write_array(tarn_buf_t *b, uint32_t count);
extern inline int tarn_mp_write_map(tarn_buf_t *b, uint32_t pairs);
extern inline int tarn_mp_write_ext_header(tarn_buf_t *b, int8_t type, size_t length);

int tarn__mp_put_tight(tarn_buf_t *b, unsigned code, uint64_t number, unsigned n, size_t more) {
  if (more > SIZE_MAX - 9) { return TARN_ETOOBIG; }
  int rc = tarn_buf_reserve(b, 1 + n + more);
  if (rc) { return rc; }
  b->data[b->size++] = (uint8_t)code;
  for (unsigned i = n; i-- > 0;) { b->data[b->size++] = (uint8_t)(number >> (8 * i)); }
  return 0;
}

static int skip(tarn_mp_reader_t *r, uint32_t depth_left) {
  tarn_mp_token_t t;
  int rc = tarn_mp_read(r, &t);
  if (rc || (t.kind != TARN_MP_ARRAY && t.kind != TARN_MP_MAP)) { return rc; }
  if (depth_left == 0) { return TARN_ETOOBIG; }
  uint64_t count = (uint64_t)t.length << (t.kind == TARN_MP_MAP);
  for (uint64_t i = 0; i < count && !rc; i++) { rc = skip(r, depth_left - 1); }
  return rc;
}

int tarn_mp_skip(tarn_mp_reader_t *r, uint32_t max_depth) {
  tarn_mp_reader_t ahead = *r;
  int rc = skip(&ahead, max_depth);
  if (!rc) { *r = ahead; }
  return rc;
}

/* Read a token of one of two kinds; the reader stays where it was when it is neither. */
static int expect(tarn_mp_reader_t *r, tarn_mp_token_t *t, tarn_mp_kind_t one,
                  tarn_mp_kind_t other) {
  tarn_mp_reader_t ahead = *r;
  int rc = tarn_mp_read(&ahead, t);
  if (rc) { return rc; }
  if (t->kind != one && t->kind != other) { return TARN_ECORRUPT; }
  *r = ahead;
  return 0;
}

int tarn_mp_read_uint(tarn_mp_reader_t *r, uint64_t max, uint64_t *out) {
  tarn_mp_reader_t ahead = *r;
  tarn_mp_token_t t;
  int rc = expect(&ahead, &t, TARN_MP_UINT, TARN_MP_INT);
  if (rc) { return rc; }
  if ((t.kind == TARN_MP_INT && t.v.i < 0) || t.v.u > max) { return TARN_ECORRUPT; }
  *out = t.v.u;
  *r = ahead;
  return 0;
}

int tarn_mp_read_array(tarn_mp_reader_t *r, uint32_t *count) {
  tarn_mp_token_t t;
  int rc = expect(r, &t, TARN_MP_ARRAY, TARN_MP_ARRAY);
  if (!rc) { *count = t.length; }
  return rc;
}

int tarn_mp_read_map(tarn_mp_reader_t *r, uint32_t *count) {
  tarn_mp_token_t t;
  int rc = expect(r, &t, TARN_MP_MAP, TARN_MP_MAP);
  if (!rc) { *count = t.length; }
  return rc;
}

int tarn_mp_read_bytes(tarn_mp_reader_t *r, const uint8_t **bytes, uint32_t *length) {
  tarn_mp_token_t t;
  int rc = expect(r, &t, TARN_MP_STR, TARN_MP_BIN);
  if (!rc) {
    *bytes = t.bytes;
    *length = t.length;
  }
  return rc;
}

int tarn_mp_read_bool(tarn_mp_reader_t *r, bool *out) {
  tarn_mp_token_t t;
  int rc = expect(r, &t, TARN_MP_FALSE, TARN_MP_TRUE);
  if (!rc) { *out = t.kind == TARN_MP_TRUE; }
  return rc;
}
