/* Encoding as a whole (tarn_codec_encode...), and the functions of tarn.core:
 *
 *   encode(x) -> string            the contiguous image
 *   decode(s, opts) -> value       opts.code false: functions are refused
 *   approx_size(x) -> bytes, typed
 *   save(path, x), load(path, opts)     opts.code true: functions are allowed
 *   block_new(nbytes, zero, scratch) -> light userdata of a tarn_block_t with one mapping, the caller's (a mapping keeps the block);
 *                                  scratch: it is given back by hand, not by the collector
 *   set_hooks{...}                 see codec.c
 *   name_bytes(module, key) -> the payload of a NAME, for lua/tarn/names.lua
 *   raise(error)                   raise an error table with the position of the user's line in its message
 *   out_methods, inp_methods       the methods of `out` and `inp`, for lua/tarn/serializer.lua to complete */
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"

/* The buffer is kept for the next call up to the first: memory touched for the first time costs several times what writing to it does. Up to the
 * second a front is copied out of it, so that it can be. */
enum { KEPT_BYTES = 8 << 20, COPIED_BYTES = 64 << 10 };
static const size_t limit_bytes = (size_t)1 << 46;

/* ---- the encoder's life ---- */

tarn__encoder_t *tarn__encoder_begin(lua_State *L) {
  tarn__codec_t *c = tarn__codec_of(L);
  luaL_checkstack(L, 20, "encode");
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->idle_encoder);
  tarn__encoder_t *e = lua_touserdata(L, -1);
  if (e) {
    lua_pushboolean(L, 0);
    lua_rawseti(L, LUA_REGISTRYINDEX, c->idle_encoder);
  } else {
    lua_pop(L, 1);
    e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    tarn_buf_init(&e->out, limit_bytes);
    luaL_getmetatable(L, TARN__ENCODER_METATABLE);
    lua_setmetatable(L, -2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->none);
    lua_setfenv(L, -2);
  }
  e->codec = c;
  e->self = lua_gettop(L);
  e->keep_refs = true;
  return e;
}

void tarn__encoder_check_names(tarn__encoder_t *e, lua_State *L) {
  if (e->names_checked) { return; }
  tarn__codec_refresh_names(L, e->codec, false);
  e->names_checked = true;
}

static void release_blocks(tarn__encoder_t *e) {
  for (uint32_t i = 0; i < e->block_count; i++) { tarn__block_give(e->blocks[i]); }
  e->block_count = 0;
}

/* What has been encoded since, if anything is, is an image of its own. Its bytes stay. */
static void forget(tarn__encoder_t *e) {
  release_blocks(e);
  tarn__seen_clear(&e->seen);
  tarn__tables_clear(&e->tables);
  e->made = e->upvalue_count = e->depth = 0;
  e->backrefs = false;
  e->writing = e->written = 0;
  e->serializer_count = e->ref_count = 0;
  e->failure.code = 0;
  e->failure.has_object = e->failure.object_ours = e->failure.in_function = false;
  e->failure.advice = NULL;
  e->failure.message[0] = e->failure.path[0] = '\0';
}

void tarn__encoder_end(lua_State *L, tarn__encoder_t *e, int index) {
  forget(e);
  if (e->out.capacity > KEPT_BYTES) { tarn_buf_release(&e->out); }
  tarn_buf_clear(&e->out);
  e->out.limit = limit_bytes;
  e->names_checked = e->plain = false;
  e->anchored = 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->codec->none);
  lua_setfenv(L, index);
  lua_pushvalue(L, index);
  lua_rawseti(L, LUA_REGISTRYINDEX, e->codec->idle_encoder);
}

void tarn__encoder_release(tarn__encoder_t *e) {
  release_blocks(e);
  tarn_buf_release(&e->out);
  tarn__seen_release(&e->seen);
  tarn__tables_release(&e->tables);
  tarn_free(e->serializers);
  tarn_free(e->refs);
  tarn_free(e->blocks);
  e->serializers = NULL;
  e->refs = NULL;
  e->blocks = NULL;
}

static void raise_failure(lua_State *L, tarn__encoder_t *e, int self) {
  tarn__failure_push(L, &e->failure, self);
  tarn__encoder_end(L, e, self);
  lua_error(L);
}

