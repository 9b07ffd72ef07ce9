/* What the pool's files share. Everything here is guarded by the pool's mutex, except where a field
 * says otherwise; a function named
 * ..._locked wants the mutex held and keeps it held, but may let go of it in between where it says
 * so. */
#ifndef TARN_POOL_POOL_PRIVATE_H
#define TARN_POOL_POOL_PRIVATE_H

#include <assert.h>
#include <pthread.h>
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "image/file.h"
#include "pool/index-private.h"
#include "pool/pool.h"
#include "pool/segment-private.h"
#include "pool/slab-private.h"
#include "pool/spill-private.h"

enum {
  TARN__KIND_HEAP = 0,
  TARN__KIND_SEGMENT = 1,
  TARN__KIND_FILE = 2,
  TARN__KIND_BORROWED = 3 /* fmap is another process's file, as long as there are references */
};

/* Many small pieces in one extent of the spill file, given back when the last of them dies. They are pieces of values, found by
 * their blocks, or records of small objects (pack.c), which say whose they are, so that what is left of a mostly dead pack can be moved. */
typedef struct tarn__pack {
  tarn_list_t link;      /* with records: pool->packs.by_fill */
  uint64_t offset, size; /* the extent */
  uint64_t live_bytes;   /* of pieces that live; of records, with their headers */
  uint32_t live;         /* pieces, and one for whoever is reading */
  uint32_t number;       /* in pool->packs; 0: not of records */
  bool moving;           /* what lives in it is being moved */
} tarn__pack_t;

#define TARN__PACK_FILLS 16u /* classes of packs by how much of them lives */

/* Packs of records. */
typedef struct tarn__packs {
  tarn_map_t by_number; /* -> tarn__pack_t */
  tarn_list_t by_fill[TARN__PACK_FILLS];
  uint32_t last_number;
  uint64_t size_bytes, live_bytes; /* of all */
} tarn__packs_t;

typedef struct tarn__lent tarn__lent_t;
typedef struct tarn__borrowed tarn__borrowed_t;
typedef struct tarn__saved tarn__saved_t; /* a user's file (saved.c) */
typedef struct tarn__hand tarn__hand_t;   /* a second thread that writes (writer.c) */

/* A block, or the front of a value. Where its bytes are:
 *   mem          heap (kind HEAP)
 *   seg          memory; when covered, the spill file mapped over the segment's addresses
 *   fmap         the spill file, or a saved file, mapped elsewhere
 *   none of them in the spill file only (on_disk), not mapped
 * At most one of the three. fmap, and a covered seg, exist only while maps > 0 or busy; busy: the
 * spill thread is at work on it and will settle what the counts say by then. A segment whose memory others map (lend.c) keeps it,
 * on disk or not, until they say that they do not. */
typedef struct tarn__block {
  tarn_block_t pub; /* first */
  tarn_pool_t *pool;
  tarn_list_t link;       /* pool->blocks */
  tarn_list_t later_link; /* pool->later, while later > 0 */
  uint64_t refs;          /* each mapping is one too */
  uint64_t maps;
  uint64_t later;       /* mappings to be undone at the next boundary */
  uint8_t *mem;         /* owned */
  tarn__segment_t *seg; /* owned */
  uint8_t *fmap;        /* where an owned mapping has its bytes */
  tarn__saved_t
      *saved; /* a reference: its place on disk is in a user's file, not in the spill file */
  tarn__pack_t *pack;              /* when on disk in a pack; else the extent is our own */
  uint64_t disk_offset, disk_size; /* where on_disk; disk_size 0 in a pack */
  uint64_t hash; /* on disk: the checksum of its bytes (tarn__sum; XXH3 in a saved file) */
  tarn__object_t *visitor; /* the visiting value that it belongs to (visitor.c) */
  tarn__object_t *parker;  /* waits for this piece to be unmapped */
  tarn_list_t write_link;  /* in a batch of the spill thread, or in pool->looks */
  union {
    tarn__lent_t *lent;         /* owned; null: not lent */
    tarn__borrowed_t *borrowed; /* kind BORROWED */
  };
  bool on_disk;
  bool busy;
  bool planned; /* its bytes are in some object's gain */
  bool covered;
  bool kept;    /* a segment that stays in memory though it is on disk too, until it is evicted */
  bool front;   /* in a saved file: a front */
  bool quiet;   /* in a file of another format: not to be prefetched yet */
  bool detach;  /* in a saved file: a front to be marked detached when it is fetched */
  bool drop;    /* heap piece, evicted while mapped: free it when it is unmapped */
  bool counted; /* scratch, within one critical section */
  /* prefetch.c */
  bool looking;    /* the prefetching thread is at it, and has a mapping */
  bool checked;    /* what is mapped from a file has been verified since it was mapped */
  bool unsummed;   /* built in the file: hash is not known yet */
  bool corrupt;    /* for good: its bytes on disk are not what was written */
  bool unreadable; /* the last try to verify it could not read it */
} tarn__block_t;

