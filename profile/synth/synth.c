#include "profile/synth/synth.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "formats/safetensors_write.h"
#include "profile/files/text.h"
#include "profile/synth/synth_law.h"

#include <inttypes.h>
#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

enum {
    FREQUENCIES = 256, /* of the timestep's features, as in every public DiT */
    OUTER_TENSORS = 12,
    BLOCK_TENSORS = 10,
    NAME_BYTES = 64,
    PARTS_MAX = 6,
    /* Each tensor has its own range of Philox samples: two for each part. */
    SAMPLES_PER_TENSOR = 16,
    FIRST_BLOCK_SAMPLE = 64
};
/* Root mean square of silu(z), z standard normal: what the modulation's layers see. */
#define SILU_RMS 0.5963

static const ousac_synth_shape PRESETS[] = {
    {"DiT-XL/2", 28, 1152, 4608, 16, 2, 4, 32, 1000, 1},
    {"DiT-L/2", 24, 1024, 4096, 16, 2, 4, 32, 1000, 1},
    {"DiT-B/2", 12, 768, 3072, 12, 2, 4, 32, 1000, 1},
    {"DiT-S/2", 12, 384, 1536, 6, 2, 4, 32, 1000, 1},
    {"FLUX-shape", 57, 3072, 12288, 24, 2, 16, 128, 1000, 0},
};
enum { PRESET_COUNT = sizeof PRESETS / sizeof *PRESETS };

/* --- shapes --- */

const char *ousac_synth_preset_name(size_t index) {
    return index < PRESET_COUNT ? PRESETS[index].preset : NULL;
}

