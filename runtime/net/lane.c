/* One connection: opened or accepted, read, failed, closed. The loop's thread only.
 *
 * Reading. All lanes of a net share one buffer, since a read's callback follows its allocation at
 * once. Frames that lie whole in it are delivered in place; what is left over is gathered in
 * lane->acc, and once at least TARN__DIRECT_BYTES are known to be missing they are read straight
 * into it. Memory grows with what has arrived, not with what a header claims. A lane that has read
 * its share in one turn of the loop waits for the next, so that a bulk transfer does not keep the
 * control lanes waiting; write.c does the same. The share is smaller while frames come. */
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/log.h"
#include "image/image.h"
#include "net/net-private.h"

#define DEAD_S 30 /* of a machine that does not acknowledge what it is sent */
#define FRAME_DEPTH (TARN_IMAGE_MAX_DEPTH + 24u) /* a value and the RPC arrays around it */

/* ---- the end of a lane ---- */

static void release_handle(tarn__lane_t *lane) {
  if (--lane->open_handles > 0) { return; }
  tarn_net_t *net = lane->net;
  tarn_peer_t *peer = lane->peer;
  int status = peer ? tarn__peer_status(peer) : TARN_ELOST;
  tarn__bulk_in_release(lane);
  tarn__lane_drop_queue(lane, status);
  tarn_list_remove(&lane->link);
  tarn_list_remove(&lane->dirty);
  tarn_list_remove(&lane->retry);
  if (lane->greeting) {
    sodium_memzero(lane->greeting, sizeof *lane->greeting);
    tarn_free(lane->greeting);
  }
  tarn_framer_destroy(lane->framer);
  tarn__secure_release(lane);
  tarn_buf_release(&lane->acc);
  tarn_free(lane->out);
  if (peer) {
    if (peer->control == lane) { peer->control = NULL; }
    if (peer->bulk_in == lane) { peer->bulk_in = NULL; }
    if (peer->bulk_out == lane) { peer->bulk_out = NULL; }
    peer->lane_count--;
  }
  tarn_free(lane);
  if (peer) { tarn__peer_settle(peer); }
  net->open_handles--;
  tarn__net_settle(net);
}

static void on_handle_closed(uv_handle_t *handle) { release_handle(handle->data); }

void tarn__lane_close(tarn__lane_t *lane) {
  if (lane->closing) { return; }
  tarn__secure_close(lane);
  lane->closing = true;
  if (!tarn_list_empty(&lane->unproven)) {
    tarn_list_remove(&lane->unproven);
    lane->net->unproven_count--;
  }
  tarn_list_remove(&lane->dirty);
  tarn_list_remove(&lane->retry);
  if (lane->resolve.data) { uv_cancel((uv_req_t *)&lane->resolve); }
  uv_close((uv_handle_t *)&lane->tcp, on_handle_closed);
  uv_close((uv_handle_t *)&lane->timer, on_handle_closed);
}

static void fail(tarn__lane_t *lane, const tarn_error_t *err) {
  if (lane->closing) { return; }
  tarn_peer_t *peer = lane->peer;
  if (lane->state == TARN__LANE_PARTING) { /* has been logged */
    tarn__lane_close(lane);
    return;
  }
  if (!peer) {
    /* A connection that came and went without a word (a port probe) is nothing to warn of. */
    int level = err->code == TARN_ELOST ? TARN_LOG_INFO : TARN_LOG_WARN;
    tarn_log(level, "net: closed a connection from %s that had not proved itself: %s", lane->remote,
             err->message);
    tarn__lane_close(lane);
    return;
  }
  if (lane->state == TARN__LANE_PROVEN && (err->code == TARN_EPROTO || err->code == TARN_ETOOBIG)) {
    tarn_log(TARN_LOG_WARN, "net: closed the connection to process %u at %s: %s", peer->identity.id,
             lane->remote, err->message);
  }
  if (lane->role == TARN__ROLE_CONTROL ||
      (lane->state == TARN__LANE_PROVEN && err->code == TARN_EPROTO)) {
    tarn_peer_close(peer, err);
  } else {
    tarn__bulk_lost(lane, err);
  }
}

