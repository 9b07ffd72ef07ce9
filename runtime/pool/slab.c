/* A slab: chunks aligned to a power of two, so that a record finds its chunk; free records of a chunk are linked through themselves. A
 * chunk is a little shorter than what it is aligned to: then the C library can put the next one right behind it. */
#include "pool/slab-private.h"

#include <stdint.h>
#include <string.h>
#include "base/alloc.h"

enum { SMALL_CHUNK = 4 << 10, CHUNK = 8 << 10, MARGIN = 64, SMALL_RECORD = 128 };

typedef struct chunk {
  tarn_list_t link; /* in slab->partial, while there is room */
  void *free;       /* given back, linked */
  uint32_t used;
  uint32_t fresh; /* never used: how many from the end */
} chunk_t;

static uint32_t capacity(const tarn__slab_t *s) {
  return (uint32_t)((s->chunk - MARGIN - sizeof(chunk_t)) / s->size);
}

void tarn__slab_init(tarn__slab_t *s, size_t record_size, tarn__slab_totals_t *totals) {
  s->size = (record_size + 15) & ~(size_t)15;
  s->chunk = s->size <= SMALL_RECORD ? SMALL_CHUNK : CHUNK;
  s->totals = totals;
  tarn_list_init(&s->partial);
}

void *tarn__slab_take(tarn__slab_t *s) {
  if (tarn_list_empty(&s->partial)) {
    chunk_t *c = tarn_aligned(s->chunk, s->chunk - MARGIN);
    if (!c) { return NULL; }
    *c = (chunk_t){.fresh = capacity(s)};
    tarn_list_push_back(&s->partial, &c->link);
    s->totals->chunks += s->chunk;
  }
  chunk_t *c = TARN_CONTAINER(s->partial.next, chunk_t, link);
  void *record = c->free;
  if (record) {
    memcpy(&c->free, record, sizeof c->free);
  } else {
    record = (uint8_t *)(c + 1) + (size_t)(capacity(s) - c->fresh) * s->size;
    c->fresh--;
  }
  c->used++;
  s->totals->records += s->size;
  if (!c->free && c->fresh == 0) { tarn_list_remove(&c->link); }
  memset(record, 0, s->size);
  return record;
}

void tarn__slab_give(tarn__slab_t *s, void *record) {
  chunk_t *c = (chunk_t *)((uintptr_t)record & ~(uintptr_t)(s->chunk - 1));
  bool was_full = !c->free && c->fresh == 0;
  s->totals->records -= s->size;
  if (--c->used == 0) {
    tarn_list_remove(&c->link);
    tarn_free(c);
    s->totals->chunks -= s->chunk;
    return;
  }
  memcpy(record, &c->free, sizeof c->free);
  c->free = record;
  if (was_full) { tarn_list_push_back(&s->partial, &c->link); }
}
