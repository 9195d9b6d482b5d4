/* Symmetric eigenproblems of every backend against Jacobi rotations, and what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Decomposes a (n, lda) on the backend: the rows become vectors. */
static ousac_status decompose(const ousac_backend *k, size_t n, double *a, size_t lda, double *values,
                              ousac_error *error) {
    double *da = put(k, a, n * lda * sizeof *a), *dvalues = put(k, values, n * sizeof *values);
    const ousac_status status = k->eigen64(k, n, da, lda, dvalues, error);
    if (status == OUSAC_STATUS_OK) {
        get(k, a, da, n * lda * sizeof *a);
        get(k, values, dvalues, n * sizeof *values);
    }
    drop(k, da), drop(k, dvalues);
    return status;
}

static void assert_eigenpairs(size_t n, const double *full, const double *a, size_t lda, const double *values,
                              const double *expected) {
    for (size_t i = 0; i < n; i++) {
        size_t largest = 0;
        assert_near(values[i], expected[i], 1e-12 * (double)n);
        assert_true(i == 0 || values[i] <= values[i - 1]);
        for (size_t j = 0; j < n; j++) {
            double product = 0, dot = 0;
            for (size_t e = 0; e < n; e++) {
                product += full[j * n + e] * a[i * lda + e];
                dot += a[i * lda + e] * a[j * lda + e];
            }
            assert_near(product, values[i] * a[i * lda + j], 1e-11);
            assert_near(dot, i == j, 1e-12);
            if (fabs(a[i * lda + j]) > fabs(a[i * lda + largest]))
                largest = j;
        }
        assert_true(a[i * lda + largest] > 0);
    }
}

static void eigenpairs_agree_with_jacobi(void **unused) {
    static const size_t orders[] = {1, 2, 3, 7, 16, 33, 60};
    uint64_t state = 5;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof orders / sizeof *orders * 2; c++) {
            const size_t n = orders[c / 2], lda = n + c % 2 * 3;
            double *full = malloc(n * n * sizeof *full), *a = malloc(n * lda * sizeof *a),
                   *scratch = malloc(n * n * sizeof *scratch);
            double *values = calloc(n, sizeof *values), *expected = malloc(n * sizeof *expected);
            double *vectors = malloc(n * n * sizeof *vectors);
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j <= i; j++)
                    full[i * n + j] = full[j * n + i] = calib_normal(&state);
            for (size_t i = 0; i < n * lda; i++)
                a[i] = NAN; /* the upper triangle is not read */
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j <= i; j++)
                    a[i * lda + j] = full[i * n + j];
            memcpy(scratch, full, n * n * sizeof *full);
            calib_jacobi(n, scratch, expected, vectors);
            assert_int_equal(decompose(k, n, a, lda, values, NULL), OUSAC_STATUS_OK);
            assert_eigenpairs(n, full, a, lda, values, expected);
            for (size_t i = 0; i < n; i++)
                for (size_t j = n; j < lda; j++)
                    assert_true(isnan(a[i * lda + j]));
            free(full), free(a), free(scratch), free(values), free(expected), free(vectors);
        }
    }
}

/* Equal components of largest magnitude: the first is positive. Its vector is (1, -1) / sqrt(2) up to sign.
 */
static void ties_are_signed_by_the_first_component(void **unused) {
    (void)unused;
    EACH_BACKEND(k) {
        double a[4] = {2, NAN, -1, 2}, values[2] = {0};
        assert_int_equal(decompose(k, 2, a, 2, values, NULL), OUSAC_STATUS_OK);
        assert_near(values[0], 3, 1e-14);
        /* rounding may make either the larger */
        if (fabs(a[0]) >= fabs(a[1]))
            assert_true(a[0] > 0 && a[1] < 0);
        else
            assert_true(a[0] < 0 && a[1] > 0);
    }
}

static void what_is_not_finite_is_refused(void **unused) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < 3; c++)
            for (size_t place = 0; place < 9; place++) {
                double a[9] = {1, 0, 0, 0, 2, 0, 0, 0, 3}, values[3] = {0};
                ousac_error error = {0};
                a[place] = bad[c];
                const int in_lower = place % 3 <= place / 3;
                assert_int_equal(decompose(k, 3, a, 3, values, &error),
                                 in_lower ? OUSAC_STATUS_NUMBER : OUSAC_STATUS_OK);
            }
    }
}

static void zero_and_extreme_matrices_are_decomposed(void **unused) {
    static const double scales[] = {0, 1e-300, 1e-30, 1e30, 1e150};
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof scales / sizeof *scales; c++) {
            double a[4] = {2 * scales[c], NAN, scales[c], 2 * scales[c]}, values[2] = {7, 7};
            assert_int_equal(decompose(k, 2, a, 2, values, NULL), OUSAC_STATUS_OK);
            assert_near(values[0], 3 * scales[c], 1e-14 * scales[c]);
            assert_near(values[1], scales[c], 1e-14 * scales[c]);
            assert_near(a[0] * a[0] + a[1] * a[1], 1, 1e-14);
            assert_near(a[0] * a[2] + a[1] * a[3], 0, 1e-14);
        }
    }
}

static void order_zero_is_nothing_to_do(void **unused) {
    (void)unused;
    EACH_BACKEND(k) {
        double none = 0, *block = put(k, &none, sizeof none);
        assert_int_equal(k->eigen64(k, 0, block, 0, block, NULL), OUSAC_STATUS_OK);
        drop(k, block);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigenpairs_agree_with_jacobi),
        cmocka_unit_test(ties_are_signed_by_the_first_component),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(zero_and_extreme_matrices_are_decomposed),
        cmocka_unit_test(order_zero_is_nothing_to_do),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
