/* The coefficients of a trajectory's steps: every solver's step is a linear combination of the state, the
 * prediction and the data that the prediction before implied. Formulas: formats/SCHEDULE.md.
 */
#ifndef OUSAC_SOLVER_H
#define OUSAC_SOLVER_H

#include "formats/schedule.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* x' = x X + eps EPS + before D_before, and D = data_x X + data_eps EPS, which is D_before at the next step.
 */
typedef struct ousac_solver_step {
    double x, eps, before;
    double data_x, data_eps;
} ousac_solver_step;

/* 1 where some step of the solver looks at D_before. */
int ousac_solver_looks_back(ousac_solver solver);

/* Steps 0..count-1 from alpha_bar[i] to alpha_bar[i + 1]; alpha_bar (count + 1), above 0, at most 1; below 1
 * but for the last where the solver looks back. A step to alpha_bar 1 is of first order, as is the first.
 * NUMBER, naming the step, where alpha_bar is out of range; USAGE for a solver that is none. */
ousac_status ousac_solver_steps(ousac_solver solver, const double *alpha_bar, size_t count,
                                ousac_solver_step *steps, ousac_error *error);

/* One step on the host, in double, rounded once: guidance by the step's mode and scale on the predictions of
 * both branches (of a branch that the mode does not evaluate: not read), then x and data in place, `count`
 * values each. `data` may be NULL where the solver does not look back. Returns 0, or -1 where a value leaves
 * float32; x is then spoilt. */
int ousac_solver_advance(const ousac_solver_step *solver, const ousac_step *step, size_t count,
                         const float *cond, const float *uncond, float *x, double *data);

#ifdef __cplusplus
}
#endif
#endif
