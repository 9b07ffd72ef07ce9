/* core.fetch_open: HTTP transfers (net/fetch.h) for lua/tarn/fetch.lua, whose loop polls the descriptor. Lua thread only.
 *
 *   fetch_open() -> fetcher. Raises IOError (libcurl is not installed).
 *   fetcher:fd()                       readable: call run
 *   fetcher:run(timeout_ms)
 *   fetcher:start{method, url, headers = {"Name: value", ...}, sign, user_key, ca_file, silence_ms, body = a string or a form, at, size (of a form),
 *                 into = a sink, into_at, into_size} -> number
 *   fetcher:next() -> number, status (0: no response), headers, text, written, kind, message, passing; nothing when none has ended
 *   fetcher:cancel(number)
 *   fetcher:close()
 *
 * What a transfer reads from or writes to stays alive with it: it hangs from the fetcher's environment, by the transfer's number. */
#include <lauxlib.h>
#include <string.h>

#include "bind/file-private.h"
#include "net/fetch.h"

#define FETCHER "tarn.fetcher"
#define HEADERS_MAX 32
#define PARTIAL_CONTENT 206

/* What a transfer's callbacks are handed; a userdata. */
typedef struct ends {
  const char *text;          /* borrowed: a body that is a string */
  tarn__file_form_t *form;   /* borrowed: another */
  uint64_t from;             /* of the form */
  tarn__remote_sink_t *sink; /* borrowed; null: none */
  uint64_t to;               /* of the sink */
} ends_t;

static void on_read(void *user, uint64_t at, void *to, size_t size) {
  const ends_t *ends = user;
  if (ends->text != NULL) {
    memcpy(to, ends->text + at, size);
  } else {
    tarn__remote_form_read(ends->form, ends->from + at, to, size);
  }
}

static void on_write(void *user, uint64_t at, const void *bytes, size_t size) {
  const ends_t *ends = user;
  tarn__remote_sink_write(ends->sink, ends->to + at, bytes, size);
}

static tarn_fetch_t *check_fetcher(lua_State *L) {
  tarn_fetch_t **f = luaL_checkudata(L, 1, FETCHER);
  if (*f == NULL) { luaL_error(L, "the fetcher is closed"); }
  return *f;
}

/* Fields of the request, at index 2. Texts stay valid: the table holds them. */
static const char *text_field(lua_State *L, const char *name, bool needed) {
  lua_getfield(L, 2, name);
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  if (text == NULL && (needed || !lua_isnil(L, -1))) {
    luaL_error(L, "field '%s': a string", name);
  }
  lua_pop(L, 1);
  return text;
}

static uint64_t number_field(lua_State *L, const char *name) {
  lua_getfield(L, 2, name);
  double n = lua_tonumber(L, -1);
  lua_pop(L, 1);
  if (!(n >= 0 && n <= 9007199254740992.0)) { luaL_error(L, "field '%s': a count", name); }
  return (uint64_t)n;
}

static size_t take_headers(lua_State *L, const char **headers) {
  lua_getfield(L, 2, "headers");
  luaL_checktype(L, -1, LUA_TTABLE);
  size_t count = lua_objlen(L, -1);
  if (count > HEADERS_MAX) { luaL_error(L, "too many headers"); }
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (int)i + 1);
    if (lua_type(L, -1) != LUA_TSTRING) { luaL_error(L, "a header is a string"); }
    headers[i] = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return count;
}

static void take_body(lua_State *L, ends_t *ends, tarn_fetch_request_t *r) {
  lua_getfield(L, 2, "body");
  if (lua_type(L, -1) == LUA_TSTRING) {
    size_t size;
    ends->text = lua_tolstring(L, -1, &size);
    r->body_size = size;
  } else if (!lua_isnil(L, -1)) {
    ends->form = tarn__remote_form_test(L, lua_gettop(L));
    if (ends->form == NULL) { luaL_error(L, "a body is a string or a form"); }
    ends->from = number_field(L, "at");
    r->body_size = number_field(L, "size");
  }
  if (!lua_isnil(L, -1)) { r->read = on_read; }
  lua_pop(L, 1);
}

static void take_sink(lua_State *L, ends_t *ends, tarn_fetch_request_t *r) {
  lua_getfield(L, 2, "into");
  if (!lua_isnil(L, -1)) {
    ends->sink = tarn__remote_sink_test(L, lua_gettop(L));
    if (ends->sink == NULL) { luaL_error(L, "what comes goes into a sink"); }
    ends->to = number_field(L, "into_at");
    r->write = on_write;
    r->write_max = number_field(L, "into_size");
    r->write_status = PARTIAL_CONTENT;
  }
  lua_pop(L, 1);
}

