#include "profile/model/pixart.h"

#include "formats/memory.h"
#include "formats/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Added to the scores on caption tokens that are not there. */
#define MASKED (-10000.0F)

static const ousac_input EMBEDS[OUSAC_BRANCHES] = {OUSAC_INPUT_PROMPT_EMBEDS,
                                                   OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS};
static const ousac_input MASK[OUSAC_BRANCHES] = {OUSAC_INPUT_PROMPT_MASK, OUSAC_INPUT_NEGATIVE_PROMPT_MASK};

typedef struct workspace {
    size_t batch;
    float *host;      /* host: a row of embeddings, of a mask, or features of timestep or sizes */
    float *features;  /* (3 batch, frequencies): of the timestep; of height, width and ratio of each sample */
    float *inner;     /* (batch, d): a hidden layer of the embedders */
    float *time;      /* (1, d) */
    float *sizes;     /* (batch, d): of the micro-conditions, constant over the steps */
    float *condition; /* (conditions, d): e */
    float *active;    /* (conditions, d): silu(e) */
    float *shared;    /* (conditions, 6d): T */
    float *modulation;         /* (conditions, L, 6d); at the end (conditions, 2d) */
    float *embeds;             /* (branches, batch M, caption_channels), M caption tokens */
    float *bias;               /* (branches, batch, M): 0 or MASKED */
    float *ctx, *ctx_inner;    /* (batch M, d) */
    float *kv;                 /* (branches, L, batch M, 2d) */
    float *patches;            /* (batch N, C p p) */
    float *hidden;             /* (batch N, d): the residual stream */
    float *normed;             /* (batch N, d) */
    float *wide;               /* (batch N, max(3d, hidden)) */
    float *mixed;              /* (batch N, d): heads' outputs */
    float *out;                /* (batch N, d): a module's output */
    float *final;              /* (batch N, p p out_channels) */
    float *work;               /* of attention and cross attention */
    int ready[OUSAC_BRANCHES]; /* the branch's keys and values are computed */
} workspace;

/* Rows of modulation: one a sample where samples are told their sizes, else one for all. */
static size_t conditions_of(const ousac_pixart *net, size_t count) {
    return net->micro ? count : 1;
}

/* Blocks of the backend in a scratch, and how many floats of each. */
enum { WORKSPACE_PARTS = 21 };
typedef struct workspace_part {
    float **target;
    size_t count;
} workspace_part;

/* Whichever attention takes more. */
static size_t attention_floats(const ousac_model *model) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    const size_t width = net->d / net->heads, own = be->attention_work(be, net->N, net->N, width),
                 cross = be->attention_work(be, net->N, net->caption_tokens, width);
    return own > cross ? own : cross;
}

static void workspace_parts(const ousac_model *model, size_t batch, workspace *ws,
                            workspace_part parts[WORKSPACE_PARTS]) {
    const ousac_pixart *net = model->state;
    const size_t d = net->d, rows = batch * net->N, captions = batch * net->caption_tokens,
                 p2 = net->patch * net->patch, conditions = conditions_of(net, batch);
    const size_t wide = 3 * d > net->hidden ? 3 * d : net->hidden;
    const workspace_part all[WORKSPACE_PARTS] = {
        {&ws->features, (net->micro ? 3 * batch : 1) * net->frequencies},
        {&ws->inner, conditions * d},
        {&ws->time, d},
        {&ws->sizes, conditions * d},
        {&ws->condition, conditions * d},
        {&ws->active, conditions * d},
        {&ws->shared, conditions * 6 * d},
        {&ws->modulation, conditions * net->L * 6 * d},
        {&ws->embeds, OUSAC_BRANCHES * captions * net->caption_channels},
        {&ws->bias, OUSAC_BRANCHES * captions},
        {&ws->ctx, captions * d},
        {&ws->ctx_inner, captions * d},
        {&ws->kv, OUSAC_BRANCHES * net->L * captions * 2 * d},
        {&ws->patches, rows * net->channels * p2},
        {&ws->hidden, rows * d},
        {&ws->normed, rows * d},
        {&ws->wide, rows * wide},
        {&ws->mixed, rows * d},
        {&ws->out, rows * d},
        {&ws->final, rows * p2 * net->out_channels},
        {&ws->work, attention_floats(model)}};
    memcpy(parts, all, sizeof all);
}

