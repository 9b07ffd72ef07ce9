/* A set of addresses with a number each: open addressing, linear probing, no removal. Clearing counts up a generation, so that a
 * small message after a large one does not pay for the large one's slots. */
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"

enum { FIRST_CAPACITY = 64, KEPT_CAPACITY = 1 << 16 };

static inline uint32_t slot_of(const tarn__seen_t *s, const void *key) {
  return (uint32_t)(((uint64_t)(uintptr_t)key >> 3) * 0x9E3779B97F4A7C15u >> 32) &
         (s->capacity - 1);
}

static tarn__seen_slot_t *find(const tarn__seen_t *s, const void *key) {
  uint32_t i = slot_of(s, key);
  while (s->slots[i].generation == s->generation && s->slots[i].key != key) {
    i = (i + 1) & (s->capacity - 1);
  }
  return &s->slots[i];
}

static bool grow(tarn__seen_t *s) {
  tarn__seen_t bigger = {.capacity = s->capacity ? s->capacity * 2 : FIRST_CAPACITY,
                         .generation = 1};
  if (bigger.capacity == 0) { return false; }
  bigger.slots = tarn_calloc(bigger.capacity, sizeof *bigger.slots);
  if (!bigger.slots) { return false; }
  for (uint32_t i = 0; i < s->capacity; i++) {
    if (s->slots[i].generation != s->generation) { continue; }
    tarn__seen_slot_t *to = find(&bigger, s->slots[i].key);
    *to = s->slots[i];
    to->generation = bigger.generation;
  }
  bigger.count = s->count;
  tarn_free(s->slots);
  *s = bigger;
  return true;
}

bool tarn__seen_put(tarn__seen_t *s, const void *key, uint32_t value, uint32_t *kept,
                    bool *is_new) {
  if (s->count >= s->capacity / 2 && !grow(s)) { return false; }
  tarn__seen_slot_t *slot = find(s, key);
  *is_new = slot->generation != s->generation;
  if (*is_new) {
    *slot = (tarn__seen_slot_t){key, value, s->generation};
    s->count++;
  }
  *kept = slot->value;
  return true;
}

void tarn__seen_clear(tarn__seen_t *s) {
  if (s->capacity > KEPT_CAPACITY) {
    tarn__seen_release(s);
    return;
  }
  s->count = 0;
  if (++s->generation == 0 && s->slots) {
    memset(s->slots, 0, s->capacity * sizeof *s->slots);
    s->generation = 1;
  }
}

void tarn__seen_release(tarn__seen_t *s) {
  tarn_free(s->slots);
  *s = (tarn__seen_t){0};
}
