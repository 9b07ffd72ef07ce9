/* Objects: what poolset made, by id. Live ones are known by their size alone. Any thread. */
#include <assert.h>
#include "pool/pool-private.h"

tarn__object_t *tarn__object_new(tarn_pool_t *pool, uint32_t flags) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_new_locked(pool, flags);
  tarn__pool_unlock(pool);
  return o;
}

tarn__object_t *tarn__object_new_locked(tarn_pool_t *pool, uint32_t flags) {
  tarn__object_t *o = tarn__slab_take(&pool->slab);
  if (!o) { return NULL; }
  tarn_list_init(&o->link);
  o->destroy = ((flags >> 8) & TARN_OBJECT_DESTROY_ON_EVICT) != 0;
  return o;
}

tarn__object_t *tarn__object_find_locked(tarn_pool_t *pool, uint64_t id) {
  return tarn__index_get(&pool->objects, id);
}

int tarn__object_enter_locked(tarn_pool_t *pool, tarn__object_t *o, tarn_error_t *err) {
  o->id = pool->last_id + 1;
  if (tarn__index_add(&pool->objects, o) != 0) {
    return tarn_error_set(err, TARN_ENOMEM, "no memory for an object's record");
  }
  pool->last_id = o->id;
  tarn__age_note(&pool->ages, o->id);
  pool->records += sizeof *o;
  pool->sets++;
  tarn__lru_touch(pool, o);
  return 0;
}

/* Its value is o no more. */
static void leave_value_locked(tarn__object_t *o) {
  tarn_value_t *v = o->value;
  v->object = NULL;
  if (v->loans > 0 && !o->visitor) { tarn__lent_orphan_locked(v); }
}

static void free_run_locked(tarn_pool_t *pool, tarn__object_t *o) {
  if (o->mem) { tarn__small_free_mem_locked(pool, o); }
}

void tarn__object_empty_locked(tarn_pool_t *pool, tarn__object_t *o) {
  if (o->form == TARN__LIVE) {
    pool->live -= o->live_size;
    o->pinned = false;
    return;
  }
  if (o->pack != 0) { tarn__record_leave_locked(pool, o); }
  if (o->form == TARN__VALUE) {
    if (o->value->object == o) { leave_value_locked(o); }
    tarn__value_unhold_locked(o->value);
  } else {
    free_run_locked(pool, o);
  }
}

void tarn__object_free_locked(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__object_empty_locked(pool, o);
  pool->records -= sizeof *o;
  tarn__slab_give(&pool->slab, o);
}

void tarn__object_drop_locked(tarn_pool_t *pool, tarn__object_t *o) {
  if (o->visitor) { tarn__visitor_forget_locked(o); }
  if (o->watched) { tarn__watch_fire_locked(pool, o); }
  tarn__index_remove(&pool->objects, o);
  if (!o->evicting) { tarn__lru_remove(pool, o); }
  if (o->form == TARN__LIVE) {
    tarn__object_empty_locked(pool, o);
    pool->records -= sizeof *o;
    tarn_list_push_back(&pool->dropped, &o->link); /* its anchor goes when the mutex is let go */
  } else if (o->evicting) {
    o->dead = true; /* the spill thread frees it */
    if (o->pack != 0) { tarn__record_leave_locked(pool, o); }
    if (o->form == TARN__VALUE) {
      leave_value_locked(o);
    } else {
      free_run_locked(pool, o);
    }
  } else {
    tarn__object_free_locked(pool, o);
  }
  tarn__pool_changed_locked(pool);
}

void tarn__object_delete_locked(tarn_pool_t *pool, tarn__object_t *o) {
  uint64_t id = o->id;
  tarn__object_drop_locked(pool, o);
  tarn__index_shrink(&pool->objects, id);
}

int tarn_pool_set_live(tarn_pool_t *pool, uint64_t size, uint32_t flags, uint32_t tag, uint64_t *id,
                       tarn_error_t *err) {
  uint64_t need = size > UINT64_MAX / 4 ? UINT64_MAX / 4 : size + sizeof(tarn__object_t);
  tarn__pool_lock(pool);
  int rc = tarn__room_reserve_locked(pool, need, flags, err);
  if (rc == 0) {
    pool->reserved -= need;
    tarn__object_t *o = tarn__object_new_locked(pool, flags);
    if (o) {
      o->live_size = size;
      o->tag = tag;
      rc = tarn__object_enter_locked(pool, o, err);
      if (rc != 0) { tarn__slab_give(&pool->slab, o); }
    } else {
      rc = tarn_error_set(err, TARN_ENOMEM, "no memory for an object's record");
    }
    if (rc == 0) {
      pool->live += size;
      *id = o->id;
    }
  }
  tarn__pool_unlock(pool);
  return rc;
}

