/* Functions that come again: what LuaJIT has compiled belongs to a prototype, and loading bytecode makes a new one, so that each call, and each
 * batch of a pmap, would begin with cold code.
 *
 * A function without upvalues is kept by its bytecode: the next that comes is the same one. One with upvalues must be a closure of its
 * own each time, over a prototype that stays. Only an instruction makes such a closure, that of a function whose child the prototype is. So the received dump is
 * extended by such a parent, the *factory*, which is kept instead. LuaJIT's dump (lj_bcdump.h, version 2) is made for that: prototypes stand
 * one after the other, and a parent takes the last before it for its child. All that is changed in the received one is where it finds its
 * upvalues. A dump that looks otherwise is loaded anew each time.
 *
 * What code compiled for such a prototype may take for granted must be true of all its closures:
 * - LuaJIT puts the value of a variable that is never assigned to in place of the variable, for one closure. It does not for the closures of a prototype that has
 *   had several: they are made at once. So compiled code does not keep what a call brought along, either.
 * - Two upvalues are taken for different variables if their hashes differ, which come from where the variables were declared. Which closures share
 *   a variable differs from message to message: so all variables of received functions come from one place, and have one hash. */
#include <luajit.h>
#include <string.h>

#include "bind/codec-private.h"

#define KEPT_MAX 256
#define KEPT_BYTES (64u * 1024u)
#define SOME_CLOSURES 3 /* PROTO_CLC_POLY */

static const char functions_key, factories_key, parent_key;

/* A task has the same globals; a host's state may have moved them. */
static void push_globals(lua_State *L) {
  lua_pushvalue(L, LUA_GLOBALSINDEX);
  lua_getfield(L, -1, "_G");
  lua_remove(L, -2);
}

/* ---- tables of them, by bytecode; [1] is their number ---- */

/* registry[key], or nil. */
static void push_registered(lua_State *L, const char *key) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)key);
  lua_rawget(L, LUA_REGISTRYINDEX);
}

/* registry[key] = the value at the top of the stack, which stays. */
static void registered(lua_State *L, const char *key) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)key);
  lua_pushvalue(L, -2);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

/* Push what is kept for the bytecode, or nil. */
static void push_kept(lua_State *L, const char *key, const uint8_t *code, uint32_t length) {
  push_registered(L, key);
  if (lua_isnil(L, -1)) { return; }
  lua_pushlstring(L, (const char *)code, length);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

/* Keep the function at index. A table that is full begins anew. */
static void keep(lua_State *L, const char *key, int index, const uint8_t *code, uint32_t length) {
  int top = lua_gettop(L);
  push_registered(L, key);
  int count = 0;
  if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, 1);
    count = (int)lua_tointeger(L, -1);
    lua_settop(L, top + 1);
  }
  if (count == 0 || count == KEPT_MAX) {
    count = 0;
    lua_settop(L, top);
    lua_newtable(L);
    registered(L, key);
  }
  lua_pushinteger(L, count + 1);
  lua_rawseti(L, top + 1, 1);
  lua_pushlstring(L, (const char *)code, length);
  lua_pushvalue(L, index);
  lua_rawset(L, top + 1);
  lua_settop(L, top);
}

/* ---- dumps ---- */

enum { DUMP_STRIPPED = 2, DUMP_FFI = 4, DUMP_MORE_FLAGS = 0x80 };

typedef struct dump {
  const uint8_t *code;
  size_t last,
      end; /* where the last prototype begins, with its length; where the zero behind it stands */
  size_t upvalues; /* where the last prototype says where its upvalues are: 16 bits each */
  uint32_t upvalue_count;
} dump_t;

/* A number of 7 bits a byte, the lowest ones first. */
static bool read_number(const uint8_t *code, size_t end, size_t *at, uint32_t *v) {
  *v = 0;
  for (unsigned shift = 0; shift < 32 && *at < end; shift += 7) {
    uint8_t byte = code[(*at)++];
    *v |= (uint32_t)(byte & 0x7f) << shift;
    if (byte < 0x80) { return true; }
  }
  return false;
}

