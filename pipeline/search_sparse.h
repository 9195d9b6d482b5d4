/* The candidates of a search (pipeline/search.h) that are guided at some steps only.
 */
#ifndef OUSAC_SEARCH_SPARSE_H
#define OUSAC_SEARCH_SPARSE_H

#include "pipeline/search.h"

#include <stddef.h>

enum { OUSAC_SEARCH_SPARSE_MAX = 3 };

/* One that the budget holds: so many steps, of which so many are guided. */
typedef struct ousac_search_sparse {
    size_t steps, guided;
} ousac_search_sparse;

/* Those that a search measures at most, by rising steps; returns how many: none of a reference in one branch. */
size_t ousac_search_sparse_list(const ousac_search_options *options, const ousac_price *price,
                                uint64_t budget, size_t fewer,
                                ousac_search_sparse list[OUSAC_SEARCH_SPARSE_MAX]);

/* So many of the reference's steps, chosen by a power, uncached, guided where that is worth most; *evaluations grows
 * by the branch evaluations that it took. Free with ousac_schedule_free. */
ousac_status ousac_search_sparse_make(const ousac_session *session, const ousac_schedule *reference,
                                      const ousac_search_sparse *wanted, double power,
                                      ousac_schedule *schedule, uint64_t *evaluations, ousac_error *error);

#endif
