#include "pipeline/fit.h"
#include "tools/cli/options.h"
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct fit_request {
    ousac_session_model model;
    const char *reference, *schedule, *bundle, *plan, *numbers, *output;
    size_t steps, samples, validation, test, micro_batch;
    uint64_t seed;
    ousac_fit_options fit;
} fit_request;

/* Everything that the command holds. */
typedef struct fit_work {
    ousac_model *model;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    ousac_schedule reference, schedule, before;
    ousac_fit_target fitting, validation, test;
    ousac_fit_report report;
    double test_before, test_after;
} fit_work;

static void free_work(fit_work *work) {
    ousac_fit_target_free(&work->fitting);
    ousac_fit_target_free(&work->validation);
    ousac_fit_target_free(&work->test);
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
        for (int k = 0; k < OUSAC_FIT_KINDS; k++) {
            const char *name = k == OUSAC_FIT_SCALE ? "scale" : ousac_coefficient_name((ousac_coefficient)k);
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
        status = ousac_session_load_schedule(&work->schedule, request->schedule, error);
    else if (!status && request->bundle)
        status = ousac_schedule_copy(&work->schedule, ousac_bundle_schedule(work->bundle), error);
    else if (!status)
        status = ousac_fit_fewer_steps(&work->schedule, &work->reference, request->steps, error);
    if (!status)
        status = ousac_schedule_copy(&work->before, &work->schedule, error);
    if (!status)
        status = cli_load_model(&work->model, &request->model, error);
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
    request->fit.arm = (ousac_fit_arm){work.calibration, work.calibration == NULL};
    const ousac_session session = cli_session(common, work.model, request->seed, request->micro_batch);
    const size_t unit = request->micro_batch;
    const ousac_sample_range fitting = {0, request->samples};
    const ousac_sample_range validation = {(request->samples + unit - 1) / unit * unit, request->validation};
    const ousac_sample_range test = {4096, request->test};
    uint64_t ignored = 0;
    status = ousac_fit_target_create(&work.fitting, &session, &work.reference, &fitting, error);
    if (!status)
        status = ousac_fit_target_create(&work.validation, &session, &work.reference, &validation, error);
    if (!status)
        status = ousac_fit_target_create(&work.test, &session, &work.reference, &test, error);
    if (!status)
        status = ousac_fit_schedule(&session, &request->fit, &work.fitting, &work.validation, &work.schedule,
                                    &work.report, error);
    if (!status)
        status = ousac_fit_measure(&session, &request->fit.arm, &work.test, &work.before, &work.test_before,
                                   &ignored, error);
    if (!status)
        status = ousac_fit_measure(&session, &request->fit.arm, &work.test, &work.schedule, &work.test_after,
                                   &ignored, error);
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

#define AT(member) offsetof(fit_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", CLI_REQUIRED, "schedule of the reference, run uncached", 0, 0},
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL, "schedule to fit", 0, 0},
    {"steps", 0, CLI_SIZE, AT(steps), "N", NULL, "instead: N of the reference's steps", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"bundle", 'b', CLI_INPUT, AT(bundle), "FILE", NULL, "fit its calibrated trajectory", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL, "of the bundle", 0, 0},
    {"numbers", 0, CLI_TEXT, AT(numbers), "LIST", "scale,hold,m,c,d", "some of scale,hold,k,m,c,d", 0, 0},
    {"samples", 0, CLI_SIZE, AT(samples), "N", "16", "to fit", 1, OUSAC_SAMPLES_MAX},
    {"validation", 0, CLI_SIZE, AT(validation), "N", "16", "validation samples", 1, OUSAC_SAMPLES_MAX},
    {"test", 0, CLI_SIZE, AT(test), "N", "16", "test samples", 1, OUSAC_SAMPLES_MAX},
    {"newton", 0, CLI_SIZE, AT(fit.jacobians), "N", "1", "jacobians", 0, 100},
    {"stride", 0, CLI_SIZE, AT(fit.stride), "N", "1", "stride", 1, 100},
    {"ridge", 0, CLI_REAL, AT(fit.ridge), "X", "1e-6", "ridge", 0, 1},
    {"step-ridge", 0, CLI_REAL, AT(fit.step_ridge), "X", "1e-4", "ridge", 0, 1},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED, "schedule to write (.json)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    fit_request *request = values;
    request->fit.stepwise = 1;
    const ousac_status status = parse_numbers(&request->fit.numbers, request->numbers, error);
    return status ? status : execute(&call->common, request, error);
}

const cli_command command_fit = {
    .name = "fit",
    .summary = "fit a schedule's free numbers to a reference",
    .arguments = "",
    .details = "",
    .example = "",
    .options = options,
    .request_size = sizeof(fit_request),
    .run = run,
};
