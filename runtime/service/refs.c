/* The table of references: who holds what, as this process knows it. docs/REFERENCES.md has the protocol; refs_transfer.c the messages that
 * carry references, refs_out.c and refs_in.c those about them. Any thread; the mutex is a leaf. */
#include <string.h>
#include "refs-private.h"
#include "service-private.h"

void tarn__refs_lock(tarn_service_t *s) { pthread_mutex_lock(&s->refs.mutex); }
void tarn__refs_unlock(tarn_service_t *s) { pthread_mutex_unlock(&s->refs.mutex); }

int tarn__numbers_add(tarn__numbers_t *n, uint64_t v) {
  if (n->count == n->capacity) {
    size_t more = n->capacity == 0 ? 16 : n->capacity * 2;
    uint64_t *at = tarn_realloc(n->at, more * sizeof(*at));
    if (at == NULL) { return TARN_ENOMEM; }
    n->at = at;
    n->capacity = more;
  }
  n->at[n->count++] = v;
  return 0;
}

void tarn__numbers_clear(tarn__numbers_t *n) {
  tarn_free(n->at);
  *n = (tarn__numbers_t){0};
}

/* ---- processes ---- */

tarn__party_t *tarn__party(tarn_service_t *s, uint32_t pid) {
  tarn__party_t *p = tarn_map_get(&s->refs.parties, pid);
  if (p != NULL) { return p; }
  p = tarn_calloc(1, sizeof(*p));
  if (p == NULL || tarn_map_set(&s->refs.parties, pid, p) != 0) {
    tarn_free(p);
    return NULL;
  }
  p->pid = pid;
  tarn_list_init(&p->link);
  tarn_list_init(&p->todo);
  tarn_list_init(&p->waiting);
  tarn_map_init(&p->made);
  return p;
}

void tarn__refs_mark(tarn_service_t *s) {
  if (!atomic_exchange(&s->refs.dirty, true)) { s->config.wake(s->config.user); }
}

void tarn__party_busy(tarn_service_t *s, tarn__party_t *p) {
  if (!p->busy && p->pid != s->id) {
    p->busy = true;
    tarn_list_push_back(&s->refs.busy, &p->link);
  }
  tarn__refs_mark(s);
}

/* ---- entries ---- */

tarn__held_t *tarn__held_peek(tarn_service_t *s, uint32_t origin, uint64_t id) {
  tarn__party_t *p = tarn_map_get(&s->refs.parties, origin);
  return p != NULL ? tarn_map_get(&p->made, id) : NULL;
}

static tarn__held_t *entry_create(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t at) {
  tarn__party_t *p = tarn__party(s, origin);
  tarn__held_t *h = p != NULL ? tarn_calloc(1, sizeof(*h)) : NULL;
  if (h == NULL || tarn_map_set(&p->made, id, h) != 0) {
    tarn_free(h);
    return NULL;
  }
  h->origin = origin;
  h->id = id;
  atomic_init(&h->at, at);
  h->local = at == s->id && origin == s->id ? id : 0;
  h->asked = at == s->id ? 0 : TARN__TO_ASK;
  tarn_list_init(&h->link);
  s->refs.count++;
  return h;
}

/* The entry of one that has been a sole. */
static tarn__held_t *entry_of_sole(tarn_service_t *s, uint64_t id, uint32_t pid) {
  tarn__held_t *h = entry_create(s, s->id, id, s->id);
  if (h == NULL) { return NULL; }
  if (pid == TARN__SOLE_ALL) {
    h->pins = 1;
  } else if (pid != TARN__SOLE_NOBODY && tarn__holder_add(h, pid) != 0) {
    tarn__held_free(s, h);
    return NULL;
  }
  tarn__sole_remove(&s->refs.soles, id);
  return h;
}

tarn__held_t *tarn__held_find(tarn_service_t *s, uint32_t origin, uint64_t id) {
  uint32_t sole = origin == s->id ? tarn__sole_get(&s->refs.soles, id) : 0;
  return sole != 0 ? entry_of_sole(s, id, sole) : tarn__held_peek(s, origin, id);
}

