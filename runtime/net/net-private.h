/* What the files of this room share: the net, its peers, their lanes, and what each file offers to
 * the others.
 *
 * Lifetimes. A lane is freed when all its uv handles have closed, a peer when its last lane is
 * freed, the net when its last lane and handle are gone. Close callbacks never run inside another
 * callback of the loop, so whoever calls out to the user needs no reference: lane and peer stay
 * valid until it returns, and it only has to look at `closing` before it goes on. */
#ifndef TARN_NET_PRIVATE_H
#define TARN_NET_PRIVATE_H

#include <sodium.h>
#include <uv.h>
#include "base/buf.h"
#include "base/list.h"
#include "image/mp.h"
#include "net/handshake-private.h"
#include "net/net.h"
#include "net/tls-private.h"

#define TARN__READ_BYTES (256u * 1024u) /* the read buffer that all lanes of a net share */
#define TARN__DIRECT_BYTES                                                                         \
  (64u * 1024u) /* what is still to come and is larger is read straight to where it belongs */
#define TARN__SLICE_BYTES (512u * 1024u) /* one read */
#define TARN__TURN_BYTES                                                                           \
  (512u * 1024u) /* one lane's reads, and its writes, in one turn of the loop */
#define TARN__TALK_BYTES (64u * 1024u) /* the same while small messages come */
#define TARN__TALK_TURNS 256u          /* after the last one */
#define TARN__KEEP_BYTES                                                                           \
  (64u * 1024u) /* a receive buffer larger than this is given back after use */
#define TARN__UNPROVEN_TLS_BYTES 4096u /* the most that is read before a TLS handshake is done */
#define TARN__LINGER_MS 1000u /* for the other lane's bytes to be read, or a refusal to arrive */
#define TARN__GRACE_MS 1000u  /* so long an unproven connection is not closed for a newer one */
#define TARN__ADDRESS_BYTES 288u
#define TARN__IOV 1024
#define TARN__MAX_BLOCKS (1u << 20) /* of a bulk message */

typedef struct tarn__lane tarn__lane_t;

/* A bulk message on its way out. */
typedef struct tarn__bulk {
  tarn_list_t link; /* in peer->bulk_wait; when it is through, in net->done */
  uint8_t *frame;   /* owned */
  void (*on_done)(void *user, int status);
  void *user;
  int status;
  uint64_t total_bytes;
  uint32_t part_count;
  tarn_net_span_t parts[]; /* header, frame, blocks; the header's bytes lie behind them */
} tarn__bulk_t;

/* An entry of a lane's queue: a frame, or a bulk message. */
typedef struct tarn__out {
  tarn_net_span_t frame; /* owned; empty for a bulk message */
  tarn__bulk_t *bulk;    /* owned */
} tarn__out_t;

/* Receiving on a bulk lane. lane->acc holds header, sizes and frame until on_bulk has been called. */
typedef struct tarn__bulk_in {
  bool in_blocks; /* false: header, sizes and frame are being gathered */
  bool paused;    /* on_bulk_begin said TARN_EAGAIN */
  bool checked;   /* the frame is well formed */
  int status;     /* what on_bulk_begin answered */
  uint32_t count, index;
  uint64_t frame_size, need,
      offset;  /* need: bytes of acc before on_bulk_begin can be asked; offset: in block index */
  void **dest; /* owned; where each block goes (the user's memory) */
  void *token;
  tarn_buf_t excess; /* read but not looked at when the lane was paused */
} tarn__bulk_in_t;

enum { TARN__LANE_CONNECTING, TARN__LANE_GREETING, TARN__LANE_PARTING, TARN__LANE_PROVEN };
enum { TARN__INTO_SHARED, TARN__INTO_GREETING, TARN__INTO_ACC, TARN__INTO_BLOCK };

/* The handshake of one lane; freed once proven. */
typedef struct tarn__greeting {
  uint8_t bytes[TARN_NET_UNPROVEN_BYTES];
  size_t have, at; /* bytes received; start of the message being read */
  size_t scanned;  /* how far the framer has looked */
  uint8_t step;    /* messages understood so far */
  tarn__hello_t hello;
  tarn__welcome_t welcome;
} tarn__greeting_t;

