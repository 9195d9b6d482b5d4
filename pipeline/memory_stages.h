/* What allocating, packing and evaluating take of memory (pipeline/memory_plan.h).
 */
#ifndef OUSAC_MEMORY_STAGES_H
#define OUSAC_MEMORY_STAGES_H

#include "pipeline/allocate.h"
#include "pipeline/memory_plan.h"
#include "profile/bundle/factorise.h"

#include <stddef.h>
#include <stdint.h>

/* A search for refreshes (pipeline/place.h) at its defaults: at most three contenders at a time, and the caches
 * of every age that its probe looks back to. */
typedef struct ousac_memory_placing {
    const ousac_model *model;
    const ousac_schedule *schedule; /* evenly spaced */
    size_t micro_batch, evaluations;
    uint64_t cached_macs;          /* of one cached evaluation */
    size_t probe_samples, horizon; /* 0 for the defaults */
} ousac_memory_placing;
void ousac_memory_list_placing(ousac_memory_plan *plan, const ousac_memory_placing *placing);

/* Factors of every site, and candidates that are fitted and run where anything is compared. */
typedef struct ousac_memory_allocating {
    const ousac_model *model;
    const ousac_schedule *schedule;
    ousac_method made_of;
    const size_t *rank_max; /* of the factors; NULL: below the dense rank */
    int runs;               /* 1: candidates are run */
    size_t candidates, forecasts;
    uint64_t validation, fitting; /* samples */
    uint64_t searched;            /* samples that a search runs in one evaluation */
    uint64_t evaluations;         /* of all searches */
    size_t micro_batch;
    uint64_t cached_macs; /* of one cached evaluation */
    int whole_profile;    /* 1: its moments are held too, unless they are spilled */
    size_t segments;
} ousac_memory_allocating;
/* What the options ask for; the rest is the caller's. */
void ousac_memory_take_options(ousac_memory_allocating *allocating, const ousac_choice_options *options);
/* The profile as it is held all the while. */
uint64_t ousac_memory_profile_bytes(const ousac_memory_plan *plan, const ousac_memory_allocating *allocating);
void ousac_memory_list_allocating(ousac_memory_plan *plan, const ousac_memory_allocating *allocating);

/* Writing the bundle: group by group, or, with `whole_set` 1, from the factors that allocating made. */
typedef struct ousac_memory_packing {
    const ousac_memory_allocating *from; /* the same model, schedule and factors */
    const size_t *rank_max;              /* directions stored */
    int whole_set;
} ousac_memory_packing;
void ousac_memory_list_packing(ousac_memory_plan *plan, const ousac_memory_packing *packing);

/* Running the plan, exact and calibrated, on `samples`; the factor set is still held. */
void ousac_memory_list_evaluating(ousac_memory_plan *plan, const ousac_memory_allocating *from,
                                  uint64_t samples);

#endif
