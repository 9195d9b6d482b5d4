#include "pipeline/evaluation.h"
#include "pipeline/transfer.h"
#include "tools/cmd/commands.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct eval_request {
    pipeline_model_options model;
    const char *bundle, *plan, *schedule, *reference, *output;
    double reference_scale;
    cli_range samples;
    uint64_t seed; /* UINT64_MAX: the bundle's */
    size_t micro_batch, recalibrate;
    double threshold;
    int force;
} eval_request;

/* A mismatch that --force turns into a warning. */
static ousac_status forgive(const cli_common *common, int force, ousac_status status, ousac_error *error) {
    if (status != OUSAC_STATUS_MISMATCH || !force)
        return status;
    cli_note(common, "warning: %s", error->message);
    return OUSAC_STATUS_OK;
}

/* The plan asked for, or the bundle's default; the names there are where it is missing. */
static ousac_status find_plan(const ousac_bundle *bundle, const char *path, const char *name,
                              const ousac_plan **plan, ousac_error *error) {
    char names[256] = "";
    *plan = ousac_bundle_find_plan(bundle, name);
    if (*plan)
        return OUSAC_STATUS_OK;
    for (size_t i = 0, used = 0; i < ousac_bundle_plan_count(bundle) && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 ousac_bundle_plan(bundle, i)->name);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %s%s; expected --plan with one of: %s", path,
                      name ? "no plan named " : "several plans and none named \"default\"", name ? name : "",
                      names);
}

/* Under another schedule than the bundle's: what --schedule names differs in more than its name. */
static int is_other(const ousac_schedule *own, const ousac_schedule *given) {
    char a[OUSAC_DIGEST_CHARS], b[OUSAC_DIGEST_CHARS];
    ousac_schedule_digest(own, a);
    ousac_schedule_digest(given, b);
    return strcmp(a, b) != 0;
}

static ousac_status report(const cli_common *common, const eval_request *request, const evaluation *result,
                           const transfer *moved, ousac_error *error) {
    json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    json_begin(&doc);
    evaluation_put(&doc, doc.root, result);
    if (moved)
        transfer_put(&doc, doc.root, moved, result);
    if (request->output)
        status = json_save(&doc, request->output, error);
    if (!status && common->json)
        status = json_print(&doc, error);
    json_end(&doc);
    if (status || common->json)
        return status;
    evaluation_print(result);
    if (moved)
        transfer_print(moved, result);
    if (request->output)
        printf("\n%s: the same as JSON\n", request->output);
    return OUSAC_STATUS_OK;
}

static ousac_status execute(const cli_common *common, const eval_request *request, ousac_error *error) {
    ousac_model *model = NULL;
    ousac_bundle *bundle = NULL;
    ousac_schedule given = {0}, reference = {0};
    ousac_calibration *calibration = NULL;
    ousac_plan *mapped = NULL;
    pipeline_provenance provenance;
    evaluation result = {0};
    transfer moved = {0};
    char note[OUSAC_ERROR_MESSAGE_BYTES] = "";
    evaluation_options options = {.range = request->samples, .reference_scale = request->reference_scale};
    int other = 0;
    ousac_status status = OUSAC_STATUS_OK;

    status = ousac_bundle_open(&bundle, request->bundle, error);
    if (!status)
        status = pipeline_read_provenance(request->bundle, &provenance, error);
    if (!status)
        status = find_plan(bundle, request->bundle, request->plan, &options.plan, error);
    if (!status && request->schedule)
        status = pipeline_load_schedule(&given, request->schedule, error);
    if (!status && request->reference)
        status = ousac_schedule_load(&reference, request->reference, error);
    if (status)
        goto done;
    options.schedule = request->schedule ? &given : ousac_bundle_schedule(bundle);
    options.reference = request->reference ? &reference : NULL;
    const uint64_t seed = request->seed != UINT64_MAX ? request->seed
                          : provenance.known          ? provenance.seed
                                                      : 0;
    status = evaluation_check_samples(common, &provenance, &request->samples, seed, request->force,
                                      &options.held_out, error);
    if (status)
        goto done;
    other = request->schedule && is_other(ousac_bundle_schedule(bundle), &given);
    if (other) {
        status = transfer_check(&request->samples, request->recalibrate, error);
        if (!status)
            status = transfer_plan(&mapped, options.plan, ousac_bundle_schedule(bundle), &given, error);
        options.plan = mapped;
    }
    if (!status)
        status = pipeline_load_model(&model, &request->model, error);
    if (!status)
        status = forgive(common, request->force, ousac_bundle_check_model(bundle, model, note, error), error);
    if (*note)
        cli_note(common, "note: %s", note);
    if (!status)
        status =
            ousac_bundle_calibration(bundle, options.plan, &model->arch, model->backend, &calibration, error);
    if (status)
        goto done;
    options.calibration = calibration;
    const pipeline_runs runs = {common, model, seed, request->micro_batch};
    status = evaluation_create(&result, &runs, &options, error);
    if (!status && other) {
        const transfer_options move = {.from = ousac_bundle_schedule(bundle),
                                       .to = &given,
                                       .plan = mapped,
                                       .samples = request->recalibrate,
                                       .threshold = request->threshold};
        status = transfer_create(&moved, &runs, &move, &result, error);
    }
    if (!status)
        status = report(common, request, &result, other ? &moved : NULL, error);
done:
    transfer_free(&moved);
    evaluation_free(&result);
    ousac_calibration_free(calibration);
    ousac_plan_free(mapped);
    ousac_schedule_free(&given);
    ousac_schedule_free(&reference);
    ousac_bundle_close(bundle);
    ousac_model_free(model);
    return status;
}

