/* The Lua modules that the build has compiled (lua/tarn/compile.lua says how, and the file's format). A module whose source has changed
 * since, or that another version of LuaJIT has compiled, is loaded from its source. */
#include <fcntl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "host/host-private.h"

#define PATH_BYTES 4096
#define HEAD_BYTES 5 /* ESC "LJ", version, flags */

typedef struct compiled {
  const char *text, *index, *pieces, *end; /* of the mapped file, which ends with a zero */
  const char *root;
} compiled_t;

/* What lua_load reads: the head, with the name of the source put in, then the rest. */
typedef struct source {
  char head[HEAD_BYTES + 5 + PATH_BYTES];
  const char *rest;
  size_t head_size, rest_size;
} source_t;

static const char *next_part(lua_State *L, void *user, size_t *size) {
  (void)L;
  source_t *s = user;
  const char *part = s->head_size > 0 ? s->head : s->rest;
  size_t *left = s->head_size > 0 ? &s->head_size : &s->rest_size;
  *size = *left;
  *left = 0;
  return *size > 0 ? part : NULL;
}

/* Compose what was compiled of the module, if it is there and its source is the one that was compiled. */
static bool find(const compiled_t *c, const char *name, source_t *out) {
  size_t name_size = strlen(name);
  for (const char *line = c->index; line != NULL && line < c->pieces - 1;
       line = strchr(line, '\n') + 1) {
    if (strncmp(line, name, name_size) != 0 || line[name_size] != ' ') { continue; }
    char file[256], path[PATH_BYTES];
    long long seconds, size;
    size_t at, length;
    if (sscanf(line + name_size, " %255s %lld %lld %zu %zu\n", file, &seconds, &size, &at,
               &length) != 5) {
      return false;
    }
    int n = snprintf(path, sizeof path, "@%s/%s", c->root, file);
    struct stat st;
    if (n < 0 || n >= (int)sizeof path || stat(path + 1, &st) != 0 || st.st_mtime != seconds ||
        st.st_size != size) {
      return false;
    }
    size_t room = (size_t)(c->end - c->pieces);
    if (length < HEAD_BYTES || at > room || length > room - at) { return false; }
    memcpy(out->head, c->pieces + at, HEAD_BYTES);
    char *to = out->head + HEAD_BYTES;
    for (size_t left = (size_t)n; left > 0; left >>= 7) {
      *to++ = (char)((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
    }
    memcpy(to, path, (size_t)n);
    out->head_size = (size_t)(to - out->head) + (size_t)n;
    out->rest = c->pieces + at + HEAD_BYTES;
    out->rest_size = length - HEAD_BYTES;
    return true;
  }
  return false;
}

/* (name of a module) -> function, or nil. */
static int load(lua_State *L) {
  source_t source;
  const compiled_t *c = lua_touserdata(L, lua_upvalueindex(1));
  if (!find(c, luaL_checkstring(L, 1), &source)) { return 0; }
  return lua_load(L, next_part, &source, "=?") == 0 ? 1 : 0;
}

static bool map(compiled_t *c, const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) { return false; }
  struct stat st;
  void *bytes = MAP_FAILED;
  if (fstat(fd, &st) == 0 && st.st_size > 0) {
    bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  }
  close(fd);
  if (bytes == MAP_FAILED) { return false; }
  c->text = bytes;
  c->end = c->text + st.st_size - 1;
  const char *newline = *c->end == '\0' ? strchr(c->text, '\n') : NULL;
  const char *blank = newline != NULL ? strstr(newline, "\n\n") : NULL;
  if (blank == NULL) {
    munmap(bytes, (size_t)st.st_size);
    return false;
  }
  c->index = newline + 1;
  c->pieces = blank + 2;
  return true;
}

static bool is_ours(lua_State *L, const compiled_t *c) {
  lua_getglobal(L, "jit");
  lua_getfield(L, -1, "version");
  size_t size;
  const char *version = lua_tolstring(L, -1, &size);
  bool same = version != NULL && size == (size_t)(c->index - 1 - c->text) &&
              memcmp(c->text, version, size) == 0;
  lua_pop(L, 2);
  return same;
}

void tarn__compiled_push(lua_State *L, const char *file, const char *root) {
  compiled_t *c = lua_newuserdata(L, sizeof *c + strlen(root) + 1);
  c->root = strcpy((char *)(c + 1), root);
  if (!map(c, file) || !is_ours(L, c)) { c->index = c->pieces = NULL; }
  lua_pushcclosure(L, load, 1);
}
