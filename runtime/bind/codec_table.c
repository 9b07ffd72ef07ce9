/* Tables to skeleton bytes, read where LuaJIT keeps them (peek.h). A first pass over a table's slots tells what it is: an array, when its keys are
 * just 1..n, or a map; and whether it is a *leaf*, which holds scalars only and is written without a call to Lua. For the elements that are not
 * scalars the table stands on the stack. Tables of other shapes, and all where peeking is off, go by the API (codec_walk.c). */
#include "bind/codec-write.h"
#include "bind/peek.h"

enum { SLOTS_A_LEVEL = 8, NO_SCALAR = 2 /* beside failure codes */ };

typedef struct shape {
  uint32_t elements; /* 1..elements are there, in the array part */
  uint32_t pairs;    /* beside them */
  bool leaf;
} shape_t;

static inline bool is_scalar(tarn__slot_t v) {
  uint32_t type = tarn__slot_type(v);
  return type >= TARN__SLOT_NUMBER || type == TARN__SLOT_STRING || type == TARN__SLOT_FALSE ||
         type == TARN__SLOT_TRUE;
}

/* False: a shape for the API's walk. It has holes, or a key that is neither text nor boolean: a number may belong to a sequence. */
static bool look(const tarn__table_t *t, shape_t *s) {
  uint32_t n = t->slots > 1 ? t->slots - 1 : 0;
  while (n > 0 && tarn__slot_type(t->array[n]) == TARN__SLOT_NIL) { n--; }
  bool leaf = true;
  for (uint32_t i = 1; i <= n; i++) {
    if (tarn__slot_type(t->array[i]) == TARN__SLOT_NIL) { return false; }
    leaf = leaf && is_scalar(t->array[i]);
  }
  if (t->slots > 0 && tarn__slot_type(t->array[0]) != TARN__SLOT_NIL) { return false; }
  uint32_t pairs = 0;
  for (uint32_t i = 0; i <= t->mask; i++) {
    const tarn__node_t *node = &t->node[i];
    uint32_t type = tarn__slot_type(node->key);
    if (tarn__slot_type(node->value) == TARN__SLOT_NIL) { continue; }
    if (type != TARN__SLOT_STRING && type != TARN__SLOT_TRUE && type != TARN__SLOT_FALSE) {
      return false;
    }
    leaf = leaf && is_scalar(node->value);
    pairs++;
  }
  *s = (shape_t){n, pairs, leaf};
  return true;
}

static inline int write_scalar(tarn__encoder_t *e, tarn__slot_t v) {
  uint32_t type = tarn__slot_type(v), length;
  if (type >= TARN__SLOT_NUMBER) { return tarn__encode_number(e, tarn__slot_number(v)); }
  if (type == TARN__SLOT_STRING) {
    const char *s = tarn__slot_string(v, &length);
    return tarn__encode_text(e, s, length);
  }
  if (type == TARN__SLOT_TRUE || type == TARN__SLOT_FALSE) {
    return tarn__done(e, tarn_mp_write_bool(&e->out, type == TARN__SLOT_TRUE));
  }
  return NO_SCALAR;
}

static int write_header(tarn__encoder_t *e, const shape_t *s) {
  uint64_t both = (uint64_t)s->elements + s->pairs;
  if (both > UINT32_MAX) { return tarn__encode_out_of_memory(e, TARN_ETOOBIG); }
  return tarn__done(e, s->pairs ? tarn_mp_write_map(&e->out, (uint32_t)both)
                                : tarn_mp_write_array(&e->out, s->elements));
}

/* ---- leaves ---- */

enum { NUMBER_ROOM = 9, SHORT_TEXT = 31 };

