/* Tarn's errors as Lua tables. The position in the message is that of the first caller outside tarn's own Lua files, because
 * that is the line a user can mend. */
#include <lauxlib.h>
#include <stdarg.h>
#include <string.h>

#include "base/err.h"
#include "bind/bind.h"

bool tarn_bind_own_source(lua_State *L, const char *source) {
  bool own = false;
  lua_getfield(L, LUA_REGISTRYINDEX, TARN_OWN_SOURCES);
  if (lua_istable(L, -1)) {
    int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n && !own; i++) {
      lua_rawgeti(L, -1, i);
      size_t length;
      const char *prefix = lua_tolstring(L, -1, &length);
      own = prefix && strncmp(source, prefix, length) == 0;
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  return own;
}

void tarn_bind_push_position(lua_State *L) {
  lua_Debug ar;
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    if (lua_getinfo(L, "Sl", &ar) && ar.currentline > 0 && !tarn_bind_own_source(L, ar.source)) {
      lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
      return;
    }
  }
  lua_pushliteral(L, "");
}

static void set_number(lua_State *L, const char *name, uint64_t v) {
  lua_pushnumber(L, (double)v);
  lua_setfield(L, -2, name);
}

void tarn_bind_push_error(lua_State *L, const tarn_error_t *err) {
  luaL_checkstack(L, 8, "error");
  lua_createtable(L, 0, 4);
  lua_pushstring(L, tarn_error_kind(err->code));
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, err->message[0] ? err->message : tarn_error_text(err->code));
  lua_setfield(L, -2, "message");
  if (tarn_error_has_bytes(err)) {
    set_number(L, "needed", err->needed);
    set_number(L, "available", err->available);
  }
  if (err->path_size > 0) {
    lua_pushlstring(L, err->message + err->path_at, err->path_size);
    lua_setfield(L, -2, "path");
  }
  luaL_getmetatable(L, TARN_ERROR_METATABLE);
  lua_setmetatable(L, -2); /* nil before lua/tarn/errors.lua is loaded */
}

void tarn_bind_add_position(lua_State *L, int index) {
  if (index < 0) { index = lua_gettop(L) + 1 + index; }
  tarn_bind_push_position(L);
  lua_getfield(L, index, "message");
  lua_concat(L, 2);
  lua_setfield(L, index, "message");
}

int tarn_bind_raise(lua_State *L, const tarn_error_t *err) {
  tarn_bind_push_error(L, err);
  tarn_bind_add_position(L, -1);
  return lua_error(L);
}

int tarn_bind_raise_kind(lua_State *L, int code, const char *fmt, ...) {
  tarn_error_t err = {.code = code};
  tarn_bind_push_error(L, &err);
  va_list args;
  va_start(args, fmt);
  lua_pushvfstring(L, fmt, args);
  va_end(args);
  lua_setfield(L, -2, "message");
  tarn_bind_add_position(L, -1);
  return lua_error(L);
}
