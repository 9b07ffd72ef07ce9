/* A growable byte buffer with a bound. Not thread-safe. */
#ifndef TARN_BASE_BUF_H
#define TARN_BASE_BUF_H
#include <stddef.h>
#include <stdint.h>

typedef struct tarn_buf {
  uint8_t *data; /* owned; null while empty */
  size_t size, capacity;
  size_t limit; /* size never exceeds it */
} tarn_buf_t;

void tarn_buf_init(tarn_buf_t *b, size_t limit_bytes);
void tarn_buf_clear(tarn_buf_t *b);   /* size = 0, memory kept */
void tarn_buf_release(tarn_buf_t *b); /* memory given back; usable again */
int tarn_buf_reserve(tarn_buf_t *b,
                     size_t more_bytes); /* TARN_ENOMEM, TARN_ETOOBIG; b unchanged then */
int tarn_buf_append(tarn_buf_t *b, const void *bytes, size_t count); /* the same errors */
void tarn_buf_consume(tarn_buf_t *b, size_t count); /* drop bytes at the front (memmove) */
uint8_t *tarn_buf_detach(tarn_buf_t *b,
                         size_t *size); /* caller frees by tarn_free; b is empty after */
#endif
