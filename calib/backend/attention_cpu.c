#include "calib/backend/attention_cpu.h"

#include "calib/backend/products.h"

#include <math.h>
#include <string.h>

enum {
    SCORES =
        131072, /* kept at a time where all keys are taken at once: 512 KiB, a share of the second-level cache */
    QUERIES =
        OUSAC_PRODUCT_BLOCK, /* of a block where keys are taken in blocks, and these: 384 KiB of scores, whole */
    KEYS = 384               /* panels of the products (products.c) */
};

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Floats of `work` that a query row takes where keys come in blocks: scores, the query, its output so far, peak, sum and
 * shrink. */
static size_t row_floats(size_t head_dim) {
    return KEYS + 2 * head_dim + 3;
}

/* How the sizes are taken. */
typedef struct layout {
    int in_blocks; /* keys */
    int gathers;   /* keys and values of a head, where they are few beside all its scores */
    size_t block;  /* queries */
    size_t floats; /* of `work` */
} layout;

static layout lay_out(size_t queries, size_t keys, size_t head_dim) {
    /* Never more rows than queries: a share below 32 means thousands of keys. */
    const size_t share = SCORES / keys < 32 ? 32 : SCORES / keys;
    layout l = {.in_blocks = keys >= row_floats(head_dim)};
    l.block = smaller(l.in_blocks ? QUERIES : share, queries);
    l.floats = l.block * (l.in_blocks ? row_floats(head_dim) : keys);
    l.gathers = l.in_blocks && queries * keys - l.floats >= 2 * keys * head_dim;
    if (l.gathers)
        l.floats += 2 * keys * head_dim;
    return l;
}

size_t ousac_attention_floats(size_t queries, size_t keys, size_t head_dim) {
    return queries && keys ? lay_out(queries, keys, head_dim).floats : 0;
}

static float scale_of(const ousac_attention *a) {
    return (float)(1.0 / sqrt((double)a->head_dim));
}

/* --- all keys at once --- */

/* The queries [first, first + rows) of one head of one sequence. */
static void attend(const ousac_kernels *kernels, const ousac_attention *a, size_t sequence, size_t head,
                   size_t first, size_t rows) {
    const size_t column = head * a->head_dim, row = sequence * a->queries + first;
    const ousac_product scores = {.rows = rows,
                                  .cols = a->keys,
                                  .inner = a->head_dim,
                                  .x = a->q + row * a->ld_q + column,
                                  .ldx = a->ld_q,
                                  .p = a->k + sequence * a->keys * a->ld_kv + column,
                                  .ldp = a->ld_kv,
                                  .transposed = 1,
                                  .alpha = scale_of(a),
                                  .y = a->work,
                                  .ldy = a->keys};
    const ousac_product values = {.rows = rows,
                                  .cols = a->head_dim,
                                  .inner = a->keys,
                                  .x = a->work,
                                  .ldx = a->keys,
                                  .p = a->v + sequence * a->keys * a->ld_kv + column,
                                  .ldp = a->ld_kv,
                                  .alpha = 1,
                                  .y = a->out + row * a->ld_out + column,
                                  .ldy = a->ld_out};
    kernels->products->product(&scores);
    for (size_t i = 0; a->bias != NULL && i < rows; i++)
        kernels->axpy(a->keys, 1, a->bias + sequence * a->keys, a->work + i * a->keys);
    kernels->softmax(rows, a->keys, a->work, a->keys);
    kernels->products->product(&values);
}

/* --- keys in blocks --- */

/* What a head's queries see: its keys and values, gathered behind the rows of a block where that was planned. */
typedef struct seen_by {
    const float *k, *v;
    size_t ld;
} seen_by;

/* Rows of all heads lie a multiple of a page apart, of which a cache keeps only a few. */
static void gather(size_t rows, size_t cols, const float *from, size_t ld, float *to) {
    for (size_t i = 0; i < rows; i++)
        memcpy(to + i * cols, from + i * ld, cols * sizeof *to);
}

static seen_by see(const ousac_attention *a, const layout *l, size_t sequence, size_t head) {
    const size_t d = a->head_dim, at = sequence * a->keys * a->ld_kv + head * d;
    if (!l->gathers)
        return (seen_by){a->k + at, a->v + at, a->ld_kv};
    float *k = a->work + l->block * row_floats(d), *v = k + a->keys * d;
    gather(a->keys, d, a->k + at, a->ld_kv, k);
    gather(a->keys, d, a->v + at, a->ld_kv, v);
    return (seen_by){k, v, d};
}

/* The same. */
static void attend_in_blocks(const ousac_kernels *kernels, const ousac_attention *a, const seen_by *seen,
                             size_t sequence, size_t head, size_t first, size_t rows) {
    const size_t d = a->head_dim, column = head * d, row = sequence * a->queries + first;
    float *scores = a->work, *query = scores + rows * KEYS, *sofar = query + rows * d,
          *peak = sofar + rows * d, *sum = peak + rows, *shrink = sum + rows;
    gather(rows, d, a->q + row * a->ld_q + column, a->ld_q, query);
    for (size_t i = 0; i < rows; i++) {
        peak[i] = -INFINITY;
        sum[i] = 0;
    }
    for (size_t key = 0; key < a->keys; key += KEYS) {
        const size_t keys = smaller(KEYS, a->keys - key);
        const ousac_product score = {.rows = rows,
                                     .cols = keys,
                                     .inner = d,
                                     .x = query,
                                     .ldx = d,
                                     .p = seen->k + key * seen->ld,
                                     .ldp = seen->ld,
                                     .transposed = 1,
                                     .alpha = scale_of(a),
                                     .y = scores,
                                     .ldy = KEYS};
        const ousac_product values = {.rows = rows,
                                      .cols = d,
                                      .inner = keys,
                                      .x = scores,
                                      .ldx = KEYS,
                                      .p = seen->v + key * seen->ld,
                                      .ldp = seen->ld,
                                      .alpha = 1,
                                      .beta = key > 0,
                                      .y = sofar,
                                      .ldy = d};
        kernels->products->product(&score);
        for (size_t i = 0; a->bias != NULL && i < rows; i++)
            kernels->axpy(keys, 1, a->bias + sequence * a->keys + key, scores + i * KEYS);
        kernels->softmax_part(rows, keys, scores, KEYS, peak, sum, shrink);
        if (key > 0)
            kernels->scale_rows(rows, d, shrink, sofar, d, sofar, d);
        kernels->products->product(&values);
    }
    for (size_t i = 0; i < rows; i++)
        sum[i] = 1.0F / sum[i];
    kernels->scale_rows(rows, d, sum, sofar, d, a->out + row * a->ld_out + column, a->ld_out);
}

void ousac_attention_run(const ousac_kernels *kernels, const ousac_attention *a) {
    const layout l = lay_out(a->queries, a->keys, a->head_dim);
    for (size_t b = 0; b < a->batch; b++)
        for (size_t h = 0; h < a->heads; h++) {
            const seen_by all = l.in_blocks ? see(a, &l, b, h) : (seen_by){0};
            for (size_t first = 0; first < a->queries; first += l.block) {
                const size_t rows = smaller(l.block, a->queries - first);
                if (l.in_blocks)
                    attend_in_blocks(kernels, a, &all, b, h, first, rows);
                else
                    attend(kernels, a, b, h, first, rows);
            }
        }
}
