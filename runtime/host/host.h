/* A process of tarn: both threads, the pool, the service, the Lua state; started and stopped in order. */
#ifndef TARN_HOST_HOST_H
#define TARN_HOST_HOST_H

#include "host/options.h"

/* Run a driver or a worker to its end. Returns the status to exit with. */
int tarn_host_run(const tarn_options_t *options);

#endif