/* Bytes of v in memory. */
static uint64_t resident_locked(const tarn_value_t *v) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    if (b->counted) { continue; }
    b->counted = true;
    sum += b->mem ? tarn__heap_charge(b->pub.size) : b->seg ? b->seg->warm : 0;
  }
  for (uint32_t i = 0; i < v->count; i++) { v->pieces[i]->counted = false; }
  return sum;
}

/* Until what is in the pool, v's bytes (which are there already) included, is within the budget; or
 * would be without v, which can be evicted as soon as it is stored. */
static int make_room_locked(tarn_pool_t *pool, const tarn_value_t *v, uint64_t need, uint32_t flags,
                            tarn_error_t *err) {
  tarn__room_t room = {0};
  while (!tarn__room_for(pool, need)) {
    int rc = tarn__room_step_locked(pool, need, flags, &room, err);
    if (rc == 0) { continue; }
    bool alone = rc == TARN_EPOOLFULL && need <= pool->max_memsize &&
                 tarn__budget_used(pool) + need - pool->max_memsize <= resident_locked(v);
    if (!alone) { return rc; }
    if (err) { *err = (tarn_error_t){0}; }
    return 0;
  }
  return 0;
}

int tarn__object_become_locked(tarn__object_t *o, tarn_value_t *v, tarn_error_t *err) {
  if (v->object) { v = tarn__value_twin_locked(v); }
  if (!v) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a value's record"); }
  tarn__value_hold_locked(v);
  v->object = o;
  o->form = TARN__VALUE;
  o->value = v;
  return 0;
}

