/* Checks, on samples made through the API, that LuaJIT keeps things where peek.h says. */
#include <lauxlib.h>

#include "bind/peek.h"

static bool has_room(lua_State *L, int array, int hash, uint32_t slots, uint32_t nodes) {
  lua_createtable(L, array, hash);
  const tarn__table_t *t = lua_topointer(L, -1);
  bool right = t->slots == slots && t->mask == (nodes ? nodes - 1 : 0) && !t->metatable;
  lua_pop(L, 1);
  return right;
}

static bool is_string(tarn__slot_t v, const char *text, size_t length) {
  uint32_t found;
  if (tarn__slot_type(v) != TARN__SLOT_STRING) { return false; }
  const char *s = tarn__slot_string(v, &found);
  return found == length && memcmp(s, text, length) == 0;
}

/* {-1.5, "peek", true, false, {}, [7] = nil...; key = 2^60} with the inner table as its metatable */
static bool check_sample(lua_State *L) {
  int top = lua_gettop(L);
  lua_createtable(L, 7, 1);
  lua_pushnumber(L, -1.5);
  lua_rawseti(L, top + 1, 1);
  lua_pushlstring(L, "pe\0k", 4);
  lua_rawseti(L, top + 1, 2);
  lua_pushboolean(L, 1);
  lua_rawseti(L, top + 1, 3);
  lua_pushboolean(L, 0);
  lua_rawseti(L, top + 1, 4);
  lua_newtable(L);
  const void *inner = lua_topointer(L, -1);
  lua_pushvalue(L, -1);
  lua_rawseti(L, top + 1, 5);
  lua_setmetatable(L, top + 1);
  lua_pushliteral(L, "a key of the sample");
  lua_pushnumber(L, 1152921504606846976.0);
  lua_rawset(L, top + 1);
  const tarn__table_t *t = lua_topointer(L, top + 1);
  const tarn__slot_t *a = t->array;
  const tarn__node_t *n = t->slots == 8 && t->mask <= 1 ? t->node : NULL;
  if (n && t->mask == 1 && tarn__slot_type(n->value) == TARN__SLOT_NIL) { n++; }
  bool right = n && t->metatable == inner && tarn__slot_type(a[0]) == TARN__SLOT_NIL &&
               tarn__slot_type(a[1]) >= TARN__SLOT_NUMBER && tarn__slot_number(a[1]) == -1.5 &&
               is_string(a[2], "pe\0k", 4) && tarn__slot_type(a[3]) == TARN__SLOT_TRUE &&
               tarn__slot_type(a[4]) == TARN__SLOT_FALSE &&
               tarn__slot_type(a[5]) == TARN__SLOT_TABLE && tarn__slot_pointer(a[5]) == inner &&
               tarn__slot_type(a[7]) == TARN__SLOT_NIL &&
               is_string(n->key, "a key of the sample", 19) &&
               tarn__slot_number(n->value) == 1152921504606846976.0;
  lua_settop(L, top);
  return right;
}

bool tarn__peek_verify(lua_State *L) {
  luaL_checkstack(L, 8, "peek");
  return sizeof(void *) == 8 && has_room(L, 0, 0, 0, 0) && has_room(L, 5, 0, 6, 0) &&
         has_room(L, 0, 4, 0, 4) && has_room(L, 7, 9, 8, 16) && has_room(L, 100, 0, 101, 0) &&
         has_room(L, 0, 1, 0, 2) && check_sample(L);
}
