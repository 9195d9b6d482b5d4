/* The compute backend: one small table of operations, implemented once for the CPU and once for CUDA.
 * Everything that multiplies matrices or walks activations goes through it; BLAS and LAPACK appear in
 * backend_cpu.c alone, oneDNN in backend_bf16.c, CUDA under calib/cuda/, in a plug-in that
 * calib/backend/backend_plugin.h opens at run time.
 *
 * Matrices are row-major: element (i, j) at data[i * ld + j], ld >= columns. `float *` and `double *`
 * arguments are memory of the backend (`alloc`), which for the CPU is ordinary memory and for others must not
 * be touched by the host; where an argument is host memory, its comment says so. Every operation returns
 * USAGE for sizes that do not fit the library's integers, and never aborts. Outputs may not overlap
 * inputs except where said.
 *
 * Thread-safety: a backend may be used from many threads at once, each on its own outputs. The CPU backend
 * runs every operation on the calling thread, so that results do not depend on how many threads call. Another
 * may only queue it: one thread's operations take effect in order, and what a thread wrote is there for other
 * threads once it has called upload, download or an operation with results in host memory.
 */
#ifndef OUSAC_BACKEND_H
#define OUSAC_BACKEND_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_backend ousac_backend;

struct ousac_backend {
    const char *name;   /* "cpu" */
    const char *detail; /* libraries and instruction set, one line, for the record of a run */
    void *state;
    int host; /* 1: its memory is the process's own, so that a mapped file may stand in for it */
    int bf16; /* 1: `linear` rounds its inputs, and weights that it was told of, to bfloat16; on a GPU
                 `gram`, `attention`, `cross_attention`, `project_change` and `expand_onto` round too, as is said
                 there, on the CPU they do not */

    /* --- memory of the backend. alloc: 64-byte aligned, uninitialised, NULL where short. upload and
     * download: source, respectively target, is host memory, free to change on return. --- */
    void *(*alloc)(const ousac_backend *backend, size_t count, size_t size);
    void (*release)(const ousac_backend *backend, void *block);
    ousac_status (*upload)(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                           ousac_error *error);
    ousac_status (*download)(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                             ousac_error *error);

    /* --- float32 linear algebra --- */
    /* Y (rows, m) = X (rows, n) W^T (m, n) + bias (m), or + beta Y where bias is NULL. beta 0 never reads Y.
     * With a bias beta must be 0. */
    ousac_status (*linear)(const ousac_backend *backend, size_t rows, size_t m, size_t n, const float *x,
                           size_t ldx, const float *w, size_t ldw, const float *bias, float beta, float *y,
                           size_t ldy, ousac_error *error);
    /* Y (rows, m) = X (rows, r) A (r, m) + beta Y: the second half of a low-rank correction, A stored (r, m).
     */
    ousac_status (*expand)(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *x,
                           size_t ldx, const float *a, size_t lda, float beta, float *y, size_t ldy,
                           ousac_error *error);
    /* Lower triangle (j <= i) of G (n, n) = X^T X, X (rows, n). The upper triangle is not touched, but on a GPU in
     * bfloat16, where X is rounded to TF32: an element is within 2^-10 sum |x_i x_j| of its own, and an error of
     * float32. */
    ousac_status (*gram)(const ousac_backend *backend, size_t rows, size_t n, const float *x, size_t ldx,
                         float *g, size_t ldg, ousac_error *error);

    /* --- float64 linear algebra, for spectra --- */
    /* C (rows, cols) = op(A) op(B); transposed where the flag is 1. */
    ousac_status (*gemm64)(const ousac_backend *backend, int transpose_a, int transpose_b, size_t rows,
                           size_t cols, size_t inner, double alpha, const double *a, size_t lda,
                           const double *b, size_t ldb, double beta, double *c, size_t ldc,
                           ousac_error *error);
    /* Eigenpairs of a symmetric A (n, n) (lower triangle read). values (n) falling; on return row i of A is
     * the unit eigenvector of values[i], its component of largest magnitude positive (the first of equals).
     * NUMBER where it does not converge or A is not finite. */
    ousac_status (*eigen64)(const ousac_backend *backend, size_t n, double *a, size_t lda, double *values,
                            ousac_error *error);