struct tarn_value {
  tarn_pool_t *pool;
  uint64_t refs;  /* readers'; while > 0 every piece is mapped */
  uint64_t holds; /* objects', and of calls under way: keep the record */
  uint32_t loans;
  bool opening;           /* a get is mapping the pieces */
  bool guarded;           /* pool->guards has its guard */
  tarn__object_t *object; /* that is this value; null: none */
  uint64_t gain;          /* bytes that an eviction under way will bring */
  uint64_t size;
  char contents[TARN_CONTENTS_MAX + 1]; /* see tarn_object_note_t; only of a large one */
  uint32_t count;                       /* pieces: the front, then the blocks */
  tarn__block_t *pieces[];              /* each entry holds a reference */
};

typedef enum {
  TARN__NOWHERE, /* nothing to free, or being evicted, or pinned */
  TARN__IN_LRU,
  TARN__WANTED, /* live, to be encoded by Lua */
  TARN__PARKED, /* nothing to free until a certain piece is unmapped */
  TARN__LIMBO   /* the same, when every such piece has a parker already */
} tarn__place_t;

typedef enum {
  TARN__LIVE,  /* a Lua value */
  TARN__SMALL, /* one run of bytes (small.c), in memory, in a pack or both */
  TARN__VALUE
} tarn__form_t;

typedef struct tarn__mappings { /* begins as zeros, but for the mutex */
  pthread_mutex_t mutex;        /* guards what follows */
  uint64_t left, left_then, counted_ns;
  uint64_t at_most; /* for specs; 0: what the system says */
} tarn__mappings_t;

/* There may be tens of millions: every byte counts. */
struct tarn__object {
  uint64_t id;      /* first: pool->objects compares it */
  tarn_list_t link; /* by place; in pool->queue or a batch while evicting; in pool->dropped */
  union {
    uint64_t live_size;  /* LIVE */
    uint8_t *mem;        /* SMALL: owned; null: it is in its pack only */
    tarn_value_t *value; /* VALUE: a hold */
  };
  /* SMALL: its record's pack (0: in none) and place in it, and its bytes. VALUE: the same while it is a small object that is read. */
  uint32_t pack, offset;
  union {
    uint32_t size;
    uint32_t tag; /* LIVE: its owner's */
  };
  tarn__form_t form : 2;
  tarn__place_t place : 3;
  bool many : 1;    /* SMALL: of several pieces */
  bool visitor : 1; /* nobody's: goes with the last mapping of its value (visitor.c) */
  bool destroy : 1; /* dropped instead of spilled */
  bool pinned : 1;  /* live, cannot be encoded: no victim */
  bool evicting : 1, touched : 1, dead : 1; /* touched, dead: meanwhile */
  bool keep : 1;                            /* the eviction under way only writes */
  bool packing : 1;                         /* it goes as a record into the batch being written */
  bool watched : 1;                         /* on_deleted is owed */
};
static_assert(sizeof(struct tarn__object) == 48, "an object's record is not larger than planned");

/* Runs of up to 512 bytes come from slabs by steps of 16: no header, and no splinters of the C heap. */
#define TARN__RUN_STEP 16u
#define TARN__RUN_CLASSES 32u

