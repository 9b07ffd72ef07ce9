/* What the rooms to the left (host) see of the Lua bindings, and what the files of bind/ share. */
#ifndef TARN_BIND_BIND_H
#define TARN_BIND_BIND_H

#include <lua.h>
#include <stdbool.h>
#include "base/map.h"
#include "pool/pool.h"

struct tarn_service;
struct tarn_event;

/* What the host does for the bindings. All on the Lua thread. */
typedef struct tarn_bind_host {
  void (*enter)(void *user); /* take the baton and flush the outbox */
  void (*turn)(
      void
          *user); /* run the service loop once, blocking, and flush; only between enter and leave */
  void (*leave)(void *user);          /* put the baton down */
  void (*queued)(void *user);         /* a message is in the outbox; outside of enter and leave */
  void (*exit)(void *user, int code); /* end the host's loop after this turn */
  const char *exe;                    /* the program, for workers; borrowed */
  void *user;
} tarn_bind_host_t;

/* Values of live objects; a slot is the object's tag in the pool (anchors.c). */
typedef struct tarn__anchors {
  int table;           /* registry: slot -> value */
  uint32_t *free;      /* owned: slots to be used again */
  uint32_t free_count; /* in free */
  uint32_t used;       /* slots ever used */
  uint32_t capacity;   /* of free */
} tarn__anchors_t;

enum { TARN__UNUSED = 128 };

/* The context of one Lua state, kept in its registry. */
typedef struct tarn_bind {
  lua_State *L;                 /* the main state */
  tarn_pool_t *pool;            /* borrowed */
  struct tarn_service *service; /* borrowed; null in a state without one (unit specs) */
  tarn_bind_host_t host;        /* all null in a state without one */
  struct tarn_event *current;   /* the event being dispatched; borrowed */
  struct tarn_drops *drops;     /* owned: live objects whose anchors must go (objects.c) */
  tarn__anchors_t anchors;      /* values of live objects */
  int cache;                    /* registry: id -> value, weak (objects.c) */
  int ref_metatable, refs;      /* registry: the DRefs' metatable; those that are shared (ref.c) */
  const void *ref_metatable_at; /* its address */
  struct tarn_block *handed;    /* mapped, on its way to a view (block.c); owned */
  double owed_kib;              /* of the heap, to be collected later (block.c) */
  bool making_room;             /* live values are being encoded */
  uint64_t stuck;               /* the last object that could not be, for a PoolFull; 0: none */
  char why_stuck[TARN_ERROR_TEXT];
  uint64_t unused
      [TARN__UNUSED]; /* objects of ours whose only ref has been collected, to be deleted (ref.c) */
  size_t unused_count;
  uint64_t unused_bytes; /* what they take, about */
} tarn_bind_t;

tarn_bind_t *tarn_bind_of(lua_State *L);
/* A new table in the registry, with that __mode (null: an ordinary one): its number there. */
int tarn__new_table(lua_State *L, const char *mode);
/* Make the context and package.preload["tarn.core"]. tarn_bind_close frees what is not the collector's: after lua_close. Raises only for lack
 * of memory: call it protected. */
tarn_bind_t *tarn_bind_open(lua_State *L, tarn_pool_t *pool, struct tarn_service *service,
                            const tarn_bind_host_t *host);
void tarn_bind_close(tarn_bind_t *b);

/* [any] For tarn_pool_config_t.on_drop_live; user is what tarn_drops_create gave (it must exist before the pool does). */
struct tarn_drops *tarn_drops_create(void);
void tarn_drops_destroy(struct tarn_drops *d);
void tarn_drops_add(void *drops, uint64_t tag);
/* [any] The same for on_deleted. */
void tarn_drops_add_deleted(void *drops, uint64_t id);

/* Lua thread, between tasks: put-off unmappings, dropped anchors, live values that the pool wants encoded. */
void tarn_bind_boundary(tarn_bind_t *b);
/* Collect all garbage and put back the blocks that dead views held. */
void tarn_bind_collect(tarn_bind_t *b);
/* A mapping, the caller's until now, for the view that takes it out of b->handed (lua/tarn/block.lua). One that none took, for lack of
 * memory for the pointer, is given back here. */
