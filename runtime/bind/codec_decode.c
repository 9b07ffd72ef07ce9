/* Skeleton bytes to Lua values, checked token by token: every count against the bytes that are left before a table is made for
 * it, every index against what is there. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"
#include "bind/peek.h"

enum {
  UNCOLLECTED_BYTES = 64 << 10,
  SLOTS_A_LEVEL = 8,
  MAX_ARRAY = 1 << 27,
  MAX_PAIRS = 1 << 26 /* LuaJIT's own bounds */
};

int tarn__decode_corrupt(tarn__decoder_t *d, const char *what) {
  return tarn__failure_set(&d->failure, TARN_ECORRUPT, "image: %s", what);
}

void tarn__decode_made(tarn__decoder_t *d, lua_State *L) {
  if (d->image.backrefs) {
    lua_pushvalue(L, -1);
    lua_rawseti(L, d->made_index, (int)d->made + 1);
  }
  d->made++;
}

/* ---- arrays and maps ---- */

/* One that is a Lua number: no integer beyond 2^53. NaNs are made the ordinary one: LuaJIT keeps types in others. */
static bool is_number(const tarn_mp_token_t *t, double *number) {
  if (t->kind == TARN_MP_UINT && t->v.u <= (uint64_t)TARN__INTEGER_MAX) {
    *number = (double)t->v.u;
  } else if (t->kind == TARN_MP_INT && t->v.i <= (int64_t)TARN__INTEGER_MAX &&
             t->v.i >= -(int64_t)TARN__INTEGER_MAX) {
    *number = (double)t->v.i;
  } else if (t->kind == TARN_MP_DOUBLE) {
    *number = isnan(t->v.d) ? (double)NAN : t->v.d;
  } else {
    return false;
  }
  return true;
}

/* Values that a container promises take a byte each, beside those that the containers around it still wait for: so what is allocated
 * for promises never exceeds the input. */
static int enter(tarn__decoder_t *d, lua_State *L, uint64_t values) {
  uint64_t left = (uint64_t)(d->in.end - d->in.at);
  if (values > left || d->pending > left - values) {
    return tarn__decode_corrupt(d, "more elements are promised than there are bytes");
  }
  if (d->depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, SLOTS_A_LEVEL)) {
    return tarn__failure_set(&d->failure, TARN_ECORRUPT, "image: nested deeper than %u levels",
                             TARN_IMAGE_MAX_DEPTH);
  }
  d->depth++;
  d->pending += values;
  return 0;
}

/* From element i on, the numbers of an array, as long as there are any: they go where LuaJIT keeps them, and no call is made for each. The element
 * after the last. */
static uint32_t decode_numbers(tarn__decoder_t *d, tarn__table_t *t, uint32_t i, uint32_t count) {
  if (t->slots <= count) { return i; } /* not as it was made: a serializer has had it */
  tarn__slot_t *array = (tarn__slot_t *)(uintptr_t)t->array;
  const uint8_t *at = d->in.at, *end = d->in.end;
  uint32_t first = i;
  for (; i <= count && end - at >= 3; i++) {
    if (at[0] < 0x80) {
      tarn__slot_set_number(&array[i], at[0]);
      at += 1;
    } else if (at[0] == 0xcc) {
      tarn__slot_set_number(&array[i], at[1]);
      at += 2;
    } else if (at[0] == 0xcd) {
      tarn__slot_set_number(&array[i], tarn__mp_load16(at + 1));
      at += 3;
    } else {
      double number;
      tarn_mp_token_t token;
      tarn_mp_reader_t ahead = {at, end};
      if (tarn_mp_read(&ahead, &token) || !is_number(&token, &number)) { break; }
      tarn__slot_set_number(&array[i], number);
      at = ahead.at;
    }
  }
  d->in.at = at;
  d->pending -= i - first;
  return i;
}

