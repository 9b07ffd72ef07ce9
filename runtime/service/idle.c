/* Connections between workers are opened on first use, and closed when nothing has gone over them for idle_ms (idle_s of addprocs), so that who has
 * once talked to all does not hold a descriptor for each for ever. Such an end is no break: nothing was under way, and both know it.
 *
 * On a connection that is idle, as the one with the lower id sees it, that one says `member.idle`: how many messages it has sent there, and how many have come.
 * If these are just what has come to the other and what that has sent, and nothing is open between the two there either (a request, a loan, what is to be said
 * of references, objects that are being spread), then the other *withdraws*: it begins nothing on that connection any more, and says `member.rest`. On that the
 * first withdraws and closes it, unless it has sent something since it asked: then it has changed its mind, and what comes from it tells the other so.
 * A message is lost by that nowhere: what the other had sent had come before it was asked, and of what the first sends it knows itself.
 *
 * Who has withdrawn and has something to say calls the other anew, as at first; then the two may for a moment have two connections, which all that uses them
 * bears. What it says of references begins with `refs.here` (docs/REFERENCES.md). [loop] */
#include <string.h>
#include "service-private.h"

#define SIGN "member." /* how the methods begin that are no use of a connection */

bool tarn__idle_is_sign(const char *method, size_t size) {
  return size >= sizeof(SIGN) - 1 && memcmp(method, SIGN, sizeof(SIGN) - 1) == 0;
}

static void count(tarn_traffic_t *t, uint64_t type) {
  t->messages++;
  t->requests += type == 0;
  t->responses += type == 1;
}

void tarn__idle_sent(tarn_conn_t *c, int type) { count(&c->out, (uint64_t)type); }

void tarn__idle_came(tarn_service_t *s, tarn_conn_t *c, uint64_t type, const uint8_t *method,
                     size_t method_size) {
  if (type == 2 && tarn__idle_is_sign((const char *)method, method_size)) { return; }
  count(&c->in, type);
  if (!c->resting) { return; }
  c->resting = false; /* the other end has changed its mind */
  tarn_member_t *m = tarn__member_get(s, c->pid);
  if (m != NULL && m->conn == NULL) { m->conn = c; }
}

/* Only workers among each other: for process 1 a connection's end is its process's. */
static bool may_rest(const tarn_service_t *s, const tarn_conn_t *c) {
  return s->id > TARN_DRIVER && c->pid > TARN_DRIVER && !c->foreign && c->up && !s->stopping &&
         !tarn_peer_gone(c->peer);
}

/* As far as this end knows, nobody waits for anything that is to come or go on it, or hangs on it. */
static bool is_at_rest(tarn_service_t *s, const tarn_conn_t *c) {
  const tarn_member_t *m = tarn__member_get(s, c->pid);
  bool answered = c->out.requests == c->in.responses && c->in.requests == c->out.responses;
  bool spreading = s->spread.objects.count > 0 || s->spread.asked.count > 0 ||
                   !tarn_list_empty(&s->spread.copies);
  return m != NULL && !m->parted && answered && !c->paused && !c->bulk_waiting && !spreading &&
         !tarn_pool_lends_to(s->pool, c->pid) && tarn__refs_rests(s, c->pid);
}

/* Another connection to the same process. */
static tarn_conn_t *another(tarn_service_t *s, const tarn_conn_t *c) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *o; (o = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (o != c && o->pid == c->pid && may_rest(s, o) && !o->resting) { return o; }
  }
  return NULL;
}

static void withdraw(tarn_service_t *s, tarn_conn_t *c) {
  tarn_member_t *m = tarn__member_get(s, c->pid);
  if (m->conn == c) { m->conn = another(s, c); }
  tarn__refs_leave(s, c);
  c->resting = true;
}

static void say(tarn_service_t *s, tarn_conn_t *c, const char *method, const uint64_t *figures,
                uint32_t n) {
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, n);
  for (uint32_t i = 0; i < n; i++) { rc |= tarn_mp_write_uint(&b, figures[i]); }
  if (rc == 0) { tarn__send_notice(s, c, method, &b); } /* no memory: it is asked again */
  tarn_buf_release(&b);
}

void tarn__idle_look(tarn_service_t *s, tarn_conn_t *c, uint64_t passed) {
  uint64_t sum = c->out.messages + c->in.messages;
  c->idle_ms = sum == c->idle_sum ? c->idle_ms + passed : 0;
  c->idle_sum = sum;
  if (!may_rest(s, c) || s->id > c->pid || c->resting || c->idle_ms < s->config.idle_ms ||
      !is_at_rest(s, c)) {
    return;
  }
  c->idle_ms = 0; /* if the other has a reason against it, that may last */
  const uint64_t figures[] = {c->out.messages, c->in.messages};
  say(s, c, "member.idle", figures, 2);
}

void tarn__idle_asked(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  uint64_t sent = 0, come = 0;
  if (tarn_mp_read_uint(r, UINT64_MAX, &sent) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &come) != 0) {
    return;
  }
  if (!may_rest(s, c) || s->id < c->pid || sent != c->in.messages || come != c->out.messages ||
      !is_at_rest(s, c)) {
    return;
  }
  withdraw(s, c);
  say(s, c, "member.rest", &sent, 1);
}

void tarn__idle_agreed(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  uint64_t sent = 0;
  if (tarn_mp_read_uint(r, UINT64_MAX, &sent) != 0 || !may_rest(s, c) || s->id > c->pid ||
      sent != c->out.messages || !is_at_rest(s, c)) {
    return;
  }
  withdraw(s, c);
  tarn_error_t reason;
  tarn_error_set(&reason, TARN_ELOST, "it was idle");
  tarn_peer_close(c->peer, &reason);
}
