/* Available memory, as /proc and the control group tell. Threads: any. */
#include "base/machine.h"

#include <stdbool.h>
#include <stdio.h>

/* A number in the first line of a file, or UINT64_MAX. */
static uint64_t read_number(const char *path) {
  FILE *f = fopen(path, "re");
  unsigned long long n = 0;
  if (f == NULL) { return UINT64_MAX; }
  int got = fscanf(f, "%llu", &n);
  fclose(f);
  return got == 1 ? (uint64_t)n : UINT64_MAX;
}

/* The number of the first line that has this form; 0: none has. */
static uint64_t read_field(const char *path, const char *form) {
  FILE *f = fopen(path, "re");
  char line[128];
  unsigned long long n = 0;
  bool found = false;
  while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
    found = sscanf(line, form, &n) == 1;
  }
  if (f != NULL) { fclose(f); }
  return found ? (uint64_t)n : 0;
}

uint64_t tarn_machine_available(void) {
  uint64_t available = read_field("/proc/meminfo", "MemAvailable: %llu kB") << 10;
  uint64_t max = read_number("/sys/fs/cgroup/memory.max"),
           used = read_number("/sys/fs/cgroup/memory.current");
  if (max == UINT64_MAX || used == UINT64_MAX) { return available; }
  uint64_t cache = read_field("/sys/fs/cgroup/memory.stat", "inactive_file %llu");
  used -= cache < used ? cache : used; /* what it would give up first */
  uint64_t left = max > used ? max - used : 0;
  return left < available ? left : available;
}
