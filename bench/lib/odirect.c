/* What the disk can do: odirect FOLDER BYTES writes a new anonymous file past the page cache, in pieces of 1 MiB of memory
 * that is warm, and prints the bytes per second. The file's space is allocated first, as who must not run out of it does. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20, SLICE = 64 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  if (argc != 3) { return 2; }
  uint64_t size = strtoull(argv[2], NULL, 10) / SLICE * SLICE;
  int fd = open(argv[1], O_TMPFILE | O_RDWR | O_DIRECT, 0600);
  uint8_t *memory = aligned_alloc(PIECE, SLICE);
  if (fd < 0 || !memory) {
    perror(argv[1]);
    return 1;
  }
  for (size_t i = 0; i < SLICE / 8; i++) { ((uint64_t *)memory)[i] = i * 0x9E3779B97F4A7C15u; }
  double start = now();
  for (uint64_t at = 0; at < size; at += PIECE) {
    if (at % SLICE == 0 && posix_fallocate(fd, (off_t)at, SLICE) != 0) { return 1; }
    if (pwrite(fd, memory + at % SLICE, PIECE, (off_t)at) != PIECE) {
      perror("pwrite");
      return 1;
    }
  }
  printf("%.0f\n", (double)size / (now() - start));
  return 0;
}
