/* Serializers that other processes may load from here: by name, the image of what lua/tarn/plug.lua makes of one. Lua offers, the loop serves:
 * so a process that computes, or waits itself for a serializer, still hands out its own. A mutex of their own. */
#include <string.h>
#include "service-private.h"

struct tarn_offer {
  struct tarn_offer *next;
  char *name;     /* owned */
  uint8_t *image; /* owned */
  size_t size;
};

static struct tarn_offer *find(tarn_service_t *s, const char *name, size_t length) {
  struct tarn_offer *o = s->offers;
  while (o != NULL && (strlen(o->name) != length || memcmp(o->name, name, length) != 0)) {
    o = o->next;
  }
  return o;
}

/* The entry for name, made if there is none. Null: out of memory. */
static struct tarn_offer *find_or_add(tarn_service_t *s, const char *name) {
  size_t length = strlen(name);
  struct tarn_offer *o = find(s, name, length);
  if (o != NULL) { return o; }
  o = tarn_calloc(1, sizeof(*o));
  char *copy = tarn_malloc(length + 1);
  if (o == NULL || copy == NULL) {
    tarn_free(o);
    tarn_free(copy);
    return NULL;
  }
  memcpy(copy, name, length + 1);
  o->name = copy;
  o->next = s->offers;
  s->offers = o;
  return o;
}

int tarn_service_offer(tarn_service_t *s, const char *name, const void *image, size_t size) {
  uint8_t *copy = tarn_malloc(size);
  if (copy == NULL) { return TARN_ENOMEM; }
  memcpy(copy, image, size);
  pthread_mutex_lock(&s->offers_mutex);
  struct tarn_offer *o = find_or_add(s, name);
  if (o != NULL) {
    tarn_free(o->image);
    o->image = copy;
    o->size = size;
  }
  pthread_mutex_unlock(&s->offers_mutex);
  if (o == NULL) { tarn_free(copy); }
  return o != NULL ? 0 : TARN_ENOMEM;
}

int tarn__offer_write(tarn_service_t *s, const uint8_t *name, size_t length, tarn_buf_t *out) {
  pthread_mutex_lock(&s->offers_mutex);
  const struct tarn_offer *o = find(s, (const char *)name, length);
  int rc = o != NULL ? tarn_buf_append(out, o->image, o->size) : tarn_mp_write_nil(out);
  pthread_mutex_unlock(&s->offers_mutex);
  return rc;
}

void tarn__offers_free(tarn_service_t *s) {
  while (s->offers != NULL) {
    struct tarn_offer *o = s->offers;
    s->offers = o->next;
    tarn_free(o->name);
    tarn_free(o->image);
    tarn_free(o);
  }
}
