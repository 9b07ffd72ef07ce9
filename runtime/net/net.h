/* Peers: authenticated connections to other processes, whole MessagePack-RPC frames in and out, and the bulk lane.
 *
 * A *peer* is one relation between this process and another process (or a foreign client). It has a *control lane*, a TCP connection that
 * carries MessagePack-RPC, and, made when first needed, a *bulk lane*: a second connection on which a frame is followed by the raw
 * bytes of its blocks, so that a large transfer does not delay a small reply:
 *
 *   bulk message: "TBLK", u32 frame size, u32 block count, u32 zero, u64 size of each block, the frame, the blocks' bytes back to back
 *   (all little-endian)
 *
 * Handshake (before it, at most TARN_NET_UNPROVEN_BYTES of a connection are looked at, for at most hello_timeout_ms, and at most max_unproven
 * connections exist; beyond that the oldest unproven is closed for the next, once it has had a second). Ordinary MessagePack-RPC requests:
 *   connector: [0, 1, "hello", [{version, role "control"|"bulk", id, incarnation, os_pid, want, nonce (32 bytes), bytecode, host, tie}]]
 *   acceptor:  [1, 1, nil, {id, incarnation, os_pid, your_id, your_incarnation, nonce, proof, host}]
 *   connector: [0, 2, "prove", [proof]]      acceptor: [1, 2, nil, true]
 *                                            or, to one that joins, only now that it has proved itself: [1, 2, nil, {your_id, your_incarnation}]
 *   a refusal: [1, n, "Kind: why", nil], then closed
 * proof = HMAC-SHA-512-256(secret, label || transcript), label telling the two directions apart, the transcript being every field of both hellos; compared in constant
 * time. `want` is the id and incarnation that the connector expects to meet (0: whoever it is). A connector with id 0 asks
 * to join: the acceptor's on_join gives it its id, which becomes its tarn_net_self before its on_up.
 * `tie` (bulk only, 16 bytes derived from the control lane's handshake) names the peer to which a bulk lane belongs. A foreign client sends instead [0, n, "auth.secret", [hex secret]] (from the same machine, or by TLS): it becomes a foreign
 * peer (id 0), control lane only. Anything else before that: one logged line, connection closed.
 *
 * TLS: all of this, on both lanes, goes through TLS 1.3 where the connection leaves this machine (or as tarn_net_set_tls says), with a key derived
 * from the secret; the proofs are then bound to the TLS session. An end that wants TLS and one that does not refuse each other, in plain.
 *
 * Two notifications on the control lane are the net's own and do not reach on_frame: [2, "net.bulk", []], which asks the other end to open the bulk
 * lane because this end has no address for it, and its refusal [2, "net.nobulk", []].
 *
 * Threads: everything here runs on whatever thread runs the loop (who holds the baton); there is no lock in this room. */
#ifndef TARN_NET_NET_H
#define TARN_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include "base/err.h"

typedef struct tarn_net tarn_net_t;
typedef struct tarn_peer tarn_peer_t;

#define TARN_SECRET_BYTES 32
#define TARN_NET_UNPROVEN_BYTES 512
#define TARN_NET_ADDRESS_BYTES 64 /* a numeric "HOST:PORT" as text */

typedef struct tarn_net_identity {
  uint32_t id;          /* tarn's process id; 0 for a foreign client, or before joining */
  uint64_t incarnation; /* random, new for each process */
  int64_t os_pid;
  char host[64]; /* boot id and namespaces, opaque: equal when same-machine mapping may be tried */
  bool foreign;
} tarn_net_identity_t;

typedef struct tarn_net_span {
  const void *bytes;
  size_t size;
} tarn_net_span_t;

