/* The warp's matrix unit in bfloat16, one function per instruction, so that what a device has no C++ for
 * stands in one place; the emulation has a file of this name. Compute capability 8.0 where nothing else is said; below
 * it they trap.
 *
 * Fragments are those of the PTX ISA for m16n8k16. With g = lane / 4 and t = lane % 4, each register holding
 * two values, the lower half first:
 *
 *     A (16, 16)   (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)
 *     B (16, 8)    (2t.., g), (2t + 8.., g)
 *     C (16, 8)    floats (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
 *
 * and for m16n8k8 A is the first two registers of these, B the first. What goes with it, copies into shared memory
 * beside other work and the vote of a warp, stands here too.
 */
#ifndef OUSAC_CUDA_MATRIX_UNIT_H
#define OUSAC_CUDA_MATRIX_UNIT_H

#include <cuda_runtime.h>

#include <cstdint>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define OUSAC_MATRIX_UNIT(...) asm volatile(__VA_ARGS__)
#else
#define OUSAC_MATRIX_UNIT(...) __trap()
#endif

namespace ousac_cuda {

/* low | high << 16 in bfloat16, to nearest even; NaN stays NaN. */
__device__ inline uint32_t pack_bf16(float low, float high) {
    uint32_t packed = 0;
    OUSAC_MATRIX_UNIT("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/* Begins to bring the 128 bytes around an address of global memory nearer, into the cache that all processors
 * share; nobody waits for it. Of every compute capability. */
__device__ inline void prefetch(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(__cvta_generic_to_global(address)));
}

/* 2^x within 2 units in the last place; results below 2^-126 are 0. */
__device__ inline float exp2_fast(float x) {
    float y = 0;
    OUSAC_MATRIX_UNIT("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four matrices of 8 x 8 values from shared memory: lane 8 i + j gives the 16-byte aligned address of row j
 * of matrix i; out[i] is this lane's (g, 2t..) of it. */
__device__ inline void load_matrices(uint32_t out[4], const void *row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    OUSAC_MATRIX_UNIT("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                      : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                      : "r"(at)
                      : "memory");
}

/* The same of the transposed matrices: out[i] is (2t.., g) of matrix i as it lies. */
__device__ inline void load_matrices_transposed(uint32_t out[4], const void *row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    OUSAC_MATRIX_UNIT("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                      : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                      : "r"(at)
                      : "memory");
}

/* C += A B, products of bfloat16 summed in float32. */
__device__ inline void multiply_add(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    OUSAC_MATRIX_UNIT(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same of the first 8 columns of A and rows of B. */
__device__ inline void multiply_add_half(float c[4], const uint32_t a[2], uint32_t b) {
    OUSAC_MATRIX_UNIT("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                      "{%0, %1, %2, %3};"
                      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                      : "r"(a[0]), "r"(a[1]), "r"(b));
}

/* Starts a copy of 16 bytes, both addresses aligned to as many, from global memory to shared memory. Of every compute
 * capability; below 8.0 it is made at once. */
__device__ inline void start_copy(void *shared, const void *global) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    OUSAC_MATRIX_UNIT("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at),
                      "l"(__cvta_generic_to_global(global))
                      : "memory");
#else
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}

/* Waits for all copies that this thread started; it takes a barrier to see those of others. */
__device__ inline void finish_copies() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    OUSAC_MATRIX_UNIT("cp.async.wait_all;" ::: "memory");
#endif
}

/* Whether it is so of any lane of the warp. */
__device__ inline bool any_lane(bool so) {
    return __any_sync(0xffffffffU, so) != 0;
}

} // namespace ousac_cuda

#undef OUSAC_MATRIX_UNIT
#endif
