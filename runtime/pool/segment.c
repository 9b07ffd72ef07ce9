/* Memory for blocks: one sparse memfd, mapped once. A segment whose block is gone keeps its memory
 * on a free list ("cached"): memory used before is about 20 times faster than fresh. It counts
 * until it is punched, which happens when room is needed for something else. Addresses without
 * memory go to a tree of ranges, where neighbours merge.
 *
 * Free lists are by size class, 8 to a doubling; a longer segment is split, so mixed sizes find
 * warm memory too. What was fragmented becomes whole again by being punched. Locking: the caller's.
 */
#include "pool/segment-private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/sys.h"

uint32_t tarn__class_floor(uint64_t pages) {
  if (pages < 8) { return (uint32_t)pages; }
  uint32_t log = 63u - (uint32_t)__builtin_clzll(pages);
  return 8 * (log - 3) + (uint32_t)(pages >> (log - 3));
}

uint64_t tarn__class_pages(uint32_t index) {
  if (index < 8) { return index; }
  return (uint64_t)(index % 8 + 8) << (index / 8 - 1);
}

uint32_t tarn__class_ceil(uint64_t pages) {
  uint32_t index = tarn__class_floor(pages);
  return tarn__class_pages(index) < pages ? index + 1 : index;
}

static int map_memory(tarn__memory_t *m, uint64_t size, tarn_error_t *err) {
  if (tarn_sys_ftruncate(m->fd, size) != 0) {
    return tarn_error_errno(err, errno, "sizing the pool's memory");
  }
  void *at =
      tarn_sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
  if (at == MAP_FAILED) { return tarn_error_errno(err, errno, "mapping the pool's memory"); }
  (void)madvise(at, size, MADV_DONTFORK); /* a fork of a large process stays quick */
  (void)madvise(at, size, MADV_DONTDUMP); /* nor is a core file a terabyte long */
  m->base = at;
  m->reserved = size;
  return 0;
}

int tarn__memory_open(tarn__memory_t *m, uint64_t reserve_bytes, tarn_error_t *err) {
  *m = (tarn__memory_t){.fd = -1};
  tarn__ranges_init(&m->cold);
  for (uint32_t i = 0; i < TARN__CLASSES; i++) { tarn_list_init(&m->classes[i]); }
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      limit.rlim_cur < reserve_bytes) {
    reserve_bytes = limit.rlim_cur; /* beyond it ftruncate raises SIGXFSZ */
  }
  reserve_bytes -= reserve_bytes % TARN__PAGE;
  m->fd = tarn_sys_memfd("tarn", MFD_CLOEXEC);
  if (m->fd < 0) { return tarn_error_errno(err, errno, "creating the pool's memory"); }
  int rc = TARN_ENOMEM;
  while (reserve_bytes >= TARN__SLICE && (rc = map_memory(m, reserve_bytes, err)) != 0) {
    reserve_bytes /= 2;
  }
  if (!m->base) {
    close(m->fd);
    m->fd = -1;
    return rc == TARN_ENOMEM ? tarn_error_set(err, rc, "no address space for the pool's memory")
                             : rc;
  }
  return 0;
}

void tarn__memory_close(tarn__memory_t *m) {
  tarn__segment_t *s;
  while ((s = tarn__memory_largest(m)) != NULL) { tarn_free(s); }
  tarn__ranges_clear(&m->cold);
  if (m->base) { tarn_sys_munmap(m->base, m->reserved); }
  if (m->fd >= 0) { close(m->fd); }
  m->base = NULL;
  m->fd = -1;
}

static void cache(tarn__memory_t *m, tarn__segment_t *s) {
  uint32_t index = tarn__class_floor(s->size / TARN__PAGE);
  tarn_list_push_front(&m->classes[index],
                       &s->link); /* the last used is the likeliest in the processor's caches */
  m->filled[index / 64] |= (uint64_t)1 << (index % 64);
  m->cached += s->warm;
}

static void uncache(tarn__memory_t *m, tarn__segment_t *s) {
  uint32_t index = tarn__class_floor(s->size / TARN__PAGE);
  tarn_list_remove(&s->link);
  if (tarn_list_empty(&m->classes[index])) {
    m->filled[index / 64] &= ~((uint64_t)1 << (index % 64));
  }
  m->cached -= s->warm;
}

