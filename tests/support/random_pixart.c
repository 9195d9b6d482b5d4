#include "tests/support/random_pixart.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "tests/support/write_safetensors.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FREQUENCIES = 256, STREAM = 1010, NAME_BYTES = 96, PATH_BYTES = 1024, OUTSIDE = 24, IN_BLOCK = 21 };

/* Tensors under way to a file; owns names and values. */
typedef struct draft {
    uint64_t seed;
    write_tensor *tensors;
    char (*names)[NAME_BYTES];
    size_t count, room;
    int failed;
} draft;

static void begin(draft *t, uint64_t seed, size_t room) {
    *t = (draft){.seed = seed, .room = room};
    t->tensors = ousac_calloc(room, sizeof *t->tensors);
    t->names = ousac_calloc(room, sizeof *t->names);
    t->failed = !t->tensors || !t->names;
}

static void end(draft *t) {
    for (size_t i = 0; i < t->count; i++)
        ousac_free((void *)(uintptr_t)t->tensors[i].data);
    ousac_free(t->tensors);
    ousac_free(t->names);
}

/* The next tensor: normals of the given deviation; its values, or NULL. */
static float *add(draft *t, const char *name, size_t dims, const size_t *shape, double deviation) {
    size_t count = 1;
    for (size_t i = 0; i < dims; i++)
        count *= shape[i];
    float *values = t->failed || t->count == t->room ? NULL : ousac_malloc(count, sizeof *values);
    if (!values) {
        t->failed = 1;
        return NULL;
    }
    ousac_philox_normals(t->seed, STREAM, t->count, count, values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(deviation * (double)values[i]);
    write_tensor *tensor = &t->tensors[t->count];
    (void)snprintf(t->names[t->count], NAME_BYTES, "%s", name);
    *tensor =
        (write_tensor){.name = t->names[t->count], .dtype = OUSAC_DTYPE_F32, .dims = dims, .data = values};
    for (size_t i = 0; i < dims; i++)
        tensor->shape[i] = shape[i];
    t->count++;
    return values;
}

static void add_linear(draft *t, const char *stem, size_t m, size_t n) {
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    (void)add(t, name, 2, (size_t[]){m, n}, 1 / sqrt((double)n));
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    (void)add(t, name, 1, &m, 0.2);
}

static void add_block(draft *t, const random_pixart_options *o, size_t block) {
    static const char *const attention[] = {"to_q", "to_k", "to_v", "to_out.0"};
    char stem[NAME_BYTES];
    for (int which = 1; which <= 2; which++)
        for (size_t i = 0; i < 4; i++) {
            (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn%d.%s", block, which, attention[i]);
            add_linear(t, stem, o->width, o->width);
        }
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.ff.net.0.proj", block);
    add_linear(t, stem, o->hidden, o->width);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.ff.net.2", block);
    add_linear(t, stem, o->width, o->hidden);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.scale_shift_table", block);
    (void)add(t, stem, 2, (size_t[]){6, o->width}, 0.5);
}

static ousac_status write_model(const char *directory, const random_pixart_options *o, ousac_error *error) {
    const size_t d = o->width, third = d / 3,
                 out = o->patch * o->patch * o->channels * (o->learn_sigma ? 2 : 1);
    char path[PATH_BYTES];
    draft t;
    begin(&t, o->seed, OUTSIDE + IN_BLOCK * o->depth);
    (void)add(&t, "pos_embed.proj.weight", 4, (size_t[]){d, o->channels, o->patch, o->patch},
              1 / sqrt((double)(o->channels * o->patch * o->patch)));
    (void)add(&t, "pos_embed.proj.bias", 1, &d, 0.2);
    add_linear(&t, "adaln_single.emb.timestep_embedder.linear_1", d, FREQUENCIES);
    add_linear(&t, "adaln_single.emb.timestep_embedder.linear_2", d, d);
    if (o->micro) {
        add_linear(&t, "adaln_single.emb.resolution_embedder.linear_1", third, FREQUENCIES);
        add_linear(&t, "adaln_single.emb.resolution_embedder.linear_2", third, third);
        add_linear(&t, "adaln_single.emb.aspect_ratio_embedder.linear_1", third, FREQUENCIES);
        add_linear(&t, "adaln_single.emb.aspect_ratio_embedder.linear_2", third, third);
    }
    add_linear(&t, "adaln_single.linear", 6 * d, d);
    add_linear(&t, "caption_projection.linear_1", d, o->caption_channels);
    add_linear(&t, "caption_projection.linear_2", d, d);
    for (size_t b = 0; b < o->depth; b++)
        add_block(&t, o, b);
    (void)add(&t, "scale_shift_table", 2, (size_t[]){2, d}, 0.5);
    add_linear(&t, "proj_out", out, d);
    (void)snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors", directory);
    const ousac_status status =
        t.failed ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the checkpoint", directory)
                 : write_safetensors(path, t.tensors, t.count, &(write_metadata){"format", "pt"}, 1, error);
    end(&t);
    return status;
}

static ousac_status write_config(const char *directory, const random_pixart_options *o, ousac_error *error) {
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    if (!file)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write: %s", path, strerror(errno));
    (void)fprintf(file,
                  "{\n  \"_class_name\": \"PixArtTransformer2DModel\",\n  \"num_attention_heads\": %zu,\n"
                  "  \"attention_head_dim\": %zu,\n  \"sample_size\": %zu,\n  \"patch_size\": %zu,\n"
                  "  \"use_additional_conditions\": %s,\n  \"caption_tokens\": %zu,\n",
                  o->heads, o->width / o->heads, o->sample_size, o->patch, o->micro ? "true" : "false",
                  o->caption_tokens);
    if (o->interpolation > 0)
        (void)fprintf(file, "  \"interpolation_scale\": %.17g,\n", o->interpolation);
    (void)fprintf(file, "  %s\n  \"norm_type\": \"ada_norm_single\"\n}\n", o->more ? o->more : "");
    int lost = ferror(file);
    lost |= fclose(file);
    return lost ? OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write", path) : OUSAC_STATUS_OK;
}

/* Rows of 1, all, 2, 3... tokens. */
static void fill_mask(float *mask, size_t rows, size_t tokens) {
    for (size_t i = 0; mask && i < rows; i++)
        for (size_t j = 0; j < tokens; j++)
            mask[i * tokens + j] = j < (i == 0 ? 1 : i == 1 ? tokens : i) ? 1 : 0;
}

static ousac_status write_inputs(const char *directory, const random_pixart_options *o, ousac_error *error) {
    const size_t M = o->caption_tokens, embeds[] = {o->rows, M, o->caption_channels}, mask[] = {o->rows, M};
    char path[PATH_BYTES];
    draft t;
    begin(&t, o->seed + 1, 6);
    (void)add(&t, "prompt_embeds", 3, embeds, 1);
    fill_mask(add(&t, "prompt_mask", 2, mask, 1), o->rows, M);
    if (o->negative) {
        (void)add(&t, "negative_prompt_embeds", 3, embeds, 1);
        fill_mask(add(&t, "negative_prompt_mask", 2, mask, 1), o->rows, M);
    }
    if (o->micro) {
        float *size = add(&t, "resolution", 2, (size_t[]){o->rows, 2}, 1);
        float *ratio = add(&t, "aspect_ratio", 2, (size_t[]){o->rows, 1}, 1);
        for (size_t i = 0; size && ratio && i < o->rows; i++) {
            size[2 * i] = 512;
            size[2 * i + 1] = (float)(512 - 128 * (i % 3));
            ratio[i] = size[2 * i] / size[2 * i + 1];
        }
    }
    (void)snprintf(path, sizeof path, "%s/inputs.safetensors", directory);
    const ousac_status status =
        t.failed ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the inputs", directory)
                 : write_safetensors(path, t.tensors, t.count, NULL, 0, error);
    end(&t);
    return status;
}

random_pixart_options random_pixart_defaults(void) {
    return (random_pixart_options){.seed = 1,
                                   .depth = 2,
                                   .width = 24,
                                   .heads = 2,
                                   .hidden = 40,
                                   .patch = 2,
                                   .channels = 3,
                                   .sample_size = 6,
                                   .caption_tokens = 5,
                                   .caption_channels = 7,
                                   .rows = 3,
                                   .micro = 1,
                                   .learn_sigma = 1,
                                   .negative = 1};
}

ousac_status random_pixart_write(const char *directory, const random_pixart_options *options,
                                 ousac_error *error) {
    ousac_status status = write_model(directory, options, error);
    if (!status)
        status = write_config(directory, options, error);
    return status ? status : write_inputs(directory, options, error);
}
