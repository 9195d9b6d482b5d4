/* Samples that walk down a schedule together, one step at a time, so that whoever looks on may choose the
 * numbers of a step from what was predicted at it, and may go back and try others: what fitting needs.
 *
 * The schedule says what is evaluated at a step: its timestep, branches and gates. The scale and the
 * coefficients with which the walk advances are the caller's. Micro-batches are those of a run
 * (profile/run/runner.h), so that the same numbers give the same samples to the last bit.
 */
#ifndef OUSAC_WALK_H
#define OUSAC_WALK_H

#include "profile/run/runner.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_walk_options {
    const ousac_model *model;
    const ousac_schedule *schedule;       /* its numbers are not looked at before ousac_walk_finish */
    const ousac_calibration *calibration; /* may be NULL */
    int exact;                            /* 1: every gate full */
    uint64_t seed, first, count;          /* `first` a multiple of micro_batch */
    size_t micro_batch, threads;
    const ousac_stop *stop; /* may be NULL */
} ousac_walk_options;

typedef struct ousac_walk ousac_walk;

/* All are borrowed. At the first step. Errors: those of a run. */
ousac_status ousac_walk_create(ousac_walk **walk, const ousac_walk_options *options, ousac_error *error);
/* A second walk of the same samples, for ousac_walk_copy; it shares scratch with the first, so that only one
 * of the two may be evaluated at a time, and must be freed before it. */
ousac_status ousac_walk_fork(ousac_walk **fork, ousac_walk *walk, ousac_error *error);
void ousac_walk_free(ousac_walk *walk);

/* Back to the noise. */
void ousac_walk_reset(ousac_walk *walk);
/* Makes the fork stand where the walk stands, its predictions included. */
ousac_status ousac_walk_copy(ousac_walk *fork, const ousac_walk *walk, ousac_error *error);

/* The step that comes next; the number of steps at the end. */
size_t ousac_walk_step(const ousac_walk *walk);
/* Predicts at the step that comes next, by the branches of its mode. */
ousac_status ousac_walk_evaluate(ousac_walk *walk, ousac_error *error);
/* Takes the step from what was predicted, with these numbers: `step` for mode and scale, `fitted` NULL for the
 * textbook's. NUMBER where a state stops being finite. */
ousac_status ousac_walk_advance(ousac_walk *walk, const ousac_step *step, const ousac_fitted *fitted,
                                ousac_error *error);
/* The rest of the steps, with the numbers of a schedule of the same steps. */
ousac_status ousac_walk_finish(ousac_walk *walk, const ousac_schedule *schedule, ousac_error *error);

/* (count, sample), host memory, the walk's own. */
const float *ousac_walk_state(const ousac_walk *walk);
const float *ousac_walk_predicted(const ousac_walk *walk, int branch);
/* What it remembers of its steps, and the textbook's coefficients of all of them. */
const ousac_solver_memory *ousac_walk_memory(const ousac_walk *walk);
const ousac_solver_step *ousac_walk_solver(const ousac_walk *walk);
/* Branch evaluations so far, summed over samples. */
uint64_t ousac_walk_evaluations(const ousac_walk *walk);

#ifdef __cplusplus
}
#endif
#endif
