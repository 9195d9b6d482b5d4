/* The state that profiling leaves beside its output, OUTPUT.part, so that the same command goes on from it.
 *
 * A partial is an ordinary profile of the samples recorded so far, written atomically: `ousac inspect` and
 * `ousac verify` read it. Its metadata "run" says besides what it is a part of (formats/PROFILE.md). While
 * the pilot runs it is the pilot's (without moments), and then the profile's, which carries the step weights;
 * so no pilot is run twice.
 */
#ifndef OUSAC_PIPELINE_PARTIAL_H
#define OUSAC_PIPELINE_PARTIAL_H

#include "pipeline/record.h"
#include "pipeline/session.h"
#include "profile/record/checkpoint.h"

#define OUSAC_DEFAULT_CHECKPOINT_S 120

typedef struct ousac_partial_options {
    double every_s;
    int restart;
} ousac_partial_options;

struct ousac_partial {
    char *path; /* owned */
    double every_s;
    int restart;         /* 1: what there was has been discarded */
    const char *weights; /* OUSAC_WEIGHTS_...: of the profile to be made; NULL: a pilot is to be made */
    /* What an earlier run left; NULL for none, and once it has been taken. */
    ousac_profile *held;
    char *held_path; /* owned: of the file that it came from */
    char held_weights[8];
    ousac_sample_range held_of; /* the samples that it is a part of */
    ousac_record_cost held_cost;
    int exists;    /* 1: a file stands under `path` */
    uint64_t kept; /* samples in it */
    /* of the recording under way: */
    ousac_checkpoint checkpoint;
    const ousac_session *session;
    const ousac_profile *profile;
    ousac_record_cost before, *cost; /* what was spent before it began; what it will have cost */
    uint64_t samples_before, evaluations;
    double started;
    ousac_sample_range of;
};

/* The partial of OUTPUT: loads what is there, or with `restart` removes it. `whole` NULL, or a complete
 * profile that stands in for a partial that is not there, where that file exists. Errors: those of reading,
 * with the advice to --restart. Free with ousac_partial_free, also after a failure. */
ousac_status ousac_partial_open(ousac_partial *partial, const char *output,
                                const ousac_partial_options *options, const char *weights, const char *whole,
                                ousac_error *error);
void ousac_partial_free(ousac_partial *partial);

/* 1 where the pilot is over: what is held has the step weights already. */
int ousac_partial_has_weights(const ousac_partial *partial);

/* The step weights held, as a pilot without sums, and its samples as cost->pilot. MISMATCH where they are of
 * another model, schedule or pilot. */
ousac_status ousac_partial_pilot(const ousac_partial *partial, uint64_t samples, ousac_profile *pilot,
                                 ousac_record_cost *cost, ousac_error *error);

/* Adds what is held to the empty `profile`, takes those samples off `range` and adds what they cost.
 * MISMATCH, saying what differs, where what is held is no part of this profile. */
ousac_status ousac_partial_resume(ousac_partial *partial, ousac_profile *profile, ousac_sample_range *range,
                                  ousac_record_cost *cost, ousac_error *error);

/* Recording with checkpoints: observers to run with instead of `inner`. */
const ousac_run_observers *ousac_partial_begin(ousac_partial *partial, const ousac_session *session,
                                               const ousac_sample_range *of, const ousac_profile *profile,
                                               const ousac_record_cost *cost,
                                               const ousac_run_observers *inner);
/* After a run that ended with `status`: where it was interrupted, saves what is not saved yet and says in the
 * message what is kept. Returns the status, or that of saving. */
ousac_status ousac_partial_end(ousac_partial *partial, ousac_status status, ousac_error *error);

/* Removes the file, where there is one: the output is complete. */
void ousac_partial_remove(ousac_partial *partial, const ousac_session *session);

#endif
