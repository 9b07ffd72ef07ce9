/* What the files of service/ share. Everything here is [loop] unless it says otherwise. */
#ifndef TARN_SERVICE_PRIVATE_H
#define TARN_SERVICE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/alloc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "image/image.h"
#include "refs-private.h"
#include "service/service.h"

#define TARN__OUTWARD_MAX 8u /* of this machine's addresses that workers elsewhere find us by */

/* A member of the cluster, by process id. */
typedef struct tarn_member {
  uint32_t id;
  uint64_t incarnation;
  int64_t os_pid;
  char address[TARN_NET_ADDRESS_BYTES];
  struct tarn_conn *conn;   /* the connection to send on; null: none yet */
  uint64_t launch;          /* driver: the number that it brought along; 0: none */
  struct tarn_child *child; /* driver: when it was spawned here */
  bool stopping;            /* asked to stop: its end is expected */
  bool parted;              /* worker: process 1 has been told that we do not hear each other */
  uv_timer_t *
      grace; /* driver: between the closed connection and the child's exit status; null: not armed */
} tarn_member_t;

/* A connection: what tarn_peer_data points to. */
typedef struct tarn_conn {
  uint64_t token;
  uint32_t pid; /* 0: a foreign client, or not proven yet */
  bool foreign, up;
  bool bulk_waiting;      /* a bulk message waits for room */
  uint64_t up_ms;         /* tarn_clock_boot_ms when it was proven */
  uint64_t silence_ms;    /* unheard for so long is too long; 0: it is not judged */
  uint64_t heard;         /* bytes received, at the last look */
  uint64_t silent_ms;     /* how long nothing has come from it */
  uint64_t arrived;       /* bytes of ours that it has received, as it said last */
  uint64_t unsaid_ms;     /* how long ago */
  uint64_t deaf_ms;       /* for how long that has been no more than before */
  bool paused;            /* too much of it waits for Lua: not read from */
  uint64_t taken_at;      /* s->takes when `waiting_bytes` was last reset */
  uint64_t waiting_bytes; /* of its requests and notifications that Lua has not taken yet */
  tarn_error_t refusal;   /* of the bulk message that is being passed over */
  bool collected;         /* and Lua has been asked to collect its garbage for it */
  tarn_peer_t *peer;
  tarn_map_t
      holds; /* a foreign client's: the address of each tarn__held_t that it has been given */
} tarn_conn_t;

/* A child process: a worker started here, or what carries the standard streams of workers elsewhere. */
typedef struct tarn_child {
  tarn_list_t link;
  struct tarn_service *service;
  uint64_t launch; /* its number; its workers bring it along when they join */
  int64_t os_pid;
  uint32_t id;  /* 0 until it has joined, and where there are several */
  bool joined;  /* one of its workers has */
  bool several; /* workers behind it */
  bool inward;  /* its worker was told to find us on loopback */
  char label[80];
  int stdin_fd; /* held open: its end tells the worker to exit */
  int pidfd;
  uv_poll_t watch;
  uv_timer_t
      kill_timer; /* SIGKILL when it was told to stop and did not; then: give up waiting for output */
  struct tarn_output {
    uv_pipe_t pipe;
    struct tarn_child *child;
    int to_fd;
    bool open;
    tarn_buf_t line;
  } out[2];
  char *read_buffer;
  tarn_buf_t
      said; /* on its standard error before it has joined: a part of the reason if it never does */
  bool holding; /* what it says there is not printed yet */
  int handles;  /* not yet closed */
  bool exited, stopping, reported, killed;
  char reason[240];
} tarn_child_t;

