/* Attention of the CUDA backend in bfloat16 against the definition in double precision. On the emulation, or
 * on a device with OUSAC_TEST_BACKEND=cuda.
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

static double as_it_is(float x) {
    return (double)x;
}
static double rounded(float x) {
    return (double)ousac_bf16_to_f32(ousac_f32_to_bf16(x));
}

/* One query row of the definition, out (width), and the bound on the error of each, for inputs that `value`
 * reads and a relative error of `unit` in what it reads. score: scratch of `tokens`. */
static void exact_row(const shape *s, const float *q, const float *keys, const float *values,
                      double (*value)(float), double unit, double *score, double *out, double *bound) {
    double most = -INFINITY, sum = 0, off = 0;
    for (size_t j = 0; j < s->tokens; j++) {
        double size = 0;
        score[j] = 0;
        for (size_t e = 0; e < s->width; e++) {
            const double term = value(q[e]) * value(keys[j * s->ld + e]) / sqrt((double)s->width);
            score[j] += term;
            size += fabs(term);
        }
        if (isfinite(score[j]))
            off = fmax(off, size * (2 * unit + unit * unit + U32));
        most = fmax(most, score[j]);
    }
    for (size_t j = 0; j < s->tokens; j++)
        sum += score[j] = exp(score[j] - most);
    for (size_t e = 0; e < s->width; e++) {
        double size = 0;
        out[e] = 0;
        for (size_t j = 0; j < s->tokens; j++) {
            out[e] += score[j] / sum * value(values[j * s->ld + e]);
            size += score[j] / sum * fabs(value(values[j * s->ld + e]));
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
    float *work = backend->alloc(backend, s->tokens * s->tokens, sizeof *work), *q = dqkv + s->skew;
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
    double *score = malloc(s->tokens * sizeof *score), *row = malloc(2 * s->width * sizeof *row);
    assert_true(score && row);
    for (size_t i = 0; i < s->batch * s->tokens; i++)
        for (size_t h = 0; h < s->heads; h++)
            for (int exact = 0; exact <= whole; exact++) {
                const float *sequence = qkv + s->skew + i / s->tokens * s->tokens * s->ld + h * s->width;
                const float *query = qkv + s->skew + i * s->ld + h * s->width;
                exact_row(s, query, sequence + d, sequence + 2 * d, exact ? as_it_is : rounded, exact ? U : 0,
                          score, row, row + s->width);
                for (size_t e = 0; e < s->width; e++)
                    assert_near(out[i * s->ld_out + h * s->width + e], row[e], row[s->width + e]);
            }
    free(score), free(row);
}

static void it_matches_its_definition(void **unused) {
    /* Tokens on both sides of tiles of keys and queries and of strips; widths of every instance, full and
     * not. */
    static const size_t tokens[] = {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 256, 300};
    static const size_t widths[] = {72, 16, 32, 48, 64, 80, 96, 112, 128, 1, 7, 20, 33, 71, 100, 126};
    enum { TOKENS = sizeof tokens / sizeof *tokens, WIDTHS = sizeof widths / sizeof *widths };
    uint64_t state = 7;
    (void)unused;
    for (size_t c = 0; c < TOKENS + WIDTHS; c++) {
        shape s = {.batch = 1 + c % 2,
                   .tokens = c < TOKENS ? tokens[c] : 45 + c,
                   .heads = 1 + c % 3,
                   .width = widths[c % WIDTHS],
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
static void keys_of_no_weight_are_left_out(void **unused) {
    const shape s = {.batch = 1, .tokens = 100, .heads = 1, .width = 16, .ld = 48, .ld_out = 16};
    uint64_t state = 22;
    (void)unused;
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

/* NaN in a query spoils that query's output and no other; in a key its whole sequence; in a value its column.
 */
static void nan_spreads_as_far_as_the_definition_says(void **unused) {
    enum { QUERY, KEY, VALUE, PLACES };
    const shape s = {.batch = 2, .tokens = 70, .heads = 1, .width = 8, .ld = 24, .ld_out = 8};
    uint64_t state = 21;
    (void)unused;
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

static void repetitions_are_the_same_to_the_last_bit(void **unused) {
    const shape s = {.batch = 3, .tokens = 150, .heads = 2, .width = 72, .ld = 432, .ld_out = 144};
    uint64_t state = 23;
    (void)unused;
    float *qkv = filled(&state, s.batch * s.tokens, s.ld), *first = attend(k, &s, qkv, 0);
    for (int round = 0; round < 4; round++) {
        float *again = attend(k, &s, qkv, round > 0);
        assert_memory_equal(again, first, s.batch * s.tokens * s.ld_out * sizeof *first);
        free(again);
    }
    free(qkv), free(first);
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
