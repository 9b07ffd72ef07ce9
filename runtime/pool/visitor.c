/* Visitors: values that came with a message and that nobody stores, but whose views a job holds. As
 * objects of the pool's own they stand in the order of eviction, so that received copies cannot
 * wedge the pool. Each piece remembers its visitor; the last one that is unmapped takes it along. */
#include <assert.h>
#include "pool/pool-private.h"

int tarn__visitor_enter_locked(tarn_pool_t *pool, tarn_value_t *v) {
  assert(!v->object);
  tarn__object_t *o = tarn__object_new_locked(pool, 0);
  if (!o) { return TARN_ENOMEM; }
  if (tarn__object_enter_locked(pool, o, NULL) != 0) {
    tarn__slab_give(&pool->slab, o);
    return TARN_ENOMEM;
  }
  (void)tarn__object_become_locked(o, v, NULL); /* v is no other's: nothing is taken */
  pool->sets--;                                 /* nobody has set it */
  pool->visitors++;
  pool->visitor_bytes += v->size;
  o->visitor = true;
  for (uint32_t i = 0; i < v->count; i++) {
    if (!v->pieces[i]->visitor) { v->pieces[i]->visitor = o; }
  }
  return 0;
}

int tarn_pool_visit(tarn_pool_t *pool, tarn_value_t *v) {
  assert(v->pool == pool && v->refs > 0);
  tarn__pool_lock(pool);
  int rc = v->object ? 0 : tarn__visitor_enter_locked(pool, v);
  if (rc == 0 && !tarn__room_for(pool, 0)) { tarn__evict_plan_locked(pool, 0); }
  tarn__pool_unlock(pool);
  return rc;
}

void tarn__visitor_left_locked(tarn__block_t *b) { tarn__visitor_check_locked(b->visitor->value); }

void tarn__visitor_check_locked(tarn_value_t *v) {
  if (v->refs > 0 || v->opening || v->loans > 0) { return; }
  for (uint32_t i = 0; i < v->count; i++) {
    if (v->pieces[i]->maps > 0) { return; }
  }
  if (v->object && v->object->visitor) { tarn__object_delete_locked(v->pool, v->object); }
}

void tarn__visitor_forget_locked(tarn__object_t *o) {
  tarn_value_t *v = o->value;
  for (uint32_t i = 0; i < v->count; i++) {
    if (v->pieces[i]->visitor == o) { v->pieces[i]->visitor = NULL; }
  }
  v->pool->visitors--;
  v->pool->visitor_bytes -= v->size;
}
