/* A large object that many processes read comes to them through each other, so that its owner's link is not the limit. (Where the owner's memory is mapped
 * nothing is sent, and nothing of this happens.)
 *
 * The owner: the first reader is answered as ever. When another process asks for the same object soon after, the object is *spread*: who asks is told of
 * a *source* (TARN_EELSEWHERE), which is the owner itself, or a process that has got the object before; one reader at a time each, and who asks while
 * all are busy waits. So with n readers the owner sends it about log2(n) times. When nobody has asked for LINGER_MS, that is over and the sources are told.
 *
 * A reader asks its source (`spread.get`), keeps what comes as an object of its own pool that is dropped under pressure, and tells the owner (`spread.done`), which may
 * now send others there (spread_read.c). What cannot be had from a source (it is lost, it has dropped its copy) the reader asks the owner for again, who will
 * not name that source any more: in the end it is the owner itself. Who gives up says so (`spread.leave`). What is reserved for a reader that never
 * says anything is free after BUSY_MS.
 *
 * [loop] */
#include <string.h>
#include "service-private.h"

#define MEMBERS_MIN 9u /* with fewer the owner sends to each */
#define SOON_MS UINT64_C(1000)
#define LINGER_MS UINT64_C(2000)
#define BUSY_MS UINT64_C(20000)

/* Of an object that is being spread, a process that has its bytes. */
typedef struct source {
  uint32_t pid, reader;       /* reader: to whom it is sending; 0: nobody */
  uint64_t host, reader_host; /* host_of */
  uint64_t until_ms;          /* when that is no longer believed */
} source_t;

typedef struct reader {
  tarn_list_t link;
  uint64_t token; /* of its connection */
  uint64_t host;  /* host_of */
  uint32_t pid, msgid;
} reader_t;

typedef struct spread {
  uint64_t local; /* the object's number in our pool; origin, id: its name */
  uint64_t id;
  uint32_t origin;
  source_t *sources; /* owned; the first is ourselves */
  size_t count, capacity;
  tarn_list_t readers; /* who wait for a source */
  uint64_t used_ms;
} spread_t;

/* A notification. Where there is no connection the other end has forgotten us, and all that it would say. */
void tarn__spread_tell(tarn_service_t *s, uint32_t pid, const char *method, const uint64_t *figures,
                       uint32_t count) {
  const tarn_member_t *m = tarn__member_get(s, pid);
  if (m == NULL || m->conn == NULL) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, count);
  for (uint32_t i = 0; i < count; i++) { rc |= tarn_mp_write_uint(&b, figures[i]); }
  if (rc == 0) { tarn__send_notice(s, m->conn, method, &b); }
  tarn_buf_release(&b);
}

/* ---- the owner ---- */

static void tell_end(tarn_service_t *s, uint32_t pid, uint32_t origin, uint64_t id) {
  const uint64_t figures[] = {origin, id};
  tarn__spread_tell(s, pid, "spread.end", figures, 2);
}

static void drop_reader(reader_t *r) {
  tarn_list_remove(&r->link);
  tarn_free(r);
}

static void free_spread(spread_t *sp) {
  while (!tarn_list_empty(&sp->readers)) {
    drop_reader(TARN_CONTAINER(sp->readers.next, reader_t, link));
  }
  tarn_free(sp->sources);
  tarn_free(sp);
}

static source_t *source_of(spread_t *sp, uint32_t pid) {
  for (size_t i = 0; i < sp->count; i++) {
    if (sp->sources[i].pid == pid) { return &sp->sources[i]; }
  }
  return NULL;
}

static void remove_source(spread_t *sp, uint32_t pid) {
  source_t *at = source_of(sp, pid);
  if (at == NULL || at == sp->sources) { return; } /* the first, ourselves, stays */
  *at = sp->sources[--sp->count];
}

