/* Fibers for the threads of a block, and the parts of CUDA, cuBLAS and cuSOLVER that the plug-in calls. */
#include <cusolverDn.h>

#include <cblas.h>
#include <lapacke.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

/* --- threads --- */

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace ousac_emulation {
namespace {

enum { WARP = 32, STACK_BYTES = 64 << 10, THREADS_MAX = 1024 };

/* A fiber lives as long as its thread of the host and runs one thread of a block after another. It is started
 * through its context and changes over by jumps, which need no system call. */
struct Fiber {
    ucontext_t context;
    jmp_buf here;
    dim3 index;
    bool started, done;
};

/* A barrier: whoever comes last opens it. */
struct Barrier {
    unsigned arrived, generation;
};

/* The block that runs on this thread of the host. */
struct Block {
    jmp_buf scheduler;
    Fiber fibers[THREADS_MAX];
    std::vector<char> stacks;
    unsigned current, count, finished;
    bool progressed, backward;
    Barrier all;
    Barrier warp[THREADS_MAX / WARP];
    float exchange[THREADS_MAX];
    const std::function<void()> *kernel;
    void *dynamic;
};

thread_local std::unique_ptr<Block> state;

void yield() {
    Block &b = *state;
    if (_setjmp(b.fibers[b.current].here) == 0)
        _longjmp(b.scheduler, 1);
}

void wait(Barrier &barrier, unsigned expected) {
    const unsigned generation = barrier.generation;
    state->progressed = true;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation)
        yield();
    state->progressed = true;
}

void live() {
    for (;;) {
        Block &b = *state;
        (*b.kernel)();
        b.fibers[b.current].done = true;
        b.finished++;
        b.progressed = true;
        yield();
    }
}

void fail(const char *what) {
    std::fprintf(stderr, "emulation: %s\n", what);
    std::abort();
}

/* Runs fiber `b.current` until it yields. */
__attribute__((noinline)) void resume(Block &b) {
    Fiber &f = b.fibers[b.current];
    threadIdx = f.index;
    if (_setjmp(b.scheduler) != 0)
        return;
    if (f.started)
        _longjmp(f.here, 1);
    f.started = true;
    (void)getcontext(&f.context);
    f.context.uc_stack.ss_sp = &b.stacks[static_cast<size_t>(b.current) * STACK_BYTES];
    f.context.uc_stack.ss_size = STACK_BYTES;
    f.context.uc_link = nullptr;
    makecontext(&f.context, live, 0);
    (void)setcontext(&f.context);
}

/* Every second block runs its threads from the last to the first: what depends on their order between
 * barriers gives one result or the other. */
void run_block(Block &b) {
    b.finished = 0;
    b.backward = !b.backward;
    b.all = {};
    std::memset(b.warp, 0, sizeof b.warp);
    for (unsigned t = 0; t < b.count; t++) {
        b.fibers[t].done = false;
        b.fibers[t].index = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    }
    while (b.finished < b.count) {
        b.progressed = false;
        for (unsigned i = 0; i < b.count; i++) {
            const unsigned t = b.backward ? b.count - 1 - i : i;
            if (!b.fibers[t].done) {
                b.current = t;
                resume(b);
            }
        }
        if (!b.progressed)
            fail("a barrier or shuffle that not every thread reaches");
    }
    if (b.all.arrived != 0)
        fail("a block ended while threads waited");
}

} // namespace

void run(const std::function<void()> &kernel, dim3 grid, dim3 block, size_t shared_bytes) {
    if (!state) {
        state = std::make_unique<Block>();
        state->stacks.resize(static_cast<size_t>(THREADS_MAX) * STACK_BYTES);
    }
    Block &b = *state;
    b.count = block.x * block.y * block.z;
    if (b.count == 0 || b.count > THREADS_MAX || b.count % WARP != 0 || grid.x == 0 || grid.y == 0 ||
        grid.x > 2147483647U || grid.y > 65535 || grid.z != 1)
        fail("a launch that a device refuses");
    b.kernel = &kernel;
    /* Of its own size, so that a sanitizer sees what lies beyond; NaN, so that what was not written shows. */
    if (posix_memalign(&b.dynamic, 16, shared_bytes > 0 ? shared_bytes : 1) != 0)
        fail("no memory");
    std::memset(b.dynamic, 0xff, shared_bytes);
    gridDim = grid;
    blockDim = block;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = dim3(x, y, 0);
            run_block(b);
        }
    std::free(b.dynamic);
    b.dynamic = nullptr;
}

void *shared() {
    return state->dynamic;
}

} // namespace ousac_emulation

void __syncthreads() {
    using ousac_emulation::state;
    ousac_emulation::wait(state->all, state->count);
}

float __shfl_xor_sync(unsigned mask, float value, int lane_mask) {
    using namespace ousac_emulation;
    Block &b = *state;
    if (mask != 0xffffffffU || lane_mask < 0 || lane_mask >= WARP)
        fail("a shuffle of part of a warp");
    const unsigned self = b.current, warp = self / WARP;
    b.exchange[self] = value;
    wait(b.warp[warp], WARP);
    const float result = b.exchange[self ^ static_cast<unsigned>(lane_mask)];
    wait(b.warp[warp], WARP); /* before the next shuffle overwrites it */
    return result;
}

/* --- CUDA --- */

