/* Who has fallen silent. A worker says `member.alive` to process 1 five times within the time after which it is to count as lost (silence_s of addprocs, which
 * it hears on its command line); whoever runs the loop says it, so a worker that computes is heard too. Process 1 counts: a process
 * of which no byte has come for so long, on any connection, is lost. It is stopped, cut off, or its machine is gone; a closed connection is seen at once, elsewhere.
 *
 * What is counted is our own time as far as we were there to listen: a tick of the timer adds no more than two of its periods, so that nobody is lost
 * because we were stopped or asleep. A connection that we do not read, because too much of it waits for Lua, says nothing about its process.
 *
 * The other direction: a worker takes the end of its standard input, not silence, for process 1's end. */
#include "base/clock.h"
#include "service-private.h"

#define BEATS 5u  /* of a worker in its silence_ms */
#define LOOKS 10u /* of process 1 */
#define PERIOD_MIN_MS 10u

static void on_alive_due(uv_timer_t *t) {
  tarn_service_t *s = t->data;
  const tarn_member_t *driver = tarn__member_get(s, TARN_DRIVER);
  if (driver == NULL || driver->conn == NULL) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, 16);
  if (tarn_mp_write_array(&b, 0) == 0) {
    tarn__send_notice(s, driver->conn, "member.alive", &b);
  } /* no memory: the next will be said */
  tarn_buf_release(&b);
}

/* Mark the members of whom something has come since the last look. */
static void hear(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (c->foreign || c->pid == 0 || c->peer == NULL) { continue; }
    uint64_t received = tarn_peer_received(c->peer);
    if (received == c->heard && !c->paused) { continue; }
    c->heard = received;
    tarn_member_t *m = tarn__member_get(s, c->pid);
    if (m != NULL) { m->silent_ms = 0; }
  }
}

/* A member that has been silent for too long; null: none. */
static tarn_member_t *find_silent(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    if (m->silence_ms > 0 && m->silent_ms >= m->silence_ms) { return m; }
  }
  return NULL;
}

static void on_look(uv_timer_t *t) {
  tarn_service_t *s = t->data;
  uint64_t now = uv_now(s->loop), period = uv_timer_get_repeat(t);
  uint64_t passed = now - s->looked_ms;
  s->looked_ms = now;
  if (passed > 2 * period) { passed = 2 * period; }
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    m->silent_ms += passed;
  }
  hear(s);
  for (tarn_member_t *m; !s->stopping && (m = find_silent(s)) != NULL;) { /* each is removed */
    char reason[64];
    snprintf(reason, sizeof(reason), "silent for %g s", (double)m->silence_ms / 1000);
    tarn_log(TARN_LOG_WARN, "process %u is lost: %s", m->id, reason);
    tarn__member_lost(s, m->id, reason);
  }
}

static void every(tarn_service_t *s, uv_timer_cb what, uint64_t ms) {
  if (ms < PERIOD_MIN_MS) { ms = PERIOD_MIN_MS; }
  uint64_t now = uv_timer_get_repeat(&s->heartbeat);
  if (now != 0 && now <= ms) { return; } /* often enough */
  uv_timer_start(&s->heartbeat, what, ms, ms);
}

void tarn__heartbeat_say(tarn_service_t *s) {
  every(s, on_alive_due, s->config.silence_ms / BEATS);
}

void tarn__heartbeat_watch(tarn_service_t *s, tarn_member_t *m, uint64_t silence_ms) {
  m->silence_ms = silence_ms;
  m->silent_ms = 0;
  if (uv_timer_get_repeat(&s->heartbeat) == 0) { s->looked_ms = uv_now(s->loop); }
  every(s, on_look, silence_ms / LOOKS);
}
