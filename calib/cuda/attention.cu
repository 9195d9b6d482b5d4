/* Softmax attention of the CUDA plug-in in float32, without a matrix of scores in memory.
 *
 * A block holds QUERIES queries of one head and walks the keys in tiles, keeping for every query the largest
 * score m, the sum l of exp(score - m) and the output O = sum of exp(score - m) v so far; a tile that raises
 * m rescales both by exp(m_old - m) (online softmax: Milakov and Gimelshein, arXiv 1805.02867; tiled with the
 * products: arXiv 2205.14135).
 *
 * 16 x 16 threads. Thread (ty, tx) has queries ty * 4 + 0..3; of the scores the keys tx + 16 j, of the
 * outputs the columns tx + 16 c. The 16 threads that share queries are one half of a warp, so that the maxima
 * and sums over a row are shuffles. Head dimensions are padded with zeros to DIM, a multiple of 16; in shared
 * memory rows of Q and K have DIM + 4 floats, an odd number of 16-byte units, so that 8 threads that read 16
 * bytes each of 8 rows meet in no bank.
 */
#include "calib/cuda/context.h"

#include <climits>
#include <cmath>

namespace ousac_cuda {
namespace {

enum { SIDE = 16, THREADS = SIDE * SIDE, WARP = 32, ROWS = 4, QUERIES = SIDE * ROWS };

/* Floats of shared memory: Q (QUERIES, DIM + 4), K (KEYS, DIM + 4), V (KEYS, DIM), P (QUERIES, KEYS + 4). */
template <int DIM, int KEYS> constexpr size_t shared_floats() {
    return (QUERIES + KEYS) * (DIM + 4) + KEYS * DIM + QUERIES * (KEYS + 4);
}

/* Over the half warp. */
__device__ inline float half_max(float value) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, offset));
    return value;
}
__device__ inline float half_sum(float value) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffU, value, offset);
    return value;
}

/* tile (count, ld) = factor * rows [0, valid) of a (.., ld_source) matrix of head_dim columns, else 0. */
template <int DIM>
__device__ inline void load_tile(float *tile, int ld, int count, const float *source, size_t ld_source,
                                 size_t valid, int head_dim, float factor) {
    for (int e = threadIdx.x; e < count * DIM; e += THREADS) {
        const int row = e / DIM, col = e % DIM;
        tile[row * ld + col] = static_cast<size_t>(row) < valid && col < head_dim
                                   ? factor * source[row * ld_source + col]
                                   : 0.0F;
    }
}

/* BIASED: bias (sequences, key_count) is added to the scores; else it is not read. */
template <int DIM, int KEYS, bool BIASED>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(size_t query_count, size_t key_count, size_t heads, int head_dim, float scale,
                     size_t query_tiles, const float *q, size_t ld_q, const float *k, const float *v,
                     size_t ld_kv, const float *bias, float *out, size_t ld_out) {
    constexpr int LD = DIM + 4, LD_P = KEYS + 4, KEYS_EACH = KEYS / SIDE, COLS_EACH = DIM / SIDE;
    extern __shared__ float4 shared_memory[]; /* float4: 16-byte alignment */
    float *const Q = reinterpret_cast<float *>(shared_memory);
    float *const K = Q + QUERIES * LD;
    float *const V = K + KEYS * LD;
    float *const P = V + KEYS * DIM;

    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    const size_t tile = blockIdx.x % query_tiles, head = blockIdx.x / query_tiles % heads;
    const size_t sequence = blockIdx.x / query_tiles / heads;
    const size_t origin = sequence * query_count, key_origin = sequence * key_count; /* its first rows */
    const size_t first = tile * QUERIES, column = head * static_cast<size_t>(head_dim);
    const size_t queries = query_count - first; /* valid ones, perhaps more than QUERIES */

    load_tile<DIM>(Q, LD, QUERIES, q + (origin + first) * ld_q + column, ld_q, queries, head_dim, scale);

    float most[ROWS], sum[ROWS], output[ROWS][COLS_EACH];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        most[i] = -INFINITY;
        sum[i] = 0;
#pragma unroll
        for (int c = 0; c < COLS_EACH; c++)
            output[i][c] = 0;
    }

    for (size_t start = 0; start < key_count; start += KEYS) {
        const size_t keys = key_count - start; /* valid ones, perhaps more than KEYS */
        const size_t key_row = key_origin + start;
        __syncthreads(); /* the previous tile's K, V and P have been read */
        load_tile<DIM>(K, LD, KEYS, k + key_row * ld_kv + column, ld_kv, keys, head_dim, 1.0F);
        load_tile<DIM>(V, DIM, KEYS, v + key_row * ld_kv + column, ld_kv, keys, head_dim, 1.0F);
        __syncthreads();

        float score[ROWS][KEYS_EACH];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < KEYS_EACH; j++)
                score[i][j] = 0;
