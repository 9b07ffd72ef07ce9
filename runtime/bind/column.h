/* Loops over the bytes of columns, for lua/tarn/{bits,array,strings,nullable,pooled,column}.lua, which call them through the FFI
 * (lua/tarn/kernel.lua has the same declarations). Plain C functions: no Lua state, nothing allocated. Lua thread, but they would do on any.
 *
 * Bits are Arrow's: bit k of a bitmap is bit k % 8 of byte k / 8. A place in one is (bits, at): its elements begin with bit `at`. No
 * byte without one of the elements' bits is touched.
 * Rows are numbers from 1 on, as Lua counts; null for "all of them in order".
 * Nothing is believed of bytes that may come from outside: a text's offsets are checked before they are followed. */
#ifndef TARN_BIND_COLUMN_H
#define TARN_BIND_COLUMN_H

#include <stdbool.h>
#include <stdint.h>

/* ---- bits (column_bits.c) ---- */

uint64_t tarn_column_bits_count(const uint8_t *bits, uint64_t at, uint64_t n);
/* The first element at or behind `from` (from 0) that is value; n when there is none. */
uint64_t tarn_column_bits_find(const uint8_t *bits, uint64_t at, uint64_t n, uint64_t from,
                               bool value);
void tarn_column_bits_fill(uint8_t *bits, uint64_t at, uint64_t n, bool value);
/* n elements to the start of `to`; the rest of the last byte is zero. */
void tarn_column_bits_copy(uint8_t *to, const uint8_t *bits, uint64_t at, uint64_t n);
/* The rows whose bits are set; rows has room for as many as are. */
void tarn_column_bits_which(const uint8_t *bits, uint64_t at, uint64_t n, uint32_t *rows);

/* ---- gathering (column_take.c) ---- */

/* The first place in rows whose number is not within 1..n; count when there is none. */
uint64_t tarn_column_rows_check(const uint32_t *rows, uint64_t count, uint64_t n);
void tarn_column_take(void *to, const void *from, uint32_t element_bytes, const uint32_t *rows,
                      uint64_t count);
void tarn_column_bits_take(uint8_t *to, const uint8_t *bits, uint64_t at, const uint32_t *rows,
                           uint64_t count);
/* Groups, numbered from 1, as codes from 0 of code_bytes (1, 2, 4) each. hole: a group that gets no code (0 stands for it); 0: none. */
void tarn_column_narrow(void *to, uint32_t code_bytes, const uint32_t *groups, uint64_t count,
                        uint32_t hole);

/* ---- texts (column_text.c) ---- */

/* A column of strings. */
typedef struct tarn_text {
  const void *offsets; /* n + 1, of uint32_t or uint64_t */
  const uint8_t *blob;
  const uint8_t *valid; /* bits; null: none is missing */
  uint64_t valid_at;
  uint64_t blob_size;
  uint64_t n;
  uint32_t wide; /* 1: the offsets are uint64_t */
} tarn_text_t;

#define TARN_COLUMN_CORRUPT UINT64_MAX

/* The first element at or behind `from` (from 0) that is these bytes; n when there is none; CORRUPT. */
uint64_t tarn_column_text_find(const tarn_text_t *t, uint64_t from, const void *bytes,
                               uint64_t size);
/* Bytes that count rows of t take in all; CORRUPT. Rows are within 1..n. */
uint64_t tarn_column_text_measure(const tarn_text_t *t, const uint32_t *rows, uint64_t count);
/* Gather what has been measured: count + 1 offsets of that width, blob, and where valid is not null a bitmap of zeros. */
void tarn_column_text_take(const tarn_text_t *t, const uint32_t *rows, uint64_t count,
                           void *offsets, bool wide, uint8_t *blob, uint8_t *valid);
/* -1, 0, 1: by bytes. */
int tarn_column_text_compare(const void *a, uint64_t a_size, const void *b, uint64_t b_size);

/* ---- keys (column_keys.c): one number for each row, in whose order the rows are ---- */

