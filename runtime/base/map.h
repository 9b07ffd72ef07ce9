/* Hash map from u64 to pointer: open addressing, robin hood or linear probing with backward-shift deletion. Any key is
 * allowed, null values are not. Not thread-safe. */
#ifndef TARN_BASE_MAP_H
#define TARN_BASE_MAP_H
#include <stddef.h>
#include <stdint.h>

typedef struct tarn_map_slot {
  uint64_t key;
  void *value; /* null: empty */
} tarn_map_slot_t;

typedef struct tarn_map {
  tarn_map_slot_t *slots; /* owned; null while empty */
  size_t count, capacity; /* capacity: 0 or a power of two */
} tarn_map_t;

void tarn_map_init(tarn_map_t *m);
void tarn_map_clear(tarn_map_t *m);                    /* frees the slots, not the values */
void *tarn_map_get(const tarn_map_t *m, uint64_t key); /* null when absent */
int tarn_map_set(tarn_map_t *m, uint64_t key,
                 void *value);                      /* replaces; TARN_ENOMEM leaves m as it was */
void *tarn_map_remove(tarn_map_t *m, uint64_t key); /* what was there, or null */
/* Iteration: start with *cursor = 0; null at the end. The map must not change meanwhile. */
void *tarn_map_next(const tarn_map_t *m, size_t *cursor, uint64_t *key);
#endif
