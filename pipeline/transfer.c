#include "pipeline/transfer.h"

#include "formats/memory.h"
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

ousac_status transfer_check(const cli_range *evaluated, size_t samples, ousac_error *error) {
    if (!pipeline_ranges_overlap(evaluated, 0, samples))
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                      "--samples %" PRIu64 ":%" PRIu64
                      ": the recalibration would use samples 0:%zu; expected "
                      "samples from %zu on, or another --recalibrate-samples",
                      evaluated->first, evaluated->first + evaluated->count, samples, samples);
}

ousac_status transfer_plan(ousac_plan **mapped, const ousac_plan *plan, const ousac_schedule *from,
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
static ousac_status recalibrate(transfer *t, const pipeline_runs *runs, const transfer_options *options,
                                recalibration *r, ousac_error *error) {
    const ousac_model *model = runs->model;
    const size_t pilot =
        options->samples < PIPELINE_PILOT_SAMPLES ? options->samples : PIPELINE_PILOT_SAMPLES;
    ousac_ranks ranks = ousac_plan_ranks(options->plan);
    ousac_status status = pipeline_pilot(runs, options->to, pilot, NULL, &r->pilot, &t->cost, error);
    const pipeline_profile_options profile = {.range = t->calibration, .segments = 1, .weights = r->pilot};
    if (!status)
        status = pipeline_profile(runs, options->to, &profile, &r->profile, &t->cost, error);
    if (!status)
        status = pipeline_factors(runs, r->profile, OUSAC_METHOD_DELTA_COV, &r->set, error);
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
        cli_range range = t->calibration;
        if (range.count > PIPELINE_FORECAST_SAMPLES)
            range.count = PIPELINE_FORECAST_SAMPLES;
        status = pipeline_fit_forecast(runs, options->to, &range, r->set, clipped, "fit forecast",
                                       &r->forecast, error);
    }
    if (!status)
        status = ousac_calibration_create(&r->calibration, model->backend, &model->arch, &ranks,
                                          ousac_factor_set_source, r->set, r->forecast, error);
    ousac_free(clipped);
    return status;
}

/* --- comparing --- */

static ousac_status compare(transfer *t, const evaluation *result, size_t size, ousac_error *error) {
    const size_t count = (size_t)result->range.count;
    const float *exact = result->run[EVALUATION_EXACT].samples;
    ousac_status status =
        ousac_evaluate_difference(t->run.samples, exact, count, size, result->seed, &t->difference, error);
    double *moved = ousac_malloc(count, sizeof *moved), *made = ousac_malloc(count, sizeof *made);
    if (!status && (!moved || !made))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to compare %zu samples", count);
    if (!status)
        status = ousac_evaluate_samples(result->run[EVALUATION_CALIBRATED].samples, exact, count, size, moved,
                                        NULL, error);
    if (!status)
        status = ousac_evaluate_samples(t->run.samples, exact, count, size, made, NULL, error);
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

ousac_status transfer_create(transfer *t, const pipeline_runs *runs, const transfer_options *options,
                             const evaluation *result, ousac_error *error) {
    const size_t size = ousac_model_sample_size(runs->model);
    recalibration made = {0};
    ousac_status status = OUSAC_STATUS_OK;

    memset(t, 0, sizeof *t);
    memcpy(t->from_name, options->from->name, sizeof t->from_name);
    ousac_schedule_digest(options->from, t->from_digest);
    t->forecast = options->plan->forecast != NULL;
    t->threshold = options->threshold;
    const ousac_counters *counters = &result->run[EVALUATION_CALIBRATED].counters;
    t->corrects = result->cost.forwards_cached > 0 && counters->site_low_rank + counters->site_frozen > 0;
    if (!t->corrects || options->samples == 0)
        goto done;
    t->calibration = (cli_range){0, options->samples};
    const double start = cli_seconds();
    status = recalibrate(t, runs, options, &made, error);
    t->seconds = cli_seconds() - start;
    if (status)
        goto done;
    /* The evaluation has allocated as much for each of its runs. */
    t->run.samples = ousac_malloc((size_t)result->range.count * size, sizeof *t->run.samples);
    if (!t->run.samples) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %" PRIu64 " samples",
                            result->range.count);
        goto done;
    }
    const pipeline_run run = {.label = "recalibrated",
                              .schedule = options->to,
                              .range = result->range,
                              .calibration = made.calibration,
                              .samples = t->run.samples,
                              .counters = &t->run.counters,
                              .seconds = &t->run.seconds};
    status = pipeline_run_samples(runs, &run, error);
    if (!status)
        status = compare(t, result, size, error);
done:
    free_recalibration(&made);
    if (status)
        transfer_free(t);
    return status;
}

void transfer_free(transfer *t) {
    ousac_free(t->run.samples);
    memset(t, 0, sizeof *t);
}

/* --- telling --- */

