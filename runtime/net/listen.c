/* Listening, and how many connections may be there that have not proved themselves. The loop's
 * thread only.
 *
 * Beyond max_unproven the oldest is closed for a new one, but not before it has had TARN__GRACE_MS:
 * when many workers join at once they wait in the kernel's queue for a few milliseconds instead of
 * closing one another, and silent strangers cannot hold the door for longer than the grace. A busy
 * machine may take longer than that to prove all the members of a large cluster, when they all begin
 * to talk to each other: so there is room for each of them (tarn_net_expect). libuv
 * polls a listener no further while a connection of its own is not accepted. */
#include <netdb.h>
#include <stdio.h>
#include "base/alloc.h"
#include "base/log.h"
#include "net/net-private.h"

#define BACKLOG 1024
#define AGAIN_MS 100u      /* after memory was short */
#define EXPECTED_MAX 1024u /* of those who may connect at once, in a large cluster */

static void on_patience(uv_timer_t *timer) {
  tarn_net_t *net = timer->data;
  for (tarn_list_t *i = net->listeners.next; i != &net->listeners; i = i->next) {
    TARN_CONTAINER(i, tarn__listener_t, link)->starved = false;
  }
  tarn__listeners_accept(net);
}

/* Is there room for one more, if need be by closing the oldest? Otherwise *wait_ms says when to
 * look again. */
static bool make_room(tarn_net_t *net, uint64_t *wait_ms) {
  if (net->unproven_count < net->max_unproven) { return true; }
  tarn__lane_t *oldest = TARN_CONTAINER(net->unproven.next, tarn__lane_t, unproven);
  uint64_t grace =
      net->hello_timeout_ms / 2 < TARN__GRACE_MS ? net->hello_timeout_ms / 2 : TARN__GRACE_MS;
  uint64_t age = uv_now(net->loop) - oldest->born_ms;
  if (age < grace) {
    *wait_ms = grace - age;
    return false;
  }
  tarn__lane_fail(oldest, TARN_ETIMEDOUT, "%u others came that have not done so either",
                  net->max_unproven);
  return true;
}

static void accept_one(tarn_net_t *net, tarn__listener_t *l) {
  uint64_t wait_ms = AGAIN_MS;
  int rc = 0;
  if (make_room(net, &wait_ms)) {
    l->pending = false; /* before: libuv may call back with the next one */
    rc = tarn__lane_accept(net, (uv_stream_t *)&l->tcp);
    if (rc) { tarn_log(TARN_LOG_WARN, "net: cannot accept a connection: %s", uv_strerror(rc)); }
    if (rc == UV_ENOMEM) { l->pending = l->starved = true; }
  }
  if (l->pending && !uv_is_active((uv_handle_t *)&net->patience)) {
    uv_timer_start(&net->patience, on_patience, wait_ms, 0);
  }
}

void tarn_net_expect(tarn_net_t *net, uint64_t others) {
  net->max_unproven =
      net->least_unproven + (uint32_t)(others < EXPECTED_MAX ? others : EXPECTED_MAX);
}

void tarn__listeners_accept(tarn_net_t *net) {
  if (net->closing) { return; }
  for (tarn_list_t *i = net->listeners.next; i != &net->listeners; i = i->next) {
    tarn__listener_t *l = TARN_CONTAINER(i, tarn__listener_t, link);
    bool room =
        net->unproven_count < net->max_unproven || !uv_is_active((uv_handle_t *)&net->patience);
    if (l->pending && !l->starved && room) { accept_one(net, l); }
  }
}

static void on_connection(uv_stream_t *stream, int status) {
  tarn__listener_t *l = stream->data;
  if (l->net->closing) { return; }
  if (status) {
    tarn_log(TARN_LOG_WARN, "net: cannot accept a connection: %s", uv_strerror(status));
    return;
  }
  l->pending = true;
  accept_one(l->net, l);
}

static void on_listener_closed(uv_handle_t *handle) {
  tarn__listener_t *l = handle->data;
  tarn_net_t *net = l->net;
  tarn_list_remove(&l->link);
  tarn_free(l);
  net->open_handles--;
  tarn__net_settle(net);
}

void tarn__listeners_close(tarn_net_t *net) {
  for (tarn_list_t *i = net->listeners.next; i != &net->listeners; i = i->next) {
    uv_close((uv_handle_t *)&TARN_CONTAINER(i, tarn__listener_t, link)->tcp, on_listener_closed);
  }
}

/* A name to listen on is one of this machine: looked up at once, as it is in /etc/hosts or should be. */
static int look_up(tarn__address_t *a, const char *where, tarn_error_t *err) {
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
  int rc = getaddrinfo(a->host, NULL, &hints, &found);
  if (rc != 0) {
    return tarn_error_set(err, TARN_EINVAL, "cannot listen on '%s': %s", where, gai_strerror(rc));
  }
  memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
  if (found->ai_family == AF_INET6) {
    ((struct sockaddr_in6 *)&a->sa)->sin6_port = htons(a->port);
  } else {
    ((struct sockaddr_in *)&a->sa)->sin_port = htons(a->port);
  }
  freeaddrinfo(found);
  return 0;
}

int tarn_net_listen(tarn_net_t *net, const char *where, char *address, size_t address_size,
                    tarn_error_t *err) {
  tarn__address_t a;
  int rc = tarn__address_parse(where, &a, err);
  if (rc) { return rc; }
  if (!a.numeric && (rc = look_up(&a, where, err)) != 0) { return rc; }
  if (net->closing) { return tarn_error_set(err, TARN_ECANCELED, "closing"); }
  tarn__listener_t *l = tarn_calloc(1, sizeof *l);
  if (!l) { return tarn_error_set(err, TARN_ENOMEM, "no memory to listen"); }
  l->net = net;
  uv_tcp_init(net->loop, &l->tcp);
  l->tcp.data = l;
  tarn_list_push_back(&net->listeners, &l->link);
  net->open_handles++;
  struct sockaddr_storage sa;
  int size = sizeof sa;
  rc = uv_tcp_bind(&l->tcp, (struct sockaddr *)&a.sa, 0);
  if (!rc) { rc = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection); }
  if (!rc) { rc = uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&sa, &size); }
  if (rc) {
    tarn_list_remove(&l->link); /* so that tarn_net_close does not close it again */
    uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
    return tarn_error_set(err, TARN_EIO, "cannot listen on %s: %s", where, uv_strerror(rc));
  }
  char text[TARN_NET_ADDRESS_BYTES];
  tarn__address_format((struct sockaddr *)&sa, text, sizeof text);
  if (!tarn__address_is_loopback((struct sockaddr *)&sa)) {
    bool plain = net->tls_mode == TARN_TLS_NEVER;
    tarn_log(plain ? TARN_LOG_WARN : TARN_LOG_INFO,
             "net: listening on %s, not only for this machine: who connects must prove the secret, "
             "%s",
             text,
             plain ? "but nothing that is sent is encrypted, or guarded against change on the way"
                   : "and what is sent to other machines is encrypted");
  }
  if (address) { snprintf(address, address_size, "%s", text); }
  return 0;
}
