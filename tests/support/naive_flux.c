#include "tests/support/small_flux.h"

#include "calib/stats/philox.h"
#include "formats/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = FLUX_D, H = FLUX_HIDDEN, T = FLUX_TEXT, I = FLUX_IMAGE, J = FLUX_JOINT, W = FLUX_D / FLUX_HEADS };

struct naive_flux {
    ousac_safetensors *file;
};

ousac_status naive_flux_open(naive_flux **flux, const char *path, ousac_error *error) {
    *flux = calloc(1, sizeof **flux);
    return *flux ? ousac_safetensors_open(&(*flux)->file, path, error) : OUSAC_STATUS_MEMORY;
}

void naive_flux_close(naive_flux *flux) {
    if (flux)
        ousac_safetensors_close(flux->file);
    free(flux);
}

static const float *find(const naive_flux *flux, const char *stem, const char *kind) {
    char name[128];
    (void)snprintf(name, sizeof name, "%s.%s", stem, kind);
    const ousac_safetensors_tensor *t = ousac_safetensors_find(flux->file, name);
    if (!t || t->dtype != OUSAC_DTYPE_F32) {
        (void)fprintf(stderr, "naive flux: no float32 tensor %s\n", name);
        abort();
    }
    return t->data;
}

static int has(const naive_flux *flux, const char *name) {
    return ousac_safetensors_find(flux->file, name) != NULL;
}

/* --- the pieces --- */

typedef struct run {
    const naive_flux *flux;
    const naive_flux_hooks *hooks;
    double temb[D]; /* silu of it */
} run;

static void linear(const naive_flux *flux, const char *stem, size_t rows, size_t m, size_t n, const double *x,
                   double *y) {
    const float *w = find(flux, stem, "weight"), *bias = find(flux, stem, "bias");
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < m; j++) {
            double sum = (double)bias[j];
            for (size_t k = 0; k < n; k++)
                sum += (double)w[j * n + k] * x[i * n + k];
            y[i * m + j] = sum;
        }
}

static void site(const run *r, size_t index, const char *prefix, const char *name, size_t rows, size_t m,
                 size_t n, const double *x, double *y) {
    char stem[128];
    (void)snprintf(stem, sizeof stem, "%s%s", prefix, name);
    linear(r->flux, stem, rows, m, n, x, y);
    if (r->hooks && r->hooks->site)
        r->hooks->site(r->hooks->self, index, rows, m, n, x, y);
}

static int skips(const run *r, size_t module) {
    return r->hooks && r->hooks->skip && r->hooks->skip(r->hooks->self, module);
}

static void join(const run *r, size_t module, size_t output, size_t rows, const double *gate, double *out,
                 double *h) {
    if (r->hooks && r->hooks->output)
        r->hooks->output(r->hooks->self, module, output, rows, D, out);
    for (size_t i = 0; i < rows * D; i++)
        h[i] += gate[i % D] * out[i];
}

static double silu(double v) {
    return v / (1 + exp(-v));
}

static double gelu(double v) {
    return 0.5 * v * (1 + tanh(sqrt(2 / acos(-1.0)) * (v + 0.044715 * v * v * v)));
}

static void norm(size_t rows, const double *h, const double *shift, const double *scale, double *y) {
    for (size_t i = 0; i < rows; i++) {
        double sum = 0, squares = 0;
        for (size_t j = 0; j < D; j++)
            sum += h[i * D + j];
        for (size_t j = 0; j < D; j++)
            squares += pow(h[i * D + j] - sum / D, 2);
        for (size_t j = 0; j < D; j++)
            y[i * D + j] = (h[i * D + j] - sum / D) / sqrt(squares / D + 1e-6) * (1 + scale[j]) + shift[j];
    }
}

