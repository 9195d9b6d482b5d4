/* The free numbers of a schedule: guidance scales and the coefficients of its solver's steps, fitted so that
 * its samples land where those of a reference do. They cost nothing at run time.
 *
 * Two methods, both on the trajectory as it will run, cache and forecast at work where there is a calibration:
 *
 *     stepwise  each step is chosen, in closed form, so that it lands nearest the reference's own state at the
 *               next timestep, on the trajectory so far: one trajectory a pass
 *     newton    damped Gauss-Newton on the final samples, from there. A column of the Jacobian is the final
 *               sample's difference where the numbers of a few neighbouring steps are moved, run from a copy of
 *               the walk at the first of them; the same columns serve several steps of the descent, each of
 *               which costs one trajectory. A step is taken only where it lowers the error of the samples that
 *               are fitted, else damped more
 *
 * In both, squared errors count relative to the reference's sample, and a ridge draws the numbers to the
 * textbook's. What is kept is the best by the error on validation samples, which neither has seen.
 */
#ifndef OUSAC_FIT_H
#define OUSAC_FIT_H

#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

/* A number of a step: one of OUSAC_COEFFICIENT_..., or its scale. */
enum { OUSAC_FIT_SCALE = OUSAC_COEFFICIENTS, OUSAC_FIT_KINDS };
enum {
    /* all but the state's factor, which the others make up for */
    OUSAC_FIT_NUMBERS = 1 << OUSAC_FIT_SCALE | 1 << OUSAC_COEFFICIENT_HOLD | 1 << OUSAC_COEFFICIENT_GAIN |
                        1 << OUSAC_COEFFICIENT_CHANGE | 1 << OUSAC_COEFFICIENT_EARLIER
};

/* The reference on some samples. */
typedef struct ousac_fit_target {
    ousac_sample_range range;
    size_t size, step_count; /* values of a sample; steps of the reference */
    double *timestep;        /* (step_count) */
    double *alpha, *sigma;   /* (step_count): the levels of the states */
    float *state;            /* (step_count + 1, count, size): before every step, and the samples */
    double *norm2;           /* (count): of the samples */
} ousac_fit_target;

/* Runs the reference; its gates are not looked at. Free with ousac_fit_target_free. NUMBER where a sample is all
 * zero. */
ousac_status ousac_fit_target_create(ousac_fit_target *target, const ousac_session *session,
                                     const ousac_schedule *reference, const ousac_sample_range *range,
                                     ousac_error *error);
void ousac_fit_target_free(ousac_fit_target *target);
/* The first `count` samples of a target, copied. */
ousac_status ousac_fit_target_part(ousac_fit_target *part, const ousac_fit_target *target, size_t count,
                                   ousac_error *error);
const float *ousac_fit_target_samples(const ousac_fit_target *target);

/* How a schedule is run. */
typedef struct ousac_fit_arm {
    const ousac_calibration *calibration; /* may be NULL */
    int exact;                            /* 1: every gate full */
} ousac_fit_arm;
/* With the calibration, or, where there is none, as its gates say, or in full where those need factors. */
ousac_fit_arm ousac_fit_arm_of(const ousac_schedule *schedule, const ousac_calibration *calibration);

typedef struct ousac_fit_options {
    unsigned numbers;  /* bits, 1 << kind */
    double step_ridge; /* of the stepwise fit; 0 for OUSAC_FIT_STEP_RIDGE */
    double ridge;      /* of newton; 0 for OUSAC_FIT_RIDGE */
    int stepwise;      /* 1: step by step first */
    size_t jacobians;  /* of newton: how often the columns are measured; 0: stepwise only */
    size_t knots; /* of newton: directions a kind of number, spread over the steps; 0: every number is one */
    ousac_fit_arm arm;
    /* NULL, or other samples of the same reference: the stepwise fit goes by them once more, and takes the mean of both
     * fits' numbers, weighted by samples. About as good as one fit to all, and no more samples walk together. */
    const ousac_fit_target *beside;
} ousac_fit_options;

#define OUSAC_FIT_KNOTS 4 /* a literal, like every default: help prints it as it stands */
#define OUSAC_FIT_STEP_RIDGE 1e-4
#define OUSAC_FIT_RIDGE 1e-6

typedef struct ousac_fit_report {
    double before, stepwise, after; /* relative errors on the validation samples: as given, after the passes,
                                       as kept */
    double fitted;         /* of a fit, on the samples it was fitted to, before a mean with others beside */
    size_t columns, steps; /* of newton: columns measured, steps taken */
    uint64_t evaluations;  /* branch evaluations, summed over samples */
    double seconds;
    int diverged; /* 1: some fit met states that are not finite, and was left out */
} ousac_fit_report;

/* Fits the schedule in place: never worse than before on the validation samples. `fitting` and `validation`
 * are of disjoint samples of the same reference. */
ousac_status ousac_fit_schedule(const ousac_session *session, const ousac_fit_options *options,
                                const ousac_fit_target *fitting, const ousac_fit_target *validation,
                                ousac_schedule *schedule, ousac_fit_report *report, ousac_error *error);

/* How the error on the validation samples falls with the number of samples fitted: stepwise fits of the schedule
 * with the first 1/8, 1/4, 1/2 and all of them, as far as that makes a micro-batch. */
enum { OUSAC_FIT_CURVE = 4 };
typedef struct ousac_fit_curve {
    size_t points;
    size_t samples[OUSAC_FIT_CURVE];
    double error[OUSAC_FIT_CURVE];
    size_t enough; /* the least of them within 5 % of the least error */
} ousac_fit_curve;
ousac_status ousac_fit_learning(const ousac_session *session, const ousac_fit_options *options,
                                const ousac_fit_target *fitting, const ousac_fit_target *validation,
                                const ousac_schedule *schedule, ousac_fit_curve *curve, ousac_error *error);

/* `steps` of the reference's steps, evenly chosen from the first on, as they are: what a user runs who wants
 * to pay less. USAGE where it has not so many. Free with ousac_schedule_free. */
ousac_status ousac_fit_fewer_steps(ousac_schedule *schedule, const ousac_schedule *reference, size_t steps,
                                   ousac_error *error);
/* The same, step i of S being the reference's step floor(N (i / S)^power) of N, or the next that is not taken yet:
 * below 1 closer together at the end, where there is least noise; 1 evenly. OUSAC_FIT_TO_THE_END in place of a power: every
 * p-th of them and then each of the last ones, for the least p that leaves at least two of those; evenly where none does. */
#define OUSAC_FIT_TO_THE_END 0.0
ousac_status ousac_fit_spaced_steps(ousac_schedule *schedule, const ousac_schedule *reference, size_t steps,
                                    double power, ousac_error *error);

/* The relative error of the schedule's samples against the target's. */
ousac_status ousac_fit_measure(const ousac_session *session, const ousac_fit_arm *arm,
                               const ousac_fit_target *target, const ousac_schedule *schedule,
                               double *relative_error, uint64_t *evaluations, ousac_error *error);

#endif
