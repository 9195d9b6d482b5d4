#include "formats/memory.h"
#include "profile/model/dit.h"
#include "profile/model/noise.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Far above every published model; keeps products of sizes that no tensor has confirmed yet from overflowing.
 */
enum { WIDTH_MAX = 1 << 20, BLOCKS_MAX = 4096, ROWS_MAX = 1 << 24 };

/* The paper's training schedule (arXiv 2212.09748, section 4, after ADM), where the config has no "betas". */
static const char DEFAULT_BETAS[] = "linear 1e-4 0.02 1000";

typedef enum layout { LAYOUT_PUBLIC, LAYOUT_DIFFUSERS } layout;

/* Suffixes of a block's tensors in both layouts; %s is "weight" or "bias". */
typedef enum part { PART_QKV, PART_PROJ, PART_FC1, PART_FC2, PART_MODULATION, PART_COUNT } part;
static const char *const PUBLIC_PART[PART_COUNT] = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2",
                                                    "adaLN_modulation.1"};
static const char *const DIFFUSERS_PART[PART_COUNT] = {NULL, "attn1.to_out.0", "ff.net.0.proj", "ff.net.2",
                                                       "norm1.linear"};
static const char *const DIFFUSERS_QKV[3] = {"attn1.to_q", "attn1.to_k", "attn1.to_v"};

typedef struct loader {
    ousac_model *model;
    ousac_dit *dit;
    const ousac_safetensors *file;
    layout layout;
    cJSON *config; /* or NULL */
    const char *config_name;
    const ousac_model_options *options;
    int in_place;                     /* 1: the mapped tensors stand for memory of the backend */
    float *host;                      /* staging for a part of a tensor */
    size_t used, total;               /* floats of dit->weights */
    size_t sealed_used, sealed_total; /* of dit->sealed */
    unsigned char *taken;             /* per tensor of the file: 1 once it is used */
    ousac_sha256 hash;
    ousac_error *error;
} loader;

/* --- names and shapes --- */

static const ousac_safetensors_tensor *find(const loader *l, const char *name) {
    return ousac_safetensors_find(l->file, name);
}

static ousac_status missing(const loader *l, const char *name) {
    return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: tensor %s is missing: not a whole DiT checkpoint",
                      l->model->path, name);
}

static void block_name(char *name, const loader *l, size_t block, const char *suffix, const char *kind) {
    (void)snprintf(name, OUSAC_NAME_BYTES, "%sblocks.%zu.%s.%s",
                   l->layout == LAYOUT_PUBLIC ? "" : "transformer_", block, suffix, kind);
}

/* The file's name of a tensor outside the blocks. */
static const char *outer_name(const loader *l, const char *canonical) {
    static const char *const pairs[][2] = {
        {"x_embedder.proj.weight", "pos_embed.proj.weight"},
        {"x_embedder.proj.bias", "pos_embed.proj.bias"},
        {"pos_embed", "pos_embed.pos_embed"},
        {"t_embedder.mlp.0.weight", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight"},
        {"t_embedder.mlp.0.bias", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.bias"},
        {"t_embedder.mlp.2.weight", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.weight"},
        {"t_embedder.mlp.2.bias", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.bias"},
        {"y_embedder.embedding_table.weight",
         "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"},
        {"final_layer.adaLN_modulation.1.weight", "proj_out_1.weight"},
        {"final_layer.adaLN_modulation.1.bias", "proj_out_1.bias"},
        {"final_layer.linear.weight", "proj_out_2.weight"},
        {"final_layer.linear.bias", "proj_out_2.bias"},
    };
    if (l->layout == LAYOUT_PUBLIC)
        return canonical;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(pairs[i][0], canonical) == 0)
            return pairs[i][1];
    return canonical;
}

/* Finds a tensor of exactly the given shape. */
static ousac_status expect(const loader *l, const char *name, const ousac_safetensors_tensor **tensor,
                           size_t dims, const size_t *shape) {
    const ousac_safetensors_tensor *t = find(l, name);
    if (!t)
        return missing(l, name);
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
    *tensor = t;
    return OUSAC_STATUS_OK;
}

/* --- config --- */

/* 1 and the value where the key is a whole number in 0..2^31; 0 where it is absent; -1 on a bad value. */
static int config_number(const loader *l, const char *key, double *value) {
    const cJSON *item = l->config ? cJSON_GetObjectItemCaseSensitive(l->config, key) : NULL;
    if (!item || cJSON_IsNull(item))
        return 0;
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) || item->valuedouble < 0) {
        OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: key \"%s\": expected a number that is not negative",
                   l->config_name, key);
        return -1;
    }
    *value = item->valuedouble;
    return 1;
}

