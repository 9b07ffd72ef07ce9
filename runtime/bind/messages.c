/* core.request and its kin: encoding what goes out, decoding what came in. Lua thread only.
 *
 * A list of values travels as one image that is an array; a value of the pool's travels as itself. Which of the two a response is, is known
 * from its request: `single` remembers the msgids of the second kind. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "bind.h"
#include "codec.h"
#include "image/image.h"
#include "service/service.h"

static const char single_key = 0; /* registry: msgid -> true */

/* ---- out ---- */

/* Blocks that are still writable are copied: the caller may go on writing while they are being sent. */
static void freeze_blocks(lua_State *L, tarn_encoded_t *e) {
  for (uint32_t i = 0; i < e->block_count; i++) {
    tarn_block_t *from = e->blocks[i];
    if (from->sealed) { continue; }
    tarn_block_t *to = tarn_bind_block_create(L, from->size, false);
    if (from->size > 0) { memcpy(to->data, from->data, (size_t)from->size); }
    for (uint32_t j = i; j < e->block_count; j++) { /* the same block may stand twice */
      if (e->blocks[j] != from) { continue; }
      if (j > i) {
        tarn_block_retain(to);
        tarn_error_t err;
        if (tarn_block_map(to, &err) != 0) {
          tarn_block_release(to);
          tarn_bind_raise(L, &err);
        }
      }
      e->blocks[j] = to;
      tarn_block_unmap(from);
      tarn_block_release(from);
    }
  }
}

static tarn_payload_t payload_of(lua_State *L, tarn_encoded_t *e) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_payload_t p = {0};
  tarn_error_t err = {0};
  if (e->block_count == 0) {
    p.front = e->front;
    p.front_size = e->front_size;
    e->front = NULL;
  } else if (e->block_bytes < TARN_INLINE_BYTES) {
    const void **blocks = lua_newuserdata(L, e->block_count * sizeof(*blocks));
    tarn_buf_t image;
    tarn_buf_init(&image, SIZE_MAX / 2);
    for (uint32_t i = 0; i < e->block_count; i++) { blocks[i] = e->blocks[i]->data; }
    int rc = tarn_image_join(e->front, e->front_size, blocks, &image);
    lua_pop(L, 1);
    if (rc != 0) {
      tarn_buf_release(&image);
      tarn_bind_raise_kind(L, rc, "a message could not be built");
    }
    p.front = tarn_buf_detach(&image, &p.front_size);
  } else {
    freeze_blocks(L, e);
    int rc = tarn_value_create(b->pool, e->front, e->front_size, e->blocks, e->block_count,
                               &p.value, &err);
    if (rc != 0) { tarn_bind_raise(L, &err); }
    e->front = NULL;
    e->block_count = 0;
  }
  int rc = p.value != NULL ? tarn_service_guard_value(b->service, p.value)
                           : tarn_service_guard(b->service, p.front, p.front_size, &p.guard);
  if (rc != 0) {
    tarn_free(p.front);
    if (p.value != NULL) { tarn_value_release(p.value); }
    tarn_bind_raise_kind(L, rc, "out of memory for the references of a message");
  }
  tarn_encoded_clear(e);
  return p;
}

/* To a foreign client a ref is its key; what it stands for is the client's until it closes its connection. */
static tarn_payload_t foreign_payload(lua_State *L, int index) {
  if (tarn_ref_test(L, index) == NULL) { return payload_of(L, tarn_codec_encode(L, index)); }
  lua_getfield(L, index, "key");
  lua_pushvalue(L, index);
  lua_call(L, 1, 1);
  tarn_payload_t held = payload_of(L, tarn_codec_encode(L, index));
  tarn_free(held.front);
  /* A string is encoded without blocks and references, and fails only for lack of memory: the guard is lost then, and the object stays. */
  tarn_payload_t p = payload_of(L, tarn_codec_encode(L, -2));
  p.guard = held.guard;
  return p;
}

static tarn_payload_t list_payload(lua_State *L, int first) {
  int count = lua_gettop(L) - first + 1;
  return payload_of(L, tarn_codec_encode_list(L, first, count > 0 ? count : 0));
}

static uint32_t check_pid(lua_State *L, int index) {
  double pid = luaL_checknumber(L, index);
  if (!(pid >= 1 && pid <= 4294967295.0) || pid != (double)(uint32_t)pid) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "a process id is a positive integer");
  }
  return (uint32_t)pid;
}

static int sent(lua_State *L, int rc, uint32_t msgid) {
  if (rc != 0) { return tarn_bind_raise_kind(L, TARN_ENOMEM, "out of memory for a message"); }
  lua_pushnumber(L, msgid);
  return 1;
}

static int core_request(lua_State *L) {
  uint32_t pid = check_pid(L, 1), msgid = 0;
  const char *method = luaL_checkstring(L, 2);
  tarn_payload_t p = list_payload(L, 3);
  int rc = tarn_service_request(tarn_bind_of(L)->service, pid, method, p, &msgid);
  return sent(L, rc, msgid);
}

static int core_notify(lua_State *L) {
  uint32_t pid = check_pid(L, 1);
  const char *method = luaL_checkstring(L, 2);
  tarn_payload_t p = list_payload(L, 3);
  (void)tarn_service_notify(tarn_bind_of(L)->service, pid, method, p);
  return 0;
}

/* A token as Lua has it: the connection's number times two, plus one for a foreign client. */
static uint64_t check_token(lua_State *L, int index, bool *foreign) {
  uint64_t t = (uint64_t)luaL_checknumber(L, index);
  *foreign = (t & 1) != 0;
  return t >> 1;
}

