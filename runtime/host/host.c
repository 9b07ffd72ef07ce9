/* A process from start to end. The Lua thread is the main thread; its turn is: take the baton, work off the outbox, run the service loop (blocking when
 * nothing is to be done), take the events, put the baton down, dispatch the events, run tasks, poll the user's own loop.
 *
 * The user's loop (luv's) is nested: the service loop watches its backend fd and has a timer for its next timeout, so that one blocking call
 * waits for both. The watch is level-triggered, so the service thread stops it when it takes over (baton.h). */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <luajit.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "baton.h"
#include "bind/bind.h"
#include "host-private.h"

#define CHILD_GRACE_MS 2000u
#define QUEUED_MAX 32u /* messages */

/* ---- the outbox, the baton, the nested loop ---- */

static void on_wake(void *user) {
  tarn_host_t *h = user;
  if (h->baton != NULL) { tarn_baton_wake(h->baton); }
}

static void on_flush(void *user) { tarn_service_flush(((tarn_host_t *)user)->service); }

static void on_takeover(void *user) {
  tarn_host_t *h = user;
  if (h->nest_armed) {
    uv_poll_stop(&h->nest);
    uv_timer_stop(&h->nest_timer);
    h->nest_armed = false;
  }
}

static void nest_ready(tarn_host_t *h) {
  h->nest_ready = true;
  uv_stop(&h->loop);
}

static void on_nest(uv_poll_t *p, int status, int events) {
  (void)status;
  (void)events;
  nest_ready(p->data);
}

static void on_nest_timer(uv_timer_t *t) { nest_ready(t->data); }

/* Watch the user's loop while the service loop blocks. With nothing alive in it there is nothing to watch. */
static void arm_nest(tarn_host_t *h) {
  if (!uv_loop_alive(&h->user_loop)) {
    on_takeover(h);
    return;
  }
  if (!h->nest_armed) { uv_poll_start(&h->nest, UV_READABLE, on_nest); }
  h->nest_armed = true;
  uv_update_time(
      &h->user_loop); /* it stands still while a job computes, and the rest of a timeout with it */
  int timeout = uv_backend_timeout(&h->user_loop);
  if (timeout >= 0) {
    uv_timer_start(&h->nest_timer, on_nest_timer, (uint64_t)timeout, 0);
  } else {
    uv_timer_stop(&h->nest_timer);
  }
}

/* What Lua queues in its turn goes out at the end, all at once; when it is much, a part at a time, so that the other end has something
 * to do meanwhile. */
static void queued(void *user) {
  tarn_host_t *h = user;
  if (h->baton == NULL || ++h->queued < QUEUED_MAX || !tarn_baton_try(h->baton)) { return; }
  h->queued = 0;
  tarn_service_flush(h->service);
  tarn_baton_release(h->baton);
}

static void enter(void *user) {
  tarn_host_t *h = user;
  tarn_service_lua_busy(h->service, false);
  tarn_baton_acquire(h->baton);
  h->queued = 0;
  tarn_service_flush(h->service);
}

static void turn(void *user) {
  tarn_host_t *h = user;
  uv_run(&h->loop, UV_RUN_ONCE);
  tarn_service_flush(h->service);
}

static void leave(void *user) {
  tarn_host_t *h = user;
  tarn_service_lua_busy(h->service, true);
  tarn_baton_release(h->baton);
}

static void request_exit(void *user, int code) {
  tarn_host_t *h = user;
  if (!h->exiting) { h->code = code; }
  h->exiting = true;
}

/* ---- ends that cannot wait ---- */

/* End now, with everything that is ours: a worker leads a process group. Nothing is left on the disk: the spill file has no name. */
static void end_now(tarn_host_t *h, int code) {
  rmdir(h->spill_dir);
  if (h->options->worker && getpgrp() == getpid()) { kill(0, SIGKILL); }
  _exit(code);
}

static void on_orphan(void *user, const char *reason) {
  tarn_host_t *h = user;
  if (h->service == NULL || tarn_service_id(h->service) == 0) {
    tarn_log(TARN_LOG_ERROR, "cannot join %s: %s", h->line.address, reason);
    _exit(1); /* no job has run: there is nothing to take along */
  }
  tarn_log(TARN_LOG_INFO, "the driver is gone (%s)", reason);
  end_now(h, 1);
}

static void on_overdue(void *user) {
  tarn_log(TARN_LOG_INFO, "told to stop while a job computes: ending it");
  end_now(user, 0);
}