static const char *config_text(const loader *l, const char *key) {
    const cJSON *item = l->config ? cJSON_GetObjectItemCaseSensitive(l->config, key) : NULL;
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* Where the config states what the tensors already show, both must agree. */
static ousac_status config_agrees(const loader *l, const char *key, size_t value) {
    double stated;
    int have = config_number(l, key, &stated);
    if (have < 0)
        return OUSAC_STATUS_FORMAT;
    if (have && stated != (double)value)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: \"%s\" is %g, but the tensors of %s say %zu",
                          l->config_name, key, stated, l->model->path, value);
    return OUSAC_STATUS_OK;
}

static ousac_status parse_config(loader *l, const char *text) {
    if (!text)
        return OUSAC_STATUS_OK;
    l->config = cJSON_Parse(text);
    if (!cJSON_IsObject(l->config))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: not a JSON object", l->config_name);
    const char *prediction = config_text(l, "prediction");
    if (!prediction)
        prediction = config_text(l, "prediction_type");
    if (prediction && ousac_prediction_parse(&l->model->noise.prediction, prediction))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: \"%.40s\" is predicted; expected epsilon, v_prediction, flow or sample",
                          l->config_name, prediction);
    const char *activation = config_text(l, "activation_fn");
    if (activation && strcmp(activation, "gelu-approximate") != 0)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: \"activation_fn\" is \"%.40s\"; a DiT has \"gelu-approximate\"",
                          l->config_name, activation);
    const char *norm = config_text(l, "norm_type");
    if (norm && strcmp(norm, "ada_norm_zero") != 0)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: \"norm_type\" is \"%.40s\"; a DiT has \"ada_norm_zero\"", l->config_name,
                          norm);
    return OUSAC_STATUS_OK;
}

static ousac_status read_heads(loader *l) {
    ousac_dit *dit = l->dit;
    double heads = 0;
    if (l->options && l->options->heads)
        heads = (double)l->options->heads;
    else {
        int have = config_number(l, "num_heads", &heads);
        if (!have)
            have = config_number(l, "num_attention_heads", &heads);
        if (have < 0)
            return OUSAC_STATUS_FORMAT;
        if (!have)
            return OUSAC_FAIL(
                l->error, OUSAC_STATUS_FORMAT,
                "%s: the number of attention heads is not in the tensors: give `heads`, or \"num_heads\" "
                "in %s",
                l->model->path, l->config_name);
    }
    if (heads < 1 || heads > (double)dit->d || heads != floor(heads) || dit->d % (size_t)heads)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: %g heads do not divide the width %zu",
                          l->model->path, heads, dit->d);
    dit->heads = (size_t)heads;
    return OUSAC_STATUS_OK;
}

