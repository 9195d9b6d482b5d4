#include "profile/synth/synth_family.h"

#include <math.h>
#include <stdio.h>

enum { BLOCK_TENSORS = 10, FIRST_BLOCK_SAMPLE = 64, FREQUENCIES = OUSAC_SYNTH_FREQUENCIES };

#define DIT(...)                                                                                             \
    { .family = &ousac_synth_family_dit, __VA_ARGS__ }
#define SHAPE(name, blocks, d, h, n_heads, c, size, sigma)                                                   \
    DIT(.preset = (name), .depth = (blocks), .width = (d), .hidden = (h), .heads = (n_heads), .patch = 2,    \
        .channels = (c), .input_size = (size), .classes = 1000, .learn_sigma = (sigma))
static const ousac_synth_shape PRESETS[] = {
    SHAPE("DiT-XL/2", 28, 1152, 4608, 16, 4, 32, 1), SHAPE("DiT-L/2", 24, 1024, 4096, 16, 4, 32, 1),
    SHAPE("DiT-B/2", 12, 768, 3072, 12, 4, 32, 1), SHAPE("DiT-S/2", 12, 384, 1536, 6, 4, 32, 1),
    SHAPE("FLUX-shape", 57, 3072, 12288, 24, 16, 128, 0)};

/* Biases are about as large as the shipped model's. Embeddings: of unit noise, patches become rows of
 * variance 1, beside positions of variance 1/2; timestep and label together a condition of variance 1. */
static void add_outer(ousac_synth_list *l) {
    const ousac_synth_shape *shape = l->shape;
    const size_t d = shape->width, p = shape->patch, c = shape->channels;
    ousac_synth_add_normal(l, "x_embedder.proj.weight", 0, 1 / sqrt((double)(c * p * p)), 4,
                           (size_t[]){d, c, p, p});
    ousac_synth_add_normal(l, "x_embedder.proj.bias", 1, 0.03, 1, (size_t[]){d});
    ousac_synth_add_positions(l, "pos_embed", 2);
    ousac_synth_add_linear(l, "t_embedder.mlp.0", 3, sqrt(2.0 / FREQUENCIES), d, FREQUENCIES, 0.02);
    ousac_synth_add_linear(l, "t_embedder.mlp.2", 5, 0.8 / (OUSAC_SYNTH_SILU_RMS * sqrt((double)d)), d, d,
                           0.05);
    ousac_synth_add_normal(l, "y_embedder.embedding_table.weight", 7, 0.6, 2,
                           (size_t[]){shape->classes + 1, d});
}

static void add_block(ousac_synth_list *l, size_t block) {
    const size_t d = l->shape->width, h = l->shape->hidden;
    const uint64_t sample = FIRST_BLOCK_SAMPLE + block * BLOCK_TENSORS;
    char stem[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "blocks.%zu.attn.qkv", block);
    ousac_synth_add_layers(l, stem, sample, 3, OUSAC_SYNTH_Q, NULL, d, d, 0.03);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.attn.proj", block);
    ousac_synth_add_layers(l, stem, sample + 2, 1, OUSAC_SYNTH_PROJ, NULL, d, d, 0.01);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.mlp.fc1", block);
    ousac_synth_add_layers(l, stem, sample + 4, 1, OUSAC_SYNTH_FC1, NULL, h, d, 0.02);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.mlp.fc2", block);
    ousac_synth_add_layers(l, stem, sample + 6, 1, OUSAC_SYNTH_FC2, NULL, d, h, 0.01);
    (void)snprintf(stem, sizeof stem, "blocks.%zu.adaLN_modulation.1", block);
    ousac_synth_add_layers(l, stem, sample + 8, 6, OUSAC_SYNTH_MODULATION, ousac_synth_modulations, d, d,
                           0.02);
}

static void list(ousac_synth_list *l) {
    const ousac_synth_shape *shape = l->shape;
    const size_t d = shape->width,
                 out = shape->patch * shape->patch * shape->channels * (shape->learn_sigma ? 2 : 1);
    add_outer(l);
    for (size_t b = 0; b < shape->depth; b++)
        add_block(l, b);
    ousac_synth_add_layers(l, "final_layer.adaLN_modulation.1", 8, 2, OUSAC_SYNTH_MODULATION,
                           ousac_synth_modulations + 6, d, d, 0.02);
    ousac_synth_add_linear(l, "final_layer.linear", 10, 0.7 / sqrt((double)d), out, d, 0.01);
}

static void config(const ousac_synth_shape *shape, ousac_text *t) {
    ousac_text_add(t,
                   "{\n \"synthetic\": \"%s\",\n \"input_size\": %zu,\n \"patch_size\": %zu,\n"
                   " \"in_channels\": %zu,\n \"hidden_size\": %zu,\n \"depth\": %zu,\n \"num_heads\": %zu,\n"
                   " \"num_classes\": %zu,\n \"learn_sigma\": %s,\n"
                   " \"betas\": \"linear 1e-4 0.02 1000\",\n \"prediction\": \"epsilon\"\n}\n",
                   shape->preset, shape->input_size, shape->patch, shape->channels, shape->width,
                   shape->depth, shape->heads, shape->classes, shape->learn_sigma ? "true" : "false");
}

static void constants(const ousac_synth_shape *shape, char text[OUSAC_CONSTANTS_BYTES]) {
    const double eps = (double)1e-6f;
    (void)snprintf(text, OUSAC_CONSTANTS_BYTES,
                   "dit heads=%zu denominator=%.17g eps=%.9g,%.9g,%.9g classes=%zu", shape->heads,
                   (double)FREQUENCIES / 2, eps, eps, eps, shape->classes);
}

static ousac_status arch(const ousac_synth_shape *shape, ousac_arch *made, ousac_error *error) {
    return ousac_arch_create_dit(made, shape->depth, ousac_synth_tokens(shape), shape->width, shape->hidden,
                                 error);
}

static const size_t GROUP[] = {0, 1, 2, 3}, SITE[] = {0, 1, 2, 3, 4, 5}, MODULE[] = {0, 1};

const ousac_synth_family ousac_synth_family_dit = {.name = "dit",
                                                   .presets = PRESETS,
                                                   .preset_count = sizeof PRESETS / sizeof *PRESETS,
                                                   .list = list,
                                                   .config = config,
                                                   .constants = constants,
                                                   .arch = arch,
                                                   .map = {4, 6, 2, GROUP, SITE, MODULE}};
