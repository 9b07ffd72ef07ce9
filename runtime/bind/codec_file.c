/* core.save and core.load: saved files without an object of the pool. Lua thread. */
#include <string.h>

#include "bind/codec-private.h"

const char *tarn__file_check_path(lua_State *L, int index, const char *function) {
  size_t size;
  const char *path = tarn__check_text(L, index, "the path", &size);
  if (size == 0 || strlen(path) != size) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "%s: the path is empty or holds a zero byte", function);
  }
  return path;
}

bool tarn__check_option(lua_State *L, int index, const char *name, bool otherwise) {
  if (lua_isnoneornil(L, index)) { return otherwise; }
  if (!lua_istable(L, index)) {
    tarn_bind_raise_kind(L, TARN_EINVAL,
                         "the options must be a table such as {code = true}, not a %s",
                         luaL_typename(L, index));
  }
  lua_pushnil(L);
  while (lua_next(L, index) != 0) { /* a misspelt {code = false} would let code in */
    lua_pop(L, 1);
    const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1);
    if (strcmp(key, "code") != 0 && strcmp(key, "verify") != 0) {
      tarn_bind_raise_kind(L, TARN_EINVAL, "unknown option '%s'; there are code and verify", key);
    }
  }
  lua_getfield(L, index, name);
  bool is = lua_isnil(L, -1) ? otherwise : lua_toboolean(L, -1);
  lua_pop(L, 1);
  return is;
}

int tarn__codec_save(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "save");
  lua_settop(L, 2);
  tarn_encoded_t *e = tarn__codec_encode_for_file(L, 2);
  tarn__file_write(L, path, true, e, NULL);
  tarn_encoded_clear(e);
  return 0;
}

void tarn__file_push(lua_State *L, const char *path, tarn_value_t *v, bool may_code) {
  lua_pushcfunction(L, tarn__value_decode);
  lua_pushlightuserdata(L, v);
  lua_pushnumber(L, may_code ? 0 : TARN_DECODE_NO_CODE);
  if (lua_pcall(L, 2, 1, 0) == 0) { return; }
  if (lua_istable(L, -1)) { /* an error of the codec's: which file it was */
    lua_getfield(L, -1, "message");
    if (lua_isstring(L, -1)) {
      lua_pushfstring(L, "%s: %s", path, lua_tostring(L, -1));
      lua_setfield(L, -3, "message");
    }
    lua_pop(L, 1);
    lua_pushstring(L, path);
    lua_setfield(L, -2, "path");
  }
  lua_error(L);
}

int tarn__value_decode(lua_State *L) {
  tarn_value_t *v = lua_touserdata(L, 1);
  return tarn_codec_decode_value(L, v, (uint32_t)lua_tonumber(L, 2));
}

tarn_value_t **tarn__file_open(lua_State *L, const char *path, bool verify,
                               tarn_saved_identity_t *identity) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_value_t **box = tarn__value_box(L);
  tarn__room_try_t t = {0};
  tarn_error_t err;
  uint32_t flags = verify ? TARN_SAVED_VERIFY : 0;
  int rc;
  do {
    err = (tarn_error_t){0};
    rc = tarn_pool_open_saved(b->pool, path, tarn__room_flags(&t) | flags, identity, box, &err);
  } while (rc != 0 && tarn__room_again(L, &t, rc, &err));
  if (rc != 0) { tarn__file_raise(L, path, &err); }
  return box;
}

void tarn__value_box_clear(tarn_value_t **box) {
  if (*box != NULL) { tarn_value_release(*box); }
  *box = NULL;
}

static int box_gc(lua_State *L) {
  tarn__value_box_clear(lua_touserdata(L, 1));
  return 0;
}

tarn_value_t **tarn__value_box(lua_State *L) {
  return tarn__userdata_new(L, sizeof(tarn_value_t *), "tarn.value_box", box_gc);
}

int tarn__codec_load(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "load");
  bool may_code = tarn__check_option(L, 2, "code", false);
  bool verify = tarn__check_option(L, 2, "verify", false);
  lua_settop(L, 2);
  tarn_value_t **box = tarn__file_open(L, path, verify, NULL);
  tarn_bind_feed_mapped(L, tarn_value_size(*box), tarn_value_block_count(*box) + 1);
  tarn__file_push(L, path, *box, may_code);
  tarn__value_box_clear(box);
  return 1;
}
