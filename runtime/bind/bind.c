/* The context of a Lua state, the core module, and the protected ways into Lua. Lua thread only, but for tarn_drops_add. */
#include "bind.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "codec.h"
#include "file-private.h"
#include "service/service.h"

static const char bind_key = 0;

tarn_bind_t *tarn_bind_of(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&bind_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  tarn_bind_t *b = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return b;
}

int tarn__new_table(lua_State *L, const char *mode) {
  lua_newtable(L);
  if (mode != NULL) {
    lua_newtable(L);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

static int core_clock(lua_State *L) {
  lua_pushnumber(L, (double)tarn_clock_ns() / 1e9);
  return 1;
}

static int core_log(lua_State *L) {
  static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
  int level = luaL_checkoption(L, 1, NULL, levels);
  tarn_log(level, "%s", luaL_checkstring(L, 2));
  return 0;
}

static int core_place(lua_State *L) {
  tarn_bind_push_position(L);
  return 1;
}

/* core.drawn_below(flag): see tarn_log_set_below. */
static int core_drawn_below(lua_State *L) {
  tarn_log_set_below(lua_toboolean(L, 1));
  return 0;
}

static int core_can_yield(lua_State *L) {
  lua_pushboolean(L, lua_isyieldable(L));
  return 1;
}

static int open_core(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"clock", core_clock},         {"log", core_log},
      {"place", core_place},         {"drawn_below", core_drawn_below},
      {"can_yield", core_can_yield}, {NULL, NULL}};
  lua_newtable(L);
  luaL_register(L, NULL, functions);
  tarn_ref_open(L);
  tarn_codec_open(L);
  tarn__anchors_open(L);
  tarn_objects_open(L);
  tarn__fileref_open(L);
  tarn__disk_open(L);
  tarn__raw_open(L);
  tarn__remote_open(L);
  tarn__remote_form_open(L);
  tarn__remote_sink_open(L);
  if (tarn_bind_of(L)->service != NULL) {
    tarn_messages_open(L);
    tarn_processes_open(L);
    tarn_http_open(L);
    tarn__migrate_open(L);
    tarn__many_open(L);
    tarn__line_open(L);
  }
  return 1;
}

tarn_bind_t *tarn_bind_open(lua_State *L, tarn_pool_t *pool, struct tarn_service *service,
                            const tarn_bind_host_t *host) {
  tarn_bind_t *b = tarn_calloc(1, sizeof(*b));
  if (b == NULL) { return NULL; }
  b->L = L;
  b->pool = pool;
  b->service = service;
  if (host != NULL) { b->host = *host; }
  lua_pushlightuserdata(L, (void *)(uintptr_t)&bind_key);
  lua_pushlightuserdata(L, b);
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, open_core);
  lua_setfield(L, -2, "tarn.core");
  lua_pop(L, 2);
  return b;
}

void tarn_bind_close(tarn_bind_t *b) {
  if (b->handed != NULL) { tarn_block_unmap(b->handed); }
  tarn__anchors_close(&b->anchors);
  tarn_free(b);
}

/* The message handler: a traceback for strings, errors that are tables as they are. */
static int on_error(lua_State *L) {
  if (lua_isstring(L, 1)) {
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
  } else {
    lua_getglobal(L, "tostring");
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 0) != 0) { lua_pushliteral(L, "(an error whose tostring fails)"); }
  }
  return 1;
}

static void log_failure(lua_State *L, const char *where) {
  const char *text = lua_tostring(L, -1);
  tarn_log(TARN_LOG_ERROR, "%s: %s", where, text != NULL ? text : "(no message)");
}

#define BOOT_KEY "tarn.boot"

/* Push the module tarn.boot. Raises what loading it raises. */
static void push_boot(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, BOOT_KEY);
  if (!lua_isnil(L, -1)) { return; }
  lua_pop(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tarn.boot");
  lua_call(L, 1, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, BOOT_KEY);
}

static int boot_protected(lua_State *L) {
  push_boot(L);
  lua_pushvalue(L, 1);
  lua_gettable(L, -2);
  lua_call(L, 0, 1);
  return 1;
}

