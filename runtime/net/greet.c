/* The handshake of one lane, as it runs: what is said when, and what an answer does. The loop's
 * thread only.
 *
 * At most TARN_NET_UNPROVEN_BYTES are ever read of a connection that has not proved itself, into
 * lane->greeting, and the framer refuses anything longer as soon as it is announced. The acceptor
 * proves first, so a connector never answers a stranger's challenge; an acceptor changes nothing
 * (no peer, no id, no look-up) before the connector's proof has been checked. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/log.h"
#include "base/version.h"
#include "net/net-private.h"

enum { HELLO_MSGID = 1, PROVE_MSGID = 2 };

static void say(tarn__lane_t *lane, int rc, tarn_buf_t *message) {
  if (!rc) { rc = tarn__secure_say(lane, message->data, message->size); }
  if (rc) {
    tarn__lane_fail(lane, TARN_ELOST,
                    rc == TARN_ELOST ? "closed by the other end" : "no memory for the handshake");
  }
  tarn_buf_release(message);
}

/* An acceptor's no: one logged line, a reply with the reason, and a moment for it to arrive. */
static void refuse(tarn__lane_t *lane, uint32_t msgid, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void refuse(tarn__lane_t *lane, uint32_t msgid, int code, const char *fmt, ...) {
  char why[200], text[240];
  va_list args;
  va_start(args, fmt);
  vsnprintf(why, sizeof why, fmt, args);
  va_end(args);
  sodium_memzero(lane->greeting->bytes,
                 sizeof lane->greeting->bytes); /* perhaps a secret, mistyped */
  snprintf(text, sizeof text, "%s: %s", tarn_error_kind(code), why);
  tarn_log(TARN_LOG_WARN, "net: refused a connection from %s: %s", lane->remote, text);
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  if (tarn__refusal_write(&b, msgid, text) == 0 && tarn__secure_say(lane, b.data, b.size) == 0) {
    tarn__secure_close(lane);
    tarn__lane_part(lane);
  } else {
    tarn__lane_close(lane);
  }
  tarn_buf_release(&b);
}

static void tie(tarn__lane_t *lane, tarn_peer_t *peer) {
  uint8_t mac[TARN__PROOF_BYTES];
  tarn__proof_make(lane->net->secret, TARN__PROOF_TIE, &lane->greeting->hello,
                   &lane->greeting->welcome, mac);
  memcpy(peer->tie, mac, sizeof peer->tie);
}

/* The proofs of a lane with TLS are worth something in its TLS session only. */
static bool bind_to_tls(tarn__lane_t *lane) {
  tarn__hello_t *h = &lane->greeting->hello;
  h->bound = lane->tls != NULL;
  if (!h->bound || tarn__tls_binding(lane->tls, h->binding) == 0) { return true; }
  tarn__lane_fail(lane, TARN_ELOST, "no memory for the handshake");
  return false;
}

/* ---- acceptor ---- */

static bool acceptable(tarn__lane_t *lane, uint32_t msgid, const tarn__hello_t *h) {
  const tarn_net_t *net = lane->net;
  const tarn_net_identity_t *self = &net->self;
  if (strcmp(h->version, tarn_version) != 0) {
    refuse(lane, msgid, TARN_EPROTO, "this process is tarn %s, the one that connects is tarn %s",
           tarn_version, h->version);
  } else if (strcmp(h->bytecode, net->bytecode) != 0) {
    refuse(lane, msgid, TARN_EPROTO,
           "this process has Lua bytecode '%s', the one that connects '%s'", net->bytecode,
           h->bytecode);
  } else if (h->want_id && (h->want_id != self->id ||
                            (h->want_incarnation && h->want_incarnation != self->incarnation))) {
    refuse(lane, msgid, TARN_ELOST, "process %u is not here; this is process %u", h->want_id,
           self->id);
  } else {
    return true;
  }
  return false;
}

static void on_hello(tarn__lane_t *lane, const tarn__envelope_t *e) {
  tarn__greeting_t *g = lane->greeting;
  const tarn_net_identity_t *self = &lane->net->self;
  tarn_error_t err;
  int rc = tarn__hello_read(e, &g->hello, &err);
  if (rc) {
    refuse(lane, e->msgid, rc, "%s", err.message);
    return;
  }
  if (!acceptable(lane, e->msgid, &g->hello)) { return; }
  if (!bind_to_tls(lane)) { return; }
  lane->role = g->hello.role;
  tarn__welcome_t *w = &g->welcome;
  memcpy(w->host, self->host, sizeof w->host);
  w->id = self->id;
  w->incarnation = self->incarnation;
  w->os_pid = self->os_pid;
  w->your_id = g->hello.id;
  w->your_incarnation = g->hello.incarnation;
  randombytes_buf(w->nonce, sizeof w->nonce);
  tarn__proof_make(lane->net->secret, TARN__PROOF_ACCEPTOR, &g->hello, w, w->proof);
  g->step = 1;
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  say(lane, tarn__welcome_write(&b, e->msgid, w), &b);
}

/* The lane becomes the control lane of a new peer. reply: the handshake's last word; released. */
static void bring_up(tarn__lane_t *lane, const tarn_net_identity_t *who, int rc,
                     tarn_buf_t *reply) {
  tarn_peer_t *peer = NULL;
  if (!rc) { rc = tarn__peer_create(lane->net, &peer); }
  say(lane, rc, reply);
  if (!peer) { return; }
  peer->identity = *who;
  if (lane->closing) {
    tarn_peer_close(peer, NULL);
    tarn__peer_settle(peer);
    return;
  }
  if (!who->foreign) { tie(lane, peer); }
  peer->control = lane;
  peer->lane_count = 1;
  lane->peer = peer;
  tarn__lane_proven(lane);
  tarn__peer_up(peer);
}

static void accept_control(tarn__lane_t *lane, uint32_t msgid) {
  tarn_net_t *net = lane->net;
  const tarn__hello_t *h = &lane->greeting->hello;
  tarn_net_identity_t who = {.id = h->id, .incarnation = h->incarnation, .os_pid = h->os_pid};
  memcpy(who.host, h->host, sizeof who.host);
  if (h->id == 0) {
    int rc = net->callbacks.on_join
                 ? net->callbacks.on_join(net->user, &who, &who.id, &who.incarnation)
                 : TARN_EINVAL;
    if (lane->closing) { return; }
    if (rc || who.id == 0) {
      refuse(lane, msgid, rc ? rc : TARN_EINVAL, "process %u does not let it join", net->self.id);
      return;
    }
  }
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  int rc = tarn__joined_write(&b, msgid, h->id == 0 ? who.id : 0, who.incarnation);
  bring_up(lane, &who, rc, &b);
}

static void accept_bulk(tarn__lane_t *lane, uint32_t msgid) {
  const tarn__hello_t *h = &lane->greeting->hello;
  tarn_peer_t *peer = tarn__peer_find(lane->net, h->id, h->incarnation, h->tie);
  if (!peer || peer->doomed || peer->bulk_in) {
    refuse(lane, msgid, TARN_ELOST, "process %u has %s", h->id,
           peer ? "a bulk lane already, or is going"
                : "no control lane to which this bulk lane belongs");
    return;
  }
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  say(lane, tarn__joined_write(&b, msgid, 0, 0), &b);
  if (lane->closing) { return; }
  tarn__bulk_attached(peer, lane);
  tarn__lane_proven(lane);
  tarn__bulk_route(peer);
}

static void on_prove(tarn__lane_t *lane, const tarn__envelope_t *e) {
  tarn__greeting_t *g = lane->greeting;
  uint8_t theirs[TARN__PROOF_BYTES], right[TARN__PROOF_BYTES];
  tarn_error_t err;
  int rc = tarn__prove_read(e, theirs, &err);
  if (rc) {
    refuse(lane, e->msgid, rc, "%s", err.message);
    return;
  }
  tarn__proof_make(lane->net->secret, TARN__PROOF_CONNECTOR, &g->hello, &g->welcome, right);
  if (!tarn__proof_equal(theirs, right)) {
    refuse(lane, e->msgid, TARN_EAUTH, "it did not prove that it knows the secret");
  } else if (g->hello.role == TARN__ROLE_BULK) {
    accept_bulk(lane, e->msgid);
  } else {
    accept_control(lane, e->msgid);
  }
}

static void on_foreign(tarn__lane_t *lane, const tarn__envelope_t *e) {
  if (!lane->tls && !tarn__secure_is_local(lane)) {
    refuse(lane, e->msgid, TARN_EAUTH,
           "auth.secret is only for clients on the same machine, or by TLS");
    return;
  }
  tarn_mp_reader_t r = {e->body, e->end};
  const uint8_t *hex;
  uint32_t length;
  if (tarn_mp_read_bytes(&r, &hex, &length) || r.at != r.end ||
      !tarn__secret_is(lane->net->secret, hex, length)) {
    refuse(lane, e->msgid, TARN_EAUTH, "wrong secret");
    return;
  }
  tarn_net_identity_t who = {.foreign = true};
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  bring_up(lane, &who, tarn__joined_write(&b, e->msgid, 0, 0), &b);
}

static void acceptor_message(tarn__lane_t *lane, const tarn__envelope_t *e) {
  uint8_t step = lane->greeting->step;
  if (lane->mismatched && !e->response) {
    refuse(lane, e->msgid, TARN_EPROTO,
           "this process wants TLS, and the one that connects does not: tls must be the same on "
           "both sides");
  } else if (step == 0 && tarn__envelope_is(e, "hello")) {
    on_hello(lane, e);
  } else if (step == 1 && tarn__envelope_is(e, "prove")) {
    on_prove(lane, e);
  } else if (step == 0 && tarn__envelope_is(e, "auth.secret")) {
    on_foreign(lane, e);
  } else if (e->response) {
    tarn__lane_fail(lane, TARN_EPROTO, "a response where a request was expected");
  } else {
    refuse(lane, e->msgid, TARN_EAUTH, "the first call must be auth.secret");
  }
}

/* ---- connector ---- */

void tarn__greet_start(tarn__lane_t *lane) {
  const tarn_net_t *net = lane->net;
  const tarn_peer_t *peer = lane->peer;
  tarn__hello_t *h = &lane->greeting->hello;
  bool bulk = lane->role == TARN__ROLE_BULK;
  snprintf(h->version, sizeof h->version, "%s", tarn_version);
  memcpy(h->bytecode, net->bytecode, sizeof h->bytecode);
  memcpy(h->host, net->self.host, sizeof h->host);
  h->role = lane->role;
  h->id = net->self.id;
  h->incarnation = net->self.incarnation;
  h->os_pid = net->self.os_pid;
  h->want_id = bulk ? peer->identity.id : peer->want_id;
  h->want_incarnation = bulk ? peer->identity.incarnation : peer->want_incarnation;
  if (bulk) { memcpy(h->tie, peer->tie, sizeof h->tie); }
  randombytes_buf(h->nonce, sizeof h->nonce);
  if (!bind_to_tls(lane)) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  say(lane, tarn__hello_write(&b, HELLO_MSGID, h), &b);
}

/* The acceptor said no. It has proved nothing: its text is shown, its kind believed where it is
 * one of ours to tell. */
static void refused(tarn__lane_t *lane, const tarn__envelope_t *e) {
  char text[200];
  uint32_t n = 0, kind = 0;
  for (; n < e->error_size && n < sizeof text - 1; n++) {
    uint8_t c = e->error[n];
    text[n] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    if (c == ':' && kind == 0) { kind = n; }
  }
  text[n] = 0;
  int code = tarn_error_code(text, kind);
  if (code != TARN_EAUTH && code != TARN_ELOST) { code = TARN_EPROTO; }
  tarn__lane_fail(lane, code, "refused by %s: %s", lane->remote, n ? text : "no reason given");
}

static void on_welcome(tarn__lane_t *lane, const tarn__envelope_t *e) {
  tarn__greeting_t *g = lane->greeting;
  tarn__hello_t *h = &g->hello;
  tarn__welcome_t *w = &g->welcome;
  tarn_error_t err;
  int rc = tarn__welcome_read(e, w, &err);
  if (rc) {
    tarn__lane_fail(lane, rc, "%s", err.message);
    return;
  }
  uint8_t proof[TARN__PROOF_BYTES];
  tarn__proof_make(lane->net->secret, TARN__PROOF_ACCEPTOR, h, w, proof);
  if (!tarn__proof_equal(proof, w->proof)) {
    tarn__lane_fail(lane, TARN_EAUTH, "%s did not prove that it knows the secret", lane->remote);
    return;
  }
  if (h->want_id &&
      (w->id != h->want_id || (h->want_incarnation && w->incarnation != h->want_incarnation))) {
    tarn__lane_fail(lane, TARN_ELOST, "process %u is not at %s; there is process %u", h->want_id,
                    lane->remote, w->id);
    return;
  }
  tarn__proof_make(lane->net->secret, TARN__PROOF_CONNECTOR, h, w, proof);
  g->step = 1;
  tarn_buf_t b;
  tarn_buf_init(&b, TARN_NET_UNPROVEN_BYTES);
  say(lane, tarn__prove_write(&b, PROVE_MSGID, proof), &b);
}

static void on_joined(tarn__lane_t *lane, const tarn__envelope_t *e) {
  tarn_net_t *net = lane->net;
  tarn_peer_t *peer = lane->peer;
  tarn__greeting_t *g = lane->greeting;
  uint32_t id;
  uint64_t incarnation;
  tarn_error_t err;
  int rc = tarn__joined_read(e, &id, &incarnation, &err);
  if (rc) {
    tarn__lane_fail(lane, rc, "%s", err.message);
    return;
  }
  if (lane->role == TARN__ROLE_BULK) {
    tarn__lane_proven(lane);
    tarn__bulk_route(peer);
    return;
  }
  if (id != 0 && net->self.id == 0) { tarn_net_set_self(net, id, incarnation); }
  peer->identity = (tarn_net_identity_t){
      .id = g->welcome.id, .incarnation = g->welcome.incarnation, .os_pid = g->welcome.os_pid};
  memcpy(peer->identity.host, g->welcome.host, sizeof peer->identity.host);
  tie(lane, peer);
  tarn__lane_proven(lane);
  tarn__peer_up(peer);
  tarn__lane_mark(lane);
  tarn__bulk_route(peer);
}

static void connector_message(tarn__lane_t *lane, const tarn__envelope_t *e) {
  uint8_t step = lane->greeting->step;
  if (!e->response || e->msgid != (step == 0 ? HELLO_MSGID : PROVE_MSGID)) {
    tarn__lane_fail(lane, TARN_EPROTO, "something else than the reply was expected of %s",
                    lane->remote);
  } else if (e->error) {
    refused(lane, e);
  } else if (lane->mismatched) {
    tarn__lane_fail(lane, TARN_EPROTO, "%s answers without TLS, which this process wants",
                    lane->remote);
  } else if (step == 0) {
    on_welcome(lane, e);
  } else {
    on_joined(lane, e);
  }
}

/* ---- both ---- */

/* The lane is proven; what has been read beyond the handshake are frames. */
static void graduate(tarn__lane_t *lane) {
  tarn__greeting_t *g = lane->greeting;
  lane->greeting = NULL;
  if (!lane->closing && g->have > g->at) {
    tarn__lane_feed(lane, g->bytes + g->at, g->have - g->at);
  }
  sodium_memzero(g, sizeof *g);
  tarn_free(g);
}

/* Somebody speaks TLS to an end that does not want it. The answer is in plain, which the other takes for a refusal. */
static void refuse_tls(tarn__lane_t *lane) {
  if (lane->connector) {
    tarn__lane_fail(lane, TARN_EPROTO, "%s answers in TLS, which this process does not want",
                    lane->remote);
  } else {
    refuse(lane, HELLO_MSGID, TARN_EPROTO,
           "this process does not want TLS, and the one that connects does: tls must be the same "
           "on both sides");
  }
}

void tarn__greet_feed(tarn__lane_t *lane, size_t count) {
  tarn__greeting_t *g = lane->greeting;
  g->have += count;
  if (!lane->tls && g->scanned == 0 && tarn__tls_is_record(g->bytes[0])) {
    refuse_tls(lane);
    return;
  }
  while (!lane->closing && lane->state == TARN__LANE_GREETING && g->scanned < g->have) {
    size_t used = 0;
    tarn_error_t err;
    tarn__envelope_t e;
    int rc =
        tarn_framer_scan(lane->framer, g->bytes + g->scanned, g->have - g->scanned, &used, &err);
    g->scanned += used;
    if (rc == 1) {
      size_t at = g->at;
      g->at = g->scanned;
      rc = tarn__envelope_read(g->bytes + at, g->scanned - at, &e, &err);
      if (!rc && lane->connector) { connector_message(lane, &e); }
      if (!rc && !lane->connector) { acceptor_message(lane, &e); }
    }
    if (rc < 0) { tarn__lane_fail(lane, rc == TARN_ETOOBIG ? TARN_EPROTO : rc, "%s", err.message); }
  }
  if (lane->state == TARN__LANE_GREETING && !lane->closing && g->have == sizeof g->bytes) {
    tarn__lane_fail(lane, TARN_EPROTO, "more than %u bytes before its proof",
                    TARN_NET_UNPROVEN_BYTES);
  }
  if (lane->state == TARN__LANE_PROVEN) { graduate(lane); }
}