/* Which of the two runtimes' constants apply: the config's dialect decides, without one the tensor names. */
static ousac_status read_constants(loader *l) {
    ousac_dit *dit = l->dit;
    int diffusers = l->layout == LAYOUT_DIFFUSERS;
    if (l->config)
        diffusers = config_text(l, "_class_name") || cJSON_HasObjectItem(l->config, "num_attention_heads");
    dit->attn_norm_eps = dit->mlp_norm_eps = dit->final_norm_eps = 1e-6f;
    dit->frequency_denominator = (double)dit->frequencies / 2;
    if (diffusers) {
        double eps = 1e-5;
        if (config_number(l, "norm_eps", &eps) < 0)
            return OUSAC_STATUS_FORMAT;
        dit->mlp_norm_eps = (float)eps;
        dit->frequency_denominator -= 1;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_classes(loader *l) {
    ousac_dit *dit = l->dit;
    double classes;
    int have = config_number(l, "num_classes", &classes);
    if (!have)
        have = config_number(l, "num_embeds_ada_norm", &classes);
    if (have < 0)
        return OUSAC_STATUS_FORMAT;
    dit->classes = have ? (size_t)classes : dit->table_rows - 1;
    if (dit->classes < 1 || (dit->classes != dit->table_rows && dit->classes + 1 != dit->table_rows))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: %zu classes, but the embedding table of %s has %zu rows; expected %zu or %zu",
                          l->config_name, dit->classes, l->model->path, dit->table_rows, dit->classes,
                          dit->classes + 1);
    l->model->has_uncond = dit->classes + 1 == dit->table_rows;
    const cJSON *names = l->config ? cJSON_GetObjectItemCaseSensitive(l->config, "classes") : NULL;
    if (!cJSON_IsArray(names) || (size_t)cJSON_GetArraySize(names) != dit->classes)
        return OUSAC_STATUS_OK;
    dit->class_names = ousac_calloc(dit->classes, sizeof *dit->class_names);
    if (!dit->class_names)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for class names", l->model->path);
    size_t i = 0;
    const cJSON *name;
    cJSON_ArrayForEach(name, names) {
        dit->class_names[i] = ousac_strdup(cJSON_IsString(name) ? name->valuestring : "?");
        if (!dit->class_names[i++])
            return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for class names", l->model->path);
    }
    return OUSAC_STATUS_OK;
}

/* --- sizes from the tensors --- */

static ousac_status read_sizes(loader *l) {
    ousac_dit *dit = l->dit;
    const char *path = l->model->path;
    const ousac_safetensors_tensor *t;
    char name[OUSAC_NAME_BYTES];

    const char *patch_name = outer_name(l, "x_embedder.proj.weight");
    if (!(t = find(l, patch_name)))
        return missing(l, patch_name);
    if (t->dims != 4 || t->shape[2] != t->shape[3] || !t->count || t->shape[0] > WIDTH_MAX ||
        t->shape[1] > WIDTH_MAX || t->shape[2] > 4096)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (width, channels, patch, patch) without zeros", path,
                          patch_name);
    dit->d = t->shape[0], dit->channels = t->shape[1], dit->patch = t->shape[2];

    for (dit->L = 0;; dit->L++) { /* blocks are numbered from 0 without a gap */
        block_name(name, l, dit->L,
                   l->layout == LAYOUT_PUBLIC ? PUBLIC_PART[PART_FC1] : DIFFUSERS_PART[PART_FC1], "weight");
        if (!(t = find(l, name)))
            break;
        if (dit->L == 0) {
            if (t->dims != 2 || !t->count || t->shape[0] > WIDTH_MAX)
                return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                                  "%s: tensor %s: expected shape (hidden, %zu)", path, name, dit->d);
            dit->hidden = t->shape[0];
        }
    }
    if (!dit->L)
        return missing(l, name);
    if (dit->L > BLOCKS_MAX)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %d blocks", path, BLOCKS_MAX);

    const char *t_name = outer_name(l, "t_embedder.mlp.0.weight");
    if (!(t = find(l, t_name)))
        return missing(l, t_name);
    if (t->dims != 2 || t->shape[1] < 4 || t->shape[1] % 2 || t->shape[1] > 65536)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (%zu, an even number >= 4)", path, t_name, dit->d);
    dit->frequencies = t->shape[1];

    const char *y_name = outer_name(l, "y_embedder.embedding_table.weight");
    if (!(t = find(l, y_name)))
        return missing(l, y_name);
    if (t->dims != 2 || t->shape[0] < 1 || t->shape[0] > ROWS_MAX)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: tensor %s: expected shape (classes + 1, %zu)",
                          path, y_name, dit->d);
    dit->table_rows = t->shape[0];

    const char *out_name = outer_name(l, "final_layer.linear.weight");
    if (!(t = find(l, out_name)))
        return missing(l, out_name);
    size_t pixels = dit->patch * dit->patch;
    dit->out_channels = t->dims == 2 ? t->shape[0] / pixels : 0;
    if (t->dims != 2 || t->shape[0] % pixels ||
        (dit->out_channels != dit->channels && dit->out_channels != 2 * dit->channels))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected %zu rows, or %zu with learned variances", path, out_name,
                          pixels * dit->channels, 2 * pixels * dit->channels);

    const char *pos_name = outer_name(l, "pos_embed");
    double size = 0;
    int stated = config_number(l, "input_size", &size);
    if (!stated)
        stated = config_number(l, "sample_size", &size);
    if (stated < 0)
        return OUSAC_STATUS_FORMAT;
    if ((t = find(l, pos_name))) {
        if (t->dims != 3 || t->shape[0] != 1 || t->shape[1] < 1 || t->shape[1] > ROWS_MAX)
            return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT, "%s: tensor %s: expected shape (1, tokens, %zu)",
                              path, pos_name, dit->d);
        dit->N = t->shape[1];
        dit->side = (size_t)(sqrt((double)dit->N) + 0.5);
        if (dit->side * dit->side != dit->N)
            return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: tensor %s: %zu tokens are not a square", path, pos_name, dit->N);
        if (stated && size != (double)(dit->side * dit->patch))
            return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                              "%s: input size %g, but %zu tokens of patch %zu in %s make %zu", l->config_name,
                              size, dit->N, dit->patch, path, dit->side * dit->patch);
    } else if (!stated || size < 1 || size > 65536 || fmod(size, (double)dit->patch) != 0) {
        return OUSAC_FAIL(
            l->error, OUSAC_STATUS_FORMAT,
            "%s: no tensor %s, and %s gives no input size (\"input_size\" or \"sample_size\") that is a "
            "multiple of the patch %zu",
            path, pos_name, l->config_name, dit->patch);
    } else {
        dit->side = (size_t)size / dit->patch;
        dit->N = dit->side * dit->side;
        if (dit->d % 4)
            return OUSAC_FAIL(
                l->error, OUSAC_STATUS_FORMAT,
                "%s: no tensor %s, and the sine-cosine embedding needs a width divisible by 4, not %zu", path,
                pos_name, dit->d);
    }
    ousac_status status;
    if ((status = config_agrees(l, "depth", dit->L)) || (status = config_agrees(l, "num_layers", dit->L)) ||
        (status = config_agrees(l, "hidden_size", dit->d)) ||
        (status = config_agrees(l, "patch_size", dit->patch)) ||
        (status = config_agrees(l, "in_channels", dit->channels)) ||
        (status = config_agrees(l, "out_channels", dit->out_channels)))
        return status;
    return OUSAC_STATUS_OK;
}

