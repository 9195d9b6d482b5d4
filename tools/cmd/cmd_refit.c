#include "pipeline/refit.h"
#include "pipeline/shard.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct refit_request {
    ousac_session_model model;
    const char *reference, *schedule, *bundle, *plan, *scales, *output;
    unsigned settings;
    size_t samples, validation, micro_batch;
    ousac_sample_range test;
    uint64_t seed;
    double threshold;
} refit_request;

/* Everything that the command holds. */
typedef struct refit_work {
    ousac_model *model;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    ousac_schedule reference, schedule;
    double scale[OUSAC_REFIT_SCALES_MAX];
    size_t scale_count;
} refit_work;

static void free_work(refit_work *work) {
    ousac_schedule_free(&work->reference);
    ousac_schedule_free(&work->schedule);
    ousac_calibration_free(work->calibration);
    ousac_bundle_close(work->bundle);
    ousac_model_free(work->model);
}

static ousac_status parse_scales(refit_work *work, const char *text, ousac_error *error) {
    while (text && *text) {
        char *end = NULL;
        errno = 0;
        const double scale = strtod(text, &end);
        if (end == text || (*end != ',' && *end != '\0') || errno || !isfinite(scale))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--scales: \"%.64s\", expected numbers such as 2,4",
                              text);
        if (work->scale_count == OUSAC_REFIT_SCALES_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--scales: expected at most %d of them",
                              OUSAC_REFIT_SCALES_MAX);
        work->scale[work->scale_count++] = scale;
        text = end + (*end == ',');
    }
    return OUSAC_STATUS_OK;
}

static ousac_status load_bundle(refit_work *work, const refit_request *request, ousac_error *error) {
    char note[OUSAC_ERROR_MESSAGE_BYTES] = "";
    const ousac_plan *plan = ousac_bundle_find_plan(work->bundle, request->plan);
    if (!plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: no plan \"%s\"", request->bundle,
                          request->plan ? request->plan : "default");
    const ousac_status status = ousac_bundle_check_model(work->bundle, work->model, note, error);
    return status ? status
                  : ousac_bundle_calibration(work->bundle, plan, &work->model->arch, work->model->backend,
                                             &work->calibration, error);
}

static ousac_status report(const cli_common *common, const refit_request *request, const ousac_refit *result,
                           ousac_error *error) {
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_json_begin(&doc);
    refit_put(&doc, doc.root, result);
    if (request->output)
        status = ousac_json_save(&doc, request->output, error);
    if (!status && common->json)
        status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    if (status || common->json)
        return status;
    refit_print(result);
    if (request->output)
        cli_printf("\n%s: the same as JSON\n", request->output);
    return OUSAC_STATUS_OK;
}

static ousac_status execute(const cli_common *common, const refit_request *request, ousac_error *error) {
    refit_work work = {0};
    ousac_refit result;
    ousac_status status = parse_scales(&work, request->scales, error);
    if (!status)
        status = ousac_schedule_load(&work.reference, request->reference, error);
    if (!status && request->bundle)
        status = ousac_bundle_open(&work.bundle, request->bundle, error);
    if (!status && request->schedule)
        status = ousac_session_load_schedule(&work.schedule, request->schedule, error);
    else if (!status)
        status = ousac_schedule_copy(&work.schedule, ousac_bundle_schedule(work.bundle), error);
    ousac_refit_options options = {.schedule = &work.schedule,
                                   .reference = &work.reference,
                                   .numbers = OUSAC_FIT_NUMBERS,
                                   .settings = request->settings ? request->settings : ~0U,
                                   .scale = work.scale,
                                   .scale_count = work.scale_count,
                                   .fitting = request->samples,
                                   .validation = request->validation,
                                   .test = request->test,
                                   .threshold = request->threshold};
    if (!status) /* what is wrong is told before the model is loaded */
        status = ousac_refit_check(&options, request->micro_batch, error);
    if (!status)
        status = cli_load_model(&work.model, &request->model, error);
    if (!status && work.bundle)
        status = load_bundle(&work, request, error);
    if (status)
        goto done;
    options.arm = ousac_fit_arm_of(options.schedule, work.calibration);
    const ousac_session session = cli_session(common, work.model, request->seed, request->micro_batch);
    status = ousac_refit_run(&session, &options, &result, error);
    if (!status)
        status = report(common, request, &result, error);
done:
    free_work(&work);
    return status;
}