tarn__held_t *tarn__held_get(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t at) {
  uint32_t sole = origin == s->id ? tarn__sole_get(&s->refs.soles, id) : 0;
  if (sole != 0) { return entry_of_sole(s, id, sole); }
  tarn__held_t *h = tarn__held_peek(s, origin, id);
  return h != NULL ? h : entry_create(s, origin, id, at);
}

void tarn__object_doom(tarn_service_t *s, uint64_t local) {
  if (tarn__numbers_add(&s->refs.doomed, local) != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: object %u:%llu, which nobody holds, stays", s->id,
             (unsigned long long)local);
  }
  tarn__refs_mark(s);
}

void tarn__soles_doom(tarn_service_t *s) {
  if (tarn__sole_take(&s->refs.soles, TARN__SOLE_NOBODY, &s->refs.doomed) != 0) {
    tarn__sole_replace(&s->refs.soles, TARN__SOLE_NOBODY, TARN__SOLE_ALL);
    tarn_log(TARN_LOG_ERROR, "out of memory: objects that nobody holds stay");
  }
  tarn__refs_mark(s);
}

tarn__party_t *tarn__held_registrar(tarn_service_t *s, const tarn__held_t *h) {
  tarn__party_t *p = tarn__party(s, tarn_service_ref_owner(h));
  return p != NULL && p->lost && s->id != TARN_DRIVER ? tarn__party(s, TARN_DRIVER) : p;
}

void tarn__held_queue(tarn_service_t *s, tarn__held_t *h) {
  tarn__party_t *p = h->queued ? NULL : tarn__held_registrar(s, h);
  if (p == NULL) { return; } /* out of memory: it stays registered until its owner's end or ours */
  h->queued = true;
  tarn_list_push_back(&p->todo, &h->link);
  tarn__party_busy(s, p);
}

static void entry_free(tarn__held_t *h) {
  if (h->holder_capacity > 0) { tarn_free(h->holders); }
  tarn_free(h);
}

void tarn__held_free(tarn_service_t *s, tarn__held_t *h) {
  tarn__party_t *p = tarn_map_get(&s->refs.parties, h->origin);
  tarn_map_remove(&p->made, h->id);
  tarn_list_remove(&h->link);
  s->refs.count--;
  entry_free(h);
}

/* Nothing is to be known of it but its one holder: an entry is too much. */
static void become_sole(tarn_service_t *s, tarn__held_t *h) {
  bool plain =
      h->origin == s->id && h->local == h->id && h->moves == 0 && !h->queued && !h->recorded;
  if (h->holder_count == 1 && h->uds == 0 && plain &&
      tarn__sole_set(&s->refs.soles, h->id, tarn__holders(h)[0]) == 0) {
    tarn__held_free(s, h);
  } /* no memory: it stays an entry */
}

void tarn__held_check(tarn_service_t *s, tarn__held_t *h) {
  if (h->pins > 0) { return; }
  if (h->holder_count > 0) {
    become_sole(s, h);
    return;
  }
  if (h->uds > 0) {
    if (h->local != 0 && !atomic_exchange(&s->refs.suspect, true)) { tarn__refs_mark(s); }
    return;
  }
  if (atomic_load(&h->at) != s->id) {
    tarn__held_queue(s, h);
    return;
  }
  if (h->local != 0) { tarn__object_doom(s, h->local); }
  if (h->recorded && (tarn__numbers_add(&s->refs.ended, h->origin) != 0 ||
                      tarn__numbers_add(&s->refs.ended, h->id) != 0)) {
    tarn_log(TARN_LOG_ERROR, "out of memory: the record of object %u:%llu stays", h->origin,
             (unsigned long long)h->id);
  }
  if (h->recorded) { tarn__refs_mark(s); }
  tarn__held_free(s, h);
}

