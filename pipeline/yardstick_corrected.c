#include "pipeline/yardstick_parts.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/factors.h"
#include "pipeline/fit.h"
#include "pipeline/place.h"
#include "pipeline/record.h"
#include "pipeline/search.h"
#include "profile/run/calibration.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PERIOD_MOST = 8, PLACE_EVALUATIONS = 5 };

/* What corrects a run, kept as long as the arm that points to it. */
typedef struct correction {
    size_t *rank; /* (site_count) */
    ousac_forecast *forecast;
    ousac_calibration *calibration;
} correction;

static void correction_free(correction *c) {
    ousac_calibration_free(c->calibration);
    ousac_forecast_free(c->forecast);
    ousac_free(c->rank);
    memset(c, 0, sizeof *c);
}

void yardstick_free_factors(yardstick *y) {
    for (int m = 0; m < OUSAC_METHOD_COUNT; m++)
        ousac_factor_set_free(y->set[m]);
    ousac_profile_free(y->profile);
    y->profile = NULL;
    memset(y->set, 0, sizeof y->set);
}

static ousac_status record(const yardstick *y, const ousac_schedule *schedule, ousac_profile **profile,
                           ousac_error *error) {
    const ousac_record_options options = {.range = y->result->calibration, .magnitudes = 1, .segments = 1};
    ousac_record_cost cost = {0};
    return ousac_record_profile(y->session, schedule, &options, profile, &cost, error);
}

/* One uniform rank, of factors of a set. */
static ousac_status correct(const yardstick *y, ousac_factor_set *set, size_t rank,
                            const ousac_forecast *forecast, correction *made, ousac_error *error) {
    const ousac_model *model = y->session->model;
    ousac_status status = OUSAC_STATUS_OK;
    made->rank = ousac_malloc(model->arch.site_count, sizeof *made->rank);
    if (!made->rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks");
    for (size_t s = 0; s < model->arch.site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&model->arch.sites[s]);
        made->rank[s] = rank < dense ? rank : dense;
    }
    const ousac_ranks ranks = {.rank = made->rank, .dense_fallback = 1, .forecast = forecast != NULL};
    status = ousac_calibration_create(&made->calibration, model->backend, &model->arch, &ranks,
                                      ousac_factor_set_source, set, forecast, error);
    return status;
}

/* The published way: full at every p-th step, the largest uniform rank that fits; by the validation samples the best p.
 * *period 0 where the budget holds none. */
static ousac_status best_period(yardstick *y, const ousac_schedule *schedule, ousac_factor_set *set,
                                const char *label, yardstick_arm *best, correction *kept, size_t *period,
                                ousac_error *error) {
    ousac_schedule even = {0};
    ousac_status status = ousac_schedule_copy(&even, schedule, error);
    *period = 0;
    for (size_t p = 2; p <= PERIOD_MOST && p <= schedule->step_count && !status; p++) {
        correction made = {0};
        char settings[sizeof best->settings];
        size_t rank = 0;
        ousac_place_evenly(&even, p);
        status = ousac_place_rank(&y->price, &even, 0, y->result->macs, &rank, error);
        if (status || rank == 0)
            continue;
        status = correct(y, set, rank, NULL, &made, error);
        const ousac_gauge_arm how = {.label = label, .calibration = made.calibration};
        (void)snprintf(settings, sizeof settings, "%zu steps, full at every %zu, rank %zu", even.step_count,
                       p, rank);
        if (!status)
            status = yardstick_try(y, &even, &how, settings, best, error);
        if (!status && best->how.calibration == made.calibration) {
            correction_free(kept);
            *kept = made;
            *period = p;
        } else {
            correction_free(&made);
        }
    }
    ousac_schedule_free(&even);
    return status;
}

/* The profile of the reference's own steps and the factors of a method: magnitudes of channels do not depend on where
 * refreshes are. */
static ousac_status need_factors(yardstick *y, ousac_method method, ousac_error *error) {
    ousac_schedule even = {0};
    ousac_status status = OUSAC_STATUS_OK;
    if (!y->profile) {
        status = ousac_schedule_copy(&even, &y->reference, error);
        if (!status)
            ousac_place_evenly(&even, 2);
        if (!status)
            status = record(y, &even, &y->profile, error);
        ousac_schedule_free(&even);
    }
    if (!status && !y->set[method])
        status = ousac_session_factors(y->session, y->profile, method, &y->set[method], error);
    return status;
}

ousac_status yardstick_corrected(yardstick *y, ousac_method method, ousac_yardstick_row *row,
                                 ousac_error *error) {
    yardstick_arm best = {0};
    correction kept = {0};
    size_t period = 0;
    ousac_status status = need_factors(y, method, error);
    if (!status)
        status = best_period(y, &y->reference, y->set[method], row->method, &best, &kept, &period, error);
    if (!status && period)
        status = yardstick_finish(y, &best, row, error);
    else if (!status)
        row->left_out = "the budget holds no rank at any period up to 8";
    correction_free(&kept);
    yardstick_arm_free(&best);
    return status;
}

