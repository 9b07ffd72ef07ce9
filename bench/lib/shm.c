/* Sharing by hand: shm make PATH COUNT writes that many doubles (0, 1, 2...) into a file of /dev/shm; shm get PATH COUNT maps it, reads the first and the last, and prints
 * the microseconds that took; shm scan PATH COUNT maps it, adds all up and prints the bytes per second. A wrong value is a failure. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  if (argc != 4) { return 2; }
  int make = strcmp(argv[1], "make") == 0;
  uint64_t count = strtoull(argv[3], NULL, 10);
  size_t size = count * sizeof(double);
  double start = now();
  int fd = open(argv[2], make ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY, 0600);
  if (fd < 0 || (make && ftruncate(fd, (off_t)size) != 0)) {
    perror(argv[2]);
    return 1;
  }
  double *values = mmap(NULL, size, make ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (values == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  if (make) {
    for (uint64_t i = 0; i < count; i++) { values[i] = (double)i; }
    return 0;
  }
  if (values[0] != 0 || values[count - 1] != (double)(count - 1)) { return 1; }
  if (strcmp(argv[1], "get") == 0) {
    printf("%.3f\n", (now() - start) * 1e6);
    return 0;
  }
  start = now();
  double sum = 0, expected = 0.5 * (double)count * (double)(count - 1);
  for (uint64_t i = 0; i < count; i++) { sum += values[i]; }
  printf("%.0f\n", (double)size / (now() - start));
  return sum / expected > 1 - 1e-6 && sum / expected < 1 + 1e-6 ? 0 : 1;
}
