/* Little-endian numbers at any address, for the fixed headers of images and files. */
#ifndef TARN_IMAGE_IMAGE_PRIVATE_H
#define TARN_IMAGE_IMAGE_PRIVATE_H

#include <stdint.h>
#include <string.h>

/* mp.h asserts that the machine is little-endian. */
static inline uint32_t tarn__load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline uint64_t tarn__load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void tarn__store32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void tarn__store64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

#define TARN__IMAGE_FIXED 32u /* bytes before the block sizes */
#define TARN__FLAG_DETACHED 1u

#endif
