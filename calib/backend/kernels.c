#include "calib/backend/kernels.h"

#include "calib/backend/products.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef OUSAC_ISA
#error "compile with -DOUSAC_ISA=base|avx2|avx512"
#endif
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)

/* Two AVX-512 registers, four of AVX2, eight of SSE2: hides the latency of an addition on all of them. */
enum { LANES = 32, LANES64 = 16 };

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The larger and the smaller of two numbers, b where either is NaN. By masks, since a compiler that honours
 * traps keeps a conditional on floats as a branch, which does not vectorise. */
static inline float most(float a, float b) {
    const uint32_t mask = 0U - (uint32_t)(a > b);
    return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

static inline float least(float a, float b) {
    const uint32_t mask = 0U - (uint32_t)(a < b);
    return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

/* exp(x) = 2^k exp(r), k = round(x / ln 2), |r| <= ln(2)/2 (1 + small). ln 2 is split (Cody and Waite,
 * "Software Manual for the Elementary Functions", 1980) so that k * LN2_HIGH is exact; exp(r) is its Taylor
 * polynomial of degree 7, truncated at r^8/8! < 5.3e-9. k leaves the addition of 1.5 * 2^23 as an integer in
 * the low mantissa bits, which stays defined for NaN where a conversion would not. 2^k is applied in two
 * factors, so that results that are subnormal or overflow round once. */
static inline float exp_one(float x) {
    const float shifter = 12582912.0F;
    const float ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F;
    const float clamped = least(89.0F, most(-104.0F, x));
    const float shifted = clamped * 1.44269504F + shifter;
    const float k = shifted - shifter;
    const float r = (clamped - k * ln2_high) - k * ln2_low;
    float q = 1.98412698e-4F;
    q = q * r + 1.38888889e-3F;
    q = q * r + 8.33333333e-3F;
    q = q * r + 4.16666667e-2F;
    q = q * r + 1.66666667e-1F;
    q = q * r + 0.5F;
    const float p = (r * r) * q + r + 1.0F;
    /* k + 256 >= 106 is positive here, so halving it is a shift. */
    const uint32_t biased = bits_of(shifted) - bits_of(shifter) + 256U;
    const uint32_t half = biased >> 1;
    const uint32_t rest = biased - half;
    /* half - 128 and rest - 128 are the two exponents; 127 is the bias of binary32. */
    return (p * float_of((half - 1U) << 23)) * float_of((rest - 1U) << 23);
}

static inline float gelu_one(float x) {
    const float two_root = 1.59576912F; /* 2 sqrt(2/pi) */
    const float u = two_root * (x + 0.044715F * (x * x * x));
    return x / (1.0F + exp_one(-u));
}

static inline float silu_one(float x) {
    return x / (1.0F + exp_one(-x));
}

/* Two loops each: an overlap test at run time would send y == x to scalar code. */
static void exponential(size_t count, const float *x, float *y) {
    if (x == y) {
        for (size_t i = 0; i < count; i++)
            y[i] = exp_one(y[i]);
        return;
    }
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t i = 0; i < count; i++)
        target[i] = exp_one(source[i]);
}

static void gelu_tanh(size_t count, const float *x, float *y) {
    if (x == y) {
        for (size_t i = 0; i < count; i++)
            y[i] = gelu_one(y[i]);
        return;
    }
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t i = 0; i < count; i++)
        target[i] = gelu_one(source[i]);
}

static void silu(size_t count, const float *x, float *y) {
    if (x == y) {
        for (size_t i = 0; i < count; i++)
            y[i] = silu_one(y[i]);
        return;
    }
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t i = 0; i < count; i++)
        target[i] = silu_one(source[i]);
}

/* Pairwise, in an order that does not depend on the instruction set. */
static inline float add_lanes(const float lanes[LANES]) {
    float part[LANES];
    memcpy(part, lanes, sizeof part);
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t l = 0; l < width; l++)
            part[l] += part[l + width];
    return part[0];
}

static inline double add_lanes64(const double lanes[LANES64]) {
    double part[LANES64];
    memcpy(part, lanes, sizeof part);
    for (size_t width = LANES64 / 2; width > 0; width /= 2)
        for (size_t l = 0; l < width; l++)
            part[l] += part[l + width];
    return part[0];
}

static inline float row_sum(size_t count, const float *x) {
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += x[i + l];
    float rest = 0;
    for (; i < count; i++)
        rest += x[i];
    return add_lanes(lanes) + rest;
}

