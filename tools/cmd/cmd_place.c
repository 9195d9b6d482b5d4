#include "pipeline/pipeline.h"
#include "pipeline/place.h"
#include "tools/cmd/commands.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct place_request {
    pipeline_model_options model;
    const char *schedule, *name, *output;
    pipeline_budget budget;
    place_options search;
    size_t period, micro_batch;
    uint64_t seed;
} place_request;

/* "cond: full at 0 8 12" */
static void print_refreshes(const ousac_schedule *schedule) {
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        size_t full = 0, evaluated = 0;
        for (size_t i = 0; i < schedule->step_count; i++) {
            evaluated += ousac_mode_evaluates(schedule->steps[i].mode, b) != 0;
            full += ousac_mode_evaluates(schedule->steps[i].mode, b) &&
                    schedule->steps[i].gate[b] == OUSAC_GATE_FULL;
        }
        if (!evaluated)
            continue;
        printf("%-7s full at %zu of %zu:", ousac_branch_name(b), full, evaluated);
        for (size_t i = 0; i < schedule->step_count; i++)
            if (ousac_mode_evaluates(schedule->steps[i].mode, b) &&
                schedule->steps[i].gate[b] == OUSAC_GATE_FULL)
                printf(" %zu", i);
        printf("\n");
    }
}

static void print_row(const char *name, double predicted, double error, const ousac_cost_total *cost,
                      int written) {
    printf("%-8s %6zu %7zu %14.3f %16.3f %12.4g %12.4g%s\n", name, cost->forwards_full, cost->forwards_cached,
           100 * cost->cached_step, 100 * cost->total, predicted, error, written ? "  <- written" : "");
}

static void put_row(json_doc *doc, cJSON *object, const char *key, double predicted, double error,
                    const ousac_cost_total *cost) {
    cJSON *item = json_put_object(doc, object, key);
    json_put_real(doc, item, "predicted_error", predicted);
    json_put_real(doc, item, "relative_error", error);
    json_put_real(doc, item, "cached_step", cost->cached_step);
    json_put_real(doc, item, "total", cost->total);
    json_put_u64(doc, item, "forwards_full", cost->forwards_full);
    json_put_u64(doc, item, "forwards_cached", cost->forwards_cached);
}

