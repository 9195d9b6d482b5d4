/* Attention of the CUDA backend in bfloat16, on a sequence's own rows and on others, against the definition in
 * double precision. On the emulation, or on a device with OUSAC_TEST_BACKEND=cuda.
 *
 * With u = 2^-8, the unit roundoff of bfloat16, and w the exact weights of the rounded inputs, an output may
 * be off by u sum w |v|, from the rounding of the weights, and by what float32 does to scores of that size.
 * Against the inputs as they are, scores are off by up to E = scale sum |q k| (2 u + u^2), weights by a
 * factor of exp(2 E), and values by u.
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

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-8
#define U32 0x1p-20 /* of scores and sums in float32, in whatever order, and of the exponential */

static const ousac_backend *k;

typedef struct shape {
    size_t batch, tokens, heads, width, ld, ld_out, skew; /* skew: floats before the first */
} shape;

/* On other rows: q, and k beside v. */
typedef struct pair {
    size_t batch, queries, keys, heads, width, ld_q, ld_kv, ld_out, skew;
} pair;

static double as_it_is(float x) {
    return (double)x;
}
static double rounded(float x) {
    return (double)ousac_bf16_to_f32(ousac_f32_to_bf16(x));
}

/* One query row of the definition, out (width), and the bound on the error of each, for inputs that `value`
 * reads and a relative error of `unit` in what it reads. bias (count) or NULL; score: scratch of 2 `count`. A
 * key of no weight, whatever its error, has no part in the bound. */
static void exact_row(size_t count, size_t width, const float *q, const float *keys, const float *values,
                      size_t ld, const float *bias, double (*value)(float), double unit, double *score,
                      double *out, double *bound) {
    double most = -INFINITY, sum = 0, off = 0, *error = score + count;
    for (size_t j = 0; j < count; j++) {
        double size = 0;
        score[j] = 0;
        for (size_t e = 0; e < width; e++) {
            const double term = value(q[e]) * value(keys[j * ld + e]) / sqrt((double)width);
            score[j] += term;
            size += fabs(term);
        }
        score[j] += bias ? (double)bias[j] : 0;
        error[j] = size * (2 * unit + unit * unit + U32) + (bias ? fabs((double)bias[j]) * U32 : 0);
        most = fmax(most, score[j]);
    }
    for (size_t j = 0; j < count; j++) {
        if (isfinite(score[j]) && score[j] - most > -1000)
            off = fmax(off, error[j]);
        sum += score[j] = exp(score[j] - most);
    }
    for (size_t e = 0; e < width; e++) {
        double size = 0;
        out[e] = 0;
        for (size_t j = 0; j < count; j++) {
            out[e] += score[j] / sum * value(values[j * ld + e]);
            size += score[j] / sum * fabs(value(values[j * ld + e]));
        }
        bound[e] = size * (exp(2 * off) * (1 + U) * (1 + unit) * (1 + U32) - 1);
    }
}

/* Outputs, a block of (batch * tokens, ld_out) and a guard. */
static float *attend(const ousac_backend *backend, const shape *s, const float *qkv, int in_sequence) {
    const size_t d = s->heads * s->width, rows = s->batch * s->tokens;
    float *out = blank(rows, s->ld_out);
    float *dqkv = put(backend, qkv, block_bytes(rows, s->ld) + s->skew * sizeof *qkv);
    float *dout = put(backend, out, block_bytes(rows, s->ld_out));
    float *work = backend->alloc(backend, backend->attention_work(backend, s->tokens, s->tokens, s->width),
                                 sizeof *work),
          *q = dqkv + s->skew;
    assert_non_null(work);
    if (in_sequence)
        assert_int_equal(backend->sequence_begin(backend, NULL), OUSAC_STATUS_OK);
    assert_int_equal(backend->attention(backend, s->batch, s->tokens, s->heads, s->width, q, q + d, q + 2 * d,
                                        s->ld, dout, s->ld_out, work, NULL),
                     OUSAC_STATUS_OK);
    if (in_sequence)
        assert_int_equal(backend->sequence_end(backend, 1, NULL), OUSAC_STATUS_OK);
    get(backend, out, dout, block_bytes(rows, s->ld_out));
    assert_pad_untouched(out, rows, d, s->ld_out);
    drop(backend, dqkv), drop(backend, dout), drop(backend, work);
    return out;
}

