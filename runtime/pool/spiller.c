/* The spill thread: takes queued objects in batches of about 16 MiB, writes their pieces into one
 * extent (segments straight from memory, then heap pieces through a staging buffer), and then,
 * under the mutex, lets their memory go as far as mappings allow. A batch that fails leaves
 * everything as it was; when the disk is full its objects are tried again one by one, so that those
 * that still fit get out. When idle it punches extents that were given back. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "image/file.h"
#include "pool/pool-private.h"

#define BATCH_BYTES ((uint64_t)16 << 20)
enum {
  STAGE_BYTES = 2 << 20,
  TRIM_BYTES = 8 << 20,
  IOV_MAX_BATCH = 256,
  IDLE_MS = 200,
  PIECE_ALIGN = 16
};

typedef struct batch {
  tarn_list_t objects;
  uint32_t count;
  tarn_list_t segments, large,
      small; /* pieces to write; large: heap pieces with an extent of their own */
  uint64_t segment_bytes, large_bytes, small_bytes, bytes;
  uint64_t offset; /* of the extent */
  tarn__pack_t *pack;
} batch_t;

/* A run of bytes on its way to the file through an aligned buffer. */
typedef struct stream {
  tarn__spill_t *spill;
  uint8_t *stage;
  size_t fill;
  uint64_t at; /* file offset of stage[0] */
} stream_t;

/* ---- extents ---- */

static void punch_warm_locked(tarn_pool_t *pool) {
  uint64_t offset, size;
  while (tarn__spill_next_warm(&pool->spill, &offset, &size)) {
    tarn__pool_unlock(pool);
    bool done = true;
    for (uint64_t at = 0; at < size && done; at += TARN__SLICE) {
      done = tarn__spill_punch(&pool->spill, offset + at,
                               size - at < TARN__SLICE ? size - at : TARN__SLICE);
    }
    tarn__pool_lock(pool);
    tarn__spill_punched(&pool->spill, offset, size);
  }
}

int tarn__extent_take_locked(tarn_pool_t *pool, uint64_t size, bool in_place, uint64_t *offset,
                             tarn_error_t *err) {
  tarn__spill_t *spill = &pool->spill;
  for (int attempt = 0;; attempt++) {
    uint64_t in_file = spill->used + spill->warm.bytes;
    if (in_file > spill->max || size > spill->max - in_file) { punch_warm_locked(pool); }
    bool reserved;
    int rc = tarn__spill_take(spill, size, in_place, offset, &reserved, err);
    if (rc != 0 || reserved) { return rc; }
    tarn__pool_unlock(pool);
    rc = tarn__spill_reserve(spill, *offset, size, in_place, err);
    if (rc != 0) {
      (void)tarn__spill_punch(spill, *offset, size);
    } /* part of it may have got space */
    tarn__pool_lock(pool);
    if (rc == 0) { return 0; }
    spill->used -= size;
    tarn__spill_punched(spill, *offset, size);
    if (rc != TARN_EDISKFULL || attempt > 0 || spill->warm.bytes == 0) { return rc; }
    punch_warm_locked(pool);
  }
}

void tarn__extent_give_locked(tarn_pool_t *pool, uint64_t offset, uint64_t size) {
  tarn__spill_give(&pool->spill, offset, size);
  if (pool->spill.warm.bytes == size) {
    pthread_cond_signal(&pool->work);
  } /* from now on it looks for idle moments */
}

/* ---- one batch ---- */

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

/* Move objects from the queue into the batch; the places of their pieces are relative yet. */
static void gather_locked(tarn_pool_t *pool, batch_t *t, uint32_t most) {
  *t = (batch_t){0};
  tarn_list_init(&t->objects);
  tarn_list_init(&t->segments);
  tarn_list_init(&t->large);
  tarn_list_init(&t->small);
  while (!tarn_list_empty(&pool->queue) && t->count < most &&
         t->segment_bytes + t->large_bytes + t->small_bytes < BATCH_BYTES) {
    tarn__object_t *o = TARN_CONTAINER(pool->queue.next, tarn__object_t, queue_link);
    tarn_list_remove(&o->queue_link);
    tarn_list_push_back(&t->objects, &o->queue_link);
    t->count++;
    for (uint32_t i = 0; i < o->value->count && !o->dead; i++) {
      tarn__block_t *b = o->value->pieces[i];
      if (!b->on_disk && !b->busy && b->pub.kind != TARN__KIND_BORROWED) { add_piece(t, b); }
    }
  }
  t->small_bytes = tarn__page_round(t->small_bytes);
  t->bytes = t->segment_bytes + t->large_bytes + t->small_bytes;
}

static void place(tarn_list_t *pieces, uint64_t offset) {
  for (tarn_list_t *l = pieces->next; l != pieces; l = l->next) {
    TARN_CONTAINER(l, tarn__block_t, write_link)->disk_offset += offset;
  }
}

