/* Softmax attention of the CUDA plug-in in bfloat16, on the matrix units: the loop of FlashAttention-2 (arXiv
 * 2307.08691). Q, K, V and the weights exp(score - max) are rounded to bfloat16, products are summed in
 * float32, and maxima, sums and outputs stay in registers in float32.
 *
 * A block holds QUERIES queries of one head, a warp STRIPS strips of 16 of them, whose Q and output stay in
 * its registers, with all their scores of STEP keys, so that maxima and sums concern 4 lanes and the weights
 * are where the second product wants them. K and V are in shared memory, in bfloat16:
 *
 * - few keys: all of them, rounded on the way in by every block; warps then go on without a barrier;
 * - many: rounded once, by a kernel of their own, into scratch (batch, heads, 2, keys to a multiple of KEYS,
 *   DIM), zeros beyond, from where tiles of KEYS keys are copied in turns into two places.
 *
 * Rounding once reads and writes what the first way reads, but every block of queries beyond the first two or
 * so would read and round it again.
 *
 * Head dimensions are padded with zeros to DIM, a multiple of 16, or 72, where the last 8 columns are an
 * instruction of half the size. Rows in shared memory are an odd number of 16-byte units, so that the 8 rows
 * of a matrix meet in no bank.
 */
#include "calib/cuda/context.h"
#include "calib/cuda/tiles_bf16.h"

#include <cmath>

