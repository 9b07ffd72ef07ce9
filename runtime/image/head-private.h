/* Reading and writing the head of an image, between image.c and head.c. */
#ifndef TARN_IMAGE_HEAD_PRIVATE_H
#define TARN_IMAGE_HEAD_PRIVATE_H

#include "image/image-private.h"
#include "image/image.h"

typedef struct tarn__head_visitor {
  int (*on_serializer)(void *user, uint32_t index,
                       const tarn_image_serializer_t *s); /* null allowed */
  int (*on_ref)(void *user, const tarn_image_ref_t *ref); /* null allowed */
  void *user;
} tarn__head_visitor_t;

/* Read one head, leaving r behind it. TARN_ECORRUPT, or what a callback returned. backrefs: null
 * allowed. */
int tarn__head_walk(tarn_mp_reader_t *r, const tarn__head_visitor_t *visitor, bool *backrefs);

/* Append the head that parts need: nothing when they need none. On failure a part of it may have
 * been written. */
int tarn__head_write(tarn_buf_t *out, const tarn_image_parts_t *parts);

#endif
