#include "tools/report/plot_inputs.h"

#include "formats/file.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "tools/cli/describe.h"
#include "tools/report/samples.h"
#include "tools/report/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_BYTES_MAX = 64 << 20, JSON_VALUES_MAX = 1 << 20 };

/* ---- profiles ---- */

static ousac_status no_memory(const char *path, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
}

/* A tensor (S, OUSAC_BRANCHES, width) of numbers that are not negative. */
static ousac_status read_steps(const ousac_archive *archive, const plot_profile *profile, const char *name,
                               size_t width, double **values, ousac_error *error) {
    const uint64_t shape[3] = {profile->schedule.step_count, OUSAC_BRANCHES, width};
    const size_t count = profile->schedule.step_count * OUSAC_BRANCHES;
    oca_tensor found;
    ousac_status status = ousac_archive_find(archive, name, OUSAC_DTYPE_F64, 3, shape, &found, error);
    if (status)
        return status;
    /* The tensor holds that many elements, so the product does not overflow. */
    *values = ousac_malloc(count * width, sizeof **values);
    if (*values == NULL)
        return no_memory(archive->path, error);
    status = ousac_archive_read(archive, name, OUSAC_DTYPE_F64, 3, shape, *values, error);
    if (!status)
        status = ousac_archive_check_f64(archive, name, *values, count * width, 0, error);
    return status;
}

/* Gates and ages follow from the schedule (formats/PROFILE.md). */
static ousac_status derive_gates(plot_profile *profile, ousac_error *error) {
    const size_t steps = profile->schedule.step_count;
    profile->gate = ousac_malloc(steps * OUSAC_BRANCHES, sizeof *profile->gate);
    profile->age = ousac_calloc(steps * OUSAC_BRANCHES, sizeof *profile->age);
    if (profile->gate == NULL || profile->age == NULL)
        return no_memory(profile->path, error);
    const ousac_status status = ousac_schedule_effective_gates(&profile->schedule, profile->gate, error);
    if (status)
        return status;
    for (size_t branch = 0; branch < OUSAC_BRANCHES; branch++) {
        size_t last = SIZE_MAX;
        for (size_t i = 0; i < steps; i++) {
            const int gate = profile->gate[i * OUSAC_BRANCHES + branch];
            if (gate >= 0 && last != SIZE_MAX)
                profile->age[i * OUSAC_BRANCHES + branch] = (int)(i - last);
            if (gate == OUSAC_GATE_FULL)
                last = i;
        }
    }
    return OUSAC_STATUS_OK;
}

static ousac_status load_profile(plot_profile *profile, const char *path, uint64_t bytes,
                                 ousac_error *error) {
    ousac_archive archive = {0};
    char name[OUSAC_TENSOR_NAME_BYTES];
    const char *text = NULL;
    ousac_status status = ousac_archive_open(&archive, path, OUSAC_FORMAT_PROFILE, error);

    if (status)
        return status;
    profile->bytes = bytes;
    profile->path = ousac_strdup(path);
    text = oca_metadata(archive.file, "run");
    if (text != NULL)
        profile->run = ousac_strdup(text);
    if (profile->path == NULL || (text != NULL && profile->run == NULL)) {
        status = no_memory(path, error);
        goto done;
    }
    status = ousac_archive_subject(&archive, &profile->arch, &profile->schedule, error);
    if (!status)
        status = ousac_archive_digest(&archive, "digest", 0, profile->digest, error);
    if (!status)
        status = ousac_archive_digest(&archive, "model_digest", 0, profile->model_digest, error);
    if (!status)
        status = ousac_archive_digest(&archive, "weights_digest", 0, profile->weights_digest, error);
    if (!status)
        status = ousac_archive_u64(&archive, "seed", 0, UINT64_MAX, &profile->seed, error);
    if (!status)
        status = ousac_archive_u64(&archive, "micro_batch", 1, UINT64_MAX, &profile->micro_batch, error);
    if (!status)
        status = ousac_archive_u64(&archive, "tokens_used", 1, UINT64_MAX, &profile->tokens_used, error);
    if (!status)
        status = ousac_archive_u64(&archive, "segments", 1, UINT64_MAX, &profile->segments, error);
    if (!status)
        status = ousac_archive_text(&archive, "ranges", &text, error);
    if (status)
        goto done;
    (void)snprintf(profile->ranges, sizeof profile->ranges, "%s", text);
    status = derive_gates(profile, error);
    if (!status)
        status =
            read_steps(&archive, profile, "step/weight", profile->arch.group_count, &profile->weight, error);
    for (int i = 0; !status && i < OUSAC_SCALAR_COUNT; i++) {
        (void)snprintf(name, sizeof name, "step/%s", ousac_scalar_name((ousac_scalar)i));
        status =
            read_steps(&archive, profile, name, ousac_profile_scalar_width(&profile->arch, (ousac_scalar)i),
                       &profile->scalar[i], error);
    }
done:
    ousac_archive_close(&archive);
    return status;
}

