/* A batch of the spill thread: up to 16 MiB of queued objects, whose pieces go into one extent, segments straight from memory, then heap
 * pieces and the records of small objects through buffers; then, under the mutex, their memory goes as far as mappings allow. A batch that
 * fails leaves everything as it was; when the disk is full it is tried again by halves, so that what still fits gets out.
 *
 * Blocks that are being written are busy and stay; small objects may be read, thawed and deleted meanwhile: their bytes are copied under the
 * mutex, a little at a time. */
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "pool/pool-private.h"

#define BATCH_BYTES ((uint64_t)16 << 20)
enum {
  COPY_BYTES = 128 << 10, /* under the mutex at a time */
  PIECE_ALIGN = 16
};

typedef struct batch {
  tarn_list_t objects;
  uint32_t count;
  tarn_list_t segments, large,
      small; /* pieces to write; large: heap pieces with an extent of their own; small: in a pack */
  uint64_t segment_bytes, large_bytes, small_bytes;
  uint64_t packing_bytes; /* of records to be made */
  uint64_t record_bytes;  /* of those that were, in whole pages */
  uint64_t offset;        /* of the extent */
  bool taken;
  tarn__pack_t *pack, *record_pack; /* owned until written */
} batch_t;

/* A run of bytes on its way to the file through an aligned buffer. */
typedef struct stream {
  tarn__spill_t *spill;
  uint8_t *stage;
  size_t fill;
  uint64_t at; /* file offset of stage[0] */
} stream_t;

static void add_piece(batch_t *t, tarn__block_t *b) {
  b->busy = true;
  if (b->pub.kind == TARN__KIND_SEGMENT) {
    tarn_list_push_back(&t->segments, &b->write_link);
    b->disk_offset = t->segment_bytes;
    t->segment_bytes += tarn__page_round(b->pub.size);
  } else if (b->pub.size >= TARN_POOL_MAP_MIN) {
    tarn_list_push_back(&t->large, &b->write_link);
    b->disk_offset = t->large_bytes;
    t->large_bytes += tarn__page_round(b->pub.size);
  } else {
    tarn_list_push_back(&t->small, &b->write_link);
    b->disk_offset = t->small_bytes;
    t->small_bytes +=
        (b->pub.size / PIECE_ALIGN + 1) * PIECE_ALIGN; /* an empty piece has a place too */
  }
}

/* o goes as a record: small, and in no pack yet. False: it does not, or not into this batch (*full). */
static bool add_record(batch_t *t, tarn__object_t *o, bool *full) {
  if (o->pack != 0 || (o->form == TARN__VALUE && !tarn__small_measure_locked(o))) { return false; }
  uint64_t size = tarn__record_size(o->size);
  *full = t->packing_bytes + size > TARN__SPILL_BUFFER;
  if (*full) { return false; }
  t->packing_bytes += size;
  o->packing = true;
  return true;
}

static void add_pieces(batch_t *t, const tarn_value_t *v) {
  for (uint32_t i = 0; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    if (!b->on_disk && !b->busy && b->pub.kind != TARN__KIND_BORROWED) { add_piece(t, b); }
  }
}

/* Move objects from the queue into the batch; the places of their pieces are relative yet. */
static void gather_locked(tarn_pool_t *pool, batch_t *t, uint32_t most) {
  *t = (batch_t){0};
  tarn_list_init(&t->objects);
  tarn_list_init(&t->segments);
  tarn_list_init(&t->large);
  tarn_list_init(&t->small);
  bool full = false;
  while (!tarn_list_empty(&pool->queue) && t->count < most &&
         t->segment_bytes + t->large_bytes + t->small_bytes < BATCH_BYTES) {
    tarn__object_t *o = TARN_CONTAINER(pool->queue.next, tarn__object_t, link);
    if (!o->dead && !add_record(t, o, &full)) {
      if (full) { break; }
      if (o->form == TARN__VALUE) { add_pieces(t, o->value); }
    }
    tarn_list_remove(&o->link);
    tarn_list_push_back(&t->objects, &o->link);
    t->count++;
  }
  t->small_bytes = tarn__page_round(t->small_bytes);
}

