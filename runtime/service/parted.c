/* Process 1: workers that do not hear each other, while both are heard here. As long as both stay, what one asks of the other never ends, and what
 * they know of each other's references never agrees; so one of them has to go, and process 1 says which: for all the same.
 *
 * Each worker tells when it hears another no more, or is not heard by it (heartbeat.c), and when that is over. A *parting* is a pair of which at least one
 * end says so. One that lasts (PATIENCE) is ended: of the two, that one is lost which is parted from more others, else the
 * younger. But where one of the two is not heard here either, it is left to the heartbeats: it will be heard again, or be lost itself. */
#include "service-private.h"

#define PATIENCE(silence_ms) ((silence_ms)*2 / 5) /* two beats */

typedef struct parting {
  tarn_list_t link;
  uint32_t id[2];  /* the younger second */
  bool said[2];    /* by which of them */
  uint64_t age_ms; /* since the first has said so */
} parting_t;

static parting_t *find(tarn_service_t *s, uint32_t a, uint32_t b) {
  for (tarn_list_t *l = s->partings.next; l != &s->partings; l = l->next) {
    parting_t *p = TARN_CONTAINER(l, parting_t, link);
    if (p->id[0] == a && p->id[1] == b) { return p; }
  }
  return NULL;
}

static void end(parting_t *p) {
  tarn_list_remove(&p->link);
  tarn_free(p);
}

void tarn__parted_said(tarn_service_t *s, uint32_t by, tarn_mp_reader_t *r) {
  uint64_t other = 0;
  bool parted = false;
  if (s->id != TARN_DRIVER || tarn_mp_read_uint(r, UINT32_MAX, &other) != 0 ||
      tarn_mp_read_bool(r, &parted) != 0 || other == TARN_DRIVER || other == by ||
      tarn__member_get(s, by) == NULL || tarn__member_get(s, (uint32_t)other) == NULL) {
    return;
  }
  bool younger = by > other;
  uint32_t first = younger ? (uint32_t)other : by, second = younger ? by : (uint32_t)other;
  parting_t *p = find(s, first, second);
  if (p == NULL && parted) {
    p = tarn_calloc(1, sizeof(*p));
    if (p == NULL) {
      tarn_log(TARN_LOG_ERROR, "out of memory: processes %u and %u do not hear each other", first,
               second);
      return;
    }
    p->id[0] = first;
    p->id[1] = second;
    tarn_list_push_back(&s->partings, &p->link);
  }
  if (p == NULL) { return; }
  p->said[younger] = parted;
  if (!p->said[0] && !p->said[1]) { end(p); }
}

void tarn__parted_forget(tarn_service_t *s, uint32_t id) {
  for (tarn_list_t *l = s->partings.next, *next; l != &s->partings; l = next) {
    next = l->next;
    parting_t *p = TARN_CONTAINER(l, parting_t, link);
    if (p->id[0] == id || p->id[1] == id) { end(p); }
  }
}

static unsigned partings_of(tarn_service_t *s, uint32_t id) {
  unsigned n = 0;
  for (tarn_list_t *l = s->partings.next; l != &s->partings; l = l->next) {
    const parting_t *p = TARN_CONTAINER(l, parting_t, link);
    n += p->id[0] == id || p->id[1] == id;
  }
  return n;
}

static uint64_t silence_of(tarn_service_t *s, uint32_t id) {
  const tarn_member_t *m = tarn__member_get(s, id);
  return m != NULL && m->conn != NULL ? m->conn->silence_ms : 0;
}

/* Is it heard here, and does it hear this process? */
static bool is_well(tarn_service_t *s, uint32_t id) {
  const tarn_member_t *m = tarn__member_get(s, id);
  const tarn_conn_t *c = m != NULL ? m->conn : NULL;
  uint64_t most = c != NULL ? PATIENCE(c->silence_ms) : 0;
  return c != NULL && c->silent_ms <= most && c->deaf_ms <= most;
}

static parting_t *find_due(tarn_service_t *s, uint64_t passed) {
  parting_t *due = NULL;
  for (tarn_list_t *l = s->partings.next; l != &s->partings; l = l->next) {
    parting_t *p = TARN_CONTAINER(l, parting_t, link);
    uint64_t a = silence_of(s, p->id[0]), b = silence_of(s, p->id[1]);
    p->age_ms += passed;
    bool ripe = p->age_ms >= PATIENCE(a > b ? a : b);
    if (due == NULL && ripe && is_well(s, p->id[0]) && is_well(s, p->id[1])) { due = p; }
  }
  return due;
}

void tarn__parted_decide(tarn_service_t *s, uint64_t passed) {
  for (parting_t *p; !s->stopping && (p = find_due(s, passed)) != NULL; passed = 0) {
    uint32_t id = partings_of(s, p->id[0]) > partings_of(s, p->id[1]) ? p->id[0] : p->id[1];
    char reason[64];
    snprintf(reason, sizeof(reason), "it and process %u do not hear each other",
             p->id[id == p->id[0]]);
    tarn_log(TARN_LOG_WARN, "process %u is lost: %s", id, reason);
    tarn__member_lost(s, id, reason); /* and p is forgotten */
  }
}

void tarn__partings_free(tarn_service_t *s) {
  while (!tarn_list_empty(&s->partings)) { end(TARN_CONTAINER(s->partings.next, parting_t, link)); }
}
