/* What an observer (tarn top, the dashboard) is told about a process. All of it is answered here, by whoever runs the loop, so also by a process whose Lua
 * computes. An observer speaks to one process, which asks the others for it: it needs one address and one connection. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/version.h"
#include "service-private.h"

#define FORWARDS_MAX 4096u /* questions for others that are not answered yet */
#define OBJECTS_SHOWN 100u
#define HOLDERS_SHOWN 16u
#define EVENTS_COUNTED 100000u

/* ---- figures ---- */

/* Anonymous pages of this process: resident ones less those of files and of shared memory. 0: not known. */
static uint64_t anonymous_bytes(void) {
  unsigned long long pages = 0, resident = 0, shared = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (f == NULL) { return 0; }
  int got = fscanf(f, "%llu %llu %llu", &pages, &resident, &shared);
  fclose(f);
  return got == 3 && resident > shared ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static uint64_t lua_memory(tarn_service_t *s) {
  return s->config.lua_memory != NULL ? s->config.lua_memory(s->config.user) : tarn__lua_bytes(s);
}

void tarn_service_started(tarn_service_t *s) {
  uint64_t all = anonymous_bytes(), counted = lua_memory(s) + tarn_alloc_bytes();
  atomic_store(&s->program_bytes, all > counted ? all - counted : 0);
}

static uint64_t cpu_ns(void) {
  struct rusage u;
  if (getrusage(RUSAGE_SELF, &u) != 0) { return 0; }
  return ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * 1000000000u +
         ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * 1000u;
}

/* Requests that wait for Lua. */
static uint64_t queued_events(const tarn_service_t *s) {
  uint64_t n = 0;
  for (const tarn_event_t *e = s->event_first; e != NULL && n < EVENTS_COUNTED; e = e->next) {
    n += e->kind == TARN_EVENT_REQUEST || e->kind == TARN_EVENT_NOTIFY;
  }
  return n;
}

static uint64_t queued_bytes(const tarn_service_t *s) {
  uint64_t sum = 0, token = 0;
  size_t cursor = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    sum += tarn_peer_queued_bytes(c->peer);
  }
  return sum;
}

static int write_connections(tarn_service_t *s, tarn_buf_t *b) {
  size_t cursor = 0;
  uint64_t token = 0;
  int rc = tarn_mp_write_array(b, (uint32_t)s->conns.count);
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    rc |= tarn_mp_write_array(b, 4);
    rc |= tarn_mp_write_uint(b, c->pid);
    rc |= tarn_mp_write_bool(b, c->foreign);
    rc |= tarn_mp_write_uint(b, tarn_peer_received(c->peer));
    rc |= tarn_mp_write_uint(b, tarn_peer_queued_bytes(c->peer));
  }
  return rc;
}

