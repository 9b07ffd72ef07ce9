/* core.request and its kin: messages between Lua here and Lua elsewhere, and what comes in of all kinds. Lua thread only.
 *
 * A list of values travels as one image that is an array; a value of the pool's travels as itself. Which of the two a response is, is known
 * from its request: `single` remembers the msgids of the second kind. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "bind/messages-private.h"
#include "image/mp.h"

static const char single_key = 0; /* registry: msgid -> true */

/* ---- out ---- */

uint32_t tarn__check_pid(lua_State *L, int index) {
  double pid = luaL_checknumber(L, index);
  if (!(pid >= 1 && pid <= 4294967295.0) || pid != (double)(uint32_t)pid) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "a process id is a positive integer");
  }
  return (uint32_t)pid;
}

static void queued(lua_State *L) {
  const tarn_bind_t *b = tarn_bind_of(L);
  b->host.queued(b->host.user);
}

int tarn__sent(lua_State *L, int rc, uint32_t msgid) {
  queued(L);
  if (rc != 0) { return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a message"); }
  lua_pushnumber(L, msgid);
  return 1;
}

static const tarn_list_names_t results = {.others = "result %d"};

static int core_request(lua_State *L) {
  uint32_t pid = tarn__check_pid(L, 1), msgid = 0;
  const char *method = luaL_checkstring(L, 2);
  tarn_payload_t p = tarn__payload_list(L, 3, tarn__parameter_names(method));
  int rc = tarn_service_request(tarn_bind_of(L)->service, pid, method, p, &msgid);
  return tarn__sent(L, rc, msgid);
}

static int core_notify(lua_State *L) {
  uint32_t pid = tarn__check_pid(L, 1);
  const char *method = luaL_checkstring(L, 2);
  tarn_payload_t p = tarn__payload_list(L, 3, tarn__parameter_names(method));
  (void)tarn_service_notify(tarn_bind_of(L)->service, pid, method, p);
  queued(L);
  return 0;
}

/* A token as Lua has it: the connection's number times two, plus one for a foreign client. */
static uint64_t check_token(lua_State *L, int index, bool *foreign) {
  uint64_t t = (uint64_t)luaL_checknumber(L, index);
  *foreign = (t & 1) != 0;
  return t >> 1;
}

/* reply(token, msgid, ...): the results. To a foreign client one, plain, and a list of the DRefs whose keys stand in it, or nil. */
static int core_reply(lua_State *L) {
  bool foreign = false;
  uint64_t token = check_token(L, 1, &foreign);
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 2);
  tarn_payload_t p;
  if (foreign) {
    lua_settop(L, 4);
    bool refs = lua_istable(L, 4);
    p = tarn__payload_foreign(L, 3);
    if (refs) { /* fails only for lack of memory */
      tarn_payload_t held = tarn__payload_of(L, tarn_codec_encode(L, 4));
      tarn_free(held.front);
      p.guard = held.guard;
    }
  } else {
    p = tarn__payload_list(L, 3, &results);
  }
  (void)tarn_service_reply(tarn_bind_of(L)->service, token, msgid, true, foreign, p);
  queued(L);
  return 0;
}

static bool is_plain(lua_State *L, int index) {
  int type = lua_type(L, index);
  if (type != LUA_TTABLE) {
    return type == LUA_TSTRING || type == LUA_TNUMBER || type == LUA_TBOOLEAN;
  }
  bool has_metatable = lua_getmetatable(L, index) != 0;
  if (has_metatable) { lua_pop(L, 1); }
  return !has_metatable;
}

/* In place of the error at the top of the stack, a table: what a foreign client gets of it, a map. */
static void make_plain_error(lua_State *L) {
  static const char *const fields[] = {"kind",      "message",   "pid",  "needed",
                                       "available", "traceback", "path", "cause"};
  lua_newtable(L);
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    lua_pushstring(L, fields[i]);
    lua_rawget(L, -3);
    if (is_plain(L, -1)) {
      lua_setfield(L, -2, fields[i]);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_replace(L, -2);
}

/* The error at the top of the stack, to who asked. */
static void reply_error(lua_State *L, uint64_t token, uint32_t msgid, bool foreign) {
  if (foreign) { make_plain_error(L); }
  tarn_payload_t p = tarn__payload_of(L, tarn_codec_encode(L, -1));
  (void)tarn_service_reply(tarn_bind_of(L)->service, token, msgid, false, foreign, p);
}

static int core_reply_error(lua_State *L) {
  bool foreign = false;
  uint64_t token = check_token(L, 1, &foreign);
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 2);
  lua_settop(L, 3);
  reply_error(L, token, msgid, foreign);
  return 0;
}

