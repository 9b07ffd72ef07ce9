/* Lending, the holder's side, and what is to be told to the other side.
 *
 * A borrowed block is a mapping of another process's file. It is mapped for as long as its record lives; then the spill thread unmaps it,
 * and after the last one of a loan the loan is returned: never before, since the owner uses the memory again at once. The spill thread also
 * maps the owner's spill file over a block that has moved; a reference meanwhile keeps its addresses ours. Readers see the
 * same bytes before and after, page by page. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/sys.h"
#include "pool/pool-private.h"

#define LENDER_BITS 24

struct tarn__borrowed {
  tarn__note_t note; /* IN_PLACE */
  tarn_list_t link;  /* pool->moves or gone */
  tarn_borrow_t *of;
  tarn__block_t *block; /* null: none, or dead */
  uint8_t *at;
  uint64_t size;   /* mapped */
  int fd;          /* owned, while in pool->moves */
  uint64_t offset; /* in it */
};

struct tarn_borrow {
  tarn__note_t note; /* RETURNED */
  uint64_t key;
  uint64_t lender, loan;
  uint32_t alive; /* mapped blocks, and one for whoever is borrowing */
  bool refused;   /* only a mark: it has been returned without having been here */
  uint32_t count;
  tarn__borrowed_t blocks[];
};

static uint64_t key_of(uint64_t lender, uint64_t loan) { return loan << LENDER_BITS | lender; }

static size_t borrow_size(uint32_t count) {
  return sizeof(tarn_borrow_t) + count * sizeof(tarn__borrowed_t);
}

/* ---- notes ---- */

void tarn__note_post_locked(tarn_pool_t *pool, tarn__note_t *n) {
  if (!tarn_list_empty(&n->link)) { return; }
  tarn_list_push_back(&pool->notes, &n->link);
  pool->fire_lend = true;
}

/* Takes the oldest out; what it is in may be freed. */
static void take_note_locked(tarn_pool_t *pool, tarn_lend_note_t *out) {
  tarn__note_t *n = TARN_CONTAINER(pool->notes.next, tarn__note_t, link);
  tarn_list_remove(&n->link);
  *out = n->what;
  if (n->what.kind != TARN_LEND_RETURNED) { return; }
  tarn_borrow_t *w = TARN_CONTAINER(n, tarn_borrow_t, note);
  pool->records -= borrow_size(w->count);
  tarn_free(w);
}

bool tarn_pool_lend_next(tarn_pool_t *pool, tarn_lend_note_t *out) {
  tarn__pool_lock(pool);
  bool any = !tarn_list_empty(&pool->notes);
  if (any) { take_note_locked(pool, out); }
  tarn__pool_unlock(pool);
  return any;
}

/* ---- borrowing ---- */

static void put_locked(tarn_pool_t *pool, tarn_borrow_t *w) {
  if (--w->alive > 0) { return; }
  tarn_map_remove(&pool->borrows, w->key);
  w->note.what = (tarn_lend_note_t){TARN_LEND_RETURNED, w->lender, 0, w->loan, 0, 0};
  tarn__note_post_locked(pool, &w->note);
}

tarn_borrow_t *tarn_pool_borrow_begin(tarn_pool_t *pool, uint64_t lender, uint64_t loan,
                                      uint32_t block_count) {
  if (lender >> LENDER_BITS != 0 || loan >> (64 - LENDER_BITS) != 0) { return NULL; }
  tarn_borrow_t *w = tarn_calloc(1, borrow_size(block_count));
  if (!w) { return NULL; }
  w->key = key_of(lender, loan);
  w->lender = lender;
  w->loan = loan;
  w->alive = 1;
  w->count = block_count;
  tarn_list_init(&w->note.link);
  for (uint32_t i = 0; i < block_count; i++) {
    w->blocks[i].of = w;
    tarn_list_init(&w->blocks[i].link);
    tarn_list_init(&w->blocks[i].note.link);
  }
  tarn__pool_lock(pool);
  bool ok = tarn_map_get(&pool->borrows, w->key) == NULL &&
            tarn__spiller_start_locked(pool, NULL) == 0 &&
            tarn_map_set(&pool->borrows, w->key, w) == 0;
  if (ok) { pool->records += borrow_size(block_count); }
  tarn__pool_unlock(pool);
  if (ok) { return w; }
  tarn_free(w);
  return NULL;
}

/* What lies beyond a file's end would be a SIGBUS. TARN_EPROTO, TARN_EIO. */
static int check_within(int fd, uint64_t offset, uint64_t size) {
  struct stat st;
  if (tarn_sys_fstat(fd, &st) != 0) { return TARN_EIO; }
  uint64_t end = (uint64_t)st.st_size;
  return offset <= end && size <= end - offset ? 0 : TARN_EPROTO;
}

