/* Z = (X - X0 - s (X0 - X1)) B^T on the matrix units: the first half of a cached linear. The difference is made
 * in float32 and rounded to bfloat16, as is B (r, n), which is thin: one pass over X, X0 and X1 is what costs.
 *
 * A warp has a strip of 16 rows and all of R columns of Z, and nobody else needs its rows: it reads them from
 * memory in the very registers that the matrix unit takes. Its lane t of four holds 4 neighbours of a row, which
 * are elements 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of 16 to the matrix unit: B lies in shared memory in that order.
 * B's rows are exchanged likewise, so that a lane's sums are 4 neighbours of a row of Z.
 *
 * n is worked through in chunks of DEPTH: while one is multiplied, the next is on its way into registers, B's
 * from there into the other of two tiles, and of the ones after that the warp has asked memory. So that there
 * are enough blocks, n is divided over them too (strips_bf16.h).
 */
#include "calib/cuda/strips_bf16.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { DEPTH = LINE, STEPS = DEPTH / 16 };
/* Beyond it sums and what is on its way no longer fit a thread's registers; then the blocks that read the same
 * rows are neighbours, and all but one find them in the cache. */
enum { R_MOST = 192 };

template <int R> constexpr size_t shared_bytes() {
    return static_cast<size_t>(2) * R * LD<DEPTH> * sizeof(uint16_t);
}

struct Job {
    int rows, r, chunks, parts, column_tiles;
    int n;
    const float *x, *b;
    size_t ldx, ldb;
    Past past;
    bool b_in_fours;
    Sums to;
};

/* This lane's elements of a strip and chunk: [h][step] of row g + 8 h and columns 16 step + 4 t. */
template <bool EXTRAPOLATED> struct Rows {
    float4 x[2][STEPS], last[2][STEPS], before[EXTRAPOLATED ? 2 : 1][EXTRAPOLATED ? STEPS : 1];
};

/* `row`, of the lane's first; `col`, of its first of the chunk. */
template <bool FOURS, bool EXTRAPOLATED>
__device__ inline void fetch(Rows<EXTRAPOLATED> &held, const Job &job, int row, int col) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const size_t at = static_cast<size_t>(row + 8 * h);
        const int n = row + 8 * h < job.rows ? job.n - col : 0;
        const float *x = job.x + at * job.ldx + col, *last = job.past.last + at * job.past.ld + col;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            held.x[h][step] = load_four<FOURS>(x + 16 * step, n - 16 * step);
            held.last[h][step] = load_four<FOURS>(last + 16 * step, n - 16 * step);
            if (EXTRAPOLATED)
                held.before[h][step] =
                    load_four<FOURS>(job.past.before + at * job.past.ld + col + 16 * step, n - 16 * step);
        }
    }
}

/* The difference as the left factor of a product. */
template <bool EXTRAPOLATED>
__device__ inline void round_change(const Rows<EXTRAPOLATED> &held, float s, uint32_t (&left)[STEPS][4]) {
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 x = held.x[h][step], last = held.last[h][step];
            const float4 past = EXTRAPOLATED ? forecast(last, held.before[h][step], s) : last;
            left[step][h] = pack_bf16(x.x - past.x, x.y - past.y);
            left[step][h + 2] = pack_bf16(x.z - past.z, x.w - past.w);
        }
}

/* Asks for the line of one row of a strip and chunk that begins in this column: half a warp X's, half X0's. */
template <bool EXTRAPOLATED> __device__ inline void ask(const Job &job, int first_row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, row = first_row + lane % STRIP;
    if (row >= job.rows || col >= job.n)
        return;
    const size_t past = static_cast<size_t>(row) * job.past.ld + col;
    prefetch(lane < STRIP ? job.x + static_cast<size_t>(row) * job.ldx + col : job.past.last + past);
    if (EXTRAPOLATED && lane < STRIP)
        prefetch(job.past.before + past);
}

