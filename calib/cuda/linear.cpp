/* Matrix products of the CUDA plug-in. A row-major matrix is its transpose to cuBLAS, which is column-major;
 * every product here is therefore the transposed one, C^T = op(B)^T op(A)^T, with the operands exchanged. */
#include "calib/cuda/context.h"
#include "calib/cuda/sequence.h"

#include <cmath>
#include <cstdint>

namespace ousac_cuda {

ousac_status linear(const ousac_backend *backend, size_t rows, size_t m, size_t n, const float *x, size_t ldx,
                    const float *w, size_t ldw, const float *bias, float beta, float *y, size_t ldy,
                    ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((status = check_view("linear", "X", rows, n, ldx, sizeof *x, error)) ||
        (status = check_view("linear", "W", m, n, ldw, sizeof *w, error)) ||
        (status = check_view("linear", "Y", rows, m, ldy, sizeof *y, error)))
        return status;
    if (bias != nullptr && beta != 0.0F)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "linear: beta %g beside a bias: expected 0",
                          static_cast<double>(beta));
    if ((status = narrow("linear", &p, rows, m, n, ldx, ldw, ldy, error)) || rows == 0 || m == 0)
        return status;
    const uint16_t *rounded = rounded_weights(backend, rows, m, n, w, ldw, beta);
    if ((status = enter(backend, "linear", &c, error)))
        return status;
    if (rounded != nullptr)
        return linear_bf16(c, &p, x, rounded, bias, beta, y, error);
    if (rows <= FEW_ROWS_MAX && beta == 0.0F) {
        int done = 0;
        if ((status = linear_few_rows(c, &p, x, w, bias, y, &done, error)) || done)
            return status;
    }
    if (bias != nullptr) {
        if ((status = fill_rows(c, "linear", rows, m, bias, y, ldy, error)))
            return status;
        beta = 1.0F;
    }
    if (n == 0)
        return scale_rows(c, "linear", rows, m, beta, y, ldy, error);
    const float one = 1.0F;
    return check(cublasSgemm(c->blas, CUBLAS_OP_T, CUBLAS_OP_N, p.cols, p.rows, p.inner, &one, w, p.ldb, x,
                             p.lda, &beta, y, p.ldc),
                 "linear", error);
}

/* Y = X A + beta Y on the context's stream; sizes checked, r may be 0. */
static ousac_status multiply(Context *c, const char *operation, const Product *p, size_t rows, size_t m,
                             const float *x, const float *a, float beta, float *y, size_t ldy,
                             ousac_error *error) {
    const float one = 1.0F;
    if (p->inner == 0)
        return scale_rows(c, operation, rows, m, beta, y, ldy, error);
    return check(cublasSgemm(c->blas, CUBLAS_OP_N, CUBLAS_OP_N, p->cols, p->rows, p->inner, &one, a, p->ldb,
                             x, p->lda, &beta, y, p->ldc),
                 operation, error);
}

ousac_status expand(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *x, size_t ldx,
                    const float *a, size_t lda, float beta, float *y, size_t ldy, ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((status = check_view("expand", "X", rows, r, ldx, sizeof *x, error)) ||
        (status = check_view("expand", "A", r, m, lda, sizeof *a, error)) ||
        (status = check_view("expand", "Y", rows, m, ldy, sizeof *y, error)) ||
        (status = narrow("expand", &p, rows, m, r, ldx, lda, ldy, error)) || rows == 0 || m == 0)
        return status;
    if ((status = enter(backend, "expand", &c, error)))
        return status;
    return multiply(c, "expand", &p, rows, m, x, a, beta, y, ldy, error);
}

/* What lies before a cached value: nothing where s is 0. */
static ousac_status check_past(const char *operation, const float *before, float s, ousac_error *error) {
    if (before == nullptr && s != 0.0F)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: an extrapolation by %g from one matrix: expected two, or 0", operation,
                          static_cast<double>(s));
    return OUSAC_STATUS_OK;
}

static ousac_status check_projection(Product *p, size_t rows, size_t r, size_t n, float s, size_t ldx,
                                     const float *before, size_t ld_past, size_t ldb, size_t ldz,
                                     ousac_error *error) {
    ousac_status status;
    if ((status = check_past("project_change", before, s, error)) ||
        (status = check_view("project_change", "X", rows, n, ldx, sizeof(float), error)) ||
        (status = check_view("project_change", "past", rows, n, ld_past, sizeof(float), error)) ||
        (status = check_view("project_change", "work", rows, n, n, sizeof(float), error)) ||
        (status = check_view("project_change", "B", r, n, ldb, sizeof(float), error)) ||
        (status = check_view("project_change", "Z", rows, r, ldz, sizeof(float), error)))
        return status;
    return narrow("project_change", p, rows, r, n, ldx, ldb, ldz, error);
}

