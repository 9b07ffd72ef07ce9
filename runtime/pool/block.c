/* Blocks: their records and counts, and the public calls. A mapping is a reference too, so a
 * block's death (refs 0) means that nothing maps it: its segment is recycled and its extent given
 * back right there. Any thread. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include "base/alloc.h"
#include "pool/pool-private.h"

tarn__block_t *tarn__block_new_locked(tarn_pool_t *pool, uint64_t size, uint32_t kind) {
  tarn__block_t *b = tarn__slab_take(&pool->block_slab);
  if (!b) { return NULL; }
  b->pool = pool;
  b->pub.size = size;
  b->pub.kind = kind;
  tarn_list_init(&b->link);
  tarn_list_init(&b->later_link);
  tarn_list_init(&b->write_link);
  return b;
}

tarn__block_t *tarn__block_new(tarn_pool_t *pool, uint64_t size, uint32_t kind) {
  tarn__pool_lock(pool);
  tarn__block_t *b = tarn__block_new_locked(pool, size, kind);
  tarn__pool_unlock(pool);
  return b;
}

void tarn__block_discard_locked(tarn__block_t *b) {
  if (b) { tarn__slab_give(&b->pool->block_slab, b); }
}

void tarn__block_discard(tarn__block_t *b) {
  if (!b) { return; }
  tarn_pool_t *pool = b->pool;
  tarn__pool_lock(pool);
  tarn__block_discard_locked(b);
  tarn__pool_unlock(pool);
}

void tarn__block_link_locked(tarn__block_t *b) {
  tarn_list_push_back(&b->pool->blocks, &b->link);
  b->pool->records += sizeof *b;
}

void tarn__block_ref_locked(tarn__block_t *b) { b->refs++; }

static void leave_disk(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  if (b->saved) {
    tarn__saved_unref_locked(b->saved);
    return;
  }
  pool->spilled -= b->pub.size;
  if (b->pack) {
    tarn__pack_leave_locked(pool, b->pack, b->pub.size);
  } else {
    tarn__extent_give_locked(pool, b->disk_offset, b->disk_size);
  }
}

void tarn__block_unref_locked(tarn__block_t *b) {
  assert(b->refs > 0);
  if (--b->refs > 0) { return; }
  tarn_pool_t *pool = b->pool;
  if (b->pub.kind == TARN__KIND_BORROWED) {
    tarn__borrowed_dead_locked(b);
    return;
  }
  assert(b->maps == 0 && !b->fmap && !b->busy && !b->covered && !b->lent);
  tarn_list_remove(&b->link);
  tarn_list_remove(&b->write_link);
  pool->records -= sizeof *b;
  if (b->parker) { tarn__lru_unpark(pool, b); }
  if (b->mem) { tarn__block_free_mem_locked(b); }
  if (b->seg) {
    pool->segments -= b->seg->warm;
    tarn__memory_recycle(&pool->memory, b->seg);
  }
  if (b->on_disk) { leave_disk(b); }
  tarn__block_discard_locked(b);
  tarn__pool_changed_locked(pool);
}

/* The new block's first reference and mapping are its creator's. */
static void hand_out_locked(tarn__block_t *b) {
  b->refs = 2;
  b->maps = 1;
  b->pub.data = tarn__block_address(b);
  tarn__block_link_locked(b);
}

static int create_heap(tarn_pool_t *pool, tarn__block_t *b, uint32_t flags, tarn_error_t *err) {
  uint64_t room = (b->pub.size + 63) & ~(uint64_t)63;
  uint64_t charge = tarn__heap_charge(b->pub.size);
  tarn__pool_lock(pool);
  int rc = tarn__room_reserve_locked(pool, charge + sizeof *b, flags, err);
  tarn__pool_unlock(pool);
  if (rc != 0) { return rc; }
  b->mem = tarn_aligned(64, room > 0 ? room : 64);
  if (b->mem && (flags & TARN_BLOCK_ZERO) != 0) { memset(b->mem, 0, b->pub.size); }
  tarn__pool_lock(pool);
  pool->reserved -= charge + sizeof *b;
  if (b->mem) {
    pool->heap += charge;
    hand_out_locked(b);
  } else {
    tarn__pool_changed_locked(pool);
    rc = tarn_error_set(err, TARN_ENOMEM, "no memory for %" PRIu64 " bytes", b->pub.size);
    (void)tarn_error_bytes(err, charge, 0);
  }
  tarn__pool_unlock(pool);
  return rc;
}

/* One try: a cached segment, or addresses without memory. *need: the room that was missing. *dirty:
 * bytes that are not zeros. */
static bool take_segment(tarn_pool_t *pool, tarn__block_t *b, tarn__segment_t **fresh,
                         uint64_t *need, uint64_t *dirty, bool *no_addresses) {
  uint64_t size = tarn__page_round(b->pub.size);
  tarn__segment_t *s = tarn__memory_find(&pool->memory, size);
  uint64_t warm = s ? (s->warm < size ? s->warm : size) : 0;
  *need = size - warm + sizeof *b;
  if (!tarn__room_for(pool, *need)) { return false; }
  if (s) {
    tarn__memory_use(&pool->memory, s, size, fresh);
  } else {
    s = *fresh;
    *no_addresses = !tarn__memory_fresh(&pool->memory, s, size);
    if (*no_addresses) { return false; }
    *fresh = NULL;
  }
  *dirty = s->warm;
  if (s->warm < size) { s->warm = size; }
  pool->segments += s->warm;
  b->seg = s;
  return true;
}

