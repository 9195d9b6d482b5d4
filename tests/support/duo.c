#include "tests/support/duo.h"

#include "calib/backend/backend.h"
#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "tests/support/write_safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = DUO_D, H = DUO_HIDDEN, STREAM_IMAGE = 0, STREAM_TEXT = 1, STREAM_JOINT = 2, WEIGHTS = 3000 };

/* --- what the blocks are made of --- */

typedef struct linear_shape {
    const char *name;
    size_t module, group, stage, stream, m, n;
} linear_shape;

static const linear_shape DOUBLE[14] = {
    {"joint.q", 0, 0, 0, STREAM_IMAGE, D, D},       {"joint.k", 0, 0, 0, STREAM_IMAGE, D, D},
    {"joint.v", 0, 0, 0, STREAM_IMAGE, D, D},       {"joint.add_q", 0, 1, 0, STREAM_TEXT, D, D},
    {"joint.add_k", 0, 1, 0, STREAM_TEXT, D, D},    {"joint.add_v", 0, 1, 0, STREAM_TEXT, D, D},
    {"joint.out", 0, 2, 1, STREAM_IMAGE, D, D},     {"joint.add_out", 0, 3, 1, STREAM_TEXT, D, D},
    {"cross.q", 1, 4, 0, STREAM_IMAGE, D, D},       {"cross.out", 1, 5, 1, STREAM_IMAGE, D, D},
    {"image_mlp.fc1", 2, 6, 0, STREAM_IMAGE, H, D}, {"image_mlp.fc2", 2, 7, 1, STREAM_IMAGE, D, H},
    {"text_mlp.fc1", 3, 8, 0, STREAM_TEXT, H, D},   {"text_mlp.fc2", 3, 9, 1, STREAM_TEXT, D, H},
};
static const char *const DOUBLE_GROUPS[10] = {
    "joint.qkv", "joint.add_qkv", "joint.out",     "joint.add_out", "cross.q",
    "cross.out", "image_mlp.fc1", "image_mlp.fc2", "text_mlp.fc1",  "text_mlp.fc2"};
static const char *const DOUBLE_MODULES[4] = {"joint", "cross", "image_mlp", "text_mlp"};

static const linear_shape SINGLE[5] = {
    {"q", 0, 0, 0, STREAM_JOINT, D, D},           {"k", 0, 0, 0, STREAM_JOINT, D, D},
    {"v", 0, 0, 0, STREAM_JOINT, D, D},           {"mlp", 0, 0, 0, STREAM_JOINT, H, D},
    {"linear2", 0, 1, 1, STREAM_JOINT, D, D + H},
};
static const char *const SINGLE_GROUPS[2] = {"linear1", "linear2"};

static void fill_block(ousac_arch *arch, const char *prefix, size_t block, size_t index,
                       const linear_shape *linears, size_t count, const char *const *groups,
                       size_t first_site, size_t first_group, size_t first_module) {
    for (size_t i = 0; i < count; i++) {
        const linear_shape *l = &linears[i];
        ousac_site *site = &arch->sites[first_site + i];
        ousac_group *group = &arch->groups[first_group + l->group];
        ousac_module *module = &arch->modules[first_module + l->module];
        (void)snprintf(site->name, sizeof site->name, "%s.%zu.%s", prefix, index, l->name);
        (void)snprintf(group->name, sizeof group->name, "%s.%zu.%s", prefix, index, groups[l->group]);
        *site = (ousac_site){.block = block,
                             .module = first_module + l->module,
                             .group = first_group + l->group,
                             .stage = l->stage,
                             .m = l->m,
                             .n = l->n};
        (void)snprintf(site->name, sizeof site->name, "%s.%zu.%s", prefix, index, l->name);
        if (group->site_count++ == 0)
            group->first_site = first_site + i;
        group->stream = l->stream;
        group->side = l->n <= l->m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
        group->dim = l->n <= l->m ? l->n : l->m;
        if (module->site_count++ == 0)
            module->first_site = first_site + i;
        module->block = block;
        module->stage_count = l->stage + 1;
    }
}