/* Of the bytes that one turn of the loop may move: so many have been in that turn. */
typedef struct tarn__ration {
  uint64_t turn, bytes;
} tarn__ration_t;

/* One connection. */
struct tarn__lane {
  tarn_list_t link;     /* in net->lanes */
  tarn_list_t unproven; /* in net->unproven, oldest first; an accepted lane's */
  tarn_list_t dirty;    /* in net->dirty: has something to send; in net->later: in the next turn */
  tarn_list_t retry;    /* in net->retry: tarn_peer_bulk_retry was called */
  tarn_net_t *net;      /* borrowed */
  tarn_peer_t *peer;    /* borrowed; null for an accepted lane that is not proven */
  uint8_t role, state, into;
  bool connector, closing;
  bool used;            /* a bulk lane that has carried something */
  bool writing;         /* a uv_write is under way */
  bool write_dead;      /* a write failed; what can still be read is read */
  bool secure;          /* TLS is wanted; else the connection is plain */
  bool mismatched;      /* the other end does otherwise: a refusal is all that passes */
  uint8_t open_handles; /* uv handles and requests that hold this struct */
  uint16_t port;        /* while the name is looked up */
  char remote[64];
  uv_tcp_t tcp;
  uv_timer_t timer; /* the handshake's deadline; later, lingering */
  uv_connect_t connect;
  uv_getaddrinfo_t resolve;
  uv_shutdown_t shutdown;
  uv_write_t write;
  size_t write_bytes;             /* of the uv_write under way */
  tarn_framer_t *framer;          /* owned */
  tarn__greeting_t *greeting;     /* owned; null once proven */
  tarn__tls_t *tls;               /* owned; null while plain, or before the first byte */
  uint32_t heard_bytes;           /* before the TLS handshake was done */
  tarn_buf_t sealed;              /* TLS output on its way: from sealed_at on it has not left */
  size_t sealed_at, sealed_plain; /* sealed_plain: for so many bytes of the queue it stands */
  tarn_buf_t acc;                 /* a frame that did not come in one piece */
  tarn__bulk_in_t in;
  uint64_t born_ms;
  tarn__ration_t reads, writes;
  tarn__out_t *out; /* owned: ring of out_capacity (a power of two) */
  size_t out_head, out_count, out_capacity;
  uint32_t part; /* of the first entry: parts sent, and bytes of the next one */
  size_t part_offset;
};

struct tarn_peer {
  tarn_list_t link;    /* in net->peers */
  tarn_list_t drained; /* in net->drained: on_drained is due */
  tarn_net_t *net;
  void *data;
  tarn_net_identity_t identity;
  uint32_t want_id;
  uint64_t want_incarnation;
  uint8_t tie[TARN__TIE_BYTES]; /* names this pair of control lane ends */
  char address[TARN__ADDRESS_BYTES];
  tarn__lane_t *control, *bulk_out, *bulk_in; /* bulk_out: the one opened from here */
  uint32_t lane_count;                        /* lanes not yet freed */
  tarn_list_t bulk_wait;                      /* of tarn__bulk_t: waiting for a bulk lane */
  uint64_t queued_bytes;
  uint64_t received_bytes; /* on all its lanes */
  tarn_net_bulk_t bulk;
  bool connector; /* made by tarn_net_connect */
  bool up, congested, closing;
  bool
      doomed; /* something broke; closed for `reason` when the control lane has been read to its end, or soon */
  int refused; /* the bulk lane could not be opened: with that its messages fail, when the control lane has had time to end */
  bool asked, wanted; /* asked the other end for a bulk lane; was asked for one */
  tarn_error_t reason;
};

typedef struct tarn__listener {
  tarn_list_t link;
  tarn_net_t *net;
  bool pending; /* libuv holds a connection for it that has not been accepted */
  bool starved; /* memory was short: not before the timer */
  uv_tcp_t tcp;
} tarn__listener_t;

