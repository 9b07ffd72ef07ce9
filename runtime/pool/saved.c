/* Saved files as a home of values (the form of image/file.h): what is large is mapped, read-only and private, so that nothing
 * is ever written through to the file; what is small, and the front, is read. A saved file belongs to the user: it is never
 * written nor deleted here. No descriptor is kept: a piece is fetched by opening the path again, and only from a file that is
 * still the one that was looked at. Any thread. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/sys.h"
#include "image/file.h"
#include "pool/pool-private.h"

enum { IMAGE_FIXED_BYTES = 32, SIZE_BYTES = 8 };

struct tarn__saved {
  uint64_t refs; /* the pool's mutex guards it */
  tarn_saved_identity_t identity;
  bool verify;
  bool raw;         /* of another format: without checksums */
  pthread_t opener; /* looks at the file for the first time */
  int fd;           /* open while it does, else -1; no other thread touches it */
  char path[];
};

void tarn__saved_unref_locked(tarn__saved_t *f) {
  if (--f->refs == 0) { tarn_free(f); }
}

const char *tarn__saved_path(const tarn__saved_t *f) { return f->path; }

/* ---- opening ---- */

static int read_all(int fd, void *bytes, uint64_t size, uint64_t offset, const char *path,
                    tarn_error_t *err) {
  uint8_t *at = bytes;
  while (size > 0) {
    ssize_t n = tarn_sys_pread(fd, at, size < (1u << 30) ? (size_t)size : 1u << 30, offset);
    if (n < 0) { return tarn_error_errno(err, errno, "%s: cannot read", path); }
    if (n == 0) {
      return tarn_error_set(err, TARN_EIO, "%s: it ends before its byte %" PRIu64, path,
                            offset + size);
    }
    at += n;
    offset += (uint64_t)n;
    size -= (uint64_t)n;
  }
  return 0;
}

/* A descriptor and what the file is now. */
static int open_file(const char *path, int *fd, tarn_saved_identity_t *id, tarn_error_t *err) {
  int f = tarn_sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0); /* a fifo must not stall us */
  if (f < 0) { return tarn_error_errno(err, errno, "%s: cannot open", path); }
  struct stat st;
  int rc = 0;
  if (tarn_sys_fstat(f, &st) != 0) {
    rc = tarn_error_errno(err, errno, "%s: cannot read", path);
  } else if (!S_ISREG(st.st_mode)) {
    rc = tarn_error_set(err, TARN_EIO, "%s: not a regular file", path);
  }
  if (rc != 0) {
    close(f);
    return rc;
  }
  *id = (tarn_saved_identity_t){.device = (uint64_t)st.st_dev,
                                .inode = (uint64_t)st.st_ino,
                                .size = (uint64_t)st.st_size,
                                .changed_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
                                              (uint64_t)st.st_mtim.tv_nsec};
  *fd = f;
  return 0;
}

/* The header's bytes tell apart what was rewritten within one tick of the file system's clock: they are the sums of all else. */
static int read_header(int fd, const char *path, tarn_saved_identity_t *id,
                       uint8_t header[TARN_FILE_HEADER_SIZE], tarn_error_t *err) {
  if (id->size < TARN_FILE_HEADER_SIZE) {
    return tarn_error_set(err, TARN_ECORRUPT, "%s: not a tarn file: only %" PRIu64 " bytes", path,
                          id->size);
  }
  int rc = read_all(fd, header, TARN_FILE_HEADER_SIZE, 0, path, err);
  if (rc == 0) { id->header_hash = tarn_hash64(header, TARN_FILE_HEADER_SIZE); }
  return rc;
}

int tarn_saved_identify(const char *path, tarn_saved_identity_t *out, tarn_error_t *err) {
  int fd;
  uint8_t header[TARN_FILE_HEADER_SIZE];
  tarn_saved_identity_t id;
  int rc = open_file(path, &fd, &id, err);
  if (rc != 0) { return rc; }
  rc = read_header(fd, path, &id, header, err);
  close(fd);
  if (rc == 0) { *out = id; }
  return rc;
}

