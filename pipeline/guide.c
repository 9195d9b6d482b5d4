#include "pipeline/guide.h"

#include "calib/choose/placement.h"
#include "formats/memory.h"
#include "profile/run/runner.h"
#include "profile/run/walk.h"

#include <math.h>
#include <string.h>

typedef struct probing {
    const ousac_schedule *schedule;
    ousac_guide *guide;
    ousac_walk *walk, *fork;
    ousac_solver_layout layout;
    size_t values;     /* of all samples */
    float *difference; /* (steps, values): e_c - e_u, 0 where guidance does not act */
    float *end;        /* (steps, values): the final samples where a step holds */
    double *rest;      /* (steps, horizon) */
} probing;

size_t ousac_guide_least(size_t steps) {
    return (steps + OUSAC_GUIDE_HORIZON - 1) / OUSAC_GUIDE_HORIZON;
}

void ousac_guide_free(ousac_guide *guide) {
    ousac_free(guide->amplitude);
    memset(guide, 0, sizeof *guide);
}

static ousac_status check_guided(const ousac_schedule *schedule, ousac_error *error) {
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].mode != OUSAC_MODE_CFG)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "schedule %s, step %zu: mode %s, expected cfg",
                              ousac_schedule_called(schedule), i, ousac_mode_name(schedule->steps[i].mode));
    return OUSAC_STATUS_OK;
}

static ousac_status begin(probing *p, const ousac_session *session, const ousac_sample_range *range,
                          ousac_error *error) {
    const size_t steps = p->schedule->step_count;
    const ousac_walk_options options = {.model = session->model,
                                        .schedule = p->schedule,
                                        .exact = 1,
                                        .seed = session->seed,
                                        .first = range->first,
                                        .count = range->count,
                                        .micro_batch = ousac_session_batch(session, range->count),
                                        .threads = ousac_session_threads(session),
                                        .stop = session->stop};
    p->layout = ousac_run_layout(session->model);
    p->values = (size_t)range->count * ousac_model_sample_size(session->model);
    p->guide->steps = steps;
    p->guide->horizon = OUSAC_GUIDE_HORIZON;
    p->guide->amplitude = ousac_calloc(steps * OUSAC_GUIDE_HORIZON, sizeof *p->guide->amplitude);
    p->rest = ousac_calloc(steps * OUSAC_GUIDE_HORIZON, sizeof *p->rest);
    p->difference = ousac_calloc(steps * p->values, sizeof *p->difference);
    p->end = ousac_calloc(steps * p->values, sizeof *p->end);
    if (!p->guide->amplitude || !p->rest || !p->difference || !p->end)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to probe guidance at %zu steps", steps);
    ousac_status status = ousac_walk_create(&p->walk, &options, error);
    if (!status)
        status = ousac_walk_fork(&p->fork, p->walk, error);
    return status;
}

/* The step as one that holds `factor` times the difference that it stands for. */
static void make_held(ousac_step *step, ousac_fitted *fitted, double factor) {
    fitted->value[OUSAC_COEFFICIENT_HOLD] = (step->scale - 1) * factor;
    step->mode = OUSAC_MODE_COND;
    step->scale = 1;
    step->gate[OUSAC_BRANCH_UNCOND] = step->gate[OUSAC_BRANCH_COND];
}

/* The differences of a step, and how far the older ones are from them. Returns the factor of the last one. */
static double compare_differences(probing *p, size_t step) {
    const float *cond = ousac_walk_predicted(p->walk, OUSAC_BRANCH_COND),
                *uncond = ousac_walk_predicted(p->walk, OUSAC_BRANCH_UNCOND);
    float *now = p->difference + step * p->values;
    double factor = 0, length2 = 0;
    for (size_t i = 0; i < p->values; i++) {
        now[i] = i % p->layout.sample < p->layout.guided ? cond[i] - uncond[i] : 0;
        length2 += (double)now[i] * (double)now[i];
    }
    for (size_t a = 1; a < p->guide->horizon && a <= step; a++) {
        const float *then = now - a * p->values;
        double along = 0, then2 = 0;
        for (size_t i = 0; i < p->values; i++) {
            along += (double)now[i] * (double)then[i];
            then2 += (double)then[i] * (double)then[i];
        }
        const double rest = length2 - (then2 > 0 ? along * along / then2 : 0);
        p->rest[step * p->guide->horizon + a] = rest > 0 ? rest : 0;
        if (a == 1 && then2 > 0)
            factor = along / then2;
    }
    return factor;
}

