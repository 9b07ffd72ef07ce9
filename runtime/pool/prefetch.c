/* What is mapped from a file, or from another process, is prefetched and verified by a thread of its own: a reader that faulted it in page by
 * page would wait for the disk each time, and a checksum of a gigabyte is not computed while somebody waits for a pointer.
 *
 * Up to a MiB, and fronts of any size, are verified before they are handed out. The rest is looked at step by step: its pages are populated (measured
 * against MADV_WILLNEED, which made a cold scan two to four times slower here, and populating makes it faster), then summed. A block is kept
 * mapped meanwhile, and let go after the step during which its last reader has left. A mismatch stays with the block: whoever
 * maps it from then on gets TARN_ECORRUPT.
 *
 * Not at the reader's expense: after a step that found all in the page cache there is a pause, since the reader then reads at memory
 * speed; and of a block that takes more than half of the memory there is, what has been looked at is marked as the first to go, so
 * that it does not push out everything else. Where somebody waits for the outcome (TARN_GET_VERIFIED) there are no pauses. */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/sys.h"
#include "base/machine.h"
#include "pool/pool-private.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define STEP_BYTES TARN__SUM_SLICE
#define WARM_NS ((uint64_t)700000) /* a step of cold pages takes longer */

/* A block that is being looked at. */
typedef struct look {
  tarn__block_t *block;
  const uint8_t *at;
  uint64_t done, sum;
  uint64_t keep; /* bytes to be left in the page cache as they are */
  int fd; /* owned; a saved file is read through it: it may be truncated at any time, and must not end the process */
  tarn_hash_t *hash; /* owned; of a saved file's block */
  uint8_t *buffer;   /* owned */
  int rc;
} look_t;

enum { BUFFER_BYTES = 256 << 10 };

/* Prefetched, but not verified: its owner does that, or nobody can. */
static bool has_no_sum(const tarn__block_t *b) {
  return b->pub.kind == TARN__KIND_BORROWED || (b->saved && tarn__saved_is_raw(b->saved));
}

int tarn__block_mismatch(const tarn__block_t *b, tarn_error_t *err) {
  if (b->saved) { return tarn__saved_mismatch(b, err); }
  const char *dir = b->pool->spill.dir;
  int rc = tarn_error_set(err, TARN_ECORRUPT,
                          "%" PRIu64 " bytes at %" PRIu64
                          " of the spill file in %s are not what was written",
                          b->pub.size, b->disk_offset, dir);
  (void)tarn_error_path(err, dir);
  return rc;
}

/* ---- one block ---- */

static void pause_for(uint64_t ns) {
  struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
  (void)nanosleep(&t, NULL);
}

/* False: it cannot be read. */
static bool populate(const uint8_t *at, uint64_t size) {
  uint64_t before = (uintptr_t)at & (TARN__PAGE - 1);
  void *first = (void *)(uintptr_t)(at - before);
  int rc = madvise(first, tarn__page_round(before + size), MADV_POPULATE_READ);
  return rc == 0 || errno == EINVAL || errno == EINTR; /* Linux before 5.14 does not know it */
}

static void sum_saved(look_t *k, uint64_t size) {
  for (uint64_t done = 0; done < size;) {
    uint64_t left = size - done, at = k->block->disk_offset + k->done + done;
    ssize_t n = tarn_sys_pread(k->fd, k->buffer, left < BUFFER_BYTES ? left : BUFFER_BYTES, at);
    if (n <= 0) {
      k->rc = TARN_EIO;
      return;
    }
    tarn_hash_add(k->hash, k->buffer, (size_t)n);
    done += (uint64_t)n;
  }
}

static void step(look_t *k, bool hurry) {
  const tarn__block_t *b = k->block;
  uint64_t left = b->pub.size - k->done, size = left < STEP_BYTES ? left : STEP_BYTES;
  const uint8_t *at = k->at + k->done;
  uint64_t from = tarn_clock_ns();
  bool there = populate(at, size);
  uint64_t populated = tarn_clock_ns();
  if (k->hash) {
    sum_saved(k, size);
  } else if (!there) {
    k->rc = TARN_EIO;
  } else if (!has_no_sum(b)) {
    k->sum += tarn__sum(at, size, k->done);
  }
  k->done += size;
  uint64_t took = tarn_clock_ns() - from;
  bool much = k->done > k->keep;
  if (much) { (void)madvise((void *)(uintptr_t)(at), size, MADV_COLD); }
  if (!hurry && b->pub.kind != TARN__KIND_BORROWED && (much || populated - from < WARM_NS)) {
    pause_for(much ? took : 3 * took);
  }
}

