/* What comes in: frames and bulk messages, taken apart and handed to C's methods, to who waits for a response, or to Lua. */
#include <string.h>
#include "base/clock.h"
#include "service-private.h"

#define FLAGS_BYTES 8 /* an array's header and a small integer */

/* A frame taken apart; pointers into it. */
typedef struct frame {
  uint64_t type, msgid;
  const uint8_t *method;
  uint32_t method_size;
  const uint8_t *params; /* request, notification: the raw parameters; response: the result */
  size_t params_size;
  const uint8_t *error; /* response: the raw error */
  size_t error_size;
  bool is_error;
  const uint8_t *
      transfer; /* what the extension beside the value holds, that tells of its references; null: none */
  size_t transfer_size;
} frame_t;

static bool is_transfer(frame_t *f, const tarn_mp_token_t *t) {
  if (t->kind != TARN_MP_EXT || t->ext_type != TARN_TRANSFER_EXT) { return false; }
  f->transfer = t->bytes;
  f->transfer_size = t->length;
  return true;
}

/* A response's stands where nil would: in place of the error, or of an error's result. Else it is the last of two or three parameters. */
static void find_transfer(frame_t *f) {
  tarn_mp_token_t t;
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  if (f->type == 1) {
    tarn_mp_reader_t e = {f->error, f->error + f->error_size};
    if (tarn_mp_read(&e, &t) == 0 && is_transfer(f, &t)) {
      f->is_error = false;
    } else if (f->is_error && tarn_mp_read(&r, &t) == 0) {
      (void)is_transfer(f, &t);
    }
    return;
  }
  uint32_t count = 0;
  if (tarn_mp_read_array(&r, &count) != 0 || count < 2 || count > 3) { return; }
  for (uint32_t i = 0; i + 1 < count; i++) {
    if (tarn_mp_skip(&r, 1024) != 0) { return; }
  }
  if (tarn_mp_read(&r, &t) == 0) { (void)is_transfer(f, &t); }
}

/* The framer has checked that the frame is well-formed MessagePack. 0 or TARN_EPROTO. */
static int parse_frame(const uint8_t *bytes, size_t size, frame_t *f) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  uint32_t count = 0;
  memset(f, 0, sizeof(*f));
  if (tarn_mp_read_array(&r, &count) != 0 || tarn_mp_read_uint(&r, 2, &f->type) != 0) {
    return TARN_EPROTO;
  }
  if (count != (f->type == 2 ? 3u : 4u)) { return TARN_EPROTO; }
  if (f->type != 2 && tarn_mp_read_uint(&r, UINT32_MAX, &f->msgid) != 0) { return TARN_EPROTO; }
  if (f->type == 1) {
    f->error = r.at;
    f->is_error = r.at < r.end && *r.at != 0xc0;
    if (tarn_mp_skip(&r, 1024) != 0) { return TARN_EPROTO; }
    f->error_size = (size_t)(r.at - f->error);
  } else {
    if (tarn_mp_read_bytes(&r, &f->method, &f->method_size) != 0 || f->method_size == 0 ||
        f->method_size > TARN_METHOD_MAX) {
      return TARN_EPROTO;
    }
  }
  f->params = r.at;
  f->params_size = (size_t)(r.end - r.at);
  find_transfer(f);
  return 0;
}

/* The bytes inside a bin, or inside an array of one bin (arguments). False: it is something else. */
static bool unwrap_bin(const uint8_t **bytes, size_t *size, bool in_array) {
  tarn_mp_reader_t r = {*bytes, *bytes + *size};
  uint32_t count = 0, length = 0;
  const uint8_t *inner = NULL;
  if (in_array && (tarn_mp_read_array(&r, &count) != 0 || count < 1 || count > 2)) {
    return false; /* behind the bin: its transfer */
  }
  tarn_mp_token_t t;
  if (tarn_mp_read(&r, &t) != 0 || t.kind != TARN_MP_BIN) { return false; }
  inner = t.bytes;
  length = t.length;
  *bytes = inner;
  *size = length;
  return true;
}

