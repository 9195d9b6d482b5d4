/* Where each branch refreshes its cache: a shortest path.
 *
 * A branch is evaluated `count` times, 0..count-1. A refresh at evaluation i serves the cached evaluations
 * after it, up to the next one; evaluation i + a, cached a evaluations after its refresh, adds an error of
 * known amplitude (root mean square, on the final sample) to the result. What the evaluations of one interval
 * leave out is much the same from one to the next, so within an interval amplitudes add; intervals are taken
 * as independent, so between them squares add:
 *
 *     error^2 = sum over intervals (sum over its cached evaluations amplitude)^2
 *
 * Evaluation 0 always refreshes. For every number of refreshes the best placement of a branch is a shortest
 * path over (evaluation, refreshes used); branches are independent given how many refreshes each gets, which
 * is tried out in full.
 */
#ifndef OUSAC_PLACEMENT_H
#define OUSAC_PLACEMENT_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_placement_branch {
    size_t count; /* evaluations; 0 for a branch that is never evaluated */
    const double
        *amplitude; /* (count, horizon): [j * horizon + a], a = 1..min(j, horizon - 1); >= 0, finite */
} ousac_placement_branch;

/* Places `refreshes` refreshes over the branches; refresh[b] (count of branch b) becomes 1 at refreshes, else
 * 0. An interval holds fewer than `horizon` evaluations besides its refresh, horizon >= 2. *error: of the
 * model above. USAGE where the number is more than the evaluations or too few for the horizon, naming the
 * least; NUMBER for an amplitude that is negative or not finite. Time: O(branches x count x horizon x
 * refreshes). */
ousac_status ousac_placement_solve(const ousac_placement_branch *branches, size_t branch_count,
                                   size_t horizon, size_t refreshes, unsigned char *const *refresh,
                                   double *placement_error, ousac_error *error);

/* The same error of a given placement, for comparison. USAGE where evaluation 0 is not a refresh or an
 * interval is longer than the horizon. */
ousac_status ousac_placement_error(const ousac_placement_branch *branches, size_t branch_count,
                                   size_t horizon, unsigned char *const *refresh, double *placement_error,
                                   ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
