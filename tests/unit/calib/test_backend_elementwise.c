/* The elementwise operations of every backend against their definitions in double precision. */
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

/* --- activations --- */

static double exact_gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* y = gelu or silu of the host block x of `count` floats and a guard; in place where y is x's block. */
static void activate(const ousac_backend *k, int which, size_t count, int in_place, const float *x,
                     float *y) {
    float *dx = put(k, x, block_bytes(1, count)), *dy = in_place ? dx : put(k, y, block_bytes(1, count));
    assert_int_equal(which ? k->silu(k, count, dx, dy, NULL) : k->gelu_tanh(k, count, dx, dy, NULL),
                     OUSAC_STATUS_OK);
    get(k, y, dy, block_bytes(1, count));
    if (!in_place)
        drop(k, dy);
    drop(k, dx);
}

static void activations_match_their_formulas(void **unused) {
    enum { COUNT = 40001 };
    float *x = blank(1, COUNT);
    (void)unused;
    for (size_t i = 0; i < COUNT; i++)
        x[i] = (float)((double)i / 1000 - 20);
    EACH_BACKEND(k) {
        for (int in_place = 0; in_place < 2; in_place++)
            for (int which = 0; which < 2; which++)
                for (size_t count = COUNT; count >= COUNT - 1; count--) { /* odd, and a multiple of four */
                    float *part = blank(1, count), *y = blank(1, count);
                    memcpy(part, x, count * sizeof *part);
                    activate(k, which, count, in_place, part, y);
                    for (size_t i = 0; i < count; i++) {
                        const double exact = which ? x[i] / (1 + exp(-(double)x[i])) : exact_gelu(x[i]);
                        assert_near(y[i], exact, 1e-6 * fabs(exact) + 3e-9);
                    }
                    assert_pad_untouched(y, 1, count, count);
                    free(part), free(y);
                }
    }
    free(x);
}

static void activations_at_the_extremes(void **unused) {
    const float kinds[] = {NAN, INFINITY, -INFINITY, 3e38F, -3e38F, 0.0F, -0.0F, 1e-40F};
    (void)unused;
    EACH_BACKEND(k) {
        for (int which = 0; which < 2; which++)
            /* 19 elements: vector body and tail both see every kind. */
            for (size_t shift = 0; shift < 8; shift++) {
                float x[20] = {0}, y[20] = {0};
                for (size_t i = 0; i < 19; i++)
                    x[i] = kinds[(i + shift) % 8];
                activate(k, which, 19, 0, x, y);
                for (size_t i = 0; i < 19; i++)
                    switch ((i + shift) % 8) {
                    case 0:
                    case 2:
                        assert_true(isnan(y[i]));
                        break;
                    case 1:
                        assert_true(isinf(y[i]) && y[i] > 0);
                        break;
                    case 3:
                        assert_true(y[i] == 3e38F);
                        break;
                    case 4:
                        assert_true(y[i] <= 0 && y[i] > -1);
                        break;
                    case 5:
                    case 6:
                        assert_true(y[i] == 0);
                        break;
                    default:
                        assert_near(y[i], 5e-41, 2e-45);
                        break;
                    }
            }
    }
}

/* --- layer norm --- */

static void norm_modulate_matches_its_definition(void **unused) {
    static const size_t widths[] = {1,   2,   15,  16,   31,   32,   33,   64,  72,
                                    192, 257, 388, 1152, 1536, 2048, 3072, 3076};
    uint64_t state = 8;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof widths / sizeof *widths * 3; c++) {
            const size_t d = widths[c / 3], rows = 12, group = c % 3 == 0 ? 1 : c % 3 == 1 ? 4 : 5;
            const size_t ld = 6 * d + (c % 2 ? 1 : 0), groups = (rows + group - 1) / group;
            const int plain = c % 5 == 4;
            const double eps = 1e-6;
            float *x = filled(&state, rows, d), *mod = filled(&state, groups, ld), *y = blank(rows, d);
            for (size_t i = 0; i < rows * d; i++)
                x[i] = x[i] * (i / d % 2 ? 0.01F : 3.0F) + (i / d % 3 ? 50.0F : 0.0F);
            float *dx = put(k, x, block_bytes(rows, d)), *dmod = put(k, mod, block_bytes(groups, ld)),
                  *dy = put(k, y, block_bytes(rows, d));
            assert_int_equal(k->norm_modulate(k, rows, d, dx, (float)eps, plain ? NULL : dmod,
                                              plain ? NULL : dmod + d, group, ld, dy, NULL),
                             OUSAC_STATUS_OK);
            get(k, y, dy, block_bytes(rows, d));
            for (size_t i = 0; i < rows; i++) {
                double mean = 0, variance = 0;
                for (size_t j = 0; j < d; j++)
                    mean += x[i * d + j] / (double)d;
                for (size_t j = 0; j < d; j++)
                    variance += (x[i * d + j] - mean) * (x[i * d + j] - mean) / (double)d;
                for (size_t j = 0; j < d; j++) {
                    const float *row = mod + i / group * ld;
                    const double norm = (x[i * d + j] - mean) / sqrt(variance + eps);
                    const double expected = plain ? norm : norm * (1 + (double)row[d + j]) + row[j];
                    assert_near(y[i * d + j], expected, 1e-5 * (1 + fabs(expected)));
                }
            }
            assert_pad_untouched(y, rows, d, d);
            drop(k, dx), drop(k, dmod), drop(k, dy);
            free(x), free(mod), free(y);
        }
    }
}

