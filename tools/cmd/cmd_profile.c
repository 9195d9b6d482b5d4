#include "pipeline/compute_effect.h"
#include "pipeline/machine.h"
#include "pipeline/memory_plan.h"
#include "pipeline/partial.h"
#include "pipeline/shard.h"
#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include "formats/memory.h"
#include "profile/files/archive.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { SEGMENTS_MAX = 1024, TOKENS_MAX = 1 << 24 };

typedef struct profile_request {
    ousac_session_model model;
    const char *schedule, *weights, *output;
    ousac_sample_range samples;
    uint64_t seed;
    size_t micro_batch, tokens, segments, pilot_samples;
    int weights_plain, pilot_only, magnitudes, reproducible;
    const char *shard;
    ousac_partial_options partial;
    ousac_record_auto_options automatic;
    ousac_memory_options memory;
} profile_request;

static const char *weights_of(const profile_request *request) {
    return request->weights         ? OUSAC_WEIGHTS_FILE
           : request->weights_plain ? OUSAC_WEIGHTS_PLAIN
                                    : OUSAC_WEIGHTS_PILOT;
}

static ousac_status check(profile_request *request, ousac_error *error) {
    if ((request->weights != NULL) + request->weights_plain + request->pilot_only > 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected at most one of --weights, --weights-plain and --pilot");
    const int automatic = !request->pilot_only && request->samples.count == 0;
    if (request->shard && (request->pilot_only || automatic))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s no shards; expected --samples FIRST:END with --shard",
                          automatic ? "--samples auto has" : "a --pilot has");
    if (!request->pilot_only &&
        (automatic ? ousac_record_auto_check(&request->automatic, request->micro_batch, error)
                   : ousac_range_check("samples", &request->samples, request->micro_batch, error)))
        return error->status;
    if (request->shard && ousac_shard_parse(request->shard, &request->samples, request->micro_batch, error))
        return error->status;
    return OUSAC_STATUS_OK;
}

static void report_effect(const cli_common *common, const ousac_compute_effect *effect, ousac_json_doc *doc) {
    if (common->json) {
        cJSON *object = ousac_json_put_object(doc, doc->root, "bf16_effect");
        ousac_range_put(doc, object, "samples", 0, effect->samples);
        ousac_json_put_real(doc, object, "delta_energy", effect->energy);
        ousac_json_put_real(doc, object, "worst_delta_energy", effect->worst);
        ousac_json_put_text(doc, object, "worst_group", effect->group);
        ousac_json_put_real(doc, object, "output", effect->output);
        return;
    }
    cli_printf("bf16 against f32 on samples 0:%" PRIu64
               ": delta energy %+.2g, at most %.2g (%s); final samples %.2g\n",
               effect->samples, effect->energy, effect->worst, effect->group, effect->output);
}

