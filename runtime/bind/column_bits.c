/* Bitmaps, a word at a time: single bits up to a byte's edge, words, single bits to the end. */
#include <string.h>

#include "bind/column-private.h"

static uint64_t word_at(const uint8_t *bytes) {
  uint64_t w;
  memcpy(&w, bytes, sizeof w);
  return w;
}

/* Elements up to the first that begins a byte. */
static uint64_t until_byte(uint64_t at, uint64_t n) {
  uint64_t k = (8 - at % 8) % 8;
  return k < n ? k : n;
}

uint64_t tarn_column_bits_count(const uint8_t *bits, uint64_t at, uint64_t n) {
  uint64_t count = 0, k = 0;
  for (uint64_t edge = until_byte(at, n); k < edge; k++) { count += tarn__bit(bits, at + k); }
  for (; k + 64 <= n; k += 64) {
    count += (uint64_t)__builtin_popcountll(word_at(bits + (at + k) / 8));
  }
  for (; k < n; k++) { count += tarn__bit(bits, at + k); }
  return count;
}

uint64_t tarn_column_bits_find(const uint8_t *bits, uint64_t at, uint64_t n, uint64_t from,
                               bool value) {
  uint64_t k = from, flip = value ? 0 : UINT64_MAX;
  while (k < n) {
    if ((at + k) % 8 == 0 && k + 64 <= n) {
      uint64_t w = word_at(bits + (at + k) / 8) ^ flip;
      if (w) { return k + (uint64_t)__builtin_ctzll(w); }
      k += 64;
    } else {
      if (tarn__bit(bits, at + k) == value) { return k; }
      k++;
    }
  }
  return n;
}

void tarn_column_bits_fill(uint8_t *bits, uint64_t at, uint64_t n, bool value) {
  uint64_t k = 0;
  for (uint64_t edge = until_byte(at, n); k < edge; k++) { tarn__bit_set(bits, at + k, value); }
  uint64_t bytes = (n - k) / 8;
  if (bytes) { memset(bits + (at + k) / 8, value ? 0xff : 0, (size_t)bytes); }
  for (k += bytes * 8; k < n; k++) { tarn__bit_set(bits, at + k, value); }
}

void tarn_column_bits_copy(uint8_t *to, const uint8_t *bits, uint64_t at, uint64_t n) {
  const uint8_t *from = bits + at / 8;
  uint64_t bytes = n / 8;
  uint32_t shift = at % 8;
  if (shift == 0) {
    if (bytes) { memcpy(to, from, (size_t)bytes); }
  } else {
    uint64_t i = 0;
    for (; i + 9 <= bytes; i += 8) { /* the ninth byte is an element's too */
      uint64_t w = word_at(from + i) >> shift | (uint64_t)from[i + 8] << (64 - shift);
      memcpy(to + i, &w, sizeof w);
    }
    for (; i < bytes; i++) { to[i] = (uint8_t)(from[i] >> shift | from[i + 1] << (8 - shift)); }
  }
  if (n % 8) {
    to[bytes] = 0;
    for (uint64_t k = bytes * 8; k < n; k++) { tarn__bit_set(to, k, tarn__bit(bits, at + k)); }
  }
}

void tarn_column_bits_which(const uint8_t *bits, uint64_t at, uint64_t n, uint32_t *rows) {
  uint64_t k = 0;
  for (uint64_t edge = until_byte(at, n); k < edge; k++) {
    if (tarn__bit(bits, at + k)) { *rows++ = (uint32_t)k + 1; }
  }
  for (; k + 64 <= n; k += 64) {
    for (uint64_t w = word_at(bits + (at + k) / 8); w; w &= w - 1) {
      *rows++ = (uint32_t)(k + (uint64_t)__builtin_ctzll(w)) + 1;
    }
  }
  for (; k < n; k++) {
    if (tarn__bit(bits, at + k)) { *rows++ = (uint32_t)k + 1; }
  }
}
