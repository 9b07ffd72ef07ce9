/* Addresses with a number each. The general set: open addressing, linear probing, no removal. Clearing counts up a generation, so that a
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

/* ---- tables ---- */

enum { KEPT_PAGES = 1 << 13 };

static bool add_page(tarn__tables_t *t, uint32_t *page) {
  if (t->count == t->capacity) {
    uint32_t more = t->capacity ? t->capacity * 2 : 16;
    tarn__page_t *pages = more > t->capacity ? tarn_realloc(t->pages, more * sizeof *pages) : NULL;
    if (!pages) { return false; }
    t->pages = pages;
    t->capacity = more;
  }
  memset(t->pages[t->count], 0, sizeof t->pages[0]);
  *page = t->count++;
  return true;
}

static bool find_page(tarn__tables_t *t, uintptr_t number) {
  bool is_new;
  uint32_t page;
  if (!tarn__seen_put(&t->index, (const void *)(number << TARN__PAGE_SHIFT), t->count, &page,
                      &is_new)) {
    return false;
  }
  if (is_new && !add_page(t, &page)) { return false; }
  t->last = number;
  t->last_page = page;
  return true;
}

bool tarn__tables_put(tarn__tables_t *t, const void *table, uint32_t fresh, uint32_t *number,
                      bool *again) {
  uintptr_t address = (uintptr_t)table;
  if (t->last != address >> TARN__PAGE_SHIFT && !find_page(t, address >> TARN__PAGE_SHIFT)) {
    return false;
  }
  uint32_t *slot = &t->pages[t->last_page][address >> TARN__GRAIN_SHIFT & (TARN__PAGE_GRAINS - 1)];
  *again = *slot != 0;
  if (!*again) { *slot = fresh + 1; }
  *number = *slot - 1;
  return true;
}

void tarn__tables_clear(tarn__tables_t *t) {
  if (t->capacity > KEPT_PAGES) {
    tarn__tables_release(t);
    return;
  }
  tarn__seen_clear(&t->index);
  t->count = 0;
  t->last = 0;
}

void tarn__tables_release(tarn__tables_t *t) {
  tarn__seen_release(&t->index);
  tarn_free(t->pages);
  *t = (tarn__tables_t){0};
}
