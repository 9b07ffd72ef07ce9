/* MessagePack primitives: bytes in, tokens out; values in, bytes out. Pure: no allocation but
 * through tarn_buf_t, no I/O. Our own and not libmpack's writer, which gets negative integers wrong
 * (docs/FORMAT.md); inline, because the codec's speed is this file's speed. Writers choose the
 * shortest form. */
#ifndef TARN_IMAGE_MP_H
#define TARN_IMAGE_MP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/buf.h"
#include "base/err.h"

typedef enum {
  TARN_MP_NIL,
  TARN_MP_FALSE,
  TARN_MP_TRUE,
  TARN_MP_UINT,   /* u: >= 0, from a positive fixint or an unsigned form */
  TARN_MP_INT,    /* i: from a negative fixint or a signed form; may be >= 0 (0xd3, say) */
  TARN_MP_DOUBLE, /* d: float32 widened, or float64 */
  TARN_MP_STR,
  TARN_MP_BIN, /* bytes, length */
  TARN_MP_ARRAY,
  TARN_MP_MAP, /* length: elements, or pairs; the elements follow as tokens */
  TARN_MP_EXT  /* ext_type, bytes, length */
} tarn_mp_kind_t;

typedef struct tarn_mp_token {
  tarn_mp_kind_t kind;
  uint8_t code; /* the first byte, for who must tell 0xd3 from 0xcf */
  int8_t ext_type;
  uint32_t length;
  const uint8_t *bytes; /* borrowed from the input */
  union {
    uint64_t u;
    int64_t i;
    double d;
  } v;
} tarn_mp_token_t;

typedef struct tarn_mp_reader {
  const uint8_t *at, *end; /* borrowed */
} tarn_mp_reader_t;

/* The functions below are C11 inlines: defined in this header, and once as symbols in mp.c. */

/* Next token: 0, or TARN_ECORRUPT when the input is short or the byte is 0xC1 (reader unmoved).
 * Never reads past end. An array or a map that claims more elements than there are bytes left is
 * short too, so a count may be trusted for allocating. */
inline int tarn_mp_read(tarn_mp_reader_t *r, tarn_mp_token_t *t);

/* Skip one whole value, nesting at most max_depth (a scalar has depth 0, an empty array 1).
 * TARN_ECORRUPT, TARN_ETOOBIG (too deep); reader unmoved then. Recurses: max_depth bounds the
 * stack, about 100 bytes a level. */
int tarn_mp_skip(tarn_mp_reader_t *r, uint32_t max_depth);

/* Expecting helpers, for fixed layouts: TARN_ECORRUPT when the next token is something else (reader
 * unmoved). */
int tarn_mp_read_uint(tarn_mp_reader_t *r, uint64_t max, uint64_t *out); /* any form, 0..max */
int tarn_mp_read_array(tarn_mp_reader_t *r, uint32_t *count);
int tarn_mp_read_map(tarn_mp_reader_t *r, uint32_t *count);
/* str or bin */
int tarn_mp_read_bytes(tarn_mp_reader_t *r, const uint8_t **bytes, uint32_t *length);
int tarn_mp_read_bool(tarn_mp_reader_t *r, bool *out);

/* Writers append to b: 0, TARN_ENOMEM or TARN_ETOOBIG (the buffer's limit, or a length of 2^32 and
 * more); b unchanged then. */
inline int tarn_mp_write_nil(tarn_buf_t *b);
inline int tarn_mp_write_bool(tarn_buf_t *b, bool v);
inline int tarn_mp_write_uint(tarn_buf_t *b, uint64_t v);
inline int tarn_mp_write_int(tarn_buf_t *b,
                             int64_t v); /* shortest; >= 0 takes the unsigned forms */
inline int tarn_mp_write_int64(tarn_buf_t *b, int64_t v);   /* always 0xd3 */
inline int tarn_mp_write_uint64(tarn_buf_t *b, uint64_t v); /* always 0xcf */
inline int tarn_mp_write_double(tarn_buf_t *b, double v);   /* always float64 */
inline int tarn_mp_write_str(tarn_buf_t *b, const void *s, size_t length);
inline int tarn_mp_write_cstr(tarn_buf_t *b, const char *s);
inline int tarn_mp_write_bin_header(tarn_buf_t *b, size_t length);
inline int tarn_mp_write_bin(tarn_buf_t *b, const void *s, size_t length);
inline int tarn_mp_write_array(tarn_buf_t *b, uint32_t count);
inline int tarn_mp_write_map(tarn_buf_t *b, uint32_t pairs);
inline int tarn_mp_write_ext_header(tarn_buf_t *b, int8_t type, size_t length);

