/* The activation that kernels apply to what they write. */
#ifndef OUSAC_CUDA_GELU_H
#define OUSAC_CUDA_GELU_H

#include <cuda_runtime.h>

namespace ousac_cuda {

/* The tanh form as x / (1 + exp(-2 u)), without its cancellation. */
__device__ inline float gelu(float x) {
    const float u = 1.59576912F * (x + 0.044715F * (x * x * x)); /* 2 sqrt(2/pi) */
    return x / (1.0F + expf(-u));
}

} // namespace ousac_cuda
#endif
