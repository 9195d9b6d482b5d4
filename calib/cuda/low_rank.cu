/* Y = Y0 + s (Y0 - Y1) + Z A in one pass over the outputs, in float32: the second half of a cached linear, Y0
 * and Y1 the last output and the one before. Z (rows, r) and A (r, m) are thin, so reading and writing Y costs
 * most after the multiplications.
 *
 * A block computes a tile of ROWS x COLS outputs with 16 x 16 threads, thread (ty, tx) the rows ty * 4 + 0..3
 * and the columns tx * 4 + 0..3 of either half. Z lies transposed in shared memory, so that a thread reads its
 * rows and its columns as 16 bytes each; 32 lanes write 32 rows of it, one bank each.
 */
#include "calib/cuda/low_rank.h"
#include "calib/cuda/matrix_unit.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { SIDE = 16, THREADS = SIDE * SIDE, EACH = 4, HALVES = 2, DEPTH = 32, LINE = 32 };
enum { ROWS = SIDE * EACH, HALF = SIDE * EACH, COLS = HALVES * HALF, LD_Z = ROWS + 4, LD_A = COLS + 4 };

static_assert(ROWS * COLS / LINE == THREADS, "a line a thread");

/* Rows [0, rows) and columns [0, r) of z, at most ROWS x DEPTH, transposed; zeros beyond. */
template <bool FOURS>
__device__ inline void stage_z(const float *__restrict__ z, size_t ldz, int rows, int r,
                               float (*left)[LD_Z]) {
    const int row = static_cast<int>(threadIdx.x) % ROWS;
    for (int k = static_cast<int>(threadIdx.x) / ROWS * 4; k < DEPTH; k += THREADS / ROWS * 4) {
        const float4 v = load_four<FOURS>(z + static_cast<size_t>(row) * ldz + k, row < rows ? r - k : 0);
        left[k][row] = v.x;
        left[k + 1][row] = v.y;
        left[k + 2][row] = v.z;
        left[k + 3][row] = v.w;
    }
}

/* Rows [0, r) and columns [0, cols) of a, at most DEPTH x COLS; zeros beyond. */
template <bool FOURS>
__device__ inline void stage_a(const float *__restrict__ a, size_t lda, int r, int cols,
                               float (*right)[LD_A]) {
    const int col = static_cast<int>(threadIdx.x) % (COLS / 4) * 4;
    for (int k = static_cast<int>(threadIdx.x) / (COLS / 4); k < DEPTH; k += THREADS / (COLS / 4))
        *reinterpret_cast<float4 *>(&right[k][col]) =
            load_four<FOURS>(a + static_cast<size_t>(k) * lda + col, k < r ? cols - col : 0);
}

template <bool ACTIVATED> __device__ inline float finished(float value) {
    return ACTIVATED ? gelu(value) : value;
}

/* FOURS: four neighbours of the past and of Y may be read and written as one. */
template <bool FOURS, bool ACTIVATED>
__global__ void __launch_bounds__(THREADS) expand_kernel(Expansion job) {
    __shared__ __align__(16) float left[DEPTH][LD_Z], right[DEPTH][LD_A];
    const int thread = static_cast<int>(threadIdx.x), tx = thread % SIDE, ty = thread / SIDE;
    const int first_row = static_cast<int>(blockIdx.x) / job.column_tiles * ROWS;
    const int first_col = static_cast<int>(blockIdx.x) % job.column_tiles * COLS;
    float sum[HALVES][EACH][EACH] = {};
    {
        const int row = first_row + thread / (COLS / LINE), col = first_col + thread % (COLS / LINE) * LINE;
        const size_t at = static_cast<size_t>(row) * job.past.ld + col;
        if (row < job.rows && col < job.m) {
            prefetch(job.past.last + at);
            if (job.past.before != nullptr)
                prefetch(job.past.before + at);
        }
    }

    for (int start = 0; start < job.r; start += DEPTH) {
        const float *z = job.z + static_cast<size_t>(first_row) * job.ldz + start;
        const float *a = job.a + static_cast<size_t>(start) * job.lda + first_col;
        if (job.z_in_fours)
            stage_z<true>(z, job.ldz, job.rows - first_row, job.r - start, left);
        else
            stage_z<false>(z, job.ldz, job.rows - first_row, job.r - start, left);
        if (job.a_in_fours)
            stage_a<true>(a, job.lda, job.r - start, job.m - first_col, right);
        else
            stage_a<false>(a, job.lda, job.r - start, job.m - first_col, right);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            const float4 u = *reinterpret_cast<const float4 *>(&left[k][ty * EACH]);
            const float us[EACH] = {u.x, u.y, u.z, u.w};
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                const float4 v = *reinterpret_cast<const float4 *>(&right[k][h * HALF + tx * EACH]);
                const float vs[EACH] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int i = 0; i < EACH; i++)
#pragma unroll
                    for (int j = 0; j < EACH; j++)
                        sum[h][i][j] += us[i] * vs[j];
            }
        }
        __syncthreads(); /* before the tiles are overwritten */
    }

#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = first_row + ty * EACH + i;
        if (row >= job.rows)
            continue;
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            const int col = first_col + h * HALF + tx * EACH, valid = job.m - col;
            const size_t at = static_cast<size_t>(row) * job.past.ld + col;
            float4 v = load_four<FOURS>(job.past.last + at, valid);
            if (job.past.before != nullptr)
                v = forecast(v, load_four<FOURS>(job.past.before + at, valid), job.past.s);
            v = make_float4(finished<ACTIVATED>(v.x + sum[h][i][0]), finished<ACTIVATED>(v.y + sum[h][i][1]),
                            finished<ACTIVATED>(v.z + sum[h][i][2]), finished<ACTIVATED>(v.w + sum[h][i][3]));
            store_four<FOURS>(job.y + static_cast<size_t>(row) * job.ldy + col, valid, v);
        }
    }
}

} // namespace

ousac_status expand_tiled(Context *c, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                          const float *a, size_t lda, float s, const float *last, const float *before,
                          size_t ld_past, bool activated, float *y, size_t ldy, ousac_error *error) {
    Expansion job = {};
    unsigned blocks = 0;
    const ousac_status status = expansion_of(ROWS, COLS, rows, m, r, z, ldz, a, lda,
                                             {last, before, ld_past, s}, y, ldy, &job, &blocks, error);
    if (status)
        return status;
    const bool fours = outputs_in_fours(job);
    if (fours && activated)
        expand_kernel<true, true><<<blocks, THREADS, 0, c->stream>>>(job);
    else if (fours)
        expand_kernel<true, false><<<blocks, THREADS, 0, c->stream>>>(job);
    else if (activated)
        expand_kernel<false, true><<<blocks, THREADS, 0, c->stream>>>(job);
    else
        expand_kernel<false, false><<<blocks, THREADS, 0, c->stream>>>(job);
    return launched("expand_onto", error);
}

} // namespace ousac_cuda
