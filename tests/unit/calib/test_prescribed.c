/* Orthogonal matrices that are never stored, and matrices of a prescribed spectrum, against plain double
 * precision.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/spectra/mixing.h"
#include "calib/spectra/prescribed.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

enum { LANES = OUSAC_MIXING_LANES };

static void *allocate(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

/* Q (n, n) by its rows, and by what it makes of the unit vectors: both must agree. */
static double *dense(const ousac_mixing *mixing) {
    const size_t n = mixing->n;
    double *q = allocate(n * n, sizeof *q), *x = allocate(n * LANES, sizeof *x),
           *work = allocate(n * LANES, sizeof *work);
    for (size_t first = 0; first < n; first += LANES) {
        ousac_mixing_rows(mixing, first, x, work);
        for (size_t l = 0; l < LANES; l++)
            for (size_t j = 0; j < n; j++) {
                if (first + l < n)
                    q[(first + l) * n + j] = x[j * LANES + l];
                else
                    assert_true(x[j * LANES + l] == 0);
            }
    }
    for (size_t first = 0; first < n; first += LANES) {
        memset(x, 0, n * LANES * sizeof *x);
        for (size_t l = 0; l < LANES && first + l < n; l++)
            x[(first + l) * LANES + l] = 1;
        ousac_mixing_apply(mixing, x, work);
        for (size_t l = 0; l < LANES && first + l < n; l++)
            for (size_t i = 0; i < n; i++)
                assert_true(fabs(x[i * LANES + l] - q[i * n + first + l]) < 1e-13);
    }
    free(work);
    free(x);
    return q;
}

static void mixing_is_orthogonal_for_every_order(void **state) {
    static const size_t orders[] = {1, 2, 3, 4, 7, 8, 12, 15, 36, 45, 64, 72, 96, 200};
    (void)state;
    for (size_t k = 0; k < sizeof orders / sizeof *orders; k++) {
        const size_t n = orders[k];
        ousac_mixing mixing;
        ousac_error error = {0};
        assert_int_equal(ousac_mixing_create(&mixing, n, 5, k, &error), OUSAC_STATUS_OK);
        double *q = dense(&mixing);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double dot = 0;
                for (size_t l = 0; l < n; l++)
                    dot += q[i * n + l] * q[j * n + l];
                assert_true(fabs(dot - (i == j)) < 1e-12);
            }
        free(q);
        ousac_mixing_free(&mixing);
    }
}

/* A matrix near the identity would also be orthogonal: no element may dominate its row. For a Haar matrix of
 * order 256 an element above 0.4 has a probability below 1e-9. */
static void mixing_mixes(void **state) {
    const size_t n = 256;
    ousac_mixing mixing;
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_mixing_create(&mixing, n, 1, 2, &error), OUSAC_STATUS_OK);
    double *q = dense(&mixing), fourth = 0;
    for (size_t i = 0; i < n * n; i++) {
        assert_true(fabs(q[i]) < 0.4);
        fourth += pow(q[i], 4);
    }
    /* 3 for normals of variance 1/n, 1 for equal magnitudes */
    assert_true(fourth > 2.5 && fourth < 3.5);
    free(q);
    ousac_mixing_free(&mixing);
}

static void orders_out_of_range_are_refused(void **state) {
    ousac_mixing mixing;
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_mixing_create(&mixing, 0, 1, 2, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_mixing_create(&mixing, (size_t)INT32_MAX + 1, 1, 2, &error), OUSAC_STATUS_USAGE);
}

/* Falling values of an order, distinct. */
static double *some_spectrum(size_t n) {
    double *values = allocate(n, sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = 3 / (1 + 0.7 * (double)i) + 1e-3 * (double)(n - i);
    return values;
}

static void weights_have_the_singular_values_asked_for(void **state) {
    static const size_t shapes[][2] = {{1, 1}, {24, 24}, {40, 12}, {12, 40}, {9, 17}, {33, 32}};
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const size_t m = shapes[k][0], n = shapes[k][1], p = m < n ? m : n;
        double *sigma = some_spectrum(p), *gram = allocate(p * p, sizeof *gram),
               *values = allocate(p, sizeof *values), *vectors = allocate(p * p, sizeof *vectors);
        float *w = allocate(m * n, sizeof *w);
        ousac_error error = {0};
        assert_int_equal(ousac_prescribed_weight(m, n, sigma, 3, 10 * k, 2, w, &error), OUSAC_STATUS_OK);
        for (size_t i = 0; i < p; i++)
            for (size_t j = 0; j < p; j++)
                for (size_t l = 0; l < (m < n ? n : m); l++)
                    gram[i * p + j] += m < n ? (double)w[i * n + l] * (double)w[j * n + l]
                                             : (double)w[l * n + i] * (double)w[l * n + j];
        calib_jacobi(p, gram, values, vectors);
        for (size_t i = 0; i < p; i++)
            assert_true(fabs(sqrt(fmax(values[i], 0)) - sigma[i]) < 2e-6 * sigma[0]);
        free(w);
        free(vectors);
        free(values);
        free(gram);
        free(sigma);
    }
}

