/* What LuaJIT (2.1, GC64) keeps where: values, tables and strings, to be read without a call for each. Its API has no way to a table's parts, and
 * a walk by lua_next looks every key up again. Read only, but for numbers put into a table that is being made; Lua thread only, and only where tarn__peek_verify has found everything to be as it is said
 * here; else the codec goes by the API. What is pointed to lives while Lua has it, and moves when Lua changes the table. */
#ifndef TARN_BIND_PEEK_H
#define TARN_BIND_PEEK_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A value: a double, or a type in the upper 17 bits and a pointer below. */
typedef uint64_t __attribute__((may_alias)) tarn__slot_t;

enum {
  TARN__SLOT_NIL,
  TARN__SLOT_FALSE,
  TARN__SLOT_TRUE,
  TARN__SLOT_STRING = 4,
  TARN__SLOT_TABLE = 11,
  TARN__SLOT_NUMBER = 13 /* and everything above */
};

typedef struct __attribute__((may_alias)) tarn__node {
  tarn__slot_t value, key;
  uint64_t next;
} tarn__node_t;

typedef struct __attribute__((may_alias)) tarn__table {
  uint64_t header[2];
  const tarn__slot_t *array; /* from index 0 on */
  uint64_t gclist;
  const void *metatable; /* null: none */
  const tarn__node_t *node;
  uint32_t slots; /* in array */
  uint32_t mask;  /* nodes - 1; a table without any has one shared, empty node */
} tarn__table_t;

static inline uint32_t tarn__slot_type(tarn__slot_t v) { return ~(uint32_t)((int64_t)v >> 47); }
static inline const void *tarn__slot_pointer(tarn__slot_t v) {
  return (const void *)(uintptr_t)(v & (((uint64_t)1 << 47) - 1));
}
static inline double tarn__slot_number(tarn__slot_t v) {
  double d;
  uint64_t bits = v;
  memcpy(&d, &bits, sizeof d);
  return d;
}
static inline void tarn__slot_set_number(tarn__slot_t *v, double d) {
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  *v = bits;
}
static inline const char *tarn__slot_string(tarn__slot_t v, uint32_t *length) {
  const char *string = tarn__slot_pointer(v);
  memcpy(length, string + 20, sizeof *length);
  return string + 24;
}

/* Whether new tables and strings of this Lua state look like that. Raises only for lack of memory. */
bool tarn__peek_verify(lua_State *L);

#endif
