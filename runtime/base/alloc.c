/* Allocation: malloc with a count of the bytes taken, and a seam by which tests make the n-th
 * allocation fail.
 *
 * The count is kept in malloc's own sizes, so that free needs no header of ours. Both
 * counters belong to the process, as malloc's heap does; they are the only state here. Threads:
 * any. */
#include "base/alloc.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/sanitizers.h"

#ifdef TARN_UNDER_ASAN
#include <sanitizer/lsan_interface.h>
#endif

static atomic_uint_fast64_t bytes_taken;
/* What is to fail: 0: nothing. */
static atomic_uint_fast64_t countdown, lua_countdown;
static atomic_uint_fast64_t failed;

/* True when this allocation is the one that was chosen to fail. */
static inline bool must_fail(atomic_uint_fast64_t *counter) {
  uint64_t n = atomic_load_explicit(counter, memory_order_relaxed);
  while (n != 0) {
    if (atomic_compare_exchange_weak_explicit(counter, &n, n - 1, memory_order_relaxed,
                                              memory_order_relaxed)) {
      if (n == 1) { atomic_store_explicit(&failed, 1, memory_order_relaxed); }
      return n == 1;
    }
  }
  return false;
}

bool tarn_alloc_lua_must_fail(void) { return must_fail(&lua_countdown); }

/* What p takes of malloc's heap: its usable bytes, and the word before them. */
static size_t size_taken(void *p) { return malloc_usable_size(p) + sizeof(size_t); }

static void *count_taken(void *p) {
  if (p) { atomic_fetch_add_explicit(&bytes_taken, size_taken(p), memory_order_relaxed); }
  return p;
}

/* What no address space holds is refused here, so that all allocators answer alike. */
static bool refuse(size_t size_bytes) { return size_bytes > PTRDIFF_MAX || must_fail(&countdown); }

void *tarn_malloc(size_t size_bytes) {
  if (refuse(size_bytes)) { return NULL; }
  return count_taken(malloc(size_bytes ? size_bytes : 1));
}

void *tarn_calloc(size_t count, size_t size_bytes) {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total) || refuse(total)) { return NULL; }
  return count_taken(calloc(1, total ? total : 1));
}

void *tarn_realloc(void *p, size_t size_bytes) {
  if (refuse(size_bytes)) { return NULL; }
  size_t before = p ? size_taken(p) : 0;
  void *q = realloc(p, size_bytes ? size_bytes : 1);
  if (q) {
    count_taken(q);
    atomic_fetch_sub_explicit(&bytes_taken, before, memory_order_relaxed);
  }
  return q;
}

void *tarn_aligned(size_t alignment, size_t size_bytes) {
  void *p = NULL;
  if (refuse(size_bytes) || posix_memalign(&p, alignment, size_bytes ? size_bytes : 1) != 0) {
    return NULL;
  }
  return count_taken(p);
}

void tarn_free(void *p) {
  if (p) {
    atomic_fetch_sub_explicit(&bytes_taken, size_taken(p), memory_order_relaxed);
    free(p);
  }
}

void *tarn_pages(size_t alignment, size_t size_bytes) {
  if (refuse(size_bytes)) { return NULL; }
  size_t mapped = size_bytes + alignment;
  uint8_t *all = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) { return NULL; }
  size_t before = -(uintptr_t)all & (alignment - 1), after = alignment - before;
  if (before > 0) { (void)munmap(all, before); }
  if (after > 0) { (void)munmap(all + before + size_bytes, after); }
#ifdef TARN_UNDER_ASAN
  __lsan_register_root_region(all + before,
                              size_bytes); /* it looks for pointers in malloc's memory only */
#endif
  return all + before;
}

void tarn_pages_used(size_t bytes) {
  atomic_fetch_add_explicit(&bytes_taken, bytes, memory_order_relaxed);
}

void tarn_pages_free(void *p, size_t size_bytes, size_t used_bytes) {
  if (!p) { return; }
  atomic_fetch_sub_explicit(&bytes_taken, used_bytes, memory_order_relaxed);
#ifdef TARN_UNDER_ASAN
  __lsan_unregister_root_region(p, size_bytes);
#endif
  (void)munmap(p, size_bytes);
}

char *tarn_strdup(const char *s) {
  size_t size = strlen(s) + 1;
  char *copy = tarn_malloc(size);
  return copy ? memcpy(copy, s, size) : NULL;
}

uint64_t tarn_alloc_bytes(void) { return atomic_load_explicit(&bytes_taken, memory_order_relaxed); }

static void fail_at(atomic_uint_fast64_t *counter, uint64_t n) {
  atomic_store_explicit(&failed, 0, memory_order_relaxed);
  atomic_store_explicit(counter, n, memory_order_relaxed);
}

void tarn_alloc_fail_at(uint64_t n) { fail_at(&countdown, n); }
void tarn_alloc_fail_lua_at(uint64_t n) { fail_at(&lua_countdown, n); }

uint64_t tarn_alloc_failed(void) { return atomic_load_explicit(&failed, memory_order_relaxed); }