/* ---- definitions ---- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "blocks are little-endian and read in place");

inline uint16_t tarn__mp_load16(const uint8_t *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap16(v);
}
inline uint32_t tarn__mp_load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap32(v);
}
inline uint64_t tarn__mp_load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap64(v);
}

/* The end of a token whose payload of `length` bytes starts at p, with `left` bytes there. */
inline int tarn__mp_payload(tarn_mp_reader_t *r, tarn_mp_token_t *t, tarn_mp_kind_t kind,
                            const uint8_t *p, size_t left, uint32_t length) {
  if (length > left) { return TARN_ECORRUPT; }
  t->kind = kind;
  t->length = length;
  t->bytes = p;
  r->at = p + length;
  return 0;
}

/* The same for an array or a map: each element takes at least a byte. */
inline int tarn__mp_counted(tarn_mp_reader_t *r, tarn_mp_token_t *t, tarn_mp_kind_t kind,
                            const uint8_t *p, size_t left, uint32_t count) {
  if ((uint64_t)count << (kind == TARN_MP_MAP) > left) { return TARN_ECORRUPT; }
  t->kind = kind;
  t->length = count;
  r->at = p;
  return 0;
}

inline int tarn__mp_ext(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *p, size_t left,
                        uint32_t length) {
  if (left < 1) { return TARN_ECORRUPT; }
  t->ext_type = (int8_t)*p;
  return tarn__mp_payload(r, t, TARN_MP_EXT, p + 1, left - 1, length);
}

inline int tarn__mp_uint(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *next, uint64_t v) {
  t->kind = TARN_MP_UINT;
  t->v.u = v;
  r->at = next;
  return 0;
}

inline int tarn__mp_int(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *next, int64_t v) {
  t->kind = TARN_MP_INT;
  t->v.i = v;
  r->at = next;
  return 0;
}

/* 0xca, 0xcb: bits and not a cast of the value, which would be a conversion. */
inline int tarn__mp_float(tarn_mp_reader_t *r, tarn_mp_token_t *t, const uint8_t *p, bool wide) {
  t->kind = TARN_MP_DOUBLE;
  if (wide) {
    t->v.u = tarn__mp_load64(p);
  } else {
    uint32_t bits = tarn__mp_load32(p);
    float f;
    memcpy(&f, &bits, sizeof f);
    t->v.d = (double)f;
  }
  r->at = p + (wide ? 8 : 4);
  return 0;
}

/* The codes 0xc0..0xdf; p is behind the code, with `left` bytes there. */
inline int tarn__mp_read_sized(tarn_mp_reader_t *r, tarn_mp_token_t *t, uint8_t code,
                               const uint8_t *p, size_t left) {
  /* Bytes of the number that follows the code: a value, a length, or 0. */
  static const uint8_t number_bytes[32] = {0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8,
                                           1, 2, 4, 8, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4};
  size_t n = number_bytes[code & 31];
  if (left < n) { return TARN_ECORRUPT; }
  const uint8_t *q = p + n;
  left -= n;
  switch (code) {
  case 0xc0:
    t->kind = TARN_MP_NIL;
    break;
  case 0xc2:
    t->kind = TARN_MP_FALSE;
    break;
  case 0xc3:
    t->kind = TARN_MP_TRUE;
    break;
  case 0xc4:
    return tarn__mp_payload(r, t, TARN_MP_BIN, q, left, *p);
  case 0xc5:
    return tarn__mp_payload(r, t, TARN_MP_BIN, q, left, tarn__mp_load16(p));
  case 0xc6:
    return tarn__mp_payload(r, t, TARN_MP_BIN, q, left, tarn__mp_load32(p));
  case 0xc7:
    return tarn__mp_ext(r, t, q, left, *p);
  case 0xc8:
    return tarn__mp_ext(r, t, q, left, tarn__mp_load16(p));
  case 0xc9:
    return tarn__mp_ext(r, t, q, left, tarn__mp_load32(p));
  case 0xca:
    return tarn__mp_float(r, t, p, false);
  case 0xcb:
    return tarn__mp_float(r, t, p, true);
  case 0xcc:
    return tarn__mp_uint(r, t, q, *p);
  case 0xcd:
    return tarn__mp_uint(r, t, q, tarn__mp_load16(p));
  case 0xce:
    return tarn__mp_uint(r, t, q, tarn__mp_load32(p));
  case 0xcf:
    return tarn__mp_uint(r, t, q, tarn__mp_load64(p));
  case 0xd0:
    return tarn__mp_int(r, t, q, (int8_t)*p);
  case 0xd1:
    return tarn__mp_int(r, t, q, (int16_t)tarn__mp_load16(p));
  case 0xd2:
    return tarn__mp_int(r, t, q, (int32_t)tarn__mp_load32(p));
  case 0xd3:
    return tarn__mp_int(r, t, q, (int64_t)tarn__mp_load64(p));
  case 0xd4:
  case 0xd5:
  case 0xd6:
  case 0xd7:
  case 0xd8:
    return tarn__mp_ext(r, t, q, left, 1u << (code - 0xd4));
  case 0xd9:
    return tarn__mp_payload(r, t, TARN_MP_STR, q, left, *p);
  case 0xda:
    return tarn__mp_payload(r, t, TARN_MP_STR, q, left, tarn__mp_load16(p));
  case 0xdb:
    return tarn__mp_payload(r, t, TARN_MP_STR, q, left, tarn__mp_load32(p));
  case 0xdc:
    return tarn__mp_counted(r, t, TARN_MP_ARRAY, q, left, tarn__mp_load16(p));
  case 0xdd:
    return tarn__mp_counted(r, t, TARN_MP_ARRAY, q, left, tarn__mp_load32(p));
  case 0xde:
    return tarn__mp_counted(r, t, TARN_MP_MAP, q, left, tarn__mp_load16(p));
  case 0xdf:
    return tarn__mp_counted(r, t, TARN_MP_MAP, q, left, tarn__mp_load32(p));
  default:
    return TARN_ECORRUPT; /* 0xc1 */
  }
  r->at = p;
  return 0;
}

