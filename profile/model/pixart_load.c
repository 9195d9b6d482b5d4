#include "formats/memory.h"
#include "profile/model/load.h"
#include "profile/model/patches.h"
#include "profile/model/pixart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Far above every published model; keeps products of sizes that no tensor has confirmed yet from overflowing. */
enum {
    WIDTH_MAX = 1 << 20,
    BLOCKS_MAX = 4096,
    PIXELS = 8,
    MICRO_SAMPLE_SIZE = 128,
    ALPHA_TOKENS = 120,
    SIGMA_TOKENS = 300
};

/* That of the published schedulers, where the config has none. */
static const char DEFAULT_BETAS[] = "linear 1e-4 0.02 1000";

typedef struct loader {
    ousac_loader common;
    ousac_pixart *net;
} loader;

/* --- config --- */

/* What makes another model of a diffusers config. */
static ousac_status check_kind(loader *l) {
    static const struct {
        const char *key, *wanted;
    } texts[] = {{"activation_fn", "gelu-approximate"},
                 {"norm_type", "ada_norm_single"},
                 {"attention_type", "default"}};
    static const struct {
        const char *key;
        int wanted;
    } flags[] = {{"norm_elementwise_affine", 0},
                 {"attention_bias", 1},
                 {"double_self_attention", 0},
                 {"only_cross_attention", 0}};
    const ousac_loader *c = &l->common;
    ousac_status status = ousac_loader_lacks(c, "num_vector_embeds");
    for (size_t i = 0; i < sizeof texts / sizeof *texts && !status; i++)
        status = ousac_loader_text_is(c, texts[i].key, texts[i].wanted);
    for (size_t i = 0; i < sizeof flags / sizeof *flags && !status; i++)
        status = ousac_loader_flag_is(c, flags[i].key, flags[i].wanted);
    return status;
}

static ousac_status read_heads(loader *l) {
    ousac_pixart *net = l->net;
    const ousac_loader *c = &l->common;
    size_t heads = 0, width = 0;
    const int have = ousac_loader_size(c, "num_attention_heads", &heads);
    const int sized = have < 0 ? have : ousac_loader_size(c, "attention_head_dim", &width);
    if (have < 0 || sized < 0)
        return OUSAC_STATUS_FORMAT;
    if (c->options && c->options->heads)
        heads = c->options->heads;
    else if (!have)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: the number of attention heads is not in the tensors: give `heads`, or "
                          "\"num_attention_heads\" in %s",
                          c->model->path, c->config_name);
    else if (sized && heads * width != net->d)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: %zu heads of \"attention_head_dim\" %zu; the tensors of %s have the width %zu",
                          c->config_name, heads, width, c->model->path, net->d);
    if (heads < 1 || heads > net->d || net->d % heads)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: %zu heads do not divide the width %zu",
                          c->model->path, heads, net->d);
    net->heads = heads;
    return OUSAC_STATUS_OK;
}

/* Whether it is told sizes: the config, else diffusers' rule; the tensors must say the same. */
static ousac_status read_micro(loader *l, size_t sample_size) {
    static const char name[] = "adaln_single.emb.resolution_embedder.linear_1.weight";
    const ousac_loader *c = &l->common;
    ousac_pixart *net = l->net;
    const int has = ousac_loader_find(c, name) != NULL;
    net->micro = sample_size == MICRO_SAMPLE_SIZE;
    if (ousac_loader_flag(c, "use_additional_conditions", &net->micro) < 0)
        return OUSAC_STATUS_FORMAT;
    if (net->micro != has)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_FORMAT,
            "%s: \"use_additional_conditions\" is %s by the config or the sample size, but %s has %s "
            "%s",
            c->config_name, net->micro ? "true" : "false", c->model->path, has ? "a tensor" : "no tensor",
            name);
    if (net->micro && net->d % 3)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: a width of %zu is not divisible by 3, as micro-conditions need",
                          c->model->path, net->d);
    return OUSAC_STATUS_OK;
}

