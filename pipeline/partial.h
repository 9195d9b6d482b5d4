/* The state that profiling leaves beside its output, OUTPUT.part, so that the same command goes on from it.
 *
 * A partial is an ordinary profile of the samples recorded so far, written atomically: `ousac inspect` and
 * `ousac verify` read it. Its metadata "run" says besides what it is a part of (formats/PROFILE.md). While
 * the pilot runs it is the pilot's (without moments), and then the profile's, which carries the step weights;
 * so no pilot is run twice.
 */
#ifndef OUSAC_PIPELINE_PARTIAL_H
#define OUSAC_PIPELINE_PARTIAL_H

#include "pipeline/pipeline.h"
#include "profile/record/checkpoint.h"

#define PIPELINE_CHECKPOINT_S 120.0

/* Where the step weights of a profile come from. */
#define PIPELINE_WEIGHTS_PILOT "pilot"
#define PIPELINE_WEIGHTS_PLAIN "plain"
#define PIPELINE_WEIGHTS_FILE "file"

typedef struct pipeline_partial_options {
    double every_s;
    int restart;
} pipeline_partial_options;

/* Rows of a command's option table. */
#define PIPELINE_PARTIAL_OPTIONS(options)                                                                    \
    {"checkpoint-every",                                                                                     \
     0,                                                                                                      \
     CLI_REAL,                                                                                               \
     &(options)->every_s,                                                                                    \
     0,                                                                                                      \
     1e9,                                                                                                    \
     0,                                                                                                      \
     "SECONDS",                                                                                              \
     "least time between two saves of the partial profile; 0 saves after every micro-batch (default 120)"},  \
    {                                                                                                        \
        "restart", 0, CLI_FLAG, &(options)->restart, 0, 0, 0, NULL,                                          \
            "discard what an interrupted run left, and begin anew"                                           \
    }

struct pipeline_partial {
    char *path; /* owned */
    double every_s;
    int restart;         /* 1: what there was has been discarded */
    const char *weights; /* PIPELINE_WEIGHTS_...: of the profile to be made; NULL: a pilot is to be made */
    /* What an earlier run left; NULL for none, and once it has been taken. */
    ousac_profile *held;
    char *held_path; /* owned: of the file that it came from */
    char held_weights[8];
    cli_range held_of; /* the samples that it is a part of */
    pipeline_cost held_cost;
    int exists;    /* 1: a file stands under `path` */
    uint64_t kept; /* samples in it */
    /* of the recording under way: */
    ousac_checkpoint checkpoint;
    const pipeline_runs *runs;
    const ousac_profile *profile;
    pipeline_cost before, *cost; /* what was spent before it began; what it will have cost */
    uint64_t samples_before, evaluations;
    double started;
    cli_range of;
};

/* The partial of OUTPUT: loads what is there, or with `restart` removes it. `whole` NULL, or a complete
 * profile that stands in for a partial that is not there, where that file exists. Errors: those of reading,
 * with the advice to --restart. Free with pipeline_partial_free, also after a failure. */
ousac_status pipeline_partial_open(pipeline_partial *partial, const char *output,
                                   const pipeline_partial_options *options, const char *weights,
                                   const char *whole, ousac_error *error);
void pipeline_partial_free(pipeline_partial *partial);

/* 1 where the pilot is over: what is held has the step weights already. */
int pipeline_partial_has_weights(const pipeline_partial *partial);

/* The step weights held, as a pilot without sums, and its samples as cost->pilot. MISMATCH where they are of
 * another model, schedule or pilot. */
ousac_status pipeline_partial_pilot(const pipeline_partial *partial, uint64_t samples, ousac_profile *pilot,
                                    pipeline_cost *cost, ousac_error *error);

/* Adds what is held to the empty `profile`, takes those samples off `range` and adds what they cost.
 * MISMATCH, saying what differs, where what is held is no part of this profile. */
ousac_status pipeline_partial_resume(pipeline_partial *partial, ousac_profile *profile, cli_range *range,
                                     pipeline_cost *cost, ousac_error *error);

/* Recording with checkpoints: observers to run with instead of `inner`. */
const ousac_run_observers *pipeline_partial_begin(pipeline_partial *partial, const pipeline_runs *runs,
                                                  const cli_range *of, const ousac_profile *profile,
                                                  const pipeline_cost *cost,
                                                  const ousac_run_observers *inner);
/* After a run that ended with `status`: where it was interrupted, saves what is not saved yet and says in the
 * message what is kept. Returns the status, or that of saving. */
ousac_status pipeline_partial_end(pipeline_partial *partial, ousac_status status, ousac_error *error);

/* Removes the file, where there is one: the output is complete. */
void pipeline_partial_remove(pipeline_partial *partial);

#endif
