/* Products under a limit of the address space end, or are refused before they begin; each in a process of its own. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calib/backend/backend.h"
#include "calib/backend/reserve.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { ORDER = 64, SECONDS = 20 };

static void limit_to_more(size_t mib) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%llu", &pages) != 1)
        _exit(90);
    (void)fclose(file);
    const rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)mib << 20);
    if (setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes}))
        _exit(91);
}

/* All of the address space that the limit leaves, so that a later mapping must fail. */
static void take_the_rest(void) {
    for (size_t size = (size_t)1 << 30; size >= 4096; size /= 2)
        while (mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
            ;
}

static void *multiply(void *unused) {
    static double a[ORDER * ORDER], b[ORDER * ORDER];
    double c[ORDER * ORDER];
    const ousac_backend *be = ousac_backend_cpu();
    (void)unused;
    (void)be->gemm64(be, 0, 0, ORDER, ORDER, ORDER, 1, a, ORDER, b, ORDER, 0, c, ORDER, NULL);
    return NULL;
}

/* Exit code of `child` in a process of its own; -1 where it did not end in time. */
static int apart(int (*child)(void)) {
    int status = 0;
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)alarm(SECONDS);
        _exit(child());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int refused(void) {
    ousac_error error = {0};
    limit_to_more(64);
    if (ousac_blas_reserve(2, &error) != OUSAC_STATUS_MEMORY)
        return 1;
    return strstr(error.message, "products on 2 threads need 272 MiB more") &&
                   strstr(error.message, "enough for 0 threads")
               ? 0
               : 2;
}

static int works_on_what_was_taken(void) {
    ousac_error error = {0};
    pthread_t thread;
    limit_to_more(320);
    if (ousac_blas_reserve(2, &error))
        return 1;
    if (pthread_create(&thread, NULL, multiply, NULL) || pthread_join(thread, NULL))
        return 2;
    take_the_rest();
    (void)multiply(NULL);
    return ousac_blas_reserve(2, &error) ? 3 : 0;
}

static int without_a_limit(void) {
    return ousac_blas_reserve(100000, NULL) ? 1 : 0;
}

static void too_little_is_refused_with_the_figure(void **state) {
    (void)state;
    if (SANITIZED)
        skip(); /* a sanitizer maps terabytes */
    assert_int_equal(apart(refused), 0);
}

static void buffers_once_taken_last(void **state) {
    (void)state;
    if (SANITIZED)
        skip();
    assert_int_equal(apart(works_on_what_was_taken), 0);
}

static void no_limit_takes_nothing(void **state) {
    (void)state;
    assert_int_equal(apart(without_a_limit), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_little_is_refused_with_the_figure),
        cmocka_unit_test(buffers_once_taken_last),
        cmocka_unit_test(no_limit_takes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