tarn__segment_t *tarn__memory_find(tarn__memory_t *m, uint64_t size) {
  uint32_t from = tarn__class_ceil(tarn__pages(size));
  for (uint32_t word = from / 64; word < TARN__CLASSES / 64; word++) {
    uint64_t bits = m->filled[word];
    if (word == from / 64) { bits &= ~(uint64_t)0 << (from % 64); }
    if (bits != 0) {
      uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
      return TARN_CONTAINER(m->classes[index].next, tarn__segment_t, link);
    }
  }
  return NULL;
}

void tarn__memory_use(tarn__memory_t *m, tarn__segment_t *s, uint64_t size,
                      tarn__segment_t **spare) {
  uncache(m, s);
  uint64_t keep = tarn__class_pages(tarn__class_ceil(tarn__pages(size))) * TARN__PAGE;
  assert(keep <= s->size);
  if (s->size - keep < TARN__SEGMENT_MIN_PAGES * TARN__PAGE || !*spare) { return; }
  tarn__segment_t *rest = *spare;
  *spare = NULL;
  tarn_list_init(&rest->link);
  rest->offset = s->offset + keep;
  rest->size = s->size - keep;
  rest->warm = s->warm > keep ? s->warm - keep : 0;
  s->size = keep;
  if (s->warm > keep) { s->warm = keep; }
  tarn__memory_recycle(m, rest);
}

bool tarn__memory_fresh(tarn__memory_t *m, tarn__segment_t *s, uint64_t size) {
  uint64_t take = tarn__class_pages(tarn__class_ceil(tarn__pages(size))) * TARN__PAGE;
  uint64_t offset;
  if (!tarn__ranges_take(&m->cold, take, &offset)) {
    if (m->reserved - m->top < take) { return false; }
    offset = m->top;
    m->top += take;
  }
  tarn_list_init(&s->link);
  s->offset = offset;
  s->size = take;
  s->warm = 0;
  return true;
}

void tarn__memory_recycle(tarn__memory_t *m, tarn__segment_t *s) {
  if (s->warm > 0) {
    cache(m, s);
    return;
  }
  (void)tarn__ranges_give(&m->cold, s->offset,
                          s->size); /* else these addresses stay unused: no harm */
  tarn_free(s);
}

tarn__segment_t *tarn__memory_largest(tarn__memory_t *m) {
  for (uint32_t word = TARN__CLASSES / 64; word-- > 0;) {
    if (m->filled[word] != 0) {
      uint32_t index = word * 64 + 63u - (uint32_t)__builtin_clzll(m->filled[word]);
      tarn__segment_t *s = TARN_CONTAINER(m->classes[index].prev, tarn__segment_t, link);
      uncache(m, s);
      return s;
    }
  }
  return NULL;
}

bool tarn__memory_punch(tarn__memory_t *m, uint64_t offset, uint64_t size) {
  for (uint64_t done = 0; done < size; done += TARN__SLICE) {
    uint64_t part = size - done < TARN__SLICE ? size - done : TARN__SLICE;
    if (tarn_sys_fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset + done,
                           part) != 0) {
      return false;
    }
  }
  return true;
}

static int map_over(tarn__memory_t *m, uint64_t offset, uint64_t size, int prot, int flags, int fd,
                    uint64_t file_offset) {
  for (uint64_t done = 0; done < size; done += TARN__SLICE) {
    uint64_t part = size - done < TARN__SLICE ? size - done : TARN__SLICE;
    void *at = m->base + offset + done;
    if (tarn_sys_mmap(at, part, prot, MAP_SHARED | MAP_FIXED | flags, fd, file_offset + done) ==
        MAP_FAILED) {
      return TARN_ENOMEM;
    }
    (void)madvise(at, part, MADV_DONTFORK);
    (void)madvise(at, part, MADV_DONTDUMP);
  }
  return 0;
}

int tarn__memory_cover(tarn__memory_t *m, uint64_t offset, uint64_t size, int fd,
                       uint64_t file_offset) {
  return map_over(m, offset, size, PROT_READ, 0, fd, file_offset);
}

int tarn__memory_uncover(tarn__memory_t *m, uint64_t offset, uint64_t size) {
  return map_over(m, offset, size, PROT_READ | PROT_WRITE, MAP_NORESERVE, m->fd, offset);
}
