/* An image on disk. The header's own checksum is checked before anything in it is believed, then
 * the checksums of the blocks' checksums, then the front's: from then on every size is one that a
 * writer wrote. Pure. Threads: any. */
#define XXH_STATIC_LINKING_ONLY /* for a hash state on the stack */
#include "image/file.h"

#include <inttypes.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "image/image-private.h"

static const uint8_t magic[8] = {0x89, 'T', 'A', 'R', 'N', '\r', '\n', 0x1a};

enum {
  FILE_VERSION = 1,
  AT_VERSION = 8,
  AT_BLOCK_COUNT = 12,
  AT_FRONT_SIZE = 16,
  AT_FILE_SIZE = 24,
  AT_FRONT_HASH = 32,
  AT_SUMS_HASH = 40,
  AT_ZERO = 48,
  AT_HEADER_HASH = 56
};

uint64_t tarn_hash64(const void *bytes, size_t size) { return XXH3_64bits(bytes, size); }

struct tarn_hash {
  XXH3_state_t state;
};

tarn_hash_t *tarn_hash_begin(void) {
  tarn_hash_t *h = tarn_aligned(64, (sizeof *h + 63) & ~(size_t)63);
  if (h) { XXH3_64bits_reset(&h->state); }
  return h;
}

void tarn_hash_add(tarn_hash_t *h, const void *bytes, size_t size) {
  XXH3_64bits_update(&h->state, bytes, size);
}

uint64_t tarn_hash_end(tarn_hash_t *h) {
  uint64_t hash = h ? XXH3_64bits_digest(&h->state) : 0;
  tarn_free(h);
  return hash;
}

static uint64_t image_offset_of(uint32_t block_count) {
  return tarn_image_align(TARN_FILE_HEADER_SIZE + 8 * (uint64_t)block_count);
}

/* The hash of a front as it stands in the file: not detached. Hashed in pieces, as the bytes given
 * are not ours to change. */
static uint64_t hash_front(const uint8_t *front, uint64_t front_size, const tarn_image_t *im) {
  if (!im->detached) { return tarn_hash64(front, front_size); }
  uint8_t fixed[TARN__IMAGE_FIXED];
  memcpy(fixed, front, sizeof fixed);
  tarn_image_set_detached(fixed, sizeof fixed, false);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, fixed, sizeof fixed);
  XXH3_64bits_update(&state, front + sizeof fixed, front_size - sizeof fixed);
  return XXH3_64bits_digest(&state);
}

int tarn_file_compose_header(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                             const uint64_t *sizes, uint32_t block_count, tarn_buf_t *out) {
  tarn_image_t im;
  int rc = tarn_image_open(front, front_size, &im, NULL);
  if (rc) { return rc; }
  if (im.block_count != block_count || (block_count && !im.detached)) { return TARN_EINVAL; }
  for (uint32_t i = 0; i < block_count; i++) {
    if (tarn_image_block_size(&im, i) != sizes[i]) { return TARN_EINVAL; }
  }
  uint64_t offset = image_offset_of(block_count);
  rc = tarn_buf_reserve(out, offset);
  if (rc) { return rc; }
  uint8_t *header = out->data + out->size;
  uint8_t *sums = header + TARN_FILE_HEADER_SIZE;
  memset(header, 0, offset);
  for (uint32_t i = 0; i < block_count; i++) {
    tarn__store64(sums + 8 * (size_t)i, tarn_hash64(blocks[i], sizes[i]));
  }
  memcpy(header, magic, sizeof magic);
  tarn__store32(header + AT_VERSION, FILE_VERSION);
  tarn__store32(header + AT_BLOCK_COUNT, block_count);
  tarn__store64(header + AT_FRONT_SIZE, front_size);
  tarn__store64(header + AT_FILE_SIZE, offset + im.total_size);
  tarn__store64(header + AT_FRONT_HASH, hash_front(front, front_size, &im));
  tarn__store64(header + AT_SUMS_HASH, tarn_hash64(sums, 8 * (size_t)block_count));
  tarn__store64(header + AT_HEADER_HASH, tarn_hash64(header, AT_HEADER_HASH));
  out->size += offset;
  return 0;
}

static bool all_zero(const uint8_t *bytes, uint64_t size) {
  for (uint64_t i = 0; i < size; i++) {
    if (bytes[i]) { return false; }
  }
  return true;
}