/* What no tensor tells. */
static ousac_status read_constants(loader *l) {
    ousac_pixart *net = l->net;
    const ousac_loader *c = &l->common;
    double eps = 1e-6;
    size_t size = 0, height, width, tokens = 0;
    int told = 1;
    const int stated = ousac_loader_size(c, "sample_size", &size);
    if (stated < 0 || ousac_loader_real(c, "norm_eps", &eps) < 0 ||
        ousac_loader_flag(c, "use_additional_conditions", &told) < 0)
        return OUSAC_STATUS_FORMAT;
    if (!stated || size < 1 || size > 4096 || size % net->patch)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: key \"sample_size\": expected a multiple of the patch %zu, up to 4096",
                          c->config_name, net->patch);
    height = width = size;
    if (ousac_loader_size(c, "sample_height", &height) < 0 ||
        ousac_loader_size(c, "sample_width", &width) < 0)
        return OUSAC_STATUS_FORMAT;
    if (height < 1 || width < 1 || height > 4096 || width > 4096 || height % net->patch || width % net->patch)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_FORMAT,
            "%s: a sample of %zu x %zu (\"sample_height\", \"sample_width\"): expected multiples of the "
            "patch %zu, up to 4096",
            c->config_name, height, width, net->patch);
    net->side = size / net->patch;
    net->rows = height / net->patch, net->cols = width / net->patch;
    net->N = net->rows * net->cols;
    net->pixels[0] = PIXELS * (double)height, net->pixels[1] = PIXELS * (double)width;
    if (!(eps >= 0 && eps <= 1))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: key \"norm_eps\" is %g; expected from 0 to 1",
                          c->config_name, eps);
    net->norm_eps = (float)eps;
    net->final_norm_eps = 1e-6f;
    net->interpolation = size / 64 > 1 ? (double)(size / 64) : 1;
    if (ousac_loader_real(c, "interpolation_scale", &net->interpolation) < 0)
        return OUSAC_STATUS_FORMAT;
    if (!(net->interpolation > 0))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: key \"interpolation_scale\" is %g; expected more than 0", c->config_name,
                          net->interpolation);
    tokens = told ? ALPHA_TOKENS : SIGMA_TOKENS;
    if (ousac_loader_size(c, "caption_tokens", &tokens) < 0)
        return OUSAC_STATUS_FORMAT;
    if (tokens < 1 || tokens > 65536)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: key \"caption_tokens\" is %zu; expected 1 to 65536", c->config_name, tokens);
    net->caption_tokens = tokens;
    return read_micro(l, size);
}

/* --- sizes from the tensors --- */