/* A copy of at most 31 bytes: without a call, from both ends where 8 or 4 at a time would not meet. */
static inline void copy_short(uint8_t *to, const char *from, uint32_t n) {
  uint64_t wide[2];
  uint32_t half[2];
  if (n >= 16) {
    memcpy(to, from, 16);
    memcpy(to + n - 16, from + n - 16, 16);
  } else if (n >= 8) {
    memcpy(&wide[0], from, 8);
    memcpy(&wide[1], from + n - 8, 8);
    memcpy(to, &wide[0], 8);
    memcpy(to + n - 8, &wide[1], 8);
  } else if (n >= 4) {
    memcpy(&half[0], from, 4);
    memcpy(&half[1], from + n - 4, 4);
    memcpy(to, &half[0], 4);
    memcpy(to + n - 4, &half[1], 4);
  } else {
    for (uint32_t i = 0; i < n; i++) { to[i] = (uint8_t)from[i]; }
  }
}

/* The same as write_scalar. */
__attribute__((always_inline)) static inline int put_scalar(tarn__encoder_t *e, tarn__cursor_t *c,
                                                            tarn__slot_t v) {
  uint32_t type = tarn__slot_type(v), length = 0;
  const char *text = type == TARN__SLOT_STRING ? tarn__slot_string(v, &length) : NULL;
  if (length > SHORT_TEXT || (text && !tarn__is_ascii((const uint8_t *)text, length))) {
    tarn__cursor_put_back(e, c);
    int rc = tarn__encode_text(e, text, length);
    *c = tarn__cursor_take(e);
    return rc;
  }
  int rc = tarn__cursor_reserve(e, c, NUMBER_ROOM + length);
  if (rc) { return rc; }
  if (type >= TARN__SLOT_NUMBER) {
    c->at = tarn__put_number(c->at, tarn__slot_number(v));
  } else if (text) {
    *c->at++ = (uint8_t)(0xa0u | length);
    copy_short(c->at, text, length);
    c->at += length;
  } else {
    *c->at++ = type == TARN__SLOT_TRUE ? 0xc3 : 0xc2;
  }
  return 0;
}

/* From element i on, as long as there are numbers; the element after the last. */
static int put_numbers(tarn__encoder_t *e, tarn__cursor_t *c, const tarn__slot_t *array,
                       uint32_t *i, uint32_t count) {
  enum { AT_ONCE = 256 };
  uint32_t at = *i;
  while (at <= count && tarn__slot_type(array[at]) >= TARN__SLOT_NUMBER) {
    uint32_t end = count - at < AT_ONCE ? count + 1 : at + AT_ONCE;
    int rc = tarn__cursor_reserve(e, c, (size_t)(end - at) * NUMBER_ROOM);
    if (rc) { return rc; }
    uint8_t *to = c->at;
    for (; at < end && tarn__slot_type(array[at]) >= TARN__SLOT_NUMBER; at++) {
      to = tarn__put_number(to, tarn__slot_number(array[at]));
    }
    c->at = to;
  }
  *i = at;
  return 0;
}

static int put_leaf(tarn__encoder_t *e, tarn__cursor_t *c, const tarn__table_t *t,
                    const shape_t *s) {
  int rc = 0;
  for (uint32_t i = 1; i <= s->elements && !rc; i++) {
    rc = s->pairs ? tarn__cursor_reserve(e, c, NUMBER_ROOM)
                  : put_numbers(e, c, t->array, &i, s->elements);
    if (rc || i > s->elements) { break; }
    if (s->pairs) { c->at = tarn__put_number(c->at, i); }
    rc = put_scalar(e, c, t->array[i]);
  }
  for (uint32_t i = 0; i <= t->mask && s->pairs && !rc; i++) {
    if (tarn__slot_type(t->node[i].value) == TARN__SLOT_NIL) { continue; }
    rc = put_scalar(e, c, t->node[i].key);
    if (!rc) { rc = put_scalar(e, c, t->node[i].value); }
  }
  return rc;
}

static int write_leaf(tarn__encoder_t *e, const tarn__table_t *t, const shape_t *s) {
  int rc = write_header(e, s);
  if (rc) { return rc; }
  tarn__cursor_t c = tarn__cursor_take(e);
  rc = put_leaf(e, &c, t, s);
  tarn__cursor_put_back(e, &c);
  return rc;
}

