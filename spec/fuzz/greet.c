/* Fuzz target: what an unproven connection may send, and what follows on it (net/greet.c, handshake.c, lane.c, bulk_in.c), over real connections on
 * loopback. The first byte says who connects (1: we to a stranger), whether we have an id (2: no), and whether we want TLS (4), which the stranger only
 * has in the bytes of the input; the second in what pieces bytes are sent. Then come the stranger's messages; before one is sent
 *   32 times 'P' is replaced by the right proof, if there can be one,
 *   64 times 'S' by the secret in hexadecimal,
 *   16 times 'T' by the tie of the control lane that was proven last;
 * nil stands for a new connection beside the others, and a bin for the bytes in it. Nobody may be let in without proof or secret, and nothing
 * may be left of a connection that has ended. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "image/image.h"
#include "lib/loopback.h"
#include "lib/must.h"
#include "lib/mutate.h"
#include "net/net-private.h"

enum { PREFIX = 2, RUNS_A_NET = 500, CONNECTIONS = 4, TURNS = 64, BLOCKS_MAX = 1 << 20,
       TLS_SLACK = 16384 /* OpenSSL keeps the texts of its last errors */ };

/* The stranger's end of a connection. */
typedef struct stranger {
  int fd;
  bool heard; /* the other's first message is in `bytes`, parsed */
  bool spoke;
  tarn__hello_t hello;
  tarn__welcome_t welcome;
  uint8_t bytes[1024];
  size_t have;
} stranger_t;

static struct {
  uv_loop_t loop;
  tarn_net_t *net;
  char address[64];
  int listener; /* the stranger's */
  char listener_address[64];
  uint8_t secret[TARN_SECRET_BYTES];
  char hex[TARN_SECRET_BYTES * 2 + 1];
  uint64_t bytes_before;
  unsigned runs;
  /* of one input */
  bool we_connect, may_come_up;
  uint8_t tie[TARN__TIE_BYTES];
  stranger_t strangers[CONNECTIONS];
  unsigned count;
  bool again; /* on_bulk_begin has said TARN_EAGAIN */
  tarn_peer_t *waiting;
} g;

/* ---- nonces: the same for the same input ---- */

static uint64_t random_state;

static uint32_t random_next(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}

static void random_fill(void *const out, const size_t size) {
  for (size_t i = 0; i < size; i++) { ((uint8_t *)out)[i] = (uint8_t)random_next(); }
}

static const char *random_name(void) { return "fuzz"; }

static randombytes_implementation random_source = {
    .implementation_name = random_name, .random = random_next, .buf = random_fill};

/* ---- our end ---- */

static int on_join(void *user, const tarn_net_identity_t *who, uint32_t *id,
                   uint64_t *incarnation) {
  (void)user;
  MUST(g.may_come_up);
  *id = 2;
  *incarnation = who->incarnation;
  return who->os_pid == 13;
}

static void on_up(void *user, tarn_peer_t *peer) {
  (void)user;
  (void)peer;
  MUST(g.may_come_up);
}

/* Not by strstr: libFuzzer learns from what that is given, and would know the secret. */
static bool tells_secret(const char *text) {
  size_t n = 0;
  for (; *text && n < sizeof g.hex - 1; text++) {
    n = *text == g.hex[n] ? n + 1 : *text == g.hex[0];
  }
  return n == sizeof g.hex - 1;
}

static void on_down(void *user, tarn_peer_t *peer, const tarn_error_t *reason) {
  (void)user;
  if (g.waiting == peer) { g.waiting = NULL; }
  MUST(reason->code != 0 && reason->message[0] != '\0' && !tells_secret(reason->message));
}

static void on_frame(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size) {
  (void)user;
  tarn_mp_reader_t r = {frame, frame + size};
  MUST(g.may_come_up && tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH + 25) == 0 && r.at == r.end);
  uint8_t *answer = tarn_malloc(5);
  memcpy(answer, "\x94\1\1\xc0\xc0", 5);
  (void)tarn_peer_send(peer, answer, 5);
}

