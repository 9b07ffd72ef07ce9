/* Worker processes started here. posix_spawn (no fork of a large parent), each the leader of a process group that is killed with it. The
 * address and the secret go down its standard input, which stays open: its end tells the worker that we are gone. What it says comes
 * back by pipes and is printed line by line, prefixed with its id; its end is seen through a pidfd. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "service-private.h"

#define LINE_MAX_BYTES (64u << 10)
#define SAID_BYTES (4u << 10) /* of standard error, held back until it has joined */
#define OUTPUT_GRACE_MS 300   /* after its end, for what a grandchild may still hold of its pipes */
#define READ_BYTES (64u << 10)

extern char **environ;

static void close_fd(int *fd) {
  if (*fd >= 0) { close(*fd); }
  *fd = -1;
}

/* The first line of the worker's standard input: "HOST:PORT SECRET NUMBER". A pipe holds it, so this never blocks. */
static int write_first_line(tarn_service_t *s, int fd, const char *address, uint64_t launch) {
  char line[256];
  int n = snprintf(line, sizeof(line), "%s ", address);
  for (int i = 0; i < TARN_SECRET_BYTES; i++) {
    n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", s->secret[i]);
  }
  n += snprintf(line + n, sizeof(line) - (size_t)n, " %llu\n", (unsigned long long)launch);
  ssize_t wrote = write(fd, line, (size_t)n);
  explicit_bzero(line, sizeof(line));
  return wrote == n ? 0 : -1;
}

static int spawn_with(char *const *argv, char *const *env, const int fds[3], pid_t *pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  int rc = posix_spawn_file_actions_init(&actions);
  if (rc != 0) { return rc; }
  rc = posix_spawnattr_init(&attr);
  if (rc == 0) {
    sigset_t none, all;
    sigemptyset(&none);
    sigemptyset(&all);
    sigaddset(&all, SIGPIPE);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    for (int i = 0; i < 3 && rc == 0; i++) {
      rc = posix_spawn_file_actions_adddup2(&actions, fds[i], i);
    }
    if (rc == 0) {
      rc = posix_spawnp(pid, argv[0], &actions, &attr, argv, env != NULL ? env : environ);
    }
    posix_spawnattr_destroy(&attr);
  }
  posix_spawn_file_actions_destroy(&actions);
  return rc;
}

int tarn__child_spawn(tarn_service_t *s, const tarn_spawn_t *what, tarn_child_t **out,
                      tarn_error_t *err) {
  char own_address[TARN_NET_ADDRESS_BYTES];
  bool inward = tarn__reach_own(s, own_address);
  const char *address = what->address != NULL ? what->address : own_address;
  int in[2] = {-1, -1}, say[2] = {-1, -1}, cry[2] = {-1, -1};
  pid_t pid = -1;
  int rc = 0;
  tarn_child_t *c = tarn_calloc(1, sizeof(*c));
  char *buffer = tarn_malloc(READ_BYTES);
  if (c == NULL || buffer == NULL) {
    rc = tarn_error_set(err, TARN_ENOMEM, "out of memory for a worker");
    goto fail;
  }
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(say, O_CLOEXEC) != 0 || pipe2(cry, O_CLOEXEC) != 0) {
    rc = tarn_error_errno(err, errno, "pipes for a worker");
    goto fail;
  }
  /* Before the worker exists: if it dies at once, this is a broken pipe later, not a race now. */
  c->launch = atomic_fetch_add(&s->next_launch, 1);
  if (write_first_line(s, in[1], address, c->launch) != 0) {
    rc = tarn_error_errno(err, errno, "the first line of a worker");
    goto fail;
  }
  int spawned = spawn_with(what->argv, what->env, (int[3]){in[0], say[1], cry[1]}, &pid);
  if (spawned != 0) {
    rc = tarn_error_errno(err, spawned, "cannot start %s", what->argv[0]);
    goto fail;
  }
  c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (c->pidfd < 0) {
    rc = tarn_error_errno(err, errno, "pidfd of worker %d", (int)pid);
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    goto fail;
  }
  fcntl(c->pidfd, F_SETFD, FD_CLOEXEC);
  close_fd(&in[0]);
  close_fd(&say[1]);
  close_fd(&cry[1]);
  c->service = s;
  c->os_pid = pid;
  c->stdin_fd = in[1];
  c->read_buffer = buffer;
  c->several = what->several;
  c->inward = inward && what->address == NULL;
  if (what->label != NULL) { snprintf(c->label, sizeof(c->label), "%s", what->label); }
  c->holding = true;
  tarn_buf_init(&c->said, SAID_BYTES);
  c->out[0].to_fd = say[0]; /* until adopted: the fd to read; after: the fd to print to */
  c->out[1].to_fd = cry[0];
  tarn_list_init(&c->link);
  *out = c;
  return 0;
