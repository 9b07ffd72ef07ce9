/* Transfers by libcurl's multi interface: the sockets that it names lie in an epoll descriptor, and so does a timer, set to when it wants to be called or, while
 * there are transfers, to the next tick. At a tick each transfer that has not moved has been silent for as long as the tick was; a tick that comes late, since the thread
 * was busy elsewhere, counts no more than TICK_MAX_MS, so that a job that computes for a minute does not make a store look silent. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/version.h"
#include "net/curl-private.h"
#include "net/fetch.h"

#define TICK_MS 250u
#define TICK_MAX_MS 1000u
#define NEVER UINT64_MAX
#define EVENTS_AT_ONCE 32
#define TURNS_MAX 16 /* of epoll in one call */
#define BUFFER_BYTES (256L << 10)
#define IDLE_CONNECTIONS 16L

typedef struct transfer {
  tarn_fetch_reply_t reply; /* first: what Lua is handed */
  tarn_list_t link;         /* of active, or of ended */
  tarn_fetch_t *fetch;
  CURL *easy;                 /* owned */
  struct curl_slist *headers; /* owned */
  tarn_fetch_request_t request;
  uint64_t sent;      /* of the body: where libcurl reads on */
  uint64_t silent_ms; /* without a byte */
  bool moved;         /* since the last tick */
  bool overflow;      /* more came than was asked for */
  char why[CURL_ERROR_SIZE];
} transfer_t;

struct tarn_fetch {
  tarn__curl_t curl;
  CURLM *multi;
  int epoll, timer;
  uint64_t curl_due_ms, tick_due_ms, last_tick_ms; /* NEVER: not wanted */
  uint64_t last;                                   /* number given */
  tarn_list_t active, ended;
};

/* ---- what libcurl calls ---- */

static size_t on_send(char *to, size_t size, size_t count, void *user) {
  transfer_t *t = user;
  uint64_t left = t->request.body_size - t->sent;
  size_t n = size * count < left ? size * count : (size_t)left;
  if (n > 0) { t->request.read(t->request.user, t->sent, to, n); }
  t->sent += n;
  t->moved = true;
  return n;
}

/* A connection that was kept turned out to be closed: from the beginning, on another. */
static int on_seek(void *user, curl_off_t offset, int origin) {
  transfer_t *t = user;
  if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->request.body_size) {
    return CURL_SEEKFUNC_CANTSEEK;
  }
  t->sent = (uint64_t)offset;
  return CURL_SEEKFUNC_OK;
}

static int status_of(transfer_t *t) {
  long status = 0;
  t->fetch->curl.easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  return (int)status;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user) {
  transfer_t *t = user;
  size_t n = size * count;
  t->moved = true;
  if (t->request.write == NULL || status_of(t) != t->request.write_status) {
    size_t room = TARN_FETCH_TEXT_MAX - t->reply.text.size;
    int rc = tarn_buf_append(&t->reply.text, bytes, n < room ? n : room);
    return rc == 0 ? n : 0;
  }
  t->overflow = n > t->request.write_max - t->reply.written;
  if (t->overflow) { return 0; }
  t->request.write(t->request.user, t->reply.written, bytes, n);
  t->reply.written += n;
  return n;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *user) {
  transfer_t *t = user;
  size_t n = size * count;
  t->moved = true;
  if (n >= 5 && memcmp(bytes, "HTTP/", 5) == 0) {
    tarn_buf_clear(&t->reply.headers);
  } /* after 100 */
  return tarn_buf_append(&t->reply.headers, bytes, n) == 0 ? n : 0;
}

/* No child that is started meanwhile inherits it. */
static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *a) {
  (void)user;
  (void)purpose;
  return socket(a->family, a->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->protocol);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known) {
  tarn_fetch_t *f = user;
  (void)easy;
  if (what == CURL_POLL_REMOVE) {
    (void)epoll_ctl(f->epoll, EPOLL_CTL_DEL, fd, NULL);
    return 0;
  }
  struct epoll_event e = {.data.fd = fd};
  if (what & CURL_POLL_IN) { e.events |= EPOLLIN; }
  if (what & CURL_POLL_OUT) { e.events |= EPOLLOUT; }
  (void)known;
  if (epoll_ctl(f->epoll, EPOLL_CTL_MOD, fd, &e) == 0 || errno != ENOENT) { return 0; }
  return epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -1;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user) {
  tarn_fetch_t *f = user;
  (void)multi;
  f->curl_due_ms = timeout_ms < 0 ? NEVER : tarn_clock_ms() + (uint64_t)timeout_ms;
  return 0;
}

