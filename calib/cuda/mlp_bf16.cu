/* Z2 = (H - X0 - s2 (X0 - X1)) B^T with H = gelu(Y0 + s1 (Y0 - Y1) + Z A), on the matrix units: the second half of one
 * cached linear, the activation, and the first half of the next, whose input nobody else reads. H (rows, n) is wider than
 * anything else of a block and would be written and read; here it is never anywhere but in registers. Roundings are those
 * of the steps one by one, expand_bf16.cu and project_bf16.cu, and so is the order of every sum.
 *
 * As in FlashAttention-2's loop (arXiv 2307.08691), what the first product leaves to a lane is what the second wants from
 * it: columns of A lie in shared memory in the order of a lane's elements (strips_bf16.h), so that these are 4 neighbours
 * of a row, as it reads them of Y0 and X0. A warp has a strip of 16 rows; Z of the block's rows stays in shared memory.
 *
 * n is worked through in chunks of DEPTH, whose factors are in the one of two tiles while the next ones are on their way
 * into registers and from there into the other; Y0 and X0 are on their way from when the last ones were used.
 */
#include "calib/cuda/strips_bf16.h"

#include <climits>

namespace ousac_cuda {
namespace {

/* Twice as many values are on their way where there are two pasts. */
template <bool EXTRAPOLATED> constexpr int DEPTH = EXTRAPOLATED ? 16 : 32;

struct Job {
    int rows, n, r;   /* of Z (rows, r) and A (r, n) */
    int r_next;       /* of B (r_next, n) */
    int lines, parts; /* of n */
    const float *z, *a, *b;
    size_t ldz, lda, ldb;
    Past y, x; /* of one leading dimension */
    bool z_in_fours;
    Sums to;
};

template <int R1, int R2, bool EXTRAPOLATED> constexpr size_t shared_bytes() {
    return (static_cast<size_t>(ROWS) * LD<R1> +
            static_cast<size_t>(2) * (R1 + R2) * LD<DEPTH<EXTRAPOLATED>>)*sizeof(uint16_t);
}

/* This lane's elements of a past, of a strip and chunk: [h][step] of row g + 8 h and columns 16 step + 4 t. */
template <bool EXTRAPOLATED> struct Held {
    enum { STEPS = DEPTH<EXTRAPOLATED> / 16 };
    float4 last[2][STEPS], before[EXTRAPOLATED ? 2 : 1][STEPS];

    /* `at`: where the lane's first is, which is one of `rows` and `cols` that are left. */
    __device__ inline void fetch(const Past &past, size_t at, int rows, int cols) {
#pragma unroll
        for (int h = 0; h < 2; h++, at += 8 * past.ld) {
            const int valid = 8 * h < rows ? cols : 0;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                last[h][step] = load_four<true>(past.last + at + 16 * step, valid - 16 * step);
                if (EXTRAPOLATED)
                    before[h][step] = load_four<true>(past.before + at + 16 * step, valid - 16 * step);
            }
        }
    }
    __device__ inline float4 value(int h, int step, float s) const {
        return EXTRAPOLATED ? forecast(last[h][step], before[EXTRAPOLATED ? h : 0][step], s) : last[h][step];
    }
};

/* Z of the block's rows, rounded, into shared memory. */
template <int R1, bool FOURS> __device__ inline void load_z(const Job &job, int first_row, uint16_t *Z) {
    enum { UNITS = R1 / 4, STEP = THREADS / UNITS };
    const int unit = static_cast<int>(threadIdx.x) % UNITS * 4;
#pragma unroll 2
    for (int row = static_cast<int>(threadIdx.x) / UNITS; row < ROWS; row += STEP) {
        const size_t at = static_cast<size_t>(first_row + row);
        const float4 v =
            load_four<FOURS>(job.z + at * job.ldz + unit, first_row + row < job.rows ? job.r - unit : 0);
        *reinterpret_cast<uint2 *>(Z + row * LD<R1> + unit) =
            make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    }
}

/* Asks for the line of one row of a strip that begins in this column: half a warp the one past's, half the other's. */
template <bool EXTRAPOLATED> __device__ inline void ask(const Job &job, int first_row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, row = first_row + lane % STRIP;
    if (row >= job.rows || col >= job.n)
        return;
    const size_t at = static_cast<size_t>(row) * job.y.ld + static_cast<size_t>(col);
    prefetch((lane < STRIP ? job.y.last : job.x.last) + at);
    if (EXTRAPOLATED)
        prefetch((lane < STRIP ? job.y.before : job.x.before) + at);
}

/* The change of H as the left factor of the second product; `sum`: the first one's. */
template <bool EXTRAPOLATED>
__device__ inline void activate(const Held<EXTRAPOLATED> &y, const Held<EXTRAPOLATED> &x, float s_y,
                                float s_x, const float (&sum)[DEPTH<EXTRAPOLATED> / 8][4],
                                uint32_t (&left)[DEPTH<EXTRAPOLATED> / 16][4]) {
#pragma unroll
    for (int step = 0; step < DEPTH<EXTRAPOLATED> / 16; step++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float *const low = sum[2 * step] + 2 * h, *const high = sum[2 * step + 1] + 2 * h;
            const float4 from = y.value(h, step, s_y), past = x.value(h, step, s_x);
            left[step][h] = pack_bf16(gelu(from.x + low[0]) - past.x, gelu(from.y + low[1]) - past.y);
            left[step][h + 2] = pack_bf16(gelu(from.z + high[0]) - past.z, gelu(from.w + high[1]) - past.w);
        }
}

template <int R1, int R2, bool EXTRAPOLATED>
__global__ void __launch_bounds__(THREADS, R2 <= 64 ? 2 : 1) mlp_bf16_kernel(Job job) {
    constexpr int DEEP = DEPTH<EXTRAPOLATED>, A_TILE = R1 * LD<DEEP>, B_TILE = R2 * LD<DEEP>;
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const Z = reinterpret_cast<uint16_t *>(shared_tiles);
    uint16_t *const A = Z + ROWS * LD<R1>, *const B = A + 2 * A_TILE;
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    const int part = static_cast<int>(blockIdx.x) % job.parts;
    const int first_row = static_cast<int>(blockIdx.x) / job.parts * ROWS, strip = first_row + warp * STRIP;
    const int row = strip + lane / 4, four = lane % 4 * 4;
    /* Columns; the products of two integers of this size fit. */
    const int start = static_cast<int>(static_cast<long long>(job.lines) * part / job.parts) * LINE;
    const int end = static_cast<int>(static_cast<long long>(job.lines) * (part + 1) / job.parts) * LINE;
    /* Where this lane's row of each of four matrices lies. */
    const uint16_t *const of_z = Z + (warp * STRIP + lane % 16) * LD<R1> + lane / 16 * UNIT;
    const int in_a = lane % 16 * LD<DEEP> + lane / 16 * UNIT;

    Held<EXTRAPOLATED> y, x;
    Factor<R1, DEEP> a;
    Factor<R2, DEEP> b;
    float sum[R2 / 8][4] = {};
    size_t at = static_cast<size_t>(row) * job.y.ld + static_cast<size_t>(start + four);
    y.fetch(job.y, at, job.rows - row, job.n - (start + four));
    x.fetch(job.x, at, job.rows - row, job.n - (start + four));
#pragma unroll 1
    for (int col = start + LINE; col < start + AHEAD * LINE && col < end; col += LINE)
        ask<EXTRAPOLATED>(job, strip, col);
    a.template fetch<true>(job.a, job.lda, job.r, job.n, 0, start);
    b.template fetch<true>(job.b, job.ldb, job.r_next, job.n, 0, start);
    if (job.z_in_fours)
        load_z<R1, true>(job, first_row, Z);
    else
        load_z<R1, false>(job, first_row, Z);
    a.template put<false>(A);
    b.template put<true>(B);

    int now = 0; /* the tiles in use */
#pragma unroll 1
    for (int col = start; col < end; col += DEEP, now ^= 1) {
        const bool more = col + DEEP < end;
        float wide[DEEP / 8][4] = {};
        uint32_t left[DEEP / 16][4];
        __syncthreads(); /* this chunk's factors are whole, and the last one's have been read */
#pragma unroll
        for (int k = 0; k < R1 / 16; k++) {
            if (k * 16 >= job.r)
                break;
            uint32_t z[4];
            load_matrices(z, of_z + k * 16);
#pragma unroll
            for (int step = 0; step < DEEP / 16; step++) {
                uint32_t right[4];
                load_matrices_transposed(right, A + now * A_TILE + in_a + k * 16 * LD<DEEP> + step * 16);
                multiply_add(wide[2 * step], z, right[0], right[1]);
                multiply_add(wide[2 * step + 1], z, right[2], right[3]);
            }
        }
        activate<EXTRAPOLATED>(y, x, job.y.s, job.x.s, wide, left);
        if (more) {
            at += DEEP;
            y.fetch(job.y, at, job.rows - row, job.n - (col + DEEP + four));
            x.fetch(job.x, at, job.rows - row, job.n - (col + DEEP + four));
            a.template fetch<true>(job.a, job.lda, job.r, job.n, 0, col + DEEP);
            b.template fetch<true>(job.b, job.ldb, job.r_next, job.n, 0, col + DEEP);
        }
        if (col % LINE == 0 && col + AHEAD * LINE < end)
            ask<EXTRAPOLATED>(job, strip, col + AHEAD * LINE);
        multiply_strip<R2, DEEP>(sum, left, B + now * B_TILE);
        if (more) {
            a.template put<false>(A + (now ^ 1) * A_TILE);
            b.template put<true>(B + (now ^ 1) * B_TILE);
        }
    }
    leave_sums<R2>(job.to, sum, part, 0, strip);
}

enum { R_MOST = 128 };

template <int R1, int R2> void launch(const Job &job, unsigned blocks, cudaStream_t stream) {
    if (job.y.before != nullptr)
        mlp_bf16_kernel<R1, R2, true><<<blocks, THREADS, shared_bytes<R1, R2, true>(), stream>>>(job);
    else
        mlp_bf16_kernel<R1, R2, false><<<blocks, THREADS, shared_bytes<R1, R2, false>(), stream>>>(job);
}

template <int R1, int R2> ousac_status prepare(ousac_error *error) {
    const ousac_status status =
        check(cudaFuncSetAttribute(mlp_bf16_kernel<R1, R2, true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes<R1, R2, true>())),
              "open", error);
    return status ? status
                  : check(cudaFuncSetAttribute(mlp_bf16_kernel<R1, R2, false>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(shared_bytes<R1, R2, false>())),
                          "open", error);
}

