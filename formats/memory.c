/* For madvise, where the system has it. */
#define _DEFAULT_SOURCE
#include "formats/memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

static atomic_long remaining = -1; /* allocations still allowed; negative: no limit */
static atomic_size_t made;

static int denied(void) {
    atomic_fetch_add_explicit(&made, 1, memory_order_relaxed);
    long left = atomic_load_explicit(&remaining, memory_order_relaxed);
    while (left > 0)
        if (atomic_compare_exchange_weak_explicit(&remaining, &left, left - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return 0;
    return left == 0;
}

void *ousac_malloc(size_t count, size_t size) {
    if (size && count > (SIZE_MAX - ALIGNMENT) / size)
        return NULL;
    if (denied())
        return NULL;
    size_t bytes = count * size;
#if defined(MADV_HUGEPAGE)
    /* Large matrices in large pages: a hundredth of the page faults and of the address translations. Smaller
     * blocks would cost more by rounding up than they gain. */
    if (bytes >= 8 * (size_t)HUGE_PAGE && bytes <= SIZE_MAX - HUGE_PAGE) {
        bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        void *block = aligned_alloc(HUGE_PAGE, bytes);
        if (block)
            (void)madvise(block, bytes, MADV_HUGEPAGE); /* advice: a refusal changes nothing */
        return block;
    }
#endif
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return aligned_alloc(ALIGNMENT, bytes ? bytes : ALIGNMENT);
}

void *ousac_calloc(size_t count, size_t size) {
    void *block = ousac_malloc(count, size);
    if (block)
        memset(block, 0, count * size);
    return block;
}

void *ousac_regrow(void *block, size_t old_count, size_t count, size_t size) {
    unsigned char *grown = ousac_malloc(count, size);
    if (!grown)
        return NULL;
    size_t kept = old_count < count ? old_count : count;
    if (kept)
        memcpy(grown, block, kept * size);
    memset(grown + kept * size, 0, (count - kept) * size);
    ousac_free(block);
    return grown;
}

char *ousac_strdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = ousac_malloc(bytes, 1);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

void ousac_free(void *block) {
    free(block);
}

size_t ousac_memory_fail_after(long allowed) {
    atomic_store_explicit(&remaining, allowed < 0 ? -1 : allowed, memory_order_relaxed);
    return atomic_exchange_explicit(&made, 0, memory_order_relaxed);
}
