/* Fuzz target: what a proven peer may send (service/): every method that C serves, every notification, responses, loans, references and bulk
 * messages. The first byte says who we are and who sends: bit 0, we are a worker and it is the driver, else the other way round; bit 1, it is a
 * foreign client of the driver. Then come the frames, each given to the service as the net gives it:
 *   an extension 0x7f that holds an array of sizes makes a bulk message of the next frame, with blocks of these sizes,
 *   eight times 0xd1, 0xd2, 0xd3, 0xd4 stand for device and number of the files of memory (descriptor 200) and of spilled bytes (201) that the
 *   sender lends from.
 * What would be Lua's to do is done here: it answers requests with what they bring, and holds the references in it until the input has ended.
 * Objects 1 to 4 are there at the beginning. When a service is closed, nothing may be left of it. */
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "lib/loopback.h"
#include "lib/must.h"
#include "lib/mutate.h"
#include "service/service-private.h"

enum {
  PREFIX = 1,
  RUNS_A_SERVICE = 32,
  MEMORY_FD = 200,
  SPILL_FD = 201,
  FILE_BYTES = 1 << 18,
  SIZES_MAX = 8,
  HELD_MAX = 256,
  BULK_EXT = 0x7f,
  FIRST_MSGID = 100 /* of what the service asks for; 1 to 4: what Lua has asked for */
};
enum { TO_DRIVER, TO_WORKER, FROM_FOREIGN, MODES };

static struct {
  char address[TARN_NET_ADDRESS_BYTES]; /* of the service */
  uv_loop_t loop;
  tarn_pool_t *pool;
  tarn_service_t *service;
  pthread_mutex_t mutex; /* of `told` */
  tarn_service_t *told;  /* whom the pool's threads may tell */
  tarn_net_t *other;     /* the peer's net */
  tarn_peer_t *peer;     /* the service's */
  int foreign;           /* a client's socket; -1: none */
  int mode;
  uint8_t secret[TARN_SECRET_BYTES];
  uint64_t bytes_before;
  unsigned runs;
  bool spent; /* the service is to be closed after this input */
  tarn_event_t *events;
  tarn_held_t *held[HELD_MAX];
  uint32_t held_count;
} g = {.mutex = PTHREAD_MUTEX_INITIALIZER, .foreign = -1};

/* ---- the pool's callbacks ---- */

static void tell(void (*fn)(tarn_service_t *s)) {
  pthread_mutex_lock(&g.mutex);
  if (g.told) { fn(g.told); }
  pthread_mutex_unlock(&g.mutex);
}

static void on_room(void *user) {
  (void)user;
  tell(tarn_service_room);
}

static void on_lend(void *user) {
  (void)user;
  tell(tarn_service_lend);
}

static void on_pressure(void *user) {
  (void)user;
  tell(tarn_service_pressure);
}

static void on_id(void *user, uint64_t id) {
  (void)user;
  (void)id;
}

static void on_unguard(void *user, tarn_guard_t *guard) {
  (void)user;
  pthread_mutex_lock(&g.mutex);
  if (g.told) {
    tarn_service_unguard(g.told, guard);
  } else {
    tarn_free(guard);
  }
  pthread_mutex_unlock(&g.mutex);
}

/* ---- the service's, and those of the peer's net ---- */

static void on_wake(void *user) { (void)user; } /* the outbox is worked off after each frame */

static void on_end(void *user, const char *reason) {
  (void)user;
  (void)reason;
  g.spent = true;
}

static void on_overdue(void *user) { on_end(user, NULL); }

static int on_join(void *user, const tarn_net_identity_t *who, uint32_t *id,
                   uint64_t *incarnation) {
  (void)user;
  *id = 2;
  *incarnation = who->incarnation;
  return 0;
}

static void on_up(void *user, tarn_peer_t *peer) {
  (void)user;
  (void)peer;
}

