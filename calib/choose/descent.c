#include "calib/choose/descent.h"

#include "calib/cost.h"
#include "calib/spectra/factors.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

/* A probe takes this part off the ranks of its class: enough to stand out, little enough to stay in context.
 */
#define PROBE_PART 0.3
/* A trust region smaller than this is given up. */
#define TRUST_LEAST 0.1

typedef struct search {
    const ousac_arch *arch;
    const ousac_descent_options *options;
    uint64_t budget;
    size_t regions, class_count, evaluations, evaluations_max;
    size_t *class_of;    /* per site */
    double *energy;      /* per site: tail(0) */
    size_t *rank;        /* the present plan */
    size_t *trial;       /* scratch */
    size_t *low, *high;  /* the trust region */
    ousac_curve *curves; /* weighted by the model */
    double *gain;        /* per class */
    double start, value; /* E of the start and of the present plan */
    double predicted;
} search;

static double tail(const search *s, size_t site, size_t rank) {
    const ousac_curve *c = &s->options->curves[site];
    if (rank >= ousac_cost_dense_rank(&s->arch->sites[site]) || !(s->energy[site] > 0))
        return 0;
    return ousac_spectrum_tail(c->lambda, c->count, rank) / s->energy[site];
}

static uint64_t cost_of(const search *s, const size_t *rank) {
    return ousac_cost_cached(s->arch, &(ousac_ranks){.rank = rank, .dense_fallback = 1});
}

static ousac_status evaluate(search *s, const size_t *rank, double *value, ousac_error *error) {
    const ousac_status status = s->options->evaluate(s->options->self, rank, value, error);
    s->evaluations++;
    if (!status && isnan(*value))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "evaluation %zu of a plan gave no number",
                          s->evaluations);
    return status;
}

/* Classes: kind of group x region among the groups of its kind. */
static ousac_status classify(search *s, ousac_error *error) {
    const ousac_arch *arch = s->arch;
    size_t *kind = ousac_malloc(arch->group_count, sizeof *kind);
    size_t *region = ousac_malloc(arch->group_count, sizeof *region);
    if (kind && region) {
        s->class_count = ousac_arch_kinds(arch, s->regions, kind, region) * s->regions;
        s->gain = ousac_calloc(s->class_count, sizeof *s->gain);
        for (size_t i = 0; i < arch->site_count; i++)
            s->class_of[i] = kind[arch->sites[i].group] * s->regions + region[arch->sites[i].group];
    }
    ousac_free(kind);
    ousac_free(region);
    return s->gain ? OUSAC_STATUS_OK
                   : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the classes of %zu groups",
                                arch->group_count);
}

/* The ranks of one class lowered; 0 where that changes nothing that the curves see. */
static double lower_class(const search *s, size_t class, size_t *rank) {
    double change = 0;
    memcpy(rank, s->rank, s->arch->site_count * sizeof *rank);
    for (size_t i = 0; i < s->arch->site_count; i++) {
        if (s->class_of[i] != class || s->rank[i] < 2)
            continue;
        const size_t by = (size_t)ceil(PROBE_PART * (double)s->rank[i]);
        rank[i] = s->rank[i] - by;
        change += tail(s, i, rank[i]) - tail(s, i, s->rank[i]);
    }
    return change;
}

/* One probe per class; a class that cannot be lowered, or whose loss does not show, weighs nothing. */
static ousac_status probe(search *s, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t c = 0; c < s->class_count && !status; c++) {
        double value = 0;
        const double change = lower_class(s, c, s->trial);
        s->gain[c] = 0;
        if (!(change > 0))
            continue;
        status = evaluate(s, s->trial, &value, error);
        const double more = value * value - s->value * s->value;
        if (!status && more > 0 && isfinite(more))
            s->gain[c] = more / change;
    }
    return status;
}

/* The knapsack under the model within the trust region; *changed = 0 where it proposes the present plan. */
static ousac_status propose(search *s, double trust, ousac_allocation *proposal, int *changed,
                            ousac_error *error) {
    const double scale = s->start > 0 ? s->start * s->start : 1;
    const ousac_knapsack_options how = {
        .granularity = s->options->granularity, .low = s->low, .high = s->high};
    for (size_t i = 0; i < s->arch->site_count; i++) {
        const double r = (double)s->rank[i];
        const double weight = s->energy[i] > 0 ? s->gain[s->class_of[i]] / (scale * s->energy[i]) : 0;
        s->low[i] = (size_t)ceil(r / (1 + trust));
        s->high[i] = (size_t)floor(r * (1 + trust));
        s->curves[i] = s->options->curves[i];
        s->curves[i].weight = isfinite(weight) ? weight : 0;
    }
    const ousac_status status = ousac_allocate_knapsack(s->arch, s->curves, s->budget, &how, proposal, error);
    if (status)
        return status;
    *changed = memcmp(proposal->rank, s->rank, s->arch->site_count * sizeof *s->rank) != 0;
    double square = s->value * s->value;
    for (size_t i = 0; i < s->arch->site_count; i++)
        square += s->gain[s->class_of[i]] * (tail(s, i, proposal->rank[i]) - tail(s, i, s->rank[i]));
    s->predicted = sqrt(square > 0 ? square : 0);
    return OUSAC_STATUS_OK;
}