ousac_status ousac_synth_preset(ousac_synth_shape *shape, const char *name, ousac_error *error) {
    char known[256] = "";
    for (size_t i = 0; i < PRESET_COUNT; i++) {
        if (strcmp(PRESETS[i].preset, name) == 0) {
            *shape = PRESETS[i];
            return OUSAC_STATUS_OK;
        }
        const size_t at = strlen(known);
        (void)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", PRESETS[i].preset);
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown preset '%.40s'; expected one of %s", name, known);
}

ousac_status ousac_synth_set_tokens(ousac_synth_shape *shape, size_t tokens, ousac_error *error) {
    const size_t side = (size_t)(sqrt((double)tokens) + 0.5);
    if (side < 1 || side > 4096 || side * side != tokens)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu tokens: expected a square, 1 to 4096^2", tokens);
    shape->input_size = side * shape->patch;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_synth_set_input_size(ousac_synth_shape *shape, size_t input_size, ousac_error *error) {
    if (input_size < 1 || input_size > 4096 * shape->patch || input_size % shape->patch)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "input size %zu: expected a multiple of the patch, %zu",
                          input_size, shape->patch);
    shape->input_size = input_size;
    return OUSAC_STATUS_OK;
}

size_t ousac_synth_tokens(const ousac_synth_shape *shape) {
    const size_t side = shape->input_size / shape->patch;
    return side * side;
}

/* --- what each tensor is made of --- */

typedef enum recipe { RECIPE_NORMAL, RECIPE_POSITIONS, RECIPE_LAYERS } recipe;

/* One layer W (m, n) of a tensor; its parts stand one below the other. */
typedef struct part {
    ousac_synth_kind kind;
    double gain;
} part;

typedef struct tensor {
    char name[NAME_BYTES];
    size_t dims;
    size_t shape[4];
    recipe recipe;
    double deviation; /* of NORMAL */
    size_t part_count;
    part parts[PARTS_MAX];
    uint64_t sample; /* of Philox */
} tensor;

typedef struct synth {
    const ousac_synth_options *options;
    tensor *tensors; /* in the order of the model's digest */
    size_t count;
    float *values; /* room for the largest */
    void *bytes;   /* the same in the file's dtype, where that is not f32 */
    uint64_t done, total;
} synth;

static size_t elements(const tensor *t) {
    size_t count = 1;
    for (size_t i = 0; i < t->dims; i++)
        count *= t->shape[i];
    return count;
}

static tensor *add(synth *s, const char *name, recipe how, uint64_t sample, size_t dims,
                   const size_t *shape) {
    tensor *t = &s->tensors[s->count++];
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    t->recipe = how;
    t->sample = sample * SAMPLES_PER_TENSOR;
    t->dims = dims;
    memcpy(t->shape, shape, dims * sizeof *shape);
    return t;
}

/* A vector or matrix of independent normals. */
static void add_normal(synth *s, const char *name, uint64_t sample, double deviation, size_t dims,
                       const size_t *shape) {
    add(s, name, RECIPE_NORMAL, sample, dims, shape)->deviation = deviation;
}

/* STEM.weight of parts (m, n) with a prescribed spectrum and STEM.bias; `gains` NULL for those fitted. */
static void add_layers(synth *s, const char *stem, uint64_t sample, size_t count, ousac_synth_kind first,
                       const double *gains, size_t m, size_t n, double bias) {
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    tensor *t = add(s, name, RECIPE_LAYERS, sample, 2, (size_t[]){count * m, n});
    t->part_count = count;
    for (size_t i = 0; i < count; i++) {
        t->parts[i].kind = gains ? first : (ousac_synth_kind)(first + i);
        t->parts[i].gain = gains ? gains[i] / SILU_RMS : ousac_synth_weight_laws[first + i].gain;
    }
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    add_normal(s, name, sample + 1, bias, 1, (size_t[]){count * m});
}

/* Biases are about as large as the shipped model's. Embeddings: of unit noise, patches become rows of
 * variance 1, beside positions of variance 1/2; timestep and label together a condition of variance 1. */
static void add_outer(synth *s) {
    const ousac_synth_shape *shape = &s->options->shape;
    const size_t d = shape->width, p = shape->patch, c = shape->channels;
    add_normal(s, "x_embedder.proj.weight", 0, 1 / sqrt((double)(c * p * p)), 4, (size_t[]){d, c, p, p});
    add_normal(s, "x_embedder.proj.bias", 1, 0.03, 1, (size_t[]){d});
    (void)add(s, "pos_embed", RECIPE_POSITIONS, 2, 3, (size_t[]){1, ousac_synth_tokens(shape), d});
    add_normal(s, "t_embedder.mlp.0.weight", 3, sqrt(2.0 / FREQUENCIES), 2, (size_t[]){d, FREQUENCIES});
    add_normal(s, "t_embedder.mlp.0.bias", 4, 0.02, 1, (size_t[]){d});
    add_normal(s, "t_embedder.mlp.2.weight", 5, 0.8 / (SILU_RMS * sqrt((double)d)), 2, (size_t[]){d, d});
    add_normal(s, "t_embedder.mlp.2.bias", 6, 0.05, 1, (size_t[]){d});
    add_normal(s, "y_embedder.embedding_table.weight", 7, 0.6, 2, (size_t[]){shape->classes + 1, d});
}

static void add_block(synth *s, size_t block) {
    const ousac_synth_shape *shape = &s->options->shape;
    const size_t d = shape->width, h = shape->hidden;
    const uint64_t sample = FIRST_BLOCK_SAMPLE + block * BLOCK_TENSORS;
    char stem[NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "blocks.%zu.attn.qkv", block);
    add_layers(s, stem, sample, 3, OUSAC_SYNTH_Q, NULL, d, d, 0.03);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.attn.proj", block);
    add_layers(s, stem, sample + 2, 1, OUSAC_SYNTH_PROJ, NULL, d, d, 0.01);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.mlp.fc1", block);
    add_layers(s, stem, sample + 4, 1, OUSAC_SYNTH_FC1, NULL, h, d, 0.02);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.mlp.fc2", block);
    add_layers(s, stem, sample + 6, 1, OUSAC_SYNTH_FC2, NULL, d, h, 0.01);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.adaLN_modulation.1", block);
    add_layers(s, stem, sample + 8, 6, OUSAC_SYNTH_MODULATION, ousac_synth_modulations, d, d, 0.02);
}

static void add_final(synth *s) {
    const ousac_synth_shape *shape = &s->options->shape;
    const size_t d = shape->width,
                 out = shape->patch * shape->patch * shape->channels * (shape->learn_sigma ? 2 : 1);
    add_layers(s, "final_layer.adaLN_modulation.1", 8, 2, OUSAC_SYNTH_MODULATION, ousac_synth_modulations + 6,
               d, d, 0.02);
    add_normal(s, "final_layer.linear.weight", 10, 0.7 / sqrt((double)d), 2, (size_t[]){out, d});
    add_normal(s, "final_layer.linear.bias", 11, 0.01, 1, (size_t[]){out});
}

static void finish(synth *s) {
    ousac_free(s->tensors);
    ousac_free(s->values);
    ousac_free(s->bytes);
    memset(s, 0, sizeof *s);
}

static ousac_status begin(synth *s, const ousac_synth_options *options, ousac_error *error) {
    size_t largest = 0;
    *s = (synth){.options = options};
    if (options->dtype != OUSAC_DTYPE_F32 && options->dtype != OUSAC_DTYPE_BF16)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "synthetic weights are f32 or bf16, not %s",
                          ousac_dtype_name(options->dtype));
    s->tensors = ousac_calloc(OUTER_TENSORS + options->shape.depth * BLOCK_TENSORS, sizeof *s->tensors);
    if (s->tensors) {
        add_outer(s);
        for (size_t b = 0; b < options->shape.depth; b++)
            add_block(s, b);
        add_final(s);
        for (size_t i = 0; i < s->count; i++)
            largest = elements(&s->tensors[i]) > largest ? elements(&s->tensors[i]) : largest;
        s->total = s->count;
        s->values = ousac_malloc(largest, sizeof *s->values);
        s->bytes =
            ousac_malloc(options->dtype == OUSAC_DTYPE_F32 ? 0 : largest, ousac_dtype_bytes(options->dtype));
    }
    if (!s->tensors || !s->values || !s->bytes) {
        finish(s);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for synthetic tensors of up to %zu values",
                          largest);
    }
    return OUSAC_STATUS_OK;
}

