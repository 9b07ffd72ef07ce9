/* pool.get_all, pool.set_all and pool.delete_all: many small objects in one message and its answer. Of what makes an object a matter of its own
 * (blocks, references, a serializer, being live, elsewhere, gone or recorded, finding no room) the answer has nil, and who asks comes again with
 * pool.get, pool.set or pool.delete, which know what to do or what to say. */
#include <string.h>
#include "requests-private.h"

#define ANSWER_BYTES ((size_t)1 << 20) /* of values: from there on it is nil, too */

/* An image that may travel with others. */
static bool is_small(const uint8_t *image, size_t size) {
  return size > 0 && size <= TARN_MANY_IMAGE_BYTES && !tarn_image_has_head(image, size);
}

/* The next of [origin, id, origin, id, ...]. Not 0: they are no numbers. */
static int read_name(tarn__call_t *k, uint64_t *origin, uint64_t *id) {
  int rc = tarn_mp_read_uint(&k->params, UINT32_MAX, origin);
  return rc != 0 ? rc : tarn_mp_read_uint(&k->params, UINT64_MAX, id);
}

static bool are_names(const tarn__call_t *k) {
  return k->count <= TARN_MANY_MAX * 2 && k->count % 2 == 0;
}

/* Answer with b, unless rc says that the arguments were wrong. */
static int finish(tarn__call_t *k, int rc, tarn_buf_t *b, const char *arguments) {
  if (rc != TARN_EINVAL) {
    tarn__reply_result(k, rc, b);
    return 0;
  }
  tarn_buf_release(b);
  return tarn__reply_bad_arguments(k, arguments);
}

/* ---- get ---- */

/* Append the object's image, if it is small. *taken: has it been? Not 0: no memory. */
static int append(tarn_service_t *s, uint64_t id, uint32_t flags, tarn_buf_t *out, bool *taken) {
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  if (tarn_pool_get(s->pool, id, flags, &v, &err) != 0 || v == NULL) { return 0; }
  size_t size = 0;
  const uint8_t *image = tarn_value_front(v, &size);
  *taken = tarn_value_block_count(v) == 0 && is_small(image, size);
  int rc = *taken ? tarn_buf_append(out, image, size) : 0;
  tarn_value_release(v);
  return rc;
}

static int get_all(tarn__call_t *k, tarn_buf_t *out) {
  uint32_t flags = tarn__lend_same_host(k->s, k->c) ? 0 : TARN_GET_VERIFIED;
  int rc = tarn_mp_write_array(out, k->count / 2);
  for (uint32_t i = 0; rc == 0 && i < k->count / 2; i++) {
    uint64_t origin = 0, id = 0, local = 0;
    if (read_name(k, &origin, &id) != 0) { return TARN_EINVAL; }
    tarn_place_t at;
    bool taken = false;
    if (out->size < ANSWER_BYTES &&
        tarn_service_ref_find(k->s, (uint32_t)origin, id, &local, &at) == 0) {
      rc = append(k->s, local, flags, out, &taken);
    }
    if (rc == 0 && !taken) { rc = tarn_mp_write_nil(out); }
  }
  return rc;
}

/* [origin, id, ...] -> [value or nil, ...] */
int tarn__serve_pool_get_all(tarn__call_t *k) {
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  return finish(k, are_names(k) ? get_all(k, &b) : TARN_EINVAL, &b,
                "pool.get_all: the origin and the number of each object, up to 512");
}

/* ---- set ---- */

/* The value of the image that r is at. TARN_EINVAL: it is none, or not small. */
static int read_value(tarn_service_t *s, tarn_mp_reader_t *r, tarn_value_t **out) {
  const uint8_t *image = r->at;
  if (tarn_mp_skip(r, TARN_IMAGE_MAX_DEPTH) != 0) { return TARN_EINVAL; }
  size_t size = (size_t)(r->at - image);
  if (!is_small(image, size)) { return TARN_EINVAL; }
  uint8_t *front = tarn_malloc(size);
  if (front == NULL) { return TARN_ENOMEM; }
  memcpy(front, image, size);
  tarn_error_t err;
  int rc = tarn_value_create(s->pool, front, size, NULL, 0, out, &err);
  if (rc != 0) { tarn_free(front); }
  return rc;
}

/* Store the n values, in order, up to the first that finds no room. */
static void store(tarn_pool_t *pool, tarn_value_t *const *values, uint32_t n,
                  tarn__stored_t *stored) {
  for (uint32_t i = 0; i < n; i++) {
    tarn_error_t err = {0};
    if (tarn_pool_set_value(pool, values[i], 0, &stored[i].id, &err) != 0) {
      stored[i].id = 0;
      return;
    }
    stored[i].size = tarn_value_size(values[i]);
  }
}

static int set_all(tarn__call_t *k, tarn_buf_t *out) {
  tarn_value_t *values[TARN_MANY_MAX];
  tarn__stored_t stored[TARN_MANY_MAX] = {{0, 0}};
  tarn_mp_token_t t;
  uint32_t n = 0, made = 0;
  if (k->count != 1 || tarn_mp_read(&k->params, &t) != 0 || t.kind != TARN_MP_BIN) {
    return TARN_EINVAL;
  }
  tarn_mp_reader_t r = {t.bytes, t.bytes + t.length};
  if (tarn_mp_read_array(&r, &n) != 0 || n > TARN_MANY_MAX) { return TARN_EINVAL; }
  int rc = 0;
  for (; rc == 0 && made < n; made += rc == 0) { rc = read_value(k->s, &r, &values[made]); }
  if (rc == 0) {
    store(k->s->pool, values, n, stored);
    rc = tarn__write_refs(k->s->id, stored, n, true, out);
  }
  for (uint32_t i = 0; i < made; i++) {
    tarn_value_release(values[i]);
    if (rc != 0 && stored[i].id != 0) { (void)tarn_pool_delete(k->s->pool, stored[i].id); }
  }
  return rc;
}

/* [array of small images, as bin] -> [ref or nil, ...] */
int tarn__serve_pool_set_all(tarn__call_t *k) {
  if (k->msgid == NULL) { return 0; } /* nobody would have them */
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  return finish(k, set_all(k, &b), &b, "pool.set_all: an array of small images, up to 512");
}

/* ---- delete ---- */

static int delete_all(tarn__call_t *k, tarn_buf_t *out) {
  int rc = tarn_mp_write_array(out, k->count / 2);
  for (uint32_t i = 0; rc == 0 && i < k->count / 2; i++) {
    uint64_t origin = 0, id = 0, local = 0;
    if (read_name(k, &origin, &id) != 0) { return TARN_EINVAL; }
    tarn_place_t at;
    int found = tarn_service_ref_find(k->s, (uint32_t)origin, id, &local, &at);
    bool recorded = tarn_service_ref_recorded(k->s, (uint32_t)origin, id);
    if (found == 0 && !recorded) { (void)tarn_pool_delete(k->s->pool, local); }
    bool gone = !recorded && (found == 0 || found == TARN_ENOENT);
    rc = gone ? tarn_mp_write_bool(out, true) : tarn_mp_write_nil(out);
  }
  return rc;
}

/* [origin, id, ...] -> [true or nil, ...] */
int tarn__serve_pool_delete_all(tarn__call_t *k) {
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  return finish(k, are_names(k) ? delete_all(k, &b) : TARN_EINVAL, &b,
                "pool.delete_all: the origin and the number of each object, up to 512");
}
