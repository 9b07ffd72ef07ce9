/* Lua values to skeleton bytes: one recursive walk. Here is what is no table; tables are in codec_table.c. */
#include "base/alloc.h"
#include "bind/codec-write.h"

uint8_t *tarn__put_any_number(uint8_t *at, double d) {
  int64_t i = d >= -TARN__INTEGER_MAX && d <= TARN__INTEGER_MAX ? (int64_t)d : 0;
  if ((double)i != d || (i == 0 && signbit(d))) {
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return tarn__put_wide(at, 0xcb, bits, 8);
  }
  if (i >= -32 && i <= INT8_MAX) {
    *at = (uint8_t)i;
    return at + 1;
  }
  if (i > 0) {
    return i <= UINT8_MAX    ? tarn__put_wide(at, 0xcc, (uint64_t)i, 1)
           : i <= UINT16_MAX ? tarn__put_wide(at, 0xcd, (uint64_t)i, 2)
           : i <= UINT32_MAX ? tarn__put_wide(at, 0xce, (uint64_t)i, 4)
                             : tarn__put_wide(at, 0xcf, (uint64_t)i, 8);
  }
  return i >= INT8_MIN    ? tarn__put_wide(at, 0xd0, (uint64_t)i, 1)
         : i >= INT16_MIN ? tarn__put_wide(at, 0xd1, (uint64_t)i, 2)
         : i >= INT32_MIN ? tarn__put_wide(at, 0xd2, (uint64_t)i, 4)
                          : tarn__put_wide(at, 0xd3, (uint64_t)i, 8);
}

enum { SLOTS_A_LEVEL = 8 };

static const char make_it_there[] = "make it where it is used";

int tarn__encode_out_of_memory(tarn__encoder_t *e, int rc) {
  return tarn__failure_set(&e->failure, rc == TARN_ETOOBIG ? TARN_ETOOBIG : TARN_ENOMEM,
                           rc == TARN_ETOOBIG ? "value too large to encode"
                                              : "out of memory while encoding");
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
  return tarn__done(e, tarn_buf_append(&e->out, header, sizeof header));
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
  return tarn__done(e, rc);
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

static int encode_int64_ext(tarn__encoder_t *e, int8_t type, uint64_t v) {
  int rc = tarn_mp_write_ext_header(&e->out, type, sizeof v);
  if (!rc) { rc = tarn_buf_append(&e->out, &v, sizeof v); }
  return tarn__done(e, rc);
}

static int encode_int64(tarn__encoder_t *e, int64_t v) {
  const int64_t max = (int64_t)TARN__INTEGER_MAX;
  if (v > max || v < -max) { return tarn__done(e, tarn_mp_write_int64(&e->out, v)); }
  return encode_int64_ext(e, TARN_EXT_INT64, (uint64_t)v);
}

static int encode_uint64(tarn__encoder_t *e, uint64_t v) {
  if (v > (uint64_t)TARN__INTEGER_MAX) { return tarn__done(e, tarn_mp_write_uint64(&e->out, v)); }
  return encode_int64_ext(e, TARN_EXT_UINT64, v);
}

static int refuse_cdata(tarn__encoder_t *e, lua_State *L, int index) {
  const char *type = "cdata";
  if (e->codec->describe != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->codec->describe);
    lua_pushvalue(L, index);
    lua_call(L, 1, 3);
    type = lua_tostring(L, -3);
    if (lua_toboolean(L, -1)) {
      return tarn__failure_refuse(&e->failure,
                                  "put it into a module, or name it by ffi.typeof where it is used",
                                  "the C type '%s' cannot travel", type ? type : "?");
    }
  }
  return tarn__failure_refuse(
      &e->failure, "put what it holds into a tarn.array, or declare its type with tarn.serializer",
      "a cdata of type '%s' cannot travel", type ? type : "?");
}

/* What has no serializer: a C type that a module holds goes by its name, as a function does. */
static int encode_ctype(tarn__encoder_t *e, lua_State *L, int index) {
  tarn__encoder_check_names(e, L);
  bool named = tarn__codec_lookup(L, e->codec->function_names, index);
  if (!named) {
    tarn__codec_refresh_names(L, e->codec, true);
    named = tarn__codec_lookup(L, e->codec->function_names, index);
  }
  return named ? tarn__encode_name(e, L) : refuse_cdata(e, L, index);
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
  if (!tarn__codec_serializer(L, e->codec, index)) { return encode_ctype(e, L, index); }
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
  if (rc) { return tarn__done(e, rc); }
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
    return tarn__failure_refuse(&e->failure, make_it_there, "a userdata (%s) cannot travel",
                                lua_tostring(L, -1));
  }
  return tarn__failure_refuse(&e->failure, make_it_there, "a userdata cannot travel");
}

