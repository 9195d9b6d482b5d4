/* Choosing ranks under a MACs budget.
 *
 * A plan is judged by an error model that is separable over modules: E(plan) = sum over sites of
 * weight_s * tail_s(r_s), where tail is the site's error spectrum; a module that is not live leaves the whole
 * energy of all its sites, weight_s * tail_s(0). The budget is on the MACs of one cached forward. The
 * solution comes with a dual bound: no plan within the budget, of whatever whole ranks, has a modelled error
 * below `bound`. That certificate speaks of the model, not of images; end-to-end error is the caller's to
 * measure.
 */
#ifndef OUSAC_ALLOCATE_H
#define OUSAC_ALLOCATE_H

#include "calib/arch.h"
#include "calib/cost.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_curve {
    const double *lambda; /* falling, >= 0 */
    size_t count;
    double weight; /* >= 0, finite */
} ousac_curve;

typedef struct ousac_allocation {
    size_t
        *rank; /* site_count, ousac_free through ousac_allocation_free; dense sites hold their dense rank */
    uint64_t cost; /* MACs of one cached forward */
    uint64_t budget;
    double error;   /* modelled */
    double bound;   /* dual bound: the least modelled error any plan within the budget can have is >= bound */
    double gap;     /* (error - bound) / error, 0 where error is 0 */
    int exact;      /* 1: proved optimal among plans of this granularity */
    uint64_t nodes; /* of the exact search */
} ousac_allocation;

/* Largest r for which every site at rank r fits the budget (ousac_cost_cached <= budget). USAGE where not
 * even reuse fits, naming the floor as a fraction of a full forward. `curves` may be NULL (error, bound and
 * gap are then 0); bound is of the same relaxation as the knapsack's. */
ousac_status ousac_allocate_uniform(const ousac_arch *arch, const ousac_curve *curves, uint64_t budget,
                                    ousac_allocation *allocation, ousac_error *error);

typedef struct ousac_knapsack_options {
    size_t granularity;   /* ranks are multiples of this (or the dense rank), for instance 8; at least 1 */
    size_t rank_min;      /* of every site of a live module, rounded up to the granularity; 0 for none */
    int modules_may_stop; /* 1: a module may be switched off (reused) */
    const size_t *low, *high; /* (site_count) bounds of each rank, low <= high, or both NULL; `low` itself may
                                 be taken whatever the granularity. The bound of the allocation does not know
                                 them */
    uint64_t node_limit;      /* of the exact finish; 0 for a default of ten million */
} ousac_knapsack_options;

/* The multiple-choice knapsack with the module as the class: Lagrangian relaxation, then an exact finish. */
ousac_status ousac_allocate_knapsack(const ousac_arch *arch, const ousac_curve *curves, uint64_t budget,
                                     const ousac_knapsack_options *options, ousac_allocation *allocation,
                                     ousac_error *error);

/* Sets error, bound and gap of an allocation whose ranks, cost and budget are known. */
ousac_status ousac_allocate_grade(const ousac_arch *arch, const ousac_curve *curves,
                                  ousac_allocation *allocation, ousac_error *error);

/* Modelled error of any plan. */
double ousac_allocate_error(const ousac_arch *arch, const ousac_curve *curves, const ousac_ranks *ranks);

void ousac_allocation_free(ousac_allocation *allocation);

#ifdef __cplusplus
}
#endif
#endif