static ousac_status plain_norm(const ousac_backend *k, size_t rows, size_t d, const float *x, float *y) {
    float *dx = put(k, x, rows * d * sizeof *x), *dy = put(k, x, rows * d * sizeof *x);
    const ousac_status status = k->norm_modulate(k, rows, d, dx, 1e-6F, NULL, NULL, 1, 0, dy, NULL);
    get(k, y, dy, rows * d * sizeof *y);
    drop(k, dx), drop(k, dy);
    return status;
}

/* Constant rows far from zero, where a one-pass variance would be negative. */
static void norm_modulate_keeps_constant_rows_at_zero(void **unused) {
    static float x[4 * 100], y[4 * 100];
    (void)unused;
    for (size_t i = 0; i < 400; i++)
        x[i] = i / 100 == 0 ? 0 : i / 100 == 1 ? 1e6F : i / 100 == 2 ? -0.1F : 1e18F;
    EACH_BACKEND(k) {
        assert_int_equal(plain_norm(k, 4, 100, x, y), OUSAC_STATUS_OK);
        for (size_t i = 0; i < 300; i++)
            assert_near(y[i], 0, 1e-3);
        for (size_t i = 300; i < 400; i++)
            assert_true(isfinite(y[i]));
    }
}

static void norm_modulate_spreads_nan_over_its_row_only(void **unused) {
    static float x[3 * 50], y[3 * 50];
    uint64_t state = 9;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t place = 50; place < 100; place += 7) {
            calib_fill(&state, 150, x);
            x[place] = place % 2 ? NAN : INFINITY;
            (void)plain_norm(k, 3, 50, x, y);
            for (size_t i = 0; i < 150; i++)
                assert_true(isnan(y[i]) == (i / 50 == 1));
        }
    }
}

/* --- what works element by element --- */

/* Matrices of one case on the host and on the backend. */
typedef struct matrices {
    size_t rows, d, ldu, ldv, ldw, ldy;
    float *u, *v, *w, *y, *du, *dv, *dw, *dy;
} matrices;

static const size_t element_sizes[][2] = {{1, 1},   {3, 15},   {6, 16},  {2, 17},  {4, 33},
                                          {6, 100}, {12, 192}, {300, 8}, {5, 1028}};
enum { ELEMENT_SIZES = sizeof element_sizes / sizeof *element_sizes };

/* Contiguous in every fourth case, and with a leading dimension that a vector of four fits in every second.
 */
static void matrices_create(matrices *m, const ousac_backend *k, uint64_t *state, size_t c) {
    const size_t rows = element_sizes[c % ELEMENT_SIZES][0], d = element_sizes[c % ELEMENT_SIZES][1];
    const size_t pad = c / ELEMENT_SIZES;
    *m = (matrices){.rows = rows, .d = d};
    m->ldu = d + (pad == 0 ? 0 : pad == 1 ? 4 : c % 3);
    m->ldv = d + (pad == 0 ? 0 : pad == 1 ? 8 : c % 2);
    m->ldw = d + (pad == 0 ? 0 : pad == 1 ? 4 : 2);
    m->ldy = d + (pad == 0 ? 0 : pad == 1 ? 12 : 1);
    m->u = filled(state, rows, m->ldu), m->v = filled(state, rows, m->ldv),
    m->w = filled(state, rows, m->ldw);
    m->y = blank(rows, m->ldy);
    m->du = put(k, m->u, block_bytes(rows, m->ldu)), m->dv = put(k, m->v, block_bytes(rows, m->ldv));
    m->dw = put(k, m->w, block_bytes(rows, m->ldw)), m->dy = put(k, m->y, block_bytes(rows, m->ldy));
}

