/* Weights in bfloat16, and the linears that read them: inputs rounded by a kernel, products of bfloat16
 * accumulated in float32 by the device's matrix units.
 *
 * A linear finds the rounded form of its W by the address. Weights told to `prepare` keep their float32
 * values beside it, for linears of few rows and everything else. A block of `alloc_weights` has no others:
 * its address is a range that the process has reserved and nobody can read, so that it is met by no other
 * block and a wrong use of it faults.
 */
#include "calib/cuda/sequence.h"
#include "formats/memory.h"

#include <sys/mman.h>

namespace ousac_cuda {

struct Weights {
    const float *base;
    size_t count;
    uint16_t *rounded; /* device (count) */
    bool sealed;
    Weights *next;
};

/* Fewer rows, of the modulation: the product is bound by memory, and float32 weights are exact. */
enum { ROWS_LEAST = 32 };

namespace {

State *state_of(const ousac_backend *backend) {
    return static_cast<State *>(backend->state);
}

size_t offset(const Weights *weights, const void *address) {
    return (reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(weights->base)) /
           sizeof(float);
}

/* The block that holds the address. Under the lock. */
Weights *holding(const State *state, const void *address) {
    for (Weights *w = state->weights; w != nullptr; w = w->next)
        if (address >= static_cast<const void *>(w->base) &&
            address < static_cast<const void *>(w->base + w->count))
            return w;
    return nullptr;
}

void add(State *state, Weights *weights) {
    (void)pthread_mutex_lock(&state->mutex);
    weights->next = state->weights;
    state->weights = weights;
    (void)pthread_mutex_unlock(&state->mutex);
}

size_t reserved_bytes(size_t count) {
    return (count > 0 ? count : 1) * sizeof(float);
}

Weights *make(const State *state, size_t count) {
    void *block = nullptr;
    Weights *made = static_cast<Weights *>(ousac_calloc(1, sizeof *made));
    if (made == nullptr)
        return nullptr;
    if (count > SIZE_MAX / 8 || cudaSetDevice(state->device) != cudaSuccess ||
        cudaMalloc(&block, count > 0 ? count * sizeof(uint16_t) : 1) != cudaSuccess) {
        (void)cudaGetLastError();
        ousac_free(made);
        return nullptr;
    }
    made->rounded = static_cast<uint16_t *>(block);
    made->count = count;
    return made;
}

} // namespace

ousac_status prepare_bf16(const ousac_backend *backend, size_t count, const float *w, ousac_error *error) {
    State *state = state_of(backend);
    Context *c = nullptr;
    ousac_status status = enter(backend, "prepare", &c, error);
    if (status)
        return status;
    Weights *made = make(state, count);
    if (made == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: no device memory for %zu weights in bfloat16",
                          count);
    made->base = w;
    if (count > 0)
        status = round_rows(c, "prepare", 1, count, w, count, made->rounded, error);
    if (!status) /* for all threads */
        status = check(cudaStreamSynchronize(c->stream), "prepare", error);
    if (status) {
        (void)cudaFree(made->rounded);
        ousac_free(made);
        return status;
    }
    add(state, made);
    return OUSAC_STATUS_OK;
}

float *alloc_weights(const ousac_backend *backend, size_t count) {
    State *state = state_of(backend);
    Weights *made = make(state, count);
    if (made == nullptr)
        return nullptr;
    void *range =
        mmap(nullptr, reserved_bytes(count), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
        (void)cudaFree(made->rounded);
        ousac_free(made);
        return nullptr;
    }
    made->base = static_cast<const float *>(range);
    made->sealed = true;
    add(state, made);
    return static_cast<float *>(range);
}

/* Parts of this many floats go through the scratch. */
enum { UPLOAD_FLOATS = 1 << 20 };

ousac_status upload_weights(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                            int *done, ousac_error *error) {
    State *state = state_of(backend);
    Context *c = nullptr;
    void *block = nullptr;
    *done = 0;
    (void)pthread_mutex_lock(&state->mutex);
    const Weights *held = holding(state, target);
    (void)pthread_mutex_unlock(&state->mutex);
    if (held == nullptr || !held->sealed)
        return OUSAC_STATUS_OK;
    *done = 1;
    const size_t first = offset(held, target), count = bytes / sizeof(float);
    if (bytes % sizeof(float) != 0 || count > held->count - first)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "upload: %zu bytes at weight %zu of %zu: expected whole weights within the block",
                          bytes, first, held->count);
    ousac_status status = flush(backend, error);
    if (!status)
        status = enter(backend, "upload", &c, error);
    for (size_t at = 0; at < count && !status; at += UPLOAD_FLOATS) {
        const size_t part = count - at < UPLOAD_FLOATS ? count - at : static_cast<size_t>(UPLOAD_FLOATS);
        status = scratch(c, "upload", part * sizeof(float), &block, error);
        if (!status)
            status = check(cudaMemcpyAsync(block, static_cast<const float *>(source) + at,
                                           part * sizeof(float), cudaMemcpyHostToDevice, c->stream),
                           "upload", error);
        if (!status)
            status = round_rows(c, "upload", 1, part, static_cast<const float *>(block), part,
                                held->rounded + first + at, error);
    }
    return status ? status : check(cudaStreamSynchronize(c->stream), "upload", error);
}

