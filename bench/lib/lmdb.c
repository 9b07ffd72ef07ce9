/* LMDB: lmdb FOLDER KEYS SIZE SECONDS puts and gets values of SIZE bytes under KEYS keys in turn, a transaction for each pair, and
 * prints the pairs per second of processor time. What is got is compared with what was put. */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(int rc, const char *what) {
  if (rc == 0) { return; }
  fprintf(stderr, "%s: %s\n", what, mdb_strerror(rc));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  if (argc != 5) { return 2; }
  uint32_t keys = (uint32_t)atoi(argv[2]);
  size_t size = (size_t)atol(argv[3]);
  double seconds = atof(argv[4]), took = 0;
  char *bytes = malloc(size + 1);
  memset(bytes, 'x', size);
  MDB_env *env;
  MDB_txn *txn;
  MDB_dbi db;
  check(mdb_env_create(&env), "create");
  check(mdb_env_set_mapsize(env, (size_t)1 << 30), "mapsize");
  check(mdb_env_open(env, argv[1], MDB_NOSYNC | MDB_WRITEMAP, 0600), "open");
  uint64_t pairs = 0;
  double start = 0;
  for (uint64_t i = 0; took < seconds; i++) {
    uint32_t number = (uint32_t)(i % keys);
    MDB_val key = {sizeof number, &number}, value = {size, bytes}, got;
    snprintf(bytes, size, "%08u", number);
    bytes[8] = 'x';
    check(mdb_txn_begin(env, NULL, 0, &txn), "begin");
    if (i == 0) { check(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &db), "db"); }
    check(mdb_put(txn, db, &key, &value, 0), "put");
    check(mdb_get(txn, db, &key, &got), "get");
    if (got.mv_size != size || memcmp(got.mv_data, bytes, size) != 0) { return 1; }
    check(mdb_txn_commit(txn), "commit");
    if (i + 1 == keys) { start = now(); } /* all are there: from here on it counts */
    if (i >= keys) { pairs++; }
    if (start > 0 && i % 1000 == 0) { took = now() - start; }
  }
  printf("%.1f\n", (double)pairs / took);
  return 0;
}
