/* The spill file. Anonymous (O_TMPFILE, or created and unlinked), so that nothing is left however
 * the process ends. An extent is written before it is mapped and never again while anybody has it.
 * Freed extents are reused while the disk is busy and punched when the spill thread is idle. Writes
 * go through a second descriptor with O_DIRECT where the file system takes it: faster, and memory
 * is really freed; the page cache that the first descriptor reads through stays coherent, the
 * kernel drops what is overwritten. Locking: see the header.
 *
 * The whole file is mapped for reading, once: its window, longer than the file will be. So an extent is read back by adding its offset to an
 * address, without a system call, and however many are in use they take one of the process's 65,530 mappings. Where there are no
 * addresses for a window (RLIMIT_AS) each is mapped on its own. */
#include "pool/spill-private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/sys.h"
#include "pool/segment-private.h"

#define OPEN_ATTEMPTS 10 /* each fails only if somebody has removed the directory meanwhile */

/* Which spill file it is about, and when the disk is full how much there is. Returns err's code, or rc. */
static int explain(const tarn__spill_t *s, int rc, int sys_errno, uint64_t size,
                   tarn_error_t *err) {
  if (rc == TARN_EDISKFULL) {
    struct statvfs fs;
    struct rlimit limit;
    uint64_t available = 0;
    struct stat st;
    if (sys_errno == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && fstat(s->fd, &st) == 0) {
      available = limit.rlim_cur > (rlim_t)st.st_size ? limit.rlim_cur - (rlim_t)st.st_size : 0;
    } else if ((s->fd >= 0 ? fstatvfs(s->fd, &fs) : statvfs(s->dir, &fs)) == 0) {
      available = (uint64_t)fs.f_bavail * fs.f_frsize;
    }
    (void)tarn_error_bytes(err, size, available);
  } else if (rc == TARN_ENOMEM) {
    (void)tarn_error_bytes(err, size, 0);
  }
  (void)tarn_error_path(err, s->dir);
  return rc;
}

int tarn__spill_init(tarn__spill_t *s, const char *dir, uint64_t max_bytes) {
  *s = (tarn__spill_t){.fd = -1, .direct_fd = -1, .max = max_bytes};
  tarn__ranges_init(&s->warm);
  tarn__ranges_init(&s->holes);
  s->dir = tarn_strdup(dir ? dir : ".tarn");
  if (!s->dir) { return TARN_ENOMEM; }
  for (size_t n = strlen(s->dir); n > 1 && s->dir[n - 1] == '/'; n--) { s->dir[n - 1] = '\0'; }
  if (pthread_mutex_init(&s->open_lock, NULL) != 0) {
    tarn_free(s->dir);
    return TARN_ENOMEM;
  }
  return 0;
}

void tarn__spill_close(tarn__spill_t *s) {
  if (s->window) { tarn_sys_munmap(s->window, TARN__RESERVE_BYTES); }
  if (s->fd >= 0) { close(s->fd); }
  if (s->direct_fd >= 0) { close(s->direct_fd); }
  tarn__ranges_clear(&s->warm);
  tarn__ranges_clear(&s->holes);
  tarn_free(s->dir);
  tarn_pages_free(s->stage, TARN__SPILL_BUFFER, TARN__SPILL_BUFFER);
  tarn_pages_free(s->records, TARN__SPILL_BUFFER, TARN__SPILL_BUFFER);
  pthread_mutex_destroy(&s->open_lock);
}

/* The directory is made when it is needed: until then its disk is that of the nearest one that is there. */
uint64_t tarn__spill_free_bytes(const tarn__spill_t *s) {
  char path[PATH_MAX];
  struct statvfs disk;
  int n = snprintf(path, sizeof(path), "%s", s->dir);
  if (n < 0 || (size_t)n >= sizeof(path)) { return UINT64_MAX; }
  while (statvfs(path, &disk) != 0) {
    char *slash = strrchr(path, '/');
    if (errno != ENOENT || strcmp(path, "/") == 0 || strcmp(path, ".") == 0) { return UINT64_MAX; }
    snprintf(slash != NULL && slash > path ? slash : path, 2, "%s",
             slash == NULL   ? "."
             : slash == path ? "/"
                             : "");
  }
  return (uint64_t)disk.f_bavail * disk.f_frsize;
}

