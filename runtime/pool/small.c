/* Small objects: plain values, columns of a few elements; there may be millions. While nobody reads one it is a single run of bytes: its
 * front, its blocks, and where it has blocks their sizes and number. That run is in memory, in a pack of the spill file, or both, and
 * costs the object's record and no other. A get makes a value of it ("thaws"), the last reader's end a run again ("freezes"); what is
 * out of memory is loaded as a run first. So a small object has no place on disk but its record's, and its blocks none at all.
 *
 * The pool's mutex is held throughout, except while a record is read. */
#include <string.h>
#include "base/alloc.h"
#include "pool/pool-private.h"

/* ---- freezing ---- */

/* Bytes behind the pieces: the sizes of all but the front, then the number of pieces. */
static uint64_t tail_size(uint32_t count) { return count > 1 ? count * sizeof(uint32_t) : 0; }

bool tarn__small_measure_locked(tarn__object_t *o) {
  const tarn_value_t *v = o->value;
  if (v->guarded || o->visitor || o->id > TARN__RECORD_ID_MAX || v->loans > 0 ||
      v->count > TARN__SMALL_MAX) {
    return false;
  }
  uint64_t sum = tail_size(v->count);
  for (uint32_t i = 0; i < v->count; i++) {
    const tarn__block_t *b = v->pieces[i];
    bool ours = b->refs == 1u + (v->refs > 0) && !b->busy;
    if (!ours || b->pub.kind != TARN__KIND_HEAP || b->saved || b->on_disk || !b->mem) {
      return false;
    }
    sum += b->pub.size;
  }
  if (sum == 0 || sum > TARN__SMALL_MAX) { return false; }
  o->many = v->count > 1;
  o->size = (uint32_t)sum;
  return true;
}

static void gather(const tarn_value_t *v, uint8_t *to) {
  for (uint32_t i = 0; i < v->count; i++) {
    memcpy(to, v->pieces[i]->mem, v->pieces[i]->pub.size);
    to += v->pieces[i]->pub.size;
  }
  if (v->count == 1) { return; }
  for (uint32_t i = 1; i <= v->count; i++) {
    uint32_t n = i < v->count ? (uint32_t)v->pieces[i]->pub.size : v->count;
    memcpy(to, &n, sizeof n);
    to += sizeof n;
  }
}

static bool in_slab(uint64_t size) { return size <= TARN__RUN_CLASSES * TARN__RUN_STEP; }

static tarn__slab_t *slab_of(tarn_pool_t *pool, uint32_t size) {
  return &pool->runs[(size - 1) / TARN__RUN_STEP];
}

static uint8_t *run_new(tarn_pool_t *pool, uint32_t size) {
  return in_slab(size) ? tarn__slab_take(slab_of(pool, size)) : tarn_malloc(size);
}

static void run_free(tarn_pool_t *pool, uint8_t *run, uint32_t size) {
  if (in_slab(size)) {
    tarn__slab_give(slab_of(pool, size), run);
  } else {
    tarn__pool_trash_locked(pool, run, size);
  }
}

/* A front alone, if it is not for a slab, is the run already. */
static bool is_front(const tarn__object_t *o) { return !o->many && !in_slab(o->size); }

static uint8_t *take_front(tarn__block_t *b) {
  uint8_t *exact = tarn_realloc(b->mem, b->pub.size); /* it may have been built in more */
  uint8_t *mem = exact ? exact : b->mem;
  b->pool->heap -= tarn__heap_charge(b->pub.size);
  b->mem = NULL;
  return mem;
}

void tarn__small_freeze_locked(tarn_pool_t *pool, tarn__object_t *o) {
  if (o->form != TARN__VALUE || o->evicting || o->dead) { return; }
  tarn_value_t *v = o->value;
  if (v->refs > 0 || v->opening || v->holds != 1 || !tarn__small_measure_locked(o)) { return; }
  uint8_t *run = is_front(o) ? take_front(v->pieces[0]) : run_new(pool, o->size);
  if (!run) { return; } /* it stays as it is: only larger */
  if (!is_front(o)) { gather(v, run); }
  v->object = NULL;
  tarn__value_unhold_locked(v);
  o->form = TARN__SMALL;
  o->mem = run;
  pool->heap += tarn__small_charge(o->size);
  tarn__pool_changed_locked(pool);
}

/* ---- thawing ---- */

/* A run, looked at: it was made here and, where it comes from the disk, its checksum has been compared. */
typedef struct run {
  const uint8_t *bytes;
  uint64_t front_size;
  const uint8_t *sizes; /* of pieces 1, 2, ... */
  uint32_t count;
} run_t;

static uint32_t load32(const uint8_t *p) {
  uint32_t n;
  memcpy(&n, p, sizeof n);
  return n;
}

static run_t run_of(const tarn__object_t *o) {
  run_t r = {.bytes = o->mem, .front_size = o->size, .count = 1};
  if (!o->many) { return r; }
  r.count = load32(o->mem + o->size - sizeof(uint32_t));
  r.front_size -= tail_size(r.count);
  r.sizes = o->mem + r.front_size;
  for (uint32_t i = 1; i < r.count; i++) {
    r.front_size -= load32(r.sizes + (i - 1) * sizeof(uint32_t));
  }
  return r;
}

