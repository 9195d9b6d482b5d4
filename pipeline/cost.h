/* What recording a profile cost and how it converged, as a profile's metadata "run" says it (formats/PROFILE.md).
 */
#ifndef OUSAC_RECORD_COST_H
#define OUSAC_RECORD_COST_H

#include "formats/json_build.h"
#include "pipeline/session.h"

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

/* Adds a cost and what is known of this process. `reproducible` 1: without what differs from run to run (time, memory,
 * threads), so that the same samples give the same bytes. */
void ousac_record_cost_put(ousac_json_doc *doc, cJSON *object, const ousac_session *session,
                           const ousac_record_cost *cost, int reproducible);
void ousac_record_convergence_put(ousac_json_doc *doc, cJSON *object, const ousac_record_convergence *found);

/* Saves a profile with what it cost. */
ousac_status ousac_record_save(const ousac_session *session, const ousac_profile *profile, const char *path,
                               const ousac_record_cost *cost, int reproducible, ousac_error *error);

#endif