static bool set_bytes(tarn_event_t *e, const uint8_t *bytes, size_t size) {
  e->bytes = tarn_malloc(size);
  if (e->bytes == NULL) { return false; }
  memcpy(e->bytes, bytes, size);
  e->size = size;
  return true;
}

static void refuse(tarn_conn_t *c, const char *what) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_EPROTO, "%s", what);
  tarn_log(TARN_LOG_WARN, "closing the connection to process %u: %s", c->pid, what);
  tarn_peer_close(c->peer, &err);
}

/* Lua's to answer. value: from a bulk message, one reference, taken over; guard: taken over. */
static void post_call(tarn_service_t *s, tarn_conn_t *c, const frame_t *f, tarn_value_t *value,
                      tarn_guard_t *guard) {
  tarn_event_t *e = tarn__event_create(f->type == 0 ? TARN_EVENT_REQUEST : TARN_EVENT_NOTIFY);
  if (e != NULL) {
    const uint8_t *bytes = f->params;
    size_t size = f->params_size;
    e->pid = c->pid;
    e->foreign = c->foreign;
    e->msgid = (uint32_t)f->msgid;
    e->token = c->token;
    memcpy(e->method, f->method, f->method_size);
    e->value = value;
    e->service = s;
    e->guard = guard;
    guard = NULL;
    value = NULL;
    if (e->value != NULL &&
        strcmp(e->method, "pool.set") == 0) { /* its flags stand before the value */
      (void)set_bytes(e, bytes, size < FLAGS_BYTES ? size : FLAGS_BYTES);
    } else if (e->value == NULL) {
      if (!c->foreign) {
        (void)unwrap_bin(&bytes, &size, true);
      } /* else plain arguments: an image as they are */
      if (!set_bytes(e, bytes, size)) {
        tarn_event_free(e);
        e = NULL;
      }
    }
  }
  if (value != NULL) { tarn_value_release(value); }
  tarn_service_unguard(s, guard);
  if (e != NULL) {
    tarn__event_charge(s, c, e->size);
    tarn__event_post(s, e);
  } else if (f->type == 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for a request", s->id);
    tarn__send_error(s, c, (uint32_t)f->msgid, &err);
  }
}

static void post_response(tarn_service_t *s, const tarn_conn_t *c, const frame_t *f,
                          tarn_value_t *value, tarn_guard_t *guard) {
  if (s->fetches.count > 0 && tarn__borrow_fetched(s, (uint32_t)f->msgid, value, NULL)) {
    tarn_service_unguard(s, guard);
    return;
  }
  if (tarn_map_remove(&s->pending, f->msgid) ==
      NULL) { /* forgotten, or its process was declared lost */
    if (value != NULL) { tarn_value_release(value); }
    tarn_service_unguard(s, guard);
    return;
  }
  tarn_event_t *e = tarn__event_create(TARN_EVENT_RESPONSE);
  if (e == NULL) {
    if (value != NULL) { tarn_value_release(value); }
    tarn_service_unguard(s, guard);
    tarn__unsaid_add(s, 0, (uint32_t)f->msgid);
    return;
  }
  e->service = s;
  e->guard = guard;
  e->pid = c->pid;
  e->msgid = (uint32_t)f->msgid;
  e->ok = !f->is_error;
  e->value = value;
  if (value == NULL) {
    const uint8_t *bytes = f->is_error ? f->error : f->params;
    size_t size = f->is_error ? f->error_size : f->params_size;
    (void)unwrap_bin(&bytes, &size, false);
    if (!set_bytes(e, bytes, size)) { e->ok = false; } /* no bytes: Lua says out of memory */
  }
  tarn__event_post(s, e);
}

static void fail_waiting(tarn_service_t *s, tarn_conn_t *c, const frame_t *f,
                         const tarn_error_t *err) {
  if (f->type == 1 && tarn_map_remove(&s->pending, f->msgid) != NULL) {
    tarn__event_fail(s, (uint32_t)f->msgid, s->id, err);
  }
  if (f->type == 0) { tarn__send_error(s, c, (uint32_t)f->msgid, err); }
}

