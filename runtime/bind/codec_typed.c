/* Values of registered types: TYPED ext = a uint, the index of the serializer in the head, then the values that its mmwrite wrote, up
 * to the end of the payload. Here are the C halves of `out` and `inp`, which are the encoder and the decoder themselves;
 * lua/tarn/serializer.lua adds the methods that deal in pointers. They work only while mmwrite or mmread runs, and what
 * fails inside stays failed, even if a serializer catches the error. */
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"

/* ---- writing ---- */

void tarn__encoder_environment(tarn__encoder_t *e, lua_State *L) {
  lua_getfenv(L, e->self);
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->codec->none);
  bool none = lua_rawequal(L, -1, -2);
  lua_pop(L, 1);
  if (none) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfenv(L, e->self);
  }
}

/* The index in the head of the serializer at index; kept in the environment: serializer -> index + 1, which also anchors its strings. */
static int serializer_number(tarn__encoder_t *e, lua_State *L, int index, uint32_t *number) {
  tarn__encoder_environment(e, L);
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  if (lua_isnumber(L, -1)) {
    *number = (uint32_t)lua_tonumber(L, -1) - 1;
    lua_pop(L, 2);
    return 0;
  }
  lua_pop(L, 1);
  tarn__codec_offer(L, e->codec, index);
  if (tarn__encoder_grow((void **)&e->serializers, e->serializer_count, &e->serializer_capacity,
                         sizeof *e->serializers)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  tarn_image_serializer_t s = {0};
  size_t length = 0, hash_length = 0;
  lua_rawgeti(L, index, TARN__SER_NAME);
  lua_rawgeti(L, index, TARN__SER_VERSION);
  lua_rawgeti(L, index, TARN__SER_HASH);
  s.name = lua_tolstring(L, -3, &length);
  s.name_length = (uint32_t)length;
  s.version = (uint32_t)lua_tonumber(L, -2);
  const char *hash = lua_tolstring(L, -1, &hash_length);
  if (hash && hash_length == sizeof s.hash) { memcpy(&s.hash, hash, sizeof s.hash); }
  lua_pop(L, 3);
  *number = e->serializer_count;
  e->serializers[e->serializer_count++] = s;
  lua_pushvalue(L, index);
  lua_pushnumber(L, (double)*number + 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  return 0;
}

/* Run mmwrite(out, value). */
static int call_mmwrite(tarn__encoder_t *e, lua_State *L, int serializer, int index) {
  uint32_t written = e->written;
  int self = e->self;
  uint32_t depth = e->depth;
  e->written = 0;
  e->writing++;
  lua_rawgeti(L, serializer, TARN__SER_WRITE);
  lua_pushvalue(L, self);
  lua_pushvalue(L, index);
  int failed = lua_pcall(L, 2, 0, 0);
  e->writing--;
  e->self = self;
  e->depth = depth;
  lua_rawgeti(L, serializer, TARN__SER_NAME);
  const char *name = lua_tostring(L, -1);
  int rc = e->failure.code;
  if (failed) {
    lua_insert(L, -2);
    rc = tarn__failure_catch(L, &e->failure, self, name, "mmwrite");
  } else if (!rc && e->written == 0) {
    rc = tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                           "serializer '%.80s' wrote nothing in mmwrite", name);
  }
  if (rc) { tarn__failure_step(&e->failure, "a value of serializer '%s'", name); }
  lua_pop(L, 1);
  e->written = written;
  return rc;
}

int tarn__encode_typed(tarn__encoder_t *e, lua_State *L, int index) {
  int serializer = lua_gettop(L);
  if (e->plain) { return tarn__encode_not_plain(e); }
  if (e->depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, 16)) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a value nested deeper than %u levels cannot travel",
                             TARN_IMAGE_MAX_DEPTH);
  }
  uint32_t number = 0;
  size_t mark = 0;
  int rc = serializer_number(e, L, serializer, &number);
  if (!rc) { rc = tarn__encode_open(e, TARN_EXT_TYPED, &mark); }
  if (!rc && tarn_mp_write_uint(&e->out, number)) {
    rc = tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (rc) { return rc; }
  e->depth++;
  rc = call_mmwrite(e, L, serializer, index);
  e->depth--;
  lua_pop(L, 1);
  return rc ? rc : tarn__encode_close(e, mark);
}

