#include "formats/memory.h"
#include "profile/model/dit.h"
#include "profile/model/load.h"
#include "profile/model/patches.h"

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
    ousac_loader common;
    ousac_dit *dit;
    layout layout;
} loader;

/* --- names and shapes --- */

static const ousac_safetensors_tensor *find(const loader *l, const char *name) {
    return ousac_loader_find(&l->common, name);
}

static ousac_status missing(const loader *l, const char *name) {
    return ousac_loader_missing(&l->common, name);
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

/* --- config --- */

/* What makes another model of a diffusers config, and what every DiT has. */
static ousac_status check_kind(loader *l) {
    static const char *const absent[] = {"cross_attention_dim", "caption_channels", "num_vector_embeds"};
    const ousac_loader *c = &l->common;
    ousac_status status = ousac_loader_text_is(c, "activation_fn", "gelu-approximate");
    if (!status)
        status = ousac_loader_text_is(c, "norm_type", "ada_norm_zero");
    if (!status)
        status = ousac_loader_flag_is(c, "norm_elementwise_affine", 0);
    for (size_t i = 0; i < sizeof absent / sizeof *absent && !status; i++)
        status = ousac_loader_lacks(c, absent[i]);
    return status;
}

static ousac_status read_heads(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_loader *c = &l->common;
    size_t heads = 0, width = 0;
    const int have = ousac_loader_size_of(c, "num_heads", "num_attention_heads", &heads);
    const int sized = have < 0 ? have : ousac_loader_size(c, "attention_head_dim", &width);
    if (have < 0 || sized < 0)
        return OUSAC_STATUS_FORMAT;
    if (c->options && c->options->heads)
        heads = c->options->heads;
    else if (!have)
        return OUSAC_FAIL(
            c->error, OUSAC_STATUS_FORMAT,
            "%s: the number of attention heads is not in the tensors: give `heads`, or \"num_heads\" in %s",
            c->model->path, c->config_name);
    else if (sized && heads * width != dit->d)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: %zu heads of \"attention_head_dim\" %zu; the tensors of %s have the width %zu",
                          c->config_name, heads, width, c->model->path, dit->d);
    if (heads < 1 || heads > dit->d || dit->d % heads)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: %zu heads do not divide the width %zu",
                          c->model->path, heads, dit->d);
    dit->heads = heads;
    return OUSAC_STATUS_OK;
}

/* Which of the two runtimes' constants apply: the config's dialect decides, without one the tensor names. */
static ousac_status read_constants(loader *l) {
    ousac_dit *dit = l->dit;
    int diffusers = l->layout == LAYOUT_DIFFUSERS;
    if (l->common.config)
        diffusers = ousac_loader_has(&l->common, "_class_name") ||
                    ousac_loader_has(&l->common, "num_attention_heads");
    dit->attn_norm_eps = dit->mlp_norm_eps = dit->final_norm_eps = 1e-6f;
    dit->frequency_denominator = (double)dit->frequencies / 2;
    if (diffusers) {
        double eps = 1e-5;
        if (ousac_loader_real(&l->common, "norm_eps", &eps) < 0)
            return OUSAC_STATUS_FORMAT;
        if (!(eps >= 0 && eps <= 1))
            return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                              "%s: key \"norm_eps\" is %g; expected from 0 to 1", l->common.config_name, eps);
        dit->mlp_norm_eps = (float)eps;
        dit->frequency_denominator -= 1;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_class_names(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_loader *c = &l->common;
    const cJSON *names = c->config ? cJSON_GetObjectItemCaseSensitive(c->config, "classes") : NULL,
                *name = NULL;
    size_t i = 0;
    if (!names || cJSON_IsNull(names))
        return OUSAC_STATUS_OK;
    if (!cJSON_IsArray(names) || (size_t)cJSON_GetArraySize(names) != dit->classes)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: key \"classes\": expected the names of %zu classes", c->config_name,
                          dit->classes);
    dit->class_names = ousac_calloc(dit->classes, sizeof *dit->class_names);
    if (!dit->class_names)
        return OUSAC_FAIL(c->error, OUSAC_STATUS_MEMORY, "%s: no memory for class names", c->model->path);
    cJSON_ArrayForEach(name, names) {
        if (!cJSON_IsString(name))
            return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT, "%s: key \"classes\": name %zu is not a text",
                              c->config_name, i);
        if (!(dit->class_names[i++] = ousac_strdup(name->valuestring)))
            return OUSAC_FAIL(c->error, OUSAC_STATUS_MEMORY, "%s: no memory for class names", c->model->path);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_classes(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_loader *c = &l->common;
    dit->classes = dit->table_rows - 1;
    if (ousac_loader_size_of(c, "num_classes", "num_embeds_ada_norm", &dit->classes) < 0)
        return OUSAC_STATUS_FORMAT;
    if (dit->classes < 1 || (dit->classes != dit->table_rows && dit->classes + 1 != dit->table_rows))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: %zu classes, but the embedding table of %s has %zu rows; expected %zu or %zu",
                          c->config_name, dit->classes, c->model->path, dit->table_rows, dit->classes,
                          dit->classes + 1);
    c->model->has_uncond = dit->classes + 1 == dit->table_rows;
    return read_class_names(l);
}

