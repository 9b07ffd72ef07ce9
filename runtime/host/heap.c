/* The memory of Lua's heap: mimalloc, in pages of 2 MiB once the heap has grown. LuaJIT's own allocator takes its memory 128 KiB at a time and gives
 * it back eagerly, so that most of the time of a job that makes many tables went into page faults: decoding 100,000 records took
 * 150 ms, and takes 35 (docs/PERFORMANCE.md).
 *
 * mimalloc never gives back the large pages that it takes itself, nor looks for what it could give back while nothing is asked of it. So it gets a
 * range of addresses, for which the kernel is asked for large pages, and is told to give back what is free when the heap has become a
 * quarter smaller. A process that had a gigabyte of tables for a moment does not keep a gigabyte.
 *
 * Its shared library would replace malloc for the whole process if it were linked; it is loaded with its names kept to itself. Where it is not
 * there, or LuaJIT takes no allocator but its own (32-bit references), that one is used. Lua thread. */
#include <dlfcn.h>
#include <lauxlib.h>
#include <mimalloc.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/log.h"
#include "host-private.h"

#define LIBRARY "libmimalloc.so.2"
#define RANGE_BYTES                                                                                \
  ((size_t)64 << 30) /* of addresses; where the heap is larger, mimalloc takes more as it likes */
#define RANGE_ALIGN ((size_t)32 << 20) /* of its segments */
#define LARGE_BYTES                                                                                \
  ((uint64_t)4 << 20) /* a heap of this size gets large pages: a small process stays small */
#define RETURN_BYTES ((uint64_t)4 << 20) /* less is not worth giving back */

/* What is used of it. */
typedef struct tarn__mimalloc {
  mi_heap_t *(*heap_new)(void);
  void (*heap_destroy)(mi_heap_t *heap);
  void *(*heap_realloc)(mi_heap_t *heap, void *p, size_t size);
  void (*free)(void *p);
  void (*collect)(bool force);
  void (*heap_collect)(mi_heap_t *heap, bool force);
  bool (*manage)(void *start, size_t size, bool is_committed, bool is_large, bool is_zero,
                 int numa_node);
} tarn__mimalloc_t;

struct tarn__heap {
  tarn__mimalloc_t mi;
  mi_heap_t *heap; /* null: LuaJIT's allocator */
  char *range;     /* of addresses; null: none */
  bool large;      /* it is in large pages */
  char *top;       /* beyond what of it has ever been given out: relaxed atomics */
  uint64_t peak;   /* bytes, since what was free has last been given back */
  lua_Alloc lua;   /* LuaJIT's allocator */
  void *lua_ud;
  uint64_t *bytes; /* the host's counter */
};

/* The range is filled from below: how far, for tarn__heap_resident. */
static void note_top(tarn__heap_t *h, char *end) {
  if (end > h->top && h->range != NULL && end <= h->range + RANGE_BYTES) {
    __atomic_store_n(&h->top, end, __ATOMIC_RELAXED);
  }
}

static void *take(tarn__heap_t *h, void *p, size_t old_size, size_t new_size) {
  if (h->heap == NULL) { return h->lua(h->lua_ud, p, old_size, new_size); }
  if (new_size == 0) {
    h->mi.free(p);
    return NULL;
  }
  char *q = h->mi.heap_realloc(h->heap, p, new_size);
  if (q != NULL) { note_top(h, q + new_size); }
  return q;
}

/* The heap has become larger or smaller. */
static void follow(tarn__heap_t *h, uint64_t bytes) {
  if (bytes > h->peak) {
    h->peak = bytes;
    if (bytes > LARGE_BYTES && !h->large) {
      h->large = true;
      if (h->range != NULL) { (void)madvise(h->range, RANGE_BYTES, MADV_HUGEPAGE); }
    }
  } else if (bytes < h->peak / 4 * 3 && h->peak - bytes > RETURN_BYTES) {
    h->peak = bytes;
    h->mi.heap_collect(h->heap, true);
    h->mi.collect(true);
  }
}