uint8_t *tarn__spill_buffer(uint8_t **kept) {
  if (!*kept) {
    *kept = tarn_pages(TARN__PAGE, TARN__SPILL_BUFFER);
    if (*kept) { tarn_pages_used(TARN__SPILL_BUFFER); }
  }
  return *kept;
}

/* A symbolic link of another user, who would choose where our bytes go? One of root's, or our own, is followed. */
static bool is_planted(const char *path) {
  struct stat st;
  return lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && st.st_uid != 0 && st.st_uid != geteuid();
}

/* mkdir -p; *made: the last part is ours. An errno; ELOOP: another user's link is in the way. */
static int make_dirs(char *path, bool *made) {
  *made = false;
  for (char *p = path + (path[0] == '/');; p++) {
    if (*p != '/' && *p != '\0') { continue; }
    char end = *p;
    *p = '\0';
    int rc = tarn_sys_mkdir(path, 0700);
    int why = errno;
    *p = end;
    if (rc != 0 && why != EEXIST) {
      struct stat st; /* a parent that may not be written, but exists, is no error */
      *p = '\0';
      bool there = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
      *p = end;
      if (!there) { return why; }
    }
    *p = '\0';
    bool planted = rc != 0 && is_planted(path);
    *p = end;
    if (planted) { return ELOOP; }
    if (end == '\0') {
      *made = rc == 0;
      return 0;
    }
  }
}

static int open_unlinked(const char *dir) {
  size_t size = strlen(dir) + sizeof "/spill-XXXXXX";
  char *path = tarn_malloc(size);
  if (!path) {
    errno = ENOMEM;
    return -1;
  }
  snprintf(path, size, "%s/spill-XXXXXX", dir);
  int fd = tarn_sys_mkostemp(path, O_CLOEXEC);
  int why = errno;
  if (fd >= 0 && tarn_sys_unlink(path) != 0) { /* it would be left behind */
    why = errno;
    close(fd);
    fd = -1;
  }
  tarn_free(path);
  errno = why;
  return fd;
}

static void mind(void *at, uint64_t size) {
  (void)madvise(at, size, MADV_DONTFORK);
  (void)madvise(at, size, MADV_DONTDUMP);
}

/* The directory goes while we are about to use it: another process, whose it was alone, has removed it. ENOENT, or on ext4, of a directory that
 * has been looked up already, EPERM. */
static bool may_have_gone(int why) { return why == ENOENT || why == EPERM; }

/* A file in the directory that goes with its descriptor. -1 with errno. */
static int open_anonymous(const char *dir) {
  int fd = tarn_sys_open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  bool named =
      fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT);
  return named ? open_unlinked(dir) : fd;
}

/* In the directory that dir lies in: as good, the file has no name. */
static int open_above(const char *dir) {
  char *path = tarn_strdup(dir);
  if (!path) {
    errno = ENOMEM;
    return -1;
  }
  char *slash = strrchr(path, '/');
  const char *above = slash == NULL ? "." : slash == path ? "/" : path;
  if (slash != NULL) { *slash = '\0'; }
  int fd = open_anonymous(above);
  int why = errno;
  tarn_free(path);
  errno = why;
  return fd;
}

static int open_file(tarn__spill_t *s, uint64_t need, tarn_error_t *err) {
  bool made, ever = false;
  int fd = -1, why = ENOENT;
  const char *what = NULL;
  for (int attempt = 0; attempt < OPEN_ATTEMPTS && fd < 0 && may_have_gone(why); attempt++) {
    what = "make the spill directory";
    why = make_dirs(s->dir, &made);
    ever = ever || made;
    if (why == 0) {
      what = "create a spill file in";
      fd = open_anonymous(s->dir);
      why = errno;
    }
  }
  if (fd < 0 && ever && may_have_gone(why)) {
    fd = open_above(s->dir);
    why = errno;
  }
  if (fd < 0) {
    int rc = tarn_error_errno(err, why, "cannot %s %s (-d, or spill_dir of addprocs, name another)",
                              what, s->dir);
    return explain(s, rc, why, need, err);
  }
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  s->direct_fd = tarn_sys_open(self, O_RDWR | O_DIRECT | O_CLOEXEC, 0);
  s->direct = s->direct_fd >= 0;
  /* A directory that we made has nobody else's files in it; the anonymous file does not need it any
   * more. */
  if (made) { (void)rmdir(s->dir); }
  void *at = tarn_sys_mmap(NULL, TARN__RESERVE_BYTES, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at != MAP_FAILED) {
    mind(at, TARN__RESERVE_BYTES);
    s->window = at;
  }
  __atomic_store_n(&s->fd, fd, __ATOMIC_RELEASE);
  return 0;
}

