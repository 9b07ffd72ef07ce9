/* Who has fallen silent. Processes that have a connection say `member.alive` to each other on it, five times within the time after which
 * silence counts (silence_s of addprocs, which a worker hears on its command line); whoever runs the loop says it, so a process that computes
 * is heard too. It says how many bytes have come from the other: so each knows not only whether it hears the other, but also whether
 * it is heard. A closed connection is seen at once, elsewhere.
 *
 * Process 1 loses a worker that it has not heard for so long, or that has not heard it: it is stopped, cut off, or its machine is gone. A worker that does not
 * hear another, or is not heard, tells process 1, which decides (parted.c). A worker does not judge process 1: it takes the end
 * of its standard input, not silence, for process 1's end.
 *
 * What is counted is our own time as far as we were there to listen: a tick of the timer adds no more than two of its periods, so that nobody is lost
 * because we were stopped or asleep. A connection that we do not read, because too much of it waits for Lua, says nothing about its process, and the
 * other end is told so. What is queued before a beat does not make it late: every byte that arrives is a sign.
 *
 * A beat also says how many bytes of large values have been sent and have come, on their own lane. Where some are under way and none comes for so
 * long, though the receiver has room, that lane is dead (a tunnel, a firewall) while this one lives: the connection is broken off, as if it had been closed, and
 * the next call opens another. Of those to process 1 that costs the worker, and process 1 judges both directions. */
#include "service-private.h"

#define BEATS 5u  /* in silence_ms */
#define LOOKS 10u /* ticks: every second one is a beat */
#define PERIOD_MIN_MS 10u
#define STUCK "nothing of a large value has come for %g s"

static bool is_watched(const tarn_service_t *s, const tarn_conn_t *c) {
  return c->up && !c->foreign && c->pid != 0 && c->pid != s->id && !tarn_peer_gone(c->peer);
}

void tarn__heartbeat_say(tarn_service_t *s, tarn_conn_t *c) {
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  tarn_net_bulk_t bulk = tarn_peer_bulk(c->peer);
  if (tarn_mp_write_array(&b, 6) == 0 && tarn_mp_write_uint(&b, tarn_peer_received(c->peer)) == 0 &&
      tarn_mp_write_bool(&b, !c->paused) == 0 &&
      tarn_mp_write_uint(&b, s->config.silence_ms) == 0 && tarn_mp_write_uint(&b, bulk.sent) == 0 &&
      tarn_mp_write_uint(&b, bulk.received) == 0 && tarn_mp_write_bool(&b, bulk.waits) == 0) {
    tarn__send_notice(s, c, "member.alive", &b);
  } /* no memory: the next will be said */
  tarn_buf_release(&b);
}

/* For how long nothing of what is under way has come. */
static void follow(tarn_flow_t *f, uint64_t sent, uint64_t received, bool waits, uint64_t since) {
  bool still = received == f->received && received < sent && !waits;
  f->still_ms = still ? f->still_ms + since : 0;
  f->received = received;
}

void tarn__heartbeat_heard(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  uint64_t received = 0, silence_ms = 0;
  bool reads = true;
  tarn_net_bulk_t theirs = {0}, ours = tarn_peer_bulk(c->peer);
  if (tarn_mp_read_uint(r, UINT64_MAX, &received) != 0 || tarn_mp_read_bool(r, &reads) != 0 ||
      tarn_mp_read_uint(r, UINT32_MAX, &silence_ms) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &theirs.sent) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &theirs.received) != 0 ||
      tarn_mp_read_bool(r, &theirs.waits) != 0) {
    return;
  }
  /* No report counts for more than the time between two, however long it was under way. */
  uint64_t since = c->unsaid_ms < silence_ms / BEATS ? c->unsaid_ms : silence_ms / BEATS;
  c->deaf_ms = received == c->arrived && reads ? c->deaf_ms + since : 0;
  follow(&c->bulk_out, ours.sent, theirs.received, theirs.waits, since);
  follow(&c->bulk_in, theirs.sent, ours.received, ours.waits, since);
  c->unsaid_ms = 0;
  c->arrived = received;
  if (c->silence_ms > 0 && s->id != TARN_DRIVER && silence_ms > c->silence_ms) {
    c->silence_ms = silence_ms;
  }
}

