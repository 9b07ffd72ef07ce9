/* Migration: an object changes its owner, and all who hold it are told. docs/REFERENCES.md, "Migration", "Records". */
#include <stdio.h>
#include <string.h>
#include "refs-private.h"
#include "service-private.h"

/* ---- who holds it is told ---- */

/* Our transfers that have named an older place must have arrived before it is said that we have understood. */
static int wait_for_transfers(tarn_service_t *s, tarn__say_t *say, const tarn__held_t *h) {
  size_t cursor = 0;
  uint64_t key = 0;
  int rc = 0;
  for (tarn__transfer_t *t;
       rc == 0 && (t = tarn_map_next(&s->refs.transfers, &cursor, &key)) != NULL;) {
    for (uint32_t i = 0; i < t->guard->count && rc == 0; i++) {
      if (t->guard->held[i] == h && t->at[i].moves < say->moves) {
        rc = tarn__say_wait(say, &t->waits, 0);
      }
    }
  }
  return rc;
}

static void tell_all_holders(tarn_service_t *s, const tarn__held_t *h) {
  for (uint32_t i = 0; i < h->holder_count; i++) {
    tarn__party_t *p = tarn__party(s, tarn__holders(h)[i]);
    if (p != NULL) { tarn__refs_tell_place(s, p, h); }
  }
}

bool tarn__held_moved(tarn_service_t *s, tarn__held_t *h, tarn_place_t to) {
  if (to.moves <= h->moves) { return false; }
  bool ours = atomic_load(&h->at) == s->id;
  tarn_list_remove(&h->link);
  h->queued = false;
  atomic_store(&h->at, to.owner);
  h->moves = to.moves;
  h->asked = TARN__TO_ASK;
  tarn__held_queue(s, h);
  if (ours) { /* it has gone on from where we have handed it to, and Lua has yet to look at the answer of that one: ref_leave is still to come */
    h->left = to.moves;
    tell_all_holders(s, h);
  }
  return true;
}

/* Process 1 has made itself the owner, and takes all for holders. Who is none makes an entry that nobody needs: it is asked for and dropped
 * like any other. (A drop that was under way has ended what process 1 takes us for: so if a reference arrives before, it must be asked for.) */
static void taken_over(tarn_service_t *s, tarn_place_t to, uint32_t origin, uint64_t id) {
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL) {
    (void)tarn__held_moved(s, h, to);
    return;
  }
  h = tarn__held_get(s, origin, id, to.owner);
  if (h == NULL) { return; } /* no memory: it takes us for a holder for good */
  h->moves = to.moves;
  tarn__held_queue(s, h);
}

void tarn__refs_moved(tarn_service_t *s, tarn__party_t *p, uint64_t round, tarn_place_t to,
                      uint32_t origin, uint64_t id) {
  if (to.owner == p->pid) {
    taken_over(s, to, origin, id);
    return;
  }
  tarn__held_t *h = tarn__held_find(s, origin, id);
  tarn__say_t *say = tarn__say_create(TARN__SAY_TOLD, p->pid, id);
  int rc = say == NULL ? TARN_ENOMEM : 0;
  if (rc == 0) {
    say->round = round;
    say->origin = origin;
    say->moves = to.moves;
  }
  if (h != NULL && atomic_load(&h->at) == s->id && to.moves > h->moves) {
    rc |= tarn__holder_add(h, p->pid); /* we have handed it to p: as ref_leave does */
  }
  if (h != NULL) { (void)tarn__held_moved(s, h, to); }
  if (rc == 0 && h != NULL) {
    rc = wait_for_transfers(s, say, h);
    rc |= tarn__say_wait_held(s, say, h);
  }
  if (say != NULL) { tarn__say_less(s, say); }
  if (rc != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: a move from process %u is not noted in full", p->pid);
  }
}

void tarn__refs_tell_lua(tarn_service_t *s, const char *method, uint32_t origin, uint64_t id) {
  tarn_event_t *e = tarn__event_create(TARN_EVENT_NOTIFY);
  if (e == NULL) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 2);
  rc |= tarn_mp_write_uint(&b, origin);
  rc |= tarn_mp_write_uint(&b, id);
  if (rc == 0) { e->bytes = tarn_buf_detach(&b, &e->size); }
  tarn_buf_release(&b);
  e->pid = s->id;
  snprintf(e->method, sizeof(e->method), "%s", method);
  tarn__event_post(s, e);
}