int tarn_pool_set_value(tarn_pool_t *pool, tarn_value_t *v, uint32_t flags, uint64_t *id,
                        tarn_error_t *err) {
  assert(v->pool == pool);
  tarn__object_t *o = tarn__object_new(pool, flags);
  if (!o) { return tarn_error_set(err, TARN_ENOMEM, "no memory for an object's record"); }
  tarn__pool_lock(pool);
  int rc = make_room_locked(pool, v, sizeof *o, flags, err);
  if (rc == 0) { rc = tarn__object_become_locked(o, v, err); }
  if (rc == 0) { rc = tarn__object_enter_locked(pool, o, err); }
  if (rc == 0) {
    *id = o->id;
    if (!tarn__room_for(pool, 0)) { tarn__evict_plan_locked(pool, 0); }
  } else {
    if (o->form == TARN__VALUE) {
      o->value->object = NULL;
      tarn__value_unhold_locked(o->value);
    }
    tarn__slab_give(&pool->slab, o);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_pool_encoded(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err) {
  assert(v->pool == pool);
  int rc = 0;
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (!o) {
    rc = tarn_error_set(err, TARN_ENOENT, "no object %llu", (unsigned long long)id);
  } else if (o->form != TARN__LIVE) {
    rc = tarn_error_set(err, TARN_EINVAL, "object %llu is encoded already", (unsigned long long)id);
  } else {
    bool victim = o->place == TARN__WANTED;
    uint64_t live_size = o->live_size;
    tarn__lru_remove(pool, o);
    rc = tarn__object_become_locked(o, v, err);
    if (rc == 0) {
      pool->live -= live_size;
      o->size = 0;
      o->pinned = false;
    }
    if (victim) {
      tarn__lru_oldest(pool, o);
    } else {
      tarn__lru_touch(pool, o); /* it was encoded in order to travel */
    }
    tarn__evict_plan_locked(pool, pool->lua_need);
    tarn__pool_changed_locked(pool);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_pool_next_live(tarn_pool_t *pool, uint64_t *id) {
  int found = 0;
  tarn__pool_lock(pool);
  tarn__evict_plan_locked(pool, pool->lua_need);
  uint64_t wanted = tarn__budget_used(pool) + pool->lua_need + pool->demand;
  uint64_t coming = pool->pending + pool->leaving + pool->punching + pool->memory.cached;
  bool short_of = wanted > coming + pool->max_memsize || pool->lua_owed;
  pool->lua_owed = false;
  if (short_of && !tarn_list_empty(&pool->wanted)) {
    *id = TARN_CONTAINER(pool->wanted.next, tarn__object_t, link)->id;
    found = 1;
  } else {
    pool->lua_need = 0;
    tarn__lru_unwant_all(pool);
  }
  tarn__pool_unlock(pool);
  return found;
}

void tarn_pool_pin_live(tarn_pool_t *pool, uint64_t id) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o && o->form == TARN__LIVE) {
    o->pinned = true;
    tarn__lru_remove(pool, o);
    tarn__pool_changed_locked(pool); /* who waits may now be told that the pool is full */
  }
  tarn__pool_unlock(pool);
}

static bool out_of_memory(const tarn__object_t *o) { return o->form == TARN__SMALL && !o->mem; }

static void touch_locked(tarn_pool_t *pool, tarn__object_t *o) {
  pool->gets++;
  o->touched = true;
  if (!o->evicting && !o->pinned && !out_of_memory(o)) { tarn__lru_touch(pool, o); }
}

/* A saved file's errors name the file; the spill file's, whose it is. */
static int named(int rc, uint64_t id, const tarn_value_t *v, tarn_error_t *err) {
  if (rc != TARN_ECORRUPT || !err || v->pieces[0]->saved) { return rc; }
  tarn_error_t why = *err;
  return tarn_error_set(err, rc, "object %llu: %.340s", (unsigned long long)id, why.message);
}

/* o's value, opened for a reader. Lets go. */
static int open_locked(tarn__object_t *o, uint32_t flags, tarn_value_t **v, tarn_error_t *err) {
  tarn_value_t *found = o->value;
  uint64_t id = o->id;
  tarn__value_hold_locked(found); /* the object may be deleted while its pieces are fetched */
  int rc = named(tarn__value_open_locked(found, flags, err), id, found, err);
  tarn__value_unhold_locked(found);
  if (rc == 0) { *v = found; }
  return rc;
}

int tarn_pool_get(tarn_pool_t *pool, uint64_t id, uint32_t flags, tarn_value_t **v,
                  tarn_error_t *err) {
  tarn__object_t *o = NULL;
  tarn__pool_lock(pool);
  int rc = tarn__small_wake_locked(pool, id, flags, &o, err);
  if (rc == 0 && !o) {
    rc = tarn_error_set(err, TARN_ENOENT, "no object %llu", (unsigned long long)id);
  }
  if (rc == 0) {
    if ((flags & TARN_GET_QUIET) == 0) {
      touch_locked(pool, o);
    } else if (o->form == TARN__VALUE && o->place == TARN__NOWHERE && !o->evicting) {
      tarn__lru_oldest(pool, o); /* what will be loaded must be found again */
    }
    if (o->form == TARN__VALUE) { rc = open_locked(o, flags, v, err); }
  }
  tarn__pool_unlock(pool);
  return rc;
}

uint32_t tarn_pool_live_tag(tarn_pool_t *pool, uint64_t id, bool touch) {
  uint32_t tag = 0;
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o && o->form == TARN__LIVE) {
    tag = o->tag;
    if (touch) { touch_locked(pool, o); }
  }
  tarn__pool_unlock(pool);
  return tag;
}

int tarn_pool_touch(tarn_pool_t *pool, uint64_t id, tarn_error_t *err) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  int rc = o ? 0 : TARN_ENOENT;
  if (o) { touch_locked(pool, o); }
  if (o && o->form == TARN__VALUE) {
    tarn_value_t *v = o->value;
    tarn__value_hold_locked(v);
    rc = named(tarn__value_sound_locked(v, 0, err), id, v, err);
    tarn__value_unhold_locked(v);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_pool_delete(tarn_pool_t *pool, uint64_t id) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o) {
    pool->deletes++;
    tarn__object_delete_locked(pool, o);
  }
  tarn__pool_unlock(pool);
  return o ? 0 : TARN_ENOENT;
}

void tarn_pool_delete_many(tarn_pool_t *pool, const uint64_t *ids, size_t count) {
  enum { AT_ONCE = 256, AHEAD = 8 }; /* others want the mutex too */
  for (size_t i = 0; i < count;) {
    size_t stop = count - i < AT_ONCE ? count : i + AT_ONCE;
    tarn__pool_lock(pool);
    for (; i < stop; i++) {
      if (i + AHEAD < count) { tarn__index_prefetch(&pool->objects, ids[i + AHEAD], false); }
      if (i + AHEAD / 2 < count) { tarn__index_prefetch(&pool->objects, ids[i + AHEAD / 2], true); }
      tarn__object_t *o = tarn__object_find_locked(pool, ids[i]);
      if (!o) { continue; }
      pool->deletes++;
      tarn__object_delete_locked(pool, o);
    }
    tarn__pool_unlock(pool);
  }
}