/* An item of the outbox. */
typedef enum {
  OUT_REQUEST,
  OUT_NOTIFY,
  OUT_REPLY,
  OUT_FORGET,
  OUT_ADOPT,
  OUT_STOP,
  OUT_KILL
} tarn_out_kind_t;
typedef struct tarn_out {
  struct tarn_out *next;
  tarn_out_kind_t kind;
  bool ok, foreign, plain;
  uint32_t pid, msgid;
  uint64_t token;
  uint64_t launch;
  char method[TARN_METHOD_MAX + 1];
  uint8_t *params; /* plain: owned */
  size_t params_size;
  tarn_payload_t payload;
  tarn_child_t *child;
} tarn_out_t;

/* Answers for which there was no memory, so that nobody waits for them for ever; without memory, too. */
#define TARN__UNSAID_MAX 128u
typedef struct tarn_unsaid {
  uint64_t token; /* of the connection on which the answer was to go; 0: it was to go to Lua */
  uint32_t msgid;
} tarn_unsaid_t;

struct tarn_service {
  tarn_service_config_t config;
  uv_loop_t *loop;
  tarn_pool_t *pool;
  tarn_net_t *net;
  tarn_list_t children;
  tarn_map_t members; /* id -> tarn_member_t, oneself too */
  tarn_map_t conns;   /* token -> tarn_conn_t */
  tarn_map_t pending; /* msgid -> pid + 1 as a pointer */
  uint64_t next_token, next_id;
  uint64_t incarnation;
  uint32_t id;
  char address[TARN_NET_ADDRESS_BYTES]; /* by which others reach us */
  char listening
      [TARN_NET_ADDRESS_BYTES]; /* where we listen as told; "": as the connection to process 1 has shown */
  char outward[TARN__OUTWARD_MAX]
              [TARN_NET_ADDRESS_BYTES]; /* where else, since there are workers elsewhere */
  atomic_uint_fast64_t next_launch;
  uint8_t *secret;   /* guarded memory */
  char *secret_path; /* owned; null: not asked for yet */
  uv_async_t room;
  uv_async_t more; /* the outbox is not empty yet */
  uv_poll_t life;  /* worker: its standard input */
  uv_timer_t overdue;
  uv_timer_t heartbeat; /* to look who is silent, and to say that we are there */
  uint64_t looked_ms;   /* the loop's time at the last look */
  bool beat;            /* we have said so at the last look */
  tarn_list_t partings; /* driver: parted.c */
  bool has_life, stopping, net_closed, stop_told;
  bool wants_lua;         /* Lua shall look after the pool at its next turn */
  bool wants_collection;  /* and collect its garbage */
  uint32_t bulk_arriving; /* bulk messages whose blocks are being received */
  int handles;            /* of the service's own, not yet closed */
  /* events */
  tarn_event_t *event_first, **event_last;
  uint64_t takes;  /* how often Lua has taken them */
  uint32_t paused; /* connections that are not read from */
  /* outbox */
  pthread_mutex_t out_mutex;
  tarn_out_t *out_first, **out_last;
  atomic_uint next_msgid;
  atomic_uint_fast64_t in_bytes, out_bytes;
  _Atomic(const uint64_t *) lua_bytes;
  /* lending: lend.c, borrow.c */
  uv_async_t told;    /* the pool has something to tell other processes */
  tarn_map_t holders; /* pid -> whom we have lent to */
  tarn_map_t lenders; /* pid -> whose bytes we map */
  tarn_map_t fetches; /* msgid -> a message whose value could not be mapped */
  tarn_list_t hungry; /* lend.c: fetches from us that wait for room */
  uint8_t lend_token[TARN_LEND_TOKEN];
  uint64_t collect_ns; /* when Lua was asked to collect its garbage because somebody wants room */
  atomic_uint_fast64_t collect_took_ns; /* how long that took, the last time */
  tarn_refs_t refs;
  atomic_uint_fast64_t mapped_in_bytes, mapped_in_count;
  tarn_map_t congested; /* pid -> not null: too much is queued to it. Under out_mutex */
  atomic_uint congested_count;
  tarn_unsaid_t unsaid[TARN__UNSAID_MAX]; /* under out_mutex */
  atomic_uint unsaid_count;
  struct tarn_offer *offers; /* owned; under offers_mutex */
  pthread_mutex_t offers_mutex;
};