/* The front that a message carries: its value's, or in its (last) bin. */
static const uint8_t *front_of(const frame_t *f, const tarn_value_t *value, size_t *size) {
  if (value != NULL) { return tarn_value_front(value, size); }
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  if (f->type == 1 && f->is_error) { r = (tarn_mp_reader_t){f->error, f->error + f->error_size}; }
  uint32_t count = 1;
  const uint8_t *front = NULL;
  tarn_mp_token_t t;
  if (f->type != 1 && (tarn_mp_read_array(&r, &count) != 0 || count > 3)) { return NULL; }
  for (uint32_t i = 0; i < count && tarn_mp_read(&r, &t) == 0; i++) {
    if (t.kind == TARN_MP_BIN) {
      front = t.bytes;
      *size = t.length;
    } else if (t.kind == TARN_MP_ARRAY || t.kind == TARN_MP_MAP) {
      return NULL;
    }
  }
  return front;
}

/* The references of a message: pinned for as long as it is here. A value carries its guard. */
static int guard_message(tarn_service_t *s, tarn_conn_t *c, const frame_t *f, tarn_value_t *value,
                         tarn_guard_t **guard) {
  size_t size = 0;
  *guard = NULL;
  if (c->foreign) { return 0; }
  const uint8_t *front = front_of(f, value, &size);
  int rc = tarn__refs_arrive(s, c, f->transfer, f->transfer_size, front, size, guard);
  if (rc == 0 && value != NULL && *guard != NULL) {
    bool has =
        tarn_value_guard(value) != NULL; /* it was fetched, and is here for the second time */
    rc = has ? 0 : tarn_value_set_guard(value, *guard);
    if (has || rc != 0) { tarn_service_unguard(s, *guard); }
    *guard = NULL;
  }
  return rc;
}

static void handle(tarn_service_t *s, tarn_conn_t *c, const frame_t *f, tarn_value_t *value) {
  tarn_guard_t *guard = NULL;
  int rc = guard_message(s, c, f, value, &guard);
  if (rc == TARN_EPROTO) {
    if (value != NULL) { tarn_value_release(value); }
    refuse(c, "references that make no sense");
    return;
  }
  if (rc != 0) {
    tarn_error_t err;
    tarn_error_set(&err, rc, "process %u is out of memory for a message", s->id);
    if (value != NULL) { tarn_value_release(value); }
    fail_waiting(s, c, f, &err);
    return;
  }
  if (f->type == 1) {
    post_response(s, c, f, value, guard);
    return;
  }
  char method[TARN_METHOD_MAX + 1] = {0};
  memcpy(method, f->method, f->method_size);
  uint32_t msgid = (uint32_t)f->msgid; /* 0 is as good as any: some clients begin there */
  if (tarn__serve(s, c, f->type == 0 ? &msgid : NULL, method, f->params, f->params_size, value)) {
    if (value != NULL) { tarn_value_release(value); }
    tarn_service_unguard(s, guard);
    return;
  }
  post_call(s, c, f, value, guard);
}

/* The loan that stands in place of a bin: a result, or the one argument. */
static bool find_loan(const tarn_conn_t *c, const frame_t *f, tarn_mp_token_t *t) {
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  uint32_t count = 0;
  if (c->foreign || (f->type == 1 && f->is_error)) { return false; }
  if (f->type != 1 && (tarn_mp_read_array(&r, &count) != 0 || count < 1 || count > 2)) {
    return false;
  }
  return tarn_mp_read(&r, t) == 0 && t->kind == TARN_MP_EXT && t->ext_type == TARN_LOAN_EXT;
}

void tarn__frame_again(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size,
                       tarn_value_t *value, const tarn_error_t *err) {
  frame_t f;
  if (parse_frame(bytes, size, &f) != 0) { return; } /* it was well-formed the first time */
  if (value != NULL) {
    handle(s, c, &f, value);
  } else {
    tarn__refs_refuse(s, c, f.transfer, f.transfer_size);
    fail_waiting(s, c, &f, err);
  }
}

