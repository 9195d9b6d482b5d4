#include "pipeline/search_parts.h"

#include "pipeline/guide.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"

#include <math.h>
#include <stdio.h>

enum { PERIOD_MOST = 8, PERIOD_DENSE = 4 };

/* Cached candidates have as many thirds of what the budget pays for uncached. */
enum { THIRDS_FIRST = 4, THIRDS_LAST = 8 };
#define REGULAR_RATIO 1.26 /* how near every p-th step must come: about the distance of two such numbers */

/* Evenly spaced refreshes to begin a placement from: as dense as leaves a cached evaluation what the price wants for it,
 * about which the best placements lie; 0 where not even rank 1 is left. */
static ousac_status even_period(const ousac_searching *s, ousac_schedule *even, size_t *period,
                                ousac_error *error) {
    const double budget = (double)s->result->budget;
    ousac_status status = OUSAC_STATUS_OK;
    for (*period = 2; *period <= PERIOD_MOST && !status; ++*period) {
        ousac_price_parts parts;
        ousac_place_evenly(even, *period);
        status = ousac_price_count(&parts, even, error);
        if (status)
            break;
        const double wanted = (double)s->price.wanted * (double)parts.cached;
        const ousac_price_parts beside = {
            .steps = parts.steps, .branches = parts.branches, .full = parts.full};
        const double left = budget - (double)ousac_price_trajectory(&s->price, &beside, 0, 0);
        if (ousac_price_rank(&s->price, &parts, 1, s->result->budget) > 0 && left >= wanted)
            return OUSAC_STATUS_OK;
    }
    *period = 0;
    return status;
}

/* So many of the reference's steps, so many of them guided where not all are, cached; *made 0 where the budget holds
 * none. */
static ousac_status try_cached(ousac_searching *s, const ousac_search_sparse *wanted, int *made,
                               ousac_error *error) {
    const ousac_search_spending *spent = ousac_search_spending_of(s->options->effort);
    const double since = ousac_clock_s();
    ousac_search_candidate c = {.kind = OUSAC_SEARCH_CACHED, .power = 1};
    ousac_schedule even = {0};
    ousac_place_result placed = {0};
    size_t period = 0;
    *made = 0;
    ousac_status status = wanted->guided > 0 && wanted->guided < wanted->steps
                              ? ousac_search_sparse_make(s->session, s->options->reference, wanted, 1, &even,
                                                         &s->result->evaluations, error)
                              : ousac_fit_fewer_steps(&even, s->options->reference, wanted->steps, error);
    if (!status)
        status = even_period(s, &even, &period, error);
    if (status || period == 0)
        goto done;
    (void)snprintf(even.name, sizeof even.name, "%.60s in %zu steps at %.4g", s->options->reference->name,
                   wanted->steps, s->options->budget);
    const ousac_place_options options = {.even = &even,
                                         .price = &s->price,
                                         .budget = s->result->budget,
                                         .samples = spent->place_samples,
                                         .probe_samples = OUSAC_PLACE_PROBE_SAMPLES / 2,
                                         .horizon = OUSAC_PLACE_HORIZON / 2,
                                         .stride = OUSAC_PLACE_STRIDE,
                                         .evaluations = spent->evaluations};
    status = ousac_place_search(s->session, &options, &placed, error);
    if (!status)
        status = ousac_schedule_copy(&c.schedule, &placed.schedule, error);
    if (!status)
        status = ousac_search_fit(s, placed.calibration, &c, error);
    if (status)
        goto done;
    c.guided = wanted->guided;
    c.full = placed.cost.forwards_full;
    c.rank = placed.rank;
    c.forecast = placed.forecast;
    c.spent = (double)placed.price / (double)s->reference_price;
    c.share = (double)placed.cost.schedule_cached / (double)s->reference_macs;
    c.seconds = ousac_clock_s() - since;
    status = ousac_search_decide(s, placed.calibration, &c, error);
    *made = !status;
done:
    ousac_place_result_free(&placed);
    ousac_schedule_free(&even);
    ousac_schedule_free(&c.schedule);
    return status;
}

/* The cached one of so many steps, so many of them guided. */
static const ousac_search_candidate *find_cached(const ousac_searching *s,
                                                 const ousac_search_sparse *wanted) {
    for (size_t i = 0; i < s->result->count; i++) {
        const ousac_search_candidate *c = &s->result->candidate[i];
        if (c->kind == OUSAC_SEARCH_CACHED && c->schedule.step_count == wanted->steps &&
            c->guided == wanted->guided)
            return c;
    }
    return NULL;
}

/* Measures it unless it is known; *error_at INFINITY where the budget holds none. */
static ousac_status cached_error(ousac_searching *s, const ousac_search_sparse *wanted, double *error_at,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int made = 0;
    if (!find_cached(s, wanted)) {
        status = try_cached(s, wanted, &made, error);
        if (!status && made)
            status = ousac_search_keep_found(s, error);
    }
    const ousac_search_candidate *c = find_cached(s, wanted);
    *error_at = c ? c->error : INFINITY;
    return status;
}

/* As many of the reference's steps as every p-th of them, for the p that comes nearest, or the number itself where none
 * comes near: steps of one length are fitted better than a mixture of two. */
static size_t regular(size_t most, size_t steps) {
    size_t nearest = steps;
    double least = REGULAR_RATIO;
    for (size_t p = 1; p <= most; p++) {
        const size_t here = (most + p - 1) / p;
        const double ratio = here > steps ? (double)here / (double)steps : (double)steps / (double)here;
        if (ratio < least) {
            least = ratio;
            nearest = here;
        }
    }
    return nearest;
}
/* Steps of the cached candidates, rising, and the one to begin with. */
typedef struct numbers {
    size_t steps[THIRDS_LAST - THIRDS_FIRST + 1], count, first;
} numbers;

