/* Monotonic time. */
#ifndef TARN_BASE_CLOCK_H
#define TARN_BASE_CLOCK_H
#include <stdint.h>
uint64_t tarn_clock_ns(void);
/* Since the machine was started: by this clock the system dates processes. */
uint64_t tarn_clock_boot_ms(void);
static inline uint64_t tarn_clock_ms(void) { return tarn_clock_ns() / 1000000u; }
#endif
