/* What kernels of several files share: rounding to bfloat16, sums over a warp, the activation, and four neighbours of a row
 * at a time. */
#ifndef OUSAC_CUDA_DEVICE_H
#define OUSAC_CUDA_DEVICE_H

#include <cuda_runtime.h>

#include <cstddef>
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

/* The tanh form as x / (1 + exp(-2 u)), without its cancellation. */
__device__ inline float gelu(float x) {
    const float u = 1.59576912F * (x + 0.044715F * (x * x * x)); /* 2 sqrt(2/pi) */
    return x / (1.0F + expf(-u));
}

__device__ inline float4 zeros() {
    return make_float4(0, 0, 0, 0);
}

/* Four neighbours of which the first `valid` exist, perhaps none or more than four; zeros for the others.
 * FOURS: they may be read as one, and all of them exist or none does. */
template <bool FOURS> __device__ inline float4 load_four(const float *__restrict__ first, int valid) {
    if (FOURS)
        return valid > 0 ? *reinterpret_cast<const float4 *>(first) : zeros();
    return make_float4(valid > 0 ? first[0] : 0.0F, valid > 1 ? first[1] : 0.0F, valid > 2 ? first[2] : 0.0F,
                       valid > 3 ? first[3] : 0.0F);
}
template <bool FOURS> __device__ inline void store_four(float *first, int valid, const float4 &value) {
    if (FOURS) {
        if (valid > 0)
            *reinterpret_cast<float4 *>(first) = value;
        return;
    }
    if (valid > 0)
        first[0] = value.x;
    if (valid > 1)
        first[1] = value.y;
    if (valid > 2)
        first[2] = value.z;
    if (valid > 3)
        first[3] = value.w;
}

/* 16-byte units wherever a fourth column begins. */
inline bool in_fours(const float *data, size_t ld) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(float4) == 0 && ld % 4 == 0;
}

} // namespace ousac_cuda
#endif
