#include "profile/model/inputs.h"

#include "formats/memory.h"
#include "formats/safetensors.h"

#include <stdio.h>
#include <string.h>

/* Values that are looked at together, at most, where rows are longer. */
enum { BLOCK = 1 << 16 };

struct ousac_inputs {
    char *path;
    ousac_safetensors *file;
    const ousac_safetensors_tensor *tensor[OUSAC_INPUT_COUNT]; /* NULL where it is not there */
    size_t rows;
    char digest[OUSAC_DIGEST_CHARS];
};

static const struct {
    const char *name;
    size_t dims;
} KINDS[OUSAC_INPUT_COUNT] = {
    {"label", 1},
    {"prompt_embeds", 3},
    {"prompt_mask", 2},
    {"pooled", 2},
    {"negative_prompt_embeds", 3},
    {"negative_prompt_mask", 2},
    {"negative_pooled", 2},
    {"guidance", 1},
    {"resolution", 2},
    {"aspect_ratio", 2},
    {"noise", 4},
};

const char *ousac_input_name(ousac_input input) {
    return (unsigned)input < OUSAC_INPUT_COUNT ? KINDS[input].name : "?";
}

static int is_mask(ousac_input input) {
    return input == OUSAC_INPUT_PROMPT_MASK || input == OUSAC_INPUT_NEGATIVE_PROMPT_MASK;
}

static int64_t label_at(const ousac_safetensors_tensor *t, uint64_t row) {
    const unsigned char *at = (const unsigned char *)t->data + row * (t->bytes / t->count);
    int64_t wide = 0;
    int32_t narrow = 0;
    if (t->bytes / t->count == sizeof wide) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    memcpy(&narrow, at, sizeof narrow);
    return narrow;
}

/* Checks every label, and adds them to the digest. */
static ousac_status look_at_labels(const ousac_inputs *in, const ousac_safetensors_tensor *t,
                                   ousac_sha256 *hash, ousac_error *error) {
    for (uint64_t i = 0; i < t->count; i++) {
        const int64_t label = label_at(t, i);
        if (label < 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "%s: tensor label: row %llu is %lld; expected 0 or more", in->path,
                              (unsigned long long)i, (long long)label);
        ousac_sha256_add_u64(hash, (unsigned long long)label);
    }
    return OUSAC_STATUS_OK;
}

/* The same of the values of another input. */
static ousac_status look_at_values(const ousac_inputs *in, ousac_input input, ousac_sha256 *hash,
                                   ousac_error *error) {
    const ousac_safetensors_tensor *t = in->tensor[input];
    ousac_status status = OUSAC_STATUS_OK;
    float *block = ousac_malloc(BLOCK, sizeof *block);
    if (!block)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory to read it", in->path);
    for (uint64_t at = 0; at < t->count && !status; at += BLOCK) {
        const uint64_t count = t->count - at < BLOCK ? t->count - at : BLOCK;
        status = ousac_safetensors_read_f32(t, at, count, block, error);
        if (status)
            (void)ousac_error_prefix(error, "%s", in->path);
        for (uint64_t i = 0; i < count && !status && is_mask(input); i++)
            if (block[i] != 0 && block[i] != 1)
                status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                                    "%s: tensor %s: element %llu is %g; expected 0 or 1", in->path, t->name,
                                    (unsigned long long)(at + i), (double)block[i]);
        if (!status)
            ousac_sha256_add(hash, block, (size_t)count * sizeof *block);
        ousac_safetensors_drop(in->file, t, at, count);
    }
    ousac_free(block);
    return status;
}

