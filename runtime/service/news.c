/* What process 1 tells all others of a member: that it is there, or is to be reached elsewhere. Where many come at about the same time, one message to each has
 * all of them: it leaves NEWS_MS after the first, or before process 1 itself says anything to anybody that Lua wants to be said, which may be about those. So n
 * that come at once cost about n messages for each NEWS_MS that it takes, not n (n - 1) / 2.
 *
 * [loop] */
#include "service-private.h"

#define NEWS_MS 100u
#define NEWS_BYTES_MAX (16u << 20)

int tarn__news_write(tarn_buf_t *b, const tarn_member_t *m) {
  int rc = tarn_mp_write_uint(b, m->id);
  rc |= tarn_mp_write_uint(b, m->incarnation);
  rc |= tarn_mp_write_int(b, m->os_pid);
  rc |= tarn_mp_write_cstr(b, m->address);
  return rc;
}

void tarn__news_send(tarn_service_t *s, const char *method, const tarn_buf_t *params,
                     uint32_t except) {
  size_t cursor = 0;
  uint64_t id = 0;
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    if (m->id == s->id || m->id == except || m->conn == NULL || m->address[0] == '\0') { continue; }
    tarn_buf_t b;
    tarn_buf_init(&b, NEWS_BYTES_MAX);
    if (tarn_buf_append(&b, params->data, params->size) == 0) {
      tarn__send_notice(s, m->conn, method, &b);
    }
    tarn_buf_release(&b);
  }
}

static void on_time(uv_timer_t *t) { tarn__news_tell(t->data); }

void tarn__news_add(tarn_service_t *s, tarn_member_t *m) {
  if (!m->is_news) { s->news_count++; }
  m->is_news = true;
  if (!uv_is_active((uv_handle_t *)&s->news)) { uv_timer_start(&s->news, on_time, NEWS_MS, 0); }
}

void tarn__news_drop(tarn_service_t *s, tarn_member_t *m) {
  if (m->is_news) { s->news_count--; }
  m->is_news = false;
}

void tarn__news_tell(tarn_service_t *s) {
  if (s->news_count == 0) { return; }
  size_t cursor = 0;
  uint64_t id = 0;
  tarn_buf_t b;
  tarn_buf_init(&b, NEWS_BYTES_MAX);
  int rc = tarn_mp_write_array(&b, s->news_count * 4);
  for (tarn_member_t *m; (m = tarn_map_next(&s->members, &cursor, &id)) != NULL;) {
    if (!m->is_news) { continue; }
    rc |= tarn__news_write(&b, m);
    tarn__news_drop(s, m);
  }
  if (rc == 0) { tarn__news_send(s, "member.up", &b, 0); } /* of itself each knows better */
  tarn_buf_release(&b);
  uv_timer_stop(&s->news);
}
