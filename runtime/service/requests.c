/* The methods that C answers, whatever Lua is doing. Parameters are plain MessagePack arrays. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "service-private.h"

typedef struct call {
  tarn_service_t *s;
  tarn_conn_t *c;
  const uint32_t *msgid;   /* null: a notification, nothing is answered */
  tarn_mp_reader_t params; /* after the array's header */
  uint32_t count;
  tarn_value_t *value; /* borrowed; from a bulk message */
} call_t;

#define NEED_LUA 1 /* what a method returns when only Lua can do it */

static void reply_error(const call_t *k, const tarn_error_t *err) {
  if (k->msgid != NULL) { tarn__send_error(k->s, k->c, *k->msgid, err); }
}

/* Answer with the plain MessagePack in b (released here), which was built with this result. */
static void reply_result(const call_t *k, int rc, tarn_buf_t *b) {
  if (rc == 0 && k->msgid != NULL) {
    tarn__send_result(k->s, k->c, *k->msgid, b);
  } else if (rc != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for an answer", k->s->id);
    reply_error(k, &err);
  }
  tarn_buf_release(b);
}

static void reply_true(const call_t *k) {
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  reply_result(k, tarn_mp_write_bool(&b, true), &b);
}

static int bad_arguments(const call_t *k, const char *what) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_EINVAL, "%s", what);
  reply_error(k, &err);
  return 0;
}

/* An object of ours: where it was made and its number there, or to foreign clients the string ref:key() ("ORIGIN:ID"). Its number in
 * our pool; TARN_EINVAL: it is none; TARN_EMOVED: it is at another process, *at. recorded: process 1 has a record of it; null: nobody asks. */
static int read_id(call_t *k, uint64_t *id, tarn_place_t *at, bool *recorded) {
  tarn_mp_token_t t;
  uint64_t origin = k->s->id;
  if (k->count < 1 || tarn_mp_read(&k->params, &t) != 0) { return TARN_EINVAL; }
  if (t.kind == TARN_MP_UINT) {
    *id = t.v.u;
    if (k->count > 1 && tarn_mp_read_uint(&k->params, UINT32_MAX, &origin) != 0) {
      return TARN_EINVAL;
    }
    if (recorded != NULL) { *recorded = tarn_service_ref_recorded(k->s, (uint32_t)origin, *id); }
    return tarn_service_ref_find(k->s, (uint32_t)origin, *id, id, at);
  }
  if (t.kind != TARN_MP_STR && t.kind != TARN_MP_BIN) { return TARN_EINVAL; }
  uint64_t part[2] = {0, 0};
  uint32_t n = 0;
  for (uint32_t i = 0; i < t.length; i++) {
    uint8_t ch = t.bytes[i];
    if (ch == ':' && n == 0 && i > 0) {
      n = 1;
    } else if (ch < '0' || ch > '9' || part[n] > UINT64_MAX / 10 - 1) {
      return TARN_EINVAL;
    } else {
      part[n] = part[n] * 10 + (uint64_t)(ch - '0');
    }
  }
  if (n != 1 || part[0] > UINT32_MAX) { return TARN_EINVAL; }
  if (recorded != NULL) { *recorded = tarn_service_ref_recorded(k->s, (uint32_t)part[0], part[1]); }
  int rc = tarn_service_ref_find(k->s, (uint32_t)part[0], part[1], id, at);
  return rc == TARN_ENOENT ? TARN_EINVAL : rc;
}

/* Answer that what was asked for is not (or not here). True: it was so, and rc is why. */
static bool not_here(const call_t *k, int rc, uint64_t id, tarn_place_t at, const char *method) {
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
  reply_error(k, &err);
  return true;
}

/* The Lua thread can wait for room, encode live values, and collect the garbage that holds blocks. */
static bool lua_may_help(int rc) {
  return rc == TARN_EAGAIN || rc == TARN_ENEEDLUA || rc == TARN_EPOOLFULL;
}

static int serve_ping(call_t *k) {
  reply_true(k);
  return 0;
}

