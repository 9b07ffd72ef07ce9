/* Packs: many small pieces in one extent. Those of records are kept in classes by how much of them lives. When the dead take more
 * than an eighth beside the living (and some slack), the spill thread moves what lives out of the emptiest ones into a new pack: reads
 * a pack from end to end, asks of each record whether its object still has it there, and writes those that do together.
 *
 * A record, 16 bytes and then the object's: XXH3 of all that follows (8), id (6), size (2), little-endian. An id of 0 ends a pack. */
#include "pool/pool-private.h"

#include <inttypes.h>
#include <string.h>
#include "base/alloc.h"
#include "image/file.h"

#define SLACK_BYTES ((uint64_t)16 << 20)
enum { READ_BYTES = 256 << 10, HASH_BYTES = 8 };

/* ---- packs ---- */

void tarn__packs_init(tarn_pool_t *pool) {
  tarn_map_init(&pool->packs.by_number);
  for (uint32_t i = 0; i < TARN__PACK_FILLS; i++) { tarn_list_init(&pool->packs.by_fill[i]); }
}

void tarn__packs_clear(tarn_pool_t *pool) { tarn_map_clear(&pool->packs.by_number); }

/* Into its class, at the end: those that could not be emptied come last. */
static void classify(tarn_pool_t *pool, tarn__pack_t *pack) {
  if (pack->moving) { return; } /* it is in none */
  uint64_t fill = pack->live_bytes * TARN__PACK_FILLS / pack->size;
  tarn_list_remove(&pack->link);
  tarn_list_push_back(&pool->packs.by_fill[fill < TARN__PACK_FILLS ? fill : TARN__PACK_FILLS - 1],
                      &pack->link);
}

int tarn__pack_enter_locked(tarn_pool_t *pool, tarn__pack_t *pack) {
  uint32_t number = pool->packs.last_number + 1;
  tarn_list_init(&pack->link);
  if (number == 0 || tarn_map_set(&pool->packs.by_number, number, pack) != 0) {
    return TARN_ENOMEM;
  }
  pack->number = pool->packs.last_number = number;
  pool->packs.size_bytes += pack->size;
  classify(pool, pack);
  return 0;
}

static void pack_free(tarn_pool_t *pool, tarn__pack_t *pack) {
  if (pack->number != 0) {
    tarn_list_remove(&pack->link);
    tarn_map_remove(&pool->packs.by_number, pack->number);
    pool->packs.size_bytes -= pack->size;
  }
  tarn__extent_give_locked(pool, pack->offset, pack->size);
  tarn_free(pack);
}

void tarn__pack_leave_locked(tarn_pool_t *pool, tarn__pack_t *pack, uint64_t size) {
  pack->live_bytes -= size;
  if (pack->number != 0) { pool->packs.live_bytes -= size; }
  if (--pack->live == 0) {
    pack_free(pool, pack);
  } else if (pack->number != 0 && size > 0) {
    classify(pool, pack);
    if (tarn__packs_due(pool)) { pthread_cond_signal(&pool->work); }
  }
}

bool tarn__packs_due(const tarn_pool_t *pool) {
  const tarn__packs_t *p = &pool->packs;
  return p->size_bytes > p->live_bytes + p->live_bytes / 8 + SLACK_BYTES;
}

/* ---- records ---- */

static void store(uint8_t *to, uint64_t n, size_t bytes) { memcpy(to, &n, bytes); }

static uint64_t load(const uint8_t *from, size_t bytes) {
  uint64_t n = 0;
  memcpy(&n, from, bytes);
  return n;
}

void tarn__record_write(const tarn__object_t *o, uint8_t *to) {
  store(to + HASH_BYTES, o->id, 6);
  store(to + HASH_BYTES + 6, o->size, 2);
  tarn__small_copy(o, to + TARN__RECORD_HEADER);
  store(to, tarn_hash64(to + HASH_BYTES, TARN__RECORD_HEADER - HASH_BYTES + o->size), HASH_BYTES);
}

void tarn__record_join_locked(tarn_pool_t *pool, tarn__object_t *o, tarn__pack_t *pack,
                              uint32_t offset) {
  uint64_t size = tarn__record_size(o->size);
  o->pack = pack->number;
  o->offset = offset;
  pack->live++;
  pack->live_bytes += size;
  pool->packs.live_bytes += size;
  pool->spilled += o->size;
  classify(pool, pack);
}

