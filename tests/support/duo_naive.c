/* The forward of tests/support/duo.h in double precision, site by site, and its trajectories. */
#include "tests/support/duo.h"

#include "calib/stats/philox.h"

#include <math.h>
#include <string.h>

enum { D = DUO_D, H = DUO_HIDDEN };

typedef struct oracle {
    const ousac_model *model;
    const duo_hooks *hooks;
    double image[DUO_IMAGE][D], text[DUO_TEXT][D], joint[DUO_JOINT][D], a[D];
    double kv[DUO_DOUBLES][DUO_TEXT][2 * D];
} oracle;

static void exact(size_t rows, size_t m, size_t n, const float *w, const float *bias, const double *x,
                  double *y) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < m; j++) {
            double sum = (double)bias[j];
            for (size_t k = 0; k < n; k++)
                sum += (double)w[j * n + k] * x[i * n + k];
            y[i * m + j] = sum;
        }
}

static void exact_outer(const oracle *o, size_t index, size_t rows, const double *x, double *y) {
    const duo_outer *l = &((const duo *)o->model->state)->outer[index];
    exact(rows, l->m, l->n, l->w, l->bias, x, y);
}

static void exact_site(const oracle *o, size_t site, size_t rows, const double *x, double *y) {
    const ousac_site *s = &o->model->arch.sites[site];
    exact(rows, s->m, s->n, o->model->weight[site], o->model->bias[site], x, y);
    if (o->hooks && o->hooks->site)
        o->hooks->site(o->hooks->self, site, rows, s->m, s->n, x, y);
}

static int skips(const oracle *o, size_t module) {
    return o->hooks && o->hooks->skip && o->hooks->skip(o->hooks->self, module);
}

/* The module's output joins the stream. */
static void join(const oracle *o, size_t module, size_t output, size_t rows, double *out, double (*h)[D]) {
    if (o->hooks && o->hooks->output)
        o->hooks->output(o->hooks->self, module, output, rows, D, out);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < D; j++)
            h[i][j] += out[i * D + j] / 2;
}

static void exact_norm(size_t rows, double (*h)[D], const double *a, double *y) {
    for (size_t i = 0; i < rows; i++) {
        double sum = 0, squares = 0;
        for (size_t j = 0; j < D; j++) {
            sum += h[i][j];
            squares += h[i][j] * h[i][j];
        }
        const double mean = sum / D, deviation = sqrt(squares / D - mean * mean + 1e-6);
        for (size_t j = 0; j < D; j++)
            y[i * D + j] = (h[i][j] - mean) / deviation * (a ? 1 + a[j] : 1);
    }
}

/* q (rows, d) on k, v (keys, d): all heads. */
static void exact_attention(size_t rows, size_t keys, const double *q, const double *k, const double *v,
                            double *out) {
    const size_t width = D / DUO_HEADS;
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < DUO_HEADS; h++) {
            double weight[DUO_JOINT], sum = 0;
            for (size_t j = 0; j < keys; j++) {
                double dot = 0;
                for (size_t c = h * width; c < (h + 1) * width; c++)
                    dot += q[i * D + c] * k[j * D + c];
                sum += weight[j] = exp(dot / sqrt((double)width));
            }
            for (size_t c = h * width; c < (h + 1) * width; c++) {
                out[i * D + c] = 0;
                for (size_t j = 0; j < keys; j++)
                    out[i * D + c] += weight[j] / sum * v[j * D + c];
            }
        }
}

static void exact_joint(oracle *o, size_t b) {
    enum { T = DUO_TEXT * D };
    double xi[DUO_IMAGE * D], xt[T], qkv[3][DUO_JOINT * D], mixed[DUO_JOINT * D], yi[DUO_IMAGE * D] = {0},
                                                                                                 yt[T] = {0};
    if (!skips(o, b * 4)) {
        exact_norm(DUO_IMAGE, o->image, o->a, xi);
        exact_norm(DUO_TEXT, o->text, o->a, xt);
        for (size_t i = 0; i < 3; i++) {
            exact_site(o, b * 14 + i, DUO_IMAGE, xi, qkv[i] + T);
            exact_site(o, b * 14 + 3 + i, DUO_TEXT, xt, qkv[i]);
        }
        exact_attention(DUO_JOINT, DUO_JOINT, qkv[0], qkv[1], qkv[2], mixed);
        exact_site(o, b * 14 + 6, DUO_IMAGE, mixed + T, yi);
        exact_site(o, b * 14 + 7, DUO_TEXT, mixed, yt);
    }
    join(o, b * 4, 0, DUO_IMAGE, yi, o->image);
    join(o, b * 4, 1, DUO_TEXT, yt, o->text);
}

