/* What the files of the codec share. See codec.h for the contract and docs/FORMAT.md for the bytes.
 *
 * Encoding and decoding are recursive walks that return 0 or a TARN_E* code; what went wrong is kept in the state and becomes one
 * Lua error at the top, so that every level on the way can say where it was. States are userdata: whatever leaves by a
 * longjmp leaves them to the collector. One idle state of each kind is kept for the next call; nested calls (from mmwrite and
 * mmread) get their own. Lua thread only. */
#ifndef TARN_BIND_CODEC_PRIVATE_H
#define TARN_BIND_CODEC_PRIVATE_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>

#include "bind/bind.h"
#include "bind/codec.h"
#include "bind/file-private.h"
#include "image/image.h"

#define TARN__TCDATA 10                      /* lua_type of a cdata in LuaJIT */
#define TARN__INTEGER_MAX 9007199254740992.0 /* 2^53: up to here a double is an exact integer */
#define TARN__BLOOM_BITS 4096u
#define TARN__RECENT_SETS 128u
#define TARN__RECENT_WAYS 4

/* ---- the codec of one Lua state (codec.c) ---- */

/* References into the registry; LUA_NOREF where the Lua side has not set them yet. */
typedef struct tarn__codec {
  int module_names; /* weak table: a module's table -> its NAME payload, a string; the metatable that a serializer is for -> the serializer */
  int function_names;  /* the same for functions found in modules */
  int metatable_names; /* the same for metatables found as a module or in one */
  int refresh_names;   /* fn(): bring the three up to date */
  int resolve_name;    /* fn(module, key, may_load, from) -> object */
  int by_metatable;    /* weak table: metatable -> serializer */
  int by_ctype;        /* table: ctype id -> serializer */
  int match; /* fn(x) -> serializer or nil; asks `matches` and, for a cdata, the registered ctypes */
  int find;  /* fn(name, version, hash, may_load, from) -> serializer or nil; loads it if need be */
  int offer; /* fn(serializer): values of it leave for the first time: let other processes load it */
  int read;  /* fn(mmread, inp) -> value */
  int describe;      /* fn(cdata) -> its type in words, its ctype id */
  int int64, uint64; /* cdata int64_t[1], uint64_t[1], through which 64-bit cdata are made */
  int64_t *int64_at; /* their storage */
  uint64_t *uint64_at;
  uint32_t int64_id, uint64_id; /* ctype ids */
  bool peek;           /* the ctype id may be read from a cdata's header (verified by the hooks) */
  bool peek_tables;    /* tables and strings may be read as peek.h has them */
  const void *globals; /* the main globals' table */
  int idle_encoder, idle_decoder; /* registry slots */
  int none;                       /* an empty table: the environment of an idle state */
  uint32_t received_from;         /* the process that the next image to be decoded came from */
  bool names_changed;             /* package.loaded has had a new entry */
  uint64_t loaded_signature;      /* of package.loaded when the names were brought up to date */
  uint64_t bloom[TARN__BLOOM_BITS / 64]; /* over the addresses in module_names */
  uint64_t
      recent[TARN__RECENT_SETS]
            [TARN__RECENT_WAYS]; /* strings met a moment ago, and by which walk (codec_size.c) */
  uint32_t walks;
} tarn__codec_t;

/* A serializer's Lua table keeps in 1..6 what C needs: */
enum {
  TARN__SER_NAME = 1,
  TARN__SER_VERSION,
  TARN__SER_HASH, /* 8 bytes */
  TARN__SER_WRITE,
  TARN__SER_READ,
  TARN__SER_SIZE,     /* or false */
  TARN__SER_OFFERED,  /* true once it has been offered */
  TARN__SER_TYPE_NAME /* the NAME payload of its metatable; false: that has a name of its own */
};

