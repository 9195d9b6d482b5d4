/* What a rotary attention needs beside the attention itself, on every backend: heads normed and turned, against the
 * definition in double precision, and the activation of a part of a matrix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 11, POSITIONS = 4 };

typedef struct shape {
    size_t heads, width, pad_x, pad_y;
} shape;

static const shape shapes[] = {{1, 2, 0, 0},  {3, 6, 1, 0},  {2, 16, 0, 5},  {2, 32, 3, 3},
                               {4, 64, 0, 0}, {2, 72, 7, 2}, {3, 128, 8, 4}, {1, 130, 0, 1}};

/* Row i of the heads that `x` holds, as the definition has it. */
static void turn(const shape *s, const float *x, double eps, const float *weight, const float *table,
                 double *y) {
    for (size_t h = 0; h < s->heads; h++) {
        const float *u = x + h * s->width;
        double *v = y + h * s->width, scaled[130], square = 0;
        for (size_t j = 0; j < s->width; j++)
            square += (double)u[j] * (double)u[j] / (double)s->width;
        for (size_t j = 0; j < s->width; j++)
            scaled[j] = weight ? (double)u[j] / sqrt(square + eps) * (double)weight[j] : (double)u[j];
        for (size_t j = 0; j < s->width; j++)
            v[j] = !table  ? scaled[j]
                   : j % 2 ? scaled[j] * (double)table[j - 1] + scaled[j - 1] * (double)table[j]
                           : scaled[j] * (double)table[j] - scaled[j + 1] * (double)table[j + 1];
    }
}

/* Normed, turned, both and neither; beside x and in place. */
static void heads_are_normed_and_turned(void **unused) {
    uint64_t state = 21;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof shapes / sizeof *shapes * 8; c++) {
            const shape *s = &shapes[c / 8];
            const int norms = (c & 1) != 0, turns = (c & 2) != 0, in_place = (c & 4) != 0;
            const size_t d = s->heads * s->width, ldx = d + s->pad_x, ldy = in_place ? ldx : d + s->pad_y;
            float *x = filled(&state, ROWS, ldx), *weight = filled(&state, 1, s->width),
                  *table = filled(&state, POSITIONS, s->width), *y = blank(ROWS, ldy);
            for (size_t i = 0; i < ROWS * ldx; i++)
                x[i] *= i / ldx % 3 == 0 ? 0.01F : 30.0F;
            float *dx = put(k, x, block_bytes(ROWS, ldx)), *dw = put(k, weight, block_bytes(1, s->width)),
                  *dt = put(k, table, block_bytes(POSITIONS, s->width)),
                  *dy = in_place ? dx : put(k, y, block_bytes(ROWS, ldy));
            assert_int_equal(k->rotate_heads(k, ROWS, s->heads, s->width, dx, ldx, 1e-4F, norms ? dw : NULL,
                                             turns ? dt : NULL, POSITIONS, dy, ldy, NULL),
                             OUSAC_STATUS_OK);
            get(k, y, dy, block_bytes(ROWS, ldy));
            for (size_t i = 0; i < ROWS; i++) {
                double exact[390];
                turn(s, x + i * ldx, (double)1e-4F, norms ? weight : NULL,
                     turns ? table + i % POSITIONS * s->width : NULL, exact);
                for (size_t j = 0; j < d; j++)
                    assert_near(y[i * ldy + j], exact[j], 4e-6 * (norms ? 4 : 100));
                for (size_t j = d; j < ldx && in_place; j++)
                    assert_true(y[i * ldy + j] == x[i * ldx + j]);
            }
            if (!in_place)
                assert_pad_untouched(y, ROWS, d, ldy);
            if (!in_place)
                drop(k, dy);
            drop(k, dx), drop(k, dw), drop(k, dt);
            free(x), free(weight), free(table), free(y);
        }
    }
}

/* A head of zeros stays zero; one with a NaN is lost alone. */
static void heads_do_not_meet(void **unused) {
    enum { HEADS = 3, WIDTH = 34, D = HEADS * WIDTH };
    uint64_t state = 22;
    (void)unused;
    EACH_BACKEND(k) {
        float *x = filled(&state, 2, D), *weight = filled(&state, 1, WIDTH);
        memset(x, 0, WIDTH * sizeof *x);
        x[D + WIDTH + 33] = NAN;
        float *dx = put(k, x, block_bytes(2, D)), *dw = put(k, weight, block_bytes(1, WIDTH));
        assert_int_equal(k->rotate_heads(k, 2, HEADS, WIDTH, dx, D, 1e-6F, dw, NULL, 0, dx, D, NULL),
                         OUSAC_STATUS_OK);
        get(k, x, dx, block_bytes(2, D));
        for (size_t i = 0; i < 2 * D; i++)
            assert_true(isnan(x[i]) == (i / WIDTH == HEADS + 1));
        for (size_t i = 0; i < WIDTH; i++)
            assert_true(x[i] == 0);
        drop(k, dx), drop(k, dw);
        free(x), free(weight);
    }
}

static void columns_bend_as_a_whole_does(void **unused) {
    static const size_t sizes[][4] = {{1, 1, 0, 0}, {5, 33, 2, 7}, {7, 64, 64, 0}, {3, 100, 4, 8}};
    uint64_t state = 23;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof sizes / sizeof *sizes * 2; c++) {
            const size_t *s = sizes[c / 2], rows = s[0], cols = s[1], ldx = cols + s[2];
            const int in_place = c % 2 != 0;
            const size_t ldy = in_place ? ldx : cols + s[3];
            float *x = filled(&state, rows, ldx), *y = blank(rows, ldy), *expected = blank(1, rows * ldx);
            float *dx = put(k, x, block_bytes(rows, ldx)), *whole = put(k, x, block_bytes(rows, ldx)),
                  *dy = in_place ? dx : put(k, y, block_bytes(rows, ldy));
            assert_int_equal(k->gelu_tanh(k, rows * ldx, whole, whole, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->gelu_tanh_rows(k, rows, cols, dx, ldx, dy, ldy, NULL), OUSAC_STATUS_OK);
            get(k, expected, whole, block_bytes(rows, ldx));
            get(k, y, dy, block_bytes(rows, ldy));
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < (in_place ? ldx : cols); j++)
                    assert_true(y[i * ldy + j] == (j < cols ? expected : x)[i * ldx + j]);
            if (!in_place)
                assert_pad_untouched(y, rows, cols, ldy);
            if (!in_place)
                drop(k, dy);
            drop(k, dx), drop(k, whole);
            free(x), free(y), free(expected);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_normed_and_turned),
        cmocka_unit_test(heads_do_not_meet),
        cmocka_unit_test(columns_bend_as_a_whole_does),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
