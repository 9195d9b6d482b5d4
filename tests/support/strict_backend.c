#include "tests/support/strict_backend.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Beyond the user addresses of every processor that ousac runs on, with room for arithmetic below and above.
 */
#define SHIFT ((uintptr_t)1 << 50)

static const ousac_backend *cpu(void) {
    return ousac_backend_cpu();
}

static const void *real_const(const void *pointer) {
    if (!pointer)
        return NULL;
    if ((uintptr_t)pointer < SHIFT / 2) {
        fprintf(stderr, "strict backend: an operation was given host memory for backend memory\n");
        abort();
    }
    return (const void *)((uintptr_t)pointer - SHIFT);
}

static void *real(void *pointer) {
    return (void *)(uintptr_t)real_const(pointer);
}

static void *host(void *pointer) {
    if ((uintptr_t)pointer >= SHIFT / 2) {
        fprintf(stderr, "strict backend: an operation was given backend memory for host memory\n");
        abort();
    }
    return pointer;
}

static const void *host_const(const void *pointer) {
    return host((void *)(uintptr_t)pointer);
}

#define IN(pointer) real_const(pointer)
#define OUT(pointer) real(pointer)

static void *strict_alloc(const ousac_backend *b, size_t count, size_t size) {
    (void)b;
    void *block = cpu()->alloc(cpu(), count, size);
    return block ? (void *)((uintptr_t)block + SHIFT) : NULL;
}

static void strict_release(const ousac_backend *b, void *block) {
    (void)b;
    cpu()->release(cpu(), OUT(block));
}

static ousac_status strict_upload(const ousac_backend *b, void *target, const void *source, size_t bytes,
                                  ousac_error *error) {
    (void)b;
    return cpu()->upload(cpu(), OUT(target), host_const(source), bytes, error);
}

static ousac_status strict_download(const ousac_backend *b, void *target, const void *source, size_t bytes,
                                    ousac_error *error) {
    (void)b;
    return cpu()->download(cpu(), host(target), IN(source), bytes, error);
}

static ousac_status strict_linear(const ousac_backend *b, size_t rows, size_t m, size_t n, const float *x,
                                  size_t ldx, const float *w, size_t ldw, const float *bias, float beta,
                                  float *y, size_t ldy, ousac_error *error) {
    (void)b;
    return cpu()->linear(cpu(), rows, m, n, IN(x), ldx, IN(w), ldw, IN(bias), beta, OUT(y), ldy, error);
}

static ousac_status strict_expand(const ousac_backend *b, size_t rows, size_t m, size_t r, const float *x,
                                  size_t ldx, const float *a, size_t lda, float beta, float *y, size_t ldy,
                                  ousac_error *error) {
    (void)b;
    return cpu()->expand(cpu(), rows, m, r, IN(x), ldx, IN(a), lda, beta, OUT(y), ldy, error);
}

static ousac_status strict_gram(const ousac_backend *b, size_t rows, size_t n, const float *x, size_t ldx,
                                float *g, size_t ldg, ousac_error *error) {
    (void)b;
    return cpu()->gram(cpu(), rows, n, IN(x), ldx, OUT(g), ldg, error);
}

static ousac_status strict_gemm64(const ousac_backend *b, int transpose_a, int transpose_b, size_t rows,
                                  size_t cols, size_t inner, double alpha, const double *a, size_t lda,
                                  const double *c, size_t ldc, double beta, double *y, size_t ldy,
                                  ousac_error *error) {
    (void)b;
    return cpu()->gemm64(cpu(), transpose_a, transpose_b, rows, cols, inner, alpha, IN(a), lda, IN(c), ldc,
                         beta, OUT(y), ldy, error);
}

static ousac_status strict_eigen64(const ousac_backend *b, size_t n, double *a, size_t lda, double *values,
                                   ousac_error *error) {
    (void)b;
    return cpu()->eigen64(cpu(), n, OUT(a), lda, OUT(values), error);
}

static ousac_status strict_norm_modulate(const ousac_backend *b, size_t rows, size_t d, const float *x,
                                         float eps, const float *shift, const float *scale,
                                         size_t rows_per_group, size_t ld_mod, float *y, ousac_error *error) {
    (void)b;
    return cpu()->norm_modulate(cpu(), rows, d, IN(x), eps, IN(shift), IN(scale), rows_per_group, ld_mod,
                                OUT(y), error);
}

static ousac_status strict_add_gated(const ousac_backend *b, size_t rows, size_t d, float *x, const float *y,
                                     const float *gate, size_t rows_per_group, size_t ld_mod,
                                     ousac_error *error) {
    (void)b;
    return cpu()->add_gated(cpu(), rows, d, OUT(x), IN(y), IN(gate), rows_per_group, ld_mod, error);
}

static ousac_status strict_gelu_tanh(const ousac_backend *b, size_t count, const float *x, float *y,
                                     ousac_error *error) {
    (void)b;
    return cpu()->gelu_tanh(cpu(), count, IN(x), OUT(y), error);
}

