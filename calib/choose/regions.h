/* Ranks by regions of blocks, chosen on the end-to-end error: the allocation of OUSAC (arXiv 2512.14096).
 *
 * The blocks are cut into K contiguous regions of (nearly) equal length, and every site of a region has the
 * region's rank. Where a model has blocks of several kinds (calib/arch.h), those of each kind are cut, so that
 * block b of the L of its kind belongs to region floor(b K / L). From the largest uniform rank that fits
 * the budget, coordinate descent on an error that the caller measures: one region's rank is moved by a step,
 * up or down, and the other regions by a common number, the largest with which a cached forward still fits;
 * what is then left is spent rank by rank. A move that lowers the error is kept and repeated; when none of
 * the 2 K moves does, the step is halved, until it is below 1 or the evaluations are spent. Without a bound
 * and deterministic: the evaluator decides alone.
 */
#ifndef OUSAC_REGIONS_H
#define OUSAC_REGIONS_H

#include "calib/arch.h"
#include "calib/choose/allocate.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_REGIONS_MAX = 16, OUSAC_REGIONS_DEFAULT = 4, OUSAC_REGIONS_EVALUATIONS = 40 };

/* The error of a plan, `rank` per site; +inf for one that is of no use. Must be the same for the same ranks.
 */
typedef ousac_status (*ousac_regions_evaluate)(void *self, const size_t *rank, double *value,
                                               ousac_error *error);

typedef struct ousac_regions_options {
    size_t regions;            /* K, at most OUSAC_REGIONS_MAX; 0 for 4. Never more than there are blocks */
    size_t rank_min, rank_max; /* of every region; rank_max 0: the largest dense rank of a site */
    size_t evaluations_max;    /* 0 for 40 */
    ousac_regions_evaluate evaluate;
    void *self;
} ousac_regions_options;

typedef struct ousac_regions_report {
    size_t region_count;
    size_t rank[OUSAC_REGIONS_MAX]; /* of each region */
    size_t evaluations;             /* calls of the evaluator, the start's included */
    double start, best;             /* its values at the uniform start and at the end: best <= start */
    int converged;                  /* 1: no move helped any more; 0: the evaluations were spent */
} ousac_regions_report;

/* `report` may be NULL; of the allocation error, bound, gap and exact are 0. Errors: USAGE for options out of
 * range, or where the budget does not hold rank_min everywhere; NUMBER where the evaluator gives NaN; what
 * the evaluator returns. */
ousac_status ousac_allocate_regions(const ousac_arch *arch, uint64_t budget,
                                    const ousac_regions_options *options, ousac_allocation *allocation,
                                    ousac_regions_report *report, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
