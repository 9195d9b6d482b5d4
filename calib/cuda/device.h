/* What kernels of several files share: rounding to bfloat16 and sums over a warp. */
#ifndef OUSAC_CUDA_DEVICE_H
#define OUSAC_CUDA_DEVICE_H

#include <cuda_runtime.h>

#include <cstdint>

namespace ousac_cuda {

/* To nearest even. Of a NaN only the quiet bit is set: rounding could carry it into infinity. */
__device__ inline uint16_t round_to_bf16(float value) {
    const uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffU) > 0x7f800000U)
        return static_cast<uint16_t>((bits | 0x400000U) >> 16);
    return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

struct alignas(8) Rounded {
    uint16_t x, y, z, w;
};
__device__ inline void round_unit(float from, uint16_t *to) {
    *to = round_to_bf16(from);
}
__device__ inline void round_unit(float4 from, Rounded *to) {
    *to = {round_to_bf16(from.x), round_to_bf16(from.y), round_to_bf16(from.z), round_to_bf16(from.w)};
}

/* The same sum in every lane. All lanes of the warp must call it. */
__device__ inline float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffU, value, offset);
    return value;
}

} // namespace ousac_cuda
#endif
