/* Lending, the owner's side: who maps what of ours, and when its memory may go.
 *
 * A loan holds a value, and counts on each of its large blocks (tarn__lent_t). A lent piece is in memory, told to move, or in the
 * file. The rules that keep a borrower from ever seeing a punched or reused page:
 *   - A block that is on disk is lent from there, for good; only one that is not yet is lent from memory.
 *   - Extents go with their block, and a loan keeps its blocks.
 *   - A segment is vacated (punched, recycled) only while no piece of it is in memory or told; home.c asks tarn__lent_in_memory
 *     at the two places where that can begin. A piece leaves that state by its holder's word, or by its holder's end.
 * A block whose vacating waits for holders is "leaving". After patience_ns its bytes are no longer counted upon by who waits for room.
 * The pool's mutex is held throughout, but for the public calls. */
#include <errno.h>
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/sys.h"
#include "pool/pool-private.h"

typedef enum { NOT_LENT, IN_MEMORY, TOLD, IN_FILE } where_t;

typedef struct holder {
  tarn_list_t loans;
  uint64_t id;
  uint64_t late; /* pieces that it was told of long ago */
} holder_t;

typedef struct loan loan_t;
typedef struct piece {
  tarn__note_t note;
  tarn_list_t link; /* lent->pieces */
  loan_t *loan;
  tarn__block_t *block; /* the value's */
  where_t where;
  bool late;
} piece_t;

struct loan {
  tarn__note_t note; /* CHECK */
  tarn_list_t link;  /* holder->loans */
  holder_t *holder;
  uint64_t id, tag;
  tarn_value_t *value; /* a hold */
  uint32_t count;
  piece_t pieces[]; /* one for each block of the value */
};

static size_t loan_size(uint32_t count) { return sizeof(loan_t) + count * sizeof(piece_t); }

/* ---- what others need to find us ---- */

static int place_token_locked(tarn_pool_t *pool, const uint8_t *token, tarn_error_t *err) {
  tarn__segment_t s;
  if (pool->has_token) { return 0; }
  if (!tarn__memory_fresh(&pool->memory, &s, TARN__PAGE)) {
    return tarn_error_set(err, TARN_ENOMEM, "no addresses left for lending");
  }
  memcpy(pool->token, token, TARN_LEND_TOKEN);
  memcpy(pool->memory.base + s.offset, token, TARN_LEND_TOKEN);
  pool->token_offset = s.offset;
  pool->has_token = true;
  return 0;
}

int tarn_pool_lend_source(tarn_pool_t *pool, const uint8_t *token, tarn_lend_source_t *out,
                          tarn_error_t *err) {
  struct stat st;
  tarn__pool_lock(pool);
  int rc = place_token_locked(pool, token, err);
  *out = (tarn_lend_source_t){.memory_fd = pool->memory.fd, .token_offset = pool->token_offset};
  memcpy(out->token, pool->token, TARN_LEND_TOKEN);
  tarn__pool_unlock(pool);
  out->spill_fd = __atomic_load_n(&pool->spill.fd, __ATOMIC_ACQUIRE);
  if (rc != 0) { return rc; }
  if (tarn_sys_fstat(out->memory_fd, &st) != 0) {
    return tarn_error_errno(err, errno, "the pool's memory");
  }
  out->memory_dev = st.st_dev;
  out->memory_ino = st.st_ino;
  if (out->spill_fd < 0) { return 0; }
  if (tarn_sys_fstat(out->spill_fd, &st) != 0) {
    return tarn_error_errno(err, errno, "the spill file");
  }
  out->spill_dev = st.st_dev;
  out->spill_ino = st.st_ino;
  return 0;
}

/* ---- blocks that are lent ---- */

static void forget_lent(tarn__block_t *b) {
  tarn_free(b->lent);
  b->lent = NULL;
}

/* The piece does not map memory any more. */
static void out_of_memory_locked(tarn_pool_t *pool, piece_t *p) {
  tarn__lent_t *lent = p->block->lent;
  tarn_list_remove(&p->note.link);
  if (p->late) { p->loan->holder->late--; }
  p->late = false;
  if (--lent->in_memory > 0 || !lent->leaving) { return; }
  tarn_list_remove(&lent->link);
  tarn_list_push_back(&pool->left, &lent->link);
  pthread_cond_signal(&pool->work);
}