static void matrices_free(matrices *m, const ousac_backend *k) {
    drop(k, m->du), drop(k, m->dv), drop(k, m->dw), drop(k, m->dy);
    free(m->u), free(m->v), free(m->w), free(m->y);
}

static void fetch_y(matrices *m, const ousac_backend *k) {
    get(k, m->y, m->dy, block_bytes(m->rows, m->ldy));
    assert_pad_untouched(m->y, m->rows, m->d, m->ldy);
}

static void differences_and_copies_are_exact(void **unused) {
    uint64_t state = 10;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < ELEMENT_SIZES * 3; c++) {
            matrices m;
            matrices_create(&m, k, &state, c);
            uint32_t *index = malloc(m.rows * sizeof *index);
            for (size_t i = 0; i < m.rows; i++)
                index[i] = (uint32_t)(m.rows - 1 - i / 2);
            uint32_t *dindex = put(k, index, m.rows * sizeof *index);
            assert_int_equal(k->subtract(k, m.rows, m.d, m.du, m.ldu, m.dv, m.ldv, m.dy, m.ldy, NULL),
                             OUSAC_STATUS_OK);
            fetch_y(&m, k);
            for (size_t i = 0; i < m.rows; i++)
                for (size_t j = 0; j < m.d; j++)
                    assert_true(m.y[i * m.ldy + j] == m.u[i * m.ldu + j] - m.v[i * m.ldv + j]);
            assert_int_equal(
                k->subtract_rows(k, m.rows, m.d, dindex, 1, m.du, m.ldu, m.dv, m.ldv, m.dy, m.ldy, NULL),
                OUSAC_STATUS_OK);
            fetch_y(&m, k);
            for (size_t i = 0; i < m.rows; i++)
                for (size_t j = 0; j < m.d; j++)
                    assert_true(m.y[i * m.ldy + j] == m.u[index[i] * m.ldu + j] - m.v[i * m.ldv + j]);
            assert_int_equal(
                k->subtract_rows(k, m.rows, m.d, NULL, 0.3F, m.du, m.ldu, m.dv, m.ldv, m.dy, m.ldy, NULL),
                OUSAC_STATUS_OK);
            fetch_y(&m, k);
            for (size_t i = 0; i < m.rows; i++)
                for (size_t j = 0; j < m.d; j++)
                    assert_true(m.y[i * m.ldy + j] == 0.3F * (m.u[i * m.ldu + j] - m.v[i * m.ldv + j]));
            assert_int_equal(k->copy(k, m.rows, m.d, m.dv, m.ldv, m.dy, m.ldy, NULL), OUSAC_STATUS_OK);
            fetch_y(&m, k);
            for (size_t i = 0; i < m.rows; i++)
                assert_memory_equal(m.y + i * m.ldy, m.v + i * m.ldv, m.d * sizeof *m.y);
            drop(k, dindex);
            free(index);
            matrices_free(&m, k);
        }
    }
}

static void forecasts_lie_on_their_line(void **unused) {
    uint64_t state = 18;
    const float s = 1.25F;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < ELEMENT_SIZES * 3; c++) {
            matrices m;
            matrices_create(&m, k, &state, c);
            assert_int_equal(k->extrapolate(k, m.rows, m.d, s, m.du, m.ldu, m.dv, m.ldv, m.dy, m.ldy, NULL),
                             OUSAC_STATUS_OK);
            fetch_y(&m, k);
            for (size_t i = 0; i < m.rows; i++)
                for (size_t j = 0; j < m.d; j++) {
                    const double a = (double)m.u[i * m.ldu + j],
                                 e = a + (double)s * (a - (double)m.v[i * m.ldv + j]);
                    assert_near(m.y[i * m.ldy + j], e, 4e-7 * (fabs(a) + fabs(e)));
                }
            matrices_free(&m, k);
        }
    }
}

