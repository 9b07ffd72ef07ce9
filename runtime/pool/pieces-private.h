/* Memory cut into pieces of one size, those that were given back linked through themselves: what a slab's chunks and the chunks' regions are. */
#ifndef TARN_POOL_PIECES_PRIVATE_H
#define TARN_POOL_PIECES_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/list.h"

typedef struct tarn__pieces {
  tarn_list_t link; /* the owner's: among those with room */
  void *free;       /* given back, linked */
  uint32_t used;
  uint32_t fresh; /* never used: how many from the end */
} tarn__pieces_t;

static inline bool tarn__pieces_full(const tarn__pieces_t *p) { return !p->free && p->fresh == 0; }

/* It is not full. end: of the last piece. */
static inline void *tarn__pieces_take(tarn__pieces_t *p, uint8_t *end, size_t size) {
  void *piece = p->free;
  if (piece) {
    memcpy(&p->free, piece, sizeof p->free);
  } else {
    piece = end - p->fresh-- * size;
  }
  p->used++;
  return piece;
}

static inline void tarn__pieces_give(tarn__pieces_t *p, void *piece) {
  memcpy(piece, &p->free, sizeof p->free);
  p->free = piece;
  p->used--;
}

#endif
