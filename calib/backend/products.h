/* Float32 products of the CPU backend for shapes at which a BLAS spends its time on packing: few rows, a
 * small inner dimension, small heads; internal to calib/.
 *
 * products.c is compiled once per instruction set (-DOUSAC_ISA=base|avx2|avx512), like kernels.c: plain C on
 * the compilers' vector types, no intrinsics. Unlike kernels.c, products may be contracted to fused
 * multiply-adds and sums run in the order of the inner index, in blocks that depend on the instruction set:
 * bits differ between instruction sets, never between calls or threads.
 *
 * Any count, leading dimension and alignment of floats. No kernel fails, allocates or checks its arguments:
 * that is the backend's part. Up to 48 KiB of stack.
 */
#ifndef OUSAC_PRODUCTS_H
#define OUSAC_PRODUCTS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Y (rows, cols) = start + alpha X (rows, inner) P. */
typedef struct ousac_product {
    size_t rows, cols, inner; /* each at least 1 */
    const float *x;
    size_t ldx;
    const float *p; /* (inner, cols), or (cols, inner) where transposed */
    size_t ldp;
    int transposed;
    float alpha;
    /* The start: bias (cols) where given; else base + s (base - before), both (rows, cols) with ld_base,
     * where base is given, before NULL for s = 0; else beta Y, and Y is not read for beta 0. */
    const float *bias;
    const float *base, *before;
    size_t ld_base;
    float s;
    float beta;
    float *y;
    size_t ldy;
} ousac_product;

/* Rows of X that a panel of P is packed for: work that is prepared in this many rows at a time stays in
 * cache. */
enum { OUSAC_PRODUCT_BLOCK = 256 };

typedef struct ousac_products {
    void (*product)(const ousac_product *product);
    /* y (rows, cols) = a - b - s (b - c), c NULL for s = 0; b and c with one leading dimension. y may be a with
     * the same one. */
    void (*drift)(size_t rows, size_t cols, float s, const float *a, size_t lda, const float *b,
                  const float *c, size_t ldb, float *y, size_t ldy);
} ousac_products;

extern const ousac_products ousac_products_base;
#if defined(__x86_64__)
extern const ousac_products ousac_products_avx2;
extern const ousac_products ousac_products_avx512;
#endif

#ifdef __cplusplus
}
#endif
#endif
