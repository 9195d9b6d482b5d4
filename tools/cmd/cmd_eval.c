#include "pipeline/evaluation.h"
#include "pipeline/shard.h"
#include "pipeline/transfer.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct eval_request {
    ousac_session_model model;
    const char *bundle, *plan, *schedule, *reference, *output;
    double reference_scale;
    ousac_sample_range samples;
    uint64_t seed;
    int seed_given; /* 0: the bundle's */
    size_t micro_batch, recalibrate, fine;
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

static ousac_status report(const cli_common *common, const eval_request *request, const ousac_eval *result,
                           const ousac_transfer *moved, ousac_error *error) {
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    evaluation_put(&doc, doc.root, result);
    if (moved)
        transfer_put(&doc, doc.root, moved, result);
    if (request->output)
        status = ousac_json_save(&doc, request->output, error);
    if (!status && common->json)
        status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    if (status || common->json)
        return status;
    evaluation_print(result);
    if (moved)
        transfer_print(moved, result);
    if (request->output)
        cli_printf("\n%s: the same as JSON\n", request->output);
    return OUSAC_STATUS_OK;
}

static ousac_status execute(const cli_common *common, const eval_request *request, ousac_error *error) {
    ousac_model *model = NULL;
    ousac_bundle *bundle = NULL;
    ousac_schedule given = {0}, reference = {0};
    ousac_calibration *calibration = NULL;
    ousac_plan *mapped = NULL;
    ousac_provenance provenance;
    ousac_eval result = {0};
    ousac_transfer moved = {0};
    char note[OUSAC_ERROR_MESSAGE_BYTES] = "";
    ousac_eval_options options = {
        .range = request->samples, .reference_scale = request->reference_scale, .fine = request->fine};
    int other = 0;
    ousac_status status = OUSAC_STATUS_OK;

    status = ousac_bundle_open(&bundle, request->bundle, error);
    if (!status)
        status = ousac_provenance_read(request->bundle, &provenance, error);
    if (!status)
        status = find_plan(bundle, request->bundle, request->plan, &options.plan, error);
    if (!status && request->schedule)
        status = ousac_session_load_schedule(&given, request->schedule, error);
    if (!status && request->reference)
        status = ousac_schedule_load(&reference, request->reference, error);
    if (status)
        goto done;
    options.schedule = request->schedule ? &given : ousac_bundle_schedule(bundle);
    options.reference = request->reference ? &reference : NULL;
    const uint64_t seed = request->seed_given || !provenance.known ? request->seed : provenance.seed;
    const ousac_session asking = cli_session(common, NULL, seed, request->micro_batch);
    status = ousac_eval_check_samples(&asking, &provenance, &request->samples, seed, request->force,
                                      &options.held_out, error);
    if (status)
        goto done;
    other = request->schedule && is_other(ousac_bundle_schedule(bundle), &given);
    if (other) {
        status = ousac_transfer_check(&request->samples, request->recalibrate, error);
        if (!status)
            status = ousac_transfer_plan(&mapped, options.plan, ousac_bundle_schedule(bundle), &given, error);
        options.plan = mapped;
    }
    if (!status)
        status = cli_load_model(&model, &request->model, error);
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
    const ousac_session session = cli_session(common, model, seed, request->micro_batch);
    status = ousac_eval_create(&result, &session, &options, error);
    if (!status && other) {
        const ousac_transfer_options move = {.from = ousac_bundle_schedule(bundle),
                                             .to = &given,
                                             .plan = mapped,
                                             .samples = request->recalibrate,
                                             .threshold = request->threshold};
        status = ousac_transfer_create(&moved, &session, &move, &result, error);
    }
    if (!status)
        status = report(common, request, &result, other ? &moved : NULL, error);
done:
    ousac_transfer_free(&moved);
    ousac_eval_free(&result);
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
    return ousac_range_check("samples", &request->samples, request->micro_batch, error);
}

#define AT(member) offsetof(eval_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"bundle", 'b', CLI_INPUT, AT(bundle), "FILE", CLI_REQUIRED,
     "bundle (.oca)", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan in the bundle (default \"default\", or the only one)", 0, 0},
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule (default: the bundle's); under another one, whether to recalibrate", 0, 0},
    {"samples", 0, CLI_RANGE, AT(samples), "FIRST:END", CLI_REQUIRED,
     "test samples, FIRST a multiple of the micro-batch", 0, 0},
    {"recalibrate-samples", 0, CLI_SIZE, AT(recalibrate), "N", CLI_TEXT_OF(OUSAC_TRANSFER_SAMPLES),
     "under another schedule: samples 0:N to recalibrate with, 0 for no verdict", 0, OUSAC_SAMPLES_MAX},
    {"threshold", 0, CLI_REAL, AT(threshold), "X", CLI_TEXT_OF(OUSAC_TRANSFER_THRESHOLD),
     "how many times the recalibrated error is too much", 1, 1000},
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", NULL,
     "schedule of the reference run, uncached (default: constant guidance)", 0, 0},
    {"reference-scale", 0, CLI_REAL, AT(reference_scale), "W", NULL,
     "scale of the constant guidance (default: the median of the guided scales)", 0, 0},
    {"fine", 0, CLI_SIZE, AT(fine), "N", NULL,
     "also the distance of each from a fine run, the reference's solver and guidance with N steps (default: none; four "
     "times the reference's tell its own error apart)", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"seed", 0, CLI_U64, AT(seed), "N", NULL,
     "of noise and labels (default: the calibration's)", 0, 0},
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"force", 0, CLI_FLAG, AT(force), NULL, NULL,
     "go on with another model, or with samples that made the bundle", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", NULL,
     "also write the result as JSON; - for standard output", 0, CLI_STDOUT_JSON},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    eval_request *request = values;
    request->seed_given = cli_given(call, "seed");
    const ousac_status status = check(request, error);
    return status ? status : execute(&call->common, request, error);
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
        "With --fine also how far the reference itself, the bundle and fewer steps are from a run of many "
        "more steps: "
        "what is near the reference but farther from that imitates the reference's own error.\n"
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
    .options = options,
    .request_size = sizeof(eval_request),
    .run = run,
};
