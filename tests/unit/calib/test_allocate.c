/* Rank allocation: plans against enumeration of every plan, certificates against the optimum, and the time
 * that a public model's size takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/choose/allocate.h"
#include "calib/choose/knapsack.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct instance {
    ousac_arch arch;
    ousac_curve *curves;
    double *lambda;
} instance;

/* Spectra that fall at a random pace; some are short, some all zero, some have equal values, some weigh
 * nothing. */
static void fill_curves(instance *p, uint64_t *state) {
    size_t total = 0;
    for (size_t s = 0; s < p->arch.site_count; s++)
        total += p->arch.sites[s].m < p->arch.sites[s].n ? p->arch.sites[s].m : p->arch.sites[s].n;
    p->curves = calloc(p->arch.site_count, sizeof *p->curves);
    p->lambda = calloc(total + 1, sizeof *p->lambda);
    double *next = p->lambda;
    for (size_t s = 0; s < p->arch.site_count; s++) {
        const size_t least =
            p->arch.sites[s].m < p->arch.sites[s].n ? p->arch.sites[s].m : p->arch.sites[s].n;
        const size_t kind = calib_below(state, 10);
        double value = kind == 0 ? 0 : pow(10, 4 * calib_uniform(state));
        p->curves[s] = (ousac_curve){next, least, kind == 1 ? 0.0 : 0.1 + calib_uniform(state)};
        if (kind == 2)
            p->curves[s].count = least / 2;
        for (size_t i = 0; i < p->curves[s].count; i++) {
            next[i] = value;
            value *= kind == 3 ? 1.0 : 0.2 + 0.79 * calib_uniform(state);
        }
        next += least;
    }
}

static void make_random(instance *p, uint64_t *state, size_t modules, size_t stages, size_t most) {
    calib_random_arch(&p->arch, state, modules, stages, most);
    assert_int_equal(ousac_arch_check(&p->arch, NULL), OUSAC_STATUS_OK);
    fill_curves(p, state);
}

static void free_instance(instance *p) {
    ousac_arch_free(&p->arch);
    free(p->curves), free(p->lambda);
}

/* --- an independent judge of plans --- */

/* Cost and error of a plan, written from the headers' definitions alone. */
static void judge(const instance *p, const size_t *rank, uint64_t *cost, double *error) {
    *cost = p->arch.other_macs;
    *error = 0;
    for (size_t i = 0; i < p->arch.module_count; i++) {
        const ousac_module *module = &p->arch.modules[i];
        int live = 1;
        for (size_t stage = 0; stage < module->stage_count; stage++) {
            int any = 0;
            for (size_t s = module->first_site; s < module->first_site + module->site_count; s++)
                any |= p->arch.sites[s].stage == stage && rank[s] > 0;
            live &= any;
        }
        if (live)
            *cost += module->fixed_macs;
        for (size_t s = module->first_site; s < module->first_site + module->site_count; s++) {
            const size_t m = p->arch.sites[s].m, n = p->arch.sites[s].n;
            const int dense = rank[s] * (m + n) >= m * n;
            if (live)
                *cost += p->arch.stream[0].tokens * (dense ? m * n : rank[s] * (m + n));
            if (!live || !dense)
                for (size_t k = live ? rank[s] : 0; k < p->curves[s].count; k++)
                    *error += p->curves[s].weight * p->curves[s].lambda[k];
        }
    }
}

static int is_live(const instance *p, size_t module, const size_t *rank) {
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    return ousac_cost_module_live(&p->arch, module, &ranks);
}

static size_t dense_rank_of(const ousac_site *site) {
    return (site->m * site->n + site->m + site->n - 1) / (site->m + site->n);
}

/* Whether a site may have this rank in a live module. */
static int is_allowed(const ousac_site *site, size_t rank, const ousac_knapsack_options *options) {
    size_t least =
        (options->rank_min + options->granularity - 1) / options->granularity * options->granularity;
    if (least > dense_rank_of(site))
        least = dense_rank_of(site);
    return (rank % options->granularity == 0 || rank == dense_rank_of(site)) && rank >= least;
}

/* Least error over every plan within the budget, by enumeration; INFINITY where there is none. *least_cost:
 * of any. */
