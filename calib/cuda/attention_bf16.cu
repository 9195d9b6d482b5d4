/* Softmax attention of the CUDA plug-in in bfloat16, on the matrix units: the loop of FlashAttention-2 (arXiv
 * 2307.08691). Q, K, V and the weights exp(score - max) are rounded to bfloat16, products are summed in
 * float32, and maxima, sums and outputs stay in registers in float32.
 *
 * A block holds QUERIES queries of one head, a warp STRIPS strips of 16 of them with all their scores, so
 * that maxima and sums concern 4 lanes and the weights are where the second product wants them. Keys come in
 * tiles of KEYS. While one product runs, the tile that the next one needs is on its way from global memory
 * into registers, as float32; it is rounded on the way into shared memory, which thus holds one tile of K and
 * one of V. Of the two barriers of a round the first says that K is whole and the last V has been read, the
 * second that V is whole and K has been read.
 *
 * Head dimensions are padded with zeros to DIM, a multiple of 16. Rows in shared memory have DIM + 8 values,
 * an odd number of 16-byte units, so that the 8 rows of a matrix meet in no bank; a tile is written by 8
 * threads on 8 rows for the same reason.
 */
#include "calib/cuda/context.h"
#include "calib/cuda/matrix_unit.h"

#include <cmath>

namespace ousac_cuda {
namespace {

/* Chosen by what the compiler makes of them, not by measurement: so many keys and strips let three blocks
 * share a processor's registers up to head dimension 80, and two beyond. */
enum { WARP = 32, WARPS = 4, THREADS = WARPS * WARP, STRIP = 16, STRIPS = 2, KEYS = 32, UNIT = 8 };
enum { QUERIES = WARPS * STRIPS * STRIP };

constexpr int blocks_at_once(int dim) {
    return dim <= 80 ? 3 : 2;
}

/* Q (QUERIES, DIM + UNIT), K and V (KEYS, DIM + UNIT) in bfloat16. */
template <int DIM> constexpr size_t shared_bytes() {
    return (QUERIES + 2 * KEYS) * (DIM + UNIT) * sizeof(uint16_t);
}

/* Eight neighbours of a row. */
struct Unit {
    float4 low, high;
};

/* Columns [col, col + 8) of a row of head_dim columns, zeros beyond. */
__device__ inline Unit load_unit(const float *__restrict__ row, int col, int head_dim, bool in_fours) {
    Unit u = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
    if (in_fours) {
        if (col < head_dim)
            u.low = *reinterpret_cast<const float4 *>(row + col);
        if (col + 4 < head_dim)
            u.high = *reinterpret_cast<const float4 *>(row + col + 4);
        return u;
    }
    float value[UNIT];
#pragma unroll
    for (int i = 0; i < UNIT; i++)
        value[i] = col + i < head_dim ? row[col + i] : 0.0F;
    u.low = make_float4(value[0], value[1], value[2], value[3]);
    u.high = make_float4(value[4], value[5], value[6], value[7]);
    return u;
}

__device__ inline uint4 rounded(const Unit &u) {
    return make_uint4(pack_bf16(u.low.x, u.low.y), pack_bf16(u.low.z, u.low.w), pack_bf16(u.high.x, u.high.y),
                      pack_bf16(u.high.z, u.high.w));
}

/* A tile of ROWS x DIM values: a lane has the rows lane + 32 j, a warp the units warp + WARPS i of each,
 * which is load EACH_ROW j + i. */
template <int DIM, int ROWS> struct Tile {
    enum { UNITS = DIM / UNIT, EACH_ROW = (UNITS + WARPS - 1) / WARPS, EACH = ROWS / WARP * EACH_ROW };

    __device__ static int row_of(int i) {
        return static_cast<int>(threadIdx.x) % WARP + i / EACH_ROW * WARP;
    }
    __device__ static int col_of(int i) {
        return (static_cast<int>(threadIdx.x) / WARP + i % EACH_ROW * WARPS) * UNIT;
    }
    /* Rows [0, valid) of a matrix; zeros beyond. */
    __device__ static Unit fetch(int i, const float *__restrict__ source, size_t ld, int valid, int head_dim,
                                 bool in_fours) {
        const int row = row_of(i);
        if (row >= valid)
            return {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
        return load_unit(source + static_cast<size_t>(row) * ld, col_of(i), head_dim, in_fours);
    }
    __device__ static void store(int i, const Unit &unit, uint16_t *tile) {
        if (UNITS % WARPS == 0 || col_of(i) < DIM)
            *reinterpret_cast<uint4 *>(tile + row_of(i) * (DIM + UNIT) + col_of(i)) = rounded(unit);
    }
};

/* Over the four lanes that share a row. */
__device__ inline float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 2));
}
__device__ inline float quad_sum(float value) {
    value += __shfl_xor_sync(0xffffffffU, value, 1);
    return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

/* One strip's state: every lane has rows g and g + 8 (matrix_unit.h), of the sum its own columns' part. */
template <int DIM> struct Strip { float most[2], sum[2], output[DIM / 8][4]; };

/* score becomes exp(scale (score - max)) in pairs of bfloat16, as the left factor of the second product; the
 * strip's state follows. `factor` is scale log2(e), `keys` how many of the tile there are. */
template <int DIM>
__device__ inline void weigh(Strip<DIM> &strip, float (&score)[KEYS / 8][4], uint32_t (&weight)[KEYS / 16][4],
                             int keys, float factor) {
    const int t = static_cast<int>(threadIdx.x % 4);
    if (keys < KEYS) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (8 * n + 2 * t + e % 2 >= keys)
                    score[n][e] = -INFINITY; /* no such key */
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float peak = -INFINITY;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            peak = fmaxf(peak, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
        const float highest = fmaxf(strip.most[h], quad_max(peak));
        /* Where every score so far is -inf: any finite value gives weights of 0 instead of NaN. */
        const float reference = highest == -INFINITY ? 0.0F : highest;
        const float shrink = exp2_fast((strip.most[h] - reference) * factor), offset = reference * factor;
        float added = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            const float left = exp2_fast(fmaf(score[n][2 * h], factor, -offset));
            const float right = exp2_fast(fmaf(score[n][2 * h + 1], factor, -offset));
            weight[n / 2][n % 2 * 2 + h] = pack_bf16(left, right);
            added += left + right;
        }
        strip.sum[h] = strip.sum[h] * shrink + added;
        strip.most[h] = highest;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            strip.output[n][2 * h] *= shrink;
            strip.output[n][2 * h + 1] *= shrink;
        }
    }
}

