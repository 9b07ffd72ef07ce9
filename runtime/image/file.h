/* An image on disk: a checked header before the contiguous image. Pure: it composes and checks bytes, others do the I/O.
 *
 *   0   8     "\x89TARN\r\n\x1a"
 *   8   4     format version (1)
 *   12  4     block_count
 *   16  8     front_size
 *   24  8     file_size
 *   32  8     XXH3-64 of the front
 *   40  8     XXH3-64 of the block checksums' bytes
 *   48  8     zero
 *   56  8     XXH3-64 of bytes 0..55
 *   64  8*n   XXH3-64 of each block
 *   ..        zeros to a multiple of 64, then the contiguous image (so that its blocks are 64-aligned in the file too) */
#ifndef TARN_IMAGE_FILE_H
#define TARN_IMAGE_FILE_H

#include "image/image.h"

#define TARN_FILE_HEADER_SIZE 64u

typedef struct tarn_file_info {
  uint32_t block_count;
  uint64_t front_size, file_size;
  uint64_t image_offset; /* where the contiguous image begins */
  uint64_t front_hash;
} tarn_file_info_t;

uint64_t tarn_hash64(const void *bytes, size_t size); /* XXH3-64, seed 0 */
/* The same, of bytes that come one part after the other. */
typedef struct tarn_hash tarn_hash_t;
tarn_hash_t *tarn_hash_begin(void); /* null: no memory */
void tarn_hash_add(tarn_hash_t *h, const void *bytes, size_t size);
uint64_t tarn_hash_end(tarn_hash_t *h); /* frees it; null allowed */

/* The header, checksums and padding for a value (front detached or plain, blocks beside it), appended to out. Hashes the blocks. */
int tarn_file_compose_header(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                             const uint64_t *sizes, uint32_t block_count, tarn_buf_t *out);

/* Check the header (the first size bytes of a file that is file_size long; size >= 64 and enough to hold the checksums, else
 * TARN_EAGAIN with info->image_offset telling how many bytes are needed). TARN_ECORRUPT says what is wrong. */
int tarn_file_check_header(const uint8_t *bytes, uint64_t size, uint64_t file_size,
                           tarn_file_info_t *info, tarn_error_t *err);

/* Verify a whole mapped file: header, front, and those blocks that are at most max_block_bytes. On success *out is the opened
 * contiguous image within. */
int tarn_file_verify(const uint8_t *bytes, uint64_t file_size, uint64_t max_block_bytes,
                     tarn_image_t *out, tarn_error_t *err);

#endif
