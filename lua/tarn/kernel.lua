-- The loops over bytes of runtime/bind/column.h, as the FFI sees them.
local ffi = require "ffi"
local block = require "tarn.block"

-- Once in a process, even where this module is loaded twice.
if not pcall(ffi.typeof, "tarn_text_t") then ffi.cdef [[
typedef struct tarn_text {
  const void *offsets; const uint8_t *blob; const uint8_t *valid;
  uint64_t valid_at, blob_size, n; uint32_t wide; } tarn_text_t;
typedef struct tarn_group {
  const uint64_t *keys; const tarn_text_t *text; const uint32_t *outer; const uint8_t *valid;
  uint64_t valid_at, n; uint32_t *slots; uint64_t capacity; } tarn_group_t;
uint64_t tarn_column_bits_count(const uint8_t *bits, uint64_t at, uint64_t n);
uint64_t tarn_column_bits_find(const uint8_t *bits, uint64_t at, uint64_t n, uint64_t from, bool value);
void tarn_column_bits_fill(uint8_t *bits, uint64_t at, uint64_t n, bool value);
void tarn_column_bits_copy(uint8_t *to, const uint8_t *bits, uint64_t at, uint64_t n);
void tarn_column_bits_which(const uint8_t *bits, uint64_t at, uint64_t n, uint32_t *rows);
uint64_t tarn_column_rows_check(const uint32_t *rows, uint64_t count, uint64_t n);
void tarn_column_take(void *to, const void *from, uint32_t element_bytes, const uint32_t *rows, uint64_t count);
void tarn_column_bits_take(uint8_t *to, const uint8_t *bits, uint64_t at, const uint32_t *rows, uint64_t count);
void tarn_column_narrow(void *to, uint32_t code_bytes, const uint32_t *groups, uint64_t count, uint32_t hole);
uint64_t tarn_column_text_find(const tarn_text_t *t, uint64_t from, const void *bytes, uint64_t size);
uint64_t tarn_column_text_measure(const tarn_text_t *t, const uint32_t *rows, uint64_t count);
void tarn_column_text_take(const tarn_text_t *t, const uint32_t *rows, uint64_t count, void *offsets, bool wide, uint8_t *blob,
  uint8_t *valid);
int tarn_column_text_compare(const void *a, uint64_t a_size, const void *b, uint64_t b_size);
void tarn_column_number_keys(uint64_t *keys, char kind, const void *numbers, const uint32_t *rows, uint64_t count);
void tarn_column_keys_numbers(void *numbers, char kind, const uint64_t *keys, uint64_t count);
void tarn_column_bit_keys(uint64_t *keys, const uint8_t *bits, uint64_t at, const uint32_t *rows, uint64_t count);
uint64_t tarn_column_text_keys(uint64_t *keys, const tarn_text_t *t, uint64_t skip, const uint32_t *rows, uint64_t count);
uint64_t tarn_column_text_skip(const tarn_text_t *t, const uint32_t *rows, uint64_t count);
uint64_t tarn_column_text_hashes(uint64_t *keys, const tarn_text_t *t);
uint64_t tarn_column_map_keys(uint64_t *keys, const uint32_t *map, uint64_t map_size, const uint8_t *valid, uint64_t valid_at,
  const uint32_t *rows, uint64_t count);
void tarn_column_sort(uint64_t *keys, uint32_t *rows, uint64_t *more_keys, uint32_t *more_rows, uint64_t count, bool down);
void tarn_column_sort_ties(const tarn_text_t *t, const uint64_t *keys, uint32_t *rows, uint32_t *more_rows, uint64_t count, bool down);
void tarn_column_missing_last(uint32_t *rows, uint32_t *more_rows, uint64_t count, const uint8_t *valid, uint64_t valid_at);
bool tarn_column_number_ascends(char kind, const void *numbers, uint32_t element_bytes, uint64_t n);
uint64_t tarn_column_number_search(char kind, const void *numbers, uint64_t from, uint64_t to, double value, bool above);
uint64_t tarn_column_text_search(const tarn_text_t *t, uint64_t from, uint64_t to, const void *bytes, uint64_t size, bool above);
uint64_t tarn_column_group(const tarn_group_t *g, uint32_t *codes, uint32_t *first, uint32_t *missing);
]] end

return block.C