    /* --- float32 elementwise and attention kernels of the engines --- */
    /* y = layer_norm(x) * (1 + scale) + shift over rows of d; no affine parameters, biased variance, eps
     * inside the root. scale and shift: one row of d per `rows_per_group` consecutive rows, leading dimension
     * ld_mod; both NULL for the plain norm. */
    ousac_status (*norm_modulate)(const ousac_backend *backend, size_t rows, size_t d, const float *x,
                                  float eps, const float *shift, const float *scale, size_t rows_per_group,
                                  size_t ld_mod, float *y, ousac_error *error);
    /* x += gate * y, gate per group of rows as above. */
    ousac_status (*add_gated)(const ousac_backend *backend, size_t rows, size_t d, float *x, const float *y,
                              const float *gate, size_t rows_per_group, size_t ld_mod, ousac_error *error);
    /* y = gelu(x), the tanh form (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) x / 2; y may be x. */
    ousac_status (*gelu_tanh)(const ousac_backend *backend, size_t count, const float *x, float *y,
                              ousac_error *error);
    /* y = x / (1 + exp(-x)); y may be x. */
    ousac_status (*silu)(const ousac_backend *backend, size_t count, const float *x, float *y,
                         ousac_error *error);
    /* gelu_tanh of a part of a matrix's columns, (rows, cols); y may be x with the same leading dimension. */
    ousac_status (*gelu_tanh_rows)(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                   size_t ldx, float *y, size_t ldy, ousac_error *error);
    /* Queries or keys as rotary attention takes them (arXiv 2104.09864), every head by itself: x and y
     * (rows, heads * head_dim). A head u becomes u / sqrt(mean u^2 + eps) * weight, weight (head_dim), or stays
     * where `weight` is NULL; then each pair is turned, y_2p = u_2p cos - u_2p+1 sin, y_2p+1 = u_2p+1 cos +
     * u_2p sin, by the angle of its row: cos and sin of pair p in turns at table + (row % positions) * head_dim +
     * 2 p, or not at all where `table` is NULL. head_dim is even where there is a table (USAGE). y may be x with
     * the same leading dimension. */
    ousac_status (*rotate_heads)(const ousac_backend *backend, size_t rows, size_t heads, size_t head_dim,
                                 const float *x, size_t ldx, float eps, const float *weight,
                                 const float *table, size_t positions, float *y, size_t ldy,
                                 ousac_error *error);
    /* Softmax attention, `batch` sequences of `tokens` rows, `heads` heads of width `head_dim`, scale
     * 1/sqrt(head_dim): q, k, v (batch * tokens, heads * head_dim) with leading dimension ld_qkv, out with
     * ld_out. `work`: what attention_work says.
     *
     * On a GPU in bfloat16, heads of width 128 at most: q, k, v and the weights exp(score - max) are rounded
     * to bfloat16, to nearest even; products, the weights' sum and the rest are float32. With w the exact
     * weights of the rounded inputs, an output is within 2^-8 sum w |v| of theirs, and an error of float32;
     * against q, k and v as they are, scores move by up to (2^-7 + 2^-16) sum |q k| / sqrt(head_dim) besides,
     * values by 2^-8. The tests hold it to both. */
    ousac_status (*attention)(const ousac_backend *backend, size_t batch, size_t tokens, size_t heads,
                              size_t head_dim, const float *q, const float *k, const float *v, size_t ld_qkv,
                              float *out, size_t ld_out, float *work, ousac_error *error);
    /* The same of `queries` rows of a sequence on `keys` other rows, rounded as there: q (batch * queries,
     * heads * head_dim) with leading dimension ld_q, k and v (batch * keys, heads * head_dim) with ld_kv, out as
     * q with ld_out. bias (batch, keys), contiguous, or NULL: added in float32 to every score on that key, after
     * the scale: 0 for a key that is there and -10000, whose exponential is 0 beside any other, for one that is
     * not; where none is, the weights are those of the scores alone. `work`: what attention_work says. */
    ousac_status (*cross_attention)(const ousac_backend *backend, size_t batch, size_t queries, size_t keys,
                                    size_t heads, size_t head_dim, const float *q, size_t ld_q,
                                    const float *k, const float *v, size_t ld_kv, const float *bias,
                                    float *out, size_t ld_out, float *work, ousac_error *error);
    /* Floats that `work` must have where so many queries see so many keys: of attention its tokens, both. Of the sizes
     * alone, never 0; where queries * keys does not fit in memory, more than there is. */
    size_t (*attention_work)(const ousac_backend *backend, size_t queries, size_t keys, size_t head_dim);
    /* y (rows, cols) = a - b. */
    ousac_status (*subtract)(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                             size_t lda, const float *b, size_t ldb, float *y, size_t ldy,
                             ousac_error *error);
    /* y (rows, cols): row i is `scale` times row index[i] of a minus row i of b; `index` is backend memory,
     * NULL for 0, 1, 2... */
    ousac_status (*subtract_rows)(const ousac_backend *backend, size_t rows, size_t cols,
                                  const uint32_t *index, float scale, const float *a, size_t lda,
                                  const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error);
    /* y (rows, cols) = a + s (a - b): where the line through b and then a leads, s of their distance beyond
     * a. */
    ousac_status (*extrapolate)(const ousac_backend *backend, size_t rows, size_t cols, float s,
                                const float *a, size_t lda, const float *b, size_t ldb, float *y, size_t ldy,
                                ousac_error *error);
    /* y[b * stride_y + i] = x[b * stride_x + index[i]] for b < batch, i < count: patches and their inverse.
     */
    ousac_status (*gather)(const ousac_backend *backend, size_t batch, size_t count, const uint32_t *index,
                           const float *x, size_t stride_x, float *y, size_t stride_y, ousac_error *error);
    /* y (rows, cols) = a. */
    ousac_status (*copy)(const ousac_backend *backend, size_t rows, size_t cols, const float *a, size_t lda,
                         float *y, size_t ldy, ousac_error *error);
    /* y += alpha x, vectors. */
    ousac_status (*axpy)(const ousac_backend *backend, size_t count, float alpha, const float *x, float *y,
                         ousac_error *error);
    /* Sums over rows of squares, float64, to host memory: out[g] += sum of x(i, j)^2 over the rows i of group
     * g, rows / rows_per_group groups. */
    ousac_status (*sum_squares)(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                size_t ldx, size_t rows_per_group, double *out, ousac_error *error);
    /* The same of a - b, without storing it. */
    ousac_status (*sum_squares_diff)(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                                     size_t lda, const float *b, size_t ldb, size_t rows_per_group,
                                     double *out, ousac_error *error);
    /* What a cache's reference needs of an activation x, in one pass. Row i of past (rows, cols) stands for
     * row index[i] of x: *square (host memory) += the sum of the squares of these rows of x; where `compare`,
     * *change (host) += that of their differences from past, taken in float64; where `keep`, row i of past is
     * row next[i] of x afterwards. `index` and `next` are backend memory, NULL for 0, 1, 2..., where the sums
     * are those of sum_squares and sum_squares_diff. */
    ousac_status (*measure_change)(const ousac_backend *backend, size_t rows, size_t cols,
                                   const uint32_t *index, const uint32_t *next, const float *x, size_t ldx,
                                   float *past, size_t ld_past, int compare, int keep, double *square,
                                   double *change, ousac_error *error);
    /* Sums over rows of absolute values, per column, float64, to host memory: out (rows / rows_per_group,
     * cols), contiguous; out(g, j) += sum of |x(i, j)| over the rows i of group g. */
    ousac_status (*sum_abs_columns)(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                                    size_t ldx, size_t rows_per_group, double *out, ousac_error *error);
    /* The same of a - b, without storing it. */
    ousac_status (*sum_abs_columns_diff)(const ousac_backend *backend, size_t rows, size_t cols,
                                         const float *a, size_t lda, const float *b, size_t ldb,
                                         size_t rows_per_group, double *out, ousac_error *error);
    /* Packed lower triangle in float64, element (i, j <= i) at i (i + 1) / 2 + j: packed += weight * g. */
    ousac_status (*accumulate_packed)(const ousac_backend *backend, size_t n, double weight, const float *g,
                                      size_t ldg, double *packed, ousac_error *error);
    /* *finite (host memory) = 1 where every element is finite, else 0. */
    ousac_status (*all_finite)(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                               size_t ldx, int *finite, ousac_error *error);

