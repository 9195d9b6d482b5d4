#include "calib/cuda/context.h"

#include "formats/memory.h"

#include <climits>
#include <cstdio>

namespace ousac_cuda {

static State *state_of(const ousac_backend *backend) {
    return static_cast<State *>(backend->state);
}

/* --- errors --- */

/* After these nothing works any more in this process. */
static bool ends_device(cudaError_t result) {
    switch (result) {
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
        return true;
    default:
        return false;
    }
}

ousac_status check(cudaError_t result, const char *operation, ousac_error *error) {
    if (result == cudaSuccess)
        return OUSAC_STATUS_OK;
    (void)cudaGetLastError(); /* an error that the device survives is not reported twice */
    if (result == cudaErrorMemoryAllocation)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: %s: no device memory", operation);
    if (result == cudaErrorNoKernelImageForDevice)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "cuda: the plug-in was built for other devices than this one: %s",
                          cudaGetErrorString(result));
    if (ends_device(result))
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cuda: the device stopped working, seen at %s: %s (%s)",
                          operation, cudaGetErrorString(result), cudaGetErrorName(result));
    return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cuda: %s, or work queued before it, failed: %s (%s)",
                      operation, cudaGetErrorString(result), cudaGetErrorName(result));
}

ousac_status check(cublasStatus_t result, const char *operation, ousac_error *error) {
    if (result == CUBLAS_STATUS_SUCCESS)
        return OUSAC_STATUS_OK;
    if (result == CUBLAS_STATUS_ALLOC_FAILED)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: %s: no memory for cuBLAS", operation);
    if (const cudaError_t cause = cudaGetLastError(); ends_device(cause))
        return check(cause, operation, error);
    return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cuda: %s: cuBLAS failed: %s", operation,
                      cublasGetStatusName(result));
}

ousac_status check(cusolverStatus_t result, const char *operation, ousac_error *error) {
    if (result == CUSOLVER_STATUS_SUCCESS)
        return OUSAC_STATUS_OK;
    if (result == CUSOLVER_STATUS_ALLOC_FAILED)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: %s: no memory for cuSOLVER", operation);
    if (const cudaError_t cause = cudaGetLastError(); ends_device(cause))
        return check(cause, operation, error);
    return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cuda: %s: cuSOLVER failed with status %d", operation,
                      static_cast<int>(result));
}

ousac_status launched(const char *operation, ousac_error *error) {
    return check(cudaGetLastError(), operation, error);
}

/* --- contexts --- */

static void destroy(Context *c) {
    sequence_free(c->sequence);
    free_matmuls(c->matmuls);
    if (c->solver_params)
        (void)cusolverDnDestroyParams(c->solver_params);
    if (c->solver)
        (void)cusolverDnDestroy(c->solver);
    if (c->blas)
        (void)cublasDestroy(c->blas);
    (void)cudaFree(c->blas_workspace);
    (void)cudaFree(c->blocks_done);
    (void)cudaFree(c->counts);
    (void)cudaFree(c->scratch);
    (void)cudaFree(c->ahead);
    (void)cudaFreeHost(c->pinned);
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
    ousac_free(c);
}

static ousac_status create(State *state, Context **context, const char *operation, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    void *block = nullptr;
    Context *c = static_cast<Context *>(ousac_calloc(1, sizeof *c));
    if (c == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: %s: no memory for a thread's context",
                          operation);
    c->state = state;
    /* A blocking stream would wait for the default stream, which nothing here uses. */
    if ((status = check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), operation, error)) ||
        (status = check(cublasCreate(&c->blas), operation, error)) ||
        (status = check(cudaMalloc(&c->blas_workspace, BLAS_WORKSPACE_BYTES), operation, error)) ||
        (status = check(cudaMalloc(&block, sizeof *c->blocks_done), operation, error)) ||
        (status = check(cudaMemsetAsync(block, 0, sizeof *c->blocks_done, c->stream), operation, error)) ||
        (status = check(cublasSetStream(c->blas, c->stream), operation, error)) ||
        /* After the stream, whose setting forgets the workspace. */
        (status =
             check(cublasSetWorkspace(c->blas, c->blas_workspace, BLAS_WORKSPACE_BYTES), operation, error)) ||
        (status = check(cublasSetPointerMode(c->blas, CUBLAS_POINTER_MODE_HOST), operation, error)) ||
        (status =
             check(cublasSetMathMode(c->blas, state->tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH),
                   operation, error))) {
        (void)cudaFree(block);
        destroy(c);
        return status;
    }
    c->blocks_done = static_cast<unsigned *>(block);
    *context = c;
    return OUSAC_STATUS_OK;
}

