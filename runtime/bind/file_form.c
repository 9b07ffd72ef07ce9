/* The form of a saved file (image/file.h) over a value's own bytes: nothing is copied but the header and the first bytes of the front. Lua thread. */
#include <string.h>

#include "base/alloc.h"
#include "bind/codec-private.h"
#include "image/file.h"

void tarn__file_form_clear(tarn__file_form_t *form) {
  tarn_free(form->parts);
  tarn_free(form->data);
  tarn_free(form->sizes);
  tarn_buf_release(&form->header);
  form->parts = NULL;
  form->data = NULL;
  form->sizes = NULL;
  form->part_count = form->count = 0;
}

static int form_gc(lua_State *L) {
  tarn__file_form_clear(lua_touserdata(L, 1));
  return 0;
}

static tarn__file_form_t *new_form(lua_State *L) {
  tarn__file_form_t *form = tarn__userdata_new(L, sizeof *form, "tarn.file_form", form_gc);
  tarn_buf_init(&form->header, (size_t)1 << 40);
  return form;
}

/* ---- what may be in a file ---- */

static int found_ref(void *ud, const tarn_image_ref_t *ref) {
  (void)ref;
  *(const char **)ud = "a DRef cannot be saved in a file: save what it refers to";
  return 1;
}

static int found_serializer(void *ud, uint32_t index, const tarn_image_serializer_t *s) {
  (void)index;
  if (s->name_length != 11 || memcmp(s->name, "tarn.future", 11) != 0) { return 0; }
  *(const char **)ud = "a Future cannot be saved in a file: save what it gives";
  return 1;
}

static void check_content(lua_State *L, const tarn__file_form_t *form, const char *path) {
  tarn_image_t im;
  tarn_error_t err = {0};
  const char *problem = NULL;
  if (tarn_image_open(form->front, form->front_size, &im, &err) != 0) {
    tarn__file_raise(L, path, &err);
  }
  if (tarn_image_each_ref(&im, found_ref, &problem) == 0) {
    (void)tarn_image_each_serializer(&im, found_serializer, &problem);
  }
  if (problem == NULL) { return; }
  tarn__failure_t f = {0};
  tarn__failure_set(&f, TARN__NOT_SERIALIZABLE, "%s", problem);
  tarn__failure_push(L, &f, 0);
  lua_error(L);
}

/* ---- its parts ---- */

static int take_blocks(tarn__file_form_t *form, const tarn_encoded_t *e, tarn_value_t *v) {
  form->data = tarn_calloc((size_t)form->count + 1, sizeof *form->data);
  form->sizes = tarn_calloc((size_t)form->count + 1, sizeof *form->sizes);
  if (!form->data || !form->sizes) { return TARN_ENOMEM; }
  for (uint32_t i = 0; i < form->count; i++) {
    const tarn_block_t *b = e ? e->blocks[i] : tarn_value_block(v, i);
    form->data[i] = b->data;
    form->sizes[i] = b->size;
  }
  return 0;
}

static int compose(const tarn__file_form_t *form, tarn_buf_t *header) {
  return tarn_file_compose_header(form->front, form->front_size, form->data, form->sizes,
                                  form->count, header);
}

static void add_part(tarn__file_form_t *form, const void *bytes, uint64_t size) {
  if (size == 0) { return; }
  form->parts[form->part_count++] = (tarn__file_part_t){bytes, (size_t)size, form->size};
  form->size += size;
}

/* In a file the blocks follow the front, which says so; the one in memory is not ours to change. */
static int list_parts(tarn__file_form_t *form) {
  static const char zeros[TARN_IMAGE_ALIGN];
  size_t head = form->front_size < sizeof form->fixed ? form->front_size : sizeof form->fixed;
  form->parts = tarn_calloc(3 + 2 * (size_t)form->count, sizeof *form->parts);
  if (!form->parts) { return TARN_ENOMEM; }
  memcpy(form->fixed, form->front, head);
  if (form->count > 0) { tarn_image_set_detached(form->fixed, head, false); }
  add_part(form, form->header.data, form->header.size);
  add_part(form, form->fixed, head);
  add_part(form, form->front + head, form->front_size - head);
  uint64_t at = form->front_size;
  for (uint32_t i = 0; i < form->count; i++) {
    uint64_t start = tarn_image_align(at);
    add_part(form, zeros, start - at);
    add_part(form, form->data[i], form->sizes[i]);
    at = start + form->sizes[i];
  }
  return 0;
}

tarn__file_form_t *tarn__file_form(lua_State *L, const char *path, const tarn_encoded_t *e,
                                   tarn_value_t *v) {
  tarn__file_form_t *form = new_form(L);
  form->front = e ? e->front : tarn_value_front(v, &form->front_size);
  if (e) { form->front_size = e->front_size; }
  form->count = e ? e->block_count : tarn_value_block_count(v);
  check_content(L, form, path);
  int rc = take_blocks(form, e, v);
  if (rc == 0) { rc = compose(form, &form->header); }
  if (rc == 0) { rc = list_parts(form); }
  if (rc == 0) { return form; }
  tarn_error_t err;
  tarn_error_set(&err, rc, "%s",
                 rc == TARN_ENOMEM ? "out of memory while saving" : "cannot be saved");
  tarn__file_form_clear(form);
  tarn__file_raise(L, path, &err);
  return NULL;
}

bool tarn__file_form_holds(const tarn__file_form_t *form) {
  tarn_buf_t again;
  tarn_buf_init(&again, (size_t)1 << 40);
  bool same = compose(form, &again) == 0 && again.size == form->header.size &&
              memcmp(again.data, form->header.data, again.size) == 0;
  tarn_buf_release(&again);
  return same;
}