static int fetcher_start(lua_State *L) {
  tarn_fetch_t *f = check_fetcher(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  const char *headers[HEADERS_MAX];
  ends_t *ends = lua_newuserdata(L, sizeof *ends);
  memset(ends, 0, sizeof *ends);
  tarn_fetch_request_t r = {.method = text_field(L, "method", true),
                            .url = text_field(L, "url", true),
                            .headers = headers,
                            .header_count = take_headers(L, headers),
                            .sign = text_field(L, "sign", false),
                            .user_key = text_field(L, "user_key", false),
                            .ca_file = text_field(L, "ca_file", false),
                            .silence_ms = number_field(L, "silence_ms"),
                            .user = ends};
  take_body(L, ends, &r);
  take_sink(L, ends, &r);
  lua_createtable(L, 2, 0); /* what is to live as long as it */
  lua_pushvalue(L, 3);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, 2);
  lua_getfenv(L, 1);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, 0); /* memory for it, before anything begins */
  uint64_t number = 0;
  tarn_error_t err = {0};
  if (tarn_fetch_start(f, &r, &number, &err) != 0) { return tarn_bind_raise(L, &err); }
  lua_pushnumber(L, (double)number);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pushnumber(L, (double)number);
  return 1;
}

static void forget(lua_State *L, uint64_t number) {
  lua_getfenv(L, 1);
  lua_pushnumber(L, (double)number);
  lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* The reply in the box at index 2, which frees it when the strings cannot be made. */
static int push_reply(lua_State *L, const tarn_fetch_reply_t *r) {
  lua_pushnumber(L, (double)r->number);
  lua_pushinteger(L, r->status);
  lua_pushlstring(L, (const char *)r->headers.data, r->headers.size);
  lua_pushlstring(L, (const char *)r->text.data, r->text.size);
  lua_pushnumber(L, (double)r->written);
  if (r->code == 0) { return 5; }
  lua_pushstring(L, tarn_error_kind(r->code));
  lua_pushstring(L, r->message);
  lua_pushboolean(L, r->passing);
  return 8;
}

static int reply_gc(lua_State *L) {
  tarn_fetch_reply_t **box = lua_touserdata(L, 1);
  if (*box != NULL) { tarn_fetch_release(*box); }
  *box = NULL;
  return 0;
}

static int fetcher_next(lua_State *L) {
  tarn_fetch_t *f = check_fetcher(L);
  lua_settop(L, 1);
  tarn_fetch_reply_t **box =
      tarn__userdata_new(L, sizeof(tarn_fetch_reply_t *), "tarn.fetch_reply", reply_gc);
  *box = tarn_fetch_next(f);
  if (*box == NULL) { return 0; }
  int count = push_reply(L, *box);
  forget(L, (*box)->number);
  tarn_fetch_release(*box);
  *box = NULL;
  return count;
}

static int fetcher_cancel(lua_State *L) {
  tarn_fetch_t *f = check_fetcher(L);
  uint64_t number = (uint64_t)luaL_checknumber(L, 2);
  (void)tarn_fetch_cancel(f, number);
  forget(L, number);
  return 0;
}

static int fetcher_run(lua_State *L) {
  tarn_fetch_run(check_fetcher(L), luaL_optint(L, 2, 0));
  return 0;
}

static int fetcher_fd(lua_State *L) {
  lua_pushinteger(L, tarn_fetch_fd(check_fetcher(L)));
  return 1;
}

static int fetcher_gc(lua_State *L) {
  tarn_fetch_t **f = luaL_checkudata(L, 1, FETCHER);
  tarn_fetch_destroy(*f);
  *f = NULL;
  return 0;
}

static int fetch_open(lua_State *L) {
  tarn_fetch_t **f = tarn__userdata_new(L, sizeof(tarn_fetch_t *), FETCHER, NULL);
  lua_newtable(L);
  lua_setfenv(L, -2);
  tarn_error_t err = {0};
  if (tarn_fetch_create(f, &err) != 0) { return tarn_bind_raise(L, &err); }
  return 1;
}

void tarn__remote_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"fd", fetcher_fd},         {"run", fetcher_run},
                                     {"start", fetcher_start},   {"next", fetcher_next},
                                     {"cancel", fetcher_cancel}, {"close", fetcher_gc},
                                     {"__gc", fetcher_gc},       {NULL, NULL}};
  tarn__class_open(L, FETCHER, methods);
  lua_pushcfunction(L, fetch_open);
  lua_setfield(L, -2, "fetch_open");
}
