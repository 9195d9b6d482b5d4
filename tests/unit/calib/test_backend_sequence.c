/* Sequences of operations on the CUDA backend: the same results as call by call, to the last bit, whether
 * they run that way or as a graph; when which of the two happens; and what ends a sequence early. On the
 * emulation, or on a device with OUSAC_TEST_BACKEND=cuda. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"
#include "tests/support/emulated.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 40, D = 24, HEADS = 2, R = 5, THREADS = 3, MANY = 150 };
enum { X = ROWS * D, WIDE = ROWS * 3 * D };

static const ousac_backend *k;

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s", error->message);
}

/* What a chain of one operation of every kind works on. */
typedef struct chain {
    float *x, *past, *older, *w, *bias, *wide, *mixed, *z, *y, *work, *scores;
    uint32_t *index;
} chain;

static void chain_open(chain *c, uint64_t seed) {
    uint64_t state = seed;
    float *host = filled(&state, 3 * D, D);
    float *rows = filled(&state, ROWS, 3 * D);
    uint32_t index[X + ROWS / 2]; /* of elements, then of rows */
    for (uint32_t i = 0; i < X; i++)
        index[i] = (i * 7U + 3U) % (uint32_t)X;
    for (uint32_t i = 0; i < ROWS / 2; i++)
        index[X + i] = i * 2U + 1U;
    c->w = put(k, host, 3 * D * D * sizeof *host);
    c->bias = put(k, host, 3 * D * sizeof *host);
    c->past = put(k, rows, X * sizeof *rows);
    c->older = put(k, rows + X, X * sizeof *rows);
    c->x = put(k, rows, X * sizeof *rows);
    c->wide = put(k, rows, WIDE * sizeof *rows);
    c->mixed = put(k, rows, X * sizeof *rows);
    c->z = put(k, rows, ROWS * R * sizeof *rows);
    c->y = put(k, rows, X * sizeof *rows);
    c->work = put(k, rows, X * sizeof *rows);
    c->scores = k->alloc(k, ROWS * ROWS, sizeof(float));
    assert_non_null(c->scores);
    c->index = put(k, index, sizeof index);
    free(host), free(rows);
}

static void chain_close(chain *c) {
    float *blocks[] = {c->x,     c->past, c->older, c->w,    c->bias,  c->wide,
                       c->mixed, c->z,    c->y,     c->work, c->scores};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        drop(k, blocks[i]);
    drop(k, c->index);
}

/* Every operation that a sequence takes; `s` is baked into some of them, `input` is uploaded. */
static ousac_status chain_run(const chain *c, const float *input, float s, ousac_error *error) {
    ousac_status status = k->upload(k, c->x, input, X * sizeof *input, error);
#define THEN(call)                                                                                           \
    if (!status)                                                                                             \
    status = (call)
    THEN(k->norm_modulate(k, ROWS, D, c->x, 1e-6F, c->bias, c->bias + D, ROWS / 2, D, c->y, error));
    THEN(k->linear(k, ROWS, 3 * D, D, c->y, D, c->w, D, c->bias, 0, c->wide, 3 * D, error));
    THEN(k->attention(k, 2, ROWS / 2, HEADS, D / HEADS, c->wide, c->wide + D, c->wide + 2 * D, 3 * D,
                      c->mixed, D, c->scores, error));
    THEN(k->cross_attention(k, 2, ROWS / 2, 3, HEADS, D / HEADS, c->mixed, D, c->wide, c->wide + D, 3 * D,
                            c->bias, c->y, D, c->scores, error));
    THEN(k->add_gated(k, ROWS, D, c->mixed, c->y, c->bias, ROWS / 2, D, error));
    THEN(k->project_change(k, ROWS, R, D, s, c->mixed, D, c->past, c->older, D, c->w, D, c->z, R, c->work,
                           error));
    THEN(k->expand_onto(k, ROWS, D, R, c->z, R, c->w, D, s, c->past, c->older, D, c->y, D, error));
    THEN(k->expand(k, ROWS, D, R, c->z, R, c->w, D, 1, c->y, D, error));
    THEN(k->gelu_tanh(k, X, c->y, c->y, error));
    THEN(k->add_gated(k, ROWS, D, c->x, c->y, c->bias, ROWS / 2, D, error));
    THEN(k->silu(k, X, c->x, c->work, error));
    THEN(k->gelu_tanh_rows(k, ROWS, D, c->wide + D, 3 * D, c->wide + D, 3 * D, error));
    THEN(k->rotate_heads(k, ROWS, HEADS, D / HEADS, c->wide + D, 3 * D, 1e-6F, c->bias, c->bias, 2, c->x, D,
                         error));
    THEN(k->axpy(k, X, 1, c->x, c->work, error));
    THEN(k->extrapolate(k, ROWS, D, s, c->work, D, c->x, D, c->mixed, D, error));
    THEN(k->subtract(k, ROWS, D, c->mixed, D, c->past, D, c->work, D, error));
    THEN(k->subtract_rows(k, ROWS / 2, D, c->index + X, 1.5F, c->work, D, c->past, D, c->mixed, D, error));
    THEN(k->gather(k, 1, X, c->index, c->work, X, c->y, X, error));
    THEN(k->axpy(k, X, s, c->x, c->y, error));
    THEN(k->copy(k, ROWS / 2, D, c->mixed, D, c->y, D, error));
#undef THEN
    return status;
}

