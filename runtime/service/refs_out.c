/* What is said about references: gathered, and sent once a turn. [loop] */
#include <string.h>
#include "base/clock.h"
#include "refs-private.h"
#include "service-private.h"

#define AT_ONCE                                                                                    \
  4096u /* objects in one message: neither the mutex nor the other end is kept for long */
#define NOTICE_BYTES ((size_t)1 << 30)
#define TICK_MS 250u /* what cannot be done now is tried again */
#define PRESS_EVERY_NS UINT64_C(1000000000)
#define UNKNOWN_NS UINT64_C(5000000000) /* a process that nobody has told us of by then is lost */

/* ---- lists of objects: origin, first id, how many ---- */

typedef struct runs {
  tarn_buf_t b;
  uint32_t count; /* runs */
  uint32_t origin;
  uint64_t first, length;
  int rc;
} runs_t;

static void runs_init(runs_t *r) {
  *r = (runs_t){0};
  tarn_buf_init(&r->b, NOTICE_BYTES);
}

static void runs_end(runs_t *r) {
  if (r->length > 0) {
    r->rc |= tarn_mp_write_uint(&r->b, r->origin);
    r->rc |= tarn_mp_write_uint(&r->b, r->first);
    r->rc |= tarn_mp_write_uint(&r->b, r->length);
    r->count++;
  }
  r->length = 0;
}

/* Ids come as often in falling order as in rising: a collector frees the youngest first. */
static void runs_add(runs_t *r, uint32_t origin, uint64_t id) {
  bool same = r->length > 0 && r->origin == origin;
  if (same && id == r->first + r->length) {
    r->length++;
  } else if (same && id + 1 == r->first) {
    r->first--;
    r->length++;
  } else {
    runs_end(r);
    r->origin = origin;
    r->first = id;
    r->length = 1;
  }
}

/* ---- one process ---- */

/* What is to be sent to it, taken out of the table. */
typedef struct batch {
  uint32_t pid;
  runs_t holds, drops;
  bool asks, syncs; /* there is a refs.hold, a refs.sync */
  bool here;        /* the refs.hold opens the channel: refs.here */
  uint64_t hold_number;
  tarn__numbers_t got, done, fenced, moved, told, ask;
  uint64_t moved_round;
  tarn__numbers_t seen; /* the token of a connection, and a transfer that has taken it */
  uint64_t held;
  uint64_t fence_round; /* of ours, to be sent; 0: none */
  tarn__numbers_t lost;
  bool collect;
} batch_t;

static void send_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, int rc,
                        tarn_buf_t *b) {
  if (rc == 0) {
    tarn__send_notice(s, c, method, b);
    return;
  }
  tarn_buf_release(b);
  tarn_peer_close(c->peer,
                  NULL); /* as tarn__send_notice does: it would live on with a wrong picture */
}

static void send_numbers(tarn_service_t *s, tarn_conn_t *c, const char *method,
                         tarn__numbers_t *n) {
  if (n->count == 0) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, NOTICE_BYTES);
  int rc = tarn_mp_write_array(&b, (uint32_t)n->count);
  for (size_t i = 0; i < n->count && rc == 0; i++) { rc = tarn_mp_write_uint(&b, n->at[i]); }
  send_notice(s, c, method, rc, &b);
}

static void send_moved(tarn_service_t *s, tarn_conn_t *c, const batch_t *t) {
  if (t->moved.count == 0) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, NOTICE_BYTES);
  int rc = tarn_mp_write_array(&b, (uint32_t)t->moved.count + 1);
  rc |= tarn_mp_write_uint(&b, t->moved_round);
  for (size_t i = 0; i < t->moved.count && rc == 0; i++) {
    rc = tarn_mp_write_uint(&b, t->moved.at[i]);
  }
  send_notice(s, c, "refs.moved", rc, &b);
}

static void send_runs(tarn_service_t *s, tarn_conn_t *c, const char *method, uint64_t number,
                      runs_t *r) {
  tarn_buf_t b;
  tarn_buf_init(&b, NOTICE_BYTES);
  runs_end(r);
  int rc = r->rc | tarn_mp_write_array(&b, 3 * r->count + (number != 0));
  if (number != 0) { rc |= tarn_mp_write_uint(&b, number); }
  rc |= tarn_buf_append(&b, r->b.data, r->b.size);
  send_notice(s, c, method, rc, &b);
  tarn_buf_clear(&r->b);
  r->count = 0;
}

