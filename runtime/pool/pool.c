/* The pool as a whole: making and ending it, its mutex, what is put off until the mutex is let go,
 * limits. A callback runs and memory is freed only in tarn__pool_unlock, by whichever thread lets
 * go. */
#include "pool/pool.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/sys.h"
#include "pool/pool-private.h"

static int init_sync(tarn_pool_t *pool) {
  pthread_condattr_t attr;
  if (pthread_condattr_init(&attr) != 0) { return TARN_ENOMEM; }
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  int rc = pthread_mutex_init(&pool->mutex, NULL);
  if (rc == 0 && (rc = pthread_cond_init(&pool->changed, &attr)) != 0) {
    pthread_mutex_destroy(&pool->mutex);
  }
  if (rc == 0 && (rc = pthread_cond_init(&pool->work, &attr)) != 0) {
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->mutex);
  }
  pthread_mutex_init(&pool->mappings.mutex, NULL); /* Linux' need no memory, and do not fail */
  if (rc == 0 && (rc = pthread_cond_init(&pool->look, &attr)) != 0) {
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->mutex);
  }
  pthread_condattr_destroy(&attr);
  return rc == 0 ? 0 : TARN_ENOMEM;
}

int tarn_pool_create(const tarn_pool_config_t *config, tarn_pool_t **out, tarn_error_t *err) {
  tarn_pool_t *pool = tarn_calloc(1, sizeof *pool);
  if (!pool) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a pool"); }
  pool->config = *config;
  pool->config.spill_dir = NULL; /* the spill file has its copy */
  if (config->patience_ns == 0) { pool->config.patience_ns = 1000000000; }
  pool->max_memsize = config->max_memsize;
  tarn__index_init(&pool->objects);
  tarn_map_init(&pool->loans);
  tarn_map_init(&pool->holders);
  tarn_map_init(&pool->borrows);
  tarn_map_init(&pool->watches);
  tarn_map_init(&pool->guards);
  for (int i = 0; i < TARN__SOURCES; i++) { tarn__chunks_init(&pool->chunks[i]); }
  tarn__slab_init(&pool->slab, sizeof(tarn__object_t), &pool->chunks[TARN__OF_OBJECTS],
                  &pool->slabs);
  tarn__slab_init(&pool->block_slab, sizeof(tarn__block_t), &pool->chunks[TARN__OF_BLOCKS],
                  &pool->slabs);
  for (uint32_t i = 0; i < TARN__RUN_CLASSES; i++) {
    tarn__slab_init(&pool->runs[i], (i + 1) * TARN__RUN_STEP, &pool->chunks[TARN__OF_RUNS],
                    &pool->slabs);
  }
  tarn__packs_init(pool);
  tarn_list_t *lists[] = {
      &pool->lru,   &pool->wanted,  &pool->parked,  &pool->limbo, &pool->blocks, &pool->later,
      &pool->queue, &pool->dropped, &pool->leavers, &pool->late,  &pool->left,   &pool->moves,
      &pool->gone,  &pool->notes,   &pool->deleted, &pool->looks, &pool->ways};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) { tarn_list_init(lists[i]); }
  int rc = init_sync(pool);
  if (rc != 0) {
    tarn_error_set(err, rc, "cannot make the pool's mutex");
    goto no_sync;
  }
  rc = tarn__spill_init(&pool->spill, config->spill_dir, config->max_disksize);
  if (rc != 0) {
    tarn_error_set(err, rc, "no memory for a pool");
    goto no_spill;
  }
  rc = tarn__memory_open(&pool->memory, TARN__RESERVE_BYTES, err);
  if (rc != 0) { goto no_memory; }
  *out = pool;
  return 0;

no_memory:
  tarn__spill_close(&pool->spill);
no_spill:
  pthread_cond_destroy(&pool->look);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->changed);
  pthread_mutex_destroy(&pool->mutex);
no_sync:
  tarn_free(pool);
  return rc;
}

static void delete_all_locked(tarn_pool_t *pool) {
  size_t cursor = 0;
  for (tarn__object_t *o; (o = tarn__index_next(&pool->objects, &cursor)) != NULL; cursor--) {
    tarn__object_drop_locked(pool, o);
  }
}

void tarn_pool_destroy(tarn_pool_t *pool) {
  if (!pool) { return; }
  tarn__look_stop(pool);
  tarn__spiller_stop(pool);
  tarn__pool_lock(pool);
  pool->config.on_drop_live = NULL;
  pool->config.on_room = NULL;
  pool->config.on_lend = NULL;
  tarn__lend_clear_locked(pool);
  pool->config.on_deleted = NULL;
  delete_all_locked(pool);
  tarn__pool_unlock(pool);
  tarn_pool_boundary(pool);
  tarn__pool_lock(pool);
  tarn__borrow_clear_locked(pool);
  tarn__pool_unlock(pool);
  if (!tarn_list_empty(&pool->blocks)) {
    tarn_log(TARN_LOG_WARN, "the pool ends while blocks of it are in use");
  }
  tarn__memory_close(&pool->memory);
  tarn__spill_close(&pool->spill);
  tarn__index_clear(&pool->objects);
  tarn__packs_clear(pool);
  for (int i = 0; i < TARN__SOURCES; i++) { tarn__chunks_clear(&pool->chunks[i]); }
  tarn_map_clear(&pool->watches);
  tarn_map_clear(&pool->guards);
  pthread_cond_destroy(&pool->look);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->changed);
  pthread_mutex_destroy(&pool->mutex);
  tarn_free(pool);
}

