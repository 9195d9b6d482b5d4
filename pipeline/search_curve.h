/* Error against cost of fewer steps, plain and fitted, beside what the budget of a search pays for; for
 * pipeline/search.c alone.
 */
#ifndef OUSAC_SEARCH_CURVE_H
#define OUSAC_SEARCH_CURVE_H

#include "pipeline/search.h"

/* What the shares of a point are of. */
typedef struct ousac_search_prices {
    const ousac_price *price;           /* what the budget counts */
    uint64_t reference, reference_macs; /* of the reference's trajectory, by that price and in MACs */
} ousac_search_prices;

/* Measures the points that are not there yet: half and four thirds of `fewer` steps; with a full effort a third, a half,
 * two thirds, three halves and twice as many; as far as the reference has more. Plain steps are evenly chosen, fitted
 * ones too or as those of the search, whichever is better; errors are of its validation samples. */
ousac_status ousac_search_measure_curve(const ousac_session *session, const ousac_search_options *options,
                                        const ousac_search_prices *prices, size_t fewer,
                                        ousac_search_result *result, ousac_error *error);

#endif
