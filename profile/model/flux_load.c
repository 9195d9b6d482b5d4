#include "formats/memory.h"
#include "profile/model/flux.h"
#include "profile/model/load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Far above every published model; keeps products of sizes from overflowing. */
enum { WIDTH_MAX = 1 << 20, BLOCKS_MAX = 4096, TOKENS_MAX = 1 << 20, EDGE_MAX = 1 << 14, PARTS_MAX = 4 };
enum { IMAGE = OUSAC_FLUX_IMAGE, TEXT = OUSAC_FLUX_TEXT };

/* A flow over 1000 timesteps; shifts of its levels are the schedule's. */
static const char DEFAULT_LEVELS[] = "flow 1000";
/* diffusers' pipeline: 1024 pixels, and the longest text that each of the public models takes. */
enum { SAMPLE_SIZE_DEFAULT = 128, TEXT_DEFAULT = 512, TEXT_DEFAULT_UNGUIDED = 256 };
static const double THETA = 10000;

typedef struct loader {
    ousac_loader common;
    ousac_flux *flux;
    int fused; /* the authors' names */
} loader;

/* --- names --- */

/* The canonical stem of a tensor, and what diffusers has in its place: tensors one after another. */
typedef struct naming {
    const char *canonical;
    const char *diffusers[PARTS_MAX];
} naming;

