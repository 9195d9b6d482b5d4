/* The matrix products of every backend against naive double-precision sums, over odd shapes and leading
 * dimensions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>

static const size_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},    {2, 17, 33},  {64, 24, 192}, {65, 192, 24},
                                   {33, 8, 100}, {16, 16, 16}, {100, 1, 50}, {1, 100, 50},  {70, 129, 65}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

enum { BIAS, OVERWRITE, ADD };

static void check_linear(const ousac_backend *k, uint64_t *state, size_t rows, size_t m, size_t n, size_t ldx,
                         size_t ldw, size_t ldy, int mode) {
    const float beta = mode == ADD ? 0.75F : 0.0F;
    float *x = filled(state, rows, ldx), *w = filled(state, m, ldw), *bias = filled(state, 1, m);
    float *y = blank(rows, ldy), *before = filled(state, rows, m);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < m; j++)
            y[i * ldy + j] = mode == ADD ? before[i * m + j] : NAN; /* beta 0 never reads */
    float *dx = put(k, x, block_bytes(rows, ldx)), *dw = put(k, w, block_bytes(m, ldw));
    float *dbias = put(k, bias, block_bytes(1, m)), *dy = put(k, y, block_bytes(rows, ldy));
    assert_int_equal(
        k->linear(k, rows, m, n, dx, ldx, dw, ldw, mode == BIAS ? dbias : NULL, beta, dy, ldy, NULL),
        OUSAC_STATUS_OK);
    get(k, y, dy, block_bytes(rows, ldy));
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < m; j++) {
            double expected = mode == BIAS ? bias[j] : mode == ADD ? (double)beta * before[i * m + j] : 0;
            double size = fabs(expected) + 1;
            for (size_t e = 0; e < n; e++) {
                expected += (double)x[i * ldx + e] * w[j * ldw + e];
                size += fabs((double)x[i * ldx + e] * w[j * ldw + e]);
            }
            assert_near(y[i * ldy + j], expected, 1e-6 * size);
        }
    assert_pad_untouched(y, rows, m, ldy);
    drop(k, dx), drop(k, dw), drop(k, dbias), drop(k, dy);
    free(x), free(w), free(bias), free(y), free(before);
}

static void linear_is_the_product(void **unused) {
    uint64_t state = 1;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SHAPES * 6; c++) {
            const size_t rows = shapes[c / 6][0], m = shapes[c / 6][1], n = shapes[c / 6][2];
            const size_t ldx = n + c % 3, ldw = n + c % 2, ldy = m + c % 4;
            const int mode = (int)(c % 6 / 2); /* bias, overwrite, add */
            check_linear(k, &state, rows, m, n, ldx, ldw, ldy, mode);
        }
    }
}

/* As modulation has them: rows that can be read in fours. */
static void few_rows_are_the_product(void **unused) {
    static const size_t columns[] = {1, 3, 33, 130}, inner[] = {4, 128, 132, 700};
    uint64_t state = 11;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t rows = 1; rows < 36; rows += rows < 5 ? 1 : 3)
            for (size_t c = 0; c < 16; c++) {
                const size_t m = columns[c % 4], n = inner[c / 4], ldx = n + 4 * (c % 3),
                             ldw = n + 8 * (c % 2), ldy = m + c % 2;
                check_linear(k, &state, rows, m, n, ldx, ldw, ldy, (rows + c) % 2 == 0 ? BIAS : OVERWRITE);
            }
    }
}

/* As many columns as take the rows together by chunks of the inner dimension, whole and not, and warps without columns. */
static void few_rows_of_many_columns_are_the_product(void **unused) {
    static const size_t cases[][3] = {
        {16, 2304, 132}, {9, 2113, 4}, {13, 4301, 256}, {27, 2200, 700}, {16, 8500, 24}};
    uint64_t state = 12;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
            const size_t *of = cases[c / 2], n = of[2];
            check_linear(k, &state, of[0], of[1], n, n + 4 * (c % 3), n + 8 * (c % 2), of[1] + c % 2,
                         c % 2 == 0 ? BIAS : OVERWRITE);
        }
    }
}

