/* Blocks for Lua: allocate, and make room where there is none. LuaJIT's collector cannot see the bytes behind a view, so every
 * allocation feeds it, and PoolFull is said only after a full collection has given back what dead views held. Lua thread. */
#include <lauxlib.h>

#include "bind/bind.h"

/* The work of a whole collection for every as many bytes allocated as the pool holds and the heap twice: so the collector's cost follows
 * the allocations, and dead views hold about as much as live ones do. (A collection costs more per byte than touching fresh
 * memory does, hence the heap twice. LuaJIT does two units of work for one that is asked for.) */
void tarn_bind_feed(lua_State *L, uint64_t size) {
  if (size < TARN_POOL_MAP_MIN) { return; }
  tarn_pool_stats_t stats;
  tarn_pool_get_stats(tarn_bind_of(L)->pool, &stats);
  double heap_kib = (double)lua_gc(L, LUA_GCCOUNT, 0);
  double per_cycle_kib = 2 * heap_kib + (double)(stats.resident_bytes >> 10) + 1;
  double kib = heap_kib * ((double)size / 1024 / per_cycle_kib) / 2;
  if (kib > heap_kib) { kib = heap_kib; }
  if (kib >= 1) { lua_gc(L, LUA_GCSTEP, (int)kib); }
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
  uint32_t flags = TARN_BLOCK_WAIT | (zero ? TARN_BLOCK_ZERO : 0);
  /* A call that allocates is a boundary too: what dead views held is given back before anything is evicted for its sake. */
  tarn_pool_boundary(bind->pool);
  tarn__room_try_t t = {0};
  tarn_error_t err;
  tarn_block_t *block = NULL;
  int rc;
  do {
    err = (tarn_error_t){0};
    rc = tarn_block_create(bind->pool, size, flags, &block, &err);
    if (rc == 0) { return block; }
  } while (tarn__room_again(L, &t, rc, &err));
  if (err.needed == 0 && tarn_error_has_bytes(&err)) { err.needed = size; }
  tarn_bind_raise(L, &err);
  return NULL;
}