static void workspace_free(const ousac_model *model, void *pointer) {
    workspace *ws = pointer;
    workspace_part parts[WORKSPACE_PARTS];
    if (!ws)
        return;
    workspace_parts(model, ws->batch, ws, parts);
    for (size_t i = 0; i < WORKSPACE_PARTS; i++)
        model->backend->release(model->backend, *parts[i].target);
    ousac_free(ws->host);
    ousac_free(ws);
}

static uint64_t workspace_bytes(const ousac_model *model, size_t batch) {
    workspace none = {0};
    workspace_part parts[WORKSPACE_PARTS];
    uint64_t bytes = 0;
    workspace_parts(model, batch, &none, parts);
    for (size_t i = 0; i < WORKSPACE_PARTS; i++)
        bytes += (uint64_t)parts[i].count * sizeof(float);
    return bytes;
}

static ousac_status workspace_create(const ousac_model *model, size_t batch, void **pointer,
                                     ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    const size_t row = net->caption_tokens * net->caption_channels, features = 3 * net->frequencies;
    workspace_part parts[WORKSPACE_PARTS];
    workspace *ws = ousac_calloc(1, sizeof *ws);
    if (!ws)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace");
    workspace_parts(model, batch, ws, parts);
    int short_of_memory = 0;
    ws->batch = batch;
    for (size_t i = 0; i < WORKSPACE_PARTS; i++) {
        *parts[i].target = be->alloc(be, parts[i].count, sizeof(float));
        short_of_memory |= !*parts[i].target;
    }
    ws->host = ousac_malloc(row > features ? row : features, sizeof(float));
    if (short_of_memory || !ws->host) {
        workspace_free(model, ws);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace of %zu samples", batch);
    }
    *pointer = ws;
    return OUSAC_STATUS_OK;
}

/* --- inputs --- */

static ousac_status check_inputs(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error) {
    const ousac_pixart *net = model->state;
    const size_t shape[] = {net->caption_tokens, net->caption_channels};
    unsigned taken = 1U << OUSAC_INPUT_NOISE;
    ousac_status status = OUSAC_STATUS_OK;
    if (!inputs)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "%s is told captions: give an inputs file with prompt_embeds and prompt_mask (--inputs)",
            model->path);
    for (size_t b = 0; b < OUSAC_BRANCHES && !status; b++) {
        /* Both of a branch or neither; the conditional branch's must be there. */
        const int needed = b == OUSAC_BRANCH_COND || ousac_inputs_has(inputs, EMBEDS[b]) ||
                           ousac_inputs_has(inputs, MASK[b]);
        status = ousac_inputs_expect(inputs, EMBEDS[b], needed, 2, shape, error);
        if (!status)
            status = ousac_inputs_expect(inputs, MASK[b], needed, 1, shape, error);
        taken |= 1U << EMBEDS[b] | 1U << MASK[b];
    }
    if (status == OUSAC_STATUS_FORMAT && error && strstr(error->message, "dimension 1 "))
        (void)ousac_error_prefix(error, "captions of another length than \"caption_tokens\" in the config");
    if (!status && net->micro) {
        taken |= 1U << OUSAC_INPUT_RESOLUTION | 1U << OUSAC_INPUT_ASPECT_RATIO;
        status = ousac_inputs_expect(inputs, OUSAC_INPUT_RESOLUTION, 0, 1, (size_t[]){2}, error);
        if (!status)
            status = ousac_inputs_expect(inputs, OUSAC_INPUT_ASPECT_RATIO, 0, 1, (size_t[]){1}, error);
    }
    return status ? status : ousac_inputs_refuse_others(inputs, taken, "pixart", error);
}

