/* Choosing what to evict. Done by whoever needs room, under the mutex, so that it knows at once
 * what will come back; the spill thread only carries it out. Under pressure a little more than
 * needed is taken, so that the disk works while the caller fills what it got, and small objects go
 * out many to a write. */
#include "pool/pool-private.h"

#define AHEAD_MAX ((uint64_t)16 << 20)

/* Pieces that are on disk already and not mapped: their memory goes at once. */
static void free_clean(tarn__object_t *o) {
  for (uint32_t i = 0; i < o->value->count; i++) {
    tarn__block_t *b = o->value->pieces[i];
    if (b->on_disk && b->mem && b->maps == 0 && !b->busy) { tarn__block_free_mem_locked(b); }
  }
}

static uint64_t value_gain(const tarn__object_t *o) {
  uint64_t gain = 0;
  for (uint32_t i = 0; i < o->value->count; i++) {
    if (!o->value->pieces[i]->planned) { gain += tarn__block_gain(o->value->pieces[i]); }
  }
  return gain;
}

/* What writing o out will bring; its pieces are not counted again for another. */
static uint64_t plan_gain(tarn__object_t *o) {
  if (o->form == TARN__SMALL) { return tarn__small_charge(o->size); }
  uint64_t gain = value_gain(o);
  for (uint32_t i = 0; i < o->value->count; i++) { o->value->pieces[i]->planned = true; }
  o->value->gain += gain;
  return gain;
}

int tarn__evict_start_locked(tarn_pool_t *pool, tarn__object_t *o, tarn_error_t *err) {
  int rc = tarn__spiller_start_locked(pool, err);
  if (rc != 0) { return rc; }
  tarn__lru_remove(pool, o);
  o->evicting = true;
  o->touched = false;
  pool->pending += plan_gain(o);
  tarn_list_push_back(&pool->queue, &o->link);
  pthread_cond_signal(&pool->work);
  return 0;
}

static void take_small(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__lru_remove(pool, o);
  if (o->mem) {
    tarn__small_free_mem_locked(pool, o);
    pool->evictions++;
  }
}

/* Who waits for room is told why there will be none. */
static bool start(tarn_pool_t *pool, tarn__object_t *o) {
  tarn_error_t err = {0};
  if (tarn__evict_start_locked(pool, o, &err) == 0) { return true; }
  tarn__failure_note_locked(pool, &err);
  return false;
}

/* One victim, out of the list. False: evicting cannot go on. */
static bool take_victim(tarn_pool_t *pool, tarn__object_t *o) {
  if (o->destroy) {
    pool->evictions++;
    tarn__object_delete_locked(pool, o);
    return true;
  }
  if (o->form == TARN__LIVE) {
    tarn__lru_want(pool, o);
    return true;
  }
  tarn__small_freeze_locked(pool, o);
  if (o->form == TARN__SMALL && (o->pack != 0 || !o->mem)) {
    take_small(pool, o); /* nothing to write */
    return true;
  }
  if (o->form == TARN__SMALL) { return start(pool, o); }
  uint64_t heap = pool->heap;
  free_clean(o);
  if (value_gain(o) > 0) { return start(pool, o); }
  tarn__lru_park(pool, o);
  if (pool->heap < heap) { pool->evictions++; }
  return true;
}

void tarn__evict_plan_locked(tarn_pool_t *pool, uint64_t need) {
  uint64_t ahead = pool->max_memsize / 8 < AHEAD_MAX ? pool->max_memsize / 8 : AHEAD_MAX;
  tarn__object_t *o;
  while ((o = tarn__lru_first(pool)) != NULL) {
    uint64_t wanted = tarn__budget_used(pool) + need + pool->demand;
    uint64_t shortage = wanted > pool->max_memsize ? wanted - pool->max_memsize : 0;
    uint64_t coming =
        pool->pending + pool->leaving + pool->punching + pool->memory.cached + pool->wanted_bytes;
    if (shortage == 0 || coming >= shortage + ahead) { return; }
    pool->fire_pressure = true;
    bool only_ahead = coming >= shortage;
    if (only_ahead && (o->form == TARN__LIVE || o->destroy)) { return; }
    if (!take_victim(pool, o)) { return; }
  }
}
