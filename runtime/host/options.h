/* The command line, parsed and checked; nothing is done with it here. */
#ifndef TARN_HOST_OPTIONS_H
#define TARN_HOST_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "net/net.h"

typedef struct tarn_options {
  bool help, version, worker, interactive;
  const char
      *listen; /* where this process and its workers here listen: HOST:PORT; null: the default */
  const char *hosts;       /* where addprocs(n) starts workers: "alpha*4,user@beta"; null: here */
  const char *launcher;    /* by which launcher; null: local, or ssh where there are hosts */
  const char *connect;     /* -i: a prompt on the cluster whose process 1 is there; null: here */
  const char *secret_file; /* of that cluster; null: TARN_SECRET_FILE names it */
  uint32_t silence_ms;     /* a worker: unheard for so long it counts as lost */
  uint32_t idle_ms;        /* a worker: connections that are idle for so long are closed */
  tarn_net_tls_t tls;      /* which connections are encrypted */
  bool no_map;             /* copy between processes of one machine too */
  uint32_t procs;          /* 0: none */
  uint64_t memory;         /* bytes; 0: the default */
  const char *spill_dir;   /* ".tarn" by default */
  const char *code;        /* -e; null: none */
  const char *script;      /* null: none */
  int script_index; /* argv[script_index] is the script (or, with -e, where arguments begin) */
  int argc;
  char **argv; /* borrowed */
} tarn_options_t;

/* TARN_EINVAL with one line for people. */
int tarn_options_parse(int argc, char **argv, tarn_options_t *out, tarn_error_t *err);
/* "512MB", "1.5 GiB", "1000000": MB = 10^6, MiB = 2^20; no unit: bytes. TARN_EINVAL. */
int tarn_size_parse(const char *text, uint64_t *bytes);
/* The smaller of 1 GiB and half of the memory that is available (cgroup or machine), shared among processes. */
uint64_t tarn_default_memory(uint32_t processes);
const char *tarn_usage(void);

#endif