static ousac_status create_arch(ousac_arch *arch, ousac_error *error) {
    ousac_status status = ousac_arch_create(arch, DUO_SITES, DUO_GROUPS, DUO_MODULES, DUO_DOUBLES, error);
    if (status)
        return status;
    (void)snprintf(arch->family, sizeof arch->family, "duo");
    arch->stream_count = 3;
    arch->stream[STREAM_IMAGE] = (ousac_stream){"image", DUO_IMAGE};
    arch->stream[STREAM_TEXT] = (ousac_stream){"text", DUO_TEXT};
    arch->stream[STREAM_JOINT] = (ousac_stream){"joint", DUO_JOINT};
    arch->width = D;
    arch->block_count = DUO_DOUBLES + DUO_SINGLES;
    arch->other_macs = D * D;
    for (size_t b = 0; b < DUO_DOUBLES; b++) {
        ousac_module *modules = &arch->modules[b * 4];
        fill_block(arch, "doubles", b, b, DOUBLE, 14, DOUBLE_GROUPS, b * 14, b * 10, b * 4);
        for (size_t i = 0; i < 4; i++) {
            (void)snprintf(modules[i].name, sizeof modules[i].name, "doubles.%zu.%s", b, DOUBLE_MODULES[i]);
            modules[i].output_count = i == 0 ? 2 : 1;
            modules[i].output[0] = (ousac_output){i == 3 ? STREAM_TEXT : STREAM_IMAGE, D};
            modules[i].output[1] = (ousac_output){STREAM_TEXT, D};
        }
        modules[0].fixed_macs = 2 * DUO_JOINT * DUO_JOINT * D;
        modules[1].fixed_macs = 2 * DUO_IMAGE * DUO_TEXT * D;
        arch->constants[b] = (ousac_constant){.stream = STREAM_TEXT, .m = 2 * D, .n = DUO_EMBED};
        (void)snprintf(arch->constants[b].name, sizeof arch->constants[b].name, "doubles.%zu.cross.kv", b);
    }
    for (size_t b = 0; b < DUO_SINGLES; b++) {
        ousac_module *module = &arch->modules[DUO_DOUBLES * 4 + b];
        fill_block(arch, "singles", DUO_DOUBLES + b, b, SINGLE, 5, SINGLE_GROUPS, DUO_DOUBLES * 14 + b * 5,
                   DUO_DOUBLES * 10 + b * 2, DUO_DOUBLES * 4 + b);
        (void)snprintf(module->name, sizeof module->name, "singles.%zu", b);
        module->output_count = 1;
        module->output[0] = (ousac_output){STREAM_JOINT, D};
        module->fixed_macs = 2 * DUO_JOINT * DUO_JOINT * D;
    }
    return ousac_arch_check(arch, error);
}

/* --- weights --- */

typedef struct workspace {
    size_t batch;
    float *image, *text, *joint; /* (batch N, d): residual streams */
    float *x, *x_text;           /* (batch joint, d + hidden), (batch text, d) */
    float *wide, *wide_text;     /* (batch joint, 3d + hidden), (batch text, 3d) */
    float *mixed, *mixed_text;   /* (batch joint, d + hidden), (batch text, d) */
    float *out, *out_text;       /* (batch joint, d), (batch text, d) */
    float *kv;                   /* (branches, doubles, batch text, 2d) */
    float *embeds, *pooled;      /* (branches, batch text, embed), (branches, batch, pooled) */
    float *guidance;             /* (batch) */
    float *a;                    /* (batch, d) */
    int ready[OUSAC_BRANCHES];   /* constant groups of the branch are computed */
    float *slab;
} workspace;