static ousac_status read_sizes(loader *l) {
    static const char patch_name[] = "pos_embed.proj.weight",
                      t_name[] = "adaln_single.emb.timestep_embedder.linear_1.weight",
                      caption_name[] = "caption_projection.linear_1.weight", out_name[] = "proj_out.weight";
    ousac_pixart *net = l->net;
    const ousac_loader *c = &l->common;
    const char *path = c->model->path;
    const ousac_safetensors_tensor *t;
    char name[OUSAC_NAME_BYTES];
    if (!(t = ousac_loader_find(c, patch_name)))
        return ousac_loader_missing(c, patch_name);
    if (t->dims != 4 || t->shape[2] != t->shape[3] || !t->count || t->shape[0] > WIDTH_MAX ||
        t->shape[1] > WIDTH_MAX || t->shape[2] > 4096 || t->shape[0] % 4)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_FORMAT,
            "%s: tensor %s: expected shape (width, channels, patch, patch) without zeros, the width "
            "divisible by 4",
            path, patch_name);
    net->d = t->shape[0], net->channels = t->shape[1], net->patch = t->shape[2];
    for (net->L = 0;; net->L++) { /* blocks are numbered from 0 without a gap */
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.ff.net.0.proj.weight", net->L);
        if (!(t = ousac_loader_find(c, name)))
            break;
        if (net->L == 0) {
            if (t->dims != 2 || !t->count || t->shape[0] > WIDTH_MAX)
                return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                                  "%s: tensor %s: expected shape (hidden, %zu)", path, name, net->d);
            net->hidden = t->shape[0];
        }
    }
    if (!net->L)
        return ousac_loader_missing(c, name);
    if (net->L > BLOCKS_MAX)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %d blocks", path, BLOCKS_MAX);
    if (!(t = ousac_loader_find(c, t_name)))
        return ousac_loader_missing(c, t_name);
    if (t->dims != 2 || t->shape[1] < 2 || t->shape[1] % 2 || t->shape[1] > 65536)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (%zu, an even number)", path, t_name, net->d);
    net->frequencies = t->shape[1];
    if (!(t = ousac_loader_find(c, caption_name)))
        return ousac_loader_missing(c, caption_name);
    if (t->dims != 2 || t->shape[1] < 1 || t->shape[1] > WIDTH_MAX)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (%zu, caption's channels)", path, caption_name,
                          net->d);
    net->caption_channels = t->shape[1];
    if (!(t = ousac_loader_find(c, out_name)))
        return ousac_loader_missing(c, out_name);
    const size_t pixels = net->patch * net->patch;
    net->out_channels = t->dims == 2 ? t->shape[0] / pixels : 0;
    if (t->dims != 2 || t->shape[0] % pixels ||
        (net->out_channels != net->channels && net->out_channels != 2 * net->channels))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected %zu rows, or %zu with learned variances", path, out_name,
                          pixels * net->channels, 2 * pixels * net->channels);
    const struct {
        const char *key;
        size_t value;
    } stated[] = {{"num_layers", net->L},          {"patch_size", net->patch},
                  {"in_channels", net->channels},  {"out_channels", net->out_channels},
                  {"cross_attention_dim", net->d}, {"caption_channels", net->caption_channels}};
    for (size_t i = 0; i < sizeof stated / sizeof *stated; i++) {
        const ousac_status status = ousac_loader_agrees(c, stated[i].key, stated[i].value);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

/* --- weights --- */

/* STEM.weight (m, n) and STEM.bias (m), under their own names. */
static ousac_status load_linear(loader *l, const char *stem, int sealed, ousac_pixart_linear *linear,
                                size_t m, size_t n) {
    char name[OUSAC_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", stem);
    ousac_status status =
        ousac_loader_tensor(&l->common, name, name, sealed, &linear->w, 2, (size_t[]){m, n});
    if (status)
        return status;
    (void)snprintf(name, sizeof name, "%s.bias", stem);
    return ousac_loader_tensor(&l->common, name, name, 0, &linear->bias, 1, (size_t[]){m});
}

static ousac_status load_in_block(loader *l, size_t block, const char *part, ousac_pixart_linear *linear,
                                  size_t m, size_t n) {
    char stem[OUSAC_NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.%s", block, part);
    return load_linear(l, stem, 1, linear, m, n);
}

/* `count` linears (d, d) of one input, called by the letters: q, k, v. */
static ousac_status load_together(loader *l, size_t block, const char *attention, const char *letters,
                                  size_t count, ousac_pixart_linear *linear) {
    const size_t d = l->net->d;
    char name[3][OUSAC_NAME_BYTES], canonical[OUSAC_NAME_BYTES];
    ousac_status status = OUSAC_STATUS_OK;
    for (int bias = 0; bias < 2 && !status; bias++) {
        const char *const kind = bias ? "bias" : "weight";
        for (size_t i = 0; i < count; i++)
            (void)snprintf(name[i], sizeof name[i], "transformer_blocks.%zu.%s.to_%c.%s", block, attention,
                           letters[i], kind);
        (void)snprintf(canonical, sizeof canonical, "transformer_blocks.%zu.%s.to_%s.%s", block, attention,
                       letters, kind);
        status =
            ousac_loader_tensors(&l->common, count, (const char *[]){name[0], name[1], name[2]}, canonical,
                                 !bias, bias ? &linear->bias : &linear->w, bias ? 1 : 2, (size_t[]){d, d});
    }
    return status;
}

static ousac_status load_block(loader *l, size_t b, ousac_pixart_block *block) {
    const size_t d = l->net->d, h = l->net->hidden;
    ousac_status status;
    if ((status = load_together(l, b, "attn1", "qkv", 3, &block->qkv)) ||
        (status = load_in_block(l, b, "attn1.to_out.0", &block->proj, d, d)) ||
        (status = load_in_block(l, b, "attn2.to_q", &block->cross_q, d, d)) ||
        (status = load_together(l, b, "attn2", "kv", 2, &block->cross_kv)) ||
        (status = load_in_block(l, b, "attn2.to_out.0", &block->cross_out, d, d)) ||
        (status = load_in_block(l, b, "ff.net.0.proj", &block->fc1, h, d)) ||
        (status = load_in_block(l, b, "ff.net.2", &block->fc2, d, h)))
        return status;
    return OUSAC_STATUS_OK;
}

/* The blocks' tables, one after another. */
static ousac_status load_tables(loader *l) {
    const ousac_pixart *net = l->net;
    char(*names)[OUSAC_NAME_BYTES] = ousac_calloc(net->L, sizeof *names);
    const char **pointers = ousac_calloc(net->L, sizeof *pointers);
    ousac_status status = OUSAC_STATUS_OK;
    if (!names || !pointers)
        status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu blocks",
                            l->common.model->path, net->L);
    for (size_t b = 0; b < net->L && !status; b++) {
        (void)snprintf(names[b], sizeof names[b], "transformer_blocks.%zu.scale_shift_table", b);
        pointers[b] = names[b];
    }
    if (!status)
        status = ousac_loader_tensors(&l->common, net->L, pointers, "transformer_blocks.scale_shift_table", 0,
                                      &l->net->tables, 2, (size_t[]){6, net->d});
    ousac_free(names);
    ousac_free(pointers);
    return status;
}

/* Positions, which no file holds: the sizes that they are made of are among the constants. */
static ousac_status make_positions(loader *l) {
    ousac_pixart *net = l->net;
    const ousac_backend *be = l->common.model->backend;
    float *slot = NULL, *made = NULL;
    ousac_status status = ousac_loader_reserve(&l->common, "pos_embed", 0, net->N * net->d, &slot);
    net->pos_embed = slot;
    if (status || !slot)
        return status;
    if (!(made = ousac_malloc(net->N * net->d, sizeof *made)))
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY,
                          "%s: no memory for the positions of %zu tokens", l->common.model->path, net->N);
    /* Along either axis they span what those of the square sample do. */
    ousac_patches_sincos(net->rows, net->cols, net->d,
                         (double)net->rows / (double)net->side * net->interpolation,
                         (double)net->cols / (double)net->side * net->interpolation, made);
    status = be->upload(be, slot, made, net->N * net->d * sizeof *made, l->common.error);
    ousac_free(made);
    return status;
}

/* Floats of the whole model; of those that a mapped file does not hold as they are needed; and of the weights of
 * linears over tokens. */
static void count_floats(const ousac_pixart *net, size_t *all, size_t *made, size_t *sealed) {
    const size_t d = net->d, h = net->hidden, F = net->frequencies, third = d / 3,
                 p2 = net->patch * net->patch;
    const size_t over = 8 * d * d + 2 * h * d, apart = 5 * d * d + 5 * d + 6 * d;
    *sealed = net->L * over + d * p2 * net->channels + p2 * net->out_channels * d +
              d * net->caption_channels + d * d;
    *made = net->L * apart + net->N * d;
    *all = *sealed + net->L * (8 * d + h + d + 6 * d) + d + p2 * net->out_channels + 2 * d + net->N * d +
           d * F + d * d + 2 * d + 6 * d * d + 6 * d + 2 * d +
           (net->micro ? 2 * (third * F + third * third + 2 * third) : 0);
}

static ousac_status load_weights(loader *l) {
    static const char embedder[] = "adaln_single.emb.";
    ousac_pixart *net = l->net;
    const size_t d = net->d, F = net->frequencies, third = d / 3,
                 out = net->patch * net->patch * net->out_channels;
    size_t all = 0, made = 0, sealed = 0;
    char name[OUSAC_NAME_BYTES];
    count_floats(net, &all, &made, &sealed);
    ousac_status status = ousac_loader_open_weights(&l->common, all, made, sealed);
    net->weights = l->common.weights;
    net->sealed = l->common.sealed;
    net->block = ousac_calloc(net->L, sizeof *net->block);
    if (!status && !net->block)
        status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu blocks",
                            l->common.model->path, net->L);
    if (status ||
        (status = ousac_loader_tensor(&l->common, "pos_embed.proj.weight", "pos_embed.proj.weight", 1,
                                      &net->patch_in.w, 4,
                                      (size_t[]){d, net->channels, net->patch, net->patch})) ||
        (status = ousac_loader_tensor(&l->common, "pos_embed.proj.bias", "pos_embed.proj.bias", 0,
                                      &net->patch_in.bias, 1, (size_t[]){d})) ||
        (status = make_positions(l)))
        return status;
    const struct {
        const char *part;
        ousac_pixart_linear *linear;
        size_t m, n;
    } embedders[] = {{"timestep_embedder.linear_1", &net->t1, d, F},
                     {"timestep_embedder.linear_2", &net->t2, d, d},
                     {"resolution_embedder.linear_1", &net->size1, third, F},
                     {"resolution_embedder.linear_2", &net->size2, third, third},
                     {"aspect_ratio_embedder.linear_1", &net->ratio1, third, F},
                     {"aspect_ratio_embedder.linear_2", &net->ratio2, third, third}};
    for (size_t i = 0; i < (net->micro ? 6 : 2) && !status; i++) {
        (void)snprintf(name, sizeof name, "%s%s", embedder, embedders[i].part);
        status = load_linear(l, name, 0, embedders[i].linear, embedders[i].m, embedders[i].n);
    }
    if (status || (status = load_linear(l, "adaln_single.linear", 0, &net->modulation, 6 * d, d)) ||
        (status =
             load_linear(l, "caption_projection.linear_1", 1, &net->caption1, d, net->caption_channels)) ||
        (status = load_linear(l, "caption_projection.linear_2", 1, &net->caption2, d, d)))
        return status;
    for (size_t b = 0; b < net->L && !status; b++)
        status = load_block(l, b, &net->block[b]);
    if (status || (status = load_tables(l)) ||
        (status = ousac_loader_tensor(&l->common, "scale_shift_table", "scale_shift_table", 0,
                                      &net->final_table, 2, (size_t[]){2, d})) ||
        (status = load_linear(l, "proj_out", 1, &net->final, out, d)))
        return status;
    return ousac_loader_close_weights(&l->common);
}

