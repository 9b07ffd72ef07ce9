/* What other processes say about references; losses; fences. [loop] */
#include <string.h>
#include "refs-private.h"
#include "service-private.h"

/* ---- lists of objects ---- */

typedef void on_object_t(tarn_service_t *s, tarn__party_t *p, uint32_t origin, uint64_t id);

/* A run that is longer than the list of what we know of: those of it that are known. What fn does may change that list, so they are gathered
 * first. */
static int each_known(tarn_service_t *s, tarn__party_t *p, const tarn__party_t *maker,
                      uint64_t first, uint64_t count, on_object_t *fn) {
  tarn__numbers_t known = {0};
  size_t cursor = 0;
  uint64_t id = 0;
  int rc = 0;
  while (rc == 0 && tarn_map_next(&maker->made, &cursor, &id) != NULL) {
    if (id - first < count) { rc = tarn__numbers_add(&known, id); }
  }
  if (rc == 0 && maker->pid == s->id) {
    rc = tarn__sole_within(&s->refs.soles, first, count, &known);
  }
  for (size_t i = 0; rc == 0 && i < known.count; i++) { fn(s, p, maker->pid, known.at[i]); }
  tarn__numbers_clear(&known);
  return rc;
}

/* Call fn for each object of [origin, first, count]..., of those that are known here: a few bytes may name billions. */
static void each_object(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r, on_object_t *fn) {
  uint64_t origin = 0, first = 0, count = 0;
  while (r->at < r->end && tarn_mp_read_uint(r, UINT32_MAX, &origin) == 0 &&
         tarn_mp_read_uint(r, UINT64_MAX, &first) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &count) == 0) {
    const tarn__party_t *maker = tarn_map_get(&s->refs.parties, origin);
    if (maker == NULL) { continue; }
    uint64_t known = maker->made.count + (maker->pid == s->id ? s->refs.soles.count : 0);
    if (count > known && each_known(s, p, maker, first, count, fn) == 0) { continue; }
    for (uint64_t i = 0; i < count; i++) { fn(s, p, (uint32_t)origin, first + i); }
  }
}

/* [locked] There is no memory to note that p holds h: then it is held for good, rather than freed too soon. */
static void cannot_note(const tarn__party_t *p, tarn__held_t *h) {
  h->pins++;
  tarn_log(TARN_LOG_ERROR, "out of memory for a holder, process %u: object %u:%llu stays", p->pid,
           h->origin, (unsigned long long)h->id);
}

/* [locked] h was ours, and p may think that it still is: it is told where it is, and h stays until it has understood. */
static void tell_moved(tarn_service_t *s, tarn__party_t *p, tarn__held_t *h) {
  if (tarn__holder_again(h, p->pid) != 0) { cannot_note(p, h); }
  tarn__refs_tell_place(s, p, h);
}

/* [locked] p holds it. */
static void holds(tarn_service_t *s, tarn__party_t *p, tarn__held_t *h) {
  if (atomic_load(&h->at) != s->id) {
    tell_moved(s, p, h);
  } else if (tarn__holder_add(h, p->pid) != 0) {
    cannot_note(p, h);
  }
}

static uint32_t sole_of(const tarn_service_t *s, uint32_t origin, uint64_t id) {
  return origin == s->id ? tarn__sole_get(&s->refs.soles, id) : 0;
}

static void on_hold(tarn_service_t *s, tarn__party_t *p, uint32_t origin, uint64_t id) {
  uint32_t sole = sole_of(s, origin, id);
  if (sole == p->pid || sole == TARN__SOLE_ALL) { return; }
  if (sole == TARN__SOLE_NOBODY) {
    (void)tarn__sole_set(&s->refs.soles, id, p->pid); /* it is there: this takes no memory */
    return;
  }
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL) { /* else it is gone already, and a get will say so */
    holds(s, p, h);
  } else if (sole != 0) {
    (void)tarn__sole_set(&s->refs.soles, id, TARN__SOLE_ALL);
    tarn_log(TARN_LOG_ERROR, "out of memory for a holder, process %u: object %u:%llu stays", p->pid,
             origin, (unsigned long long)id);
  }
}

