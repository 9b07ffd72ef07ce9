/* Where a block's bytes are, and how they move: into memory or a mapping when it is first mapped,
 * out of it when it is evicted or last unmapped. All system calls are made without the mutex: what
 * they work on is first taken out of the block (so that nobody else sees it) or marked busy, and a
 * reference is held, so that no extent is given back while anything maps it. */
#include "pool/pool-private.h"

#include <inttypes.h>
#include "base/alloc.h"
#include "base/sys.h"
#include "image/file.h"

bool tarn__block_resident(const tarn__block_t *b) { return b->mem || b->seg || b->fmap; }

uint64_t tarn__block_gain(const tarn__block_t *b) {
  if (b->mem) { return b->maps == 0 ? tarn__heap_charge(b->pub.size) : 0; }
  if (tarn__lent_leaving(b)) { return 0; } /* it is as far out as its holders allow */
  return b->seg && !b->covered ? b->seg->warm : 0;
}

void tarn__block_free_mem_locked(tarn__block_t *b) {
  b->pool->heap -= tarn__heap_charge(b->pub.size);
  tarn__pool_trash_locked(b->pool, b->mem, b->pub.size);
  b->mem = NULL;
  b->drop = false;
  tarn__pool_changed_locked(b->pool);
}

/* Fetched bytes, not yet the block's. */
typedef struct fetched {
  uint8_t *mem, *fmap;
  uint64_t paid; /* of pool->reserved, for mem that was not to be */
  bool checked;
} fetched_t;

/* Whole pages, wherever in them the bytes begin. */
static void unmap_pages(const tarn__block_t *b, uint8_t *at) {
  uint64_t before = (uintptr_t)at & (TARN__PAGE - 1);
  tarn__spill_unmap(&b->pool->spill, at - before, tarn__page_round(before + b->pub.size));
}

/* Into memory of its own, and verified. */
static int fetch_copy(tarn__block_t *b, fetched_t *out, tarn_error_t *err) {
  out->checked = true;
  if (b->saved) { return tarn__saved_read(b, &out->mem, err); }
  uint64_t room = (b->pub.size + 63) & ~(uint64_t)63;
  uint8_t *mem = tarn_aligned(64, room > 0 ? room : 64);
  if (!mem) {
    int rc = tarn_error_set(err, TARN_ENOMEM, "no memory for %" PRIu64 " bytes", b->pub.size);
    (void)tarn_error_bytes(err, b->pub.size, 0);
    return rc;
  }
  int rc = tarn__spill_read(&b->pool->spill, mem, b->pub.size, b->disk_offset, err);
  if (rc == 0 && tarn__sum(mem, b->pub.size, 0) != b->hash) { rc = tarn__block_mismatch(b, err); }
  if (rc == 0) {
    out->mem = mem;
  } else {
    tarn_free(mem);
  }
  return rc;
}

/* The mutex is not held; the caller has a reference, and the block's place on disk never changes.
 */
static int fetch(tarn__block_t *b, bool writable, fetched_t *out, tarn_error_t *err) {
  if (b->disk_size == 0) { return fetch_copy(b, out, err); }
  tarn_pool_t *pool = b->pool;
  if ((b->saved || !pool->spill.window) && !tarn__mappings_take(&pool->mappings, 1)) {
    return tarn_error_set(err, TARN_ENOMEM, "too many mappings for %" PRIu64 " bytes more",
                          b->pub.size);
  }
  if (b->saved) { return tarn__saved_map(b, &out->fmap, &out->checked, err); }
  return tarn__spill_map(&pool->spill, b->disk_offset, b->disk_size, writable, &out->fmap, err);
}

/* It cannot be mapped: there are no addresses, or too many mappings. It is read into memory then, if the budget has room. */
static int copy_locked(tarn__block_t *b, uint32_t flags, fetched_t *out, tarn_error_t *err) {
  tarn_pool_t *pool = b->pool;
  uint64_t charge = tarn__heap_charge(b->pub.size);
  if (err) { *err = (tarn_error_t){0}; }
  int rc = tarn__room_reserve_locked(pool, charge, flags, err);
  if (rc != 0) { return rc; }
  tarn__pool_unlock(pool);
  rc = fetch_copy(b, out, err);
  tarn__pool_lock(pool);
  out->paid = charge;
  if (rc != 0) { pool->reserved -= charge; }
  return rc;
}

static void install(tarn__block_t *b, const fetched_t *f, uint64_t *credit) {
  tarn_pool_t *pool = b->pool;
  b->mem = f->mem;
  b->fmap = f->fmap;
  b->checked = f->checked || (b->checked && tarn__lent(b));
  pool->mapped_back += b->pub.size;
  if (!b->mem) { return; }
  uint64_t charge = tarn__heap_charge(b->pub.size);
  pool->heap += charge;
  /* Without credit nobody's object was touched, so no eviction would find these bytes: they go with
   * the last mapping. */
  b->drop = !credit || f->paid > 0;
  if (f->paid > 0) {
    pool->reserved -= f->paid;
  } else if (credit) {
    uint64_t paid = charge < *credit ? charge : *credit;
    *credit -= paid;
    pool->reserved -= paid;
  }
  if (!tarn__room_for(pool, 0)) { tarn__evict_plan_locked(pool, 0); }
}

