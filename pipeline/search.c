#include "pipeline/search.h"

#include "calib/cost.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/search_curve.h"
#include "pipeline/search_kept.h"
#include "pipeline/search_parts.h"

#include <math.h>
#include <string.h>

static const ousac_search_spending spending[] = {
    [OUSAC_EFFORT_QUICK] = {16, 16, 24, 8, 3, 1},
    [OUSAC_EFFORT_FULL] = {32, 32, 48, 8, 5, 4},
};

const ousac_search_spending *ousac_search_spending_of(ousac_effort effort) {
    return &spending[effort];
}

const char *ousac_search_kind_name(ousac_search_kind kind) {
    static const char *const names[] = {"fewer steps", "fitted steps", "cached", "some guided",
                                        "extrapolated"};
    return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

ousac_search_samples ousac_search_samples_of(ousac_effort effort, size_t micro_batch, uint64_t unused) {
    enum { RANGES = 4 };
    const ousac_search_spending *s = ousac_search_spending_of(effort);
    const size_t count[RANGES] = {s->fitting, s->validation, s->deciding, s->validation + s->deciding};
    ousac_sample_range range[RANGES];
    uint64_t first = 0;
    for (size_t i = 0; i < RANGES; i++) {
        if (i + 1 == RANGES && unused > first)
            first = unused;
        first = (first + micro_batch - 1) / micro_batch * micro_batch;
        range[i] = (ousac_sample_range){first, count[i]};
        first += count[i];
    }
    return (ousac_search_samples){range[0], range[1], range[2], range[3]};
}

void ousac_search_free(ousac_search_result *result) {
    for (size_t i = 0; i < result->count; i++)
        ousac_schedule_free(&result->candidate[i].schedule);
    ousac_fit_target_free(&result->fitted);
    ousac_fit_target_free(&result->validated);
    ousac_fit_target_free(&result->decided);
    ousac_fit_target_free(&result->looked);
    memset(result, 0, sizeof *result);
}

/* --- what is asked --- */

ousac_status ousac_search_check(const ousac_search_options *options, ousac_error *error) {
    const ousac_schedule *reference = options->reference;
    if (!(options->budget > 0 && options->budget < 1))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "budget %g: expected a share of the reference's cost, above 0 and below 1",
                          options->budget);
    if (ousac_schedule_is_fitted(reference))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "reference %s: has fitted coefficients; expected the textbook's steps that are run today",
            reference->name);
    for (size_t i = 0; i < reference->step_count; i++) {
        const ousac_step *step = &reference->steps[i];
        if (step->mode != reference->steps[0].mode)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "reference %s, step %zu: mode %s after %s; expected one mode at all steps",
                              reference->name, i, ousac_mode_name(step->mode),
                              ousac_mode_name(reference->steps[0].mode));
    }
    if ((size_t)(options->budget * (double)reference->step_count) < 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "budget %g: below what one of the reference's %zu steps costs, %.4g",
                          options->budget, reference->step_count, 1 / (double)reference->step_count);
    return OUSAC_STATUS_OK;
}

static ousac_status begin(ousac_searching *s, ousac_error *error) {
    const ousac_arch *arch = &s->session->model->arch;
    const ousac_search_options *options = s->options;
    ousac_search_result *result = s->result;
    ousac_cost_total cost;
    ousac_price_parts parts;
    ousac_schedule full = {0};
    const ousac_search_samples samples =
        ousac_search_samples_of(options->effort, s->session->micro_batch, options->unused);
    result->fitting = samples.fitting;
    result->validation = samples.validation;
    result->deciding = samples.deciding;
    result->again = samples.again;
    ousac_status status = options->timing ? ousac_timing_price(&s->price, options->timing, arch, error)
                                          : ousac_price_of_macs(&s->price, arch, error);
    if (!status)
        status = ousac_schedule_copy(&full, options->reference, error);
    if (!status) {
        ousac_place_evenly(&full, 1);
        status = ousac_cost_trajectory(arch, &full, NULL, &cost, error);
    }
    if (!status)
        status = ousac_price_count(&parts, &full, error);
    ousac_schedule_free(&full);
    if (status)
        return status;
    s->reference_macs = cost.schedule_full;
    s->reference_price = ousac_price_exact(&s->price, &parts);
    result->budget = (uint64_t)(options->budget * (double)s->reference_price);
    if (options->timing && !ousac_timing_cache_saves(options->timing))
        ousac_session_note(s->session,
                           "caching saves no time here: a cached evaluation takes %.4g s at rank 1, one in "
                           "full %.4g s; without factors is all there is",
                           options->timing->line[0].fixed + options->timing->line[0].per_rank,
                           options->timing->part[OUSAC_TIMING_FULL].median);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_search_targets(const ousac_session *session, const ousac_schedule *reference,
                                  ousac_search_result *result, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (!result->fitted.state)
        status = ousac_fit_target_create(&result->fitted, session, reference, &result->fitting, error);
    if (!status && !result->validated.state)
        status = ousac_fit_target_create(&result->validated, session, reference, &result->validation, error);
    return status;
}

ousac_status ousac_search_fit_last(const ousac_session *session, const ousac_schedule *reference,
                                   const ousac_calibration *calibration, ousac_search_result *result,
                                   ousac_schedule *schedule, ousac_fit_report *report, ousac_error *error) {
    ousac_fit_target beside = {0};
    ousac_status status = ousac_search_targets(session, reference, result, error);
    if (!status && !result->decided.state)
        status = ousac_fit_target_create(&result->decided, session, reference, &result->deciding, error);
    if (!status)
        status = ousac_fit_target_part(&beside, &result->decided, (size_t)result->fitting.count, error);
    const ousac_fit_options options = {
        .numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.calibration = calibration}, .beside = &beside};
    if (!status)
        status = ousac_fit_schedule(session, &options, &result->fitted, &result->validated, schedule, report,
                                    error);
    ousac_fit_target_free(&beside);
    return status;
}