/* NaN elements may be passed over: they come back through the exponential. */
static inline float row_max(size_t count, const float *x) {
    float lanes[LANES];
    for (size_t l = 0; l < LANES; l++)
        lanes[l] = x[0];
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] = most(x[i + l], lanes[l]);
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t l = 0; l < width; l++)
            lanes[l] = most(lanes[l + width], lanes[l]);
    float result = lanes[0];
    for (; i < count; i++)
        result = most(x[i], result);
    return result;
}

static void softmax(size_t rows, size_t cols, float *x, size_t ldx) {
    for (size_t i = 0; i < rows && cols > 0; i++) {
        float *row = x + i * ldx;
        const float peak = row_max(cols, row);
        for (size_t j = 0; j < cols; j++)
            row[j] = exp_one(row[j] - peak);
        const float inverse = 1.0F / row_sum(cols, row);
        for (size_t j = 0; j < cols; j++)
            row[j] *= inverse;
    }
}

static void softmax_part(size_t rows, size_t cols, float *x, size_t ldx, float *peak, float *sum,
                         float *shrink) {
    for (size_t i = 0; i < rows && cols > 0; i++) {
        float *row = x + i * ldx;
        const float before = peak[i], now = most(row_max(cols, row), before);
        /* Of values that are all -inf so far the exponentials are 0, not NaN: others may follow. */
        const float level = now == -INFINITY ? 0.0F : now;
        for (size_t j = 0; j < cols; j++)
            row[j] = exp_one(row[j] - level);
        shrink[i] = exp_one(before - level);
        sum[i] = sum[i] * shrink[i] + row_sum(cols, row);
        peak[i] = now;
    }
}

static void scale_rows(size_t rows, size_t cols, const float *factor, const float *x, size_t ldx, float *y,
                       size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        const float by = factor[i];
        if (x + i * ldx == y + i * ldy) {
            for (size_t j = 0; j < cols; j++)
                y[i * ldy + j] *= by;
            continue;
        }
        const float *restrict source = x + i * ldx;
        float *restrict target = y + i * ldy;
        for (size_t j = 0; j < cols; j++)
            target[j] = by * source[j];
    }
}

/* Two passes. The second also sums the centred values, whose mean is the rounding error of the first mean. */
static inline void row_moments(size_t d, const float *x, float *mean, float *correction, float *variance) {
    const float centre = row_sum(d, x) / (float)d;
    float squares[LANES] = {0}, sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= d; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            const float centred = x[i + l] - centre;
            squares[l] += centred * centred;
            sums[l] += centred;
        }
    float square = 0, sum = 0;
    for (; i < d; i++) {
        const float centred = x[i] - centre;
        square += centred * centred;
        sum += centred;
    }
    *mean = centre;
    *correction = (add_lanes(sums) + sum) / (float)d;
    *variance = (add_lanes(squares) + square) / (float)d - *correction * *correction;
}

static inline float row_squares(size_t count, const float *x) {
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += x[i + l] * x[i + l];
    float rest = 0;
    for (; i < count; i++)
        rest += x[i] * x[i];
    return add_lanes(lanes) + rest;
}

/* One head, scaled into y. Two loops each, as above. */
static inline void scale_head(size_t d, const float *x, float inverse, const float *weight, float *y) {
    if (x == y) {
        for (size_t j = 0; j < d; j++)
            y[j] = y[j] * inverse * weight[j];
        return;
    }
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t j = 0; j < d; j++)
        target[j] = source[j] * inverse * weight[j];
}

static inline void turn_head(size_t d, const float *x, const float *restrict turn, float *y) {
    if (x == y) {
        for (size_t j = 0; j < d; j += 2) {
            const float even = y[j], odd = y[j + 1];
            y[j] = even * turn[j] - odd * turn[j + 1];
            y[j + 1] = odd * turn[j] + even * turn[j + 1];
        }
        return;
    }
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t j = 0; j < d; j += 2) {
        const float even = source[j], odd = source[j + 1];
        target[j] = even * turn[j] - odd * turn[j + 1];
        target[j + 1] = odd * turn[j] + even * turn[j + 1];
    }
}

