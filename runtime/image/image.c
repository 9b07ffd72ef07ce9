/* The image: opening and composing its three forms. Every size read is bounded before it is added
 * to another, and the offsets of blocks are sums of sizes, so nothing can overlap or point outside.
 * Pure. Threads: any. */
#include "image/image.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "image/head-private.h"

static const uint8_t magic[4] = {0xc1, 'T', 'R', 'N'};

/* Sums stay below this, so that whoever adds one more size, or takes a difference, cannot
 * overflow. */
#define TOTAL_MAX ((uint64_t)INT64_MAX - TARN_IMAGE_ALIGN)

/* The size of the contiguous form: 0, or TARN_ETOOBIG. sizes: little-endian, unaligned. */
static int add_blocks(uint64_t front_size, const uint8_t *sizes, uint32_t count, uint64_t *total) {
  uint64_t at = front_size;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t size = tarn__load64(sizes + 8 * (size_t)i);
    at = tarn_image_align(at);
    if (at > TOTAL_MAX || size > TOTAL_MAX - at) { return TARN_ETOOBIG; }
    at += size;
  }
  *total = at;
  return 0;
}

static int check_head(const uint8_t *head, uint64_t size, bool *backrefs, tarn_error_t *err) {
  tarn_mp_reader_t r = {head, head + size};
  tarn__head_visitor_t none = {0};
  if (tarn__head_walk(&r, &none, backrefs)) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: malformed head, near its byte %td",
                          r.at - head);
  }
  if (r.at != r.end) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "image: the head ends at its byte %td, not at %" PRIu64, r.at - head,
                          size);
  }
  return 0;
}

/* The whole input is one extension: a head, then the skeleton. */
static int open_headed(const uint8_t *bytes, uint64_t size, const tarn_mp_token_t *ext,
                       tarn_image_t *out, tarn_error_t *err) {
  const uint8_t *end = ext->bytes + ext->length;
  if (end != bytes + size) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: ends at byte %td of %" PRIu64, end - bytes,
                          size);
  }
  tarn_mp_reader_t r = {ext->bytes, end};
  tarn__head_visitor_t none = {0};
  bool backrefs = false;
  if (tarn__head_walk(&r, &none, &backrefs)) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: malformed head, near byte %td", r.at - bytes);
  }
  if (r.at == end) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: no skeleton behind the head");
  }
  *out = (tarn_image_t){.head = ext->bytes,
                        .head_size = (uint32_t)(r.at - ext->bytes),
                        .skeleton = r.at,
                        .skeleton_size = (uint64_t)(end - r.at),
                        .backrefs = backrefs,
                        .front_size = size,
                        .total_size = size};
  return 0;
}

/* The fixed header of the form with blocks, and that the front lies within the input. */
static int check_fixed(const uint8_t *bytes, uint64_t size, tarn_image_t *im, tarn_error_t *err) {
  if (size < TARN__IMAGE_FIXED || memcmp(bytes, magic, sizeof magic) != 0) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: not an image (first bytes)");
  }
  if (bytes[4] != TARN_IMAGE_VERSION) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: version %u, this reads %d", bytes[4],
                          TARN_IMAGE_VERSION);
  }
  if ((bytes[5] & ~TARN__FLAG_DETACHED) || bytes[6] || bytes[7] || tarn__load64(bytes + 24)) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "image: unknown flags at byte 5, or bytes that must be zero");
  }
  uint32_t head_size = tarn__load32(bytes + 8);
  uint32_t count = tarn__load32(bytes + 12);
  uint64_t skeleton_size = tarn__load64(bytes + 16);
  if (count == 0 || count > TARN_IMAGE_MAX_BLOCKS) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: %" PRIu32 " blocks at byte 12", count);
  }
  uint64_t before = TARN__IMAGE_FIXED + 8 * (uint64_t)count + head_size; /* < 2^34 */
  if (before > size || skeleton_size == 0 || skeleton_size > size - before) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "image: a head of %" PRIu32 " and a skeleton of %" PRIu64
                          " bytes do not fit in %" PRIu64 " bytes",
                          head_size, skeleton_size, size);
  }
  im->detached = bytes[5] & TARN__FLAG_DETACHED;
  im->block_count = count;
  im->block_sizes = bytes + TARN__IMAGE_FIXED;
  im->head_size = head_size;
  im->head = head_size ? bytes + before - head_size : NULL;
  im->skeleton = bytes + before;
  im->skeleton_size = skeleton_size;
  im->front_size = before + skeleton_size;
  return 0;
}

