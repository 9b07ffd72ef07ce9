/* Gathering elements by rows that have been checked. */
#include <string.h>

#include "bind/column-private.h"

uint64_t tarn_column_rows_check(const uint32_t *rows, uint64_t count, uint64_t n) {
  for (uint64_t k = 0; k < count; k++) {
    if (rows[k] < 1 || rows[k] > n) { return k; }
  }
  return count;
}

#define TAKE(type)                                                                                 \
  do {                                                                                             \
    const type *f = from;                                                                          \
    type *t = to;                                                                                  \
    for (uint64_t k = 0; k < count; k++) { t[k] = f[rows[k] - 1]; }                                \
  } while (0)

void tarn_column_take(void *to, const void *from, uint32_t element_bytes, const uint32_t *rows,
                      uint64_t count) {
  switch (element_bytes) {
  case 1:
    TAKE(uint8_t);
    break;
  case 2:
    TAKE(uint16_t);
    break;
  case 4:
    TAKE(uint32_t);
    break;
  default: {
    uint8_t *t = to;
    for (uint64_t k = 0; k < count; k++, t += element_bytes) {
      memcpy(t, (const uint8_t *)from + (uint64_t)(rows[k] - 1) * element_bytes, element_bytes);
    }
  }
  }
}

void tarn_column_bits_take(uint8_t *to, const uint8_t *bits, uint64_t at, const uint32_t *rows,
                           uint64_t count) {
  for (uint64_t k = 0; k < count; k += 8) {
    uint8_t byte = 0;
    for (uint64_t j = 0; j < 8 && k + j < count; j++) {
      byte = (uint8_t)(byte | (uint32_t)tarn__bit(bits, at + rows[k + j] - 1) << j);
    }
    to[k / 8] = byte;
  }
}

void tarn_column_narrow(void *to, uint32_t code_bytes, const uint32_t *groups, uint64_t count,
                        uint32_t hole) {
  uint8_t *to8 = to;
  uint16_t *to16 = to;
  uint32_t *to32 = to;
  for (uint64_t k = 0; k < count; k++) {
    uint32_t g = groups[k];
    uint32_t code = hole == 0 || g < hole ? g - 1 : g == hole ? 0 : g - 2;
    if (code_bytes == 1) {
      to8[k] = (uint8_t)code;
    } else if (code_bytes == 2) {
      to16[k] = (uint16_t)code;
    } else {
      to32[k] = code;
    }
  }
}