static uint32_t *holders_of(tarn__held_t *h) {
  return h->holder_capacity == 0 ? &h->holder : h->holders;
}

const uint32_t *tarn__holders(const tarn__held_t *h) {
  return h->holder_capacity == 0 ? &h->holder : h->holders;
}

bool tarn__holder_is(const tarn__held_t *h, uint32_t pid) {
  for (uint32_t i = 0; i < h->holder_count; i++) {
    if (tarn__holders(h)[i] == pid) { return true; }
  }
  return false;
}

static int holders_grow(tarn__held_t *h) {
  uint32_t more = h->holder_capacity == 0 ? 4 : h->holder_capacity * 2;
  uint32_t *holders = tarn_malloc(more * sizeof(*holders));
  if (holders == NULL) { return TARN_ENOMEM; }
  memcpy(holders, holders_of(h), h->holder_count * sizeof(*holders));
  if (h->holder_capacity > 0) { tarn_free(h->holders); }
  h->holders = holders;
  h->holder_capacity = more;
  return 0;
}

int tarn__holder_add(tarn__held_t *h, uint32_t pid) {
  return tarn__holder_is(h, pid) ? 0 : tarn__holder_again(h, pid);
}

int tarn__holder_again(tarn__held_t *h, uint32_t pid) {
  bool full = h->holder_count == (h->holder_capacity == 0 ? 1 : h->holder_capacity);
  if (full && holders_grow(h) != 0) { return TARN_ENOMEM; }
  holders_of(h)[h->holder_count++] = pid;
  return 0;
}

bool tarn__holder_remove(tarn__held_t *h, uint32_t pid) {
  uint32_t *holders = holders_of(h);
  for (uint32_t i = 0; i < h->holder_count; i++) {
    if (holders[i] == pid) {
      holders[i] = holders[--h->holder_count];
      return true;
    }
  }
  return false;
}

size_t tarn__refs_holders(tarn_service_t *s, uint64_t id, uint32_t *pids, size_t max, bool *here,
                          uint32_t *pins) {
  size_t n = 0;
  tarn__refs_lock(s);
  uint32_t sole = tarn__sole_get(&s->refs.soles, id);
  const tarn__held_t *h = sole == 0 ? tarn__held_peek(s, s->id, id) : NULL;
  *here = sole == 0 && (h == NULL || h->uds > 0); /* of what has never left nobody else knows */
  *pins = h != NULL ? h->pins : 0;
  if (sole != 0 && sole < TARN__SOLE_ALL && max > 0) { pids[n++] = sole; }
  for (uint32_t i = 0; h != NULL && i < h->holder_count && n < max; i++) {
    pids[n++] = tarn__holders(h)[i];
  }
  tarn__refs_unlock(s);
  return n;
}

void tarn__refs_settle(tarn_service_t *s) {
  tarn__refs_lock(s);
  tarn__numbers_t doomed = s->refs.doomed;
  s->refs.doomed = (tarn__numbers_t){0};
  tarn__refs_unlock(s);
  tarn_pool_delete_many(s->pool, doomed.at, doomed.count);
  tarn__numbers_clear(&doomed);
}

void tarn_service_settle_refs(tarn_service_t *s) { tarn__refs_settle(s); }

/* ---- guards ---- */

static int count_ref(void *user, const tarn_image_ref_t *ref) {
  (void)ref;
  (*(uint32_t *)user)++;
  return 0;
}

typedef struct fill {
  tarn_service_t *s;
  tarn__guard_t *guard;
  const tarn__numbers_t *moved;
} fill_t;

tarn_place_t tarn__place_told(uint32_t origin, uint64_t id, const tarn__numbers_t *moved) {
  for (size_t i = 0; moved != NULL && i + 3 < moved->count; i += 4) {
    if (moved->at[i] == origin && moved->at[i + 1] == id) {
      return (tarn_place_t){(uint32_t)moved->at[i + 2], (uint32_t)moved->at[i + 3]};
    }
  }
  return (tarn_place_t){origin, 0};
}

