/* What encoding writes most, inline: numbers and strings. Return 0 or a code, with the failure set. */
#ifndef TARN_BIND_CODEC_WRITE_H
#define TARN_BIND_CODEC_WRITE_H

#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "bind/codec-private.h"

static inline int tarn__done(tarn__encoder_t *e, int rc) {
  return rc ? tarn__encode_out_of_memory(e, rc) : 0;
}

static inline int tarn__encode_number(tarn__encoder_t *e, double d) {
  if (d >= -TARN__INTEGER_MAX && d <= TARN__INTEGER_MAX) {
    int64_t i = (int64_t)d;
    if ((double)i == d && (i != 0 || !signbit(d))) {
      return tarn__done(e, tarn_mp_write_int(&e->out, i));
    }
  }
  return tarn__done(e, tarn_mp_write_double(&e->out, d));
}

static inline bool tarn__is_ascii(const uint8_t *s, size_t n) {
  const uint64_t high = 0x8080808080808080u;
  uint64_t word;
  uint32_t half[2];
  if (n >= 8) {
    for (size_t i = 0; i + 8 <= n; i += 8) {
      memcpy(&word, s + i, 8);
      if (word & high) { return false; }
    }
    memcpy(&word, s + n - 8, 8);
    return !(word & high);
  }
  if (n >= 4) {
    memcpy(&half[0], s, 4);
    memcpy(&half[1], s + n - 4, 4);
    return !((half[0] | half[1]) & (uint32_t)high);
  }
  unsigned any = 0;
  for (size_t i = 0; i < n; i++) { any |= s[i]; }
  return any < 0x80;
}

/* A string: str when it is UTF-8, else bin. */
static inline int tarn__encode_text(tarn__encoder_t *e, const char *s, size_t length) {
  bool text =
      tarn__is_ascii((const uint8_t *)s, length) || tarn_utf8_valid((const uint8_t *)s, length);
  return tarn__done(e, text ? tarn_mp_write_str(&e->out, s, length)
                            : tarn_mp_write_bin(&e->out, s, length));
}

/* ---- many scalars, one after the other ---- */

/* Where the next one goes, kept in registers: the buffer's size follows when it is put back. */
typedef struct tarn__cursor {
  uint8_t *at, *end;
} tarn__cursor_t;

static inline tarn__cursor_t tarn__cursor_take(const tarn__encoder_t *e) {
  return (tarn__cursor_t){e->out.data + e->out.size, e->out.data + e->out.capacity};
}

static inline void tarn__cursor_put_back(tarn__encoder_t *e, const tarn__cursor_t *c) {
  if (c->at) { e->out.size = (size_t)(c->at - e->out.data); }
}

static inline int tarn__cursor_reserve(tarn__encoder_t *e, tarn__cursor_t *c, size_t bytes) {
  if ((size_t)(c->end - c->at) >= bytes) { return 0; }
  tarn__cursor_put_back(e, c);
  int rc = tarn_buf_reserve(&e->out, bytes);
  *c = tarn__cursor_take(e);
  return tarn__done(e, rc);
}

/* A code and a number of `bytes` bytes, big-endian; 9 bytes of room, whatever is written. */
static inline uint8_t *tarn__put_wide(uint8_t *at, unsigned code, uint64_t number, unsigned bytes) {
  *at = (uint8_t)code;
  number = __builtin_bswap64(number << (64 - 8 * bytes));
  memcpy(at + 1, &number, sizeof number); /* what comes next overwrites all behind the last */
  return at + 1 + bytes;
}

uint8_t *tarn__put_any_number(uint8_t *at, double d);

/* Into 9 bytes of room, in the form that tarn__encode_number writes. */
static inline uint8_t *tarn__put_number(uint8_t *at, double d) {
  uint32_t small = d > 0 && d <= UINT16_MAX ? (uint32_t)d : 0;
  if (small == 0 || small != d) { return tarn__put_any_number(at, d); }
  if (small > UINT8_MAX) { return tarn__put_wide(at, 0xcd, small, 2); }
  if (small > INT8_MAX) { return tarn__put_wide(at, 0xcc, small, 1); }
  *at = (uint8_t)small;
  return at + 1;
}

#endif