static bool needs_head(const tarn__encoder_t *e) {
  return e->serializer_count || e->ref_count || e->backrefs || e->block_count;
}

/* ---- the front ---- */

static int compose(tarn__encoder_t *e, tarn_buf_t *front) {
  uint64_t *sizes = NULL;
  if (e->block_count) {
    sizes = tarn_malloc(e->block_count * sizeof *sizes);
    if (!sizes) { return TARN_ENOMEM; }
    for (uint32_t i = 0; i < e->block_count; i++) { sizes[i] = e->blocks[i]->size; }
  }
  tarn_image_parts_t parts = {.skeleton = e->out.data,
                              .skeleton_size = e->out.size,
                              .serializers = e->serializers,
                              .serializer_count = e->serializer_count,
                              .refs = e->refs,
                              .ref_count = e->ref_count,
                              .backrefs = e->backrefs,
                              .block_sizes = sizes,
                              .block_count = e->block_count};
  int rc = tarn_image_compose(&parts, front);
  tarn_free(sizes);
  return rc;
}

/* The front as bytes of its own: the skeleton itself where it is the whole image, copied out of the buffer if it is small, so that the
 * buffer serves the next call. */
static int take_front(tarn__encoder_t *e, uint8_t **front, size_t *size) {
  tarn_buf_t composed;
  tarn_buf_init(&composed, limit_bytes);
  tarn_buf_t *from = &e->out;
  if (needs_head(e)) {
    int rc = compose(e, &composed);
    if (rc) {
      tarn_buf_release(&composed);
      return rc;
    }
    from = &composed;
  }
  if (from == &e->out && from->size <= COPIED_BYTES) {
    uint8_t *copy = tarn_malloc(from->size);
    if (!copy) { return TARN_ENOMEM; }
    memcpy(copy, from->data, from->size);
    *front = copy;
    *size = from->size;
    return 0;
  }
  *front = tarn_buf_detach(from, size);
  uint8_t *exact = tarn_realloc(*front, *size);
  if (exact) { *front = exact; }
  return 0;
}

/* Give what has been encoded to a new userdata, which replaces the encoder (at self) on the stack. */
static tarn_encoded_t *finish(lua_State *L, tarn__encoder_t *e, int self) {
  tarn_encoded_t *out = lua_newuserdata(L, sizeof *out);
  memset(out, 0, sizeof *out);
  luaL_getmetatable(L, TARN_ENCODED_METATABLE);
  lua_setmetatable(L, -2);
  uint8_t *front = NULL;
  size_t front_size = 0;
  int rc = take_front(e, &front, &front_size);
  if (rc) {
    tarn__encode_out_of_memory(e, rc);
    raise_failure(L, e, self);
  }
  out->front = front;
  out->front_size = front_size;
  if (e->block_count) {
    out->blocks = e->blocks;
    out->block_count = e->block_count;
    for (uint32_t i = 0; i < e->block_count; i++) { out->block_bytes += e->blocks[i]->size; }
    e->blocks = NULL;
    e->block_count = e->block_capacity = 0;
  }
  tarn__encoder_end(L, e, self);
  lua_replace(L, self);
  lua_settop(L, self);
  return out;
}

void tarn_encoded_clear(tarn_encoded_t *e) {
  for (uint32_t i = 0; i < e->block_count; i++) { tarn__block_give(e->blocks[i]); }
  tarn_free(e->blocks);
  tarn_free(e->front);
  memset(e, 0, sizeof *e);
}

static int absolute(lua_State *L, int index) {
  return index < 0 ? lua_gettop(L) + 1 + index : index;
}

static tarn_encoded_t *encode_one(lua_State *L, int index, bool keep_refs, const char *what) {
  index = absolute(L, index);
  tarn__encoder_t *e = tarn__encoder_begin(L);
  int self = e->self;
  e->keep_refs = keep_refs;
  if (tarn__encode_value(e, L, index)) {
    if (what) { tarn__failure_step(&e->failure, "%s", what); }
    raise_failure(L, e, self);
  }
  return finish(L, e, self);
}

