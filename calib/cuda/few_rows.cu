/* Linears of few rows, such as the modulation of a batch: what counts is that W is read once, at the speed of memory.
 *
 * A block computes COLS columns of Y for ROWS rows. Its threads stride along the inner dimension, four values each, so
 * that a row of W is read in whole lines, and by many blocks at once; X comes from the cache. The ROWS * COLS sums of a
 * warp's lanes are added by halves: of each pair of lanes one takes one half of the sums, the other the rest. Those of
 * the warps are added in their order.
 *
 * Of 9 to 16 rows and many columns, reading X once for so few columns takes longer than reading W. There each warp of a
 * block has COLS columns of its own over the whole inner dimension, and X comes through shared memory, a chunk for all
 * of them. While one chunk is multiplied, the next one of both is under way, and memory is asked for W beyond it.
 */
#include "calib/cuda/context.h"
#include "calib/cuda/device.h"
#include "calib/cuda/matrix_unit.h"

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

enum { MOST = 16 }; /* rows of one launch; the next finds W in the cache, where it fits */
enum { WIDE_COLS = 4, WIDE_WARPS = 8, WIDE_WARPS_LEAST = 3, WIDE_BLOCKS = 2 * 132, UNITS = WARP };
enum { LINE = 8, LINES = UNITS / LINE, AHEAD = 3 }; /* units of 128 bytes; chunks that memory is asked for */
static_assert(WIDE_COLS * LINES == WARP / 2, "half a warp asks for its columns' lines of a chunk");

/* Rows from `first` on, MOST at most; blocks of up to WIDE_WARPS warps. */
__global__ void __launch_bounds__(WIDE_WARPS *WARP, 2)
    few_rows_wide_kernel(int first, int rows, int m, int units, const float4 *__restrict__ x, size_t step_x,
                         const float4 *__restrict__ w, size_t step_w, const float *__restrict__ bias,
                         float *y, size_t ldy) {
    constexpr int SUMS = MOST * WIDE_COLS, KEPT = SUMS / WARP;
    __shared__ float4 part[2][MOST][UNITS]; /* of X */
    const int threads = static_cast<int>(blockDim.x), lane = static_cast<int>(threadIdx.x) % WARP;
    const int column =
        (static_cast<int>(blockIdx.x) * (threads / WARP) + static_cast<int>(threadIdx.x) / WARP) * WIDE_COLS;
    const float4 *row[WIDE_COLS]; /* beyond the last one, the last once more */
#pragma unroll
    for (int c = 0; c < WIDE_COLS; c++)
        row[c] = w + static_cast<size_t>(column + c < m ? column + c : m - 1) * step_w + lane;
    const int asked = column + lane / LINES < m ? column + lane / LINES : m - 1;

    /* A chunk of X. */
    const auto bring = [=](int start, float4(*target)[UNITS]) {
        for (int i = static_cast<int>(threadIdx.x); i < MOST * UNITS; i += threads) {
            const int r = i / UNITS, from = first + r < rows ? first + r : rows - 1;
            if (start + i % UNITS < units)
                start_copy(&target[r][i % UNITS], x + static_cast<size_t>(from) * step_x + start + i % UNITS);
        }
    };
    const auto ask_for = [=](int start) {
        const int unit = start + lane % LINES * LINE;
        if (lane < WARP / 2 && unit < units)
            prefetch(w + static_cast<size_t>(asked) * step_w + unit);
    };

    bring(0, part[0]);
    float4 weight[WIDE_COLS];
#pragma unroll
    for (int c = 0; c < WIDE_COLS; c++)
        weight[c] = load_four<true>(reinterpret_cast<const float *>(row[c]), units - lane);
#pragma unroll
    for (int i = 1; i <= AHEAD; i++)
        ask_for(i * UNITS);
    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        sum[i] = 0;
    int place = 0;
#pragma unroll 1
    for (int start = 0; start < units; start += UNITS, place ^= 1) {
        const int next = start + UNITS;
        finish_copies();
        __syncthreads(); /* this chunk is there, the one before has been read */
        if (next < units)
            bring(next, part[place ^ 1]);
        ask_for(next + AHEAD * UNITS);
        float4 coming[WIDE_COLS];
#pragma unroll
        for (int c = 0; c < WIDE_COLS; c++)
            coming[c] = load_four<true>(reinterpret_cast<const float *>(row[c] + next), units - lane - next);
        if (start + lane < units) {
#pragma unroll
            for (int r = 0; r < MOST; r++) {
                const float4 value = part[place][r][lane];
#pragma unroll
                for (int c = 0; c < WIDE_COLS; c++)
                    sum[r * WIDE_COLS + c] = dot(weight[c], value, sum[r * WIDE_COLS + c]);
            }
        }
#pragma unroll
        for (int c = 0; c < WIDE_COLS; c++)
            weight[c] = coming[c];
    }

    const int begin = halve<WARP / 2, SUMS / 2>(sum, lane);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const int r = first + (begin + i) / WIDE_COLS, c = column + (begin + i) % WIDE_COLS;
        if (r < rows && c < m)
            y[static_cast<size_t>(r) * ldy + static_cast<size_t>(c)] =
                sum[i] + (bias != nullptr ? bias[c] : 0.0F);
    }
}

/* So many warps that all blocks run at once, two on a processor, where they can; 0 where there are columns for too
 * few. */
int wide_warps(int cols) {
    const int warps = (cols - 1) / (WIDE_BLOCKS * WIDE_COLS) + 1;
    return warps < WIDE_WARPS_LEAST ? 0 : warps < WIDE_WARPS ? warps : WIDE_WARPS;
}

void launch_wide(Context *c, const Product &p, int warps, int first, const float *x, const float *w,
                 const float *bias, float *y) {
    const unsigned blocks = static_cast<unsigned>((p.cols - 1) / (warps * WIDE_COLS) + 1);
    const unsigned threads = static_cast<unsigned>(warps * WARP);
    few_rows_wide_kernel<<<blocks, threads, 0, c->stream>>>(
        first, p.rows, p.cols, p.inner / 4, reinterpret_cast<const float4 *>(x),
        static_cast<size_t>(p.lda) / 4, reinterpret_cast<const float4 *>(w), static_cast<size_t>(p.ldb) / 4,
        bias, y, static_cast<size_t>(p.ldc));
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
    const int warps = wide_warps(p->cols);
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
        else if (warps > 0)
            launch_wide(c, *p, warps, first, x, w, bias, y);
        else
            launch<MOST, 4>(c, *p, first, x, w, bias, y);
    }
    return launched("linear", error);
}

} // namespace ousac_cuda
