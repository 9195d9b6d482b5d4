/* Scaled SVD factors against a one-sided Jacobi SVD of the scaled weight, unscaled by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/spectra/scaled_svd.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void assert_near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.12g: expected %.12g within %.3g", value, expected, tolerance);
}

static double dot_columns(size_t rows, size_t cols, const double *s, size_t p, size_t q) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++)
        sum += s[i * cols + p] * s[i * cols + q];
    return sum;
}

static void rotate_columns(size_t rows, size_t cols, double *s, size_t p, size_t q, double cosine,
                           double sine) {
    for (size_t i = 0; i < rows; i++) {
        const double x = s[i * cols + p], y = s[i * cols + q];
        s[i * cols + p] = cosine * x - sine * y;
        s[i * cols + q] = sine * x + cosine * y;
    }
}

/* One-sided Jacobi (Hestenes): rotates pairs of columns of s (rows, cols) until all are orthogonal, s V = U
 * Sigma; then sorts them by falling norm. */
static void jacobi_svd(size_t rows, size_t cols, double *s, double *v) {
    double total = 0;
    int rotated = 1;
    for (size_t i = 0; i < rows * cols; i++)
        total += s[i] * s[i];
    for (size_t i = 0; i < cols * cols; i++)
        v[i] = i % cols == i / cols;
    for (int sweep = 0; rotated && sweep < 60; sweep++) {
        rotated = 0;
        for (size_t p = 0; p < cols; p++)
            for (size_t q = p + 1; q < cols; q++) {
                const double a = dot_columns(rows, cols, s, p, p), b = dot_columns(rows, cols, s, q, q);
                const double c = dot_columns(rows, cols, s, p, q);
                if (fabs(c) <= 1e-15 * sqrt(a * b) + 1e-30 * total)
                    continue;
                const double zeta = (b - a) / (2 * c);
                const double t = (zeta < 0 ? -1 : 1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
                const double cosine = 1 / sqrt(1 + t * t);
                rotated = 1;
                rotate_columns(rows, cols, s, p, q, cosine, cosine * t);
                rotate_columns(cols, cols, v, p, q, cosine, cosine * t);
            }
    }
    assert_int_equal(rotated, 0);
    for (size_t p = 0; p < cols; p++)
        for (size_t q = p + 1; q < cols; q++)
            if (dot_columns(rows, cols, s, p, p) < dot_columns(rows, cols, s, q, q)) {
                rotate_columns(rows, cols, s, p, q, 0, 1);
                rotate_columns(cols, cols, v, p, q, 0, 1);
            }
}

typedef struct problem {
    size_t m, n;
    float *w;
    double *left, *right;
} problem;

/* A weight with singular values that fall over `decades`, and scales that differ by a thousand. */
static void make_problem(problem *p, uint64_t seed, size_t m, size_t n, double decades) {
    uint64_t state = seed;
    const size_t rank = m < n ? m : n;
    *p = (problem){.m = m, .n = n};
    p->w = calloc(m * n, sizeof *p->w);
    p->left = calloc(m, sizeof *p->left);
    p->right = calloc(n, sizeof *p->right);
    assert_true(p->w && p->left && p->right);
    double *x = calloc(rank * (m + n), sizeof *x);
    for (size_t i = 0; i < rank * (m + n); i++)
        x[i] = calib_normal(&state);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++)
                sum += pow(10, -decades * (double)k / (double)rank) * x[k * (m + n) + i] *
                       x[k * (m + n) + m + j];
            p->w[i * n + j] = (float)sum;
        }
    for (size_t i = 0; i < m; i++)
        p->left[i] = pow(10, -3 * calib_uniform(&state));
    for (size_t j = 0; j < n; j++)
        p->right[j] = pow(10, -3 * calib_uniform(&state));
    free(x);
}

static void free_problem(problem *p) {
    free(p->w), free(p->left), free(p->right);
}

static double scale_of(const double *scale, size_t i) {
    return scale ? scale[i] : 1;
}