static const naming OUTER[] = {
    {"img_in", {"x_embedder"}},
    {"txt_in", {"context_embedder"}},
    {"time_in.in_layer", {"time_text_embed.timestep_embedder.linear_1"}},
    {"time_in.out_layer", {"time_text_embed.timestep_embedder.linear_2"}},
    {"vector_in.in_layer", {"time_text_embed.text_embedder.linear_1"}},
    {"vector_in.out_layer", {"time_text_embed.text_embedder.linear_2"}},
    {"guidance_in.in_layer", {"time_text_embed.guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", {"time_text_embed.guidance_embedder.linear_2"}},
    {"final_layer.adaLN_modulation.1", {"norm_out.linear"}},
    {"final_layer.linear", {"proj_out"}},
};
enum {
    OUTER_IMAGE,
    OUTER_TEXT,
    OUTER_TIME,
    OUTER_POOLED = 4,
    OUTER_GUIDANCE = 6,
    OUTER_MODULATION = 8,
    OUTER_FINAL
};

/* Of a block: "double_blocks.N." and "transformer_blocks.N." before them. */
enum { PART_MODULATION, PART_QKV, PART_Q_NORM, PART_K_NORM, PART_PROJ, PART_FC1, PART_FC2, PART_COUNT };
static const naming HALF[2][PART_COUNT] = {
    {{"img_mod.lin", {"norm1.linear"}},
     {"img_attn.qkv", {"attn.to_q", "attn.to_k", "attn.to_v"}},
     {"img_attn.norm.query_norm", {"attn.norm_q"}},
     {"img_attn.norm.key_norm", {"attn.norm_k"}},
     {"img_attn.proj", {"attn.to_out.0"}},
     {"img_mlp.0", {"ff.net.0.proj"}},
     {"img_mlp.2", {"ff.net.2"}}},
    {{"txt_mod.lin", {"norm1_context.linear"}},
     {"txt_attn.qkv", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}},
     {"txt_attn.norm.query_norm", {"attn.norm_added_q"}},
     {"txt_attn.norm.key_norm", {"attn.norm_added_k"}},
     {"txt_attn.proj", {"attn.to_add_out"}},
     {"txt_mlp.0", {"ff_context.net.0.proj"}},
     {"txt_mlp.2", {"ff_context.net.2"}}},
};
enum { SINGLE_MODULATION, SINGLE_LINEAR1, SINGLE_Q_NORM, SINGLE_K_NORM, SINGLE_LINEAR2 };
static const naming SINGLE[] = {
    {"modulation.lin", {"norm.linear"}},
    {"linear1", {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"}},
    {"norm.query_norm", {"attn.norm_q"}},
    {"norm.key_norm", {"attn.norm_k"}},
    {"linear2", {"proj_out"}},
};

/* Where a tensor stands: outside, or in a block. */
typedef struct location {
    const char *canonical, *diffusers; /* prefixes */
    size_t block;
} location;
static const location OUTSIDE = {NULL, NULL, 0};

static location in_double(size_t block) {
    return (location){"double_blocks", "transformer_blocks", block};
}
static location in_single(size_t block) {
    return (location){"single_blocks", "single_transformer_blocks", block};
}

static void join_name(char name[OUSAC_NAME_BYTES], const char *prefix, size_t block, const char *stem,
                      const char *kind) {
    if (prefix)
        (void)snprintf(name, OUSAC_NAME_BYTES, "%s.%zu.%s.%s", prefix, block, stem, kind);
    else
        (void)snprintf(name, OUSAC_NAME_BYTES, "%s.%s", stem, kind);
}

/* The file's name of part `i`, `kind` being weight or bias. The authors' norms have a "scale". */
static void file_name(char name[OUSAC_NAME_BYTES], const loader *l, location at, const naming *n, size_t i,
                      const char *kind) {
    join_name(name, l->fused ? at.canonical : at.diffusers, at.block,
              l->fused ? n->canonical : n->diffusers[i], kind);
}

/* --- config --- */

static ousac_status check_kind(loader *l) {
    const ousac_loader *c = &l->common;
    size_t patch = 1;
    ousac_status status = OUSAC_STATUS_OK;
    if (ousac_loader_has(c, "_class_name"))
        status = ousac_loader_text_is(c, "_class_name", "FluxTransformer2DModel");
    if (!status && ousac_loader_size(c, "patch_size", &patch) < 0)
        status = OUSAC_STATUS_FORMAT;
    if (!status && patch != 1)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_UNSUPPORTED, "%s: \"patch_size\" is %zu; %s has 1",
                          c->config_name, patch, c->what);
    return status;
}

/* Channels of a head that each axis of the positions has; their default is that of heads of 128. */
static ousac_status read_axes(loader *l) {
    static const char key[] = "axes_dims_rope";
    static const size_t defaults[OUSAC_FLUX_AXES] = {16, 56, 56};
    ousac_flux *flux = l->flux;
    const ousac_loader *c = &l->common;
    const cJSON *axes = c->config ? cJSON_GetObjectItemCaseSensitive(c->config, key) : NULL;
    const int stated = axes && !cJSON_IsNull(axes);
    size_t sum = 0;
    if (!stated && flux->head_dim != 128)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: heads of %zu channels: give \"%s\", how many of them each axis turns, in %s",
                          c->model->path, flux->head_dim, key, c->config_name);
    if (stated && (!cJSON_IsArray(axes) || cJSON_GetArraySize(axes) != OUSAC_FLUX_AXES))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: key \"%s\": expected %d numbers",
                          c->config_name, key, OUSAC_FLUX_AXES);
    for (int i = 0; i < OUSAC_FLUX_AXES; i++) {
        unsigned long long whole = defaults[i];
        if (stated &&
            (!ousac_json_whole(cJSON_GetArrayItem(axes, i), &whole) || whole % 2 || whole > WIDTH_MAX))
            return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: key \"%s\": expected even whole numbers",
                              c->config_name, key);
        flux->axis[i] = (size_t)whole;
        sum += flux->axis[i];
    }
    if (sum != flux->head_dim)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: \"%s\" makes %zu channels, but the heads of %s have %zu", c->config_name, key,
                          sum, c->model->path, flux->head_dim);
    return OUSAC_STATUS_OK;
}

