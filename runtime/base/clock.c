/* Monotonic time, for deadlines and intervals; it never jumps when the wall clock is set. Threads:
 * any. */
#include "base/clock.h"

#include <time.h>

uint64_t tarn_clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail for this clock and a valid pointer */
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t tarn_clock_boot_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}
