/* Mutations that keep MessagePack well-formed, for the targets whose input is a few leading bytes and then a sequence of messages: a flipped
 * byte would mostly stop at the framer, which has a target of its own. */
#ifndef TARN_FUZZ_MUTATE_H
#define TARN_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* For LLVMFuzzerCustomMutator. prefix: so many leading bytes are no MessagePack. words: strings to put in (methods, keys), null-terminated.
 * What is not well-formed is mutated as libFuzzer does it, and now and then all else too. */
size_t fuzz_mutate(uint8_t *data, size_t size, size_t max_size, unsigned seed, size_t prefix,
                   const char *const *words);

#endif
