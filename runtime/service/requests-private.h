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
int tarn__serve_spread_get(tarn__call_t *k);
int tarn__serve_pool_delete(tarn__call_t *k);
int tarn__serve_pool_set(tarn__call_t *k);
int tarn__serve_pool_stats(tarn__call_t *k);
int tarn__serve_pool_limits(tarn__call_t *k);

/* An object that has been stored; id 0: it has not. */
typedef struct stored {
  uint64_t id, size;
} tarn__stored_t;
/* Append the image of their references, as the codec writes it: of one, or as a list with nil for what has not been stored. */
int tarn__write_refs(uint32_t origin, const tarn__stored_t *of, uint32_t n, bool list,
                     tarn_buf_t *out);

/* ---- many.c: methods ---- */
int tarn__serve_pool_get_all(tarn__call_t *k);
int tarn__serve_pool_set_all(tarn__call_t *k);
int tarn__serve_pool_delete_all(tarn__call_t *k);

#endif