/* Heads of token `token` of the joint sequence, in place. */
static void turn(const run *r, const char *prefix, const char *name, size_t token, double *row) {
    static const size_t axis[] = {2, 2, 4};
    const size_t at = token < T ? 0 : token - T;
    const double position[] = {0, (double)(at / FLUX_COLS), (double)(at % FLUX_COLS)};
    char stem[128];
    (void)snprintf(stem, sizeof stem, "%s%s", prefix, name);
    const float *weight = find(r->flux, stem, "weight");
    for (size_t h = 0; h < FLUX_HEADS; h++) {
        double *u = row + h * W, square = 0;
        size_t first = 0;
        for (size_t j = 0; j < W; j++)
            square += u[j] * u[j];
        for (size_t j = 0; j < W; j++)
            u[j] *= (double)weight[j] / sqrt(square / W + 1e-6);
        for (size_t a = 0; a < 3; first += axis[a++])
            for (size_t j = 0; j < axis[a]; j += 2) {
                const double angle = position[a] / pow(10000, (double)j / (double)axis[a]);
                const double even = u[first + j], odd = u[first + j + 1];
                u[first + j] = even * cos(angle) - odd * sin(angle);
                u[first + j + 1] = odd * cos(angle) + even * sin(angle);
            }
    }
}

static void attention(const double *q, const double *k, const double *v, double *out) {
    for (size_t i = 0; i < J; i++)
        for (size_t h = 0; h < FLUX_HEADS; h++) {
            double weight[J], sum = 0;
            for (size_t j = 0; j < J; j++) {
                double dot = 0;
                for (size_t c = h * W; c < (h + 1) * W; c++)
                    dot += q[i * D + c] * k[j * D + c];
                sum += weight[j] = exp(dot / sqrt((double)W));
            }
            for (size_t c = h * W; c < (h + 1) * W; c++) {
                out[i * D + c] = 0;
                for (size_t j = 0; j < J; j++)
                    out[i * D + c] += weight[j] / sum * v[j * D + c];
            }
        }
}

/* --- blocks --- */

static void modulate(const run *r, const char *prefix, const char *name, size_t parts, double *mod) {
    char stem[128];
    (void)snprintf(stem, sizeof stem, "%s%s", prefix, name);
    linear(r->flux, stem, 1, parts * D, D, r->temb, mod);
}

static void double_block(const run *r, size_t b, double *image, double *text) {
    static const char *const qkv[2][3] = {{"attn.to_q", "attn.to_k", "attn.to_v"},
                                          {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}};
    static const char *const norms[2][2] = {{"attn.norm_q", "attn.norm_k"},
                                            {"attn.norm_added_q", "attn.norm_added_k"}};
    static const char *const outs[2] = {"attn.to_out.0", "attn.to_add_out"};
    static const char *const mlps[2][2] = {{"ff.net.0.proj", "ff.net.2"},
                                           {"ff_context.net.0.proj", "ff_context.net.2"}};
    static const char *const mods[2] = {"norm1.linear", "norm1_context.linear"};
    const size_t rows[2] = {I, T}, first[2] = {T, 0}, sites = b * 12, module = b * 3;
    double *h[2] = {image, text};
    double mod[2][6 * D], x[J * D], part[3][J * D], mixed[J * D], y[2][I * D] = {{0}}, wide[I * H];
    char prefix[64];
    (void)snprintf(prefix, sizeof prefix, "transformer_blocks.%zu.", b);
    for (size_t s = 0; s < 2; s++)
        modulate(r, prefix, mods[s], 6, mod[s]);
    if (!skips(r, module)) {
        for (size_t s = 0; s < 2; s++) {
            norm(rows[s], h[s], mod[s], mod[s] + D, x);
            for (size_t i = 0; i < 3; i++)
                site(r, sites + 3 * s + i, prefix, qkv[s][i], rows[s], D, D, x, part[i] + first[s] * D);
            for (size_t i = 0; i < 2; i++)
                for (size_t token = first[s]; token < first[s] + rows[s]; token++)
                    turn(r, prefix, norms[s][i], token, part[i] + token * D);
        }
        attention(part[0], part[1], part[2], mixed);
        for (size_t s = 0; s < 2; s++)
            site(r, sites + 6 + s, prefix, outs[s], rows[s], D, D, mixed + first[s] * D, y[s]);
    }
    for (size_t s = 0; s < 2; s++)
        join(r, module, s, rows[s], mod[s] + 2 * D, y[s], h[s]);
    for (size_t s = 0; s < 2; s++) {
        memset(y[s], 0, sizeof y[s]);
        if (!skips(r, module + 1 + s)) {
            norm(rows[s], h[s], mod[s] + 3 * D, mod[s] + 4 * D, x);
            site(r, sites + 8 + 2 * s, prefix, mlps[s][0], rows[s], H, D, x, wide);
            for (size_t i = 0; i < rows[s] * H; i++)
                wide[i] = gelu(wide[i]);
            site(r, sites + 9 + 2 * s, prefix, mlps[s][1], rows[s], D, H, wide, y[s]);
        }
        join(r, module + 1 + s, 0, rows[s], mod[s] + 5 * D, y[s], h[s]);
    }
}