static void send_batch(tarn_service_t *s, tarn_conn_t *c, batch_t *t) {
  /* First what makes this connection our channel: what comes before it is passed over there. */
  bool opens = t->syncs || t->here;
  if (opens) { send_runs(s, c, t->syncs ? "refs.sync" : "refs.here", t->hold_number, &t->holds); }
  send_numbers(s, c, "refs.got", &t->got);
  if (t->asks && !opens) { send_runs(s, c, "refs.hold", t->hold_number, &t->holds); }
  if (t->held != 0) {
    tarn__numbers_t held = {&t->held, 1, 1};
    send_numbers(s, c, "refs.held", &held);
  }
  if (t->drops.count > 0 || t->drops.length > 0) { send_runs(s, c, "refs.drop", 0, &t->drops); }
  send_numbers(s, c, "refs.done", &t->done);
  send_numbers(s, c, "refs.fenced", &t->fenced);
  send_numbers(s, c, "refs.told", &t->told);
  send_moved(s, c, t);
  send_numbers(s, c, "refs.ask", &t->ask);
  if (t->fence_round != 0) { send_numbers(s, c, "refs.fence", &t->lost); }
  if (t->collect) {
    tarn_buf_t b;
    tarn_buf_init(&b, 16);
    send_notice(s, c, "refs.collect", tarn_mp_write_array(&b, 0), &b);
  }
}

/* What became of our transfers, on the connections that they have taken. */
static void send_seen(tarn_service_t *s, const batch_t *t) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c;
       t->seen.count > 0 && (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    tarn__numbers_t numbers = {0};
    for (size_t i = 0; i < t->seen.count; i += 2) {
      if (t->seen.at[i] == token) { (void)tarn__numbers_add(&numbers, t->seen.at[i + 1]); }
    }
    send_numbers(s, c, "refs.seen", &numbers);
    tarn__numbers_clear(&numbers);
  }
}

static void batch_clear(batch_t *t) {
  tarn_buf_release(&t->holds.b);
  tarn_buf_release(&t->drops.b);
  tarn__numbers_t *all[] = {&t->got,  &t->done, &t->fenced, &t->moved,
                            &t->told, &t->ask,  &t->seen,   &t->lost};
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) { tarn__numbers_clear(all[i]); }
}

static bool is_dead(const tarn__held_t *h) {
  return h->uds == 0 && h->pins == 0 && h->holder_count == 0;
}

/* Ask for one, or drop it, or neither: it has been revived. */
static void work_off(tarn_service_t *s, tarn__held_t *h, batch_t *t) {
  tarn_list_remove(&h->link);
  h->queued = false;
  if (h->asked == TARN__TO_ASK) {
    runs_add(&t->holds, h->origin, h->id);
    t->asks = true;
    h->asked = t->hold_number;
  }
  if (!is_dead(h)) { return; }
  runs_add(&t->drops, h->origin, h->id);
  tarn__held_free(s, h);
}

/* After a connection broke: all that is held there, and which transfers are not answered. */
static void collect_all(tarn_service_t *s, tarn__party_t *p, batch_t *t) {
  size_t cursor = 0, inner;
  uint64_t key = 0;
  runs_init(&t->holds);
  t->syncs = true;
  t->hold_number = ++p->hold_number;
  for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    inner = 0;
    for (tarn__held_t *h; (h = tarn_map_next(&o->made, &inner, &key)) != NULL;) {
      if (atomic_load(&h->at) != p->pid) { continue; }
      runs_add(&t->holds, h->origin, h->id);
      h->asked = t->hold_number;
    }
  }
  for (tarn_list_t *l = p->waiting.next; l != &p->waiting; l = l->next) {
    TARN_CONTAINER(l, tarn__wait_t, link)->number = t->hold_number;
  }
}

/* What became of our transfers? Whose connection is no more, do not come now; 0 before them: we do not hear it, and it is to take this connection,
 * should it not have noticed yet. The others have come, if they are asked about on their own connection. */
static void ask_all(tarn_service_t *s, const tarn__party_t *p, batch_t *t) {
  size_t cursor = 0;
  uint64_t key = 0;
  bool deaf = tarn_map_get(&s->conns, p->in_token) == NULL;
  if (deaf) { (void)tarn__numbers_add(&t->ask, 0); }
  for (tarn__transfer_t *o; (o = tarn_map_next(&s->refs.transfers, &cursor, &key)) != NULL;) {
    if (o->to != p->pid) { continue; }
    if (tarn_map_get(&s->conns, o->token) == NULL) {
      (void)tarn__numbers_add(&t->ask, o->number); /* no memory: it is held on */
    } else if (tarn__numbers_add(&t->seen, o->token) == 0 &&
               tarn__numbers_add(&t->seen, o->number) != 0) {
      t->seen.count--;
    }
  }
  if (deaf && t->ask.count == 1) { t->ask.count = 0; }
}

