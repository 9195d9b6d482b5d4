/* What the two methods of pipeline/fit.h share; for them alone. */
#ifndef OUSAC_FIT_PARTS_H
#define OUSAC_FIT_PARTS_H

#include "pipeline/fit.h"
#include "profile/run/walk.h"

/* A walk of the target's samples. */
ousac_status ousac_fit_walk(const ousac_session *session, const ousac_fit_arm *arm,
                            const ousac_sample_range *range, const ousac_schedule *schedule,
                            ousac_walk **walk, ousac_error *error);

/* Relative squared error of sample s of (count, size). */
double ousac_fit_square(const ousac_fit_target *target, const float *samples, size_t s);
/* Relative error of samples (count, size) against the target's; NUMBER where it is not finite. */
ousac_status ousac_fit_error(const ousac_fit_target *target, const float *samples, double *relative_error,
                             ousac_error *error);

/* The reference's state at a timestep, (count, size); its samples where `timestep` is negative. */
void ousac_fit_state_at(const ousac_fit_target *target, double timestep, double alpha, double sigma,
                        float *state);

/* alpha and sigma at a timestep. */
ousac_status ousac_fit_level(const ousac_model *model, double timestep, double *alpha, double *sigma,
                             ousac_error *error);

/* One pass over the schedule's steps; `schedule` has coefficients. */
ousac_status ousac_fit_stepwise(ousac_walk *walk, const ousac_model *model, const ousac_fit_target *target,
                                const ousac_fit_options *options, ousac_schedule *schedule,
                                ousac_error *error);

/* Gauss-Newton from `best`, which has an error of `least` on the validation samples, into both where it is
 * better. */
ousac_status ousac_fit_newton(const ousac_session *session, const ousac_fit_options *options,
                              const ousac_fit_target *fitting, const ousac_fit_target *validation,
                              ousac_schedule *best, double *least, ousac_fit_report *report,
                              ousac_error *error);

/* Whether a number of a step is free: bits of `numbers`, where it has an effect. */
int ousac_fit_is_free(const ousac_schedule *schedule, size_t step, int kind, unsigned numbers);
/* Where a number stands, and its natural unit: what makes the numbers of a kind alike from step to step. */
double *ousac_fit_number(ousac_schedule *schedule, size_t step, int kind);
double ousac_fit_unit(const ousac_solver_step *solver, int kind, double scale0);

#endif
