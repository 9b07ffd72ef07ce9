/* The codec's state of one Lua state: the Lua tables and functions that the C side looks things up in. lua/tarn/{errors,names,
 * serializer}.lua hand them over through core.set_hooks; what has not been handed over counts as empty. Lua thread only. */
#include <string.h>

#include "bind/codec-private.h"
#include "bind/peek.h"

static const char codec_key; /* its address is the key in the registry */

tarn__codec_t *tarn__codec_of(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&codec_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  tarn__codec_t *c = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!c) { luaL_error(L, "the codec is not open in this Lua state"); }
  return c;
}

bool tarn__codec_lookup(lua_State *L, int ref, int index) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
  if (lua_istable(L, -1)) {
    lua_pushvalue(L, index);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) { return true; }
  }
  lua_pop(L, 1);
  return false;
}

/* ---- names ---- */

/* Something that differs when package.loaded gains, loses or replaces a module. *loading: one of them is being loaded. */
static uint64_t loaded_signature(lua_State *L, bool *loading) {
  uint64_t sum = 0, count = 0;
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  int t = lua_gettop(L);
  if (lua_istable(L, t)) {
    lua_pushnil(L);
    while (lua_next(L, t)) {
      sum += (uint64_t)(uintptr_t)lua_topointer(L, -1) * 0x9E3779B97F4A7C15u ^
             (uint64_t)(uintptr_t)lua_topointer(L, -2);
      count++;
      int type =
          lua_type(L, -1); /* require puts a mark there meanwhile; no module is one of these */
      *loading |= type == LUA_TNUMBER || type == LUA_TLIGHTUSERDATA;
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  return sum ^ count << 56;
}

static void fill_bloom(lua_State *L, tarn__codec_t *c) {
  memset(c->bloom, 0, sizeof c->bloom);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->module_names);
  int t = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, t)) {
    uint32_t bit = tarn__codec_bloom(lua_topointer(L, -2));
    c->bloom[bit / 64] |= (uint64_t)1 << bit % 64;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

void tarn__codec_refresh_names(lua_State *L, tarn__codec_t *c, bool force) {
  if (c->refresh_names == LUA_NOREF || !(force || c->names_changed)) { return; }
  bool loading = false;
  uint64_t signature = loaded_signature(L, &loading);
  if (!loading) { c->names_changed = false; }
  if (!force && signature == c->loaded_signature) { return; }
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->refresh_names);
  lua_call(L, 0, 0);
  fill_bloom(L, c);
  c->loaded_signature = signature;
}

/* core.names_changed(other): package.loaded has a new entry; other: something else has a new name. */
static int codec_names_changed(lua_State *L) {
  tarn__codec_t *c = tarn__codec_of(L);
  c->names_changed = true;
  if (lua_toboolean(L, 1)) { c->loaded_signature = 0; }
  return 0;
}

/* ---- cdata ---- */

/* LuaJIT (GC64) keeps a cdata's ctype id in 16 bits, 6 bytes before its payload; the API has no way to it. */
static uint32_t peek_ctype(const void *payload) {
  uint16_t id;
  memcpy(&id, (const char *)payload - 6, sizeof id);
  return id;
}

uint32_t tarn__codec_ctype(lua_State *L, const tarn__codec_t *c, int index) {
  if (c->peek) { return peek_ctype(lua_topointer(L, index)); }
  if (c->describe == LUA_NOREF) { return 0; }
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->describe);
  lua_pushvalue(L, index);
  lua_call(L, 1, 2);
  uint32_t id = (uint32_t)lua_tonumber(L, -1);
  lua_pop(L, 2);
  return id;
}

static void push_scratch(lua_State *L, int ref) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
  lua_pushinteger(L, 0);
  lua_gettable(L, -2); /* the FFI makes the scalar */
  lua_remove(L, -2);
}

