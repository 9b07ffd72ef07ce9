/* Cold objects. A small plain value that is out of memory needs only the place of its front on
 * disk: its value's and block's records, several times that size, are dropped and made anew when it
 * is read. So a small budget can have many small objects. The pool's mutex is held throughout. */
#include "base/alloc.h"
#include "pool/pool-private.h"

void tarn__object_freeze_locked(tarn_pool_t *pool, tarn__object_t *o) {
  tarn_value_t *v = o->value;
  if (!v || o->evicting || o->dead || o->place != TARN__NOWHERE) { return; }
  if (v->count != 1 || v->refs > 0 || v->holds != 1 || v->guarded) { return; }
  tarn__block_t *b = v->pieces[0];
  if (!b->on_disk || !b->pack || tarn__block_resident(b) || b->refs != 1 || b->busy) { return; }
  tarn_list_remove(&o->value_link);
  o->value = NULL;
  o->cold = true;
  o->cold_pack = b->pack;
  o->cold_offset = b->disk_offset;
  o->cold_size = b->pub.size;
  o->cold_hash = b->hash;
  tarn_list_remove(&b->link);
  pool->records -= sizeof *b + tarn__value_record_size(v);
  pool->value_count--;
  tarn_free(b);
  tarn_free(v);
  tarn__pool_changed_locked(pool);
}

int tarn__object_thaw_locked(tarn_pool_t *pool, tarn__object_t *o) {
  tarn_value_t *v = tarn__value_new(pool, 1);
  tarn__block_t *b = tarn__block_new(pool, o->cold_size, TARN__KIND_HEAP);
  if (!v || !b) {
    tarn_free(v);
    tarn_free(b);
    return TARN_ENOMEM;
  }
  b->refs = 1;
  b->pub.sealed = 1;
  b->on_disk = true;
  b->pack = o->cold_pack;
  b->disk_offset = o->cold_offset;
  b->hash = o->cold_hash;
  tarn__block_link_locked(b);
  v->pieces[0] = b;
  v->size = o->cold_size;
  v->holds = 1;
  pool->records += tarn__value_record_size(v);
  pool->value_count++;
  o->cold = false;
  o->value = v;
  o->live_size = o->gain = 0;
  tarn_list_init(&o->link);
  tarn_list_init(&o->queue_link);
  tarn_list_push_back(&v->objects, &o->value_link);
  return 0;
}
