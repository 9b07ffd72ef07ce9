/* Free ranges of an address space (memfd offsets, spill file offsets): lowest fit, neighbours
 * merged, O(log n). Not thread-safe. */
#ifndef TARN_POOL_RANGE_PRIVATE_H
#define TARN_POOL_RANGE_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tarn__range tarn__range_t;

typedef struct tarn__ranges {
  tarn__range_t *root; /* owned */
  size_t count;        /* ranges */
  uint64_t bytes;      /* free in all */
  uint32_t seed;       /* of the tree's priorities */
} tarn__ranges_t;

void tarn__ranges_init(tarn__ranges_t *r);
void tarn__ranges_clear(tarn__ranges_t *r);
/* The lowest range that holds size bytes: its first size bytes are taken, *offset is where. False
 * when there is none. */
bool tarn__ranges_take(tarn__ranges_t *r, uint64_t size, uint64_t *offset);
/* Makes a range free. It must not overlap what is free already. False when the C heap is exhausted
 * (the range is then merely never used again). */
bool tarn__ranges_give(tarn__ranges_t *r, uint64_t offset, uint64_t size);
/* Takes one whole range out: the first. False when there is none. */
bool tarn__ranges_pop(tarn__ranges_t *r, uint64_t *offset, uint64_t *size);

#endif