void tarn__lane_fail(tarn__lane_t *lane, int code, const char *fmt, ...) {
  char text[TARN_ERROR_TEXT];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  tarn_error_t err;
  tarn_error_set(&err, code, "%s", text);
  fail(lane, &err);
}

/* ---- reading ---- */

static void deliver(tarn__lane_t *lane, const uint8_t *frame, size_t size) {
  tarn_net_t *net = lane->net;
  net->stats.in_messages++;
  if (!tarn__bulk_control(lane->peer, frame, size)) {
    net->talked = net->turn;
    net->callbacks.on_frame(net->user, lane->peer, frame, size);
  }
}

static void deliver_acc(tarn__lane_t *lane) {
  deliver(lane, lane->acc.data, lane->acc.size);
  if (lane->acc.capacity > TARN__KEEP_BYTES) {
    tarn_buf_release(&lane->acc);
  } else {
    tarn_buf_clear(&lane->acc);
  }
}

static void feed_control(tarn__lane_t *lane, const uint8_t *at, size_t size) {
  while (size > 0 && !lane->closing) {
    size_t used = 0;
    tarn_error_t err;
    int rc = tarn_framer_scan(lane->framer, at, size, &used, &err);
    if (rc <
        0) { /* to the peer's owner a frame out of bounds is a breach of the protocol as well */
      tarn__lane_fail(lane, TARN_EPROTO, "%s", err.message);
      return;
    }
    if (rc == 1 && lane->acc.size == 0) {
      deliver(lane, at, used);
    } else if (tarn_buf_append(&lane->acc, at, used)) {
      tarn__lane_fail(lane, TARN_ELOST, "no memory for a message of %zu bytes or more",
                      lane->acc.size + used);
      return;
    } else if (rc == 1) {
      deliver_acc(lane);
    }
    at += used;
    size -= used;
  }
}

/* count bytes were read behind acc's end; they are of the frame that it holds the beginning of. */
static void feed_acc(tarn__lane_t *lane, size_t count) {
  size_t used = 0;
  tarn_error_t err;
  int rc = tarn_framer_scan(lane->framer, lane->acc.data + lane->acc.size, count, &used, &err);
  if (rc < 0) {
    tarn__lane_fail(lane, TARN_EPROTO, "%s", err.message);
    return;
  }
  lane->acc.size += used;
  if (rc == 1) { deliver_acc(lane); }
}

void tarn__lane_feed(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  if (lane->role == TARN__ROLE_BULK) {
    lane->peer->bulk.received += size;
    tarn__bulk_in_feed(lane, bytes, size);
  } else {
    feed_control(lane, bytes, size);
  }
}

void tarn__lane_choose(tarn__lane_t *lane, uv_buf_t *out) {
  lane->into = TARN__INTO_SHARED;
  if (lane->state == TARN__LANE_GREETING) {
    tarn__greeting_t *g = lane->greeting;
    lane->into = TARN__INTO_GREETING;
    *out = uv_buf_init((char *)g->bytes + g->have, (unsigned)(sizeof g->bytes - g->have));
  } else if (lane->state != TARN__LANE_PROVEN) {
    return;
  } else if (lane->role == TARN__ROLE_BULK) {
    tarn__bulk_in_buffer(lane, out);
  } else if (lane->acc.size > 0) {
    tarn__lane_acc_buffer(lane, tarn__framer_need(lane->framer), out);
  }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  (void)suggested;
  tarn__lane_t *lane = handle->data;
  tarn_net_t *net = lane->net;
  *buf = uv_buf_init((char *)net->read_buffer, TARN__READ_BYTES);
  bool greeting = lane->state == TARN__LANE_GREETING;
  size_t left = greeting ? SIZE_MAX : tarn__ration_left(net, &lane->reads);
  if (left == 0) {
    buf->len = 0; /* libuv calls back with UV_ENOBUFS and polls again in the next turn */
  } else if (lane->secure) {
    buf->len = tarn__secure_room(lane);
  } else {
    tarn__lane_choose(lane, buf);
  }
  if (buf->len > left) { buf->len = left; }
}