static void end_piece_locked(tarn_pool_t *pool, piece_t *p) {
  if (p->where == NOT_LENT) { return; }
  tarn__lent_t *lent = p->block->lent;
  if (p->where != IN_FILE) { out_of_memory_locked(pool, p); }
  p->where = NOT_LENT;
  tarn_list_remove(&p->link);
  if (--lent->count > 0) { return; }
  pool->lent -= p->block->pub.size;
  if (!lent->leaving) { forget_lent(p->block); }
}

static void end_loan_locked(tarn_pool_t *pool, loan_t *l) {
  tarn_value_t *v = l->value;
  for (uint32_t i = 0; i < l->count; i++) { end_piece_locked(pool, &l->pieces[i]); }
  tarn_map_remove(&pool->loans, l->id);
  tarn_list_remove(&l->note.link);
  tarn_list_remove(&l->link);
  if (tarn_list_empty(&l->holder->loans)) {
    tarn_map_remove(&pool->holders, l->holder->id);
    tarn_free(l->holder);
  }
  pool->records -= loan_size(l->count);
  tarn_free(l);
  v->loans--;
  tarn__visitor_check_locked(v);
  tarn__value_unhold_locked(v);
  tarn__pool_changed_locked(pool);
}

void tarn__lent_leave_locked(tarn__block_t *b) {
  tarn_pool_t *pool = b->pool;
  tarn__lent_t *lent = b->lent;
  if (lent->leaving) { return; }
  bool late = false;
  for (tarn_list_t *l = lent->pieces.next; l != &lent->pieces; l = l->next) {
    piece_t *p = TARN_CONTAINER(l, piece_t, link);
    if (p->where != IN_MEMORY) { continue; }
    p->where = TOLD;
    late |= p->loan->holder->late > 0; /* it does not answer: nor will it now */
    p->note.what = (tarn_lend_note_t){.kind = TARN_LEND_MOVED,
                                      .peer = p->loan->holder->id,
                                      .tag = p->loan->tag,
                                      .loan = p->loan->id,
                                      .block = (uint32_t)(p - p->loan->pieces),
                                      .offset = b->disk_offset};
    tarn__note_post_locked(pool, &p->note);
  }
  lent->leaving = true;
  lent->block = b;
  b->refs++;
  lent->since_ns = tarn_clock_ns();
  lent->coming = late ? 0 : b->seg->warm;
  pool->leaving += lent->coming;
  tarn_list_push_back(late ? &pool->late : &pool->leavers, &lent->link);
}

static void left_locked(tarn_pool_t *pool, tarn__lent_t *lent) {
  tarn__block_t *b = lent->block;
  tarn_list_remove(&lent->link);
  pool->leaving -= lent->coming;
  lent->coming = 0;
  lent->leaving = false;
  if (lent->count == 0) { forget_lent(b); }
}

bool tarn__lent_settle_locked(tarn_pool_t *pool) {
  if (tarn_list_empty(&pool->left)) { return false; }
  tarn__lent_t *lent = TARN_CONTAINER(pool->left.next, tarn__lent_t, link);
  tarn__block_t *b = lent->block;
  left_locked(pool, lent);
  tarn__block_vacate_locked(b);
  tarn__block_unref_locked(b);
  tarn__pool_changed_locked(pool);
  return true;
}

bool tarn__lent_late_locked(tarn_pool_t *pool) {
  if (tarn_list_empty(&pool->leavers)) { return false; }
  tarn__lent_t *lent = TARN_CONTAINER(pool->leavers.next, tarn__lent_t, link);
  if (tarn_clock_ns() - lent->since_ns < pool->config.patience_ns) { return false; }
  tarn_list_remove(&lent->link);
  tarn_list_push_back(&pool->late, &lent->link);
  pool->leaving -= lent->coming;
  lent->coming = 0;
  for (tarn_list_t *l = lent->pieces.next; l != &lent->pieces; l = l->next) {
    piece_t *p = TARN_CONTAINER(l, piece_t, link);
    if (p->where != TOLD || p->late) { continue; }
    p->late = true;
    p->loan->holder->late++;
  }
  tarn__pool_changed_locked(pool); /* who waits for these bytes looks for others */
  return true;
}

