/* The system calls that make files and mappings, in one place so that specs can make them fail: with an error, or by doing a part of
 * what was asked. As the system's own, but EINTR is retried. Thread-safe. The seam is in every build: one load of a word each call. */
#ifndef TARN_BASE_SYS_H
#define TARN_BASE_SYS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

void *tarn_sys_mmap(void *at, size_t size, int prot, int flags, int fd,
                    uint64_t offset); /* MAP_FAILED + errno */
int tarn_sys_munmap(void *at, size_t size);
ssize_t tarn_sys_write(int fd, const void *bytes, size_t size);
ssize_t tarn_sys_pwritev(int fd, const struct iovec *iov, int count, uint64_t offset);
ssize_t tarn_sys_pread(int fd, void *bytes, size_t size, uint64_t offset);
int tarn_sys_fallocate(int fd, int mode, uint64_t offset, uint64_t size);
int tarn_sys_ftruncate(int fd, uint64_t size);
int tarn_sys_open(const char *path, int flags, unsigned mode);
int tarn_sys_mkostemp(char *path, int flags);
int tarn_sys_memfd(const char *name, unsigned flags);
int tarn_sys_dup(int fd); /* closed on exec */
int tarn_sys_mkdir(const char *path, unsigned mode);
int tarn_sys_fstat(int fd, struct stat *st);
int tarn_sys_fsync(int fd);
int tarn_sys_link(const char *from, const char *to, int flags); /* AT_SYMLINK_FOLLOW, or 0 */
int tarn_sys_rename(const char *from, const char *to);
int tarn_sys_unlink(const char *path);
/* Start a thread that takes no signals: they are for the one that asks. 0 or an errno; *thread is unchanged on failure. */
int tarn_sys_thread(pthread_t *thread, void *(*run)(void *), void *arg);

/* ---- for specs ---- */

enum {
  TARN_FAULT_MMAP = 1,
  TARN_FAULT_WRITE = 2,
  TARN_FAULT_READ = 4,
  TARN_FAULT_ALLOCATE = 8, /* fallocate that reserves */
  TARN_FAULT_PUNCH = 16,
  TARN_FAULT_OPEN = 32, /* whatever gives a descriptor */
  TARN_FAULT_MUNMAP = 64,
  TARN_FAULT_TRUNCATE = 128,
  TARN_FAULT_SYNC = 256,
  TARN_FAULT_NAME = 512, /* link, rename, unlink, mkdir */
  TARN_FAULT_STAT = 1024,
  TARN_FAULT_THREAD = 2048
};
/* The countdown-th call (from 1) of one of kinds, in any thread, and the times - 1 after it fail with sys_errno; 0: a read or write does about
 * half of what was asked, the others work. kinds 0: stop. */
void tarn_fault_at(uint32_t kinds, uint64_t countdown, uint64_t times, int sys_errno);
uint64_t tarn_fault_count(void); /* calls that were made to fail since then */

#endif