void tarn__codec_push_int64(lua_State *L, tarn__codec_t *c, int64_t v) {
  if (!c->int64_at) {
    lua_pushnumber(L, (double)v);
    return;
  }
  *c->int64_at = v;
  push_scratch(L, c->int64);
}

void tarn__codec_push_uint64(lua_State *L, tarn__codec_t *c, uint64_t v) {
  if (!c->uint64_at) {
    lua_pushnumber(L, (double)v);
    return;
  }
  *c->uint64_at = v;
  push_scratch(L, c->uint64);
}

/* The header's ctype id is used only if it agrees with what the FFI says about the two samples. */
static void verify_peek(lua_State *L, tarn__codec_t *c, int hooks) {
  lua_getfield(L, hooks, "int64_sample");
  lua_getfield(L, hooks, "uint64_sample");
  c->peek = lua_type(L, -1) == TARN__TCDATA && lua_type(L, -2) == TARN__TCDATA &&
            peek_ctype(lua_topointer(L, -2)) == c->int64_id &&
            peek_ctype(lua_topointer(L, -1)) == c->uint64_id;
  lua_pop(L, 2);
}

/* ---- tables ---- */

bool tarn__codec_table_room(const tarn__codec_t *c, const void *table, tarn__table_room_t *room) {
  const tarn__table_t *t = table;
  if (c->peek_tables) { *room = (tarn__table_room_t){t->slots, t->mask ? t->mask + 1 : 0}; }
  return c->peek_tables;
}

/* ---- serializers ---- */

bool tarn__codec_serializer(lua_State *L, const tarn__codec_t *c, int index) {
  if (lua_type(L, index) == TARN__TCDATA) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->by_ctype);
    if (lua_istable(L, -1)) {
      lua_rawgeti(L, -1, (int)tarn__codec_ctype(L, c, index));
      lua_remove(L, -2);
      if (!lua_isnil(L, -1)) { return true; }
    }
    lua_pop(L, 1);
  } else if (lua_getmetatable(L, index)) {
    bool found = tarn__codec_lookup(L, c->by_metatable, lua_gettop(L));
    lua_remove(L, found ? -2 : -1);
    if (found) { return true; }
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->match);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_pushvalue(L, index);
  lua_call(L, 1, 1);
  if (lua_istable(L, -1)) { return true; }
  lua_pop(L, 1);
  return false;
}

void tarn__codec_offer(lua_State *L, const tarn__codec_t *c, int index) {
  lua_rawgeti(L, index, TARN__SER_OFFERED);
  bool offered = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (offered || c->offer == LUA_NOREF) { return; }
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->offer);
  lua_pushvalue(L, index);
  lua_call(L, 1, 0);
}

void tarn_codec_received_from(lua_State *L, uint32_t pid) {
  tarn__codec_of(L)->received_from = pid;
}

/* ---- the Lua side's tables and functions ---- */

static void set_hook(lua_State *L, int hooks, const char *name, int *ref) {
  lua_getfield(L, hooks, name);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  luaL_unref(L, LUA_REGISTRYINDEX, *ref);
  *ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void set_scratch(lua_State *L, tarn__codec_t *c, int hooks) {
  set_hook(L, hooks, "int64", &c->int64);
  set_hook(L, hooks, "uint64", &c->uint64);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->int64);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->uint64);
  c->int64_at = (int64_t *)(uintptr_t)lua_topointer(L, -2);
  c->uint64_at = (uint64_t *)(uintptr_t)lua_topointer(L, -1);
  lua_getfield(L, hooks, "int64_id");
  lua_getfield(L, hooks, "uint64_id");
  c->int64_id = (uint32_t)lua_tonumber(L, -2);
  c->uint64_id = (uint32_t)lua_tonumber(L, -1);
  lua_pop(L, 4);
  verify_peek(L, c, hooks);
}

