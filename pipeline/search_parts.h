/* What the files of the search share. */
#ifndef OUSAC_SEARCH_PARTS_H
#define OUSAC_SEARCH_PARTS_H

#include "pipeline/search_outline.h"

/* What an effort spends. */
typedef struct ousac_search_spending {
    size_t fitting, validation, deciding; /* samples */
    size_t place_samples;                 /* of the placement's profiles */
    size_t evaluations;                   /* end-to-end runs of a placement */
    size_t cached;                        /* candidates, at most */
} ousac_search_spending;
const ousac_search_spending *ousac_search_spending_of(ousac_effort effort);

/* A search under way. */
typedef struct ousac_searching {
    const ousac_session *session;
    const ousac_search_options *options;
    ousac_search_result *result;
    ousac_price price; /* what the budget counts */
    uint64_t reference_price;
    uint64_t reference_macs;
} ousac_searching;

/* --- candidates --- */

/* As many steps, guided at all of them or, in one branch, at none. */
ousac_search_sparse ousac_search_everywhere(const ousac_searching *s, size_t steps);
/* The first candidate of a kind, of an earlier run or of this one. */
const ousac_search_candidate *ousac_search_find(const ousac_searching *s, ousac_search_kind kind);
/* Fits the candidate's numbers, and sets its errors on the validation samples. */
ousac_status ousac_search_fit(ousac_searching *s, const ousac_calibration *calibration,
                              ousac_search_candidate *c, ousac_error *error);
/* Keeps what was found, where the options say a file. */
ousac_status ousac_search_keep_found(const ousac_searching *s, ousac_error *error);

/* --- which is taken, pipeline/search_decide.c --- */

/* Measures a candidate once more, on the deciding samples, and where it is near the best one both on more; then adds it,
 * which takes what it owns. One whose states are not finite on the deciding samples is left out, unless it is of fewer
 * steps. */
ousac_status ousac_search_decide(ousac_searching *s, const ousac_calibration *calibration,
                                 ousac_search_candidate *c, ousac_error *error);
/* Adds one that is measured, and takes what it owns; the better of it and the best so far is the best. */
void ousac_search_add(ousac_search_result *result, ousac_search_candidate *c);

/* --- without factors, pipeline/search_uncached.c --- */

/* In how many ways fitted steps are chosen. */
size_t ousac_search_ways(void);
/* As many steps as the budget pays for, plain and fitted. */
ousac_status ousac_search_try_fewer(ousac_searching *s, size_t steps, ousac_error *error);
/* More steps than `fewer`, not all of them guided: from few to more as long as that helps; the best is a candidate. */
ousac_status ousac_search_try_sparse(ousac_searching *s, size_t fewer, double power, ousac_error *error);
/* All of the reference's steps, some in full under each pattern; the best is a candidate. */
ousac_status ousac_search_try_extrapolated(ousac_searching *s, ousac_error *error);

/* --- cached, pipeline/search_cached.c --- */

/* From where a walk begins to more steps, then to fewer, as long as that helps. */
ousac_status ousac_search_walk(ousac_searching *s, size_t fewer, ousac_error *error);
/* Those that the walk may come to. */
ousac_status ousac_search_outline_cached(const ousac_searching *s, ousac_search_outline *outline,
                                         ousac_error *error);

#endif