static size_t carve(workspace *ws, size_t batch, float *slab) {
    const size_t joint = batch * DUO_JOINT, text = batch * DUO_TEXT;
    const struct {
        float **part;
        size_t count;
    } parts[] = {{&ws->image, batch * DUO_IMAGE * D},
                 {&ws->text, text * D},
                 {&ws->joint, joint * D},
                 {&ws->x, joint * (D + H)},
                 {&ws->x_text, text * D},
                 {&ws->wide, joint * (3 * D + H)},
                 {&ws->wide_text, text * 3 * D},
                 {&ws->mixed, joint * (D + H)},
                 {&ws->mixed_text, text * D},
                 {&ws->out, joint * D},
                 {&ws->out_text, text * D},
                 {&ws->kv, OUSAC_BRANCHES * DUO_DOUBLES * text * 2 * D},
                 {&ws->embeds, OUSAC_BRANCHES * text * DUO_EMBED},
                 {&ws->pooled, OUSAC_BRANCHES * batch * DUO_POOLED},
                 {&ws->guidance, batch},
                 {&ws->a, batch * D}};
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (slab)
            *parts[i].part = slab + total;
        total += parts[i].count;
    }
    return total;
}

static uint64_t workspace_bytes(const ousac_model *model, size_t batch) {
    workspace none = {0};
    (void)model;
    return carve(&none, batch, NULL) * sizeof(float);
}

static void workspace_free(const ousac_model *model, void *pointer) {
    workspace *ws = pointer;
    if (!ws)
        return;
    model->backend->release(model->backend, ws->slab);
    ousac_free(ws);
}

static ousac_status workspace_create(const ousac_model *model, size_t batch, void **pointer,
                                     ousac_error *error) {
    workspace *ws = ousac_calloc(1, sizeof *ws);
    if (ws)
        ws->slab = model->backend->alloc(model->backend, carve(ws, batch, NULL), sizeof(float));
    if (!ws || !ws->slab) {
        workspace_free(model, ws);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace");
    }
    ws->batch = batch;
    (void)carve(ws, batch, ws->slab);
    *pointer = ws;
    return OUSAC_STATUS_OK;
}

/* --- inputs --- */

static ousac_status check_inputs(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error) {
    static const struct {
        ousac_input input;
        size_t dims, shape[2];
    } wanted[] = {{OUSAC_INPUT_PROMPT_EMBEDS, 2, {DUO_TEXT, DUO_EMBED}},
                  {OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS, 2, {DUO_TEXT, DUO_EMBED}},
                  {OUSAC_INPUT_POOLED, 1, {DUO_POOLED}},
                  {OUSAC_INPUT_NEGATIVE_POOLED, 1, {DUO_POOLED}},
                  {OUSAC_INPUT_GUIDANCE, 0, {0}}};
    ousac_status status = OUSAC_STATUS_OK;
    unsigned taken = 1U << OUSAC_INPUT_NOISE;
    (void)model;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !status; i++) {
        status = ousac_inputs_expect(inputs, wanted[i].input, 1, wanted[i].dims, wanted[i].shape, error);
        taken |= 1U << wanted[i].input;
    }
    return status ? status : ousac_inputs_refuse_others(inputs, taken, "duo", error);
}

static ousac_status set_inputs(const ousac_model *model, void *pointer, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error) {
    static const ousac_input embeds[] = {OUSAC_INPUT_PROMPT_EMBEDS, OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS},
                             pooled[] = {OUSAC_INPUT_POOLED, OUSAC_INPUT_NEGATIVE_POOLED};
    workspace *ws = pointer;
    (void)seed, (void)error;
    for (size_t b = 0; b < OUSAC_BRANCHES; b++) {
        ws->ready[b] = 0;
        for (size_t i = 0; i < count; i++) {
            ousac_inputs_read(model->inputs, embeds[b], first + i,
                              ws->embeds + (b * ws->batch + i) * DUO_TEXT * DUO_EMBED);
            ousac_inputs_read(model->inputs, pooled[b], first + i,
                              ws->pooled + (b * ws->batch + i) * DUO_POOLED);
        }
    }
    for (size_t i = 0; i < count; i++)
        ousac_inputs_read(model->inputs, OUSAC_INPUT_GUIDANCE, first + i, ws->guidance + i);
    return OUSAC_STATUS_OK;
}