int tarn__observe_write_stats(tarn_service_t *s, uint64_t unused, tarn_buf_t *b) {
  (void)unused;
  tarn_figure_t poolstats[TARN_FIGURES];
  tarn_pool_stats_t p;
  tarn_pool_files_t files;
  char host[256] = "";
  tarn_service_figures(s->pool, s, tarn__lua_bytes(s), poolstats);
  tarn_pool_get_stats(s->pool, &p);
  tarn_pool_get_files(s->pool, &files);
  (void)gethostname(host, sizeof(host) - 1);
  uint64_t now = tarn_clock_ns(), since = atomic_load(&s->jobs.busy_since_ns);
  /* Of what C has allocated that is not the pool's: buffers of messages, connections, tables. */
  uint64_t allocated = tarn_alloc_bytes(), pools = p.heap_bytes + p.record_bytes;
  pthread_mutex_lock(&s->jobs.mutex);
  tarn_figure_t figures[] = {
      {"id", s->id},
      {"os_pid", (uint64_t)getpid()},
      {"now_ns", now},
      {"uptime_ns", now - s->started_ns},
      {"busy_ns", atomic_load(&s->jobs.busy_ns) + (since != 0 && now > since ? now - since : 0)},
      {"cpu_ns", cpu_ns()},
      {"jobs_running", s->jobs.running},
      {"jobs_begun", s->jobs.begun},
      {"jobs_ended", s->jobs.ended},
      {"jobs_failed", s->jobs.failed},
      {"queued", queued_events(s)},
      {"lua_memory_bytes", lua_memory(s)},
      {"segment_bytes", p.segment_bytes},
      {"heap_bytes", p.heap_bytes},
      {"cached_bytes", p.cached_bytes},
      {"record_bytes", p.record_bytes},
      {"received_bytes", p.received_bytes},
      {"buffer_bytes", allocated > pools ? allocated - pools : 0},
      {"program_bytes", atomic_load(&s->program_bytes)},
      {"queued_bytes", queued_bytes(s)},
      {"mapped_out_bytes", atomic_load(&s->mapped_out_bytes)},
      {"anonymous_bytes", anonymous_bytes()},
      {"memory_file_bytes", files.memory_file_bytes},
      {"disk_free_bytes", files.disk_free_bytes},
  };
  pthread_mutex_unlock(&s->jobs.mutex);
  const size_t count = sizeof(figures) / sizeof(figures[0]);
  int rc = tarn_mp_write_map(b, (uint32_t)(count + TARN_FIGURES + 5));
  rc |= tarn__write_figures(figures, count, b);
  rc |= tarn__write_figures(poolstats, TARN_FIGURES, b);
  rc |= tarn_mp_write_cstr(b, "busy");
  rc |= tarn_mp_write_bool(b, since != 0);
  rc |= tarn_mp_write_cstr(b, "host");
  rc |= tarn_mp_write_cstr(b, host);
  rc |= tarn_mp_write_cstr(b, "address");
  rc |= tarn_mp_write_cstr(b, s->address);
  rc |= tarn_mp_write_cstr(b, "version");
  rc |= tarn_mp_write_cstr(b, tarn_version);
  rc |= tarn_mp_write_cstr(b, "connections");
  rc |= write_connections(s, b);
  return rc;
}

int tarn__observe_write_members(tarn_service_t *s, uint64_t unused, tarn_buf_t *b) {
  (void)unused;
  size_t cursor = 0;
  uint64_t id = 0;
  int rc = tarn_mp_write_array(b, (uint32_t)s->members.count);
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    rc |= tarn_mp_write_array(b, 3);
    rc |= tarn_mp_write_uint(b, m->id);
    rc |= tarn_mp_write_cstr(b, m->address);
    rc |= tarn_mp_write_int(b, m->os_pid);
  }
  return rc;
}

/* ---- objects ---- */

/* {key, size, age_ns, live, in_memory, contents, here, pins, holders} */
static int write_object(tarn_service_t *s, const tarn_object_note_t *o, tarn_buf_t *b) {
  uint32_t pids[HOLDERS_SHOWN], pins = 0;
  bool here = false;
  char key[48];
  size_t count = tarn__refs_holders(s, o->id, pids, HOLDERS_SHOWN, &here, &pins);
  snprintf(key, sizeof(key), "%u:%llu", s->id, (unsigned long long)o->id);
  const tarn_figure_t figures[] = {{"size", o->size_bytes}, {"age_ns", o->age_ns}, {"pins", pins}};
  int rc = tarn_mp_write_map(b, 9);
  rc |= tarn__write_figures(figures, 3, b);
  rc |= tarn_mp_write_cstr(b, "key");
  rc |= tarn_mp_write_cstr(b, key);
  rc |= tarn_mp_write_cstr(b, "contents");
  rc |= tarn_mp_write_cstr(b, o->contents);
  rc |= tarn_mp_write_cstr(b, "live");
  rc |= tarn_mp_write_bool(b, o->live);
  rc |= tarn_mp_write_cstr(b, "in_memory");
  rc |= tarn_mp_write_bool(b, o->in_memory);
  rc |= tarn_mp_write_cstr(b, "here");
  rc |= tarn_mp_write_bool(b, here);
  rc |= tarn_mp_write_cstr(b, "holders");
  rc |= tarn_mp_write_array(b, (uint32_t)count);
  for (size_t i = 0; i < count; i++) { rc |= tarn_mp_write_uint(b, pids[i]); }
  return rc;
}

