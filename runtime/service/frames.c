/* What comes in: frames, taken apart and handed to C's methods, to who waits for a response, or to Lua. */
#include <string.h>
#include "frames-private.h"

#define FLAGS_BYTES 8 /* an array's header and a small integer */

static bool is_transfer(tarn__frame_t *f, const tarn_mp_token_t *t) {
  if (t->kind != TARN_MP_EXT || t->ext_type != TARN_TRANSFER_EXT) { return false; }
  f->transfer = t->bytes;
  f->transfer_size = t->length;
  return true;
}

/* A response's stands where nil would: in place of the error, or of an error's result. Else it is the last of two or three parameters. */
static void find_transfer(tarn__frame_t *f) {
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

int tarn__frame_parse(const uint8_t *bytes, size_t size, tarn__frame_t *f) {
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

void tarn__frame_refuse(tarn_conn_t *c, const char *what) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_EPROTO, "%s", what);
  tarn_log(TARN_LOG_WARN, "closing the connection to process %u: %s", c->pid, what);
  tarn_peer_close(c->peer, &err);
}

/* value: null allowed. */
static void let_go(tarn_service_t *s, tarn_value_t *value, tarn_guard_t *guard) {
  if (value != NULL) { tarn_value_release(value); }
  tarn_service_unguard(s, guard);
}

/* Lua's to answer. value: from a bulk message, one reference, taken over; guard: taken over. */
static void post_call(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                      tarn_value_t *value, tarn_guard_t *guard) {
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
  let_go(s, value, guard);
  if (e != NULL) {
    tarn__event_charge(s, c, e->size);
    tarn__event_post(s, e);
  } else if (f->type == 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for a request", s->id);
    tarn__send_error(s, c, (uint32_t)f->msgid, &err);
  }
}

/* True: it was the answer to what somebody else had asked us to ask. */
static bool pass_on(tarn_service_t *s, const tarn__frame_t *f, tarn_value_t *value) {
  const uint8_t *bytes = f->params;
  size_t size = f->params_size;
  tarn_error_t err = {0};
  bool good = !f->is_error && value == NULL && unwrap_bin(&bytes, &size, false);
  if (!good) { tarn_error_set(&err, TARN_EREMOTE, "the process that was asked cannot answer"); }
  bool ours =
      tarn__observe_answered(s, (uint32_t)f->msgid, good ? bytes : NULL, good ? size : 0, &err);
  if (ours) { tarn_map_remove(&s->pending, f->msgid); }
  if (ours && value != NULL) { tarn_value_release(value); }
  return ours;
}