/* --- sizes from the tensors --- */

static ousac_status read_sizes(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_loader *c = &l->common;
    const char *path = c->model->path;
    const ousac_safetensors_tensor *t;
    char name[OUSAC_NAME_BYTES];

    const char *patch_name = outer_name(l, "x_embedder.proj.weight");
    if (!(t = find(l, patch_name)))
        return missing(l, patch_name);
    if (t->dims != 4 || t->shape[2] != t->shape[3] || !t->count || t->shape[0] > WIDTH_MAX ||
        t->shape[1] > WIDTH_MAX || t->shape[2] > 4096)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
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
                return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                                  "%s: tensor %s: expected shape (hidden, %zu)", path, name, dit->d);
            dit->hidden = t->shape[0];
        }
    }
    if (!dit->L)
        return missing(l, name);
    if (dit->L > BLOCKS_MAX)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %d blocks", path,
                          BLOCKS_MAX);

    const char *t_name = outer_name(l, "t_embedder.mlp.0.weight");
    if (!(t = find(l, t_name)))
        return missing(l, t_name);
    if (t->dims != 2 || t->shape[1] < 4 || t->shape[1] % 2 || t->shape[1] > 65536)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (%zu, an even number >= 4)", path, t_name, dit->d);
    dit->frequencies = t->shape[1];

    const char *y_name = outer_name(l, "y_embedder.embedding_table.weight");
    if (!(t = find(l, y_name)))
        return missing(l, y_name);
    if (t->dims != 2 || t->shape[0] < 1 || t->shape[0] > ROWS_MAX)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected shape (classes + 1, %zu)", path, y_name, dit->d);
    dit->table_rows = t->shape[0];

    const char *out_name = outer_name(l, "final_layer.linear.weight");
    if (!(t = find(l, out_name)))
        return missing(l, out_name);
    size_t pixels = dit->patch * dit->patch;
    dit->out_channels = t->dims == 2 ? t->shape[0] / pixels : 0;
    if (t->dims != 2 || t->shape[0] % pixels ||
        (dit->out_channels != dit->channels && dit->out_channels != 2 * dit->channels))
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                          "%s: tensor %s: expected %zu rows, or %zu with learned variances", path, out_name,
                          pixels * dit->channels, 2 * pixels * dit->channels);

    const char *pos_name = outer_name(l, "pos_embed");
    size_t size = 0;
    const int stated = ousac_loader_size_of(c, "input_size", "sample_size", &size);
    if (stated < 0)
        return OUSAC_STATUS_FORMAT;
    if ((t = find(l, pos_name))) {
        if (t->dims != 3 || t->shape[0] != 1 || t->shape[1] < 1 || t->shape[1] > ROWS_MAX)
            return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                              "%s: tensor %s: expected shape (1, tokens, %zu)", path, pos_name, dit->d);
        dit->N = t->shape[1];
        dit->side = (size_t)(sqrt((double)dit->N) + 0.5);
        if (dit->side * dit->side != dit->N)
            return OUSAC_FAIL(l->common.error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: tensor %s: %zu tokens are not a square", path, pos_name, dit->N);
        if (stated && size != dit->side * dit->patch)
            return OUSAC_FAIL(l->common.error, OUSAC_STATUS_FORMAT,
                              "%s: input size %zu, but %zu tokens of patch %zu in %s make %zu",
                              l->common.config_name, size, dit->N, dit->patch, path, dit->side * dit->patch);
    } else if (!stated || size < 1 || size > 65536 || size % dit->patch) {
        return OUSAC_FAIL(
            l->common.error, OUSAC_STATUS_FORMAT,
            "%s: no tensor %s, and %s gives no input size (\"input_size\" or \"sample_size\") that is a "
            "multiple of the patch %zu",
            path, pos_name, l->common.config_name, dit->patch);
    } else {
        dit->side = size / dit->patch;
        dit->N = dit->side * dit->side;
        if (dit->d % 4)
            return OUSAC_FAIL(
                l->common.error, OUSAC_STATUS_FORMAT,
                "%s: no tensor %s, and the sine-cosine embedding needs a width divisible by 4, not %zu", path,
                pos_name, dit->d);
    }
    const struct {
        const char *key;
        size_t value;
    } stated_sizes[] = {
        {"depth", dit->L},          {"num_layers", dit->L},         {"hidden_size", dit->d},
        {"patch_size", dit->patch}, {"in_channels", dit->channels}, {"out_channels", dit->out_channels}};
    for (size_t i = 0; i < sizeof stated_sizes / sizeof *stated_sizes; i++) {
        const ousac_status status = ousac_loader_agrees(c, stated_sizes[i].key, stated_sizes[i].value);
        if (status)
            return status;
    }
    double ratio = (double)dit->hidden / (double)dit->d;
    int sigma = dit->out_channels != dit->channels;
    if (ousac_loader_real(c, "mlp_ratio", &ratio) < 0 || ousac_loader_flag(c, "learn_sigma", &sigma) < 0)
        return OUSAC_STATUS_FORMAT;
    if (!(fabs(ratio * (double)dit->d - (double)dit->hidden) < 1))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: \"mlp_ratio\" is %g, but the tensors of %s say %g", c->config_name, ratio,
                          path, (double)dit->hidden / (double)dit->d);
    if (sigma != (dit->out_channels != dit->channels))
        return OUSAC_FAIL(c->error, OUSAC_STATUS_FORMAT,
                          "%s: \"learn_sigma\" is %s, but the tensors of %s have %zu "
                          "output channels for %zu",
                          c->config_name, sigma ? "true" : "false", path, dit->out_channels, dit->channels);
    return OUSAC_STATUS_OK;
}