static void on_drop(tarn_service_t *s, tarn__party_t *p, uint32_t origin, uint64_t id) {
  uint32_t sole = sole_of(s, origin, id);
  if (sole != 0) {
    if (sole != p->pid) { return; }
    tarn__sole_remove(&s->refs.soles, id);
    tarn__object_doom(s, id);
    return;
  }
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL && atomic_load(&h->at) == s->id && tarn__holder_remove(h, p->pid)) {
    tarn__held_check(s, h);
  }
}

/* Of an earlier move, or round, it says nothing: who has been told of the last must still say so. */
static void on_told(tarn_service_t *s, tarn__party_t *p, uint64_t round, uint32_t origin,
                    uint64_t id, uint64_t moves) {
  if (round != p->moved_round) { return; }
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL && atomic_load(&h->at) != s->id && moves >= h->left &&
      tarn__holder_remove(h, p->pid)) {
    if (h->holder_count == 0) { tarn__refs_tell_lua(s, TARN__REFS_TOLD, origin, id); }
    tarn__held_check(s, h);
  }
}

/* ---- transfers ---- */

static void on_got(tarn_service_t *s, tarn__party_t *p, uint64_t number, bool registers) {
  tarn__transfer_t *t = tarn_map_get(&s->refs.transfers, number);
  if (t == NULL || t->to != p->pid) { return; }
  for (uint32_t i = 0; registers && i < t->guard->count; i++) {
    if (t->at[i].owner == s->id) { holds(s, p, t->guard->held[i]); }
  }
  tarn__transfer_end(s, t);
}

/* Holds up to number have been worked off there. */
static void on_held(tarn_service_t *s, tarn__party_t *p, uint64_t number) {
  if (number > p->held_number) { p->held_number = number; }
  for (tarn_list_t *l = p->waiting.next, *next; l != &p->waiting; l = next) {
    next = l->next;
    tarn__wait_t *w = TARN_CONTAINER(l, tarn__wait_t, link);
    if (w->number > p->held_number) { continue; }
    tarn_list_remove(l);
    tarn__say_less(s, w->say);
    tarn_free(w);
  }
}

static void say_when_held(tarn_service_t *s, tarn__say_kind_t kind, uint32_t to, uint64_t number) {
  tarn__say_t *say = tarn__say_create(kind, to, number);
  if (say == NULL || tarn__say_wait_all(s, say) != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: process %u waits for an answer", to);
  }
  if (say != NULL) { tarn__say_less(s, say); }
}

/* ---- a connection broke ---- */

/* [locked] Every object of ours that has become dead. Taking one out changes the map that is walked: so they are gathered first. */
static void check_dead(tarn_service_t *s, tarn__numbers_t *dead) {
  tarn__soles_doom(s);
  for (size_t i = 0; i < dead->count; i++) {
    tarn__held_check(s, (tarn__held_t *)(uintptr_t)dead->at[i]);
  }
  tarn__numbers_clear(dead);
}

/* [locked] Strike a process from every set, but for those of objects that are elsewhere now, unless those too. */
static void strike(tarn_service_t *s, uint32_t pid, bool those_too, tarn__numbers_t *dead) {
  size_t cursor = 0;
  uint64_t key = 0;
  tarn__sole_replace(&s->refs.soles, pid, TARN__SOLE_NOBODY);
  for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    size_t inner = 0;
    for (tarn__held_t *h; (h = tarn_map_next(&o->made, &inner, &key)) != NULL;) {
      bool ours = atomic_load(&h->at) == s->id;
      if ((!ours && !those_too) || !tarn__holder_remove(h, pid)) { continue; }
      while (tarn__holder_remove(h, pid)) {}
      if (h->holder_count > 0) { continue; }
      if (!ours) { tarn__refs_tell_lua(s, TARN__REFS_TOLD, h->origin, h->id); }
      if (tarn__numbers_add(dead, (uint64_t)(uintptr_t)h) != 0) {
        tarn_log(TARN_LOG_ERROR, "out of memory: an object that process %u held stays", pid);
      }
    }
  }
}