static double enumerate(const instance *p, uint64_t budget, const ousac_knapsack_options *options,
                        uint64_t *least_cost) {
    size_t rank[32] = {0};
    double best = INFINITY;
    *least_cost = UINT64_MAX;
    for (;;) {
        int allowed = 1;
        for (size_t i = 0; i < p->arch.module_count && allowed; i++) {
            const ousac_module *module = &p->arch.modules[i];
            const int live = is_live(p, i, rank);
            allowed = live || options->modules_may_stop;
            for (size_t s = module->first_site; s < module->first_site + module->site_count && allowed; s++)
                allowed = live ? is_allowed(&p->arch.sites[s], rank[s], options) : rank[s] == 0;
        }
        if (allowed) {
            uint64_t cost;
            double error;
            judge(p, rank, &cost, &error);
            if (cost < *least_cost)
                *least_cost = cost;
            if (cost <= budget && error < best)
                best = error;
        }
        size_t s = 0;
        while (s < p->arch.site_count && rank[s] == dense_rank_of(&p->arch.sites[s]))
            rank[s++] = 0;
        if (s == p->arch.site_count)
            return best;
        rank[s]++;
    }
}

static void check_plan(const instance *p, const ousac_allocation *a, uint64_t budget) {
    uint64_t cost;
    double error;
    judge(p, a->rank, &cost, &error);
    assert_true(a->cost == cost && a->budget == budget && cost <= budget);
    assert_true(fabs(a->error - error) <= 1e-12 * error);
    assert_true(a->bound >= 0 && a->bound <= a->error);
    assert_true(fabs(a->gap - (error > 0 ? (a->error - a->bound) / a->error : 0)) < 1e-12);
    for (size_t s = 0; s < p->arch.site_count; s++)
        assert_true(a->rank[s] <= dense_rank_of(&p->arch.sites[s]));
}

/* --- against enumeration --- */

static void the_knapsack_finds_the_optimum(void **unused) {
    size_t floors = 0, exact_ties = 0;
    (void)unused;
    for (uint64_t seed = 0; seed < 400; seed++) {
        instance p;
        uint64_t state = seed, least_cost;
        const size_t modules = 1 + seed % 3, stages = modules == 3 ? 1 : 1 + seed / 3 % 2;
        make_random(&p, &state, modules, stages, modules * stages > 2 ? 5 : 8);
        if (p.arch.site_count > 6) {
            free_instance(&p);
            continue;
        }
        const ousac_knapsack_options options = {.granularity = 1 + calib_below(&state, 3),
                                                .rank_min = seed % 4 == 0 ? calib_below(&state, 3) : 0,
                                                .modules_may_stop = seed % 5 != 0};
        const ousac_knapsack_options free_options = {.granularity = 1, .modules_may_stop = 1};
        const uint64_t budget = (uint64_t)(calib_uniform(&state) * 1.1 * (double)ousac_cost_full(&p.arch));
        const double best = enumerate(&p, budget, &options, &least_cost);
        ousac_allocation a;
        ousac_error error = {0};
        const ousac_status status = ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, &error);
        if (budget < least_cost) {
            assert_int_equal(status, OUSAC_STATUS_USAGE);
            assert_non_null(strstr(error.message, "full forward"));
            assert_null(a.rank);
            floors++;
        } else {
            uint64_t any_cost;
            assert_int_equal(status, OUSAC_STATUS_OK);
            check_plan(&p, &a, budget);
            if (!(fabs(a.error - best) <= 1e-11 * best + 1e-300))
                fail_msg("seed %d: error %.15g, optimum %.15g", (int)seed, a.error, best);
            assert_int_equal(a.exact, 1);
            /* The certificate covers plans of any granularity. */
            assert_true(a.bound <= enumerate(&p, budget, &free_options, &any_cost) * (1 + 1e-12));
            for (size_t i = 0; i < p.arch.module_count; i++)
                assert_true(options.modules_may_stop || is_live(&p, i, a.rank));
            exact_ties += a.nodes == 0;
        }
        ousac_allocation_free(&a);
        free_instance(&p);
    }
    assert_true(floors > 20 && floors < 200);
    assert_true(exact_ties < 250); /* most instances needed the exact finish */
}