static int decode_array(tarn__decoder_t *d, lua_State *L, uint32_t count) {
  if (count >= MAX_ARRAY) {
    return tarn__failure_set(&d->failure, TARN_ETOOBIG,
                             "an array of %u elements does not fit into a Lua table", count);
  }
  int rc = enter(d, L, count);
  if (rc) { return rc; }
  lua_createtable(L, (int)count, 0);
  tarn__decode_made(d, L);
  int table = lua_gettop(L);
  tarn__table_t *t = d->codec->peek_tables ? (void *)(uintptr_t)lua_topointer(L, table) : NULL;
  for (uint32_t i = 1; i <= count; i++) {
    if (t) { i = decode_numbers(d, t, i, count); }
    if (i > count) { break; }
    d->pending--;
    rc = tarn__decode_value(d, L);
    if (rc) { return rc; }
    lua_rawseti(L, table, (int)i);
  }
  d->depth--;
  return 0;
}

static bool is_nan(lua_State *L, int index) {
  return lua_type(L, index) == LUA_TNUMBER && isnan(lua_tonumber(L, index));
}

static int decode_map(tarn__decoder_t *d, lua_State *L, uint32_t count) {
  if (count >= MAX_PAIRS) {
    return tarn__failure_set(&d->failure, TARN_ETOOBIG,
                             "a map of %u pairs does not fit into a Lua table", count);
  }
  int rc = enter(d, L, 2 * (uint64_t)count);
  if (rc) { return rc; }
  lua_createtable(L, 0, (int)count);
  tarn__decode_made(d, L);
  int table = lua_gettop(L);
  for (uint32_t i = 0; i < count; i++) {
    d->pending--;
    rc = tarn__decode_value(d, L);
    if (rc) { return rc; }
    if (lua_isnil(L, -1) || is_nan(L, -1)) {
      return tarn__decode_corrupt(d, "a map's key is nil or NaN");
    }
    d->pending--;
    rc = tarn__decode_value(d, L);
    if (rc) { return rc; }
    lua_rawset(L, table);
  }
  d->depth--;
  return 0;
}

/* ---- extensions ---- */

static int decode_backref(tarn__decoder_t *d, lua_State *L) {
  uint64_t number;
  if (tarn_mp_read_uint(&d->in, UINT32_MAX, &number) || number >= d->made || !d->image.backrefs) {
    return tarn__decode_corrupt(d, "a reference back to what is not there");
  }
  lua_rawgeti(L, d->made_index, (int)number + 1);
  if (lua_isboolean(L, -1)) {
    return tarn__decode_corrupt(
        d, "a typed value that holds itself, or a reference back to a list of arguments");
  }
  return 0;
}

static int decode_wide(tarn__decoder_t *d, lua_State *L, bool is_unsigned) {
  uint64_t v;
  if (d->in.end - d->in.at != (ptrdiff_t)sizeof v) {
    return tarn__decode_corrupt(d, "a 64-bit integer of another size");
  }
  memcpy(&v, d->in.at, sizeof v);
  d->in.at += sizeof v;
  if (is_unsigned) {
    tarn__codec_push_uint64(L, d->codec, v);
  } else {
    tarn__codec_push_int64(L, d->codec, (int64_t)v);
  }
  return 0;
}

static int decode_ref(tarn__decoder_t *d, lua_State *L) {
  uint32_t count;
  uint64_t origin, id, size, owner;
  if (tarn_mp_read_array(&d->in, &count) || count < 3 || count > 4 ||
      tarn_mp_read_uint(&d->in, UINT32_MAX, &origin) ||
      tarn_mp_read_uint(&d->in, UINT64_MAX, &id) || tarn_mp_read_uint(&d->in, UINT64_MAX, &size)) {
    return tarn__decode_corrupt(d, "malformed DRef");
  }
  owner = origin;
  if (count == 4 && tarn_mp_read_uint(&d->in, UINT32_MAX, &owner)) {
    return tarn__decode_corrupt(d, "malformed DRef");
  }
  tarn_ref_push(L, (uint32_t)origin, id, size, (uint32_t)owner);
  return 0;
}

