/* At which address others reach a process.
 *
 * A worker listens on the address by which it has reached process 1 (or as `listen` says): whoever is on that network finds it there, and one whose
 * process 1 is on loopback stays on loopback. Process 1 listens on loopback, until there are to be workers elsewhere: then also on its own address on
 * the way to them, and so do the workers that it has started on its machine, or those elsewhere could not reach them. What listens everywhere is
 * reached by others at one of its addresses. The loop's thread only, but for tarn__reach_own. */
#include <stdio.h>
#include <string.h>
#include "service-private.h"

/* An address of this machine by which others may reach it: the first that is not loopback. Loopback where there is none. */
static void outward_host(char *out) {
  uv_interface_address_t *list = NULL;
  int count = 0;
  snprintf(out, TARN_NET_ADDRESS_BYTES, "127.0.0.1:0");
  if (uv_interface_addresses(&list, &count) != 0) { return; }
  for (int i = 0; i < count; i++) {
    const struct sockaddr_in *v4 = &list[i].address.address4;
    char host[48];
    if (!list[i].is_internal && v4->sin_family == AF_INET &&
        uv_ip4_name(v4, host, sizeof(host)) == 0) {
      snprintf(out, TARN_NET_ADDRESS_BYTES, "%s:0", host);
      break;
    }
  }
  uv_free_interface_addresses(list, count);
}

int tarn__reach_listen(tarn_service_t *s, tarn_error_t *err) {
  if (s->config.listen == NULL) { return 0; }
  int rc = tarn_net_listen(s->net, s->config.listen, s->listening, sizeof(s->listening), err);
  if (rc != 0) { return rc; }
  memcpy(s->address, s->listening, sizeof(s->address));
  if (tarn_net_scope(s->listening) == TARN_NET_ANY && s->id == TARN_DRIVER) {
    outward_host(s->address);
    rc = tarn_net_join_address(s->address, s->listening, s->address);
  }
  return rc;
}

int tarn__reach_joined(tarn_service_t *s, const tarn_conn_t *c, tarn_error_t *err) {
  bool told = s->listening[0] != '\0';
  if (told && tarn_net_scope(s->listening) != TARN_NET_ANY) { return 0; }
  char local[TARN_NET_ADDRESS_BYTES];
  int rc = tarn_peer_local_address(c->peer, local);
  if (rc == 0) { rc = tarn_net_join_address(local, told ? s->listening : NULL, local); }
  if (rc != 0) { return tarn_error_set(err, rc, "the connection has no address here"); }
  if (told) {
    memcpy(s->address, local, sizeof(s->address));
    return 0;
  }
  return tarn_net_listen(s->net, local, s->address, sizeof(s->address), err);
}

/* ---- process 1 ---- */

static bool same_host(const char *a, const char *b) {
  char x[TARN_NET_ADDRESS_BYTES], y[TARN_NET_ADDRESS_BYTES];
  return tarn_net_join_address(a, NULL, x) == 0 && tarn_net_join_address(b, NULL, y) == 0 &&
         strcmp(x, y) == 0;
}

void tarn_service_address(tarn_service_t *s, char *out) {
  pthread_mutex_lock(&s->out_mutex);
  memcpy(out, s->address, TARN_NET_ADDRESS_BYTES);
  pthread_mutex_unlock(&s->out_mutex);
}

bool tarn__reach_own(tarn_service_t *s, char *out) {
  pthread_mutex_lock(&s->out_mutex);
  const char *address = s->outward[0][0] != '\0' ? s->outward[0] : s->address;
  memcpy(out, address, TARN_NET_ADDRESS_BYTES);
  pthread_mutex_unlock(&s->out_mutex);
  return tarn_net_scope(out) == TARN_NET_LOOPBACK;
}