/* In a prototype: flags, parameters, frame size, number of upvalues, a byte each; the numbers of its objects, numbers and instructions; the size of
 * its debug information and, unless that is 0, the first line and their number; the instructions; the upvalues; and the rest. */
static bool find_upvalues(dump_t *d, size_t at, size_t end) {
  if (end - at < 4) { return false; }
  d->upvalue_count = d->code[at + 3];
  at += 4;
  uint32_t objects, numbers, instructions, debug, ignored;
  if (!read_number(d->code, end, &at, &objects) || !read_number(d->code, end, &at, &numbers) ||
      !read_number(d->code, end, &at, &instructions) || !read_number(d->code, end, &at, &debug) ||
      (debug &&
       (!read_number(d->code, end, &at, &ignored) || !read_number(d->code, end, &at, &ignored)))) {
    return false;
  }
  d->upvalues = at + (size_t)instructions * 4;
  return d->upvalues + (size_t)d->upvalue_count * 2 <= end;
}

/* A dump: "\27LJ", a version, flags, the length of the source's name and the name; prototypes, each after its length; a zero. */
static bool read_dump(const uint8_t *code, size_t size, dump_t *d) {
  if (size < 6 || memcmp(code, "\033LJ\2", 4) != 0 || code[4] & (DUMP_STRIPPED | DUMP_MORE_FLAGS)) {
    return false;
  }
  *d = (dump_t){.code = code};
  size_t at = 5, begin = 0;
  for (uint32_t length;; at += length) { /* the name first */
    size_t start = at;
    if (!read_number(code, size, &at, &length) || length > size - at) { return false; }
    if (start > 5 && length == 0) {
      d->end = start;
      return at == size && begin && find_upvalues(d, begin, start);
    }
    if (start > 5) {
      d->last = start;
      begin = at;
    }
  }
}

/* ---- factories ---- */

static int on_dumped(lua_State *L, const void *bytes, size_t size, void *ud) {
  (void)L;
  luaL_addlstring(ud, bytes, size);
  return 0;
}

/* Push the function that makes a function with one upvalue, a new variable each time. Its source is tarn's own: no interrupt is raised in it. */
static void push_parent(lua_State *L) {
  static const char text[] = "local v return function(x) v = x end";
  push_registered(L, &parent_key);
  if (lua_isfunction(L, -1)) { return; }
  int top = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, TARN_OWN_SOURCES);
  if (lua_istable(L, -1)) { lua_rawgeti(L, -1, 1); }
  const char *source = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "=tarn";
  if (luaL_loadbuffer(L, text, sizeof text - 1, source)) { lua_error(L); }
  luaJIT_setmode(L, -1, LUAJIT_MODE_FUNC | LUAJIT_MODE_OFF);
  registered(L, &parent_key);
  lua_replace(L, top);
  lua_settop(L, top);
}

/* Push the parent's dump. */
static void push_parent_dump(lua_State *L) {
  push_parent(L);
  int parent = lua_gettop(L);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  lua_pushvalue(L, parent);
  lua_dump(L, on_dumped, &b);
  luaL_pushresult(&b);
  lua_replace(L, parent);
  lua_settop(L, parent);
}

/* Push the dump d, its upvalues taken from the variable of the parent, which follows; false, and nothing pushed: it cannot be. */
static bool push_factory_dump(lua_State *L, const dump_t *d) {
  size_t size;
  dump_t parent;
  push_parent_dump(L);
  const uint8_t *code = (const uint8_t *)lua_tolstring(L, -1, &size);
  if (!read_dump(code, size, &parent) || ((code[4] ^ d->code[4]) & ~DUMP_FFI)) {
    lua_pop(L, 1);
    return false;
  }
  static const uint16_t first_local = 0x8000;
  size_t behind = d->upvalues + (size_t)d->upvalue_count * 2;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addlstring(&b, (const char *)d->code, d->upvalues);
  for (uint32_t i = 0; i < d->upvalue_count; i++) {
    luaL_addlstring(&b, (const char *)&first_local, sizeof first_local);
  }
  luaL_addlstring(&b, (const char *)d->code + behind, d->end - behind);
  luaL_addlstring(&b, (const char *)code + parent.last, size - parent.last);
  luaL_pushresult(&b);
  return true;
}