int release_weights(const ousac_backend *backend, const void *block) {
    State *state = state_of(backend);
    Weights *gone = nullptr;
    (void)pthread_mutex_lock(&state->mutex);
    for (Weights **w = &state->weights; *w != nullptr; w = &(*w)->next)
        if ((*w)->base == block) {
            gone = *w;
            *w = gone->next;
            state->weights_released++;
            break;
        }
    (void)pthread_mutex_unlock(&state->mutex);
    if (gone == nullptr)
        return 0;
    const int sealed = gone->sealed;
    if (sealed)
        (void)munmap(const_cast<float *>(gone->base), reserved_bytes(gone->count));
    (void)cudaFree(gone->rounded);
    ousac_free(gone);
    return sealed;
}

const uint16_t *rounded_weights(const ousac_backend *backend, size_t rows, size_t m, size_t n, const float *w,
                                size_t ldw, float beta) {
    State *state = state_of(backend);
    const uint16_t *found = nullptr;
    if (!state->table.bf16 || m == 0 || n == 0)
        return nullptr;
    (void)pthread_mutex_lock(&state->mutex);
    const Weights *held = holding(state, w);
    if (held != nullptr && (m - 1) * ldw + n <= held->count - offset(held, w) &&
        (held->sealed || (rows >= ROWS_LEAST && beta == 0.0F)))
        found = held->rounded + offset(held, w);
    (void)pthread_mutex_unlock(&state->mutex);
    return found;
}

/* X (rows, inner), contiguous, in bfloat16: what the operation before left behind, or rounded here, for the linears that
 * follow on the same X as well. */
static ousac_status rounded_inputs(Context *c, size_t rows, size_t inner, const float *x, size_t ldx,
                                   const uint16_t **rounded, ousac_error *error) {
    void *block = nullptr;
    if (ldx == inner && c->ahead_of == x && c->ahead_count == rows * inner) {
        *rounded = static_cast<const uint16_t *>(c->ahead);
        return OUSAC_STATUS_OK;
    }
    if (ldx == inner)
        block = round_ahead(c, x, rows * inner);
    const ousac_status status = block != nullptr
                                    ? OUSAC_STATUS_OK
                                    : scratch(c, "linear", rows * inner * sizeof(uint16_t), &block, error);
    *rounded = static_cast<const uint16_t *>(block);
    return status ? status
                  : round_rows(c, "linear", rows, inner, x, ldx, static_cast<uint16_t *>(block), error);
}

ousac_status linear_bf16(Context *c, const Product *p, const float *x, const uint16_t *w, const float *bias,
                         float beta, float *y, ousac_error *error) {
    const size_t rows = static_cast<size_t>(p->rows), cols = static_cast<size_t>(p->cols);
    const size_t inner = static_cast<size_t>(p->inner);
    const float one = 1.0F;
    const uint16_t *rounded = nullptr;
    int done = 0;
    ousac_status status;
    if (rows > SIZE_MAX / sizeof(uint16_t) / inner)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "linear: %zu x %zu inputs are too many", rows, inner);
    if ((status = rounded_inputs(c, rows, inner, x, static_cast<size_t>(p->lda), &rounded, error)) ||
        (status = multiply_bf16(c, p, w, rounded, bias, beta, y, &done, error)) || done)
        return status;
    if (bias != nullptr) {
        if ((status = fill_rows(c, "linear", rows, cols, bias, y, static_cast<size_t>(p->ldc), error)))
            return status;
        beta = 1.0F;
    }
    return check(cublasGemmEx(c->blas, CUBLAS_OP_T, CUBLAS_OP_N, p->cols, p->rows, p->inner, &one, w,
                              CUDA_R_16BF, p->ldb, rounded, CUDA_R_16BF, p->inner, &beta, y, CUDA_R_32F,
                              p->ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "linear", error);
}

} // namespace ousac_cuda