/* Another thread was first. */
static void discard_locked(tarn__block_t *b, const fetched_t *f) {
  tarn_pool_t *pool = b->pool;
  if (!f->fmap && !f->mem) { return; }
  pool->reserved -= f->paid;
  bool other = f->fmap != b->fmap; /* in the window it is the same place */
  tarn__pool_unlock(pool);
  if (f->fmap && other) { unmap_pages(b, f->fmap); }
  tarn_free(f->mem);
  tarn__pool_lock(pool);
}

/* Map what is not there. */
static int bring_locked(tarn__block_t *b, uint32_t flags, uint64_t *credit, tarn_error_t *err) {
  tarn_pool_t *pool = b->pool;
  fetched_t got = {0};
  bool writable = b->pub.sealed == 0;
  b->refs++;
  tarn__pool_unlock(pool);
  int rc = fetch(b, writable, &got, err);
  tarn__pool_lock(pool);
  if (rc == TARN_ENOMEM && b->disk_size > 0 && !writable) { rc = copy_locked(b, flags, &got, err); }
  if (rc == 0 && !tarn__block_resident(b)) {
    install(b, &got, credit);
    got = (fetched_t){0};
  }
  if (rc == 0) { /* now it is there and cannot go: this mapping is counted before the mutex is let
                    go again */
    b->refs++;
    if (b->maps++ == 0) { b->pub.data = tarn__block_address(b); }
    discard_locked(b, &got);
  }
  tarn__block_unref_locked(b);
  return rc;
}

int tarn__block_map_locked(tarn__block_t *b, uint32_t flags, uint64_t *credit, tarn_error_t *err) {
  int rc = 0;
  if (!tarn__block_resident(b)) {
    rc = bring_locked(b, flags, credit, err);
    if (rc != 0) { return rc; }
  } else {
    b->refs++;
    if (b->maps++ == 0) { b->pub.data = tarn__block_address(b); }
  }
  rc = tarn__block_sound_locked(b, err);
  if (rc != 0) { tarn__block_unmap_locked(b); }
  return rc;
}

/* Out of its segment: nobody maps it, and its bytes are on disk. */
static void detach(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  tarn__segment_t *s = b->seg;
  bool covered = b->covered;
  b->seg = NULL;
  b->covered = false;
  pool->segments -= s->warm;
  if (covered) {
    pool->punching += s->warm; /* not 0 where covering or punching failed half-way */
    b->refs++;                 /* the extent stays until the file is off these addresses */
    tarn__pool_unlock(pool);
    int rc = tarn__memory_uncover(&pool->memory, s->offset, tarn__page_round(b->pub.size));
    if (rc != 0) { (void)tarn__memory_punch(&pool->memory, s->offset, s->size); }
    tarn__pool_lock(pool);
    pool->punching -= s->warm;
    if (rc == 0) {
      tarn__memory_recycle(&pool->memory, s);
    } else {
      tarn_free(s); /* these addresses are lost: what is mapped there is not known */
    }
    tarn__pool_changed_locked(pool);
    tarn__block_unref_locked(b);
    return;
  }
  tarn__memory_recycle(&pool->memory, s);
  tarn__pool_changed_locked(pool);
}

/* The last mapping is gone. The caller has a reference. */
static void settle_unmapped(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  b->pub.data = NULL;
  tarn__look_off_locked(b);
  if (b->parker) { tarn__lru_unpark(pool, b); }
  if (b->busy) { return; } /* the spill thread will look at the counts when it is done */
  if (b->pub.kind == TARN__KIND_BORROWED) { return; } /* it goes with its last reference */
  if (b->fmap) {
    uint8_t *at = b->fmap;
    b->fmap = NULL;
    tarn__pool_unlock(pool);
    unmap_pages(b, at);
    tarn__pool_lock(pool);
  } else if (b->mem && b->drop && b->on_disk) {
    tarn__block_free_mem_locked(b);
  } else if (b->seg && b->on_disk && !b->kept && !tarn__lent_in_memory(b)) {
    detach(b);
  }
}

void tarn__block_unmap_locked(tarn__block_t *b) {
  if (--b->maps == 0) { settle_unmapped(b); }
  if (b->maps == 0 && b->visitor) { tarn__visitor_left_locked(b); }
  tarn__block_unref_locked(b);
}

static void cover(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  tarn__segment_t *s = b->seg;
  b->busy = true;
  tarn__pool_unlock(pool);
  int rc = TARN_ENOMEM;
  if (tarn__mappings_take(&pool->mappings, 2)) { /* itself, and what it cuts off */
    rc = tarn__memory_cover(&pool->memory, s->offset, tarn__page_round(b->pub.size), pool->spill.fd,
                            b->disk_offset);
  }
  bool freed = rc == 0 && tarn__memory_punch(&pool->memory, s->offset, s->warm);
  tarn__pool_lock(pool);
  b->busy = false;
  b->covered = true;
  b->checked = false;
  if (freed) {
    pool->segments -= s->warm;
    s->warm = 0;
    tarn__pool_changed_locked(pool);
  } /* else its memory stays, and counts, until it is unmapped */
}

void tarn__block_vacate_locked(tarn__block_t *b) {
  if (!b->on_disk || b->busy) { return; }
  b->kept = false;
  if (b->mem) {
    if (b->maps > 0) {
      b->drop = true;
    } else {
      tarn__block_free_mem_locked(b);
    }
  } else if (tarn__lent_in_memory(b)) {
    tarn__lent_leave_locked(b);
  } else if (b->seg) {
    if (b->maps > 0 && !b->covered) { cover(b); }
    if (b->maps == 0 && b->seg) { detach(b); }
  }
}
