/* What holds across the table of every backend: memory, threads that do not disturb each other, and misuse
 * that is reported before anything is touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 2, Y = 64 * 48, ATTENDED = 64 * 32, ORDER = 24 };

typedef struct worker {
    const ousac_backend *backend;
    const float *x, *w; /* (64, 96), (48, 96), on the backend, for all */
    float y[Y], attended[ATTENDED];
    double eigen[ORDER * ORDER], values[ORDER];
    int failed;
} worker;

/* Threads must not use the test's assertions, which leave by a jump. */
static void *work_alone(void *argument) {
    worker *job = argument;
    const ousac_backend *k = job->backend;
    float *y = k->alloc(k, Y, sizeof *y), *attended = k->alloc(k, ATTENDED, sizeof *attended);
    float *scores = k->alloc(k, 64 * 64, sizeof *scores), source[ORDER * ORDER];
    double *eigen = k->alloc(k, ORDER * ORDER, sizeof *eigen), *values = k->alloc(k, ORDER, sizeof *values);
    int failed = !y || !attended || !scores || !eigen || !values;
    for (int repeat = 0; repeat < 10 && !failed; repeat++) {
        failed |= k->linear(k, 64, 48, 96, job->x, 96, job->w, 96, job->w, 0.0F, y, 48, NULL) != 0;
        failed |= k->attention(k, 1, 64, 2, 16, job->x, job->x + 32, job->x + 64, 96, attended, 32, scores,
                               NULL) != 0;
        failed |= k->download(k, source, job->x, sizeof source, NULL) != 0;
        for (size_t i = 0; i < ORDER * ORDER; i++)
            job->eigen[i] = source[i];
        failed |= k->upload(k, eigen, job->eigen, sizeof job->eigen, NULL) != 0;
        failed |= k->eigen64(k, ORDER, eigen, ORDER, values, NULL) != 0;
        failed |= k->download(k, job->y, y, sizeof job->y, NULL) != 0;
        failed |= k->download(k, job->attended, attended, sizeof job->attended, NULL) != 0;
        failed |= k->download(k, job->eigen, eigen, sizeof job->eigen, NULL) != 0;
        failed |= k->download(k, job->values, values, sizeof job->values, NULL) != 0;
    }
    k->release(k, y), k->release(k, attended), k->release(k, scores);
    k->release(k, eigen), k->release(k, values);
    job->failed = failed;
    return NULL;
}

/* Several rounds: threads that end hand what the backend keeps for them to those that follow. */
static void threads_do_not_disturb_each_other(void **unused) {
    uint64_t state = 15;
    float *x = filled(&state, 64, 96), *w = filled(&state, 48, 96);
    (void)unused;
    EACH_BACKEND(k) {
        pthread_t threads[THREADS];
        worker *jobs = calloc(THREADS + 1, sizeof *jobs);
        float *dx = put(k, x, block_bytes(64, 96)), *dw = put(k, w, block_bytes(48, 96));
        assert_non_null(jobs);
        for (size_t t = 0; t <= THREADS; t++) {
            jobs[t].backend = k;
            jobs[t].x = dx;
            jobs[t].w = dw;
        }
        (void)work_alone(&jobs[THREADS]);
        assert_int_equal(jobs[THREADS].failed, 0);
        for (int round = 0; round < ROUNDS; round++) {
            for (size_t t = 0; t < THREADS; t++)
                assert_int_equal(pthread_create(&threads[t], NULL, work_alone, &jobs[t]), 0);
            for (size_t t = 0; t < THREADS; t++)
                assert_int_equal(pthread_join(threads[t], NULL), 0);
            for (size_t t = 0; t < THREADS; t++)
                assert_memory_equal(&jobs[t], &jobs[THREADS], sizeof *jobs);
        }
        drop(k, dx), drop(k, dw);
        free(jobs);
    }
    free(x), free(w);
}