/* When objects were stored, as far as their ids tell (age.c); begins as zeros. */
#define TARN__AGES 128u
typedef struct tarn__ages {
  struct {
    uint64_t id, ns; /* the first id that was given out then */
  } marks[TARN__AGES];
  uint32_t count;
  uint64_t step_ns; /* between two marks, at least */
} tarn__ages_t;

enum { TARN__OF_OBJECTS, TARN__OF_BLOCKS, TARN__OF_RUNS, TARN__SOURCES };

struct tarn_pool {
  pthread_mutex_t mutex;
  pthread_cond_t changed; /* room, or the outcome of something waited for */
  pthread_cond_t work;    /* for the spill thread */
  tarn_pool_config_t config;
  uint64_t max_memsize;

  tarn__index_t objects;
  tarn_map_t watches; /* id -> tarn__watch_t, of watched objects */
  tarn_map_t guards;  /* the address of a value -> its guard */
  uint64_t last_id;
  tarn_list_t lru;    /* least recently used first */
  tarn_list_t wanted; /* live ones, in order of eviction */
  tarn_list_t parked, limbo;
  tarn_list_t blocks, later;
  tarn__slab_t slab;                    /* of objects */
  tarn__slab_t block_slab;              /* of blocks' records */
  tarn__slab_t runs[TARN__RUN_CLASSES]; /* of small objects' bytes */
  tarn__slab_totals_t slabs;            /* of all these */
  tarn__chunks_t chunks
      [TARN__SOURCES]; /* theirs: bytes go to the disk, and leave no holes among records, which stay */

  tarn__memory_t memory;
  tarn__spill_t spill;
  tarn__packs_t packs;

  /* What the budget counts, bytes. */
  uint64_t live, heap, records,
      segments;          /* segments: warm bytes of those in use; memory.cached comes beside */
  uint64_t punching;     /* taken from the cache, on their way out */
  uint64_t reserved;     /* promised to a call that is about to take it */
  uint64_t pending;      /* will come back from evictions under way */
  uint64_t leaving;      /* and when holders have mapped the spill file over lent memory */
  tarn_list_t ways;      /* tarn__way_t: when their messages have left, other bytes may come */
  uint64_t messages;     /* begun, since ever */
  uint64_t wanted_bytes; /* of the wanted live ones */
  uint64_t demand;       /* of the threads that wait for room */
  uint64_t lua_need;     /* most that a call wanted that got TARN_ENEEDLUA */
  bool lua_owed;         /* one has got it, and no live object has been given out since */

  /* The spill thread. */
  pthread_t thread;
  bool started, stopping;
  bool working;         /* it has let go of the mutex in the middle of something */
  tarn__hand_t *hand;   /* owned; the spill thread's */
  tarn_list_t queue;    /* objects to evict */
  uint64_t failures;    /* counts failed batches */
  tarn_error_t failure; /* the last */
  uint64_t failure_ns;
  uint32_t halved,
      halved_left;    /* of batches without room on the disk: objects at a time, and yet */
  uint64_t heap_high; /* most that heap was since its free pages were handed back */
  bool failure_owed;  /* who got TARN_EAGAIN has yet to hear of it */

  /* To be done by tarn__pool_unlock. */
  uint32_t waiters;
  bool owed; /* some call returned TARN_EAGAIN or TARN_ENEEDLUA */
  bool fire_room, fire_pressure;
  tarn_guard_t *unguarded; /* guards whose values are gone */
  tarn_list_t dropped;     /* live objects that are gone: their anchors must go */
  tarn_list_t deleted;     /* watched objects that are gone (watch.c) */
  void *trash;             /* heap memory to free, linked through its first bytes */

  /* Lending (lend.c). */
  tarn_map_t loans, holders, borrows;
  uint64_t last_loan;
  uint64_t token_offset; /* where the token is in the memory */
  bool has_token;
  uint8_t token[TARN_LEND_TOKEN];
  tarn_list_t leavers,
      late;          /* lent blocks on disk whose memory waits for holders; that wait too long */
  tarn_list_t left;  /* those that wait no more, for the spill thread */
  tarn_list_t moves; /* borrowed blocks to be mapped anew, for the spill thread */
  tarn_list_t gone;  /* borrowed blocks that are dead, to be unmapped by the spill thread */
  tarn_list_t notes; /* to be told to others */
  bool fire_lend;
  uint64_t lent, borrowed; /* bytes of blocks */