/* ---- transfers ---- */

static void transfer_free(transfer_t *t) {
  if (t->easy != NULL) { t->fetch->curl.easy_cleanup(t->easy); }
  t->fetch->curl.slist_free_all(t->headers);
  tarn_buf_release(&t->reply.headers);
  tarn_buf_release(&t->reply.text);
  tarn_list_remove(&t->link);
  tarn_free(t);
}

/* Will the same request, sent again, perhaps meet better luck? */
static bool is_passing(CURLcode code) {
  switch (code) {
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
  case CURLE_COULDNT_CONNECT:
  case CURLE_PARTIAL_FILE:
  case CURLE_UPLOAD_FAILED:
  case CURLE_OPERATION_TIMEDOUT:
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_SEND_FAIL_REWIND:
    return true;
  default:
    return false;
  }
}

static void end(transfer_t *t, int code, bool passing, const char *message) {
  t->reply.status = status_of(t);
  t->reply.code = code;
  t->reply.passing = passing;
  snprintf(t->reply.message, sizeof t->reply.message, "%s", message);
  t->fetch->curl.multi_remove_handle(t->fetch->multi, t->easy);
  tarn_list_remove(&t->link);
  tarn_list_push_back(&t->fetch->ended, &t->link);
}

static void end_by_curl(transfer_t *t, CURLcode code) {
  if (code == CURLE_OK) {
    end(t, 0, false, "");
  } else if (t->overflow) {
    end(t, TARN_EIO, false, "more bytes came than were asked for");
  } else if (code == CURLE_OUT_OF_MEMORY || code == CURLE_WRITE_ERROR) {
    end(t, TARN_ENOMEM, false, "out of memory for a response"); /* of a body without write */
  } else {
    end(t, TARN_EIO, is_passing(code),
        t->why[0] != '\0' ? t->why : t->fetch->curl.easy_strerror(code));
  }
}

static bool set_body(transfer_t *t) {
  const tarn__curl_t *c = &t->fetch->curl;
  if (t->request.read == NULL) {
    if (strcmp(t->request.method, "HEAD") == 0) {
      return c->easy_setopt(t->easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
    }
    return true;
  }
  return c->easy_setopt(t->easy, CURLOPT_UPLOAD, 1L) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)t->request.body_size) ==
             CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_READFUNCTION, on_send) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_READDATA, t) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_SEEKFUNCTION, on_seek) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_SEEKDATA, t) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_UPLOAD_BUFFERSIZE, BUFFER_BYTES) == CURLE_OK;
}

static bool set_headers(transfer_t *t) {
  const tarn__curl_t *c = &t->fetch->curl;
  for (size_t i = 0; i < t->request.header_count; i++) {
    struct curl_slist *more = c->slist_append(t->headers, t->request.headers[i]);
    if (more == NULL) { return false; }
    t->headers = more;
  }
  return c->easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK;
}

static bool set_identity(transfer_t *t) {
  const tarn__curl_t *c = &t->fetch->curl;
  const tarn_fetch_request_t *r = &t->request;
  return (r->sign == NULL || c->easy_setopt(t->easy, CURLOPT_AWS_SIGV4, r->sign) == CURLE_OK) &&
         (r->user_key == NULL ||
          c->easy_setopt(t->easy, CURLOPT_USERPWD, r->user_key) == CURLE_OK) &&
         (r->ca_file == NULL || c->easy_setopt(t->easy, CURLOPT_CAINFO, r->ca_file) == CURLE_OK);
}

/* libcurl's own limits on time are not used: see the top. */
static bool set_rest(transfer_t *t) {
  const tarn__curl_t *c = &t->fetch->curl;
  char agent[64];
  snprintf(agent, sizeof agent, "tarn/%s", tarn_version);
  const struct {
    CURLoption option;
    long value;
  } numbers[] = {{CURLOPT_NOSIGNAL, 1},
                 {CURLOPT_PATH_AS_IS, 1},
                 {CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1},
                 {CURLOPT_BUFFERSIZE, BUFFER_BYTES},
                 {CURLOPT_TCP_KEEPALIVE, 1}};
  const struct {
    CURLoption option;
    const void *value;
  } pointers[] = {{CURLOPT_URL, t->request.url}, {CURLOPT_CUSTOMREQUEST, t->request.method},
                  {CURLOPT_USERAGENT, agent},    {CURLOPT_PROTOCOLS_STR, "http,https"},
                  {CURLOPT_ERRORBUFFER, t->why}, {CURLOPT_PRIVATE, t},
                  {CURLOPT_WRITEDATA, t},        {CURLOPT_HEADERDATA, t}};
  bool good = true;
  for (size_t i = 0; good && i < sizeof numbers / sizeof numbers[0]; i++) {
    good = c->easy_setopt(t->easy, numbers[i].option, numbers[i].value) == CURLE_OK;
  }
  for (size_t i = 0; good && i < sizeof pointers / sizeof pointers[0]; i++) {
    good = c->easy_setopt(t->easy, pointers[i].option, pointers[i].value) == CURLE_OK;
  }
  return good && c->easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
         c->easy_setopt(t->easy, CURLOPT_OPENSOCKETFUNCTION, on_open) == CURLE_OK;
}