static void report(const cli_common *common, const profile_request *request, const ousac_session *session,
                   const ousac_profile *profile, const ousac_record_cost *cost, ousac_json_doc *doc) {
    const char *weights = weights_of(request);
    char digest[OUSAC_DIGEST_CHARS];
    size_t cached = 0;
    for (size_t i = 0; i < profile->schedule.step_count * OUSAC_BRANCHES; i++)
        cached += profile->gate[i] == OUSAC_GATE_CACHED;
    ousac_profile_digest(profile, digest);

    if (common->json) {
        ousac_json_put_text(doc, doc->root, "file", request->output);
        ousac_json_put_text(doc, doc->root, "kind", request->pilot_only ? "pilot" : "profile");
        ousac_range_put(doc, doc->root, "samples", profile->ranges[0].first, profile->ranges[0].count);
        ousac_json_put_u64(doc, doc->root, "seed", profile->identity.seed);
        ousac_json_put_u64(doc, doc->root, "steps", profile->schedule.step_count);
        ousac_json_put_u64(doc, doc->root, "cached_evaluations", cached);
        ousac_json_put_u64(doc, doc->root, "tokens", profile->identity.tokens_used);
        ousac_json_put_u64(doc, doc->root, "segments", profile->identity.segments);
        ousac_json_put_bool(doc, doc->root, "magnitudes", profile->identity.magnitudes);
        ousac_json_put_text(doc, doc->root, "compute", ousac_compute_name(profile->identity.compute));
        ousac_json_put_text(doc, doc->root, "weights", weights);
        ousac_json_put_text(doc, doc->root, "weights_digest", profile->identity.weights_digest);
        ousac_json_put_text(doc, doc->root, "digest", digest);
        ousac_record_cost_put(doc, ousac_json_put_object(doc, doc->root, "run"), session, cost, 0);
        return;
    }
    cli_printf("%s: %s of %" PRIu64
               " samples, %zu steps, %zu cached evaluations a sample; step weights: %s\n",
               request->output, request->pilot_only ? "pilot" : "profile", ousac_profile_samples(profile),
               profile->schedule.step_count, cached, weights);
    cli_printf("%" PRIu64 " forwards in %.1f s on %zu thread%s, at most %.0f MB\n", cost->forwards,
               cost->seconds, ousac_session_threads(session), ousac_session_threads(session) == 1 ? "" : "s",
               1e-6 * (double)ousac_peak_bytes());
    if (cost->convergence.rounds > 0)
        convergence_print(&cost->convergence);
}