/* What the chain leaves in y. */
static void eagerly(const chain *c, const float *input, float s, float *out) {
    ousac_error error = {0};
    must(chain_run(c, input, s, &error), &error);
    get(k, out, c->y, X * sizeof *out);
}

static ousac_status as_sequence(const chain *c, const float *input, float s, float *out, ousac_error *error) {
    ousac_status status = k->sequence_begin(k, error);
    if (status)
        return status;
    status = chain_run(c, input, s, error);
    const ousac_status ended = k->sequence_end(k, !status, status ? NULL : error);
    if (!status)
        status = ended;
    return status ? status : k->download(k, out, c->y, X * sizeof *out, error);
}

static void in_sequence(const chain *c, const float *input, float s, float *out) {
    ousac_error error = {0};
    must(as_sequence(c, input, s, out, &error), &error);
}

/* `round` inputs and scalars, each by both ways on memory of its own. */
static void compare(const chain *c, const chain *other, uint64_t seed, float s) {
    float expected[X], got[X], *input = filled(&seed, ROWS, D);
    eagerly(other, input, s, expected);
    in_sequence(c, input, s, got);
    assert_memory_equal(got, expected, sizeof got);
    free(input);
}

/* Met once, met again, and launched; then other scalars, other inputs, other pointers. */
static void results_are_those_of_the_calls(void **unused) {
    chain a, b, c;
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    chain_open(&a, 1), chain_open(&b, 1), chain_open(&c, 2);
    for (uint64_t round = 0; round < 5; round++)
        compare(&a, &b, 100 + round, 0.5F);
    for (uint64_t round = 0; round < 12; round++) /* what a forecast's coefficients do */
        compare(&a, &b, 200 + round, 0.25F * (float)(round % 4));
    chain d;
    chain_open(&d, 2);
    for (uint64_t round = 0; round < 6; round++) { /* as swapping slots do */
        compare(round % 2 ? &c : &a, round % 2 ? &d : &b, 300 + round, 0.5F);
    }
    emulated_count(before);
    compare(&a, &b, 400, 0.5F);
    emulated_count(after);
    if (!emulated_is_real()) {
        assert_int_equal(after[EMULATED_CAPTURES], before[EMULATED_CAPTURES]);
        assert_int_equal(after[EMULATED_LAUNCHED], before[EMULATED_LAUNCHED] + 1);
    }
    chain_close(&a), chain_close(&b), chain_close(&c), chain_close(&d);
}

/* The counts of one sequence. */
static void count_one(const chain *c, float s, long counts[EMULATED_KINDS]) {
    long before[EMULATED_KINDS];
    float out[X], input[X] = {0};
    emulated_count(before);
    in_sequence(c, input, s, out);
    emulated_count(counts);
    for (int i = 0; i < EMULATED_KINDS; i++)
        counts[i] -= before[i];
}

