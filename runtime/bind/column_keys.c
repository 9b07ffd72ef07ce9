/* Elements as unsigned numbers in the same order: a signed number with its sign turned over; a floating-point one the same, and all
 * of a negative one's bits turned over; a text's first bytes as a big-endian number. */
#include <math.h>
#include <string.h>

#include "bind/column-private.h"
#include "image/file.h"

#define SIGN64 ((uint64_t)1 << 63)

static uint64_t double_key(double d) {
  uint64_t u;
  if (d != d) { return UINT64_MAX; }
  d += 0.0; /* one zero */
  memcpy(&u, &d, sizeof u);
  return u & SIGN64 ? ~u : u | SIGN64;
}

static double key_double(uint64_t key) {
  if (key == UINT64_MAX) { return (double)NAN; }
  uint64_t u = key & SIGN64 ? key & ~SIGN64 : ~key;
  double d;
  memcpy(&d, &u, sizeof d);
  return d;
}

#define KEYS(type, key_of)                                                                         \
  do {                                                                                             \
    const type *p = numbers;                                                                       \
    for (uint64_t k = 0; k < count; k++) {                                                         \
      type v = p[tarn__row(rows, k)];                                                              \
      keys[k] = key_of;                                                                            \
    }                                                                                              \
  } while (0)
#define SIGNED_KEY ((uint64_t)(int64_t)v ^ SIGN64)

void tarn_column_number_keys(uint64_t *keys, char kind, const void *numbers, const uint32_t *rows,
                             uint64_t count) {
  switch (kind) {
  case 'b':
    KEYS(int8_t, SIGNED_KEY);
    break;
  case 'B':
    KEYS(uint8_t, v);
    break;
  case '?':
    KEYS(uint8_t, v != 0);
    break;
  case 'h':
    KEYS(int16_t, SIGNED_KEY);
    break;
  case 'H':
    KEYS(uint16_t, v);
    break;
  case 'i':
    KEYS(int32_t, SIGNED_KEY);
    break;
  case 'I':
    KEYS(uint32_t, v);
    break;
  case 'q':
    KEYS(int64_t, SIGNED_KEY);
    break;
  case 'Q':
    KEYS(uint64_t, v);
    break;
  case 'f':
    KEYS(float, double_key((double)v));
    break;
  default:
    KEYS(double, double_key(v));
  }
}

#define NUMBERS(type, number)                                                                      \
  do {                                                                                             \
    type *p = numbers;                                                                             \
    for (uint64_t k = 0; k < count; k++) {                                                         \
      uint64_t key = keys[k];                                                                      \
      p[k] = (type)(number);                                                                       \
    }                                                                                              \
  } while (0)

void tarn_column_keys_numbers(void *numbers, char kind, const uint64_t *keys, uint64_t count) {
  switch (kind) {
  case 'b':
  case 'B':
  case '?':
    NUMBERS(uint8_t, key); /* turning the sign over left the lower bytes as they were */
    break;
  case 'h':
  case 'H':
    NUMBERS(uint16_t, key);
    break;
  case 'i':
  case 'I':
    NUMBERS(uint32_t, key);
    break;
  case 'q':
    NUMBERS(uint64_t, key ^ SIGN64);
    break;
  case 'Q':
    NUMBERS(uint64_t, key);
    break;
  case 'f':
    NUMBERS(float, key_double(key));
    break;
  default:
    NUMBERS(double, key_double(key));
  }
}

void tarn_column_bit_keys(uint64_t *keys, const uint8_t *bits, uint64_t at, const uint32_t *rows,
                          uint64_t count) {
  for (uint64_t k = 0; k < count; k++) { keys[k] = tarn__bit(bits, at + tarn__row(rows, k)); }
}

uint64_t tarn_column_text_keys(uint64_t *keys, const tarn_text_t *t, uint64_t skip,
                               const uint32_t *rows, uint64_t count) {
  for (uint64_t k = 0; k < count; k++) {
    tarn__bytes_t b;
    if (!tarn__text(t, tarn__row(rows, k), &b)) { return TARN_COLUMN_CORRUPT; }
    uint64_t key = 0;
    if (b.size > skip) {
      uint64_t left = b.size - skip;
      memcpy(&key, b.at + skip, left < 8 ? (size_t)left : 8);
    }
    keys[k] = __builtin_bswap64(key);
  }
  return 0;
}

static uint64_t shared_bytes(const uint8_t *a, const uint8_t *b, uint64_t limit) {
  uint64_t k = 0;
  while (k < limit && a[k] == b[k]) { k++; }
  return k;
}

uint64_t tarn_column_text_skip(const tarn_text_t *t, const uint32_t *rows, uint64_t count) {
  tarn__bytes_t first = {0};
  uint64_t shared = 0;
  for (uint64_t k = 0; k < count; k++) {
    tarn__bytes_t b;
    if (!tarn__text(t, tarn__row(rows, k), &b) || !b.at) { continue; }
    if (!first.at) {
      first = b;
      shared = b.size;
    }
    shared = shared_bytes(b.at, first.at, b.size < shared ? b.size : shared);
    if (shared == 0) { return 0; }
  }
  return shared;
}

uint64_t tarn_column_text_hashes(uint64_t *keys, const tarn_text_t *t) {
  for (uint64_t row = 0; row < t->n; row++) {
    tarn__bytes_t b;
    if (!tarn__text(t, row, &b)) { return TARN_COLUMN_CORRUPT; }
    keys[row] = b.at ? tarn_hash64(b.at, (size_t)b.size) : 0;
  }
  return 0;
}

uint64_t tarn_column_map_keys(uint64_t *keys, const uint32_t *map, uint64_t map_size,
                              const uint8_t *valid, uint64_t valid_at, const uint32_t *rows,
                              uint64_t count) {
  for (uint64_t k = 0; k < count; k++) {
    if (valid && !tarn__bit(valid, valid_at + tarn__row(rows, k))) {
      keys[k] = 0;
    } else if (keys[k] >= map_size) {
      return k;
    } else {
      keys[k] = map[keys[k]];
    }
  }
  return count;
}