/* Tables that the forward needs besides. */
static ousac_status build_indices(loader *l) {
    ousac_pixart *net = l->net;
    const ousac_backend *be = l->common.model->backend;
    const ousac_patches patches = {net->rows, net->cols, net->patch, net->channels, net->out_channels};
    const size_t count = net->L > 2 ? net->L : 2;
    float *ones = ousac_malloc(count, sizeof *ones);
    ousac_status status =
        ousac_patches_index(&patches, be, l->common.model->path, &net->indices, l->common.error);
    net->patch_index = net->indices;
    net->unpatch_index = net->indices + (status ? 0 : ousac_patches_count(&patches));
    if (!status) {
        net->one_block = be->alloc(be, count, sizeof *ones);
        if (!ones || !net->one_block)
            status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory", l->common.model->path);
    }
    if (!status) {
        for (size_t i = 0; i < count; i++)
            ones[i] = 1;
        net->ones = net->one_block;
        status = be->upload(be, net->one_block, ones, count * sizeof *ones, l->common.error);
    }
    ousac_free(ones);
    return status;
}

/* --- the model --- */

/* Where the file holds the sites of a block, and where they are in memory. */
static void fill_sites(const loader *l, size_t b, ousac_model *model) {
    static const char *const parts[OUSAC_PIXART_SITES] = {"attn1.to_q",     "attn1.to_k", "attn1.to_v",
                                                          "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0",
                                                          "ff.net.0.proj",  "ff.net.2"};
    const ousac_pixart_block *block = &l->net->block[b];
    const size_t d = l->net->d, first = b * OUSAC_PIXART_SITES;
    const ousac_pixart_linear linears[OUSAC_PIXART_SITES] = {block->qkv,  block->qkv,     block->qkv,
                                                             block->proj, block->cross_q, block->cross_out,
                                                             block->fc1,  block->fc2};
    char name[OUSAC_NAME_BYTES];
    for (size_t i = 0; i < OUSAC_PIXART_SITES; i++) {
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.%s.weight", b, parts[i]);
        model->source[first + i] = (ousac_model_source){ousac_loader_find(&l->common, name), 0};
        if (model->use != OUSAC_MODEL_RUN)
            continue;
        model->weight[first + i] = linears[i].w + (i < 3 ? i * d * d : 0);
        model->bias[first + i] = linears[i].bias + (i < 3 ? i * d : 0);
    }
}

