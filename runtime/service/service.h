/* The service: what a process answers without Lua, and the way in and out for what Lua does. Joins pool and net.
 *
 * Threads. Functions marked [loop] run on whoever runs the loop (the holder of the baton). Functions marked [lua] are called by the Lua thread at
 * any time, with or without the baton: they put an item into the *outbox* (a mutex of its own), which tarn_service_flush [loop] works off. What
 * Lua must do arrives as *events*, queued on the loop and taken by the Lua thread while it has the baton.
 *
 * Wire. Requests, responses and notifications are MessagePack-RPC. Between tarn processes the arguments (and the result, and the error) of what Lua
 * serves are one bin: an image. Methods that C serves take plain MessagePack arguments; their results are a bin too. To a foreign client everything is plain. docs/PROTOCOL.md
 * lists the methods. */
#ifndef TARN_SERVICE_SERVICE_H
#define TARN_SERVICE_SERVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include "base/err.h"
#include "net/net.h"
#include "pool/pool.h"

typedef struct tarn_service tarn_service_t;

#define TARN_DRIVER 1u /* the driver's process id */
#define TARN_INLINE_BYTES                                                                          \
  (64u << 10) /* values with fewer bytes of blocks travel inside the frame */
#define TARN_SPREAD_BYTES                                                                          \
  (1u << 20) /* readers of an object with as many may be sent to other processes that have it */

typedef enum {
  TARN_EVENT_REQUEST,
  TARN_EVENT_NOTIFY,
  TARN_EVENT_RESPONSE,
  TARN_EVENT_JOINED,
  TARN_EVENT_LOST,
  TARN_EVENT_EXITED,
  TARN_EVENT_DRAINED,
  TARN_EVENT_STOP
} tarn_event_kind_t;

#define TARN_METHOD_MAX 63u

/* Something for Lua to do. Freed by tarn_event_free. */
typedef struct tarn_event {
  struct tarn_event *next;
  tarn_event_kind_t kind;
  bool ok;        /* a response: result, not error */
  bool foreign;   /* from a foreign client: payload and answers are plain */
  uint32_t pid;   /* from whom, or whom it is about; 0: none */
  int64_t os_pid; /* JOINED: what its machine calls it */
  uint32_t msgid;
  uint64_t token; /* the connection to answer on */
  uint64_t
      launch; /* JOINED, EXITED: the number that tarn_service_spawn gave; 0: not started here */
  char method[TARN_METHOD_MAX + 1];
  char *text; /* owned; a reason. May be null */
  uint8_t *
      bytes; /* owned; a contiguous image. With a `value`: null, or the beginning of what stood before it */
  size_t size;
  tarn_value_t *value;          /* one reference, owned */
  tarn_guard_t *guard;          /* owned: of the references in bytes; a value has its own */
  struct tarn_service *service; /* whose guard it is; null: no guard */
} tarn_event_t;
void tarn_event_free(tarn_event_t *e);

typedef struct tarn_service_config {
  uv_loop_t *loop;
  tarn_pool_t *pool;     /* borrowed; may be set later, before anything is sent or received */
  const uint8_t *secret; /* TARN_SECRET_BYTES; null: a driver makes one */
  const char *
      listen; /* "127.0.0.1:0"; null: a worker listens on the address by which it has reached process 1 */
  const char *driver;  /* a worker: "HOST:PORT" to join; null: this is the driver */
  uint64_t launch;     /* a worker: by which number process 1 knows who was started; 0: none */
  uint64_t silence_ms; /* a worker: how long process 1 bears to hear nothing of it */
  uint64_t idle_ms;    /* a worker: a connection to another that is idle for so long is closed */
  const char *
      bytecode; /* the kind of bytecode that functions travel as: processes of different kinds refuse each other */
  bool
      no_map; /* neither map what other processes of this machine have, nor let them: all is copied */
  tarn_net_tls_t tls; /* which connections are encrypted */
  int life_fd;        /* a worker: its end means that the driver is gone; -1: none. Taken over */
  /* [any] Something stands in the outbox: see that the loop's runner flushes soon. */
  void (*wake)(void *user);
  /* [loop] An event was queued (the loop is being stopped for it). */
  /* [loop] The driver is gone (worker only): end at once. Does not return. */
  void (*on_orphan)(void *user, const char *reason);
  /* [loop] Told to stop, and Lua has not ended within the grace: end at once. Does not return. */
  void (*on_overdue)(void *user);
  /* [loop] Bytes of memory that Lua's heap has, with what is free in it. */
  uint64_t (*lua_memory)(void *user);
  void *user;
} tarn_service_config_t;

