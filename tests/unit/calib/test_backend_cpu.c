/* What the CPU backend has for itself: kernels for several instruction sets that must agree bit for bit, an
 * exponential of its own, LAPACK's limits and host allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/backend/kernels.h"
#include "formats/memory.h"
#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One table per instruction set that this processor has. */
static const ousac_kernels *tables[3];
static size_t table_count;

static int list_tables(void **unused) {
    static const char *const limits[] = {"base", "avx2", "avx512"};
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        const ousac_kernels *kernels = ousac_kernels_choose(limits[i]);
        if (strcmp(kernels->isa, limits[i]) == 0)
            tables[table_count++] = kernels;
        else
            print_message("skipped: no %s on this processor\n", limits[i]);
    }
    return table_count == 0;
}

static void eigen64_reports_failed_allocations(void **unused) {
    long allowed = 0;
    (void)unused;
    for (;; allowed++) {
        double a[4] = {2, 0, 1, 2}, values[2];
        ousac_memory_fail_after(allowed);
        const ousac_status status = ousac_backend_cpu()->eigen64(ousac_backend_cpu(), 2, a, 2, values, NULL);
        ousac_memory_fail_after(-1);
        if (status == OUSAC_STATUS_OK)
            break;
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
    }
    assert_int_equal(allowed, 2);
}

static void exponential_is_accurate_everywhere(void **unused) {
    enum { COUNT = 1 << 14 };
    static float x[COUNT], y[COUNT];
    (void)unused;
    for (size_t b = 0; b < table_count; b++) {
        const ousac_kernels *kernels = tables[b];
        /* Every 1031st bit pattern: both signs, subnormals, infinities, NaN. */
        for (uint64_t first = 0; first < 1ULL << 32; first += (uint64_t)COUNT * 1031) {
            size_t count = 0;
            for (; count < COUNT && first + count * 1031 < 1ULL << 32; count++) {
                const uint32_t bits = (uint32_t)(first + count * 1031);
                memcpy(&x[count], &bits, sizeof bits);
            }
            kernels->exponential(count, x, y);
            for (size_t i = 0; i < count; i++) {
                const double exact = exp((double)x[i]);
                if (isnan(x[i]))
                    assert_true(isnan(y[i]));
                else if (exact > FLT_MAX * (1 + 3e-8))
                    assert_true(isinf(y[i]) && y[i] > 0);
                else if (exact >= FLT_MIN)
                    assert_near(y[i] / exact, 1, 2e-7);
                else
                    assert_near(y[i], exact, 1.41e-45);
            }
        }
    }
}

static void softmax_rows_are_distributions(void **unused) {
    static const size_t widths[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 257};
    uint64_t state = 6;
    (void)unused;
    for (size_t b = 0; b < table_count; b++)
        for (size_t c = 0; c < sizeof widths / sizeof *widths; c++) {
            const ousac_kernels *kernels = tables[b];
            const size_t rows = 5, cols = widths[c], ld = cols + c % 3;
            float *x = blank(rows, ld), *before = blank(rows, cols);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < cols; j++)
                    before[i * cols + j] = x[i * ld + j] =
                        (float)(calib_normal(&state) * (i == 4 ? 60 : 3) + 500);
            kernels->softmax(rows, cols, x, ld);
            for (size_t i = 0; i < rows; i++) {
                double most = -INFINITY, sum = 0;
                for (size_t j = 0; j < cols; j++)
                    most = fmax(most, before[i * cols + j]);
                for (size_t j = 0; j < cols; j++)
                    sum += exp(before[i * cols + j] - most);
                for (size_t j = 0; j < cols; j++) {
                    const double exact = exp(before[i * cols + j] - most) / sum;
                    assert_near(x[i * ld + j], exact, 1e-6 * exact + 2e-45);
                }
            }
            assert_pad_untouched(x, rows, cols, ld);
            /* One bad element anywhere spoils its row and no other. */
            for (size_t j = 0; j < cols; j++) {
                for (size_t i = 0; i < rows * cols; i++)
                    x[i] = before[i];
                x[2 * cols + j] = j % 2 ? NAN : INFINITY;
                kernels->softmax(rows, cols, x, cols);
                for (size_t i = 0; i < rows * cols; i++)
                    assert_true(isnan(x[i]) == (i / cols == 2));
            }
            free(x), free(before);
        }
}

