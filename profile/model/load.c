#include "profile/model/load.h"

#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of a config; of a tensor at a time: 4 MiB as float32. */
enum { CONFIG_VALUES_MAX = 1 << 20, PART_FLOATS = 1 << 20, SIZE_LARGEST = INT32_MAX };

ousac_status ousac_loader_begin(ousac_loader *l, ousac_model *model, const char *what,
                                const ousac_safetensors *file, const char *config, const char *config_name,
                                const ousac_model_options *options, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    *l = (ousac_loader){.model = model,
                        .what = what,
                        .file = file,
                        .config_name = config_name,
                        .options = options,
                        .error = error};
    ousac_sha256_begin(&l->hash);
    l->taken = ousac_calloc(ousac_safetensors_count(file), 1);
    if (!l->taken)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", model->path);
    if (!config)
        return OUSAC_STATUS_OK;
    status = ousac_json_parse(&l->config, config, strlen(config), CONFIG_VALUES_MAX, OUSAC_JSON_NUMBERS_ANY,
                              config_name, error);
    if (!status)
        status = ousac_json_check_unique(l->config, config_name, error);
    if (!status && !cJSON_IsObject(l->config))
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not a JSON object", config_name);
    return status;
}

void ousac_loader_end(ousac_loader *l) {
    cJSON_Delete(l->config);
    ousac_free(l->host);
    ousac_free(l->taken);
}

/* --- the config --- */

static const cJSON *item_of(const ousac_loader *l, const char *key) {
    const cJSON *item = l->config ? cJSON_GetObjectItemCaseSensitive(l->config, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}

int ousac_loader_has(const ousac_loader *l, const char *key) {
    return l->config && cJSON_GetObjectItemCaseSensitive(l->config, key);
}

static int wrong_kind(const ousac_loader *l, const char *key, const char *expected) {
    (void)OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: key \"%s\": expected %s", l->config_name, key,
                     expected);
    return -1;
}

int ousac_loader_size(const ousac_loader *l, const char *key, size_t *value) {
    const cJSON *item = item_of(l, key);
    unsigned long long whole = 0;
    if (!item)
        return 0;
    if (!ousac_json_whole(item, &whole) || whole > SIZE_LARGEST)
        return wrong_kind(l, key, "a whole number from 0 to 2147483647");
    *value = (size_t)whole;
    return 1;
}

int ousac_loader_real(const ousac_loader *l, const char *key, double *value) {
    const cJSON *item = item_of(l, key);
    if (!item)
        return 0;
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
        return wrong_kind(l, key, "a finite number");
    *value = item->valuedouble;
    return 1;
}

int ousac_loader_text(const ousac_loader *l, const char *key, const char **value) {
    const cJSON *item = item_of(l, key);
    if (!item)
        return 0;
    if (!cJSON_IsString(item))
        return wrong_kind(l, key, "a text");
    *value = item->valuestring;
    return 1;
}

int ousac_loader_flag(const ousac_loader *l, const char *key, int *value) {
    const cJSON *item = item_of(l, key);
    if (!item)
        return 0;
    if (!cJSON_IsBool(item))
        return wrong_kind(l, key, "true or false");
    *value = cJSON_IsTrue(item);
    return 1;
}

int ousac_loader_size_of(const ousac_loader *l, const char *key, const char *other, size_t *value) {
    size_t first = 0, second = 0;
    const int a = ousac_loader_size(l, key, &first), b = a < 0 ? a : ousac_loader_size(l, other, &second);
    if (a < 0 || b < 0)
        return -1;
    if (a && b && first != second) {
        (void)OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: \"%s\" is %zu, but \"%s\" is %zu",
                         l->config_name, key, first, other, second);
        return -1;
    }
    if (a || b)
        *value = a ? first : second;
    return a || b;
}