  /* The prefetching thread (prefetch.c). */
  pthread_t look_thread;
  pthread_cond_t look;
  bool look_started, look_stopping;
  tarn_list_t looks;     /* blocks to be looked at */
  uint32_t look_waiters; /* for what it finds */
  uint32_t openings; /* files whose pieces are being mapped: nothing new is looked at meanwhile */

  tarn__mappings_t mappings;
  uint64_t spilled; /* bytes of blocks on disk */
  uint64_t value_count;
  uint64_t visitors, visitor_bytes; /* objects that are nobody's */
  tarn__ages_t ages;
  uint64_t sets, gets, deletes, evictions, spill_written, mapped_back;
};

static inline tarn__block_t *tarn__block(tarn_block_t *b) { return (tarn__block_t *)(void *)b; }

/* ---- pool.c ---- */
void tarn__pool_lock(tarn_pool_t *pool);
void tarn__pool_unlock(tarn_pool_t *pool); /* then runs callbacks and frees what was put off */
void tarn__pool_wait_locked(
    tarn_pool_t *pool); /* lets go: until something has changed (or earlier) */
void tarn__pool_wait_until_locked(tarn_pool_t *pool, uint64_t ns); /* or that time has come */
void tarn__pool_changed_locked(tarn_pool_t *pool);                 /* room came, or an outcome */
void tarn__pool_trash_locked(tarn_pool_t *pool, void *mem, uint64_t size_bytes);
void tarn__object_delete_locked(tarn_pool_t *pool, tarn__object_t *o);
void tarn__object_drop_locked(
    tarn_pool_t *pool,
    tarn__object_t *o); /* the same for who deletes many: the table stays as large as it is */
void tarn__object_free_locked(tarn_pool_t *pool, tarn__object_t *o);        /* unlinked already */
tarn__object_t *tarn__object_new_locked(tarn_pool_t *pool, uint32_t flags); /* null: no memory */
tarn__object_t *tarn__object_new(tarn_pool_t *pool,
                                 uint32_t flags); /* the mutex is not held; null: no memory */
int tarn__object_enter_locked(tarn_pool_t *pool, tarn__object_t *o,
                              tarn_error_t *err); /* into the table, with an id */
/* o, which holds nothing, is v from here on; a copy of its record where v is an object's already. TARN_ENOMEM. */
int tarn__object_become_locked(tarn__object_t *o, tarn_value_t *v, tarn_error_t *err);
void tarn__object_empty_locked(
    tarn_pool_t *pool,
    tarn__object_t *o); /* it holds nothing any more, and must become something */
tarn__object_t *tarn__object_find_locked(tarn_pool_t *pool, uint64_t id);

/* ---- budget.c ---- */
uint64_t tarn__budget_used(const tarn_pool_t *pool);
static inline uint64_t tarn__heap_charge(uint64_t size) {
  return ((size + 63) & ~(uint64_t)63) + 16;
}
/* Messages that go one after the other. */
typedef struct tarn__way {
  tarn_list_t link, messages; /* the oldest first, one at least */
  uint64_t connection;
  uint64_t moved_ns; /* when the last has left, or the first was begun */
} tarn__way_t;
typedef struct tarn__room {
  uint64_t failures; /* pool->failures when the wait began */
  uint64_t messages; /* pool->messages then */
  bool begun;
} tarn__room_t;
/* sends.c: until when to wait for the next of the messages to leave that were under way when the wait began; 0: none is left, or their receivers do
 * not read. */
uint64_t tarn__sends_until_locked(const tarn_pool_t *pool, const tarn__room_t *room);
/* There is no room for need more bytes: one step towards it, letting go of the mutex. 0: look
 * again. Else the error to return. */