/* The same file as when it was opened first; its header is not looked at again. */
int tarn__saved_reopen(const tarn__saved_t *f, int *fd, tarn_error_t *err) {
  tarn_saved_identity_t now;
  int rc = open_file(f->path, fd, &now, err);
  if (rc != 0) { return rc; }
  const tarn_saved_identity_t *then = &f->identity;
  if (now.device == then->device && now.inode == then->inode && now.size == then->size &&
      now.changed_ns == then->changed_ns) {
    return 0;
  }
  close(*fd);
  return tarn_error_set(err, TARN_EIO,
                        "%s: it has been changed or replaced since it was written or read here",
                        f->path);
}

/* ---- fetching a piece ---- */

/* The file, opened; what it gave goes to let_go. */
static int take(const tarn__saved_t *f, int *fd, tarn_error_t *err) {
  if (!pthread_equal(f->opener, pthread_self()) || f->fd < 0) {
    return tarn__saved_reopen(f, fd, err);
  }
  *fd = f->fd;
  return 0;
}

static void let_go(const tarn__saved_t *f, int fd) {
  if (!pthread_equal(f->opener, pthread_self()) || fd != f->fd) { close(fd); }
}

int tarn__saved_mismatch(const tarn__block_t *b, tarn_error_t *err) {
  return tarn_error_set(err, TARN_ECORRUPT, "%s: wrong checksum of %" PRIu64 " bytes at %" PRIu64,
                        b->saved->path, b->pub.size, b->disk_offset);
}

static int verify(const tarn__block_t *b, const uint8_t *bytes, tarn_error_t *err) {
  if (b->saved->raw || tarn_hash64(bytes, b->pub.size) == b->hash) { return 0; }
  return tarn__saved_mismatch(b, err);
}

static int read_piece(tarn__block_t *b, int fd, uint8_t **mem, tarn_error_t *err) {
  uint64_t room = (b->pub.size + 63) & ~(uint64_t)63;
  uint8_t *bytes = tarn_aligned(64, room > 0 ? room : 64);
  if (!bytes) {
    return tarn_error_set(err, TARN_ENOMEM, "no memory for %" PRIu64 " bytes", b->pub.size);
  }
  int rc = read_all(fd, bytes, b->pub.size, b->disk_offset, b->saved->path, err);
  if (rc == 0) { rc = verify(b, bytes, err); }
  if (rc != 0) {
    tarn_free(bytes);
    return rc;
  }
  if (b->detach) { tarn_image_set_detached(bytes, b->pub.size, true); }
  *mem = bytes;
  return 0;
}

static int map_piece(tarn__block_t *b, int fd, uint8_t **map, bool *checked, tarn_error_t *err) {
  uint64_t start = b->disk_offset & ~(uint64_t)(TARN__PAGE - 1);
  uint64_t length = b->disk_offset - start + b->pub.size;
  int prot = b->detach ? PROT_READ | PROT_WRITE : PROT_READ; /* private: the mark is ours alone */
  uint8_t *base = tarn_sys_mmap(NULL, length, prot, MAP_PRIVATE, fd, start);
  if (base == MAP_FAILED) {
    return tarn_error_errno(err, errno, "%s: cannot map %" PRIu64 " bytes", b->saved->path, length);
  }
  uint8_t *at = base + (b->disk_offset - start);
  *checked = b->detach || b->front || b->pub.size <= TARN__VERIFY_AT_ONCE_BYTES || b->saved->verify;
  int rc = *checked ? verify(b, at, err) : 0;
  if (rc == 0 && b->detach) {
    tarn_image_set_detached(at, b->pub.size, true);
    (void)mprotect(base, length, PROT_READ);
  }
  if (rc != 0) {
    tarn_sys_munmap(base, length);
    return rc;
  }
  *map = at;
  return 0;
}