static int serve_pool_get(call_t *k) {
  uint64_t id = 0;
  tarn_place_t at = {0};
  int rc = read_id(k, &id, &at, NULL);
  if (not_here(k, rc, id, at, "pool.get")) { return 0; }
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  uint32_t flags = tarn__lend_same_host(k->s, k->c) ? 0 : TARN_GET_VERIFIED;
  rc = tarn_pool_get(k->s->pool, id, flags, &v, &err);
  if (lua_may_help(rc) || (rc == 0 && v == NULL)) { return NEED_LUA; }
  if (rc != 0) {
    if (rc == TARN_ENOENT) {
      tarn_error_set(&err, rc, "no object %u:%llu (deleted, or dropped under pressure)", k->s->id,
                     (unsigned long long)id);
    }
    reply_error(k, &err);
    return 0;
  }
  if (k->msgid == NULL) {
    tarn_value_release(v);
    return 0;
  }
  tarn_payload_t p = {.value = v};
  tarn__send_reply(k->s, k->c, *k->msgid, true, k->c->foreign, p);
  return 0;
}

static int serve_pool_delete(call_t *k) {
  uint64_t id = 0;
  tarn_place_t at = {0};
  bool recorded = false;
  int rc = read_id(k, &id, &at, &recorded);
  if (recorded) { return NEED_LUA; } /* its record ends first */
  if (rc != TARN_ENOENT && not_here(k, rc, id, at, "pool.delete")) { return 0; }
  if (rc == 0) { (void)tarn_pool_delete(k->s->pool, id); }
  if (rc == 0 && k->c->foreign) { tarn__refs_delete_foreign(k->s, k->c, id); }
  reply_true(k);
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
  if (im.block_count > 0) { front[5] |= 1; } /* detached: image.h */
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

/* [flags, image as bin] between tarn processes; [anything] from a foreign client. */
static int serve_pool_set(call_t *k) {
  tarn_error_t err = {0};
  uint64_t flags = 0;
  tarn_value_t *v = k->value;
  int rc = 0;
  tarn_mp_token_t t;
  if (k->c->foreign) {
    if (k->count != 1) { return bad_arguments(k, "pool.set: one argument, the value"); }
    rc = value_from_image(k->s, k->params.at, (size_t)(k->params.end - k->params.at), &v, &err);
  } else if (k->count < 2 || k->count > 3 || tarn_mp_read_uint(&k->params, 0xff, &flags) != 0) {
    return bad_arguments(k, "pool.set: two arguments, flags and an image");
  } else if (v != NULL) {
    tarn_value_retain(v);
  } else if (tarn_mp_read(&k->params, &t) != 0 || t.kind != TARN_MP_BIN) {
    return bad_arguments(k, "pool.set: two arguments, flags and an image");
  } else {
    rc = value_from_image(k->s, t.bytes, t.length, &v, &err);
  }
  uint64_t id = 0;
  if (rc == 0 && tarn_value_guard(v) == NULL) { rc = tarn_service_guard_value(k->s, v); }
  if (rc == 0) { rc = tarn_pool_set_value(k->s->pool, v, (uint32_t)flags << 8, &id, &err); }
  if (lua_may_help(rc)) {
    if (v != NULL) { tarn_value_release(v); }
    return NEED_LUA; /* the Lua thread can wait for room */
  }
  if (rc != 0) {
    if (v != NULL) { tarn_value_release(v); }
    if (err.code == 0) { tarn_error_set(&err, rc, "pool.set: %s", tarn_error_text(rc)); }
    reply_error(k, &err);
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
  } else { /* a ref, as the codec writes it */
    tarn_buf_t p;
    tarn_buf_init(&p, 64);
    rc = tarn_mp_write_array(&p, 3) | tarn_mp_write_uint(&p, k->s->id) |
         tarn_mp_write_uint(&p, id) | tarn_mp_write_uint(&p, size);
    if (rc == 0) {
      tarn_buf_t skeleton;
      tarn_buf_init(&skeleton, 128);
      rc = tarn_mp_write_ext_header(&skeleton, TARN_EXT_DREF, p.size) |
           tarn_buf_append(&skeleton, p.data, p.size);
      tarn_image_ref_t ref = {k->s->id, id};
      tarn_image_parts_t parts = {
          .skeleton = skeleton.data, .skeleton_size = skeleton.size, .refs = &ref, .ref_count = 1};
      if (rc == 0) { rc = tarn_image_compose(&parts, &b); }
      tarn_buf_release(&skeleton);
    }
    tarn_buf_release(&p);
  }
  reply_result(k, rc, &b);
  return 0;
}

/* A figure, as a Lua number has it; no limit is infinite. */
static int write_figure(tarn_buf_t *b, uint64_t v) {
  if (v <= UINT64_C(1) << 53) { return tarn_mp_write_uint(b, v); }
  return tarn_mp_write_double(b, v == UINT64_MAX ? (double)INFINITY : (double)v);
}

void tarn_service_figures(tarn_pool_t *pool, tarn_service_t *s, uint64_t lua_bytes,
                          tarn_figure_t out[TARN_FIGURES]) {
  tarn_pool_stats_t p;
  tarn_service_stats_t n = {0};
  tarn_pool_get_stats(pool, &p);
  if (s != NULL) { tarn_service_get_stats(s, &n); }
  const tarn_figure_t figures[] = {{"objects", p.objects},
                                   {"live_bytes", p.live_bytes},
                                   {"resident_bytes", p.resident_bytes},
                                   {"inflight_bytes", p.inflight_bytes},
                                   {"lent_bytes", p.lent_bytes},
                                   {"borrowed_bytes", p.borrowed_bytes},
                                   {"spilled_bytes", p.spilled_bytes},
                                   {"disk_bytes", p.disk_bytes},
                                   {"lua_bytes", lua_bytes},
                                   {"max_memsize", p.max_memsize},
                                   {"max_disksize", p.max_disksize},
                                   {"sets", p.sets},
                                   {"gets", p.gets},
                                   {"deletes", p.deletes},
                                   {"evictions", p.evictions},
                                   {"spill_written_bytes", p.spill_written_bytes},
                                   {"mapped_back_bytes", p.mapped_back_bytes},
                                   {"mapped_in_bytes", n.mapped_in_bytes},
                                   {"mapped_in_count", n.mapped_in_count},
                                   {"tcp_in_bytes", n.tcp_in_bytes},
                                   {"tcp_out_bytes", n.tcp_out_bytes}};
  _Static_assert(sizeof(figures) == TARN_FIGURES * sizeof(out[0]), "every figure, once");
  memcpy(out, figures, sizeof(figures));
}

static int serve_pool_stats(call_t *k) {
  const uint64_t *lua = atomic_load(&k->s->lua_bytes);
  tarn_figure_t figures[TARN_FIGURES];
  tarn_service_figures(k->s->pool, k->s, lua != NULL ? __atomic_load_n(lua, __ATOMIC_RELAXED) : 0,
                       figures);
  tarn_buf_t b;
  tarn_buf_init(&b, 4096);
  int rc = tarn_mp_write_map(&b, TARN_FIGURES);
  for (size_t i = 0; i < TARN_FIGURES; i++) {
    rc |= tarn_mp_write_cstr(&b, figures[i].name) | write_figure(&b, figures[i].value);
  }
  reply_result(k, rc, &b);
  return 0;
}

/* [max_memsize or nil, max_disksize or nil] -> [max_memsize, max_disksize] */
static int serve_pool_limits(call_t *k) {
  uint64_t limit[2] = {0, 0};
  bool given[2] = {false, false};
  for (uint32_t i = 0; i < 2 && i < k->count; i++) {
    tarn_mp_token_t t;
    if (tarn_mp_read(&k->params, &t) != 0 || (t.kind != TARN_MP_NIL && t.kind != TARN_MP_UINT)) {
      return bad_arguments(k, "pool.limits: sizes in bytes, or nil");
    }
    given[i] = t.kind == TARN_MP_UINT;
    limit[i] = t.v.u;
  }
  tarn_pool_set_limits(k->s->pool, given[0] ? &limit[0] : NULL, given[1] ? &limit[1] : NULL);
  tarn_pool_stats_t p;
  tarn_pool_get_stats(k->s->pool, &p);
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 2) | write_figure(&b, p.max_memsize) |
           write_figure(&b, p.max_disksize);
  reply_result(k, rc, &b);
  return 0;
}

