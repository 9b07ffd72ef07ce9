/* core.http_open: a small HTTP server on loopback, for the dashboard. libmicrohttpd does the work, without threads: its epoll descriptor is watched by the user's
 * loop, and server:run() lets it go on. It is loaded when it is first asked for, so that tarn works without it. Lua thread only.
 *
 * A request is put aside (its connection is suspended) until Lua takes it with server:next() and answers by its number: with a whole body, or with a stream to which
 * it writes for as long as the client is there. Nothing here calls Lua. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <microhttpd.h>
#include <string.h>
#include "base/alloc.h"
#include "base/buf.h"
#include "base/list.h"
#include "bind.h"

#define LIBRARY "libmicrohttpd.so.12"
#define SERVER "tarn.http"
#define CONNECTIONS_MAX 64u
#define IDLE_S 60u
#define STREAM_MAX ((size_t)8 << 20) /* a client that does not read: it is closed */
#define RUNS_MAX 100                 /* of the daemon in one call */

/* What is used of it. */
typedef struct lib {
  struct MHD_Daemon *(*start)(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback apc,
                              void *apc_cls, MHD_AccessHandlerCallback dh, void *dh_cls, ...);
  void (*stop)(struct MHD_Daemon *d);
  enum MHD_Result (*run)(struct MHD_Daemon *d);
  enum MHD_Result (*get_timeout)(struct MHD_Daemon *d, MHD_UNSIGNED_LONG_LONG *timeout);
  const union MHD_DaemonInfo *(*info)(struct MHD_Daemon *d, enum MHD_DaemonInfoType type, ...);
  void (*suspend)(struct MHD_Connection *c);
  void (*resume)(struct MHD_Connection *c);
  const char *(*lookup)(struct MHD_Connection *c, enum MHD_ValueKind kind, const char *key);
  struct MHD_Response *(*from_buffer)(size_t size, void *buffer, enum MHD_ResponseMemoryMode mode);
  struct MHD_Response *(*from_callback)(uint64_t size, size_t block, MHD_ContentReaderCallback crc,
                                        void *crc_cls, MHD_ContentReaderFreeCallback crfc);
  enum MHD_Result (*add_header)(struct MHD_Response *r, const char *name, const char *value);
  enum MHD_Result (*queue)(struct MHD_Connection *c, unsigned status, struct MHD_Response *r);
  void (*destroy_response)(struct MHD_Response *r);
} lib_t;

typedef struct server {
  lib_t lib;
  struct MHD_Daemon *daemon; /* owned; null: closed */
  tarn_list_t requests;      /* all that are here */
  uint64_t last;
  bool closing;
} server_t;

typedef struct request {
  tarn_list_t link;
  server_t *server;
  struct MHD_Connection *connection;
  struct MHD_Response *response; /* owned; null: not answered yet */
  unsigned status;
  uint64_t number;
  bool waiting; /* suspended, for Lua to take it */
  bool taken;   /* Lua has */
  bool queued;  /* the response is on its way */
  bool starved; /* a stream, suspended until there is more to say */
  bool ended;   /* a stream that is to end */
  tarn_buf_t out;
  char method[8];
  char path[]; /* as it came, without the query */
} request_t;

static bool load(lib_t *lib) {
  static const struct {
    const char *name;
    size_t at;
  } names[] = {{"MHD_start_daemon", offsetof(lib_t, start)},
               {"MHD_stop_daemon", offsetof(lib_t, stop)},
               {"MHD_run", offsetof(lib_t, run)},
               {"MHD_get_timeout", offsetof(lib_t, get_timeout)},
               {"MHD_get_daemon_info", offsetof(lib_t, info)},
               {"MHD_suspend_connection", offsetof(lib_t, suspend)},
               {"MHD_resume_connection", offsetof(lib_t, resume)},
               {"MHD_lookup_connection_value", offsetof(lib_t, lookup)},
               {"MHD_create_response_from_buffer", offsetof(lib_t, from_buffer)},
               {"MHD_create_response_from_callback", offsetof(lib_t, from_callback)},
               {"MHD_add_response_header", offsetof(lib_t, add_header)},
               {"MHD_queue_response", offsetof(lib_t, queue)},
               {"MHD_destroy_response", offsetof(lib_t, destroy_response)}};
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* for as long as the process lives */
  for (size_t i = 0; library != NULL && i < sizeof(names) / sizeof(names[0]); i++) {
    void *symbol = dlsym(library, names[i].name);
    if (symbol == NULL) { return false; }
    memcpy((char *)lib + names[i].at, &symbol, sizeof(symbol));
  }
  return library != NULL;
}

