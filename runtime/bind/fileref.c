/* FileRefs in Lua: a host, and a path there; without a host, an object in a store, s3://bucket/key; without a path, an object in its owner's spill file, held by its DRef. Two are equal when
 * they name the same. Lua thread only. */
#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "bind/file-private.h"

#define FILEREF_METATABLE "tarn.FileRef"

tarn__fileref_t *tarn__fileref_test(lua_State *L, int index) {
  return tarn__userdata_test(L, index, FILEREF_METATABLE);
}

static tarn__fileref_t *check_fileref(lua_State *L, int index) {
  tarn__fileref_t *f = tarn__fileref_test(L, index);
  if (f == NULL) { luaL_typerror(L, index, "FileRef"); }
  return f;
}

static const char *path_of(const tarn__fileref_t *f) { return f->text + f->host_length + 1; }

void tarn__fileref_push(lua_State *L, const char *host, size_t host_length, const char *path,
                        size_t path_length, uint64_t size, int ref) {
  tarn__fileref_t *f = lua_newuserdata(L, sizeof *f + host_length + path_length + 2);
  *f = (tarn__fileref_t){
      .size = size, .host_length = (uint32_t)host_length, .path_length = (uint32_t)path_length};
  memcpy(f->text, host, host_length);
  f->text[host_length] = '\0';
  if (path_length > 0) { memcpy(f->text + host_length + 1, path, path_length); }
  f->text[host_length + 1 + path_length] = '\0';
  luaL_getmetatable(L, FILEREF_METATABLE);
  lua_setmetatable(L, -2);
  if (ref != 0) {
    lua_createtable(L, 0, 1);
    lua_pushvalue(L, ref);
    lua_setfield(L, -2, "ref");
    lua_setfenv(L, -2);
  }
}

/* core.fileref(host, path or nil, size, ref or nil) */
static int core_fileref(lua_State *L) {
  size_t host_length, path_length = 0;
  const char *host = luaL_checklstring(L, 1, &host_length);
  const char *path = luaL_optlstring(L, 2, NULL, &path_length);
  double size = luaL_checknumber(L, 3);
  lua_settop(L, 4);
  bool with_ref = tarn_ref_test(L, 4) != NULL;
  if (with_ref == (path_length > 0)) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "a FileRef has either a path or an object");
  }
  tarn__fileref_push(L, host, host_length, path, path_length, size > 0 ? (uint64_t)size : 0,
                     with_ref ? 4 : 0);
  return 1;
}

/* The name of this machine, as FileRefs have it. */
static int core_host(lua_State *L) {
  char name[256] = "";
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') { strcpy(name, "localhost"); }
  lua_pushstring(L, name);
  return 1;
}

/* Push the DRef of one without a path. */
static void push_ref(lua_State *L, int index) {
  lua_getfenv(L, index);
  lua_getfield(L, -1, "ref");
  lua_remove(L, -2);
}

/* core.fileref_ref(fileref) -> its DRef, or nil */
static int core_fileref_ref(lua_State *L) {
  tarn__fileref_t *f = check_fileref(L, 1);
  if (f->path_length > 0) { return 0; }
  push_ref(L, 1);
  return 1;
}

static int fileref_key(lua_State *L) {
  tarn__fileref_t *f = check_fileref(L, 1);
  if (f->path_length > 0) {
    lua_pushfstring(L, "file:%s:%s", f->text, path_of(f));
    return 1;
  }
  push_ref(L, 1);
  tarn_ref_t *r = tarn_ref_test(L, -1);
  lua_pushfstring(L, "file:%s:", f->text);
  lua_pushnumber(L, r != NULL ? r->origin : 0);
  lua_pushliteral(L, ":");
  lua_pushnumber(L, r != NULL ? (double)r->id : 0);
  lua_concat(L, 4);
  return 1;
}

static int fileref_eq(lua_State *L) {
  if (tarn__fileref_test(L, 1) == NULL || tarn__fileref_test(L, 2) == NULL) { return 0; }
  lua_settop(L, 2);
  for (int i = 1; i <= 2; i++) {
    lua_pushcfunction(L, fileref_key);
    lua_pushvalue(L, i);
    lua_call(L, 1, 1);
  }
  lua_pushboolean(L, lua_rawequal(L, 3, 4));
  return 1;
}

static int fileref_tostring(lua_State *L) {
  tarn__fileref_t *f = check_fileref(L, 1);
  lua_pushfstring(L, "FileRef(%s%s%s, ", f->text, f->host_length > 0 ? ":" : "",
                  f->path_length > 0 ? path_of(f) : "(spill file)");
  lua_pushnumber(L, (double)f->size);
  lua_pushliteral(L, " bytes)");
  lua_concat(L, 3);
  return 1;
}

static int fileref_index(lua_State *L) {
  tarn__fileref_t *f = check_fileref(L, 1);
  const char *name = luaL_checkstring(L, 2);
  if (strcmp(name, "host") == 0) {
    if (f->host_length == 0) { return 0; }
    lua_pushlstring(L, f->text, f->host_length);
  } else if (strcmp(name, "path") == 0) {
    if (f->path_length == 0) { return 0; }
    lua_pushlstring(L, path_of(f), f->path_length);
  } else if (strcmp(name, "size") == 0) {
    lua_pushnumber(L, (double)f->size);
  } else {
    lua_pushvalue(L, 2);
    lua_gettable(L, lua_upvalueindex(1)); /* core.fileref_methods */
  }
  return 1;
}

static int fileref_newindex(lua_State *L) {
  return luaL_error(L, "a FileRef has no field '%s' to set", lua_tostring(L, 2));
}

static void set_function(lua_State *L, const char *name, lua_CFunction fn) {
  lua_pushcfunction(L, fn);
  lua_setfield(L, -2, name);
}

void tarn__fileref_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"fileref", core_fileref},
                                       {"fileref_ref", core_fileref_ref},
                                       {"host", core_host},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
  lua_newtable(L); /* core.fileref_methods: Lua adds get and delete */
  set_function(L, "key", fileref_key);
  luaL_newmetatable(L, FILEREF_METATABLE);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, fileref_index, 1);
  lua_setfield(L, -2, "__index");
  set_function(L, "__newindex", fileref_newindex);
  set_function(L, "__tostring", fileref_tostring);
  set_function(L, "__eq", fileref_eq);
  lua_pushliteral(L, "FileRef");
  lua_setfield(L, -2, "__name");
  lua_pop(L, 1);
  lua_setfield(L, -2, "fileref_methods");
}
