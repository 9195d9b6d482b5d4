/* Attention on other rows of every backend against its definition in double precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>

typedef struct shape {
    size_t batch, queries, keys, heads, width;
} shape;

/* One query row of the definition: out (width). bias (keys) or NULL; score: scratch of `keys`. */
static void exact_row(size_t keys, size_t width, const float *q, const float *k, const float *v, size_t ld,
                      const float *bias, double *score, double *out) {
    double most = -INFINITY, sum = 0;
    for (size_t j = 0; j < keys; j++) {
        score[j] = 0;
        for (size_t e = 0; e < width; e++)
            score[j] += (double)q[e] * k[j * ld + e];
        score[j] = score[j] / sqrt((double)width) + (bias ? (double)bias[j] : 0);
        most = fmax(most, score[j]);
    }
    for (size_t j = 0; j < keys; j++)
        sum += score[j] = exp(score[j] - most);
    for (size_t e = 0; e < width; e++) {
        out[e] = 0;
        for (size_t j = 0; j < keys; j++)
            out[e] += score[j] / sum * v[j * ld + e];
    }
}

/* q of rows ld_q, k | v of rows ld_kv: the outputs, a block of (batch * queries, ld_out) and a guard. */
static float *attend(const ousac_backend *backend, const shape *s, const float *q, size_t ld_q,
                     const float *kv, size_t ld_kv, const float *bias, size_t ld_out) {
    const size_t d = s->heads * s->width, rows = s->batch * s->queries, others = s->batch * s->keys;
    const size_t floats = backend->attention_work(backend, s->queries, s->keys, s->width);
    float *out = blank(rows, ld_out), *work = blank(1, floats);
    float *dq = put(backend, q, block_bytes(rows, ld_q)), *dkv = put(backend, kv, block_bytes(others, ld_kv));
    float *dbias = bias ? put(backend, bias, others * sizeof *bias) : NULL;
    float *dout = put(backend, out, block_bytes(rows, ld_out)),
          *dwork = put(backend, work, block_bytes(1, floats));
    assert_int_equal(backend->cross_attention(backend, s->batch, s->queries, s->keys, s->heads, s->width, dq,
                                              ld_q, dkv, dkv + d, ld_kv, dbias, dout, ld_out, dwork, NULL),
                     OUSAC_STATUS_OK);
    get(backend, out, dout, block_bytes(rows, ld_out));
    get(backend, work, dwork, block_bytes(1, floats));
    assert_pad_untouched(out, rows, d, ld_out);
    assert_true(is_untouched(&work[floats]));
    drop(backend, dq), drop(backend, dkv), drop(backend, dout), drop(backend, dwork);
    if (dbias)
        drop(backend, dbias);
    free(work);
    return out;
}

static void holds(const shape *s, const float *q, size_t ld_q, const float *kv, size_t ld_kv,
                  const float *bias, const float *out, size_t ld_out, double tolerance) {
    const size_t d = s->heads * s->width;
    double *score = malloc(s->keys * sizeof *score), *expected = malloc(s->width * sizeof *expected);
    for (size_t i = 0; i < s->batch * s->queries; i++)
        for (size_t h = 0; h < s->heads; h++) {
            const size_t key = i / s->queries * s->keys;
            const float *k = kv + key * ld_kv + h * s->width;
            exact_row(s->keys, s->width, q + i * ld_q + h * s->width, k, k + d, ld_kv,
                      bias ? bias + key : NULL, score, expected);
            for (size_t e = 0; e < s->width; e++)
                assert_near(out[i * ld_out + h * s->width + e], expected[e], tolerance);
        }
    free(score), free(expected);
}

/* Widths on both sides of 32, 64, 80 and 128, fewer and more keys than queries, several blocks of rows; with no bias,
 * and with one of moderate size. */