static uint64_t lua_memory(void *user) { return tarn__heap_resident(((tarn_host_t *)user)->heap); }

/* ---- the turn ---- */

static void dispatch_all(tarn_host_t *h, tarn_event_t *e) {
  for (tarn_event_t *next; e != NULL; e = next) {
    next = e->next;
    e->next = NULL;
    if (e->kind == TARN_EVENT_STOP) {
      request_exit(h, 0);
    } else if (!h->exiting) {
      tarn_bind_dispatch(h->bind, e);
    }
    tarn_event_free(e);
  }
}

static void run(tarn_host_t *h) {
  bool more = true;
  enter(h);
  while (!h->exiting) {
    arm_nest(h);
    /* What the service thread has taken in while Lua was away wakes nobody now. */
    bool redraw = tarn_log_take_erased();
    bool busy = more || redraw || tarn__interrupt_pending() || tarn_service_wants_lua(h->service);
    bool quiet = false; /* time for the collection that is owed */
    if (busy) {
      uv_run(&h->loop, UV_RUN_NOWAIT);
    } else if (tarn_bind_owes(h->bind)) {
      quiet = !tarn__look(h);
    } else {
      tarn__wait(h);
    }
    tarn_event_t *events = tarn_service_take_events(h->service);
    bool collect = tarn_service_wants_collection(h->service);
    leave(h);
    if (quiet) { tarn_bind_collect_owed(h->bind); }
    tarn_bind_boundary(h->bind);
    if (collect) {
      uint64_t began = tarn_clock_ns();
      tarn_bind_collect(h->bind);
      tarn_service_collected(h->service, tarn_clock_ns() - began);
      tarn_service_room(h->service);
    }
    dispatch_all(h, events);
    if (!h->exiting && tarn__interrupt_pending()) { (void)tarn_bind_boot(h->bind, "interrupt"); }
    redraw = tarn_log_take_erased() || redraw;
    if (!h->exiting && redraw) { (void)tarn_bind_boot(h->bind, "redraw"); }
    if (!h->exiting) { more = tarn_bind_boot(h->bind, "step") == 1; }
    if (!h->exiting && uv_loop_alive(&h->user_loop)) {
      uv_run(&h->user_loop, UV_RUN_NOWAIT);
      if (!more) {
        more = tarn_bind_boot(h->bind, "step") == 1;
      } /* what the user's callbacks have woken */
    }
    if (!more) {
      tarn_pool_boundary(h->pool);
    } /* nothing may come for long: dead views hold memory */
    enter(h);
  }
  leave(h);
}

/* ---- start ---- */

static void nested_handles(tarn_host_t *h) {
  uv_poll_init(&h->loop, &h->nest, uv_backend_fd(&h->user_loop));
  uv_timer_init(&h->loop, &h->nest_timer);
  h->nest.data = h->nest_timer.data = h;
  h->nest_open = true;
}