/* --- weights --- */

/* Of a tensor at a time: 4 MiB as float32. */
enum { PART_FLOATS = 1 << 20 };

/* Finds a tensor of exactly the given shape and marks it as used. */
static ousac_status take(loader *l, const char *name, size_t dims, const size_t *shape,
                         const ousac_safetensors_tensor **tensor) {
    ousac_status status = expect(l, name, tensor, dims, shape);
    for (size_t i = 0; !status && i < ousac_safetensors_count(l->file); i++)
        if (ousac_safetensors_at(l->file, i) == *tensor)
            l->taken[i] = 1;
    return status;
}

/* Begins a tensor in the digest. */
static void hash_shape(loader *l, const char *canonical, size_t dims, const size_t *shape) {
    ousac_sha256_add_text(&l->hash, canonical);
    ousac_sha256_add_u64(&l->hash, dims);
    for (size_t i = 0; i < dims; i++)
        ousac_sha256_add_u64(&l->hash, shape[i]);
}

/* 1 where the tensor is the weight of a linear over tokens and the backend keeps such in a form of its own.
 */
static int is_sealed(const loader *l, const char *canonical) {
    return l->model->backend->alloc_weights && strstr(canonical, ".weight") &&
           !strstr(canonical, "adaLN_modulation") && !strstr(canonical, "t_embedder") &&
           !strstr(canonical, "y_embedder");
}

/* The next `count` floats of the slab of such tensors; NULL where the model is not for running. */
static ousac_status reserve(loader *l, const char *canonical, size_t count, float **slot) {
    const int sealed = is_sealed(l, canonical);
    size_t *used = sealed ? &l->sealed_used : &l->used;
    *slot = NULL;
    if (l->model->use != OUSAC_MODEL_RUN)
        return OUSAC_STATUS_OK;
    if (count > (sealed ? l->sealed_total : l->total) - *used)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_INTERNAL, "%s: tensor %s exceeds the weights planned for",
                          l->model->path, canonical);
    *slot = (sealed ? l->dit->sealed : l->dit->weights) + *used;
    *used += count;
    return OUSAC_STATUS_OK;
}

/* Checks and hashes a tensor in parts, and uploads it to `slot`, NULL for nowhere. No part of the file stays
 * in memory that is not to stand for memory of the backend. */
static ousac_status stream(loader *l, const ousac_safetensors_tensor *t, float *slot) {
    const ousac_backend *be = l->model->backend;
    ousac_status status = OUSAC_STATUS_OK;
    for (uint64_t at = 0; at < t->count && !status; at += PART_FLOATS) {
        const uint64_t count = t->count - at < PART_FLOATS ? t->count - at : PART_FLOATS;
        status = ousac_safetensors_read_f32(t, at, count, l->host, l->error);
        if (status) {
            if (l->error && !strstr(l->error->message, l->model->path))
                ousac_error_prefix(l->error, "%s", l->model->path);
            return status;
        }
        ousac_sha256_add(&l->hash, l->host, (size_t)count * sizeof(float));
        if (slot)
            status = be->upload(be, slot + at, l->host, (size_t)count * sizeof(float), l->error);
        if (slot || l->model->use != OUSAC_MODEL_RUN)
            ousac_safetensors_drop(l->file, t, at, count);
    }
    return status;
}

static ousac_status load_tensor(loader *l, const char *name, const char *canonical, const float **target,
                                size_t dims, const size_t *shape) {
    const ousac_safetensors_tensor *t = NULL;
    float *slot = NULL;
    ousac_status status = take(l, name, dims, shape, &t);
    if (!status && !l->in_place)
        status = reserve(l, canonical, (size_t)t->count, &slot);
    if (status || l->model->use == OUSAC_MODEL_SHAPES)
        return status;
    hash_shape(l, canonical, dims, shape);
    *target = l->in_place ? t->data : slot;
    return stream(l, t, slot);
}

static ousac_status load_outer(loader *l, const char *canonical, const float **target, size_t dims,
                               const size_t *shape) {
    return load_tensor(l, outer_name(l, canonical), canonical, target, dims, shape);
}