/* An ousac_memory_list; self is an ousac_memory_recording. */
static void list_phases(const void *self, ousac_memory_plan *plan) {
    ousac_memory_list_recording(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const profile_request *request,
                                const ousac_schedule *schedule, ousac_memory_plan *plan, int *done,
                                ousac_error *error) {
    ousac_session_model shapes = request->model;
    ousac_memory_recording recording = {.schedule = schedule,
                                        .micro_batch = request->micro_batch,
                                        .segments = request->segments,
                                        .tokens = request->tokens,
                                        .magnitudes = request->magnitudes};
    ousac_model *model = NULL;
    ousac_profile *weights = NULL;
    int wanted = 0;
    ousac_status status = ousac_memory_parse(&request->memory, plan, &wanted, error);
    if (!status && wanted && !request->pilot_only && request->samples.count == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--memory and --dry-run: expected a range of samples, not --samples auto");
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = cli_load_model(&model, &shapes, error);
    if (!status) /* what the run would refuse */
        status = ousac_model_check_inputs(model, error);
    if (!status)
        status = ousac_run_check_schedule(model, schedule, error);
    if (!status && !request->pilot_only)
        status = ousac_record_check_segments(schedule, request->segments, error);
    if (!status && request->tokens)
        status = ousac_record_check_tokens(model, request->tokens, error);
    if (!status && request->weights)
        status = ousac_profile_open(&weights, request->weights, error);
    if (status)
        goto done;
    recording.model = model;
    recording.samples = request->pilot_only ? 0 : request->samples.count;
    recording.pilot_samples = request->weights || request->weights_plain ? 0 : request->pilot_samples;
    status = ousac_memory_fit(plan, common->threads, 1, request->memory.spill != NULL, list_phases,
                              &recording, error);
    if (status)
        goto done;
    common->threads = plan->threads;
    *done = request->memory.dry_run;
    ousac_memory_file(plan, request->output);
    if (*done)
        status = memory_print(plan, common, "profile", NULL, error);
done:
    ousac_profile_free(weights);
    ousac_model_free(model);
    return status;
}

static ousac_status execute(cli_common *common, const profile_request *request, ousac_error *error) {
    ousac_memory_plan plan = {0};
    char *beside = NULL;
    int done = 0;
    ousac_model *model = NULL;
    ousac_schedule schedule = {0};
    ousac_profile *pilot = NULL, *profile = NULL;
    ousac_partial partial = {0};
    ousac_record_cost cost = {0};
    ousac_compute_effect effect = {0};
    /* Rounds of --samples auto cannot be taken up in the middle. */
    ousac_partial *kept = request->pilot_only || request->samples.count ? &partial : NULL;
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    status = ousac_session_load_schedule(&schedule, request->schedule, error);
    if (!status && kept)
        status = ousac_partial_open(kept, request->output, &request->partial,
                                    request->pilot_only ? NULL : weights_of(request), NULL, error);
    if (!status)
        status = plan_memory(common, request, &schedule, &plan, &done, error);
    if (!status && !done)
        status = ousac_archive_directory(request->output, &beside, error);
    if (status || done)
        goto done;
    const char *spill = request->memory.spill ? request->memory.spill : plan.spilled ? beside : NULL;
    status = cli_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    if (request->weights)
        status = ousac_record_load_weights(&session, &schedule, request->weights, &pilot, &cost, error);
    else if (!request->weights_plain)
        status = ousac_record_pilot(&session, &schedule, request->pilot_samples, kept, &pilot, &cost, error);
    if (status)
        goto done;
    if (!request->pilot_only) {
        const ousac_record_options options = {.range = request->samples,
                                              .magnitudes = request->magnitudes,
                                              .tokens = request->tokens,
                                              .segments = request->segments,
                                              .weights = pilot,
                                              .partial = kept,
                                              .spill = spill};
        status = request->samples.count == 0
                     ? ousac_record_auto(&session, &schedule, &options, &request->automatic, &profile, &cost,
                                         error)
                     : ousac_record_profile(&session, &schedule, &options, &profile, &cost, error);
        if (status)
            goto done;
    }
    const ousac_profile *result = request->pilot_only ? pilot : profile;
    if (result->identity.compute != OUSAC_COMPUTE_F32) {
        const int own_pilot = !request->weights && !request->weights_plain;
        status = ousac_compute_effect_measure(&session, &request->model, &schedule, request->pilot_samples,
                                              own_pilot ? pilot : NULL, &effect, error);
        if (status)
            goto done;
    }
    status = ousac_record_save(&session, result, request->output, &cost, request->reproducible, error);
    if (status)
        goto done;
    ousac_partial_remove(&partial, &session);
    report(common, request, &session, result, &cost, &doc);
    if (result->identity.compute != OUSAC_COMPUTE_F32)
        report_effect(common, &effect, &doc);
    if (common->json)
        status = cli_json_print(&doc, error);
done:
    ousac_json_end(&doc);
    ousac_partial_free(&partial);
    ousac_profile_free(profile);
    ousac_profile_free(pilot);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    ousac_free(beside);
    return status;
}

#define AT(member) offsetof(profile_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", CLI_REQUIRED,
     "schedule whose deltas are recorded", 0, 0},
    {"samples", 0, CLI_RANGE_OR_AUTO, AT(samples), "FIRST:END", "0:" CLI_TEXT_OF(OUSAC_DEFAULT_CALIBRATION_SAMPLES),
     "samples to record, FIRST a multiple of the micro-batch, or auto: enough of them", 0, 0},
    OPTIONS_RECORD_AUTO(AT(automatic)),
    {"budget-step", 0, CLI_REAL, AT(automatic.budget.step), "X", CLI_TEXT_OF(OUSAC_DEFAULT_BUDGET_STEP),
     "of --samples auto: MACs of a cached evaluation over a full one, for the ranks", 0, 0},
    OPTIONS_SEED(AT(seed)),
    {"micro-batch", 0, CLI_SIZE, AT(micro_batch), "N", CLI_TEXT_OF(OUSAC_DEFAULT_MICRO_BATCH),
     "samples computed together; part of the profile's identity", 1, OUSAC_MICRO_BATCH_MAX},
    {"tokens", 0, CLI_SIZE, AT(tokens), "K", NULL,
     "tokens of each sample that are recorded, drawn anew at each refresh (default: all, at most 64)", 1, TOKENS_MAX},
    {"segments", 0, CLI_SIZE, AT(segments), "N", "1",
     "parts of the step range with moments of their own", 1, SEGMENTS_MAX},
    {"magnitudes", 0, CLI_FLAG, AT(magnitudes), NULL, NULL,
     "record channel magnitudes too, for the factors ca-svd and cd-svd; takes longer", 0, 0},
    {"weights", 0, CLI_INPUT, AT(weights), "FILE", NULL,
     "step weights of this pilot or profile (default: a pilot is run first)", 0, 0},
    {"weights-plain", 0, CLI_FLAG, AT(weights_plain), NULL, NULL,
     "weigh every step alike", 0, 0},
    {"pilot", 0, CLI_FLAG, AT(pilot_only), NULL, NULL,
     "write the pilot, which carries the step weights, and stop", 0, 0},
    {"pilot-samples", 0, CLI_SIZE, AT(pilot_samples), "N", CLI_TEXT_OF(OUSAC_DEFAULT_PILOT_SAMPLES),
     "samples 0:N of the pilot", 1, OUSAC_SAMPLES_MAX},
    {"shard", 0, CLI_TEXT, AT(shard), "K/N", NULL,
     "record part K, from 1 to N, of the samples only: N parts of whole micro-batches, as equal as can be", 0, 0},
    OPTIONS_PARTIAL(AT(partial)),
    {"reproducible", 0, CLI_FLAG, AT(reproducible), NULL, NULL,
     "leave time, memory and threads out of the file, so that the same samples give the same bytes", 0, 0},
    OPTIONS_MEMORY(AT(memory)),
    OPTIONS_SPILL(AT(memory)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "profile to write (.oca)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    profile_request *request = values;
    request->automatic.budget.total = NAN; /* by the step alone */
    const ousac_status status = check(request, error);
    return status ? status : execute(&call->common, request, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const profile_request *request = values;
    (void)call;
    cli_files_written_as(files, "the partial profile", request->output, ".part");
}

const cli_command command_profile = {
    .name = "profile",
    .summary = "record the deltas that a schedule's cache makes",
    .arguments = "",
    .details =
        "Runs the model exactly on the samples and records, for every linear layer, branch and step, "
        "the change of "
        "its input since the branch's last refresh under the schedule: second moments (what the "
        "factors are made "
        "of) and the energies of every step.\n"
        "\n"
        "Steps are weighted so that a few with large deltas do not decide alone. The weights come "
        "from a pilot on "
        "samples 0:8, run first; they count as calibration. Profiles of disjoint sample "
        "ranges add up "
        "(`ousac merge`) where their weights are the same. A --shard without --weights runs that same "
        "pilot itself, so N shards spend N pilots, and get the same weights only on like processors; "
        "better is to write the weights once with --pilot and give them to every shard with --weights."
        "\n\n"
        "With --samples auto it records in rounds until more samples would change little: dealt into "
        "four parts, paired into halves in three ways, the factors of one half are tried on the moments "
        "of the other. From that follows by how much all samples' factors leave more than the best "
        "factors of these ranks would (in squared local error); it stops where the upper 95 % limit is "
        "within --tolerance. The profile is that of the same fixed range.\n"
        "\n"
        "FILE appears when it is complete. Until then, but for --samples auto, FILE.part keeps what is done, "
        "saved at most every "
        "--checkpoint-every seconds and upon SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGXCPU; the same command "
        "goes on from it and "
        "ends, on the same processor, with the same sums to the last bit, whatever the threads. It is "
        "an ordinary profile of the samples done so far.",
    .example = "build/ousac profile --model data/shapes-dit/model.safetensors \\\n"
               "    --schedule data/schedules/sparse.json --samples 80:96 \\\n"
               "    --weights build/demo/weights.oca -o build/demo/shard.oca\n"
               "build/ousac merge build/demo/profile.oca build/demo/shard.oca -o build/demo/more.oca",
    .options = options,
    .request_size = sizeof(profile_request),
    .files = list_files,
    .run = run,
};
