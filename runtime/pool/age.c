/* How old an object is, without a word in its record. Ids are given out in sequence, so a few marks (an id, and when it was given out)
 * tell it for all: an object is about as old as the last mark that is not behind it. When the marks are used up every second one is
 * dropped, and from then on they are made half as often: what is old is known less exactly. Guarded by the pool's mutex. */
#include <time.h>
#include "pool/pool-private.h"

#define STEP_NS UINT64_C(250000000)

/* Monotonic, to a few milliseconds, and five times as fast as the exact clock: it is looked at for every object. */
static uint64_t coarse_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void thin(tarn__ages_t *a) {
  for (uint32_t i = 0; 2 * i < a->count; i++) { a->marks[i] = a->marks[2 * i]; }
  a->count = (a->count + 1) / 2;
  a->step_ns *= 2;
}

void tarn__age_note(tarn__ages_t *a, uint64_t id) {
  uint64_t now = coarse_ns();
  if (a->count > 0 && now - a->marks[a->count - 1].ns < a->step_ns) { return; }
  if (a->step_ns == 0) { a->step_ns = STEP_NS; }
  if (a->count == TARN__AGES) { thin(a); }
  a->marks[a->count].id = id;
  a->marks[a->count++].ns = now;
}

uint64_t tarn__age_of(const tarn__ages_t *a, uint64_t id, uint64_t now_ns) {
  uint32_t low = 0, high = a->count; /* marks before low are of ids up to this one */
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (a->marks[middle].id <= id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) { return 0; }
  uint64_t ns = a->marks[low - 1].ns; /* given out then, or within the step behind it */
  return now_ns > ns ? now_ns - ns : 0;
}