static ousac_status take(ousac_inputs *in, const ousac_safetensors_tensor *t, ousac_error *error) {
    int input = 0;
    while (input < OUSAC_INPUT_COUNT && strcmp(t->name, KINDS[input].name) != 0)
        input++;
    if (input == OUSAC_INPUT_COUNT)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor %.80s: no input has that name", in->path,
                          t->name);
    if (t->dims != KINDS[input].dims || !t->count)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s has %zu dimensions, %llu values; expected %zu, at least one",
                          in->path, t->name, t->dims, (unsigned long long)t->count, KINDS[input].dims);
    if (input == OUSAC_INPUT_LABEL ? strcmp(t->dtype_name, "I64") != 0 && strcmp(t->dtype_name, "I32") != 0
                                   : !t->readable)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor %s is %.16s; expected %s", in->path,
                          t->name, t->dtype_name,
                          input == OUSAC_INPUT_LABEL ? "I64 or I32" : "F32, F16, BF16 or F64");
    if (in->rows && t->shape[0] != in->rows)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor %s has %llu rows, others %zu", in->path,
                          t->name, (unsigned long long)t->shape[0], in->rows);
    in->rows = (size_t)t->shape[0];
    in->tensor[input] = t;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_inputs_open(ousac_inputs **inputs, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_sha256 hash;
    ousac_inputs *in = ousac_calloc(1, sizeof *in);
    *inputs = NULL;
    if (!in || !(in->path = ousac_strdup(path))) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", path);
        goto done;
    }
    if ((status = ousac_safetensors_open(&in->file, path, error)))
        goto done;
    for (size_t i = 0; i < ousac_safetensors_count(in->file) && !status; i++)
        status = take(in, ousac_safetensors_at(in->file, i), error);
    if (!status && !in->rows)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: holds no input", path);
    ousac_sha256_begin(&hash);
    ousac_sha256_add_text(&hash, "ousac-inputs-1");
    for (int input = 0; input < OUSAC_INPUT_COUNT && !status; input++) {
        const ousac_safetensors_tensor *t = in->tensor[input];
        if (!t)
            continue;
        ousac_sha256_add_text(&hash, t->name);
        ousac_sha256_add_u64(&hash, t->dims);
        for (size_t d = 0; d < t->dims; d++)
            ousac_sha256_add_u64(&hash, t->shape[d]);
        status = input == OUSAC_INPUT_LABEL ? look_at_labels(in, t, &hash, error)
                                            : look_at_values(in, (ousac_input)input, &hash, error);
    }
    ousac_sha256_end(&hash, in->digest);
    if (status)
        goto done;
    *inputs = in;
    in = NULL;
done:
    ousac_inputs_close(in);
    return status;
}

void ousac_inputs_close(ousac_inputs *inputs) {
    if (!inputs)
        return;
    ousac_safetensors_close(inputs->file);
    ousac_free(inputs->path);
    ousac_free(inputs);
}

const char *ousac_inputs_digest(const ousac_inputs *inputs) {
    return inputs->digest;
}

size_t ousac_inputs_rows(const ousac_inputs *inputs) {
    return inputs->rows;
}

int ousac_inputs_has(const ousac_inputs *inputs, ousac_input input) {
    return inputs && inputs->tensor[input];
}

ousac_status ousac_inputs_expect(const ousac_inputs *inputs, ousac_input input, int required, size_t dims,
                                 const size_t *shape, ousac_error *error) {
    const ousac_safetensors_tensor *t = inputs->tensor[input];
    if (!t && required)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: no tensor %s, which the model needs", inputs->path,
                          KINDS[input].name);
    for (size_t i = 0; t && i < dims; i++)
        if (t->shape[1 + i] != shape[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "%s: tensor %s: dimension %zu is %llu; the model has %zu", inputs->path,
                              t->name, 1 + i, (unsigned long long)t->shape[1 + i], shape[i]);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_inputs_refuse_others(const ousac_inputs *inputs, unsigned taken, const char *family,
                                        ousac_error *error) {
    for (int input = 0; input < OUSAC_INPUT_COUNT; input++)
        if (inputs->tensor[input] && !(taken & 1U << input))
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "%s: tensor %s: a model of family %s has no such input", inputs->path,
                              KINDS[input].name, family);
    return OUSAC_STATUS_OK;
}

void ousac_inputs_read(const ousac_inputs *inputs, ousac_input input, uint64_t sample, float *values) {
    const ousac_safetensors_tensor *t = inputs->tensor[input];
    const uint64_t size = t->count / inputs->rows;
    /* every value has been read once, so this cannot fail */
    (void)ousac_safetensors_read_f32(t, sample % inputs->rows * size, size, values, NULL);
}

uint64_t ousac_inputs_label(const ousac_inputs *inputs, uint64_t sample) {
    return (uint64_t)label_at(inputs->tensor[OUSAC_INPUT_LABEL], sample % inputs->rows);
}
