#include "pipeline/compare.h"
#include "pipeline/search.h"
#include "pipeline/shard.h"
#include "pipeline/yardstick.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MODEL_NAME_BYTES = 96 };

typedef struct compare_request {
    ousac_session_model model;
    const char *schedule, *reference, *output, *placed;
    ousac_compare_options options;
    double budget_total;
    unsigned rivals; /* against the reference; 0: all */
    size_t generations;
    uint64_t seed;
    size_t micro_batch;
} compare_request;

static ousac_status save(const char *path, const ousac_compare_cell *cell, ousac_error *error) {
    ousac_json_doc doc;
    char *text = NULL;
    ousac_json_begin(&doc);
    compare_put(&doc, doc.root, cell);
    ousac_status status = ousac_json_text(&doc, 1, &text, error);
    if (!status)
        status = ousac_file_replace(path, text, strlen(text), error);
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}

/* --- against a reference --- */

/* "shapes-dit" of data/shapes-dit/model.safetensors and of a folder data/shapes-dit/. */
static void name_model(const char *path, char name[MODEL_NAME_BYTES]) {
    const char *end = path + strlen(path), *start = NULL;
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    if (slash && slash > path && dot) /* a file: as its folder is called */
        end = slash;
    while (end - 1 > path && end[-1] == '/')
        end--;
    for (start = end; start > path && start[-1] != '/';)
        start--;
    (void)snprintf(name, MODEL_NAME_BYTES, "%.*s", (int)(end - start), start);
}

typedef struct saved_rows {
    const char *path;
    char model[MODEL_NAME_BYTES];
} saved_rows;

/* The rows so far into the output, so that what is done of hours of work is kept however it ends. */
static ousac_status save_rows(void *self, const ousac_yardstick *so_far, ousac_error *error) {
    const saved_rows *to = self;
    ousac_json_doc doc;
    char *text = NULL;
    ousac_json_begin(&doc);
    yardstick_put(&doc, doc.root, to->model, so_far);
    ousac_status status = ousac_json_text(&doc, 1, &text, error);
    if (!status)
        status = ousac_file_replace(to->path, text, strlen(text), error);
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}

static ousac_status against_reference(cli_call *call, const compare_request *request, ousac_error *error) {
    const cli_common *common = &call->common;
    ousac_schedule reference = {0};
    ousac_model *model = NULL;
    ousac_yardstick result = {0};
    saved_rows to = {.path = request->output};
    ousac_json_doc doc;
    ousac_status status = ousac_schedule_load(&reference, request->reference, error);
    ousac_json_begin(&doc);
    name_model(request->model.path, to.model);
    if (!status)
        status = ousac_search_check(
            &(ousac_search_options){.reference = &reference, .budget = request->budget_total}, error);
    if (!status)
        status = cli_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const ousac_yardstick_options options = {
        .reference = &reference,
        .budget = request->budget_total,
        .rivals = request->rivals ? request->rivals : (1U << OUSAC_RIVALS) - 1,
        .calibration = request->options.calibration,
        .validation =
            cli_given(call, "validation") ? request->options.validation : OUSAC_YARDSTICK_VALIDATION,
        .test = request->options.test,
        .generations = request->generations,
        .finished = request->output ? save_rows : NULL,
        .self = &to};
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    status = ousac_yardstick_run(&session, &options, &result, error);
    if (status == OUSAC_STATUS_INTERRUPTED && result.row_count > 0) {
        cli_fprintf(stderr, "ousac compare: %s; these rows were complete\n", error->message);
        call->code = cli_exit_code(status);
        status = OUSAC_STATUS_OK;
    }
    if (status)
        goto done;
    if (common->json) {
        yardstick_put(&doc, doc.root, to.model, &result);
        if (call->code != EXIT_OK)
            ousac_json_put_bool(&doc, doc.root, "interrupted", 1);
        status = cli_json_print(&doc, error);
    } else {
        yardstick_print(&result);
    }
done:
    ousac_json_end(&doc);
    ousac_schedule_free(&reference);
    ousac_model_free(model);
    return status;
}

/* --- under one schedule --- */

static ousac_status execute(cli_call *call, const compare_request *request, ousac_error *error) {
    const cli_common *common = &call->common;
    ousac_compare_options options = request->options;
    ousac_schedule schedule = {0};
    ousac_model *model = NULL;
    ousac_compare_cell cell = {0};
    ousac_json_doc doc;
    ousac_status status = ousac_schedule_load(&schedule, request->schedule, error);
    ousac_json_begin(&doc);
    if (!status)
        status = cli_load_model(&model, &request->model, error);
    if (status)
        goto done;
    options.schedule = &schedule;
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    status = ousac_compare_run(&session, &options, &cell, error);
    if (status == OUSAC_STATUS_INTERRUPTED && cell.row_count > 0) {
        /* Hours of work may stand in the rows that there are. */
        cli_fprintf(stderr, "ousac compare: %s; these rows were complete\n", error->message);
        call->code = cli_exit_code(status);
        status = OUSAC_STATUS_OK;
    } else {
        if (!status && request->placed)
            status = ousac_schedule_save(&cell.placed, request->placed, error);
        if (!status && request->output)
            status = save(request->output, &cell, error);
    }
    if (status)
        goto done;
    if (common->json) {
        compare_put(&doc, doc.root, &cell);
        if (call->code != EXIT_OK)
            ousac_json_put_bool(&doc, doc.root, "interrupted", 1);
        status = cli_json_print(&doc, error);
    } else {
        compare_print(&cell);
    }
done:
    ousac_json_end(&doc);
    ousac_compare_free(&cell);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    return status;
}

