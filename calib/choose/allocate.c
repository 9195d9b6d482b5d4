#include "calib/choose/allocate.h"

#include "calib/choose/knapsack.h"
#include "calib/spectra/factors.h"
#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define NODE_LIMIT_DEFAULT 10000000U
/* A site's list of ranks; beyond it the granularity is too fine for the shape. */
enum { SITE_OPTIONS_MAX = 1 << 20 };

void ousac_allocation_free(ousac_allocation *allocation) {
    if (allocation == NULL)
        return;
    ousac_free(allocation->rank);
    memset(allocation, 0, sizeof *allocation);
}

double ousac_allocate_error(const ousac_arch *arch, const ousac_curve *curves, const ousac_ranks *ranks) {
    double sum = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_path path = ousac_cost_path(arch, s, ranks);
        if (path != OUSAC_PATH_DENSE)
            sum += curves[s].weight * ousac_spectrum_tail(curves[s].lambda, curves[s].count,
                                                          path == OUSAC_PATH_LOW_RANK ? ranks->rank[s] : 0);
    }
    return sum;
}

/* --- the curves, summed once --- */

typedef struct site_curve {
    const ousac_curve *curve;
    double *tail;       /* count + 1: weight * error(r) */
    size_t dense;       /* dense rank */
    uint64_t rank_macs; /* per unit of rank */
    uint64_t dense_macs;
} site_curve;

typedef struct model {
    const ousac_arch *arch;
    site_curve *sites; /* site_count */
    double *tails;     /* the memory of all tails */
} model;

static void model_free(model *m) {
    ousac_free(m->sites);
    ousac_free(m->tails);
    memset(m, 0, sizeof *m);
}

static ousac_status check_curve(const ousac_arch *arch, size_t site, const ousac_curve *curve,
                                ousac_error *error) {
    if (!isfinite(curve->weight) || curve->weight < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "site %s: weight %g: expected a finite number, at least 0", arch->sites[site].name,
                          curve->weight);
    for (size_t i = 0; i < curve->count; i++)
        if (!isfinite(curve->lambda[i]) || curve->lambda[i] < 0 ||
            (i > 0 && curve->lambda[i] > curve->lambda[i - 1]))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_NUMBER,
                "site %s: spectrum value %zu is %g: expected finite, falling values, at least 0",
                arch->sites[site].name, i, curve->lambda[i]);
    return OUSAC_STATUS_OK;
}

static ousac_status model_create(model *m, const ousac_arch *arch, const ousac_curve *curves,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    size_t total = 0;
    memset(m, 0, sizeof *m);
    m->arch = arch;
    for (size_t s = 0; s < arch->site_count; s++) {
        status = check_curve(arch, s, &curves[s], error);
        if (status != OUSAC_STATUS_OK)
            goto done;
        total += curves[s].count + 1;
    }
    m->sites = ousac_calloc(arch->site_count, sizeof *m->sites);
    m->tails = ousac_malloc(total, sizeof *m->tails);
    if (m->sites == NULL || m->tails == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the spectra of %zu sites",
                            arch->site_count);
        goto done;
    }
    total = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        site_curve *site = &m->sites[s];
        double sum = 0;
        site->curve = &curves[s];
        site->tail = m->tails + total;
        total += curves[s].count + 1;
        /* From the smallest, as ousac_spectrum_tail sums. */
        site->tail[curves[s].count] = 0;
        for (size_t i = curves[s].count; i > 0; i--) {
            sum += curves[s].lambda[i - 1];
            site->tail[i - 1] = curves[s].weight * sum;
        }
        if (!isfinite(site->tail[0])) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "site %s: its weighted error is not finite",
                                arch->sites[s].name);
            goto done;
        }
        site->dense = ousac_cost_dense_rank(&arch->sites[s]);
        site->rank_macs = ousac_arch_site_tokens(arch, s) * (uint64_t)(arch->sites[s].m + arch->sites[s].n);
        site->dense_macs = ousac_cost_site_full(arch, s);
    }