void tarn_bind_hand(tarn_bind_t *b, struct tarn_block *mapped);
/* So many bytes of blocks have got a view: LuaJIT's collector, which cannot see them, goes on by as much. */
void tarn_bind_feed(lua_State *L, uint64_t bytes);
/* The same for what another process owns and has lent: the collection is owed, for when there is nothing else to do. */
void tarn_bind_feed_later(lua_State *L, uint64_t bytes);
bool tarn_bind_owes(const tarn_bind_t *b);
/* Some of what is owed, for 0.1 ms or as long as the collector's smallest step takes. Between tasks, where finalizers may run. */
void tarn_bind_collect_owed(tarn_bind_t *b);
/* The same for count mappings of a file: what they cost is a mapping each, whatever their size, so dead ones are collected by their number. */
void tarn_bind_feed_mapped(lua_State *L, uint64_t bytes, uint32_t count);
/* One event, to Lua's dispatcher (or to the bindings' own methods). The event stays the caller's. Never raises. */
void tarn_bind_dispatch(tarn_bind_t *b, struct tarn_event *e);
/* Call function name of the module tarn.boot; protected, traceback logged. -1: it raised; else its first result as 0 or 1. */
int tarn_bind_boot(tarn_bind_t *b, const char *name);

/* ---- errors (error.c): a tarn error is a table {kind, message, pid, traceback, path, needed, available, cause} with the metatable
 * that lua/tarn/errors.lua registers under this registry key ---- */
#define TARN_ERROR_METATABLE "tarn.error"
/* Registry: a list of prefixes of chunk names ("@/.../lua/tarn/") that are tarn's own: an error's position is the first caller outside. */
#define TARN_OWN_SOURCES "tarn.own_sources"
bool tarn_bind_own_source(lua_State *L, const char *source);
void tarn_bind_push_error(lua_State *L, const tarn_error_t *err);
void tarn_bind_push_position(
    lua_State *L); /* "file:line: " of the user's line that led here, or "" */
void tarn_bind_add_position(
    lua_State *L, int index); /* prefix the error's message with the user's line that led here */
int tarn_bind_raise(lua_State *L,
                    const tarn_error_t *err); /* never returns; position of the Lua caller added */
int tarn_bind_raise_kind(lua_State *L, int code, const char *fmt,
                         ...); /* lua_pushvfstring's formats */

/* ---- references (ref.c) ---- */
#define TARN_REF_METATABLE "tarn.DRef"
struct tarn_held;
typedef struct tarn_ref {
  uint64_t id;   /* its number where it was made */
  uint64_t size; /* bytes, as approx_size had it */
  struct tarn_held
      *held; /* with one of its uds; null: ours and known to nobody else (or there is no service) */
  uint32_t origin;   /* the process that made the object */
  bool private_here; /* ours, and never left the process: its end is the object's end */
} tarn_ref_t;
/* The DRef at index, or null when it is something else. */
tarn_ref_t *tarn_ref_test(lua_State *L, int index);
/* Push the one userdata for this object (the same one while it is alive). owner: where it is, if nothing better is known here. */
void tarn_ref_push(lua_State *L, uint32_t origin, uint64_t id, uint64_t size, uint32_t owner);
/* The same for an object of ours that has just been stored, and that nobody else knows. */
void tarn_ref_push_new(lua_State *L, uint64_t id, uint64_t size);
/* The ref at index is being written into bytes that may leave the process, and come back. */
void tarn_ref_exported(lua_State *L, int index);
/* Where the object is now. */
uint32_t tarn_ref_owner(const tarn_ref_t *ref);
/* Its number in our pool; 0: it is another process's. */
uint64_t tarn_ref_local(lua_State *L, const tarn_ref_t *ref);
/* Let go of what the ref at index holds, before it is collected: it must not be used any more. */
void tarn_ref_release(lua_State *L, int index);

/* Delete what the collector has found to be unused: it finds much at a time, so that is done for many at once. Before anybody looks at the pool's
 * figures, and when nothing may come for long. */
void tarn_ref_delete_unused(tarn_bind_t *b);

/* Adds core.ref_methods and the metatable. Core table at the top of the stack. */
void tarn_ref_open(lua_State *L);

/* ---- live values (anchors.c) ---- */
void tarn__anchors_open(lua_State *L);
void tarn__anchors_close(tarn__anchors_t *a);
/* Anchor the value at index: its slot, from 1 on; 0: no memory. */
uint32_t tarn__anchor_add(lua_State *L, tarn__anchors_t *a, int index);
void tarn__anchor_push(lua_State *L, const tarn__anchors_t *a, uint32_t slot);
/* Let go of the value, and keep the slot: until the pool says that its object is gone. */
void tarn__anchor_empty(lua_State *L, const tarn__anchors_t *a, uint32_t slot);
void tarn__anchors_drop(lua_State *L, tarn__anchors_t *a, const uint64_t *slots, size_t count);

