/* The spill file: one anonymous file per process, cut into page-aligned extents. "locked" functions
 * want the pool's mutex; the others make system calls and must not have it. */
#ifndef TARN_POOL_SPILL_PRIVATE_H
#define TARN_POOL_SPILL_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/err.h"
#include "pool/range-private.h"
#include "pool/segment-private.h"

#define TARN__SPILL_BUFFER ((size_t)2 << 20)

typedef struct tarn__spill {
  pthread_mutex_t open_lock; /* one thread opens */
  char *dir;                 /* owned */
  int fd;                    /* owned; -1 until opened. Buffered: for reading and mapping */
  int direct_fd;             /* owned; O_DIRECT, -1 where that is refused */
  bool direct;       /* write through direct_fd; turned off when a write is refused; atomic */
  bool no_fallocate; /* the file system does not know it; atomic */
  uint8_t *window;   /* owned: the file mapped for reading, beyond its end too; null: none */
  uint64_t end;      /* offsets from here on were never used */
  uint64_t used;     /* bytes of extents given out */
  uint64_t max;      /* bound of used */
  tarn__ranges_t
      warm; /* free, space still allocated: overwriting is twice as fast as writing anew */
  tarn__ranges_t holes; /* free, punched */
  /* The spill thread's, each TARN__SPILL_BUFFER; owned, null until needed, then kept. */
  uint8_t *stage;   /* heap pieces on their way */
  uint8_t *records; /* small objects' records on theirs */
} tarn__spill_t;

int tarn__spill_init(tarn__spill_t *s, const char *dir, uint64_t max_bytes);
void tarn__spill_close(tarn__spill_t *s); /* the file is gone with its last descriptor */

/* One of the two buffers, made if it is not there; null: no memory. Spill thread. */
uint8_t *tarn__spill_buffer(uint8_t **kept);

/* Makes the directory and the file if that has not been done. need: bytes that are to be written, for messages. Any thread. */
int tarn__spill_open(tarn__spill_t *s, uint64_t need, tarn_error_t *err);

/* locked: an extent of size bytes (a multiple of the page). fresh (in): only from holes, so that it
 * reads as zeros; *reserved (out): space is allocated already. TARN_EDISKFULL beyond max. */
int tarn__spill_take(tarn__spill_t *s, uint64_t size, bool fresh, uint64_t *offset, bool *reserved,
                     tarn_error_t *err);
/* locked: nothing maps or reads these bytes any more. */
void tarn__spill_give(tarn__spill_t *s, uint64_t offset, uint64_t size);
/* locked: one free range whose space is still allocated, taken out to be punched. */
bool tarn__spill_next_warm(tarn__spill_t *s, uint64_t *offset, uint64_t *size);
/* locked: it has been punched (or could not be), and is not in use. */
void tarn__spill_punched(tarn__spill_t *s, uint64_t offset, uint64_t size);

/* Allocates space for an extent, so that a full disk is an error here. zeros: it must read as zeros
 * afterwards. */
int tarn__spill_reserve(tarn__spill_t *s, uint64_t offset, uint64_t size, bool zeros,
                        tarn_error_t *err);
/* Writes all of iov (changed on the way) at offset: every base and length page-aligned for
 * O_DIRECT, else buffered. */
int tarn__spill_write(tarn__spill_t *s, struct iovec *iov, int count, uint64_t offset,
                      tarn_error_t *err);
int tarn__spill_read(tarn__spill_t *s, void *bytes, uint64_t size, uint64_t offset,
                     tarn_error_t *err);
/* An extent, mapped: in the window, or on its own where it is to be written or there is no window. TARN_ENOMEM: no address, or
 * too many mappings. */
int tarn__spill_map(tarn__spill_t *s, uint64_t offset, uint64_t size, bool writable, uint8_t **out,
                    tarn_error_t *err);
static inline bool tarn__spill_in_window(const tarn__spill_t *s, const uint8_t *at) {
  return s->window && at >= s->window && at < s->window + TARN__RESERVE_BYTES;
}
/* Nobody reads there any more. In slices; at: page-aligned. */
void tarn__spill_unmap(tarn__spill_t *s, uint8_t *at, uint64_t size);
bool tarn__spill_punch(tarn__spill_t *s, uint64_t offset, uint64_t size);
/* Bytes that may still be written on the disk that the file is on, or will be. UINT64_MAX: not known. Any thread. */
uint64_t tarn__spill_free_bytes(const tarn__spill_t *s);

#endif