int tarn_service_create(const tarn_service_config_t *config, tarn_service_t **out,
                        tarn_error_t *err);
/* [loop] Stop children in order (told, then killed after grace_ms), print what they still said. Runs the loop itself. */
void tarn_service_stop_children(tarn_service_t *s, uint32_t grace_ms);
/* [loop] Close all; runs the loop until every handle of the service is closed, then frees. */
void tarn_service_destroy(tarn_service_t *s);

/* [loop] Work off the outbox, for some milliseconds. True: there is more, and the loop's next turn will not block. */
bool tarn_service_flush(tarn_service_t *s);
void tarn_service_flush_all(tarn_service_t *s);
/* [loop] The queued events, oldest first; the caller owns them. */
tarn_event_t *tarn_service_take_events(tarn_service_t *s);
/* [loop] Is there something for Lua to do: events, or the pool to be looked after? */
bool tarn_service_wants_lua(tarn_service_t *s);
/* [lua, loop] Is there something left to work off (tarn_service_flush)? */
bool tarn_service_has_outbox(tarn_service_t *s);
/* [loop] Take out the response to msgid if it is queued, else null. */
tarn_event_t *tarn_service_take_response(tarn_service_t *s, uint32_t msgid);
/* [loop] Has a message found no room, so that Lua should collect its garbage (dead views keep blocks) before PoolFull is said? Clears the
 * question; after the collection call tarn_service_room. */
bool tarn_service_wants_collection(tarn_service_t *s);
/* [any] The pool has something to tell other processes: see tarn_pool_config_t.on_lend. */
void tarn_service_lend(tarn_service_t *s);
/* [any] The pool has room again, or wants Lua: see tarn_pool_config_t.on_room. */
void tarn_service_room(tarn_service_t *s);

uint32_t tarn_service_id(const tarn_service_t *s); /* 0 before joining */
/* [loop] What its machine calls a member; 0: there is none of that id. */
int64_t tarn_service_os_pid(tarn_service_t *s, uint32_t id);
/* [loop] Of the connections made from now on. Both ends of one must think alike: for a driver without workers. */
void tarn_service_set_tls(tarn_service_t *s, tarn_net_tls_t tls);
/* [any] HOST:PORT by which others reach us; "" before joining. out: TARN_NET_ADDRESS_BYTES. */
void tarn_service_address(tarn_service_t *s, char *out);
/* [loop] The address by which processes elsewhere reach this one, whose machine has local_host as its own address on the way to them ("HOST:0"). One that listens on
 * loopback only listens there too from now on, and has the workers that it has started on this machine do so. out: TARN_NET_ADDRESS_BYTES. */
int tarn_service_reach(tarn_service_t *s, const char *local_host, char *out, tarn_error_t *err);

#define TARN_MANY_MAX 512u /* objects of one pool.get_all, pool.set_all or pool.delete_all */
#define TARN_MANY_IMAGE_BYTES ((size_t)16 << 10) /* of one of them; a larger one travels alone */

/* What to send: front (taken over, from tarn_malloc) without blocks, or a value (one reference taken over). guard: of a front with references
 * (tarn_service_guard; taken over); a value has its own. */
typedef struct tarn_payload {
  uint8_t *front;
  size_t front_size;
  tarn_value_t *value;
  tarn_guard_t *guard;
} tarn_payload_t;

/* [lua] Msgids are never 0. The response comes as an event also when the process is lost or unknown. On TARN_ENOMEM the payload is freed. */
int tarn_service_request(tarn_service_t *s, uint32_t pid, const char *method,
                         tarn_payload_t payload, uint32_t *msgid);
/* [lua] The same with plain arguments (a MessagePack array, taken over), for methods that C serves. with: a value after them as a bin (may be empty). */
int tarn_service_request_plain(tarn_service_t *s, uint32_t pid, const char *method, uint8_t *params,
                               size_t size, tarn_payload_t with, uint32_t *msgid);