/* --- making one --- */

static void make_normal(const synth *s, const tensor *t) {
    const size_t count = elements(t);
    ousac_philox_normals(s->options->seed, OUSAC_STREAM_MATRIX, t->sample, count, s->values);
    for (size_t i = 0; i < count; i++)
        s->values[i] *= (float)t->deviation;
}

/* 2-D sines and cosines (as the public DiT has them, after MAE): the first half of the channels from the
 * column, the second from the row; in each half sines, then cosines, of position / 10000^(i / (d / 4)). */
static void make_positions(const synth *s) {
    const ousac_synth_shape *shape = &s->options->shape;
    const size_t d = shape->width, quarter = d / 4, side = shape->input_size / shape->patch;
    for (size_t j = 0; j < d; j++) {
        const double rate = pow(10000, -(double)(j % quarter) / (double)quarter);
        for (size_t token = 0; token < side * side; token++) {
            const double phase = rate * (double)(j < d / 2 ? token % side : token / side);
            s->values[token * d + j] = (float)(j / quarter % 2 ? cos(phase) : sin(phase));
        }
    }
}

static ousac_status make_layers(const synth *s, const tensor *t, ousac_error *error) {
    const size_t m = t->shape[0] / t->part_count, n = t->shape[1], order = m < n ? m : n;
    double *sigma = ousac_malloc(order, sizeof *sigma);
    ousac_status status = OUSAC_STATUS_OK;
    if (!sigma)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the spectrum of %s", t->name);
    for (size_t p = 0; p < t->part_count && !status; p++) {
        /* ||W||_F^2 = m gain^2 is the sum of the squares */
        const double scale = t->parts[p].gain * sqrt((double)m / (double)order);
        ousac_decay_fill(&ousac_synth_weight_laws[t->parts[p].kind].decay, order, 2, sigma);
        for (size_t i = 0; i < order; i++)
            sigma[i] *= scale;
        status = ousac_prescribed_weight(m, n, sigma, s->options->seed, t->sample + 2 * p,
                                         s->options->threads, s->values + p * m * n, error);
    }
    ousac_free(sigma);
    return status;
}

/* Lends tensor `index` in the file's dtype; s->values hold the same in f32, rounded to that dtype. */
static ousac_status lend(void *self, size_t index, const void **data, ousac_error *error) {
    synth *s = self;
    const tensor *t = &s->tensors[index];
    ousac_status status = OUSAC_STATUS_OK;
    if (ousac_stop_asked(s->options->stop))
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted before tensor %s", t->name);
    if (t->recipe == RECIPE_NORMAL)
        make_normal(s, t);
    else if (t->recipe == RECIPE_POSITIONS)
        make_positions(s);
    else
        status = make_layers(s, t, error);
    *data = s->values;
    if (!status && s->options->dtype != OUSAC_DTYPE_F32) {
        (void)ousac_dtype_from_f32(s->options->dtype, s->values, elements(t), s->bytes);
        (void)ousac_dtype_to_f32(s->options->dtype, s->bytes, elements(t), s->values);
        *data = s->bytes;
    }
    if (s->options->progress)
        s->options->progress(s->options->progress_self, ++s->done, s->total);
    return status;
}

/* --- the files --- */