tarn_encoded_t *tarn_codec_encode(lua_State *L, int index) {
  return encode_one(L, index, true, NULL);
}
tarn_encoded_t *tarn_codec_encode_named(lua_State *L, int index, const char *what) {
  return encode_one(L, index, true, what);
}
tarn_encoded_t *tarn__codec_encode_for_file(lua_State *L, int index) {
  return encode_one(L, index, false, NULL);
}

static void step_in_list(tarn__failure_t *f, const tarn_list_names_t *names, int number) {
  if (number > names->apart) {
    tarn__failure_step(f, names->others, number - names->apart);
  } else {
    tarn__failure_step(f, "%s", names->first);
  }
}

tarn_encoded_t *tarn_codec_encode_list(lua_State *L, int first, int count,
                                       const tarn_list_names_t *names) {
  first = absolute(L, first);
  tarn__encoder_t *e = tarn__encoder_begin(L);
  int self = e->self;
  e->made = 1; /* the list itself: the decoder numbers it too */
  if (tarn_mp_write_array(&e->out, (uint32_t)count)) {
    tarn__encode_out_of_memory(e, TARN_ENOMEM);
    raise_failure(L, e, self);
  }
  for (int i = 0; i < count; i++) {
    if (tarn__encode_value(e, L, first + i)) {
      if (!e->failure.in_function) { step_in_list(&e->failure, names, i + 1); }
      raise_failure(L, e, self);
    }
  }
  return finish(L, e, self);
}

/* Append the value at the top as a plain image of up to `most` bytes; false, and nothing appended: it is none. The buffer has no more room meanwhile
 * than that, since what fits into its room is not held against its limit. */
static bool encode_image(lua_State *L, tarn__encoder_t *e, size_t most) {
  size_t before = e->out.size, capacity = e->out.capacity, end = before + most;
  e->out.limit = end;
  if (capacity > end) { e->out.capacity = end; }
  bool fits = tarn__encode_value(e, L, lua_gettop(L)) == 0 && !needs_head(e) &&
              !tarn_image_has_head(e->out.data + before, e->out.size - before);
  if (capacity > end) { e->out.capacity = capacity; }
  e->out.limit = limit_bytes;
  if (!fits) { e->out.size = before; }
  return fits;
}

tarn_encoded_t *tarn_codec_encode_small(lua_State *L, int list, int from, int to, size_t each,
                                        size_t all, uint32_t *count) {
  list = absolute(L, list);
  tarn__encoder_t *e = tarn__encoder_begin(L);
  int self = e->self;
  e->plain = true;
  const uint8_t header[5] = {0xdd}; /* an array of the 4 bytes behind it */
  int rc = tarn_buf_append(&e->out, header, sizeof header);
  *count = 0;
  for (bool fits = rc == 0; fits && from <= to && e->out.size < all; from++) {
    lua_rawgeti(L, list, from);
    fits = encode_image(L, e, each);
    lua_settop(L, self);
    if (fits) { ++*count; }
    forget(e);
  }
  if (rc != 0) {
    tarn__encode_out_of_memory(e, TARN_ENOMEM);
    raise_failure(L, e, self);
  }
  uint32_t n = __builtin_bswap32(*count);
  memcpy(e->out.data + 1, &n, sizeof n);
  return finish(L, e, self);
}

/* ---- core's functions ---- */

static void push_joined(lua_State *L, tarn__encoder_t *e, int self) {
  tarn_buf_t front, whole;
  tarn_buf_init(&front, limit_bytes);
  tarn_buf_init(&whole, INT32_MAX); /* a Lua string's bound */
  int rc = compose(e, &front);
  if (!rc && e->block_count) {
    const void **data = tarn_malloc(e->block_count * sizeof *data);
    rc = data ? 0 : TARN_ENOMEM;
    for (uint32_t i = 0; i < e->block_count && !rc; i++) { data[i] = e->blocks[i]->data; }
    if (!rc) { rc = tarn_image_join(front.data, front.size, data, &whole); }
    tarn_free(data);
  }
  tarn_buf_release(
      &e->out); /* hold the result in the encoder, so that an error while it becomes a string frees it */
  e->out = e->block_count ? whole : front;
  if (e->block_count) { tarn_buf_release(&front); }
  e->out.limit = limit_bytes;
  if (rc) {
    tarn__encode_out_of_memory(e, rc);
    raise_failure(L, e, self);
  }
}

