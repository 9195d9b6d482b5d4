/* Ridge regression against elimination with pivoting on the same equations, and what it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "calib/stats/ridge.h"

enum { N = 9, ROWS = 30 };

/* Gauss-Jordan with partial pivoting; a is n x (n + 1). */
static void eliminate(size_t n, double *a) {
    for (size_t c = 0; c < n; c++) {
        size_t best = c;
        for (size_t r = c; r < n; r++)
            if (fabs(a[r * (n + 1) + c]) > fabs(a[best * (n + 1) + c]))
                best = r;
        for (size_t k = 0; k <= n; k++) {
            double held = a[c * (n + 1) + k];
            a[c * (n + 1) + k] = a[best * (n + 1) + k];
            a[best * (n + 1) + k] = held;
        }
        for (size_t r = 0; r < n; r++) {
            double factor = a[r * (n + 1) + c] / a[c * (n + 1) + c];
            for (size_t k = 0; r != c && k <= n; k++)
                a[r * (n + 1) + k] -= factor * a[c * (n + 1) + k];
        }
    }
    for (size_t r = 0; r < n; r++)
        a[r * (n + 1) + n] /= a[r * (n + 1) + r];
}

typedef struct equations {
    double gram[N * N], right[N], penalty[N];
} equations;

static equations make(double penalty) {
    float values[ROWS * (N + 1)];
    equations e = {{0}, {0}, {0}};
    ousac_philox_normals(3, OUSAC_STREAM_PROJECTION, 0, ROWS * (N + 1), values);
    for (size_t i = 0; i < N; i++) {
        e.penalty[i] = penalty * (double)(i + 1);
        for (size_t r = 0; r < ROWS; r++)
            e.right[i] += (double)values[r * (N + 1) + i] * (double)values[r * (N + 1) + N];
        for (size_t j = 0; j < N; j++)
            for (size_t r = 0; r < ROWS; r++)
                e.gram[i * N + j] += (double)values[r * (N + 1) + i] * (double)values[r * (N + 1) + j];
    }
    return e;
}

static void it_solves_the_normal_equations(void **state) {
    (void)state;
    for (int round = 0; round < 3; round++) {
        equations e = make(round);
        double t[N], a[N * (N + 1)];
        for (size_t i = 0; i < N; i++) {
            for (size_t j = 0; j < N; j++)
                a[i * (N + 1) + j] = e.gram[i * N + j] + (i == j ? e.penalty[i] : 0);
            a[i * (N + 1) + N] = e.right[i];
        }
        eliminate(N, a);
        for (size_t i = 0; i < N; i++) /* above the diagonal nothing is read */
            for (size_t j = i + 1; j < N; j++)
                e.gram[i * N + j] = NAN;
        assert_int_equal(ousac_ridge_solve(N, e.gram, e.right, e.penalty, t, NULL), OUSAC_STATUS_OK);
        for (size_t i = 0; i < N; i++)
            assert_true(fabs(t[i] - a[i * (N + 1) + N]) < 1e-12);
    }
}

static void an_unknown_without_effect_is_zero(void **state) {
    equations e = make(0);
    double t[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        e.gram[i * N + 4] = e.gram[4 * N + i] = 0;
    e.right[4] = 0;
    assert_int_equal(ousac_ridge_solve(N, e.gram, e.right, e.penalty, t, NULL), OUSAC_STATUS_OK);
    assert_true(t[4] == 0 && t[3] != 0);
    assert_int_equal(ousac_ridge_solve(0, NULL, NULL, NULL, NULL, NULL), OUSAC_STATUS_OK);
}

static void what_cannot_be_solved_is_refused(void **state) {
    equations e = make(0);
    double t[N];
    ousac_error error = {0};
    (void)state;
    for (size_t i = 0; i < N; i++) /* two unknowns are one */
        e.gram[1 * N + i] = e.gram[0 * N + i];
    for (size_t i = 0; i < N; i++)
        e.gram[i * N + 1] = e.gram[i * N + 0];
    assert_int_equal(ousac_ridge_solve(N, e.gram, e.right, e.penalty, t, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "singular"));
    e = make(0);
    e.gram[5 * N + 2] = INFINITY;
    assert_int_equal(ousac_ridge_solve(N, e.gram, e.right, e.penalty, t, &error), OUSAC_STATUS_NUMBER);
    e = make(0);
    e.right[7] = NAN;
    assert_int_equal(ousac_ridge_solve(N, e.gram, e.right, e.penalty, t, &error), OUSAC_STATUS_NUMBER);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_solves_the_normal_equations),
        cmocka_unit_test(an_unknown_without_effect_is_zero),
        cmocka_unit_test(what_cannot_be_solved_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