ousac_status project_change(const ousac_backend *backend, size_t rows, size_t r, size_t n, float s,
                            const float *x, size_t ldx, const float *last, const float *before,
                            size_t ld_past, const float *b, size_t ldb, float *z, size_t ldz, float *work,
                            ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status = check_projection(&p, rows, r, n, s, ldx, before, ld_past, ldb, ldz, error);
    if (status)
        return status;
    if (s == 0.0F)
        before = nullptr;
    if (backend->bf16 && rows > 0 && r > 0 && n > 0) {
        if ((status = enter(backend, "project_change", &c, error)))
            return status;
        return project_bf16(c, rows, r, n, s, x, ldx, last, before, ld_past, b, ldb, z, ldz, error);
    }
    if ((status = subtract_past(backend, "project_change", rows, n, s, x, ldx, last, before, ld_past, work,
                                error)))
        return status;
    return linear(backend, rows, r, n, work, n, b, ldb, nullptr, 0.0F, z, ldz, error);
}

/* In float32, up to this rank the product is bound by memory (2 r flops for every output of 4 bytes), and one
 * pass over the outputs less is worth more than the library's faster arithmetic: by these numbers, not by
 * measurement. */
enum { TILED_RANK_MAX = 128 };

/* Whether the next call of the sequence is gelu_tanh of the whole of Y in its place: it is then done on the way. */
static bool activation_follows(const ousac_backend *backend, size_t rows, size_t m, const float *y,
                               size_t ldy) {
    std::tuple<size_t, const float *, float *, ousac_error *> next;
    Context *c = present(backend);
    if (c == nullptr || ldy != m || (m > 0 && rows > SIZE_MAX / m) || !Recorded<gelu_tanh>::follows(c, &next))
        return false;
    if (std::get<0>(next) != rows * m || std::get<1>(next) != y || std::get<2>(next) != y)
        return false;
    c->calls_done = 1;
    return true;
}

/* Whether, after that, project_change consumes Y: then nobody else reads it. */
static bool projection_follows(const Context *c, size_t rows, size_t m, const float *y, ProjectJob *job) {
    std::tuple<size_t, size_t, size_t, float, const float *, size_t, const float *, const float *, size_t,
               const float *, size_t, float *, size_t, float *, ousac_error *>
        behind;
    Product p;
    if (!Recorded<project_change>::follows(c, &behind, 1))
        return false;
    const auto [count, r, n, s, x, ldx, last, before, ld_past, b, ldb, z, ldz, work, error] = behind;
    (void)error;
    *job = {count, r, n, s, last, s == 0.0F ? nullptr : before, ld_past, b, ldb, z, ldz};
    return count == rows && n == m && r > 0 && x == y && work == y && ldx == m &&
           check_projection(&p, rows, r, n, s, ldx, before, ld_past, ldb, ldz, nullptr) == OUSAC_STATUS_OK;
}

ousac_status expand_onto(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *z,
                         size_t ldz, const float *a, size_t lda, float s, const float *last,
                         const float *before, size_t ld_past, float *y, size_t ldy, ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((status = check_past("expand_onto", before, s, error)) ||
        (status = check_view("expand_onto", "Z", rows, r, ldz, sizeof *z, error)) ||
        (status = check_view("expand_onto", "A", r, m, lda, sizeof *a, error)) ||
        (status = check_view("expand_onto", "past", rows, m, ld_past, sizeof *last, error)) ||
        (status = check_view("expand_onto", "Y", rows, m, ldy, sizeof *y, error)) ||
        (status = narrow("expand_onto", &p, rows, m, r, ldz, lda, ldy, error)) || rows == 0 || m == 0)
        return status;
    if (s == 0.0F)
        before = nullptr;
    const bool activated = activation_follows(backend, rows, m, y, ldy);
    ProjectJob consumer;
    if (activated && backend->bf16 && r > 0 && projection_follows(present(backend), rows, m, y, &consumer)) {
        bool done = false;
        if ((status = enter(backend, "expand_onto", &c, error)))
            return status;
        status = mlp_bf16(c, {rows, m, r, z, ldz, a, lda, s, last, before, ld_past}, consumer, &done, error);
        c->calls_done = done ? 2 : 1;
        if (status || done)
            return status;
    }
    const bool tiled = r <= TILED_RANK_MAX && !static_cast<const State *>(backend->state)->tf32;
    if (r > 0 && (backend->bf16 || tiled)) {
        if ((status = enter(backend, "expand_onto", &c, error)))
            return status;
        return (backend->bf16 ? expand_bf16 : expand_tiled)(c, rows, m, r, z, ldz, a, lda, s, last, before,
                                                            ld_past, activated, y, ldy, error);
    }
    status = before == nullptr
                 ? copy(backend, rows, m, last, ld_past, y, ldy, error)
                 : extrapolate(backend, rows, m, s, last, ld_past, before, ld_past, y, ldy, error);
    if (!status && r > 0 && !(status = enter(backend, "expand_onto", &c, error)))
        status = multiply(c, "expand_onto", &p, rows, m, z, a, 1.0F, y, ldy, error);
    return status || !activated ? status : gelu_tanh_rows(backend, rows, m, y, ldy, y, ldy, error);
}