static void it_matches_its_definition(void **unused) {
    static const shape cases[] = {{1, 1, 1, 1, 1},      {2, 5, 9, 3, 7},     {2, 64, 3, 2, 64},
                                  {1, 256, 120, 2, 72}, {3, 33, 300, 1, 16}, {1, 70, 1, 2, 80},
                                  {2, 63, 77, 1, 96},   {1, 9, 97, 1, 128},  {2, 40, 12, 2, 129},
                                  {1, 1100, 700, 1, 8}, {1, 3, 1100, 1, 33}, {2, 300, 800, 2, 72},
                                  {2, 40, 900, 1, 5}};
    uint64_t state = 31;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
            const shape *s = &cases[c / 2];
            const size_t d = s->heads * s->width, ld_q = d + c % 3, ld_kv = 2 * d + c % 5, ld_out = d + c % 4;
            float *q = filled(&state, s->batch * s->queries, ld_q),
                  *kv = filled(&state, s->batch * s->keys, ld_kv),
                  *bias = c % 2 ? filled(&state, s->batch, s->keys) : NULL;
            float *out = attend(k, s, q, ld_q, kv, ld_kv, bias, ld_out);
            holds(s, q, ld_q, kv, ld_kv, bias, out, ld_out, 4e-6);
            free(q), free(kv), free(bias), free(out);
        }
    }
}

/* Captions of different length in one batch: what is behind them does not count, whatever it is. With many keys
 * whole blocks of them are not there, at the end or, turned, at the beginning. */
static void masked_keys_do_not_count(void **unused) {
    static const shape shapes[] = {{3, 70, 130, 2, 72}, {3, 70, 900, 2, 72}, {3, 70, 900, 2, 72}};
    const size_t d = shapes[0].heads * shapes[0].width;
    uint64_t state = 32;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
            const shape s = shapes[c];
            const size_t live[] = {1, 100, s.keys}, only = c == 2 ? s.keys - 1 : 0;
            float *q = filled(&state, s.batch * s.queries, d), *kv = filled(&state, s.batch * s.keys, 2 * d);
            float *bias = malloc(s.batch * s.keys * sizeof *bias);
            for (size_t i = 0; i < s.batch * s.keys; i++) {
                const size_t key = c == 2 ? s.keys - 1 - i % s.keys : i % s.keys;
                bias[i] = key < live[i / s.keys] ? 0 : -10000;
            }
            float *first = attend(k, &s, q, d, kv, 2 * d, bias, d);
            holds(&s, q, d, kv, 2 * d, bias, first, d, 4e-6);
            for (size_t i = 0; i < s.batch * s.keys * 2 * d; i++)
                if (bias[i / (2 * d)] != 0)
                    kv[i] = 5 * kv[i] - 2;
            float *second = attend(k, &s, q, d, kv, 2 * d, bias, d);
            assert_memory_equal(first, second, s.batch * s.queries * d * sizeof *first);
            for (size_t i = 0; i < s.queries * d; i++) /* one key: its value */
                assert_near(second[i], kv[only * 2 * d + d + i % d], 1e-6);
            free(q), free(kv), free(bias), free(first), free(second);
        }
    }
}

/* Where no key is there, weights are those of the scores, to what float32 keeps of them beside 10000. */
static void all_keys_masked_is_none_masked(void **unused) {
    static const shape s = {2, 9, 70, 1, 16};
    uint64_t state = 33;
    (void)unused;
    EACH_BACKEND(k) {
        float *q = filled(&state, s.batch * s.queries, s.width), *kv = filled(&state, s.batch * s.keys, 32);
        float bias[2 * 70];
        for (size_t i = 0; i < s.batch * s.keys; i++)
            bias[i] = i < s.keys ? -10000 : 0;
        float *out = attend(k, &s, q, s.width, kv, 32, bias, s.width);
        holds(&s, q, s.width, kv, 32, NULL, out, s.width, 1e-3);
        free(q), free(kv), free(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_matches_its_definition),
        cmocka_unit_test(masked_keys_do_not_count),
        cmocka_unit_test(all_keys_masked_is_none_masked),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
