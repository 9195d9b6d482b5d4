/* Steps at which a trajectory's features turn back: where the Gradient-Optimized Cache (GOC, arXiv 2503.05156) does
 * not let a change go on.
 *
 * With a_i the outputs of all modules and branches at step i, averaged over samples of the exact run, step i is an
 * inflection where <a_i - a_(i-1), a_(i-1) - a_(i-2)> is negative.
 */
#ifndef OUSAC_INFLECTION_H
#define OUSAC_INFLECTION_H

#include "pipeline/session.h"

/* `inflection` (step_count): 1 at one, else 0; the first two steps that a branch evaluates are none. All samples
 * [0, samples) run together, in one micro-batch and thread, which takes three outputs of every module beside that. */
ousac_status ousac_inflection_find(const ousac_session *session, const ousac_schedule *schedule,
                                   size_t samples, unsigned char *inflection, ousac_error *error);

#endif