/* [locked] p holds what is listed, and nothing else. */
static void hold_only(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r) {
  tarn__numbers_t dead = {0};
  strike(s, p->pid, false, &dead);
  each_object(s, p, r, on_hold);
  check_dead(s, &dead);
}

bool tarn__refs_rests(tarn_service_t *s, uint32_t pid) {
  tarn__refs_lock(s);
  const tarn__party_t *p = tarn_map_get(&s->refs.parties, pid);
  bool rests = p == NULL || (!p->lost && !p->busy && p->transfers == 0 && !p->fence_waits &&
                             tarn_list_empty(&p->todo) && tarn_list_empty(&p->waiting));
  tarn__refs_unlock(s);
  return rests;
}

void tarn__refs_leave(tarn_service_t *s, const tarn_conn_t *c) {
  tarn__refs_lock(s);
  tarn__party_t *p = tarn_map_get(&s->refs.parties, c->pid);
  if (p != NULL && p->out_token == c->token) {
    p->out_token = 0;
    p->must_here = true;
  }
  tarn__refs_unlock(s);
}

void tarn__refs_conn_down(tarn_service_t *s, const tarn_conn_t *c) {
  if (c->foreign || c->pid == 0 || s->id <= TARN_DRIVER || c->pid == TARN_DRIVER || s->stopping) {
    return; /* for the driver, and without it, a closed connection is a lost process */
  }
  if (c->resting) { return; } /* all that we have said on it has been worked off */
  tarn__refs_lock(s);
  tarn__party_t *p = tarn_map_get(&s->refs.parties, c->pid);
  if (p != NULL && !p->lost) {
    p->must_ask = true;
    p->must_sync |= p->out_token == c->token;
    if (p->out_token == c->token) { p->out_token = 0; }
    tarn__refs_later(s, p); /* most likely it is lost, which we are told of at once */
  }
  tarn__refs_unlock(s);
}

/* ---- losses, fences ---- */

static bool waits_for_fence(tarn_service_t *s, const tarn__party_t *lost) {
  size_t cursor = 0;
  uint64_t key = 0;
  for (tarn__transfer_t *t; (t = tarn_map_next(&s->refs.transfers, &cursor, &key)) != NULL;) {
    if (t->to == lost->pid) { return true; }
  }
  if (tarn__sole_any(&s->refs.soles, lost->pid)) { return true; }
  cursor = 0;
  for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    size_t inner = 0;
    for (tarn__held_t *h; (h = tarn_map_next(&o->made, &inner, &key)) != NULL;) {
      if (tarn__holder_is(h, lost->pid)) { return true; }
    }
  }
  return false;
}

static void end_transfers(tarn_service_t *s, uint32_t pid) {
  size_t cursor = 0;
  uint64_t key = 0;
  tarn__numbers_t ended = {0};
  for (tarn__transfer_t *t; (t = tarn_map_next(&s->refs.transfers, &cursor, &key)) != NULL;) {
    if (t->to == pid) { (void)tarn__numbers_add(&ended, t->number); }
  }
  for (size_t i = 0; i < ended.count; i++) {
    tarn__transfer_t *t = tarn_map_get(&s->refs.transfers, ended.at[i]);
    if (t != NULL) { tarn__transfer_end(s, t); }
  }
  tarn__numbers_clear(&ended);
}