/* A row in parts of any length, whose largest value comes late or early, or which begins with a part of -inf alone, adds
 * up to the softmax of the whole; a bad element in any part spoils the sum of its row and no other. */
static void softmax_in_parts_is_that_of_the_whole(void **unused) {
    enum { ROWS = 5, COLS = 200 };
    static const size_t ends[][4] = {{200}, {1, 2, 100, 200}, {33, 66, 200}, {64, 128, 199, 200}};
    uint64_t state = 16;
    (void)unused;
    for (size_t b = 0; b < table_count; b++)
        for (size_t c = 0; c < 2 * sizeof ends / sizeof *ends; c++) {
            const ousac_kernels *kernels = tables[b];
            const int bad = c % 2;
            float x[ROWS * COLS], peak[ROWS], sum[ROWS], shrink[ROWS];
            double before[ROWS * COLS], factor[ROWS * COLS];
            for (size_t i = 0; i < ROWS * COLS; i++) {
                const size_t row = i / COLS, col = i % COLS;
                x[i] = (float)(calib_normal(&state) * 3 + (row == 1   ? (double)col
                                                           : row == 2 ? -(double)col
                                                                      : 500));
                if (row == 3 && col < ends[c / 2][0] && ends[c / 2][0] < COLS)
                    x[i] = -INFINITY;
                before[i] = (double)x[i];
                factor[i] = 1;
            }
            if (bad)
                x[4 * COLS + 150] = c % 4 == 1 ? NAN : INFINITY;
            for (size_t i = 0; i < ROWS; i++)
                peak[i] = -INFINITY, sum[i] = 0;
            for (size_t part = 0, first = 0; first < COLS; first = ends[c / 2][part++]) {
                const size_t cols = ends[c / 2][part] - first;
                kernels->softmax_part(ROWS, cols, x + first, COLS, peak, sum, shrink);
                for (size_t i = 0; i < ROWS; i++)
                    for (size_t j = 0; j < first; j++)
                        factor[i * COLS + j] *= (double)shrink[i];
            }
            for (size_t i = 0; i < ROWS; i++) {
                double most = -INFINITY, all = 0;
                for (size_t j = 0; j < COLS; j++)
                    most = fmax(most, before[i * COLS + j]);
                for (size_t j = 0; j < COLS; j++)
                    all += exp(before[i * COLS + j] - most);
                if (bad && i == 4) {
                    assert_true(isnan(sum[i]));
                    continue;
                }
                assert_near(peak[i], most, 0);
                for (size_t j = 0; j < COLS; j++) {
                    const double exact = exp(before[i * COLS + j] - most) / all;
                    assert_near((double)x[i * COLS + j] * factor[i * COLS + j] / (double)sum[i], exact,
                                2e-5 * exact + 1e-37); /* differences of up to 200 are rounded twice */
                }
            }
        }
}

static void rows_are_scaled(void **unused) {
    enum { ROWS = 3, COLS = 37, LD = 40 };
    static const float by[ROWS] = {2, 0, -0.5F};
    uint64_t state = 17;
    (void)unused;
    for (size_t b = 0; b < table_count; b++) {
        float *x = blank(ROWS, LD), *y = blank(ROWS, COLS);
        for (size_t i = 0; i < ROWS * COLS; i++)
            x[i / COLS * LD + i % COLS] = (float)calib_normal(&state);
        tables[b]->scale_rows(ROWS, COLS, by, x, LD, y, COLS);
        for (size_t i = 0; i < ROWS * COLS; i++)
            assert_near(y[i], by[i / COLS] * x[i / COLS * LD + i % COLS], 0);
        tables[b]->scale_rows(ROWS, COLS, by, x, LD, x, LD);
        for (size_t i = 0; i < ROWS * COLS; i++)
            assert_near(y[i], x[i / COLS * LD + i % COLS], 0);
        assert_pad_untouched(x, ROWS, COLS, LD);
        free(x), free(y);
    }
}

