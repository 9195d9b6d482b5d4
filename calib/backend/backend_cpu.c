#include "calib/backend/backend.h"

#include "calib/backend/attention_cpu.h"
#include "calib/backend/kernels.h"
#include "calib/backend/products.h"
#include "formats/memory.h"

#include <cblas.h>
#include <lapacke.h>

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ousac_kernels *kernels_of(const ousac_backend *backend) {
    return (const ousac_kernels *)backend->state;
}

/* --- sizes --- */

/* The one place where a size becomes an integer of BLAS or LAPACK. */
static int narrow(size_t value, int *out) {
    const int fits = value <= (size_t)INT_MAX;
    *out = fits ? (int)value : 0;
    return fits ? 0 : -1;
}

/* A (rows, cols) view: its leading dimension holds a row and its last element is addressable. */
static int view_is_valid(size_t rows, size_t cols, size_t ld, size_t size) {
    if (cols > ld)
        return 0;
    return rows == 0 || ld == 0 || rows <= PTRDIFF_MAX / size / ld;
}

static ousac_status bad_view(const char *operation, const char *argument, size_t rows, size_t cols, size_t ld,
                             ousac_error *error) {
    return OUSAC_FAIL(
        error, OUSAC_STATUS_USAGE,
        "%s: %s of %zu x %zu with leading dimension %zu: expected at least %zu and an addressable matrix",
        operation, argument, rows, cols, ld, cols);
}

static ousac_status bad_size(const char *operation, size_t rows, size_t cols, size_t inner,
                             ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: sizes %zu, %zu, %zu: expected each to be at most %d",
                      operation, rows, cols, inner, INT_MAX);
}

#define CHECK_VIEW(operation, argument, rows, cols, ld, type)                                                \
    do {                                                                                                     \
        if (!view_is_valid((rows), (cols), (ld), sizeof(type)))                                              \
            return bad_view((operation), (argument), (rows), (cols), (ld), error);                           \
    } while (0)

/* Sizes of one BLAS product, narrowed. */
typedef struct product {
    int rows, cols, inner, lda, ldb, ldc;
} product;

static int narrow_product(product *p, size_t rows, size_t cols, size_t inner, size_t lda, size_t ldb,
                          size_t ldc) {
    return narrow(rows, &p->rows) | narrow(cols, &p->cols) | narrow(inner, &p->inner) | narrow(lda, &p->lda) |
           narrow(ldb, &p->ldb) | narrow(ldc, &p->ldc);
}

/* C = beta C for a product without an inner dimension, where libraries differ. */
static void scale_rows(size_t rows, size_t cols, float beta, float *c, size_t ldc) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * ldc + j] = beta == 0.0F ? 0.0F : beta * c[i * ldc + j];
}

static void scale_rows64(size_t rows, size_t cols, double beta, double *c, size_t ldc) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * ldc + j] = beta == 0.0 ? 0.0 : beta * c[i * ldc + j];
}

/* --- memory --- */

static void *cpu_alloc(const ousac_backend *backend, size_t count, size_t size) {
    (void)backend;
    return ousac_malloc(count, size);
}

static void cpu_release(const ousac_backend *backend, void *block) {
    (void)backend;
    ousac_free(block);
}

static ousac_status cpu_transfer(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                                 ousac_error *error) {
    (void)backend;
    (void)error;
    if (bytes > 0)
        memcpy(target, source, bytes);
    return OUSAC_STATUS_OK;
}

/* --- float32 linear algebra --- */

/* Where products.h beats OpenBLAS 0.3.21: W so small that packing it for every call is noticed and its panels
 * stay in cache, or so few rows that packing is all there is. Measured with AVX-512: from 1.05 (1024 x 128 x
 * 1152) to 1.4 times (256 x 24 x 192) faster within these bounds, 0.8 to 0.95 times as fast beyond. */
static int own_product_is_faster(size_t rows, size_t cols, size_t inner) {
    return rows >= 4 && (rows <= 16 || cols * inner <= 300000);
}

/* P not transposed needs no shuffling, and beyond two passes over Y the library blocks better. */
static int own_expansion_is_faster(size_t rows, size_t inner) {
    return rows >= 4 && inner <= 384;
}

