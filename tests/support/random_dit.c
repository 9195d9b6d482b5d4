#include "tests/support/random_dit.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "tests/support/write_safetensors.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    FREQUENCIES = 256,
    STREAM = 1000, /* apart from the product's own streams */
    NAME_BYTES = 96,
    PATH_BYTES = 1024,
    TENSORS_OUTSIDE = 19, /* at most, in either layout */
    TENSORS_PER_BLOCK = 20
};

/* The tensors of one checkpoint; owns names and values. */
typedef struct checkpoint {
    const random_dit_options *options;
    write_tensor *tensors;
    char (*names)[NAME_BYTES];
    float **values; /* by drawing order; several tensors may show one */
    size_t count, room, drawn;
    int failed;
} checkpoint;

/* Values of the next parameter: N(0, deviation^2), a stream of its own, whatever the layout. */
static float *draw(checkpoint *c, size_t count, double deviation) {
    float *values = ousac_malloc(count, sizeof *values);
    if (values == NULL || c->drawn == c->room) {
        ousac_free(values);
        c->failed = 1;
        return NULL;
    }
    ousac_philox_normals(c->options->seed, STREAM, c->drawn, count, values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(deviation * (double)values[i]);
    c->values[c->drawn++] = values;
    return values;
}

static void add(checkpoint *c, const char *name, size_t dims, const size_t *shape, const float *values) {
    if (values == NULL || c->count == c->room) {
        c->failed = 1;
        return;
    }
    write_tensor *tensor = &c->tensors[c->count];
    (void)snprintf(c->names[c->count], NAME_BYTES, "%s", name);
    tensor->name = c->names[c->count];
    tensor->dtype = c->options->dtype;
    tensor->dims = dims;
    for (size_t i = 0; i < dims; i++)
        tensor->shape[i] = shape[i];
    tensor->data = values;
    c->count++;
}

static void add_matrix(checkpoint *c, const char *name, size_t m, size_t n, const float *values) {
    add(c, name, 2, (const size_t[]){m, n}, values);
}

/* "<name>.weight" (m, n) and "<name>.bias" (m). */
static void add_pair(checkpoint *c, const char *name, size_t m, size_t n, const float *weight,
                     const float *bias) {
    char full[NAME_BYTES];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    add_matrix(c, full, m, n, weight);
    (void)snprintf(full, sizeof full, "%s.bias", name);
    add(c, full, 1, &m, bias);
}

/* A linear drawn and added under the name of the layout. */
static void draw_linear(checkpoint *c, const char *public_name, const char *diffusers_name, size_t m,
                        size_t n) {
    const float *weight = draw(c, m * n, 1.0 / sqrt((double)n));
    const float *bias = draw(c, m, 0.1);
    add_pair(c, c->options->layout == RANDOM_DIT_PUBLIC ? public_name : diffusers_name, m, n, weight, bias);
}

static void draw_block_linear(checkpoint *c, size_t block, const char *public_part,
                              const char *diffusers_part, size_t m, size_t n) {
    char public_name[NAME_BYTES], diffusers_name[NAME_BYTES];
    (void)snprintf(public_name, sizeof public_name, "blocks.%zu.%s", block, public_part);
    (void)snprintf(diffusers_name, sizeof diffusers_name, "transformer_blocks.%zu.%s", block, diffusers_part);
    draw_linear(c, public_name, diffusers_name, m, n);
}

/* The rows of q, k and v stand one after another in the public tensor and apart in diffusers'. */
static void draw_qkv(checkpoint *c, size_t block) {
    const size_t d = c->options->width;
    const float *weight = draw(c, 3 * d * d, 1.0 / sqrt((double)d));
    const float *bias = draw(c, 3 * d, 0.1);
    char name[NAME_BYTES];
    if (c->failed)
        return;
    if (c->options->layout == RANDOM_DIT_PUBLIC) {
        (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv", block);
        add_pair(c, name, 3 * d, d, weight, bias);
        return;
    }
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "transformer_blocks.%zu.attn1.to_%c", block, "qkv"[i]);
        add_pair(c, name, d, d, weight + i * d * d, bias + i * d);
    }
}

typedef struct embedder {
    const float *w1, *b1, *w2, *b2, *table;
} embedder;

static embedder draw_embedder(checkpoint *c) {
    const size_t d = c->options->width, labels = c->options->classes + 1;
    embedder e;
    e.w1 = draw(c, d * FREQUENCIES, 1.0 / sqrt((double)FREQUENCIES));
    e.b1 = draw(c, d, 0.1);
    e.w2 = draw(c, d * d, 1.0 / sqrt((double)d));
    e.b2 = draw(c, d, 0.1);
    e.table = draw(c, labels * d, 1.0);
    return e;
}