static ousac_status load_outer_linear(loader *l, const char *stem, const float **w, const float **bias,
                                      size_t m, size_t n) {
    char name[OUSAC_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    ousac_status status = load_outer(l, name, w, 2, (size_t[]){m, n});
    if (status)
        return status;
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    return load_outer(l, name, bias, 1, (size_t[]){m});
}

/* q, k and v of a block from three tensors, one after another in memory and in the digest. */
static ousac_status load_apart(loader *l, size_t block, const char *what, const char *canonical, size_t dims,
                               const float **target) {
    const size_t d = l->dit->d, size = dims == 1 ? d : d * d;
    char name[OUSAC_NAME_BYTES];
    float *slot = NULL;
    ousac_status status = reserve(l, canonical, 3 * size, &slot);
    hash_shape(l, canonical, dims, (size_t[]){3 * d, d});
    *target = slot;
    for (size_t i = 0; i < 3 && !status; i++) {
        const ousac_safetensors_tensor *t = NULL;
        block_name(name, l, block, DIFFUSERS_QKV[i], what);
        status = take(l, name, dims, (size_t[]){d, d}, &t);
        if (!status && l->model->use != OUSAC_MODEL_SHAPES)
            status = stream(l, t, slot ? slot + i * size : NULL);
    }
    return status;
}

/* q, k and v of a block, fused in the public layout and apart in the other; biases may be absent together. */
static ousac_status load_qkv(loader *l, size_t block, const float **w, const float **bias) {
    size_t d = l->dit->d;
    char name[OUSAC_NAME_BYTES], canonical[OUSAC_NAME_BYTES];
    ousac_status status = OUSAC_STATUS_OK;
    int fused = l->layout == LAYOUT_PUBLIC;
    for (int kind = 0; kind < 2 && !status; kind++) {
        const char *what = kind ? "bias" : "weight";
        const float **target = kind ? bias : w;
        block_name(name, l, block, fused ? PUBLIC_PART[PART_QKV] : DIFFUSERS_QKV[0], what);
        if (kind && !find(l, name)) {
            *bias = NULL;
            break;
        }
        (void)snprintf(canonical, sizeof canonical, "blocks.%zu.attn.qkv.%s", block, what);
        status = fused ? load_tensor(l, name, canonical, target, kind ? 1 : 2, (size_t[]){3 * d, d})
                       : load_apart(l, block, what, canonical, kind ? 1 : 2, target);
    }
    return status;
}

static ousac_status load_part(loader *l, size_t block, part which, const float **w, const float **bias,
                              size_t m, size_t n) {
    char name[OUSAC_NAME_BYTES], canonical[OUSAC_NAME_BYTES];
    ousac_status status = OUSAC_STATUS_OK;
    for (int kind = 0; kind < 2 && !status; kind++) {
        const char *what = kind ? "bias" : "weight";
        block_name(name, l, block, l->layout == LAYOUT_PUBLIC ? PUBLIC_PART[which] : DIFFUSERS_PART[which],
                   what);
        (void)snprintf(canonical, sizeof canonical, "blocks.%zu.%s.%s", block, PUBLIC_PART[which], what);
        status = load_tensor(l, name, canonical, kind ? bias : w, kind ? 1 : 2, (size_t[]){m, n});
    }
    return status;
}

/* Diffusers keeps a copy of the embedders in every block; the engine runs one, so they must be equal. */
static ousac_status check_copies(loader *l) {
    static const char *const stems[] = {
        "timestep_embedder.linear_1.weight", "timestep_embedder.linear_1.bias",
        "timestep_embedder.linear_2.weight", "timestep_embedder.linear_2.bias",
        "class_embedder.embedding_table.weight"};
    if (l->layout == LAYOUT_PUBLIC)
        return OUSAC_STATUS_OK;
    const int compares = l->model->use != OUSAC_MODEL_SHAPES;
    for (size_t s = 0; s < sizeof stems / sizeof *stems; s++) {
        char first[OUSAC_NAME_BYTES], name[OUSAC_NAME_BYTES];
        (void)snprintf(first, sizeof first, "transformer_blocks.0.norm1.emb.%s", stems[s]);
        const ousac_safetensors_tensor *reference = find(l, first), *t;
        if (!reference)
            return missing(l, first);
        for (size_t b = 1; b < l->dit->L; b++) {
            (void)snprintf(name, sizeof name, "transformer_blocks.%zu.norm1.emb.%s", b, stems[s]);
            if (!(t = find(l, name)))
                continue; /* a file may keep one copy */
            if (t->bytes != reference->bytes || strcmp(t->dtype_name, reference->dtype_name) != 0 ||
                (compares && memcmp(t->data, reference->data, t->bytes) != 0))
                return OUSAC_FAIL(
                    l->error, OUSAC_STATUS_UNSUPPORTED,
                    "%s: tensor %s differs from block 0's: blocks with embedders of their own cannot be "
                    "run",
                    l->model->path, name);
            for (size_t i = 0; i < ousac_safetensors_count(l->file); i++)
                if (ousac_safetensors_at(l->file, i) == t)
                    l->taken[i] = 1;
            ousac_safetensors_drop(l->file, t, 0, t->count);
        }
        if (!l->in_place)
            ousac_safetensors_drop(l->file, reference, 0, reference->count);
    }
    return OUSAC_STATUS_OK;
}

/* 2-D sine-cosine embedding (the DiT code's, after MAE): first half of the channels from the column, second
 * from the row, each half sines then cosines of position / 10000^(i / (d / 4)). */
static void sincos(const ousac_dit *dit, float *out) {
    size_t quarter = dit->d / 4;
    for (size_t token = 0; token < dit->N; token++)
        for (size_t half = 0; half < 2; half++) {
            double position = (double)(half == 0 ? token % dit->side : token / dit->side);
            for (size_t i = 0; i < quarter; i++) {
                double phase = position * pow(10000.0, -(double)i / (double)quarter);
                float *row = out + token * dit->d + half * 2 * quarter;
                row[i] = (float)sin(phase);
                row[quarter + i] = (float)cos(phase);
            }
        }
}

/* 1 where the file's tensors can stand for memory of the backend: all of them float32, as aligned as that,
 * and none to be rounded. */
static int can_stand(const loader *l) {
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

/* The embedding that a file lacks. */
static ousac_status make_pos_embed(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_backend *be = l->model->backend;
    const size_t count = dit->N * dit->d;
    float *slot = NULL, *made = ousac_malloc(count, sizeof *made);
    if (!made)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for the positions of %zu tokens",
                          l->model->path, dit->N);
    if (l->model->use != OUSAC_MODEL_SHAPES)
        sincos(dit, made);
    hash_shape(l, "pos_embed", 3, (size_t[]){1, dit->N, dit->d});
    if (l->model->use != OUSAC_MODEL_SHAPES)
        ousac_sha256_add(&l->hash, made, count * sizeof *made);
    ousac_status status = reserve(l, "pos_embed", count, &slot);
    dit->pos_embed = slot;
    if (!status && slot)
        status = be->upload(be, slot, made, count * sizeof *made, l->error);
    ousac_free(made);
    return status;
}

/* Floats that are copied: everything, or what the mapped file does not hold as it is needed. */
static size_t copied_floats(const loader *l) {
    const ousac_dit *dit = l->dit;
    const size_t d = dit->d, h = dit->hidden, p2 = dit->patch * dit->patch, out = p2 * dit->out_channels;
    const size_t qkv = 3 * d * d + 3 * d;
    if (l->in_place)
        return (l->layout == LAYOUT_PUBLIC ? 0 : dit->L * qkv) + dit->N * d;
    return dit->L * (qkv + d * d + d + 2 * h * d + h + d + 6 * d * d + 6 * d) + d * p2 * dit->channels + d +
           dit->N * d + d * dit->frequencies + d * d + 2 * d + dit->table_rows * d + 2 * d * d + 2 * d +
           out * d + out;
}

/* Floats of those tensors that are sealed. */
static size_t sealed_floats(const loader *l) {
    const ousac_dit *dit = l->dit;
    const size_t d = dit->d, p2 = dit->patch * dit->patch;
    return l->model->backend->alloc_weights
               ? dit->L * (4 * d * d + 2 * dit->hidden * d) + (dit->channels + dit->out_channels) * p2 * d
               : 0;
}

/* What running takes: what is copied, and what stands in the file. */
static uint64_t weight_bytes(const loader *l) {
    uint64_t bytes = (uint64_t)l->total * sizeof(float);
    for (size_t i = 0; l->in_place && i < ousac_safetensors_count(l->file); i++)
        bytes += ousac_safetensors_at(l->file, i)->bytes;
    return bytes;
}

static ousac_status load_weights(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_backend *be = l->model->backend;
    const int runs = l->model->use == OUSAC_MODEL_RUN;
    size_t d = dit->d, h = dit->hidden, out = dit->patch * dit->patch * dit->out_channels;
    l->in_place = can_stand(l);
    l->total = copied_floats(l);
    l->model->weight_bytes = weight_bytes(l);
    l->in_place = l->in_place && runs;
    l->sealed_total = sealed_floats(l);
    l->total -= l->sealed_total;
    l->host = ousac_malloc(PART_FLOATS, sizeof *l->host);
    if (runs)
        dit->weights = be->alloc(be, l->total, sizeof(float));
    if (runs && l->sealed_total)
        dit->sealed = be->alloc_weights(be, l->sealed_total);
    dit->block = ousac_calloc(dit->L, sizeof *dit->block);
    if (!l->host || (runs && (!dit->weights || (l->sealed_total && !dit->sealed))) || !dit->block)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu weights%s%s", l->model->path,
                          l->total + l->sealed_total, be->host ? "" : " on the device ",
                          be->host ? "" : be->name);

    ousac_status status;
    if ((status = load_outer(l, "x_embedder.proj.weight", &dit->patch_w, 4,
                             (size_t[]){d, dit->channels, dit->patch, dit->patch})) ||
        (status = load_outer(l, "x_embedder.proj.bias", &dit->patch_bias, 1, (size_t[]){d})))
        return status;
    if (find(l, outer_name(l, "pos_embed")))
        status = load_outer(l, "pos_embed", &dit->pos_embed, 3, (size_t[]){1, dit->N, d});
    else
        status = make_pos_embed(l);
    if (status ||
        (status = load_outer_linear(l, "t_embedder.mlp.0", &dit->t_w0, &dit->t_bias0, d, dit->frequencies)) ||
        (status = load_outer_linear(l, "t_embedder.mlp.2", &dit->t_w2, &dit->t_bias2, d, d)) ||
        (status = load_outer(l, "y_embedder.embedding_table.weight", &dit->table, 2,
                             (size_t[]){dit->table_rows, d})))
        return status;
    for (size_t b = 0; b < dit->L; b++) {
        ousac_dit_block *block = &dit->block[b];
        if ((status = load_qkv(l, b, &block->qkv, &block->qkv_bias)) ||
            (status = load_part(l, b, PART_PROJ, &block->proj, &block->proj_bias, d, d)) ||
            (status = load_part(l, b, PART_FC1, &block->fc1, &block->fc1_bias, h, d)) ||
            (status = load_part(l, b, PART_FC2, &block->fc2, &block->fc2_bias, d, h)) ||
            (status =
                 load_part(l, b, PART_MODULATION, &block->modulation, &block->modulation_bias, 6 * d, d)))
            return status;
    }
    if ((status = load_outer_linear(l, "final_layer.adaLN_modulation.1", &dit->final_modulation,
                                    &dit->final_modulation_bias, 2 * d, d)) ||
        (status = load_outer_linear(l, "final_layer.linear", &dit->final_w, &dit->final_bias, out, d)))
        return status;
    if ((status = check_copies(l)))
        return status;
    for (size_t i = 0; i < ousac_safetensors_count(l->file); i++)
        if (!l->taken[i])
            return OUSAC_FAIL(
                l->error, OUSAC_STATUS_UNSUPPORTED,
                "%s: unknown tensor %s: a DiT has none of that name, so this model cannot be run",
                l->model->path, ousac_safetensors_at(l->file, i)->name);
    /* What is not sealed where others are meets few rows alone. */
    return l->sealed_total ? OUSAC_STATUS_OK : be->prepare(be, l->total, dit->weights, l->error);
}

