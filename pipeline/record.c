#include "pipeline/pipeline.h"

#include "calib/backend/backend_bf16.h"
#include "formats/exchange.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "formats/oca.h"
#include "pipeline/partial.h"
#include "pipeline/team.h"
#include "profile/record/recorder.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- options, files, output --- */

ousac_status pipeline_backend(const ousac_backend **backend, const char *compute, const char *device,
                              ousac_error *error) {
    const int on_cpu = !device || strcmp(device, "cpu") == 0;
    *backend = on_cpu ? ousac_backend_cpu() : NULL;
    if (!compute || strcmp(compute, "f32") == 0)
        return OUSAC_STATUS_OK;
    if (strcmp(compute, "bf16") == 0)
        return on_cpu ? ousac_backend_bf16(backend, error) : OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--compute %s: expected f32 or bf16", compute);
}

int pipeline_is_bf16(const char *compute) {
    return compute && strcmp(compute, "bf16") == 0;
}

ousac_status pipeline_load_model(ousac_model **model, const pipeline_model_options *options,
                                 ousac_error *error) {
    const ousac_model_options load = {.config_path = options->config,
                                      .inputs_path = options->inputs,
                                      .heads = options->heads,
                                      .use = options->use,
                                      .device = options->device,
                                      .bf16 = pipeline_is_bf16(options->compute)};
    const pipeline_team *team = options->use == OUSAC_MODEL_RUN ? pipeline_team_current() : NULL;
    const ousac_backend *backend = NULL;
    ousac_status status = pipeline_backend(&backend, options->compute, options->device, error);
    if (!status)
        status = ousac_model_load(model, options->path, &load, backend, error);
    if (!status && team && (status = team->load(options, *model, error))) {
        ousac_model_free(*model);
        *model = NULL;
    }
    return status;
}

ousac_status pipeline_load_schedule(ousac_schedule *schedule, const char *path, ousac_error *error) {
    int *effective = NULL;
    ousac_status status = ousac_schedule_load(schedule, path, error);
    if (status)
        return status;
    effective = ousac_malloc(schedule->step_count, OUSAC_BRANCHES * sizeof *effective);
    if (!effective) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    } else {
        status = ousac_schedule_effective_gates(schedule, effective, error);
        if (status)
            (void)ousac_error_prefix(error, "%s", path);
    }
    ousac_free(effective);
    if (status)
        ousac_schedule_free(schedule);
    return status;
}

ousac_status pipeline_check_output(const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) : 0;
    struct stat info;
    char *directory = ousac_malloc(length + 2, 1);

    if (!directory)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    if (!slash)
        memcpy(directory, ".", 2);
    else {
        memcpy(directory, path, length);
        directory[length] = '\0';
        if (length == 0)
            memcpy(directory, "/", 2);
    }
    if (*path == '\0' || (stat(path, &info) == 0 && S_ISDIR(info.st_mode)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write: expected the name of a file",
                            *path ? path : "\"\"");
    else if (stat(directory, &info) != 0 || access(directory, W_OK | X_OK) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write into %s: %s", path, directory,
                            strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s is not a directory", path, directory);
    ousac_free(directory);
    return status;
}

ousac_status pipeline_check_range(const char *option, const cli_range *range, size_t micro_batch,
                                  ousac_error *error) {
    if (range->count == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s: expected at least one sample", option);
    if (range->first % micro_batch != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--%s: begins at sample %" PRIu64 ", expected a multiple of the micro-batch, %zu",
                          option, range->first, micro_batch);
    return OUSAC_STATUS_OK;
}

ousac_status pipeline_storage_parse(pipeline_storage *storage, ousac_error *error) {
    static const ousac_dtype known[] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_BF16, OUSAC_DTYPE_F16, OUSAC_DTYPE_I8};
    const char *dtype = storage->dtype_name ? storage->dtype_name : "auto";
    int found = 0;
    storage->choose = strcmp(dtype, "auto") == 0;
    storage->codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(dtype, ousac_dtype_name(known[i])) == 0) {
            storage->dtype = known[i];
            found = 1;
        }
    if (!found && !storage->choose)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--dtype expects auto, f32, bf16, f16 or i8, not '%s'",
                          dtype);
    if (storage->codec_name && ousac_oca_codec_parse(&storage->codec, storage->codec_name))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--codec expects shuffle+zstd, zstd or raw, not '%s'",
                          storage->codec_name);
    storage->dtype_name = dtype;
    storage->codec_name = ousac_oca_codec_name(storage->codec);
    return OUSAC_STATUS_OK;
}