static ousac_status cpu_linear(const ousac_backend *backend, size_t rows, size_t m, size_t n, const float *x,
                               size_t ldx, const float *w, size_t ldw, const float *bias, float beta,
                               float *y, size_t ldy, ousac_error *error) {
    product p;
    (void)backend;
    CHECK_VIEW("linear", "X", rows, n, ldx, float);
    CHECK_VIEW("linear", "W", m, n, ldw, float);
    CHECK_VIEW("linear", "Y", rows, m, ldy, float);
    if (bias != NULL && beta != 0.0F)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "linear: beta %g beside a bias: expected 0",
                          (double)beta);
    if (narrow_product(&p, rows, m, n, ldx, ldw, ldy) != 0)
        return bad_size("linear", rows, m, n, error);
    if (rows == 0 || m == 0)
        return OUSAC_STATUS_OK;
    if (n > 0 && own_product_is_faster(rows, m, n)) {
        kernels_of(backend)->products->product(&(ousac_product){.rows = rows,
                                                                .cols = m,
                                                                .inner = n,
                                                                .x = x,
                                                                .ldx = ldx,
                                                                .p = w,
                                                                .ldp = ldw,
                                                                .transposed = 1,
                                                                .alpha = 1,
                                                                .bias = bias,
                                                                .beta = beta,
                                                                .y = y,
                                                                .ldy = ldy});
        return OUSAC_STATUS_OK;
    }
    /* The library would clear Y before adding to it; writing the bias instead costs the same. */
    if (bias != NULL) {
        for (size_t i = 0; i < rows; i++)
            memcpy(y + i * ldy, bias, m * sizeof *bias);
        beta = 1.0F;
    }
    if (n == 0) {
        scale_rows(rows, m, beta, y, ldy);
        return OUSAC_STATUS_OK;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p.rows, p.cols, p.inner, 1.0F, x, p.lda, w, p.ldb,
                beta, y, p.ldc);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_expand(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *x,
                               size_t ldx, const float *a, size_t lda, float beta, float *y, size_t ldy,
                               ousac_error *error) {
    product p;
    (void)backend;
    CHECK_VIEW("expand", "X", rows, r, ldx, float);
    CHECK_VIEW("expand", "A", r, m, lda, float);
    CHECK_VIEW("expand", "Y", rows, m, ldy, float);
    if (narrow_product(&p, rows, m, r, ldx, lda, ldy) != 0)
        return bad_size("expand", rows, m, r, error);
    if (rows == 0 || m == 0)
        return OUSAC_STATUS_OK;
    if (r == 0) {
        scale_rows(rows, m, beta, y, ldy);
        return OUSAC_STATUS_OK;
    }
    if (own_expansion_is_faster(rows, r)) {
        kernels_of(backend)->products->product(&(ousac_product){.rows = rows,
                                                                .cols = m,
                                                                .inner = r,
                                                                .x = x,
                                                                .ldx = ldx,
                                                                .p = a,
                                                                .ldp = lda,
                                                                .alpha = 1,
                                                                .beta = beta,
                                                                .y = y,
                                                                .ldy = ldy});
        return OUSAC_STATUS_OK;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, p.rows, p.cols, p.inner, 1.0F, x, p.lda, a, p.ldb,
                beta, y, p.ldc);
    return OUSAC_STATUS_OK;
}

/* What lies before a cached value: nothing where s is 0. */
static ousac_status check_past(const char *operation, const float *before, float s, ousac_error *error) {
    if (before == NULL && s != 0.0F)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: an extrapolation by %g from one matrix: expected two, or 0", operation,
                          (double)s);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_project_change(const ousac_backend *backend, size_t rows, size_t r, size_t n, float s,
                                       const float *x, size_t ldx, const float *last, const float *before,
                                       size_t ld_past, const float *b, size_t ldb, float *z, size_t ldz,
                                       float *work, ousac_error *error) {
    const ousac_products *products = kernels_of(backend)->products;
    const size_t step = own_product_is_faster(rows, r, n) ? OUSAC_PRODUCT_BLOCK : rows;
    ousac_status status = check_past("project_change", before, s, error);
    CHECK_VIEW("project_change", "X", rows, n, ldx, float);
    CHECK_VIEW("project_change", "past", rows, n, ld_past, float);
    CHECK_VIEW("project_change", "work", rows, n, n, float);
    if (s == 0.0F)
        before = NULL;
    /* In pieces that stay in cache until they are multiplied. */
    for (size_t i = 0; i < rows && status == OUSAC_STATUS_OK; i += step) {
        const size_t count = rows - i < step ? rows - i : step;
        products->drift(count, n, s, x + i * ldx, ldx, last + i * ld_past,
                        before != NULL ? before + i * ld_past : NULL, ld_past, work, n);
        status = cpu_linear(backend, count, r, n, work, n, b, ldb, NULL, 0.0F, z + i * ldz, ldz, error);
    }
    return status;
}

