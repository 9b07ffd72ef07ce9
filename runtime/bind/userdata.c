/* What userdata of all kinds need. Lua thread. */
#include <lauxlib.h>
#include <string.h>

#include "bind/bind.h"

void *tarn__userdata_new(lua_State *L, size_t size, const char *metatable, lua_CFunction gc) {
  void *p = lua_newuserdata(L, size);
  memset(p, 0, size);
  if (luaL_newmetatable(L, metatable)) {
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return p;
}

void *tarn__userdata_test(lua_State *L, int index, const char *metatable) {
  void *p = lua_touserdata(L, index);
  if (p == NULL || !lua_getmetatable(L, index)) { return NULL; }
  luaL_getmetatable(L, metatable);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same ? p : NULL;
}

void tarn__class_open(lua_State *L, const char *metatable, const luaL_Reg *methods) {
  luaL_newmetatable(L, metatable);
  luaL_register(L, NULL, methods);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