static size_t thirds(const ousac_searching *s, size_t fewer, size_t k) {
    const size_t steps = (k * fewer + 1) / 3, most = s->options->reference->step_count;
    return regular(most, steps < most ? steps : most);
}

/* The walk begins at five thirds, or, where the budget would then hold only refreshes that are far apart, at four. */
static ousac_status list_numbers(const ousac_searching *s, size_t fewer, numbers *list, ousac_error *error) {
    ousac_schedule even = {0};
    size_t period = 0;
    *list = (numbers){.count = 0};
    ousac_status status = ousac_fit_fewer_steps(&even, s->options->reference, thirds(s, fewer, 5), error);
    if (!status)
        status = even_period(s, &even, &period, error);
    ousac_schedule_free(&even);
    const size_t begin_at = thirds(s, fewer, period > 0 && period <= PERIOD_DENSE ? 5 : 4);
    for (size_t k = THIRDS_FIRST; k <= THIRDS_LAST; k++) {
        const size_t steps = thirds(s, fewer, k);
        if (list->count > 0 && steps <= list->steps[list->count - 1])
            continue;
        if (steps == begin_at)
            list->first = list->count;
        list->steps[list->count++] = steps;
    }
    return status;
}

/* The best cached one with as large a part of its steps guided as the sparse one has, where that one was better than the
 * fitted. */
static ousac_status try_both(ousac_searching *s, size_t steps, ousac_error *error) {
    const ousac_search_candidate *fitted = ousac_search_find(s, OUSAC_SEARCH_FITTED),
                                 *sparse = ousac_search_find(s, OUSAC_SEARCH_SPARSE);
    double here = INFINITY;
    if (s->options->effort == OUSAC_EFFORT_QUICK || !fitted || !sparse || sparse->error >= fitted->error)
        return OUSAC_STATUS_OK;
    const size_t most = sparse->schedule.step_count;
    ousac_search_sparse wanted = {steps, (sparse->guided * steps + most / 2) / most};
    if (wanted.guided < ousac_guide_least(steps))
        wanted.guided = ousac_guide_least(steps);
    if (wanted.guided >= steps)
        return OUSAC_STATUS_OK;
    ousac_status status = cached_error(s, &wanted, &here, error);
    if (status == OUSAC_STATUS_NUMBER) {
        ousac_session_note(s->session, "cached, %zu steps, %zu of them guided: states are not finite", steps,
                           wanted.guided);
        status = OUSAC_STATUS_OK;
    }
    return status;
}

ousac_status ousac_search_walk(ousac_searching *s, size_t fewer, ousac_error *error) {
    const size_t most = ousac_search_spending_of(s->options->effort)->cached;
    size_t tried = 1;
    double least = INFINITY;
    numbers list;
    ousac_status status = list_numbers(s, fewer, &list, error);
    size_t at = list.first;
    ousac_search_sparse wanted = ousac_search_everywhere(s, list.steps[at]);
    if (!status)
        status = cached_error(s, &wanted, &least, error);
    for (int up = 1; up >= 0 && !status; up--)
        for (int better = 1; better && tried < most && !status; tried++) {
            double here = INFINITY;
            if (up ? at + 1 == list.count : at == 0)
                break;
            const size_t next = up ? at + 1 : at - 1;
            wanted = ousac_search_everywhere(s, list.steps[next]);
            status = cached_error(s, &wanted, &here, error);
            better = here < least;
            if (better) {
                at = next;
                least = here;
            }
        }
    return status || !isfinite(least) ? status : try_both(s, list.steps[at], error);
}

static ousac_status outline_one(const ousac_searching *s, size_t steps, ousac_search_outline *outline,
                                ousac_error *error) {
    ousac_search_cached *c = &outline->cached[outline->cached_count];
    ousac_schedule even = {0};
    ousac_price macs = {0};
    ousac_price_parts parts;
    ousac_status status = ousac_fit_fewer_steps(&even, s->options->reference, steps, error);
    c->steps = steps;
    if (!status)
        status = even_period(s, &even, &c->period, error);
    if (status || c->period == 0)
        goto done;
    ousac_place_evenly(&even, c->period);
    status = ousac_price_count(&parts, &even, error);
    if (!status)
        status = ousac_price_of_macs(&macs, &s->session->model->arch, error);
    if (status)
        goto done;
    c->rank = ousac_price_rank(&s->price, &parts, 0, s->result->budget);
    c->rank = c->rank < macs.rank_most ? c->rank : macs.rank_most;
    c->macs = s->options->timing ? ousac_price_trajectory(&macs, &parts, c->rank, 0) : s->result->budget;
    outline->cached_count++;
done:
    ousac_price_free(&macs);
    ousac_schedule_free(&even);
    return status;
}

ousac_status ousac_search_outline_cached(const ousac_searching *s, ousac_search_outline *outline,
                                         ousac_error *error) {
    const size_t most = ousac_search_spending_of(s->options->effort)->cached;
    numbers list;
    ousac_status status = list_numbers(s, outline->fewer, &list, error);
    for (size_t k = list.first, n = 0; k < list.count && n < most && !status; k++, n++)
        status = outline_one(s, list.steps[k], outline, error);
    for (size_t k = list.first; k > 0 && most > 1 && !status; k--)
        status = outline_one(s, list.steps[k - 1], outline, error);
    return status;
}