static ousac_status cpu_prepare(const ousac_backend *backend, size_t count, const float *w,
                                ousac_error *error) {
    (void)backend, (void)count, (void)w, (void)error;
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_expand_onto(const ousac_backend *backend, size_t rows, size_t m, size_t r,
                                    const float *z, size_t ldz, const float *a, size_t lda, float s,
                                    const float *last, const float *before, size_t ld_past, float *y,
                                    size_t ldy, ousac_error *error) {
    const ousac_status status = check_past("expand_onto", before, s, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("expand_onto", "Z", rows, r, ldz, float);
    CHECK_VIEW("expand_onto", "A", r, m, lda, float);
    CHECK_VIEW("expand_onto", "past", rows, m, ld_past, float);
    CHECK_VIEW("expand_onto", "Y", rows, m, ldy, float);
    if (s == 0.0F)
        before = NULL;
    if (rows == 0 || m == 0)
        return OUSAC_STATUS_OK;
    if (r == 0 || !own_expansion_is_faster(rows, r)) {
        kernels_of(backend)->extrapolate(rows, m, s, last, ld_past, before != NULL ? before : last, ld_past,
                                         y, ldy);
        return r == 0 ? OUSAC_STATUS_OK
                      : cpu_expand(backend, rows, m, r, z, ldz, a, lda, 1.0F, y, ldy, error);
    }
    kernels_of(backend)->products->product(&(ousac_product){.rows = rows,
                                                            .cols = m,
                                                            .inner = r,
                                                            .x = z,
                                                            .ldx = ldz,
                                                            .p = a,
                                                            .ldp = lda,
                                                            .alpha = 1,
                                                            .base = last,
                                                            .before = before,
                                                            .ld_base = ld_past,
                                                            .s = s,
                                                            .y = y,
                                                            .ldy = ldy});
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_gram(const ousac_backend *backend, size_t rows, size_t n, const float *x, size_t ldx,
                             float *g, size_t ldg, ousac_error *error) {
    product p;
    (void)backend;
    CHECK_VIEW("gram", "X", rows, n, ldx, float);
    CHECK_VIEW("gram", "G", n, n, ldg, float);
    if (narrow_product(&p, n, n, rows, ldx, ldx, ldg) != 0)
        return bad_size("gram", rows, n, n, error);
    if (n == 0)
        return OUSAC_STATUS_OK;
    if (rows == 0) {
        for (size_t i = 0; i < n; i++)
            memset(g + i * ldg, 0, (i + 1) * sizeof *g);
        return OUSAC_STATUS_OK;
    }
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, p.rows, p.inner, 1.0F, x, p.lda, 0.0F, g, p.ldc);
    return OUSAC_STATUS_OK;
}

/* --- float64 linear algebra --- */

static ousac_status cpu_gemm64(const ousac_backend *backend, int transpose_a, int transpose_b, size_t rows,
                               size_t cols, size_t inner, double alpha, const double *a, size_t lda,
                               const double *b, size_t ldb, double beta, double *c, size_t ldc,
                               ousac_error *error) {
    product p;
    (void)backend;
    CHECK_VIEW("gemm64", "A", transpose_a ? inner : rows, transpose_a ? rows : inner, lda, double);
    CHECK_VIEW("gemm64", "B", transpose_b ? cols : inner, transpose_b ? inner : cols, ldb, double);
    CHECK_VIEW("gemm64", "C", rows, cols, ldc, double);
    if (narrow_product(&p, rows, cols, inner, lda, ldb, ldc) != 0)
        return bad_size("gemm64", rows, cols, inner, error);
    if (rows == 0 || cols == 0)
        return OUSAC_STATUS_OK;
    if (inner == 0) {
        scale_rows64(rows, cols, beta, c, ldc);
        return OUSAC_STATUS_OK;
    }
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, p.rows, p.cols, p.inner, alpha, a, p.lda, b, p.ldb,
                beta, c, p.ldc);
    return OUSAC_STATUS_OK;
}

static int lower_is_finite(size_t n, const double *a, size_t lda) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            if (!isfinite(a[i * lda + j]))
                return 0;
    return 1;
}

