/* The Lua state: an allocator that counts, the standard libraries, luv on the user's loop, where modules are found, options and arg. */
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/version.h"
#include "base/clock.h"
#include "base/log.h"
#include "host-private.h"
#include "luv.h"

#define DRAIN_MS 500u /* at the end, for what the user left running */

static int take_head(lua_State *L, const void *bytes, size_t size, void *ud) {
  (void)L;
  tarn_host_t *h = ud;
  if (h->bytecode[0] != '\0' || size < 5) { return 0; }
  for (size_t i = 0; i < 5; i++) {
    snprintf(h->bytecode + 2 * i, 3, "%02x", ((const uint8_t *)bytes)[i]);
  }
  return 0;
}

/* What kind of bytecode this LuaJIT writes and reads. */
static void name_bytecode(tarn_host_t *h) {
  if (luaL_loadstring(h->L, "") == 0) { (void)lua_dump(h->L, take_head, h); }
  lua_settop(h->L, 0);
}

int tarn__lua_create(tarn_host_t *h, tarn_error_t *err) {
  h->L = tarn__heap_open(&h->lua_bytes, &h->heap);
  if (h->L == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory for Lua"); }
  luaL_openlibs(h->L);
  name_bytecode(h);
  return 0;
}

static void close_handle(uv_handle_t *handle, void *arg) {
  (void)arg;
  if (!uv_is_closing(handle)) { uv_close(handle, NULL); }
}

/* luv wants its handles closed before the state goes, and frees them with it. False: not to be had within the time, as when a request sits in
 * a thread, or callbacks go on making new ones. */
static bool drain_user_loop(tarn_host_t *h) {
  uint64_t deadline = tarn_clock_ms() + DRAIN_MS;
  do {
    uv_walk(&h->user_loop, close_handle, NULL);
    if (uv_run(&h->user_loop, UV_RUN_NOWAIT) == 0) { return true; }
    struct pollfd p = {.fd = uv_backend_fd(&h->user_loop), .events = POLLIN};
    (void)poll(&p, 1, 10);
  } while (tarn_clock_ms() < deadline);
  return false;
}

bool tarn__lua_destroy(tarn_host_t *h) {
  lua_State *L = h->L;
  if (!drain_user_loop(h)) { return false; }
  h->L = NULL;
  tarn__heap_close(h->heap, L);
  h->heap = NULL;
  return true;
}

static int on_callback_error(lua_State *L) {
  lua_getglobal(L, "tostring");
  lua_pushvalue(L, 1);
  const char *text = lua_pcall(L, 1, 1, 0) == 0 ? lua_tostring(L, -1) : NULL;
  luaL_traceback(L, L, text != NULL ? text : "(an error whose tostring fails)", 1);
  return 1;
}

/* Calls the user's luv callbacks. An error there has nobody to go to: it is logged, the process goes on. */
static int luv_pcall(lua_State *L, int nargs, int nresults, int flags) {
  (void)flags;
  int handler = lua_gettop(L) - nargs;
  lua_pushcfunction(L, on_callback_error);
  lua_insert(L, handler);
  int rc = lua_pcall(L, nargs, nresults, handler);
  lua_remove(L, handler);
  if (rc == 0) { return nresults == LUA_MULTRET ? lua_gettop(L) - handler + 1 : nresults; }
  const char *text = lua_tostring(L, -1);
  tarn_log(TARN_LOG_ERROR, "in a luv callback: %s", text != NULL ? text : "out of memory");
  lua_pop(L, 1);
  return -rc;
}

/* Where lua/tarn lives, from where the program lies: an installed prefix, or the source tree above a build folder. */
static int find_root(const char *exe, char *root, size_t size) {
  char dir[4096], probe[4400];
  int n = snprintf(dir, sizeof(dir) - 64, "%s", exe);
  if (n < 0 || (size_t)n >= sizeof(dir) - 64) { return -1; }
  char *slash = strrchr(dir, '/');
  if (slash == NULL) { return -1; }
  *slash = '\0';
  static const char *const installed[] = {"share/tarn",
                                          "share/lua/5.1/tarn"}; /* cmake's, luarocks' */
  for (size_t i = 0; i < sizeof(installed) / sizeof(installed[0]); i++) {
    snprintf(probe, sizeof(probe), "%s/../%s/lua/tarn/boot.lua", dir, installed[i]);
    if (access(probe, R_OK) == 0) {
      return snprintf(root, size, "%s/../%s", dir, installed[i]) < (int)size ? 0 : -1;
    }
  }
  for (int up = 0; up < 3 && (slash = strrchr(dir, '/')) != NULL && slash != dir; up++) {
    *slash = '\0';
    snprintf(probe, sizeof(probe), "%s/lua/tarn/boot.lua", dir);
    if (access(probe, R_OK) == 0) { return snprintf(root, size, "%s", dir) < (int)size ? 0 : -1; }
  }
  return -1;
}

static void set_path(lua_State *L, const char *root) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  const char *old = lua_tostring(L, -1);
  lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;%s", root, root, root, old);
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
}

