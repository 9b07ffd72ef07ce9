/* Live values of pool objects, kept from the collector. They lie in the array part of one Lua table, in slots that are used again; the pool has
 * an object's slot as its tag, so that finding the object is finding its value. Lua thread only. */
#include <lauxlib.h>
#include "base/alloc.h"
#include "bind.h"

enum { KEPT_SLOTS = 4096 };

void tarn__anchors_open(lua_State *L) {
  tarn__anchors_t *a = &tarn_bind_of(L)->anchors;
  a->table = tarn__new_table(L, NULL);
}

void tarn__anchors_close(tarn__anchors_t *a) { tarn_free(a->free); }

/* All are gone: let go of a table that has grown large. */
static void shrink(lua_State *L, tarn__anchors_t *a) {
  int table = tarn__new_table(L, NULL);
  luaL_unref(L, LUA_REGISTRYINDEX, a->table);
  a->table = table;
  tarn_free(a->free);
  a->free = NULL;
  a->free_count = a->used = a->capacity = 0;
}

static bool take_slot(tarn__anchors_t *a, uint32_t *slot) {
  if (a->free_count > 0) {
    *slot = a->free[--a->free_count];
    return true;
  }
  if (a->used == a->capacity) { /* room for all of them, so that dropping needs none */
    uint32_t capacity = a->capacity ? a->capacity * 2 : 64;
    if (capacity > INT32_MAX) { return false; }
    uint32_t *more = tarn_realloc(a->free, capacity * sizeof *more);
    if (more == NULL) { return false; }
    a->free = more;
    a->capacity = capacity;
  }
  *slot = ++a->used;
  return true;
}

uint32_t tarn__anchor_add(lua_State *L, tarn__anchors_t *a, int index) {
  if (a->free_count == a->used && a->used > KEPT_SLOTS) { shrink(L, a); }
  uint32_t slot;
  if (!take_slot(a, &slot)) { return 0; }
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (int)slot);
  lua_pop(L, 1);
  return slot;
}

void tarn__anchor_push(lua_State *L, const tarn__anchors_t *a, uint32_t slot) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  lua_rawgeti(L, -1, (int)slot);
  lua_remove(L, -2);
}

void tarn__anchor_empty(lua_State *L, const tarn__anchors_t *a, uint32_t slot) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  lua_pushnil(L);
  lua_rawseti(L, -2, (int)slot);
  lua_pop(L, 1);
}

void tarn__anchors_drop(lua_State *L, tarn__anchors_t *a, const uint64_t *slots, size_t count) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  for (size_t i = 0; i < count; i++) {
    lua_pushnil(L);
    lua_rawseti(L, -2, (int)slots[i]);
    a->free[a->free_count++] = (uint32_t)slots[i];
  }
  lua_pop(L, 1);
}