static void rotate_heads(size_t rows, size_t heads, size_t head_dim, const float *x, size_t ldx, float eps,
                         const float *weight, const float *table, size_t positions, float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < heads; h++) {
            const float *source = x + i * ldx + h * head_dim;
            float *target = y + i * ldy + h * head_dim;
            if (weight != NULL) {
                const float mean = row_squares(head_dim, source) / (float)head_dim;
                scale_head(head_dim, source, 1.0F / sqrtf(mean + eps), weight, target);
                source = target;
            } else if (table == NULL && source != target) {
                memcpy(target, source, head_dim * sizeof *target);
            }
            if (table != NULL)
                turn_head(head_dim, source, table + i % positions * head_dim, target);
        }
}

static void norm_modulate(size_t rows, size_t d, const float *x, float eps, const float *shift,
                          const float *scale, size_t rows_per_group, size_t ld_mod, float *y) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict source = x + i * d;
        float *restrict target = y + i * d;
        float mean, correction, variance;
        row_moments(d, source, &mean, &correction, &variance);
        const float inverse = 1.0F / sqrtf(variance + eps);
        if (scale == NULL) {
            for (size_t j = 0; j < d; j++)
                target[j] = ((source[j] - mean) - correction) * inverse;
            continue;
        }
        const float *restrict add = shift + (i / rows_per_group) * ld_mod;
        const float *restrict multiply = scale + (i / rows_per_group) * ld_mod;
        for (size_t j = 0; j < d; j++)
            target[j] = (((source[j] - mean) - correction) * inverse) * (1.0F + multiply[j]) + add[j];
    }
}

static void add_gated(size_t rows, size_t d, float *x, const float *y, const float *gate,
                      size_t rows_per_group, size_t ld_mod) {
    for (size_t i = 0; i < rows; i++) {
        float *restrict target = x + i * d;
        const float *restrict source = y + i * d;
        const float *restrict multiply = gate + (i / rows_per_group) * ld_mod;
        for (size_t j = 0; j < d; j++)
            target[j] += multiply[j] * source[j];
    }
}

static void subtract(size_t rows, size_t cols, const float *a, size_t lda, const float *b, size_t ldb,
                     float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict left = a + i * lda;
        const float *restrict right = b + i * ldb;
        float *restrict target = y + i * ldy;
        for (size_t j = 0; j < cols; j++)
            target[j] = left[j] - right[j];
    }
}

static void subtract_scaled(size_t count, float s, const float *a, const float *b, float *y) {
    const float *restrict left = a;
    const float *restrict right = b;
    float *restrict target = y;
    for (size_t i = 0; i < count; i++)
        target[i] = s * (left[i] - right[i]);
}

static void extrapolate(size_t rows, size_t cols, float s, const float *a, size_t lda, const float *b,
                        size_t ldb, float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict last = a + i * lda;
        const float *restrict before = b + i * ldb;
        float *restrict target = y + i * ldy;
        for (size_t j = 0; j < cols; j++)
            target[j] = last[j] + s * (last[j] - before[j]);
    }
}

static void axpy(size_t count, float alpha, const float *x, float *y) {
    const float *restrict source = x;
    float *restrict target = y;
    for (size_t i = 0; i < count; i++)
        target[i] += alpha * source[i];
}

static double sum_squares(size_t rows, size_t cols, const float *x, size_t ldx) {
    double lanes[LANES64] = {0};
    double rest = 0;
    for (size_t i = 0; i < rows; i++) {
        const float *row = x + i * ldx;
        size_t j = 0;
        for (; j + LANES64 <= cols; j += LANES64)
            for (size_t l = 0; l < LANES64; l++) {
                const double value = (double)row[j + l];
                lanes[l] += value * value;
            }
        for (; j < cols; j++)
            rest += (double)row[j] * (double)row[j];
    }
    return add_lanes64(lanes) + rest;
}

static double sum_squares_diff(size_t rows, size_t cols, const float *a, size_t lda, const float *b,
                               size_t ldb) {
    double lanes[LANES64] = {0};
    double rest = 0;
    for (size_t i = 0; i < rows; i++) {
        const float *left = a + i * lda;
        const float *right = b + i * ldb;
        size_t j = 0;
        for (; j + LANES64 <= cols; j += LANES64)
            for (size_t l = 0; l < LANES64; l++) {
                const double value = (double)left[j + l] - (double)right[j + l];
                lanes[l] += value * value;
            }
        for (; j < cols; j++) {
            const double value = (double)left[j] - (double)right[j];
            rest += value * value;
        }
    }
    return add_lanes64(lanes) + rest;
}

