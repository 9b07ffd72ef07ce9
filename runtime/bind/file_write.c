/* Writing a saved file (the form of image/file.h): without a name until all of it is on the disk, then put in its place: the old file or the
 * new one, never half, and nothing is left of a process that is killed. What is open meanwhile hangs from a userdata, since
 * everything here may raise. Lua thread; blocks it for as long as the disk takes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sys.h"
#include "bind/codec-private.h"

typedef struct job {
  int fd;          /* -1: none */
  char *directory; /* owned */
  char *
      temporary; /* owned; the name that the file has for a moment, to be unlinked; null: it has none */
  const tarn__file_part_t *parts; /* borrowed */
  size_t part_count;
  uint64_t whole_size; /* that the file is to have */
  uint64_t file_size;  /* so far */
} job_t;

static void clear(job_t *j) {
  if (j->fd >= 0) { close(j->fd); }
  if (j->temporary) { tarn_sys_unlink(j->temporary); }
  tarn_free(j->directory);
  tarn_free(j->temporary);
  memset(j, 0, sizeof *j);
  j->fd = -1;
}

static int job_gc(lua_State *L) {
  clear(lua_touserdata(L, 1));
  return 0;
}

static job_t *new_job(lua_State *L) {
  job_t *j = tarn__userdata_new(L, sizeof *j, "tarn.file_job", job_gc);
  j->fd = -1;
  return j;
}

int tarn__file_raise(lua_State *L, const char *path, const tarn_error_t *err) {
  tarn_bind_push_error(L, err);
  size_t length = strlen(path);
  if (strncmp(err->message, path, length) != 0) {
    lua_pushfstring(L, "%s: %s", path, err->message);
    lua_setfield(L, -2, "message");
  }
  lua_pushstring(L, path);
  lua_setfield(L, -2, "path");
  tarn_bind_add_position(L, -1);
  return lua_error(L);
}

static int raise_errno(lua_State *L, job_t *j, const char *path, const char *what) {
  int sys_errno = errno;
  tarn_error_t err;
  tarn_error_errno(&err, sys_errno, "%s", what);
  if (err.code == TARN_EDISKFULL) {
    struct statvfs fs;
    struct rlimit limit;
    err.needed = j->whole_size;
    if (sys_errno == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0) {
      err.available = limit.rlim_cur;
    } else if (statvfs(j->directory, &fs) == 0) {
      err.available = (uint64_t)fs.f_bavail * fs.f_frsize;
    }
  }
  clear(j);
  return tarn__file_raise(L, path, &err);
}

/* ---- bytes ---- */

static bool write_all(job_t *j, const void *bytes, size_t size) {
  const char *at = bytes;
  j->file_size += size;
  while (size) {
    size_t n = size < (16u << 20) ? size : 16u << 20;
    ssize_t done = tarn_sys_write(j->fd, at, n);
    if (done < 0) { return false; }
    at += done;
    size -= (size_t)done;
  }
  return true;
}

static bool write_parts(job_t *j) {
  for (size_t i = 0; i < j->part_count; i++) {
    if (!write_all(j, j->parts[i].bytes, j->parts[i].size)) { return false; }
  }
  return true;
}

/* ---- names ---- */

static bool split(job_t *j, const char *path) {
  const char *slash = strrchr(path, '/');
  j->directory = slash ? tarn_strdup(path) : tarn_strdup(".");
  if (j->directory && slash) { j->directory[slash == path ? 1 : slash - path] = '\0'; }
  if (!j->directory) { errno = ENOMEM; }
  return j->directory != NULL;
}

/* Its mode is what creating path would have given; that of the file that is replaced where there is one. */
static void set_mode(job_t *j, const char *path) {
  struct stat old;
  mode_t mask = umask(0);
  umask(mask);
  fchmod(j->fd, stat(path, &old) == 0 ? old.st_mode & 07777 : 0666 & ~mask);
}

