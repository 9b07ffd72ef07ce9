/* A value in the form of a saved file, to be sent piece by piece while the task waits. Lua thread only.
 *
 *   remote_form(x, path), remote_form_of(ref, path) -> form   path: for errors. Raises NotSerializable, and what encoding raises.
 *   form:size()                bytes
 *   form:read(from, size)      those bytes, copied
 *   form:sha256(from, size)    their digest, in hexadecimal
 *   form:holds()               false: its bytes have been changed since it was made
 *   form:close()
 *   sha256(text)               its digest */
#include <lauxlib.h>
#include <openssl/evp.h>
#include <string.h>

#include "bind/codec-private.h"

#define FORM "tarn.remote_form"

/* All of these are userdata, which hang from its environment. */
typedef struct remote_form {
  tarn__file_form_t *form;
  tarn_encoded_t *encoded; /* of which it is the form; or null */
  tarn_value_t **box;      /* the same */
} remote_form_t;

tarn__file_form_t *tarn__remote_form_test(lua_State *L, int index) {
  remote_form_t *r = tarn__userdata_test(L, index, FORM);
  return r != NULL ? r->form : NULL;
}

static tarn__file_form_t *check_form(lua_State *L) {
  return ((remote_form_t *)luaL_checkudata(L, 1, FORM))->form;
}

/* The part in which that byte lies, or behind which it does. */
static size_t find(const tarn__file_form_t *form, uint64_t at) {
  size_t low = 0, high = form->part_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (form->parts[middle].at <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/* Hand fn the bytes of a range, a run at a time. */
static void each_run(const tarn__file_form_t *form, uint64_t at, uint64_t size,
                     void (*fn)(void *user, const void *bytes, size_t size), void *user) {
  for (size_t i = find(form, at); i < form->part_count && size > 0; i++) {
    const tarn__file_part_t *p = &form->parts[i];
    uint64_t skip = at - p->at;
    if (skip >= p->size) { continue; }
    uint64_t n = p->size - skip < size ? p->size - skip : size;
    fn(user, (const uint8_t *)p->bytes + skip, (size_t)n);
    at += n;
    size -= n;
  }
}

typedef struct copy {
  uint8_t *to;
  size_t left;
} copy_t;

static void on_copy(void *user, const void *bytes, size_t size) {
  copy_t *c = user;
  memcpy(c->to, bytes, size);
  c->to += size;
  c->left -= size;
}

void tarn__remote_form_read(const tarn__file_form_t *form, uint64_t at, void *to, size_t size) {
  copy_t c = {to, size};
  each_run(form, at, size, on_copy, &c);
  memset(c.to, 0, c.left);
}

static void on_digest(void *user, const void *bytes, size_t size) {
  (void)EVP_DigestUpdate(user, bytes, size);
}

/* Push the digest in hexadecimal: of bytes of the form, or without one of the text. */
static int push_sha256(lua_State *L, const tarn__file_form_t *form, const char *text, uint64_t from,
                       uint64_t size) {
  static const char digits[] = "0123456789abcdef";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  char hex[2 * EVP_MAX_MD_SIZE];
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  if (context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1) {
    if (form != NULL) {
      each_run(form, from, size, on_digest, context);
    } else {
      on_digest(context, text, (size_t)size);
    }
    (void)EVP_DigestFinal_ex(context, digest, &length);
  }
  EVP_MD_CTX_free(context);
  if (length == 0) { return tarn_bind_raise_kind(L, TARN_ENOMEM, "no memory for a digest"); }
  for (unsigned i = 0; i < length; i++) {
    hex[2 * i] = digits[digest[i] >> 4];
    hex[2 * i + 1] = digits[digest[i] & 15];
  }
  lua_pushlstring(L, hex, 2 * (size_t)length);
  return 1;
}

/* The range at indices 2 and 3, within the form. */
static void check_range(lua_State *L, const tarn__file_form_t *form, uint64_t *from,
                        uint64_t *size) {
  double a = luaL_checknumber(L, 2), n = luaL_checknumber(L, 3);
  luaL_argcheck(L, a >= 0 && n >= 0 && a + n <= (double)form->size, 3, "beyond its end");
  *from = (uint64_t)a;
  *size = (uint64_t)n;
}

static int form_sha256(lua_State *L) {
  uint64_t from, size;
  tarn__file_form_t *form = check_form(L);
  check_range(L, form, &from, &size);
  return push_sha256(L, form, NULL, from, size);
}

static int core_sha256(lua_State *L) {
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  return push_sha256(L, NULL, text, 0, size);
}

static int form_read(lua_State *L) {
  uint64_t from, size;
  tarn__file_form_t *form = check_form(L);
  check_range(L, form, &from, &size);
  void *bytes = lua_newuserdata(L, (size_t)size);
  tarn__remote_form_read(form, from, bytes, (size_t)size);
  lua_pushlstring(L, bytes, (size_t)size);
  return 1;
}

static int form_size(lua_State *L) {
  lua_pushnumber(L, (double)check_form(L)->size);
  return 1;
}

static int form_holds(lua_State *L) {
  lua_pushboolean(L, tarn__file_form_holds(check_form(L)));
  return 1;
}

/* What it was made of may be large: it is let go of before the collector comes. */
static int form_close(lua_State *L) {
  remote_form_t *r = luaL_checkudata(L, 1, FORM);
  tarn__file_form_clear(r->form);
  if (r->encoded != NULL) { tarn_encoded_clear(r->encoded); }
  if (r->box != NULL) { tarn__value_box_clear(r->box); }
  return 0;
}

/* Push the form of what is at the top of the stack: e or box. */
static int push(lua_State *L, const char *path, tarn_encoded_t *e, tarn_value_t **box) {
  int source = lua_gettop(L);
  remote_form_t *r = lua_newuserdata(L, sizeof *r);
  *r = (remote_form_t){tarn__file_form(L, path, e, box != NULL ? *box : NULL), e, box};
  lua_createtable(L, 2, 0);
  for (int i = 1; i <= 2; i++) { /* the source and the form */
    lua_pushvalue(L, i == 1 ? source : source + 2);
    lua_rawseti(L, -2, i);
  }
  lua_setfenv(L, source + 1);
  lua_settop(L, source + 1);
  luaL_getmetatable(L, FORM);
  lua_setmetatable(L, -2);
  return 1;
}

static int remote_form(lua_State *L) {
  const char *path = luaL_checkstring(L, 2);
  lua_settop(L, 2);
  tarn_encoded_t *e = tarn__codec_encode_for_file(L, 1);
  return push(L, path, e, NULL);
}

static int remote_form_of(lua_State *L) {
  uint64_t id = tarn__object_own_id(L);
  const char *path = luaL_checkstring(L, 2);
  lua_settop(L, 2);
  if (tarn__object_push_live(L, id)) {
    tarn_encoded_t *e = tarn_codec_encode(L, -1);
    return push(L, path, e, NULL);
  }
  return push(L, path, NULL, tarn__file_peek(L, id));
}

void tarn__remote_form_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"size", form_size},     {"read", form_read},
                                     {"sha256", form_sha256}, {"holds", form_holds},
                                     {"close", form_close},   {NULL, NULL}};
  static const luaL_Reg functions[] = {{"remote_form", remote_form},
                                       {"remote_form_of", remote_form_of},
                                       {"sha256", core_sha256},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
  tarn__class_open(L, FORM, methods);
}