struct tarn_net {
  uv_loop_t *loop;
  uint8_t *secret;      /* sodium_malloc */
  uint8_t *read_buffer; /* TARN__READ_BYTES */
  tarn_net_tls_t tls_mode;
  tarn__tls_context_t *tls; /* made when first needed, as what follows */
  uint8_t *tls_buffer;      /* TARN__TLS_RECORD_BYTES: a record's plain text, coming or going */
  tarn_net_identity_t self;
  tarn_net_callbacks_t callbacks;
  void *user;
  char bytecode[TARN__TEXT_BYTES];
  uint64_t max_frame, high_mark, low_mark;
  uint32_t hello_timeout_ms, least_unproven, max_unproven, unproven_count;
  tarn_list_t lanes, unproven, peers, listeners;
  tarn_list_t dirty, later, done, drained, retry;
  uv_prepare_t prepare;
  uv_check_t check;
  uv_idle_t idle;
  uv_timer_t patience;   /* listeners look again at what is pending */
  uint64_t turn, talked; /* the number of this turn, and of the last in which a frame came */
  uint32_t open_handles; /* uv handles of its own, listeners and lanes */
  bool closing, idling;
  void (*on_closed)(void *user);
  void *closed_user;
  tarn_net_stats_t stats;
};

/* address.c: "HOST:PORT", "[V6]:PORT". */
typedef struct tarn__address {
  char host[256];
  uint16_t port;
  bool numeric;
  struct sockaddr_storage sa; /* when numeric */
} tarn__address_t;
int tarn__address_parse(const char *text, tarn__address_t *out, tarn_error_t *err);
void tarn__address_format(const struct sockaddr *sa, char *out, size_t size);
bool tarn__address_is_loopback(const struct sockaddr *sa);

/* framer.c */
void tarn__framer_reset(tarn_framer_t *f, uint64_t max_frame);
uint64_t tarn__framer_need(
    const tarn_framer_t *f); /* at least so many bytes are still to come in the current frame */

/* listen.c */
void tarn__listeners_accept(tarn_net_t *net); /* those that wait, as far as the bound allows */
void tarn__listeners_close(tarn_net_t *net);

/* net.c */
void tarn__net_settle(tarn_net_t *net);   /* free it if it is closing and nothing is left */
void tarn__net_dispatch(tarn_net_t *net); /* call the callbacks that are due; on the loop only */

/* lane.c */
int tarn__lane_accept(tarn_net_t *net,
                      uv_stream_t *listener); /* a uv error; UV_ENOMEM: not accepted */
int tarn__lane_connect(tarn_net_t *net, tarn_peer_t *peer, uint8_t role, const char *address,
                       tarn__lane_t **out, tarn_error_t *err);
void tarn__lane_read(tarn__lane_t *lane);              /* start, or go on, reading */
void tarn__lane_ended(tarn__lane_t *lane, int status); /* nothing more comes: a uv error */
/* Where the next bytes of what the other end says go: as lane->into then says. */
void tarn__lane_choose(tarn__lane_t *lane, uv_buf_t *out);
/* So many have been put there. */
void tarn__lane_take(tarn__lane_t *lane, const uint8_t *bytes, size_t count);
void tarn__lane_part(
    tarn__lane_t *lane); /* nothing more is listened to; what was written may arrive */
void tarn__lane_feed(tarn__lane_t *lane, const uint8_t *bytes,
                     size_t size); /* bytes of a proven lane */
