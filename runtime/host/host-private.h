/* What the files of host/ share. */
#ifndef TARN_HOST_PRIVATE_H
#define TARN_HOST_PRIVATE_H

#include <lua.h>
#include <pthread.h>
#include "base/err.h"
#include "baton.h"
#include "bind/bind.h"
#include "host/options.h"
#include "service/service.h"

/* A worker's first line of standard input, and what became of it. */
typedef struct tarn_first_line {
  char address[64];
  uint8_t secret[TARN_SECRET_BYTES];
  uint64_t launch; /* 0: it did not say */
  int life_fd;     /* standard input, moved; 0 is /dev/null now */
} tarn_first_line_t;

typedef struct tarn__heap tarn__heap_t;

typedef struct tarn_host {
  const tarn_options_t *options; /* borrowed */
  char exe[4096];
  char spill_dir[4096]; /* absolute */
  tarn_first_line_t line;
  uv_loop_t loop;      /* the service's */
  uv_loop_t user_loop; /* luv's */
  uv_poll_t nest;
  uv_timer_t nest_timer;
  bool loops_open, nest_open, nest_armed, booted;
  bool nest_ready;            /* the user's loop has something to do */
  int look_credit, look_rest; /* wait.c */
  tarn_baton_t *baton;
  unsigned queued; /* messages of Lua's since the outbox was worked off */
  tarn_pool_t *pool;
  tarn_service_t *service;
  pthread_mutex_t room_mutex; /* guards the next: the spill thread looks at it at any time */
  tarn_service_t *room;       /* whom to tell of room; null before there is one and once it ends */
  struct tarn_drops *drops;
  tarn_bind_t *bind;
  lua_State *L;
  char bytecode
      [16]; /* the first bytes of a dumped function, in hex: LuaJIT's format and its flags */
  tarn__heap_t *heap;
  uint64_t lua_bytes; /* in the heap; written by the Lua thread, read by any: relaxed atomics */
  bool exiting;
  int code;
} tarn_host_t;

/* worker.c */
int tarn__read_first_line(tarn_first_line_t *line, tarn_error_t *err);

/* wait.c: run the service loop until something has come, or once: has it? [lua], holding the baton */
void tarn__wait(tarn_host_t *h);
bool tarn__look(tarn_host_t *h);

/* bus.c: what SIGBUS and SIGXFSZ do, for the whole process */
void tarn__bus_install(void);

/* interrupt.c; Lua thread */
void tarn__interrupt_install(
    tarn_host_t *h);                     /* holding the baton; a driver's, once it can take it */
void tarn__interrupt_open(lua_State *L); /* what Lua calls goes into the table at the top */
bool tarn__interrupt_pending(void);      /* one has arrived, and Lua is to be told */
void tarn__interrupt_close(void);        /* holding the baton: from here on they are ignored */

/* heap.c */
/* A new state, whose bytes are counted in *bytes, and its heap. Null: no memory; tarn__heap_close is due all the same. */
lua_State *tarn__heap_open(uint64_t *bytes, tarn__heap_t **out);
/* [any] Bytes of memory that the heap has, with what is free in it. Takes about 2 ms a gigabyte. */
uint64_t tarn__heap_resident(const tarn__heap_t *h);
void tarn__heap_close(tarn__heap_t *h, lua_State *L); /* closes L; either may be null */

/* lua.c */
int tarn__lua_create(tarn_host_t *h, tarn_error_t *err);
/* compiled.c: push a function (name) -> chunk or nil, of what the build has compiled into file of the modules below root. */
void tarn__compiled_push(lua_State *L, const char *file, const char *root);

int tarn__lua_setup(tarn_host_t *h,
                    tarn_error_t *err); /* paths, options, luv, arg; after tarn_bind_open */
/* False: something of the user's will not end, and the state had to be left as it is. */
bool tarn__lua_destroy(tarn_host_t *h);

/* host.c; any thread */
void tarn__host_on_room(void *user);
void tarn__host_on_lend(void *user);
void tarn__host_on_drop_live(void *user, uint64_t tag);
void tarn__host_on_deleted(void *user, uint64_t id);
void tarn__host_on_unguard(void *user, tarn_guard_t *guard);
void tarn__host_on_pressure(void *user);

#endif
