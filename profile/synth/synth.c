#include "profile/synth/synth_family.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "formats/safetensors_write.h"

#include <inttypes.h>
#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

/* Each tensor has its own range of Philox samples: two for each part. */
enum { SAMPLES_PER_TENSOR = 16 };

/* A new family is one file and one line here. */
static const ousac_synth_family *const FAMILIES[] = {&ousac_synth_family_dit, &ousac_synth_family_pixart,
                                                     &ousac_synth_family_flux};

/* --- shapes --- */

static const ousac_synth_shape *preset_at(size_t index) {
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES; i++) {
        if (index < FAMILIES[i]->preset_count)
            return &FAMILIES[i]->presets[index];
        index -= FAMILIES[i]->preset_count;
    }
    return NULL;
}

ousac_status ousac_synth_preset(ousac_synth_shape *shape, const char *name, ousac_error *error) {
    char known[256] = "";
    const ousac_synth_shape *preset = NULL;
    for (size_t i = 0; (preset = preset_at(i)); i++) {
        if (strcmp(preset->preset, name) == 0) {
            *shape = *preset;
            return OUSAC_STATUS_OK;
        }
        const size_t at = strlen(known);
        (void)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", preset->preset);
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

int ousac_synth_needs_inputs(const ousac_synth_shape *shape) {
    return shape->family->list_inputs != NULL;
}

uint64_t ousac_synth_parameters(const ousac_synth_shape *shape) {
    ousac_synth_list list = {.shape = shape};
    shape->family->list(&list);
    return list.values;
}

/* --- what each tensor is made of --- */

static size_t elements(const ousac_synth_tensor *t) {
    size_t count = 1;
    for (size_t i = 0; i < t->dims; i++)
        count *= t->shape[i];
    return count;
}

static ousac_synth_tensor *add(ousac_synth_list *list, const char *name, ousac_synth_recipe how,
                               uint64_t sample, size_t dims, const size_t *shape) {
    ousac_synth_tensor *t = list->tensors ? &list->tensors[list->count] : &list->scratch;
    list->count++;
    memset(t, 0, sizeof *t);
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    (void)snprintf(t->digest_name, sizeof t->digest_name, "%s", name);
    t->joined = 1;
    t->recipe = how;
    t->sample = sample * SAMPLES_PER_TENSOR;
    t->dims = dims;
    memcpy(t->shape, shape, dims * sizeof *shape);
    list->values += elements(t);
    return t;
}

void ousac_synth_add_normal(ousac_synth_list *list, const char *name, uint64_t sample, double deviation,
                            size_t dims, const size_t *shape) {
    add(list, name, OUSAC_SYNTH_NORMAL, sample, dims, shape)->deviation = deviation;
}

void ousac_synth_add_rows(ousac_synth_list *list, const char *name, uint64_t sample, const double *rows,
                          size_t m, size_t n) {
    ousac_synth_tensor *t = add(list, name, OUSAC_SYNTH_NORMAL, sample, 2, (size_t[]){m, n});
    t->deviation = 1;
    t->rows = rows;
}

void ousac_synth_add_about(ousac_synth_list *list, const char *name, uint64_t sample, double mean,
                           double deviation, size_t count) {
    ousac_synth_tensor *t = add(list, name, OUSAC_SYNTH_NORMAL, sample, 1, (size_t[]){count});
    t->deviation = deviation;
    t->mean = mean;
}

void ousac_synth_add_positions(ousac_synth_list *list, const char *name, uint64_t sample) {
    (void)add(list, name, OUSAC_SYNTH_POSITIONS, sample, 3,
              (size_t[]){1, ousac_synth_tokens(list->shape), list->shape->width});
}

void ousac_synth_add_mask(ousac_synth_list *list, const char *name, uint64_t sample, int random, size_t rows,
                          size_t tokens) {
    add(list, name, OUSAC_SYNTH_MASK, sample, 2, (size_t[]){rows, tokens})->deviation = random;
}

static void add_bias(ousac_synth_list *list, const char *stem, uint64_t sample, size_t m, double bias) {
    char name[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    ousac_synth_add_normal(list, name, sample, bias, 1, (size_t[]){m});
}

void ousac_synth_add_layers(ousac_synth_list *list, const char *stem, uint64_t sample, size_t count,
                            ousac_synth_kind first, const double *gains, size_t m, size_t n, double bias) {
    char name[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    ousac_synth_tensor *t = add(list, name, OUSAC_SYNTH_LAYERS, sample, 2, (size_t[]){count * m, n});
    t->part_count = count;
    for (size_t i = 0; i < count; i++) {
        t->parts[i].kind = gains ? first : (ousac_synth_kind)(first + i);
        t->parts[i].gain = gains ? gains[i] / OUSAC_SYNTH_SILU_RMS : ousac_synth_weight_laws[first + i].gain;
    }
    add_bias(list, stem, sample + 1, count * m, bias);
}

void ousac_synth_add_linear(ousac_synth_list *list, const char *stem, uint64_t sample, double deviation,
                            size_t m, size_t n, double bias) {
    char name[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    ousac_synth_add_normal(list, name, sample, deviation, 2, (size_t[]){m, n});
    add_bias(list, stem, sample + 1, m, bias);
}

void ousac_synth_join(ousac_synth_list *list, size_t first, size_t count, size_t stride,
                      const char *digest_name) {
    for (size_t i = 0; i < count && list->tensors; i++) {
        ousac_synth_tensor *t = &list->tensors[first + i * stride];
        t->joined = i ? 0 : count;
        t->stride = stride;
        (void)snprintf(t->digest_name, sizeof t->digest_name, "%s", digest_name);
    }
}

/* --- a model's tensors, and room for one --- */

typedef struct synth {
    const ousac_synth_options *options;
    ousac_synth_list list;
    float *values; /* room for the largest */
    void *bytes;   /* the same in the file's dtype, where that is not f32 */
    uint64_t done, total;
} synth;

static void finish(synth *s) {
    ousac_free(s->list.tensors);
    ousac_free(s->values);
    ousac_free(s->bytes);
    memset(s, 0, sizeof *s);
}

static void fill(ousac_synth_list *list, size_t inputs) {
    if (inputs)
        list->shape->family->list_inputs(list, inputs);
    else
        list->shape->family->list(list);
}

/* The model's tensors, or those of an inputs file of `inputs` rows. */
static ousac_status begin(synth *s, const ousac_synth_options *options, size_t inputs, ousac_error *error) {
    ousac_synth_list counted = {.shape = &options->shape};
    size_t largest = 0;
    *s = (synth){.options = options, .list = {.shape = &options->shape}};
    if (options->dtype != OUSAC_DTYPE_F32 && options->dtype != OUSAC_DTYPE_BF16)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "synthetic weights are f32 or bf16, not %s",
                          ousac_dtype_name(options->dtype));
    fill(&counted, inputs);
    s->list.tensors = ousac_calloc(counted.count, sizeof *s->list.tensors);
    if (s->list.tensors) {
        fill(&s->list, inputs);
        for (size_t i = 0; i < s->list.count; i++)
            largest = elements(&s->list.tensors[i]) > largest ? elements(&s->list.tensors[i]) : largest;
        s->total = s->list.count;
        s->values = ousac_malloc(largest, sizeof *s->values);
        s->bytes =
            ousac_malloc(options->dtype == OUSAC_DTYPE_F32 ? 0 : largest, ousac_dtype_bytes(options->dtype));
    }
    if (!s->list.tensors || !s->values || !s->bytes) {
        finish(s);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for synthetic tensors of up to %zu values",
                          largest);
    }
    return OUSAC_STATUS_OK;
}

/* --- making one --- */

static void make_normal(const synth *s, const ousac_synth_tensor *t) {
    const size_t count = elements(t), row = count / t->shape[0];
    ousac_philox_normals(s->options->seed, OUSAC_STREAM_MATRIX, t->sample, count, s->values);
    for (size_t i = 0; i < count; i++)
        s->values[i] =
            s->values[i] * (float)(t->rows ? t->deviation * t->rows[i / row] : t->deviation) + (float)t->mean;
}

/* 1 of the first tokens of each row. */
static void make_mask(const synth *s, const ousac_synth_tensor *t) {
    for (size_t i = 0; i < t->shape[0]; i++) {
        const size_t live = t->deviation > 0
                                ? 1 + ousac_philox_below(s->options->seed, OUSAC_STREAM_MATRIX, t->sample + 1,
                                                         (uint32_t)i * 64, (uint32_t)t->shape[1])
                                : 1;
        for (size_t j = 0; j < t->shape[1]; j++)
            s->values[i * t->shape[1] + j] = j < live ? 1 : 0;
    }
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

static ousac_status make_layers(const synth *s, const ousac_synth_tensor *t, ousac_error *error) {
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
    const ousac_synth_tensor *t = &s->list.tensors[index];
    ousac_status status = OUSAC_STATUS_OK;
    if (ousac_stop_asked(s->options->stop))
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted before tensor %s", t->name);
    switch (t->recipe) {
    case OUSAC_SYNTH_NORMAL:
        make_normal(s, t);
        break;
    case OUSAC_SYNTH_POSITIONS:
        make_positions(s);
        break;
    case OUSAC_SYNTH_MASK:
        make_mask(s, t);
        break;
    case OUSAC_SYNTH_LAYERS:
        status = make_layers(s, t, error);
        break;
    }
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
    ousac_text t = {0};
    options->shape.family->config(&options->shape, &t);
    if (t.failed) {
        ousac_free(t.data);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the config of %s",
                          options->shape.preset);
    }
    *text = t.data;
    return OUSAC_STATUS_OK;
}

/* The tensors of a model, or of an inputs file of `inputs` rows. */
static ousac_status save(const ousac_synth_options *options, size_t inputs, const char *path,
                         ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    ousac_safetensors_entry *entries = NULL;
    char seed[24], depth[24], tokens[24];
    synth s;
    ousac_status status = begin(&s, options, inputs, error);
    if (status)
        return status;
    entries = ousac_calloc(s.list.count, sizeof *entries);
    if (!entries) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the list of %zu tensors", path,
                            s.list.count);
        goto done;
    }
    for (size_t i = 0; i < s.list.count; i++) {
        const ousac_synth_tensor *t = &s.list.tensors[i];
        entries[i].name = t->name;
        entries[i].dtype = options->dtype;
        entries[i].dims = t->dims;
        for (size_t k = 0; k < t->dims; k++)
            entries[i].shape[k] = t->shape[k];
    }
    (void)snprintf(seed, sizeof seed, "%" PRIu64, options->seed);
    (void)snprintf(depth, sizeof depth, "%zu", shape->depth);
    (void)snprintf(tokens, sizeof tokens, "%zu", ousac_synth_tokens(shape));
    const ousac_safetensors_pair metadata[] = {{"synthetic", "true"}, {"preset", shape->preset},
                                               {"seed", seed},        {"depth", depth},
                                               {"tokens", tokens},    {"ousac_version", OUSAC_VERSION}};
    status = ousac_safetensors_save(path, metadata, sizeof metadata / sizeof *metadata, entries, s.list.count,
                                    lend, &s, error);
done:
    ousac_free(entries);
    finish(&s);
    return status;
}

ousac_status ousac_synth_save_model(const ousac_synth_options *options, const char *path,
                                    ousac_error *error) {
    return save(options, 0, path, error);
}

ousac_status ousac_synth_save_inputs(const ousac_synth_options *options, size_t rows, const char *path,
                                     ousac_error *error) {
    if (!ousac_synth_needs_inputs(&options->shape))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a %s takes no captions: there are no inputs to write",
                          options->shape.preset);
    if (!rows)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "inputs of 0 rows: expected at least 1");
    return save(options, rows, path, error);
}

