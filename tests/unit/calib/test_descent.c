/* The descent on end-to-end errors that are known functions of the ranks: what it finds, what it may spend,
 * what its certificate says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/choose/descent.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = 8, REGIONS = 4, SITES = 6 * BLOCKS, WIDTH = 32, UNIFORM = 6, LAMBDAS = 32 };

static ousac_arch arch;
static double lambda[SITES][LAMBDAS];
static ousac_curve curves[SITES];

static double tail_of(size_t site, size_t rank) {
    double sum = 0, all = 0;
    for (size_t i = LAMBDAS; i-- > 0;) {
        all += lambda[site][i];
        sum += i >= rank ? lambda[site][i] : 0;
    }
    return rank >= ousac_cost_dense_rank(&arch.sites[site]) ? 0 : sum / all;
}

/* E^2 = sum of weight[site] tail, optionally times 1 + coupling with the block before. */
typedef struct evaluator {
    double weight[SITES], coupling;
    size_t calls, fail_at;
    int nan;
    uint64_t most; /* dearest plan seen */
} evaluator;

static double square_of(const evaluator *e, const size_t *rank) {
    double sum = 0, before = 0;
    for (size_t s = 0; s < SITES; s++) {
        const double left = e->weight[s] * tail_of(s, rank[s]);
        sum += left + e->coupling * sqrt(left * before);
        before = left;
    }
    return sum;
}

static uint64_t cost_of(const size_t *rank) {
    return ousac_cost_cached(&arch, &(ousac_ranks){.rank = rank, .dense_fallback = 1});
}

static ousac_status evaluate(void *self, const size_t *rank, double *value, ousac_error *error) {
    evaluator *e = self;
    if (++e->calls == e->fail_at)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "told to stop");
    if (cost_of(rank) > e->most)
        e->most = cost_of(rank);
    *value = e->nan ? NAN : sqrt(square_of(e, rank));
    return OUSAC_STATUS_OK;
}

static size_t start[SITES];

static void fill_spectra(void) {
    uint64_t state = 5;
    for (size_t s = 0; s < SITES; s++) {
        const double decay = 0.5 + 0.4 * calib_uniform(&state);
        for (size_t i = 0; i < LAMBDAS; i++)
            lambda[s][i] = pow(decay, (double)i);
        curves[s] = (ousac_curve){lambda[s], LAMBDAS, 0};
        start[s] = UNIFORM;
    }
}

static int set_up(void **unused) {
    (void)unused;
    fill_spectra();
    return ousac_arch_create_dit(&arch, BLOCKS, 16, WIDTH, 4 * WIDTH, NULL);
}

static int tear_down(void **unused) {
    (void)unused;
    ousac_arch_free(&arch);
    return 0;
}

/* A region that matters a hundred times more than the others. */
static evaluator one_region_matters(void) {
    evaluator e = {.fail_at = SIZE_MAX};
    for (size_t s = 0; s < SITES; s++)
        e.weight[s] = arch.sites[s].block < BLOCKS / REGIONS ? 1 : 0.01;
    return e;
}

static ousac_descent_options options_of(evaluator *e, size_t most) {
    return (ousac_descent_options){.curves = curves,
                                   .start = start,
                                   .granularity = 1,
                                   .evaluations_max = most,
                                   .evaluate = evaluate,
                                   .self = e};
}

static void ranks_move_to_where_they_matter(void **unused) {
    evaluator e = one_region_matters();
    const ousac_descent_options options = options_of(&e, 200);
    const uint64_t budget = cost_of(start);
    ousac_allocation found;
    ousac_descent_report report;
    double first = 0, rest = 0;
    (void)unused;
    assert_int_equal(ousac_allocate_descent(&arch, budget, &options, &found, &report, NULL), OUSAC_STATUS_OK);
    assert_true(found.cost <= budget && found.cost == cost_of(found.rank) && e.most <= budget);
    for (size_t s = 0; s < SITES; s++)
        *(arch.sites[s].block < BLOCKS / REGIONS ? &first : &rest) += (double)found.rank[s];
    assert_true(first / (SITES / REGIONS) > 1.5 * UNIFORM && rest / (SITES - SITES / REGIONS) < UNIFORM);
    /* The evaluator itself is the oracle of the report. */
    assert_true(fabs(report.best - sqrt(square_of(&e, found.rank))) < 1e-12);
    assert_true(fabs(report.start - sqrt(square_of(&e, start))) < 1e-12);
    assert_true(report.best < 0.6 * report.start);
    assert_int_equal(report.evaluations, e.calls);
    assert_int_equal(report.classes, 4 * REGIONS);
    ousac_allocation_free(&found);
}

/* The evaluator is separable and the weights are the same within a class, so the model is exact: what was
 * predicted is what was measured. */
