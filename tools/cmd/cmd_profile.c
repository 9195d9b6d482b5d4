#include "pipeline/compute_effect.h"
#include "pipeline/memory_plan.h"
#include "pipeline/partial.h"
#include "pipeline/pipeline.h"
#include "pipeline/shard.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"
#include "profile/files/archive.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SEGMENTS_MAX = 1024, TOKENS_MAX = 1 << 24 };

typedef struct profile_request {
    pipeline_model_options model;
    const char *schedule, *weights, *output;
    cli_range samples;
    uint64_t seed;
    size_t micro_batch, tokens, segments, pilot_samples;
    int weights_plain, pilot_only, magnitudes, reproducible;
    const char *shard;
    pipeline_partial_options partial;
    pipeline_auto automatic;
    memory_options memory;
} profile_request;

static const char *weights_of(const profile_request *request) {
    return request->weights         ? PIPELINE_WEIGHTS_FILE
           : request->weights_plain ? PIPELINE_WEIGHTS_PLAIN
                                    : PIPELINE_WEIGHTS_PILOT;
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
        (automatic ? pipeline_auto_check(&request->automatic, request->micro_batch, error)
                   : pipeline_check_range("samples", &request->samples, request->micro_batch, error)))
        return error->status;
    if (request->shard && shard_parse(request->shard, &request->samples, request->micro_batch, error))
        return error->status;
    return pipeline_check_output(request->output, error);
}

static void report_effect(const cli_common *common, const compute_effect *effect, json_doc *doc) {
    if (common->json) {
        cJSON *object = json_put_object(doc, doc->root, "bf16_effect");
        pipeline_json_range(doc, object, "samples", 0, effect->samples);
        json_put_real(doc, object, "delta_energy", effect->energy);
        json_put_real(doc, object, "worst_delta_energy", effect->worst);
        json_put_text(doc, object, "worst_group", effect->group);
        json_put_real(doc, object, "output", effect->output);
        return;
    }
    printf("bf16 against f32 on samples 0:%" PRIu64
           ": delta energy %+.2g, at most %.2g (%s); final samples %.2g\n",
           effect->samples, effect->energy, effect->worst, effect->group, effect->output);
}

static void report(const cli_common *common, const profile_request *request, const pipeline_runs *runs,
                   const ousac_profile *profile, const pipeline_cost *cost, json_doc *doc) {
    const char *weights = weights_of(request);
    char digest[OUSAC_DIGEST_CHARS];
    size_t cached = 0;
    for (size_t i = 0; i < profile->schedule.step_count * OUSAC_BRANCHES; i++)
        cached += profile->gate[i] == OUSAC_GATE_CACHED;
    ousac_profile_digest(profile, digest);

    if (common->json) {
        json_put_text(doc, doc->root, "file", request->output);
        json_put_text(doc, doc->root, "kind", request->pilot_only ? "pilot" : "profile");
        pipeline_json_range(doc, doc->root, "samples", profile->ranges[0].first, profile->ranges[0].count);
        json_put_u64(doc, doc->root, "seed", profile->identity.seed);
        json_put_u64(doc, doc->root, "steps", profile->schedule.step_count);
        json_put_u64(doc, doc->root, "cached_evaluations", cached);
        json_put_u64(doc, doc->root, "tokens", profile->identity.tokens_used);
        json_put_u64(doc, doc->root, "segments", profile->identity.segments);
        json_put_bool(doc, doc->root, "magnitudes", profile->identity.magnitudes);
        json_put_text(doc, doc->root, "compute", ousac_compute_name(profile->identity.compute));
        json_put_text(doc, doc->root, "weights", weights);
        json_put_text(doc, doc->root, "weights_digest", profile->identity.weights_digest);
        json_put_text(doc, doc->root, "digest", digest);
        pipeline_put_run(doc, json_put_object(doc, doc->root, "run"), runs, cost);
        return;
    }
    printf("%s: %s of %" PRIu64 " samples, %zu steps, %zu cached evaluations a sample; step weights: %s\n",
           request->output, request->pilot_only ? "pilot" : "profile", ousac_profile_samples(profile),
           profile->schedule.step_count, cached, weights);
    printf("%" PRIu64 " forwards in %.1f s on %zu thread%s, at most %.0f MB\n", cost->forwards, cost->seconds,
           pipeline_threads(runs), pipeline_threads(runs) == 1 ? "" : "s", 1e-6 * (double)cli_peak_bytes());
    if (cost->convergence.rounds > 0)
        pipeline_convergence_print(&cost->convergence);
}