/* What no tensor tells: the sizes of the sample and of the text. */
static ousac_status read_tokens(loader *l) {
    ousac_flux *flux = l->flux;
    const ousac_loader *c = &l->common;
    size_t size = SAMPLE_SIZE_DEFAULT, height, width;
    flux->text = flux->guided ? TEXT_DEFAULT : TEXT_DEFAULT_UNGUIDED;
    if (ousac_loader_size(c, "sample_size", &size) < 0)
        return OUSAC_STATUS_FORMAT;
    height = width = size;
    if (ousac_loader_size(c, "sample_height", &height) < 0 ||
        ousac_loader_size(c, "sample_width", &width) < 0 ||
        ousac_loader_size(c, "text_tokens", &flux->text) < 0)
        return OUSAC_STATUS_FORMAT;
    if (!height || !width || height % OUSAC_FLUX_PATCH || width % OUSAC_FLUX_PATCH || height > EDGE_MAX ||
        width > EDGE_MAX)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_FORMAT,
            "%s: a sample of %zu x %zu (\"sample_size\", \"sample_height\", \"sample_width\"): expected "
            "multiples of %d up to %d, an eighth of the picture's pixels",
            c->config_name, height, width, OUSAC_FLUX_PATCH, EDGE_MAX);
    if (!flux->text || flux->text > TOKENS_MAX)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: key \"text_tokens\" is %zu; expected 1 to %d",
                          c->config_name, flux->text, TOKENS_MAX);
    flux->rows = height / OUSAC_FLUX_PATCH;
    flux->cols = width / OUSAC_FLUX_PATCH;
    flux->image = flux->rows * flux->cols;
    flux->joint = flux->image + flux->text;
    return OUSAC_STATUS_OK;
}

/* --- sizes from the tensors --- */

/* The shape of a weight (rows, columns), or of a vector (rows), by its name in the file. */
static ousac_status shape_of(const loader *l, location at, const naming *n, const char *kind, size_t dims,
                             size_t *rows, size_t *cols) {
    const ousac_loader *c = &l->common;
    char name[OUSAC_NAME_BYTES];
    file_name(name, l, at, n, 0, kind);
    const ousac_safetensors_tensor *t = ousac_loader_find(c, name);
    if (!t)
        return ousac_loader_missing(c, name);
    if (t->dims != dims || !t->count || t->shape[0] > WIDTH_MAX || (dims == 2 && t->shape[1] > WIDTH_MAX))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: tensor %s: expected a %s without zeros",
                          c->model->path, name, dims == 2 ? "matrix" : "vector");
    *rows = t->shape[0];
    if (cols)
        *cols = t->shape[1];
    return OUSAC_STATUS_OK;
}

static ousac_status count_blocks(const loader *l, location at, const naming *n, size_t *count) {
    char name[OUSAC_NAME_BYTES];
    for (at.block = 0;; at.block++) { /* numbered from 0 without a gap */
        file_name(name, l, at, n, 0, "weight");
        if (!ousac_loader_find(&l->common, name))
            break;
    }
    *count = at.block;
    if (!at.block)
        return ousac_loader_missing(&l->common, name);
    if (at.block > BLOCKS_MAX)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %d blocks",
                          l->common.model->path, BLOCKS_MAX);
    return OUSAC_STATUS_OK;
}

static const char *norm_kind(const loader *l) {
    return l->fused ? "scale" : "weight";
}

