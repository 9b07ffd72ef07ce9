/* The figures of tarn.poolstats, and how figures are written for other processes. */
#include <math.h>
#include <string.h>
#include "service-private.h"

int tarn__write_figure(tarn_buf_t *b, uint64_t v) {
  if (v <= UINT64_C(1) << 53) { return tarn_mp_write_uint(b, v); }
  return tarn_mp_write_double(b, v == UINT64_MAX ? (double)INFINITY : (double)v);
}

int tarn__write_figures(const tarn_figure_t *f, size_t count, tarn_buf_t *b) {
  int rc = 0;
  for (size_t i = 0; i < count; i++) {
    rc |= tarn_mp_write_cstr(b, f[i].name);
    rc |= tarn__write_figure(b, f[i].value);
  }
  return rc;
}

uint64_t tarn__lua_bytes(tarn_service_t *s) {
  const uint64_t *lua = atomic_load(&s->lua_bytes);
  return lua != NULL ? __atomic_load_n(lua, __ATOMIC_RELAXED) : 0;
}

void tarn_service_figures(tarn_pool_t *pool, tarn_service_t *s, uint64_t lua_bytes,
                          tarn_figure_t out[TARN_FIGURES]) {
  tarn_pool_stats_t p;
  tarn_service_stats_t n = {0};
  tarn_pool_get_stats(pool, &p);
  if (s != NULL) { tarn_service_get_stats(s, &n); }
  const tarn_figure_t figures[] = {{"objects", p.objects},
                                   {"live_bytes", p.live_bytes},
                                   {"resident_bytes", p.resident_bytes},
                                   {"inflight_bytes", p.inflight_bytes},
                                   {"lent_bytes", p.lent_bytes},
                                   {"borrowed_bytes", p.borrowed_bytes},
                                   {"spilled_bytes", p.spilled_bytes},
                                   {"disk_bytes", p.disk_bytes},
                                   {"lua_bytes", lua_bytes},
                                   {"max_memsize", p.max_memsize},
                                   {"max_disksize", p.max_disksize},
                                   {"sets", p.sets},
                                   {"gets", p.gets},
                                   {"deletes", p.deletes},
                                   {"evictions", p.evictions},
                                   {"spill_written_bytes", p.spill_written_bytes},
                                   {"mapped_back_bytes", p.mapped_back_bytes},
                                   {"mapped_in_bytes", n.mapped_in_bytes},
                                   {"mapped_in_count", n.mapped_in_count},
                                   {"tcp_in_bytes", n.tcp_in_bytes},
                                   {"tcp_out_bytes", n.tcp_out_bytes}};
  _Static_assert(sizeof(figures) == TARN_FIGURES * sizeof(out[0]), "every figure, once");
  memcpy(out, figures, sizeof(figures));
}
