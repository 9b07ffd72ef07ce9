/* Who belongs to the cluster. Process 1 decides; it tells all others who comes and who is gone. A worker that joins is told of all
 * members; connections between workers open when first needed. */
#include <stdlib.h>
#include <string.h>
#include "service-private.h"

// After the closed connection of a child that has not ended: for its exit status, which says why.
#define GRACE_STATUS_MS 500

tarn_member_t *tarn__member_get(tarn_service_t *s, uint32_t id) {
  return tarn_map_get(&s->members, id);
}

/* Any of the others may connect, all at once when they begin to talk to each other. */
static void expect_members(tarn_service_t *s) {
  if (s->net != NULL && s->members.count > 0) { tarn_net_expect(s->net, s->members.count - 1); }
}

tarn_member_t *tarn__member_add(tarn_service_t *s, uint32_t id, uint64_t incarnation,
                                int64_t os_pid, const char *address) {
  tarn_member_t *m = tarn__member_get(s, id);
  if (m != NULL) { return m; }
  m = tarn_calloc(1, sizeof(*m));
  if (m == NULL || tarn_map_set(&s->members, id, m) != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: process %u cannot become a member", id);
    tarn_free(m);
    return NULL;
  }
  m->id = id;
  m->incarnation = incarnation;
  m->os_pid = os_pid;
  snprintf(m->address, sizeof(m->address), "%s", address);
  expect_members(s);
  return m;
}

int64_t tarn_service_os_pid(tarn_service_t *s, uint32_t id) {
  const tarn_member_t *m = tarn__member_get(s, id);
  return m != NULL ? m->os_pid : 0;
}

static void post_member(tarn_service_t *s, tarn_event_kind_t kind, const tarn_member_t *m,
                        const char *reason) {
  tarn_event_t *e = tarn__event_create(kind);
  if (e == NULL) { return; }
  e->pid = m->id;
  e->os_pid = m->os_pid;
  e->launch = m->launch;
  e->text = reason != NULL ? tarn_strdup(reason) : NULL;
  tarn__event_post(s, e);
}

static void on_grace_closed(uv_handle_t *h) { tarn_free(h); }

static void free_grace(tarn_member_t *m) {
  if (m->grace != NULL) { uv_close((uv_handle_t *)m->grace, on_grace_closed); }
  m->grace = NULL;
}

void tarn__pending_fail(tarn_service_t *s, uint32_t pid, const char *reason) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_ELOST, "process %u is lost: %s", pid, reason);
  size_t count;
  do { /* collected first: failing one removes it from the map that is being walked */
    uint64_t ids[1024], msgid = 0;
    size_t cursor = 0;
    count = 0;
    for (void *v; count < 1024 && (v = tarn_map_next(&s->pending, &cursor, &msgid)) != NULL;) {
      if ((uintptr_t)v == (uintptr_t)pid + 1) { ids[count++] = msgid; }
    }
    for (size_t i = 0; i < count; i++) {
      tarn_map_remove(&s->pending, ids[i]);
      tarn__event_fail(s, (uint32_t)ids[i], pid, &err);
    }
  } while (count == 1024);
}

/* Nothing that it still sends is listened to. */
static void close_all(tarn_service_t *s, uint32_t id, const char *reason) {
  size_t cursor = 0;
  uint64_t token = 0;
  tarn_error_t err;
  tarn_error_set(&err, TARN_ELOST, "%s", reason);
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (c->pid != id || c->foreign) { continue; }
    c->pid = 0;
    tarn_peer_close(c->peer, &err); /* calls nobody back */
  }
}