/* Adds a tensor's values to the digest. */
static ousac_status hash_values(synth *s, size_t index, ousac_sha256 *hash, ousac_error *error) {
    const void *data = NULL;
    const ousac_status status = lend(s, index, &data, error);
    if (!status)
        ousac_sha256_add(hash, s->values, elements(&s->list.tensors[index]) * sizeof *s->values);
    return status;
}

/* As profile/model/load.h has it: names, shapes and values in order, then the constants. */
ousac_status ousac_synth_model_digest(const ousac_synth_options *options, char digest[OUSAC_DIGEST_CHARS],
                                      ousac_error *error) {
    char constants[OUSAC_CONSTANTS_BYTES];
    ousac_sha256 hash;
    synth s;
    ousac_status status = begin(&s, options, 0, error);
    if (status)
        return status;
    ousac_sha256_begin(&hash);
    for (size_t i = 0; i < s.list.count && !status; i++) {
        const ousac_synth_tensor *t = &s.list.tensors[i];
        if (!t->joined)
            continue;
        ousac_sha256_add_text(&hash, t->digest_name);
        ousac_sha256_add_u64(&hash, t->dims);
        size_t rows = 0;
        for (size_t j = 0; j < t->joined; j++)
            rows += t[j * t->stride].shape[0];
        for (size_t k = 0; k < t->dims; k++)
            ousac_sha256_add_u64(&hash, k ? t->shape[k] : rows);
        for (size_t j = 0; j < t->joined && !status; j++)
            status = hash_values(&s, i + j * t->stride, &hash, error);
    }
    options->shape.family->constants(&options->shape, constants);
    ousac_sha256_add_text(&hash, constants);
    ousac_sha256_end(&hash, digest);
    finish(&s);
    return status;
}
