/* The reductions of every backend against sums in double precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* rows, columns, rows of a group; the last make several parts and several tiles of columns */
static const size_t sizes[][3] = {{1, 1, 1},     {6, 15, 2},     {6, 16, 3},     {4, 17, 1},   {12, 100, 4},
                                  {64, 192, 64}, {600, 70, 300}, {260, 33, 130}, {3, 20000, 3}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void sums_of_squares_are_exact_to_double(void **unused) {
    uint64_t state = 12;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SIZES; c++) {
            const size_t rows = sizes[c][0], cols = sizes[c][1], group = sizes[c][2];
            const size_t lda = cols + c % 3, ldb = cols + c % 2;
            float *x = filled(&state, rows, lda), *z = filled(&state, rows, ldb);
            double *one = calloc(rows + 1, sizeof *one), *two = calloc(rows, sizeof *two);
            float *dx = put(k, x, block_bytes(rows, lda)), *dz = put(k, z, block_bytes(rows, ldb));
            one[0] = 5; /* sums are added to what is there */
            one[rows / group] = 7;
            assert_int_equal(k->sum_squares(k, rows, cols, dx, lda, group, one, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->sum_squares_diff(k, rows, cols, dx, lda, dz, ldb, group, two, NULL),
                             OUSAC_STATUS_OK);
            for (size_t g = 0; g < rows / group; g++) {
                double square = g == 0 ? 5 : 0, difference = 0;
                for (size_t i = g * group; i < (g + 1) * group; i++)
                    for (size_t j = 0; j < cols; j++) {
                        const double delta = (double)x[i * lda + j] - (double)z[i * ldb + j];
                        square += (double)x[i * lda + j] * x[i * lda + j];
                        difference += delta * delta;
                    }
                assert_near(one[g], square, 1e-12 * square);
                assert_near(two[g], difference, 1e-12 * difference);
            }
            assert_true(one[rows / group] == 7);
            drop(k, dx), drop(k, dz);
            free(x), free(z), free(one), free(two);
        }
    }
}

/* The four uses: a first sight, a later one, each kept or not; past stands for all rows, or for every third
 * and then for those behind them. */
static void one_pass_measures_and_keeps(void **unused) {
    uint64_t state = 24;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SIZES * 8; c++) {
            const int compare = c % 4 / 2 == 1, keep = c % 2 == 1, some = c % 8 / 4 == 1;
            const size_t all = sizes[c / 8][0], rows = some ? (all + 2) / 3 : all, cols = sizes[c / 8][1];
            const size_t lda = cols + c % 3, ldb = cols + c % 2;
            float *x = filled(&state, all, lda), *z = filled(&state, rows, ldb);
            float *dx = put(k, x, block_bytes(all, lda)), *dz = put(k, z, block_bytes(rows, ldb));
            float *after = malloc(block_bytes(rows, ldb));
            uint32_t *index = malloc(2 * rows * sizeof *index), *next = index + rows;
            for (size_t i = 0; i < rows; i++) {
                index[i] = (uint32_t)(some ? 3 * i : i);
                next[i] = (uint32_t)(some ? (3 * i + 1) % all : i);
            }
            uint32_t *dindex = put(k, index, rows * sizeof *index);
            uint32_t *dnext = put(k, next, rows * sizeof *next);
            double square = 5, change = 7, squares = 5, changes = 7; /* added to what is there */
            assert_int_equal(k->measure_change(k, rows, cols, some ? dindex : NULL, some ? dnext : NULL, dx,
                                               lda, dz, ldb, compare, keep, &square, &change, NULL),
                             OUSAC_STATUS_OK);
            get(k, after, dz, block_bytes(rows, ldb));
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < cols; j++) {
                    const double value = x[index[i] * lda + j], moved = value - (double)z[i * ldb + j];
                    squares += value * value;
                    changes += compare ? moved * moved : 0;
                    assert_true(after[i * ldb + j] == (keep ? x[next[i] * lda + j] : z[i * ldb + j]));
                }
            assert_near(square, squares, 1e-12 * squares);
            assert_near(change, changes, 1e-12 * changes);
            drop(k, dx), drop(k, dz), drop(k, dindex), drop(k, dnext);
            free(x), free(z), free(after), free(index);
        }
    }
}

