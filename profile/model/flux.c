#include "profile/model/flux.h"

#include "formats/memory.h"
#include "formats/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const float NORM_EPS = 1e-6F;
/* What the embedders see is a thousand times the noise level, and the guidance scale. */
static const double GUIDANCE_FACTOR = 1000;

enum { IMAGE = OUSAC_FLUX_IMAGE, TEXT = OUSAC_FLUX_TEXT };

/* Per stream: [IMAGE] and [TEXT]; one lies behind the other in one block, since single blocks take the block as that
 * of the joint stream. */
typedef struct workspace {
    size_t batch;
    float *host;               /* host: a row of inputs, or features */
    float *features;           /* (batch, frequencies) */
    float *embed_hidden;       /* (batch, d) */
    float *embedded;           /* (batch, d) */
    float *condition;          /* (batch, d): silu of timestep, text and guidance embeddings */
    float *modulation[2];      /* (batch, 6d) each */
    float *stream[2];          /* (batch tokens, d): the residual streams */
    float *joint;              /* (batch joint, d): that of the single blocks */
    float *normed;             /* (batch joint, d); of attention's output too */
    float *wide;               /* (batch joint, 3d + hidden) */
    float *qkv;                /* (batch joint, 3d): text first in each sample, heads turned */
    float *mixed;              /* (batch joint, d + hidden) */
    float *out;                /* (batch joint, d): a module's outputs */
    float *packed;             /* (batch image, packed) */
    float *work;               /* of attention */
    float *embeds;             /* (branches, batch text, embed) */
    float *pooled;             /* (branches, batch, pooled) */
    float *guidance;           /* host: (batch), of the inputs file */
    float *text_in;            /* (branches, batch text, d): what the text stream begins with */
    float *pooled_in;          /* (branches, batch, d): embedded */
    int ready[OUSAC_BRANCHES]; /* these two are computed */
    float *slab;               /* backend memory behind all but the host's */
} workspace;

/* Points the parts into the slab; returns their floats. The branches that are never run take no room. */
static size_t carve(const ousac_model *model, size_t batch, workspace *ws, float *slab) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d, joint = batch * flux->joint, branches = model->has_uncond ? OUSAC_BRANCHES : 1;
    const size_t text = branches * batch * flux->text;
    const struct {
        float **part;
        size_t count;
    } parts[] = {{&ws->features, batch * flux->frequencies},
                 {&ws->embed_hidden, batch * d},
                 {&ws->embedded, batch * d},
                 {&ws->condition, batch * d},
                 {&ws->modulation[IMAGE], batch * 6 * d},
                 {&ws->modulation[TEXT], batch * 6 * d},
                 {&ws->stream[IMAGE], batch * flux->image * d},
                 {&ws->stream[TEXT], batch * flux->text * d},
                 {&ws->joint, joint * d},
                 {&ws->normed, joint * d},
                 {&ws->wide, joint * (3 * d + flux->hidden)},
                 {&ws->qkv, joint * 3 * d},
                 {&ws->mixed, joint * (d + flux->hidden)},
                 {&ws->out, joint * d},
                 {&ws->packed, batch * flux->image * flux->packed},
                 {&ws->work, be->attention_work(be, flux->joint, flux->joint, flux->head_dim)},
                 {&ws->embeds, text * flux->embed},
                 {&ws->pooled, branches * batch * flux->pooled},
                 {&ws->text_in, text * d},
                 {&ws->pooled_in, branches * batch * d}};
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (slab)
            *parts[i].part = slab + total;
        total += (parts[i].count + 15) / 16 * 16; /* 64 bytes */
    }
    return total;
}

static uint64_t workspace_bytes(const ousac_model *model, size_t batch) {
    workspace none = {0};
    return (uint64_t)carve(model, batch, &none, NULL) * sizeof(float);
}

static void workspace_free(const ousac_model *model, void *pointer) {
    workspace *ws = pointer;
    if (!ws)
        return;
    model->backend->release(model->backend, ws->slab);
    ousac_free(ws->host);
    ousac_free(ws->guidance);
    ousac_free(ws);
}