Context *present(const ousac_backend *backend) {
    return static_cast<Context *>(pthread_getspecific(state_of(backend)->key));
}

ousac_status enter(const ousac_backend *backend, const char *operation, Context **context,
                   ousac_error *error) {
    State *state = state_of(backend);
    ousac_status status = check(cudaSetDevice(state->device), operation, error);
    if (status)
        return status;
    Context *c = present(backend);
    if (c == nullptr) {
        (void)pthread_mutex_lock(&state->mutex);
        if ((c = state->idle) != nullptr)
            state->idle = c->next_idle;
        (void)pthread_mutex_unlock(&state->mutex);
        if (c == nullptr) {
            if ((status = create(state, &c, operation, error)))
                return status;
            (void)pthread_mutex_lock(&state->mutex);
            c->next_all = state->all;
            state->all = c;
            (void)pthread_mutex_unlock(&state->mutex);
        }
        if (pthread_setspecific(state->key, c) != 0) {
            (void)pthread_mutex_lock(&state->mutex);
            c->next_idle = state->idle;
            state->idle = c;
            (void)pthread_mutex_unlock(&state->mutex);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: %s: no memory for a thread's context",
                              operation);
        }
    }
    *context = c;
    return OUSAC_STATUS_OK;
}

/* A thread ends: its context waits for the next one. Runs on that thread. */
static void give_back(void *pointer) {
    Context *c = static_cast<Context *>(pointer);
    sequence_abandon(c->sequence);
    (void)pthread_mutex_lock(&c->state->mutex);
    c->next_idle = c->state->idle;
    c->state->idle = c;
    (void)pthread_mutex_unlock(&c->state->mutex);
}

/* At least `bytes` of device memory in *block. */
static ousac_status grow(Context *c, const char *operation, size_t bytes, void **block, size_t *room,
                         ousac_error *error) {
    if (bytes <= *room)
        return OUSAC_STATUS_OK;
    if (c->capturing)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "cuda: %s: needs memory within a capture",
                          operation);
    ousac_status status = check(cudaStreamSynchronize(c->stream), operation, error);
    if (status)
        return status;
    forget_graphs(c->sequence);
    (void)cudaFree(*block);
    *block = nullptr;
    *room = 0;
    if ((status = check(cudaMalloc(block, bytes), operation, error)))
        return status;
    *room = bytes;
    return OUSAC_STATUS_OK;
}

ousac_status scratch(Context *c, const char *operation, size_t bytes, void **block, ousac_error *error) {
    const ousac_status status = grow(c, operation, bytes, &c->scratch, &c->scratch_bytes, error);
    *block = c->scratch;
    return status;
}

ousac_status counts(Context *c, const char *operation, size_t count, unsigned **block, ousac_error *error) {
    const size_t bytes = count * sizeof **block, before = c->counts_bytes;
    ousac_status status = grow(c, operation, bytes, &c->counts, &c->counts_bytes, error);
    if (!status && c->counts_bytes != before &&
        (status = check(cudaMemsetAsync(c->counts, 0, bytes, c->stream), operation, error)))
        c->counts_bytes = 0;
    *block = static_cast<unsigned *>(c->counts);
    return status;
}

