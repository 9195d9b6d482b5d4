#include "pipeline/compare.h"
#include "pipeline/pipeline.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

typedef struct compare_request {
    pipeline_model_options model;
    const char *schedule, *output, *placed;
    compare_options options;
    uint64_t seed;
    size_t micro_batch;
    int compare;
} compare_request;

static ousac_status save(const char *path, const compare_cell *cell, ousac_error *error) {
    json_doc doc;
    char *text = NULL;
    json_begin(&doc);
    compare_put(&doc, doc.root, cell);
    ousac_status status = json_text(&doc, 1, &text, error);
    if (!status)
        status = ousac_file_replace(path, text, strlen(text), error);
    ousac_free(text);
    json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const compare_request *request, ousac_error *error) {
    compare_options options = request->options;
    ousac_schedule schedule = {0};
    ousac_model *model = NULL;
    compare_cell cell = {0};
    json_doc doc;
    ousac_status status = ousac_schedule_load(&schedule, request->schedule, error);
    json_begin(&doc);
    if (!status)
        status = pipeline_load_model(&model, &request->model, error);
    if (status)
        goto done;
    options.schedule = &schedule;
    const pipeline_runs runs = {common, model, request->seed, request->micro_batch};
    status = compare_run(&runs, &options, &cell, error);
    if (!status && request->placed)
        status = ousac_schedule_save(&cell.placed, request->placed, error);
    if (!status && request->output)
        status = save(request->output, &cell, error);
    if (status)
        goto done;
    if (common->json) {
        compare_put(&doc, doc.root, &cell);
        status = json_print(&doc, error);
    } else {
        compare_print(&cell);
    }
done:
    json_end(&doc);
    compare_free(&cell);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    return status;
}

static ousac_status check(const compare_request *request, ousac_error *error) {
    const cli_range calibration = {0, request->options.calibration};
    ousac_status status =
        pipeline_check_range("samples", &request->options.test, request->micro_batch, error);
    if (!status)
        status = pipeline_check_range("calibration", &calibration, request->micro_batch, error);
    if (!status && request->output)
        status = pipeline_check_output(request->output, error);
    if (!status && request->placed)
        status = pipeline_check_output(request->placed, error);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    compare_request request = {.options = {.period = 3,
                                           .budget_step = PIPELINE_BUDGET_STEP,
                                           .evaluations = COMPARE_EVALUATIONS,
                                           .calibration = COMPARE_CALIBRATION,
                                           .test = {COMPARE_TEST, COMPARE_TEST}},
                               .micro_batch = PIPELINE_MICRO_BATCH};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"compare", 0, CLI_FLAG, &request.compare, 0, 0, 0, NULL,
         "methods at equal cost instead of a bundle"},
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 1, "FILE",
         "schedule whose steps, branches and scales are kept; its gates are not looked at"},
        {"period", 0, CLI_SIZE, &request.options.period, 2, OUSAC_SCHEDULE_STEPS_MAX, 0, "P",
         "the published methods refresh at every P-th step (default 3)"},
        {"budget-step", 0, CLI_REAL, &request.options.budget_step, 0, 1, 0, "X",
         "MACs of a cached evaluation over a full one (default 0.25)"},
        {"evaluations", 0, CLI_SIZE, &request.options.evaluations, 4, 10000, 0, "N",
         "end-to-end runs of 16 samples that a method may search with (default 40)"},
        {"calibration", 0, CLI_U64, &request.options.calibration, 0, 0, 0, "N",
         "calibration samples, from 0; 32 behind them validate (default 32)"},
        {"samples", 0, CLI_RANGE, &request.options.test, 0, 0, 0, "FIRST:END",
         "test samples, behind those (default 64:128)"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "of noise and labels (default 0)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, PIPELINE_MICRO_BATCH_MAX, 0, "N",
         "samples computed together (default 4)"},
        {"placed", 0, CLI_TEXT, &request.placed, 0, 0, 0, "FILE",
         "also write the schedule that our search found"},
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

const cli_command command_compare = {
    .name = "eval --compare",
    .summary = "published methods and ours at equal cost",
    .arguments = "",
    .details =
        "Calibrates every method under one schedule and budget and runs each on the same held-out samples:\n"
        "\n"
        "  reuse, extrapolation  of module outputs, first order (arXiv 2503.06923): almost free, as they "
        "are\n"
        "  svd, ca-svd, cd-svd   uniform ranks, a refresh at every P-th step (arXiv 2505.05829)\n"
        "  ca-svd regions        four regions of ranks by coordinate descent (arXiv 2512.14096); where "
        "validation\n"
        "                        finds uniform ranks better, those stand\n"
        "  delta-cov             ours: at the same refreshes, with the forecast, and with refreshes and "
        "ranks\n"
        "                        searched\n"
        "\n"
        "The budget is that of the whole trajectory with a refresh at every P-th step and the largest "
        "uniform\n"
        "rank that fits --budget-step; no method but the exact one may cost more. Also shown: the published\n"
        "methods at our refreshes.",
    .example =
        "build/ousac eval --compare --model data/shapes-dit/model.safetensors \\\n"
        "    --schedule data/schedules/sparse.json --period 3 --budget-step 0.25 -o build/demo/cell.json",
    .run = run,
};
