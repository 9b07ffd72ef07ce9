/* DRefs in Lua: one userdata for an object while any is alive, so that refs compare and hash by identity. Lua thread only.
 *
 * Where the userdata is, is kept in a weak table only from the moment on when its bytes may come back from elsewhere: an object that never leaves is
 * made and forgotten without it. */
#include <inttypes.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include "bind.h"
#include "service/service.h"

static tarn_ref_t *check_ref(lua_State *L, int index) {
  tarn_ref_t *r = tarn_ref_test(L, index);
  if (r == NULL) { luaL_typerror(L, index, "DRef"); }
  return r;
}

tarn_ref_t *tarn_ref_test(lua_State *L, int index) {
  tarn_ref_t *r = lua_touserdata(L, index);
  if (r == NULL || !lua_getmetatable(L, index)) { return NULL; }
  const void *metatable = lua_topointer(L, -1);
  lua_pop(L, 1);
  return metatable == tarn_bind_of(L)->ref_metatable_at ? r : NULL;
}

/* A new userdata, pushed. */
static tarn_ref_t *make(lua_State *L, const tarn_bind_t *b, const tarn_ref_t *what) {
  tarn_ref_t *r = lua_newuserdata(L, sizeof(*r));
  *r = *what;
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->ref_metatable);
  lua_setmetatable(L, -2);
  return r;
}

/* Push the table of shared refs (weak values), and the key in it: 12 raw bytes of owner and id. */
static void push_place(lua_State *L, const tarn_bind_t *b, uint32_t owner, uint64_t id) {
  char key[12];
  memcpy(key, &owner, 4);
  memcpy(key + 4, &id, 8);
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->refs);
  lua_pushlstring(L, key, sizeof(key));
}

void tarn_ref_push(lua_State *L, uint32_t owner, uint64_t id, uint64_t size) {
  const tarn_bind_t *b = tarn_bind_of(L);
  push_place(L, b, owner, id);
  lua_pushvalue(L, -1);
  lua_rawget(L, -3);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    make(L, b, &(tarn_ref_t){.owner = owner, .id = id, .size = size});
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, -5);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

void tarn_ref_push_new(lua_State *L, uint64_t id, uint64_t size) {
  const tarn_bind_t *b = tarn_bind_of(L);
  uint32_t owner = b->service != NULL ? tarn_service_id(b->service) : 1;
  make(L, b, &(tarn_ref_t){.owner = owner, .id = id, .size = size, .private_here = true});
}

void tarn_ref_exported(lua_State *L, int index) {
  tarn_ref_t *r = lua_touserdata(L, index);
  if (!r->private_here) { return; }
  lua_pushvalue(L, index);
  push_place(L, tarn_bind_of(L), r->owner, r->id);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 2);
  r->private_here = false;
}

static int ref_key(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  char text[48];
  snprintf(text, sizeof(text), "%" PRIu32 ":%" PRIu64, r->owner, r->id);
  lua_pushstring(L, text);
  return 1;
}

static int ref_tostring(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  char text[96];
  snprintf(text, sizeof(text), "DRef(%" PRIu32 ":%" PRIu64 ", %" PRIu64 " bytes)", r->owner, r->id,
           r->size);
  lua_pushstring(L, text);
  return 1;
}

static int ref_index(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  const char *name = luaL_checkstring(L, 2);
  if (strcmp(name, "owner") == 0) {
    lua_pushnumber(L, r->owner);
  } else if (strcmp(name, "id") == 0) {
    lua_pushnumber(L, (double)r->id); /* ids count up from 1: far below 2^53 */
  } else if (strcmp(name, "size") == 0) {
    lua_pushnumber(L, (double)r->size);
  } else {
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1)); /* core.ref_methods */
  }
  return 1;
}

static int ref_newindex(lua_State *L) {
  return luaL_error(L, "a DRef has no field '%s' to set", lua_tostring(L, 2));
}

static int ref_gc(lua_State *L) {
  tarn_ref_t *r = lua_touserdata(L, 1);
  tarn_bind_t *b = tarn_bind_of(L);
  if (b != NULL && r->private_here && r->id != 0) { (void)tarn_pool_delete(b->pool, r->id); }
  return 0;
}

void tarn_ref_open(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  b->refs = tarn__new_table(L, "v");

  lua_newtable(L); /* core.ref_methods: Lua adds get and delete */
  lua_pushcfunction(L, ref_key);
  lua_setfield(L, -2, "key");
  luaL_newmetatable(L, TARN_REF_METATABLE);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, ref_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, ref_newindex);
  lua_setfield(L, -2, "__newindex");
  lua_pushcfunction(L, ref_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushcfunction(L, ref_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushliteral(L, "DRef");
  lua_setfield(L, -2, "__name");
  b->ref_metatable_at = lua_topointer(L, -1);
  b->ref_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_setfield(L, -2, "ref_methods");
}
