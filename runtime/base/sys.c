/* System calls, with a seam for specs to make the n-th one fail. */
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/sanitizers.h"

/* What is to fail. It belongs to the process, as the calls' effects do. */
static struct {
  uint32_t kinds; /* 0: nothing */
  uint64_t countdown, times, done;
  int sys_errno;
} fault;

void tarn_fault_at(uint32_t kinds, uint64_t countdown, uint64_t times, int sys_errno) {
  __atomic_store_n(&fault.kinds, 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.countdown, countdown, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.times, times, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.done, 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.sys_errno, sys_errno, __ATOMIC_SEQ_CST);
  __atomic_store_n(&fault.kinds, kinds, __ATOMIC_SEQ_CST);
}

uint64_t tarn_fault_count(void) { return __atomic_load_n(&fault.done, __ATOMIC_SEQ_CST); }

/* Takes one from a counter unless it is at least already. */
static bool take_one(uint64_t *counter, uint64_t least) {
  uint64_t left = __atomic_load_n(counter, __ATOMIC_SEQ_CST);
  while (left > least) {
    if (__atomic_compare_exchange_n(counter, &left, left - 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
      return true;
    }
  }
  return false;
}

static __attribute__((noinline)) bool chosen(void) {
  if (take_one(&fault.countdown, 1) || !take_one(&fault.times, 0)) { return false; }
  __atomic_fetch_add(&fault.done, 1, __ATOMIC_SEQ_CST);
  return true;
}

/* This call is to fail: errno is set. */
static inline bool fails(uint32_t kind) {
  if (__builtin_expect((__atomic_load_n(&fault.kinds, __ATOMIC_RELAXED) & kind) == 0, 1)) {
    return false;
  }
  if (!chosen()) { return false; }
  errno = __atomic_load_n(&fault.sys_errno, __ATOMIC_SEQ_CST);
  return errno != 0;
}

/* The same for reads and writes. *size: what is left of it. */
static inline bool fails_or_shortens(uint32_t kind, size_t *size) {
  if (__builtin_expect((__atomic_load_n(&fault.kinds, __ATOMIC_RELAXED) & kind) == 0, 1)) {
    return false;
  }
  if (!chosen()) { return false; }
  errno = __atomic_load_n(&fault.sys_errno, __ATOMIC_SEQ_CST);
  if (errno != 0) { return true; }
  *size = (*size + 1) / 2;
  return false;
}

void *tarn_sys_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset) {
  if (fails(TARN_FAULT_MMAP)) { return MAP_FAILED; }
#ifdef TARN_UNDER_TSAN
  /* Putting the file over a range that others read changes no byte of it; the sanitizer's mmap
   * would call it a write. */
  if ((flags & MAP_FIXED) != 0) {
    return (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
  }
#endif
  return mmap(at, size, prot, flags, fd, (off_t)offset);
}

int tarn_sys_munmap(void *at, size_t size) {
  return fails(TARN_FAULT_MUNMAP) ? -1 : munmap(at, size);
}

ssize_t tarn_sys_write(int fd, const void *bytes, size_t size) {
  ssize_t done;
  do {
    size_t part = size;
    done = fails_or_shortens(TARN_FAULT_WRITE, &part) ? -1 : write(fd, bytes, part);
  } while (done < 0 && errno == EINTR);
  return done;
}

ssize_t tarn_sys_pwritev(int fd, const struct iovec *iov, int count, uint64_t offset) {
  ssize_t done;
  do {
    size_t first = iov->iov_len;
    bool failed = fails_or_shortens(TARN_FAULT_WRITE, &first);
    struct iovec part = {iov->iov_base, first};
    bool whole = first == iov->iov_len;
    done = failed  ? -1
           : whole ? pwritev(fd, iov, count, (off_t)offset)
                   : pwritev(fd, &part, 1, (off_t)offset);
  } while (done < 0 && errno == EINTR);
  return done;
}

ssize_t tarn_sys_pread(int fd, void *bytes, size_t size, uint64_t offset) {
  ssize_t done;
  do {
    size_t part = size;
    done = fails_or_shortens(TARN_FAULT_READ, &part) ? -1 : pread(fd, bytes, part, (off_t)offset);
  } while (done < 0 && errno == EINTR);
  return done;
}

int tarn_sys_fallocate(int fd, int mode, uint64_t offset, uint64_t size) {
  uint32_t kind = (mode & FALLOC_FL_PUNCH_HOLE) != 0 ? TARN_FAULT_PUNCH : TARN_FAULT_ALLOCATE;
  int rc;
  do {
    rc = fails(kind) ? -1 : fallocate(fd, mode, (off_t)offset, (off_t)size);
  } while (rc != 0 && errno == EINTR);
  return rc;
}

int tarn_sys_ftruncate(int fd, uint64_t size) {
  int rc;
  do {
    rc = fails(TARN_FAULT_TRUNCATE) ? -1 : ftruncate(fd, (off_t)size);
  } while (rc != 0 && errno == EINTR);
  return rc;
}

int tarn_sys_open(const char *path, int flags, unsigned mode) {
  int fd;
  do {
    fd = fails(TARN_FAULT_OPEN) ? -1 : open(path, flags, (mode_t)mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

int tarn_sys_mkostemp(char *path, int flags) {
  return fails(TARN_FAULT_OPEN) ? -1 : mkostemp(path, flags);
}

int tarn_sys_memfd(const char *name, unsigned flags) {
  return fails(TARN_FAULT_OPEN) ? -1 : memfd_create(name, flags);
}

int tarn_sys_dup(int fd) { return fails(TARN_FAULT_OPEN) ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3); }

int tarn_sys_mkdir(const char *path, unsigned mode) {
  return fails(TARN_FAULT_NAME) ? -1 : mkdir(path, (mode_t)mode);
}

int tarn_sys_fstat(int fd, struct stat *st) { return fails(TARN_FAULT_STAT) ? -1 : fstat(fd, st); }

int tarn_sys_fsync(int fd) {
  int rc;
  do { rc = fails(TARN_FAULT_SYNC) ? -1 : fsync(fd); } while (rc != 0 && errno == EINTR);
  return rc;
}

int tarn_sys_link(const char *from, const char *to, int flags) {
  return fails(TARN_FAULT_NAME) ? -1 : linkat(AT_FDCWD, from, AT_FDCWD, to, flags);
}

int tarn_sys_rename(const char *from, const char *to) {
  return fails(TARN_FAULT_NAME) ? -1 : rename(from, to);
}

int tarn_sys_unlink(const char *path) { return fails(TARN_FAULT_NAME) ? -1 : unlink(path); }

int tarn_sys_thread(pthread_t *thread, void *(*run)(void *), void *arg) {
  if (fails(TARN_FAULT_THREAD)) { return errno; }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t started;
  int rc = pthread_create(&started, NULL, run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc == 0) { *thread = started; }
  return rc;
}
