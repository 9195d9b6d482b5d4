/* Ranks under an error model that is calibrated end to end, in the context of the plan it changes.
 *
 * Sums of local errors do not predict samples: what a lost direction costs depends on where it is lost and on
 * the rest of the plan. So the sites are put into classes (a region of blocks x a kind of group, calib/arch.h),
 * and around the present ranks r every class is measured: its ranks are lowered by a fraction, everything
 * else left alone, on the caller's evaluator with the same noise as all other measurements. With E the error
 * of the final sample, the model is
 *
 *     E^2(r') = E^2(r) + sum over classes c of  g_c * sum over sites s in c of (t_s(r'_s) - t_s(r_s)),
 *
 * t_s(r) = tail_s(r) / tail_s(0) the site's relative spectrum tail and g_c >= 0 what makes the model exact
 * for the class's own probe. That is separable, so the multiple-choice knapsack solves it with its dual bound
 * (calib/choose/allocate.h), within a trust region: no rank may leave [r / (1 + trust), r (1 + trust)]. The solution
 * is measured; where it is better it becomes the present plan and is probed again, else the region is halved.
 * It ends when the region holds no other plan worth a measurement, or the evaluations are spent.
 */
#ifndef OUSAC_DESCENT_H
#define OUSAC_DESCENT_H

#include "calib/arch.h"
#include "calib/choose/allocate.h"
#include "calib/choose/regions.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_descent_options {
    const ousac_curve *curves;       /* (site_count); their weights are not looked at */
    const size_t *start;             /* (site_count) ranks, within the budget */
    size_t regions;                  /* of blocks; 0 for 4. Never more than there are blocks */
    size_t granularity;              /* at least 1 */
    double trust;                    /* of the first round; 0 for 1: from half to twice the rank */
    size_t evaluations_max;          /* 0 for 40 */
    ousac_regions_evaluate evaluate; /* the error E of a plan (not its square) */
    void *self;
} ousac_descent_options;

typedef struct ousac_descent_report {
    size_t classes, evaluations, rounds; /* rounds: times that the classes were probed */
    double start, best;                  /* the evaluator's values: best <= start */
    double predicted; /* of the best plan, by the model that proposed it; start where none was */
    int converged;    /* 1: ended before the evaluations were spent */
} ousac_descent_report;

/* Of the allocation, error and bound are of the last model's E^2 / E^2(start), in which the plan it was made
 * around is its sum of weighted tails. `report` may be NULL. Errors: USAGE for options out of range or a
 * start beyond the budget; NUMBER where the evaluator gives NaN; what the evaluator returns. */
ousac_status ousac_allocate_descent(const ousac_arch *arch, uint64_t budget,
                                    const ousac_descent_options *options, ousac_allocation *allocation,
                                    ousac_descent_report *report, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
