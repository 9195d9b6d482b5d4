/* Tiles of keys or values in bfloat16, on their way into shared memory: rounded from float32, or copied. Of
 * attention_bf16.cu alone. Every function is the whole block's, of THREADS threads, and ends without a barrier.
 */
#ifndef OUSAC_CUDA_TILES_BF16_H
#define OUSAC_CUDA_TILES_BF16_H

#include "calib/cuda/device.h"
#include "calib/cuda/matrix_unit.h"

namespace ousac_cuda {
namespace {

/* UNIT values are 16 bytes. */
enum { THREADS = 128, KEYS = 64, UNIT = 8 };

/* Of a row in shared memory, in values. */
template <int DIM> constexpr int ROW = DIM / UNIT % 2 != 0 ? DIM : DIM + UNIT;

/* The block rounds KEYS rows of DIM columns, of which `valid` and `head_dim` are there, zeros beyond, into a
 * tile of rows of LD values. Consecutive threads read and write along a row. */
template <int DIM, int LD, bool FOURS>
__device__ inline void round_tile(const float *__restrict__ source, unsigned ld, int valid, int head_dim,
                                  uint16_t *tile) {
    constexpr unsigned ACROSS = DIM / 4, EACH = KEYS * ACROSS / THREADS;
    static_assert(KEYS * ACROSS % THREADS == 0, "threads without a row");
    float4 value[EACH];
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
        const unsigned at = threadIdx.x + i * THREADS, row = at / ACROSS, col = at % ACROSS * 4;
        const int left = head_dim - static_cast<int>(col);
        value[i] = load_four<FOURS>(source + static_cast<size_t>(row) * ld + col,
                                    static_cast<int>(row) < valid ? left : 0);
    }
    uint16_t *const to = tile + threadIdx.x * 4; /* where rows are contiguous */
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
        const unsigned at = threadIdx.x + i * THREADS;
        *reinterpret_cast<uint2 *>(LD == DIM ? to + i * (4 * THREADS)
                                             : tile + at / ACROSS * LD + at % ACROSS * 4) =
            make_uint2(pack_bf16(value[i].x, value[i].y), pack_bf16(value[i].z, value[i].w));
    }
}

/* Starts this thread's part of the copy of KEYS rounded rows. */
template <int DIM> __device__ inline void copy_tile(const uint16_t *__restrict__ source, uint16_t *tile) {
    constexpr unsigned ACROSS = DIM / UNIT;
    const uint16_t *const from = source + threadIdx.x * UNIT;
    uint16_t *const to = tile + threadIdx.x * UNIT; /* where rows are contiguous */
#pragma unroll
    for (unsigned i = 0; i < KEYS * ACROSS; i += THREADS) {
        const unsigned at = threadIdx.x + i;
        if (i + THREADS <= KEYS * ACROSS || at < KEYS * ACROSS)
            start_copy(ROW<DIM> == DIM ? to + i * UNIT : tile + at / ACROSS * ROW<DIM> + at % ACROSS * UNIT,
                       from + i * UNIT);
    }
}

} // namespace
} // namespace ousac_cuda
#endif