static void describe_input(const ousac_model *model, uint64_t seed, uint64_t sample, char *text,
                           size_t size) {
    (void)seed;
    (void)snprintf(text, size, "row %zu", (size_t)(sample % ousac_inputs_rows(model->inputs)));
}

/* --- the engine --- */

static void apply(const duo_outer *l, size_t rows, const float *x, size_t ldx, float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < l->m; j++) {
            float sum = l->bias[j];
            for (size_t k = 0; k < l->n; k++)
                sum += l->w[j * l->n + k] * x[i * ldx + k];
            y[i * ldy + j] = sum;
        }
}

static void norm(size_t rows, size_t tokens, const float *h, const float *a, float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        float mean = 0, variance = 0;
        for (size_t j = 0; j < D; j++)
            mean += h[i * D + j] / D;
        for (size_t j = 0; j < D; j++)
            variance += (h[i * D + j] - mean) * (h[i * D + j] - mean) / D;
        for (size_t j = 0; j < D; j++)
            y[i * ldy + j] =
                (h[i * D + j] - mean) / sqrtf(variance + 1e-6f) * (a ? 1 + a[i / tokens * D + j] : 1);
    }
}

static void add_half(size_t rows, const float *out, float *h) {
    for (size_t i = 0; i < rows * D; i++)
        h[i] += 0.5f * out[i];
}

/* A row of queries, keys or values. */
typedef struct qkv_rows {
    const float *q, *k, *v;
    size_t ld, rows;
} qkv_rows;

/* One query row of one head against the keys of one or two matrices, one behind the other. */
static void attend(const float *q, const qkv_rows *part, size_t parts, size_t head, float *out) {
    enum { WIDTH = D / DUO_HEADS };
    float score[DUO_JOINT], largest = -INFINITY, sum = 0;
    size_t n = 0;
    for (size_t p = 0; p < parts; p++)
        for (size_t i = 0; i < part[p].rows; i++, n++) {
            score[n] = 0;
            for (size_t j = 0; j < WIDTH; j++)
                score[n] += q[head * WIDTH + j] * part[p].k[i * part[p].ld + head * WIDTH + j] / sqrtf(WIDTH);
            largest = fmaxf(largest, score[n]);
        }
    for (size_t i = 0; i < n; i++)
        sum += score[i] = expf(score[i] - largest);
    for (size_t j = 0; j < WIDTH; j++) {
        out[head * WIDTH + j] = 0;
        n = 0;
        for (size_t p = 0; p < parts; p++)
            for (size_t i = 0; i < part[p].rows; i++, n++)
                out[head * WIDTH + j] += score[n] / sum * part[p].v[i * part[p].ld + head * WIDTH + j];
    }
}

static float *place(const ousac_linears *l, size_t group, int output, float *own) {
    return l->place ? l->place(l->self, group, output, own) : own;
}

