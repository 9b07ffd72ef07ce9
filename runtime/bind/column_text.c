/* Columns of strings: finding, gathering and comparing on bytes. */
#include <string.h>

#include "bind/column-private.h"

uint64_t tarn_column_text_find(const tarn_text_t *t, uint64_t from, const void *bytes,
                               uint64_t size) {
  for (uint64_t row = from; row < t->n; row++) {
    tarn__bytes_t b;
    if (!tarn__text(t, row, &b)) { return TARN_COLUMN_CORRUPT; }
    if (b.at && b.size == size && memcmp(b.at, bytes, (size_t)size) == 0) { return row; }
  }
  return t->n;
}

uint64_t tarn_column_text_measure(const tarn_text_t *t, const uint32_t *rows, uint64_t count) {
  uint64_t total = 0;
  for (uint64_t k = 0; k < count; k++) {
    tarn__bytes_t b;
    if (!tarn__text(t, tarn__row(rows, k), &b)) { return TARN_COLUMN_CORRUPT; }
    total +=
        b.size; /* fewer than 2^32 rows of fewer than 2^32 bytes each, or of what fits in memory */
    if (total > (uint64_t)1 << 52) { return TARN_COLUMN_CORRUPT; }
  }
  return total;
}

void tarn_column_text_take(const tarn_text_t *t, const uint32_t *rows, uint64_t count,
                           void *offsets, bool wide, uint8_t *blob, uint8_t *valid) {
  uint32_t *narrow_at = offsets;
  uint64_t *wide_at = offsets;
  uint64_t at = 0;
  for (uint64_t k = 0;; k++) {
    if (wide) {
      wide_at[k] = at;
    } else {
      narrow_at[k] = (uint32_t)at;
    }
    if (k == count) { return; }
    tarn__bytes_t b;
    if (!tarn__text(t, tarn__row(rows, k), &b) || !b.at) { continue; }
    if (b.size) { memcpy(blob + at, b.at, (size_t)b.size); }
    at += b.size;
    if (valid) { tarn__bit_set(valid, k, true); }
  }
}

int tarn_column_text_compare(const void *a, uint64_t a_size, const void *b, uint64_t b_size) {
  int c = memcmp(a, b, (size_t)(a_size < b_size ? a_size : b_size));
  if (c == 0) { return (a_size > b_size) - (a_size < b_size); }
  return c < 0 ? -1 : 1;
}
