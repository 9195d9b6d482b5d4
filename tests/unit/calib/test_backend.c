/* Every operation of the CPU backend against a naive double-precision reference, over odd shapes and leading
 * dimensions, with the kernels of every instruction set that this processor runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/backend.h"
#include "calib/kernels.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PAD_BYTE = 0x5a };

static ousac_backend backends[3];
static size_t backend_count;

static int list_backends(void **unused) {
    static const char *const limits[] = {"base", "avx2", "avx512"};
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        const ousac_kernels *kernels = ousac_kernels_choose(limits[i]);
        if (strcmp(kernels->isa, limits[i]) != 0) {
            print_message("skipped: no %s on this processor\n", limits[i]);
            continue;
        }
        backends[backend_count] = *ousac_backend_cpu();
        backends[backend_count++].state = (void *)(uintptr_t)kernels;
    }
    return backend_count == 0;
}

/* A (rows, ld) block whose bytes all stand for "untouched". */
static float *blank(size_t rows, size_t ld) {
    float *block = malloc((rows * ld + 1) * sizeof *block);
    assert_non_null(block);
    memset(block, PAD_BYTE, (rows * ld + 1) * sizeof *block);
    return block;
}

static float *filled(uint64_t *state, size_t rows, size_t ld) {
    float *block = blank(rows, ld);
    calib_fill(state, rows * ld, block);
    return block;
}

static int is_untouched(const float *value) {
    unsigned char bytes[sizeof *value];
    memcpy(bytes, value, sizeof bytes);
    return bytes[0] == PAD_BYTE && bytes[1] == PAD_BYTE && bytes[2] == PAD_BYTE && bytes[3] == PAD_BYTE;
}

/* Whatever lies between the columns and the leading dimension, and just behind the end, is not the backend's.
 */
static void assert_pad_untouched(const float *block, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = cols; j < ld; j++)
            assert_true(is_untouched(&block[i * ld + j]));
    assert_true(is_untouched(&block[rows * ld]));
}

static void assert_near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.9g: expected %.9g within %.3g", value, expected, tolerance);
}

static const size_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},    {2, 17, 33},  {64, 24, 192}, {65, 192, 24},
                                   {33, 8, 100}, {16, 16, 16}, {100, 1, 50}, {1, 100, 50},  {70, 129, 65}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* --- linear algebra --- */

static void linear_is_the_product(void **unused) {
    uint64_t state = 1;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 6; c++) {
        const size_t rows = shapes[c / 6][0], m = shapes[c / 6][1], n = shapes[c / 6][2];
        const size_t ldx = n + c % 3, ldw = n + c % 2, ldy = m + c % 4;
        const int mode = (int)(c % 6 / 2); /* bias, overwrite, add */
        const float beta = mode == 2 ? 0.75F : 0.0F;
        float *x = filled(&state, rows, ldx), *w = filled(&state, m, ldw), *bias = filled(&state, 1, m);
        float *y = blank(rows, ldy), *before = filled(&state, rows, m);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++)
                y[i * ldy + j] = mode == 2 ? before[i * m + j] : NAN; /* beta 0 never reads */
        assert_int_equal(backends[0].linear(&backends[0], rows, m, n, x, ldx, w, ldw, mode == 0 ? bias : NULL,
                                            beta, y, ldy, NULL),
                         OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++) {
                double expected = mode == 0 ? bias[j] : mode == 2 ? (double)beta * before[i * m + j] : 0;
                double size = fabs(expected) + 1;
                for (size_t k = 0; k < n; k++) {
                    expected += (double)x[i * ldx + k] * w[j * ldw + k];
                    size += fabs((double)x[i * ldx + k] * w[j * ldw + k]);
                }
                assert_near(y[i * ldy + j], expected, 1e-6 * size);
            }
        assert_pad_untouched(y, rows, m, ldy);
        free(x), free(w), free(bias), free(y), free(before);
    }
}

static void expand_is_the_product(void **unused) {
    uint64_t state = 2;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 2; c++) {
        const size_t rows = shapes[c / 2][0], m = shapes[c / 2][1], r = shapes[c / 2][2];
        const size_t ldx = r + c % 3, lda = m + c % 2, ldy = m + c % 5;
        const float beta = c % 2 ? 1.0F : 0.0F;
        float *x = filled(&state, rows, ldx), *a = filled(&state, r, lda), *before = filled(&state, rows, m);
        float *y = blank(rows, ldy);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++)
                y[i * ldy + j] = c % 2 ? before[i * m + j] : NAN;
        assert_int_equal(backends[0].expand(&backends[0], rows, m, r, x, ldx, a, lda, beta, y, ldy, NULL),
                         OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < m; j++) {
                double expected = c % 2 ? before[i * m + j] : 0, size = 1;
                for (size_t k = 0; k < r; k++) {
                    expected += (double)x[i * ldx + k] * a[k * lda + j];
                    size += fabs((double)x[i * ldx + k] * a[k * lda + j]);
                }
                assert_near(y[i * ldy + j], expected, 1e-6 * size);
            }
        assert_pad_untouched(y, rows, m, ldy);
        free(x), free(a), free(y), free(before);
    }
}

