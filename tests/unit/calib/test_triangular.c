/* The Cholesky factor of a small matrix and its inverse, against their definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/spectra/triangular.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDERS = 12, ORDER_MAX = 70 };
static const size_t orders[ORDERS] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 64, ORDER_MAX};

/* M M^T + shift, whole; its condition falls with the shift. */
static void gram_of(uint64_t *state, size_t n, double shift, double *g) {
    float m[ORDER_MAX * ORDER_MAX];
    calib_fill(state, n * n, m);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? shift : 0;
            for (size_t k = 0; k < n; k++)
                sum += (double)m[i * n + k] * (double)m[j * n + k];
            g[i * n + j] = sum;
        }
}

static void factor_and_inverse_meet_their_definitions(void **unused) {
    static double g[ORDER_MAX * ORDER_MAX], l[ORDER_MAX * ORDER_MAX], inverse[ORDER_MAX * ORDER_MAX];
    uint64_t state = 7;
    (void)unused;
    for (size_t c = 0; c < ORDERS; c++) {
        const size_t n = orders[c];
        gram_of(&state, n, 0.5, g);
        memcpy(l, g, sizeof l);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++)
                l[i * n + j] = NAN; /* not read */
        assert_int_equal(ousac_cholesky(n, l), 1);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0;
                for (size_t k = 0; k <= i && k <= j; k++)
                    sum += l[i * n + k] * l[j * n + k];
                assert_true(fabs(sum - g[i * n + j]) <= 1e-12 * sqrt(g[i * n + i] * g[j * n + j]));
                assert_true(l[i * n + j] == l[j * n + i]);
            }
        for (size_t i = 0; i < n; i++)
            for (size_t j = i + 1; j < n; j++)
                l[i * n + j] = NAN; /* nor this */
        ousac_invert_lower(n, l, inverse);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0, size = 0;
                for (size_t k = j; k <= i; k++) {
                    sum += l[i * n + k] * inverse[k * n + j];
                    size += fabs(l[i * n + k] * inverse[k * n + j]);
                }
                assert_true(fabs(sum - (i == j ? 1 : 0)) <= 1e-14 * (double)n * (1 + size));
                assert_true(j <= i || inverse[i * n + j] == 0);
            }
    }
}

static void what_is_not_positive_definite_is_refused(void **unused) {
    static double g[ORDER_MAX * ORDER_MAX];
    uint64_t state = 9;
    (void)unused;
    for (size_t c = 0; c < ORDERS; c++)
        for (size_t bad = 0; bad < orders[c]; bad++) {
            const size_t n = orders[c];
            gram_of(&state, n, 0.5, g);
            g[bad * n + bad] = bad % 2 ? -1 : NAN;
            assert_int_equal(ousac_cholesky(n, g), 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factor_and_inverse_meet_their_definitions),
        cmocka_unit_test(what_is_not_positive_definite_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