int tarn__encode_block(tarn__encoder_t *e, tarn_block_t *b) {
  uint32_t number;
  bool is_new;
  if (tarn__encoder_grow((void **)&e->blocks, e->block_count, &e->block_capacity,
                         sizeof(tarn_block_t *)) ||
      !tarn__seen_put(&e->seen, b, e->block_count, &number, &is_new)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (is_new) {
    tarn_error_t err = {0};
    if (e->block_count >= TARN_IMAGE_MAX_BLOCKS) {
      return tarn__failure_set(&e->failure, TARN_ETOOBIG, "more than %u blocks in one value",
                               TARN_IMAGE_MAX_BLOCKS);
    }
    int rc = tarn_block_map(b, &err);
    if (!rc && (rc = tarn_block_verify(b, &err)) != 0) { tarn_block_unmap(b); }
    if (rc) { return tarn__failure_set(&e->failure, rc, "%s", err.message); }
    tarn_block_retain(b);
    e->blocks[e->block_count++] = b;
  }
  return tarn__encode_uint_ext(e, TARN_EXT_BLOCK, number);
}

/* The encoder that is argument 1, within mmwrite and in good order. */
static tarn__encoder_t *check_out(lua_State *L) {
  tarn__encoder_t *e = luaL_checkudata(L, 1, TARN__ENCODER_METATABLE);
  if (!e->writing) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "`out` was used after mmwrite had returned");
  }
  if (e->failure.code) {
    tarn__failure_push(L, &e->failure, 1);
    lua_error(L);
  }
  e->self = 1;
  return e;
}

static int finish_out(lua_State *L, tarn__encoder_t *e, int rc) {
  if (rc) {
    tarn__failure_push(L, &e->failure, 1);
    return lua_error(L);
  }
  e->written++;
  return 0;
}

/* out:value(x): x may be made just for this call, so it is anchored: its address must not come again for another. */
static int out_value(lua_State *L) {
  tarn__encoder_t *e = check_out(L);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  int type = lua_type(L, 2);
  if (type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA ||
      type == TARN__TCDATA) {
    tarn__encoder_environment(e, L);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, ++e->anchored);
    lua_settop(L, 2);
  }
  return finish_out(L, e, tarn__encode_value(e, L, 2));
}

/* out:_copy(pointer, nbytes): a new block with a copy of the bytes. pointer: a `const void *` cdata. */
static int out_copy(lua_State *L) {
  tarn__encoder_t *e = check_out(L);
  if (lua_type(L, 2) != TARN__TCDATA) { return luaL_argerror(L, 2, "pointer expected"); }
  const void *from;
  memcpy(&from, lua_topointer(L, 2), sizeof from);
  double size = luaL_checknumber(L, 3);
  if (!(size >= 0 && size <= TARN__INTEGER_MAX)) {
    return luaL_argerror(L, 3, "size in bytes expected");
  }
  tarn_block_t *b = tarn_bind_block_create(L, (uint64_t)size, false);
  if (size > 0) { memcpy(b->data, from, (size_t)size); }
  int rc = tarn__encode_block(e, b);
  tarn__block_give(b);
  return finish_out(L, e, rc);
}

/* out:_share(block): the block itself; nothing is copied. block: a `tarn_block_t *` cdata. */
static int out_share(lua_State *L) {
  tarn__encoder_t *e = check_out(L);
  if (lua_type(L, 2) != TARN__TCDATA) { return luaL_argerror(L, 2, "tarn_block_t * expected"); }
  tarn_block_t *b;
  memcpy(&b, lua_topointer(L, 2), sizeof b);
  if (!b) { return luaL_argerror(L, 2, "null block"); }
  return finish_out(L, e, tarn__encode_block(e, b));
}

