/* Lua values to skeleton bytes: one recursive walk. A table is written as an array while its keys come as 1, 2, 3...; should they
 * not, what has been written is turned into a map. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "bind/codec-private.h"

enum { SLOTS_A_LEVEL = 8 };

int tarn__encode_out_of_memory(tarn__encoder_t *e, int rc) {
  return tarn__failure_set(&e->failure, rc == TARN_ETOOBIG ? TARN_ETOOBIG : TARN_ENOMEM,
                           rc == TARN_ETOOBIG ? "value too large to encode"
                                              : "out of memory while encoding");
}

static inline int done(tarn__encoder_t *e, int rc) {
  return rc ? tarn__encode_out_of_memory(e, rc) : 0;
}

int tarn__encoder_grow(void **array, uint32_t count, uint32_t *capacity, size_t item_bytes) {
  if (count < *capacity) { return 0; }
  uint32_t bigger = *capacity ? *capacity * 2 : 8;
  void *p = tarn_realloc(*array, bigger * item_bytes);
  if (!p) { return TARN_ENOMEM; }
  *array = p;
  *capacity = bigger;
  return 0;
}

/* ---- extensions ---- */

int tarn__encode_open(tarn__encoder_t *e, int8_t type, size_t *mark) {
  *mark = e->out.size;
  const uint8_t header[6] = {0xc9, 0, 0, 0, 0, (uint8_t)type};
  return done(e, tarn_buf_append(&e->out, header, sizeof header));
}

static void store32(uint8_t *p, uint32_t v) {
  v = __builtin_bswap32(v);
  memcpy(p, &v, sizeof v);
}

int tarn__encode_close(tarn__encoder_t *e, size_t mark) {
  size_t length = e->out.size - mark - 6;
  if (length > UINT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  store32(e->out.data + mark + 1, (uint32_t)length);
  return 0;
}

int tarn__encode_uint_ext(tarn__encoder_t *e, int8_t type, uint32_t v) {
  size_t length = v < 0x80 ? 1 : v <= UINT8_MAX ? 2 : v <= UINT16_MAX ? 3 : 5;
  int rc = tarn_mp_write_ext_header(&e->out, type, length);
  if (!rc) { rc = tarn_mp_write_uint(&e->out, v); }
  return done(e, rc);
}

int tarn__encode_identity(tarn__encoder_t *e, const void *address, bool *again) {
  uint32_t number;
  bool is_new;
  if (!tarn__seen_put(&e->seen, address, e->made, &number, &is_new)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  *again = !is_new;
  if (is_new) {
    e->made++;
    return 0;
  }
  e->backrefs = true;
  return tarn__encode_uint_ext(e, TARN_EXT_BACKREF, number);
}

/* ---- scalars ---- */

static inline int encode_number(tarn__encoder_t *e, double d) {
  if (d >= -TARN__INTEGER_MAX && d <= TARN__INTEGER_MAX) {
    int64_t i = (int64_t)d;
    if ((double)i == d && (i != 0 || !signbit(d))) {
      return done(e, tarn_mp_write_int(&e->out, i));
    }
  }
  return done(e, tarn_mp_write_double(&e->out, d));
}

static inline int encode_string(tarn__encoder_t *e, lua_State *L, int index) {
  size_t length;
  const char *s = lua_tolstring(L, index, &length);
  bool text = tarn_utf8_valid((const uint8_t *)s, length);
  return done(e,
              text ? tarn_mp_write_str(&e->out, s, length) : tarn_mp_write_bin(&e->out, s, length));
}

static int encode_int64_ext(tarn__encoder_t *e, int8_t type, uint64_t v) {
  int rc = tarn_mp_write_ext_header(&e->out, type, sizeof v);
  if (!rc) { rc = tarn_buf_append(&e->out, &v, sizeof v); }
  return done(e, rc);
}

static int encode_int64(tarn__encoder_t *e, int64_t v) {
  const int64_t max = (int64_t)TARN__INTEGER_MAX;
  if (v > max || v < -max) { return done(e, tarn_mp_write_int64(&e->out, v)); }
  return encode_int64_ext(e, TARN_EXT_INT64, (uint64_t)v);
}

static int encode_uint64(tarn__encoder_t *e, uint64_t v) {
  if (v > (uint64_t)TARN__INTEGER_MAX) { return done(e, tarn_mp_write_uint64(&e->out, v)); }
  return encode_int64_ext(e, TARN_EXT_UINT64, v);
}

static int refuse_cdata(tarn__encoder_t *e, lua_State *L, int index) {
  const char *type = "cdata";
  if (e->codec->describe != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->codec->describe);
    lua_pushvalue(L, index);
    lua_call(L, 1, 1);
    type = lua_tostring(L, -1);
  }
  return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                           "a cdata of type '%s' cannot travel", type ? type : "?");
}