static ousac_status read_sizes(loader *l) {
    ousac_flux *flux = l->flux;
    const ousac_loader *c = &l->common;
    size_t out = 0;
    char name[OUSAC_NAME_BYTES];
    ousac_status status;
    file_name(name, l, OUTSIDE, &OUTER[OUTER_GUIDANCE], 0, "weight");
    flux->guided = ousac_loader_find(c, name) != NULL;
    if ((status = shape_of(l, OUTSIDE, &OUTER[OUTER_IMAGE], "weight", 2, &flux->d, &flux->packed)) ||
        (status = shape_of(l, OUTSIDE, &OUTER[OUTER_TEXT], "weight", 2, &flux->d, &flux->embed)) ||
        (status = shape_of(l, OUTSIDE, &OUTER[OUTER_POOLED], "weight", 2, &flux->d, &flux->pooled)) ||
        (status = shape_of(l, OUTSIDE, &OUTER[OUTER_TIME], "weight", 2, &flux->d, &flux->frequencies)) ||
        (status = shape_of(l, OUTSIDE, &OUTER[OUTER_FINAL], "weight", 2, &out, &flux->d)) ||
        (status = count_blocks(l, in_double(0), &HALF[IMAGE][PART_PROJ], &flux->doubles)) ||
        (status = count_blocks(l, in_single(0), &SINGLE[SINGLE_LINEAR2], &flux->singles)) ||
        (status = shape_of(l, in_double(0), &HALF[IMAGE][PART_FC1], "weight", 2, &flux->hidden, &flux->d)) ||
        (status =
             shape_of(l, in_double(0), &HALF[IMAGE][PART_Q_NORM], norm_kind(l), 1, &flux->head_dim, NULL)))
        return status;
    if (flux->packed % (OUSAC_FLUX_PATCH * OUSAC_FLUX_PATCH) || out != flux->packed)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_UNSUPPORTED,
            "%s: tokens of %zu values in and %zu out: expected the same multiple of 4 (a model that "
            "fills or is controlled cannot be run)",
            c->model->path, flux->packed, out);
    if (flux->frequencies % 2)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: %zu features of a timestep: expected an even number", c->model->path,
                          flux->frequencies);
    if (flux->d % flux->head_dim)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: heads of %zu channels do not divide the width %zu", c->model->path,
                          flux->head_dim, flux->d);
    flux->heads = flux->d / flux->head_dim;
    if (c->options && c->options->heads && c->options->heads != flux->heads)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: %zu heads, but the tensors have %zu",
                          c->model->path, c->options->heads, flux->heads);
    const struct {
        const char *key;
        size_t value;
    } stated[] = {{"num_attention_heads", flux->heads}, {"attention_head_dim", flux->head_dim},
                  {"num_layers", flux->doubles},        {"num_single_layers", flux->singles},
                  {"in_channels", flux->packed},        {"out_channels", flux->packed},
                  {"joint_attention_dim", flux->embed}, {"pooled_projection_dim", flux->pooled}};
    for (size_t i = 0; i < sizeof stated / sizeof *stated; i++)
        if ((status = ousac_loader_agrees(c, stated[i].key, stated[i].value)))
            return status;
    int guided = flux->guided;
    if (ousac_loader_flag(c, "guidance_embeds", &guided) < 0)
        return OUSAC_STATUS_FORMAT;
    if (guided != flux->guided)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: \"guidance_embeds\" is %s, but %s has %s guidance embedder", c->config_name,
                          guided ? "true" : "false", c->model->path, flux->guided ? "a" : "no");
    return OUSAC_STATUS_OK;
}

/* --- weights --- */

/* Rows [first, first + rows) of a tensor of `whole` rows. */
typedef struct piece {
    char name[OUSAC_NAME_BYTES];
    size_t first, rows, whole;
} piece;

/* One tensor of the engine, (m, n) or (m), from pieces of the file's one after another, in memory and in the
 * digest. */
static ousac_status load_pieces(loader *l, const char *canonical, int sealed, size_t dims, size_t m, size_t n,
                                const piece *pieces, size_t count, const float **target) {
    ousac_loader *c = &l->common;
    const size_t width = dims == 2 ? n : 1;
    float *slot = NULL;
    if (count == 1)
        return ousac_loader_tensor(c, pieces->name, canonical, sealed, target, dims, (size_t[]){m, n});
    ousac_status status = ousac_loader_reserve(c, canonical, sealed, m * width, &slot);
    ousac_loader_hash_shape(c, canonical, dims, (size_t[]){m, n});
    *target = slot;
    for (size_t i = 0; i < count && !status; i++) {
        const ousac_safetensors_tensor *t = NULL;
        const size_t size = pieces[i].rows * width;
        status = ousac_loader_take(c, pieces[i].name, dims, (size_t[]){pieces[i].whole, n}, &t);
        if (!status && c->model->use != OUSAC_MODEL_SHAPES)
            status = ousac_loader_stream_part(c, t, pieces[i].first * width, size, slot);
        slot = slot ? slot + size : NULL;
    }
    return status;
}

