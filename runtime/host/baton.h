/* The baton: who may run the service loop. One of two threads at a time, so that an idle process answers without a hop between threads, and a
 * process whose Lua computes answers all the same.
 *
 * The Lua thread holds the baton while it is idle (it blocks in the loop itself) and releases it around jobs. Releasing wakes nobody. The service
 * thread watches by timed sleeps: when the Lua thread has been away for a tick (1 ms), it takes the baton and runs the loop, until the Lua thread
 * wants it back. While nothing is released the service thread is parked on a timerfd and costs nothing.
 *
 * owner FREE -> LUA (acquire), FREE -> SERVICE (the watcher), SERVICE -> LUA (handed back; never to FREE), LUA -> FREE (release). */
#ifndef TARN_HOST_BATON_H
#define TARN_HOST_BATON_H

#include <stdbool.h>
#include <uv.h>
#include "base/err.h"

typedef struct tarn_baton tarn_baton_t;

/* The Lua thread is the owner from the start. on_takeover(user): on the service thread, just after it got the baton; flush(user): work off the
 * outbox, called by the service thread after a take-over and after each wake-up. */
int tarn_baton_create(uv_loop_t *loop, void (*on_takeover)(void *user), void (*flush)(void *user),
                      void *user, tarn_baton_t **out, tarn_error_t *err);
/* Lua thread, holding the baton: ends the service thread, closes the handle (runs the loop for it). */
void tarn_baton_destroy(tarn_baton_t *b);

void tarn_baton_acquire(tarn_baton_t *b); /* Lua thread */
bool tarn_baton_try(tarn_baton_t *b);     /* Lua thread: the same if nobody has it */
void tarn_baton_release(tarn_baton_t *b); /* Lua thread */
/* [any] The outbox got an item: when the service thread runs the loop, wake it. */
void tarn_baton_wake(tarn_baton_t *b);

#endif
