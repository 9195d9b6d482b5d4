/* What a calibration that begins with a search will compute, stage by stage and at most: evaluations of one branch for
 * one sample, and their multiply-accumulates. Of no part of it is the time known before it is run; but the time of one
 * evaluation can be measured (`ousac time`), and is all that is missing.
 */
#ifndef OUSAC_SEARCH_BILL_H
#define OUSAC_SEARCH_BILL_H

#include "pipeline/search_outline.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ousac_search_charge {
    const char *what; /* static text */
    uint64_t evaluations, macs;
} ousac_search_charge;

enum { OUSAC_SEARCH_CHARGES = 12 };
typedef struct ousac_search_bill {
    ousac_search_charge charge[OUSAC_SEARCH_CHARGES];
    size_t count;
    size_t searching; /* the first so many are the search's own, the others of what follows a cached result */
    uint64_t evaluations, macs;
} ousac_search_bill;

/* What follows a search. */
typedef struct ousac_search_follows {
    uint64_t pilot, samples;                /* of the profile */
    uint64_t validation, fitting, searched; /* samples of the allocation */
    size_t candidates, forecasts;           /* plans compared, forecasts fitted */
    uint64_t evaluations;                   /* end-to-end runs of searches for ranks */
    uint64_t test;                          /* samples of the evaluation */
    size_t fine;                            /* steps of a fine run of those; 0 for none */
} ousac_search_follows;

void ousac_search_bill_make(const ousac_arch *arch, const ousac_schedule *reference,
                            const ousac_search_outline *outline, const ousac_search_follows *follows,
                            ousac_search_bill *bill);

/* The cached candidate of most steps that may be measured; NULL where there is none. */
const ousac_search_cached *ousac_search_longest(const ousac_search_outline *outline);

#endif