static ousac_status fill_model(loader *l) {
    ousac_model *model = l->common.model;
    ousac_pixart *net = l->net;
    model->channels = net->channels;
    model->height = net->rows * net->patch, model->width = net->cols * net->patch;
    model->has_uncond = 1;
    ousac_status status = ousac_arch_create_pixart(&model->arch, net, l->common.error);
    if (status)
        return ousac_error_prefix(l->common.error, "%s", model->path);
    model->weight = ousac_calloc(model->arch.site_count, sizeof *model->weight);
    model->bias = ousac_calloc(model->arch.site_count, sizeof *model->bias);
    model->source = ousac_calloc(model->arch.site_count, sizeof *model->source);
    if (!model->weight || !model->bias || !model->source)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for the site table",
                          model->path);
    model->sealed = net->sealed != NULL;
    for (size_t b = 0; b < net->L; b++)
        fill_sites(l, b, model);
    /* What else decides the outputs. */
    (void)snprintf(model->constants, sizeof model->constants,
                   "pixart heads=%zu eps=%.9g,%.9g side=%zu interpolation=%.17g caption=%zu micro=%d",
                   net->heads, (double)net->norm_eps, (double)net->final_norm_eps, net->side,
                   net->interpolation, net->caption_tokens, net->micro);
    if (net->rows != net->side || net->cols != net->side) {
        const size_t used = strlen(model->constants);
        (void)snprintf(model->constants + used, sizeof model->constants - used, " grid=%zux%zu", net->rows,
                       net->cols);
    }
    ousac_loader_digest(&l->common);
    if ((status = ousac_loader_range(&l->common)))
        return status;
    return ousac_loader_noise(&l->common, DEFAULT_BETAS, OUSAC_PREDICTION_EPSILON);
}