/* A number for the host of a process, whose processes map each other's memory; 0: none do. */
static uint64_t host_of(tarn_service_t *s, uint32_t pid) {
  const tarn_member_t *m = tarn__member_get(s, pid);
  bool known = m != NULL && m->conn != NULL && m->conn->up;
  const char *text = known ? tarn_peer_identity(m->conn->peer)->host : "";
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (const char *p = text; *p != '\0'; p++) {
    hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
  }
  return text[0] != '\0' ? hash : 0;
}

static int add_source(tarn_service_t *s, spread_t *sp, uint32_t pid) {
  if (source_of(sp, pid) != NULL) { return 0; }
  if (sp->count == sp->capacity) {
    size_t more = sp->capacity == 0 ? 8 : sp->capacity * 2;
    source_t *list = tarn_realloc(sp->sources, more * sizeof(*list));
    if (list == NULL) { return TARN_ENOMEM; }
    sp->sources = list;
    sp->capacity = more;
  }
  sp->sources[sp->count++] = (source_t){.pid = pid, .host = host_of(s, pid)};
  return 0;
}

static spread_t *spread_create(tarn_service_t *s, uint64_t local, uint32_t origin, uint64_t id) {
  spread_t *sp = tarn_calloc(1, sizeof(*sp));
  if (sp == NULL) { return NULL; }
  tarn_list_init(&sp->readers);
  sp->local = local;
  sp->origin = origin;
  sp->id = id;
  if (add_source(s, sp, s->id) != 0 || tarn_map_set(&s->spread.objects, local, sp) != 0) {
    free_spread(sp);
    return NULL;
  }
  return sp;
}

static bool is_busy(const source_t *at, uint64_t now) {
  return at->reader != 0 && now < at->until_ms;
}

/* Where the reader has it from: a source on its host, whose memory it maps, so that it does not matter what else that is doing; else one that is
 * free, ourselves last. Null: it has to wait, perhaps because another process of its host is getting it just then. */
static source_t *choose(tarn_service_t *s, spread_t *sp, const reader_t *r) {
  source_t *best = NULL;
  uint64_t now = uv_now(s->loop);
  bool coming = false;
  for (size_t i = sp->count; i-- > 0;) {
    source_t *at = &sp->sources[i];
    bool busy = is_busy(at, now);
    coming = coming || (busy && r->host != 0 && at->reader_host == r->host);
    if (at->pid == r->pid) { continue; }
    if (r->host != 0 && at->host == r->host) { return at; }
    if (!busy && best == NULL) { best = at; }
  }
  return coming ? NULL : best;
}

/* Why the object cannot be had from here any more. 0: it can. */
static int is_gone(tarn_service_t *s, const spread_t *sp, tarn_error_t *err) {
  uint64_t local = 0, size = 0;
  tarn_place_t at = {0};
  int rc = tarn_service_ref_find(s, sp->origin, sp->id, &local, &at);
  if (rc == TARN_EMOVED) {
    tarn_service_moved_error(err, at);
  } else if (rc != 0 || tarn_pool_size_of(s->pool, sp->local, &size) != 0) {
    rc = tarn_error_set(err, TARN_ENOENT, "no object %u:%llu (deleted, or dropped under pressure)",
                        sp->origin, (unsigned long long)sp->id);
  }
  return rc;
}

static void tell_source(tarn_service_t *s, spread_t *sp, tarn_conn_t *c, const reader_t *r,
                        source_t *from) {
  tarn_error_t err;
  if (r->host == 0 || from->host != r->host) {
    from->reader = r->pid;
    from->reader_host = r->host;
    from->until_ms = sp->used_ms + BUSY_MS;
  }
  tarn_error_set(&err, TARN_EELSEWHERE, "process %u has it", from->pid);
  err.needed = from->pid;
  tarn__send_error(s, c, r->msgid, &err);
}

