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

void tarn__bulk_retry_all(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (!c->bulk_waiting) { continue; }
    c->bulk_waiting = false;
    tarn_peer_bulk_retry(c->peer); /* calls nobody back */
  }
  tarn__lend_retry(s);
}

static void room_later(uv_async_t *a) {
  tarn_service_t *s = a->data;
  tarn__bulk_retry_all(s);
  s->wants_lua = true;
  uv_stop(s->loop);
}

static void on_more(uv_async_t *a) { uv_stop(a->loop); }

bool tarn_service_has_outbox(tarn_service_t *s) { return s->out_first != NULL; }

bool tarn_service_wants_lua(tarn_service_t *s) { return s->wants_lua || s->event_first != NULL; }

bool tarn_service_wants_collection(tarn_service_t *s) {
  bool wants = s->wants_collection;
  s->wants_collection = s->wants_lua = false;
  return wants;
}

#define COLLECT_EVERY_NS UINT64_C(1000000000)
#define COLLECT_SHARE 20u /* of the time at most one part in so many */

bool tarn__collect_garbage(tarn_service_t *s) {
  uint64_t now = tarn_clock_ns(), every = atomic_load(&s->collect_took_ns) * COLLECT_SHARE;
  if (every < COLLECT_EVERY_NS) { every = COLLECT_EVERY_NS; }
  if (s->collect_ns != 0 && now - s->collect_ns < every) { return false; }
  s->collect_ns = now;
  s->wants_collection = s->wants_lua = true;
  uv_stop(s->loop);
  return true;
}

bool tarn__room_may_come(tarn_service_t *s, int rc, bool *collected) {
  bool full = rc == TARN_EPOOLFULL;
  if (rc != TARN_EAGAIN && rc != TARN_ENEEDLUA && (!full || *collected)) { return false; }
  if (full) { *collected = s->wants_collection = true; }
  if (rc != TARN_EAGAIN) {
    s->wants_lua = true;
    uv_stop(s->loop);
  }
  return true;
}

void tarn_service_collected(tarn_service_t *s, uint64_t ns) {
  atomic_store(&s->collect_took_ns, ns);
}

void tarn_service_set_tls(tarn_service_t *s, tarn_net_tls_t tls) { tarn_net_set_tls(s->net, tls); }

void tarn_service_room(tarn_service_t *s) { uv_async_send(&s->room); }

static void on_life(uv_poll_t *p, int status, int events) {
  tarn_service_t *s = p->data;
  char junk[256];
  (void)status;
  (void)events;
  ssize_t n = read(s->config.life_fd, junk, sizeof(junk));
  if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) { return; }
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
                          .bytecode = s->config.bytecode,
                          .tls = s->config.tls};
  nc.self.id = s->id;
  nc.self.incarnation = s->incarnation;
  nc.self.os_pid = getpid();
  if (!s->config.no_map) { tarn__lend_host(nc.self.host, sizeof(nc.self.host)); }
  int rc = tarn_net_create(&nc, &s->net, err);
  if (rc != 0) { return rc; }
  rc = tarn__reach_listen(s, err);
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
  atomic_store(&s->next_launch, 1);
  tarn_list_init(&s->children);
  tarn_list_init(&s->partings);
  tarn_map_init(&s->members);
  tarn_map_init(&s->conns);
  tarn_map_init(&s->pending);
  tarn_map_init(&s->congested);
  pthread_mutex_init(&s->out_mutex, NULL);
  tarn__refs_init(s);
  tarn__spread_init(s);
  pthread_mutex_init(&s->offers_mutex, NULL);
  tarn__jobs_init(&s->jobs);
  tarn_map_init(&s->forwards);
  s->started_ns = tarn_clock_ns();
  s->id = config->driver == NULL ? TARN_DRIVER : 0;
  randombytes_buf(&s->incarnation, sizeof(s->incarnation));
  s->incarnation &= INT64_MAX; /* travels as a MessagePack integer that every reader can hold */
  uv_async_init(s->loop, &s->room, room_later);
  s->room.data = s;
  uv_async_init(s->loop, &s->more, on_more);
  s->more.data = s;
  uv_timer_init(s->loop, &s->overdue);
  s->overdue.data = s;
  uv_timer_init(s->loop, &s->heartbeat);
  s->heartbeat.data = s;
  uv_timer_init(s->loop, &s->news);
  s->news.data = s;
  s->handles = 5;
  tarn_map_init(&s->lenders);
  tarn_map_init(&s->fetches);
  tarn__lend_open(s);
  tarn__refs_open(s);
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