bool tarn__lane_acc_buffer(tarn__lane_t *lane, uint64_t need, uv_buf_t *out) {
  if (need < TARN__DIRECT_BYTES) { return false; }
  size_t room = need < TARN__SLICE_BYTES ? (size_t)need : TARN__SLICE_BYTES;
  if (tarn_buf_reserve(&lane->acc, room)) {
    return false;
  } /* the shared way will meet the same failure, and say so */
  *out = uv_buf_init((char *)lane->acc.data + lane->acc.size, (unsigned)room);
  lane->into = TARN__INTO_ACC;
  return true;
}

void tarn__lane_ended(tarn__lane_t *lane, int status) {
  bool silent = lane->greeting && lane->greeting->have == 0 && lane->heard_bytes == 0;
  if (silent && lane->connector) {
    tarn__lane_fail(lane, TARN_ELOST,
                    "%s has closed the connection without a word: it may have no descriptors left",
                    lane->remote);
    return;
  }
  int code = lane->state == TARN__LANE_PROVEN || lane->peer || silent ? TARN_ELOST : TARN_EPROTO;
  tarn__lane_fail(lane, code, "%s",
                  status == UV_EOF ? "closed by the other end" : uv_strerror(status));
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf) {
  tarn__lane_t *lane = stream->data;
  if (nread == 0 || nread == UV_ENOBUFS || lane->closing) { return; }
  if (nread < 0) {
    tarn__lane_ended(lane, (int)nread);
    return;
  }
  size_t count = (size_t)nread;
  lane->reads.bytes += count;
  lane->net->stats.in_bytes += count;
  if (lane->peer) { lane->peer->received_bytes += count; }
  if (lane->secure) {
    tarn__secure_feed(lane, (const uint8_t *)buf->base, count);
  } else {
    tarn__lane_take(lane, (const uint8_t *)buf->base, count);
  }
}

void tarn__lane_take(tarn__lane_t *lane, const uint8_t *bytes, size_t count) {
  bool bulk = lane->role == TARN__ROLE_BULK;
  if (lane->into == TARN__INTO_GREETING) {
    tarn__greet_feed(lane, count);
  } else if (lane->state != TARN__LANE_PROVEN) {
    return; /* parting: nobody listens any more */
  } else if (lane->into == TARN__INTO_BLOCK) {
    tarn__bulk_in_direct(lane, count);
  } else if (lane->into == TARN__INTO_SHARED) {
    tarn__lane_feed(lane, bytes, count);
  } else if (bulk) {
    tarn__bulk_in_acc(lane, count);
  } else {
    feed_acc(lane, count);
  }
}

void tarn__lane_read(tarn__lane_t *lane) {
  if (lane->closing) { return; }
  int rc = uv_read_start((uv_stream_t *)&lane->tcp, on_alloc, on_read);
  if (rc) { tarn__lane_fail(lane, TARN_ELOST, "cannot read: %s", uv_strerror(rc)); }
}

void tarn_peer_pause(tarn_peer_t *peer) {
  if (peer->control && !peer->control->closing) {
    uv_read_stop((uv_stream_t *)&peer->control->tcp);
  }
}

void tarn_peer_resume(tarn_peer_t *peer) {
  if (peer->control && peer->control->state == TARN__LANE_PROVEN) {
    tarn__lane_read(peer->control);
  }
}

/* ---- the beginning ---- */

static void on_shutdown(uv_shutdown_t *req, int status) {
  (void)req;
  (void)status;
}

