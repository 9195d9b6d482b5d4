#include "tests/support/small_flux.h"

#include "calib/stats/philox.h"
#include "formats/file.h"
#include "tests/support/write_safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = FLUX_D, H = FLUX_HIDDEN, TENSORS_MAX = 256, FLOATS_MAX = 1 << 16, WEIGHTS = 3000 };

typedef struct sheet {
    write_tensor tensor[TENSORS_MAX];
    char name[TENSORS_MAX][96];
    size_t count, used;
    uint64_t seed;
    small_flux_naming naming;
    float values[FLOATS_MAX];
} sheet;

/* The next values of the seed's: about 0 for what is added, about 1 for a norm, of a size that keeps activations near 1
 * for what multiplies. */
static float *draw(sheet *s, size_t m, size_t n) {
    float *values = s->values + s->used;
    if (s->used + m * (n ? n : 1) > FLOATS_MAX || s->count + 4 > TENSORS_MAX)
        abort();
    ousac_philox_normals(s->seed, WEIGHTS, s->used, m * (n ? n : 1), values);
    for (size_t i = 0; i < m * (n ? n : 1); i++)
        values[i] *= n > 1 ? 0.8F / sqrtf((float)n) : 0.3F;
    s->used += (m * (n ? n : 1) + 3) / 4 * 4;
    return values;
}

static void put_tensor(sheet *s, const char *name, size_t m, size_t n, const float *data) {
    (void)snprintf(s->name[s->count], sizeof s->name[0], "%s", name);
    s->tensor[s->count] = (write_tensor){s->name[s->count], OUSAC_DTYPE_F32, n ? 2 : 1, {m, n}, data};
    s->count++;
}

/* A linear (m, n) under the authors' stem, or cut into diffusers' parts, of `rows` each. `swap`: the authors have the
 * halves of the rows the other way round. */
static void put_linear(sheet *s, const char *authors, const char *prefix, const char *const *parts,
                       const size_t *rows, size_t m, size_t n, int swap) {
    static const char *const kinds[] = {"weight", "bias"};
    for (size_t k = 0; k < 2; k++) {
        const size_t cols = k ? 1 : n;
        float *values = draw(s, m, k ? 0 : n);
        char name[192];
        size_t first = 0;
        if (s->naming == SMALL_FLUX_AUTHORS) {
            (void)snprintf(name, sizeof name, "%s.%s", authors, kinds[k]);
            if (swap)
                for (size_t i = 0; i < m / 2 * cols; i++) {
                    const float held = values[i];
                    values[i] = values[m / 2 * cols + i];
                    values[m / 2 * cols + i] = held;
                }
            put_tensor(s, name, m, k ? 0 : n, values);
            continue;
        }
        for (size_t i = 0; first < m; first += rows[i++]) {
            (void)snprintf(name, sizeof name, "%s%s.%s", prefix, parts[i], kinds[k]);
            put_tensor(s, name, rows[i], k ? 0 : n, values + first * cols);
        }
    }
}

static void put_one(sheet *s, const char *authors, const char *prefix, const char *diffusers, size_t m,
                    size_t n) {
    put_linear(s, authors, prefix, &diffusers, &m, m, n, 0);
}

static void put_norm(sheet *s, const char *authors, const char *prefix, const char *diffusers) {
    const int theirs = s->naming == SMALL_FLUX_AUTHORS;
    char name[192];
    float *values = draw(s, D / FLUX_HEADS, 0);
    for (size_t i = 0; i < D / FLUX_HEADS; i++)
        values[i] += 1;
    (void)snprintf(name, sizeof name, "%s%s.%s", theirs ? "" : prefix, theirs ? authors : diffusers,
                   theirs ? "scale" : "weight");
    put_tensor(s, name, D / FLUX_HEADS, 0, values);
}

