#include "pipeline/search_curve.h"

#include "calib/cost.h"
#include "pipeline/place.h"
#include "pipeline/search_outline.h"

#include <math.h>

/* Of the steps that the budget pays for, in sixths. */
static const size_t quick_sixths[] = {3, 8}, full_sixths[] = {2, 3, 4, 9, 12};

static const ousac_search_point *find(const ousac_search_result *result, ousac_search_kind kind,
                                      size_t steps) {
    for (size_t i = 0; i < result->point_count; i++)
        if (result->point[i].kind == kind && result->point[i].steps == steps)
            return &result->point[i];
    return NULL;
}

/* The way in which the search's fitted steps were chosen. */
static double power_of(const ousac_search_result *result) {
    for (size_t i = 0; i < result->count; i++)
        if (result->candidate[i].kind == OUSAC_SEARCH_FITTED)
            return result->candidate[i].power;
    return 1;
}

static ousac_status price_of(const ousac_session *session, const ousac_search_prices *prices,
                             const ousac_schedule *schedule, ousac_search_point *point, ousac_error *error) {
    ousac_cost_total cost;
    ousac_price_parts parts;
    ousac_status status = ousac_cost_trajectory(&session->model->arch, schedule, NULL, &cost, error);
    if (!status)
        status = ousac_price_count(&parts, schedule, error);
    if (status)
        return status;
    point->steps = schedule->step_count;
    point->share = (double)cost.schedule_full / (double)prices->reference_macs;
    point->spent = (double)ousac_price_exact(prices->price, &parts) / (double)prices->reference;
    return OUSAC_STATUS_OK;
}

/* As many steps of the reference's, chosen by a power, uncached. */
static ousac_status spaced(ousac_schedule *schedule, const ousac_search_options *options, size_t steps,
                           double power, ousac_error *error) {
    const ousac_status status = ousac_fit_spaced_steps(schedule, options->reference, steps, power, error);
    if (!status)
        ousac_place_evenly(schedule, 1);
    return status;
}

/* As many steps, plain and fitted: evenly chosen and, where the search's are not, chosen as those, the better of both. A
 * quick search takes only the first way for fewer steps than its own and only the second for more: the better one there. */
static ousac_status measure(const ousac_session *session, const ousac_search_options *options,
                            const ousac_search_prices *prices, size_t steps, size_t fewer,
                            ousac_search_result *result, ousac_error *error) {
    const ousac_fit_options fit = {.numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.exact = 1}};
    const double powers[] = {1, power_of(result)};
    const int quick = options->effort == OUSAC_EFFORT_QUICK, differ = powers[1] < 1;
    const size_t first = quick && differ && steps > fewer, ways = differ && !quick ? 2 : 1;
    ousac_search_point plain = {.kind = OUSAC_SEARCH_FEWER}, fitted = {.kind = OUSAC_SEARCH_FITTED};
    ousac_schedule schedule = {0};
    ousac_status status = spaced(&schedule, options, steps, 1, error);
    if (!status)
        status = price_of(session, prices, &schedule, &plain, error);
    if (!status)
        status = ousac_fit_measure(session, &fit.arm, &result->validated, &schedule, &plain.error,
                                   &result->evaluations, error);
    ousac_schedule_free(&schedule);
    for (size_t i = first; i < first + ways && !status; i++) {
        ousac_fit_report report = {0};
        status = spaced(&schedule, options, steps, powers[i], error);
        if (!status)
            status = ousac_fit_schedule(session, &fit, &result->fitted, &result->validated, &schedule,
                                        &report, error);
        if (i == first || report.after < fitted.error)
            fitted.error = report.after;
        result->evaluations += report.evaluations;
        ousac_schedule_free(&schedule);
    }
    if (status)
        return status;
    fitted.steps = plain.steps;
    fitted.share = plain.share;
    fitted.spent = plain.spent;
    result->point[result->point_count++] = plain;
    result->point[result->point_count++] = fitted;
    ousac_session_note(session, "%zu steps, %.1f %% of the MACs: relative error %.4g, fitted %.4g", steps,
                       100 * plain.share, plain.error, fitted.error);
    return status;
}

void ousac_search_outline_curve(ousac_effort effort, size_t fewer, size_t reference_steps, size_t *steps,
                                size_t *count, size_t *ways) {
    const int full = effort == OUSAC_EFFORT_FULL;
    const size_t *sixths = full ? full_sixths : quick_sixths;
    const size_t most =
        full ? sizeof full_sixths / sizeof *full_sixths : sizeof quick_sixths / sizeof *quick_sixths;
    *count = 0;
    *ways = full ? 2 : 1;
    for (size_t i = 0; i < most; i++) {
        const size_t at = (sixths[i] * fewer + 3) / 6;
        int listed = at == 0 || at == fewer || at >= reference_steps;
        for (size_t k = 0; k < *count; k++)
            listed |= steps[k] == at;
        if (!listed)
            steps[(*count)++] = at;
    }
}

ousac_status ousac_search_measure_curve(const ousac_session *session, const ousac_search_options *options,
                                        const ousac_search_prices *prices, size_t fewer,
                                        ousac_search_result *result, ousac_error *error) {
    size_t steps[OUSAC_SEARCH_CURVE_MAX], count = 0, ways = 0;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_search_outline_curve(options->effort, fewer, options->reference->step_count, steps, &count, &ways);
    for (size_t i = 0; i < count && !status; i++) {
        if (find(result, OUSAC_SEARCH_FEWER, steps[i]) || result->point_count + 2 > OUSAC_SEARCH_POINTS_MAX)
            continue;
        status = ousac_search_targets(session, options->reference, result, error);
        if (!status)
            status = measure(session, options, prices, steps[i], fewer, result, error);
    }
    return status;
}
