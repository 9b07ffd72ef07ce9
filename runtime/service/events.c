/* Events: what the loop leaves for Lua. A queue that only the baton's holder touches; posting one stops the loop, so that a
 * uv_run that was about to block returns (libuv runs timers before it polls). */
#include <string.h>
#include "service-private.h"

#define ANSWER_BYTES (256u << 10) /* that a foreign client's request may cost: it may not read it */
#define WAITING_BYTES_MAX (64u << 20) /* of one connection, while Lua is at a job */

tarn_event_t *tarn__event_create(tarn_event_kind_t kind) {
  tarn_event_t *e = tarn_calloc(1, sizeof(*e));
  if (e == NULL) {
    tarn_log(TARN_LOG_ERROR, "out of memory for an event");
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

/* ---- answers that there was no memory for ---- */

void tarn__unsaid_add(tarn_service_t *s, uint64_t token, uint32_t msgid) {
  pthread_mutex_lock(&s->out_mutex);
  unsigned n = atomic_load(&s->unsaid_count);
  if (n < TARN__UNSAID_MAX) {
    s->unsaid[n] = (tarn_unsaid_t){token, msgid};
    atomic_store(&s->unsaid_count, n + 1);
  }
  pthread_mutex_unlock(&s->out_mutex);
  if (n >= TARN__UNSAID_MAX) { tarn_log(TARN_LOG_ERROR, "out of memory: an answer was dropped"); }
  s->config.wake(s->config.user);
}

/* Takes one of that kind out. False: there is none. */
static bool take_unsaid(tarn_service_t *s, bool to_lua, tarn_unsaid_t *out) {
  bool found = false;
  pthread_mutex_lock(&s->out_mutex);
  unsigned n = atomic_load(&s->unsaid_count);
  for (unsigned i = 0; i < n && !found; i++) {
    if ((s->unsaid[i].token == 0) != to_lua) { continue; }
    found = true;
    *out = s->unsaid[i];
    s->unsaid[i] = s->unsaid[n - 1];
    atomic_store(&s->unsaid_count, n - 1);
  }
  pthread_mutex_unlock(&s->out_mutex);
  return found;
}

void tarn__unsaid_say(tarn_service_t *s, bool to_lua) {
  tarn_unsaid_t u;
  tarn_error_t err;
  unsigned most = atomic_load(&s->unsaid_count); /* what fails again waits for the next time */
  for (unsigned i = 0; i < most && take_unsaid(s, to_lua, &u); i++) {
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for an answer", s->id);
    tarn_conn_t *c = to_lua ? NULL : tarn_map_get(&s->conns, u.token);
    if (to_lua) {
      tarn__event_fail(s, u.msgid, s->id, &err);
    } else if (c != NULL) {
      tarn__send_error(s, c, u.msgid, &err);
    }
  }
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
  c->waiting_bytes += bytes + sizeof(tarn_event_t) + (c->foreign ? ANSWER_BYTES : 0);
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
    if (c->holding) {
      tarn__frames_unhold(s, c);
    } else {
      tarn_peer_resume(c->peer);
    }
  }
}

tarn_event_t *tarn_service_take_events(tarn_service_t *s) {
  if (atomic_load(&s->unsaid_count) > 0) { tarn__unsaid_say(s, true); }
  tarn_event_t *first = s->event_first;
  s->takes++;
  s->event_first = NULL;
  s->event_last = &s->event_first;
  if (s->paused > 0) { resume_all(s); } /* may post more */
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
  if (tarn__observe_answered(s, msgid, NULL, 0, err)) { return; }
  tarn__spread_answered(s, msgid, NULL, NULL, 0);
  tarn_event_t *e = tarn__event_create(TARN_EVENT_RESPONSE);
  if (e == NULL) {
    tarn__unsaid_add(s, 0, msgid);
    return;
  }
  tarn_buf_t b;
  tarn_buf_init(&b, 4096);
  if (tarn__error_image(err, pid, &b) == 0) { e->bytes = tarn_buf_detach(&b, &e->size); }
  tarn_buf_release(&b);
  e->msgid = msgid;
  tarn__event_post(s, e);
}
