#include "profile/model/dit.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "formats/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct workspace {
    size_t batch;
    float *features;    /* host: (frequencies) */
    float *waves;       /* (1, frequencies): the timestep's features */
    float *time;        /* (1, d): its embedding */
    float *time_hidden; /* (1, d) */
    float *condition;   /* (batch, d): silu of timestep plus label embedding */
    float *modulation;  /* (batch, 6d) */
    float *patches;     /* (batch N, C p p) */
    float *hidden;      /* (batch N, d): the residual stream */
    float *normed;      /* (batch N, d) */
    float *wide;        /* (batch N, max(3d, hidden)) */
    float *mixed;       /* (batch N, d): heads' outputs */
    float *out;         /* (batch N, d): a module's output */
    float *final;       /* (batch N, p p out_channels) */
    float *work;        /* of attention */
    size_t *label;      /* host: (batch) */
} workspace;

static void workspace_free(const ousac_model *model, void *pointer) {
    workspace *ws = pointer;
    if (!ws)
        return;
    const ousac_backend *be = model->backend;
    float *blocks[] = {ws->waves,   ws->time,   ws->time_hidden, ws->condition, ws->modulation,
                       ws->patches, ws->hidden, ws->normed,      ws->wide,      ws->mixed,
                       ws->out,     ws->final,  ws->work};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        be->release(be, blocks[i]);
    ousac_free(ws->features);
    ousac_free(ws->label);
    ousac_free(ws);
}

/* Blocks of the backend in a scratch, and how many floats of each. */
enum { WORKSPACE_PARTS = 13 };
typedef struct workspace_part {
    float **target;
    size_t count;
} workspace_part;

static void workspace_parts(const ousac_model *model, size_t batch, workspace *ws,
                            workspace_part parts[WORKSPACE_PARTS]) {
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
    const size_t rows = batch * dit->N, p2 = dit->patch * dit->patch;
    const size_t wide = 3 * dit->d > dit->hidden ? 3 * dit->d : dit->hidden;
    const workspace_part all[WORKSPACE_PARTS] = {
        {&ws->waves, dit->frequencies},
        {&ws->time, dit->d},
        {&ws->time_hidden, dit->d},
        {&ws->condition, batch * dit->d},
        {&ws->modulation, batch * 6 * dit->d},
        {&ws->patches, rows * dit->channels * p2},
        {&ws->hidden, rows * dit->d},
        {&ws->normed, rows * dit->d},
        {&ws->wide, rows * wide},
        {&ws->mixed, rows * dit->d},
        {&ws->out, rows * dit->d},
        {&ws->final, rows * p2 * dit->out_channels},
        {&ws->work, be->attention_work(be, dit->N, dit->N, dit->d / dit->heads)}};
    memcpy(parts, all, sizeof all);
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
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
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
    ws->features = ousac_malloc(dit->frequencies, sizeof(float));
    ws->label = ousac_calloc(batch, sizeof *ws->label);
    if (short_of_memory || !ws->features || !ws->label) {
        workspace_free(model, ws);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace of %zu samples", batch);
    }
    *pointer = ws;
    return OUSAC_STATUS_OK;
}

static size_t label_of(const ousac_model *model, uint64_t seed, uint64_t sample) {
    const ousac_dit *dit = model->state;
    if (ousac_inputs_has(model->inputs, OUSAC_INPUT_LABEL))
        return (size_t)ousac_inputs_label(model->inputs, sample);
    return ousac_philox_below(seed, OUSAC_STREAM_LABEL, sample, 0, (uint32_t)dit->classes);
}

static ousac_status check_inputs(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error) {
    const ousac_dit *dit = model->state;
    if (!inputs)
        return OUSAC_STATUS_OK;
    const ousac_status status =
        ousac_inputs_refuse_others(inputs, 1U << OUSAC_INPUT_LABEL | 1U << OUSAC_INPUT_NOISE, "dit", error);
    for (size_t i = 0;
         !status && ousac_inputs_has(inputs, OUSAC_INPUT_LABEL) && i < ousac_inputs_rows(inputs); i++)
        if (ousac_inputs_label(inputs, i) >= dit->classes)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "label of row %zu is %llu; the model has classes 0 to %zu", i,
                              (unsigned long long)ousac_inputs_label(inputs, i), dit->classes - 1);
    return status;
}