static void set_timer(tarn_fetch_t *f);

int tarn_fetch_start(tarn_fetch_t *f, const tarn_fetch_request_t *request, uint64_t *number,
                     tarn_error_t *err) {
  transfer_t *t = tarn_calloc(1, sizeof *t);
  if (t == NULL) { return tarn_error_set(err, TARN_ENOMEM, "no memory for a transfer"); }
  tarn_list_init(&t->link);
  tarn_buf_init(&t->reply.headers, (size_t)1 << 18);
  tarn_buf_init(&t->reply.text, TARN_FETCH_TEXT_MAX);
  t->fetch = f;
  t->request = *request;
  t->reply.user = request->user;
  t->easy = f->curl.easy_init();
  bool good = t->easy != NULL && set_body(t) && set_rest(t) && set_headers(t) && set_identity(t);
  if (!good || f->curl.multi_add_handle(f->multi, t->easy) != CURLM_OK) {
    transfer_free(t);
    return tarn_error_set(err, TARN_EINVAL, "libcurl refuses the request %s %.200s",
                          request->method, request->url);
  }
  t->request.method = t->request.url = t->request.sign = NULL; /* libcurl has copies of its own */
  t->request.user_key = t->request.ca_file = NULL;
  t->request.headers = NULL;
  t->reply.number = *number = ++f->last;
  if (tarn_list_empty(&f->active)) {
    f->last_tick_ms = tarn_clock_ms();
    f->tick_due_ms = f->last_tick_ms + TICK_MS;
  }
  tarn_list_push_back(&f->active, &t->link);
  set_timer(f);
  return 0;
}

bool tarn_fetch_cancel(tarn_fetch_t *f, uint64_t number) {
  tarn_list_t *const lists[] = {&f->active, &f->ended};
  for (size_t i = 0; i < 2; i++) {
    for (tarn_list_t *l = lists[i]->next; l != lists[i]; l = l->next) {
      transfer_t *t = TARN_CONTAINER(l, transfer_t, link);
      if (t->reply.number != number) { continue; }
      if (i == 0) { f->curl.multi_remove_handle(f->multi, t->easy); }
      transfer_free(t);
      set_timer(f);
      return true;
    }
  }
  return false;
}

/* ---- time ---- */

static void set_timer(tarn_fetch_t *f) {
  if (tarn_list_empty(&f->active)) { f->tick_due_ms = NEVER; }
  uint64_t due = f->curl_due_ms < f->tick_due_ms ? f->curl_due_ms : f->tick_due_ms;
  struct itimerspec when = {{0, 0}, {0, 0}}; /* disarmed */
  if (due != NEVER) {
    uint64_t now = tarn_clock_ms(), left = due > now ? due - now : 0;
    when.it_value.tv_sec = (time_t)(left / 1000);
    when.it_value.tv_nsec = left > 0 ? (long)(left % 1000) * 1000000 : 1;
  }
  (void)timerfd_settime(f->timer, 0, &when, NULL);
}

static void tick(tarn_fetch_t *f, uint64_t now) {
  uint64_t passed = now - f->last_tick_ms;
  if (passed > TICK_MAX_MS) { passed = TICK_MAX_MS; }
  f->last_tick_ms = now;
  f->tick_due_ms = now + TICK_MS;
  for (tarn_list_t *l = f->active.next, *next; l != &f->active; l = next) {
    next = l->next;
    transfer_t *t = TARN_CONTAINER(l, transfer_t, link);
    t->silent_ms = t->moved ? 0 : t->silent_ms + passed;
    t->moved = false;
    if (t->request.silence_ms == 0 || t->silent_ms < t->request.silence_ms) { continue; }
    char message[128];
    snprintf(message, sizeof message, "not a byte for %g s", (double)t->request.silence_ms / 1000);
    end(t, TARN_ETIMEDOUT, true, message);
  }
}

/* ---- running ---- */