static int encode_cdata(tarn__encoder_t *e, lua_State *L, int index) {
  const void *payload = lua_topointer(L, index);
  uint32_t type = tarn__codec_ctype(L, e->codec, index);
  if (type && type == e->codec->int64_id) {
    int64_t v;
    memcpy(&v, payload, sizeof v);
    return encode_int64(e, v);
  }
  if (type && type == e->codec->uint64_id) {
    uint64_t v;
    memcpy(&v, payload, sizeof v);
    return encode_uint64(e, v);
  }
  if (!tarn__codec_serializer(L, e->codec, index)) { return refuse_cdata(e, L, index); }
  bool again;
  int rc = tarn__encode_identity(e, payload, &again);
  if (rc == 0 && !again) { return tarn__encode_typed(e, L, index); }
  lua_pop(L, 1);
  return rc;
}

/* One without a path holds its object as a DRef does: the DRef goes along. */
static int encode_fileref(tarn__encoder_t *e, lua_State *L, int index, const tarn__fileref_t *f) {
  size_t mark;
  bool with_path = f->path_length > 0;
  int rc = tarn__encode_open(e, TARN_EXT_FILEREF, &mark);
  if (rc) { return rc; }
  const char *path = f->text + f->host_length + 1;
  rc = tarn_mp_write_array(&e->out, with_path ? 3 : 4);
  if (!rc) { rc = tarn_mp_write_str(&e->out, f->text, f->host_length); }
  if (!rc) {
    rc = with_path ? tarn_mp_write_str(&e->out, path, f->path_length) : tarn_mp_write_nil(&e->out);
  }
  if (!rc) { rc = tarn_mp_write_uint(&e->out, f->size); }
  if (rc) { return done(e, rc); }
  if (!with_path) {
    lua_getfenv(L, index);
    lua_getfield(L, -1, "ref");
    rc = tarn__encode_ref(e, L, lua_gettop(L), tarn_ref_test(L, -1));
    lua_pop(L, 2);
    if (rc) { return rc; }
  }
  return tarn__encode_close(e, mark);
}

static int encode_userdata(tarn__encoder_t *e, lua_State *L, int index) {
  tarn_ref_t *ref = tarn_ref_test(L, index);
  if (ref) { return tarn__encode_ref(e, L, index, ref); }
  tarn__fileref_t *file = tarn__fileref_test(L, index);
  if (file) { return encode_fileref(e, L, index, file); }
  if (tarn__codec_serializer(L, e->codec, index)) {
    bool again;
    int rc = tarn__encode_identity(e, lua_touserdata(L, index), &again);
    if (rc == 0 && !again) { return tarn__encode_typed(e, L, index); }
    lua_pop(L, 1);
    return rc;
  }
  if (luaL_getmetafield(L, index, "__name") && lua_type(L, -1) == LUA_TSTRING) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE, "a userdata (%s) cannot travel",
                             lua_tostring(L, -1));
  }
  return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE, "a userdata cannot travel");
}

int tarn__encode_ref(tarn__encoder_t *e, lua_State *L, int index, tarn_ref_t *ref) {
  if (!e->keep_refs) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a DRef cannot be saved in a file: save what it refers to");
  }
  uint32_t number;
  bool is_new;
  if (!tarn__seen_put(&e->seen, lua_touserdata(L, index), e->ref_count, &number, &is_new) ||
      tarn__encoder_grow((void **)&e->refs, e->ref_count, &e->ref_capacity, sizeof *e->refs)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (is_new) {
    e->refs[e->ref_count++] = (tarn_image_ref_t){ref->owner, ref->id};
    tarn_ref_exported(L, index);
  }
  size_t mark;
  int rc = tarn__encode_open(e, TARN_EXT_DREF, &mark);
  if (rc) { return rc; }
  rc = tarn_mp_write_array(&e->out, 3);
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->owner); }
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->id); }
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->size); }
  return rc ? done(e, rc) : tarn__encode_close(e, mark);
}

