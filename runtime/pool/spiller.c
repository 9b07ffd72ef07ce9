/* The spill thread: writes what is queued (batch.c), does what lending wants done, moves what lives out of mostly dead packs (pack.c), and
 * punches extents that were given back: when it is idle, or when there are too many of them. */
#include <errno.h>
#include <malloc.h>
#include <time.h>
#include "base/sys.h"
#include "pool/pool-private.h"

/* Bytes of the file that are free and not punched, while there is work. */
#define WARM_MAX ((uint64_t)32 << 20)
enum { TRIM_BYTES = 8 << 20, IDLE_MS = 200 };

/* ---- extents ---- */

static void punch_warm_locked(tarn_pool_t *pool) {
  uint64_t offset, size;
  while (tarn__spill_next_warm(&pool->spill, &offset, &size)) {
    tarn__pool_unlock(pool);
    bool done = true;
    for (uint64_t at = 0; at < size && done; at += TARN__SLICE) {
      done = tarn__spill_punch(&pool->spill, offset + at,
                               size - at < TARN__SLICE ? size - at : TARN__SLICE);
    }
    tarn__pool_lock(pool);
    tarn__spill_punched(&pool->spill, offset, size);
  }
}

int tarn__extent_take_locked(tarn_pool_t *pool, uint64_t size, bool in_place, uint64_t *offset,
                             tarn_error_t *err) {
  tarn__spill_t *spill = &pool->spill;
  for (int attempt = 0;; attempt++) {
    uint64_t in_file = spill->used + spill->warm.bytes;
    if (in_file > spill->max || size > spill->max - in_file) { punch_warm_locked(pool); }
    bool reserved;
    int rc = tarn__spill_take(spill, size, in_place, offset, &reserved, err);
    if (rc != 0 || reserved) { return rc; }
    tarn__pool_unlock(pool);
    rc = tarn__spill_reserve(spill, *offset, size, in_place, err);
    if (rc != 0) {
      (void)tarn__spill_punch(spill, *offset, size);
    } /* part of it may have got space */
    tarn__pool_lock(pool);
    if (rc == 0) { return 0; }
    spill->used -= size;
    tarn__spill_punched(spill, *offset, size);
    if (rc != TARN_EDISKFULL || attempt > 0 || spill->warm.bytes == 0) { return rc; }
    punch_warm_locked(pool);
  }
}

void tarn__extent_give_locked(tarn_pool_t *pool, uint64_t offset, uint64_t size) {
  tarn__spill_give(&pool->spill, offset, size);
  if (pool->spill.warm.bytes == size) {
    pthread_cond_signal(&pool->work);
  } /* from now on it looks for idle moments */
}

/* ---- the thread ---- */

/* The C library keeps what was freed between what is not: when much has gone out, hand whole pages
 * back to the system. */
static void trim_heap_locked(tarn_pool_t *pool) {
  if (pool->heap > pool->heap_high) { pool->heap_high = pool->heap; }
  if (pool->heap + TRIM_BYTES > pool->heap_high / 4 * 3) { return; }
  pool->heap_high = pool->heap;
  tarn__pool_unlock(pool);
  (void)malloc_trim(0);
  tarn__pool_lock(pool);
}

static bool idle_locked(tarn_pool_t *pool) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += IDLE_MS * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_nsec -= 1000000000L;
    until.tv_sec++;
  }
  return pthread_cond_timedwait(&pool->work, &pool->mutex, &until) == ETIMEDOUT;
}

/* What lending wants done. True: look again. */
static bool lending_locked(tarn_pool_t *pool) {
  if (!tarn__lent_settle_locked(pool) && !tarn__borrowed_work_locked(pool) &&
      !tarn__lent_late_locked(pool)) {
    return false;
  }
  tarn__pool_unlock(pool);
  tarn__pool_lock(pool);
  return true;
}

/* What is queued, and what keeps the file small. False: there is nothing to do. */
static bool work_locked(tarn_pool_t *pool) {
  if (pool->heap > pool->heap_high) { pool->heap_high = pool->heap; }
  bool batch = !tarn_list_empty(&pool->queue);
  if (batch) { tarn__batch_run_locked(pool); }
  bool tidied = tarn__packs_tidy_locked(pool);
  bool many_warm = pool->spill.warm.bytes > WARM_MAX;
  if (many_warm) { punch_warm_locked(pool); }
  if (!batch && !tidied && !many_warm) { return false; } /* the mutex has been held throughout */
  tarn__pool_unlock(pool);                               /* callbacks, and others' turn */
  tarn__pool_lock(pool);
  trim_heap_locked(pool);
  return true;
}

/* The budget was lowered, and what has come back since is more than it allows to be kept. True: something was punched. */
static bool trim_surplus_locked(tarn_pool_t *pool) {
  uint64_t cached = pool->memory.cached;
  if (cached == 0 || tarn__room_for(pool, 0)) { return false; }
  tarn__budget_trim_locked(pool, tarn__budget_used(pool) - pool->max_memsize);
  return pool->memory.cached < cached;
}

static void *spiller_main(void *arg) {
  tarn_pool_t *pool = arg;
  tarn__pool_lock(pool);
  while (!pool->stopping) {
    pool->working = true;
    bool worked = lending_locked(pool) || work_locked(pool);
    pool->working = false;
    if (worked) { continue; }
    if (trim_surplus_locked(pool)) { continue; }
    if (pool->spill.warm.bytes == 0 && tarn_list_empty(&pool->leavers)) {
      pthread_cond_wait(&pool->work, &pool->mutex);
    } else if (idle_locked(pool) && tarn_list_empty(&pool->queue) && !pool->stopping) {
      punch_warm_locked(pool);
    }
  }
  tarn__pool_unlock(pool);
  return NULL;
}

int tarn__spiller_start_locked(tarn_pool_t *pool, tarn_error_t *err) {
  if (pool->started) { return 0; }
  int rc = tarn_sys_thread(&pool->thread, spiller_main, pool);
  if (rc != 0) { return tarn_error_errno(err, rc, "cannot start the spill thread"); }
  pool->started = true;
  return 0;
}

void tarn__spiller_stop(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  pool->stopping = true;
  pthread_cond_signal(&pool->work);
  tarn__pool_unlock(pool);
  if (pool->started) { pthread_join(pool->thread, NULL); }
  tarn__hand_stop(pool);
  tarn__pool_lock(pool);
  while (!tarn_list_empty(&pool->queue)) {
    tarn__object_t *o = TARN_CONTAINER(pool->queue.next, tarn__object_t, link);
    tarn_list_remove(&o->link);
    tarn__batch_finish_locked(pool, o, false);
  }
  tarn__pool_unlock(pool);
}
