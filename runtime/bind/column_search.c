/* Columns that are in order: are they, and looking up in them by halves. */
#include <string.h>

#include "bind/column-private.h"

static double number_at(char kind, const void *numbers, uint64_t i) {
  switch (kind) {
  case 'b':
    return ((const int8_t *)numbers)[i];
  case 'B':
    return ((const uint8_t *)numbers)[i];
  case 'h':
    return ((const int16_t *)numbers)[i];
  case 'H':
    return ((const uint16_t *)numbers)[i];
  case 'i':
    return ((const int32_t *)numbers)[i];
  case 'I':
    return ((const uint32_t *)numbers)[i];
  case 'q':
    return (double)((const int64_t *)numbers)[i];
  case 'Q':
    return (double)((const uint64_t *)numbers)[i];
  case 'f':
    return ((const float *)numbers)[i];
  default:
    return ((const double *)numbers)[i];
  }
}

uint64_t tarn_column_number_search(char kind, const void *numbers, uint64_t from, uint64_t to,
                                   double value, bool above) {
  while (from < to) {
    uint64_t middle = from + (to - from) / 2;
    double e = number_at(kind, numbers, middle);
    if (above ? e <= value : e < value) { /* never for NaN, which is behind all others */
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return from;
}

bool tarn_column_number_ascends(char kind, const void *numbers, uint32_t element_bytes,
                                uint64_t n) {
  enum { STEP = 512 };
  uint64_t keys[STEP], last = 0;
  const char *at = numbers;
  for (uint64_t done = 0; done < n;) {
    uint64_t count = n - done < STEP ? n - done : STEP;
    tarn_column_number_keys(keys, kind, at, NULL, count);
    bool ascends = keys[0] >= last;
    for (uint64_t k = 1; k < count; k++) { ascends &= keys[k] >= keys[k - 1]; }
    if (!ascends) { return false; }
    last = keys[count - 1];
    done += count;
    at += count * element_bytes;
  }
  return true;
}

uint64_t tarn_column_text_search(const tarn_text_t *t, uint64_t from, uint64_t to,
                                 const void *bytes, uint64_t size, bool above) {
  while (from < to) {
    uint64_t middle = from + (to - from) / 2;
    tarn__bytes_t b;
    if (!tarn__text(t, middle, &b)) { return TARN_COLUMN_CORRUPT; }
    int order = b.at ? tarn_column_text_compare(b.at, b.size, bytes, size) : 1;
    if (above ? order <= 0 : order < 0) {
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return from;
}
