/* Hash map from u64 to pointer: linear probing in a power of two of slots, at most three quarters
 * full. Removal shifts later slots back instead of leaving tombstones, so a map that lives long
 * does not decay. Threads: the caller's lock. */
#include "base/map.h"

#include "base/alloc.h"
#include "base/err.h"

enum { CAPACITY_MIN = 16 };

/* murmur3's finalizer, but for the last two bits: ids are sequential or carry a few high bits, neither
 * of which a mask alone spreads; and those that were made one after the other, and so are often used
 * together, share a line of the cache. */
static size_t home_of(uint64_t key, size_t mask) {
  uint64_t h = key >> 2;
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdu;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53u;
  h ^= h >> 33;
  return (size_t)(h << 2 | (key & 3)) & mask;
}

/* The slot that holds the key, or the empty one where it would go. There is always an empty
 * slot. */
static tarn_map_slot_t *find(tarn_map_slot_t *slots, size_t mask, uint64_t key) {
  size_t i = home_of(key, mask);
  while (slots[i].value && slots[i].key != key) { i = (i + 1) & mask; }
  return &slots[i];
}

static int grow(tarn_map_t *m) {
  size_t capacity = m->capacity ? m->capacity * 2 : CAPACITY_MIN;
  if (capacity < m->capacity) { return TARN_ENOMEM; }
  tarn_map_slot_t *slots = tarn_calloc(capacity, sizeof *slots);
  if (!slots) { return TARN_ENOMEM; }
  for (size_t i = 0; i < m->capacity; i++) {
    if (m->slots[i].value) { *find(slots, capacity - 1, m->slots[i].key) = m->slots[i]; }
  }
  tarn_free(m->slots);
  m->slots = slots;
  m->capacity = capacity;
  return 0;
}

void tarn_map_init(tarn_map_t *m) { *m = (tarn_map_t){0}; }

void tarn_map_clear(tarn_map_t *m) {
  tarn_free(m->slots);
  tarn_map_init(m);
}

void *tarn_map_get(const tarn_map_t *m, uint64_t key) {
  return m->count ? find(m->slots, m->capacity - 1, key)->value : NULL;
}

int tarn_map_set(tarn_map_t *m, uint64_t key, void *value) {
  if (!value) { return TARN_EINVAL; }
  tarn_map_slot_t *slot = m->capacity ? find(m->slots, m->capacity - 1, key) : NULL;
  if (!slot || (!slot->value && m->count >= m->capacity / 4 * 3)) {
    int rc = grow(m);
    if (rc) { return rc; }
    slot = find(m->slots, m->capacity - 1, key);
  }
  m->count += slot->value == NULL;
  *slot = (tarn_map_slot_t){key, value};
  return 0;
}

void *tarn_map_remove(tarn_map_t *m, uint64_t key) {
  if (!m->count) { return NULL; }
  size_t mask = m->capacity - 1;
  tarn_map_slot_t *slot = find(m->slots, mask, key);
  void *value = slot->value;
  if (!value) { return NULL; }
  size_t hole = (size_t)(slot - m->slots);
  for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
    /* Move i into the hole unless its home lies behind the hole on the way to i. */
    size_t home = home_of(m->slots[i].key, mask);
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      m->slots[hole] = m->slots[i];
      hole = i;
    }
  }
  m->slots[hole] = (tarn_map_slot_t){0};
  m->count--;
  return value;
}

void *tarn_map_next(const tarn_map_t *m, size_t *cursor, uint64_t *key) {
  while (*cursor < m->capacity) {
    const tarn_map_slot_t *slot = &m->slots[(*cursor)++];
    if (slot->value) {
      if (key) { *key = slot->key; }
      return slot->value;
    }
  }
  return NULL;
}