static void column_sums_of_absolute_values_are_exact_to_double(void **unused) {
    uint64_t state = 16;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SIZES; c++) {
            const size_t rows = sizes[c][0], cols = sizes[c][1], group = sizes[c][2];
            const size_t lda = cols + c % 3, ldb = cols + c % 2, groups = rows / group;
            float *x = filled(&state, rows, lda), *z = filled(&state, rows, ldb);
            double *one = calloc(groups * cols + 1, sizeof *one), *two = calloc(groups * cols, sizeof *two);
            float *dx = put(k, x, block_bytes(rows, lda)), *dz = put(k, z, block_bytes(rows, ldb));
            one[0] = 5; /* sums are added to what is there */
            one[groups * cols] = 7;
            assert_int_equal(k->sum_abs_columns(k, rows, cols, dx, lda, group, one, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->sum_abs_columns_diff(k, rows, cols, dx, lda, dz, ldb, group, two, NULL),
                             OUSAC_STATUS_OK);
            for (size_t g = 0; g < groups; g++)
                for (size_t j = 0; j < cols; j++) {
                    double sum = g + j == 0 ? 5 : 0, difference = 0;
                    for (size_t i = g * group; i < (g + 1) * group; i++) {
                        const double value = x[i * lda + j], delta = value - (double)z[i * ldb + j];
                        sum += value < 0 ? -value : value;
                        difference += delta < 0 ? -delta : delta;
                    }
                    assert_near(one[g * cols + j], sum, 1e-13 * sum);
                    assert_near(two[g * cols + j], difference, 1e-13 * difference);
                }
            assert_true(one[groups * cols] == 7);
            drop(k, dx), drop(k, dz);
            free(x), free(z), free(one), free(two);
        }
    }
}

static void nothing_adds_nothing(void **unused) {
    (void)unused;
    EACH_BACKEND(k) {
        float x = 1, *dx = put(k, &x, sizeof x);
        double out[1] = {3};
        assert_int_equal(k->sum_squares(k, 0, 1, dx, 1, 1, out, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->sum_squares_diff(k, 1, 0, dx, 1, dx, 1, 1, out, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->sum_abs_columns(k, 0, 1, dx, 1, 1, out, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->sum_abs_columns_diff(k, 1, 0, dx, 1, dx, 1, 1, out, NULL), OUSAC_STATUS_OK);
        assert_true(out[0] == 3);
        drop(k, dx);
    }
}

/* The same bits every time: an order that depends on scheduling would show. */
static void sums_are_reproducible(void **unused) {
    enum { ROWS = 500, COLS = 333 };
    uint64_t state = 22;
    float *x = filled(&state, ROWS, COLS);
    (void)unused;
    EACH_BACKEND(k) {
        float *dx = put(k, x, block_bytes(ROWS, COLS));
        double square[2] = {0}, columns[2][COLS] = {{0}};
        for (int repeat = 0; repeat < 20; repeat++) {
            const int at = repeat > 0;
            memset(columns[at], 0, sizeof columns[at]);
            square[at] = 0;
            assert_int_equal(k->sum_squares(k, ROWS, COLS, dx, COLS, ROWS, &square[at], NULL),
                             OUSAC_STATUS_OK);
            assert_int_equal(k->sum_abs_columns(k, ROWS, COLS, dx, COLS, ROWS, columns[at], NULL),
                             OUSAC_STATUS_OK);
            assert_true(!at || square[0] == square[1]);
            assert_true(!at || memcmp(columns[0], columns[1], sizeof columns[0]) == 0);
        }
        drop(k, dx);
    }
    free(x);
}

static int finite_of(const ousac_backend *k, size_t rows, size_t cols, const float *x, size_t ld) {
    float *dx = put(k, x, rows * ld * sizeof *x);
    int finite = 2;
    assert_int_equal(k->all_finite(k, rows, cols, dx, ld, &finite, NULL), OUSAC_STATUS_OK);
    drop(k, dx);
    return finite;
}

static void all_finite_finds_one_bad_value_anywhere(void **unused) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)unused;
    EACH_BACKEND(k) {
        float x[3 * 40];
        for (size_t i = 0; i < 120; i++)
            x[i] = i % 40 < 37 ? (i % 2 ? FLT_MAX : 1e-42F) : NAN; /* the pad may be anything */
        assert_int_equal(finite_of(k, 3, 37, x, 40), 1);
        for (size_t i = 0; i < 120; i++) {
            if (i % 40 >= 37)
                continue;
            const float before = x[i];
            x[i] = bad[i % 3];
            assert_int_equal(finite_of(k, 3, 37, x, 40), 0);
            x[i] = before;
        }
        assert_int_equal(finite_of(k, 0, 0, x, 0), 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_squares_are_exact_to_double),
        cmocka_unit_test(one_pass_measures_and_keeps),
        cmocka_unit_test(column_sums_of_absolute_values_are_exact_to_double),
        cmocka_unit_test(nothing_adds_nothing),
        cmocka_unit_test(sums_are_reproducible),
        cmocka_unit_test(all_finite_finds_one_bad_value_anywhere),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