/* ---- objects (objects.c) ---- */
void tarn_objects_open(lua_State *L);
/* Encode live values while the pool wants it. Lua thread, may run serializers; never raises. On the state that asks, which is the running
 * coroutine's. False: it is under way already, and a serializer asks. */
bool tarn_bind_make_room(lua_State *L);
/* A pool call has answered rc: true when room has been made and the call is worth another try. False: *err is what to raise. */
typedef struct tarn__room_try {
  bool collected;
  uint32_t rounds;
} tarn__room_try_t; /* begins as zeros */
bool tarn__room_again(lua_State *L, tarn__room_try_t *t, int rc, tarn_error_t *err);
/* For the flags of each try: garbage may hold what messages that leave would bring, and is collected sooner. */
static inline uint32_t tarn__room_flags(const tarn__room_try_t *t) {
  return TARN_BLOCK_WAIT | (t->collected ? 0 : TARN_BLOCK_SOON);
}
/* Store v (one reference, taken over) making room as need be: its id. Raises PoolFull, DiskFull, IOError. */
uint64_t tarn_object_store(lua_State *L, tarn_value_t *v, uint32_t flags);
/* Raise that an object is elsewhere (TARN_EMOVED; who asked us for it repeats that there), or nowhere. */
struct tarn_place;
int tarn__raise_moved(lua_State *L, int rc, struct tarn_place at);
/* Export: the value of object id, encoded now if it is live. flags: of tarn_pool_get. Raises KeyError, NotSerializable, Corrupt. One reference, the caller's. */
tarn_value_t *tarn_object_export(lua_State *L, uint64_t id, uint32_t flags);

/* ---- messages (messages.c), processes (processes.c) ---- */
void tarn_messages_open(lua_State *L);
void tarn_processes_open(lua_State *L);
void tarn_http_open(
    lua_State *L); /* http.c: its function into the core table at the top of the stack */
/* Keep core.members() up to date: pid has come, or is gone. */
void tarn__member_note(lua_State *L, uint32_t pid, bool is, int64_t os_pid);
/* A request that needs the Lua thread but no Lua code: the function that answers it, or null. */
lua_CFunction tarn__native_method(const struct tarn_event *e);
/* A request to a method that C serves: its parameters (released here), built with rc, and a value after them (taken over; may be empty). Pushes the
 * msgid; the response is one value. Raises PoolFull for lack of memory. */
struct tarn_buf;
struct tarn_payload;
int tarn__plain_request(lua_State *L, uint32_t pid, const char *method, struct tarn_buf *params,
                        int rc, struct tarn_payload with);
void tarn__many_open(lua_State *L); /* many.c: its functions, likewise */
void tarn__migrate_open(
    lua_State *L); /* migrate.c: its functions into the core table at the top of the stack */
void tarn__line_open(lua_State *L); /* line.c: core.line_* */
/* Answer the present request with the error at index 1. */
int tarn__reply_failure(lua_State *L);

/* ---- userdata.c ---- */
/* Push a zeroed userdata with that metatable of the registry, which is made with the first of them: gc is all it has. gc is null where the metatable is
 * a class. */
void *tarn__userdata_new(lua_State *L, size_t size, const char *metatable, lua_CFunction gc);
/* The userdata at index if it has that metatable of the registry, else null. */
void *tarn__userdata_test(lua_State *L, int index, const char *metatable);
struct luaL_Reg;
/* Make that metatable, in which the userdata find these methods. */
void tarn__class_open(lua_State *L, const char *metatable, const struct luaL_Reg *methods);

/* ---- blocks for Lua (block.c) ---- */
/* A new block for Lua, making room as need be: encodes live values where only they are left. Raises PoolFull, DiskFull, IOError.
 * One reference and one mapping, the caller's: hand it at once to something that releases it. */
tarn_block_t *tarn_bind_block_create(lua_State *L, uint64_t size, bool zero);
/* The same for memory that is given back by hand: the collector, which will not find it, is not fed. */
tarn_block_t *tarn_bind_scratch_create(lua_State *L, uint64_t size, bool zero);

#endif
