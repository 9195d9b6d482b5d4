#include "pipeline/memory_stages.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include "formats/memory.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { RANK_MAX = 1 << 20 };

typedef struct allocate_request {
    ousac_session_model model;
    const char *profile, *output;
    ousac_method made_of;
    ousac_choice_options options;
    ousac_memory_options memory;
} allocate_request;

/* An ousac_memory_list; self is an ousac_memory_allocating. */
static void list_phases(const void *self, ousac_memory_plan *plan) {
    ousac_memory_list_allocating(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const allocate_request *request,
                                const ousac_profile *profile, const size_t *rank_max, uint64_t macs,
                                int *done, ousac_error *error) {
    ousac_session_model shapes = request->model;
    ousac_memory_allocating allocating = {.schedule = &profile->schedule,
                                          .made_of = request->made_of,
                                          .rank_max = rank_max,
                                          .micro_batch = profile->identity.micro_batch,
                                          .cached_macs = macs,
                                          .segments = profile->identity.segments};
    ousac_memory_plan plan;
    ousac_model *model = NULL;
    int wanted = 0;
    ousac_status status = ousac_memory_parse(&request->memory, &plan, &wanted, error);
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = cli_load_model(&model, &shapes, error);
    if (status)
        return status;
    allocating.model = model;
    ousac_memory_take_options(&allocating, &request->options);
    if (allocating.runs) /* what the run would refuse */
        status = ousac_model_check_inputs(model, error);
    if (!status && allocating.runs)
        status = ousac_run_check_schedule(model, &profile->schedule, error);
    if (!status)
        status = ousac_memory_fit(&plan, common->threads, 0, 0, list_phases, &allocating, error);
    if (!status) {
        common->threads = plan.threads;
        *done = request->memory.dry_run;
        ousac_memory_file(&plan, request->output);
        if (*done)
            status = memory_print(&plan, common, "allocate", NULL, error);
    }
    ousac_model_free(model);
    return status;
}

static ousac_status execute(cli_common *common, const allocate_request *request, ousac_error *error) {
    ousac_session_model load = request->model;
    size_t *rank_max = NULL;
    int done = 0;
    ousac_model *model = NULL;
    ousac_profile *profile = NULL;
    ousac_factor_set *set = NULL;
    ousac_choice choice = {0};
    uint64_t macs = 0;
    double step = 0;
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    status = ousac_profile_open(&profile, request->profile, error);
    /* The budget needs shapes alone: a wrong one is told before the factors are made. */
    if (!status)
        status = ousac_budget_solve(&profile->arch, &profile->schedule, &request->options.budget, &macs,
                                    &step, error);
    if (!status)
        status = ousac_choice_check(&profile->arch, &profile->schedule, macs, &request->options, error);
    if (!status)
        status = ousac_choice_check_validation(profile, &request->options, error);
    if (!status && !(rank_max = ousac_calloc(profile->arch.site_count, sizeof *rank_max)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                            profile->arch.site_count);
    if (!status)
        status = ousac_choice_ranks(&profile->arch, macs, &request->options, rank_max, error);
    if (!status)
        status = plan_memory(common, request, profile, rank_max, macs, &done, error);
    if (status || done)
        goto done;
    load.use = ousac_choice_runs(&request->options) ? OUSAC_MODEL_RUN : OUSAC_MODEL_FACTORS;
    status = cli_load_model(&model, &load, error);
    if (status)
        goto done;
    const ousac_session session =
        cli_session(common, model, profile->identity.seed, profile->identity.micro_batch);
    status = ousac_session_factors_within(&session, profile, request->made_of, rank_max, &set, error);
    if (!status)
        status = ousac_choice_create(&session, profile, set, &request->options, &choice, error);
    if (!status)
        status = ousac_plan_save(choice.plan, request->output, error);
    if (status)
        goto done;
    if (common->json) {
        ousac_json_put_text(&doc, doc.root, "file", request->output);
        choice_put(&doc, doc.root, &choice, &model->arch);
        status = cli_json_print(&doc, error);
    } else {
        choice_print(&choice, &model->arch);
        cli_printf("%s: plan \"%s\"\n", request->output, choice.plan->name);
    }
done:
    ousac_json_end(&doc);
    ousac_choice_free(&choice);
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_model_free(model);
    ousac_free(rank_max);
    return status;
}

#define AT(member) offsetof(allocate_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"profile", 'p', CLI_INPUT, AT(profile), "FILE", CLI_REQUIRED,
     "profile (.oca)", 0, 0},
    OPTIONS_BUDGET(AT(options.budget)),
    OPTIONS_METHOD(AT(options)),
    {"evaluations", 0, CLI_SIZE, AT(options.evaluations), "N", "40",
     "end-to-end runs of 16 calibration samples that regions or descent may spend", 1, RANK_MAX},
    OPTIONS_FORECAST(AT(options)),
    OPTIONS_FACTORS(AT(made_of)),
    {"granularity", 0, CLI_SIZE, AT(options.granularity), "N", CLI_TEXT_OF(OUSAC_DEFAULT_GRANULARITY),
     "ranks of the knapsack are multiples of this", 1, RANK_MAX},
    {"rank-min", 0, CLI_SIZE, AT(options.rank_min), "N", CLI_TEXT_OF(OUSAC_DEFAULT_RANK_MIN),
     "least rank in a module that the knapsack computes", 0, RANK_MAX},
    {"validate", 0, CLI_RANGE, AT(options.validation), "FIRST:END", NULL,
     "samples to compare end to end (default with auto: 8 behind the profile's)", 0, 0},
    {"name", 0, CLI_TEXT, AT(options.name), "NAME", "default",
     "of the plan in a bundle", 0, 0},
    OPTIONS_MEMORY(AT(memory)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "plan to write (.oca)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    return execute(&call->common, values, error);
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
    .options = options,
    .request_size = sizeof(allocate_request),
    .run = run,
};