void tarn__reach_widen(tarn_service_t *s, const tarn_member_t *m) {
  if (s->outward[0][0] == '\0' || m->child == NULL || !m->child->inward || m->conn == NULL) {
    return;
  }
  char where[TARN_NET_ADDRESS_BYTES];
  tarn_buf_t b;
  tarn_buf_init(&b, 256);
  if (tarn_net_join_address(s->outward[0], NULL, where) == 0 && tarn_mp_write_array(&b, 1) == 0 &&
      tarn_mp_write_cstr(&b, where) == 0) {
    tarn__send_notice(s, m->conn, "member.listen", &b);
  }
  tarn_buf_release(&b);
}

static int listen_outward(tarn_service_t *s, const char *local_host, char *out, tarn_error_t *err) {
  size_t n = 0;
  while (n < TARN__OUTWARD_MAX && s->outward[n][0] != '\0') {
    if (same_host(s->outward[n], local_host)) {
      memcpy(out, s->outward[n], TARN_NET_ADDRESS_BYTES);
      return 0;
    }
    n++;
  }
  if (n == TARN__OUTWARD_MAX) {
    return tarn_error_set(err, TARN_EINVAL,
                          "workers elsewhere find this process at %u addresses already",
                          TARN__OUTWARD_MAX);
  }
  int rc = tarn_net_listen(s->net, local_host, out, TARN_NET_ADDRESS_BYTES, err);
  if (rc != 0) { return rc; }
  pthread_mutex_lock(&s->out_mutex);
  memcpy(s->outward[n], out, TARN_NET_ADDRESS_BYTES);
  pthread_mutex_unlock(&s->out_mutex);
  if (n > 0) { return 0; }
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    tarn__reach_widen(s, m);
  }
  return 0;
}

int tarn_service_reach(tarn_service_t *s, const char *local_host, char *out, tarn_error_t *err) {
  tarn_net_scope_t ours = tarn_net_scope(s->listening), theirs = tarn_net_scope(local_host);
  if (theirs == TARN_NET_NAMED || theirs == TARN_NET_ANY) {
    return tarn_error_set(err, TARN_EINVAL, "'%s' is not an address of this machine", local_host);
  }
  if (ours == TARN_NET_ANY) { return tarn_net_join_address(local_host, s->listening, out); }
  if (ours == TARN_NET_LOOPBACK && theirs == TARN_NET_OUTWARD) {
    return listen_outward(s, local_host, out, err);
  }
  memcpy(out, s->address, TARN_NET_ADDRESS_BYTES);
  return 0;
}

/* ---- a worker on process 1's machine ---- */

void tarn__reach_notice(tarn_service_t *s, tarn_mp_reader_t *r) {
  const uint8_t *text = NULL;
  uint32_t length = 0;
  char where[TARN_NET_ADDRESS_BYTES] = {0}, address[TARN_NET_ADDRESS_BYTES];
  tarn_member_t *self = tarn__member_get(s, s->id), *driver = tarn__member_get(s, TARN_DRIVER);
  if (s->config.listen != NULL || self == NULL || driver == NULL || driver->conn == NULL ||
      tarn_mp_read_bytes(r, &text, &length) != 0 || length >= sizeof(where)) {
    return;
  }
  memcpy(where, text, length);
  tarn_error_t err = {0};
  tarn_buf_t b;
  tarn_buf_init(&b, 256);
  if (tarn_net_listen(s->net, where, address, sizeof(address), &err) != 0) {
    tarn_log(TARN_LOG_WARN, "processes elsewhere cannot reach this one: %s", err.message);
  } else if (tarn_mp_write_array(&b, 1) == 0 && tarn_mp_write_cstr(&b, address) == 0) {
    pthread_mutex_lock(&s->out_mutex); /* Lua may be reading it */
    memcpy(s->address, address, sizeof(s->address));
    pthread_mutex_unlock(&s->out_mutex);
    memcpy(self->address, address, sizeof(self->address));
    tarn__send_notice(s, driver->conn, "member.moved", &b);
  }
  tarn_buf_release(&b);
}
