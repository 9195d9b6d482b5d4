#include "calib/choose/regions.h"

#include "calib/cost.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

typedef struct point {
    size_t rank[OUSAC_REGIONS_MAX];
} point;

typedef struct search {
    const ousac_arch *arch;
    const ousac_regions_options *options;
    uint64_t budget;
    size_t regions, rank_min, rank_max, evaluations_max;
    size_t *rank;       /* per site, scratch */
    size_t *region;     /* per group */
    size_t *dense_rank; /* per site */
    point *seen;        /* (evaluations_max) */
    size_t seen_count;
    point best;
    double start, best_value;
} search;

/* The ranks of the sites, into the scratch; dense sites hold their dense rank. */
static void expand(search *s, const point *p) {
    for (size_t i = 0; i < s->arch->site_count; i++) {
        const size_t rank = p->rank[s->region[s->arch->sites[i].group]];
        s->rank[i] = rank < s->dense_rank[i] ? rank : s->dense_rank[i];
    }
}

static uint64_t cost_of(search *s, const point *p) {
    expand(s, p);
    return ousac_cost_cached(s->arch, &(ousac_ranks){.rank = s->rank, .dense_fallback = 1});
}

/* Every region but `fixed` moved by `offset`, within the bounds. */
static point shifted(const search *s, const point *from, size_t fixed, ptrdiff_t offset) {
    point p = *from;
    for (size_t k = 0; k < s->regions; k++) {
        if (k == fixed)
            continue;
        if (offset < 0 && (size_t)-offset > p.rank[k] - s->rank_min)
            p.rank[k] = s->rank_min;
        else if (offset > 0 && (size_t)offset > s->rank_max - p.rank[k])
            p.rank[k] = s->rank_max;
        else
            p.rank[k] = (size_t)((ptrdiff_t)p.rank[k] + offset);
    }
    return p;
}

/* Region k at `rank`, the others moved by the largest common number that fits and then singly; 0 where it
 * does not fit. Costs never fall as a rank grows, so bisection finds that number. */
static int move_region(search *s, size_t k, size_t rank, point *moved) {
    const ptrdiff_t span = (ptrdiff_t)(s->rank_max - s->rank_min);
    point from = s->best;
    ptrdiff_t low = -span, high = span; /* low fits, high + 1 does not or is pointless */
    from.rank[k] = rank;
    *moved = shifted(s, &from, k, low);
    if (cost_of(s, moved) > s->budget)
        return 0;
    while (low < high) {
        const ptrdiff_t middle = low + (high - low + 1) / 2;
        *moved = shifted(s, &from, k, middle);
        if (cost_of(s, moved) <= s->budget)
            low = middle;
        else
            high = middle - 1;
    }
    *moved = shifted(s, &from, k, low);
    for (size_t i = 1; i < s->regions; i++) {
        const size_t j = (k + i) % s->regions;
        if (moved->rank[j] == s->rank_max)
            continue;
        moved->rank[j]++;
        if (cost_of(s, moved) > s->budget)
            moved->rank[j]--;
    }
    return 1;
}

static int same(const search *s, const point *a, const point *b) {
    return memcmp(a->rank, b->rank, s->regions * sizeof *a->rank) == 0;
}

static int was_seen(const search *s, const point *p) {
    for (size_t i = 0; i < s->seen_count; i++)
        if (same(s, &s->seen[i], p))
            return 1;
    return 0;
}

/* Measures a new point; *better where it becomes the best. */
static ousac_status try_point(search *s, const point *p, int *better, ousac_error *error) {
    double value = 0;
    *better = 0;
    s->seen[s->seen_count++] = *p;
    expand(s, p);
    const ousac_status status = s->options->evaluate(s->options->self, s->rank, &value, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    if (isnan(value))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "evaluation %zu of a plan gave no number",
                          s->seen_count);
    if (s->seen_count == 1)
        s->start = value;
    if (s->seen_count == 1 || value < s->best_value) {
        *better = 1;
        s->best = *p;
        s->best_value = value;
    }
    return OUSAC_STATUS_OK;
}