static ousac_status set_inputs(const ousac_model *model, void *pointer, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error) {
    workspace *ws = pointer;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    for (size_t i = 0; i < count; i++)
        ws->label[i] = label_of(model, seed, first + i);
    return OUSAC_STATUS_OK;
}

static void describe_input(const ousac_model *model, uint64_t seed, uint64_t sample, char *text,
                           size_t size) {
    const ousac_dit *dit = model->state;
    size_t label = label_of(model, seed, sample);
    if (dit->class_names)
        (void)snprintf(text, size, "class %zu, %s", label, dit->class_names[label]);
    else
        (void)snprintf(text, size, "class %zu", label);
}

/* The timestep's features into ws->waves. */
static ousac_status embed_time(const ousac_model *model, workspace *ws, double timestep, ousac_error *error) {
    const ousac_dit *dit = model->state;
    const size_t half = dit->frequencies / 2;
    for (size_t i = 0; i < half; i++) {
        double phase = timestep * exp(-log(10000.0) * (double)i / dit->frequency_denominator);
        ws->features[i] = (float)cos(phase);
        ws->features[half + i] = (float)sin(phase);
    }
    return model->backend->upload(model->backend, ws->waves, ws->features, dit->frequencies * sizeof(float),
                                  error);
}

/* silu(timestep embedding + label embedding) of every sample into ws->condition. */
static ousac_status embed_condition(const ousac_model *model, workspace *ws,
                                    const ousac_dit_embedder *embedder, int branch, size_t count,
                                    ousac_error *error) {
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
    const size_t d = dit->d;
    ousac_status status;
    if ((status = be->linear(be, 1, d, dit->frequencies, ws->waves, dit->frequencies, embedder->t_w0,
                             dit->frequencies, embedder->t_bias0, 0, ws->time_hidden, d, error)) ||
        (status = be->silu(be, d, ws->time_hidden, ws->time_hidden, error)) ||
        (status = be->linear(be, 1, d, d, ws->time_hidden, d, embedder->t_w2, d, embedder->t_bias2, 0,
                             ws->time, d, error)))
        return status;
    for (size_t i = 0; i < count; i++) {
        size_t label = branch == OUSAC_BRANCH_UNCOND ? dit->classes : ws->label[i];
        float *row = ws->condition + i * d;
        if ((status = be->copy(be, 1, d, embedder->table + label * d, d, row, d, error)) ||
            (status = be->axpy(be, d, 1, ws->time, row, error)))
            return status;
    }
    return be->silu(be, count * d, ws->condition, ws->condition, error);
}

static float *place(const ousac_linears *linears, size_t group, int output, float *own) {
    return linears->place ? linears->place(linears->self, group, output, own) : own;
}

static ousac_status run_attention(const ousac_model *model, workspace *ws, size_t block, size_t count,
                                  const ousac_linears *linears, ousac_error *error) {
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
    size_t d = dit->d, rows = count * dit->N, module = 2 * block, group = 4 * block;
    const float *mod = ws->modulation;
    int live = 1;
    ousac_rows out = {ws->out, rows, d};
    ousac_status status = linears->module_begin(linears->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(linears, group, 0, ws->normed), *qkv = place(linears, group, 1, ws->wide);
        float *mixed = place(linears, group + 1, 0, ws->mixed), *y = place(linears, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, rows, d, ws->hidden, dit->attn_norm_eps, mod, mod + d, dit->N,
                                        6 * d, x, error)) ||
            (status = linears->linear(linears->self, group, rows, x, d, qkv, 3 * d, error)) ||
            (status = be->attention(be, count, dit->N, dit->heads, d / dit->heads, qkv, qkv + d, qkv + 2 * d,
                                    3 * d, mixed, d, ws->work, error)) ||
            (status = linears->linear(linears->self, group + 1, rows, mixed, d, y, d, error)))
            return status;
        out.data = y;
        if ((status = linears->module_end(linears->self, module, &out, error)))
            return status;
    }
    return status ? status
                  : be->add_gated(be, rows, d, ws->hidden, out.data, mod + 2 * d, dit->N, 6 * d, error);
}

