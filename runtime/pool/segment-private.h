/* Segments: page-aligned ranges of one sparse memfd, mapped once at a fixed base. Nothing here
 * locks: the pool's mutex does, except for the functions marked "unlocked", which make system calls
 * on a range that the caller alone owns. */
#ifndef TARN_POOL_SEGMENT_PRIVATE_H
#define TARN_POOL_SEGMENT_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/list.h"
#include "base/sanitizers.h"
#include "pool/range-private.h"

#define TARN__PAGE 4096u
/* Addresses taken at once, for memory and for the spill file. */
#ifdef TARN_UNDER_TSAN
#define TARN__RESERVE_BYTES ((uint64_t)16 << 30) /* its shadow of a terabyte is too much */
#else
#define TARN__RESERVE_BYTES ((uint64_t)1 << 40)
#endif
/* The longest range for one mmap, munmap or punch: they stall the page faults of all who map it. Measured, of this much each takes
 * about 0.3 ms (of 16 MiB 1 to 1.5, of 1 GiB 40 to 170). */
#define TARN__SLICE ((uint64_t)4 << 20)
#define TARN__CLASSES 256u
#define TARN__SEGMENT_MIN_PAGES 16u

typedef struct tarn__segment {
  tarn_list_t link; /* in the free list of its class, while cached */
  uint64_t offset;  /* in the memfd, and from the base */
  uint64_t size;    /* addresses, bytes */
  uint64_t warm;    /* bytes from offset on that may have memory: what the budget counts */
} tarn__segment_t;

typedef struct tarn__memory {
  int fd;              /* owned */
  uint8_t *base;       /* owned mapping of reserved bytes */
  uint64_t reserved;   /* bytes of addresses */
  uint64_t top;        /* addresses from here on were never used */
  uint64_t cached;     /* warm bytes in the free lists */
  tarn__ranges_t cold; /* addresses below top without memory */
  tarn_list_t classes[TARN__CLASSES];
  uint64_t filled[TARN__CLASSES / 64]; /* which classes have something */
} tarn__memory_t;

/* 8 classes a doubling, in whole pages. The class whose segments have at most so many pages; and
 * its smallest. */
uint32_t tarn__class_floor(uint64_t pages);
uint64_t tarn__class_pages(uint32_t index);
uint32_t tarn__class_ceil(uint64_t pages);
static inline uint64_t tarn__pages(uint64_t bytes) { return (bytes + TARN__PAGE - 1) / TARN__PAGE; }
static inline uint64_t tarn__page_round(uint64_t bytes) { return tarn__pages(bytes) * TARN__PAGE; }

int tarn__memory_open(tarn__memory_t *m, uint64_t reserve_bytes, tarn_error_t *err);
void tarn__memory_close(tarn__memory_t *m); /* frees the cached segments too */

/* A cached segment that holds size bytes, still in its list; null when there is none. */
tarn__segment_t *tarn__memory_find(tarn__memory_t *m, uint64_t size);
/* Takes s out of its list. When it is much longer than size its rest becomes another cached
 * segment, for which *spare (from tarn_malloc) is used up and set to null. */
void tarn__memory_use(tarn__memory_t *m, tarn__segment_t *s, uint64_t size,
                      tarn__segment_t **spare);
/* Gives s addresses that have no memory yet. False when the reservation is exhausted. */
bool tarn__memory_fresh(tarn__memory_t *m, tarn__segment_t *s, uint64_t size);
/* s is not mapped by anybody any more: cached when it has memory, else its addresses go back and it
 * is freed. */
void tarn__memory_recycle(tarn__memory_t *m, tarn__segment_t *s);
/* The largest cached segment, taken out; null when there is none. */
tarn__segment_t *tarn__memory_largest(tarn__memory_t *m);

/* Unlocked: free the memory of a range. False when it could not be done. */
bool tarn__memory_punch(tarn__memory_t *m, uint64_t offset, uint64_t size);
/* Unlocked: put a file's range over a segment's addresses, to be read only. After an error part of
 * it may be there: the bytes are the same. */
int tarn__memory_cover(tarn__memory_t *m, uint64_t offset, uint64_t size, int fd,
                       uint64_t file_offset);
/* Unlocked: the memfd back over its own addresses. */
int tarn__memory_uncover(tarn__memory_t *m, uint64_t offset, uint64_t size);

#endif