ousac_status pipeline_factors_parse(ousac_method *method, const char *name, ousac_error *error) {
    if (ousac_method_parse(method, name) == 0)
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                      "--factors expects delta-cov, svd, ca-svd or cd-svd, not '%s'", name);
}

int pipeline_ranges_overlap(const cli_range *range, uint64_t first, uint64_t count) {
    if (range->count == 0 || count == 0)
        return 0;
    return range->first < first ? first - range->first < range->count : range->first - first < count;
}

void pipeline_json_range(json_doc *doc, cJSON *object, const char *key, uint64_t first, uint64_t count) {
    cJSON *pair = json_put_array(doc, object, key);
    json_put_u64(doc, pair, NULL, first);
    json_put_u64(doc, pair, NULL, first + count);
}

/* --- running and profiling --- */

size_t pipeline_threads(const pipeline_runs *runs) {
    const size_t threads = runs->common->threads;
    const int limited =
        !runs->common->threads_chosen && runs->model->device && runs->model->backend != ousac_backend_cpu();
    return limited && threads > PIPELINE_DEVICE_THREADS ? PIPELINE_DEVICE_THREADS : threads;
}

ousac_status pipeline_run_samples(const pipeline_runs *runs, const pipeline_run *run, ousac_error *error) {
    const pipeline_team *team = pipeline_team_current();
    return team && !run->observers ? team->run(runs, run, error) : pipeline_run_here(runs, run, error);
}

/* `self` is a cli_progress or NULL. */
static void note_progress(void *self, uint64_t done, uint64_t total) {
    pipeline_team_poll();
    cli_progress_update(self, done, total);
}

ousac_status pipeline_run_here(const pipeline_runs *runs, const pipeline_run *run, ousac_error *error) {
    cli_progress *progress = cli_progress_start(runs->common, run->label);
    const ousac_run inner = {
        .model = runs->model,
        .schedule = run->schedule,
        .seed = runs->seed,
        .first = run->range.first,
        .count = run->range.count,
        .micro_batch = runs->micro_batch,
        .threads = pipeline_threads(runs),
        .exact = run->exact,
        .calibration = run->calibration,
        .extrapolate_modules = run->extrapolate_modules,
        .observers = run->observers,
        .samples = run->samples,
        .counters = run->counters,
        .seconds = run->seconds,
        .progress = note_progress,
        .progress_self = progress,
        .stop = &cli_stop,
    };
    const ousac_status status = ousac_run_samples(&inner, error);
    cli_progress_end(progress);
    return status;
}

/* Runs the samples exactly and records them into a new profile. */
static ousac_status record(const pipeline_runs *runs, const ousac_schedule *schedule, const char *label,
                           const cli_range *range, const ousac_profile_identity *identity,
                           const double *weight, int with_moments, pipeline_partial *partial,
                           const char *spill, ousac_profile **profile, pipeline_cost *cost,
                           ousac_error *error) {
    ousac_recorder *recorder = NULL;
    ousac_counters counters = {0};
    cli_range left = *range;
    const double start = cli_seconds();
    ousac_status status = ousac_profile_create_spilled(profile, &runs->model->arch, schedule, identity,
                                                       weight, with_moments, spill, error);
    if (!status && partial)
        status = pipeline_partial_resume(partial, *profile, &left, cost, error);
    if (status || left.count == 0)
        goto done;
    const pipeline_team *team = pipeline_team_current();
    if (team) {
        status = team->record(runs, label, &left, partial, *profile, cost, error);
        goto done;
    }
    /* One for each thread that will have something to do. */
    const uint64_t batches = (left.count - 1) / runs->micro_batch + 1;
    const size_t threads = pipeline_threads(runs);
    const size_t workers = batches < threads ? (size_t)batches : threads;
    status =
        ousac_recorder_create(&recorder, *profile, runs->model->backend, workers, runs->micro_batch, error);
    if (status)
        goto done;
    const ousac_run_observers *observers = ousac_recorder_observers(recorder);
    const pipeline_run run = {
        .label = label,
        .schedule = schedule,
        .range = left,
        .exact = 1,
        .observers =
            partial ? pipeline_partial_begin(partial, runs, range, *profile, cost, observers) : observers,
        .counters = &counters,
    };
    status = pipeline_run_samples(runs, &run, error);
    if (partial)
        status = pipeline_partial_end(partial, status, error);
    cost->seconds += cli_seconds() - start;
    for (int gate = 0; gate < 3; gate++)
        cost->forwards += counters.forwards[gate];
done:
    ousac_recorder_free(recorder);
    if (status) {
        ousac_profile_free(*profile);
        *profile = NULL;
    }
    return status;
}

