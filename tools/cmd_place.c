#include "tools/commands.h"
#include "tools/pipeline.h"

#include "calib/placement.h"
#include "formats/memory.h"
#include "profile/probe.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    DEFAULT_PERIOD = 3,
    DEFAULT_SAMPLES = 16,
    DEFAULT_PROBE_SAMPLES = 8,
    DEFAULT_HORIZON = 12,
    DEFAULT_STRIDE = 3
};

typedef struct place_request {
    pipeline_model_options model;
    const char *schedule, *name, *output;
    pipeline_budget budget;
    size_t period, full, samples, probe_samples, horizon, stride, micro_batch;
    uint64_t seed;
} place_request;

/* A schedule with its gates decided, and how well it does end to end. */
typedef struct contender {
    ousac_schedule schedule;
    ousac_profile *pilot, *profile;
    ousac_factor_set *set;
    pipeline_choice choice;
    double predicted; /* by the placement's error model */
} contender;

static void contender_free(contender *c) {
    pipeline_choice_free(&c->choice);
    ousac_factor_set_free(c->set);
    ousac_profile_free(c->profile);
    ousac_profile_free(c->pilot);
    ousac_schedule_free(&c->schedule);
}

static double measured(const contender *c) {
    return c->choice.candidate[c->choice.chosen].measured;
}

/* Every period-th step full, the others cached. */
static void space_evenly(ousac_schedule *schedule, size_t period) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            schedule->steps[i].gate[b] = i % period == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
}

/* Profile, factors, uniform ranks with or without a forecast, whichever is better on the validation samples.
 */
static ousac_status calibrate(contender *c, const pipeline_runs *runs, const place_request *request,
                              ousac_error *error) {
    pipeline_cost cost = {0};
    const size_t pilot =
        request->samples < PIPELINE_PILOT_SAMPLES ? request->samples : PIPELINE_PILOT_SAMPLES;
    ousac_status status = pipeline_pilot(runs, &c->schedule, pilot, &c->pilot, &cost, error);
    if (status)
        return status;
    const pipeline_profile_options options = {
        .range = {0, request->samples}, .segments = 1, .weights = c->pilot};
    status = pipeline_profile(runs, &c->schedule, &options, &c->profile, &cost, error);
    if (!status)
        status = pipeline_factors(runs, c->profile, OUSAC_METHOD_DELTA_COV, &c->set, error);
    const pipeline_allocate_options allocate = {.name = "default",
                                                .method = PIPELINE_UNIFORM,
                                                .forecast = PIPELINE_FORECAST_AUTO,
                                                .budget = request->budget,
                                                .granularity = 1};
    return status ? status : pipeline_allocate(runs, c->profile, c->set, &allocate, &c->choice, error);
}

/* The corrections of the evenly spaced contender, without a forecast: what the probe measures with. */
static ousac_status probe(const contender *even, const pipeline_runs *runs, const place_request *request,
                          ousac_probe **made, ousac_error *error) {
    const ousac_model *model = runs->model;
    const ousac_ranks ranks = {.rank = even->choice.plan->rank, .dense_fallback = 1};
    ousac_calibration *calibration = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, even->set, NULL, error);
    if (status)
        return status;
    cli_progress *progress = cli_progress_start(runs->common, "probe");
    const ousac_probe_options options = {
        .model = model,
        .schedule = &even->schedule,
        .calibration = calibration,
        .seed = runs->seed,
        .count = request->probe_samples,
        .micro_batch = runs->micro_batch,
        .threads = runs->common->threads,
        .horizon = request->horizon,
        .stride = request->stride < even->schedule.step_count ? request->stride : 1,
        .progress = cli_progress_update,
        .progress_self = progress,
        .stop = &cli_stop,
    };
    status = ousac_probe_create(made, &options, error);
    cli_progress_end(progress);
    ousac_calibration_free(calibration);
    return status;
}

/* Full evaluations of the schedule as it runs. */
static ousac_status count_full(const ousac_arch *arch, const ousac_schedule *schedule, size_t *count,
                               ousac_error *error) {
    ousac_cost_total cost;
    ousac_status status = ousac_cost_trajectory(arch, schedule, NULL, &cost, error);
    *count = cost.forwards_full;
    return status;
}