/* Push a closure of the factory at index: false: an error, for which an interrupt will do. */
static bool push_closure(lua_State *L, int factory) {
  lua_pushvalue(L, factory);
  if (lua_pcall(L, 0, 1, 0) == 0 && lua_isfunction(L, -1)) { return true; }
  lua_pop(L, 1);
  return false;
}

/* Push a factory that has been made of the bytecode, and keep it. */
static bool make_factory(lua_State *L, const uint8_t *code, uint32_t length, uint32_t upvalues) {
  if (!lua_checkstack(L, 2 * LUA_MINSTACK)) { return false; }
  int top = lua_gettop(L);
  dump_t d;
  size_t size;
  if (!read_dump(code, length, &d) || d.upvalue_count != upvalues || !push_factory_dump(L, &d)) {
    return false;
  }
  const char *bytes = lua_tolstring(L, -1, &size);
  bool made = luaL_loadbufferx(L, bytes, size, "=received", "b") == 0;
  if (made) {
    int factory = lua_gettop(L);
    luaJIT_setmode(L, factory, LUAJIT_MODE_FUNC | LUAJIT_MODE_OFF);
    for (int i = 0; i < SOME_CLOSURES && made; i++) { made = push_closure(L, factory); }
    if (made) {
      keep(L, &factories_key, factory, code, length);
      lua_pushvalue(L, factory);
      lua_replace(L, top + 1);
    }
  }
  lua_settop(L, made ? top + 1 : top);
  return made;
}

static bool push_from_factory(lua_State *L, const uint8_t *code, uint32_t length,
                              uint32_t upvalues) {
  int top = lua_gettop(L);
  push_kept(L, &factories_key, code, length);
  if (lua_isnil(L, -1)) { lua_pop(L, 1); }
  bool made = lua_gettop(L) > top || make_factory(L, code, length, upvalues);
  if (made && push_closure(L, top + 1)) {
    lua_Debug ar;
    lua_pushvalue(L, -1);
    lua_getinfo(L, ">u", &ar);
    if ((uint32_t)ar.nups == upvalues) {
      lua_replace(L, top + 1);
      push_globals(L);
      lua_setfenv(L, top + 1);
      return true;
    }
  }
  lua_settop(L, top);
  return false;
}

/* ---- for codec_function.c ---- */

/* One whose environment has been changed (setfenv) is somebody's own by now. */
static bool push_same(lua_State *L, const uint8_t *code, uint32_t length) {
  int top = lua_gettop(L);
  push_kept(L, &functions_key, code, length);
  if (lua_isfunction(L, -1)) {
    lua_getfenv(L, -1);
    push_globals(L);
    bool usual = lua_rawequal(L, -1, -2);
    lua_settop(L, top + 1);
    if (usual) { return true; }
  }
  lua_settop(L, top);
  return false;
}

bool tarn__kept_push(lua_State *L, const uint8_t *code, uint32_t length, uint32_t upvalues) {
  if (length > KEPT_BYTES) { return false; }
  return upvalues ? push_from_factory(L, code, length, upvalues) : push_same(L, code, length);
}

void tarn__kept_put(lua_State *L, int index, const uint8_t *code, uint32_t length,
                    uint32_t upvalues) {
  push_globals(L);
  lua_setfenv(L, index);
  if (upvalues == 0 && length <= KEPT_BYTES) { keep(L, &functions_key, index, code, length); }
}

void tarn__kept_variable(lua_State *L, int index, int number) {
  push_parent(L);
  lua_call(L, 0, 1);
  lua_upvaluejoin(L, index, number, lua_gettop(L), 1);
  lua_pop(L, 1);
}