void tarn_service_destroy(tarn_service_t *s) {
  s->stopping = true;
  tarn_service_stop_children(s, 0);
  if (s->net != NULL) {
    tarn_net_close(s->net, on_net_closed, s);
    while (!s->net_closed) { uv_run(s->loop, UV_RUN_ONCE); }
  }
  tarn__members_free(s);
  uv_close((uv_handle_t *)&s->room, on_own_closed);
  uv_close((uv_handle_t *)&s->more, on_own_closed);
  uv_close((uv_handle_t *)&s->overdue, on_own_closed);
  uv_close((uv_handle_t *)&s->heartbeat, on_own_closed);
  uv_close((uv_handle_t *)&s->news, on_own_closed);
  tarn__lend_close(s);
  tarn__refs_close(s);
  if (s->has_life) { uv_close((uv_handle_t *)&s->life, on_own_closed); }
  while (s->handles > 0) { uv_run(s->loop, UV_RUN_ONCE); }
  tarn__borrow_close(s);
  if (s->config.life_fd >= 0) { close(s->config.life_fd); }
  for (tarn_event_t *e = tarn_service_take_events(s), *next; e != NULL; e = next) {
    next = e->next;
    tarn_event_free(e);
  }
  tarn__outbox_clear(s);
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) { tarn_free(c); }
  tarn_map_clear(&s->conns);
  tarn_map_clear(&s->pending);
  tarn_map_clear(&s->congested);
  tarn__spread_free(s);
  tarn__refs_free(s);
  pthread_mutex_destroy(&s->out_mutex);
  tarn__offers_free(s);
  tarn__observe_free(s);
  tarn__jobs_free(&s->jobs);
  pthread_mutex_destroy(&s->offers_mutex);
  sodium_free(s->secret);
  if (s->secret_path != NULL) { unlink(s->secret_path); }
  tarn_free(s->secret_path);
  tarn_free(s);
}

const char *tarn_service_secret_path(const tarn_service_t *s) { return s->secret_path; }

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

void tarn_service_stop_children(tarn_service_t *s, uint32_t grace_ms) {
  s->stopping = true;
  tarn_service_flush_all(s);
  for (tarn_list_t *l = s->children.next; l != &s->children; l = l->next) {
    tarn_child_t *c = TARN_CONTAINER(l, tarn_child_t, link);
    if (grace_ms == 0 || c->exited || tarn__child_member(c, true) == NULL) {
      tarn__child_kill(c);
      continue;
    }
    for (tarn_member_t *m; (m = tarn__child_member(c, false)) != NULL;) {
      tarn__tell_stop(s, m, grace_ms);
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
  tarn__event_post(s, tarn__event_create(TARN_EVENT_STOP));
}

void tarn_service_get_stats(tarn_service_t *s, tarn_service_stats_t *out) {
  out->tcp_in_bytes = atomic_load_explicit(&s->in_bytes, memory_order_relaxed);
  out->tcp_out_bytes = atomic_load_explicit(&s->out_bytes, memory_order_relaxed);
  out->in_messages = atomic_load_explicit(&s->in_messages, memory_order_relaxed);
  out->out_messages = atomic_load_explicit(&s->out_messages, memory_order_relaxed);
  out->mapped_in_bytes = atomic_load_explicit(&s->mapped_in_bytes, memory_order_relaxed);
  out->mapped_in_count = atomic_load_explicit(&s->mapped_in_count, memory_order_relaxed);
}

void tarn_service_set_lua_bytes(tarn_service_t *s, const uint64_t *counter) {
  atomic_store(&s->lua_bytes, counter);
}
uint32_t tarn_service_id(const tarn_service_t *s) { return s->id; }
