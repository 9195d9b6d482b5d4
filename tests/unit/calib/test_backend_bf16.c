/* The bfloat16 backend: which products it rounds, how exactly, and that nothing else changes. Skipped, by
 * exit status 77, where the processor or oneDNN is missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/backend/backend_bf16.h"
#include "calib/backend/kernels.h"
#include "formats/dtype.h"
#include "tests/support/calib_support.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ousac_backend *bf16;

static void rounding_is_that_of_the_format(void **unused) {
    static const char *const limits[] = {"base", "avx2", "avx512"};
    enum { COUNT = 4099 };
    float *x = malloc(COUNT * sizeof *x);
    uint16_t *y = malloc(COUNT * sizeof *y);
    uint64_t state = 1;
    (void)unused;
    calib_fill(&state, COUNT, x);
    const float special[] = {0.0F,    -0.0F,    INFINITY, -INFINITY,   NAN,         -NAN,         FLT_MAX,
                             FLT_MIN, -FLT_MAX, 1e-45F,   1.00390625F, 1.01171875F, 3.3895314e38F};
    memcpy(x, special, sizeof special);
    const uint32_t low_nan = 0x7f800001U; /* would round to infinity */
    memcpy(x + 20, &low_nan, sizeof low_nan);
    for (size_t i = 0; i < 3; i++) {
        ousac_kernels_choose(limits[i])->round_bf16(COUNT, x, y);
        for (size_t j = 0; j < COUNT; j++)
            if (isnan(x[j]))
                assert_true(isnan(ousac_bf16_to_f32(y[j])));
            else
                assert_int_equal(y[j], ousac_f32_to_bf16(x[j]));
    }
    free(x), free(y);
}

/* Bits of CPUID: AMX-BF16 is of use with tiles alone, AVX512_BF16 without either. */
static void units_are_those_that_the_processor_names(void **unused) {
    const unsigned amx = 1U << 22, tile = 1U << 24, avx512 = 1U << 5;
    (void)unused;
    assert_string_equal(ousac_backend_bf16_units(amx | tile, 0), "AMX-BF16");
    assert_string_equal(ousac_backend_bf16_units(amx | tile, avx512), "AMX-BF16");
    assert_string_equal(ousac_backend_bf16_units(0, avx512), "AVX512_BF16");
    assert_string_equal(ousac_backend_bf16_units(amx, avx512), "AVX512_BF16");
    assert_null(ousac_backend_bf16_units(amx, 0));
    assert_null(ousac_backend_bf16_units(tile, ~avx512));
    assert_null(ousac_backend_bf16_units(0, 0));
}

static double rounded(float x) {
    return (double)ousac_bf16_to_f32(ousac_f32_to_bf16(x));
}

typedef struct weights {
    size_t m, n;
    float *w, *bias;
} weights;

/* Weights and bias in one block of the backend, prepared as a model's are. */
static weights prepared_weights(uint64_t *state, size_t m, size_t n) {
    weights p = {m, n, bf16->alloc(bf16, m * n + m, sizeof(float)), NULL};
    assert_non_null(p.w);
    p.bias = p.w + m * n;
    calib_fill(state, m * n + m, p.w);
    assert_int_equal(bf16->prepare(bf16, m * n + m, p.w, NULL), OUSAC_STATUS_OK);
    return p;
}

static const size_t shapes[][3] = {{32, 1, 1},   {33, 48, 72},    {64, 192, 192}, {100, 7, 50},
                                   {40, 96, 24}, {256, 130, 257}, {35, 576, 1000}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void prepared_weights_are_multiplied_in_bfloat16(void **unused) {
    uint64_t state = 2;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 2; c++) {
        const size_t rows = shapes[c / 2][0], m = shapes[c / 2][1], n = shapes[c / 2][2];
        const size_t ldx = n + c % 3, ldy = m + c % 5;
        const int biased = (int)(c % 2);
        const weights p = prepared_weights(&state, m, n);
        float *x = malloc(rows * ldx * sizeof *x), *y = malloc(rows * ldy * sizeof *y);
        calib_fill(&state, rows * ldx, x);
        for (size_t i = 0; i < rows * ldy; i++)
            y[i] = NAN;
        assert_int_equal(
            bf16->linear(bf16, rows, m, n, x, ldx, p.w, n, biased ? p.bias : NULL, 0, y, ldy, NULL),
            OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < m; j++) {
                double expected = biased ? (double)p.bias[j] : 0, size = fabs(expected);
                for (size_t k = 0; k < n; k++) {
                    const double term = rounded(x[i * ldx + k]) * rounded(p.w[j * n + k]);
                    expected += term;
                    size += fabs(term);
                }
                assert_true(fabs((double)y[i * ldy + j] - expected) <= 6e-8 * size * (4 + sqrt((double)n)));
            }
            for (size_t j = m; j < ldy; j++)
                assert_true(isnan(y[i * ldy + j]));
        }
        free(x), free(y);
        bf16->release(bf16, p.w);
    }
}