static void a_list_is_captured_when_it_is_met_again(void **unused) {
    chain c;
    long first[EMULATED_KINDS], second[EMULATED_KINDS], third[EMULATED_KINDS];
    (void)unused;
    if (emulated_is_real())
        skip();
    chain_open(&c, 3);
    count_one(&c, 0.125F, first);
    count_one(&c, 0.125F, second);
    count_one(&c, 0.125F, third);
    /* call by call; the download is the one that is not of the sequence */
    assert_true(first[EMULATED_EAGER] > 16 && first[EMULATED_NODES] == 0 && first[EMULATED_CAPTURES] == 0);
    /* captured, which runs nothing, and run by the graph alone */
    assert_int_equal(second[EMULATED_EAGER], 1);
    assert_int_equal(second[EMULATED_NODES], first[EMULATED_EAGER] - 1);
    assert_int_equal(second[EMULATED_CAPTURES], 1);
    assert_int_equal(second[EMULATED_LAUNCHED], 1);
    /* and no more than launched */
    assert_int_equal(third[EMULATED_EAGER], 1);
    assert_int_equal(third[EMULATED_NODES], second[EMULATED_NODES]);
    assert_int_equal(third[EMULATED_CAPTURES], 0);
    assert_int_equal(third[EMULATED_INSTANTIATED], 0);
    assert_int_equal(third[EMULATED_LAUNCHED], 1);
    chain_close(&c);
}

static void nothing_runs_before_the_end(void **unused) {
    enum { N = 8 };
    const float ones[N] = {1, 1, 1, 1, 1, 1, 1, 1}, twos[N] = {2, 2, 2, 2, 2, 2, 2, 2};
    float *x = put(k, ones, sizeof ones), *y = put(k, twos, sizeof twos), out[N];
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    ousac_error error = {0};
    (void)unused;
    emulated_count(before);
    must(k->sequence_begin(k, &error), &error);
    must(k->axpy(k, N, 1, x, y, &error), &error);
    must(k->copy(k, 1, N, y, N, x, N, &error), &error);
    emulated_count(after);
    assert_memory_equal(before, after, EMULATED_BYTES * sizeof *before);
    must(k->sequence_end(k, 0, &error), &error); /* forgotten */
    emulated_count(after);
    assert_memory_equal(before, after, EMULATED_BYTES * sizeof *before);
    get(k, out, x, sizeof out);
    assert_memory_equal(out, ones, sizeof out);
    get(k, out, y, sizeof out);
    assert_memory_equal(out, twos, sizeof out);
    drop(k, x), drop(k, y);
}

/* Results in host memory, allocations and releases: what came before has run, what follows runs too. */
static void what_cannot_wait_runs_what_came_before(void **unused) {
    enum { N = 64 };
    float host[N], out[N];
    (void)unused;
    for (int i = 0; i < N; i++)
        host[i] = 1;
    for (int round = 0; round < 3; round++)
        for (int which = 0; which < 5; which++) {
            float *x = put(k, host, sizeof host), *y = put(k, host, sizeof host);
            double sums[N] = {0};
            ousac_error error = {0};
            int finite = 0;
            must(k->sequence_begin(k, &error), &error);
            must(k->axpy(k, N, 2, x, y, &error), &error); /* y = 3 */
            if (which == 0) {
                must(k->sum_abs_columns(k, 1, N, y, N, 1, sums, &error), &error);
                assert_true(sums[0] == 3 && sums[N - 1] == 3);
            } else if (which == 1) {
                get(k, out, y, sizeof out);
                assert_true(out[0] == 3 && out[N - 1] == 3);
            } else if (which == 2) {
                must(k->all_finite(k, 1, N, y, N, &finite, &error), &error);
                assert_int_equal(finite, 1);
            } else if (which == 3) {
                float *more = k->alloc(k, N, sizeof *more);
                assert_non_null(more);
                must(k->copy(k, 1, N, y, N, more, N, &error), &error);
                drop(k, more); /* runs what uses it */
            } else {
                drop(k, x); /* of which y is made */
                x = put(k, host, sizeof host);
            }
            must(k->axpy(k, N, 1, x, y, &error), &error); /* y = 4 */
            must(k->sequence_end(k, 1, &error), &error);
            get(k, out, y, sizeof out);
            for (int i = 0; i < N; i++)
                assert_true(out[i] == 4);
            drop(k, x), drop(k, y);
        }
}

enum { CHOSEN = ROWS };

