/* The head of an image: [serializers, refs, flags]. Checked in one walk, the same that hands its
 * entries to callbacks, so that what was checked is what is read. Pure. Threads: any. */
#include "image/head-private.h"

static int read_serializer(tarn_mp_reader_t *r, tarn_image_serializer_t *s) {
  uint32_t fields, hash_length;
  uint64_t version;
  const uint8_t *name, *hash;
  if (tarn_mp_read_array(r, &fields) || fields != 3 ||
      tarn_mp_read_bytes(r, &name, &s->name_length) || s->name_length == 0 ||
      tarn_mp_read_uint(r, UINT32_MAX, &version) || tarn_mp_read_bytes(r, &hash, &hash_length) ||
      hash_length != 8) {
    return TARN_ECORRUPT;
  }
  s->name = (const char *)name;
  s->version = (uint32_t)version;
  s->hash = tarn__load64(hash);
  return 0;
}

static int read_ref(tarn_mp_reader_t *r, tarn_image_ref_t *ref) {
  uint32_t fields;
  uint64_t owner, id;
  if (tarn_mp_read_array(r, &fields) || fields != 2 || tarn_mp_read_uint(r, UINT32_MAX, &owner) ||
      tarn_mp_read_uint(r, UINT64_MAX, &id)) {
    return TARN_ECORRUPT;
  }
  ref->owner = (uint32_t)owner;
  ref->id = id;
  return 0;
}

int tarn__head_walk(tarn_mp_reader_t *r, const tarn__head_visitor_t *visitor, bool *backrefs) {
  uint32_t parts, count;
  if (tarn_mp_read_array(r, &parts) || parts != 3 || tarn_mp_read_array(r, &count)) {
    return TARN_ECORRUPT;
  }
  for (uint32_t i = 0; i < count; i++) {
    tarn_image_serializer_t s;
    int rc = read_serializer(r, &s);
    if (!rc && visitor->on_serializer) { rc = visitor->on_serializer(visitor->user, i, &s); }
    if (rc) { return rc; }
  }
  if (tarn_mp_read_array(r, &count)) { return TARN_ECORRUPT; }
  for (uint32_t i = 0; i < count; i++) {
    tarn_image_ref_t ref;
    int rc = read_ref(r, &ref);
    if (!rc && visitor->on_ref) { rc = visitor->on_ref(visitor->user, &ref); }
    if (rc) { return rc; }
  }
  uint64_t flags;
  if (tarn_mp_read_uint(r, 1, &flags)) { return TARN_ECORRUPT; }
  if (backrefs) { *backrefs = flags == 1; }
  return 0;
}

static int write_serializer(tarn_buf_t *out, const tarn_image_serializer_t *s) {
  uint8_t hash[8];
  tarn__store64(hash, s->hash);
  int rc = tarn_mp_write_array(out, 3);
  if (!rc) { rc = tarn_mp_write_str(out, s->name, s->name_length); }
  if (!rc) { rc = tarn_mp_write_uint(out, s->version); }
  if (!rc) { rc = tarn_mp_write_bin(out, hash, sizeof hash); }
  return rc;
}

static int write_ref(tarn_buf_t *out, const tarn_image_ref_t *ref) {
  int rc = tarn_mp_write_array(out, 2);
  if (!rc) { rc = tarn_mp_write_uint(out, ref->owner); }
  if (!rc) { rc = tarn_mp_write_uint(out, ref->id); }
  return rc;
}

int tarn__head_write(tarn_buf_t *out, const tarn_image_parts_t *parts) {
  if (!parts->serializer_count && !parts->ref_count && !parts->backrefs) { return 0; }
  int rc = tarn_mp_write_array(out, 3);
  if (!rc) { rc = tarn_mp_write_array(out, parts->serializer_count); }
  for (uint32_t i = 0; !rc && i < parts->serializer_count; i++) {
    rc = write_serializer(out, &parts->serializers[i]);
  }
  if (!rc) { rc = tarn_mp_write_array(out, parts->ref_count); }
  for (uint32_t i = 0; !rc && i < parts->ref_count; i++) { rc = write_ref(out, &parts->refs[i]); }
  return rc ? rc : tarn_mp_write_uint(out, parts->backrefs);
}
