/* See mutate.h. A message is copied value by value; at one of them, chosen by lot, something else is written. What is inside a bin, a str or an
 * extension, and is MessagePack itself, is walked in the same way, so that images and loans are reached. */
#include "mutate.h"

#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "image/mp.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

enum { DEPTH_MAX = 40, BYTES_MAX = 1 << 16 };

typedef struct walk {
  uint64_t random;
  int64_t until; /* values to copy before the one that is changed */
  const char *const *words;
  uint32_t word_count;
  const uint8_t *all, *end; /* the whole input */
} walk_t;

static uint32_t draw(walk_t *w, uint32_t below) { /* xorshift */
  w->random ^= w->random << 13;
  w->random ^= w->random >> 7;
  w->random ^= w->random << 17;
  return (uint32_t)(w->random >> 16) % below;
}

static int copy(walk_t *w, tarn_mp_reader_t *r, tarn_buf_t *out, int depth);

static bool is_bytes(const tarn_mp_token_t *t) {
  return t->kind == TARN_MP_STR || t->kind == TARN_MP_BIN || t->kind == TARN_MP_EXT;
}

static int put_bytes(tarn_buf_t *out, tarn_mp_kind_t kind, int8_t ext, const uint8_t *bytes,
                     uint32_t size) {
  if (kind == TARN_MP_STR) { return tarn_mp_write_str(out, bytes, size); }
  if (kind == TARN_MP_BIN) { return tarn_mp_write_bin(out, bytes, size); }
  int rc = tarn_mp_write_ext_header(out, ext, size);
  return rc ? rc : tarn_buf_append(out, bytes, size);
}

/* One or more whole values, and at least one of them a container? Then it is worth walking. */
static bool holds_values(const uint8_t *bytes, uint32_t size) {
  tarn_mp_reader_t r = {bytes, bytes + size};
  if (size < 2 || (bytes[0] & 0xe0) != 0x80) { return false; }
  while (r.at < r.end) {
    if (tarn_mp_skip(&r, DEPTH_MAX) != 0) { return false; }
  }
  return true;
}

static int copy_inner(walk_t *w, const tarn_mp_token_t *t, tarn_buf_t *out, int depth) {
  tarn_buf_t inner;
  tarn_buf_init(&inner, BYTES_MAX);
  tarn_mp_reader_t r = {t->bytes, t->bytes + t->length};
  int rc = 0;
  while (rc == 0 && r.at < r.end) { rc = copy(w, &r, &inner, depth + 1); }
  if (rc == 0) {
    rc = put_bytes(out, t->kind, (int8_t)t->ext_type, inner.data, (uint32_t)inner.size);
  }
  tarn_buf_release(&inner);
  return rc;
}

static int put_number(walk_t *w, tarn_buf_t *out) {
  static const uint64_t numbers[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     15,
                                     63,
                                     64,
                                     100,
                                     127,
                                     255,
                                     4095,
                                     4096,
                                     65535,
                                     65536,
                                     INT32_MAX,
                                     UINT32_MAX,
                                     1ull << 32,
                                     1ull << 40,
                                     1ull << 53,
                                     INT64_MAX,
                                     1ull << 63,
                                     UINT64_MAX - 1,
                                     UINT64_MAX};
  uint64_t v = numbers[draw(w, sizeof numbers / sizeof numbers[0])];
  if (draw(w, 8) == 0) { return tarn_mp_write_int(out, -(int64_t)(v >> 1) - 1); }
  if (draw(w, 8) == 0) { return tarn_mp_write_double(out, (double)v / 3); }
  return tarn_mp_write_uint(out, v);
}

static int put_scalar(walk_t *w, tarn_buf_t *out) {
  switch (draw(w, 8)) {
  case 0:
    return tarn_mp_write_nil(out);
  case 1:
    return tarn_mp_write_bool(out, draw(w, 2) == 0);
  case 2:
    return tarn_mp_write_array(out, 0);
  case 3:
    return tarn_mp_write_map(out, 0);
  case 4:
    return tarn_mp_write_cstr(out, w->words[draw(w, w->word_count)]);
  case 5:
    return tarn_mp_write_bin(out, "", 0);
  default:
    return put_number(w, out);
  }
}

