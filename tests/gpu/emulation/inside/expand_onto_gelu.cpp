/* What the plug-in has inside and tests call on the emulation alone. */
#include "calib/cuda/context.h"

extern "C" __attribute__((visibility("default"))) int
ousac_emulated_expand_onto_gelu(const ousac_backend *backend, size_t rows, size_t m, size_t r, const float *z,
                                size_t ldz, const float *a, size_t lda, float s, const float *last,
                                const float *before, size_t ld_past, float *y, size_t ldy) {
    return ousac_cuda::expand_onto_gelu(backend, rows, m, r, z, ldz, a, lda, s, last, before, ld_past, y, ldy,
                                        nullptr);
}