/* See that h is registered with its owner, soon. */
static int ask_for(tarn_service_t *s, tarn__held_t *h) {
  if (h->asked == TARN__TO_ASK) { tarn__held_queue(s, h); }
  return h->asked == TARN__TO_ASK && !h->queued ? TARN_ENOMEM : 0;
}

static int pin_ref(void *user, const tarn_image_ref_t *ref) {
  fill_t *f = user;
  tarn_place_t place = tarn__place_told(ref->owner, ref->id, f->moved);
  tarn__held_t *h = tarn__held_find(f->s, ref->owner, ref->id);
  if (h == NULL) {
    h = tarn__held_get(f->s, ref->owner, ref->id, place.owner);
    if (h == NULL) { return TARN_ENOMEM; }
    h->moves = place.moves;
  } else if (atomic_load(&h->at) != f->s->id) { /* else we could only have handed it over */
    (void)tarn__held_moved(f->s, h, place);     /* what is registered there must be dropped there */
  }
  h->pins++;
  f->guard->held[f->guard->count++] = h;
  return ask_for(f->s, h); /* not asked for, it would not be protected */
}

int tarn__guard_create(tarn_service_t *s, const uint8_t *front, size_t size,
                       const tarn__numbers_t *moved, tarn__guard_t **out) {
  *out = NULL;
  tarn_image_t im;
  if (!tarn_image_has_head(front, size) || tarn_image_open(front, size, &im, NULL) != 0) {
    return 0; /* who decodes it will say what is wrong */
  }
  uint32_t count = 0;
  (void)tarn_image_each_ref(&im, count_ref, &count);
  if (count == 0) { return 0; }
  tarn__guard_t *g = tarn_malloc(sizeof(*g) + count * sizeof(g->held[0]));
  if (g == NULL) { return TARN_ENOMEM; }
  g->count = 0;
  fill_t f = {s, g, moved};
  int rc = tarn_image_each_ref(&im, pin_ref, &f);
  if (rc != 0) {
    tarn__guard_unpin(s, g);
    return TARN_ENOMEM;
  }
  *out = g;
  return 0;
}

tarn__guard_t *tarn__guard_clone(const tarn__guard_t *g) {
  size_t size = sizeof(*g) + g->count * sizeof(g->held[0]);
  tarn__guard_t *copy = tarn_malloc(size);
  if (copy == NULL) { return NULL; }
  memcpy(copy, g, size);
  for (uint32_t i = 0; i < g->count; i++) { g->held[i]->pins++; }
  return copy;
}

void tarn__guard_unpin(tarn_service_t *s, tarn__guard_t *g) {
  for (uint32_t i = 0; i < g->count; i++) {
    g->held[i]->pins--;
    tarn__held_check(s, g->held[i]);
  }
  tarn_free(g);
}

int tarn_service_guard(tarn_service_t *s, const uint8_t *front, size_t size, tarn_guard_t **out) {
  *out = NULL;
  if (!tarn_image_has_head(front, size)) { return 0; }
  tarn__guard_t *g = NULL;
  tarn__refs_lock(s);
  int rc = tarn__guard_create(s, front, size, NULL, &g);
  tarn__refs_unlock(s);
  if (g != NULL) { *out = &g->base; }
  return rc;
}

int tarn_service_guard_value(tarn_service_t *s, tarn_value_t *v) {
  size_t size = 0;
  const uint8_t *front = tarn_value_front(v, &size);
  tarn_guard_t *g = NULL;
  int rc = tarn_service_guard(s, front, size, &g);
  if (rc == 0 && g != NULL && (rc = tarn_value_set_guard(v, g)) != 0) {
    tarn_service_unguard(s, g);
  }
  return rc;
}

void tarn_service_unguard(tarn_service_t *s, tarn_guard_t *guard) {
  if (guard == NULL) { return; }
  tarn__refs_lock(s);
  tarn__guard_unpin(s, (tarn__guard_t *)(void *)guard);
  tarn__refs_unlock(s);
}