static ousac_status workspace_create(const ousac_model *model, size_t batch, void **pointer,
                                     ousac_error *error) {
    const ousac_flux *flux = model->state;
    workspace *ws = ousac_calloc(1, sizeof *ws);
    const size_t text = flux->text * flux->embed, features = batch * flux->frequencies;
    const size_t row = text > flux->pooled ? text : flux->pooled;
    if (ws) {
        ws->batch = batch;
        ws->slab = model->backend->alloc(model->backend, carve(model, batch, ws, NULL), sizeof(float));
        ws->host = ousac_malloc(row > features ? row : features, sizeof *ws->host);
        ws->guidance = ousac_malloc(batch, sizeof *ws->guidance);
    }
    if (!ws || !ws->slab || !ws->host || !ws->guidance) {
        workspace_free(model, ws);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace of %zu samples", batch);
    }
    (void)carve(model, batch, ws, ws->slab);
    *pointer = ws;
    return OUSAC_STATUS_OK;
}

/* --- inputs --- */

static const ousac_input EMBEDS[OUSAC_BRANCHES] = {OUSAC_INPUT_PROMPT_EMBEDS,
                                                   OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS},
                         POOLED[OUSAC_BRANCHES] = {OUSAC_INPUT_POOLED, OUSAC_INPUT_NEGATIVE_POOLED};

static ousac_status check_inputs(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const size_t text[] = {flux->text, flux->embed}, pooled[] = {flux->pooled};
    if (!inputs)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: a flux draws no text: give --inputs FILE with prompt_embeds and pooled",
                          model->path);
    /* The unconditional branch takes both or none. */
    const int negative = ousac_inputs_has(inputs, EMBEDS[OUSAC_BRANCH_UNCOND]) ||
                         ousac_inputs_has(inputs, POOLED[OUSAC_BRANCH_UNCOND]);
    unsigned taken = 1U << OUSAC_INPUT_NOISE;
    ousac_status status = OUSAC_STATUS_OK;
    for (int b = 0; b < OUSAC_BRANCHES && !status; b++) {
        const int needed = b == OUSAC_BRANCH_COND || negative;
        status = ousac_inputs_expect(inputs, EMBEDS[b], needed, 2, text, error);
        if (!status)
            status = ousac_inputs_expect(inputs, POOLED[b], needed, 1, pooled, error);
        taken |= 1U << EMBEDS[b] | 1U << POOLED[b];
    }
    if (flux->guided)
        taken |= 1U << OUSAC_INPUT_GUIDANCE;
    if (!status && flux->guided)
        status = ousac_inputs_expect(inputs, OUSAC_INPUT_GUIDANCE, 0, 0, NULL, error);
    return status ? status
                  : ousac_inputs_refuse_others(
                        inputs, taken, flux->guided ? "flux" : "flux, without a guidance embedder,", error);
}

static ousac_status set_inputs(const ousac_model *model, void *pointer, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t text = flux->text * flux->embed;
    workspace *ws = pointer;
    ousac_status status = OUSAC_STATUS_OK;
    (void)seed;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    for (size_t b = 0; b < (model->has_uncond ? OUSAC_BRANCHES : 1); b++) {
        ws->ready[b] = 0;
        for (size_t i = 0; i < count && !status; i++) {
            ousac_inputs_read(model->inputs, EMBEDS[b], first + i, ws->host);
            status = be->upload(be, ws->embeds + (b * ws->batch + i) * text, ws->host,
                                text * sizeof *ws->host, error);
            if (status)
                break;
            ousac_inputs_read(model->inputs, POOLED[b], first + i, ws->host);
            status = be->upload(be, ws->pooled + (b * ws->batch + i) * flux->pooled, ws->host,
                                flux->pooled * sizeof *ws->host, error);
        }
    }
    for (size_t i = 0; i < count && ousac_inputs_has(model->inputs, OUSAC_INPUT_GUIDANCE); i++)
        ousac_inputs_read(model->inputs, OUSAC_INPUT_GUIDANCE, first + i, ws->guidance + i);
    return status;
}

