#include "profile/model/folder.h"

#include "formats/file.h"
#include "formats/json.h"
#include "formats/memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_BYTES_MAX = 16 << 20, VALUES_MAX = 1 << 20 };

/* In the order in which they are looked for; whole weights before halves. */
static const char *const WEIGHTS[] = {"diffusion_pytorch_model.safetensors",
                                      "diffusion_pytorch_model.safetensors.index.json",
                                      "model.safetensors",
                                      "model.safetensors.index.json",
                                      "diffusion_pytorch_model.bf16.safetensors",
                                      "diffusion_pytorch_model.safetensors.index.bf16.json",
                                      "diffusion_pytorch_model.fp16.safetensors",
                                      "diffusion_pytorch_model.safetensors.index.fp16.json"};

static int is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

/* "FOLDER/NAME"; `length` of the folder. NULL where memory is short. */
static char *join(const char *folder, size_t length, const char *name) {
    const size_t bytes = length + strlen(name) + 2;
    char *path = ousac_malloc(bytes, 1);
    if (path)
        (void)snprintf(path, bytes, "%.*s%s%s", (int)length, folder, length && *name ? "/" : "", name);
    return path;
}

static int is_index(const char *path) {
    const char *at = strstr(path, ".safetensors.index.");
    const size_t length = strlen(path);
    return at && length > 5 && strcmp(path + length - 5, ".json") == 0;
}

static ousac_status no_memory(const char *path, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", path);
}

static ousac_status find_weights(ousac_model_folder *f, const char *folder, ousac_error *error) {
    for (size_t i = 0; i < sizeof WEIGHTS / sizeof *WEIGHTS; i++) {
        f->weights = join(folder, strlen(folder), WEIGHTS[i]);
        if (!f->weights)
            return no_memory(folder, error);
        if (is_file(f->weights))
            return OUSAC_STATUS_OK;
        ousac_free(f->weights);
        f->weights = NULL;
    }
    char *pickle = join(folder, strlen(folder), "diffusion_pytorch_model.bin");
    const int pickled = pickle && is_file(pickle);
    ousac_free(pickle);
    if (pickled)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: holds its weights as a pickle (.bin); `python3 -m ousac.convert` makes safetensors of it",
            folder);
    return OUSAC_FAIL(error, OUSAC_STATUS_IO,
                      "%s: a folder without weights: expected %s, or an index of its shards", folder,
                      WEIGHTS[0]);
}

/* The scheduler's config of a pipeline whose folder is `pipeline`, where it is there. */
static ousac_status find_scheduler(ousac_model_folder *f, const char *pipeline, ousac_error *error) {
    f->scheduler = join(pipeline, strlen(pipeline), "scheduler/scheduler_config.json");
    if (!f->scheduler)
        return no_memory(pipeline, error);
    if (!is_file(f->scheduler)) {
        ousac_free(f->scheduler);
        f->scheduler = NULL;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status find_in_folder(ousac_model_folder *f, const char *path, ousac_error *error) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    char *folder = join(path, length, "model_index.json"), *pipeline = NULL;
    ousac_status status = folder ? OUSAC_STATUS_OK : no_memory(path, error);
    const int whole = folder && is_file(folder);
    ousac_free(folder);
    folder = join(path, length, whole ? "transformer" : "");
    pipeline = join(path, length, whole ? "" : "..");
    if (!status && (!folder || !pipeline))
        status = no_memory(path, error);
    if (!status && whole && !is_folder(folder))
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: a pipeline without a folder \"transformer\"; expected a diffusion transformer", path);
    if (!status)
        status = find_weights(f, folder, error);
    if (!status)
        status = find_scheduler(f, pipeline, error);
    ousac_free(folder);
    ousac_free(pipeline);
    return status;
}

ousac_status ousac_model_folder_find(ousac_model_folder *f, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    memset(f, 0, sizeof *f);
    if (is_folder(path))
        status = find_in_folder(f, path, error);
    else if (!(f->weights = ousac_strdup(path)))
        status = no_memory(path, error);
    if (!status) {
        const char *slash = strrchr(f->weights, '/');
        f->sharded = is_index(f->weights);
        f->config = join(f->weights, slash ? (size_t)(slash - f->weights) : 0, "config.json");
        if (slash == f->weights) { /* in the root */
            ousac_free(f->config);
            f->config = ousac_strdup("/config.json");
        }
        if (!f->config)
            status = no_memory(path, error);
    }
    if (status)
        ousac_model_folder_free(f);
    return status;
}

