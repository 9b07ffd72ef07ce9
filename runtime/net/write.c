/* Sending on a lane: a ring of entries, left in one gathered write. The loop's thread only.
 *
 * What is queued in one turn of the loop goes out by one uv_try_write of up to TARN__IOV pieces;
 * what the kernel does not take at once goes by uv_write, and when that is through, by uv_try_write
 * again. A reader that is as fast as the writer would keep it going for ever: a lane that has sent
 * its share waits for the next turn, and the control lanes have theirs. Nothing here calls the user: finished bulk messages wait in net->done and relieved peers
 * in net->drained for tarn__net_dispatch, so that sending is allowed everywhere. */
#include <string.h>
#include "base/alloc.h"
#include "net/net-private.h"

#define SEAL_BYTES (128u * 1024u) /* encrypted at once */

static uint32_t part_count(const tarn__out_t *e) { return e->bulk ? e->bulk->part_count : 1; }

static tarn_net_span_t part_of(const tarn__out_t *e, uint32_t i) {
  return e->bulk ? e->bulk->parts[i] : e->frame;
}

static tarn__out_t *entry_at(const tarn__lane_t *lane, size_t i) {
  return &lane->out[(lane->out_head + i) & (lane->out_capacity - 1)];
}

int tarn__lane_push(tarn__lane_t *lane, tarn__out_t entry) {
  if (lane->out_count == lane->out_capacity) {
    size_t capacity = lane->out_capacity ? 2 * lane->out_capacity : 16;
    tarn__out_t *ring = tarn_malloc(capacity * sizeof *ring);
    if (!ring) { return TARN_ENOMEM; }
    for (size_t i = 0; i < lane->out_count; i++) { ring[i] = *entry_at(lane, i); }
    tarn_free(lane->out);
    lane->out = ring;
    lane->out_head = 0;
    lane->out_capacity = capacity;
  }
  *entry_at(lane, lane->out_count) = entry;
  lane->out_count++;
  return 0;
}

void tarn__bulk_finish(tarn_net_t *net, tarn__bulk_t *b, int status) {
  tarn_free(b->frame);
  b->frame = NULL;
  b->status = status;
  tarn_list_push_back(&net->done, &b->link);
}

void tarn__peer_sent(tarn_peer_t *peer, uint64_t bytes) {
  peer->queued_bytes -= bytes;
  if (peer->congested && peer->queued_bytes < peer->net->low_mark) {
    peer->congested = false;
    if (!peer->closing && tarn_list_empty(&peer->drained)) {
      tarn_list_push_back(&peer->net->drained, &peer->drained);
    }
  }
}

static void pop(tarn__lane_t *lane, int status) {
  tarn__out_t e = *entry_at(lane, 0);
  lane->out_head = (lane->out_head + 1) & (lane->out_capacity - 1);
  lane->out_count--;
  lane->part = 0;
  lane->part_offset = 0;
  if (e.bulk) {
    tarn__bulk_finish(lane->net, e.bulk, status);
  } else {
    tarn_free((void *)(uintptr_t)e.frame.bytes);
  }
}

/* The next pieces to send, at most `most` bytes. *bytes: their sum. */
static unsigned gather(const tarn__lane_t *lane, size_t most, uv_buf_t *iov, size_t *bytes) {
  unsigned n = 0;
  size_t sum = 0, offset = lane->part_offset;
  uint32_t part = lane->part;
  for (size_t i = 0; i < lane->out_count; i++, part = 0) {
    const tarn__out_t *e = entry_at(lane, i);
    for (uint32_t parts = part_count(e); part < parts; part++, offset = 0) {
      tarn_net_span_t span = part_of(e, part);
      size_t size = span.size - offset;
      if (size == 0) { continue; }
      if (size > most - sum) { size = most - sum; }
      iov[n++] = uv_buf_init((char *)(uintptr_t)span.bytes + offset, (unsigned)size);
      sum += size;
      if (n == TARN__IOV || sum == most) { goto full; }
    }
  }
full:
  *bytes = sum;
  return n;
}

/* So many bytes of the queue have left. */
static void advance(tarn__lane_t *lane, size_t bytes) {
  if (lane->role == TARN__ROLE_BULK) { lane->peer->bulk.sent += bytes; }
  tarn__peer_sent(lane->peer, bytes);
  while (lane->out_count > 0) {
    const tarn__out_t *e = entry_at(lane, 0);
    size_t left = part_of(e, lane->part).size - lane->part_offset;
    if (left > bytes) {
      lane->part_offset += bytes;
      return;
    }
    bytes -= left;
    lane->part_offset = 0;
    if (++lane->part == part_count(e)) {
      pop(lane, 0);
      if (bytes == 0) { return; }
    }
  }
}

static bool has_sealed(const tarn__lane_t *lane) { return lane->sealed_at < lane->sealed.size; }