/* events.c */
tarn_event_t *tarn__event_create(tarn_event_kind_t kind); /* null: out of memory, logged */
void tarn__event_post(tarn_service_t *s, tarn_event_t *e);
/* A response that is an error, made here; pid: the process that the error is about. */
void tarn__event_fail(tarn_service_t *s, uint32_t msgid, uint32_t pid, const tarn_error_t *err);
/* [any] There is no memory for this answer: say so when there is. token 0: to Lua. */
void tarn__unsaid_add(tarn_service_t *s, uint64_t token, uint32_t msgid);
void tarn__unsaid_say(tarn_service_t *s, bool to_lua);

/* [any] The image of an error, as every process sends it: {kind, message, pid, needed, available, path}. */
int tarn__error_image(const tarn_error_t *err, uint32_t pid, tarn_buf_t *out);

/* bytes more of this connection wait for Lua: beyond a bound it is not read from until Lua has taken what there is. */
void tarn__event_charge(tarn_service_t *s, tarn_conn_t *c, uint64_t bytes);

#define TARN_LOAN_EXT                                                                              \
  0x20 /* MessagePack extension in a frame, in place of a bin: docs/PROTOCOL.md */

/* frames.c */
/* Handle a frame, whose value (taken over; null: err) has come at last. */
void tarn__frame_again(tarn_service_t *s, tarn_conn_t *c, const uint8_t *frame, size_t size,
                       tarn_value_t *value, const tarn_error_t *err);
extern const tarn_net_callbacks_t tarn__net_callbacks;

/* refs.c, refs_out.c: [loop] */
void tarn__refs_init(tarn_service_t *s);
void tarn__refs_open(tarn_service_t *s);
void tarn__refs_close(tarn_service_t *s); /* s->handles tells when it is done */
void tarn__refs_free(tarn_service_t *s);
void tarn__refs_flush(tarn_service_t *s); /* say what there is to say */
/* refs_transfer.c. A payload with references is about to leave: *transfer is to be written beside it (0: there is nothing), and aborted when it
 * does not leave after all. TARN_ENOMEM. */
int tarn__refs_depart(tarn_service_t *s, tarn_conn_t *c, tarn_payload_t *p, uint64_t *transfer);
int tarn__refs_write(tarn_service_t *s, uint64_t transfer, tarn_buf_t *b);
void tarn__refs_abort(tarn_service_t *s, uint64_t transfer);
/* A message is here: transfer is what its extension holds (null: none). The guard, the caller's, is for as long as the message is. */
int tarn__refs_arrive(tarn_service_t *s, tarn_conn_t *c, const uint8_t *transfer,
                      size_t transfer_size, const uint8_t *front, size_t size,
                      tarn_guard_t **guard);
void tarn__refs_refuse(tarn_service_t *s, tarn_conn_t *c, const uint8_t *transfer,
                       size_t size); /* its value will never be here */
/* What foreign clients hold. */
int tarn__refs_give_foreign(tarn_service_t *s, tarn_conn_t *c, const tarn__guard_t *g);
int tarn__refs_set_foreign(tarn_service_t *s, tarn_conn_t *c, uint64_t id);
void tarn__refs_delete_foreign(tarn_service_t *s, tarn_conn_t *c, uint64_t id);
void tarn__refs_foreign_down(tarn_service_t *s, tarn_conn_t *c);
/* refs_in.c */
void tarn__refs_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, tarn_mp_reader_t *r,
                       uint32_t count);
void tarn__refs_lost(tarn_service_t *s, uint32_t pid);
void tarn__refs_conn_down(tarn_service_t *s, const tarn_conn_t *c);
int tarn__refs_write_lost(tarn_service_t *s, tarn_buf_t *b); /* [pid...]: all that are lost */

