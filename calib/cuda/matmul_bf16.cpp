/* Products of bfloat16 by cuBLASLt, which adds the bias as it writes them: a pass over Y less than filling it
 * with the bias first.
 *
 * What the library chooses for a shape is kept in the thread's context: the choice is a function of the
 * shape, the alignments and the device, so that threads agree. It has the context's workspace, and where it
 * splits a sum, the parts are stored in float32 and added in a step of their own, in a fixed order.
 */
#include "calib/cuda/context.h"
#include "formats/memory.h"

#include <cublasLt.h>

namespace ousac_cuda {

/* One shape, and how its product is computed; `chosen` false where the library has no way. */
struct Matmul {
    Product sizes;
    uint32_t align_w, align_y, align_bias; /* bytes; align_bias 0 without a bias */
    bool chosen;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    Matmul *next;
};

namespace {

/* One of its kind is in every handle of cuBLAS. */
cublasLtHandle_t lt_handle(const Context *c) {
    return reinterpret_cast<cublasLtHandle_t>(c->blas);
}

/* The largest power of two that divides the address, up to what the library asks about. */
uint32_t alignment(const void *p) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(p);
    uint32_t bytes = 256;
    while (address % bytes != 0)
        bytes /= 2;
    return bytes;
}

bool same(const Product &a, const Product &b) {
    return a.rows == b.rows && a.cols == b.cols && a.inner == b.inner && a.ldb == b.ldb && a.ldc == b.ldc;
}

template <typename T>
cublasStatus_t set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name, const T &value) {
    return cublasLtMatmulDescSetAttribute(product, name, &value, sizeof value);
}
template <typename T>
cublasStatus_t set(cublasLtMatmulPreference_t wish, cublasLtMatmulPreferenceAttributes_t name,
                   const T &value) {
    return cublasLtMatmulPreferenceSetAttribute(wish, name, &value, sizeof value);
}

void destroy(Matmul *m) {
    if (m->product)
        (void)cublasLtMatmulDescDestroy(m->product);
    for (cublasLtMatrixLayout_t layout : {m->w, m->x, m->y})
        if (layout)
            (void)cublasLtMatrixLayoutDestroy(layout);
    ousac_free(m);
}

/* To the library, which is column-major, Y^T (m, rows) = (W^T)^T X^T, and the bias has one value per row. */
ousac_status describe(Matmul *m, const float *bias, ousac_error *error) {
    const Product &p = m->sizes;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = bias != nullptr ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const uint64_t rows = static_cast<uint64_t>(p.rows), cols = static_cast<uint64_t>(p.cols);
    const uint64_t inner = static_cast<uint64_t>(p.inner);
    cublasStatus_t result;
    if ((result = cublasLtMatmulDescCreate(&m->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) ||
        (result = set(m->product, CUBLASLT_MATMUL_DESC_TRANSA, transposed)) ||
        (result = set(m->product, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)) ||
        (bias != nullptr && (result = set(m->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias))) ||
        (result = cublasLtMatrixLayoutCreate(&m->w, CUDA_R_16BF, inner, cols, p.ldb)) ||
        (result = cublasLtMatrixLayoutCreate(&m->x, CUDA_R_16BF, inner, rows, p.inner)) ||
        (result = cublasLtMatrixLayoutCreate(&m->y, CUDA_R_32F, cols, rows, p.ldc)))
        return check(result, "linear", error);
    return OUSAC_STATUS_OK;
}

/* The alignment of X is that of the scratch. */
ousac_status choose(Context *c, Matmul *m, ousac_error *error) {
    const uint64_t workspace = BLAS_WORKSPACE_BYTES;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* or none, which needs no bit */
    cublasLtMatmulPreference_t wish = nullptr;
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    cublasStatus_t result;
    if ((result = cublasLtMatmulPreferenceCreate(&wish)) ||
        (result = set(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace)) ||
        (result = set(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction)) ||
        (result = set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, m->align_w)) ||
        (result = set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, m->align_y)) ||
        (result = set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, m->align_y)))
        goto done;
    result = cublasLtMatmulAlgoGetHeuristic(lt_handle(c), m->product, m->w, m->x, m->y, m->y, wish, 1, &best,
                                            &found);
    /* What the library refuses to choose for is left to the plain product, whose refusal is final. */
    if (result == CUBLAS_STATUS_NOT_SUPPORTED || result == CUBLAS_STATUS_INVALID_VALUE) {
        result = CUBLAS_STATUS_SUCCESS;
        found = 0;
    }
    m->chosen = found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    m->algorithm = best.algo;
done:
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    return check(result, "linear", error);
}

/* The shape's product, found or made. */
ousac_status find(Context *c, const Product &p, const uint16_t *w, const float *bias, const float *y,
                  Matmul **matmul, ousac_error *error) {
    const uint32_t align_w = alignment(w), align_y = alignment(y);
    const uint32_t align_bias = bias != nullptr ? alignment(bias) : 0;
    for (Matmul *m = c->matmuls; m != nullptr; m = m->next)
        if (same(m->sizes, p) && m->align_w == align_w && m->align_y == align_y &&
            m->align_bias == align_bias) {
            *matmul = m;
            return OUSAC_STATUS_OK;
        }
    Matmul *m = static_cast<Matmul *>(ousac_calloc(1, sizeof *m));
    if (m == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: linear: no memory for a product's description");
    m->sizes = p;
    m->align_w = align_w;
    m->align_y = align_y;
    m->align_bias = align_bias;
    ousac_status status = describe(m, bias, error);
    if (!status)
        status = choose(c, m, error);
    if (status) {
        destroy(m);
        return status;
    }
    m->next = c->matmuls;
    c->matmuls = m;
    *matmul = m;
    return OUSAC_STATUS_OK;
}

} // namespace

void free_matmuls(Matmul *matmuls) {
    while (matmuls != nullptr) {
        Matmul *m = matmuls;
        matmuls = m->next;
        destroy(m);
    }
}

ousac_status multiply_bf16(Context *c, const Product *p, const uint16_t *w, const uint16_t *x,
                           const float *bias, float beta, float *y, int *done, ousac_error *error) {
    const float one = 1.0F;
    Matmul *m = nullptr;
    *done = 0;
    ousac_status status = find(c, *p, w, bias, y, &m, error);
    if (status || !m->chosen)
        return status;
    *done = 1;
    if (bias != nullptr &&
        (status = check(set(m->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), "linear", error)))
        return status;
    return check(cublasLtMatmul(lt_handle(c), m->product, &one, w, m->w, x, m->x, &beta, y, m->y, y, m->y,
                                &m->algorithm, c->blas_workspace, BLAS_WORKSPACE_BYTES, c->stream),
                 "linear", error);
}

} // namespace ousac_cuda
