/* Recording until more samples would change little.
 */
#ifndef OUSAC_RECORD_AUTO_H
#define OUSAC_RECORD_AUTO_H

#include "pipeline/budget.h"
#include "pipeline/record.h"

#define OUSAC_DEFAULT_AUTO_FIRST 16
#define OUSAC_DEFAULT_AUTO_MOST 256
/* On the shipped model 32 samples exceed it (2.4 %) and 64 do not (1.2 %). */
#define OUSAC_DEFAULT_TOLERANCE 0.02

typedef struct ousac_record_auto_options {
    double tolerance;
    size_t most; /* samples; used in full micro-batches, four at a time */
    ousac_budget budget;
} ousac_record_auto_options;
ousac_status ousac_record_auto_check(const ousac_record_auto_options *automatic, size_t micro_batch,
                                     ousac_error *error);

/* As many samples from 0 as it takes until the upper limit of the excess is within the tolerance, at the uniform ranks
 * of a budget, or until there are `most`. The profile is that of ousac_record_profile on as many samples, byte for
 * byte; five more of its size are held meanwhile, spilled as it is. What was found is left in cost->convergence.
 * options->range and options->partial are not looked at; the rounds run in this process alone. USAGE where no layer is
 * corrected. */
ousac_status ousac_record_auto(const ousac_session *session, const ousac_schedule *schedule,
                               const ousac_record_options *options,
                               const ousac_record_auto_options *automatic, ousac_profile **profile,
                               ousac_record_cost *cost, ousac_error *error);

#endif
