/* Objects by id: linear probing in a power of two of slots a shard, at most seven eighths full, and at least an eighth
 * or it shrinks; removal shifts later slots back.
 * The low bits of the hash choose the shard, higher ones the slot. */
#include "pool/index-private.h"

#include "base/alloc.h"
#include "pool/pool-private.h"

enum { CAPACITY_MIN = 16, SHARD_BITS = 8, RUN_BITS = 2, TAG_BITS = 16 };
#define TAG_SHIFT (64 - TAG_BITS)
#define CURSOR_SLOT_BITS 40 /* of a cursor: the slot, below the shard */

/* Ids are sequential: a multiplication by the golden ratio spreads them over shards and slots alike, in runs: objects that were
 * made one after the other, and so are often used together, have slots in the same line of the cache. */
static uint64_t mix(uint64_t id) {
  uint64_t run = (id >> RUN_BITS) * UINT64_C(0x9e3779b97f4a7c15);
  return run ^ run >> 32;
}

/* The slot where an id would like to be, in a table without an end. */
static uint64_t place_of(uint64_t id) {
  return mix(id) >> SHARD_BITS << RUN_BITS | (id & ((1 << RUN_BITS) - 1));
}

static struct tarn__index_shard *shard_of(tarn__index_t *x, uint64_t id) {
  return &x->shards[mix(id) & (TARN__INDEX_SHARDS - 1)];
}

static tarn__object_t *object_at(uint64_t slot) {
  return (tarn__object_t *)(uintptr_t)(slot & (((uint64_t)1 << TAG_SHIFT) - 1));
}

/* The object, and above it the last bits of its place: whoever passes by need not look at the object. */
static uint64_t slot_for(tarn__object_t *o) { return (uintptr_t)o | place_of(o->id) << TAG_SHIFT; }

static uint32_t home_of(uint64_t slot, uint32_t mask) {
  uint64_t place = mask >> TAG_BITS == 0 ? slot >> TAG_SHIFT : place_of(object_at(slot)->id);
  return (uint32_t)place & mask;
}

/* The slot that holds the id, or the empty one where it would go. */
static uint32_t find(const uint64_t *slots, uint32_t mask, uint64_t id) {
  uint64_t place = place_of(id), tag = place << TAG_SHIFT;
  uint32_t i = (uint32_t)place & mask;
  while (slots[i]) {
    bool maybe = (slots[i] ^ tag) >> TAG_SHIFT == 0;
    if (maybe && object_at(slots[i])->id == id) { break; }
    i = (i + 1) & mask;
  }
  return i;
}

static int resize(tarn__index_t *x, struct tarn__index_shard *s, uint32_t capacity) {
  uint64_t *slots = tarn_calloc(capacity, sizeof *slots);
  if (!slots) { return TARN_ENOMEM; }
  for (uint32_t i = 0; i < s->capacity; i++) {
    if (!s->slots[i]) { continue; }
    uint32_t to = home_of(s->slots[i], capacity - 1);
    while (slots[to]) { to = (to + 1) & (capacity - 1); }
    slots[to] = s->slots[i];
  }
  x->bytes = x->bytes + capacity * sizeof *slots - s->capacity * sizeof *slots;
  tarn_free(s->slots);
  s->slots = slots;
  s->capacity = capacity;
  return 0;
}

void tarn__index_init(tarn__index_t *x) { *x = (tarn__index_t){0}; }

void tarn__index_clear(tarn__index_t *x) {
  for (uint32_t i = 0; i < TARN__INDEX_SHARDS; i++) { tarn_free(x->shards[i].slots); }
  tarn__index_init(x);
}

tarn__object_t *tarn__index_get(const tarn__index_t *x, uint64_t id) {
  const struct tarn__index_shard *s = &x->shards[mix(id) & (TARN__INDEX_SHARDS - 1)];
  return s->count ? object_at(s->slots[find(s->slots, s->capacity - 1, id)]) : NULL;
}

void tarn__index_prefetch(const tarn__index_t *x, uint64_t id, bool object) {
  const struct tarn__index_shard *s = &x->shards[mix(id) & (TARN__INDEX_SHARDS - 1)];
  if (s->capacity == 0) { return; }
  const uint64_t *slot = &s->slots[(uint32_t)place_of(id) & (s->capacity - 1)];
  __builtin_prefetch(object ? (const void *)object_at(*slot) : slot);
}

int tarn__index_add(tarn__index_t *x, tarn__object_t *o) {
  struct tarn__index_shard *s = shard_of(x, o->id);
  if (s->count >= s->capacity / 8 * 7) {
    int rc = resize(x, s, s->capacity ? s->capacity * 2 : CAPACITY_MIN);
    if (rc != 0) { return rc; }
  }
  s->slots[find(s->slots, s->capacity - 1, o->id)] = slot_for(o);
  s->count++;
  x->count++;
  return 0;
}

void tarn__index_remove(tarn__index_t *x, const tarn__object_t *o) {
  struct tarn__index_shard *s = shard_of(x, o->id);
  uint32_t mask = s->capacity - 1;
  uint32_t hole = find(s->slots, mask, o->id);
  for (uint32_t i = (hole + 1) & mask; s->slots[i]; i = (i + 1) & mask) {
    /* Move i into the hole unless its home lies behind the hole on the way to i. */
    if (((i - home_of(s->slots[i], mask)) & mask) >= ((i - hole) & mask)) {
      s->slots[hole] = s->slots[i];
      hole = i;
    }
  }
  s->slots[hole] = 0;
  s->count--;
  x->count--;
}

void tarn__index_shrink(tarn__index_t *x, uint64_t id) {
  struct tarn__index_shard *s = shard_of(x, id);
  if (s->capacity > CAPACITY_MIN && s->count < s->capacity / 8) {
    (void)resize(x, s, s->capacity / 4); /* else it stays as long as it is */
  }
}

tarn__object_t *tarn__index_next(const tarn__index_t *x, size_t *cursor) {
  size_t shard = *cursor >> CURSOR_SLOT_BITS;
  size_t slot = *cursor & (((size_t)1 << CURSOR_SLOT_BITS) - 1);
  for (; shard < TARN__INDEX_SHARDS; shard++, slot = 0) {
    for (; slot < x->shards[shard].capacity; slot++) {
      if (x->shards[shard].slots[slot]) {
        *cursor = shard << CURSOR_SLOT_BITS | (slot + 1);
        return object_at(x->shards[shard].slots[slot]);
      }
    }
  }
  *cursor = (size_t)TARN__INDEX_SHARDS << CURSOR_SLOT_BITS;
  return NULL;
}
