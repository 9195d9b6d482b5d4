/* Stands in for CUDA's header of this name in the emulation; see README.md. */
#ifndef OUSAC_EMULATION_CUDA_RUNTIME_H
#define OUSAC_EMULATION_CUDA_RUNTIME_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h>
#include <type_traits>
#include <typeinfo>

#define __global__ static
#define __device__
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
struct alignas(8) float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
struct alignas(8) uint2 {
    unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

/* Of the fiber that runs. */
extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();
void __syncwarp();
float __shfl_xor_sync(unsigned mask, float value, int lane_mask);

/* Fibers change over at barriers and shuffles alone. */
inline int atomicOr(int *target, int value) {
    const int before = *target;
    *target |= value;
    return before;
}
inline unsigned atomicAdd(unsigned *target, unsigned value) {
    const unsigned before = *target;
    *target += value;
    return before;
}
/* Blocks run one after another. */
inline void __threadfence() {}
/* Past a cache that there is none of. */
inline float4 __ldcg(const float4 *from) {
    return *from;
}
inline unsigned long long atomicMax(unsigned long long *target, unsigned long long value) {
    const unsigned long long before = *target;
    *target = value > before ? value : before;
    return before;
}
inline long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorNoDevice = 100,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorECCUncorrectable = 214,
    cudaErrorNvlinkUncorrectable = 220,
    cudaErrorContained = 226,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchTimeout = 702,
    cudaErrorHardwareStackError = 714,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorGraphExecUpdateFailure = 910,
    cudaErrorExternalDevice = 911,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct ousac_emulated_stream;
typedef ousac_emulated_stream *cudaStream_t;

struct cudaDeviceProp {
    char name[256];
    int major, minor;
    size_t totalGlobalMem;
};

cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaMalloc(void **block, size_t bytes);
cudaError_t cudaFree(void *block);
cudaError_t cudaMallocHost(void **block, size_t bytes);
cudaError_t cudaFreeHost(void *block);
cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream);

enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
typedef struct ousac_emulated_graph *cudaGraph_t;
typedef struct ousac_emulated_exec *cudaGraphExec_t;
struct cudaGraphExecUpdateResultInfo {
    int result;
};
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *info);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

/* Like a device with 99 KiB of shared memory per block. */
cudaError_t ousac_set_shared_limit(int bytes);
template <typename Kernel> cudaError_t cudaFuncSetAttribute(Kernel, int, int bytes) {
    return ousac_set_shared_limit(bytes);
}

namespace ousac_emulation {
/* Work of a stream: run now, or written down where the stream is being captured. Two nodes of one kind may
 * take each other's place in an update. */
cudaError_t submit(cudaStream_t stream, size_t kind, std::function<void()> work);
/* Runs the kernel for every thread of every block, block after block. */
void run(const std::function<void()> &kernel, dim3 grid, dim3 block, size_t shared_bytes);
/* Address 0 or one of the device. */
bool on_device(const void *address);
/* Memory that the process has and the device does not. */
bool of_the_host(const void *address);
/* Loses the device, as an access to what is not its memory does, and says who was given it. */
void illegal_address(const char *who, const char *what, size_t index, const void *address);

/* That a kernel's argument is no address of the host, and nothing within it is: of a structure every word that
 * could be one. */
template <typename T> bool argument_is_the_devices(const char *kernel, size_t index, T argument) {
    if constexpr (std::is_pointer_v<T>) {
        if (!on_device(argument)) {
            illegal_address(kernel, "argument", index, argument);
            return false;
        }
    } else if constexpr (std::is_class_v<T>) {
#if __has_builtin(__builtin_clear_padding)
        __builtin_clear_padding(&argument);
        for (size_t at = 0; at + sizeof(void *) <= sizeof argument; at += sizeof(void *)) {
            const void *word;
            std::memcpy(&word, reinterpret_cast<const char *>(&argument) + at, sizeof word);
            if (!on_device(word) && of_the_host(word)) {
                illegal_address(kernel, "within argument", index, word);
                return false;
            }
        }
#endif
    }
    return true;
}

/* Launches a kernel. Arguments are looked at when it runs, which for a captured one is later. The result is that
 * of the next cudaGetLastError. */
template <typename Kernel, typename... Given>
void emulate(const char *name, Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
             Given... given) {
    (void)submit(stream, typeid(Kernel).hash_code(), [=] {
        size_t index = 0;
        if ((argument_is_the_devices(name, ++index, given) && ...))
            run([=] { kernel(given...); }, grid, block, shared_bytes);
    });
}
/* The dynamic shared memory of the block that runs. */
void *shared();
/* What a lane gives at once, at most. */
enum { EXCHANGE_BYTES = 32 };
using Exchange = char[EXCHANGE_BYTES];
/* `bytes` of every lane of the warp to all of them: 32, in order, until the next call but one. */
const Exchange *share(const void *mine, size_t bytes);
} // namespace ousac_emulation
#endif