void tarn__refs_tell_place(tarn_service_t *s, tarn__party_t *p, const tarn__held_t *h) {
  uint32_t at = tarn_service_ref_owner(h);
  if (tarn__numbers_add(&p->moved, at) != 0 || tarn__numbers_add(&p->moved, h->origin) != 0 ||
      tarn__numbers_add(&p->moved, h->id) != 0 || tarn__numbers_add(&p->moved, h->moves) != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: process %u is not told of a move", p->pid);
  }
  tarn__party_busy(s, p);
}

/* [locked] What waits to be said of moves, but for objects of ours that were a lost process's: those are not answered. */
static void forget_unsaid(const tarn_service_t *s, tarn__numbers_t *moved) {
  size_t kept = 0;
  for (size_t i = 0; i < moved->count; i += 4) {
    if (moved->at[i] != s->id) { continue; }
    memmove(moved->at + kept, moved->at + i, 4 * sizeof(moved->at[0]));
    kept += 4;
  }
  moved->count = kept;
}

void tarn__refs_tell_anew(tarn_service_t *s, tarn__party_t *p) {
  size_t cursor = 0;
  uint64_t key = 0;
  p->moved_round++;
  forget_unsaid(s, &p->moved);
  for (tarn__party_t *o; (o = tarn_map_next(&s->refs.parties, &cursor, &key)) != NULL;) {
    size_t inner = 0;
    for (tarn__held_t *h; (h = tarn_map_next(&o->made, &inner, &key)) != NULL;) {
      if (atomic_load(&h->at) == s->id || !tarn__holder_remove(h, p->pid)) { continue; }
      while (tarn__holder_remove(h, p->pid)) {}
      (void)tarn__holder_again(h, p->pid); /* there is room for it */
      tarn__refs_tell_place(s, p, h);
    }
  }
}

/* ---- the two ends, for Lua ---- */

/* Is it nobody, or lost and struck from all sets? It is not to come into another, which it would never leave. */
static bool is_struck(tarn_service_t *s, uint32_t pid) {
  const tarn__party_t *p = tarn_map_get(&s->refs.parties, pid);
  return pid == 0 || (p != NULL && p->struck);
}

int tarn_service_ref_adopt(tarn_service_t *s, uint32_t origin, uint64_t id, uint64_t local,
                           uint32_t from, uint32_t moves) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_get(s, origin, id, s->id);
  int rc = h == NULL ? TARN_ENOMEM : is_struck(s, from) ? 0 : tarn__holder_add(h, from);
  if (rc == 0) {
    if (h->local != 0 && h->local != local) { (void)tarn__numbers_add(&s->refs.doomed, h->local); }
    tarn_list_remove(&h->link);
    h->queued = false;
    atomic_store(&h->at, s->id);
    h->asked = 0;
    h->local = local;
    h->moves = moves;
  }
  tarn__refs_unlock(s);
  return rc;
}

void tarn_service_ref_disown(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t owner) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL && atomic_load(&h->at) == s->id) {
    if (h->local != 0) { (void)tarn__numbers_add(&s->refs.doomed, h->local); }
    h->local = 0;
    h->recorded = false;
    h->moves--;
    h->holder_count = 0;
    atomic_store(&h->at, owner);
    h->asked = TARN__TO_ASK;
    tarn__held_queue(s, h);
  }
  tarn__refs_unlock(s);
}

bool tarn_service_ref_leave(tarn_service_t *s, tarn_held_t *h, uint32_t to) {
  tarn__refs_lock(s);
  if (h->local != 0) { (void)tarn__numbers_add(&s->refs.doomed, h->local); }
  h->local = 0;
  h->recorded = false;
  if (atomic_load(&h->at) ==
      s->id) {    /* else we have heard already that it has gone on from there */
    h->asked = 0; /* it has been told that we hold it */
    h->left = ++h->moves;
    atomic_store(&h->at, to);
    /* The new owner too may have passed on references that say that it is here. */
    if (!is_struck(s, to)) { (void)tarn__holder_add(h, to); }
    tell_all_holders(s, h);
  }
  bool telling = h->holder_count > 0;
  tarn__refs_mark(s);
  tarn__refs_unlock(s);
  return telling;
}