static ousac_status joint_attention(workspace *ws, size_t block, size_t count, const ousac_linears *l,
                                    ousac_error *error) {
    const size_t group = block * 10, image = count * DUO_IMAGE, text = count * DUO_TEXT;
    ousac_rows out[2] = {{ws->out, image, D}, {ws->out_text, text, D}};
    int live = 1;
    ousac_status status = l->module_begin(l->self, block * 4, out, &live, error);
    if (!status && live) {
        float *x = place(l, group, 0, ws->x), *x_text = place(l, group + 1, 0, ws->x_text);
        float *y = place(l, group + 2, 1, ws->out), *y_text = place(l, group + 3, 1, ws->out_text);
        norm(image, DUO_IMAGE, ws->image, ws->a, x, D);
        norm(text, DUO_TEXT, ws->text, ws->a, x_text, D);
        if ((status = l->linear(l->self, group, image, x, D, ws->wide, 3 * D, error)) ||
            (status = l->linear(l->self, group + 1, text, x_text, D, ws->wide_text, 3 * D, error)))
            return status;
        for (size_t s = 0; s < count; s++) {
            const float *t = ws->wide_text + s * DUO_TEXT * 3 * D, *i = ws->wide + s * DUO_IMAGE * 3 * D;
            const qkv_rows parts[2] = {{t, t + D, t + 2 * D, 3 * D, DUO_TEXT},
                                       {i, i + D, i + 2 * D, 3 * D, DUO_IMAGE}};
            for (size_t head = 0; head < DUO_HEADS; head++) {
                for (size_t r = 0; r < DUO_TEXT; r++)
                    attend(t + r * 3 * D, parts, 2, head, ws->mixed_text + (s * DUO_TEXT + r) * D);
                for (size_t r = 0; r < DUO_IMAGE; r++)
                    attend(i + r * 3 * D, parts, 2, head, ws->mixed + (s * DUO_IMAGE + r) * D);
            }
        }
        if ((status = l->linear(l->self, group + 2, image, ws->mixed, D, y, D, error)) ||
            (status = l->linear(l->self, group + 3, text, ws->mixed_text, D, y_text, D, error)))
            return status;
        out[0].data = y;
        out[1].data = y_text;
        status = l->module_end(l->self, block * 4, out, error);
    }
    add_half(image, out[0].data, ws->image);
    add_half(text, out[1].data, ws->text);
    return status;
}

static ousac_status cross_attention(workspace *ws, size_t block, int branch, size_t count,
                                    const ousac_linears *l, ousac_error *error) {
    const size_t group = block * 10 + 4, image = count * DUO_IMAGE;
    const float *kv = ws->kv + ((size_t)branch * DUO_DOUBLES + block) * ws->batch * DUO_TEXT * 2 * D;
    const ousac_rows out = {ws->out, image, D};
    int live = 1;
    ousac_status status = l->module_begin(l->self, block * 4 + 1, &out, &live, error);
    if (!status && live) {
        norm(image, DUO_IMAGE, ws->image, ws->a, ws->x, D);
        if ((status = l->linear(l->self, group, image, ws->x, D, ws->wide, D, error)))
            return status;
        for (size_t s = 0; s < count; s++) {
            const float *k = kv + s * DUO_TEXT * 2 * D;
            const qkv_rows part = {NULL, k, k + D, 2 * D, DUO_TEXT};
            for (size_t head = 0; head < DUO_HEADS; head++)
                for (size_t r = s * DUO_IMAGE; r < (s + 1) * DUO_IMAGE; r++)
                    attend(ws->wide + r * D, &part, 1, head, ws->mixed + r * D);
        }
        if ((status = l->linear(l->self, group + 1, image, ws->mixed, D, ws->out, D, error)))
            return status;
        status = l->module_end(l->self, block * 4 + 1, &out, error);
    }
    add_half(image, ws->out, ws->image);
    return status;
}

static ousac_status mlp(workspace *ws, size_t block, int of_text, size_t count, const ousac_linears *l,
                        ousac_error *error) {
    const size_t group = block * 10 + (of_text ? 8 : 6), module = block * 4 + (of_text ? 3 : 2);
    const size_t tokens = of_text ? DUO_TEXT : DUO_IMAGE, rows = count * tokens;
    float *h = of_text ? ws->text : ws->image;
    ousac_rows out = {ws->out, rows, D};
    int live = 1;
    ousac_status status = l->module_begin(l->self, module, &out, &live, error);
    if (!status && live) {
        float *inner = place(l, group + 1, 0, ws->mixed);
        norm(rows, tokens, h, ws->a, ws->x, D);
        if ((status = l->linear(l->self, group, rows, ws->x, D, ws->wide, H, error)))
            return status;
        for (size_t i = 0; i < rows * H; i++)
            inner[i] = tanhf(ws->wide[i]);
        if ((status = l->linear(l->self, group + 1, rows, inner, H, ws->out, D, error)))
            return status;
        status = l->module_end(l->self, module, &out, error);
    }
    add_half(rows, out.data, h);
    return status;
}