static void on_down(void *user, tarn_peer_t *peer, const tarn_error_t *reason) {
  (void)user;
  (void)peer;
  (void)reason;
}

static void on_frame(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size) {
  (void)user;
  (void)peer;
  tarn_mp_reader_t r = {frame, frame + size};
  MUST(tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH + 25) == 0 && r.at == r.end);
}

static int on_bulk_begin(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
                         const uint64_t *sizes, uint32_t count, void **dest, void **token) {
  (void)user;
  (void)peer;
  (void)frame;
  (void)size;
  (void)sizes;
  (void)count;
  (void)dest;
  (void)token;
  return TARN_ENOMEM; /* dropped */
}

static void on_bulk(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                    int status) {
  (void)user;
  (void)peer;
  (void)frame;
  (void)size;
  (void)token;
  (void)status;
}

/* ---- open, close ---- */

static void open_file(int fd) {
  int made = memfd_create("lent", MFD_CLOEXEC);
  MUST(made >= 0 && ftruncate(made, FILE_BYTES) == 0 && dup3(made, fd, O_CLOEXEC) == fd);
  close(made);
}

static void put_object(const tarn_image_ref_t *ref, uint64_t block_size) {
  tarn_error_t err = {0};
  tarn_buf_t front;
  tarn_buf_init(&front, 4096);
  tarn_image_parts_t parts = {.skeleton = (const uint8_t *)"\x93\1\2\3",
                              .skeleton_size = 4,
                              .refs = ref,
                              .ref_count = ref ? 1 : 0,
                              .block_sizes = &block_size,
                              .block_count = block_size > 0 ? 1 : 0};
  tarn_block_t *block = NULL;
  tarn_value_t *v = NULL;
  MUST(tarn_image_compose(&parts, &front) == 0);
  if (block_size > 0) {
    front.data[5] |= 1; /* detached: image.h */
    MUST(tarn_block_create(g.pool, block_size, TARN_BLOCK_ZERO, &block, &err) == 0);
  }
  size_t size = 0;
  uint8_t *bytes = tarn_buf_detach(&front, &size);
  uint64_t id = 0;
  MUST(tarn_value_create(g.pool, bytes, size, &block, block_size > 0 ? 1 : 0, &v, &err) == 0);
  MUST(tarn_service_guard_value(g.service, v) == 0);
  MUST(tarn_pool_set_value(g.pool, v, 0, &id, &err) == 0);
  tarn_value_release(v);
}

/* The service's end of the connection; null: it is closed, or closing. */
static tarn_peer_t *find_peer(void) {
  size_t cursor = 0;
  uint64_t token = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&g.service->conns, &cursor, &token)) != NULL;) {
    if (c->up && c->foreign == (g.mode == FROM_FOREIGN) && !tarn_peer_gone(c->peer)) {
      return c->peer;
    }
  }
  return NULL;
}

/* address: where it listens, at least 64 bytes */
static void open_other(char *address) {
  tarn_error_t err = {0};
  tarn_net_config_t config = {
      .loop = &g.loop,
      .secret = g.secret,
      .self = {.id = g.mode == TO_WORKER ? TARN_DRIVER : 0, .incarnation = 9},
      .callbacks = {on_join, on_up, on_down, on_frame, on_bulk_begin, on_bulk, NULL},
      .bytecode = "gc64"};
  config.self.os_pid = getpid();
  tarn__lend_host(config.self.host, sizeof config.self.host);
  MUST(tarn_net_create(&config, &g.other, &err) == 0);
  MUST(tarn_net_listen(g.other, "127.0.0.1:0", address, 64, &err) == 0);
  fuzz_allow(address);
}

static void open_service(const char *driver) {
  tarn_error_t err = {0};
  tarn_service_config_t config = {.loop = &g.loop,
                                  .pool = g.pool,
                                  .secret = g.secret,
                                  .listen = "127.0.0.1:0",
                                  .driver = driver,
                                  .bytecode = "gc64",
                                  .life_fd = -1,
                                  .wake = on_wake,
                                  .on_orphan = on_end,
                                  .on_overdue = on_overdue};
  MUST(tarn_service_create(&config, &g.service, &err) == 0);
  g.told = g.service;
  tarn_service_address(g.service, g.address);
  fuzz_allow(g.address);
}