static size_t default_tokens(const ousac_model *model) {
    const size_t tokens = ousac_arch_most_tokens(&model->arch);
    return tokens < PIPELINE_TOKENS ? tokens : PIPELINE_TOKENS;
}

static ousac_compute compute_of(const ousac_backend *backend) {
    return !ousac_backend_is_bf16(backend) ? OUSAC_COMPUTE_F32
           : backend->host                 ? OUSAC_COMPUTE_BF16
                                           : OUSAC_COMPUTE_BF16_ATTENTION;
}

ousac_profile_identity pipeline_identity(const pipeline_runs *runs, size_t tokens, size_t segments) {
    const ousac_model *model = runs->model;
    ousac_profile_identity identity = {
        .seed = runs->seed,
        .micro_batch = runs->micro_batch,
        .tokens_used = tokens ? tokens : default_tokens(model),
        .segments = segments,
        .compute = compute_of(model->backend),
    };
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    memcpy(identity.model_constants, model->constants, sizeof identity.model_constants);
    memcpy(identity.model_process, model->process, sizeof identity.model_process);
    if (model->inputs)
        memcpy(identity.inputs_digest, ousac_inputs_digest(model->inputs), sizeof identity.inputs_digest);
    return identity;
}

ousac_status pipeline_pilot(const pipeline_runs *runs, const ousac_schedule *schedule, uint64_t samples,
                            pipeline_partial *partial, ousac_profile **pilot, pipeline_cost *cost,
                            ousac_error *error) {
    const ousac_profile_identity identity = pipeline_identity(runs, 0, 1);
    const cli_range range = {0, samples};
    double *weight = NULL;
    size_t count = 0;
    ousac_status status = OUSAC_STATUS_OK;
    if (partial && pipeline_partial_has_weights(partial)) {
        status = ousac_profile_create(pilot, &runs->model->arch, schedule, &identity, NULL, 0, error);
        if (!status)
            status = pipeline_partial_pilot(partial, samples, *pilot, cost, error);
        if (status) {
            ousac_profile_free(*pilot);
            *pilot = NULL;
        }
        return status;
    }
    status = record(runs, schedule, "pilot", &range, &identity, NULL, 0, partial, NULL, pilot, cost, error);
    if (status)
        return status;
    cost->pilot = range;
    /* Sizes that the profile has already allocated once, so the product cannot overflow. */
    count = schedule->step_count * OUSAC_BRANCHES * runs->model->arch.group_count;
    weight = ousac_malloc(count, sizeof *weight);
    if (!weight) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the step weights");
        ousac_profile_free(*pilot);
        *pilot = NULL;
        return status;
    }
    ousac_profile_step_weights(*pilot, weight);
    memcpy((*pilot)->weight, weight, count * sizeof *weight);
    ousac_profile_weights_digest(*pilot, (*pilot)->identity.weights_digest);
    ousac_free(weight);
    return OUSAC_STATUS_OK;
}