/* What every launch is given. */
struct Job {
    size_t heads, query_tiles;
    int tokens, head_dim;
    float factor; /* log2(e) / sqrt(head_dim) */
    bool in_fours,
        in_twos; /* rows of q, k and v may be read four at a time, of out be written two at a time */
    const float *q, *k, *v;
    size_t ld_qkv;
    float *out;
    size_t ld_out;
};

template <int DIM>
__global__ void __launch_bounds__(THREADS, blocks_at_once(DIM)) attention_bf16_kernel(Job job) {
    typedef Tile<DIM, QUERIES> Queries;
    typedef Tile<DIM, KEYS> Keys;
    constexpr int LD = DIM + UNIT;
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const Q = reinterpret_cast<uint16_t *>(shared_tiles);
    uint16_t *const K = Q + QUERIES * LD;
    uint16_t *const V = K + KEYS * LD;

    const int lane = threadIdx.x % WARP, row = static_cast<int>(threadIdx.x) / WARP * STRIPS * STRIP;
    const size_t tile = blockIdx.x % job.query_tiles, head = blockIdx.x / job.query_tiles % job.heads;
    const size_t origin = blockIdx.x / job.query_tiles / job.heads * static_cast<size_t>(job.tokens);
    const size_t first = tile * QUERIES, column = head * static_cast<size_t>(job.head_dim);
    const int queries = job.tokens - static_cast<int>(first); /* valid ones, perhaps more than QUERIES */
    const bool active = row < queries;
    const float *const k = job.k + origin * job.ld_qkv + column, *const v =
                                                                     job.v + origin * job.ld_qkv + column;

    /* Where this lane's row of each of four matrices lies, in the tiles of Q and V, and of K. */
    const int across = lane % 16 * LD + lane / 16 * UNIT;
    const int along = (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * UNIT;

    for (int i = 0; i < Queries::EACH; i++)
        Queries::store(i,
                       Queries::fetch(i, job.q + (origin + first) * job.ld_qkv + column, job.ld_qkv, queries,
                                      job.head_dim, job.in_fours),
                       Q);

    Strip<DIM> strip[STRIPS];
#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            strip[s].most[h] = -INFINITY;
            strip[s].sum[h] = 0;
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                strip[s].output[n][e] = 0;
    }

    Unit held[Keys::EACH];
#pragma unroll
    for (int i = 0; i < Keys::EACH; i++)
        held[i] = Keys::fetch(i, k, job.ld_qkv, job.tokens, job.head_dim, job.in_fours);

    for (int start = 0; start < job.tokens; start += KEYS) {
        const int keys = job.tokens - start; /* valid ones, perhaps more than KEYS */
#pragma unroll
        for (int i = 0; i < Keys::EACH; i++) {
            Keys::store(i, held[i], K);
            held[i] = Keys::fetch(i, v + static_cast<size_t>(start) * job.ld_qkv, job.ld_qkv, keys,
                                  job.head_dim, job.in_fours);
        }
        __syncthreads();

        uint32_t weight[STRIPS][KEYS / 16][4];
        if (active) {
            float score[STRIPS][KEYS / 8][4];
#pragma unroll
            for (int s = 0; s < STRIPS; s++)
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        score[s][n][e] = 0;
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t left[STRIPS][4];
#pragma unroll
                for (int s = 0; s < STRIPS; s++)
                    load_matrices(left[s], Q + (row + s * STRIP) * LD + d + across);
#pragma unroll
                for (int n = 0; n < KEYS / 16; n++) {
                    uint32_t right[4];
                    load_matrices(right, K + n * 16 * LD + d + along);
#pragma unroll
                    for (int s = 0; s < STRIPS; s++) {
                        multiply_add(score[s][2 * n], left[s], right[0], right[1]);
                        multiply_add(score[s][2 * n + 1], left[s], right[2], right[3]);
                    }
                }
            }
#pragma unroll
            for (int s = 0; s < STRIPS; s++)
                weigh<DIM>(strip[s], score[s], weight[s], keys, job.factor);
        }
#pragma unroll
        for (int i = 0; i < Keys::EACH; i++) {
            Keys::store(i, held[i], V);
            if (keys > KEYS)
                held[i] = Keys::fetch(i, k + static_cast<size_t>(start + KEYS) * job.ld_qkv, job.ld_qkv,
                                      keys - KEYS, job.head_dim, job.in_fours);
        }
        __syncthreads();

        if (active) {
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++)
#pragma unroll
                for (int d = 0; d < DIM / 16; d++) {
                    uint32_t right[4];
                    load_matrices_transposed(right, V + n * 16 * LD + d * 16 + across);
#pragma unroll
                    for (int s = 0; s < STRIPS; s++) {
                        multiply_add(strip[s].output[2 * d], weight[s][n], right[0], right[1]);
                        multiply_add(strip[s].output[2 * d + 1], weight[s][n], right[2], right[3]);
                    }
                }
        }
    }

    if (!active)
        return;
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float inverse = 1.0F / quad_sum(strip[s].sum[h]);
            const int query = row + s * STRIP + lane / 4 + 8 * h;
            float *target = job.out + (origin + first + static_cast<size_t>(query)) * job.ld_out + column;
            if (query >= queries)
                continue;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                const int col = 8 * n + lane % 4 * 2;
                const float left = strip[s].output[n][2 * h] * inverse;
                const float right = strip[s].output[n][2 * h + 1] * inverse;
                if (job.in_twos && col + 1 < job.head_dim) {
                    *reinterpret_cast<float2 *>(target + col) = make_float2(left, right);
                } else {
                    if (col < job.head_dim)
                        target[col] = left;
                    if (col + 1 < job.head_dim)
                        target[col + 1] = right;
                }
            }
        }
}

