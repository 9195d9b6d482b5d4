#include "calib/backend/reserve.h"

#include "formats/memory.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* OpenBLAS's own, where it shows them: the buffer of one thread, and its return, which keeps it mapped. */
extern void *blas_memory_alloc(int position) __attribute__((weak));
extern void blas_memory_free(void *buffer) __attribute__((weak));

enum {
    BUFFER_MIB = 128, /* of one thread, on x86-64 and ARM64 */
    STACK_MIB = 8     /* of a thread, where the system limits none */
};

/* Address space of this process, in bytes; 0 where the system does not say. */
static uint64_t space_used(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%llu", &pages) != 1)
        pages = 0;
    (void)fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t stack_bytes(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (uint64_t)limit.rlim_cur
               : (uint64_t)STACK_MIB << 20;
}

ousac_status ousac_blas_reserve(size_t threads, ousac_error *error) {
    static size_t taken; /* buffers that OpenBLAS holds already */
    const uint64_t buffer = (uint64_t)BUFFER_MIB << 20, stack = stack_bytes();
    struct rlimit limit;
    void **held = NULL;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || threads <= taken)
        return OUSAC_STATUS_OK;
    const uint64_t used = space_used();
    const uint64_t left = limit.rlim_cur > used ? (uint64_t)limit.rlim_cur - used : 0;
    const uint64_t needed = (threads - taken) * (buffer + stack);
    if (needed > left)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY,
                          "the address space is limited to %" PRIu64
                          " MiB (ulimit -v): products on %zu threads need "
                          "%" PRIu64 " MiB more and %" PRIu64 " MiB are left, enough for %" PRIu64 " threads",
                          (uint64_t)limit.rlim_cur >> 20, threads, needed >> 20, left >> 20,
                          taken + left / (buffer + stack));
    if (!blas_memory_alloc || !blas_memory_free)
        return OUSAC_STATUS_OK;
    held = ousac_calloc(threads, sizeof *held);
    if (!held)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu threads", threads);
    for (size_t i = 0; i < threads; i++)
        held[i] = blas_memory_alloc(0);
    for (size_t i = threads; i-- > 0;)
        blas_memory_free(held[i]);
    ousac_free(held);
    taken = threads;
    return OUSAC_STATUS_OK;
}