static ousac_status tell(const cli_common *common, const place_request *request, const place_result *result,
                         ousac_error *error) {
    json_doc doc;
    if (!common->json) {
        printf("%-8s %6s %7s %14s %16s %12s %12s\n", "", "full", "cached", "cached step, %", "of constant, %",
               "predicted", "end to end");
        print_row("even", result->even_predicted, result->even_error, &result->even_cost, !result->placed);
        if (result->placed)
            print_row("placed", result->predicted, result->error, &result->cost, 1);
        else
            printf("no placement was better end to end, so the even spacing is written\n");
        print_refreshes(&result->schedule);
        printf("%zu end-to-end runs, %.0f s\n%s: schedule \"%s\"\n", result->step_count, result->seconds,
               request->output, result->schedule.name);
        return OUSAC_STATUS_OK;
    }
    json_begin(&doc);
    json_put_text(&doc, doc.root, "file", request->output);
    json_put_text(&doc, doc.root, "written", result->placed ? "placed" : "even");
    json_put_u64(&doc, doc.root, "rank", result->rank);
    json_put_bool(&doc, doc.root, "forecast", result->forecast);
    put_row(&doc, doc.root, "even", result->even_predicted, result->even_error, &result->even_cost);
    put_row(&doc, doc.root, "placed", result->predicted, result->error, &result->cost);
    cJSON *steps = json_put_array(&doc, doc.root, "evaluations");
    for (size_t i = 0; i < result->step_count; i++) {
        const place_step *step = &result->steps[i];
        cJSON *item = json_put_object(&doc, steps, NULL);
        json_put_text(&doc, item, "kind", step->kind);
        json_put_u64(&doc, item, "full", step->full);
        json_put_u64(&doc, item, "rank", step->rank);
        json_put_real(&doc, item, "predicted_error", step->predicted);
        json_put_real(&doc, item, "relative_error", step->error);
    }
    json_put_real(&doc, doc.root, "wall_s", result->seconds);
    const ousac_status status = json_print(&doc, error);
    json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const place_request *request, ousac_error *error) {
    ousac_schedule even = {0};
    place_result result = {0};
    place_options options = request->search;
    ousac_model *model = NULL;
    uint64_t macs = 0;
    double step = 0;
    size_t rank = 0;
    ousac_status status = ousac_schedule_load(&even, request->schedule, error);
    if (status)
        goto done;
    place_evenly(&even, request->period);
    if (request->name)
        (void)snprintf(even.name, sizeof even.name, "%s", request->name);
    if ((status = ousac_schedule_validate(&even, request->schedule, error)) ||
        (status = pipeline_load_model(&model, &request->model, error)) ||
        (status = pipeline_budget_solve(&model->arch, &even, &request->budget, &macs, &step, error)) ||
        (status = place_budget(&model->arch, &even, macs, &options.macs, &rank, error)))
        goto done;
    options.even = &even;
    const pipeline_runs runs = {common, model, request->seed, request->micro_batch};
    status = place_search(&runs, &options, &result, error);
    if (!status)
        status = ousac_schedule_save(&result.schedule, request->output, error);
    if (!status)
        status = tell(common, request, &result, error);
done:
    place_result_free(&result);
    ousac_schedule_free(&even);
    ousac_model_free(model);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    place_request request = {.budget = {NAN, NAN},
                             .period = PLACE_PERIOD,
                             .search = {.samples = PLACE_SAMPLES,
                                        .probe_samples = PLACE_PROBE_SAMPLES,
                                        .horizon = PLACE_HORIZON,
                                        .stride = PLACE_STRIDE,
                                        .evaluations = PLACE_EVALUATIONS},
                             .micro_batch = PIPELINE_MICRO_BATCH};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 1, "FILE",
         "schedule whose steps, branches and scales are kept; its gates are not looked at"},
        {"period", 0, CLI_SIZE, &request.period, 1, OUSAC_SCHEDULE_STEPS_MAX, 0, "P",
         "stay within the cost of a refresh at every P-th step with the budget's ranks (default 3)"},
        {"full", 0, CLI_SIZE, &request.search.full, 1, OUSAC_SCHEDULE_STEPS_MAX, 0, "N",
         "place N full evaluations, over both branches (default: the number is searched as well)"},
        PIPELINE_BUDGET_OPTIONS(&request.budget),
        {"samples", 0, CLI_SIZE, &request.search.samples, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "calibration samples, from 0; 16 behind them are searched on (default 8)"},
        {"probe-samples", 0, CLI_SIZE, &request.search.probe_samples, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "samples to measure ages and influences on, from 0 (default 8)"},
        {"horizon", 0, CLI_SIZE, &request.search.horizon, 2, 1000, 0, "N",
         "a refresh serves fewer than N evaluations of its branch (default 12)"},
        {"stride", 0, CLI_SIZE, &request.search.stride, 1, 1000, 0, "N",
         "the influence of every N-th step is measured (default 3)"},
        {"evaluations", 0, CLI_SIZE, &request.search.evaluations, 2, 1000, 0, "N",
         "end-to-end runs that the search may spend (default 24)"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "of noise and labels (default 0)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, PIPELINE_MICRO_BATCH_MAX, 0, "N",
         "samples computed together (default 4)"},
        {"name", 0, CLI_TEXT, &request.name, 0, 0, 0, "NAME", "of the schedule (default: as it is)"},
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "schedule to write (.json)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done && request.name && strlen(request.name) >= OUSAC_SCHEDULE_NAME_BYTES)
        status = OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "--name: expected at most %d bytes",
                            OUSAC_SCHEDULE_NAME_BYTES - 1);
    if (!status && !done)
        status = pipeline_check_output(request.output, &error);
    if (!status && !done) {
        cli_catch_signals();
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_place = {
    .name = "place",
    .summary = "choose which evaluations refresh the cache",
    .arguments = "",
    .details =
        "Keeps the steps, branches and scales of a schedule and decides its gates: which evaluations of "
        "each\n"
        "branch are full, and how many. For a few samples it measures how large the error of a corrected\n"
        "evaluation is by the age of its cache, and how much an error at each step matters to the final\n"
        "sample; the placement of least predicted error is a shortest path. Branches are placed apart: one\n"
        "that is rarely evaluated is not refreshed for nothing. More refreshes leave less for the ranks: "
        "the\n"
        "budget is that of the whole trajectory.\n"
        "\n"
        "From there it searches on the end-to-end error: other numbers of refreshes, a new probe of the "
        "best,\n"
        "single refreshes moved. The result costs no more than every P-th step at the budget's ranks; where\n"
        "nothing was better than even spacing, that is written.",
    .example = "build/ousac place --model data/shapes-dit/model.safetensors \\\n"
               "    --schedule data/schedules/sparse.json --name placed -o build/demo/placed.json",
    .run = run,
};
