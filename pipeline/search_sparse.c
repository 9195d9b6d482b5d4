#include "pipeline/search_sparse.h"

#include "pipeline/guide.h"
#include "pipeline/place.h"

/* Of the steps that the budget pays for guided everywhere, in sixths. */
static const size_t sixths[OUSAC_SEARCH_SPARSE_MAX] = {7, 8, 9};

/* What an uncached trajectory of so many steps costs. */
static uint64_t price_of(const ousac_price *price, const ousac_search_sparse *sparse) {
    const ousac_price_parts parts = {
        .steps = sparse->steps, .branches = OUSAC_BRANCHES, .full = sparse->steps + sparse->guided};
    return ousac_price_exact(price, &parts);
}

size_t ousac_search_sparse_list(const ousac_search_options *options, const ousac_price *price,
                                uint64_t budget, size_t fewer,
                                ousac_search_sparse list[OUSAC_SEARCH_SPARSE_MAX]) {
    const ousac_schedule *reference = options->reference;
    const size_t most = options->effort == OUSAC_EFFORT_FULL ? OUSAC_SEARCH_SPARSE_MAX : 1;
    size_t count = 0, last = fewer;
    for (size_t i = 0; i < most && reference->steps[0].mode == OUSAC_MODE_CFG; i++) {
        ousac_search_sparse s = {.steps = (sixths[i] * fewer + 3) / 6};
        if (s.steps <= last || s.steps > reference->step_count)
            continue;
        last = s.steps;
        for (s.guided = s.steps - 1; s.guided > 0 && price_of(price, &s) > budget;)
            s.guided--;
        if (s.guided >= ousac_guide_least(s.steps))
            list[count++] = s;
    }
    return count;
}

ousac_status ousac_search_sparse_make(const ousac_session *session, const ousac_schedule *reference,
                                      const ousac_search_sparse *wanted, double power,
                                      ousac_schedule *schedule, uint64_t *evaluations, ousac_error *error) {
    const ousac_sample_range range = {0, OUSAC_GUIDE_SAMPLES};
    ousac_schedule guided = {0};
    ousac_guide guide = {0};
    double predicted = 0;
    ousac_status status = ousac_fit_spaced_steps(&guided, reference, wanted->steps, power, error);
    if (!status) {
        ousac_place_evenly(&guided, 1);
        status = ousac_guide_create(&guide, session, &guided, &range, error);
    }
    if (!status)
        status = ousac_guide_place(&guide, &guided, wanted->guided, schedule, &predicted, error);
    *evaluations += guide.evaluations;
    ousac_guide_free(&guide);
    ousac_schedule_free(&guided);
    return status;
}