/* Sums of squares, moments and all: what a recorded forward does. They add to what is there, in the order of
 * the calls, at the end of the sequence; what they are taken of may have changed by then. */
static ousac_status record(const float *rows, const uint32_t *chosen, float *x, float *delta, float *gram,
                           uint32_t *index, double *packed, double weight, double out[6],
                           ousac_error *error) {
    ousac_status status = k->upload(k, x, rows, X * sizeof *rows, error);
#define THEN(call)                                                                                           \
    if (!status)                                                                                             \
    status = (call)
    THEN(k->sum_squares(k, ROWS, D, x, D, ROWS / 2, out, error));
    THEN(k->sum_squares_diff(k, ROWS, D, x, D, delta, D, ROWS, out + 2, error));
    THEN(k->subtract(k, ROWS, D, x, D, delta, D, delta, D, error));
    THEN(k->sum_squares(k, ROWS, D, delta, D, ROWS, out + 3, error));
    THEN(k->gram(k, ROWS, D, delta, D, gram, D, error));
    THEN(k->accumulate_packed(k, D, weight, gram, D, packed, error));
    THEN(k->copy(k, ROWS, D, x, D, delta, D, error));
    THEN(k->sum_squares(k, ROWS, D, delta, D, ROWS, out + 3, error));
    THEN(k->upload(k, index, chosen, CHOSEN * sizeof *chosen, error)); /* other ones in every round */
    THEN(k->measure_change(k, CHOSEN / 2, D, index, index + CHOSEN / 2, x, D, delta, D, 1, 1, out + 4,
                           out + 5, error));
    THEN(k->measure_change(k, CHOSEN / 2, D, index + CHOSEN / 2, NULL, x, D, delta, D, 0, 0, out + 4, NULL,
                           error));
#undef THEN
    return status;
}

static void sums_arrive_at_the_end(void **unused) {
    enum { PACKED = D * (D + 1) / 2, ROUNDS = 9 };
    double sums[2][6] = {{0}}, packed_sums[2][PACKED], zeros[PACKED] = {0};
    (void)unused;
    for (int sequence = 0; sequence < 2; sequence++) {
        uint64_t state = 7;
        float *first = filled(&state, ROWS, D);
        float *x = put(k, first, X * sizeof *first), *delta = put(k, first, X * sizeof *first);
        float *gram = k->alloc(k, D * D, sizeof *gram);
        uint32_t chosen[CHOSEN] = {0}, *index = put(k, chosen, sizeof chosen);
        double *packed = put(k, zeros, sizeof zeros), *out = sums[sequence];
        ousac_error error = {0};
        for (int round = 0; round < ROUNDS; round++) {
            float *rows = filled(&state, ROWS, D);
            const double weight = round % 3, before = out[0], changed = out[5];
            for (size_t i = 0; i < CHOSEN; i++)
                chosen[i] = (uint32_t)((i * 3 + (size_t)round) % ROWS);
            if (sequence)
                must(k->sequence_begin(k, &error), &error);
            must(record(rows, chosen, x, delta, gram, index, packed, weight, out, &error), &error);
            if (sequence) {
                assert_true(out[0] == before); /* not yet */
                if (round == 4) {              /* what cannot wait brings them with it */
                    double columns[D] = {0};
                    must(k->sum_abs_columns(k, ROWS, D, x, D, ROWS, columns, &error), &error);
                    assert_true(out[0] > before);
                }
                must(k->sequence_end(k, 1, &error), &error);
            }
            assert_true(out[0] > before && out[5] > changed);
            free(rows);
        }
        if (sequence) { /* forgotten with the rest */
            must(k->sequence_begin(k, &error), &error);
            must(record(first, chosen, x, delta, gram, index, packed, 1, out, &error), &error);
            must(k->sequence_end(k, 0, &error), &error);
        }
        get(k, packed_sums[sequence], packed, sizeof zeros);
        drop(k, x), drop(k, delta), drop(k, gram), drop(k, packed), drop(k, index);
        free(first);
    }
    assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
    assert_memory_equal(packed_sums[0], packed_sums[1], sizeof packed_sums[0]);
}

/* What a recorder does at a cached evaluation: the difference that is asked for next is written while it is measured. To the
 * bit what the calls alone give, also where the second call is of other rows, and a kernel less where it is not. */