/* What the owner of the net is told. All on the loop; none may destroy the net; closing the peer is allowed in any. */
typedef struct tarn_net_callbacks {
  /* An unproven connector with id 0 has proved itself and asks to join: give it an id. Non-zero refuses. */
  int (*on_join)(void *user, const tarn_net_identity_t *who, uint32_t *id, uint64_t *incarnation);
  /* A peer is proven, either way round. For a connect, before any of its queued frames is sent. Frames come after it. */
  void (*on_up)(void *user, tarn_peer_t *peer);
  /* The peer is gone (or never came up): exactly once for each peer made by connect or told by on_up, its last callback; peer is freed
   * after it. reason: a text and a code: TARN_ELOST (closed, reset), TARN_EAUTH, TARN_EPROTO, TARN_ETIMEDOUT. */
  void (*on_down)(void *user, tarn_peer_t *peer, const tarn_error_t *reason);
  /* A whole, well-formed MessagePack value that is an array of 3 or 4 (RPC), control lane. Bytes are valid during the call. */
  void (*on_frame)(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size);
  /* A bulk message's frame is here, and its blocks follow. Give each a destination of its size: fill dest[i] and *token, return 0. TARN_EAGAIN: not now; the lane is
   * not read until tarn_peer_bulk_retry, then asked again. Any other code: the blocks are read and dropped, on_bulk follows with that code. */
  int (*on_bulk_begin)(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
                       const uint64_t *sizes, uint32_t count, void **dest, void **token);
  /* All bytes are in their destinations (status 0), or they will not come (peer lost, refused). Once for each on_bulk_begin that returned other than TARN_EAGAIN. */
  void (*on_bulk)(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                  int status);
  /* What is queued to the peer has fallen below the low mark, after having been above the high mark. */
  void (*on_drained)(void *user, tarn_peer_t *peer);
} tarn_net_callbacks_t;

/* Which connections use TLS: those that leave this machine; all; none. Both ends must think alike. */
typedef enum { TARN_TLS_BEYOND, TARN_TLS_ALWAYS, TARN_TLS_NEVER } tarn_net_tls_t;

typedef struct tarn_net_config {
  uv_loop_t *loop;       /* borrowed */
  const uint8_t *secret; /* TARN_SECRET_BYTES; copied into guarded memory */
  tarn_net_identity_t self;
  tarn_net_callbacks_t callbacks;
  void *user;
  uint64_t
      max_frame; /* bytes; 0: 1 GiB. Memory grows with what arrives, not with what is claimed */
  uint64_t high_mark, low_mark; /* queued bytes to a peer; 0: 64 MiB, 16 MiB */
  uint32_t hello_timeout_ms;    /* 0: 5000 */
  uint32_t max_unproven;        /* 0: 64 */
  tarn_net_tls_t tls;
  const char *
      bytecode; /* the kind of this process's Lua bytecode (at most 31 characters; null: ""): both ends must be alike. Copied */
} tarn_net_config_t;

/* So many others may well connect at about the same time: that many more unproven connections than max_unproven are allowed (at most 1024 more). */
void tarn_net_expect(tarn_net_t *net, uint64_t others);
int tarn_net_create(const tarn_net_config_t *config, tarn_net_t **out, tarn_error_t *err);
/* Close every connection and the listener (each peer gets on_down, TARN_ECANCELED). on_closed comes when all handles are closed and the
 * net has been freed. */
void tarn_net_close(tarn_net_t *net, void (*on_closed)(void *user), void *user);

/* This process's id and incarnation are known only after joining. */
void tarn_net_set_self(tarn_net_t *net, uint32_t id, uint64_t incarnation);
const tarn_net_identity_t *tarn_net_self(const tarn_net_t *net);
/* For connections made from now on. */
void tarn_net_set_tls(tarn_net_t *net, tarn_net_tls_t tls);

/* Listen on "HOST:PORT" (IPv6 in brackets; a name is looked up, which may block; port 0: any); may be called again for further ones. address gets
 * the real one (>= TARN_NET_ADDRESS_BYTES). One that other machines may reach is logged, with what that means; a warning where nothing is encrypted. */
int tarn_net_listen(tarn_net_t *net, const char *where, char *address, size_t address_size,
                    tarn_error_t *err);

/* Start connecting to "HOST:PORT" (HOST may be a name: it is looked up without blocking). want_id, want_incarnation: whom to expect there (0: anybody). The peer can be sent to at once; frames wait for the
 * proof. On error nothing is called: TARN_EIO and TARN_ENOMEM are this
 * process's own want (of descriptors, say), TARN_ELOST is the way there. user_data: tarn_peer_set_data. */
int tarn_net_connect(tarn_net_t *net, const char *address, uint32_t want_id,
                     uint64_t want_incarnation, tarn_peer_t **out, tarn_error_t *err);

/* Queue a frame (from tarn_malloc; taken over, also on failure). Frames queued in one turn of the loop leave in one write. TARN_ELOST once the peer is
 * closing. Beyond the high mark it still queues; tarn_peer_congested tells. */
int tarn_peer_send(tarn_peer_t *peer, uint8_t *frame, size_t size);
/* Send what is queued now, by a write that does not wait where that works (call after a batch of sends; the loop also does it by itself before it blocks). */
void tarn_net_flush(tarn_net_t *net);
/* Queue a frame with blocks for the bulk lane, opening it if there is none (the end that has an address for the other connects). The spans must stay readable until on_done(user, status),
 * which comes exactly once unless an error is returned, and never from inside a call of this header. frame is taken over. TARN_EINVAL: a foreign peer. */