/* Those who wait are told of a source, as far as there are any for them. */
static void deal(tarn_service_t *s, spread_t *sp) {
  sp->used_ms = uv_now(s->loop);
  for (tarn_list_t *l = sp->readers.next, *next; l != &sp->readers; l = next) {
    next = l->next;
    reader_t *r = TARN_CONTAINER(l, reader_t, link);
    tarn_conn_t *c = tarn_map_get(&s->conns, r->token);
    tarn_error_t err = {0};
    bool gone = c == NULL || is_gone(s, sp, &err) != 0;
    source_t *from = gone ? NULL : choose(s, sp, r);
    if (from != NULL) {
      tell_source(s, sp, c, r, from);
    } else if (c != NULL && gone) {
      tarn__send_error(s, c, r->msgid, &err);
    } else if (c != NULL) {
      continue;
    }
    drop_reader(r);
  }
}

/* Has another process asked for it a moment ago? This one has, from now on. */
static bool asked_by_others(tarn_service_t *s, uint64_t local, uint32_t pid) {
  uint64_t now = uv_now(s->loop);
  bool others = false;
  for (size_t i = 0; i < TARN__SPREAD_RECENT; i++) {
    const tarn__spread_asked_t *a = &s->spread.recent[i];
    others = others || (a->local == local && a->pid != pid && a->pid != 0 && now - a->ms < SOON_MS);
  }
  s->spread.recent[s->spread.next++ % TARN__SPREAD_RECENT] =
      (tarn__spread_asked_t){.local = local, .pid = pid, .ms = now};
  return others;
}

bool tarn__spread_ask(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, uint64_t local,
                      uint32_t origin, uint64_t id) {
  if (s->members.count < MEMBERS_MIN || c->pid == 0) { return false; }
  spread_t *sp = tarn_map_get(&s->spread.objects, local);
  if (sp == NULL && !asked_by_others(s, local, c->pid)) { return false; }
  if (sp == NULL) { sp = spread_create(s, local, origin, id); }
  reader_t *r = sp != NULL ? tarn_calloc(1, sizeof(*r)) : NULL;
  if (r == NULL) { return false; }
  r->token = c->token;
  r->host = host_of(s, c->pid);
  r->pid = c->pid;
  r->msgid = msgid;
  tarn_list_push_back(&sp->readers, &r->link);
  deal(s, sp);
  return true;
}

static spread_t *spread_of(tarn_service_t *s, uint32_t origin, uint64_t id) {
  uint64_t local = 0;
  tarn_place_t at = {0};
  bool ours = tarn_service_ref_find(s, origin, id, &local, &at) == 0;
  return ours ? tarn_map_get(&s->spread.objects, local) : NULL;
}

static void release_sources(spread_t *sp, uint32_t reader) {
  for (size_t i = 0; i < sp->count; i++) {
    if (sp->sources[i].reader == reader) { sp->sources[i].reader = 0; }
  }
}

/* [origin, id, source, outcome]: the sender has got it from there, or has not. */
static void on_done(tarn_service_t *s, const tarn_conn_t *c, uint32_t origin, uint64_t id,
                    uint32_t from, uint64_t outcome) {
  spread_t *sp = spread_of(s, origin, id);
  if (sp == NULL || (outcome == TARN__SPREAD_KEPT && add_source(s, sp, c->pid) != 0)) {
    if (outcome == TARN__SPREAD_KEPT) { tell_end(s, c->pid, origin, id); }
    return;
  }
  source_t *source = source_of(sp, from);
  if (source != NULL && source->reader == c->pid) { source->reader = 0; }
  if (outcome == TARN__SPREAD_FAILED && from != s->id && source != NULL) {
    remove_source(sp, from);
    tell_end(s, from, origin, id); /* it may live, and have it */
  }
  deal(s, sp);
}

