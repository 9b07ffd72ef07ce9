/* The command line: see options.h. */
#include "options.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/machine.h"
#include "net/net.h"

const char *tarn_usage(void) {
  return "usage: tarn [options] [script.lua [args...]]   without a script, on a terminal: a "
         "prompt\n"
         "       tarn worker\n"
         "       tarn inspect FILE...   what saved files hold; verifies their checksums\n"
         "       tarn top --connect HOST:PORT --secret-file FILE   what a running cluster does\n"
         "       tarn dashboard --connect HOST:PORT --secret-file FILE   the same as a web page\n"
         "       tarn slurm [sbatch options] script.lua [args...]   submit it as a batch job\n"
         "  -p, --procs N        start N local workers first\n"
         "  -m, --memory SIZE    memory for data of every process, e.g. 512MB or 1GiB\n"
         "  -d, --spill-dir DIR  where spilled bytes live (default ./.tarn)\n"
         "      --listen ADDR    where this process listens, and its workers here (default "
         "127.0.0.1:0);\n"
         "                       0.0.0.0:0: reachable from other machines\n"
         "      --hosts LIST     addprocs(n) and -p start workers there by ssh: "
         "alpha*4,user@beta\n"
         "      --launcher NAME  addprocs(n) and -p start workers by that launcher: local, ssh, "
         "slurm, ...\n"
         "      --no-map         copy large values between processes of one machine\n"
         "      --tls, --no-tls  encrypt all connections, or none (default: those between "
         "machines)\n"
         "  -e CODE              run CODE\n"
         "  -i                   a prompt, after the script or CODE: history, completion, Ctrl-C "
         "ends what runs\n"
         "      --connect ADDR   a prompt on the cluster whose process 1 is at HOST:PORT "
         "(tarn.address() there)\n"
         "      --secret-file F  its secret: what tarn.secret_file() gives there\n"
         "  -v, --version        print the version\n"
         "  -h, --help           print this\n"
         "environment: TARN_LOG=debug|info|warn|error (default warn), TARN_SECRET_FILE (for "
         "--connect),\n"
         "             TARN_STORE_SILENCE_S (30); AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like "
         "for "
         "s3://\n"
         "status: 0; 1 the script failed; 2 the command line is wrong; 128+N ended by signal N "
         "(130: "
         "Ctrl-C)\n";
}

int tarn_size_parse(const char *text, uint64_t *bytes) {
  static const struct {
    const char *name;
    double factor;
  } units[] = {{"", 1},
               {"B", 1},
               {"KB", 1e3},
               {"MB", 1e6},
               {"GB", 1e9},
               {"TB", 1e12},
               {"KIB", 1024},
               {"MIB", 1048576.0},
               {"GIB", 1073741824.0},
               {"TIB", 1099511627776.0}};
  if (!isdigit((unsigned char)text[0]) && text[0] != '.') { return TARN_EINVAL; }
  char *end = NULL;
  double value = strtod(text, &end);
  if (end == text || !isfinite(value) || value < 0 || strpbrk(text, "xXpP") != NULL) {
    return TARN_EINVAL;
  }
  while (*end == ' ') { end++; }
  char unit[8] = {0};
  size_t n = strlen(end);
  if (n >= sizeof(unit)) { return TARN_EINVAL; }
  for (size_t i = 0; i < n; i++) { unit[i] = (char)toupper((unsigned char)end[i]); }
  for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
    if (strcmp(unit, units[i].name) == 0) {
      value *= units[i].factor;
      if (value >= 9.2e18 || value < 1) { return TARN_EINVAL; }
      *bytes = (uint64_t)value;
      return 0;
    }
  }
  return TARN_EINVAL;
}

/* A budget below that was meant in another unit. Lua's calls say the same: lua/tarn/size.lua. */
enum { LEAST_BYTES = 1000 };

static int parse_count(const char *text, uint32_t *count) {
  char *end = NULL;
  long n = strtol(text, &end, 10);
  if (end == text || *end != '\0' || n < 1 || n > 100000) { return TARN_EINVAL; }
  *count = (uint32_t)n;
  return 0;
}

