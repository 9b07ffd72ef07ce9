#include "pool/chunks-private.h"

#include <stdint.h>
#include <string.h>
#include "base/alloc.h"

enum { REGION_CHUNKS = 32 };
#define REGION (REGION_CHUNKS * TARN__CHUNK) /* what a region is aligned to */
#define REGION_BYTES (REGION + 4096)

/* Behind a region's chunks, in a page of its own. */
typedef struct region {
  tarn_list_t link; /* in partial, while there is room */
  void *free;       /* given back, linked */
  uint32_t used;
  uint32_t fresh; /* never used: how many from the end */
} region_t;

static uint8_t *start_of(region_t *r) { return (uint8_t *)r - REGION; }

static region_t *region_of(void *chunk) {
  return (region_t *)(((uintptr_t)chunk & ~(uintptr_t)(REGION - 1)) + REGION);
}

void tarn__chunks_init(tarn__chunks_t *c) {
  tarn_list_init(&c->partial);
  c->unused = 0;
}

static region_t *add_region(tarn__chunks_t *c) {
  uint8_t *start = tarn_pages(REGION, REGION_BYTES);
  if (!start) { return NULL; }
  region_t *r = (region_t *)(void *)(start + REGION);
  *r = (region_t){.fresh = REGION_CHUNKS};
  tarn_list_push_back(&c->partial, &r->link);
  c->unused++;
  return r;
}

void *tarn__chunk_take(tarn__chunks_t *c) {
  region_t *r = tarn_list_empty(&c->partial) ? add_region(c)
                                             : TARN_CONTAINER(c->partial.next, region_t, link);
  if (!r) { return NULL; }
  void *chunk = r->free;
  if (chunk) {
    memcpy(&r->free, chunk, sizeof r->free);
  } else {
    chunk = start_of(r) + (REGION_CHUNKS - r->fresh--) * TARN__CHUNK;
    tarn_pages_used(TARN__CHUNK);
  }
  if (r->used++ == 0) { c->unused--; }
  if (!r->free && r->fresh == 0) { tarn_list_remove(&r->link); }
  return chunk;
}

static void drop(tarn__chunks_t *c, region_t *r) {
  tarn_list_remove(&r->link);
  c->unused--;
  tarn_pages_free(start_of(r), REGION_BYTES, (REGION_CHUNKS - r->fresh) * TARN__CHUNK);
}

void tarn__chunk_give(tarn__chunks_t *c, void *chunk) {
  region_t *r = region_of(chunk);
  memcpy(chunk, &r->free, sizeof r->free);
  r->free = chunk;
  if (--r->used > 0) {
    if (tarn_list_empty(&r->link)) { tarn_list_push_front(&c->partial, &r->link); }
    return;
  }
  c->unused++;
  tarn_list_remove(&r->link);
  tarn_list_push_back(&c->partial, &r->link);
  if (c->unused > 1) { drop(c, r); }
}

void tarn__chunks_clear(tarn__chunks_t *c) {
  while (c->unused > 0) { drop(c, TARN_CONTAINER(c->partial.prev, region_t, link)); }
}