/* A value from somewhere else in the input. */
static int put_other(walk_t *w, tarn_buf_t *out) {
  for (int tries = 0; tries < 8; tries++) {
    tarn_mp_reader_t r = {w->all + draw(w, (uint32_t)(w->end - w->all)), w->end};
    const uint8_t *from = r.at;
    if (tarn_mp_skip(&r, DEPTH_MAX) == 0) {
      return tarn_buf_append(out, from, (size_t)(r.at - from));
    }
  }
  return put_scalar(w, out);
}

static int put_mutated_bytes(walk_t *w, const tarn_mp_token_t *t, tarn_buf_t *out) {
  size_t room = t->length + 64;
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  int rc = tarn_buf_reserve(&b, room);
  if (rc == 0) {
    if (t->length > 0) { memcpy(b.data, t->bytes, t->length); }
    size_t size = LLVMFuzzerMutate(b.data, t->length, room);
    tarn_mp_kind_t kind = t->kind;
    if (draw(w, 8) == 0) { kind = kind == TARN_MP_BIN ? TARN_MP_STR : TARN_MP_BIN; }
    rc = put_bytes(out, kind, (int8_t)t->ext_type, b.data, (uint32_t)size);
  }
  tarn_buf_release(&b);
  return rc;
}

/* One element fewer, more, or twice. */
static int put_resized(walk_t *w, tarn_mp_reader_t *r, const tarn_mp_token_t *t, tarn_buf_t *out) {
  uint32_t n = t->length, at = draw(w, n + 1), how = draw(w, 3);
  uint32_t each = t->kind == TARN_MP_MAP ? 2 : 1, result = n + 1;
  if (how == 0) { result = n > 0 ? n - 1 : 0; }
  int rc = each == 2 ? tarn_mp_write_map(out, result) : tarn_mp_write_array(out, result);
  for (uint32_t i = 0; rc == 0 && i <= n; i++) {
    const uint8_t *from = r->at;
    for (uint32_t k = 0; rc == 0 && i < n && k < each; k++) { rc = tarn_mp_skip(r, DEPTH_MAX); }
    size_t size = (size_t)(r->at - from);
    if (rc == 0 && i == at && how == 1) {
      for (uint32_t k = 0; rc == 0 && k < each; k++) { rc = put_other(w, out); }
    } else if (rc == 0 && i == at && how == 2) {
      if (size > 0) {
        rc = tarn_buf_append(out, from, size);
      } else {
        for (uint32_t k = 0; rc == 0 && k < each; k++) { rc = put_scalar(w, out); }
      }
    }
    bool gone = how == 0 && (i == at || (at == n && i + 1 == n));
    if (rc == 0 && !gone && size > 0) { rc = tarn_buf_append(out, from, size); }
  }
  return rc;
}

static int skip_rest(tarn_mp_reader_t *r, const tarn_mp_token_t *t) {
  uint64_t values = t->kind == TARN_MP_ARRAY ? t->length
                    : t->kind == TARN_MP_MAP ? 2 * (uint64_t)t->length
                                             : 0;
  int rc = 0;
  for (uint64_t i = 0; rc == 0 && i < values; i++) { rc = tarn_mp_skip(r, DEPTH_MAX); }
  return rc;
}

static int change(walk_t *w, tarn_mp_reader_t *r, const tarn_mp_token_t *t, const uint8_t *from,
                  tarn_buf_t *out) {
  bool container = t->kind == TARN_MP_ARRAY || t->kind == TARN_MP_MAP;
  uint32_t how = draw(w, 8);
  if (container && how < 5) { return put_resized(w, r, t, out); }
  int rc = skip_rest(r, t);
  if (rc) { return rc; }
  if (is_bytes(t) && how < 4) { return put_mutated_bytes(w, t, out); }
  if (t->kind == TARN_MP_UINT && how < 2) {
    return tarn_mp_write_uint(out, t->v.u + draw(w, 5) - 2);
  }
  if (how == 7) { /* in an array of its own */
    rc = tarn_mp_write_array(out, 1);
    return rc ? rc : tarn_buf_append(out, from, (size_t)(r->at - from));
  }
  if (how == 6 || how == 5) { return put_other(w, out); }
  return put_scalar(w, out);
}