static void differences_are_taken_on_the_way(void **unused) {
    enum { SEEN = ROWS / 2, RUNS = 3 };
    uint64_t state = 9;
    float *host = filled(&state, ROWS, D), *then = filled(&state, SEEN, D), *got = blank(SEEN, D),
          *expected = blank(SEEN, D);
    const size_t bytes = SEEN * D * sizeof *got;
    float *x = put(k, host, X * sizeof *host), *past = put(k, then, bytes), *delta = put(k, then, bytes);
    uint32_t rows[2 * SEEN];
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    for (uint32_t i = 0; i < SEEN; i++) {
        rows[i] = 2 * i + 1;
        rows[SEEN + i] = 2 * i;
    }
    uint32_t *index = put(k, rows, sizeof rows);
    for (int other = 0; other < 2; other++)
        for (int run = -1; run < RUNS; run++) { /* call by call; then as calls, captured, launched again */
            double square = 0, change = 0, squares = 0, changes = 0;
            emulated_count(before);
            if (run >= 0)
                must(k->sequence_begin(k, NULL), NULL);
            must(k->measure_change(k, SEEN, D, index, NULL, x, D, past, D, 1, 0, &square, &change, NULL),
                 NULL);
            must(
                k->subtract_rows(k, SEEN, D, index + (other ? SEEN : 0), 1.5F, x, D, past, D, delta, D, NULL),
                NULL);
            if (run >= 0)
                must(k->sequence_end(k, 1, NULL), NULL);
            emulated_count(after);
            get(k, run < 0 ? expected : got, delta, bytes);
            if (run >= 0)
                assert_memory_equal(got, expected, bytes);
            if (run == 0 && !emulated_is_real()) /* and the copy of the sums */
                assert_int_equal(after[EMULATED_EAGER] - before[EMULATED_EAGER], other ? 3 : 2);
            for (size_t i = 0; i < SEEN * D; i++) {
                const double value = host[rows[i / D] * D + i % D];
                squares += value * value;
                changes += (value - (double)then[i]) * (value - (double)then[i]);
            }
            assert_near(square, squares, 1e-12 * squares);
            assert_near(change, changes, 1e-12 * changes);
        }
    drop(k, x), drop(k, past), drop(k, delta), drop(k, index);
    free(host), free(then), free(got), free(expected);
}

/* More sums than there is room for: some arrive early. */
static void many_sums_arrive(void **unused) {
    enum { N = 1030, CALLS = 2 };
    float host[N];
    double *sums = calloc(CALLS * N, sizeof *sums);
    (void)unused;
    assert_non_null(sums);
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    float *x = put(k, host, sizeof host);
    ousac_error error = {0};
    must(k->sequence_begin(k, &error), &error);
    for (size_t c = 0; c < CALLS; c++)
        must(k->sum_squares(k, N, 1, x, 1, 1, sums + c * N, &error), &error);
    must(k->sequence_end(k, 1, &error), &error);
    for (size_t i = 0; i < CALLS * N; i++)
        assert_true(sums[i] == (double)(i % N) * (double)(i % N));
    drop(k, x);
    free(sums);
}

static void misuse_is_reported(void **unused) {
    float host[16] = {0}, *x = put(k, host, sizeof host);
    ousac_error error = {0};
    double sums[16] = {0};
    (void)unused;
    assert_int_equal(k->sequence_end(k, 1, &error), OUSAC_STATUS_USAGE);
    must(k->sequence_begin(k, &error), &error);
    assert_int_equal(k->sequence_begin(k, &error), OUSAC_STATUS_USAGE);
    must(k->sequence_end(k, 1, &error), &error); /* of the first */
    for (int round = 0; round < 3; round++) {
        error = (ousac_error){0};
        must(k->sequence_begin(k, &error), &error);
        ousac_status status = k->copy(k, 2, 3, x, 3, x, 2, &error); /* a leading dimension below the width */
        const ousac_status ended = k->sequence_end(k, !status, &error);
        assert_int_equal(status ? status : ended, OUSAC_STATUS_USAGE);
        assert_non_null(strstr(error.message, "copy"));
    }
    /* what had to run early fails at the end as well, where nobody heard of it */
    must(k->sequence_begin(k, &error), &error);
    must(k->copy(k, 2, 3, x, 3, x, 2, &error), &error);
    drop(k, put(k, host, sizeof host));
    assert_int_equal(k->sequence_end(k, 1, &error), OUSAC_STATUS_USAGE);
    must(k->sequence_begin(k, &error), &error);
    must(k->copy(k, 2, 3, x, 3, x, 2, &error), &error);
    assert_int_equal(k->sum_abs_columns(k, 1, 16, x, 16, 1, sums, &error), OUSAC_STATUS_USAGE);
    must(k->sequence_end(k, 0, &error), &error);
    /* and the next one is none the worse */
    must(k->sequence_begin(k, &error), &error);
    must(k->axpy(k, 8, 1, x, x + 8, &error), &error);
    must(k->sequence_end(k, 1, &error), &error);
    drop(k, x);
}