#pragma unroll 4
        for (int e = 0; e < DIM; e += 4) {
            float4 left[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                left[i] = *reinterpret_cast<const float4 *>(Q + (ty * ROWS + i) * LD + e);
#pragma unroll
            for (int j = 0; j < KEYS_EACH; j++) {
                const float4 right = *reinterpret_cast<const float4 *>(K + (tx + SIDE * j) * LD + e);
#pragma unroll
                for (int i = 0; i < ROWS; i++)
                    score[i][j] +=
                        left[i].x * right.x + left[i].y * right.y + left[i].z * right.z + left[i].w * right.w;
            }
        }

#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float peak = -INFINITY;
#pragma unroll
            for (int j = 0; j < KEYS_EACH; j++) {
                if (static_cast<size_t>(tx + SIDE * j) >= keys)
                    score[i][j] = -INFINITY; /* no such key */
                else if (BIASED)
                    score[i][j] += bias[key_row + tx + SIDE * j];
                peak = fmaxf(peak, score[i][j]);
            }
            const float highest = fmaxf(most[i], half_max(peak));
            /* Where every score so far is -inf: any finite value gives weights of 0 instead of NaN. */
            const float reference = highest == -INFINITY ? 0.0F : highest;
            const float shrink = expf(most[i] - reference);
            float added = 0;
#pragma unroll
            for (int j = 0; j < KEYS_EACH; j++) {
                const float weight = expf(score[i][j] - reference);
                P[(ty * ROWS + i) * LD_P + tx + SIDE * j] = weight;
                added += weight;
            }
            sum[i] = sum[i] * shrink + half_sum(added);
            most[i] = highest;
#pragma unroll
            for (int c = 0; c < COLS_EACH; c++)
                output[i][c] *= shrink;
        }
        __syncthreads(); /* P is whole */

#pragma unroll 2
        for (int key = 0; key < KEYS; key += 4) {
            float4 weight[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                weight[i] = *reinterpret_cast<const float4 *>(P + (ty * ROWS + i) * LD_P + key);
#pragma unroll
            for (int c = 0; c < COLS_EACH; c++) {
                const float *content = V + key * DIM + tx + SIDE * c;
                const float v0 = content[0], v1 = content[DIM], v2 = content[2 * DIM], v3 = content[3 * DIM];
#pragma unroll
                for (int i = 0; i < ROWS; i++)
                    output[i][c] += weight[i].x * v0 + weight[i].y * v1 + weight[i].z * v2 + weight[i].w * v3;
            }
        }
    }

#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const size_t query = ty * ROWS + i;
        if (query >= queries)
            continue;
        float *row = out + (origin + first + query) * ld_out + column;
#pragma unroll
        for (int c = 0; c < COLS_EACH; c++)
            if (tx + SIDE * c < head_dim)
                row[tx + SIDE * c] = output[i][c] / sum[i];
    }
}

/* One warp per row: x = exp(x - max) / sum, after bias (cols), or null, was added. NaN and +inf spread over the row
 * through the exponential. */
__global__ void __launch_bounds__(THREADS)
    softmax_kernel(size_t rows, size_t cols, const float *bias, float *x) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t warps = static_cast<size_t>(gridDim.x) * (THREADS / WARP);
    for (size_t i = blockIdx.x * static_cast<size_t>(THREADS / WARP) + threadIdx.x / WARP; i < rows;
         i += warps) {
        float *row = x + i * cols;
        float peak = -INFINITY, sum = 0;
        for (size_t j = lane; j < cols; j += WARP) {
            if (bias != nullptr)
                row[j] += bias[j];
            peak = fmaxf(peak, row[j]);
        }
        for (int offset = WARP / 2; offset > 0; offset /= 2)
            peak = fmaxf(peak, __shfl_xor_sync(0xffffffffU, peak, offset));
        for (size_t j = lane; j < cols; j += WARP) {
            const float weight = expf(row[j] - peak);
            row[j] = weight;
            sum += weight;
        }
        for (int offset = WARP / 2; offset > 0; offset /= 2)
            sum += __shfl_xor_sync(0xffffffffU, sum, offset);
        const float inverse = 1.0F / sum;
        for (size_t j = lane; j < cols; j += WARP)
            row[j] *= inverse;
    }
}