int tarn_service_notify(tarn_service_t *s, uint32_t pid, const char *method,
                        tarn_payload_t payload);
int tarn_service_reply(tarn_service_t *s, uint64_t token, uint32_t msgid, bool ok, bool foreign,
                       tarn_payload_t payload);
void tarn_service_forget(tarn_service_t *s, uint32_t msgid);
/* [lua] Other processes may load the serializer of this name from here: the image of what they need (copied), in place of an earlier one. */
int tarn_service_offer(tarn_service_t *s, const char *name, const void *image, size_t size);
/* [any] */
bool tarn_service_congested(tarn_service_t *s, uint32_t pid);

/* What to start, for tarn_service_spawn. */
typedef struct tarn_spawn {
  char *const *argv;   /* null-terminated; argv[0] the program */
  char *const *env;    /* null-terminated "K=V"; null: ours */
  const char *address; /* where its workers find this process; null: they are on this machine */
  const char *
      label; /* what stands before its output until its worker has an id; null: its number in the system */
  bool several; /* there may be more than one worker behind it */
} tarn_spawn_t;
/* [lua] Start a program that is a worker, or that carries its standard streams to workers elsewhere. Its standard input gets the first line, and is held
 * open; its output is printed here line by line, "[id] " before each. *launch: its number, which its workers bring along. */
int tarn_service_spawn(tarn_service_t *s, const tarn_spawn_t *what, uint64_t *launch,
                       int64_t *os_pid, tarn_error_t *err);
void tarn_service_stop_process(tarn_service_t *s, uint32_t pid);  /* [lua] */
void tarn_service_kill_child(tarn_service_t *s, uint64_t launch); /* [lua] */

/* ---- references: who holds what. docs/REFERENCES.md ---- */

/* An object of which a reference is here, or has left. Valid from tarn_service_ref_open to _close. */
typedef struct tarn_held tarn_held_t;
/* [lua] A userdata for the object is made: of one that is elsewhere, or of ours once its reference leaves. origin and id name it; at: its
 * owner, if nothing better is known here. Registers this process with the owner, soon. Null: no memory. */
tarn_held_t *tarn_service_ref_open(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t at);
void tarn_service_ref_close(tarn_service_t *s, tarn_held_t *h); /* [lua] and is gone */
uint32_t tarn_service_ref_owner(const tarn_held_t *h);          /* [any] */
/* [any] Its number in our pool; 0: it is not ours. */
uint64_t tarn_service_ref_local(tarn_service_t *s, const tarn_held_t *h);
/* Where an object is, and how often it had moved when it came there: what is older is no news. */
typedef struct tarn_place {
  uint32_t owner, moves;
} tarn_place_t;
/* [any] Where the object is. 0: here, as *local; TARN_EMOVED: elsewhere, *at; TARN_ENOENT: not known here. */
int tarn_service_ref_find(tarn_service_t *s, uint32_t origin, uint64_t id, uint64_t *local,
                          tarn_place_t *at);
/* An error that says so: TARN_EMOVED, the process in `needed` and the moves in `available`. */
void tarn_service_moved_error(tarn_error_t *err, tarn_place_t at);
/* [any] What the references in an image hold, until tarn_service_unguard: null with 0 when there are none. TARN_ENOMEM. */
int tarn_service_guard(tarn_service_t *s, const uint8_t *front, size_t size, tarn_guard_t **out);
int tarn_service_guard_value(tarn_service_t *s, tarn_value_t *v); /* and hang it from a new value */
void tarn_service_unguard(tarn_service_t *s, tarn_guard_t *guard); /* null allowed */
/* [any] Delete now what nobody holds any more: the loop does it once a turn. */
void tarn_service_settle_refs(tarn_service_t *s);
void tarn_service_pressure(tarn_service_t *s); /* [any] the pool's on_pressure */
void tarn_service_collected(tarn_service_t *s,
                            uint64_t ns); /* [any] Lua's garbage was collected, and took so long */

/* Migration, the owner's end: the object is at process `to` now, which knows that we hold it. Its bytes here go. True: its holders are being
 * told, and the notification "migrate.told" [origin, id] from ourselves comes when all have understood. [lua] */
bool tarn_service_ref_leave(tarn_service_t *s, tarn_held_t *h, uint32_t to);
bool tarn_service_ref_telling(tarn_service_t *s, uint32_t origin,
                              uint64_t id); /* [lua] is that so? */