done:
    if (status != OUSAC_STATUS_OK)
        model_free(m);
    return status;
}

static double tail_at(const site_curve *site, size_t rank) {
    return rank >= site->dense || rank >= site->curve->count ? 0.0 : site->tail[rank];
}

static uint64_t macs_at(const site_curve *site, size_t rank) {
    return rank >= site->dense ? site->dense_macs : (uint64_t)rank * site->rank_macs;
}

/* --- the bound --- */

/* A value of the relaxed problem, and the cost at which it stands. */
typedef struct priced {
    double value, size; /* size: sum of magnitudes, which bounds the rounding error */
    double cost;
} priced;

/* Cheapest of error + price * cost over the ranks >= 1, or over all ranks. The error is convex in the rank
 * below the dense one: rank i + 1 pays while weight * lambda[i] exceeds its price. */
static priced price_site(const site_curve *site, double price, int allow_zero) {
    const double step = price * (double)site->rank_macs;
    size_t low = 0, high = site->curve->count;
    if (high > site->dense - 1)
        high = site->dense - 1;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (site->curve->weight * site->curve->lambda[middle] > step)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 && !allow_zero)
        low = 1;
    priced best = {.cost = (double)macs_at(site, low)};
    best.value = tail_at(site, low) + price * best.cost;
    const double dense = price * (double)site->dense_macs;
    if (dense < best.value) {
        best.value = dense;
        best.cost = (double)site->dense_macs;
    }
    best.size = best.value;
    return best;
}

/* One module: off, or live with a rank > 0 in every stage. */
static priced price_module(const model *m, size_t index, double price) {
    const ousac_module *module = &m->arch->modules[index];
    priced live = {.cost = (double)module->fixed_macs};
    priced off = {0};
    live.value = live.size = price * live.cost;
    for (size_t s = module->first_site; s < module->first_site + module->site_count;) {
        const size_t stage = m->arch->sites[s].stage;
        double least_extra = INFINITY, least_cost = 0;
        int has_rank = 0;
        for (; s < module->first_site + module->site_count && m->arch->sites[s].stage == stage; s++) {
            const priced free_choice = price_site(&m->sites[s], price, 1);
            off.value += tail_at(&m->sites[s], 0);
            live.value += free_choice.value;
            live.cost += free_choice.cost;
            live.size += free_choice.size;
            if (free_choice.cost > 0) {
                has_rank = 1;
                continue;
            }
            const priced ranked = price_site(&m->sites[s], price, 0);
            if (ranked.value - free_choice.value < least_extra) {
                least_extra = ranked.value - free_choice.value;
                least_cost = ranked.cost;
            }
        }
        if (!has_rank) {
            live.value += least_extra;
            live.cost += least_cost;
        }
    }
    off.size = off.value;
    return off.value <= live.value ? off : live;
}

static priced price_all(const model *m, double price, uint64_t budget) {
    priced sum = {.cost = (double)m->arch->other_macs};
    const double room = (double)budget - (double)m->arch->other_macs;
    for (size_t i = 0; i < m->arch->module_count; i++) {
        const priced part = price_module(m, i, price);
        sum.value += part.value;
        sum.cost += part.cost;
        sum.size += part.size;
    }
    sum.value -= price * room;
    sum.size += price * room;
    return sum;
}

/* The Lagrangian dual over all plans of whole ranks, modules free to stop: max over price >= 0 of a concave
 * function, by bisection on the sign of its slope, cost - budget. Lowered by its own rounding error, so that
 * it stays a bound. */