static void describe_input(const ousac_model *model, uint64_t seed, uint64_t sample, char *text,
                           size_t size) {
    (void)seed;
    (void)snprintf(text, size, "row %zu of the inputs",
                   model->inputs ? (size_t)(sample % ousac_inputs_rows(model->inputs)) : 0);
}

/* --- conditioning --- */

static ousac_status apply(const ousac_backend *be, const ousac_flux_linear *l, size_t rows, size_t m,
                          size_t n, const float *x, float *y, ousac_error *error) {
    return be->linear(be, rows, m, n, x, n, l->w, n, l->bias, 0, y, m, error);
}

static ousac_status embed(const ousac_model *model, workspace *ws, const ousac_flux_embedder *embedder,
                          size_t rows, size_t n, const float *x, float *y, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    ousac_status status = apply(be, &embedder->first, rows, flux->d, n, x, ws->embed_hidden, error);
    if (!status)
        status = be->silu(be, rows * flux->d, ws->embed_hidden, ws->embed_hidden, error);
    return status ? status : apply(be, &embedder->second, rows, flux->d, flux->d, ws->embed_hidden, y, error);
}

/* S(value) into row `row` of ws->host. */
static void fill_features(const ousac_flux *flux, workspace *ws, size_t row, double value) {
    const size_t half = flux->frequencies / 2;
    float *out = ws->host + row * flux->frequencies;
    for (size_t k = 0; k < half; k++) {
        const double phase = value * exp(-log(10000.0) * (double)k / (double)half);
        out[k] = (float)cos(phase);
        out[half + k] = (float)sin(phase);
    }
}

/* ws->embedded = the embedding of the features in ws->host. */
static ousac_status embed_features(const ousac_model *model, workspace *ws,
                                   const ousac_flux_embedder *embedder, size_t rows, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const ousac_status status =
        be->upload(be, ws->features, ws->host, rows * flux->frequencies * sizeof *ws->host, error);
    return status ? status
                  : embed(model, ws, embedder, rows, flux->frequencies, ws->features, ws->embedded, error);
}

/* What does not change over the steps. */
static ousac_status embed_text(const ousac_model *model, workspace *ws, const ousac_evaluation *e,
                               ousac_error *error) {
    const ousac_flux *flux = model->state;
    const size_t at = (size_t)e->branch * ws->batch, rows = e->count * flux->text;
    ousac_status status = OUSAC_STATUS_OK;
    if (!ws->ready[e->branch]) {
        status =
            apply(model->backend, &flux->text_in, rows, flux->d, flux->embed,
                  ws->embeds + at * flux->text * flux->embed, ws->text_in + at * flux->text * flux->d, error);
        if (!status)
            status = embed(model, ws, &flux->pooled_in, e->count, flux->pooled,
                           ws->pooled + at * flux->pooled, ws->pooled_in + at * flux->d, error);
        ws->ready[e->branch] = !status;
    }
    return status;
}

/* silu(temb) of every sample into ws->condition. */
static ousac_status condition(const ousac_model *model, workspace *ws, const ousac_evaluation *e,
                              ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d;
    const int by_row = !e->told && ousac_inputs_has(model->inputs, OUSAC_INPUT_GUIDANCE);
    ousac_status status = be->copy(be, e->count, d, ws->pooled_in + (size_t)e->branch * ws->batch * d, d,
                                   ws->condition, d, error);
    fill_features(flux, ws, 0, e->timestep);
    if (!status)
        status = embed_features(model, ws, &flux->time_in, 1, error);
    for (size_t i = 0; i < e->count && !status; i++)
        status = be->axpy(be, d, 1, ws->embedded, ws->condition + i * d, error);
    if (!status && flux->guided) {
        for (size_t i = 0; i < e->count; i++)
            fill_features(flux, ws, i, GUIDANCE_FACTOR * (by_row ? (double)ws->guidance[i] : e->guidance));
        status = embed_features(model, ws, &flux->guidance_in, e->count, error);
        if (!status)
            status = be->axpy(be, e->count * d, 1, ws->embedded, ws->condition, error);
    }
    return status ? status : be->silu(be, e->count * d, ws->condition, ws->condition, error);
}