/* service.c: have Lua collect its garbage, unless that was done not long ago. */
bool tarn__collect_garbage(tarn_service_t *s);

/* send.c */
/* [type, msgid, method | error, ...] with the payload as a bin (or plain); on the bulk lane where its blocks are large. Takes the payload over. */
void tarn__send_request(tarn_service_t *s, tarn_conn_t *c, const tarn_out_t *o);
void tarn__send_reply(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, bool ok, bool foreign,
                      tarn_payload_t payload);
void tarn__send_copy(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid,
                     tarn_payload_t payload); /* never lent */
void tarn__send_error(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, const tarn_error_t *err);
/* A result that is plain MessagePack in b (released here). */
void tarn__send_result(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, tarn_buf_t *b);
/* A notification with plain parameters in b (released here). */
void tarn__send_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, tarn_buf_t *b);
void tarn__payload_free(tarn_service_t *s, tarn_payload_t *p);

/* lend.c */
void tarn__lend_host(char *text, size_t size); /* "": not to be known */
bool tarn__lend_same_host(tarn_service_t *s, const tarn_conn_t *c);
/* Append v as a loan, in place of its bin. False: it is to be sent, and b is as it was. */
bool tarn__lend_append(tarn_service_t *s, tarn_conn_t *c, const tarn_value_t *v, tarn_buf_t *b,
                       uint64_t *loan);
void tarn__lend_notice(tarn_service_t *s, tarn_conn_t *c, const char *method,
                       tarn_mp_reader_t *params);
/* A connection to a process has ended, or there is one again: what was told by it may be lost. */
void tarn__lend_conn_down(tarn_service_t *s, const tarn_conn_t *c);
void tarn__lend_conn_up(tarn_service_t *s, const tarn_conn_t *c);
/* Answer a lend.fetch: at once, or when there is room to load the value. */
void tarn__lend_serve_fetch(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, uint64_t loan,
                            bool unable);
void tarn__lend_retry(tarn_service_t *s); /* there may be room now */
void tarn__lend_open(tarn_service_t *s);
void tarn__lend_close(tarn_service_t *s); /* s->handles tells when it is done */

/* borrow.c */
/* The value of a loan in a frame. *v null with 0: it is being fetched, tarn__frame_again comes. TARN_EPROTO, TARN_ENOMEM. */
int tarn__borrow(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size,
                 const uint8_t *frame, size_t frame_size, tarn_value_t **v);
/* A response: was it for a fetch? Then value is taken over; null: why it failed (null allowed). */
bool tarn__borrow_fetched(tarn_service_t *s, uint32_t msgid, tarn_value_t *value,
                          const tarn_error_t *why);
void tarn__borrow_moved(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *params);
void tarn__borrow_conn_down(tarn_service_t *s, const tarn_conn_t *c);
void tarn__borrow_forget(tarn_service_t *s, uint32_t pid); /* it is lost */
void tarn__borrow_close(tarn_service_t *s);

/* outbox.c */
uint32_t tarn__new_msgid(tarn_service_t *s); /* [any] */
void tarn__tell_stop(tarn_service_t *s, tarn_member_t *m, uint32_t grace_ms);
void tarn__outbox_clear(tarn_service_t *s); /* frees what has not been worked off */
void tarn__congested_set(tarn_service_t *s, uint32_t pid);
bool tarn__congested_clear(tarn_service_t *s, uint32_t pid); /* true: it was set */

/* service.c: ask all for which there was no room once more */
void tarn__bulk_retry_all(tarn_service_t *s);

/* requests.c: 1 when the method is C's and was answered, 0 when it is Lua's. params: the raw parameters. value: what came with a bulk
 * message, or null (borrowed). msgid: null for a notification. */
int tarn__serve(tarn_service_t *s, tarn_conn_t *c, const uint32_t *msgid, const char *method,
                const uint8_t *params, size_t size, tarn_value_t *value);