/* ---- what libmicrohttpd calls ---- */

static request_t *request_create(server_t *s, struct MHD_Connection *c, const char *path,
                                 const char *method) {
  size_t size = strlen(path) + 1;
  request_t *r = tarn_calloc(1, sizeof(*r) + size);
  if (r == NULL) { return NULL; }
  r->server = s;
  r->connection = c;
  r->number = ++s->last;
  strncpy(r->method, method, sizeof(r->method) - 1);
  memcpy(r->path, path, size);
  tarn_buf_init(&r->out, STREAM_MAX);
  tarn_list_push_back(&s->requests, &r->link);
  return r;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **context) {
  server_t *s = user;
  request_t *r = *context;
  (void)version;
  (void)upload;
  if (s->closing) { return MHD_NO; }
  if (r == NULL) { /* its head is here */
    *context = request_create(s, c, url, method);
    return *context != NULL ? MHD_YES : MHD_NO;
  }
  if (*upload_size > 0) { /* nobody asked for it */
    *upload_size = 0;
    return MHD_YES;
  }
  if (r->response != NULL && !r->queued) {
    r->queued = true;
    return s->lib.queue(c, r->status, r->response);
  }
  r->waiting = true;
  s->lib.suspend(c);
  return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *c, void **context,
                         enum MHD_RequestTerminationCode why) {
  request_t *r = *context;
  (void)user;
  (void)c;
  (void)why;
  if (r == NULL) { return; }
  if (r->response != NULL) { r->server->lib.destroy_response(r->response); }
  tarn_list_remove(&r->link);
  tarn_buf_release(&r->out);
  tarn_free(r);
  *context = NULL;
}

static ssize_t on_read(void *user, uint64_t position, char *to, size_t max) {
  request_t *r = user;
  (void)position;
  size_t n = r->out.size < max ? r->out.size : max;
  if (n > 0) {
    memcpy(to, r->out.data, n);
    tarn_buf_consume(&r->out, n);
    return (ssize_t)n;
  }
  if (r->ended || r->server->closing) { return MHD_CONTENT_READER_END_OF_STREAM; }
  r->starved = true;
  r->server->lib.suspend(r->connection);
  return 0;
}

/* ---- for Lua ---- */

static server_t *check_server(lua_State *L) {
  server_t *s = luaL_checkudata(L, 1, SERVER);
  if (s->daemon == NULL) { luaL_error(L, "the HTTP server is closed"); }
  return s;
}

/* The request with the number at index 2, which Lua has taken; null: it is gone. */
static request_t *find(lua_State *L, server_t *s) {
  uint64_t number = (uint64_t)luaL_checknumber(L, 2);
  for (tarn_list_t *l = s->requests.next; l != &s->requests; l = l->next) {
    request_t *r = TARN_CONTAINER(l, request_t, link);
    if (r->number == number && r->taken) { return r; }
  }
  return NULL;
}

/* run(): whatever there is to do for connections. */
static int server_run(lua_State *L) {
  server_t *s = check_server(L);
  MHD_UNSIGNED_LONG_LONG timeout = 0;
  for (int i = 0; i < RUNS_MAX && timeout == 0; i++) {
    if (s->lib.run(s->daemon) != MHD_YES) { break; }
    if (s->lib.get_timeout(s->daemon, &timeout) != MHD_YES) { break; }
  }
  return 0;
}

/* next() -> number, method, path, host, token of the next request; nothing when there is none. */
static int server_next(lua_State *L) {
  server_t *s = check_server(L);
  for (tarn_list_t *l = s->requests.next; l != &s->requests; l = l->next) {
    request_t *r = TARN_CONTAINER(l, request_t, link);
    if (!r->waiting || r->taken) { continue; }
    r->taken = true;
    lua_pushnumber(L, (double)r->number);
    lua_pushstring(L, r->method);
    lua_pushstring(L, r->path);
    lua_pushstring(L, s->lib.lookup(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST));
    lua_pushstring(L, s->lib.lookup(r->connection, MHD_GET_ARGUMENT_KIND, "token"));
    return 5;
  }
  return 0;
}