/* core.set_hooks{...}: the fields of tarn__codec_t by name; int64, uint64 come with their ids and samples; peek = false: tables are read by
 * the API from now on, true: where LuaJIT keeps them, if that is possible; error_metatable
 * and own_sources (prefixes of chunk names that are tarn's own) go into the registry for error.c. */
static int codec_set_hooks(lua_State *L) {
  tarn__codec_t *c = tarn__codec_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  const struct {
    const char *name;
    int *ref;
  } hooks[] = {{"module_names", &c->module_names},
               {"function_names", &c->function_names},
               {"metatable_names", &c->metatable_names},
               {"refresh_names", &c->refresh_names},
               {"resolve_name", &c->resolve_name},
               {"by_metatable", &c->by_metatable},
               {"by_ctype", &c->by_ctype},
               {"match", &c->match},
               {"find", &c->find},
               {"offer", &c->offer},
               {"read", &c->read},
               {"describe", &c->describe}};
  for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++) {
    set_hook(L, 1, hooks[i].name, hooks[i].ref);
  }
  lua_getfield(L, 1, "int64");
  if (!lua_isnil(L, -1)) { set_scratch(L, c, 1); }
  static const char *const in_registry[][2] = {{"error_metatable", TARN_ERROR_METATABLE},
                                               {"own_sources", TARN_OWN_SOURCES}};
  for (size_t i = 0; i < sizeof in_registry / sizeof in_registry[0]; i++) {
    lua_getfield(L, 1, in_registry[i][0]);
    if (!lua_isnil(L, -1)) {
      lua_setfield(L, LUA_REGISTRYINDEX, in_registry[i][1]);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_getfield(L, 1, "peek");
  if (!lua_isnil(L, -1)) { c->peek_tables = lua_toboolean(L, -1) && tarn__peek_verify(L); }
  c->names_changed = true;
  c->loaded_signature = 0;
  return 0;
}

static int reserve_slot(lua_State *L) {
  lua_pushboolean(L, 0);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void new_codec(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&codec_key);
  tarn__codec_t *c = lua_newuserdata(L, sizeof *c);
  memset(c, 0, sizeof *c);
  c->module_names = c->function_names = c->metatable_names = LUA_NOREF;
  c->refresh_names = c->resolve_name = c->by_metatable = c->by_ctype = LUA_NOREF;
  c->match = c->find = c->offer = c->read = c->describe = c->int64 = c->uint64 = LUA_NOREF;
  c->idle_encoder = reserve_slot(L);
  c->idle_decoder = reserve_slot(L);
  lua_newtable(L);
  c->none = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, LUA_GLOBALSINDEX);
  c->globals = lua_topointer(L, -1);
  lua_pop(L, 1);
  c->peek_tables = tarn__peek_verify(L);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

static void new_metatable(lua_State *L, const char *name, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}

static int encoder_gc(lua_State *L) {
  tarn__encoder_release(lua_touserdata(L, 1));
  return 0;
}

static int decoder_gc(lua_State *L) {
  tarn__decoder_release(lua_touserdata(L, 1));
  return 0;
}

static int encoded_gc(lua_State *L) {
  tarn_encoded_clear(lua_touserdata(L, 1));
  return 0;
}

void tarn_codec_open(lua_State *L) {
  int core = lua_gettop(L);
  lua_checkstack(L, 20);
  new_codec(L);
  new_metatable(L, TARN__ENCODER_METATABLE, encoder_gc);
  new_metatable(L, TARN__DECODER_METATABLE, decoder_gc);
  new_metatable(L, TARN_ENCODED_METATABLE, encoded_gc);
  lua_pushcfunction(L, codec_set_hooks);
  lua_setfield(L, core, "set_hooks");
  lua_pushcfunction(L, codec_names_changed);
  lua_setfield(L, core, "names_changed");
  tarn__encoder_methods(L);
  lua_setfield(L, core, "out_methods");
  tarn__decoder_methods(L);
  lua_setfield(L, core, "inp_methods");
  tarn__codec_open_functions(L, core);
}