ousac_status pipeline_load_weights(const pipeline_runs *runs, const ousac_schedule *schedule,
                                   const char *path, ousac_profile **weights, pipeline_cost *cost,
                                   ousac_error *error) {
    char have[OUSAC_DIGEST_CHARS], want[OUSAC_DIGEST_CHARS];
    char differs[OUSAC_IDENTITY_TEXT_BYTES], another[OUSAC_IDENTITY_TEXT_BYTES + 24];
    const char *what = NULL;
    ousac_status status = ousac_profile_open(weights, path, error);
    if (status)
        return status;
    ousac_schedule_digest(&(*weights)->schedule, have);
    ousac_schedule_digest(schedule, want);
    const ousac_identity of = ousac_profile_model(*weights), here = ousac_model_identity(runs->model);
    if (ousac_identity_differs(&of, &here, differs)) {
        (void)snprintf(another, sizeof another, "another model: %s", differs);
        what = another;
    } else if (strcmp(have, want) != 0)
        what = "another schedule";
    else if (strcmp((*weights)->identity.inputs_digest, pipeline_identity(runs, 0, 1).inputs_digest) != 0)
        what = "other --inputs";
    else if ((*weights)->identity.seed != runs->seed)
        what = "another seed";
    else if ((*weights)->identity.compute != compute_of(runs->model->backend))
        what = "another --compute";
    else if ((*weights)->arch.group_count != runs->model->arch.group_count)
        what = "a model with other sites";
    if (what) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                            "%s: step weights of %s; make them with `ousac profile --pilot` for this one",
                            path, what);
        ousac_profile_free(*weights);
        *weights = NULL;
    } else if ((*weights)->range_count > 0) {
        const ousac_sample_range *first = (*weights)->ranges, *last = first + (*weights)->range_count - 1;
        cost->pilot = (cli_range){first->first, last->first + last->count - first->first};
    }
    return status;
}

ousac_status pipeline_profile(const pipeline_runs *runs, const ousac_schedule *schedule,
                              const pipeline_profile_options *options, ousac_profile **profile,
                              pipeline_cost *cost, ousac_error *error) {
    if (options->tokens > ousac_arch_most_tokens(&runs->model->arch))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--tokens %zu: the model has %zu tokens",
                          options->tokens, ousac_arch_most_tokens(&runs->model->arch));
    if (options->segments > schedule->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--segments %zu: the schedule has %zu steps",
                          options->segments, schedule->step_count);
    ousac_profile_identity identity = pipeline_identity(runs, options->tokens, options->segments);
    identity.magnitudes = options->magnitudes != 0;
    return record(runs, schedule, "profile", &options->range, &identity,
                  options->weights ? options->weights->weight : NULL, 1, options->partial, options->spill,
                  profile, cost, error);
}

static void put_run(json_doc *doc, cJSON *object, const pipeline_runs *runs, const pipeline_cost *cost,
                    int reproducible) {
    if (!reproducible)
        json_put_real(doc, object, "wall_s", cost->seconds);
    json_put_u64(doc, object, "forwards", cost->forwards);
    if (!reproducible) {
        json_put_u64(doc, object, "peak_bytes", cli_peak_bytes());
        json_put_u64(doc, object, "threads", pipeline_threads(runs));
    }
    json_put_text(doc, object, "backend", runs->model->backend->detail);
    if (cost->pilot.count > 0)
        pipeline_json_range(doc, object, "pilot", cost->pilot.first, cost->pilot.count);
    if (cost->convergence.rounds > 0)
        pipeline_convergence_put(doc, object, &cost->convergence);
}

void pipeline_put_run(json_doc *doc, cJSON *object, const pipeline_runs *runs, const pipeline_cost *cost) {
    put_run(doc, object, runs, cost, 0);
}

ousac_status pipeline_save_profile(const pipeline_runs *runs, const ousac_profile *profile, const char *path,
                                   const pipeline_cost *cost, int reproducible, ousac_error *error) {
    json_doc doc;
    char *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    json_begin(&doc);
    put_run(&doc, doc.root, runs, cost, reproducible);
    status = json_text(&doc, 0, &text, error);
    if (!status)
        status = ousac_profile_save(profile, path, text, error);
    ousac_free(text);
    json_end(&doc);
    return status;
}

ousac_status pipeline_factors(const pipeline_runs *runs, const ousac_profile *profile, ousac_method method,
                              ousac_factor_set **set, ousac_error *error) {
    const pipeline_team *team = pipeline_team_current();
    return team ? team->factors(runs, profile, method, set, error)
                : pipeline_factors_here(runs, profile, method, NULL, NULL, set, error);
}

ousac_status pipeline_factors_within(const pipeline_runs *runs, const ousac_profile *profile,
                                     ousac_method method, const size_t *rank_max, ousac_factor_set **set,
                                     ousac_error *error) {
    return pipeline_factors_here(runs, profile, method, rank_max, NULL, set, error);
}

