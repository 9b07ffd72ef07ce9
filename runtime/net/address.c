/* Addresses as text: "HOST:PORT", an IPv6 host in brackets. Pure. */
#include <stdio.h>
#include <string.h>
#include "net/net-private.h"

static int parse_port(const char *s, uint16_t *out) {
  unsigned long v = 0;
  size_t n = strlen(s);
  if (n < 1 || n > 5) { return TARN_EINVAL; }
  for (size_t i = 0; i < n; i++) {
    if (s[i] < '0' || s[i] > '9') { return TARN_EINVAL; }
    v = v * 10 + (unsigned long)(s[i] - '0');
  }
  if (v > UINT16_MAX) { return TARN_EINVAL; }
  *out = (uint16_t)v;
  return 0;
}

int tarn__address_parse(const char *text, tarn__address_t *out, tarn_error_t *err) {
  memset(out, 0, sizeof *out);
  const char *colon = text ? strrchr(text, ':') : NULL;
  size_t length = colon ? (size_t)(colon - text) : 0;
  if (length < 1 || parse_port(colon + 1, &out->port)) {
    return tarn_error_set(err, TARN_EINVAL, "'%.200s' is not HOST:PORT", text ? text : "");
  }
  if (text[0] == '[' && colon[-1] == ']') {
    text++;
    length -= 2;
  } else if (memchr(text, ':', length)) {
    return tarn_error_set(err, TARN_EINVAL,
                          "'%.200s' is not HOST:PORT (an IPv6 address goes in brackets)", text);
  }
  if (length < 1 || length >= sizeof out->host) {
    return tarn_error_set(err, TARN_EINVAL, "'%.200s' is not HOST:PORT", text);
  }
  memcpy(out->host, text, length);
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  if (uv_ip4_addr(out->host, out->port, &v4) == 0) {
    memcpy(&out->sa, &v4, sizeof v4);
    out->numeric = true;
  } else if (uv_ip6_addr(out->host, out->port, &v6) == 0) {
    memcpy(&out->sa, &v6, sizeof v6);
    out->numeric = true;
  }
  return 0;
}

int tarn_net_address_check(const char *text, tarn_error_t *err) {
  tarn__address_t address;
  return tarn__address_parse(text, &address, err);
}

void tarn__address_format(const struct sockaddr *sa, char *out, size_t size) {
  char host[64] = "?";
  if (sa->sa_family == AF_INET) {
    const struct sockaddr_in *v4 = (const void *)sa;
    uv_ip4_name(v4, host, sizeof host);
    snprintf(out, size, "%s:%u", host, ntohs(v4->sin_port));
  } else if (sa->sa_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const void *)sa;
    uv_ip6_name(v6, host, sizeof host);
    snprintf(out, size, "[%s]:%u", host, ntohs(v6->sin6_port));
  } else {
    snprintf(out, size, "?");
  }
}

bool tarn__address_is_loopback(const struct sockaddr *sa) {
  if (sa->sa_family == AF_INET) {
    const struct sockaddr_in *v4 = (const void *)sa;
    return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
  }
  if (sa->sa_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const void *)sa;
    const uint8_t *b = v6->sin6_addr.s6_addr;
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && b[12] == 127);
  }
  return false;
}

tarn_net_scope_t tarn_net_scope(const char *address) {
  tarn__address_t a;
  if (tarn__address_parse(address, &a, NULL) != 0 || !a.numeric) { return TARN_NET_NAMED; }
  const struct sockaddr *sa = (const void *)&a.sa;
  const struct sockaddr_in *v4 = (const void *)&a.sa;
  const struct sockaddr_in6 *v6 = (const void *)&a.sa;
  bool any = sa->sa_family == AF_INET ? v4->sin_addr.s_addr == htonl(INADDR_ANY)
                                      : IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
  return any ? TARN_NET_ANY : tarn__address_is_loopback(sa) ? TARN_NET_LOOPBACK : TARN_NET_OUTWARD;
}

int tarn_net_join_address(const char *host, const char *port, char *out) {
  const char *end = strrchr(host, ':'), *from = port != NULL ? strrchr(port, ':') : ":0";
  if (end == NULL || from == NULL) { return TARN_EINVAL; }
  char text[TARN_NET_ADDRESS_BYTES];
  int n = snprintf(text, sizeof text, "%.*s%s", (int)(end - host), host, from);
  if (n < 0 || (size_t)n >= sizeof text) { return TARN_EINVAL; }
  memcpy(out, text, (size_t)n + 1);
  return 0;
}