void tarn__encoder_methods(lua_State *L) {
  static const luaL_Reg methods[] = {{"value", out_value},
                                     {"write", out_value},
                                     {"_copy", out_copy},
                                     {"_share", out_share},
                                     {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  luaL_getmetatable(L, TARN__ENCODER_METATABLE);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

/* ---- reading ---- */

static tarn__decoder_t *check_inp(lua_State *L) {
  tarn__decoder_t *d = luaL_checkudata(L, 1, TARN__DECODER_METATABLE);
  if (!d->reading) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "`inp` was used after mmread had returned");
  }
  if (d->failure.code) {
    tarn__failure_push(L, &d->failure, 1);
    lua_error(L);
  }
  d->self = 1;
  return d;
}

static int raise_inp(lua_State *L, tarn__decoder_t *d) {
  tarn__failure_push(L, &d->failure, 1);
  return lua_error(L);
}

/* The table of made values, at the same place in every frame of a method. */
static void push_made(lua_State *L, tarn__decoder_t *d) {
  lua_getfenv(L, 1);
  lua_getfield(L, -1, "made");
  lua_remove(L, -2);
  d->made_index = lua_gettop(L);
}

static int inp_value(lua_State *L) {
  tarn__decoder_t *d = check_inp(L);
  if (d->in.at >= d->in.end) {
    tarn__failure_set(&d->failure, TARN_ECORRUPT, "read past the last value that was written");
    return raise_inp(L, d);
  }
  lua_settop(L, 1);
  if (d->image.backrefs) { push_made(L, d); }
  return tarn__decode_value(d, L) ? raise_inp(L, d) : 1;
}

static int inp_more(lua_State *L) {
  tarn__decoder_t *d = check_inp(L);
  lua_pushboolean(L, d->in.at < d->in.end);
  return 1;
}

static int inp_trusted(lua_State *L) {
  tarn__decoder_t *d = check_inp(L);
  lua_pushboolean(L, !(d->flags & TARN_DECODE_NO_CODE));
  return 1;
}

/* For bytes: the block with that index, copied out of them at first use. */
static tarn_block_t *block_of(lua_State *L, tarn__decoder_t *d, uint32_t index) {
  if (d->value) { return tarn_value_block(d->value, index); }
  if (!d->blocks[index]) {
    uint64_t size = tarn_image_block_size(&d->image, index);
    tarn_block_t *b = tarn_bind_block_create(L, size, false);
    if (size) { memcpy(b->data, d->bytes + d->offsets[index], (size_t)size); }
    if (d->flags & TARN_DECODE_SEALED) { tarn_block_seal(b); }
    d->blocks[index] = b;
  }
  return d->blocks[index];
}

/* inp:_take(): hands over a block, mapped. */
static int inp_take(lua_State *L) {
  tarn__decoder_t *d = check_inp(L);
  tarn_mp_token_t t;
  tarn_mp_reader_t payload;
  uint64_t index;
  if (tarn_mp_read(&d->in, &t) || t.kind != TARN_MP_EXT || t.ext_type != TARN_EXT_BLOCK) {
    tarn__decode_corrupt(d, "a block was to be read where there is none");
    return raise_inp(L, d);
  }
  payload = (tarn_mp_reader_t){t.bytes, t.bytes + t.length};
  if (tarn_mp_read_uint(&payload, UINT32_MAX, &index) || payload.at != payload.end ||
      index >= d->image.block_count) {
    tarn__decode_corrupt(d, "a block that is not there");
    return raise_inp(L, d);
  }
  tarn_block_t *b = block_of(L, d, (uint32_t)index);
  tarn_error_t err = {0};
  int rc = tarn_block_map(b, &err);
  if (rc) {
    tarn__failure_set(&d->failure, rc, "%s", err.message);
    return raise_inp(L, d);
  }
  tarn_bind_hand(tarn_bind_of(L), b);
  return 0;
}

/* __index: `version`, else a method. */
static int inp_index(lua_State *L) {
  tarn__decoder_t *d = luaL_checkudata(L, 1, TARN__DECODER_METATABLE);
  const char *key = lua_tostring(L, 2);
  if (key && strcmp(key, "version") == 0) {
    lua_pushnumber(L, d->version);
    return 1;
  }
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

void tarn__decoder_methods(lua_State *L) {
  static const luaL_Reg methods[] = {{"value", inp_value}, {"read", inp_value},
                                     {"more", inp_more},   {"trusted", inp_trusted},
                                     {"_take", inp_take},  {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  luaL_getmetatable(L, TARN__DECODER_METATABLE);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, inp_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

/* Values that mmread left: an older reader may not know them, but what they hold has been numbered. */
static int read_the_rest(tarn__decoder_t *d, lua_State *L) {
  while (d->image.backrefs && d->in.at < d->in.end) {
    int rc = tarn__decode_value(d, L);
    if (rc) { return rc; }
    lua_pop(L, 1);
  }
  return 0;
}

/* The serializer is at the top of the stack: replaced by what its mmread gives. */
static int call_mmread(tarn__decoder_t *d, lua_State *L) {
  int serializer = lua_gettop(L);
  int self = d->self, made_index = d->made_index;
  uint32_t depth = d->depth, version = d->version;
  lua_rawgeti(L, LUA_REGISTRYINDEX, d->codec->read);
  lua_rawgeti(L, serializer, TARN__SER_READ);
  lua_pushvalue(L, self);
  d->reading++;
  int failed = lua_pcall(L, 2, 1, 0);
  d->reading--;
  d->self = self;
  d->made_index = made_index;
  d->depth = depth;
  d->version = version;
  lua_rawgeti(L, serializer, TARN__SER_NAME);
  const char *name = lua_tostring(L, -1);
  int rc = d->failure.code;
  if (failed) {
    lua_insert(L, -2);
    rc = tarn__failure_catch(L, &d->failure, self, name, "mmread");
  } else if (!rc && lua_isnil(L, -2)) {
    rc = tarn__failure_set(&d->failure, TARN__NOT_SERIALIZABLE,
                           "serializer '%.80s' returned nothing from mmread", name);
  }
  if (rc) {
    tarn__failure_step(&d->failure, "a value of serializer '%s'", name);
    return rc;
  }
  lua_pop(L, 1);
  lua_replace(L, serializer);
  return 0;
}

static int on_version(void *ud, uint32_t index, const tarn_image_serializer_t *s) {
  uint32_t *at = ud; /* {index wanted, version} */
  if (index == at[0]) { at[1] = s->version; }
  return 0;
}

int tarn__decode_typed(tarn__decoder_t *d, lua_State *L) {
  uint64_t number;
  if (tarn_mp_read_uint(&d->in, UINT32_MAX, &number) || number >= d->serializer_count) {
    return tarn__decode_corrupt(d, "a serializer that is not in the head");
  }
  uint32_t made = d->made;
  lua_pushboolean(L, 0); /* until it is read, a reference back to it finds this */
  tarn__decode_made(d, L);
  lua_pop(L, 1);
  lua_getfenv(L, d->self);
  lua_rawgeti(L, -1, (int)number + 1);
  lua_remove(L, -2);
  uint32_t version = d->version;
  uint32_t wanted[2] = {(uint32_t)number, 0};
  tarn_image_each_serializer(&d->image, on_version, wanted);
  d->version = wanted[1];
  int rc = call_mmread(d, L);
  d->version = version;
  if (rc) { return rc; }
  rc = read_the_rest(d, L);
  if (d->image.backrefs && !rc) {
    lua_pushvalue(L, -1);
    lua_rawseti(L, d->made_index, (int)made + 1);
  }
  d->in.at = d->in.end;
  return rc;
}