ousac_status pipeline_factors_here(const pipeline_runs *runs, const ousac_profile *profile,
                                   ousac_method method, const size_t *rank_max, const unsigned char *groups,
                                   ousac_factor_set **set, ousac_error *error) {
    cli_progress *progress = cli_progress_start(runs->common, "factors");
    const ousac_factorise_options options = {
        .method = method,
        .rank_max = rank_max,
        .groups = groups,
        .whole_spectra = 1,
        .threads = pipeline_threads(runs),
        .progress = note_progress,
        .progress_self = progress,
        .stop = &cli_stop,
    };
    const ousac_status status = ousac_factor_set_create(set, runs->model, profile, &options, error);
    cli_progress_end(progress);
    return status;
}

/* --- packing --- */

static void put_provenance(json_doc *doc, const ousac_profile *profile, const pipeline_ranges *pilots,
                           ousac_method factors, const ousac_plan *const *plans, size_t plan_count) {
    char seed[24];
    cJSON *list = NULL;

    /* As text: readers of JSON round numbers of 64 bits. */
    (void)snprintf(seed, sizeof seed, "%" PRIu64, profile->identity.seed);
    json_put_text(doc, doc->root, "seed", seed);
    json_put_u64(doc, doc->root, "micro_batch", profile->identity.micro_batch);
    json_put_u64(doc, doc->root, "tokens", profile->identity.tokens_used);
    json_put_text(doc, doc->root, "factors", ousac_method_name(factors));
    list = json_put_array(doc, doc->root, "calibration");
    for (size_t i = 0; i < profile->range_count; i++)
        pipeline_json_range(doc, list, NULL, profile->ranges[i].first, profile->ranges[i].count);
    list = json_put_array(doc, doc->root, "pilot");
    for (size_t i = 0; i < pilots->count; i++)
        pipeline_json_range(doc, list, NULL, pilots->range[i].first, pilots->range[i].count);
    list = json_put_array(doc, doc->root, "validation");
    for (size_t i = 0; i < plan_count; i++) {
        cli_range range;
        if (pipeline_note_range(plans[i]->note, &range))
            pipeline_json_range(doc, list, NULL, range.first, range.count);
    }
}

/* Looks at a bundle that has not got its name yet; `self` points to a pointer to the model. */
static ousac_status verify_bundle(void *self, const char *path, ousac_error *error) {
    const ousac_model *model = *(const ousac_model *const *)self;
    ousac_bundle *bundle = NULL;
    ousac_status status = ousac_bundle_open(&bundle, path, error);
    if (!status)
        status = ousac_bundle_verify(bundle, error);
    if (!status)
        status = ousac_bundle_check_model(bundle, model, NULL, error);
    ousac_bundle_close(bundle);
    return status;
}

/* What both ways of packing share: `text` of the provenance and the options that carry it. */
static ousac_status describe_bundle(ousac_bundle_options *options, char **text, const ousac_profile *profile,
                                    const pipeline_ranges *pilots, ousac_method method,
                                    const ousac_plan *const *plans, size_t plan_count,
                                    const pipeline_storage *storage, int keep_all, ousac_error *error) {
    json_doc doc;
    json_begin(&doc);
    put_provenance(&doc, profile, pilots, method, plans, plan_count);
    const ousac_status status = json_text(&doc, 0, text, error);
    *options = (ousac_bundle_options){
        .dtype = storage->dtype,
        .choose = storage->choose,
        .codec = storage->codec,
        .keep_all = keep_all,
        .provenance = *text,
        .check = verify_bundle,
    };
    json_end(&doc);
    return status;
}

ousac_status pipeline_pack(const char *path, const ousac_model *model, const ousac_profile *profile,
                           const pipeline_ranges *pilots, const ousac_factor_set *set,
                           const ousac_plan *const *plans, size_t plan_count, const pipeline_storage *storage,
                           int keep_all, ousac_error *error) {
    ousac_bundle_options options;
    char *provenance = NULL;
    ousac_status status = describe_bundle(&options, &provenance, profile, pilots, set->method, plans,
                                          plan_count, storage, keep_all, error);
    options.check_self = (void *)&model;
    if (!status)
        status = ousac_bundle_save(path, model, profile, set, plans, plan_count, &options, error);
    ousac_free(provenance);
    return status;
}