static double dual_bound(const model *m, uint64_t budget) {
    double low = 0, high = 0, best = 0;
    for (size_t s = 0; s < m->arch->site_count; s++)
        high += 2 * tail_at(&m->sites[s], 0);
    for (int i = 0; i < 200 && high > 0; i++) {
        const double middle = low > 0.25 * high ? 0.5 * (low + high)
                              : low > 0         ? sqrt(low) * sqrt(high)
                                                : high * 1e-6;
        const priced at = price_all(m, middle, budget);
        best = fmax(best, at.value - 4 * DBL_EPSILON * (double)(m->arch->site_count + 16) * at.size);
        if (at.cost > (double)budget)
            low = middle;
        else
            high = middle;
        if (high - low <= 4 * DBL_EPSILON * high)
            break;
    }
    return best;
}

/* --- what is common to all allocations --- */

static ousac_status refuse_budget(const ousac_arch *arch, uint64_t budget, uint64_t floor_macs,
                                  ousac_error *error) {
    const double full = (double)ousac_cost_full(arch);
    return OUSAC_FAIL(
        error, OUSAC_STATUS_USAGE,
        "budget of %llu MACs, %.4f of a full forward: expected at least %llu, %.4f of a full forward",
        (unsigned long long)budget, (double)budget / full, (unsigned long long)floor_macs,
        (double)floor_macs / full);
}

static void grade(ousac_allocation *allocation, const model *m, const ousac_curve *curves) {
    const ousac_ranks ranks = {.rank = allocation->rank, .dense_fallback = 1};
    allocation->error = ousac_allocate_error(m->arch, curves, &ranks);
    allocation->bound = fmin(dual_bound(m, allocation->budget), allocation->error);
    allocation->gap = allocation->error > 0 ? (allocation->error - allocation->bound) / allocation->error : 0;
}

ousac_status ousac_allocate_grade(const ousac_arch *arch, const ousac_curve *curves,
                                  ousac_allocation *allocation, ousac_error *error) {
    model m = {0};
    const ousac_status status = model_create(&m, arch, curves, error);
    if (status == OUSAC_STATUS_OK)
        grade(allocation, &m, curves);
    model_free(&m);
    return status;
}

/* --- uniform --- */

static void set_uniform(const ousac_arch *arch, size_t rank, size_t *target) {
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]);
        target[s] = rank < dense ? rank : dense;
    }
}

ousac_status ousac_allocate_uniform(const ousac_arch *arch, const ousac_curve *curves, uint64_t budget,
                                    ousac_allocation *allocation, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    model m = {0};
    size_t low = 0, high = 0;
    memset(allocation, 0, sizeof *allocation);
    if (budget < ousac_cost_reuse(arch))
        return refuse_budget(arch, budget, ousac_cost_reuse(arch), error);
    allocation->rank = ousac_calloc(arch->site_count, sizeof *allocation->rank);
    if (allocation->rank == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu ranks", arch->site_count);
        goto done;
    }
    const ousac_ranks ranks = {.rank = allocation->rank, .dense_fallback = 1};
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]);
        high = dense > high ? dense : high;
    }
    /* The cost never falls with the rank: r (m + n) < m n below the dense rank, and liveness only grows. */
    while (low < high) {
        const size_t middle = high - (high - low) / 2;
        set_uniform(arch, middle, allocation->rank);
        if (ousac_cost_cached(arch, &ranks) <= budget)
            low = middle;
        else
            high = middle - 1;
    }
    set_uniform(arch, low, allocation->rank);
    allocation->budget = budget;
    allocation->cost = ousac_cost_cached(arch, &ranks);
    if (allocation->cost > budget) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "uniform rank %zu exceeds its budget", low);
        goto done;
    }
    if (curves != NULL) {
        status = model_create(&m, arch, curves, error);
        if (status == OUSAC_STATUS_OK)
            grade(allocation, &m, curves);
    }
done:
    model_free(&m);
    if (status != OUSAC_STATUS_OK)
        ousac_allocation_free(allocation);
    return status;
}

/* --- the choices of one module --- */

/* The undominated plans of a module; state i has the ranks rank[i * sites ..]. */
typedef struct frontier {
    ousac_state *states;
    size_t *rank;
    size_t count;
} frontier;