static int write_segments(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  struct iovec iov[IOV_MAX_BATCH];
  int count = 0, rc = 0;
  uint64_t at = t->offset, size = 0;
  for (tarn_list_t *l = t->segments.next; l != &t->segments && rc == 0; l = l->next) {
    tarn__block_t *b = TARN_CONTAINER(l, tarn__block_t, write_link);
    uint64_t length = tarn__page_round(b->pub.size);
    iov[count++] = (struct iovec){pool->memory.base + b->seg->offset, length};
    size += length;
    if (count == IOV_MAX_BATCH || l->next == &t->segments) {
      rc = tarn__spill_write(&pool->spill, iov, count, at, err);
      at += size;
      size = 0;
      count = 0;
    }
  }
  return rc;
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
  if (s->fill + gap > STAGE_BYTES) {
    int rc = stream_flush(s, err);
    if (rc != 0) { return rc; }
    gap = offset - s->at;
  }
  memset(s->stage + s->fill, 0, gap);
  s->fill += gap;
  for (uint64_t done = 0; done < size;) {
    size_t part =
        STAGE_BYTES - s->fill < size - done ? STAGE_BYTES - s->fill : (size_t)(size - done);
    memcpy(s->stage + s->fill, bytes + done, part);
    s->fill += part;
    done += part;
    if (s->fill == STAGE_BYTES) {
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
    b->hash = tarn_hash64(b->mem, b->pub.size);
    rc = stream_put(s, b->disk_offset, b->mem, b->pub.size, err);
  }
  return rc;
}

static int write_heap(tarn_pool_t *pool, batch_t *t, tarn_error_t *err) {
  if (t->large_bytes + t->small_bytes == 0) { return 0; }
  stream_t s = {.spill = &pool->spill, .at = t->offset + t->segment_bytes};
  s.stage = tarn_aligned(TARN__PAGE, STAGE_BYTES);
  if (!s.stage) {
    return tarn_error_set(err, TARN_ENOMEM, "no memory for writing to the spill file");
  }
  int rc = stream_pieces(&s, &t->large, err);
  if (rc == 0) { rc = stream_pieces(&s, &t->small, err); }
  if (rc == 0) { rc = stream_flush(&s, err); }
  tarn_free(s.stage);
  return rc;
}

static int write_batch(tarn_pool_t *pool, batch_t *t, bool *taken, tarn_error_t *err) {
  int rc = tarn__spill_open(&pool->spill, t->bytes, err);
  if (rc != 0) { return rc; }
  if (!tarn_list_empty(&t->small)) {
    t->pack = tarn_calloc(1, sizeof *t->pack);
    if (!t->pack) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a pack's record"); }
  }
  tarn__pool_lock(pool);
  rc = tarn__extent_take_locked(pool, t->bytes, false, &t->offset, err);
  tarn__pool_unlock(pool);
  if (rc != 0) { return rc; }
  *taken = true;
  place(&t->segments, t->offset);
  place(&t->large, t->offset + t->segment_bytes);
  place(&t->small, t->offset + t->segment_bytes + t->large_bytes);
  rc = write_segments(pool, t, err);
  return rc != 0 ? rc : write_heap(pool, t, err);
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

static void written_locked(tarn_pool_t *pool, batch_t *t) {
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
  pool->spill_written += t->bytes;
}

static void unwritten_locked(tarn_pool_t *pool, batch_t *t, bool taken) {
  tarn_list_t *lists[] = {&t->segments, &t->large, &t->small};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
    tarn__block_t *b;
    while ((b = next_written(lists[i])) != NULL) { b->hash = 0; }
  }
  if (taken) { tarn__extent_give_locked(pool, t->offset, t->bytes); }
  tarn_free(t->pack);
}

/* Objects of v that were passed over because another one of it was being evicted. */
static void back_in_line_locked(tarn_pool_t *pool, tarn_value_t *v) {
  for (tarn_list_t *l = v->objects.next; l != &v->objects; l = l->next) {
    tarn__object_t *o = TARN_CONTAINER(l, tarn__object_t, value_link);
    if (o->place == TARN__NOWHERE && !o->evicting) { tarn__lru_oldest(pool, o); }
  }
}

/* The eviction of o has ended. */
static void finish_locked(tarn_pool_t *pool, tarn__object_t *o, bool written) {
  pool->pending -= o->gain;
  o->gain = 0;
  o->evicting = false;
  bool keep = o->keep;
  o->keep = false;
  for (uint32_t i = 0; i < o->value->count; i++) { o->value->pieces[i]->planned = false; }
  if (o->dead || !written) { back_in_line_locked(pool, o->value); }
  if (o->dead) {
    tarn__object_free_locked(pool, o);
  } else if (!written) {
    tarn__lru_oldest(pool, o);
  } else {
    if (!keep) { pool->evictions++; }
    if (o->touched || keep) {
      tarn__lru_touch(pool, o);
    } else {
      tarn__object_freeze_locked(pool, o);
    }
  }
}

static void note_failure_locked(tarn_pool_t *pool, const tarn_error_t *err) {
  pool->failures++;
  pool->failure = *err;
  pool->failure_ns = tarn_clock_ns();
  pool->failure_owed = pool->owed;
}

/* Returns how many of the next objects are to be tried one by one. */
static uint32_t run_batch_locked(tarn_pool_t *pool, uint32_t most) {
  batch_t t;
  if (pool->heap > pool->heap_high) { pool->heap_high = pool->heap; }
  gather_locked(pool, &t, most);
  tarn_error_t err = {0};
  bool taken = false;
  int rc = 0;
  if (t.bytes > 0) {
    tarn__pool_unlock(pool);
    rc = write_batch(pool, &t, &taken, &err);
    tarn__pool_lock(pool);
  }
  if (rc == 0) {
    written_locked(pool, &t);
  } else {
    unwritten_locked(pool, &t, taken);
    if (rc == TARN_EDISKFULL && t.count > 1) {
      tarn_list_append(&t.objects, &pool->queue);
      tarn_list_append(&pool->queue, &t.objects);
      return t.count;
    }
    note_failure_locked(pool, &err);
  }
  while (!tarn_list_empty(&t.objects)) {
    tarn__object_t *o = TARN_CONTAINER(t.objects.next, tarn__object_t, queue_link);
    tarn_list_remove(&o->queue_link);
    for (uint32_t i = 0; rc == 0 && i < o->value->count; i++) {
      tarn__block_t *b = o->value->pieces[i];
      if (!o->keep || o->dead) {
        tarn__block_vacate_locked(b);
      } else if (b->seg && !b->covered) {
        b->kept = true;
      }
    }
    finish_locked(pool, o, rc == 0);
    tarn__pool_changed_locked(pool);
  }
  return 0;
}

/* ---- the thread ---- */

/* The C library keeps what was freed between what is not: when much has gone out, hand whole pages
 * back to the system. */
static void trim_heap_locked(tarn_pool_t *pool) {
  if (pool->heap > pool->heap_high) { pool->heap_high = pool->heap; }
  if (pool->heap + TRIM_BYTES > pool->heap_high / 4 * 3) { return; }
  pool->heap_high = pool->heap;
  tarn__pool_unlock(pool);
  (void)malloc_trim(0);
  tarn__pool_lock(pool);
}

static bool idle_locked(tarn_pool_t *pool) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += IDLE_MS * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_nsec -= 1000000000L;
    until.tv_sec++;
  }
  return pthread_cond_timedwait(&pool->work, &pool->mutex, &until) == ETIMEDOUT;
}

