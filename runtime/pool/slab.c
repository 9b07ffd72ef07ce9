/* A slab: chunks aligned to their size, so that a record finds its chunk. */
#include "pool/slab-private.h"

#include <stdint.h>
#include <string.h>
#include "pool/pieces-private.h"

static uint32_t capacity(const tarn__slab_t *s) {
  return (uint32_t)((TARN__CHUNK - sizeof(tarn__pieces_t)) / s->size);
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
    tarn__pieces_t *c = tarn__chunk_take(s->source);
    if (!c) { return NULL; }
    *c = (tarn__pieces_t){.fresh = capacity(s)};
    tarn_list_push_back(&s->partial, &c->link);
    s->totals->chunks += TARN__CHUNK;
  }
  tarn__pieces_t *c = TARN_CONTAINER(s->partial.next, tarn__pieces_t, link);
  void *record = tarn__pieces_take(c, (uint8_t *)(c + 1) + capacity(s) * s->size, s->size);
  s->totals->records += s->size;
  if (tarn__pieces_full(c)) { tarn_list_remove(&c->link); }
  memset(record, 0, s->size);
  return record;
}

void tarn__slab_give(tarn__slab_t *s, void *record) {
  tarn__pieces_t *c = (tarn__pieces_t *)((uintptr_t)record & ~(uintptr_t)(TARN__CHUNK - 1));
  bool was_full = tarn__pieces_full(c);
  s->totals->records -= s->size;
  tarn__pieces_give(c, record);
  if (c->used == 0) {
    tarn_list_remove(&c->link);
    tarn__chunk_give(s->source, c);
    s->totals->chunks -= TARN__CHUNK;
  } else if (was_full) {
    tarn_list_push_back(&s->partial, &c->link);
  }
}
