/* Sorting rows by 64-bit keys: radix, 8 bits a turn, least significant first, turns in which all digits are alike left out. Where keys are only
 * the beginnings of texts, the runs of one key are merged by all of the bytes; a run that is in order already costs one look. */
#include <string.h>

#include "bind/column-private.h"

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, TURNS = 8, FEW = 16 };

static uint32_t digit(uint64_t key, uint32_t turn) {
  return (uint32_t)(key >> (turn * DIGIT_BITS)) & (DIGITS - 1);
}

/* A few elements are not worth the counts. */
static void sort_few(uint64_t *keys, uint32_t *rows, uint64_t count, uint64_t flip) {
  for (uint64_t k = 1; k < count; k++) {
    uint64_t key = keys[k], j = k;
    uint32_t row = rows ? rows[k] : 0;
    for (; j > 0 && (keys[j - 1] ^ flip) > (key ^ flip); j--) {
      keys[j] = keys[j - 1];
      if (rows) { rows[j] = rows[j - 1]; }
    }
    keys[j] = key;
    if (rows) { rows[j] = row; }
  }
}

/* Counts of a digit -> where its first one goes. False: all digits are alike. */
static bool places(uint64_t *counts, uint64_t total) {
  uint64_t at = 0;
  for (uint32_t d = 0; d < DIGITS; d++) {
    uint64_t count = counts[d];
    if (count == total) { return false; }
    counts[d] = at;
    at += count;
  }
  return true;
}

void tarn_column_sort(uint64_t *keys, uint32_t *rows, uint64_t *more_keys, uint32_t *more_rows,
                      uint64_t count, bool down) {
  uint64_t flip = down ? UINT64_MAX : 0;
  if (count <= FEW) {
    sort_few(keys, rows, count, flip);
    return;
  }
  uint64_t counts[TURNS][DIGITS];
  memset(counts, 0, sizeof counts);
  for (uint64_t k = 0; k < count; k++) {
    for (uint32_t turn = 0; turn < TURNS; turn++) { counts[turn][digit(keys[k] ^ flip, turn)]++; }
  }
  uint64_t *from = keys, *to = more_keys;
  uint32_t *rows_from = rows, *rows_to = more_rows;
  for (uint32_t turn = 0; turn < TURNS; turn++) {
    if (!places(counts[turn], count)) { continue; }
    for (uint64_t k = 0; k < count; k++) {
      uint64_t at = counts[turn][digit(from[k] ^ flip, turn)]++;
      to[at] = from[k];
      if (rows) { rows_to[at] = rows_from[k]; }
    }
    uint64_t *keys_swap = from;
    from = to;
    to = keys_swap;
    uint32_t *rows_swap = rows_from;
    rows_from = rows_to;
    rows_to = rows_swap;
  }
  if (from != keys) {
    memcpy(keys, from, (size_t)count * sizeof *keys);
    if (rows) { memcpy(rows, rows_from, (size_t)count * sizeof *rows); }
  }
}

/* Does text a go behind text b? Missing ones do behind all others. */
static bool behind(const tarn_text_t *t, uint32_t a, uint32_t b, bool down) {
  tarn__bytes_t x, y;
  tarn__text(t, (uint64_t)a - 1, &x);
  tarn__text(t, (uint64_t)b - 1, &y);
  if (!x.at || !y.at) { return !x.at && y.at; }
  int c = tarn_column_text_compare(x.at, x.size, y.at, y.size);
  return down ? c < 0 : c > 0;
}

static void insert_run(const tarn_text_t *t, uint32_t *rows, uint64_t count, bool down) {
  for (uint64_t k = 1; k < count; k++) {
    uint32_t row = rows[k];
    uint64_t j = k;
    for (; j > 0 && behind(t, rows[j - 1], row, down); j--) { rows[j] = rows[j - 1]; }
    rows[j] = row;
  }
}

static void merge(const tarn_text_t *t, const uint32_t *a, uint64_t a_count, const uint32_t *b,
                  uint64_t b_count, uint32_t *to, bool down) {
  while (a_count && b_count) {
    if (behind(t, *a, *b, down)) {
      *to++ = *b++;
      b_count--;
    } else {
      *to++ = *a++;
      a_count--;
    }
  }
  memcpy(to, a_count ? a : b, (size_t)(a_count + b_count) * sizeof *to);
}

static void merge_run(const tarn_text_t *t, uint32_t *rows, uint32_t *more, uint64_t count,
                      bool down) {
  uint64_t k = 1;
  while (k < count && !behind(t, rows[k - 1], rows[k], down)) { k++; }
  if (k == count) { return; }
  for (k = 0; k < count; k += FEW) {
    insert_run(t, rows + k, count - k < FEW ? count - k : FEW, down);
  }
  uint32_t *from = rows, *to = more;
  for (uint64_t width = FEW; width < count; width *= 2) {
    for (k = 0; k < count; k += 2 * width) {
      uint64_t left = count - k, a = left < width ? left : width;
      uint64_t b = left - a < width ? left - a : width;
      merge(t, from + k, a, from + k + a, b, to + k, down);
    }
    uint32_t *swap = from;
    from = to;
    to = swap;
  }
  if (from != rows) { memcpy(rows, from, (size_t)count * sizeof *rows); }
}

void tarn_column_sort_ties(const tarn_text_t *t, const uint64_t *keys, uint32_t *rows,
                           uint32_t *more_rows, uint64_t count, bool down) {
  for (uint64_t k = 0; k < count;) {
    uint64_t end = k + 1;
    while (end < count && keys[end] == keys[k]) { end++; }
    if (end - k > 1) { merge_run(t, rows + k, more_rows + k, end - k, down); }
    k = end;
  }
}

void tarn_column_missing_last(uint32_t *rows, uint32_t *more_rows, uint64_t count,
                              const uint8_t *valid, uint64_t valid_at) {
  uint64_t kept = 0, missing = 0;
  for (uint64_t k = 0; k < count; k++) {
    if (tarn__bit(valid, valid_at + rows[k] - 1)) {
      rows[kept++] = rows[k];
    } else {
      more_rows[missing++] = rows[k];
    }
  }
  if (missing) { memcpy(rows + kept, more_rows, (size_t)missing * sizeof *rows); }
}
