/* The methods that C answers, whatever Lua is doing; those of the pool are in requests_pool.c. Parameters are plain MessagePack arrays. */
#include <string.h>
#include "requests-private.h"

void tarn__reply_error(const tarn__call_t *k, const tarn_error_t *err) {
  if (k->msgid != NULL) { tarn__send_error(k->s, k->c, *k->msgid, err); }
}

void tarn__reply_result(const tarn__call_t *k, int rc, tarn_buf_t *b) {
  if (rc == 0 && k->msgid != NULL) {
    tarn__send_result(k->s, k->c, *k->msgid, b);
  } else if (rc != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_ENOMEM, "process %u is out of memory for an answer", k->s->id);
    tarn__reply_error(k, &err);
  }
  tarn_buf_release(b);
}

void tarn__reply_true(const tarn__call_t *k) {
  tarn_buf_t b;
  tarn_buf_init(&b, 64);
  tarn__reply_result(k, tarn_mp_write_bool(&b, true), &b);
}

int tarn__reply_bad_arguments(const tarn__call_t *k, const char *what) {
  tarn_error_t err;
  tarn_error_set(&err, TARN_EINVAL, "%s", what);
  tarn__reply_error(k, &err);
  return 0;
}

/* auth.secret again, too: the client has been proven, or the frame would not be here. */
static int serve_ping(tarn__call_t *k) {
  tarn__reply_true(k);
  return 0;
}

/* [loan, unable] */
static int serve_lend_fetch(tarn__call_t *k) {
  uint64_t loan = 0;
  bool unable = false;
  if (k->count != 2 || tarn_mp_read_uint(&k->params, UINT64_MAX, &loan) != 0 ||
      tarn_mp_read_bool(&k->params, &unable) != 0 || k->msgid == NULL) {
    return tarn__reply_bad_arguments(k, "lend.fetch: a loan");
  }
  tarn__lend_serve_fetch(k->s, k->c, *k->msgid, loan, unable);
  return 0;
}

/* [name]: what lua/tarn/plug.lua loads a serializer from, or nil */
static int serve_serializer_get(tarn__call_t *k) {
  const uint8_t *name;
  uint32_t length = 0;
  if (k->count != 1 || tarn_mp_read_bytes(&k->params, &name, &length) != 0) {
    return tarn__reply_bad_arguments(k, "serializer.get: a name");
  }
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  tarn__reply_result(k, tarn__offer_write(k->s, name, length, &b), &b);
  return 0;
}

/* ["text" or "map"]: how this client wants its errors */
static int serve_client_errors(tarn__call_t *k) {
  const uint8_t *how;
  uint32_t length = 0;
  if (k->count != 1 || tarn_mp_read_bytes(&k->params, &how, &length) != 0 ||
      !((length == 4 && memcmp(how, "text", 4) == 0) ||
        (length == 3 && memcmp(how, "map", 3) == 0))) {
    return tarn__reply_bad_arguments(k, "client.errors: \"text\" or \"map\"");
  }
  k->c->text_errors = length == 4;
  tarn__reply_true(k);
  return 0;
}

static int serve_stop(tarn__call_t *k) {
  if (k->c->pid == TARN_DRIVER) { tarn__stop_self(k->s); }
  tarn__reply_true(k);
  return 0;
}

/* ---- for who watches. Most take the process to look at first (0: this one), so that process 1 answers for all, whatever their Lua does ---- */

/* What one of these answers, about this process: argument is the number that comes behind the process's, or 0. */
typedef int write_t(tarn_service_t *s, uint64_t argument, tarn_buf_t *b);

static int answer(tarn__call_t *k, write_t *write, uint64_t argument) {
  tarn_buf_t b;
  tarn_buf_init(&b, SIZE_MAX / 2);
  tarn__reply_result(k, write(k->s, argument, &b), &b);
  return 0;
}

