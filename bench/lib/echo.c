/* What libuv can do with a message back and forth: echo serve PORT, or echo ask PORT SECONDS SIZE, which sends SIZE bytes, waits for the same bytes, and
 * prints the turns per second. TCP on loopback, one connection. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

typedef struct client {
  uv_tcp_t tcp;
  char *message;
  size_t size, have;
  uint64_t turns, start_ns, end_ns;
  uint8_t number;
} client_t;

static char room[1 << 16];

static void lend_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  (void)handle;
  (void)suggested;
  *buf = uv_buf_init(room, sizeof room);
}

static void on_request(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  if (n < 0) {
    uv_close((uv_handle_t *)stream, (uv_close_cb)free);
    return;
  }
  uv_buf_t out = uv_buf_init(buf->base, (unsigned)n);
  if (uv_try_write(stream, &out, 1) != n) { exit(1); } /* one small message at a time always fits */
}

static void on_connection(uv_stream_t *server, int status) {
  uv_tcp_t *tcp = malloc(sizeof *tcp);
  if (status < 0 || !tcp) { exit(1); }
  uv_tcp_init(server->loop, tcp);
  if (uv_accept(server, (uv_stream_t *)tcp) != 0) { exit(1); }
  uv_tcp_nodelay(tcp, 1);
  uv_read_start((uv_stream_t *)tcp, lend_room, on_request);
}

static void ask(client_t *c) {
  memset(c->message, c->number, c->size);
  c->have = 0;
  uv_buf_t out = uv_buf_init(c->message, (unsigned)c->size);
  if (uv_try_write((uv_stream_t *)&c->tcp, &out, 1) != (int)c->size) { exit(1); }
}

static void on_answer(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  client_t *c = stream->data;
  if (n < 0) { exit(1); }
  for (ssize_t i = 0; i < n; i++) {
    if ((uint8_t)buf->base[i] != c->number) { exit(1); }
  }
  c->have += (size_t)n;
  if (c->have < c->size) { return; }
  c->turns++;
  c->number++;
  if (uv_hrtime() < c->end_ns) {
    ask(c);
    return;
  }
  double seconds = (double)(uv_hrtime() - c->start_ns) / 1e9;
  printf("%.1f\n", (double)c->turns / seconds);
  uv_close((uv_handle_t *)&c->tcp, NULL);
}

static void on_connected(uv_connect_t *request, int status) {
  client_t *c = request->handle->data;
  if (status < 0) { exit(1); }
  uv_tcp_nodelay(&c->tcp, 1);
  uv_read_start((uv_stream_t *)&c->tcp, lend_room, on_answer);
  c->end_ns += c->start_ns = uv_hrtime();
  ask(c);
}

int main(int argc, char **argv) {
  if (argc < 3) { return 2; }
  uv_loop_t *loop = uv_default_loop();
  struct sockaddr_in address;
  uv_ip4_addr("127.0.0.1", atoi(argv[2]), &address);
  uv_tcp_t server;
  client_t c = {0};
  uv_connect_t request;
  if (strcmp(argv[1], "serve") == 0) {
    uv_tcp_init(loop, &server);
    if (uv_tcp_bind(&server, (struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&server, 64, on_connection) != 0) {
      return 1;
    }
  } else {
    if (argc != 5) { return 2; }
    c.end_ns = (uint64_t)(atof(argv[3]) * 1e9);
    c.size = (size_t)atol(argv[4]);
    c.message = malloc(c.size);
    uv_tcp_init(loop, &c.tcp);
    c.tcp.data = &c;
    uv_tcp_connect(&request, &c.tcp, (struct sockaddr *)&address, on_connected);
  }
  return uv_run(loop, UV_RUN_DEFAULT);
}
