#include "pipeline/transfer.h"

#include "formats/memory.h"
#include "pipeline/factors.h"
#include "pipeline/machine.h"
#include "pipeline/record.h"
#include "pipeline/shard.h"
#include "profile/bundle/forecast_map.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What one recalibration makes. */
typedef struct recalibration {
    ousac_profile *pilot, *profile;
    ousac_factor_set *set;
    ousac_forecast *forecast; /* NULL where the plan has none */
    ousac_calibration *calibration;
} recalibration;

static void free_recalibration(recalibration *r) {
    ousac_calibration_free(r->calibration);
    ousac_forecast_free(r->forecast);
    ousac_factor_set_free(r->set);
    ousac_profile_free(r->profile);
    ousac_profile_free(r->pilot);
}

ousac_status ousac_transfer_check(const ousac_sample_range *evaluated, size_t samples, ousac_error *error) {
    if (!ousac_range_overlaps(evaluated, 0, samples))
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                      "`samples` %" PRIu64 ":%" PRIu64
                      ": the recalibration would use samples 0:%zu; expected "
                      "samples from %zu on, or another `recalibrate_samples`",
                      evaluated->first, evaluated->first + evaluated->count, samples, samples);
}

ousac_status ousac_transfer_plan(ousac_plan **mapped, const ousac_plan *plan, const ousac_schedule *from,
                                 const ousac_schedule *to, ousac_error *error) {
    ousac_forecast *forecast = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    *mapped = NULL;
    if (plan->forecast)
        status = ousac_forecast_map(plan->forecast, from, to, &forecast, error);
    if (!status)
        status = ousac_plan_copy(mapped, plan, error);
    if (!status) {
        ousac_forecast_free((*mapped)->forecast);
        (*mapped)->forecast = forecast;
        forecast = NULL;
    }
    ousac_forecast_free(forecast);
    return status;
}

/* --- recalibrating --- */

/* The way of `ousac calibrate`, at the plan's ranks. */
static ousac_status recalibrate(ousac_transfer *t, const ousac_session *session,
                                const ousac_transfer_options *options, recalibration *r, ousac_error *error) {
    const ousac_model *model = session->model;
    const size_t pilot =
        options->samples < OUSAC_DEFAULT_PILOT_SAMPLES ? options->samples : OUSAC_DEFAULT_PILOT_SAMPLES;
    ousac_ranks ranks = ousac_plan_ranks(options->plan);
    ousac_status status = ousac_record_pilot(session, options->to, pilot, NULL, &r->pilot, &t->cost, error);
    const ousac_record_options profile = {.range = t->calibration, .segments = 1, .weights = r->pilot};
    if (!status)
        status = ousac_record_profile(session, options->to, &profile, &r->profile, &t->cost, error);
    if (!status)
        status = ousac_session_factors(session, r->profile, OUSAC_METHOD_DELTA_COV, &r->set, error);
    if (status)
        return status;
    /* Ranks beyond what these deltas span would have no factors. */
    size_t *clipped = ousac_malloc(model->arch.site_count, sizeof *clipped);
    if (!clipped)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                          model->arch.site_count);
    memcpy(clipped, ranks.rank, model->arch.site_count * sizeof *clipped);
    ousac_factor_set_clip(r->set, &model->arch, clipped);
    ranks.rank = clipped;
    if (options->plan->forecast) {
        ousac_sample_range range = t->calibration;
        if (range.count > OUSAC_DEFAULT_FORECAST_SAMPLES)
            range.count = OUSAC_DEFAULT_FORECAST_SAMPLES;
        status = ousac_session_fit_forecast(session, options->to, &range, r->set, clipped, "fit forecast",
                                            &r->forecast, error);
    }
    if (!status)
        status = ousac_calibration_create(&r->calibration, model->backend, &model->arch, &ranks,
                                          ousac_factor_set_source, r->set, r->forecast, error);
    ousac_free(clipped);
    return status;
}

/* --- comparing --- */

static ousac_status compare(ousac_transfer *t, const ousac_eval *result, const ousac_model *model,
                            ousac_error *error) {
    const size_t count = (size_t)result->range.count, size = ousac_model_sample_size(model);
    const float *exact = result->run[OUSAC_EVAL_EXACT].samples;
    ousac_status status = ousac_evaluate_difference(
        t->run.samples, exact, count, size, ousac_model_range(model), result->seed, &t->difference, error);
    double *moved = ousac_malloc(count, sizeof *moved), *made = ousac_malloc(count, sizeof *made);
    if (!status && (!moved || !made))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to compare %zu samples", count);
    if (!status)
        status = ousac_evaluate_samples(result->run[OUSAC_EVAL_CALIBRATED].samples, exact, count, size, NULL,
                                        moved, NULL, error);
    if (!status)
        status = ousac_evaluate_samples(t->run.samples, exact, count, size, NULL, made, NULL, error);
    if (!status)
        status = ousac_paired_ratio(moved, made, count, result->seed, &t->ratio, error);
    ousac_free(moved);
    ousac_free(made);
    if (status)
        return status;
    t->verdict = ousac_paired_decide(&t->ratio, t->threshold);
    t->more = ousac_paired_more(&t->ratio, t->threshold, count);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_transfer_create(ousac_transfer *t, const ousac_session *session,
                                   const ousac_transfer_options *options, const ousac_eval *result,
                                   ousac_error *error) {
    const size_t size = ousac_model_sample_size(session->model);
    recalibration made = {0};
    ousac_status status = OUSAC_STATUS_OK;

    memset(t, 0, sizeof *t);
    (void)snprintf(t->from_name, sizeof t->from_name, "%s", ousac_schedule_called(options->from));
    ousac_schedule_digest(options->from, t->from_digest);
    t->forecast = options->plan->forecast != NULL;
    t->threshold = options->threshold;
    const ousac_counters *counters = &result->run[OUSAC_EVAL_CALIBRATED].counters;
    t->corrects = result->cost.forwards_cached > 0 && counters->site_low_rank + counters->site_frozen > 0;
    if (!t->corrects || options->samples == 0)
        goto done;
    t->calibration = (ousac_sample_range){0, options->samples};
    const double start = ousac_clock_s();
    status = recalibrate(t, session, options, &made, error);
    t->seconds = ousac_clock_s() - start;
    if (status)
        goto done;
    /* The evaluation has allocated as much for each of its session. */
    t->run.samples = ousac_malloc((size_t)result->range.count * size, sizeof *t->run.samples);
    if (!t->run.samples) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %" PRIu64 " samples",
                            result->range.count);
        goto done;
    }
    const ousac_session_run run = {.label = "recalibrated",
                                   .schedule = options->to,
                                   .range = result->range,
                                   .calibration = made.calibration,
                                   .samples = t->run.samples,
                                   .counters = &t->run.counters,
                                   .seconds = &t->run.seconds};
    status = ousac_session_run_samples(session, &run, error);
    if (!status)
        status = compare(t, result, session->model, error);
done:
    free_recalibration(&made);
    if (status)
        ousac_transfer_free(t);
    return status;
}

void ousac_transfer_free(ousac_transfer *t) {
    ousac_free(t->run.samples);
    memset(t, 0, sizeof *t);
}
