/* The one allocation hook. Everything in ousac outside the standalone reader allocates here, so that a test
 * can fail the n-th allocation and sizes are checked in one place. Thread-safe.
 */
#ifndef OUSAC_MEMORY_H
#define OUSAC_MEMORY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* count * size zeroed bytes, 64-byte aligned (a cache line, an AVX-512 vector). NULL where the product
 * overflows or memory is short; a non-NULL pointer for 0 bytes. Release with ousac_free. */
void *ousac_calloc(size_t count, size_t size);

/* As ousac_calloc, uninitialised. */
void *ousac_malloc(size_t count, size_t size);

/* Grows or shrinks a block of `old_count` elements to `count`, both of `size` bytes; what is new is zeroed.
 * On failure returns NULL and leaves the block as it was. `block` may be NULL with old_count 0. */
void *ousac_regrow(void *block, size_t old_count, size_t count, size_t size);

/* A copy of a string; NULL where memory is short. */
char *ousac_strdup(const char *text);

/* NULL is fine. */
void ousac_free(void *block);

/* Test hook: after `allowed` further allocations every allocation fails until the next call; a negative
 * number switches the hook off. Returns how many allocations were made since the previous call. */
size_t ousac_memory_fail_after(long allowed);

#ifdef __cplusplus
}
#endif
#endif