static void look_begin(look_t *k, tarn__block_t *b) {
  uint64_t available = tarn_machine_available();
  *k = (look_t){.block = b, .at = b->pub.data, .fd = -1, .keep = UINT64_MAX};
  if (available > 0 && b->pub.size > available / 2) { k->keep = available / 4; }
  if (!b->saved || has_no_sum(b)) { return; }
  k->hash = tarn_hash_begin();
  k->buffer = tarn_malloc(BUFFER_BYTES);
  k->rc = k->hash && k->buffer ? tarn__saved_reopen(b->saved, &k->fd, NULL) : TARN_ENOMEM;
}

static void look_end(look_t *k) {
  if (k->hash) { k->sum = tarn_hash_end(k->hash); }
  tarn_free(k->buffer);
  if (k->fd >= 0) { close(k->fd); }
}

/* Nobody but us has it any more; one that is not summed yet, nobody wants any more. */
static bool is_left(const tarn__block_t *b) {
  return b->unsummed ? b->refs == 1 : b->maps == 1 && !tarn__lent(b);
}

static void finish_locked(tarn_pool_t *pool, const look_t *k) {
  tarn__block_t *b = k->block;
  if (k->rc != 0) {
    b->unreadable = true;
  } else if (k->done == b->pub.size) {
    if (b->unsummed) { b->hash = k->sum; }
    b->corrupt = !has_no_sum(b) && b->hash != k->sum;
    b->unsummed = false;
    b->checked = !b->corrupt;
    if (b->corrupt) {
      tarn_error_t err;
      (void)tarn__block_mismatch(b, &err);
      tarn_log(TARN_LOG_ERROR, "%s", err.message);
    }
  } else if (!is_left(b)) { /* somebody has come after we had given up */
    (void)tarn__look_at_locked(b);
  }
  tarn__pool_changed_locked(pool);
}

static void look_locked(tarn_pool_t *pool, tarn__block_t *b) {
  tarn_list_remove(&b->write_link);
  b->looking = true;
  if (tarn__block_map_locked(b, 0, NULL, NULL) != 0) {
    b->looking = false;
    b->unreadable = true;
    tarn__pool_changed_locked(pool);
    return;
  }
  look_t k;
  tarn__pool_unlock(pool);
  look_begin(&k, b);
  tarn__pool_lock(pool);
  while (k.rc == 0 && k.done < b->pub.size && !is_left(b) && !pool->look_stopping) {
    bool hurry = pool->look_waiters > 0;
    tarn__pool_unlock(pool);
    step(&k, hurry);
    tarn__pool_lock(pool);
  }
  tarn__pool_unlock(pool);
  look_end(&k);
  tarn__pool_lock(pool);
  b->looking = false;
  finish_locked(pool, &k);
  tarn__block_unmap_locked(b);
}

/* ---- the thread ---- */

static void *look_main(void *arg) {
  tarn_pool_t *pool = arg;
  tarn__pool_lock(pool);
  while (!pool->look_stopping) {
    bool wait = pool->openings > 0 && pool->look_waiters == 0;
    if (wait || tarn_list_empty(&pool->looks)) {
      pthread_cond_wait(&pool->look, &pool->mutex);
    } else {
      look_locked(pool, TARN_CONTAINER(pool->looks.next, tarn__block_t, write_link));
    }
    tarn__pool_unlock(pool); /* callbacks */
    tarn__pool_lock(pool);
  }
  tarn__pool_unlock(pool);
  return NULL;
}

void tarn__looks_wait(tarn_pool_t *pool, bool wait) {
  tarn__pool_lock(pool);
  pool->openings += wait ? 1u : -1u;
  if (!wait && !tarn_list_empty(&pool->looks)) { pthread_cond_signal(&pool->look); }
  tarn__pool_unlock(pool);
}

