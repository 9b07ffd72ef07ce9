/* Pool objects in Lua. A live value is anchored (anchors.c); a value that has an image is only remembered weakly, so that the owner gets
 * the same Lua object while there is one. Lua thread only, but for tarn_drops_add. */
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include "base/alloc.h"
#include "base/log.h"
#include "bind.h"
#include "codec.h"
#include "file-private.h"
#include "service/service.h"

enum { MAX_ROUNDS = 10000, DROPS_KEPT = 1000, SCRUBBED_SLOTS = 200 };

/* ---- objects that are gone: ids and tags that any thread puts here ---- */

typedef struct ids {
  uint64_t *ids; /* owned */
  size_t count, capacity;
} ids_t;

struct tarn_drops {
  pthread_mutex_t mutex;
  ids_t anchors;         /* to be dropped: the tags of live objects */
  ids_t deleted;         /* watched objects */
  atomic_size_t waiting; /* anchors */
};

struct tarn_drops *tarn_drops_create(void) {
  struct tarn_drops *d = tarn_calloc(1, sizeof(*d));
  if (d != NULL) { pthread_mutex_init(&d->mutex, NULL); }
  return d;
}

void tarn_drops_destroy(struct tarn_drops *d) {
  if (d == NULL) { return; }
  pthread_mutex_destroy(&d->mutex);
  tarn_free(d->anchors.ids);
  tarn_free(d->deleted.ids);
  tarn_free(d);
}

static void add(struct tarn_drops *d, ids_t *list, uint64_t id) {
  pthread_mutex_lock(&d->mutex);
  if (list->count == list->capacity) {
    size_t more = list->capacity == 0 ? 64 : list->capacity * 2;
    uint64_t *ids = tarn_realloc(list->ids, more * sizeof(*ids));
    if (ids != NULL) {
      list->ids = ids;
      list->capacity = more;
    }
  }
  if (list->count < list->capacity) {
    list->ids[list->count++] = id;
  } /* else an anchor stays, and a destructor waits for the end of the process: memory, not correctness */
  pthread_mutex_unlock(&d->mutex);
}

void tarn_drops_add(void *user, uint64_t tag) {
  struct tarn_drops *d = user;
  add(d, &d->anchors, tag);
  atomic_fetch_add_explicit(&d->waiting, 1, memory_order_relaxed);
}

void tarn_drops_add_deleted(void *user, uint64_t id) {
  struct tarn_drops *d = user;
  add(d, &d->deleted, id);
}

static uint64_t *take(struct tarn_drops *d, ids_t *list, size_t *count) {
  pthread_mutex_lock(&d->mutex);
  uint64_t *ids = list->ids;
  *count = list->count;
  *list = (ids_t){0};
  pthread_mutex_unlock(&d->mutex);
  return ids;
}

uint64_t *tarn__drops_take_deleted(struct tarn_drops *d, size_t *count) {
  return d != NULL ? take(d, &d->deleted, count) : NULL;
}

static bool any_deleted(struct tarn_drops *d) {
  if (d == NULL) { return false; }
  pthread_mutex_lock(&d->mutex);
  bool any = d->deleted.count > 0;
  pthread_mutex_unlock(&d->mutex);
  return any;
}

/* Push the value of object id, if it is live. touch: it is being used. */
static bool push_live(lua_State *L, const tarn_bind_t *b, uint64_t id, bool touch) {
  uint32_t slot = tarn_pool_live_tag(b->pool, id, touch);
  if (slot != 0) { tarn__anchor_push(L, &b->anchors, slot); }
  return slot != 0;
}

bool tarn__object_push_live(lua_State *L, uint64_t id) {
  return push_live(L, tarn_bind_of(L), id, false);
}

static bool push_cached(lua_State *L, const tarn_bind_t *b, uint64_t id) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->cache);
  lua_pushnumber(L, (double)id);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1)) { return true; }
  lua_pop(L, 1);
  return false;
}

bool tarn__object_push_cached(lua_State *L, uint64_t id) {
  return push_cached(L, tarn_bind_of(L), id);
}

