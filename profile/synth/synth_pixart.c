/* PixArt-alpha at 256, 512 and 1024 pixels. Beside what a DiT's laws say, cross attention is taken to follow those of
 * self-attention, of which nothing is measured. */
#include "profile/model/pixart.h"
#include "profile/synth/synth_family.h"

#include <math.h>
#include <stdio.h>

enum {
    BLOCK_TENSORS = 21,
    FIRST_BLOCK_SAMPLE = 64,
    FREQUENCIES = OUSAC_SYNTH_FREQUENCIES,
    CAPTION_TOKENS = 120,
    CAPTION_CHANNELS = 4096
};

#define PIXART(name, size, told)                                                                             \
    {                                                                                                        \
        .family = &ousac_synth_family_pixart, .preset = (name), .depth = 28, .width = 1152, .hidden = 4608,  \
        .heads = 16, .patch = 2, .channels = 4, .input_size = (size), .learn_sigma = 1,                      \
        .caption_tokens = CAPTION_TOKENS, .caption_channels = CAPTION_CHANNELS, .micro = (told)              \
    }
static const ousac_synth_shape PRESETS[] = {
    PIXART("PixArt-XL/2-256", 32, 0), PIXART("PixArt-XL/2-512", 64, 0), PIXART("PixArt-XL/2-1024", 128, 1)};

/* Half of a modulation's variance is the block's table, half the timestep's, as large as a DiT's together. */
#define HALF 0.70710678118654752
static const double TABLE[6] = {0.170 * HALF, 0.467 * HALF, 0.160 * HALF,
                                0.143 * HALF, 0.597 * HALF, 0.145 * HALF};
static const double FINAL_TABLE[2] = {0.293, 0.961};

static void add_embedder(ousac_synth_list *l, const char *embedder, uint64_t sample, double out, size_t m) {
    char stem[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "adaln_single.emb.%s.linear_1", embedder);
    ousac_synth_add_linear(l, stem, sample, sqrt(2.0 / FREQUENCIES), m, FREQUENCIES, 0.02);
    (void)snprintf(stem, sizeof stem, "adaln_single.emb.%s.linear_2", embedder);
    ousac_synth_add_linear(l, stem, sample + 2, out / (OUSAC_SYNTH_SILU_RMS * sqrt((double)m)), m, m, 0.05);
}

/* q, k, v or k, v, which the digest takes as one. */
static void add_together(ousac_synth_list *l, size_t block, const char *attention, const char *letters,
                         size_t count, ousac_synth_kind kind, uint64_t sample) {
    const size_t d = l->shape->width, first = l->count;
    char name[OUSAC_SYNTH_NAME_BYTES];
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.%s.to_%c", block, attention, letters[i]);
        ousac_synth_add_layers(l, name, sample + 2 * i, 1, (ousac_synth_kind)(kind + i), NULL, d, d, 0.03);
    }
    for (size_t part = 0; part < 2; part++) { /* every second tensor */
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.%s.to_%s.%s", block, attention, letters,
                       part ? "bias" : "weight");
        ousac_synth_join(l, first + part, count, 2, name);
    }
}

static void add_block(ousac_synth_list *l, size_t block) {
    const size_t d = l->shape->width, h = l->shape->hidden;
    const uint64_t sample = FIRST_BLOCK_SAMPLE + block * BLOCK_TENSORS;
    char stem[OUSAC_SYNTH_NAME_BYTES];
    add_together(l, block, "attn1", "qkv", 3, OUSAC_SYNTH_Q, sample);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn1.to_out.0", block);
    ousac_synth_add_layers(l, stem, sample + 6, 1, OUSAC_SYNTH_PROJ, NULL, d, d, 0.01);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn2.to_q", block);
    ousac_synth_add_layers(l, stem, sample + 8, 1, OUSAC_SYNTH_Q, NULL, d, d, 0.03);
    add_together(l, block, "attn2", "kv", 2, OUSAC_SYNTH_K, sample + 10);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn2.to_out.0", block);
    ousac_synth_add_layers(l, stem, sample + 14, 1, OUSAC_SYNTH_PROJ, NULL, d, d, 0.01);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.ff.net.0.proj", block);
    ousac_synth_add_layers(l, stem, sample + 16, 1, OUSAC_SYNTH_FC1, NULL, h, d, 0.02);
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.ff.net.2", block);
    ousac_synth_add_layers(l, stem, sample + 18, 1, OUSAC_SYNTH_FC2, NULL, d, h, 0.01);
}

