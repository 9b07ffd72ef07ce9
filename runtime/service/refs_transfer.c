/* Messages that carry references: what leaves is protected until it is answered; what arrives is pinned, registered and answered. */
#include <string.h>
#include "refs-private.h"
#include "service-private.h"

/* ---- what is said when other things have happened ---- */

tarn__say_t *tarn__say_create(tarn__say_kind_t kind, uint32_t to, uint64_t number) {
  tarn__say_t *say = tarn_calloc(1, sizeof(*say));
  if (say == NULL) { return NULL; }
  say->kind = kind;
  say->to = to;
  say->number = number;
  say->waits = 1; /* for whoever sets it up */
  return say;
}

void tarn__say_less(tarn_service_t *s, tarn__say_t *say) {
  if (--say->waits > 0) { return; }
  tarn__party_t *p = tarn__party(s, say->to);
  int rc = p == NULL ? TARN_ENOMEM : 0;
  if (rc == 0 && !p->lost) {
    if (say->kind == TARN__SAY_TOLD) {
      rc = tarn__numbers_add(&p->told, say->round);
      rc |= tarn__numbers_add(&p->told, say->origin);
      rc |= tarn__numbers_add(&p->told, say->number);
      rc |= tarn__numbers_add(&p->told, say->moves);
    } else {
      tarn__numbers_t *to[] = {
          [TARN__SAY_GOT] = &p->got, [TARN__SAY_DONE] = &p->done, [TARN__SAY_FENCED] = &p->fenced};
      rc = tarn__numbers_add(to[say->kind], say->number);
    }
    tarn__party_busy(s, p);
  }
  if (rc != 0) {
    tarn_log(TARN_LOG_ERROR, "out of memory: what process %u has sent stays held", say->to);
  }
  tarn_free(say);
}

int tarn__say_wait(tarn__say_t *say, tarn_list_t *list, uint64_t number) {
  tarn_list_t *last = list->prev;
  if (last != list) {
    tarn__wait_t *w = TARN_CONTAINER(last, tarn__wait_t, link);
    if (w->say == say) { /* one wait for all of a message's references to one process */
      if (w->number < number) { w->number = number; }
      return 0;
    }
  }
  tarn__wait_t *w = tarn_malloc(sizeof(*w));
  if (w == NULL) { return TARN_ENOMEM; }
  w->say = say;
  w->number = number;
  say->waits++;
  tarn_list_push_back(list, &w->link);
  return 0;
}

/* The number of the refs.hold that registers h; 0: it is registered. */
static uint64_t hold_of(const tarn__held_t *h, const tarn__party_t *registrar) {
  if (h->asked == 0 || registrar->lost) { return 0; }
  if (h->asked == TARN__TO_ASK) { return registrar->hold_number + 1; } /* the next that leaves */
  return h->asked > registrar->held_number ? h->asked : 0;
}

int tarn__say_wait_held(tarn_service_t *s, tarn__say_t *say, const tarn__held_t *h) {
  if (tarn_service_ref_owner(h) == s->id) { return 0; }
  tarn__party_t *registrar = tarn__held_registrar(s, h);
  if (registrar == NULL) { return TARN_ENOMEM; }
  uint64_t number = hold_of(h, registrar);
  return number == 0 ? 0 : tarn__say_wait(say, &registrar->waiting, number);
}

int tarn__say_wait_all(tarn_service_t *s, tarn__say_t *say) {
  size_t cursor = 0;
  uint64_t pid = 0;
  int rc = 0;
  for (tarn__party_t *p; rc == 0 && (p = tarn_map_next(&s->refs.parties, &cursor, &pid)) != NULL;) {
    if (p->lost || p->pid == s->id) { continue; }
    uint64_t number = p->hold_number;
    for (tarn_list_t *l = p->todo.next; l != &p->todo; l = l->next) {
      if (TARN_CONTAINER(l, tarn__held_t, link)->asked == TARN__TO_ASK) {
        number = p->hold_number + 1;
        break;
      }
    }
    if (number > p->held_number) { rc = tarn__say_wait(say, &p->waiting, number); }
  }
  return rc;
}

/* ---- leaving ---- */