template <int DIM> ousac_status prepare(ousac_error *error) {
    /* Every processor since compute capability 8.0 gives a block so much. */
    static_assert(shared_bytes<DIM>() <= 99 * 1024, "too much shared memory");
    return check(cudaFuncSetAttribute(attention_bf16_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shared_bytes<DIM>())),
                 "attention", error);
}

template <int DIM>
ousac_status launch(const Job &job, unsigned blocks, cudaStream_t stream, ousac_error *error) {
    attention_bf16_kernel<DIM><<<blocks, THREADS, shared_bytes<DIM>(), stream>>>(job);
    return launched("attention", error);
}

bool aligned(const float *p, size_t ld, size_t count) {
    return reinterpret_cast<uintptr_t>(p) % (count * sizeof(float)) == 0 && ld % count == 0;
}

} // namespace

static_assert(ATTENTION_HEAD_DIM_MAX == 128, "one instance of the kernel must hold the widest head");

ousac_status attention_bf16_prepare(ousac_error *error) {
    ousac_status status;
    if ((status = prepare<16>(error)) || (status = prepare<32>(error)) || (status = prepare<48>(error)) ||
        (status = prepare<64>(error)) || (status = prepare<80>(error)) || (status = prepare<96>(error)) ||
        (status = prepare<112>(error)) || (status = prepare<128>(error)))
        return status;
    return OUSAC_STATUS_OK;
}

ousac_status attention_bf16(Context *c, size_t batch, size_t tokens, size_t heads, size_t head_dim,
                            const float *q, const float *k, const float *v, size_t ld_qkv, float *out,
                            size_t ld_out, ousac_error *error) {
    size_t query_tiles = 0;
    unsigned blocks = 0;
    const ousac_status status = attention_grid(batch, tokens, heads, QUERIES, &query_tiles, &blocks, error);
    if (status)
        return status;
    const Job job = {heads,
                     query_tiles,
                     static_cast<int>(tokens),
                     static_cast<int>(head_dim),
                     static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(head_dim))),
                     head_dim % 4 == 0 && aligned(q, ld_qkv, 4) && aligned(k, ld_qkv, 4) &&
                         aligned(v, ld_qkv, 4),
                     head_dim % 2 == 0 && aligned(out, ld_out, 2),
                     q,
                     k,
                     v,
                     ld_qkv,
                     out,
                     ld_out};
    switch ((head_dim + 15) / 16) {
    case 1:
        return launch<16>(job, blocks, c->stream, error);
    case 2:
        return launch<32>(job, blocks, c->stream, error);
    case 3:
        return launch<48>(job, blocks, c->stream, error);
    case 4:
        return launch<64>(job, blocks, c->stream, error);
    case 5:
        return launch<80>(job, blocks, c->stream, error);
    case 6:
        return launch<96>(job, blocks, c->stream, error);
    case 7:
        return launch<112>(job, blocks, c->stream, error);
    default:
        return launch<128>(job, blocks, c->stream, error);
    }
}

} // namespace ousac_cuda
