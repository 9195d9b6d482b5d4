/* The table of the CUDA backend, its memory, and the entry point of the plug-in. */
#include "calib/backend_plugin.h"
#include "calib/cuda/context.h"
#include "formats/memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ousac_cuda {

/* --- memory --- */

static void *alloc(const ousac_backend *backend, size_t count, size_t size) {
    const State *state = static_cast<const State *>(backend->state);
    void *block = nullptr;
    if (size != 0 && count > SIZE_MAX / 2 / size)
        return nullptr;
    const size_t bytes = count * size > 0 ? count * size : 1;
    if (cudaSetDevice(state->device) != cudaSuccess || cudaMalloc(&block, bytes) != cudaSuccess) {
        (void)cudaGetLastError(); /* short of memory is no failure of the device */
        return nullptr;
    }
    return block;
}

static void release(const ousac_backend *backend, void *block) {
    const State *state = static_cast<const State *>(backend->state);
    if (block == nullptr || cudaSetDevice(state->device) != cudaSuccess)
        return;
    /* What this thread queued on the block must be over; what others did is theirs to wait for. */
    const Context *c = present(backend);
    if (c != nullptr)
        (void)cudaStreamSynchronize(c->stream);
    (void)cudaFree(block);
}

/* Complete on return: the host block may change, and other threads' work sees the target. */
static ousac_status transfer(const ousac_backend *backend, const char *operation, void *target,
                             const void *source, size_t bytes, cudaMemcpyKind kind, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = enter(backend, operation, &c, error);
    if (!status && bytes > 0)
        status = check(cudaMemcpyAsync(target, source, bytes, kind, c->stream), operation, error);
    return status ? status : check(cudaStreamSynchronize(c->stream), operation, error);
}

static ousac_status upload(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                           ousac_error *error) {
    return transfer(backend, "upload", target, source, bytes, cudaMemcpyHostToDevice, error);
}

static ousac_status download(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                             ousac_error *error) {
    return transfer(backend, "download", target, source, bytes, cudaMemcpyDeviceToHost, error);
}

/* cuBLAS takes weights as they are. */
static ousac_status prepare(const ousac_backend *backend, size_t count, const float *w, ousac_error *error) {
    (void)backend, (void)count, (void)w, (void)error;
    return OUSAC_STATUS_OK;
}

/* --- opening --- */

static ousac_status choose_device(int wanted, int *device, ousac_error *error) {
    int count = 0;
    const cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess || count == 0) {
        (void)cudaGetLastError();
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "cuda: no device that can be used: %s",
                          result != cudaSuccess ? cudaGetErrorString(result) : "the driver lists none");
    }
    *device = wanted < 0 ? 0 : wanted;
    if (*device >= count)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "cuda: no device %d: this machine has %d, counted from 0", *device, count);
    return OUSAC_STATUS_OK;
}

static ousac_status describe(State *state, ousac_error *error) {
    cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    ousac_status status;
    if ((status = check(cudaGetDeviceProperties(&properties, state->device), "open", error)) ||
        (status = check(cudaDriverGetVersion(&driver), "open", error)) ||
        (status = check(cudaRuntimeGetVersion(&runtime), "open", error)))
        return status;
    (void)std::snprintf(
        state->detail, sizeof state->detail,
        "%.100s, compute capability %d.%d, %zu MiB, CUDA driver %d.%d, runtime %d.%d, float32 products %s",
        properties.name, properties.major, properties.minor, properties.totalGlobalMem >> 20, driver / 1000,
        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, state->tf32 ? "in TF32" : "exact");
    return OUSAC_STATUS_OK;
}

static void fill_table(State *state) {
    ousac_backend *t = &state->table;
    t->name = "cuda";
    t->detail = state->detail;
    t->state = state;
    t->alloc = alloc;
    t->release = release;
    t->upload = upload;
    t->download = download;
    t->linear = linear;
    t->expand = expand;
    t->gram = gram;
    t->gemm64 = gemm64;
    t->eigen64 = eigen64;
    t->norm_modulate = norm_modulate;
    t->add_gated = add_gated;
    t->gelu_tanh = gelu_tanh;
    t->silu = silu;
    t->attention = attention;
    t->subtract = subtract;
    t->subtract_rows = subtract_rows;
    t->extrapolate = extrapolate;
    t->gather = gather;
    t->copy = copy;
    t->axpy = axpy;
    t->sum_squares = sum_squares;
    t->sum_squares_diff = sum_squares_diff;
    t->measure_change = measure_change;
    t->sum_abs_columns = sum_abs_columns;
    t->sum_abs_columns_diff = sum_abs_columns_diff;
    t->accumulate_packed = accumulate_packed;
    t->all_finite = all_finite;
    t->prepare = prepare;
    t->project_change = project_change;
    t->expand_onto = expand_onto;
}

static ousac_status open_backend(const ousac_backend **backend, int device, ousac_error *error) {
    ousac_status status;
    const char *tf32 = std::getenv("OUSAC_CUDA_TF32");
    int chosen = 0;
    *backend = nullptr;
    if ((status = choose_device(device, &chosen, error)))
        return status;
    State *state = static_cast<State *>(ousac_calloc(1, sizeof *state));
    if (state == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: no memory for a backend");
    state->device = chosen;
    state->tf32 = tf32 != nullptr && std::strcmp(tf32, "1") == 0;
    fill_table(state);
    if ((status = check(cudaSetDevice(chosen), "open", error)) || (status = describe(state, error)) ||
        (status = attention_prepare(error)) || (status = start_contexts(state, error))) {
        ousac_free(state);
        return status;
    }
    *backend = &state->table;
    return OUSAC_STATUS_OK;
}

static void close_backend(const ousac_backend *backend) {
    State *state = static_cast<State *>(backend->state);
    stop_contexts(state);
    ousac_free(state);
}

} // namespace ousac_cuda

extern "C" __attribute__((visibility("default"))) const ousac_plugin *ousac_backend_plugin(void) {
    static const ousac_plugin plugin = {OUSAC_PLUGIN_ABI, sizeof(ousac_backend), "cuda",
                                        ousac_cuda::open_backend, ousac_cuda::close_backend};
    return &plugin;
}