static void additions_match_their_definitions(void **unused) {
    uint64_t state = 19;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < ELEMENT_SIZES; c++) {
            const size_t rows = element_sizes[c][0], d = element_sizes[c][1], ld = d + 2;
            const size_t group = c % 2 ? 1 : 3;
            float *x = filled(&state, rows, d), *y = filled(&state, rows, d), *after = blank(rows, d);
            float *gate = filled(&state, rows, ld);
            float *dx = put(k, x, block_bytes(rows, d)), *dy = put(k, y, block_bytes(rows, d));
            float *dgate = put(k, gate, block_bytes(rows, ld));
            assert_int_equal(k->add_gated(k, rows, d, dx, dy, dgate, group, ld, NULL), OUSAC_STATUS_OK);
            get(k, after, dx, block_bytes(rows, d));
            for (size_t i = 0; i < rows * d; i++)
                assert_near(after[i], x[i] + (double)gate[i / d / group * ld + i % d] * y[i], 1e-6 * 16);
            assert_pad_untouched(after, rows, d, d);
            assert_int_equal(k->axpy(k, rows * d, -2.5F, dy, dx, NULL), OUSAC_STATUS_OK);
            memcpy(x, after, rows * d * sizeof *x);
            get(k, after, dx, block_bytes(rows, d));
            for (size_t i = 0; i < rows * d; i++)
                assert_near(after[i], x[i] - 2.5 * y[i], 1e-6 * 32);
            assert_pad_untouched(after, rows, d, d);
            drop(k, dx), drop(k, dy), drop(k, dgate);
            free(x), free(y), free(after), free(gate);
        }
    }
}

static void gather_picks_by_index(void **unused) {
    uint64_t state = 11;
    (void)unused;
    EACH_BACKEND(k) {
        float *x = filled(&state, 3, 50), *y = blank(3, 31);
        uint32_t index[29];
        for (size_t i = 0; i < 29; i++)
            index[i] = (uint32_t)calib_below(&state, 50);
        float *dx = put(k, x, block_bytes(3, 50)), *dy = put(k, y, block_bytes(3, 31));
        uint32_t *dindex = put(k, index, sizeof index);
        assert_int_equal(k->gather(k, 3, 29, dindex, dx, 50, dy, 31, NULL), OUSAC_STATUS_OK);
        get(k, y, dy, block_bytes(3, 31));
        for (size_t b = 0; b < 3; b++)
            for (size_t i = 0; i < 29; i++)
                assert_true(y[b * 31 + i] == x[b * 50 + index[i]]);
        assert_pad_untouched(y, 3, 29, 31);
        drop(k, dx), drop(k, dy), drop(k, dindex);
        free(x), free(y);
    }
}

static void accumulate_packed_adds_the_lower_triangle(void **unused) {
    static const size_t orders[] = {1, 2, 17, 64, 300};
    uint64_t state = 13;
    (void)unused;
    EACH_BACKEND(k) {
        for (size_t c = 0; c < sizeof orders / sizeof *orders; c++) {
            const size_t n = orders[c], ld = n + c, size = n * (n + 1) / 2;
            float *g = filled(&state, n, ld);
            double *packed = malloc((size + 1) * sizeof *packed);
            for (size_t i = 0; i <= size; i++)
                packed[i] = (double)i;
            for (size_t i = 0; i < n; i++)
                for (size_t j = i + 1; j < n; j++)
                    g[i * ld + j] = NAN;
            float *dg = put(k, g, block_bytes(n, ld));
            double *dpacked = put(k, packed, (size + 1) * sizeof *packed);
            assert_int_equal(k->accumulate_packed(k, n, 0.3, dg, ld, dpacked, NULL), OUSAC_STATUS_OK);
            get(k, packed, dpacked, (size + 1) * sizeof *packed);
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j <= i; j++) {
                    const size_t place = i * (i + 1) / 2 + j;
                    assert_near(packed[place], (double)place + 0.3 * g[i * ld + j],
                                1e-12 * (double)(place + 10));
                }
            assert_true(packed[size] == (double)size);
            drop(k, dg), drop(k, dpacked);
            free(g), free(packed);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_match_their_formulas),
        cmocka_unit_test(activations_at_the_extremes),
        cmocka_unit_test(norm_modulate_matches_its_definition),
        cmocka_unit_test(norm_modulate_keeps_constant_rows_at_zero),
        cmocka_unit_test(norm_modulate_spreads_nan_over_its_row_only),
        cmocka_unit_test(differences_and_copies_are_exact),
        cmocka_unit_test(forecasts_lie_on_their_line),
        cmocka_unit_test(additions_match_their_definitions),
        cmocka_unit_test(gather_picks_by_index),
        cmocka_unit_test(accumulate_packed_adds_the_lower_triangle),
    };
    const int refused = backends_open();
    if (refused)
        return refused;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backends_close();
    return failed;
}
