#include "pipeline/place.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct place_request {
    ousac_session_model model;
    const char *schedule, *name, *output;
    ousac_budget budget;
    ousac_place_options search;
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
        cli_printf("%-7s full at %zu of %zu:", ousac_branch_name(b), full, evaluated);
        for (size_t i = 0; i < schedule->step_count; i++)
            if (ousac_mode_evaluates(schedule->steps[i].mode, b) &&
                schedule->steps[i].gate[b] == OUSAC_GATE_FULL)
                cli_printf(" %zu", i);
        cli_printf("\n");
    }
}

static void print_row(const char *name, double predicted, double error, const ousac_cost_total *cost,
                      int written) {
    cli_printf("%-8s %6zu %7zu %14.3f %16.3f %12.4g %12.4g%s\n", name, cost->forwards_full,
               cost->forwards_cached, 100 * cost->cached_step, 100 * cost->total, predicted, error,
               written ? "  <- written" : "");
}

static void put_row(ousac_json_doc *doc, cJSON *object, const char *key, double predicted, double error,
                    const ousac_cost_total *cost) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    ousac_json_put_real(doc, item, "predicted_error", predicted);
    ousac_json_put_real(doc, item, "relative_error", error);
    ousac_json_put_real(doc, item, "cached_step", cost->cached_step);
    ousac_json_put_real(doc, item, "total", cost->total);
    ousac_json_put_u64(doc, item, "forwards_full", cost->forwards_full);
    ousac_json_put_u64(doc, item, "forwards_cached", cost->forwards_cached);
}

static ousac_status tell(const cli_common *common, const place_request *request,
                         const ousac_place_result *result, ousac_error *error) {
    ousac_json_doc doc;
    if (!common->json) {
        cli_printf("%-8s %6s %7s %14s %16s %12s %12s\n", "", "full", "cached", "cached step, %",
                   "of constant, %", "predicted", "end to end");
        print_row("even", result->even_predicted, result->even_error, &result->even_cost, !result->placed);
        if (result->placed)
            print_row("placed", result->predicted, result->error, &result->cost, 1);
        else
            cli_printf("no placement was better end to end, so the even spacing is written\n");
        print_refreshes(&result->schedule);
        cli_printf("%zu end-to-end runs, %.0f s\n%s: schedule \"%s\"\n", result->step_count, result->seconds,
                   request->output, result->schedule.name);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "file", request->output);
    ousac_json_put_text(&doc, doc.root, "written", result->placed ? "placed" : "even");
    ousac_json_put_u64(&doc, doc.root, "rank", result->rank);
    ousac_json_put_bool(&doc, doc.root, "forecast", result->forecast);
    put_row(&doc, doc.root, "even", result->even_predicted, result->even_error, &result->even_cost);
    put_row(&doc, doc.root, "placed", result->predicted, result->error, &result->cost);
    cJSON *steps = ousac_json_put_array(&doc, doc.root, "evaluations");
    for (size_t i = 0; i < result->step_count; i++) {
        const ousac_place_step *step = &result->steps[i];
        cJSON *item = ousac_json_put_object(&doc, steps, NULL);
        ousac_json_put_text(&doc, item, "kind", step->kind);
        ousac_json_put_u64(&doc, item, "full", step->full);
        ousac_json_put_u64(&doc, item, "rank", step->rank);
        ousac_json_put_real(&doc, item, "predicted_error", step->predicted);
        ousac_json_put_real(&doc, item, "relative_error", step->error);
    }
    ousac_json_put_real(&doc, doc.root, "wall_s", result->seconds);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const place_request *request, ousac_error *error) {
    ousac_schedule even = {0};
    ousac_place_result result = {0};
    ousac_place_options options = request->search;
    ousac_model *model = NULL;
    uint64_t macs = 0;
    double step = 0;
    size_t rank = 0;
    ousac_status status = ousac_schedule_load(&even, request->schedule, error);
    if (status)
        goto done;
    ousac_place_evenly(&even, request->period);
    if (request->name)
        (void)snprintf(even.name, sizeof even.name, "%s", request->name);
    if ((status = ousac_schedule_validate(&even, request->schedule, error)) ||
        (status = cli_load_model(&model, &request->model, error)) ||
        (status = ousac_budget_solve(&model->arch, &even, &request->budget, &macs, &step, error)) ||
        (status = ousac_place_budget(&model->arch, &even, macs, &options.budget, &rank, error)))
        goto done;
    options.even = &even;
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    status = ousac_place_search(&session, &options, &result, error);
    if (!status && !request->output) {
        char *text = NULL;
        status = ousac_schedule_print(&result.schedule, &text, error);
        if (!status)
            (void)fputs(text, stdout);
        ousac_free(text);
        goto done;
    }
    if (!status)
        status = ousac_schedule_save(&result.schedule, request->output, error);
    if (!status)
        status = tell(common, request, &result, error);
done:
    ousac_place_result_free(&result);
    ousac_schedule_free(&even);
    ousac_model_free(model);
    return status;
}

#define AT(member) offsetof(place_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", CLI_REQUIRED,
     "schedule whose steps, branches and scales are kept; its gates are not looked at", 0, 0},
    {"period", 0, CLI_SIZE, AT(period), "P", CLI_TEXT_OF(OUSAC_PLACE_PERIOD),
     "stay within the cost of a refresh at every P-th step with the budget's ranks", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"full", 0, CLI_SIZE, AT(search.full), "N", NULL,
     "place N full evaluations, over both branches (default: the number is searched as well)", 1, OUSAC_SCHEDULE_STEPS_MAX},
    OPTIONS_BUDGET(AT(budget)),
    {"samples", 0, CLI_SIZE, AT(search.samples), "N", CLI_TEXT_OF(OUSAC_PLACE_SAMPLES),
     "calibration samples, from 0; 16 behind them are searched on", 1, OUSAC_SAMPLES_MAX},
    {"probe-samples", 0, CLI_SIZE, AT(search.probe_samples), "N", CLI_TEXT_OF(OUSAC_PLACE_PROBE_SAMPLES),
     "samples to measure ages and influences on, from 0", 1, OUSAC_SAMPLES_MAX},
    {"horizon", 0, CLI_SIZE, AT(search.horizon), "N", CLI_TEXT_OF(OUSAC_PLACE_HORIZON),
     "a refresh serves fewer than N evaluations of its branch", 2, 1000},
    {"stride", 0, CLI_SIZE, AT(search.stride), "N", CLI_TEXT_OF(OUSAC_PLACE_STRIDE),
     "the influence of every N-th step is measured", 1, 1000},
    {"evaluations", 0, CLI_SIZE, AT(search.evaluations), "N", CLI_TEXT_OF(OUSAC_PLACE_EVALUATIONS),
     "end-to-end runs that the search may spend", 2, 1000},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"name", 0, CLI_TEXT, AT(name), "NAME", NULL,
     "of the schedule (default: as it is)", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "schedule to write (.json); - for standard output", 0, CLI_STDOUT_TEXT},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const place_request *request = values;
    if (call->common.json && !request->output)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--json needs --output FILE: without it the schedule goes to standard output");
    if (request->name && strlen(request->name) >= OUSAC_SCHEDULE_NAME_BYTES)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--name: expected at most %d bytes",
                          OUSAC_SCHEDULE_NAME_BYTES - 1);
    return execute(&call->common, request, error);
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
    .options = options,
    .request_size = sizeof(place_request),
    .run = run,
};
