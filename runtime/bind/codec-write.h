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

#endif