static void add_embedder(checkpoint *c, const embedder *e, const char *time, const char *const linears[2],
                         const char *table) {
    const size_t d = c->options->width, labels = c->options->classes + 1;
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s%s", time, linears[0]);
    add_pair(c, name, d, FREQUENCIES, e->w1, e->b1);
    (void)snprintf(name, sizeof name, "%s%s", time, linears[1]);
    add_pair(c, name, d, d, e->w2, e->b2);
    add_matrix(c, table, labels, d, e->table);
}

/* Timestep and label embedders: one in the public layout, one in every block in diffusers', mostly a copy. */
static void draw_embedders(checkpoint *c) {
    static const char *const public_linears[] = {"mlp.0", "mlp.2"};
    static const char *const linears[] = {"linear_1", "linear_2"};
    const int public_layout = c->options->layout == RANDOM_DIT_PUBLIC;
    embedder e = draw_embedder(c);
    for (size_t i = 0; i < c->options->depth; i++) {
        char time[NAME_BYTES - 16], table[NAME_BYTES];
        if (i > 0 && c->options->own_embedders)
            e = draw_embedder(c);
        else if (i > 0 && public_layout)
            break;
        if (!public_layout) {
            (void)snprintf(time, sizeof time, "transformer_blocks.%zu.norm1.emb.timestep_embedder.", i);
            (void)snprintf(table, sizeof table,
                           "transformer_blocks.%zu.norm1.emb.class_embedder.embedding_table.weight", i);
        } else if (i == 0) {
            (void)snprintf(time, sizeof time, "t_embedder.");
            (void)snprintf(table, sizeof table, "y_embedder.embedding_table.weight");
        } else {
            (void)snprintf(time, sizeof time, "blocks.%zu.t_embedder.", i);
            (void)snprintf(table, sizeof table, "blocks.%zu.y_embedder.embedding_table.weight", i);
        }
        add_embedder(c, &e, time, public_layout ? public_linears : linears, table);
    }
}

/* The formula of the shipped model.py: columns in the first half of the channels, rows in the second. */
static void fill_sincos(float *positions, size_t side, size_t d) {
    for (size_t n = 0; n < side * side; n++) {
        for (size_t j = 0; j < d; j++) {
            const double place = (double)(j < d / 2 ? n % side : n / side);
            const size_t within = j % (d / 2), wave = within % (d / 4);
            const double phase = place / pow(10000.0, (double)wave / ((double)d / 4.0));
            positions[n * d + j] = (float)(within < d / 4 ? sin(phase) : cos(phase));
        }
    }
}

static void draw_positions(checkpoint *c) {
    const random_dit_options *o = c->options;
    const size_t side = o->input_size / o->patch, d = o->width;
    float *positions = draw(c, side * side * d, 0.5); /* drawn in any case: later streams must not shift */
    const int public_layout = o->layout == RANDOM_DIT_PUBLIC;
    if (positions == NULL || o->positions == RANDOM_DIT_ABSENT ||
        (o->positions == RANDOM_DIT_SINCOS && !public_layout))
        return;
    if (o->positions == RANDOM_DIT_SINCOS)
        fill_sincos(positions, side, d);
    add(c, public_layout ? "pos_embed" : "pos_embed.pos_embed", 3, (const size_t[]){1, side * side, d},
        positions);
}

static void draw_all(checkpoint *c) {
    const random_dit_options *o = c->options;
    const size_t d = o->width, area = o->patch * o->patch, fan_in = o->channels * area;
    const size_t out_channels = o->channels * (o->learn_sigma ? 2 : 1);
    const int public_layout = o->layout == RANDOM_DIT_PUBLIC;

    const float *weight = draw(c, d * fan_in, 1.0 / sqrt((double)fan_in));
    const float *bias = draw(c, d, 0.1);
    add(c, public_layout ? "x_embedder.proj.weight" : "pos_embed.proj.weight", 4,
        (const size_t[]){d, o->channels, o->patch, o->patch}, weight);
    add(c, public_layout ? "x_embedder.proj.bias" : "pos_embed.proj.bias", 1, &d, bias);
    draw_positions(c);
    draw_embedders(c);
    for (size_t i = 0; i < o->depth; i++) {
        draw_qkv(c, i);
        draw_block_linear(c, i, "attn.proj", "attn1.to_out.0", d, d);
        draw_block_linear(c, i, "mlp.fc1", "ff.net.0.proj", o->hidden, d);
        draw_block_linear(c, i, "mlp.fc2", "ff.net.2", d, o->hidden);
        draw_block_linear(c, i, "adaLN_modulation.1", "norm1.linear", 6 * d, d);
    }
    draw_linear(c, "final_layer.adaLN_modulation.1", "proj_out_1", 2 * d, d);
    const size_t before = c->drawn;
    draw_linear(c, "final_layer.linear", "proj_out_2", area * out_channels, d);
    if (o->zero_final && !c->failed) {
        memset(c->values[before], 0, area * out_channels * d * sizeof(float));
        memset(c->values[before + 1], 0, area * out_channels * sizeof(float));
    }
}

