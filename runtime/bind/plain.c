/* Requests to methods that C serves, here and there: their parameters are written by hand, and a value, if there is one, comes behind them. */
#include <lauxlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/buf.h"
#include "bind/messages-private.h"
#include "image/mp.h"

int tarn__plain_request(lua_State *L, uint32_t pid, const char *method, tarn_buf_t *params, int rc,
                        tarn_payload_t with) {
  uint32_t msgid = 0;
  size_t size = 0;
  uint8_t *bytes = tarn_buf_detach(params, &size);
  if (rc == 0) {
    rc = tarn_service_request_plain(tarn_bind_of(L)->service, pid, method, bytes, size, with,
                                    &msgid);
  } else {
    tarn_free(bytes);
    tarn__payload_drop(L, &with);
  }
  tarn__sent(L, rc, msgid);
  tarn__expect_single(L, msgid);
  return 1;
}

static tarn_ref_t *check_ref(lua_State *L) {
  tarn_ref_t *r = tarn_ref_test(L, 1);
  if (r == NULL) { luaL_typerror(L, 1, "DRef"); }
  return r;
}

/* may: the answer may be to ask another process. */
static int ref_request(lua_State *L, const char *method, bool may) {
  tarn_ref_t *r = check_ref(L);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  uint32_t owner = tarn_ref_owner(r);
  bool named = may || owner != r->origin;
  int rc = tarn_mp_write_array(&b, 1u + (named ? 1 : 0) + (may ? 1 : 0));
  rc |= tarn_mp_write_uint(&b, r->id);
  if (named) { rc |= tarn_mp_write_uint(&b, r->origin); }
  if (may) { rc |= tarn_mp_write_bool(&b, true); }
  return tarn__plain_request(L, owner, method, &b, rc, (tarn_payload_t){0});
}

/* pool_get_at(ref, may) -> msgid. may: of a large object the answer may be the error Elsewhere, and then it is to be had by spread_get. */
static int pool_get_at(lua_State *L) {
  bool may = lua_toboolean(L, 2) && check_ref(L)->size >= TARN_SPREAD_BYTES;
  return ref_request(L, "pool.get", may);
}
static int pool_delete_at(lua_State *L) { return ref_request(L, "pool.delete", false); }

/* spread_get(ref, pid) -> msgid: the value of ref from another process than its owner */
static int core_spread_get(lua_State *L) {
  tarn_ref_t *r = check_ref(L);
  uint32_t pid = tarn__check_pid(L, 2);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 3);
  rc |= tarn_mp_write_uint(&b, r->id);
  rc |= tarn_mp_write_uint(&b, r->origin);
  rc |= tarn_mp_write_uint(&b, tarn_ref_owner(r));
  return tarn__plain_request(L, pid, "spread.get", &b, rc, (tarn_payload_t){0});
}

static int empty_request(lua_State *L, const char *method) {
  uint32_t pid = tarn__check_pid(L, 1);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 0);
  return tarn__plain_request(L, pid, method, &b, rc, (tarn_payload_t){0});
}

/* serializer_at(pid, name) -> msgid: what it offers under that name */
static int core_serializer_at(lua_State *L) {
  uint32_t pid = tarn__check_pid(L, 1);
  size_t length = 0;
  const char *name = luaL_checklstring(L, 2, &length);
  tarn_buf_t b;
  tarn_buf_init(&b, length + 64);
  int rc = tarn_mp_write_array(&b, 1);
  rc |= tarn_mp_write_str(&b, name, length);
  return tarn__plain_request(L, pid, "serializer.get", &b, rc, (tarn_payload_t){0});
}

/* offer_serializer(name, image) */
static int core_offer_serializer(lua_State *L) {
  size_t size = 0;
  const char *name = luaL_checkstring(L, 1), *image = luaL_checklstring(L, 2, &size);
  if (tarn_service_offer(tarn_bind_of(L)->service, name, image, size) != 0) {
    return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a serializer");
  }
  return 0;
}

static int core_ping(lua_State *L) { return empty_request(L, "ping"); }
static int pool_stats_at(lua_State *L) { return empty_request(L, "pool.stats"); }

static uint64_t limit_of(double n) { return n < 1.8e19 ? (uint64_t)n : UINT64_MAX; }

static int pool_limits_at(lua_State *L) {
  uint32_t pid = tarn__check_pid(L, 1);
  lua_settop(L, 3);
  for (int i = 2; i <= 3; i++) {
    if (!lua_isnil(L, i) && !(luaL_checknumber(L, i) >= 0)) {
      tarn_bind_raise_kind(L, TARN_EINVAL, "a size in bytes is needed");
    }
  }
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 2);
  for (int i = 2; i <= 3; i++) {
    rc |= lua_isnil(L, i) ? tarn_mp_write_nil(&b)
                          : tarn_mp_write_uint(&b, limit_of(lua_tonumber(L, i)));
  }
  return tarn__plain_request(L, pid, "pool.limits", &b, rc, (tarn_payload_t){0});
}

void tarn__set_request(lua_State *L, uint32_t pid, uint32_t flags, tarn_encoded_t *e) {
  tarn_payload_t p = tarn__payload_of(L, e);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 1);
  rc |= tarn_mp_write_uint(&b, flags);
  tarn__plain_request(L, pid, "pool.set", &b, rc, p);
}

/* pool_set_at(pid, x, flags) -> msgid */
static int pool_set_at(lua_State *L) {
  uint32_t pid = tarn__check_pid(L, 1);
  luaL_checkany(L, 2);
  tarn__set_request(L, pid, (uint32_t)luaL_optinteger(L, 3, 0), tarn_codec_encode(L, 2));
  return 1;
}

void tarn__plain_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"ping", core_ping},
                                       {"serializer_at", core_serializer_at},
                                       {"offer_serializer", core_offer_serializer},
                                       {"pool_get_at", pool_get_at},
                                       {"spread_get", core_spread_get},
                                       {"pool_delete_at", pool_delete_at},
                                       {"pool_set_at", pool_set_at},
                                       {"pool_stats_at", pool_stats_at},
                                       {"pool_limits_at", pool_limits_at},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
