/* FLUX.1 dev and schnell at 1024 pixels, under diffusers' names. Of `depth` blocks the first third, rounded up, are double
 * and the rest single, as in the public models. What a DiT's laws say of its layers is taken for both streams and both
 * kinds of blocks, of which nothing is measured. */
#include "profile/model/flux.h"
#include "profile/synth/synth_family.h"

#include <math.h>
#include <stdio.h>

enum {
    FREQUENCIES = OUSAC_SYNTH_FREQUENCIES,
    /* Numbers of tensors: outside, of a double block's halves, of single blocks. */
    FIRST_DOUBLE = 64,
    HALF_TENSORS = 32,
    FIRST_SINGLE = 1 << 16,
    SINGLE_TENSORS = 32,
    FIRST_INPUT = 1 << 24
};

#define FLUX(name, tokens, told)                                                                             \
    {                                                                                                        \
        .family = &ousac_synth_family_flux, .preset = (name), .depth = 57, .width = 3072, .hidden = 12288,   \
        .heads = 24, .patch = OUSAC_FLUX_PATCH, .channels = 16, .input_size = 128,                           \
        .caption_tokens = (tokens), .caption_channels = 4096, .pooled_channels = 768, .guided = (told)       \
    }
static const ousac_synth_shape PRESETS[] = {FLUX("FLUX.1-dev", 512, 1), FLUX("FLUX.1-schnell", 256, 0)};

static size_t doubles_of(const ousac_synth_shape *shape) {
    return (shape->depth + 2) / 3;
}

/* At least one, without which it is no FLUX. */
static size_t singles_of(const ousac_synth_shape *shape) {
    return shape->depth > 1 ? shape->depth - doubles_of(shape) : 1;
}

/* Under the authors' name in the digest. */
static void add_linear(ousac_synth_list *l, const char *name, const char *digest, uint64_t sample,
                       double deviation, size_t m, size_t n, double bias) {
    static const char *const kinds[] = {"weight", "bias"};
    const size_t first = l->count;
    char text[OUSAC_SYNTH_NAME_BYTES];
    ousac_synth_add_linear(l, name, sample, deviation, m, n, bias);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(text, sizeof text, "%s.%s", digest, kinds[i]);
        ousac_synth_join(l, first + i, 1, 1, text);
    }
}

/* Layers of the kinds `kind` (NULL: modulations of the gains) that the digest takes as one. */
typedef struct layer {
    const char *name;
    ousac_synth_kind kind;
    size_t m, n;
    double bias;
} layer;

static void add_layers(ousac_synth_list *l, const char *prefix, const char *digest, uint64_t sample,
                       const layer *layers, size_t count) {
    static const char *const kinds[] = {"weight", "bias"};
    const size_t first = l->count;
    char text[OUSAC_SYNTH_NAME_BYTES];
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(text, sizeof text, "%s.%s", prefix, layers[i].name);
        ousac_synth_add_layers(l, text, sample + 2 * i, 1, layers[i].kind, NULL, layers[i].m, layers[i].n,
                               layers[i].bias);
    }
    for (size_t i = 0; i < 2; i++) { /* every second tensor */
        (void)snprintf(text, sizeof text, "%s.%s", digest, kinds[i]);
        ousac_synth_join(l, first + i, count, 2, text);
    }
}

static void add_modulation(ousac_synth_list *l, const char *name, const char *digest, uint64_t sample,
                           size_t parts, const double *gains) {
    static const char *const kinds[] = {"weight", "bias"};
    const size_t d = l->shape->width, first = l->count;
    char text[OUSAC_SYNTH_NAME_BYTES];
    ousac_synth_add_layers(l, name, sample, parts, OUSAC_SYNTH_MODULATION, gains, d, d, 0.02);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(text, sizeof text, "%s.%s", digest, kinds[i]);
        ousac_synth_join(l, first + i, 1, 1, text);
    }
}