/* More than the staging memory holds at once. */
static void large_uploads_pass(void **unused) {
    enum { N = 40000 };
    float *host = calloc(N, sizeof *host), *out = calloc(N, sizeof *out);
    float *x = k->alloc(k, N, sizeof *x), *y = k->alloc(k, N, sizeof *y);
    (void)unused;
    assert_true(host && out && x && y);
    for (int round = 0; round < 4; round++) {
        ousac_error error = {0};
        for (size_t i = 0; i < N; i++)
            host[i] = (float)(i % 1000) + (float)round;
        must(k->sequence_begin(k, &error), &error);
        for (size_t at = 0; at < N; at += N / 8) { /* 20 kB each */
            must(k->upload(k, x + at, host + at, N / 8 * sizeof *host, &error), &error);
            host[at] = -1; /* free to change */
        }
        must(k->copy(k, 1, N, x, N, y, N, &error), &error);
        must(k->sequence_end(k, 1, &error), &error);
        get(k, out, y, N * sizeof *out);
        for (size_t i = 0; i < N; i++)
            assert_true(out[i] == (float)(i % 1000) + (float)round);
        must(k->upload(k, x, host, N * sizeof *host, &error), &error); /* without a sequence */
    }
    drop(k, x), drop(k, y);
    free(host), free(out);
}

/* y = 3 x in four calls, the first two by way of a scalar that tells the list from others. */
static void triple(float *x, float *y, float s) {
    enum { N = 8 };
    ousac_error error = {0};
    float host[N], out[N];
    for (int i = 0; i < N; i++)
        host[i] = (float)(i + 1);
    must(k->sequence_begin(k, &error), &error);
    must(k->upload(k, x, host, sizeof host, &error), &error);
    must(k->copy(k, 1, N, x, N, y, N, &error), &error);
    must(k->axpy(k, N, s, x, y, &error), &error);
    must(k->axpy(k, N, 2 - s, x, y, &error), &error);
    must(k->sequence_end(k, 1, &error), &error);
    get(k, out, y, sizeof out);
    for (int i = 0; i < N; i++)
        assert_true(out[i] == 3 * host[i]);
}

/* A block is released and another has its address: the same list, which its graph serves as before. */
static void a_graph_outlives_the_blocks_that_it_was_made_with(void **unused) {
    enum { N = 8 };
    long before[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    assert_int_equal(setenv("OUSAC_EMULATED_SAME_ADDRESS", "1", 1), 0);
    float *first = k->alloc(k, N, sizeof *first), *y = k->alloc(k, N, sizeof *y);
    assert_true(first && y);
    for (int round = 0; round < 3; round++)
        triple(first, y, 0.375F);
    drop(k, first);
    float *x = k->alloc(k, N, sizeof *x);
    assert_true(emulated_is_real() || x == first);
    emulated_count(before);
    triple(x, y, 0.375F);
    emulated_count(after);
    assert_true(emulated_is_real() || after[EMULATED_LAUNCHED] == before[EMULATED_LAUNCHED] + 1);
    drop(k, x), drop(k, y);
    assert_int_equal(unsetenv("OUSAC_EMULATED_SAME_ADDRESS"), 0);
}

/* More lists than graphs are kept, over and over; then others, after memory was released. */
static void more_lists_than_places(void **unused) {
    const float host[8] = {0};
    float *x = put(k, host, sizeof host), *y = put(k, host, sizeof host);
    long before[EMULATED_KINDS], between[EMULATED_KINDS], after[EMULATED_KINDS];
    (void)unused;
    drop(k, put(k, host, sizeof host)); /* what other tests left makes room */
    emulated_count(before);
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < MANY; i++)
            triple(x, y, (float)i);
    emulated_count(between);
    drop(k, put(k, host, sizeof host)); /* what was made may now be of memory that is gone */
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 4; i++)
            triple(x, y, -1 - (float)i);
    emulated_count(after);
    if (!emulated_is_real()) {
        /* met again in the second round, all in use from then on */
        assert_int_equal(between[EMULATED_LAUNCHED] - before[EMULATED_LAUNCHED], 3 * 128);
        assert_true(between[EMULATED_CAPTURES] - before[EMULATED_CAPTURES] == 128);
        /* of the same shape: the graphs there were take the new scalars */
        assert_int_equal(after[EMULATED_UPDATED] - between[EMULATED_UPDATED], 4);
        assert_int_equal(after[EMULATED_INSTANTIATED], between[EMULATED_INSTANTIATED]);
        assert_int_equal(after[EMULATED_LAUNCHED] - between[EMULATED_LAUNCHED], 8);
    }
    drop(k, x), drop(k, y);
}

