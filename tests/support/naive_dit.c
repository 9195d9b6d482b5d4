#include "tests/support/naive_dit.h"

#include "formats/memory.h"
#include "formats/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 96 };

/* --- loading --- */

/* Reads a tensor of `rows` x `columns` values, whatever its dimensions are called; 0 rows or columns: any. */
static ousac_status read_tensor(const ousac_safetensors *file, const char *name, uint64_t rows,
                                uint64_t columns, double **values, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    float *narrow = NULL;
    double *wide = NULL;
    const ousac_safetensors_tensor *tensor = ousac_safetensors_find(file, name);

    if (tensor == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "tensor '%s' is missing", name);
    if (tensor->dims == 0 || tensor->count != rows * columns)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "tensor '%s': expected %" PRIu64 " x %" PRIu64 " values, found %" PRIu64, name,
                          rows, columns, tensor->count);
    narrow = ousac_malloc((size_t)tensor->count, sizeof *narrow);
    wide = ousac_malloc((size_t)tensor->count, sizeof *wide);
    if (narrow == NULL || wide == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "tensor '%s': no memory", name);
        goto done;
    }
    status = ousac_safetensors_read_f32(tensor, 0, tensor->count, narrow, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (uint64_t i = 0; i < tensor->count; i++)
        wide[i] = (double)narrow[i];
    *values = wide;
    wide = NULL;
done:
    ousac_free(narrow);
    ousac_free(wide);
    return status;
}