bool past_in_fours(const float *last, const float *before, size_t ld, size_t n) {
    return in_fours(last, ld, n) && (before == nullptr || in_fours(before, ld, n));
}

/* Whether Z2 is apart from all that other blocks of the kernel still read; the rest it may not overlap anyhow. */
bool is_nobodys(const ProjectJob &p, const ExpandJob &e) {
    const size_t count = (p.rows - 1) * p.ldz + p.r, past = (e.rows - 1) * e.ld_past + e.m;
    return apart(p.z, count, e.z, (e.rows - 1) * e.ldz + e.r) &&
           apart(p.z, count, e.a, (e.r - 1) * e.lda + e.m) && apart(p.z, count, e.last, past) &&
           apart(p.z, count, e.before, past);
}

} // namespace

ousac_status mlp_bf16_prepare(ousac_error *error) {
    ousac_status status;
    if ((status = prepare<64, 64>(error)) || (status = prepare<64, 128>(error)) ||
        (status = prepare<128, 64>(error)))
        return status;
    return prepare<128, 128>(error);
}

ousac_status mlp_bf16(Context *c, const ExpandJob &e, const ProjectJob &p, bool *done, ousac_error *error) {
    const size_t row_tiles = (e.rows - 1) / ROWS + 1, wide = p.r <= 64 ? 64 : 128;
    *done = false;
    if (e.r > R_MOST || p.r > R_MOST || row_tiles > INT_MAX / BLOCKS_WANTED ||
        (e.before == nullptr) != (p.before == nullptr) || e.ld_past != p.ld_past ||
        !in_fours(e.a, e.lda, e.m) || !in_fours(p.b, p.ldb, p.n) ||
        !past_in_fours(e.last, e.before, e.ld_past, e.m) ||
        !past_in_fours(p.last, p.before, p.ld_past, p.n) || !is_nobodys(p, e))
        return OUSAC_STATUS_OK;
    *done = true;
    const size_t parts = parts_of(row_tiles, wide, p.n);
    Job job = {static_cast<int>(e.rows),
               static_cast<int>(p.n),
               static_cast<int>(e.r),
               static_cast<int>(p.r),
               static_cast<int>((p.n - 1) / LINE + 1),
               static_cast<int>(parts),
               e.z,
               e.a,
               p.b,
               e.ldz,
               e.lda,
               p.ldb,
               {e.last, e.before, e.ld_past, e.s},
               {p.last, p.before, p.ld_past, p.s},
               in_fours(e.z, e.ldz, e.r),
               {}};
    const ousac_status status =
        make_sums(c, "project_change", p.rows, p.r, parts, 1, p.z, p.ldz, &job.to, error);
    if (status)
        return status;
    const unsigned blocks = static_cast<unsigned>(row_tiles * parts);
    if (e.r <= 64 && wide == 64)
        launch<64, 64>(job, blocks, c->stream);
    else if (e.r <= 64)
        launch<64, 128>(job, blocks, c->stream);
    else if (wide == 64)
        launch<128, 64>(job, blocks, c->stream);
    else
        launch<128, 128>(job, blocks, c->stream);
    return launched("project_change", error);
}

} // namespace ousac_cuda