static ousac_status single(workspace *ws, size_t index, size_t count, const ousac_linears *l,
                           ousac_error *error) {
    const size_t group = DUO_DOUBLES * 10 + index * 2, module = DUO_DOUBLES * 4 + index,
                 rows = count * DUO_JOINT;
    const size_t wide = 3 * D + H;
    const ousac_rows out = {ws->out, rows, D};
    int live = 1;
    ousac_status status = l->module_begin(l->self, module, &out, &live, error);
    if (!status && live) {
        norm(rows, DUO_JOINT, ws->joint, ws->a, ws->x, D);
        if ((status = l->linear(l->self, group, rows, ws->x, D, ws->wide, wide, error)))
            return status;
        for (size_t r = 0; r < rows; r++) {
            const float *first = ws->wide + r / DUO_JOINT * DUO_JOINT * wide;
            const qkv_rows part = {NULL, first + D, first + 2 * D, wide, DUO_JOINT};
            for (size_t head = 0; head < DUO_HEADS; head++)
                attend(ws->wide + r * wide, &part, 1, head, ws->mixed + r * (D + H));
            for (size_t j = 0; j < H; j++)
                ws->mixed[r * (D + H) + D + j] = tanhf(ws->wide[r * wide + 3 * D + j]);
        }
        if ((status = l->linear(l->self, group + 1, rows, ws->mixed, D + H, ws->out, D, error)))
            return status;
        status = l->module_end(l->self, module, &out, error);
    }
    add_half(rows, ws->out, ws->joint);
    return status;
}

static void condition(const duo *net, workspace *ws, const ousac_evaluation *e) {
    const float t = (float)e->timestep;
    const float features[4] = {cosf(t / 1000), sinf(t / 1000), cosf(t / 100), sinf(t / 100)};
    for (size_t s = 0; s < e->count; s++) {
        float part[3][D];
        apply(&net->outer[DUO_OUTER_T], 1, features, 4, part[0], D);
        apply(&net->outer[DUO_OUTER_POOLED], 1, ws->pooled + ((size_t)e->branch * ws->batch + s) * DUO_POOLED,
              DUO_POOLED, part[1], D);
        apply(&net->outer[DUO_OUTER_GUIDANCE], 1, ws->guidance + s, 1, part[2], D);
        for (size_t j = 0; j < D; j++) {
            const float sum = part[0][j] + part[1][j] + part[2][j];
            ws->a[s * D + j] = sum / (1 + expf(-sum));
        }
    }
}

