/* Building and queueing frames. A payload whose blocks are small is joined into the frame; larger blocks stay where they lie and
 * follow on the bulk lane, held by a reference until they are sent; or, to a process of this machine, are lent (lend.c). */
#include <string.h>
#include "service-private.h"

#define FRAME_LIMIT ((size_t)1 << 30) /* what the other end takes: net.h */

void tarn__payload_free(tarn_service_t *s, tarn_payload_t *p) {
  tarn_free(p->front);
  tarn_service_unguard(s, p->guard);
  p->guard = NULL;
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

/* ---- queueing, and what becomes of a message that cannot be sent ---- */

typedef enum {
  AS_REQUEST,
  AS_REPLY,
  AS_NOTE,
  AS_SIGN
} role_t; /* the first three as types of frames; a sign: of membership */

/* A bulk message on its way: its blocks, and whom to tell should it not get through. */
typedef struct bulk_out {
  tarn_service_t *service;
  tarn_value_t *value; /* one reference, owned */
  tarn_message_t message;
  uint64_t token;
  uint64_t transfer; /* of its references; 0: it has none */
  uint32_t msgid;
  role_t role;
} bulk_out_t;

/* A message could not be sent. Whoever waits for it, or for its answer, must not wait for ever. */
static void undelivered(tarn_service_t *s, tarn_conn_t *c, role_t role, uint32_t msgid, int rc) {
  if (tarn_peer_gone(c->peer)) { return; } /* on_down tells all who wait */
  int code = rc == TARN_ENOMEM || rc == TARN_ETOOBIG ? rc : TARN_EIO;
  const char *why =
      code != TARN_EIO ? tarn_error_text(code) : "no connection for large data can be made";
  tarn_error_t err;
  tarn_error_set(&err, code, "%s could not be sent to process %u: %s",
                 role == AS_REPLY ? "a result" : "a message", c->pid, why);
  if (role == AS_NOTE) {
    tarn_log(TARN_LOG_WARN, "%s", err.message);
  } else if (role == AS_REPLY) {
    tarn__send_error(s, c, msgid, &err);
  } else if (tarn_map_remove(&s->pending, msgid) != NULL) {
    tarn__event_fail(s, msgid, s->id, &err);
  }
}

static void on_bulk_sent(void *user, int status) {
  bulk_out_t *o = user;
  tarn_conn_t *c = status != 0 ? tarn_map_get(&o->service->conns, o->token) : NULL;
  tarn_value_release(o->value);
  tarn_pool_sent(o->service->pool, &o->message);
  if (c != NULL) {
    tarn__refs_abort(o->service, o->transfer);
    undelivered(o->service, c, o->role, o->msgid, status);
  }
  tarn_free(o);
}

/* Takes over frame and value. */
static int dispatch_bulk(tarn_conn_t *c, uint8_t *frame, size_t size, tarn_value_t *value,
                         const bulk_out_t *about) {
  uint32_t count = tarn_value_block_count(value);
  tarn_net_span_t *spans = tarn_malloc(count * sizeof(*spans));
  bulk_out_t *o = tarn_malloc(sizeof(*o));
  int rc = TARN_ENOMEM;
  if (o != NULL) {
    *o = *about;
    o->value = value;
  }
  bool begun = spans != NULL && o != NULL &&
               tarn_pool_sending(about->service->pool, c->token, &o->message) == 0;
  if (!begun) {
    tarn_free(frame);
  } else {
    for (uint32_t i = 0; i < count; i++) {
      tarn_block_t *block = tarn_value_block(value, i);
      spans[i] = (tarn_net_span_t){block->data, (size_t)block->size};
    }
    rc = tarn_peer_send_bulk(c->peer, frame, size, spans, count, on_bulk_sent, o);
    if (rc == 0) { tarn__idle_sent(c, (int)about->role); }
  }
  tarn_free(spans);
  if (rc != 0) {
    tarn_value_release(value);
    if (begun) { tarn_pool_sent(about->service->pool, &o->message); }
    tarn_free(o);
  }
  return rc;
}

/* Queue the frame in b (released here). 0 also for a peer that is closing: on_down tells who waits. */
static int dispatch_frame(tarn_conn_t *c, tarn_buf_t *b, role_t role) {
  size_t size = 0;
  uint8_t *frame = tarn_buf_detach(b, &size);
  int rc = tarn_peer_send(c->peer, frame, size);
  if (rc == 0 && role != AS_SIGN) { tarn__idle_sent(c, (int)role); }
  return rc == TARN_ELOST ? 0 : rc;
}

/* COPIED: what is stored there is to be there. */
typedef enum { PLAIN, COPIED, LENT_IF_POSSIBLE } how_t;

/* Finish a message whose head is in b with rc: append the payload (taken over) and queue it, or clean up and say so. transfer: of its references;
 * a response has it in its head, others behind the payload. */
static void finish(tarn_service_t *s, tarn_conn_t *c, tarn_buf_t *b, int rc, tarn_payload_t *p,
                   how_t how, role_t role, uint32_t msgid, uint64_t transfer) {
  bool plain = how == PLAIN;
  bool bulk = !plain && goes_in_bulk(p);
  bool behind = transfer != 0 && role != AS_REPLY;
  uint64_t loan = 0;
  if (rc == 0 && bulk && how == LENT_IF_POSSIBLE && tarn__lend_append(s, c, p->value, b, &loan)) {
    if (behind) { rc = tarn__refs_write(s, transfer, b); }
    if (rc == 0) { rc = dispatch_frame(c, b, role); }
    if (rc != 0) { tarn_pool_lend_end(s->pool, c->pid, loan); }
    goto done;
  }
  if (rc == 0) { rc = append_payload(b, p, plain, bulk); }
  if (rc == 0 && behind) { rc = tarn__refs_write(s, transfer, b); }
  if (rc == 0 && bulk) {
    size_t size = 0;
    uint8_t *frame = tarn_buf_detach(b, &size);
    bulk_out_t about = {
        .service = s, .token = c->token, .transfer = transfer, .msgid = msgid, .role = role};
    rc = dispatch_bulk(c, frame, size, p->value, &about);
    p->value = NULL;
  } else if (rc == 0) {
    rc = dispatch_frame(c, b, role);
  }
done:
  tarn_buf_release(b);
  tarn__payload_free(s, p);
  if (rc != 0) {
    tarn__refs_abort(s, transfer);
    undelivered(s, c, role, msgid, rc);
  }
}

void tarn__send_request(tarn_service_t *s, tarn_conn_t *c, const tarn_out_t *o) {
  tarn_buf_t b;
  tarn_buf_init(&b, FRAME_LIMIT);
  tarn_payload_t p = o->payload;
  uint64_t transfer = 0;
  bool notify = o->kind == OUT_NOTIFY;
  int rc = tarn__refs_depart(s, c, &p, &transfer);
  rc |= tarn_mp_write_array(&b, notify ? 3 : 4);
  rc |= tarn_mp_write_uint(&b, notify ? 2 : 0);
  if (!notify) { rc |= tarn_mp_write_uint(&b, o->msgid); }
  rc |= tarn_mp_write_cstr(&b, o->method);
  bool empty = o->plain && p.front == NULL && p.value == NULL;
  size_t at = b.size;
  rc |= o->plain ? tarn_buf_append(&b, o->params, o->params_size) : tarn_mp_write_array(&b, 1);
  /* The plain arguments are an array of fewer than 14: what comes behind them, the bin and the transfer, is counted into its first byte. */
  if (rc == 0 && o->plain && !empty) { b.data[at]++; }
  if (rc == 0 && transfer != 0) { b.data[at]++; }
  role_t role = notify ? AS_NOTE : AS_REQUEST;
  if (!empty) {
    how_t how = o->plain || notify ? COPIED : LENT_IF_POSSIBLE;
    finish(s, c, &b, rc != 0 ? TARN_ENOMEM : 0, &p, how, role, o->msgid, transfer);
    return;
  }
  if (rc == 0) { rc = dispatch_frame(c, &b, role); }
  tarn_buf_release(&b);
  if (rc != 0) { undelivered(s, c, role, o->msgid, rc); }
}

/* Append an error, a plain map, as "Kind: message". */
static int append_error_text(tarn_buf_t *b, const uint8_t *map, size_t size) {
  tarn_mp_reader_t r = {map, map + size};
  uint32_t pairs = 0;
  const uint8_t *part[2] = {(const uint8_t *)"RemoteError", (const uint8_t *)""};
  uint32_t length[2] = {sizeof("RemoteError") - 1, 0};
  (void)tarn_mp_read_map(&r, &pairs);
  for (uint32_t i = 0; i < pairs; i++) {
    const uint8_t *key;
    uint32_t n = 0;
    if (tarn_mp_read_bytes(&r, &key, &n) != 0) { break; }
    int which = n == 4 && memcmp(key, "kind", n) == 0      ? 0
                : n == 7 && memcmp(key, "message", n) == 0 ? 1
                                                           : -1;
    int rc = which >= 0 ? tarn_mp_read_bytes(&r, &part[which], &length[which])
                        : tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH);
    if (rc != 0) { break; }
  }
  tarn_buf_t text;
  tarn_buf_init(&text, FRAME_LIMIT);
  int rc = tarn_buf_append(&text, part[0], length[0]);
  rc |= tarn_buf_append(&text, ": ", 2);
  rc |= tarn_buf_append(&text, part[1], length[1]);
  rc |= tarn_mp_write_str(b, text.data, text.size);
  tarn_buf_release(&text);
  return rc;
}