int tarn__observe_write_objects(tarn_service_t *s, uint64_t count, tarn_buf_t *b) {
  if (count > OBJECTS_SHOWN) { count = OBJECTS_SHOWN; }
  tarn_object_note_t *notes = tarn_calloc(count + 1u, sizeof(*notes));
  if (notes == NULL) { return TARN_ENOMEM; }
  size_t n = tarn_pool_largest(s->pool, notes, count);
  int rc = tarn_mp_write_array(b, (uint32_t)n);
  for (size_t i = 0; rc == 0 && i < n; i++) { rc = write_object(s, &notes[i], b); }
  tarn_free(notes);
  return rc;
}

/* ---- asking others ---- */

typedef struct forward {
  uint64_t token; /* the connection that has asked */
  uint32_t msgid; /* by which number there */
} forward_t;

int tarn__observe_forward(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, const char *method,
                          uint32_t pid, uint64_t argument, tarn_error_t *err) {
  if (s->forwards.count >= FORWARDS_MAX) {
    return tarn_error_set(err, TARN_ENOMEM, "too many questions are not answered yet");
  }
  tarn_conn_t *to = tarn__member_conn(s, pid, err);
  if (to == NULL) { return err->code != 0 ? err->code : TARN_ELOST; }
  tarn_out_t o = {.kind = OUT_REQUEST, .plain = true, .pid = pid, .msgid = tarn__new_msgid(s)};
  tarn_buf_t params;
  forward_t *f = tarn_malloc(sizeof(*f));
  tarn_buf_init(&params, 64);
  int rc = tarn_mp_write_array(&params, 2);
  rc |= tarn_mp_write_uint(&params, 0);
  rc |= tarn_mp_write_uint(&params, argument);
  if (f == NULL || rc != 0 || tarn_map_set(&s->forwards, o.msgid, f) != 0) {
    tarn_free(f);
    tarn_buf_release(&params);
    return tarn_error_set(err, TARN_ENOMEM, "out of memory for a question");
  }
  *f = (forward_t){c->token, msgid};
  snprintf(o.method, sizeof(o.method), "%s", method);
  o.params = params.data;
  o.params_size = params.size;
  if (tarn_map_set(&s->pending, o.msgid, (void *)((uintptr_t)pid + 1)) == 0) {
    tarn__send_request(s, to, &o); /* an answer comes, or its process is lost */
  } else {
    tarn_error_t why;
    tarn_error_set(&why, TARN_ENOMEM, "out of memory for a question");
    (void)tarn__observe_answered(s, o.msgid, NULL, 0, &why);
  }
  tarn_buf_release(&params);
  return 0;
}

bool tarn__observe_answered(tarn_service_t *s, uint32_t msgid, const uint8_t *bytes, size_t size,
                            const tarn_error_t *err) {
  forward_t *f = s->forwards.count > 0 ? tarn_map_remove(&s->forwards, msgid) : NULL;
  if (f == NULL) { return false; }
  tarn_conn_t *c = tarn_map_get(&s->conns, f->token);
  if (c != NULL && bytes != NULL) {
    tarn_buf_t b;
    tarn_buf_init(&b, SIZE_MAX / 2);
    if (tarn_buf_append(&b, bytes, size) == 0) { tarn__send_result(s, c, f->msgid, &b); }
    tarn_buf_release(&b);
  } else if (c != NULL) {
    tarn__send_error(s, c, f->msgid, err);
  }
  tarn_free(f);
  return true;
}

void tarn__observe_free(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t msgid = 0;
  for (forward_t *f; (f = tarn_map_next(&s->forwards, &cursor, &msgid)) != NULL;) { tarn_free(f); }
  tarn_map_clear(&s->forwards);
}