void tarn__lane_part(tarn__lane_t *lane) {
  if (uv_shutdown(&lane->shutdown, (uv_stream_t *)&lane->tcp, on_shutdown) != 0) {
    tarn__lane_close(lane);
    return;
  }
  lane->state = TARN__LANE_PARTING;
  tarn__lane_linger(lane, TARN__LINGER_MS);
}

static void on_timer(uv_timer_t *timer) {
  tarn__lane_t *lane = timer->data;
  if (lane->closing) { return; }
  if (lane->state == TARN__LANE_PARTING) {
    tarn__lane_close(lane);
  } else if (lane->state == TARN__LANE_PROVEN && lane->peer->doomed) {
    tarn_peer_close(lane->peer, &lane->peer->reason); /* its bytes did not end in time */
  } else if (lane->state == TARN__LANE_PROVEN) {
    tarn__bulk_give_up(lane->peer);
    tarn__net_dispatch(lane->net);
  } else {
    tarn__lane_fail(lane, TARN_ETIMEDOUT, "no proof within %u ms", lane->net->hello_timeout_ms);
  }
}

void tarn__lane_linger(tarn__lane_t *lane, uint32_t ms) {
  uv_update_time(lane->net->loop); /* the loop's clock stands still while nobody runs it */
  uv_timer_start(&lane->timer, on_timer, ms, 0);
}

static tarn__lane_t *create(tarn_net_t *net, uint8_t role, uint8_t state) {
  tarn__lane_t *lane = tarn_calloc(1, sizeof *lane);
  if (!lane) { return NULL; }
  lane->framer = tarn_framer_create(TARN_NET_UNPROVEN_BYTES, FRAME_DEPTH);
  lane->greeting = tarn_calloc(1, sizeof *lane->greeting);
  if (!lane->framer || !lane->greeting) {
    tarn_framer_destroy(lane->framer);
    tarn_free(lane->greeting);
    tarn_free(lane);
    return NULL;
  }
  lane->net = net;
  lane->role = role;
  lane->state = state;
  tarn_list_push_back(&net->lanes, &lane->link);
  tarn_list_init(&lane->unproven);
  tarn_list_init(&lane->dirty);
  tarn_list_init(&lane->retry);
  tarn_buf_init(&lane->acc, SIZE_MAX / 2); /* the framer and the bulk header bound what it holds */
  tarn_buf_init(&lane->sealed, TARN__TLS_OUTPUT_BYTES);
  tarn__bulk_in_init(lane);
  uv_tcp_init(net->loop, &lane->tcp);
  uv_timer_init(net->loop, &lane->timer);
  lane->tcp.data = lane->timer.data = lane->connect.data = lane->write.data = lane->shutdown.data =
      lane;
  lane->open_handles = 2;
  net->open_handles++;
  tarn__lane_linger(lane, net->hello_timeout_ms);
  lane->born_ms = uv_now(net->loop);
  return lane;
}

/* Between machines the other end may vanish without a word: then the kernel ends the connection, when for DEAD_S nothing has been acknowledged. */
static void watch_far_end(tarn__lane_t *lane) {
  int on = 1, every_s = DEAD_S / 6, dead_ms = DEAD_S * 1000;
  uv_os_fd_t fd;
  if (uv_fileno((uv_handle_t *)&lane->tcp, &fd) != 0) { return; }
  (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &every_s, sizeof every_s);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof dead_ms);
}

/* The socket is connected. */
static void begin(tarn__lane_t *lane) {
  struct sockaddr_storage sa;
  int size = sizeof sa;
  if (uv_tcp_getpeername(&lane->tcp, (struct sockaddr *)&sa, &size) == 0) {
    tarn__address_format((struct sockaddr *)&sa, lane->remote, sizeof lane->remote);
    if (!tarn__address_is_loopback((struct sockaddr *)&sa)) { watch_far_end(lane); }
  } else if (!lane->remote[0]) { /* it is gone already */
    snprintf(lane->remote, sizeof lane->remote, "an unknown address");
  }
  uv_tcp_nodelay(&lane->tcp, 1);
  lane->state = TARN__LANE_GREETING;
  tarn__secure_begin(lane);
  tarn__lane_read(lane);
}