static void single_block(const run *r, size_t b, double *h) {
    static const char *const qkv[3] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    const size_t sites = FLUX_DOUBLES * 12 + b * 5, module = FLUX_DOUBLES * 3 + b;
    double mod[3 * D], x[J * D], part[3][J * D], mixed[J * D], wide[J * H], both[J * (D + H)], y[J * D] = {0};
    char prefix[64];
    (void)snprintf(prefix, sizeof prefix, "single_transformer_blocks.%zu.", b);
    modulate(r, prefix, "norm.linear", 3, mod);
    if (!skips(r, module)) {
        norm(J, h, mod, mod + D, x);
        for (size_t i = 0; i < 3; i++)
            site(r, sites + i, prefix, qkv[i], J, D, D, x, part[i]);
        site(r, sites + 3, prefix, "proj_mlp", J, H, D, x, wide);
        for (size_t token = 0; token < J; token++) {
            turn(r, prefix, "attn.norm_q", token, part[0] + token * D);
            turn(r, prefix, "attn.norm_k", token, part[1] + token * D);
        }
        attention(part[0], part[1], part[2], mixed);
        for (size_t i = 0; i < J; i++) {
            memcpy(both + i * (D + H), mixed + i * D, D * sizeof *both);
            for (size_t j = 0; j < H; j++)
                both[i * (D + H) + D + j] = gelu(wide[i * H + j]);
        }
        site(r, sites + 4, prefix, "proj_out", J, D, D + H, both, y);
    }
    join(r, module, 0, J, mod + 2 * D, y, h);
}

/* --- the forward --- */

static void add_embedding(const naive_flux *flux, const char *which, size_t n, const double *x,
                          double *temb) {
    double hidden[D], out[D];
    char stem[96];
    (void)snprintf(stem, sizeof stem, "time_text_embed.%s.linear_1", which);
    linear(flux, stem, 1, D, n, x, hidden);
    for (size_t i = 0; i < D; i++)
        hidden[i] = silu(hidden[i]);
    (void)snprintf(stem, sizeof stem, "time_text_embed.%s.linear_2", which);
    linear(flux, stem, 1, D, D, hidden, out);
    for (size_t i = 0; i < D; i++)
        temb[i] += out[i];
}

static void waves(double value, double *out) {
    for (size_t k = 0; k < FLUX_FREQUENCIES / 2; k++) {
        const double phase = value / pow(10000, (double)k / (FLUX_FREQUENCIES / 2));
        out[k] = cos(phase);
        out[FLUX_FREQUENCIES / 2 + k] = sin(phase);
    }
}

static void widen(const ousac_inputs *inputs, ousac_input input, uint64_t sample, size_t count,
                  double *values) {
    float row[T * FLUX_EMBED];
    ousac_inputs_read(inputs, input, sample, row);
    for (size_t i = 0; i < count; i++)
        values[i] = (double)row[i];
}