/* ---- tables ---- */

/* Name the key at key_index as the step of the path that failed. */
static void step_key(tarn__encoder_t *e, lua_State *L, int key_index) {
  if (lua_type(L, key_index) == LUA_TSTRING) {
    tarn__failure_step(&e->failure, "field '%.100s'", lua_tostring(L, key_index));
  } else if (lua_type(L, key_index) == LUA_TNUMBER) {
    double d = lua_tonumber(L, key_index);
    tarn__failure_step(&e->failure, d >= 1 && d == floor(d) ? "element %.14g" : "field [%.14g]", d);
  } else if (lua_type(L, key_index) == LUA_TBOOLEAN) {
    tarn__failure_step(&e->failure, "field [%s]", lua_toboolean(L, key_index) ? "true" : "false");
  } else {
    tarn__failure_step(&e->failure, "a field whose key is a %s", luaL_typename(L, key_index));
  }
}

/* The value at the top of the stack, whose key is below it. */
static inline int encode_pair_value(tarn__encoder_t *e, lua_State *L) {
  int top = lua_gettop(L);
  int rc = tarn__encode_value(e, L, top);
  if (rc) { step_key(e, L, top - 1); }
  return rc;
}

/* A map's header grows from one byte to five when the sixteenth pair comes. */
static int widen_map(tarn__encoder_t *e, size_t start) {
  int rc = tarn_buf_reserve(&e->out, 4);
  if (rc) { return done(e, rc); }
  memmove(e->out.data + start + 5, e->out.data + start + 1, e->out.size - start - 1);
  e->out.size += 4;
  return 0;
}

/* The rest of a table's pairs: key and value of the next one are on the stack. start: where the map's header of one byte (or five, when
 * count > 15) is; count: pairs already written. Pops everything. */
static int encode_pairs(tarn__encoder_t *e, lua_State *L, int index, size_t start, uint32_t count) {
  do {
    if (count == 15) {
      int rc = widen_map(e, start);
      if (rc) { return rc; }
    }
    int top = lua_gettop(L);
    int rc = tarn__encode_value(e, L, top - 1);
    if (rc) {
      tarn__failure_step(&e->failure, "a key");
      return rc;
    }
    rc = encode_pair_value(e, L);
    if (rc) { return rc; }
    lua_settop(L, top - 1);
    if (++count == UINT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  } while (lua_next(L, index));
  if (count <= 15) {
    e->out.data[start] = (uint8_t)(0x80u | count);
  } else {
    e->out.data[start] = 0xdf;
    store32(e->out.data + start + 1, count);
  }
  return 0;
}

static int encode_map(tarn__encoder_t *e, lua_State *L, int index) {
  lua_pushnil(L);
  if (!lua_next(L, index)) { return done(e, tarn_mp_write_array(&e->out, 0)); }
  size_t start = e->out.size;
  int rc = done(e, tarn_mp_write_map(&e->out, 0));
  return rc ? rc : encode_pairs(e, L, index, start, 0);
}

/* count elements have been written behind the header at start: put their keys before them, as a map's. */
static int array_to_map(tarn__encoder_t *e, size_t start, uint32_t count) {
  tarn_buf_t map;
  tarn_buf_init(&map, e->out.limit);
  uint8_t code = e->out.data[start];
  tarn_mp_reader_t r = {e->out.data + start +
                            (code == 0xdd   ? 5
                             : code == 0xdc ? 3
                                            : 1),
                        e->out.data + e->out.size};
  const uint8_t header[5] = {0xdf, 0, 0, 0, 0}; /* encode_pairs fills it in */
  int rc = tarn_buf_append(&map, header, count > 15 ? 5 : 1);
  for (uint32_t i = 1; i <= count && !rc; i++) {
    const uint8_t *at = r.at;
    rc = tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH + 1);
    if (!rc) { rc = tarn_mp_write_uint(&map, i); }
    if (!rc) { rc = tarn_buf_append(&map, at, (size_t)(r.at - at)); }
  }
  if (!rc) {
    e->out.size = start;
    rc = tarn_buf_append(&e->out, map.data, map.size);
  }
  tarn_buf_release(&map);
  return done(e, rc);
}

