/* The excess of factors from few samples, against what it truly is where the covariance is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/spectra/factors.h"
#include "calib/stats/convergence.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 24, RANK = 5, PACKED = DIM * (DIM + 1) / 2, SITES = 6 };

/* Variances of the true distribution, whose axes are the coordinates': falling, without a gap. */
static double variance(size_t i) {
    return exp(-0.25 * (double)i);
}

/* Adds `count` draws to a packed moment. */
static void draw(double *packed, size_t count, uint64_t *state) {
    for (size_t s = 0; s < count; s++) {
        double x[DIM];
        for (size_t i = 0; i < DIM; i++)
            x[i] = sqrt(variance(i)) * calib_normal(state);
        for (size_t i = 0; i < DIM; i++)
            for (size_t j = 0; j <= i; j++)
                packed[i * (i + 1) / 2 + j] += x[i] * x[j];
    }
}

static void factorise(ousac_factors *factors, const double *packed) {
    float identity[DIM * DIM] = {0};
    for (size_t i = 0; i < DIM; i++)
        identity[i * DIM + i] = 1;
    assert_int_equal(
        ousac_factors_create_output(factors, ousac_backend_cpu(), DIM, DIM, packed, identity, RANK, NULL),
        OUSAC_STATUS_OK);
}

/* What directions leave under the true covariance, over the least possible, less 1: by hand, since the axes
 * are the coordinates'. */
static double true_excess(const ousac_factors *factors) {
    double total = 0, least = 0;
    for (size_t i = 0; i < DIM; i++) {
        total += variance(i);
        least += i >= RANK ? variance(i) : 0;
    }
    for (size_t r = 0; r < RANK; r++)
        for (size_t i = 0; i < DIM; i++)
            total -= variance(i) * (double)factors->a[r * DIM + i] * (double)factors->a[r * DIM + i];
    return total / least - 1;
}

/* One experiment: four parts of each site, the three splits, the estimate, and the truth of all samples. */
static void experiment(size_t samples, uint64_t *state, ousac_convergence *estimate, double *truth) {
    double e[OUSAC_CONVERGENCE_SPLITS * SITES] = {0};
    *truth = 0;
    for (size_t site = 0; site < SITES; site++) {
        double part[OUSAC_CONVERGENCE_PARTS][PACKED] = {{0}}, all[PACKED] = {0};
        ousac_factors factors;
        for (size_t p = 0; p < OUSAC_CONVERGENCE_PARTS; p++) {
            draw(part[p], samples / OUSAC_CONVERGENCE_PARTS, state);
            for (size_t i = 0; i < PACKED; i++)
                all[i] += part[p][i];
        }
        factorise(&factors, all);
        *truth += true_excess(&factors) / SITES;
        ousac_factors_free(&factors);
        for (size_t split = 0; split < OUSAC_CONVERGENCE_SPLITS; split++) {
            double half[2][PACKED] = {{0}};
            ousac_factors of[2];
            for (size_t p = 0; p < OUSAC_CONVERGENCE_PARTS; p++)
                for (size_t i = 0; i < PACKED; i++)
                    half[ousac_convergence_in_half(split, p) ? 0 : 1][i] += part[p][i];
            for (int h = 0; h < 2; h++)
                factorise(&of[h], half[h]);
            for (int h = 0; h < 2; h++)
                e[split * SITES + site] +=
                    ousac_convergence_excess(of[h].lambda, of[h].lambda_count, RANK,
                                             ousac_convergence_captured(of[1 - h].a, RANK, DIM, half[h])) /
                    2;
            for (int h = 0; h < 2; h++)
                ousac_factors_free(&of[h]);
        }
    }
    ousac_convergence_estimate(e, SITES, estimate);
}

static void the_estimate_is_the_true_excess(void **unused) {
    static const size_t sizes[] = {400, 1600};
    double per_sample[2];
    uint64_t state = 12;
    (void)unused;
    for (size_t k = 0; k < 2; k++) {
        enum { TRIALS = 60 };
        double estimated = 0, true_mean = 0;
        size_t covered = 0;
        ousac_convergence estimate[TRIALS];
        for (size_t t = 0; t < TRIALS; t++) {
            double truth;
            experiment(sizes[k], &state, &estimate[t], &truth);
            assert_int_equal(estimate[t].sites, SITES);
            assert_true(estimate[t].upper >= estimate[t].excess && estimate[t].worst >= estimate[t].excess);
            estimated += estimate[t].excess / TRIALS;
            true_mean += truth / TRIALS;
        }
        for (size_t t = 0; t < TRIALS; t++)
            covered += estimate[t].upper >= true_mean;
        print_message("%zu samples: excess %.5f, estimated %.5f, below the limit in %zu of %d\n", sizes[k],
                      true_mean, estimated, covered, TRIALS);
        /* To first order in 1 / n, and with 60 trials of six sites. */
        assert_true(fabs(estimated / true_mean - 1) < (k == 0 ? 0.2 : 0.1));
        /* 95 % of 60 is 57; 50 is four standard errors below. */
        assert_true(covered >= 50);
        per_sample[k] = true_mean * (double)sizes[k];
    }
    assert_true(fabs(per_sample[0] / per_sample[1] - 1) < 0.2); /* the excess falls as 1 / n */
}