fail:
  close_fd(&in[0]);
  close_fd(&in[1]);
  close_fd(&say[0]);
  close_fd(&say[1]);
  close_fd(&cry[0]);
  close_fd(&cry[1]);
  tarn_free(buffer);
  tarn_free(c);
  return rc;
}

void tarn__child_discard(tarn_child_t *c) {
  kill((pid_t)-c->os_pid, SIGKILL);
  waitpid((pid_t)c->os_pid, NULL, 0);
  close_fd(&c->stdin_fd);
  close_fd(&c->pidfd);
  close_fd(&c->out[0].to_fd);
  close_fd(&c->out[1].to_fd);
  tarn_free(c->read_buffer);
  tarn_free(c);
}

/* ---- output ---- */

static void write_all(int fd, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size);
    if (n < 0 && errno == EINTR) { continue; }
    if (n < 0 && errno == EAGAIN) {
      struct pollfd p = {.fd = fd, .events = POLLOUT};
      if (poll(&p, 1, 1000) > 0) { continue; }
    }
    if (n <= 0) { return; } /* nobody reads our output: nothing to be done about it here */
    bytes += n;
    size -= (size_t)n;
  }
}

/* A line of the worker's log names its process itself. */
static bool is_log_line(const tarn_child_t *c, const char *line, size_t size) {
  char name[32];
  int n = snprintf(name, sizeof(name), " tarn[%u] ", c->id);
  return c->id != 0 && size > 12 + (size_t)n && line[2] == ':' && line[5] == ':' &&
         line[8] == '.' && memcmp(line + 12, name, (size_t)n) == 0;
}

static void print_line(struct tarn_output *o, const char *line, size_t size) {
  char prefix[100];
  const tarn_child_t *c = o->child;
  fflush(o->to_fd == STDOUT_FILENO ? stdout : stderr); /* what we have said ourselves comes first */
  int n = is_log_line(c, line, size) ? 0
          : c->id != 0               ? snprintf(prefix, sizeof(prefix), "[%u] ", c->id)
          : c->label[0] != '\0'
              ? snprintf(prefix, sizeof(prefix), "[%s] ", c->label)
              : snprintf(prefix, sizeof(prefix), "[pid %lld] ", (long long)c->os_pid);
  tarn_buf_t b;
  tarn_buf_init(&b, LINE_MAX_BYTES + 256);
  const char *erase = tarn_log_erase(o->to_fd);
  if (tarn_buf_append(&b, erase, strlen(erase)) == 0 &&
      tarn_buf_append(&b, prefix, (size_t)n) == 0 && tarn_buf_append(&b, line, size) == 0 &&
      tarn_buf_append(&b, "\n", 1) == 0) {
    write_all(o->to_fd, (const char *)b.data,
              b.size); /* one write a line, so that lines of two workers do not mix */
  }
  tarn_buf_release(&b);
}

/* Print what has been held back, and hold back no more. */
static void stop_holding(tarn_child_t *c) {
  if (!c->holding) { return; }
  c->holding = false;
  const char *at = (const char *)c->said.data, *end = at + c->said.size;
  for (const char *stop; at < end && (stop = memchr(at, '\n', (size_t)(end - at))) != NULL;) {
    print_line(&c->out[1], at, (size_t)(stop - at));
    at = stop + 1;
  }
}

/* What has not joined may be no worker at all, and say again what it was told: without the secret. */
static void hide_secret(tarn_service_t *s, char *line, size_t size) {
  char hex[TARN_SECRET_BYTES * 2 + 1];
  sodium_bin2hex(hex, sizeof(hex), s->secret, TARN_SECRET_BYTES);
  for (char *at; (at = memmem(line, size, hex, sizeof(hex) - 1)) != NULL;) {
    memset(at, '*', sizeof(hex) - 1);
  }
  sodium_memzero(hex, sizeof(hex));
}