ousac_status ousac_loader_agrees(const ousac_loader *l, const char *key, size_t value) {
    size_t stated = 0;
    const int have = ousac_loader_size(l, key, &stated);
    if (have < 0)
        return OUSAC_STATUS_FORMAT;
    if (have && stated != value)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: \"%s\" is %zu, but the tensors of %s say %zu",
                          l->config_name, key, stated, l->model->path, value);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_loader_text_is(const ousac_loader *l, const char *key, const char *wanted) {
    const char *text = wanted;
    if (ousac_loader_text(l, key, &text) < 0)
        return OUSAC_STATUS_FORMAT;
    if (strcmp(text, wanted) != 0)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED, "%s: \"%s\" is \"%.40s\"; %s has \"%s\"",
                          l->config_name, key, text, l->what, wanted);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_loader_flag_is(const ousac_loader *l, const char *key, int wanted) {
    int flag = wanted;
    if (ousac_loader_flag(l, key, &flag) < 0)
        return OUSAC_STATUS_FORMAT;
    if (flag != wanted)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED, "%s: \"%s\" is %s, which %s cannot be run with",
                          l->config_name, key, flag ? "true" : "false", l->what);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_loader_lacks(const ousac_loader *l, const char *key) {
    if (item_of(l, key))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED, "%s: key \"%s\": %s that has it cannot be run",
                          l->config_name, key, l->what);
    return OUSAC_STATUS_OK;
}

/* The text of profile/model/noise.h for diffusers' keys; 1, 0 where there are none, -1 on an error. */
static int scheduler_levels(const ousac_loader *l, char *text, size_t size) {
    static const char *const kinds[] = {"linear", "scaled_linear"};
    const char *schedule = NULL;
    double first = 1e-4, last = 0.02;
    size_t steps = 1000;
    const int has = ousac_loader_text(l, "beta_schedule", &schedule);
    const int a = ousac_loader_real(l, "beta_start", &first), b = ousac_loader_real(l, "beta_end", &last),
              c = ousac_loader_size(l, "num_train_timesteps", &steps);
    if (has < 0 || a < 0 || b < 0 || c < 0)
        return -1;
    if (!has && !a && !b && !c)
        return 0;
    for (size_t i = 0; schedule && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(schedule, kinds[i]) == 0) {
            (void)snprintf(text, size, "%s %.17g %.17g %zu", kinds[i], first, last, steps);
            return 1;
        }
    (void)OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                     "%s: key \"beta_schedule\" is %s%.40s%s; expected \"linear\" or \"scaled_linear\"",
                     l->config_name, schedule ? "\"" : "", schedule ? schedule : "absent beside its numbers",
                     schedule ? "\"" : "");
    return -1;
}

static ousac_status read_prediction(const ousac_loader *l, ousac_prediction prediction) {
    static const char *const keys[] = {"prediction", "prediction_type"};
    int found = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *text = NULL;
        ousac_prediction stated = prediction;
        if (ousac_loader_text(l, keys[i], &text) < 0)
            return OUSAC_STATUS_FORMAT;
        if (!text)
            continue;
        if (ousac_prediction_parse(&stated, text))
            return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: \"%s\" is \"%.40s\"; expected epsilon, v_prediction, flow or sample",
                              l->config_name, keys[i], text);
        if (found && stated != prediction)
            return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: \"%s\" and \"%s\" differ", l->config_name,
                              keys[0], keys[1]);
        prediction = stated;
        found = 1;
    }
    l->model->noise.prediction = prediction;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_loader_noise(const ousac_loader *l, const char *levels, ousac_prediction prediction) {
    ousac_model *model = l->model;
    const char *betas = NULL;
    char text[128];
    size_t guided = model->channels;
    ousac_status status = read_prediction(l, prediction);
    if (!status)
        status = ousac_loader_lacks(l, "trained_betas");
    if (!status)
        status = ousac_loader_flag_is(l, "rescale_betas_zero_snr", 0);
    if (status)
        return status;
    const int own = ousac_loader_text(l, "betas", &betas);
    const int schedulers = own < 0 ? own : scheduler_levels(l, text, sizeof text);
    if (own < 0 || schedulers < 0)
        return l->error ? l->error->status : OUSAC_STATUS_FORMAT;
    if (own && schedulers)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: \"betas\" and \"beta_schedule\" both state noise levels", l->config_name);
    status = ousac_noise_parse(own          ? betas
                               : schedulers ? text
                                            : levels,
                               l->config_name, &model->noise, l->error);
    if (!status)
        status = ousac_noise_check(&model->noise, l->config_name, l->error);
    if (!status && ousac_loader_size(l, "guided_channels", &guided) < 0)
        status = OUSAC_STATUS_FORMAT;
    if (!status && (guided < 1 || guided > model->channels))
        status =
            OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: key \"guided_channels\" is %zu; expected 1 to %zu",
                       l->config_name, guided, model->channels);
    model->guided_channels = guided;
    return status;
}