/* --- weights --- */

/* Weights of linears over tokens, which a backend may seal. */
static int is_over_tokens(const char *canonical) {
    static const char *const over[] = {"x_embedder.proj.weight", "final_layer.linear.weight"};
    for (size_t i = 0; i < sizeof over / sizeof *over; i++)
        if (strcmp(canonical, over[i]) == 0)
            return 1;
    return 0;
}

static ousac_status load_outer(loader *l, const char *canonical, const float **target, size_t dims,
                               const size_t *shape) {
    return ousac_loader_tensor(&l->common, outer_name(l, canonical), canonical, is_over_tokens(canonical),
                               target, dims, shape);
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

/* q, k and v of a block from three tensors. */
static ousac_status load_apart(loader *l, size_t block, const char *what, const char *canonical, size_t dims,
                               const float **target) {
    char name[3][OUSAC_NAME_BYTES];
    for (size_t i = 0; i < 3; i++)
        block_name(name[i], l, block, DIFFUSERS_QKV[i], what);
    return ousac_loader_tensors(&l->common, 3, (const char *[]){name[0], name[1], name[2]}, canonical,
                                dims == 2, target, dims, (size_t[]){l->dit->d, l->dit->d});
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
        status = fused ? ousac_loader_tensor(&l->common, name, canonical, !kind, target, kind ? 1 : 2,
                                             (size_t[]){3 * d, d})
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
        status = ousac_loader_tensor(&l->common, name, canonical, !kind && which != PART_MODULATION,
                                     kind ? bias : w, kind ? 1 : 2, (size_t[]){m, n});
    }
    return status;
}

