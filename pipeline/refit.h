/* What fitted numbers are worth where they were not fitted: whether a schedule must be fitted again.
 *
 * A fitted schedule belongs to its reference. Under every setting three runs of the same test samples are compared
 * with the reference's own there:
 *
 *     textbook     the schedule's steps with the reference's scales and no coefficients
 *     transferred  its fitted numbers as they are; under other scales its own times the new over the old
 *     refitted     fitted anew (pipeline/fit.h), from the textbook's, on a few samples of the setting
 *
 * Settings: as it was fitted; other noise and conditioning, by another seed; the reference under another scale; the
 * reference with half and with twice its steps. Besides, how the error falls with the number of fitting samples.
 *
 * Caches and forecast of a bundle stay at work where there is one.
 */
#ifndef OUSAC_REFIT_H
#define OUSAC_REFIT_H

#include "calib/stats/paired.h"
#include "pipeline/fit.h"
#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

/* Fitting again pays where the transferred error is surely more than this times the refitted one. */
#define OUSAC_REFIT_THRESHOLD 1.1
#define OUSAC_REFIT_SAMPLES 16

enum { OUSAC_REFIT_SCALES_MAX = 8, OUSAC_REFIT_ROWS_MAX = 4 + OUSAC_REFIT_SCALES_MAX };

typedef enum ousac_refit_setting {
    OUSAC_REFIT_AS_FITTED = 0,
    OUSAC_REFIT_OTHER_SEED = 1,  /* the session's plus 1 */
    OUSAC_REFIT_OTHER_SCALE = 2, /* of the reference */
    OUSAC_REFIT_OTHER_STEPS = 3  /* likewise */
} ousac_refit_setting;
const char *ousac_refit_setting_name(ousac_refit_setting setting); /* "as fitted", "seed", "scale", "steps" */
#define OUSAC_REFIT_WORDS "seed|scale|steps" /* bits of ousac_refit_options.settings, 1 << setting - 1 */

typedef struct ousac_refit_options {
    const ousac_schedule *schedule;  /* fitted, gates closed */
    const ousac_schedule *reference; /* what it was fitted to: not fitted */
    ousac_fit_arm arm;
    unsigned numbers;           /* that are fitted again, bits as in ousac_fit_options */
    unsigned settings;          /* 1 << (setting - 1); OUSAC_REFIT_AS_FITTED is always among them */
    const double *scale;        /* (scale_count), each finite and not the reference's; above 0 */
    size_t scale_count;         /* 0: two thirds and four thirds of the reference's */
    size_t fitting, validation; /* samples, from 0 and behind those */
    ousac_sample_range test;    /* behind those */
    double threshold;
} ousac_refit_options;

typedef struct ousac_refit_row {
    ousac_refit_setting setting;
    double value; /* the seed, the scale, the steps of the reference; NAN as fitted */
    ousac_interval textbook, transferred, refitted; /* relative errors on the test samples */
    ousac_interval ratio;                           /* transferred over refitted, paired */
    ousac_paired_verdict verdict;                   /* ABOVE: fit again */
    size_t more;          /* of test samples, that might decide; 0 where none might or it is decided */
    uint64_t evaluations; /* branch evaluations of fitting again, the reference's not counted */
    int diverged;         /* 1: the fit met states that are not finite: the textbook's numbers stand */
} ousac_refit_row;

/* Fits from the textbook with the first 1/8, 1/4, 1/2 and all of the fitting samples, as far as that makes a
 * micro-batch. */
typedef struct ousac_refit_point {
    size_t samples;
    double validation;   /* relative error on the validation samples, which accept the fit */
    ousac_interval test; /* on the test samples */
} ousac_refit_point;

typedef struct ousac_refit {
    ousac_sample_range fitting, validation, test;
    double threshold, scale; /* of the reference, the mean over its guided steps; NAN where none is */
    size_t reference_steps, steps;
    ousac_refit_row row[OUSAC_REFIT_ROWS_MAX];
    size_t row_count;
    ousac_refit_point point[OUSAC_FIT_CURVE];
    size_t point_count;
    size_t enough; /* the least of them within 5 % of the least test error */
    double seconds;
} ousac_refit;

/* What can be judged before anything is run. USAGE: a reference that is fitted, a schedule that is not, test samples
 * among the others, scales for a reference without guidance, or out of range. */
ousac_status ousac_refit_check(const ousac_refit_options *options, size_t micro_batch, ousac_error *error);

/* Runs everything. Errors: those of ousac_refit_check and of the runs. Nothing is to be freed. */
ousac_status ousac_refit_run(const ousac_session *session, const ousac_refit_options *options,
                             ousac_refit *result, ousac_error *error);

/* The reference with twice its steps: one more between each two, in the middle of their timesteps, and one between
 * the last and the end where that is at least half as far. Scales are those of the step before; gates full. Free
 * with ousac_schedule_free. */
ousac_status ousac_refit_double_steps(ousac_schedule *schedule, const ousac_schedule *reference,
                                      ousac_error *error);
/* Scales of guided steps times `factor`. */
void ousac_refit_scale(ousac_schedule *schedule, double factor);
/* The schedule's steps with the scales of the reference's nearest ones and no coefficients. */
ousac_status ousac_refit_textbook(ousac_schedule *plain, const ousac_schedule *schedule,
                                  const ousac_schedule *reference, ousac_error *error);

#endif
