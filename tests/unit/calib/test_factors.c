/* Calibrated truncation: predicted errors against errors measured on the very samples, and spectra against an
 * independent eigensolver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/spectra/factors.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Samples dx with a known spectrum, and what calibration sees of them. */
typedef struct problem {
    size_t m, n, count;
    float *w;       /* (m, n) */
    double *dx;     /* (count, n) */
    double *input;  /* packed E[dx dx^T] */
    double *output; /* packed E[dy dy^T] */
    double total;   /* E |W dx|^2 */
} problem;

/* `rank` independent directions whose scales fall from 1 to 10^-decades. */
static void make_problem(problem *p, uint64_t seed, size_t m, size_t n, size_t rank, double decades) {
    uint64_t state = seed;
    *p = (problem){.m = m, .n = n, .count = 3 * n + 5};
    p->w = malloc(m * n * sizeof *p->w);
    p->dx = calloc(p->count * n, sizeof *p->dx);
    p->input = calloc(n * (n + 1) / 2, sizeof *p->input);
    p->output = calloc(m * (m + 1) / 2, sizeof *p->output);
    double *basis = malloc((rank + 1) * n * sizeof *basis), *dy = malloc(m * sizeof *dy);
    calib_fill(&state, m * n, p->w);
    for (size_t i = 0; i < rank * n; i++)
        basis[i] = calib_normal(&state);
    for (size_t t = 0; t < p->count; t++) {
        double *dx = p->dx + t * n;
        for (size_t k = 0; k < rank; k++) {
            const double scale = pow(10, -decades * (double)k / (double)(rank > 1 ? rank - 1 : 1));
            const double weight = scale * calib_normal(&state);
            for (size_t j = 0; j < n; j++)
                dx[j] += weight * basis[k * n + j];
        }
        for (size_t i = 0; i < m; i++) {
            dy[i] = 0;
            for (size_t j = 0; j < n; j++)
                dy[i] += (double)p->w[i * n + j] * dx[j];
            p->total += dy[i] * dy[i] / (double)p->count;
        }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                p->input[i * (i + 1) / 2 + j] += dx[i] * dx[j] / (double)p->count;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j <= i; j++)
                p->output[i * (i + 1) / 2 + j] += dy[i] * dy[j] / (double)p->count;
    }
    free(basis), free(dy);
}

static void free_problem(problem *p) {
    free(p->w), free(p->dx), free(p->input), free(p->output);
}

/* E |(W - A B) dx|^2 with the first r directions. */
static double measured_error(const problem *p, const ousac_factors *f, size_t r) {
    double sum = 0;
    double *z = malloc((r + 1) * sizeof *z);
    for (size_t t = 0; t < p->count; t++) {
        const double *dx = p->dx + t * p->n;
        for (size_t k = 0; k < r; k++) {
            z[k] = 0;
            for (size_t j = 0; j < p->n; j++)
                z[k] += (double)f->b[k * p->n + j] * dx[j];
        }
        for (size_t i = 0; i < p->m; i++) {
            double left = 0;
            for (size_t j = 0; j < p->n; j++)
                left += (double)p->w[i * p->n + j] * dx[j];
            for (size_t k = 0; k < r; k++)
                left -= (double)f->a[k * p->m + i] * z[k];
            sum += left * left / (double)p->count;
        }
    }
    free(z);
    return sum;
}

static void assert_near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.12g: expected %.12g within %.3g", value, expected, tolerance);
}

static ousac_status solve_input(ousac_factors *f, const problem *p, size_t rank_max) {
    ousac_root root;
    const ousac_backend *backend = ousac_backend_cpu();
    ousac_status status = ousac_root_create(&root, backend, p->n, p->input, NULL);
    if (status == OUSAC_STATUS_OK)
        status = ousac_factors_create_input(f, backend, &root, p->m, p->w, rank_max, NULL);
    ousac_root_free(&root);
    return status;
}

static ousac_status solve_output(ousac_factors *f, const problem *p, size_t rank_max) {
    return ousac_factors_create_output(f, ousac_backend_cpu(), p->m, p->n, p->output, p->w, rank_max, NULL);
}

/* Spectrum of K = W C W^T = D by Jacobi. */
static void reference_spectrum(const problem *p, double *lambda) {
    double *k = malloc(p->m * p->m * sizeof *k), *vectors = malloc(p->m * p->m * sizeof *vectors);
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j <= i; j++)
            k[i * p->m + j] = k[j * p->m + i] = p->output[i * (i + 1) / 2 + j];
    calib_jacobi(p->m, k, lambda, vectors);
    free(k), free(vectors);
}