static void put_double(sheet *s, size_t b) {
    static const char *const qkv[2][3] = {{"attn.to_q", "attn.to_k", "attn.to_v"},
                                          {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}};
    static const char *const names[2][6] = {
        {"norm1.linear", "attn.norm_q", "attn.norm_k", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"},
        {"norm1_context.linear", "attn.norm_added_q", "attn.norm_added_k", "attn.to_add_out",
         "ff_context.net.0.proj", "ff_context.net.2"}};
    static const char *const letters[2] = {"img", "txt"};
    for (size_t h = 0; h < 2; h++) {
        char prefix[64], a[64];
        (void)snprintf(prefix, sizeof prefix, "transformer_blocks.%zu.", b);
#define AUTHORS(rest) ((void)snprintf(a, sizeof a, "double_blocks.%zu.%s_" rest, b, letters[h]), a)
        put_one(s, AUTHORS("mod.lin"), prefix, names[h][0], 6 * D, D);
        put_linear(s, AUTHORS("attn.qkv"), prefix, qkv[h], (size_t[]){D, D, D}, 3 * D, D, 0);
        put_norm(s, AUTHORS("attn.norm.query_norm"), prefix, names[h][1]);
        put_norm(s, AUTHORS("attn.norm.key_norm"), prefix, names[h][2]);
        put_one(s, AUTHORS("attn.proj"), prefix, names[h][3], D, D);
        put_one(s, AUTHORS("mlp.0"), prefix, names[h][4], H, D);
        put_one(s, AUTHORS("mlp.2"), prefix, names[h][5], D, H);
#undef AUTHORS
    }
}

static void put_single(sheet *s, size_t b) {
    static const char *const first[] = {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"};
    char prefix[64], a[64];
    (void)snprintf(prefix, sizeof prefix, "single_transformer_blocks.%zu.", b);
#define AUTHORS(rest) ((void)snprintf(a, sizeof a, "single_blocks.%zu." rest, b), a)
    put_one(s, AUTHORS("modulation.lin"), prefix, "norm.linear", 3 * D, D);
    put_linear(s, AUTHORS("linear1"), prefix, first, (size_t[]){D, D, D, H}, 3 * D + H, D, 0);
    put_norm(s, AUTHORS("norm.query_norm"), prefix, "attn.norm_q");
    put_norm(s, AUTHORS("norm.key_norm"), prefix, "attn.norm_k");
    put_one(s, AUTHORS("linear2"), prefix, "proj_out", D, D + H);
#undef AUTHORS
}

ousac_status small_flux_write(const char *path, uint64_t seed, small_flux_naming naming, int guided,
                              ousac_error *error) {
    static const char *const last[] = {"norm_out.linear"};
    const char *slash = strrchr(path, '/');
    char config[4096], text[512];
    sheet *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->seed = seed;
    s->naming = naming;
    put_one(s, "img_in", "", "x_embedder", D, FLUX_PACKED);
    put_one(s, "txt_in", "", "context_embedder", D, FLUX_EMBED);
#define TIME "time_text_embed."
    put_one(s, "time_in.in_layer", TIME, "timestep_embedder.linear_1", D, FLUX_FREQUENCIES);
    put_one(s, "time_in.out_layer", TIME, "timestep_embedder.linear_2", D, D);
    put_one(s, "vector_in.in_layer", TIME, "text_embedder.linear_1", D, FLUX_POOLED);
    put_one(s, "vector_in.out_layer", TIME, "text_embedder.linear_2", D, D);
    if (guided) {
        put_one(s, "guidance_in.in_layer", TIME, "guidance_embedder.linear_1", D, FLUX_FREQUENCIES);
        put_one(s, "guidance_in.out_layer", TIME, "guidance_embedder.linear_2", D, D);
    }
#undef TIME
    for (size_t b = 0; b < FLUX_DOUBLES; b++)
        put_double(s, b);
    for (size_t b = 0; b < FLUX_SINGLES; b++)
        put_single(s, b);
    put_linear(s, "final_layer.adaLN_modulation.1", "", last, (size_t[]){2 * D}, 2 * D, D, 1);
    put_one(s, "final_layer.linear", "", "proj_out", FLUX_PACKED, D);
    ousac_status status = write_safetensors(path, s->tensor, s->count, NULL, 0, error);
    free(s);
    (void)snprintf(config, sizeof config, "%.*sconfig.json", slash ? (int)(slash - path) + 1 : 0, path);
    (void)snprintf(text, sizeof text,
                   "{\"_class_name\": \"FluxTransformer2DModel\", \"num_attention_heads\": %d, "
                   "\"attention_head_dim\": %d, \"axes_dims_rope\": [2, 2, 4], \"guidance_embeds\": %s, "
                   "\"sample_height\": %d, \"sample_width\": %d, \"text_tokens\": %d}\n",
                   FLUX_HEADS, D / FLUX_HEADS, guided ? "true" : "false", 2 * FLUX_ROWS, 2 * FLUX_COLS,
                   FLUX_TEXT);
    return status ? status : ousac_file_replace(config, text, strlen(text), error);
}

ousac_status small_flux_write_inputs(const char *path, uint64_t seed, int negative, int guidance,
                                     ousac_error *error) {
    enum { EMBEDS = FLUX_PROMPTS * FLUX_TEXT * FLUX_EMBED, POOLED = FLUX_PROMPTS * FLUX_POOLED };
    float embeds[2][EMBEDS], pooled[2][POOLED], scale[FLUX_PROMPTS];
    write_tensor tensors[5];
    size_t count = 0;
    for (size_t b = 0; b < 2; b++) {
        ousac_philox_normals(seed, WEIGHTS + 1, b, EMBEDS, embeds[b]);
        ousac_philox_normals(seed, WEIGHTS + 2, b, POOLED, pooled[b]);
    }
    for (size_t b = 0; b < (negative ? 2 : 1); b++) {
        tensors[count++] = (write_tensor){b ? "negative_prompt_embeds" : "prompt_embeds",
                                          OUSAC_DTYPE_F32,
                                          3,
                                          {FLUX_PROMPTS, FLUX_TEXT, FLUX_EMBED},
                                          embeds[b]};
        tensors[count++] = (write_tensor){
            b ? "negative_pooled" : "pooled", OUSAC_DTYPE_F32, 2, {FLUX_PROMPTS, FLUX_POOLED}, pooled[b]};
    }
    for (size_t i = 0; i < FLUX_PROMPTS; i++)
        scale[i] = 0.5F + (float)i;
    if (guidance)
        tensors[count++] = (write_tensor){"guidance", OUSAC_DTYPE_F32, 1, {FLUX_PROMPTS}, scale};
    return write_safetensors(path, tensors, count, NULL, 0, error);
}