static int core_encode(lua_State *L) {
  lua_settop(L, 1);
  tarn__encoder_t *e = tarn__encoder_begin(L);
  int self = e->self;
  if (tarn__encode_value(e, L, 1)) { raise_failure(L, e, self); }
  if (needs_head(e)) { push_joined(L, e, self); }
  if (e->out.size > INT32_MAX - 64) {
    tarn__encode_out_of_memory(e, TARN_ETOOBIG);
    raise_failure(L, e, self);
  }
  lua_pushlstring(L, (const char *)e->out.data, e->out.size);
  tarn__encoder_end(L, e, self);
  return 1;
}

const char *tarn__check_text(lua_State *L, int index, const char *what, size_t *size) {
  if (lua_type(L, index) != LUA_TSTRING) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "%s must be a string, not %s%s", what,
                         lua_isnoneornil(L, index) ? "" : "a ",
                         lua_isnone(L, index) ? "nothing" : luaL_typename(L, index));
  }
  return lua_tolstring(L, index, size);
}

static int core_decode(lua_State *L) {
  size_t size;
  const char *bytes = tarn__check_text(L, 1, "decode: what is to be decoded", &size);
  bool may_code = tarn__check_option(L, 2, "code", true);
  return tarn_codec_decode_bytes(L, (const uint8_t *)bytes, size,
                                 may_code ? 0 : TARN_DECODE_NO_CODE);
}

static int core_approx_size(lua_State *L) {
  bool typed = false;
  lua_settop(L, 1);
  uint64_t size = tarn_codec_approx_size(L, 1, &typed);
  lua_pushnumber(L, (double)size);
  lua_pushboolean(L, typed);
  return 2;
}

static int core_block_new(lua_State *L) {
  double size = lua_tonumber(L, 1);
  if (!(size >= 0 && size <= TARN__INTEGER_MAX)) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_EPOOLFULL, "no memory could ever hold %g bytes", size);
    (void)tarn_error_bytes(&err, size > 0 && size < 1e18 ? (uint64_t)size : UINT64_MAX, 0);
    return tarn_bind_raise(L, &err);
  }
  bool zero = lua_toboolean(L, 2), scratch = lua_toboolean(L, 3);
  tarn_block_t *b = scratch ? tarn_bind_scratch_create(L, (uint64_t)size, zero)
                            : tarn_bind_block_create(L, (uint64_t)size, zero);
  tarn_block_release(b);
  tarn_bind_hand(tarn_bind_of(L), b);
  return 0;
}

/* () -> where functions that give a mapping leave it: light userdata of a tarn_block_t *. */
static int core_handed(lua_State *L) {
  lua_pushlightuserdata(L, &tarn_bind_of(L)->handed);
  return 1;
}

static int core_name_bytes(lua_State *L) {
  size_t module_length, key_length = 0;
  const char *module = luaL_checklstring(L, 1, &module_length);
  const char *key = luaL_optlstring(L, 2, NULL, &key_length);
  tarn__encoder_t *e = tarn__encoder_begin(L);
  int rc = tarn_mp_write_array(&e->out, key ? 2 : 1);
  if (!rc) { rc = tarn_mp_write_str(&e->out, module, module_length); }
  if (!rc && key) { rc = tarn_mp_write_str(&e->out, key, key_length); }
  if (rc) {
    tarn__encode_out_of_memory(e, rc);
    raise_failure(L, e, e->self);
  }
  lua_pushlstring(L, (const char *)e->out.data, e->out.size);
  tarn__encoder_end(L, e, lua_gettop(L) - 1);
  return 1;
}

static int core_raise(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  tarn_bind_add_position(L, 1);
  lua_settop(L, 1);
  return lua_error(L);
}

void tarn__codec_open_functions(lua_State *L, int core) {
  static const luaL_Reg functions[] = {{"encode", core_encode},
                                       {"decode", core_decode},
                                       {"approx_size", core_approx_size},
                                       {"block_new", core_block_new},
                                       {"handed", core_handed},
                                       {"name_bytes", core_name_bytes},
                                       {"raise", core_raise},
                                       {"save", tarn__codec_save},
                                       {"load", tarn__codec_load},
                                       {NULL, NULL}};
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, core, f->name);
  }
}