static void print_public_config(FILE *file, const random_dit_options *o) {
    (void)fprintf(
        file,
        "{\n \"input_size\": %zu,\n \"patch_size\": %zu,\n \"in_channels\": %zu,\n \"hidden_size\": %zu,\n"
        " \"depth\": %zu,\n \"num_heads\": %zu,\n \"num_classes\": %zu,\n",
        o->input_size, o->patch, o->channels, o->width, o->depth, o->heads, o->classes);
    if (o->hidden != 4 * o->width)
        (void)fprintf(file, " \"mlp_ratio\": %.17g,\n", (double)o->hidden / (double)o->width);
    (void)fprintf(
        file,
        " \"learn_sigma\": %s,\n \"betas\": \"linear 1e-4 0.02 1000\",\n \"prediction\": \"epsilon\"\n}\n",
        o->learn_sigma ? "true" : "false");
}

static void print_diffusers_config(FILE *file, const random_dit_options *o) {
    (void)fprintf(
        file,
        "{\n  \"_class_name\": \"DiTTransformer2DModel\",\n  \"activation_fn\": \"gelu-approximate\",\n"
        "  \"attention_bias\": true,\n  \"attention_head_dim\": %zu,\n  \"dropout\": 0.0,\n"
        "  \"in_channels\": %zu,\n",
        o->width / o->heads, o->channels);
    if (o->norm_eps != 0.0)
        (void)fprintf(file, "  \"norm_eps\": %.17g,\n", o->norm_eps);
    (void)fprintf(file,
                  "  \"norm_elementwise_affine\": false,\n  \"norm_num_groups\": 32,\n"
                  "  \"norm_type\": \"ada_norm_zero\",\n  \"num_attention_heads\": %zu,\n"
                  "  \"num_embeds_ada_norm\": %zu,\n  \"num_layers\": %zu,\n  \"out_channels\": %zu,\n"
                  "  \"patch_size\": %zu,\n  \"sample_size\": %zu,\n  \"upcast_attention\": false\n}\n",
                  o->heads, o->classes, o->depth, o->channels * (o->learn_sigma ? 2 : 1), o->patch,
                  o->input_size);
}

static ousac_status write_config(const char *directory, const random_dit_options *options,
                                 ousac_error *error) {
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    if (file == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write: %s", path, strerror(errno));
    if (options->layout == RANDOM_DIT_PUBLIC)
        print_public_config(file, options);
    else
        print_diffusers_config(file, options);
    int lost = ferror(file);
    lost |= fclose(file);
    if (lost)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write", path);
    return OUSAC_STATUS_OK;
}

random_dit_options random_dit_defaults(void) {
    random_dit_options options = {.seed = 1,
                                  .depth = 2,
                                  .width = 24,
                                  .heads = 2,
                                  .hidden = 96,
                                  .patch = 2,
                                  .channels = 3,
                                  .input_size = 8,
                                  .classes = 5,
                                  .dtype = OUSAC_DTYPE_F32};
    return options;
}

const char *random_dit_file(random_dit_layout layout) {
    return layout == RANDOM_DIT_PUBLIC ? "model.safetensors" : "diffusion_pytorch_model.safetensors";
}

ousac_status random_dit_write(const char *directory, const random_dit_options *options, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    checkpoint c = {.options = options, .room = TENSORS_OUTSIDE + TENSORS_PER_BLOCK * options->depth};
    char path[PATH_BYTES];

    if (options->depth == 0 || options->heads == 0 || options->width % options->heads != 0 ||
        options->patch == 0 || options->input_size == 0 || options->input_size % options->patch != 0 ||
        options->hidden == 0 || options->channels == 0 ||
        (options->positions == RANDOM_DIT_SINCOS && options->width % 4 != 0)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: these shapes make no DiT", directory);
        goto done;
    }
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot make: %s", directory, strerror(errno));
        goto done;
    }
    c.tensors = ousac_calloc(c.room, sizeof *c.tensors);
    c.names = ousac_calloc(c.room, sizeof *c.names);
    c.values = ousac_calloc(c.room, sizeof *c.values);
    c.failed = c.tensors == NULL || c.names == NULL || c.values == NULL;
    if (!c.failed)
        draw_all(&c);
    if (c.failed) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the checkpoint", directory);
        goto done;
    }
    (void)snprintf(path, sizeof path, "%s/%s", directory, random_dit_file(options->layout));
    status = write_safetensors(path, c.tensors, c.count, &(write_metadata){"format", "pt"}, 1, error);
    if (status == OUSAC_STATUS_OK)
        status = write_config(directory, options, error);
done:
    for (size_t i = 0; i < c.drawn; i++)
        ousac_free(c.values[i]);
    ousac_free(c.values);
    ousac_free(c.names);
    ousac_free(c.tensors);
    return status;
}
