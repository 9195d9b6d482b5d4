#include "tests/support/naive_pixart.h"

#include "formats/schedule.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 128, FREQUENCIES = 256 };

/* --- tensors --- */

static double *room(size_t count) {
    double *block = calloc(count ? count : 1, sizeof *block);
    if (!block)
        abort();
    return block;
}

/* A tensor in double precision; the caller frees. */
static double *read_tensor(const naive_pixart *net, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static double *read_tensor(const naive_pixart *net, const char *format, ...) {
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const ousac_safetensors_tensor *t = ousac_safetensors_find(net->file, name);
    if (!t) {
        (void)fprintf(stderr, "naive_pixart: no tensor %s\n", name);
        abort();
    }
    double *wide = room((size_t)t->count);
    for (size_t i = 0; i < t->count; i++) {
        float value = 0;
        memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
        wide[i] = (double)value;
    }
    return wide;
}

/* y (rows, m) = x W^T + b */
static void linear(const naive_pixart *net, const char *stem, size_t rows, size_t m, size_t n,
                   const double *x, double *y) {
    double *w = read_tensor(net, "%s.weight", stem), *b = read_tensor(net, "%s.bias", stem);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < m; j++) {
            double sum = b[j];
            for (size_t k = 0; k < n; k++)
                sum += w[j * n + k] * x[i * n + k];
            y[i * m + j] = sum;
        }
    free(w), free(b);
}

static void silu(size_t count, double *x) {
    for (size_t i = 0; i < count; i++)
        x[i] /= 1 + exp(-x[i]);
}

static void gelu(size_t count, double *x) {
    for (size_t i = 0; i < count; i++)
        x[i] *= 0.5 * (1 + tanh(sqrt(2 / acos(-1)) * (x[i] + 0.044715 * x[i] * x[i] * x[i])));
}

/* layer norm, then (1 + scale), shift */
static void modulate(size_t rows, size_t d, const double *h, double eps, const double *shift,
                     const double *scale, double *y) {
    for (size_t i = 0; i < rows; i++) {
        double mean = 0, variance = 0;
        for (size_t j = 0; j < d; j++)
            mean += h[i * d + j] / (double)d;
        for (size_t j = 0; j < d; j++)
            variance += pow(h[i * d + j] - mean, 2) / (double)d;
        for (size_t j = 0; j < d; j++)
            y[i * d + j] = (h[i * d + j] - mean) / sqrt(variance + eps) * (1 + scale[j]) + shift[j];
    }
}

/* q (rows, d) on k, v (keys, d); `mask` (keys) or NULL: 0 of keys that are not there. */
static void attention(const naive_pixart *net, size_t rows, size_t keys, const double *q, const double *k,
                      const double *v, const float *mask, double *out) {
    const size_t d = net->d, width = d / net->heads;
    double *weight = room(keys);
    for (size_t i = 0; i < rows; i++)
        for (size_t c0 = 0; c0 < d; c0 += width) {
            double total = 0;
            for (size_t j = 0; j < keys; j++) {
                double dot = 0;
                for (size_t c = c0; c < c0 + width; c++)
                    dot += q[i * d + c] * k[j * d + c];
                total += weight[j] = mask && mask[j] == 0 ? 0 : exp(dot / sqrt((double)width));
            }
            for (size_t c = c0; c < c0 + width; c++) {
                out[i * d + c] = 0;
                for (size_t j = 0; j < keys; j++)
                    out[i * d + c] += weight[j] / total * v[j * d + c];
            }
        }
    free(weight);
}

/* --- embeddings --- */

/* linear_2(silu(linear_1([cos, sin]))) of one number, (m). */
static void embed_number(const naive_pixart *net, const char *embedder, double value, size_t m, double *y) {
    double features[FREQUENCIES], *hidden = room(m);
    char stem[NAME_BYTES];
    for (size_t k = 0; k < FREQUENCIES / 2; k++) {
        const double phase = value / pow(10000, (double)k / (FREQUENCIES / 2));
        features[k] = cos(phase);
        features[FREQUENCIES / 2 + k] = sin(phase);
    }
    (void)snprintf(stem, sizeof stem, "adaln_single.emb.%s.linear_1", embedder);
    linear(net, stem, 1, m, FREQUENCIES, features, hidden);
    silu(m, hidden);
    (void)snprintf(stem, sizeof stem, "adaln_single.emb.%s.linear_2", embedder);
    linear(net, stem, 1, m, m, hidden, y);
    free(hidden);
}

static void embed_condition(const naive_pixart *net, uint64_t sample, double timestep, double *e) {
    const size_t d = net->d, third = d / 3;
    embed_number(net, "timestep_embedder", timestep, d, e);
    if (!net->micro)
        return;
    float size[2] = {(float)(8 * net->rows * net->patch), (float)(8 * net->cols * net->patch)};
    float ratio = (float)net->rows / (float)net->cols;
    double *part = room(third);
    if (ousac_inputs_has(net->inputs, OUSAC_INPUT_RESOLUTION))
        ousac_inputs_read(net->inputs, OUSAC_INPUT_RESOLUTION, sample, size);
    if (ousac_inputs_has(net->inputs, OUSAC_INPUT_ASPECT_RATIO))
        ousac_inputs_read(net->inputs, OUSAC_INPUT_ASPECT_RATIO, sample, &ratio);
    for (size_t i = 0; i < 3; i++) {
        embed_number(net, i < 2 ? "resolution_embedder" : "aspect_ratio_embedder",
                     i < 2 ? (double)size[i] : (double)ratio, third, part);
        for (size_t j = 0; j < third; j++)
            e[i * third + j] += part[j];
    }
    free(part);
}

