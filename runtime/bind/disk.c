/* core.file_*, core.pool_copy and the watching of objects: what lua/tarn/disk.lua and lua/tarn/destructor.lua are made of. Lua thread;
 * file calls block it for as long as the disk takes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/sys.h"
#include "bind/file-private.h"

static int raise_errno(lua_State *L, const char *path, const char *what) {
  tarn_error_t err;
  tarn_error_errno(&err, errno, "%s", what);
  return tarn__file_raise(L, path, &err);
}

/* file_path(path) -> the one name that it goes by: absolute, its directory without links. The directory must be there. */
static int file_path(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "the file");
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "'%s' is no file's path", path);
  }
  lua_pushlstring(L, path, slash == path ? 1 : slash ? (size_t)(slash - path) : 0);
  char real[PATH_MAX];
  if (realpath(slash ? lua_tostring(L, -1) : ".", real) == NULL) {
    raise_errno(L, path, "no such directory");
  }
  lua_pushfstring(L, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
  return 1;
}

static void push_identity(lua_State *L, const tarn_saved_identity_t *id) {
  lua_pushlstring(L, (const char *)id, sizeof *id);
}

/* file_identity(path) -> a string that differs when the file does */
static int file_identity(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "the file");
  tarn_saved_identity_t id;
  tarn_error_t err = {0};
  if (tarn_saved_identify(path, &id, &err) != 0) { tarn__file_raise(L, path, &err); }
  push_identity(L, &id);
  return 1;
}

tarn_value_t **tarn__file_peek(lua_State *L, uint64_t id) {
  tarn_value_t **box = tarn__value_box(L);
  tarn_error_t err = {0};
  *box = tarn__object_value(L, id, TARN_GET_QUIET | TARN_GET_VERIFIED);
  if (*box == NULL) { tarn__object_check(L, TARN_ENOENT, &err, id); } /* deleted a moment ago */
  return box;
}

/* file_save(ref, path, replace): a file of what the object is; the pool stays as it is */
static int file_save(lua_State *L) {
  uint64_t id = tarn__object_own_id(L);
  const char *path = tarn__file_check_path(L, 2, "the file");
  bool replace = lua_toboolean(L, 3);
  lua_settop(L, 3);
  if (tarn__object_push_live(L, id)) {
    tarn_encoded_t *e = tarn__object_encode(L, id, -1);
    tarn__file_write(L, path, replace, e, NULL);
    tarn_encoded_clear(e);
    return 0;
  }
  tarn_value_t **box = tarn__file_peek(L, id);
  char home[PATH_MAX];
  bool at_home = tarn_pool_saved_path(tarn_bind_of(L)->pool, id, home, sizeof home) == 0 &&
                 strcmp(home, path) == 0;
  tarn__file_write(L, path, replace, NULL, *box);
  if (at_home) { /* it was in the file that has just been replaced */
    tarn_error_t err = {0};
    tarn_value_t **again = tarn__file_open(L, path, false, NULL);
    tarn__object_check(L, tarn_pool_rehome(tarn_bind_of(L)->pool, id, *again, &err), &err, id);
    tarn__value_box_clear(again);
  }
  tarn__value_box_clear(box);
  return 0;
}

/* file_move(ref, path): a new file, which from here on is where the object is */
static int file_move(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint64_t id = tarn__object_own_id(L);
  const char *path = tarn__file_check_path(L, 2, "the file");
  lua_settop(L, 2);
  tarn_value_t **old = tarn__value_box(L);
  *old = tarn_object_export(L, id, TARN_GET_VERIFIED);
  tarn__file_write(L, path, false, NULL, *old);
  tarn_value_t **moved = tarn__file_open(L, path, false, NULL);
  tarn_error_t err = {0};
  int rc = tarn_pool_rehome(b->pool, id, *moved, &err);
  if (rc == 0) {
    (void)tarn_pool_visit(b->pool, *old);
  } /* views of it may be in use: they can be evicted as before */
  tarn__value_box_clear(old);
  tarn__value_box_clear(moved);
  if (rc != 0) {
    (void)tarn_sys_unlink(path);
  } /* deleted meanwhile: nobody has seen this file yet */
  tarn__object_check(L, rc, &err, id);
  return 0;
}