/* --- candidates --- */

ousac_search_sparse ousac_search_everywhere(const ousac_searching *s, size_t steps) {
    const int guided = s->options->reference->steps[0].mode == OUSAC_MODE_CFG;
    return (ousac_search_sparse){steps, guided ? steps : 0};
}

ousac_status ousac_search_fit(ousac_searching *s, const ousac_calibration *calibration,
                              ousac_search_candidate *c, ousac_error *error) {
    const ousac_fit_options options = {
        .numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.calibration = calibration}};
    ousac_fit_report report;
    ousac_status status = ousac_search_targets(s->session, s->options->reference, s->result, error);
    if (!status)
        status = ousac_fit_schedule(s->session, &options, &s->result->fitted, &s->result->validated,
                                    &c->schedule, &report, error);
    if (status)
        return status;
    c->unfitted = report.before;
    c->error = report.after;
    s->result->evaluations += report.evaluations;
    return OUSAC_STATUS_OK;
}

const ousac_search_candidate *ousac_search_find(const ousac_searching *s, ousac_search_kind kind) {
    for (size_t i = 0; i < s->result->count; i++)
        if (s->result->candidate[i].kind == kind)
            return &s->result->candidate[i];
    return NULL;
}

ousac_status ousac_search_keep_found(const ousac_searching *s, ousac_error *error) {
    return s->options->kept ? ousac_search_keep(s->options, s->session, s->result, error) : OUSAC_STATUS_OK;
}

ousac_status ousac_search_affordable(const ousac_price *price, const ousac_schedule *reference,
                                     uint64_t budget, size_t *steps, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (*steps = reference->step_count; *steps > 0; --*steps) {
        ousac_schedule plain = {0};
        ousac_price_parts parts;
        status = ousac_fit_fewer_steps(&plain, reference, *steps, error);
        ousac_place_evenly(&plain, 1);
        if (!status)
            status = ousac_price_count(&parts, &plain, error);
        ousac_schedule_free(&plain);
        if (status || ousac_price_exact(price, &parts) <= budget)
            break;
    }
    return status;
}

/* Fitted steps, and what is taken where no factors are at work under it. */
static ousac_status fit_last(ousac_searching *s, ousac_error *error) {
    ousac_search_result *result = s->result;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < result->count && !status; i++) {
        ousac_search_candidate *c = &result->candidate[i];
        const int taken = i == result->best && c->kind != OUSAC_SEARCH_CACHED;
        ousac_fit_report report;
        if (c->kind != OUSAC_SEARCH_FITTED && (!taken || c->kind == OUSAC_SEARCH_FEWER))
            continue;
        status = ousac_search_fit_last(s->session, s->options->reference, NULL, result, &c->schedule, &report,
                                       error);
        if (!status)
            result->evaluations += report.evaluations;
    }
    return status;
}