/* Rows of the middle of the block, as the sites of a group; then what must stay in float32. */
static void everything_else_is_the_cpu_backend(void **unused) {
    enum { ROWS = 64, M = 96, N = 80 };
    const ousac_backend *cpu = ousac_backend_cpu();
    uint64_t state = 3;
    const weights p = prepared_weights(&state, M, N);
    float *other = malloc(M * N * sizeof *other), *x = malloc(ROWS * N * sizeof *x);
    float *a = malloc(ROWS * M * sizeof *a), *b = malloc(ROWS * M * sizeof *b);
    (void)unused;
    memcpy(other, p.w, M * N * sizeof *other);
    calib_fill(&state, ROWS * N, x);
    const struct {
        const char *name;
        size_t rows, m;
        const float *w;
        float beta;
        int same;
    } cases[] = {{"part of the block", ROWS, M / 2, p.w + M / 4 * N, 0, 0},
                 {"few rows", 31, M, p.w, 0, 1},
                 {"weights not prepared", ROWS, M, other, 0, 1},
                 {"added to Y", ROWS, M, p.w, 1, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const size_t m = cases[c].m;
        for (size_t i = 0; i < ROWS * M; i++)
            a[i] = b[i] = (float)i;
        assert_int_equal(
            bf16->linear(bf16, cases[c].rows, m, N, x, N, cases[c].w, N, NULL, cases[c].beta, a, M, NULL), 0);
        assert_int_equal(
            cpu->linear(cpu, cases[c].rows, m, N, x, N, cases[c].w, N, NULL, cases[c].beta, b, M, NULL), 0);
        const int same = memcmp(a, b, ROWS * M * sizeof *a) == 0;
        if (same != cases[c].same)
            fail_msg("%s: %s float32", cases[c].name, same ? "as" : "not as");
    }
    /* A block that was released is forgotten, also where the next one lies at the same place. */
    bf16->release(bf16, p.w);
    float *next = bf16->alloc(bf16, M * N + M, sizeof *next);
    assert_non_null(next);
    memcpy(next, other, M * N * sizeof *next);
    assert_int_equal(bf16->linear(bf16, ROWS, M, N, x, N, next, N, NULL, 0, a, M, NULL), 0);
    assert_int_equal(cpu->linear(cpu, ROWS, M, N, x, N, next, N, NULL, 0, b, M, NULL), 0);
    assert_memory_equal(a, b, ROWS * M * sizeof *a);
    bf16->release(bf16, next);
    assert_int_not_equal(ousac_backend_is_bf16(bf16), ousac_backend_is_bf16(cpu));
    free(other), free(x), free(a), free(b);
}

typedef struct job {
    const weights *p;
    const float *x;
    float *y;
} job;

static void *multiply(void *self) {
    const job *j = self;
    for (int i = 0; i < 20; i++)
        (void)bf16->linear(bf16, 64, j->p->m, j->p->n, j->x, j->p->n, j->p->w, j->p->n, j->p->bias, 0, j->y,
                           j->p->m, NULL);
    return NULL;
}

static void threads_do_not_change_a_bit(void **unused) {
    uint64_t state = 4;
    const weights p = prepared_weights(&state, 192, 200);
    float *x = malloc(64 * p.n * sizeof *x), *y[4];
    pthread_t threads[4];
    (void)unused;
    calib_fill(&state, 64 * p.n, x);
    for (size_t i = 0; i < 4; i++)
        y[i] = malloc(64 * p.m * sizeof *y[i]);
    job jobs[4];
    for (size_t i = 0; i < 4; i++) {
        jobs[i] = (job){&p, x, y[i]};
        if (i == 0)
            (void)multiply(&jobs[0]);
        else
            assert_int_equal(pthread_create(&threads[i], NULL, multiply, &jobs[i]), 0);
    }
    for (size_t i = 1; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_memory_equal(y[i], y[0], 64 * p.m * sizeof *y[0]);
    }
    for (size_t i = 0; i < 4; i++)
        free(y[i]);
    free(x);
    bf16->release(bf16, p.w);
}

int main(void) {
    ousac_error error = {0};
    const ousac_status status = ousac_backend_bf16(&bf16, &error);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_that_of_the_format),
        cmocka_unit_test(units_are_those_that_the_processor_names),
        cmocka_unit_test(prepared_weights_are_multiplied_in_bfloat16),
        cmocka_unit_test(everything_else_is_the_cpu_backend),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    if (status == OUSAC_STATUS_UNSUPPORTED) {
        const struct CMUnitTest always[] = {cmocka_unit_test(rounding_is_that_of_the_format),
                                            cmocka_unit_test(units_are_those_that_the_processor_names)};
        const int failed = cmocka_run_group_tests(always, NULL, NULL);
        printf("%s\n", error.message);
        return failed ? failed : 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
