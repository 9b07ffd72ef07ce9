/* A foreign client that asks for more than it reads the answers of: what it has asked is held, and it is not read from, while too much waits to be
 * sent to it or for Lua. So it costs what a congested connection may cost, and what it has said in one read. (Among ourselves whoever sends is
 * slowed down instead: two that did not read from each other would wait for ever.) [loop] */
#include <string.h>
#include "frames-private.h"

#define HELD_BYTES ((size_t)2 << 30)

static bool is_behind(const tarn_conn_t *c) { return c->paused || tarn_peer_congested(c->peer); }

bool tarn__frame_hold(tarn_conn_t *c, const uint8_t *bytes, size_t size) {
  if (!c->foreign || (!c->holding && !is_behind(c))) { return false; }
  uint64_t length = size;
  if (!c->holding) {
    c->holding = true;
    tarn_buf_init(&c->held, HELD_BYTES);
    tarn_peer_pause(c->peer);
  }
  if (tarn_buf_append(&c->held, &length, sizeof(length)) != 0 ||
      tarn_buf_append(&c->held, bytes, size) != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "out of memory for what a client asks");
    tarn_peer_close(c->peer, &err);
  }
  return true;
}

void tarn__frames_unhold(tarn_service_t *s, tarn_conn_t *c) {
  while (c->held_at < c->held.size && !is_behind(c) && !tarn_peer_gone(c->peer)) {
    uint64_t length = 0;
    memcpy(&length, c->held.data + c->held_at, sizeof(length));
    c->held_at += sizeof(length);
    tarn__frame_take(s, c, c->held.data + c->held_at, (size_t)length);
    c->held_at += (size_t)length;
  }
  if (!c->holding || c->held_at < c->held.size || is_behind(c)) { return; }
  tarn_buf_release(&c->held);
  c->held_at = 0;
  c->holding = false;
  tarn_peer_resume(c->peer);
}