/* ---- in ---- */

void tarn__expect_single(lua_State *L, uint32_t msgid) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&single_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushnumber(L, msgid);
  lua_pushboolean(L, true);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

static bool take_single(lua_State *L, uint32_t msgid) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&single_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushnumber(L, msgid);
  lua_rawget(L, -2);
  bool is = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (is) {
    lua_pushnumber(L, msgid);
    lua_pushnil(L);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
  return is;
}

static int decode_event(lua_State *L, tarn_event_t *e) {
  bool list = e->kind == TARN_EVENT_REQUEST || e->kind == TARN_EVENT_NOTIFY;
  if (e->kind == TARN_EVENT_RESPONSE) { list = !take_single(L, e->msgid) && e->ok; }
  uint32_t flags = TARN_DECODE_SEALED | (list ? TARN_DECODE_SPREAD : 0u);
  tarn_codec_received_from(L, e->foreign ? 0 : e->pid);
  if (e->value != NULL) {
    uint64_t size = tarn_value_size(e->value);
    if (tarn_value_is_borrowed(e->value)) {
      tarn_bind_feed_later(L, size);
    } else {
      tarn_bind_feed(L, size);
    }
    return tarn_codec_decode_value(L, e->value, flags);
  }
  if (e->bytes == NULL) {
    return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a message that came");
  }
  return tarn_codec_decode_bytes(L, e->bytes, e->size, flags);
}

static int core_payload(lua_State *L) {
  tarn_event_t *e = tarn_bind_of(L)->current;
  if (e == NULL) { return luaL_error(L, "core.payload: no event is being dispatched"); }
  lua_settop(L, 0);
  return decode_event(L, e);
}

static int core_forget(lua_State *L) {
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 1);
  (void)take_single(L, msgid);
  tarn_service_forget(tarn_bind_of(L)->service, msgid);
  return 0;
}

static int event_box_gc(lua_State *L) {
  tarn_event_t **box = lua_touserdata(L, 1);
  tarn_event_free(*box);
  *box = NULL;
  return 0;
}

static int core_wait(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 1);
  lua_settop(L, 0);
  tarn_event_t **box = tarn__userdata_new(L, sizeof(*box), "tarn.event_box", event_box_gc);
  b->host.enter(b->host.user);
  while ((*box = tarn_service_take_response(b->service, msgid)) == NULL) {
    b->host.turn(b->host.user);
  }
  b->host.leave(b->host.user);
  lua_pushboolean(L, (*box)->ok);
  int count = decode_event(L, *box);
  return count + 1;
}

static int core_congested(lua_State *L) {
  lua_pushboolean(L, tarn_service_congested(tarn_bind_of(L)->service, tarn__check_pid(L, 1)));
  return 1;
}

/* ---- requests that need the Lua thread, but no Lua code: what C could not serve by itself ---- */

/* pool.get of a live object: [id, origin] or [key] -> its value */
static int serve_get(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_event_t *e = b->current;
  lua_settop(L, 0);
  decode_event(L, e);
  uint64_t origin = tarn_service_id(b->service), id = 0, local = 0;
  tarn_place_t at = {0};
  if (lua_type(L, 1) == LUA_TSTRING) { /* a foreign client's: C has looked at it */
    const char *key = lua_tostring(L, 1), *colon = strchr(key, ':');
    origin = strtoull(key, NULL, 10);
    id = colon != NULL ? strtoull(colon + 1, NULL, 10) : 0;
  } else {
    id = (uint64_t)luaL_checknumber(L, 1);
    origin = (uint64_t)luaL_optnumber(L, 2, (double)origin);
  }
  int rc = tarn_service_ref_find(b->service, (uint32_t)origin, id, &local, &at);
  if (rc != 0) { return tarn__raise_moved(L, rc, at); }
  tarn_payload_t p = {.value = tarn_object_export(L, local, TARN_GET_VERIFIED)};
  (void)tarn_service_reply(b->service, e->token, e->msgid, true, e->foreign, p);
  return 0;
}

