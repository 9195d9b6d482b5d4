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
    ousac_fit_curve curve;
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

static const char *number_name(int kind) {
    return kind == OUSAC_FIT_SCALE ? "scale" : ousac_coefficient_name((ousac_coefficient)kind);
}

static ousac_status parse_numbers(unsigned *numbers, const char *text, ousac_error *error) {
    *numbers = 0;
    while (*text) {
        const size_t length = strcspn(text, ",");
        int found = -1;
        for (int k = 0; k < OUSAC_FIT_KINDS; k++)
            if (strlen(number_name(k)) == length && strncmp(number_name(k), text, length) == 0)
                found = k;
        if (found < 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--numbers: \"%.*s\", expected some of scale,hold,k,m,c,d", (int)length, text);
        *numbers |= 1u << found;
        text += length + (text[length] == ',');
    }
    return *numbers ? OUSAC_STATUS_OK
                    : OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                 "--numbers: nothing to fit, expected some of scale,hold,k,m,c,d");
}

/* What is fitted: a schedule, a bundle's, or some of the reference's steps. */
static ousac_status load(fit_work *work, const fit_request *request, ousac_error *error) {
    if ((request->schedule != NULL || request->bundle != NULL) == (request->steps > 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected --steps, or else a --schedule or a --bundle to fit");
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
    if (status || !request->bundle)
        return status;
    const ousac_plan *plan = ousac_bundle_find_plan(work->bundle, request->plan);
    if (!plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: no plan \"%s\"", request->bundle,
                          request->plan ? request->plan : "default");
    char note[OUSAC_ERROR_MESSAGE_BYTES] = "";
    status = ousac_bundle_check_model(work->bundle, work->model, note, error);
    return status ? status
                  : ousac_bundle_calibration(work->bundle, plan, &work->model->arch, work->model->backend,
                                             &work->calibration, error);
}

static ousac_status measure_test(fit_work *work, const ousac_session *session, const ousac_fit_arm *arm,
                                 ousac_error *error) {
    uint64_t evaluations = 0;
    ousac_status status =
        ousac_fit_measure(session, arm, &work->test, &work->before, &work->test_before, &evaluations, error);
    if (!status)
        status = ousac_fit_measure(session, arm, &work->test, &work->schedule, &work->test_after,
                                   &evaluations, error);
    return status;
}

static ousac_status fit(fit_work *work, const cli_common *common, const fit_request *request,
                        ousac_error *error) {
    const ousac_session session = cli_session(common, work->model, request->seed, request->micro_batch);
    const size_t unit = request->micro_batch;
    const ousac_sample_range fitting = {0, request->samples};
    const ousac_sample_range validation = {(fitting.count + unit - 1) / unit * unit, request->validation};
    const ousac_sample_range test = {(validation.first + validation.count + unit - 1) / unit * unit,
                                     request->test};
    ousac_fit_options options = request->fit;
    options.arm = ousac_fit_arm_of(&work->schedule, work->calibration);
    ousac_status status =
        ousac_fit_target_create(&work->fitting, &session, &work->reference, &fitting, error);
    if (!status)
        status = ousac_fit_target_create(&work->validation, &session, &work->reference, &validation, error);
    if (!status)
        status = ousac_fit_target_create(&work->test, &session, &work->reference, &test, error);
    if (!status)
        status = ousac_fit_learning(&session, &options, &work->fitting, &work->validation, &work->schedule,
                                    &work->curve, error);
    if (!status)
        status = ousac_fit_schedule(&session, &options, &work->fitting, &work->validation, &work->schedule,
                                    &work->report, error);
    return status ? status : measure_test(work, &session, &options.arm, error);
}

static ousac_status tell(const cli_common *common, const fit_request *request, const fit_work *work,
                         ousac_error *error) {
    const ousac_fit_report *r = &work->report;
    const ousac_fit_curve *curve = &work->curve;
    ousac_json_doc doc;
    if (!common->json) {
        printf("%-30s %14s %14s\n%-30s %14.4g %14.4g\n%-30s %14.4g %14.4g\n", "relative error", "before",
               "fitted", "validation samples", r->before, r->after, "test samples", work->test_before,
               work->test_after);
        printf("step by step %.4g; %zu columns, %zu steps of Gauss-Newton\n", r->stepwise, r->columns,
               r->steps);
        for (size_t k = 0; k < curve->points; k++)
            printf("%s%zu samples %.4g", k ? ", " : "fitted to ", curve->samples[k], curve->error[k]);
        printf(": %zu are enough\n", curve->enough);
        if (r->diverged)
            printf("some fit met states that are not finite, and was left out\n");
        printf("%" PRIu64 " evaluations, %.0f s\n%s: %zu steps\n", r->evaluations, r->seconds,
               request->output, work->schedule.step_count);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "file", request->output);
    ousac_json_put_u64(&doc, doc.root, "steps", work->schedule.step_count);
    cJSON *validation = ousac_json_put_object(&doc, doc.root, "validation");
    ousac_json_put_real(&doc, validation, "before", r->before);
    ousac_json_put_real(&doc, validation, "stepwise", r->stepwise);
    ousac_json_put_real(&doc, validation, "after", r->after);
    cJSON *test = ousac_json_put_object(&doc, doc.root, "test");
    ousac_json_put_real(&doc, test, "before", work->test_before);
    ousac_json_put_real(&doc, test, "after", work->test_after);
    cJSON *list = ousac_json_put_array(&doc, doc.root, "learning");
    for (size_t k = 0; k < curve->points; k++) {
        cJSON *item = ousac_json_put_object(&doc, list, NULL);
        ousac_json_put_u64(&doc, item, "samples", curve->samples[k]);
        ousac_json_put_real(&doc, item, "error", curve->error[k]);
    }
    ousac_json_put_u64(&doc, doc.root, "samples_enough", curve->enough);
    ousac_json_put_u64(&doc, doc.root, "columns", r->columns);
    ousac_json_put_u64(&doc, doc.root, "newton_steps", r->steps);
    ousac_json_put_bool(&doc, doc.root, "diverged", r->diverged);
    ousac_json_put_u64(&doc, doc.root, "evaluations", r->evaluations);
    ousac_json_put_real(&doc, doc.root, "wall_s", r->seconds);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const fit_request *request, ousac_error *error) {
    fit_work work = {0};
    ousac_status status = load(&work, request, error);
    if (!status)
        status = fit(&work, common, request, error);
    if (!status)
        status = ousac_schedule_save(&work.schedule, request->output, error);
    if (!status)
        status = tell(common, request, &work, error);
    free_work(&work);
    return status;
}

#define AT(member) offsetof(fit_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", CLI_REQUIRED,
     "schedule that is run today, in full whatever its gates", 0, 0},
    {"steps", 0, CLI_SIZE, AT(steps), "N", NULL,
     "fit N of the reference's steps, evenly chosen, uncached", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "fit this schedule; uncached, unless there is a bundle", 0, 0},
    {"bundle", 'b', CLI_INPUT, AT(bundle), "FILE", NULL,
     "fit the trajectory that this bundle calibrates (default schedule: its own)", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan in the bundle (default \"default\", or the only one)", 0, 0},
    {"numbers", 0, CLI_TEXT, AT(numbers), "LIST", "scale,hold,m,c,d",
     "what is free, some of scale,hold,k,m,c,d (formats/SCHEDULE.md)", 0, 0},
    {"samples", 0, CLI_SIZE, AT(samples), "N", "64", "samples to fit, from 0", 1, OUSAC_SAMPLES_MAX},
    {"validation", 0, CLI_SIZE, AT(validation), "N", "32", "validation samples, behind those", 1, OUSAC_SAMPLES_MAX},
    {"test", 0, CLI_SIZE, AT(test), "N", "32", "test samples, behind those", 1, OUSAC_SAMPLES_MAX},
    {"newton", 0, CLI_SIZE, AT(fit.jacobians), "N", "0",
     "after the stepwise fit, Gauss-Newton on the final samples, with columns measured up to N times", 0, 100},
    {"knots", 0, CLI_SIZE, AT(fit.knots), "N", CLI_TEXT_OF(OUSAC_FIT_KNOTS),
     "of it: directions a kind of number, spread over the steps; 0: every number is one", 0, 1000},
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
    .summary = "fit a schedule's free numbers so that its samples are the reference's",
    .arguments = "",
    .details = "Guidance scales and the coefficients of the solver's steps cost nothing at run time. For a "
               "schedule of "
               "fewer steps, guided steps or full evaluations than the reference this chooses them so that "
               "the samples land "
               "where the reference's do: step by step, in closed form, each step nearest the reference's "
               "own state, on the "
               "trajectory so far, with cache and forecast at work where there is a bundle; with --newton "
               "then on the final "
               "samples. What is kept is the best on validation samples, never worse than the schedule was; "
               "the errors on "
               "test samples are of samples that nothing saw. It also says how many samples would have been "
               "enough.\n"
               "\n"
               "The schedule written is of version 2 (formats/SCHEDULE.md).",
    .example = "build/ousac fit --model data/shapes-dit/model.safetensors \\\n"
               "    --reference data/schedules/constant.json --steps 15 -o build/demo/fitted15.json",
    .options = options,
    .request_size = sizeof(fit_request),
    .run = run,
};