/* S(value): cosines, then sines. */
static void fill_features(const ousac_pixart *net, double value, float *features) {
    const size_t half = net->frequencies / 2;
    for (size_t i = 0; i < half; i++) {
        const double phase = value * exp(-log(10000.0) * (double)i / (double)half);
        features[i] = (float)cos(phase);
        features[half + i] = (float)sin(phase);
    }
}

/* linear2(silu(linear1 x)) of width m. */
static ousac_status embed(const ousac_model *model, workspace *ws, size_t rows, size_t m, const float *x,
                          size_t ldx, const ousac_pixart_linear *one, const ousac_pixart_linear *two,
                          float *y, size_t ldy, ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    ousac_status status;
    if ((status = be->linear(be, rows, m, net->frequencies, x, ldx, one->w, net->frequencies, one->bias, 0,
                             ws->inner, m, error)) ||
        (status = be->silu(be, rows * m, ws->inner, ws->inner, error)))
        return status;
    return be->linear(be, rows, m, m, ws->inner, m, two->w, m, two->bias, 0, y, ldy, error);
}

/* What the samples are told of their sizes: (height, width, ratio), a third of the channels each. */
static ousac_status set_sizes(const ousac_model *model, workspace *ws, uint64_t first, size_t count,
                              ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    const size_t F = net->frequencies, third = net->d / 3;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < count && !status; i++) {
        float size[2] = {(float)net->pixels[0], (float)net->pixels[1]}, ratio = size[0] / size[1];
        if (ousac_inputs_has(model->inputs, OUSAC_INPUT_RESOLUTION))
            ousac_inputs_read(model->inputs, OUSAC_INPUT_RESOLUTION, first + i, size);
        if (ousac_inputs_has(model->inputs, OUSAC_INPUT_ASPECT_RATIO))
            ousac_inputs_read(model->inputs, OUSAC_INPUT_ASPECT_RATIO, first + i, &ratio);
        fill_features(net, (double)size[0], ws->host);
        fill_features(net, (double)size[1], ws->host + F);
        fill_features(net, (double)ratio, ws->host + 2 * F);
        status = be->upload(be, ws->features + i * 3 * F, ws->host, 3 * F * sizeof(float), error);
    }
    for (size_t i = 0; i < 3 && !status; i++)
        status =
            embed(model, ws, count, third, ws->features + i * F, 3 * F, i < 2 ? &net->size1 : &net->ratio1,
                  i < 2 ? &net->size2 : &net->ratio2, ws->sizes + i * third, net->d, error);
    return status;
}

static ousac_status set_inputs(const ousac_model *model, void *pointer, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    workspace *ws = pointer;
    const size_t M = net->caption_tokens, row = M * net->caption_channels;
    ousac_status status = OUSAC_STATUS_OK;
    (void)seed;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    for (size_t b = 0; b < OUSAC_BRANCHES; b++) {
        ws->ready[b] = 0;
        for (size_t i = 0; i < count && !status && ousac_inputs_has(model->inputs, EMBEDS[b]); i++) {
            const size_t at = b * ws->batch + i;
            ousac_inputs_read(model->inputs, EMBEDS[b], first + i, ws->host);
            status = be->upload(be, ws->embeds + at * row, ws->host, row * sizeof(float), error);
            ousac_inputs_read(model->inputs, MASK[b], first + i, ws->host);
            for (size_t j = 0; j < M; j++)
                ws->host[j] = (1 - ws->host[j]) * MASKED;
            if (!status)
                status = be->upload(be, ws->bias + at * M, ws->host, M * sizeof(float), error);
        }
    }
    return status || !net->micro ? status : set_sizes(model, ws, first, count, error);
}

static void describe_input(const ousac_model *model, uint64_t seed, uint64_t sample, char *text,
                           size_t size) {
    (void)seed;
    (void)snprintf(text, size, "row %zu of the inputs",
                   model->inputs ? (size_t)(sample % ousac_inputs_rows(model->inputs)) : 0);
}