void tarn__member_lost(tarn_service_t *s, uint32_t id, const char *reason) {
  tarn_member_t *m = tarn_map_remove(&s->members, id);
  expect_members(s);
  close_all(s, id, reason);
  tarn__parted_forget(s, id);
  tarn__refs_lost(s, id);
  if (m == NULL) { return; }
  tarn_log(TARN_LOG_DEBUG, "process %u is lost: %s", id, reason);
  free_grace(m);
  tarn__news_drop(s, m);
  tarn__borrow_forget(s, id);
  tarn__spread_forget(s, id);
  (void)tarn__congested_clear(s, id); /* the event tells who waits */
  tarn__pending_fail(s, id, reason);
  if (s->id == TARN_DRIVER) {
    tarn_buf_t b;
    tarn_buf_init(&b, 4096);
    if (tarn_mp_write_array(&b, 2) == 0 && tarn_mp_write_uint(&b, id) == 0 &&
        tarn_mp_write_cstr(&b, reason) == 0) {
      tarn__news_send(s, "member.lost", &b, id);
    }
    tarn_buf_release(&b);
  }
  tarn_child_t *child = m->child;
  if (child != NULL && tarn__child_member(child, true) == NULL && !child->exited) {
    if (child->several) {
      tarn__child_end_input(child);
    } /* what has carried them may wait for it */
    if (!child->stopping) { tarn__child_kill(child); }
  }
  if (m->address[0] != '\0') {
    post_member(s, TARN_EVENT_LOST, m, reason);
  } /* else nobody was told that it had come */
  tarn_free(m);
}

static void on_grace(uv_timer_t *t) {
  tarn_member_t *m = t->data;
  tarn_service_t *s = uv_handle_get_loop((uv_handle_t *)t)->data;
  tarn__member_lost(s, m->id, m->stopping ? "stopped" : "its connection was closed");
}

#define BEYOND_TUNNEL                                                                              \
  " (an address of its own host: with tunnel = true workers of different hosts do not reach each " \
  "other)"

/* The driver is on loopback here but on another host; so may this one be. */
static bool beyond_tunnel(tarn_service_t *s, const tarn_member_t *m) {
  const tarn_member_t *driver = tarn__member_get(s, TARN_DRIVER);
  const tarn_conn_t *c = driver != NULL ? driver->conn : NULL;
  return c != NULL && tarn_net_scope(m->address) == TARN_NET_LOOPBACK &&
         tarn_net_scope(driver->address) == TARN_NET_LOOPBACK &&
         tarn_net_self(s->net)->host[0] != '\0' && tarn_peer_identity(c->peer)->host[0] != '\0' &&
         !tarn__lend_same_host(s, c);
}

void tarn__member_down(tarn_service_t *s, tarn_member_t *m, const char *reason) {
  if (s->id == TARN_DRIVER) {
    if (s->stopping || m->child == NULL || m->child->exited) {
      tarn__member_lost(s, m->id,
                        m->stopping                            ? "stopped"
                        : m->child != NULL && m->child->exited ? m->child->reason
                                                               : reason);
      return;
    }
    if (m->grace != NULL) { return; }
    m->grace = tarn_malloc(sizeof(*m->grace));
    if (m->grace == NULL) {
      tarn__member_lost(s, m->id, reason);
      return;
    }
    uv_timer_init(s->loop, m->grace);
    m->grace->data = m;
    uv_timer_start(m->grace, on_grace, GRACE_STATUS_MS, 0);
    return;
  }
  if (m->id == TARN_DRIVER) {
    if (!s->stopping && !s->stop_told) { s->config.on_orphan(s->config.user, reason); }
    return;
  }
  char text[TARN_ERROR_TEXT];
  snprintf(text, sizeof(text), "%s%s", reason, beyond_tunnel(s, m) ? BEYOND_TUNNEL : "");
  tarn__pending_fail(s, m->id, text); /* the driver says whether it is gone for good */
}