tarn__codec_t *tarn__codec_of(lua_State *L);
/* Bring the name tables up to date if package.loaded has changed; force: in any case. */
void tarn__codec_refresh_names(lua_State *L, tarn__codec_t *c, bool force);
/* Push table[ref][key at index], raw; false, and nothing pushed, when there is none. */
bool tarn__codec_lookup(lua_State *L, int ref, int index);
/* The ctype id of the cdata at index. */
uint32_t tarn__codec_ctype(lua_State *L, const tarn__codec_t *c, int index);
void tarn__codec_push_int64(lua_State *L, tarn__codec_t *c, int64_t v);
void tarn__codec_push_uint64(lua_State *L, tarn__codec_t *c, uint64_t v);
/* Let other processes load the serializer at index, which bytes are about to refer to. */
void tarn__codec_offer(lua_State *L, const tarn__codec_t *c, int index);
/* The serializer for the table or cdata at index: pushes it, or false and nothing. */
bool tarn__codec_serializer(lua_State *L, const tarn__codec_t *c, int index);

/* The slots (from index 0 on) and the nodes that a table has room for. False: not known. */
typedef struct tarn__table_room {
  uint32_t slots, nodes;
} tarn__table_room_t;
bool tarn__codec_table_room(const tarn__codec_t *c, const void *table, tarn__table_room_t *room);

static inline uint32_t tarn__codec_bloom(const void *p) {
  return (uint32_t)(((uint64_t)(uintptr_t)p * 0x9E3779B97F4A7C15u) >> 52) & (TARN__BLOOM_BITS - 1);
}
/* False: the table at that address is no module that has a name. */
static inline bool tarn__codec_maybe_module(const tarn__codec_t *c, const void *p) {
  uint32_t bit = tarn__codec_bloom(p);
  return c->bloom[bit / 64] >> bit % 64 & 1;
}

/* ---- addresses already met (codec_seen.c) ---- */

typedef struct tarn__seen_slot {
  const void *key;
  uint32_t value;
  uint32_t generation; /* of another generation: empty */
} tarn__seen_slot_t;

typedef struct tarn__seen {
  tarn__seen_slot_t *slots; /* owned */
  uint32_t capacity, count, generation;
} tarn__seen_t;

/* The value kept for key, or, where there is none, keep value and set *is_new. False: out of memory. */
bool tarn__seen_put(tarn__seen_t *s, const void *key, uint32_t value, uint32_t *kept, bool *is_new);
void tarn__seen_clear(tarn__seen_t *s);
void tarn__seen_release(tarn__seen_t *s);

/* The same for tables, of which there may be very many: numbers by address, in pages, so that tables which lie side by side are found side by
 * side. Two tables lie at least 32 bytes apart: they have 64 themselves. */
enum { TARN__PAGE_SHIFT = 12, TARN__GRAIN_SHIFT = 5, TARN__PAGE_GRAINS = 128 };
typedef uint32_t tarn__page_t[TARN__PAGE_GRAINS]; /* number + 1; 0: not met */
typedef struct tarn__tables {
  tarn__seen_t index;  /* address of a page's first byte -> its place in pages */
  tarn__page_t *pages; /* owned */
  uint32_t count, capacity;
  uintptr_t last; /* the page looked up last: address >> TARN__PAGE_SHIFT; 0: none */
  uint32_t last_page;
} tarn__tables_t;

/* *number: the one kept for table; or, where there is none, keep number `fresh`. False: out of memory. */
bool tarn__tables_put(tarn__tables_t *t, const void *table, uint32_t fresh, uint32_t *number,
                      bool *again);
void tarn__tables_clear(tarn__tables_t *t);
void tarn__tables_release(tarn__tables_t *t);

/* ---- what went wrong ---- */

#define TARN__PATH_MAX 480

typedef struct tarn__failure {
  int code;           /* 0: nothing; 1: NotSerializable; else TARN_E* */
  bool has_object;    /* the error object is in the state's environment under "error" */
  bool object_ours;   /* made here, of what a serializer has raised: it gets the path */
  bool in_function;   /* the last step of the path is a function */
  const char *advice; /* what to do instead, after the path; null: nothing to say */
  char message[TARN_ERROR_TEXT];
  char path[TARN__PATH_MAX]; /* steps, innermost first */
} tarn__failure_t;

enum { TARN__NOT_SERIALIZABLE = 1 };

