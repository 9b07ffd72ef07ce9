/* Where frames end in a stream of bytes.
 *
 * libmpack's tokenizer reads; here only what is still owed is counted: one number for each open
 * array or map, and `owed`, the values that have been announced and not begun. As each of them is
 * at least a byte, a frame that must exceed the bound is refused when it says so, not when it has
 * arrived. One thread; no allocation after create. */
#include <stdbool.h>
#include <string.h>
#include <mpack.h>
#include "base/alloc.h"
#include "net/net-private.h"

#define FEED_BYTES                                                                                 \
  ((size_t)1                                                                                       \
   << 30) /* libmpack's lengths are 32-bit: a pending bin and a buffer of 2^32 would loop */

enum { AT_OUTERMOST, AT_TYPE, AT_REST };

struct tarn_framer {
  mpack_tokbuf_t tokens;
  uint64_t max_frame, seen, owed; /* bytes, bytes, values */
  uint32_t max_depth, depth;
  uint8_t stage;
  int failed;
  uint64_t left[]; /* values to come in each open array or map */
};

tarn_framer_t *tarn_framer_create(uint64_t max_frame, uint32_t max_depth) {
  if (max_depth == 0) { max_depth = 1; }
  tarn_framer_t *f = tarn_malloc(sizeof *f + (size_t)max_depth * sizeof f->left[0]);
  if (!f) { return NULL; }
  f->max_depth = max_depth;
  tarn__framer_reset(f, max_frame);
  return f;
}

void tarn_framer_destroy(tarn_framer_t *f) { tarn_free(f); }

static void start(tarn_framer_t *f) {
  mpack_tokbuf_init(&f->tokens);
  f->seen = 0;
  f->owed = 1;
  f->depth = 0;
  f->stage = AT_OUTERMOST;
}

void tarn__framer_reset(tarn_framer_t *f, uint64_t max_frame) {
  f->max_frame = max_frame ? max_frame : (uint64_t)1 << 30;
  f->failed = 0;
  start(f);
}

uint64_t tarn__framer_need(const tarn_framer_t *f) { return f->owed + f->tokens.passthrough; }

/* A value is complete; is the frame? */
static bool complete(tarn_framer_t *f) {
  while (f->depth > 0 && --f->left[f->depth - 1] == 0) { f->depth--; }
  return f->depth == 0;
}

static int check_shape(tarn_framer_t *f, const mpack_token_t *t, tarn_error_t *err) {
  if (f->stage == AT_OUTERMOST) {
    if (t->type != MPACK_TOKEN_ARRAY || t->length < 3 || t->length > 4) {
      return tarn_error_set(err, TARN_EPROTO,
                            "not MessagePack-RPC: a message is an array of 3 or 4");
    }
    f->stage = AT_TYPE;
  } else if (f->stage == AT_TYPE) {
    if (t->type != MPACK_TOKEN_UINT || t->data.value.hi != 0 || t->data.value.lo > 2) {
      return tarn_error_set(err, TARN_EPROTO, "not MessagePack-RPC: a message's type is 0, 1 or 2");
    }
    f->stage = AT_REST;
  }
  return 0;
}

/* One token has been read: 1 when it ended the frame, 0, or an error. */
static int take(tarn_framer_t *f, const mpack_token_t *t, tarn_error_t *err) {
  if (t->type == MPACK_TOKEN_CHUNK) { return f->tokens.passthrough == 0 && complete(f); }
  int rc = f->stage == AT_REST ? 0 : check_shape(f, t, err);
  if (rc) { return rc; }
  f->owed--;
  uint64_t values = 0;
  if (t->type == MPACK_TOKEN_ARRAY) { values = t->length; }
  if (t->type == MPACK_TOKEN_MAP) { values = 2 * (uint64_t)t->length; }
  f->owed += values;
  if (f->seen + f->owed + f->tokens.passthrough > f->max_frame) {
    return tarn_error_set(err, TARN_ETOOBIG,
                          "a message of at least %llu bytes exceeds the bound of %llu",
                          (unsigned long long)(f->seen + f->owed + f->tokens.passthrough),
                          (unsigned long long)f->max_frame);
  }
  if (values > 0) {
    if (f->depth == f->max_depth) {
      return tarn_error_set(err, TARN_ETOOBIG, "a message is nested deeper than %u", f->max_depth);
    }
    f->left[f->depth++] = values;
    return 0;
  }
  return f->tokens.passthrough == 0 && complete(f);
}

int tarn_framer_scan(tarn_framer_t *f, const uint8_t *bytes, size_t size, size_t *used,
                     tarn_error_t *err) {
  if (f->failed) { return tarn_error_set(err, f->failed, "the stream was malformed before"); }
  const char *at = (const char *)bytes;
  size_t rest = size;
  int rc = 0;
  while (rest > 0 && rc == 0) {
    size_t feed = rest < FEED_BYTES ? rest : FEED_BYTES, before = feed;
    mpack_token_t token;
    int status = mpack_read(&f->tokens, &at, &feed, &token);
    rest -= before - feed;
    f->seen += before - feed;
    if (status == MPACK_OK) {
      rc = take(f, &token, err);
    } else if (status == MPACK_ERROR) {
      rc = tarn_error_set(err, TARN_EPROTO, "not MessagePack: byte 0xc1");
    }
  }
  if (rc < 0) {
    f->failed = rc;
    return rc;
  }
  *used = size - rest;
  if (rc == 1) { start(f); }
  return rc;
}