static uint64_t bytes_of(const batch_t *t) {
  return t->segment_bytes + t->large_bytes + t->small_bytes + t->record_bytes;
}

/* The records of what is not dead by now. Lets go now and then. */
static void copy_records_locked(tarn_pool_t *pool, batch_t *t) {
  uint8_t *records = pool->spill.records;
  uint64_t fill = 0, copied = 0;
  for (tarn_list_t *l = t->objects.next; l != &t->objects; l = l->next) {
    tarn__object_t *o = TARN_CONTAINER(l, tarn__object_t, link);
    if (!o->packing || o->dead) { continue; }
    tarn__record_write(o, records + fill);
    o->offset = (uint32_t)fill;
    fill += tarn__record_size(o->size);
    copied += tarn__record_size(o->size);
    if (copied < COPY_BYTES) { continue; }
    copied = 0;
    tarn__pool_unlock(pool);
    tarn__pool_lock(pool);
  }
  t->record_bytes = tarn__page_round(fill);
  memset(records + fill, 0, t->record_bytes - fill);
}

static void place(tarn_list_t *pieces, uint64_t offset) {
  for (tarn_list_t *l = pieces->next; l != pieces; l = l->next) {
    TARN_CONTAINER(l, tarn__block_t, write_link)->disk_offset += offset;
  }
}

static int stream_flush(stream_t *s, tarn_error_t *err) {
  size_t whole = (s->fill + TARN__PAGE - 1) & ~(size_t)(TARN__PAGE - 1);
  if (whole == 0) { return 0; }
  memset(s->stage + s->fill, 0, whole - s->fill);
  struct iovec iov = {s->stage, whole};
  int rc = tarn__spill_write(s->spill, &iov, 1, s->at, err);
  s->at += whole;
  s->fill = 0;
  return rc;
}

/* Put bytes at a file offset at or after where the stream is. */
static int stream_put(stream_t *s, uint64_t offset, const uint8_t *bytes, uint64_t size,
                      tarn_error_t *err) {
  uint64_t gap = offset - (s->at + s->fill); /* less than a page: padding */
  if (s->fill + gap > TARN__SPILL_BUFFER) {
    int rc = stream_flush(s, err);
    if (rc != 0) { return rc; }
    gap = offset - s->at;
  }
  memset(s->stage + s->fill, 0, gap);
  s->fill += gap;
  for (uint64_t done = 0; done < size;) {
    size_t part = TARN__SPILL_BUFFER - s->fill < size - done ? TARN__SPILL_BUFFER - s->fill
                                                             : (size_t)(size - done);
    memcpy(s->stage + s->fill, bytes + done, part);
    s->fill += part;
    done += part;
    if (s->fill == TARN__SPILL_BUFFER) {
      int rc = stream_flush(s, err);
      if (rc != 0) { return rc; }
    }
  }
  return 0;
}

static int stream_pieces(stream_t *s, tarn_list_t *pieces, tarn_error_t *err) {
  int rc = 0;
  for (tarn_list_t *l = pieces->next; l != pieces && rc == 0; l = l->next) {
    tarn__block_t *b = TARN_CONTAINER(l, tarn__block_t, write_link);
    b->hash = tarn__sum(b->mem, b->pub.size, 0);
    rc = stream_put(s, b->disk_offset, b->mem, b->pub.size, err);
  }
  return rc;
}

static int write_heap(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  if (t->large_bytes + t->small_bytes == 0) { return 0; }
  stream_t s = {.spill = &pool->spill, .at = t->offset + t->segment_bytes};
  s.stage = tarn__spill_buffer(&pool->spill.stage);
  if (!s.stage) {
    return tarn_error_set(err, TARN_ENOMEM, "no memory for writing to the spill file");
  }
  int rc = stream_pieces(&s, &t->large, err);
  if (rc == 0) { rc = stream_pieces(&s, &t->small, err); }
  return rc != 0 ? rc : stream_flush(&s, err);
}

static int write_records(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  if (t->record_bytes == 0) { return 0; }
  struct iovec iov = {pool->spill.records, t->record_bytes};
  return tarn__spill_write(&pool->spill, &iov, 1, t->offset + bytes_of(t) - t->record_bytes, err);
}

