/* TLS between a lane and its socket. The loop's thread only.
 *
 * Which lanes have it: see tarn_net_tls_t; both ends look at the two addresses of the connection, and so come to the same answer. What comes is decrypted record
 * by record to where tarn__lane_choose says, as if it had been read there; what goes is encrypted SEAL_BYTES at a time when it is its turn to be written
 * (write.c), so that nothing but what is being written exists twice. Framer, handshake and queues know nothing of it.
 *
 * Until the TLS handshake is done, TARN__UNPROVEN_TLS_BYTES of a connection are read; an acceptor makes nothing for it before its first byte. An end
 * that meets one that does otherwise speaks plain, to say no or to be told so: a connection on which TLS is wanted never does more without. */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/log.h"
#include "net/net-private.h"

#define READ_BYTES                                                                                 \
  (128u * 1024u) /* of the socket, at once: a paused lane keeps what comes of them */

bool tarn__secure_is_local(const tarn__lane_t *lane) {
  struct sockaddr_storage theirs, ours;
  int size = sizeof theirs, our_size = sizeof ours;
  char a[TARN_NET_ADDRESS_BYTES], b[TARN_NET_ADDRESS_BYTES];
  if (uv_tcp_getpeername(&lane->tcp, (struct sockaddr *)&theirs, &size) != 0 ||
      uv_tcp_getsockname(&lane->tcp, (struct sockaddr *)&ours, &our_size) != 0) {
    return false;
  }
  if (tarn__address_is_loopback((struct sockaddr *)&theirs)) { return true; }
  tarn__address_format((struct sockaddr *)&theirs, a, sizeof a);
  tarn__address_format((struct sockaddr *)&ours, b, sizeof b);
  return tarn_net_join_address(a, NULL, a) == 0 && tarn_net_join_address(b, NULL, b) == 0 &&
         strcmp(a, b) == 0;
}

static void fail(tarn__lane_t *lane, int code, const char *why) {
  if (code == TARN_ENOMEM || code == TARN_EIO) { code = TARN_ELOST; } /* ours, not the peer's */
  if (lane->connector && lane->state != TARN__LANE_PROVEN) { /* else the log says who it is */
    tarn__lane_fail(lane, code, "%s: %s", lane->remote, why);
  } else {
    tarn__lane_fail(lane, code, "%s", why);
  }
}

/* What all lanes share is made for the first. */
static int prepare(tarn_net_t *net, tarn_error_t *err) {
  if (net->tls) { return 0; }
  if (!net->tls_buffer) { net->tls_buffer = tarn_malloc((size_t)2 * TARN__TLS_RECORD_BYTES); }
  if (!net->tls_buffer) { return tarn_error_set(err, TARN_ENOMEM, "no memory for TLS"); }
  return tarn__tls_context_create(net->secret, 0, &net->tls, err);
}

static bool open_engine(tarn__lane_t *lane) {
  tarn_error_t err = {0};
  int rc = prepare(lane->net, &err);
  if (!rc && (rc = tarn__tls_create(lane->net->tls, lane->connector, &lane->tls)) != 0) {
    tarn_error_set(&err, rc, "no memory for TLS");
  }
  if (rc) { fail(lane, rc, err.message); }
  return rc == 0;
}

/* All that the engine has to say, at once: not for a lane that has something in the queue. */
static int write_output(tarn__lane_t *lane) {
  tarn_buf_t *out = tarn__tls_output(lane->tls);
  int rc = out->size > 0 ? tarn__lane_write_now(lane, out->data, out->size) : 0;
  tarn_buf_clear(out);
  return rc;
}

/* ---- the handshake ---- */

/* It has failed; the other end is told why by an alert, if there is one. */
static void give_up(tarn__lane_t *lane, int code, const tarn_error_t *why) {
  bool told = tarn__tls_output(lane->tls)->size > 0 && write_output(lane) == 0;
  if (lane->connector || !told || code == TARN_ENOMEM) {
    fail(lane, code, why->message);
    return;
  }
  tarn_log(TARN_LOG_WARN, "net: refused a connection from %s: %s: %s", lane->remote,
           tarn_error_kind(code), why->message);
  tarn__lane_part(lane);
}

/* Go on with it. True: it is done. */
static bool shake(tarn__lane_t *lane) {
  tarn_error_t err = {0};
  int rc = tarn__tls_handshake(lane->tls, &err);
  if (rc < 0) {
    give_up(lane, rc, &err);
    return false;
  }
  if (write_output(lane)) {
    fail(lane, TARN_ELOST, "closed by the other end");
    return false;
  }
  if (rc == 1 && lane->connector) { tarn__greet_start(lane); }
  if (rc == 0 && lane->heard_bytes >= TARN__UNPROVEN_TLS_BYTES) {
    fail(lane, TARN_EPROTO, "its part of the TLS handshake is too long");
  }
  return rc == 1 && !lane->closing;
}

void tarn__secure_begin(tarn__lane_t *lane) {
  tarn_net_tls_t mode = lane->net->tls_mode;
  lane->secure =
      mode == TARN_TLS_ALWAYS || (mode == TARN_TLS_BEYOND && !tarn__secure_is_local(lane));
  if (lane->secure && lane->connector && open_engine(lane)) { (void)shake(lane); }
}