    /* --- the two halves of a cached linear, each in one pass over the caches ---
     *
     * On a GPU in bfloat16 both factors of either product are rounded to bfloat16, to nearest even: B and the
     * change X - X0 - s (X0 - X1) after it was made in float32; Z and A. Sums, forecasts and outputs are
     * float32. A sum of products is within (2^-7 + 2^-16) of the sum of their magnitudes, and an error of
     * float32; against the rounded factors only the latter is left. So Y is off by a share of the correction,
     * not of Y: where there is nothing to correct, what is cached comes back to the bit. The tests hold it to
     * all three. */
    /* Z (rows, r) = (X - X0 - s (X0 - X1)) B^T, B (r, n): X, X0 = last and X1 = before (rows, n), the latter
     * two with leading dimension ld_past; before may be NULL where s is 0 (USAGE elsewhere) and is not read
     * there. work: rows * n floats, contents undefined afterwards; a backend may do without. It may be X itself,
     * contiguous (ldx = n), which says that nobody reads X again: its contents too are undefined then, and a backend may
     * never have made them, where X was still to come from operations of the same sequence. */
    ousac_status (*project_change)(const ousac_backend *backend, size_t rows, size_t r, size_t n, float s,
                                   const float *x, size_t ldx, const float *last, const float *before,
                                   size_t ld_past, const float *b, size_t ldb, float *z, size_t ldz,
                                   float *work, ousac_error *error);
    /* Y (rows, m) = Y0 + s (Y0 - Y1) + Z (rows, r) A (r, m): Y0 = last and Y1 = before (rows, m), with
     * leading dimension ld_past; before as above. Y is not read; r may be 0. */
    ousac_status (*expand_onto)(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *z,
                                size_t ldz, const float *a, size_t lda, float s, const float *last,
                                const float *before, size_t ld_past, float *y, size_t ldy,
                                ousac_error *error);