static ousac_status run_mlp(const ousac_model *model, workspace *ws, size_t block, size_t count,
                            const ousac_linears *linears, ousac_error *error) {
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
    size_t d = dit->d, h = dit->hidden, rows = count * dit->N, module = 2 * block + 1, group = 4 * block + 2;
    const float *mod = ws->modulation + 3 * d;
    int live = 1;
    ousac_rows out = {ws->out, rows, d};
    ousac_status status = linears->module_begin(linears->self, module, &out, &live, error);
    if (!status && live) {
        float *x = place(linears, group, 0, ws->normed), *wide = place(linears, group, 1, ws->wide);
        float *bent = place(linears, group + 1, 0, ws->wide), *y = place(linears, group + 1, 1, ws->out);
        if ((status = be->norm_modulate(be, rows, d, ws->hidden, dit->mlp_norm_eps, mod, mod + d, dit->N,
                                        6 * d, x, error)) ||
            (status = linears->linear(linears->self, group, rows, x, d, wide, h, error)) ||
            (status = be->gelu_tanh(be, rows * h, wide, bent, error)) ||
            (status = linears->linear(linears->self, group + 1, rows, bent, h, y, d, error)))
            return status;
        out.data = y;
        if ((status = linears->module_end(linears->self, module, &out, error)))
            return status;
    }
    return status ? status
                  : be->add_gated(be, rows, d, ws->hidden, out.data, mod + 2 * d, dit->N, 6 * d, error);
}

static ousac_status forward(const ousac_model *model, void *pointer, const ousac_evaluation *evaluation,
                            const float *x, const ousac_linears *linears, float *out, ousac_error *error) {
    const ousac_dit *dit = model->state;
    const ousac_backend *be = model->backend;
    workspace *ws = pointer;
    const size_t count = evaluation->count;
    size_t d = dit->d, rows = count * dit->N, p2 = dit->patch * dit->patch, patch = dit->channels * p2;
    size_t final = p2 * dit->out_channels, sample = dit->N * patch;
    ousac_status status;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a workspace of %zu", count,
                          ws->batch);
    const int own = dit->embedders > 1; /* every block has an embedder of its own */
    if ((status = embed_time(model, ws, evaluation->timestep, error)) ||
        (status = embed_condition(model, ws, dit->embedder, evaluation->branch, count, error)) ||
        (status = be->gather(be, count, sample, dit->patch_index, x, sample, ws->patches, sample, error)) ||
        (status = be->linear(be, rows, d, patch, ws->patches, patch, dit->patch_w, patch, dit->patch_bias, 0,
                             ws->hidden, d, error)))
        return status;
    for (size_t i = 0; i < count; i++)
        if ((status = be->axpy(be, dit->N * d, 1, dit->pos_embed, ws->hidden + i * dit->N * d, error)))
            return status;
    for (size_t b = 0; b < dit->L; b++) {
        const ousac_dit_block *block = &dit->block[b];
        if (own && b > 0 &&
            (status = embed_condition(model, ws, dit->embedder + b, evaluation->branch, count, error)))
            return status;
        if ((status = be->linear(be, count, 6 * d, d, ws->condition, d, block->modulation, d,
                                 block->modulation_bias, 0, ws->modulation, 6 * d, error)) ||
            (status = run_attention(model, ws, b, count, linears, error)) ||
            (status = run_mlp(model, ws, b, count, linears, error)))
            return status;
    }
    if (own && (status = embed_condition(model, ws, dit->embedder, evaluation->branch, count, error)))
        return status;
    if ((status = be->linear(be, count, 2 * d, d, ws->condition, d, dit->final_modulation, d,
                             dit->final_modulation_bias, 0, ws->modulation, 2 * d, error)) ||
        (status = be->norm_modulate(be, rows, d, ws->hidden, dit->final_norm_eps, ws->modulation,
                                    ws->modulation + d, dit->N, 2 * d, ws->normed, error)) ||
        (status = be->linear(be, rows, final, d, ws->normed, d, dit->final_w, d, dit->final_bias, 0,
                             ws->final, final, error)))
        return status;
    return be->gather(be, count, sample, dit->unpatch_index, ws->final, dit->N * final, out, sample, error);
}

const ousac_family ousac_family_dit = {.name = "dit",
                                       .recognises = ousac_dit_recognises,
                                       .load = ousac_dit_load,
                                       .unload = ousac_dit_unload,
                                       .workspace_create = workspace_create,
                                       .workspace_free = workspace_free,
                                       .workspace_bytes = workspace_bytes,
                                       .check_inputs = check_inputs,
                                       .set_inputs = set_inputs,
                                       .describe_input = describe_input,
                                       .forward = forward};