static void say_line(struct tarn_output *o, char *line, size_t size) {
  tarn_child_t *c = o->child;
  if (!c->joined) { hide_secret(c->service, line, size); }
  if (o == &c->out[1] && c->holding) {
    if (c->said.size + size + 1 <= SAID_BYTES && tarn_buf_append(&c->said, line, size) == 0 &&
        tarn_buf_append(&c->said, "\n", 1) == 0) {
      return;
    }
    stop_holding(c);
  }
  print_line(o, line, size);
}

static void take_output(struct tarn_output *o, char *bytes, size_t size) {
  while (size > 0) {
    char *end = memchr(bytes, '\n', size);
    size_t part = end != NULL ? (size_t)(end - bytes) : size;
    if (o->line.size == 0 && end != NULL) {
      say_line(o, bytes, part);
    } else {
      size_t fits = LINE_MAX_BYTES - o->line.size;
      if (part > fits) { /* a line without an end: cut */
        part = fits;
        end = NULL;
      }
      (void)tarn_buf_append(&o->line, bytes, part);
      if (end != NULL || o->line.size == LINE_MAX_BYTES) {
        say_line(o, (char *)o->line.data, o->line.size);
        tarn_buf_clear(&o->line);
      }
    }
    part += end != NULL;
    bytes += part;
    size -= part;
  }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf) {
  (void)suggested;
  struct tarn_output *o = h->data;
  *buf = uv_buf_init(o->child->read_buffer, READ_BYTES);
}

static void child_finish(tarn_child_t *c);

static void on_handle_closed(uv_handle_t *h) {
  tarn_child_t *c = h->data;
  if (--c->handles > 0) { return; }
  for (tarn_member_t *m; (m = tarn__child_member(c, true)) != NULL;) { m->child = NULL; }
  tarn_buf_release(&c->said);
  for (int i = 0; i < 2; i++) { tarn_buf_release(&c->out[i].line); }
  tarn_list_remove(&c->link);
  tarn_free(c->read_buffer);
  tarn_free(c);
}

static void on_output_closed(uv_handle_t *h) {
  struct tarn_output *o = h->data;
  h->data = o->child;
  on_handle_closed(h);
}

static void close_output(struct tarn_output *o) {
  if (!o->open) { return; }
  o->open = false;
  if (o->line.size > 0) { say_line(o, (char *)o->line.data, o->line.size); }
  tarn_buf_clear(&o->line);
  uv_close((uv_handle_t *)&o->pipe, on_output_closed);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  struct tarn_output *o = stream->data;
  tarn_child_t *c = o->child;
  if (n > 0) {
    take_output(o, buf->base, (size_t)n);
  } else if (n < 0) {
    close_output(o);
    child_finish(c);
  }
}

/* ---- its end ---- */

static void describe(tarn_child_t *c, const siginfo_t *info) {
  const char *who = c->label, *colon = c->label[0] != '\0' ? ": " : "";
  if (c->stopping && !c->killed) {
    snprintf(c->reason, sizeof(c->reason), "stopped");
  } else if (info->si_code != CLD_EXITED) {
    int sig = info->si_status;
    snprintf(c->reason, sizeof(c->reason), "%s%skilled by signal %d%s", who, colon, sig,
             sig == SIGKILL && !c->killed ? ", perhaps out of memory"
             : sig == SIGKILL             ? " (it did not stop when told)"
             : sig == SIGSEGV             ? ", perhaps a write to stored data through a pointer"
                                          : "");
  } else {
    snprintf(c->reason, sizeof(c->reason), "%s%sexited with status %d", who, colon,
             info->si_status);
  }
}

/* Why it has ended; and where it has never joined what it said: a line of its own each. */
static char *reason_text(const tarn_child_t *c) {
  if (!c->holding || c->said.size == 0) { return tarn_strdup(c->reason); }
  size_t n = strlen(c->reason);
  char *text = tarn_malloc(n + 1 + c->said.size);
  if (text == NULL) { return NULL; }
  memcpy(text, c->reason, n);
  text[n] = '\n';
  memcpy(text + n + 1, c->said.data, c->said.size - 1);
  text[n + c->said.size] = '\0';
  return text;
}

/* Report the end once the exit status is known and all output has been printed (or the grace for it is over). */
static void child_finish(tarn_child_t *c) {
  if (!c->exited || c->reported || c->out[0].open || c->out[1].open) { return; }
  c->reported = true;
  tarn_service_t *s = c->service;
  tarn_event_t *e = tarn__event_create(TARN_EVENT_EXITED);
  if (e != NULL) {
    e->launch = c->launch;
    e->text = reason_text(c);
    tarn__event_post(s, e);
  }
  uv_close((uv_handle_t *)&c->kill_timer, on_handle_closed);
}

