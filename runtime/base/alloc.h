/* The one seam through which C memory is taken. Tests make it fail. Thread-safe. */
#ifndef TARN_BASE_ALLOC_H
#define TARN_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *tarn_malloc(size_t size_bytes); /* null when exhausted; size 0 gives a unique pointer */
void *tarn_calloc(size_t count, size_t size_bytes);
void *tarn_realloc(void *p, size_t size_bytes); /* on failure p stays valid */
void *tarn_aligned(size_t alignment,
                   size_t size_bytes); /* alignment: a power of two >= 8; freed by tarn_free */
void tarn_free(void *p);               /* null allowed */
char *tarn_strdup(const char *s);

/* Whole pages, apart from the C heap, which they leave without holes; zeroed. size_bytes: a multiple of the page; alignment: a power of two of at
 * least a page. They count as taken when the caller says that they are used. */
void *tarn_pages(size_t alignment, size_t size_bytes);
void tarn_pages_used(size_t bytes);
void tarn_pages_free(void *p, size_t size_bytes, size_t used_bytes); /* null allowed */

/* Bytes taken and not yet given back (of malloc's, as malloc_usable_size has it). */
uint64_t tarn_alloc_bytes(void);

/* For specs: the countdown-th allocation from now, in any thread, fails, once; 0: none. */
void tarn_alloc_fail_at(uint64_t countdown);
void tarn_alloc_fail_lua_at(uint64_t countdown); /* the same for Lua's heap */
uint64_t tarn_alloc_failed(void);                /* of either, since it was set: 0 or 1 */

/* For Lua's allocator, which takes its memory elsewhere: true when this is the one that is to fail. */
bool tarn_alloc_lua_must_fail(void);

#endif