/* --- the forward --- */

/* Keys and values of a branch's captions, for all blocks. */
static ousac_status compute_constants(const ousac_model *model, workspace *ws, size_t branch, size_t count,
                                      ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = net->d, n = net->caption_channels, rows = count * net->caption_tokens,
                 all = ws->batch * net->caption_tokens;
    ousac_status status;
    if ((status = be->linear(be, rows, d, n, ws->embeds + branch * all * n, n, net->caption1.w, n,
                             net->caption1.bias, 0, ws->ctx_inner, d, error)) ||
        (status = be->gelu_tanh(be, rows * d, ws->ctx_inner, ws->ctx_inner, error)) ||
        (status = be->linear(be, rows, d, d, ws->ctx_inner, d, net->caption2.w, d, net->caption2.bias, 0,
                             ws->ctx, d, error)))
        return status;
    for (size_t b = 0; b < net->L && !status; b++)
        status = be->linear(be, rows, 2 * d, d, ws->ctx, d, net->block[b].cross_kv.w, d,
                            net->block[b].cross_kv.bias, 0, ws->kv + (branch * net->L + b) * all * 2 * d,
                            2 * d, error);
    ws->ready[branch] = !status;
    return status;
}

/* rows (count, width) of `tables`, plus one row that is the same for all: y = tables + 1 row. */
static ousac_status add_to_tables(const ousac_model *model, size_t count, size_t width, const float *tables,
                                  const float *row, float *y, ousac_error *error) {
    const ousac_backend *be = model->backend;
    const ousac_status status = be->copy(be, count, width, tables, width, y, width, error);
    return status ? status
                  : be->expand(be, count, width, 1, ((const ousac_pixart *)model->state)->ones, 1, row, width,
                               1, y, width, error);
}

/* e into ws->condition, and all blocks' shifts, scales and gates. */
static ousac_status embed_condition(const ousac_model *model, workspace *ws, size_t count, double timestep,
                                    ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = net->d, conditions = conditions_of(net, count);
    ousac_status status;
    fill_features(net, timestep, ws->host);
    if ((status = be->upload(be, ws->features, ws->host, net->frequencies * sizeof(float), error)) ||
        (status =
             embed(model, ws, 1, d, ws->features, net->frequencies, &net->t1, &net->t2, ws->time, d, error)))
        return status;
    for (size_t i = 0; i < conditions; i++) {
        float *row = ws->condition + i * d;
        if ((status = be->copy(be, 1, d, net->micro ? ws->sizes + i * d : ws->time, d, row, d, error)) ||
            (net->micro && (status = be->axpy(be, d, 1, ws->time, row, error))))
            return status;
    }
    if ((status = be->silu(be, conditions * d, ws->condition, ws->active, error)) ||
        (status = be->linear(be, conditions, 6 * d, d, ws->active, d, net->modulation.w, d,
                             net->modulation.bias, 0, ws->shared, 6 * d, error)))
        return status;
    for (size_t i = 0; i < conditions && !status; i++)
        status = add_to_tables(model, net->L, 6 * d, net->tables, ws->shared + i * 6 * d,
                               ws->modulation + i * net->L * 6 * d, error);
    return status;
}

static float *place(const ousac_linears *linears, size_t group, int output, float *own) {
    return linears->place ? linears->place(linears->self, group, output, own) : own;
}

/* The evaluation at hand. */
typedef struct pass {
    const ousac_model *model;
    const ousac_pixart *net;
    const ousac_backend *be;
    workspace *ws;
    const ousac_linears *linears;
    size_t branch, count, rows;
    size_t rows_each, ld_mod; /* rows that share a row of modulation, and how far these are apart */
} pass;

