/* Log lines to standard error, each by one write(2): lines of several threads and processes do not
 * mix. Control characters in a text (a peer's, perhaps) become spaces or '?', so that a line is a
 * line and a terminal stays as it was. The level and the process id shown belong to the process.
 * Threads: any. errno is kept. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  LINE_MAX_BYTES = 4096,
  LEVEL_COUNT = TARN_LOG_ERROR + 1
}; /* 4096: PIPE_BUF, whole even in a pipe */

static const char *const level_names[LEVEL_COUNT] = {"debug", "info", "warn", "error"};
static atomic_int lowest_level = -1; /* -1: not yet read; racing readers find the same */
static atomic_uint process_id;
static atomic_bool drawn_below, erased;

static int read_level(void) {
  const char *wanted = getenv("TARN_LOG");
  for (int i = 0; wanted && i < LEVEL_COUNT; i++) {
    if (strcmp(wanted, level_names[i]) == 0) { return i; }
  }
  return TARN_LOG_WARN;
}

const char *tarn_log_unknown_level(void) {
  const char *wanted = getenv("TARN_LOG");
  for (int i = 0; wanted && i < LEVEL_COUNT; i++) {
    if (strcmp(wanted, level_names[i]) == 0) { return NULL; }
  }
  return wanted && wanted[0] != '\0' ? wanted : NULL;
}

bool tarn_log_enabled(int level) {
  int lowest = atomic_load_explicit(&lowest_level, memory_order_relaxed);
  if (lowest < 0) {
    lowest = read_level();
    atomic_store_explicit(&lowest_level, lowest, memory_order_relaxed);
  }
  return level >= lowest;
}

void tarn_log_set_process(uint32_t pid) {
  atomic_store_explicit(&process_id, pid, memory_order_relaxed);
}

void tarn_log_set_below(bool drawn) { atomic_store(&drawn_below, drawn); }

const char *tarn_log_erase(int fd) {
  if (!atomic_load_explicit(&drawn_below, memory_order_relaxed) || !isatty(fd)) { return ""; }
  atomic_store(&erased, true);
  return "\r\033[J";
}

bool tarn_log_take_erased(void) {
  return atomic_load_explicit(&erased, memory_order_relaxed) && atomic_exchange(&erased, false);
}

static size_t write_prefix(char *line, size_t capacity, int level) {
  struct timespec now;
  struct tm local;
  clock_gettime(CLOCK_REALTIME, &now);
  localtime_r(&now.tv_sec, &local);
  char process[16] = "";
  uint32_t pid = atomic_load_explicit(&process_id, memory_order_relaxed);
  if (pid != 0) { snprintf(process, sizeof process, "[%u]", pid); }
  const char *erase = tarn_log_erase(STDERR_FILENO);
  int index = level < 0 ? 0 : level >= LEVEL_COUNT ? LEVEL_COUNT - 1 : level;
  int length = snprintf(line, capacity, "%s%02d:%02d:%02d.%03d tarn%s %s: ", erase, local.tm_hour,
                        local.tm_min, local.tm_sec, (int)(now.tv_nsec / 1000000), process,
                        level_names[index]);
  return (size_t)length;
}

static void make_one_line(char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '\n' || c == '\t') {
      text[i] = ' ';
    } else if (c < 0x20 || c == 0x7f) {
      text[i] = '?';
    }
  }
}

void tarn_log(int level, const char *fmt, ...) {
  if (!tarn_log_enabled(level)) { return; }
  int saved = errno;
  char line[LINE_MAX_BYTES];
  size_t start = write_prefix(line, sizeof line, level);
  size_t room = sizeof line - start - 1; /* for the text and its '\0'; the last byte is for '\n' */
  va_list args;
  va_start(args, fmt);
  int wanted = vsnprintf(line + start, room, fmt, args);
  va_end(args);
  size_t length = wanted < 0 ? 0 : (size_t)wanted;
  if (length >= room) {
    length = room - 1;
    memcpy(line + start + length - 3, "...", 3);
  }
  make_one_line(line + start, length);
  line[start + length] = '\n';
  while (write(STDERR_FILENO, line, start + length + 1) < 0 && errno == EINTR) {}
  errno = saved;
}
