/* Figures, and the check that they are what the parts add up to. */
#include <sys/stat.h>
#include "pool/pool-private.h"

void tarn_pool_get_stats(tarn_pool_t *pool, tarn_pool_stats_t *out) {
  tarn__pool_lock(pool);
  *out = (tarn_pool_stats_t){
      .objects = pool->objects.count - pool->visitors,
      .live_bytes = pool->live,
      .resident_bytes = pool->heap + pool->segments,
      .inflight_bytes = pool->reserved,
      .lent_bytes = pool->lent,
      .borrowed_bytes = pool->borrowed,
      .spilled_bytes = pool->spilled,
      .disk_bytes = pool->spill.used,
      .max_memsize = pool->max_memsize,
      .max_disksize = pool->spill.max,
      .sets = pool->sets,
      .gets = pool->gets,
      .deletes = pool->deletes,
      .evictions = pool->evictions,
      .spill_written_bytes = pool->spill_written,
      .mapped_back_bytes = pool->mapped_back,
      .segment_bytes = pool->segments,
      .heap_bytes = pool->heap,
      .cached_bytes = pool->memory.cached + pool->punching,
      .record_bytes =
          pool->records + pool->objects.bytes + (pool->slabs.chunks - pool->slabs.records),
      .received_bytes = pool->visitor_bytes,
  };
  tarn__pool_unlock(pool);
}

void tarn_pool_get_files(tarn_pool_t *pool, tarn_pool_files_t *out) {
  struct stat memory;
  *out = (tarn_pool_files_t){.disk_free_bytes = tarn__spill_free_bytes(&pool->spill)};
  if (fstat(pool->memory.fd, &memory) == 0) {
    out->memory_file_bytes = (uint64_t)memory.st_blocks * 512;
  }
}

typedef struct sums {
  uint64_t heap, segments, records, spilled, packed, live, wanted, gain, lent, borrowed;
} sums_t;

static int check_block(const tarn__block_t *b, sums_t *s) {
  s->records += sizeof *b;
  if (b->mem) { s->heap += tarn__heap_charge(b->pub.size); }
  if (b->seg) { s->segments += b->seg->warm; }
  if (b->on_disk && !b->saved) { s->spilled += b->pub.size; }
  if ((b->mem != NULL) + (b->seg != NULL) + (b->fmap != NULL) > 1) { return 1; }
  if (b->refs == 0 || b->refs < b->maps || b->later > b->maps) { return 2; }
  if (b->maps > 0 && b->pub.data != tarn__block_address(b)) { return 3; }
  if (b->maps > 0 && !tarn__block_resident(b)) { return 4; }
  if (!tarn__block_resident(b) && !b->on_disk) { return 5; }
  if (tarn__lent_in_memory(b) && (!b->seg || b->covered)) { return 10; }
  if (b->pub.kind == TARN__KIND_BORROWED) { s->borrowed += b->pub.size; }
  if (b->pub.kind != TARN__KIND_BORROWED && b->lent && b->lent->count > 0) {
    s->lent += b->pub.size;
  }
  bool stays =
      b->pub.kind == TARN__KIND_BORROWED || tarn__lent_in_memory(b) || tarn__lent_leaving(b);
  if (b->maps == 0 && !b->busy && !stays &&
      (b->fmap || b->covered || (b->seg && b->on_disk && !b->planned && !b->kept))) {
    return 6;
  }
  if (b->covered && !b->on_disk) { return 7; }
  if (b->drop && (!b->mem || !b->on_disk)) { return 8; }
  if (b->maps == 0 && b->pub.data) { return 9; }
  return 0;
}

/* Evictable bytes are never forgotten. */
static int check_value(const tarn__object_t *o, sums_t *s) {
  const tarn_value_t *v = o->value;
  s->gain += v->gain;
  if (v->object != o || v->holds == 0) { return 26; }
  for (uint32_t i = 0; i < v->count; i++) {
    const tarn__block_t *b = v->pieces[i];
    bool evictable = (b->mem || b->seg) && !b->on_disk && !b->planned && !b->busy;
    if (o->place == TARN__NOWHERE && !o->evicting && evictable && o->pack == 0) { return 23; }
  }
  return 0;
}

static int check_objects(tarn_pool_t *pool, sums_t *s) {
  uint64_t count = 0;
  size_t cursor = 0;
  for (tarn__object_t *o; (o = tarn__index_next(&pool->objects, &cursor)) != NULL;) {
    count++;
    s->records += sizeof *o;
    if (tarn__index_get(&pool->objects, o->id) != o) { return 20; }
    if (o->evicting && o->place != TARN__NOWHERE) { return 21; }
    if (o->pack != 0) {
      s->spilled += o->size;
      s->packed += tarn__record_size(o->size);
      if (!tarn_map_get(&pool->packs.by_number, o->pack)) { return 27; }
    }
    if (o->form == TARN__LIVE) {
      s->live += o->live_size;
      if (o->place == TARN__NOWHERE && !o->pinned) { return 22; }
      if (o->place == TARN__WANTED) { s->wanted += o->live_size; }
    } else if (o->form == TARN__SMALL) {
      if (o->mem) { s->heap += tarn__small_charge(o->size); }
      if (o->evicting) { s->gain += tarn__small_charge(o->size); }
      if (!o->mem && o->pack == 0) { return 28; }
      if (o->mem && o->place == TARN__NOWHERE && !o->evicting) { return 25; }
    } else {
      int rc = check_value(o, s);
      if (rc != 0) { return rc; }
    }
  }
  return count == pool->objects.count ? 0 : 24;
}

static int check_locked(tarn_pool_t *pool) {
  sums_t s = {0};
  for (tarn_list_t *l = pool->blocks.next; l != &pool->blocks; l = l->next) {
    int rc = check_block(TARN_CONTAINER(l, tarn__block_t, link), &s);
    if (rc != 0) { return rc; }
  }
  int rc = check_objects(pool, &s);
  if (rc != 0) { return rc; }
  uint64_t cached = 0;
  for (uint32_t i = 0; i < TARN__CLASSES; i++) {
    for (tarn_list_t *l = pool->memory.classes[i].next; l != &pool->memory.classes[i];
         l = l->next) {
      cached += TARN_CONTAINER(l, tarn__segment_t, link)->warm;
    }
  }
  if (s.heap != pool->heap) { return 30; }
  if (s.segments != pool->segments) { return 31; }
  if (s.spilled != pool->spilled) { return 32; }
  if (s.packed != pool->packs.live_bytes) { return 40; }
  if (s.live != pool->live) { return 33; }
  if (s.wanted != pool->wanted_bytes) { return 34; }
  if (s.gain > pool->pending) { return 35; } /* the dead's gains are in it too */
  if (cached != pool->memory.cached) { return 36; }
  if (s.records > pool->records) { return 37; } /* values' and the dead's too */
  if (s.lent != pool->lent) { return 38; }
  if (s.borrowed != pool->borrowed) { return 39; }
  return 0;
}

int tarn__pool_check(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  int rc = check_locked(pool);
  tarn__pool_unlock(pool);
  return rc;
}

bool tarn__pool_idle(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  bool idle = !pool->working && tarn_list_empty(&pool->queue);
  tarn__pool_unlock(pool);
  return idle;
}
