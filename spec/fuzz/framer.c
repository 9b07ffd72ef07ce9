/* Fuzz target: net/framer.c. The first byte says how the rest, a stream of frames, comes in pieces, the second what a frame may hold. However it is
 * cut, the same frames are found, and the same error at the same frame; and each is one value for the reader that takes it apart. */
#include <stdlib.h>
#include <string.h>

#include "image/mp.h"
#include "lib/must.h"
#include "lib/mutate.h"
#include "net/net.h"

enum { PREFIX = 2, DEPTH = 12, FRAMES_MAX = 64 };

typedef struct found {
  size_t ends[FRAMES_MAX];
  uint32_t count;
  int rc; /* of the last scan */
} found_t;

/* The size of the next piece: all, single bytes, or by lot. */
static size_t piece_of(uint64_t *random, uint8_t how, size_t left) {
  if (how == 0) { return left; }
  if (how == 1) { return 1; }
  *random = *random * 6364136223846793005u + 1442695040888963407u;
  size_t size = 1 + (size_t)(*random >> 33) % (how % 32 + 1u);
  return size < left ? size : left;
}

static void scan(const uint8_t *bytes, size_t size, uint64_t max_frame, uint8_t how, found_t *out) {
  tarn_framer_t *f = tarn_framer_create(max_frame, DEPTH);
  uint64_t random = how;
  size_t at = 0;
  *out = (found_t){0};
  while (at < size && out->rc >= 0 && out->count < FRAMES_MAX) {
    size_t left = piece_of(&random, how, size - at), used = 0;
    uint8_t *exact = malloc(left); /* of this size, so that a step beyond it is seen */
    memcpy(exact, bytes + at, left);
    tarn_error_t err = {0};
    out->rc = tarn_framer_scan(f, exact, left, &used, &err);
    free(exact);
    if (out->rc < 0) {
      MUST((out->rc == TARN_EPROTO || out->rc == TARN_ETOOBIG) && err.message[0] != '\0');
      MUST(tarn_framer_scan(f, bytes + at, 1, &used, &err) == out->rc); /* and stays failed */
      break;
    }
    MUST(used <= left && (out->rc == 1 ? used > 0 : used == left));
    at += used;
    if (out->rc == 1) { out->ends[out->count++] = at; }
  }
  tarn_framer_destroy(f);
}

static void check_frame(const uint8_t *bytes, size_t size, uint64_t max_frame) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  uint32_t count;
  uint64_t type;
  MUST(size <= max_frame);
  MUST(tarn_mp_skip(&r, DEPTH + 1) == 0 &&
       r.at == r.end); /* what is empty has no depth for the framer */
  r = (tarn_mp_reader_t){bytes, bytes + size};
  MUST(tarn_mp_read_array(&r, &count) == 0 && (count == 3 || count == 4));
  MUST(tarn_mp_read_uint(&r, 2, &type) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < PREFIX) { return 0; }
  uint64_t max_frame = data[1] == 0 ? 0 : data[1] * 8u;
  const uint8_t *bytes = data + PREFIX;
  size -= PREFIX;
  found_t whole, pieces;
  scan(bytes, size, max_frame, 0, &whole);
  scan(bytes, size, max_frame, data[0], &pieces);
  MUST(whole.count == pieces.count && whole.rc == pieces.rc);
  for (uint32_t i = 0; i < whole.count; i++) {
    size_t from = i > 0 ? whole.ends[i - 1] : 0;
    MUST(whole.ends[i] == pieces.ends[i]);
    check_frame(bytes + from, whole.ends[i] - from, max_frame ? max_frame : UINT64_MAX);
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  static const char *const words[] = {"ping", "hello", "", NULL};
  return fuzz_mutate(data, size, max_size, seed, PREFIX, words);
}