void tarn__record_leave_locked(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__pack_t *pack = tarn_map_get(&pool->packs.by_number, o->pack);
  o->pack = 0;
  pool->spilled -= o->size;
  tarn__pack_leave_locked(pool, pack, tarn__record_size(o->size));
}

int tarn__record_read(tarn_pool_t *pool, const tarn__pack_t *pack, uint32_t offset, uint64_t id,
                      uint32_t size, uint8_t **record, tarn_error_t *err) {
  uint64_t at = pack->offset + offset, whole = tarn__record_size(size);
  uint8_t *r = tarn_malloc(whole);
  if (!r) { return tarn_error_set(err, TARN_ENOMEM, "no memory for %" PRIu64 " bytes", whole); }
  int rc = tarn__spill_read(&pool->spill, r, whole, at, err);
  if (rc == 0 && (load(r, HASH_BYTES) != tarn_hash64(r + HASH_BYTES, whole - HASH_BYTES) ||
                  load(r + HASH_BYTES, 6) != id || load(r + HASH_BYTES + 6, 2) != size)) {
    rc = tarn_error_set(err, TARN_ECORRUPT,
                        "%u bytes at %" PRIu64 " of the spill file in %s, of object %" PRIu64
                        ", are not what was written",
                        size, at, pool->spill.dir, id);
  }
  if (rc != 0) {
    tarn_free(r);
    return rc;
  }
  *record = r;
  return 0;
}

/* ---- moving what lives ---- */

/* One record on its way. */
typedef struct move {
  uint64_t id;
  uint32_t pack, from, to;
} move_t;

typedef struct tidy {
  uint8_t *out; /* the spill's, for records */
  uint32_t fill;
  uint8_t *in;   /* owned: READ_BYTES and the longest record */
  move_t *moves; /* owned */
  size_t count, capacity;
} tidy_t;

static bool add_move(tidy_t *t, const tarn__object_t *o, const uint8_t *record, uint64_t size) {
  if (t->count == t->capacity) {
    size_t more = t->capacity ? t->capacity * 2 : 256;
    move_t *moves = tarn_realloc(t->moves, more * sizeof *moves);
    if (!moves) { return false; }
    t->moves = moves;
    t->capacity = more;
  }
  t->moves[t->count++] = (move_t){.id = o->id, .pack = o->pack, .from = o->offset, .to = t->fill};
  memcpy(t->out + t->fill, record, size);
  t->fill += (uint32_t)size;
  return true;
}

/* The object that the record of this pack is of, if it is to be moved: being read it has to stay. */
static tarn__object_t *owner_locked(tarn_pool_t *pool, uint64_t id, uint32_t pack,
                                    uint32_t offset) {
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  return o && o->form == TARN__SMALL && !o->evicting && o->pack == pack && o->offset == offset
             ? o
             : NULL;
}

/* Takes the whole records that are in the size bytes at t->in, which begin at offset. How many bytes that were; *end: nothing more is
 * to be had of this pack. */
static uint64_t sift_locked(tarn_pool_t *pool, tidy_t *t, const tarn__pack_t *pack, uint32_t offset,
                            uint64_t size, bool *end) {
  uint64_t at = 0;
  while (size - at >= TARN__RECORD_HEADER) {
    const uint8_t *record = t->in + at;
    uint64_t id = load(record + HASH_BYTES, 6);
    uint64_t whole = tarn__record_size((uint32_t)load(record + HASH_BYTES + 6, 2));
    *end = id == 0;
    if (*end || whole > size - at) { return at; }
    tarn__object_t *o = owner_locked(pool, id, pack->number, offset + (uint32_t)at);
    /* What is not what was written stays where it is: its get will say so. */
    if (o && load(record, HASH_BYTES) == tarn_hash64(record + HASH_BYTES, whole - HASH_BYTES)) {
      *end = whole > TARN__SPILL_BUFFER - t->fill || !add_move(t, o, record, whole);
      if (*end) { return at; }
    }
    at += whole;
  }
  return at;
}

