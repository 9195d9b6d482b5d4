/* The candidates of a search (pipeline/search.h) that extrapolate: all of the reference's steps, some of them in full, at
 * the others what modules gave is continued (the gate `extrapolate`). They need no factors.
 *
 * Full steps are every p-th to a turning point, then closer together, as many as the budget holds. The numbers that are
 * fitted make up for wide gaps at the beginning, not for those at the end, where little noise is left to hide them; so
 * no path over independent intervals (calib/choose/placement.h) finds the places, and a few patterns are measured.
 */
#ifndef OUSAC_SEARCH_EXTRAPOLATE_H
#define OUSAC_SEARCH_EXTRAPOLATE_H

#include "pipeline/search.h"

#include <stddef.h>

enum { OUSAC_SEARCH_EXTRAPOLATE_MAX = 4 };

/* A pattern: of each branch steps 0, p, ..., (before - 1) p in full, and `full - before` more, evenly over those that are
 * left. */
typedef struct ousac_search_pattern {
    size_t period; /* p */
    size_t full
        [OUSAC_BRANCHES]; /* full evaluations; of the unconditional branch as many or one fewer, or 0 without one */
    size_t before[OUSAC_BRANCHES]; /* how many of them are p apart, at least 1 */
} ousac_search_pattern;

/* Those that a search measures, with the full effort also of a period one longer. *count 0 where the budget holds fewer
 * than two full evaluations of a branch, or all of them, or the reference has fewer than four steps. Errors: those of ousac_price_count. */
ousac_status ousac_search_patterns(const ousac_search_options *options, const ousac_price *price,
                                   uint64_t budget, ousac_search_pattern list[OUSAC_SEARCH_EXTRAPOLATE_MAX],
                                   size_t *count, ousac_error *error);

/* The reference's steps under a pattern. Free with ousac_schedule_free. */
ousac_status ousac_search_extrapolate_make(const ousac_schedule *reference,
                                           const ousac_search_pattern *pattern, ousac_schedule *schedule,
                                           ousac_error *error);

#endif
