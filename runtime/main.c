/* The command line. The only file that exits. */
#include <signal.h>
#include <stdio.h>
#include "base/version.h"
#include "host/host.h"
#include "host/options.h"

int main(int argc, char **argv) {
  tarn_options_t options;
  tarn_error_t err;
  if (tarn_options_parse(argc, argv, &options, &err) != 0) {
    fprintf(stderr, "tarn: %s\n", err.message);
    return 2;
  }
  if (options.help) {
    fputs(tarn_usage(), stdout);
    return 0;
  }
  if (options.version) {
    printf("tarn %s\n", tarn_version);
    return 0;
  }
  signal(SIGPIPE, SIG_IGN);
  return tarn_host_run(&options);
}