static void swap_rows(size_t n, double *a, double *b) {
    for (size_t j = 0; j < n; j++) {
        const double value = a[j];
        a[j] = b[j];
        b[j] = value;
    }
}

static void fix_sign(size_t n, double *row) {
    size_t largest = 0;
    for (size_t j = 1; j < n; j++)
        if (fabs(row[j]) > fabs(row[largest]))
            largest = j;
    if (row[largest] < 0)
        for (size_t j = 0; j < n; j++)
            row[j] = -row[j];
}

static ousac_status cpu_eigen64(const ousac_backend *backend, size_t n, double *a, size_t lda, double *values,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double *work = NULL;
    int *iwork = NULL;
    int order = 0, leading = 0, work_count = 0, iwork_count = 0;
    (void)backend;
    CHECK_VIEW("eigen64", "A", n, n, lda, double);
    if (n == 0)
        return OUSAC_STATUS_OK;
    /* The documented workspace of dsyevd with vectors; the query would return it through a float. */
    if (n > 46340 || narrow(n, &order) != 0 || narrow(lda, &leading) != 0 ||
        narrow(1 + 6 * n + 2 * n * n, &work_count) != 0 || narrow(3 + 5 * n, &iwork_count) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "eigen64: order %zu: too large for LAPACK's 32-bit workspace", n);
    /* LAPACK may not return at all from NaN. */
    if (!lower_is_finite(n, a, lda))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "eigen64: a matrix of order %zu holds a value that is not finite", n);
    work = ousac_malloc((size_t)work_count, sizeof *work);
    iwork = ousac_malloc((size_t)iwork_count, sizeof *iwork);
    if (work == NULL || iwork == NULL) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "eigen64: no memory for the workspace of order %zu", n);
        goto done;
    }
    /* The row-major lower triangle is the column-major upper one, and column-major eigenvectors are rows
     * here. */
    const lapack_int info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'V', 'U', order, a, leading, values, work,
                                                work_count, iwork, iwork_count);
    if (info != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                            "eigen64: order %zu did not converge (LAPACK dsyevd: %d)", n, (int)info);
        goto done;
    }
    for (size_t i = 0; i < n / 2; i++) {
        const double value = values[i];
        values[i] = values[n - 1 - i];
        values[n - 1 - i] = value;
        swap_rows(n, a + i * lda, a + (n - 1 - i) * lda);
    }
    for (size_t i = 0; i < n; i++)
        fix_sign(n, a + i * lda);
    for (size_t i = 0; i < n && status == OUSAC_STATUS_OK; i++)
        if (!isfinite(values[i]))
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                "eigen64: eigenvalue %zu of order %zu is not finite", i, n);
done:
    ousac_free(iwork);
    ousac_free(work);
    return status;
}

/* --- elementwise and attention --- */

