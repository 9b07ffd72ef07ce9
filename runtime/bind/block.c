/* Blocks for Lua: allocate, and make room where there is none. LuaJIT's collector cannot see the bytes behind a view, so every
 * allocation feeds it, and PoolFull is said only after a full collection has given back what dead views held. Lua thread. */
#include <lauxlib.h>

#include "bind/bind.h"

enum { STEP_MAX_KIB = 1 << 20 };

/* Encode live values, if somebody anchors any; whether it is worth trying again. */
static bool make_room(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, TARN_MAKE_ROOM);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_call(L, 0, 1);
  bool more = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return more;
}

static void feed_collector(lua_State *L, uint64_t size) {
  uint64_t kib = size >> 10;
  if (kib) { lua_gc(L, LUA_GCSTEP, (int)(kib < STEP_MAX_KIB ? kib : STEP_MAX_KIB)); }
}

tarn_block_t *tarn_bind_block_create(lua_State *L, uint64_t size, bool zero) {
  tarn_bind_t *bind = tarn_bind_of(L);
  uint32_t flags = zero ? TARN_BLOCK_ZERO : 0;
  feed_collector(L, size);
  bool collected = false;
  for (;;) {
    tarn_error_t err = {0};
    tarn_block_t *block = NULL;
    int rc = tarn_block_create(bind->pool, size, flags | TARN_BLOCK_WAIT, &block, &err);
    if (rc == 0) { return block; }
    if (rc == TARN_ENEEDLUA && make_room(L)) { continue; }
    if ((rc == TARN_EPOOLFULL || rc == TARN_ENEEDLUA || rc == TARN_EDISKFULL || rc == TARN_EAGAIN) && !collected) {
      collected = true;
      lua_gc(L, LUA_GCCOLLECT, 0);
      tarn_pool_boundary(bind->pool);
      continue;
    }
    if (rc == TARN_ENEEDLUA || rc == TARN_EAGAIN) {
      tarn_error_set(&err, TARN_EPOOLFULL, "no room for a block of %llu bytes: what fills the pool cannot be moved to disk",
                     (unsigned long long)size);
      err.needed = size;
    }
    tarn_bind_raise(L, &err);
  }
}
