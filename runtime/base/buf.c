/* A growable byte buffer: doubles, never beyond its limit. Threads: the caller's lock. */
#include "base/buf.h"

#include <string.h>

#include "base/alloc.h"
#include "base/err.h"

enum { CAPACITY_MIN = 64 };

void tarn_buf_init(tarn_buf_t *b, size_t limit_bytes) { *b = (tarn_buf_t){.limit = limit_bytes}; }

void tarn_buf_clear(tarn_buf_t *b) { b->size = 0; }

void tarn_buf_release(tarn_buf_t *b) {
  tarn_free(b->data);
  tarn_buf_init(b, b->limit);
}

int tarn_buf_reserve(tarn_buf_t *b, size_t more_bytes) {
  if (more_bytes <= b->capacity - b->size) { return 0; }
  if (more_bytes > b->limit - b->size) { return TARN_ETOOBIG; }
  size_t needed = b->size + more_bytes;
  size_t capacity = b->capacity > b->limit / 2 ? b->limit : b->capacity * 2;
  if (capacity < CAPACITY_MIN) { capacity = b->limit < CAPACITY_MIN ? b->limit : CAPACITY_MIN; }
  if (capacity < needed) { capacity = needed; }
  uint8_t *data = tarn_realloc(b->data, capacity);
  if (!data) { return TARN_ENOMEM; }
  b->data = data;
  b->capacity = capacity;
  return 0;
}

int tarn_buf_append(tarn_buf_t *b, const void *bytes, size_t count) {
  int rc = tarn_buf_reserve(b, count);
  if (rc) { return rc; }
  if (count) { memcpy(b->data + b->size, bytes, count); }
  b->size += count;
  return 0;
}

void tarn_buf_consume(tarn_buf_t *b, size_t count) {
  if (count >= b->size) {
    b->size = 0;
  } else if (count) {
    b->size -= count;
    memmove(b->data, b->data + count, b->size);
  }
}

uint8_t *tarn_buf_detach(tarn_buf_t *b, size_t *size) {
  uint8_t *data = b->data;
  if (size) { *size = b->size; }
  tarn_buf_init(b, b->limit);
  return data;
}
