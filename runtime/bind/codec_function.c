/* Lua functions: FUNCTION ext = bin of bytecode (with its debug information, so that tracebacks name the line), an array
 * header with the number of upvalues, then for each its identity (a uint; the same one is the same variable) followed, where that identity is
 * new, by the value. The environment is not sent: a function finds the globals of the process where it arrives. */
#include "base/alloc.h"
#include "bind/codec-private.h"

/* ---- encoding ---- */

static int on_bytecode(lua_State *L, const void *bytes, size_t size, void *ud) {
  (void)L;
  tarn__encoder_t *e = ud;
  return tarn_buf_append(&e->out, bytes, size);
}

static int encode_bytecode(tarn__encoder_t *e, lua_State *L, int index) {
  size_t mark = e->out.size;
  const uint8_t header[5] = {0xc6, 0, 0, 0, 0};
  int rc = tarn_buf_append(&e->out, header, sizeof header);
  if (!rc) {
    lua_pushvalue(L, index);
    rc = lua_dump(L, on_bytecode, e);
    lua_pop(L, 1);
  }
  size_t length = e->out.size - mark - sizeof header;
  if (rc || length > UINT32_MAX) {
    return tarn__encode_out_of_memory(e, rc == TARN_ETOOBIG || !rc ? TARN_ETOOBIG : TARN_ENOMEM);
  }
  for (unsigned i = 0; i < 4; i++) {
    e->out.data[mark + 1 + i] = (uint8_t)(length >> (24 - 8 * i));
  }
  return 0;
}

static int encode_upvalue(tarn__encoder_t *e, lua_State *L, int index, int number) {
  uint32_t id;
  bool is_new;
  if (!tarn__seen_put(&e->seen, lua_upvalueid(L, index, number), e->upvalue_count, &id, &is_new) ||
      tarn_mp_write_uint(&e->out, id)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (!is_new) {
    e->backrefs = true;
    return 0;
  }
  e->upvalue_count++;
  const char *name = lua_getupvalue(L, index, number);
  int rc = tarn__encode_value(e, L, lua_gettop(L));
  if (rc) { tarn__failure_step(&e->failure, "upvalue '%s'", name ? name : "?"); }
  lua_pop(L, 1);
  return rc;
}

static void describe(lua_State *L, int index, lua_Debug *ar) {
  lua_pushvalue(L, index);
  lua_getinfo(L, ">Su", ar);
}

/* The globals, or something that falls back on them (busted gives specs such an environment): not sent, so it must not be a sandbox of
 * the function's own. */
static bool has_usual_environment(tarn__encoder_t *e, lua_State *L, int index) {
  lua_getfenv(L, index);
  bool usual = lua_topointer(L, -1) == e->codec->globals || luaL_getmetafield(L, -1, "__index");
  return usual;
}

int tarn__encode_function(tarn__encoder_t *e, lua_State *L, int index) {
  bool again;
  int rc = tarn__encode_identity(e, lua_topointer(L, index), &again);
  if (rc || again) { return rc; }
  lua_Debug ar;
  describe(L, index, &ar);
  if (e->depth >= TARN_IMAGE_MAX_DEPTH) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a value nested deeper than %u levels cannot travel",
                             TARN_IMAGE_MAX_DEPTH);
  }
  int top = lua_gettop(L);
  if (!has_usual_environment(e, L, index)) {
    return tarn__failure_set(
        &e->failure, TARN__NOT_SERIALIZABLE,
        "a function with an environment of its own (setfenv) cannot travel: function at %.60s:%d",
        ar.short_src, ar.linedefined);
  }
  lua_settop(L, top);
  size_t mark;
  rc = tarn__encode_open(e, TARN_EXT_FUNCTION, &mark);
  if (!rc) { rc = encode_bytecode(e, L, index); }
  if (rc) { return rc; }
  if (tarn_mp_write_array(&e->out, (uint32_t)ar.nups)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  e->depth++;
  for (int i = 1; i <= ar.nups; i++) {
    rc = encode_upvalue(e, L, index, i);
    if (rc) {
      tarn__failure_step(&e->failure, "function at %.60s:%d", ar.short_src, ar.linedefined);
      e->failure.in_function = true;
      return rc;
    }
  }
  e->depth--;
  return tarn__encode_close(e, mark);
}

/* ---- decoding ---- */

static int load_bytecode(tarn__decoder_t *d, lua_State *L, uint32_t *upvalue_count) {
  const uint8_t *code;
  uint32_t length;
  if (tarn_mp_read_bytes(&d->in, &code, &length) || tarn_mp_read_array(&d->in, upvalue_count)) {
    return tarn__decode_corrupt(d, "malformed function");
  }
  if (length == 0 || code[0] != 0x1b) {
    return tarn__decode_corrupt(d, "a function that is not bytecode");
  }
  if (tarn__kept_push(L, code, length, *upvalue_count)) { return 0; }
  if (luaL_loadbufferx(L, (const char *)code, length, "=received", "b")) {
    return tarn__failure_set(&d->failure, TARN_ECORRUPT,
                             "image: a function that this LuaJIT cannot load: %.100s",
                             lua_tostring(L, -1));
  }
  lua_Debug ar;
  describe(L, lua_gettop(L), &ar);
  if (*upvalue_count != (uint32_t)ar.nups) {
    return tarn__decode_corrupt(d, "a function with a wrong number of upvalues");
  }
  tarn__kept_put(L, lua_gettop(L), code, length, *upvalue_count);
  return 0;
}

static int join_upvalue(tarn__decoder_t *d, lua_State *L, int function, int number, uint32_t id) {
  if (id >= d->upvalue_count || !d->image.backrefs) {
    return tarn__decode_corrupt(d, "an upvalue that is not there");
  }
  tarn__upvalue_t *from = &d->upvalues[id];
  lua_rawgeti(L, d->made_index, (int)from->made + 1);
  lua_upvaluejoin(L, function, number, lua_gettop(L), (int)from->number);
  lua_pop(L, 1);
  return 0;
}

static int decode_upvalue(tarn__decoder_t *d, lua_State *L, int function, uint32_t made,
                          int number) {
  uint64_t id;
  if (tarn_mp_read_uint(&d->in, UINT32_MAX, &id)) {
    return tarn__decode_corrupt(d, "malformed upvalue");
  }
  if (id != d->upvalue_count) { return join_upvalue(d, L, function, number, (uint32_t)id); }
  if (tarn__encoder_grow((void **)&d->upvalues, d->upvalue_count, &d->upvalue_capacity,
                         sizeof *d->upvalues)) {
    return tarn__failure_set(&d->failure, TARN_ENOMEM, "out of memory while decoding");
  }
  d->upvalues[d->upvalue_count++] = (tarn__upvalue_t){made, (uint32_t)number};
  tarn__kept_variable(L, function, number);
  int rc = tarn__decode_value(d, L);
  if (rc) { return rc; }
  lua_setupvalue(L, function, number);
  return 0;
}

int tarn__decode_function(tarn__decoder_t *d, lua_State *L) {
  if (d->flags & TARN_DECODE_NO_CODE) {
    return tarn__failure_set(
        &d->failure, TARN_ECORRUPT,
        "image: holds a function, which is refused here ({code = true} allows it)");
  }
  uint32_t upvalue_count;
  int rc = load_bytecode(d, L, &upvalue_count);
  if (rc) { return rc; }
  int function = lua_gettop(L);
  uint32_t made = d->made;
  tarn__decode_made(d, L);
  for (uint32_t i = 1; i <= upvalue_count && !rc; i++) {
    rc = decode_upvalue(d, L, function, made, (int)i);
  }
  return rc;
}
