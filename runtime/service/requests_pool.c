/* The methods of the pool: objects by their names, and what the pool says of itself. */
#include <stdio.h>
#include <string.h>
#include "requests-private.h"

/* ref:key(), "ORIGIN:ID". False: it is none. */
static bool parse_key(const tarn_mp_token_t *t, uint64_t *origin, uint64_t *id) {
  uint64_t part[2] = {0, 0};
  uint32_t n = 0;
  for (uint32_t i = 0; i < t->length; i++) {
    uint8_t ch = t->bytes[i];
    if (ch == ':' && n == 0 && i > 0) {
      n = 1;
    } else if (ch < '0' || ch > '9' || part[n] > UINT64_MAX / 10 - 1) {
      return false;
    } else {
      part[n] = part[n] * 10 + (uint64_t)(ch - '0');
    }
  }
  *origin = part[0];
  *id = part[1];
  return n == 1 && part[0] <= UINT32_MAX;
}

/* An object of ours: its number where it was made, and where that was (left out: here), or to foreign clients the string ref:key(). Its number in
 * our pool; TARN_EINVAL: it is none; TARN_EMOVED: it is at another process, *at. recorded: process 1 has a record of it. */
static int read_id(tarn__call_t *k, uint64_t *id, tarn_place_t *at, bool *recorded) {
  tarn_mp_token_t t;
  uint64_t origin = k->s->id;
  if (k->count < 1 || tarn_mp_read(&k->params, &t) != 0) { return TARN_EINVAL; }
  bool key = t.kind == TARN_MP_STR || t.kind == TARN_MP_BIN;
  if (t.kind == TARN_MP_UINT) {
    *id = t.v.u;
    if (k->count > 1 && tarn_mp_read_uint(&k->params, UINT32_MAX, &origin) != 0) {
      return TARN_EINVAL;
    }
  } else if (!key || !parse_key(&t, &origin, id)) {
    return TARN_EINVAL;
  }
  k->origin = (uint32_t)origin;
  k->number = *id;
  *recorded = tarn_service_ref_recorded(k->s, k->origin, k->number);
  int rc = tarn_service_ref_find(k->s, k->origin, k->number, id, at);
  return key && rc == TARN_ENOENT && at->owner == 0 ? TARN_EINVAL : rc;
}

/* Answer that what was asked for is not (or not here). True: it was so, and rc is why. */
static bool not_here(const tarn__call_t *k, int rc, uint64_t id, tarn_place_t at,
                     const char *method) {
  tarn_error_t err;
  if (rc == 0) { return false; }
  if (rc == TARN_EMOVED) {
    tarn_service_moved_error(&err, at);
  } else if (rc == TARN_ENOENT) {
    tarn_error_set(&err, rc, "no object %llu here (deleted, or dropped under pressure)",
                   (unsigned long long)id);
  } else {
    tarn_error_set(&err, rc, "%s: the argument must be an object of this process", method);
  }
  tarn__reply_error(k, &err);
  return true;
}

/* A foreign client asks for what another process owns, or whose owner is lost: it is not sent there, Lua asks in its place. */
static bool elsewhere(const tarn__call_t *k, int rc, tarn_place_t at) {
  return k->c->foreign && rc != 0 && at.owner != 0;
}

/* The Lua thread can wait for room, encode live values, and collect the garbage that holds blocks. */
static bool lua_may_help(int rc) {
  return rc == TARN_EAGAIN || rc == TARN_ENEEDLUA || rc == TARN_EPOOLFULL;
}

/* Answer with what tarn_pool_get has given. */
static int reply_value(const tarn__call_t *k, int rc, tarn_value_t *v, const tarn_error_t *err) {
  if (lua_may_help(rc) || (rc == 0 && v == NULL)) { return TARN__NEED_LUA; }
  if (rc != 0) {
    tarn__reply_error(k, err);
  } else if (k->msgid == NULL) {
    tarn_value_release(v);
  } else {
    tarn_payload_t p = {.value = v};
    tarn__send_reply(k->s, k->c, *k->msgid, true, k->c->foreign, p);
  }
  return 0;
}

/* A reader of a large object says its origin in any case, and that it may be sent elsewhere. Is it? */
static bool is_spread(tarn__call_t *k, uint64_t local) {
  bool may = false;
  if (k->count != 3 || tarn_mp_read_bool(&k->params, &may) != 0 || !may || k->msgid == NULL) {
    return false;
  }
  return !tarn__lend_same_host(k->s, k->c) &&
         tarn__spread_ask(k->s, k->c, *k->msgid, local, k->origin, k->number);
}

