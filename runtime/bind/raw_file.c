/* Files of other formats, for modules that read and write them (tarn.arrow): ranges of one as blocks, and all of one written at once.
 *
 *   raw_open(path) -> file, its size in bytes. The file is let go of when the userdata is collected; its blocks live on.
 *   raw_block(file, offset, nbytes) hands over a sealed block (block.take in lua/tarn/block.lua)
 *   raw_save(path, parts): parts: a list of strings, and of `const void *` cdata with a number of bytes behind each
 *
 * Lua thread. */
#include <lauxlib.h>
#include <string.h>

#include "bind/codec-private.h"
#include "bind/file-private.h"

#define FILE_METATABLE "tarn.raw_file"

static int file_gc(lua_State *L) {
  tarn_raw_file_t **f = lua_touserdata(L, 1);
  if (*f) { tarn_pool_close_raw(tarn_bind_of(L)->pool, *f); }
  *f = NULL;
  return 0;
}

static int raw_open(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "the file");
  tarn_raw_file_t **f = tarn__userdata_new(L, sizeof *f, FILE_METATABLE, file_gc);
  uint64_t size = 0;
  tarn_error_t err = {0};
  if (tarn_pool_open_raw(tarn_bind_of(L)->pool, path, f, &size, &err) != 0) {
    return tarn__file_raise(L, path, &err);
  }
  lua_pushnumber(L, (double)size);
  return 2;
}

/* A whole number of bytes. */
static uint64_t check_bytes(lua_State *L, int index) {
  double n = luaL_checknumber(L, index);
  if (!(n >= 0 && n <= TARN__INTEGER_MAX)) { luaL_argerror(L, index, "number of bytes expected"); }
  return (uint64_t)n;
}

static int raw_block(lua_State *L) {
  tarn_raw_file_t **f = luaL_checkudata(L, 1, FILE_METATABLE);
  uint64_t offset = check_bytes(L, 2), size = check_bytes(L, 3);
  tarn_bind_feed_mapped(L, size, 1);
  tarn_block_t *block = NULL;
  tarn_error_t err = {0};
  if (tarn_pool_raw_block(tarn_bind_of(L)->pool, *f, offset, size, &block, &err) != 0) {
    return tarn_bind_raise(L, &err);
  }
  tarn_block_release(block); /* its mapping keeps it */
  tarn_bind_hand(tarn_bind_of(L), block);
  return 0;
}

/* Part `at` of the list at index 2; where the next one is. */
static int take_part(lua_State *L, int at, tarn__file_part_t *part) {
  lua_rawgeti(L, 2, at);
  if (lua_type(L, -1) == LUA_TSTRING) {
    part->bytes = lua_tolstring(L, -1, &part->size);
    lua_pop(L, 1);
    return at + 1;
  }
  lua_rawgeti(L, 2, at + 1);
  if (lua_type(L, -2) != TARN__TCDATA || !lua_isnumber(L, -1)) {
    luaL_argerror(L, 2, "strings, and pointers with sizes, expected");
  }
  memcpy(&part->bytes, lua_topointer(L, -2), sizeof part->bytes);
  part->size = (size_t)check_bytes(L, -1);
  lua_pop(L, 2);
  return at + 2;
}

static int raw_save(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "the file");
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  int length = (int)lua_objlen(L, 2);
  tarn__file_part_t *parts = lua_newuserdata(L, ((size_t)length + 1) * sizeof *parts);
  size_t count = 0;
  for (int at = 1; at <= length;) { at = take_part(L, at, &parts[count++]); }
  tarn__file_write_parts(L, path, parts, count);
  return 0;
}

void tarn__raw_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"raw_open", raw_open}, {"raw_block", raw_block}, {"raw_save", raw_save}, {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