static char *temporary_name(const char *path) {
  static const char suffix[] = ".XXXXXX";
  size_t length = strlen(path);
  char *name = tarn_malloc(length + sizeof suffix);
  if (!name) {
    errno = ENOMEM;
    return NULL;
  }
  memcpy(name, path, length);
  memcpy(name + length, suffix, sizeof suffix);
  return name;
}

/* A file in the same directory: without a name where the file system can. */
static bool open_file(job_t *j, const char *path) {
  if (!split(j, path)) { return false; }
  j->fd = tarn_sys_open(j->directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (j->fd < 0) {
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) { return false; }
    char *name = temporary_name(path);
    if (!name) { return false; }
    j->fd = tarn_sys_mkostemp(name, O_CLOEXEC);
    if (j->fd < 0) {
      tarn_free(name);
      return false;
    }
    j->temporary = name;
  }
  set_mode(j, path);
  return true;
}

/* Give the nameless file a name that must not exist yet. */
static bool give_name(const job_t *j, const char *name) {
  char self[48];
  snprintf(self, sizeof self, "/proc/self/fd/%d", j->fd);
  return tarn_sys_link(self, name, AT_SYMLINK_FOLLOW) == 0;
}

static bool give_temporary_name(job_t *j, const char *path) {
  uint64_t seed = tarn_clock_ns() ^ ((uint64_t)getpid() << 32);
  char *name = temporary_name(path);
  if (!name) { return false; }
  for (int attempt = 0; attempt < 100; attempt++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    snprintf(name + strlen(path), 8, ".%06" PRIx64, seed >> 40);
    if (give_name(j, name)) {
      j->temporary = name;
      return true;
    }
    if (errno != EEXIST) { break; }
  }
  tarn_free(name);
  return false;
}

static bool put_in_place(job_t *j, const char *path, bool replace) {
  if (!replace) {
    if (!j->temporary) { return give_name(j, path); }
    return tarn_sys_link(j->temporary, path, 0) == 0; /* its other name goes with the job */
  }
  if (!j->temporary && !give_temporary_name(j, path)) { return false; }
  if (tarn_sys_rename(j->temporary, path) != 0) { return false; }
  tarn_free(j->temporary);
  j->temporary = NULL;
  return true;
}

/* So that the name itself is on the disk. Some file systems refuse it: then it is as good as it gets. */
static void sync_directory(const job_t *j) {
  int fd = tarn_sys_open(j->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) { return; }
  (void)tarn_sys_fsync(fd);
  close(fd);
}

/* The job, done from creating the file on. */
static void run(lua_State *L, job_t *j, const char *path, bool replace) {
  if (!open_file(j, path)) { raise_errno(L, j, path, "cannot create a file"); }
  if (!write_parts(j) || tarn_sys_fsync(j->fd) != 0) { raise_errno(L, j, path, "cannot write"); }
  if (!put_in_place(j, path, replace)) { raise_errno(L, j, path, "cannot put it in place"); }
  sync_directory(j);
  clear(j);
  lua_pop(L, 1);
}

static void take_parts(job_t *j, const tarn__file_part_t *parts, size_t count) {
  j->parts = parts;
  j->part_count = count;
  for (size_t i = 0; i < count; i++) { j->whole_size += parts[i].size; }
}

void tarn__file_write(lua_State *L, const char *path, bool replace, const tarn_encoded_t *e,
                      tarn_value_t *v) {
  job_t *j = new_job(L);
  struct stat st;
  if (!replace && lstat(path, &st) == 0) {
    errno = EEXIST;
    raise_errno(L, j, path, "the file must not exist yet");
  }
  tarn__file_form_t *form = tarn__file_form(L, path, e, v);
  lua_insert(L, -2);
  take_parts(j, form->parts, form->part_count);
  run(L, j, path, replace);
  tarn__file_form_clear(form);
  lua_pop(L, 1);
}

void tarn__file_write_parts(lua_State *L, const char *path, const tarn__file_part_t *parts,
                            size_t count) {
  job_t *j = new_job(L);
  take_parts(j, parts, count);
  run(L, j, path, true);
}