ousac_status ousac_synth_config(const ousac_synth_options *options, char **text, ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    ousac_text t = {0};
    ousac_text_add(&t,
                   "{\n \"synthetic\": \"%s\",\n \"input_size\": %zu,\n \"patch_size\": %zu,\n"
                   " \"in_channels\": %zu,\n \"hidden_size\": %zu,\n \"depth\": %zu,\n \"num_heads\": %zu,\n"
                   " \"num_classes\": %zu,\n \"learn_sigma\": %s,\n"
                   " \"betas\": \"linear 1e-4 0.02 1000\",\n \"prediction\": \"epsilon\"\n}\n",
                   shape->preset, shape->input_size, shape->patch, shape->channels, shape->width,
                   shape->depth, shape->heads, shape->classes, shape->learn_sigma ? "true" : "false");
    if (t.failed) {
        ousac_free(t.data);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the config of %s", shape->preset);
    }
    *text = t.data;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_synth_save_model(const ousac_synth_options *options, const char *path,
                                    ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    ousac_safetensors_entry *entries = NULL;
    char seed[24], depth[24], tokens[24];
    synth s;
    ousac_status status = begin(&s, options, error);
    if (status)
        return status;
    entries = ousac_calloc(s.count, sizeof *entries);
    if (!entries) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the list of %zu tensors", path,
                            s.count);
        goto done;
    }
    for (size_t i = 0; i < s.count; i++) {
        entries[i].name = s.tensors[i].name;
        entries[i].dtype = options->dtype;
        entries[i].dims = s.tensors[i].dims;
        for (size_t k = 0; k < s.tensors[i].dims; k++)
            entries[i].shape[k] = s.tensors[i].shape[k];
    }
    (void)snprintf(seed, sizeof seed, "%" PRIu64, options->seed);
    (void)snprintf(depth, sizeof depth, "%zu", shape->depth);
    (void)snprintf(tokens, sizeof tokens, "%zu", ousac_synth_tokens(shape));
    const ousac_safetensors_pair metadata[] = {{"synthetic", "true"}, {"preset", shape->preset},
                                               {"seed", seed},        {"depth", depth},
                                               {"tokens", tokens},    {"ousac_version", OUSAC_VERSION}};
    status = ousac_safetensors_save(path, metadata, sizeof metadata / sizeof *metadata, entries, s.count,
                                    lend, &s, error);
done:
    ousac_free(entries);
    finish(&s);
    return status;
}

uint64_t ousac_synth_parameters(const ousac_synth_shape *shape) {
    const uint64_t d = shape->width, h = shape->hidden, p2 = shape->patch * shape->patch,
                   out = p2 * shape->channels * (shape->learn_sigma ? 2 : 1);
    const uint64_t block = 3 * d * d + 3 * d + d * d + d + 2 * h * d + h + d + 6 * d * d + 6 * d;
    return shape->depth * block + d * p2 * shape->channels + d + ousac_synth_tokens(shape) * d +
           d * FREQUENCIES + d * d + 2 * d + (shape->classes + 1) * d + 2 * d * d + 2 * d + out * d + out;
}

/* The digest of profile/model/dit_load.c: names, shapes and values in order, then the constants. */
ousac_status ousac_synth_model_digest(const ousac_synth_options *options, char digest[OUSAC_DIGEST_CHARS],
                                      ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    const double eps = (double)1e-6f;
    char constants[160];
    ousac_sha256 hash;
    synth s;
    ousac_status status = begin(&s, options, error);
    if (status)
        return status;
    ousac_sha256_begin(&hash);
    for (size_t i = 0; i < s.count && !status; i++) {
        const tensor *t = &s.tensors[i];
        const void *data = NULL;
        status = lend(&s, i, &data, error);
        ousac_sha256_add_text(&hash, t->name);
        ousac_sha256_add_u64(&hash, t->dims);
        for (size_t k = 0; k < t->dims; k++)
            ousac_sha256_add_u64(&hash, t->shape[k]);
        ousac_sha256_add(&hash, s.values, elements(t) * sizeof *s.values);
    }
    (void)snprintf(constants, sizeof constants,
                   "dit heads=%zu denominator=%.17g eps=%.9g,%.9g,%.9g classes=%zu", shape->heads,
                   (double)FREQUENCIES / 2, eps, eps, eps, shape->classes);
    ousac_sha256_add_text(&hash, constants);
    ousac_sha256_end(&hash, digest);
    finish(&s);
    return status;
}
