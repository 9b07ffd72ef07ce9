/* Same machine, no copies, the borrower's side: a loan becomes a value whose blocks are the owner's memory or spill file, mapped. See lend.c.
 *
 * A lender's files are opened through /proc/PID/fd, for reading, once a process. The directory is opened first and stays bound to that very
 * process; that it is the right one is proved by a random token in its memory, and each file by what the owner's fstat says of it. Whatever
 * fails, the whole value is asked for instead (lend.fetch), and comes by TCP like any other; the message waits for it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "service-private.h"

/* A process whose bytes we map. */
typedef struct lender {
  int dir_fd, memory_fd, spill_fd; /* owned; -1: not open */
  uint64_t spill_dev, spill_ino;
} lender_t;

typedef struct loan {
  uint64_t id;
  tarn_lend_source_t source;
  const uint8_t *front;
  uint32_t front_size, block_count;
  tarn_mp_reader_t blocks;
} loan_t;

/* A message that waits for its value. */
typedef struct fetch {
  uint64_t token; /* of its connection */
  uint64_t loan;
  tarn_borrow_t
      *borrow; /* open until the value is here, so that the loan is not returned; may be null */
  size_t size;
  uint8_t frame[];
} fetch_t;

/* ---- a lender's files ---- */

static void close_fd(int *fd) {
  if (*fd >= 0) { close(*fd); }
  *fd = -1;
}

static int open_fd(const lender_t *l, int number, uint64_t dev, uint64_t ino) {
  char name[16];
  struct stat st;
  snprintf(name, sizeof(name), "%d", number);
  int fd = openat(l->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) { return -1; }
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_dev == dev && st.st_ino == ino) {
    return fd;
  }
  close(fd);
  return -1;
}

static void close_lender(lender_t *l) {
  close_fd(&l->dir_fd);
  close_fd(&l->memory_fd);
  close_fd(&l->spill_fd);
}

static bool open_lender(lender_t *l, int64_t os_pid, const tarn_lend_source_t *src) {
  char path[64];
  uint8_t token[TARN_LEND_TOKEN];
  snprintf(path, sizeof(path), "/proc/%lld/fd", (long long)os_pid);
  l->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (l->dir_fd >= 0) {
    l->memory_fd = open_fd(l, src->memory_fd, src->memory_dev, src->memory_ino);
  }
  if (l->memory_fd >= 0 &&
      pread(l->memory_fd, token, sizeof(token), (off_t)src->token_offset) ==
          (ssize_t)sizeof(token) &&
      memcmp(token, src->token, sizeof(token)) == 0) {
    return true;
  }
  close_lender(l);
  return false;
}

/* Null: it cannot be. A lender that could not be opened is remembered as one without files. */
static lender_t *lender_of(tarn_service_t *s, tarn_conn_t *c, const tarn_lend_source_t *src) {
  lender_t *l = tarn_map_get(&s->lenders, c->pid);
  if (l == NULL) {
    l = tarn_malloc(sizeof(*l));
    if (l == NULL) { return NULL; }
    *l = (lender_t){-1, -1, -1, 0, 0};
    if (tarn_map_set(&s->lenders, c->pid, l) != 0) {
      tarn_free(l);
      return NULL;
    }
    if (!open_lender(l, tarn_peer_identity(c->peer)->os_pid, src)) {
      tarn_log(TARN_LOG_INFO, "the memory of process %u cannot be mapped: copies are made", c->pid);
    }
  }
  return l->memory_fd >= 0 ? l : NULL;
}

static bool open_spill(lender_t *l, int number, uint64_t dev, uint64_t ino) {
  if (l->spill_fd < 0) { l->spill_fd = open_fd(l, number, dev, ino); }
  if (l->spill_fd < 0) { return false; }
  l->spill_dev = l->spill_dev != 0 || l->spill_ino != 0 ? l->spill_dev : dev;
  l->spill_ino = l->spill_ino != 0 ? l->spill_ino : ino;
  return l->spill_dev == dev && l->spill_ino == ino; /* a process has but one */
}

/* ---- reading a loan ---- */