static void list(ousac_synth_list *l) {
    const ousac_synth_shape *shape = l->shape;
    const size_t d = shape->width, p = shape->patch, c = shape->channels,
                 out = p * p * c * (shape->learn_sigma ? 2 : 1);
    double gains[6];
    char name[OUSAC_SYNTH_NAME_BYTES];
    for (size_t i = 0; i < 6; i++)
        gains[i] = HALF * ousac_synth_modulations[i];
    ousac_synth_add_normal(l, "pos_embed.proj.weight", 0, 1 / sqrt((double)(c * p * p)), 4,
                           (size_t[]){d, c, p, p});
    ousac_synth_add_normal(l, "pos_embed.proj.bias", 1, 0.03, 1, (size_t[]){d});
    add_embedder(l, "timestep_embedder", 2, shape->micro ? 0.8 : 1, d);
    if (shape->micro) {
        add_embedder(l, "resolution_embedder", 6, 0.6, d / 3);
        add_embedder(l, "aspect_ratio_embedder", 10, 0.6, d / 3);
    }
    ousac_synth_add_layers(l, "adaln_single.linear", 14, 6, OUSAC_SYNTH_MODULATION, gains, d, d, 0.02);
    ousac_synth_add_linear(l, "caption_projection.linear_1", 16, 1 / sqrt((double)shape->caption_channels), d,
                           shape->caption_channels, 0.02);
    ousac_synth_add_linear(l, "caption_projection.linear_2", 18, 1 / (OUSAC_SYNTH_GELU_RMS * sqrt((double)d)),
                           d, d, 0.02);
    for (size_t b = 0; b < shape->depth; b++)
        add_block(l, b);
    const size_t first = l->count;
    for (size_t b = 0; b < shape->depth; b++) {
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.scale_shift_table", b);
        ousac_synth_add_rows(l, name, FIRST_BLOCK_SAMPLE + b * BLOCK_TENSORS + 20, TABLE, 6, d);
    }
    ousac_synth_join(l, first, shape->depth, 1, "transformer_blocks.scale_shift_table");
    ousac_synth_add_rows(l, "scale_shift_table", 20, FINAL_TABLE, 2, d);
    ousac_synth_add_linear(l, "proj_out", 21, 0.5 / sqrt((double)d), out, d, 0.01);
}

/* Captions of random words and lengths; of the unconditional branch one token. */
static void list_inputs(ousac_synth_list *l, size_t rows) {
    const size_t M = l->shape->caption_tokens, embeds[] = {rows, M, l->shape->caption_channels};
    ousac_synth_add_normal(l, "prompt_embeds", (uint64_t)1 << 24, 1, 3, embeds);
    ousac_synth_add_mask(l, "prompt_mask", ((uint64_t)1 << 24) + 1, 1, rows, M);
    ousac_synth_add_normal(l, "negative_prompt_embeds", ((uint64_t)1 << 24) + 2, 1, 3, embeds);
    ousac_synth_add_mask(l, "negative_prompt_mask", ((uint64_t)1 << 24) + 3, 0, rows, M);
}

static void config(const ousac_synth_shape *shape, ousac_text *t) {
    ousac_text_add(
        t,
        "{\n \"_class_name\": \"PixArtTransformer2DModel\",\n \"synthetic\": \"%s\",\n"
        " \"sample_size\": %zu,\n \"patch_size\": %zu,\n \"in_channels\": %zu,\n \"out_channels\": %zu,\n"
        " \"num_layers\": %zu,\n \"num_attention_heads\": %zu,\n \"attention_head_dim\": %zu,\n"
        " \"cross_attention_dim\": %zu,\n \"caption_channels\": %zu,\n \"caption_tokens\": %zu,\n"
        " \"use_additional_conditions\": %s,\n \"norm_type\": \"ada_norm_single\",\n"
        " \"norm_elementwise_affine\": false,\n \"norm_eps\": 1e-06\n}\n",
        shape->preset, shape->input_size, shape->patch, shape->channels,
        shape->channels * (shape->learn_sigma ? 2 : 1), shape->depth, shape->heads,
        shape->width / shape->heads, shape->width, shape->caption_channels, shape->caption_tokens,
        shape->micro ? "true" : "false");
}

static void constants(const ousac_synth_shape *shape, char text[OUSAC_CONSTANTS_BYTES]) {
    const double eps = (double)1e-6f;
    const size_t scale = shape->input_size / 64;
    (void)snprintf(text, OUSAC_CONSTANTS_BYTES,
                   "pixart heads=%zu eps=%.9g,%.9g side=%zu interpolation=%.17g caption=%zu micro=%d",
                   shape->heads, eps, eps, shape->input_size / shape->patch, scale > 1 ? (double)scale : 1.0,
                   shape->caption_tokens, shape->micro);
}

static ousac_status arch(const ousac_synth_shape *shape, ousac_arch *made, ousac_error *error) {
    const ousac_pixart sizes = {.L = shape->depth,
                                .N = ousac_synth_tokens(shape),
                                .d = shape->width,
                                .hidden = shape->hidden,
                                .caption_tokens = shape->caption_tokens,
                                .caption_channels = shape->caption_channels};
    return ousac_arch_create_pixart(made, &sizes, error);
}

static const size_t GROUP[OUSAC_PIXART_GROUPS] = {0, 1, 0, 1, 2, 3},
                    SITE[OUSAC_PIXART_SITES] = {0, 1, 2, 3, 0, 3, 4, 5},
                    MODULE[OUSAC_PIXART_MODULES] = {0, 0, 1};

const ousac_synth_family ousac_synth_family_pixart = {
    .name = "pixart",
    .presets = PRESETS,
    .preset_count = sizeof PRESETS / sizeof *PRESETS,
    .list = list,
    .list_inputs = list_inputs,
    .config = config,
    .constants = constants,
    .arch = arch,
    .map = {OUSAC_PIXART_GROUPS, OUSAC_PIXART_SITES, OUSAC_PIXART_MODULES, GROUP, SITE, MODULE}};
