/* DRefs in Lua: one userdata for an object while any is alive, so that refs compare and hash by identity. Lua thread only.
 *
 * A ref to an object of ours that has never left is *private*: nothing in C knows of it, and its end is the object's. Else it holds an entry of the
 * service's table of references (service/refs.c), which knows who else does. */
#include <inttypes.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include "bind.h"
#include "file-private.h"
#include "service/service.h"

static const char refs_key =
    0; /* registry: weak-valued table, 12 raw bytes of owner and id -> userdata */

static tarn_ref_t *check_ref(lua_State *L, int index) {
  tarn_ref_t *r = tarn_ref_test(L, index);
  if (r == NULL) { luaL_typerror(L, index, "DRef"); }
  return r;
}

tarn_ref_t *tarn_ref_test(lua_State *L, int index) {
  tarn_ref_t *r = lua_touserdata(L, index);
  if (r == NULL || !lua_getmetatable(L, index)) { return NULL; }
  luaL_getmetatable(L, TARN_REF_METATABLE);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same ? r : NULL;
}

static uint32_t self_of(const tarn_bind_t *b) {
  return b != NULL && b->service != NULL ? tarn_service_id(b->service) : 1;
}

/* The userdata for it, pushed, and whether it is new. */
static tarn_ref_t *push(lua_State *L, uint32_t origin, uint64_t id, uint64_t size, bool *is_new) {
  char key[12];
  memcpy(key, &origin, 4);
  memcpy(key + 4, &id, 8);
  lua_pushlightuserdata(L, (void *)(uintptr_t)&refs_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushlstring(L, key, sizeof(key));
  lua_pushvalue(L, -1);
  lua_rawget(L, -3);
  tarn_ref_t *r = lua_touserdata(L, -1);
  *is_new = r == NULL;
  if (r == NULL) {
    lua_pop(L, 1);
    r = lua_newuserdata(L, sizeof(*r));
    *r = (tarn_ref_t){.origin = origin, .id = id, .size = size};
    luaL_getmetatable(L, TARN_REF_METATABLE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, -5);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
  return r;
}

void tarn_ref_push(lua_State *L, uint32_t origin, uint64_t id, uint64_t size, uint32_t owner) {
  const tarn_bind_t *b = tarn_bind_of(L);
  bool is_new = false;
  tarn_ref_t *r = push(L, origin, id, size, &is_new);
  if (!is_new || b->service == NULL) { return; }
  r->held = tarn_service_ref_open(b->service, origin, id, owner);
  if (r->held == NULL) { tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a reference"); }
}

void tarn_ref_push_new(lua_State *L, uint64_t id, uint64_t size) {
  bool is_new = false;
  push(L, self_of(tarn_bind_of(L)), id, size, &is_new)->private_here = true;
}

int tarn_ref_exported(lua_State *L, tarn_ref_t *ref) {
  const tarn_bind_t *b = tarn_bind_of(L);
  if (!ref->private_here) { return 0; }
  if (b->service != NULL) {
    ref->held = tarn_service_ref_open(b->service, ref->origin, ref->id, ref->origin);
    if (ref->held == NULL) { return TARN_ENOMEM; }
  }
  ref->private_here = false;
  return 0;
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
  bool known = b->service != NULL && r->private_here && tarn_service_ref_known(b->service, r->id);
  if (r->held != NULL) {
    tarn_service_ref_close(b->service, r->held);
  } else if (
      r->private_here &&
      !known) { /* known: another userdata for it was made while this one waited for its end */
    (void)tarn_pool_delete(b->pool, r->id);
  }
  r->held = NULL;
  r->private_here = false;
}

void tarn_ref_release(lua_State *L, int index) {
  tarn_ref_t *r = check_ref(L, index);
  char key[12];
  memcpy(key, &r->origin, 4);
  memcpy(key + 4, &r->id, 8);
  lua_pushlightuserdata(L, (void *)(uintptr_t)&refs_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushlstring(L, key, sizeof(key));
  lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  let_go(tarn_bind_of(L), r);
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
    lua_rawget(L, lua_upvalueindex(1)); /* core.ref_methods */
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
  lua_pushlightuserdata(L, (void *)(uintptr_t)&refs_key);
  lua_newtable(L);
  lua_newtable(L);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawset(L, LUA_REGISTRYINDEX);

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
  lua_pop(L, 1);
  lua_setfield(L, -2, "ref_methods");
  lua_pushcfunction(L, core_ref_release);
  lua_setfield(L, -2, "ref_release");
  lua_pushcfunction(L, core_ref_local);
  lua_setfield(L, -2, "ref_local");
  lua_pushcfunction(L, core_ref_moves);
  lua_setfield(L, -2, "ref_moves");
  lua_pushcfunction(L, core_ref_note);
  lua_setfield(L, -2, "ref_note");
  lua_pushcfunction(L, core_ref_figures);
  lua_setfield(L, -2, "ref_figures");
}
