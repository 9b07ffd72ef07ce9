/* The service itself: creation, the outbox, orderly ends. See service.h for who may call what. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "service-private.h"

#define STOP_GRACE_MS 2000 /* between telling a worker to stop and killing it */
#define OVERDUE_MS 1000    /* a worker told to stop: Lua's time to end in order */

static void room_later(uv_async_t *a) {
  tarn_service_t *s = a->data;
  size_t cursor = 0, count = 0;
  uint64_t token = 0;
  tarn_conn_t *waiting[64];
  for (tarn_conn_t *c; count < 64 && (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (c->bulk_waiting) { waiting[count++] = c; }
  }
  for (size_t i = 0; i < count; i++) {
    waiting[i]->bulk_waiting = false;
    tarn_peer_bulk_retry(waiting[i]->peer);
  }
  uv_stop(s->loop); /* Lua looks after the pool at its next turn */
}

bool tarn_service_wants_collection(tarn_service_t *s) {
  bool wants = s->wants_collection;
  s->wants_collection = false;
  return wants;
}

void tarn_service_room(tarn_service_t *s) { uv_async_send(&s->room); }

static void on_life(uv_poll_t *p, int status, int events) {
  tarn_service_t *s = p->data;
  char junk[256];
  (void)status;
  (void)events;
  ssize_t n = read(s->config.life_fd, junk, sizeof(junk));
  if (n > 0) { return; }
  s->config.on_orphan(s->config.user, "the end of standard input");
}

static void on_own_closed(uv_handle_t *h) {
  tarn_service_t *s = h->data;
  s->handles--;
}

static int start_net(tarn_service_t *s, tarn_error_t *err) {
  tarn_net_config_t nc = {.loop = s->loop,
                          .secret = s->secret,
                          .callbacks = tarn__net_callbacks,
                          .user = s,
                          .bytecode = s->config.bytecode};
  nc.self.id = s->id;
  nc.self.incarnation = s->incarnation;
  nc.self.os_pid = getpid();
  int rc = tarn_net_create(&nc, &s->net, err);
  if (rc != 0) { return rc; }
  rc = tarn_net_listen(s->net, s->config.listen, s->address, sizeof(s->address), err);
  if (rc != 0 || s->id == TARN_DRIVER) { return rc; }
  tarn_conn_t *c = tarn_calloc(1, sizeof(*c));
  if (c == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory"); }
  c->token = s->next_token++;
  c->pid = TARN_DRIVER;
  rc = tarn_net_connect(s->net, s->config.driver, TARN_DRIVER, 0, &c->peer, err);
  if (rc != 0 || tarn_map_set(&s->conns, c->token, c) != 0) {
    tarn_free(c);
    return rc != 0 ? rc : TARN_ENOMEM;
  }
  tarn_peer_set_data(c->peer, c);
  tarn_peer_set_address(c->peer, s->config.driver);
  return 0;
}

int tarn_service_create(const tarn_service_config_t *config, tarn_service_t **out,
                        tarn_error_t *err) {
  if (sodium_init() < 0) { return tarn_error_set(err, TARN_EIO, "libsodium cannot start"); }
  tarn_service_t *s = tarn_calloc(1, sizeof(*s));
  uint8_t *secret = sodium_malloc(TARN_SECRET_BYTES);
  if (s == NULL || secret == NULL) {
    tarn_free(s);
    sodium_free(secret);
    return tarn_error_set(err, TARN_ENOMEM, "out of memory for the service");
  }
  s->config = *config;
  s->loop = config->loop;
  s->loop->data = s;
  s->pool = config->pool;
  s->secret = secret;
  if (config->secret != NULL) {
    memcpy(s->secret, config->secret, TARN_SECRET_BYTES);
  } else {
    randombytes_buf(s->secret, TARN_SECRET_BYTES);
  }
  s->event_last = &s->event_first;
  s->out_last = &s->out_first;
  s->next_token = 1;
  s->next_id = TARN_DRIVER + 1;
  atomic_store(&s->next_msgid, 1);
  tarn_list_init(&s->children);
  tarn_map_init(&s->members);
  tarn_map_init(&s->conns);
  tarn_map_init(&s->pending);
  pthread_mutex_init(&s->out_mutex, NULL);
  s->id = config->driver == NULL ? TARN_DRIVER : 0;
  randombytes_buf(&s->incarnation, sizeof(s->incarnation));
  s->incarnation &= INT64_MAX; /* travels as a MessagePack integer that every reader can hold */
  uv_async_init(s->loop, &s->room, room_later);
  s->room.data = s;
  uv_timer_init(s->loop, &s->overdue);
  s->overdue.data = s;
  s->handles = 2;
  if (config->life_fd >= 0 && uv_poll_init(s->loop, &s->life, config->life_fd) == 0) {
    s->has_life = true;
    s->handles++;
    s->life.data = s;
    uv_poll_start(&s->life, UV_READABLE | UV_DISCONNECT, on_life);
  }
  int rc = start_net(s, err);
  if (rc == 0 && s->id == TARN_DRIVER) {
    tarn_log_set_process(s->id);
    if (tarn__member_add(s, s->id, s->incarnation, getpid(), s->address) == NULL) {
      rc = TARN_ENOMEM;
    }
  }
  if (rc != 0) {
    tarn_service_destroy(s);
    return rc;
  }
  *out = s;
  return 0;
}

static void on_net_closed(void *user) {
  tarn_service_t *s = user;
  s->net_closed = true;
}

static void free_out(tarn_out_t *o) {
  tarn_free(o->params);
  tarn__payload_free(&o->payload);
  if (o->child != NULL) { tarn__child_discard(o->child); }
  tarn_free(o);
}

void tarn_service_destroy(tarn_service_t *s) {
  s->stopping = true;
  tarn_service_stop_children(s, 0);
  if (s->net != NULL) {
    tarn_net_close(s->net, on_net_closed, s);
    while (!s->net_closed) { uv_run(s->loop, UV_RUN_ONCE); }
  }
  tarn__members_free(s);
  uv_close((uv_handle_t *)&s->room, on_own_closed);
  uv_close((uv_handle_t *)&s->overdue, on_own_closed);
  if (s->has_life) { uv_close((uv_handle_t *)&s->life, on_own_closed); }
  while (s->handles > 0) { uv_run(s->loop, UV_RUN_ONCE); }
  if (s->config.life_fd >= 0) { close(s->config.life_fd); }
  for (tarn_event_t *e = tarn_service_take_events(s), *next; e != NULL; e = next) {
    next = e->next;
    tarn_event_free(e);
  }
  for (tarn_out_t *o = s->out_first, *next; o != NULL; o = next) {
    next = o->next;
    free_out(o);
  }
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) { tarn_free(c); }
  tarn_map_clear(&s->conns);
  tarn_map_clear(&s->pending);
  pthread_mutex_destroy(&s->out_mutex);
  sodium_free(s->secret);
  if (s->secret_path != NULL) { unlink(s->secret_path); }
  tarn_free(s->secret_path);
  tarn_free(s);
}

const char *tarn_service_secret_file(tarn_service_t *s, tarn_error_t *err) {
  if (s->secret_path != NULL) { return s->secret_path; }
  const char *dir = getenv("TMPDIR");
  char path[4096], line[TARN_SECRET_BYTES * 2 + 1];
  int n = snprintf(path, sizeof(path), "%s/tarn-secret-XXXXXX",
                   dir != NULL && dir[0] != '\0' ? dir : "/tmp");
  if (n < 0 || (size_t)n >= sizeof(path)) {
    tarn_error_set(err, TARN_EINVAL, "TMPDIR is too long for a secret file");
    return NULL;
  }
  int fd = mkostemp(path, O_CLOEXEC); /* 0600, and never through a planted link */
  if (fd < 0) {
    tarn_error_errno(err, errno, "cannot make the secret file %s", path);
    return NULL;
  }
  sodium_bin2hex(line, sizeof(line), s->secret, TARN_SECRET_BYTES);
  line[sizeof(line) - 1] = '\n';
  ssize_t wrote = write(fd, line, sizeof(line));
  int saved = errno;
  sodium_memzero(line, sizeof(line));
  close(fd);
  s->secret_path = wrote == (ssize_t)sizeof(line) ? tarn_strdup(path) : NULL;
  if (s->secret_path == NULL) {
    unlink(path);
    tarn_error_errno(err, saved, "cannot write the secret file %s", path);
  }
  return s->secret_path;
}

static void tell_stop(tarn_service_t *s, tarn_member_t *m, uint32_t grace_ms) {
  m->stopping = true;
  if (m->conn != NULL) {
    tarn_buf_t b;
    tarn_buf_init(&b, 64);
    if (tarn_mp_write_array(&b, 0) == 0) { tarn__send_notice(s, m->conn, "stop", &b); }
  }
  /* Its standard input stays open until it has ended by itself or the grace is over: the end of input means "at once". */
  if (m->child != NULL && !m->child->exited) { tarn__child_expect_end(m->child, grace_ms); }
}

void tarn_service_stop_children(tarn_service_t *s, uint32_t grace_ms) {
  s->stopping = true;
  tarn_service_flush(s);
  for (tarn_list_t *l = s->children.next; l != &s->children; l = l->next) {
    tarn_child_t *c = TARN_CONTAINER(l, tarn_child_t, link);
    tarn_member_t *m = c->id != 0 && !c->exited ? tarn__member_get(s, c->id) : NULL;
    if (m != NULL && grace_ms > 0) {
      if (!m->stopping) { tell_stop(s, m, grace_ms); }
    } else {
      tarn__child_kill(c);
    }
  }
  while (!tarn_list_empty(&s->children)) { uv_run(s->loop, UV_RUN_ONCE); }
}

static void on_overdue(uv_timer_t *t) {
  tarn_service_t *s = t->data;
  s->config.on_overdue(s->config.user);
}

void tarn__stop_self(tarn_service_t *s) {
  if (s->stop_told) { return; }
  s->stop_told = true;
  uv_timer_start(&s->overdue, on_overdue, OVERDUE_MS, 0);
  tarn__event_post(s, tarn__event_create(s, TARN_EVENT_STOP));
}

/* ---- the outbox ---- */

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

static void do_request(tarn_service_t *s, tarn_out_t *o) {
  tarn_error_t err = {0};
  tarn_conn_t *c = tarn__member_conn(s, o->pid, &err);
  if (c != NULL && o->kind == OUT_REQUEST &&
      tarn_map_set(&s->pending, o->msgid, (void *)((uintptr_t)o->pid + 1)) != 0) {
    tarn_error_set(&err, TARN_ENOMEM, "out of memory for a request");
    c = NULL;
  }
  if (c == NULL) {
    tarn__payload_free(&o->payload);
    if (o->kind == OUT_REQUEST) { tarn__event_fail(s, o->msgid, o->pid, &err); }
    return;
  }
  tarn__send_request(s, c, o);
  o->payload = (tarn_payload_t){0};
  if (tarn_peer_congested(c->peer)) {
    atomic_fetch_or(&s->congested, UINT64_C(1) << (o->pid % 64));
  }
}

static void do_reply(tarn_service_t *s, tarn_out_t *o) {
  tarn_conn_t *c = tarn_map_get(&s->conns, o->token);
  if (c == NULL) { return; } /* who asked is gone */
  tarn__send_reply(s, c, o->msgid, o->ok, c->foreign, o->payload);
  o->payload = (tarn_payload_t){0};
}

static void do_stop(tarn_service_t *s, uint32_t pid) {
  tarn_member_t *m = tarn__member_get(s, pid);
  if (m != NULL && m->id != s->id && !m->stopping) { tell_stop(s, m, STOP_GRACE_MS); }
}

static void do_one(tarn_service_t *s, tarn_out_t *o) {
  switch (o->kind) {
  case OUT_REQUEST:
  case OUT_NOTIFY:
    do_request(s, o);
    break;
  case OUT_REPLY:
    do_reply(s, o);
    break;
  case OUT_FORGET:
    tarn_map_remove(&s->pending, o->msgid);
    break;
  case OUT_ADOPT:
    tarn__child_adopt(s, o->child);
    o->child = NULL;
    break;
  case OUT_STOP:
    do_stop(s, o->pid);
    break;
  case OUT_KILL: {
    tarn_child_t *c = tarn__child_find(s, o->os_pid);
    if (c != NULL) { tarn__child_kill(c); }
    break;
  }
  }
}

void tarn_service_flush(tarn_service_t *s) {
  pthread_mutex_lock(&s->out_mutex);
  tarn_out_t *first = s->out_first;
  s->out_first = NULL;
  s->out_last = &s->out_first;
  pthread_mutex_unlock(&s->out_mutex);
  for (tarn_out_t *o = first, *next; o != NULL; o = next) {
    next = o->next;
    do_one(s, o);
    free_out(o);
  }
  if (s->net != NULL) {
    tarn_net_flush(s->net);
    tarn_net_stats_t n;
    tarn_net_get_stats(s->net, &n);
    atomic_store_explicit(&s->in_bytes, n.in_bytes, memory_order_relaxed);
    atomic_store_explicit(&s->out_bytes, n.out_bytes, memory_order_relaxed);
  }
}

/* ---- what Lua calls ---- */

static int push_message(tarn_service_t *s, tarn_out_t *o, const char *method,
                        tarn_payload_t payload) {
  if (o == NULL) {
    tarn__payload_free(&payload);
    return TARN_ENOMEM;
  }
  snprintf(o->method, sizeof(o->method), "%s", method);
  o->payload = payload;
  return out_push(s, o);
}

static uint32_t new_msgid(tarn_service_t *s) {
  uint32_t id = atomic_fetch_add(&s->next_msgid, 1);
  return id != 0 ? id : atomic_fetch_add(&s->next_msgid, 1);
}

int tarn_service_request(tarn_service_t *s, uint32_t pid, const char *method,
                         tarn_payload_t payload, uint32_t *msgid) {
  tarn_out_t *o = out_new(OUT_REQUEST);
  if (o != NULL) {
    o->pid = pid;
    *msgid = o->msgid = new_msgid(s);
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
    *msgid = o->msgid = new_msgid(s);
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
  }
  return push_message(s, o, "", payload);
}

static void push_simple(tarn_service_t *s, tarn_out_kind_t kind, uint32_t pid, uint32_t msgid,
                        int64_t os_pid) {
  tarn_out_t *o = out_new(kind);
  if (o == NULL) { return; }
  o->pid = pid;
  o->msgid = msgid;
  o->os_pid = os_pid;
  out_push(s, o);
}

void tarn_service_forget(tarn_service_t *s, uint32_t msgid) {
  push_simple(s, OUT_FORGET, 0, msgid, 0);
}
void tarn_service_stop_process(tarn_service_t *s, uint32_t pid) {
  push_simple(s, OUT_STOP, pid, 0, 0);
}
void tarn_service_kill_child(tarn_service_t *s, int64_t os_pid) {
  push_simple(s, OUT_KILL, 0, 0, os_pid);
}

int tarn_service_spawn(tarn_service_t *s, char *const *argv, char *const *env, int64_t *os_pid,
                       tarn_error_t *err) {
  tarn_out_t *o = out_new(OUT_ADOPT);
  if (o == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory for a worker"); }
  int rc = tarn__child_spawn(s, argv, env, &o->child, err);
  if (rc != 0) {
    tarn_free(o);
    return rc;
  }
  *os_pid = o->child->os_pid;
  return out_push(s, o);
}

bool tarn_service_congested(tarn_service_t *s, uint32_t pid) {
  return (atomic_load(&s->congested) >> (pid % 64)) & 1;
}

void tarn_service_get_stats(tarn_service_t *s, tarn_service_stats_t *out) {
  out->tcp_in_bytes = atomic_load_explicit(&s->in_bytes, memory_order_relaxed);
  out->tcp_out_bytes = atomic_load_explicit(&s->out_bytes, memory_order_relaxed);
}

void tarn_service_set_lua_bytes(tarn_service_t *s, const uint64_t *counter) {
  atomic_store(&s->lua_bytes, counter);
}
uint32_t tarn_service_id(const tarn_service_t *s) { return s->id; }
const char *tarn_service_address(const tarn_service_t *s) { return s->address; }