static void gram_fills_the_lower_triangle_only(void **unused) {
    uint64_t state = 3;
    (void)unused;
    for (size_t c = 0; c < SHAPES; c++) {
        const size_t rows = shapes[c][0], n = shapes[c][2], ldx = n + c % 3, ldg = n + c % 2;
        float *x = filled(&state, rows, ldx), *g = blank(n, ldg);
        assert_int_equal(backends[0].gram(&backends[0], rows, n, x, ldx, g, ldg, NULL), OUSAC_STATUS_OK);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double expected = 0, size = 1;
                for (size_t k = 0; k < rows; k++) {
                    expected += (double)x[k * ldx + i] * x[k * ldx + j];
                    size += fabs((double)x[k * ldx + i] * x[k * ldx + j]);
                }
                if (j <= i)
                    assert_near(g[i * ldg + j], expected, 1e-6 * size);
                else
                    assert_true(is_untouched(&g[i * ldg + j]));
            }
        assert_pad_untouched(g, n, n, ldg);
        free(x), free(g);
    }
}

static void gemm64_is_the_product(void **unused) {
    uint64_t state = 4;
    (void)unused;
    for (size_t c = 0; c < SHAPES * 4; c++) {
        const size_t rows = shapes[c / 4][0], cols = shapes[c / 4][1], inner = shapes[c / 4][2];
        const int ta = (int)(c & 1), tb = (int)(c >> 1 & 1);
        const size_t lda = (ta ? rows : inner) + c % 3, ldb = (tb ? inner : cols) + c % 2, ldc = cols + c % 5;
        const double alpha = -1.5, beta = c % 3 == 0 ? 0.0 : 0.5;
        double *a = malloc((ta ? inner : rows) * lda * sizeof *a),
               *b = malloc((tb ? cols : inner) * ldb * sizeof *b);
        double *product = malloc(rows * ldc * sizeof *product);
        for (size_t i = 0; i < (ta ? inner : rows) * lda; i++)
            a[i] = calib_normal(&state);
        for (size_t i = 0; i < (tb ? cols : inner) * ldb; i++)
            b[i] = calib_normal(&state);
        for (size_t i = 0; i < rows * ldc; i++)
            product[i] = beta == 0 ? NAN : 2.0;
        assert_int_equal(backends[0].gemm64(&backends[0], ta, tb, rows, cols, inner, alpha, a, lda, b, ldb,
                                            beta, product, ldc, NULL),
                         OUSAC_STATUS_OK);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < cols; j++) {
                double sum = 0;
                for (size_t k = 0; k < inner; k++)
                    sum += (ta ? a[k * lda + i] : a[i * lda + k]) * (tb ? b[j * ldb + k] : b[k * ldb + j]);
                assert_near(product[i * ldc + j], alpha * sum + beta * 2.0, 1e-12 * (double)(inner + 1));
            }
        free(a), free(b), free(product);
    }
}

static void empty_products_scale_only(void **unused) {
    const ousac_backend *b = &backends[0];
    const float bias[2] = {3, 4};
    float x = 0, y[4] = {1, 2, NAN, NAN};
    double wide = 0, z[4] = {1, 2, NAN, NAN};
    (void)unused;
    assert_int_equal(b->linear(b, 2, 2, 0, &x, 0, &x, 0, NULL, 0.0F, y, 2, NULL), OUSAC_STATUS_OK);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0 && y[3] == 0);
    assert_int_equal(b->linear(b, 2, 2, 0, &x, 0, &x, 0, bias, 0.0F, y, 2, NULL), OUSAC_STATUS_OK);
    assert_true(y[0] == 3 && y[1] == 4 && y[2] == 3 && y[3] == 4);
    assert_int_equal(b->expand(b, 2, 2, 0, &x, 0, &x, 2, 2.0F, y, 2, NULL), OUSAC_STATUS_OK);
    assert_true(y[0] == 6 && y[1] == 8 && y[2] == 6 && y[3] == 8);
    assert_int_equal(b->gemm64(b, 0, 0, 2, 2, 0, 1.0, &wide, 0, &wide, 2, 0.0, z, 2, NULL), OUSAC_STATUS_OK);
    assert_true(z[0] == 0 && z[1] == 0 && z[2] == 0 && z[3] == 0);
    y[1] = 7;
    assert_int_equal(b->gram(b, 0, 2, &x, 2, y, 2, NULL), OUSAC_STATUS_OK);
    assert_true(y[0] == 0 && y[1] == 7 && y[2] == 0 && y[3] == 0);
    assert_int_equal(b->linear(b, 0, 2, 2, &x, 2, &x, 2, NULL, 0.0F, y, 2, NULL), OUSAC_STATUS_OK);
    assert_int_equal(b->eigen64(b, 0, &wide, 0, &wide, NULL), OUSAC_STATUS_OK);
}