int tarn_peer_send_bulk(tarn_peer_t *peer, uint8_t *frame, size_t size,
                        const tarn_net_span_t *blocks, uint32_t count,
                        void (*on_done)(void *user, int status), void *user);
/* Ask on_bulk_begin again, in this turn of the loop (not from inside this call; allowed at any time, in on_bulk_begin too). */
void tarn_peer_bulk_retry(tarn_peer_t *peer);

/* Read nothing more from its control lane until resumed: what comes is not being worked off. What was read already may still be delivered. While paused, its end is not
 * noticed. */
void tarn_peer_pause(tarn_peer_t *peer);
void tarn_peer_resume(tarn_peer_t *peer);

/* Is it closing, or about to (something broke)? Then nothing can be sent any more, and on_down follows. */
bool tarn_peer_gone(const tarn_peer_t *peer);
bool tarn_peer_congested(const tarn_peer_t *peer);
uint64_t tarn_peer_received(const tarn_peer_t *peer); /* bytes, on both lanes */
/* Bytes of bulk messages, since the beginning. waits: on_bulk_begin has said not now. */
typedef struct tarn_net_bulk {
  uint64_t sent, received;
  bool waits;
} tarn_net_bulk_t;
tarn_net_bulk_t tarn_peer_bulk(const tarn_peer_t *peer);
uint64_t tarn_peer_queued_bytes(const tarn_peer_t *peer);
const tarn_net_identity_t *
tarn_peer_identity(const tarn_peer_t *peer); /* of the other end; valid from on_up */
/* The "HOST:PORT" at which a new connection to this peer can be opened; needed for the bulk lane of a peer that connected to us. May be null or "". Copied. */
void tarn_peer_set_address(tarn_peer_t *peer, const char *address);
/* The numeric "HOST:PORT" of this end of its control lane: how the other end sees us, where nothing translates addresses. out: TARN_NET_ADDRESS_BYTES.
 * TARN_ELOST: there is no connection. */
int tarn_peer_local_address(const tarn_peer_t *peer, char *out);
void tarn_peer_set_data(tarn_peer_t *peer, void *data);
void *tarn_peer_data(const tarn_peer_t *peer);
/* Close: on_down follows (not from inside this call). reason null: TARN_ECANCELED. */
void tarn_peer_close(tarn_peer_t *peer, const tarn_error_t *reason);

typedef struct tarn_net_stats {
  uint64_t in_bytes, out_bytes;       /* both lanes, since the start */
  uint64_t in_messages, out_messages; /* without those of handshakes */
} tarn_net_stats_t;
void tarn_net_get_stats(const tarn_net_t *net, tarn_net_stats_t *out);

/* ---- pure parts, for who must test or reuse them ---- */

/* What a numeric "HOST:PORT" is. Other text is TARN_NET_NAMED. */
typedef enum { TARN_NET_NAMED, TARN_NET_ANY, TARN_NET_LOOPBACK, TARN_NET_OUTWARD } tarn_net_scope_t;
tarn_net_scope_t tarn_net_scope(const char *address);
/* "HOST:PORT" of the host of one address and the port of another (port null: 0). out: TARN_NET_ADDRESS_BYTES; may be either. TARN_EINVAL. */
int tarn_net_join_address(const char *host, const char *port, char *out);

/* Finds where frames end: feed bytes in any pieces. Depth bounded, lengths bounded, no allocation (libmpack's tokenizer inside). */
typedef struct tarn_framer tarn_framer_t;
tarn_framer_t *tarn_framer_create(uint64_t max_frame, uint32_t max_depth);
void tarn_framer_destroy(tarn_framer_t *f);
/* Scans bytes[0..size): *used is how many belong to the current frame. 1: the frame ends there (the next call starts a new one); 0: more bytes are
 * needed; TARN_EPROTO (not RPC-shaped: the outermost value must be an array of 3 or 4 whose first element is 0, 1 or 2), TARN_ETOOBIG. */
int tarn_framer_scan(tarn_framer_t *f, const uint8_t *bytes, size_t size, size_t *used,
                     tarn_error_t *err);

/* Is it "HOST:PORT", an IPv6 host in brackets? TARN_EINVAL says what is wrong with it. Nothing is looked up. */
int tarn_net_address_check(const char *text, tarn_error_t *err);
#endif
