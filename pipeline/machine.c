/* sched_getaffinity is of no standard. */
#define _GNU_SOURCE

#include "pipeline/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { CPUS_MAX = 4096 };

double ousac_clock_s(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

uint64_t ousac_peak_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss < 0)
        return 0;
    return (uint64_t)usage.ru_maxrss * 1024; /* Linux counts kilobytes */
}

size_t ousac_processors(void) {
    const size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    size_t count = 0;
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX); /* a fixed cpu_set_t is too small for the largest machines */
    if (set && sched_getaffinity(0, bytes, set) == 0)
        count = (size_t)CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (count == 0) {
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (size_t)online : 1;
    }
    return count;
}