static int on_bulk_begin(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
                         const uint64_t *sizes, uint32_t count, void **dest, void **token) {
  (void)user;
  MUST(size > 0 && frame[0] != 0);
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) { sum += sizes[i]; }
  if (sum > BLOCKS_MAX) { return TARN_ENOMEM; }
  if (count == 3 && !g.again) {
    g.again = true;
    g.waiting = peer;
    return TARN_EAGAIN;
  }
  uint8_t *at = malloc(sum + 1);
  *token = at;
  for (uint32_t i = 0; i < count; at += sizes[i++]) { dest[i] = at; }
  return 0;
}

static void on_bulk(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                    int status) {
  (void)user;
  (void)peer;
  MUST(size > 0 && frame[0] != 0);
  MUST(status != 0 || token);
  free(token);
}

static void open_net(void) {
  tarn_error_t err = {0};
  g.bytes_before = tarn_alloc_bytes();
  tarn_net_config_t config = {
      .loop = &g.loop,
      .secret = g.secret,
      .self = {.id = 1, .incarnation = 77, .os_pid = 5, .host = "here"},
      .callbacks = {on_join, on_up, on_down, on_frame, on_bulk_begin, on_bulk, NULL},
      .max_frame = 1 << 16,
      .max_unproven = CONNECTIONS - 1,
      .bytecode = "gc64"};
  MUST(tarn_net_create(&config, &g.net, &err) == 0);
  MUST(tarn_net_listen(g.net, "127.0.0.1:0", g.address, sizeof g.address, &err) == 0);
  fuzz_allow(g.address);
  fuzz_allow(g.listener_address);
  g.runs = 0;
}

static void on_closed(void *user) { *(bool *)user = true; }

static void close_net(void) {
  bool closed = false;
  if (!g.net) { return; }
  tarn_net_close(g.net, on_closed, &closed);
  while (!closed) { uv_run(&g.loop, UV_RUN_ONCE); }
  g.net = NULL;
  MUST(tarn_alloc_bytes() <= g.bytes_before + TLS_SLACK);
}

static void open_listener(void) {
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof sa;
  g.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  MUST(bind(g.listener, (struct sockaddr *)&sa, size) == 0 && listen(g.listener, 16) == 0);
  MUST(getsockname(g.listener, (struct sockaddr *)&sa, &size) == 0);
  tarn__address_format((struct sockaddr *)&sa, g.listener_address, sizeof g.listener_address);
}

/* What OpenSSL takes once, it takes in its first handshake. */
static void warm_openssl(void) {
  tarn__tls_context_t *context;
  tarn__tls_t *ends[2];
  MUST(tarn__tls_context_create(g.secret, 0, &context, NULL) == 0);
  for (int i = 0; i < 2; i++) { MUST(tarn__tls_create(context, i == 0, &ends[i]) == 0); }
  for (int i = 0; i < 4; i++) {
    tarn__tls_t *one = ends[i % 2];
    tarn_buf_t *heard = tarn__tls_output(ends[1 - i % 2]);
    tarn__tls_input(one, heard->data, heard->size);
    MUST(tarn__tls_handshake(one, NULL) >= 0);
    tarn_buf_clear(heard);
  }
  MUST(tarn__tls_ready(ends[0]) && tarn__tls_ready(ends[1]));
  for (int i = 0; i < 2; i++) { tarn__tls_destroy(ends[i]); }
  tarn__tls_context_destroy(context);
}

static void start(void) {
  for (int i = 0; i < TARN_SECRET_BYTES; i++) { g.secret[i] = (uint8_t)(7 * i + 1); }
  setenv("TARN_LOG", "error", 0);
  randombytes_set_implementation(&random_source);
  MUST(sodium_init() >= 0 && uv_loop_init(&g.loop) == 0);
  sodium_bin2hex(g.hex, sizeof g.hex, g.secret, sizeof g.secret);
  open_listener();
  warm_openssl();
  atexit(close_net);
}