static ousac_status forward(const ousac_model *model, void *pointer, const ousac_evaluation *e,
                            const float *x, const ousac_linears *l, float *out, ousac_error *error) {
    const duo *net = model->state;
    workspace *ws = pointer;
    const float *embeds = ws->embeds + (size_t)e->branch * ws->batch * DUO_TEXT * DUO_EMBED;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t b = 0; b < DUO_DOUBLES && !ws->ready[e->branch]; b++)
        apply(&net->outer[DUO_OUTER_KV + b], e->count * DUO_TEXT, embeds, DUO_EMBED,
              ws->kv + ((size_t)e->branch * DUO_DOUBLES + b) * ws->batch * DUO_TEXT * 2 * D, 2 * D);
    ws->ready[e->branch] = 1;
    condition(net, ws, e);
    for (size_t r = 0; r < e->count * DUO_IMAGE; r++) {
        float pixel[DUO_CHANNELS];
        for (size_t c = 0; c < DUO_CHANNELS; c++)
            pixel[c] = x[r / DUO_IMAGE * DUO_SIZE + c * DUO_IMAGE + r % DUO_IMAGE];
        apply(&net->outer[DUO_OUTER_X], 1, pixel, DUO_CHANNELS, ws->image + r * D, D);
    }
    apply(&net->outer[DUO_OUTER_TEXT], e->count * DUO_TEXT, embeds, DUO_EMBED, ws->text, D);
    for (size_t b = 0; b < DUO_DOUBLES; b++)
        if ((status = joint_attention(ws, b, e->count, l, error)) ||
            (status = cross_attention(ws, b, e->branch, e->count, l, error)) ||
            (status = mlp(ws, b, 0, e->count, l, error)) || (status = mlp(ws, b, 1, e->count, l, error)))
            return status;
    for (size_t s = 0; s < e->count; s++) {
        memcpy(ws->joint + s * DUO_JOINT * D, ws->text + s * DUO_TEXT * D, DUO_TEXT * D * sizeof(float));
        memcpy(ws->joint + (s * DUO_JOINT + DUO_TEXT) * D, ws->image + s * DUO_IMAGE * D,
               DUO_IMAGE * D * sizeof(float));
    }
    for (size_t b = 0; b < DUO_SINGLES && !status; b++)
        status = single(ws, b, e->count, l, error);
    norm(e->count * DUO_JOINT, DUO_JOINT, ws->joint, NULL, ws->x, D);
    for (size_t r = 0; r < e->count * DUO_IMAGE; r++) {
        float pixel[DUO_CHANNELS];
        apply(&net->outer[DUO_OUTER_Y], 1, ws->x + (r / DUO_IMAGE * DUO_JOINT + DUO_TEXT + r % DUO_IMAGE) * D,
              D, pixel, DUO_CHANNELS);
        for (size_t c = 0; c < DUO_CHANNELS; c++)
            out[r / DUO_IMAGE * DUO_SIZE + c * DUO_IMAGE + r % DUO_IMAGE] = pixel[c];
    }
    return status;
}

/* --- making it --- */

static void unload(ousac_model *model) {
    duo *net = model->state;
    if (!net)
        return;
    model->backend->release(model->backend, net->values);
    ousac_free(net);
    model->state = NULL;
}

static const ousac_family family = {.name = "duo",
                                    .unload = unload,
                                    .workspace_create = workspace_create,
                                    .workspace_free = workspace_free,
                                    .workspace_bytes = workspace_bytes,
                                    .check_inputs = check_inputs,
                                    .set_inputs = set_inputs,
                                    .describe_input = describe_input,
                                    .forward = forward};

/* Points everything into one block of values; returns how many there are. */
static size_t place_weights(ousac_model *model, float *values) {
    static const size_t shapes[DUO_OUTER_KV + 1][2] = {{D, DUO_CHANNELS}, {D, DUO_EMBED}, {D, 4},
                                                       {D, DUO_POOLED},   {D, 1},         {DUO_CHANNELS, D},
                                                       {2 * D, DUO_EMBED}};
    duo *net = model->state;
    size_t used = 0;
    for (size_t i = 0; i < DUO_OUTER_KV + DUO_DOUBLES; i++) {
        const size_t *shape = shapes[i < DUO_OUTER_KV ? i : DUO_OUTER_KV];
        net->outer[i] = (duo_outer){shape[0], shape[1], values + used, values + used + shape[0] * shape[1]};
        used += shape[0] * shape[1] + shape[0];
    }
    for (size_t g = 0; g < DUO_GROUPS; g++) { /* weights of a group, then its biases */
        const ousac_group *group = &model->arch.groups[g];
        for (int bias = 0; bias < 2; bias++)
            for (size_t s = group->first_site; s < group->first_site + group->site_count; s++) {
                (bias ? model->bias : model->weight)[s] = values + used;
                used += model->arch.sites[s].m * (bias ? 1 : model->arch.sites[s].n);
            }
    }
    return used;
}