static void tell_parted(tarn_service_t *s, uint32_t pid, bool parted) {
  const tarn_member_t *driver = tarn__member_get(s, TARN_DRIVER);
  if (driver == NULL || driver->conn == NULL) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  if (tarn_mp_write_array(&b, 2) == 0 && tarn_mp_write_uint(&b, pid) == 0 &&
      tarn_mp_write_bool(&b, parted) == 0) {
    tarn__send_notice(s, driver->conn, "member.parted", &b);
  }
  tarn_buf_release(&b);
}

void tarn__heartbeat_parted(tarn_service_t *s, uint32_t pid, bool parted) {
  tarn_member_t *m = tarn__member_get(s, pid);
  if (s->id == TARN_DRIVER || pid == TARN_DRIVER || m == NULL || m->parted == parted) { return; }
  m->parted = parted;
  tell_parted(s, pid, parted);
}

/* It has been saying, and says, that it hears nothing. */
static bool is_deaf(const tarn_conn_t *c) {
  return c->deaf_ms >= c->silence_ms && c->silent_ms <= c->silence_ms / 2;
}

static bool is_silent(const tarn_conn_t *c) { return c->silent_ms >= c->silence_ms; }

static bool is_stuck(const tarn_conn_t *c) {
  return c->bulk_out.still_ms >= c->silence_ms || c->bulk_in.still_ms >= c->silence_ms;
}

/* Process 1: the member is lost. */
static void lose(tarn_service_t *s, const tarn_conn_t *c) {
  uint32_t id = c->pid;
  char reason[64];
  snprintf(reason, sizeof(reason),
           is_silent(c) ? "silent for %g s"
           : is_deaf(c) ? "has heard nothing for %g s"
                        : STUCK,
           (double)c->silence_ms / 1000);
  tarn_log(TARN_LOG_WARN, "process %u is lost: %s", id, reason);
  tarn__member_lost(s, id, reason);
}

/* Two workers: their calls fail, and the next one connects again. */
static void break_off(const tarn_conn_t *c) {
  tarn_error_t reason;
  tarn_error_set(&reason, TARN_ELOST, STUCK, (double)c->silence_ms / 1000);
  tarn_peer_close(c->peer, &reason);
}

/* One that this process does not hear, or that does not hear it; null: none. Workers tell process 1 instead. */
static const tarn_conn_t *look(tarn_service_t *s, uint64_t passed) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (!is_watched(s, c)) { continue; }
    uint64_t received = tarn_peer_received(c->peer);
    tarn__idle_look(s, c, passed);
    c->silent_ms = received != c->heard || c->paused ? 0 : c->silent_ms + passed;
    c->unsaid_ms += passed;
    if (c->paused) { c->deaf_ms = 0; }
    c->heard = received;
    const tarn_member_t *m = tarn__member_get(s, c->pid);
    /* Where both have connected at once, each judges the one on which it sends. */
    if (c->silence_ms == 0 || m == NULL || m->conn != c) { continue; }
    bool parted = is_silent(c) || is_deaf(c);
    if (s->id == TARN_DRIVER && (parted || is_stuck(c))) { return c; }
    if (c->pid != TARN_DRIVER && is_stuck(c)) { break_off(c); }
    tarn__heartbeat_parted(s, c->pid, parted);
  }
  return NULL;
}

static void on_tick(uv_timer_t *t) {
  tarn_service_t *s = t->data;
  uint64_t now = uv_now(s->loop), period = uv_timer_get_repeat(t);
  uint64_t passed = now - s->looked_ms;
  s->looked_ms = now;
  if (passed > 2 * period) { passed = 2 * period; }
  const tarn_conn_t *lost;
  for (uint64_t more = passed; !s->stopping && (lost = look(s, more)) != NULL; more = 0) {
    lose(s, lost);
  }
  tarn__parted_decide(s, passed);
  tarn__spread_tick(s);
  s->beat = !s->beat;
  if (!s->beat) { return; }
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (is_watched(s, c)) { tarn__heartbeat_say(s, c); }
  }
}

void tarn__heartbeat_start(tarn_service_t *s, uint64_t silence_ms) {
  uint64_t ms = silence_ms / LOOKS > PERIOD_MIN_MS ? silence_ms / LOOKS : PERIOD_MIN_MS;
  uint64_t period = uv_timer_get_repeat(&s->heartbeat);
  if (period != 0 && period <= ms) { return; } /* often enough */
  if (period == 0) { s->looked_ms = uv_now(s->loop); }
  uv_timer_start(&s->heartbeat, on_tick, ms, ms);
}
