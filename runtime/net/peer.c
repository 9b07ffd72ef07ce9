/* One peer: sending to it, its ups and downs. The loop's thread only.
 *
 * A peer that is closed closes its lanes; when the last of them is freed, which is in the loop's
 * closing phase and never inside another callback, what was queued has failed, and on_down is the
 * last thing said of it. */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "net/net-private.h"

int tarn__peer_create(tarn_net_t *net, tarn_peer_t **out) {
  tarn_peer_t *peer = tarn_calloc(1, sizeof *peer);
  if (!peer) { return TARN_ENOMEM; }
  peer->net = net;
  tarn_list_push_back(&net->peers, &peer->link);
  tarn_list_init(&peer->drained);
  tarn_list_init(&peer->bulk_wait);
  *out = peer;
  return 0;
}

void tarn__peer_up(tarn_peer_t *peer) {
  peer->up = true;
  peer->net->callbacks.on_up(peer->net->user, peer);
}

tarn_peer_t *tarn__peer_find(tarn_net_t *net, uint32_t id, uint64_t incarnation,
                             const uint8_t *tie) {
  for (tarn_list_t *l = net->peers.next; l != &net->peers; l = l->next) {
    tarn_peer_t *peer = TARN_CONTAINER(l, tarn_peer_t, link);
    if (peer->up && !peer->closing && !peer->identity.foreign && peer->identity.id == id &&
        peer->identity.incarnation == incarnation &&
        memcmp(peer->tie, tie, sizeof peer->tie) == 0) {
      return peer;
    }
  }
  return NULL;
}

/* ---- the end ---- */

void tarn_peer_close(tarn_peer_t *peer, const tarn_error_t *reason) {
  if (peer->closing) { return; }
  if (!peer->doomed) {
    if (reason) {
      peer->reason = *reason;
    } else {
      tarn_error_set(&peer->reason, TARN_ECANCELED, "closed by this process");
    }
  }
  peer->closing = true;
  if (peer->control) { tarn__lane_flush(peer->control); } /* a last word, if it can go at once */
  tarn_list_remove(&peer->drained);
  if (peer->control) { tarn__lane_close(peer->control); }
  if (peer->bulk_out) { tarn__lane_close(peer->bulk_out); }
  if (peer->bulk_in) { tarn__lane_close(peer->bulk_in); }
}

int tarn__peer_status(const tarn_peer_t *peer) {
  return peer->closing && peer->reason.code == TARN_ECANCELED ? TARN_ECANCELED : TARN_ELOST;
}

void tarn__peer_doom(tarn_peer_t *peer, const tarn_error_t *err) {
  if (peer->closing || peer->doomed) { return; }
  peer->doomed = true;
  peer->reason = *err;
  tarn__lane_linger(peer->control, TARN__LINGER_MS);
}

void tarn__peer_settle(tarn_peer_t *peer) {
  if (!peer->closing || peer->lane_count > 0) { return; }
  tarn_net_t *net = peer->net;
  tarn__bulk_fail_waiting(peer, tarn__peer_status(peer));
  tarn__net_dispatch(net);
  tarn_list_remove(&peer->link);
  tarn_list_remove(&peer->drained);
  if (peer->up || peer->connector) { net->callbacks.on_down(net->user, peer, &peer->reason); }
  tarn_free(peer);
}

/* ---- sending ---- */

bool tarn_peer_gone(const tarn_peer_t *peer) {
  return peer->closing || peer->doomed || !peer->control;
}

static void add_queued(tarn_peer_t *peer, uint64_t bytes) {
  peer->queued_bytes += bytes;
  if (peer->queued_bytes > peer->net->high_mark) { peer->congested = true; }
}

int tarn_peer_send(tarn_peer_t *peer, uint8_t *frame, size_t size) {
  int rc = tarn_peer_gone(peer)          ? TARN_ELOST
           : size > peer->net->max_frame ? TARN_ETOOBIG
           : size == 0                   ? TARN_EINVAL
                                         : 0;
  if (!rc) { rc = tarn__lane_push(peer->control, (tarn__out_t){.frame = {frame, size}}); }
  if (rc) {
    tarn_free(frame);
    return rc;
  }
  peer->net->stats.out_messages++;
  add_queued(peer, size);
  tarn__lane_mark(peer->control);
  return 0;
}

static void put32(uint8_t *p, uint32_t v) {
  for (int i = 0; i < 4; i++) { p[i] = (uint8_t)(v >> (8 * i)); }
}

