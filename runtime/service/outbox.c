/* The outbox: what Lua wants done on the loop, in the order in which it asked. The Lua thread adds items at any time under a mutex of
 * their own; whoever runs the loop works them off. */
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "service-private.h"

#define SLICE_NS                                                                                   \
  UINT64_C(5000000) /* of working off, before the loop has its turn: heartbeats, and what arrives */
#define STOP_GRACE_MS 2000 /* between telling a worker to stop and killing it */

void tarn__tell_stop(tarn_service_t *s, tarn_member_t *m, uint32_t grace_ms) {
  m->stopping = true;
  if (m->conn != NULL) {
    tarn_buf_t b;
    tarn_buf_init(&b, 64);
    if (tarn_mp_write_array(&b, 0) == 0) { tarn__send_notice(s, m->conn, "stop", &b); }
  }
  /* Its standard input stays open until it has ended by itself or the grace is over: the end of input means "at once". */
  if (m->child != NULL && !m->child->exited && tarn__child_member(m->child, false) == NULL) {
    tarn__child_expect_end(m->child, grace_ms);
  }
}

static void free_out(tarn_service_t *s, tarn_out_t *o) {
  tarn_free(o->params);
  tarn__payload_free(s, &o->payload);
  if (o->child != NULL) { tarn__child_discard(o->child); }
  tarn_free(o);
}

static int out_push(tarn_service_t *s, tarn_out_t *o) {
  pthread_mutex_lock(&s->out_mutex);
  *s->out_last = o;
  s->out_last = &o->next;
  pthread_mutex_unlock(&s->out_mutex);
  s->config.wake(s->config.user);
  return 0;
}

static tarn_out_t *out_new(tarn_out_kind_t kind) {
  tarn_out_t *o = tarn_calloc(1, sizeof(*o));
  if (o != NULL) { o->kind = kind; }
  return o;
}

/* ---- whose queue is above the high mark ---- */

void tarn__congested_set(tarn_service_t *s, uint32_t pid) {
  pthread_mutex_lock(&s->out_mutex);
  (void)tarn_map_set(&s->congested, pid, s); /* out of memory: it only goes on sending */
  atomic_store(&s->congested_count, (unsigned)s->congested.count);
  pthread_mutex_unlock(&s->out_mutex);
}

bool tarn__congested_clear(tarn_service_t *s, uint32_t pid) {
  pthread_mutex_lock(&s->out_mutex);
  bool was = tarn_map_remove(&s->congested, pid) != NULL;
  atomic_store(&s->congested_count, (unsigned)s->congested.count);
  pthread_mutex_unlock(&s->out_mutex);
  return was;
}

bool tarn_service_congested(tarn_service_t *s, uint32_t pid) {
  if (atomic_load(&s->congested_count) == 0) { return false; } /* the rule, and no lock */
  pthread_mutex_lock(&s->out_mutex);
  bool is = tarn_map_get(&s->congested, pid) != NULL;
  pthread_mutex_unlock(&s->out_mutex);
  return is;
}

/* ---- working it off ---- */

static void do_request(tarn_service_t *s, tarn_out_t *o) {
  tarn_error_t err = {0};
  tarn_member_t *m = tarn__member_get(s, o->pid);
  bool waits = m != NULL && m->grace != NULL && o->kind == OUT_REQUEST;
  if (waits && tarn_map_set(&s->pending, o->msgid, (void *)((uintptr_t)o->pid + 1)) == 0) {
    return; /* it is gone; its exit status, due any moment, is the answer */
  }
  tarn_conn_t *c = tarn__member_conn(s, o->pid, &err);
  if (c != NULL && o->kind == OUT_REQUEST &&
      tarn_map_set(&s->pending, o->msgid, (void *)((uintptr_t)o->pid + 1)) != 0) {
    tarn_error_set(&err, TARN_ENOMEM, "out of memory for a request");
    c = NULL;
  }
  if (c == NULL) {
    tarn__payload_free(s, &o->payload);
    if (o->kind == OUT_REQUEST) { tarn__event_fail(s, o->msgid, o->pid, &err); }
    return;
  }
  if (o->plain) { tarn__spread_asking(s, o); }
  tarn__send_request(s, c, o);
  o->payload = (tarn_payload_t){0};
  if (tarn_peer_congested(c->peer)) { tarn__congested_set(s, o->pid); }
}