int tarn__room_step_locked(tarn_pool_t *pool, uint64_t need, uint32_t flags, tarn__room_t *room,
                           tarn_error_t *err);
/* Until need more bytes are free, and promised to the caller (pool->reserved). */
int tarn__room_reserve_locked(tarn_pool_t *pool, uint64_t need, uint32_t flags, tarn_error_t *err);
bool tarn__room_for(const tarn_pool_t *pool, uint64_t need);
/* Punch at least so many cached bytes, or all. Lets go. */
void tarn__budget_trim_locked(tarn_pool_t *pool, uint64_t bytes);

/* ---- evict.c ---- */
/* Queue enough of the least recently used objects for need more bytes; live ones become wanted. */
void tarn__evict_plan_locked(tarn_pool_t *pool, uint64_t need);
/* Queue one object that is not live and not being evicted. */
int tarn__evict_start_locked(tarn_pool_t *pool, tarn__object_t *o, tarn_error_t *err);

/* ---- lru.c ---- */
void tarn__lru_remove(tarn_pool_t *pool, tarn__object_t *o); /* from whatever place */
void tarn__lru_touch(tarn_pool_t *pool, tarn__object_t *o);  /* the last to be evicted */
void tarn__lru_oldest(tarn_pool_t *pool, tarn__object_t *o); /* the first to be evicted */
void tarn__lru_want(tarn_pool_t *pool, tarn__object_t *o);
void tarn__lru_unwant_all(tarn_pool_t *pool); /* back to the oldest end, in their order */
void tarn__lru_park(tarn_pool_t *pool,
                    tarn__object_t *o); /* by what is mapped; nowhere when nothing is in memory */
void tarn__lru_unpark(tarn_pool_t *pool, tarn__block_t *b); /* b was unmapped */
void tarn__lru_unlimbo(tarn_pool_t *pool); /* those that were passed over are looked at again */
tarn__object_t *tarn__lru_first(tarn_pool_t *pool);

/* ---- block.c (records, the public calls), home.c (where the bytes are) ---- */
/* A record, not linked nor counted; null: no memory. Discarded: one that never was linked, or no longer is. */
tarn__block_t *tarn__block_new(tarn_pool_t *pool, uint64_t size,
                               uint32_t kind); /* the mutex is not held */
tarn__block_t *tarn__block_new_locked(tarn_pool_t *pool, uint64_t size, uint32_t kind);
void tarn__block_discard(tarn__block_t *b); /* null allowed; the mutex is not held */
void tarn__block_discard_locked(tarn__block_t *b);
void tarn__block_link_locked(tarn__block_t *b);
void tarn__block_ref_locked(tarn__block_t *b);
void tarn__block_unref_locked(tarn__block_t *b);
/* Lets go where the bytes must be fetched or verified. flags: TARN_BLOCK_WAIT, should it need room. credit: reserved bytes that it may
 * use up; null allowed. */
int tarn__block_map_locked(tarn__block_t *b, uint32_t flags, uint64_t *credit, tarn_error_t *err);
void tarn__block_unmap_locked(tarn__block_t *b); /* lets go where something must be unmapped */
void tarn__block_vacate_locked(
    tarn__block_t *b); /* it is on disk: out of memory, as far as its mappings allow. Lets go */
void tarn__block_free_mem_locked(tarn__block_t *b);
uint64_t tarn__block_gain(const tarn__block_t *b); /* bytes that evicting it would free */
bool tarn__block_resident(const tarn__block_t *b); /* mapping it needs no fetching */
static inline uint8_t *tarn__block_address(const tarn__block_t *b) {
  return b->mem ? b->mem : b->seg ? b->pool->memory.base + b->seg->offset : b->fmap;
}

