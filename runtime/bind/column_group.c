/* Grouping rows: open addressing over the rows' keys. The table begins small and doubles within the slots that it was given, so that few groups
 * stay in the cache however many rows there are. A slot holds a group's number, 0 where it is free. */
#include <string.h>

#include "bind/column-private.h"

enum { FIRST_SLOTS = 1024 };

static bool is_missing(const tarn_group_t *g, uint64_t row) {
  return g->valid && !tarn__bit(g->valid, g->valid_at + row);
}

static uint64_t hash_of(const tarn_group_t *g, uint64_t row) {
  uint64_t h = is_missing(g, row) ? 0x9E3779B97F4A7C15u : g->keys[row];
  if (g->outer) { h ^= (uint64_t)g->outer[row] * 0xD6E8FEB86659FD93u; }
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93u;
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93u;
  return h ^ h >> 32;
}

static bool same_text(const tarn_text_t *t, uint64_t a, uint64_t b) {
  tarn__bytes_t x, y;
  return tarn__text(t, a, &x) && tarn__text(t, b, &y) && x.size == y.size &&
         memcmp(x.at, y.at, (size_t)x.size) == 0;
}

static bool same(const tarn_group_t *g, uint64_t a, uint64_t b) {
  if (g->outer && g->outer[a] != g->outer[b]) { return false; }
  bool missing = is_missing(g, a);
  if (missing || is_missing(g, b)) { return missing && is_missing(g, b); }
  return g->keys[a] == g->keys[b] && (!g->text || same_text(g->text, a, b));
}

static void rehash(const tarn_group_t *g, const uint32_t *first, uint64_t count,
                   uint64_t capacity) {
  memset(g->slots, 0, (size_t)capacity * sizeof *g->slots);
  for (uint64_t group = 1; group <= count; group++) {
    uint64_t at = hash_of(g, (uint64_t)first[group - 1] - 1) & (capacity - 1);
    while (g->slots[at]) { at = (at + 1) & (capacity - 1); }
    g->slots[at] = (uint32_t)group;
  }
}

uint64_t tarn_column_group(const tarn_group_t *g, uint32_t *codes, uint32_t *first,
                           uint32_t *missing) {
  uint64_t capacity = g->capacity < FIRST_SLOTS ? g->capacity : FIRST_SLOTS;
  uint64_t count = 0;
  *missing = 0;
  rehash(g, first, 0, capacity);
  for (uint64_t row = 0; row < g->n; row++) {
    uint64_t at = hash_of(g, row) & (capacity - 1);
    while (g->slots[at] && !same(g, (uint64_t)first[g->slots[at] - 1] - 1, row)) {
      at = (at + 1) & (capacity - 1);
    }
    if (!g->slots[at]) {
      first[count++] = (uint32_t)row + 1;
      g->slots[at] = (uint32_t)count;
      if (is_missing(g, row)) { *missing = (uint32_t)count; }
    }
    codes[row] = g->slots[at];
    if (count * 2 > capacity && capacity < g->capacity) {
      capacity *= 2;
      rehash(g, first, count, capacity);
    }
  }
  return count;
}
