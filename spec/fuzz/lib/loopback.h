/* What is fuzzed connects only where the target listens: whatever address an input names, no packet leaves the process for any other. */
#ifndef TARN_FUZZ_LOOPBACK_H
#define TARN_FUZZ_LOOPBACK_H

#include <sys/socket.h>

void fuzz_allow(
    const char *address); /* "127.0.0.1:PORT" may be connected to, beside the last few others */
/* Connects, or aborts. libFuzzer's clock interrupts what waits, without SA_RESTART. */
void fuzz_connect(int fd, const struct sockaddr *sa, socklen_t size);

#endif