static int parse_seconds(const char *text, uint32_t *ms) {
  char *end = NULL;
  double s = strtod(text, &end);
  if (end == text || *end != '\0' || !(s >= 0.001 && s <= 1e6)) { return TARN_EINVAL; }
  *ms = (uint32_t)(s * 1000);
  return 0;
}

/* argv[*i] is an option that takes a value: "-m 1GB", "-m1GB", "--memory=1GB". Null: not this option. */
static const char *option_value(int argc, char **argv, int *i, const char *brief, const char *full,
                                bool *missing) {
  const char *a = argv[*i];
  size_t n = strlen(full);
  *missing = false;
  if (strcmp(a, brief) == 0 || strcmp(a, full) == 0) {
    if (*i + 1 >= argc) {
      *missing = true;
      return NULL;
    }
    return argv[++*i];
  }
  if (strncmp(a, full, n) == 0 && a[n] == '=') { return a + n + 1; }
  if (strncmp(a, brief, 2) == 0 && a[1] != '-' && a[2] != '\0') { return a + 2; }
  return NULL;
}

static bool any(const bool *list, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (list[i]) { return true; }
  }
  return false;
}

static int parse_one(int argc, char **argv, int *i, tarn_options_t *o, tarn_error_t *err) {
  const char *a = argv[*i], *v = NULL;
  bool missing[11] = {false};
  if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
    o->help = true;
  } else if (strcmp(a, "-v") == 0 || strcmp(a, "--version") == 0) {
    o->version = true;
  } else if (strcmp(a, "-i") == 0) {
    o->interactive = true;
  } else if (strcmp(a, "--no-map") == 0) {
    o->no_map = true;
  } else if (strcmp(a, "--tls") == 0) {
    o->tls = TARN_TLS_ALWAYS;
  } else if (strcmp(a, "--no-tls") == 0) {
    o->tls = TARN_TLS_NEVER;
  } else if ((v = option_value(argc, argv, i, "-p", "--procs", &missing[0])) != NULL) {
    if (parse_count(v, &o->procs) != 0) {
      return tarn_error_set(err, TARN_EINVAL, "%s: '%s' is not a number of workers", a, v);
    }
  } else if ((v = option_value(argc, argv, i, "-m", "--memory", &missing[1])) != NULL) {
    if (tarn_size_parse(v, &o->memory) != 0) {
      return tarn_error_set(err, TARN_EINVAL, "%s: '%s' is not a size (such as 512MB or 1GiB)", a,
                            v);
    }
    if (o->memory < LEAST_BYTES && !isalpha((unsigned char)v[strlen(v) - 1])) {
      return tarn_error_set(err, TARN_EINVAL,
                            "%s: '%s' is that many bytes: did you mean %sGB? (%d bytes is the "
                            "least without a unit)",
                            a, v, v, LEAST_BYTES);
    }
  } else if ((v = option_value(argc, argv, i, "-d", "--spill-dir", &missing[2])) != NULL) {
    o->spill_dir = v;
  } else if ((v = option_value(argc, argv, i, "--listen", "--listen", &missing[4])) != NULL) {
    o->listen = v;
    if (tarn_net_address_check(v, err) != 0) { return tarn_error_wrap(err, err, "--listen"); }
  } else if (o->worker &&
             (v = option_value(argc, argv, i, "--silence", "--silence", &missing[5])) != NULL) {
    if (parse_seconds(v, &o->silence_ms) != 0) {
      return tarn_error_set(err, TARN_EINVAL, "%s: '%s' is not a time in seconds", a, v);
    }
  } else if (o->worker &&
             (v = option_value(argc, argv, i, "--idle", "--idle", &missing[10])) != NULL) {
    if (parse_seconds(v, &o->idle_ms) != 0) {
      return tarn_error_set(err, TARN_EINVAL, "%s: '%s' is not a time in seconds", a, v);
    }
  } else if ((v = option_value(argc, argv, i, "-e", "--execute", &missing[3])) != NULL) {
    o->code = v;
  } else if ((v = option_value(argc, argv, i, "--hosts", "--hosts", &missing[6])) != NULL) {
    o->hosts = v;
  } else if ((v = option_value(argc, argv, i, "--launcher", "--launcher", &missing[7])) != NULL) {
    o->launcher = v;
  } else if ((v = option_value(argc, argv, i, "--connect", "--connect", &missing[8])) != NULL) {
    o->connect = v;
    if (tarn_net_address_check(v, err) != 0) { return tarn_error_wrap(err, err, "--connect"); }
    o->interactive = true;
  } else if ((v = option_value(argc, argv, i, "--secret-file", "--secret-file", &missing[9])) !=
             NULL) {
    o->secret_file = v;
  } else if (any(missing, sizeof(missing) / sizeof(missing[0]))) {
    return tarn_error_set(err, TARN_EINVAL, "%s needs a value", a);
  } else {
    return tarn_error_set(err, TARN_EINVAL, "unknown option '%s' (tarn -h lists them)", a);
  }
  return 0;
}

