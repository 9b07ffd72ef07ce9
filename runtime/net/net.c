/* The context: what it takes to have peers at all, the turn of the loop, and closing in order.
 *
 * The turn. Whoever queues something puts its lane on net->dirty. Before the loop blocks (prepare)
 * and right after it has run its callbacks (check), the dirty lanes are flushed, one gathered write
 * each, and the callbacks that have become due are made. A lane that has sent its share of a turn is
 * on net->later until the next. If there is work left, an idle handle keeps the loop from blocking. None of these handles keeps the loop alive.
 *
 * Threads: whoever runs the loop. */
#include <string.h>
#include "base/alloc.h"
#include "net/net-private.h"

#define TURN_ROUNDS 8

/* ---- the turn ---- */

void tarn_net_flush(tarn_net_t *net) {
  while (!tarn_list_empty(&net->dirty)) {
    tarn__lane_flush(TARN_CONTAINER(net->dirty.next, tarn__lane_t, dirty));
  }
}

size_t tarn__turn_share(const tarn_net_t *net) {
  return net->turn - net->talked < TARN__TALK_TURNS ? TARN__TALK_BYTES : TARN__TURN_BYTES;
}

size_t tarn__ration_left(const tarn_net_t *net, tarn__ration_t *r) {
  if (r->turn != net->turn) { *r = (tarn__ration_t){.turn = net->turn}; }
  size_t share = tarn__turn_share(net);
  return r->bytes < share ? (size_t)(share - r->bytes) : 0;
}

/* What comes due while these callbacks run waits for the next call. */
void tarn__net_dispatch(tarn_net_t *net) {
  tarn_list_t done, drained, retry;
  tarn_list_init(&done);
  tarn_list_init(&drained);
  tarn_list_init(&retry);
  tarn_list_append(&done, &net->done);
  tarn_list_append(&drained, &net->drained);
  tarn_list_append(&retry, &net->retry);
  while (!tarn_list_empty(&done)) {
    tarn__bulk_t *b = TARN_CONTAINER(done.next, tarn__bulk_t, link);
    tarn_list_remove(&b->link);
    if (b->on_done) { b->on_done(b->user, b->status); }
    tarn_free(b);
  }
  while (!tarn_list_empty(&drained)) {
    tarn_peer_t *peer = TARN_CONTAINER(drained.next, tarn_peer_t, drained);
    tarn_list_remove(&peer->drained);
    if (net->callbacks.on_drained) { net->callbacks.on_drained(net->user, peer); }
  }
  while (!tarn_list_empty(&retry)) {
    tarn__lane_t *lane = TARN_CONTAINER(retry.next, tarn__lane_t, retry);
    tarn_list_remove(&lane->retry);
    tarn__bulk_in_resume(lane);
  }
}

static bool has_work(const tarn_net_t *net) {
  return !tarn_list_empty(&net->dirty) || !tarn_list_empty(&net->done) ||
         !tarn_list_empty(&net->drained) || !tarn_list_empty(&net->retry);
}

static void on_idle(uv_idle_t *handle) { (void)handle; }

static void turn(tarn_net_t *net) {
  for (int i = 0; i < TURN_ROUNDS && has_work(net); i++) {
    tarn_net_flush(net);
    tarn__net_dispatch(net);
  }
  bool busy = has_work(net) || !tarn_list_empty(&net->later);
  if (busy && !net->idling) { uv_idle_start(&net->idle, on_idle); }
  if (!busy && net->idling) { uv_idle_stop(&net->idle); }
  net->idling = busy;
}

static void on_prepare(uv_prepare_t *handle) {
  tarn_net_t *net = handle->data;
  net->turn++;
  tarn_list_append(&net->dirty, &net->later);
  tarn__listeners_accept(net);
  turn(net);
}

static void on_check(uv_check_t *handle) { turn(handle->data); }

/* ---- create ---- */

static void set_text(char *out, size_t size, const char *text) {
  memset(out, 0, size);
  for (size_t i = 0; text && text[i] && i < size - 1; i++) {
    out[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
  }
}

static void init_handles(tarn_net_t *net) {
  uv_prepare_init(net->loop, &net->prepare);
  uv_check_init(net->loop, &net->check);
  uv_idle_init(net->loop, &net->idle);
  uv_timer_init(net->loop, &net->patience);
  net->prepare.data = net->check.data = net->idle.data = net->patience.data = net;
  uv_prepare_start(&net->prepare, on_prepare);
  uv_check_start(&net->check, on_check);
  uv_unref((uv_handle_t *)&net->prepare);
  uv_unref((uv_handle_t *)&net->check);
  uv_unref((uv_handle_t *)&net->idle);
  uv_unref((uv_handle_t *)&net->patience);
  net->open_handles = 4;
}

static void init_lists(tarn_net_t *net) {
  tarn_list_t *lists[] = {&net->lanes, &net->unproven, &net->peers,   &net->listeners, &net->dirty,
                          &net->later, &net->done,     &net->drained, &net->retry};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) { tarn_list_init(lists[i]); }
}