int tarn__serve_pool_get(tarn__call_t *k) {
  uint64_t id = 0;
  tarn_place_t at = {0};
  bool recorded = false;
  int rc = read_id(k, &id, &at, &recorded);
  if (elsewhere(k, rc, at)) { return TARN__NEED_LUA; }
  if (not_here(k, rc, id, at, "pool.get")) { return 0; }
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  uint32_t flags = tarn__lend_same_host(k->s, k->c) ? 0 : TARN_GET_VERIFIED;
  rc = tarn_pool_get(k->s->pool, id, flags, &v, &err);
  if (rc == 0 && v != NULL && is_spread(k, id)) {
    tarn_value_release(v);
    return 0;
  }
  if (rc == TARN_ENOENT) {
    if (recorded && k->c->foreign) { return TARN__NEED_LUA; } /* it can be made anew */
    tarn_error_set(&err, rc, "no object %u:%llu (deleted, or dropped under pressure)", k->s->id,
                   (unsigned long long)id);
  }
  return reply_value(k, rc, v, &err);
}

/* [id, origin, owner]: an object of ours, or one of another process that we have kept a copy of (spread.c) */
int tarn__serve_spread_get(tarn__call_t *k) {
  uint64_t id = 0;
  tarn_place_t at = {0};
  bool recorded = false;
  int rc = read_id(k, &id, &at, &recorded);
  uint64_t copy = rc != 0 ? tarn__spread_copy(k->s, k->origin, k->number) : 0;
  if (copy != 0) {
    id = copy;
  } else if (not_here(k, rc, id, at, "spread.get")) {
    return 0;
  }
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  uint32_t flags = tarn__lend_same_host(k->s, k->c) ? 0 : TARN_GET_VERIFIED;
  rc = tarn_pool_get(k->s->pool, id, flags | TARN_GET_QUIET, &v, &err);
  return reply_value(k, rc, v, &err);
}

int tarn__serve_pool_delete(tarn__call_t *k) {
  uint64_t id = 0;
  tarn_place_t at = {0};
  bool recorded = false;
  int rc = read_id(k, &id, &at, &recorded);
  if (recorded || elsewhere(k, rc, at)) { return TARN__NEED_LUA; } /* its record ends first */
  if (rc != TARN_ENOENT && not_here(k, rc, id, at, "pool.delete")) { return 0; }
  if (rc == 0) { (void)tarn_pool_delete(k->s->pool, id); }
  if (rc == 0 && k->c->foreign) { tarn__refs_delete_foreign(k->s, k->c, id); }
  tarn__reply_true(k);
  return 0;
}

/* A value from the bytes of its contiguous image: blocks are copied into the pool. */
static int value_from_image(tarn_service_t *s, const uint8_t *bytes, size_t size,
                            tarn_value_t **out, tarn_error_t *err) {
  tarn_image_t im;
  int rc = tarn_image_open(bytes, size, &im, err);
  if (rc != 0) { return rc; }
  if (im.detached) { return tarn_error_set(err, TARN_ECORRUPT, "a value without its blocks"); }
  uint8_t *front = tarn_malloc((size_t)im.front_size);
  tarn_block_t **blocks = tarn_calloc(im.block_count + 1u, sizeof(*blocks));
  uint32_t made = 0;
  if (front == NULL || blocks == NULL) {
    rc = tarn_error_set(err, TARN_ENOMEM, "out of memory for a value");
    goto done;
  }
  memcpy(front, bytes, (size_t)im.front_size);
  if (im.block_count > 0) { tarn_image_set_detached(front, (size_t)im.front_size, true); }
  uint64_t offset = im.front_size;
  for (; made < im.block_count; made++) {
    uint64_t length = tarn_image_block_size(&im, made);
    rc = tarn_block_create(s->pool, length, 0, &blocks[made], err);
    if (rc != 0) { goto done; }
    offset = tarn_image_align(offset);
    memcpy(blocks[made]->data, bytes + offset, (size_t)length);
    offset += length;
  }
  rc = tarn_value_create(s->pool, front, (size_t)im.front_size, blocks, im.block_count, out, err);
  if (rc == 0) {
    front = NULL;
    made = 0;
  }
done:
  for (uint32_t i = 0; i < made; i++) {
    tarn_block_unmap(blocks[i]);
    tarn_block_release(blocks[i]);
  }
  tarn_free(blocks);
  tarn_free(front);
  return rc;
}

static int append_ref(uint32_t origin, const tarn__stored_t *o, tarn_buf_t *out) {
  if (o->id == 0) { return tarn_mp_write_nil(out); }
  tarn_buf_t inner;
  tarn_buf_init(&inner, 64);
  int rc = tarn_mp_write_array(&inner, 3);
  rc |= tarn_mp_write_uint(&inner, origin);
  rc |= tarn_mp_write_uint(&inner, o->id);
  rc |= tarn_mp_write_uint(&inner, o->size);
  if (rc == 0) { rc = tarn_mp_write_ext_header(out, TARN_EXT_DREF, inner.size); }
  if (rc == 0) { rc = tarn_buf_append(out, inner.data, inner.size); }
  tarn_buf_release(&inner);
  return rc;
}