static void *work_alone(void *argument) {
    const chain *c = argument;
    float input[X], first[X], out[X];
    ousac_error error = {0};
    for (size_t i = 0; i < X; i++)
        input[i] = (float)(i % 13) - 6;
    for (int round = 0; round < 5; round++) {
        if (as_sequence(c, input, 0.5F, round ? out : first, &error))
            return argument;
        if (round && memcmp(first, out, sizeof out) != 0)
            return argument;
    }
    return NULL;
}

/* One captures while others allocate, wait and capture. */
static void threads_do_not_disturb_each_other(void **unused) {
    pthread_t threads[THREADS];
    chain chains[THREADS];
    (void)unused;
    for (uint64_t t = 0; t < THREADS; t++)
        chain_open(&chains[t], 10 + t);
    for (int round = 0; round < 2; round++) {
        for (size_t t = 0; t < THREADS; t++)
            assert_int_equal(pthread_create(&threads[t], NULL, work_alone, &chains[t]), 0);
        for (size_t t = 0; t < THREADS; t++) {
            void *failed = NULL;
            assert_int_equal(pthread_join(threads[t], &failed), 0);
            assert_null(failed);
        }
    }
    for (size_t t = 0; t < THREADS; t++)
        chain_close(&chains[t]);
}

/* A thread that leaves in the middle of a sequence hands its context on. */
static void *leave_early(void *argument) {
    ousac_error error = {0};
    return k->sequence_begin(k, &error) || k->axpy(k, 4, 1, argument, argument, &error) ? argument : NULL;
}

static void a_sequence_without_an_end_is_forgotten(void **unused) {
    const float host[4] = {1, 2, 3, 4};
    float out[4], *x = put(k, host, sizeof host);
    pthread_t thread;
    void *failed = NULL;
    (void)unused;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(pthread_create(&thread, NULL, leave_early, x), 0);
        assert_int_equal(pthread_join(thread, &failed), 0);
        assert_null(failed);
    }
    get(k, out, x, sizeof out);
    assert_memory_equal(out, host, sizeof out);
    drop(k, x);
}

/* Chains on an emulated device with this fault: everything runs call by call, and after four attempts none is made. */
static void run_with(const char *fault) {
    const ousac_backend *before = k;
    long first[EMULATED_KINDS], last[EMULATED_KINDS];
    assert_int_equal(setenv(fault, "1", 1), 0);
    ousac_device *device = emulated_open(0);
    k = ousac_device_backend(device);
    chain a, b;
    chain_open(&a, 5), chain_open(&b, 5);
    emulated_count(first);
    for (uint64_t round = 0; round < 9; round++)
        compare(&a, &b, 700 + round, 0.5F * (float)(round % 3));
    emulated_count(last);
    assert_int_equal(last[EMULATED_CAPTURES] - first[EMULATED_CAPTURES], 4);
    assert_int_equal(last[EMULATED_LAUNCHED], first[EMULATED_LAUNCHED]);
    chain_close(&a), chain_close(&b);
    ousac_device_close(device);
    assert_int_equal(unsetenv(fault), 0);
    k = before;
}

