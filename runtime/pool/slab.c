/* A slab: chunks aligned to their size, so that a record finds its chunk; free records of a chunk are linked through themselves. */
#include "pool/slab-private.h"

#include <stdint.h>
#include <string.h>

typedef struct chunk {
  tarn_list_t link; /* in slab->partial, while there is room */
  void *free;       /* given back, linked */
  uint32_t used;
  uint32_t fresh; /* never used: how many from the end */
} chunk_t;

static uint32_t capacity(const tarn__slab_t *s) {
  return (uint32_t)((TARN__CHUNK - sizeof(chunk_t)) / s->size);
}

void tarn__slab_init(tarn__slab_t *s, size_t record_size, tarn__chunks_t *source,
                     tarn__slab_totals_t *totals) {
  s->source = source;
  s->size = (record_size + 15) & ~(size_t)15;
  s->totals = totals;
  tarn_list_init(&s->partial);
}

void *tarn__slab_take(tarn__slab_t *s) {
  if (tarn_list_empty(&s->partial)) {
    chunk_t *c = tarn__chunk_take(s->source);
    if (!c) { return NULL; }
    *c = (chunk_t){.fresh = capacity(s)};
    tarn_list_push_back(&s->partial, &c->link);
    s->totals->chunks += TARN__CHUNK;
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
  chunk_t *c = (chunk_t *)((uintptr_t)record & ~(uintptr_t)(TARN__CHUNK - 1));
  bool was_full = !c->free && c->fresh == 0;
  s->totals->records -= s->size;
  if (--c->used == 0) {
    tarn_list_remove(&c->link);
    tarn__chunk_give(s->source, c);
    s->totals->chunks -= TARN__CHUNK;
    return;
  }
  memcpy(record, &c->free, sizeof c->free);
  c->free = record;
  if (was_full) { tarn_list_push_back(&s->partial, &c->link); }
}