/* All have answered: the lost are struck. */
static void strike_lost(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t key = 0;
  tarn__numbers_t lost = {0};
  for (tarn__party_t *p; (p = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    if (p->lost && !p->struck) {
      p->struck = true;
      (void)tarn__numbers_add(&lost, p->pid);
    }
  }
  for (size_t i = 0; i < lost.count; i++) {
    tarn__numbers_t dead = {0};
    end_transfers(s, (uint32_t)lost.at[i]);
    strike(s, (uint32_t)lost.at[i], true, &dead);
    check_dead(s, &dead);
  }
  tarn__numbers_clear(&lost);
}

/* All have heard that we own them now. */
static void let_go_of_kept(tarn_service_t *s) {
  tarn__numbers_t kept = s->refs.kept;
  s->refs.kept = (tarn__numbers_t){0};
  for (size_t i = 0; i < kept.count; i++) {
    tarn__held_t *h = (tarn__held_t *)(uintptr_t)kept.at[i];
    h->pins--;
    tarn__held_check(s, h);
  }
  tarn__numbers_clear(&kept);
}

static void check_fence(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t key = 0;
  if (!s->refs.fencing) { return; }
  for (tarn__party_t *p; (p = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    if (p->fence_waits && !p->lost) { return; }
  }
  s->refs.fencing = false;
  strike_lost(s);
  if (!s->refs.succeeding) { let_go_of_kept(s); }
}

/* Every member is asked. */
void tarn__refs_fence(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t id = 0;
  bool all = true;
  s->refs.fence_round++;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    tarn__party_t *p = m->id != s->id ? tarn__party(s, m->id) : NULL;
    all &= p != NULL || m->id == s->id;
    if (p == NULL || p->lost) { continue; }
    p->fence_due = p->fence_waits = true;
    tarn__party_busy(s, p);
  }
  s->refs.fencing = all; /* no memory: the lost are struck after the next loss */
  check_fence(s);
}

/* A fence of another process can be answered when we have been told of every loss that it names. */
static void answer_fences(tarn_service_t *s) {
  for (tarn_list_t *l = s->refs.fences.next, *next; l != &s->refs.fences; l = next) {
    next = l->next;
    tarn__fence_t *f = TARN_CONTAINER(l, tarn__fence_t, link);
    bool known = true;
    for (uint32_t i = 0; i < f->count; i++) {
      const tarn__party_t *p = tarn_map_get(&s->refs.parties, f->pids[i]);
      known &= p != NULL && p->lost;
    }
    const tarn__party_t *from = tarn_map_get(&s->refs.parties, f->from);
    if (!known && !(from != NULL && from->lost)) { continue; }
    tarn_list_remove(l);
    say_when_held(s, TARN__SAY_FENCED, f->from, f->round);
    tarn_free(f);
  }
}

/* What was registered, or was to be, with a lost process is now so with process 1, which may make itself the owner; and who waits for the
 * answer of the lost waits for that one's. Process 1 itself knows what it holds. */
static void change_registrar(tarn_service_t *s, tarn__party_t *lost) {
  tarn__party_t *d = tarn__party(s, TARN_DRIVER);
  if (d == NULL || d == lost || s->id == TARN_DRIVER) { return; }
  size_t cursor = 0;
  uint64_t key = 0;
  for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    size_t inner = 0;
    for (tarn__held_t *h; (h = tarn_map_next(&o->made, &inner, &key)) != NULL;) {
      if (atomic_load(&h->at) != lost->pid) { continue; }
      bool registered = h->asked <= lost->held_number;
      h->asked = registered ? 0 : TARN__TO_ASK;
      if (!registered || h->queued) {
        tarn_list_remove(&h->link);
        h->queued = false;
        tarn__held_queue(s, h);
      }
    }
  }
  for (tarn_list_t *l = lost->waiting.next; l != &lost->waiting; l = l->next) {
    TARN_CONTAINER(l, tarn__wait_t, link)->number = d->hold_number + 1;
  }
  if (!tarn_list_empty(&lost->waiting)) { tarn__party_busy(s, d); }
  tarn_list_append(&d->waiting, &lost->waiting);
}

void tarn__refs_lost(tarn_service_t *s, uint32_t pid) {
  tarn__refs_lock(s);
  tarn__party_t *p = tarn__party(s, pid);
  if (p != NULL && !p->lost) {
    p->lost = true;
    change_registrar(s, p);
    p->fence_waits = p->fence_due = false;
    on_held(s, p, UINT64_MAX);
    tarn__party_busy(s, p); /* what waits to be said to it goes */
    if (waits_for_fence(s, p) || s->refs.fencing) {
      tarn__refs_fence(s);
    } else {
      p->struck = true;
    }
    answer_fences(s);
  }
  tarn__refs_unlock(s);
}