static void check(const problem *p, const double *left, const double *right, size_t rank_max) {
    const size_t m = p->m, n = p->n, least = m < n ? m : n;
    ousac_factors f;
    ousac_error error = {0};
    double *s = calloc(m * n, sizeof *s), *v = calloc(n * n, sizeof *v), *rest = calloc(m * n, sizeof *rest);
    double total = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            s[i * n + j] = rest[i * n + j] = scale_of(left, i) * (double)p->w[i * n + j] * scale_of(right, j);
            total += s[i * n + j] * s[i * n + j];
        }
    jacobi_svd(m, n, s, v);
    assert_int_equal(
        ousac_scaled_svd_create(&f, ousac_backend_cpu(), m, n, p->w, left, right, rank_max, &error),
        OUSAC_STATUS_OK);
    assert_int_equal(f.m, m);
    assert_int_equal(f.n, n);
    assert_int_equal(f.lambda_count, least);
    assert_int_equal(f.rank, rank_max < f.directions ? rank_max : f.directions);
    assert_true(f.directions > 0);
    double *kept = calloc(m * n, sizeof *kept); /* the reference's own truncation, unscaled */
    for (size_t r = 0; r < least; r++) {
        double square = 0;
        for (size_t i = 0; i < m; i++)
            square += s[i * n + r] * s[i * n + r];
        assert_near(f.lambda[r], square, 1e-12 * total);
        if (r >= f.rank)
            continue;
        /* Unit length and sign of u_r, as the header says. */
        double norm = 0;
        size_t largest = 0;
        for (size_t i = 0; i < m; i++) {
            const double u = (double)f.a[r * m + i] * scale_of(left, i);
            norm += u * u;
            if (fabs(u) > fabs((double)f.a[r * m + largest] * scale_of(left, largest)))
                largest = i;
        }
        assert_near(norm, 1, 1e-6);
        assert_true(f.a[r * m + largest] > 0);
        /* What ranks up to r leave of the scaled weight is what the spectrum says. */
        double left_over = 0, difference = 0;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                rest[i * n + j] -=
                    scale_of(left, i) * (double)f.a[r * m + i] * (double)f.b[r * n + j] * scale_of(right, j);
                left_over += rest[i * n + j] * rest[i * n + j];
                kept[i * n + j] += s[i * n + r] * v[j * n + r] / scale_of(left, i) / scale_of(right, j);
            }
        const double tail = ousac_spectrum_tail(f.lambda, f.lambda_count, r + 1);
        assert_near(left_over, tail, 2e-6 * sqrt(fmax(tail, 0) * total) + 1e-11 * total);
        /* Where the next value lies well below, the truncation itself is determined: A B is the reference's.
         */
        double next = 0;
        for (size_t i = 0; i < m && r + 1 < least; i++)
            next += s[i * n + r + 1] * s[i * n + r + 1];
        if (sqrt(square) < 1.05 * sqrt(next) || square < 1e-7 * total)
            continue;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double product = 0;
                for (size_t k = 0; k <= r; k++)
                    product += (double)f.a[k * m + i] * (double)f.b[k * n + j];
                product = (product - kept[i * n + j]) * scale_of(left, i) * scale_of(right, j);
                difference += product * product;
            }
        assert_near(sqrt(difference), 0, 2e-5 * sqrt(total));
    }
    free(s), free(v), free(rest), free(kept);
    ousac_factors_free(&f);
}

static void truncations_are_those_of_a_jacobi_svd(void **unused) {
    static const size_t shapes[][2] = {{1, 1},  {1, 7},   {7, 1},  {5, 5}, {12, 7},
                                       {7, 12}, {24, 24}, {30, 8}, {8, 30}};
    static const double decades[] = {0, 2, 5};
    (void)unused;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t d = 0; d < 3; d++) {
            problem p;
            make_problem(&p, 10 * c + d, shapes[c][0], shapes[c][1], decades[d]);
            check(&p, NULL, NULL, 1000);
            check(&p, p.left, p.right, d == 0 ? 3 : 1000);
            check(&p, p.left, NULL, 4);
            check(&p, NULL, p.right, 1000);
            free_problem(&p);
        }
}

/* Columns swapped and scaled leave an exact answer: S diagonal. */
static void scales_decide_what_is_kept(void **unused) {
    static const float w[9] = {0, 3, 0, 2, 0, 0, 0, 0, 1};
    static const double left[3] = {1, 1, 100}, right[3] = {10, 1, 1};
    ousac_factors f;
    (void)unused;
    assert_int_equal(ousac_scaled_svd_create(&f, ousac_backend_cpu(), 3, 3, w, NULL, NULL, 1, NULL),
                     OUSAC_STATUS_OK);
    assert_near(f.lambda[0], 9, 1e-12);
    assert_near(f.a[0], 1, 1e-6);
    assert_near(f.b[1], 3, 1e-6);
    ousac_factors_free(&f);
    assert_int_equal(ousac_scaled_svd_create(&f, ousac_backend_cpu(), 3, 3, w, left, right, 2, NULL),
                     OUSAC_STATUS_OK);
    assert_near(f.lambda[0], 10000, 1e-8);
    assert_near(f.lambda[1], 400, 1e-8);
    assert_near(f.lambda[2], 9, 1e-8);
    assert_near(f.a[2], 0.01, 1e-8); /* 1 / l */
    assert_near(f.b[2], 100, 1e-4);
    assert_near(f.a[3 + 1], 1, 1e-6);
    assert_near(f.b[3 + 0], 2, 1e-6);
    ousac_factors_free(&f);
}