ousac_status ousac_loader_range(const ousac_loader *l) {
    static const char key[] = "data_range";
    double *range = l->model->data_range;
    const cJSON *pair = item_of(l, key);
    for (int i = 0; pair && i < 2; i++) {
        const cJSON *end =
            cJSON_IsArray(pair) && cJSON_GetArraySize(pair) == 2 ? cJSON_GetArrayItem(pair, i) : NULL;
        range[i] = cJSON_IsNumber(end) ? end->valuedouble : NAN;
    }
    if (pair && !(isfinite(range[0]) && isfinite(range[1]) && range[0] < range[1])) {
        (void)wrong_kind(l, key, "two finite numbers, the least and the largest value of a sample");
        return OUSAC_STATUS_FORMAT;
    }
    return OUSAC_STATUS_OK;
}

/* --- tensors --- */

const ousac_safetensors_tensor *ousac_loader_find(const ousac_loader *l, const char *name) {
    return ousac_safetensors_find(l->file, name);
}

ousac_status ousac_loader_missing(const ousac_loader *l, const char *name) {
    return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: tensor %s is missing: not a whole checkpoint of %s",
                      l->model->path, name, l->what);
}

void ousac_loader_mark(ousac_loader *l, const ousac_safetensors_tensor *tensor) {
    for (size_t i = 0; i < ousac_safetensors_count(l->file); i++)
        if (ousac_safetensors_at(l->file, i) == tensor)
            l->taken[i] = 1;
}

ousac_status ousac_loader_take(ousac_loader *l, const char *name, size_t dims, const size_t *shape,
                               const ousac_safetensors_tensor **tensor) {
    const ousac_safetensors_tensor *t = ousac_loader_find(l, name);
    if (!t)
        return ousac_loader_missing(l, name);
    char want[128] = "", have[256] = "";
    int same = t->dims == dims;
    for (size_t i = 0; i < dims; i++) {
        same = same && t->shape[i] == shape[i];
        size_t at = strlen(want);
        (void)snprintf(want + at, sizeof want - at, "%s%zu", i ? ", " : "", shape[i]);
    }
    for (size_t i = 0; i < t->dims; i++) {
        size_t at = strlen(have);
        (void)snprintf(have + at, sizeof have - at, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    }
    if (!same)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: tensor %s has shape (%s), expected (%s)",
                          l->model->path, name, have, want);
    ousac_loader_mark(l, t);
    *tensor = t;
    return OUSAC_STATUS_OK;
}

void ousac_loader_hash_shape(ousac_loader *l, const char *canonical, size_t dims, const size_t *shape) {
    ousac_sha256_add_text(&l->hash, canonical);
    ousac_sha256_add_u64(&l->hash, dims);
    for (size_t i = 0; i < dims; i++)
        ousac_sha256_add_u64(&l->hash, shape[i]);
}

/* 1 where the file's tensors can stand for memory of the backend: all of them float32, as aligned as that,
 * and none to be rounded. */
static int can_stand(const ousac_loader *l) {
    const ousac_backend *be = l->model->backend;
    if (!be->host || be->bf16 || (l->options && l->options->copy_weights))
        return 0;
    for (size_t i = 0; i < ousac_safetensors_count(l->file); i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_at(l->file, i);
        if (!t->readable || t->dtype != OUSAC_DTYPE_F32 || (uintptr_t)t->data % sizeof(float))
            return 0;
    }
    return 1;
}

ousac_status ousac_loader_open_weights(ousac_loader *l, size_t copied, size_t in_place, size_t sealed) {
    const ousac_backend *be = l->model->backend;
    const int runs = l->model->use == OUSAC_MODEL_RUN, stands = can_stand(l);
    l->total = stands ? in_place : copied;
    l->model->weight_bytes = (uint64_t)l->total * sizeof(float);
    for (size_t i = 0; stands && i < ousac_safetensors_count(l->file); i++)
        l->model->weight_bytes += ousac_safetensors_at(l->file, i)->bytes;
    l->in_place = stands && runs;
    l->sealed_total = be->alloc_weights ? sealed : 0;
    l->total -= l->sealed_total;
    l->host = ousac_malloc(PART_FLOATS, sizeof *l->host);
    if (runs)
        l->weights = be->alloc(be, l->total, sizeof(float));
    if (runs && l->sealed_total)
        l->sealed = be->alloc_weights(be, l->sealed_total);
    if (!l->host || (runs && (!l->weights || (l->sealed_total && !l->sealed))))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu weights%s%s", l->model->path,
                          l->total + l->sealed_total, be->host ? "" : " on the device ",
                          be->host ? "" : be->name);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_loader_reserve(ousac_loader *l, const char *canonical, int sealed, size_t count,
                                  float **slot) {
    sealed = sealed && l->model->backend->alloc_weights;
    size_t *used = sealed ? &l->sealed_used : &l->used;
    *slot = NULL;
    if (l->model->use != OUSAC_MODEL_RUN)
        return OUSAC_STATUS_OK;
    if (count > (sealed ? l->sealed_total : l->total) - *used)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_INTERNAL, "%s: tensor %s exceeds the weights planned for",
                          l->model->path, canonical);
    *slot = (sealed ? l->sealed : l->weights) + *used;
    *used += count;
    return OUSAC_STATUS_OK;
}