/* What the batch needs of its own. */
static int equip(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  bool ok = true;
  if (!tarn_list_empty(&t->small)) { ok = (t->pack = tarn_calloc(1, sizeof *t->pack)) != NULL; }
  if (ok && t->packing_bytes > 0) {
    t->record_pack = tarn_calloc(1, sizeof *t->record_pack);
    ok = t->record_pack && tarn__spill_buffer(&pool->spill.records);
  }
  return ok ? 0 : tarn_error_set(err, TARN_ENOMEM, "no memory for writing to the spill file");
}

/* The mutex is not held. */
static int write_batch(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  int rc = tarn__spill_open(&pool->spill, bytes_of(t), err);
  if (rc == 0) { rc = equip(pool, t, err); }
  if (rc != 0) { return rc; }
  tarn__pool_lock(pool);
  if (t->packing_bytes > 0) { copy_records_locked(pool, t); }
  if (bytes_of(t) > 0) {
    rc = tarn__extent_take_locked(pool, bytes_of(t), false, &t->offset, err);
    t->taken = rc == 0;
  }
  tarn__pool_unlock(pool);
  if (!t->taken) { return rc; }
  place(&t->segments, t->offset);
  place(&t->large, t->offset + t->segment_bytes);
  place(&t->small, t->offset + t->segment_bytes + t->large_bytes);
  rc = tarn__segments_write(pool, &t->segments, t->segment_bytes, err);
  if (rc == 0) { rc = write_heap(pool, t, err); }
  return rc != 0 ? rc : write_records(pool, t, err);
}

/* Takes a piece out; the spill thread is done with it. What was unmapped while it was busy is
 * settled by vacating. */
static tarn__block_t *next_written(tarn_list_t *pieces) {
  if (tarn_list_empty(pieces)) { return NULL; }
  tarn__block_t *b = TARN_CONTAINER(pieces->next, tarn__block_t, write_link);
  tarn_list_remove(&b->write_link);
  b->busy = false;
  return b;
}

/* The records' pack has got its number: they are in it. */
static void join_locked(tarn_pool_t *pool, batch_t *t) {
  for (tarn_list_t *l = t->objects.next; l != &t->objects; l = l->next) {
    tarn__object_t *o = TARN_CONTAINER(l, tarn__object_t, link);
    if (o->packing && !o->dead) { tarn__record_join_locked(pool, o, t->record_pack, o->offset); }
  }
}

/* Gives the records' pack its number. What was taken for the batch has been used up when this succeeds. */
static int written_locked(tarn_pool_t *pool, batch_t *t) {
  if (t->record_bytes > 0) {
    t->record_pack->offset = t->offset + bytes_of(t) - t->record_bytes;
    t->record_pack->size = t->record_bytes;
    t->record_pack->live = 1; /* ours, until all have joined */
    int rc = tarn__pack_enter_locked(pool, t->record_pack);
    if (rc != 0) { return rc; }
    join_locked(pool, t);
    tarn__pack_leave_locked(pool, t->record_pack, 0);
    t->record_pack = NULL;
  }
  tarn__block_t *b;
  while ((b = next_written(&t->segments)) != NULL || (b = next_written(&t->large)) != NULL) {
    b->on_disk = true;
    b->disk_size = tarn__page_round(b->pub.size);
    pool->spilled += b->pub.size;
  }
  if (t->pack) {
    t->pack->offset = t->offset + t->segment_bytes + t->large_bytes;
    t->pack->size = t->small_bytes;
  }
  while ((b = next_written(&t->small)) != NULL) {
    b->on_disk = true;
    b->pack = t->pack;
    t->pack->live++;
    t->pack->live_bytes += b->pub.size;
    pool->spilled += b->pub.size;
  }
  t->pack = NULL;
  pool->spill_written += bytes_of(t);
  return 0;
}

/* Everything is as it was. */
static void unwritten_locked(tarn_pool_t *pool, batch_t *t) {
  tarn_list_t *lists[] = {&t->segments, &t->large, &t->small};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
    tarn__block_t *b;
    while ((b = next_written(lists[i])) != NULL) { b->hash = 0; }
  }
  if (t->taken) { tarn__extent_give_locked(pool, t->offset, bytes_of(t)); }
}

