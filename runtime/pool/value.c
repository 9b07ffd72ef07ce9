/* Values: the front of an image and its blocks, kept alike as pieces. Readers' references keep
 * every piece mapped: the first one maps them, the last one unmaps them; objects only hold the
 * record. Mappings are counted on the pieces, so a reader that comes while the last one is still
 * unmapping needs no waiting. Any thread. */
#include <assert.h>
#include <string.h>
#include "base/alloc.h"
#include "image/image.h"
#include "pool/pool-private.h"

size_t tarn__value_record_size(const tarn_value_t *v) {
  return sizeof *v + v->count * sizeof v->pieces[0];
}

tarn_value_t *tarn__value_new(tarn_pool_t *pool, uint32_t count) {
  tarn_value_t *v = tarn_calloc(1, sizeof *v + count * sizeof v->pieces[0]);
  if (!v) { return NULL; }
  v->pool = pool;
  v->count = count;
  return v;
}

static int add_name(void *user, uint32_t index, const tarn_image_serializer_t *s) {
  char *contents = user;
  size_t used = strlen(contents), gap = index > 0 ? 2 : 0;
  if (used + gap + s->name_length > TARN_CONTENTS_MAX) { return 1; }
  memcpy(contents + used, ", ", gap);
  memcpy(contents + used + gap, s->name, s->name_length);
  contents[used + gap + s->name_length] = '\0';
  return 0;
}

/* The serializers of what is in a value, for people. v is not known to anybody yet. */
static void note_contents(tarn_value_t *v, const uint8_t *front, size_t size) {
  tarn_image_t im;
  if (tarn_image_has_head(front, size) && tarn_image_open(front, size, &im, NULL) == 0) {
    (void)tarn_image_each_serializer(&im, add_name, v->contents);
  }
}

int tarn_value_create(tarn_pool_t *pool, uint8_t *front, size_t front_size,
                      tarn_block_t *const *blocks, uint32_t block_count, tarn_value_t **out,
                      tarn_error_t *err) {
  tarn_value_t *v = tarn__value_new(pool, block_count + 1);
  tarn__block_t *f = tarn__block_new(pool, front_size, TARN__KIND_HEAP);
  if (!v || !f) {
    tarn_free(v);
    tarn__block_discard(f);
    return tarn_error_set(err, TARN_ENOMEM, "no memory for a value of %u blocks", block_count);
  }
  v->refs = 1;
  v->pieces[0] = f;
  f->pub.sealed = 1;
  f->pub.data = f->mem = front;
  f->refs = 2;
  f->maps = 1;
  tarn__pool_lock(pool);
  tarn__block_link_locked(f);
  pool->heap += tarn__heap_charge(front_size);
  pool->records += tarn__value_record_size(v);
  pool->value_count++;
  v->size = front_size;
  for (uint32_t i = 0; i < block_count; i++) {
    tarn__block_t *b = tarn__block(blocks[i]);
    assert(b->pool == pool && b->maps > 0);
    v->pieces[i + 1] = b;
    if (b->pub.sealed == 0) { b->pub.sealed = 1; }
    if (b->unsummed) { (void)tarn__look_at_locked(b); }
    if (!b->counted) { v->size += b->pub.size; }
    b->counted = true;
  }
  for (uint32_t i = 1; i < v->count; i++) { v->pieces[i]->counted = false; }
  tarn__pool_unlock(pool);
  if (v->size > TARN__SMALL_MAX) { note_contents(v, front, front_size); }
  *out = v;
  return 0;
}

tarn_value_t *tarn__value_twin_locked(tarn_value_t *v) {
  tarn_value_t *twin = tarn__value_new(v->pool, v->count);
  if (!twin) { return NULL; }
  if (v->guarded && tarn__guard_share_locked(v, twin) != 0) {
    tarn_free(twin);
    return NULL;
  }
  for (uint32_t i = 0; i < v->count; i++) {
    twin->pieces[i] = v->pieces[i];
    tarn__block_ref_locked(v->pieces[i]);
  }
  twin->size = v->size;
  memcpy(twin->contents, v->contents, sizeof(twin->contents));
  v->pool->records += tarn__value_record_size(twin);
  v->pool->value_count++;
  return twin;
}

void tarn__value_hold_locked(tarn_value_t *v) { v->holds++; }