static ousac_status check(const compare_request *request, ousac_error *error) {
    const ousac_sample_range calibration = {0, request->options.calibration};
    ousac_status status = ousac_range_check("samples", &request->options.test, request->micro_batch, error);
    if (!status)
        status = ousac_range_check("calibration", &calibration, request->micro_batch, error);
    return status;
}

#define AT(member) offsetof(compare_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule whose steps, branches and scales are kept; its gates are not looked at", 0, 0},
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", NULL,
     "instead: what is run today, uncached, against which the published methods are measured", 0, 0},
    {"budget-total", 0, CLI_REAL, AT(budget_total), "X", NULL,
     "with --reference: MACs of a trajectory over the reference's, at most", 0, 0},
    {"method", 0, CLI_CHOICES, AT(rivals), OUSAC_RIVAL_WORDS, NULL,
     "with --reference: some of these, separated by commas (default: all)", 0, 0},
    {"generations", 0, CLI_SIZE, AT(generations), "N", CLI_TEXT_OF(OUSAC_YARDSTICK_GENERATIONS),
     "with --reference: of the guidance that ousac-published evolves", 1, 10000},
    {"period", 0, CLI_SIZE, AT(options.period), "P", "3",
     "the published methods refresh at every P-th step", 2, OUSAC_SCHEDULE_STEPS_MAX},
    {"budget-step", 0, CLI_REAL, AT(options.budget_step), "X", CLI_TEXT_OF(OUSAC_DEFAULT_BUDGET_STEP),
     "MACs of a cached evaluation over a full one", 0, 1},
    {"evaluations", 0, CLI_SIZE, AT(options.evaluations), "N", CLI_TEXT_OF(OUSAC_COMPARE_EVALUATIONS),
     "end-to-end runs of 16 samples that a method may search with", 4, 10000},
    {"calibration", 0, CLI_U64, AT(options.calibration), "N", CLI_TEXT_OF(OUSAC_COMPARE_CALIBRATION),
     "calibration samples, from 0", 0, 0},
    {"validation", 0, CLI_U64, AT(options.validation), "N", CLI_TEXT_OF(OUSAC_COMPARE_VALIDATION),
     "samples behind those, which choose what ships", 1, OUSAC_SAMPLES_MAX},
    {"samples", 0, CLI_RANGE, AT(options.test), "FIRST:END", "64:128",
     "test samples, behind those", 0, 0},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"placed", 0, CLI_OUTPUT, AT(placed), "FILE", NULL,
     "also write the schedule that our search found", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", NULL,
     "also write the result as JSON; - for standard output", 0, CLI_STDOUT_JSON},
    OPTIONS_END};
/* clang-format on */
#undef AT

/* Options that one way of comparing takes, and not the other. */
static const struct {
    const char *name;
    int against;
} of_one[] = {{"period", 0},       {"budget-step", 0}, {"evaluations", 0}, {"placed", 0},
              {"budget-total", 1}, {"method", 1},      {"generations", 1}};

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const compare_request *request = values;
    const int against = request->reference != NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (against == (request->schedule != NULL))
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "expected one of --schedule, and --reference with --budget-total");
    for (size_t i = 0; i < sizeof of_one / sizeof *of_one && !status; i++)
        if (cli_given(call, of_one[i].name) && of_one[i].against != against)
            status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s: expected %s beside it", of_one[i].name,
                                of_one[i].against ? "--reference" : "--schedule");
    if (!status && against && isnan(request->budget_total))
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--reference: expected --budget-total beside it");
    if (!status)
        status = check(values, error);
    if (status)
        return status;
    return against ? against_reference(call, request, error) : execute(call, request, error);
}

const cli_command command_compare = {
    .name = "compare",
    .summary = "published methods and ours at equal cost",
    .arguments = "",
    .details =
        "Calibrates every method under one schedule at equal cost and runs each on the same held-out "
        "samples:\n"
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
        "methods at our refreshes.\n"
        "\n"
        "With --reference and --budget-total instead of --schedule the published methods are measured "
        "against the\n"
        "final samples of that reference, at no more than a share of its cost: fewer of its steps, "
        "DPM-Solver++ 2M,\n"
        "reuse, extrapolation and GOC (arXiv 2503.05156) on its own steps, svd, ca-svd and cd-svd as "
        "published and\n"
        "with our placement and forecast, and OUSAC's evolved guidance with regions of ranks. What "
        "calibrate makes of\n"
        "the same reference and budget is to be compared with that. --output holds the rows so far after "
        "each, as `ousac plot curve` draws them.",
    .example =
        "build/ousac compare --model data/shapes-dit/model.safetensors \\\n"
        "    --schedule data/schedules/sparse.json --period 3 --budget-step 0.25 -o build/demo/cell.json",
    .options = options,
    .request_size = sizeof(compare_request),
    .run = run,
};
