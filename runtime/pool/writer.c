/* Writing segments into the spill file, with their checksums: by two threads, the spill thread and a second hand, which take parts of a
 * batch in turn. While one waits for the disk the other hashes, and two writes are in flight: measured, that hides the hashing, and
 * writes a new file a fifth faster than one thread that hashes nothing (bench/pool.lua). The second hand is started with the first
 * batch of more than one part; where it cannot be, the spill thread does all. */
#include "base/alloc.h"
#include "base/sys.h"
#include "pool/pool-private.h"

#define PART_BYTES ((uint64_t)8 << 20) /* whole slices */
enum { PIECES_MAX = 256 };

/* What is left to be written of a batch. */
typedef struct job {
  pthread_mutex_t mutex; /* guards what follows */
  tarn_pool_t *pool;
  const tarn_list_t *end; /* the list's head */
  tarn_list_t *next;
  uint64_t done;    /* bytes of next that have been given out */
  tarn_error_t err; /* the first */
} job_t;

/* At most PART_BYTES, side by side in the file. */
typedef struct part {
  struct iovec iov[PIECES_MAX];
  tarn__block_t *blocks[PIECES_MAX];
  uint64_t from[PIECES_MAX]; /* offset of the piece in its block */
  int count;
  uint64_t offset;
} part_t;

struct tarn__hand {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t wake, idle;
  job_t *job; /* null: nothing to do */
  bool ending;
};

uint64_t tarn__sum(const uint8_t *bytes, uint64_t size, uint64_t from) {
  uint64_t sum = 0;
  for (uint64_t done = 0; done < size || done == 0; done += TARN__SUM_SLICE) {
    uint64_t part = size - done < TARN__SUM_SLICE ? size - done : TARN__SUM_SLICE;
    sum += tarn_hash64(bytes + done, part) * (2 * ((from + done) / TARN__SUM_SLICE) + 1);
  }
  return sum;
}

static bool take_part(job_t *j, part_t *p) {
  uint64_t bytes = 0;
  p->count = 0;
  pthread_mutex_lock(&j->mutex);
  while (j->next != j->end && p->count < PIECES_MAX && j->err.code == 0) {
    tarn__block_t *b = TARN_CONTAINER(j->next, tarn__block_t, write_link);
    uint64_t whole = tarn__page_round(b->pub.size), left = whole - j->done;
    uint64_t size = left < PART_BYTES ? left : PART_BYTES;
    if (bytes > 0 && bytes + size > PART_BYTES) { break; }
    if (p->count == 0) { p->offset = b->disk_offset + j->done; }
    p->blocks[p->count] = b;
    p->from[p->count] = j->done;
    p->iov[p->count++] =
        (struct iovec){j->pool->memory.base + b->seg->offset + j->done, (size_t)size};
    bytes += size;
    j->done += size;
    if (j->done == whole) {
      j->next = j->next->next;
      j->done = 0;
    }
  }
  pthread_mutex_unlock(&j->mutex);
  return p->count > 0;
}

static void sum_part(const part_t *p) {
  for (int i = 0; i < p->count; i++) {
    tarn__block_t *b = p->blocks[i];
    uint64_t left = b->pub.size - p->from[i];
    uint64_t size = left < p->iov[i].iov_len ? left : p->iov[i].iov_len;
    uint64_t sum = tarn__sum(p->iov[i].iov_base, size, p->from[i]);
    __atomic_fetch_add(&b->hash, sum, __ATOMIC_RELAXED);
  }
}

static void work(job_t *j) {
  part_t p;
  tarn_error_t err = {0};
  while (take_part(j, &p)) {
    sum_part(&p);
    if (tarn__spill_write(&j->pool->spill, p.iov, p.count, p.offset, &err) == 0) { continue; }
    pthread_mutex_lock(&j->mutex);
    if (j->err.code == 0) { j->err = err; }
    pthread_mutex_unlock(&j->mutex);
  }
}

/* ---- the second hand ---- */

static void *hand_main(void *arg) {
  tarn__hand_t *h = arg;
  pthread_mutex_lock(&h->mutex);
  while (!h->ending) {
    if (!h->job) {
      pthread_cond_wait(&h->wake, &h->mutex);
      continue;
    }
    job_t *j = h->job;
    pthread_mutex_unlock(&h->mutex);
    work(j);
    pthread_mutex_lock(&h->mutex);
    h->job = NULL;
    pthread_cond_signal(&h->idle);
  }
  pthread_mutex_unlock(&h->mutex);
  return NULL;
}

static void hand_free(tarn__hand_t *h) {
  pthread_cond_destroy(&h->idle);
  pthread_cond_destroy(&h->wake);
  pthread_mutex_destroy(&h->mutex);
  tarn_free(h);
}

/* Null: there is none. */
static tarn__hand_t *hand_of(tarn_pool_t *pool) {
  if (pool->hand) { return pool->hand; }
  tarn__hand_t *h = tarn_calloc(1, sizeof *h);
  if (!h) { return NULL; }
  pthread_mutex_init(&h->mutex, NULL); /* Linux' need no memory, and do not fail */
  pthread_cond_init(&h->wake, NULL);
  pthread_cond_init(&h->idle, NULL);
  if (tarn_sys_thread(&h->thread, hand_main, h) != 0) {
    hand_free(h);
    return NULL;
  }
  return pool->hand = h;
}

static void hand_give(tarn__hand_t *h, job_t *j) {
  pthread_mutex_lock(&h->mutex);
  h->job = j;
  pthread_cond_signal(&h->wake);
  pthread_mutex_unlock(&h->mutex);
}

static void hand_wait(tarn__hand_t *h) {
  pthread_mutex_lock(&h->mutex);
  while (h->job) { pthread_cond_wait(&h->idle, &h->mutex); }
  pthread_mutex_unlock(&h->mutex);
}

void tarn__hand_stop(tarn_pool_t *pool) {
  tarn__hand_t *h = pool->hand;
  if (!h) { return; }
  pthread_mutex_lock(&h->mutex);
  h->ending = true;
  pthread_cond_signal(&h->wake);
  pthread_mutex_unlock(&h->mutex);
  pthread_join(h->thread, NULL);
  hand_free(h);
  pool->hand = NULL;
}

int tarn__segments_write(tarn_pool_t *pool, tarn_list_t *segments, uint64_t bytes,
                         tarn_error_t *err) {
  job_t j = {.pool = pool, .end = segments, .next = segments->next};
  pthread_mutex_init(&j.mutex, NULL);
  tarn__hand_t *h = bytes > PART_BYTES ? hand_of(pool) : NULL;
  if (h) { hand_give(h, &j); }
  work(&j);
  if (h) { hand_wait(h); }
  pthread_mutex_destroy(&j.mutex);
  if (j.err.code != 0 && err) { *err = j.err; }
  return j.err.code;
}