/* A place in lane->acc to read into, if at least `need` bytes are to come and that is much. False: use the shared buffer. */
bool tarn__lane_acc_buffer(tarn__lane_t *lane, uint64_t need, uv_buf_t *out);
void tarn__lane_proven(tarn__lane_t *lane);
void tarn__lane_linger(tarn__lane_t *lane, uint32_t ms); /* the timer: see on_timer */
void tarn__lane_close(tarn__lane_t *lane);
/* Something is wrong with it: tells the peer, logs, closes, as its state asks. */
void tarn__lane_fail(tarn__lane_t *lane, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* write.c */
int tarn__lane_push(tarn__lane_t *lane, tarn__out_t entry);
size_t tarn__turn_share(const tarn_net_t *net); /* TARN__TURN_BYTES, or TARN__TALK_BYTES */
/* How much of a lane's share of this turn is left. */
size_t tarn__ration_left(const tarn_net_t *net, tarn__ration_t *ration);
void tarn__lane_mark(tarn__lane_t *lane); /* send in this turn what is queued */
void tarn__lane_flush(
    tarn__lane_t *lane); /* calls nobody back: what is through goes to net->done */
void tarn__lane_drop_queue(tarn__lane_t *lane, int status);
int tarn__lane_write_now(tarn__lane_t *lane, const uint8_t *bytes,
                         size_t size); /* handshake only, as it is: all at once, or TARN_ELOST */

/* secure.c: TLS between a lane and its socket */
bool tarn__secure_is_local(
    const tarn__lane_t *lane);               /* does the connection stay on this machine? */
void tarn__secure_begin(tarn__lane_t *lane); /* it is connected: is TLS wanted, and who begins? */
size_t tarn__secure_room(const tarn__lane_t *lane); /* how much may be read now */
void tarn__secure_feed(tarn__lane_t *lane, const uint8_t *bytes, size_t size); /* as they came */
/* Encrypts these into lane->sealed, with what else the engine has to say. TARN_ENOMEM, TARN_EIO. */
int tarn__secure_seal(tarn__lane_t *lane, const uv_buf_t *iov, unsigned count);
bool tarn__secure_waits(const tarn__lane_t *lane); /* is there encrypted that has not left? */
void tarn__secure_sent(tarn__lane_t *lane);        /* lane->sealed has */
/* A message of the handshake, encrypted or not, leaves at once. TARN_ENOMEM, TARN_EIO, TARN_ELOST. */
int tarn__secure_say(tarn__lane_t *lane, const uint8_t *bytes, size_t size);
void tarn__secure_close(tarn__lane_t *lane); /* a last word */
void tarn__secure_release(tarn__lane_t *lane);
void tarn__bulk_finish(tarn_net_t *net, tarn__bulk_t *b, int status); /* on_done will be called */
void tarn__peer_sent(tarn_peer_t *peer, uint64_t bytes); /* so many fewer bytes are queued */

/* greet.c */
void tarn__greet_start(tarn__lane_t *lane); /* connector: say hello */
void tarn__greet_feed(tarn__lane_t *lane,
                      size_t count); /* so many bytes were added to greeting->bytes */

/* bulk_in.c: receiving */
void tarn__bulk_in_init(tarn__lane_t *lane);
void tarn__bulk_in_release(tarn__lane_t *lane); /* tells on_bulk if a message was under way */
void tarn__bulk_in_feed(tarn__lane_t *lane, const uint8_t *bytes, size_t size);
void tarn__bulk_in_direct(
    tarn__lane_t *lane,
    size_t count); /* so many bytes were read to where tarn__bulk_in_buffer said */
void tarn__bulk_in_acc(tarn__lane_t *lane, size_t count);
bool tarn__bulk_in_buffer(tarn__lane_t *lane,
                          uv_buf_t *out); /* false: read into the shared buffer */
void tarn__bulk_in_resume(tarn__lane_t *lane);

/* bulk.c: opening, choosing, losing the lane */
void tarn__bulk_route(tarn_peer_t *peer);
void tarn__bulk_give_up(tarn_peer_t *peer); /* what waits for the lane fails */
void tarn__bulk_lost(tarn__lane_t *lane, const tarn_error_t *err);
void tarn__bulk_attached(tarn_peer_t *peer, tarn__lane_t *lane);
bool tarn__bulk_control(tarn_peer_t *peer, const uint8_t *frame,
                        size_t size); /* true: a frame of ours, dealt with */
void tarn__bulk_fail_waiting(tarn_peer_t *peer, int status);

/* peer.c */
int tarn__peer_create(tarn_net_t *net, tarn_peer_t **out);
void tarn__peer_up(tarn_peer_t *peer);     /* on_up */
void tarn__peer_settle(tarn_peer_t *peer); /* on_down and free, if it is closing and has no lane */
int tarn__peer_status(
    const tarn_peer_t
        *peer); /* for what a closed peer leaves undone: TARN_ECANCELED or TARN_ELOST */
void tarn__peer_doom(tarn_peer_t *peer, const tarn_error_t *err);
tarn_peer_t *tarn__peer_find(tarn_net_t *net, uint32_t id, uint64_t incarnation,
                             const uint8_t *tie);

#endif
