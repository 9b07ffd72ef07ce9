/* The codec: Lua values to and from images. Lua thread only. Every function here may raise a Lua error (a tarn error table, see
 * error.h) and then leaves nothing allocated: what is being built hangs from a userdata. */
#ifndef TARN_BIND_CODEC_H
#define TARN_BIND_CODEC_H

#include <lua.h>
#include "pool/pool.h"

/* What encoding gives: a front and its blocks, held by a userdata that the call pushes (freed by the collector, or at once by
 * tarn_encoded_clear). The owner may take the parts out by setting front to null and block_count to 0. */
typedef struct tarn_encoded {
  uint8_t *front; /* from tarn_malloc; a whole image when block_count is 0, else detached */
  size_t front_size;
  tarn_block_t **blocks; /* from tarn_malloc; each retained and mapped */
  uint32_t block_count;
  uint64_t block_bytes; /* sum of the sizes */
} tarn_encoded_t;

/* Encode the value at index; pushes the userdata and returns its payload. NotSerializable names the path to what cannot travel. */
tarn_encoded_t *tarn_codec_encode(lua_State *L, int index);
/* What the values of a list are to the user, for messages. */
typedef struct tarn_list_names {
  int apart;          /* how many at the beginning are counted by nobody */
  const char *first;  /* the name of those */
  const char *others; /* printf's, with one %d */
} tarn_list_names_t;

/* The same; should it fail, the path ends with `what`. */
tarn_encoded_t *tarn_codec_encode_named(lua_State *L, int index, const char *what);
/* Encode the count values from index first on, as one array (a nil inside or at the end stays a nil; count is kept). */
tarn_encoded_t *tarn_codec_encode_list(lua_State *L, int first, int count,
                                       const tarn_list_names_t *names);
/* As many of list[from..to], from the first on, as are plain images of up to `each` bytes, each an image of its own, until there are `all`
 * bytes: one after the other, as an array. *count: so many. Whatever is wrong with the next is not said here. */
tarn_encoded_t *tarn_codec_encode_small(lua_State *L, int list, int from, int to, size_t each,
                                        size_t all, uint32_t *count);
void tarn_encoded_clear(tarn_encoded_t *e);

enum {
  TARN_DECODE_NO_CODE = 1 /* refuse functions */,
  TARN_DECODE_SPREAD = 2, /* an array made by encode_list: push its elements, not a table */
  TARN_DECODE_SEALED =
      4 /* blocks copied from bytes are sealed: what came from another process is as read-only
                             when it is small as when it is large */
};
/* Decode a value (its blocks are mapped; views retain and map them for themselves). Pushes it and returns how many values were pushed (1,
 * or the count with SPREAD). Raises Corrupt, NotSerializable (an unknown serializer), or what mmread raises. */
int tarn_codec_decode_value(lua_State *L, tarn_value_t *v, uint32_t flags);
/* Decode a contiguous image: bytes that stay valid during the call. Blocks are copied into new ones from the pool. */
int tarn_codec_decode_bytes(lua_State *L, const uint8_t *bytes, size_t size, uint32_t flags);

/* The next image to be decoded came from that process (0: nobody knows): it is asked first for serializers that are missing here. */
void tarn_codec_received_from(lua_State *L, uint32_t pid);

/* Approximate size of the value at index in bytes, by one cheap walk (typed values: exactly their elements' bytes, O(1)).
 * *typed: it holds a typed value (a block) somewhere, so it should be encoded at once. */
uint64_t tarn_codec_approx_size(lua_State *L, int index, bool *typed);

/* Add the codec's functions to the core table at the top of the stack (see docs in codec_lua.c). */
void tarn_codec_open(lua_State *L);

#endif
