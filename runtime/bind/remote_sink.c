/* A saved file that comes in pieces, in any order, from somewhere else: they are written straight to where the value is to be. Lua thread only.
 *
 *   remote_sink(path) -> sink, 0, n      the bytes that are wanted first: at most n of them; path: for errors
 *   sink:begin(size)                     those are here; so large is all of it
 *   sink:next() -> from, size            what is wanted next; nothing when all of it is here. Raises Corrupt, PoolFull, DiskFull
 *   sink:verify() -> done                a slice of the blocks' checksums. Raises Corrupt
 *   sink:finish(code) -> value           sink:finish(code, true) -> value, ref: as an object of the pool
 *   sink:close()
 *
 * Stages: the head (what came first, whatever it is), the header with its checksums, the front, the blocks. What the head holds of a later stage is copied. */
#include <lauxlib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"
#include "image/file.h"

#define SINK "tarn.remote_sink"
#define HEAD_BYTES ((uint64_t)1 << 20)
#define VERIFY_BYTES ((uint64_t)32 << 20) /* in one call: about 5 ms */

typedef struct span {
  uint64_t at, size; /* in the file */
  uint8_t *bytes;    /* borrowed */
} span_t;

enum { HEAD, HEADER, FRONT, BLOCKS, WHOLE };

struct tarn__remote_sink {
  int stage;
  uint64_t size;      /* of the file */
  uint64_t head_size; /* bytes of the file that are in head */
  uint8_t *head, *header, *front;
  tarn_file_info_t info;
  tarn_block_t **blocks; /* owned, each with a reference and a mapping */
  uint32_t block_count;  /* so far */
  span_t *spans;         /* owned: where bytes of this stage go, in order */
  size_t span_count;
  uint32_t verified; /* blocks */
  uint64_t hashed;   /* bytes of the next one */
  tarn_hash_t *hash; /* of those */
  char path[];
};

tarn__remote_sink_t *tarn__remote_sink_test(lua_State *L, int index) {
  return tarn__userdata_test(L, index, SINK);
}

static tarn__remote_sink_t *check_sink(lua_State *L) { return luaL_checkudata(L, 1, SINK); }

static void clear(tarn__remote_sink_t *k) {
  for (uint32_t i = 0; i < k->block_count; i++) {
    tarn_block_unmap(k->blocks[i]);
    tarn_block_release(k->blocks[i]);
  }
  (void)tarn_hash_end(k->hash);
  tarn_free(k->blocks);
  tarn_free(k->spans);
  tarn_free(k->head);
  tarn_free(k->header);
  tarn_free(k->front);
  k->block_count = 0;
  k->span_count = 0;
  k->hash = NULL;
  k->blocks = NULL;
  k->spans = NULL;
  k->head = k->header = k->front = NULL;
}

static int sink_close(lua_State *L) {
  clear(check_sink(L));
  return 0;
}

static int raise(lua_State *L, const tarn__remote_sink_t *k, const tarn_error_t *err) {
  return tarn__file_raise(L, k->path, err);
}

static int raise_corrupt(lua_State *L, const tarn__remote_sink_t *k, const char *what) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_ECORRUPT, "%s", what);
  return raise(L, k, &err);
}

static void *take_memory(lua_State *L, const tarn__remote_sink_t *k, uint64_t size) {
  void *p = tarn_malloc(size);
  tarn_error_t err;
  if (p != NULL) { return p; }
  tarn_error_set(&err, TARN_ENOMEM, "out of memory for %" PRIu64 " bytes", size);
  raise(L, k, &err);
  return NULL;
}

/* ---- bytes ---- */