static ousac_status descend(search *s, ousac_allocation *best, ousac_descent_report *report,
                            ousac_error *error) {
    double trust = s->options->trust > 0 ? s->options->trust : 1;
    int stale = 1; /* the model is of an earlier plan */
    ousac_status status = OUSAC_STATUS_OK;
    while (trust >= TRUST_LEAST) {
        ousac_allocation proposal = {0};
        double value = 0;
        int changed = 0;
        if (s->evaluations + (stale ? s->class_count : 0) >= s->evaluations_max)
            return OUSAC_STATUS_OK;
        if (stale) {
            if ((status = probe(s, error)))
                return status;
            report->rounds++;
            stale = 0;
        }
        if ((status = propose(s, trust, &proposal, &changed, error)))
            return status;
        if (changed)
            status = evaluate(s, proposal.rank, &value, error);
        if (status) {
            ousac_allocation_free(&proposal);
            return status;
        }
        if (changed && value < s->value) {
            memcpy(s->rank, proposal.rank, s->arch->site_count * sizeof *s->rank);
            s->value = value;
            report->predicted = s->predicted;
            ousac_allocation_free(best);
            *best = proposal;
            stale = 1;
        } else {
            ousac_allocation_free(&proposal);
            trust /= 2;
        }
    }
    report->converged = 1;
    return OUSAC_STATUS_OK;
}

static ousac_status prepare(search *s, ousac_error *error) {
    const ousac_descent_options *o = s->options;
    const size_t sites = s->arch->site_count;
    s->regions = o->regions ? o->regions : OUSAC_REGIONS_DEFAULT;
    if (s->regions > OUSAC_REGIONS_MAX || o->granularity == 0 || o->evaluate == NULL || o->curves == NULL ||
        o->start == NULL || !(o->trust >= 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected 1 to %d regions, a granularity, curves, a start and an evaluator",
                          OUSAC_REGIONS_MAX);
    if (s->regions > s->arch->block_count)
        s->regions = s->arch->block_count;
    s->evaluations_max = o->evaluations_max ? o->evaluations_max : OUSAC_REGIONS_EVALUATIONS;
    s->class_of = ousac_calloc(sites, sizeof *s->class_of);
    s->energy = ousac_calloc(sites, sizeof *s->energy);
    s->rank = ousac_calloc(sites, sizeof *s->rank);
    s->trial = ousac_calloc(sites, sizeof *s->trial);
    s->low = ousac_calloc(sites, sizeof *s->low);
    s->high = ousac_calloc(sites, sizeof *s->high);
    s->curves = ousac_calloc(sites, sizeof *s->curves);
    if (!s->class_of || !s->energy || !s->rank || !s->trial || !s->low || !s->high || !s->curves)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the ranks of %zu sites", sites);
    memcpy(s->rank, o->start, sites * sizeof *s->rank);
    for (size_t i = 0; i < sites; i++)
        s->energy[i] = ousac_spectrum_tail(o->curves[i].lambda, o->curves[i].count, 0);
    if (cost_of(s, s->rank) > s->budget)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "the start costs %llu MACs a cached forward; the budget is %llu",
                          (unsigned long long)cost_of(s, s->rank), (unsigned long long)s->budget);
    return classify(s, error);
}

ousac_status ousac_allocate_descent(const ousac_arch *arch, uint64_t budget,
                                    const ousac_descent_options *options, ousac_allocation *allocation,
                                    ousac_descent_report *report, ousac_error *error) {
    search s = {.arch = arch, .options = options, .budget = budget};
    ousac_descent_report told = {0};
    memset(allocation, 0, sizeof *allocation);
    ousac_status status = prepare(&s, error);
    if (!status)
        status = evaluate(&s, s.rank, &s.value, error);
    if (status)
        goto done;
    s.start = s.value;
    told.predicted = s.value;
    status = descend(&s, allocation, &told, error);
    if (status)
        goto done;
    if (allocation->rank == NULL) { /* nothing better than the start */
        allocation->rank = s.rank;
        s.rank = NULL;
        allocation->cost = cost_of(&s, allocation->rank);
        allocation->budget = budget;
    }
    told.classes = s.class_count;
    told.evaluations = s.evaluations;
    told.start = s.start;
    told.best = s.value;
    if (report != NULL)
        *report = told;
done:
    ousac_free(s.class_of);
    ousac_free(s.gain);
    ousac_free(s.energy);
    ousac_free(s.rank);
    ousac_free(s.trial);
    ousac_free(s.low);
    ousac_free(s.high);
    ousac_free(s.curves);
    if (status)
        ousac_allocation_free(allocation);
    return status;
}