/* kind: of the numbers, as in Python's struct: b B h H i I q Q f d ?. Every NaN is one, the largest; zeros are one. */
void tarn_column_number_keys(uint64_t *keys, char kind, const void *numbers, const uint32_t *rows,
                             uint64_t count);
/* Back from keys that stand in their order. */
void tarn_column_keys_numbers(void *numbers, char kind, const uint64_t *keys, uint64_t count);
void tarn_column_bit_keys(uint64_t *keys, const uint8_t *bits, uint64_t at, const uint32_t *rows,
                          uint64_t count);
/* The first 8 bytes behind `skip`: rows with the same key may still differ. CORRUPT, or 0. */
uint64_t tarn_column_text_keys(uint64_t *keys, const tarn_text_t *t, uint64_t skip,
                               const uint32_t *rows, uint64_t count);
/* How many first bytes all of the rows that have a value share. */
uint64_t tarn_column_text_skip(const tarn_text_t *t, const uint32_t *rows, uint64_t count);
/* A hash of each element, in no order. CORRUPT, or 0. */
uint64_t tarn_column_text_hashes(uint64_t *keys, const tarn_text_t *t);
/* key -> map[key]; the place of the first key that is not below map_size (its row is not missing), or count. A missing row's key becomes 0. */
uint64_t tarn_column_map_keys(uint64_t *keys, const uint32_t *map, uint64_t map_size,
                              const uint8_t *valid, uint64_t valid_at, const uint32_t *rows,
                              uint64_t count);

/* ---- order (column_order.c) ---- */

/* Sort rows by their keys, and the keys, stably. The others are scratch of the same sizes. rows null: the keys alone. */
void tarn_column_sort(uint64_t *keys, uint32_t *rows, uint64_t *more_keys, uint32_t *more_rows,
                      uint64_t count, bool down);
/* Then, for texts: rows with one key are put in order by all of their bytes. */
void tarn_column_sort_ties(const tarn_text_t *t, const uint64_t *keys, uint32_t *rows,
                           uint32_t *more_rows, uint64_t count, bool down);
/* The missing ones behind the others, both as they were. */
void tarn_column_missing_last(uint32_t *rows, uint32_t *more_rows, uint64_t count,
                              const uint8_t *valid, uint64_t valid_at);

/* ---- what is in order (column_search.c) ---- */

/* Is no number above the next? */
bool tarn_column_number_ascends(char kind, const void *numbers, uint32_t element_bytes, uint64_t n);
/* The searches are in from..to - 1 (from 0), which is in order. */

/* The first number that is not below value, or with `above` the first above it; to when there is none. Between 64-bit integers: for values
 * below 2^53 in size. */
uint64_t tarn_column_number_search(char kind, const void *numbers, uint64_t from, uint64_t to,
                                   double value, bool above);
/* The same of texts; CORRUPT. */
uint64_t tarn_column_text_search(const tarn_text_t *t, uint64_t from, uint64_t to,
                                 const void *bytes, uint64_t size, bool above);

/* ---- groups (column_group.c) ---- */

typedef struct tarn_group {
  const uint64_t *keys;    /* n; equal elements have equal keys */
  const tarn_text_t *text; /* not null: equal keys may differ, the text decides */
  const uint32_t *outer;   /* null, or the group that each row is in already */
  const uint8_t *valid;    /* null, or bits; the missing are one group */
  uint64_t valid_at;
  uint64_t n;        /* below 2^32 */
  uint32_t *slots;   /* scratch: capacity of them */
  uint64_t capacity; /* a power of two, at least 16 and 2 n */
} tarn_group_t;

/* Number the groups from 1 as they appear: codes[row], and first[group - 1], the first row. How many. *missing: the group of the missing ones (of the
 * last such, where there is an outer grouping), 0 when there is none. */
uint64_t tarn_column_group(const tarn_group_t *g, uint32_t *codes, uint32_t *first,
                           uint32_t *missing);

#endif