static void uniform_is_the_largest_rank_that_fits(void **unused) {
    (void)unused;
    for (uint64_t seed = 0; seed < 300; seed++) {
        instance p;
        uint64_t state = 1000 + seed, cost, least_cost;
        double error, best_error = 0;
        make_random(&p, &state, 1 + seed % 4, 1 + seed % 2, 9);
        const uint64_t budget = (uint64_t)(calib_uniform(&state) * 1.1 * (double)ousac_cost_full(&p.arch));
        const ousac_knapsack_options free_options = {.granularity = 1, .modules_may_stop = 1};
        ousac_allocation a;
        const ousac_status status = ousac_allocate_uniform(&p.arch, p.curves, budget, &a, NULL);
        if (budget < p.arch.other_macs) {
            assert_int_equal(status, OUSAC_STATUS_USAGE);
            free_instance(&p);
            continue;
        }
        assert_int_equal(status, OUSAC_STATUS_OK);
        check_plan(&p, &a, budget);
        size_t expected[32], best[32] = {0};
        for (size_t r = 0; r < 12; r++) {
            for (size_t s = 0; s < p.arch.site_count; s++)
                expected[s] = r < dense_rank_of(&p.arch.sites[s]) ? r : dense_rank_of(&p.arch.sites[s]);
            judge(&p, expected, &cost, &error);
            if (cost <= budget) {
                memcpy(best, expected, sizeof best);
                best_error = error;
            }
        }
        assert_memory_equal(a.rank, best, p.arch.site_count * sizeof *best);
        assert_true(fabs(a.error - best_error) <= 1e-12 * best_error);
        if (p.arch.site_count <= 4)
            assert_true(a.bound <= enumerate(&p, budget, &free_options, &least_cost) * (1 + 1e-12));
        ousac_allocation_free(&a);
        assert_int_equal(ousac_allocate_uniform(&p.arch, NULL, budget, &a, NULL), OUSAC_STATUS_OK);
        assert_memory_equal(a.rank, best, p.arch.site_count * sizeof *best);
        assert_true(a.error == 0 && a.bound == 0 && a.gap == 0);
        ousac_allocation_free(&a);
        free_instance(&p);
    }
}

static void more_budget_is_never_worse(void **unused) {
    (void)unused;
    for (uint64_t seed = 0; seed < 20; seed++) {
        instance p;
        uint64_t state = 2000 + seed;
        double before = INFINITY;
        make_random(&p, &state, 5, 2, 12);
        const ousac_knapsack_options options = {.granularity = 2, .modules_may_stop = 1};
        const uint64_t full = ousac_cost_full(&p.arch);
        for (uint64_t step = 0; step <= 20; step++) {
            ousac_allocation a;
            const uint64_t budget = p.arch.other_macs + (full - p.arch.other_macs) * step / 20;
            assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, NULL),
                             OUSAC_STATUS_OK);
            check_plan(&p, &a, budget);
            assert_int_equal(a.exact, 1);
            assert_true(a.error <= before * (1 + 1e-12));
            before = a.error;
            ousac_allocation_free(&a);
        }
        assert_true(before == 0);
        free_instance(&p);
    }
}

/* Any plan at all, drawn at random, judged by the code under test and by the judge above. */
static void the_modelled_error_is_its_definition(void **unused) {
    (void)unused;
    for (uint64_t seed = 0; seed < 200; seed++) {
        instance p;
        uint64_t state = 3000 + seed, cost;
        double error;
        size_t rank[32];
        make_random(&p, &state, 3, 2, 10);
        for (size_t s = 0; s < p.arch.site_count; s++)
            rank[s] = calib_below(&state, 3) == 0 ? 0 : calib_below(&state, 12);
        const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
        judge(&p, rank, &cost, &error);
        assert_true(fabs(ousac_allocate_error(&p.arch, p.curves, &ranks) - error) <= 1e-12 * error);
        assert_true(ousac_cost_cached(&p.arch, &ranks) == cost);
        free_instance(&p);
    }
}

/* --- special cases --- */