/* An error, as who gets it wants it. */
static int append_error(tarn_buf_t *b, const tarn_conn_t *c, const tarn_payload_t *p, bool plain) {
  return c->text_errors ? append_error_text(b, p->front, p->front_size)
                        : append_payload(b, p, plain, false);
}

static int append_head(tarn_buf_t *b, uint32_t msgid) {
  int rc = tarn_mp_write_array(b, 4);
  rc |= tarn_mp_write_uint(b, 1);
  rc |= tarn_mp_write_uint(b, msgid);
  return rc;
}

static void send_reply(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, bool ok, how_t how,
                       tarn_payload_t p) {
  tarn_buf_t b;
  uint64_t transfer = 0;
  tarn_buf_init(&b, FRAME_LIMIT);
  int rc = tarn__refs_depart(s, c, &p, &transfer);
  rc |= append_head(&b, msgid);
  if (ok) {
    rc |= transfer != 0 ? tarn__refs_write(s, transfer, &b) : tarn_mp_write_nil(&b);
    finish(s, c, &b, rc != 0 ? TARN_ENOMEM : 0, &p, how, AS_REPLY, msgid, transfer);
    return;
  }
  rc |= append_error(&b, c, &p, how == PLAIN);
  rc |= transfer != 0 ? tarn__refs_write(s, transfer, &b) : tarn_mp_write_nil(&b);
  tarn__payload_free(s, &p);
  if (rc == 0) { rc = dispatch_frame(c, &b, AS_REPLY); }
  tarn_buf_release(&b);
  if (rc != 0) {
    tarn__refs_abort(s, transfer);
    undelivered(s, c, AS_REPLY, msgid, rc);
  }
}