static int read_fd(tarn_mp_reader_t *r, uint64_t most, int *fd) {
  uint64_t n = 0;
  if (tarn_mp_read_uint(r, most, &n) != 0) { return TARN_EPROTO; }
  *fd = (int)n;
  return 0;
}

static int read_spill(tarn_mp_reader_t *r, tarn_lend_source_t *src) {
  if (read_fd(r, INT32_MAX, &src->spill_fd) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &src->spill_dev) != 0 ||
      tarn_mp_read_uint(r, UINT64_MAX, &src->spill_ino) != 0) {
    return TARN_EPROTO;
  }
  src->spill_fd--;
  return 0;
}

static int read_loan(const uint8_t *bytes, size_t size, loan_t *l) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  tarn_lend_source_t *src = &l->source;
  const uint8_t *token = NULL;
  uint32_t count = 0, length = 0;
  if (tarn_mp_read_array(&r, &count) != 0 || count != 11 ||
      tarn_mp_read_uint(&r, UINT64_MAX, &l->id) != 0 ||
      read_fd(&r, INT32_MAX, &src->memory_fd) != 0 ||
      tarn_mp_read_uint(&r, UINT64_MAX, &src->memory_dev) != 0 ||
      tarn_mp_read_uint(&r, UINT64_MAX, &src->memory_ino) != 0 ||
      tarn_mp_read_uint(&r, INT64_MAX, &src->token_offset) != 0 ||
      tarn_mp_read_bytes(&r, &token, &length) != 0 || length != TARN_LEND_TOKEN ||
      read_spill(&r, src) != 0 || tarn_mp_read_bytes(&r, &l->front, &l->front_size) != 0 ||
      tarn_mp_read_array(&r, &l->block_count) != 0) {
    return TARN_EPROTO;
  }
  memcpy(src->token, token, TARN_LEND_TOKEN);
  l->blocks = r;
  return 0;
}

/* ---- borrowing ---- */

/* The next block of the loan, of the size that its front says. */
static int take_block(tarn_service_t *s, lender_t *from, loan_t *l, tarn_borrow_t *w,
                      uint32_t index, uint64_t size, tarn_block_t **out, tarn_error_t *err) {
  tarn_mp_token_t t;
  int rc = tarn_mp_read(&l->blocks, &t);
  if (rc == 0 && t.kind == TARN_MP_BIN && t.length == size) {
    rc = tarn_block_create(s->pool, size, 0, out, err);
    if (rc == 0) { memcpy((*out)->data, t.bytes, t.length); }
    return rc;
  }
  if (rc != 0 || t.kind != TARN_MP_UINT || size < TARN_POOL_MAP_MIN) {
    return tarn_error_set(err, TARN_EPROTO, "a loan whose block %u is not what its value says",
                          index);
  }
  const tarn_lend_source_t *src = &l->source;
  bool in_file = (t.v.u & 1) != 0;
  if (in_file && !open_spill(from, src->spill_fd, src->spill_dev, src->spill_ino)) {
    return tarn_error_set(err, TARN_EIO, "the spill file of another process cannot be opened");
  }
  return tarn_pool_borrow_block(s->pool, w, index, in_file ? from->spill_fd : from->memory_fd,
                                t.v.u >> 1, size, out, err);
}

