/* The pool's objects by id: a set of pointers to records that begin with what find compares, so a slot costs 8 bytes and not 16.
 * (Addresses have 48 bits; in the other 16 are the id's last, so that hardly a record is looked at that is not the one.)
 * Cut into shards, each a table of its own: the largest step of growth is a shard's, which nobody notices under the mutex, and
 * takes little memory beside what is there. The pool's mutex guards it. */
#ifndef TARN_POOL_INDEX_PRIVATE_H
#define TARN_POOL_INDEX_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARN__INDEX_SHARDS 256u

typedef struct tarn__object tarn__object_t;

typedef struct tarn__index {
  struct tarn__index_shard {
    uint64_t *
        slots; /* owned, null while empty: an object's address, above it the last bits of its place */
    uint32_t count, capacity;
  } shards[TARN__INDEX_SHARDS];
  size_t count;   /* objects */
  uint64_t bytes; /* of slots: what the budget counts */
} tarn__index_t;

void tarn__index_init(tarn__index_t *x);
void tarn__index_clear(tarn__index_t *x); /* frees the slots, not the objects */
tarn__object_t *tarn__index_get(const tarn__index_t *x, uint64_t id); /* null when absent */
/* Have the id's slot brought near; or, when that has been done, the object. */
void tarn__index_prefetch(const tarn__index_t *x, uint64_t id, bool object);
int tarn__index_add(tarn__index_t *x,
                    tarn__object_t *o); /* its id is new. TARN_ENOMEM leaves x as it was */
void tarn__index_remove(tarn__index_t *x, const tarn__object_t *o); /* it is there */
void tarn__index_shrink(tarn__index_t *x,
                        uint64_t id); /* after a removal: memory back, where much is unused */
/* Iteration: start with *cursor = 0; null at the end. The object just returned may be removed, if the cursor is then taken one
 * back; nothing else may change. */
tarn__object_t *tarn__index_next(const tarn__index_t *x, size_t *cursor);

#endif
