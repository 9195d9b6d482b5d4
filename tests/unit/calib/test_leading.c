/* Factors from a subspace iteration: what they predict is what they do, nearly nothing is lost against all
 * directions, and what cannot be bounded is handed back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/spectra/leading.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"
#include "tests/support/strict_backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT = 288, LONG = 350, RANK = 40 };

/* Packed H diag(values) H, H a product of three random reflections. */
static double *moment_of(uint64_t *state, size_t n, double decay, size_t kept) {
    double *full = calloc(n * n, sizeof *full), *packed = malloc(n * (n + 1) / 2 * sizeof *packed);
    double *a = malloc(n * sizeof *a), *t = malloc(n * sizeof *t);
    for (size_t i = 0; i < kept; i++)
        full[i * n + i] = pow(1 + (double)i, -decay);
    for (int reflection = 0; reflection < 3; reflection++) {
        double square = 0, inner = 0;
        for (size_t i = 0; i < n; i++) {
            a[i] = calib_normal(state);
            square += a[i] * a[i];
        }
        for (size_t i = 0; i < n; i++) {
            t[i] = 0;
            for (size_t j = 0; j < n; j++)
                t[i] += full[i * n + j] * a[j];
            inner += a[i] * t[i];
        }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                full[i * n + j] +=
                    -2 / square * (a[i] * t[j] + t[i] * a[j]) + 4 / (square * square) * inner * a[i] * a[j];
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            packed[i * (i + 1) / 2 + j] = full[i * n + j];
    free(full), free(a), free(t);
    return packed;
}

static double at(const double *packed, size_t i, size_t j) {
    return i >= j ? packed[i * (i + 1) / 2 + j] : packed[j * (j + 1) / 2 + i];
}

/* trace(V C V^T), V (rows, n): the energy that V makes of changes whose moment is C. */
static double energy(size_t rows, size_t n, const double *v, const double *packed) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            double image = 0;
            for (size_t k = 0; k < n; k++)
                image += at(packed, j, k) * v[i * n + k];
            sum += v[i * n + j] * image;
        }
    return sum;
}

/* The error at rank r by its definition: input side trace((W - A B) C (W - A B)^T); output side, where only
 * dy = W dx is known, trace((1 - A A^T) D (1 - A A^T)). */
static double measured(const ousac_factors *f, ousac_side side, size_t r, const float *w,
                       const double *packed) {
    const size_t cols = side == OUSAC_SIDE_INPUT ? f->n : f->m;
    double *rest = malloc(f->m * cols * sizeof *rest);
    for (size_t i = 0; i < f->m; i++)
        for (size_t j = 0; j < cols; j++) {
            double sum = side == OUSAC_SIDE_INPUT ? (double)w[i * cols + j] : i == j;
            for (size_t k = 0; k < r; k++)
                sum -= (double)f->a[k * f->m + i] *
                       (side == OUSAC_SIDE_INPUT ? (double)f->b[k * cols + j] : (double)f->a[k * f->m + j]);
            rest[i * cols + j] = sum;
        }
    const double result = energy(f->m, cols, rest, packed);
    free(rest);
    return result;
}

static void check_shape_of(const ousac_factors *f, const float *w) {
    assert_int_equal(f->rank, RANK);
    assert_int_equal(f->lambda_count, f->m < f->n ? f->m : f->n);
    for (size_t i = 1; i < f->lambda_count; i++)
        assert_true(f->lambda[i] <= f->lambda[i - 1] && f->lambda[i] > 0);
    for (size_t i = 0; i < RANK; i++) {
        size_t largest = 0;
        for (size_t j = 0; j < f->m; j++)
            if (fabsf(f->a[i * f->m + j]) > fabsf(f->a[i * f->m + largest]))
                largest = j;
        assert_true(f->a[i * f->m + largest] > 0);
        for (size_t k = 0; k <= i; k++) {
            double dot = 0;
            for (size_t j = 0; j < f->m; j++)
                dot += (double)f->a[i * f->m + j] * (double)f->a[k * f->m + j];
            assert_true(fabs(dot - (i == k)) < 1e-6);
        }
        for (size_t j = 0; j < f->n; j += 17) { /* b_i = W^T u_i */
            double sum = 0;
            for (size_t k = 0; k < f->m; k++)
                sum += (double)f->a[i * f->m + k] * (double)w[k * f->n + j];
            assert_true(fabs(sum - (double)f->b[i * f->n + j]) < 1e-4);
        }
    }
}