ousac_status gram(const ousac_backend *backend, size_t rows, size_t n, const float *x, size_t ldx, float *g,
                  size_t ldg, ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((status = check_view("gram", "X", rows, n, ldx, sizeof *x, error)) ||
        (status = check_view("gram", "G", n, n, ldg, sizeof *g, error)) ||
        (status = narrow("gram", &p, n, n, rows, ldx, ldx, ldg, error)) || n == 0)
        return status;
    if ((status = enter(backend, "gram", &c, error)))
        return status;
    if (rows == 0)
        return clear_lower(c, "gram", n, g, ldg, error);
    /* To cuBLAS, X is the (n, rows) matrix X^T, G = X^T (X^T)^T, and our lower triangle is its upper one. */
    const float one = 1.0F, zero = 0.0F;
    if (backend->bf16) { /* twice the products, on the matrix units */
        if ((status = check(cublasSetMathMode(c->blas, CUBLAS_TF32_TENSOR_OP_MATH), "gram", error)))
            return status;
        status = check(cublasSgemm(c->blas, CUBLAS_OP_N, CUBLAS_OP_T, p.rows, p.rows, p.inner, &one, x, p.lda,
                                   x, p.lda, &zero, g, p.ldc),
                       "gram", error);
        const ousac_status restored = check(
            cublasSetMathMode(c->blas, c->state->tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH),
            "gram", status ? nullptr : error);
        return status ? status : restored;
    }
    return check(cublasSsyrk(c->blas, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, p.rows, p.inner, &one, x, p.lda,
                             &zero, g, p.ldc),
                 "gram", error);
}

ousac_status gemm64(const ousac_backend *backend, int transpose_a, int transpose_b, size_t rows, size_t cols,
                    size_t inner, double alpha, const double *a, size_t lda, const double *b, size_t ldb,
                    double beta, double *c, size_t ldc, ousac_error *error) {
    Context *context = nullptr;
    Product p;
    ousac_status status;
    if ((status = check_view("gemm64", "A", transpose_a ? inner : rows, transpose_a ? rows : inner, lda,
                             sizeof *a, error)) ||
        (status = check_view("gemm64", "B", transpose_b ? cols : inner, transpose_b ? inner : cols, ldb,
                             sizeof *b, error)) ||
        (status = check_view("gemm64", "C", rows, cols, ldc, sizeof *c, error)) ||
        (status = narrow("gemm64", &p, rows, cols, inner, lda, ldb, ldc, error)) || rows == 0 || cols == 0)
        return status;
    if ((status = enter(backend, "gemm64", &context, error)))
        return status;
    if (inner == 0)
        return scale_rows(context, "gemm64", rows, cols, beta, c, ldc, error);
    return check(cublasDgemm(context->blas, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                             transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, p.cols, p.rows, p.inner, &alpha, b,
                             p.ldb, a, p.lda, &beta, c, p.ldc),
                 "gemm64", error);
}

/* Head by head through the matrix of scores: for heads too wide for the tiled kernel. */
static ousac_status attention_by_scores(Context *c, const char *operation, const AttentionJob &job,
                                        float *work, ousac_error *error) {
    const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(job.head_dim)));
    const float one = 1.0F, zero = 0.0F;
    Product p;
    ousac_status status =
        narrow(operation, &p, job.queries, job.keys, job.head_dim, job.ld_q, job.ld_kv, job.ld_out, error);
    for (size_t b = 0; b < job.batch; b++)
        for (size_t h = 0; h < job.heads && !status; h++) {
            const size_t query = b * job.queries, key = b * job.keys, column = h * job.head_dim;
            /* scores (queries, keys) = scale Q K^T; work is contiguous */
            status = check(cublasSgemm(c->blas, CUBLAS_OP_T, CUBLAS_OP_N, p.cols, p.rows, p.inner, &scale,
                                       job.k + key * job.ld_kv + column, p.ldb,
                                       job.q + query * job.ld_q + column, p.lda, &zero, work, p.cols),
                           operation, error);
            if (!status)
                status = softmax_rows(c, operation, job.queries, job.keys,
                                      job.bias == nullptr ? nullptr : job.bias + key, work, error);
            /* out (queries, head_dim) = scores V */
            if (!status)
                status = check(cublasSgemm(c->blas, CUBLAS_OP_N, CUBLAS_OP_N, p.inner, p.rows, p.cols, &one,
                                           job.v + key * job.ld_kv + column, p.ldb, work, p.cols, &zero,
                                           job.out + query * job.ld_out + column, p.ldc),
                               operation, error);
        }
    return status;
}

