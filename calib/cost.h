/* The cost model: multiply-accumulates (MACs) from shapes alone, per sample.
 *
 * A linear site costs N m n exactly and N r (m + n) when corrected at rank r; where r (m + n) >= m n the
 * exact product is cheaper (the dense fallback, error 0). A module is *live* when every one of its stages has
 * a site of rank > 0; a module with a dead stage has a frozen output, so it is reused and costs nothing. A
 * live module adds its fixed cost (attention 2 N^2 d). The blocks' modulation (6 d^2 each) is computed at
 * every gate. At the gate `extrapolate` every module's output costs one multiply-accumulate per token and channel. Full
 * DiT block: 12 N d^2 + 2 N^2 d + 6 d^2. The accounting is that of ICC (arXiv 2505.05829): blocks only.
 */
#ifndef OUSAC_COST_H
#define OUSAC_COST_H

#include "calib/arch.h"
#include "formats/schedule.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ranks of a plan: site_count entries. A rank with rank * (m + n) >= m * n means the dense fallback where
 * that is on and a correction of that very rank where it is off. */
typedef struct ousac_ranks {
    const size_t *rank; /* NULL: every module of a cached evaluation is reused */
    int dense_fallback; /* 1 in use, 0 in tests of the low-rank path */
    int forecast;       /* 1: corrected sites extrapolate their last two refreshes, N (m + n) more each */
} ousac_ranks;

/* What a cached evaluation does at a site. */
typedef enum ousac_path {
    OUSAC_PATH_FROZEN = 0, /* rank 0: y = y_cached */
    OUSAC_PATH_LOW_RANK = 1,
    OUSAC_PATH_DENSE = 2,  /* the exact product */
    OUSAC_PATH_SKIPPED = 3 /* its module is not live */
} ousac_path;

/* Smallest rank at which the exact product is no dearer: ceil(m n / (m + n)). */
size_t ousac_cost_dense_rank(const ousac_site *site);
/* The largest and the smallest of them over all sites. */
size_t ousac_cost_largest_rank(const ousac_arch *arch);
size_t ousac_cost_smallest_rank(const ousac_arch *arch);
/* One rank for all sites, of each no more than its dense rank: rank (site_count). */
void ousac_cost_uniform(const ousac_arch *arch, size_t uniform, size_t *rank);
int ousac_cost_module_live(const ousac_arch *arch, size_t module, const ousac_ranks *ranks);
ousac_path ousac_cost_path(const ousac_arch *arch, size_t site, const ousac_ranks *ranks);

/* Per forward of one branch of one sample. */
uint64_t ousac_cost_site_full(const ousac_arch *arch, size_t site);
uint64_t ousac_cost_site_cached(const ousac_arch *arch, size_t site, const ousac_ranks *ranks);
uint64_t ousac_cost_module_cached(const ousac_arch *arch, size_t module, const ousac_ranks *ranks);
uint64_t ousac_cost_full(const ousac_arch *arch);
uint64_t ousac_cost_cached(const ousac_arch *arch, const ousac_ranks *ranks);
uint64_t ousac_cost_reuse(const ousac_arch *arch); /* other_macs */
/* Of the modules at a gate `extrapolate`, beside what reuse costs: N times the width of each output, summed. */
uint64_t ousac_cost_extrapolation(const ousac_arch *arch);

/* Of the constant groups, once a sample and branch: part of a trajectory, of no forward. */
uint64_t ousac_cost_constant(const ousac_arch *arch);

/* MACs of one sample's whole trajectory. `ranks` NULL: cached gates count as reuse. */
typedef struct ousac_cost_total {
    uint64_t constant_guidance; /* both branches at every step, uncached: the reference of papers; for a
                                   schedule with no guided step, one branch at every step */
    uint64_t schedule_full;     /* this schedule's branches, every gate full */
    uint64_t schedule_reuse;    /* this schedule's gates with cached steps at the cost of reuse: the floor */
    uint64_t schedule_cached;   /* this schedule's gates with `ranks` */
    uint64_t constant_groups;   /* part of all of these: ousac_cost_constant for each branch evaluated; of
                                   constant_guidance, for its branches */
    size_t forwards_full, forwards_cached, forwards_reuse,
        forwards_extrapolate; /* branch evaluations, effective gates */
    double cached_step;       /* MACs of a cached evaluation over a full one */
    double total;             /* schedule_cached / constant_guidance */
} ousac_cost_total;

ousac_status ousac_cost_trajectory(const ousac_arch *arch, const ousac_schedule *schedule,
                                   const ousac_ranks *ranks, ousac_cost_total *total, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
