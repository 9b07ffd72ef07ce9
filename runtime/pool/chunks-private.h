/* Chunks: pieces of memory of one size, aligned to it, for slabs. Cut from regions, so that chunks which come and go leave no holes in the C
 * heap: glibc's aligned allocation does not find the place of the last one again (its bug 14581), and a slab of which one record was in
 * use now and then took 8 KiB each time. The pool's mutex guards them. */
#ifndef TARN_POOL_CHUNKS_PRIVATE_H
#define TARN_POOL_CHUNKS_PRIVATE_H

#include <stddef.h>
#include "base/list.h"

#define TARN__CHUNK ((size_t)8 << 10)

typedef struct tarn__chunks {
  tarn_list_t partial; /* regions with room, those of which none is in use last */
  size_t unused;       /* how many such: one is kept */
} tarn__chunks_t;

void tarn__chunks_init(tarn__chunks_t *c);
void *tarn__chunk_take(tarn__chunks_t *c); /* null: no memory */
void tarn__chunk_give(tarn__chunks_t *c, void *chunk);
void tarn__chunks_clear(tarn__chunks_t *c); /* all have been given back */

#endif