/* offers.c */
/* The image of what is offered under name, or nil. */
int tarn__offer_write(tarn_service_t *s, const uint8_t *name, size_t length, tarn_buf_t *out);
void tarn__offers_free(tarn_service_t *s);

/* members.c */
tarn_member_t *tarn__member_get(tarn_service_t *s, uint32_t id);
tarn_member_t *tarn__member_add(tarn_service_t *s, uint32_t id, uint64_t incarnation,
                                int64_t os_pid, const char *address);
void tarn__member_lost(tarn_service_t *s, uint32_t id, const char *reason);
/* The connection to send on, opened when there is none. Null with err when there cannot be one. */
tarn_conn_t *tarn__member_conn(tarn_service_t *s, uint32_t id, tarn_error_t *err);
void tarn__member_down(tarn_service_t *s, tarn_member_t *m,
                       const char *reason); /* its connection closed */
int tarn__member_notice(tarn_service_t *s, tarn_conn_t *c, const char *method,
                        tarn_mp_reader_t *params); /* 1: was one of ours */
void tarn__pending_fail(tarn_service_t *s, uint32_t pid, const char *reason);
void tarn__members_free(tarn_service_t *s);
void tarn__stop_self(tarn_service_t *s);

/* reach.c: at which address others reach us */
/* [any] Where workers on this machine find us. True: on loopback only. out: TARN_NET_ADDRESS_BYTES. */
bool tarn__reach_own(tarn_service_t *s, char *out);
int tarn__reach_listen(tarn_service_t *s, tarn_error_t *err); /* as s->config.listen says */
/* A worker: c is the connection to process 1. */
int tarn__reach_joined(tarn_service_t *s, const tarn_conn_t *c, tarn_error_t *err);
void tarn__reach_widen(tarn_service_t *s,
                       const tarn_member_t *m); /* process 1: m is to listen where we do */
void tarn__reach_notice(tarn_service_t *s, tarn_mp_reader_t *params); /* a worker: told so */

/* ---- heartbeat.c ---- */
void tarn__heartbeat_start(tarn_service_t *s, uint64_t silence_ms); /* often enough for that */
void tarn__heartbeat_say(tarn_service_t *s, tarn_conn_t *c);
void tarn__heartbeat_heard(tarn_service_t *s, tarn_conn_t *c,
                           tarn_mp_reader_t *r); /* member.alive */
/* A worker: it does not hear that other one, or is not heard by it; or does again. */
void tarn__heartbeat_parted(tarn_service_t *s, uint32_t pid, bool parted);

/* ---- parted.c: process 1 ---- */
void tarn__parted_said(tarn_service_t *s, uint32_t by, tarn_mp_reader_t *r); /* member.parted */
void tarn__parted_forget(tarn_service_t *s, uint32_t id);                    /* it is lost */
void tarn__parted_decide(tarn_service_t *s, uint64_t passed_ms);
void tarn__partings_free(tarn_service_t *s);

/* children.c */
int tarn__child_spawn(tarn_service_t *s, const tarn_spawn_t *what, tarn_child_t **out,
                      tarn_error_t *err); /* [lua] */
void tarn__child_adopt(tarn_service_t *s, tarn_child_t *child);
tarn_child_t *tarn__child_find(tarn_service_t *s, uint64_t launch);
void tarn__child_end_input(tarn_child_t *child);           /* as if this process had ended */
void tarn__child_joined(tarn_child_t *child, uint32_t id); /* what it has said is printed */
/* A member whose child it is; null: there is none (left). stopping: those too that have been told to stop. */
tarn_member_t *tarn__child_member(const tarn_child_t *child, bool stopping);
void tarn__child_expect_end(tarn_child_t *child,
                            uint32_t grace_ms); /* it was told to stop: killed after the grace */
void tarn__child_kill(tarn_child_t *child);
void tarn__child_discard(tarn_child_t *child); /* one that was never adopted */

#endif