static size_t find(const tarn__remote_sink_t *k, uint64_t at) {
  size_t low = 0, high = k->span_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (k->spans[middle].at <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

void tarn__remote_sink_write(tarn__remote_sink_t *k, uint64_t at, const void *bytes, size_t size) {
  uint64_t end = at + size;
  for (size_t i = find(k, at); i < k->span_count && k->spans[i].at < end; i++) {
    const span_t *s = &k->spans[i];
    uint64_t from = at > s->at ? at : s->at;
    uint64_t to = end < s->at + s->size ? end : s->at + s->size;
    if (from < to) {
      memcpy(s->bytes + (from - s->at), (const uint8_t *)bytes + (from - at), (size_t)(to - from));
    }
  }
}

/* ---- stages: each knows where its bytes go, and has those that the head holds ---- */

static void one_span(tarn__remote_sink_t *k, uint64_t at, uint64_t size, uint8_t *bytes) {
  k->spans[0] = (span_t){at, size, bytes};
  k->span_count = 1;
}

/* The end of the stage, in the file. */
static uint64_t end_of_stage(const tarn__remote_sink_t *k) {
  if (k->span_count == 0) { return 0; }
  const span_t *last = &k->spans[k->span_count - 1];
  return last->at + last->size;
}

static void check_header(lua_State *L, tarn__remote_sink_t *k, const uint8_t *bytes,
                         uint64_t size) {
  tarn_error_t err = {0};
  int rc = tarn_file_check_header(bytes, size, k->size, &k->info, &err);
  if (rc != 0 && rc != TARN_EAGAIN) { raise(L, k, &err); }
}

static void enter_header(lua_State *L, tarn__remote_sink_t *k) {
  check_header(L, k, k->head, k->head_size);
  k->header = take_memory(L, k, k->info.image_offset);
  one_span(k, 0, k->info.image_offset, k->header);
}

static void enter_front(lua_State *L, tarn__remote_sink_t *k) {
  check_header(L, k, k->header, k->info.image_offset);
  if (k->info.front_size > k->size - k->info.image_offset) {
    raise_corrupt(L, k, "its front is longer than it is");
  }
  k->front = take_memory(L, k, k->info.front_size);
  one_span(k, k->info.image_offset, k->info.front_size, k->front);
}

static void open_front(lua_State *L, tarn__remote_sink_t *k, tarn_image_t *im) {
  tarn_error_t err = {0};
  if (tarn_hash64(k->front, k->info.front_size) != k->info.front_hash) {
    raise_corrupt(L, k, "wrong checksum of the front");
  }
  if (k->info.block_count > 0) { tarn_image_set_detached(k->front, k->info.front_size, true); }
  if (tarn_image_open(k->front, k->info.front_size, im, &err) != 0) { raise(L, k, &err); }
  if (im->block_count != k->info.block_count || im->front_size != k->info.front_size ||
      k->info.image_offset + im->total_size != k->size) {
    raise_corrupt(L, k, "its blocks are not as long as it is");
  }
}

static void enter_blocks(lua_State *L, tarn__remote_sink_t *k) {
  tarn_image_t im;
  open_front(L, k, &im);
  k->span_count = 0;
  if (im.block_count == 0) { return; }
  k->blocks = take_memory(L, k, im.block_count * sizeof(tarn_block_t *));
  tarn_free(k->spans);
  k->spans = NULL;
  k->spans = take_memory(L, k, im.block_count * sizeof(span_t));
  uint64_t end = im.front_size;
  for (uint32_t i = 0; i < im.block_count; i++) {
    uint64_t size = tarn_image_block_size(&im, i), at = tarn_image_align(end);
    tarn_block_t *b = tarn_bind_block_create(L, size, false);
    k->blocks[k->block_count++] = b;
    k->spans[k->span_count++] = (span_t){k->info.image_offset + at, size, b->data};
    end = at + size;
  }
}

static int sink_begin(lua_State *L) {
  tarn__remote_sink_t *k = check_sink(L);
  k->size = (uint64_t)luaL_checknumber(L, 2);
  k->head_size = k->size < HEAD_BYTES ? k->size : HEAD_BYTES;
  return 0;
}

static int sink_next(lua_State *L) {
  static void (*const enter[])(lua_State *, tarn__remote_sink_t *) = {
      [HEADER] = enter_header, [FRONT] = enter_front, [BLOCKS] = enter_blocks};
  tarn__remote_sink_t *k = check_sink(L);
  if (k->spans == NULL) { return luaL_error(L, "the sink is closed"); }
  while (++k->stage < WHOLE) {
    enter[k->stage](L, k);
    uint64_t end = end_of_stage(k);
    uint64_t from = k->span_count > 0 ? k->spans[0].at : 0;
    if (from < k->head_size) {
      tarn__remote_sink_write(k, from, k->head + from, (size_t)(k->head_size - from));
      from = k->head_size;
    }
    if (from < end) {
      lua_pushnumber(L, (double)from);
      lua_pushnumber(L, (double)(end - from));
      return 2;
    }
  }
  return 0;
}

/* ---- the end ---- */

static bool hash_next(tarn__remote_sink_t *k, uint64_t *left) {
  const tarn_block_t *b = k->blocks[k->verified];
  uint64_t n = b->size - k->hashed < *left ? b->size - k->hashed : *left, right;
  tarn_hash_add(k->hash, (const uint8_t *)b->data + k->hashed, (size_t)n);
  k->hashed += n;
  *left -= n;
  if (k->hashed < b->size) { return true; }
  memcpy(&right, k->header + TARN_FILE_HEADER_SIZE + 8 * (size_t)k->verified, sizeof right);
  k->hashed = 0;
  k->verified++;
  uint64_t sum = tarn_hash_end(k->hash);
  k->hash = NULL;
  return sum == right;
}

static int sink_verify(lua_State *L) {
  tarn__remote_sink_t *k = check_sink(L);
  for (uint64_t left = VERIFY_BYTES; left > 0 && k->verified < k->block_count;) {
    if (k->hash == NULL) { k->hash = tarn_hash_begin(); }
    if (k->hash == NULL) {
      return tarn_bind_raise_kind(L, TARN_ENOMEM, "no memory for a checksum");
    }
    if (!hash_next(k, &left)) {
      char what[64];
      snprintf(what, sizeof what, "wrong checksum of block %" PRIu32, k->verified - 1);
      return raise_corrupt(L, k, what);
    }
  }
  lua_pushboolean(L, k->verified == k->block_count);
  return 1;
}

static tarn_value_t **make_value(lua_State *L, tarn__remote_sink_t *k) {
  tarn_value_t **box = tarn__value_box(L);
  tarn_error_t err = {0};
  int rc = tarn_value_create(tarn_bind_of(L)->pool, k->front, (size_t)k->info.front_size, k->blocks,
                             k->block_count, box, &err);
  if (rc != 0) { raise(L, k, &err); }
  k->front = NULL; /* taken over, as are the blocks */
  k->block_count = 0;
  return box;
}

static int sink_finish(lua_State *L) {
  tarn__remote_sink_t *k = check_sink(L);
  bool may_code = lua_toboolean(L, 2), stored = lua_toboolean(L, 3);
  lua_settop(L, 3);
  if (k->stage != WHOLE || k->verified < k->block_count || k->front == NULL) {
    return luaL_error(L, "the sink is not full");
  }
  tarn_value_t **box = make_value(L, k);
  clear(k);
  if (!stored) { (void)tarn_pool_visit(tarn_bind_of(L)->pool, *box); } /* it can be evicted */
  tarn__file_push(L, k->path, *box, may_code);
  int value = lua_gettop(L);
  if (stored) {
    tarn__object_push_new(L, *box, TARN_BLOCK_WAIT);
    tarn__object_cache(L, tarn_ref_local(L, tarn_ref_test(L, -1)), value);
  }
  tarn__value_box_clear(box);
  return stored ? 2 : 1;
}

static int remote_sink(lua_State *L) {
  size_t length;
  const char *path = luaL_checklstring(L, 1, &length);
  tarn__remote_sink_t *k = tarn__userdata_new(L, sizeof *k + length + 1, SINK, NULL);
  memcpy(k->path, path, length + 1);
  k->head = take_memory(L, k, HEAD_BYTES);
  k->spans = take_memory(L, k, sizeof(span_t));
  one_span(k, 0, HEAD_BYTES, k->head);
  lua_pushnumber(L, 0);
  lua_pushnumber(L, (double)HEAD_BYTES);
  return 3;
}

void tarn__remote_sink_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"begin", sink_begin},
                                     {"next", sink_next},
                                     {"verify", sink_verify},
                                     {"finish", sink_finish},
                                     {"close", sink_close},
                                     {"__gc", sink_close},
                                     {NULL, NULL}};
  tarn__class_open(L, SINK, methods);
  lua_pushcfunction(L, remote_sink);
  lua_setfield(L, -2, "remote_sink");
}