inline int tarn_mp_read(tarn_mp_reader_t *r, tarn_mp_token_t *t) {
  const uint8_t *p = r->at;
  if (p >= r->end) { return TARN_ECORRUPT; }
  uint8_t code = *p++;
  size_t left = (size_t)(r->end - p);
  t->code = code;
  if (code < 0x80) { return tarn__mp_uint(r, t, p, code); }
  if (code >= 0xe0) { return tarn__mp_int(r, t, p, (int8_t)code); }
  if (code >= 0xc0) { return tarn__mp_read_sized(r, t, code, p, left); }
  if (code >= 0xa0) { return tarn__mp_payload(r, t, TARN_MP_STR, p, left, code & 31u); }
  return tarn__mp_counted(r, t, code >= 0x90 ? TARN_MP_ARRAY : TARN_MP_MAP, p, left, code & 15u);
}

/* The next one where there may be no room: near the buffer's limit, or when memory is short. */
int tarn__mp_put_tight(tarn_buf_t *b, unsigned code, uint64_t number, unsigned n, size_t more);

/* A code and the low `n` bytes (0 to 8) of a number, big-endian; then `more` bytes of room, not
 * counted in size. */
inline int tarn__mp_put(tarn_buf_t *b, unsigned code, uint64_t number, unsigned n, size_t more) {
  size_t room = b->capacity - b->size;
  if (room < 9 || room - 9 < more) { return tarn__mp_put_tight(b, code, number, n, more); }
  uint8_t *p = b->data + b->size;
  *p = (uint8_t)code;
  if (n) {
    number = __builtin_bswap64(number << (64 - 8 * n));
    memcpy(p + 1, &number, sizeof number); /* what comes next overwrites all behind the n-th */
  }
  b->size += 1 + n;
  return 0;
}

inline int tarn_mp_write_nil(tarn_buf_t *b) { return tarn__mp_put(b, 0xc0, 0, 0, 0); }
inline int tarn_mp_write_bool(tarn_buf_t *b, bool v) {
  return tarn__mp_put(b, v ? 0xc3 : 0xc2, 0, 0, 0);
}

inline int tarn_mp_write_uint(tarn_buf_t *b, uint64_t v) {
  if (v < 0x80) { return tarn__mp_put(b, (unsigned)v, 0, 0, 0); }
  if (v <= UINT8_MAX) { return tarn__mp_put(b, 0xcc, v, 1, 0); }
  if (v <= UINT16_MAX) { return tarn__mp_put(b, 0xcd, v, 2, 0); }
  if (v <= UINT32_MAX) { return tarn__mp_put(b, 0xce, v, 4, 0); }
  return tarn__mp_put(b, 0xcf, v, 8, 0);
}

inline int tarn_mp_write_int(tarn_buf_t *b, int64_t v) {
  if (v >= 0) { return tarn_mp_write_uint(b, (uint64_t)v); }
  if (v >= -32) { return tarn__mp_put(b, (unsigned)v & 0xffu, 0, 0, 0); }
  if (v >= INT8_MIN) { return tarn__mp_put(b, 0xd0, (uint64_t)v, 1, 0); }
  if (v >= INT16_MIN) { return tarn__mp_put(b, 0xd1, (uint64_t)v, 2, 0); }
  if (v >= INT32_MIN) { return tarn__mp_put(b, 0xd2, (uint64_t)v, 4, 0); }
  return tarn__mp_put(b, 0xd3, (uint64_t)v, 8, 0);
}