void tarn__lent_orphan_locked(tarn_value_t *v) {
  if (v->object) { return; }
  (void)tarn__visitor_enter_locked(v->pool, v); /* without memory for it, it just stays */
}

/* ---- lending ---- */

static holder_t *holder_locked(tarn_pool_t *pool, uint64_t id) {
  holder_t *h = tarn_map_get(&pool->holders, id);
  if (h) { return h; }
  h = tarn_calloc(1, sizeof *h);
  if (!h || tarn_map_set(&pool->holders, id, h) != 0) {
    tarn_free(h);
    return NULL;
  }
  h->id = id;
  tarn_list_init(&h->loans);
  return h;
}

/* A saved file's blocks lie in a file of the user's, which is neither ours to promise nor what a holder opens. */
static bool lendable(const tarn__block_t *b) {
  bool ours = b->pub.kind == TARN__KIND_SEGMENT || b->pub.kind == TARN__KIND_FILE;
  return ours && !b->saved; /* a user's file is not ours to promise */
}

/* A record for each block that is to be lent. */
static int prepare_locked(const tarn_value_t *v) {
  bool any = false;
  for (uint32_t i = 1; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    if (b->pub.size >= TARN_POOL_MAP_MIN && !lendable(b)) { return TARN_EINVAL; }
    any |= lendable(b);
  }
  if (!any) { return TARN_EINVAL; }
  for (uint32_t i = 1; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    if (!lendable(b) || b->lent) { continue; }
    b->lent = tarn_calloc(1, sizeof *b->lent);
    if (!b->lent) { return TARN_ENOMEM; }
    tarn_list_init(&b->lent->link);
    tarn_list_init(&b->lent->pieces);
  }
  return 0;
}

static void unprepare_locked(const tarn_value_t *v) {
  for (uint32_t i = 1; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    if (lendable(b) && b->lent && b->lent->count == 0 && !b->lent->leaving) { forget_lent(b); }
  }
}

static void lend_piece_locked(tarn_pool_t *pool, piece_t *p, tarn_lend_place_t *place) {
  tarn__block_t *b = p->block;
  tarn_list_push_back(&b->lent->pieces, &p->link);
  if (b->lent->count++ == 0) { pool->lent += b->pub.size; }
  place->lent = true;
  place->in_file = b->on_disk;
  place->offset = b->on_disk ? b->disk_offset : b->seg->offset;
  p->where = b->on_disk ? IN_FILE : IN_MEMORY;
  if (!b->on_disk) { b->lent->in_memory++; }
}

int tarn_pool_lend(tarn_pool_t *pool, tarn_value_t *v, uint64_t holder, uint64_t tag,
                   uint64_t *loan, tarn_lend_place_t *places) {
  uint32_t count = v->count - 1;
  loan_t *l = tarn_calloc(1, loan_size(count));
  if (!l) { return TARN_ENOMEM; }
  tarn__pool_lock(pool);
  int rc = prepare_locked(v);
  if (rc == 0) {
    l->id = pool->last_loan + 1;
    if (tarn_map_set(&pool->loans, l->id, l) != 0) { rc = TARN_ENOMEM; }
  }
  if (rc == 0 && !(l->holder = holder_locked(pool, holder))) {
    tarn_map_remove(&pool->loans, l->id);
    rc = TARN_ENOMEM;
  }
  if (rc != 0) {
    unprepare_locked(v);
    tarn__pool_unlock(pool);
    tarn_free(l);
    return rc;
  }
  *loan = pool->last_loan = l->id;
  l->tag = tag;
  l->note.what =
      (tarn_lend_note_t){.kind = TARN_LEND_CHECK, .peer = holder, .tag = tag, .loan = l->id};
  tarn_list_init(&l->note.link);
  l->value = v;
  l->count = count;
  tarn_list_push_back(&l->holder->loans, &l->link);
  tarn__value_hold_locked(v);
  v->loans++;
  pool->records += loan_size(count);
  for (uint32_t i = 0; i < count; i++) {
    piece_t *p = &l->pieces[i];
    *p = (piece_t){.loan = l, .block = v->pieces[i + 1]};
    tarn_list_init(&p->link);
    tarn_list_init(&p->note.link);
    places[i] = (tarn_lend_place_t){0};
    if (lendable(p->block)) { lend_piece_locked(pool, p, &places[i]); }
  }
  tarn__lent_orphan_locked(v); /* a message's value is nobody's object */
  tarn__pool_unlock(pool);
  return 0;
}

