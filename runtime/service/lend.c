/* Same machine, no copies, the owner's side: what is lent to whom, and until when. The other side is borrow.c, the bytes are pool/lend.c's.
 *
 * A value with large blocks that goes to a process of this machine is sent as an extension in place of its bin: the front, small blocks, and where
 * the large ones lie. What lends and borrows is told by the pool's notes (tarn_pool_lend_next), one notification for each run of the same kind.
 *
 * A loan outlives the connection that it was sent on: a process that has been stopped may still map what it was lent after its
 * connection is gone. Loans end by the borrower's word, or when a pidfd says that its process has ended, and so that nothing maps anything any more. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "service-private.h"

#define SMALL_MAX (1u << 20) /* bytes of small blocks that go along in the frame */
#define BLOCKS_MAX 4096u     /* more of them are better sent */
#define NOTICE_LIMIT (1u << 20)
#define STAT_STARTED 22 /* the field of /proc/PID/stat, from 1 */

/* A process that we have lent to. */
typedef struct holder {
  tarn_service_t *service;
  uint32_t pid;
  int pidfd;
  bool unable; /* it has said that it cannot map what is ours */
  bool again;  /* it is to be asked about its loans when there is a connection */
  uv_poll_t watch;
} holder_t;

/* ---- who is on the same machine ---- */

static void add_namespace(crypto_generichash_state *h, const char *path) {
  struct stat st = {0};
  uint64_t id[2] = {0};
  if (stat(path, &st) == 0) {
    id[0] = st.st_dev;
    id[1] = st.st_ino;
  }
  crypto_generichash_update(h, (const uint8_t *)id, sizeof(id));
}

void tarn__lend_host(char *text, size_t size) {
  char boot[64] = {0};
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, boot, sizeof(boot) - 1) : -1;
  if (fd >= 0) { close(fd); }
  text[0] = '\0';
  if (n <= 0) { return; }
  uint8_t digest[24];
  uint64_t uid = geteuid();
  crypto_generichash_state h;
  crypto_generichash_init(&h, NULL, 0, sizeof(digest));
  crypto_generichash_update(&h, (const uint8_t *)boot, sizeof(boot));
  crypto_generichash_update(&h, (const uint8_t *)&uid, sizeof(uid));
  add_namespace(&h, "/proc/self/ns/pid");
  add_namespace(&h, "/proc/self/ns/mnt");
  add_namespace(&h, "/proc/self/ns/user");
  crypto_generichash_final(&h, digest, sizeof(digest));
  if (size > sizeof(digest) * 2) { sodium_bin2hex(text, size, digest, sizeof(digest)); }
}

bool tarn__lend_same_host(tarn_service_t *s, const tarn_conn_t *c) {
  if (!c->up || c->foreign || c->pid == 0) { return false; }
  const char *mine = tarn_net_self(s->net)->host;
  return mine[0] != '\0' && strcmp(mine, tarn_peer_identity(c->peer)->host) == 0;
}

/* ---- holders ---- */

static void on_holder_closed(uv_handle_t *handle) {
  holder_t *h = handle->data;
  h->service->handles--;
  close(h->pidfd);
  tarn_free(h);
}

static void on_holder_gone(uv_poll_t *watch, int status, int events) {
  holder_t *h = watch->data;
  (void)status;
  (void)events;
  tarn_pool_lend_end_all(h->service->pool, h->pid);
  tarn_map_remove(&h->service->holders, h->pid);
  uv_poll_stop(watch);
  uv_close((uv_handle_t *)watch, on_holder_closed);
}