/* [host, path, size], or [host, nil, size, DRef]; what a later version may add is passed over. */
static int decode_fileref(tarn__decoder_t *d, lua_State *L) {
  uint32_t count, host_length;
  const uint8_t *host;
  tarn_mp_token_t path;
  uint64_t size;
  if (tarn_mp_read_array(&d->in, &count) || count < 3 ||
      tarn_mp_read_bytes(&d->in, &host, &host_length) || tarn_mp_read(&d->in, &path) ||
      tarn_mp_read_uint(&d->in, UINT64_MAX, &size)) {
    return tarn__decode_corrupt(d, "malformed FileRef");
  }
  bool with_path = path.kind == TARN_MP_STR || path.kind == TARN_MP_BIN;
  if (with_path ? path.length == 0 || memchr(path.bytes, 0, path.length)
                : count < 4 || path.kind != TARN_MP_NIL) {
    return tarn__decode_corrupt(d, "malformed FileRef");
  }
  if (!with_path) {
    int rc = tarn__decode_value(d, L);
    if (rc) { return rc; }
    if (!tarn_ref_test(L, -1)) { return tarn__decode_corrupt(d, "malformed FileRef"); }
  }
  for (uint32_t i = with_path ? 3 : 4; i < count; i++) {
    if (tarn_mp_skip(&d->in, TARN_IMAGE_MAX_DEPTH)) {
      return tarn__decode_corrupt(d, "malformed FileRef");
    }
  }
  tarn__fileref_push(L, (const char *)host, host_length,
                     with_path ? (const char *)path.bytes : NULL, with_path ? path.length : 0, size,
                     with_path ? 0 : lua_gettop(L));
  if (!with_path) { lua_remove(L, -2); }
  return 0;
}

/* [module] or [module, key] -> the object. */
int tarn__decode_name(tarn__decoder_t *d, lua_State *L) {
  uint32_t count, module_length, key_length = 0;
  const uint8_t *module, *key = NULL;
  if (tarn_mp_read_array(&d->in, &count) || count < 1 || count > 2 ||
      tarn_mp_read_bytes(&d->in, &module, &module_length) ||
      (count == 2 && tarn_mp_read_bytes(&d->in, &key, &key_length))) {
    return tarn__decode_corrupt(d, "malformed name");
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, d->codec->resolve_name);
  lua_pushlstring(L, (const char *)module, module_length);
  if (key) {
    lua_pushlstring(L, (const char *)key, key_length);
  } else {
    lua_pushnil(L);
  }
  lua_pushboolean(L, !(d->flags & TARN_DECODE_NO_CODE));
  lua_pushnumber(L, d->from);
  if (lua_pcall(L, 4, 1, 0) || lua_isnil(L, -1)) {
    const char *text = lua_tostring(L, -1);
    return tarn__failure_set(&d->failure, TARN__NOT_SERIALIZABLE, "%.300s",
                             text ? text : "a name that means nothing here");
  }
  return 0;
}

static int decode_with_metatable(tarn__decoder_t *d, lua_State *L) {
  uint32_t count;
  int rc = tarn_mp_read_array(&d->in, &count);
  if (rc || count != 2) { return tarn__decode_corrupt(d, "malformed table with a metatable"); }
  rc = tarn__decode_name(d, L);
  if (rc) { return rc; }
  if (!lua_istable(L, -1)) { return tarn__decode_corrupt(d, "a metatable that is no table"); }
  tarn_mp_token_t t;
  tarn_mp_reader_t ahead = d->in;
  /* a table of its own, not one that is already somewhere else */
  if (tarn_mp_read(&ahead, &t) || (t.kind != TARN_MP_ARRAY && t.kind != TARN_MP_MAP)) {
    return tarn__decode_corrupt(d, "a metatable for what is no table");
  }
  rc = tarn__decode_value(d, L);
  if (rc) { return rc; }
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return 0;
}

static int decode_payload(tarn__decoder_t *d, lua_State *L, int8_t type) {
  switch (type) {
  case TARN_EXT_BACKREF:
    return decode_backref(d, L);
  case TARN_EXT_INT64:
    return decode_wide(d, L, false);
  case TARN_EXT_UINT64:
    return decode_wide(d, L, true);
  case TARN_EXT_NAME:
    return tarn__decode_name(d, L);
  case TARN_EXT_FUNCTION:
    return tarn__decode_function(d, L);
  case TARN_EXT_DREF:
    return decode_ref(d, L);
  case TARN_EXT_FILEREF:
    return decode_fileref(d, L);
  case TARN_EXT_TYPED:
    return tarn__decode_typed(d, L);
  case TARN_EXT_META:
    return decode_with_metatable(d, L);
  case TARN_EXT_BLOCK:
    return tarn__decode_corrupt(d, "a block where a value is expected");
  default:
    return tarn__failure_set(&d->failure, TARN_ECORRUPT,
                             "image: extension type %d is not known here", type);
  }
}

