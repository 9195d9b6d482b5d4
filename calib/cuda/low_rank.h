/* What the kernels of cached linears share: the cached values that they start from, and four neighbours of a
 * row at a time. */
#ifndef OUSAC_CUDA_LOW_RANK_H
#define OUSAC_CUDA_LOW_RANK_H

#include "calib/cuda/context.h"

namespace ousac_cuda {

/* Y0 = last and Y1 = before, with leading dimension ld. before NULL: last alone. */
struct Past {
    const float *last, *before;
    size_t ld;
    float s;
};

/* Rounds as a step of its own would, elementwise.cu. */
__device__ inline float forecast(float last, float before, float s) {
    return last + s * (last - before);
}
__device__ inline float4 forecast(const float4 &last, const float4 &before, float s) {
    return make_float4(forecast(last.x, before.x, s), forecast(last.y, before.y, s),
                       forecast(last.z, before.z, s), forecast(last.w, before.w, s));
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

/* Of a matrix with so many columns: 16-byte units wherever a fourth column begins. */
inline bool in_fours(const float *data, size_t ld, size_t cols) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(float4) == 0 && ld % 4 == 0 && cols % 4 == 0;
}

} // namespace ousac_cuda
#endif