static void mind(void *at, uint64_t size) {
  (void)madvise(at, size, MADV_DONTFORK);
  (void)madvise(at, size, MADV_DONTDUMP);
}

int tarn_pool_borrow_block(tarn_pool_t *pool, tarn_borrow_t *w, uint32_t block, int fd,
                           uint64_t offset, uint64_t size, tarn_block_t **out, tarn_error_t *err) {
  uint64_t length = tarn__page_round(size);
  if (size == 0 || size > (uint64_t)1 << 56 || offset % TARN__PAGE != 0 || block >= w->count ||
      w->blocks[block].at) {
    return tarn_error_set(err, TARN_EPROTO, "a loan that cannot be");
  }
  int rc = check_within(fd, offset, size);
  if (rc != 0) {
    return tarn_error_set(err, rc, "a block of another process is not within its memory or file");
  }
  tarn__block_t *b = tarn__block_new(pool, size, TARN__KIND_BORROWED);
  if (!b) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a block's record"); }
  bool many = !tarn__mappings_take(&pool->mappings, 1);
  void *at = many ? MAP_FAILED : tarn_sys_mmap(NULL, length, PROT_READ, MAP_SHARED, fd, offset);
  if (at == MAP_FAILED) {
    tarn__block_discard(b);
    return tarn_error_set(err, TARN_ENOMEM, "another process's memory cannot be mapped");
  }
  mind(at, length);
  tarn__borrowed_t *m = &w->blocks[block];
  m->block = b;
  m->at = b->pub.data = b->fmap = at;
  m->size = b->disk_size = length;
  b->borrowed = m;
  b->pub.sealed = 1;
  b->refs = 2;
  b->maps = 1;
  tarn__pool_lock(pool);
  w->alive++;
  pool->borrowed += size;
  tarn__block_link_locked(b);
  (void)tarn__block_sound_locked(b, err); /* has it prefetched */
  tarn__pool_unlock(pool);
  *out = &b->pub;
  return 0;
}

static tarn_borrow_t *new_mark(uint64_t lender, uint64_t loan) {
  tarn_borrow_t *w = tarn_calloc(1, borrow_size(0));
  if (!w) { return NULL; }
  w->key = key_of(lender, loan);
  w->lender = lender;
  w->loan = loan;
  w->refused = true;
  tarn_list_init(&w->note.link);
  return w;
}

void tarn_pool_borrow_check(tarn_pool_t *pool, uint64_t lender, uint64_t loan) {
  if (lender >> LENDER_BITS != 0 || loan >> (64 - LENDER_BITS) != 0) { return; }
  tarn_borrow_t *mark = new_mark(lender, loan), *answer = new_mark(lender, loan);
  tarn__pool_lock(pool);
  tarn_borrow_t *known = tarn_map_get(&pool->borrows, key_of(lender, loan));
  bool missing = (!known || known->refused) && mark && answer;
  if (missing && !known) {
    missing = tarn_map_set(&pool->borrows, mark->key, mark) == 0;
    if (missing) {
      pool->records += borrow_size(0);
      mark = NULL;
    }
  }
  if (missing) {
    pool->records += borrow_size(0);
    answer->note.what = (tarn_lend_note_t){TARN_LEND_RETURNED, lender, 0, loan, 0, 0};
    tarn__note_post_locked(pool, &answer->note);
    answer = NULL;
  } /* without memory the owner keeps it: it will ask again, or see us end */
  tarn__pool_unlock(pool);
  tarn_free(mark);
  tarn_free(answer);
}

/* Marks of one lender, or of all (0). */
static void forget_marks_locked(tarn_pool_t *pool, uint64_t lender) {
  size_t cursor = 0;
  uint64_t key = 0;
  for (tarn_borrow_t *w; (w = tarn_map_next(&pool->borrows, &cursor, &key)) != NULL;) {
    if (!w->refused || (lender != 0 && w->lender != lender)) { continue; }
    tarn_map_remove(&pool->borrows, key);
    pool->records -= borrow_size(0);
    tarn_free(w);
    cursor = 0; /* what is left may have changed places */
  }
}

bool tarn_pool_borrows_from(tarn_pool_t *pool, uint64_t lender) {
  size_t cursor = 0;
  uint64_t key = 0;
  bool any = false;
  tarn__pool_lock(pool);
  for (const tarn_borrow_t *w;
       !any && (w = tarn_map_next(&pool->borrows, &cursor, &key)) != NULL;) {
    any = w->lender == lender && !w->refused;
  }
  tarn__pool_unlock(pool);
  return any;
}