    /* Says that w (count), a whole block of `alloc`, holds weights that do not change before its release: a
     * backend may keep them in another form for `linear`. Nothing on the CPU backend. */
    ousac_status (*prepare)(const ousac_backend *backend, size_t count, const float *w, ousac_error *error);

    /* --- what a backend may lack: NULL --- */
    /* A block for `count` weights that holds them in another form than float32 and so in less memory: upload
     * writes into it, linear takes its W from it, release frees it, and nothing else may be given an address
     * within it. NULL where memory is short. */
    float *(*alloc_weights)(const ousac_backend *backend, size_t count);
    /* Sequences: what the calling thread calls between begin and end may run at the end, as one, which spares
     * a device the launches. Results are those of the same calls without a sequence: an operation with
     * results in host memory, alloc and release first run what came before them; sum_squares,
     * sum_squares_diff and measure_change alone may add their sums, whose place must last that long, as late
     * as the end. Wrong arguments
     * and failures too may be reported that late; the contents of an upload are taken at once, but other
     * threads see them only after the sequence and a later transfer. Sequences do not nest (USAGE). Where
     * `run` is 0, what has not run yet is forgotten: after a failure, so that another may begin. Both are
     * NULL or neither. */
    ousac_status (*sequence_begin)(const ousac_backend *backend, ousac_error *error);
    ousac_status (*sequence_end)(const ousac_backend *backend, int run, ousac_error *error);
};

/* The CPU backend: OpenBLAS, LAPACKE and kernels built for several instruction sets, chosen at run time
 * (OUSAC_ISA=base|avx2|avx512 in the environment narrows the choice, for tests). Static storage; never NULL.
 * Its first call sets OpenBLAS to one thread per call. */
const ousac_backend *ousac_backend_cpu(void);

#ifdef __cplusplus
}
#endif
#endif