/* Weight and bias. `rows`: of each of diffusers' parts. */
static ousac_status load_linear(loader *l, location at, const naming *names, int sealed, size_t m, size_t n,
                                const size_t rows[PARTS_MAX], ousac_flux_linear *target) {
    static const char *const kinds[] = {"weight", "bias"};
    /* The authors have the shift before the scale. */
    const int swapped = l->fused && names == &OUTER[OUTER_MODULATION];
    char canonical[OUSAC_NAME_BYTES];
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t k = 0; k < 2 && !status; k++) {
        piece pieces[PARTS_MAX];
        size_t count = 0;
        for (size_t i = 0;
             i < PARTS_MAX && (l->fused ? i < 1 + (size_t)swapped : names->diffusers[i] != NULL); i++) {
            piece *p = &pieces[count++];
            file_name(p->name, l, at, names, i, kinds[k]);
            p->rows = swapped ? m / 2 : l->fused ? m : rows[i];
            p->whole = swapped ? m : p->rows;
            p->first = swapped && i == 0 ? m / 2 : 0;
        }
        join_name(canonical, at.canonical, at.block, names->canonical, kinds[k]);
        status = load_pieces(l, canonical, sealed && k == 0, k == 0 ? 2 : 1, m, n, pieces, count,
                             k == 0 ? &target->w : &target->bias);
    }
    return status;
}

/* A linear of one tensor. */
static ousac_status load_whole(loader *l, location at, const naming *names, int sealed, size_t m, size_t n,
                               ousac_flux_linear *target) {
    return load_linear(l, at, names, sealed, m, n, (size_t[PARTS_MAX]){m}, target);
}

static ousac_status load_norm(loader *l, location at, const naming *names, const float **target) {
    char canonical[OUSAC_NAME_BYTES], name[OUSAC_NAME_BYTES];
    file_name(name, l, at, names, 0, norm_kind(l));
    join_name(canonical, at.canonical, at.block, names->canonical, "scale");
    return ousac_loader_tensor(&l->common, name, canonical, 0, target, 1, (size_t[]){l->flux->head_dim});
}

static ousac_status load_embedder(loader *l, size_t outer, size_t n, ousac_flux_embedder *target) {
    const size_t d = l->flux->d;
    const ousac_status status = load_whole(l, OUTSIDE, &OUTER[outer], 0, d, n, &target->first);
    return status ? status : load_whole(l, OUTSIDE, &OUTER[outer + 1], 0, d, d, &target->second);
}

static ousac_status load_double(loader *l, size_t b) {
    const ousac_flux *flux = l->flux;
    const size_t d = flux->d, h = flux->hidden;
    const location at = in_double(b);
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t s = 0; s < 2; s++) {
        const naming *names = HALF[s];
        ousac_flux_half *half = &flux->double_block[b].half[s];
        if ((status = load_whole(l, at, &names[PART_MODULATION], 0, 6 * d, d, &half->modulation)) ||
            (status = load_linear(l, at, &names[PART_QKV], 1, 3 * d, d, (size_t[PARTS_MAX]){d, d, d},
                                  &half->qkv)) ||
            (status = load_norm(l, at, &names[PART_Q_NORM], &half->q_norm)) ||
            (status = load_norm(l, at, &names[PART_K_NORM], &half->k_norm)) ||
            (status = load_whole(l, at, &names[PART_PROJ], 1, d, d, &half->proj)) ||
            (status = load_whole(l, at, &names[PART_FC1], 1, h, d, &half->fc1)) ||
            (status = load_whole(l, at, &names[PART_FC2], 1, d, h, &half->fc2)))
            return status;
    }
    return status;
}