/* cache[id] = the value at the top of the stack, which is popped. */
static void set_cached(lua_State *L, const tarn_bind_t *b, uint64_t id) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->cache);
  lua_insert(L, -2);
  lua_pushnumber(L, (double)id);
  lua_insert(L, -2);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* Strings and numbers are values, not objects: nothing to remember. */
void tarn__object_cache(lua_State *L, uint64_t id, int index) {
  int type = lua_type(L, index);
  if (type == LUA_TNIL || type == LUA_TBOOLEAN || type == LUA_TNUMBER || type == LUA_TSTRING) {
    return;
  }
  lua_pushvalue(L, index);
  set_cached(L, tarn_bind_of(L), id);
}

static void drop_anchors(lua_State *L, tarn_bind_t *b) {
  struct tarn_drops *d = b->drops;
  if (d == NULL) { return; }
  size_t count = 0;
  uint64_t *slots = take(d, &d->anchors, &count);
  atomic_store_explicit(&d->waiting, 0, memory_order_relaxed);
  tarn__anchors_drop(L, &b->anchors, slots, count);
  tarn_free(slots);
}

/* A task that stores and drops without a pause has no boundary at which it would be done. */
static void drop_many_anchors(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  if (b->drops == NULL) { return; }
  if (atomic_load_explicit(&b->drops->waiting, memory_order_relaxed) >= DROPS_KEPT) {
    drop_anchors(L, b);
  }
}

/* ---- encoding ---- */

/* Make a value of what was encoded; its parts are taken out of e. 0 or an error. */
static int value_of(tarn_bind_t *b, tarn_encoded_t *e, tarn_value_t **v, tarn_error_t *err) {
  int rc = tarn_value_create(b->pool, e->front, e->front_size, e->blocks, e->block_count, v, err);
  if (rc == 0) {
    e->front = NULL;
    e->block_count = 0;
    tarn_encoded_clear(e);
    if (b->service != NULL && (rc = tarn_service_guard_value(b->service, *v)) != 0) {
      tarn_value_release(*v);
      *v = NULL;
      tarn_error_set(err, rc, "out of memory for the references of a value");
    }
  }
  return rc;
}

tarn_encoded_t *tarn__object_encode(lua_State *L, uint64_t id, int index) {
  tarn_bind_t *b = tarn_bind_of(L);
  unsigned pid = b->service != NULL ? tarn_service_id(b->service) : 0;
  char what[80];
  snprintf(what, sizeof(what), "object %u:%llu (a %s, stored on process %u)", pid,
           (unsigned long long)id, luaL_typename(L, index), pid);
  return tarn_codec_encode_named(L, index, what);
}

/* Encode the live object id into *v and tell the pool. Raises what encoding raises. */
static int encode_live(lua_State *L, uint64_t id, tarn_value_t **v, tarn_error_t *err) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint64_t slot = tarn_pool_live_tag(b->pool, id, false);
  if (slot == 0) {
    return tarn_error_set(err, TARN_ENOENT, "no object %llu", (unsigned long long)id);
  }
  tarn__anchor_push(L, &b->anchors, (uint32_t)slot);
  tarn_encoded_t *e = tarn__object_encode(L, id, -1);
  int rc = value_of(b, e, v, err);
  if (rc == 0) { rc = tarn_pool_encoded(b->pool, id, *v, err); }
  if (rc == 0) {
    tarn__object_cache(L, id, -2);
    tarn__anchors_drop(L, &b->anchors, &slot, 1);
  } else if (*v != NULL) {
    tarn_value_release(*v);
    *v = NULL;
  }
  lua_pop(L, 2);
  return rc;
}

static int encode_protected(lua_State *L) {
  uint64_t id = *(uint64_t *)lua_touserdata(L, 1);
  tarn_value_t *v = NULL;
  tarn_error_t err = {0};
  int rc = encode_live(L, id, &v, &err);
  if (v != NULL) { tarn_value_release(v); }
  if (rc != 0 && rc != TARN_ENOENT) { tarn_bind_raise(L, &err); }
  return 0;
}