static tarn__block_t *new_piece(tarn_pool_t *pool, const uint8_t *bytes, uint64_t size,
                                bool front) {
  tarn__block_t *b = tarn__block_new_locked(pool, size, TARN__KIND_HEAP);
  if (!b) { return NULL; }
  uint64_t room = (size + 63) & ~(uint64_t)63;
  b->mem = front ? tarn_malloc(size) : tarn_aligned(64, room > 0 ? room : 64);
  if (!b->mem) {
    tarn__block_discard_locked(b);
    return NULL;
  }
  memcpy(b->mem, bytes, size);
  return b;
}

/* v's pieces, not yet counted. False: no memory, and there are none. */
static bool split(tarn_pool_t *pool, const run_t *r, tarn_value_t *v) {
  const uint8_t *at = r->bytes;
  for (uint32_t i = 0; i < r->count; i++) {
    uint64_t size = i == 0 ? r->front_size : load32(r->sizes + (i - 1) * sizeof(uint32_t));
    v->pieces[i] = new_piece(pool, at, size, i == 0);
    at += size;
    if (v->pieces[i]) { continue; }
    while (i > 0) {
      tarn_free(v->pieces[--i]->mem);
      tarn__block_discard_locked(v->pieces[i]);
    }
    return false;
  }
  return true;
}

/* o, in memory, is v from here on. */
static void become(tarn_pool_t *pool, tarn__object_t *o, tarn_value_t *v) {
  for (uint32_t i = 0; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    b->refs = 1;
    b->pub.sealed = 1;
    b->planned = o->evicting;
    tarn__block_link_locked(b);
    pool->heap += tarn__heap_charge(b->pub.size);
    v->size += b->pub.size;
  }
  pool->heap -= tarn__small_charge(o->size);
  pool->records += tarn__value_record_size(v);
  pool->value_count++;
  v->holds = 1;
  v->gain = o->evicting ? tarn__small_charge(o->size) : 0;
  v->object = o;
  o->form = TARN__VALUE;
  o->value = v;
}

static int thaw(tarn_pool_t *pool, tarn__object_t *o) {
  run_t r = run_of(o);
  tarn_value_t *v = tarn__value_new(pool, r.count);
  if (!v) { return TARN_ENOMEM; }
  uint8_t *run = o->mem;
  if (is_front(o)) {
    v->pieces[0] = tarn__block_new_locked(pool, o->size, TARN__KIND_HEAP);
    if (v->pieces[0]) { v->pieces[0]->mem = run; }
  }
  if (is_front(o) ? !v->pieces[0] : !split(pool, &r, v)) {
    tarn_free(v);
    return TARN_ENOMEM;
  }
  become(pool, o, v);
  if (!is_front(o)) { run_free(pool, run, o->size); }
  return 0;
}

/* ---- in and out of memory ---- */

void tarn__small_free_mem_locked(tarn_pool_t *pool, tarn__object_t *o) {
  assert(o->form == TARN__SMALL && o->mem);
  pool->heap -= tarn__small_charge(o->size);
  run_free(pool, o->mem, o->size);
  o->mem = NULL;
  tarn__pool_changed_locked(pool);
}

void tarn__small_copy(const tarn__object_t *o, uint8_t *to) {
  if (o->form == TARN__SMALL) {
    memcpy(to, o->mem, o->size);
  } else {
    gather(o->value, to);
  }
}

/* o's bytes are those of its record. */
static int fill(tarn_pool_t *pool, tarn__object_t *o, const uint8_t *record, tarn_error_t *err) {
  o->mem = run_new(pool, o->size);
  if (!o->mem) { return tarn_error_set(err, TARN_ENOMEM, "no memory for %u bytes", o->size); }
  memcpy(o->mem, record + TARN__RECORD_HEADER, o->size);
  pool->heap += tarn__small_charge(o->size);
  pool->mapped_back += o->size;
  tarn__lru_oldest(pool, o);
  return 0;
}

/* Into memory. Lets go, and o may be gone by then. */
static int load_locked(tarn_pool_t *pool, const tarn__object_t *o, uint32_t flags,
                       tarn_error_t *err) {
  uint64_t id = o->id, charge = tarn__small_charge(o->size);
  uint32_t size = o->size, offset = o->offset;
  tarn__pack_t *pack = tarn_map_get(&pool->packs.by_number, o->pack);
  pack->live++; /* its extent stays while we read */
  int rc = tarn__room_reserve_locked(pool, charge, flags, err);
  if (rc != 0) {
    tarn__pack_leave_locked(pool, pack, 0);
    return rc;
  }
  uint8_t *record = NULL;
  tarn__pool_unlock(pool);
  rc = tarn__record_read(pool, pack, offset, id, size, &record, err);
  tarn__pool_lock(pool);
  tarn__pack_leave_locked(pool, pack, 0);
  pool->reserved -= charge;
  tarn__object_t *now = tarn__object_find_locked(pool, id);
  if (rc == 0 && now && now->form == TARN__SMALL && !now->mem) {
    rc = fill(pool, now, record, err);
  }
  tarn_free(record);
  tarn__pool_changed_locked(pool);
  return rc;
}

int tarn__small_wake_locked(tarn_pool_t *pool, uint64_t id, uint32_t flags, tarn__object_t **out,
                            tarn_error_t *err) {
  for (;;) {
    tarn__object_t *o = tarn__object_find_locked(pool, id);
    int rc = 0;
    if (!o || o->form != TARN__SMALL) {
      *out = o;
      return 0;
    }
    if (!o->mem) {
      rc = load_locked(pool, o, flags, err);
    } else if (thaw(pool, o) != 0) {
      rc = tarn_error_set(err, TARN_ENOMEM, "no memory for a value's record");
    }
    if (rc != 0) { return rc; }
  }
}