namespace ousac_cuda {
namespace {

/* Chosen by what the compiler makes of them: so many strips and keys let three blocks share a processor's
 * registers up to head dimension 80, and two beyond. */
enum {
    WARP = 32,
    WARPS = THREADS / WARP,
    STRIP = 16,
    STRIPS = 2,
    STEP = 32,
    QUERIES = WARPS * STRIPS * STRIP
};

constexpr double LOG2_E = 1.4426950408889634;

constexpr int blocks_at_once(int dim) {
    return dim <= 80 ? 3 : 2;
}

/* K and V of so many keys. */
template <int DIM> constexpr size_t shared_bytes(size_t keys) {
    return 2 * keys * ROW<DIM> * sizeof(uint16_t);
}

/* For all keys of a head: what lets as many blocks as the registers share 228 KiB, and no more than every
 * processor since compute capability 8.0 gives a block. */
template <int DIM> constexpr size_t resident_bytes() {
    return (blocks_at_once(DIM) == 3 ? 72 : 99) * 1024;
}

/* What every launch is given. */
struct Job {
    unsigned heads, query_tiles;
    int queries, keys, head_dim;
    int padded;                               /* keys, to a multiple of KEYS */
    bool resident;                            /* few keys */
    float factor;                             /* log2(e) / sqrt(head_dim) */
    bool q_in_twos, kv_in_fours, out_in_twos; /* how many values of a row may be read or written at a time */
    const float *q, *k, *v, *bias;
    unsigned ld_q, ld_kv, ld_out;
    float *out;
    uint16_t *ahead;   /* or null: as out, contiguous, rounded, for the linear that follows */
    uint16_t *rounded; /* K and V of many keys */
};

/* A block for KEYS keys of one head. */
template <int DIM> __global__ void __launch_bounds__(THREADS) round_heads_kernel(Job job) {
    const unsigned head = blockIdx.x % job.heads, rest = blockIdx.x / job.heads;
    const unsigned tiles = static_cast<unsigned>(job.padded / KEYS);
    const size_t batch = rest / tiles, first = static_cast<size_t>(rest % tiles) * KEYS;
    const size_t whole = static_cast<size_t>(job.padded) * DIM;
    const size_t at = (batch * static_cast<size_t>(job.keys) + first) * job.ld_kv +
                      static_cast<size_t>(head) * static_cast<size_t>(job.head_dim);
    const int valid = job.keys - static_cast<int>(first);
    uint16_t *const k = job.rounded + (batch * job.heads + head) * 2 * whole + first * DIM;
    if (job.kv_in_fours) {
        round_tile<DIM, DIM, true>(job.k + at, job.ld_kv, valid, job.head_dim, k);
        round_tile<DIM, DIM, true>(job.v + at, job.ld_kv, valid, job.head_dim, k + whole);
    } else {
        round_tile<DIM, DIM, false>(job.k + at, job.ld_kv, valid, job.head_dim, k);
        round_tile<DIM, DIM, false>(job.v + at, job.ld_kv, valid, job.head_dim, k + whole);
    }
}

/* Over the four lanes that share a row. */
__device__ inline float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 2));
}
__device__ inline float quad_sum(float value) {
    value += __shfl_xor_sync(0xffffffffU, value, 1);
    return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

/* A strip's queries as left factors: 16 columns each, and the last 8 where DIM has so many more. */
template <int DIM> struct Query { uint32_t whole[DIM / 16][4], last[2]; };

/* Columns [8 n + 2 t, + 2) of rows g and g + 8 (matrix_unit.h) of the strip that starts at row `first`; where
 * there is no such row, the last one's. */
template <int DIM, bool TWOS>
__device__ inline void load_query(Query<DIM> &query, const float *__restrict__ q, unsigned ld, int first,
                                  int queries, int head_dim) {
    const int lane = static_cast<int>(threadIdx.x % WARP);
    float2 value[2][DIM / 8];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int wanted = first + lane / 4 + 8 * h;
        const float *const row = q + static_cast<size_t>(wanted < queries ? wanted : queries - 1) * ld;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const int col = 8 * n + lane % 4 * 2;
            if (TWOS)
                value[h][n] =
                    col < head_dim ? *reinterpret_cast<const float2 *>(row + col) : make_float2(0, 0);
            else
                value[h][n] =
                    make_float2(col < head_dim ? row[col] : 0, col + 1 < head_dim ? row[col + 1] : 0);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            (n < DIM / 16 * 2 ? query.whole[n / 2][n % 2 * 2 + h] : query.last[h]) =
                pack_bf16(value[h][n].x, value[h][n].y);
}

/* One strip's state: every lane has rows g and g + 8, of the sum its own columns' part. */
template <int DIM> struct Strip { float most[2], sum[2], output[DIM / 8][4]; };

/* score becomes 2^(factor (score - max)) in pairs of bfloat16, as the left factor of the second product; the
 * strip's state follows. */
template <int DIM>
__device__ inline void weigh(Strip<DIM> &strip, const float (&score)[STEP / 8][4],
                             uint32_t (&weight)[STEP / 16][4], float factor) {
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float peak = -INFINITY;
#pragma unroll
        for (int n = 0; n < STEP / 8; n++)
            peak = fmaxf(peak, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
        const float highest = fmaxf(strip.most[h], quad_max(peak));
        /* Where every score so far is -inf: any finite value gives weights of 0 instead of NaN. */
        const float reference = highest == -INFINITY ? 0.0F : highest;
        const float offset = reference * factor;
        float added = 0;
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
            const float left = exp2_fast(fmaf(score[n][2 * h], factor, -offset));
            const float right = exp2_fast(fmaf(score[n][2 * h + 1], factor, -offset));
            weight[n / 2][n % 2 * 2 + h] = pack_bf16(left, right);
            added += left + right;
        }
        shrink[h] = exp2_fast((strip.most[h] - reference) * factor);
        strip.sum[h] = strip.sum[h] * shrink[h] + added;
        strip.most[h] = highest;
    }
    /* Late in a row its maximum seldom changes. NaN is not 1. */
    if (any_lane(shrink[0] != 1.0F || shrink[1] != 1.0F)) {
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                strip.output[n][e] *= shrink[e / 2];
    }
}

/* Scores of STEP keys, of which `keys` are there: bias, or nothing, is added; -inf where there is no key. */
template <int DIM>
__device__ inline void score_keys(float (&score)[STRIPS][STEP / 8][4], const Query<DIM> (&query)[STRIPS],
                                  const uint16_t *K) {
    constexpr int LD = ROW<DIM>;
    const int lane = static_cast<int>(threadIdx.x % WARP);
    /* Where this lane's row of each of four matrices lies: 16 columns of 16 keys, 8 of 32. */
    const uint16_t *const along = K + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * UNIT;
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int n = 0; n < STEP / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                score[s][n][e] = 0;
#pragma unroll
    for (int d = 0; d < DIM / 16; d++)
#pragma unroll
        for (int n = 0; n < STEP / 16; n++) {
            uint32_t right[4];
            load_matrices(right, along + n * 16 * LD + d * 16);
#pragma unroll
            for (int s = 0; s < STRIPS; s++) {
                multiply_add(score[s][2 * n], query[s].whole[d], right[0], right[1]);
                multiply_add(score[s][2 * n + 1], query[s].whole[d], right[2], right[3]);
            }
        }
    if (DIM % 16 != 0) {
        uint32_t right[4];
        load_matrices(right, K + lane * LD + DIM - UNIT);
#pragma unroll
        for (int n = 0; n < STEP / 8; n++)
#pragma unroll
            for (int s = 0; s < STRIPS; s++)
                multiply_add_half(score[s][n], query[s].last, right[n]);
    }
}