/* It lies beside the program in a build folder, among the modules where it is installed. */
static void push_compiled(lua_State *L, const char *exe, const char *root) {
  char file[4400];
  snprintf(file, sizeof file, "%s.bytecode", exe);
  if (access(file, R_OK) != 0) { snprintf(file, sizeof file, "%s/tarn.bytecode", root); }
  tarn__compiled_push(L, file, root);
}

static void set_options(tarn_host_t *h, const char *script, bool interactive) {
  lua_State *L = h->L;
  const tarn_options_t *o = h->options;
  lua_newtable(L);
  if (o->procs > 0) { lua_pushnumber(L, o->procs), lua_setfield(L, -2, "procs"); }
  if (o->memory > 0) { lua_pushnumber(L, (double)o->memory), lua_setfield(L, -2, "memory"); }
  lua_pushstring(L, o->spill_dir), lua_setfield(L, -2, "spill_dir");
  lua_pushstring(L, h->exe), lua_setfield(L, -2, "exe");
  if (o->listen != NULL) { lua_pushstring(L, o->listen), lua_setfield(L, -2, "listen"); }
  if (o->hosts != NULL) { lua_pushstring(L, o->hosts), lua_setfield(L, -2, "hosts"); }
  if (o->launcher != NULL) { lua_pushstring(L, o->launcher), lua_setfield(L, -2, "launcher"); }
  if (o->connect != NULL) { lua_pushstring(L, o->connect), lua_setfield(L, -2, "connect"); }
  if (o->secret_file != NULL) {
    lua_pushstring(L, o->secret_file), lua_setfield(L, -2, "secret_file");
  }
  if (script != NULL) { lua_pushstring(L, script), lua_setfield(L, -2, "script"); }
  if (o->code != NULL) { lua_pushstring(L, o->code), lua_setfield(L, -2, "code"); }
  lua_pushboolean(L, interactive), lua_setfield(L, -2, "interactive");
  lua_pushboolean(L, !o->no_map), lua_setfield(L, -2, "map");
  if (o->tls != TARN_TLS_BEYOND) {
    lua_pushboolean(L, o->tls == TARN_TLS_ALWAYS), lua_setfield(L, -2, "tls");
  }
  lua_pushboolean(L, o->worker), lua_setfield(L, -2, "worker");
  lua_newtable(
      L); /* arg, as lua has it: arg[0] the script, arg[1].. its arguments, arg[-1].. what stands before it */
  int zero = o->script != NULL ? o->script_index : o->script_index - 1;
  for (int i = 0; i < o->argc; i++) {
    lua_pushstring(L, o->argv[i]);
    lua_rawseti(L, -2, i - zero);
  }
  lua_setfield(L, -2, "arg");
}

static int setup_protected(lua_State *L) {
  tarn_host_t *h = lua_touserdata(L, 1);
  const char *root = lua_touserdata(L, 2);
  bool terminal = isatty(STDIN_FILENO) == 1;
  const tarn_options_t *o = h->options;
  const char *script = o->script;
  if (script == NULL && o->code == NULL && !o->worker && !o->interactive && !terminal) {
    script = "/dev/stdin";
  }
  set_path(L, root);
  luv_set_loop(L, &h->user_loop);
  luv_set_callback(L, luv_pcall);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_luv);
  lua_setfield(L, -2, "luv");
  lua_pop(L, 2);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tarn.core");
  lua_call(L, 1, 1);
  tarn__interrupt_open(L);
  set_options(h, script, o->interactive || (script == NULL && o->code == NULL && terminal));
  lua_setfield(L, -2, "options");
  push_compiled(L, h->exe, root);
  lua_setfield(L, -2, "compiled");
  lua_pushstring(L, tarn_version);
  lua_setfield(L, -2, "version");
  return 0;
}

int tarn__lua_setup(tarn_host_t *h, tarn_error_t *err) {
  char root[4096];
  if (find_root(h->exe, root, sizeof(root)) != 0) {
    return tarn_error_set(
        err, TARN_EIO,
        "its Lua modules are not found: neither in ../share/tarn beside the program nor above it");
  }
  lua_pushcfunction(h->L, setup_protected);
  lua_pushlightuserdata(h->L, h);
  lua_pushlightuserdata(h->L, root);
  if (lua_pcall(h->L, 2, 0, 0) != 0) {
    const char *text = lua_tostring(h->L, -1);
    return tarn_error_set(err, TARN_EIO, "Lua cannot start: %s",
                          text != NULL ? text : "out of memory");
  }
  return 0;
}