/* When that process was started, by tarn_clock_boot_ms; UINT64_MAX: not to be known. */
static uint64_t started_ms(int64_t os_pid) {
  char path[64], text[1024];
  snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)os_pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
  if (fd >= 0) { close(fd); }
  text[n > 0 ? n : 0] = '\0';
  const char *at = strrchr(text, ')'); /* after its name, which may have anything in it */
  for (int field = 2; at != NULL && field < STAT_STARTED; field++) { at = strchr(at + 1, ' '); }
  long hz = sysconf(_SC_CLK_TCK);
  return at != NULL && hz > 0 ? strtoull(at, NULL, 10) * 1000 / (uint64_t)hz : UINT64_MAX;
}

/* A descriptor of the process at the other end; -1: it is not to be had, or that number is another's by now, who has come after the connection. */
static int open_pidfd(const tarn_conn_t *c) {
  int64_t os_pid = tarn_peer_identity(c->peer)->os_pid;
  int fd = (int)syscall(SYS_pidfd_open, (pid_t)os_pid, 0);
  if (fd < 0 || started_ms(os_pid) <= c->up_ms) { return fd; }
  close(fd);
  return -1;
}

/* Null: its end could not be seen, so nothing can be lent to it. */
static holder_t *holder_of(tarn_service_t *s, const tarn_conn_t *c) {
  holder_t *h = tarn_map_get(&s->holders, c->pid);
  if (h != NULL) { return h; }
  h = tarn_calloc(1, sizeof(*h));
  if (h == NULL) { return NULL; }
  h->service = s;
  h->pid = c->pid;
  h->pidfd = open_pidfd(c);
  if (h->pidfd < 0 || tarn_map_set(&s->holders, h->pid, h) != 0) {
    if (h->pidfd >= 0) { close(h->pidfd); }
    tarn_free(h);
    return NULL;
  }
  (void)fcntl(h->pidfd, F_SETFD, FD_CLOEXEC);
  if (uv_poll_init(s->loop, &h->watch, h->pidfd) != 0) {
    tarn_map_remove(&s->holders, h->pid);
    close(h->pidfd);
    tarn_free(h);
    return NULL;
  }
  s->handles++;
  h->watch.data = h;
  uv_poll_start(&h->watch, UV_READABLE, on_holder_gone);
  return h;
}

/* ---- lending a payload ---- */

static bool worth_lending(const tarn_value_t *v) {
  uint64_t small = 0;
  bool large = false;
  uint32_t count = tarn_value_block_count(v);
  for (uint32_t i = 0; i < count; i++) {
    uint64_t size = tarn_value_block(v, i)->size;
    large |= size >= TARN_POOL_MAP_MIN;
    small += size < TARN_POOL_MAP_MIN ? size : 0;
  }
  return large && count <= BLOCKS_MAX && small <= SMALL_MAX;
}

static int write_source(tarn_buf_t *b, const tarn_lend_source_t *src) {
  int rc = tarn_mp_write_uint(b, (uint64_t)src->memory_fd);
  rc |= tarn_mp_write_uint(b, src->memory_dev);
  rc |= tarn_mp_write_uint(b, src->memory_ino);
  rc |= tarn_mp_write_uint(b, src->token_offset);
  rc |= tarn_mp_write_bin(b, src->token, sizeof(src->token));
  return rc;
}

/* The file's number, plus one: 0 is none. */
static int write_spill(tarn_buf_t *b, const tarn_lend_source_t *src) {
  int rc = tarn_mp_write_uint(b, (uint64_t)(src->spill_fd + 1));
  rc |= tarn_mp_write_uint(b, src->spill_dev);
  rc |= tarn_mp_write_uint(b, src->spill_ino);
  return rc;
}