static void the_error_is_the_predicted_one_and_nearly_the_least(void **unused) {
    static const size_t shape[][2] = {{SHORT, SHORT}, {LONG, SHORT}, {SHORT, LONG}};
    static const double decays[] = {1, 1.5, 1.9, 2.1, 2.5}; /* from about 1.9 on what is left is in float64 */
    uint64_t state = 1;
    (void)unused;
    for (size_t c = 0; c < 30; c += c < 15 ? 1 : 2) {
        const size_t m = shape[c % 15 / 5][0], n = shape[c % 15 / 5][1];
        const ousac_side side = n <= m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
        /* a device's memory, where the start is made otherwise */
        const ousac_backend *be = c < 15 ? ousac_backend_cpu() : strict_backend();
        ousac_factors f, all, again;
        ousac_root root = {0};
        ousac_error error = {0};
        int done = 0, twice = 0;
        float *w = malloc(m * n * sizeof *w);
        calib_fill(&state, m * n, w);
        double *packed = moment_of(&state, SHORT, decays[c % 5], SHORT);
        assert_int_equal(ousac_leading_create(&f, be, side, m, n, packed, w, RANK, &done, &error), 0);
        assert_int_equal(done, 1);
        check_shape_of(&f, w);
        for (size_t r = 13; r <= RANK; r += 27) {
            const double predicted = ousac_spectrum_tail(f.lambda, f.lambda_count, r);
            const double real = measured(&f, side, r, w, packed);
            if (!(fabs(predicted / real - 1) < 1e-4))
                fail_msg("rank %zu, decay %g: predicted %.9g, measured %.9g", r, decays[c % 5], predicted,
                         real);
        }
        if (side == OUSAC_SIDE_INPUT) {
            assert_int_equal(ousac_root_create(&root, be, n, packed, NULL), 0);
            assert_int_equal(ousac_factors_create_input(&all, be, &root, m, w, RANK, NULL), 0);
        } else {
            assert_int_equal(ousac_factors_create_output(&all, be, m, n, packed, w, RANK, NULL), 0);
        }
        for (size_t r = 1; r <= RANK; r++) {
            const double found = ousac_spectrum_tail(f.lambda, f.lambda_count, r);
            const double least = ousac_spectrum_tail(all.lambda, all.lambda_count, r);
            assert_true(found > least * (1 - 1e-4) && found < least * (1 + 2 * OUSAC_LEADING_EXCESS));
        }
        assert_int_equal(ousac_leading_create(&again, be, side, m, n, packed, w, RANK, &twice, NULL), 0);
        assert_memory_equal(again.a, f.a, RANK * m * sizeof *f.a);
        assert_memory_equal(again.b, f.b, RANK * n * sizeof *f.b);
        assert_memory_equal(again.lambda, f.lambda, f.lambda_count * sizeof *f.lambda);
        ousac_factors_free(&f), ousac_factors_free(&all), ousac_factors_free(&again);
        ousac_root_free(&root);
        free(w), free(packed);
    }
}

static void what_cannot_be_bounded_is_handed_back(void **unused) {
    const ousac_backend *be = ousac_backend_cpu();
    uint64_t state = 2;
    ousac_factors f;
    int done = 1;
    float *w = malloc((size_t)SHORT * SHORT * sizeof *w);
    (void)unused;
    calib_fill(&state, (size_t)SHORT * SHORT, w);
    /* fewer directions than are iterated, more wanted than pays, a small order */
    double *packed = moment_of(&state, SHORT, 1, RANK + 2);
    assert_int_equal(
        ousac_leading_create(&f, be, OUSAC_SIDE_INPUT, SHORT, SHORT, packed, w, RANK, &done, NULL), 0);
    assert_int_equal(done, 0);
    assert_null(f.a);
    assert_false(ousac_leading_pays(SHORT, SHORT / 2));
    assert_false(ousac_leading_pays(SHORT, 0));
    assert_false(ousac_leading_pays(64, 4));
    assert_true(ousac_leading_pays(1152, 256));
    /* a spectrum so flat that no subspace is settled */
    free(packed);
    packed = moment_of(&state, SHORT, 0.01, SHORT);
    for (size_t i = 0; i < SHORT; i++)
        for (size_t j = 0; j < SHORT; j++)
            w[i * SHORT + j] = i == j;
    done = 1;
    assert_int_equal(
        ousac_leading_create(&f, be, OUSAC_SIDE_OUTPUT, SHORT, SHORT, packed, w, RANK, &done, NULL), 0);
    assert_int_equal(done, 0);
    assert_null(f.lambda);
    free(packed), free(w);
}

static void values_that_are_not_finite_are_refused(void **unused) {
    const ousac_backend *be = ousac_backend_cpu();
    uint64_t state = 3;
    ousac_factors f;
    int done;
    float *w = malloc((size_t)SHORT * SHORT * sizeof *w);
    double *packed = moment_of(&state, SHORT, 1, SHORT);
    (void)unused;
    calib_fill(&state, (size_t)SHORT * SHORT, w);
    w[5] = NAN;
    assert_int_equal(
        ousac_leading_create(&f, be, OUSAC_SIDE_INPUT, SHORT, SHORT, packed, w, RANK, &done, NULL),
        OUSAC_STATUS_NUMBER);
    w[5] = 1;
    packed[7] = INFINITY;
    assert_int_equal(
        ousac_leading_create(&f, be, OUSAC_SIDE_INPUT, SHORT, SHORT, packed, w, RANK, &done, NULL),
        OUSAC_STATUS_NUMBER);
    assert_null(f.a);
    free(packed), free(w);
}

static void every_failed_allocation_is_reported(void **unused) {
    const ousac_backend *be = ousac_backend_cpu();
    uint64_t state = 4;
    float *w = malloc((size_t)SHORT * LONG * sizeof *w);
    double *packed = moment_of(&state, SHORT, 2, SHORT);
    (void)unused;
    calib_fill(&state, (size_t)SHORT * LONG, w);
    for (int side = 0; side < 2; side++) {
        const size_t m = side ? SHORT : LONG, n = side ? LONG : SHORT;
        ousac_status status = OUSAC_STATUS_MEMORY;
        for (long allowed = 0; status; allowed++) {
            ousac_factors f;
            int done;
            (void)ousac_memory_fail_after(allowed);
            status = ousac_leading_create(&f, be, (ousac_side)side, m, n, packed, w, 8, &done, NULL);
            (void)ousac_memory_fail_after(-1);
            assert_true(status == OUSAC_STATUS_OK || status == OUSAC_STATUS_MEMORY);
            assert_true(allowed < 500);
            ousac_factors_free(&f);
        }
    }
    free(packed), free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_error_is_the_predicted_one_and_nearly_the_least),
        cmocka_unit_test(what_cannot_be_bounded_is_handed_back),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