/* ---- Lua's userdata ---- */

tarn_held_t *tarn_service_ref_open(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t at) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_get(s, origin, id, at);
  if (h != NULL && ask_for(s, h) != 0) {
    tarn__held_check(s, h);
    h = NULL;
  }
  if (h != NULL) { h->uds++; }
  tarn__refs_unlock(s);
  return h;
}

void tarn_service_ref_close(tarn_service_t *s, tarn_held_t *h) {
  tarn__refs_lock(s);
  h->uds--;
  tarn__held_check(s, h);
  tarn__refs_unlock(s);
}

uint32_t tarn_service_ref_owner(const tarn_held_t *h) {
  return atomic_load_explicit(&((tarn_held_t *)(uintptr_t)h)->at, memory_order_relaxed);
}

uint64_t tarn_service_ref_local(tarn_service_t *s, const tarn_held_t *h) {
  tarn__refs_lock(s);
  uint64_t local = atomic_load(&((tarn_held_t *)(uintptr_t)h)->at) == s->id ? h->local : 0;
  tarn__refs_unlock(s);
  return local;
}

void tarn_service_ref_figures(tarn_service_t *s, tarn_ref_figures_t *out) {
  tarn__refs_lock(s);
  out->entries = s->refs.count + s->refs.soles.count;
  out->transfers = s->refs.transfers.count;
  out->fencing = s->refs.fencing || !tarn_list_empty(&s->refs.fences);
  tarn__refs_unlock(s);
}

/* ---- start, end ---- */

static void free_waits(tarn_list_t *list) {
  while (!tarn_list_empty(list)) {
    tarn__wait_t *w = TARN_CONTAINER(list->next, tarn__wait_t, link);
    tarn_list_remove(&w->link);
    if (--w->say->waits == 0) { tarn_free(w->say); }
    tarn_free(w);
  }
}

static void party_free(tarn__party_t *p) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn__held_t *h; (h = tarn_map_next(&p->made, &cursor, &id)) != NULL;) { entry_free(h); }
  tarn_map_clear(&p->made);
  free_waits(&p->waiting);
  tarn__numbers_t *numbers[] = {&p->got, &p->done, &p->fenced, &p->moved, &p->told};
  for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
    tarn__numbers_clear(numbers[i]);
  }
  tarn_free(p);
}

void tarn__refs_init(tarn_service_t *s) {
  tarn_refs_t *r = &s->refs;
  pthread_mutex_init(&r->mutex, NULL);
  tarn_map_init(&r->parties);
  tarn_map_init(&r->transfers);
  tarn_map_init(&r->soles.pages);
  tarn_list_init(&r->busy);
  tarn_list_init(&r->fences);
}

void tarn__refs_free(tarn_service_t *s) {
  tarn_refs_t *r = &s->refs;
  size_t cursor = 0;
  uint64_t key = 0;
  for (tarn__transfer_t *t; (t = tarn_map_next(&r->transfers, &cursor, &key)) != NULL;) {
    free_waits(&t->waits);
    tarn_free(t->guard);
    tarn_free(t);
  }
  tarn_map_clear(&r->transfers);
  cursor = 0;
  for (tarn__party_t *p; (p = tarn_map_next(&r->parties, &cursor, &key)) != NULL;) {
    party_free(p);
  }
  tarn_map_clear(&r->parties);
  tarn__sole_clear(&r->soles);
  while (!tarn_list_empty(&r->fences)) {
    tarn__fence_t *f = TARN_CONTAINER(r->fences.next, tarn__fence_t, link);
    tarn_list_remove(&f->link);
    tarn_free(f);
  }
  tarn__numbers_clear(&r->doomed);
  tarn__numbers_clear(&r->ended);
  tarn__numbers_clear(&r->kept);
  pthread_mutex_destroy(&r->mutex);
}