static ousac_status stream_all(ousac_loader *l, const ousac_safetensors_tensor *t, float *slot) {
    return ousac_loader_stream_part(l, t, 0, t->count, slot);
}

ousac_status ousac_loader_stream_part(ousac_loader *l, const ousac_safetensors_tensor *t, uint64_t first,
                                      uint64_t total, float *slot) {
    const ousac_backend *be = l->model->backend;
    ousac_status status = OUSAC_STATUS_OK;
    for (uint64_t at = 0; at < total && !status; at += PART_FLOATS) {
        const uint64_t count = total - at < PART_FLOATS ? total - at : PART_FLOATS;
        status = ousac_safetensors_read_f32(t, first + at, count, l->host, l->error);
        if (status) {
            if (l->error && !strstr(l->error->message, l->model->path))
                ousac_error_prefix(l->error, "%s", l->model->path);
            return status;
        }
        ousac_sha256_add(&l->hash, l->host, (size_t)count * sizeof(float));
        if (slot)
            status = be->upload(be, slot + at, l->host, (size_t)count * sizeof(float), l->error);
        if (slot || l->model->use != OUSAC_MODEL_RUN)
            ousac_safetensors_drop(l->file, t, first + at, count);
    }
    return status;
}

ousac_status ousac_loader_tensor(ousac_loader *l, const char *name, const char *canonical, int sealed,
                                 const float **target, size_t dims, const size_t *shape) {
    const ousac_safetensors_tensor *t = NULL;
    float *slot = NULL;
    ousac_status status = ousac_loader_take(l, name, dims, shape, &t);
    if (!status && !l->in_place)
        status = ousac_loader_reserve(l, canonical, sealed, (size_t)t->count, &slot);
    if (status || l->model->use == OUSAC_MODEL_SHAPES)
        return status;
    ousac_loader_hash_shape(l, canonical, dims, shape);
    *target = l->in_place ? t->data : slot;
    return stream_all(l, t, slot);
}

ousac_status ousac_loader_tensors(ousac_loader *l, size_t count, const char *const *names,
                                  const char *canonical, int sealed, const float **target, size_t dims,
                                  const size_t *shape) {
    size_t size = 1, joined[OUSAC_SAFETENSORS_DIMS];
    float *slot = NULL;
    for (size_t i = 0; i < dims; i++) {
        joined[i] = shape[i] * (i ? 1 : count);
        size *= shape[i];
    }
    ousac_status status = ousac_loader_reserve(l, canonical, sealed, count * size, &slot);
    ousac_loader_hash_shape(l, canonical, dims, joined);
    *target = slot;
    for (size_t i = 0; i < count && !status; i++) {
        const ousac_safetensors_tensor *t = NULL;
        status = ousac_loader_take(l, names[i], dims, shape, &t);
        if (!status && l->model->use != OUSAC_MODEL_SHAPES)
            status = stream_all(l, t, slot ? slot + i * size : NULL);
    }
    return status;
}

ousac_status ousac_loader_close_weights(ousac_loader *l) {
    const ousac_backend *be = l->model->backend;
    for (size_t i = 0; i < ousac_safetensors_count(l->file); i++)
        if (!l->taken[i])
            return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: unknown tensor %s: %s has none of that name, so this model cannot be run",
                              l->model->path, ousac_safetensors_at(l->file, i)->name, l->what);
    /* What is not sealed where others are meets few rows alone. */
    return l->sealed_total ? OUSAC_STATUS_OK : be->prepare(be, l->total, l->weights, l->error);
}

void ousac_loader_digest(ousac_loader *l) {
    ousac_sha256_add_text(&l->hash, l->model->constants);
    ousac_sha256_end(&l->hash, l->model->digest);
    if (l->model->use == OUSAC_MODEL_SHAPES)
        l->model->digest[0] = '\0';
}
