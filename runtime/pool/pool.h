/* The pool: objects and the memory that they live in, within a budget.
 *
 * A *block* is a range of raw bytes aligned to 64: an array's elements, a column's blob. Blocks of 64 KiB and more are cut from one sparse
 * memfd (page-aligned *segments*, recycled by size class); smaller ones come from the C heap; one that is larger than the whole
 * budget is built in the spill file. What backs a block may change (memory -> spill file) while its address stays
 * valid for whoever has it mapped.
 *
 * An *object* is what poolset made: a live Lua value (which bind/ keeps anchored, and of which only its size and bind/'s tag are
 * known here), or a *value*: the front of an image plus its blocks.
 *
 * Budget: live sizes + heap blocks + resident segments (cached free ones too) + fronts <= max_memsize, checked before memory is
 * taken; when there is no room, the least recently used objects are evicted: their segments written to the spill file and
 * freed (re-backed by the file where somebody has them mapped), their small parts packed together, and live ones first encoded by
 * the Lua thread.
 *
 * Threads: every function may be called from any thread unless it says otherwise; one mutex guards the table, never held
 * across I/O, mapping or a callback. One spill thread, started at need, does the writing. */
#ifndef TARN_POOL_POOL_H
#define TARN_POOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/list.h"

typedef struct tarn_pool tarn_pool_t;

#define TARN_POOL_MAP_MIN (64u << 10) /* blocks from this size on are segments */

/* A block. The first fields are read by Lua's FFI (lua/tarn/block.lua has the same declaration); the rest is private. */
typedef struct tarn_block {
  uint8_t *data;   /* valid while mapped (see tarn_block_map); null otherwise */
  uint64_t size;   /* bytes asked for */
  uint32_t sealed; /* 1: stored, must not be written any more */
  uint32_t kind;   /* private */
} tarn_block_t;

/* What hangs from a value for its maker: it goes when the value's last byte does, spilled or not. Its fields are the pool's. */
typedef struct tarn_guard {
  struct tarn_guard *next;
  uint32_t values; /* that it hangs from */
} tarn_guard_t;

typedef struct tarn_pool_config {
  uint64_t max_memsize;  /* bytes */
  uint64_t max_disksize; /* bytes; UINT64_MAX: no limit of ours */
  const char *
      spill_dir; /* made (0700) with parents at the first spill; the spill file is anonymous. Copied. */
  /* Room came back or an eviction ended, after some call had returned TARN_EAGAIN or TARN_ENEEDLUA. From the spill thread or from
   * whoever freed: must only wake somebody. */
  void (*on_room)(void *user);
  /* The live object with this tag was deleted or dropped: so must be its anchor. The pool mutex is not held; called on the thread that
   * caused it, so bind/ queues it where that is not the Lua thread. */
  void (*on_drop_live)(void *user, uint64_t tag);
  /* There is something to be told to another process: call tarn_pool_lend_next until it says no. From any thread, the mutex is not
   * held; must only wake somebody. Null: this pool neither lends nor borrows. */
  void (*on_lend)(void *user);
  /* A watched object was deleted, for whatever reason. As on_drop_live. */
  void (*on_deleted)(void *user, uint64_t id);
  /* A value with this guard is gone; the guard is the callee's. As on_drop_live. */
  void (*on_unguard)(void *user, tarn_guard_t *guard);
  /* Objects are being evicted: what is garbage elsewhere should go instead. Often; the mutex is not held. */
  void (*on_pressure)(void *user);
  void *user;
  uint64_t
      patience_ns; /* how long who waits for room counts on memory that holders are to give back, and on a message that leaves; 0: a second */
} tarn_pool_config_t;

int tarn_pool_create(const tarn_pool_config_t *config, tarn_pool_t **out, tarn_error_t *err);
/* Waits for the spill thread, frees everything. All blocks and values must have been released, except what objects hold. */
void tarn_pool_destroy(tarn_pool_t *pool);

/* ---- blocks ---- */

enum {
  TARN_BLOCK_ZERO = 1, /* zero-filled */
  TARN_BLOCK_WAIT =
      2, /* wait (blocking this thread) for evictions already possible without Lua to make room, and for messages to leave */
  TARN_BLOCK_SOON = 32 /* but not for messages: the caller knows what else may make room */
};
/* A new writable block, with one reference and one mapping, both the caller's. size 0 is allowed.
 * TARN_EAGAIN (without WAIT: eviction is under way, on_room will come), TARN_ENEEDLUA (only live values are left to evict: the Lua
 * thread must call tarn_pool_next_live and encode; on_room comes after), TARN_EPOOLFULL, TARN_EDISKFULL, TARN_EIO (with figures). */
