/* How many bytes a value takes: one walk over tables, with LuaJIT's own sizes (GC64); typed values say theirs. A table is counted once, a
 * string that was met a moment ago too (the keys of records), and an upvalue and the code that closures share; modules and functions in them
 * are not the value's. */
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"

enum {
  TABLE_BYTES = 64,
  SLOT_BYTES = 8,
  NODE_BYTES = 24,
  STRING_BYTES = 32,  /* with its slot in the table of strings; then the bytes and a zero, in 4s */
  CLOSURE_BYTES = 40, /* and a slot for each upvalue */
  UPVALUE_BYTES = 48,
  PROTOTYPE_BYTES = 104, /* and about what string.dump gives */
  CDATA_BYTES = 16,
  USERDATA_BYTES = 40
};

typedef struct walk {
  tarn__encoder_t *state; /* borrowed: for its set of addresses, and its names */
  uint64_t bytes;
  bool typed;
  uint64_t mark; /* of this walk, in the codec's recent strings */
} walk_t;

/* Has this walk met the string a moment ago? Of those whose addresses fall together the latest few are known, the last one first: were it only one, two
 * keys of every record might drive each other out. */
static bool met_string(walk_t *w, const char *s) {
  uint64_t key = (uintptr_t)s ^ w->mark, moved = key;
  uint64_t *set = w->state->codec->recent[((uintptr_t)s >> 4) % TARN__RECENT_SETS];
  for (int i = 0; i < TARN__RECENT_WAYS; i++) {
    uint64_t was = set[i];
    set[i] = moved;
    if (was == key) { return true; }
    moved = was;
  }
  return false;
}

static void add_string(walk_t *w, lua_State *L, int index) {
  size_t length;
  const char *s = lua_tolstring(L, index, &length);
  if (!met_string(w, s)) { w->bytes += STRING_BYTES + ((length + 4) & ~(size_t)3); }
}

/* Addresses of user space have 47 bits: the rest of a recent string's key tells the walk that met it. */
static uint64_t next_mark(tarn__codec_t *c) {
  if (++c->walks == 1 << 16) {
    memset(c->recent, 0, sizeof c->recent);
    c->walks = 1;
  }
  return (uint64_t)c->walks << 48;
}

static bool met(walk_t *w, lua_State *L, const void *address) {
  uint32_t kept;
  bool is_new;
  if (!tarn__seen_put(&w->state->seen, address, 0, &kept, &is_new)) {
    luaL_error(L, "not enough memory");
  }
  return !is_new;
}

static bool met_table(walk_t *w, lua_State *L, const void *address) {
  uint32_t number;
  bool again;
  if (!tarn__tables_put(&w->state->tables, address, 0, &number, &again)) {
    luaL_error(L, "not enough memory");
  }
  return again;
}

static void add_value(walk_t *w, lua_State *L, int index, uint32_t depth);

static uint64_t power_of_two(uint64_t n) {
  uint64_t p = 1;
  while (p < n) { p *= 2; }
  return p;
}

/* The table's own bytes: as it says, or by its keys as LuaJIT would lay them out. */
static uint64_t table_bytes(walk_t *w, lua_State *L, int index, uint64_t count) {
  tarn__table_room_t room;
  if (!tarn__codec_table_room(w->state->codec, lua_topointer(L, index), &room)) {
    uint64_t in_array = lua_objlen(L, index);
    if (in_array > count) { in_array = count; }
    room.slots = in_array ? (uint32_t)in_array + 1 : 0;
    room.nodes = count > in_array ? (uint32_t)power_of_two(count - in_array) : 0;
  }
  return TABLE_BYTES + SLOT_BYTES * (uint64_t)room.slots + NODE_BYTES * (uint64_t)room.nodes;
}

static void add_table_itself(walk_t *w, lua_State *L, int index, uint32_t depth) {
  uint64_t count = 0;
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    count++;
    if (lua_type(L, top + 1) != LUA_TNUMBER) { add_value(w, L, top + 1, depth); }
    add_value(w, L, top + 2, depth);
    lua_settop(L, top + 1);
  }
  w->bytes += table_bytes(w, L, index, count);
}

static void fail(walk_t *w, lua_State *L) {
  tarn__failure_push(L, &w->state->failure, w->state->self);
  tarn__encoder_end(L, w->state, w->state->self);
  lua_error(L);
}

/* What a serializer's approx_size gave is at the top of the stack. */
static uint64_t check_size(walk_t *w, lua_State *L, int serializer) {
  double size = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
  if (size >= 0 && size < TARN__INTEGER_MAX) { return (uint64_t)size; }
  lua_rawgeti(L, serializer, TARN__SER_NAME);
  const char *text = lua_type(L, -2) == LUA_TNUMBER ? lua_tostring(L, -2) : luaL_typename(L, -2);
  tarn__failure_set(&w->state->failure, TARN__NOT_SERIALIZABLE,
                    "serializer '%.80s': approx_size gave %s, not a size in bytes",
                    lua_tostring(L, -1), text);
  fail(w, L);
  return 0;
}

