/* What a search (pipeline/search.h) will do, before it does it: from shapes, reference and budget alone.
 *
 * How many steps its candidates have follows from the budget; which cached ones it walks to, and where refreshes lie,
 * does not, so of those it lists all that it may come to.
 */
#ifndef OUSAC_SEARCH_OUTLINE_H
#define OUSAC_SEARCH_OUTLINE_H

#include "pipeline/search_extrapolate.h"
#include "pipeline/search_sparse.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ousac_search_cached {
    size_t steps;
    size_t period,
        rank; /* evenly spaced refreshes that a placement begins from, and the rank that the budget leaves */
    uint64_t macs; /* of a trajectory at that rank */
} ousac_search_cached;

enum { OUSAC_SEARCH_CURVE_MAX = OUSAC_SEARCH_POINTS_MAX / 2 };
typedef struct ousac_search_outline {
    ousac_sample_range fitting, validation, deciding, again;
    size_t fewer; /* steps that the budget pays for uncached */
    size_t ways;  /* in which fitted ones are chosen */
    ousac_search_sparse
        sparse[OUSAC_SEARCH_SPARSE_MAX]; /* guided at some steps, as long as more steps help */
    size_t sparse_count;
    ousac_search_pattern pattern[OUSAC_SEARCH_EXTRAPOLATE_MAX]; /* of extrapolated ones, all measured */
    size_t pattern_count;
    int both; /* 1: one cached candidate more may be measured, guided at some steps */
    ousac_search_cached
        cached[OUSAC_SEARCH_CANDIDATES_MAX]; /* that may be measured, the first of them first */
    size_t cached_count, cached_most;        /* listed; measured at most */
    size_t curve[OUSAC_SEARCH_CURVE_MAX];    /* steps at which fewer ones are measured besides */
    size_t curve_count, curve_ways;
    size_t place_samples, probe_samples, horizon, stride, place_evaluations; /* of a placement */
} ousac_search_outline;

/* The session's model may be one of shapes. Errors: those of ousac_search. Nothing is to be freed. */
ousac_status ousac_search_outline_make(const ousac_session *session, const ousac_search_options *options,
                                       ousac_search_outline *outline, ousac_error *error);

/* Its curve: steps (OUSAC_SEARCH_CURVE_MAX), how many, and in how many ways each is fitted, at most. */
void ousac_search_outline_curve(ousac_effort effort, size_t fewer, size_t reference_steps, size_t *steps,
                                size_t *count, size_t *ways);

#endif
