/* Monotonic time. */
#ifndef TARN_BASE_CLOCK_H
#define TARN_BASE_CLOCK_H
#include <stdint.h>
uint64_t tarn_clock_ns(void);
uint64_t tarn_clock_boot_ms(void); /* since the machine was started: by this the system dates processes */
static inline uint64_t tarn_clock_ms(void) { return tarn_clock_ns() / 1000000u; }
#endif
