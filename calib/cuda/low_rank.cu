/* Y = Y0 + s (Y0 - Y1) + Z A in one pass over the outputs: the second half of a cached linear, Y0 and Y1 the
 * last output and the one before. Z (rows, r) and A (r, m) are thin, so reading and writing Y is what costs.
 *
 * A block computes a tile of TILE x TILE outputs with 16 x 16 threads, thread (ty, tx) the rows ty * 4 + 0..3
 * and the columns tx * 4 + 0..3. Z lies transposed in shared memory, so that a thread reads its four rows and
 * its four columns as 16 bytes each.
 */
#include "calib/cuda/context.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { SIDE = 16, THREADS = SIDE * SIDE, EACH = 4, TILE = SIDE * EACH, DEPTH = 16, LD = TILE + 4 };

struct Past {
    const float *last, *before; /* before NULL: last alone */
    size_t ld;
    float s;
};

__global__ void __launch_bounds__(THREADS)
    expand_kernel(size_t rows, size_t m, size_t r, const float *z, size_t ldz, const float *a, size_t lda,
                  Past past, float *y, size_t ldy, size_t column_tiles) {
    __shared__ __align__(16) float left[DEPTH][LD], right[DEPTH][LD];
    const unsigned tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    const size_t first_row = blockIdx.x / column_tiles * TILE, first_col = blockIdx.x % column_tiles * TILE;
    float sum[EACH][EACH] = {};

    for (size_t start = 0; start < r; start += DEPTH) {
        /* 1024 elements of each factor by 256 threads; what lies outside counts as 0. */
#pragma unroll
        for (unsigned e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
            const unsigned row = e / DEPTH, k = e % DEPTH;
            left[k][row] =
                first_row + row < rows && start + k < r ? z[(first_row + row) * ldz + start + k] : 0.0F;
        }
#pragma unroll
        for (unsigned e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
            const unsigned k = e / TILE, col = e % TILE;
            right[k][col] =
                start + k < r && first_col + col < m ? a[(start + k) * lda + first_col + col] : 0.0F;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const float4 u = *reinterpret_cast<const float4 *>(&left[k][ty * EACH]);
            const float4 v = *reinterpret_cast<const float4 *>(&right[k][tx * EACH]);
            const float us[EACH] = {u.x, u.y, u.z, u.w}, vs[EACH] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum[i][j] += us[i] * vs[j];
        }
        __syncthreads(); /* before the tiles are overwritten */
    }

#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const size_t row = first_row + ty * EACH + i;
        if (row >= rows)
            continue;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const size_t col = first_col + tx * EACH + j;
            if (col >= m)
                continue;
            float value = past.last[row * past.ld + col];
            if (past.before != nullptr)
                value += past.s * (value - past.before[row * past.ld + col]);
            y[row * ldy + col] = value + sum[i][j];
        }
    }
}

} // namespace

ousac_status expand_tiled(Context *c, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                          const float *a, size_t lda, float s, const float *last, const float *before,
                          size_t ld_past, float *y, size_t ldy, ousac_error *error) {
    const size_t row_tiles = (rows - 1) / TILE + 1, column_tiles = (m - 1) / TILE + 1;
    if (row_tiles > INT_MAX / column_tiles)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expand_onto: %zu x %zu outputs are too many", rows, m);
    const Past past = {last, before, ld_past, s};
    expand_kernel<<<static_cast<unsigned>(row_tiles * column_tiles), THREADS, 0, c->stream>>>(
        rows, m, r, z, ldz, a, lda, past, y, ldy, column_tiles);
    return launched("expand_onto", error);
}

} // namespace ousac_cuda