static int copy(walk_t *w, tarn_mp_reader_t *r, tarn_buf_t *out, int depth) {
  const uint8_t *from = r->at;
  tarn_mp_token_t t;
  if (depth > DEPTH_MAX || tarn_mp_read(r, &t) != 0) { return -1; }
  if (w->until-- == 0) { return change(w, r, &t, from, out); }
  if (is_bytes(&t) && holds_values(t.bytes, t.length)) { return copy_inner(w, &t, out, depth); }
  uint64_t values = t.kind == TARN_MP_ARRAY ? t.length
                    : t.kind == TARN_MP_MAP ? 2 * (uint64_t)t.length
                                            : 0;
  int rc = tarn_buf_append(out, from, (size_t)(r->at - from));
  for (uint64_t i = 0; rc == 0 && i < values; i++) { rc = copy(w, r, out, depth + 1); }
  return rc;
}

static int copy_all(walk_t *w, const uint8_t *from, size_t size, tarn_buf_t *out) {
  tarn_mp_reader_t r = {from, from + size};
  int rc = 0;
  while (rc == 0 && r.at < r.end) { rc = copy(w, &r, out, 0); }
  return rc;
}

/* A message left out, sent twice, or put last. */
static int shuffle(walk_t *w, const uint8_t *from, size_t size, tarn_buf_t *out) {
  const uint8_t *starts[64];
  uint32_t n = 0;
  tarn_mp_reader_t r = {from, from + size};
  while (r.at < r.end && n < 63) {
    starts[n++] = r.at;
    if (tarn_mp_skip(&r, DEPTH_MAX) != 0) { return -1; }
  }
  if (r.at < r.end || n == 0) { return -1; }
  starts[n] = r.end;
  uint32_t at = draw(w, n), how = draw(w, 3);
  int rc = 0;
  for (uint32_t i = 0; rc == 0 && i <= n; i++) {
    uint32_t which = i < n ? i : at;
    if ((i < n && i == at && how != 1) || (i == n && how == 0)) { continue; }
    rc = tarn_buf_append(out, starts[which], (size_t)(starts[which + 1] - starts[which]));
  }
  return rc;
}

size_t fuzz_mutate(uint8_t *data, size_t size, size_t max_size, unsigned seed, size_t prefix,
                   const char *const *words) {
  walk_t w = {.random = seed * 0x9e3779b97f4a7c15ull + 1,
              .until = INT64_MAX,
              .words = words,
              .all = data + prefix,
              .end = data + size};
  while (words[w.word_count]) { w.word_count++; }
  if (size <= prefix || draw(&w, 16) == 0) { return LLVMFuzzerMutate(data, size, max_size); }
  if (prefix > 0 && draw(&w, 16) == 0) {
    data[draw(&w, (uint32_t)prefix)] = (uint8_t)draw(&w, 256);
  }
  tarn_buf_t out;
  tarn_buf_init(&out, BYTES_MAX);
  int rc = copy_all(&w, data + prefix, size - prefix, &out); /* counts them */
  int64_t count = INT64_MAX - w.until;
  if (rc == 0) {
    bool whole = draw(&w, 8) == 0;
    for (uint32_t i = 0, n = 1 + draw(&w, 2); rc == 0 && i < n && count > 0; i++) {
      tarn_buf_t before = out; /* what the last round made */
      tarn_buf_init(&out, BYTES_MAX);
      w.until = draw(&w, (uint32_t)count);
      if (before.size == 0) {
        rc = -1;
      } else {
        w.all = before.data;
        w.end = before.data + before.size;
        rc = whole ? shuffle(&w, before.data, before.size, &out)
                   : copy_all(&w, before.data, before.size, &out);
      }
      tarn_buf_release(&before);
    }
  }
  size_t result = 0;
  if (rc == 0 && out.size > 0 && out.size <= max_size - prefix) {
    memcpy(data + prefix, out.data, out.size);
    result = prefix + out.size;
  }
  tarn_buf_release(&out);
  return result ? result : LLVMFuzzerMutate(data, size, max_size);
}
