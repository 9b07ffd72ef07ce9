/* What the loops over columns share: a bit, a row, a text. */
#ifndef TARN_BIND_COLUMN_PRIVATE_H
#define TARN_BIND_COLUMN_PRIVATE_H

#include "bind/column.h"

static inline bool tarn__bit(const uint8_t *bits, uint64_t at) {
  return bits[at / 8] >> (at % 8) & 1;
}

static inline void tarn__bit_set(uint8_t *bits, uint64_t at, bool value) {
  uint8_t mask = (uint8_t)(1u << (at % 8));
  bits[at / 8] = (uint8_t)(value ? bits[at / 8] | mask : bits[at / 8] & ~mask);
}

/* The element (from 0) that stands at place k. */
static inline uint64_t tarn__row(const uint32_t *rows, uint64_t k) {
  return rows ? (uint64_t)rows[k] - 1 : k;
}

typedef struct tarn__bytes {
  const uint8_t *at; /* null: missing */
  uint64_t size;
} tarn__bytes_t;

/* Element `row` (from 0, below n). False: its offsets are wrong. */
static inline bool tarn__text(const tarn_text_t *t, uint64_t row, tarn__bytes_t *out) {
  *out = (tarn__bytes_t){0};
  if (t->valid && !tarn__bit(t->valid, t->valid_at + row)) { return true; }
  uint64_t from, to;
  if (t->wide) {
    from = ((const uint64_t *)t->offsets)[row];
    to = ((const uint64_t *)t->offsets)[row + 1];
  } else {
    from = ((const uint32_t *)t->offsets)[row];
    to = ((const uint32_t *)t->offsets)[row + 1];
  }
  if (from > to || to > t->blob_size) { return false; }
  *out = (tarn__bytes_t){t->blob ? t->blob + from : (const uint8_t *)"", to - from};
  return true;
}

#endif