template <int DIM, int KEYS> ousac_status prepare(ousac_error *error) {
    const int bytes = static_cast<int>(shared_floats<DIM, KEYS>() * sizeof(float));
    ousac_status status = check(cudaFuncSetAttribute(attention_kernel<DIM, KEYS, false>,
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                                "attention", error);
    if (!status)
        status = check(cudaFuncSetAttribute(attention_kernel<DIM, KEYS, true>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                       "cross_attention", error);
    return status;
}

template <int DIM, int KEYS, bool BIASED>
void launch_kernel(const AttentionJob &job, size_t query_tiles, unsigned blocks, cudaStream_t stream) {
    const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(job.head_dim)));
    attention_kernel<DIM, KEYS, BIASED>
        <<<blocks, THREADS, shared_floats<DIM, KEYS>() * sizeof(float), stream>>>(
            job.queries, job.keys, job.heads, static_cast<int>(job.head_dim), scale, query_tiles, job.q,
            job.ld_q, job.k, job.v, job.ld_kv, job.bias, job.out, job.ld_out);
}

template <int DIM, int KEYS>
void launch(const AttentionJob &job, size_t query_tiles, unsigned blocks, cudaStream_t stream) {
    if (job.bias != nullptr)
        launch_kernel<DIM, KEYS, true>(job, query_tiles, blocks, stream);
    else
        launch_kernel<DIM, KEYS, false>(job, query_tiles, blocks, stream);
}

} // namespace

/* The widest tiles need 80 KiB, below the 99 KiB that every processor since compute capability 8.0 gives. */
static_assert(shared_floats<80, 64>() * sizeof(float) <= 99 * 1024, "too much shared memory");
static_assert(shared_floats<128, 32>() * sizeof(float) <= 99 * 1024, "too much shared memory");
static_assert(ATTENTION_HEAD_DIM_MAX == 128, "one instance of the kernel must hold the widest head");

ousac_status attention_prepare(ousac_error *error) {
    ousac_status status;
    if ((status = prepare<32, 64>(error)) || (status = prepare<64, 64>(error)) ||
        (status = prepare<80, 64>(error)) || (status = prepare<128, 32>(error)))
        return status;
    return OUSAC_STATUS_OK;
}

ousac_status attention_grid(size_t batch, size_t tokens, size_t heads, size_t queries, size_t *query_tiles,
                            unsigned *blocks, ousac_error *error) {
    const size_t tiles = (tokens - 1) / queries + 1;
    if (heads > INT_MAX / tiles || batch > INT_MAX / (heads * tiles))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "attention: %zu sequences of %zu tokens and %zu heads are too many for one call",
                          batch, tokens, heads);
    *query_tiles = tiles;
    *blocks = static_cast<unsigned>(batch * heads * tiles);
    return OUSAC_STATUS_OK;
}

ousac_status attention_tiled(Context *c, const char *operation, const AttentionJob &job, ousac_error *error) {
    size_t tiles = 0;
    unsigned blocks = 0;
    const ousac_status status =
        attention_grid(job.batch, job.queries, job.heads, QUERIES, &tiles, &blocks, error);
    if (status)
        return status;
    if (job.head_dim <= 32)
        launch<32, 64>(job, tiles, blocks, c->stream);
    else if (job.head_dim <= 64)
        launch<64, 64>(job, tiles, blocks, c->stream);
    else if (job.head_dim <= 80)
        launch<80, 64>(job, tiles, blocks, c->stream);
    else
        launch<128, 32>(job, tiles, blocks, c->stream);
    return launched(operation, error);
}

ousac_status softmax_rows(Context *c, const char *operation, size_t rows, size_t cols, const float *bias,
                          float *x, ousac_error *error) {
    const size_t blocks = (rows - 1) / (THREADS / WARP) + 1;
    softmax_kernel<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), THREADS, 0, c->stream>>>(
        rows, cols, bias, x);
    return launched(operation, error);
}

} // namespace ousac_cuda