ousac_status pipeline_pack_stream(const char *path, const pipeline_runs *runs, const ousac_profile *profile,
                                  const pipeline_ranges *pilots, ousac_method method,
                                  const ousac_plan *const *plans, size_t plan_count,
                                  const pipeline_storage *storage, int keep_all, ousac_error *error) {
    cli_progress *progress = cli_progress_start(runs->common, "pack");
    const ousac_factorise_options making = {
        .method = method,
        .threads = runs->common->threads,
        .progress = progress ? cli_progress_update : NULL,
        .progress_self = progress,
        .stop = &cli_stop,
    };
    const ousac_model *model = runs->model;
    ousac_bundle_options options;
    char *provenance = NULL;
    ousac_status status = describe_bundle(&options, &provenance, profile, pilots, method, plans, plan_count,
                                          storage, keep_all, error);
    options.check_self = (void *)&model;
    if (!status)
        status = ousac_bundle_stream(path, model, profile, &making, plans, plan_count, &options, error);
    cli_progress_end(progress);
    ousac_free(provenance);
    return status;
}

/* --- reading what was recorded --- */

/* Adds a range [first, end]; 0 where the item is none. A range that is there already is not added again. */
static int add_range(pipeline_ranges *ranges, const cJSON *item, const char *use) {
    unsigned long long first = 0, end = 0;
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 0), &first) ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 1), &end) || end <= first)
        return 0;
    for (size_t i = 0; i < ranges->count; i++)
        if (ranges->range[i].first == first && ranges->range[i].count == end - first)
            return 1;
    if (ranges->count == PIPELINE_RANGES_MAX)
        return 0;
    ranges->range[ranges->count] = (cli_range){first, end - first};
    ranges->use[ranges->count++] = use;
    return 1;
}

/* Parses a file's metadata; *root is NULL where the key is absent. */
static ousac_status read_metadata(const char *path, const char *key, cJSON **root, ousac_error *error) {
    enum { VALUES_MAX = 1 << 16 };
    oca_file *file = NULL;
    const char *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    const oca_status opened = oca_open_path(&file, path, NULL);

    *root = NULL;
    if (opened)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %s", path, oca_status_string(opened));
    text = oca_metadata(file, key);
    if (text)
        status = ousac_json_parse(root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    oca_close(file);
    return status;
}

ousac_status pipeline_read_pilots(const char *path, pipeline_ranges *pilots, ousac_error *error) {
    cJSON *root = NULL;
    const cJSON *item = NULL;
    int good = 1;
    ousac_status status = read_metadata(path, "run", &root, error);

    memset(pilots, 0, sizeof *pilots);
    if (status)
        goto done;
    /* One run, or those of the profiles that were merged. */
    const cJSON *pilot = cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, "pilot") : NULL;
    if (pilot)
        good = add_range(pilots, pilot, "pilot");
    else if (cJSON_IsArray(root))
        cJSON_ArrayForEach(item, root) {
            pilot = cJSON_GetObjectItemCaseSensitive(item, "pilot");
            good &= !pilot || add_range(pilots, pilot, "pilot");
        }
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"run\": expected \"pilot\" as [first, end]", path);
done:
    cJSON_Delete(root);
    return status;
}

ousac_status pipeline_read_provenance(const char *path, pipeline_provenance *provenance, ousac_error *error) {
    static const char *const uses[] = {"calibration", "pilot", "validation"};
    cJSON *root = NULL;
    const char *seed = NULL;
    char *end = NULL;
    int good = 1;
    ousac_status status = read_metadata(path, "provenance", &root, error);

    memset(provenance, 0, sizeof *provenance);
    if (status || !root)
        goto done;
    seed = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "seed"));
    errno = 0;
    good = seed && *seed >= '0' && *seed <= '9';
    if (good)
        provenance->seed = strtoull(seed, &end, 10);
    good = good && errno == 0 && *end == '\0';
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, uses[i]), *item = NULL;
        good &= cJSON_IsArray(list);
        cJSON_ArrayForEach(item, list) good &= add_range(&provenance->used, item, uses[i]);
    }
    provenance->known = good;
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"provenance\": expected a seed and lists of sample ranges", path);
done:
    cJSON_Delete(root);
    return status;
}
