/* What lua/tarn/{block,array,strings}.lua call through the FFI: the finalizer of views, and loops over bytes that are better done here.
 * Plain C functions: no Lua state. Lua thread. */
#include "bind/view.h"

#include <string.h>

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

/* LuaJIT tells types apart by the bits of NaNs: a NaN with its sign and more than the quiet bit set would be read as a table,
 * a string... The FFI does not look, so bytes from outside are looked at here. */
static bool mend_doubles(uint64_t *p, uint64_t count, bool may_write) {
  for (uint64_t i = 0; i < count; i++) {
    if (p[i] > 0xfff8000000000000u) {
      if (!may_write) { return false; }
      p[i] = 0x7ff8000000000000u;
    }
  }
  return true;
}

static bool mend_floats(uint32_t *p, uint64_t count, bool may_write) {
  for (uint64_t i = 0; i < count; i++) {
    if (p[i] > 0xffc00000u) {
      if (!may_write) { return false; }
      p[i] = 0x7fc00000u;
    }
  }
  return true;
}

bool tarn_view_mend_nans(void *elements, uint64_t count, uint32_t element_bytes, bool may_write) {
  if (element_bytes == sizeof(double)) { return mend_doubles(elements, count, may_write); }
  return mend_floats(elements, count, may_write);
}

bool tarn_view_check_offsets(const void *offsets, uint64_t count, bool wide, uint64_t limit) {
  uint64_t before = 0;
  for (uint64_t i = 0; i <= count; i++) {
    uint64_t at = wide ? ((const uint64_t *)offsets)[i] : ((const uint32_t *)offsets)[i];
    if (at < before || at > limit) { return false; }
    before = at;
  }
  return true;
}
