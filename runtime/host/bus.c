/* The end of a process that reads a mapped page whose bytes are gone: a file that was truncated while it was mapped, or a disk that
 * fails. Nothing sensible can be read there, so the process ends; but it says which file it was. The handler runs on whatever
 * thread it was and uses system calls only; it finds the file in /proc/self/maps. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include "host-private.h"

enum { LINE_BYTES = 4096 };

static uint64_t hex(const char **at) {
  uint64_t v = 0;
  for (;; (*at)++) {
    char c = **at;
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) { return v; }
    v = v << 4 | (uint64_t)digit;
  }
}

/* "start-end perms offset dev inode   path": the path, when the line covers the address. */
static const char *match(const char *line, uint64_t address) {
  uint64_t start = hex(&line);
  if (*line++ != '-') { return NULL; }
  uint64_t end = hex(&line);
  if (address < start || address >= end) { return NULL; }
  const char *path = strchr(line, '/');
  return path ? path : "memory of no file";
}

static const char *find(char *line, uint64_t address) {
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  size_t fill = 0;
  const char *found = NULL;
  char c;
  while (fd >= 0 && !found && read(fd, &c, 1) == 1) {
    if (c != '\n') {
      if (fill < LINE_BYTES - 1) { line[fill++] = c; }
      continue;
    }
    line[fill] = '\0';
    fill = 0;
    found = match(line, address);
  }
  if (fd >= 0) { close(fd); }
  return found;
}

static void say(const char *text) {
  ssize_t n = write(STDERR_FILENO, text, strlen(text));
  (void)n;
}

static void on_bus(int signal_number, siginfo_t *info, void *context) {
  (void)context;
  char line[LINE_BYTES];
  const char *path = find(line, (uint64_t)(uintptr_t)info->si_addr);
  say("tarn: IOError: ");
  say(path ? path : "memory that is not mapped");
  say(": its bytes are gone (truncated while it was mapped, or the disk fails); this process "
      "ends\n");
  signal(signal_number, SIG_DFL);
  /* Back to the instruction that failed: it raises the signal again, which is the end, with its own reason and core dump. */
}

void tarn__bus_install(void) {
  struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, NULL);
  signal(
      SIGXFSZ,
      SIG_IGN); /* a file that grows beyond RLIMIT_FSIZE is an error of write(2), like a full disk */
}