/* Send a response with the headers in the table at index. */
static int answer(lua_State *L, request_t *r, struct MHD_Response *response, int index) {
  server_t *s = r->server;
  if (response == NULL) { return luaL_error(L, "out of memory for an answer"); }
  r->response = response;
  r->status = (unsigned)luaL_checkinteger(L, 3);
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING) {
      (void)s->lib.add_header(response, lua_tostring(L, -2), lua_tostring(L, -1));
    }
  }
  r->waiting = false;
  s->lib.resume(r->connection);
  lua_pushboolean(L, true);
  return 1;
}

/* reply(number, status, headers, body) -> false when the client is gone. */
static int server_reply(lua_State *L) {
  server_t *s = check_server(L);
  size_t size = 0;
  luaL_checkinteger(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  const char *body = luaL_checklstring(L, 5, &size);
  request_t *r = find(L, s);
  lua_pushboolean(L, false);
  if (r == NULL || r->response != NULL) { return 1; }
  return answer(L, r, s->lib.from_buffer(size, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY), 4);
}

/* stream(number, status, headers) -> false when the client is gone. */
static int server_stream(lua_State *L) {
  server_t *s = check_server(L);
  luaL_checkinteger(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  request_t *r = find(L, s);
  lua_pushboolean(L, false);
  if (r == NULL || r->response != NULL) { return 1; }
  return answer(L, r, s->lib.from_callback(MHD_SIZE_UNKNOWN, 16384, on_read, r, NULL), 4);
}

static void wake(request_t *r) {
  if (!r->starved) { return; }
  r->starved = false;
  r->server->lib.resume(r->connection);
}

/* write(number, text) -> false when the client is gone, or does not read. */
static int server_write(lua_State *L) {
  server_t *s = check_server(L);
  size_t size = 0;
  const char *text = luaL_checklstring(L, 3, &size);
  request_t *r = find(L, s);
  bool ok = r != NULL && !r->ended && tarn_buf_append(&r->out, text, size) == 0;
  if (r != NULL) {
    r->ended = !ok;
    wake(r);
  }
  lua_pushboolean(L, ok);
  return 1;
}

static int server_fd(lua_State *L) {
  server_t *s = check_server(L);
  lua_pushnumber(L, s->lib.info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
  return 1;
}

static int server_port(lua_State *L) {
  server_t *s = check_server(L);
  lua_pushnumber(L, s->lib.info(s->daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
  return 1;
}

static int server_close(lua_State *L) {
  server_t *s = luaL_checkudata(L, 1, SERVER);
  if (s->daemon == NULL) { return 0; }
  s->closing = true; /* a connection must not be suspended when it is closed */
  for (tarn_list_t *l = s->requests.next; l != &s->requests; l = l->next) {
    request_t *r = TARN_CONTAINER(l, request_t, link);
    if (r->waiting) { s->lib.resume(r->connection); }
    r->waiting = false;
    wake(r);
  }
  (void)s->lib.run(s->daemon);
  s->lib.stop(s->daemon);
  s->daemon = NULL;
  return 0;
}

/* http_open(port) -> server, on 127.0.0.1. Raises IOError. */
static int http_open(lua_State *L) {
  int port = (int)luaL_checkinteger(L, 1);
  struct sockaddr_in where = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  server_t *s = tarn__userdata_new(L, sizeof(*s), SERVER, NULL);
  tarn_list_init(&s->requests);
  if (!load(&s->lib)) {
    return tarn_bind_raise_kind(L, TARN_EIO,
                                "HTTP is libmicrohttpd's, which is not installed (" LIBRARY
                                "; Debian: libmicrohttpd12)");
  }
  errno = 0;
  s->daemon = s->lib.start(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, (uint16_t)port, NULL, NULL,
                           on_request, s, MHD_OPTION_SOCK_ADDR, &where, MHD_OPTION_CONNECTION_LIMIT,
                           CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
                           MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_END);
  if (s->daemon == NULL) {
    return tarn_bind_raise_kind(L, TARN_EIO, "cannot listen on 127.0.0.1:%d: %s", port,
                                errno != 0 ? strerror(errno) : "libmicrohttpd does not say why");
  }
  return 1;
}

void tarn_http_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"run", server_run},     {"next", server_next},
                                     {"reply", server_reply}, {"stream", server_stream},
                                     {"write", server_write}, {"fd", server_fd},
                                     {"port", server_port},   {"close", server_close},
                                     {"__gc", server_close},  {NULL, NULL}};
  tarn__class_open(L, SERVER, methods);
  lua_pushcfunction(L, http_open);
  lua_setfield(L, -2, "http_open");
}