static int write_loan(tarn_service_t *s, uint64_t loan, const tarn_value_t *v,
                      const tarn_lend_place_t *places, tarn_buf_t *b) {
  tarn_lend_source_t src;
  size_t size = 0;
  const uint8_t *front = tarn_value_front(v, &size);
  uint32_t count = tarn_value_block_count(v);
  if (tarn_pool_lend_source(s->pool, s->lend_token, &src, NULL) != 0) { return TARN_EIO; }
  int rc = tarn_mp_write_array(b, 11);
  rc |= tarn_mp_write_uint(b, loan);
  rc |= write_source(b, &src);
  rc |= write_spill(b, &src);
  rc |= tarn_mp_write_bin(b, front, size);
  rc |= tarn_mp_write_array(b, count);
  for (uint32_t i = 0; i < count && rc == 0; i++) {
    const tarn_block_t *block = tarn_value_block(v, i);
    rc = places[i].lent ? tarn_mp_write_uint(b, places[i].offset << 1 | places[i].in_file)
                        : tarn_mp_write_bin(b, block->data, (size_t)block->size);
  }
  return rc;
}

bool tarn__lend_append(tarn_service_t *s, tarn_conn_t *c, const tarn_value_t *v, tarn_buf_t *b,
                       uint64_t *loan) {
  if (!tarn__lend_same_host(s, c) || !worth_lending(v)) { return false; }
  holder_t *h = holder_of(s, c);
  if (h == NULL || h->unable) { return false; }
  tarn_lend_place_t *places = tarn_calloc(tarn_value_block_count(v), sizeof(*places));
  if (places == NULL) { return false; }
  tarn_buf_t inner;
  tarn_buf_init(&inner, b->limit);
  size_t before = b->size;
  bool lent =
      tarn_pool_lend(s->pool, (tarn_value_t *)(uintptr_t)v, c->pid, c->token, loan, places) == 0;
  bool ok = lent && write_loan(s, *loan, v, places, &inner) == 0 &&
            tarn_mp_write_ext_header(b, TARN_LOAN_EXT, inner.size) == 0 &&
            tarn_buf_append(b, inner.data, inner.size) == 0;
  if (ok) {
    atomic_fetch_add_explicit(&s->mapped_out_bytes, tarn_value_size(v), memory_order_relaxed);
  }
  if (lent && !ok) {
    tarn_pool_lend_end(s->pool, c->pid, *loan);
    b->size = before;
  }
  tarn_buf_release(&inner);
  tarn_free(places);
  return ok;
}

/* ---- fetches: the value itself, for who could not map it ---- */

/* One for which there is no room to load the value yet. */
typedef struct hungry {
  tarn_list_t link;
  uint64_t token, loan;
  uint32_t msgid;
  bool collected; /* Lua has been asked to collect its garbage for it */
} hungry_t;

/* False: it is to wait. */
static bool feed(tarn_service_t *s, tarn_conn_t *c, hungry_t *h) {
  tarn_error_t err = {0};
  tarn_payload_t p = {0};
  int rc = tarn_pool_lend_value(s->pool, c->pid, h->loan, &p.value, &err);
  if (rc == 0) {
    tarn__send_copy(s, c, h->msgid, p);
    return true;
  }
  if (tarn__room_may_come(s, rc, &h->collected)) { return false; }
  if (err.code == 0) { tarn_error_set(&err, rc, "no loan %llu", (unsigned long long)h->loan); }
  tarn__send_error(s, c, h->msgid, &err);
  return true;
}

void tarn__lend_serve_fetch(tarn_service_t *s, tarn_conn_t *c, uint32_t msgid, uint64_t loan,
                            bool unable) {
  holder_t *h = tarn_map_get(&s->holders, c->pid);
  if (h != NULL && unable && !h->unable) {
    h->unable = true;
    tarn_log(TARN_LOG_INFO, "process %u cannot map what is here: it gets copies", c->pid);
  }
  hungry_t first = {.token = c->token, .loan = loan, .msgid = msgid};
  if (feed(s, c, &first)) { return; }
  hungry_t *w = tarn_malloc(sizeof(*w));
  if (w == NULL) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for an answer", s->id);
    tarn__send_error(s, c, msgid, &err);
    return;
  }
  *w = first;
  tarn_list_push_back(&s->hungry, &w->link);
}