void tarn_pool_clear(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  delete_all_locked(pool);
  if (pool->objects.count == 0) { tarn__index_clear(&pool->objects); }
  tarn__budget_trim_locked(pool, UINT64_MAX);
  tarn__pool_unlock(pool);
}

void tarn__pool_lock(tarn_pool_t *pool) { pthread_mutex_lock(&pool->mutex); }

static void drop_live(tarn_pool_t *pool, const tarn_pool_config_t *call, tarn_list_t *dropped) {
  for (tarn_list_t *l = dropped->next; l != dropped && call->on_drop_live; l = l->next) {
    call->on_drop_live(call->user, TARN_CONTAINER(l, tarn__object_t, link)->tag);
  }
  pthread_mutex_lock(&pool->mutex);
  while (!tarn_list_empty(dropped)) {
    tarn__object_t *o = TARN_CONTAINER(dropped->next, tarn__object_t, link);
    tarn_list_remove(&o->link);
    tarn__slab_give(&pool->slab, o);
  }
  pthread_mutex_unlock(&pool->mutex);
}

void tarn__pool_unlock(tarn_pool_t *pool) {
  tarn_list_t dropped;
  tarn_list_init(&dropped);
  tarn_list_append(&dropped, &pool->dropped);
  tarn_list_t deleted;
  tarn_list_init(&deleted);
  tarn_list_append(&deleted, &pool->deleted);
  void *trash = pool->trash;
  bool fire = pool->fire_room;
  bool tell = pool->fire_lend;
  bool press = pool->fire_pressure;
  tarn_guard_t *unguarded = pool->unguarded;
  pool->trash = NULL;
  pool->unguarded = NULL;
  pool->fire_room = pool->fire_lend = pool->fire_pressure = false;
  tarn_pool_config_t call = pool->config;
  pthread_mutex_unlock(&pool->mutex);
  while (trash) {
    void *next = *(void **)trash;
    tarn_free(trash);
    trash = next;
  }
  if (!tarn_list_empty(&dropped)) { drop_live(pool, &call, &dropped); }
  while (!tarn_list_empty(&deleted)) {
    tarn__watch_t *w = TARN_CONTAINER(deleted.next, tarn__watch_t, link);
    tarn_list_remove(&w->link);
    if (call.on_deleted) { call.on_deleted(call.user, w->id); }
    tarn_free(w);
  }
  for (tarn_guard_t *g = unguarded, *next; g; g = next) {
    next = g->next;
    if (call.on_unguard) { call.on_unguard(call.user, g); }
  }
  if (press && call.on_pressure) { call.on_pressure(call.user); }
  if (fire && call.on_room) { call.on_room(call.user); }
  if (tell && call.on_lend) { call.on_lend(call.user); }
}

void tarn__pool_wait_until_locked(tarn_pool_t *pool, uint64_t ns) {
  if (pool->trash || pool->fire_room || pool->fire_lend || pool->unguarded ||
      !tarn_list_empty(&pool->dropped) || !tarn_list_empty(&pool->deleted)) {
    tarn__pool_unlock(pool); /* what is put off is done first; then look again */
    tarn__pool_lock(pool);
    return;
  }
  struct timespec until = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
  pool->waiters++;
  if (ns == UINT64_MAX) {
    pthread_cond_wait(&pool->changed, &pool->mutex);
  } else {
    (void)pthread_cond_timedwait(&pool->changed, &pool->mutex, &until);
  }
  pool->waiters--;
}

void tarn__pool_wait_locked(tarn_pool_t *pool) { tarn__pool_wait_until_locked(pool, UINT64_MAX); }

void tarn__pool_changed_locked(tarn_pool_t *pool) {
  if (pool->waiters > 0) { pthread_cond_broadcast(&pool->changed); }
  if (pool->memory.cached > 0 && pool->started && !tarn__room_for(pool, 0)) {
    pthread_cond_signal(&pool->work); /* it gives the surplus back */
  }
  if (pool->owed) {
    pool->owed = false;
    pool->fire_room = true;
  }
}

void tarn__pool_trash_locked(tarn_pool_t *pool, void *mem, uint64_t size_bytes) {
  if (size_bytes < sizeof pool->trash) { /* too small to be linked */
    tarn_free(mem);
    return;
  }
  *(void **)mem = pool->trash;
  pool->trash = mem;
}

void tarn_pool_set_limits(tarn_pool_t *pool, const uint64_t *max_memsize,
                          const uint64_t *max_disksize) {
  tarn__pool_lock(pool);
  if (max_disksize) { pool->spill.max = *max_disksize; }
  if (max_memsize) {
    pool->max_memsize = *max_memsize;
    if (!tarn__room_for(pool, 0)) {
      tarn__budget_trim_locked(pool, tarn__budget_used(pool) - pool->max_memsize);
      tarn__evict_plan_locked(pool, 0);
      if (!tarn_list_empty(&pool->wanted)) { pool->fire_room = true; } /* Lua is asked to encode */
      (void)tarn__spiller_start_locked(pool, NULL); /* it gives back what comes back later */
    }
  }
  tarn__pool_changed_locked(pool);
  tarn__pool_unlock(pool);
}
