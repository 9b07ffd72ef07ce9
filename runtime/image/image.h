/* The image: the one byte form of a stored value. Pure: bytes in, structure out.
 *
 * A value without blocks, references or serializers is its *skeleton* alone: ordinary MessagePack.
 * A value with references or serializers but no blocks is one MessagePack extension, TARN_EXT_HEADED, whose payload is
 * the head followed by the skeleton. A value with blocks is
 *
 *   offset  size  all integers little-endian
 *   0       4     0xC1 'T' 'R' 'N'
 *   4       1     version (1)
 *   5       1     flags: bit 0 detached (the blocks are not here: they travel or live beside the front)
 *   6       2     zero
 *   8       4     head_size
 *   12      4     block_count (>= 1)
 *   16      8     skeleton_size
 *   24      8     zero
 *   32      8*n   the size of each block in bytes
 *   ..            head, skeleton                       <- up to here: the *front*
 *   ..            each block, at the next multiple of 64 from the start of the image
 *
 * Offsets of blocks follow from their sizes, so they cannot overlap or point outside. In memory and on the bulk lane the
 * front and the blocks are kept apart (detached); encode(), small messages and files hold them contiguously.
 *
 * The head is MessagePack: [serializers, refs, flags]; serializers = [[name, version, hash], ...] with hash a bin of 8;
 * refs = [[owner, id], ...]; flags: bit 0: the skeleton holds back-references.
 *
 * Extension types in a skeleton (payloads in docs/FORMAT.md): */
#ifndef TARN_IMAGE_IMAGE_H
#define TARN_IMAGE_IMAGE_H

#include <stdbool.h>
#include "base/buf.h"
#include "base/err.h"
#include "image/mp.h"

enum {
  TARN_EXT_HEADED = 0x10, /* outermost only: head, skeleton */
  TARN_EXT_BACKREF =
      0x11, /* uint: the n-th (from 0) table or function, in order of first appearance */
  TARN_EXT_INT64 =
      0x12, /* 8 bytes little-endian: an int64_t cdata that plain MessagePack would read back as a number */
  TARN_EXT_UINT64 = 0x13, /* the same for uint64_t */
  TARN_EXT_NAME = 0x14,   /* [module] or [module, key]: a module table or a function found in one */
  TARN_EXT_FUNCTION = 0x15, /* [bytecode bin, [upvalue id, upvalue]...] */
  TARN_EXT_DREF = 0x16,     /* [owner, id, size] */
  TARN_EXT_FILEREF = 0x17,  /* [host, path, size, ...] */
  TARN_EXT_FUTURE = 0x18,   /* [owner, id] */
  TARN_EXT_TYPED = 0x19, /* [index into the head's serializers, n values written by mmwrite ...] */
  TARN_EXT_BLOCK = 0x1a, /* uint: index of a block */
  TARN_EXT_META = 0x1b   /* [metatable's name, table]: a table whose metatable travels by name */
};

#define TARN_IMAGE_ALIGN 64u
#define TARN_IMAGE_VERSION 1
#define TARN_IMAGE_MAX_BLOCKS (1u << 20)
#define TARN_IMAGE_MAX_DEPTH 1000u /* nesting of values */

typedef struct tarn_image_serializer {
  const char *name; /* borrowed, not terminated */
  uint32_t name_length;
  uint32_t version;
  uint64_t hash;
} tarn_image_serializer_t;

typedef struct tarn_image_ref {
  uint32_t owner;
  uint64_t id;
} tarn_image_ref_t;

/* An opened image: pointers into the bytes it was opened from. */
typedef struct tarn_image {
  const uint8_t *head; /* null when there is none */
  const uint8_t *skeleton;
  uint64_t skeleton_size;
  uint32_t head_size;
  uint32_t block_count;
  bool detached;
  bool backrefs;              /* the head says that the skeleton holds back-references */
  const uint8_t *block_sizes; /* little-endian u64 each, unaligned: read by tarn_image_block_size */
  uint64_t front_size;        /* bytes up to the end of the skeleton */
  uint64_t total_size;        /* of the contiguous form */
} tarn_image_t;

/* Check the bytes of a whole contiguous image, or of a front (detached), and find its parts. The head is checked to its last
 * byte; the skeleton only to be where it is said to be (who decodes it checks it token by token).
 * TARN_ECORRUPT with what is wrong and at which offset. */
int tarn_image_open(const uint8_t *bytes, uint64_t size, tarn_image_t *out, tarn_error_t *err);

/* A quick look at the first bytes (null allowed), for who deals with references: false for plain images, which most messages are. What
 * it is true of may still be no image. */
bool tarn_image_has_head(const uint8_t *bytes, uint64_t size);

uint64_t tarn_image_block_size(const tarn_image_t *im, uint32_t index);
/* Offset of a block from the start of the contiguous form. O(index): walk with tarn_image_align for all of them. */
uint64_t tarn_image_block_offset(const tarn_image_t *im, uint32_t index);
static inline uint64_t tarn_image_align(uint64_t n) {
  return (n + TARN_IMAGE_ALIGN - 1) & ~(uint64_t)(TARN_IMAGE_ALIGN - 1);
}

/* Walk the head: callbacks may be null; a non-zero result ends the walk and is returned. */
int tarn_image_each_serializer(const tarn_image_t *im,
                               int (*fn)(void *ud, uint32_t index,
                                         const tarn_image_serializer_t *s),
                               void *ud);
int tarn_image_each_ref(const tarn_image_t *im, int (*fn)(void *ud, const tarn_image_ref_t *ref),
                        void *ud);

/* Compose a front from its parts into out (appended). With no blocks: the plain or headed form (then it is a whole image).
 * With blocks: detached. 0, TARN_ENOMEM, TARN_ETOOBIG. */
typedef struct tarn_image_parts {
  const uint8_t *skeleton;
  size_t skeleton_size;
  const tarn_image_serializer_t *serializers;
  uint32_t serializer_count;
  const tarn_image_ref_t *refs;
  uint32_t ref_count;
  bool backrefs;
  const uint64_t *block_sizes;
  uint32_t block_count;
} tarn_image_parts_t;
int tarn_image_compose(const tarn_image_parts_t *parts, tarn_buf_t *out);

/* Mark a front, in place, as having its blocks beside it or behind it; nothing for the forms without blocks. For who writes or reads
 * the contiguous form piece by piece. */
void tarn_image_set_detached(uint8_t *front, uint64_t front_size, bool detached);

/* Given a detached front with its blocks in memory, append the contiguous form (detached bit cleared, padding zero). */
int tarn_image_join(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                    tarn_buf_t *out);

#endif
