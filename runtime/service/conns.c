/* Connections: what they are to the service when they are proven, and what ends with them. */
#include "base/clock.h"
#include "frames-private.h"

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

/* A worker: the connection to process 1 is there, whose answer has told us who we are. */
static void joined(tarn_service_t *s, tarn_conn_t *c, const tarn_net_identity_t *who) {
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
  int rc = tarn_mp_write_array(&b, 3);
  rc |= tarn_mp_write_cstr(&b, s->address);
  rc |= tarn_mp_write_uint(&b, s->config.silence_ms);
  rc |= tarn_mp_write_uint(&b, s->config.launch);
  if (rc == 0) { tarn__send_notice(s, c, "member.joined", &b); }
  tarn__heartbeat_start(s, s->config.silence_ms);
  tarn__heartbeat_start(s, TARN__IDLE_LOOKS * s->config.idle_ms); /* which may be less */
}

/* It is lost for all of us: it may have been stopped meanwhile, and not know yet. */
static bool comes_too_late(tarn_service_t *s, uint32_t pid) {
  return tarn__member_get(s, pid) == NULL && tarn__refs_is_lost(s, pid);
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
  if (comes_too_late(s, who->id)) {
    c->pid = 0;
    tarn_peer_close(peer, NULL);
    return;
  }
  if (s->id == 0) {
    joined(s, c, who);
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
  if (c->pid != 0) {
    tarn__lend_conn_down(s, c);
    tarn__spread_forget(s, c->pid);
  }
  if (c->resting) {
    tarn__lend_let_go(s, c->pid);
    tarn__borrow_let_go(s, c->pid);
  }
  tarn_buf_release(&c->held);
  tarn_free(c);
}

static void on_drained(void *user, tarn_peer_t *peer) {
  tarn_service_t *s = user;
  tarn_conn_t *c = tarn_peer_data(peer);
  if (c != NULL && c->pid != 0) { drained(s, c->pid); }
  if (c != NULL) { tarn__frames_unhold(s, c); }
}

const tarn_net_callbacks_t tarn__net_callbacks = {
    .on_join = on_join,
    .on_up = on_up,
    .on_down = on_down,
    .on_frame = tarn__on_frame,
    .on_bulk_begin = tarn__on_bulk_begin,
    .on_bulk = tarn__on_bulk,
    .on_drained = on_drained,
};