/* The payload is read as an input of its own. */
static int decode_ext(tarn__decoder_t *d, lua_State *L, const tarn_mp_token_t *t) {
  if (d->depth >= TARN_IMAGE_MAX_DEPTH + 2 || !lua_checkstack(L, SLOTS_A_LEVEL)) {
    return tarn__failure_set(&d->failure, TARN_ECORRUPT, "image: nested deeper than %u levels",
                             TARN_IMAGE_MAX_DEPTH);
  }
  bool counts = t->ext_type == TARN_EXT_FUNCTION || t->ext_type == TARN_EXT_TYPED;
  const uint8_t *end = d->in.end;
  uint64_t pending = d->pending;
  d->in = (tarn_mp_reader_t){t->bytes, t->bytes + t->length};
  d->pending = 0;
  d->depth += counts;
  int rc = decode_payload(d, L, t->ext_type);
  if (rc) { return rc; }
  if (d->in.at != d->in.end) { return tarn__decode_corrupt(d, "an extension with bytes to spare"); }
  d->depth -= counts;
  d->pending = pending;
  d->in = (tarn_mp_reader_t){t->bytes + t->length, end};
  return 0;
}

/* ---- one value ---- */

static int push_uint(tarn__decoder_t *d, lua_State *L, uint64_t u) {
  if (u <= (uint64_t)TARN__INTEGER_MAX) {
    lua_pushnumber(L, (double)u);
  } else {
    tarn__codec_push_uint64(L, d->codec, u);
  }
  return 0;
}

static int push_int(tarn__decoder_t *d, lua_State *L, int64_t i) {
  if (i <= (int64_t)TARN__INTEGER_MAX && i >= -(int64_t)TARN__INTEGER_MAX) {
    lua_pushnumber(L, (double)i);
  } else {
    tarn__codec_push_int64(L, d->codec, i);
  }
  return 0;
}

int tarn__decode_value(tarn__decoder_t *d, lua_State *L) {
  tarn_mp_token_t t;
  if (tarn_mp_read(&d->in, &t)) { return tarn__decode_corrupt(d, "cut off, or an unknown byte"); }
  switch (t.kind) {
  case TARN_MP_UINT:
    return push_uint(d, L, t.v.u);
  case TARN_MP_INT:
    return push_int(d, L, t.v.i);
  case TARN_MP_DOUBLE:
    lua_pushnumber(L, t.v.d);
    return 0; /* makes any NaN the ordinary one */
  case TARN_MP_STR:
  case TARN_MP_BIN:
    lua_pushlstring(L, (const char *)t.bytes, t.length);
    return 0;
  case TARN_MP_ARRAY:
    return decode_array(d, L, t.length);
  case TARN_MP_MAP:
    return decode_map(d, L, t.length);
  case TARN_MP_NIL:
    lua_pushnil(L);
    return 0;
  case TARN_MP_FALSE:
    lua_pushboolean(L, 0);
    return 0;
  case TARN_MP_TRUE:
    lua_pushboolean(L, 1);
    return 0;
  default:
    return decode_ext(d, L, &t);
  }
}

/* ---- a whole image ---- */

void tarn__decoder_release(tarn__decoder_t *d) {
  for (uint32_t i = 0; d->blocks && i < d->image.block_count; i++) {
    if (d->blocks[i]) { tarn__block_give(d->blocks[i]); }
  }
  tarn_free(d->blocks);
  tarn_free(d->offsets);
  tarn_free(d->upvalues);
  d->blocks = NULL;
  d->offsets = NULL;
  d->upvalues = NULL;
}

