/* Step by step: every step's numbers in closed form, from the trajectory so far (pipeline/fit.h).
 *
 * With e the prediction under the scale that the step came with, the step lands at
 *
 *     a x + b e + g D  +  m b e + c (e - e') + d (e' - e'') + u (e_c - e_u) + k a x
 *
 * which is linear in m, c, d, u and k; u is what another scale adds, (b (1 + m) + c) (w' - w), or on a step
 * without guidance what a held difference adds. Where rows of the guided prediction are rescaled, what another scale adds is
 * taken to first order.
 */
#include "pipeline/fit_parts.h"

#include "calib/stats/ridge.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

/* What the numbers of one step multiply, for one value. */
typedef struct columns {
    double at[OUSAC_FIT_KINDS];
    double base; /* where the textbook's step lands */
} columns;

typedef struct view {
    const float *cond, *uncond, *x;
    const ousac_solver_memory *memory;
    const ousac_solver_step *solver;
    const ousac_step *step;
    ousac_solver_layout layout;
    ousac_solver_row row; /* of the values at hand; factor 1 where rows are not rescaled */
} view;

static void columns_at(view *v, size_t i, columns *c) {
    const ousac_solver_step *s = v->solver;
    const double x = (double)v->x[i], unit = fabs(s->eps);
    double e, difference = v->memory->held[i];
    if (v->step->mode == OUSAC_MODE_CFG) {
        const int acts = i % v->layout.sample < v->layout.guided;
        difference = acts ? (double)v->cond[i] - (double)v->uncond[i] : 0;
        e = acts ? (double)v->uncond[i] + v->step->scale * difference : (double)v->cond[i];
        if (v->layout.row) {
            if (i % v->layout.row == 0)
                v->row = ousac_solver_rescale(v->step->scale, v->cond + i, v->uncond + i, v->layout.row);
            difference = v->row.factor * (difference - v->row.along * e);
            e *= v->row.factor;
        }
    } else {
        e = v->step->mode == OUSAC_MODE_COND ? (double)v->cond[i] : (double)v->uncond[i];
    }
    c->base = s->x * x + s->eps * e + (s->before != 0 ? s->before * v->memory->data[i] : 0);
    c->at[OUSAC_FIT_SCALE] = s->eps * v->step->scale * difference;
    c->at[OUSAC_COEFFICIENT_HOLD] = s->eps * difference;
    c->at[OUSAC_COEFFICIENT_STATE] = s->x * x;
    c->at[OUSAC_COEFFICIENT_GAIN] = s->eps * e;
    c->at[OUSAC_COEFFICIENT_CHANGE] = v->memory->taken > 0 ? unit * (e - v->memory->before[i]) : 0;
    c->at[OUSAC_COEFFICIENT_EARLIER] =
        v->memory->taken > 1 ? unit * (v->memory->before[i] - v->memory->earlier[i]) : 0;
}

/* The numbers of one step, from the normal equations of all values of all samples. */
static ousac_status solve_step(view *v, const ousac_fit_target *target, const float *wanted,
                               const ousac_fit_options *options, const ousac_schedule *schedule, size_t step,
                               double t[OUSAC_FIT_KINDS], ousac_error *error) {
    double gram[OUSAC_FIT_KINDS * OUSAC_FIT_KINDS] = {0}, right[OUSAC_FIT_KINDS] = {0},
                                  penalty[OUSAC_FIT_KINDS], found[OUSAC_FIT_KINDS];
    int kind[OUSAC_FIT_KINDS];
    size_t n = 0;
    for (int k = 0; k < OUSAC_FIT_KINDS; k++)
        if (ousac_fit_is_free(schedule, step, k, options->numbers))
            kind[n++] = k;
    for (size_t s = 0; s < target->range.count; s++) {
        double own[OUSAC_FIT_KINDS * OUSAC_FIT_KINDS] = {0}, own_right[OUSAC_FIT_KINDS] = {0};
        for (size_t i = s * target->size; i < (s + 1) * target->size; i++) {
            columns c;
            columns_at(v, i, &c);
            const double left = (double)wanted[i] - c.base;
            for (size_t p = 0; p < n; p++) {
                own_right[p] += c.at[kind[p]] * left;
                for (size_t q = 0; q <= p; q++)
                    own[p * n + q] += c.at[kind[p]] * c.at[kind[q]];
            }
        }
        for (size_t p = 0; p < n; p++) {
            right[p] += own_right[p] / target->norm2[s];
            for (size_t q = 0; q <= p; q++)
                gram[p * n + q] += own[p * n + q] / target->norm2[s];
        }
    }
    for (size_t p = 0; p < n; p++)
        penalty[p] = (options->step_ridge > 0 ? options->step_ridge : OUSAC_FIT_STEP_RIDGE) * gram[p * n + p];
    memset(t, 0, OUSAC_FIT_KINDS * sizeof *t);
    const ousac_status status = ousac_ridge_solve(n, gram, right, penalty, found, error);
    for (size_t p = 0; p < n && !status; p++)
        t[kind[p]] = found[p];
    return status;
}