static void expand_is_the_product(void **unused) {
    uint64_t state = 2;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SHAPES * 2; c++) {
            const size_t rows = shapes[c / 2][0], m = shapes[c / 2][1], r = shapes[c / 2][2];
            const size_t ldx = r + c % 3, lda = m + c % 2, ldy = m + c % 5;
            const float beta = c % 2 ? 1.0F : 0.0F;
            float *x = filled(&state, rows, ldx), *a = filled(&state, r, lda),
                  *before = filled(&state, rows, m);
            float *y = blank(rows, ldy);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < m; j++)
                    y[i * ldy + j] = c % 2 ? before[i * m + j] : NAN;
            float *dx = put(k, x, block_bytes(rows, ldx)), *da = put(k, a, block_bytes(r, lda));
            float *dy = put(k, y, block_bytes(rows, ldy));
            assert_int_equal(k->expand(k, rows, m, r, dx, ldx, da, lda, beta, dy, ldy, NULL),
                             OUSAC_STATUS_OK);
            get(k, y, dy, block_bytes(rows, ldy));
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < m; j++) {
                    double expected = c % 2 ? before[i * m + j] : 0, size = 1;
                    for (size_t e = 0; e < r; e++) {
                        expected += (double)x[i * ldx + e] * a[e * lda + j];
                        size += fabs((double)x[i * ldx + e] * a[e * lda + j]);
                    }
                    assert_near(y[i * ldy + j], expected, 1e-6 * size);
                }
            assert_pad_untouched(y, rows, m, ldy);
            drop(k, dx), drop(k, da), drop(k, dy);
            free(x), free(a), free(y), free(before);
        }
    }
}

/* Ranks on both sides of where a backend may change its method, and none. Without `before` s is 0. */
static const size_t past_cases[][3] = {{1, 1, 1},    {3, 5, 7},     {64, 64, 16},  {65, 129, 17}, {70, 63, 8},
                                       {33, 130, 0}, {40, 70, 128}, {20, 65, 150}, {12, 128, 64}};
enum { PAST_CASES = sizeof past_cases / sizeof *past_cases };

static void project_change_is_the_product_of_the_change(void **unused) {
    uint64_t state = 23;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < PAST_CASES * 3; c++) {
            const size_t rows = past_cases[c / 3][0], n = past_cases[c / 3][1], r = past_cases[c / 3][2];
            const size_t ldx = n + c % 2, ldp = n + c % 4, ldb = n + c % 3, ldz = r + c % 5;
            const float s = c % 3 == 1 ? -0.75F : 0; /* none, with a forecast, with `before` but s 0 */
            float *x = filled(&state, rows, ldx), *last = filled(&state, rows, ldp);
            float *older = filled(&state, rows, ldp), *b = filled(&state, r, ldb), *z = blank(rows, ldz);
            float *work = blank(rows, n);
            float *dx = put(k, x, block_bytes(rows, ldx)), *dlast = put(k, last, block_bytes(rows, ldp));
            float *dolder = put(k, older, block_bytes(rows, ldp)), *db = put(k, b, block_bytes(r, ldb));
            float *dz = put(k, z, block_bytes(rows, ldz)), *dwork = put(k, work, block_bytes(rows, n));
            assert_int_equal(k->project_change(k, rows, r, n, s, dx, ldx, dlast, c % 3 ? dolder : NULL, ldp,
                                               db, ldb, dz, ldz, dwork, NULL),
                             OUSAC_STATUS_OK);
            get(k, z, dz, block_bytes(rows, ldz));
            get(k, work, dwork, block_bytes(rows, n));
            if (ldx == n) { /* X itself for the work: the same, to the bit */
                float *again = blank(rows, ldz);
                assert_int_equal(k->project_change(k, rows, r, n, s, dx, n, dlast, c % 3 ? dolder : NULL, ldp,
                                                   db, ldb, dz, ldz, dx, NULL),
                                 OUSAC_STATUS_OK);
                get(k, again, dz, block_bytes(rows, ldz));
                assert_memory_equal(again, z, block_bytes(rows, ldz));
                free(again);
            }
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < r; j++) {
                    double expected = 0, size = 1;
                    for (size_t e = 0; e < n; e++) {
                        const double then = last[i * ldp + e];
                        const double change =
                            x[i * ldx + e] - then - (double)s * (then - (double)older[i * ldp + e]);
                        expected += change * b[j * ldb + e];
                        size += (fabs(change) + fabs(then)) * fabs((double)b[j * ldb + e]);
                    }
                    assert_near(z[i * ldz + j], expected, 1e-6 * size);
                }
            assert_pad_untouched(z, rows, r, ldz);
            assert_true(is_untouched(&work[rows * n]));
            drop(k, dx), drop(k, dlast), drop(k, dolder), drop(k, db), drop(k, dz), drop(k, dwork);
            free(x), free(last), free(older), free(b), free(z), free(work);
        }
    }
}