static int open_blocks(const uint8_t *bytes, uint64_t size, tarn_image_t *out, tarn_error_t *err) {
  tarn_image_t im = {0};
  int rc = check_fixed(bytes, size, &im, err);
  if (rc) { return rc; }
  if (add_blocks(im.front_size, im.block_sizes, im.block_count, &im.total_size)) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "image: block sizes at byte 32 that add up to too much");
  }
  uint64_t expected = im.detached ? im.front_size : im.total_size;
  if (expected != size) {
    return tarn_error_set(err, TARN_ECORRUPT,
                          "image: %" PRIu64 " bytes where %" PRIu64 " are expected", size,
                          expected);
  }
  if (im.head) {
    rc = check_head(im.head, im.head_size, &im.backrefs, err);
    if (rc) { return rc; }
  }
  *out = im;
  return 0;
}

int tarn_image_open(const uint8_t *bytes, uint64_t size, tarn_image_t *out, tarn_error_t *err) {
  if (size == 0) { return tarn_error_set(err, TARN_ECORRUPT, "image: empty"); }
  if (size > TOTAL_MAX) { return tarn_error_set(err, TARN_ECORRUPT, "image: impossible size"); }
  if (bytes[0] == magic[0]) { return open_blocks(bytes, size, out, err); }
  tarn_mp_reader_t r = {bytes, bytes + size};
  tarn_mp_token_t first;
  if (tarn_mp_read(&r, &first)) {
    return tarn_error_set(err, TARN_ECORRUPT, "image: the skeleton is cut off in its first token");
  }
  if (first.kind == TARN_MP_EXT && first.ext_type == TARN_EXT_HEADED) {
    return open_headed(bytes, size, &first, out, err);
  }
  *out = (tarn_image_t){
      .skeleton = bytes, .skeleton_size = size, .front_size = size, .total_size = size};
  return 0;
}

bool tarn_image_has_head(const uint8_t *bytes, uint64_t size) {
  if (bytes == NULL || size < 4) { return false; }
  switch (bytes[0]) {
  case 0xc1: /* with blocks: the size of its head */
    return size >= 12 && (bytes[8] | bytes[9] | bytes[10] | bytes[11]) != 0;
  case 0xc7: /* extensions of one, two and four bytes of length, and of fixed ones */
    return bytes[2] == TARN_EXT_HEADED;
  case 0xc8:
    return bytes[3] == TARN_EXT_HEADED;
  case 0xc9:
    return size > 5 && bytes[5] == TARN_EXT_HEADED;
  default:
    return bytes[0] >= 0xd4 && bytes[0] <= 0xd8 && bytes[1] == TARN_EXT_HEADED;
  }
}

uint64_t tarn_image_block_size(const tarn_image_t *im, uint32_t index) {
  return index < im->block_count ? tarn__load64(im->block_sizes + 8 * (size_t)index) : 0;
}

uint64_t tarn_image_block_offset(const tarn_image_t *im, uint32_t index) {
  uint64_t at = tarn_image_align(im->front_size);
  for (uint32_t i = 0; i < index; i++) { at = tarn_image_align(at + tarn_image_block_size(im, i)); }
  return at;
}

void tarn_image_set_detached(uint8_t *front, uint64_t front_size, bool detached) {
  if (front_size >= TARN__IMAGE_FIXED && front[0] == magic[0]) {
    front[5] = detached ? TARN__FLAG_DETACHED : 0;
  }
}

static int walk(const tarn_image_t *im, const tarn__head_visitor_t *visitor) {
  if (!im->head) { return 0; }
  tarn_mp_reader_t r = {im->head, im->head + im->head_size};
  return tarn__head_walk(&r, visitor, NULL);
}

