/* The two halves of a cached linear, and the products that the CPU backend makes itself, against naive
 * double-precision references over shapes on both sides of every tile, vector and block edge, with the
 * kernels of every instruction set that this processor runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/backend/backend.h"
#include "calib/backend/kernels.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ousac_backend backends[3];
static size_t backend_count;

static int list_backends(void **unused) {
    static const char *const limits[] = {"base", "avx2", "avx512"};
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        const ousac_kernels *kernels = ousac_kernels_choose(limits[i]);
        if (strcmp(kernels->isa, limits[i]) != 0) {
            print_message("skipped: no %s on this processor\n", limits[i]);
            continue;
        }
        backends[backend_count] = *ousac_backend_cpu();
        backends[backend_count++].state = (void *)(uintptr_t)kernels;
    }
    return backend_count == 0;
}

/* (rows, ld) values; what is beyond the columns and one behind the end must come back as it was. */
static float *filled(uint64_t *state, size_t rows, size_t ld) {
    float *block = malloc((rows * ld + 1) * sizeof *block);
    assert_non_null(block);
    calib_fill(state, rows * ld, block);
    block[rows * ld] = 77;
    return block;
}

/* rows, columns, inner: one row, few rows, row tiles with a rest, a second block of rows; columns below, at
 * and beyond a vector, a panel and two; inner below and beyond one panel's depth, and beyond what the backend
 * multiplies itself. */
static const size_t shapes[][3] = {{1, 5, 3},     {4, 1, 1},      {5, 7, 24},    {8, 16, 192},  {13, 47, 50},
                                   {16, 48, 193}, {31, 49, 17},   {64, 96, 130}, {257, 33, 20}, {300, 24, 7},
                                   {9, 100, 500}, {12, 17, 1025}, {40, 64, 64},  {6, 8, 400},   {259, 15, 40},
                                   {20, 31, 19},  {17, 1600, 200}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Rounding of float32 sums of `inner` terms whose magnitudes add up to `size`. */
static void assert_close(float value, double expected, double size, size_t inner) {
    const double bound = 6e-8 * size * (4 + sqrt((double)inner));
    if (!(fabs((double)value - expected) <= bound))
        fail_msg("%.9g: expected %.9g within %.3g", (double)value, expected, bound);
}

static void assert_pad_untouched(const float *now, const float *then, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows; i++)
        assert_memory_equal(now + i * ld + cols, then + i * ld + cols, (ld - cols) * sizeof *now);
    assert_true(now[rows * ld] == 77);
}

static void project_change_is_the_product_of_the_change(void **unused) {
    uint64_t state = 1;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 3 * backend_count; c++) {
        const ousac_backend *b = &backends[c % backend_count];
        const size_t *shape = shapes[c / backend_count / 3], mode = c / backend_count % 3;
        const size_t rows = shape[0], r = shape[1], n = shape[2];
        const size_t ldx = n + c % 3, ld_past = n + c % 2, ldb = n + c % 4, ldz = r + c % 5;
        const float s = mode == 2 ? 0.625F : 0;
        float *x = filled(&state, rows, ldx), *last = filled(&state, rows, ld_past);
        float *before = filled(&state, rows, ld_past), *factor = filled(&state, r, ldb);
        float *z = filled(&state, rows, ldz), *work = filled(&state, rows, n);
        float *untouched = malloc(rows * ldz * sizeof *untouched);
        memcpy(untouched, z, rows * ldz * sizeof *untouched);
        if (mode == 1) /* not read where s is 0 */
            for (size_t i = 0; i < rows * ld_past; i++)
                before[i] = NAN;
        assert_int_equal(b->project_change(b, rows, r, n, s, x, ldx, last, mode == 0 ? NULL : before, ld_past,
                                           factor, ldb, z, ldz, work, NULL),
                         OUSAC_STATUS_OK);
        if (ldx == n) { /* X itself for the work: the same, to the bit */
            float *in = malloc(rows * n * sizeof *in), *again = filled(&state, rows, ldz);
            memcpy(in, x, rows * n * sizeof *in);
            assert_int_equal(b->project_change(b, rows, r, n, s, in, n, last, mode == 0 ? NULL : before,
                                               ld_past, factor, ldb, again, ldz, in, NULL),
                             OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows; i++)
                assert_memory_equal(again + i * ldz, z + i * ldz, r * sizeof *z);
            free(in), free(again);
        }
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < r; j++) {
                double expected = 0, size = 0;
                for (size_t k = 0; k < n; k++) {
                    const double base = last[i * ld_past + k];
                    const double past = mode == 2 ? s * (base - (double)before[i * ld_past + k]) : 0;
                    const double weight = factor[j * ldb + k];
                    expected += ((double)x[i * ldx + k] - base - past) * weight;
                    size += (fabs((double)x[i * ldx + k]) + fabs(base) + fabs(past)) * fabs(weight);
                }
                assert_close(z[i * ldz + j], expected, size, n);
            }
        assert_pad_untouched(z, untouched, rows, r, ldz);
        assert_true(work[rows * n] == 77);
        free(x), free(last), free(before), free(factor), free(z), free(work), free(untouched);
    }
}

