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
  bool is_news;             /* driver: the others have not been told yet */
  bool parted;              /* worker: process 1 has been told that we do not hear each other */
  uv_timer_t *
      grace; /* driver: between the closed connection and the child's exit status; null: not armed */
} tarn_member_t;

/* Bytes of large values in one direction: how many had come at the last beat, and for how long that has been no more though some were under way. */
typedef struct tarn_flow {
  uint64_t received, still_ms;
} tarn_flow_t;

/* Messages in one direction, both lanes, without those of membership (member.*). */
typedef struct tarn_traffic {
  uint64_t messages, requests, responses;
} tarn_traffic_t;

/* A connection: what tarn_peer_data points to. */
typedef struct tarn_conn {
  uint64_t token;
  uint32_t pid; /* 0: a foreign client, or not proven yet */
  bool foreign, up;
  bool text_errors;    /* a foreign client that wants errors as strings */
  bool bulk_waiting;   /* a bulk message waits for room */
  uint64_t up_ms;      /* tarn_clock_boot_ms when it was proven */
  uint64_t silence_ms; /* unheard for so long is too long; 0: it is not judged */
  uint64_t heard;      /* bytes received, at the last look */
  uint64_t silent_ms;  /* how long nothing has come from it */
  uint64_t arrived;    /* bytes of ours that it has received, as it said last */
  uint64_t unsaid_ms;  /* how long ago */
  uint64_t deaf_ms;    /* for how long that has been no more than before */
  tarn_flow_t bulk_out, bulk_in;
  bool paused;            /* too much of it waits for Lua: not read from */
  bool holding;           /* a foreign client is behind with reading: not read from, and */
  tarn_buf_t held;        /* these frames of its, each after its length, wait from */
  size_t held_at;         /* there on */
  uint64_t taken_at;      /* s->takes when `waiting_bytes` was last reset */
  uint64_t waiting_bytes; /* of its requests and notifications that Lua has not taken yet */
  tarn_error_t refusal;   /* of the bulk message that is being passed over */
  uint64_t
      seen_of; /* the last of its sender's transfers that it has asked about here: what comes up to that is lost */
  bool collected; /* and Lua has been asked to collect its garbage for it */
  tarn_traffic_t out, in;
  uint64_t idle_ms;  /* for how long neither has grown */
  uint64_t idle_sum; /* their messages, at the last look */
  bool resting;      /* we begin nothing on it any more: its end is agreed upon (idle.c) */
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

/* What Lua does and has done (jobs.c). The Lua thread writes, the loop reads. */
#define TARN__JOBS_RUNNING 256u /* noted at a time */
#define TARN__JOBS_ENDED 1024u  /* remembered */
#define TARN__JOB_SOURCE 43u
typedef struct tarn__job {
  uint64_t number; /* in order of their beginning, from 1; 0: the slot is free */
  uint64_t begin_ns, end_ns;
  uint32_t from;
  int32_t line;
  bool ok;
  char source[TARN__JOB_SOURCE + 1];
} tarn__job_t;
typedef struct tarn_jobs {
  atomic_uint_fast64_t busy_ns, busy_since_ns; /* until the last pause; 0: Lua waits */
  pthread_mutex_t mutex;                       /* guards what follows */
  uint64_t begun, ended, failed, unnoted;
  uint32_t running, hint; /* hint: a slot that may be free */
  tarn__job_t slots[TARN__JOBS_RUNNING];
  tarn__job_t
      past[TARN__JOBS_ENDED]; /* a ring: the n-th that has ended stands at n % TARN__JOBS_ENDED */
  uint64_t past_count;
} tarn_jobs_t;

/* Large objects that many read: spread.c. */
#define TARN__SPREAD_RECENT 16u
typedef struct tarn__spread_asked {
  uint64_t local, ms;
  uint32_t pid; /* 0: the place is free */
} tarn__spread_asked_t;
typedef struct tarn__spread {
  tarn_map_t objects; /* an object's number here -> what is known of who has it */
  tarn_map_t asked;   /* msgid -> what we have asked a source for */
  tarn_list_t copies; /* what others may ask us for */
  tarn__spread_asked_t recent[TARN__SPREAD_RECENT]; /* a ring: who has asked for large objects */
  uint32_t next;
} tarn__spread_t;

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
  uv_timer_t news;      /* news.c: members of which the others are to be told */
  uint32_t news_count;
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
  atomic_uint_fast64_t in_bytes, out_bytes, in_messages, out_messages;
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
  tarn__spread_t spread;
  atomic_uint_fast64_t mapped_in_bytes, mapped_in_count;
  tarn_map_t congested; /* pid -> not null: too much is queued to it. Under out_mutex */
  atomic_uint congested_count;
  tarn_unsaid_t unsaid[TARN__UNSAID_MAX]; /* under out_mutex */
  atomic_uint unsaid_count;
  tarn_jobs_t jobs;
  uint64_t started_ns;
  atomic_uint_fast64_t program_bytes; /* anonymous memory of the program itself */
  atomic_uint_fast64_t mapped_out_bytes;
  tarn_map_t forwards;       /* msgid -> who has asked us to ask another process (observe.c) */
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

/* held.c: it has read, or Lua has taken what waited: handle what is held, as far as it goes. */
void tarn__frames_unhold(tarn_service_t *s, tarn_conn_t *c);

/* frames.c (frames-private.h has the rest) */
/* Handle a frame, whose value (taken over; null: err) has come at last. */
void tarn__frame_again(tarn_service_t *s, tarn_conn_t *c, const uint8_t *frame, size_t size,
                       tarn_value_t *value, const tarn_error_t *err);

/* conns.c */
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
/* A message is here: transfer is what its extension holds (null: none). The guard, the caller's, is for as long as the message is. TARN_EPROTO;
 * TARN_ENOMEM; TARN_ELOST: too late, a connection to its sender broke while it was under way, and nothing protects its references. */
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
bool tarn__refs_is_lost(tarn_service_t *s, uint32_t pid); /* have we been told so? */
void tarn__refs_conn_down(tarn_service_t *s, const tarn_conn_t *c);
/* Is nothing to be said to that process, or to be heard from it? */
bool tarn__refs_rests(tarn_service_t *s, uint32_t pid);
/* All that was said on c has been worked off there, and no more will be said on it. */
void tarn__refs_leave(tarn_service_t *s, const tarn_conn_t *c);
int tarn__refs_write_lost(tarn_service_t *s, tarn_buf_t *b); /* [pid...]: all that are lost */

/* service.c: have Lua collect its garbage, unless that was done not long ago. */
bool tarn__collect_garbage(tarn_service_t *s);
/* The pool had no room, and said rc. Does it make sense to wait for tarn__bulk_retry_all? Lua is asked to do what it takes; *collected: to collect its garbage
 * as well, which helps once. */
bool tarn__room_may_come(tarn_service_t *s, int rc, bool *collected);

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
/* The connection to a process has been closed since it was idle: what is kept open for its loans goes, if there are none. */
void tarn__lend_let_go(tarn_service_t *s, uint32_t pid);
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
void tarn__borrow_let_go(tarn_service_t *s, uint32_t pid); /* as tarn__lend_let_go */
void tarn__borrow_close(tarn_service_t *s);

/* spread.c: the owner */
void tarn__spread_init(tarn_service_t *s);
void tarn__spread_free(tarn_service_t *s);
/* c asks for a large object of ours. True: it is being answered with whom to ask instead, now or later. */
bool tarn__spread_ask(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, uint64_t local,
                      uint32_t origin, uint64_t id);
void tarn__spread_notice(tarn_service_t *s, const tarn_conn_t *c, const char *method,
                         tarn_mp_reader_t *r);
void tarn__spread_forget(tarn_service_t *s, uint32_t pid); /* a connection to it has ended */
void tarn__spread_tick(tarn_service_t *s);                 /* now and then */
/* A notification. Where there is no connection the other end has forgotten us, and all that it would say. */
void tarn__spread_tell(tarn_service_t *s, uint32_t pid, const char *method, const uint64_t *figures,
                       uint32_t count);

/* spread_read.c: a reader, and a source */
enum { TARN__SPREAD_FAILED, TARN__SPREAD_GOT, TARN__SPREAD_KEPT }; /* outcomes, in spread.done */
/* A plain request of ours leaves, of these pool.get and spread.get are looked at; Lua does not wait for its answer any more. */
void tarn__spread_asking(tarn_service_t *s, const tarn_out_t *o);
void tarn__spread_given_up(tarn_service_t *s, uint32_t msgid);
/* The answer to a request: a value, or (v null) its image, of size bytes. Both null: an error. Passed over where that was no spread.get. */
void tarn__spread_answered(tarn_service_t *s, uint32_t msgid, tarn_value_t *v, const uint8_t *image,
                           size_t size);
/* The number in our pool of a copy that others may ask for. 0: we have none. */
uint64_t tarn__spread_copy(tarn_service_t *s, uint32_t origin, uint64_t id);
void tarn__spread_end(tarn_service_t *s, uint32_t owner, uint32_t origin, uint64_t id);
void tarn__spread_read_forget(tarn_service_t *s, uint32_t pid);
void tarn__spread_read_free(tarn_service_t *s);

/* outbox.c */
uint32_t tarn__new_msgid(tarn_service_t *s); /* [any] */
void tarn__tell_stop(tarn_service_t *s, tarn_member_t *m, uint32_t grace_ms);
void tarn__outbox_clear(tarn_service_t *s); /* frees what has not been worked off */
void tarn__congested_set(tarn_service_t *s, uint32_t pid);
bool tarn__congested_clear(tarn_service_t *s, uint32_t pid); /* true: it was set */

/* service.c: ask all for which there was no room once more */
void tarn__bulk_retry_all(tarn_service_t *s);

/* figures.c: a figure, as a Lua number has it; no limit is infinite. */
int tarn__write_figure(tarn_buf_t *b, uint64_t v);
int tarn__write_figures(const tarn_figure_t *f, size_t count, tarn_buf_t *b); /* pairs of a map */
uint64_t tarn__lua_bytes(tarn_service_t *s); /* of Lua's heap, as it said last */

/* requests.c: 1 when the method is C's and was answered, 0 when it is Lua's. params: the raw parameters. value: what came with a bulk
 * message, or null (borrowed). msgid: null for a notification. */
int tarn__serve(tarn_service_t *s, tarn_conn_t *c, const uint32_t *msgid, const char *method,
                const uint8_t *params, size_t size, tarn_value_t *value);

/* jobs.c */
void tarn__jobs_init(tarn_jobs_t *j);
void tarn__jobs_free(tarn_jobs_t *j);
/* Append {now_ns, next, lost, running = [[number, name, begin_ns, from]...], ended = [[number, name, begin_ns, end_ns, ok, from]...]}: those that have ended
 * since `next` of an earlier answer (0: all that are remembered); lost: how many more there were. */
int tarn__observe_write_jobs(tarn_service_t *s, uint64_t since, tarn_buf_t *b);

/* observe.c */
/* An answer to what we have asked for somebody else: passed on. False: it is none. bytes: null: there is none, *err is why. */
bool tarn__observe_answered(tarn_service_t *s, uint32_t msgid, const uint8_t *bytes, size_t size,
                            const tarn_error_t *err);
/* What is answered to observe.NAME; argument: the one that it has. */
int tarn__observe_write_stats(tarn_service_t *s, uint64_t unused, tarn_buf_t *b);
int tarn__observe_write_objects(tarn_service_t *s, uint64_t count, tarn_buf_t *b);
int tarn__observe_write_members(tarn_service_t *s, uint64_t unused, tarn_buf_t *b);
/* Ask process pid on behalf of c: its answer goes there, by itself. */
int tarn__observe_forward(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, const char *method,
                          uint32_t pid, uint64_t argument, tarn_error_t *err);
void tarn__observe_free(tarn_service_t *s);

/* refs.c */
/* Who holds an object that was made here: the pids of other processes, at most max of them; *here: Lua of this process does; *pins: how many messages,
 * stored values and foreign clients. */
size_t tarn__refs_holders(tarn_service_t *s, uint64_t id, uint32_t *pids, size_t max, bool *here,
                          uint32_t *pins);

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

/* news.c: process 1 tells the others */
int tarn__news_write(tarn_buf_t *b, const tarn_member_t *m);
void tarn__news_add(tarn_service_t *s, tarn_member_t *m); /* of it, soon */
void tarn__news_drop(tarn_service_t *s, tarn_member_t *m);
void tarn__news_tell(tarn_service_t *s); /* now, if there is any */
/* A notification with these parameters, to all but one (and those that have not told their address). */
void tarn__news_send(tarn_service_t *s, const char *method, const tarn_buf_t *params,
                     uint32_t except);
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

/* ---- idle.c: connections between workers that are not used ---- */
#define TARN__IDLE_LOOKS 5u /* for tarn__heartbeat_start: two looks in idle_ms */
/* A message has left on c, or come. type: 0 request, 1 response, 2 notification. */
void tarn__idle_sent(tarn_conn_t *c, int type);
void tarn__idle_came(tarn_service_t *s, tarn_conn_t *c, uint64_t type, const uint8_t *method,
                     size_t method_size);
void tarn__idle_look(tarn_service_t *s, tarn_conn_t *c, uint64_t passed);
void tarn__idle_asked(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r);  /* member.idle */
void tarn__idle_agreed(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r); /* member.rest */
bool tarn__idle_is_sign(const char *method, size_t size); /* one of membership's */

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