static void collect(tarn_fetch_t *f) {
  CURLMsg *m;
  int left;
  while ((m = f->curl.multi_info_read(f->multi, &left)) != NULL) {
    transfer_t *t = NULL;
    if (m->msg != CURLMSG_DONE) { continue; }
    CURLcode code = m->data.result; /* m is gone with its handle */
    f->curl.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
    if (t != NULL) { end_by_curl(t, code); }
  }
}

/* False: nothing was to be done. */
static bool turn(tarn_fetch_t *f, int timeout_ms) {
  struct epoll_event events[EVENTS_AT_ONCE];
  int n = epoll_wait(f->epoll, events, EVENTS_AT_ONCE, timeout_ms), running;
  bool did = false;
  for (int i = 0; i < n; i++) {
    uint64_t expirations;
    if (events[i].data.fd == f->timer) {
      (void)!read(f->timer, &expirations, sizeof expirations);
      continue;
    }
    uint32_t e = events[i].events;
    int what = (e & EPOLLIN ? CURL_CSELECT_IN : 0) | (e & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
               (e & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
    f->curl.multi_socket_action(f->multi, events[i].data.fd, what, &running);
    did = true;
  }
  uint64_t now = tarn_clock_ms();
  if (now >= f->curl_due_ms) {
    f->curl_due_ms = NEVER;
    f->curl.multi_socket_action(f->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    did = true;
  }
  collect(f);
  if (now >= f->tick_due_ms) { tick(f, now); }
  return did;
}

void tarn_fetch_run(tarn_fetch_t *f, int timeout_ms) {
  for (int i = 0; i < TURNS_MAX && turn(f, i == 0 ? timeout_ms : 0); i++) {}
  set_timer(f);
}

tarn_fetch_reply_t *tarn_fetch_next(tarn_fetch_t *f) {
  if (tarn_list_empty(&f->ended)) { return NULL; }
  transfer_t *t = TARN_CONTAINER(f->ended.next, transfer_t, link);
  tarn_list_remove(&t->link);
  return &t->reply;
}

void tarn_fetch_release(tarn_fetch_reply_t *reply) { transfer_free((transfer_t *)(void *)reply); }

/* ---- a fetcher ---- */

int tarn_fetch_fd(const tarn_fetch_t *f) { return f->epoll; }

static bool open_multi(tarn_fetch_t *f) {
  struct epoll_event e = {.events = EPOLLIN};
  f->epoll = epoll_create1(EPOLL_CLOEXEC);
  f->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  e.data.fd = f->timer;
  if (f->epoll < 0 || f->timer < 0 || epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->timer, &e) != 0) {
    return false;
  }
  f->multi = f->curl.multi_init();
  return f->multi != NULL &&
         f->curl.multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK &&
         f->curl.multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f) == CURLM_OK &&
         f->curl.multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK &&
         f->curl.multi_setopt(f->multi, CURLMOPT_TIMERDATA, f) == CURLM_OK &&
         f->curl.multi_setopt(f->multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS) == CURLM_OK;
}

int tarn_fetch_create(tarn_fetch_t **out, tarn_error_t *err) {
  tarn_fetch_t *f = tarn_calloc(1, sizeof *f);
  if (f == NULL) { return tarn_error_set(err, TARN_ENOMEM, "no memory for HTTP"); }
  tarn_list_init(&f->active);
  tarn_list_init(&f->ended);
  f->epoll = f->timer = -1;
  f->curl_due_ms = f->tick_due_ms = NEVER;
  int rc = tarn__curl_load(&f->curl, err);
  if (rc == 0 && !open_multi(f)) { rc = tarn_error_errno(err, errno, "HTTP cannot be set up"); }
  if (rc != 0) {
    tarn_fetch_destroy(f);
    return rc;
  }
  *out = f;
  return 0;
}

static void free_all(tarn_fetch_t *f, tarn_list_t *list, bool active) {
  while (!tarn_list_empty(list)) {
    transfer_t *t = TARN_CONTAINER(list->next, transfer_t, link);
    if (active) { f->curl.multi_remove_handle(f->multi, t->easy); }
    transfer_free(t);
  }
}

void tarn_fetch_destroy(tarn_fetch_t *f) {
  if (f == NULL) { return; }
  free_all(f, &f->active, true);
  free_all(f, &f->ended, false);
  if (f->multi != NULL) { f->curl.multi_cleanup(f->multi); }
  if (f->epoll >= 0) { close(f->epoll); }
  if (f->timer >= 0) { close(f->timer); }
  tarn_free(f);
}