/* The flags of a pool.set whose value came in bulk: bytes are the beginning of its parameters, [flags, ... */
static uint32_t bulk_flags(const tarn_event_t *e) {
  tarn_mp_reader_t r = {e->bytes, e->bytes + e->size};
  uint32_t count = 0;
  uint64_t flags = 0;
  if (e->bytes == NULL || tarn_mp_read_array(&r, &count) != 0 ||
      tarn_mp_read_uint(&r, 0xff, &flags) != 0) {
    return 0;
  }
  return (uint32_t)flags;
}

/* Push the ref to the value in e's payload, stored here: [flags, value's image], or [value] of a foreign client. */
static void store_payload(lua_State *L, tarn_event_t *e) {
  if (e->value != NULL) { /* as it is: what serializers it needs does not matter here */
    tarn_value_retain(e->value);
    uint64_t id = tarn_object_store(L, e->value, TARN_BLOCK_WAIT | bulk_flags(e) << 8);
    tarn_ref_push_new(L, id, tarn_value_size(e->value));
    return;
  }
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tarn.core");
  lua_call(L, 1, 1);
  lua_getfield(L, 1, "pool_set");
  decode_event(L, e);
  if (e->foreign) {
    lua_settop(L, 3);
    lua_pushnumber(L, 0);
  } else { /* flags, then the image as a string */
    size_t size = 0;
    const char *bytes = lua_type(L, 4) == LUA_TSTRING ? lua_tolstring(L, 4, &size) : NULL;
    if (bytes == NULL) { tarn_bind_raise_kind(L, TARN_EPROTO, "pool.set: an image is needed"); }
    lua_settop(L, 4);
    tarn_codec_received_from(L, e->pid);
    tarn_codec_decode_bytes(L, (const uint8_t *)bytes, size, 0);
    lua_replace(L, 4);
    lua_insert(L, 3); /* the value before the flags */
  }
  lua_call(L, 2, 1);
}

/* pool.set for which room must be made */
static int serve_set(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_event_t *e = b->current;
  lua_settop(L, 0);
  store_payload(L, e);
  int ref = lua_gettop(L);
  tarn_payload_t p =
      e->foreign ? tarn__payload_foreign(L, ref) : tarn__payload_of(L, tarn_codec_encode(L, ref));
  tarn_ref_release(L, ref); /* who has set it holds it, not we */
  (void)tarn_service_reply(b->service, e->token, e->msgid, true, e->foreign, p);
  return 0;
}

lua_CFunction tarn__native_method(const tarn_event_t *e) {
  const char *method = e->method;
  /* Of a foreign client, lua/tarn/foreign.lua serves it: the object need not be here. */
  if (strcmp(method, "pool.get") == 0) { return e->foreign ? NULL : serve_get; }
  if (strcmp(method, "spread.get") == 0) { return serve_get; }
  if (strcmp(method, "pool.set") == 0) { return serve_set; }
  return NULL;
}

/* The error at the top of the stack goes to who asked. Protected: called by tarn_bind_dispatch. */
int tarn__reply_failure(lua_State *L) {
  tarn_event_t *e = tarn_bind_of(L)->current;
  if (!lua_istable(L, 1)) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_EREMOTE, "%s",
                   lua_isstring(L, 1) ? lua_tostring(L, 1) : "an error without a message");
    tarn_bind_push_error(L, &err);
    lua_replace(L, 1);
  }
  lua_settop(L, 1);
  reply_error(L, e->token, e->msgid, e->foreign);
  return 0;
}

void tarn_messages_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"request", core_request},     {"notify", core_notify},
      {"reply", core_reply},         {"reply_error", core_reply_error},
      {"payload", core_payload},     {"answer_get", serve_get},
      {"forget", core_forget},       {"wait", core_wait},
      {"congested", core_congested}, {NULL, NULL}};
  lua_pushlightuserdata(L, (void *)(uintptr_t)&single_key);
  lua_newtable(L);
  lua_rawset(L, LUA_REGISTRYINDEX);
  luaL_register(L, NULL, functions);
  tarn__payload_open(L);
  tarn__plain_open(L);
}