static void halves_are_balanced(void **unused) {
    (void)unused;
    for (size_t a = 0; a < OUSAC_CONVERGENCE_SPLITS; a++)
        for (size_t b = 0; b < OUSAC_CONVERGENCE_SPLITS; b++) {
            int product = 0;
            for (size_t p = 0; p < OUSAC_CONVERGENCE_PARTS; p++)
                product +=
                    (ousac_convergence_in_half(a, p) ? 1 : -1) * (ousac_convergence_in_half(b, p) ? 1 : -1);
            assert_int_equal(product, a == b ? OUSAC_CONVERGENCE_PARTS : 0);
        }
}

static void captured_is_the_quadratic_form(void **unused) {
    const double packed[] = {4, 1, 3, -2, 0.5, 2}; /* [[4, 1, -2], [1, 3, 0.5], [-2, 0.5, 2]] */
    const float directions[] = {1, 2, -1, 0, 1, 1};
    (void)unused;
    /* (1, 2, -1): 4 + 12 + 2 + 2 (2 + 2 - 1) = 24; (0, 1, 1): 3 + 2 + 1 = 6 */
    assert_true(ousac_convergence_captured(directions, 1, 3, packed) == 24);
    assert_true(ousac_convergence_captured(directions, 2, 3, packed) == 30);
    assert_true(ousac_convergence_captured(directions, 0, 3, packed) == 0);
}

static void what_cannot_be_judged_is_left_out(void **unused) {
    const double lambda[] = {8, 2, 1, 1}, sharp[] = {8, 2, 1e-6, 1e-6};
    (void)unused;
    assert_true(ousac_convergence_excess(lambda, 4, 2, 9) == 0.5); /* 3 left where 2 could be */
    assert_true(ousac_convergence_excess(lambda, 4, 2, 10 + 1e-9) == 0);
    assert_true(isnan(ousac_convergence_excess(lambda, 4, 4, 12)));
    assert_true(isnan(ousac_convergence_excess(sharp, 4, 2, 10)));
    const double zero[] = {0, 0};
    assert_true(isnan(ousac_convergence_excess(zero, 2, 0, 0)));

    /* Three splits of two sites, the second unknown in one of them; then none known. */
    double e[] = {0.4, 1, 0.8, NAN, 1.2, 1};
    ousac_convergence estimate;
    ousac_convergence_estimate(e, 2, &estimate);
    assert_int_equal(estimate.sites, 1);
    assert_true(fabs(estimate.excess - 0.2) < 1e-15 && fabs(estimate.worst - 0.2) < 1e-15);
    assert_int_equal(estimate.worst_site, 0);
    /* 0.1, 0.2, 0.3: standard deviation 0.1 */
    assert_true(fabs(estimate.upper - (0.2 + 2.919986 * 0.1 / sqrt(3))) < 1e-12);
    for (size_t i = 0; i < 6; i++)
        e[i] = NAN;
    ousac_convergence_estimate(e, 2, &estimate);
    assert_true(estimate.sites == 0 && isinf(estimate.upper));
}

static void the_next_number_follows_one_over_n(void **unused) {
    (void)unused;
    assert_int_equal(ousac_convergence_next(32, 0.03, 0.02, 16), 48);
    assert_int_equal(ousac_convergence_next(32, 0.031, 0.02, 16), 64);
    assert_int_equal(ousac_convergence_next(32, 0.0201, 0.02, 16), 48); /* at least a quarter more */
    assert_int_equal(ousac_convergence_next(160, 0.0201, 0.02, 16), 208);
    assert_int_equal(ousac_convergence_next(32, 5, 0.02, 16), 64); /* at most as many again */
    assert_int_equal(ousac_convergence_next(16, INFINITY, 0.02, 16), 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_estimate_is_the_true_excess),
        cmocka_unit_test(halves_are_balanced),
        cmocka_unit_test(captured_is_the_quadratic_form),
        cmocka_unit_test(what_cannot_be_judged_is_left_out),
        cmocka_unit_test(the_next_number_follows_one_over_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