static void a_smaller_rank_is_a_prefix(void **unused) {
    ousac_factors few, all;
    problem p;
    (void)unused;
    make_problem(&p, 77, 13, 19, 1);
    assert_int_equal(
        ousac_scaled_svd_create(&few, ousac_backend_cpu(), 13, 19, p.w, p.left, p.right, 4, NULL), 0);
    assert_int_equal(
        ousac_scaled_svd_create(&all, ousac_backend_cpu(), 13, 19, p.w, p.left, p.right, 99, NULL), 0);
    assert_int_equal(few.rank, 4);
    assert_int_equal(all.rank, 13);
    assert_memory_equal(few.a, all.a, 4 * 13 * sizeof *few.a);
    for (size_t i = 0; i < 4 * 19; i++) /* another shape of the product may round otherwise */
        assert_near(few.b[i], all.b[i], 1e-6 * (1 + fabs((double)all.b[i])));
    ousac_factors_free(&few);
    ousac_factors_free(&all);
    free_problem(&p);
}

static void channel_scales_are_clamped_roots(void **unused) {
    static const double magnitude[4] = {0.25, 0, 4e-8, 1};
    double scale[4];
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(ousac_scaled_svd_weights(4, magnitude, scale, NULL), OUSAC_STATUS_OK);
    assert_near(scale[0], 0.500001, 1e-15);
    assert_near(scale[1], 0.001001, 1e-15);
    assert_near(scale[2], 0.001001, 1e-15);
    assert_near(scale[3], 1.000001, 1e-15);
    assert_int_equal(ousac_scaled_svd_weights(1, magnitude + 1, scale, NULL), OUSAC_STATUS_OK);
    assert_near(scale[0], 1e-6, 1e-20);
    assert_int_equal(ousac_scaled_svd_weights(1, &(double){-1e-9}, scale, &error), OUSAC_STATUS_NUMBER);
    assert_int_equal(ousac_scaled_svd_weights(1, &(double){NAN}, scale, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "channel 0"));
}

static void bad_input_is_an_error(void **unused) {
    float w[6] = {1, 2, 3, 4, 5, 6};
    double left[2] = {1, 0}, right[3] = {1, 1, INFINITY};
    ousac_factors f;
    ousac_error error = {0};
    const ousac_backend *be = ousac_backend_cpu();
    (void)unused;
    assert_int_equal(ousac_scaled_svd_create(&f, be, 0, 3, w, NULL, NULL, 1, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, left, NULL, 1, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "output channel 1"));
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, NULL, right, 1, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "input channel 2"));
    left[1] = 1e-300; /* 1 / l beyond float32 */
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, left, NULL, 2, &error), OUSAC_STATUS_OK);
    assert_int_equal(f.rank, 1); /* the faint row is below rounding */
    ousac_factors_free(&f);
    left[0] = left[1] = 1e-60;
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, left, NULL, 2, &error), OUSAC_STATUS_NUMBER);
    assert_null(f.a);
    w[4] = NAN;
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, NULL, NULL, 1, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "(1, 1)"));
    memset(w, 0, sizeof w);
    assert_int_equal(ousac_scaled_svd_create(&f, be, 2, 3, w, NULL, NULL, 1, &error), OUSAC_STATUS_OK);
    assert_int_equal(f.rank, 0);
    assert_int_equal(f.directions, 0);
    ousac_factors_free(&f);
}

static void every_failed_allocation_is_reported(void **unused) {
    ousac_factors f;
    ousac_status status = OUSAC_STATUS_MEMORY;
    problem p;
    long allowed;
    (void)unused;
    make_problem(&p, 5, 9, 6, 1);
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_scaled_svd_create(&f, ousac_backend_cpu(), 9, 6, p.w, p.left, p.right, 3, NULL);
        (void)ousac_memory_fail_after(-1);
        assert_true(status == OUSAC_STATUS_OK || status == OUSAC_STATUS_MEMORY);
        assert_int_equal(f.a != NULL, status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 8);
    ousac_factors_free(&f);
    free_problem(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncations_are_those_of_a_jacobi_svd),
        cmocka_unit_test(scales_decide_what_is_kept),
        cmocka_unit_test(a_smaller_rank_is_a_prefix),
        cmocka_unit_test(channel_scales_are_clamped_roots),
        cmocka_unit_test(bad_input_is_an_error),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