/* --- blocks --- */

static float *place(const ousac_linears *l, size_t group, int output, float *own) {
    return l->place ? l->place(l->self, group, output, own) : own;
}

/* Queries, keys and values of one stream, side by side in `wide` with leading dimension ld, to their rows of ws->qkv:
 * `tokens` of each sample from token `first` of the joint stream, heads normed and turned. */
static ousac_status turn(const ousac_model *model, workspace *ws, size_t count, size_t tokens, size_t first,
                         const float *wide, size_t ld, const float *q_norm, const float *k_norm,
                         ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d, whole = tokens == flux->joint;
    const float *turns = flux->turns + first * flux->head_dim;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t s = 0; s < (whole ? 1 : count) && !status; s++) {
        const size_t rows = whole ? count * tokens : tokens;
        const float *x = wide + s * tokens * ld;
        float *y = ws->qkv + (s * flux->joint + first) * 3 * d;
        if ((status = be->rotate_heads(be, rows, flux->heads, flux->head_dim, x, ld, NORM_EPS, q_norm, turns,
                                       tokens, y, 3 * d, error)) ||
            (status = be->rotate_heads(be, rows, flux->heads, flux->head_dim, x + d, ld, NORM_EPS, k_norm,
                                       turns, tokens, y + d, 3 * d, error)))
            return status;
        status = be->copy(be, rows, d, x + 2 * d, ld, y + 2 * d, 3 * d, error);
    }
    return status;
}

static ousac_status attend(const ousac_model *model, workspace *ws, size_t count, float *out, size_t ld,
                           ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d;
    return be->attention(be, count, flux->joint, flux->heads, flux->head_dim, ws->qkv, ws->qkv + d,
                         ws->qkv + 2 * d, 3 * d, out, ld, ws->work, error);
}

/* Between the samples' rows of one stream, contiguous, and those of the joint stream. */
static ousac_status move_rows(const ousac_model *model, size_t count, int stream, int to_joint, float *joint,
                              float *rows, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d, tokens = model->arch.stream[stream].tokens;
    const size_t first = stream == TEXT ? 0 : flux->text;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t s = 0; s < count && !status; s++) {
        float *in = joint + (s * flux->joint + first) * d, *own = rows + s * tokens * d;
        status = be->copy(be, tokens, d, to_joint ? own : in, d, to_joint ? in : own, d, error);
    }
    return status;
}

static ousac_status joint_attention(const ousac_model *model, workspace *ws, size_t b, size_t count,
                                    const ousac_linears *l, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const ousac_flux_double *block = &flux->double_block[b];
    const size_t d = flux->d, module = b * OUSAC_FLUX_DOUBLE_MODULES, group = b * OUSAC_FLUX_DOUBLE_GROUPS;
    const size_t rows[2] = {count * flux->image, count * flux->text}, first[2] = {flux->text, 0};
    ousac_rows out[2] = {{ws->out, rows[IMAGE], d}, {ws->out + rows[IMAGE] * d, rows[TEXT], d}};
    int live = 1;
    ousac_status status = l->module_begin(l->self, module, out, &live, error);
    if (!status && live) {
        for (int s = IMAGE; s <= TEXT; s++) {
            const ousac_flux_half *half = &block->half[s];
            const float *mod = ws->modulation[s];
            const size_t behind = s == TEXT ? rows[IMAGE] : 0, tokens = model->arch.stream[s].tokens;
            float *x = place(l, group + (size_t)s, 0, ws->normed + behind * d);
            float *wide = place(l, group + (size_t)s, 1, ws->wide + behind * 3 * d);
            if ((status = be->norm_modulate(be, rows[s], d, ws->stream[s], NORM_EPS, mod, mod + d, tokens,
                                            6 * d, x, error)) ||
                (status = l->linear(l->self, group + (size_t)s, rows[s], x, d, wide, 3 * d, error)) ||
                (status = turn(model, ws, count, tokens, first[s], wide, 3 * d, half->q_norm, half->k_norm,
                               error)))
                return status;
        }
        if ((status = attend(model, ws, count, ws->normed, d, error)))
            return status;
        for (int s = IMAGE; s <= TEXT; s++) {
            const size_t behind = s == TEXT ? rows[IMAGE] : 0;
            float *x = place(l, group + 2 + (size_t)s, 0, ws->mixed + behind * d);
            out[s].data = place(l, group + 2 + (size_t)s, 1, out[s].data);
            if ((status = move_rows(model, count, s, 0, ws->normed, x, error)) ||
                (status = l->linear(l->self, group + 2 + (size_t)s, rows[s], x, d, out[s].data, d, error)))
                return status;
        }
        status = l->module_end(l->self, module, out, error);
    }
    for (int s = IMAGE; s <= TEXT && !status; s++)
        status = be->add_gated(be, rows[s], d, ws->stream[s], out[s].data, ws->modulation[s] + 2 * d,
                               model->arch.stream[s].tokens, 6 * d, error);
    return status;
}