/* ---- value.c ---- */
void tarn__value_hold_locked(tarn_value_t *v);
void tarn__value_unhold_locked(tarn_value_t *v); /* may free it */
/* A reader's reference, with every piece mapped. Lets go. */
int tarn__value_open_locked(tarn_value_t *v, uint32_t flags, tarn_error_t *err);
/* Another value of the same pieces, with neither holds nor readers: so that each is one object at most. Null: no memory. */
tarn_value_t *tarn__value_twin_locked(tarn_value_t *v);
void tarn__value_close_locked(tarn_value_t *v); /* gives back a reader's reference. Lets go */
/* Are its pieces, as far as they are mapped, what was written? The caller has a hold or a reference. flags: TARN_GET_VERIFIED, TARN_BLOCK_WAIT.
 * Lets go. TARN_ECORRUPT, and the errors of tarn__block_verified_locked. */
int tarn__value_sound_locked(tarn_value_t *v, uint32_t flags, tarn_error_t *err);

size_t tarn__value_record_size(const tarn_value_t *v);
tarn_value_t *tarn__value_new(tarn_pool_t *pool, uint32_t count); /* not counted; null: no memory */

/* ---- small.c ---- */
/* What the budget counts for so many bytes of a small object in memory: as its slab or the C library rounds. */
static inline uint64_t tarn__small_charge(uint64_t size) {
  bool in_slab = size <= TARN__RUN_CLASSES * TARN__RUN_STEP;
  return ((in_slab ? size : size + 8) + TARN__RUN_STEP - 1) & ~(uint64_t)(TARN__RUN_STEP - 1);
}
/* A value: if it is small and its pieces are no other's, sets the size of its run. */
bool tarn__small_measure_locked(tarn__object_t *o);
/* If o is a value that is small and that nobody reads: one run of bytes again. */
void tarn__small_freeze_locked(tarn_pool_t *pool, tarn__object_t *o);
/* The object with that id, as a value if it is small, loaded into memory where it was out of it. Lets go. *out: null when there is no
 * such object. flags and errors as for tarn__room_reserve_locked; TARN_EIO, TARN_ECORRUPT. */
int tarn__small_wake_locked(tarn_pool_t *pool, uint64_t id, uint32_t flags, tarn__object_t **out,
                            tarn_error_t *err);
void tarn__small_free_mem_locked(tarn_pool_t *pool,
                                 tarn__object_t *o); /* SMALL; it is in a pack too, or dead */
/* Copies the bytes of a small object, whether it is being read or not. */
void tarn__small_copy(const tarn__object_t *o, uint8_t *to);

/* ---- pack.c ---- */
void tarn__packs_init(tarn_pool_t *pool);
void tarn__packs_clear(tarn_pool_t *pool);
/* A pack for records gets its number. TARN_ENOMEM. */
int tarn__pack_enter_locked(tarn_pool_t *pool, tarn__pack_t *pack);
void tarn__pack_leave_locked(tarn_pool_t *pool, tarn__pack_t *pack,
                             uint64_t size); /* a piece of it is dead */
bool tarn__packs_due(
    const tarn_pool_t *pool); /* so much of them is dead that they are to be tidied */

/* A record: header, then the object's bytes. */
#define TARN__RECORD_HEADER 16u
#define TARN__RECORD_ID_MAX (((uint64_t)1 << 48) - 1)
#define TARN__SMALL_MAX ((uint64_t)65535)
static inline uint64_t tarn__record_size(uint32_t size) { return TARN__RECORD_HEADER + size; }
void tarn__record_write(const tarn__object_t *o, uint8_t *to);
/* o is in that pack. */
void tarn__record_join_locked(tarn_pool_t *pool, tarn__object_t *o, tarn__pack_t *pack,
                              uint32_t offset);
void tarn__record_leave_locked(tarn_pool_t *pool, tarn__object_t *o); /* in none any more */
/* It, from the spill file, checked, from tarn_malloc. The mutex is not held; the caller has a piece of the pack. */
int tarn__record_read(tarn_pool_t *pool, const tarn__pack_t *pack, uint32_t offset, uint64_t id,
                      uint32_t size, uint8_t **record, tarn_error_t *err);
/* Spill thread: move what lives out of mostly dead packs, if there are too many. False: nothing was tried, nor the mutex let go. */
bool tarn__packs_tidy_locked(tarn_pool_t *pool);