int tarn_block_create(tarn_pool_t *pool, uint64_t size, uint32_t flags, tarn_block_t **out,
                      tarn_error_t *err);

void tarn_block_retain(tarn_block_t *b); /* keeps the bytes, not the address */
void tarn_block_release(tarn_block_t *b);
/* Pin the address: b->data is valid from here to tarn_block_unmap. Counts, and implies a reference. A spilled block is mapped from the spill file, O(1) in
 * its size (small packed ones are read). TARN_EIO, TARN_ENOMEM, TARN_ECORRUPT. */
int tarn_block_map(tarn_block_t *b, tarn_error_t *err);
void tarn_block_unmap(tarn_block_t *b);
/* For finalizers: unmap at the next tarn_pool_boundary. Never blocks on anything but the mutex. */
void tarn_block_unmap_later(tarn_block_t *b);
void tarn_block_seal(tarn_block_t *b);
/* For who copies a mapped block: until it has been verified, if it came from a file. TARN_ECORRUPT, TARN_EIO. */
int tarn_block_verify(tarn_block_t *b, tarn_error_t *err);

/* Lua thread, between tasks: do the unmappings that were put off. */
void tarn_pool_boundary(tarn_pool_t *pool);

/* ---- values: an image's front and its blocks ---- */

typedef struct tarn_value tarn_value_t;

/* A message under way that holds a value. The fields are the pool's. */
typedef struct tarn_message {
  tarn_list_t link;
  struct tarn__way *way;
  uint64_t number;
} tarn_message_t;
/* [any] A value goes out in a message by way of that connection, behind those that went there before; and it has left, or will not, and has
 * let go of the value. TARN_ENOMEM: it is not known of. */
int tarn_pool_sending(tarn_pool_t *pool, uint64_t connection, tarn_message_t *m);
void tarn_pool_sent(tarn_pool_t *pool, tarn_message_t *m);

/* Takes over front (from tarn_malloc; a whole plain image when block_count is 0), and one reference and one mapping for each entry of blocks, on success only. Seals
 * the blocks. The same block may stand twice (and then brings two of each). A value has one reference, its caller's, and its blocks stay mapped while it has
 * references other than the pool's own. */
int tarn_value_create(tarn_pool_t *pool, uint8_t *front, size_t front_size,
                      tarn_block_t *const *blocks, uint32_t block_count, tarn_value_t **out,
                      tarn_error_t *err);
/* Nobody stores v (it came with a message): let it be evicted all the same while views of it are in use, re-backed by the spill file like
 * any other. It is no object that can be got or deleted, and goes with its last mapping. TARN_ENOMEM: it stays in memory. */
int tarn_pool_visit(tarn_pool_t *pool, tarn_value_t *v);
/* Hang a guard (taken over) from a value that has none and that nobody else knows yet. TARN_ENOMEM. */
int tarn_value_set_guard(tarn_value_t *v, tarn_guard_t *guard);
tarn_guard_t *tarn_value_guard(const tarn_value_t *v); /* borrowed; null: none */
void tarn_value_retain(tarn_value_t *v);
void tarn_value_release(tarn_value_t *v);
const uint8_t *tarn_value_front(const tarn_value_t *v, size_t *size);
uint32_t tarn_value_block_count(const tarn_value_t *v);
tarn_block_t *tarn_value_block(const tarn_value_t *v, uint32_t index); /* borrowed */
uint64_t tarn_value_size(const tarn_value_t *v);    /* front + distinct blocks, bytes */
bool tarn_value_is_borrowed(const tarn_value_t *v); /* some block is another process's memory */

/* ---- objects ---- */

enum { TARN_OBJECT_DESTROY_ON_EVICT = 1 };

/* A live value of about size bytes; TARN_EPOOLFULL at once when that is more than max_memsize (encode it: a value of any size can be stored). The same errors as tarn_block_create when there is no room (flags: TARN_BLOCK_WAIT | object flags << 8).
 * tag, not 0: by which the caller finds the value. */
int tarn_pool_set_live(tarn_pool_t *pool, uint64_t size, uint32_t flags, uint32_t tag, uint64_t *id,
                       tarn_error_t *err);
/* The tag of a live object; 0: it is not live (any more), or not there. touch: its value is being used. */
uint32_t tarn_pool_live_tag(tarn_pool_t *pool, uint64_t id, bool touch);
/* Stores v (takes a reference of its own). The same errors. Ids start at 1, are never used again. */
int tarn_pool_set_value(tarn_pool_t *pool, tarn_value_t *v, uint32_t flags, uint64_t *id,
                        tarn_error_t *err);
