/* Events: what the loop leaves for Lua. A queue that only the baton's holder touches; posting one stops the loop, so that a
 * uv_run that was about to block returns (libuv runs timers before it polls). */
#include <string.h>
#include "service-private.h"

#define WAITING_BYTES_MAX (64u << 20) /* of one connection, while Lua is at a job */

tarn_event_t *tarn__event_create(tarn_event_kind_t kind) {
  tarn_event_t *e = tarn_calloc(1, sizeof(*e));
  if (e == NULL) {
    tarn_log(TARN_LOG_ERROR, "out of memory: an event was dropped");
    return NULL;
  }
  e->kind = kind;
  return e;
}

void tarn__event_post(tarn_service_t *s, tarn_event_t *e) {
  if (e == NULL) { return; }
  e->next = NULL;
  *s->event_last = e;
  s->event_last = &e->next;
  uv_stop(s->loop);
}

void tarn_event_free(tarn_event_t *e) {
  if (e == NULL) { return; }
  tarn_free(e->text);
  tarn_free(e->bytes);
  if (e->value != NULL) { tarn_value_release(e->value); }
  if (e->guard != NULL) { tarn_service_unguard(e->service, e->guard); }
  tarn_free(e);
}

void tarn__event_charge(tarn_service_t *s, tarn_conn_t *c, uint64_t bytes) {
  if (c->taken_at != s->takes) {
    c->taken_at = s->takes;
    c->waiting_bytes = 0;
  }
  c->waiting_bytes += bytes + sizeof(tarn_event_t);
  if (c->waiting_bytes > WAITING_BYTES_MAX && !c->paused) {
    c->paused = true;
    s->paused++;
    tarn_peer_pause(c->peer);
  }
}

static void resume_all(tarn_service_t *s) {
  size_t cursor = 0;
  uint64_t token = 0;
  s->paused = 0;
  for (tarn_conn_t *c; (c = tarn_map_next(&s->conns, &cursor, &token)) != NULL;) {
    if (!c->paused) { continue; }
    c->paused = false;
    tarn_peer_resume(c->peer);
  }
}

tarn_event_t *tarn_service_take_events(tarn_service_t *s) {
  tarn_event_t *first = s->event_first;
  s->takes++;
  if (s->paused > 0) { resume_all(s); }
  s->event_first = NULL;
  s->event_last = &s->event_first;
  return first;
}

tarn_event_t *tarn_service_take_response(tarn_service_t *s, uint32_t msgid) {
  for (tarn_event_t **at = &s->event_first; *at != NULL; at = &(*at)->next) {
    tarn_event_t *e = *at;
    if (e->kind == TARN_EVENT_RESPONSE && e->msgid == msgid) {
      *at = e->next;
      if (e->next == NULL) { s->event_last = at; }
      e->next = NULL;
      return e;
    }
  }
  if (s->paused > 0) { resume_all(s); } /* who waits here takes nothing else meanwhile */
  return NULL;
}

int tarn__error_image(const tarn_error_t *err, uint32_t pid, tarn_buf_t *out) {
  int rc = 0;
  bool bytes = tarn_error_has_bytes(err);
  rc |= tarn_mp_write_map(out, 6);
  rc |= tarn_mp_write_cstr(out, "kind");
  rc |= tarn_mp_write_cstr(out, tarn_error_kind(err->code));
  rc |= tarn_mp_write_cstr(out, "message");
  rc |=
      tarn_mp_write_cstr(out, err->message[0] != '\0' ? err->message : tarn_error_text(err->code));
  rc |= tarn_mp_write_cstr(out, "pid");
  rc |= tarn_mp_write_uint(out, pid);
  rc |= tarn_mp_write_cstr(out, "needed");
  rc |= bytes ? tarn_mp_write_uint(out, err->needed) : tarn_mp_write_nil(out);
  rc |= tarn_mp_write_cstr(out, "available");
  rc |= bytes ? tarn_mp_write_uint(out, err->available) : tarn_mp_write_nil(out);
  rc |= tarn_mp_write_cstr(out, "path");
  rc |= err->path_size != 0 ? tarn_mp_write_str(out, err->message + err->path_at, err->path_size)
                            : tarn_mp_write_nil(out);
  return rc == 0 ? 0 : TARN_ENOMEM;
}

void tarn__event_fail(tarn_service_t *s, uint32_t msgid, uint32_t pid, const tarn_error_t *err) {
  tarn_event_t *e = tarn__event_create(TARN_EVENT_RESPONSE);
  if (e == NULL) { return; }
  tarn_buf_t b;
  tarn_buf_init(&b, 4096);
  if (tarn__error_image(err, pid, &b) == 0) { e->bytes = tarn_buf_detach(&b, &e->size); }
  tarn_buf_release(&b);
  e->msgid = msgid;
  tarn__event_post(s, e);
}