static void free_profile(plot_profile *profile) {
    ousac_free(profile->path);
    ousac_free(profile->run);
    ousac_arch_free(&profile->arch);
    ousac_schedule_free(&profile->schedule);
    ousac_free(profile->gate);
    ousac_free(profile->age);
    ousac_free(profile->weight);
    for (int i = 0; i < OUSAC_SCALAR_COUNT; i++)
        ousac_free(profile->scalar[i]);
}

/* ---- bundles ---- */

static ousac_status digest_file(const char *path, char digest[OUSAC_DIGEST_CHARS], ousac_error *error) {
    ousac_file_view view = {NULL, 0};
    ousac_sha256 state;
    const ousac_status status = ousac_file_map(&view, path, error);
    if (!status) {
        ousac_sha256_begin(&state);
        ousac_sha256_add(&state, view.data, view.size);
        ousac_sha256_end(&state, digest);
    }
    ousac_file_unmap(&view);
    return status;
}

static ousac_status load_bundle(plot_bundle *bundle, const char *path, uint64_t bytes, ousac_error *error) {
    ousac_status status = ousac_bundle_open(&bundle->bundle, path, error);
    if (status)
        return status;
    bundle->bytes = bytes;
    bundle->path = ousac_strdup(path);
    if (bundle->path == NULL)
        return no_memory(path, error);
    status = ousac_archive_open(&bundle->archive, path, OUSAC_FORMAT_BUNDLE, error);
    if (!status)
        status = ousac_archive_subject(&bundle->archive, &bundle->arch, &bundle->schedule, error);
    if (!status)
        status = ousac_archive_digest(&bundle->archive, "profile_digest", 0, bundle->profile_digest, error);
    if (!status)
        status = digest_file(path, bundle->file_digest, error);
    if (!status)
        status = ousac_provenance_of(&bundle->provenance, bundle->archive.file, path, error);
    return status;
}

ousac_status plot_bundle_curve(const plot_bundle *bundle, size_t site, double *lambda, ousac_error *error) {
    const ousac_site *s = &bundle->arch.sites[site];
    const uint64_t count = s->m < s->n ? s->m : s->n;
    char name[OUSAC_TENSOR_NAME_BYTES];
    (void)snprintf(name, sizeof name, "curve/%s", s->name);
    ousac_status status =
        ousac_archive_read(&bundle->archive, name, OUSAC_DTYPE_F64, 1, &count, lambda, error);
    if (!status)
        status = ousac_archive_check_f64(&bundle->archive, name, lambda, (size_t)count, 0, error);
    return status;
}

/* ---- JSON ---- */

const cJSON *plot_json_item(const cJSON *root, const char *path) {
    char key[64];
    while (root != NULL && *path != '\0') {
        const size_t length = strcspn(path, "/");
        if (length >= sizeof key)
            return NULL;
        memcpy(key, path, length);
        key[length] = '\0';
        root = cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, key) : NULL;
        path += length + (path[length] == '/');
    }
    return root;
}

double plot_json_real(const cJSON *root, const char *path) {
    const cJSON *item = plot_json_item(root, path);
    return cJSON_IsNumber(item) && isfinite(item->valuedouble) ? item->valuedouble : NAN;
}

const char *plot_json_text(const cJSON *root, const char *path) {
    return cJSON_GetStringValue(plot_json_item(root, path));
}

static ousac_status keep_json(plot_json *list, size_t *count, const char *path, cJSON **root,
                              ousac_error *error) {
    if (*count == PLOT_INPUTS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: more than %d files of its kind", path,
                          PLOT_INPUTS_MAX);
    list[*count].path = ousac_strdup(path);
    if (list[*count].path == NULL)
        return no_memory(path, error);
    list[(*count)++].root = *root;
    *root = NULL;
    return OUSAC_STATUS_OK;
}