/* Whether the keys not visited yet (the next one and its value are on the stack) are just those of k+1..n. Leaves the stack as it was. */
static bool rest_is_sequence(lua_State *L, int index, size_t k, size_t n) {
  size_t count = 0;
  int top = lua_gettop(L);
  bool sequence = true;
  lua_pushvalue(L, top - 1);
  lua_pushnil(L);
  do {
    lua_pop(L, 1);
    double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    sequence = key > (double)k && key <= (double)n && key == floor(key);
    count++;
  } while (sequence && lua_next(L, index));
  lua_settop(L, top);
  return sequence && count == n - k;
}

static int changed_meanwhile(tarn__encoder_t *e) {
  return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                           "a table changed while it was being encoded");
}

/* Elements k+1..n by index. */
static int encode_by_index(tarn__encoder_t *e, lua_State *L, int index, size_t k, size_t n) {
  int top = lua_gettop(L);
  for (size_t i = k + 1; i <= n; i++) {
    lua_rawgeti(L, index, (int)i);
    int rc = tarn__encode_value(e, L, top + 1);
    if (rc) {
      tarn__failure_step(&e->failure, "element %zu", i);
      return rc;
    }
    lua_settop(L, top);
  }
  return 0;
}

/* Most likely 1..n and nothing else. */
static int encode_sequence(tarn__encoder_t *e, lua_State *L, int index, size_t n) {
  if (n > INT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  size_t start = e->out.size;
  int rc = done(e, tarn_mp_write_array(&e->out, (uint32_t)n));
  if (rc) { return rc; }
  size_t k = 0;
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (k >= n || lua_type(L, top + 1) != LUA_TNUMBER ||
        lua_tonumber(L, top + 1) != (double)(k + 1)) {
      if (rest_is_sequence(L, index, k, n)) {
        lua_settop(L, top);
        return encode_by_index(e, L, index, k, n);
      }
      rc = array_to_map(e, start, (uint32_t)k);
      return rc ? rc : encode_pairs(e, L, index, start, (uint32_t)k);
    }
    k++;
    rc = tarn__encode_value(e, L, top + 2);
    if (rc) {
      step_key(e, L, top + 1);
      return rc;
    }
    lua_settop(L, top + 1);
  }
  return k == n ? 0 : changed_meanwhile(e);
}

/* Nothing but an array part: so its elements need no look at their keys. */
static bool is_all_array(const tarn__encoder_t *e, lua_State *L, int index) {
  tarn__table_room_t room;
  if (!tarn__codec_table_room(e->codec, lua_topointer(L, index), &room) || room.nodes) {
    return false;
  }
  lua_rawgeti(L, index, 0);
  bool no_zero = lua_isnil(L, -1);
  lua_pop(L, 1);
  return no_zero;
}

static int encode_array(tarn__encoder_t *e, lua_State *L, int index, size_t n) {
  int rc = done(e, tarn_mp_write_array(&e->out, (uint32_t)n));
  return rc ? rc : encode_by_index(e, L, index, 0, n);
}

static int encode_plain(tarn__encoder_t *e, lua_State *L, int index) {
  size_t n = lua_objlen(L, index);
  if (n == 0) { return encode_map(e, L, index); }
  lua_pushnumber(L, (double)n);
  if (lua_next(L, index)) { /* a key behind the sequence */
    lua_pop(L, 2);
    return encode_map(e, L, index);
  }
  return is_all_array(e, L, index) ? encode_array(e, L, index, n) : encode_sequence(e, L, index, n);
}

