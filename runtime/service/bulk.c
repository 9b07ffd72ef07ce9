/* Bulk messages: a frame, then the blocks of its value, which are received into the pool; the frame is handled when all are here. */
#include <stdio.h>
#include <string.h>
#include "frames-private.h"

typedef struct bulk {
  uint32_t count;
  tarn_block_t *blocks[];
} bulk_t;

static void bulk_free(bulk_t *b) {
  if (b == NULL) { return; }
  for (uint32_t i = 0; i < b->count; i++) {
    tarn_block_unmap(b->blocks[i]);
    tarn_block_release(b->blocks[i]);
  }
  tarn_free(b);
}

/* A bulk message found no room. TARN_EAGAIN when it makes sense to wait. */
static int wait_for_room(tarn_service_t *s, tarn_conn_t *c, int rc) {
  /* What is arriving cannot be evicted; it can when it is here. */
  bool arriving = rc == TARN_EPOOLFULL && s->bulk_arriving > 0;
  if (arriving || tarn__room_may_come(s, rc, &c->collected)) {
    c->bulk_waiting = true;
    return TARN_EAGAIN;
  }
  c->collected = false;
  return rc;
}

int tarn__on_bulk_begin(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
                        const uint64_t *sizes, uint32_t count, void **dest, void **token) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  (void)frame;
  (void)size;
  if (count > TARN_IMAGE_MAX_BLOCKS) { return TARN_ETOOBIG; }
  bulk_t *b = tarn_calloc(1, sizeof(*b) + count * sizeof(b->blocks[0]));
  if (b == NULL) { return TARN_ENOMEM; }
  for (uint32_t i = 0; i < count; i++) {
    c->refusal = (tarn_error_t){0};
    int rc = tarn_block_create(s->pool, sizes[i], 0, &b->blocks[i], &c->refusal);
    if (rc != 0) {
      bulk_free(b);
      return wait_for_room(s, c, rc);
    }
    b->count = i + 1;
    dest[i] = b->blocks[i]->data;
  }
  c->collected = false;
  s->bulk_arriving++;
  *token = b;
  return 0;
}

/* The value of a bulk message: its frame's bin is a front, detached. Takes the blocks over on success. */
static tarn_value_t *bulk_value(tarn_service_t *s, const tarn__frame_t *f, bulk_t *b,
                                tarn_error_t *err) {
  size_t front_size = 0;
  const uint8_t *front = f->is_error ? NULL : tarn__frame_front(f, &front_size);
  if (front == NULL) {
    tarn_error_set(err, TARN_EPROTO, "a bulk message without a value");
    return NULL;
  }
  tarn_image_t im;
  if (tarn_image_open(front, front_size, &im, err) != 0) { return NULL; }
  if (!im.detached || im.block_count != b->count) {
    tarn_error_set(err, TARN_EPROTO, "a bulk message with %u blocks whose value has %u", b->count,
                   im.block_count);
    return NULL;
  }
  for (uint32_t i = 0; i < b->count; i++) {
    if (tarn_image_block_size(&im, i) != b->blocks[i]->size) {
      tarn_error_set(err, TARN_EPROTO,
                     "a bulk message whose block %u is not of the size that its value says", i);
      return NULL;
    }
  }
  uint8_t *copy = tarn_malloc(front_size);
  if (copy == NULL) {
    tarn_error_set(err, TARN_ENOMEM, "out of memory for a message");
    return NULL;
  }
  memcpy(copy, front, front_size);
  tarn_value_t *v = NULL;
  if (tarn_value_create(s->pool, copy, front_size, b->blocks, b->count, &v, err) != 0) {
    tarn_free(copy);
    return NULL;
  }
  b->count = 0; /* taken over */
  (void)tarn_pool_visit(s->pool,
                        v); /* evictable while a job looks at it; out of memory: it just is not */
  return v;
}

void tarn__on_bulk(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                   int status) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  bulk_t *b = token;
  tarn__frame_t f;
  tarn_error_t err = {0};
  if (b != NULL && --s->bulk_arriving == 0) { tarn__bulk_retry_all(s); }
  bool parsed = tarn__frame_parse(frame, size, &f) == 0;
  if (parsed) { tarn__idle_came(s, c, f.type, f.method, f.method_size); }
  tarn_value_t *v = NULL;
  if (parsed && status == 0 && b != NULL) {
    v = bulk_value(s, &f, b, &err);
    status = err.code;
  }
  bulk_free(b);
  if (v != NULL) {
    tarn__frame_handle(s, c, &f, v);
    return;
  }
  if (!parsed || status == TARN_EPROTO || status == TARN_ECORRUPT) {
    tarn__frame_refuse(c, !parsed ? "a bulk message that is not MessagePack-RPC" : err.message);
    return;
  }
  if (status == TARN_ELOST || status == TARN_ECANCELED) { return; } /* on_down tells who waits */
  if (err.code == 0) {
    char what[64];
    snprintf(what, sizeof(what), "process %u has no room for a message", s->id);
    if (c->refusal.code != status) {
      tarn_error_set(&c->refusal, status, "%s", tarn_error_text(status));
    }
    tarn_error_wrap(&err, &c->refusal, what);
  }
  tarn__refs_refuse(s, c, f.transfer, f.transfer_size);
  if (f.type == 1 && tarn__borrow_fetched(s, (uint32_t)f.msgid, NULL, &err)) { return; }
  tarn__frame_fail(s, c, &f, &err);
}
