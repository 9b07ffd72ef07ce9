/* What the files of C's methods share: requests*.c. [loop] */
#ifndef TARN_SERVICE_REQUESTS_PRIVATE_H
#define TARN_SERVICE_REQUESTS_PRIVATE_H

#include "service-private.h"

typedef struct call {
  tarn_service_t *s;
  tarn_conn_t *c;
  const uint32_t *msgid;   /* null: a notification, nothing is answered */
  tarn_mp_reader_t params; /* after the array's header */
  uint32_t count;
  tarn_value_t *value; /* borrowed; from a bulk message */
  uint32_t origin;     /* what read_id has read: the object's name */
  uint64_t number;
} tarn__call_t;

#define TARN__NEED_LUA 1 /* what a method returns when only Lua can do it */

/* ---- requests.c. Of a notification nothing is answered ---- */
void tarn__reply_error(const tarn__call_t *k, const tarn_error_t *err);
/* Answer with the plain MessagePack in b (released here), which was built with this result. */
void tarn__reply_result(const tarn__call_t *k, int rc, tarn_buf_t *b);
void tarn__reply_true(const tarn__call_t *k);
int tarn__reply_bad_arguments(const tarn__call_t *k, const char *what); /* 0 */

/* ---- requests_pool.c: methods. 0, or TARN__NEED_LUA ---- */
int tarn__serve_pool_get(tarn__call_t *k);
int tarn__serve_pool_get_all(tarn__call_t *k);
int tarn__serve_spread_get(tarn__call_t *k);
int tarn__serve_pool_delete(tarn__call_t *k);
int tarn__serve_pool_set(tarn__call_t *k);
int tarn__serve_pool_stats(tarn__call_t *k);
int tarn__serve_pool_limits(tarn__call_t *k);

#endif
