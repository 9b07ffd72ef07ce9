/* A client of Redis that checks what it gets: redis ADDRESS WHAT [OPTION VALUE]...
 *
 * ADDRESS: a port of loopback, or the path of a unix socket. WHAT: get (GETs/s), setget (pairs of a SET and a GET of the same key, per second), fill (SETs each key
 * once, SETs/s), read (GETs each key once of those that a fill has left, GETs/s). Options: seconds (1), keys (1000), size (64, bytes of a value), connections (1), depth (1: commands under way on
 * each connection). Every reply is compared with what it must be, byte by byte. Keys are k0000000..; a value is its key and then filling. */
#include <stdbool.h>
#include <sys/epoll.h>
#include "client.h"

typedef struct options {
  double seconds;
  uint32_t keys, size, connections, depth;
} options_t;

typedef struct connection {
  int fd;
  uint32_t key;      /* of the commands under way: the first of depth */
  bool setting;      /* they are SETs */
  uint8_t *expected; /* the replies under way, in order */
  size_t length;     /* of expected */
  uint8_t *got;
  size_t have;
} connection_t;

static uint8_t *out, *value; /* room for one batch of commands; one value */

/* depth commands, beginning with c->key. */
static void ask(connection_t *c, const options_t *o) {
  size_t size = 0;
  c->length = c->have = 0;
  for (uint32_t i = 0; i < o->depth; i++) {
    uint32_t key = (c->key + i) % o->keys;
    set_value(value, key, o->size);
    if (c->setting) {
      size += (size_t)sprintf((char *)out + size, "*3\r\n$3\r\nSET\r\n$%d\r\nk%07u\r\n$%u\r\n", KEY,
                              key, o->size);
      memcpy(out + size, value, o->size);
      memcpy(out + size + o->size, "\r\n", 2);
      size += o->size + 2;
      memcpy(c->expected + c->length, "+OK\r\n", 5);
      c->length += 5;
    } else {
      size += (size_t)sprintf((char *)out + size, "*2\r\n$3\r\nGET\r\n$%d\r\nk%07u\r\n", KEY, key);
      c->length += (size_t)sprintf((char *)c->expected + c->length, "$%u\r\n", o->size);
      memcpy(c->expected + c->length, value, o->size);
      memcpy(c->expected + c->length + o->size, "\r\n", 2);
      c->length += o->size + 2;
    }
  }
  send_all(c->fd, out, size);
}

/* True: all replies have come, and are right. wait: until they have. */
static bool take(connection_t *c, bool wait) {
  ssize_t n = recv(c->fd, c->got + c->have, c->length - c->have, wait ? MSG_WAITALL : 0);
  if (n <= 0) { fail("read"); }
  c->have += (size_t)n;
  if (c->have < c->length) { return false; }
  if (memcmp(c->got, c->expected, c->length) != 0) {
    fprintf(stderr, "a reply is wrong: %.40s\n", (const char *)c->got);
    exit(1);
  }
  return true;
}

static void turn(connection_t *c, const options_t *o) {
  ask(c, o);
  while (!take(c, true)) {}
}

/* Each key once, per second. */
static double each(connection_t *c, const options_t *o, bool setting) {
  c->setting = setting;
  options_t batch = *o;
  double start = now();
  batch.depth = o->depth < o->keys ? o->depth : o->keys;
  for (c->key = 0; c->key < o->keys; c->key += batch.depth) {
    if (c->key + batch.depth > o->keys) { batch.depth = o->keys - c->key; }
    turn(c, &batch);
  }
  return o->keys / (now() - start);
}

static double set_and_get(connection_t *c, const options_t *o) {
  double start = now(), took;
  uint64_t pairs = 0;
  do {
    c->setting = true;
    turn(c, o);
    c->setting = false;
    turn(c, o);
    c->key = (c->key + o->depth) % o->keys;
    pairs += o->depth;
  } while ((took = now() - start) < o->seconds);
  return (double)pairs / took;
}

/* One connection: nothing but a write and a read a turn. */
static double get_alone(connection_t *c, const options_t *o) {
  double start = now(), took;
  uint64_t count = 0;
  do {
    turn(c, o);
    count += o->depth;
    c->key = (c->key + o->depth) % o->keys;
  } while ((took = now() - start) < o->seconds);
  return (double)count / took;
}

/* One thread, all connections: each sends its next commands when the last are answered. */
static double get(connection_t *list, const options_t *o) {
  int loop = epoll_create1(0);
  for (uint32_t i = 0; i < o->connections; i++) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
    epoll_ctl(loop, EPOLL_CTL_ADD, list[i].fd, &e);
    list[i].key = i % o->keys;
  }
  double start = now(), took;
  uint64_t count = 0;
  for (uint32_t i = 0; i < o->connections; i++) { ask(&list[i], o); }
  do {
    struct epoll_event events[64];
    int n = epoll_wait(loop, events, 64, 10000);
    if (n <= 0) { fail("no reply"); }
    for (int k = 0; k < n; k++) {
      connection_t *c = &list[events[k].data.u32];
      if (!take(c, false)) { continue; }
      count += o->depth;
      c->key = (c->key + o->depth) % o->keys;
      ask(c, o);
    }
  } while ((took = now() - start) < o->seconds);
  return (double)count / took;
}

int main(int argc, char **argv) {
  options_t o = {.seconds = 1, .keys = 1000, .size = 64, .connections = 1, .depth = 1};
  if (argc < 3 || argc % 2 == 0) { return 2; }
  for (int i = 3; i < argc; i += 2) {
    double n = atof(argv[i + 1]);
    if (strcmp(argv[i], "seconds") == 0) { o.seconds = n; }
    if (strcmp(argv[i], "keys") == 0) { o.keys = (uint32_t)n; }
    if (strcmp(argv[i], "size") == 0) { o.size = (uint32_t)n; }
    if (strcmp(argv[i], "connections") == 0) { o.connections = (uint32_t)n; }
    if (strcmp(argv[i], "depth") == 0) { o.depth = (uint32_t)n; }
  }
  size_t room = (size_t)o.depth * (o.size + 64) + 64;
  out = malloc(room);
  value = malloc(o.size + KEY);
  memset(value, 'x', o.size + KEY);
  connection_t *list = calloc(o.connections, sizeof *list);
  for (uint32_t i = 0; i < o.connections; i++) {
    list[i].fd = dial(argv[1]);
    list[i].expected = malloc(room);
    list[i].got = malloc(room);
  }
  const char *what = argv[2];
  double figure;
  if (strcmp(what, "fill") == 0 || strcmp(what, "read") == 0) {
    figure = each(&list[0], &o, what[0] == 'f');
  } else {
    each(&list[0], &o, true);
    list[0].setting = false;
    list[0].key = 0;
    if (strcmp(what, "setget") == 0) {
      figure = set_and_get(&list[0], &o);
    } else {
      figure = o.connections > 1 ? get(list, &o) : get_alone(&list[0], &o);
    }
  }
  printf("%.1f\n", figure);
  return 0;
}