static void eigenpairs_agree_with_jacobi(void **unused) {
    static const size_t orders[] = {1, 2, 3, 7, 16, 33, 60};
    uint64_t state = 5;
    (void)unused;
    for (size_t c = 0; c < sizeof orders / sizeof *orders * 2; c++) {
        const size_t n = orders[c / 2], lda = n + c % 2 * 3;
        double *full = malloc(n * n * sizeof *full), *a = malloc(n * lda * sizeof *a),
               *scratch = malloc(n * n * 8);
        double *values = malloc(n * sizeof *values), *expected = malloc(n * sizeof *expected);
        double *vectors = malloc(n * n * sizeof *vectors);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                full[i * n + j] = full[j * n + i] = calib_normal(&state);
        for (size_t i = 0; i < n * lda; i++)
            a[i] = NAN; /* the upper triangle is not read */
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                a[i * lda + j] = full[i * n + j];
        memcpy(scratch, full, n * n * sizeof *full);
        calib_jacobi(n, scratch, expected, vectors);
        assert_int_equal(backends[0].eigen64(&backends[0], n, a, lda, values, NULL), OUSAC_STATUS_OK);
        for (size_t i = 0; i < n; i++) {
            size_t largest = 0;
            assert_near(values[i], expected[i], 1e-12 * (double)n);
            assert_true(i == 0 || values[i] <= values[i - 1]);
            for (size_t j = 0; j < n; j++) {
                double product = 0, dot = 0;
                for (size_t k = 0; k < n; k++) {
                    product += full[j * n + k] * a[i * lda + k];
                    dot += a[i * lda + k] * a[j * lda + k];
                }
                assert_near(product, values[i] * a[i * lda + j], 1e-11);
                assert_near(dot, i == j, 1e-12);
                if (fabs(a[i * lda + j]) > fabs(a[i * lda + largest]))
                    largest = j;
            }
            assert_true(a[i * lda + largest] > 0);
        }
        free(full), free(a), free(scratch), free(values), free(expected), free(vectors);
    }
}

static void eigen64_refuses_what_is_not_finite(void **unused) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    (void)unused;
    for (size_t k = 0; k < 3; k++)
        for (size_t place = 0; place < 9; place++) {
            double a[9] = {1, 0, 0, 0, 2, 0, 0, 0, 3}, values[3];
            ousac_error error = {0};
            a[place] = bad[k];
            const int in_lower = place % 3 <= place / 3;
            assert_int_equal(backends[0].eigen64(&backends[0], 3, a, 3, values, &error),
                             in_lower ? OUSAC_STATUS_NUMBER : OUSAC_STATUS_OK);
        }
}

static void eigen64_takes_zero_and_extreme_matrices(void **unused) {
    static const double scales[] = {0, 1e-300, 1e-30, 1e30, 1e150};
    (void)unused;
    for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
        double a[4] = {2 * scales[k], NAN, scales[k], 2 * scales[k]}, values[2];
        assert_int_equal(backends[0].eigen64(&backends[0], 2, a, 2, values, NULL), OUSAC_STATUS_OK);
        assert_near(values[0], 3 * scales[k], 1e-14 * scales[k]);
        assert_near(values[1], scales[k], 1e-14 * scales[k]);
    }
}

static void eigen64_reports_failed_allocations(void **unused) {
    long allowed = 0;
    (void)unused;
    for (;; allowed++) {
        double a[4] = {2, 0, 1, 2}, values[2];
        ousac_memory_fail_after(allowed);
        const ousac_status status = backends[0].eigen64(&backends[0], 2, a, 2, values, NULL);
        ousac_memory_fail_after(-1);
        if (status == OUSAC_STATUS_OK)
            break;
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
    }
    assert_int_equal(allowed, 2);
}

/* --- the exponential and what is built on it --- */

static double exact_gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void exponential_is_accurate_everywhere(void **unused) {
    enum { COUNT = 1 << 14 };
    static float x[COUNT], y[COUNT];
    (void)unused;
    for (size_t b = 0; b < backend_count; b++) {
        const ousac_kernels *kernels = backends[b].state;
        /* Every 1031st bit pattern: both signs, subnormals, infinities, NaN. */
        for (uint64_t first = 0; first < 1ULL << 32; first += (uint64_t)COUNT * 1031) {
            size_t count = 0;
            for (; count < COUNT && first + count * 1031 < 1ULL << 32; count++) {
                const uint32_t bits = (uint32_t)(first + count * 1031);
                memcpy(&x[count], &bits, sizeof bits);
            }
            kernels->exponential(count, x, y);
            for (size_t i = 0; i < count; i++) {
                const double exact = exp((double)x[i]);
                if (isnan(x[i]))
                    assert_true(isnan(y[i]));
                else if (exact > FLT_MAX * (1 + 3e-8))
                    assert_true(isinf(y[i]) && y[i] > 0);
                else if (exact >= FLT_MIN)
                    assert_near(y[i] / exact, 1, 2e-7);
                else
                    assert_near(y[i], exact, 1.41e-45);
            }
        }
    }
}

static void activations_match_their_formulas(void **unused) {
    enum { COUNT = 40001 };
    float *x = blank(1, COUNT), *y = blank(1, COUNT);
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (int in_place = 0; in_place < 2; in_place++)
            for (int which = 0; which < 2; which++) {
                for (size_t i = 0; i < COUNT; i++)
                    y[i] = x[i] = (float)((double)i / 1000 - 20);
                assert_int_equal(which
                                     ? backends[b].silu(&backends[b], COUNT, in_place ? y : x, y, NULL)
                                     : backends[b].gelu_tanh(&backends[b], COUNT, in_place ? y : x, y, NULL),
                                 OUSAC_STATUS_OK);
                for (size_t i = 0; i < COUNT; i++) {
                    const double exact = which ? x[i] / (1 + exp(-(double)x[i])) : exact_gelu(x[i]);
                    assert_near(y[i], exact, 1e-6 * fabs(exact) + 3e-9);
                }
                assert_pad_untouched(y, 1, COUNT, COUNT);
            }
    free(x), free(y);
}