static tarn_value_t *borrow_value(tarn_service_t *s, lender_t *from, loan_t *l, tarn_borrow_t *w,
                                  tarn_error_t *err) {
  tarn_image_t im;
  tarn_value_t *v = NULL;
  uint64_t mapped = 0;
  if (tarn_image_open(l->front, l->front_size, &im, err) != 0) { return NULL; }
  if (!im.detached || im.block_count != l->block_count) {
    tarn_error_set(err, TARN_EPROTO, "a loan of %u blocks whose value has %u", l->block_count,
                   im.block_count);
    return NULL;
  }
  uint8_t *front = tarn_malloc(l->front_size);
  tarn_block_t **blocks = tarn_calloc(l->block_count, sizeof(*blocks));
  uint32_t made = 0;
  int rc = front != NULL && blocks != NULL
               ? 0
               : tarn_error_set(err, TARN_ENOMEM, "out of memory for a loan");
  for (; rc == 0 && made < l->block_count; made += rc == 0) {
    uint64_t size = tarn_image_block_size(&im, made);
    rc = take_block(s, from, l, w, made, size, &blocks[made], err);
    mapped += size >= TARN_POOL_MAP_MIN ? size : 0;
  }
  if (rc == 0) {
    memcpy(front, l->front, l->front_size);
    rc = tarn_value_create(s->pool, front, l->front_size, blocks, l->block_count, &v, err);
  }
  if (rc == 0) {
    (void)tarn_pool_visit(s->pool, v); /* its small parts can be evicted while a job looks at it */
    atomic_fetch_add(&s->mapped_in_bytes, mapped);
    atomic_fetch_add(&s->mapped_in_count, 1);
    front = NULL;
    made = 0;
  }
  for (uint32_t i = 0; i < made; i++) {
    tarn_block_unmap(blocks[i]);
    tarn_block_release(blocks[i]);
  }
  tarn_free(blocks);
  tarn_free(front);
  return v;
}

/* ---- what is fetched because it could not be mapped ---- */

static void end_fetch(tarn_service_t *s, fetch_t *f) {
  if (f->borrow != NULL) {
    tarn_pool_borrow_end(s->pool, f->borrow); /* then the pool's note returns the loan */
  } else {
    tarn_conn_t *c = tarn_map_get(&s->conns, f->token);
    tarn_buf_t b;
    tarn_buf_init(&b, 64);
    if (c != NULL && tarn_mp_write_array(&b, 1) == 0 && tarn_mp_write_uint(&b, f->loan) == 0) {
      tarn__send_notice(s, c, "lend.end", &b);
    }
    tarn_buf_release(&b);
  }
  tarn_free(f);
}

static int fetch(tarn_service_t *s, tarn_conn_t *c, const loan_t *l, tarn_borrow_t *w, bool unable,
                 const uint8_t *frame, size_t size) {
  fetch_t *f = tarn_malloc(sizeof(*f) + size);
  if (f == NULL) { return TARN_ENOMEM; }
  *f = (fetch_t){.token = c->token, .loan = l->id, .borrow = w, .size = size};
  memcpy(f->frame, frame, size);
  uint32_t msgid = tarn__new_msgid(s);
  if (tarn_map_set(&s->fetches, msgid, f) != 0) {
    tarn_free(f);
    return TARN_ENOMEM;
  }
  tarn_out_t o = {.kind = OUT_REQUEST, .msgid = msgid, .plain = true, .method = "lend.fetch"};
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  int rc = tarn_mp_write_array(&b, 2);
  rc |= tarn_mp_write_uint(&b, l->id);
  rc |= tarn_mp_write_bool(&b, unable);
  o.params = b.data;
  o.params_size = b.size;
  if (rc == 0) { tarn__send_request(s, c, &o); }
  tarn_buf_release(&b);
  if (rc != 0) {
    tarn_map_remove(&s->fetches, msgid);
    tarn_free(f);
  }
  return rc;
}

bool tarn__borrow_fetched(tarn_service_t *s, uint32_t msgid, tarn_value_t *value,
                          const tarn_error_t *why) {
  fetch_t *f = tarn_map_remove(&s->fetches, msgid);
  if (f == NULL) { return false; }
  tarn_conn_t *c = tarn_map_get(&s->conns, f->token);
  tarn_error_t err = {0};
  if (value == NULL) {
    static const char what[] = "a value that was lent could not be fetched";
    if (why != NULL) {
      tarn_error_wrap(&err, why, what);
    } else {
      tarn_error_set(&err, TARN_EIO, what);
    }
  }
  if (c != NULL) {
    tarn__frame_again(s, c, f->frame, f->size, value, &err);
  } else if (value != NULL) {
    tarn_value_release(value);
  }
  end_fetch(s, f);
  return true;
}