void tarn__lend_retry(tarn_service_t *s) {
  tarn_list_t list;
  tarn_list_init(&list);
  tarn_list_append(&list, &s->hungry);
  while (!tarn_list_empty(&list)) {
    hungry_t *w = TARN_CONTAINER(list.next, hungry_t, link);
    tarn_list_remove(&w->link);
    tarn_conn_t *c = tarn_map_get(&s->conns, w->token);
    if (c != NULL && !feed(s, c, w)) {
      tarn_list_push_back(&s->hungry, &w->link);
    } else {
      tarn_free(w);
    }
  }
}

/* ---- notes ---- */

static const char *const methods[] = {"lend.moved", "lend.ok", "lend.end", "lend.check"};

/* The connection for a note; a loan's own, so that it comes after the loan. */
static tarn_conn_t *conn_for(tarn_service_t *s, const tarn_lend_note_t *n) {
  bool own = n->kind == TARN_LEND_MOVED || n->kind == TARN_LEND_CHECK;
  tarn_conn_t *c = own ? tarn_map_get(&s->conns, n->tag) : NULL;
  tarn_error_t err = {0};
  if (c != NULL && c->pid == n->peer) { return c; }
  return tarn__member_conn(s, (uint32_t)n->peer,
                           &err); /* null: lost, and all ends with its process */
}

static void send_notes(tarn_service_t *s, const tarn_lend_note_t *n, uint32_t count,
                       tarn_buf_t *items) {
  tarn_conn_t *c = conn_for(s, n);
  tarn_lend_source_t src;
  tarn_buf_t b;
  tarn_buf_init(&b, NOTICE_LIMIT);
  bool moved = n->kind == TARN_LEND_MOVED;
  int rc = c != NULL ? tarn_mp_write_array(&b, count + (moved ? 3 : 0)) : TARN_ELOST;
  if (rc == 0 && moved) {
    rc = tarn_pool_lend_source(s->pool, s->lend_token, &src, NULL);
    if (rc == 0) { rc = write_spill(&b, &src); }
  }
  if (rc == 0) { rc = tarn_buf_append(&b, items->data, items->size); }
  if (rc == 0) {
    tarn__send_notice(s, c, methods[n->kind], &b);
  } else {
    if (c != NULL) {
      tarn_log(TARN_LOG_WARN, "out of memory: process %u is not told of its loans", c->pid);
    }
    tarn_buf_release(&b);
  }
  tarn_buf_clear(items);
}

static uint32_t write_note(tarn_buf_t *b, const tarn_lend_note_t *n) {
  uint32_t count = 1;
  int rc = tarn_mp_write_uint(b, n->loan);
  if (n->kind == TARN_LEND_MOVED || n->kind == TARN_LEND_IN_PLACE) {
    rc |= tarn_mp_write_uint(b, n->block);
    count++;
  }
  if (n->kind == TARN_LEND_MOVED) {
    rc |= tarn_mp_write_uint(b, n->offset);
    count++;
  }
  return rc == 0 ? count : 0;
}

static bool alike(const tarn_lend_note_t *a, const tarn_lend_note_t *b) {
  return a->kind == b->kind && a->peer == b->peer && a->tag == b->tag;
}

static void on_told(uv_async_t *async) {
  tarn_service_t *s = async->data;
  tarn_lend_note_t n, run = {0};
  uint32_t count = 0;
  tarn_buf_t items;
  tarn_buf_init(&items, NOTICE_LIMIT / 2);
  while (tarn_pool_lend_next(s->pool, &n)) {
    if (count > 0 && (!alike(&n, &run) || items.size > NOTICE_LIMIT / 4)) {
      send_notes(s, &run, count, &items);
      count = 0;
    }
    run = n;
    count += write_note(&items, &n);
  }
  if (count > 0) { send_notes(s, &run, count, &items); }
  tarn_buf_release(&items);
}

void tarn_service_lend(tarn_service_t *s) { uv_async_send(&s->told); }