/* Everything the header promises of one set of factors. */
static void check_factors(const problem *p, const ousac_factors *f, size_t rank_max) {
    const size_t least = p->m < p->n ? p->m : p->n;
    double *reference = malloc(p->m * sizeof *reference);
    reference_spectrum(p, reference);
    assert_int_equal(f->lambda_count, least);
    assert_true(f->directions <= least);
    assert_int_equal(f->rank, rank_max < f->directions ? rank_max : f->directions);
    for (size_t i = 0; i < least; i++) {
        assert_near(f->lambda[i], reference[i], 1e-11 * p->total + 1e-300);
        assert_true(f->lambda[i] >= 0 && (i == 0 || f->lambda[i] <= f->lambda[i - 1]));
        assert_true((f->lambda[i] > 0) == (i < f->directions));
    }
    assert_near(ousac_spectrum_tail(f->lambda, f->lambda_count, 0), p->total, 1e-11 * p->total);
    for (size_t i = 0; i < f->rank; i++) {
        size_t largest = 0;
        for (size_t j = 0; j <= i; j++) {
            double dot = 0;
            for (size_t k = 0; k < p->m; k++)
                dot += (double)f->a[i * p->m + k] * f->a[j * p->m + k];
            /* float32 rounding, and what float64 knows of two directions so faint. */
            assert_near(dot, i == j, 2e-6 + 1e-14 * p->total / sqrt(f->lambda[i] * f->lambda[j]));
        }
        for (size_t k = 1; k < p->m; k++)
            if (fabsf(f->a[i * p->m + k]) > fabsf(f->a[i * p->m + largest]))
                largest = k;
        assert_true(f->a[i * p->m + largest] > 0);
        for (size_t j = 0; j < p->n; j++) {
            double product = 0;
            for (size_t k = 0; k < p->m; k++)
                product += (double)f->a[i * p->m + k] * p->w[k * p->n + j];
            assert_near(f->b[i * p->n + j], product, 1e-5);
        }
    }
    for (size_t r = 0; r <= f->rank; r++) {
        const double tail = ousac_spectrum_tail(f->lambda, f->lambda_count, r);
        /* float32 factors leave 1e-7 of the signal, which meets the tail in a cross term. */
        assert_near(measured_error(p, f, r), tail, 2e-6 * sqrt(fmax(tail, 0) * p->total) + 1e-11 * p->total);
    }
    free(reference);
}

/* m, n, rank of the samples; the moment is singular wherever rank < n, and k > m in some, k < m in others. */
static const size_t shapes[][3] = {{1, 1, 1},   {5, 5, 5},    {12, 7, 7},  {7, 12, 12}, {30, 20, 4},
                                   {20, 30, 4}, {24, 24, 23}, {8, 40, 40}, {40, 8, 8},  {9, 9, 1}};
static const double decades[] = {0, 2, 6, 8};
enum { SHAPES = sizeof shapes / sizeof *shapes, DECADES = sizeof decades / sizeof *decades };

static void input_side_errors_are_what_they_say(void **unused) {
    (void)unused;
    for (size_t c = 0; c < SHAPES * DECADES; c++) {
        problem p;
        ousac_factors f;
        make_problem(&p, c, shapes[c / DECADES][0], shapes[c / DECADES][1], shapes[c / DECADES][2],
                     decades[c % DECADES]);
        const size_t rank_max = c % 3 == 0 ? 1000 : c % 3 == 1 ? 3 : p.n;
        assert_int_equal(solve_input(&f, &p, rank_max), OUSAC_STATUS_OK);
        check_factors(&p, &f, rank_max);
        ousac_factors_free(&f);
        free_problem(&p);
    }
}

static void output_side_errors_are_what_they_say(void **unused) {
    (void)unused;
    for (size_t c = 0; c < SHAPES * DECADES; c++) {
        problem p;
        ousac_factors f;
        make_problem(&p, 100 + c, shapes[c / DECADES][0], shapes[c / DECADES][1], shapes[c / DECADES][2],
                     decades[c % DECADES]);
        const size_t rank_max = c % 3 == 0 ? 1000 : c % 3 == 1 ? 3 : p.n;
        assert_int_equal(solve_output(&f, &p, rank_max), OUSAC_STATUS_OK);
        check_factors(&p, &f, rank_max);
        ousac_factors_free(&f);
        free_problem(&p);
    }
}

