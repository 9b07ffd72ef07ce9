/* How many mappings this process may still make. Linux allows one 65,530 (vm.max_map_count), and whoever reaches that finds that
 * not even memory can be allocated: a fifth is left for everybody else. Neighbours that fit together count as one, which only the
 * kernel knows: so what is there is counted now and then, and not each mapping that is made or undone. Thread-safe. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/sys.h"
#include "pool/pool-private.h"

/* Counting tens of thousands takes some ms: so often at most while there is little left. */
#define COUNT_AGAIN_NS ((uint64_t)200000000)
#define PLENTY 4096u

void tarn__mappings_at_most(tarn_pool_t *pool, uint64_t count) {
  pthread_mutex_lock(&pool->mappings.mutex);
  pool->mappings.at_most = count;
  pool->mappings.left = pool->mappings.counted_ns = 0;
  pthread_mutex_unlock(&pool->mappings.mutex);
}

static uint64_t allowed(void) {
  unsigned long long max = 65530;
  FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
  if (f) {
    if (fscanf(f, "%llu", &max) != 1) { max = 65530; }
    fclose(f);
  }
  return (uint64_t)max / 5 * 4;
}

static uint64_t count_mappings(void) {
  char buffer[16384];
  int fd = tarn_sys_open("/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) { return UINT64_MAX; }
  uint64_t lines = 0;
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
    for (ssize_t i = 0; i < n; i++) { lines += buffer[i] == '\n'; }
  }
  close(fd);
  return lines;
}

bool tarn__mappings_take(tarn__mappings_t *m, uint32_t count) {
  pthread_mutex_lock(&m->mutex);
  uint64_t now = m->left < count ? tarn_clock_ns() : 0;
  if (m->left < count && (m->left_then >= PLENTY || now - m->counted_ns >= COUNT_AGAIN_NS)) {
    uint64_t most = m->at_most > 0 ? m->at_most : allowed(), have = count_mappings();
    m->left = m->left_then = have < most ? most - have : 0;
    m->counted_ns = now;
  }
  bool ok = m->left >= count;
  if (ok) { m->left -= count; }
  pthread_mutex_unlock(&m->mutex);
  return ok;
}