/* Lets go while it reads. */
static int scan_locked(tarn_pool_t *pool, tidy_t *t, const tarn__pack_t *pack, tarn_error_t *err) {
  uint64_t done = 0; /* bytes of the pack looked at */
  uint64_t kept = 0; /* bytes at t->in that are the beginning of a record */
  bool end = false;
  while (!end && done + kept < pack->size) {
    uint64_t left = pack->size - done - kept;
    uint64_t part = left < READ_BYTES ? left : READ_BYTES;
    tarn__pool_unlock(pool);
    int rc = tarn__spill_read(&pool->spill, t->in + kept, part, pack->offset + done + kept, err);
    tarn__pool_lock(pool);
    if (rc != 0) { return rc; }
    uint64_t sifted = sift_locked(pool, t, pack, (uint32_t)done, kept + part, &end);
    kept = kept + part - sifted;
    done += sifted;
    memmove(t->in, t->in + sifted, kept); /* less than a record */
  }
  return 0;
}

/* The emptiest pack that is worth it. */
static tarn__pack_t *emptiest_locked(tarn_pool_t *pool) {
  for (uint32_t i = 0; i + 1 < TARN__PACK_FILLS; i++) {
    tarn_list_t *l = &pool->packs.by_fill[i];
    if (!tarn_list_empty(l)) { return TARN_CONTAINER(l->next, tarn__pack_t, link); }
  }
  return NULL;
}

/* Fills t from the emptiest packs, which are held, and out of their classes. */
static void collect_locked(tarn_pool_t *pool, tidy_t *t, tarn_list_t *from) {
  tarn__pack_t *pack;
  while (t->fill < TARN__SPILL_BUFFER / 2 && (pack = emptiest_locked(pool)) != NULL) {
    tarn_list_remove(&pack->link);
    tarn_list_push_back(from, &pack->link);
    pack->live++;
    pack->moving = true;
    if (scan_locked(pool, t, pack, NULL) != 0) { return; }
  }
}

/* What was collected, into a new pack. Lets go. */
static int write_locked(tarn_pool_t *pool, tidy_t *t, tarn_error_t *err) {
  tarn__pack_t *pack = tarn_calloc(1, sizeof *pack);
  if (!pack) { return TARN_ENOMEM; }
  pack->live = 1;
  pack->size = tarn__page_round(t->fill);
  int rc = tarn__extent_take_locked(pool, pack->size, false, &pack->offset, err);
  if (rc != 0) {
    tarn_free(pack);
    return rc;
  }
  memset(t->out + t->fill, 0, pack->size - t->fill);
  struct iovec iov = {t->out, pack->size};
  tarn__pool_unlock(pool);
  rc = tarn__spill_write(&pool->spill, &iov, 1, pack->offset, err);
  tarn__pool_lock(pool);
  if (rc == 0) { rc = tarn__pack_enter_locked(pool, pack); }
  for (size_t i = 0; rc == 0 && i < t->count; i++) {
    const move_t *m = &t->moves[i];
    tarn__object_t *o = owner_locked(pool, m->id, m->pack, m->from);
    if (!o) { continue; }
    tarn__record_leave_locked(pool, o);
    tarn__record_join_locked(pool, o, pack, m->to);
  }
  if (rc == 0) { pool->spill_written += pack->size; }
  tarn__pack_leave_locked(pool, pack, 0);
  return rc;
}

/* Back into their classes, if they are still there. Those from which nothing could be moved are left alone until another of their
 * records dies: reading them again and again would bring nothing. */
static void let_go_locked(tarn_pool_t *pool, tarn_list_t *from, bool moved) {
  while (!tarn_list_empty(from)) {
    tarn__pack_t *pack = TARN_CONTAINER(from->next, tarn__pack_t, link);
    tarn_list_remove(&pack->link);
    pack->moving = false;
    if (moved && pack->live_bytes > 0) { classify(pool, pack); }
    tarn__pack_leave_locked(pool, pack, 0);
  }
}

bool tarn__packs_tidy_locked(tarn_pool_t *pool) {
  if (!tarn__packs_due(pool) || !emptiest_locked(pool)) { return false; }
  tidy_t t = {.out = tarn__spill_buffer(&pool->spill.records),
              .in = tarn_malloc(READ_BYTES + TARN__RECORD_HEADER + TARN__SMALL_MAX)};
  tarn_list_t from;
  tarn_list_init(&from);
  int rc = t.out && t.in ? 0 : TARN_ENOMEM;
  if (rc == 0) { collect_locked(pool, &t, &from); }
  if (rc == 0 && t.count > 0) { rc = write_locked(pool, &t, NULL); }
  let_go_locked(pool, &from, rc == 0 && t.count > 0);
  tarn_free(t.in);
  tarn_free(t.moves);
  return true;
}
