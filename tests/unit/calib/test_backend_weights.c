/* The CUDA backend with linears in bfloat16: which products it rounds and how exactly, weights kept in no
 * other form, and devices that cannot do it. On the emulation, or on a device with OUSAC_TEST_BACKEND=cuda.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"
#include "tests/support/emulated.h"

#include "formats/dtype.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ousac_backend *k;

static double rounded(float x) {
    return (double)ousac_bf16_to_f32(ousac_f32_to_bf16(x));
}

static const size_t shapes[][3] = {{32, 1, 1},   {33, 48, 72},    {64, 96, 96}, {100, 7, 50},
                                   {40, 96, 24}, {128, 130, 257}, {35, 57, 400}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Y = X W^T + bias of rounded factors, against its sum in double; what lies beside Y is left alone. */
static void expect_product(size_t rows, size_t m, size_t n, const float *x, size_t ldx, const float *w,
                           const float *bias, const float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < m; j++) {
            double expected = bias ? (double)bias[j] : 0, size = fabs(expected);
            for (size_t e = 0; e < n; e++) {
                const double term = rounded(x[i * ldx + e]) * rounded(w[j * n + e]);
                expected += term;
                size += fabs(term);
            }
            assert_near(y[i * ldy + j], expected, 6e-8 * size * (4 + sqrt((double)n)));
        }
    }
    assert_pad_untouched(y, rows, m, ldy);
}

