#include "pipeline/memory_stages.h"
#include "pipeline/pipeline.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { RANK_MAX = 1 << 20 };

typedef struct allocate_request {
    pipeline_model_options model;
    const char *profile, *method, *factors, *forecast, *output;
    ousac_method made_of;
    pipeline_allocate_options options;
    memory_options memory;
} allocate_request;

/* A memory_list; self is a memory_allocating. */
static void list_phases(const void *self, memory_plan *plan) {
    memory_list_allocating(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const allocate_request *request,
                                const ousac_profile *profile, const size_t *rank_max, uint64_t macs,
                                int *done, ousac_error *error) {
    pipeline_model_options shapes = request->model;
    memory_allocating allocating = {.schedule = &profile->schedule,
                                    .made_of = request->made_of,
                                    .rank_max = rank_max,
                                    .micro_batch = profile->identity.micro_batch,
                                    .cached_macs = macs,
                                    .segments = profile->identity.segments};
    memory_plan plan;
    ousac_model *model = NULL;
    int wanted = 0;
    ousac_status status = memory_parse(&request->memory, &plan, &wanted, error);
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = pipeline_load_model(&model, &shapes, error);
    if (status)
        return status;
    allocating.model = model;
    memory_take_options(&allocating, &request->options);
    status = memory_fit(&plan, common, 0, 0, list_phases, &allocating, error);
    if (!status) {
        common->threads = plan.threads;
        *done = request->memory.dry_run;
        memory_file(&plan, request->output);
        if (*done)
            status = memory_print(&plan, common, "allocate", error);
    }
    ousac_model_free(model);
    return status;
}

static ousac_status execute(cli_common *common, const allocate_request *request, ousac_error *error) {
    pipeline_model_options load = request->model;
    size_t *rank_max = NULL;
    int done = 0;
    ousac_model *model = NULL;
    ousac_profile *profile = NULL;
    ousac_factor_set *set = NULL;
    pipeline_choice choice = {0};
    uint64_t macs = 0;
    double step = 0;
    json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    json_begin(&doc);
    status = ousac_profile_open(&profile, request->profile, error);
    /* The budget needs shapes alone: a wrong one is told before the factors are made. */
    if (!status)
        status = pipeline_budget_solve(&profile->arch, &profile->schedule, &request->options.budget, &macs,
                                       &step, error);
    if (!status && !(rank_max = ousac_calloc(profile->arch.site_count, sizeof *rank_max)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                            profile->arch.site_count);
    if (!status)
        status = pipeline_allocate_ranks(&profile->arch, macs, &request->options, rank_max, error);
    if (!status)
        status = plan_memory(common, request, profile, rank_max, macs, &done, error);
    if (status || done)
        goto done;
    load.use = pipeline_allocate_runs(&request->options) ? OUSAC_MODEL_RUN : OUSAC_MODEL_FACTORS;
    status = pipeline_load_model(&model, &load, error);
    if (status)
        goto done;
    const pipeline_runs runs = {common, model, profile->identity.seed, profile->identity.micro_batch};
    status = pipeline_factors_within(&runs, profile, request->made_of, rank_max, &set, error);
    if (!status)
        status = pipeline_allocate(&runs, profile, set, &request->options, &choice, error);
    if (!status)
        status = ousac_plan_save(choice.plan, request->output, error);
    if (status)
        goto done;
    if (common->json) {
        json_put_text(&doc, doc.root, "file", request->output);
        pipeline_choice_put(&doc, doc.root, &choice, &model->arch);
        status = json_print(&doc, error);
    } else {
        pipeline_choice_print(&choice, &model->arch);
        printf("%s: plan \"%s\"\n", request->output, choice.plan->name);
    }
done:
    json_end(&doc);
    pipeline_choice_free(&choice);
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_model_free(model);
    ousac_free(rank_max);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    allocate_request request = {.method = "auto",
                                .factors = "delta-cov",
                                .forecast = "auto",
                                .options = {.name = "default",
                                            .budget = {NAN, NAN},
                                            .granularity = PIPELINE_GRANULARITY,
                                            .rank_min = PIPELINE_RANK_MIN}};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"profile", 'p', CLI_TEXT, &request.profile, 0, 0, 1, "FILE", "profile (.oca)"},
        PIPELINE_BUDGET_OPTIONS(&request.options.budget),
        {"method", 0, CLI_TEXT, &request.method, 0, 0, 0, "LIST",
         "some of uniform,knapsack,regions,descent, compared end to end; auto: uniform,knapsack (default "
         "auto)"},
        {"evaluations", 0, CLI_SIZE, &request.options.evaluations, 1, RANK_MAX, 0, "N",
         "end-to-end runs of 16 calibration samples that regions or descent may spend (default 40)"},
        {"forecast", 0, CLI_TEXT, &request.forecast, 0, 0, 0, "WHEN",
         "extrapolate what the factors leave: off, on, or auto: where better end to end (default auto)"},
        PIPELINE_FACTORS_OPTION(&request.factors),
        {"granularity", 0, CLI_SIZE, &request.options.granularity, 1, RANK_MAX, 0, "N",
         "ranks of the knapsack are multiples of this (default 8)"},
        {"rank-min", 0, CLI_SIZE, &request.options.rank_min, 0, RANK_MAX, 0, "N",
         "least rank in a module that the knapsack computes (default 8)"},
        {"validate", 0, CLI_RANGE, &request.options.validation, 0, 0, 0, "FIRST:END",
         "samples to compare end to end (default with auto: 8 behind the profile's)"},
        {"name", 0, CLI_TEXT, &request.options.name, 0, 0, 0, "NAME",
         "of the plan in a bundle (default \"default\")"},
        MEMORY_OPTIONS(&request.memory),
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "plan to write (.oca)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done)
        status = pipeline_methods_parse(&request.options.methods, request.method, &error);
    if (!status && !done)
        status = pipeline_factors_parse(&request.made_of, request.factors, &error);
    if (!status && !done)
        status = pipeline_forecast_parse(&request.options.forecast, request.forecast, &error);
    if (!status && !done)
        status = pipeline_check_output(request.output, &error);
    if (!status && !done) {
        cli_catch_signals();
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_allocate = {
    .name = "allocate",
    .summary = "choose ranks under a budget, with a certificate",
    .arguments = "",
    .details =
        "Chooses the rank of every linear layer so that a cached evaluation stays within the budget.\n"
        "\n"
        "  uniform   the largest rank that fits when every layer has the same\n"
        "  knapsack  the least sum over layers of the relative local error; printed with a dual "
        "bound, below\n"
        "            which no plan within the budget can be\n"
        "  regions   four regions of blocks with one rank each, by coordinate descent on the end-to-end "
        "error\n"
        "            (the allocation of OUSAC, arXiv 2512.14096)\n"
        "  descent   probes what ranks are worth end to end, in sixteen classes of layers around the present "
        "plan,\n"
        "            solves the knapsack under that within a trust region, and repeats\n"
        "\n"
        "Of several, each is run on validation samples against the exact run and the best one ships: a "
        "smaller "
        "sum\n"
        "of local errors does not promise better samples. A search begins from the uniform plan, which takes "
        "part.\n"
        "\n"
        "With a forecast, a corrected layer follows the line through its last two exact results and "
        "corrects\n"
        "what leaves it; its coefficients are fitted per step, and its cost is paid out of the budget.\n"
        "\n"
        "The certificate speaks of the error model, the validation of samples. Both budgets are "
        "printed whichever "
        "was given.",
    .example = "build/ousac allocate --model data/shapes-dit/model.safetensors \\\n"
               "    --profile build/demo/profile.oca --budget-step 0.2 -o build/demo/plan20.oca",
    .run = run,
};