/* What to write next: of the queue, or, with TLS, of what has been made of it. *bytes: their sum; 0: there was no memory to encrypt. */
static unsigned next_bytes(tarn__lane_t *lane, size_t most, uv_buf_t *iov, size_t *bytes) {
  if (!lane->tls) { return gather(lane, most, iov, bytes); }
  if (!has_sealed(lane)) {
    unsigned n = gather(lane, most < SEAL_BYTES ? most : SEAL_BYTES, iov, bytes);
    if (tarn__secure_seal(lane, iov, n)) {
      *bytes = 0;
      return 0;
    }
    lane->sealed_plain = *bytes;
  }
  *bytes = lane->sealed.size - lane->sealed_at;
  iov[0] = uv_buf_init((char *)lane->sealed.data + lane->sealed_at, (unsigned)*bytes);
  return 1;
}

/* So many bytes have been written. */
static void wrote(tarn__lane_t *lane, size_t bytes) {
  lane->net->stats.out_bytes += bytes;
  lane->writes.bytes += bytes;
  if (!lane->tls) {
    advance(lane, bytes);
    return;
  }
  lane->sealed_at += bytes;
  if (has_sealed(lane)) { return; }
  advance(lane, lane->sealed_plain);
  tarn__secure_sent(lane);
}

/* The other end no longer reads. It may have sent something before: read on until that ends. */
static void write_failed(tarn__lane_t *lane, int status) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_ELOST, "cannot send: %s", uv_strerror(status));
  lane->write_dead = true;
  tarn__lane_drop_queue(lane, TARN_ELOST);
  tarn__peer_doom(lane->peer, &err);
}

static void on_written(uv_write_t *req, int status) {
  tarn__lane_t *lane = req->data;
  lane->writing = false;
  if (lane->closing) { return; } /* what is queued is dropped with the lane */
  if (status) {
    write_failed(lane, status);
  } else {
    wrote(lane, lane->write_bytes);
    tarn__lane_flush(lane);
  }
  tarn__net_dispatch(lane->net);
}

static void write_later(tarn__lane_t *lane, uv_buf_t *iov) {
  unsigned n = next_bytes(lane, tarn__turn_share(lane->net), iov, &lane->write_bytes);
  int rc =
      n == 0 ? UV_ENOMEM : uv_write(&lane->write, (uv_stream_t *)&lane->tcp, iov, n, on_written);
  if (rc) {
    write_failed(lane, rc);
  } else {
    lane->writing = true;
  }
}

void tarn__lane_flush(tarn__lane_t *lane) {
  tarn_list_remove(&lane->dirty);
  if (lane->state != TARN__LANE_PROVEN) { return; }
  uv_buf_t iov[TARN__IOV];
  while (!lane->closing && !lane->writing && !lane->write_dead &&
         (lane->out_count > 0 || (lane->tls && tarn__secure_waits(lane)))) {
    size_t bytes, most = tarn__ration_left(lane->net, &lane->writes);
    if (most == 0) {
      tarn_list_push_back(&lane->net->later, &lane->dirty);
      return;
    }
    unsigned n = next_bytes(lane, most, iov, &bytes);
    int sent = n == 0 ? UV_ENOMEM : uv_try_write((uv_stream_t *)&lane->tcp, iov, n);
    if (sent < 0 && sent != UV_EAGAIN) {
      write_failed(lane, sent);
      return;
    }
    if (sent > 0) { wrote(lane, (size_t)sent); }
    if (sent < 0 || (size_t)sent < bytes) { write_later(lane, iov); }
  }
}

void tarn__lane_mark(tarn__lane_t *lane) {
  if (lane->state == TARN__LANE_PROVEN && !lane->closing && !lane->writing &&
      tarn_list_empty(&lane->dirty)) {
    tarn_list_push_back(&lane->net->dirty, &lane->dirty);
  }
}

/* The bytes of the entries that have not left. */
static uint64_t queued(const tarn__lane_t *lane) {
  uint64_t sum = 0;
  for (size_t i = 0; i < lane->out_count; i++) {
    const tarn__out_t *e = entry_at(lane, i);
    sum += e->bulk ? e->bulk->total_bytes : e->frame.size;
  }
  for (uint32_t i = 0; i < lane->part; i++) { sum -= part_of(entry_at(lane, 0), i).size; }
  return sum - lane->part_offset;
}

void tarn__lane_drop_queue(tarn__lane_t *lane, int status) {
  if (lane->out_count == 0) { return; }
  if (lane->peer) { tarn__peer_sent(lane->peer, queued(lane)); }
  while (lane->out_count > 0) { pop(lane, status); }
}

int tarn__lane_write_now(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  uv_buf_t iov = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)size);
  int sent = uv_try_write((uv_stream_t *)&lane->tcp, &iov, 1);
  if (sent > 0) { lane->net->stats.out_bytes += (uint64_t)sent; }
  return sent >= 0 && (size_t)sent == size ? 0 : TARN_ELOST;
}
