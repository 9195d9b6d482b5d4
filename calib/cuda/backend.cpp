/* The table of the CUDA backend, its memory, and the entry point of the plug-in. */
#include "calib/backend/backend_plugin.h"
#include "calib/cuda/context.h"
#include "calib/cuda/sequence.h"
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
    (void)flush(backend, nullptr); /* a failure is reported at the sequence's end */
    if (cudaSetDevice(state->device) != cudaSuccess || cudaMalloc(&block, bytes) != cudaSuccess) {
        (void)cudaGetLastError(); /* short of memory is no failure of the device */
        return nullptr;
    }
    return block;
}

static void release(const ousac_backend *backend, void *block) {
    State *state = static_cast<State *>(backend->state);
    if (block == nullptr)
        return;
    (void)flush(backend, nullptr); /* likewise */
    (void)cudaSetDevice(state->device);
    (void)pthread_mutex_lock(&state->mutex);
    state->released++;
    (void)pthread_mutex_unlock(&state->mutex);
    /* What this thread queued on the block must be over; what others did is theirs to wait for. */
    const Context *c = present(backend);
    if (c != nullptr)
        (void)cudaStreamSynchronize(c->stream);
    if (!release_weights(backend, block))
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
    int done = 0;
    ousac_status status = upload_weights(backend, target, source, bytes, &done, error);
    if (!status && !done)
        status = sequence_upload(backend, target, source, bytes, &done, error);
    if (status || done)
        return status;
    return transfer(backend, "upload", target, source, bytes, cudaMemcpyHostToDevice, error);
}

static ousac_status download(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                             ousac_error *error) {
    return transfer(backend, "download", target, source, bytes, cudaMemcpyDeviceToHost, error);
}

static float *alloc_block_of_weights(const ousac_backend *backend, size_t count) {
    (void)flush(backend, nullptr);
    return alloc_weights(backend, count);
}

/* In float32 cuBLAS takes weights as they are. */
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

/* The first processors whose matrix units take bfloat16. */
enum { BF16_MAJOR = 8 };

static ousac_status describe(State *state, ousac_error *error) {
    cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    ousac_status status;
    if ((status = check(cudaGetDeviceProperties(&properties, state->device), "open", error)) ||
        (status = check(cudaDriverGetVersion(&driver), "open", error)) ||
        (status = check(cudaRuntimeGetVersion(&runtime), "open", error)))
        return status;
    if (state->table.bf16 && properties.major < BF16_MAJOR)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "cuda: compute bf16: device %d, %.100s, has compute capability %d.%d: bfloat16 "
                          "products need %d.0",
                          state->device, properties.name, properties.major, properties.minor, BF16_MAJOR);
    (void)std::snprintf(
        state->detail, sizeof state->detail,
        "%.100s, compute capability %d.%d, %zu MiB, CUDA driver %d.%d, runtime %d.%d, float32 products %s%s",
        properties.name, properties.major, properties.minor, properties.totalGlobalMem >> 20, driver / 1000,
        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, state->tf32 ? "in TF32" : "exact",
        state->table.bf16 ? "; linears and attention in bfloat16" : "");
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
    t->download = Direct<download>::call;
    t->linear = Recorded<linear>::call;
    t->expand = Recorded<expand>::call;
    t->gram = Recorded<gram>::call;
    t->gemm64 = Direct<gemm64>::call;
    t->eigen64 = Direct<eigen64>::call;
    t->norm_modulate = Recorded<norm_modulate>::call;
    t->add_gated = Recorded<add_gated>::call;
    t->gelu_tanh = Recorded<gelu_tanh>::call;
    t->silu = Recorded<silu>::call;
    t->gelu_tanh_rows = Recorded<gelu_tanh_rows>::call;
    t->rotate_heads = Recorded<rotate_heads>::call;
    t->attention = Recorded<attention>::call;
    t->cross_attention = Recorded<cross_attention>::call;
    t->attention_work = attention_work;
    t->subtract = Recorded<subtract>::call;
    t->subtract_rows = Recorded<subtract_rows>::call;
    t->extrapolate = Recorded<extrapolate>::call;
    t->gather = Recorded<gather>::call;
    t->copy = Recorded<copy>::call;
    t->axpy = Recorded<axpy>::call;
    t->sum_squares = sum_squares;
    t->sum_squares_diff = sum_squares_diff;
    t->measure_change = measure_change;
    t->sum_abs_columns = Direct<sum_abs_columns>::call;
    t->sum_abs_columns_diff = Direct<sum_abs_columns_diff>::call;
    t->accumulate_packed = Recorded<accumulate_packed>::call;
    t->all_finite = Direct<all_finite>::call;
    t->prepare = t->bf16 ? Direct<prepare_bf16>::call : prepare;
    t->alloc_weights = t->bf16 ? alloc_block_of_weights : nullptr;
    t->sequence_begin = state->graphs ? sequence_begin : nullptr;
    t->sequence_end = state->graphs ? sequence_end : nullptr;
    t->project_change = Recorded<project_change>::call;
    t->expand_onto = Recorded<expand_onto>::call;
}

static ousac_status open_backend(const ousac_backend **backend, int device, int bf16, ousac_error *error) {
    ousac_status status;
    const char *tf32 = std::getenv("OUSAC_CUDA_TF32"), *graphs = std::getenv("OUSAC_CUDA_GRAPHS");
    int chosen = 0;
    *backend = nullptr;
    if ((status = choose_device(device, &chosen, error)))
        return status;
    State *state = static_cast<State *>(ousac_calloc(1, sizeof *state));
    if (state == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: no memory for a backend");
    state->device = chosen;
    state->tf32 = tf32 != nullptr && std::strcmp(tf32, "1") == 0;
    state->graphs = graphs == nullptr || std::strcmp(graphs, "0") != 0;
    state->table.bf16 = bf16 != 0;
    fill_table(state);
    if ((status = check(cudaSetDevice(chosen), "open", error)) || (status = describe(state, error)) ||
        (status = attention_prepare(error)) ||
        (bf16 && ((status = attention_bf16_prepare(error)) || (status = mlp_bf16_prepare(error)))) ||
        (status = start_contexts(state, error))) {
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