tarn_conn_t *tarn__member_conn(tarn_service_t *s, uint32_t id, tarn_error_t *err) {
  tarn_member_t *m = tarn__member_get(s, id);
  if (m == NULL) {
    tarn_error_set(err, TARN_ELOST, "there is no process %u (tarn.procs() lists those there are)",
                   id);
    return NULL;
  }
  if (id == s->id) { /* what was another's has come here since who asks has looked */
    tarn_service_moved_error(err, (tarn_place_t){.owner = id});
    return NULL;
  }
  if (m->conn != NULL) { return m->conn; }
  if (m->grace != NULL) {
    tarn_error_set(err, TARN_ELOST, "process %u is lost: its connection was closed", id);
    return NULL;
  }
  if (m->address[0] == '\0') {
    tarn_error_set(err, TARN_ELOST, "process %u is lost: it has no address", id);
    return NULL;
  }
  tarn_conn_t *c = tarn_calloc(1, sizeof(*c));
  if (c == NULL) {
    tarn_error_set(err, TARN_ENOMEM, "out of memory for a connection to process %u", id);
    return NULL;
  }
  c->token = s->next_token++;
  c->pid = id;
  if (tarn_map_set(&s->conns, c->token, c) != 0 ||
      tarn_net_connect(s->net, m->address, id, m->incarnation, &c->peer, err) != 0) {
    tarn_map_remove(&s->conns, c->token);
    tarn_free(c);
    if (err->code == TARN_EINVAL) { err->code = TARN_ELOST; } /* an address that is none */
    return NULL;
  }
  tarn_peer_set_data(c->peer, c);
  tarn_peer_set_address(c->peer, m->address);
  m->conn = c;
  return c;
}

/* A worker has told its address: it is a member from here on. Tell it of all, and all of it. */
static void welcome(tarn_service_t *s, tarn_conn_t *c, tarn_member_t *m) {
  tarn_buf_t all;
  tarn_buf_init(&all, 16u << 20);
  uint32_t count = 0;
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *o; (o = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    count += o->address[0] != '\0' && o->id != m->id;
  }
  cursor = 0;
  int rc = tarn_mp_write_array(&all, count * 4);
  for (tarn_member_t *o; (o = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    if (o->address[0] != '\0' && o->id != m->id) { rc |= tarn__news_write(&all, o); }
  }
  tarn_buf_t lost;
  tarn_buf_init(&lost, 16u << 20);
  if (rc == 0) { rc = tarn__refs_write_lost(s, &lost); }
  if (rc == 0) {
    tarn__send_notice(s, c, "member.welcome", &all);
    tarn__send_notice(s, c, "member.gone", &lost);
    tarn__news_add(s, m);
  }
  tarn_buf_release(&lost);
  tarn_buf_release(&all);
}

static void set_address(tarn_member_t *m, const char *address) {
  snprintf(m->address, sizeof(m->address), "%s", address);
  if (m->conn != NULL) { tarn_peer_set_address(m->conn->peer, m->address); }
}

static int read_member(tarn_service_t *s, tarn_mp_reader_t *r) {
  uint64_t id = 0, incarnation = 0, os_pid = 0;
  const uint8_t *text = NULL;
  uint32_t length = 0;
  if (tarn_mp_read_uint(r, UINT32_MAX, &id) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &incarnation) != 0 ||
      tarn_mp_read_uint(r, INT64_MAX, &os_pid) != 0 || tarn_mp_read_bytes(r, &text, &length) != 0 ||
      length >= TARN_NET_ADDRESS_BYTES) {
    return TARN_EPROTO;
  }
  char address[TARN_NET_ADDRESS_BYTES] = {0};
  memcpy(address, text, length);
  tarn_member_t *m = tarn__member_get(s, (uint32_t)id);
  if (m !=
      NULL) { /* it is to be reached elsewhere by now; of ourselves and process 1 we know better */
    if (m->id != s->id && m->id != TARN_DRIVER && m->incarnation == incarnation) {
      set_address(m, address);
    }
    return 0;
  }
  m = tarn__member_add(s, (uint32_t)id, incarnation, (int64_t)os_pid, address);
  if (m != NULL) { post_member(s, TARN_EVENT_JOINED, m, NULL); }
  return 0;
}

