/* The largest objects. The table of objects is walked in slices, and the mutex is let go of in between: an observer holds nobody up. Few
 * are asked for, so what has been found is kept in order. Any thread. */
#include <string.h>
#include "base/clock.h"
#include "pool/pool-private.h"

#define SLICE 4096u /* objects looked at with the mutex held */

static uint64_t size_of(const tarn__object_t *o) {
  return o->form == TARN__LIVE ? o->live_size : o->form == TARN__SMALL ? o->size : o->value->size;
}

static bool in_memory(const tarn__object_t *o) {
  if (o->form != TARN__VALUE) { return o->form == TARN__LIVE || o->mem != NULL; }
  for (uint32_t i = 0; i < o->value->count; i++) {
    const tarn__block_t *b = o->value->pieces[i];
    if (b->mem != NULL || (b->seg != NULL && !b->covered)) { return true; }
  }
  return false;
}

/* An object that is met twice, because the table has grown meanwhile, counts once. */
static bool is_in(const tarn_object_note_t *list, size_t n, uint64_t id) {
  for (size_t i = 0; i < n; i++) {
    if (list[i].id == id) { return true; }
  }
  return false;
}

/* Put it where it belongs among the n so far, the largest first; the smallest may drop out. */
static void consider(const tarn_pool_t *pool, const tarn__object_t *o, uint64_t now,
                     tarn_object_note_t *list, size_t *n, size_t max) {
  uint64_t size = size_of(o);
  if (*n == max && size <= list[max - 1].size_bytes) { return; }
  if (is_in(list, *n, o->id)) { return; }
  size_t i = *n < max ? (*n)++ : max - 1;
  for (; i > 0 && list[i - 1].size_bytes < size; i--) { list[i] = list[i - 1]; }
  list[i] = (tarn_object_note_t){.id = o->id,
                                 .size_bytes = size,
                                 .age_ns = tarn__age_of(&pool->ages, o->id, now),
                                 .live = o->form == TARN__LIVE,
                                 .in_memory = in_memory(o)};
  if (o->form == TARN__VALUE) {
    memcpy(list[i].contents, o->value->contents, sizeof(list[i].contents));
  }
}

size_t tarn_pool_largest(tarn_pool_t *pool, tarn_object_note_t *out, size_t max) {
  size_t n = 0, cursor = 0;
  uint64_t now = tarn_clock_ns();
  bool more = max > 0;
  while (more) {
    tarn__pool_lock(pool);
    for (uint32_t i = 0; more && i < SLICE; i++) {
      const tarn__object_t *o = tarn__index_next(&pool->objects, &cursor);
      more = o != NULL;
      if (more && !o->visitor && !o->dead) { consider(pool, o, now, out, &n, max); }
    }
    tarn__pool_unlock(pool);
  }
  return n;
}