static ousac_status strict_silu(const ousac_backend *b, size_t count, const float *x, float *y,
                                ousac_error *error) {
    (void)b;
    return cpu()->silu(cpu(), count, IN(x), OUT(y), error);
}

static ousac_status strict_gelu_tanh_rows(const ousac_backend *b, size_t rows, size_t cols, const float *x,
                                          size_t ldx, float *y, size_t ldy, ousac_error *error) {
    (void)b;
    return cpu()->gelu_tanh_rows(cpu(), rows, cols, IN(x), ldx, OUT(y), ldy, error);
}

static ousac_status strict_rotate_heads(const ousac_backend *b, size_t rows, size_t heads, size_t head_dim,
                                        const float *x, size_t ldx, float eps, const float *weight,
                                        const float *table, size_t positions, float *y, size_t ldy,
                                        ousac_error *error) {
    (void)b;
    return cpu()->rotate_heads(cpu(), rows, heads, head_dim, IN(x), ldx, eps, IN(weight), IN(table),
                               positions, OUT(y), ldy, error);
}

static ousac_status strict_attention(const ousac_backend *b, size_t batch, size_t tokens, size_t heads,
                                     size_t head_dim, const float *q, const float *k, const float *v,
                                     size_t ld_qkv, float *out, size_t ld_out, float *work,
                                     ousac_error *error) {
    (void)b;
    return cpu()->attention(cpu(), batch, tokens, heads, head_dim, IN(q), IN(k), IN(v), ld_qkv, OUT(out),
                            ld_out, OUT(work), error);
}

static ousac_status strict_cross_attention(const ousac_backend *b, size_t batch, size_t queries, size_t keys,
                                           size_t heads, size_t head_dim, const float *q, size_t ld_q,
                                           const float *k, const float *v, size_t ld_kv, const float *bias,
                                           float *out, size_t ld_out, float *work, ousac_error *error) {
    (void)b;
    return cpu()->cross_attention(cpu(), batch, queries, keys, heads, head_dim, IN(q), ld_q, IN(k), IN(v),
                                  ld_kv, IN(bias), OUT(out), ld_out, OUT(work), error);
}

static size_t strict_attention_work(const ousac_backend *b, size_t queries, size_t keys, size_t head_dim) {
    (void)b;
    return cpu()->attention_work(cpu(), queries, keys, head_dim);
}

static ousac_status strict_subtract(const ousac_backend *b, size_t rows, size_t cols, const float *a,
                                    size_t lda, const float *c, size_t ldc, float *y, size_t ldy,
                                    ousac_error *error) {
    (void)b;
    return cpu()->subtract(cpu(), rows, cols, IN(a), lda, IN(c), ldc, OUT(y), ldy, error);
}

static ousac_status strict_subtract_rows(const ousac_backend *b, size_t rows, size_t cols,
                                         const uint32_t *index, float scale, const float *a, size_t lda,
                                         const float *c, size_t ldc, float *y, size_t ldy,
                                         ousac_error *error) {
    (void)b;
    return cpu()->subtract_rows(cpu(), rows, cols, IN(index), scale, IN(a), lda, IN(c), ldc, OUT(y), ldy,
                                error);
}

static ousac_status strict_extrapolate(const ousac_backend *b, size_t rows, size_t cols, float s,
                                       const float *a, size_t lda, const float *c, size_t ldc, float *y,
                                       size_t ldy, ousac_error *error) {
    (void)b;
    return cpu()->extrapolate(cpu(), rows, cols, s, IN(a), lda, IN(c), ldc, OUT(y), ldy, error);
}

static ousac_status strict_gather(const ousac_backend *b, size_t batch, size_t count, const uint32_t *index,
                                  const float *x, size_t stride_x, float *y, size_t stride_y,
                                  ousac_error *error) {
    (void)b;
    return cpu()->gather(cpu(), batch, count, IN(index), IN(x), stride_x, OUT(y), stride_y, error);
}

static ousac_status strict_copy(const ousac_backend *b, size_t rows, size_t cols, const float *a, size_t lda,
                                float *y, size_t ldy, ousac_error *error) {
    (void)b;
    return cpu()->copy(cpu(), rows, cols, IN(a), lda, OUT(y), ldy, error);
}

static ousac_status strict_axpy(const ousac_backend *b, size_t count, float alpha, const float *x, float *y,
                                ousac_error *error) {
    (void)b;
    return cpu()->axpy(cpu(), count, alpha, IN(x), OUT(y), error);
}

static ousac_status strict_sum_squares(const ousac_backend *b, size_t rows, size_t cols, const float *x,
                                       size_t ldx, size_t rows_per_group, double *out, ousac_error *error) {
    (void)b;
    return cpu()->sum_squares(cpu(), rows, cols, IN(x), ldx, rows_per_group, host(out), error);
}