static ousac_status read_linear(const ousac_safetensors *file, const char *name, size_t m, size_t n,
                                naive_linear *linear, ousac_error *error) {
    char full[NAME_BYTES];
    linear->m = m;
    linear->n = n;
    (void)snprintf(full, sizeof full, "%s.weight", name);
    ousac_status status = read_tensor(file, full, m, n, &linear->weight, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    (void)snprintf(full, sizeof full, "%s.bias", name);
    return read_tensor(file, full, m, 1, &linear->bias, error);
}

/* The shape of a tensor that sizes are taken from. */
static ousac_status read_shape(const ousac_safetensors *file, const char *name, size_t dims, size_t shape[],
                               ousac_error *error) {
    const ousac_safetensors_tensor *tensor = ousac_safetensors_find(file, name);
    if (tensor == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "tensor '%s' is missing", name);
    if (tensor->dims != dims)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "tensor '%s': expected %zu dimensions, found %zu", name,
                          dims, tensor->dims);
    for (size_t i = 0; i < dims; i++) {
        if (tensor->shape[i] == 0 || tensor->shape[i] > UINT32_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "tensor '%s': dimension %zu is %" PRIu64, name, i,
                              tensor->shape[i]);
        shape[i] = (size_t)tensor->shape[i];
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_sizes(naive_dit *net, const ousac_safetensors *file, ousac_error *error) {
    size_t embed[4], t1[2], table[2], fc1[2], final[2];
    char name[NAME_BYTES];
    ousac_status status;

    if ((status = read_shape(file, "x_embedder.proj.weight", 4, embed, error)) != OUSAC_STATUS_OK ||
        (status = read_shape(file, "t_embedder.mlp.0.weight", 2, t1, error)) != OUSAC_STATUS_OK ||
        (status = read_shape(file, "y_embedder.embedding_table.weight", 2, table, error)) !=
            OUSAC_STATUS_OK ||
        (status = read_shape(file, "blocks.0.mlp.fc1.weight", 2, fc1, error)) != OUSAC_STATUS_OK ||
        (status = read_shape(file, "final_layer.linear.weight", 2, final, error)) != OUSAC_STATUS_OK)
        return status;
    net->d = embed[0];
    net->channels = embed[1];
    net->patch = embed[2];
    net->frequencies = t1[1];
    net->labels = table[0];
    net->hidden = fc1[0];
    size_t patch_area = net->patch * net->patch;
    net->out_channels = final[0] / patch_area;
    if (embed[2] != embed[3] || final[0] % patch_area != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "expected square patches and a multiple of %zu rows in 'final_layer.linear.weight'",
                          patch_area);
    if (net->frequencies % 2 != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "tensor 't_embedder.mlp.0.weight': expected even columns");
    if (net->heads == 0 || net->d % net->heads != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu heads do not divide a width of %zu", net->heads,
                          net->d);
    do {
        net->depth++;
        (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv.weight", net->depth);
    } while (ousac_safetensors_find(file, name) != NULL);
    return OUSAC_STATUS_OK;
}

static ousac_status read_positions(naive_dit *net, const ousac_safetensors *file, ousac_error *error) {
    const ousac_safetensors_tensor *tensor = ousac_safetensors_find(file, "pos_embed");
    if (tensor == NULL)
        return OUSAC_STATUS_OK;
    net->tokens = (size_t)(tensor->count / net->d);
    while (net->side * net->side < net->tokens)
        net->side++;
    if (net->side * net->side != net->tokens)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "tensor 'pos_embed': %zu tokens are no square",
                          net->tokens);
    return read_tensor(file, "pos_embed", net->tokens, net->d, &net->positions, error);
}

static ousac_status read_block(naive_dit *net, const ousac_safetensors *file, size_t index,
                               ousac_error *error) {
    naive_block *block = &net->blocks[index];
    const size_t d = net->d;
    const struct {
        const char *name;
        naive_linear *linear;
        size_t m, n;
    } parts[] = {
        {"adaLN_modulation.1", &block->modulation, 6 * d, d},
        {"attn.proj", &block->proj, d, d},
        {"mlp.fc1", &block->fc1, net->hidden, d},
        {"mlp.fc2", &block->fc2, d, net->hidden},
    };
    char name[NAME_BYTES];
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        (void)snprintf(name, sizeof name, "blocks.%zu.%s", index, parts[i].name);
        ousac_status status = read_linear(file, name, parts[i].m, parts[i].n, parts[i].linear, error);
        if (status != OUSAC_STATUS_OK)
            return status;
    }
    (void)snprintf(name, sizeof name, "blocks.%zu.y_embedder.embedding_table.weight", index);
    if (ousac_safetensors_find(file, name) != NULL) {
        ousac_status status = read_tensor(file, name, net->labels, d, &block->table, error);
        (void)snprintf(name, sizeof name, "blocks.%zu.t_embedder.mlp.0", index);
        if (status == OUSAC_STATUS_OK)
            status = read_linear(file, name, d, net->frequencies, &block->t1, error);
        (void)snprintf(name, sizeof name, "blocks.%zu.t_embedder.mlp.2", index);
        if (status == OUSAC_STATUS_OK)
            status = read_linear(file, name, d, d, &block->t2, error);
        if (status != OUSAC_STATUS_OK)
            return status;
    }
    (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv.bias", index);
    if (ousac_safetensors_find(file, name) != NULL) {
        (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv", index);
        return read_linear(file, name, 3 * d, d, &block->qkv, error);
    }
    block->qkv.m = 3 * d;
    block->qkv.n = d;
    block->qkv.bias = ousac_calloc(3 * d, sizeof *block->qkv.bias);
    if (block->qkv.bias == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "block %zu: no memory", index);
    (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv.weight", index);
    return read_tensor(file, name, 3 * d, d, &block->qkv.weight, error);
}

ousac_status naive_dit_load(naive_dit **out, const char *path, size_t heads, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_safetensors *file = NULL;
    naive_dit *net = ousac_calloc(1, sizeof *net);

    *out = NULL;
    if (net == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", path);
        goto done;
    }
    net->heads = heads;
    if ((status = ousac_safetensors_open(&file, path, error)) != OUSAC_STATUS_OK ||
        (status = read_sizes(net, file, error)) != OUSAC_STATUS_OK)
        goto done;
    net->frequency_denominator = (double)(net->frequencies / 2);
    net->attn_norm_eps = net->mlp_norm_eps = net->final_norm_eps = 1e-6;
    net->blocks = ousac_calloc(net->depth, sizeof *net->blocks);
    if (net->blocks == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu blocks", net->depth);
        goto done;
    }
    const size_t d = net->d, area = net->patch * net->patch;
    if ((status = read_linear(file, "x_embedder.proj", d, net->channels * area, &net->embed, error)) ||
        (status = read_linear(file, "t_embedder.mlp.0", d, net->frequencies, &net->t1, error)) ||
        (status = read_linear(file, "t_embedder.mlp.2", d, d, &net->t2, error)) ||
        (status =
             read_tensor(file, "y_embedder.embedding_table.weight", net->labels, d, &net->table, error)) ||
        (status = read_positions(net, file, error)) ||
        (status =
             read_linear(file, "final_layer.adaLN_modulation.1", 2 * d, d, &net->final_modulation, error)) ||
        (status = read_linear(file, "final_layer.linear", area * net->out_channels, d, &net->final, error)))
        goto done;
    for (size_t i = 0; i < net->depth && status == OUSAC_STATUS_OK; i++)
        status = read_block(net, file, i, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    *out = net;
    net = NULL;
done:
    if (status != OUSAC_STATUS_OK && file != NULL)
        (void)ousac_error_prefix(error, "%s", path);
    ousac_safetensors_close(file);
    naive_dit_free(net);
    return status;
}

static void free_linear(naive_linear *linear) {
    ousac_free(linear->weight);
    ousac_free(linear->bias);
}

void naive_dit_free(naive_dit *net) {
    if (net == NULL)
        return;
    for (size_t i = 0; i < net->depth && net->blocks != NULL; i++) {
        naive_block *block = &net->blocks[i];
        free_linear(&block->modulation);
        free_linear(&block->qkv);
        free_linear(&block->proj);
        free_linear(&block->fc1);
        free_linear(&block->fc2);
        free_linear(&block->t1);
        free_linear(&block->t2);
        ousac_free(block->table);
    }
    ousac_free(net->blocks);
    free_linear(&net->embed);
    free_linear(&net->t1);
    free_linear(&net->t2);
    free_linear(&net->final_modulation);
    free_linear(&net->final);
    ousac_free(net->table);
    ousac_free(net->positions);
    ousac_free(net);
}

ousac_status naive_dit_set_sincos(naive_dit *net, size_t side, ousac_error *error) {
    if (side == 0 || net->d % 4 != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "sine-cosine positions need a side and a width divisible by 4");
    double *positions = ousac_malloc(side * side * net->d, sizeof *positions);
    if (positions == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the positions");
    const size_t quarter = net->d / 4;
    for (size_t row = 0; row < side; row++) {
        for (size_t column = 0; column < side; column++) {
            double *token = positions + (row * side + column) * net->d;
            for (size_t i = 0; i < quarter; i++) {
                double omega = 1.0 / pow(10000.0, (double)i / (double)quarter);
                token[i] = sin((double)column * omega);
                token[quarter + i] = cos((double)column * omega);
                token[2 * quarter + i] = sin((double)row * omega);
                token[3 * quarter + i] = cos((double)row * omega);
            }
        }
    }
    ousac_free(net->positions);
    net->positions = positions;
    net->side = side;
    net->tokens = side * side;
    return OUSAC_STATUS_OK;
}

/* --- the forward --- */

/* y (rows, m) of the rows [first, first + m) of a weight, contiguous. */
static void apply(const naive_linear *linear, size_t first, size_t m, size_t rows, const double *x,
                  double *y) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < m; i++) {
            const double *weight = linear->weight + (first + i) * linear->n;
            double sum = linear->bias[first + i];
            for (size_t j = 0; j < linear->n; j++)
                sum += weight[j] * x[r * linear->n + j];
            y[r * m + i] = sum;
        }
    }
}

static double silu(double v) {
    return v / (1.0 + exp(-v));
}

static double gelu_tanh(double v) {
    const double root_2_over_pi = 0.79788456080286535588;
    return 0.5 * v * (1.0 + tanh(root_2_over_pi * (v + 0.044715 * v * v * v)));
}

/* out = norm(x) (1 + scale) + shift, row by row; norm by the mean and the biased variance. */
static void modulated_norm(size_t rows, size_t d, const double *x, double eps, const double *shift,
                           const double *scale, double *out) {
    for (size_t r = 0; r < rows; r++) {
        double mean = 0.0, variance = 0.0;
        for (size_t j = 0; j < d; j++)
            mean += x[r * d + j];
        mean /= (double)d;
        for (size_t j = 0; j < d; j++)
            variance += (x[r * d + j] - mean) * (x[r * d + j] - mean);
        variance /= (double)d;
        for (size_t j = 0; j < d; j++)
            out[r * d + j] = (x[r * d + j] - mean) / sqrt(variance + eps) * (1.0 + scale[j]) + shift[j];
    }
}

/* q, k, v (rows, d), head h in columns [h d/heads, (h + 1) d/heads) -> out (rows, d). `weights` (rows). */
static void attend(size_t rows, size_t d, size_t heads, const double *q, const double *k, const double *v,
                   double *weights, double *out) {
    const size_t width = d / heads;
    for (size_t h = 0; h < heads; h++) {
        for (size_t i = 0; i < rows; i++) {
            double largest = -INFINITY, total = 0.0;
            for (size_t j = 0; j < rows; j++) {
                double score = 0.0;
                for (size_t c = 0; c < width; c++)
                    score += q[i * d + h * width + c] * k[j * d + h * width + c];
                weights[j] = score / sqrt((double)width);
                largest = fmax(largest, weights[j]);
            }
            for (size_t j = 0; j < rows; j++) {
                weights[j] = exp(weights[j] - largest);
                total += weights[j];
            }
            for (size_t c = 0; c < width; c++) {
                double sum = 0.0;
                for (size_t j = 0; j < rows; j++)
                    sum += weights[j] * v[j * d + h * width + c];
                out[i * d + h * width + c] = sum / total;
            }
        }
    }
}

/* Buffers of one forward; `all` owns them. */
typedef struct scratch {
    double *all;
    double *x, *normed, *q, *k, *v, *mixed, *module; /* (tokens, d) */
    double *hidden;                                  /* (tokens, hidden) */
    double *weights;                                 /* (tokens) */
    double *condition;                               /* (d), after its SiLU */
    double *modulation;                              /* (6 d) */
    double *frequency, *inner;                       /* (frequencies), (d) */
    double *patches;                                 /* (tokens, patch^2 max(channels, out_channels)) */
} scratch;

static ousac_status scratch_create(scratch *s, const naive_dit *net, ousac_error *error) {
    const size_t N = net->tokens, d = net->d;
    const size_t channels = net->channels > net->out_channels ? net->channels : net->out_channels;
    const struct {
        double **part;
        size_t count;
    } parts[] = {
        {&s->x, N * d},          {&s->normed, N * d},
        {&s->q, N * d},          {&s->k, N * d},
        {&s->v, N * d},          {&s->mixed, N * d},
        {&s->module, N * d},     {&s->hidden, N * net->hidden},
        {&s->weights, N},        {&s->condition, d},
        {&s->modulation, 6 * d}, {&s->frequency, net->frequencies},
        {&s->inner, d},          {&s->patches, N * net->patch * net->patch * channels},
    };
    const size_t part_count = sizeof parts / sizeof parts[0];
    size_t total = 0;
    for (size_t i = 0; i < part_count; i++)
        total += parts[i].count;
    s->all = ousac_calloc(total, sizeof *s->all);
    if (s->all == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a forward");
    double *next = s->all;
    for (size_t i = 0; i < part_count; i++) {
        *parts[i].part = next;
        next += parts[i].count;
    }
    return OUSAC_STATUS_OK;
}

/* Fills s->condition with silu(c). */
static void embed_condition(const naive_dit *net, const naive_linear *t1, const naive_linear *t2,
                            const double *table, double t, size_t label, scratch *s) {
    const size_t half = net->frequencies / 2, d = net->d;
    for (size_t i = 0; i < half; i++) {
        double phase = t * exp(-log(10000.0) * (double)i / net->frequency_denominator);
        s->frequency[i] = cos(phase);
        s->frequency[half + i] = sin(phase);
    }
    apply(t1, 0, d, 1, s->frequency, s->inner);
    for (size_t j = 0; j < d; j++)
        s->inner[j] = silu(s->inner[j]);
    apply(t2, 0, d, 1, s->inner, s->condition);
    for (size_t j = 0; j < d; j++)
        s->condition[j] = silu(s->condition[j] + table[label * d + j]);
}

/* Fills s->x: token (row, column) sees its patch in the order channel, line, pixel of the convolution's
 * weight. */
static void embed_image(const naive_dit *net, const float *image, scratch *s) {
    const size_t p = net->patch, size = net->side * p, width = net->channels * p * p;
    for (size_t n = 0; n < net->tokens; n++) {
        const size_t top = n / net->side * p, left = n % net->side * p;
        for (size_t c = 0; c < net->channels; c++)
            for (size_t y = 0; y < p; y++)
                for (size_t x = 0; x < p; x++)
                    s->patches[n * width + (c * p + y) * p + x] =
                        (double)image[(c * size + top + y) * size + left + x];
    }
    apply(&net->embed, 0, net->d, net->tokens, s->patches, s->x);
    for (size_t i = 0; i < net->tokens * net->d; i++)
        s->x[i] += net->positions[i];
}

/* Rows [first, first + m) of `linear` as the site `part` of a block. */
static void run_site(const naive_observer *observer, size_t block, const char *part,
                     const naive_linear *linear, size_t first, size_t m, size_t rows, const double *x,
                     double *y) {
    char name[NAME_BYTES];
    apply(linear, first, m, rows, x, y);
    if (observer == NULL || observer->site == NULL)
        return;
    (void)snprintf(name, sizeof name, "blocks.%zu.%s", block, part);
    observer->site(observer->self, name, rows, m, linear->n, x, y);
}

/* x += gate * module output, after the observer has seen it. */
static void add_module(const naive_dit *net, const naive_observer *observer, size_t block, const char *part,
                       const double *gate, scratch *s) {
    char name[NAME_BYTES];
    if (observer != NULL && observer->module != NULL) {
        (void)snprintf(name, sizeof name, "blocks.%zu.%s", block, part);
        observer->module(observer->self, name, net->tokens, net->d, s->module);
    }
    for (size_t n = 0; n < net->tokens; n++)
        for (size_t j = 0; j < net->d; j++)
            s->x[n * net->d + j] += gate[j] * s->module[n * net->d + j];
}

static void run_block(const naive_dit *net, size_t index, const naive_observer *observer, scratch *s) {
    const naive_block *block = &net->blocks[index];
    const size_t N = net->tokens, d = net->d;
    const double *mod = s->modulation;

    apply(&block->modulation, 0, 6 * d, 1, s->condition, s->modulation);
    modulated_norm(N, d, s->x, net->attn_norm_eps, mod, mod + d, s->normed);
    run_site(observer, index, "attn.q", &block->qkv, 0, d, N, s->normed, s->q);
    run_site(observer, index, "attn.k", &block->qkv, d, d, N, s->normed, s->k);
    run_site(observer, index, "attn.v", &block->qkv, 2 * d, d, N, s->normed, s->v);
    attend(N, d, net->heads, s->q, s->k, s->v, s->weights, s->mixed);
    run_site(observer, index, "attn.proj", &block->proj, 0, d, N, s->mixed, s->module);
    add_module(net, observer, index, "attn", mod + 2 * d, s);

    modulated_norm(N, d, s->x, net->mlp_norm_eps, mod + 3 * d, mod + 4 * d, s->normed);
    run_site(observer, index, "mlp.fc1", &block->fc1, 0, net->hidden, N, s->normed, s->hidden);
    for (size_t i = 0; i < N * net->hidden; i++)
        s->hidden[i] = gelu_tanh(s->hidden[i]);
    run_site(observer, index, "mlp.fc2", &block->fc2, 0, d, N, s->hidden, s->module);
    add_module(net, observer, index, "mlp", mod + 5 * d, s);
}

/* 'nhwpqc->nchpwq': a token's values are ordered line, pixel, channel. */
static void unpatchify(const naive_dit *net, const double *patches, double *out) {
    const size_t p = net->patch, C = net->out_channels, size = net->side * p;
    for (size_t n = 0; n < net->tokens; n++)
        for (size_t y = 0; y < p; y++)
            for (size_t x = 0; x < p; x++)
                for (size_t c = 0; c < C; c++)
                    out[(c * size + n / net->side * p + y) * size + n % net->side * p + x] =
                        patches[((n * p + y) * p + x) * C + c];
}

ousac_status naive_dit_forward_observed(const naive_dit *net, const float *x, double t, size_t label,
                                        double *out, const naive_observer *observer, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    scratch s = {0};

    if (net->positions == NULL) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor 'pos_embed' is absent and no positions were set");
        goto done;
    }
    if (label >= net->labels) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "label %zu: expected less than %zu", label, net->labels);
        goto done;
    }
    if ((status = scratch_create(&s, net, error)) != OUSAC_STATUS_OK)
        goto done;
    embed_image(net, x, &s);
    for (size_t i = 0; i < net->depth; i++) {
        const naive_block *block = &net->blocks[i];
        const int own = block->table != NULL;
        embed_condition(net, own ? &block->t1 : &net->t1, own ? &block->t2 : &net->t2,
                        own ? block->table : net->table, t, label, &s);
        run_block(net, i, observer, &s);
    }
    embed_condition(net, &net->t1, &net->t2, net->table, t, label, &s);
    apply(&net->final_modulation, 0, 2 * net->d, 1, s.condition, s.modulation);
    modulated_norm(net->tokens, net->d, s.x, net->final_norm_eps, s.modulation, s.modulation + net->d,
                   s.normed);
    apply(&net->final, 0, net->final.m, net->tokens, s.normed, s.patches);
    unpatchify(net, s.patches, out);
done:
    ousac_free(s.all);
    return status;
}

ousac_status naive_dit_forward(const naive_dit *net, const float *x, double t, size_t label, double *out,
                               ousac_error *error) {
    return naive_dit_forward_observed(net, x, t, label, out, NULL, error);
}