static ousac_status mlp(const ousac_model *model, workspace *ws, size_t b, int s, size_t count,
                        const ousac_linears *l, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = flux->d, h = flux->hidden, tokens = model->arch.stream[s].tokens, rows = count * tokens;
    const size_t module = b * OUSAC_FLUX_DOUBLE_MODULES + 1 + (size_t)s;
    const size_t group = b * OUSAC_FLUX_DOUBLE_GROUPS + 4 + 2 * (size_t)s;
    const float *mod = ws->modulation[s] + 3 * d;
    int live = 1;
    ousac_rows out = {ws->out, rows, d};
    ousac_status status = l->module_begin(l->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(l, group, 0, ws->normed), *wide = place(l, group, 1, ws->wide);
        float *bent = place(l, group + 1, 0, ws->wide);
        out.data = place(l, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, rows, d, ws->stream[s], NORM_EPS, mod, mod + d, tokens, 6 * d, x,
                                        error)) ||
            (status = l->linear(l->self, group, rows, x, d, wide, h, error)) ||
            (status = be->gelu_tanh(be, rows * h, wide, bent, error)) ||
            (status = l->linear(l->self, group + 1, rows, bent, h, out.data, d, error)))
            return status;
        status = l->module_end(l->self, module, &out, error);
    }
    return status ? status
                  : be->add_gated(be, rows, d, ws->stream[s], out.data, mod + 2 * d, tokens, 6 * d, error);
}

static ousac_status double_block(const ousac_model *model, workspace *ws, size_t b, size_t count,
                                 const ousac_linears *l, ousac_error *error) {
    const ousac_flux *flux = model->state;
    ousac_status status = OUSAC_STATUS_OK;
    for (int s = IMAGE; s <= TEXT && !status; s++)
        status = apply(model->backend, &flux->double_block[b].half[s].modulation, count, 6 * flux->d, flux->d,
                       ws->condition, ws->modulation[s], error);
    if (!status)
        status = joint_attention(model, ws, b, count, l, error);
    for (int s = IMAGE; s <= TEXT && !status; s++)
        status = mlp(model, ws, b, s, count, l, error);
    return status;
}

