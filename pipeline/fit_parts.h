/* What the two methods of pipeline/fit.h share; for them alone. */
#ifndef OUSAC_FIT_PARTS_H
#define OUSAC_FIT_PARTS_H

#include "pipeline/fit.h"
#include "profile/run/walk.h"

/* A walk of the target's samples. */
ousac_status fit_walk(const pipeline_runs *runs, const fit_arm *arm, const cli_range *range,
                      const ousac_schedule *schedule, ousac_walk **walk, ousac_error *error);

/* Relative error of samples (count, size) against the target's; NUMBER where it is not finite. */
ousac_status fit_error(const fit_target *target, const float *samples, double *relative_error,
                       ousac_error *error);

/* The reference's state at a timestep, (count, size); its samples where `timestep` is negative. */
void fit_state_at(const fit_target *target, double timestep, double alpha, double spread, float *state);

/* alpha and sigma / alpha at a timestep. */
ousac_status fit_level(const ousac_model *model, double timestep, double *alpha, double *spread,
                       ousac_error *error);

/* One pass over the schedule's steps; `schedule` has coefficients. */
ousac_status fit_stepwise(ousac_walk *walk, const ousac_model *model, const fit_target *target,
                          const fit_options *options, ousac_schedule *schedule, ousac_error *error);

/* Gauss-Newton from `best`, which has an error of `least` on the validation samples, into both where it is
 * better; the ridge draws to the scales of `textbook`. */
ousac_status fit_newton(const pipeline_runs *runs, const fit_options *options, const fit_target *fitting,
                        const fit_target *validation, const ousac_schedule *textbook, ousac_schedule *best,
                        double *least, fit_report *report, ousac_error *error);

/* Whether a number of a step is free: bits of `numbers`, where it has an effect. */
int fit_is_free(const ousac_schedule *schedule, size_t step, int kind, unsigned numbers);
/* How far a number is from the textbook's, or from `scale0` of its step, in its natural unit. */
double *fit_number(ousac_schedule *schedule, size_t step, int kind);
double fit_unit(const ousac_solver_step *solver, int kind, double scale0);

#endif