static void expand_onto_adds_the_product_to_the_forecast(void **unused) {
    uint64_t state = 17;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < PAST_CASES * 3; c++) {
            const size_t rows = past_cases[c / 3][0], m = past_cases[c / 3][1], r = past_cases[c / 3][2];
            const size_t ldz = r + c % 2, lda = m + c % 4, ldp = m + c % 5, ldy = m + c % 3;
            const float s = c % 3 == 1 ? -0.75F : 0;
            float *z = filled(&state, rows, ldz), *a = filled(&state, r, lda), *y = blank(rows, ldy);
            float *last = filled(&state, rows, ldp), *older = filled(&state, rows, ldp);
            float *dz = put(k, z, block_bytes(rows, ldz)), *da = put(k, a, block_bytes(r, lda));
            float *dy = put(k, y, block_bytes(rows, ldy)), *dlast = put(k, last, block_bytes(rows, ldp));
            float *dolder = put(k, older, block_bytes(rows, ldp));
            assert_int_equal(k->expand_onto(k, rows, m, r, dz, ldz, da, lda, s, dlast, c % 3 ? dolder : NULL,
                                            ldp, dy, ldy, NULL),
                             OUSAC_STATUS_OK);
            get(k, y, dy, block_bytes(rows, ldy));
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < m; j++) {
                    const double then = last[i * ldp + j];
                    double expected = then + (double)s * (then - (double)older[i * ldp + j]);
                    double size = 1 + fabs(expected) + fabs(then);
                    for (size_t e = 0; e < r; e++) {
                        expected += (double)z[i * ldz + e] * a[e * lda + j];
                        size += fabs((double)z[i * ldz + e] * a[e * lda + j]);
                    }
                    assert_near(y[i * ldy + j], expected, 1e-6 * size);
                }
            assert_pad_untouched(y, rows, m, ldy);
            drop(k, dz), drop(k, da), drop(k, dy), drop(k, dlast), drop(k, dolder);
            free(z), free(a), free(y), free(last), free(older);
        }
    }
}

static void gram_fills_the_lower_triangle_only(void **unused) {
    uint64_t state = 3;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SHAPES; c++) {
            const size_t rows = shapes[c][0], n = shapes[c][2], ldx = n + c % 3, ldg = n + c % 2;
            float *x = filled(&state, rows, ldx), *g = blank(n, ldg);
            float *dx = put(k, x, block_bytes(rows, ldx)), *dg = put(k, g, block_bytes(n, ldg));
            assert_int_equal(k->gram(k, rows, n, dx, ldx, dg, ldg, NULL), OUSAC_STATUS_OK);
            get(k, g, dg, block_bytes(n, ldg));
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j < n; j++) {
                    double expected = 0, size = 1;
                    for (size_t e = 0; e < rows; e++) {
                        expected += (double)x[e * ldx + i] * x[e * ldx + j];
                        size += fabs((double)x[e * ldx + i] * x[e * ldx + j]);
                    }
                    if (j <= i)
                        assert_near(g[i * ldg + j], expected, 1e-6 * size);
                    else
                        assert_true(is_untouched(&g[i * ldg + j]));
                }
            assert_pad_untouched(g, n, n, ldg);
            drop(k, dx), drop(k, dg);
            free(x), free(g);
        }
    }
}