int ousac_pixart_recognises(const ousac_safetensors *file) {
    return ousac_safetensors_find(file, "adaln_single.linear.weight") &&
           ousac_safetensors_find(file, "transformer_blocks.0.attn2.to_q.weight");
}

ousac_status ousac_pixart_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                               const char *config_name, const ousac_model_options *options,
                               ousac_error *error) {
    loader l = {.net = ousac_calloc(1, sizeof *l.net)};
    model->state = l.net;
    ousac_status status =
        ousac_loader_begin(&l.common, model, "a PixArt", file, config, config_name, options, error);
    if (!status && !l.net)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", model->path);
    static ousac_status (*const parts[])(loader *) = {check_kind,   read_sizes,    read_heads, read_constants,
                                                      load_weights, build_indices, fill_model};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++)
        status = parts[i](&l);
    if (status && l.net)
        ousac_pixart_unload(model);
    ousac_loader_end(&l.common);
    return status;
}

void ousac_pixart_unload(ousac_model *model) {
    ousac_pixart *net = model->state;
    if (!net)
        return;
    model->backend->release(model->backend, net->weights);
    model->backend->release(model->backend, net->sealed);
    model->backend->release(model->backend, net->one_block);
    model->backend->release(model->backend, net->indices);
    ousac_free(net->block);
    ousac_free(net);
    model->state = NULL;
}