static int create_segment(tarn_pool_t *pool, tarn__block_t *b, uint32_t flags, tarn_error_t *err) {
  tarn__segment_t *fresh = tarn_malloc(sizeof *fresh);
  if (!fresh) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a segment's record"); }
  tarn__room_t room = {0};
  uint64_t need, dirty = 0;
  bool no_addresses = false;
  int rc = 0;
  tarn__pool_lock(pool);
  while (rc == 0 && !take_segment(pool, b, &fresh, &need, &dirty, &no_addresses)) {
    rc = no_addresses ? tarn_error_set(err, TARN_ENOMEM, "no addresses left for %" PRIu64 " bytes",
                                       b->pub.size)
                      : tarn__room_step_locked(pool, need, flags, &room, err);
  }
  if (rc == 0) { hand_out_locked(b); }
  tarn__pool_unlock(pool);
  tarn_free(fresh);
  if (rc == 0 && (flags & TARN_BLOCK_ZERO) != 0 && dirty > 0) {
    memset(b->pub.data, 0, dirty < b->pub.size ? dirty : b->pub.size);
  }
  return rc;
}

/* Larger than the whole budget: in the spill file from the start. */
static int create_in_file(tarn_pool_t *pool, tarn__block_t *b, tarn_error_t *err) {
  uint64_t offset, size = tarn__page_round(b->pub.size);
  int rc = tarn__spill_open(&pool->spill, size, err);
  if (rc != 0) { return rc; }
  tarn__pool_lock(pool);
  rc = tarn__spiller_start_locked(pool, err); /* it punches, when idle, what was given back */
  if (rc == 0) { rc = tarn__extent_take_locked(pool, size, true, &offset, err); }
  tarn__pool_unlock(pool);
  if (rc != 0) { return rc; }
  rc = tarn__spill_map(&pool->spill, offset, size, true, &b->fmap, err);
  tarn__pool_lock(pool);
  if (rc == 0) {
    b->disk_offset = offset;
    b->disk_size = size;
    b->on_disk = b->unsummed = true;
    pool->spilled += b->pub.size;
    hand_out_locked(b);
  } else {
    tarn__extent_give_locked(pool, offset, size);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_block_create(tarn_pool_t *pool, uint64_t size, uint32_t flags, tarn_block_t **out,
                      tarn_error_t *err) {
  if (size > (uint64_t)1 << 56) {
    return tarn_error_set(err, TARN_ENOMEM, "%" PRIu64 " bytes are too many", size);
  }
  tarn__pool_lock(pool);
  bool in_file = size >= TARN_POOL_MAP_MIN &&
                 tarn__page_round(size) + sizeof(tarn__block_t) > pool->max_memsize;
  tarn__pool_unlock(pool);
  uint32_t kind = size < TARN_POOL_MAP_MIN ? TARN__KIND_HEAP
                  : in_file                ? TARN__KIND_FILE
                                           : TARN__KIND_SEGMENT;
  tarn__block_t *b = tarn__block_new(pool, size, kind);
  if (!b) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a block's record"); }
  int rc = kind == TARN__KIND_HEAP      ? create_heap(pool, b, flags, err)
           : kind == TARN__KIND_SEGMENT ? create_segment(pool, b, flags, err)
                                        : create_in_file(pool, b, err);
  if (rc != 0) {
    tarn__block_discard(b);
    return rc;
  }
  *out = &b->pub;
  return 0;
}

void tarn_block_retain(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  tarn__pool_lock(b->pool);
  b->refs++;
  tarn__pool_unlock(b->pool);
}

void tarn_block_release(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  tarn_pool_t *pool = b->pool;
  tarn__pool_lock(pool);
  tarn__block_unref_locked(b);
  tarn__pool_unlock(pool);
}

int tarn_block_map(tarn_block_t *pub, tarn_error_t *err) {
  tarn__block_t *b = tarn__block(pub);
  tarn__pool_lock(b->pool);
  int rc = tarn__block_map_locked(b, TARN_BLOCK_WAIT, NULL, err);
  tarn__pool_unlock(b->pool);
  return rc;
}

void tarn_block_unmap(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  tarn_pool_t *pool = b->pool;
  tarn__pool_lock(pool);
  tarn__block_unmap_locked(b);
  tarn__pool_unlock(pool);
}

void tarn_block_unmap_later(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  pthread_mutex_lock(
      &b->pool
           ->mutex); /* nothing is put off here, and nothing may be called back from a finalizer */
  if (b->later++ == 0) { tarn_list_push_back(&b->pool->later, &b->later_link); }
  pthread_mutex_unlock(&b->pool->mutex);
}

void tarn_pool_boundary(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  while (!tarn_list_empty(&pool->later)) {
    tarn__block_t *b = TARN_CONTAINER(pool->later.next, tarn__block_t, later_link);
    tarn_list_remove(&b->later_link);
    for (uint64_t n = b->later; n > 0; n--) { /* b dies with its last mapping, not before */
      b->later--;
      tarn__block_unmap_locked(b);
    }
  }
  tarn__pool_unlock(pool);
}

void tarn_block_seal(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  tarn__pool_lock(b->pool);
  if (b->pub.sealed == 0) { b->pub.sealed = 1; }
  tarn__pool_unlock(b->pool);
}

int tarn_block_verify(tarn_block_t *pub, tarn_error_t *err) {
  tarn__block_t *b = tarn__block(pub);
  tarn__pool_lock(b->pool);
  int rc = tarn__block_verified_locked(b, TARN_BLOCK_WAIT, err);
  tarn__pool_unlock(b->pool);
  return rc;
}