/* A decoder, pushed. */
static tarn__decoder_t *begin(lua_State *L, uint32_t flags) {
  tarn__codec_t *c = tarn__codec_of(L);
  luaL_checkstack(L, 20, "decode");
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->idle_decoder);
  tarn__decoder_t *d = lua_touserdata(L, -1);
  if (d) {
    lua_pushboolean(L, 0);
    lua_rawseti(L, LUA_REGISTRYINDEX, c->idle_decoder);
  } else {
    lua_pop(L, 1);
    d = lua_newuserdata(L, sizeof *d);
    memset(d, 0, sizeof *d);
    luaL_getmetatable(L, TARN__DECODER_METATABLE);
    lua_setmetatable(L, -2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->none);
    lua_setfenv(L, -2);
  }
  memset(d, 0, sizeof *d);
  d->codec = c;
  d->from = c->received_from;
  c->received_from = 0;
  d->flags = flags;
  d->self = lua_gettop(L);
  return d;
}

static void end(lua_State *L, tarn__decoder_t *d, int index) {
  tarn__decoder_release(d);
  lua_rawgeti(L, LUA_REGISTRYINDEX, d->codec->none);
  lua_setfenv(L, index);
  lua_pushvalue(L, index);
  lua_rawseti(L, LUA_REGISTRYINDEX, d->codec->idle_decoder);
}

typedef struct find {
  tarn__decoder_t *d;
  lua_State *L;
  int environment;
} find_t;

/* Head's serializer -> environment[index + 1]. */
static int find_serializer(void *ud, uint32_t index, const tarn_image_serializer_t *s) {
  find_t *f = ud;
  lua_State *L = f->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, f->d->codec->find);
  lua_pushlstring(L, s->name, s->name_length);
  lua_pushnumber(L, s->version);
  lua_pushlstring(L, (const char *)&s->hash, sizeof s->hash);
  lua_pushboolean(L, !(f->d->flags & TARN_DECODE_NO_CODE));
  lua_pushnumber(L, f->d->from);
  int failed = lua_isfunction(L, -6) ? lua_pcall(L, 5, 1, 0) : 1;
  if (failed || !lua_istable(L, -1)) {
    const char *text = failed ? lua_tostring(L, -1) : NULL;
    return tarn__failure_set(&f->d->failure, TARN__NOT_SERIALIZABLE,
                             "unknown serializer '%.*s' (version %u)%s%.280s",
                             (int)(s->name_length < 80 ? s->name_length : 80), s->name, s->version,
                             text ? ": " : "", text ? text : "");
  }
  lua_rawseti(L, f->environment, (int)index + 1);
  f->d->serializer_count = index + 1;
  return 0;
}

/* The environment (serializers, made values) and the table of made values, where they are needed; d->made_index is set. */
static int prepare(tarn__decoder_t *d, lua_State *L) {
  lua_newtable(L);
  if (!d->image.head) { return 0; }
  int made = lua_gettop(L);
  d->made_index = made;
  lua_newtable(L);
  lua_pushvalue(L, made);
  lua_setfield(L, -2, "made");
  lua_pushvalue(L, -1);
  lua_setfenv(L, d->self);
  find_t f = {d, L, made + 1};
  int rc = tarn_image_each_serializer(&d->image, find_serializer, &f);
  lua_settop(L, rc ? made + 1 : made);
  return rc;
}

/* An array's elements instead of the array. */
static int decode_spread(tarn__decoder_t *d, lua_State *L, int *pushed) {
  uint32_t count;
  if (tarn_mp_read_array(&d->in, &count)) {
    return tarn__decode_corrupt(d, "a list of values is expected");
  }
  int rc = enter(d, L, count);
  if (rc) { return rc; }
  if (count > 7000 || !lua_checkstack(L, (int)count + 20)) {
    return tarn__failure_set(&d->failure, TARN_ETOOBIG, "a list of %u values is too long", count);
  }
  lua_pushboolean(L, 0);
  tarn__decode_made(d, L);
  lua_pop(L, 1);
  for (uint32_t i = 0; i < count && !rc; i++) {
    d->pending--;
    rc = tarn__decode_value(d, L);
  }
  *pushed = (int)count;
  return rc;
}