/* `whole`: against the inputs as they are, too. */
static void expect(const shape *s, const float *qkv, const float *out, int whole) {
    const size_t d = s->heads * s->width;
    double *score = malloc(2 * s->tokens * sizeof *score), *row = malloc(2 * s->width * sizeof *row);
    assert_true(score && row);
    for (size_t i = 0; i < s->batch * s->tokens; i++)
        for (size_t h = 0; h < s->heads; h++)
            for (int exact = 0; exact <= whole; exact++) {
                const float *sequence = qkv + s->skew + i / s->tokens * s->tokens * s->ld + h * s->width;
                const float *query = qkv + s->skew + i * s->ld + h * s->width;
                exact_row(s->tokens, s->width, query, sequence + d, sequence + 2 * d, s->ld, NULL,
                          exact ? as_it_is : rounded, exact ? U : 0, score, row, row + s->width);
                for (size_t e = 0; e < s->width; e++)
                    assert_near(out[i * s->ld_out + h * s->width + e], row[e], row[s->width + e]);
            }
    free(score), free(row);
}

static void it_matches_its_definition(void **unused) {
    /* Tokens on both sides of tiles of keys and queries and of strips; widths of every instance, full and
     * not. */
    static const size_t tokens[] = {1,  15,  16,  17,  31,  32,  33,  63,  64,
                                    65, 100, 127, 128, 129, 256, 257, 300, 385};
    static const size_t widths[] = {72, 16, 32, 48, 64, 80, 96, 112, 128, 1, 7, 20, 33, 71, 100, 126};
    /* So many of nearly each width that a head's keys and values do not fit in shared memory at once. */
    static const size_t many[] = {257, 769, 449, 321, 257, 193, 193, 193,
                                  129, 50,  51,  449, 321, 257, 193, 129};
    enum { TOKENS = sizeof tokens / sizeof *tokens, WIDTHS = sizeof widths / sizeof *widths };
    uint64_t state = 7;
    (void)unused;
    for (size_t c = 0; c < TOKENS + 2 * WIDTHS; c++) {
        const int large = c >= TOKENS + WIDTHS;
        shape s = {.batch = large ? 1 : 1 + c % 2,
                   .tokens = c < TOKENS            ? tokens[c]
                             : c < TOKENS + WIDTHS ? 45 + c
                                                   : many[c - TOKENS - WIDTHS],
                   .heads = large ? 1 : 1 + c % 3,
                   .width = widths[(c + 2 * WIDTHS - TOKENS) % WIDTHS],
                   .skew = c % 5 == 4};
        if (c < TOKENS) /* DiT-XL's, and with rows of 16-byte units as there */
            s.width = 72, s.skew = 0;
        s.ld = 3 * s.heads * s.width + (c < TOKENS ? 4 * (c % 2) : c % 4);
        s.ld_out = s.heads * s.width + c % 3;
        float *qkv = filled(&state, s.batch * s.tokens + 1, s.ld);
        float *out = attend(k, &s, qkv, 0);
        expect(&s, qkv, out, 1);
        free(qkv), free(out);
    }
}

/* Every weight is 1 / tokens and every value 1 + 1/256, which rounds to 1: outputs say so. */
static void values_are_rounded_to_nearest_even(void **unused) {
    const shape s = {.batch = 1, .tokens = 50, .heads = 1, .width = 24, .ld = 72, .ld_out = 24};
    float *qkv = calloc((s.tokens + 1) * s.ld, sizeof *qkv);
    (void)unused;
    assert_non_null(qkv);
    for (size_t i = 0; i < s.tokens; i++)
        for (size_t e = 0; e < s.width; e++)
            qkv[i * s.ld + 2 * s.width + e] = e % 2 ? 1.00390625F : 1.01171875F;
    float *out = attend(k, &s, qkv, 0);
    for (size_t i = 0; i < s.tokens; i++)
        for (size_t e = 0; e < s.width; e++)
            assert_near(out[i * s.ld_out + e], e % 2 ? 1.0 : 1.015625, 1e-6);
    free(qkv), free(out);
}

