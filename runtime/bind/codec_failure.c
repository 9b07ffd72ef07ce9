/* What went wrong while encoding or decoding, and where: collected level by level on the way up, made into one Lua error at the
 * top. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bind/codec-private.h"

static int set(tarn__failure_t *f, int code, const char *advice, const char *fmt, va_list args) {
  if (f->code) { return f->code; }
  f->code = code;
  f->advice = advice;
  vsnprintf(f->message, sizeof f->message, fmt, args);
  return code;
}

int tarn__failure_set(tarn__failure_t *f, int code, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  int rc = set(f, code, NULL, fmt, args);
  va_end(args);
  return rc;
}

int tarn__failure_refuse(tarn__failure_t *f, const char *advice, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  int rc = set(f, TARN__NOT_SERIALIZABLE, advice, fmt, args);
  va_end(args);
  return rc;
}

void tarn__failure_step(tarn__failure_t *f, const char *fmt, ...) {
  size_t used = strlen(f->path);
  size_t room = sizeof f->path - used;
  if (room < 64) { /* deep in a deep value: the innermost steps tell most */
    if (used && f->path[used - 1] != '.') { snprintf(f->path + used, room, " ..."); }
    return;
  }
  if (used) {
    int n = snprintf(f->path + used, room, "%s", f->in_function ? " in " : " of ");
    used += (size_t)n;
    room -= (size_t)n;
  }
  va_list args;
  va_start(args, fmt);
  vsnprintf(f->path + used, room < 200 ? room : 200, fmt, args);
  va_end(args);
  f->in_function = false;
}

/* message of the error at the top of the stack: more at its end. */
static void append(lua_State *L, const char *separator, const char *text) {
  lua_getfield(L, -1, "message");
  lua_pushfstring(L, "%s%s%s", lua_tostring(L, -1), separator, text);
  lua_setfield(L, -3, "message");
  lua_pop(L, 1);
}

static void add_path(lua_State *L, const tarn__failure_t *f) {
  if (f->path[0] == '\0') { return; }
  append(L, ": ", f->path);
  lua_pushstring(L, f->path);
  lua_setfield(L, -2, "path");
}

void tarn__failure_push(lua_State *L, const tarn__failure_t *f, int state) {
  if (f->has_object) {
    lua_getfenv(L, state);
    lua_getfield(L, -1, "error");
    lua_remove(L, -2);
    if (f->object_ours) { add_path(L, f); }
    return;
  }
  tarn_error_t err = {.code = f->code < 0 ? f->code : TARN_EINVAL};
  snprintf(err.message, sizeof err.message, "%s", f->message);
  tarn_bind_push_error(L, &err);
  if (f->code == TARN__NOT_SERIALIZABLE) {
    lua_pushstring(L, "NotSerializable");
    lua_setfield(L, -2, "kind");
  }
  if (!tarn_bind_of(L)->making_room) { tarn_bind_add_position(L, -1); } /* else it is no call's */
  add_path(L, f);
  if (f->advice) { append(L, "; ", f->advice); }
}

/* The error that a serializer raised becomes the cause of one that names the serializer; but errors of tarn's own that have
 * nothing to do with the serializer (PoolFull...) stay as they are. */
static bool keep_as_is(lua_State *L, int index) {
  if (!lua_istable(L, index) || !lua_getmetatable(L, index)) { return false; }
  luaL_getmetatable(L, TARN_ERROR_METATABLE);
  bool ours = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  if (!ours) { return false; }
  lua_getfield(L, index, "kind");
  const char *kind = lua_tostring(L, -1);
  bool keep = kind && (strcmp(kind, "PoolFull") == 0 || strcmp(kind, "DiskFull") == 0 ||
                       strcmp(kind, "IOError") == 0 || strcmp(kind, "Corrupt") == 0 ||
                       strcmp(kind, "NotSerializable") == 0);
  lua_pop(L, 1);
  return keep;
}

int tarn__failure_catch(lua_State *L, tarn__failure_t *f, int state, const char *who,
                        const char *doing) {
  if (f->code) { /* raised by out:value or inp:value, and come back through the serializer */
    lua_pop(L, 1);
    return f->code;
  }
  int error = lua_gettop(L);
  f->code = TARN__NOT_SERIALIZABLE;
  f->has_object = true;
  f->object_ours = !keep_as_is(L, error);
  if (f->object_ours) {
    tarn__failure_t named = {.code = TARN__NOT_SERIALIZABLE};
    const char *text = lua_isstring(L, error) ? lua_tostring(L, error) : NULL;
    if (!text && luaL_callmeta(L, error, "__tostring")) { text = lua_tostring(L, -1); }
    snprintf(named.message, sizeof named.message, "serializer '%s' failed in %s: %s", who, doing,
             text ? text : luaL_typename(L, error));
    tarn__failure_push(L, &named, state);
    lua_pushvalue(L, error);
    lua_setfield(L, -2, "cause");
    lua_replace(L, error);
    lua_settop(L, error);
  }
  lua_getfenv(L, state);
  lua_insert(L, error);
  lua_setfield(L, error, "error");
  lua_pop(L, 1);
  return f->code;
}