int tarn__spill_open(tarn__spill_t *s, uint64_t need, tarn_error_t *err) {
  if (__atomic_load_n(&s->fd, __ATOMIC_ACQUIRE) >= 0) { return 0; }
  pthread_mutex_lock(&s->open_lock);
  int rc = s->fd >= 0 ? 0 : open_file(s, need, err);
  pthread_mutex_unlock(&s->open_lock);
  return rc;
}

int tarn__spill_take(tarn__spill_t *s, uint64_t size, bool fresh, uint64_t *offset, bool *reserved,
                     tarn_error_t *err) {
  if (size > s->max || s->used > s->max - size) {
    uint64_t available = s->max > s->used ? s->max - s->used : 0;
    int rc = tarn_error_set(err, TARN_EDISKFULL,
                            "the spill file in %s is full: %" PRIu64 " bytes needed, %" PRIu64
                            " available of max_disksize %" PRIu64
                            " (disk of addprocs, or tarn.max_disksize() raise it)",
                            s->dir, size, available, s->max);
    (void)tarn_error_bytes(err, size, available);
    (void)tarn_error_path(err, s->dir);
    return rc;
  }
  *reserved = !fresh && tarn__ranges_take(&s->warm, size, offset);
  if (!*reserved && !tarn__ranges_take(&s->holes, size, offset)) {
    *offset = s->end;
    s->end += size;
  }
  s->used += size;
  return 0;
}

void tarn__spill_give(tarn__spill_t *s, uint64_t offset, uint64_t size) {
  s->used -= size;
  (void)tarn__ranges_give(&s->warm, offset,
                          size); /* else the range is not used again: the C heap is exhausted */
}

bool tarn__spill_next_warm(tarn__spill_t *s, uint64_t *offset, uint64_t *size) {
  return tarn__ranges_pop(&s->warm, offset, size);
}

void tarn__spill_punched(tarn__spill_t *s, uint64_t offset, uint64_t size) {
  /* Where punching is not known the space stays taken: no matter, whoever takes a hole reserves it
   * and never counts on zeros (see tarn__spill_reserve). Trying again each time the disk is idle
   * would not help. */
  (void)tarn__ranges_give(&s->holes, offset, size);
}

static int full(tarn__spill_t *s, int sys_errno, uint64_t size, tarn_error_t *err) {
  int rc = tarn_error_errno(
      err, sys_errno,
      "cannot write %" PRIu64
      " bytes to the spill file in %s (-d, or spill_dir of addprocs, name another)",
      size, s->dir);
  return explain(s, rc, sys_errno, size, err);
}

bool tarn__spill_punch(tarn__spill_t *s, uint64_t offset, uint64_t size) {
  return tarn_sys_fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size) == 0;
}

static int fill_with_zeros(tarn__spill_t *s, uint64_t offset, uint64_t size, tarn_error_t *err) {
  enum { CHUNK = 1 << 20 };
  uint8_t *zeros = tarn_calloc(1, CHUNK);
  if (!zeros) { return tarn_error_set(err, TARN_ENOMEM, "no memory for zeroing the spill file"); }
  int rc = 0;
  for (uint64_t done = 0; done < size && rc == 0;) {
    size_t part = size - done < CHUNK ? (size_t)(size - done) : CHUNK;
    struct iovec iov = {zeros, part};
    ssize_t n = tarn_sys_pwritev(s->fd, &iov, 1, offset + done);
    if (n <= 0) { rc = full(s, n < 0 ? errno : ENOSPC, size, err); }
    if (n > 0) { done += (uint64_t)n; }
  }
  tarn_free(zeros);
  return rc;
}

