#include "pipeline/fit.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct fit_request {
    pipeline_model_options model;
    const char *reference, *schedule, *bundle, *plan, *numbers, *output;
    size_t steps, samples, validation, test, micro_batch;
    uint64_t seed;
    fit_options fit;
} fit_request;

/* Everything that the command holds. */
typedef struct fit_work {
    ousac_model *model;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    ousac_schedule reference, schedule, before;
    fit_target fitting, validation, test;
    fit_report report;
    double test_before, test_after;
} fit_work;

static void free_work(fit_work *work) {
    fit_target_free(&work->fitting);
    fit_target_free(&work->validation);
    fit_target_free(&work->test);
    ousac_schedule_free(&work->reference);
    ousac_schedule_free(&work->schedule);
    ousac_schedule_free(&work->before);
    ousac_calibration_free(work->calibration);
    ousac_bundle_close(work->bundle);
    ousac_model_free(work->model);
}

static ousac_status parse_numbers(unsigned *numbers, const char *text, ousac_error *error) {
    *numbers = 0;
    while (*text) {
        const size_t length = strcspn(text, ",");
        int found = -1;
        for (int k = 0; k < FIT_KINDS; k++) {
            const char *name = k == FIT_SCALE ? "scale" : ousac_coefficient_name((ousac_coefficient)k);
            if (strlen(name) == length && strncmp(name, text, length) == 0)
                found = k;
        }
        if (found < 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--numbers: \"%.*s\", expected some of scale,hold,k,m,c,d", (int)length, text);
        *numbers |= 1u << found;
        text += length + (text[length] == ',');
    }
    return OUSAC_STATUS_OK;
}

static ousac_status load(fit_work *work, const fit_request *request, ousac_error *error) {
    ousac_status status = ousac_schedule_load(&work->reference, request->reference, error);
    if (!status && request->bundle)
        status = ousac_bundle_open(&work->bundle, request->bundle, error);
    if (!status && request->schedule)
        status = pipeline_load_schedule(&work->schedule, request->schedule, error);
    else if (!status && request->bundle)
        status = ousac_schedule_copy(&work->schedule, ousac_bundle_schedule(work->bundle), error);
    else if (!status)
        status = fit_fewer_steps(&work->schedule, &work->reference, request->steps, error);
    if (!status)
        status = ousac_schedule_copy(&work->before, &work->schedule, error);
    if (!status)
        status = pipeline_load_model(&work->model, &request->model, error);
    return status;
}

static ousac_status execute(const cli_common *common, fit_request *request, ousac_error *error) {
    fit_work work = {0};
    ousac_status status = load(&work, request, error);
    if (status)
        goto done;
    if (work.bundle) {
        const ousac_plan *plan = ousac_bundle_find_plan(work.bundle, request->plan);
        if (!plan)
            status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: no such plan", request->bundle);
        else
            status = ousac_bundle_calibration(work.bundle, plan, &work.model->arch, work.model->backend,
                                              &work.calibration, error);
        if (status)
            goto done;
    }
    request->fit.arm = (fit_arm){work.calibration, work.calibration == NULL};
    const pipeline_runs runs = {common, work.model, request->seed, request->micro_batch};
    const size_t unit = request->micro_batch;
    const cli_range fitting = {0, request->samples};
    const cli_range validation = {(request->samples + unit - 1) / unit * unit, request->validation};
    const cli_range test = {4096, request->test};
    uint64_t ignored = 0;
    status = fit_target_create(&work.fitting, &runs, &work.reference, &fitting, error);
    if (!status)
        status = fit_target_create(&work.validation, &runs, &work.reference, &validation, error);
    if (!status)
        status = fit_target_create(&work.test, &runs, &work.reference, &test, error);
    if (!status)
        status = fit_schedule(&runs, &request->fit, &work.fitting, &work.validation, &work.schedule,
                              &work.report, error);
    if (!status)
        status = fit_measure(&runs, &request->fit.arm, &work.test, &work.before, &work.test_before, &ignored,
                             error);
    if (!status)
        status = fit_measure(&runs, &request->fit.arm, &work.test, &work.schedule, &work.test_after, &ignored,
                             error);
    if (!status)
        status = ousac_schedule_save(&work.schedule, request->output, error);
    if (!status)
        printf("validation: before %.4g, stepwise %.4g, after %.4g (fitted %.4g)\n"
               "test:       before %.4g, after %.4g\n"
               "%" PRIu64 " evaluations, %zu columns, %zu steps, %.0f s\n",
               work.report.before, work.report.stepwise, work.report.after, work.report.fitted,
               work.test_before, work.test_after, work.report.evaluations, work.report.columns,
               work.report.steps, work.report.seconds);
done:
    free_work(&work);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    fit_request request = {.samples = FIT_SAMPLES,
                           .validation = FIT_VALIDATION,
                           .test = 16,
                           .numbers = "scale,hold,m,c,d",
                           .micro_batch = PIPELINE_MICRO_BATCH,
                           .fit = {.stepwise = 1, .jacobians = 1, .stride = FIT_STRIDE}};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"reference", 0, CLI_TEXT, &request.reference, 0, 0, 1, "FILE",
         "schedule of the reference, run uncached"},
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 0, "FILE", "schedule to fit"},
        {"steps", 0, CLI_SIZE, &request.steps, 1, OUSAC_SCHEDULE_STEPS_MAX, 0, "N",
         "instead: N of the reference's steps"},
        {"bundle", 'b', CLI_TEXT, &request.bundle, 0, 0, 0, "FILE", "fit its calibrated trajectory"},
        {"plan", 0, CLI_TEXT, &request.plan, 0, 0, 0, "NAME", "of the bundle"},
        {"numbers", 0, CLI_TEXT, &request.numbers, 0, 0, 0, "LIST", "some of scale,hold,k,m,c,d"},
        {"samples", 0, CLI_SIZE, &request.samples, 1, PIPELINE_SAMPLES_MAX, 0, "N", "to fit"},
        {"validation", 0, CLI_SIZE, &request.validation, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "validation samples"},
        {"test", 0, CLI_SIZE, &request.test, 1, PIPELINE_SAMPLES_MAX, 0, "N", "test samples"},
        {"newton", 0, CLI_SIZE, &request.fit.jacobians, 0, 100, 0, "N", "jacobians"},
        {"stride", 0, CLI_SIZE, &request.fit.stride, 1, 100, 0, "N", "stride"},
        {"ridge", 0, CLI_REAL, &request.fit.ridge, 0, 1, 0, "X", "ridge"},
        {"step-ridge", 0, CLI_REAL, &request.fit.step_ridge, 0, 1, 0, "X", "ridge"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "of noise and labels (default 0)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, PIPELINE_MICRO_BATCH_MAX, 0, "N",
         "samples computed together (default 4)"},
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "schedule to write (.json)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;
    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done)
        status = parse_numbers(&request.fit.numbers, request.numbers, &error);
    if (!status && !done)
        status = pipeline_check_output(request.output, &error);
    if (!status && !done) {
        cli_catch_signals();
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_fit = {
    .name = "fit",
    .summary = "fit a schedule's free numbers to a reference",
    .arguments = "",
    .details = "",
    .example = "",
    .run = run,
};
