/* The coefficients of a trajectory's steps: every solver's step is a linear combination of the state, the
 * predictions so far, whatever they are of (profile/model/noise.h), and the data that the prediction before
 * implied. Formulas: formats/SCHEDULE.md.
 */
#ifndef OUSAC_SOLVER_H
#define OUSAC_SOLVER_H

#include "formats/schedule.h"
#include "formats/status.h"
#include "profile/model/noise.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* x' = x X + eps P + before D_before, and D = data_x X + data_eps P, which is D_before at the next step; P is
 * the guided prediction, EPS where the model predicts that. */
typedef struct ousac_solver_step {
    double x, eps, before;
    double data_x, data_eps;
} ousac_solver_step;

/* 1 where some step of the solver looks at D_before. */
int ousac_solver_looks_back(ousac_solver solver);

/* Steps 0..count-1 from level[i] to level[i + 1]; level (count + 1). A step to sigma 0 is of first order, as
 * is the first. Errors, naming the step: NUMBER where a level gives no finite coefficients: alpha 0 where
 * noise is predicted, sigma 0 before the last where data are, or where the solver looks back; USAGE for a
 * solver that is none, and for flow-euler where alpha + sigma is not 1. */
ousac_status ousac_solver_steps(ousac_solver solver, ousac_prediction prediction,
                                const ousac_noise_level *level, size_t count, ousac_solver_step *steps,
                                ousac_error *error);

/* The values that a state is made of: `sample` of each sample, of which guidance acts on the first `guided`;
 * the others follow the conditional branch where both are evaluated. `row` divides both, or is 0: where both are evaluated,
 * every so many values in a row of the guided prediction are given the length of the conditional one's. */
typedef struct ousac_solver_layout {
    size_t sample, guided, row;
} ousac_solver_layout;

/* What rescaling does to a row of a guided step: e becomes factor e, whose derivative by the scale is
 * factor (d - along e), d = e_c - e_u. */
typedef struct ousac_solver_row {
    double factor, along;
} ousac_solver_row;

/* Of the row's predictions under `scale`; factor 1 and along 0 where the guided one is 0. */
ousac_solver_row ousac_solver_rescale(double scale, const float *cond, const float *uncond, size_t row);

/* What a trajectory remembers of its steps so far, host memory, `count` values each; a member that the
 * schedule never asks for is NULL. */
typedef struct ousac_solver_memory {
    size_t count;
    size_t taken;    /* steps */
    double *data;    /* D_before */
    double *before;  /* e of the last step */
    double *earlier; /* e of the one before it */
    double *held;    /* e_c - e_u of the last guided step; 0 until there is one */
} ousac_solver_memory;

/* Empty. MEMORY; it is then zeroed. */
ousac_status ousac_solver_memory_create(ousac_solver_memory *memory, const ousac_schedule *schedule,
                                        size_t count, ousac_error *error);
void ousac_solver_memory_free(ousac_solver_memory *memory);
/* Forgets all: call at the start of a trajectory. */
void ousac_solver_memory_reset(ousac_solver_memory *memory);
/* The first `count` values of each; both of the same schedule. */
void ousac_solver_memory_copy(ousac_solver_memory *to, const ousac_solver_memory *from, size_t count);

/* One step on the host, in double, rounded once: guidance by the step's mode and scale on the predictions of
 * both branches (of a branch that the mode does not evaluate: not read), then x and memory in place, the
 * first `count` values of each. `fitted` NULL: the textbook's step. Returns 0, or -1 where a value leaves
 * float32; x is then spoilt. */
int ousac_solver_advance(const ousac_solver_step *solver, const ousac_step *step, const ousac_fitted *fitted,
                         const ousac_solver_layout *layout, size_t count, const float *cond,
                         const float *uncond, float *x, ousac_solver_memory *memory);

#ifdef __cplusplus
}
#endif
#endif
