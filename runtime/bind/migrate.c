/* What lua/tarn/migrate.lua, protect.lua and record.lua need of C: an object's bytes are copied to another process, and both ends' tables of
 * references are changed (service/refs_move.c). Lua thread only. */
#include <lauxlib.h>
#include "bind.h"
#include "file-private.h"
#include "image/mp.h"
#include "service/service.h"

static tarn_ref_t *check_ref(lua_State *L, int index) {
  tarn_ref_t *r = tarn_ref_test(L, index);
  if (r == NULL) { luaL_typerror(L, index, "DRef"); }
  return r;
}

/* pool_copy_at(ref, pid) -> msgid of a pool.set there of what the object is, as it is and with its flags; answered by the copy's DRef */
static int pool_copy_at(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint64_t id = tarn__object_own_id(L);
  uint32_t pid = (uint32_t)luaL_checknumber(L, 2), flags = 0;
  tarn_error_t err = {0};
  tarn_payload_t p = {.value = tarn_object_export(L, id, TARN_GET_VERIFIED)};
  int rc = tarn_pool_flags(b->pool, id, &flags);
  if (rc != 0) {
    tarn_value_release(p.value);
    tarn__object_check(L, rc, &err, id);
  }
  tarn_buf_t params;
  tarn_buf_init(&params, 64);
  rc = tarn_mp_write_array(&params, 1);
  rc |= tarn_mp_write_uint(&params, flags);
  return tarn__plain_request(L, pid, "pool.set", &params, rc, p);
}

/* ref_adopt(ref, copy, from, moves): what copy (ours) is, is from here on the object of ref, which process `from` holds (0: nobody more) -> its number */
static int ref_adopt(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_ref_t *r = check_ref(L, 1), *copy = check_ref(L, 2);
  uint32_t from = (uint32_t)luaL_checknumber(L, 3), moves = (uint32_t)luaL_checknumber(L, 4),
           flags = 0;
  uint64_t of = tarn_ref_local(L, copy);
  tarn_error_t err = {0};
  tarn__object_check(L, of == 0 ? TARN_ENOENT : tarn_pool_flags(b->pool, of, &flags), &err,
                     copy->id);
  /* The same value twice: no byte is copied, and the copy's own end leaves it to the other. */
  uint64_t id = tarn_object_store(L, tarn_object_export(L, of, 0), TARN_BLOCK_WAIT | flags << 8);
  if (tarn_service_ref_adopt(b->service, r->origin, r->id, id, from, moves) != 0) {
    (void)tarn_pool_delete(b->pool, id);
    return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a reference");
  }
  lua_pushnumber(L, (double)id);
  return 1;
}

/* ref_disown(ref, owner): it is not ours after all */
static int ref_disown(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  tarn_service_ref_disown(tarn_bind_of(L)->service, r->origin, r->id,
                          (uint32_t)luaL_checknumber(L, 2));
  return 0;
}

/* ref_leave(ref, to) -> true while its holders are being told */
static int ref_leave(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  uint32_t to = (uint32_t)luaL_checknumber(L, 2);
  if (r->held == NULL) { return luaL_error(L, "core.ref_leave: nobody knows of the object"); }
  lua_pushboolean(L, tarn_service_ref_leave(tarn_bind_of(L)->service, r->held, to));
  return 1;
}

/* ref_telling(ref) -> are the holders of an object that was ours still being told where it is? */
static int ref_telling(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  lua_pushboolean(L, tarn_service_ref_telling(tarn_bind_of(L)->service, r->origin, r->id));
  return 1;
}

/* ---- objects of which process 1 has a record ---- */

/* ref_of(origin, id, size, owner) -> the DRef to that object */
static int ref_of(lua_State *L) {
  tarn_ref_push(L, (uint32_t)luaL_checknumber(L, 1), (uint64_t)luaL_checknumber(L, 2),
                (uint64_t)luaL_checknumber(L, 3), (uint32_t)luaL_checknumber(L, 4));
  return 1;
}

/* ref_record(ref): an object of ours has a record from here on */
static int ref_record(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  tarn_ref_exported(L, 1); /* others are to know of it */
  tarn_service_ref_record(tarn_bind_of(L)->service, r->origin, r->id, true);
  return 0;
}

/* ref_unrecord(origin, id): it has none any more */
static int ref_unrecord(lua_State *L) {
  tarn_service_ref_record(tarn_bind_of(L)->service, (uint32_t)luaL_checknumber(L, 1),
                          (uint64_t)luaL_checknumber(L, 2), false);
  return 0;
}

/* ref_succeed(ref, owner, moves, pids): see tarn_service_ref_succeed */
static int ref_succeed(lua_State *L) {
  tarn_ref_t *r = check_ref(L, 1);
  tarn_place_t at = {(uint32_t)luaL_checknumber(L, 2), (uint32_t)luaL_checknumber(L, 3)};
  luaL_checktype(L, 4, LUA_TTABLE);
  size_t count = lua_objlen(L, 4);
  uint32_t *pids = lua_newuserdata(L, (count + 1) * sizeof(*pids));
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, 4, (int)i + 1);
    pids[i] = (uint32_t)luaL_checknumber(L, -1);
    lua_pop(L, 1);
  }
  if (r->held == NULL) { return luaL_error(L, "core.ref_succeed: nobody knows of the object"); }
  if (tarn_service_ref_succeed(tarn_bind_of(L)->service, r->held, at, pids, count) != 0) {
    return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a reference");
  }
  return 0;
}

void tarn__migrate_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pool_copy_at", pool_copy_at}, {"ref_adopt", ref_adopt},
      {"ref_disown", ref_disown},     {"ref_leave", ref_leave},
      {"ref_telling", ref_telling},   {"ref_of", ref_of},
      {"ref_record", ref_record},     {"ref_unrecord", ref_unrecord},
      {"ref_succeed", ref_succeed},   {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