int tarn__spill_reserve(tarn__spill_t *s, uint64_t offset, uint64_t size, bool zeros,
                        tarn_error_t *err) {
  bool fill = zeros;
  if (!__atomic_load_n(&s->no_fallocate, __ATOMIC_RELAXED)) {
    if (zeros && tarn__spill_punch(s, offset, size)) { fill = false; }
    if (tarn_sys_fallocate(s->fd, 0, offset, size) != 0) {
      if (errno != EOPNOTSUPP && errno != ENOSYS) { return full(s, errno, size, err); }
      /* What is written before it is mapped needs no reservation: the write tells that the disk is
       * full. */
      __atomic_store_n(&s->no_fallocate, true, __ATOMIC_RELAXED);
      fill = zeros;
    }
  }
  return fill ? fill_with_zeros(s, offset, size, err) : 0;
}

static bool aligned(const struct iovec *iov, int count, uint64_t offset) {
  uintptr_t bits = (uintptr_t)offset;
  for (int i = 0; i < count; i++) { bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len; }
  return bits % TARN__PAGE == 0;
}

int tarn__spill_write(tarn__spill_t *s, struct iovec *iov, int count, uint64_t offset,
                      tarn_error_t *err) {
  uint64_t total = 0;
  for (int i = 0; i < count; i++) { total += iov[i].iov_len; }
  uint64_t left = total;
  while (left > 0) {
    bool direct = __atomic_load_n(&s->direct, __ATOMIC_RELAXED) && aligned(iov, count, offset);
    ssize_t n = tarn_sys_pwritev(direct ? s->direct_fd : s->fd, iov, count, offset);
    if (n < 0 && direct && errno == EINVAL) {
      __atomic_store_n(&s->direct, false, __ATOMIC_RELAXED);
      continue;
    }
    if (n <= 0) { return full(s, n < 0 ? errno : ENOSPC, total, err); }
    left -= (uint64_t)n;
    offset += (uint64_t)n;
    while (count > 0 && (size_t)n >= iov->iov_len) {
      n -= (ssize_t)iov->iov_len;
      iov++;
      count--;
    }
    if (count > 0) {
      iov->iov_base = (uint8_t *)iov->iov_base + n;
      iov->iov_len -= (size_t)n;
    }
  }
  return 0;
}

int tarn__spill_read(tarn__spill_t *s, void *bytes, uint64_t size, uint64_t offset,
                     tarn_error_t *err) {
  for (uint64_t done = 0; done < size;) {
    ssize_t n = tarn_sys_pread(s->fd, (uint8_t *)bytes + done, size - done, offset + done);
    if (n < 0) {
      int rc = tarn_error_errno(err, errno, "reading %" PRIu64 " bytes from the spill file in %s",
                                size, s->dir);
      return explain(s, rc, 0, size, err);
    }
    if (n == 0) {
      int rc = tarn_error_set(err, TARN_ECORRUPT, "the spill file in %s is too short", s->dir);
      return explain(s, rc, 0, size, err);
    }
    done += (uint64_t)n;
  }
  return 0;
}

int tarn__spill_map(tarn__spill_t *s, uint64_t offset, uint64_t size, bool writable, uint8_t **out,
                    tarn_error_t *err) {
  if (s->window && !writable && offset + size <= TARN__RESERVE_BYTES) {
    *out = s->window + offset;
    return 0;
  }
  int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void *at = tarn_sys_mmap(NULL, size, prot, MAP_SHARED, s->fd, offset);
  if (at == MAP_FAILED) {
    int rc = tarn_error_errno(err, errno, "mapping %" PRIu64 " bytes of the spill file in %s", size,
                              s->dir);
    return explain(s, rc, 0, size, err);
  }
  mind(at, size);
  *out = at;
  return 0;
}

void tarn__spill_unmap(tarn__spill_t *s, uint8_t *at, uint64_t size) {
  bool in_window = tarn__spill_in_window(s, at);
  for (uint64_t done = 0; done < size; done += TARN__SLICE) {
    uint64_t part = size - done < TARN__SLICE ? size - done : TARN__SLICE;
    if (in_window) { /* the pages, not the addresses */
      (void)madvise(at + done, part, MADV_DONTNEED);
    } else {
      (void)tarn_sys_munmap(at + done, part);
    }
  }
}