inline int tarn_mp_write_int64(tarn_buf_t *b, int64_t v) {
  return tarn__mp_put(b, 0xd3, (uint64_t)v, 8, 0);
}
inline int tarn_mp_write_uint64(tarn_buf_t *b, uint64_t v) {
  return tarn__mp_put(b, 0xcf, v, 8, 0);
}

inline int tarn_mp_write_double(tarn_buf_t *b, double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return tarn__mp_put(b, 0xcb, bits, 8, 0);
}

/* The bytes behind a header that made room for them. */
inline void tarn__mp_bytes(tarn_buf_t *b, const void *s, size_t length) {
  if (length) { memcpy(b->data + b->size, s, length); }
  b->size += length;
}

inline int tarn_mp_write_str(tarn_buf_t *b, const void *s, size_t length) {
  int rc;
  if (length < 32) {
    rc = tarn__mp_put(b, 0xa0u | (unsigned)length, 0, 0, length);
  } else if (length <= UINT8_MAX) {
    rc = tarn__mp_put(b, 0xd9, length, 1, length);
  } else if (length <= UINT16_MAX) {
    rc = tarn__mp_put(b, 0xda, length, 2, length);
  } else if (length <= UINT32_MAX) {
    rc = tarn__mp_put(b, 0xdb, length, 4, length);
  } else {
    rc = TARN_ETOOBIG;
  }
  if (!rc) { tarn__mp_bytes(b, s, length); }
  return rc;
}

inline int tarn_mp_write_cstr(tarn_buf_t *b, const char *s) {
  return tarn_mp_write_str(b, s, strlen(s));
}

/* more: room asked for behind the header, so that header and bytes are appended both or neither. */
inline int tarn__mp_bin_header(tarn_buf_t *b, size_t length, size_t more) {
  if (length <= UINT8_MAX) { return tarn__mp_put(b, 0xc4, length, 1, more); }
  if (length <= UINT16_MAX) { return tarn__mp_put(b, 0xc5, length, 2, more); }
  return length <= UINT32_MAX ? tarn__mp_put(b, 0xc6, length, 4, more) : TARN_ETOOBIG;
}

inline int tarn_mp_write_bin_header(tarn_buf_t *b, size_t length) {
  return tarn__mp_bin_header(b, length, 0);
}

inline int tarn_mp_write_bin(tarn_buf_t *b, const void *s, size_t length) {
  int rc = tarn__mp_bin_header(b, length, length);
  if (!rc) { tarn__mp_bytes(b, s, length); }
  return rc;
}

inline int tarn_mp_write_array(tarn_buf_t *b, uint32_t count) {
  if (count < 16) { return tarn__mp_put(b, 0x90u | count, 0, 0, 0); }
  return count <= UINT16_MAX ? tarn__mp_put(b, 0xdc, count, 2, 0)
                             : tarn__mp_put(b, 0xdd, count, 4, 0);
}

inline int tarn_mp_write_map(tarn_buf_t *b, uint32_t pairs) {
  if (pairs < 16) { return tarn__mp_put(b, 0x80u | pairs, 0, 0, 0); }
  return pairs <= UINT16_MAX ? tarn__mp_put(b, 0xde, pairs, 2, 0)
                             : tarn__mp_put(b, 0xdf, pairs, 4, 0);
}

inline int tarn_mp_write_ext_header(tarn_buf_t *b, int8_t type, size_t length) {
  uint64_t last = (uint8_t)type; /* code, length and type go out as one number */
  switch (length) {
  case 1:
    return tarn__mp_put(b, 0xd4, last, 1, 0);
  case 2:
    return tarn__mp_put(b, 0xd5, last, 1, 0);
  case 4:
    return tarn__mp_put(b, 0xd6, last, 1, 0);
  case 8:
    return tarn__mp_put(b, 0xd7, last, 1, 0);
  case 16:
    return tarn__mp_put(b, 0xd8, last, 1, 0);
  default:
    break;
  }
  if (length <= UINT8_MAX) { return tarn__mp_put(b, 0xc7, length << 8 | last, 2, 0); }
  if (length <= UINT16_MAX) { return tarn__mp_put(b, 0xc8, length << 8 | last, 3, 0); }
  return length <= UINT32_MAX ? tarn__mp_put(b, 0xc9, length << 8 | last, 5, 0) : TARN_ETOOBIG;
}

#endif
