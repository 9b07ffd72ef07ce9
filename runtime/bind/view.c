/* What lua/tarn/{block,array,strings}.lua call through the FFI: the finalizer of views, and loops over bytes that are better done here.
 * Plain C functions: no Lua state. Lua thread. */
#include "bind/view.h"

#include <string.h>

#include "base/utf8.h"
#include "image/file.h"

void tarn_view_drop(tarn_view_t *view) {
  for (uint32_t i = 0; i < view->block_count; i++) {
    if (view->blocks[i]) { tarn_block_unmap_later(view->blocks[i]); }
    view->blocks[i] = NULL;
  }
}

double tarn_view_hash(const void *bytes, uint64_t size) {
  return (double)(tarn_hash64(bytes, (size_t)size) >> 11);
}

bool tarn_view_is_utf8(const void *bytes, uint64_t size) {
  return tarn_utf8_valid(bytes, (size_t)size);
}

/* LuaJIT keeps the types of values in the bits of NaNs: with bits 48..50 of one set (and its sign, which a unary minus may set) it would be
 * taken for a table, a string... The FFI does not look, so bytes from outside are looked at here. */
static bool mend_double(uint64_t *p) {
  if ((*p & 0x7fffffffffffffffu) < 0x7ff1000000000000u) { return false; }
  bool bad = (*p & 0x7fffffffffffffffu) != 0x7ff8000000000000u;
  if (bad) { *p = 0x7ff8000000000000u; }
  return bad;
}

static bool mend_float(uint32_t *p) {
  if ((*p & 0x7fffffffu) <= 0x7f800000u) { return false; }
  bool bad = (*p & 0x7fffffffu) != 0x7fc00000u;
  if (bad) { *p = 0x7fc00000u; }
  return bad;
}

uint64_t tarn_view_mend_nans(void *first, uint64_t count, uint32_t stride_bytes,
                             uint32_t number_bytes) {
  uint64_t mended = 0;
  char *at = first;
  for (uint64_t i = 0; i < count; i++, at += stride_bytes) {
    mended += number_bytes == sizeof(double) ? mend_double((uint64_t *)(void *)at)
                                             : mend_float((uint32_t *)(void *)at);
  }
  return mended;
}