static void on_loan(tarn_service_t *s, tarn_conn_t *c, const frame_t *f, const tarn_mp_token_t *t,
                    const uint8_t *bytes, size_t size) {
  tarn_value_t *v = NULL;
  int rc = tarn__borrow(s, c, t->bytes, t->length, bytes, size, &v);
  if (v != NULL) {
    handle(s, c, f, v);
  } else if (rc == TARN_EPROTO) {
    refuse(c, "a loan that makes no sense");
  } else if (rc != 0) {
    tarn_error_t err;
    tarn_error_set(&err, rc, "process %u is out of memory for a message", s->id);
    tarn__refs_refuse(s, c, f->transfer, f->transfer_size);
    fail_waiting(s, c, f, &err);
  }
}

static void on_frame(void *user, tarn_peer_t *peer, const uint8_t *bytes, size_t size) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  frame_t f;
  if (parse_frame(bytes, size, &f) != 0) {
    refuse(c, "a frame that is not MessagePack-RPC");
    return;
  }
  tarn_mp_token_t t;
  if (find_loan(c, &f, &t)) {
    on_loan(s, c, &f, &t, bytes, size);
  } else {
    handle(s, c, &f, NULL);
  }
}

/* ---- bulk ---- */

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
  bool full = rc == TARN_EPOOLFULL;
  if (full &&
      s->bulk_arriving > 0) { /* what is arriving cannot be evicted; it can when it is here */
    c->bulk_waiting = true;
    return TARN_EAGAIN;
  }
  if (rc != TARN_EAGAIN && rc != TARN_ENEEDLUA && (!full || c->collected)) {
    c->collected = false;
    return rc;
  }
  c->bulk_waiting = true;
  if (full) { c->collected = s->wants_collection = true; }
  if (rc != TARN_EAGAIN) {
    s->wants_lua = true;
    uv_stop(s->loop);
  }
  return TARN_EAGAIN;
}