static ousac_status check(const eval_request *request, ousac_error *error) {
    if (request->reference && !isnan(request->reference_scale))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of --reference and --reference-scale, not both");
    if (pipeline_check_range("samples", &request->samples, request->micro_batch, error))
        return error->status;
    return request->output ? pipeline_check_output(request->output, error) : OUSAC_STATUS_OK;
}

static int run(const cli_command *command, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--compare") == 0)
            return command_compare.run(&command_compare, argc, argv);
    eval_request request = {.reference_scale = NAN,
                            .seed = UINT64_MAX,
                            .micro_batch = PIPELINE_MICRO_BATCH,
                            .recalibrate = TRANSFER_SAMPLES,
                            .threshold = TRANSFER_THRESHOLD};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"bundle", 'b', CLI_TEXT, &request.bundle, 0, 0, 1, "FILE", "bundle (.oca)"},
        {"plan", 0, CLI_TEXT, &request.plan, 0, 0, 0, "NAME",
         "plan in the bundle (default \"default\", or the only one)"},
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 0, "FILE",
         "schedule (default: the bundle's); under another one, whether to recalibrate"},
        {"samples", 0, CLI_RANGE, &request.samples, 0, 0, 1, "FIRST:END",
         "test samples, FIRST a multiple of the micro-batch"},
        {"recalibrate-samples", 0, CLI_SIZE, &request.recalibrate, 0, PIPELINE_SAMPLES_MAX, 0, "N",
         "under another schedule: samples 0:N to recalibrate with, 0 for no verdict (default 16)"},
        {"threshold", 0, CLI_REAL, &request.threshold, 1, 1000, 0, "X",
         "how many times the recalibrated error is too much (default 1.1)"},
        {"reference", 0, CLI_TEXT, &request.reference, 0, 0, 0, "FILE",
         "schedule of the reference run, uncached (default: constant guidance)"},
        {"reference-scale", 0, CLI_REAL, &request.reference_scale, 0, 0, 0, "W",
         "scale of the constant guidance (default: the median of the guided scales)"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "of noise and labels (default: the calibration's)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, PIPELINE_MICRO_BATCH_MAX, 0, "N",
         "samples computed together (default 4)"},
        {"force", 0, CLI_FLAG, &request.force, 0, 0, 0, NULL,
         "go on with another model, or with samples that made the bundle"},
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 0, "FILE", "also write the result as JSON"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done)
        status = check(&request, &error);
    if (!status && !done) {
        cli_catch_signals();
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_eval = {
    .name = "eval",
    .summary = "calibrated against exact, on held-out samples",
    .arguments = "",
    .details =
        "Runs the same samples four times (exact under the schedule, calibrated by the bundle, reuse without "
        "correction, and a reference with constant guidance and no cache) and reports\n"
        "\n"
        "  errors  of the final sample: relative error and PSNR, with 95 % bootstrap intervals over samples\n"
        "  cost    in multiply-accumulates: what guidance, caching and calibration take off and add; the "
        "count\n"
        "          of the executor must equal the cost model's\n"
        "  time    wall time of each run, and the share of evaluations and of layers that ran cached\n"
        "\n"
        "With --compare it makes no use of a bundle: it calibrates every method at equal cost and compares "
        "them; see\n"
        "`ousac eval --compare --help`.\n"
        "\n"
        "Under another --schedule than the bundle's (another scale, other guided steps, refreshes, number of "
        "steps or solver) the bundle is transferred: its factors as they are, its forecast mapped by "
        "timestep. It is then compared on the same samples with a quick recalibration at the same ranks, "
        "factors and forecast from samples 0:N of that schedule; it should be recalibrated where the 95 % "
        "interval of the ratio of the two errors lies above the threshold, and need not where it lies "
        "below.\n"
        "\n"
        "Samples that the bundle's calibration or validation used are refused unless --force is given. The "
        "keys of "
        "the JSON form are listed in formats/EVAL.md.",
    .example = "build/ousac eval --model data/shapes-dit/model.safetensors \\\n"
               "    --bundle build/demo/bundle.oca --samples 80:96 -o build/demo/eval.json\n"
               "build/ousac eval --model data/shapes-dit/model.safetensors \\\n"
               "    --bundle build/demo/bundle.oca --samples 80:96 --schedule data/schedules/constant.json",
    .run = run,
};