/* Diffusers keeps embedders in every block: copies of one, or, where it trained the model, of its own each. */
static const char *const EMBEDDERS[][2] = {
    {"timestep_embedder.linear_1.weight", "t_embedder.mlp.0.weight"},
    {"timestep_embedder.linear_1.bias", "t_embedder.mlp.0.bias"},
    {"timestep_embedder.linear_2.weight", "t_embedder.mlp.2.weight"},
    {"timestep_embedder.linear_2.bias", "t_embedder.mlp.2.bias"},
    {"class_embedder.embedding_table.weight", "y_embedder.embedding_table.weight"}};
enum { EMBEDDER_TENSORS = sizeof EMBEDDERS / sizeof *EMBEDDERS };

static const ousac_safetensors_tensor *find_embedder(const loader *l, size_t block, size_t which,
                                                     char *name) {
    (void)snprintf(name, OUSAC_NAME_BYTES, "transformer_blocks.%zu.norm1.emb.%s", block, EMBEDDERS[which][0]);
    return find(l, name);
}

/* How many there are: one, where all blocks have the first one's values or none. */
static ousac_status count_embedders(loader *l) {
    char name[OUSAC_NAME_BYTES];
    l->dit->embedders = 1;
    if (l->layout == LAYOUT_PUBLIC)
        return OUSAC_STATUS_OK;
    const int compares = l->common.model->use != OUSAC_MODEL_SHAPES;
    for (size_t s = 0; s < EMBEDDER_TENSORS; s++) {
        const ousac_safetensors_tensor *reference = find_embedder(l, 0, s, name), *t;
        if (!reference)
            return missing(l, name);
        for (size_t b = 1; b < l->dit->L; b++) {
            if (!(t = find_embedder(l, b, s, name)))
                continue; /* a file may keep one copy */
            if (t->bytes != reference->bytes || strcmp(t->dtype_name, reference->dtype_name) != 0 ||
                (compares && memcmp(t->data, reference->data, t->bytes) != 0))
                l->dit->embedders = l->dit->L;
            ousac_loader_mark(&l->common, t);
            ousac_safetensors_drop(l->common.file, t, 0, t->count);
        }
        if (!l->common.in_place)
            ousac_safetensors_drop(l->common.file, reference, 0, reference->count);
    }
    return OUSAC_STATUS_OK;
}

/* That of block `b`; what the file does not hold again is the first one's. */
static ousac_status load_embedder(loader *l, size_t b) {
    ousac_dit *dit = l->dit;
    ousac_dit_embedder *e = &dit->embedder[b];
    const size_t d = dit->d, f = dit->frequencies;
    const struct {
        const float **target;
        size_t dims, shape[2];
    } tensor[EMBEDDER_TENSORS] = {{&e->t_w0, 2, {d, f}},
                                  {&e->t_bias0, 1, {d}},
                                  {&e->t_w2, 2, {d, d}},
                                  {&e->t_bias2, 1, {d}},
                                  {&e->table, 2, {dit->table_rows, d}}};
    ousac_status status = OUSAC_STATUS_OK;
    *e = *dit->embedder;
    for (size_t s = 0; s < EMBEDDER_TENSORS && !status; s++) {
        char name[OUSAC_NAME_BYTES], canonical[OUSAC_NAME_BYTES];
        if (b == 0) {
            status = load_outer(l, EMBEDDERS[s][1], tensor[s].target, tensor[s].dims, tensor[s].shape);
        } else if (find_embedder(l, b, s, name)) {
            (void)snprintf(canonical, sizeof canonical, "blocks.%zu.%s", b, EMBEDDERS[s][1]);
            status = ousac_loader_tensor(&l->common, name, canonical, 0, tensor[s].target, tensor[s].dims,
                                         tensor[s].shape);
        }
    }
    return status;
}