/* A client that says the secret. */
static void open_foreign(void) {
  char hello[128] = "\x94\0\1\xab"
                    "auth.secret\x91\xd9\x40";
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  sa.sin_port = htons((uint16_t)atoi(strrchr(g.address, ':') + 1));
  size_t head = 4 + 11 + 3;
  sodium_bin2hex(hello + head, sizeof hello - head, g.secret, sizeof g.secret);
  g.foreign = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  fuzz_connect(g.foreign, (struct sockaddr *)&sa, sizeof sa);
  MUST(send(g.foreign, hello, head + 64, MSG_NOSIGNAL) == (ssize_t)head + 64);
}

static void open_all(void) {
  tarn_error_t err = {0};
  g.bytes_before = tarn_alloc_bytes();
  tarn_pool_config_t config = {.max_memsize = 16u << 20,
                               .max_disksize = 64u << 20,
                               .spill_dir = "build/fuzz/spill",
                               .on_room = on_room,
                               .on_drop_live = on_id,
                               .on_lend = on_lend,
                               .on_deleted = on_id,
                               .on_unguard = on_unguard,
                               .on_pressure = on_pressure};
  char address[64];
  MUST(tarn_pool_create(&config, &g.pool, &err) == 0);
  open_other(address);
  open_service(g.mode == TO_WORKER ? address : NULL);
  tarn_peer_t *peer;
  if (g.mode == TO_DRIVER) {
    MUST(tarn_net_connect(g.other, g.address, 0, 0, &peer, &err) == 0);
  } else if (g.mode == FROM_FOREIGN) {
    open_foreign();
  }
  for (int i = 0; i < 10000 && !(g.peer = find_peer()); i++) { uv_run(&g.loop, UV_RUN_NOWAIT); }
  MUST(g.peer);
  put_object(NULL, 0);
  put_object(NULL, 70000);
  put_object(NULL, 100);
  put_object(&(tarn_image_ref_t){tarn_service_id(g.service), 1}, 0);
  g.runs = 0;
  g.spent = false;
}

static void on_closed(void *user) { *(bool *)user = true; }

static void close_all(void) {
  if (!g.service) { return; }
  pthread_mutex_lock(&g.mutex);
  g.told = NULL;
  pthread_mutex_unlock(&g.mutex);
  tarn_service_destroy(g.service);
  g.service = NULL;
  g.peer = NULL;
  bool closed = false;
  tarn_net_close(g.other, on_closed, &closed);
  while (!closed) { uv_run(&g.loop, UV_RUN_ONCE); }
  if (g.foreign >= 0) { close(g.foreign); }
  g.foreign = -1;
  tarn_pool_boundary(g.pool);
  tarn_pool_destroy(g.pool);
  MUST(tarn_alloc_bytes() == g.bytes_before);
}

/* ---- what Lua does ---- */

static int hold(void *user, const tarn_image_ref_t *ref) {
  (void)user;
  if (g.held_count == HELD_MAX) { return 0; }
  tarn_held_t *h = tarn_service_ref_open(g.service, ref->owner, ref->id, ref->owner);
  if (h) { g.held[g.held_count++] = h; }
  return 0;
}

static void hold_refs(const uint8_t *front, size_t size) {
  tarn_image_t im;
  if (tarn_image_open(front, size, &im, NULL) == 0) { (void)tarn_image_each_ref(&im, hold, NULL); }
}

static void answer(tarn_event_t *e) {
  tarn_payload_t p = {0};
  if (e->value) {
    tarn_value_retain(e->value);
    p.value = e->value;
  } else {
    p.front = e->bytes;
    p.front_size = e->size;
    p.guard = e->guard;
    e->bytes = NULL;
    e->guard = NULL;
  }
  (void)tarn_service_reply(g.service, e->token, e->msgid, e->method[0] != 'e', e->foreign, p);
}