/* Why the object stays in memory is at the top of the stack: said with the PoolFull that may come of it. */
static void remember_stuck(lua_State *L, tarn_bind_t *b, uint64_t id) {
  const char *why = lua_tostring(L, -1);
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "message");
    why = lua_tostring(L, -1);
    lua_pop(L, 1); /* the error keeps it */
  }
  b->stuck = id;
  snprintf(b->why_stuck, sizeof(b->why_stuck), "%s", why != NULL ? why : "it cannot be encoded");
  tarn_log(TARN_LOG_DEBUG, "object %llu stays in memory: %s", (unsigned long long)id, b->why_stuck);
}

/* The pool is full: if there is an object that cannot be written to disk, say so. */
static void explain_stuck(const tarn_bind_t *b, tarn_error_t *err) {
  uint64_t size, needed = err->needed, available = err->available;
  if (err->code != TARN_EPOOLFULL || b->stuck == 0 ||
      tarn_pool_size_of(b->pool, b->stuck, &size) != 0) {
    return;
  }
  char text[TARN_ERROR_TEXT];
  snprintf(text, sizeof(text), "%s", err->message);
  tarn_error_set(err, TARN_EPOOLFULL, "%s; one that cannot be written to disk: %s", text,
                 b->why_stuck);
  (void)tarn_error_bytes(err, needed, available);
}

bool tarn_bind_make_room(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  if (b->making_room) { return false; }
  b->making_room = true;
  uint64_t id = 0;
  while (tarn_pool_next_live(b->pool, &id) == 1) {
    if (lua_cpcall(L, encode_protected, &id) == 0) { continue; }
    remember_stuck(L, b, id);
    lua_pop(L, 1);
    tarn_pool_pin_live(b->pool, id);
  }
  b->making_room = false;
  return true;
}

bool tarn__room_again(lua_State *L, tarn__room_try_t *t, int rc, tarn_error_t *err) {
  if (rc == TARN_ENEEDLUA && t->rounds++ < MAX_ROUNDS && tarn_bind_make_room(L)) { return true; }
  bool for_room =
      rc == TARN_EPOOLFULL || rc == TARN_EDISKFULL || rc == TARN_ENEEDLUA || rc == TARN_EAGAIN;
  if (for_room && !t->collected) { /* dead views hold blocks */
    t->collected = true;
    lua_gc(L, LUA_GCCOLLECT, 0);
    tarn_ref_delete_unused(tarn_bind_of(L));
    tarn_pool_boundary(tarn_bind_of(L)->pool);
    if (tarn_bind_of(L)->service != NULL) { tarn_service_settle_refs(tarn_bind_of(L)->service); }
    return true;
  }
  if (rc == TARN_ENEEDLUA || rc == TARN_EAGAIN) {
    uint64_t needed = err->needed, available = err->available;
    tarn_error_set(err, TARN_EPOOLFULL, "no room: what fills the pool cannot be moved to disk");
    (void)tarn_error_bytes(err, needed, available);
  }
  explain_stuck(tarn_bind_of(L), err);
  return false;
}

/* Overwrite what ended calls have left on the stack: the collector takes for alive whatever lies within a frame, and the frames of the next
 * turn would come to lie over it. (task.lua does the same for coroutines.) */
static void scrub(lua_State *L) {
  int top = lua_gettop(L);
  if (lua_checkstack(L, SCRUBBED_SLOTS)) { lua_settop(L, top + SCRUBBED_SLOTS); }
  lua_settop(L, top);
}

void tarn_bind_boundary(tarn_bind_t *b) {
  scrub(b->L);
  tarn_ref_delete_unused(b);
  tarn_pool_boundary(b->pool);
  drop_anchors(b->L, b);
  if (any_deleted(b->drops)) { (void)tarn_bind_boot(b, "deleted"); }
  (void)tarn_bind_make_room(b->L);
}