/* The strips' outputs += weights V. */
template <int DIM>
__device__ inline void add_values(Strip<DIM> (&strip)[STRIPS], const uint32_t (&weight)[STRIPS][STEP / 16][4],
                                  const uint16_t *V) {
    constexpr int LD = ROW<DIM>;
    const int lane = static_cast<int>(threadIdx.x % WARP);
    const uint16_t *const across = V + lane % 16 * LD + lane / 16 * UNIT;
#pragma unroll
    for (int n = 0; n < STEP / 16; n++)
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
            uint32_t right[4];
            load_matrices_transposed(right, across + n * 16 * LD + d * 16);
#pragma unroll
            for (int s = 0; s < STRIPS; s++) {
                multiply_add(strip[s].output[2 * d], weight[s][n], right[0], right[1]);
                multiply_add(strip[s].output[2 * d + 1], weight[s][n], right[2], right[3]);
            }
        }
    if (DIM % 16 != 0) {
        uint32_t right[4];
        load_matrices_transposed(right, V + lane * LD + DIM - UNIT);
#pragma unroll
        for (int n = 0; n < STEP / 16; n++)
#pragma unroll
            for (int s = 0; s < STRIPS; s++)
                multiply_add(strip[s].output[DIM / 8 - 1], weight[s][n], right[2 * n], right[2 * n + 1]);
    }
}

/* STEP keys, of which `keys` are there, with their bias or null. */
template <int DIM>
__device__ inline void attend(Strip<DIM> (&strip)[STRIPS], const Query<DIM> (&query)[STRIPS],
                              const uint16_t *K, const uint16_t *V, int keys, const float *__restrict__ bias,
                              float factor) {
    static_assert(STEP == WARP, "the last 8 columns are loaded by a lane for every key");
    const int t = static_cast<int>(threadIdx.x % 4);
    float score[STRIPS][STEP / 8][4];
    score_keys<DIM>(score, query, K);
    if (bias != nullptr) {
#pragma unroll
        for (int n = 0; n < STEP / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int key = 8 * n + 2 * t + e;
                const float added = key < keys ? bias[key] * static_cast<float>(LOG2_E) : 0;
#pragma unroll
                for (int s = 0; s < STRIPS; s++) {
                    score[s][n][e] = fmaf(score[s][n][e], factor, added);
                    score[s][n][e + 2] = fmaf(score[s][n][e + 2], factor, added);
                }
            }
        factor = 1;
    }
    if (keys < STEP) {
#pragma unroll
        for (int s = 0; s < STRIPS; s++)
#pragma unroll
            for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (8 * n + 2 * t + e % 2 >= keys)
                        score[s][n][e] = -INFINITY;
    }
    uint32_t weight[STRIPS][STEP / 16][4];
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
        weigh<DIM>(strip[s], score[s], weight[s], factor);
    add_values<DIM>(strip, weight, V);
}