/* lua_Alloc: counts the heap's bytes, which pool.stats and the budget's users read. */
static void *heap_alloc(void *ud, void *p, size_t old_size, size_t new_size) {
  tarn__heap_t *h = ud;
  if (new_size > old_size && tarn_alloc_lua_must_fail()) { return NULL; }
  void *q = take(h, p, old_size, new_size);
  if (q != NULL || new_size == 0) {
    uint64_t bytes = *h->bytes + new_size - (p != NULL ? old_size : 0);
    __atomic_store_n(h->bytes, bytes, __ATOMIC_RELAXED);
    if (h->heap != NULL) { follow(h, bytes); }
  }
  return q;
}

uint64_t tarn__heap_resident(const tarn__heap_t *h) {
  enum { STEP = 64 << 20 };
  unsigned char pages[STEP / 4096]; /* no page is smaller */
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), sum = 0;
  char *top = __atomic_load_n(&h->top, __ATOMIC_RELAXED);
  for (char *at = h->range; at != NULL && at < top; at += STEP) {
    if (mincore(at, STEP, pages) != 0) { break; }
    for (uint64_t i = 0; i < STEP / page; i++) { sum += pages[i] & 1; }
  }
  return sum > 0 ? sum * page : __atomic_load_n(h->bytes, __ATOMIC_RELAXED);
}

static bool load(tarn__mimalloc_t *mi) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* for as long as the process lives */
  if (library == NULL) {
    tarn_log(TARN_LOG_DEBUG, "Lua's heap: without %s: %s", LIBRARY, dlerror());
    return false;
  }
  *(void **)&mi->heap_new = dlsym(library, "mi_heap_new");
  *(void **)&mi->heap_destroy = dlsym(library, "mi_heap_destroy");
  *(void **)&mi->heap_realloc = dlsym(library, "mi_heap_realloc");
  *(void **)&mi->free = dlsym(library, "mi_free");
  *(void **)&mi->collect = dlsym(library, "mi_collect");
  *(void **)&mi->heap_collect = dlsym(library, "mi_heap_collect");
  *(void **)&mi->manage = dlsym(library, "mi_manage_os_memory");
  return mi->heap_new && mi->heap_destroy && mi->heap_realloc && mi->free && mi->collect &&
         mi->heap_collect && mi->manage;
}

/* A range of addresses for mimalloc; null where there is none to be had. */
static char *reserve(const tarn__mimalloc_t *mi) {
  size_t size = RANGE_BYTES + RANGE_ALIGN;
  char *all = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) { return NULL; }
  size_t before = RANGE_ALIGN - (uintptr_t)all % RANGE_ALIGN;
  char *range = all + before;
  (void)munmap(all, before);
  if (before < RANGE_ALIGN) { (void)munmap(range + RANGE_BYTES, RANGE_ALIGN - before); }
  if (mi->manage(range, RANGE_BYTES, false, false, true, -1)) { return range; }
  (void)munmap(range, RANGE_BYTES);
  return NULL;
}

lua_State *tarn__heap_open(uint64_t *bytes, tarn__heap_t **out) {
  tarn__heap_t *h = tarn_calloc(1, sizeof *h);
  *out = h;
  if (h == NULL) { return NULL; }
  h->bytes = bytes;
  if (load(&h->mi)) {
    h->range = reserve(&h->mi);
    h->heap = h->mi.heap_new();
  }
  lua_State *L = h->heap != NULL ? lua_newstate(heap_alloc, h) : NULL;
  if (L != NULL) { return L; }
  if (h->heap != NULL) { h->mi.heap_destroy(h->heap); }
  h->heap = NULL;
  *bytes = 0;
  L = luaL_newstate();
  if (L == NULL) { return NULL; }
  h->lua = lua_getallocf(L, &h->lua_ud);
  lua_setallocf(L, heap_alloc, h);
  return L;
}

void tarn__heap_close(tarn__heap_t *h, lua_State *L) {
  if (L != NULL) {
    if (h->heap == NULL) { lua_setallocf(L, h->lua, h->lua_ud); } /* it frees itself */
    lua_close(L);
  }
  if (h != NULL && h->heap != NULL) { h->mi.heap_destroy(h->heap); }
  tarn_free(h);
}