void tarn_pool_borrow_forget(tarn_pool_t *pool, uint64_t lender) {
  tarn__pool_lock(pool);
  forget_marks_locked(pool, lender);
  tarn__pool_unlock(pool);
}

void tarn_pool_borrow_end(tarn_pool_t *pool, tarn_borrow_t *w) {
  tarn__pool_lock(pool);
  put_locked(pool, w);
  tarn__pool_unlock(pool);
}

void tarn__borrowed_dead_locked(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  tarn__borrowed_t *m = b->borrowed;
  tarn_list_remove(&b->link);
  pool->records -= sizeof *b;
  pool->borrowed -= b->pub.size;
  m->block = NULL;
  tarn__block_discard_locked(b);
  tarn_list_push_back(&pool->gone, &m->link);
  pthread_cond_signal(&pool->work);
  tarn__pool_changed_locked(pool);
}

/* ---- moving, unmapping ---- */

void tarn_pool_borrow_moved(tarn_pool_t *pool, uint64_t lender, uint64_t loan, uint32_t block,
                            int fd, uint64_t offset) {
  int mine = offset % TARN__PAGE == 0 ? tarn_sys_dup(fd) : -1;
  if (mine < 0) { return; } /* the owner keeps the memory */
  tarn__pool_lock(pool);
  tarn_borrow_t *w = tarn_map_get(&pool->borrows, key_of(lender, loan));
  tarn__borrowed_t *m = w && block < w->count ? &w->blocks[block] : NULL;
  if (m && m->block && tarn_list_empty(&m->link)) {
    m->fd = mine;
    m->offset = offset;
    m->block->refs++;
    tarn_list_push_back(&pool->moves, &m->link);
    pthread_cond_signal(&pool->work);
    mine = -1;
  }
  tarn__pool_unlock(pool);
  if (mine >= 0) { close(mine); }
}

/* An error half-way does no harm: the bytes are the same in both places, and the owner is not told. */
static bool map_over(const tarn__borrowed_t *m) {
  if (check_within(m->fd, m->offset, m->size) != 0) { return false; }
  for (uint64_t done = 0; done < m->size; done += TARN__SLICE) {
    uint64_t part = m->size - done < TARN__SLICE ? m->size - done : TARN__SLICE;
    void *at = m->at + done;
    if (tarn_sys_mmap(at, part, PROT_READ, MAP_SHARED | MAP_FIXED, m->fd, m->offset + done) ==
        MAP_FAILED) {
      return false;
    }
    mind(at, part);
  }
  return true;
}

static void move_one_locked(tarn_pool_t *pool) {
  tarn__borrowed_t *m = TARN_CONTAINER(pool->moves.next, tarn__borrowed_t, link);
  tarn__block_t *b = m->block;
  tarn_list_remove(&m->link);
  tarn__pool_unlock(pool);
  bool ok = map_over(m);
  close(m->fd);
  tarn__pool_lock(pool);
  if (ok) {
    m->note.what = (tarn_lend_note_t){
        TARN_LEND_IN_PLACE, m->of->lender, 0, m->of->loan, (uint32_t)(m - m->of->blocks), 0};
    tarn__note_post_locked(pool, &m->note);
  }
  tarn__block_unref_locked(b);
}

static void unmap_one_locked(tarn_pool_t *pool) {
  tarn__borrowed_t *m = TARN_CONTAINER(pool->gone.next, tarn__borrowed_t, link);
  tarn_list_remove(&m->link);
  tarn__pool_unlock(pool);
  for (uint64_t done = 0; done < m->size; done += TARN__SLICE) {
    uint64_t part = m->size - done < TARN__SLICE ? m->size - done : TARN__SLICE;
    (void)tarn_sys_munmap(m->at + done, part);
  }
  tarn__pool_lock(pool);
  put_locked(pool, m->of);
}

bool tarn__borrowed_work_locked(tarn_pool_t *pool) {
  if (!tarn_list_empty(&pool->moves)) {
    move_one_locked(pool);
  } else if (!tarn_list_empty(&pool->gone)) {
    unmap_one_locked(pool);
  } else {
    return false;
  }
  return true;
}

void tarn__borrow_clear_locked(tarn_pool_t *pool) {
  while (!tarn_list_empty(&pool->moves)) {
    tarn__borrowed_t *m = TARN_CONTAINER(pool->moves.next, tarn__borrowed_t, link);
    tarn_list_remove(&m->link);
    close(m->fd);
    tarn__block_unref_locked(m->block);
  }
  while (!tarn_list_empty(&pool->gone)) { unmap_one_locked(pool); }
  tarn_lend_note_t left;
  while (!tarn_list_empty(&pool->notes)) { take_note_locked(pool, &left); }
  forget_marks_locked(pool, 0);
  tarn_map_clear(&pool->borrows);
}