/* The other end does not speak TLS: what it says is read as far as a no needs. */
static void meet_plain(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  tarn__greeting_t *g = lane->greeting;
  tarn__secure_release(lane);
  lane->secure = false;
  lane->mismatched = true;
  if (size > sizeof g->bytes) { size = sizeof g->bytes; }
  memcpy(g->bytes, bytes, size);
  tarn__greet_feed(lane, size);
}

/* ---- reading ---- */

size_t tarn__secure_room(const tarn__lane_t *lane) {
  bool ready = lane->tls && tarn__tls_ready(lane->tls);
  return ready || lane->state == TARN__LANE_PARTING ? READ_BYTES
                                                    : TARN__UNPROVEN_TLS_BYTES - lane->heard_bytes;
}

static void broken(tarn__lane_t *lane, int code, const tarn_error_t *why) {
  if (code == TARN_ELOST) {
    tarn__lane_ended(lane, UV_EOF);
  } else {
    fail(lane, code, why->message);
  }
}

/* Everything that the engine's input holds; what is left of a record is the engine's. */
static void decrypt(tarn__lane_t *lane) {
  tarn_error_t err = {0};
  size_t got = 0;
  int rc = 1;
  while (!lane->closing && lane->state != TARN__LANE_PARTING) {
    uv_buf_t to = uv_buf_init((char *)lane->net->tls_buffer, TARN__TLS_RECORD_BYTES);
    tarn__lane_choose(lane, &to);
    rc = tarn__tls_read(lane->tls, to.base, to.len, &got, &err);
    if (rc <= 0) { break; }
    tarn__lane_take(lane, (const uint8_t *)to.base, got);
  }
  if (rc < 0) { broken(lane, rc, &err); }
}

void tarn__secure_feed(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  if (lane->state == TARN__LANE_PARTING) { return; }
  if (lane->heard_bytes == 0 && !tarn__tls_is_record(bytes[0])) {
    meet_plain(lane, bytes, size);
    return;
  }
  if (!lane->tls && !open_engine(lane)) { return; }
  bool ready = tarn__tls_ready(lane->tls);
  tarn__tls_input(lane->tls, bytes, size);
  if (!ready) {
    lane->heard_bytes += (uint32_t)size;
    ready = shake(lane);
  }
  if (ready) { decrypt(lane); }
  tarn__tls_input(lane->tls, NULL, 0);
  if (tarn__tls_output(lane->tls)->size > 0) { tarn__lane_mark(lane); }
}

/* ---- writing ---- */

/* Records are full where there is enough for it: small pieces are put together, in the buffer's other half, since its first may hold what is just being
 * taken. */
static int encrypt(tarn__lane_t *lane, const uv_buf_t *iov, unsigned count) {
  uint8_t *stage = lane->net->tls_buffer + TARN__TLS_RECORD_BYTES;
  size_t staged = 0;
  int rc = 0;
  for (unsigned i = 0; i < count && !rc; i++) {
    const char *at = iov[i].base;
    for (size_t left = iov[i].len, n; left > 0 && !rc; at += n, left -= n) {
      size_t room = TARN__TLS_RECORD_BYTES - staged;
      n = left < room ? left : room;
      if (staged == 0 && (n == room || i + 1 == count)) {
        rc = tarn__tls_write(lane->tls, at, n);
        continue;
      }
      memcpy(stage + staged, at, n);
      staged += n;
      if (staged == TARN__TLS_RECORD_BYTES) {
        rc = tarn__tls_write(lane->tls, stage, staged);
        staged = 0;
      }
    }
  }
  return staged > 0 && !rc ? tarn__tls_write(lane->tls, stage, staged) : rc;
}

int tarn__secure_seal(tarn__lane_t *lane, const uv_buf_t *iov, unsigned count) {
  int rc = encrypt(lane, iov, count);
  if (rc) { return rc; }
  tarn_buf_t *out = tarn__tls_output(lane->tls), empty = lane->sealed;
  lane->sealed = *out;
  lane->sealed_at = 0;
  *out = empty;
  return 0;
}

bool tarn__secure_waits(const tarn__lane_t *lane) {
  return lane->sealed_at < lane->sealed.size || tarn__tls_output(lane->tls)->size > 0;
}

void tarn__secure_sent(tarn__lane_t *lane) {
  lane->sealed_at = 0;
  tarn_buf_clear(&lane->sealed);
  if (lane->out_count > 0 || lane->sealed.capacity <= TARN__KEEP_BYTES) { return; }
  tarn_buf_release(&lane->sealed);
  if (tarn__tls_output(lane->tls)->size == 0) { tarn_buf_release(tarn__tls_output(lane->tls)); }
}

int tarn__secure_say(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  if (!lane->tls) { return tarn__lane_write_now(lane, bytes, size); }
  int rc = tarn__tls_write(lane->tls, bytes, size);
  return rc ? rc : write_output(lane);
}

void tarn__secure_close(tarn__lane_t *lane) {
  bool can = lane->tls && tarn__tls_ready(lane->tls) && !lane->writing && !lane->write_dead &&
             lane->state != TARN__LANE_PARTING && lane->sealed.size == 0;
  if (!can) { return; }
  tarn__tls_close(lane->tls);
  (void)write_output(lane);
}

void tarn__secure_release(tarn__lane_t *lane) {
  tarn__tls_destroy(lane->tls);
  lane->tls = NULL;
  tarn_buf_release(&lane->sealed);
}