static void release(tarn_net_t *net) {
  tarn__tls_context_destroy(net->tls);
  tarn_free(net->tls_buffer);
  sodium_free(net->secret);
  tarn_free(net->read_buffer);
  tarn_free(net);
}

int tarn_net_create(const tarn_net_config_t *config, tarn_net_t **out, tarn_error_t *err) {
  const tarn_net_callbacks_t *c = &config->callbacks;
  if (!config->loop || !config->secret || !c->on_up || !c->on_down || !c->on_frame ||
      !c->on_bulk_begin || !c->on_bulk) {
    return tarn_error_set(
        err, TARN_EINVAL,
        "a net needs a loop, a secret, on_up, on_down, on_frame, on_bulk_begin and on_bulk");
  }
  if (sodium_init() < 0) { return tarn_error_set(err, TARN_EIO, "libsodium cannot start"); }
  tarn_net_t *net = tarn_calloc(1, sizeof *net);
  if (!net) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a net"); }
  net->secret = sodium_malloc(TARN_SECRET_BYTES);
  net->read_buffer = tarn_malloc(TARN__READ_BYTES);
  if (!net->secret || !net->read_buffer) {
    release(net);
    return tarn_error_set(err, TARN_ENOMEM, "no memory for a net");
  }
  memcpy(net->secret, config->secret, TARN_SECRET_BYTES);
  sodium_mprotect_readonly(net->secret);
  net->loop = config->loop;
  net->self = config->self;
  set_text(net->self.host, sizeof net->self.host, config->self.host);
  set_text(net->bytecode, sizeof net->bytecode, config->bytecode);
  net->callbacks = *c;
  net->user = config->user;
  net->max_frame = config->max_frame ? config->max_frame : (uint64_t)1 << 30;
  net->high_mark = config->high_mark ? config->high_mark : (uint64_t)64 << 20;
  net->low_mark = config->low_mark ? config->low_mark : (uint64_t)16 << 20;
  net->hello_timeout_ms = config->hello_timeout_ms ? config->hello_timeout_ms : 5000;
  net->least_unproven = config->max_unproven ? config->max_unproven : 64;
  net->max_unproven = net->least_unproven;
  net->tls_mode = config->tls;
  init_lists(net);
  init_handles(net);
  *out = net;
  return 0;
}

/* ---- close ---- */

void tarn__net_settle(tarn_net_t *net) {
  if (!net->closing || net->open_handles > 0) { return; }
  tarn__net_dispatch(net);
  void (*on_closed)(void *user) = net->on_closed;
  void *user = net->closed_user;
  release(net);
  if (on_closed) { on_closed(user); }
}

static void on_own_closed(uv_handle_t *handle) {
  tarn_net_t *net = handle->data;
  net->open_handles--;
  tarn__net_settle(net);
}

void tarn_net_close(tarn_net_t *net, void (*on_closed)(void *user), void *user) {
  if (net->closing) { return; }
  net->closing = true;
  net->on_closed = on_closed;
  net->closed_user = user;
  tarn__listeners_close(net);
  for (tarn_list_t *l = net->peers.next; l != &net->peers; l = l->next) {
    tarn_peer_close(TARN_CONTAINER(l, tarn_peer_t, link), NULL);
  }
  for (tarn_list_t *l = net->lanes.next; l != &net->lanes; l = l->next) { /* those without a peer */
    tarn__lane_close(TARN_CONTAINER(l, tarn__lane_t, link));
  }
  uv_close((uv_handle_t *)&net->prepare, on_own_closed);
  uv_close((uv_handle_t *)&net->check, on_own_closed);
  uv_close((uv_handle_t *)&net->idle, on_own_closed);
  uv_close((uv_handle_t *)&net->patience, on_own_closed);
}

/* ---- itself ---- */

void tarn_net_set_self(tarn_net_t *net, uint32_t id, uint64_t incarnation) {
  net->self.id = id;
  net->self.incarnation = incarnation;
}

const tarn_net_identity_t *tarn_net_self(const tarn_net_t *net) { return &net->self; }

void tarn_net_set_tls(tarn_net_t *net, tarn_net_tls_t tls) { net->tls_mode = tls; }

void tarn_net_get_stats(const tarn_net_t *net, tarn_net_stats_t *out) { *out = net->stats; }

/* ---- connect ---- */

int tarn_net_connect(tarn_net_t *net, const char *address, uint32_t want_id,
                     uint64_t want_incarnation, tarn_peer_t **out, tarn_error_t *err) {
  if (net->closing) { return tarn_error_set(err, TARN_ECANCELED, "closing"); }
  tarn_peer_t *peer;
  int rc = tarn__peer_create(net, &peer);
  if (rc) { return tarn_error_set(err, rc, "no memory for a connection"); }
  peer->connector = true;
  peer->want_id = want_id;
  peer->want_incarnation = want_incarnation;
  peer->identity.id = want_id;
  peer->identity.incarnation = want_incarnation;
  tarn_peer_set_address(peer, address);
  rc = tarn__lane_connect(net, peer, TARN__ROLE_CONTROL, address, &peer->control, err);
  if (rc) {
    tarn_list_remove(&peer->link);
    tarn_free(peer);
    return rc;
  }
  *out = peer;
  return 0;
}
