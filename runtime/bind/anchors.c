/* Live values of pool objects, kept from the collector, by the object's id. They lie in the array part of one Lua table, in slots that are used
 * again: ids only count up, and a table that had them for keys would be laid out anew again and again. Lua thread only. */
#include <lauxlib.h>
#include "base/alloc.h"
#include "base/err.h"
#include "bind.h"

enum { KEPT_SLOTS = 4096 };

void tarn__anchors_open(lua_State *L) {
  tarn__anchors_t *a = &tarn_bind_of(L)->anchors;
  tarn_map_init(&a->slots);
  a->table = tarn__new_table(L, NULL);
}

void tarn__anchors_close(tarn__anchors_t *a) {
  tarn_map_clear(&a->slots);
  tarn_free(a->free);
}

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

static void set_slot(lua_State *L, const tarn__anchors_t *a, uint32_t slot, int index) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  if (index != 0) {
    lua_pushvalue(L, index);
  } else {
    lua_pushnil(L);
  }
  lua_rawseti(L, -2, (int)slot);
  lua_pop(L, 1);
}

int tarn__anchor_set(lua_State *L, tarn__anchors_t *a, uint64_t id, int index) {
  if (a->slots.count == 0 && a->used > KEPT_SLOTS) { shrink(L, a); }
  uint32_t slot;
  if (!take_slot(a, &slot)) { return TARN_ENOMEM; }
  set_slot(L, a, slot, index);
  int rc = tarn_map_set(&a->slots, id, (void *)(uintptr_t)slot);
  if (rc != 0) {
    set_slot(L, a, slot, 0);
    a->free[a->free_count++] = slot;
  }
  return rc;
}

bool tarn__anchor_push(lua_State *L, const tarn__anchors_t *a, uint64_t id) {
  uint32_t slot = (uint32_t)(uintptr_t)tarn_map_get(&a->slots, id);
  if (slot == 0) { return false; }
  lua_rawgeti(L, LUA_REGISTRYINDEX, a->table);
  lua_rawgeti(L, -1, (int)slot);
  lua_remove(L, -2);
  return true;
}

void tarn__anchor_drop(lua_State *L, tarn__anchors_t *a, uint64_t id) {
  uint32_t slot = (uint32_t)(uintptr_t)tarn_map_remove(&a->slots, id);
  if (slot == 0) { return; }
  set_slot(L, a, slot, 0);
  a->free[a->free_count++] = slot;
}
