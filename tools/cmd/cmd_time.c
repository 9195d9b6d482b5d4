#include "pipeline/stopwatch.h"
#include "pipeline/timing.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include <stddef.h>
#include <stdlib.h>

typedef struct time_request {
    ousac_session_model model;
    const char *schedule, *ranks, *output;
    size_t micro_batch, repeats;
    uint64_t seed;
} time_request;

/* "8,16,32". */
static ousac_status parse_ranks(const char *text, size_t rank[OUSAC_TIMING_RANKS_MAX], size_t *count,
                                ousac_error *error) {
    const char *at = text;
    *count = 0;
    for (;;) {
        char *end = NULL;
        const unsigned long value = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : 0;
        if (!end || (*end && *end != ',') || value < 1 || value > OUSAC_SAMPLES_MAX ||
            *count == OUSAC_TIMING_RANKS_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--ranks %s: expected 2 to %d whole numbers from 1 on, separated by commas",
                              text, OUSAC_TIMING_RANKS_MAX);
        rank[(*count)++] = (size_t)value;
        if (!*end)
            return OUSAC_STATUS_OK;
        at = end + 1;
    }
}

static ousac_status tell(const cli_common *common, const time_request *request, const ousac_timing *timing,
                         ousac_error *error) {
    ousac_json_doc doc;
    if (!common->json) {
        timing_print(timing);
        cli_printf("%s\n", request->output);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "file", request->output);
    ousac_timing_put(&doc, ousac_json_put_object(&doc, doc.root, "content"), timing);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

static ousac_status execute(const cli_common *common, const time_request *request, ousac_error *error) {
    size_t rank[OUSAC_TIMING_RANKS_MAX];
    ousac_stopwatch_options options = {.repeats = request->repeats};
    ousac_schedule like = {0};
    ousac_model *model = NULL;
    ousac_timing timing;
    ousac_status status = OUSAC_STATUS_OK;
    if (request->ranks && (status = parse_ranks(request->ranks, rank, &options.rank_count, error)))
        return status;
    options.rank = rank;
    if (request->schedule) {
        status = ousac_schedule_load(&like, request->schedule, error);
        options.like = &like;
    }
    if (!status)
        status = cli_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    status = ousac_stopwatch_measure(&timing, &session, &options, error);
    if (!status)
        status = ousac_timing_save(&timing, request->output, error);
    if (!status)
        status = tell(common, request, &timing, error);
done:
    ousac_schedule_free(&like);
    ousac_model_free(model);
    return status;
}

#define AT(member) offsetof(time_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule whose steps are run, of one mode; its gates are not looked at (default: steps made for the model, both "
     "branches where it has both)", 0, 0},
    {"ranks", 0, CLI_TEXT, AT(ranks), "R,R...", NULL,
     "uniform ranks at which cached evaluations are timed (default: four, spread)", 0, 0},
    {"repeat", 0, CLI_SIZE, AT(repeats), "N", CLI_TEXT_OF(OUSAC_DEFAULT_REPEATS),
     "rounds, in each of which everything is timed in turn", 1, 1000},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "what was measured (.json)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    return execute(&call->common, values, error);
}

const cli_command command_time = {
    .name = "time",
    .summary = "measure what evaluations take on this machine",
    .arguments = "",
    .details = "Multiply-accumulates are not time. This measures, for one model and setting (device, compute "
               "type, threads, "
               "micro-batch), the seconds of an evaluation in full, of one whose values are kept, of one "
               "that is cached, by "
               "its uniform rank, without and with a forecast, of reuse, of the conditional branch alone, "
               "and of what a step "
               "takes beside its evaluations. Cached evaluations are checked before they are timed.\n"
               "\n"
               "Everything is timed in turn, round by round, on all threads at once, and medians are kept: a "
               "trajectory "
               "meets the typical evaluation, hundreds of times. On the CPU seconds are of processor time, "
               "which other work "
               "on the machine hardly changes. The cached evaluation is reduced to a line over the rank; how "
               "far that is "
               "from the medians is stated.\n"
               "\n"
               "`ousac calibrate --budget-time X --time FILE` searches under it, on this machine or another.",
    .example =
        "build/ousac time --model data/shapes-dit/model.safetensors --threads 1 -o build/demo/time.json\n"
        "build/ousac inspect build/demo/time.json",
    .options = options,
    .request_size = sizeof(time_request),
    .run = run,
};