static void expand_onto_adds_to_the_extrapolated_past(void **unused) {
    uint64_t state = 2;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 4 * backend_count; c++) {
        const ousac_backend *b = &backends[c % backend_count];
        const size_t *shape = shapes[c / backend_count / 4], mode = c / backend_count % 4;
        const size_t rows = shape[0], m = shape[1], r = mode == 3 ? 0 : shape[2];
        const size_t ldz = r + c % 3, lda = m + c % 2, ld_past = m + c % 4, ldy = m + c % 5;
        const float s = mode >= 2 ? -1.25F : 0;
        float *z = filled(&state, rows, ldz), *a = filled(&state, r, lda);
        float *last = filled(&state, rows, ld_past), *before = filled(&state, rows, ld_past);
        float *y = filled(&state, rows, ldy), *untouched = malloc(rows * ldy * sizeof *untouched);
        for (size_t i = 0; i < rows; i++) /* never read */
            for (size_t j = 0; j < m; j++)
                y[i * ldy + j] = NAN;
        memcpy(untouched, y, rows * ldy * sizeof *untouched);
        if (mode == 1)
            for (size_t i = 0; i < rows * ld_past; i++)
                before[i] = NAN;
        assert_int_equal(b->expand_onto(b, rows, m, r, z, ldz, a, lda, s, last, mode == 0 ? NULL : before,
                                        ld_past, y, ldy, NULL),
                         OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++) {
                const double base = last[i * ld_past + j];
                const double past = mode >= 2 ? s * (base - (double)before[i * ld_past + j]) : 0;
                double expected = base + past, size = 2 * fabs(base) + 2 * fabs(past);
                for (size_t k = 0; k < r; k++) {
                    const double term = (double)z[i * ldz + k] * a[k * lda + j];
                    expected += term;
                    size += fabs(term);
                }
                assert_close(y[i * ldy + j], expected, size, r);
            }
        assert_pad_untouched(y, untouched, rows, m, ldy);
        free(z), free(a), free(last), free(before), free(y), free(untouched);
    }
}

/* linear and expand of every instruction set; test_backend.c holds the first one's other properties. */
static void products_agree_with_every_instruction_set(void **unused) {
    uint64_t state = 3;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 3 * 2 * backend_count; c++) {
        const ousac_backend *b = &backends[c % backend_count];
        const size_t *shape = shapes[c / backend_count / 6], mode = c / backend_count % 3;
        const int expand = (int)(c / backend_count / 3 % 2);
        const size_t rows = shape[0], m = shape[1], n = shape[2], ldx = n + c % 3, ldy = m + c % 2;
        const size_t ldw = (expand ? m : n) + c % 4;
        const float beta = mode == 2 ? -0.5F : mode == 1 ? 1 : 0;
        float *x = filled(&state, rows, ldx), *w = filled(&state, expand ? n : m, ldw);
        float *bias = filled(&state, 1, m), *y = filled(&state, rows, ldy);
        float *then = malloc(rows * ldy * sizeof *then);
        const int biased = !expand && mode == 0;
        if (mode == 0)
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < m; j++)
                    y[i * ldy + j] = NAN;
        memcpy(then, y, rows * ldy * sizeof *then);
        assert_int_equal(
            expand ? b->expand(b, rows, m, n, x, ldx, w, ldw, beta, y, ldy, NULL)
                   : b->linear(b, rows, m, n, x, ldx, w, ldw, biased ? bias : NULL, beta, y, ldy, NULL),
            OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++) {
                double expected = biased ? (double)bias[j] : 0;
                if (mode > 0)
                    expected = (double)beta * then[i * ldy + j];
                double size = 2 * fabs(expected);
                for (size_t k = 0; k < n; k++) {
                    const double term = (double)x[i * ldx + k] * (expand ? w[k * ldw + j] : w[j * ldw + k]);
                    expected += term;
                    size += fabs(term);
                }
                assert_close(y[i * ldy + j], expected, size, n);
            }
        assert_pad_untouched(y, then, rows, m, ldy);
        free(x), free(w), free(bias), free(y), free(then);
    }
}

static void a_rate_without_a_past_is_refused(void **unused) {
    const ousac_backend *b = &backends[0];
    float value[4] = {0}, work[4];
    (void)unused;
    assert_int_equal(
        b->project_change(b, 1, 1, 1, 0.5F, value, 1, value, NULL, 1, value, 1, work, 1, work + 1, NULL),
        OUSAC_STATUS_USAGE);
    assert_int_equal(b->expand_onto(b, 1, 1, 1, value, 1, value, 1, 0.5F, value, NULL, 1, work, 1, NULL),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(b->expand_onto(b, 2, 3, 1, value, 1, value, 2, 0, value, NULL, 3, work, 3, NULL),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(b->expand_onto(b, 0, 3, 1, value, 1, value, 3, 0, value, NULL, 3, work, 3, NULL),
                     OUSAC_STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(project_change_is_the_product_of_the_change),
        cmocka_unit_test(expand_onto_adds_to_the_extrapolated_past),
        cmocka_unit_test(products_agree_with_every_instruction_set),
        cmocka_unit_test(a_rate_without_a_past_is_refused),
    };
    return cmocka_run_group_tests(tests, list_backends, NULL);
}