static void on_output_grace(uv_timer_t *t) {
  tarn_child_t *c = t->data;
  close_output(&c->out[0]);
  close_output(&c->out[1]);
  child_finish(c);
}

static void on_exit_seen(uv_poll_t *watch, int status, int events) {
  tarn_child_t *c = watch->data;
  siginfo_t info = {0};
  (void)status;
  (void)events;
  int waited = waitid(P_PID, (id_t)c->os_pid, &info, WEXITED | WNOHANG | WNOWAIT);
  if (waited == 0 && info.si_pid == 0) { return; }
  c->exited = true;
  if (waited == 0) {
    /* What it left behind: its group goes with it. Before it is waited for, while the number is still its own. */
    kill((pid_t)-c->os_pid, SIGKILL);
    waitpid((pid_t)c->os_pid, NULL, 0);
    describe(c, &info);
  } else { /* the number may be another's by now */
    snprintf(c->reason, sizeof(c->reason),
             "ended; how is not known, since this program has waited for it itself");
  }
  uv_poll_stop(watch);
  uv_close((uv_handle_t *)watch, on_handle_closed);
  close_fd(&c->pidfd);
  close_fd(&c->stdin_fd);
  uv_timer_start(&c->kill_timer, on_output_grace, OUTPUT_GRACE_MS, 0);
  for (tarn_member_t *m; (m = tarn__child_member(c, true)) != NULL;) { /* each is removed */
    tarn__member_lost(c->service, m->id, m->stopping ? "stopped" : c->reason);
  }
  child_finish(c);
}

/* From the outbox: the child that the Lua thread has spawned gets its handles. */
void tarn__child_adopt(tarn_service_t *s, tarn_child_t *c) {
  tarn_list_push_back(&s->children, &c->link);
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    if (m->launch == c->launch && m->child == NULL) { /* its worker was faster than we were */
      m->child = c;
      tarn__child_joined(c, m->id);
      tarn__reach_widen(s, m);
    }
  }
  c->handles = 4;
  uv_timer_init(s->loop, &c->kill_timer);
  c->kill_timer.data = c;
  uv_poll_init(s->loop, &c->watch, c->pidfd);
  c->watch.data = c;
  uv_poll_start(&c->watch, UV_READABLE, on_exit_seen);
  for (int i = 0; i < 2; i++) {
    struct tarn_output *o = &c->out[i];
    int fd = o->to_fd;
    o->child = c;
    o->to_fd = i == 0 ? STDOUT_FILENO : STDERR_FILENO;
    o->open = true;
    tarn_buf_init(&o->line, LINE_MAX_BYTES);
    uv_pipe_init(s->loop, &o->pipe, 0);
    o->pipe.data = o;
    uv_pipe_open(&o->pipe, fd);
    uv_read_start((uv_stream_t *)&o->pipe, on_alloc, on_output);
  }
}

void tarn__child_end_input(tarn_child_t *c) { close_fd(&c->stdin_fd); }

void tarn__child_joined(tarn_child_t *c, uint32_t id) {
  c->joined = true;
  if (!c->several) { c->id = id; }
  stop_holding(c);
}

tarn_member_t *tarn__child_member(const tarn_child_t *c, bool stopping) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&c->service->members, &cursor, &id)) != NULL;) {
    if (m->child == c && (stopping || !m->stopping)) { return m; }
  }
  return NULL;
}

tarn_child_t *tarn__child_find(tarn_service_t *s, uint64_t launch) {
  for (tarn_list_t *l = s->children.next; l != &s->children; l = l->next) {
    tarn_child_t *c = TARN_CONTAINER(l, tarn_child_t, link);
    if (c->launch == launch) { return c; }
  }
  return NULL;
}

static void on_kill_time(uv_timer_t *t) { tarn__child_kill(t->data); }

void tarn__child_kill(tarn_child_t *c) {
  if (c->exited) { return; }
  c->killed = true;
  /* By the pidfd first: if it has been waited for, by whomever, the number may be another's. */
  if (syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0) != 0) { return; }
  kill((pid_t)-c->os_pid, SIGKILL);
}

void tarn__child_expect_end(tarn_child_t *c, uint32_t grace_ms) {
  if (c->exited) { return; }
  c->stopping = true;
  uv_timer_start(&c->kill_timer, on_kill_time, grace_ms, 0);
}
