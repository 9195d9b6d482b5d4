/* Softmax attention of every backend against its definition in double precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>

/* One query row of the definition: out (width). score: scratch of `tokens`. */
static void exact_row(size_t tokens, size_t width, const float *q, const float *k, const float *v, size_t ld,
                      double *score, double *out) {
    double most = -INFINITY, sum = 0;
    for (size_t j = 0; j < tokens; j++) {
        score[j] = 0;
        for (size_t e = 0; e < width; e++)
            score[j] += (double)q[e] * k[j * ld + e];
        score[j] /= sqrt((double)width);
        most = fmax(most, score[j]);
    }
    for (size_t j = 0; j < tokens; j++)
        sum += score[j] = exp(score[j] - most);
    for (size_t e = 0; e < width; e++) {
        out[e] = 0;
        for (size_t j = 0; j < tokens; j++)
            out[e] += score[j] / sum * v[j * ld + e];
    }
}

/* Runs q | k | v of rows ld and returns the outputs, a block of (batch * tokens, ld_out) and a guard. Another guard lies
 * behind what `work` has to have. */
static float *attend(const ousac_backend *backend, size_t batch, size_t tokens, size_t heads, size_t width,
                     const float *qkv, size_t ld, size_t ld_out) {
    const size_t d = heads * width, rows = batch * tokens;
    const size_t floats = backend->attention_work(backend, tokens, tokens, width);
    float *out = blank(rows, ld_out), *work = blank(1, floats);
    float *dqkv = put(backend, qkv, block_bytes(rows, ld)),
          *dout = put(backend, out, block_bytes(rows, ld_out));
    float *dwork = put(backend, work, block_bytes(1, floats));
    assert_in_range(floats, 1, tokens * tokens);
    assert_int_equal(backend->attention(backend, batch, tokens, heads, width, dqkv, dqkv + d, dqkv + 2 * d,
                                        ld, dout, ld_out, dwork, NULL),
                     OUSAC_STATUS_OK);
    get(backend, out, dout, block_bytes(rows, ld_out));
    get(backend, work, dwork, block_bytes(1, floats));
    assert_pad_untouched(out, rows, d, ld_out);
    assert_true(is_untouched(&work[floats]));
    drop(backend, dqkv), drop(backend, dout), drop(backend, dwork);
    free(work);
    return out;
}

static void attention_matches_its_definition(void **unused) {
    /* batch, tokens, heads, head width; 1100 tokens make several blocks of rows, and of keys: these from about 400
     * on. The widths lie on both sides of where a backend may change its method: 32, 64, 80, 128. */
    static const size_t cases[][4] = {{1, 1, 1, 1},    {2, 5, 3, 7},    {1, 16, 2, 64},  {3, 33, 4, 16},
                                      {1, 64, 1, 8},   {2, 65, 1, 33},  {1, 1100, 1, 8}, {2, 400, 2, 5},
                                      {1, 128, 2, 72}, {1, 70, 1, 80},  {2, 63, 1, 96},  {1, 97, 1, 128},
                                      {2, 40, 2, 129}, {2, 777, 2, 72}, {1, 643, 1, 128}};
    uint64_t state = 7;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            const size_t batch = cases[c][0], tokens = cases[c][1], heads = cases[c][2], width = cases[c][3];
            const size_t d = heads * width, ld = 3 * d + c % 3, ld_out = d + c % 2;
            float *qkv = filled(&state, batch * tokens, ld);
            double *score = malloc(tokens * sizeof *score), *expected = malloc(width * sizeof *expected);
            float *out = attend(k, batch, tokens, heads, width, qkv, ld, ld_out);
            for (size_t i = 0; i < batch * tokens; i++)
                for (size_t h = 0; h < heads; h++) {
                    const float *sequence = qkv + i / tokens * tokens * ld + h * width;
                    exact_row(tokens, width, qkv + i * ld + h * width, sequence + d, sequence + 2 * d, ld,
                              score, expected);
                    for (size_t e = 0; e < width; e++)
                        assert_near(out[i * ld_out + h * width + e], expected[e], 4e-6);
                }
            free(qkv), free(out), free(score), free(expected);
        }
    }
}

/* Scores far beyond the range of the exponential, whose maximum comes late, early and in the middle. */
static void large_scores_do_not_overflow(void **unused) {
    enum { MANY = 900, WIDTH = 4, LD = 3 * WIDTH };
    uint64_t state = 20;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < 8; c++) {
            const size_t tokens = c < 4 ? 200 : MANY, peak = c % 4 * (tokens / 3 - 1);
            float *qkv = filled(&state, tokens, LD);
            double score[MANY], expected[WIDTH];
            for (size_t i = 0; i < tokens; i++)
                for (size_t e = 0; e < 2 * WIDTH; e++)
                    qkv[i * LD + e] *= i == peak ? 40.0F : 6.0F;
            float *out = attend(k, 1, tokens, 1, WIDTH, qkv, LD, WIDTH);
            for (size_t i = 0; i < tokens; i++) {
                exact_row(tokens, WIDTH, qkv + i * LD, qkv + WIDTH, qkv + 2 * WIDTH, LD, score, expected);
                for (size_t e = 0; e < WIDTH; e++) /* scores of 1e4 carry errors of 1e-3 into the exponent */
                    assert_near(out[i * WIDTH + e], expected[e], 2e-2);
            }
            free(qkv), free(out);
        }
    }
}

/* NaN in a query spoils that query's output and no other; NaN in a key spoils its whole sequence. */
static void nan_spreads_as_far_as_the_definition_says(void **unused) {
    enum { WIDTH = 8, LD = 3 * WIDTH };
    static const size_t lengths[][2] = {{70, 66}, {900, 66}, {900, 866}}; /* tokens, the bad one */
    uint64_t state = 21;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < 6; c++) {
            const size_t tokens = lengths[c / 2][0], bad = tokens + lengths[c / 2][1], key = c % 2;
            float *qkv = filled(&state, 2 * tokens, LD);
            qkv[bad * LD + (key ? WIDTH : 0) + 3] = NAN;
            float *out = attend(k, 2, tokens, 1, WIDTH, qkv, LD, WIDTH);
            for (size_t i = 0; i < 2 * tokens; i++)
                for (size_t e = 0; e < WIDTH; e++)
                    assert_true(isnan(out[i * WIDTH + e]) == (key ? i >= tokens : i == bad));
            free(qkv), free(out);
        }
    }
}

/* Many tokens: what keeps keys in blocks takes far less than all scores. Sizes that fit nowhere ask for more than there is. */
static void work_does_not_grow_with_the_square(void **unused) {
    (void)unused;
    EACH_BACKEND(k) {
        const size_t many = k->attention_work(k, 16384, 16384, 72), wide = k->attention_work(k, 64, 8, 256);
        assert_in_range(many, 1, (size_t)16384 * 16384 / 64);
        assert_in_range(wide, 1, 64 * 8);
        assert_in_range(k->attention_work(k, 0, 0, 8), 1, 1);
        if (k->attention_work(k, 300, 300, 256) > 1) /* not of a device that needs none */
            assert_true(k->attention_work(k, SIZE_MAX / 2, 4, 256) > SIZE_MAX / 8);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_its_definition),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(work_does_not_grow_with_the_square),
        cmocka_unit_test(nan_spreads_as_far_as_the_definition_says),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