/* Sets the gates of `placed` from the shortest path, and predicts the errors of both contenders. */
static ousac_status place(const ousac_probe *p, size_t refreshes, contender *even, contender *placed,
                          ousac_error *error) {
    const ousac_schedule *schedule = &even->schedule;
    ousac_placement_branch branches[OUSAC_BRANCHES];
    unsigned char *refresh[OUSAC_BRANCHES] = {NULL, NULL};
    double *amplitude[OUSAC_BRANCHES] = {NULL, NULL};
    int *effective = ousac_malloc(schedule->step_count, OUSAC_BRANCHES * sizeof *effective);
    ousac_status status = OUSAC_STATUS_OK;
    int ok = effective != NULL;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        amplitude[b] = ousac_calloc(p->evaluations[b] * p->horizon, sizeof *amplitude[b]);
        refresh[b] = ousac_calloc(p->evaluations[b], 1);
        ok &= amplitude[b] && refresh[b];
        if (ok)
            ousac_probe_amplitude(p, schedule, b, amplitude[b]);
        branches[b] = (ousac_placement_branch){p->evaluations[b], amplitude[b]};
    }
    if (!ok) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the placement");
        goto done;
    }
    if ((status = ousac_schedule_effective_gates(schedule, effective, error)))
        goto done;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t j = 0; j < p->evaluations[b]; j++)
            refresh[b][j] = effective[p->step[b][j] * OUSAC_BRANCHES + (size_t)b] == OUSAC_GATE_FULL;
    if (ousac_placement_error(branches, OUSAC_BRANCHES, p->horizon, refresh, &even->predicted, NULL))
        even->predicted = NAN; /* an interval beyond the horizon */
    if ((status = ousac_placement_solve(branches, OUSAC_BRANCHES, p->horizon, refreshes, refresh,
                                        &placed->predicted, error)))
        goto done;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t j = 0; j < p->evaluations[b]; j++)
            placed->schedule.steps[p->step[b][j]].gate[b] =
                refresh[b][j] ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    for (size_t i = 0; i < placed->schedule.step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++) /* of a branch that is not evaluated: as the other */
            if (!ousac_mode_evaluates(placed->schedule.steps[i].mode, b))
                placed->schedule.steps[i].gate[b] = placed->schedule.steps[i].gate[1 - b];
done:
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_free(amplitude[b]);
        ousac_free(refresh[b]);
    }
    ousac_free(effective);
    return status;
}

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

static void put_contender(json_doc *doc, cJSON *object, const char *key, const contender *c) {
    cJSON *item = json_put_object(doc, object, key);
    json_put_real(doc, item, "predicted_error", c->predicted);
    json_put_real(doc, item, "relative_error", measured(c));
    json_put_text(doc, item, "ranks", c->choice.plan->method);
    json_put_real(doc, item, "total", c->choice.cost.total);
    json_put_u64(doc, item, "forwards_full", c->choice.cost.forwards_full);
    json_put_u64(doc, item, "forwards_cached", c->choice.cost.forwards_cached);
}

