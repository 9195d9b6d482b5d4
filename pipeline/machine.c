/* sched_getaffinity is of no standard. */
#define _GNU_SOURCE

#include "pipeline/machine.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define GROUPS "/sys/fs/cgroup"
enum { CPUS_MAX = 4096, PATH_BYTES = 4096, LINE_BYTES = PATH_BYTES + 64 };

static double read_clock(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double ousac_clock_s(void) {
    return read_clock(CLOCK_MONOTONIC);
}

double ousac_thread_s(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

double ousac_process_s(void) {
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t ousac_peak_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss < 0)
        return 0;
    return (uint64_t)usage.ru_maxrss * 1024; /* Linux counts kilobytes */
}

/* --- processors --- */

/* Two numbers of a file, the first of which may be the word max; 0 where there is no limit. */
static size_t read_quota(const char *quota_path, const char *period_path) {
    long long quota = -1, period = -1;
    FILE *file = fopen(quota_path, "r");
    int known = 0;
    if (!file)
        return 0;
    known = fscanf(file, "%lld", &quota) == 1;
    if (known && !period_path)
        known = fscanf(file, "%lld", &period) == 1;
    (void)fclose(file);
    if (known && period_path) {
        file = fopen(period_path, "r");
        known = file && fscanf(file, "%lld", &period) == 1;
        if (file)
            (void)fclose(file);
    }
    return known && quota > 0 && period > 0 ? (size_t)((quota - 1) / period + 1) : 0;
}

/* Of one control group, of either version. */
static size_t group_quota(const char *group, int second) {
    char quota[PATH_BYTES + 64], period[PATH_BYTES + 64];
    if (second) {
        (void)snprintf(quota, sizeof quota, GROUPS "%s/cpu.max", group);
        return read_quota(quota, NULL);
    }
    (void)snprintf(quota, sizeof quota, GROUPS "/cpu%s/cpu.cfs_quota_us", group);
    (void)snprintf(period, sizeof period, GROUPS "/cpu%s/cpu.cfs_period_us", group);
    return read_quota(quota, period);
}

/* The processors that the quotas of the process's control group and of those above it are worth, rounded up; 0 for no
 * quota. */
static size_t quota_processors(void) {
    FILE *file = fopen("/proc/self/cgroup", "r");
    char line[LINE_BYTES];
    size_t least = 0;
    while (file && fgets(line, sizeof line, file)) {
        /* "0::/GROUP" of version 2, "7:cpu,cpuacct:/GROUP" of version 1 */
        const int second = strncmp(line, "0::", 3) == 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (!second && strcmp(controllers, ":cpu") != 0 && strncmp(controllers, ":cpu,", 5) != 0 &&
            !strstr(controllers, ",cpu"))
            continue;
        for (;;) {
            char *slash = strrchr(group, '/');
            const size_t quota = group_quota(strcmp(group, "/") == 0 ? "" : group, second);
            if (quota > 0 && (least == 0 || quota < least))
                least = quota;
            if (!slash)
                break;
            *slash = '\0';
        }
    }
    if (file)
        (void)fclose(file);
    return least;
}

size_t ousac_processors(void) {
    const size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX), quota = quota_processors();
    size_t count = 0;
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX); /* a fixed cpu_set_t is too small for the largest machines */
    if (set && sched_getaffinity(0, bytes, set) == 0)
        count = (size_t)CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (count == 0) {
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (size_t)online : 1;
    }
    return quota > 0 && quota < count ? quota : count;
}

void ousac_processor_name(char *name, size_t size) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    struct utsname system;
    char line[LINE_BYTES];
    (void)snprintf(name, size, "%s", uname(&system) == 0 ? system.machine : "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!value)
            continue;
        value += 1 + strspn(value + 1, " \t");
        line[strcspn(line, "\n")] = '\0';
        if (*value)
            (void)snprintf(name, size, "%s", value);
        break;
    }
    if (file)
        (void)fclose(file);
}