static ousac_status build_indices(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_backend *be = l->model->backend;
    size_t p = dit->patch, C = dit->channels, edge = dit->side * p, count = C * edge * edge;
    uint32_t *host = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (dit->N * p * p * dit->out_channels > UINT32_MAX)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_UNSUPPORTED, "%s: samples of %zu values are too large",
                          l->model->path, count);
    host = ousac_malloc(2 * count, sizeof *host);
    dit->indices = be->alloc(be, 2 * count, sizeof *host);
    if (!host || !dit->indices) {
        status = OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for patch indices", l->model->path);
        goto done;
    }
    for (size_t c = 0; c < C; c++)
        for (size_t y = 0; y < edge; y++)
            for (size_t x = 0; x < edge; x++) {
                size_t token = y / p * dit->side + x / p, row = y % p, column = x % p,
                       pixel = (c * edge + y) * edge + x;
                host[((token * C + c) * p + row) * p + column] = (uint32_t)pixel;
                host[count + pixel] = (uint32_t)(((token * p + row) * p + column) * dit->out_channels + c);
            }
    dit->patch_index = dit->indices;
    dit->unpatch_index = dit->indices + count;
    status = be->upload(be, dit->indices, host, 2 * count * sizeof *host, l->error);
done:
    ousac_free(host);
    return status;
}