/* Scores far beyond the range of the exponential, whose maximum comes late, early and in the middle. */
static void large_scores_do_not_overflow(void **unused) {
    const shape s = {.batch = 1, .tokens = 200, .heads = 1, .width = 4, .ld = 12, .ld_out = 4};
    uint64_t state = 20;
    (void)unused;
    for (size_t peak = 0; peak < s.tokens; peak += 66) {
        float *qkv = filled(&state, s.tokens, s.ld);
        for (size_t i = 0; i < s.tokens; i++)
            for (size_t e = 0; e < 2 * s.width; e++)
                qkv[i * s.ld + e] *= i == peak ? 40.0F : 6.0F;
        float *out = attend(k, &s, qkv, 0);
        expect(&s, qkv, out, 0);
        free(qkv), free(out);
    }
}

/* Scores of -inf: two tiles of keys first, then some, then all there are. */
static void leave_out(const shape s) {
    uint64_t state = 22;
    float *qkv = filled(&state, s.tokens, s.ld);
    for (size_t i = 0; i < s.tokens; i++) {
        qkv[i * s.ld] = 1;
        if (i < 70 || i % 7 == 0)
            qkv[i * s.ld + s.width] = -INFINITY;
    }
    float *out = attend(k, &s, qkv, 0);
    expect(&s, qkv, out, 0);
    for (size_t i = 0; i < s.tokens; i++)
        qkv[i * s.ld + s.width] = -INFINITY;
    free(out);
    out = attend(k, &s, qkv, 0);
    for (size_t i = 0; i < s.tokens * s.width; i++)
        assert_true(isnan(out[i]));
    free(qkv), free(out);
}

static void keys_of_no_weight_are_left_out(void **unused) {
    (void)unused;
    leave_out((shape){.batch = 1, .tokens = 100, .heads = 1, .width = 16, .ld = 48, .ld_out = 16});
    leave_out((shape){.batch = 1, .tokens = 290, .heads = 1, .width = 72, .ld = 216, .ld_out = 72});
}

/* NaN in a query spoils that query's output and no other; in a key its whole sequence; in a value its column.
 */
static void spread(const shape s) {
    enum { QUERY, KEY, VALUE, PLACES };
    uint64_t state = 21;
    for (int place = 0; place < PLACES; place++) {
        float *qkv = filled(&state, s.batch * s.tokens, s.ld);
        qkv[(s.tokens + 66) * s.ld + (size_t)place * s.width + 3] = NAN;
        float *out = attend(k, &s, qkv, 0);
        for (size_t i = 0; i < s.batch * s.tokens; i++)
            for (size_t e = 0; e < s.width; e++) {
                const int expected = place == QUERY ? i == s.tokens + 66
                                     : place == KEY ? i >= s.tokens
                                                    : i >= s.tokens && e == 3;
                assert_int_equal(isnan(out[i * s.ld_out + e]) != 0, expected);
            }
        free(qkv), free(out);
    }
}

static void nan_spreads_as_far_as_the_definition_says(void **unused) {
    (void)unused;
    spread((shape){.batch = 2, .tokens = 70, .heads = 1, .width = 8, .ld = 24, .ld_out = 8});
    spread((shape){.batch = 2, .tokens = 290, .heads = 1, .width = 72, .ld = 216, .ld_out = 72});
}

/* Alone and in sequences, of which the first of many tokens finds no scratch yet. */
static void repetitions_are_the_same_to_the_last_bit(void **unused) {
    static const size_t tokens[] = {150, 270};
    uint64_t state = 23;
    (void)unused;
    for (size_t c = 0; c < sizeof tokens / sizeof *tokens; c++) {
        const shape s = {
            .batch = c ? 1 : 3, .tokens = tokens[c], .heads = 2, .width = 72, .ld = 432, .ld_out = 144};
        ousac_device *fresh = emulated_open(1);
        const ousac_backend *backend = ousac_device_backend(fresh);
        float *qkv = filled(&state, s.batch * s.tokens, s.ld), *first = attend(k, &s, qkv, 0);
        for (int round = 0; round < 4; round++) {
            float *again = attend(backend, &s, qkv, round != 2);
            assert_memory_equal(again, first, s.batch * s.tokens * s.ld_out * sizeof *first);
            free(again);
        }
        free(qkv), free(first);
        ousac_device_close(fresh);
    }
}