int tarn_bind_boot(tarn_bind_t *b, const char *name) {
  lua_State *L = b->L;
  int top = lua_gettop(L), result = -1;
  lua_pushcfunction(L, on_error);
  lua_pushcfunction(L, boot_protected);
  lua_pushstring(L, name);
  if (lua_pcall(L, 1, 1, top + 1) == 0) {
    result = lua_toboolean(L, -1);
  } else {
    log_failure(L, name);
  }
  lua_settop(L, top);
  return result;
}

static const char *const kinds[] = {
    [TARN_EVENT_REQUEST] = "request",   [TARN_EVENT_NOTIFY] = "notify",
    [TARN_EVENT_RESPONSE] = "response", [TARN_EVENT_JOINED] = "joined",
    [TARN_EVENT_LOST] = "lost",         [TARN_EVENT_EXITED] = "exited",
    [TARN_EVENT_DRAINED] = "drained"};

/* The arguments of boot.dispatch for an event: see lua/tarn/boot.lua. Returns how many. */
static int push_arguments(lua_State *L, const tarn_event_t *e) {
  lua_pushstring(L, kinds[e->kind]);
  switch (e->kind) {
  case TARN_EVENT_REQUEST:
    lua_pushnumber(L, (double)(e->token * 2 + (e->foreign ? 1 : 0)));
    lua_pushnumber(L, e->pid);
    lua_pushnumber(L, e->msgid);
    lua_pushfstring(L, "%s%s", e->foreign ? "foreign." : "", e->method);
    return 5;
  case TARN_EVENT_NOTIFY:
    lua_pushnumber(L, e->pid);
    lua_pushfstring(L, "%s%s", e->foreign ? "foreign." : "", e->method);
    return 3;
  case TARN_EVENT_RESPONSE:
    lua_pushnumber(L, e->msgid);
    lua_pushboolean(L, e->ok);
    return 3;
  case TARN_EVENT_EXITED:
    lua_pushnumber(L, (double)e->launch);
    lua_pushstring(L, e->text);
    return 3;
  case TARN_EVENT_JOINED:
    lua_pushnumber(L, e->pid);
    lua_pushnumber(L, (double)e->launch);
    return 3;
  default:
    lua_pushnumber(L, e->pid);
    lua_pushstring(L, e->text);
    return 3;
  }
}

/* The error at the top of the stack goes to who asked. */
static void reply_failure(lua_State *L, const char *method) {
  lua_pushcfunction(L, tarn__reply_failure);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 0, 0) != 0) { log_failure(L, method); }
}

/* What C answers on the Lua thread. False: it is for Lua. */
static bool dispatch_native(lua_State *L, tarn_event_t *e) {
  lua_CFunction serve = e->kind == TARN_EVENT_REQUEST ? tarn__native_method(e) : NULL;
  if (serve == NULL) { return false; }
  lua_pushcfunction(L, serve);
  if (lua_pcall(L, 0, 0, 0) != 0) { reply_failure(L, e->method); }
  return true;
}

static int dispatch_protected(lua_State *L) {
  tarn_event_t *e = lua_touserdata(L, 1);
  push_boot(L);
  lua_getfield(L, -1, "dispatch");
  lua_call(L, push_arguments(L, e), 0);
  return 0;
}

void tarn_bind_dispatch(tarn_bind_t *b, tarn_event_t *e) {
  lua_State *L = b->L;
  int top = lua_gettop(L);
  b->current = e;
  if (e->kind == TARN_EVENT_JOINED || e->kind == TARN_EVENT_LOST) {
    tarn__member_note(L, e->pid, e->kind == TARN_EVENT_JOINED, e->os_pid);
  }
  if (!dispatch_native(L, e)) {
    lua_pushcfunction(L, on_error);
    lua_pushcfunction(L, dispatch_protected);
    lua_pushlightuserdata(L, e);
    if (lua_pcall(L, 1, 0, top + 1) != 0) {
      log_failure(L, "dispatch");
      if (e->kind == TARN_EVENT_REQUEST) {
        reply_failure(L, e->method);
      } /* who asked must not wait for ever */
    }
  }
  b->current = NULL;
  lua_settop(L, top);
}