static int start_pool(tarn_host_t *h, tarn_error_t *err) {
  const tarn_options_t *o = h->options;
  uint64_t memory = o->memory != 0 ? o->memory : tarn_default_memory(o->procs + 1);
  if (o->spill_dir[0] == '/') {
    snprintf(h->spill_dir, sizeof(h->spill_dir), "%s", o->spill_dir);
  } else { /* a job may change the working directory */
    char cwd[2048];
    if (getcwd(cwd, sizeof(cwd)) == NULL) {
      return tarn_error_errno(err, errno, "the working directory");
    }
    snprintf(h->spill_dir, sizeof(h->spill_dir), "%s/%s", cwd, o->spill_dir);
  }
  h->drops = tarn_drops_create();
  if (h->drops == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory"); }
  tarn_pool_config_t pc = {.max_memsize = memory,
                           .max_disksize = UINT64_MAX,
                           .spill_dir = h->spill_dir,
                           .on_room = tarn__host_on_room,
                           .on_drop_live = tarn__host_on_drop_live,
                           .on_lend = tarn__host_on_lend,
                           .on_deleted = tarn__host_on_deleted,
                           .on_unguard = tarn__host_on_unguard,
                           .on_pressure = tarn__host_on_pressure,
                           .user = h};
  return tarn_pool_create(&pc, &h->pool, err);
}

void tarn__host_on_room(void *user) {
  tarn_host_t *h = user;
  pthread_mutex_lock(&h->room_mutex);
  if (h->room != NULL) { tarn_service_room(h->room); }
  pthread_mutex_unlock(&h->room_mutex);
}

void tarn__host_on_lend(void *user) {
  tarn_host_t *h = user;
  pthread_mutex_lock(&h->room_mutex);
  if (h->room != NULL) { tarn_service_lend(h->room); }
  pthread_mutex_unlock(&h->room_mutex);
}

/* A value is gone, and lets go of the references in it. */
void tarn__host_on_unguard(void *user, tarn_guard_t *guard) {
  tarn_host_t *h = user;
  pthread_mutex_lock(&h->room_mutex);
  if (h->room != NULL) {
    tarn_service_unguard(h->room, guard);
  } else { /* the end: nobody counts any more */
    tarn_free(guard);
  }
  pthread_mutex_unlock(&h->room_mutex);
}

void tarn__host_on_pressure(void *user) {
  tarn_host_t *h = user;
  pthread_mutex_lock(&h->room_mutex);
  if (h->room != NULL) { tarn_service_pressure(h->room); }
  pthread_mutex_unlock(&h->room_mutex);
}

static void tell_room_to(tarn_host_t *h, tarn_service_t *s) {
  pthread_mutex_lock(&h->room_mutex);
  h->room = s;
  pthread_mutex_unlock(&h->room_mutex);
}

void tarn__host_on_drop_live(void *user, uint64_t tag) {
  tarn_drops_add(((tarn_host_t *)user)->drops, tag);
}

/* Lua's destructors are to run soon, whichever thread it was. */
void tarn__host_on_deleted(void *user, uint64_t id) {
  tarn_host_t *h = user;
  tarn_drops_add_deleted(h->drops, id);
  if (h->service != NULL) { tarn_service_room(h->service); }
}

static int start_service(tarn_host_t *h, tarn_error_t *err) {
  const char *listen = h->options->listen;
  if (listen == NULL && !h->options->worker) { listen = "127.0.0.1:0"; }
  tarn_service_config_t sc = {.loop = &h->loop,
                              .pool = h->pool,
                              .secret = h->options->worker ? h->line.secret : NULL,
                              .listen = listen,
                              .driver = h->options->worker ? h->line.address : NULL,
                              .bytecode = h->bytecode,
                              .no_map = h->options->no_map,
                              .tls = h->options->tls,
                              .launch = h->line.launch,
                              .silence_ms = h->options->silence_ms,
                              .idle_ms = h->options->idle_ms,
                              .life_fd = h->line.life_fd,
                              .wake = on_wake,
                              .on_orphan = on_orphan,
                              .on_overdue = on_overdue,
                              .lua_memory = lua_memory,
                              .user = h};
  int rc = tarn_service_create(&sc, &h->service, err);
  explicit_bzero(h->line.secret, sizeof(h->line.secret));
  if (rc == 0) { tell_room_to(h, h->service); }
  return rc;
}

static int start_baton(tarn_host_t *h, tarn_error_t *err) {
  int rc = tarn_baton_create(&h->loop, on_takeover, on_flush, h, &h->baton, err);
  if (rc != 0) { return rc; }
  /* A worker learns who it is from the driver; until then there is nothing for Lua to do. A driver that does not answer is gone (net.h's deadline). */
  tarn_service_flush(h->service);
  while (tarn_service_id(h->service) == 0) { uv_run(&h->loop, UV_RUN_ONCE); }
  tarn_service_flush(h->service);
  return 0;
}

static int start_lua(tarn_host_t *h, tarn_error_t *err) {
  tarn_bind_host_t bh = {.enter = enter,
                         .turn = turn,
                         .leave = leave,
                         .queued = queued,
                         .exit = request_exit,
                         .exe = h->exe,
                         .user = h};
  h->bind = tarn_bind_open(h->L, h->pool, h->service, &bh);
  if (h->bind == NULL) { return tarn_error_set(err, TARN_ENOMEM, "out of memory"); }
  h->bind->drops = h->drops;
  tarn_service_set_lua_bytes(h->service, &h->lua_bytes);
  return tarn__lua_setup(h, err);
}

/* ---- end ---- */

static void close_loops(tarn_host_t *h) {
  if (h->nest_open) {
    uv_close((uv_handle_t *)&h->nest, NULL);
    uv_close((uv_handle_t *)&h->nest_timer, NULL);
  }
  if (h->loops_open) {
    uv_run(&h->loop, UV_RUN_NOWAIT);
    uv_loop_close(&h->user_loop);
    if (uv_loop_close(&h->loop) != 0) {
      tarn_log(TARN_LOG_DEBUG, "handles were left in the service loop");
    }
  }
}

static void stop(tarn_host_t *h, int code) {
  bool closed = true;
  if (h->L != NULL) {
    if (h->bind != NULL && h->booted) { (void)tarn_bind_boot(h->bind, "stop"); }
    fflush(NULL);
  }
  if (h->baton != NULL) {
    tarn_baton_acquire(h->baton);
    /* The last replies of a worker, before its connections close. */
    tarn_service_flush_all(h->service);
    tarn_service_stop_children(h->service, CHILD_GRACE_MS);
  }
  if (h->L != NULL) {
    closed = tarn__lua_destroy(h);
  } /* finalizers put blocks back; the pool is still there */
  if (h->pool != NULL) { tarn_pool_boundary(h->pool); }
  tell_room_to(h, NULL);
  tarn__interrupt_close();
  if (h->service != NULL) { tarn_service_destroy(h->service); }
  h->service = NULL;
  if (h->baton != NULL) { tarn_baton_destroy(h->baton); }
  if (!closed) { /* a request of the user's sits in libuv's threads, which an exit would wait for */
    fflush(NULL);
    end_now(h, code);
  }
  close_loops(h);
  if (h->bind != NULL) { tarn_bind_close(h->bind); }
  if (h->pool != NULL) { tarn_pool_destroy(h->pool); }
  tarn_drops_destroy(h->drops);
  if (h->spill_dir[0] != '\0') {
    rmdir(h->spill_dir);
  } /* ours only when nobody else is in it: then it stays */
}

/* What one thread frees, another takes again: with an arena for each thread the C heap of a process that reads and spills much had 9 MB more of
 * holes, for a budget of 16. Threads have caches of their own all the same. */
static void use_one_arena(void) {
#ifdef __GLIBC__
  (void)mallopt(M_ARENA_MAX, 1);
#endif
}

static int start(tarn_host_t *h, tarn_error_t *err) {
  use_one_arena();
  int rc = h->options->worker ? tarn__read_first_line(&h->line, err) : 0;
  if (rc != 0) { return rc; }
  if (uv_loop_init(&h->loop) != 0 || uv_loop_init(&h->user_loop) != 0) {
    return tarn_error_set(err, TARN_EIO, "cannot make an event loop");
  }
  h->loops_open = true;
  rc = tarn__lua_create(h, err);
  if (rc == 0) { rc = start_pool(h, err); }
  if (rc == 0) { rc = start_service(h, err); }
  if (rc == 0) { nested_handles(h); }
  if (rc == 0) { rc = start_baton(h, err); }
  if (rc == 0) { rc = start_lua(h, err); }
  return rc;
}

/* A program may be started without its standard descriptors. Then the next files to be opened, sockets and the loop's own, would get their
 * numbers, and what is printed would go there. */
static int open_standard(tarn_error_t *err) {
  int fd = 0;
  do { fd = open("/dev/null", O_RDWR); } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd < 0) { return tarn_error_errno(err, errno, "/dev/null"); }
  close(fd);
  return 0;
}