/* A live object has been encoded: from here on it is v. TARN_ENOENT when it has been deleted meanwhile. Never for lack of room: the
 * live size is given back, and what is over budget is evicted next. */
int tarn_pool_encoded(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err);
/* The next live object in order of eviction while there is no room: 1 with *id, 0 when none is wanted. After TARN_ENEEDLUA it gives at least one: what
 * that call has let go of is no room for it when it comes again. Lua thread. */
int tarn_pool_next_live(tarn_pool_t *pool, uint64_t *id);
/* That live object cannot be encoded (NotSerializable): it is pinned in memory, no victim any more. */
void tarn_pool_pin_live(tarn_pool_t *pool, uint64_t id);

/* What comes from the spill file or a saved file is verified: blocks of up to 1 MiB before they are handed out, larger ones meanwhile, by a
 * thread that prefetches them too. Once a mismatch has been found every get of the object is TARN_ECORRUPT. */
enum {
  TARN_GET_QUIET = 4, /* in flags: neither counted nor a touch */
  TARN_GET_VERIFIED =
      16 /* all of it verified first, for who copies it: waits for that; without TARN_BLOCK_WAIT it
                           is TARN_EAGAIN where that would be needed */
};
/* Touches. *v = null for a live object, else a retained value with its blocks mapped (spilled ones from the spill file, small packed ones read
 * back into memory, which needs room: the errors of tarn_block_create). TARN_ENOENT. */
int tarn_pool_get(tarn_pool_t *pool, uint64_t id, uint32_t flags, tarn_value_t **v,
                  tarn_error_t *err);