int tarn_image_each_serializer(const tarn_image_t *im,
                               int (*fn)(void *ud, uint32_t index,
                                         const tarn_image_serializer_t *s),
                               void *ud) {
  tarn__head_visitor_t visitor = {.on_serializer = fn, .user = ud};
  return walk(im, &visitor);
}

int tarn_image_each_ref(const tarn_image_t *im, int (*fn)(void *ud, const tarn_image_ref_t *ref),
                        void *ud) {
  tarn__head_visitor_t visitor = {.on_ref = fn, .user = ud};
  return walk(im, &visitor);
}

/* The fixed header and the block sizes. All sizes have been checked by the caller to fit. */
static int append_fixed(const tarn_image_parts_t *parts, uint32_t head_size, tarn_buf_t *out) {
  uint8_t fixed[TARN__IMAGE_FIXED] = {0};
  memcpy(fixed, magic, sizeof magic);
  fixed[4] = TARN_IMAGE_VERSION;
  fixed[5] = TARN__FLAG_DETACHED;
  tarn__store32(fixed + 8, head_size);
  tarn__store32(fixed + 12, parts->block_count);
  tarn__store64(fixed + 16, parts->skeleton_size);
  int rc = tarn_buf_append(out, fixed, sizeof fixed);
  return rc ? rc : tarn_buf_append(out, parts->block_sizes, 8 * (size_t)parts->block_count);
}

static int append_front(const tarn_image_parts_t *parts, const tarn_buf_t *head, tarn_buf_t *out) {
  uint64_t body, total;
  if (head->size > UINT32_MAX || __builtin_add_overflow(head->size, parts->skeleton_size, &body) ||
      body > TOTAL_MAX / 2 || parts->block_count > TARN_IMAGE_MAX_BLOCKS) {
    return TARN_ETOOBIG;
  }
  int rc = 0;
  if (parts->block_count) {
    uint64_t front_size = TARN__IMAGE_FIXED + 8 * (uint64_t)parts->block_count + body;
    rc = add_blocks(front_size, (const uint8_t *)parts->block_sizes, parts->block_count, &total);
    if (!rc) { rc = tarn_buf_reserve(out, front_size); }
    if (!rc) { rc = append_fixed(parts, (uint32_t)head->size, out); }
  } else if (head->size) {
    rc = tarn_mp_write_ext_header(out, TARN_EXT_HEADED, body);
    if (!rc) { rc = tarn_buf_reserve(out, body); }
  }
  if (!rc) { rc = tarn_buf_append(out, head->data, head->size); }
  return rc ? rc : tarn_buf_append(out, parts->skeleton, parts->skeleton_size);
}

int tarn_image_compose(const tarn_image_parts_t *parts, tarn_buf_t *out) {
  if (parts->skeleton_size == 0) { return TARN_EINVAL; }
  size_t size_before = out->size;
  tarn_buf_t head;
  tarn_buf_init(&head, UINT32_MAX);
  int rc = tarn__head_write(&head, parts);
  if (!rc) { rc = append_front(parts, &head, out); }
  if (rc) { out->size = size_before; }
  tarn_buf_release(&head);
  return rc;
}

static void append_zeros(tarn_buf_t *out, size_t count) {
  memset(out->data + out->size, 0, count);
  out->size += count;
}

int tarn_image_join(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                    tarn_buf_t *out) {
  tarn_image_t im;
  int rc = tarn_image_open(front, front_size, &im, NULL);
  if (rc) { return rc; }
  if (im.block_count && !im.detached) { return TARN_EINVAL; }
  rc = tarn_buf_reserve(out, im.total_size);
  if (rc) { return rc; }
  size_t start = out->size;
  tarn_buf_append(out, front, front_size);
  tarn_image_set_detached(out->data + start, front_size, false);
  for (uint32_t i = 0; i < im.block_count; i++) {
    uint64_t at = out->size - start;
    append_zeros(out, tarn_image_align(at) - at);
    tarn_buf_append(out, blocks[i], tarn_image_block_size(&im, i));
  }
  return 0;
}