/* Patches through the convolution, and positions: sines and cosines of the column, then of the row. */
static void embed_patches(const naive_pixart *net, const double *x, double *h) {
    const size_t p = net->patch, height = net->rows * p, width = net->cols * p, d = net->d;
    double *w = read_tensor(net, "pos_embed.proj.weight"), *b = read_tensor(net, "pos_embed.proj.bias");
    for (size_t row = 0; row < net->rows; row++)
        for (size_t column = 0; column < net->cols; column++)
            for (size_t j = 0; j < d; j++) {
                double sum = b[j];
                for (size_t c = 0; c < net->channels; c++)
                    for (size_t dy = 0; dy < p; dy++)
                        for (size_t dx = 0; dx < p; dx++)
                            sum += w[((j * net->channels + c) * p + dy) * p + dx] *
                                   x[(c * height + row * p + dy) * width + column * p + dx];
                const double share =
                    j < d / 2 ? (double)column / (double)net->cols : (double)row / (double)net->rows;
                const double place = share * (double)net->side / net->interpolation;
                const size_t wave = j % (d / 4);
                const double phase = place * pow(10000, -(double)wave / ((double)d / 4));
                h[(row * net->cols + column) * d + j] = sum + (j % (d / 2) < d / 4 ? sin(phase) : cos(phase));
            }
    free(w), free(b);
}

/* --- blocks --- */

typedef struct forward_state {
    const naive_pixart *net;
    const family_hooks *hooks;
    size_t N;
    double *h, *x, *wide[3], *mixed, *y; /* (N, d), (N, d), (N, max(d, hidden)), (N, max), (N, d) */
    double *k, *v;                       /* (caption tokens, d) */
    const double *ctx;
    const float *mask;
} forward_state;

