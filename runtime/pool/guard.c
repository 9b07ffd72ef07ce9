/* Guards: what values hold outside of the pool. They stand beside the values: few have one. Twins share theirs. Any thread. */
#include <assert.h>
#include "pool/pool-private.h"

static uint64_t key_of(const tarn_value_t *v) { return (uint64_t)(uintptr_t)v; }

int tarn_value_set_guard(tarn_value_t *v, tarn_guard_t *guard) {
  tarn_pool_t *pool = v->pool;
  assert(!v->guarded);
  tarn__pool_lock(pool);
  int rc = tarn_map_set(&pool->guards, key_of(v), guard);
  v->guarded = rc == 0;
  if (rc == 0) { guard->values = 1; }
  tarn__pool_unlock(pool);
  return rc;
}

int tarn__guard_share_locked(const tarn_value_t *v, tarn_value_t *twin) {
  tarn_guard_t *guard = tarn_map_get(&v->pool->guards, key_of(v));
  if (tarn_map_set(&v->pool->guards, key_of(twin), guard) != 0) { return TARN_ENOMEM; }
  guard->values++;
  twin->guarded = true;
  return 0;
}

tarn_guard_t *tarn_value_guard(const tarn_value_t *v) {
  if (!v->guarded) { return NULL; }
  tarn__pool_lock(v->pool);
  tarn_guard_t *guard = tarn_map_get(&v->pool->guards, key_of(v));
  tarn__pool_unlock(v->pool);
  return guard;
}

void tarn__guard_drop_locked(tarn_value_t *v) {
  tarn_guard_t *guard = tarn_map_remove(&v->pool->guards, key_of(v));
  v->guarded = false;
  if (--guard->values > 0) { return; }
  guard->next = v->pool->unguarded;
  v->pool->unguarded = guard;
}
