/* Receiving on a bulk lane. The loop's thread only.
 *
 * Header, sizes and frame are gathered in lane->acc and stay there until on_bulk has been called.
 * Blocks are read straight to their destinations, a slice at a time; what is left of one and is
 * small comes through the shared buffer and is copied, so that many small blocks cost one read
 * together. While on_bulk_begin says TARN_EAGAIN the lane is not read; what had been read already
 * waits in `excess`. */
#include <assert.h>
#include <string.h>
#include "base/alloc.h"
#include "net/net-private.h"

#define HEADER_BYTES 16u

static uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

/* The sizes in acc, in this machine's order once the message has been checked. acc is malloc'ed, so
 * they are aligned. */
static uint64_t *sizes_of(tarn__lane_t *lane) {
  return (uint64_t *)(void *)(lane->acc.data + HEADER_BYTES);
}

static uint8_t *frame_of(tarn__lane_t *lane) {
  return lane->acc.data + HEADER_BYTES + 8 * (size_t)lane->in.count;
}

static void next_message(tarn__bulk_in_t *in) {
  tarn_free(in->dest);
  in->dest = NULL;
  in->token = NULL;
  in->in_blocks = in->checked = false;
  in->count = in->index = 0;
  in->offset = 0;
  in->need = HEADER_BYTES;
}

void tarn__bulk_in_init(tarn__lane_t *lane) {
  next_message(&lane->in);
  tarn_buf_init(&lane->in.excess, SIZE_MAX / 2);
}

void tarn__bulk_in_release(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  tarn_net_t *net = lane->net;
  if (in->in_blocks) {
    int status = in->status ? in->status : tarn__peer_status(lane->peer);
    net->callbacks.on_bulk(net->user, lane->peer, frame_of(lane), in->frame_size, in->token,
                           status);
  }
  next_message(in);
  tarn_buf_release(&in->excess);
}

static void breach(tarn__lane_t *lane, const char *what) {
  tarn__lane_fail(lane, TARN_EPROTO, "malformed bulk message: %s", what);
}

static bool check_header(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  const uint8_t *p = lane->acc.data;
  uint32_t frame_size = get32(p + 4), count = get32(p + 8);
  if (memcmp(p, "TBLK", 4) != 0 || get32(p + 12) != 0) { return false; }
  if (frame_size == 0 || frame_size > lane->net->max_frame || count > TARN__MAX_BLOCKS) {
    return false;
  }
  in->frame_size = frame_size;
  in->count = count;
  in->need = HEADER_BYTES + 8 * (uint64_t)count + frame_size;
  return true;
}

/* Once, when header, sizes and frame are here. */
static bool check_message(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  uint64_t *sizes = sizes_of(lane), sum = 0;
  for (uint32_t i = 0; i < in->count; i++) {
    sizes[i] = get64((const uint8_t *)&sizes[i]);
    if (sizes[i] > (uint64_t)INT64_MAX - sum) { return false; }
    sum += sizes[i];
  }
  size_t used = 0;
  int rc = tarn_framer_scan(lane->framer, frame_of(lane), in->frame_size, &used, NULL);
  return rc == 1 && used == in->frame_size;
}

/* Ask where the blocks go. False: paused. */
static bool ask(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  tarn_net_t *net = lane->net;
  if (!in->dest) { in->dest = tarn_calloc(in->count ? in->count : 1, sizeof *in->dest); }
  void *token = NULL;
  int rc = TARN_ENOMEM;
  if (in->dest) {
    rc = net->callbacks.on_bulk_begin(net->user, lane->peer, frame_of(lane), in->frame_size,
                                      sizes_of(lane), in->count, in->dest, &token);
  }
  if (rc == TARN_EAGAIN) {
    in->paused = true;
    return false;
  }
  in->token = token;
  in->status = rc;
  in->in_blocks = true;
  return true;
}

static void finish(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  tarn_net_t *net = lane->net;
  net->stats.in_messages++;
  in->in_blocks = false;
  net->callbacks.on_bulk(net->user, lane->peer, frame_of(lane), in->frame_size, in->token,
                         in->status);
  next_message(in);
  if (lane->acc.capacity > TARN__KEEP_BYTES) {
    tarn_buf_release(&lane->acc);
  } else {
    tarn_buf_clear(&lane->acc);
  }
}