static ousac_status load_single(loader *l, size_t b) {
    const ousac_flux *flux = l->flux;
    const size_t d = flux->d, h = flux->hidden;
    const location at = in_single(b);
    ousac_flux_single *block = &flux->single_block[b];
    ousac_status status;
    if ((status = load_whole(l, at, &SINGLE[SINGLE_MODULATION], 0, 3 * d, d, &block->modulation)) ||
        (status = load_linear(l, at, &SINGLE[SINGLE_LINEAR1], 1, 3 * d + h, d,
                              (size_t[PARTS_MAX]){d, d, d, h}, &block->linear1)) ||
        (status = load_norm(l, at, &SINGLE[SINGLE_Q_NORM], &block->q_norm)) ||
        (status = load_norm(l, at, &SINGLE[SINGLE_K_NORM], &block->k_norm)))
        return status;
    return load_whole(l, at, &SINGLE[SINGLE_LINEAR2], 1, d, d + h, &block->linear2);
}

/* Floats of the whole model, of what a mapped file does not hold as it is needed, and of the weights of linears over
 * tokens. */
static void count_floats(const loader *l, size_t *all, size_t *made, size_t *sealed) {
    const ousac_flux *flux = l->flux;
    const size_t d = flux->d, h = flux->hidden, hd = flux->head_dim, p = flux->packed;
    const size_t half = 4 * d * d + 2 * d * h, single = (3 * d + h) * d + d * (d + h);
    const size_t doubles = 2 * flux->doubles, embedders = d * d + 2 * d;
    *sealed = d * p + d * flux->embed + p * d + doubles * half + flux->singles * single;
    *all = *sealed + d + d + p + doubles * (6 * d * d + 6 * d + 3 * d + 2 * hd + d + h + d) +
           flux->singles * (3 * d * d + 3 * d + 3 * d + h + 2 * hd + d) + d * flux->frequencies +
           d * flux->pooled + 2 * embedders + (flux->guided ? d * flux->frequencies + embedders : 0) +
           2 * d * d + 2 * d;
    *made = l->fused ? 2 * d * d + 2 * d
                     : doubles * (3 * d * d + 3 * d) + flux->singles * ((3 * d + h) * d + 3 * d + h);
}

static ousac_status load_weights(loader *l) {
    ousac_flux *flux = l->flux;
    const size_t d = flux->d;
    size_t all, made, sealed;
    count_floats(l, &all, &made, &sealed);
    ousac_status status = ousac_loader_open_weights(&l->common, all, made, sealed);
    flux->weights = l->common.weights;
    flux->sealed = l->common.sealed;
    flux->double_block = ousac_calloc(flux->doubles, sizeof *flux->double_block);
    flux->single_block = ousac_calloc(flux->singles, sizeof *flux->single_block);
    if (!status && (!flux->double_block || !flux->single_block))
        status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu blocks",
                            l->common.model->path, flux->doubles + flux->singles);
    if (status ||
        (status = load_whole(l, OUTSIDE, &OUTER[OUTER_IMAGE], 1, d, flux->packed, &flux->image_in)) ||
        (status = load_whole(l, OUTSIDE, &OUTER[OUTER_TEXT], 1, d, flux->embed, &flux->text_in)) ||
        (status = load_embedder(l, OUTER_TIME, flux->frequencies, &flux->time_in)) ||
        (status = load_embedder(l, OUTER_POOLED, flux->pooled, &flux->pooled_in)) ||
        (flux->guided && (status = load_embedder(l, OUTER_GUIDANCE, flux->frequencies, &flux->guidance_in))))
        return status;
    for (size_t b = 0; b < flux->doubles; b++)
        if ((status = load_double(l, b)))
            return status;
    for (size_t b = 0; b < flux->singles; b++)
        if ((status = load_single(l, b)))
            return status;
    if ((status = load_whole(l, OUTSIDE, &OUTER[OUTER_MODULATION], 0, 2 * d, d, &flux->final_modulation)) ||
        (status = load_whole(l, OUTSIDE, &OUTER[OUTER_FINAL], 1, flux->packed, d, &flux->final)))
        return status;
    return ousac_loader_close_weights(&l->common);
}

/* --- tables --- */