/* [origin, id, msgid]: the sender waits no longer for what it has asked by that. */
static void on_leave(tarn_service_t *s, const tarn_conn_t *c, uint32_t origin, uint64_t id,
                     uint32_t msgid) {
  spread_t *sp = spread_of(s, origin, id);
  if (sp == NULL) { return; }
  for (tarn_list_t *l = sp->readers.next; l != &sp->readers; l = l->next) {
    reader_t *r = TARN_CONTAINER(l, reader_t, link);
    if (r->pid == c->pid && r->msgid == msgid) {
      drop_reader(r);
      return;
    }
  }
  release_sources(sp, c->pid); /* it was told of one in the meantime */
  deal(s, sp);
}

static bool is_idle(const spread_t *sp, uint64_t now) {
  if (!tarn_list_empty(&sp->readers) || now - sp->used_ms < LINGER_MS) { return false; }
  for (size_t i = 0; i < sp->count; i++) {
    if (is_busy(&sp->sources[i], now)) { return false; }
  }
  return true;
}

void tarn__spread_tick(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t local = 0, idle = 0, now = uv_now(s->loop);
  for (spread_t *sp; (sp = tarn_map_next(&s->spread.objects, &cursor, &local)) != NULL;) {
    if (is_idle(sp, now)) {
      idle = local;
    } else if (!tarn_list_empty(&sp->readers)) {
      deal(s, sp); /* what was reserved may be free */
    }
  }
  spread_t *sp = idle != 0 ? tarn_map_remove(&s->spread.objects, idle) : NULL;
  if (sp == NULL) { return; } /* one a tick: there are never many */
  for (size_t i = 1; i < sp->count; i++) { tell_end(s, sp->sources[i].pid, sp->origin, sp->id); }
  free_spread(sp);
}

static void forget_reader(tarn_service_t *s, spread_t *sp, uint32_t pid) {
  bool lost = tarn__member_get(s, pid) == NULL;
  for (tarn_list_t *l = sp->readers.next, *next; l != &sp->readers; l = next) {
    next = l->next;
    reader_t *r = TARN_CONTAINER(l, reader_t, link);
    bool gone = tarn_map_get(&s->conns, r->token) == NULL; /* it may have another connection */
    if (gone || (lost && r->pid == pid)) { drop_reader(r); }
  }
  remove_source(sp, pid);
  release_sources(sp, pid);
  deal(s, sp);
}

void tarn__spread_notice(tarn_service_t *s, const tarn_conn_t *c, const char *method,
                         tarn_mp_reader_t *r) {
  uint64_t origin = 0, id = 0, last[2] = {0};
  if (tarn_mp_read_uint(r, UINT32_MAX, &origin) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &id) != 0) {
    return;
  }
  if (strcmp(method, "spread.end") == 0) {
    tarn__spread_end(s, c->pid, (uint32_t)origin, id);
  } else if (tarn_mp_read_uint(r, UINT32_MAX, &last[0]) != 0) {
    return;
  } else if (strcmp(method, "spread.leave") == 0) {
    on_leave(s, c, (uint32_t)origin, id, (uint32_t)last[0]);
  } else if (strcmp(method, "spread.done") == 0 &&
             tarn_mp_read_uint(r, TARN__SPREAD_KEPT, &last[1]) == 0) {
    on_done(s, c, (uint32_t)origin, id, (uint32_t)last[0], last[1]);
  }
}

void tarn__spread_forget(tarn_service_t *s, uint32_t pid) {
  size_t cursor = 0;
  uint64_t key = 0;
  for (spread_t *sp; (sp = tarn_map_next(&s->spread.objects, &cursor, &key)) != NULL;) {
    forget_reader(s, sp, pid);
  }
  tarn__spread_read_forget(s, pid);
}

void tarn__spread_init(tarn_service_t *s) {
  tarn_map_init(&s->spread.objects);
  tarn_map_init(&s->spread.asked);
  tarn_list_init(&s->spread.copies);
}

void tarn__spread_free(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t key = 0;
  for (spread_t *sp; (sp = tarn_map_next(&s->spread.objects, &cursor, &key)) != NULL;) {
    free_spread(sp);
  }
  tarn_map_clear(&s->spread.objects);
  tarn__spread_read_free(s);
}
