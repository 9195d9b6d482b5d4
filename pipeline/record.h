/* Recording: exact runs of samples into a profile, and the pilot that finds its step weights.
 */
#ifndef OUSAC_RECORD_H
#define OUSAC_RECORD_H

#include "pipeline/session.h"
#include "profile/record/run_text.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_DEFAULT_TOKENS 64 /* of a sample that are recorded, where it has more */
#define OUSAC_DEFAULT_PILOT_SAMPLES 8
#define OUSAC_DEFAULT_CALIBRATION_SAMPLES 48

/* The state that an interrupted recording leaves and goes on from: pipeline/partial.h. */
typedef struct ousac_partial ousac_partial;

/* An exact run of samples [0, samples), recorded without moments; its step weights are set. Where `partial` (may be
 * NULL) holds the weights of an earlier run, nothing is run, and the pilot has weights but no sums. */
ousac_status ousac_record_pilot(const ousac_session *session, const ousac_schedule *schedule,
                                uint64_t samples, ousac_partial *partial, ousac_profile **pilot,
                                ousac_record_cost *cost, ousac_error *error);

/* Step weights of a pilot (or of any profile) in a file, and its samples as cost->pilot: MISMATCH where it is of
 * another model, schedule or seed. */
ousac_status ousac_record_load_weights(const ousac_session *session, const ousac_schedule *schedule,
                                       const char *path, ousac_profile **weights, ousac_record_cost *cost,
                                       ousac_error *error);

/* The same of what was computed in other numbers than the session's. */
ousac_status ousac_record_load_weights_of(const ousac_session *session, const ousac_schedule *schedule,
                                          ousac_compute compute, const char *path, ousac_profile **weights,
                                          ousac_record_cost *cost, ousac_error *error);

/* Sets the step weights of a profile recorded without moments from its sums: a pilot. MEMORY. */
ousac_status ousac_record_weigh(ousac_profile *pilot, ousac_error *error);

typedef struct ousac_record_options {
    ousac_sample_range range;
    int magnitudes;               /* 1: channel magnitudes too, which ca-svd and cd-svd factors need */
    size_t tokens;                /* per sample and refresh; 0: min(N, OUSAC_DEFAULT_TOKENS) */
    size_t segments;              /* at least 1 */
    const ousac_profile *weights; /* NULL: every step weighs 1 */
    ousac_partial *partial;       /* NULL: an interrupted recording leaves nothing */
    const char *spill;            /* NULL, or a directory in which to keep the moments */
} ousac_record_options;

/* USAGE where so many tokens of a sample cannot be recorded. */
ousac_status ousac_record_check_tokens(const ousac_model *model, size_t tokens, ousac_error *error);

/* USAGE where the schedule has fewer steps than that. */
ousac_status ousac_record_check_segments(const ousac_schedule *schedule, size_t segments, ousac_error *error);

/* The identity of what `options` ask for. */
ousac_profile_identity ousac_record_identity(const ousac_session *session,
                                             const ousac_record_options *options);

ousac_status ousac_record_profile(const ousac_session *session, const ousac_schedule *schedule,
                                  const ousac_record_options *options, ousac_profile **profile,
                                  ousac_record_cost *cost, ousac_error *error);

/* Adds a cost and what is known of this process. `reproducible` 1: without what differs from run to run (time, memory,
 * threads), so that the same samples give the same bytes. */
void ousac_record_cost_put(ousac_json_doc *doc, cJSON *object, const ousac_session *session,
                           const ousac_record_cost *cost, int reproducible);

/* Saves a profile with what it cost. */
ousac_status ousac_record_save(const ousac_session *session, const ousac_profile *profile, const char *path,
                               const ousac_record_cost *cost, int reproducible, ousac_error *error);

#endif