/* A library whose products cannot be captured. */
static void captures_that_fail_change_nothing(void **unused) {
    (void)unused;
    if (emulated_is_real())
        skip();
    run_with("OUSAC_EMULATED_CAPTURES_FAIL");
}

/* A driver that refuses what it made. */
static void launches_that_fail_change_nothing(void **unused) {
    (void)unused;
    if (emulated_is_real())
        skip();
    run_with("OUSAC_EMULATED_LAUNCHES_FAIL");
}

/* In bfloat16 products take scratch, whose address graphs hold, and weights are found by their address. */
static void graphs_outlive_neither_scratch_nor_weights(void **unused) {
    enum { ROWS_MORE = 300 };
    const ousac_backend *before = k;
    (void)unused;
    ousac_device *device = emulated_open(1);
    k = ousac_device_backend(device);
    uint64_t state = 6;
    float *host = filled(&state, 3 * D, D), *rows = filled(&state, ROWS_MORE, D);
    float *large = put(k, rows, ROWS_MORE * D * sizeof *rows);
    float *result = k->alloc(k, ROWS_MORE * 3 * D, sizeof *result);
    float expected[ROWS * 3 * D], got[ROWS * 3 * D];
    ousac_error error = {0};
    for (int round = 0; round < 8; round++) {
        float *w = put(k, host, 3 * D * D * sizeof *host); /* often where the last one was */
        must(k->prepare(k, 3 * D * D, w, &error), &error);
        must(k->linear(k, ROWS, 3 * D, D, large, D, w, D, NULL, 0, result, 3 * D, &error), &error);
        get(k, expected, result, sizeof expected);
        for (int again = 0; again < 4; again++) {
            must(k->sequence_begin(k, &error), &error);
            must(k->linear(k, ROWS, 3 * D, D, large, D, w, D, NULL, 0, result, 3 * D, &error), &error);
            must(k->sequence_end(k, 1, &error), &error);
            get(k, got, result, sizeof got);
            assert_memory_equal(got, expected, sizeof got);
            if (round == 3 && again == 2) /* more scratch */
                must(k->linear(k, ROWS_MORE, 3 * D, D, large, D, w, D, NULL, 0, result, 3 * D, &error),
                     &error);
        }
        drop(k, w);
        for (size_t i = 0; i < 3 * D * D; i++)
            host[i] += 1;
    }
    drop(k, large), drop(k, result);
    free(host), free(rows);
    ousac_device_close(device);
    k = before;
}

static void they_can_be_switched_off(void **unused) {
    (void)unused;
    assert_int_equal(setenv("OUSAC_CUDA_GRAPHS", "0", 1), 0);
    ousac_device *device = emulated_open(0);
    assert_null(ousac_device_backend(device)->sequence_begin);
    assert_null(ousac_device_backend(device)->sequence_end);
    ousac_device_close(device);
    assert_int_equal(unsetenv("OUSAC_CUDA_GRAPHS"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_those_of_the_calls),
        cmocka_unit_test(a_list_is_captured_when_it_is_met_again),
        cmocka_unit_test(nothing_runs_before_the_end),
        cmocka_unit_test(what_cannot_wait_runs_what_came_before),
        cmocka_unit_test(sums_arrive_at_the_end),
        cmocka_unit_test(differences_are_taken_on_the_way),
        cmocka_unit_test(many_sums_arrive),
        cmocka_unit_test(misuse_is_reported),
        cmocka_unit_test(large_uploads_pass),
        cmocka_unit_test(a_graph_outlives_the_blocks_that_it_was_made_with),
        cmocka_unit_test(more_lists_than_places),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(a_sequence_without_an_end_is_forgotten),
        cmocka_unit_test(captures_that_fail_change_nothing),
        cmocka_unit_test(launches_that_fail_change_nothing),
        cmocka_unit_test(graphs_outlive_neither_scratch_nor_weights),
        cmocka_unit_test(they_can_be_switched_off),
    };
    const int refused = emulated_choose();
    if (refused)
        return refused;
    ousac_device *device = emulated_open(0);
    k = ousac_device_backend(device);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ousac_device_close(device);
    return failed;
}
