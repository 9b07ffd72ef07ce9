/* Waiting for something to do. A thread that blocks has to be woken, and its processor too: 30 to 50 us on a virtual machine, more than
 * all else that a small get takes. So before it blocks the Lua thread looks for a while whether something has come, as long as looking
 * has been worth it lately and nobody else wants the processor. */
#include <poll.h>
#include <sched.h>
#include "base/clock.h"
#include "host-private.h"

#define LOOK_NS UINT64_C(200000) /* since something came */
#define AWAY_NS UINT64_C(20000)  /* a yield that takes longer has let somebody else run */
#define CREDIT_MAX 16            /* looks in vain, one after the other, before it is left alone */
#define REST 64                  /* waits, until it is tried again */

static bool is_worth_it(tarn_host_t *h) {
  if (uv_backend_timeout(&h->loop) == 0) { return false; }
  return h->look_rest == 0 || --h->look_rest == 0;
}

static void learn(tarn_host_t *h, bool came) {
  if (came) {
    h->look_credit = h->look_credit < CREDIT_MAX ? h->look_credit + 1 : CREDIT_MAX;
  } else if (--h->look_credit <= 0) {
    h->look_credit = 1;
    h->look_rest = REST;
  }
}

static bool has_work(const tarn_host_t *h) {
  return h->nest_ready || tarn__interrupt_pending() || tarn_service_wants_lua(h->service) ||
         tarn_service_has_outbox(h->service);
}

bool tarn__look(tarn_host_t *h) {
  h->nest_ready = false;
  uv_run(&h->loop, UV_RUN_NOWAIT); /* also tells the kernel what is watched now */
  return tarn_service_flush(h->service) || has_work(h); /* what came may have an answer */
}

/* Run the loop at most until there is work for Lua, or for who works off the outbox. That a callback has stopped the loop (uv_stop) is not
 * seen here: what it wants must be among has_work. */
void tarn__wait(tarn_host_t *h) {
  if (tarn__look(h)) { return; }
  if (is_worth_it(h)) {
    struct pollfd p = {.fd = uv_backend_fd(&h->loop), .events = POLLIN};
    uint64_t before = tarn_clock_ns(), now = before, until = now + LOOK_NS;
    bool came = false;
    while (!came && now < until && now - before < AWAY_NS) {
      came = poll(&p, 1, 0) > 0;
      before = tarn_clock_ns();
      if (!came) { sched_yield(); }
      now = tarn_clock_ns();
    }
    learn(h, came);
  }
  uv_run(&h->loop, UV_RUN_ONCE);
}