/* Used when the Lua side has the value at hand. TARN_ENOENT, TARN_ECORRUPT. */
int tarn_pool_touch(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
int tarn_pool_delete(tarn_pool_t *pool, uint64_t id); /* TARN_ENOENT; readers' values live on */
void tarn_pool_delete_many(tarn_pool_t *pool, const uint64_t *ids, size_t count);
int tarn_pool_set_destroy_on_evict(tarn_pool_t *pool, uint64_t id, bool flag);
/* What a copy of the object elsewhere needs: TARN_OBJECT_*. TARN_ENOENT. */
int tarn_pool_flags(tarn_pool_t *pool, uint64_t id, uint32_t *flags);
int tarn_pool_size_of(tarn_pool_t *pool, uint64_t id, uint64_t *size_bytes);
/* Start evicting one object now (movetodisk without a path): TARN_ENEEDLUA when it is live (encode first). Waits until it is on disk. */
int tarn_pool_evict(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
/* The same, and it stays in memory as well (copytodisk); its next eviction writes nothing. */
int tarn_pool_copy(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
/* Call on_deleted once when the object is gone. TARN_ENOENT: it is already. TARN_ENOMEM. */
int tarn_pool_watch(tarn_pool_t *pool, uint64_t id);
void tarn_pool_clear(tarn_pool_t *pool); /* delete every object */

/* ---- lending: blocks of 64 KiB and more, mapped by other processes of this machine ----
 *
 * An owner *lends* a value to a holder (a process, known here by a number): its large blocks stay where they are, and the holder is told where. The
 * loan keeps the bytes, until it ends. When a lent block is evicted it is written to the spill file as usual; each holder that maps its memory is told
 * (TARN_LEND_MOVED), maps the file over it and says so (tarn_pool_lend_moved); only when all have, or their loans have ended, is the memory
 * punched or used again. A block that is lent from the spill file stays there. What nobody stores any more is evicted like anything else while it is lent.
 *
 * A holder *borrows*: the owner's file, opened for reading, is mapped, and becomes a block of its own pool that costs a record and
 * is never evicted. When the last reference to the last block of a loan is gone and all is unmapped, TARN_LEND_RETURNED says so. */

#define TARN_LEND_TOKEN 16u

/* How another process finds this pool's bytes. */
typedef struct tarn_lend_source {
  int memory_fd, spill_fd; /* numbers in this process; spill_fd -1: there is none yet */
  uint64_t memory_dev, memory_ino, spill_dev, spill_ino; /* what fstat says of them */
  uint64_t token_offset; /* where in the memory there is the token */
  uint8_t token[TARN_LEND_TOKEN];
} tarn_lend_source_t;
/* token: random bytes, used by the first call. */
int tarn_pool_lend_source(tarn_pool_t *pool, const uint8_t *token, tarn_lend_source_t *out,
                          tarn_error_t *err);

typedef struct tarn_lend_place {
  bool lent; /* false: smaller than TARN_POOL_MAP_MIN, to be sent as it is */
  bool in_file;
  uint64_t offset; /* in the memory or the spill file */
} tarn_lend_place_t;
/* Lend v (the caller has a reference) to a holder. tag: given back with what is to be told to it. places: one for each block. TARN_EINVAL: it cannot be lent
 * (no large block, or one that is borrowed itself or in a saved file); TARN_ENOMEM. */
int tarn_pool_lend(tarn_pool_t *pool, tarn_value_t *v, uint64_t holder, uint64_t tag,
                   uint64_t *loan, tarn_lend_place_t *places);
/* The value of a loan, retained and mapped, for who could not map it. TARN_ENOENT, and the errors of tarn_pool_get. */
int tarn_pool_lend_value(tarn_pool_t *pool, uint64_t holder, uint64_t loan, tarn_value_t **v,
                         tarn_error_t *err);
/* What a holder says. Loans that are not (or no longer) are passed over. */
void tarn_pool_lend_moved(tarn_pool_t *pool, uint64_t holder, uint64_t loan, uint32_t block);
void tarn_pool_lend_end(tarn_pool_t *pool, uint64_t holder, uint64_t loan);
void tarn_pool_lend_end_all(tarn_pool_t *pool, uint64_t holder); /* its process is gone */
bool tarn_pool_lends_to(tarn_pool_t *pool, uint64_t holder);     /* is there a loan? */
/* What was on its way to or from that holder may be lost: ask it about each of its loans, and tell it once more what has moved. */
void tarn_pool_lend_again(tarn_pool_t *pool, uint64_t holder);

/* Borrow the blocks of a loan: begin, then block for each large one, then end. lender: a number below 2^24. begin: null when there is no
 * memory or the loan is known already. */
typedef struct tarn_borrow tarn_borrow_t;
tarn_borrow_t *tarn_pool_borrow_begin(tarn_pool_t *pool, uint64_t lender, uint64_t loan,
                                      uint32_t block_count);
/* fd: only used during the call. The block has one reference and one mapping, the caller's; it is sealed. TARN_ENOMEM: also when too many are mapped. */
int tarn_pool_borrow_block(tarn_pool_t *pool, tarn_borrow_t *w, uint32_t block, int fd,
                           uint64_t offset, uint64_t size, tarn_block_t **out, tarn_error_t *err);
void tarn_pool_borrow_end(tarn_pool_t *pool, tarn_borrow_t *w);
/* The owner has moved a block into its spill file: map that over it (the spill thread does), then TARN_LEND_IN_PLACE is told. fd: only used
 * during the call. A loan that has been returned is passed over. */
void tarn_pool_borrow_moved(tarn_pool_t *pool, uint64_t lender, uint64_t loan, uint32_t block,
                            int fd, uint64_t offset);

/* The owner asks. A loan that is not here any more, or never arrived, is returned; and it is refused if it still comes (begin: null), since from
 * then on its bytes are not kept. */
void tarn_pool_borrow_check(tarn_pool_t *pool, uint64_t lender, uint64_t loan);
bool tarn_pool_borrows_from(tarn_pool_t *pool, uint64_t lender); /* is anything of a loan mapped? */
void tarn_pool_borrow_forget(tarn_pool_t *pool,
                             uint64_t lender); /* its process is gone: so is what was refused */

typedef enum {
  TARN_LEND_MOVED,
  TARN_LEND_IN_PLACE,
  TARN_LEND_RETURNED,
  TARN_LEND_CHECK /* does it have this loan? */
} tarn_lend_kind_t;
typedef struct tarn_lend_note {
  tarn_lend_kind_t kind; /* MOVED, CHECK: to a holder; the others: to a lender */
  uint64_t peer;         /* that holder or lender */
  uint64_t tag;          /* MOVED, CHECK: the loan's */
  uint64_t loan;
  uint32_t block;  /* not with RETURNED, CHECK */
  uint64_t offset; /* MOVED: in the spill file */
} tarn_lend_note_t;
bool tarn_pool_lend_next(tarn_pool_t *pool, tarn_lend_note_t *out);

/* ---- saved files (image/file.h), which are the user's: never written nor deleted here ---- */

/* What tells a file from another that took its name, or its bytes. */
typedef struct tarn_saved_identity {
  uint64_t device, inode, size, changed_ns, header_hash;
} tarn_saved_identity_t;
/* TARN_EIO, TARN_ECORRUPT (too short). The message begins with the path. */
int tarn_saved_identify(const char *path, tarn_saved_identity_t *out, tarn_error_t *err);

enum {
  TARN_SAVED_VERIFY = 8
}; /* in flags: verify all blocks now, the mapped ones of more than 1 MiB too */
/* A value whose bytes are the file's: blocks of 64 KiB and more are mapped, read-only and private; the rest is read, as fresh
 * pieces that cost nothing to evict. One reference, the caller's. identity: null allowed. flags: TARN_BLOCK_WAIT too. The errors of
 * tarn_pool_get; TARN_ECORRUPT. When it is opened again later (tarn_pool_get of an object that it is) the file must be the same, else TARN_EIO. */
int tarn_pool_open_saved(tarn_pool_t *pool, const char *path, uint32_t flags,
                         tarn_saved_identity_t *identity, tarn_value_t **out, tarn_error_t *err);
/* The object is v from here on (the same value at another home): what it was is let go of. Touches. TARN_ENOENT, TARN_ENOMEM. */
int tarn_pool_rehome(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err);
/* The path of the saved file that the object is in. TARN_ENOENT: in none, or it does not fit into size. */
int tarn_pool_saved_path(tarn_pool_t *pool, uint64_t id, char *path, size_t size);

/* A file of another format, of the user's too: its ranges as blocks, mapped or read as those of a saved file are, but without checksums.
 * The same rule holds: the file must be the one that was opened, else TARN_EIO. */
typedef struct tarn__saved tarn_raw_file_t;
/* One reference, the caller's. TARN_EIO, TARN_ENOMEM. The message begins with the path. */
int tarn_pool_open_raw(tarn_pool_t *pool, const char *path, tarn_raw_file_t **out,
                       uint64_t *size_bytes, tarn_error_t *err);
void tarn_pool_close_raw(tarn_pool_t *pool, tarn_raw_file_t *f); /* its blocks live on */
/* A sealed block, with one reference and one mapping, both the caller's. Where it is mapped (TARN_POOL_MAP_MIN and more) its address is aligned
 * as offset is, else to 64. TARN_ECORRUPT when the file has no such range; TARN_EIO, TARN_ENOMEM. */
int tarn_pool_raw_block(tarn_pool_t *pool, tarn_raw_file_t *f, uint64_t offset, uint64_t size,
                        tarn_block_t **out, tarn_error_t *err);
/* Such a block, which is mapped, will be read: begin to fetch it from the disk. Call it when all that is wanted has been mapped: mapping waits
 * for what is being fetched. */
void tarn_block_prefetch(tarn_block_t *b);

/* ---- budget and figures ---- */

void tarn_pool_set_limits(tarn_pool_t *pool, const uint64_t *max_memsize,
                          const uint64_t *max_disksize); /* null: as it is; evicts at once */

typedef struct tarn_pool_stats { /* bytes and counts; names as in tarn.poolstats */
  uint64_t objects, live_bytes, resident_bytes, inflight_bytes, lent_bytes, borrowed_bytes,
      spilled_bytes, disk_bytes;
  uint64_t max_memsize, max_disksize;
  uint64_t sets, gets, deletes, evictions, spill_written_bytes, mapped_back_bytes;
  /* Not in tarn.poolstats: of resident_bytes, those in the memory file, and on the C heap; of its memory, what is kept for the next segment; what
   * is known about objects; values that came in messages and that nobody has stored. */
  uint64_t segment_bytes, heap_bytes, cached_bytes, record_bytes, received_bytes;
} tarn_pool_stats_t;
void tarn_pool_get_stats(tarn_pool_t *pool, tarn_pool_stats_t *out);

/* What the system says about the pool's files. Makes system calls, on the spill directory's disk too. */
typedef struct tarn_pool_files {
  uint64_t memory_file_bytes; /* that the memory file has, whoever maps them */
  uint64_t disk_free_bytes;   /* where the spill file is or would be; UINT64_MAX: not known */
} tarn_pool_files_t;
void tarn_pool_get_files(tarn_pool_t *pool, tarn_pool_files_t *out);

#define TARN_CONTENTS_MAX 31u
typedef struct tarn_object_note {
  uint64_t id, size_bytes;
  uint64_t
      age_ns; /* since it was stored, to a quarter of a second; of a process that is old, to a hundredth of its age */
  bool live;  /* a Lua value */
  bool in_memory; /* its blocks, or some of them */
  char contents[TARN_CONTENTS_MAX +
                1]; /* "array, strings": serializers of what is in it; "": not known, or none */
} tarn_object_note_t;
/* The largest objects, largest first: how many of at most max there are. Lets others in between every few thousand objects, so what is stored
 * or deleted meanwhile may be missed. Takes about 20 ms a million objects. */
size_t tarn_pool_largest(tarn_pool_t *pool, tarn_object_note_t *out, size_t max);

#endif
