/* Building and queueing frames. A payload whose blocks are small is joined into the frame; larger blocks stay where they lie and
 * follow on the bulk lane, held by a reference until they are sent. */
#include <string.h>
#include "service-private.h"

#define FRAME_LIMIT ((size_t)1 << 31)

void tarn__payload_free(tarn_payload_t *p) {
  tarn_free(p->front);
  p->front = NULL;
  if (p->value != NULL) { tarn_value_release(p->value); }
  p->value = NULL;
}

static uint64_t block_bytes(const tarn_value_t *v) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < tarn_value_block_count(v); i++) { sum += tarn_value_block(v, i)->size; }
  return sum;
}

static bool goes_in_bulk(const tarn_payload_t *p) {
  return p->value != NULL && block_bytes(p->value) >= TARN_INLINE_BYTES;
}

/* Append the payload's image to b: as a bin, or as it is when plain. In bulk only the front goes in. */
static int append_payload(tarn_buf_t *b, const tarn_payload_t *p, bool plain, bool bulk) {
  const uint8_t *front = p->front;
  size_t size = p->front_size;
  if (p->value != NULL) { front = tarn_value_front(p->value, &size); }
  if (front == NULL) { return plain ? tarn_mp_write_nil(b) : tarn_mp_write_bin(b, "\xc0", 1); }
  uint32_t count = p->value != NULL ? tarn_value_block_count(p->value) : 0;
  if (count == 0 || bulk) {
    return plain ? tarn_buf_append(b, front, size) : tarn_mp_write_bin(b, front, size);
  }
  const void **blocks = tarn_malloc(count * sizeof(*blocks));
  if (blocks == NULL) { return TARN_ENOMEM; }
  tarn_buf_t image;
  tarn_buf_init(&image, FRAME_LIMIT);
  for (uint32_t i = 0; i < count; i++) { blocks[i] = tarn_value_block(p->value, i)->data; }
  int rc = tarn_image_join(front, size, blocks, &image);
  /* An image with blocks is no MessagePack (0xC1): it is a bin for foreigners too. */
  if (rc == 0) { rc = tarn_mp_write_bin(b, image.data, image.size); }
  tarn_buf_release(&image);
  tarn_free(blocks);
  return rc;
}

static void on_bulk_sent(void *user, int status) {
  (void)status;
  tarn_value_release(user);
}

/* Queue the frame in b; the blocks of value, when it is not null, after it. Takes over both. */
static void dispatch_frame(tarn_conn_t *c, tarn_buf_t *b, tarn_value_t *bulk) {
  size_t size = 0;
  uint8_t *frame = tarn_buf_detach(b, &size);
  if (bulk == NULL) {
    (void)tarn_peer_send(c->peer, frame,
                         size); /* a peer that is closing: on_down tells who waits */
    return;
  }
  uint32_t count = tarn_value_block_count(bulk);
  tarn_net_span_t *spans = tarn_malloc(count * sizeof(*spans));
  if (spans == NULL) {
    tarn_free(frame);
    tarn_value_release(bulk);
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "out of memory for a message to process %u", c->pid);
    tarn_peer_close(c->peer, &err); /* whoever waits for this message must not wait for ever */
    return;
  }
  for (uint32_t i = 0; i < count; i++) {
    tarn_block_t *block = tarn_value_block(bulk, i);
    spans[i] = (tarn_net_span_t){block->data, (size_t)block->size};
  }
  int rc = tarn_peer_send_bulk(c->peer, frame, size, spans, count, on_bulk_sent, bulk);
  tarn_free(spans);
  if (rc != 0) { tarn_value_release(bulk); }
}

/* Finish a message whose head is in b with rc: append the payload, send, or clean up. Returns the error. */
static int finish(tarn_conn_t *c, tarn_buf_t *b, int rc, tarn_payload_t *p, bool plain) {
  bool bulk = !plain && goes_in_bulk(p);
  if (rc == 0) { rc = append_payload(b, p, plain, bulk); }
  if (rc != 0) {
    tarn_buf_release(b);
    tarn__payload_free(p);
    return rc;
  }
  tarn_value_t *value = NULL;
  if (bulk) {
    value = p->value;
    p->value = NULL;
  }
  tarn__payload_free(p);
  dispatch_frame(c, b, value);
  return 0;
}

