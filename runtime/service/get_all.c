/* pool.get_all: many small values in one answer. Of what makes a value a matter of its own (blocks, references, a serializer, being live, being
 * elsewhere or gone) the answer has nil, and who asks comes again with pool.get, which knows what to do or what to say. */
#include "service-private.h"

#define VALUE_BYTES ((size_t)16 << 10) /* of an image: a larger one has an answer of its own */
#define ANSWER_BYTES ((size_t)1 << 20) /* from there on it is nil, too */

/* Append the object's image, if it is such a value. *taken: has it been? Not 0: no memory. */
static int append(tarn_service_t *s, uint64_t id, uint32_t flags, tarn_buf_t *out, bool *taken) {
  tarn_error_t err = {0};
  tarn_value_t *v = NULL;
  if (tarn_pool_get(s->pool, id, flags, &v, &err) != 0 || v == NULL) { return 0; }
  size_t size = 0;
  const uint8_t *image = tarn_value_front(v, &size);
  *taken =
      tarn_value_block_count(v) == 0 && size <= VALUE_BYTES && !tarn_image_has_head(image, size);
  int rc = *taken ? tarn_buf_append(out, image, size) : 0;
  tarn_value_release(v);
  return rc;
}

int tarn__get_all(tarn_service_t *s, tarn_conn_t *c, tarn_mp_reader_t *params, uint32_t count,
                  tarn_buf_t *out) {
  uint32_t flags = tarn__lend_same_host(s, c) ? 0 : TARN_GET_VERIFIED;
  int rc = tarn_mp_write_array(out, count / 2);
  for (uint32_t i = 0; rc == 0 && i < count / 2; i++) {
    uint64_t origin = 0, id = 0, local = 0;
    if (tarn_mp_read_uint(params, UINT32_MAX, &origin) != 0 ||
        tarn_mp_read_uint(params, UINT64_MAX, &id) != 0) {
      return TARN_EINVAL;
    }
    tarn_place_t at;
    bool taken = false;
    if (out->size < ANSWER_BYTES &&
        tarn_service_ref_find(s, (uint32_t)origin, id, &local, &at) == 0) {
      rc = append(s, local, flags, out, &taken);
    }
    if (rc == 0 && !taken) { rc = tarn_mp_write_nil(out); }
  }
  return rc;
}