static uint64_t gain_of(const tarn__object_t *o) {
  return o->form == TARN__SMALL ? tarn__small_charge(o->size) : o->value->gain;
}

/* o is on disk, and its memory may go. */
static void out_locked(tarn_pool_t *pool, tarn__object_t *o, bool keep) {
  if (!keep) { pool->evictions++; }
  tarn__small_freeze_locked(pool, o); /* it may have been read meanwhile */
  if (o->touched || keep) {
    tarn__lru_touch(pool, o);
  } else if (o->form == TARN__SMALL) {
    tarn__small_free_mem_locked(pool, o);
  } else if (o->pack != 0) {
    tarn__lru_oldest(pool, o); /* it still is being read */
  }
}

void tarn__batch_finish_locked(tarn_pool_t *pool, tarn__object_t *o, bool written) {
  bool keep = o->keep;
  pool->pending -= gain_of(o);
  o->evicting = o->keep = o->packing = false;
  if (o->form == TARN__VALUE) {
    o->value->gain = 0;
    for (uint32_t i = 0; i < o->value->count; i++) { o->value->pieces[i]->planned = false; }
  }
  /* What waited for it must be written itself. */
  if (o->dead || !written) { tarn__lru_unlimbo(pool); }
  if (o->dead) {
    tarn__object_free_locked(pool, o);
  } else if (!written) {
    tarn__lru_oldest(pool, o);
  } else {
    out_locked(pool, o, keep);
  }
}

void tarn__failure_note_locked(tarn_pool_t *pool, const tarn_error_t *err) {
  pool->failures++;
  pool->failure = *err;
  pool->failure_ns = tarn_clock_ns();
  pool->failure_owed = pool->owed;
}

/* The disk is full, and this was not a single object: all of it waits for another try, in halves. */
static void halve_locked(tarn_pool_t *pool, batch_t *t) {
  for (tarn_list_t *l = t->objects.next; l != &t->objects; l = l->next) {
    TARN_CONTAINER(l, tarn__object_t, link)->packing = false;
  }
  if (pool->halved_left == 0) { pool->halved_left = t->count; }
  pool->halved = t->count / 2;
  tarn_list_append(&t->objects, &pool->queue);
  tarn_list_append(&pool->queue, &t->objects);
}

static void release(batch_t *t) {
  tarn_free(t->pack);
  tarn_free(t->record_pack);
}

void tarn__batch_run_locked(tarn_pool_t *pool) {
  batch_t t;
  tarn_error_t err = {0};
  gather_locked(pool, &t, pool->halved_left > 0 ? pool->halved : UINT32_MAX);
  int rc = 0;
  if (bytes_of(&t) + t.packing_bytes > 0) {
    tarn__pool_unlock(pool);
    rc = write_batch(pool, &t, &err);
    tarn__pool_lock(pool);
    if (rc == 0 && (rc = written_locked(pool, &t)) != 0) {
      tarn_error_set(&err, rc, "no memory for a pack's record");
    }
    if (rc != 0) { unwritten_locked(pool, &t); }
    release(&t);
  }
  if (rc == TARN_EDISKFULL && t.count > 1) {
    halve_locked(pool, &t);
    return;
  }
  if (rc != 0) { tarn__failure_note_locked(pool, &err); }
  pool->halved_left -= t.count < pool->halved_left ? t.count : pool->halved_left;
  while (!tarn_list_empty(&t.objects)) {
    tarn__object_t *o = TARN_CONTAINER(t.objects.next, tarn__object_t, link);
    tarn_list_remove(&o->link);
    for (uint32_t i = 0; rc == 0 && o->form == TARN__VALUE && i < o->value->count; i++) {
      tarn__block_t *b = o->value->pieces[i];
      if (!o->keep || o->dead) {
        tarn__block_vacate_locked(b);
      } else if (b->seg && !b->covered) {
        b->kept = true;
      }
    }
    tarn__batch_finish_locked(pool, o, rc == 0);
    tarn__pool_changed_locked(pool);
  }
}