/* Which file an error is about; rc: its code, or 0. Returns it. */
static int explain(const tarn__block_t *b, int rc, tarn_error_t *err) {
  if (rc == TARN_ENOMEM) { (void)tarn_error_bytes(err, b->pub.size, 0); }
  if (rc != 0) { (void)tarn_error_path(err, b->saved->path); }
  return rc;
}

int tarn__saved_map(tarn__block_t *b, uint8_t **map, bool *checked, tarn_error_t *err) {
  int fd;
  int rc = take(b->saved, &fd, err);
  if (rc == 0) {
    rc = map_piece(b, fd, map, checked, err);
    let_go(b->saved, fd);
  }
  return explain(b, rc, err);
}

int tarn__saved_read(tarn__block_t *b, uint8_t **mem, tarn_error_t *err) {
  int fd;
  int rc = take(b->saved, &fd, err);
  if (rc == 0) {
    rc = read_piece(b, fd, mem, err);
    let_go(b->saved, fd);
  }
  return explain(b, rc, err);
}

/* ---- a file as a value ---- */

/* A file being looked at. */
typedef struct look {
  int fd;
  tarn__saved_t *file; /* owned */
  tarn_file_info_t info;
  uint8_t *head;  /* owned: the header with its checksums */
  uint8_t *sizes; /* owned: those of the blocks, as in the front */
} look_t;

static void look_end(look_t *k) {
  if (k->fd >= 0) { close(k->fd); }
  tarn_free(k->head);
  tarn_free(k->sizes);
}

/* What image/file.h says, with the path before it. */
static int corrupt(const look_t *k, const tarn_error_t *why, tarn_error_t *err) {
  return tarn_error_set(err, why->code, "%s: %.300s", k->file->path, why->message);
}

static uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static int look_at_header(look_t *k, tarn_error_t *err) {
  uint8_t header[TARN_FILE_HEADER_SIZE];
  tarn_error_t why = {0};
  const char *path = k->file->path;
  uint64_t size = k->file->identity.size;
  int rc = read_header(k->fd, path, &k->file->identity, header, err);
  if (rc != 0) { return rc; }
  rc = tarn_file_check_header(header, sizeof header, size, &k->info, &why);
  if (rc != 0 && rc != TARN_EAGAIN) { return corrupt(k, &why, err); }
  k->head = tarn_malloc(k->info.image_offset);
  if (!k->head) { return tarn_error_set(err, TARN_ENOMEM, "%s: no memory for its header", path); }
  rc = read_all(k->fd, k->head, k->info.image_offset, 0, path, err);
  if (rc != 0) { return rc; }
  rc = tarn_file_check_header(k->head, k->info.image_offset, size, &k->info, &why);
  return rc == 0 ? 0 : corrupt(k, &why, err);
}

/* The blocks' sizes, which stand in the front; they must add up to the file. The front's checksum is verified when it is fetched. */
static int look_at_sizes(look_t *k, tarn_error_t *err) {
  const char *path = k->file->path;
  uint64_t count = k->info.block_count, list = count * SIZE_BYTES, end = k->info.front_size;
  bool good = count == 0 || k->info.front_size >= IMAGE_FIXED_BYTES + list;
  if (good && count > 0) {
    k->sizes = tarn_malloc(list);
    if (!k->sizes) { return tarn_error_set(err, TARN_ENOMEM, "%s: no memory", path); }
    int rc = read_all(k->fd, k->sizes, list, k->info.image_offset + IMAGE_FIXED_BYTES, path, err);
    if (rc != 0) { return rc; }
  }
  uint64_t most = k->info.file_size - k->info.image_offset;
  for (uint64_t i = 0; i < count && good; i++) {
    uint64_t size = load64(k->sizes + i * SIZE_BYTES), at = tarn_image_align(end);
    good = at <= most && size <= most - at;
    end = at + size;
  }
  if (good && end == most) { return 0; }
  return tarn_error_set(err, TARN_ECORRUPT, "%s: its blocks are not as long as it is", path);
}

