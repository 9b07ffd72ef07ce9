/* Blocks for Lua: allocate, and make room where there is none. LuaJIT's collector cannot see the bytes behind a view, so every
 * allocation feeds it, and PoolFull is said only after a full collection has given back what dead views held. Lua thread. */
#include <lauxlib.h>

#include "bind/bind.h"

enum { STEP_MAX_KIB = 1 << 20, MAX_ROUNDS = 10000 };

/* Registry: true while live values are being encoded to make room. Their serializers may ask for blocks; they must not start it anew. */
#define MAKING_ROOM "tarn.making_room"

/* Encode live values; false where that is under way already. On the state that asks, which is the running coroutine's. */
static bool make_room(lua_State *L, tarn_bind_t *bind) {
  lua_getfield(L, LUA_REGISTRYINDEX, MAKING_ROOM);
  bool busy = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (busy) { return false; }
  lua_pushboolean(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, MAKING_ROOM);
  lua_State *main = bind->L;
  bind->L = L;
  tarn_objects_make_room(bind);
  bind->L = main;
  lua_pushboolean(L, 0);
  lua_setfield(L, LUA_REGISTRYINDEX, MAKING_ROOM);
  return true;
}

void tarn_bind_feed(lua_State *L, uint64_t size) {
  uint64_t kib = size >> 10;
  if (kib) { lua_gc(L, LUA_GCSTEP, (int)(kib < STEP_MAX_KIB ? kib : STEP_MAX_KIB)); }
}

tarn_block_t *tarn_bind_block_create(lua_State *L, uint64_t size, bool zero) {
  tarn_bind_t *bind = tarn_bind_of(L);
  uint32_t flags = TARN_BLOCK_WAIT | (zero ? TARN_BLOCK_ZERO : 0);
  tarn_bind_feed(L, size);
  bool collected = false;
  for (uint32_t round = 0;; round++) {
    tarn_error_t err = {0};
    tarn_block_t *block = NULL;
    int rc = tarn_block_create(bind->pool, size, flags, &block, &err);
    if (rc == 0) { return block; }
    if (rc == TARN_ENEEDLUA && round < MAX_ROUNDS && make_room(L, bind)) { continue; }
    bool for_room =
        rc == TARN_EPOOLFULL || rc == TARN_EDISKFULL || rc == TARN_ENEEDLUA || rc == TARN_EAGAIN;
    if (for_room && !collected) {
      collected = true;
      lua_gc(L, LUA_GCCOLLECT, 0);
      tarn_pool_boundary(bind->pool);
      continue;
    }
    if (rc == TARN_ENEEDLUA || rc == TARN_EAGAIN) {
      tarn_error_set(
          &err, TARN_EPOOLFULL,
          "no room for a block of %llu bytes: what fills the pool cannot be moved to disk",
          (unsigned long long)size);
      err.needed = size;
    }
    tarn_bind_raise(L, &err);
  }
}