static int raise_missing(lua_State *L, uint64_t id) {
  tarn_bind_t *b = tarn_bind_of(L);
  char text[64];
  snprintf(text, sizeof(text), "%u:%llu", b->service != NULL ? tarn_service_id(b->service) : 0,
           (unsigned long long)id);
  return tarn_bind_raise_kind(L, TARN_ENOENT, "no object %s (deleted, or dropped under pressure)",
                              text);
}

void tarn__object_check(lua_State *L, int rc, tarn_error_t *err, uint64_t id) {
  if (rc == 0) { return; }
  if (rc == TARN_ENOENT) { raise_missing(L, id); }
  char path[PATH_MAX];
  bool in_file = rc == TARN_EIO || rc == TARN_ECORRUPT;
  if (in_file && tarn_pool_saved_path(tarn_bind_of(L)->pool, id, path, sizeof(path)) == 0) {
    tarn__file_raise(L, path, err);
  }
  if (err->code == 0) { tarn_error_set(err, rc, "%s", tarn_error_text(rc)); }
  tarn_bind_raise(L, err);
}

tarn_value_t *tarn__object_value(lua_State *L, uint64_t id, uint32_t flags) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn__room_try_t t = {0};
  tarn_value_t *v = NULL;
  tarn_error_t err;
  int rc;
  do {
    err = (tarn_error_t){0};
    rc = tarn_pool_get(b->pool, id, tarn__room_flags(&t) | flags, &v, &err);
  } while (rc != 0 && tarn__room_again(L, &t, rc, &err));
  tarn__object_check(L, rc, &err, id);
  return v;
}

tarn_value_t *tarn_object_export(lua_State *L, uint64_t id, uint32_t flags) {
  tarn_error_t err = {0};
  tarn_value_t *v = tarn__object_value(L, id, flags);
  if (v == NULL) { tarn__object_check(L, encode_live(L, id, &v, &err), &err, id); }
  return v;
}

/* ---- core.pool_* ---- */

int tarn__raise_moved(lua_State *L, int rc, tarn_place_t at) {
  tarn_error_t err = {0};
  if (rc == TARN_EMOVED) {
    tarn_service_moved_error(&err, at);
  } else {
    tarn_error_set(&err, rc, "%s", tarn_error_text(rc));
  }
  return tarn_bind_raise(L, &err);
}

uint64_t tarn__object_own_id(lua_State *L) {
  tarn_ref_t *r = tarn_ref_test(L, 1);
  if (r == NULL) { luaL_typerror(L, 1, "DRef"); }
  uint64_t id = tarn_ref_local(L, r);
  if (id == 0) { /* no object is 0 */
    tarn_place_t at = {0};
    int rc = tarn_service_ref_find(tarn_bind_of(L)->service, r->origin, r->id, &id, &at);
    if (rc != 0) { tarn__raise_moved(L, rc, at); }
  }
  return id;
}

uint64_t tarn_object_store(lua_State *L, tarn_value_t *v, uint32_t flags) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn__room_try_t t = {0};
  tarn_error_t err;
  uint64_t id = 0;
  int rc;
  do {
    err = (tarn_error_t){0};
    rc = tarn_pool_set_value(b->pool, v, tarn__room_flags(&t) | flags, &id, &err);
  } while (rc != 0 && tarn__room_again(L, &t, rc, &err));
  tarn_value_release(v);
  tarn__object_check(L, rc, &err, 0);
  return id;
}

/* Store the value at index 1 as its image. An error is raised; why: what it says of the value, null for nothing. */
static uint64_t set_encoded(lua_State *L, uint32_t flags, const char *why) {
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  tarn_encoded_t *e = tarn_codec_encode_named(L, 1, why);
  tarn__object_check(L, value_of(tarn_bind_of(L), e, &v, &err), &err, 0);
  lua_pop(L, 1);
  uint64_t id = tarn_object_store(L, v, flags);
  tarn__object_cache(L, id, 1);
  return id;
}

void tarn__object_push_new(lua_State *L, tarn_value_t *v, uint32_t flags) {
  tarn_value_retain(v);
  tarn_ref_push_new(L, tarn_object_store(L, v, flags), tarn_value_size(v));
}