static ousac_status run_attention(const pass *p, size_t block, ousac_error *error) {
    const ousac_backend *be = p->be;
    const ousac_linears *linears = p->linears;
    workspace *ws = p->ws;
    const size_t d = p->net->d, module = OUSAC_PIXART_MODULES * block, group = OUSAC_PIXART_GROUPS * block;
    const float *mod = ws->modulation + block * 6 * d;
    int live = 1;
    ousac_rows out = {ws->out, p->rows, d};
    ousac_status status = linears->module_begin(linears->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(linears, group, 0, ws->normed), *qkv = place(linears, group, 1, ws->wide);
        float *mixed = place(linears, group + 1, 0, ws->mixed), *y = place(linears, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, p->rows, d, ws->hidden, p->net->norm_eps, mod, mod + d,
                                        p->rows_each, p->ld_mod, x, error)) ||
            (status = linears->linear(linears->self, group, p->rows, x, d, qkv, 3 * d, error)) ||
            (status = be->attention(be, p->count, p->net->N, p->net->heads, d / p->net->heads, qkv, qkv + d,
                                    qkv + 2 * d, 3 * d, mixed, d, ws->work, error)) ||
            (status = linears->linear(linears->self, group + 1, p->rows, mixed, d, y, d, error)))
            return status;
        out.data = y;
        if ((status = linears->module_end(linears->self, module, &out, error)))
            return status;
    }
    return status ? status
                  : be->add_gated(be, p->rows, d, ws->hidden, out.data, mod + 2 * d, p->rows_each, p->ld_mod,
                                  error);
}

static ousac_status run_cross(const pass *p, size_t block, ousac_error *error) {
    const ousac_backend *be = p->be;
    const ousac_linears *linears = p->linears;
    workspace *ws = p->ws;
    const size_t d = p->net->d, M = p->net->caption_tokens, module = OUSAC_PIXART_MODULES * block + 1,
                 group = OUSAC_PIXART_GROUPS * block + 2;
    const float *kv = ws->kv + (p->branch * p->net->L + block) * ws->batch * M * 2 * d;
    const float *bias = ws->bias + p->branch * ws->batch * M;
    int live = 1;
    ousac_rows out = {ws->out, p->rows, d};
    ousac_status status = linears->module_begin(linears->self, module, &out, &live, error);
    if (!status && live) {
        /* The input is the residual stream itself, which will not stay: a copy. */
        float *x = place(linears, group, 0, ws->normed), *q = place(linears, group, 1, ws->wide);
        float *mixed = place(linears, group + 1, 0, ws->mixed), *y = place(linears, group + 1, 1, ws->out);
        if ((status = be->copy(be, p->rows, d, ws->hidden, d, x, d, error)) ||
            (status = linears->linear(linears->self, group, p->rows, x, d, q, d, error)) ||
            (status = be->cross_attention(be, p->count, p->net->N, M, p->net->heads, d / p->net->heads, q, d,
                                          kv, kv + d, 2 * d, bias, mixed, d, ws->work, error)) ||
            (status = linears->linear(linears->self, group + 1, p->rows, mixed, d, y, d, error)))
            return status;
        out.data = y;
        if ((status = linears->module_end(linears->self, module, &out, error)))
            return status;
    }
    return status ? status : be->axpy(be, p->rows * d, 1, out.data, ws->hidden, error);
}

static ousac_status run_mlp(const pass *p, size_t block, ousac_error *error) {
    const ousac_backend *be = p->be;
    const ousac_linears *linears = p->linears;
    workspace *ws = p->ws;
    const size_t d = p->net->d, h = p->net->hidden, module = OUSAC_PIXART_MODULES * block + 2,
                 group = OUSAC_PIXART_GROUPS * block + 4;
    const float *mod = ws->modulation + (block * 6 + 3) * d;
    int live = 1;
    ousac_rows out = {ws->out, p->rows, d};
    ousac_status status = linears->module_begin(linears->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(linears, group, 0, ws->normed), *wide = place(linears, group, 1, ws->wide);
        float *bent = place(linears, group + 1, 0, ws->wide), *y = place(linears, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, p->rows, d, ws->hidden, p->net->norm_eps, mod, mod + d,
                                        p->rows_each, p->ld_mod, x, error)) ||
            (status = linears->linear(linears->self, group, p->rows, x, d, wide, h, error)) ||
            (status = be->gelu_tanh(be, p->rows * h, wide, bent, error)) ||
            (status = linears->linear(linears->self, group + 1, p->rows, bent, h, y, d, error)))
            return status;
        out.data = y;
        if ((status = linears->module_end(linears->self, module, &out, error)))
            return status;
    }
    return status ? status
                  : be->add_gated(be, p->rows, d, ws->hidden, out.data, mod + 2 * d, p->rows_each, p->ld_mod,
                                  error);
}