static const char *verdict_name(const transfer *t) {
    return !t->corrects                       ? "not needed"
           : t->calibration.count == 0        ? "not measured"
           : t->verdict == OUSAC_PAIRED_ABOVE ? "recalibrate"
           : t->verdict == OUSAC_PAIRED_BELOW ? "not needed"
                                              : "undecided";
}

static void print_row(const char *label, const ousac_difference *d) {
    char relative[OUSAC_INTERVAL_BYTES], psnr[OUSAC_INTERVAL_BYTES];
    printf("%-14s %8.4f %s  %8.2f %s\n", label, d->relative_error.mean,
           ousac_interval_text(&d->relative_error, "%.4f", relative), d->psnr_db.mean,
           ousac_interval_text(&d->psnr_db, "%.2f", psnr));
}

/* The pair of the evaluation that compares a run with the exact one. */
static const ousac_difference *against_exact(const evaluation *result, evaluation_arm arm) {
    for (size_t i = 0; i < EVALUATION_PAIRS; i++)
        if (result->pair[i].arm == arm && result->pair[i].against == EVALUATION_EXACT)
            return &result->pair[i].difference;
    return NULL;
}

void transfer_print(const transfer *t, const evaluation *result) {
    printf("\ntransfer: the bundle was made for schedule \"%s\"; its factors are used as they are%s\n",
           *t->from_name ? t->from_name : "unnamed",
           t->forecast ? ", its forecast is mapped by timestep" : "");
    if (!t->corrects) {
        printf("under this schedule nothing is corrected, so recalibration is not needed\n");
        return;
    }
    printf("%-14s %-26s  %s\n", "against exact", "relative error [95 %]", "PSNR, dB [95 %]");
    print_row("reuse", against_exact(result, EVALUATION_REUSE));
    print_row("transferred", against_exact(result, EVALUATION_CALIBRATED));
    if (t->calibration.count == 0) {
        printf("not recalibrated, so there is no verdict\n");
        return;
    }
    print_row("recalibrated", &t->difference);
    printf("recalibrated at the same ranks on samples 0:%" PRIu64 ": %" PRIu64 " forwards recorded, %.1f s\n",
           t->calibration.count, t->cost.forwards, t->seconds);
    char interval[OUSAC_INTERVAL_BYTES];
    printf("transferred / recalibrated: %.3f %s, threshold %g: ", t->ratio.mean,
           ousac_interval_text(&t->ratio, "%.3f", interval), t->threshold);
    if (t->verdict == OUSAC_PAIRED_ABOVE)
        printf("recalibrate\n");
    else if (t->verdict == OUSAC_PAIRED_BELOW)
        printf("recalibration is not needed\n");
    else if (!ousac_interval_known(&t->ratio))
        printf("undecided; one sample, or samples of one ratio, give no interval\n");
    else if (t->more > 0)
        printf("undecided; about %zu more samples might decide\n", t->more);
    else
        printf("undecided; the two are too close to the threshold for more samples to decide\n");
}

static void put_interval(json_doc *doc, cJSON *object, const char *key, const ousac_interval *interval) {
    cJSON *item = json_put_object(doc, object, key);
    json_put_real(doc, item, "mean", interval->mean);
    json_put_real(doc, item, "low", interval->low);
    json_put_real(doc, item, "high", interval->high);
}

static void put_run(json_doc *doc, cJSON *object, const char *key, const ousac_difference *difference) {
    cJSON *item = json_put_object(doc, object, key);
    put_interval(doc, item, "relative_error", &difference->relative_error);
    put_interval(doc, item, "psnr_db", &difference->psnr_db);
}

void transfer_put(json_doc *doc, cJSON *root, const transfer *t, const evaluation *result) {
    cJSON *object = json_put_object(doc, root, "transfer"), *from = NULL, *runs = NULL;

    from = json_put_object(doc, object, "from");
    json_put_text(doc, from, "name", t->from_name);
    json_put_text(doc, from, "digest", t->from_digest);
    json_put_text(doc, object, "forecast", t->forecast ? "mapped" : "none");
    runs = json_put_object(doc, object, "runs");
    put_run(doc, runs, "reuse", against_exact(result, EVALUATION_REUSE));
    put_run(doc, runs, "transferred", against_exact(result, EVALUATION_CALIBRATED));
    json_put_real(doc, object, "threshold", t->threshold);
    json_put_text(doc, object, "verdict", verdict_name(t));
    if (!t->corrects || t->calibration.count == 0)
        return;
    put_run(doc, runs, "recalibrated", &t->difference);
    pipeline_json_range(doc, object, "calibration", t->calibration.first, t->calibration.count);
    json_put_u64(doc, object, "forwards", t->cost.forwards);
    json_put_real(doc, object, "wall_s", t->seconds);
    put_interval(doc, object, "ratio", &t->ratio);
    if (t->more > 0)
        json_put_u64(doc, object, "more_samples", t->more);
    else
        json_put_null(doc, object, "more_samples");
}