uint16_t *round_ahead(Context *c, const float *y, size_t count) {
    c->ahead_of = nullptr;
    if (!c->state->table.bf16 || !c->linear_next || count > SIZE_MAX / sizeof(uint16_t) ||
        grow(c, "round", count * sizeof(uint16_t), &c->ahead, &c->ahead_bytes, nullptr))
        return nullptr;
    c->ahead_of = y;
    c->ahead_count = count;
    return static_cast<uint16_t *>(c->ahead);
}

ousac_status pinned(Context *c, const char *operation, size_t bytes, void **block, ousac_error *error) {
    if (bytes > c->pinned_bytes) {
        ousac_status status = check(cudaStreamSynchronize(c->stream), operation, error);
        if (status)
            return status;
        (void)cudaFreeHost(c->pinned);
        c->pinned = nullptr;
        c->pinned_bytes = 0;
        if ((status = check(cudaMallocHost(&c->pinned, bytes), operation, error)))
            return status;
        c->pinned_bytes = bytes;
    }
    *block = c->pinned;
    return OUSAC_STATUS_OK;
}

ousac_status fetch(Context *c, const char *operation, const void *source, size_t bytes, void **host,
                   ousac_error *error) {
    ousac_status status = pinned(c, operation, bytes, host, error);
    if (!status)
        status =
            check(cudaMemcpyAsync(*host, source, bytes, cudaMemcpyDeviceToHost, c->stream), operation, error);
    return status ? status : check(cudaStreamSynchronize(c->stream), operation, error);
}

/* --- arguments --- */

ousac_status check_view(const char *operation, const char *argument, size_t rows, size_t cols, size_t ld,
                        size_t size, ousac_error *error) {
    if (cols <= ld && (rows == 0 || ld == 0 || rows <= static_cast<size_t>(PTRDIFF_MAX) / size / ld))
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(
        error, OUSAC_STATUS_USAGE,
        "%s: %s of %zu x %zu with leading dimension %zu: expected at least %zu and an addressable matrix",
        operation, argument, rows, cols, ld, cols);
}

ousac_status check_whole_groups(const char *operation, size_t rows, size_t rows_per_group,
                                ousac_error *error) {
    if (rows_per_group == 0 || rows % rows_per_group != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %zu rows in groups of %zu: expected whole groups",
                          operation, rows, rows_per_group);
    return OUSAC_STATUS_OK;
}

ousac_status check_groups(const char *operation, size_t rows, size_t rows_per_group, ousac_error *error) {
    if (rows_per_group == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %zu rows in groups of 0: expected at least 1",
                          operation, rows);
    return OUSAC_STATUS_OK;
}

static int narrow_one(size_t value, int *out) {
    const int fits = value <= static_cast<size_t>(INT_MAX);
    *out = fits ? static_cast<int>(value) : 0;
    return fits;
}

ousac_status narrow(const char *operation, Product *p, size_t rows, size_t cols, size_t inner, size_t lda,
                    size_t ldb, size_t ldc, ousac_error *error) {
    if (narrow_one(rows, &p->rows) & narrow_one(cols, &p->cols) & narrow_one(inner, &p->inner) &
        narrow_one(lda, &p->lda) & narrow_one(ldb, &p->ldb) & narrow_one(ldc, &p->ldc))
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: sizes %zu, %zu, %zu: expected each to be at most %d",
                      operation, rows, cols, inner, INT_MAX);
}

/* --- life, shared with the entry point --- */

ousac_status start_contexts(State *state, ousac_error *error) {
    if (pthread_mutex_init(&state->mutex, nullptr) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: the system gives no mutex");
    if (pthread_key_create(&state->key, give_back) != 0) {
        (void)pthread_mutex_destroy(&state->mutex);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: the system gives no thread key");
    }
    return OUSAC_STATUS_OK;
}

void stop_contexts(State *state) {
    (void)cudaSetDevice(state->device);
    (void)pthread_key_delete(state->key);
    while (state->all != nullptr) {
        Context *c = state->all;
        state->all = c->next_all;
        (void)cudaStreamSynchronize(c->stream);
        destroy(c);
    }
    (void)pthread_mutex_destroy(&state->mutex);
}

} // namespace ousac_cuda