static ousac_status strict_sum_squares_diff(const ousac_backend *b, size_t rows, size_t cols, const float *a,
                                            size_t lda, const float *c, size_t ldc, size_t rows_per_group,
                                            double *out, ousac_error *error) {
    (void)b;
    return cpu()->sum_squares_diff(cpu(), rows, cols, IN(a), lda, IN(c), ldc, rows_per_group, host(out),
                                   error);
}

static ousac_status strict_measure_change(const ousac_backend *b, size_t rows, size_t cols,
                                          const uint32_t *index, const uint32_t *next, const float *x,
                                          size_t ldx, float *past, size_t ld_past, int compare, int keep,
                                          double *square, double *change, ousac_error *error) {
    (void)b;
    return cpu()->measure_change(cpu(), rows, cols, IN(index), IN(next), IN(x), ldx, OUT(past), ld_past,
                                 compare, keep, host(square), compare ? host(change) : change, error);
}

static ousac_status strict_sum_abs_columns(const ousac_backend *b, size_t rows, size_t cols, const float *x,
                                           size_t ldx, size_t rows_per_group, double *out,
                                           ousac_error *error) {
    (void)b;
    return cpu()->sum_abs_columns(cpu(), rows, cols, IN(x), ldx, rows_per_group, host(out), error);
}

static ousac_status strict_sum_abs_columns_diff(const ousac_backend *b, size_t rows, size_t cols,
                                                const float *a, size_t lda, const float *c, size_t ldc,
                                                size_t rows_per_group, double *out, ousac_error *error) {
    (void)b;
    return cpu()->sum_abs_columns_diff(cpu(), rows, cols, IN(a), lda, IN(c), ldc, rows_per_group, host(out),
                                       error);
}

static ousac_status strict_accumulate_packed(const ousac_backend *b, size_t n, double weight, const float *g,
                                             size_t ldg, double *packed, ousac_error *error) {
    (void)b;
    return cpu()->accumulate_packed(cpu(), n, weight, IN(g), ldg, OUT(packed), error);
}

static ousac_status strict_all_finite(const ousac_backend *b, size_t rows, size_t cols, const float *x,
                                      size_t ldx, int *finite, ousac_error *error) {
    (void)b;
    return cpu()->all_finite(cpu(), rows, cols, IN(x), ldx, host(finite), error);
}

static ousac_status strict_project_change(const ousac_backend *b, size_t rows, size_t r, size_t n, float s,
                                          const float *x, size_t ldx, const float *last, const float *before,
                                          size_t ld_past, const float *factor, size_t ldf, float *z,
                                          size_t ldz, float *work, ousac_error *error) {
    (void)b;
    return cpu()->project_change(cpu(), rows, r, n, s, IN(x), ldx, IN(last), IN(before), ld_past, IN(factor),
                                 ldf, OUT(z), ldz, OUT(work), error);
}

static ousac_status strict_expand_onto(const ousac_backend *b, size_t rows, size_t m, size_t r,
                                       const float *z, size_t ldz, const float *a, size_t lda, float s,
                                       const float *last, const float *before, size_t ld_past, float *y,
                                       size_t ldy, ousac_error *error) {
    (void)b;
    return cpu()->expand_onto(cpu(), rows, m, r, IN(z), ldz, IN(a), lda, s, IN(last), IN(before), ld_past,
                              OUT(y), ldy, error);
}

static ousac_status strict_prepare(const ousac_backend *b, size_t count, const float *w, ousac_error *error) {
    (void)b;
    return cpu()->prepare(cpu(), count, IN(w), error);
}

static const ousac_backend table = {
    .name = "strict",
    .detail = "the CPU backend behind memory of its own",
    .alloc = strict_alloc,
    .release = strict_release,
    .upload = strict_upload,
    .download = strict_download,
    .linear = strict_linear,
    .expand = strict_expand,
    .gram = strict_gram,
    .gemm64 = strict_gemm64,
    .eigen64 = strict_eigen64,
    .norm_modulate = strict_norm_modulate,
    .add_gated = strict_add_gated,
    .gelu_tanh = strict_gelu_tanh,
    .silu = strict_silu,
    .gelu_tanh_rows = strict_gelu_tanh_rows,
    .rotate_heads = strict_rotate_heads,
    .attention = strict_attention,
    .cross_attention = strict_cross_attention,
    .attention_work = strict_attention_work,
    .subtract = strict_subtract,
    .subtract_rows = strict_subtract_rows,
    .extrapolate = strict_extrapolate,
    .gather = strict_gather,
    .copy = strict_copy,
    .axpy = strict_axpy,
    .sum_squares = strict_sum_squares,
    .sum_squares_diff = strict_sum_squares_diff,
    .measure_change = strict_measure_change,
    .sum_abs_columns = strict_sum_abs_columns,
    .sum_abs_columns_diff = strict_sum_abs_columns_diff,
    .accumulate_packed = strict_accumulate_packed,
    .all_finite = strict_all_finite,
    .prepare = strict_prepare,
    .project_change = strict_project_change,
    .expand_onto = strict_expand_onto,
};

const ousac_backend *strict_backend(void) {
    return &table;
}