int tarn__write_refs(uint32_t origin, const tarn__stored_t *of, uint32_t n, bool list,
                     tarn_buf_t *out) {
  tarn_image_ref_t *refs = tarn_calloc(n + 1u, sizeof *refs);
  tarn_buf_t skeleton;
  tarn_buf_init(&skeleton, SIZE_MAX / 2);
  tarn_image_parts_t parts = {.refs = refs};
  int rc = refs == NULL ? TARN_ENOMEM : list ? tarn_mp_write_array(&skeleton, n) : 0;
  for (uint32_t i = 0; rc == 0 && i < n; i++) {
    rc = append_ref(origin, &of[i], &skeleton);
    if (of[i].id != 0) { refs[parts.ref_count++] = (tarn_image_ref_t){origin, of[i].id}; }
  }
  parts.skeleton = skeleton.data;
  parts.skeleton_size = skeleton.size;
  if (rc == 0) { rc = tarn_image_compose(&parts, out); }
  tarn_buf_release(&skeleton);
  tarn_free(refs);
  return rc;
}

/* [flags, image as bin] between tarn processes; [anything] from a foreign client. */
int tarn__serve_pool_set(tarn__call_t *k) {
  tarn_error_t err = {0};
  uint64_t flags = 0;
  tarn_value_t *v = k->value;
  int rc = 0;
  tarn_mp_token_t t;
  if (k->c->foreign) {
    if (k->count != 1) { return tarn__reply_bad_arguments(k, "pool.set: one argument, the value"); }
    rc = value_from_image(k->s, k->params.at, (size_t)(k->params.end - k->params.at), &v, &err);
  } else if (k->count < 2 || k->count > 3 || tarn_mp_read_uint(&k->params, 0xff, &flags) != 0) {
    return tarn__reply_bad_arguments(k, "pool.set: two arguments, flags and an image");
  } else if (v != NULL) {
    tarn_value_retain(v);
  } else if (tarn_mp_read(&k->params, &t) != 0 || t.kind != TARN_MP_BIN) {
    return tarn__reply_bad_arguments(k, "pool.set: two arguments, flags and an image");
  } else {
    rc = value_from_image(k->s, t.bytes, t.length, &v, &err);
  }
  uint64_t id = 0;
  if (rc == 0 && tarn_value_guard(v) == NULL) { rc = tarn_service_guard_value(k->s, v); }
  if (rc == 0) { rc = tarn_pool_set_value(k->s->pool, v, (uint32_t)flags << 8, &id, &err); }
  if (rc != 0 && v != NULL) { tarn_value_release(v); }
  if (lua_may_help(rc)) { return TARN__NEED_LUA; } /* the Lua thread can wait for room */
  if (rc != 0) {
    if (err.code == 0) { tarn_error_set(&err, rc, "pool.set: %s", tarn_error_text(rc)); }
    tarn__reply_error(k, &err);
    return 0;
  }
  uint64_t size = tarn_value_size(v);
  tarn_value_release(v);
  tarn_buf_t b;
  tarn_buf_init(&b, 256);
  if (k->c->foreign) {
    if (tarn__refs_set_foreign(k->s, k->c, id) != 0) {
      tarn_log(TARN_LOG_ERROR, "out of memory: a client's object stays when it is gone");
    }
    char key[48];
    snprintf(key, sizeof(key), "%u:%llu", k->s->id, (unsigned long long)id);
    rc = tarn_mp_write_cstr(&b, key);
  } else {
    rc = tarn__write_refs(k->s->id, &(tarn__stored_t){id, size}, 1, false, &b);
  }
  tarn__reply_result(k, rc, &b);
  return 0;
}

int tarn__serve_pool_stats(tarn__call_t *k) {
  tarn_figure_t figures[TARN_FIGURES];
  tarn_service_figures(k->s->pool, k->s, tarn__lua_bytes(k->s), figures);
  tarn_buf_t b;
  tarn_buf_init(&b, 4096);
  int rc = tarn_mp_write_map(&b, TARN_FIGURES);
  rc |= tarn__write_figures(figures, TARN_FIGURES, &b);
  tarn__reply_result(k, rc, &b);
  return 0;
}

/* [max_memsize or nil, max_disksize or nil] -> [max_memsize, max_disksize] */
int tarn__serve_pool_limits(tarn__call_t *k) {
  uint64_t limit[2] = {0, 0};
  bool given[2] = {false, false};
  for (uint32_t i = 0; i < 2 && i < k->count; i++) {
    tarn_mp_token_t t;
    if (tarn_mp_read(&k->params, &t) != 0 || (t.kind != TARN_MP_NIL && t.kind != TARN_MP_UINT)) {
      return tarn__reply_bad_arguments(k, "pool.limits: sizes in bytes, or nil");
    }
    given[i] = t.kind == TARN_MP_UINT;
    limit[i] = t.v.u;
  }
  tarn_pool_set_limits(k->s->pool, given[0] ? &limit[0] : NULL, given[1] ? &limit[1] : NULL);
  tarn_pool_stats_t p;
  tarn_pool_get_stats(k->s->pool, &p);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 2);
  rc |= tarn__write_figure(&b, p.max_memsize);
  rc |= tarn__write_figure(&b, p.max_disksize);
  tarn__reply_result(k, rc, &b);
  return 0;
}