static void site(const forward_state *f, size_t block, size_t index, const char *part, size_t m, size_t n,
                 const double *x, double *y) {
    char stem[NAME_BYTES];
    (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.%s", block, part);
    linear(f->net, stem, f->N, m, n, x, y);
    if (f->hooks && f->hooks->site)
        f->hooks->site(f->hooks->self, block * 8 + index, f->N, m, n, x, y);
}

static int skips(const forward_state *f, size_t module) {
    const int skipped = f->hooks && f->hooks->skip && f->hooks->skip(f->hooks->self, module);
    memset(f->y, 0, f->N * f->net->d * sizeof *f->y);
    return skipped;
}

/* The module's output joins the stream; gate (d), or NULL for 1. */
static void join(const forward_state *f, size_t module, const double *gate) {
    const size_t d = f->net->d;
    if (f->hooks && f->hooks->output)
        f->hooks->output(f->hooks->self, module, 0, f->N, d, f->y);
    for (size_t i = 0; i < f->N * d; i++)
        f->h[i] += (gate ? gate[i % d] : 1) * f->y[i];
}

static void run_block(const forward_state *f, size_t b, const double *shared) {
    const naive_pixart *net = f->net;
    const size_t d = net->d, hidden = net->hidden, M = net->caption_tokens;
    double *mod = read_tensor(net, "transformer_blocks.%zu.scale_shift_table", b);
    char stem[NAME_BYTES];
    for (size_t i = 0; i < 6 * d; i++)
        mod[i] += shared[i];
    if (!skips(f, 3 * b)) {
        modulate(f->N, d, f->h, net->norm_eps, mod, mod + d, f->x);
        site(f, b, 0, "attn1.to_q", d, d, f->x, f->wide[0]);
        site(f, b, 1, "attn1.to_k", d, d, f->x, f->wide[1]);
        site(f, b, 2, "attn1.to_v", d, d, f->x, f->wide[2]);
        attention(net, f->N, f->N, f->wide[0], f->wide[1], f->wide[2], NULL, f->mixed);
        site(f, b, 3, "attn1.to_out.0", d, d, f->mixed, f->y);
    }
    join(f, 3 * b, mod + 2 * d);
    if (!skips(f, 3 * b + 1)) {
        (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn2.to_k", b);
        linear(net, stem, M, d, d, f->ctx, f->k);
        (void)snprintf(stem, sizeof stem, "transformer_blocks.%zu.attn2.to_v", b);
        linear(net, stem, M, d, d, f->ctx, f->v);
        site(f, b, 4, "attn2.to_q", d, d, f->h, f->wide[0]);
        attention(net, f->N, M, f->wide[0], f->k, f->v, f->mask, f->mixed);
        site(f, b, 5, "attn2.to_out.0", d, d, f->mixed, f->y);
    }
    join(f, 3 * b + 1, NULL);
    if (!skips(f, 3 * b + 2)) {
        modulate(f->N, d, f->h, net->norm_eps, mod + 3 * d, mod + 4 * d, f->x);
        site(f, b, 6, "ff.net.0.proj", hidden, d, f->x, f->wide[0]);
        gelu(f->N * hidden, f->wide[0]);
        site(f, b, 7, "ff.net.2", d, hidden, f->wide[0], f->y);
    }
    join(f, 3 * b + 2, mod + 5 * d);
    free(mod);
}

static void run(void *self, uint64_t sample, int branch, double timestep, const double *x,
                const family_hooks *hooks, double *out) {
    const naive_pixart *net = self;
    const size_t d = net->d, N = net->rows * net->cols, M = net->caption_tokens, p = net->patch,
                 height = net->rows * p, width = net->cols * p, widest = d > net->hidden ? d : net->hidden;
    const ousac_safetensors_tensor *last = ousac_safetensors_find(net->file, "proj_out.bias");
    const size_t final = (size_t)last->count, out_channels = final / (p * p);
    float *embeds = calloc(M * net->caption_channels, sizeof *embeds), *mask = calloc(M, sizeof *mask);
    double *wide = room(M * net->caption_channels), *inner = room(M * d), *ctx = room(M * d), *e = room(d),
           *active = room(d), *shared = room(6 * d), *tokens = room(N * final);
    forward_state f = {net,
                       hooks,
                       N,
                       room(N * d),
                       room(N * d),
                       {room(N * widest), room(N * widest), room(N * widest)},
                       room(N * widest),
                       room(N * d),
                       room(M * d),
                       room(M * d),
                       ctx,
                       mask};
    if (!embeds || !mask)
        abort();
    ousac_inputs_read(net->inputs, branch ? OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS : OUSAC_INPUT_PROMPT_EMBEDS,
                      sample, embeds);
    ousac_inputs_read(net->inputs, branch ? OUSAC_INPUT_NEGATIVE_PROMPT_MASK : OUSAC_INPUT_PROMPT_MASK,
                      sample, mask);
    for (size_t i = 0; i < M * net->caption_channels; i++)
        wide[i] = (double)embeds[i];
    linear(net, "caption_projection.linear_1", M, d, net->caption_channels, wide, inner);
    gelu(M * d, inner);
    linear(net, "caption_projection.linear_2", M, d, d, inner, ctx);
    embed_condition(net, sample, timestep, e);
    memcpy(active, e, d * sizeof *e);
    silu(d, active);
    linear(net, "adaln_single.linear", 1, 6 * d, d, active, shared);
    embed_patches(net, x, f.h);
    for (size_t b = 0; b < net->depth; b++)
        run_block(&f, b, shared);
    double *table = read_tensor(net, "scale_shift_table");
    for (size_t i = 0; i < 2 * d; i++)
        table[i] += e[i % d];
    modulate(N, d, f.h, 1e-6, table, table + d, f.x);
    linear(net, "proj_out", N, final, d, f.x, tokens);
    for (size_t c = 0; c < net->channels; c++)
        for (size_t i = 0; i < height; i++)
            for (size_t j = 0; j < width; j++)
                out[(c * height + i) * width + j] =
                    tokens[(i / p * net->cols + j / p) * final + (i % p * p + j % p) * out_channels + c];
    double *const blocks[] = {wide, inner,     ctx,       e,         active,  shared, tokens, table, f.h,
                              f.x,  f.wide[0], f.wide[1], f.wide[2], f.mixed, f.y,    f.k,    f.v};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    free(embeds), free(mask);
}

/* --- opening --- */

ousac_status naive_pixart_open(naive_pixart *net, const char *model, const char *inputs, ousac_error *error) {
    char name[NAME_BYTES];
    ousac_status status = ousac_safetensors_open(&net->file, model, error);
    if (!status)
        status = ousac_inputs_open(&net->inputs, inputs, error);
    if (status)
        return status;
    const ousac_safetensors_tensor *patch = ousac_safetensors_find(net->file, "pos_embed.proj.weight"),
                                   *fc1 = ousac_safetensors_find(net->file,
                                                                 "transformer_blocks.0.ff.net.0.proj.bias"),
                                   *caption = ousac_safetensors_find(net->file,
                                                                     "caption_projection.linear_1.weight");
    if (!patch || !fc1 || !caption)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: no PixArt", model);
    net->d = patch->shape[0], net->channels = patch->shape[1], net->patch = patch->shape[2];
    net->hidden = fc1->shape[0];
    net->caption_channels = caption->shape[1];
    net->micro =
        ousac_safetensors_find(net->file, "adaln_single.emb.resolution_embedder.linear_1.weight") != NULL;
    do {
        net->depth++;
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.scale_shift_table", net->depth);
    } while (ousac_safetensors_find(net->file, name));
    return OUSAC_STATUS_OK;
}

void naive_pixart_close(naive_pixart *net) {
    ousac_safetensors_close(net->file);
    ousac_inputs_close(net->inputs);
    memset(net, 0, sizeof *net);
}

family_forward naive_pixart_forward(naive_pixart *net) {
    return (family_forward){net, run};
}
