/* A client of memcached that checks what it gets: memcached PORT SECONDS SIZE KEYS. Sets so many values of SIZE bytes, then gets all of them by one
 * command, again and again, and prints the gets per second. */
#include "client.h"

int main(int argc, char **argv) {
  if (argc != 5) { return 2; }
  double seconds = atof(argv[2]);
  uint32_t size = (uint32_t)atoi(argv[3]), keys = (uint32_t)atoi(argv[4]);
  size_t room = (size_t)keys * (size + 64) + 64, length = 0, asked = 0;
  uint8_t *value = malloc(size + KEY), *expected = malloc(room), *got = malloc(room);
  char *ask = malloc(room), line[64];
  memset(value, 'x', size + KEY);
  int fd = dial(argv[1]);
  asked += (size_t)sprintf(ask, "get");
  for (uint32_t key = 0; key < keys; key++) {
    set_value(value, key, size);
    int n = snprintf(line, sizeof line, "set k%07u 0 0 %u\r\n", key, size);
    send_all(fd, (const uint8_t *)line, (size_t)n);
    send_all(fd, value, size);
    send_all(fd, (const uint8_t *)"\r\n", 2);
    if (recv(fd, line, 8, MSG_WAITALL) != 8 || memcmp(line, "STORED\r\n", 8) != 0) { fail("set"); }
    asked += (size_t)sprintf(ask + asked, " k%07u", key);
    length += (size_t)sprintf((char *)expected + length, "VALUE k%07u 0 %u\r\n", key, size);
    memcpy(expected + length, value, size);
    length += size;
    length += (size_t)sprintf((char *)expected + length, "\r\n");
  }
  asked += (size_t)sprintf(ask + asked, "\r\n");
  length += (size_t)sprintf((char *)expected + length, "END\r\n");
  double start = now(), took;
  uint64_t count = 0;
  do {
    send_all(fd, (const uint8_t *)ask, asked);
    if (recv(fd, got, length, MSG_WAITALL) != (ssize_t)length) { fail("get"); }
    if (memcmp(got, expected, length) != 0) {
      fprintf(stderr, "a reply is wrong: %.40s\n", (const char *)got);
      return 1;
    }
    count += keys;
  } while ((took = now() - start) < seconds);
  printf("%.1f\n", (double)count / took);
  return 0;
}
