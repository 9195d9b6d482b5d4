/* Elementwise, reduction and softmax kernels of the CPU backend, internal to calib/.
 *
 * kernels.c is compiled once per instruction set (-DOUSAC_ISA=base|avx2|avx512); each object exports one
 * table and the backend picks one at run time. Plain C that the compiler vectorises: no intrinsics, no libm
 * inside loops. Sums run in a fixed number of lanes and products are never contracted, so every table gives
 * the same bits.
 *
 * Any count, leading dimension and alignment. NaN in gives NaN out. No kernel fails, allocates or checks its
 * arguments: that is the backend's part.
 */
#ifndef OUSAC_KERNELS_H
#define OUSAC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_kernels {
    const char *isa;                       /* "base", "avx2", "avx512" */
    const struct ousac_products *products; /* of the same instruction set */

    /* y = exp(x), relative error below 2e-7 where the result is a normal number, at most one unit in the last
     * place where it is subnormal; +inf above 88.73, 0 below -103.98. y may be x. */
    void (*exponential)(size_t count, const float *x, float *y);
    /* y = x / (1 + exp(-2 u)), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form without its cancellation. y
     * may be x. -inf gives NaN, as the formula does. */
    void (*gelu_tanh)(size_t count, const float *x, float *y);
    /* y = x / (1 + exp(-x)); y may be x. -inf gives NaN, as the formula does. */
    void (*silu)(size_t count, const float *x, float *y);
    /* As ousac_backend.rotate_heads, sums in the order of norm_modulate's. */
    void (*rotate_heads)(size_t rows, size_t heads, size_t head_dim, const float *x, size_t ldx, float eps,
                         const float *weight, const float *table, size_t positions, float *y, size_t ldy);
    /* Each row of x (rows, cols) becomes exp(x - max) / sum, in place. A row with NaN or +inf becomes NaN. */
    void (*softmax)(size_t rows, size_t cols, float *x, size_t ldx);
    /* The next columns of rows that come in parts: of row i the largest value so far, peak[i], -inf before the first,
     * and the sum of exp(value - peak), sum[i], 0 before it, go on; x becomes exp(x - peak), and shrink[i] is
     * what exponentials of the parts before, and sums of them, are to be multiplied by. NaN or +inf makes the sum NaN. */
    void (*softmax_part)(size_t rows, size_t cols, float *x, size_t ldx, float *peak, float *sum,
                         float *shrink);
    /* Row i of y = factor[i] times that of x, (rows, cols); y may be x. */
    void (*scale_rows)(size_t rows, size_t cols, const float *factor, const float *x, size_t ldx, float *y,
                       size_t ldy);

    void (*norm_modulate)(size_t rows, size_t d, const float *x, float eps, const float *shift,
                          const float *scale, size_t rows_per_group, size_t ld_mod, float *y);
    void (*add_gated)(size_t rows, size_t d, float *x, const float *y, const float *gate,
                      size_t rows_per_group, size_t ld_mod);
    /* y = s (a - b), vectors. */
    void (*subtract_scaled)(size_t count, float s, const float *a, const float *b, float *y);
    void (*subtract)(size_t rows, size_t cols, const float *a, size_t lda, const float *b, size_t ldb,
                     float *y, size_t ldy);
    void (*extrapolate)(size_t rows, size_t cols, float s, const float *a, size_t lda, const float *b,
                        size_t ldb, float *y, size_t ldy);
    void (*axpy)(size_t count, float alpha, const float *x, float *y);

    /* Sum over all elements of x^2, and of (a - b)^2 with the difference taken in float64. */
    double (*sum_squares)(size_t rows, size_t cols, const float *x, size_t ldx);
    double (*sum_squares_diff)(size_t rows, size_t cols, const float *a, size_t lda, const float *b,
                               size_t ldb);
    /* Row i of past stands for row index[i] of x, NULL for 0, 1...: *square = the sum of squares of these
     * rows of x, in the order of sum_squares; where `compare`, *change = that of what they differ from past,
     * as sum_squares_diff has it; where `keep`, row i of past = row next[i] of x, NULL likewise. */
    void (*measure_change)(size_t rows, size_t cols, const uint32_t *index, const uint32_t *next,
                           const float *x, size_t ldx, float *past, size_t ld_past, int compare, int keep,
                           double *square, double *change);
    /* sum[j] += |x(i, j)|, and |a(i, j) - b(i, j)| with the difference taken in float64, row after row. */
    void (*sum_abs_columns)(size_t rows, size_t cols, const float *x, size_t ldx, double *sum);
    void (*sum_abs_columns_diff)(size_t rows, size_t cols, const float *a, size_t lda, const float *b,
                                 size_t ldb, double *sum);
    /* y[i] = x[i] rounded to bfloat16, ties to even, overflow to infinity; NaN stays NaN. */
    void (*round_bf16)(size_t count, const float *x, uint16_t *y);
    void (*accumulate_packed)(size_t n, double weight, const float *g, size_t ldg, double *packed);
    /* 1 where every element is finite. */
    int (*all_finite)(size_t rows, size_t cols, const float *x, size_t ldx);
} ousac_kernels;

extern const ousac_kernels ousac_kernels_base;
#if defined(__x86_64__)
extern const ousac_kernels ousac_kernels_avx2;
extern const ousac_kernels ousac_kernels_avx512;
#endif

/* The best table that this processor runs; `limit` ("base", "avx2", "avx512") narrows the choice to that one
 * or the best below it. NULL or an unknown name: no limit. */
const ousac_kernels *ousac_kernels_choose(const char *limit);

#ifdef __cplusplus
}
#endif
#endif
