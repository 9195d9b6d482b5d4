/* At which steps guidance is left out: a shortest path.
 *
 * A step that evaluates the conditional branch alone may hold the difference e_c - e_u of the last guided step:
 * `hold` of formats/SCHEDULE.md. What that costs is measured on the trajectory that is guided everywhere. For
 * step j and a step a before it, with the factor c that brings the older difference nearest,
 *
 *     rest(j, a) = || d_j - c d_(j-a) ||^2,   d = e_c - e_u where guidance acts
 *
 * and E(j) is the relative squared error of the final sample where step j alone holds the difference of the step
 * before it. Leaving out the unconditional branch of step j, a steps after a guided one, then has the amplitude
 *
 *     sqrt(E(j) rest(j, a) / rest(j, 1))
 *
 * of calib/choose/placement.h, whose shortest path says which steps are guided. The first one always is.
 */
#ifndef OUSAC_GUIDE_H
#define OUSAC_GUIDE_H

#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ousac_guide {
    size_t steps, horizon; /* ages 1 to horizon - 1 are known */
    double *amplitude;     /* (steps, horizon) */
    uint64_t evaluations;  /* branch evaluations that it took, summed over samples */
} ousac_guide;

#define OUSAC_GUIDE_SAMPLES 4
#define OUSAC_GUIDE_HORIZON 12

/* Runs the schedule, whose gates are not looked at, in full. USAGE where a step is not guided. Free with
 * ousac_guide_free. */
ousac_status ousac_guide_create(ousac_guide *guide, const ousac_session *session,
                                const ousac_schedule *schedule, const ousac_sample_range *range,
                                ousac_error *error);
void ousac_guide_free(ousac_guide *guide);

/* The schedule with `guided` of its steps guided; the others hold what its scale asks for. *predicted: the
 * relative error that this adds, by the amplitudes. USAGE for more steps than there are, or fewer than the horizon
 * allows. Free `sparse` with ousac_schedule_free. */
ousac_status ousac_guide_place(const ousac_guide *guide, const ousac_schedule *schedule, size_t guided,
                               ousac_schedule *sparse, double *predicted, ousac_error *error);

/* The fewest guided steps of a schedule of so many that the horizon allows. */
size_t ousac_guide_least(size_t steps);

#endif