#define AT(member) offsetof(refit_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", CLI_REQUIRED,
     "schedule that it was fitted to, in full whatever its gates", 0, 0},
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "fitted schedule; run uncached, unless there is a bundle", 0, 0},
    {"bundle", 'b', CLI_INPUT, AT(bundle), "FILE", NULL,
     "with its cache and forecast at work (default schedule: its own)", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan in the bundle (default \"default\", or the only one)", 0, 0},
    {"settings", 0, CLI_CHOICES, AT(settings), OUSAC_REFIT_WORDS, NULL,
     "other settings to try, separated by commas (default: all)", 0, 0},
    {"scales", 0, CLI_TEXT, AT(scales), "LIST", NULL,
     "scales of the reference to try, separated by commas (default: 2/3 and 4/3 of its own)", 0, 0},
    {"samples", 0, CLI_RANGE, AT(test), "FIRST:END", CLI_REQUIRED,
     "test samples, FIRST a multiple of the micro-batch", 0, 0},
    {"fitting", 0, CLI_SIZE, AT(samples), "N", CLI_TEXT_OF(OUSAC_REFIT_SAMPLES),
     "samples to fit again on, from 0", 1, OUSAC_SAMPLES_MAX},
    {"validation", 0, CLI_SIZE, AT(validation), "N", CLI_TEXT_OF(OUSAC_REFIT_SAMPLES),
     "validation samples, behind those", 1, OUSAC_SAMPLES_MAX},
    {"threshold", 0, CLI_REAL, AT(threshold), "X", CLI_TEXT_OF(OUSAC_REFIT_THRESHOLD),
     "how many times the error of fitting again is too much", 1, 1000},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", NULL,
     "also write the result as JSON; - for standard output", 0, CLI_STDOUT_JSON},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const refit_request *request = values;
    ousac_status status = ousac_range_check("samples", &request->test, request->micro_batch, error);
    if (!status && !request->schedule && !request->bundle)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expected a fitted --schedule, or a --bundle with one");
    return status ? status : execute(&call->common, request, error);
}

const cli_command command_refit = {
    .name = "refit",
    .summary = "what fitted numbers are worth under other settings, and whether to fit again",
    .arguments = "",
    .details =
        "Fitted numbers belong to the reference that they were fitted to. This carries them over to other "
        "noise and "
        "conditioning (the next seed), to other scales of the reference (the schedule's own times the new "
        "over the "
        "old), and to a reference of half and of twice as many steps, as they are. Under each setting three "
        "runs of "
        "the same test samples are compared with the reference's there:\n"
        "\n"
        "  textbook      the schedule's steps with the reference's scales and no fitted coefficients\n"
        "  transferred   the numbers as they were fitted\n"
        "  fitted again  stepwise (as `ousac fit`), on samples 0:N of the setting\n"
        "\n"
        "It should be fitted again where the 95 % interval of the ratio of the last two errors lies above "
        "the "
        "threshold, and need not where it lies below. The first row, as fitted, is the setting of the "
        "schedule "
        "itself. Below it stands how the error falls with the number of samples that are fitted on. With a "
        "bundle "
        "its cache and forecast stay as they are; whether those must be calibrated again is what `ousac eval "
        "--schedule` says. The keys of the JSON form are listed in formats/EVAL.md.",
    .example = "build/ousac refit --model data/shapes-dit/model.safetensors \\\n"
               "    --reference data/schedules/constant.json --bundle build/demo/bundle.oca --samples 56:80",
    .options = options,
    .request_size = sizeof(refit_request),
    .run = run,
};
