/* Tables by the API: one walk by lua_next. A table is written as an array while its keys come as 1, 2, 3...; should they not, what has been
 * written is turned into a map. Most tables are read where they lie instead (codec_table.c). */
#include "bind/codec-write.h"

#define HEADER_ROOM 16 /* a map's header, and what its writer may write beyond it */

/* The header of a map with so many pairs; its size. */
static size_t map_header(uint32_t count, uint8_t out[HEADER_ROOM]) {
  tarn_buf_t b = {.data = out, .capacity = HEADER_ROOM, .limit = HEADER_ROOM};
  (void)tarn_mp_write_map(&b, count);
  return b.size;
}

/* Name the key at key_index as the step of the path that failed. */
void tarn__encode_step_key(tarn__encoder_t *e, lua_State *L, int key_index) {
  if (lua_type(L, key_index) == LUA_TSTRING) {
    tarn__failure_step(&e->failure, "field '%.100s'", lua_tostring(L, key_index));
  } else if (lua_type(L, key_index) == LUA_TNUMBER) {
    double d = lua_tonumber(L, key_index);
    tarn__failure_step(&e->failure, d >= 1 && d == floor(d) ? "element %.14g" : "field [%.14g]", d);
  } else if (lua_type(L, key_index) == LUA_TBOOLEAN) {
    tarn__failure_step(&e->failure, "field [%s]", lua_toboolean(L, key_index) ? "true" : "false");
  } else {
    tarn__failure_step(&e->failure, "a field whose key is a %s", luaL_typename(L, key_index));
  }
}

/* The value at the top of the stack, whose key is below it. */
static inline int encode_pair_value(tarn__encoder_t *e, lua_State *L) {
  int top = lua_gettop(L);
  int rc = tarn__encode_value(e, L, top);
  if (rc) { tarn__encode_step_key(e, L, top - 1); }
  return rc;
}

/* The map at start gets one more pair: its header may have to grow. */
static int make_header_room(tarn__encoder_t *e, size_t start, uint32_t count) {
  uint8_t header[HEADER_ROOM];
  size_t size = map_header(count, header), more = map_header(count + 1, header) - size;
  if (more == 0) { return 0; }
  int rc = tarn_buf_reserve(&e->out, more);
  if (rc) { return tarn__done(e, rc); }
  uint8_t *first = e->out.data + start + size;
  memmove(first + more, first, e->out.size - start - size);
  e->out.size += more;
  return 0;
}

/* The rest of a table's pairs: key and value of the next one are on the stack. start: where the map's header is, which is filled in at the
 * end; count: pairs already written. Pops everything. */
static int encode_pairs(tarn__encoder_t *e, lua_State *L, int index, size_t start, uint32_t count) {
  do {
    int rc = make_header_room(e, start, count);
    if (rc) { return rc; }
    int top = lua_gettop(L);
    rc = tarn__encode_value(e, L, top - 1);
    if (rc) {
      tarn__failure_step(&e->failure, "a key");
      return rc;
    }
    rc = encode_pair_value(e, L);
    if (rc) { return rc; }
    lua_settop(L, top - 1);
    if (++count == UINT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  } while (lua_next(L, index));
  uint8_t header[HEADER_ROOM];
  size_t size = map_header(count, header);
  memcpy(e->out.data + start, header, size);
  return 0;
}

static int encode_map(tarn__encoder_t *e, lua_State *L, int index) {
  lua_pushnil(L);
  if (!lua_next(L, index)) { return tarn__done(e, tarn_mp_write_array(&e->out, 0)); }
  size_t start = e->out.size;
  int rc = tarn__done(e, tarn_mp_write_map(&e->out, 0));
  return rc ? rc : encode_pairs(e, L, index, start, 0);
}

/* count elements have been written behind the header at start: put their keys before them, as a map's. */
static int array_to_map(tarn__encoder_t *e, size_t start, uint32_t count) {
  tarn_buf_t map;
  tarn_buf_init(&map, e->out.limit);
  uint8_t code = e->out.data[start];
  tarn_mp_reader_t r = {e->out.data + start +
                            (code == 0xdd   ? 5
                             : code == 0xdc ? 3
                                            : 1),
                        e->out.data + e->out.size};
  int rc = tarn_mp_write_map(&map, count);
  for (uint32_t i = 1; i <= count && !rc; i++) {
    const uint8_t *at = r.at;
    rc = tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH + 1);
    if (!rc) { rc = tarn_mp_write_uint(&map, i); }
    if (!rc) { rc = tarn_buf_append(&map, at, (size_t)(r.at - at)); }
  }
  if (!rc) {
    e->out.size = start;
    rc = tarn_buf_append(&e->out, map.data, map.size);
  }
  tarn_buf_release(&map);
  return tarn__done(e, rc);
}

/* Whether the keys not visited yet (the next one and its value are on the stack) are just those of k+1..n. Leaves the stack as it was. */
static bool rest_is_sequence(lua_State *L, int index, size_t k, size_t n) {
  size_t count = 0;
  int top = lua_gettop(L);
  bool sequence = true;
  lua_pushvalue(L, top - 1);
  lua_pushnil(L);
  do {
    lua_pop(L, 1);
    double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    sequence = key > (double)k && key <= (double)n && key == floor(key);
    count++;
  } while (sequence && lua_next(L, index));
  lua_settop(L, top);
  return sequence && count == n - k;
}

/* Elements k+1..n by index. */
static int encode_by_index(tarn__encoder_t *e, lua_State *L, int index, size_t k, size_t n) {
  int top = lua_gettop(L);
  for (size_t i = k + 1; i <= n; i++) {
    lua_rawgeti(L, index, (int)i);
    int rc = tarn__encode_value(e, L, top + 1);
    if (rc) {
      tarn__failure_step(&e->failure, "element %zu", i);
      return rc;
    }
    lua_settop(L, top);
  }
  return 0;
}

/* Most likely 1..n and nothing else. */
static int encode_sequence(tarn__encoder_t *e, lua_State *L, int index, size_t n) {
  if (n > INT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  size_t start = e->out.size;
  int rc = tarn__done(e, tarn_mp_write_array(&e->out, (uint32_t)n));
  if (rc) { return rc; }
  size_t k = 0;
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (k >= n || lua_type(L, top + 1) != LUA_TNUMBER ||
        lua_tonumber(L, top + 1) != (double)(k + 1)) {
      if (rest_is_sequence(L, index, k, n)) {
        lua_settop(L, top);
        return encode_by_index(e, L, index, k, n);
      }
      rc = array_to_map(e, start, (uint32_t)k);
      return rc ? rc : encode_pairs(e, L, index, start, (uint32_t)k);
    }
    k++;
    rc = tarn__encode_value(e, L, top + 2);
    if (rc) {
      tarn__encode_step_key(e, L, top + 1);
      return rc;
    }
    lua_settop(L, top + 1);
  }
  return k == n ? 0 : tarn__encode_changed(e);
}

int tarn__encode_walk(tarn__encoder_t *e, lua_State *L, int index) {
  size_t n = lua_objlen(L, index);
  if (n == 0) { return encode_map(e, L, index); }
  lua_pushnumber(L, (double)n);
  if (lua_next(L, index)) { /* a key behind the sequence */
    lua_pop(L, 2);
    return encode_map(e, L, index);
  }
  return encode_sequence(e, L, index, n);
}