/* cos and sin of every pair of a head at every position. The angle of pair p of an axis is position / 10000^(2p/width
 * of the axis). */
static void fill_turns(const ousac_flux *flux, float *turns) {
    for (size_t token = 0; token < flux->joint; token++) {
        const int of_image = token >= flux->text;
        const size_t at = of_image ? token - flux->text : 0;
        const double position[OUSAC_FLUX_AXES] = {0, (double)(at / flux->cols), (double)(at % flux->cols)};
        float *row = turns + token * flux->head_dim;
        for (size_t a = 0; a < OUSAC_FLUX_AXES; a++)
            for (size_t p = 0; p < flux->axis[a] / 2; p++) {
                const double angle = position[a] * pow(THETA, -2.0 * (double)p / (double)flux->axis[a]);
                *row++ = (float)cos(angle);
                *row++ = (float)sin(angle);
            }
    }
}

static ousac_status build_tables(loader *l) {
    ousac_flux *flux = l->flux;
    const ousac_backend *be = l->common.model->backend;
    const size_t P = OUSAC_FLUX_PATCH, C = flux->packed / (P * P), count = flux->image * flux->packed;
    const size_t turns = flux->joint * flux->head_dim;
    uint32_t *host = NULL;
    float *angles = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (l->common.model->use != OUSAC_MODEL_RUN)
        return status;
    if (count > UINT32_MAX)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: samples of %zu values are too large", l->common.model->path, count);
    host = ousac_malloc(2 * count, sizeof *host);
    angles = ousac_malloc(turns, sizeof *angles);
    flux->indices = be->alloc(be, 2 * count, sizeof *host);
    flux->turns = be->alloc(be, turns, sizeof *angles);
    if (!host || !angles || !flux->indices || !flux->turns) {
        status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY,
                            "%s: no memory for the tables of %zu tokens", l->common.model->path, flux->joint);
        goto done;
    }
    for (size_t c = 0; c < C; c++)
        for (size_t y = 0; y < flux->rows * P; y++)
            for (size_t x = 0; x < flux->cols * P; x++) {
                const size_t token = y / P * flux->cols + x / P, value = (c * P + y % P) * P + x % P;
                const size_t pixel = (c * flux->rows * P + y) * flux->cols * P + x;
                host[token * flux->packed + value] = (uint32_t)pixel;
                host[count + pixel] = (uint32_t)(token * flux->packed + value);
            }
    fill_turns(flux, angles);
    flux->pack_index = flux->indices;
    flux->unpack_index = flux->indices + count;
    status = be->upload(be, flux->indices, host, 2 * count * sizeof *host, l->common.error);
    if (!status)
        status = be->upload(be, flux->turns, angles, turns * sizeof *angles, l->common.error);
done:
    ousac_free(host);
    ousac_free(angles);
    return status;
}

/* --- the model --- */

/* A linear's sites: where the engine and the file hold the weights of each. */
static void set_sites(const loader *l, size_t site, size_t count, location at, const naming *names,
                      const ousac_flux_linear *linear) {
    ousac_model *model = l->common.model;
    size_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        const ousac_site *s = &model->arch.sites[site + i];
        char name[OUSAC_NAME_BYTES];
        file_name(name, l, at, names, i, "weight");
        model->source[site + i] =
            (ousac_model_source){ousac_loader_find(&l->common, name), l->fused ? rows * s->n : 0};
        if (model->use == OUSAC_MODEL_RUN) {
            model->weight[site + i] = linear->w + rows * s->n;
            model->bias[site + i] = linear->bias + rows;
        }
        rows += s->m;
    }
}