/* The new owner's end: it is ours, as `local` in our pool, by its so manieth move, and process `from` holds it (0: nobody more). TARN_ENOMEM. Disown: it is not after all. [lua] */
int tarn_service_ref_adopt(tarn_service_t *s, uint32_t origin, uint64_t id, uint64_t local,
                           uint32_t from, uint32_t moves);
void tarn_service_ref_disown(tarn_service_t *s, uint32_t origin, uint64_t id, uint32_t owner);
/* [lua] Somebody has said where the object is. */
void tarn_service_ref_note(tarn_service_t *s, tarn_held_t *h, tarn_place_t at);
uint32_t
tarn_service_ref_moves(tarn_service_t *s,
                       const tarn_held_t *h); /* [any] how often, as far as is known here */

/* Objects of which process 1 has a record (docs/REFERENCES.md, "Records"). [lua] An object of ours has one, or no more: if so, the notification
 * "record.ended" [origin, id] from ourselves comes when nobody holds it any more. */
void tarn_service_ref_record(tarn_service_t *s, uint32_t origin, uint64_t id, bool recorded);
bool tarn_service_ref_recorded(tarn_service_t *s, uint32_t origin, uint64_t id); /* [any] */
/* Process 1, when the owner of h is lost: `at` is the owner from here on, by its so manieth move. Ourselves: it is ours, recorded, without a
 * value (unless it was ours), and all of pids are taken for holders. Another one: it has the object, and all of pids are told. [lua] TARN_ENOMEM. */
int tarn_service_ref_succeed(tarn_service_t *s, tarn_held_t *h, tarn_place_t at,
                             const uint32_t *pids, size_t count);

typedef struct tarn_ref_figures {
  uint64_t entries,
      transfers; /* objects known of; messages with references that are not answered */
  bool fencing;  /* after a loss, not all have answered */
} tarn_ref_figures_t;
void tarn_service_ref_figures(tarn_service_t *s, tarn_ref_figures_t *out); /* [any] */

typedef struct tarn_service_stats {
  uint64_t tcp_in_bytes, tcp_out_bytes;
  uint64_t in_messages, out_messages;
  uint64_t mapped_in_bytes,
      mapped_in_count; /* of values of other processes that were mapped, not copied */
} tarn_service_stats_t;
void tarn_service_get_stats(tarn_service_t *s, tarn_service_stats_t *out); /* [any] */

/* A figure of tarn.poolstats: bytes or a count; UINT64_MAX: no limit. */
typedef struct tarn_figure {
  const char *name; /* static */
  uint64_t value;
} tarn_figure_t;
#define TARN_FIGURES 21
/* [any] All that tarn.poolstats gives, here and to other processes. s: null where there is no service. */
void tarn_service_figures(tarn_pool_t *pool, tarn_service_t *s, uint64_t lua_bytes,
                          tarn_figure_t out[TARN_FIGURES]);

/* ---- for who watches: tarn top, the dashboard (observe.c, jobs.c) ---- */

/* [lua] Lua begins to run, or waits for the loop again. */
void tarn_service_lua_busy(tarn_service_t *s, bool busy);
/* [lua] A job begins: source and line tell its function (source is cut from the left), from who has sent it. Its number; 0: there are too many at a time to
 * note this one. */
uint32_t tarn_service_job_begin(tarn_service_t *s, const char *source, int line, uint32_t from);
void tarn_service_job_end(tarn_service_t *s, uint32_t number, bool ok); /* [lua] 0 is allowed */
/* [lua] This process has started, and holds no data yet: what it takes now is the program's own. */
void tarn_service_started(tarn_service_t *s);

/* [lua] The path of a 0600 file with one line, the secret in hex: made at the first call, outside the spill directory, removed at the end. Borrowed; null with err. */
const char *tarn_service_secret_file(tarn_service_t *s, tarn_error_t *err);
/* [any, and in a signal handler] The same if it has been made, else null. */
const char *tarn_service_secret_path(const tarn_service_t *s);

/* Bytes of the Lua heap, for pool.stats: set by bind. */
void tarn_service_set_lua_bytes(tarn_service_t *s,
                                const uint64_t *counter); /* read with relaxed atomics */

#endif