static int identify(tarn__encoder_t *e, const void *table, bool *again) {
  uint32_t number;
  if (!tarn__tables_put(&e->tables, table, e->made, &number, again)) {
    return tarn__encode_out_of_memory(e, TARN_ENOMEM);
  }
  if (!*again) {
    e->made++;
    return 0;
  }
  e->backrefs = true;
  return tarn__encode_uint_ext(e, TARN_EXT_BACKREF, number);
}

/* The table at that address, which is not on the stack: NO_SCALAR, and nothing has been done, when it must be. */
static int encode_leaf(tarn__encoder_t *e, const tarn__table_t *t) {
  shape_t s;
  if (t->metatable || tarn__codec_maybe_module(e->codec, t) || e->depth >= TARN_IMAGE_MAX_DEPTH ||
      !look(t, &s) || !s.leaf) {
    return NO_SCALAR;
  }
  bool again;
  int rc = identify(e, t, &again);
  return rc || again ? rc : write_leaf(e, t, &s);
}

/* ---- others ---- */

int tarn__encode_changed(tarn__encoder_t *e) {
  return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                           "a table changed while it was being encoded");
}

/* The value at the top of the stack, popped. It may run Lua: was is how the table was before. */
static int encode_top(tarn__encoder_t *e, lua_State *L, const tarn__table_t *t,
                      const tarn__table_t *was) {
  int top = lua_gettop(L);
  int rc = tarn__encode_value(e, L, top);
  lua_settop(L, top - 1);
  if (rc) { return rc; }
  bool same = t->array == was->array && t->node == was->node && t->slots == was->slots &&
              t->mask == was->mask;
  return same ? 0 : tarn__encode_changed(e);
}

static inline int encode_slot(tarn__encoder_t *e, tarn__slot_t v) {
  int rc = write_scalar(e, v);
  if (rc == NO_SCALAR && tarn__slot_type(v) == TARN__SLOT_TABLE) {
    rc = encode_leaf(e, tarn__slot_pointer(v));
  }
  return rc;
}

static int encode_element(tarn__encoder_t *e, lua_State *L, int index, const tarn__table_t *t,
                          const tarn__table_t *was, uint32_t i) {
  if (tarn__slot_type(t->array[i]) == TARN__SLOT_NIL) { return tarn__encode_changed(e); }
  int rc = encode_slot(e, t->array[i]);
  if (rc == NO_SCALAR) {
    lua_rawgeti(L, index, (int)i);
    rc = encode_top(e, L, t, was);
  }
  if (rc) { tarn__failure_step(&e->failure, "element %u", i); }
  return rc;
}

static void push_key(lua_State *L, tarn__slot_t key) {
  uint32_t length;
  if (tarn__slot_type(key) == TARN__SLOT_STRING) {
    const char *s = tarn__slot_string(key, &length);
    lua_pushlstring(L, s, length);
  } else {
    lua_pushboolean(L, tarn__slot_type(key) == TARN__SLOT_TRUE);
  }
}

static int encode_pair(tarn__encoder_t *e, lua_State *L, int index, const tarn__table_t *t,
                       const tarn__table_t *was, uint32_t i) {
  tarn__slot_t key = t->node[i].key;
  int rc = write_scalar(e, key);
  if (rc) { return rc; }
  rc = encode_slot(e, t->node[i].value);
  if (rc == NO_SCALAR) {
    push_key(L, key);
    lua_rawget(L, index);
    rc = encode_top(e, L, t, was);
  }
  if (rc) {
    push_key(L, key);
    tarn__encode_step_key(e, L, lua_gettop(L));
    lua_pop(L, 1);
  }
  return rc;
}