void tarn__send_reply(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, bool ok, bool foreign,
                      tarn_payload_t p) {
  send_reply(s, c, msgid, ok, foreign ? PLAIN : LENT_IF_POSSIBLE, p);
}

void tarn__send_copy(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, tarn_payload_t p) {
  send_reply(s, c, msgid, true, COPIED, p);
}

void tarn__send_error(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, const tarn_error_t *err) {
  tarn_buf_t image, b;
  tarn_buf_init(&image, 8192);
  tarn_buf_init(&b, 16384);
  int rc = tarn__error_image(err, s->id, &image);
  rc |= append_head(&b, msgid);
  tarn_payload_t p = {.front = image.data, .front_size = image.size}; /* the buffer's */
  rc |= append_error(&b, c, &p, c->foreign);
  rc |= tarn_mp_write_nil(&b);
  tarn_buf_release(&image);
  if (rc == 0) { rc = dispatch_frame(c, &b, AS_REPLY); }
  tarn_buf_release(&b);
  if (rc != 0) {
    tarn_peer_close(c->peer, err);
  } /* who waits for the answer must not wait for ever */
}

void tarn__send_result(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, tarn_buf_t *result) {
  tarn_payload_t p = {0};
  p.front = tarn_buf_detach(result, &p.front_size);
  if (!c->foreign && tarn_service_guard(s, p.front, p.front_size, &p.guard) != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for an answer", s->id);
    tarn__payload_free(s, &p);
    tarn__send_error(s, c, msgid, &err);
    return;
  }
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
  bool sign = tarn__idle_is_sign(method, strlen(method));
  if (rc == 0) { rc = dispatch_frame(c, &b, sign ? AS_SIGN : AS_NOTE); }
  tarn_buf_release(&b);
  if (rc != 0) {
    tarn_peer_close(c->peer, NULL);
  } /* it would live on with a wrong picture of the cluster */
}