/* An evaluation, a table of qualities, a search, what a calibration cost, or a schedule. */
static ousac_status load_json(plot_inputs *inputs, const char *path, ousac_error *error) {
    char *text = NULL;
    size_t size = 0;
    cJSON *root = NULL;
    ousac_status status = ousac_file_read_text(&text, &size, path, JSON_BYTES_MAX, error);
    if (!status)
        status = ousac_json_parse(&root, text, size, JSON_VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    if (status)
        goto done;
    const char *kind = plot_json_text(root, "kind");
    if (kind != NULL && strcmp(kind, "ousac evaluation") == 0)
        status = keep_json(inputs->evaluation, &inputs->evaluation_count, path, &root, error);
    else if (kind != NULL && strcmp(kind, "ousac calibration cost") == 0)
        status = keep_json(inputs->cost, &inputs->cost_count, path, &root, error);
    else if (kind != NULL && strcmp(kind, "ousac search") == 0)
        status = keep_json(inputs->search, &inputs->search_count, path, &root, error);
    else if (cJSON_IsArray(plot_json_item(root, "cells")))
        status = keep_json(inputs->quality, &inputs->quality_count, path, &root, error);
    else if (inputs->given.step_count > 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: expected at most one schedule file", path);
    else
        status = ousac_schedule_parse(&inputs->given, text, size, path, error);
done:
    cJSON_Delete(root);
    ousac_free(text);
    return status;
}

/* ---- files and directories ---- */

static ousac_status load_archive(plot_inputs *inputs, const char *path, ousac_error *error) {
    if (inputs->samples != NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: expected at most one file of samples", path);
    const ousac_status status = samples_check(path, error);
    if (status)
        return status;
    inputs->samples = ousac_strdup(path);
    return inputs->samples == NULL ? no_memory(path, error) : OUSAC_STATUS_OK;
}

static ousac_status load_file(plot_inputs *inputs, const char *path, ousac_error *error) {
    file_kind kind = FILE_KIND_UNKNOWN;
    uint64_t bytes = 0;
    ousac_status status = file_kind_detect(&kind, &bytes, path, error);
    if (status)
        return status;
    switch (kind) {
    case FILE_KIND_BUNDLE:
        if (inputs->bundle_count == PLOT_INPUTS_MAX)
            break;
        return load_bundle(&inputs->bundle[inputs->bundle_count++], path, bytes, error);
    case FILE_KIND_PROFILE:
        if (inputs->profile_count == PLOT_INPUTS_MAX)
            break;
        return load_profile(&inputs->profile[inputs->profile_count++], path, bytes, error);
    case FILE_KIND_PLAN:
        if (inputs->given_plan != NULL)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: expected at most one plan file", path);
        return ousac_plan_load(&inputs->given_plan, path, error);
    case FILE_KIND_SCHEDULE:
    case FILE_KIND_EVALUATION:
    case FILE_KIND_COST:
    case FILE_KIND_SEARCH:
    case FILE_KIND_TIME:
    case FILE_KIND_COMPARISON:
    case FILE_KIND_CONFIG:
        return load_json(inputs, path, error);
    case FILE_KIND_ARCHIVE:
        return load_archive(inputs, path, error);
    case FILE_KIND_REFIT:
    case FILE_KIND_SAFETENSORS:
    case FILE_KIND_UNKNOWN:
        return OUSAC_FAIL(
            error, OUSAC_STATUS_FORMAT,
            "%s: expected a bundle, a profile, a plan, a schedule, an evaluation, samples, or a "
            "directory of them",
            path);
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: more than %d files of its kind", path, PLOT_INPUTS_MAX);
}

/* What is read of a directory. A bundle carries its plans and its schedule; those files are read only where there is
 * none. */
static const struct {
    const char *name;
    int with_bundle;
} directory_files[] = {{"bundle.oca", 1}, {"profile.oca", 1}, {"eval.json", 1},     {"samples.oca", 1},
                       {"cost.json", 1},  {"plan.oca", 0},    {"schedule.json", 0}, {"search.json", 1}};

void plot_inputs_list(cli_files *files, const char *path) {
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        for (size_t i = 0; i < sizeof directory_files / sizeof *directory_files; i++)
            cli_files_read_in(files, "the file", path, directory_files[i].name);
}

static ousac_status load_directory(plot_inputs *inputs, const char *path, ousac_error *error) {
    const char *slash = *path != '\0' && path[strlen(path) - 1] == '/' ? "" : "/";
    struct stat info;
    size_t found = 0;
    int bundle = 0, profile = 0;
    ousac_status status = OUSAC_STATUS_OK;

    for (size_t i = 0; !status && i < sizeof directory_files / sizeof *directory_files; i++) {
        char *file = join_texts(path, slash, directory_files[i].name);
        if (file == NULL)
            return no_memory(path, error);
        const int there = stat(file, &info) == 0;
        const int samples_again = i == 3 && inputs->samples != NULL; /* those of the first directory */
        if (there && !samples_again && (directory_files[i].with_bundle || !(bundle || (profile && i == 6)))) {
            status = load_file(inputs, file, error);
            found++;
            bundle |= i == 0;
            profile |= i == 1;
        }
        ousac_free(file);
    }
    if (!status && found == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO,
                            "%s: none of the files that `ousac calibrate` writes is in this directory", path);
    return status;
}

/* ---- what belongs together ---- */

/* "demo" of "build/demo/bundle.oca", "a.oca" of "a.oca"; whole paths where two would be the same. */
static void label_bundles(plot_inputs *inputs) {
    for (size_t i = 0; i < inputs->bundle_count; i++) {
        const char *path = inputs->bundle[i].path, *slash = strrchr(path, '/');
        const char *start = slash == NULL ? path : slash + 1, *end = path + strlen(path);
        if (slash != NULL && strcmp(start, "bundle.oca") == 0) {
            for (end = slash, start = slash; start > path && start[-1] != '/';)
                start--;
        }
        if (end == start)
            end = (start = path) + strlen(path);
        (void)snprintf(inputs->bundle[i].label, PLOT_LABEL_BYTES, "%.*s", (int)(end - start), start);
    }
    for (size_t i = 0; i < inputs->bundle_count; i++) {
        int same = 0;
        for (size_t j = 0; j < inputs->bundle_count; j++)
            same |= i != j && strcmp(inputs->bundle[i].label, inputs->bundle[j].label) == 0;
        if (same) { /* the end of a long path says more than its beginning */
            const char *path = inputs->bundle[i].path;
            const size_t length = strlen(path);
            (void)snprintf(inputs->bundle[i].label, PLOT_LABEL_BYTES, "%s",
                           length < PLOT_LABEL_BYTES ? path : path + length - (PLOT_LABEL_BYTES - 1));
        }
    }
}

static ousac_status choose_plan(const plot_inputs *inputs, plot_bundle *bundle, const char *name,
                                ousac_error *error) {
    const char *asked = name;
    if (asked == NULL && inputs->bundle_count == 1 && inputs->evaluation_count == 1)
        asked = plot_json_text(inputs->evaluation[0].root, "plan/name");
    bundle->plan = ousac_bundle_find_plan(bundle->bundle, asked);
    if (bundle->plan == NULL && name != NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: no plan named %s; `ousac inspect` lists its plans",
                          bundle->path, name);
    if (bundle->plan == NULL)
        bundle->plan = ousac_bundle_find_plan(bundle->bundle, NULL);
    if (bundle->plan == NULL)
        bundle->plan = ousac_bundle_plan(bundle->bundle, 0);
    return OUSAC_STATUS_OK;
}

static ousac_status check_evaluation(const plot_inputs *inputs, const plot_bundle *bundle,
                                     ousac_error *error) {
    char digest[OUSAC_DIGEST_CHARS];
    if (inputs->bundle_count != 1 || inputs->evaluation_count != 1)
        return OUSAC_STATUS_OK;
    const plot_json *evaluation = &inputs->evaluation[0];
    const char *model = plot_json_text(evaluation->root, "model_digest");
    const char *schedule = plot_json_text(evaluation->root, "schedule/digest");
    ousac_schedule_digest(&bundle->schedule, digest);
    if (model == NULL || schedule == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: expected \"model_digest\" and \"schedule\" with its digest", evaluation->path);
    if (strcmp(model, ousac_bundle_model_digest(bundle->bundle)) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s evaluates model %.12s, and %s is of model %.12s",
                          evaluation->path, model, bundle->path, ousac_bundle_model_digest(bundle->bundle));
    if (strcmp(schedule, digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s evaluates schedule %.12s, and %s is of schedule %.12s", evaluation->path,
                          schedule, bundle->path, digest);
    return OUSAC_STATUS_OK;
}

/* The schedule that a search without a bundle found; older files do not say which that was. */
static ousac_status check_found(const plot_inputs *inputs, ousac_error *error) {
    char digest[OUSAC_DIGEST_CHARS];
    const char *found =
        inputs->search_count == 1 ? plot_json_text(inputs->search[0].root, "schedule/digest") : NULL;
    if (found == NULL || inputs->bundle_count > 0 || inputs->given.step_count == 0)
        return OUSAC_STATUS_OK;
    ousac_schedule_digest(&inputs->given, digest);
    return strcmp(found, digest) == 0 ? OUSAC_STATUS_OK
                                      : OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                                                   "%s found schedule %.12s; the schedule given is %.12s",
                                                   inputs->search[0].path, found, digest);
}

/* A search belongs to the bundle of whose model it is. */
static ousac_status check_search(const plot_inputs *inputs, const plot_bundle *bundle, ousac_error *error) {
    if (inputs->bundle_count != 1 || inputs->search_count != 1)
        return OUSAC_STATUS_OK;
    const plot_json *search = &inputs->search[0];
    const char *model = plot_json_text(search->root, "model_digest");
    if (model == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: expected \"model_digest\"", search->path);
    if (strcmp(model, ousac_bundle_model_digest(bundle->bundle)) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s is of model %.12s, and %s is of model %.12s",
                          search->path, model, bundle->path, ousac_bundle_model_digest(bundle->bundle));
    return OUSAC_STATUS_OK;
}

static ousac_status connect(plot_inputs *inputs, const char *plan, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    label_bundles(inputs);
    for (size_t i = 0; !status && i < inputs->bundle_count; i++) {
        plot_bundle *bundle = &inputs->bundle[i];
        for (size_t j = 0; j < inputs->profile_count; j++)
            if (strcmp(inputs->profile[j].digest, bundle->profile_digest) == 0)
                bundle->profile = &inputs->profile[j];
        status = choose_plan(inputs, bundle, plan, error);
    }
    if (status)
        return status;
    if (inputs->bundle_count == 1 && inputs->profile_count > 0 && inputs->bundle[0].profile == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s was made from profile %.12s, and %s is profile %.12s", inputs->bundle[0].path,
                          inputs->bundle[0].profile_digest, inputs->profile[0].path,
                          inputs->profile[0].digest);
    if (inputs->given_plan != NULL && plot_inputs_arch(inputs) != NULL)
        status =
            ousac_plan_check(inputs->given_plan, plot_inputs_arch(inputs), inputs->given_plan->name, error);
    if (!status && inputs->given_plan != NULL && inputs->bundle_count == 1 && plan == NULL)
        inputs->bundle[0].plan = inputs->given_plan;
    if (!status && inputs->bundle_count == 1)
        status = check_evaluation(inputs, &inputs->bundle[0], error);
    if (!status && inputs->bundle_count == 1)
        status = check_search(inputs, &inputs->bundle[0], error);
    return status ? status : check_found(inputs, error);
}

ousac_status plot_inputs_load(plot_inputs *inputs, char *const *paths, size_t count, const char *plan,
                              ousac_error *error) {
    struct stat info;
    ousac_status status = OUSAC_STATUS_OK;
    memset(inputs, 0, sizeof *inputs);
    for (size_t i = 0; !status && i < count; i++)
        status = stat(paths[i], &info) == 0 && S_ISDIR(info.st_mode) ? load_directory(inputs, paths[i], error)
                                                                     : load_file(inputs, paths[i], error);
    return status ? status : connect(inputs, plan, error);
}

void plot_inputs_free(plot_inputs *inputs) {
    for (size_t i = 0; i < inputs->bundle_count; i++) {
        plot_bundle *bundle = &inputs->bundle[i];
        ousac_free(bundle->path);
        ousac_bundle_close(bundle->bundle);
        ousac_archive_close(&bundle->archive);
        ousac_arch_free(&bundle->arch);
        ousac_schedule_free(&bundle->schedule);
    }
    for (size_t i = 0; i < inputs->profile_count; i++)
        free_profile(&inputs->profile[i]);
    plot_json *const lists[] = {inputs->evaluation, inputs->quality, inputs->cost, inputs->search};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (size_t j = 0; j < PLOT_INPUTS_MAX; j++) {
            ousac_free(lists[i][j].path);
            cJSON_Delete(lists[i][j].root);
        }
    ousac_schedule_free(&inputs->given);
    ousac_plan_free(inputs->given_plan);
    ousac_free(inputs->samples);
    memset(inputs, 0, sizeof *inputs);
}

const ousac_schedule *plot_inputs_schedule(const plot_inputs *inputs) {
    if (inputs->bundle_count > 0)
        return &inputs->bundle[0].schedule;
    if (inputs->profile_count > 0)
        return &inputs->profile[0].schedule;
    return inputs->given.step_count > 0 ? &inputs->given : NULL;
}

const ousac_arch *plot_inputs_arch(const plot_inputs *inputs) {
    if (inputs->bundle_count > 0)
        return &inputs->bundle[0].arch;
    return inputs->profile_count > 0 ? &inputs->profile[0].arch : NULL;
}

const ousac_plan *plot_inputs_plan(const plot_inputs *inputs) {
    return inputs->bundle_count > 0 ? inputs->bundle[0].plan : inputs->given_plan;
}