/* Decode the opened image; the decoder is at the top of the stack and is replaced by what it gives. */
static int run_collected(lua_State *L, tarn__decoder_t *d) {
  int self = d->self;
  d->in = (tarn_mp_reader_t){d->image.skeleton, d->image.skeleton + d->image.skeleton_size};
  int pushed = 1;
  int rc = d->image.head ? prepare(d, L) : 0;
  int base = lua_gettop(L);
  if (!rc) {
    rc = d->flags & TARN_DECODE_SPREAD ? decode_spread(d, L, &pushed) : tarn__decode_value(d, L);
  }
  if (!rc && d->in.at != d->in.end) { rc = tarn__decode_corrupt(d, "bytes behind the value"); }
  if (rc) {
    tarn__failure_push(L, &d->failure, self);
    end(L, d, self);
    return lua_error(L);
  }
  end(L, d, self);
  for (int i = base; i >= self; i--) { lua_remove(L, i); }
  return pushed;
}

static int run_uncollected(lua_State *L) {
  tarn__decoder_t *d = lua_touserdata(L, 1);
  d->self = 1;
  return run_collected(L, d);
}

static int found(void *ud, uint32_t index, const tarn_image_serializer_t *s) {
  (void)ud, (void)index, (void)s;
  return 1;
}

/* The same. Nothing that plain values are made of is garbage before they are complete: a collection meanwhile would look at all of it in vain (half of
 * the time that 100,000 records take). What serializers do makes garbage. */
static int run(lua_State *L, tarn__decoder_t *d) {
  if (d->image.skeleton_size < UNCOLLECTED_BYTES || !lua_gc(L, LUA_GCISRUNNING, 0) ||
      tarn_image_each_serializer(&d->image, found, NULL)) {
    return run_collected(L, d);
  }
  int self = d->self;
  lua_pushcfunction(L, run_uncollected);
  lua_insert(L, self);
  lua_gc(L, LUA_GCSTOP, 0);
  int failed = lua_pcall(L, 1, LUA_MULTRET, 0);
  lua_gc(L, LUA_GCRESTART, 0);
  return failed ? lua_error(L) : lua_gettop(L) - self + 1;
}

static int fail_open(lua_State *L, tarn__decoder_t *d, int self, int rc, const tarn_error_t *err) {
  tarn__failure_set(&d->failure, rc, "%s", err->message);
  tarn__failure_push(L, &d->failure, self);
  d->image.block_count = 0;
  end(L, d, self);
  return lua_error(L);
}

int tarn_codec_decode_value(lua_State *L, tarn_value_t *v, uint32_t flags) {
  tarn__decoder_t *d = begin(L, flags);
  size_t size;
  const uint8_t *front = tarn_value_front(v, &size);
  tarn_error_t err = {0};
  int rc = tarn_image_open(front, size, &d->image, &err);
  if (!rc && d->image.block_count != tarn_value_block_count(v)) {
    rc = tarn_error_set(&err, TARN_ECORRUPT, "image: %u blocks where the value has %u",
                        d->image.block_count, tarn_value_block_count(v));
  }
  if (rc) { return fail_open(L, d, d->self, rc, &err); }
  d->value = v;
  return run(L, d);
}

int tarn_codec_decode_bytes(lua_State *L, const uint8_t *bytes, size_t size, uint32_t flags) {
  tarn__decoder_t *d = begin(L, flags);
  tarn_error_t err = {0};
  int rc = tarn_image_open(bytes, size, &d->image, &err);
  if (!rc && d->image.detached) {
    rc = tarn_error_set(&err, TARN_ECORRUPT, "image: its blocks are not here");
  }
  uint32_t count = d->image.block_count;
  if (!rc && count) {
    d->bytes = bytes;
    d->blocks = tarn_calloc(count, sizeof(tarn_block_t *));
    d->offsets = tarn_calloc(count, sizeof *d->offsets);
    if (!d->blocks || !d->offsets) {
      rc = tarn_error_set(&err, TARN_ENOMEM, "out of memory while decoding");
    }
  }
  if (rc) {
    tarn_free(d->blocks);
    d->blocks = NULL;
    return fail_open(L, d, d->self, rc, &err);
  }
  uint64_t at = tarn_image_align(d->image.front_size);
  for (uint32_t i = 0; i < count; i++) {
    d->offsets[i] = at;
    at = tarn_image_align(at + tarn_image_block_size(&d->image, i));
  }
  return run(L, d);
}
