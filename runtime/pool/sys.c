/* System calls of the pool, with a seam for specs (TARN_FAULTS) to make the n-th one fail. */
#include "pool/sys-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef TARN_FAULTS
/* The one mutable state of the room outside a context: only in builds for specs. */
static struct {
  uint32_t kinds;
  uint64_t countdown, times;
  int sys_errno;
} fault;

void tarn_fault_at(uint32_t kinds, uint64_t countdown, uint64_t times, int sys_errno) {
  __atomic_store_n(&fault.kinds, 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.countdown, countdown, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.times, times, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.sys_errno, sys_errno, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.kinds, kinds, __ATOMIC_SEQ_CST);
}

static bool fails(uint32_t kind) {
  if ((__atomic_load_n(&fault.kinds, __ATOMIC_SEQ_CST) & kind) == 0) { return false; }
  uint64_t left = __atomic_load_n(&fault.countdown, __ATOMIC_SEQ_CST);
  while (left > 1) {
    if (__atomic_compare_exchange_n(&fault.countdown, &left, left - 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
      return false;
    }
  }
  uint64_t times = __atomic_load_n(&fault.times, __ATOMIC_SEQ_CST);
  while (times > 0) {
    if (__atomic_compare_exchange_n(&fault.times, &times, times - 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
      errno = __atomic_load_n(&fault.sys_errno, __ATOMIC_SEQ_CST);
      return true;
    }
  }
  return false;
}
#define FAILS(kind) fails(kind)
#else
#define FAILS(kind) false
#endif

void *tarn__sys_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset) {
  if (FAILS(TARN_FAULT_MMAP)) { return MAP_FAILED; }
#ifdef TARN__TSAN
  /* Putting the file over a range that others read changes no byte of it; the sanitizer's mmap
   * would call it a write. */
  if ((flags & MAP_FIXED) != 0) {
    return (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
  }
#endif
  return mmap(at, size, prot, flags, fd, (off_t)offset);
}

int tarn__sys_munmap(void *at, size_t size) { return munmap(at, size); }

ssize_t tarn__sys_pwritev(int fd, const struct iovec *iov, int count, uint64_t offset) {
  if (FAILS(TARN_FAULT_WRITE)) { return -1; }
  ssize_t done;
  do { done = pwritev(fd, iov, count, (off_t)offset); } while (done < 0 && errno == EINTR);
  return done;
}

ssize_t tarn__sys_pread(int fd, void *bytes, size_t size, uint64_t offset) {
  if (FAILS(TARN_FAULT_READ)) { return -1; }
  ssize_t done;
  do { done = pread(fd, bytes, size, (off_t)offset); } while (done < 0 && errno == EINTR);
  return done;
}

int tarn__sys_fallocate(int fd, int mode, uint64_t offset, uint64_t size) {
  if (FAILS((mode & FALLOC_FL_PUNCH_HOLE) != 0 ? TARN_FAULT_PUNCH : TARN_FAULT_ALLOCATE)) {
    return -1;
  }
  int rc;
  do { rc = fallocate(fd, mode, (off_t)offset, (off_t)size); } while (rc != 0 && errno == EINTR);
  return rc;
}

int tarn__sys_open(const char *path, int flags, unsigned mode) {
  if (FAILS(TARN_FAULT_OPEN)) { return -1; }
  int fd;
  do { fd = open(path, flags, (mode_t)mode); } while (fd < 0 && errno == EINTR);
  return fd;
}