static void take(tarn__numbers_t *from, tarn__numbers_t *to) {
  *to = *from;
  *from = (tarn__numbers_t){0};
}

/* [locked] Returns true when there is more. */
static bool fill(tarn_service_t *s, tarn__party_t *p, batch_t *t) {
  runs_init(&t->holds);
  runs_init(&t->drops);
  t->pid = p->pid;
  take(&p->got, &t->got);
  take(&p->done, &t->done);
  take(&p->fenced, &t->fenced);
  take(&p->told, &t->told);
  t->held = p->held_due;
  p->held_due = 0;
  t->collect = p->must_collect;
  p->must_collect = false;
  if (p->must_ask) {
    ask_all(s, p, t);
    p->fence_due |= p->fence_waits; /* it, or its answer, may be lost */
    tarn__refs_tell_anew(s, p);
  }
  p->must_ask = false;
  take(&p->moved, &t->moved);
  t->moved_round = p->moved_round;
  t->hold_number = p->hold_number + 1;
  t->here = p->must_here && !p->must_sync;
  t->asks = p->must_hold || t->here;
  p->must_hold = p->must_here = false;
  if (p->must_sync) { /* takes that number */
    collect_all(s, p, t);
    p->must_sync = false;
  }
  for (uint32_t i = 0; i < AT_ONCE && !tarn_list_empty(&p->todo); i++) {
    work_off(s, TARN_CONTAINER(p->todo.next, tarn__held_t, link), t);
  }
  for (tarn_list_t *l = p->waiting.next; l != &p->waiting && !t->asks; l = l->next) {
    t->asks = TARN_CONTAINER(l, tarn__wait_t, link)->number ==
              t->hold_number; /* though its object has moved */
  }
  if (t->asks && !t->syncs) { p->hold_number++; }
  if (p->fence_due) {
    t->fence_round = s->refs.fence_round;
    (void)tarn__numbers_add(&t->lost, t->fence_round);
    size_t cursor = 0;
    uint64_t key = 0;
    for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
      if (o->lost && !o->struck) { (void)tarn__numbers_add(&t->lost, o->pid); }
    }
    p->fence_due = false;
  }
  return !tarn_list_empty(&p->todo);
}

/* The connection that our messages about references take: in order as long as it lives. */
static tarn_conn_t *channel(tarn_service_t *s, tarn__party_t *p) {
  tarn_error_t err = {0};
  tarn_conn_t *c = p->out_token != 0 ? tarn_map_get(&s->conns, p->out_token) : NULL;
  if (c == NULL || c->pid != p->pid) { c = tarn__member_conn(s, p->pid, &err); }
  if (c != NULL && tarn_peer_gone(c->peer)) { return NULL; } /* its end will be told of */
  return c;
}

static void on_tick(uv_timer_t *t) {
  tarn_service_t *s = t->data;
  atomic_store(&s->refs.dirty, true);
}

static void again(tarn_service_t *s) {
  if (!uv_is_active((uv_handle_t *)&s->refs.tick)) {
    uv_timer_start(&s->refs.tick, on_tick, TICK_MS, 0);
  }
}

void tarn__refs_later(tarn_service_t *s, tarn__party_t *p) {
  if (!p->busy) { tarn_list_push_back(&s->refs.busy, &p->link); }
  p->busy = true;
  again(s);
}

/* No member: lost, or its coming has not been told yet. */
static void no_member(tarn_service_t *s, tarn__party_t *p) {
  uint64_t now = tarn_clock_ns();
  if (p->unknown_ns == 0) { p->unknown_ns = now; }
  if (now - p->unknown_ns > UNKNOWN_NS) {
    tarn__refs_lost(s, p->pid);
  } else {
    again(s);
  }
}

/* To a process that is lost there is nothing to say. */
static void flush_lost(tarn_service_t *s, tarn__party_t *p) {
  while (!tarn_list_empty(&p->todo)) {
    tarn__held_t *h = TARN_CONTAINER(p->todo.next, tarn__held_t, link);
    tarn_list_remove(&h->link);
    h->queued = false;
    h->asked = 0;
    if (is_dead(h)) { tarn__held_free(s, h); }
  }
  tarn__numbers_t *all[] = {&p->got, &p->done, &p->fenced, &p->moved, &p->told};
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) { tarn__numbers_clear(all[i]); }
  p->held_due = 0;
}

