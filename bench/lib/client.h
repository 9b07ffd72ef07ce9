/* What the clients in C have in common: the clock, a connection, and the values that they set and expect. Keys are k0000000..; a value is its key and then
 * filling. */
#ifndef TARN_BENCH_CLIENT_H
#define TARN_BENCH_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { KEY = 8 };

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void fail(const char *what) {
  perror(what);
  exit(1);
}

/* address: a port of loopback, or the path of a unix socket. */
static inline int dial(const char *address) {
  int fd;
  if (address[0] == '/') {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", address);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) { fail(address); }
  } else {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(address))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) { fail(address); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  return fd;
}

/* The value of a key, written into one that has its filling. */
static inline void set_value(uint8_t *value, uint32_t key, uint32_t size) {
  char text[16];
  snprintf(text, sizeof text, "k%07u", key);
  memcpy(value, text, size < KEY ? size : KEY);
}

static inline void send_all(int fd, const uint8_t *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size);
    if (n < 0 && errno != EINTR) { fail("write"); }
    if (n > 0) {
      bytes += n;
      size -= (size_t)n;
    }
  }
}

#endif
