/* Saved files: written beside their place under a temporary name, synced, renamed: the old file or the new one, never half. What is open
 * meanwhile hangs from a userdata, since everything here may raise. Lua thread; blocks it for as long as the disk takes. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "bind/codec-private.h"
#include "image/file.h"

#define JOB_METATABLE "tarn.codec_file"

typedef struct job {
  int fd;          /* -1: none */
  char *temporary; /* to be unlinked; owned */
  tarn_buf_t header;
  const void **data; /* of the blocks; owned */
  uint64_t *sizes;   /* owned */
  void *map;         /* of a file that is read; null: none */
  size_t map_size;
} job_t;

static void clear(job_t *j) {
  if (j->fd >= 0) { close(j->fd); }
  if (j->temporary) { unlink(j->temporary); }
  if (j->map) { munmap(j->map, j->map_size); }
  tarn_free(j->temporary);
  tarn_free(j->data);
  tarn_free(j->sizes);
  tarn_buf_release(&j->header);
  memset(j, 0, sizeof *j);
  j->fd = -1;
}

static int job_gc(lua_State *L) {
  clear(lua_touserdata(L, 1));
  return 0;
}

static job_t *new_job(lua_State *L) {
  job_t *j = lua_newuserdata(L, sizeof *j);
  memset(j, 0, sizeof *j);
  j->fd = -1;
  tarn_buf_init(&j->header, (size_t)1 << 40);
  if (luaL_newmetatable(L, JOB_METATABLE)) {
    lua_pushcfunction(L, job_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return j;
}

/* Raise err with the file's name as its path. */
static int raise_for(lua_State *L, job_t *j, const char *path, const tarn_error_t *err) {
  clear(j);
  tarn_bind_push_error(L, err);
  lua_pushfstring(L, "%s: %s", path, err->message);
  lua_setfield(L, -2, "message");
  lua_pushstring(L, path);
  lua_setfield(L, -2, "path");
  tarn_bind_add_position(L, -1);
  return lua_error(L);
}

static int raise_errno(lua_State *L, job_t *j, const char *path, const char *what) {
  tarn_error_t err;
  tarn_error_errno(&err, errno, "%s", what);
  return raise_for(L, j, path, &err);
}

static const char *check_path(lua_State *L, const char *function) {
  size_t size;
  const char *path = tarn__check_text(L, 1, "the path", &size);
  if (size == 0 || strlen(path) != size) {
    tarn_bind_raise_kind(L, TARN_EINVAL, "%s: the path is empty or holds a zero byte", function);
  }
  return path;
}

/* ---- writing ---- */

static bool write_all(int fd, const void *bytes, size_t size) {
  const char *at = bytes;
  while (size) {
    size_t n = size < (16u << 20) ? size : 16u << 20;
    ssize_t done = write(fd, at, n);
    if (done < 0 && errno == EINTR) { continue; }
    if (done < 0) { return false; }
    at += done;
    size -= (size_t)done;
  }
  return true;
}

static bool write_image(const job_t *j, const tarn_encoded_t *e) {
  static const char zeros[TARN_IMAGE_ALIGN];
  if (!write_all(j->fd, j->header.data, j->header.size) ||
      !write_all(j->fd, e->front, e->front_size)) {
    return false;
  }
  uint64_t at = e->front_size;
  for (uint32_t i = 0; i < e->block_count; i++) {
    uint64_t start = tarn_image_align(at);
    if (!write_all(j->fd, zeros, (size_t)(start - at)) ||
        !write_all(j->fd, j->data[i], (size_t)j->sizes[i])) {
      return false;
    }
    at = start + j->sizes[i];
  }
  return true;
}

static int compose_header(job_t *j, tarn_encoded_t *e) {
  j->data = tarn_calloc((size_t)e->block_count + 1, sizeof *j->data);
  j->sizes = tarn_calloc((size_t)e->block_count + 1, sizeof *j->sizes);
  if (!j->data || !j->sizes) { return TARN_ENOMEM; }
  for (uint32_t i = 0; i < e->block_count; i++) {
    j->data[i] = e->blocks[i]->data;
    j->sizes[i] = e->blocks[i]->size;
  }
  int rc = tarn_file_compose_header(e->front, e->front_size, j->data, j->sizes, e->block_count,
                                    &j->header);
  tarn_image_set_detached(e->front, e->front_size, false); /* in a file the blocks follow */
  return rc;
}

/* So that the rename itself is on the disk. Some file systems refuse it: then it is as good as it gets. */
static void sync_directory(const char *path) {
  const char *slash = strrchr(path, '/');
  char *directory = slash ? tarn_strdup(path) : tarn_strdup(".");
  if (!directory) { return; }
  if (slash) { directory[slash == path ? 1 : slash - path] = '\0'; }
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  tarn_free(directory);
}

/* A new file beside path; its mode is what creating path would have given. */
static bool open_temporary(job_t *j, const char *path) {
  static const char suffix[] = ".XXXXXX";
  size_t length = strlen(path);
  char *name = tarn_malloc(length + sizeof suffix);
  if (!name) {
    errno = ENOMEM;
    return false;
  }
  memcpy(name, path, length);
  memcpy(name + length, suffix, sizeof suffix);
  j->fd = mkostemp(name, O_CLOEXEC);
  if (j->fd < 0) {
    tarn_free(name);
    return false;
  }
  j->temporary = name;
  struct stat old;
  mode_t mask = umask(0);
  umask(mask);
  fchmod(j->fd, stat(path, &old) == 0 ? old.st_mode & 07777 : 0666 & ~mask);
  return true;
}

int tarn__codec_save(lua_State *L) {
  const char *path = check_path(L, "save");
  lua_settop(L, 2);
  job_t *j = new_job(L);
  tarn_encoded_t *e = tarn__codec_encode_for_file(L, 2);
  tarn_error_t err = {0};
  if (compose_header(j, e)) {
    tarn_error_set(&err, TARN_ENOMEM, "out of memory while saving");
    return raise_for(L, j, path, &err);
  }
  if (!open_temporary(j, path)) { return raise_errno(L, j, path, "cannot create a file"); }
  if (!write_image(j, e) || fsync(j->fd)) { return raise_errno(L, j, path, "cannot write"); }
  if (rename(j->temporary, path)) { return raise_errno(L, j, path, "cannot rename"); }
  tarn_free(j->temporary);
  j->temporary = NULL;
  sync_directory(path);
  clear(j);
  tarn_encoded_clear(e);
  return 0;
}

/* ---- reading ---- */

int tarn__codec_load(lua_State *L) {
  const char *path = check_path(L, "load");
  bool may_code = tarn__check_code(L, 2, false);
  lua_settop(L, 2);
  job_t *j = new_job(L);
  j->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (j->fd < 0) { return raise_errno(L, j, path, "cannot open"); }
  struct stat st;
  if (fstat(j->fd, &st)) { return raise_errno(L, j, path, "cannot read"); }
  tarn_error_t err = {0};
  if (!S_ISREG(st.st_mode)) {
    tarn_error_set(&err, TARN_EIO, "not a regular file");
    return raise_for(L, j, path, &err);
  }
  if (st.st_size < (off_t)TARN_FILE_HEADER_SIZE) {
    tarn_error_set(&err, TARN_ECORRUPT, "not a tarn file: only %lld bytes", (long long)st.st_size);
    return raise_for(L, j, path, &err);
  }
  void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, j->fd, 0);
  if (map == MAP_FAILED) { return raise_errno(L, j, path, "cannot map"); }
  j->map = map;
  j->map_size = (size_t)st.st_size;
  tarn_image_t image;
  if (tarn_file_verify(map, j->map_size, UINT64_MAX, &image, &err)) {
    return raise_for(L, j, path, &err);
  }
  tarn_file_info_t info;
  if (tarn_file_check_header(map, j->map_size, j->map_size, &info, &err)) {
    return raise_for(L, j, path, &err);
  }
  int pushed =
      tarn_codec_decode_bytes(L, (const uint8_t *)map + info.image_offset,
                              j->map_size - info.image_offset, may_code ? 0 : TARN_DECODE_NO_CODE);
  clear(j);
  return pushed;
}