void tarn__borrow_conn_down(tarn_service_t *s, const tarn_conn_t *c) {
  size_t cursor = 0;
  uint64_t msgid = 0;
  for (fetch_t *f; (f = tarn_map_next(&s->fetches, &cursor, &msgid)) != NULL;) {
    if (f->token != c->token) { continue; }
    tarn_map_remove(&s->fetches, msgid);
    end_fetch(s, f);
    cursor = 0;
  }
}

/* ---- messages ---- */

int tarn__borrow(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size,
                 const uint8_t *frame, size_t frame_size, tarn_value_t **v) {
  loan_t l = {0};
  tarn_error_t err = {0};
  *v = NULL;
  if (c->pid == 0 || read_loan(bytes, size, &l) != 0) { return TARN_EPROTO; }
  lender_t *from = tarn__lend_same_host(s, c) ? lender_of(s, c, &l.source) : NULL;
  tarn_borrow_t *w =
      from != NULL ? tarn_pool_borrow_begin(s->pool, c->pid, l.id, l.block_count) : NULL;
  if (w != NULL) { *v = borrow_value(s, from, &l, w, &err); }
  if (*v != NULL) {
    tarn_pool_borrow_end(s->pool, w);
    return 0;
  }
  if (err.code == TARN_EPROTO || err.code == TARN_ECORRUPT) {
    if (w != NULL) { tarn_pool_borrow_end(s->pool, w); }
    return TARN_EPROTO;
  }
  int rc = fetch(s, c, &l, w, from == NULL, frame, frame_size);
  if (rc != 0 && w != NULL) { tarn_pool_borrow_end(s->pool, w); }
  return rc;
}

/* [spill file's number, dev, ino, loan, block, offset, ...] */
void tarn__borrow_moved(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *r) {
  tarn_lend_source_t src;
  uint64_t loan = 0, block = 0, offset = 0;
  lender_t *l = tarn_map_get(&s->lenders, c->pid);
  if (l == NULL || l->memory_fd < 0 || read_spill(r, &src) != 0) { return; }
  if (!open_spill(l, src.spill_fd, src.spill_dev, src.spill_ino)) {
    tarn_log(TARN_LOG_INFO, "the spill file of process %u cannot be opened", c->pid);
    return; /* what is mapped stays as it is, and its owner keeps it */
  }
  (void)tarn__collect_garbage(s); /* perhaps it is not even looked at any more */
  while (r->at < r->end && tarn_mp_read_uint(r, UINT64_MAX, &loan) == 0 &&
         tarn_mp_read_uint(r, UINT32_MAX, &block) == 0 &&
         tarn_mp_read_uint(r, INT64_MAX, &offset) == 0) {
    tarn_pool_borrow_moved(s->pool, c->pid, loan, (uint32_t)block, l->spill_fd, offset);
  }
}

void tarn__borrow_forget(tarn_service_t *s, uint32_t pid) {
  lender_t *l = tarn_map_remove(&s->lenders, pid);
  tarn_pool_borrow_forget(s->pool, pid);
  if (l == NULL) { return; }
  close_lender(l); /* what is mapped stays mapped */
  tarn_free(l);
}

void tarn__borrow_let_go(tarn_service_t *s, uint32_t pid) {
  lender_t *l = tarn_map_get(&s->lenders, pid);
  if (l == NULL || l->memory_fd < 0 || s->fetches.count > 0 ||
      tarn_pool_borrows_from(s->pool, pid)) {
    return;
  }
  tarn_map_remove(&s->lenders, pid);
  close_lender(l);
  tarn_free(l);
}

void tarn__borrow_close(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t key = 0;
  for (lender_t *l; (l = tarn_map_next(&s->lenders, &cursor, &key)) != NULL;) {
    close_lender(l);
    tarn_free(l);
  }
  tarn_map_clear(&s->lenders);
  cursor = 0;
  for (fetch_t *f; (f = tarn_map_next(&s->fetches, &cursor, &key)) != NULL;) {
    if (f->borrow != NULL) { tarn_pool_borrow_end(s->pool, f->borrow); }
    tarn_free(f);
  }
  tarn_map_clear(&s->fetches);
}