int tarn__refs_depart(tarn_service_t *s, tarn_conn_t *c, tarn_payload_t *p, uint64_t *transfer) {
  *transfer = 0;
  tarn__guard_t *of_value =
      p->value != NULL ? (tarn__guard_t *)(void *)tarn_value_guard(p->value) : NULL;
  tarn__guard_t *g = (tarn__guard_t *)(void *)p->guard;
  if (g == NULL && of_value == NULL) { return 0; }
  if (c->foreign) { return tarn__refs_give_foreign(s, c, g != NULL ? g : of_value); }
  if (c->pid == 0) { return 0; } /* it is lost, and its connection closing: nothing will arrive */
  tarn__refs_lock(s);
  if (g == NULL) { g = tarn__guard_clone(of_value); }
  tarn__transfer_t *t = g != NULL ? tarn_malloc(sizeof(*t) + g->count * sizeof(t->at[0])) : NULL;
  int rc = t == NULL || tarn__party(s, c->pid) == NULL ? TARN_ENOMEM
                                                       : 0; /* who is asked when c breaks */
  if (rc == 0) {
    t->number = ++s->refs.last_transfer;
    t->to = c->pid;
    t->token = c->token;
    t->guard = g;
    tarn_list_init(&t->waits);
    for (uint32_t i = 0; i < g->count; i++) {
      t->at[i] = (tarn_place_t){atomic_load(&g->held[i]->at), g->held[i]->moves};
    }
    rc = tarn_map_set(&s->refs.transfers, t->number, t);
  }
  if (rc == 0) {
    *transfer = t->number;
    tarn__party(s, c->pid)->transfers++;
  } else {
    tarn_free(t);
    if (g != NULL && p->guard == NULL) { tarn__guard_unpin(s, g); }
  }
  tarn__refs_unlock(s);
  if (rc == 0) { p->guard = NULL; } /* the transfer's now */
  return rc;
}

/* Where it was made is what the receiver takes for granted. */
static bool needs_telling(const tarn__transfer_t *t, uint32_t i) {
  return t->at[i].moves > 0 || t->at[i].owner != t->guard->held[i]->origin;
}

int tarn__refs_write(tarn_service_t *s, uint64_t transfer, tarn_buf_t *b) {
  tarn_buf_t inner;
  tarn_buf_init(&inner, 1u << 28);
  tarn__refs_lock(s);
  const tarn__transfer_t *t = tarn_map_get(&s->refs.transfers, transfer);
  uint32_t moved = 0;
  for (uint32_t i = 0; i < t->guard->count; i++) { moved += needs_telling(t, i); }
  int rc = tarn_mp_write_array(&inner, 1 + 4 * moved);
  rc |= tarn_mp_write_uint(&inner, transfer);
  for (uint32_t i = 0; i < t->guard->count && rc == 0 && moved > 0; i++) {
    const tarn__held_t *h = t->guard->held[i];
    if (!needs_telling(t, i)) { continue; }
    rc = tarn_mp_write_uint(&inner, h->origin);
    rc |= tarn_mp_write_uint(&inner, h->id);
    rc |= tarn_mp_write_uint(&inner, t->at[i].owner);
    rc |= tarn_mp_write_uint(&inner, t->at[i].moves);
  }
  tarn__refs_unlock(s);
  rc |= tarn_mp_write_ext_header(b, TARN_TRANSFER_EXT, inner.size);
  rc |= tarn_buf_append(b, inner.data, inner.size);
  tarn_buf_release(&inner);
  return rc == 0 ? 0 : TARN_ENOMEM;
}

void tarn__transfer_end(tarn_service_t *s, tarn__transfer_t *t) {
  tarn__party_t *p = tarn_map_get(&s->refs.parties, t->to);
  tarn_map_remove(&s->refs.transfers, t->number);
  if (p != NULL) { p->transfers--; }
  while (!tarn_list_empty(&t->waits)) {
    tarn__wait_t *w = TARN_CONTAINER(t->waits.next, tarn__wait_t, link);
    tarn_list_remove(&w->link);
    tarn__say_less(s, w->say);
    tarn_free(w);
  }
  tarn__guard_unpin(s, t->guard);
  tarn_free(t);
}

void tarn__refs_abort(tarn_service_t *s, uint64_t transfer) {
  if (transfer == 0) { return; }
  tarn__refs_lock(s);
  tarn__transfer_t *t = tarn_map_get(&s->refs.transfers, transfer);
  if (t != NULL) { tarn__transfer_end(s, t); }
  tarn__refs_unlock(s);
}

/* ---- arriving ---- */

/* [number, origin, id, owner, moves, ...] */
static int read_transfer(const uint8_t *bytes, size_t size, uint64_t *number,
                         tarn__numbers_t *moved) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  uint32_t count = 0;
  if (tarn_mp_read_array(&r, &count) != 0 || count % 4 != 1 ||
      tarn_mp_read_uint(&r, UINT64_MAX, number) != 0) {
    return TARN_EPROTO;
  }
  for (uint32_t i = 1; i < count; i++) {
    uint64_t v = 0;
    if (tarn_mp_read_uint(&r, i % 4 == 2 ? UINT64_MAX : UINT32_MAX, &v) != 0) {
      return TARN_EPROTO;
    }
    if (tarn__numbers_add(moved, v) != 0) { return TARN_ENOMEM; }
  }
  return 0;
}

