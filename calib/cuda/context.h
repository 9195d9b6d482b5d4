/* Internal to the CUDA plug-in: one backend's state, the per-thread contexts behind its operations, and the
 * checks that every operation makes. C++17, host code; the kernels are declared in kernels.h.
 *
 * A thread that calls an operation gets a context: a stream, a cuBLAS handle with a workspace of its own (so
 * that products do not depend on what other streams run), and scratch. The context goes back to a list when
 * the thread ends and is destroyed with the backend.
 */
#ifndef OUSAC_CUDA_CONTEXT_H
#define OUSAC_CUDA_CONTEXT_H

#include "calib/backend/backend.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <cstddef>
#include <cstdint>
#include <pthread.h>

namespace ousac_cuda {

struct State;
struct Sequence;
struct Matmul;

/* What NVIDIA advises for Hopper and later; more than earlier processors use. */
constexpr size_t BLAS_WORKSPACE_BYTES = 32U << 20;

struct Context {
    State *state;
    Context *next_all, *next_idle;
    cudaStream_t stream;
    cublasHandle_t blas;
    void *blas_workspace;
    cusolverDnHandle_t solver; /* made by the first eigenproblem */
    cusolverDnParams_t solver_params;
    void *scratch; /* device memory, grown on demand; contents last for one operation */
    size_t scratch_bytes;
    void *pinned; /* page-locked host memory, likewise */
    size_t pinned_bytes;
    unsigned *blocks_done; /* device memory: a count of blocks, 0 between kernels */
    void *counts;          /* device memory: see counts */
    size_t counts_bytes;
    void *ahead; /* device memory: see round_ahead */
    size_t ahead_bytes;
    const float *ahead_of; /* what it is the rounded form of: NULL for nothing */
    size_t ahead_count;
    /* While a sequence runs: the calls behind the one that runs, up to their end, or NULL; of how many of these the work is
     * done; the first is a linear. */
    const unsigned char *next_call, *calls_end;
    unsigned calls_done;
    bool linear_next;
    Sequence *sequence; /* made by the first */
    Matmul *matmuls;    /* of shapes met so far */
    bool capturing;     /* the stream's work goes into a graph, and nothing may wait for it */
};

/* A block of weights in bfloat16. bf16.cpp */
struct Weights;

struct State {
    ousac_backend table;
    int device;
    int tf32, graphs;
    char detail[256];
    pthread_key_t key;     /* the calling thread's Context */
    pthread_mutex_t mutex; /* over what follows */
    Context *all, *idle;
    Weights *weights;
    uint64_t weights_released; /* how many blocks of them */
    uint64_t released;         /* how many blocks in all */
};

/* The lists and the thread key of a state whose device is set. Stopping destroys every context: no thread
 * may be using the backend. */
ousac_status start_contexts(State *state, ousac_error *error);
void stop_contexts(State *state);

/* Makes the backend's device current and finds the calling thread's context, or makes it. */
ousac_status enter(const ousac_backend *backend, const char *operation, Context **context,
                   ousac_error *error);
/* The context of the calling thread where it has one, else NULL. */
Context *present(const ousac_backend *backend);

/* At least `bytes` of the context's scratch, 256-byte aligned. Waits for the stream where it must grow. */
ousac_status scratch(Context *context, const char *operation, size_t bytes, void **block, ousac_error *error);
ousac_status pinned(Context *context, const char *operation, size_t bytes, void **block, ousac_error *error);

/* So many counts in device memory, which are 0: a kernel that counts in them leaves them so. Grown on demand, as scratch is.
 */
ousac_status counts(Context *context, const char *operation, size_t count, unsigned **block,
                    ousac_error *error);

/* Copies device memory to the context's pinned memory and waits for it and all that was queued before. */
ousac_status fetch(Context *context, const char *operation, const void *source, size_t bytes, void **host,
                   ousac_error *error);

/* --- errors: each names the operation at which the failure was seen; since work is queued, an earlier one of
 * the same thread may have caused it --- */
ousac_status check(cudaError_t result, const char *operation, ousac_error *error);
ousac_status check(cublasStatus_t result, const char *operation, ousac_error *error);
ousac_status check(cusolverStatus_t result, const char *operation, ousac_error *error);
/* After a kernel launch. */
ousac_status launched(const char *operation, ousac_error *error);

/* --- arguments; the messages are those of the CPU backend --- */
ousac_status check_view(const char *operation, const char *argument, size_t rows, size_t cols, size_t ld,
                        size_t size, ousac_error *error);
ousac_status check_whole_groups(const char *operation, size_t rows, size_t rows_per_group,
                                ousac_error *error);
ousac_status check_groups(const char *operation, size_t rows, size_t rows_per_group, ousac_error *error);

/* Sizes of one product as cuBLAS takes them; USAGE where one is too large. */
struct Product {
    int rows, cols, inner, lda, ldb, ldc;
};
ousac_status narrow(const char *operation, Product *product, size_t rows, size_t cols, size_t inner,
                    size_t lda, size_t ldb, size_t ldc, ousac_error *error);

/* --- the operations of the table, by file --- */

/* linear.cpp */
ousac_status linear(const ousac_backend *, size_t rows, size_t m, size_t n, const float *x, size_t ldx,
                    const float *w, size_t ldw, const float *bias, float beta, float *y, size_t ldy,
                    ousac_error *error);
ousac_status expand(const ousac_backend *, size_t rows, size_t m, size_t r, const float *x, size_t ldx,
                    const float *a, size_t lda, float beta, float *y, size_t ldy, ousac_error *error);
ousac_status project_change(const ousac_backend *, size_t rows, size_t r, size_t n, float s, const float *x,
                            size_t ldx, const float *last, const float *before, size_t ld_past,
                            const float *b, size_t ldb, float *z, size_t ldz, float *work,
                            ousac_error *error);
ousac_status expand_onto(const ousac_backend *, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                         const float *a, size_t lda, float s, const float *last, const float *before,
                         size_t ld_past, float *y, size_t ldy, ousac_error *error);
ousac_status gram(const ousac_backend *, size_t rows, size_t n, const float *x, size_t ldx, float *g,
                  size_t ldg, ousac_error *error);
ousac_status gemm64(const ousac_backend *, int transpose_a, int transpose_b, size_t rows, size_t cols,
                    size_t inner, double alpha, const double *a, size_t lda, const double *b, size_t ldb,
                    double beta, double *c, size_t ldc, ousac_error *error);
ousac_status attention(const ousac_backend *, size_t batch, size_t tokens, size_t heads, size_t head_dim,
                       const float *q, const float *k, const float *v, size_t ld_qkv, float *out,
                       size_t ld_out, float *work, ousac_error *error);
size_t attention_work(const ousac_backend *, size_t queries, size_t keys, size_t head_dim);
ousac_status cross_attention(const ousac_backend *, size_t batch, size_t queries, size_t keys, size_t heads,
                             size_t head_dim, const float *q, size_t ld_q, const float *k, const float *v,
                             size_t ld_kv, const float *bias, float *out, size_t ld_out, float *work,
                             ousac_error *error);

/* --- sequence.cpp --- */

/* Graphs hold the address of the scratch. */
void forget_graphs(Sequence *sequence);
/* The thread is gone. */
void sequence_abandon(Sequence *sequence);
void sequence_free(Sequence *sequence);

/* bf16.cpp: of a backend whose `bf16` is 1 */
ousac_status prepare_bf16(const ousac_backend *, size_t count, const float *w, ousac_error *error);
float *alloc_weights(const ousac_backend *, size_t count);
/* *done = 1 where the target lies in a block of alloc_weights, which then has the values, or in part. */
ousac_status upload_weights(const ousac_backend *, void *target, const void *source, size_t bytes, int *done,
                            ousac_error *error);
/* Forgets the block; 1 where that was all there was to release. No thread may use it any more. */
int release_weights(const ousac_backend *, const void *block);
/* The rounded form of W (m, n) where a linear of so many rows takes it; else NULL. */
const uint16_t *rounded_weights(const ousac_backend *, size_t rows, size_t m, size_t n, const float *w,
                                size_t ldw, float beta);
/* Y = X W^T + bias, or + beta Y where bias is NULL; sizes checked, none 0. */
ousac_status linear_bf16(Context *context, const Product *p, const float *x, const uint16_t *w,
                         const float *bias, float beta, float *y, ousac_error *error);

/* Where an operation that writes `count` values y, contiguous, is to leave them rounded to bfloat16 as well, for the
 * linear that is called next; NULL where none is, or where there is no room. */
uint16_t *round_ahead(Context *context, const float *y, size_t count);

/* matmul_bf16.cpp: the same of inputs (rows, n) that are rounded and contiguous; *done = 0 where the library
 * has no way for these sizes, and nothing was done. */
ousac_status multiply_bf16(Context *context, const Product *p, const uint16_t *w, const uint16_t *x,
                           const float *bias, float beta, float *y, int *done, ousac_error *error);
void free_matmuls(Matmul *matmuls);

/* eigen.cu */
ousac_status eigen64(const ousac_backend *, size_t n, double *a, size_t lda, double *values,
                     ousac_error *error);

/* norm.cu */
ousac_status norm_modulate(const ousac_backend *, size_t rows, size_t d, const float *x, float eps,
                           const float *shift, const float *scale, size_t rows_per_group, size_t ld_mod,
                           float *y, ousac_error *error);

/* elementwise.cu */
ousac_status add_gated(const ousac_backend *, size_t rows, size_t d, float *x, const float *y,
                       const float *gate, size_t rows_per_group, size_t ld_mod, ousac_error *error);
ousac_status gelu_tanh(const ousac_backend *, size_t count, const float *x, float *y, ousac_error *error);
ousac_status silu(const ousac_backend *, size_t count, const float *x, float *y, ousac_error *error);
ousac_status gelu_tanh_rows(const ousac_backend *, size_t rows, size_t cols, const float *x, size_t ldx,
                            float *y, size_t ldy, ousac_error *error);
ousac_status rotate_heads(const ousac_backend *, size_t rows, size_t heads, size_t head_dim, const float *x,
                          size_t ldx, float eps, const float *weight, const float *table, size_t positions,
                          float *y, size_t ldy, ousac_error *error);
ousac_status subtract(const ousac_backend *, size_t rows, size_t cols, const float *a, size_t lda,
                      const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error);
ousac_status subtract_rows(const ousac_backend *, size_t rows, size_t cols, const uint32_t *index,
                           float scale, const float *a, size_t lda, const float *b, size_t ldb, float *y,
                           size_t ldy, ousac_error *error);
ousac_status extrapolate(const ousac_backend *, size_t rows, size_t cols, float s, const float *a, size_t lda,
                         const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error);
ousac_status gather(const ousac_backend *, size_t batch, size_t count, const uint32_t *index, const float *x,
                    size_t stride_x, float *y, size_t stride_y, ousac_error *error);
ousac_status copy(const ousac_backend *, size_t rows, size_t cols, const float *a, size_t lda, float *y,
                  size_t ldy, ousac_error *error);
ousac_status axpy(const ousac_backend *, size_t count, float alpha, const float *x, float *y,
                  ousac_error *error);
ousac_status accumulate_packed(const ousac_backend *, size_t n, double weight, const float *g, size_t ldg,
                               double *packed, ousac_error *error);

/* reduce.cu */
ousac_status sum_squares(const ousac_backend *, size_t rows, size_t cols, const float *x, size_t ldx,
                         size_t rows_per_group, double *out, ousac_error *error);
ousac_status sum_squares_diff(const ousac_backend *, size_t rows, size_t cols, const float *a, size_t lda,
                              const float *b, size_t ldb, size_t rows_per_group, double *out,
                              ousac_error *error);
ousac_status measure_change(const ousac_backend *, size_t rows, size_t cols, const uint32_t *index,
                            const uint32_t *next, const float *x, size_t ldx, float *past, size_t ld_past,
                            int compare, int keep, double *square, double *change, ousac_error *error);
ousac_status sum_abs_columns(const ousac_backend *, size_t rows, size_t cols, const float *x, size_t ldx,
                             size_t rows_per_group, double *out, ousac_error *error);
ousac_status sum_abs_columns_diff(const ousac_backend *, size_t rows, size_t cols, const float *a, size_t lda,
                                  const float *b, size_t ldb, size_t rows_per_group, double *out,
                                  ousac_error *error);
ousac_status all_finite(const ousac_backend *, size_t rows, size_t cols, const float *x, size_t ldx,
                        int *finite, ousac_error *error);

/* --- kernels that other files launch; sizes are checked by the caller and never 0 --- */

/* y (rows, cols) = row, repeated. elementwise.cu */
ousac_status fill_rows(Context *context, const char *operation, size_t rows, size_t cols, const float *row,
                       float *y, size_t ldy, ousac_error *error);
/* y (rows, cols), contiguous = x in bfloat16, rounded to nearest even. elementwise.cu */
ousac_status round_rows(Context *context, const char *operation, size_t rows, size_t cols, const float *x,
                        size_t ldx, uint16_t *y, ousac_error *error);
/* y = beta y, where beta 0 clears without reading. elementwise.cu */
ousac_status scale_rows(Context *context, const char *operation, size_t rows, size_t cols, float beta,
                        float *y, size_t ldy, ousac_error *error);
ousac_status scale_rows(Context *context, const char *operation, size_t rows, size_t cols, double beta,
                        double *y, size_t ldy, ousac_error *error);
/* Zeroes the lower triangle of g (n, n). elementwise.cu */
ousac_status clear_lower(Context *context, const char *operation, size_t n, float *g, size_t ldg,
                         ousac_error *error);
/* Rows of x (rows, cols), contiguous, become their softmax, after bias (cols), or NULL, was added. attention.cu */
ousac_status softmax_rows(Context *context, const char *operation, size_t rows, size_t cols,
                          const float *bias, float *x, ousac_error *error);
/* One block for every `queries` of every head: tiles of a sequence, and blocks in all. USAGE where these are
 * too many for one launch. attention.cu */
ousac_status attention_grid(size_t batch, size_t tokens, size_t heads, size_t queries, size_t *query_tiles,
                            unsigned *blocks, ousac_error *error);
/* Y = X W^T + bias (NULL for none) of few rows, at most FEW_ROWS_MAX, bound by the reading of W; *done 0, and nothing done,
 * where W or X cannot be read in fours. few_rows.cu */
enum { FEW_ROWS_MAX = 31 };
ousac_status linear_few_rows(Context *context, const Product *p, const float *x, const float *w,
                             const float *bias, float *y, int *done, ousac_error *error);
/* What attention and cross attention share: as in ousac_backend. */
struct AttentionJob {
    size_t batch, queries, keys, heads, head_dim;
    const float *q, *k, *v, *bias;
    size_t ld_q, ld_kv, ld_out;
    float *out;
};
/* Attention for head_dim <= ATTENTION_HEAD_DIM_MAX without a matrix of scores. attention.cu */
enum { ATTENTION_HEAD_DIM_MAX = 128 };
ousac_status attention_prepare(ousac_error *error); /* once per device, before the first call */
ousac_status attention_tiled(Context *context, const char *operation, const AttentionJob &job,
                             ousac_error *error);
/* The same with Q, K, V and the weights rounded to bfloat16, and round_ahead; compute capability 8.0. attention_bf16.cu */
ousac_status attention_bf16_prepare(ousac_error *error);
ousac_status attention_bf16(Context *context, const char *operation, const AttentionJob &job,
                            ousac_error *error);
/* work (rows, n), contiguous = x - last - s (last - before); before NULL: x - last. elementwise.cu */
ousac_status subtract_past(const ousac_backend *, const char *operation, size_t rows, size_t n, float s,
                           const float *x, size_t ldx, const float *last, const float *before, size_t ld_past,
                           float *work, ousac_error *error);
/* project_change for 1 <= r and n on the matrix units, the difference and B rounded to bfloat16; before NULL
 * where s is 0; compute capability 8.0. project_bf16.cu */
ousac_status project_bf16(Context *context, size_t rows, size_t r, size_t n, float s, const float *x,
                          size_t ldx, const float *last, const float *before, size_t ld_past, const float *b,
                          size_t ldb, float *z, size_t ldz, ousac_error *error);
/* expand_onto for 1 <= r in one pass; before NULL where s is 0; `activated`: gelu_tanh of it. low_rank.cu */
ousac_status expand_tiled(Context *context, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                          const float *a, size_t lda, float s, const float *last, const float *before,
                          size_t ld_past, bool activated, float *y, size_t ldy, ousac_error *error);
/* The same with Z and A rounded to bfloat16; compute capability 8.0. expand_bf16.cu */
ousac_status expand_bf16(Context *context, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                         const float *a, size_t lda, float s, const float *last, const float *before,
                         size_t ld_past, bool activated, float *y, size_t ldy, ousac_error *error);

/* What expand_onto and project_change are given, as in ousac_backend; before NULL where s is 0. */
struct ExpandJob {
    size_t rows, m, r;
    const float *z;
    size_t ldz;
    const float *a;
    size_t lda;
    float s;
    const float *last, *before;
    size_t ld_past;
};
struct ProjectJob {
    size_t rows, r, n;
    float s;
    const float *last, *before;
    size_t ld_past;
    const float *b;
    size_t ldb;
    float *z;
    size_t ldz;
};
/* project_bf16 of gelu_tanh of expand_bf16, none of the sizes 0, without what lies between them; *done false, and nothing
 * done, where ranks are too large, places not those of four floats, only one is a forecast, or outputs overlap inputs.
 * mlp_bf16.cu */
ousac_status mlp_bf16_prepare(ousac_error *error); /* once per device, before the first call */
ousac_status mlp_bf16(Context *context, const ExpandJob &expand, const ProjectJob &project, bool *done,
                      ousac_error *error);

} // namespace ousac_cuda
#endif