static void misuse_is_reported(void **unused) {
    const size_t huge = (size_t)INT_MAX + 1;
    const float nothing[16] = {0};
    (void)unused;
    EACH_BACKEND(k) {
        float *x = put(k, nothing, sizeof nothing), *y = put(k, nothing, sizeof nothing);
        double *wide = put(k, nothing, sizeof nothing), host[16] = {0};
        ousac_error error = {0};
#define REFUSED(call) assert_int_equal((call), OUSAC_STATUS_USAGE)
        REFUSED(k->linear(k, 2, 2, 3, x, 2, x, 3, NULL, 0, y, 2, &error));
        assert_non_null(strstr(error.message, "linear"));
        REFUSED(k->linear(k, 2, 2, 2, x, 2, x, 2, x, 1.0F, y, 2, &error));
        REFUSED(k->linear(k, huge, 1, 1, x, 1, x, 1, NULL, 0, y, 1, &error));
        REFUSED(k->linear(k, 1, 1, 1, x, huge, x, 1, NULL, 0, y, 1, &error));
        REFUSED(k->linear(k, SIZE_MAX, 2, 2, x, SIZE_MAX, x, 2, NULL, 0, y, 2, &error));
        REFUSED(k->expand(k, 2, 3, 2, x, 2, x, 2, 0, y, 3, &error));
        REFUSED(k->expand(k, 1, huge, 1, x, 1, x, huge, 0, y, huge, &error));
        REFUSED(k->gram(k, 2, 3, x, 3, y, 2, &error));
        REFUSED(k->gram(k, huge, 1, x, 1, y, 1, &error));
        REFUSED(k->gemm64(k, 1, 0, 3, 2, 2, 1, wide, 2, wide, 2, 0, wide, 2, &error));
        REFUSED(k->gemm64(k, 0, 0, 1, 1, huge, 1, wide, huge, wide, 1, 0, wide, 1, &error));
        REFUSED(k->eigen64(k, 3, wide, 2, wide, &error));
        REFUSED(k->norm_modulate(k, 2, 2, x, 0, x, NULL, 1, 2, y, &error));
        REFUSED(k->norm_modulate(k, 2, 2, x, 0, x, x, 0, 2, y, &error));
        REFUSED(k->norm_modulate(k, 2, 2, x, 0, x, x, 1, 1, y, &error));
        REFUSED(k->add_gated(k, 2, 2, x, y, x, 0, 2, &error));
        REFUSED(k->gelu_tanh_rows(k, 2, 3, x, 2, y, 3, &error));
        REFUSED(k->gelu_tanh_rows(k, 2, 3, x, 3, y, 2, &error));
        REFUSED(k->rotate_heads(k, 2, 2, 2, x, 3, 0, x, x, 1, y, 4, &error));
        REFUSED(k->rotate_heads(k, 2, 2, 2, x, 4, 0, x, x, 1, y, 3, &error));
        REFUSED(k->rotate_heads(k, 2, 2, 2, x, 4, 0, x, x, 0, y, 4, &error));
        REFUSED(k->rotate_heads(k, 2, 1, 3, x, 3, 0, x, x, 1, y, 3, &error));
        REFUSED(k->rotate_heads(k, 2, SIZE_MAX / 2, 3, x, 3, 0, x, NULL, 1, y, 3, &error));
        REFUSED(k->attention(k, 1, 2, 2, 2, x, x, x, 3, y, 4, y, &error));
        REFUSED(k->attention(k, 1, 2, SIZE_MAX / 2, 3, x, x, x, 3, y, 4, y, &error));
        REFUSED(k->attention(k, 1, 1, 1, huge, x, x, x, huge, y, huge, y, &error));
        REFUSED(k->cross_attention(k, 1, 2, 2, 2, 2, x, 3, x, x, 4, NULL, y, 4, y, &error));
        REFUSED(k->cross_attention(k, 1, 2, 2, 2, 2, x, 4, x, x, 3, NULL, y, 4, y, &error));
        REFUSED(k->cross_attention(k, 1, 2, 2, 2, 2, x, 4, x, x, 4, NULL, y, 3, y, &error));
        REFUSED(k->cross_attention(k, 1, 2, 0, 2, 2, x, 4, x, x, 4, NULL, y, 4, y, &error));
        REFUSED(k->cross_attention(k, SIZE_MAX, 1, 2, 1, 1, x, 1, x, x, 1, NULL, y, 1, y, &error));
        REFUSED(k->cross_attention(k, 1, 1, 1, 1, huge, x, huge, x, x, huge, NULL, y, huge, y, &error));
        REFUSED(k->subtract(k, 2, 3, x, 2, x, 3, y, 3, &error));
        REFUSED(k->subtract_rows(k, 2, 3, NULL, 1, x, 2, x, 3, y, 3, &error));
        REFUSED(k->extrapolate(k, 2, 3, 1, x, 3, x, 3, y, 2, &error));
        REFUSED(k->gather(k, 2, 3, NULL, x, 3, y, 2, &error));
        REFUSED(k->copy(k, 2, 3, x, 3, y, 2, &error));
        REFUSED(k->sum_squares(k, 4, 3, x, 3, 3, host, &error));
        REFUSED(k->sum_squares(k, 4, 3, x, 3, 0, host, &error));
        REFUSED(k->sum_squares_diff(k, 4, 3, x, 3, x, 2, 2, host, &error));
        REFUSED(k->measure_change(k, 2, 3, NULL, NULL, x, 2, y, 3, 1, 1, host, host, &error));
        REFUSED(k->measure_change(k, 2, 3, NULL, NULL, x, 3, y, 2, 1, 1, host, host, &error));
        REFUSED(k->sum_abs_columns(k, 4, 3, x, 3, 3, host, &error));
        REFUSED(k->sum_abs_columns(k, 4, 3, x, 2, 2, host, &error));
        REFUSED(k->sum_abs_columns_diff(k, 4, 3, x, 3, x, 2, 2, host, &error));
        REFUSED(k->sum_abs_columns_diff(k, 4, 3, x, 3, x, 3, 0, host, &error));
        REFUSED(k->accumulate_packed(k, 3, 1, x, 2, wide, &error));
        REFUSED(k->project_change(k, 2, 2, 3, 0, x, 3, x, NULL, 2, x, 3, y, 2, y, &error));
        REFUSED(k->project_change(k, 2, 2, 3, 1, x, 3, x, NULL, 3, x, 3, y, 2, y, &error));
        REFUSED(k->expand_onto(k, 2, 3, 2, x, 2, x, 3, 1, x, NULL, 3, y, 3, &error));
        REFUSED(k->expand_onto(k, 2, 3, 2, x, 2, x, 3, 1, x, x, 2, y, 3, &error));
        REFUSED(k->expand_onto(k, 2, 3, 2, x, 1, x, 3, 0, x, NULL, 3, y, 3, &error));
#undef REFUSED
        drop(k, x), drop(k, y), drop(k, wide);
    }
}