static void both_sides_find_the_same_factors(void **unused) {
    (void)unused;
    for (size_t c = 0; c < SHAPES; c++) {
        problem p;
        ousac_factors in, out;
        make_problem(&p, 200 + c, shapes[c][0], shapes[c][1], shapes[c][2], 2);
        assert_int_equal(solve_input(&in, &p, 4), OUSAC_STATUS_OK);
        assert_int_equal(solve_output(&out, &p, 4), OUSAC_STATUS_OK);
        assert_int_equal(in.rank, out.rank);
        for (size_t i = 0; i < in.rank; i++) {
            assert_near(in.lambda[i], out.lambda[i], 1e-11 * p.total);
            /* Directions are as well determined as their eigenvalues are apart. */
            const double below = i + 1 < in.lambda_count ? in.lambda[i] - in.lambda[i + 1] : in.lambda[i];
            const double above = i > 0 ? in.lambda[i - 1] - in.lambda[i] : below;
            if (fmin(below, above) < 1e-4 * p.total)
                continue;
            for (size_t j = 0; j < p.m; j++)
                assert_near(in.a[i * p.m + j], out.a[i * p.m + j], 1e-6);
            for (size_t j = 0; j < p.n; j++)
                assert_near(in.b[i * p.n + j], out.b[i * p.n + j], 1e-5);
        }
        ousac_factors_free(&in);
        ousac_factors_free(&out);
        free_problem(&p);
    }
}

static void smaller_ranks_are_prefixes(void **unused) {
    problem p;
    ousac_factors most, less;
    (void)unused;
    make_problem(&p, 300, 24, 16, 16, 3);
    for (int side = 0; side < 2; side++) {
        assert_int_equal(side ? solve_output(&most, &p, 16) : solve_input(&most, &p, 16), OUSAC_STATUS_OK);
        for (size_t r = 0; r < 16; r++) {
            assert_int_equal(side ? solve_output(&less, &p, r) : solve_input(&less, &p, r), OUSAC_STATUS_OK);
            assert_int_equal(less.rank, r);
            assert_memory_equal(less.lambda, most.lambda, less.lambda_count * sizeof *less.lambda);
            for (size_t i = 0; i < r * p.m; i++)
                assert_near(less.a[i], most.a[i], 1e-7);
            for (size_t i = 0; i < r * p.n; i++)
                assert_near(less.b[i], most.b[i], 1e-6);
            ousac_factors_free(&less);
        }
        ousac_factors_free(&most);
    }
    free_problem(&p);
}

static void the_same_moments_give_the_same_bytes(void **unused) {
    problem p;
    ousac_factors first, again;
    (void)unused;
    make_problem(&p, 400, 20, 33, 33, 4);
    for (int side = 0; side < 2; side++) {
        assert_int_equal(side ? solve_output(&first, &p, 9) : solve_input(&first, &p, 9), OUSAC_STATUS_OK);
        assert_int_equal(side ? solve_output(&again, &p, 9) : solve_input(&again, &p, 9), OUSAC_STATUS_OK);
        assert_memory_equal(first.lambda, again.lambda, first.lambda_count * sizeof *first.lambda);
        assert_memory_equal(first.a, again.a, first.rank * p.m * sizeof *first.a);
        assert_memory_equal(first.b, again.b, first.rank * p.n * sizeof *first.b);
        ousac_factors_free(&first);
        ousac_factors_free(&again);
    }
    free_problem(&p);
}

static void a_zero_moment_has_no_directions(void **unused) {
    problem p;
    ousac_factors f;
    (void)unused;
    make_problem(&p, 500, 6, 9, 0, 0);
    for (int side = 0; side < 2; side++) {
        assert_int_equal(side ? solve_output(&f, &p, 4) : solve_input(&f, &p, 4), OUSAC_STATUS_OK);
        assert_int_equal(f.rank, 0);
        assert_int_equal(f.directions, 0);
        assert_int_equal(f.lambda_count, 6);
        for (size_t i = 0; i < 6; i++)
            assert_true(f.lambda[i] == 0);
        ousac_factors_free(&f);
    }
    /* A moment without a trace in W, too. */
    free_problem(&p);
    make_problem(&p, 501, 6, 9, 9, 0);
    memset(p.w, 0, 54 * sizeof *p.w);
    assert_int_equal(solve_input(&f, &p, 4), OUSAC_STATUS_OK);
    assert_int_equal(f.directions, 0);
    ousac_factors_free(&f);
    ousac_factors_free(NULL);
    free_problem(&p);
}