static void make_dit(instance *p, size_t blocks, size_t tokens, size_t width, uint64_t seed) {
    uint64_t state = seed;
    size_t total = 0;
    assert_int_equal(ousac_arch_create_dit(&p->arch, blocks, tokens, width, 4 * width, NULL),
                     OUSAC_STATUS_OK);
    p->curves = calloc(p->arch.site_count, sizeof *p->curves);
    p->lambda = calloc(p->arch.site_count * width, sizeof *p->lambda);
    for (size_t s = 0; s < p->arch.site_count; s++, total += width) {
        /* A power law, a hundredfold difference between blocks. */
        const double scale = pow(10, 2 * calib_uniform(&state)), power = 0.8 + calib_uniform(&state);
        for (size_t i = 0; i < width; i++)
            p->lambda[total + i] = scale * pow((double)i + 1, -power);
        p->curves[s] = (ousac_curve){p->lambda + total, width, 0.5 + calib_uniform(&state)};
    }
}

static void a_full_budget_needs_no_error(void **unused) {
    instance p;
    ousac_allocation a;
    const ousac_knapsack_options options = {.granularity = 8, .modules_may_stop = 1};
    (void)unused;
    make_dit(&p, 3, 16, 24, 1);
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, ousac_cost_full(&p.arch), &options, &a, NULL),
                     OUSAC_STATUS_OK);
    assert_true(a.error == 0 && a.bound == 0 && a.gap == 0 && a.exact == 1);
    assert_true(a.cost == ousac_cost_full(&p.arch));
    ousac_allocation_free(&a);
    /* And the bare floor: everything off. */
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, p.arch.other_macs, &options, &a, NULL),
                     OUSAC_STATUS_OK);
    for (size_t s = 0; s < p.arch.site_count; s++)
        assert_int_equal(a.rank[s], 0);
    ousac_allocation_free(&a);
    ousac_allocation_free(&a);
    ousac_allocation_free(NULL);
    free_instance(&p);
}

static void a_module_that_does_not_change_is_switched_off(void **unused) {
    instance p;
    ousac_allocation a;
    ousac_knapsack_options options = {.granularity = 4, .modules_may_stop = 1};
    (void)unused;
    make_dit(&p, 2, 16, 24, 2);
    for (size_t s = 0; s < 4; s++)
        p.curves[s].weight = 0;
    const uint64_t budget = ousac_cost_full(&p.arch) / 2;
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, NULL), OUSAC_STATUS_OK);
    for (size_t s = 0; s < 4; s++)
        assert_int_equal(a.rank[s], 0);
    const double stopped = a.error;
    ousac_allocation_free(&a);
    options.modules_may_stop = 0;
    options.rank_min = 1;
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, NULL), OUSAC_STATUS_OK);
    for (size_t s = 0; s < 4; s++)
        assert_int_equal(a.rank[s], 4);
    assert_true(a.error > stopped);
    ousac_allocation_free(&a);
    free_instance(&p);
}

static void bad_arguments_are_refused(void **unused) {
    instance p;
    ousac_allocation a;
    ousac_error error = {0};
    ousac_knapsack_options options = {.granularity = 0, .modules_may_stop = 1};
    (void)unused;
    make_dit(&p, 1, 16, 8, 3);
    const uint64_t budget = ousac_cost_full(&p.arch);
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, &error),
                     OUSAC_STATUS_USAGE);
    options.granularity = 1;
    for (int i = 0; i < 6; i++) {
        const double lambda = p.lambda[3], weight = p.curves[0].weight;
        switch (i) {
        case 0:
            p.lambda[3] = NAN;
            break;
        case 1:
            p.lambda[3] = -1e-9;
            break;
        case 2:
            p.lambda[3] = INFINITY;
            break;
        case 3:
            p.lambda[3] = 1e9;
            break; /* not falling */
        case 4:
            p.curves[0].weight = -1;
            break;
        default:
            p.curves[0].weight = NAN;
            break;
        }
        assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, &error),
                         OUSAC_STATUS_NUMBER);
        assert_non_null(strstr(error.message, "blocks.0.attn.q"));
        assert_int_equal(ousac_allocate_uniform(&p.arch, p.curves, budget, &a, &error), OUSAC_STATUS_NUMBER);
        assert_null(a.rank);
        p.lambda[3] = lambda;
        p.curves[0].weight = weight;
    }
    assert_int_equal(ousac_allocate_uniform(&p.arch, p.curves, p.arch.other_macs - 1, &a, &error),
                     OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "of a full forward"));
    options.rank_min = 2;
    options.modules_may_stop = 0;
    assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, p.arch.other_macs, &options, &a, &error),
                     OUSAC_STATUS_USAGE);
    free_instance(&p);
}

