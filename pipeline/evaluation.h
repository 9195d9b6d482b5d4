/* What a bundle is worth: calibrated runs against the exact ones on samples that neither calibration nor
 * validation has seen, their cost by the model and as executed, and their time. Keys of the JSON form:
 * formats/EVAL.md.
 *
 * Four runs of the same samples (same noise, same labels):
 *     exact       the schedule, every gate full
 *     calibrated  the schedule, cached evaluations corrected by the bundle
 *     reuse       the schedule, cached evaluations reuse module outputs uncorrected
 *     reference   constant guidance, uncached; the exact run itself where the two schedules are the same
 */
#ifndef OUSAC_EVALUATION_H
#define OUSAC_EVALUATION_H

#include "calib/cost.h"
#include "pipeline/fine.h"
#include "pipeline/session.h"
#include "profile/bundle/provenance.h"
#include "profile/run/evaluate.h"
#include "profile/run/executor.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_DEFAULT_TEST_SAMPLES 24

typedef enum ousac_eval_arm {
    OUSAC_EVAL_EXACT = 0,
    OUSAC_EVAL_CALIBRATED = 1,
    OUSAC_EVAL_REUSE = 2,
    OUSAC_EVAL_REFERENCE = 3,
    OUSAC_EVAL_ARMS = 4
} ousac_eval_arm;

typedef struct ousac_eval_run {
    float *samples; /* (count, channels, height, width) */
    double seconds; /* wall time of the run */
    ousac_counters counters;
    uint64_t
        model_macs; /* of all samples, by the cost model; equal to counters.macs or the evaluation fails */
} ousac_eval_run;

/* One comparison: `arm` against `against`. */
typedef struct ousac_eval_pair {
    ousac_eval_arm arm, against;
    ousac_difference difference;
} ousac_eval_pair;

enum { OUSAC_EVAL_PAIRS = 5 };

typedef struct ousac_eval {
    ousac_sample_range range;
    uint64_t seed;
    size_t micro_batch, threads;
    size_t steps;
    char model_digest[OUSAC_DIGEST_CHARS];
    char schedule_digest[OUSAC_DIGEST_CHARS];
    char reference_digest[OUSAC_DIGEST_CHARS];
    char schedule_name[OUSAC_SCHEDULE_NAME_BYTES]; /* what they are called, see ousac_schedule_called */
    char reference_name[OUSAC_SCHEDULE_NAME_BYTES];
    size_t reference_steps;
    int reference_same;     /* 1: the reference is the exact run */
    double reference_scale; /* constant guidance of a reference made here; 0 for one that was given or for
                               none */
    char plan_name[OUSAC_NAME_BYTES], plan_method[OUSAC_NAME_BYTES];
    char note[OUSAC_ERROR_MESSAGE_BYTES];
    int held_out; /* 1: known to be disjoint from the samples that made the bundle */
    ousac_eval_run run[OUSAC_EVAL_ARMS];
    ousac_eval_pair pair[OUSAC_EVAL_PAIRS];
    ousac_cost_total cost;   /* of one sample; `constant_guidance` is that of the schedule's own steps */
    uint64_t reference_macs; /* of one sample: the 100 % of every share */
    ousac_headline headline; /* calibrated, and as many of the reference's steps as cost nearest to it */
    ousac_fine fine; /* the same, the reference and the exact run against a fine run; steps 0 without one */
} ousac_eval;

typedef struct ousac_eval_options {
    const ousac_schedule *schedule;
    const ousac_plan *plan;
    const ousac_calibration *calibration;
    const ousac_schedule *reference; /* NULL: the schedule's own timesteps at constant guidance */
    double reference_scale; /* of such a reference; NAN: the median of the schedule's guided scales */
    ousac_sample_range range;
    int held_out;
    const ousac_schedule *fitted; /* fewer steps that were fitted, for the headline; NULL: none */
    size_t fine;                  /* steps of a fine run, pipeline/fine.h; 0: none */
} ousac_eval_options;

/* Runs everything. INTERNAL where the executor's MACs are not the cost model's. Free with ousac_eval_free. */
ousac_status ousac_eval_create(ousac_eval *result, const ousac_session *session,
                               const ousac_eval_options *options, ousac_error *error);
void ousac_eval_free(ousac_eval *result);

/* Whether samples may be reported under the provenance of a bundle: USAGE naming the range that they overlap,
 * which `force` turns into a warning. *held_out says what is known. */
ousac_status ousac_eval_check_samples(const ousac_session *session, const ousac_provenance *provenance,
                                      const ousac_sample_range *range, uint64_t seed, int force,
                                      int *held_out, ousac_error *error);

const char *ousac_eval_arm_name(ousac_eval_arm arm);

#endif
