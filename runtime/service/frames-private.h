/* A frame taken apart, and what becomes of it: frames.c for both lanes, bulk.c for what has blocks, held.c for what
 * is to wait; conns.c hands them to net. [loop] */
#ifndef TARN_SERVICE_FRAMES_PRIVATE_H
#define TARN_SERVICE_FRAMES_PRIVATE_H

#include "service-private.h"

/* Pointers go into the frame. */
typedef struct tarn__frame {
  uint64_t type, msgid;
  const uint8_t *method;
  uint32_t method_size;
  const uint8_t *params; /* request, notification: the raw parameters; response: the result */
  size_t params_size;
  const uint8_t *error; /* response: the raw error */
  size_t error_size;
  bool is_error; /* response */
  const uint8_t *
      transfer; /* what the extension beside the value holds, that tells of its references; null: none */
  size_t transfer_size;
} tarn__frame_t;

/* ---- frames.c ---- */
/* net has checked that the frame is well-formed MessagePack. 0 or TARN_EPROTO. */
int tarn__frame_parse(const uint8_t *bytes, size_t size, tarn__frame_t *f);
/* The front of its value: what is in its (last) bin. Null: it has none. */
const uint8_t *tarn__frame_front(const tarn__frame_t *f, size_t *size);
/* Take it apart and do the rest. */
void tarn__frame_take(tarn_service_t *s, tarn_conn_t *c, const uint8_t *bytes, size_t size);
/* Answer it, or hand it to who waits or to Lua. value: what came beside it, or null; taken over. */
void tarn__frame_handle(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                        tarn_value_t *value);
/* Its value will not be here: tell who waits for it, here or there. */
void tarn__frame_fail(tarn_service_t *s, tarn_conn_t *c, const tarn__frame_t *f,
                      const tarn_error_t *err);
/* It breaks the protocol: close the connection. */
void tarn__frame_refuse(tarn_conn_t *c, const char *what);

/* Callbacks of net: see net.h. */
void tarn__on_frame(void *user, tarn_peer_t *peer, const uint8_t *bytes, size_t size);

/* ---- held.c ---- */
/* true: the frame of a foreign client that reads too little is kept, to be handled when it has read. */
bool tarn__frame_hold(tarn_conn_t *c, const uint8_t *bytes, size_t size);

/* ---- bulk.c ---- */
int tarn__on_bulk_begin(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size,
                        const uint64_t *sizes, uint32_t count, void **dest, void **token);
void tarn__on_bulk(void *user, tarn_peer_t *peer, const uint8_t *frame, size_t size, void *token,
                   int status);

#endif
