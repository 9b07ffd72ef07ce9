/* What reading by mapping can do: scan FOLDER COUNT cold|warm. Writes a file of that many doubles (0, 1, 2...) past the page cache, maps
 * it, adds them up and prints the bytes per second of the first pass (cold: the file is in no cache; the kernel is told that all of it will
 * be wanted) or of the second. A wrong sum is a failure. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 16 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double sum_of(const double *values, uint64_t count) {
  double sum = 0;
  for (uint64_t i = 0; i < count; i++) { sum += values[i]; }
  return sum;
}

static int write_all(int fd, uint64_t count) {
  double *piece = aligned_alloc(PIECE, PIECE);
  if (!piece) { return -1; }
  const uint64_t each = PIECE / sizeof *piece;
  for (uint64_t at = 0; at < count; at += each) {
    for (uint64_t i = 0; i < each; i++) { piece[i] = (double)(at + i); }
    if (pwrite(fd, piece, PIECE, (off_t)(at * sizeof *piece)) != PIECE) { return -1; }
  }
  free(piece);
  return ftruncate(fd, (off_t)(count * sizeof *piece));
}

int main(int argc, char **argv) {
  if (argc != 4) { return 2; }
  uint64_t count = strtoull(argv[2], NULL, 10);
  int fd = open(argv[1], O_TMPFILE | O_RDWR | O_DIRECT, 0600);
  if (fd < 0 || write_all(fd, count) != 0) {
    perror(argv[1]);
    return 1;
  }
  char again[64];
  snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
  int cached = open(again, O_RDONLY);
  double *values = mmap(NULL, count * sizeof *values, PROT_READ, MAP_SHARED, cached, 0);
  if (cached < 0 || values == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  double expected = 0.5 * (double)count * (double)(count - 1);
  for (int pass = strcmp(argv[3], "cold") == 0 ? 1 : 0; pass < 2; pass++) {
    double start = now();
    madvise(values, count * sizeof *values, MADV_WILLNEED);
    double sum = sum_of(values, count);
    double took = now() - start;
    if (sum / expected < 1 - 1e-6 || sum / expected > 1 + 1e-6) {
      fprintf(stderr, "the sum is %.17g\n", sum);
      return 1;
    }
    if (pass == 1) { printf("%.0f\n", (double)count * sizeof *values / took); }
  }
  return 0;
}