/* The weights of a norm over a head are about 1. */
static void add_norm(ousac_synth_list *l, const char *name, const char *digest, uint64_t sample) {
    const size_t first = l->count;
    ousac_synth_add_about(l, name, sample, 1, 0.1, l->shape->width / l->shape->heads);
    ousac_synth_join(l, first, 1, 1, digest);
}

static void add_half(ousac_synth_list *l, size_t block, int text) {
    const size_t d = l->shape->width, h = l->shape->hidden;
    const uint64_t sample = FIRST_DOUBLE + (2 * block + (size_t)text) * HALF_TENSORS;
    const char *letters = text ? "txt" : "img", *ff = text ? "ff_context" : "ff";
    const layer qkv[] = {{text ? "attn.add_q_proj" : "attn.to_q", OUSAC_SYNTH_Q, d, d, 0.03},
                         {text ? "attn.add_k_proj" : "attn.to_k", OUSAC_SYNTH_K, d, d, 0.03},
                         {text ? "attn.add_v_proj" : "attn.to_v", OUSAC_SYNTH_V, d, d, 0.03}};
    const layer proj[] = {{text ? "attn.to_add_out" : "attn.to_out.0", OUSAC_SYNTH_PROJ, d, d, 0.01}};
    char name[OUSAC_SYNTH_NAME_BYTES], digest[OUSAC_SYNTH_NAME_BYTES], part[2][OUSAC_SYNTH_NAME_BYTES];
#define NAME(...) ((void)snprintf(name, sizeof name, "transformer_blocks.%zu" __VA_ARGS__), name)
#define DIGEST(rest)                                                                                         \
    ((void)snprintf(digest, sizeof digest, "double_blocks.%zu.%s_" rest, block, letters), digest)
    add_modulation(l, NAME(".norm1%s.linear", block, text ? "_context" : ""), DIGEST("mod.lin"), sample, 6,
                   ousac_synth_modulations);
    add_layers(l, NAME("", block), DIGEST("attn.qkv"), sample + 2, qkv, 3);
    add_norm(l, NAME(".attn.norm_%sq.weight", block, text ? "added_" : ""),
             DIGEST("attn.norm.query_norm.scale"), sample + 8);
    add_norm(l, NAME(".attn.norm_%sk.weight", block, text ? "added_" : ""),
             DIGEST("attn.norm.key_norm.scale"), sample + 9);
    add_layers(l, NAME("", block), DIGEST("attn.proj"), sample + 10, proj, 1);
    for (size_t i = 0; i < 2; i++) {
        const layer fc = {part[i], i ? OUSAC_SYNTH_FC2 : OUSAC_SYNTH_FC1, i ? d : h, i ? h : d,
                          i ? 0.01 : 0.02};
        (void)snprintf(part[i], sizeof part[i], "%s.net.%s", ff, i ? "2" : "0.proj");
        add_layers(l, NAME("", block), i ? DIGEST("mlp.2") : DIGEST("mlp.0"), sample + 12 + 2 * i, &fc, 1);
    }
#undef NAME
#undef DIGEST
}

static void add_single(ousac_synth_list *l, size_t block) {
    const size_t d = l->shape->width, h = l->shape->hidden;
    const uint64_t sample = FIRST_SINGLE + block * SINGLE_TENSORS;
    const layer first[] = {{"attn.to_q", OUSAC_SYNTH_Q, d, d, 0.03},
                           {"attn.to_k", OUSAC_SYNTH_K, d, d, 0.03},
                           {"attn.to_v", OUSAC_SYNTH_V, d, d, 0.03},
                           {"proj_mlp", OUSAC_SYNTH_FC1, h, d, 0.02}};
    const layer last[] = {{"proj_out", OUSAC_SYNTH_FC2, d, d + h, 0.01}};
    char name[OUSAC_SYNTH_NAME_BYTES], digest[OUSAC_SYNTH_NAME_BYTES];
#define NAME(rest) ((void)snprintf(name, sizeof name, "single_transformer_blocks.%zu" rest, block), name)
#define DIGEST(rest) ((void)snprintf(digest, sizeof digest, "single_blocks.%zu." rest, block), digest)
    add_modulation(l, NAME(".norm.linear"), DIGEST("modulation.lin"), sample, 3, ousac_synth_modulations);
    add_layers(l, NAME(""), DIGEST("linear1"), sample + 2, first, 4);
    add_norm(l, NAME(".attn.norm_q.weight"), DIGEST("norm.query_norm.scale"), sample + 10);
    add_norm(l, NAME(".attn.norm_k.weight"), DIGEST("norm.key_norm.scale"), sample + 11);
    add_layers(l, NAME(""), DIGEST("linear2"), sample + 12, last, 1);
#undef NAME
#undef DIGEST
}