bool tarn__refs_is_lost(tarn_service_t *s, uint32_t pid) {
  tarn__refs_lock(s);
  const tarn__party_t *p = tarn_map_get(&s->refs.parties, pid);
  bool lost = p != NULL && p->lost;
  tarn__refs_unlock(s);
  return lost;
}

int tarn__refs_write_lost(tarn_service_t *s, tarn_buf_t *b) {
  size_t cursor = 0;
  uint64_t pid = 0;
  uint32_t count = 0;
  tarn__refs_lock(s);
  for (tarn__party_t *p; (p = tarn_map_next(&s->refs.parties, &cursor, &pid)) != NULL;) {
    count += p->lost;
  }
  int rc = tarn_mp_write_array(b, count);
  cursor = 0;
  for (tarn__party_t *p; (p = tarn_map_next(&s->refs.parties, &cursor, &pid)) != NULL;) {
    if (p->lost) { rc |= tarn_mp_write_uint(b, p->pid); }
  }
  tarn__refs_unlock(s);
  return rc == 0 ? 0 : TARN_ENOMEM;
}

static void on_fence(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r, uint32_t count) {
  uint64_t round = 0, pid = 0;
  if (count < 1 || tarn_mp_read_uint(r, UINT64_MAX, &round) != 0) { return; }
  tarn__fence_t *f = tarn_calloc(1, sizeof(*f) + count * sizeof(f->pids[0]));
  if (f == NULL) {
    tarn_log(TARN_LOG_ERROR, "out of memory: process %u waits for an answer", p->pid);
    return;
  }
  f->from = p->pid;
  f->round = round;
  while (f->count + 1 < count && tarn_mp_read_uint(r, UINT32_MAX, &pid) == 0) {
    f->pids[f->count++] = (uint32_t)pid;
  }
  tarn_list_push_back(&s->refs.fences, &f->link);
  answer_fences(s);
}

/* ---- all of them ---- */

static void on_moved(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r) {
  uint64_t round = 0, at = 0, origin = 0, id = 0, moves = 0;
  if (tarn_mp_read_uint(r, UINT64_MAX, &round) != 0) { return; }
  while (r->at < r->end && tarn_mp_read_uint(r, UINT32_MAX, &at) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &origin) == 0 &&
         tarn_mp_read_uint(r, UINT64_MAX, &id) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &moves) == 0) {
    tarn_place_t to = {(uint32_t)at, (uint32_t)moves};
    tarn__refs_moved(s, p, round, to, (uint32_t)origin, id);
  }
}

static void on_told_all(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r) {
  uint64_t round = 0, origin = 0, id = 0, moves = 0;
  while (r->at < r->end && tarn_mp_read_uint(r, UINT64_MAX, &round) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &origin) == 0 &&
         tarn_mp_read_uint(r, UINT64_MAX, &id) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &moves) == 0) {
    on_told(s, p, round, (uint32_t)origin, id, moves);
  }
}

/* p does not hear us: our channel is that connection from here on, and begins with all we hold. What we have asked on another may be passed over. */
static void speak_on(tarn_service_t *s, tarn__party_t *p, uint64_t token) {
  p->must_ask |= p->out_token != token;
  p->out_token = token;
  p->must_sync = true;
  tarn__party_busy(s, p);
}

static void on_ask(tarn_service_t *s, tarn__party_t *p, tarn_conn_t *c, uint64_t number,
                   uint64_t *asked_of) {
  if (number == 0) {
    speak_on(s, p, c->token);
    return;
  }
  if (number > *asked_of) { *asked_of = number; }
  say_when_held(s, TARN__SAY_DONE, p->pid, number);
}