void tarn__send_request(tarn_service_t *s, tarn_conn_t *c, const tarn_out_t *o) {
  tarn_buf_t b;
  tarn_buf_init(&b, FRAME_LIMIT);
  tarn_payload_t p = o->payload;
  bool notify = o->kind == OUT_NOTIFY;
  int rc = tarn_mp_write_array(&b, notify ? 3 : 4);
  rc |= tarn_mp_write_uint(&b, notify ? 2 : 0);
  if (!notify) { rc |= tarn_mp_write_uint(&b, o->msgid); }
  rc |= tarn_mp_write_cstr(&b, o->method);
  if (!o->plain) {
    rc |= tarn_mp_write_array(&b, 1);
    rc = finish(c, &b, rc != 0 ? TARN_ENOMEM : 0, &p, false);
  } else if (p.front == NULL && p.value == NULL) {
    rc |= tarn_buf_append(&b, o->params, o->params_size);
    if (rc == 0) {
      dispatch_frame(c, &b, NULL);
    } else {
      tarn_buf_release(&b);
    }
  } else {
    /* The plain arguments are an array of fewer than 15: one more element, the bin, is counted into its first byte. */
    size_t at = b.size;
    rc |= tarn_buf_append(&b, o->params, o->params_size);
    if (rc == 0) { b.data[at]++; }
    rc = finish(c, &b, rc != 0 ? TARN_ENOMEM : 0, &p, false);
  }
  if (rc != 0 && o->msgid != 0) {
    tarn_error_t err;
    tarn_error_set(&err, rc == TARN_ETOOBIG ? rc : TARN_ENOMEM,
                   "a message to process %u could not be built: %s", c->pid, tarn_error_text(rc));
    if (tarn_map_remove(&s->pending, o->msgid) != NULL) {
      tarn__event_fail(s, o->msgid, s->id, &err);
    }
  }
}

void tarn__send_reply(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, bool ok, bool foreign,
                      tarn_payload_t p) {
  tarn_buf_t b;
  tarn_buf_init(&b, FRAME_LIMIT);
  int rc = tarn_mp_write_array(&b, 4);
  rc |= tarn_mp_write_uint(&b, 1);
  rc |= tarn_mp_write_uint(&b, msgid);
  if (ok) { rc |= tarn_mp_write_nil(&b); }
  if (!ok && !foreign) {
    rc |= append_payload(&b, &p, false, false);
    rc |= tarn_mp_write_nil(&b);
    tarn__payload_free(&p);
    if (rc == 0) {
      dispatch_frame(c, &b, NULL);
      return;
    }
    tarn_buf_release(&b);
  } else if (!ok) {
    rc |= append_payload(&b, &p, true, false);
    rc |= tarn_mp_write_nil(&b);
    tarn__payload_free(&p);
    if (rc == 0) {
      dispatch_frame(c, &b, NULL);
      return;
    }
    tarn_buf_release(&b);
  } else {
    rc = finish(c, &b, rc != 0 ? TARN_ENOMEM : 0, &p, foreign);
    if (rc == 0) { return; }
  }
  tarn_error_t err;
  tarn_error_set(&err, rc == TARN_ETOOBIG ? rc : TARN_ENOMEM, "a result could not be sent: %s",
                 tarn_error_text(rc));
  tarn__send_error(s, c, msgid, &err);
}

void tarn__send_error(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, const tarn_error_t *err) {
  tarn_buf_t image, b;
  tarn_buf_init(&image, 8192);
  tarn_buf_init(&b, 16384);
  int rc = tarn__error_image(err, s->id, &image);
  rc |= tarn_mp_write_array(&b, 4);
  rc |= tarn_mp_write_uint(&b, 1);
  rc |= tarn_mp_write_uint(&b, msgid);
  rc |= c->foreign ? tarn_buf_append(&b, image.data, image.size)
                   : tarn_mp_write_bin(&b, image.data, image.size);
  rc |= tarn_mp_write_nil(&b);
  tarn_buf_release(&image);
  if (rc == 0) {
    dispatch_frame(c, &b, NULL);
    return;
  }
  tarn_buf_release(&b);
  tarn_peer_close(c->peer, err); /* who waits for the answer must not wait for ever */
}

void tarn__send_result(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, tarn_buf_t *result) {
  tarn_payload_t p = {0};
  p.front = tarn_buf_detach(result, &p.front_size);
  tarn__send_reply(s, c, msgid, true, c->foreign, p);
}

void tarn__send_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, tarn_buf_t *params) {
  (void)s;
  tarn_buf_t b;
  tarn_buf_init(&b, FRAME_LIMIT);
  int rc = tarn_mp_write_array(&b, 3);
  rc |= tarn_mp_write_uint(&b, 2);
  rc |= tarn_mp_write_cstr(&b, method);
  rc |= tarn_buf_append(&b, params->data, params->size);
  tarn_buf_release(params);
  if (rc == 0) {
    dispatch_frame(c, &b, NULL);
  } else {
    tarn_buf_release(&b);
    tarn_peer_close(c->peer, NULL);
  }
}
