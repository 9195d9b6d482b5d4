/* What the steps of a calibration take of memory at their peak, from shapes alone: upper bounds, in bytes, of
 * what is allocated beside the process itself. What a bound leaves out is named where it is declared.
 */
#ifndef OUSAC_FOOTPRINT_H
#define OUSAC_FOOTPRINT_H

#include "calib/arch.h"
#include "formats/schedule.h"
#include "profile/bundle/factorise.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A profile without its moments. */
uint64_t ousac_footprint_profile(const ousac_arch *arch, size_t steps, int magnitudes);
/* All moments of `segments` segments; and the largest alone, as much of those in a spill as is in memory. */
uint64_t ousac_footprint_moments(const ousac_arch *arch, size_t segments);
uint64_t ousac_footprint_largest_moment(const ousac_arch *arch);

/* What a cache of `depth` full evaluations of `batch` samples keeps, for one branch, of each stream at most
 * `tokens` tokens (SIZE_MAX: all). */
uint64_t ousac_footprint_history(const ousac_arch *arch, size_t batch, size_t tokens, size_t depth);
/* How many branches the schedule evaluates. */
size_t ousac_footprint_branches(const ousac_schedule *schedule);

/* Of each thread that runs micro-batches of `batch` samples: the family's scratch and the sample's states,
 * not what its executor keeps. */
uint64_t ousac_footprint_forward(const ousac_model *model, size_t batch);
/* Of each thread: the caches of an executor that corrects by a calibration, and its temporaries. */
uint64_t ousac_footprint_executor(const ousac_model *model, size_t batch, size_t depth, size_t rank);

/* Of a walk (profile/run/walk.h), whose micro-batches are all alive at once: scratch, states and, where a schedule is
 * cached, caches and temporaries at a rank; depth 0: no cache is kept. */
uint64_t ousac_footprint_walk(const ousac_model *model, uint64_t count, size_t micro_batch, size_t depth,
                              size_t rank);

/* Of each thread that records: references, temporaries and, unless they are spilled, its own moments (of no
 * segment for a pilot), which see at most `tokens` of each stream of a sample. */
uint64_t ousac_footprint_witness(const ousac_arch *arch, const ousac_schedule *schedule, size_t batch,
                                 size_t tokens, size_t segments, int magnitudes, int spilled);

/* The factors of every site; rank_max NULL: the dense rank less 1, as everywhere in profile/bundle/factorise.h. */
uint64_t ousac_footprint_factor_set(const ousac_arch *arch, const size_t *rank_max);
/* Of each thread that makes them, the costliest group; `measures` 1: and measures what rounding adds
 * (profile/bundle/storage.h) before it goes on. */
uint64_t ousac_footprint_factorise(const ousac_arch *arch, ousac_method method, const size_t *rank_max,
                                   int measures);
/* Multiply-accumulates of the products behind the factors of every site; eigenproblems are not counted. */
uint64_t ousac_footprint_factorise_macs(const ousac_arch *arch, ousac_method method, const size_t *rank_max);

#ifdef __cplusplus
}
#endif
#endif