ousac_status ousac_search(const ousac_session *session, const ousac_search_options *options,
                          ousac_search_result *result, ousac_error *error) {
    const double since = ousac_clock_s();
    ousac_searching s = {.session = session, .options = options, .result = result};
    memset(result, 0, sizeof *result);
    ousac_status status = ousac_search_check(options, error);
    if (!status)
        status = begin(&s, error);
    if (status)
        goto done;
    size_t fewer = 0;
    status = ousac_search_affordable(&s.price, options->reference, result->budget + 1, &fewer,
                                     error); /* the budget was rounded down */
    if (!status && fewer == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "budget %g: below what one of the reference's %zu steps costs", options->budget,
                            options->reference->step_count);
    if (status)
        goto done;
    if (options->kept && !options->restart)
        ousac_search_take_up(options, session, result);
    if (!ousac_search_find(&s, OUSAC_SEARCH_FITTED)) {
        status = ousac_search_try_fewer(&s, fewer, error);
        if (!status)
            status = ousac_search_keep_found(&s, error);
    }
    if (!status && !ousac_search_find(&s, OUSAC_SEARCH_SPARSE)) {
        status = ousac_search_try_sparse(&s, fewer, ousac_search_find(&s, OUSAC_SEARCH_FITTED)->power, error);
        if (!status)
            status = ousac_search_keep_found(&s, error);
    }
    if (!status && !ousac_search_find(&s, OUSAC_SEARCH_EXTRAPOLATED)) {
        status = ousac_search_try_extrapolated(&s, error);
        if (!status)
            status = ousac_search_keep_found(&s, error);
    }
    if (!status)
        status = ousac_search_walk(&s, fewer, error);
    if (!status && options->curve) {
        const ousac_search_prices prices = {&s.price, s.reference_price, s.reference_macs};
        const size_t before = result->point_count;
        status = ousac_search_measure_curve(session, options, &prices, fewer, result, error);
        if (!status && result->point_count > before)
            status = ousac_search_keep_found(&s, error);
    }
    if (!status)
        status = fit_last(&s, error);
    result->seconds = ousac_clock_s() - since;
done:
    ousac_fit_target_free(&result->looked);
    ousac_price_free(&s.price);
    if (status)
        ousac_search_free(result);
    return status;
}

ousac_status ousac_search_terms(const ousac_search_options *options, const ousac_search_result *result,
                                const ousac_arch *arch, ousac_choice_options *choice, ousac_error *error) {
    const ousac_search_candidate *best = &result->candidate[result->best];
    ousac_cost_total cost;
    ousac_price macs;
    ousac_status status = OUSAC_STATUS_OK;
    /* Half a MAC more, so that rounding loses no rank. */
    if (!options->timing) {
        status = ousac_cost_trajectory(arch, &best->schedule, NULL, &cost, error);
        if (!status)
            choice->budget =
                (ousac_budget){NAN, ((double)result->budget + 0.5) / (double)cost.constant_guidance};
        return status;
    }
    status = ousac_price_of_macs(&macs, arch, error);
    if (status)
        return status;
    if (best->rank > macs.rank_most) { /* of a kept candidate, in a file that may say anything */
        ousac_price_free(&macs);
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "a kept candidate of rank %zu: this model has none",
                          best->rank);
    }
    const int forecast = best->forecast && choice->forecast != OUSAC_FORECAST_OFF;
    const double cached = (double)macs.cached[forecast][best->rank];
    if (choice->forecast == OUSAC_FORECAST_ON && !forecast)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "`forecast` on: the budget in time holds no cached evaluation with one");
    choice->budget = (ousac_budget){fmin((cached + 0.5) / (double)macs.full, 1), NAN};
    choice->methods = 1U << OUSAC_ALLOCATOR_UNIFORM;
    choice->forecast = forecast ? OUSAC_FORECAST_ON : OUSAC_FORECAST_OFF;
    ousac_price_free(&macs);
    return status;
}

/* --- before anything is run --- */

ousac_status ousac_search_outline_make(const ousac_session *session, const ousac_search_options *options,
                                       ousac_search_outline *outline, ousac_error *error) {
    const ousac_search_spending *spent = ousac_search_spending_of(options->effort);
    ousac_search_result result = {0};
    ousac_searching s = {.session = session, .options = options, .result = &result};
    memset(outline, 0, sizeof *outline);
    ousac_status status = ousac_search_check(options, error);
    if (!status)
        status = begin(&s, error);
    if (!status)
        status =
            ousac_search_affordable(&s.price, options->reference, result.budget + 1, &outline->fewer, error);
    if (!status && outline->fewer == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "budget %g: below what one of the reference's %zu steps costs", options->budget,
                            options->reference->step_count);
    if (status)
        goto done;
    outline->fitting = result.fitting;
    outline->validation = result.validation;
    outline->deciding = result.deciding;
    outline->again = result.again;
    outline->ways = ousac_search_ways();
    outline->sparse_count =
        ousac_search_sparse_list(options, &s.price, result.budget + 1, outline->fewer, outline->sparse);
    status = ousac_search_patterns(options, &s.price, result.budget + 1, outline->pattern,
                                   &outline->pattern_count, error);
    if (status)
        goto done;
    outline->both = outline->sparse_count > 0 && options->effort == OUSAC_EFFORT_FULL;
    outline->cached_most = spent->cached;
    outline->place_samples = spent->place_samples;
    outline->probe_samples = OUSAC_PLACE_PROBE_SAMPLES / 2;
    outline->horizon = OUSAC_PLACE_HORIZON / 2;
    outline->stride = OUSAC_PLACE_STRIDE;
    outline->place_evaluations = spent->evaluations;
    status = ousac_search_outline_cached(&s, outline, error);
    if (options->curve)
        ousac_search_outline_curve(options->effort, outline->fewer, options->reference->step_count,
                                   outline->curve, &outline->curve_count, &outline->curve_ways);
done:
    ousac_price_free(&s.price);
    return status;
}