static void do_events(void) {
  tarn_event_t *e = tarn_service_take_events(g.service);
  (void)tarn_service_wants_collection(g.service);
  for (tarn_event_t *next; e; e = next) {
    next = e->next;
    size_t size = e->size;
    const uint8_t *front = e->value ? tarn_value_front(e->value, &size) : e->bytes;
    if (front && !e->foreign) { hold_refs(front, size); }
    if (e->kind == TARN_EVENT_REQUEST) { answer(e); }
    if (e->kind == TARN_EVENT_STOP) { g.spent = true; }
    e->next = g.events; /* it and what hangs from it is there until the input has ended */
    g.events = e;
  }
}

static void let_go(void) {
  while (g.events) {
    tarn_event_t *e = g.events;
    g.events = e->next;
    tarn_event_free(e);
  }
  while (g.held_count > 0) { tarn_service_ref_close(g.service, g.held[--g.held_count]); }
}

static void turn(void) {
  uint8_t rest[4096];
  tarn_service_flush(g.service);
  uv_run(&g.loop, UV_RUN_NOWAIT);
  do_events();
  while (g.foreign >= 0 && recv(g.foreign, rest, sizeof rest, MSG_DONTWAIT) > 0) {}
}

/* ---- frames ---- */

static void fill_in(uint8_t *bytes, size_t size, uint8_t mark, uint64_t number) {
  for (size_t i = 0; i + 8 <= size; i++) {
    size_t n = 0;
    while (n < 8 && bytes[i + n] == mark) { n++; }
    if (n == 8) {
      for (int k = 0; k < 8; k++) { bytes[i + (size_t)k] = (uint8_t)(number >> (56 - 8 * k)); }
    }
  }
}

static void name_files(uint8_t *bytes, size_t size) {
  struct stat memory, spill;
  MUST(fstat(MEMORY_FD, &memory) == 0 && fstat(SPILL_FD, &spill) == 0);
  fill_in(bytes, size, 0xd1, memory.st_dev);
  fill_in(bytes, size, 0xd2, memory.st_ino);
  fill_in(bytes, size, 0xd3, spill.st_dev);
  fill_in(bytes, size, 0xd4, spill.st_ino);
}

/* Is it one that the net would hand over? */
static bool is_frame(const uint8_t *bytes, size_t size) {
  tarn_framer_t *f = tarn_framer_create(0, TARN_IMAGE_MAX_DEPTH + 24);
  size_t used = 0;
  bool is = tarn_framer_scan(f, bytes, size, &used, NULL) == 1 && used == size;
  tarn_framer_destroy(f);
  return is;
}

static void give_bulk(uint8_t *frame, size_t size, const uint64_t *sizes, uint32_t count) {
  void *dest[SIZES_MAX], *token = NULL;
  int rc =
      tarn__net_callbacks.on_bulk_begin(g.service, g.peer, frame, size, sizes, count, dest, &token);
  if (rc == TARN_EAGAIN) { return; } /* the net would ask again */
  for (uint32_t i = 0; rc == 0 && i < count; i++) {
    if (sizes[i] > 0) { memset(dest[i], 0xab, sizes[i]); }
  }
  tarn__net_callbacks.on_bulk(g.service, g.peer, frame, size, token, rc);
}

static uint32_t read_sizes(const tarn_mp_token_t *t, uint64_t *sizes) {
  tarn_mp_reader_t r = {t->bytes, t->bytes + t->length};
  uint32_t count = 0, n = 0;
  if (tarn_mp_read_array(&r, &count) != 0) { return 0; }
  while (n < count && n < SIZES_MAX && tarn_mp_read_uint(&r, INT64_MAX, &sizes[n]) == 0) { n++; }
  return n;
}

