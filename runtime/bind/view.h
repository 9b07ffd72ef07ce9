/* What Lua calls through the FFI for its views of blocks (lua/tarn/block.lua has the same declarations). Lua thread. */
#ifndef TARN_BIND_VIEW_H
#define TARN_BIND_VIEW_H

#include <stdbool.h>

#include "pool/pool.h"

/* How every view begins. */
typedef struct tarn_view {
  uint32_t block_count;
  uint32_t flags;         /* the view's own */
  tarn_block_t *blocks[]; /* each mapped by the view, which keeps it; null allowed */
} tarn_view_t;

/* Finalizer: gives the blocks back at the next task boundary, never at once: a raw pointer may outlive its view by a little. */
void tarn_view_drop(tarn_view_t *view);

/* 53 bits of a hash of the bytes, as a number that Lua keeps exactly. */
double tarn_view_hash(const void *bytes, uint64_t size);

/* Are these bytes UTF-8? */
bool tarn_view_is_utf8(const void *bytes, uint64_t size);

/* Make NaNs that LuaJIT would take for something else ordinary ones: count floating-point numbers of number_bytes (4, 8), each stride_bytes
 * after the one before, aligned. How many there were. */
uint64_t tarn_view_mend_nans(void *first, uint64_t count, uint32_t stride_bytes,
                             uint32_t number_bytes);

#endif