int tarn_pool_flags(tarn_pool_t *pool, uint64_t id, uint32_t *flags) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o) { *flags = o->destroy ? TARN_OBJECT_DESTROY_ON_EVICT : 0; }
  tarn__pool_unlock(pool);
  return o ? 0 : TARN_ENOENT;
}

int tarn_pool_set_destroy_on_evict(tarn_pool_t *pool, uint64_t id, bool flag) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o) { o->destroy = flag; }
  tarn__pool_unlock(pool);
  return o ? 0 : TARN_ENOENT;
}

int tarn_pool_size_of(tarn_pool_t *pool, uint64_t id, uint64_t *size_bytes) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  if (o) {
    *size_bytes = o->form == TARN__VALUE   ? o->value->size
                  : o->form == TARN__SMALL ? o->size
                                           : o->live_size;
  }
  tarn__pool_unlock(pool);
  return o ? 0 : TARN_ENOENT;
}

/* Nothing of v is left to be written, and what was is out of memory or goes when it is unmapped. */
static bool is_out(const tarn__object_t *o) {
  for (uint32_t i = 0; i < o->value->count; i++) {
    const tarn__block_t *b = o->value->pieces[i];
    if (b->pub.kind == TARN__KIND_BORROWED || tarn__lent_leaving(b)) { continue; }
    if (!b->on_disk || b->busy || (b->mem && !b->drop) || (b->seg && !b->covered)) { return false; }
  }
  return true;
}

/* Everything of v is on disk. */
static bool is_written(const tarn__object_t *o) {
  for (uint32_t i = 0; i < o->value->count; i++) {
    if (!o->value->pieces[i]->on_disk) { return false; }
  }
  return true;
}

/* A value as far out, or when it is to be kept as safe, as was asked for. */
static bool is_done(const tarn__object_t *o, bool keep) {
  if (o->form != TARN__VALUE || o->evicting) { return false; }
  return (keep && is_written(o)) || is_out(o);
}

/* A small object that is in its pack has nothing to be written: out of memory with it, unless it is read or to be kept. True: done. */
static bool small_is_out_locked(tarn_pool_t *pool, tarn__object_t *o, bool keep) {
  tarn__small_freeze_locked(pool, o);
  if (o->pack == 0 || o->evicting) { return false; }
  if (o->form == TARN__SMALL && o->mem && !keep) {
    tarn__lru_remove(pool, o);
    tarn__small_free_mem_locked(pool, o);
    pool->evictions++;
  }
  return true;
}

static int write_out(tarn_pool_t *pool, uint64_t id, bool keep, tarn_error_t *err) {
  int rc = 0;
  bool begun = false;
  tarn__pool_lock(pool);
  uint64_t failures = pool->failures;
  for (;;) {
    tarn__object_t *o = tarn__object_find_locked(pool, id);
    if (!o) {
      rc = tarn_error_set(err, TARN_ENOENT, "no object %llu", (unsigned long long)id);
    } else if (o->form == TARN__LIVE) {
      rc = tarn_error_set(err, TARN_ENEEDLUA, "object %llu must be encoded first",
                          (unsigned long long)id);
    } else if (small_is_out_locked(pool, o, keep)) {
      break;
    } else if (is_done(o, keep) || (begun && !o->evicting && failures == pool->failures)) {
      break; /* out; or as far out as its readers allow: it is on disk */
    } else if (!o->evicting && failures != pool->failures) {
      rc = pool->failure.code;
      if (err) { *err = pool->failure; }
    } else if (!o->evicting) {
      rc = tarn__evict_start_locked(pool, o, err);
      o->keep = rc == 0 && keep;
      begun = true;
    }
    if (rc != 0) { break; }
    tarn__pool_wait_locked(pool);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_pool_evict(tarn_pool_t *pool, uint64_t id, tarn_error_t *err) {
  return write_out(pool, id, false, err);
}

int tarn_pool_copy(tarn_pool_t *pool, uint64_t id, tarn_error_t *err) {
  return write_out(pool, id, true, err);
}
