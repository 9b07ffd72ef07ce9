/* The order of eviction: an intrusive list, oldest first, every operation O(1) but parking, which
 * walks the pieces of one value. An object of which nothing can be freed (its small pieces are
 * mapped) leaves the list, so that it is not looked at again and again; the piece that keeps it
 * remembers it and puts it back. Those in limbo, whose pieces remember another or are on their way out as another's, come back
 * with any of them. The pool's mutex is held throughout. */
#include "pool/pool-private.h"

static void forget_parker(tarn__object_t *o) {
  for (uint32_t i = 0; i < o->value->count; i++) {
    if (o->value->pieces[i]->parker == o) { o->value->pieces[i]->parker = NULL; }
  }
}

void tarn__lru_remove(tarn_pool_t *pool, tarn__object_t *o) {
  assert(!o->evicting); /* its link is in the queue or a batch */
  if (o->place == TARN__PARKED) { forget_parker(o); }
  if (o->place == TARN__WANTED) { pool->wanted_bytes -= o->live_size; }
  tarn_list_remove(&o->link);
  o->place = TARN__NOWHERE;
}

void tarn__lru_touch(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__lru_remove(pool, o);
  tarn_list_push_back(&pool->lru, &o->link);
  o->place = TARN__IN_LRU;
}

void tarn__lru_oldest(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__lru_remove(pool, o);
  tarn_list_push_front(&pool->lru, &o->link);
  o->place = TARN__IN_LRU;
}

void tarn__lru_want(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__lru_remove(pool, o);
  tarn_list_push_back(&pool->wanted, &o->link);
  o->place = TARN__WANTED;
  pool->wanted_bytes += o->live_size;
}

void tarn__lru_unwant_all(tarn_pool_t *pool) {
  while (!tarn_list_empty(&pool->wanted)) {
    tarn__lru_oldest(pool, TARN_CONTAINER(pool->wanted.prev, tarn__object_t, link));
  }
}

/* Nothing of b can be freed now, but could be later. */
static bool keeps(const tarn__block_t *b) {
  bool in_memory = b->mem || (b->seg && !b->covered);
  return in_memory && (b->maps > 0 || b->planned || b->busy);
}

void tarn__lru_park(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__lru_remove(pool, o);
  bool kept = false;
  for (uint32_t i = 0; o->form == TARN__VALUE && i < o->value->count; i++) {
    tarn__block_t *b = o->value->pieces[i];
    kept |= keeps(b);
    if (b->maps == 0 || !b->mem || b->parker) { continue; }
    b->parker = o;
    tarn_list_push_back(&pool->parked, &o->link);
    o->place = TARN__PARKED;
    return;
  }
  if (kept) {
    tarn_list_push_back(&pool->limbo, &o->link);
    o->place = TARN__LIMBO;
  }
}

void tarn__lru_unlimbo(tarn_pool_t *pool) {
  while (!tarn_list_empty(&pool->limbo)) {
    tarn__lru_oldest(pool, TARN_CONTAINER(pool->limbo.prev, tarn__object_t, link));
  }
}

void tarn__lru_unpark(tarn_pool_t *pool, tarn__block_t *b) {
  if (!b->parker) { return; }
  tarn__lru_oldest(pool, b->parker);
  tarn__lru_unlimbo(pool);
  tarn__pool_changed_locked(pool); /* there is something to evict again */
}

tarn__object_t *tarn__lru_first(tarn_pool_t *pool) {
  return tarn_list_empty(&pool->lru) ? NULL : TARN_CONTAINER(pool->lru.next, tarn__object_t, link);
}