template <int DIM>
__global__ void __launch_bounds__(THREADS, blocks_at_once(DIM)) attention_bf16_kernel(Job job) {
    constexpr int LD = ROW<DIM>;
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const tiles = reinterpret_cast<uint16_t *>(shared_tiles);

    const int lane = threadIdx.x % WARP, row = static_cast<int>(threadIdx.x / WARP) * STRIPS * STRIP;
    const unsigned tile = blockIdx.x % job.query_tiles, group = blockIdx.x / job.query_tiles;
    const size_t batch = group / job.heads;
    const size_t column = static_cast<size_t>(group % job.heads) * static_cast<size_t>(job.head_dim);
    const size_t first = batch * static_cast<size_t>(job.queries) + static_cast<size_t>(tile) * QUERIES;
    const int queries = job.queries - static_cast<int>(tile * QUERIES); /* perhaps more than QUERIES */
    const bool active = row < queries;
    const float *const bias =
        job.bias == nullptr ? nullptr : job.bias + batch * static_cast<size_t>(job.keys);
    const size_t whole = static_cast<size_t>(job.padded) * DIM;
    const uint16_t *const rounded = job.rounded + static_cast<size_t>(group) * 2 * whole;

    if (job.resident) {
        const size_t at = batch * static_cast<size_t>(job.keys) * job.ld_kv + column;
        for (int start = 0; start < job.padded; start += KEYS) {
            const size_t from = at + static_cast<size_t>(start) * job.ld_kv;
            uint16_t *const K = tiles + start * LD, *const V = K + job.padded * LD;
            if (job.kv_in_fours) {
                round_tile<DIM, LD, true>(job.k + from, job.ld_kv, job.keys - start, job.head_dim, K);
                round_tile<DIM, LD, true>(job.v + from, job.ld_kv, job.keys - start, job.head_dim, V);
            } else {
                round_tile<DIM, LD, false>(job.k + from, job.ld_kv, job.keys - start, job.head_dim, K);
                round_tile<DIM, LD, false>(job.v + from, job.ld_kv, job.keys - start, job.head_dim, V);
            }
        }
        __syncthreads(); /* the only one: nothing is written any more */
        if (!active)
            return;
    } else {
        copy_tile<DIM>(rounded, tiles);
        copy_tile<DIM>(rounded + whole, tiles + KEYS * LD);
    }

    Query<DIM> query[STRIPS];
    Strip<DIM> strip[STRIPS];
#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
        const float *const q = job.q + first * job.ld_q + column;
        if (job.q_in_twos)
            load_query<DIM, true>(query[s], q, job.ld_q, row + s * STRIP, queries, job.head_dim);
        else
            load_query<DIM, false>(query[s], q, job.ld_q, row + s * STRIP, queries, job.head_dim);
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

    for (int start = 0; start < job.keys; start += KEYS) {
        const uint16_t *K = tiles + start * LD, *V = K + job.padded * LD;
        if (!job.resident) {
            /* Tiles 0, 2, 4... in the first of the two places. */
            K = tiles + (start & KEYS) * (2 * LD);
            V = K + KEYS * LD;
            /* Each thread has its own copies of this tile, all those it started; past the barrier all have
             * all, and have read the tile before, whose place the next one takes. */
            finish_copies();
            __syncthreads();
            if (job.keys - start > KEYS) {
                uint16_t *const other = tiles + (KEYS - (start & KEYS)) * (2 * LD);
                const uint16_t *const next = rounded + static_cast<size_t>(start + KEYS) * DIM;
                copy_tile<DIM>(next, other);
                copy_tile<DIM>(next + whole, other + KEYS * LD);
            }
        }
        if (active)
#pragma unroll 1
            for (int at = 0; at < KEYS && start + at < job.keys; at += STEP)
                attend<DIM>(strip, query, K + at * LD, V + at * LD, job.keys - start - at,
                            bias == nullptr ? nullptr : bias + start + at, job.factor);
    }

    if (!active)
        return;
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float inverse = 1.0F / quad_sum(strip[s].sum[h]);
            const int query_row = row + s * STRIP + lane / 4 + 8 * h;
            const size_t to = (first + static_cast<size_t>(query_row)) * job.ld_out + column;
            float *const target = job.out + to;
            uint16_t *const ahead = job.ahead == nullptr ? nullptr : job.ahead + to;
            if (query_row >= queries)
                continue;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                const int col = 8 * n + lane % 4 * 2;
                const float left = strip[s].output[n][2 * h] * inverse;
                const float right = strip[s].output[n][2 * h + 1] * inverse;
                if (ahead != nullptr && col < job.head_dim) /* head_dim is even */
                    *reinterpret_cast<uint32_t *>(ahead + col) = pack_bf16(left, right);
                if (job.out_in_twos && col + 1 < job.head_dim) {
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

template <int DIM> constexpr size_t most_bytes() {
    return shared_bytes<DIM>(2 * KEYS) > resident_bytes<DIM>() ? shared_bytes<DIM>(2 * KEYS)
                                                               : resident_bytes<DIM>();
}

template <int DIM> ousac_status prepare(ousac_error *error) {
    static_assert(most_bytes<DIM>() <= 99 * 1024, "too much shared memory");
    return check(cudaFuncSetAttribute(attention_bf16_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(most_bytes<DIM>())),
                 "attention", error);
}

template <int DIM>
ousac_status launch(Context *c, const char *operation, Job job, size_t batch, unsigned blocks,
                    ousac_error *error) {
    const size_t padded = static_cast<size_t>(job.padded);
    job.resident = shared_bytes<DIM>(padded) <= resident_bytes<DIM>();
    if (!job.resident) {
        void *block = nullptr;
        unsigned tiles = 0;
        size_t each = 0;
        ousac_status status;
        if ((status = attention_grid(batch, padded, job.heads, KEYS, &each, &tiles, error)) ||
            (status = scratch(c, operation, 2 * batch * job.heads * padded * DIM * sizeof(uint16_t), &block,
                              error)))
            return status;
        job.rounded = static_cast<uint16_t *>(block);
        round_heads_kernel<DIM><<<tiles, THREADS, 0, c->stream>>>(job);
        if ((status = launched(operation, error)))
            return status;
    }
    attention_bf16_kernel<DIM>
        <<<blocks, THREADS, shared_bytes<DIM>(job.resident ? padded : 2 * KEYS), c->stream>>>(job);
    return launched(operation, error);
}

bool aligned(const float *p, size_t ld, size_t count) {
    return reinterpret_cast<uintptr_t>(p) % (count * sizeof(float)) == 0 && ld % count == 0;
}

} // namespace

static_assert(ATTENTION_HEAD_DIM_MAX == 128, "one instance of the kernel must hold the widest head");

ousac_status attention_bf16_prepare(ousac_error *error) {
    ousac_status status;
    if ((status = prepare<16>(error)) || (status = prepare<32>(error)) || (status = prepare<48>(error)) ||
        (status = prepare<64>(error)) || (status = prepare<72>(error)) || (status = prepare<80>(error)) ||
        (status = prepare<96>(error)) || (status = prepare<112>(error)) || (status = prepare<128>(error)))
        return status;
    return OUSAC_STATUS_OK;
}

ousac_status attention_bf16(Context *c, const char *operation, const AttentionJob &given,
                            ousac_error *error) {
    size_t query_tiles = 0;
    unsigned blocks = 0;
    const ousac_status status =
        attention_grid(given.batch, given.queries, given.heads, QUERIES, &query_tiles, &blocks, error);
    if (status)
        return status;
    Job job = {};
    job.heads = static_cast<unsigned>(given.heads);
    job.query_tiles = static_cast<unsigned>(query_tiles);
    job.queries = static_cast<int>(given.queries);
    job.keys = static_cast<int>(given.keys);
    job.head_dim = static_cast<int>(given.head_dim);
    job.padded = static_cast<int>((given.keys + KEYS - 1) / KEYS * KEYS);
    job.factor = static_cast<float>(LOG2_E / std::sqrt(static_cast<double>(given.head_dim)));
    job.q_in_twos = given.head_dim % 2 == 0 && aligned(given.q, given.ld_q, 2);
    job.kv_in_fours =
        given.head_dim % 4 == 0 && aligned(given.k, given.ld_kv, 4) && aligned(given.v, given.ld_kv, 4);
    job.out_in_twos = given.head_dim % 2 == 0 && aligned(given.out, given.ld_out, 2);
    job.q = given.q;
    job.k = given.k;
    job.v = given.v;
    job.bias = given.bias;
    job.ld_q = static_cast<unsigned>(given.ld_q);
    job.ld_kv = static_cast<unsigned>(given.ld_kv);
    job.ld_out = static_cast<unsigned>(given.ld_out);
    job.out = given.out;
    if (job.out_in_twos && given.ld_out == given.heads * given.head_dim)
        job.ahead = round_ahead(c, given.out, given.batch * given.queries * given.ld_out);
    if (given.head_dim > 64 && given.head_dim <= 72)
        return launch<72>(c, operation, job, given.batch, blocks, error);
    switch ((given.head_dim + 15) / 16) {
    case 1:
        return launch<16>(c, operation, job, given.batch, blocks, error);
    case 2:
        return launch<32>(c, operation, job, given.batch, blocks, error);
    case 3:
        return launch<48>(c, operation, job, given.batch, blocks, error);
    case 4:
        return launch<64>(c, operation, job, given.batch, blocks, error);
    case 5:
        return launch<80>(c, operation, job, given.batch, blocks, error);
    case 6:
        return launch<96>(c, operation, job, given.batch, blocks, error);
    case 7:
        return launch<112>(c, operation, job, given.batch, blocks, error);
    default:
        return launch<128>(c, operation, job, given.batch, blocks, error);
    }
}

} // namespace ousac_cuda