static void do_reply(tarn_service_t *s, tarn_out_t *o) {
  tarn_conn_t *c = tarn_map_get(&s->conns, o->token);
  if (c == NULL) { return; } /* who asked is gone */
  tarn__send_reply(s, c, o->msgid, o->ok, c->foreign, o->payload);
  o->payload = (tarn_payload_t){0};
}

static void do_stop(tarn_service_t *s, uint32_t pid) {
  tarn_member_t *m = tarn__member_get(s, pid);
  if (m != NULL && m->id != s->id && !m->stopping) { tarn__tell_stop(s, m, STOP_GRACE_MS); }
}

static void do_one(tarn_service_t *s, tarn_out_t *o) {
  switch (o->kind) {
  case OUT_REQUEST:
  case OUT_NOTIFY:
    tarn__news_tell(s);
    do_request(s, o);
    break;
  case OUT_REPLY:
    tarn__news_tell(s);
    do_reply(s, o);
    break;
  case OUT_FORGET:
    tarn_map_remove(&s->pending, o->msgid);
    tarn__spread_given_up(s, o->msgid);
    break;
  case OUT_ADOPT:
    tarn__child_adopt(s, o->child);
    o->child = NULL;
    break;
  case OUT_STOP:
    do_stop(s, o->pid);
    break;
  case OUT_KILL: {
    tarn_child_t *c = tarn__child_find(s, o->launch);
    if (c != NULL) { tarn__child_kill(c); }
    break;
  }
  }
}

/* What is left of the items that were taken goes before those that have come since. */
static void put_back(tarn_service_t *s, tarn_out_t *first, tarn_out_t **last) {
  pthread_mutex_lock(&s->out_mutex);
  *last = s->out_first;
  if (s->out_first == NULL) { s->out_last = last; }
  s->out_first = first;
  pthread_mutex_unlock(&s->out_mutex);
}

bool tarn_service_flush(tarn_service_t *s) {
  pthread_mutex_lock(&s->out_mutex);
  tarn_out_t *o = s->out_first, **last = s->out_last;
  s->out_first = NULL;
  s->out_last = &s->out_first;
  pthread_mutex_unlock(&s->out_mutex);
  uint64_t began = o != NULL && o->next != NULL ? tarn_clock_ns() : 0;
  for (tarn_out_t *next; o != NULL; o = next) {
    next = o->next;
    do_one(s, o);
    free_out(s, o);
    if (next != NULL && tarn_clock_ns() - began > SLICE_NS) {
      put_back(s, next, last);
      uv_async_send(&s->more);
      break;
    }
  }
  bool more = o != NULL;
  if (atomic_load(&s->unsaid_count) > 0) { tarn__unsaid_say(s, false); }
  tarn__refs_flush(s);
  if (s->net != NULL) {
    tarn_net_flush(s->net);
    tarn_net_stats_t n;
    tarn_net_get_stats(s->net, &n);
    atomic_store_explicit(&s->in_bytes, n.in_bytes, memory_order_relaxed);
    atomic_store_explicit(&s->out_bytes, n.out_bytes, memory_order_relaxed);
    atomic_store_explicit(&s->in_messages, n.in_messages, memory_order_relaxed);
    atomic_store_explicit(&s->out_messages, n.out_messages, memory_order_relaxed);
  }
  return more;
}

void tarn_service_flush_all(tarn_service_t *s) {
  while (tarn_service_flush(s)) {}
}