/* A worker listens elsewhere too, and is to be reached there from now on. */
static void member_moved(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  const uint8_t *text = NULL;
  uint32_t length = 0;
  tarn_member_t *m = tarn__member_get(s, c->pid);
  if (s->id != TARN_DRIVER || m == NULL || m->address[0] == '\0' ||
      tarn_mp_read_bytes(r, &text, &length) != 0 || length >= TARN_NET_ADDRESS_BYTES) {
    return;
  }
  char address[TARN_NET_ADDRESS_BYTES] = {0};
  memcpy(address, text, length);
  set_address(m, address);
  tarn__news_add(s, m);
}

static void member_joined(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  const uint8_t *text = NULL;
  uint32_t length = 0;
  uint64_t silence_ms = 0, launch = 0;
  tarn_member_t *m = tarn__member_get(s, c->pid);
  if (s->id != TARN_DRIVER || m == NULL || m->address[0] != '\0' ||
      tarn_mp_read_bytes(r, &text, &length) != 0 || length >= TARN_NET_ADDRESS_BYTES ||
      tarn_mp_read_uint(r, UINT32_MAX, &silence_ms) != 0 || silence_ms == 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &launch) != 0) {
    return;
  }
  memcpy(m->address, text, length);
  m->address[length] = '\0';
  tarn_peer_set_address(c->peer, m->address);
  tarn_child_t *child = tarn__child_find(s, launch);
  if (child != NULL && child->exited) { /* a last word; its connection ends presently */
    m->address[0] = '\0';
    return;
  }
  m->launch = launch;
  m->child = child;
  if (child != NULL) { tarn__child_joined(child, m->id); }
  c->silence_ms = silence_ms;
  tarn__heartbeat_start(s, silence_ms);
  welcome(s, c, m);
  post_member(s, TARN_EVENT_JOINED, m, NULL);
  tarn__reach_widen(s, m);
}

int tarn__member_notice(tarn_service_t *s, tarn_conn_t *c, const char *method,
                        tarn_mp_reader_t *r) {
  if (strcmp(method, "member.joined") == 0) {
    member_joined(s, c, r);
    return 1;
  }
  if (strcmp(method, "member.moved") == 0) {
    member_moved(s, c, r);
    return 1;
  }
  if (strcmp(method, "member.alive") == 0) {
    tarn__heartbeat_heard(s, c, r);
    return 1;
  }
  if (strcmp(method, "member.idle") == 0) {
    tarn__idle_asked(s, c, r);
    return 1;
  }
  if (strcmp(method, "member.rest") == 0) {
    tarn__idle_agreed(s, c, r);
    return 1;
  }
  if (strcmp(method, "member.parted") == 0) {
    tarn__parted_said(s, c->pid, r);
    return 1;
  }
  if (c->pid != TARN_DRIVER || s->id == TARN_DRIVER) { return 1; } /* only the driver decides */
  if (strcmp(method, "member.listen") == 0) {
    tarn__reach_notice(s, r);
  } else if (strcmp(method, "member.welcome") == 0 || strcmp(method, "member.up") == 0) {
    while (r->at < r->end && read_member(s, r) == 0) {}
  } else if (strcmp(method, "member.gone") == 0) { /* before our time */
    uint64_t id = 0;
    while (r->at < r->end && tarn_mp_read_uint(r, UINT32_MAX, &id) == 0) {
      tarn__refs_lost(s, (uint32_t)id);
    }
  } else if (strcmp(method, "member.lost") == 0) {
    uint64_t id = 0;
    const uint8_t *text = NULL;
    uint32_t length = 0;
    char reason[200] = {0};
    if (tarn_mp_read_uint(r, UINT32_MAX, &id) == 0 && tarn_mp_read_bytes(r, &text, &length) == 0) {
      memcpy(reason, text, length < sizeof(reason) ? length : sizeof(reason) - 1);
      tarn__member_lost(s, (uint32_t)id, reason);
    }
  }
  return 1;
}

void tarn__members_free(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    free_grace(m);
    tarn_free(m);
  }
  tarn_map_clear(&s->members);
  tarn__partings_free(s);
}