/* Outputs of cross_attention, a block of (batch * queries, ld_out) and a guard. */
static float *attend_others(const pair *s, const float *q, const float *kv, const float *bias) {
    const size_t d = s->heads * s->width, rows = s->batch * s->queries, others = s->batch * s->keys;
    float *out = blank(rows, s->ld_out);
    float *dq = put(k, q, block_bytes(rows, s->ld_q) + s->skew * sizeof *q);
    float *dkv = put(k, kv, block_bytes(others, s->ld_kv) + s->skew * sizeof *kv);
    float *dbias = bias ? put(k, bias, others * sizeof *bias) : NULL;
    float *dout = put(k, out, block_bytes(rows, s->ld_out));
    float *work = k->alloc(k, k->attention_work(k, s->queries, s->keys, s->width), sizeof *work),
          *keys = dkv + s->skew;
    assert_non_null(work);
    assert_int_equal(k->cross_attention(k, s->batch, s->queries, s->keys, s->heads, s->width, dq + s->skew,
                                        s->ld_q, keys, keys + d, s->ld_kv, dbias, dout, s->ld_out, work,
                                        NULL),
                     OUSAC_STATUS_OK);
    get(k, out, dout, block_bytes(rows, s->ld_out));
    assert_pad_untouched(out, rows, d, s->ld_out);
    drop(k, dq), drop(k, dkv), drop(k, dout), drop(k, work);
    if (dbias)
        drop(k, dbias);
    return out;
}

static void expect_others(const pair *s, const float *q, const float *kv, const float *bias,
                          const float *out) {
    const size_t d = s->heads * s->width;
    double *score = malloc(2 * s->keys * sizeof *score), *row = malloc(2 * s->width * sizeof *row);
    assert_true(score && row);
    for (size_t i = 0; i < s->batch * s->queries; i++)
        for (size_t h = 0; h < s->heads; h++)
            for (int exact = 0; exact <= 1; exact++) {
                const size_t first = i / s->queries * s->keys;
                const float *keys = kv + s->skew + first * s->ld_kv + h * s->width;
                exact_row(s->keys, s->width, q + s->skew + i * s->ld_q + h * s->width, keys, keys + d,
                          s->ld_kv, bias ? bias + first : NULL, exact ? as_it_is : rounded, exact ? U : 0,
                          score, row, row + s->width);
                for (size_t e = 0; e < s->width; e++)
                    assert_near(out[i * s->ld_out + h * s->width + e], row[e], row[s->width + e]);
            }
    free(score), free(row);
}

/* Fewer and more keys than queries, keys that fit in shared memory and more, rows of every alignment; with no
 * bias and with one of moderate size. */
static void other_rows_match_their_definition(void **unused) {
    static const pair cases[] = {
        {1, 1, 1, 1, 1, 0, 0, 0, 0},      {2, 5, 9, 3, 7, 0, 0, 0, 0},      {2, 64, 3, 2, 64, 0, 0, 0, 0},
        {1, 140, 120, 2, 72, 0, 0, 0, 0}, {3, 33, 300, 1, 16, 0, 0, 0, 0},  {1, 140, 1, 2, 80, 0, 0, 0, 0},
        {2, 63, 77, 1, 96, 0, 0, 0, 0},   {1, 9, 97, 1, 128, 0, 0, 0, 0},   {2, 40, 900, 1, 6, 0, 0, 0, 0},
        {2, 40, 300, 2, 72, 0, 0, 0, 0},  {1, 130, 257, 1, 72, 0, 0, 0, 0}, {1, 31, 330, 1, 33, 0, 0, 0, 0}};
    uint64_t state = 31;
    (void)unused;
    for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
        pair s = cases[c / 2];
        const size_t d = s.heads * s.width;
        s.ld_q = d + c % 3, s.ld_kv = 2 * d + c % 5, s.ld_out = d + c % 4, s.skew = c % 7 == 6;
        float *q = filled(&state, s.batch * s.queries + 1, s.ld_q);
        float *kv = filled(&state, s.batch * s.keys + 1, s.ld_kv);
        float *bias = c % 2 ? filled(&state, s.batch, s.keys) : NULL;
        float *out = attend_others(&s, q, kv, bias);
        expect_others(&s, q, kv, bias, out);
        free(q), free(kv), free(bias), free(out);
    }
}