static int on_bulk_begin(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
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
static tarn_value_t *bulk_value(tarn_service_t *s, const frame_t *f, bulk_t *b, tarn_error_t *err) {
  const uint8_t *front = NULL;
  uint32_t front_size = 0, count = 0;
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  tarn_mp_token_t t;
  int rc = f->type == 1 ? 0 : tarn_mp_read_array(&r, &count);
  if (f->type == 1) { count = 1; }
  for (uint32_t i = 0; rc == 0 && i < count; i++) { /* the bin is the last argument */
    rc = tarn_mp_read(&r, &t);
    if (rc == 0 && t.kind == TARN_MP_BIN) {
      front = t.bytes;
      front_size = t.length;
    }
  }
  if (rc != 0 || front == NULL) {
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

static void on_bulk(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                    int status) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  bulk_t *b = token;
  frame_t f;
  tarn_error_t err = {0};
  if (b != NULL && --s->bulk_arriving == 0) { tarn__bulk_retry_all(s); }
  bool parsed = parse_frame(frame, size, &f) == 0;
  tarn_value_t *v = NULL;
  if (parsed && status == 0 && b != NULL) {
    v = bulk_value(s, &f, b, &err);
    status = err.code;
  }
  bulk_free(b);
  if (v != NULL) {
    handle(s, c, &f, v);
    return;
  }
  if (!parsed || status == TARN_EPROTO || status == TARN_ECORRUPT) {
    refuse(c, !parsed ? "a bulk message that is not MessagePack-RPC" : err.message);
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
  fail_waiting(s, c, &f, &err);
}

/* ---- peers ---- */

static tarn_conn_t *conn_create(tarn_service_t *s, tarn_peer_t *peer) {
  tarn_conn_t *c = tarn_calloc(1, sizeof(*c));
  if (c == NULL) { return NULL; }
  c->token = s->next_token++;
  c->peer = peer;
  if (tarn_map_set(&s->conns, c->token, c) != 0) {
    tarn_free(c);
    return NULL;
  }
  tarn_peer_set_data(peer, c);
  return c;
}

static int on_join(void *user, const tarn_net_identity_t *who, uint32_t *id,
                   uint64_t *incarnation) {
  tarn_service_t *s = user;
  if (s->id != TARN_DRIVER || s->stopping) { return TARN_EINVAL; }
  (void)who;
  *id = (uint32_t)s->next_id++;
  *incarnation = who->incarnation;
  return 0;
}

static void on_up(void *user, tarn_peer_t *peer) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  const tarn_net_identity_t *who = tarn_peer_identity(peer);
  if (c == NULL) { c = conn_create(s, peer); }
  if (c == NULL) {
    tarn_peer_close(peer, NULL);
    return;
  }
  c->up = true;
  c->up_ms = tarn_clock_boot_ms();
  c->foreign = who->foreign;
  c->pid = who->id;
  if (who->foreign) { return; }
  if (s->id == 0) { /* we have joined: the driver's answer told us who we are */
    const tarn_net_identity_t *self = tarn_net_self(s->net);
    s->id = self->id;
    s->incarnation = self->incarnation;
    tarn_log_set_process(s->id);
    tarn_error_t err = {0};
    if (tarn__reach_joined(s, c, &err) != 0) {
      s->id = 0; /* we have not joined after all */
      s->config.on_orphan(s->config.user, err.message);
    }
    tarn__member_add(s, s->id, s->incarnation, self->os_pid, s->address);
    tarn_member_t *driver =
        tarn__member_add(s, who->id, who->incarnation, who->os_pid, s->config.driver);
    if (driver != NULL) { driver->conn = c; }
    tarn_buf_t b;
    tarn_buf_init(&b, 512);
    int rc = tarn_mp_write_array(&b, 3) | tarn_mp_write_cstr(&b, s->address) |
             tarn_mp_write_uint(&b, s->config.silence_ms) |
             tarn_mp_write_uint(&b, s->config.launch);
    if (rc == 0) { tarn__send_notice(s, c, "member.joined", &b); }
    tarn__heartbeat_start(s, s->config.silence_ms);
    return;
  }
  if (s->id != TARN_DRIVER) {
    c->silence_ms = s->config.silence_ms;
    tarn__heartbeat_say(s, c); /* at once, since it says how often it will be said */
  }
  tarn_member_t *m = tarn__member_get(s, who->id);
  if (m == NULL && s->id == TARN_DRIVER) {
    m = tarn__member_add(s, who->id, who->incarnation, who->os_pid, "");
  }
  if (m != NULL && m->incarnation == who->incarnation) {
    if (m->conn == NULL) { m->conn = c; }
    if (m->address[0] != '\0') { tarn_peer_set_address(peer, m->address); }
    tarn__heartbeat_parted(s, m->id, false);
  }
  tarn__lend_conn_up(s, c);
}

/* Less is queued to that process than before. */
static void drained(tarn_service_t *s, uint32_t pid) {
  if (!tarn__congested_clear(s, pid)) { return; }
  tarn_event_t *e = tarn__event_create(TARN_EVENT_DRAINED);
  if (e != NULL) { e->pid = pid; }
  tarn__event_post(s, e);
}

static void on_down(void *user, tarn_peer_t *peer, const tarn_error_t *reason) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  if (c == NULL) { return; }
  tarn_map_remove(&s->conns, c->token);
  tarn__borrow_conn_down(s, c);
  tarn__refs_conn_down(s, c);
  tarn__refs_foreign_down(s, c);
  tarn_member_t *m = c->pid != 0 ? tarn__member_get(s, c->pid) : NULL;
  /* One that could not be opened in time; one that was there has been judged by what was heard on it. */
  tarn__heartbeat_parted(s, c->pid, !c->up && reason->code == TARN_ETIMEDOUT);
  if (s->id == 0 && c->pid == TARN_DRIVER && !s->stopping) {
    s->config.on_orphan(s->config.user, reason->message);
  }
  if (m != NULL && m->conn == c) {
    m->conn = NULL;
    drained(s, c->pid); /* who waits to send may try again, and is told how it stands */
    tarn__member_down(s, m, reason->message);
  }
  if (c->pid != 0) { tarn__lend_conn_down(s, c); }
  tarn_free(c);
}

static void on_drained(void *user, tarn_peer_t *peer) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  if (c != NULL && c->pid != 0) { drained(s, c->pid); }
}

const tarn_net_callbacks_t tarn__net_callbacks = {
    .on_join = on_join,
    .on_up = on_up,
    .on_down = on_down,
    .on_frame = on_frame,
    .on_bulk_begin = on_bulk_begin,
    .on_bulk = on_bulk,
    .on_drained = on_drained,
};