/* The 64 fixed bytes; on success info is filled in. */
static int check_fixed(const uint8_t *bytes, uint64_t file_size, tarn_file_info_t *info,
                       tarn_error_t *err) {
  if (memcmp(bytes, magic, sizeof magic) != 0) {
    bool arrow = memcmp(bytes, "ARROW1", 6) == 0;
    return tarn_error_set(err, TARN_ECORRUPT, "file: not a tarn file (first bytes)%s",
                          arrow ? ", but an Arrow file: tarn.arrow.load reads it" : "");
  }
  if (tarn__load32(bytes + AT_VERSION) != FILE_VERSION) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: format version %" PRIu32 ", this reads %d",
                          tarn__load32(bytes + AT_VERSION), FILE_VERSION);
  }
  if (tarn__load64(bytes + AT_HEADER_HASH) != tarn_hash64(bytes, AT_HEADER_HASH)) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: wrong checksum of the header");
  }
  tarn_file_info_t i = {.block_count = tarn__load32(bytes + AT_BLOCK_COUNT),
                        .front_size = tarn__load64(bytes + AT_FRONT_SIZE),
                        .file_size = tarn__load64(bytes + AT_FILE_SIZE),
                        .front_hash = tarn__load64(bytes + AT_FRONT_HASH)};
  i.image_offset = image_offset_of(i.block_count);
  if (i.file_size != file_size) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "file: %" PRIu64 " bytes long where the header says %" PRIu64, file_size,
                          i.file_size);
  }
  /* A hash is no proof against who wants to deceive, so all is bounded nevertheless. */
  if (!all_zero(bytes + AT_ZERO, 8) || i.block_count > TARN_IMAGE_MAX_BLOCKS ||
      i.image_offset > file_size || i.front_size == 0 ||
      i.front_size > file_size - i.image_offset) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: impossible sizes in the header");
  }
  *info = i;
  return 0;
}

int tarn_file_check_header(const uint8_t *bytes, uint64_t size, uint64_t file_size,
                           tarn_file_info_t *info, tarn_error_t *err) {
  if (file_size < TARN_FILE_HEADER_SIZE) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: %" PRIu64 " bytes are too few", file_size);
  }
  tarn_file_info_t i = {.image_offset = TARN_FILE_HEADER_SIZE};
  if (size >= TARN_FILE_HEADER_SIZE) {
    int rc = check_fixed(bytes, file_size, &i, err);
    if (rc) { return rc; }
  }
  if (size < i.image_offset) {
    info->image_offset = i.image_offset;
    return tarn_error_set(err, TARN_EAGAIN, "file: %" PRIu64 " bytes of header are needed",
                          i.image_offset);
  }
  const uint8_t *sums = bytes + TARN_FILE_HEADER_SIZE;
  uint64_t sums_size = 8 * (uint64_t)i.block_count;
  if (tarn__load64(bytes + AT_SUMS_HASH) != tarn_hash64(sums, sums_size) ||
      !all_zero(sums + sums_size, i.image_offset - TARN_FILE_HEADER_SIZE - sums_size)) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: wrong checksum of the block checksums");
  }
  *info = i;
  return 0;
}

/* The blocks that are small enough, each with the padding before it. */
static int check_blocks(const uint8_t *bytes, const tarn_file_info_t *info, const tarn_image_t *im,
                        uint64_t max_block_bytes, tarn_error_t *err) {
  const uint8_t *image = bytes + info->image_offset;
  uint64_t end = im->front_size;
  for (uint32_t i = 0; i < im->block_count; i++) {
    uint64_t at = tarn_image_align(end);
    uint64_t size = tarn_image_block_size(im, i);
    if (size <= max_block_bytes) {
      if (!all_zero(image + end, at - end)) {
        return tarn_error_set(err, TARN_ECORRUPT,
                              "file: padding before block %" PRIu32 " is not zero", i);
      }
      if (tarn_hash64(image + at, size) !=
          tarn__load64(bytes + TARN_FILE_HEADER_SIZE + 8 * (size_t)i)) {
        return tarn_error_set(err, TARN_ECORRUPT, "file: wrong checksum of block %" PRIu32, i);
      }
    }
    end = at + size;
  }
  return 0;
}

int tarn_file_verify(const uint8_t *bytes, uint64_t file_size, uint64_t max_block_bytes,
                     tarn_image_t *out, tarn_error_t *err) {
  tarn_file_info_t info;
  int rc = tarn_file_check_header(bytes, file_size, file_size, &info, err);
  if (rc) { return rc; }
  const uint8_t *image = bytes + info.image_offset;
  if (tarn_hash64(image, info.front_size) != info.front_hash) {
    return tarn_error_set(err, TARN_ECORRUPT, "file: wrong checksum of the front");
  }
  tarn_image_t im;
  rc = tarn_image_open(image, file_size - info.image_offset, &im, err);
  if (rc) { return rc; }
  if (im.detached || im.front_size != info.front_size || im.block_count != info.block_count) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "file: the image is not the one the header describes");
  }
  rc = check_blocks(bytes, &info, &im, max_block_bytes, err);
  if (rc) { return rc; }
  *out = im;
  return 0;
}
