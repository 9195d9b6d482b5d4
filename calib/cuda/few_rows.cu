/* Linears of few rows, such as the modulation of a batch: what counts is that W is read once, at the speed of memory.
 *
 * A block computes COLS columns of Y for ROWS rows. Its threads stride along the inner dimension, four values each, so
 * that a row of W is read in whole lines, and by many blocks at once; X comes from the cache. The ROWS * COLS sums of a
 * warp's lanes are added by halves: of each pair of lanes one takes one half of the sums, the other the rest. Those of
 * the warps are added in their order.
 */
#include "calib/cuda/context.h"
#include "calib/cuda/device.h"

namespace ousac_cuda {
namespace {

enum { WARP = 32, WARPS = 4, THREADS = WARP * WARPS };

__device__ inline float dot(const float4 &a, const float4 &b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* Adds up the sums of the lanes that differ in the bits up to OFFSET, of which each keeps HALF, then fewer; where those that
 * this lane ends with began. */
template <int OFFSET, int HALF, int SUMS> __device__ inline int halve(float (&sum)[SUMS], int lane) {
    const bool upper = (lane & OFFSET) != 0;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const float keep = upper ? sum[i + HALF] : sum[i], give = upper ? sum[i] : sum[i + HALF];
        sum[i] = keep + __shfl_xor_sync(0xffffffffU, give, OFFSET);
    }
    int begin = upper ? HALF : 0;
    if constexpr (OFFSET > 1)
        begin += halve<OFFSET / 2, HALF / 2>(sum, lane);
    return begin;
}

/* X (rows, 4 units) with rows from `first` on, W (m, 4 units), steps in units; bias (m) or NULL. */
template <int ROWS, int COLS>
__global__ void __launch_bounds__(THREADS, 3)
    few_rows_kernel(int first, int rows, int m, int units, const float4 *__restrict__ x, size_t step_x,
                    const float4 *__restrict__ w, size_t step_w, const float *__restrict__ bias, float *y,
                    size_t ldy) {
    constexpr int SUMS = ROWS * COLS, KEPT = SUMS / WARP;
    static_assert(SUMS % WARP == 0 && SUMS <= THREADS,
                  "every lane ends with as many sums, every thread with one");
    const int lane = static_cast<int>(threadIdx.x % WARP);
    const int warp = static_cast<int>(threadIdx.x / WARP), column = static_cast<int>(blockIdx.x) * COLS;
    __shared__ float part[WARPS][SUMS];
    const float4 *row[COLS]; /* beyond the last one, the last once more */
#pragma unroll
    for (int c = 0; c < COLS; c++)
        row[c] = w + static_cast<size_t>(column + c < m ? column + c : m - 1) * step_w;

    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        sum[i] = 0;
#pragma unroll 2
    for (int j = static_cast<int>(threadIdx.x); j < units; j += THREADS) {
        float4 weight[COLS];
#pragma unroll
        for (int c = 0; c < COLS; c++)
            weight[c] = row[c][j];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int from = first + r < rows ? first + r : rows - 1;
            const float4 value = x[static_cast<size_t>(from) * step_x + j];
#pragma unroll
            for (int c = 0; c < COLS; c++)
                sum[r * COLS + c] = dot(weight[c], value, sum[r * COLS + c]);
        }
    }

    const int begin = halve<WARP / 2, SUMS / 2>(sum, lane);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        part[warp][begin + i] = sum[i];
    __syncthreads();
    const int which = static_cast<int>(threadIdx.x);
    const int r = first + which / COLS, c = column + which % COLS;
    if (which >= SUMS || r >= rows || c >= m)
        return;
    float total = bias != nullptr ? bias[c] : 0;
#pragma unroll
    for (int k = 0; k < WARPS; k++)
        total += part[k][which];
    y[static_cast<size_t>(r) * ldy + static_cast<size_t>(c)] = total;
}

template <int ROWS, int COLS>
void launch(Context *c, const Product &p, int first, const float *x, const float *w, const float *bias,
            float *y) {
    few_rows_kernel<ROWS, COLS><<<static_cast<unsigned>((p.cols - 1) / COLS + 1), THREADS, 0, c->stream>>>(
        first, p.rows, p.cols, p.inner / 4, reinterpret_cast<const float4 *>(x),
        static_cast<size_t>(p.lda) / 4, reinterpret_cast<const float4 *>(w), static_cast<size_t>(p.ldb) / 4,
        bias, y, static_cast<size_t>(p.ldc));
}

} // namespace

ousac_status linear_few_rows(Context *c, const Product *p, const float *x, const float *w, const float *bias,
                             float *y, int *done, ousac_error *error) {
    enum { MOST = 16 }; /* rows of one launch; the next finds W in the cache, where it fits */
    *done = 0;
    if (p->inner == 0 || p->inner % 4 != 0 || !in_fours(x, p->rows > 1 ? static_cast<size_t>(p->lda) : 4) ||
        !in_fours(w, p->cols > 1 ? static_cast<size_t>(p->ldb) : 4))
        return OUSAC_STATUS_OK;
    *done = 1;
    for (int first = 0; first < p->rows; first += MOST) {
        const int left = p->rows - first;
        if (left <= 4)
            launch<4, 8>(c, *p, first, x, w, bias, y);
        else if (left <= 8)
            launch<8, 4>(c, *p, first, x, w, bias, y);
        else
            launch<MOST, 4>(c, *p, first, x, w, bias, y);
    }
    return launched("linear", error);
}

} // namespace ousac_cuda