/* The embedding that a file lacks. */
static ousac_status make_pos_embed(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_backend *be = l->common.model->backend;
    const size_t count = dit->N * dit->d;
    float *slot = NULL, *made = ousac_malloc(count, sizeof *made);
    if (!made)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY,
                          "%s: no memory for the positions of %zu tokens", l->common.model->path, dit->N);
    if (l->common.model->use != OUSAC_MODEL_SHAPES)
        ousac_patches_sincos(dit->side, dit->side, dit->d, 1, 1, made);
    ousac_loader_hash_shape(&l->common, "pos_embed", 3, (size_t[]){1, dit->N, dit->d});
    if (l->common.model->use != OUSAC_MODEL_SHAPES)
        ousac_sha256_add(&l->common.hash, made, count * sizeof *made);
    ousac_status status = ousac_loader_reserve(&l->common, "pos_embed", 0, count, &slot);
    dit->pos_embed = slot;
    if (!status && slot)
        status = be->upload(be, slot, made, count * sizeof *made, l->common.error);
    ousac_free(made);
    return status;
}

/* Floats of the whole model. */
static size_t all_floats(const loader *l) {
    const ousac_dit *dit = l->dit;
    const size_t d = dit->d, h = dit->hidden, p2 = dit->patch * dit->patch, out = p2 * dit->out_channels;
    const size_t qkv = 3 * d * d + 3 * d;
    return dit->L * (qkv + d * d + d + 2 * h * d + h + d + 6 * d * d + 6 * d) + d * p2 * dit->channels + d +
           dit->N * d + dit->embedders * (d * dit->frequencies + d * d + 2 * d + dit->table_rows * d) +
           2 * d * d + 2 * d + out * d + out;
}

/* What a mapped file does not hold as it is needed. */
static size_t made_floats(const loader *l) {
    const ousac_dit *dit = l->dit;
    return (l->layout == LAYOUT_PUBLIC ? 0 : dit->L * (3 * dit->d * dit->d + 3 * dit->d)) + dit->N * dit->d;
}

/* Of the weights of linears over tokens. */
static size_t sealed_floats(const loader *l) {
    const ousac_dit *dit = l->dit;
    const size_t d = dit->d, p2 = dit->patch * dit->patch;
    return dit->L * (4 * d * d + 2 * dit->hidden * d) + (dit->channels + dit->out_channels) * p2 * d;
}

static ousac_status load_blocks(loader *l) {
    ousac_dit *dit = l->dit;
    const size_t d = dit->d, h = dit->hidden;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t b = 0; b < dit->L && !status; b++) {
        ousac_dit_block *block = &dit->block[b];
        if ((status = load_qkv(l, b, &block->qkv, &block->qkv_bias)) ||
            (status = load_part(l, b, PART_PROJ, &block->proj, &block->proj_bias, d, d)) ||
            (status = load_part(l, b, PART_FC1, &block->fc1, &block->fc1_bias, h, d)) ||
            (status = load_part(l, b, PART_FC2, &block->fc2, &block->fc2_bias, d, h)) ||
            (status =
                 load_part(l, b, PART_MODULATION, &block->modulation, &block->modulation_bias, 6 * d, d)))
            return status;
    }
    return status;
}