/* Moves region k by `step` in one direction as long as that helps. */
static ousac_status follow(search *s, size_t k, int up, size_t step, int *improved, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int better = 1;
    while (better && s->seen_count < s->evaluations_max) {
        const size_t now = s->best.rank[k];
        const size_t room = up ? s->rank_max - now : now - s->rank_min, by = step < room ? step : room;
        point p;
        if (room == 0 || !move_region(s, k, up ? now + by : now - by, &p) || was_seen(s, &p))
            return OUSAC_STATUS_OK;
        status = try_point(s, &p, &better, error);
        if (status != OUSAC_STATUS_OK)
            return status;
        *improved |= better;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status descend(search *s, int *converged, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    size_t step = s->best.rank[0] / 2 > 0 ? s->best.rank[0] / 2 : 1;
    *converged = s->regions == 1;
    while (!*converged && s->seen_count < s->evaluations_max) {
        int improved = 0;
        for (size_t k = 0; k < s->regions; k++)
            for (int up = 1; up >= 0; up--) {
                status = follow(s, k, up, step, &improved, error);
                if (status != OUSAC_STATUS_OK)
                    return status;
            }
        if (!improved && s->seen_count < s->evaluations_max) {
            step /= 2;
            *converged = step == 0;
        }
    }
    return status;
}

/* The options with their defaults, checked, and memory. */
static ousac_status prepare(search *s, ousac_error *error) {
    size_t largest = 0, *kind = NULL;
    const ousac_regions_options *o = s->options;
    s->regions = o->regions ? o->regions : OUSAC_REGIONS_DEFAULT;
    if (s->regions > OUSAC_REGIONS_MAX || o->evaluate == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu regions; expected 1 to %d and an evaluator",
                          s->regions, OUSAC_REGIONS_MAX);
    if (s->regions > s->arch->block_count)
        s->regions = s->arch->block_count;
    for (size_t i = 0; i < s->arch->site_count; i++) {
        const size_t dense = ousac_cost_dense_rank(&s->arch->sites[i]);
        largest = dense > largest ? dense : largest;
    }
    s->rank_min = o->rank_min;
    s->rank_max = o->rank_max ? o->rank_max : largest;
    s->evaluations_max = o->evaluations_max ? o->evaluations_max : OUSAC_REGIONS_EVALUATIONS;
    if (s->rank_min > s->rank_max || s->rank_max > PTRDIFF_MAX / 2)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "ranks from %zu to %zu; expected a range", s->rank_min,
                          s->rank_max);
    s->rank = ousac_malloc(s->arch->site_count, sizeof *s->rank);
    s->dense_rank = ousac_malloc(s->arch->site_count, sizeof *s->dense_rank);
    s->seen = ousac_malloc(s->evaluations_max, sizeof *s->seen);
    s->region = ousac_malloc(s->arch->group_count, sizeof *s->region);
    kind = ousac_malloc(s->arch->group_count, sizeof *kind);
    for (size_t i = 0; s->dense_rank != NULL && i < s->arch->site_count; i++)
        s->dense_rank[i] = ousac_cost_dense_rank(&s->arch->sites[i]);
    if (s->region != NULL && kind != NULL)
        (void)ousac_arch_kinds(s->arch, s->regions, kind, s->region);
    const int ok = s->rank && s->dense_rank && s->seen && s->region && kind;
    ousac_free(kind);
    if (!ok)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the ranks of %zu sites",
                          s->arch->site_count);
    return OUSAC_STATUS_OK;
}

/* The largest rank within the bounds at which all regions together fit. */
static ousac_status uniform_start(search *s, point *start, ousac_error *error) {
    size_t low = s->rank_min, high = s->rank_max;
    memset(start, 0, sizeof *start);
    for (size_t k = 0; k < s->regions; k++)
        start->rank[k] = low;
    if (cost_of(s, start) > s->budget)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "rank %zu everywhere costs %llu MACs a cached forward; the budget is %llu", low,
                          (unsigned long long)cost_of(s, start), (unsigned long long)s->budget);
    while (low < high) {
        const size_t middle = low + (high - low + 1) / 2;
        for (size_t k = 0; k < s->regions; k++)
            start->rank[k] = middle;
        if (cost_of(s, start) <= s->budget)
            low = middle;
        else
            high = middle - 1;
    }
    for (size_t k = 0; k < s->regions; k++)
        start->rank[k] = low;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_allocate_regions(const ousac_arch *arch, uint64_t budget,
                                    const ousac_regions_options *options, ousac_allocation *allocation,
                                    ousac_regions_report *report, ousac_error *error) {
    search s = {.arch = arch, .options = options, .budget = budget};
    point start;
    int better = 0, converged = 0;
    memset(allocation, 0, sizeof *allocation);
    if (report != NULL)
        memset(report, 0, sizeof *report);
    ousac_status status = prepare(&s, error);
    if (status == OUSAC_STATUS_OK)
        status = uniform_start(&s, &start, error);
    if (status == OUSAC_STATUS_OK)
        status = try_point(&s, &start, &better, error);
    if (status == OUSAC_STATUS_OK)
        status = descend(&s, &converged, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    allocation->cost = cost_of(&s, &s.best); /* which also expands it */
    allocation->budget = budget;
    allocation->rank = s.rank;
    s.rank = NULL;
    if (report != NULL) {
        report->region_count = s.regions;
        memcpy(report->rank, s.best.rank, s.regions * sizeof *report->rank);
        report->evaluations = s.seen_count;
        report->start = s.start;
        report->best = s.best_value;
        report->converged = converged;
    }
done:
    ousac_free(s.seen);
    ousac_free(s.region);
    ousac_free(s.dense_rank);
    ousac_free(s.rank);
    return status;
}