void tarn__value_unhold_locked(tarn_value_t *v) {
  assert(v->holds > 0);
  if (--v->holds > 0 || v->refs > 0) { return; }
  tarn_pool_t *pool = v->pool;
  pool->records -= tarn__value_record_size(v);
  pool->value_count--;
  if (v->guarded) { tarn__guard_drop_locked(v); }
  for (uint32_t i = 0; i < v->count; i++) {
    tarn__block_t *b = v->pieces[i];
    /* Another object may share it that has been evicted, and which no eviction would look at again.
     */
    if (b->refs > 1 && b->mem) { tarn__block_vacate_locked(b); }
    tarn__block_unref_locked(b);
  }
  tarn_free(v);
}

void tarn_value_retain(tarn_value_t *v) {
  tarn__pool_lock(v->pool);
  assert(v->refs > 0);
  v->refs++;
  tarn__pool_unlock(v->pool);
}

void tarn__value_close_locked(tarn_value_t *v) {
  if (--v->refs > 0) { return; }
  for (uint32_t i = 0; i < v->count; i++) { tarn__block_unmap_locked(v->pieces[i]); }
}

void tarn_value_release(tarn_value_t *v) {
  tarn_pool_t *pool = v->pool;
  tarn__pool_lock(pool);
  assert(v->refs > 0);
  v->holds++;
  tarn__value_close_locked(v);
  tarn__object_t *o = v->object;
  tarn__value_unhold_locked(v);
  if (o) { tarn__small_freeze_locked(pool, o); }
  tarn__pool_unlock(pool);
}

/* Heap bytes that opening v would load. */
static uint64_t bytes_to_load(const tarn_value_t *v) {
  uint64_t need = 0;
  for (uint32_t i = 0; i < v->count; i++) {
    const tarn__block_t *b = v->pieces[i];
    if (!tarn__block_resident(b) && b->disk_size == 0) { need += tarn__heap_charge(b->pub.size); }
  }
  return need;
}

int tarn__value_sound_locked(tarn_value_t *v, uint32_t flags, tarn_error_t *err) {
  bool wholly = (flags & TARN_GET_VERIFIED) != 0;
  int rc = 0;
  for (uint32_t i = 0; i < v->count && rc == 0; i++) {
    rc = wholly ? tarn__block_verified_locked(v->pieces[i], flags, err)
                : tarn__block_sound_locked(v->pieces[i], err);
  }
  return rc;
}

int tarn__value_open_locked(tarn_value_t *v, uint32_t flags, tarn_error_t *err) {
  tarn_pool_t *pool = v->pool;
  int rc = 0;
  while (v->refs == 0 && v->opening) {
    if ((flags & TARN_BLOCK_WAIT) == 0) {
      pool->owed = true;
      return tarn_error_set(err, TARN_EAGAIN, "%s", tarn_error_text(TARN_EAGAIN));
    }
    tarn__pool_wait_locked(pool);
  }
  if (v->refs > 0) {
    v->refs++;
    rc = tarn__value_sound_locked(v, flags, err);
    if (rc != 0) { tarn__value_close_locked(v); }
    return rc;
  }
  v->opening = true;
  uint64_t credit = bytes_to_load(v);
  rc = credit > 0 ? tarn__room_reserve_locked(pool, credit, flags, err) : 0;
  if (rc != 0) { credit = 0; }
  uint32_t mapped = 0;
  while (rc == 0 && mapped < v->count) {
    rc = tarn__block_map_locked(v->pieces[mapped], flags, &credit, err);
    if (rc == 0) { mapped++; }
  }
  pool->reserved -= credit;
  if (rc == 0) {
    v->refs = 1;
  } else {
    while (mapped > 0) { tarn__block_unmap_locked(v->pieces[--mapped]); }
  }
  v->opening = false;
  tarn__pool_changed_locked(pool);
  if (rc == 0 && (flags & TARN_GET_VERIFIED) != 0) {
    rc = tarn__value_sound_locked(v, flags, err);
    if (rc != 0) { tarn__value_close_locked(v); }
  }
  return rc;
}

const uint8_t *tarn_value_front(const tarn_value_t *v, size_t *size) {
  if (size) { *size = (size_t)v->pieces[0]->pub.size; }
  return v->pieces[0]->pub.data;
}

uint32_t tarn_value_block_count(const tarn_value_t *v) { return v->count - 1; }

tarn_block_t *tarn_value_block(const tarn_value_t *v, uint32_t index) {
  assert(index + 1 < v->count);
  return &v->pieces[index + 1]->pub;
}

uint64_t tarn_value_size(const tarn_value_t *v) { return v->size; }

bool tarn_value_is_borrowed(const tarn_value_t *v) {
  for (uint32_t i = 1; i < v->count; i++) {
    if (v->pieces[i]->pub.kind == TARN__KIND_BORROWED) { return true; }
  }
  return false;
}