/* file_open(path, options) -> value, ref, identity: a saved file as an object of the pool */
static int file_open(lua_State *L) {
  const char *path = tarn__file_check_path(L, 1, "the file");
  bool may_code = tarn__check_option(L, 2, "code", false);
  bool verify = tarn__check_option(L, 2, "verify", false);
  lua_settop(L, 2);
  tarn_saved_identity_t identity;
  tarn_value_t **box = tarn__file_open(L, path, verify, &identity);
  tarn__file_push(L, path, *box, may_code);
  int value = lua_gettop(L);
  tarn__object_push_new(L, *box, TARN_BLOCK_WAIT);
  tarn__object_cache(L, tarn_ref_local(L, tarn_ref_test(L, -1)), value);
  push_identity(L, &identity);
  tarn__value_box_clear(box);
  return 3;
}

/* file_get(ref, code, path, cached) -> the value of such an object; code: functions are allowed; cached: it may be one that was
 * read before, and is remembered */
static int file_get(lua_State *L) {
  uint64_t id = tarn__object_own_id(L);
  bool may_code = lua_toboolean(L, 2), cached = lua_toboolean(L, 4);
  const char *path = tarn__file_check_path(L, 3, "the file");
  lua_settop(L, 3);
  tarn_error_t err = {0};
  if (cached && tarn__object_push_cached(L, id)) {
    tarn__object_check(L, tarn_pool_touch(tarn_bind_of(L)->pool, id, &err), &err, id);
    return 1;
  }
  tarn_value_t **box = tarn__value_box(L);
  *box = tarn_object_export(L, id, 0);
  tarn__file_push(L, path, *box, may_code);
  if (cached) { tarn__object_cache(L, id, -1); }
  tarn__value_box_clear(box);
  return 1;
}

/* file_delete(path): only what is a saved file is removed */
static int file_delete(lua_State *L) {
  static const char magic[] = "\x89TARN\r\n\x1a";
  const char *path = tarn__file_check_path(L, 1, "the file");
  char first[8] = {0};
  int fd = tarn_sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
  if (fd < 0) { return raise_errno(L, path, "cannot open"); }
  ssize_t n = tarn_sys_pread(fd, first, sizeof first, 0);
  close(fd);
  if (n < 0) { return raise_errno(L, path, "cannot read"); }
  if (n != sizeof first || memcmp(first, magic, sizeof first) != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ECORRUPT, "not a tarn file: it is left alone");
    return tarn__file_raise(L, path, &err);
  }
  if (tarn_sys_unlink(path) != 0) { return raise_errno(L, path, "cannot remove"); }
  return 0;
}

/* pool_copy(ref): into the spill file, and it stays in memory */
static int pool_copy(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint64_t id = tarn__object_own_id(L);
  tarn_error_t err = {0};
  int rc = tarn_pool_copy(b->pool, id, &err);
  if (rc == TARN_ENEEDLUA) {
    tarn_value_release(tarn_object_export(L, id, 0));
    err = (tarn_error_t){0};
    rc = tarn_pool_copy(b->pool, id, &err);
  }
  tarn__object_check(L, rc, &err, id);
  return 0;
}

/* pool_watch(id) -> true; false: our object of that number is gone already */
static int pool_watch(lua_State *L) {
  tarn_error_t err = {0};
  uint64_t id = (uint64_t)luaL_checknumber(L, 1);
  int rc = tarn_pool_watch(tarn_bind_of(L)->pool, id);
  if (rc != 0 && rc != TARN_ENOENT) { tarn__object_check(L, rc, &err, id); }
  lua_pushboolean(L, rc == 0);
  return 1;
}

/* pool_deleted() -> ids of watched objects that are gone, since the last call */
static int pool_deleted(lua_State *L) {
  size_t count = 0;
  uint64_t *ids = tarn__drops_take_deleted(tarn_bind_of(L)->drops, &count);
  lua_newtable(L);
  for (size_t i = 0; i < count; i++) {
    lua_pushnumber(L, (double)ids[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  tarn_free(ids);
  return 1;
}

void tarn__disk_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"file_path", file_path},
                                       {"file_identity", file_identity},
                                       {"file_save", file_save},
                                       {"file_move", file_move},
                                       {"file_open", file_open},
                                       {"file_get", file_get},
                                       {"file_delete", file_delete},
                                       {"pool_copy", pool_copy},
                                       {"pool_watch", pool_watch},
                                       {"pool_deleted", pool_deleted},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