static ousac_status single_block(const ousac_model *model, workspace *ws, size_t b, size_t count,
                                 const ousac_linears *l, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    const ousac_flux_single *block = &flux->single_block[b];
    const size_t d = flux->d, h = flux->hidden, rows = count * flux->joint, wide_cols = 3 * d + h;
    const size_t module = flux->doubles * OUSAC_FLUX_DOUBLE_MODULES + b;
    const size_t group = flux->doubles * OUSAC_FLUX_DOUBLE_GROUPS + b * OUSAC_FLUX_SINGLE_GROUPS;
    const float *mod = ws->modulation[IMAGE];
    int live = 1;
    ousac_rows out = {ws->out, rows, d};
    ousac_status status =
        apply(be, &block->modulation, count, 3 * d, d, ws->condition, ws->modulation[IMAGE], error);
    if (!status)
        status = l->module_begin(l->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(l, group, 0, ws->normed), *wide = place(l, group, 1, ws->wide);
        float *mixed = place(l, group + 1, 0, ws->mixed);
        out.data = place(l, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, rows, d, ws->joint, NORM_EPS, mod, mod + d, flux->joint, 3 * d, x,
                                        error)) ||
            (status = l->linear(l->self, group, rows, x, d, wide, wide_cols, error)) ||
            (status = turn(model, ws, count, flux->joint, 0, wide, wide_cols, block->q_norm, block->k_norm,
                           error)) ||
            (status = attend(model, ws, count, mixed, d + h, error)) ||
            (status = be->gelu_tanh_rows(be, rows, h, wide + 3 * d, wide_cols, mixed + d, d + h, error)) ||
            (status = l->linear(l->self, group + 1, rows, mixed, d + h, out.data, d, error)))
            return status;
        status = l->module_end(l->self, module, &out, error);
    }
    return status ? status
                  : be->add_gated(be, rows, d, ws->joint, out.data, mod + 2 * d, flux->joint, 3 * d, error);
}

static ousac_status forward(const ousac_model *model, void *pointer, const ousac_evaluation *e,
                            const float *x, const ousac_linears *linears, float *out, ousac_error *error) {
    const ousac_flux *flux = model->state;
    const ousac_backend *be = model->backend;
    workspace *ws = pointer;
    const size_t d = flux->d, count = e->count, rows = count * flux->image;
    const size_t sample = flux->image * flux->packed, text = flux->text * d;
    const float *mod = ws->modulation[IMAGE];
    ousac_status status;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    if ((status = embed_text(model, ws, e, error)) || (status = condition(model, ws, e, error)) ||
        (status = be->gather(be, count, sample, flux->pack_index, x, sample, ws->packed, sample, error)) ||
        (status = apply(be, &flux->image_in, rows, d, flux->packed, ws->packed, ws->stream[IMAGE], error)) ||
        (status = be->copy(be, count * flux->text, d, ws->text_in + (size_t)e->branch * ws->batch * text, d,
                           ws->stream[TEXT], d, error)))
        return status;
    for (size_t b = 0; b < flux->doubles; b++)
        if ((status = double_block(model, ws, b, count, linears, error)))
            return status;
    for (int s = IMAGE; s <= TEXT; s++)
        if ((status = move_rows(model, count, s, 1, ws->joint, ws->stream[s], error)))
            return status;
    for (size_t b = 0; b < flux->singles; b++)
        if ((status = single_block(model, ws, b, count, linears, error)))
            return status;
    if ((status = move_rows(model, count, IMAGE, 0, ws->joint, ws->stream[IMAGE], error)) ||
        (status = apply(be, &flux->final_modulation, count, 2 * d, d, ws->condition, ws->modulation[IMAGE],
                        error)) ||
        (status = be->norm_modulate(be, rows, d, ws->stream[IMAGE], NORM_EPS, mod + d, mod, flux->image,
                                    2 * d, ws->normed, error)) ||
        (status = apply(be, &flux->final, rows, flux->packed, d, ws->normed, ws->packed, error)))
        return status;
    return be->gather(be, count, sample, flux->unpack_index, ws->packed, sample, out, sample, error);
}

const ousac_family ousac_family_flux = {.name = "flux",
                                        .uncond_from_inputs = 1,
                                        .recognises = ousac_flux_recognises,
                                        .load = ousac_flux_load,
                                        .unload = ousac_flux_unload,
                                        .workspace_create = workspace_create,
                                        .workspace_free = workspace_free,
                                        .workspace_bytes = workspace_bytes,
                                        .check_inputs = check_inputs,
                                        .set_inputs = set_inputs,
                                        .describe_input = describe_input,
                                        .forward = forward};