/* ---- the stranger's end ---- */

static void turns(unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    uv_run(&g.loop, UV_RUN_NOWAIT);
    if (g.waiting) { tarn_peer_bulk_retry(g.waiting); }
  }
}

static void connect_one(void) {
  if (g.count == CONNECTIONS) { return; }
  stranger_t *s = &g.strangers[g.count];
  *s = (stranger_t){.fd = -1};
  if (g.we_connect) {
    tarn_peer_t *peer;
    MUST(tarn_net_connect(g.net, g.listener_address, g.count, 0, &peer, NULL) == 0);
    for (int i = 0; i < 1000 && s->fd < 0; i++) {
      turns(1);
      s->fd = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC);
    }
  } else {
    tarn__address_t to;
    MUST(tarn__address_parse(g.address, &to, NULL) == 0);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fuzz_connect(s->fd, (struct sockaddr *)&to.sa, sizeof(struct sockaddr_in));
  }
  MUST(s->fd >= 0 && fcntl(s->fd, F_SETFL, O_NONBLOCK) == 0);
  turns(1);
  g.count++;
}

/* What the other end has said first: its hello, or its welcome. */
static void listen_to(stranger_t *s) {
  uint8_t rest[4096];
  if (s->have < sizeof s->bytes) {
    ssize_t n = recv(s->fd, s->bytes + s->have, sizeof s->bytes - s->have, 0);
    if (n > 0) { s->have += (size_t)n; }
  }
  while (recv(s->fd, rest, sizeof rest, 0) > 0) {}
  if (s->heard) { return; }
  tarn_mp_reader_t r = {s->bytes, s->bytes + s->have};
  tarn__envelope_t e;
  if (s->have == 0 || tarn_mp_skip(&r, 20) != 0) { return; }
  if (tarn__envelope_read(s->bytes, (size_t)(r.at - s->bytes), &e, NULL) != 0) { return; }
  s->heard = g.we_connect ? tarn__hello_read(&e, &s->hello, NULL) == 0
                          : !e.error && tarn__welcome_read(&e, &s->welcome, NULL) == 0;
}

static void note_own(stranger_t *s, const uint8_t *bytes, size_t size) {
  tarn__envelope_t e;
  if (s->spoke || tarn__envelope_read(bytes, size, &e, NULL) != 0) { return; }
  s->spoke = g.we_connect ? e.response && !e.error && tarn__welcome_read(&e, &s->welcome, NULL) == 0
                          : !e.response && tarn__hello_read(&e, &s->hello, NULL) == 0;
}

static uint8_t *find(uint8_t *bytes, size_t size, uint8_t what, size_t times) {
  for (size_t i = 0, n = 0; i < size; i++) {
    n = bytes[i] == what ? n + 1 : 0;
    if (n == times) { return bytes + i + 1 - times; }
  }
  return NULL;
}

static void fill_in(stranger_t *s, uint8_t *bytes, size_t size) {
  uint8_t *at = find(bytes, size, 'S', sizeof g.hex - 1);
  if (at) {
    memcpy(at, g.hex, sizeof g.hex - 1);
    g.may_come_up = true;
  }
  at = find(bytes, size, 'T', TARN__TIE_BYTES);
  if (at) { memcpy(at, g.tie, TARN__TIE_BYTES); }
  note_own(s, bytes, size);
  at = find(bytes, size, 'P', TARN__PROOF_BYTES);
  if (!at || !s->spoke || !s->heard) { return; }
  uint8_t mac[TARN__PROOF_BYTES];
  tarn__proof_make(g.secret, g.we_connect ? TARN__PROOF_ACCEPTOR : TARN__PROOF_CONNECTOR, &s->hello,
                   &s->welcome, at);
  tarn__proof_make(g.secret, TARN__PROOF_TIE, &s->hello, &s->welcome, mac);
  if (s->hello.role == TARN__ROLE_CONTROL) { memcpy(g.tie, mac, sizeof g.tie); }
  g.may_come_up = true;
}

