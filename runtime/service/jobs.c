/* What Lua of this process does, and has done lately: how long it was busy, the jobs that are running, and a ring of those that have ended. Always kept,
 * so that who comes to look sees what has been going on; read only while somebody looks. A beginning and an end take about 0.2 us together
 * (a no-op call between two processes 26 and more). The Lua thread writes, the loop's runner reads. */
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "service-private.h"

void tarn__jobs_init(tarn_jobs_t *j) { pthread_mutex_init(&j->mutex, NULL); }
void tarn__jobs_free(tarn_jobs_t *j) { pthread_mutex_destroy(&j->mutex); }

void tarn_service_lua_busy(tarn_service_t *s, bool busy) {
  tarn_jobs_t *j = &s->jobs;
  uint64_t now = tarn_clock_ns();
  uint64_t since = atomic_load_explicit(&j->busy_since_ns, memory_order_relaxed);
  if (since != 0) {
    uint64_t sum = atomic_load_explicit(&j->busy_ns, memory_order_relaxed) + (now - since);
    atomic_store_explicit(&j->busy_ns, sum, memory_order_relaxed);
  }
  atomic_store_explicit(&j->busy_since_ns, busy ? now : 0, memory_order_relaxed);
}

uint32_t tarn_service_job_begin(tarn_service_t *s, const char *source, int line, uint32_t from) {
  tarn_jobs_t *j = &s->jobs;
  uint64_t now = tarn_clock_ns();
  size_t length = strlen(source), cut = length > TARN__JOB_SOURCE ? length - TARN__JOB_SOURCE : 0;
  uint32_t slot = 0;
  pthread_mutex_lock(&j->mutex);
  j->begun++;
  j->running++;
  if (j->running <= TARN__JOBS_RUNNING) {
    slot = j->hint;
    while (j->slots[slot].number != 0) { slot = (slot + 1) % TARN__JOBS_RUNNING; }
    tarn__job_t *job = &j->slots[slot];
    job->number = j->begun;
    job->begin_ns = now;
    job->from = from;
    job->line = line;
    memcpy(job->source, source + cut, length - cut + 1);
    j->hint = (slot + 1) % TARN__JOBS_RUNNING;
    slot++;
  } else {
    j->unnoted++;
  }
  pthread_mutex_unlock(&j->mutex);
  return slot;
}

void tarn_service_job_end(tarn_service_t *s, uint32_t number, bool ok) {
  tarn_jobs_t *j = &s->jobs;
  uint64_t now = tarn_clock_ns();
  pthread_mutex_lock(&j->mutex);
  j->running--;
  j->ended++;
  if (!ok) { j->failed++; }
  if (number > 0 && number <= TARN__JOBS_RUNNING) {
    tarn__job_t *job = &j->slots[number - 1], *to = &j->past[j->past_count++ % TARN__JOBS_ENDED];
    *to = *job;
    to->end_ns = now;
    to->ok = ok;
    job->number = 0;
    j->hint = number - 1;
  }
  pthread_mutex_unlock(&j->mutex);
}

/* "flights.lua:12", as an error's position has it. */
static int write_name(const tarn__job_t *job, tarn_buf_t *b) {
  char name[TARN__JOB_SOURCE + 16];
  int n = job->line >= 0 ? snprintf(name, sizeof(name), "%s:%d", job->source, job->line)
                         : snprintf(name, sizeof(name), "%s", job->source);
  return tarn_mp_write_str(b, name, (size_t)n);
}

static int write_running(const tarn_jobs_t *j, tarn_buf_t *b) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < TARN__JOBS_RUNNING; i++) { count += j->slots[i].number != 0; }
  int rc = tarn_mp_write_array(b, count);
  for (uint32_t i = 0; i < TARN__JOBS_RUNNING; i++) {
    const tarn__job_t *job = &j->slots[i];
    if (job->number == 0) { continue; }
    rc |= tarn_mp_write_array(b, 4);
    rc |= tarn_mp_write_uint(b, job->number);
    rc |= write_name(job, b);
    rc |= tarn_mp_write_uint(b, job->begin_ns);
    rc |= tarn_mp_write_uint(b, job->from);
  }
  return rc;
}

static int write_ended(const tarn_jobs_t *j, uint64_t from, tarn_buf_t *b) {
  int rc = tarn_mp_write_array(b, (uint32_t)(j->past_count - from));
  for (uint64_t n = from; n < j->past_count; n++) {
    const tarn__job_t *job = &j->past[n % TARN__JOBS_ENDED];
    rc |= tarn_mp_write_array(b, 6);
    rc |= tarn_mp_write_uint(b, job->number);
    rc |= write_name(job, b);
    rc |= tarn_mp_write_uint(b, job->begin_ns);
    rc |= tarn_mp_write_uint(b, job->end_ns);
    rc |= tarn_mp_write_bool(b, job->ok);
    rc |= tarn_mp_write_uint(b, job->from);
  }
  return rc;
}

int tarn__observe_write_jobs(tarn_service_t *s, uint64_t since, tarn_buf_t *b) {
  tarn_jobs_t *j = &s->jobs;
  pthread_mutex_lock(&j->mutex);
  uint64_t next = j->past_count, kept = next > TARN__JOBS_ENDED ? next - TARN__JOBS_ENDED : 0;
  if (since > next) { since = next; } /* it has been told by another process of this number */
  uint64_t lost = kept > since ? kept - since : 0;
  int rc = tarn_mp_write_map(b, 5);
  rc |= tarn_mp_write_cstr(b, "now_ns");
  rc |= tarn_mp_write_uint(b, tarn_clock_ns());
  rc |= tarn_mp_write_cstr(b, "next");
  rc |= tarn_mp_write_uint(b, next);
  rc |= tarn_mp_write_cstr(b, "lost");
  rc |= tarn_mp_write_uint(b, lost);
  rc |= tarn_mp_write_cstr(b, "running");
  rc |= write_running(j, b);
  rc |= tarn_mp_write_cstr(b, "ended");
  rc |= write_ended(j, kept > since ? kept : since, b);
  pthread_mutex_unlock(&j->mutex);
  return rc;
}