static void put64(uint8_t *p, uint64_t v) {
  for (int i = 0; i < 8; i++) { p[i] = (uint8_t)(v >> (8 * i)); }
}

/* Parts and header of a bulk message, in one piece of memory. */
static tarn__bulk_t *compose(uint8_t *frame, size_t size, const tarn_net_span_t *blocks,
                             uint32_t count) {
  size_t parts = (size_t)count + 2, header_size = 16 + 8 * (size_t)count;
  tarn__bulk_t *b = tarn_malloc(sizeof *b + parts * sizeof b->parts[0] + header_size);
  if (!b) { return NULL; }
  memset(b, 0, sizeof *b);
  uint8_t *header = (uint8_t *)(b->parts + parts);
  memcpy(header, "TBLK", 4);
  put32(header + 4, (uint32_t)size);
  put32(header + 8, count);
  put32(header + 12, 0);
  b->parts[0] = (tarn_net_span_t){header, header_size};
  b->parts[1] = (tarn_net_span_t){frame, size};
  b->total_bytes = header_size + size;
  for (uint32_t i = 0; i < count; i++) {
    put64(header + 16 + 8 * (size_t)i, blocks[i].size);
    b->parts[2 + i] = blocks[i];
    b->total_bytes += blocks[i].size;
  }
  b->part_count = (uint32_t)parts;
  b->frame = frame;
  return b;
}

int tarn_peer_send_bulk(tarn_peer_t *peer, uint8_t *frame, size_t size,
                        const tarn_net_span_t *blocks, uint32_t count,
                        void (*on_done)(void *user, int status), void *user) {
  bool too_big = size > UINT32_MAX || size > peer->net->max_frame || count > TARN__MAX_BLOCKS;
  int rc = tarn_peer_gone(peer)                  ? TARN_ELOST
           : too_big                             ? TARN_ETOOBIG
           : size == 0 || peer->identity.foreign ? TARN_EINVAL
                                                 : 0;
  tarn__bulk_t *b = rc ? NULL : compose(frame, size, blocks, count);
  if (!b) {
    tarn_free(frame);
    return rc ? rc : TARN_ENOMEM;
  }
  b->on_done = on_done;
  b->user = user;
  peer->net->stats.out_messages++;
  tarn_list_push_back(&peer->bulk_wait, &b->link);
  add_queued(peer, b->total_bytes);
  tarn__bulk_route(peer);
  return 0;
}

void tarn_peer_bulk_retry(tarn_peer_t *peer) {
  tarn__lane_t *lanes[2] = {peer->bulk_in, peer->bulk_out};
  for (int i = 0; i < 2; i++) {
    tarn__lane_t *lane = lanes[i];
    if (lane && !lane->closing && tarn_list_empty(&lane->retry)) {
      tarn_list_push_back(&peer->net->retry, &lane->retry);
    }
  }
}

/* ---- what it is ---- */

bool tarn_peer_congested(const tarn_peer_t *peer) { return peer->congested; }

uint64_t tarn_peer_received(const tarn_peer_t *peer) { return peer->received_bytes; }

static bool waits(const tarn__lane_t *lane) { return lane && lane->in.paused; }

tarn_net_bulk_t tarn_peer_bulk(const tarn_peer_t *peer) {
  tarn_net_bulk_t bulk = peer->bulk;
  bulk.waits = waits(peer->bulk_in) || waits(peer->bulk_out);
  return bulk;
}

uint64_t tarn_peer_queued_bytes(const tarn_peer_t *peer) { return peer->queued_bytes; }

const tarn_net_identity_t *tarn_peer_identity(const tarn_peer_t *peer) { return &peer->identity; }

void tarn_peer_set_address(tarn_peer_t *peer, const char *address) {
  peer->address[0] = 0;
  if (address && strlen(address) < sizeof peer->address) { strcpy(peer->address, address); }
}

int tarn_peer_local_address(const tarn_peer_t *peer, char *out) {
  struct sockaddr_storage sa;
  int size = sizeof sa;
  if (!peer->control ||
      uv_tcp_getsockname(&peer->control->tcp, (struct sockaddr *)&sa, &size) != 0) {
    return TARN_ELOST;
  }
  tarn__address_format((struct sockaddr *)&sa, out, TARN_NET_ADDRESS_BYTES);
  return 0;
}

void tarn_peer_set_data(tarn_peer_t *peer, void *data) { peer->data = data; }

void *tarn_peer_data(const tarn_peer_t *peer) { return peer->data; }
