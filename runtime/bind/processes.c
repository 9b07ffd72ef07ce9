/* core.spawn and its kin: this process and others, as Lua sees them. Lua thread only. */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "bind.h"
#include "service/service.h"

extern char **environ;

static const char members_key = 0; /* registry: pid -> os_pid, as of the events dispatched so far */

static void push_members(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&members_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
}

void tarn__member_note(lua_State *L, uint32_t pid, bool is, int64_t os_pid) {
  push_members(L);
  lua_pushnumber(L, pid);
  if (is) {
    lua_pushnumber(L, (double)os_pid);
  } else {
    lua_pushnil(L);
  }
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

static int core_members(lua_State *L) {
  lua_newtable(L);
  push_members(L);
  lua_pushnil(L);
  for (int n = 1; lua_next(L, -2) != 0; n++) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -4, n);
  }
  lua_pop(L, 1);
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
  return 1;
}

static int core_is_member(lua_State *L) {
  lua_settop(L, 1);
  push_members(L);
  lua_pushvalue(L, 1);
  lua_rawget(L, -2);
  lua_pushboolean(L, lua_toboolean(L, -1));
  return 1;
}

static int core_myid(lua_State *L) {
  lua_pushnumber(L, tarn_service_id(tarn_bind_of(L)->service));
  return 1;
}

/* os_pid(pid) -> what its machine calls that process (nil: this one); nil: there is none */
static int core_os_pid(lua_State *L) {
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_pushnumber(L, getpid());
    return 1;
  }
  push_members(L);
  lua_pushvalue(L, 1);
  lua_rawget(L, -2);
  return 1;
}

static int core_address(lua_State *L) {
  char address[TARN_NET_ADDRESS_BYTES];
  tarn_service_address(tarn_bind_of(L)->service, address);
  lua_pushstring(L, address);
  return 1;
}

static int core_secret_file(lua_State *L) {
  tarn_error_t err = {0};
  const char *path = tarn_service_secret_file(tarn_bind_of(L)->service, &err);
  if (path == NULL) { return tarn_bind_raise(L, &err); }
  lua_pushstring(L, path);
  return 1;
}

static int core_exit(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  b->host.exit(b->host.user, (int)luaL_optinteger(L, 1, 0));
  return 0;
}

static int core_ready(lua_State *L) {
  (void)tarn_service_notify(tarn_bind_of(L)->service, TARN_DRIVER, "ready", (tarn_payload_t){0});
  return 0;
}

static int core_stop(lua_State *L) {
  tarn_service_stop_process(tarn_bind_of(L)->service, (uint32_t)luaL_checknumber(L, 1));
  return 0;
}

static int core_kill(lua_State *L) {
  tarn_service_kill_child(tarn_bind_of(L)->service, (uint64_t)luaL_checknumber(L, 1));
  return 0;
}

/* Does "K=V" set one of the names in the table at index? */
static bool overridden(lua_State *L, int index, const char *pair) {
  const char *eq = strchr(pair, '=');
  if (eq == NULL) { return false; }
  lua_pushlstring(L, pair, (size_t)(eq - pair));
  lua_rawget(L, index);
  bool is = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return is;
}

/* Our environment with the table at index laid over it; null when there is no table. The strings stay on the Lua stack's tables. */
static char **build_env(lua_State *L, int index) {
  if (!lua_istable(L, index)) { return NULL; }
  size_t ours = 0, more = 0, n = 0;
  while (environ[ours] != NULL) { ours++; }
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    more++;
    lua_pop(L, 1);
  }
  char **env = lua_newuserdata(L, (ours + more + 1) * sizeof(*env));
  for (size_t i = 0; i < ours; i++) {
    if (!overridden(L, index, environ[i])) { env[n++] = environ[i]; }
  }
  lua_newtable(L); /* keeps the new strings */
  int keep = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1)) {
      tarn_bind_raise_kind(L, TARN_EINVAL, "env: names and values must be strings");
    }
    lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
    env[n++] = (char *)(uintptr_t)lua_tostring(L, -1);
    lua_rawseti(L, keep, (int)n);
    lua_pop(L, 1);
  }
  env[n] = NULL;
  return env;
}