static int observe(tarn__call_t *k, const char *method, write_t *write) {
  uint64_t pid = 0, argument = 0;
  if ((k->count > 0 && tarn_mp_read_uint(&k->params, UINT32_MAX, &pid) != 0) ||
      (k->count > 1 && tarn_mp_read_uint(&k->params, UINT64_MAX, &argument) != 0)) {
    return tarn__reply_bad_arguments(k, "observe: a process id, and a number");
  }
  if (k->msgid == NULL) { return 0; }
  if (pid == 0 || pid == k->s->id) { return answer(k, write, argument); }
  tarn_error_t err = {0};
  if (tarn__observe_forward(k->s, k->c, *k->msgid, method, (uint32_t)pid, argument, &err) != 0) {
    tarn__reply_error(k, &err);
  }
  return 0;
}

static int serve_members(tarn__call_t *k) { return answer(k, tarn__observe_write_members, 0); }
static int serve_stats(tarn__call_t *k) {
  return observe(k, "observe.stats", tarn__observe_write_stats);
}
static int serve_jobs(tarn__call_t *k) {
  return observe(k, "observe.jobs", tarn__observe_write_jobs);
}
static int serve_objects(tarn__call_t *k) {
  return observe(k, "observe.objects", tarn__observe_write_objects);
}

static const struct method {
  const char *name;
  bool foreign; /* allowed to foreign clients */
  int (*serve)(tarn__call_t *k);
} methods[] = {
    {"pool.get", true, tarn__serve_pool_get},
    {"ping", true, serve_ping},
    {"pool.set", true, tarn__serve_pool_set},
    {"pool.delete", true, tarn__serve_pool_delete},
    {"pool.stats", true, tarn__serve_pool_stats},
    {"pool.limits", false, tarn__serve_pool_limits},
    {"auth.secret", true, serve_ping},
    {"stop", false, serve_stop},
    {"lend.fetch", false, serve_lend_fetch},
    {"serializer.get", false, serve_serializer_get},
    {"client.errors", true, serve_client_errors},
    {"observe.members", true, serve_members},
    {"observe.stats", true, serve_stats},
    {"observe.jobs", true, serve_jobs},
    {"observe.objects", true, serve_objects},
    {"pool.get_all", false, tarn__serve_pool_get_all},
    {"pool.set_all", false, tarn__serve_pool_set_all},
    {"pool.delete_all", false, tarn__serve_pool_delete_all},
    {"spread.get", false, tarn__serve_spread_get},
};

static bool starts(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

/* A notification of another process. False: it is Lua's. */
static bool serve_notice(tarn__call_t *k, const char *method) {
  bool array = tarn_mp_read_array(&k->params, &k->count) == 0;
  bool refs = starts(method, "refs."), spread = starts(method, "spread."),
       lend = starts(method, "lend.");
  if (starts(method, "member.")) {
    return !array || tarn__member_notice(k->s, k->c, method, &k->params) != 0;
  }
  if (array && refs) { tarn__refs_notice(k->s, k->c, method, &k->params, k->count); }
  if (array && spread) { tarn__spread_notice(k->s, k->c, method, &k->params); }
  if (array && lend) { tarn__lend_notice(k->s, k->c, method, &k->params); }
  return refs || spread || lend;
}

int tarn__serve(tarn_service_t *s, tarn_conn_t *c, const uint32_t *msgid, const char *method,
                const uint8_t *params, size_t size, tarn_value_t *value) {
  tarn__call_t k = {
      .s = s, .c = c, .msgid = msgid, .params = {params, params + size}, .value = value};
  const struct method *m = NULL;
  for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]) && m == NULL; i++) {
    if (strcmp(methods[i].name, method) == 0) { m = &methods[i]; }
  }
  if (m != NULL && (m->foreign || !c->foreign)) {
    if (tarn_mp_read_array(&k.params, &k.count) != 0) {
      tarn__reply_bad_arguments(&k, "the parameters must be an array");
      return 1;
    }
    return m->serve(&k) != TARN__NEED_LUA;
  }
  if (!c->foreign && msgid == NULL && serve_notice(&k, method)) { return 1; }
  if (c->foreign && strcmp(method, "call") != 0 && strcmp(method, "eval") != 0) {
    tarn_error_t err;
    tarn_error_set(&err, TARN_EPROTO, "no method '%s'", method);
    tarn__reply_error(&k, &err);
    return 1;
  }
  return 0;
}