static void post_response(tarn_service_t *s, const tarn_conn_t *c, const tarn__frame_t *f,
                          tarn_value_t *value, tarn_guard_t *guard) {
  if (s->fetches.count > 0 && tarn__borrow_fetched(s, (uint32_t)f->msgid, value, NULL)) {
    tarn_service_unguard(s, guard);
    return;
  }
  if (s->forwards.count > 0 && pass_on(s, f, value)) {
    tarn_service_unguard(s, guard);
    return;
  }
  if (s->spread.asked.count > 0) {
    const uint8_t *image = f->params;
    size_t size = f->params_size;
    bool has = !f->is_error && value == NULL && unwrap_bin(&image, &size, false);
    tarn__spread_answered(s, (uint32_t)f->msgid, f->is_error ? NULL : value, has ? image : NULL,
                          size);
  }
  if (tarn_map_remove(&s->pending, f->msgid) ==
      NULL) { /* forgotten, or its process was declared lost */
    let_go(s, value, guard);
    return;
  }
  tarn_event_t *e = tarn__event_create(TARN_EVENT_RESPONSE);
  if (e == NULL) {
    let_go(s, value, guard);
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

void tarn__frame_fail(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                      const tarn_error_t *err) {
  if (f->type == 1 && tarn_map_remove(&s->pending, f->msgid) != NULL) {
    tarn__event_fail(s, (uint32_t)f->msgid, s->id, err);
  }
  if (f->type == 0) { tarn__send_error(s, c, (uint32_t)f->msgid, err); }
}

const uint8_t *tarn__frame_front(const tarn__frame_t *f, size_t *size) {
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  if (f->is_error) { r = (tarn_mp_reader_t){f->error, f->error + f->error_size}; }
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
static int guard_message(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                         tarn_value_t *value, tarn_guard_t **guard) {
  size_t size = 0;
  *guard = NULL;
  if (c->foreign) { return 0; }
  const uint8_t *front =
      value != NULL ? tarn_value_front(value, &size) : tarn__frame_front(f, &size);
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

void tarn__frame_handle(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                        tarn_value_t *value) {
  tarn_guard_t *guard = NULL;
  int rc = guard_message(s, c, f, value, &guard);
  if (rc == TARN_EPROTO) {
    if (value != NULL) { tarn_value_release(value); }
    tarn__frame_refuse(c, "references that make no sense");
    return;
  }
  if (rc != 0) {
    tarn_error_t err;
    const char *why = rc == TARN_ELOST ? "lost a connection while a message was under way"
                                       : "is out of memory for a message";
    tarn_error_set(&err, rc, "process %u %s", s->id, why);
    if (f->type == 2) { tarn_log(TARN_LOG_WARN, "%s", err.message); }
    if (value != NULL) { tarn_value_release(value); }
    tarn__frame_fail(s, c, f, &err);
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
    let_go(s, value, guard);
    return;
  }
  post_call(s, c, f, value, guard);
}

/* The loan that stands in place of a bin: a result, or the one argument. */
static bool find_loan(const tarn_conn_t *c, const tarn__frame_t *f, tarn_mp_token_t *t) {
  tarn_mp_reader_t r = {f->params, f->params + f->params_size};
  uint32_t count = 0;
  if (c->foreign || f->is_error) { return false; }
  if (f->type != 1 && (tarn_mp_read_array(&r, &count) != 0 || count < 1 || count > 2)) {
    return false;
  }
  return tarn_mp_read(&r, t) == 0 && t->kind == TARN_MP_EXT && t->ext_type == TARN_LOAN_EXT;
}

void tarn__frame_again(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size,
                       tarn_value_t *value, const tarn_error_t *err) {
  tarn__frame_t f;
  if (tarn__frame_parse(bytes, size, &f) != 0) { return; } /* it was well-formed the first time */
  if (value != NULL) {
    tarn__frame_handle(s, c, &f, value);
  } else {
    tarn__refs_refuse(s, c, f.transfer, f.transfer_size);
    tarn__frame_fail(s, c, &f, err);
  }
}

static void on_loan(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                    const tarn_mp_token_t *t, const uint8_t *bytes, size_t size) {
  tarn_value_t *v = NULL;
  int rc = tarn__borrow(s, c, t->bytes, t->length, bytes, size, &v);
  if (v != NULL) {
    tarn__frame_handle(s, c, f, v);
  } else if (rc == TARN_EPROTO) {
    tarn__frame_refuse(c, "a loan that makes no sense");
  } else if (rc != 0) {
    tarn_error_t err;
    tarn_error_set(&err, rc, "process %u is out of memory for a message", s->id);
    tarn__refs_refuse(s, c, f->transfer, f->transfer_size);
    tarn__frame_fail(s, c, f, &err);
  }
}

void tarn__frame_take(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size) {
  tarn__frame_t f;
  if (tarn__frame_parse(bytes, size, &f) != 0) {
    tarn__frame_refuse(c, "a frame that is not MessagePack-RPC");
    return;
  }
  tarn__idle_came(s, c, f.type, f.method, f.method_size);
  tarn_mp_token_t t;
  if (find_loan(c, &f, &t)) {
    on_loan(s, c, &f, &t, bytes, size);
  } else {
    tarn__frame_handle(s, c, &f, NULL);
  }
}

void tarn__on_frame(void *user, tarn_peer_t *peer, const uint8_t *bytes, size_t size) {
  tarn_conn_t *c = tarn_peer_data(peer);
  if (!tarn__frame_hold(c, bytes, size)) { tarn__frame_take(user, c, bytes, size); }
}
