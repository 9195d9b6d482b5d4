/* What the kernels of cached linears share: the cached values that they start from, and what those of the second half are
 * given. */
#ifndef OUSAC_CUDA_LOW_RANK_H
#define OUSAC_CUDA_LOW_RANK_H

#include "calib/cuda/context.h"
#include "calib/cuda/device.h"

#include <climits>

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

inline bool in_fours(const float *data, size_t ld, size_t cols) {
    return in_fours(data, ld) && cols % 4 == 0;
}

/* Whether these overlap nowhere; b may be NULL. */
inline bool apart(const float *a, size_t a_count, const float *b, size_t b_count) {
    return b == nullptr || a + a_count <= b || b + b_count <= a;
}

/* expand_onto as its kernels take it: Y (rows, m) from Z (rows, r) and A (r, m), in tiles. */
struct Expansion {
    int rows, m, r, column_tiles;
    const float *z, *a;
    size_t ldz, lda;
    Past past;
    float *y;
    size_t ldy;
    bool z_in_fours, a_in_fours;
};

/* For tiles of high x wide outputs, a block each; USAGE where these are too many. */
inline ousac_status expansion_of(size_t high, size_t wide, size_t rows, size_t m, size_t r, const float *z,
                                 size_t ldz, const float *a, size_t lda, const Past &past, float *y,
                                 size_t ldy, Expansion *expansion, unsigned *blocks, ousac_error *error) {
    const size_t row_tiles = (rows - 1) / high + 1, column_tiles = (m - 1) / wide + 1;
    if (row_tiles > INT_MAX / column_tiles)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expand_onto: %zu x %zu outputs are too many", rows, m);
    *expansion = {static_cast<int>(rows),
                  static_cast<int>(m),
                  static_cast<int>(r),
                  static_cast<int>(column_tiles),
                  z,
                  a,
                  ldz,
                  lda,
                  past,
                  y,
                  ldy,
                  in_fours(z, ldz, r),
                  in_fours(a, lda, m)};
    *blocks = static_cast<unsigned>(row_tiles * column_tiles);
    return OUSAC_STATUS_OK;
}

/* Whether four neighbours of the past and of Y may be read and written as one. */
inline bool outputs_in_fours(const Expansion &e) {
    const size_t m = static_cast<size_t>(e.m);
    return in_fours(e.y, e.ldy, m) && in_fours(e.past.last, e.past.ld, m) &&
           (e.past.before == nullptr || in_fours(e.past.before, e.past.ld, m));
}

} // namespace ousac_cuda
#endif