static void frontier_free(frontier *f) {
    ousac_free(f->states);
    ousac_free(f->rank);
    memset(f, 0, sizeof *f);
}

/* Plans of the sites up to here. `zero` holds those whose current stage has only frozen sites so far. */
typedef struct growth {
    frontier live, zero;
} growth;

typedef struct site_options {
    size_t *rank; /* rising */
    size_t count;
} site_options;

/* The ranks from low to high: the bounds, and the multiples of the granularity between them. */
static void list_bounded(site_options *options, const site_curve *curve, size_t step, size_t low,
                         size_t high) {
    const size_t last = high < curve->dense ? high : curve->dense;
    options->rank[options->count++] = low < last ? low : last;
    for (size_t r = (low / step + 1) * step;
         r < last && tail_at(curve, options->rank[options->count - 1]) > 0; r += step)
        options->rank[options->count++] = r;
    if (low < last)
        options->rank[options->count++] = last;
}

static ousac_status list_options(site_options *options, const ousac_site *site, const site_curve *curve,
                                 const ousac_knapsack_options *how, size_t index, ousac_error *error) {
    const size_t step = how->granularity;
    size_t first = 0;
    memset(options, 0, sizeof *options);
    if (how->rank_min > 0)
        first = how->rank_min >= curve->dense ? curve->dense : ((how->rank_min - 1) / step + 1) * step;
    if (curve->dense / step > SITE_OPTIONS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "granularity %zu: too fine for site %s of %zu x %zu",
                          step, site->name, site->m, site->n);
    options->rank = ousac_malloc(curve->dense / step + 3, sizeof *options->rank);
    if (options->rank == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the ranks of site %s", site->name);
    if (how->low != NULL) {
        list_bounded(options, curve, step, how->low[index], how->high[index]);
        return OUSAC_STATUS_OK;
    }
    /* What lies beyond an error of 0 costs more for nothing. */
    size_t last = SIZE_MAX;
    for (size_t r = first; r < curve->dense && (last == SIZE_MAX || last == 0 || tail_at(curve, last) > 0);
         r = step < curve->dense - r ? r + step : curve->dense) {
        options->rank[options->count++] = r;
        last = r;
    }
    if (last == SIZE_MAX || last == 0 || tail_at(curve, last) > 0)
        options->rank[options->count++] = curve->dense;
    return OUSAC_STATUS_OK;
}

/* Copies a Pareto list out, with the ranks of its parents (first those of a, then those of b) and one more.
 */
static ousac_status collect(frontier *out, const ousac_pareto *list, const frontier *a, const frontier *b,
                            const size_t *choice_rank, size_t sites, size_t done_sites, ousac_error *error) {
    memset(out, 0, sizeof *out);
    out->states = ousac_malloc(list->count, sizeof *out->states);
    out->rank = sites != 0 && list->count > SIZE_MAX / sites
                    ? NULL
                    : ousac_calloc(list->count * sites, sizeof *out->rank);
    if (out->states == NULL || out->rank == NULL) {
        frontier_free(out);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu plans of a module", list->count);
    }
    out->count = list->count;
    if (list->count > 0)
        memcpy(out->states, list->states, list->count * sizeof *list->states);
    for (size_t i = 0; i < list->count; i++) {
        const size_t parent = list->states[i].parent;
        const size_t *source =
            parent < a->count ? a->rank + parent * sites : b->rank + (parent - a->count) * sites;
        memcpy(out->rank + i * sites, source, done_sites * sizeof *source);
        out->rank[i * sites + done_sites] = choice_rank[list->states[i].choice];
    }
    return OUSAC_STATUS_OK;
}

/* Adds one site: live plans take any of its ranks, plans whose stage is frozen become live with a rank > 0.
 */
static ousac_status grow(growth *g, const site_curve *curve, const site_options *options, size_t sites,
                         size_t done_sites, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_pareto list = {0};
    growth next = {{0}, {0}};
    const int may_freeze = options->rank[0] == 0;
    if (g->live.count + g->zero.count > UINT32_MAX / 2) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "too many plans of one module: expected a coarser granularity");
        goto done;
    }
    for (size_t j = 0; j < options->count; j++) {
        const size_t rank = options->rank[j];
        const uint64_t macs = macs_at(curve, rank);
        const double left = tail_at(curve, rank);
        status = ousac_pareto_add(&list, g->live.states, g->live.count, 0, macs, left, (uint32_t)j, NULL,
                                  NULL, error);
        if (status == OUSAC_STATUS_OK && rank > 0)
            status = ousac_pareto_add(&list, g->zero.states, g->zero.count, (uint32_t)g->live.count, macs,
                                      left, (uint32_t)j, NULL, NULL, error);
        if (status != OUSAC_STATUS_OK)
            goto done;
    }
    status = collect(&next.live, &list, &g->live, &g->zero, options->rank, sites, done_sites, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (may_freeze) {
        list.count = 0;
        status = ousac_pareto_add(&list, g->zero.states, g->zero.count, 0, 0, tail_at(curve, 0), 0, NULL,
                                  NULL, error);
        if (status == OUSAC_STATUS_OK)
            status = collect(&next.zero, &list, &g->zero, &g->zero, options->rank, sites, done_sites, error);
        if (status != OUSAC_STATUS_OK)
            goto done;
    }
    frontier_free(&g->live);
    frontier_free(&g->zero);
    *g = next;
    memset(&next, 0, sizeof next);
done:
    frontier_free(&next.live);
    frontier_free(&next.zero);
    ousac_pareto_free(&list);
    return status;
}