/* `sealed` 1: the weights have no float32 form. */
static void check_shapes(int sealed) {
    uint64_t state = 2;
    for (size_t c = 0; c < SHAPES * 2; c++) {
        const size_t rows = shapes[c / 2][0], m = shapes[c / 2][1], n = shapes[c / 2][2];
        const size_t ldx = n + c % 3, ldy = m + c % 5;
        const int biased = (int)(c % 2);
        float *w = filled(&state, m, n), *bias = filled(&state, 1, m), *x = filled(&state, rows, ldx);
        float *y = blank(rows, ldy);
        float *dw = sealed ? k->alloc_weights(k, m * n) : k->alloc(k, m * n, sizeof *dw);
        float *db = put(k, bias, m * sizeof *bias), *dx = put(k, x, block_bytes(rows, ldx));
        float *dy = put(k, y, block_bytes(rows, ldy));
        assert_non_null(dw);
        assert_int_equal(k->upload(k, dw, w, m * n * sizeof *w, NULL), OUSAC_STATUS_OK);
        if (!sealed)
            assert_int_equal(k->prepare(k, m * n, dw, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->linear(k, rows, m, n, dx, ldx, dw, n, biased ? db : NULL, 0, dy, ldy, NULL),
                         OUSAC_STATUS_OK);
        get(k, y, dy, block_bytes(rows, ldy));
        expect_product(rows, m, n, x, ldx, w, biased ? bias : NULL, y, ldy);
        drop(k, dw), drop(k, db), drop(k, dx), drop(k, dy);
        free(w), free(bias), free(x), free(y);
    }
}

static void prepared_weights_are_multiplied_in_bfloat16(void **unused) {
    (void)unused;
    check_shapes(0);
}

static void sealed_weights_too(void **unused) {
    (void)unused;
    check_shapes(1);
}

/* Weights and inputs that round to either side, ties, and the ends of the range, through products by 1. */
static void rounding_is_to_nearest_even(void **unused) {
    enum { N = 40, ROWS = 32 };
    const float special[] = {1.00390625F, 1.01171875F,   1.00390637F, -1.00390625F, 0.0F,   -0.0F,
                             FLT_MIN,     3.3895314e38F, 1e-45F,      INFINITY,     -3e38F, 0.1F};
    float *x = calloc(ROWS * N, sizeof *x), *w = calloc(N * N, sizeof *w), *y = calloc(ROWS * N, sizeof *y);
    (void)unused;
    for (int inputs = 0; inputs < 2; inputs++) { /* in the inputs, then in the weights */
        memset(x, 0, ROWS * N * sizeof *x), memset(w, 0, N * N * sizeof *w);
        float *varied = inputs ? x : w, *unit = inputs ? w : x;
        for (size_t i = 0; i < 12; i++) { /* one value on the diagonal: no sums */
            varied[i * N + i] = special[i];
            unit[i * N + i] = 1;
        }
        float *dx = put(k, x, ROWS * N * sizeof *x), *dy = put(k, y, ROWS * N * sizeof *y);
        float *dw = k->alloc_weights(k, N * N);
        assert_non_null(dw);
        assert_int_equal(k->upload(k, dw, w, N * N * sizeof *w, NULL), OUSAC_STATUS_OK);
        assert_int_equal(k->linear(k, ROWS, N, N, dx, N, dw, N, NULL, 0, dy, N, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, ROWS * N * sizeof *y);
        for (size_t i = 0; i < 12; i++)
            if (!isinf(special[i])) /* whose product with 0 is none */
                assert_true((double)y[i * N + i] == rounded(special[i]));
            else
                assert_true(isnan(y[i * N + (i + 1) % N]) || isinf(y[i * N + i]));
        drop(k, dx), drop(k, dw), drop(k, dy);
    }
    free(x), free(w), free(y);
}

/* Few rows, a sum onto Y, and weights that were not prepared run in float32 as without bfloat16. */
static void everything_else_is_float32(void **unused) {
    enum { ROWS = 64, M = 24, N = 40 };
    uint64_t state = 3;
    ousac_device *plain = emulated_open(0);
    const ousac_backend *f32 = ousac_device_backend(plain), *both[2] = {k, f32};
    float *host = filled(&state, M, N), *x = filled(&state, ROWS, N);
    float y[2][ROWS * M];
    (void)unused;
    assert_int_equal(k->bf16, 1);
    assert_int_equal(f32->bf16, 0);
    assert_null(f32->alloc_weights);
    const struct {
        size_t rows, m, first;
        int prepared;
        float beta;
        int same;
    } cases[] = {{ROWS, M, 0, 1, 0, 0},
                 {ROWS, M / 2, M / 4, 1, 0, 0},
                 {31, M, 0, 1, 0, 1},
                 {ROWS, M, 0, 0, 0, 1},
                 {ROWS, M, 0, 1, 1, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (int b = 0; b < 2; b++) {
            const ousac_backend *be = both[b];
            float *w = put(be, host, M * N * sizeof *host), *dx = put(be, x, ROWS * N * sizeof *x);
            float *dy = put(be, x, ROWS * M * sizeof *x);
            if (cases[c].prepared)
                assert_int_equal(be->prepare(be, M * N, w, NULL), OUSAC_STATUS_OK);
            assert_int_equal(be->linear(be, cases[c].rows, cases[c].m, N, dx, N, w + cases[c].first * N, N,
                                        NULL, cases[c].beta, dy, M, NULL),
                             OUSAC_STATUS_OK);
            get(be, y[b], dy, sizeof y[b]);
            get(be, host, w, M * N * sizeof *host); /* prepared weights keep their float32 values */
            drop(be, w), drop(be, dx), drop(be, dy);
        }
        if ((memcmp(y[0], y[1], sizeof y[0]) == 0) != cases[c].same)
            fail_msg("case %zu: %s float32", c, cases[c].same ? "not as" : "as");
    }
    free(host), free(x);
    ousac_device_close(plain);
}

/* Few rows of sealed weights, which have no other form; parts of the block; uploads in pieces, within a
 * sequence too. */
static void a_sealed_block_serves_every_linear(void **unused) {
    enum { ROWS = 5, M = 30, N = 36, SITES = 3 };
    uint64_t state = 4;
    float *host = filled(&state, SITES * M, N), *x = filled(&state, ROWS, N), *y = blank(ROWS, M);
    float *w = k->alloc_weights(k, SITES * M * N), *dx = put(k, x, ROWS * N * sizeof *x);
    float *dy = put(k, y, block_bytes(ROWS, M));
    ousac_error error = {0};
    (void)unused;
    assert_non_null(w);
    assert_int_equal(k->sequence_begin(k, &error), OUSAC_STATUS_OK);
    for (size_t at = 0; at < SITES * M * N; at += M * N / 2)
        assert_int_equal(k->upload(k, w + at, host + at, M * N / 2 * sizeof *host, &error), OUSAC_STATUS_OK);
    assert_int_equal(k->sequence_end(k, 1, &error), OUSAC_STATUS_OK);
    for (size_t s = 0; s < SITES; s++) {
        assert_int_equal(k->linear(k, ROWS, M, N, dx, N, w + s * M * N, N, NULL, 0, dy, M, &error), 0);
        get(k, y, dy, block_bytes(ROWS, M));
        expect_product(ROWS, M, N, x, N, host + s * M * N, NULL, y, M);
    }
    assert_int_equal(k->upload(k, w + SITES * M * N - 1, host, 2 * sizeof *host, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->upload(k, w, host, 3, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "whole weights"));
    drop(k, w), drop(k, dx), drop(k, dy);
    free(host), free(x), free(y);
}

/* Inputs rounded, then one product that adds the bias: also in a graph, and for a bias at another address.
 * What was chosen for a shape serves as long as the alignments are as good. */
static void a_bias_costs_no_pass_of_its_own(void **unused) {
    enum { ROWS = 48, M = 64, N = 32, CALLS = 6 };
    uint64_t state = 5;
    float *host = filled(&state, M, N), *x = filled(&state, ROWS, N), *bias = filled(&state, CALLS, M);
    float *y = blank(ROWS, M), *w = k->alloc_weights(k, M * N), *dx = put(k, x, ROWS * N * sizeof *x);
    float *db = put(k, bias, CALLS * M * sizeof *bias), *dy = put(k, y, block_bytes(ROWS, M));
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    assert_non_null(w);
    assert_int_equal(k->upload(k, w, host, M * N * sizeof *host, NULL), OUSAC_STATUS_OK);
    for (int graph = 0; graph < 2; graph++) {
        emulated_count(before);
        for (size_t i = 0; i < CALLS; i++) {
            const size_t which = graph ? 1 : i; /* 256 bytes apart */
            if (graph)
                assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->linear(k, ROWS, M, N, dx, N, w, N, db + which * M, 0, dy, M, NULL),
                             OUSAC_STATUS_OK);
            if (graph)
                assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            get(k, y, dy, block_bytes(ROWS, M));
            expect_product(ROWS, M, N, x, N, host, bias + which * M, y, M);
        }
        emulated_count(after);
        if (emulated_is_real())
            continue;
        assert_int_equal(after[EMULATED_CHOICES] - before[EMULATED_CHOICES], !graph);
        if (!graph) /* rounding, product and the copy back */
            assert_int_equal(after[EMULATED_EAGER] - before[EMULATED_EAGER], 3 * CALLS);
        else
            assert_int_equal(after[EMULATED_LAUNCHED] - before[EMULATED_LAUNCHED], CALLS - 1);
    }
    for (size_t skew = 1; skew < 4; skew++) { /* a bias that is aligned to nothing but its floats */
        float *skewed = db + skew;
        assert_int_equal(k->linear(k, ROWS, M, N, dx, N, w, N, skewed, 0, dy, M, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, block_bytes(ROWS, M));
        expect_product(ROWS, M, N, x, N, host, bias + skew, y, M);
    }
    drop(k, w), drop(k, dx), drop(k, db), drop(k, dy);
    free(host), free(x), free(bias), free(y);
}

/* What the linears of a chain read, and how it changes between them. */
typedef struct chain {
    size_t rows, d;
    float *x, *w, *normed, *wide, *first, *second, *last;
} chain;

/* With `disturbed` what was rounded is changed before the linear reads it. */
static void run_chain(const chain *c, int disturbed) {
    const size_t rows = c->rows, d = c->d;
    assert_int_equal(k->norm_modulate(k, rows, d, c->x, 1e-6F, NULL, NULL, 1, 0, c->normed, NULL), 0);
    if (disturbed)
        assert_int_equal(k->axpy(k, rows * d, 1, c->x, c->normed, NULL), 0);
    assert_int_equal(k->linear(k, rows, d, d, c->normed, d, c->w, d, NULL, 0, c->first, d, NULL), 0);
    assert_int_equal(k->linear(k, rows, d, d, c->normed, d, c->w + d * d, d, NULL, 0, c->second, d, NULL), 0);
    assert_int_equal(k->gelu_tanh(k, rows * d, c->first, c->first, NULL), 0);
    if (disturbed)
        assert_int_equal(k->axpy(k, rows * d, 1, c->second, c->first, NULL), 0);
    assert_int_equal(k->linear(k, rows, d, d, c->first, d, c->w, d, NULL, 0, c->wide, d, NULL), 0);
    assert_int_equal(k->linear(k, rows, d, d, c->wide, d, c->w, d, NULL, 0, c->last, d, NULL), 0);
}

/* In a sequence, operations leave what they write rounded for the linear behind them, and linears of the same inputs round
 * them once: to the bit what the calls alone give, and a kernel less for each. */
static void inputs_are_rounded_once(void **unused) {
    enum { ROWS = 40, D = 64, RUNS = 3 };
    uint64_t state = 6;
    float *host = filled(&state, 2 * D, D), *x = filled(&state, ROWS, D), *expected = blank(ROWS, D),
          *y = blank(ROWS, D);
    const size_t bytes = ROWS * D * sizeof *x;
    chain c = {ROWS,
               D,
               put(k, x, bytes),
               k->alloc_weights(k, 2 * D * D),
               put(k, x, bytes),
               put(k, x, bytes),
               put(k, x, bytes),
               put(k, x, bytes),
               put(k, x, bytes)};
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    assert_non_null(c.w);
    assert_int_equal(k->upload(k, c.w, host, 2 * D * D * sizeof *host, NULL), OUSAC_STATUS_OK);
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        run_chain(&c, disturbed);
        get(k, expected, c.last, bytes);
        for (int run = 0; run < RUNS; run++) { /* as calls, captured, launched again */
            emulated_count(before);
            assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            run_chain(&c, disturbed);
            assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            emulated_count(after);
            get(k, y, c.last, bytes);
            assert_memory_equal(y, expected, bytes);
            /* 6 operations, and one rounding of the last linear's inputs; disturbed, 2 more operations and roundings */
            if (run == 0 && !emulated_is_real())
                assert_int_equal(after[EMULATED_EAGER] - before[EMULATED_EAGER], disturbed ? 11 : 7);
        }
    }
    drop(k, c.x), drop(k, c.w), drop(k, c.normed), drop(k, c.wide), drop(k, c.first), drop(k, c.second),
        drop(k, c.last);
    free(host), free(x), free(expected), free(y);
}

/* So does attention, of either kind, where its outputs are contiguous. */
static void attention_leaves_its_output_rounded(void **unused) {
    enum { ROWS = 40, D = 64, HEADS = 2, PAD = 4 };
    uint64_t state = 8;
    float *host = filled(&state, D, D + PAD), *x = filled(&state, ROWS, D), *expected = blank(ROWS, D),
          *y = blank(ROWS, D);
    const size_t bytes = ROWS * D * sizeof *x;
    float *q = put(k, x, bytes), *w = k->alloc_weights(k, D * (D + PAD)), *last = put(k, x, bytes);
    float *between = k->alloc(k, ROWS * (D + PAD), sizeof *x), *work = k->alloc(k, ROWS * ROWS, sizeof *x);
    (void)unused;
    assert_true(w && between && work);
    assert_int_equal(k->upload(k, w, host, D * (D + PAD) * sizeof *host, NULL), OUSAC_STATUS_OK);
    for (int c = 0; c < 4; c++) {
        const size_t ld = c % 2 ? D + PAD : D;
        long before[EMULATED_KINDS], after[EMULATED_KINDS];
        for (int in_sequence = 0; in_sequence < 2; in_sequence++) {
            emulated_count(before);
            if (in_sequence)
                assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            if (c / 2)
                assert_int_equal(k->cross_attention(k, 1, ROWS, ROWS, HEADS, D / HEADS, q, D, q, q, D, NULL,
                                                    between, ld, work, NULL),
                                 OUSAC_STATUS_OK);
            else
                assert_int_equal(
                    k->attention(k, 1, ROWS, HEADS, D / HEADS, q, q, q, D, between, ld, work, NULL),
                    OUSAC_STATUS_OK);
            assert_int_equal(k->linear(k, ROWS, D, D, between, ld, w, D, NULL, 0, last, D, NULL),
                             OUSAC_STATUS_OK);
            if (in_sequence)
                assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            emulated_count(after);
            get(k, in_sequence ? y : expected, last, bytes);
        }
        assert_memory_equal(y, expected, bytes);
        if (!emulated_is_real())
            assert_int_equal(after[EMULATED_EAGER] - before[EMULATED_EAGER], c % 2 ? 3 : 2);
    }
    drop(k, q), drop(k, w), drop(k, last), drop(k, between), drop(k, work);
    free(host), free(x), free(expected), free(y);
}

/* A corrected output is bent, or added to the stream, on the way where that is what comes next in a sequence: what the
 * calls alone give, and a kernel less. `other`: what comes next is of something else; `own`:
 * the stream is the past that the correction reads. */
static void what_follows_a_correction_is_done_with_it(void **unused) {
    enum { ROWS = 70, M = 132, R = 20, RUNS = 3 };
    uint64_t state = 8;
    const size_t bytes = ROWS * M * sizeof(float);
    float *z = filled(&state, ROWS, R), *a = filled(&state, R, M), *last = filled(&state, ROWS, M),
          *stream = filled(&state, ROWS, M);
    float *dz = put(k, z, ROWS * R * sizeof *z), *da = put(k, a, R * M * sizeof *a),
          *dlast = put(k, last, bytes);
    float *dx = put(k, last, bytes), *dy = put(k, last, bytes), *spare = put(k, last, bytes);
    float *got[2] = {blank(ROWS, M), blank(ROWS, M)}, *expected[2] = {blank(ROWS, M), blank(ROWS, M)};
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    for (int c = 0; c < 10; c++) {
        const int own = c >= 8, gated = c % 2 || own, other = !own && c / 2 % 2;
        const float s = c / 4 % 2 || c == 9 ? 0.5F : 0;
        float *to_stream = own ? dlast : dx;
        for (int run = -1; run < RUNS; run++) {
            assert_int_equal(k->upload(k, dx, stream, bytes, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->upload(k, dlast, last, bytes, NULL), OUSAC_STATUS_OK);
            emulated_count(before);
            if (run >= 0)
                assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            assert_int_equal(
                k->expand_onto(k, ROWS, M, R, dz, R, da, M, s, dlast, s != 0 ? spare : NULL, M, dy, M, NULL),
                0);
            if (gated)
                assert_int_equal(
                    k->add_gated(k, ROWS, M, to_stream, other ? dlast : dy, da, ROWS / 2, 2 * M, NULL), 0);
            else
                assert_int_equal(k->gelu_tanh(k, (size_t)ROWS * M - (other ? 4 : 0), dy, dy, NULL), 0);
            if (run >= 0)
                assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            emulated_count(after);
            float **to = run < 0 ? expected : got;
            get(k, to[0], dy, bytes), get(k, to[1], to_stream, bytes);
            for (size_t i = 0; i < ROWS * M && run >= 0;
                 i++) /* a compiler may round two kernels differently */
                for (int o = 0; o < 2; o++)
                    assert_near(got[o][i], expected[o][i],
                                emulated_is_real() ? 1e-6 * (1 + fabs((double)expected[o][i])) : 0);
            if (run == 0 && !emulated_is_real())
                assert_int_equal(after[EMULATED_EAGER] - before[EMULATED_EAGER], other || own ? 2 : 1);
        }
    }
    drop(k, dz), drop(k, da), drop(k, dlast), drop(k, dx), drop(k, dy), drop(k, spare);
    free(z), free(a), free(last), free(stream), free(got[0]), free(got[1]), free(expected[0]),
        free(expected[1]);
}

/* Products of TF32, which rounds both factors to 11 bits. */
static void grams_are_of_rounded_inputs(void **unused) {
    static const size_t cases[][3] = {{1, 1, 1}, {40, 33, 36}, {130, 72, 72}};
    uint64_t state = 12;
    (void)unused;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const size_t rows = cases[c][0], n = cases[c][1], ldx = cases[c][2], ldg = n + c;
        float *x = filled(&state, rows, ldx), *g = blank(n, ldg);
        float *dx = put(k, x, block_bytes(rows, ldx)), *dg = put(k, g, block_bytes(n, ldg));
        assert_int_equal(k->gram(k, rows, n, dx, ldx, dg, ldg, NULL), OUSAC_STATUS_OK);
        get(k, g, dg, block_bytes(n, ldg));
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++) {
                double expected = 0, size = 0;
                for (size_t e = 0; e < rows; e++) {
                    expected += (double)x[e * ldx + i] * x[e * ldx + j];
                    size += fabs((double)x[e * ldx + i] * x[e * ldx + j]);
                }
                assert_near(g[i * ldg + j], expected, (ldexp(1, -10) + 1e-6) * size + 1e-12);
            }
        assert_pad_untouched(g, n, n, ldg);
        drop(k, dx), drop(k, dg);
        free(x), free(g);
    }
}

static void a_device_without_them_is_refused(void **unused) {
    ousac_device *device = NULL;
    ousac_error error = {0};
    (void)unused;
    if (emulated_is_real())
        skip();
    assert_int_equal(setenv("OUSAC_EMULATED_CAPABILITY", "75", 1), 0);
    assert_int_equal(ousac_device_open(&device, "cuda", 1, &error), OUSAC_STATUS_UNSUPPORTED);
    assert_null(device);
    assert_non_null(strstr(error.message, "compute capability 7.5: bfloat16 products need 8.0"));
    assert_null(strchr(error.message, '\n'));
    assert_int_equal(ousac_device_open(&device, "cuda", 0, &error), OUSAC_STATUS_OK);
    ousac_device_close(device);
    assert_int_equal(setenv("OUSAC_EMULATED_CAPABILITY", "80", 1), 0);
    assert_int_equal(ousac_device_open(&device, "cuda", 1, &error), OUSAC_STATUS_OK);
    ousac_device_close(device);
    assert_int_equal(unsetenv("OUSAC_EMULATED_CAPABILITY"), 0);
}

/* A sealed block takes half the memory of its float32 form, and no more on the way. */
static void sealed_weights_take_half_the_memory(void **unused) {
    enum { N = 1 << 20 };
    const ousac_backend *before = k;
    float *host = calloc(N, sizeof *host);
    (void)unused;
    if (emulated_is_real()) {
        free(host);
        skip();
    }
    assert_non_null(host);
    /* a thread's context takes 32 MiB; an upload, 4 MiB at most */
    long counts[EMULATED_KINDS];
    char limit[32];
    emulated_count(counts);
    (void)snprintf(limit, sizeof limit, "%ld", counts[EMULATED_BYTES] + (50L << 20));
    assert_int_equal(setenv("OUSAC_EMULATED_BYTES", limit, 1), 0);
    ousac_device *device = emulated_open(1);
    k = ousac_device_backend(device);
    float *w = k->alloc_weights(k, 5 * N); /* 20 MiB as float32 */
    assert_non_null(w);
    for (size_t at = 0; at < 5; at++)
        assert_int_equal(k->upload(k, w + at * N, host, N * sizeof *host, NULL), OUSAC_STATUS_OK);
    assert_null(k->alloc_weights(k, 5 * N));
    assert_null(k->alloc(k, 5 * N, sizeof(float)));
    drop(k, w);
    w = k->alloc_weights(k, 5 * N); /* and gives it back */
    assert_non_null(w);
    drop(k, w);
    ousac_device_close(device);
    assert_int_equal(unsetenv("OUSAC_EMULATED_BYTES"), 0);
    k = before;
    free(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prepared_weights_are_multiplied_in_bfloat16),
        cmocka_unit_test(sealed_weights_too),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(everything_else_is_float32),
        cmocka_unit_test(a_sealed_block_serves_every_linear),
        cmocka_unit_test(a_bias_costs_no_pass_of_its_own),
        cmocka_unit_test(inputs_are_rounded_once),
        cmocka_unit_test(attention_leaves_its_output_rounded),
        cmocka_unit_test(what_follows_a_correction_is_done_with_it),
        cmocka_unit_test(grams_are_of_rounded_inputs),
        cmocka_unit_test(a_device_without_them_is_refused),
        cmocka_unit_test(sealed_weights_take_half_the_memory),
    };
    ousac_device *device = NULL;
    const int refused = emulated_begin(&device, 1);
    if (refused)
        return refused;
    k = ousac_device_backend(device);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ousac_device_close(device);
    return failed;
}