/* core.spawn{argv = {...}, env = {K = V}, address = HOST:PORT, label = text, several = flag} -> its number, os_pid: see tarn_spawn_t. */
static int core_spawn(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "argv");    /* 2 */
  lua_getfield(L, 1, "env");     /* 3 */
  lua_getfield(L, 1, "address"); /* 4 */
  lua_getfield(L, 1, "label");   /* 5 */
  lua_getfield(L, 1, "several"); /* 6 */
  luaL_checktype(L, 2, LUA_TTABLE);
  int count = (int)lua_objlen(L, 2);
  luaL_argcheck(L, count > 0, 1, "no program");
  const char **argv = lua_newuserdata(L, ((size_t)count + 1) * sizeof(*argv));
  for (int i = 0; i < count; i++) {
    lua_rawgeti(L, 2, i + 1);
    argv[i] = luaL_checkstring(L, -1); /* the table keeps it */
    lua_pop(L, 1);
  }
  argv[count] = NULL;
  tarn_spawn_t what = {.argv = (char *const *)(uintptr_t)argv,
                       .env = build_env(L, 3),
                       .address = luaL_optstring(L, 4, NULL),
                       .label = luaL_optstring(L, 5, NULL),
                       .several = lua_toboolean(L, 6)};
  uint64_t launch = 0;
  int64_t os_pid = 0;
  tarn_error_t err = {0};
  if (tarn_service_spawn(b->service, &what, &launch, &os_pid, &err) != 0) {
    tarn_bind_raise(L, &err);
  }
  lua_pushnumber(L, (double)launch);
  lua_pushnumber(L, (double)os_pid);
  return 2;
}

/* core.reach(host) -> HOST:PORT by which processes elsewhere reach this one: see tarn_service_reach. */
static int core_reach(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  const char *host = luaL_checkstring(L, 1);
  char text[TARN_NET_ADDRESS_BYTES], out[TARN_NET_ADDRESS_BYTES];
  tarn_error_t err = {0};
  int n = snprintf(text, sizeof(text), strchr(host, ':') != NULL ? "[%s]:0" : "%s:0", host);
  if (n < 0 || (size_t)n >= sizeof(text)) {
    return tarn_bind_raise_kind(L, TARN_EINVAL, "'%s' is not an address", host);
  }
  b->host.enter(b->host.user);
  int rc = tarn_service_reach(b->service, text, out, &err);
  b->host.leave(b->host.user);
  if (rc != 0) { return tarn_bind_raise(L, &err); }
  lua_pushstring(L, out);
  return 1;
}

/* core.set_tls(true | false | nil): all connections from now on are encrypted, none is, those between machines are. */
static int core_set_tls(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_net_tls_t tls = lua_isnoneornil(L, 1) ? TARN_TLS_BEYOND
                       : lua_toboolean(L, 1) ? TARN_TLS_ALWAYS
                                             : TARN_TLS_NEVER;
  b->host.enter(b->host.user);
  tarn_service_set_tls(b->service, tls);
  b->host.leave(b->host.user);
  return 0;
}

/* core.job_begin(fn) -> number: a job begins that runs fn, sent by who has sent what is being dispatched; core.job_end(number, ok). */
static int core_job_begin(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  lua_Debug at;
  lua_settop(L, 1);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_getinfo(L, ">S", &at);
  uint32_t from = b->current != NULL ? b->current->pid : 0;
  lua_pushnumber(L, tarn_service_job_begin(b->service, at.short_src, at.linedefined, from));
  return 1;
}

static int core_job_end(lua_State *L) {
  uint32_t number = (uint32_t)luaL_checknumber(L, 1);
  tarn_service_job_end(tarn_bind_of(L)->service, number, lua_toboolean(L, 2));
  return 0;
}

/* core.messages() -> how many have come and how many have been sent, by either lane, without handshakes */
static int core_messages(lua_State *L) {
  tarn_service_stats_t stats;
  tarn_service_get_stats(tarn_bind_of(L)->service, &stats);
  lua_pushnumber(L, (double)stats.in_messages);
  lua_pushnumber(L, (double)stats.out_messages);
  return 2;
}

static int core_started(lua_State *L) {
  tarn_service_started(tarn_bind_of(L)->service);
  return 0;
}

void tarn_processes_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"myid", core_myid},           {"os_pid", core_os_pid},
      {"address", core_address},     {"exit", core_exit},
      {"ready", core_ready},         {"stop", core_stop},
      {"kill", core_kill},           {"spawn", core_spawn},
      {"reach", core_reach},         {"members", core_members},
      {"is_member", core_is_member}, {"secret_file", core_secret_file},
      {"job_begin", core_job_begin}, {"job_end", core_job_end},
      {"started", core_started},     {"messages", core_messages},
      {"set_tls", core_set_tls},     {NULL, NULL}};
  lua_pushlightuserdata(L, (void *)(uintptr_t)&members_key);
  lua_newtable(L);
  lua_rawset(L, LUA_REGISTRYINDEX);
  struct tarn_service *s = tarn_bind_of(L)->service;
  tarn__member_note(L, TARN_DRIVER, true, tarn_service_os_pid(s, TARN_DRIVER));
  tarn__member_note(L, tarn_service_id(s), true, getpid());
  luaL_register(L, NULL, functions);
}
