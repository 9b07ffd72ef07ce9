/* Fuzz target: image/. The first byte says what the rest is: an image; a file; a file whose checksums are made right first, so that what lies
 * behind them is reached. What is accepted must hold together: parts within the bytes, the same again when composed from its parts. */
#include <stdlib.h>

#include "base/alloc.h"
#include "image/file.h"
#include "image/image-private.h"
#include "lib/must.h"

typedef struct found {
  const uint8_t *from, *to;
  tarn_image_serializer_t serializers[64];
  tarn_image_ref_t refs[64];
  uint32_t serializer_count, ref_count;
} found_t;

static int on_serializer(void *user, uint32_t index, const tarn_image_serializer_t *s) {
  found_t *f = user;
  MUST(index == f->serializer_count && s->name_length > 0);
  MUST((const uint8_t *)s->name >= f->from && (const uint8_t *)s->name + s->name_length <= f->to);
  if (index < 64) { f->serializers[index] = *s; }
  f->serializer_count++;
  return 0;
}

static int on_ref(void *user, const tarn_image_ref_t *ref) {
  found_t *f = user;
  if (f->ref_count < 64) { f->refs[f->ref_count] = *ref; }
  f->ref_count++;
  return 0;
}

/* Every token, and the same token when it is written and read again. */
static void read_tokens(const uint8_t *bytes, uint64_t size) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  tarn_mp_token_t t, again;
  while (tarn_mp_read(&r, &t) == 0) {
    MUST(r.at > bytes && r.at <= bytes + size);
    tarn_buf_t b;
    tarn_buf_init(&b, SIZE_MAX / 2);
    int rc = 0;
    if (t.kind == TARN_MP_UINT) {
      rc = tarn_mp_write_uint(&b, t.v.u);
    } else if (t.kind == TARN_MP_INT) {
      rc = tarn_mp_write_int(&b, t.v.i);
    } else if (t.kind == TARN_MP_STR) {
      rc = tarn_mp_write_str(&b, t.bytes, t.length);
    } else if (t.kind == TARN_MP_BIN) {
      rc = tarn_mp_write_bin(&b, t.bytes, t.length);
    } else {
      rc = tarn_mp_write_nil(&b);
    }
    MUST(rc == 0);
    tarn_mp_reader_t w = {b.data, b.data + b.size};
    MUST(tarn_mp_read(&w, &again) == 0 && w.at == w.end);
    if (t.kind == TARN_MP_UINT || t.kind == TARN_MP_INT) { MUST(again.v.u == t.v.u); }
    if (t.kind == TARN_MP_STR || t.kind == TARN_MP_BIN) {
      MUST(again.kind == t.kind && again.length == t.length &&
           memcmp(again.bytes, t.bytes, t.length) == 0);
    }
    tarn_buf_release(&b);
  }
  r = (tarn_mp_reader_t){bytes, bytes + size};
  while (tarn_mp_skip(&r, 20) == 0 && r.at < r.end) {}
}

static void compose_again(const tarn_image_t *im, const found_t *f, const uint8_t *bytes) {
  if (f->serializer_count > 64 || f->ref_count > 64) { return; }
  uint64_t *sizes = calloc(im->block_count + 1u, sizeof *sizes);
  for (uint32_t i = 0; i < im->block_count; i++) { sizes[i] = tarn_image_block_size(im, i); }
  tarn_image_parts_t parts = {.skeleton = im->skeleton,
                              .skeleton_size = (size_t)im->skeleton_size,
                              .serializers = f->serializers,
                              .serializer_count = f->serializer_count,
                              .refs = f->refs,
                              .ref_count = f->ref_count,
                              .backrefs = im->backrefs,
                              .block_sizes = sizes,
                              .block_count = im->block_count};
  tarn_buf_t out;
  tarn_buf_init(&out, SIZE_MAX / 2);
  MUST(tarn_image_compose(&parts, &out) == 0);
  tarn_image_t again;
  tarn_error_t err;
  int rc = tarn_image_open(out.data, out.size, &again, &err);
  /* A bare skeleton is not looked into when it is composed; what it begins with may make it another form. */
  if (rc == 0 && (again.head || im->block_count)) {
    MUST(again.skeleton_size == im->skeleton_size && again.block_count == im->block_count);
    MUST(memcmp(again.skeleton, im->skeleton, (size_t)im->skeleton_size) == 0);
  }
  (void)bytes;
  free(sizes);
  tarn_buf_release(&out);
}