static tarn__block_t *new_piece(tarn_pool_t *pool, tarn__saved_t *file, uint64_t offset,
                                uint64_t size, uint64_t hash) {
  bool large = size >= TARN_POOL_MAP_MIN;
  tarn__block_t *b = tarn__block_new(pool, size, large ? TARN__KIND_FILE : TARN__KIND_HEAP);
  if (!b) { return NULL; }
  b->refs = 1;
  b->pub.sealed = 1;
  b->on_disk = true;
  b->saved = file;
  b->disk_offset = offset;
  b->disk_size = large ? tarn__page_round(size) : 0;
  b->hash = hash;
  return b;
}

/* The record of the value, nothing of it in memory. Null: no memory. */
static tarn_value_t *new_value(tarn_pool_t *pool, const look_t *k) {
  uint32_t count = k->info.block_count;
  tarn_value_t *v = tarn__value_new(pool, count + 1);
  if (!v) { return NULL; }
  v->pieces[0] =
      new_piece(pool, k->file, k->info.image_offset, k->info.front_size, k->info.front_hash);
  uint64_t end = k->info.front_size;
  bool good = v->pieces[0] != NULL;
  for (uint32_t i = 0; i < count && good; i++) {
    uint64_t size = load64(k->sizes + (size_t)i * SIZE_BYTES), at = tarn_image_align(end);
    uint64_t hash = load64(k->head + TARN_FILE_HEADER_SIZE + (size_t)i * SIZE_BYTES);
    v->pieces[i + 1] = new_piece(pool, k->file, k->info.image_offset + at, size, hash);
    good = v->pieces[i + 1] != NULL;
    end = at + size;
  }
  if (good) {
    v->pieces[0]->front = true;
    v->pieces[0]->detach = count > 0;
    v->size = end; /* front, padding and blocks: as good as their sum */
    return v;
  }
  for (uint32_t i = 0; i <= count; i++) { tarn__block_discard(v->pieces[i]); }
  tarn_free(v);
  return NULL;
}

static int open_value(tarn_pool_t *pool, tarn_value_t *v, uint32_t flags, tarn_error_t *err) {
  tarn__pool_lock(pool);
  for (uint32_t i = 0; i < v->count; i++) {
    v->pieces[i]->saved->refs++;
    tarn__block_link_locked(v->pieces[i]);
  }
  pool->records += tarn__value_record_size(v);
  pool->value_count++;
  v->holds = 1;
  int rc = tarn__value_open_locked(v, flags, err);
  tarn__value_unhold_locked(v); /* after a failure that is its end */
  tarn__pool_unlock(pool);
  return rc;
}

static tarn__saved_t *new_saved(const char *path, uint32_t flags) {
  size_t length = strlen(path) + 1;
  tarn__saved_t *f = tarn_calloc(1, sizeof *f + length);
  if (!f) { return NULL; }
  memcpy(f->path, path, length);
  f->refs = 1;
  f->opener = pthread_self();
  f->fd = -1;
  f->verify = (flags & TARN_SAVED_VERIFY) != 0;
  return f;
}