/* Store it as it is. 0: it has no room as long as it is live (its image might, on the disk). */
static uint64_t set_live(lua_State *L, uint32_t flags, uint64_t size) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_error_t err = {0};
  uint64_t id = 0;
  uint64_t slot = tarn__anchor_add(L, &b->anchors, 1);
  int rc = TARN_ENOMEM;
  while (slot != 0) {
    rc = tarn_pool_set_live(b->pool, size, flags | TARN_BLOCK_SOON, (uint32_t)slot, &id, &err);
    if (rc != TARN_ENEEDLUA || !tarn_bind_make_room(L)) { break; }
  }
  if (rc != 0 && slot != 0) { tarn__anchors_drop(L, &b->anchors, &slot, 1); }
  if (rc == TARN_EPOOLFULL || rc == TARN_ENEEDLUA) { return 0; }
  tarn__object_check(L, rc, &err, 0);
  return id;
}

/* pool_set(x, flags, size) -> DRef. size: what the user says that x takes; nil: approx_size. */
static int pool_set(lua_State *L) {
  luaL_checkany(L, 1);
  drop_many_anchors(L);
  uint32_t flags = TARN_BLOCK_WAIT | ((uint32_t)luaL_optinteger(L, 2, 0) << 8);
  double said = luaL_optnumber(L, 3, -1);
  lua_settop(L, 1);
  bool typed = false;
  uint64_t size = tarn_codec_approx_size(L, 1, &typed), id = 0;
  if (said >= 0) { size = (uint64_t)said; }
  /* Typed: its bytes are in blocks already, the image costs next to nothing, and C alone can serve and spill it. A nil has no place in a table. */
  if (!typed && !lua_isnil(L, 1)) { id = set_live(L, flags, size); }
  if (id == 0) {
    id = set_encoded(L, flags, typed ? NULL : "a value that must go to disk, for lack of memory");
  }
  tarn_ref_push_new(L, id, size);
  return 1;
}

/* Push the value of object id, which is ours. */
static int push_own_value(lua_State *L, tarn_bind_t *b, uint64_t id) {
  if (push_live(L, b, id, true)) { return 1; }
  if (push_cached(L, b, id)) {
    tarn_error_t err; /* not cleared as a whole: it is hardly ever looked at */
    err.code = 0;
    int rc = tarn_pool_touch(b->pool, id, &err);
    if (rc != 0) { tarn__object_check(L, rc, &err, id); }
    return 1;
  }
  tarn_value_t **box = tarn__value_box(L); /* decoding may raise */
  *box = tarn__object_value(L, id, 0);
  if (*box == NULL) {
    raise_missing(L, id);
  } /* live, and its anchor is gone: deleted a moment ago */
  tarn_codec_decode_value(L, *box, 0);
  tarn__object_cache(L, id, -1);
  tarn__value_box_clear(box);
  return 1;
}

static int pool_get(lua_State *L) {
  return push_own_value(L, tarn_bind_of(L), tarn__object_own_id(L));
}

/* Can an object that is gone from the pool come back? */
static bool may_return(lua_State *L, const tarn_ref_t *r, uint64_t id) {
  const tarn_bind_t *b = tarn_bind_of(L);
  uint64_t size;
  return r->held != NULL && tarn_service_ref_recorded(b->service, r->origin, r->id) &&
         tarn_pool_size_of(b->pool, id, &size) == TARN_ENOENT;
}

/* pool_get_here(x) -> true and the value, when x is a DRef to an object of ours; else false: the one call of the commonest case. False also
 * for one that has no value, but a record by which it can be had again. */
static int pool_get_here(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  const tarn_ref_t *r = tarn_ref_test(L, 1);
  uint64_t id = r != NULL ? tarn_ref_local(L, r) : 0;
  bool is_here = id != 0 && !may_return(L, r, id);
  lua_pushboolean(L, is_here);
  return is_here ? 1 + push_own_value(L, b, id) : 1;
}