static void every_failed_allocation_is_reported(void **unused) {
    instance p;
    long allowed = 0;
    uint64_t state = 9;
    const ousac_knapsack_options options = {.granularity = 1, .modules_may_stop = 1};
    (void)unused;
    make_random(&p, &state, 4, 2, 9);
    const uint64_t budget = ousac_cost_full(&p.arch) / 2;
    for (;; allowed++) {
        ousac_allocation a;
        ousac_memory_fail_after(allowed);
        const ousac_status status = ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, NULL);
        ousac_memory_fail_after(-1);
        if (status == OUSAC_STATUS_OK) {
            ousac_allocation_free(&a);
            break;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
        assert_null(a.rank);
    }
    assert_true(allowed > 30);
    for (long n = 0; n < 3; n++) {
        ousac_allocation a;
        ousac_memory_fail_after(n);
        assert_int_equal(ousac_allocate_uniform(&p.arch, p.curves, budget, &a, NULL), OUSAC_STATUS_MEMORY);
        ousac_memory_fail_after(-1);
    }
    free_instance(&p);
}

/* --- a hard knapsack, and a large one --- */

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The oracle fills a table over every budget. */
static void the_knapsack_agrees_with_a_table_over_budgets(void **unused) {
    enum { CLASSES = 12, CHOICES = 20, BUDGET = 400 };
    (void)unused;
    for (uint64_t seed = 0; seed < 200; seed++) {
        static ousac_state states[CLASSES][CHOICES];
        static double table[CLASSES + 1][BUDGET + 1];
        ousac_choices classes[CLASSES];
        size_t chosen[CLASSES];
        uint64_t state = 4000 + seed;
        for (size_t k = 0; k < CLASSES; k++) {
            double errors[CHOICES];
            uint64_t cost = calib_below(&state, 4);
            const size_t count = 1 + calib_below(&state, CHOICES);
            for (size_t j = 0; j < count; j++)
                errors[j] = seed % 2 ? calib_uniform(&state) : (double)(1 + calib_below(&state, 1000000));
            qsort(errors, count, sizeof *errors, compare_doubles);
            size_t kept = 0;
            for (size_t j = count; j > 0; j--) {
                if (kept > 0 && errors[j - 1] == states[k][kept - 1].error)
                    continue;
                states[k][kept++] = (ousac_state){cost, errors[j - 1], 0, 0};
                cost += 1 + calib_below(&state, 15);
            }
            classes[k] = (ousac_choices){states[k], kept};
        }
        for (size_t k = 0; k < CLASSES; k++)
            for (size_t b = 0; b <= BUDGET; b++) {
                table[k + 1][b] = INFINITY;
                for (size_t j = 0; j < classes[k].count && states[k][j].cost <= b; j++)
                    table[k + 1][b] =
                        fmin(table[k + 1][b], table[k][b - states[k][j].cost] + states[k][j].error);
            }
        for (size_t b = seed % 7; b <= BUDGET; b += 1 + seed % 37) {
            ousac_knapsack_solution solution = {.chosen = chosen};
            const ousac_status status =
                ousac_knapsack_solve(classes, CLASSES, b, UINT64_MAX, &solution, NULL);
            if (isinf(table[CLASSES][b])) {
                assert_int_equal(status, OUSAC_STATUS_USAGE);
                continue;
            }
            assert_int_equal(status, OUSAC_STATUS_OK);
            assert_true(solution.exact && solution.cost <= b);
            assert_true(fabs(solution.error - table[CLASSES][b]) <= 1e-11 * table[CLASSES][b]);
        }
    }
}