void tarn__look_stop(tarn_pool_t *pool) {
  tarn__pool_lock(pool);
  pool->look_stopping = true;
  pthread_cond_signal(&pool->look);
  tarn__pool_unlock(pool);
  if (pool->look_started) { pthread_join(pool->look_thread, NULL); }
}

bool tarn__look_at_locked(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  if (b->looking || !tarn_list_empty(&b->write_link)) { return true; }
  if (!pool->look_started) {
    if (pool->look_stopping || tarn_sys_thread(&pool->look_thread, look_main, pool) != 0) {
      return false;
    }
    pool->look_started = true;
  }
  tarn_list_push_back(&pool->looks, &b->write_link);
  pthread_cond_signal(&pool->look);
  return true;
}

void tarn__look_off_locked(tarn__block_t *b) {
  if (tarn__lent(b)) { return; } /* it is mapped elsewhere, and verified here for those too */
  b->checked = false;
  if ((b->on_disk && !b->unsummed) || b->pub.kind == TARN__KIND_BORROWED) {
    tarn_list_remove(&b->write_link);
  }
}

/* ---- what readers ask ---- */

/* Its bytes come from a file, or from another process, and have not been looked at. */
static bool unsure(const tarn__block_t *b) {
  bool foreign = (b->fmap || b->covered) && b->pub.sealed != 0;
  return b->maps > 0 && foreign && !b->checked && !b->quiet;
}

static int verify_locked(tarn__block_t *b, tarn_error_t *err) {
  const uint8_t *bytes = b->pub.data;
  b->refs += 2; /* the mapping that it is verified through stays */
  b->maps++;
  tarn__pool_unlock(b->pool);
  uint64_t sum = b->saved ? tarn_hash64(bytes, b->pub.size) : tarn__sum(bytes, b->pub.size, 0);
  tarn__pool_lock(b->pool);
  b->corrupt = sum != b->hash;
  b->checked = !b->corrupt;
  int rc = b->corrupt ? tarn__block_mismatch(b, err) : 0;
  tarn__block_unmap_locked(b);
  tarn__block_unref_locked(b);
  return rc;
}

int tarn__block_sound_locked(tarn__block_t *b, tarn_error_t *err) {
  if (b->corrupt) { return tarn__block_mismatch(b, err); }
  if (!unsure(b)) { return 0; }
  bool at_once = b->pub.size <= TARN__VERIFY_AT_ONCE_BYTES || b->pub.kind == TARN__KIND_HEAP;
  bool verifiable = !b->unsummed && !has_no_sum(b);
  if (at_once && !verifiable && !b->unsummed) { return 0; }
  if (at_once && verifiable) { return verify_locked(b, err); }
  return tarn__look_at_locked(b) || !verifiable ? 0 : verify_locked(b, err);
}

void tarn_block_prefetch(tarn_block_t *pub) {
  tarn__block_t *b = tarn__block(pub);
  tarn__pool_lock(b->pool);
  b->quiet = false;
  (void)tarn__block_sound_locked(b, NULL); /* it has no sum that could be wrong */
  tarn__pool_unlock(b->pool);
}

int tarn__block_verified_locked(tarn__block_t *b, uint32_t flags, tarn_error_t *err) {
  tarn_pool_t *pool = b->pool;
  for (;;) {
    int rc = tarn__block_sound_locked(b, err);
    if (rc != 0) { return rc; }
    if (!unsure(b) || has_no_sum(b)) { return 0; }
    if (b->unreadable) {
      b->unreadable = false; /* the next may have more luck */
      return tarn_error_set(err, TARN_EIO, "%" PRIu64 " bytes at %" PRIu64 " of %s cannot be read",
                            b->pub.size, b->disk_offset,
                            b->saved ? tarn__saved_path(b->saved) : pool->spill.dir);
    }
    if ((flags & TARN_BLOCK_WAIT) == 0) {
      return tarn_error_set(err, TARN_EAGAIN, "%s", tarn_error_text(TARN_EAGAIN));
    }
    pool->look_waiters++;
    pthread_cond_signal(&pool->look);
    tarn__pool_wait_locked(pool);
    pool->look_waiters--;
  }
}