static ousac_status tell(const cli_common *common, const place_request *request, const contender *even,
                         const contender *placed, int better, ousac_error *error) {
    json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;
    if (!common->json) {
        printf("%-8s %6s %7s %16s %12s %12s\n", "", "full", "cached", "of constant, %", "predicted",
               "end to end");
        for (int i = 0; i < 2; i++) {
            const contender *c = i ? placed : even;
            printf("%-8s %6zu %7zu %16.3f %12.4g %12.4g%s\n", i ? "placed" : "even",
                   c->choice.cost.forwards_full, c->choice.cost.forwards_cached, 100 * c->choice.cost.total,
                   c->predicted, measured(c), i == better ? "  <- written" : "");
        }
        if (!better)
            printf("the placement is no better end to end, so the even spacing is written\n");
        print_refreshes(&(better ? placed : even)->schedule);
        printf("%s: schedule \"%s\"\n", request->output, (better ? placed : even)->schedule.name);
        return OUSAC_STATUS_OK;
    }
    json_begin(&doc);
    json_put_text(&doc, doc.root, "file", request->output);
    json_put_text(&doc, doc.root, "written", better ? "placed" : "even");
    put_contender(&doc, doc.root, "even", even);
    put_contender(&doc, doc.root, "placed", placed);
    status = json_print(&doc, error);
    json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const place_request *request, ousac_error *error) {
    contender even = {0}, placed = {0};
    ousac_model *model = NULL;
    ousac_probe *made = NULL;
    uint64_t macs = 0;
    double step = 0;
    size_t refreshes = request->full;
    ousac_status status = ousac_schedule_load(&even.schedule, request->schedule, error);
    if (status)
        goto done;
    space_evenly(&even.schedule, request->period);
    if (request->name)
        (void)snprintf(even.schedule.name, sizeof even.schedule.name, "%s", request->name);
    if ((status = ousac_schedule_validate(&even.schedule, request->schedule, error)) ||
        (status = ousac_schedule_copy(&placed.schedule, &even.schedule, error)) ||
        (status = pipeline_load_model(&model, &request->model, error)) ||
        (status = pipeline_budget_solve(&model->arch, &even.schedule, &request->budget, &macs, &step, error)))
        goto done;
    if (!refreshes)
        status = count_full(&model->arch, &even.schedule, &refreshes, error);
    const pipeline_runs runs = {common, model, request->seed, request->micro_batch};
    if (status || (status = calibrate(&even, &runs, request, error)) ||
        (status = probe(&even, &runs, request, &made, error)) ||
        (status = place(made, refreshes, &even, &placed, error)) ||
        (status = calibrate(&placed, &runs, request, error)))
        goto done;
    const int better = request->full || measured(&placed) < measured(&even);
    status = ousac_schedule_save(&(better ? &placed : &even)->schedule, request->output, error);
    if (!status)
        status = tell(common, request, &even, &placed, better, error);
done:
    ousac_probe_free(made);
    contender_free(&even);
    contender_free(&placed);
    ousac_model_free(model);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    place_request request = {.budget = {NAN, NAN},
                             .period = DEFAULT_PERIOD,
                             .samples = DEFAULT_SAMPLES,
                             .probe_samples = DEFAULT_PROBE_SAMPLES,
                             .horizon = DEFAULT_HORIZON,
                             .stride = DEFAULT_STRIDE,
                             .micro_batch = PIPELINE_MICRO_BATCH};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 1, "FILE",
         "schedule whose steps, branches and scales are kept; its gates are not looked at"},
        {"period", 0, CLI_SIZE, &request.period, 1, OUSAC_SCHEDULE_STEPS_MAX, 0, "P",
         "place as many full evaluations as every P-th step makes (default 3)"},
        {"full", 0, CLI_SIZE, &request.full, 1, OUSAC_SCHEDULE_STEPS_MAX, 0, "N",
         "place N full evaluations, over both branches, instead"},
        PIPELINE_BUDGET_OPTIONS(&request.budget),
        {"samples", 0, CLI_SIZE, &request.samples, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "calibration samples, from 0; 8 behind them validate (default 16)"},
        {"probe-samples", 0, CLI_SIZE, &request.probe_samples, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "samples to measure ages and influences on, from 0 (default 8)"},
        {"horizon", 0, CLI_SIZE, &request.horizon, 2, 1000, 0, "N",
         "a refresh serves fewer than N evaluations of its branch (default 12)"},
        {"stride", 0, CLI_SIZE, &request.stride, 1, 1000, 0, "N",
         "the influence of every N-th step is measured (default 3)"},
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
        "branch are full. For a few samples it measures how large the error of a corrected evaluation is by\n"
        "the age of its cache, and how much an error at each step matters to the final sample; the "
        "placement\n"
        "of least predicted error is a shortest path. Branches are placed apart: one that is rarely "
        "evaluated\n"
        "is not refreshed for nothing.\n"
        "\n"
        "The result is compared end to end, on samples that were not calibrated on, with every P-th step at\n"
        "the same number of full evaluations, each with uniform ranks and with a forecast where that is\n"
        "better; the better schedule is written (with --full: the placed one).",
    .example = "build/ousac place --model data/shapes-dit/model.safetensors \\\n"
               "    --schedule data/schedules/sparse.json --name placed -o build/demo/placed.json",
    .run = run,
};