static void a_separable_error_is_predicted_exactly(void **unused) {
    evaluator e = one_region_matters();
    const ousac_descent_options options = options_of(&e, 1 + 16 + 1);
    ousac_allocation found;
    ousac_descent_report report;
    (void)unused;
    for (size_t s = 0; s < SITES; s++) /* equal spectra as well, so that a class is one thing */
        memcpy(lambda[s], lambda[0], sizeof lambda[s]);
    assert_int_equal(ousac_allocate_descent(&arch, cost_of(start), &options, &found, &report, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(report.rounds, 1);
    assert_true(report.best < report.start);
    assert_true(fabs(report.predicted - report.best) < 1e-9 * report.start);
    /* the certificate is of the same model, in units of the start's square */
    assert_true(found.bound <= found.error && found.error < 1);
    ousac_allocation_free(&found);
    fill_spectra();
}

static void it_never_ends_worse_and_keeps_to_its_evaluations(void **unused) {
    uint64_t state = 11;
    (void)unused;
    for (size_t most = 1; most < 60; most += 7) {
        evaluator e = {.fail_at = SIZE_MAX, .coupling = 2};
        const ousac_descent_options options = options_of(&e, most);
        ousac_allocation found;
        ousac_descent_report report;
        for (size_t s = 0; s < SITES; s++)
            e.weight[s] = calib_uniform(&state);
        assert_int_equal(ousac_allocate_descent(&arch, cost_of(start), &options, &found, &report, NULL),
                         OUSAC_STATUS_OK);
        assert_true(e.calls <= most && report.evaluations == e.calls);
        assert_true(report.best <= report.start);
        assert_true(square_of(&e, found.rank) <= square_of(&e, start));
        assert_true(e.most <= cost_of(start));
        if (most < 1 + 16 + 1) /* no room to probe and to try: the start stands */
            assert_memory_equal(found.rank, start, sizeof start);
        ousac_allocation_free(&found);
    }
}

static void errors_are_passed_on(void **unused) {
    ousac_allocation found;
    ousac_error error;
    (void)unused;
    for (size_t at = 1; at < 19; at += 3) {
        evaluator e = one_region_matters();
        const ousac_descent_options options = options_of(&e, 40);
        e.fail_at = at;
        assert_int_equal(ousac_allocate_descent(&arch, cost_of(start), &options, &found, NULL, &error),
                         OUSAC_STATUS_INTERRUPTED);
        assert_null(found.rank);
    }
    evaluator e = one_region_matters();
    ousac_descent_options options = options_of(&e, 40);
    e.nan = 1;
    assert_int_equal(ousac_allocate_descent(&arch, cost_of(start), &options, &found, NULL, &error),
                     OUSAC_STATUS_NUMBER);
    e.nan = 0;
    assert_int_equal(ousac_allocate_descent(&arch, cost_of(start) - 1, &options, &found, NULL, &error),
                     OUSAC_STATUS_USAGE);
    options.granularity = 0;
    assert_int_equal(ousac_allocate_descent(&arch, cost_of(start), &options, &found, NULL, &error),
                     OUSAC_STATUS_USAGE);
}

static void it_survives_failing_allocations(void **unused) {
    (void)unused;
    for (long after = 0; after < 400; after += 3) {
        evaluator e = one_region_matters();
        const ousac_descent_options options = options_of(&e, 30);
        ousac_allocation found = {0};
        ousac_memory_fail_after(after);
        const ousac_status status =
            ousac_allocate_descent(&arch, cost_of(start), &options, &found, NULL, NULL);
        ousac_memory_fail_after(-1);
        assert_true(status == OUSAC_STATUS_OK || status == OUSAC_STATUS_MEMORY);
        if (status != OUSAC_STATUS_OK)
            assert_null(found.rank);
        ousac_allocation_free(&found);
    }
}

/* Bounds of single sites, which the trust region is made of. */
static void a_bounded_knapsack_stays_within_its_bounds(void **unused) {
    size_t low[SITES], high[SITES];
    ousac_curve weighted[SITES];
    uint64_t state = 3;
    ousac_allocation found, free_one;
    (void)unused;
    for (size_t s = 0; s < SITES; s++) {
        low[s] = 2 + calib_below(&state, 3);
        high[s] = low[s] + calib_below(&state, 9);
        weighted[s] = (ousac_curve){lambda[s], LAMBDAS, calib_uniform(&state)};
    }
    ousac_knapsack_options how = {.granularity = 3, .low = low, .high = high};
    assert_int_equal(ousac_allocate_knapsack(&arch, weighted, cost_of(start), &how, &found, NULL),
                     OUSAC_STATUS_OK);
    for (size_t s = 0; s < SITES; s++) {
        assert_true(found.rank[s] >= low[s] && found.rank[s] <= high[s]);
        assert_true(found.rank[s] % 3 == 0 || found.rank[s] == low[s] || found.rank[s] == high[s]);
    }
    how = (ousac_knapsack_options){.granularity = 1};
    assert_int_equal(ousac_allocate_knapsack(&arch, weighted, cost_of(start), &how, &free_one, NULL),
                     OUSAC_STATUS_OK);
    assert_true(free_one.error <= found.error && found.bound <= free_one.error);
    ousac_allocation_free(&free_one);
    ousac_allocation_free(&found);
    how = (ousac_knapsack_options){.granularity = 1, .low = high, .high = low};
    assert_int_equal(ousac_allocate_knapsack(&arch, weighted, cost_of(start), &how, &found, NULL),
                     OUSAC_STATUS_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_move_to_where_they_matter),
        cmocka_unit_test(a_separable_error_is_predicted_exactly),
        cmocka_unit_test(it_never_ends_worse_and_keeps_to_its_evaluations),
        cmocka_unit_test(errors_are_passed_on),
        cmocka_unit_test(it_survives_failing_allocations),
        cmocka_unit_test(a_bounded_knapsack_stays_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