int tarn__encode_ref(tarn__encoder_t *e, lua_State *L, int index, tarn_ref_t *ref) {
  if (!e->keep_refs) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a DRef cannot be saved in a file: save what it refers to");
  }
  if (e->plain) { return tarn__encode_not_plain(e); }
  uint32_t number;
  bool is_new;
  if (!tarn__seen_put(&e->seen, lua_touserdata(L, index), e->ref_count, &number, &is_new) ||
      tarn__encoder_grow((void **)&e->refs, e->ref_count, &e->ref_capacity, sizeof *e->refs)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (is_new) {
    e->refs[e->ref_count++] = (tarn_image_ref_t){ref->origin, ref->id};
    tarn_ref_exported(L, index);
  }
  size_t mark;
  int rc = tarn__encode_open(e, TARN_EXT_DREF, &mark);
  if (rc) { return rc; }
  uint32_t owner = tarn_ref_owner(ref);
  rc = tarn_mp_write_array(&e->out, owner == ref->origin ? 3 : 4);
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->origin); }
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->id); }
  if (!rc) { rc = tarn_mp_write_uint(&e->out, ref->size); }
  if (!rc && owner != ref->origin) { rc = tarn_mp_write_uint(&e->out, owner); }
  return rc ? tarn__done(e, rc) : tarn__encode_close(e, mark);
}

/* What the tables of names have is at the top of the stack: a payload, or the serializer whose metatable the value is. */
int tarn__encode_name(tarn__encoder_t *e, lua_State *L) {
  size_t length;
  if (lua_istable(L, -1)) {
    tarn__codec_offer(L, e->codec, lua_gettop(L));
    lua_rawgeti(L, -1, TARN__SER_TYPE_NAME);
  }
  const char *name = lua_tolstring(L, -1, &length);
  int rc = tarn_mp_write_ext_header(&e->out, TARN_EXT_NAME, length);
  if (!rc) { rc = tarn_buf_append(&e->out, name, length); }
  return tarn__done(e, rc);
}

static int encode_any_function(tarn__encoder_t *e, lua_State *L, int index) {
  if (!lua_checkstack(L, SLOTS_A_LEVEL)) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  tarn__encoder_check_names(e, L);
  bool named = tarn__codec_lookup(L, e->codec->function_names, index);
  if (!named && lua_iscfunction(L, index)) {
    tarn__codec_refresh_names(L, e->codec, true);
    named = tarn__codec_lookup(L, e->codec->function_names, index);
    if (!named) {
      return tarn__failure_refuse(&e->failure, "let a Lua function get it where it is used",
                                  "a C function that is in no module cannot travel");
    }
  }
  if (named) { return tarn__encode_name(e, L); }
  return tarn__encode_function(e, L, index);
}

/* index is the top of the stack, or a place that may be covered; what is pushed here is popped again by the callers' settop. */
int tarn__encode_value(tarn__encoder_t *e, lua_State *L, int index) {
  int rc, top;
  size_t length;
  const char *text;
  switch (lua_type(L, index)) {
  case LUA_TNUMBER:
    return tarn__encode_number(e, lua_tonumber(L, index));
  case LUA_TSTRING:
    text = lua_tolstring(L, index, &length);
    return tarn__encode_text(e, text, length);
  case LUA_TNIL:
    return tarn__done(e, tarn_mp_write_nil(&e->out));
  case LUA_TBOOLEAN:
    return tarn__done(e, tarn_mp_write_bool(&e->out, lua_toboolean(L, index)));
  default:
    break;
  }
  top = lua_gettop(L);
  switch (lua_type(L, index)) {
  case LUA_TTABLE:
    rc = tarn__encode_table(e, L, index);
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
    return tarn__failure_refuse(&e->failure, make_it_there, "a coroutine cannot travel");
  default:
    return tarn__failure_refuse(&e->failure, make_it_there, "a light userdata cannot travel");
  }
  lua_settop(L, top);
  return rc;
}