/* Of features or a pooled text of unit variance; `out`: what its embedding has. */
static void add_embedder(ousac_synth_list *l, const char *name, const char *digest, uint64_t sample,
                         double first, size_t n, double out) {
    const size_t d = l->shape->width;
    char stem[OUSAC_SYNTH_NAME_BYTES], canonical[OUSAC_SYNTH_NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "time_text_embed.%s.linear_1", name);
    (void)snprintf(canonical, sizeof canonical, "%s.in_layer", digest);
    add_linear(l, stem, canonical, sample, first, d, n, 0.02);
    (void)snprintf(stem, sizeof stem, "time_text_embed.%s.linear_2", name);
    (void)snprintf(canonical, sizeof canonical, "%s.out_layer", digest);
    add_linear(l, stem, canonical, sample + 2, out / (OUSAC_SYNTH_SILU_RMS * sqrt((double)d)), d, d, 0.05);
}

static void list(ousac_synth_list *l) {
    const ousac_synth_shape *shape = l->shape;
    const size_t d = shape->width, packed = shape->patch * shape->patch * shape->channels;
    const double waves = sqrt(2.0 / FREQUENCIES), share = 1 / sqrt(shape->guided ? 3 : 2);
    const double final[2] = {ousac_synth_modulations[7], ousac_synth_modulations[6]}; /* scale, shift */
    add_linear(l, "x_embedder", "img_in", 0, 1 / sqrt((double)packed), d, packed, 0.03);
    add_linear(l, "context_embedder", "txt_in", 2, 1 / sqrt((double)shape->caption_channels), d,
               shape->caption_channels, 0.02);
    add_embedder(l, "timestep_embedder", "time_in", 4, waves, FREQUENCIES, share);
    add_embedder(l, "text_embedder", "vector_in", 8, 1 / sqrt((double)shape->pooled_channels),
                 shape->pooled_channels, share);
    if (shape->guided)
        add_embedder(l, "guidance_embedder", "guidance_in", 12, waves, FREQUENCIES, share);
    for (size_t b = 0; b < doubles_of(shape); b++) {
        add_half(l, b, 0);
        add_half(l, b, 1);
    }
    for (size_t b = 0; b < singles_of(shape); b++)
        add_single(l, b);
    add_modulation(l, "norm_out.linear", "final_layer.adaLN_modulation.1", 16, 2, final);
    add_linear(l, "proj_out", "final_layer.linear", 18, 0.7 / sqrt((double)d), packed, d, 0.01);
}

/* Random texts; a scale of about 3.5 where one is told. No second branch: the public models are distilled. */
static void list_inputs(ousac_synth_list *l, size_t rows) {
    const ousac_synth_shape *shape = l->shape;
    ousac_synth_add_normal(l, "prompt_embeds", FIRST_INPUT, 1, 3,
                           (size_t[]){rows, shape->caption_tokens, shape->caption_channels});
    ousac_synth_add_normal(l, "pooled", FIRST_INPUT + 1, 1, 2, (size_t[]){rows, shape->pooled_channels});
    if (shape->guided)
        ousac_synth_add_about(l, "guidance", FIRST_INPUT + 2, 3.5, 0, rows);
}