int tarn_host_run(const tarn_options_t *options) {
  tarn_error_t err = {0};
  tarn_host_t h = {
      .options = options, .line = {.life_fd = -1}, .room_mutex = PTHREAD_MUTEX_INITIALIZER};
  signal(SIGCHLD, SIG_DFL); /* inherited as ignored it would take the workers' exit statuses away */
  if (open_standard(&err) != 0) { return 1; }
  tarn__bus_install();
  ssize_t n = readlink("/proc/self/exe", h.exe, sizeof(h.exe) - 1);
  if (n < 0) {
    fprintf(stderr, "tarn: /proc is needed: %s\n", strerror(errno));
    return 1;
  }
  if (options->script != NULL && access(options->script, R_OK) != 0) {
    fprintf(stderr, "tarn: cannot open %s: %s\n", options->script, strerror(errno));
    return 2;
  }
  const char *level = options->worker ? NULL : tarn_log_unknown_level();
  if (level != NULL) {
    fprintf(stderr, "tarn: TARN_LOG: '%.40s' is no level; there are debug, info, warn, error\n",
            level);
  }
  int code = 1;
  if (start(&h, &err) != 0) {
    fprintf(stderr, "tarn: %s\n", err.message);
  } else {
    if (!options->worker) { tarn__interrupt_install(&h); }
    leave(&h);
    h.booted = tarn_bind_boot(h.bind, "start") >= 0;
    if (h.booted) {
      run(&h);
      code = h.code;
    }
  }
  stop(&h, code);
  return code;
}