/* The plan that switches the module off, where it may be. */
static ousac_status add_off(frontier *f, const model *m, const ousac_module *module, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_pareto list = {0};
    frontier out = {0};
    const frontier off = {.states = NULL, .rank = NULL, .count = 1};
    ousac_state state = {0, 0.0, 0, 0};
    const size_t sites = module->site_count;
    for (size_t s = module->first_site; s < module->first_site + sites; s++)
        state.error += tail_at(&m->sites[s], 0);
    status = ousac_pareto_add(&list, &state, 1, 0, 0, 0.0, 0, NULL, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_pareto_add(&list, f->states, f->count, 1, 0, 0.0, 0, NULL, NULL, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    out.states = ousac_malloc(list.count, sizeof *out.states);
    out.rank = ousac_calloc(list.count * sites, sizeof *out.rank);
    if (out.states == NULL || out.rank == NULL) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu plans of %s", list.count, module->name);
        goto done;
    }
    out.count = list.count;
    memcpy(out.states, list.states, list.count * sizeof *list.states);
    for (size_t i = 0; i < list.count; i++)
        if (list.states[i].parent >= off.count)
            memcpy(out.rank + i * sites, f->rank + (list.states[i].parent - off.count) * sites,
                   sites * sizeof *out.rank);
    frontier_free(f);
    *f = out;
    memset(&out, 0, sizeof out);
done:
    frontier_free(&out);
    ousac_pareto_free(&list);
    return status;
}

static ousac_status build_frontier(frontier *out, const model *m, size_t index,
                                   const ousac_knapsack_options *how, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_module *module = &m->arch->modules[index];
    growth g = {{0}, {0}};
    site_options options = {0};
    memset(out, 0, sizeof *out);
    g.live.states = ousac_calloc(1, sizeof *g.live.states);
    g.live.rank = ousac_calloc(module->site_count, sizeof *g.live.rank);
    if (g.live.states == NULL || g.live.rank == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the plans of %s", module->name);
        goto done;
    }
    g.live.count = 1;
    g.live.states[0].cost = module->fixed_macs;
    for (size_t i = 0; i < module->site_count; i++) {
        const size_t s = module->first_site + i;
        if (i == 0 || m->arch->sites[s].stage != m->arch->sites[s - 1].stage) {
            /* A new stage: what is live so far has nothing in it yet. */
            frontier_free(&g.zero);
            g.zero = g.live;
            memset(&g.live, 0, sizeof g.live);
        }
        status = list_options(&options, &m->arch->sites[s], &m->sites[s], how, s, error);
        if (status == OUSAC_STATUS_OK)
            status = grow(&g, &m->sites[s], &options, module->site_count, i, error);
        ousac_free(options.rank);
        options.rank = NULL;
        if (status != OUSAC_STATUS_OK)
            goto done;
    }
    if (how->modules_may_stop)
        status = add_off(&g.live, m, module, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    *out = g.live;
    memset(&g.live, 0, sizeof g.live);
done:
    frontier_free(&g.live);
    frontier_free(&g.zero);
    return status;
}

/* --- the knapsack --- */

ousac_status ousac_allocate_knapsack(const ousac_arch *arch, const ousac_curve *curves, uint64_t budget,
                                     const ousac_knapsack_options *options, ousac_allocation *allocation,
                                     ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    model m = {0};
    frontier *frontiers = NULL;
    ousac_choices *classes = NULL;
    ousac_knapsack_solution solution = {0};
    uint64_t floor_macs = arch->other_macs;
    memset(allocation, 0, sizeof *allocation);
    if (options->granularity == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "granularity 0: expected at least 1");
    for (size_t s = 0; options->low != NULL && s < arch->site_count; s++)
        if (options->high == NULL || options->low[s] > options->high[s])
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "site %s: expected bounds of its rank, low <= high",
                              arch->sites[s].name);
    status = model_create(&m, arch, curves, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    frontiers = ousac_calloc(arch->module_count, sizeof *frontiers);
    classes = ousac_calloc(arch->module_count, sizeof *classes);
    solution.chosen = ousac_calloc(arch->module_count, sizeof *solution.chosen);
    allocation->rank = ousac_calloc(arch->site_count, sizeof *allocation->rank);
    if (frontiers == NULL || classes == NULL || solution.chosen == NULL || allocation->rank == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an allocation of %zu modules",
                            arch->module_count);
        goto done;
    }
    for (size_t i = 0; i < arch->module_count; i++) {
        status = build_frontier(&frontiers[i], &m, i, options, error);
        if (status != OUSAC_STATUS_OK)
            goto done;
        classes[i] = (ousac_choices){frontiers[i].states, frontiers[i].count};
        floor_macs += frontiers[i].states[0].cost;
    }
    if (budget < floor_macs) {
        status = refuse_budget(arch, budget, floor_macs, error);
        goto done;
    }
    status = ousac_knapsack_solve(classes, arch->module_count, budget - arch->other_macs,
                                  options->node_limit == 0 ? NODE_LIMIT_DEFAULT : options->node_limit,
                                  &solution, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < arch->module_count; i++) {
        const ousac_module *module = &arch->modules[i];
        memcpy(allocation->rank + module->first_site,
               frontiers[i].rank + solution.chosen[i] * module->site_count,
               module->site_count * sizeof *allocation->rank);
    }
    const ousac_ranks ranks = {.rank = allocation->rank, .dense_fallback = 1};
    allocation->budget = budget;
    allocation->cost = ousac_cost_cached(arch, &ranks);
    allocation->exact = solution.exact;
    allocation->nodes = solution.nodes;
    if (allocation->cost != solution.cost + arch->other_macs || allocation->cost > budget) {
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_INTERNAL, "allocation: the cost model gives %llu MACs: expected %llu",
            (unsigned long long)allocation->cost, (unsigned long long)(solution.cost + arch->other_macs));
        goto done;
    }
    grade(allocation, &m, curves);
done:
    if (frontiers != NULL)
        for (size_t i = 0; i < arch->module_count; i++)
            frontier_free(&frontiers[i]);
    ousac_free(frontiers);
    ousac_free(classes);
    ousac_free(solution.chosen);
    model_free(&m);
    if (status != OUSAC_STATUS_OK)
        ousac_allocation_free(allocation);
    return status;
}