/* Errors that equal the savings: nothing distinguishes the choices but the fill of the budget. */
static void a_stopped_search_still_answers(void **unused) {
    enum { CLASSES = 24, CHOICES = 12 };
    static ousac_state states[CLASSES][CHOICES];
    ousac_choices classes[CLASSES];
    size_t chosen[CLASSES];
    uint64_t state = 10, total = 0;
    (void)unused;
    for (size_t k = 0; k < CLASSES; k++) {
        uint64_t cost = 0;
        for (size_t j = 0; j < CHOICES; j++) {
            states[k][j] = (ousac_state){cost, 2e9 - (double)cost, 0, 0};
            cost += 1 + 2 * calib_below(&state, 50000000);
        }
        classes[k] = (ousac_choices){states[k], CHOICES};
        total += states[k][CHOICES - 1].cost;
    }
    ousac_knapsack_solution solution = {.chosen = chosen};
    for (uint64_t limit = 1; limit <= 100000; limit *= 10) {
        assert_int_equal(ousac_knapsack_solve(classes, CLASSES, total / 2, limit, &solution, NULL),
                         OUSAC_STATUS_OK);
        uint64_t cost = 0;
        double error = 0;
        for (size_t k = 0; k < CLASSES; k++) {
            assert_true(chosen[k] < CHOICES);
            cost += states[k][chosen[k]].cost;
            error += states[k][chosen[k]].error;
        }
        assert_true(cost <= total / 2 && solution.cost == cost && solution.error == error);
        if (limit == 1)
            assert_true(!solution.exact && solution.nodes > 0);
    }
    assert_int_equal(ousac_knapsack_solve(classes, CLASSES, 0, 10, &solution, NULL), OUSAC_STATUS_OK);
    assert_true(solution.cost == 0);
}

static void dit_xl_2_is_solved_in_seconds(void **unused) {
    static const double fractions[] = {0.05, 0.10, 0.118, 0.2, 0.36, 0.7};
    static const size_t granularities[] = {8, 16, 1};
    instance p;
    (void)unused;
    make_dit(&p, 28, 256, 1152, 4);
    for (size_t g = 0; g < 3; g++)
        for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
            ousac_allocation a, flat;
            const ousac_knapsack_options options = {.granularity = granularities[g], .modules_may_stop = 1};
            const uint64_t budget = (uint64_t)(fractions[i] * (double)ousac_cost_full(&p.arch));
            const clock_t begin = clock();
            if (granularities[g] == 1 && i != 2)
                continue;
            assert_int_equal(ousac_allocate_knapsack(&p.arch, p.curves, budget, &options, &a, NULL),
                             OUSAC_STATUS_OK);
            const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
            check_plan(&p, &a, budget);
            assert_int_equal(ousac_allocate_uniform(&p.arch, p.curves, budget, &flat, NULL), OUSAC_STATUS_OK);
            assert_true(a.error <= flat.error);
            assert_true(fabs(a.bound - flat.bound) <= 1e-9 * a.bound);
            print_message(
                "granularity %zu, budget %.3f: error %.6g, gap %.2e, uniform %.6g, exact %d, %llu states, "
                "%.2f s\n",
                granularities[g], fractions[i], a.error, a.gap, flat.error, a.exact,
                (unsigned long long)a.nodes, seconds);
            /* The bound knows no granularity; without one only attention's fixed cost keeps it apart. */
            assert_true(a.gap < (granularities[g] == 1 ? 1e-3 : 0.1));
            assert_int_equal(a.exact, 1);
            assert_true(seconds < 30);
            ousac_allocation_free(&a);
            ousac_allocation_free(&flat);
        }
    free_instance(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_knapsack_finds_the_optimum),
        cmocka_unit_test(uniform_is_the_largest_rank_that_fits),
        cmocka_unit_test(more_budget_is_never_worse),
        cmocka_unit_test(the_modelled_error_is_its_definition),
        cmocka_unit_test(a_full_budget_needs_no_error),
        cmocka_unit_test(a_module_that_does_not_change_is_switched_off),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(the_knapsack_agrees_with_a_table_over_budgets),
        cmocka_unit_test(a_stopped_search_still_answers),
        cmocka_unit_test(dit_xl_2_is_solved_in_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