static void exact_cross(oracle *o, size_t b) {
    double x[DUO_IMAGE * D], q[DUO_IMAGE * D], k[DUO_TEXT * D], v[DUO_TEXT * D], y[DUO_IMAGE * D] = {0};
    if (!skips(o, b * 4 + 1)) {
        exact_norm(DUO_IMAGE, o->image, o->a, x);
        exact_site(o, b * 14 + 8, DUO_IMAGE, x, q);
        for (size_t i = 0; i < DUO_TEXT; i++) {
            memcpy(k + i * D, o->kv[b][i], D * sizeof *k);
            memcpy(v + i * D, o->kv[b][i] + D, D * sizeof *v);
        }
        exact_attention(DUO_IMAGE, DUO_TEXT, q, k, v, x);
        exact_site(o, b * 14 + 9, DUO_IMAGE, x, y);
    }
    join(o, b * 4 + 1, 0, DUO_IMAGE, y, o->image);
}

static void exact_mlp(oracle *o, size_t b, int of_text) {
    const size_t rows = of_text ? DUO_TEXT : DUO_IMAGE, site = b * 14 + (of_text ? 12 : 10);
    double(*h)[D] = of_text ? o->text : o->image;
    double x[DUO_IMAGE * D], inner[DUO_IMAGE * H], y[DUO_IMAGE * D] = {0};
    if (!skips(o, b * 4 + (of_text ? 3 : 2))) {
        exact_norm(rows, h, o->a, x);
        exact_site(o, site, rows, x, inner);
        for (size_t i = 0; i < rows * H; i++)
            inner[i] = tanh(inner[i]);
        exact_site(o, site + 1, rows, inner, y);
    }
    join(o, b * 4 + (of_text ? 3 : 2), 0, rows, y, h);
}

static void exact_single(oracle *o, size_t b) {
    const size_t site = DUO_DOUBLES * 14 + b * 5;
    double x[DUO_JOINT * D], qkv[3][DUO_JOINT * D], inner[DUO_JOINT * H], mixed[DUO_JOINT * D],
        both[DUO_JOINT * (D + H)], y[DUO_JOINT * D] = {0};
    if (!skips(o, DUO_DOUBLES * 4 + b)) {
        exact_norm(DUO_JOINT, o->joint, o->a, x);
        for (size_t i = 0; i < 3; i++)
            exact_site(o, site + i, DUO_JOINT, x, qkv[i]);
        exact_site(o, site + 3, DUO_JOINT, x, inner);
        exact_attention(DUO_JOINT, DUO_JOINT, qkv[0], qkv[1], qkv[2], mixed);
        for (size_t r = 0; r < DUO_JOINT; r++) {
            memcpy(both + r * (D + H), mixed + r * D, D * sizeof *both);
            for (size_t j = 0; j < H; j++)
                both[r * (D + H) + D + j] = tanh(inner[r * H + j]);
        }
        exact_site(o, site + 4, DUO_JOINT, both, y);
    }
    join(o, DUO_DOUBLES * 4 + b, 0, DUO_JOINT, y, o->joint);
}

static void widen(const ousac_model *model, ousac_input input, uint64_t sample, size_t count,
                  double *values) {
    float row[DUO_TEXT * DUO_EMBED];
    ousac_inputs_read(model->inputs, input, sample, row);
    for (size_t i = 0; i < count; i++)
        values[i] = (double)row[i];
}