/* Captions of different length in one batch: what is behind them does not count, whatever it is. With many keys
 * whole tiles of them are not there, at the end or, turned, at the beginning. Where none is there, the weights
 * are those of the scores, to what float32 keeps of them beside 10000. */
static void masked_keys_do_not_count(void **unused) {
    static const size_t keys[] = {130, 130, 300, 300};
    enum { HEADS = 2, WIDTH = 72, D = HEADS * WIDTH };
    uint64_t state = 32;
    (void)unused;
    for (size_t c = 0; c < sizeof keys / sizeof *keys; c++) {
        const pair s = {4, 20, keys[c], HEADS, WIDTH, D, 2 * D, D, 0};
        const size_t live[] = {1, 100, s.keys, 0}, only = c % 2 ? s.keys - 1 : 0;
        float *q = filled(&state, s.batch * s.queries, s.ld_q),
              *kv = filled(&state, s.batch * s.keys, s.ld_kv);
        float *bias = malloc(s.batch * s.keys * sizeof *bias);
        for (size_t i = 0; i < s.batch * s.keys; i++) {
            const size_t key = c % 2 ? s.keys - 1 - i % s.keys : i % s.keys;
            bias[i] = key < live[i / s.keys] ? 0 : -10000;
        }
        float *first = attend_others(&s, q, kv, bias);
        expect_others(&s, q, kv, bias, first);
        for (size_t i = 0; i < 3 * s.keys * s.ld_kv; i++)
            if (bias[i / s.ld_kv] != 0)
                kv[i] = 5 * kv[i] - 2;
        float *second = attend_others(&s, q, kv, bias);
        assert_memory_equal(first, second, s.batch * s.queries * D * sizeof *first);
        for (size_t i = 0; i < s.queries * D; i++) /* one key: its value */
            assert_near(second[i], rounded(kv[only * s.ld_kv + D + i % D]), 1e-6);
        free(q), free(kv), free(bias), free(first), free(second);
    }
}

/* As far from float32 as bfloat16 is, and not where heads are wider than the kernel holds. */
static void it_is_bfloat16_where_it_should_be(void **unused) {
    ousac_device *plain = emulated_open(0);
    uint64_t state = 24;
    (void)unused;
    for (size_t width = 128; width <= 129; width++) {
        const shape s = {
            .batch = 1, .tokens = 90, .heads = 1, .width = width, .ld = 3 * width, .ld_out = width};
        float *qkv = filled(&state, s.tokens, s.ld);
        float *mine = attend(k, &s, qkv, 0), *exact = attend(ousac_device_backend(plain), &s, qkv, 0);
        double off = 0, norm = 0;
        for (size_t i = 0; i < s.tokens * width; i++) {
            off += pow((double)mine[i] - (double)exact[i], 2);
            norm += pow((double)exact[i], 2);
        }
        if (width == 128)
            assert_true(sqrt(off / norm) > 1e-3 && sqrt(off / norm) < 2e-2);
        else
            assert_true(off == 0);
        free(qkv), free(mine), free(exact);
    }
    ousac_device_close(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_matches_its_definition),
        cmocka_unit_test(values_are_rounded_to_nearest_even),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(keys_of_no_weight_are_left_out),
        cmocka_unit_test(nan_spreads_as_far_as_the_definition_says),
        cmocka_unit_test(repetitions_are_the_same_to_the_last_bit),
        cmocka_unit_test(other_rows_match_their_definition),
        cmocka_unit_test(masked_keys_do_not_count),
        cmocka_unit_test(it_is_bfloat16_where_it_should_be),
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