/* As of a device: bytes that nobody has written are NaN. */
static cudaError_t allocate(void **block, size_t bytes) {
    *block = nullptr;
    /* Exactly as long as asked for, so that a sanitizer sees what lies beyond. */
    if (bytes > std::numeric_limits<size_t>::max() / 64 || posix_memalign(block, 256, bytes) != 0)
        *block = nullptr;
    if (*block == nullptr)
        return cudaErrorMemoryAllocation;
    std::memset(*block, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "emulated error";
}
const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorInvalidValue";
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    *properties = {"emulated on the processor", 0, 0, 0};
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = reinterpret_cast<cudaStream_t>(std::malloc(1));
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    std::free(stream);
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **block, size_t bytes) {
    return allocate(block, bytes);
}
cudaError_t cudaFree(void *block) {
    std::free(block);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **block, size_t bytes) {
    return allocate(block, bytes);
}
cudaError_t cudaFreeHost(void *block) {
    std::free(block);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(target, source, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t) {
    std::memset(target, value, bytes);
    return cudaSuccess;
}
cudaError_t ousac_set_shared_limit(int bytes) {
    return bytes <= 99 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

/* --- cuBLAS: column-major, as the real one --- */

static CBLAS_TRANSPOSE transposed(cublasOperation_t operation) {
    return operation == CUBLAS_OP_T ? CblasTrans : CblasNoTrans;
}

/* The checks of the reference BLAS, which cuBLAS makes too. */
static bool refuses(bool ta, bool tb, int m, int n, int k, int lda, int ldb, int ldc) {
    const int rows_a = ta ? k : m, rows_b = tb ? n : k;
    return m < 0 || n < 0 || k < 0 || lda < (rows_a > 1 ? rows_a : 1) || ldb < (rows_b > 1 ? rows_b : 1) ||
           ldc < (m > 1 ? m : 1);
}

const char *cublasGetStatusName(cublasStatus_t) {
    return "emulated";
}
cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    openblas_set_num_threads(1);
    *handle = reinterpret_cast<cublasHandle_t>(std::malloc(1));
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    std::free(handle);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasPointerMode_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSgemm(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const float *alpha, const float *a, int lda, const float *b, int ldb,
                           const float *beta, float *c, int ldc) {
    if (refuses(ta == CUBLAS_OP_T, tb == CUBLAS_OP_T, m, n, k, lda, ldb, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    cblas_sgemm(CblasColMajor, transposed(ta), transposed(tb), m, n, k, *alpha, a, lda, b, ldb, *beta, c,
                ldc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDgemm(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const double *alpha, const double *a, int lda, const double *b, int ldb,
                           const double *beta, double *c, int ldc) {
    if (refuses(ta == CUBLAS_OP_T, tb == CUBLAS_OP_T, m, n, k, lda, ldb, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    cblas_dgemm(CblasColMajor, transposed(ta), transposed(tb), m, n, k, *alpha, a, lda, b, ldb, *beta, c,
                ldc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSsyrk(cublasHandle_t, cublasFillMode_t fill, cublasOperation_t trans, int n, int k,
                           const float *alpha, const float *a, int lda, const float *beta, float *c,
                           int ldc) {
    const int rows_a = trans == CUBLAS_OP_T ? k : n;
    if (n < 0 || k < 0 || lda < (rows_a > 1 ? rows_a : 1) || ldc < (n > 1 ? n : 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    cblas_ssyrk(CblasColMajor, fill == CUBLAS_FILL_MODE_UPPER ? CblasUpper : CblasLower, transposed(trans), n,
                k, *alpha, a, lda, *beta, c, ldc);
    return CUBLAS_STATUS_SUCCESS;
}

/* --- cuSOLVER --- */

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
    *handle = reinterpret_cast<cusolverDnHandle_t>(std::malloc(1));
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
    std::free(handle);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
    *params = reinterpret_cast<cusolverDnParams_t>(std::malloc(1));
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
    std::free(params);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t) {
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
                                             cublasFillMode_t, int64_t n, cudaDataType, const void *, int64_t,
                                             cudaDataType, const void *, cudaDataType, size_t *device_bytes,
                                             size_t *host_bytes) {
    const size_t order = static_cast<size_t>(n);
    *device_bytes = (1 + 6 * order + 2 * order * order) * sizeof(double);
    *host_bytes = (3 + 5 * order) * sizeof(lapack_int);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t mode,
                                  cublasFillMode_t fill, int64_t n, cudaDataType, void *a, int64_t lda,
                                  cudaDataType, void *w, cudaDataType, void *device_buffer,
                                  size_t device_bytes, void *host_buffer, size_t host_bytes, int *info) {
    if (n < 1 || lda < n)
        return CUSOLVER_STATUS_INVALID_VALUE;
    *info = LAPACKE_dsyevd_work(
        LAPACK_COL_MAJOR, mode == CUSOLVER_EIG_MODE_VECTOR ? 'V' : 'N',
        fill == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L', static_cast<int>(n), static_cast<double *>(a),
        static_cast<int>(lda), static_cast<double *>(w), static_cast<double *>(device_buffer),
        static_cast<int>(device_bytes / sizeof(double)), static_cast<lapack_int *>(host_buffer),
        static_cast<int>(host_bytes / sizeof(lapack_int)));
    return CUSOLVER_STATUS_SUCCESS;
}