static void each_number(tarn_service_t *s, tarn__party_t *p, tarn_conn_t *c, tarn_mp_reader_t *r,
                        const char *what) {
  uint64_t n = 0;
  while (r->at < r->end && tarn_mp_read_uint(r, UINT64_MAX, &n) == 0) {
    if (strcmp(what, "held") == 0) {
      on_held(s, p, n);
    } else if (strcmp(what, "ask") == 0) {
      on_ask(s, p, c, n, &p->asked_of);
    } else if (strcmp(what, "seen") == 0) {
      on_ask(s, p, c, n, &c->seen_of);
    } else if (strcmp(what, "fenced") != 0) {
      on_got(s, p, n, strcmp(what, "got") == 0);
    } else if (n == s->refs.fence_round) {
      p->fence_waits = false;
      check_fence(s);
    }
  }
}

/* A refs.hold, refs.here or refs.sync: its number, then objects. */
static void on_holds(tarn_service_t *s, tarn__party_t *p, tarn_mp_reader_t *r, bool all) {
  uint64_t number = 0;
  if (tarn_mp_read_uint(r, UINT64_MAX, &number) != 0) { return; }
  if (all) {
    hold_only(s, p, r);
  } else {
    each_object(s, p, r, on_hold);
  }
  p->held_due = p->heard_number = number;
  tarn__party_busy(s, p);
}

/* An owner's pool is full: let our garbage go, if any of it may be the owner's. */
static void collect_for(tarn_service_t *s, uint32_t owner) {
  tarn__refs_lock(s);
  const tarn__party_t *o = tarn_map_get(&s->refs.parties, owner);
  bool any = o != NULL && o->made.count > 0;
  tarn__refs_unlock(s);
  if (any) { (void)tarn__collect_garbage(s); }
}

/* p's messages come on that connection from here on. With a refs.sync it says that what it wrote to another may be lost, even if we have never
 * heard it there: answers to what was passed to it later than what we have asked about, and that it has worked off what we hold. */
static void listen_on(tarn_service_t *s, tarn__party_t *p, uint64_t token, bool sync) {
  p->in_token = token;
  if (!sync) { return; }
  p->must_ask = true;
  p->must_hold = p->hold_number > p->held_number;
  tarn__party_busy(s, p);
}

/* Two that open channels may overtake each other: they take different connections. */
static bool is_newer(const tarn__party_t *p, tarn_mp_reader_t opening) {
  uint64_t number = 0;
  return tarn_mp_read_uint(&opening, UINT64_MAX, &number) == 0 && number > p->heard_number;
}

void tarn__refs_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, tarn_mp_reader_t *r,
                       uint32_t count) {
  const char *what = method + strlen("refs.");
  bool sync = strcmp(what, "sync") == 0, opens = sync || strcmp(what, "here") == 0;
  if (c->pid == 0) { return; }
  if (strcmp(what, "collect") == 0) {
    collect_for(s, c->pid);
    return;
  }
  tarn__refs_lock(s);
  tarn__party_t *p = tarn__party(s, c->pid);
  bool here = strcmp(what, "seen") == 0; /* it is about this connection, whichever is the channel */
  if (p != NULL && !p->lost && !here && (p->in_token == 0 || (opens && is_newer(p, *r)))) {
    listen_on(s, p, c->token, sync);
  }
  if (p == NULL || p->lost ||
      (p->in_token != c->token && !here)) { /* late, of a broken connection or a lost process */
    tarn__refs_unlock(s);
    return;
  }
  if (opens || strcmp(what, "hold") == 0) {
    on_holds(s, p, r, sync);
  } else if (strcmp(what, "drop") == 0) {
    each_object(s, p, r, on_drop);
  } else if (strcmp(what, "told") == 0) {
    on_told_all(s, p, r);
  } else if (strcmp(what, "moved") == 0) {
    on_moved(s, p, r);
  } else if (strcmp(what, "fence") == 0) {
    on_fence(s, p, r, count);
  } else {
    each_number(s, p, c, r, what);
  }
  tarn__refs_unlock(s);
}
