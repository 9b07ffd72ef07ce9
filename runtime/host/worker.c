/* What is special about starting a worker: its standard input. The first line is "HOST:PORT SECRET [NUMBER]" (the number is the one by which process 1
 * knows what it has started); then its end means that the driver is gone. It moves to a descriptor of its own, and 0 becomes /dev/null, so that a
 * job's io.read cannot eat it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "host-private.h"

#define LINE_BYTES 256
#define LINE_TIMEOUT_MS 10000

/* Byte by byte: what follows the line is not ours to take. */
static int read_line(char *line, tarn_error_t *err) {
  size_t n = 0;
  uint64_t deadline = tarn_clock_ms() + LINE_TIMEOUT_MS;
  while (n < LINE_BYTES - 1) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t now = tarn_clock_ms();
    if (now >= deadline || poll(&p, 1, (int)(deadline - now)) == 0) {
      return tarn_error_set(err, TARN_ETIMEDOUT,
                            "no first line on standard input (expected HOST:PORT SECRET)");
    }
    ssize_t got = read(STDIN_FILENO, line + n, 1);
    if (got < 0 && errno == EINTR) { continue; }
    if (got <= 0) {
      return tarn_error_set(err, TARN_EINVAL,
                            "standard input ended before its first line (HOST:PORT SECRET)");
    }
    if (line[n] == '\n') {
      line[n] = '\0';
      return 0;
    }
    n++;
  }
  return tarn_error_set(err, TARN_EINVAL,
                        "the first line of standard input is too long (expected HOST:PORT SECRET)");
}

static int hex(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

static int parse_line(const char *text, tarn_first_line_t *line) {
  const char *space = strchr(text, ' ');
  if (space == NULL || space == text || (size_t)(space - text) >= sizeof(line->address)) {
    return TARN_EINVAL;
  }
  memcpy(line->address, text, (size_t)(space - text));
  line->address[space - text] = '\0';
  const char *s = space + 1;
  if (strlen(s) < TARN_SECRET_BYTES * 2) { return TARN_EINVAL; }
  for (int i = 0; i < TARN_SECRET_BYTES; i++) {
    int high = hex(s[2 * i]), low = hex(s[2 * i + 1]);
    if (high < 0 || low < 0) { return TARN_EINVAL; }
    line->secret[i] = (uint8_t)(high << 4 | low);
  }
  s += TARN_SECRET_BYTES * 2;
  char *end = NULL;
  if (s[0] == ' ' && s[1] >= '1' && s[1] <= '9') {
    line->launch = strtoull(s + 1, &end, 10);
    s = end;
  }
  if (*s != '\0') { return TARN_EINVAL; }
  return 0;
}

static int move_stdin(int *life_fd) {
  int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0) { return -1; }
  close(null);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  *life_fd = fd;
  return 0;
}

int tarn__read_first_line(tarn_first_line_t *line, tarn_error_t *err) {
  char text[LINE_BYTES];
  int rc = read_line(text, err);
  if (rc == 0 && parse_line(text, line) != 0) {
    rc = tarn_error_set(err, TARN_EINVAL,
                        "the first line of standard input is not HOST:PORT SECRET");
  }
  explicit_bzero(text, sizeof(text));
  if (rc == 0 && move_stdin(&line->life_fd) != 0) {
    rc = tarn_error_errno(err, errno, "standard input");
  }
  return rc;
}