static void moments_have_the_eigenvalues_asked_for(void **state) {
    static const size_t orders[] = {1, 5, 24, 40};
    (void)state;
    for (size_t k = 0; k < sizeof orders / sizeof *orders; k++) {
        const size_t n = orders[k];
        double *lambda = some_spectrum(n), *packed = allocate(n * (n + 1) / 2, sizeof *packed),
               *full = allocate(n * n, sizeof *full), *values = allocate(n, sizeof *values),
               *vectors = allocate(n * n, sizeof *vectors);
        ousac_error error = {0};
        assert_int_equal(ousac_prescribed_moment(n, lambda, 3, k, 2, packed, &error), OUSAC_STATUS_OK);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                full[i * n + j] = full[j * n + i] = packed[i * (i + 1) / 2 + j];
        calib_jacobi(n, full, values, vectors);
        for (size_t i = 0; i < n; i++)
            assert_true(fabs(values[i] - lambda[i]) < 1e-11 * lambda[0]);
        free(vectors);
        free(values);
        free(full);
        free(packed);
        free(lambda);
    }
}

static void results_do_not_depend_on_threads_but_on_seed_and_sample(void **state) {
    enum { M = 50, N = 36 };
    double *sigma = some_spectrum(N);
    float w[4][M * N];
    double packed[3][N * (N + 1) / 2];
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_prescribed_weight(M, N, sigma, 3, 4, 1, w[0], &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_prescribed_weight(M, N, sigma, 3, 4, 7, w[1], &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_prescribed_weight(M, N, sigma, 2, 4, 1, w[2], &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_prescribed_weight(M, N, sigma, 3, 6, 1, w[3], &error), OUSAC_STATUS_OK);
    assert_memory_equal(w[0], w[1], sizeof w[0]);
    assert_memory_not_equal(w[0], w[2], sizeof w[0]);
    assert_memory_not_equal(w[0], w[3], sizeof w[0]);
    assert_int_equal(ousac_prescribed_moment(N, sigma, 3, 4, 1, packed[0], &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_prescribed_moment(N, sigma, 3, 4, 100, packed[1], &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_prescribed_moment(N, sigma, 3, 5, 1, packed[2], &error), OUSAC_STATUS_OK);
    assert_memory_equal(packed[0], packed[1], sizeof packed[0]);
    assert_memory_not_equal(packed[0], packed[2], sizeof packed[0]);
    free(sigma);
}

static void the_law_of_decay_is_the_one_stated(void **state) {
    const ousac_decay decay = {0.7, 0.2, 1.5};
    double values[50], sum = 0;
    (void)state;
    for (int moment = 1; moment <= 2; moment++, sum = 0) {
        ousac_decay_fill(&decay, 50, moment, values);
        for (size_t i = 0; i < 50; i++) {
            const double t = ((double)i + 0.5) / 50, s = 0.5 / 50;
            const double ratio = pow(t / s, -0.7) * pow((1 - t) / (1 - s), 0.2) * exp(-1.5 * (t - s));
            assert_true(fabs(values[i] / values[0] / ratio - 1) < 1e-12);
            sum += pow(values[i], moment);
        }
        assert_true(fabs(sum / 50 - 1) < 1e-12);
    }
}

static void shortage_of_memory_is_an_error(void **state) {
    double *sigma = some_spectrum(8);
    float w[64];
    double packed[36];
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    (void)state;
    for (long allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_prescribed_weight(8, 8, sigma, 1, 2, 2, w, &error);
        (void)ousac_memory_fail_after(-1);
        assert_true(allowed < 100);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    status = OUSAC_STATUS_MEMORY;
    for (long allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_prescribed_moment(8, sigma, 1, 2, 2, packed, &error);
        (void)ousac_memory_fail_after(-1);
        assert_true(allowed < 100);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    free(sigma);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixing_is_orthogonal_for_every_order),
        cmocka_unit_test(mixing_mixes),
        cmocka_unit_test(orders_out_of_range_are_refused),
        cmocka_unit_test(weights_have_the_singular_values_asked_for),
        cmocka_unit_test(moments_have_the_eigenvalues_asked_for),
        cmocka_unit_test(results_do_not_depend_on_threads_but_on_seed_and_sample),
        cmocka_unit_test(the_law_of_decay_is_the_one_stated),
        cmocka_unit_test(shortage_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