/* FOURS: four neighbours of X and of the past may be read as one. */
template <int R, bool FOURS, bool EXTRAPOLATED>
__global__ void __launch_bounds__(THREADS, FOURS &&R <= 64 ? 2 : 1) project_bf16_kernel(Job job) {
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const B = reinterpret_cast<uint16_t *>(shared_tiles);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int block = static_cast<int>(blockIdx.x), tile = block % job.column_tiles;
    const int part = block / job.column_tiles % job.parts;
    const int strip =
        block / job.column_tiles / job.parts * ROWS + static_cast<int>(threadIdx.x) / WARP * STRIP;
    const int first_col = tile * R, row = strip + lane / 4, four = lane % 4 * 4;
    /* Chunks of n; the products of two integers of this size fit. */
    const int start = static_cast<int>(static_cast<long long>(job.chunks) * part / job.parts);
    const int end = static_cast<int>(static_cast<long long>(job.chunks) * (part + 1) / job.parts);

    Rows<EXTRAPOLATED> held;
    Factor<R, DEPTH> b;
    float sum[R / 8][4] = {};
    fetch<FOURS, EXTRAPOLATED>(held, job, row, start * DEPTH + four);
#pragma unroll 1
    for (int chunk = start + 1; chunk < start + AHEAD && chunk < end; chunk++)
        ask<EXTRAPOLATED>(job, strip, chunk * DEPTH);
    if (job.b_in_fours)
        b.template fetch<true>(job.b, job.ldb, job.r, job.n, first_col, start * DEPTH);
    else
        b.template fetch<false>(job.b, job.ldb, job.r, job.n, first_col, start * DEPTH);
    b.template put<true>(B);

#pragma unroll 1
    for (int chunk = start; chunk < end; chunk++) {
        uint16_t *const now = B + (chunk - start) % 2 * (R * LD<DEPTH>);
        uint16_t *const next = B + (chunk - start + 1) % 2 * (R * LD<DEPTH>);
        uint32_t left[STEPS][4];
        __syncthreads(); /* this chunk's B is whole, and the last one's has been read */
        round_change<EXTRAPOLATED>(held, job.past.s, left);
        if (chunk + 1 < end) {
            fetch<FOURS, EXTRAPOLATED>(held, job, row, (chunk + 1) * DEPTH + four);
            if (job.b_in_fours)
                b.template fetch<true>(job.b, job.ldb, job.r, job.n, first_col, (chunk + 1) * DEPTH);
            else
                b.template fetch<false>(job.b, job.ldb, job.r, job.n, first_col, (chunk + 1) * DEPTH);
        }
        if (chunk + AHEAD < end)
            ask<EXTRAPOLATED>(job, strip, (chunk + AHEAD) * DEPTH);
        multiply_strip<R, DEPTH>(sum, left, now);
        if (chunk + 1 < end)
            b.template put<true>(next);
    }

    leave_sums<R>(job.to, sum, part, tile, strip);
}

template <int R> void launch(const Job &job, unsigned blocks, bool fours, cudaStream_t stream) {
    static_assert(shared_bytes<R>() <= 48 * 1024, "more needs to be asked for");
    const bool extrapolated = job.past.before != nullptr;
    if (fours && extrapolated)
        project_bf16_kernel<R, true, true><<<blocks, THREADS, shared_bytes<R>(), stream>>>(job);
    else if (fours)
        project_bf16_kernel<R, true, false><<<blocks, THREADS, shared_bytes<R>(), stream>>>(job);
    else if (extrapolated)
        project_bf16_kernel<R, false, true><<<blocks, THREADS, shared_bytes<R>(), stream>>>(job);
    else
        project_bf16_kernel<R, false, false><<<blocks, THREADS, shared_bytes<R>(), stream>>>(job);
}

} // namespace

ousac_status project_bf16(Context *c, size_t rows, size_t r, size_t n, float s, const float *x, size_t ldx,
                          const float *last, const float *before, size_t ld_past, const float *b, size_t ldb,
                          float *z, size_t ldz, ousac_error *error) {
    const size_t row_tiles = (rows - 1) / ROWS + 1, column_tiles = (r - 1) / R_MOST + 1;
    const size_t wide = ((r - 1) / column_tiles + 64) / 64 * 64; /* columns of Z a block */
    if (row_tiles > INT_MAX / column_tiles)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "project_change: %zu x %zu outputs are too many", rows,
                          r);
    const size_t parts = parts_of(row_tiles * column_tiles, wide, n);
    Job job = {static_cast<int>(rows),
               static_cast<int>(r),
               static_cast<int>((n - 1) / DEPTH + 1),
               static_cast<int>(parts),
               static_cast<int>(column_tiles),
               static_cast<int>(n),
               x,
               b,
               ldx,
               ldb,
               {last, before, ld_past, s},
               in_fours(b, ldb, n),
               {}};
    const ousac_status status =
        make_sums(c, "project_change", rows, r, parts, column_tiles, z, ldz, &job.to, error);
    if (status)
        return status;
    const bool fours = in_fours(x, ldx, n) && in_fours(last, ld_past, n) &&
                       (before == nullptr || in_fours(before, ld_past, n));
    const unsigned blocks = static_cast<unsigned>(row_tiles * column_tiles * parts);
    if (wide == 64)
        launch<64>(job, blocks, fours, c->stream);
    else if (wide == 128)
        launch<128>(job, blocks, fours, c->stream);
    else
        launch<192>(job, blocks, fours, c->stream);
    return launched("project_change", error);
}

} // namespace ousac_cuda