/* A run's numbers must not depend on which of these kernels the processor got. */
static void instruction_sets_agree_bit_for_bit(void **unused) {
    enum { ROWS = 7, COLS = 203, COUNT = ROWS * COLS };
    uint64_t state = 14;
    static float x[COUNT], z[COUNT], mod[COUNT], y[2][6][COUNT];
    static float state_of[2][3][ROWS];
    double sums[2][4], columns[2][2][COLS] = {{{0}}};
    (void)unused;
    if (table_count < 2)
        skip();
    calib_fill(&state, COUNT, x);
    calib_fill(&state, COUNT, z);
    calib_fill(&state, COUNT, mod);
    for (size_t b = 1; b < table_count; b++) {
        for (size_t which = 0; which < 2; which++) {
            const ousac_kernels *k = tables[which == 0 ? 0 : b];
            k->exponential(COUNT, x, y[which][0]);
            k->gelu_tanh(COUNT, x, y[which][1]);
            k->norm_modulate(ROWS, COLS, x, 1e-6F, mod, z, 3, COLS, y[which][2]);
            memcpy(y[which][3], x, sizeof x);
            k->softmax(ROWS, COLS, y[which][3], COLS);
            memcpy(y[which][5], x, sizeof x);
            for (size_t i = 0; i < ROWS; i++)
                state_of[which][0][i] = 0.25F, state_of[which][1][i] = 3;
            k->softmax_part(ROWS, COLS, y[which][5], COLS, state_of[which][0], state_of[which][1],
                            state_of[which][2]);
            memcpy(y[which][4], z, sizeof z);
            k->add_gated(ROWS, COLS, y[which][4], x, mod, 2, COLS);
            sums[which][0] = k->sum_squares(ROWS, COLS, x, COLS);
            sums[which][1] = k->sum_squares_diff(ROWS, COLS, x, COLS, z, COLS);
            memcpy(y[which][4], z, sizeof z);
            k->measure_change(ROWS, COLS, NULL, NULL, x, COLS, y[which][4], COLS, 1, 1, &sums[which][2],
                              &sums[which][3]);
            memset(columns[which], 0, sizeof columns[which]);
            k->sum_abs_columns(ROWS, COLS, x, COLS, columns[which][0]);
            k->sum_abs_columns_diff(ROWS, COLS, x, COLS, z, COLS, columns[which][1]);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        assert_memory_equal(state_of[0], state_of[1], sizeof state_of[0]);
        assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        assert_memory_equal(columns[0], columns[1], sizeof columns[0]);
    }
}

static void the_limit_narrows_the_instruction_set(void **unused) {
    (void)unused;
    assert_string_equal(ousac_kernels_choose("base")->isa, "base");
    assert_true(strcmp(ousac_kernels_choose("avx2")->isa, "avx512") != 0);
    assert_ptr_equal(ousac_kernels_choose(NULL), ousac_kernels_choose("avx512"));
    assert_ptr_equal(ousac_kernels_choose(NULL), ousac_kernels_choose("nonsense"));
    assert_non_null(strstr(ousac_backend_cpu()->detail, "kernels"));
    assert_string_equal(ousac_backend_cpu()->name, "cpu");
}

/* An order whose workspace LAPACK's 32-bit sizes cannot hold. */
static void eigen64_refuses_orders_beyond_lapack(void **unused) {
    double wide[4] = {0};
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(ousac_backend_cpu()->eigen64(ousac_backend_cpu(), 46340, wide, 46340, wide, &error),
                     OUSAC_STATUS_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigen64_reports_failed_allocations),
        cmocka_unit_test(exponential_is_accurate_everywhere),
        cmocka_unit_test(softmax_rows_are_distributions),
        cmocka_unit_test(softmax_in_parts_is_that_of_the_whole),
        cmocka_unit_test(rows_are_scaled),
        cmocka_unit_test(instruction_sets_agree_bit_for_bit),
        cmocka_unit_test(the_limit_narrows_the_instruction_set),
        cmocka_unit_test(eigen64_refuses_orders_beyond_lapack),
    };
    return cmocka_run_group_tests(tests, list_tables, NULL);
}