/* What the serializer at the top of the stack says; popped. Without approx_size, a table's own walk. */
static bool add_typed(walk_t *w, lua_State *L, int index) {
  int serializer = lua_gettop(L);
  lua_rawgeti(L, serializer, TARN__SER_SIZE);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 2);
    return false;
  }
  lua_pushvalue(L, index);
  if (lua_pcall(L, 1, 1, 0)) {
    lua_rawgeti(L, serializer, TARN__SER_NAME);
    lua_insert(L, -2);
    tarn__encoder_environment(w->state, L);
    lua_pop(L, 1);
    tarn__failure_catch(L, &w->state->failure, w->state->self, lua_tostring(L, -2), "approx_size");
    fail(w, L);
  }
  w->bytes += check_size(w, L, serializer);
  lua_settop(L, serializer - 1);
  return true;
}

static void add_table(walk_t *w, lua_State *L, int index, uint32_t depth) {
  if (depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, 10) ||
      met_table(w, L, lua_topointer(L, index))) {
    return;
  }
  tarn__encoder_check_names(w->state, L);
  if (tarn__codec_maybe_module(w->state->codec, lua_topointer(L, index)) &&
      tarn__codec_lookup(L, w->state->codec->module_names, index)) {
    lua_pop(L, 1);
    return;
  }
  if (lua_getmetatable(L, index)) {
    lua_pop(L, 1);
    if (tarn__codec_serializer(L, w->state->codec, index)) {
      w->typed = true;
      if (add_typed(w, L, index)) { return; }
    }
  }
  add_table_itself(w, L, index, depth + 1);
}

static int count_bytes(lua_State *L, const void *bytes, size_t size, void *total) {
  (void)L;
  (void)bytes;
  *(size_t *)total += size;
  return 0;
}

/* A function's code, once for all closures of it, which are told by where it is defined; and the name of its chunk, which may be the whole text. */
static void add_code(walk_t *w, lua_State *L, int index) {
  lua_Debug where;
  size_t size = 0;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &where);
  if (where.linedefined < 0) { return; }
  uintptr_t source = (uintptr_t)where.source;
  uintptr_t lines = (uintptr_t)(uint32_t)where.linedefined << 40 ^
                    (uintptr_t)(uint32_t)where.lastlinedefined << 52;
  if (met(w, L, (const void *)(source ^ lines ^ 1))) { return; }
  lua_pushvalue(L, index);
  if (lua_dump(L, count_bytes, &size) == 0) { w->bytes += PROTOTYPE_BYTES + size; }
  lua_pop(L, 1);
  if (!met(w, L, where.source)) { w->bytes += STRING_BYTES + strlen(where.source); }
}

static void add_function(walk_t *w, lua_State *L, int index, uint32_t depth) {
  if (depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, 10) ||
      met(w, L, lua_topointer(L, index))) {
    return;
  }
  tarn__encoder_check_names(w->state, L);
  if (tarn__codec_lookup(L, w->state->codec->function_names, index)) {
    lua_pop(L, 1);
    return;
  }
  w->bytes += CLOSURE_BYTES;
  add_code(w, L, index);
  for (int i = 1; lua_getupvalue(L, index, i); i++) {
    w->bytes += SLOT_BYTES;
    if (!met(w, L, lua_upvalueid(L, index, i))) {
      w->bytes += UPVALUE_BYTES;
      add_value(w, L, lua_gettop(L), depth + 1);
    }
    lua_pop(L, 1);
  }
}

static void add_cdata(walk_t *w, lua_State *L, int index) {
  uint32_t id = tarn__codec_ctype(L, w->state->codec, index);
  if (id != w->state->codec->int64_id && id != w->state->codec->uint64_id &&
      !met(w, L, lua_topointer(L, index)) && tarn__codec_serializer(L, w->state->codec, index)) {
    w->typed = true;
    if (add_typed(w, L, index)) { return; }
  }
  w->bytes += CDATA_BYTES + sizeof(int64_t);
}

static void add_value(walk_t *w, lua_State *L, int index, uint32_t depth) {
  switch (lua_type(L, index)) {
  case LUA_TSTRING:
    add_string(w, L, index);
    break;
  case LUA_TTABLE:
    add_table(w, L, index, depth);
    break;
  case LUA_TFUNCTION:
    add_function(w, L, index, depth);
    break;
  case TARN__TCDATA:
    add_cdata(w, L, index);
    break;
  case LUA_TUSERDATA:
    w->bytes += USERDATA_BYTES + sizeof(tarn_ref_t);
    break;
  default:
    break;
  }
}

uint64_t tarn_codec_approx_size(lua_State *L, int index, bool *typed) {
  if (index < 0) { index = lua_gettop(L) + 1 + index; }
  int type = lua_type(L, index);
  *typed = false;
  if (type == LUA_TNIL || type == LUA_TBOOLEAN || type == LUA_TNUMBER) { return SLOT_BYTES; }
  tarn__encoder_t *state = tarn__encoder_begin(L);
  walk_t w = {.state = state, .mark = next_mark(state->codec)};
  add_value(&w, L, index, 0);
  tarn__encoder_end(L, state, state->self);
  lua_pop(L, 1);
  *typed = w.typed;
  return w.bytes;
}