static void gemm64_is_the_product(void **unused) {
    uint64_t state = 4;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < SHAPES * 4; c++) {
            const size_t rows = shapes[c / 4][0], cols = shapes[c / 4][1], inner = shapes[c / 4][2];
            const int ta = (int)(c & 1), tb = (int)(c >> 1 & 1);
            const size_t lda = (ta ? rows : inner) + c % 3, ldb = (tb ? inner : cols) + c % 2,
                         ldc = cols + c % 5;
            const size_t size_a = (ta ? inner : rows) * lda, size_b = (tb ? cols : inner) * ldb;
            const double alpha = -1.5, beta = c % 3 == 0 ? 0.0 : 0.5;
            double *a = malloc(size_a * sizeof *a), *b = malloc(size_b * sizeof *b);
            double *product = malloc(rows * ldc * sizeof *product);
            for (size_t i = 0; i < size_a; i++)
                a[i] = calib_normal(&state);
            for (size_t i = 0; i < size_b; i++)
                b[i] = calib_normal(&state);
            for (size_t i = 0; i < rows * ldc; i++)
                product[i] = i % ldc >= cols ? 7.0 : beta == 0 ? NAN : 2.0;
            double *da = put(k, a, size_a * sizeof *a), *db = put(k, b, size_b * sizeof *b);
            double *dc = put(k, product, rows * ldc * sizeof *product);
            assert_int_equal(
                k->gemm64(k, ta, tb, rows, cols, inner, alpha, da, lda, db, ldb, beta, dc, ldc, NULL),
                OUSAC_STATUS_OK);
            get(k, product, dc, rows * ldc * sizeof *product);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < ldc; j++) {
                    double sum = 0;
                    for (size_t e = 0; e < inner && j < cols; e++)
                        sum +=
                            (ta ? a[e * lda + i] : a[i * lda + e]) * (tb ? b[j * ldb + e] : b[e * ldb + j]);
                    if (j < cols)
                        assert_near(product[i * ldc + j], alpha * sum + beta * 2.0,
                                    1e-12 * (double)(inner + 1));
                    else
                        assert_true(product[i * ldc + j] == 7.0);
                }
            drop(k, da), drop(k, db), drop(k, dc);
            free(a), free(b), free(product);
        }
    }
}

static void empty_products_scale_only(void **unused) {
    const float bias[2] = {3, 4}, start[4] = {1, 2, NAN, NAN};
    const double start64[4] = {1, 2, NAN, NAN};
    (void)unused;
    EACH_BACKEND(k) {
        float y[4], x = 0;
        double z[4], wide = 0;
        float *dx = put(k, &x, sizeof x), *dbias = put(k, bias, sizeof bias),
              *dy = put(k, start, sizeof start);
        double *dwide = put(k, &wide, sizeof wide), *dz = put(k, start64, sizeof start64);
        assert_int_equal(k->linear(k, 2, 2, 0, dx, 0, dx, 0, NULL, 0.0F, dy, 2, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, sizeof y);
        assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0 && y[3] == 0);
        assert_int_equal(k->linear(k, 2, 2, 0, dx, 0, dx, 0, dbias, 0.0F, dy, 2, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, sizeof y);
        assert_true(y[0] == 3 && y[1] == 4 && y[2] == 3 && y[3] == 4);
        assert_int_equal(k->expand(k, 2, 2, 0, dx, 0, dx, 2, 2.0F, dy, 2, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, sizeof y);
        assert_true(y[0] == 6 && y[1] == 8 && y[2] == 6 && y[3] == 8);
        assert_int_equal(k->gemm64(k, 0, 0, 2, 2, 0, 1.0, dwide, 0, dwide, 2, 0.0, dz, 2, NULL),
                         OUSAC_STATUS_OK);
        get(k, z, dz, sizeof z);
        assert_true(z[0] == 0 && z[1] == 0 && z[2] == 0 && z[3] == 0);
        assert_int_equal(k->gram(k, 0, 2, dx, 2, dy, 2, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, sizeof y);
        assert_true(y[0] == 0 && y[1] == 8 && y[2] == 0 && y[3] == 0);
        assert_int_equal(k->linear(k, 0, 2, 2, dx, 2, dx, 2, NULL, 0.0F, dy, 2, NULL), OUSAC_STATUS_OK);
        drop(k, dx), drop(k, dbias), drop(k, dy), drop(k, dwide), drop(k, dz);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_product),
        cmocka_unit_test(few_rows_are_the_product),
        cmocka_unit_test(few_rows_of_many_columns_are_the_product),
        cmocka_unit_test(expand_is_the_product),
        cmocka_unit_test(project_change_is_the_product_of_the_change),
        cmocka_unit_test(expand_onto_adds_the_product_to_the_forecast),
        cmocka_unit_test(gram_fills_the_lower_triangle_only),
        cmocka_unit_test(gemm64_is_the_product),
        cmocka_unit_test(empty_products_scale_only),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