/* Channels of a head for each axis of the positions: 16, 56, 56 of 128. */
static void axes_of(const ousac_synth_shape *shape, size_t axes[OUSAC_FLUX_AXES]) {
    const size_t width = shape->width / shape->heads;
    axes[1] = axes[2] = width * 7 / 16 / 2 * 2;
    axes[0] = width - 2 * axes[1];
}

static void config(const ousac_synth_shape *shape, ousac_text *t) {
    size_t axes[OUSAC_FLUX_AXES];
    axes_of(shape, axes);
    ousac_text_add(
        t,
        "{\n \"_class_name\": \"FluxTransformer2DModel\",\n \"synthetic\": \"%s\",\n"
        " \"sample_size\": %zu,\n \"text_tokens\": %zu,\n \"patch_size\": 1,\n \"in_channels\": %zu,\n"
        " \"num_layers\": %zu,\n \"num_single_layers\": %zu,\n \"num_attention_heads\": %zu,\n"
        " \"attention_head_dim\": %zu,\n \"joint_attention_dim\": %zu,\n"
        " \"pooled_projection_dim\": %zu,\n \"guidance_embeds\": %s,\n"
        " \"axes_dims_rope\": [%zu, %zu, %zu]\n}\n",
        shape->preset, shape->input_size, shape->caption_tokens,
        shape->patch * shape->patch * shape->channels, doubles_of(shape), singles_of(shape), shape->heads,
        shape->width / shape->heads, shape->caption_channels, shape->pooled_channels,
        shape->guided ? "true" : "false", axes[0], axes[1], axes[2]);
}

static void constants(const ousac_synth_shape *shape, char text[OUSAC_CONSTANTS_BYTES]) {
    size_t axes[OUSAC_FLUX_AXES];
    axes_of(shape, axes);
    (void)snprintf(text, OUSAC_CONSTANTS_BYTES, "flux heads=%zu axes=%zu,%zu,%zu theta=10000 eps=1e-6",
                   shape->heads, axes[0], axes[1], axes[2]);
}

static ousac_status arch(const ousac_synth_shape *shape, ousac_arch *made, ousac_error *error) {
    const size_t image = ousac_synth_tokens(shape);
    const ousac_flux sizes = {.d = shape->width,
                              .hidden = shape->hidden,
                              .heads = shape->heads,
                              .head_dim = shape->width / shape->heads,
                              .doubles = doubles_of(shape),
                              .singles = singles_of(shape),
                              .image = image,
                              .text = shape->caption_tokens,
                              .joint = image + shape->caption_tokens};
    return ousac_arch_create_flux(made, &sizes, error);
}

static const size_t GROUP[OUSAC_FLUX_DOUBLE_GROUPS] = {0, 0, 1, 1, 2, 3, 2, 3},
                    SITE[OUSAC_FLUX_DOUBLE_SITES] = {0, 1, 2, 0, 1, 2, 3, 3, 4, 5, 4, 5},
                    MODULE[OUSAC_FLUX_DOUBLE_MODULES] = {0, 1, 1};
static const size_t LATER_GROUP[OUSAC_FLUX_SINGLE_GROUPS] = {0, 3},
                    LATER_SITE[OUSAC_FLUX_SINGLE_SITES] = {0, 1, 2, 4, 5}, LATER_MODULE[1] = {0};

const ousac_synth_family ousac_synth_family_flux = {
    .name = "flux",
    .presets = PRESETS,
    .preset_count = sizeof PRESETS / sizeof *PRESETS,
    .list = list,
    .list_inputs = list_inputs,
    .config = config,
    .constants = constants,
    .arch = arch,
    .map = {OUSAC_FLUX_DOUBLE_GROUPS, OUSAC_FLUX_DOUBLE_SITES, OUSAC_FLUX_DOUBLE_MODULES, GROUP, SITE,
            MODULE},
    .first_blocks = doubles_of,
    .later = {OUSAC_FLUX_SINGLE_GROUPS, OUSAC_FLUX_SINGLE_SITES, 1, LATER_GROUP, LATER_SITE, LATER_MODULE}};
