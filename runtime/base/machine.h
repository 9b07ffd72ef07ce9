/* What the machine has. */
#ifndef TARN_BASE_MACHINE_H
#define TARN_BASE_MACHINE_H
#include <stdint.h>

/* Bytes of memory that could be taken now without swapping: of the machine, or of the control group where that leaves less. 0: not known.
 * Reads a few files. Any thread. */
uint64_t tarn_machine_available(void);
#endif