static void check_image(const uint8_t *bytes, uint64_t size) {
  tarn_image_t im;
  tarn_error_t err = {0};
  if (tarn_image_open(bytes, size, &im, &err) != 0) {
    MUST(err.message[0] != '\0');
    return;
  }
  MUST(im.skeleton >= bytes && im.skeleton_size > 0);
  MUST(im.skeleton + im.skeleton_size <= bytes + size);
  MUST(im.total_size >= im.front_size && (im.detached ? im.front_size : im.total_size) == size);
  uint64_t end = im.front_size;
  for (uint32_t i = 0; i < im.block_count; i++) {
    uint64_t at = i < 64 ? tarn_image_block_offset(&im, i) : tarn_image_align(end);
    MUST(at % TARN_IMAGE_ALIGN == 0 && at >= end);
    end = at + tarn_image_block_size(&im, i);
    MUST(end >= at && end <= im.total_size);
  }
  found_t f = {.from = bytes, .to = bytes + size};
  MUST(tarn_image_each_serializer(&im, on_serializer, &f) == 0);
  MUST(tarn_image_each_ref(&im, on_ref, &f) == 0);
  read_tokens(im.skeleton, im.skeleton_size);
  compose_again(&im, &f, bytes);
}

/* As if the writer had computed the checksums over what is there. */
static void mend_checksums(uint8_t *bytes, uint64_t size) {
  if (size < TARN_FILE_HEADER_SIZE) { return; }
  uint64_t count = tarn__load32(bytes + 12), front = tarn__load64(bytes + 16);
  tarn__store64(bytes + 24, size);
  uint64_t image = tarn_image_align(TARN_FILE_HEADER_SIZE + 8 * count);
  if (count < 1000 && image < size) {
    tarn_image_t im;
    if (tarn_image_open(bytes + image, size - image, &im, NULL) == 0 && !im.detached) {
      for (uint32_t i = 0; i < im.block_count && i < count; i++) {
        uint64_t at = image + tarn_image_block_offset(&im, i);
        tarn__store64(bytes + 64 + 8 * (size_t)i,
                      tarn_hash64(bytes + at, (size_t)tarn_image_block_size(&im, i)));
      }
    }
    if (front <= size - image) {
      tarn__store64(bytes + 32, tarn_hash64(bytes + image, (size_t)front));
    }
    tarn__store64(bytes + 40, tarn_hash64(bytes + 64, 8 * (size_t)count));
  }
  tarn__store64(bytes + 56, tarn_hash64(bytes, 56));
}

static void check_file(const uint8_t *bytes, uint64_t size) {
  tarn_file_info_t info;
  tarn_error_t err = {0};
  tarn_image_t im;
  if (size >= TARN_FILE_HEADER_SIZE) {
    int rc = tarn_file_check_header(bytes, size, size, &info, &err);
    if (rc == 0) { MUST(info.image_offset <= size && info.front_size <= size - info.image_offset); }
  }
  if (tarn_file_verify(bytes, size, 1 << 20, &im, &err) == 0) {
    MUST(im.skeleton > bytes && im.skeleton + im.skeleton_size <= bytes + size && !im.detached);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) { return 0; }
  uint8_t kind = data[0] % 3;
  size--;
  uint8_t *bytes = malloc(size + 1); /* of this size, so that a step beyond it is seen */
  uint8_t *exact = realloc(bytes, size ? size : 1);
  memcpy(exact, data + 1, size);
  if (kind == 2) { mend_checksums(exact, size); }
  if (kind == 0) {
    check_image(exact, size);
  } else {
    check_file(exact, size);
  }
  free(exact);
  return 0;
}