/* --- with our placement and forecast --- */

static ousac_status place(yardstick *y, const ousac_schedule *even, ousac_place_result *placed,
                          ousac_error *error) {
    const ousac_place_options options = {.even = even,
                                         .budget = y->result->macs,
                                         .samples = OUSAC_PLACE_SAMPLES,
                                         .search_samples = OUSAC_DEFAULT_SEARCH_SAMPLES,
                                         .probe_samples = OUSAC_PLACE_PROBE_SAMPLES / 2,
                                         .horizon = OUSAC_PLACE_HORIZON / 2,
                                         .stride = OUSAC_PLACE_STRIDE,
                                         .evaluations = PLACE_EVALUATIONS};
    return ousac_place_search(y->session, &options, placed, error);
}

static ousac_status placed_row(yardstick *y, const ousac_place_result *placed, const ousac_profile *profile,
                               ousac_method method, ousac_yardstick_row *row, ousac_error *error) {
    const ousac_sample_range range = {0, OUSAC_DEFAULT_FORECAST_SAMPLES};
    ousac_factor_set *set = NULL;
    correction plain = {0}, made = {0};
    yardstick_arm arm = {0};
    char settings[sizeof arm.settings];
    size_t rank = 0;
    ousac_status status =
        ousac_place_rank(&y->price, &placed->schedule, placed->forecast, y->result->macs, &rank, error);
    if (!status)
        status = ousac_session_factors(y->session, profile, method, &set, error);
    if (!status)
        status = correct(y, set, rank, NULL, &plain, error);
    if (!status && placed->forecast)
        status = ousac_session_fit_forecast(y->session, &placed->schedule, &range, set, plain.rank,
                                            row->method, &made.forecast, error);
    if (!status)
        status = correct(y, set, rank, made.forecast, &made, error);
    const ousac_gauge_arm how = {.label = row->method, .calibration = made.calibration};
    (void)snprintf(settings, sizeof settings, "%zu steps, %zu full, rank %zu%s", placed->schedule.step_count,
                   placed->cost.forwards_full, rank, placed->forecast ? ", forecast" : "");
    if (!status)
        status = yardstick_try(y, &placed->schedule, &how, settings, &arm, error);
    if (!status && arm.schedule.steps)
        status = yardstick_finish(y, &arm, row, error);
    else if (!status)
        row->left_out = "it does not stay finite";
    yardstick_arm_free(&arm);
    correction_free(&plain);
    correction_free(&made);
    ousac_factor_set_free(set);
    return status;
}

ousac_status yardstick_placed(yardstick *y, unsigned methods, ousac_yardstick_row *row[OUSAC_METHOD_COUNT],
                              ousac_error *error) {
    yardstick_arm best = {0};
    correction kept = {0};
    ousac_place_result found = {0};
    ousac_profile *profile = NULL;
    size_t period = 0;
    ousac_status status = need_factors(y, OUSAC_METHOD_CA_SVD, error);
    if (!status)
        status = best_period(y, &y->reference, y->set[OUSAC_METHOD_CA_SVD], "ca-svd", &best, &kept, &period,
                             error);
    if (!status && period)
        status = place(y, &best.schedule, &found, error);
    if (!status && period)
        status = record(y, &found.schedule, &profile, error);
    for (int m = 0; m < OUSAC_METHOD_COUNT && !status; m++) {
        if (!(methods & 1U << m))
            continue;
        if (period)
            status = placed_row(y, &found, profile, (ousac_method)m, row[m], error);
        else
            row[m]->left_out = "the budget holds no rank at any period up to 8";
    }
    ousac_profile_free(profile);
    ousac_place_result_free(&found);
    correction_free(&kept);
    yardstick_arm_free(&best);
    return status;
}

/* --- OUSAC as published --- */

/* Stage 2: four regions of ca-svd ranks, descended on the error against the same guidance uncached; where the
 * validation samples prefer uniform ranks, those stand. */
