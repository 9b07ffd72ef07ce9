/* DRefs in Lua: one userdata for an object while any is alive, so that refs compare and hash by identity. Lua thread only.
 *
 * A ref to an object of ours that has never left is *private*: it is made and forgotten, its end is the object's, and nothing else knows of it. From the
 * moment on when its bytes may come back from elsewhere it is in a weak table, and holds an entry of the service's table of
 * references (service/refs.c), which knows who else does. */
#include <inttypes.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include "bind.h"
#include "file-private.h"
#include "service/service.h"

/* What the objects may hold that nobody refers to, until they are deleted together. */
#define UNUSED_BYTES ((uint64_t)1 << 20)

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

/* r takes an entry: of an object that is at owner, if nothing better is known. */
static void hold(lua_State *L, const tarn_bind_t *b, tarn_ref_t *r, uint32_t owner) {
  if (b->service == NULL) { return; }
  r->held = tarn_service_ref_open(b->service, r->origin, r->id, owner);
  if (r->held == NULL) { tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a reference"); }
}

/* Push the table of shared refs (weak values), and the key in it: 12 raw bytes of origin and id. */
static void push_place(lua_State *L, const tarn_bind_t *b, uint32_t origin, uint64_t id) {
  char key[12];
  memcpy(key, &origin, 4);
  memcpy(key + 4, &id, 8);
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->refs);
  lua_pushlstring(L, key, sizeof(key));
}

void tarn_ref_push(lua_State *L, uint32_t origin, uint64_t id, uint64_t size, uint32_t owner) {
  const tarn_bind_t *b = tarn_bind_of(L);
  push_place(L, b, origin, id);
  lua_pushvalue(L, -1);
  lua_rawget(L, -3);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    tarn_ref_t *r = make(L, b, &(tarn_ref_t){.origin = origin, .id = id, .size = size});
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, -5);
    hold(L, b, r, owner);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

void tarn_ref_push_new(lua_State *L, uint64_t id, uint64_t size) {
  const tarn_bind_t *b = tarn_bind_of(L);
  uint32_t origin = b->service != NULL ? tarn_service_id(b->service) : 1;
  make(L, b, &(tarn_ref_t){.origin = origin, .id = id, .size = size, .private_here = true});
}

void tarn_ref_exported(lua_State *L, int index) {
  const tarn_bind_t *b = tarn_bind_of(L);
  tarn_ref_t *r = lua_touserdata(L, index);
  if (!r->private_here) { return; }
  lua_pushvalue(L, index);
  push_place(L, b, r->origin, r->id);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 2);
  hold(L, b, r, r->origin);
  r->private_here = false;
}

uint32_t tarn_ref_owner(const tarn_ref_t *ref) {
  return ref->held != NULL ? tarn_service_ref_owner(ref->held) : ref->origin;
}

uint64_t tarn_ref_local(lua_State *L, const tarn_ref_t *ref) {
  const tarn_bind_t *b = tarn_bind_of(L);
  if (ref->held != NULL) { return tarn_service_ref_local(b->service, ref->held); }
  return b->service == NULL || ref->origin == tarn_service_id(b->service) ? ref->id : 0;
}

static void let_go(tarn_bind_t *b, tarn_ref_t *r) {
  if (b == NULL || r->id == 0) { return; }
  if (r->held != NULL) {
    tarn_service_ref_close(b->service, r->held);
  } else if (r->private_here) {
    b->unused[b->unused_count++] = r->id;
    b->unused_bytes += r->size;
    if (b->unused_count == TARN__UNUSED || b->unused_bytes > UNUSED_BYTES) {
      tarn_ref_delete_unused(b);
    }
  }
  r->held = NULL;
  r->private_here = false;
}

void tarn_ref_delete_unused(tarn_bind_t *b) {
  tarn_pool_delete_many(b->pool, b->unused, b->unused_count);
  b->unused_count = 0;
  b->unused_bytes = 0;
}

void tarn_ref_release(lua_State *L, int index) {
  tarn_ref_t *r = check_ref(L, index);
  push_place(L, tarn_bind_of(L), r->origin, r->id);
  lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  let_go(tarn_bind_of(L), r);
  tarn_ref_delete_unused(tarn_bind_of(L));
}

static int core_ref_release(lua_State *L) {
  tarn_ref_release(L, 1);
  return 0;
}

static int ref_key(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  char text[48];
  snprintf(text, sizeof(text), "%" PRIu32 ":%" PRIu64, r->origin, r->id);
  lua_pushstring(L, text);
  return 1;
}

static int ref_tostring(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  char text[96];
  snprintf(text, sizeof(text), "DRef(%" PRIu32 ":%" PRIu64 ", %" PRIu64 " bytes)", r->origin, r->id,
           r->size);
  lua_pushstring(L, text);
  return 1;
}

static int ref_index(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  const char *name = luaL_checkstring(L, 2);
  if (strcmp(name, "owner") == 0) {
    lua_pushnumber(L, tarn_ref_owner(r));
  } else if (strcmp(name, "id") == 0) {
    lua_pushnumber(L, (double)r->id); /* ids count up from 1: far below 2^53 */
  } else if (strcmp(name, "size") == 0) {
    lua_pushnumber(L, (double)r->size);
  } else {
    lua_pushvalue(L, 2);
    lua_gettable(L, lua_upvalueindex(1)); /* core.ref_methods */
  }
  return 1;
}

static int ref_newindex(lua_State *L) {
  return luaL_error(L, "a DRef has no field '%s' to set", lua_tostring(L, 2));
}

static int ref_gc(lua_State *L) {
  let_go(tarn_bind_of(L), lua_touserdata(L, 1));
  return 0;
}

/* ref_local(ref) -> the number in our pool of an object that is ours */
static int core_ref_local(lua_State *L) {
  lua_pushnumber(L, (double)tarn__object_own_id(L));
  return 1;
}

/* ref_note(ref, owner, moves): somebody has said where it is */
static int core_ref_note(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  tarn_place_t at = {(uint32_t)luaL_checknumber(L, 2), (uint32_t)luaL_checknumber(L, 3)};
  if (r->held != NULL) { tarn_service_ref_note(tarn_bind_of(L)->service, r->held, at); }
  return 0;
}

/* ref_moves(ref) -> how often it has moved, as far as is known here */
static int core_ref_moves(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  lua_pushnumber(L,
                 r->held != NULL ? tarn_service_ref_moves(tarn_bind_of(L)->service, r->held) : 0);
  return 1;
}

/* ref_figures() -> objects that are known of, messages with references that are not answered, whether a loss is being looked into */
static int core_ref_figures(lua_State *L) {
  tarn_ref_figures_t f;
  tarn_service_ref_figures(tarn_bind_of(L)->service, &f);
  lua_pushnumber(L, (double)f.entries);
  lua_pushnumber(L, (double)f.transfers);
  lua_pushboolean(L, f.fencing);
  return 3;
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
  static const luaL_Reg functions[] = {
      {"ref_release", core_ref_release}, {"ref_local", core_ref_local},
      {"ref_moves", core_ref_moves},     {"ref_note", core_ref_note},
      {"ref_figures", core_ref_figures}, {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
