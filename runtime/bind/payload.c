/* Payloads: values encoded for what goes out, with what they refer to held until it has left. */
#include <lauxlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/buf.h"
#include "bind/messages-private.h"
#include "image/image.h"

/* Blocks that are still writable are copied: the caller may go on writing while they are being sent. */
static void freeze_blocks(lua_State *L, tarn_encoded_t *e) {
  for (uint32_t i = 0; i < e->block_count; i++) {
    tarn_block_t *from = e->blocks[i];
    if (from->sealed) { continue; }
    tarn_block_t *to = tarn_bind_block_create(L, from->size, false);
    if (from->size > 0) { memcpy(to->data, from->data, (size_t)from->size); }
    for (uint32_t j = i; j < e->block_count; j++) { /* the same block may stand twice */
      if (e->blocks[j] != from) { continue; }
      if (j > i) {
        tarn_block_retain(to);
        tarn_error_t err;
        if (tarn_block_map(to, &err) != 0) {
          tarn_block_release(to);
          tarn_bind_raise(L, &err);
        }
      }
      e->blocks[j] = to;
      tarn_block_unmap(from);
      tarn_block_release(from);
    }
  }
}

void tarn__payload_drop(lua_State *L, tarn_payload_t *p) {
  tarn_free(p->front);
  if (p->value != NULL) { tarn_value_release(p->value); }
  tarn_service_unguard(tarn_bind_of(L)->service, p->guard);
}

tarn_payload_t tarn__payload_of(lua_State *L, tarn_encoded_t *e) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_payload_t p = {0};
  tarn_error_t err = {0};
  if (e->block_count == 0) {
    p.front = e->front;
    p.front_size = e->front_size;
    e->front = NULL;
  } else if (e->block_bytes < TARN_INLINE_BYTES) {
    const void **blocks = lua_newuserdata(L, e->block_count * sizeof(*blocks));
    tarn_buf_t image;
    tarn_buf_init(&image, SIZE_MAX / 2);
    for (uint32_t i = 0; i < e->block_count; i++) { blocks[i] = e->blocks[i]->data; }
    int rc = tarn_image_join(e->front, e->front_size, blocks, &image);
    lua_pop(L, 1);
    if (rc != 0) {
      tarn_buf_release(&image);
      tarn_bind_raise_kind(L, rc, "a message could not be built");
    }
    p.front = tarn_buf_detach(&image, &p.front_size);
  } else {
    freeze_blocks(L, e);
    int rc = tarn_value_create(b->pool, e->front, e->front_size, e->blocks, e->block_count,
                               &p.value, &err);
    if (rc != 0) { tarn_bind_raise(L, &err); }
    e->front = NULL;
    e->block_count = 0;
  }
  int rc = p.value != NULL ? tarn_service_guard_value(b->service, p.value)
                           : tarn_service_guard(b->service, p.front, p.front_size, &p.guard);
  if (rc != 0) {
    tarn__payload_drop(L, &p);
    tarn_bind_raise_kind(L, rc, "out of memory for the references of a message");
  }
  tarn_encoded_clear(e);
  return p;
}

tarn_payload_t tarn__payload_foreign(lua_State *L, int index) {
  if (tarn_ref_test(L, index) == NULL) { return tarn__payload_of(L, tarn_codec_encode(L, index)); }
  lua_getfield(L, index, "key");
  lua_pushvalue(L, index);
  lua_call(L, 1, 1);
  tarn_payload_t held = tarn__payload_of(L, tarn_codec_encode(L, index));
  tarn_free(held.front);
  /* A string is encoded without blocks and references, and fails only for lack of memory: the guard is lost then, and the object stays. */
  tarn_payload_t p = tarn__payload_of(L, tarn_codec_encode(L, -2));
  p.guard = held.guard;
  return p;
}

tarn_payload_t tarn__payload_list(lua_State *L, int first, const tarn_list_names_t *names) {
  int count = lua_gettop(L) - first + 1;
  return tarn__payload_of(L, tarn_codec_encode_list(L, first, count > 0 ? count : 0, names));
}

const tarn_list_names_t *tarn__parameter_names(const char *method) {
  static const struct {
    const char *method;
    tarn_list_names_t names;
  } known[] = {{"call", {1, "the function", "argument %d of the function"}},
               {"start", {1, "the function", "argument %d of the function"}},
               {"do", {1, "the function", "argument %d of the function"}},
               {"access", {2, "the function", "argument %d of the function"}},
               {"poolset", {1, "the value", "value %d"}},
               {"event", {3, "what is put", "value %d"}}};
  static const tarn_list_names_t others = {.others = "value %d"};
  for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
    if (strcmp(known[i].method, method) == 0) { return &known[i].names; }
  }
  return &others;
}

/* A value of a payload without blocks, whose guard goes with it; null: it has some. Both are released then, or on an error. */
static tarn_value_t *value_of_front(lua_State *L, tarn_payload_t *p) {
  tarn_bind_t *b = tarn_bind_of(L);
  tarn_image_t im;
  tarn_value_t *v = NULL;
  tarn_error_t err = {0};
  int rc = tarn_image_open(p->front, p->front_size, &im, &err);
  bool plain = rc == 0 && im.block_count == 0;
  if (plain) { rc = tarn_value_create(b->pool, p->front, p->front_size, NULL, 0, &v, &err); }
  if (v == NULL) { tarn_free(p->front); }
  if (v != NULL && p->guard != NULL) {
    rc = tarn_value_set_guard(v, p->guard);
    if (rc == 0) { p->guard = NULL; }
  }
  tarn_service_unguard(b->service, p->guard);
  if (rc == 0) { return v; }
  if (v != NULL) { tarn_value_release(v); }
  tarn_bind_raise_kind(L, rc, "out of memory for a value");
  return NULL;
}

/* pool_set_list(...) -> DRef of the list of these values, as a message would carry it (what is writable is copied); nil where that is not large. */
static int pool_set_list(lua_State *L) {
  tarn_payload_t p = tarn__payload_list(L, 1, tarn__parameter_names("start"));
  tarn_value_t *v = p.value;
  if (v == NULL && p.front_size < TARN_SPREAD_BYTES) {
    tarn__payload_drop(L, &p);
    return 0;
  }
  if (v == NULL) { v = value_of_front(L, &p); }
  uint64_t size = v != NULL ? tarn_value_size(v) : 0;
  if (size < TARN_SPREAD_BYTES) {
    if (v != NULL) { tarn_value_release(v); }
    return 0;
  }
  tarn_ref_push_new(L, tarn_object_store(L, v, TARN_BLOCK_WAIT), size);
  return 1;
}

void tarn__payload_open(lua_State *L) {
  lua_pushcfunction(L, pool_set_list);
  lua_setfield(L, -2, "pool_set_list");
}
