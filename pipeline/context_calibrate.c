#include <ousac/ousac.h>

#include "pipeline/context_parts.h"
#include "pipeline/job.h"

#include <math.h>

void ousac_context_calibrate_options_init_sized(ousac_context_calibrate_options *options, size_t size) {
    const ousac_context_calibrate_options defaults = {.size = sizeof defaults,
                                                      .budget_total = NAN,
                                                      .budget_time = NAN,
                                                      .effort = 1,
                                                      .samples = OUSAC_DEFAULT_CALIBRATION_SAMPLES,
                                                      .validation = OUSAC_DEFAULT_VALIDATION_SAMPLES};
    INIT_OPTIONS(options, size, defaults);
}

void ousac_context_calibration_init_sized(ousac_context_calibration *result, size_t size) {
    const ousac_context_calibration defaults = {.size = sizeof defaults};
    INIT_OPTIONS(result, size, defaults);
}

ousac_status ousac_context_calibrate(ousac_context *context, const ousac_context_calibrate_options *options,
                                     const char *directory, ousac_context_calibration *result,
                                     ousac_error *error) {
    ousac_context_calibrate_options o;
    ousac_context_calibration out;
    ousac_job job;
    TAKE_OPTIONS(ousac_context_calibrate_options, o, options, error);
    TAKE_OPTIONS(ousac_context_calibration, out, result, error);
    if (o.schedule && o.reference)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expected one of `reference` and `schedule`, not both");
    const ousac_job_options asked = {
        .directory = directory,
        .schedule = o.schedule,
        .reference = o.reference,
        .effort = o.effort == 2 ? OUSAC_EFFORT_AUTO
                  : o.effort    ? OUSAC_EFFORT_FULL
                                : OUSAC_EFFORT_QUICK,
        .budget_time = o.budget_time,
        .time = o.time,
        .samples = (size_t)o.samples,
        .validation = (size_t)o.validation,
        .automatic = {.tolerance = OUSAC_DEFAULT_TOLERANCE, .most = OUSAC_DEFAULT_AUTO_MOST},
        .tokens = o.tokens,
        .made_of = OUSAC_METHOD_DELTA_COV,
        .choose = {.name = "default",
                   .methods = OUSAC_ALLOCATORS_AUTO,
                   .forecast = OUSAC_FORECAST_AUTO,
                   .budget = {NAN, o.budget_total},
                   .granularity = OUSAC_DEFAULT_GRANULARITY,
                   .rank_min = OUSAC_DEFAULT_RANK_MIN},
        .storage = {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD},
        .partial = {.every_s = OUSAC_DEFAULT_CHECKPOINT_S},
    };
    ousac_status status = ousac_job_begin(&job, &asked, error);
    if (!status)
        status = ousac_job_run(&job, &context->session, error);
    if (!status)
        status = ousac_job_finish(&job, &context->session, error);
    if (!status) {
        out.cached = !job.uncached;
        out.steps = job.schedule.step_count;
        out.validation_error =
            job.found.count ? ousac_search_error(&job.found, &job.found.candidate[job.found.best]) : NAN;
        out.next_sample = job.next_sample;
        out.size = result->size;
        memcpy(result, &out, result->size);
    }
    ousac_job_free(&job);
    return status;
}