static void activations_at_the_extremes(void **unused) {
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (int which = 0; which < 2; which++) {
            /* 19 elements: vector body and tail both see every kind. */
            float x[19], y[19];
            const float kinds[] = {NAN, INFINITY, -INFINITY, 3e38F, -3e38F, 0.0F, -0.0F, 1e-40F};
            for (size_t shift = 0; shift < 8; shift++) {
                for (size_t i = 0; i < 19; i++)
                    x[i] = kinds[(i + shift) % 8];
                (void)(which ? backends[b].silu(&backends[b], 19, x, y, NULL)
                             : backends[b].gelu_tanh(&backends[b], 19, x, y, NULL));
                for (size_t i = 0; i < 19; i++)
                    switch ((i + shift) % 8) {
                    case 0:
                        assert_true(isnan(y[i]));
                        break;
                    case 1:
                        assert_true(isinf(y[i]) && y[i] > 0);
                        break;
                    case 2:
                        assert_true(isnan(y[i]));
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

static void softmax_rows_are_distributions(void **unused) {
    static const size_t widths[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 257};
    uint64_t state = 6;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof widths / sizeof *widths; c++) {
            const ousac_kernels *kernels = backends[b].state;
            const size_t rows = 5, cols = widths[c], ld = cols + c % 3;
            float *x = blank(rows, ld), *before = blank(rows, cols);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < cols; j++)
                    before[i * cols + j] = x[i * ld + j] =
                        (float)(calib_normal(&state) * (i == 4 ? 60 : 3) + 500);
            kernels->softmax(rows, cols, x, ld);
            for (size_t i = 0; i < rows; i++) {
                double most = -INFINITY, sum = 0;
                for (size_t j = 0; j < cols; j++)
                    most = fmax(most, before[i * cols + j]);
                for (size_t j = 0; j < cols; j++)
                    sum += exp(before[i * cols + j] - most);
                for (size_t j = 0; j < cols; j++) {
                    const double exact = exp(before[i * cols + j] - most) / sum;
                    assert_near(x[i * ld + j], exact, 1e-6 * exact + 2e-45);
                }
            }
            assert_pad_untouched(x, rows, cols, ld);
            /* One bad element anywhere spoils its row and no other. */
            for (size_t j = 0; j < cols; j++) {
                for (size_t i = 0; i < rows * cols; i++)
                    x[i] = before[i];
                x[2 * cols + j] = j % 2 ? NAN : INFINITY;
                kernels->softmax(rows, cols, x, cols);
                for (size_t i = 0; i < rows * cols; i++)
                    assert_true(isnan(x[i]) == (i / cols == 2));
            }
            free(x), free(before);
        }
}

static void attention_matches_its_definition(void **unused) {
    /* batch, tokens, heads, head width; 1100 tokens make several blocks of rows. */
    static const size_t cases[][4] = {{1, 1, 1, 1},  {2, 5, 3, 7},    {1, 16, 2, 64}, {3, 33, 4, 16},
                                      {1, 64, 1, 8}, {1, 1100, 1, 8}, {2, 400, 2, 5}};
    uint64_t state = 7;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            const size_t batch = cases[c][0], tokens = cases[c][1], heads = cases[c][2], width = cases[c][3];
            const size_t d = heads * width, ld = 3 * d + c % 3, ld_out = d + c % 2;
            float *qkv = filled(&state, batch * tokens, ld), *out = blank(batch * tokens, ld_out);
            float *work = blank(tokens, tokens);
            double *score = malloc(tokens * sizeof *score);
            assert_int_equal(backends[b].attention(&backends[b], batch, tokens, heads, width, qkv, qkv + d,
                                                   qkv + 2 * d, ld, out, ld_out, work, NULL),
                             OUSAC_STATUS_OK);
            for (size_t i = 0; i < batch * tokens; i++)
                for (size_t h = 0; h < heads; h++) {
                    const size_t origin = i / tokens * tokens;
                    double most = -INFINITY, sum = 0;
                    for (size_t j = 0; j < tokens; j++) {
                        score[j] = 0;
                        for (size_t k = 0; k < width; k++)
                            score[j] += (double)qkv[i * ld + h * width + k] *
                                        qkv[(origin + j) * ld + d + h * width + k];
                        score[j] /= sqrt((double)width);
                        most = fmax(most, score[j]);
                    }
                    for (size_t j = 0; j < tokens; j++)
                        sum += score[j] = exp(score[j] - most);
                    for (size_t k = 0; k < width; k++) {
                        double expected = 0;
                        for (size_t j = 0; j < tokens; j++)
                            expected += score[j] / sum * qkv[(origin + j) * ld + 2 * d + h * width + k];
                        assert_near(out[i * ld_out + h * width + k], expected, 4e-6);
                    }
                }
            assert_pad_untouched(out, batch * tokens, d, ld_out);
            assert_true(is_untouched(&work[tokens * tokens]));
            free(qkv), free(out), free(work), free(score);
        }
}

/* --- elementwise --- */

static void norm_modulate_matches_its_definition(void **unused) {
    static const size_t widths[] = {1, 2, 15, 16, 31, 32, 33, 64, 72, 192, 257};
    uint64_t state = 8;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof widths / sizeof *widths * 3; c++) {
            const size_t d = widths[c / 3], rows = 12, group = c % 3 == 0 ? 1 : c % 3 == 1 ? 4 : 5;
            const size_t ld = 6 * d + 1, groups = (rows + group - 1) / group;
            const int plain = c % 5 == 4;
            const double eps = 1e-6;
            float *x = filled(&state, rows, d), *mod = filled(&state, groups, ld), *y = blank(rows, d);
            for (size_t i = 0; i < rows * d; i++)
                x[i] = x[i] * (i / d % 2 ? 0.01F : 3.0F) + (i / d % 3 ? 50.0F : 0.0F);
            assert_int_equal(backends[b].norm_modulate(&backends[b], rows, d, x, (float)eps,
                                                       plain ? NULL : mod, plain ? NULL : mod + d, group, ld,
                                                       y, NULL),
                             OUSAC_STATUS_OK);
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
            free(x), free(mod), free(y);
        }
}

