/* Blocks for Lua: allocate, and make room where there is none. LuaJIT's collector cannot see the bytes behind a view, so every
 * allocation feeds it, and PoolFull is said only after a full collection has given back what dead views held. Lua thread. */
#include <lauxlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "bind/bind.h"

/* Of a collection that is owed, before one looks whether something has come; and before one looks at the clock, a step of the collector. */
#define SLICE_NS UINT64_C(100000)
#define SLICE_KIB 1.0

/* The work of a whole collection for every as many bytes allocated as the pool holds and the heap twice: so the collector's cost follows
 * the allocations, and dead views hold about as much as live ones do. (A collection costs more per byte than touching fresh
 * memory does, hence the heap twice. LuaJIT does two units of work for one that is asked for.) */
static double charge_kib(lua_State *L, uint64_t size, double heap_kib) {
  if (size < TARN_POOL_MAP_MIN) { return 0; }
  tarn_pool_stats_t stats;
  tarn_pool_get_stats(tarn_bind_of(L)->pool, &stats);
  double per_cycle_kib = 2 * heap_kib + (double)(stats.resident_bytes >> 10) + 1;
  double kib = heap_kib * ((double)size / 1024 / per_cycle_kib) / 2;
  return kib < heap_kib ? kib : heap_kib;
}

static bool collect_some(lua_State *L, double kib) {
  return kib >= 1 && lua_gc(L, LUA_GCSTEP, (int)kib) != 0;
}

void tarn_bind_feed(lua_State *L, uint64_t size) {
  (void)collect_some(L, charge_kib(L, size, (double)lua_gc(L, LUA_GCCOUNT, 0)));
}

/* What the last mapping costs may be owed, or half a collection if that is more: what is beyond is done at once. So dead views of a process that
 * never waits hold at most one mapping more than if nothing were owed, or half as much again. */
void tarn_bind_feed_later(lua_State *L, uint64_t size) {
  tarn_bind_t *b = tarn_bind_of(L);
  double heap_kib = (double)lua_gc(L, LUA_GCCOUNT, 0), kib = charge_kib(L, size, heap_kib);
  double over = b->owed_kib + kib - (kib > heap_kib / 4 ? kib : heap_kib / 4);
  if (over > 0) {
    b->owed_kib -= over;
    if (collect_some(L, over)) { b->owed_kib = 0; }
  }
  b->owed_kib += kib;
}

bool tarn_bind_owes(const tarn_bind_t *b) { return b->owed_kib >= 1; }

static int collect_slice(lua_State *L) {
  tarn_bind_t *b = lua_touserdata(L, 1);
  uint64_t until = tarn_clock_ns() + SLICE_NS;
  while (tarn_bind_owes(b) && tarn_clock_ns() < until) {
    b->owed_kib -= SLICE_KIB;
    if (collect_some(L, SLICE_KIB)) { b->owed_kib = 0; }
  }
  return 0;
}

static int collect_all(lua_State *L) {
  tarn_bind_t *b = lua_touserdata(L, 1);
  b->owed_kib = 0;
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* To the end of the collection under way. */
static int collect_rest(lua_State *L) {
  (void)collect_some(L, (double)lua_gc(L, LUA_GCCOUNT, 0) + 1);
  return 0;
}

/* A finalizer of the user's may raise, which ends the collector's call, and nobody is there to catch it. The others' turn is now: LuaJIT would
 * run them at the next allocation, which may be one of the host's own. */
static void collect_protected(tarn_bind_t *b, lua_CFunction collect) {
  int rc = lua_cpcall(b->L, collect, b);
  while (rc != 0) {
    const char *text = lua_tostring(b->L, -1);
    tarn_log(TARN_LOG_ERROR, "a finalizer: %s", text != NULL ? text : "(no message)");
    lua_pop(b->L, 1);
    rc = rc == LUA_ERRRUN ? lua_cpcall(b->L, collect_rest, b) : 0;
  }
}

void tarn_bind_collect_owed(tarn_bind_t *b) { collect_protected(b, collect_slice); }

void tarn_bind_collect(tarn_bind_t *b) {
  collect_protected(b, collect_all);
  tarn_bind_boundary(b);
}

void tarn_bind_hand(tarn_bind_t *b, tarn_block_t *mapped) {
  if (b->handed != NULL) { tarn_block_unmap_later(b->handed); }
  b->handed = mapped;
}

void tarn_bind_feed_mapped(lua_State *L, uint64_t size, uint32_t count) {
  uint64_t few = (uint64_t)count * TARN_POOL_MAP_MIN;
  tarn_bind_feed(L, size < few ? size : few);
}

tarn_block_t *tarn_bind_block_create(lua_State *L, uint64_t size, bool zero) {
  tarn_bind_feed(L, size);
  return tarn_bind_scratch_create(L, size, zero);
}

tarn_block_t *tarn_bind_scratch_create(lua_State *L, uint64_t size, bool zero) {
  tarn_bind_t *bind = tarn_bind_of(L);
  uint32_t flags = zero ? TARN_BLOCK_ZERO : 0;
  /* A call that allocates is a boundary too: what dead views held is given back before anything is evicted for its sake. */
  tarn_pool_boundary(bind->pool);
  tarn__room_try_t t = {0};
  tarn_error_t err;
  tarn_block_t *block = NULL;
  int rc;
  do {
    err = (tarn_error_t){0};
    rc = tarn_block_create(bind->pool, size, tarn__room_flags(&t) | flags, &block, &err);
    if (rc == 0) { return block; }
  } while (tarn__room_again(L, &t, rc, &err));
  if (err.needed == 0 && tarn_error_has_bytes(&err)) { err.needed = size; }
  tarn_bind_raise(L, &err);
  return NULL;
}
