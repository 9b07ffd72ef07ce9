/* Of an object that is being spread (spread.c), what its readers do: they ask a source, keep what comes, and are sources themselves.
 *
 * [loop] */
#include <string.h>
#include "service-private.h"

/* What we have asked for, by msgid: a source, or (source 0) the owner. */
typedef struct asked {
  uint64_t id;
  uint32_t origin, owner, source;
} asked_t;

/* What we have kept. */
typedef struct copy {
  tarn_list_t link;
  uint64_t id, local;
  uint32_t origin, owner;
} copy_t;

static copy_t *copy_of(tarn_service_t *s, uint32_t origin, uint64_t id) {
  for (tarn_list_t *l = s->spread.copies.next; l != &s->spread.copies; l = l->next) {
    copy_t *k = TARN_CONTAINER(l, copy_t, link);
    if (k->origin == origin && k->id == id) { return k; }
  }
  return NULL;
}

uint64_t tarn__spread_copy(tarn_service_t *s, uint32_t origin, uint64_t id) {
  const copy_t *k = copy_of(s, origin, id);
  return k != NULL ? k->local : 0;
}

static void drop_copy(tarn_service_t *s, copy_t *k) {
  (void)tarn_pool_delete(s->pool, k->local); /* under pressure it may have gone before */
  tarn_list_remove(&k->link);
  tarn_free(k);
}

/* A value without blocks has come in its frame; null: it is none, or there is no memory. */
static tarn_value_t *value_of(tarn_service_t *s, const uint8_t *image, size_t size) {
  tarn_image_t im;
  tarn_error_t err = {0};
  if (tarn_image_open(image, size, &im, &err) != 0 || im.block_count > 0) { return NULL; }
  uint8_t *front = tarn_malloc(size);
  tarn_value_t *v = NULL;
  if (front == NULL) { return NULL; }
  memcpy(front, image, size);
  if (tarn_value_create(s->pool, front, size, NULL, 0, &v, &err) != 0) {
    tarn_free(front);
    return NULL;
  }
  if (tarn_service_guard_value(s, v) == 0) { return v; }
  tarn_value_release(v);
  return NULL;
}

static int keep(tarn_service_t *s, const asked_t *a, tarn_value_t *v) {
  copy_t *old = copy_of(s, a->origin, a->id);
  uint64_t size = 0;
  if (old != NULL && tarn_pool_size_of(s->pool, old->local, &size) == 0) {
    return TARN__SPREAD_KEPT;
  }
  if (old != NULL) { drop_copy(s, old); }
  copy_t *k = tarn_calloc(1, sizeof(*k));
  if (k == NULL) { return TARN__SPREAD_GOT; }
  tarn_error_t err = {0};
  uint32_t flags = (uint32_t)TARN_OBJECT_DESTROY_ON_EVICT << 8;
  if (tarn_pool_set_value(s->pool, v, flags, &k->local, &err) != 0) {
    tarn_free(k);
    return TARN__SPREAD_GOT;
  }
  k->origin = a->origin;
  k->id = a->id;
  k->owner = a->owner;
  tarn_list_push_back(&s->spread.copies, &k->link);
  return TARN__SPREAD_KEPT;
}

static void tell_done(tarn_service_t *s, const asked_t *a, int outcome) {
  const uint64_t figures[] = {a->origin, a->id, a->source, (uint64_t)outcome};
  tarn__spread_tell(s, a->owner, "spread.done", figures, 4);
}

/* The parameters are ours: [id, origin, true] of pool.get, [id, origin, owner] of spread.get. */
void tarn__spread_asking(tarn_service_t *s, const tarn_out_t *o) {
  bool from_source = strcmp(o->method, "spread.get") == 0;
  if (!from_source && strcmp(o->method, "pool.get") != 0) { return; }
  tarn_mp_reader_t r = {o->params, o->params + o->params_size};
  uint32_t count = 0;
  uint64_t id = 0, origin = 0, owner = o->pid;
  if (tarn_mp_read_array(&r, &count) != 0 || count != 3 ||
      tarn_mp_read_uint(&r, UINT64_MAX, &id) != 0 ||
      tarn_mp_read_uint(&r, UINT32_MAX, &origin) != 0 ||
      (from_source && tarn_mp_read_uint(&r, UINT32_MAX, &owner) != 0)) {
    return;
  }
  asked_t *a = tarn_malloc(sizeof(*a));
  if (a == NULL) { return; } /* nobody is told: what is reserved for us is free after a while */
  *a = (asked_t){id, (uint32_t)origin, (uint32_t)owner, from_source ? o->pid : 0};
  if (tarn_map_set(&s->spread.asked, o->msgid, a) != 0) { tarn_free(a); }
}

void tarn__spread_answered(tarn_service_t *s, uint32_t msgid, tarn_value_t *v, const uint8_t *image,
                           size_t size) {
  asked_t *a = s->spread.asked.count > 0 ? tarn_map_remove(&s->spread.asked, msgid) : NULL;
  if (a == NULL) { return; }
  if (a->source == 0) { /* the owner's answer, whatever it is: Lua sees to it */
    tarn_free(a);
    return;
  }
  int outcome = v == NULL && image == NULL ? TARN__SPREAD_FAILED : TARN__SPREAD_GOT;
  tarn_value_t *made = v == NULL && image != NULL ? value_of(s, image, size) : NULL;
  if (v != NULL || made != NULL) { outcome = keep(s, a, v != NULL ? v : made); }
  if (made != NULL) { tarn_value_release(made); }
  tell_done(s, a, outcome);
  tarn_free(a);
}

void tarn__spread_given_up(tarn_service_t *s, uint32_t msgid) {
  asked_t *a = s->spread.asked.count > 0 ? tarn_map_get(&s->spread.asked, msgid) : NULL;
  if (a == NULL || a->source != 0) { return; } /* what comes from a source is kept all the same */
  const uint64_t figures[] = {a->origin, a->id, msgid};
  tarn__spread_tell(s, a->owner, "spread.leave", figures, 3);
  tarn_map_remove(&s->spread.asked, msgid);
  tarn_free(a);
}

void tarn__spread_end(tarn_service_t *s, uint32_t owner, uint32_t origin, uint64_t id) {
  copy_t *k = copy_of(s, origin, id);
  if (k != NULL && k->owner == owner) { drop_copy(s, k); }
}

void tarn__spread_read_forget(tarn_service_t *s, uint32_t pid) {
  for (tarn_list_t *l = s->spread.copies.next, *next; l != &s->spread.copies; l = next) {
    next = l->next;
    copy_t *k = TARN_CONTAINER(l, copy_t, link);
    if (k->owner == pid) { drop_copy(s, k); }
  }
  size_t cursor = 0;
  uint64_t msgid = 0;
  for (asked_t *a; (a = tarn_map_next(&s->spread.asked, &cursor, &msgid)) != NULL;) {
    if ((a->source != 0 ? a->source : a->owner) != pid) { continue; }
    tarn__spread_answered(s, (uint32_t)msgid, NULL, NULL, 0);
    cursor = 0; /* the map has changed */
  }
}

void tarn__spread_read_free(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t msgid = 0;
  for (asked_t *a; (a = tarn_map_next(&s->spread.asked, &cursor, &msgid)) != NULL;) {
    tarn_free(a);
  }
  while (!tarn_list_empty(&s->spread.copies)) {
    copy_t *k = TARN_CONTAINER(s->spread.copies.next, copy_t, link);
    tarn_list_remove(&k->link);
    tarn_free(k);
  }
  tarn_map_clear(&s->spread.asked);
}