/* Where the file holds the sites of a block, in the order of ousac_arch_create_dit: q, k, v, proj, fc1, fc2.
 */
static void find_sources(const loader *l, size_t block, ousac_model_source *source) {
    static const part parts[] = {PART_PROJ, PART_FC1, PART_FC2};
    const int fused = l->layout == LAYOUT_PUBLIC;
    char name[OUSAC_NAME_BYTES];
    for (size_t i = 0; i < 3; i++) {
        block_name(name, l, block, fused ? PUBLIC_PART[PART_QKV] : DIFFUSERS_QKV[i], "weight");
        source[i] = (ousac_model_source){find(l, name), fused ? i * l->dit->d * l->dit->d : 0};
        block_name(name, l, block, fused ? PUBLIC_PART[parts[i]] : DIFFUSERS_PART[parts[i]], "weight");
        source[3 + i] = (ousac_model_source){find(l, name), 0};
    }
}

static ousac_status fill_model(loader *l) {
    ousac_model *model = l->model;
    ousac_dit *dit = l->dit;
    model->channels = dit->channels;
    model->height = model->width = dit->side * dit->patch;
    double guided = (double)dit->channels;
    if (config_number(l, "guided_channels", &guided) < 0)
        return OUSAC_STATUS_FORMAT;
    if (guided < 1 || guided > (double)dit->channels || guided != floor(guided))
        return OUSAC_FAIL(l->error, OUSAC_STATUS_FORMAT,
                          "%s: key \"guided_channels\" is %g; expected 1 to %zu", l->config_name, guided,
                          dit->channels);
    model->guided_channels = (size_t)guided;
    ousac_status status = ousac_arch_create_dit(&model->arch, dit->L, dit->N, dit->d, dit->hidden, l->error);
    if (status)
        return status;
    model->weight = ousac_calloc(model->arch.site_count, sizeof *model->weight);
    model->bias = ousac_calloc(model->arch.site_count, sizeof *model->bias);
    model->source = ousac_calloc(model->arch.site_count, sizeof *model->source);
    if (!model->weight || !model->bias || !model->source)
        return OUSAC_FAIL(l->error, OUSAC_STATUS_MEMORY, "%s: no memory for the site table", model->path);
    model->sealed = dit->sealed != NULL;
    for (size_t b = 0; b < dit->L; b++)
        find_sources(l, b, model->source + b * 6);
    for (size_t b = 0; b < dit->L && model->use == OUSAC_MODEL_RUN; b++) { /* q, k, v, proj, fc1, fc2 */
        const ousac_dit_block *block = &dit->block[b];
        const float **w = model->weight + b * 6, **bias = model->bias + b * 6;
        for (size_t i = 0; i < 3; i++) {
            w[i] = block->qkv + i * dit->d * dit->d;
            bias[i] = block->qkv_bias ? block->qkv_bias + i * dit->d : NULL;
        }
        w[3] = block->proj, bias[3] = block->proj_bias;
        w[4] = block->fc1, bias[4] = block->fc1_bias;
        w[5] = block->fc2, bias[5] = block->fc2_bias;
    }
    /* What else decides the outputs. */
    (void)snprintf(model->constants, sizeof model->constants,
                   "dit heads=%zu denominator=%.17g eps=%.9g,%.9g,%.9g classes=%zu", dit->heads,
                   dit->frequency_denominator, (double)dit->attn_norm_eps, (double)dit->mlp_norm_eps,
                   (double)dit->final_norm_eps, dit->classes);
    ousac_sha256_add_text(&l->hash, model->constants);
    ousac_sha256_end(&l->hash, model->digest);
    if (model->use == OUSAC_MODEL_SHAPES)
        model->digest[0] = '\0';
    const char *betas = config_text(l, "betas");
    if ((status = ousac_noise_parse(betas ? betas : DEFAULT_BETAS, l->config_name, &model->noise, l->error)))
        return status;
    return ousac_noise_check(&model->noise, l->config_name, l->error);
}