int tarn__lane_accept(tarn_net_t *net, uv_stream_t *listener) {
  tarn__lane_t *lane = create(net, TARN__ROLE_CONTROL, TARN__LANE_GREETING);
  if (!lane) { return UV_ENOMEM; }
  int rc = uv_accept(listener, (uv_stream_t *)&lane->tcp);
  if (rc) {
    tarn__lane_close(lane);
    return rc;
  }
  tarn_list_push_back(&net->unproven, &lane->unproven);
  net->unproven_count++;
  begin(lane);
  return 0;
}

static void on_connect(uv_connect_t *req, int status) {
  tarn__lane_t *lane = req->data;
  if (lane->closing) { return; }
  if (status) {
    tarn__lane_fail(lane, TARN_ELOST, "cannot connect to %s: %s", lane->remote,
                    uv_strerror(status));
    return;
  }
  begin(lane);
  if (!lane->closing && !lane->secure) { tarn__greet_start(lane); }
}

static void on_resolve(uv_getaddrinfo_t *req, int status, struct addrinfo *found) {
  tarn__lane_t *lane = req->data;
  req->data = NULL;
  if (!lane->closing) {
    struct addrinfo *use = found;
    for (struct addrinfo *a = found; a;
         a = a->ai_next) { /* processes listen on IPv4 unless told otherwise */
      if (a->ai_family == AF_INET) {
        use = a;
        break;
      }
    }
    int rc = status ? status
             : use  ? uv_tcp_connect(&lane->connect, &lane->tcp, use->ai_addr, on_connect)
                    : UV_EAI_NONAME;
    if (rc) {
      tarn__lane_fail(lane, TARN_ELOST, "cannot connect to %s: %s", lane->remote, uv_strerror(rc));
    }
  }
  uv_freeaddrinfo(found);
  release_handle(lane);
}

static int resolve(tarn__lane_t *lane, const tarn__address_t *address) {
  char port[8];
  snprintf(port, sizeof port, "%u", address->port);
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  lane->resolve.data = lane;
  int rc = uv_getaddrinfo(lane->net->loop, &lane->resolve, on_resolve, address->host, port, &hints);
  if (rc) {
    lane->resolve.data = NULL;
  } else {
    lane->open_handles++;
  }
  return rc;
}

int tarn__lane_connect(tarn_net_t *net, tarn_peer_t *peer, uint8_t role, const char *address,
                       tarn__lane_t **out, tarn_error_t *err) {
  tarn__address_t where;
  int rc = tarn__address_parse(address, &where, err);
  if (rc) { return rc; }
  tarn__lane_t *lane = create(net, role, TARN__LANE_CONNECTING);
  if (!lane) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a connection"); }
  lane->connector = true;
  snprintf(lane->remote, sizeof lane->remote, "%s", address);
  rc = where.numeric
           ? uv_tcp_connect(&lane->connect, &lane->tcp, (struct sockaddr *)&where.sa, on_connect)
           : resolve(lane, &where);
  if (rc) {
    tarn__lane_close(lane);
    bool ours = rc == UV_EMFILE || rc == UV_ENFILE || rc == UV_ENOBUFS || rc == UV_ENOMEM;
    return tarn_error_set(err, ours ? TARN_EIO : TARN_ELOST, "cannot connect to %s: %s", address,
                          uv_strerror(rc));
  }
  lane->peer = peer;
  peer->lane_count++;
  *out = lane;
  return 0;
}

void tarn__lane_proven(tarn__lane_t *lane) {
  lane->state = TARN__LANE_PROVEN;
  uv_timer_stop(&lane->timer);
  tarn__framer_reset(lane->framer, lane->net->max_frame);
  if (!tarn_list_empty(&lane->unproven)) {
    tarn_list_remove(&lane->unproven);
    lane->net->unproven_count--;
  }
}