ousac_status duo_create(ousac_model **out, uint64_t seed, const char *path, ousac_error *error) {
    ousac_model *model = ousac_calloc(1, sizeof *model);
    duo *net = ousac_calloc(1, sizeof *net);
    static float counted[1 << 14];
    if (!model || !net)
        abort();
    model->family = &family;
    model->backend = ousac_backend_cpu();
    model->path = ousac_strdup("duo");
    model->state = net;
    model->channels = DUO_CHANNELS;
    model->height = DUO_HEIGHT;
    model->width = DUO_WIDTH;
    model->guided_channels = 1;
    model->has_uncond = 1;
    ousac_status status = ousac_noise_parse("flow 1000", "duo", &model->noise, error);
    model->noise.prediction = OUSAC_PREDICTION_FLOW;
    if (!status)
        status = create_arch(&model->arch, error);
    if (status)
        goto done;
    model->weight = ousac_calloc(DUO_SITES, sizeof *model->weight);
    model->bias = ousac_calloc(DUO_SITES, sizeof *model->bias);
    const size_t count = place_weights(model, counted);
    net->values = model->backend->alloc(model->backend, count, sizeof(float));
    if (!model->weight || !model->bias || !net->values || count > sizeof counted / sizeof *counted)
        abort();
    ousac_philox_normals(seed, WEIGHTS, 0, count, net->values);
    (void)place_weights(model, net->values);
    for (size_t i = 0; i < count; i++)
        net->values[i] *= 0.4f;
    memset(model->digest, 'd', OUSAC_DIGEST_CHARS - 1);
    (void)snprintf(model->constants, sizeof model->constants, "duo heads=%d", DUO_HEADS);
    ousac_model_describe_process(model);
    status = ousac_inputs_open(&model->inputs, path, error);
    if (!status)
        status = check_inputs(model, model->inputs, error);
    if (status)
        goto done;
    *out = model;
    model = NULL;
done:
    ousac_model_free(model);
    return status;
}

ousac_status duo_write_inputs(const char *path, uint64_t seed, ousac_error *error) {
    enum { EMBEDS = DUO_ROWS * DUO_TEXT * DUO_EMBED, POOLED = DUO_ROWS * DUO_POOLED };
    float embeds[2][EMBEDS], pooled[2][POOLED], guidance[DUO_ROWS];
    for (size_t b = 0; b < 2; b++) {
        ousac_philox_normals(seed, WEIGHTS + 1, b, EMBEDS, embeds[b]);
        ousac_philox_normals(seed, WEIGHTS + 2, b, POOLED, pooled[b]);
    }
    for (size_t i = 0; i < DUO_ROWS; i++)
        guidance[i] = 0.5f + (float)i;
    const write_tensor tensors[] = {
        {"prompt_embeds", OUSAC_DTYPE_F32, 3, {DUO_ROWS, DUO_TEXT, DUO_EMBED}, embeds[0]},
        {"negative_prompt_embeds", OUSAC_DTYPE_F32, 3, {DUO_ROWS, DUO_TEXT, DUO_EMBED}, embeds[1]},
        {"pooled", OUSAC_DTYPE_F32, 2, {DUO_ROWS, DUO_POOLED}, pooled[0]},
        {"negative_pooled", OUSAC_DTYPE_F32, 2, {DUO_ROWS, DUO_POOLED}, pooled[1]},
        {"guidance", OUSAC_DTYPE_F32, 1, {DUO_ROWS}, guidance}};
    return write_safetensors(path, tensors, sizeof tensors / sizeof *tensors, NULL, 0, error);
}