static int pool_delete(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  const tarn_ref_t *r = tarn_ref_test(L, 1);
  bool ours = r != NULL && r->held != NULL && tarn_ref_owner(r) == tarn_service_id(b->service);
  if (ours && tarn_ref_local(L, r) == 0) { return 0; } /* it has no value */
  uint64_t id = tarn__object_own_id(L);
  uint32_t slot = tarn_pool_live_tag(b->pool, id, false);
  (void)tarn_pool_delete(b->pool, id);
  if (slot != 0) { tarn__anchor_empty(L, &b->anchors, slot); }
  lua_pushnil(L);
  set_cached(L, b, id);
  return 0;
}

static int pool_size(lua_State *L) {
  uint64_t id = tarn__object_own_id(L), size = 0;
  tarn_error_t err = {0};
  tarn__object_check(L, tarn_pool_size_of(tarn_bind_of(L)->pool, id, &size), &err, id);
  lua_pushnumber(L, (double)size);
  return 1;
}

static int pool_destroy_on_evict(lua_State *L) {
  uint64_t id = tarn__object_own_id(L);
  tarn_error_t err = {0};
  tarn__object_check(
      L, tarn_pool_set_destroy_on_evict(tarn_bind_of(L)->pool, id, lua_toboolean(L, 2)), &err, id);
  return 0;
}

static int pool_evict(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  uint64_t id = tarn__object_own_id(L);
  tarn_error_t err = {0};
  int rc = tarn_pool_evict(b->pool, id, &err);
  if (rc == TARN_ENEEDLUA) {
    tarn_value_release(tarn_object_export(L, id, 0));
    rc = tarn_pool_evict(b->pool, id, &err);
  }
  tarn__object_check(L, rc, &err, id);
  return 0;
}

/* A figure in bytes; no limit is infinite. */
static void push_figure(lua_State *L, uint64_t v) {
  lua_pushnumber(L, v == UINT64_MAX ? HUGE_VAL : (double)v);
}

static int pool_limits(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_ref_delete_unused(b);
  uint64_t limit[2];
  const uint64_t *set[2] = {NULL, NULL};
  for (int i = 0; i < 2; i++) {
    if (!lua_isnoneornil(L, i + 1)) {
      double n = luaL_checknumber(L, i + 1);
      if (!(n >= 0)) { tarn_bind_raise_kind(L, TARN_EINVAL, "a size in bytes is needed"); }
      limit[i] = n < 1.8e19 ? (uint64_t)n : UINT64_MAX;
      set[i] = &limit[i];
    }
  }
  tarn_pool_set_limits(b->pool, set[0], set[1]);
  (void)tarn_bind_make_room(L);
  tarn_pool_stats_t s;
  tarn_pool_get_stats(b->pool, &s);
  push_figure(L, s.max_memsize);
  push_figure(L, s.max_disksize);
  return 2;
}

static int pool_stats(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_ref_delete_unused(b);
  uint64_t lua_bytes =
      (uint64_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (uint64_t)lua_gc(L, LUA_GCCOUNTB, 0);
  tarn_figure_t figures[TARN_FIGURES];
  tarn_service_figures(b->pool, b->service, lua_bytes, figures);
  lua_createtable(L, 0, TARN_FIGURES);
  for (size_t i = 0; i < TARN_FIGURES; i++) {
    push_figure(L, figures[i].value);
    lua_setfield(L, -2, figures[i].name);
  }
  return 1;
}

static int pool_clear(lua_State *L) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_pool_clear(b->pool);
  drop_anchors(L, b);
  return 0;
}

void tarn_objects_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"pool_set", pool_set},
                                       {"pool_get", pool_get},
                                       {"pool_get_here", pool_get_here},
                                       {"pool_delete", pool_delete},
                                       {"pool_size", pool_size},
                                       {"pool_evict", pool_evict},
                                       {"pool_limits", pool_limits},
                                       {"pool_stats", pool_stats},
                                       {"pool_clear", pool_clear},
                                       {"pool_destroy_on_evict", pool_destroy_on_evict},
                                       {NULL, NULL}};
  tarn_bind_t *b = tarn_bind_of(L);
  b->cache = tarn__new_table(L, "v");
  luaL_register(L, NULL, functions);
}