static int encode_shape(tarn__encoder_t *e, lua_State *L, int index, const tarn__table_t *t,
                        const shape_t *s) {
  const tarn__table_t was = *t;
  int rc = write_header(e, s);
  for (uint32_t i = 1; i <= s->elements && !rc; i++) {
    if (s->pairs) { rc = tarn__done(e, tarn_mp_write_uint(&e->out, i)); }
    if (!rc) { rc = encode_element(e, L, index, t, &was, i); }
  }
  uint32_t pairs = 0;
  for (uint32_t i = 0; i <= was.mask && s->pairs && !rc; i++) {
    if (tarn__slot_type(t->node[i].value) == TARN__SLOT_NIL) { continue; }
    pairs++;
    rc = encode_pair(e, L, index, t, &was, i);
  }
  if (!rc && pairs != s->pairs) { rc = tarn__encode_changed(e); }
  return rc;
}

static int encode_content(tarn__encoder_t *e, lua_State *L, int index) {
  const tarn__table_t *t = lua_topointer(L, index);
  shape_t s;
  if (!e->codec->peek_tables || !look(t, &s)) { return tarn__encode_walk(e, L, index); }
  return s.leaf ? write_leaf(e, t, &s) : encode_shape(e, L, index, t, &s);
}

/* ---- tables with a metatable ---- */

/* Entries of a weak table may vanish between two looks at it. */
static bool is_weak(lua_State *L, int metatable) {
  lua_pushliteral(L, "__mode");
  lua_rawget(L, metatable);
  bool weak = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return weak;
}

/* The payload of the name of the metatable at that index, pushed. */
static bool find_metatable_name(tarn__encoder_t *e, lua_State *L, int metatable) {
  if (tarn__codec_lookup(L, e->codec->metatable_names, metatable)) { return true; }
  tarn__codec_refresh_names(L, e->codec, true);
  return tarn__codec_lookup(L, e->codec->metatable_names, metatable);
}

/* A serializer's, or one whose metatable travels by name. */
static int encode_with_metatable(tarn__encoder_t *e, lua_State *L, int index) {
  if (tarn__codec_serializer(L, e->codec, index)) {
    e->depth--; /* counted by encode_typed */
    int typed = tarn__encode_typed(e, L, index);
    e->depth++;
    return typed;
  }
  lua_getmetatable(L, index);
  int metatable = lua_gettop(L);
  if (!find_metatable_name(e, L, metatable)) {
    return tarn__failure_refuse(&e->failure,
                                "declare its type with tarn.serializer, or keep the metatable in a "
                                "module (docs/serializers.md)",
                                "a table with an unregistered metatable cannot travel");
  }
  size_t mark, length;
  int rc = tarn__encode_open(e, TARN_EXT_META, &mark);
  if (rc) { return rc; }
  const char *name = lua_tolstring(L, -1, &length);
  rc = tarn_mp_write_array(&e->out, 2);
  if (!rc) { rc = tarn_buf_append(&e->out, name, length); }
  if (rc) { return tarn__done(e, rc); }
  bool weak = is_weak(L, metatable);
  lua_settop(L, metatable - 1);
  rc = weak ? tarn__encode_walk(e, L, index) : encode_content(e, L, index);
  return rc ? rc : tarn__encode_close(e, mark);
}

int tarn__encode_table(tarn__encoder_t *e, lua_State *L, int index) {
  if (e->depth >= TARN_IMAGE_MAX_DEPTH || !lua_checkstack(L, SLOTS_A_LEVEL)) {
    return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE,
                             "a value nested deeper than %u levels cannot travel",
                             TARN_IMAGE_MAX_DEPTH);
  }
  const void *address = lua_topointer(L, index);
  tarn__encoder_check_names(e, L);
  if (tarn__codec_maybe_module(e->codec, address) &&
      tarn__codec_lookup(L, e->codec->module_names, index)) {
    return tarn__encode_name(e, L);
  }
  bool again;
  int rc = identify(e, address, &again);
  if (rc || again) { return rc; }
  e->depth++;
  bool with = lua_getmetatable(L, index);
  if (with) { lua_pop(L, 1); }
  rc = with ? encode_with_metatable(e, L, index) : encode_content(e, L, index);
  e->depth--;
  return rc;
}