/* [loan, unable] */
static int serve_lend_fetch(call_t *k) {
  uint64_t loan = 0;
  bool unable = false;
  if (k->count != 2 || tarn_mp_read_uint(&k->params, UINT64_MAX, &loan) != 0 ||
      tarn_mp_read_bool(&k->params, &unable) != 0 || k->msgid == NULL) {
    return bad_arguments(k, "lend.fetch: a loan");
  }
  tarn__lend_serve_fetch(k->s, k->c, *k->msgid, loan, unable);
  return 0;
}

/* [name]: what lua/tarn/plug.lua loads a serializer from, or nil */
static int serve_serializer_get(call_t *k) {
  const uint8_t *name;
  uint32_t length = 0;
  if (k->count != 1 || tarn_mp_read_bytes(&k->params, &name, &length) != 0) {
    return bad_arguments(k, "serializer.get: a name");
  }
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  reply_result(k, tarn__offer_write(k->s, name, length, &b), &b);
  return 0;
}

static int serve_secret_again(call_t *k) {
  reply_true(k); /* already proven, or the frame would not be here */
  return 0;
}

static int serve_stop(call_t *k) {
  if (k->c->pid == TARN_DRIVER) { tarn__stop_self(k->s); }
  reply_true(k);
  return 0;
}

