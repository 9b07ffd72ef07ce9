/* The pool's system calls, in one place so that specs can make them fail. Retries on EINTR.
 * Thread-safe. */
#ifndef TARN_POOL_SYS_PRIVATE_H
#define TARN_POOL_SYS_PRIVATE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define TARN__TSAN 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define TARN__TSAN 1
#endif

/* Addresses taken at once, for memory and for the spill file. */
#ifdef TARN__TSAN
#define TARN__RESERVE_BYTES ((uint64_t)16 << 30) /* its shadow of a terabyte is too much */
#else
#define TARN__RESERVE_BYTES ((uint64_t)1 << 40)
#endif

void *tarn__sys_mmap(void *at, size_t size, int prot, int flags, int fd,
                     uint64_t offset); /* MAP_FAILED + errno */
int tarn__sys_munmap(void *at, size_t size);
ssize_t tarn__sys_pwritev(int fd, const struct iovec *iov, int count, uint64_t offset);
ssize_t tarn__sys_pread(int fd, void *bytes, size_t size, uint64_t offset);
int tarn__sys_fallocate(int fd, int mode, uint64_t offset, uint64_t size);
int tarn__sys_open(const char *path, int flags, unsigned mode);

#ifdef TARN_FAULTS
enum {
  TARN_FAULT_MMAP = 1,
  TARN_FAULT_WRITE = 2,
  TARN_FAULT_READ = 4,
  TARN_FAULT_ALLOCATE = 8, /* fallocate that reserves */
  TARN_FAULT_PUNCH = 16,
  TARN_FAULT_OPEN = 32
};
/* The countdown-th call (from 1) of one of kinds, and the times - 1 after it, fail with sys_errno.
 * kinds 0: stop. */
void tarn_fault_at(uint32_t kinds, uint64_t countdown, uint64_t times, int sys_errno);
#endif

#endif