/* What the solution says in the schedule's terms. Without an effect of e there is nothing to scale. */
static void set_step(const ousac_solver_step *solver, const double t[OUSAC_FIT_KINDS], ousac_step *step,
                     ousac_fitted *fitted) {
    const double unit = fabs(solver->eps);
    double *value = fitted->value;
    value[OUSAC_COEFFICIENT_STATE] = t[OUSAC_COEFFICIENT_STATE];
    value[OUSAC_COEFFICIENT_GAIN] = t[OUSAC_COEFFICIENT_GAIN];
    value[OUSAC_COEFFICIENT_CHANGE] = unit * t[OUSAC_COEFFICIENT_CHANGE];
    value[OUSAC_COEFFICIENT_EARLIER] = unit * t[OUSAC_COEFFICIENT_EARLIER];
    const double effect = solver->eps * (1 + t[OUSAC_COEFFICIENT_GAIN]) + value[OUSAC_COEFFICIENT_CHANGE];
    value[OUSAC_COEFFICIENT_HOLD] = 0;
    if (fabs(effect) <= 1e-3 * unit)
        return;
    if (step->mode == OUSAC_MODE_CFG)
        step->scale *= 1 + solver->eps * t[OUSAC_FIT_SCALE] / effect;
    else
        value[OUSAC_COEFFICIENT_HOLD] = solver->eps * t[OUSAC_COEFFICIENT_HOLD] / effect;
}

ousac_status ousac_fit_stepwise(ousac_walk *walk, const ousac_model *model, const ousac_fit_target *target,
                                const ousac_fit_options *options, ousac_schedule *schedule,
                                ousac_error *error) {
    const size_t values = (size_t)target->range.count * target->size;
    float *wanted = ousac_malloc(values, sizeof *wanted);
    ousac_status status =
        wanted ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to fit %zu values", values);
    ousac_walk_reset(walk);
    for (size_t i = 0; i < schedule->step_count && !status; i++) {
        const int last = i + 1 == schedule->step_count;
        const double timestep = last ? -1 : schedule->steps[i + 1].timestep;
        double t[OUSAC_FIT_KINDS], alpha = 1, sigma = 0;
        if (!last)
            status = ousac_fit_level(model, timestep, &alpha, &sigma, error);
        if (!status)
            status = ousac_walk_evaluate(walk, error);
        if (status)
            break;
        ousac_fit_state_at(target, timestep, alpha, sigma, wanted);
        view v = {.cond = ousac_walk_predicted(walk, OUSAC_BRANCH_COND),
                  .uncond = ousac_walk_predicted(walk, OUSAC_BRANCH_UNCOND),
                  .x = ousac_walk_state(walk),
                  .memory = ousac_walk_memory(walk),
                  .solver = &ousac_walk_solver(walk)[i],
                  .step = &schedule->steps[i],
                  .layout = ousac_run_layout(model)};
        status = solve_step(&v, target, wanted, options, schedule, i, t, error);
        if (!status) {
            set_step(v.solver, t, &schedule->steps[i], &schedule->fitted[i]);
            status = ousac_walk_advance(walk, &schedule->steps[i], &schedule->fitted[i], error);
        }
    }
    ousac_free(wanted);
    return status;
}