/* ---- objects with a record ---- */

void tarn_service_ref_record(tarn_service_t *s, uint32_t origin, uint64_t id, bool recorded) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_find(s, origin, id);
  if (h != NULL) { h->recorded = recorded; }
  tarn__refs_unlock(s);
}

bool tarn_service_ref_recorded(tarn_service_t *s, uint32_t origin, uint64_t id) {
  tarn__refs_lock(s);
  const tarn__held_t *h = tarn__held_peek(s, origin, id);
  bool recorded = h != NULL && h->recorded;
  tarn__refs_unlock(s);
  return recorded;
}

int tarn_service_ref_succeed(tarn_service_t *s, tarn_held_t *h, tarn_place_t at,
                             const uint32_t *pids, size_t count) {
  int rc = 0;
  tarn__refs_lock(s);
  tarn_list_remove(&h->link);
  h->queued = false;
  if (at.owner != s->id || atomic_load(&h->at) != s->id) { h->local = 0; }
  h->asked = 0;
  h->moves = h->left = at.moves;
  h->recorded = at.owner == s->id;
  h->holder_count = 0;
  atomic_store(&h->at, at.owner);
  for (size_t i = 0; i < count && rc == 0; i++) {
    const tarn__party_t *p = tarn__party(s, pids[i]);
    if (p == NULL) { rc = TARN_ENOMEM; }
    if (rc == 0 && !p->lost && pids[i] != s->id && pids[i] != at.owner) {
      rc = tarn__holder_add(h, pids[i]);
    }
  }
  tell_all_holders(s, h);
  /* A drop that is on its way ends what we take a process for, and that one may yet read what the lost has sent it. */
  if (at.owner == s->id && tarn__numbers_add(&s->refs.kept, (uint64_t)(uintptr_t)h) == 0) {
    h->pins++;
    s->refs.succeeding = true;
    tarn__refs_mark(s);
  }
  tarn__refs_unlock(s);
  return rc;
}

bool tarn_service_ref_telling(tarn_service_t *s, uint32_t origin, uint64_t id) {
  tarn__refs_lock(s);
  const tarn__held_t *h = tarn__held_peek(s, origin, id);
  bool telling =
      h != NULL && h->holder_count > 0 && atomic_load(&((tarn__held_t *)(uintptr_t)h)->at) != s->id;
  tarn__refs_unlock(s);
  return telling;
}

void tarn_service_ref_note(tarn_service_t *s, tarn_held_t *h, tarn_place_t at) {
  tarn__refs_lock(s);
  (void)tarn__held_moved(s, h, at);
  tarn__refs_unlock(s);
}

uint32_t tarn_service_ref_moves(tarn_service_t *s, const tarn_held_t *h) {
  tarn__refs_lock(s);
  uint32_t moves = h->moves;
  tarn__refs_unlock(s);
  return moves;
}

/* ---- finding it ---- */

int tarn_service_ref_find(tarn_service_t *s, uint32_t origin, uint64_t id, uint64_t *local,
                          tarn_place_t *at) {
  int rc = 0;
  tarn__refs_lock(s);
  const tarn__held_t *h = tarn__held_peek(s, origin, id);
  if (h == NULL) {
    *local = id;
    rc = origin == s->id ? 0 : TARN_ENOENT;
  } else if (h->local != 0 && atomic_load(&((tarn__held_t *)(uintptr_t)h)->at) == s->id) {
    *local = h->local;
  } else {
    *at = (tarn_place_t){tarn_service_ref_owner(h), h->moves};
    rc = at->owner == s->id ? TARN_ENOENT : TARN_EMOVED;
  }
  tarn__refs_unlock(s);
  return rc;
}

void tarn_service_moved_error(tarn_error_t *err, tarn_place_t at) {
  tarn_error_set(err, TARN_EMOVED, "the object belongs to process %u", at.owner);
  err->needed = at.owner;
  err->available = at.moves;
}