/* Constant rows far from zero, where a one-pass variance would be negative. */
static void norm_modulate_keeps_constant_rows_at_zero(void **unused) {
    static float x[4 * 100], y[4 * 100];
    (void)unused;
    for (size_t i = 0; i < 400; i++)
        x[i] = i / 100 == 0 ? 0 : i / 100 == 1 ? 1e6F : i / 100 == 2 ? -0.1F : 1e18F;
    for (size_t b = 0; b < backend_count; b++) {
        assert_int_equal(backends[b].norm_modulate(&backends[b], 4, 100, x, 1e-6F, NULL, NULL, 1, 0, y, NULL),
                         OUSAC_STATUS_OK);
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
    for (size_t b = 0; b < backend_count; b++)
        for (size_t place = 50; place < 100; place += 7) {
            calib_fill(&state, 150, x);
            x[place] = place % 2 ? NAN : INFINITY;
            (void)backends[b].norm_modulate(&backends[b], 3, 50, x, 1e-6F, NULL, NULL, 1, 0, y, NULL);
            for (size_t i = 0; i < 150; i++)
                assert_true(isnan(y[i]) == (i / 50 == 1));
        }
}

static void simple_kernels_match_their_definitions(void **unused) {
    static const size_t sizes[][2] = {{1, 1}, {3, 15}, {6, 16}, {2, 17}, {4, 33}, {6, 100}, {12, 192}};
    uint64_t state = 10;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
            const ousac_backend *k = &backends[b];
            const size_t rows = sizes[c][0], d = sizes[c][1], ldu = d + c % 3, ldv = d + c % 2, ldy = d + 1;
            float *u = filled(&state, rows, ldu), *v = filled(&state, rows, ldv), *y = blank(rows, ldy);
            float *gate = filled(&state, rows, d + 2), *dense = filled(&state, rows, d),
                  *old = blank(rows, d);
            uint32_t *index = malloc(rows * sizeof *index);
            assert_int_equal(k->subtract(k, rows, d, u, ldu, v, ldv, y, ldy, NULL), OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < d; j++)
                    assert_true(y[i * ldy + j] == u[i * ldu + j] - v[i * ldv + j]);
            assert_pad_untouched(y, rows, d, ldy);
            for (size_t i = 0; i < rows; i++)
                index[i] = (uint32_t)(rows - 1 - i / 2);
            assert_int_equal(k->subtract_rows(k, rows, d, index, u, ldu, v, ldv, y, ldy, NULL),
                             OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < d; j++)
                    assert_true(y[i * ldy + j] == u[index[i] * ldu + j] - v[index[i] * ldv + j]);
            assert_pad_untouched(y, rows, d, ldy);
            assert_int_equal(k->extrapolate(k, rows, d, 1.25F, u, ldu, v, ldv, y, ldy, NULL),
                             OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < d; j++) {
                    const double a = (double)u[i * ldu + j], e = a + 1.25 * (a - (double)v[i * ldv + j]);
                    assert_true(fabs((double)y[i * ldy + j] - e) <= 4e-7 * (fabs(a) + fabs(e)));
                }
            assert_pad_untouched(y, rows, d, ldy);
            assert_int_equal(k->copy(k, rows, d, v, ldv, y, ldy, NULL), OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows; i++)
                assert_memory_equal(y + i * ldy, v + i * ldv, d * sizeof *y);
            assert_pad_untouched(y, rows, d, ldy);
            memcpy(old, dense, rows * d * sizeof *old);
            const size_t group = c % 2 ? 1 : 3;
            assert_int_equal(k->add_gated(k, rows, d, dense, u, gate, group, d + 2, NULL), OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows * d; i++)
                assert_near(dense[i], old[i] + (double)gate[i / d / group * (d + 2) + i % d] * u[i],
                            1e-6 * 16);
            assert_pad_untouched(dense, rows, d, d);
            memcpy(old, dense, rows * d * sizeof *old);
            assert_int_equal(k->axpy(k, rows * d, -2.5F, u, dense, NULL), OUSAC_STATUS_OK);
            for (size_t i = 0; i < rows * d; i++)
                assert_near(dense[i], old[i] - 2.5 * u[i], 1e-6 * 32);
            assert_pad_untouched(dense, rows, d, d);
            free(u), free(v), free(y), free(gate), free(dense), free(old), free(index);
        }
}