static void memory_is_aligned_and_copied(void **unused) {
    const char text[] = "seven bytes";
    (void)unused;
    EACH_BACKEND(k) {
        char back[sizeof text] = "";
        void *block = k->alloc(k, sizeof text, 1), *none = k->alloc(k, 0, 4);
        assert_non_null(block);
        assert_non_null(none);
        assert_int_equal((uintptr_t)block % 64, 0);
        assert_int_equal(k->upload(k, block, text, sizeof text, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->upload(k, none, text, 0, NULL), OUSAC_STATUS_OK);
        get(k, back, block, sizeof text);
        assert_string_equal(back, text);
        drop(k, block), drop(k, none), drop(k, NULL);
        assert_null(k->alloc(k, SIZE_MAX / 2, 8));
        if (!backends_are_cpu()) /* no overflow, and no device has it; a sanitizer would end the program */
            assert_null(k->alloc(k, SIZE_MAX / 16, 8));
        /* and the backend still works */
        block = put(k, text, sizeof text);
        drop(k, block);
    }
}

static void backends_name_themselves(void **unused) {
    (void)unused;
    EACH_BACKEND(k) {
        assert_true(strlen(k->name) > 0 && strlen(k->detail) > 0);
        assert_null(strchr(k->detail, '\n'));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(misuse_is_reported),
        cmocka_unit_test(memory_is_aligned_and_copied),
        cmocka_unit_test(backends_name_themselves),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