/* `tarn inspect FILE...`: code that looks at its arguments. */
static int parse_inspect(int argc, tarn_options_t *o, tarn_error_t *err) {
  o->code = "os.exit(require('tarn.inspect').run(...))";
  o->script_index = 2;
  return argc > 2 ? 0 : tarn_error_set(err, TARN_EINVAL, "tarn inspect: which file?");
}

/* `tarn top ...`, `tarn dashboard ...`: a module that looks at its arguments. */
static int parse_watching(const char *code, tarn_options_t *o) {
  o->code = code;
  o->script_index = 2;
  return 0;
}

/* `tarn slurm [sbatch options] script.lua [args...]`. */
static int parse_slurm(tarn_options_t *o) {
  o->code = "os.exit(require('tarn.launcher.sbatch').run(...))";
  o->script_index = 2;
  return 0;
}

int tarn_options_parse(int argc, char **argv, tarn_options_t *o, tarn_error_t *err) {
  memset(o, 0, sizeof(*o));
  o->spill_dir = ".tarn";
  o->silence_ms = 5000;
  o->idle_ms = 300000;
  o->argc = argc;
  o->argv = argv;
  int i = 1;
  if (argc > 1 && strcmp(argv[1], "inspect") == 0) { return parse_inspect(argc, o, err); }
  if (argc > 1 && strcmp(argv[1], "slurm") == 0) { return parse_slurm(o); }
  if (argc > 1 && strcmp(argv[1], "top") == 0) {
    return parse_watching("os.exit(require('tarn.top').run(...))", o);
  }
  if (argc > 1 && strcmp(argv[1], "dashboard") == 0) {
    return parse_watching("os.exit(require('tarn.dashboard').run(...))", o);
  }
  if (argc > 1 && strcmp(argv[1], "worker") == 0) {
    o->worker = true;
    i = 2;
  }
  for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
    if (strcmp(argv[i], "--") == 0) {
      i++;
      break;
    }
    int rc = parse_one(argc, argv, &i, o, err);
    if (rc != 0) { return rc; }
  }
  o->script_index = i;
  if (i < argc && o->code == NULL) { o->script = argv[i]; }
  if (o->connect != NULL && (o->procs != 0 || o->script != NULL || o->code != NULL)) {
    return tarn_error_set(
        err, TARN_EINVAL,
        "--connect is a prompt on another cluster: no workers, script or code go with it");
  }
  if (o->secret_file != NULL && o->connect == NULL) {
    return tarn_error_set(err, TARN_EINVAL, "--secret-file goes with --connect HOST:PORT");
  }
  if (o->worker && i < argc) {
    return tarn_error_set(err, TARN_EINVAL, "tarn worker takes no argument '%s'", argv[i]);
  }
  return 0;
}

uint64_t tarn_default_memory(uint32_t processes) {
  uint64_t available = tarn_machine_available();
  uint64_t share = available / 2 / (processes > 0 ? processes : 1);
  const uint64_t most = UINT64_C(1) << 30, least = UINT64_C(16) << 20;
  return share > most ? most : share < least ? least : share;
}