/* A table with a metatable: a serializer's, or one that travels by name. The metatable is at the top of the stack. */
static int encode_with_metatable(tarn__encoder_t *e, lua_State *L, int index) {
  lua_pop(L, 1);
  if (tarn__codec_serializer(L, e->codec, index)) {
    e->depth--; /* counted by encode_typed */
    int typed = tarn__encode_typed(e, L, index);
    e->depth++;
    return typed;
  }
  lua_getmetatable(L, index);
  int metatable = lua_gettop(L);
  bool named = tarn__codec_lookup(L, e->codec->metatable_names, metatable);
  if (!named) {
    tarn__codec_refresh_names(L, e->codec, true);
    named = tarn__codec_lookup(L, e->codec->metatable_names, metatable);
  }
  if (!named) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a table with an unregistered metatable cannot travel");
  }
  size_t mark, length;
  int rc = tarn__encode_open(e, TARN_EXT_META, &mark);
  if (rc) { return rc; }
  const char *name = lua_tolstring(L, -1, &length);
  rc = tarn_mp_write_array(&e->out, 2);
  if (!rc) { rc = tarn_buf_append(&e->out, name, length); }
  if (rc) { return done(e, rc); }
  lua_settop(L, metatable - 1);
  rc = encode_plain(e, L, index);
  return rc ? rc : tarn__encode_close(e, mark);
}

static int encode_name(tarn__encoder_t *e, lua_State *L) {
  size_t length;
  const char *name = lua_tolstring(L, -1, &length);
  int rc = tarn_mp_write_ext_header(&e->out, TARN_EXT_NAME, length);
  if (!rc) { rc = tarn_buf_append(&e->out, name, length); }
  return done(e, rc);
}

static bool is_module(tarn__encoder_t *e, lua_State *L, int index, const void *address) {
  if (!e->names_checked) {
    tarn__codec_refresh_names(L, e->codec, false);
    e->names_checked = true;
  }
  return tarn__codec_maybe_module(e->codec, address) &&
         tarn__codec_lookup(L, e->codec->module_names, index);
}

static int encode_table(tarn__encoder_t *e, lua_State *L, int index) {
  if (e->depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, SLOTS_A_LEVEL)) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a value nested deeper than %u levels cannot travel",
                             TARN_IMAGE_MAX_DEPTH);
  }
  const void *address = lua_topointer(L, index);
  if (is_module(e, L, index, address)) { return encode_name(e, L); }
  bool again;
  int rc = tarn__encode_identity(e, address, &again);
  if (rc || again) { return rc; }
  e->depth++;
  rc = lua_getmetatable(L, index) ? encode_with_metatable(e, L, index) : encode_plain(e, L, index);
  e->depth--;
  return rc;
}

static int encode_any_function(tarn__encoder_t *e, lua_State *L, int index) {
  if (!lua_checkstack(L, SLOTS_A_LEVEL)) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  if (!e->names_checked) {
    tarn__codec_refresh_names(L, e->codec, false);
    e->names_checked = true;
  }
  bool named = tarn__codec_lookup(L, e->codec->function_names, index);
  if (!named && lua_iscfunction(L, index)) {
    tarn__codec_refresh_names(L, e->codec, true);
    named = tarn__codec_lookup(L, e->codec->function_names, index);
    if (!named) {
      return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                               "a C function that is in no module cannot travel");
    }
  }
  if (named) { return encode_name(e, L); }
  return tarn__encode_function(e, L, index);
}

/* index is the top of the stack, or a place that may be covered; what is pushed here is popped again by the callers' settop. */
int tarn__encode_value(tarn__encoder_t *e, lua_State *L, int index) {
  int rc;
  int top;
  switch (lua_type(L, index)) {
  case LUA_TNUMBER:
    return encode_number(e, lua_tonumber(L, index));
  case LUA_TSTRING:
    return encode_string(e, L, index);
  case LUA_TNIL:
    return done(e, tarn_mp_write_nil(&e->out));
  case LUA_TBOOLEAN:
    return done(e, tarn_mp_write_bool(&e->out, lua_toboolean(L, index)));
  default:
    break;
  }
  top = lua_gettop(L);
  switch (lua_type(L, index)) {
  case LUA_TTABLE:
    rc = encode_table(e, L, index);
    break;
  case LUA_TFUNCTION:
    rc = encode_any_function(e, L, index);
    break;
  case TARN__TCDATA:
    rc = encode_cdata(e, L, index);
    break;
  case LUA_TUSERDATA:
    rc = encode_userdata(e, L, index);
    break;
  case LUA_TTHREAD:
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE, "a coroutine cannot travel");
  default:
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE, "a light userdata cannot travel");
  }
  lua_settop(L, top);
  return rc;
}