void tarn__outbox_clear(tarn_service_t *s) {
  for (tarn_out_t *o = s->out_first, *next; o != NULL; o = next) {
    next = o->next;
    free_out(s, o);
  }
  s->out_first = NULL;
  s->out_last = &s->out_first;
}

/* ---- what Lua calls ---- */

static int push_message(tarn_service_t *s, tarn_out_t *o, const char *method,
                        tarn_payload_t payload) {
  if (o == NULL) {
    tarn__payload_free(s, &payload);
    return TARN_ENOMEM;
  }
  snprintf(o->method, sizeof(o->method), "%s", method);
  o->payload = payload;
  return out_push(s, o);
}

uint32_t tarn__new_msgid(tarn_service_t *s) {
  uint32_t id = atomic_fetch_add(&s->next_msgid, 1);
  return id != 0 ? id : atomic_fetch_add(&s->next_msgid, 1);
}

int tarn_service_request(tarn_service_t *s, uint32_t pid, const char *method,
                         tarn_payload_t payload, uint32_t *msgid) {
  tarn_out_t *o = out_new(OUT_REQUEST);
  if (o != NULL) {
    o->pid = pid;
    *msgid = o->msgid = tarn__new_msgid(s);
  }
  return push_message(s, o, method, payload);
}

int tarn_service_request_plain(tarn_service_t *s, uint32_t pid, const char *method, uint8_t *params,
                               size_t size, tarn_payload_t with, uint32_t *msgid) {
  tarn_out_t *o = out_new(OUT_REQUEST);
  if (o == NULL) {
    tarn_free(params);
  } else {
    o->pid = pid;
    *msgid = o->msgid = tarn__new_msgid(s);
    o->plain = true;
    o->params = params;
    o->params_size = size;
  }
  return push_message(s, o, method, with);
}

int tarn_service_notify(tarn_service_t *s, uint32_t pid, const char *method,
                        tarn_payload_t payload) {
  tarn_out_t *o = out_new(OUT_NOTIFY);
  if (o != NULL) { o->pid = pid; }
  return push_message(s, o, method, payload);
}

int tarn_service_reply(tarn_service_t *s, uint64_t token, uint32_t msgid, bool ok, bool foreign,
                       tarn_payload_t payload) {
  tarn_out_t *o = out_new(OUT_REPLY);
  if (o != NULL) {
    o->token = token;
    o->msgid = msgid;
    o->ok = ok;
    o->foreign = foreign;
  } else {
    tarn__unsaid_add(s, token, msgid);
  }
  return push_message(s, o, "", payload);
}

static void push_simple(tarn_service_t *s, tarn_out_kind_t kind, uint32_t pid, uint32_t msgid,
                        uint64_t launch) {
  tarn_out_t *o = out_new(kind);
  if (o == NULL) { return; }
  o->pid = pid;
  o->msgid = msgid;
  o->launch = launch;
  out_push(s, o);
}

void tarn_service_forget(tarn_service_t *s, uint32_t msgid) {
  push_simple(s, OUT_FORGET, 0, msgid, 0);
}
void tarn_service_stop_process(tarn_service_t *s, uint32_t pid) {
  push_simple(s, OUT_STOP, pid, 0, 0);
}
void tarn_service_kill_child(tarn_service_t *s, uint64_t launch) {
  push_simple(s, OUT_KILL, 0, 0, launch);
}

int tarn_service_spawn(tarn_service_t *s, const tarn_spawn_t *what, uint64_t *launch,
                       int64_t *os_pid, tarn_error_t *err) {
  tarn_out_t *o = out_new(OUT_ADOPT);
  if (o == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory for a worker"); }
  int rc = tarn__child_spawn(s, what, &o->child, err);
  if (rc != 0) {
    tarn_free(o);
    return rc;
  }
  *launch = o->child->launch;
  *os_pid = o->child->os_pid;
  return out_push(s, o);
}