static void gather_picks_by_index(void **unused) {
    const ousac_backend *k = &backends[0];
    uint64_t state = 11;
    (void)unused;
    float *x = filled(&state, 3, 50), *y = blank(3, 31);
    uint32_t index[29];
    for (size_t i = 0; i < 29; i++)
        index[i] = (uint32_t)calib_below(&state, 50);
    assert_int_equal(k->gather(k, 3, 29, index, x, 50, y, 31, NULL), OUSAC_STATUS_OK);
    for (size_t b = 0; b < 3; b++)
        for (size_t i = 0; i < 29; i++)
            assert_true(y[b * 31 + i] == x[b * 50 + index[i]]);
    assert_pad_untouched(y, 3, 29, 31);
    free(x), free(y);
}

/* --- reductions --- */

static void sums_of_squares_are_exact_to_double(void **unused) {
    static const size_t sizes[][3] = {{1, 1, 1},  {6, 15, 2},   {6, 16, 3},
                                      {4, 17, 1}, {12, 100, 4}, {64, 192, 64}};
    uint64_t state = 12;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
            const ousac_backend *k = &backends[b];
            const size_t rows = sizes[c][0], cols = sizes[c][1], group = sizes[c][2];
            const size_t lda = cols + c % 3, ldb = cols + c % 2;
            float *x = filled(&state, rows, lda), *z = filled(&state, rows, ldb);
            double *one = calloc(rows, sizeof *one), *two = calloc(rows, sizeof *two);
            one[0] = 5; /* sums are added to what is there */
            assert_int_equal(k->sum_squares(k, rows, cols, x, lda, group, one, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->sum_squares_diff(k, rows, cols, x, lda, z, ldb, group, two, NULL),
                             OUSAC_STATUS_OK);
            for (size_t g = 0; g < rows / group; g++) {
                double square = g == 0 ? 5 : 0, difference = 0;
                for (size_t i = g * group; i < (g + 1) * group; i++)
                    for (size_t j = 0; j < cols; j++) {
                        const double delta = (double)x[i * lda + j] - (double)z[i * ldb + j];
                        square += (double)x[i * lda + j] * x[i * lda + j];
                        difference += delta * delta;
                    }
                assert_near(one[g], square, 1e-12 * square);
                assert_near(two[g], difference, 1e-12 * difference);
            }
            free(x), free(z), free(one), free(two);
        }
}

static void column_sums_of_absolute_values_are_exact_to_double(void **unused) {
    static const size_t sizes[][3] = {{1, 1, 1},  {6, 15, 2},   {6, 16, 3},
                                      {4, 17, 1}, {12, 100, 4}, {64, 192, 64}};
    uint64_t state = 16;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
            const ousac_backend *k = &backends[b];
            const size_t rows = sizes[c][0], cols = sizes[c][1], group = sizes[c][2];
            const size_t lda = cols + c % 3, ldb = cols + c % 2, groups = rows / group;
            float *x = filled(&state, rows, lda), *z = filled(&state, rows, ldb);
            double *one = calloc(groups * cols + 1, sizeof *one), *two = calloc(groups * cols, sizeof *two);
            one[0] = 5; /* sums are added to what is there */
            one[groups * cols] = 7;
            assert_int_equal(k->sum_abs_columns(k, rows, cols, x, lda, group, one, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->sum_abs_columns_diff(k, rows, cols, x, lda, z, ldb, group, two, NULL),
                             OUSAC_STATUS_OK);
            for (size_t g = 0; g < groups; g++)
                for (size_t j = 0; j < cols; j++) {
                    double sum = g + j == 0 ? 5 : 0, difference = 0;
                    for (size_t i = g * group; i < (g + 1) * group; i++) {
                        const double value = x[i * lda + j], delta = value - (double)z[i * ldb + j];
                        sum += value < 0 ? -value : value;
                        difference += delta < 0 ? -delta : delta;
                    }
                    assert_near(one[g * cols + j], sum, 1e-13 * sum);
                    assert_near(two[g * cols + j], difference, 1e-13 * difference);
                }
            assert_true(one[groups * cols] == 7);
            free(x), free(z), free(one), free(two);
        }
}

static void accumulate_packed_adds_the_lower_triangle(void **unused) {
    static const size_t orders[] = {1, 2, 17, 64};
    uint64_t state = 13;
    (void)unused;
    for (size_t b = 0; b < backend_count; b++)
        for (size_t c = 0; c < 4; c++) {
            const size_t n = orders[c], ld = n + c;
            float *g = filled(&state, n, ld);
            double *packed = malloc((n * (n + 1) / 2 + 1) * sizeof *packed);
            for (size_t i = 0; i <= n * (n + 1) / 2; i++)
                packed[i] = (double)i;
            for (size_t i = 0; i < n; i++)
                for (size_t j = i + 1; j < n; j++)
                    g[i * ld + j] = NAN;
            assert_int_equal(backends[b].accumulate_packed(&backends[b], n, 0.3, g, ld, packed, NULL),
                             OUSAC_STATUS_OK);
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j <= i; j++) {
                    const size_t place = i * (i + 1) / 2 + j;
                    assert_near(packed[place], (double)place + 0.3 * g[i * ld + j],
                                1e-12 * (double)(place + 10));
                }
            assert_true(packed[n * (n + 1) / 2] == (double)(n * (n + 1) / 2));
            free(g), free(packed);
        }
}