static const struct method {
  const char *name;
  bool foreign; /* allowed to foreign clients */
  int (*serve)(call_t *k);
} methods[] = {
    {"pool.get", true, serve_pool_get},        {"ping", true, serve_ping},
    {"pool.set", true, serve_pool_set},        {"pool.delete", true, serve_pool_delete},
    {"pool.stats", true, serve_pool_stats},    {"pool.limits", false, serve_pool_limits},
    {"auth.secret", true, serve_secret_again}, {"stop", false, serve_stop},
    {"lend.fetch", false, serve_lend_fetch},   {"serializer.get", false, serve_serializer_get},
};

int tarn__serve(tarn_service_t *s, tarn_conn_t *c, const uint32_t *msgid, const char *method,
                const uint8_t *params, size_t size, tarn_value_t *value) {
  call_t k = {.s = s, .c = c, .msgid = msgid, .params = {params, params + size}, .value = value};
  const struct method *m = NULL;
  for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]) && m == NULL; i++) {
    if (strcmp(methods[i].name, method) == 0) { m = &methods[i]; }
  }
  if (m != NULL && (m->foreign || !c->foreign)) {
    if (tarn_mp_read_array(&k.params, &k.count) != 0) {
      bad_arguments(&k, "the parameters must be an array");
      return 1;
    }
    return m->serve(&k) != NEED_LUA;
  }
  if (!c->foreign && msgid == NULL && strncmp(method, "member.", 7) == 0) {
    if (tarn_mp_read_array(&k.params, &k.count) != 0) { return 1; }
    return tarn__member_notice(s, c, method, &k.params);
  }
  if (!c->foreign && msgid == NULL && strncmp(method, "refs.", 5) == 0) {
    if (tarn_mp_read_array(&k.params, &k.count) == 0) {
      tarn__refs_notice(s, c, method, &k.params, k.count);
    }
    return 1;
  }
  if (!c->foreign && msgid == NULL && strncmp(method, "lend.", 5) == 0) {
    if (tarn_mp_read_array(&k.params, &k.count) == 0) {
      tarn__lend_notice(s, c, method, &k.params);
    }
    return 1;
  }
  if (c->foreign && strcmp(method, "call") != 0 && strcmp(method, "eval") != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_EPROTO, "no method '%s'", method);
    reply_error(&k, &err);
    return 1;
  }
  return 0;
}
