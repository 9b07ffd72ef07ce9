/* The budget: what counts, and how a call that needs room gets it. In this order: what is free;
 * cached segments (punched); evictions (queued by the call itself, so that it knows at once whether
 * they will do); then an answer: wait, come back later, Lua must encode, or the pool is full. A
 * call waits only while bytes are known to be coming, or, since a message's may have no other holder, as long as messages leave; and every
 * event that brings bytes or ends an eviction wakes all who wait: nobody waits for what cannot happen. The mutex is held throughout.
 */
#include "pool/pool-private.h"

#include <inttypes.h>
#include "base/alloc.h"
#include "base/clock.h"

enum { TRIM_MIN = 256 << 10 };
#define FAILURE_FRESH_NS ((uint64_t)1000000000)

uint64_t tarn__budget_used(const tarn_pool_t *pool) {
  return pool->live + pool->heap + pool->records + pool->objects.bytes +
         (pool->slabs.chunks - pool->slabs.records) + pool->segments + pool->memory.cached +
         pool->punching + pool->reserved;
}

bool tarn__room_for(const tarn_pool_t *pool, uint64_t need) {
  uint64_t used = tarn__budget_used(pool);
  return need <= pool->max_memsize && used <= pool->max_memsize - need;
}

static uint64_t available_locked(const tarn_pool_t *pool) {
  uint64_t used = tarn__budget_used(pool) - pool->memory.cached;
  return used < pool->max_memsize ? pool->max_memsize - used : 0;
}

static int refuse(tarn_pool_t *pool, uint64_t need, tarn_error_t *err) {
  uint64_t available = available_locked(pool);
  int rc = tarn_error_set(err, TARN_EPOOLFULL,
                          "the pool is full: %" PRIu64 " bytes needed, %" PRIu64
                          " available of max_memsize %" PRIu64
                          "; what is in use cannot be evicted (-m, memory of addprocs, or "
                          "tarn.max_memsize() raise it)",
                          need, available, pool->max_memsize);
  (void)tarn_error_bytes(err, need, available);
  return rc;
}

static int report_failure(tarn_pool_t *pool, tarn_error_t *err) {
  if (err) { *err = pool->failure; }
  return pool->failure.code;
}

/* What may be had later. The figures are those of who gives up. */
static int come_back(tarn_pool_t *pool, int code, uint64_t need, tarn_error_t *err) {
  pool->owed = true;
  tarn_error_set(err, code, "%s", tarn_error_text(code));
  (void)tarn_error_bytes(err, need, available_locked(pool));
  return code;
}

void tarn__budget_trim_locked(tarn_pool_t *pool, uint64_t bytes) {
  uint64_t done = 0;
  while (done < bytes && pool->memory.cached > 0) {
    tarn__segment_t *s = tarn__memory_largest(&pool->memory);
    uint64_t left = bytes - done < s->warm ? tarn__page_round(bytes - done) : s->warm;
    uint64_t part = left < TARN__SLICE ? left : TARN__SLICE;
    pool->punching += s->warm;
    tarn__pool_unlock(pool);
    bool ok = tarn__memory_punch(&pool->memory, s->offset + s->warm - part, part);
    tarn__pool_lock(pool);
    pool->punching -= s->warm;
    if (ok) {
      s->warm -= part;
      done += part;
    }
    tarn__memory_recycle(&pool->memory, s);
    tarn__pool_changed_locked(pool);
    if (!ok) { return; }
  }
}

int tarn__room_step_locked(tarn_pool_t *pool, uint64_t need, uint32_t flags, tarn__room_t *room,
                           tarn_error_t *err) {
  if (!room->begun) {
    room->begun = true;
    room->failures = pool->failures;
    room->messages = pool->messages;
  }
  if (need > pool->max_memsize) { return refuse(pool, need, err); }
  uint64_t shortage = tarn__budget_used(pool) + need - pool->max_memsize;
  uint64_t cached = pool->memory.cached;
  if (cached > 0) {
    tarn__budget_trim_locked(pool, shortage > TRIM_MIN ? shortage : TRIM_MIN);
    if (pool->memory.cached < cached || tarn__room_for(pool, need)) { return 0; }
  }
  if (room->failures != pool->failures) { return report_failure(pool, err); }
  if (pool->failure_owed && (flags & TARN_BLOCK_WAIT) == 0) {
    pool->failure_owed = false;
    if (tarn_clock_ns() - pool->failure_ns < FAILURE_FRESH_NS) { return report_failure(pool, err); }
  }
  tarn__evict_plan_locked(pool, need);
  if (tarn__room_for(pool, need) || pool->memory.cached > cached) {
    return 0;
  } /* some of it was freed at once */
  if (room->failures != pool->failures) { return report_failure(pool, err); }
  shortage = tarn__budget_used(pool) + need - pool->max_memsize;
  uint64_t coming = pool->pending + pool->leaving + pool->punching;
  if (coming < shortage && !tarn_list_empty(&pool->wanted)) {
    if (pool->lua_need < need) { pool->lua_need = need; }
    pool->lua_owed = true;
    return come_back(pool, TARN_ENEEDLUA, need, err);
  }
  bool patient = (flags & (TARN_BLOCK_WAIT | TARN_BLOCK_SOON)) == TARN_BLOCK_WAIT;
  uint64_t until = coming == 0 && patient ? tarn__sends_until_locked(pool, room) : 0;
  if (until != 0) {
    tarn__pool_wait_until_locked(pool, until);
    return 0;
  }
  if (coming == 0) { return refuse(pool, need, err); }
  if ((flags & TARN_BLOCK_WAIT) == 0) { return come_back(pool, TARN_EAGAIN, need, err); }
  pool->demand += need;
  tarn__pool_wait_locked(pool);
  pool->demand -= need;
  return 0;
}

int tarn__room_reserve_locked(tarn_pool_t *pool, uint64_t need, uint32_t flags, tarn_error_t *err) {
  tarn__room_t room = {0};
  while (!tarn__room_for(pool, need)) {
    int rc = tarn__room_step_locked(pool, need, flags, &room, err);
    if (rc != 0) { return rc; }
  }
  pool->reserved += need;
  return 0;
}
