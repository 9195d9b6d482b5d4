/* Ranks by regions on evaluators whose optimum is known by trying every plan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/choose/regions.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 8, REGIONS = 4, SITES = 6 * BLOCKS, RANK_MAX = 12 };

/* An end-to-end error made up from the ranks of the four regions, which it reads off the sites. */
typedef struct evaluator {
    double weight[REGIONS], scale[REGIONS], coupling, noise;
    size_t calls, fail_at;
    double worth_nothing_below; /* +inf where a region's rank is smaller */
    const ousac_arch *arch;
    uint64_t budget;
} evaluator;

static double value_of(const evaluator *e, const size_t region[REGIONS]) {
    double sum = 0, pairs = 0, before = 0;
    uint64_t state = 1;
    for (size_t k = 0; k < REGIONS; k++) {
        const double left = e->weight[k] * exp(-(double)region[k] / e->scale[k]);
        sum += left;
        pairs += sqrt(before * left); /* what one region leaves weighs on the next */
        before = left;
        state = state * 1000003 + region[k];
        if ((double)region[k] < e->worth_nothing_below)
            return INFINITY;
    }
    return (sum + e->coupling * pairs) * (1 + e->noise * (2 * calib_uniform(&state) - 1));
}

/* Every site of a region has one rank, or the dense rank below it. */
static void read_regions(const evaluator *e, const size_t *rank, size_t region[REGIONS]) {
    memset(region, 0, REGIONS * sizeof *region);
    for (size_t s = 0; s < SITES; s++) {
        const size_t k = e->arch->sites[s].block / (BLOCKS / REGIONS);
        region[k] = rank[s] > region[k] ? rank[s] : region[k];
    }
    for (size_t s = 0; s < SITES; s++) {
        const size_t k = e->arch->sites[s].block / (BLOCKS / REGIONS),
                     dense = ousac_cost_dense_rank(&e->arch->sites[s]);
        assert_int_equal(rank[s], region[k] < dense ? region[k] : dense);
    }
}

static ousac_status evaluate(void *self, const size_t *rank, double *value, ousac_error *error) {
    evaluator *e = self;
    size_t region[REGIONS];
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    if (e->calls++ == e->fail_at)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "told to stop");
    assert_true(ousac_cost_cached(e->arch, &ranks) <= e->budget);
    read_regions(e, rank, region);
    *value = value_of(e, region);
    return OUSAC_STATUS_OK;
}

/* The least value over all plans of ranks least..RANK_MAX within the budget. */
static double brute_force(const evaluator *e, size_t least) {
    double best = INFINITY;
    size_t r[REGIONS], rank[SITES];
    for (size_t code = 0; code < (RANK_MAX + 1) * (RANK_MAX + 1) * (RANK_MAX + 1) * (RANK_MAX + 1); code++) {
        size_t rest = code;
        int inside = 1;
        for (size_t k = 0; k < REGIONS; k++, rest /= RANK_MAX + 1) {
            r[k] = rest % (RANK_MAX + 1);
            inside &= r[k] >= least;
        }
        if (!inside || !(value_of(e, r) < best))
            continue;
        for (size_t s = 0; s < SITES; s++)
            rank[s] = r[e->arch->sites[s].block / (BLOCKS / REGIONS)];
        if (ousac_cost_cached(e->arch, &(ousac_ranks){.rank = rank, .dense_fallback = 1}) <= e->budget)
            best = value_of(e, r);
    }
    return best;
}

static ousac_arch arch;

static int set_up(void **unused) {
    (void)unused;
    return ousac_arch_create_dit(&arch, BLOCKS, 16, 32, 128, NULL);
}

static int tear_down(void **unused) {
    (void)unused;
    ousac_arch_free(&arch);
    return 0;
}

/* Room for `rank` everywhere and a little. */
static uint64_t budget_of(size_t rank) {
    size_t ranks[SITES];
    for (size_t s = 0; s < SITES; s++)
        ranks[s] = rank;
    return ousac_cost_cached(&arch, &(ousac_ranks){.rank = ranks, .dense_fallback = 1}) + 5000;
}