static int core_reply(lua_State *L) {
  bool foreign = false;
  uint64_t token = check_token(L, 1, &foreign);
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 2);
  tarn_payload_t p;
  if (foreign) {
    lua_settop(L, 3); /* the first result */
    p = foreign_payload(L, 3);
  } else {
    p = list_payload(L, 3);
  }
  (void)tarn_service_reply(tarn_bind_of(L)->service, token, msgid, true, foreign, p);
  return 0;
}

static int core_reply_error(lua_State *L) {
  bool foreign = false;
  uint64_t token = check_token(L, 1, &foreign);
  uint32_t msgid = (uint32_t)luaL_checknumber(L, 2);
  lua_settop(L, 3);
  tarn_payload_t p = payload_of(L, tarn_codec_encode(L, 3));
  (void)tarn_service_reply(tarn_bind_of(L)->service, token, msgid, false, foreign, p);
  return 0;
}

/* ---- to methods that C serves there ---- */

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
    tarn_free(with.front);
    if (with.value != NULL) { tarn_value_release(with.value); }
    tarn_service_unguard(tarn_bind_of(L)->service, with.guard);
  }
  sent(L, rc, msgid);
  lua_pushlightuserdata(L, (void *)(uintptr_t)&single_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, -2);
  lua_pushboolean(L, true);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  return 1;
}

static int ref_request(lua_State *L, const char *method) {
  tarn_ref_t *r = tarn_ref_test(L, 1);
  if (r == NULL) { return luaL_typerror(L, 1, "DRef"); }
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  uint32_t owner = tarn_ref_owner(r);
  bool adopted = owner != r->origin;
  int rc = tarn_mp_write_array(&b, adopted ? 2 : 1) | tarn_mp_write_uint(&b, r->id);
  if (adopted) { rc |= tarn_mp_write_uint(&b, r->origin); }
  return tarn__plain_request(L, owner, method, &b, rc, (tarn_payload_t){0});
}

static int pool_get_at(lua_State *L) { return ref_request(L, "pool.get"); }
static int pool_delete_at(lua_State *L) { return ref_request(L, "pool.delete"); }

static int empty_request(lua_State *L, const char *method) {
  uint32_t pid = check_pid(L, 1);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 0);
  return tarn__plain_request(L, pid, method, &b, rc, (tarn_payload_t){0});
}

/* serializer_at(pid, name) -> msgid: what it offers under that name */
static int core_serializer_at(lua_State *L) {
  uint32_t pid = check_pid(L, 1);
  size_t length = 0;
  const char *name = luaL_checklstring(L, 2, &length);
  tarn_buf_t b;
  tarn_buf_init(&b, length + 64);
  int rc = tarn_mp_write_array(&b, 1) | tarn_mp_write_str(&b, name, length);
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
  uint32_t pid = check_pid(L, 1);
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

static int pool_set_at(lua_State *L) {
  uint32_t pid = check_pid(L, 1);
  luaL_checkany(L, 2);
  uint32_t flags = (uint32_t)luaL_optinteger(L, 3, 0);
  tarn_payload_t p = payload_of(L, tarn_codec_encode(L, 2));
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 1) | tarn_mp_write_uint(&b, flags);
  return tarn__plain_request(L, pid, "pool.set", &b, rc, p);
}

/* ---- in ---- */

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
    tarn_bind_feed(L, tarn_value_size(e->value));
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
  tarn_event_t **box = lua_newuserdata(L, sizeof(*box));
  *box = NULL;
  luaL_getmetatable(L, "tarn.event_box");
  lua_setmetatable(L, -2);
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
  lua_pushboolean(L, tarn_service_congested(tarn_bind_of(L)->service, check_pid(L, 1)));
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
      e->foreign ? foreign_payload(L, ref) : payload_of(L, tarn_codec_encode(L, ref));
  tarn_ref_release(L, ref); /* who has set it holds it, not we */
  (void)tarn_service_reply(b->service, e->token, e->msgid, true, e->foreign, p);
  return 0;
}

lua_CFunction tarn__native_method(const char *method) {
  if (strcmp(method, "pool.get") == 0) { return serve_get; }
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
  tarn_payload_t p = payload_of(L, tarn_codec_encode(L, 1));
  (void)tarn_service_reply(tarn_bind_of(L)->service, e->token, e->msgid, false, e->foreign, p);
  return 0;
}

void tarn_messages_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"request", core_request},
                                       {"notify", core_notify},
                                       {"reply", core_reply},
                                       {"reply_error", core_reply_error},
                                       {"payload", core_payload},
                                       {"forget", core_forget},
                                       {"wait", core_wait},
                                       {"congested", core_congested},
                                       {"ping", core_ping},
                                       {"serializer_at", core_serializer_at},
                                       {"offer_serializer", core_offer_serializer},
                                       {"pool_get_at", pool_get_at},
                                       {"pool_delete_at", pool_delete_at},
                                       {"pool_set_at", pool_set_at},
                                       {"pool_stats_at", pool_stats_at},
                                       {"pool_limits_at", pool_limits_at},
                                       {NULL, NULL}};
  luaL_newmetatable(L, "tarn.event_box");
  lua_pushcfunction(L, event_box_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_pushlightuserdata(L, (void *)(uintptr_t)&single_key);
  lua_newtable(L);
  lua_rawset(L, LUA_REGISTRYINDEX);
  luaL_register(L, NULL, functions);
}
