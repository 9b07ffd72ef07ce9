/* Records of one size, many to a chunk, apart from the C heap: records that live long between bytes
 * that come and go would leave the heap full of holes. The pool's mutex guards it. */
#ifndef TARN_POOL_SLAB_PRIVATE_H
#define TARN_POOL_SLAB_PRIVATE_H

#include <stddef.h>
#include <stdint.h>
#include "base/list.h"
#include "pool/chunks-private.h"

/* Of several slabs, in bytes: what lies between is taken and not used. */
typedef struct tarn__slab_totals {
  uint64_t chunks, records;
} tarn__slab_totals_t;

typedef struct tarn__slab {
  size_t size;         /* of a record; at least a pointer's */
  tarn_list_t partial; /* chunks with room */
  tarn__chunks_t
      *source; /* borrowed, and may be shared: with those whose records come and go together */
  tarn__slab_totals_t *totals; /* borrowed */
} tarn__slab_t;

void tarn__slab_init(tarn__slab_t *s, size_t record_size, tarn__chunks_t *source,
                     tarn__slab_totals_t *totals);
void *tarn__slab_take(tarn__slab_t *s);              /* zeroed; null: no memory */
void tarn__slab_give(tarn__slab_t *s, void *record); /* a chunk goes with its last record */

#endif