static ousac_status load_weights(loader *l) {
    ousac_dit *dit = l->dit;
    const size_t d = dit->d, out = dit->patch * dit->patch * dit->out_channels;
    ousac_status status = count_embedders(l);
    if (status)
        return status;
    status = ousac_loader_open_weights(&l->common, all_floats(l), made_floats(l), sealed_floats(l));
    dit->weights = l->common.weights;
    dit->sealed = l->common.sealed;
    dit->block = ousac_calloc(dit->L, sizeof *dit->block);
    dit->embedder = ousac_calloc(dit->embedders, sizeof *dit->embedder);
    if (!status && (!dit->block || !dit->embedder))
        status = OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu blocks",
                            l->common.model->path, dit->L);
    if (status ||
        (status = load_outer(l, "x_embedder.proj.weight", &dit->patch_w, 4,
                             (size_t[]){d, dit->channels, dit->patch, dit->patch})) ||
        (status = load_outer(l, "x_embedder.proj.bias", &dit->patch_bias, 1, (size_t[]){d})))
        return status;
    if (find(l, outer_name(l, "pos_embed")))
        status = load_outer(l, "pos_embed", &dit->pos_embed, 3, (size_t[]){1, dit->N, d});
    else
        status = make_pos_embed(l);
    for (size_t b = 0; b < dit->embedders && !status; b++)
        status = load_embedder(l, b);
    if (status || (status = load_blocks(l)) ||
        (status = load_outer_linear(l, "final_layer.adaLN_modulation.1", &dit->final_modulation,
                                    &dit->final_modulation_bias, 2 * d, d)) ||
        (status = load_outer_linear(l, "final_layer.linear", &dit->final_w, &dit->final_bias, out, d)))
        return status;
    return ousac_loader_close_weights(&l->common);
}

static ousac_status build_indices(loader *l) {
    ousac_dit *dit = l->dit;
    const ousac_patches patches = {dit->side, dit->side, dit->patch, dit->channels, dit->out_channels};
    const ousac_status status = ousac_patches_index(&patches, l->common.model->backend, l->common.model->path,
                                                    &dit->indices, l->common.error);
    dit->patch_index = dit->indices;
    dit->unpatch_index = dit->indices + ousac_patches_count(&patches);
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
    ousac_model *model = l->common.model;
    ousac_dit *dit = l->dit;
    model->channels = dit->channels;
    model->height = model->width = dit->side * dit->patch;
    ousac_status status =
        ousac_arch_create_dit(&model->arch, dit->L, dit->N, dit->d, dit->hidden, l->common.error);
    if (status)
        return status;
    model->weight = ousac_calloc(model->arch.site_count, sizeof *model->weight);
    model->bias = ousac_calloc(model->arch.site_count, sizeof *model->bias);
    model->source = ousac_calloc(model->arch.site_count, sizeof *model->source);
    if (!model->weight || !model->bias || !model->source)
        return OUSAC_FAIL(l->common.error, OUSAC_STATUS_MEMORY, "%s: no memory for the site table",
                          model->path);
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
    ousac_loader_digest(&l->common);
    const ousac_status ranged = ousac_loader_range(&l->common);
    return ranged ? ranged : ousac_loader_noise(&l->common, DEFAULT_BETAS, OUSAC_PREDICTION_EPSILON);
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
    loader l = {.dit = ousac_calloc(1, sizeof *l.dit)};
    l.layout = ousac_safetensors_find(file, "blocks.0.attn.qkv.weight") ? LAYOUT_PUBLIC : LAYOUT_DIFFUSERS;
    model->state = l.dit;
    ousac_status status =
        ousac_loader_begin(&l.common, model, "a DiT", file, config, config_name, options, error);
    if (!status && !l.dit)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", model->path);
    static ousac_status (*const parts[])(loader *) = {check_kind,     read_sizes,   read_heads,
                                                      read_constants, read_classes, load_weights,
                                                      build_indices,  fill_model};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++)
        status = parts[i](&l);
    if (status && l.dit)
        ousac_dit_unload(model);
    ousac_loader_end(&l.common);
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
    ousac_free(dit->embedder);
    ousac_free(dit->block);
    ousac_free(dit);
    model->state = NULL;
}
