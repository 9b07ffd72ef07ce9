/* Messages under way, by the connections on which they are: each may have the last hold of a value, so who needs room may wait for them to leave. One
 * whose receiver does not read stalls nobody for longer than the patience, whatever leaves by other connections. */
#include "pool/pool-private.h"

#include "base/alloc.h"
#include "base/clock.h"

static tarn__way_t *way_locked(tarn_pool_t *pool, uint64_t connection) {
  for (tarn_list_t *l = pool->ways.next; l != &pool->ways; l = l->next) {
    tarn__way_t *w = TARN_CONTAINER(l, tarn__way_t, link);
    if (w->connection == connection) { return w; }
  }
  tarn__way_t *w = tarn_malloc(sizeof *w);
  if (!w) { return NULL; }
  tarn_list_init(&w->messages);
  w->connection = connection;
  w->moved_ns = tarn_clock_ns();
  tarn_list_push_back(&pool->ways, &w->link);
  return w;
}

int tarn_pool_sending(tarn_pool_t *pool, uint64_t connection, tarn_message_t *m) {
  tarn__pool_lock(pool);
  tarn__way_t *w = way_locked(pool, connection);
  if (w) {
    m->way = w;
    m->number = pool->messages++;
    tarn_list_push_back(&w->messages, &m->link);
  }
  tarn__pool_unlock(pool);
  return w ? 0 : TARN_ENOMEM;
}

void tarn_pool_sent(tarn_pool_t *pool, tarn_message_t *m) {
  tarn__pool_lock(pool);
  tarn__way_t *w = m->way;
  w->moved_ns = tarn_clock_ns();
  tarn_list_remove(&m->link);
  if (tarn_list_empty(&w->messages)) {
    tarn_list_remove(&w->link);
    tarn_free(w);
  }
  tarn__pool_changed_locked(pool);
  tarn__pool_unlock(pool);
}

uint64_t tarn__sends_until_locked(const tarn_pool_t *pool, const tarn__room_t *room) {
  uint64_t until = 0;
  for (const tarn_list_t *l = pool->ways.next; l != &pool->ways; l = l->next) {
    const tarn__way_t *w = TARN_CONTAINER(l, tarn__way_t, link);
    const tarn_message_t *oldest = TARN_CONTAINER(w->messages.next, tarn_message_t, link);
    uint64_t end = w->moved_ns + pool->config.patience_ns;
    if (oldest->number < room->messages && end > until) { until = end; }
  }
  return until > tarn_clock_ns() ? until : 0;
}
