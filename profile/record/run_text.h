/* What recording a profile cost and how it converged: the metadata "run" of a profile (formats/PROFILE.md), its one
 * author and its one reader.
 */
#ifndef OUSAC_RUN_TEXT_H
#define OUSAC_RUN_TEXT_H

#include "calib/arch.h"
#include "formats/json_build.h"
#include "profile/record/ranges.h"

#include <stddef.h>
#include <stdint.h>

/* How samples converged where their number was left to the recording: after every round, by how much the factors at
 * uniform ranks leave more than the best of these ranks would (calib/stats/convergence.h). */
enum { OUSAC_RECORD_ROUNDS_MAX = 96 };
typedef struct ousac_record_round {
    uint64_t samples;
    double excess, upper; /* averaged over layers: estimate and one-sided 95 % limit */
    double worst;         /* of a single layer */
    char worst_site[OUSAC_NAME_BYTES];
} ousac_record_round;
typedef struct ousac_record_convergence {
    size_t rounds; /* 0: the number of samples was given */
    int converged; /* the last limit is within the tolerance */
    double tolerance;
    double budget_step; /* the ranks at which it was judged, as MACs of a cached evaluation over a full one */
    ousac_record_round round[OUSAC_RECORD_ROUNDS_MAX];
} ousac_record_convergence;

typedef struct ousac_record_cost {
    double seconds;           /* over all the runs that it was interrupted into */
    uint64_t forwards;        /* branch evaluations, summed over samples */
    ousac_sample_range pilot; /* samples behind the step weights; count 0 for plain weights */
    ousac_record_convergence convergence;
} ousac_record_cost;

/* The process that recorded: what differs from run to run of the same samples. */
typedef struct ousac_record_process {
    uint64_t peak_bytes;
    size_t threads;
} ousac_record_process;

/* Where the step weights of a profile come from. */
#define OUSAC_WEIGHTS_PILOT "pilot"
#define OUSAC_WEIGHTS_PLAIN "plain"
#define OUSAC_WEIGHTS_FILE "file"

/* Adds the members. `process` NULL: without it and the time, so that the same samples give the same bytes. */
void ousac_run_text_put(ousac_json_doc *doc, cJSON *object, const char *backend,
                        const ousac_record_process *process, const ousac_record_cost *cost);
/* What a partial profile says besides: the samples that it is a part of, and where its weights are from. */
void ousac_run_text_put_part(ousac_json_doc *doc, cJSON *object, const ousac_sample_range *of,
                             const char *weights);

typedef struct ousac_run_text {
    ousac_record_cost cost;     /* without the convergence */
    ousac_sample_range part_of; /* count 0: of a complete profile, which names none */
    char weights[8];            /* OUSAC_WEIGHTS_...; "pilot" where it does not say */
} ousac_run_text;

/* Of a saved profile that was not merged. FORMAT where it has no such metadata or it is malformed. */
ousac_status ousac_run_text_read(const char *path, ousac_run_text *run, ousac_error *error);

/* The samples behind the step weights of a saved profile, merged ones included; none where it says nothing. */
ousac_status ousac_run_text_read_pilots(const char *path, ousac_used_ranges *pilots, ousac_error *error);

/* Adds the runs of a saved profile to an array: its one, or those of a profile that was merged; none where it says
 * nothing. FORMAT where the metadata is no JSON. */
ousac_status ousac_run_text_gather(ousac_json_doc *doc, cJSON *array, const char *path, ousac_error *error);

#endif