static void measure_change(size_t rows, size_t cols, const uint32_t *index, const uint32_t *next,
                           const float *x, size_t ldx, float *past, size_t ld_past, int compare, int keep,
                           double *square, double *change) {
    double squares[LANES64] = {0}, changes[LANES64] = {0};
    double rest_square = 0, rest_change = 0;
    for (size_t i = 0; i < rows; i++) {
        const float *now = x + (index ? index[i] : i) * ldx;
        float *then = past + i * ld_past;
        size_t j = 0;
        for (; compare && j + LANES64 <= cols; j += LANES64) {
            __builtin_prefetch(then + ld_past + j); /* memory, not arithmetic, is what this waits for */
            for (size_t l = 0; l < LANES64; l++) {
                const double value = (double)now[j + l], moved = value - (double)then[j + l];
                squares[l] += value * value;
                changes[l] += moved * moved;
            }
        }
        for (; j + LANES64 <= cols; j += LANES64)
            for (size_t l = 0; l < LANES64; l++) {
                const double value = (double)now[j + l];
                squares[l] += value * value;
            }
        for (; j < cols; j++) {
            const double value = (double)now[j], moved = compare ? value - (double)then[j] : 0;
            rest_square += value * value;
            rest_change += moved * moved;
        }
        if (keep)
            memcpy(then, x + (next ? next[i] : i) * ldx, cols * sizeof *then);
    }
    *square = add_lanes64(squares) + rest_square;
    if (compare)
        *change = add_lanes64(changes) + rest_change;
}

static void sum_abs_columns(size_t rows, size_t cols, const float *x, size_t ldx, double *sum) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict row = x + i * ldx;
        double *restrict target = sum;
        for (size_t j = 0; j < cols; j++)
            target[j] += fabs((double)row[j]);
    }
}

static void sum_abs_columns_diff(size_t rows, size_t cols, const float *a, size_t lda, const float *b,
                                 size_t ldb, double *sum) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict left = a + i * lda;
        const float *restrict right = b + i * ldb;
        double *restrict target = sum;
        for (size_t j = 0; j < cols; j++)
            target[j] += fabs((double)left[j] - (double)right[j]);
    }
}

static void round_bf16(size_t count, const float *x, uint16_t *y) {
    const float *restrict source = x;
    uint16_t *restrict target = y;
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = bits_of(source[i]);
        /* Of a NaN only the quiet bit is set: rounding could carry it into infinity. */
        const uint32_t nan = 0U - (uint32_t)((bits & 0x7fffffffU) > 0x7f800000U);
        const uint32_t rounded = bits + 0x7fffU + (bits >> 16 & 1U);
        target[i] = (uint16_t)(((rounded & ~nan) | ((bits | 0x400000U) & nan)) >> 16);
    }
}

static void accumulate_packed(size_t n, double weight, const float *g, size_t ldg, double *packed) {
    for (size_t i = 0; i < n; i++) {
        const float *restrict row = g + i * ldg;
        double *restrict target = packed + i * (i + 1) / 2;
        for (size_t j = 0; j <= i; j++)
            target[j] += weight * (double)row[j];
    }
}

static int all_finite(size_t rows, size_t cols, const float *x, size_t ldx) {
    const uint32_t exponent = 0x7f800000U;
    for (size_t i = 0; i < rows; i++) {
        const float *row = x + i * ldx;
        uint32_t bad = 0;
        for (size_t j = 0; j < cols; j++)
            bad |= (bits_of(row[j]) & exponent) == exponent ? 1U : 0U;
        if (bad != 0)
            return 0;
    }
    return 1;
}

const ousac_kernels JOIN(ousac_kernels_, OUSAC_ISA) = {
    .isa = TEXT(OUSAC_ISA),
    .products = &JOIN(ousac_products_, OUSAC_ISA),
    .exponential = exponential,
    .gelu_tanh = gelu_tanh,
    .silu = silu,
    .rotate_heads = rotate_heads,
    .softmax = softmax,
    .softmax_part = softmax_part,
    .scale_rows = scale_rows,
    .norm_modulate = norm_modulate,
    .add_gated = add_gated,
    .subtract = subtract,
    .subtract_scaled = subtract_scaled,
    .extrapolate = extrapolate,
    .axpy = axpy,
    .sum_squares = sum_squares,
    .sum_squares_diff = sum_squares_diff,
    .measure_change = measure_change,
    .sum_abs_columns = sum_abs_columns,
    .sum_abs_columns_diff = sum_abs_columns_diff,
    .round_bf16 = round_bf16,
    .accumulate_packed = accumulate_packed,
    .all_finite = all_finite,
};