static void all_finite_finds_one_bad_value_anywhere(void **unused) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)unused;
    for (size_t b = 0; b < backend_count; b++) {
        float x[3 * 40];
        int finite = 0;
        for (size_t i = 0; i < 120; i++)
            x[i] = i % 40 < 37 ? (i % 2 ? FLT_MAX : 1e-42F) : NAN; /* the pad may be anything */
        assert_int_equal(backends[b].all_finite(&backends[b], 3, 37, x, 40, &finite, NULL), OUSAC_STATUS_OK);
        assert_int_equal(finite, 1);
        for (size_t i = 0; i < 120; i++) {
            if (i % 40 >= 37)
                continue;
            const float before = x[i];
            x[i] = bad[i % 3];
            assert_int_equal(backends[b].all_finite(&backends[b], 3, 37, x, 40, &finite, NULL),
                             OUSAC_STATUS_OK);
            assert_int_equal(finite, 0);
            x[i] = before;
        }
        assert_int_equal(backends[b].all_finite(&backends[b], 0, 0, x, 0, &finite, NULL), OUSAC_STATUS_OK);
        assert_int_equal(finite, 1);
    }
}

/* --- what holds across the table --- */

/* A run's numbers must not depend on which of these kernels the processor got. */
static void instruction_sets_agree_bit_for_bit(void **unused) {
    enum { ROWS = 7, COLS = 203, COUNT = ROWS * COLS };
    uint64_t state = 14;
    static float x[COUNT], z[COUNT], mod[COUNT], y[2][5][COUNT];
    double sums[2][2], columns[2][2][COLS] = {{{0}}};
    (void)unused;
    if (backend_count < 2)
        skip();
    calib_fill(&state, COUNT, x);
    calib_fill(&state, COUNT, z);
    calib_fill(&state, COUNT, mod);
    for (size_t b = 1; b < backend_count; b++) {
        for (size_t which = 0; which < 2; which++) {
            const ousac_kernels *k = backends[which == 0 ? 0 : b].state;
            k->exponential(COUNT, x, y[which][0]);
            k->gelu_tanh(COUNT, x, y[which][1]);
            k->norm_modulate(ROWS, COLS, x, 1e-6F, mod, z, 3, COLS, y[which][2]);
            memcpy(y[which][3], x, sizeof x);
            k->softmax(ROWS, COLS, y[which][3], COLS);
            memcpy(y[which][4], z, sizeof z);
            k->add_gated(ROWS, COLS, y[which][4], x, mod, 2, COLS);
            sums[which][0] = k->sum_squares(ROWS, COLS, x, COLS);
            sums[which][1] = k->sum_squares_diff(ROWS, COLS, x, COLS, z, COLS);
            memset(columns[which], 0, sizeof columns[which]);
            k->sum_abs_columns(ROWS, COLS, x, COLS, columns[which][0]);
            k->sum_abs_columns_diff(ROWS, COLS, x, COLS, z, COLS, columns[which][1]);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        assert_memory_equal(columns[0], columns[1], sizeof columns[0]);
    }
}

typedef struct worker {
    const float *x, *w;
    float y[64 * 48], scores[64 * 64], attended[64 * 32];
    double eigen[24 * 24], values[24];
} worker;

static void *work_alone(void *argument) {
    worker *job = argument;
    const ousac_backend *k = ousac_backend_cpu();
    for (int repeat = 0; repeat < 20; repeat++) {
        (void)k->linear(k, 64, 48, 96, job->x, 96, job->w, 96, job->w, 0.0F, job->y, 48, NULL);
        (void)k->attention(k, 1, 64, 2, 16, job->x, job->x + 32, job->x + 64, 96, job->attended, 32,
                           job->scores, NULL);
        for (size_t i = 0; i < 24 * 24; i++)
            job->eigen[i] = job->x[i];
        (void)k->eigen64(k, 24, job->eigen, 24, job->values, NULL);
    }
    return NULL;
}

static void threads_do_not_disturb_each_other(void **unused) {
    enum { THREADS = 4 };
    uint64_t state = 15;
    pthread_t threads[THREADS];
    worker *jobs = calloc(THREADS + 1, sizeof *jobs);
    float *x = filled(&state, 64, 96), *w = filled(&state, 48, 96);
    (void)unused;
    assert_non_null(jobs);
    for (size_t t = 0; t <= THREADS; t++) {
        jobs[t].x = x;
        jobs[t].w = w;
    }
    (void)work_alone(&jobs[THREADS]);
    for (size_t t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, work_alone, &jobs[t]), 0);
    for (size_t t = 0; t < THREADS; t++)
        assert_int_equal(pthread_join(threads[t], NULL), 0);
    for (size_t t = 0; t < THREADS; t++)
        assert_memory_equal(&jobs[t], &jobs[THREADS], sizeof *jobs);
    free(x), free(w), free(jobs);
}

