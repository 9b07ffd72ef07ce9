/* Objects whose end somebody wants to know of (destructors). The records stand beside the objects: few have one. Any thread. */
#include "base/alloc.h"
#include "pool/pool-private.h"

int tarn_pool_watch(tarn_pool_t *pool, uint64_t id) {
  tarn__watch_t *w = tarn_calloc(1, sizeof *w);
  if (!w) { return TARN_ENOMEM; }
  w->id = id;
  tarn_list_init(&w->link);
  tarn__pool_lock(pool);
  tarn__object_t *o = tarn__object_find_locked(pool, id);
  int rc = o ? 0 : TARN_ENOENT;
  if (o && !o->watched) {
    rc = tarn_map_set(&pool->watches, id, w);
    if (rc == 0) {
      o->watched = true;
      w = NULL;
    }
  }
  tarn__pool_unlock(pool);
  tarn_free(w);
  return rc;
}

void tarn__watch_fire_locked(tarn_pool_t *pool, tarn__object_t *o) {
  tarn__watch_t *w = tarn_map_remove(&pool->watches, o->id);
  o->watched = false;
  if (w) { tarn_list_push_back(&pool->deleted, &w->link); }
}