/* Gather up to in->need. True: go on with what comes after it. */
static bool feed_head(tarn__lane_t *lane, const uint8_t **at, size_t *size) {
  tarn__bulk_in_t *in = &lane->in;
  size_t missing = (size_t)(in->need - lane->acc.size), take = *size < missing ? *size : missing;
  if (tarn_buf_append(&lane->acc, *at, take)) {
    tarn__lane_fail(lane, TARN_ELOST, "no memory for a bulk message's frame of %llu bytes",
                    (unsigned long long)in->frame_size);
    return false;
  }
  if (take > 0) {
    *at += take;
    *size -= take;
    lane->used = true;
  }
  if (lane->acc.size < in->need) { return false; }
  if (in->need == HEADER_BYTES) {
    if (check_header(lane)) { return true; }
    breach(lane, "header");
    return false;
  }
  if (!in->checked && !check_message(lane)) {
    breach(lane, "sizes or frame");
    return false;
  }
  in->checked = true;
  return ask(lane);
}

static uint64_t left_in_block(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  return sizes_of(lane)[in->index] - in->offset;
}

/* Blocks from bytes that are already here. False: they are used up. */
static bool feed_blocks(tarn__lane_t *lane, const uint8_t **at, size_t *size) {
  tarn__bulk_in_t *in = &lane->in;
  while (in->index < in->count) {
    uint64_t left = left_in_block(lane);
    size_t take = left < *size ? (size_t)left : *size;
    if (take > 0) {
      if (in->status == 0) { memcpy((uint8_t *)in->dest[in->index] + in->offset, *at, take); }
      *at += take;
      *size -= take;
      in->offset += take;
    }
    if (take < left) { return false; }
    in->index++;
    in->offset = 0;
  }
  finish(lane);
  return true;
}

void tarn__bulk_in_feed(tarn__lane_t *lane, const uint8_t *bytes, size_t size) {
  tarn__bulk_in_t *in = &lane->in;
  bool more = !in->paused;
  while (more && !lane->closing) {
    more = in->in_blocks ? feed_blocks(lane, &bytes, &size) : feed_head(lane, &bytes, &size);
  }
  if (in->paused && !lane->closing) {
    uv_read_stop((uv_stream_t *)&lane->tcp);
    if (tarn_buf_append(&in->excess, bytes, size)) {
      tarn__lane_fail(lane, TARN_ELOST, "no memory to wait for room");
    }
  }
}

void tarn__bulk_in_direct(tarn__lane_t *lane, size_t count) {
  tarn__bulk_in_t *in = &lane->in;
  lane->peer->bulk.received += count;
  in->offset += count;
  if (left_in_block(lane) == 0) { tarn__bulk_in_feed(lane, NULL, 0); }
}

void tarn__bulk_in_acc(tarn__lane_t *lane, size_t count) {
  lane->peer->bulk.received += count;
  lane->acc.size += count;
  if (lane->acc.size == lane->in.need) { tarn__bulk_in_feed(lane, NULL, 0); }
}

bool tarn__bulk_in_buffer(tarn__lane_t *lane, uv_buf_t *out) {
  tarn__bulk_in_t *in = &lane->in;
  if (!in->in_blocks) {
    if (lane->acc.size > 0 && tarn__lane_acc_buffer(lane, in->need - lane->acc.size, out)) {
      return true;
    }
    if (out->len > TARN__DIRECT_BYTES) { /* what comes of the blocks has to be copied */
      out->len = TARN__DIRECT_BYTES;
    }
    return false;
  }
  uint64_t left = left_in_block(lane);
  if (in->status != 0 || left < TARN__DIRECT_BYTES) { return false; }
  assert(in->dest[in->index]);
  size_t room = left < TARN__SLICE_BYTES ? (size_t)left : TARN__SLICE_BYTES;
  *out = uv_buf_init((char *)in->dest[in->index] + in->offset, (unsigned)room);
  lane->into = TARN__INTO_BLOCK;
  return true;
}

void tarn__bulk_in_resume(tarn__lane_t *lane) {
  tarn__bulk_in_t *in = &lane->in;
  if (lane->closing || !in->paused) { return; }
  in->paused = false;
  size_t size = 0;
  uint8_t *bytes = tarn_buf_detach(&in->excess, &size);
  tarn__bulk_in_feed(lane, bytes, size);
  tarn_free(bytes);
  if (!in->paused) { tarn__lane_read(lane); }
}