static ousac_status regions(yardstick *y, const ousac_schedule *schedule, size_t guided,
                            ousac_yardstick_row *row, ousac_error *error) {
    const ousac_arch *arch = &y->session->model->arch;
    yardstick_arm even = {0}, arm = {.validation = NAN};
    correction kept = {0}, made = {0};
    ousac_profile *first = NULL, *profile = NULL;
    ousac_factor_set *set = NULL;
    ousac_choice choice = {0};
    ousac_cost_total cost;
    size_t period = 0;
    ousac_schedule two = {0};
    ousac_status status = ousac_schedule_copy(&two, schedule, error);
    if (!status) {
        ousac_place_evenly(&two, 2);
        status = record(y, &two, &first, error);
    }
    if (!status)
        status = ousac_session_factors(y->session, first, OUSAC_METHOD_CA_SVD, &set, error);
    if (!status)
        status = best_period(y, schedule, set, row->method, &even, &kept, &period, error);
    if (status || period == 0) {
        row->left_out = "the budget holds no rank at any period up to 8";
        goto done;
    }
    status = record(y, &even.schedule, &profile, error);
    if (!status)
        status = ousac_cost_trajectory(arch, &even.schedule, NULL, &cost, error);
    if (status)
        goto done;
    const ousac_choice_options options = {
        .name = "published",
        .methods = 1U << OUSAC_ALLOCATOR_UNIFORM | 1U << OUSAC_ALLOCATOR_REGIONS,
        .forecast = OUSAC_FORECAST_OFF,
        /* half a MAC more, so that rounding does not lose a rank; the cost is checked */
        .budget = {NAN, ((double)y->result->macs + 0.5) / (double)cost.constant_guidance},
        .granularity = OUSAC_DEFAULT_GRANULARITY,
        .rank_min = OUSAC_DEFAULT_RANK_MIN,
        .search_samples = OUSAC_DEFAULT_SEARCH_SAMPLES,
        .validation = y->result->validation};
    status = ousac_choice_create(y->session, profile, set, &options, &choice, error);
    if (status)
        goto done;
    const ousac_ranks ranks = {.rank = choice.candidate[choice.chosen].allocation.rank, .dense_fallback = 1};
    status = ousac_calibration_create(&made.calibration, y->session->model->backend, arch, &ranks,
                                      ousac_factor_set_source, set, NULL, error);
    if (!status)
        status = ousac_schedule_copy(&arm.schedule, &even.schedule, error);
    arm.how = (ousac_gauge_arm){.label = row->method, .calibration = made.calibration};
    (void)snprintf(arm.settings, sizeof arm.settings, "%zu steps, %zu guided, full at every %zu, %s ranks",
                   schedule->step_count, guided, period, ousac_candidate_name(choice.chosen));
    if (!status)
        status = yardstick_finish(y, &arm, row, error);
done:
    ousac_choice_free(&choice);
    correction_free(&kept);
    correction_free(&made);
    yardstick_arm_free(&even);
    yardstick_arm_free(&arm);
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_profile_free(first);
    ousac_schedule_free(&two);
    return status;
}

enum { EVOLVE_SAMPLES = 8 };

ousac_status yardstick_evolved(yardstick *y, ousac_yardstick_row *row, ousac_error *error) {
    const size_t most = y->reference.step_count;
    const size_t fewer = (size_t)(y->options->budget * (double)most), wanted = (5 * fewer + 1) / 3;
    const ousac_evolve_options options = {.scale = y->reference.steps[0].scale,
                                          .population = OUSAC_EVOLVE_POPULATION,
                                          .generations = y->options->generations,
                                          .seed = y->session->seed};
    const ousac_sample_range range = {0, EVOLVE_SAMPLES};
    ousac_gauge gauge = {0};
    ousac_schedule schedule = {0};
    ousac_evolve_report report;
    ousac_cost_total cost;
    if (y->reference.steps[0].mode != OUSAC_MODE_CFG || options.scale <= 1) {
        row->left_out = "the reference has no guidance to leave out";
        return OUSAC_STATUS_OK;
    }
    ousac_status status =
        ousac_fit_fewer_steps(&schedule, &y->reference, wanted < most ? wanted : most, error);
    if (!status)
        ousac_place_evenly(&schedule, 1);
    if (!status)
        status = ousac_gauge_create(&gauge, y->session, &y->reference, &range, error);
    if (!status)
        status = ousac_evolve_guidance(&gauge, &options, &schedule, &report, error);
    if (!status)
        status = ousac_cost_trajectory(&y->session->model->arch, &schedule, NULL, &cost, error);
    if (status)
        goto done;
    ousac_session_note(y->session,
                       "evolution: %zu of %zu steps guided, relative error %.4g, loss %.4g, %zu runs",
                       report.guided, schedule.step_count, report.error, report.loss, report.runs);
    if (cost.schedule_full <= y->result->macs) { /* nothing is left to cache for */
        yardstick_arm arm = {.how = {.label = row->method}, .validation = NAN};
        (void)snprintf(arm.settings, sizeof arm.settings, "%zu steps, %zu guided, uncached",
                       schedule.step_count, report.guided);
        status = ousac_schedule_copy(&arm.schedule, &schedule, error);
        if (!status)
            status = yardstick_finish(y, &arm, row, error);
        yardstick_arm_free(&arm);
    } else {
        status = regions(y, &schedule, report.guided, row, error);
    }
done:
    ousac_gauge_free(&gauge);
    ousac_schedule_free(&schedule);
    return status;
}
