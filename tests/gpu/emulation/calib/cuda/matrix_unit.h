/* Stands in for calib/cuda/matrix_unit.h in the emulation; see README.md. */
#ifndef OUSAC_CUDA_MATRIX_UNIT_H
#define OUSAC_CUDA_MATRIX_UNIT_H

#include <cuda_runtime.h>

#include <cstdint>

namespace ousac_cuda {

uint32_t pack_bf16(float low, float high);
void prefetch(const void *address);
float exp2_fast(float x);
void load_matrices(uint32_t out[4], const void *row);
void load_matrices_transposed(uint32_t out[4], const void *row);
void multiply_add(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void multiply_add_half(float c[4], const uint32_t a[2], uint32_t b);
void start_copy(void *shared, const void *global);
void finish_copies();
bool any_lane(bool so);

} // namespace ousac_cuda
#endif