/* Set, unless something has failed already; returns the code. */
int tarn__failure_set(tarn__failure_t *f, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* NotSerializable, with what to do instead (a constant). */
int tarn__failure_refuse(tarn__failure_t *f, const char *advice, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Add a step outwards. */
void tarn__failure_step(tarn__failure_t *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Push the error object. state: stack index of the userdata whose environment may hold it. */
void tarn__failure_push(lua_State *L, const tarn__failure_t *f, int state);
/* An error object is at the top of the stack: keep it in the state's environment as what went wrong (popped). who: a
 * serializer's name, doing: "mmwrite". */
int tarn__failure_catch(lua_State *L, tarn__failure_t *f, int state, const char *who,
                        const char *doing);

/* Give back a block's reference and mapping. */
static inline void tarn__block_give(tarn_block_t *b) {
  tarn_block_unmap(b);
  tarn_block_release(b);
}

/* ---- encoding ---- */

typedef struct tarn__encoder {
  tarn__codec_t *codec;  /* borrowed */
  tarn_buf_t out;        /* the skeleton */
  tarn__tables_t tables; /* tables met */
  tarn__seen_t seen;     /* functions, typed values that are no tables; upvalues; DRefs; blocks */
  uint32_t made, upvalue_count;
  uint32_t depth;
  bool backrefs;
  bool names_checked;
  bool keep_refs; /* false: DRefs are refused (files) */
  bool
      plain; /* what a head would have to say is refused before anything is called or copied for it */
  int self;         /* stack index of this userdata in the running C function's frame */
  uint32_t writing; /* calls of mmwrite under way */
  uint32_t written; /* values written by the innermost of them */
  int anchored;     /* values anchored in the environment */
  tarn_image_serializer_t *serializers; /* owned; the names belong to strings in the environment */
  uint32_t serializer_count, serializer_capacity;
  tarn_image_ref_t *refs; /* owned */
  uint32_t ref_count, ref_capacity;
  tarn_block_t **blocks; /* owned; each retained and mapped */
  uint32_t block_count, block_capacity;
  tarn__failure_t failure;
} tarn__encoder_t;

#define TARN__ENCODER_METATABLE "tarn.encoder"
tarn__encoder_t *tarn__encoder_begin(lua_State *L); /* pushes it */
/* Before a name is looked up: once a call. */
void tarn__encoder_check_names(tarn__encoder_t *e, lua_State *L);
void tarn__encoder_end(lua_State *L, tarn__encoder_t *e,
                       int index); /* empty it, keep it for the next call */
void tarn__encoder_release(tarn__encoder_t *e);
/* Write the value at (absolute) index. */
int tarn__encode_value(tarn__encoder_t *e, lua_State *L, int index);
int tarn__encode_function(tarn__encoder_t *e, lua_State *L, int index);
int tarn__encode_table(tarn__encoder_t *e, lua_State *L, int index);
/* What a table holds, by lua_next; the table itself has been numbered. */
int tarn__encode_walk(tarn__encoder_t *e, lua_State *L, int index);
int tarn__encode_changed(tarn__encoder_t *e); /* a table, meanwhile */
/* The key at key_index is the step of the path that failed. */
void tarn__encode_step_key(tarn__encoder_t *e, lua_State *L, int key_index);
/* What travels by name: the payload, or the serializer whose metatable it is, is at the top of the stack. */
int tarn__encode_name(tarn__encoder_t *e, lua_State *L);
/* The value at index with the serializer at the top of the stack (popped). */
int tarn__encode_typed(tarn__encoder_t *e, lua_State *L, int index);
/* The environment of the encoder, pushed; made at first use. */
void tarn__encoder_environment(tarn__encoder_t *e, lua_State *L);
/* A function or typed value: *again when it was met before (then the back-reference has been written). */
int tarn__encode_identity(tarn__encoder_t *e, const void *address, bool *again);
/* Write an ext whose length is not known yet; *mark goes to close. */
int tarn__encode_open(tarn__encoder_t *e, int8_t type, size_t *mark);
int tarn__encode_close(tarn__encoder_t *e, size_t mark);
int tarn__encode_uint_ext(tarn__encoder_t *e, int8_t type, uint32_t v);
int tarn__encode_ref(tarn__encoder_t *e, lua_State *L, int index, tarn_ref_t *ref);
int tarn__encode_block(tarn__encoder_t *e, tarn_block_t *b); /* retains and maps it if it is new */
/* Make room for one more in an array of the encoder's. */
int tarn__encoder_grow(void **array, uint32_t count, uint32_t *capacity, size_t item_bytes);
int tarn__encode_out_of_memory(tarn__encoder_t *e, int rc);
static inline int tarn__encode_not_plain(tarn__encoder_t *e) {
  return tarn__failure_set(&e->failure, TARN__NOT_SERIALIZABLE, "a value that needs a head");
}

/* The methods of `out`, for lua/tarn/serializer.lua to complete: pushes the table. */
void tarn__encoder_methods(lua_State *L);

/* ---- decoding ---- */

typedef struct tarn__upvalue {
  uint32_t made;   /* the function, by its number */
  uint32_t number; /* the upvalue in it, from 1 */
} tarn__upvalue_t;

typedef struct tarn__decoder {
  tarn__codec_t *codec;
  tarn_mp_reader_t in;
  uint64_t pending; /* values that open arrays and maps still expect: each takes a byte at least */
  tarn_image_t image;
  const uint8_t *bytes;  /* contiguous image, or null */
  tarn_value_t *value;   /* or the value; borrowed */
  tarn_block_t **blocks; /* for bytes: made at first use, each retained and mapped; owned */
  uint64_t *offsets;     /* of the blocks in bytes; owned */
  uint32_t flags, depth;
  uint32_t from; /* the process that the bytes came from; 0: not known */
  uint32_t made;
  int self, made_index; /* stack indices in the running C function's frame */
  uint32_t reading;     /* calls of mmread under way */
  uint32_t version;     /* of the serializer that wrote what is being read */
  uint32_t serializer_count;
  tarn__upvalue_t *upvalues; /* owned */
  uint32_t upvalue_count, upvalue_capacity;
  tarn__failure_t failure;
} tarn__decoder_t;

#define TARN__DECODER_METATABLE "tarn.decoder"
void tarn__decoder_release(tarn__decoder_t *d);
int tarn__decode_value(tarn__decoder_t *d,
                       lua_State *L); /* pushes one value, or nothing on failure */
int tarn__decode_function(tarn__decoder_t *d, lua_State *L);
int tarn__decode_typed(tarn__decoder_t *d, lua_State *L);
int tarn__decode_name(tarn__decoder_t *d, lua_State *L);
int tarn__decode_corrupt(tarn__decoder_t *d, const char *what);
/* Number the object at the top of the stack. */
void tarn__decode_made(tarn__decoder_t *d, lua_State *L);
void tarn__decoder_methods(lua_State *L);

/* ---- functions that come again (codec_kept.c) ---- */

/* Push a function of that bytecode, with the usual environment and so many upvalues, without loading it anew: the one that was loaded before,
 * or, if it has upvalues, a closure of its own. False, and nothing pushed: it has to be loaded. */
bool tarn__kept_push(lua_State *L, const uint8_t *code, uint32_t length, uint32_t upvalues);
/* The function at index has been loaded: give it the usual environment, and keep it if it can be. */
void tarn__kept_put(lua_State *L, int index, const uint8_t *code, uint32_t length,
                    uint32_t upvalues);
/* Upvalue `number` of the function at index becomes a new variable, nil. */
void tarn__kept_variable(lua_State *L, int index, int number);

/* ---- files (codec_file.c) ---- */
int tarn__codec_save(lua_State *L);   /* lua_CFunction: path, value */
int tarn__codec_load(lua_State *L);   /* lua_CFunction: path, options */
int tarn__value_decode(lua_State *L); /* lua_CFunction: a light userdata's value, decode flags */

/* Encode with DRefs refused. */
tarn_encoded_t *tarn__codec_encode_for_file(lua_State *L, int index);

/* ---- core's functions (codec_lua.c) ---- */
#define TARN_ENCODED_METATABLE "tarn.encoded"
void tarn__codec_open_functions(lua_State *L, int core);
/* Arguments of core's functions; ArgumentError when they are something else. */
const char *tarn__check_text(lua_State *L, int index, const char *what, size_t *size);

#endif
