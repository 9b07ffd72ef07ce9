/* Many small objects at once, for tarn.poolset_all, poolget_all and pooldelete_all: references sorted by where their objects are, and requests with
 * up to many_max of them. */
#include <lauxlib.h>
#include <stdio.h>
#include "base/buf.h"
#include "bind/bind.h"
#include "bind/messages-private.h"
#include "image/mp.h"
#include "service/service.h"

#define SMALL_BYTES                                                                                \
  8192u /* by the reference's own measure, which is a guess for what has not been written yet */

#define MESSAGE_BYTES                                                                              \
  ((size_t)256 << 10) /* of images: a message ends with the one that passes it */

static tarn_ref_t *ref_at(lua_State *L, int list, int i) {
  lua_rawgeti(L, list, i);
  tarn_ref_t *r = tarn_ref_test(L, -1);
  lua_pop(L, 1); /* the list has it */
  return r;
}

/* Append i to the list at index. */
static void add(lua_State *L, int index, int i) {
  lua_pushinteger(L, i);
  lua_rawseti(L, index, (int)lua_objlen(L, index) + 1);
}

/* Push the list at [owner] of the table at index, made if it is not there. */
static void push_list(lua_State *L, int index, uint32_t owner) {
  lua_rawgeti(L, index, (int)owner);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, index, (int)owner);
  }
}

/* refs_by_owner(list, n, any_size) -> {owner = numbers of small objects there, or of all}, numbers of the larger ones elsewhere; or the number of
 * the first item that is no DRef */
static int refs_by_owner(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int n = (int)luaL_checkinteger(L, 2);
  bool any_size = lua_toboolean(L, 3);
  lua_settop(L, 2);
  lua_newtable(L);
  lua_newtable(L);
  lua_pushnil(L); /* the list of the last one's owner */
  uint32_t self = tarn_service_id(tarn_bind_of(L)->service), last = 0;
  for (int i = 1; i <= n; i++) {
    const tarn_ref_t *r = ref_at(L, 1, i);
    if (r == NULL) {
      lua_pushinteger(L, i);
      return 1;
    }
    uint32_t owner = tarn_ref_owner(r);
    if (owner == self) { continue; }
    if (r->size > SMALL_BYTES && !any_size) {
      add(L, 4, i);
      continue;
    }
    if (owner != last) {
      lua_settop(L, 4);
      push_list(L, 3, owner);
      last = owner;
    }
    add(L, 5, i);
  }
  lua_settop(L, 4);
  return 2;
}

/* method(owner, list, numbers, from, to) -> msgid: asked of the objects of list[numbers[from..to]], by their names */
static int named_request(lua_State *L, const char *method) {
  uint32_t owner = (uint32_t)luaL_checknumber(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  int from = (int)luaL_checkinteger(L, 4), to = (int)luaL_checkinteger(L, 5);
  lua_settop(L, 3);
  tarn_buf_t b;
  tarn_buf_init(&b, (size_t)TARN_MANY_MAX * 20);
  int rc = tarn_mp_write_array(&b, (uint32_t)(to - from + 1) * 2);
  for (int k = from; k <= to; k++) {
    lua_rawgeti(L, 3, k);
    const tarn_ref_t *r = ref_at(L, 2, (int)lua_tointeger(L, -1));
    lua_pop(L, 1);
    rc |= r == NULL ? TARN_EINVAL : tarn_mp_write_uint(&b, r->origin);
    rc |= r == NULL ? TARN_EINVAL : tarn_mp_write_uint(&b, r->id);
  }
  return tarn__plain_request(L, owner, method, &b, rc, (tarn_payload_t){0});
}

/* The response: their values, nil where one has to be asked for alone. */
static int pool_get_all_at(lua_State *L) { return named_request(L, "pool.get_all"); }
/* The response: true, nil where one has to be deleted alone. */
static int pool_delete_all_at(lua_State *L) { return named_request(L, "pool.delete_all"); }

/* pool_set_all_at(owner, list, from, to) -> msgid, how many of list[from..to] it is for, alone: the response is one reference, not a list of them, nil
 * where one has to be stored alone. */
static int pool_set_all_at(lua_State *L) {
  uint32_t owner = tarn__check_pid(L, 1), count = 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  int from = (int)luaL_checkinteger(L, 3), to = (int)luaL_checkinteger(L, 4);
  int last = to - from < (int)TARN_MANY_MAX ? to : from + (int)TARN_MANY_MAX - 1;
  tarn_encoded_t *e =
      tarn_codec_encode_small(L, 2, from, last, TARN_MANY_IMAGE_BYTES, MESSAGE_BYTES, &count);
  if (count > 0) {
    tarn_buf_t b;
    tarn_buf_init(&b, 64);
    int rc = tarn_mp_write_array(&b, 0);
    tarn_payload_t p = tarn__payload_of(L, e);
    tarn__plain_request(L, owner, "pool.set_all", &b, rc, p);
  } else {
    char what[32];
    snprintf(what, sizeof what, "item %d", from);
    tarn_encoded_clear(e);
    lua_rawgeti(L, 2, from);
    tarn__set_request(L, owner, 0, tarn_codec_encode_named(L, -1, what));
  }
  lua_pushinteger(L, count > 0 ? (int)count : 1);
  lua_pushboolean(L, count == 0);
  return 3;
}

void tarn__many_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"refs_by_owner", refs_by_owner},
                                       {"pool_get_all_at", pool_get_all_at},
                                       {"pool_set_all_at", pool_set_all_at},
                                       {"pool_delete_all_at", pool_delete_all_at},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
  lua_pushinteger(L, TARN_MANY_MAX);
  lua_setfield(L, -2, "many_max");
}