/* ---- visitor.c ---- */
void tarn__visitor_left_locked(
    tarn__block_t *b); /* a piece was unmapped; the caller has a reference */
void tarn__visitor_forget_locked(tarn__object_t *o); /* one is being deleted */

int tarn__visitor_enter_locked(tarn_pool_t *pool, tarn_value_t *v); /* TARN_ENOMEM */
/* Its loans have ended, or pieces were unmapped: does the visitor go? v may be freed. */
void tarn__visitor_check_locked(tarn_value_t *v);

/* ---- lend.c (owner), borrow.c (holder) ---- */
/* A note, in whatever record it is about. */
typedef struct tarn__note {
  tarn_list_t link; /* pool->notes */
  tarn_lend_note_t what;
} tarn__note_t;
/* Once: one that has not been taken yet stays where it is. */
void tarn__note_post_locked(tarn_pool_t *pool, tarn__note_t *n);

/* Who maps a block's memory or file. */
struct tarn__lent {
  tarn_list_t link;     /* pool->leavers, late or left */
  tarn_list_t pieces;   /* of loans */
  tarn__block_t *block; /* with a reference, from when it is leaving */
  uint64_t count;       /* pieces */
  uint64_t in_memory;   /* those that may map the memory */
  uint64_t coming;      /* bytes of it in pool->leaving */
  uint64_t since_ns;
  bool leaving; /* in one of the three lists */
};
static inline bool tarn__lent(const tarn__block_t *b) {
  bool can_be = b->pub.kind == TARN__KIND_SEGMENT || b->pub.kind == TARN__KIND_FILE;
  return can_be && b->lent && b->lent->count > 0;
}
/* Others may map the memory of b: it must be kept. */
static inline bool tarn__lent_in_memory(const tarn__block_t *b) {
  return b->pub.kind == TARN__KIND_SEGMENT && b->lent && b->lent->in_memory > 0;
}
static inline bool tarn__lent_leaving(const tarn__block_t *b) {
  return b->pub.kind == TARN__KIND_SEGMENT && b->lent && b->lent->leaving;
}
/* b is on disk, and its memory is wanted: tell who maps it. */
void tarn__lent_leave_locked(tarn__block_t *b);
/* v, which is lent, has lost its last object: another that nobody knows, so that it can be evicted. */
void tarn__lent_orphan_locked(tarn_value_t *v);
/* Spill thread: what is to be done; and waiting that has been too long. Let go in between. True: something was done. */
bool tarn__lent_settle_locked(tarn_pool_t *pool);
bool tarn__lent_late_locked(tarn_pool_t *pool);
void tarn__lend_clear_locked(tarn_pool_t *pool); /* the pool ends */

void tarn__borrowed_dead_locked(
    tarn__block_t *b); /* frees the record; the spill thread unmaps it */
/* Spill thread: map one anew, or unmap one that is dead. Lets go. False: there is none. */
bool tarn__borrowed_work_locked(tarn_pool_t *pool);
void tarn__borrow_clear_locked(tarn_pool_t *pool); /* the pool ends */

/* ---- saved.c ---- */
void tarn__saved_unref_locked(tarn__saved_t *f);
/* The mutex is not held; the caller has a reference to b. Its bytes in memory, verified; or mapped, *checked telling whether they
 * have been verified. */
int tarn__saved_read(tarn__block_t *b, uint8_t **mem, tarn_error_t *err);
int tarn__saved_map(tarn__block_t *b, uint8_t **map, bool *checked, tarn_error_t *err);
/* The file, if it is still the same that was opened first. */
int tarn__saved_reopen(const tarn__saved_t *f, int *fd, tarn_error_t *err);
bool tarn__saved_is_raw(const tarn__saved_t *f);                     /* its blocks have no sums */
int tarn__saved_mismatch(const tarn__block_t *b, tarn_error_t *err); /* TARN_ECORRUPT, and why */
const char *tarn__saved_path(const tarn__saved_t *f);

/* ---- guard.c ---- */
void tarn__guard_drop_locked(tarn_value_t *v);                           /* its value is going */
int tarn__guard_share_locked(const tarn_value_t *v, tarn_value_t *twin); /* TARN_ENOMEM */