int ousac_dit_recognises(const ousac_safetensors *file) {
    return (ousac_safetensors_find(file, "blocks.0.attn.qkv.weight") &&
            ousac_safetensors_find(file, "y_embedder.embedding_table.weight")) ||
           (ousac_safetensors_find(file, "transformer_blocks.0.attn1.to_q.weight") &&
            ousac_safetensors_find(file,
                                   "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"));
}

ousac_status ousac_dit_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                            const char *config_name, const ousac_model_options *options, ousac_error *error) {
    loader l = {.model = model, .file = file, .config_name = config_name, .options = options, .error = error};
    ousac_status status;
    l.layout = ousac_safetensors_find(file, "blocks.0.attn.qkv.weight") ? LAYOUT_PUBLIC : LAYOUT_DIFFUSERS;
    ousac_sha256_begin(&l.hash);
    l.taken = ousac_calloc(ousac_safetensors_count(file), 1);
    l.dit = ousac_calloc(1, sizeof *l.dit);
    model->state = l.dit;
    if (!l.taken || !l.dit) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", model->path);
        goto done;
    }
    if ((status = parse_config(&l, config)) || (status = read_sizes(&l)) || (status = read_heads(&l)) ||
        (status = read_constants(&l)) || (status = read_classes(&l)) || (status = load_weights(&l)) ||
        (status = build_indices(&l)) || (status = fill_model(&l)))
        goto done;
done:
    if (status && l.dit)
        ousac_dit_unload(model);
    cJSON_Delete(l.config);
    ousac_free(l.host);
    ousac_free(l.taken);
    return status;
}

void ousac_dit_unload(ousac_model *model) {
    ousac_dit *dit = model->state;
    if (!dit)
        return;
    model->backend->release(model->backend, dit->weights);
    model->backend->release(model->backend, dit->sealed);
    model->backend->release(model->backend, dit->indices);
    if (dit->class_names)
        for (size_t i = 0; i < dit->classes; i++)
            ousac_free(dit->class_names[i]);
    ousac_free(dit->class_names);
    ousac_free(dit->block);
    ousac_free(dit);
    model->state = NULL;
}