void tarn__lend_conn_down(tarn_service_t *s, const tarn_conn_t *c) {
  holder_t *h = tarn_map_get(&s->holders, c->pid);
  if (h == NULL || s->stopping) { return; }
  h->again = !c->up; /* one that never was up is not tried again and again */
  if (c->up) { tarn_pool_lend_again(s->pool, c->pid); }
}

void tarn__lend_conn_up(tarn_service_t *s, const tarn_conn_t *c) {
  holder_t *h = tarn_map_get(&s->holders, c->pid);
  if (h == NULL || !h->again) { return; }
  h->again = false;
  tarn_pool_lend_again(s->pool, c->pid);
}

void tarn__lend_let_go(tarn_service_t *s, uint32_t pid) {
  holder_t *h = tarn_map_get(&s->holders, pid);
  if (h == NULL || h->unable || tarn_pool_lends_to(s->pool, pid)) { return; }
  tarn_map_remove(&s->holders, pid);
  uv_poll_stop(&h->watch);
  uv_close((uv_handle_t *)&h->watch, on_holder_closed);
}

/* [loan, ...] */
static void loans_asked(tarn_service_t *s, const tarn_conn_t *c, tarn_mp_reader_t *r) {
  uint64_t loan = 0;
  while (r->at < r->end && tarn_mp_read_uint(r, UINT64_MAX, &loan) == 0) {
    tarn_pool_borrow_check(s->pool, c->pid, loan);
  }
}

/* [loan, block, ...] or [loan, ...] */
static void loans_told(tarn_service_t *s, tarn_conn_t *c, bool moved, tarn_mp_reader_t *r) {
  uint64_t loan = 0, block = 0;
  while (r->at < r->end && tarn_mp_read_uint(r, UINT64_MAX, &loan) == 0) {
    if (!moved) {
      tarn_pool_lend_end(s->pool, c->pid, loan);
    } else if (tarn_mp_read_uint(r, UINT32_MAX, &block) == 0) {
      tarn_pool_lend_moved(s->pool, c->pid, loan, (uint32_t)block);
    }
  }
}

void tarn__lend_notice(tarn_service_t *s, tarn_conn_t *c, const char *method, tarn_mp_reader_t *r) {
  if (c->pid == 0) { return; }
  if (strcmp(method, methods[TARN_LEND_MOVED]) == 0) {
    tarn__borrow_moved(s, c, r);
  } else if (strcmp(method, methods[TARN_LEND_IN_PLACE]) == 0) {
    loans_told(s, c, true, r);
  } else if (strcmp(method, methods[TARN_LEND_RETURNED]) == 0) {
    loans_told(s, c, false, r);
  } else if (strcmp(method, methods[TARN_LEND_CHECK]) == 0) {
    loans_asked(s, c, r);
  }
}

/* ---- start, end ---- */

void tarn__lend_open(tarn_service_t *s) {
  randombytes_buf(s->lend_token, sizeof(s->lend_token));
  tarn_map_init(&s->holders);
  tarn_list_init(&s->hungry);
  uv_async_init(s->loop, &s->told, on_told);
  s->told.data = s;
  s->handles++;
}

static void on_told_closed(uv_handle_t *h) { ((tarn_service_t *)h->data)->handles--; }

void tarn__lend_close(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t pid = 0;
  for (holder_t *h; (h = tarn_map_next(&s->holders, &cursor, &pid)) != NULL;) {
    uv_close((uv_handle_t *)&h->watch,
             on_holder_closed); /* what they map stays: the pool ends without touching it */
  }
  tarn_map_clear(&s->holders);
  while (!tarn_list_empty(&s->hungry)) {
    hungry_t *w = TARN_CONTAINER(s->hungry.next, hungry_t, link);
    tarn_list_remove(&w->link);
    tarn_free(w);
  }
  uv_close((uv_handle_t *)&s->told, on_told_closed);
}