static evaluator random_evaluator(uint64_t *state, double coupling, double noise) {
    evaluator e = {.coupling = coupling, .noise = noise, .fail_at = SIZE_MAX, .arch = &arch};
    for (size_t k = 0; k < REGIONS; k++) {
        e.weight[k] = pow(10, -2 * calib_uniform(state));
        e.scale[k] = 2 + 6 * calib_uniform(state);
    }
    e.budget = budget_of(4 + calib_below(state, 4));
    return e;
}

static void solve(evaluator *e, size_t evaluations, ousac_allocation *allocation,
                  ousac_regions_report *report) {
    const ousac_regions_options options = {
        .rank_min = 1, .rank_max = RANK_MAX, .evaluations_max = evaluations, .evaluate = evaluate, .self = e};
    ousac_error error = {0};
    if (ousac_allocate_regions(&arch, e->budget, &options, allocation, report, &error))
        fail_msg("%s", error.message);
    assert_int_equal(report->evaluations, e->calls);
    assert_true(report->evaluations <= (evaluations ? evaluations : 40));
    assert_true(report->best <= report->start);
    assert_int_equal(report->region_count, REGIONS);
    size_t region[REGIONS];
    read_regions(e, allocation->rank, region);
    for (size_t k = 0; k < REGIONS; k++)
        assert_int_equal(report->rank[k], region[k]);
    assert_true(value_of(e, region) == report->best);
    assert_true(allocation->cost <= e->budget && allocation->budget == e->budget);
    assert_true(allocation->cost ==
                ousac_cost_cached(&arch, &(ousac_ranks){.rank = allocation->rank, .dense_fallback = 1}));
}

/* How far above the optimum the search ends, in the gain that there was to be had: worst and mean over
 * problems. */
static void compare(double coupling, double noise, size_t evaluations, double *worst, double *mean) {
    enum { PROBLEMS = 30 };
    uint64_t state = 99;
    *worst = *mean = 0;
    for (size_t i = 0; i < PROBLEMS; i++) {
        evaluator e = random_evaluator(&state, coupling, noise);
        ousac_allocation allocation;
        ousac_regions_report report;
        const double best = brute_force(&e, 1);
        solve(&e, evaluations, &allocation, &report);
        assert_true(report.best >= best);
        const double lost = report.start > best ? (report.best - best) / (report.start - best) : 0;
        *worst = fmax(*worst, lost);
        *mean += lost / PROBLEMS;
        ousac_allocation_free(&allocation);
    }
    print_message(
        "coupling %g, noise %g, %zu evaluations: %.1f %% of the gain lost at worst, %.1f %% on average\n",
        coupling, noise, evaluations, 100 * *worst, 100 * *mean);
}

static void separable_problems_are_solved(void **unused) {
    double worst, mean;
    (void)unused;
    compare(0, 0, 500, &worst, &mean);
    assert_true(worst < 0.05 && mean < 0.01);
    compare(0, 0, 0, &worst, &mean); /* as many as by default */
    assert_true(worst < 0.15 && mean < 0.03);
}

static void regions_that_interact_are_solved_nearly(void **unused) {
    double worst, mean;
    (void)unused;
    compare(2, 0, 500, &worst, &mean);
    assert_true(worst < 0.05 && mean < 0.01);
    compare(2, 0, 0, &worst, &mean);
    assert_true(worst < 0.15 && mean < 0.03);
}

/* Noise of a tenth may hide what is left of the gain, but never makes it worse than the start. */
static void noise_does_not_lead_astray(void **unused) {
    double worst, mean;
    (void)unused;
    compare(0.5, 0.1, 40, &worst, &mean);
    assert_true(mean < 0.4);
    for (size_t few = 1; few <= 3; few++)
        compare(0.5, 0.1, few, &worst, &mean);
}