int tarn_pool_open_saved(tarn_pool_t *pool, const char *path, uint32_t flags,
                         tarn_saved_identity_t *identity, tarn_value_t **out, tarn_error_t *err) {
  look_t k = {.fd = -1, .file = new_saved(path, flags)};
  tarn_value_t *v = NULL;
  if (!k.file) { return tarn_error_set(err, TARN_ENOMEM, "%s: no memory", path); }
  tarn__looks_wait(pool, true);
  int rc = open_file(path, &k.fd, &k.file->identity, err);
  k.file->fd = k.fd;
  if (rc == 0) { rc = look_at_header(&k, err); }
  if (rc == 0) { rc = look_at_sizes(&k, err); }
  if (rc == 0) {
    v = new_value(pool, &k);
    rc = v ? open_value(pool, v, flags, err)
           : tarn_error_set(err, TARN_ENOMEM, "%s: no memory for a value's record", path);
  }
  if (rc == 0) {
    if (identity) { *identity = k.file->identity; }
    *out = v;
  }
  k.file->fd = -1;
  look_end(&k);
  tarn__looks_wait(pool, false);
  tarn__pool_lock(pool);
  tarn__saved_unref_locked(k.file);
  tarn__pool_unlock(pool);
  return rc;
}

/* ---- objects that move into a file ---- */

int tarn_pool_rehome(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err) {
  tarn__pool_lock(pool);
  tarn__object_t *o;
  while ((o = tarn__object_find_locked(pool, id)) != NULL && o->evicting) {
    tarn__pool_wait_locked(pool);
  }
  int rc = o ? 0 : tarn_error_set(err, TARN_ENOENT, "no object %" PRIu64, id);
  assert(!v->object);
  if (rc == 0) {
    tarn__lru_remove(pool, o);
    tarn__object_empty_locked(pool, o);
    (void)tarn__object_become_locked(o, v, NULL); /* v is no other's: nothing is taken */
    tarn__lru_touch(pool, o);
    tarn__pool_changed_locked(pool);
  }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn_pool_saved_path(tarn_pool_t *pool, uint64_t id, char *path, size_t size) {
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  const tarn__block_t *front = o && o->form == TARN__VALUE ? o->value->pieces[0] : NULL;
  int rc = front && front->saved && strlen(front->saved->path) < size ? 0 : TARN_ENOENT;
  if (rc == 0) { memcpy(path, front->saved->path, strlen(front->saved->path) + 1); }
  tarn__pool_unlock(pool);
  return rc;
}

/* ---- files of other formats ---- */

bool tarn__saved_is_raw(const tarn__saved_t *f) { return f->raw; }

int tarn_pool_open_raw(tarn_pool_t *pool, const char *path, tarn_raw_file_t **out,
                       uint64_t *size_bytes, tarn_error_t *err) {
  (void)pool;
  tarn__saved_t *f = new_saved(path, 0);
  if (!f) { return tarn_error_set(err, TARN_ENOMEM, "%s: no memory", path); }
  f->raw = true;
  int fd;
  int rc = open_file(path, &fd, &f->identity, err);
  if (rc != 0) {
    tarn_free(f);
    return rc;
  }
  close(fd);
  *size_bytes = f->identity.size;
  *out = f;
  return 0;
}

void tarn_pool_close_raw(tarn_pool_t *pool, tarn_raw_file_t *f) {
  tarn__pool_lock(pool);
  tarn__saved_unref_locked(f);
  tarn__pool_unlock(pool);
}

int tarn_pool_raw_block(tarn_pool_t *pool, tarn_raw_file_t *f, uint64_t offset, uint64_t size,
                        tarn_block_t **out, tarn_error_t *err) {
  if (offset > f->identity.size || size > f->identity.size - offset) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "%s: %" PRIu64 " bytes at %" PRIu64 " where it has %" PRIu64 " in all",
                          f->path, size, offset, f->identity.size);
  }
  tarn__block_t *b = new_piece(pool, f, offset, size, 0);
  if (!b) {
    return tarn_error_set(err, TARN_ENOMEM, "%s: no memory for a block's record", f->path);
  }
  tarn__pool_lock(pool);
  f->refs++;
  b->quiet = true;
  tarn__block_link_locked(b);
  int rc = tarn__block_map_locked(b, TARN_BLOCK_WAIT, NULL, err);
  if (rc != 0) { tarn__block_unref_locked(b); }
  tarn__pool_unlock(pool);
  if (rc == 0) { *out = &b->pub; }
  return rc;
}