static ousac_status check_groups(const char *operation, size_t rows, size_t rows_per_group,
                                 ousac_error *error) {
    if (rows_per_group == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %zu rows in groups of 0: expected at least 1",
                          operation, rows);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_norm_modulate(const ousac_backend *backend, size_t rows, size_t d, const float *x,
                                      float eps, const float *shift, const float *scale,
                                      size_t rows_per_group, size_t ld_mod, float *y, ousac_error *error) {
    CHECK_VIEW("norm_modulate", "x", rows, d, d, float);
    if ((shift == NULL) != (scale == NULL))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "norm_modulate: one of shift and scale: expected both or neither");
    if (shift != NULL) {
        const ousac_status status = check_groups("norm_modulate", rows, rows_per_group, error);
        if (status != OUSAC_STATUS_OK)
            return status;
        CHECK_VIEW("norm_modulate", "shift", rows / rows_per_group + (rows % rows_per_group != 0), d, ld_mod,
                   float);
    }
    if (rows > 0 && d > 0)
        kernels_of(backend)->norm_modulate(rows, d, x, eps, shift, scale, rows_per_group, ld_mod, y);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_add_gated(const ousac_backend *backend, size_t rows, size_t d, float *x,
                                  const float *y, const float *gate, size_t rows_per_group, size_t ld_mod,
                                  ousac_error *error) {
    const ousac_status status = check_groups("add_gated", rows, rows_per_group, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("add_gated", "x", rows, d, d, float);
    CHECK_VIEW("add_gated", "gate", rows / rows_per_group + (rows % rows_per_group != 0), d, ld_mod, float);
    kernels_of(backend)->add_gated(rows, d, x, y, gate, rows_per_group, ld_mod);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_gelu_tanh(const ousac_backend *backend, size_t count, const float *x, float *y,
                                  ousac_error *error) {
    (void)error;
    kernels_of(backend)->gelu_tanh(count, x, y);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_silu(const ousac_backend *backend, size_t count, const float *x, float *y,
                             ousac_error *error) {
    (void)error;
    kernels_of(backend)->silu(count, x, y);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_gelu_tanh_rows(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                       size_t ldx, float *y, size_t ldy, ousac_error *error) {
    CHECK_VIEW("gelu_tanh_rows", "x", rows, cols, ldx, float);
    CHECK_VIEW("gelu_tanh_rows", "y", rows, cols, ldy, float);
    for (size_t i = 0; i < rows; i++)
        kernels_of(backend)->gelu_tanh(cols, x + i * ldx, y + i * ldy);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_rotate_heads(const ousac_backend *backend, size_t rows, size_t heads, size_t head_dim,
                                     const float *x, size_t ldx, float eps, const float *weight,
                                     const float *table, size_t positions, float *y, size_t ldy,
                                     ousac_error *error) {
    if (head_dim > 0 && heads > SIZE_MAX / head_dim)
        return bad_size("rotate_heads", rows, heads, head_dim, error);
    CHECK_VIEW("rotate_heads", "x", rows, heads * head_dim, ldx, float);
    CHECK_VIEW("rotate_heads", "y", rows, heads * head_dim, ldy, float);
    if (table != NULL && (head_dim % 2 != 0 || positions == 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "rotate_heads: heads of %zu and %zu positions: expected pairs, and at least 1",
                          head_dim, positions);
    if (table != NULL)
        CHECK_VIEW("rotate_heads", "table", positions, head_dim, head_dim, float);
    if (head_dim > 0)
        kernels_of(backend)->rotate_heads(rows, heads, head_dim, x, ldx, eps, weight, table, positions, y,
                                          ldy);
    return OUSAC_STATUS_OK;
}

static ousac_status attend(const ousac_backend *backend, const char *operation, const ousac_attention *a,
                           ousac_error *error) {
    const size_t ld = a->ld_q > a->ld_kv ? a->ld_q : a->ld_kv;
    /* Our own products take any size; the bound is that of every other operation. */
    product sizes;
    if (narrow_product(&sizes, a->queries, a->keys, a->head_dim, ld, a->ld_out, a->keys) != 0)
        return bad_size(operation, a->keys, ld, a->ld_out, error);
    ousac_attention_run(kernels_of(backend), a);
    return OUSAC_STATUS_OK;
}

static size_t cpu_attention_work(const ousac_backend *backend, size_t queries, size_t keys, size_t head_dim) {
    (void)backend;
    if (keys > 0 && queries > SIZE_MAX / sizeof(float) / keys)
        return SIZE_MAX;
    const size_t floats = ousac_attention_floats(queries, keys, head_dim);
    return floats ? floats : 1;
}

static ousac_status cpu_attention(const ousac_backend *backend, size_t batch, size_t tokens, size_t heads,
                                  size_t head_dim, const float *q, const float *k, const float *v,
                                  size_t ld_qkv, float *out, size_t ld_out, float *work, ousac_error *error) {
    if ((head_dim > 0 && heads > SIZE_MAX / head_dim) || (tokens > 0 && batch > SIZE_MAX / tokens))
        return bad_size("attention", tokens, heads, head_dim, error);
    CHECK_VIEW("attention", "q", batch * tokens, heads * head_dim, ld_qkv, float);
    CHECK_VIEW("attention", "out", batch * tokens, heads * head_dim, ld_out, float);
    CHECK_VIEW("attention", "work", tokens, tokens, tokens, float);
    if (batch == 0 || tokens == 0 || heads == 0 || head_dim == 0)
        return OUSAC_STATUS_OK;
    const ousac_attention job = {batch, tokens, tokens, heads,  head_dim, q,   k,
                                 v,     NULL,   ld_qkv, ld_qkv, ld_out,   out, work};
    return attend(backend, "attention", &job, error);
}

static ousac_status cpu_cross_attention(const ousac_backend *backend, size_t batch, size_t queries,
                                        size_t keys, size_t heads, size_t head_dim, const float *q,
                                        size_t ld_q, const float *k, const float *v, size_t ld_kv,
                                        const float *bias, float *out, size_t ld_out, float *work,
                                        ousac_error *error) {
    const size_t most = queries > keys ? queries : keys;
    if ((head_dim > 0 && heads > SIZE_MAX / head_dim) || (most > 0 && batch > SIZE_MAX / most))
        return bad_size("cross_attention", most, heads, head_dim, error);
    CHECK_VIEW("cross_attention", "q", batch * queries, heads * head_dim, ld_q, float);
    CHECK_VIEW("cross_attention", "k", batch * keys, heads * head_dim, ld_kv, float);
    CHECK_VIEW("cross_attention", "out", batch * queries, heads * head_dim, ld_out, float);
    CHECK_VIEW("cross_attention", "work", queries, keys, keys, float);
    if (batch == 0 || queries == 0 || heads == 0 || head_dim == 0)
        return OUSAC_STATUS_OK;
    if (keys == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "cross_attention: 0 keys: expected at least 1");
    const ousac_attention job = {batch, queries, keys, heads, head_dim, q,   k,
                                 v,     bias,    ld_q, ld_kv, ld_out,   out, work};
    return attend(backend, "cross_attention", &job, error);
}

static ousac_status cpu_subtract(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                                 size_t lda, const float *b, size_t ldb, float *y, size_t ldy,
                                 ousac_error *error) {
    CHECK_VIEW("subtract", "a", rows, cols, lda, float);
    CHECK_VIEW("subtract", "b", rows, cols, ldb, float);
    CHECK_VIEW("subtract", "y", rows, cols, ldy, float);
    kernels_of(backend)->subtract(rows, cols, a, lda, b, ldb, y, ldy);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_extrapolate(const ousac_backend *backend, size_t rows, size_t cols, float s,
                                    const float *a, size_t lda, const float *b, size_t ldb, float *y,
                                    size_t ldy, ousac_error *error) {
    CHECK_VIEW("extrapolate", "a", rows, cols, lda, float);
    CHECK_VIEW("extrapolate", "b", rows, cols, ldb, float);
    CHECK_VIEW("extrapolate", "y", rows, cols, ldy, float);
    kernels_of(backend)->extrapolate(rows, cols, s, a, lda, b, ldb, y, ldy);
    return OUSAC_STATUS_OK;
}

/* The views of a and b are checked for `rows` rows only; which rows exist is known to the caller of the
 * index. */
static ousac_status cpu_subtract_rows(const ousac_backend *backend, size_t rows, size_t cols,
                                      const uint32_t *index, float scale, const float *a, size_t lda,
                                      const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error) {
    CHECK_VIEW("subtract_rows", "a", rows, cols, lda, float);
    CHECK_VIEW("subtract_rows", "b", rows, cols, ldb, float);
    CHECK_VIEW("subtract_rows", "y", rows, cols, ldy, float);
    for (size_t i = 0; i < rows; i++) {
        const size_t row = index != NULL ? index[i] : i;
        kernels_of(backend)->subtract_scaled(cols, scale, a + row * lda, b + i * ldb, y + i * ldy);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_gather(const ousac_backend *backend, size_t batch, size_t count,
                               const uint32_t *index, const float *x, size_t stride_x, float *y,
                               size_t stride_y, ousac_error *error) {
    (void)backend;
    CHECK_VIEW("gather", "y", batch, count, stride_y, float);
    for (size_t b = 0; b < batch; b++) {
        const float *restrict source = x + b * stride_x;
        float *restrict target = y + b * stride_y;
        for (size_t i = 0; i < count; i++)
            target[i] = source[index[i]];
    }
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_copy(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                             size_t lda, float *y, size_t ldy, ousac_error *error) {
    (void)backend;
    CHECK_VIEW("copy", "a", rows, cols, lda, float);
    CHECK_VIEW("copy", "y", rows, cols, ldy, float);
    if (cols == 0)
        return OUSAC_STATUS_OK;
    for (size_t i = 0; i < rows; i++)
        memcpy(y + i * ldy, a + i * lda, cols * sizeof *y);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_axpy(const ousac_backend *backend, size_t count, float alpha, const float *x,
                             float *y, ousac_error *error) {
    (void)error;
    kernels_of(backend)->axpy(count, alpha, x, y);
    return OUSAC_STATUS_OK;
}

/* --- reductions --- */

static ousac_status check_whole_groups(const char *operation, size_t rows, size_t rows_per_group,
                                       ousac_error *error) {
    if (rows_per_group == 0 || rows % rows_per_group != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %zu rows in groups of %zu: expected whole groups",
                          operation, rows, rows_per_group);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_sum_squares(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                    size_t ldx, size_t rows_per_group, double *out, ousac_error *error) {
    const ousac_status status = check_whole_groups("sum_squares", rows, rows_per_group, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("sum_squares", "x", rows, cols, ldx, float);
    for (size_t g = 0; g < rows / rows_per_group; g++)
        out[g] += kernels_of(backend)->sum_squares(rows_per_group, cols, x + g * rows_per_group * ldx, ldx);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_sum_squares_diff(const ousac_backend *backend, size_t rows, size_t cols,
                                         const float *a, size_t lda, const float *b, size_t ldb,
                                         size_t rows_per_group, double *out, ousac_error *error) {
    const ousac_status status = check_whole_groups("sum_squares_diff", rows, rows_per_group, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("sum_squares_diff", "a", rows, cols, lda, float);
    CHECK_VIEW("sum_squares_diff", "b", rows, cols, ldb, float);
    for (size_t g = 0; g < rows / rows_per_group; g++)
        out[g] += kernels_of(backend)->sum_squares_diff(rows_per_group, cols, a + g * rows_per_group * lda,
                                                        lda, b + g * rows_per_group * ldb, ldb);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_measure_change(const ousac_backend *backend, size_t rows, size_t cols,
                                       const uint32_t *index, const uint32_t *next, const float *x,
                                       size_t ldx, float *past, size_t ld_past, int compare, int keep,
                                       double *square, double *change, ousac_error *error) {
    double squares = 0, changes = 0;
    CHECK_VIEW("measure_change", "x", rows, cols, ldx, float);
    CHECK_VIEW("measure_change", "past", rows, cols, ld_past, float);
    kernels_of(backend)->measure_change(rows, cols, index, next, x, ldx, past, ld_past, compare, keep,
                                        &squares, &changes);
    *square += squares;
    if (compare)
        *change += changes;
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_sum_abs_columns(const ousac_backend *backend, size_t rows, size_t cols,
                                        const float *x, size_t ldx, size_t rows_per_group, double *out,
                                        ousac_error *error) {
    const ousac_status status = check_whole_groups("sum_abs_columns", rows, rows_per_group, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("sum_abs_columns", "x", rows, cols, ldx, float);
    for (size_t g = 0; g < rows / rows_per_group; g++)
        kernels_of(backend)->sum_abs_columns(rows_per_group, cols, x + g * rows_per_group * ldx, ldx,
                                             out + g * cols);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_sum_abs_columns_diff(const ousac_backend *backend, size_t rows, size_t cols,
                                             const float *a, size_t lda, const float *b, size_t ldb,
                                             size_t rows_per_group, double *out, ousac_error *error) {
    const ousac_status status = check_whole_groups("sum_abs_columns_diff", rows, rows_per_group, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    CHECK_VIEW("sum_abs_columns_diff", "a", rows, cols, lda, float);
    CHECK_VIEW("sum_abs_columns_diff", "b", rows, cols, ldb, float);
    for (size_t g = 0; g < rows / rows_per_group; g++)
        kernels_of(backend)->sum_abs_columns_diff(rows_per_group, cols, a + g * rows_per_group * lda, lda,
                                                  b + g * rows_per_group * ldb, ldb, out + g * cols);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_accumulate_packed(const ousac_backend *backend, size_t n, double weight,
                                          const float *g, size_t ldg, double *packed, ousac_error *error) {
    CHECK_VIEW("accumulate_packed", "g", n, n, ldg, float);
    kernels_of(backend)->accumulate_packed(n, weight, g, ldg, packed);
    return OUSAC_STATUS_OK;
}

static ousac_status cpu_all_finite(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                   size_t ldx, int *finite, ousac_error *error) {
    CHECK_VIEW("all_finite", "x", rows, cols, ldx, float);
    *finite = kernels_of(backend)->all_finite(rows, cols, x, ldx);
    return OUSAC_STATUS_OK;
}

/* --- the table --- */

const ousac_kernels *ousac_kernels_choose(const char *limit) {
    int level = 2;
    if (limit != NULL && strcmp(limit, "base") == 0)
        level = 0;
    else if (limit != NULL && strcmp(limit, "avx2") == 0)
        level = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (level >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        return &ousac_kernels_avx512;
    if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &ousac_kernels_avx2;
#else
    (void)level;
#endif
    return &ousac_kernels_base;
}

static char cpu_detail[256];

static ousac_backend cpu_backend = {
    .name = "cpu",
    .detail = cpu_detail,
    .host = 1,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_transfer,
    .download = cpu_transfer,
    .linear = cpu_linear,
    .expand = cpu_expand,
    .gram = cpu_gram,
    .gemm64 = cpu_gemm64,
    .eigen64 = cpu_eigen64,
    .norm_modulate = cpu_norm_modulate,
    .add_gated = cpu_add_gated,
    .gelu_tanh = cpu_gelu_tanh,
    .silu = cpu_silu,
    .gelu_tanh_rows = cpu_gelu_tanh_rows,
    .rotate_heads = cpu_rotate_heads,
    .attention = cpu_attention,
    .cross_attention = cpu_cross_attention,
    .attention_work = cpu_attention_work,
    .subtract = cpu_subtract,
    .subtract_rows = cpu_subtract_rows,
    .extrapolate = cpu_extrapolate,
    .gather = cpu_gather,
    .copy = cpu_copy,
    .axpy = cpu_axpy,
    .sum_squares = cpu_sum_squares,
    .sum_squares_diff = cpu_sum_squares_diff,
    .measure_change = cpu_measure_change,
    .sum_abs_columns = cpu_sum_abs_columns,
    .sum_abs_columns_diff = cpu_sum_abs_columns_diff,
    .accumulate_packed = cpu_accumulate_packed,
    .all_finite = cpu_all_finite,
    .project_change = cpu_project_change,
    .expand_onto = cpu_expand_onto,
    .prepare = cpu_prepare,
};
static pthread_once_t cpu_once = PTHREAD_ONCE_INIT;

static void cpu_start(void) {
    const ousac_kernels *kernels = ousac_kernels_choose(getenv("OUSAC_ISA"));
    openblas_set_num_threads(1);
    /* The table is only read through `state`. */
    cpu_backend.state = (void *)(uintptr_t)kernels;
    snprintf(cpu_detail, sizeof cpu_detail, "%.150s, core %.40s, one thread per call; %s kernels",
             openblas_get_config(), openblas_get_corename(), kernels->isa);
}

const ousac_backend *ousac_backend_cpu(void) {
    (void)pthread_once(&cpu_once, cpu_start);
    return &cpu_backend;
}