static void the_same_problem_gives_the_same_plan(void **unused) {
    uint64_t state = 7;
    evaluator e = random_evaluator(&state, 1, 0.05), again = e;
    ousac_allocation a, b;
    ousac_regions_report x, y;
    (void)unused;
    solve(&e, 40, &a, &x);
    solve(&again, 40, &b, &y);
    assert_memory_equal(a.rank, b.rank, SITES * sizeof *a.rank);
    assert_int_equal(x.evaluations, y.evaluations);
    ousac_allocation_free(&a);
    ousac_allocation_free(&b);
}

/* One evaluation is the uniform start, with the largest rank that fits. */
static void it_starts_from_uniform(void **unused) {
    uint64_t state = 3;
    evaluator e = random_evaluator(&state, 0, 0);
    ousac_allocation a, uniform;
    ousac_regions_report report;
    (void)unused;
    solve(&e, 1, &a, &report);
    assert_true(report.start == report.best && !report.converged);
    assert_int_equal(ousac_allocate_uniform(&arch, NULL, e.budget, &uniform, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(a.rank, uniform.rank, SITES * sizeof *a.rank);
    ousac_allocation_free(&a);
    ousac_allocation_free(&uniform);
    e.calls = 0;
    e.budget = budget_of(1000); /* beyond every dense rank: nothing to choose */
    const ousac_regions_options options = {.evaluate = evaluate, .self = &e};
    assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, &report, NULL), OUSAC_STATUS_OK);
    assert_int_equal(report.converged, 1);
    for (size_t s = 0; s < SITES; s++)
        assert_int_equal(a.rank[s], ousac_cost_dense_rank(&arch.sites[s]));
    ousac_allocation_free(&a);
}

static void useless_plans_are_avoided(void **unused) {
    uint64_t state = 4;
    evaluator e = random_evaluator(&state, 0, 0);
    ousac_allocation a;
    ousac_regions_report report;
    (void)unused;
    e.worth_nothing_below = 3;
    solve(&e, 40, &a, &report);
    assert_true(isfinite(report.best));
    for (size_t k = 0; k < REGIONS; k++)
        assert_true(report.rank[k] >= 3);
    ousac_allocation_free(&a);
}

static void bad_options_and_evaluators_are_errors(void **unused) {
    uint64_t state = 5;
    evaluator e = random_evaluator(&state, 0, 0);
    ousac_regions_options options = {.rank_min = 1, .evaluate = evaluate, .self = &e};
    ousac_allocation a;
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(ousac_allocate_regions(&arch, ousac_cost_reuse(&arch), &options, &a, NULL, &error),
                     OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "rank 1 everywhere"));
    assert_null(a.rank);
    options.regions = OUSAC_REGIONS_MAX + 1;
    assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, NULL, &error), OUSAC_STATUS_USAGE);
    options.regions = 0;
    options.rank_max = 3;
    options.rank_min = 4;
    assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, NULL, &error), OUSAC_STATUS_USAGE);
    options.rank_min = 1;
    e.weight[1] = NAN;
    assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, NULL, &error),
                     OUSAC_STATUS_NUMBER);
    e.weight[1] = 1;
    options.rank_max = 0;
    for (size_t at = 0; at < 3; at++) {
        e.calls = 0;
        e.fail_at = at;
        assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, NULL, &error),
                         OUSAC_STATUS_INTERRUPTED);
        assert_null(a.rank);
    }
    e.fail_at = SIZE_MAX;
    for (long allowed = 0; allowed < 3; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        assert_int_equal(ousac_allocate_regions(&arch, e.budget, &options, &a, NULL, &error),
                         OUSAC_STATUS_MEMORY);
        (void)ousac_memory_fail_after(-1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(separable_problems_are_solved),
        cmocka_unit_test(regions_that_interact_are_solved_nearly),
        cmocka_unit_test(noise_does_not_lead_astray),
        cmocka_unit_test(the_same_problem_gives_the_same_plan),
        cmocka_unit_test(it_starts_from_uniform),
        cmocka_unit_test(useless_plans_are_avoided),
        cmocka_unit_test(bad_options_and_evaluators_are_errors),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