static ousac_status fill_model(loader *l) {
    ousac_model *model = l->common.model;
    const ousac_flux *flux = l->flux;
    model->has_uncond = 1;
    model->takes_guidance = flux->guided;
    model->channels = flux->packed / (OUSAC_FLUX_PATCH * OUSAC_FLUX_PATCH);
    model->height = flux->rows * OUSAC_FLUX_PATCH;
    model->width = flux->cols * OUSAC_FLUX_PATCH;
    ousac_status status = ousac_arch_create_flux(&model->arch, flux, l->common.error);
    if (status)
        return status;
    model->weight = ousac_calloc(model->arch.site_count, sizeof *model->weight);
    model->bias = ousac_calloc(model->arch.site_count, sizeof *model->bias);
    model->source = ousac_calloc(model->arch.site_count, sizeof *model->source);
    if (!model->weight || !model->bias || !model->source)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for the site table",
                          model->path);
    model->sealed = flux->sealed != NULL;
    for (size_t b = 0; b < flux->doubles; b++) {
        const ousac_flux_half *half = flux->double_block[b].half;
        const size_t site = b * OUSAC_FLUX_DOUBLE_SITES;
        for (size_t s = 0; s < 2; s++) { /* image, text */
            set_sites(l, site + 3 * s, 3, in_double(b), &HALF[s][PART_QKV], &half[s].qkv);
            set_sites(l, site + 6 + s, 1, in_double(b), &HALF[s][PART_PROJ], &half[s].proj);
            set_sites(l, site + 8 + 2 * s, 1, in_double(b), &HALF[s][PART_FC1], &half[s].fc1);
            set_sites(l, site + 9 + 2 * s, 1, in_double(b), &HALF[s][PART_FC2], &half[s].fc2);
        }
    }
    for (size_t b = 0; b < flux->singles; b++) {
        const ousac_flux_single *block = &flux->single_block[b];
        const size_t site = flux->doubles * OUSAC_FLUX_DOUBLE_SITES + b * OUSAC_FLUX_SINGLE_SITES;
        set_sites(l, site, 4, in_single(b), &SINGLE[SINGLE_LINEAR1], &block->linear1);
        set_sites(l, site + 4, 1, in_single(b), &SINGLE[SINGLE_LINEAR2], &block->linear2);
    }
    /* What else decides the outputs. */
    (void)snprintf(model->constants, sizeof model->constants,
                   "flux heads=%zu axes=%zu,%zu,%zu theta=10000 eps=1e-6", flux->heads, flux->axis[0],
                   flux->axis[1], flux->axis[2]);
    ousac_loader_digest(&l->common);
    return ousac_loader_noise(&l->common, DEFAULT_LEVELS, OUSAC_PREDICTION_FLOW);
}

int ousac_flux_recognises(const ousac_safetensors *file) {
    return ousac_safetensors_find(file, "double_blocks.0.img_attn.qkv.weight") ||
           (ousac_safetensors_find(file, "transformer_blocks.0.attn.add_q_proj.weight") &&
            ousac_safetensors_find(file, "single_transformer_blocks.0.proj_mlp.weight"));
}

ousac_status ousac_flux_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                             const char *config_name, const ousac_model_options *options,
                             ousac_error *error) {
    loader l = {.flux = ousac_calloc(1, sizeof *l.flux),
                .fused = ousac_safetensors_find(file, "double_blocks.0.img_attn.qkv.weight") != NULL};
    model->state = l.flux;
    ousac_status status =
        ousac_loader_begin(&l.common, model, "a FLUX", file, config, config_name, options, error);
    if (!status && !l.flux)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", model->path);
    static ousac_status (*const parts[])(loader *) = {check_kind,   read_sizes,   read_axes, read_tokens,
                                                      load_weights, build_tables, fill_model};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++)
        status = parts[i](&l);
    if (status && l.flux)
        ousac_flux_unload(model);
    ousac_loader_end(&l.common);
    return status;
}

void ousac_flux_unload(ousac_model *model) {
    ousac_flux *flux = model->state;
    if (!flux)
        return;
    model->backend->release(model->backend, flux->weights);
    model->backend->release(model->backend, flux->sealed);
    model->backend->release(model->backend, flux->indices);
    model->backend->release(model->backend, flux->turns);
    ousac_free(flux->double_block);
    ousac_free(flux->single_block);
    ousac_free(flux);
    model->state = NULL;
}
