/* What must hold in a fuzz target. */
#ifndef TARN_FUZZ_MUST_H
#define TARN_FUZZ_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                            \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: must be: %s\n", __FILE__, __LINE__, #condition);                     \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

#endif