/* Tiny directions are noise: a moment of exact rank 3 has three of them, whatever rounding added. */
static void numerical_rank_is_found(void **unused) {
    problem p;
    ousac_factors f;
    ousac_root root;
    double trace = 0;
    (void)unused;
    make_problem(&p, 600, 20, 15, 3, 1);
    assert_int_equal(ousac_root_create(&root, ousac_backend_cpu(), 15, p.input, NULL), OUSAC_STATUS_OK);
    assert_int_equal(root.k, 3);
    for (size_t i = 0; i < 15; i++)
        trace += p.input[i * (i + 1) / 2 + i];
    assert_near(root.trace, trace, 1e-12 * trace);
    /* F F^T is the moment. */
    for (size_t i = 0; i < 15; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k < root.k; k++)
                sum += root.f[k * 15 + i] * root.f[k * 15 + j];
            assert_near(sum, p.input[i * (i + 1) / 2 + j], 1e-12 * trace);
        }
    ousac_root_free(&root);
    ousac_root_free(NULL);
    assert_int_equal(solve_input(&f, &p, 10), OUSAC_STATUS_OK);
    assert_int_equal(f.rank, 3);
    ousac_factors_free(&f);
    free_problem(&p);
}

static void bad_numbers_are_refused(void **unused) {
    problem p;
    ousac_factors f;
    ousac_root root;
    ousac_error error = {0};
    const ousac_backend *backend = ousac_backend_cpu();
    (void)unused;
    make_problem(&p, 700, 6, 5, 5, 0);
    p.w[7] = NAN;
    assert_int_equal(solve_input(&f, &p, 3), OUSAC_STATUS_NUMBER);
    assert_null(f.lambda);
    assert_int_equal(ousac_factors_create_output(&f, backend, 6, 5, p.output, p.w, 3, &error),
                     OUSAC_STATUS_NUMBER);
    assert_string_equal(error.message, "weight (1, 2) is not finite");
    p.w[7] = 0;
    p.output[4] = INFINITY;
    assert_int_equal(solve_output(&f, &p, 3), OUSAC_STATUS_NUMBER);
    p.input[4] = NAN;
    assert_int_equal(ousac_root_create(&root, backend, 5, p.input, &error), OUSAC_STATUS_NUMBER);
    assert_null(root.f);
    /* Indefinite beyond rounding; and within it. */
    const double indefinite[] = {1, 0, -1e-5}, rounded[] = {1, 0, -1e-8}, negative[] = {-1, 0, -1};
    assert_int_equal(ousac_root_create(&root, backend, 2, indefinite, &error), OUSAC_STATUS_NUMBER);
    assert_int_equal(ousac_root_create(&root, backend, 2, negative, &error), OUSAC_STATUS_NUMBER);
    assert_int_equal(ousac_root_create(&root, backend, 2, rounded, &error), OUSAC_STATUS_OK);
    assert_int_equal(root.k, 1);
    ousac_root_free(&root);
    assert_int_equal(ousac_root_create(&root, backend, 0, rounded, &error), OUSAC_STATUS_USAGE);
    free_problem(&p);
}

static void every_failed_allocation_is_reported(void **unused) {
    problem p;
    (void)unused;
    for (int shape = 0; shape < 2; shape++)
        for (int side = 0; side < 2; side++) {
            long allowed = 0;
            make_problem(&p, 800, shape ? 4 : 9, shape ? 9 : 4, 4, 0);
            for (;; allowed++) {
                ousac_factors f;
                ousac_memory_fail_after(allowed);
                const ousac_status status = side ? solve_output(&f, &p, 2) : solve_input(&f, &p, 2);
                ousac_memory_fail_after(-1);
                if (status == OUSAC_STATUS_OK) {
                    ousac_factors_free(&f);
                    break;
                }
                assert_int_equal(status, OUSAC_STATUS_MEMORY);
            }
            assert_true(allowed > 10);
            free_problem(&p);
        }
}

static void tails_are_summed_from_the_smallest(void **unused) {
    const double lambda[] = {1e16, 1, 1, 1, 1};
    (void)unused;
    assert_true(ousac_spectrum_tail(lambda, 5, 0) == 1e16 + 4);
    assert_true(ousac_spectrum_tail(lambda, 5, 3) == 2);
    assert_true(ousac_spectrum_tail(lambda, 5, 5) == 0);
    assert_true(ousac_spectrum_tail(lambda, 5, 50) == 0);
    assert_true(ousac_spectrum_tail(NULL, 0, 0) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_side_errors_are_what_they_say),
        cmocka_unit_test(output_side_errors_are_what_they_say),
        cmocka_unit_test(both_sides_find_the_same_factors),
        cmocka_unit_test(smaller_ranks_are_prefixes),
        cmocka_unit_test(the_same_moments_give_the_same_bytes),
        cmocka_unit_test(a_zero_moment_has_no_directions),
        cmocka_unit_test(numerical_rank_is_found),
        cmocka_unit_test(bad_numbers_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(tails_are_summed_from_the_smallest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