/* The last norm and linear, and the tokens' values put back into samples. */
static ousac_status run_final(const pass *p, float *out, ousac_error *error) {
    const ousac_pixart *net = p->net;
    const ousac_backend *be = p->be;
    workspace *ws = p->ws;
    const size_t d = net->d, p2 = net->patch * net->patch, final = p2 * net->out_channels,
                 sample = net->N * p2 * net->channels;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < conditions_of(net, p->count) && !status; i++)
        status = add_to_tables(p->model, 2, d, net->final_table, ws->condition + i * d,
                               ws->modulation + i * 2 * d, error);
    if (status ||
        (status = be->norm_modulate(be, p->rows, d, ws->hidden, net->final_norm_eps, ws->modulation,
                                    ws->modulation + d, p->rows_each, 2 * d, ws->normed, error)) ||
        (status = be->linear(be, p->rows, final, d, ws->normed, d, net->final.w, d, net->final.bias, 0,
                             ws->final, final, error)))
        return status;
    return be->gather(be, p->count, sample, net->unpatch_index, ws->final, net->N * final, out, sample,
                      error);
}

static ousac_status forward(const ousac_model *model, void *pointer, const ousac_evaluation *evaluation,
                            const float *x, const ousac_linears *linears, float *out, ousac_error *error) {
    const ousac_pixart *net = model->state;
    const ousac_backend *be = model->backend;
    workspace *ws = pointer;
    const size_t count = evaluation->count, d = net->d, rows = count * net->N,
                 patch = net->channels * net->patch * net->patch, sample = net->N * patch;
    const pass p = {.model = model,
                    .net = net,
                    .be = be,
                    .ws = ws,
                    .linears = linears,
                    .branch = (size_t)evaluation->branch,
                    .count = count,
                    .rows = rows,
                    .rows_each = net->micro ? net->N : rows,
                    .ld_mod = net->L * 6 * d};
    ousac_status status = OUSAC_STATUS_OK;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    if (!ws->ready[p.branch])
        status = compute_constants(model, ws, p.branch, count, error);
    if (status || (status = embed_condition(model, ws, count, evaluation->timestep, error)) ||
        (status = be->gather(be, count, sample, net->patch_index, x, sample, ws->patches, sample, error)) ||
        (status = be->linear(be, rows, d, patch, ws->patches, patch, net->patch_in.w, patch,
                             net->patch_in.bias, 0, ws->hidden, d, error)))
        return status;
    for (size_t i = 0; i < count; i++)
        if ((status = be->axpy(be, net->N * d, 1, net->pos_embed, ws->hidden + i * net->N * d, error)))
            return status;
    for (size_t b = 0; b < net->L; b++)
        if ((status = run_attention(&p, b, error)) || (status = run_cross(&p, b, error)) ||
            (status = run_mlp(&p, b, error)))
            return status;
    return run_final(&p, out, error);
}

const ousac_family ousac_family_pixart = {.name = "pixart",
                                          .uncond_from_inputs = 1,
                                          .recognises = ousac_pixart_recognises,
                                          .load = ousac_pixart_load,
                                          .unload = ousac_pixart_unload,
                                          .workspace_create = workspace_create,
                                          .workspace_free = workspace_free,
                                          .workspace_bytes = workspace_bytes,
                                          .check_inputs = check_inputs,
                                          .set_inputs = set_inputs,
                                          .describe_input = describe_input,
                                          .forward = forward};