void ousac_model_folder_free(ousac_model_folder *f) {
    ousac_free(f->weights);
    ousac_free(f->config);
    ousac_free(f->scheduler);
    memset(f, 0, sizeof *f);
}

/* --- the scheduler's word --- */

static ousac_status parse(cJSON **root, const char *text, const char *path, ousac_error *error) {
    ousac_status status =
        ousac_json_parse(root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    if (!status)
        status = ousac_json_check_unique(*root, path, error);
    if (!status && !cJSON_IsObject(*root))
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not a JSON object", path);
    return status;
}

/* diffusers writes configs by Python's json, which knows -Infinity, Infinity and NaN, and JSON does not. In place: an
 * overflowing number of the same sign, and for NaN an empty object, which is no value of any key that is read. */
static void without_infinities(char *text) {
    static const char *const words[][2] = {
        {"-Infinity", "-1e9999  "}, {"Infinity", "1e9999  "}, {"NaN", "{} "}};
    int in_string = 0;
    for (char *at = text; *at; at++) {
        if (*at == '"')
            in_string = !in_string;
        else if (in_string && *at == '\\' && at[1])
            at++;
        for (size_t i = 0; !in_string && i < sizeof words / sizeof *words; i++)
            if (strncmp(at, words[i][0], strlen(words[i][0])) == 0)
                memcpy(at, words[i][1], strlen(words[i][1]));
    }
}

static int has(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item && !cJSON_IsNull(item);
}

/* 0 where memory was short. */
static int add(cJSON *config, const cJSON *scheduler, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(scheduler, key);
    if (!item || has(config, key))
        return 1;
    cJSON *copy = cJSON_Duplicate(item, 1);
    cJSON_DeleteItemFromObjectCaseSensitive(config, key); /* a null */
    if (copy && cJSON_AddItemToObject(config, key, copy))
        return 1;
    cJSON_Delete(copy);
    return 0;
}

static int add_levels(cJSON *config, const cJSON *scheduler) {
    static const char *const keys[] = {"beta_schedule", "beta_start",          "beta_end",
                                       "trained_betas", "num_train_timesteps", "rescale_betas_zero_snr"};
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(scheduler, "_class_name"));
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(scheduler, "num_train_timesteps");
    int good = 1;
    if (kind && strncmp(kind, "FlowMatch", strlen("FlowMatch")) == 0) {
        char text[64];
        (void)snprintf(text, sizeof text, "flow %.0f", cJSON_IsNumber(steps) ? steps->valuedouble : 1000.0);
        return cJSON_AddStringToObject(config, "betas", text) != NULL;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        good &= add(config, scheduler, keys[i]);
    return good;
}

ousac_status ousac_model_folder_believe(char **text, const char *config_path, const char *scheduler_path,
                                        ousac_error *error) {
    char *theirs = NULL, *whole = NULL, *copy = NULL;
    cJSON *config = NULL, *scheduler = NULL;
    ousac_status status = parse(&config, *text ? *text : "{}", config_path, error);
    if (!status)
        status = ousac_file_read_text(&theirs, NULL, scheduler_path, CONFIG_BYTES_MAX, error);
    if (!status) {
        without_infinities(theirs);
        status = parse(&scheduler, theirs, scheduler_path, error);
    }
    if (!status) {
        int good = 1;
        if (!has(config, "betas") && !has(config, "beta_schedule"))
            good = add_levels(config, scheduler);
        if (!has(config, "prediction") && !has(config, "prediction_type"))
            good &= add(config, scheduler, "prediction_type");
        whole = good ? cJSON_PrintUnformatted(config) : NULL;
        copy = whole ? ousac_strdup(whole) : NULL;
        if (!copy)
            status = no_memory(config_path, error);
    }
    if (!status) {
        ousac_free(*text);
        *text = copy;
    }
    cJSON_free(whole);
    cJSON_Delete(config);
    cJSON_Delete(scheduler);
    ousac_free(theirs);
    return status;
}