/* ---- watch.c ---- */
typedef struct tarn__watch {
  tarn_list_t link; /* pool->deleted */
  uint64_t id;
} tarn__watch_t;
void tarn__watch_fire_locked(tarn_pool_t *pool, tarn__object_t *o); /* it is being deleted */

/* ---- batch.c: the spill thread's ---- */
void tarn__batch_run_locked(tarn_pool_t *pool); /* writes what is queued first. Lets go */
/* Evicting has failed: who waits for room is told. */
void tarn__failure_note_locked(tarn_pool_t *pool, const tarn_error_t *err);
void tarn__batch_finish_locked(tarn_pool_t *pool, tarn__object_t *o,
                               bool written); /* o's eviction has ended */

/* ---- spiller.c ---- */
/* An extent with its space allocated. Lets go. in_place: it will be mapped before it is written,
 * and reads as zeros. */
int tarn__extent_take_locked(tarn_pool_t *pool, uint64_t size, bool in_place, uint64_t *offset,
                             tarn_error_t *err);
void tarn__extent_give_locked(tarn_pool_t *pool, uint64_t offset, uint64_t size);
int tarn__spiller_start_locked(tarn_pool_t *pool,
                               tarn_error_t *err); /* once; TARN_EIO, with err (null allowed) */
void tarn__spiller_stop(tarn_pool_t *pool);

/* ---- mappings.c ---- */
/* May so many mappings be made? */
bool tarn__mappings_take(tarn__mappings_t *m, uint32_t count);
void tarn__mappings_at_most(tarn_pool_t *pool, uint64_t count); /* for specs */

/* ---- prefetch.c ---- */
#define TARN__VERIFY_AT_ONCE_BYTES ((uint64_t)1 << 20)
/* b has just been mapped: is it what was written? Verifies what is small (lets go), has the rest looked at. TARN_ECORRUPT. */
int tarn__block_sound_locked(tarn__block_t *b, tarn_error_t *err);
/* The same, when all of it has been verified. TARN_EAGAIN without TARN_BLOCK_WAIT, TARN_EIO. Lets go. */
int tarn__block_verified_locked(tarn__block_t *b, uint32_t flags, tarn_error_t *err);
int tarn__block_mismatch(const tarn__block_t *b, tarn_error_t *err); /* TARN_ECORRUPT, and why */
bool tarn__look_at_locked(tarn__block_t *b);                         /* false: it will not be */
void tarn__look_off_locked(tarn__block_t *b);                        /* it is not mapped any more */
/* wait: begin to look at nothing new, unless somebody waits for it, until the same call without. Mapping a piece would wait for the pages of
 * another that are being populated. */
void tarn__looks_wait(tarn_pool_t *pool, bool wait);
void tarn__look_stop(tarn_pool_t *pool);

/* ---- writer.c ---- */
#define TARN__SUM_SLICE ((uint64_t)2 << 20)
/* The checksum of a block in the spill file is the sum of its slices', so that they can be computed in any order. This is the part of
 * size bytes from an offset on, a multiple of the slice. Of one slice it is the hash of its bytes. */
uint64_t tarn__sum(const uint8_t *bytes, uint64_t size, uint64_t from);
/* Spill thread: writes segments, bytes in all, that lie one after the other in their extent, and adds up their hashes (0 before). */
int tarn__segments_write(tarn_pool_t *pool, tarn_list_t *segments, uint64_t bytes,
                         tarn_error_t *err);
void tarn__hand_stop(tarn_pool_t *pool);

/* ---- age.c ---- */
void tarn__age_note(tarn__ages_t *a, uint64_t id); /* it is being given out */
uint64_t tarn__age_of(const tarn__ages_t *a, uint64_t id, uint64_t now_ns);

/* ---- stats.c ---- */
/* For specs: 0 when every sum is what the parts say, else the number of the check that failed. */
int tarn__pool_check(tarn_pool_t *pool);
bool tarn__pool_idle(tarn_pool_t *pool); /* for specs: nothing is being evicted or moved */

#endif