static void send_pieces(int fd, const uint8_t *bytes, size_t size, uint8_t how) {
  size_t most = how == 0 || size > 2048 ? size : 1 + how % 64u;
  for (size_t at = 0; at < size;) {
    size_t part = size - at < most ? size - at : most;
    ssize_t n = send(fd, bytes + at, part, MSG_NOSIGNAL);
    if (n <= 0) { return; } /* closed, or it does not read */
    at += (size_t)n;
    turns(1);
  }
}

static void close_all(void) {
  struct linger now = {.l_onoff = 1};
  for (unsigned i = 0; i < g.count; i++) {
    (void)setsockopt(g.strangers[i].fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(g.strangers[i].fd);
  }
  for (int i = 0; i < TURNS && !tarn_list_empty(&g.net->lanes); i++) { turns(1); }
  for (int fd; (fd = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
    close(fd);
  } /* bulk lanes it wanted */
  for (int i = 0; i < TURNS && !tarn_list_empty(&g.net->lanes); i++) { turns(1); }
  MUST(tarn_list_empty(&g.net->lanes) && tarn_list_empty(&g.net->peers) &&
       g.net->unproven_count == 0);
  g.count = 0;
}

static void send_all(const uint8_t *data, size_t size, uint8_t how) {
  tarn_mp_reader_t r = {data, data + size};
  connect_one();
  while (r.at < r.end) {
    const uint8_t *from = r.at;
    tarn_mp_token_t t = {0};
    tarn_mp_reader_t peek = r;
    if (tarn_mp_skip(&r, 600) != 0) { r.at = r.end; } /* the rest as it is */
    bool token = tarn_mp_read(&peek, &t) == 0 && peek.at == r.at;
    if (token && t.kind == TARN_MP_NIL) {
      connect_one();
      continue;
    }
    bool raw = token && t.kind == TARN_MP_BIN;
    size_t length = raw ? t.length : (size_t)(r.at - from);
    uint8_t *bytes = malloc(length + 1);
    if (length > 0) { memcpy(bytes, raw ? t.bytes : from, length); }
    stranger_t *s = &g.strangers[g.count - 1];
    listen_to(s);
    fill_in(s, bytes, length);
    send_pieces(s->fd, bytes, length, how);
    turns(1);
    free(bytes);
  }
  turns(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool started;
  if (size < PREFIX) { return 0; }
  if (!started) { start(); }
  started = true;
  if (g.net && g.runs >= RUNS_A_NET) { close_net(); }
  if (!g.net) { open_net(); }
  g.runs++;
  random_state = 1;
  g.we_connect = (data[0] & 1) != 0;
  g.may_come_up = g.again = false;
  g.waiting = NULL;
  memset(g.tie, 0, sizeof g.tie);
  tarn_net_set_self(g.net, data[0] & 2 ? 0 : 1, 77);
  tarn_net_set_tls(g.net, data[0] & 4 ? TARN_TLS_ALWAYS : TARN_TLS_BEYOND);
  send_all(data + PREFIX, size - PREFIX, data[1]);
  close_all();
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  static const char *const words[] = {"hello",
                                      "prove",
                                      "auth.secret",
                                      "version",
                                      "role",
                                      "control",
                                      "bulk",
                                      "id",
                                      "incarnation",
                                      "os_pid",
                                      "want",
                                      "nonce",
                                      "bytecode",
                                      "host",
                                      "tie",
                                      "your_id",
                                      "your_incarnation",
                                      "proof",
                                      "net.bulk",
                                      "net.nobulk",
                                      "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP",
                                      "TTTTTTTTTTTTTTTT",
                                      "0.1.0",
                                      "gc64",
                                      NULL};
  return fuzz_mutate(data, size, max_size, seed, PREFIX, words);
}
