/* What computing in bfloat16 does to the statistics: the same pilot and the same samples in both precisions.
 */
#ifndef OUSAC_COMPUTE_EFFECT_H
#define OUSAC_COMPUTE_EFFECT_H

#include "formats/status.h"
#include "pipeline/session.h"
#include "profile/record/profile.h"

#include <stdint.h>

typedef struct ousac_compute_effect {
    uint64_t samples; /* 0:samples, the pilot's */
    double energy;    /* relative change of the delta energy at cached evaluations, summed over the groups */
    double worst;     /* the largest relative change of one group's */
    char group[OUSAC_NAME_BYTES]; /* which one */
    double output; /* relative error of the final samples of the exact trajectory against float32's */
} ousac_compute_effect;

/* `runs` has the bfloat16 model, `options` what it was loaded by, `pilot` its pilot on samples 0:samples or
 * NULL to run one. The float32 runs and those of NULL are not counted into any profile. */
ousac_status ousac_compute_effect_measure(const ousac_session *session, const ousac_session_model *options,
                                          const ousac_schedule *schedule, uint64_t samples,
                                          const ousac_profile *pilot, ousac_compute_effect *effect,
                                          ousac_error *error);

#endif