size_t attention_work(const ousac_backend *, size_t queries, size_t keys, size_t head_dim) {
    if (head_dim <= ATTENTION_HEAD_DIM_MAX || queries == 0 || keys == 0)
        return 1;
    return queries > SIZE_MAX / keys ? SIZE_MAX : queries * keys;
}

ousac_status attention(const ousac_backend *backend, size_t batch, size_t tokens, size_t heads,
                       size_t head_dim, const float *q, const float *k, const float *v, size_t ld_qkv,
                       float *out, size_t ld_out, float *work, ousac_error *error) {
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((head_dim > 0 && heads > SIZE_MAX / head_dim) || (tokens > 0 && batch > SIZE_MAX / tokens))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "attention: sizes %zu, %zu, %zu, %zu: expected products that fit in memory", batch,
                          tokens, heads, head_dim);
    if ((status = check_view("attention", "q", batch * tokens, heads * head_dim, ld_qkv, sizeof *q, error)) ||
        (status =
             check_view("attention", "out", batch * tokens, heads * head_dim, ld_out, sizeof *out, error)) ||
        (status = check_view("attention", "work", tokens, tokens, tokens, sizeof *work, error)) ||
        (status = narrow("attention", &p, tokens, heads, head_dim, ld_qkv, ld_out, tokens, error)) ||
        batch == 0 || tokens == 0 || heads == 0 || head_dim == 0)
        return status;
    if ((status = enter(backend, "attention", &c, error)))
        return status;
    const AttentionJob job = {batch, tokens,  tokens, heads,  head_dim, q,  k,
                              v,     nullptr, ld_qkv, ld_qkv, ld_out,   out};
    if (head_dim > ATTENTION_HEAD_DIM_MAX)
        return attention_by_scores(c, "attention", job, work, error);
    if (backend->bf16)
        return attention_bf16(c, "attention", job, error);
    return attention_tiled(c, "attention", job, error);
}

ousac_status cross_attention(const ousac_backend *backend, size_t batch, size_t queries, size_t keys,
                             size_t heads, size_t head_dim, const float *q, size_t ld_q, const float *k,
                             const float *v, size_t ld_kv, const float *bias, float *out, size_t ld_out,
                             float *work, ousac_error *error) {
    const char *const operation = "cross_attention";
    const size_t most = queries > keys ? queries : keys;
    Context *c = nullptr;
    Product p;
    ousac_status status;
    if ((head_dim > 0 && heads > SIZE_MAX / head_dim) || (most > 0 && batch > SIZE_MAX / most))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: sizes %zu, %zu, %zu, %zu, %zu: expected products that fit in memory",
                          operation, batch, queries, keys, heads, head_dim);
    if ((status = check_view(operation, "q", batch * queries, heads * head_dim, ld_q, sizeof *q, error)) ||
        (status = check_view(operation, "k", batch * keys, heads * head_dim, ld_kv, sizeof *k, error)) ||
        (status =
             check_view(operation, "out", batch * queries, heads * head_dim, ld_out, sizeof *out, error)) ||
        (status = check_view(operation, "work", queries, keys, keys, sizeof *work, error)) ||
        (status = narrow(operation, &p, most, heads, head_dim, ld_q > ld_kv ? ld_q : ld_kv, ld_out, keys,
                         error)) ||
        batch == 0 || queries == 0 || heads == 0 || head_dim == 0)
        return status;
    if (keys == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: 0 keys: expected at least 1", operation);
    if ((status = enter(backend, operation, &c, error)))
        return status;
    const AttentionJob job = {batch, queries, keys, heads, head_dim, q, k, v, bias, ld_q, ld_kv, ld_out, out};
    if (head_dim > ATTENTION_HEAD_DIM_MAX)
        return attention_by_scores(c, operation, job, work, error);
    return backend->bf16 ? attention_bf16(c, operation, job, error)
                         : attention_tiled(c, operation, job, error);
}

} // namespace ousac_cuda