static void misuse_is_reported(void **unused) {
    const ousac_backend *k = &backends[0];
    const size_t huge = (size_t)INT_MAX + 1;
    float x[16] = {0}, y[16] = {0};
    double wide[16] = {0};
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(k->linear(k, 2, 2, 3, x, 2, x, 3, NULL, 0, y, 2, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "linear"));
    assert_int_equal(k->linear(k, 2, 2, 2, x, 2, x, 2, x, 1.0F, y, 2, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->linear(k, huge, 1, 1, x, 1, x, 1, NULL, 0, y, 1, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->linear(k, 1, 1, 1, x, huge, x, 1, NULL, 0, y, 1, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->linear(k, SIZE_MAX, 2, 2, x, SIZE_MAX, x, 2, NULL, 0, y, 2, &error),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(k->expand(k, 2, 3, 2, x, 2, x, 2, 0, y, 3, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->expand(k, 1, huge, 1, x, 1, x, huge, 0, y, huge, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->gram(k, 2, 3, x, 3, y, 2, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->gram(k, huge, 1, x, 1, y, 1, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->gemm64(k, 1, 0, 3, 2, 2, 1, wide, 2, wide, 2, 0, wide, 2, &error),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(k->gemm64(k, 0, 0, 1, 1, huge, 1, wide, huge, wide, 1, 0, wide, 1, &error),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(k->eigen64(k, 3, wide, 2, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->eigen64(k, 46340, wide, 46340, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->norm_modulate(k, 2, 2, x, 0, x, NULL, 1, 2, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->norm_modulate(k, 2, 2, x, 0, x, x, 0, 2, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->norm_modulate(k, 2, 2, x, 0, x, x, 1, 1, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->add_gated(k, 2, 2, x, y, x, 0, 2, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->attention(k, 1, 2, 2, 2, x, x, x, 3, y, 4, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->attention(k, 1, 2, SIZE_MAX / 2, 3, x, x, x, 3, y, 4, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->attention(k, 1, 1, 1, huge, x, x, x, huge, y, huge, y, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->subtract(k, 2, 3, x, 2, x, 3, y, 3, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->copy(k, 2, 3, x, 3, y, 2, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_squares(k, 4, 3, x, 3, 3, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_squares(k, 4, 3, x, 3, 0, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_squares_diff(k, 4, 3, x, 3, x, 2, 2, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_abs_columns(k, 4, 3, x, 3, 3, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_abs_columns(k, 4, 3, x, 2, 2, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_abs_columns_diff(k, 4, 3, x, 3, x, 2, 2, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->sum_abs_columns_diff(k, 4, 3, x, 3, x, 3, 0, wide, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(k->accumulate_packed(k, 3, 1, x, 2, wide, &error), OUSAC_STATUS_USAGE);
}

static void the_limit_narrows_the_instruction_set(void **unused) {
    (void)unused;
    assert_string_equal(ousac_kernels_choose("base")->isa, "base");
    assert_true(strcmp(ousac_kernels_choose("avx2")->isa, "avx512") != 0);
    assert_ptr_equal(ousac_kernels_choose(NULL), ousac_kernels_choose("avx512"));
    assert_ptr_equal(ousac_kernels_choose(NULL), ousac_kernels_choose("nonsense"));
    assert_non_null(strstr(ousac_backend_cpu()->detail, "kernels"));
    assert_string_equal(ousac_backend_cpu()->name, "cpu");
}

static void memory_is_aligned_and_copied(void **unused) {
    const ousac_backend *k = &backends[0];
    const char text[] = "seven bytes";
    char back[sizeof text];
    (void)unused;
    void *block = k->alloc(k, sizeof text, 1);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % 64, 0);
    assert_int_equal(k->upload(k, block, text, sizeof text, NULL), OUSAC_STATUS_OK);
    assert_int_equal(k->download(k, back, block, sizeof text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(back, text);
    k->release(k, block);
    k->release(k, NULL);
    assert_null(k->alloc(k, SIZE_MAX / 2, 8));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_product),
        cmocka_unit_test(expand_is_the_product),
        cmocka_unit_test(gram_fills_the_lower_triangle_only),
        cmocka_unit_test(gemm64_is_the_product),
        cmocka_unit_test(empty_products_scale_only),
        cmocka_unit_test(eigenpairs_agree_with_jacobi),
        cmocka_unit_test(eigen64_refuses_what_is_not_finite),
        cmocka_unit_test(eigen64_takes_zero_and_extreme_matrices),
        cmocka_unit_test(eigen64_reports_failed_allocations),
        cmocka_unit_test(exponential_is_accurate_everywhere),
        cmocka_unit_test(activations_match_their_formulas),
        cmocka_unit_test(activations_at_the_extremes),
        cmocka_unit_test(softmax_rows_are_distributions),
        cmocka_unit_test(attention_matches_its_definition),
        cmocka_unit_test(norm_modulate_matches_its_definition),
        cmocka_unit_test(norm_modulate_keeps_constant_rows_at_zero),
        cmocka_unit_test(norm_modulate_spreads_nan_over_its_row_only),
        cmocka_unit_test(simple_kernels_match_their_definitions),
        cmocka_unit_test(gather_picks_by_index),
        cmocka_unit_test(sums_of_squares_are_exact_to_double),
        cmocka_unit_test(column_sums_of_absolute_values_are_exact_to_double),
        cmocka_unit_test(accumulate_packed_adds_the_lower_triangle),
        cmocka_unit_test(all_finite_finds_one_bad_value_anywhere),
        cmocka_unit_test(instruction_sets_agree_bit_for_bit),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(misuse_is_reported),
        cmocka_unit_test(the_limit_narrows_the_instruction_set),
        cmocka_unit_test(memory_is_aligned_and_copied),
    };
    return cmocka_run_group_tests(tests, list_backends, NULL);
}
