/* The baton's protocol, as baton.h describes it. All the atomics are sequentially consistent: the parking of the watcher (watching = 0, then read
 * owner) and the release (owner = FREE, then read watching) must not miss each other. */
#include "baton.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "base/sys.h"
#include "base/alloc.h"

#define TICK_NS 1000000L

enum { OWNER_FREE, OWNER_LUA, OWNER_SERVICE };

struct tarn_baton {
  uv_loop_t *loop;
  uv_async_t async; /* wakes the loop while the service thread runs it */
  void (*on_takeover)(void *user);
  void (*flush)(void *user);
  void *user;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  int timer; /* the parked watcher reads it; armed by the release that finds nobody watching */
  atomic_int owner, want, watching, stop;
  atomic_uint epoch; /* releases so far */
  bool closed;
};

static void nap(void) {
  struct timespec tick = {0, TICK_NS};
  nanosleep(&tick, NULL);
}

static void arm(tarn_baton_t *b) {
  struct itimerspec once = {{0, 0}, {0, TICK_NS}};
  timerfd_settime(b->timer, 0, &once, NULL);
}

/* The service thread has the baton: run the loop until the Lua thread wants it, and hand it over. */
static void serve(tarn_baton_t *b) {
  uv_update_time(b->loop);
  b->on_takeover(b->user);
  b->flush(b->user);
  while (!atomic_load(&b->want)) {
    uv_run(b->loop, UV_RUN_ONCE);
    b->flush(b->user);
  }
  pthread_mutex_lock(&b->mutex);
  atomic_store(&b->owner, OWNER_LUA); /* never FREE: nobody else may slip in */
  pthread_cond_signal(&b->cond);
  pthread_mutex_unlock(&b->mutex);
}

/* Watch until all has been idle for a tick: the Lua thread sits in the loop itself. */
static void watch(tarn_baton_t *b) {
  unsigned seen = atomic_load(&b->epoch);
  while (!atomic_load(&b->stop)) {
    nap();
    unsigned now = atomic_load(&b->epoch);
    bool moved = now != seen;
    seen = now;
    if (moved) { continue; }
    int free_owner = OWNER_FREE;
    if (atomic_compare_exchange_strong(&b->owner, &free_owner, OWNER_SERVICE)) {
      serve(b);
      continue;
    }
    atomic_store(&b->watching, 0);
    if (atomic_load(&b->owner) != OWNER_FREE) { return; }
    atomic_store(&b->watching,
                 1); /* released just now, and its release may have seen us watching */
  }
}

static void *run(void *arg) {
  tarn_baton_t *b = arg;
  while (!atomic_load(&b->stop)) {
    uint64_t ticks = 0;
    if (read(b->timer, &ticks, sizeof(ticks)) < 0 && errno != EINTR) { break; }
    if (!atomic_load(&b->watching)) { continue; }
    watch(b);
  }
  return NULL;
}

static void on_async(uv_async_t *a) {
  uv_stop(a->loop); /* so that uv_run(ONCE) returns to whoever looks at want and the outbox */
}

int tarn_baton_create(uv_loop_t *loop, void (*on_takeover)(void *user), void (*flush)(void *user),
                      void *user, tarn_baton_t **out, tarn_error_t *err) {
  tarn_baton_t *b = tarn_calloc(1, sizeof(*b));
  if (b == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory"); }
  b->loop = loop;
  b->on_takeover = on_takeover;
  b->flush = flush;
  b->user = user;
  b->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  if (b->timer < 0) {
    int rc = tarn_error_errno(err, errno, "timerfd_create");
    tarn_free(b);
    return rc;
  }
  pthread_mutex_init(&b->mutex, NULL);
  pthread_cond_init(&b->cond, NULL);
  atomic_store(&b->owner, OWNER_LUA);
  uv_async_init(loop, &b->async, on_async);
  b->async.data = b;
  int rc = tarn_sys_thread(&b->thread, run, b);
  if (rc != 0) {
    uv_close((uv_handle_t *)&b->async, NULL);
    uv_run(loop, UV_RUN_NOWAIT);
    close(b->timer);
    tarn_free(b);
    return tarn_error_errno(err, rc, "cannot start the service thread");
  }
  *out = b;
  return 0;
}

static void on_closed(uv_handle_t *h) { ((tarn_baton_t *)h->data)->closed = true; }

void tarn_baton_destroy(tarn_baton_t *b) {
  atomic_store(&b->stop, 1);
  atomic_store(&b->watching, 1);
  arm(b);
  pthread_join(b->thread, NULL);
  uv_close((uv_handle_t *)&b->async, on_closed);
  while (!b->closed) { uv_run(b->loop, UV_RUN_NOWAIT); }
  close(b->timer);
  pthread_cond_destroy(&b->cond);
  pthread_mutex_destroy(&b->mutex);
  tarn_free(b);
}

static bool take_free(tarn_baton_t *b) {
  int free_owner = OWNER_FREE;
  return atomic_compare_exchange_strong(&b->owner, &free_owner, OWNER_LUA);
}

bool tarn_baton_try(tarn_baton_t *b) {
  bool taken = take_free(b);
  if (taken) { uv_update_time(b->loop); }
  return taken;
}

void tarn_baton_acquire(tarn_baton_t *b) {
  if (!take_free(b)) {
    pthread_mutex_lock(&b->mutex);
    atomic_store(&b->want, 1);
    uv_async_send(&b->async);
    while (atomic_load(&b->owner) != OWNER_LUA) { pthread_cond_wait(&b->cond, &b->mutex); }
    atomic_store(&b->want, 0);
    pthread_mutex_unlock(&b->mutex);
  }
  uv_update_time(b->loop); /* nobody may have run it for as long as a job took */
}

void tarn_baton_release(tarn_baton_t *b) {
  atomic_fetch_add(&b->epoch, 1);
  atomic_exchange(&b->owner, OWNER_FREE);
  if (!atomic_load(&b->watching)) {
    atomic_store(&b->watching, 1);
    arm(b);
  }
}

void tarn_baton_wake(tarn_baton_t *b) {
  if (atomic_load(&b->owner) == OWNER_SERVICE) { uv_async_send(&b->async); }
}