/* A memory_list; self is a memory_recording. */
static void list_phases(const void *self, memory_plan *plan) {
    memory_list_recording(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const profile_request *request,
                                const ousac_schedule *schedule, memory_plan *plan, int *done,
                                ousac_error *error) {
    pipeline_model_options shapes = request->model;
    memory_recording recording = {.schedule = schedule,
                                  .micro_batch = request->micro_batch,
                                  .segments = request->segments,
                                  .tokens = request->tokens,
                                  .magnitudes = request->magnitudes};
    ousac_model *model = NULL;
    int wanted = 0;
    ousac_status status = memory_parse(&request->memory, plan, &wanted, error);
    if (!status && wanted && !request->pilot_only && request->samples.count == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--memory and --dry-run: expected a range of samples, not --samples auto");
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = pipeline_load_model(&model, &shapes, error);
    if (!status)
        status = ousac_run_check_schedule(model, schedule, error);
    if (status)
        goto done;
    recording.model = model;
    recording.samples = request->pilot_only ? 0 : request->samples.count;
    recording.pilot_samples = request->weights || request->weights_plain ? 0 : request->pilot_samples;
    status = memory_fit(plan, common, 1, request->memory.spill != NULL, list_phases, &recording, error);
    if (status)
        goto done;
    common->threads = plan->threads;
    *done = request->memory.dry_run;
    memory_file(plan, request->output);
    if (*done)
        status = memory_print(plan, common, "profile", error);
done:
    ousac_model_free(model);
    return status;
}

static ousac_status execute(cli_common *common, const profile_request *request, ousac_error *error) {
    memory_plan plan = {0};
    char *beside = NULL;
    int done = 0;
    ousac_model *model = NULL;
    ousac_schedule schedule = {0};
    ousac_profile *pilot = NULL, *profile = NULL;
    pipeline_partial partial = {0};
    pipeline_cost cost = {0};
    compute_effect effect = {0};
    /* Rounds of --samples auto cannot be taken up in the middle. */
    pipeline_partial *kept = request->pilot_only || request->samples.count ? &partial : NULL;
    json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    json_begin(&doc);
    status = pipeline_load_schedule(&schedule, request->schedule, error);
    if (!status && kept)
        status = pipeline_partial_open(kept, request->output, &request->partial,
                                       request->pilot_only ? NULL : weights_of(request), NULL, error);
    if (!status)
        status = plan_memory(common, request, &schedule, &plan, &done, error);
    if (!status && !done)
        status = ousac_archive_directory(request->output, &beside, error);
    if (status || done)
        goto done;
    const char *spill = request->memory.spill ? request->memory.spill : plan.spilled ? beside : NULL;
    status = pipeline_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const pipeline_runs runs = {common, model, request->seed, request->micro_batch};
    if (request->weights)
        status = pipeline_load_weights(&runs, &schedule, request->weights, &pilot, &cost, error);
    else if (!request->weights_plain)
        status = pipeline_pilot(&runs, &schedule, request->pilot_samples, kept, &pilot, &cost, error);
    if (status)
        goto done;
    if (!request->pilot_only) {
        const pipeline_profile_options options = {.range = request->samples,
                                                  .magnitudes = request->magnitudes,
                                                  .tokens = request->tokens,
                                                  .segments = request->segments,
                                                  .weights = pilot,
                                                  .partial = kept,
                                                  .spill = spill};
        status = request->samples.count == 0
                     ? pipeline_profile_auto(&runs, &schedule, &options, &request->automatic, &profile, &cost,
                                             error)
                     : pipeline_profile(&runs, &schedule, &options, &profile, &cost, error);
        if (status)
            goto done;
    }
    const ousac_profile *result = request->pilot_only ? pilot : profile;
    if (result->identity.compute != OUSAC_COMPUTE_F32) {
        const int own_pilot = !request->weights && !request->weights_plain;
        status = compute_effect_measure(&runs, &request->model, &schedule, request->pilot_samples,
                                        own_pilot ? pilot : NULL, &effect, error);
        if (status)
            goto done;
    }
    status = pipeline_save_profile(&runs, result, request->output, &cost, request->reproducible, error);
    if (status)
        goto done;
    pipeline_partial_remove(&partial);
    report(common, request, &runs, result, &cost, &doc);
    if (result->identity.compute != OUSAC_COMPUTE_F32)
        report_effect(common, &effect, &doc);
    if (common->json)
        status = json_print(&doc, error);
done:
    json_end(&doc);
    pipeline_partial_free(&partial);
    ousac_profile_free(profile);
    ousac_profile_free(pilot);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    ousac_free(beside);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    profile_request request = {.samples = {0, PIPELINE_CALIBRATION_SAMPLES},
                               .micro_batch = PIPELINE_MICRO_BATCH,
                               .segments = 1,
                               .pilot_samples = PIPELINE_PILOT_SAMPLES,
                               .automatic = {PIPELINE_TOLERANCE, PIPELINE_AUTO_MOST, {NAN, NAN}},
                               .partial = {.every_s = PIPELINE_CHECKPOINT_S}};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 1, "FILE", "schedule whose deltas are recorded"},
        {"samples", 0, CLI_RANGE_OR_AUTO, &request.samples, 0, 0, 0, "FIRST:END",
         "samples to record, FIRST a multiple of the micro-batch, or auto: enough of them (default 0:48)"},
        PIPELINE_AUTO_OPTIONS(&request.automatic),
        {"budget-step", 0, CLI_REAL, &request.automatic.budget.step, 0, 0, 0, "X",
         "of --samples auto: MACs of a cached evaluation over a full one, for the ranks (default 0.25)"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "of noise and labels (default 0)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, PIPELINE_MICRO_BATCH_MAX, 0, "N",
         "samples computed together; part of the profile's identity (default 4)"},
        {"tokens", 0, CLI_SIZE, &request.tokens, 1, TOKENS_MAX, 0, "K",
         "tokens of each sample that are recorded, drawn anew at each refresh (default: all, at most 64)"},
        {"segments", 0, CLI_SIZE, &request.segments, 1, SEGMENTS_MAX, 0, "N",
         "parts of the step range with moments of their own (default 1)"},
        {"magnitudes", 0, CLI_FLAG, &request.magnitudes, 0, 0, 0, NULL,
         "record channel magnitudes too, for the factors ca-svd and cd-svd; takes longer"},
        {"weights", 0, CLI_TEXT, &request.weights, 0, 0, 0, "FILE",
         "step weights of this pilot or profile (default: a pilot is run first)"},
        {"weights-plain", 0, CLI_FLAG, &request.weights_plain, 0, 0, 0, NULL, "weigh every step alike"},
        {"pilot", 0, CLI_FLAG, &request.pilot_only, 0, 0, 0, NULL,
         "write the pilot, which carries the step weights, and stop"},
        {"pilot-samples", 0, CLI_SIZE, &request.pilot_samples, 1, PIPELINE_SAMPLES_MAX, 0, "N",
         "samples 0:N of the pilot (default 8)"},
        {"shard", 0, CLI_TEXT, &request.shard, 0, 0, 0, "K/N",
         "record part K, from 1 to N, of the samples only: N parts of whole micro-batches, as equal as can "
         "be"},
        PIPELINE_PARTIAL_OPTIONS(&request.partial),
        {"reproducible", 0, CLI_FLAG, &request.reproducible, 0, 0, 0, NULL,
         "leave time, memory and threads out of the file, so that the same samples give the same bytes"},
        MEMORY_OPTIONS(&request.memory),
        MEMORY_SPILL_OPTION(&request.memory),
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "profile to write (.oca)"},
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
        "--checkpoint-every seconds and upon SIGINT and SIGTERM; the same command goes on from it and "
        "ends, on the same processor, with the same sums to the last bit, whatever the threads. It is "
        "an ordinary profile of the samples done so far.",
    .example = "build/ousac profile --model data/shapes-dit/model.safetensors \\\n"
               "    --schedule data/schedules/sparse.json --samples 80:96 \\\n"
               "    --weights build/demo/weights.oca -o build/demo/shard.oca\n"
               "build/ousac merge build/demo/profile.oca build/demo/shard.oca -o build/demo/more.oca",
    .run = run,
};