/* To the end with this step holding the difference of the last one. */
static ousac_status hold_here(probing *p, size_t step, double factor, ousac_error *error) {
    ousac_step held = p->schedule->steps[step];
    ousac_fitted fitted = {{0}};
    if (p->schedule->fitted)
        fitted = p->schedule->fitted[step];
    make_held(&held, &fitted, factor);
    ousac_status status = ousac_walk_copy(p->fork, p->walk, error);
    if (!status)
        status = ousac_walk_advance(p->fork, &held, &fitted, error);
    if (!status)
        status = ousac_walk_finish(p->fork, p->schedule, error);
    if (!status)
        memcpy(p->end + step * p->values, ousac_walk_state(p->fork), p->values * sizeof *p->end);
    return status;
}

/* Mean over samples of the relative squared error; a sample that is all zero counts nothing. */
static double relative_square(const probing *p, const float *samples, const float *exact) {
    const size_t size = p->layout.sample;
    double sum = 0;
    for (size_t s = 0; s < p->values; s += size) {
        double off2 = 0, length2 = 0;
        for (size_t i = s; i < s + size; i++) {
            const double off = (double)samples[i] - (double)exact[i];
            off2 += off * off;
            length2 += (double)exact[i] * (double)exact[i];
        }
        sum += length2 > 0 ? off2 / length2 : 0;
    }
    return sum / (double)(p->values / size);
}

static void set_amplitudes(probing *p) {
    const size_t horizon = p->guide->horizon;
    for (size_t j = 1; j < p->guide->steps; j++) {
        const double *rest = p->rest + j * horizon;
        const double here = relative_square(p, p->end + j * p->values, ousac_walk_state(p->walk));
        for (size_t a = 1; a < horizon && a <= j; a++)
            p->guide->amplitude[j * horizon + a] = rest[1] > 0 ? sqrt(here * rest[a] / rest[1]) : 0;
    }
}

ousac_status ousac_guide_create(ousac_guide *guide, const ousac_session *session,
                                const ousac_schedule *schedule, const ousac_sample_range *range,
                                ousac_error *error) {
    probing p = {.schedule = schedule, .guide = guide};
    memset(guide, 0, sizeof *guide);
    ousac_status status = check_guided(schedule, error);
    if (!status)
        status = begin(&p, session, range, error);
    for (size_t i = 0; i < schedule->step_count && !status; i++) {
        status = ousac_walk_evaluate(p.walk, error);
        if (!status) {
            const double factor = compare_differences(&p, i);
            if (i > 0)
                status = hold_here(&p, i, factor, error);
        }
        if (!status)
            status = ousac_walk_advance(p.walk, &schedule->steps[i],
                                        schedule->fitted ? &schedule->fitted[i] : NULL, error);
    }
    if (!status) {
        set_amplitudes(&p);
        guide->evaluations = ousac_walk_evaluations(p.walk) + ousac_walk_evaluations(p.fork);
    }
    ousac_walk_free(p.fork);
    ousac_walk_free(p.walk);
    ousac_free(p.difference);
    ousac_free(p.end);
    ousac_free(p.rest);
    if (status)
        ousac_guide_free(guide);
    return status;
}

ousac_status ousac_guide_place(const ousac_guide *guide, const ousac_schedule *schedule, size_t guided,
                               ousac_schedule *sparse, double *predicted, ousac_error *error) {
    const ousac_placement_branch branch = {guide->steps, guide->amplitude};
    unsigned char *at = ousac_calloc(guide->steps + 1, 1);
    ousac_status status =
        at ? ousac_placement_solve(&branch, 1, guide->horizon, guided, &at, predicted, error)
           : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to place guidance");
    if (!status)
        status = ousac_schedule_copy(sparse, schedule, error);
    if (!status)
        status = ousac_schedule_make_fitted(sparse, error);
    for (size_t i = 0; i < guide->steps && !status; i++)
        if (!at[i])
            make_held(&sparse->steps[i], &sparse->fitted[i], 1);
    ousac_free(at);
    return status;
}