/* What lending wants done. True: look again. */
static bool lending_locked(tarn_pool_t *pool) {
  if (!tarn__lent_settle_locked(pool) && !tarn__borrowed_work_locked(pool) &&
      !tarn__lent_late_locked(pool)) {
    return false;
  }
  tarn__pool_unlock(pool);
  tarn__pool_lock(pool);
  return true;
}

static void *spiller_main(void *arg) {
  tarn_pool_t *pool = arg;
  uint32_t singly = 0;
  tarn__pool_lock(pool);
  while (!pool->stopping) {
    if (lending_locked(pool)) { continue; }
    if (!tarn_list_empty(&pool->queue)) {
      uint32_t again = run_batch_locked(pool, singly > 0 ? 1 : UINT32_MAX);
      singly = again > 0 ? again : singly > 0 ? singly - 1 : 0;
      tarn__pool_unlock(pool); /* callbacks, and others' turn */
      tarn__pool_lock(pool);
      trim_heap_locked(pool);
    } else if (pool->spill.warm.bytes == 0 && tarn_list_empty(&pool->leavers)) {
      pthread_cond_wait(&pool->work, &pool->mutex);
    } else if (idle_locked(pool) && tarn_list_empty(&pool->queue) && !pool->stopping) {
      punch_warm_locked(pool);
    }
  }
  tarn__pool_unlock(pool);
  return NULL;
}

int tarn__spiller_start_locked(tarn_pool_t *pool) {
  if (pool->started) { return 0; }
  sigset_t all, before;
  sigfillset(&all); /* signals are for the host's threads */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = pthread_create(&pool->thread, NULL, spiller_main, pool);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc != 0) { return TARN_ENOMEM; }
  pool->started = true;
  return 0;
}

void tarn__spiller_stop(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  pool->stopping = true;
  pthread_cond_signal(&pool->work);
  tarn__pool_unlock(pool);
  if (pool->started) { pthread_join(pool->thread, NULL); }
  tarn__pool_lock(pool);
  while (!tarn_list_empty(&pool->queue)) {
    tarn__object_t *o = TARN_CONTAINER(pool->queue.next, tarn__object_t, queue_link);
    tarn_list_remove(&o->queue_link);
    finish_locked(pool, o, false);
  }
  tarn__pool_unlock(pool);
}