static void give_all(const uint8_t *data, size_t size) {
  tarn_mp_reader_t r = {data, data + size};
  uint64_t sizes[SIZES_MAX];
  uint32_t count = 0;
  bool bulk = false;
  while (r.at < r.end && (g.peer = find_peer())) {
    const uint8_t *from = r.at;
    tarn_mp_token_t t;
    tarn_mp_reader_t peek = r;
    if (tarn_mp_skip(&r, TARN_IMAGE_MAX_DEPTH + 25) != 0 || tarn_mp_read(&peek, &t) != 0) {
      return;
    }
    size_t length = (size_t)(r.at - from);
    if (t.kind == TARN_MP_EXT && t.ext_type == BULK_EXT) {
      count = read_sizes(&t, sizes);
      bulk = true;
      continue;
    }
    if (!is_frame(from, length)) { continue; }
    uint8_t *frame = malloc(length); /* of this size, so that a step beyond it is seen */
    memcpy(frame, from, length);
    name_files(frame, length);
    if (bulk && g.mode != FROM_FOREIGN) {
      give_bulk(frame, length, sizes, count);
    } else {
      tarn__net_callbacks.on_frame(g.service, g.peer, frame, length);
    }
    bulk = false;
    free(frame);
    turn();
  }
}

static void start(void) {
  setenv("TARN_LOG", "error", 0);
  MUST(sodium_init() >= 0 && uv_loop_init(&g.loop) == 0);
  open_file(MEMORY_FD);
  open_file(SPILL_FD);
  MUST(pwrite(MEMORY_FD, "tttttttttttttttt", TARN_LEND_TOKEN, 0) == TARN_LEND_TOKEN);
  atexit(close_all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool started;
  if (size < PREFIX) { return 0; }
  if (!started) { start(); }
  started = true;
  int mode = data[0] & 2 ? FROM_FOREIGN : data[0] & 1 ? TO_WORKER : TO_DRIVER;
  if (mode != g.mode || g.spent || g.runs >= RUNS_A_SERVICE) { close_all(); }
  g.mode = mode;
  if (!g.service) { open_all(); }
  g.runs++;
  if (g.service->fetches.count == 0) { atomic_store(&g.service->next_msgid, FIRST_MSGID); }
  for (uint64_t i = 1; i < 5; i++) { (void)tarn_map_set(&g.service->pending, i, (void *)3); }
  give_all(data + PREFIX, size - PREFIX);
  let_go();
  turn();
  turn();
  let_go();
  g.spent |= !find_peer();
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  static const char *const words[] = {"ping",
                                      "pool.get",
                                      "pool.get_all",
                                      "pool.set_all",
                                      "pool.delete_all",
                                      "pool.set",
                                      "pool.delete",
                                      "pool.stats",
                                      "pool.limits",
                                      "auth.secret",
                                      "stop",
                                      "lend.fetch",
                                      "lend.moved",
                                      "lend.ok",
                                      "lend.end",
                                      "lend.check",
                                      "serializer.get",
                                      "member.joined",
                                      "member.moved",
                                      "member.listen",
                                      "member.welcome",
                                      "member.up",
                                      "member.lost",
                                      "member.gone",
                                      "member.alive",
                                      "member.parted",
                                      "refs.hold",
                                      "refs.held",
                                      "refs.drop",
                                      "refs.got",
                                      "refs.done",
                                      "refs.fence",
                                      "refs.fenced",
                                      "refs.lost",
                                      "refs.moved",
                                      "refs.told",
                                      "refs.sync",
                                      "refs.ask",
                                      "refs.seen",
                                      "spread.get",
                                      "spread.done",
                                      "spread.end",
                                      "spread.leave",
                                      "call",
                                      "eval",
                                      "event.notify",
                                      "migrate",
                                      "1:1",
                                      "2:4",
                                      NULL};
  return fuzz_mutate(data, size, max_size, seed, PREFIX, words);
}
