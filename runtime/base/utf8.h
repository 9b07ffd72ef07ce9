/* UTF-8. Pure. */
#ifndef TARN_BASE_UTF8_H
#define TARN_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Whether bytes are UTF-8 as Unicode has it: no surrogates, nothing overlong. */
static inline bool tarn_utf8_valid(const uint8_t *s, size_t n) {
  const uint8_t *end = s + n;
  while (s < end) {
    uint64_t word;
    if (end - s >= 8 && (memcpy(&word, s, 8), !(word & 0x8080808080808080u))) {
      s += 8;
      continue;
    }
    unsigned c = *s++;
    if (c < 0x80) { continue; }
    unsigned more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || (size_t)(end - s) < more) { return false; }
    unsigned low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (*s < low || *s > high) { return false; }
    for (unsigned i = 1; i < more; i++) {
      if ((s[i] & 0xc0) != 0x80) { return false; }
    }
    s += more;
  }
  return true;
}

#endif