static void flush_party(tarn_service_t *s, tarn__party_t *p) {
  bool more = true;
  while (more) {
    if (p->lost) {
      tarn__refs_lock(s);
      flush_lost(s, p);
      tarn__refs_unlock(s);
      return;
    }
    if (tarn__member_get(s, p->pid) == NULL) {
      no_member(s, p);
      if (!p->lost) { goto later; }
      continue;
    }
    p->unknown_ns = 0;
    tarn_conn_t *c = channel(s, p);
    if (c == NULL) { goto later; }
    batch_t t = {0};
    tarn__refs_lock(s);
    p->out_token = c->token;
    more = fill(s, p, &t);
    tarn__refs_unlock(s);
    send_batch(s, c, &t);
    send_seen(s, &t);
    batch_clear(&t);
  }
  return;
later:
  tarn__refs_lock(s);
  tarn__refs_later(s, p);
  tarn__refs_unlock(s);
}

/* ---- garbage ---- */

/* The pool evicts: who holds what is ours may hold garbage. */
static void press(tarn_service_t *s) {
  uint64_t now = tarn_clock_ns();
  if (now - s->refs.pressed_ns < PRESS_EVERY_NS) {
    again(s);
    return;
  }
  atomic_store(&s->refs.pressure, false);
  s->refs.pressed_ns = now;
  (void)tarn__collect_garbage(s);
  tarn__refs_lock(s);
  size_t cursor = 0;
  uint64_t key = 0;
  const tarn__party_t *self = tarn_map_get(&s->refs.parties, s->id);
  bool any = s->refs.soles.count > 0 || (self != NULL && self->made.count > 0);
  for (tarn__party_t *p; any && (p = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    if (p->pid == s->id || p->lost) { continue; }
    p->must_collect = true;
    tarn__party_busy(s, p);
  }
  tarn__refs_unlock(s);
}

/* Lua sees to the records of what nobody holds any more. */
static void tell_ended(tarn_service_t *s) {
  tarn__numbers_t ended = {0};
  tarn__refs_lock(s);
  take(&s->refs.ended, &ended);
  tarn__refs_unlock(s);
  for (size_t i = 0; i + 1 < ended.count; i += 2) {
    tarn__refs_tell_lua(s, TARN__REFS_ENDED, (uint32_t)ended.at[i], ended.at[i + 1]);
  }
  tarn__numbers_clear(&ended);
}

void tarn__refs_flush(tarn_service_t *s) {
  tarn_refs_t *r = &s->refs;
  if (!atomic_load_explicit(&r->dirty, memory_order_relaxed) || !r->open) { return; }
  atomic_store(&r->dirty, false);
  if (atomic_load(&r->pressure)) { press(s); }
  if (atomic_load(&r->suspect)) {
    if (tarn__collect_garbage(s)) {
      atomic_store(&r->suspect, false);
    } else {
      again(s);
    }
  }
  tarn__refs_settle(s);
  tell_ended(s);
  tarn__refs_lock(s);
  if (r->succeeding) { /* all are told of it in the same batch, before they are asked */
    r->succeeding = false;
    tarn__refs_fence(s);
  }
  tarn__refs_unlock(s);
  tarn_list_t busy;
  tarn_list_init(&busy);
  tarn__refs_lock(s);
  tarn_list_append(&busy, &r->busy);
  tarn__refs_unlock(s);
  for (;;) {
    tarn__refs_lock(s);
    tarn_list_t *l = busy.next;
    tarn__party_t *p = l != &busy ? TARN_CONTAINER(l, tarn__party_t, link) : NULL;
    if (p != NULL) {
      tarn_list_remove(&p->link);
      p->busy = false;
    }
    tarn__refs_unlock(s);
    if (p == NULL) { break; }
    flush_party(s, p);
  }
}

static void on_prepare(uv_prepare_t *h) {
  tarn_service_t *s = h->data;
  if (!atomic_load_explicit(&s->refs.dirty, memory_order_relaxed)) { return; }
  tarn__refs_flush(s);
  tarn_net_flush(s->net);
}

/* [any] */
void tarn_service_pressure(tarn_service_t *s) {
  if (atomic_exchange(&s->refs.pressure, true)) { return; }
  if (!atomic_exchange(&s->refs.dirty, true)) { s->config.wake(s->config.user); }
}

void tarn__refs_open(tarn_service_t *s) {
  uv_prepare_init(s->loop, &s->refs.prepare);
  uv_timer_init(s->loop, &s->refs.tick);
  s->refs.prepare.data = s->refs.tick.data = s;
  uv_prepare_start(&s->refs.prepare, on_prepare);
  s->handles += 2;
  s->refs.open = true;
}

static void on_closed(uv_handle_t *h) { ((tarn_service_t *)h->data)->handles--; }

void tarn__refs_close(tarn_service_t *s) {
  s->refs.open = false;
  uv_close((uv_handle_t *)&s->refs.prepare, on_closed);
  uv_close((uv_handle_t *)&s->refs.tick, on_closed);
}