static loan_t *find_locked(tarn_pool_t *pool, uint64_t holder, uint64_t id) {
  loan_t *l = tarn_map_get(&pool->loans, id);
  return l && l->holder->id == holder ? l : NULL;
}

int tarn_pool_lend_value(tarn_pool_t *pool, uint64_t holder, uint64_t loan, tarn_value_t **v,
                         tarn_error_t *err) {
  tarn__pool_lock(pool);
  loan_t *l = find_locked(pool, holder, loan);
  int rc = TARN_ENOENT;
  if (l) {
    tarn_value_t *found = l->value;
    tarn__value_hold_locked(found);
    rc = tarn__value_open_locked(found, 0, err);
    if (rc == 0) {
      rc = tarn__value_sound_locked(found, TARN_GET_VERIFIED | TARN_BLOCK_WAIT, err);
      if (rc != 0) { tarn__value_close_locked(found); }
    }
    tarn__value_unhold_locked(found);
    if (rc == 0) { *v = found; }
  }
  tarn__pool_unlock(pool);
  return rc;
}

void tarn_pool_lend_moved(tarn_pool_t *pool, uint64_t holder, uint64_t loan, uint32_t block) {
  tarn__pool_lock(pool);
  loan_t *l = find_locked(pool, holder, loan);
  if (l && block < l->count && l->pieces[block].where == TOLD) {
    l->pieces[block].where = IN_FILE;
    out_of_memory_locked(pool, &l->pieces[block]);
  }
  tarn__pool_unlock(pool);
}

void tarn_pool_lend_end(tarn_pool_t *pool, uint64_t holder, uint64_t loan) {
  tarn__pool_lock(pool);
  loan_t *l = find_locked(pool, holder, loan);
  if (l) { end_loan_locked(pool, l); }
  tarn__pool_unlock(pool);
}

void tarn_pool_lend_end_all(tarn_pool_t *pool, uint64_t holder) {
  tarn__pool_lock(pool);
  for (holder_t *h; (h = tarn_map_get(&pool->holders, holder)) != NULL;) {
    end_loan_locked(pool, TARN_CONTAINER(h->loans.next, loan_t, link));
  }
  tarn__pool_unlock(pool);
}

bool tarn_pool_lends_to(tarn_pool_t *pool, uint64_t holder) {
  tarn__pool_lock(pool);
  bool any = tarn_map_get(&pool->holders, holder) != NULL;
  tarn__pool_unlock(pool);
  return any;
}

void tarn_pool_lend_again(tarn_pool_t *pool, uint64_t holder) {
  tarn__pool_lock(pool);
  holder_t *h = tarn_map_get(&pool->holders, holder);
  for (tarn_list_t *k = h ? h->loans.next : NULL; h && k != &h->loans; k = k->next) {
    loan_t *l = TARN_CONTAINER(k, loan_t, link);
    tarn__note_post_locked(pool, &l->note);
    for (uint32_t i = 0; i < l->count; i++) {
      if (l->pieces[i].where == TOLD) { tarn__note_post_locked(pool, &l->pieces[i].note); }
    }
  }
  tarn__pool_unlock(pool);
}

void tarn__lend_clear_locked(tarn_pool_t *pool) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (loan_t *l; (l = tarn_map_next(&pool->loans, &cursor, &id)) != NULL; cursor = 0) {
    end_loan_locked(pool, l);
  }
  while (!tarn_list_empty(&pool->left)) {
    tarn__lent_t *lent = TARN_CONTAINER(pool->left.next, tarn__lent_t, link);
    tarn__block_t *b = lent->block;
    left_locked(pool, lent);
    tarn__block_unref_locked(b);
  }
  tarn_map_clear(&pool->loans);
  tarn_map_clear(&pool->holders);
}
