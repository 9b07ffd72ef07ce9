/* The bulk lane of a peer: who opens it, which one is used, and what happens when it is lost. The
 * loop's thread only.
 *
 * The end that has an address for the other connects; the end that has none asks for it by a
 * notification on the control lane, which this file keeps from the peer's owner. If both connect at
 * once, both lanes stay, and each end sends on the one it opened: messages never change lanes once
 * one is chosen, so none overtakes another. A lane that cannot be opened fails the messages that
 * waited for it, no more. A lane that is lost after it carried something takes the peer with it: a
 * message that is half there cannot be mended. */
#include <string.h>
#include "base/alloc.h"
#include "net/net-private.h"

/* [2, "net.bulk", []], [2, "net.nobulk", []] */
static const uint8_t ask_frame[] = "\x93\x02\xa8net.bulk\x90";
static const uint8_t deny_frame[] = "\x93\x02\xaanet.nobulk\x90";

static int say(tarn_peer_t *peer, const uint8_t *text, size_t size) {
  uint8_t *frame = tarn_malloc(size);
  if (!frame) { return TARN_ENOMEM; }
  memcpy(frame, text, size);
  return tarn_peer_send(peer, frame, size);
}

void tarn__bulk_fail_waiting(tarn_peer_t *peer, int status) {
  while (!tarn_list_empty(&peer->bulk_wait)) {
    tarn__bulk_t *b = TARN_CONTAINER(peer->bulk_wait.next, tarn__bulk_t, link);
    tarn_list_remove(&b->link);
    tarn__peer_sent(peer, b->total_bytes);
    tarn__bulk_finish(peer->net, b, status);
  }
}

/* The waiting messages go to this lane. */
static void load(tarn_peer_t *peer, tarn__lane_t *lane) {
  while (!tarn_list_empty(&peer->bulk_wait)) {
    tarn__bulk_t *b = TARN_CONTAINER(peer->bulk_wait.next, tarn__bulk_t, link);
    tarn_list_remove(&b->link);
    if (tarn__lane_push(lane, (tarn__out_t){.bulk = b})) {
      tarn__peer_sent(peer, b->total_bytes);
      tarn__bulk_finish(peer->net, b, TARN_ENOMEM);
      continue;
    }
    lane->used = true;
  }
  tarn__lane_mark(lane);
}

static int open_lane(tarn_peer_t *peer) {
  if (!peer->address[0]) { return TARN_EINVAL; }
  return tarn__lane_connect(peer->net, peer, TARN__ROLE_BULK, peer->address, &peer->bulk_out, NULL);
}

/* Nobody can open it. Where that is because the other process has ended, the control lane says so soon, and all fails with that. */
static void hold(tarn_peer_t *peer, int status) {
  if (peer->refused != 0) { return; }
  peer->refused = status;
  tarn__lane_linger(peer->control, TARN__LINGER_MS);
}

void tarn__bulk_give_up(tarn_peer_t *peer) {
  int status = peer->refused;
  peer->refused = 0;
  if (status != 0) { tarn__bulk_fail_waiting(peer, status); }
}

/* There is no lane and none can be opened from here: the other end may be able to. */
static void ask_or_fail(tarn_peer_t *peer, int status) {
  if (peer->asked) { return; }
  peer->asked = !peer->connector && say(peer, ask_frame, sizeof ask_frame - 1) == 0;
  if (!peer->asked) { hold(peer, status); }
}

void tarn__bulk_route(tarn_peer_t *peer) {
  if (peer->closing || peer->doomed || !peer->up || tarn_list_empty(&peer->bulk_wait)) { return; }
  tarn__lane_t *lane = peer->bulk_out ? peer->bulk_out : peer->bulk_in;
  if (lane) {
    if (lane->state == TARN__LANE_PROVEN) { load(peer, lane); }
  } else if (open_lane(peer)) {
    ask_or_fail(peer, TARN_ELOST);
  }
}

void tarn__bulk_attached(tarn_peer_t *peer, tarn__lane_t *lane) {
  lane->peer = peer;
  peer->bulk_in = lane;
  peer->lane_count++;
  peer->asked = false;
}

/* The lane that this end wanted to open did not come about. */
static void not_opened(tarn_peer_t *peer, int status) {
  if (peer->bulk_in) {
    tarn__bulk_route(peer);
  } else if (!tarn_list_empty(&peer->bulk_wait)) {
    ask_or_fail(peer, status);
  }
  if (peer->wanted) {
    peer->wanted = false;
    say(peer, deny_frame, sizeof deny_frame - 1);
  }
}

void tarn__bulk_lost(tarn__lane_t *lane, const tarn_error_t *err) {
  tarn_peer_t *peer = lane->peer;
  bool opening = lane->state != TARN__LANE_PROVEN;
  if (peer->bulk_out == lane) { peer->bulk_out = NULL; }
  if (peer->bulk_in == lane) { peer->bulk_in = NULL; }
  tarn__lane_close(lane);
  if (opening) {
    not_opened(peer, err->code);
  } else if (lane->used) {
    tarn__peer_doom(peer, err);
  }
}

static void asked_for(tarn_peer_t *peer) {
  if (peer->bulk_in) { return; }
  peer->wanted = true;
  if (!peer->bulk_out && open_lane(peer)) { not_opened(peer, TARN_ELOST); }
}

bool tarn__bulk_control(tarn_peer_t *peer, const uint8_t *frame, size_t size) {
  if (peer->identity.foreign) { return false; }
  if (size == sizeof ask_frame - 1 && memcmp(frame, ask_frame, size) == 0) {
    asked_for(peer);
    return true;
  }
  if (size == sizeof deny_frame - 1 && memcmp(frame, deny_frame, size) == 0) {
    if (peer->asked && !peer->bulk_out && !peer->bulk_in) {
      tarn__bulk_fail_waiting(peer, TARN_ELOST);
    }
    peer->asked = false;
    return true;
  }
  return false;
}