void naive_flux_forward(const naive_flux *flux, const ousac_inputs *inputs, uint64_t sample, int branch,
                        const ousac_step *step, const double *x, const naive_flux_hooks *hooks, double *out) {
    const int negative = branch == OUSAC_BRANCH_UNCOND;
    double embeds[T * FLUX_EMBED], pooled[FLUX_POOLED], features[FLUX_FREQUENCIES], packed[I * FLUX_PACKED];
    double image[I * D], text[T * D], joint[J * D], mod[2 * D], last[I * D];
    double guidance = step->tells ? step->guidance : step->scale;
    run r = {.flux = flux, .hooks = hooks};
    widen(inputs, negative ? OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS : OUSAC_INPUT_PROMPT_EMBEDS, sample,
          T * FLUX_EMBED, embeds);
    widen(inputs, negative ? OUSAC_INPUT_NEGATIVE_POOLED : OUSAC_INPUT_POOLED, sample, FLUX_POOLED, pooled);
    if (!step->tells && ousac_inputs_has(inputs, OUSAC_INPUT_GUIDANCE))
        widen(inputs, OUSAC_INPUT_GUIDANCE, sample, 1, &guidance);
    waves(step->timestep, features);
    add_embedding(flux, "timestep_embedder", FLUX_FREQUENCIES, features, r.temb);
    add_embedding(flux, "text_embedder", FLUX_POOLED, pooled, r.temb);
    if (has(flux, "time_text_embed.guidance_embedder.linear_1.weight")) {
        waves(1000 * guidance, features);
        add_embedding(flux, "guidance_embedder", FLUX_FREQUENCIES, features, r.temb);
    }
    for (size_t i = 0; i < D; i++)
        r.temb[i] = silu(r.temb[i]);
    for (size_t i = 0; i < I; i++) /* c * 4 + dy * 2 + dx */
        for (size_t v = 0; v < FLUX_PACKED; v++) {
            const size_t row = i / FLUX_COLS * 2 + v / 2 % 2, col = i % FLUX_COLS * 2 + v % 2;
            packed[i * FLUX_PACKED + v] = x[(v / 4 * FLUX_ROWS * 2 + row) * FLUX_COLS * 2 + col];
        }
    linear(flux, "x_embedder", I, D, FLUX_PACKED, packed, image);
    linear(flux, "context_embedder", T, D, FLUX_EMBED, embeds, text);
    for (size_t b = 0; b < FLUX_DOUBLES; b++)
        double_block(&r, b, image, text);
    memcpy(joint, text, sizeof text);
    memcpy(joint + T * D, image, sizeof image);
    for (size_t b = 0; b < FLUX_SINGLES; b++)
        single_block(&r, b, joint);
    linear(flux, "norm_out.linear", 1, 2 * D, D, r.temb, mod); /* scale, then shift */
    norm(I, joint + T * D, mod + D, mod, last);
    linear(flux, "proj_out", I, FLUX_PACKED, D, last, packed);
    for (size_t i = 0; i < I; i++)
        for (size_t v = 0; v < FLUX_PACKED; v++) {
            const size_t row = i / FLUX_COLS * 2 + v / 2 % 2, col = i % FLUX_COLS * 2 + v % 2;
            out[(v / 4 * FLUX_ROWS * 2 + row) * FLUX_COLS * 2 + col] = packed[i * FLUX_PACKED + v];
        }
}

void naive_flux_trajectory(const naive_flux *flux, const ousac_inputs *inputs, const ousac_schedule *schedule,
                           uint64_t seed, uint64_t sample, const naive_flux_hooks *hooks, float *x) {
    double state[FLUX_SIZE], flow[2][FLUX_SIZE];
    ousac_philox_normals(seed, OUSAC_STREAM_NOISE, sample, FLUX_SIZE, x);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        const double next = i + 1 < schedule->step_count ? step[1].timestep : 0;
        for (size_t j = 0; j < FLUX_SIZE; j++)
            state[j] = (double)x[j];
        for (int b = 1; b >= 0; b--)
            if (ousac_mode_evaluates(step->mode, b)) {
                if (hooks && hooks->begin)
                    hooks->begin(hooks->self, i, b);
                naive_flux_forward(flux, inputs, sample, b, step, state, hooks, flow[b]);
            }
        for (size_t j = 0; j < FLUX_SIZE; j++) {
            double v = flow[step->mode == OUSAC_MODE_UNCOND][j];
            if (step->mode == OUSAC_MODE_CFG)
                v = flow[1][j] + step->scale * (flow[0][j] - flow[1][j]);
            x[j] = (float)(state[j] + (next - step->timestep) / 1000 * v);
        }
    }
}