void duo_naive_forward(const ousac_model *model, uint64_t sample, int branch, double timestep,
                       const double *x, const duo_hooks *hooks, double *out) {
    const int negative = branch == OUSAC_BRANCH_UNCOND;
    const double features[4] = {cos(timestep / 1000), sin(timestep / 1000), cos(timestep / 100),
                                sin(timestep / 100)};
    double embeds[DUO_TEXT * DUO_EMBED], pooled[DUO_POOLED], guidance, part[3][D], last[DUO_JOINT * D];
    oracle o = {.model = model, .hooks = hooks};
    widen(model, negative ? OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS : OUSAC_INPUT_PROMPT_EMBEDS, sample,
          DUO_TEXT * DUO_EMBED, embeds);
    widen(model, negative ? OUSAC_INPUT_NEGATIVE_POOLED : OUSAC_INPUT_POOLED, sample, DUO_POOLED, pooled);
    widen(model, OUSAC_INPUT_GUIDANCE, sample, 1, &guidance);
    exact_outer(&o, DUO_OUTER_T, 1, features, part[0]);
    exact_outer(&o, DUO_OUTER_POOLED, 1, pooled, part[1]);
    exact_outer(&o, DUO_OUTER_GUIDANCE, 1, &guidance, part[2]);
    for (size_t j = 0; j < D; j++) {
        const double sum = part[0][j] + part[1][j] + part[2][j];
        o.a[j] = sum / (1 + exp(-sum));
    }
    exact_outer(&o, DUO_OUTER_TEXT, DUO_TEXT, embeds, &o.text[0][0]);
    for (size_t i = 0; i < DUO_IMAGE; i++)
        exact_outer(&o, DUO_OUTER_X, 1, (const double[]){x[i], x[DUO_IMAGE + i]}, o.image[i]);
    for (size_t b = 0; b < DUO_DOUBLES; b++) {
        exact_outer(&o, DUO_OUTER_KV + b, DUO_TEXT, embeds, &o.kv[b][0][0]);
        exact_joint(&o, b);
        exact_cross(&o, b);
        exact_mlp(&o, b, 0);
        exact_mlp(&o, b, 1);
    }
    memcpy(o.joint, o.text, sizeof o.text);
    memcpy(o.joint[DUO_TEXT], o.image, sizeof o.image);
    for (size_t b = 0; b < DUO_SINGLES; b++)
        exact_single(&o, b);
    exact_norm(DUO_JOINT, o.joint, NULL, last);
    for (size_t i = 0; i < DUO_IMAGE; i++) {
        double pixel[DUO_CHANNELS];
        exact_outer(&o, DUO_OUTER_Y, 1, last + (DUO_TEXT + i) * D, pixel);
        for (size_t c = 0; c < DUO_CHANNELS; c++)
            out[c * DUO_IMAGE + i] = pixel[c];
    }
}

void duo_naive_trajectory(const ousac_model *model, const ousac_schedule *schedule, uint64_t seed,
                          uint64_t sample, const duo_hooks *hooks, float *x) {
    double state[DUO_SIZE], flow[2][DUO_SIZE];
    ousac_philox_normals(seed, OUSAC_STREAM_NOISE, sample, DUO_SIZE, x);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        const double next = i + 1 < schedule->step_count ? step[1].timestep : 0;
        for (size_t j = 0; j < DUO_SIZE; j++)
            state[j] = (double)x[j];
        for (int b = 1; b >= 0; b--)
            if (ousac_mode_evaluates(step->mode, b)) {
                if (hooks && hooks->begin)
                    hooks->begin(hooks->self, i, b);
                duo_naive_forward(model, sample, b, step->timestep, state, hooks, flow[b]);
            }
        for (size_t j = 0; j < DUO_SIZE; j++) {
            double v = flow[step->mode == OUSAC_MODE_UNCOND][j];
            if (step->mode == OUSAC_MODE_CFG && j < DUO_IMAGE) /* guidance on the first channel alone */
                v = flow[1][j] + step->scale * (flow[0][j] - flow[1][j]);
            x[j] = (float)(state[j] + (next - step->timestep) / 1000 * v);
        }
    }
}
