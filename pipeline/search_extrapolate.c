#include "pipeline/search_extrapolate.h"

#include <math.h>
#include <stdio.h>

enum { LEAST_STEPS = 4, LEAST_FULL = 2 };

/* How far apart full evaluations are behind the turning point, over how far before it. */
static const double closer[] = {0.5, 0.75};
enum { CLOSER = sizeof closer / sizeof *closer };

/* Of one branch. */
typedef struct placing {
    size_t steps, full, period, before;
} placing;

/* Steps between two full ones behind the turning point, on average. */
static double rest_of(const placing *p) {
    return (double)(p->steps - (p->before - 1) * p->period) / (double)(p->full - p->before + 1);
}

/* The turning point with which full ones behind it come nearest to that part of the period. */
static void turn(placing *p, double part) {
    size_t nearest = 1;
    double least = INFINITY;
    for (p->before = 1; p->before < p->full && (p->before - 1) * p->period < p->steps; p->before++) {
        const double rest = rest_of(p), away = fabs(rest - part * (double)p->period);
        if (rest >= 1 && away < least) {
            least = away;
            nearest = p->before;
        }
    }
    p->before = nearest;
}

static placing placing_of(const ousac_schedule *reference, const ousac_search_pattern *pattern, int branch) {
    return (placing){reference->step_count, pattern->full[branch], pattern->period, pattern->before[branch]};
}

static size_t step_of(const placing *p, size_t i) {
    if (i < p->before)
        return i * p->period;
    return (p->before - 1) * p->period + (size_t)lround(rest_of(p) * (double)(i - p->before + 1));
}

ousac_status ousac_search_extrapolate_make(const ousac_schedule *reference,
                                           const ousac_search_pattern *pattern, ousac_schedule *schedule,
                                           ousac_error *error) {
    const ousac_status status = ousac_schedule_copy(schedule, reference, error);
    if (status)
        return status;
    for (size_t i = 0; i < schedule->step_count; i++)
        schedule->steps[i].gate[0] = schedule->steps[i].gate[1] = OUSAC_GATE_EXTRAPOLATE;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        /* the two gates of a step that evaluates one branch are that branch's */
        const int evaluated = ousac_mode_evaluates(reference->steps[0].mode, b);
        const placing p = placing_of(reference, pattern, evaluated ? b : OUSAC_BRANCHES - 1 - b);
        for (size_t i = 0; i < p.full; i++)
            if (step_of(&p, i) < p.steps)
                schedule->steps[step_of(&p, i)].gate[b] = OUSAC_GATE_FULL;
    }
    (void)snprintf(schedule->name, sizeof schedule->name, "%.60s, extrapolated", reference->name);
    return OUSAC_STATUS_OK;
}

static ousac_status price_of(const ousac_schedule *reference, const ousac_price *price,
                             const ousac_search_pattern *pattern, uint64_t *amount, ousac_error *error) {
    ousac_schedule schedule = {0};
    ousac_price_parts parts;
    ousac_status status = ousac_search_extrapolate_make(reference, pattern, &schedule, error);
    if (!status)
        status = ousac_price_count(&parts, &schedule, error);
    if (!status)
        *amount = ousac_price_trajectory(price, &parts, 0, 0);
    ousac_schedule_free(&schedule);
    return status;
}

/* As many full evaluations as the budget holds, the branches in turns. */
static ousac_status count_full(const ousac_schedule *reference, const ousac_price *price, uint64_t budget,
                               size_t full[OUSAC_BRANCHES], ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int within = 1;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        full[b] = ousac_mode_evaluates(reference->steps[0].mode, b) ? 1 : 0;
    for (size_t more = 2; more <= reference->step_count && within && !status; more++)
        for (int b = 0; b < OUSAC_BRANCHES && within && !status; b++) {
            ousac_search_pattern next = {1, {full[0], full[1]}, {1, 1}};
            uint64_t amount = 0;
            if (!full[b])
                continue;
            next.full[b] = more;
            status = price_of(reference, price, &next, &amount, error);
            within = amount <= budget;
            if (!status && within)
                full[b] = more;
        }
    return status;
}

static int are_alike(const ousac_search_pattern *a, const ousac_search_pattern *b) {
    int alike = 1, even = 1; /* before their first turn all are even */
    for (int i = 0; i < OUSAC_BRANCHES; i++) {
        alike &= a->before[i] == b->before[i];
        even &= a->before[i] == 1;
    }
    return alike && (even || a->period == b->period);
}

ousac_status ousac_search_patterns(const ousac_search_options *options, const ousac_price *price,
                                   uint64_t budget, ousac_search_pattern list[OUSAC_SEARCH_EXTRAPOLATE_MAX],
                                   size_t *count, ousac_error *error) {
    const ousac_schedule *reference = options->reference;
    const size_t steps = reference->step_count, periods = options->effort == OUSAC_EFFORT_FULL ? 2 : 1;
    size_t full[OUSAC_BRANCHES];
    *count = 0;
    const ousac_status status = count_full(reference, price, budget, full, error);
    if (status || steps < LEAST_STEPS)
        return status;
    size_t least = 0;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        if (full[b] > 0 && (full[b] < LEAST_FULL || full[b] == steps))
            return OUSAC_STATUS_OK;
        /* Above even spacing: where that is a whole number of steps, nothing is left to be closer. */
        if (full[b] > 0 && steps / full[b] + 1 > least)
            least = steps / full[b] + 1;
    }
    for (size_t period = least; period < least + periods; period++)
        for (size_t c = 0; c < CLOSER; c++) {
            ousac_search_pattern p = {period, {full[0], full[1]}, {1, 1}};
            int known = 0;
            for (int b = 0; b < OUSAC_BRANCHES; b++) {
                placing of = placing_of(reference, &p, b);
                turn(&of, closer[c]);
                p.before[b] = of.before;
            }
            for (size_t i = 0; i < *count; i++)
                known |= are_alike(&list[i], &p);
            if (!known)
                list[(*count)++] = p;
        }
    return OUSAC_STATUS_OK;
}
