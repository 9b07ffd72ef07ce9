#include "pool/chunks-private.h"

#include <stdint.h>
#include "base/alloc.h"
#include "pool/pieces-private.h"

enum { REGION_CHUNKS = 32 };
#define REGION (REGION_CHUNKS * TARN__CHUNK) /* what a region is aligned to */
#define REGION_BYTES (REGION + 4096)

/* A region's head is behind its chunks, in a page of its own. */
static uint8_t *start_of(tarn__pieces_t *r) { return (uint8_t *)r - REGION; }

static tarn__pieces_t *region_of(void *chunk) {
  return (tarn__pieces_t *)(((uintptr_t)chunk & ~(uintptr_t)(REGION - 1)) + REGION);
}

void tarn__chunks_init(tarn__chunks_t *c) {
  tarn_list_init(&c->partial);
  c->unused = 0;
}

static tarn__pieces_t *add_region(tarn__chunks_t *c) {
  uint8_t *start = tarn_pages(REGION, REGION_BYTES);
  if (!start) { return NULL; }
  tarn__pieces_t *r = (tarn__pieces_t *)(void *)(start + REGION);
  *r = (tarn__pieces_t){.fresh = REGION_CHUNKS};
  tarn_list_push_back(&c->partial, &r->link);
  c->unused++;
  return r;
}

void *tarn__chunk_take(tarn__chunks_t *c) {
  tarn__pieces_t *r = tarn_list_empty(&c->partial)
                          ? add_region(c)
                          : TARN_CONTAINER(c->partial.next, tarn__pieces_t, link);
  if (!r) { return NULL; }
  bool touched = r->free != NULL;
  void *chunk = tarn__pieces_take(r, (uint8_t *)r, TARN__CHUNK);
  if (!touched) { tarn_pages_used(TARN__CHUNK); }
  if (r->used == 1) { c->unused--; }
  if (tarn__pieces_full(r)) { tarn_list_remove(&r->link); }
  return chunk;
}

static void drop(tarn__chunks_t *c, tarn__pieces_t *r) {
  tarn_list_remove(&r->link);
  c->unused--;
  tarn_pages_free(start_of(r), REGION_BYTES, (REGION_CHUNKS - r->fresh) * TARN__CHUNK);
}

void tarn__chunk_give(tarn__chunks_t *c, void *chunk) {
  tarn__pieces_t *r = region_of(chunk);
  tarn__pieces_give(r, chunk);
  if (r->used > 0) {
    if (tarn_list_empty(&r->link)) { tarn_list_push_front(&c->partial, &r->link); }
    return;
  }
  c->unused++;
  tarn_list_remove(&r->link);
  tarn_list_push_back(&c->partial, &r->link);
  if (c->unused > 1) { drop(c, r); }
}

void tarn__chunks_clear(tarn__chunks_t *c) {
  while (c->unused > 0) { drop(c, TARN_CONTAINER(c->partial.prev, tarn__pieces_t, link)); }
}