/* If the sender says that it owns an object, its note of our answer registers us. (If it has moved since, the sender tells us.) */
static int answer(tarn_service_t *s, const tarn_conn_t *c, uint64_t number, const tarn__guard_t *g,
                  const tarn__numbers_t *moved) {
  tarn__say_t *say = tarn__say_create(TARN__SAY_GOT, c->pid, number);
  if (say == NULL) { return TARN_ENOMEM; }
  int rc = 0;
  for (uint32_t i = 0; g != NULL && i < g->count && rc == 0; i++) {
    tarn__held_t *h = g->held[i];
    if (tarn__place_told(h->origin, h->id, moved).owner != c->pid) {
      rc = tarn__say_wait_held(s, say, h);
    } else if (atomic_load(&h->at) == c->pid) {
      h->asked = 0;
    }
  }
  if (rc != 0) { say->kind = TARN__SAY_DONE; } /* the message will not be worked off */
  tarn__say_less(s, say);
  return rc;
}

/* Its sender has asked what became of it, and has been told, or will be, that it need not protect it. */
static bool is_late(tarn_service_t *s, const tarn_conn_t *c, uint64_t number) {
  const tarn__party_t *p = tarn_map_get(&s->refs.parties, c->pid);
  return number <= c->seen_of || (p != NULL && number <= p->asked_of);
}

int tarn__refs_arrive(tarn_service_t *s, tarn_conn_t *c, const uint8_t *transfer,
                      size_t transfer_size, const uint8_t *front, size_t size,
                      tarn_guard_t **guard) {
  *guard = NULL;
  if (transfer == NULL && !tarn_image_has_head(front, size)) { return 0; }
  tarn__numbers_t moved = {0};
  uint64_t number = 0;
  tarn__guard_t *g = NULL;
  int rc = transfer != NULL ? read_transfer(transfer, transfer_size, &number, &moved) : 0;
  tarn__refs_lock(s);
  if (rc == 0 && transfer != NULL && is_late(s, c, number)) { rc = TARN_ELOST; }
  if (rc == 0) { rc = tarn__guard_create(s, front, size, &moved, &g); }
  if (rc == 0 && transfer != NULL) { rc = answer(s, c, number, g, &moved); }
  if (rc != 0 && g != NULL) {
    tarn__guard_unpin(s, g);
    g = NULL;
  }
  tarn__refs_unlock(s);
  tarn__numbers_clear(&moved);
  if (g != NULL) { *guard = &g->base; }
  return rc;
}

void tarn__refs_refuse(tarn_service_t *s, tarn_conn_t *c, const uint8_t *transfer, size_t size) {
  tarn__numbers_t moved = {0};
  uint64_t number = 0;
  if (transfer == NULL || c->foreign || c->pid == 0 ||
      read_transfer(transfer, size, &number, &moved) != 0) {
    tarn__numbers_clear(&moved);
    return;
  }
  tarn__numbers_clear(&moved);
  tarn__refs_lock(s);
  tarn__say_t *say = tarn__say_create(TARN__SAY_DONE, c->pid, number);
  if (say != NULL) { tarn__say_less(s, say); }
  tarn__refs_unlock(s);
}

/* ---- foreign clients: what they have been given is theirs until their connection closes ---- */

static int pin_foreign(tarn_conn_t *c, tarn__held_t *h) {
  uint64_t key = (uint64_t)(uintptr_t)h;
  if (tarn_map_get(&c->holds, key) != NULL) { return 0; }
  if (tarn_map_set(&c->holds, key, h) != 0) { return TARN_ENOMEM; }
  h->pins++;
  return 0;
}

int tarn__refs_give_foreign(tarn_service_t *s, tarn_conn_t *c, const tarn__guard_t *g) {
  int rc = 0;
  tarn__refs_lock(s);
  for (uint32_t i = 0; i < g->count && rc == 0; i++) { rc = pin_foreign(c, g->held[i]); }
  tarn__refs_unlock(s);
  return rc;
}

int tarn__refs_set_foreign(tarn_service_t *s, tarn_conn_t *c, uint64_t id) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_get(s, s->id, id, s->id);
  int rc = h == NULL ? TARN_ENOMEM : pin_foreign(c, h);
  tarn__refs_unlock(s);
  return rc;
}

void tarn__refs_delete_foreign(tarn_service_t *s, tarn_conn_t *c, uint64_t id) {
  tarn__refs_lock(s);
  tarn__held_t *h = tarn__held_find(s, s->id, id);
  if (h != NULL && tarn_map_remove(&c->holds, (uint64_t)(uintptr_t)h) != NULL) {
    h->pins--;
    tarn__held_check(s, h);
  }
  tarn__refs_unlock(s);
}

void tarn__refs_foreign_down(tarn_service_t *s, tarn_conn_t *c) {
  size_t cursor = 0;
  uint64_t key = 0;
  tarn__refs_lock(s);
  for (tarn__held_t *h; (h = tarn_map_next(&c->holds, &cursor, &key)) != NULL;) {
    h->pins--;
    tarn__held_check(s, h);
  }
  tarn_map_clear(&c->holds);
  tarn__refs_unlock(s);
}
