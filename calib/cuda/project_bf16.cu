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
 * are enough blocks, n is divided over them too; their sums are added by a kernel of its own, always in the
 * same order.
 */
#include "calib/cuda/low_rank.h"
#include "calib/cuda/matrix_unit.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { WARP = 32, WARPS = 8, THREADS = WARPS * WARP, STRIP = 16, ROWS = WARPS * STRIP, DEPTH = 32, UNIT = 8 };
enum { STEPS = DEPTH / 16, WIDE = DEPTH / 4, AHEAD = 4 };
/* Beyond it sums and what is on its way no longer fit a thread's registers; then the blocks that read the same
 * rows are neighbours, and all but one find them in the cache. */
enum { R_MOST = 192 };
/* An odd number of 16-byte units, so that the 8 rows of a matrix meet in no bank. */
enum { LD = DEPTH + UNIT };

template <int R> constexpr size_t shared_bytes() {
    return static_cast<size_t>(2) * R * LD * sizeof(uint16_t);
}

struct Job {
    int rows, r, chunks, parts, column_tiles;
    int n;
    const float *x, *b;
    size_t ldx, ldb;
    Past past;
    float *z; /* of the first part; rows of ldz, of which `cols` may be written */
    size_t ldz, part_step;
    int cols;
    bool b_in_fours, z_in_fours;
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

/* R rows of B and a chunk's columns: a thread has row thread / WIDE, every 32nd after it, of each 4 neighbours. */
template <int R, bool FOURS>
__device__ inline void fetch_b(float4 (&held)[R * WIDE / THREADS], const Job &job, int first_row, int col) {
    const int row = first_row + static_cast<int>(threadIdx.x) / WIDE;
    col += static_cast<int>(threadIdx.x) % WIDE * 4;
#pragma unroll
    for (int i = 0; i < R * WIDE / THREADS; i++) {
        const int at = row + i * (THREADS / WIDE);
        held[i] =
            load_four<FOURS>(job.b + static_cast<size_t>(at) * job.ldb + col, at < job.r ? job.n - col : 0);
    }
}

/* Of 16 rows, 4 t + 2 p + e takes place 8 p + 2 t + e; of 16 columns too. */
template <int R> __device__ inline void put_b(const float4 (&held)[R * WIDE / THREADS], uint16_t *tile) {
    const int row = static_cast<int>(threadIdx.x) / WIDE, unit = static_cast<int>(threadIdx.x) % WIDE;
    const int place = row / 16 * 16 + row / 2 % 2 * 8 + row % 16 / 4 * 2 + row % 2;
    uint16_t *target = tile + place * LD + unit / 4 * 16 + unit % 4 * 2;
#pragma unroll
    for (int i = 0; i < R * WIDE / THREADS; i++, target += THREADS / WIDE * LD) {
        *reinterpret_cast<uint32_t *>(target) = pack_bf16(held[i].x, held[i].y);
        *reinterpret_cast<uint32_t *>(target + UNIT) = pack_bf16(held[i].z, held[i].w);
    }
}
static_assert(THREADS / WIDE % 16 == 0, "rows that far apart have places that far apart");

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
    /* Where this lane's row of each of four matrices lies. */
    const int along = (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * UNIT;

    Rows<EXTRAPOLATED> held;
    float4 held_b[R * WIDE / THREADS];
    float sum[R / 8][4] = {};
    fetch<FOURS, EXTRAPOLATED>(held, job, row, start * DEPTH + four);
#pragma unroll 1
    for (int chunk = start + 1; chunk < start + AHEAD && chunk < end; chunk++)
        ask<EXTRAPOLATED>(job, strip, chunk * DEPTH);
    if (job.b_in_fours)
        fetch_b<R, true>(held_b, job, first_col, start * DEPTH);
    else
        fetch_b<R, false>(held_b, job, first_col, start * DEPTH);
    put_b<R>(held_b, B);

#pragma unroll 1
    for (int chunk = start; chunk < end; chunk++) {
        uint16_t *const now = B + (chunk - start) % 2 * (R * LD);
        uint16_t *const next = B + (chunk - start + 1) % 2 * (R * LD);
        uint32_t left[STEPS][4];
        __syncthreads(); /* this chunk's B is whole, and the last one's has been read */
        round_change<EXTRAPOLATED>(held, job.past.s, left);
        if (chunk + 1 < end) {
            fetch<FOURS, EXTRAPOLATED>(held, job, row, (chunk + 1) * DEPTH + four);
            if (job.b_in_fours)
                fetch_b<R, true>(held_b, job, first_col, (chunk + 1) * DEPTH);
            else
                fetch_b<R, false>(held_b, job, first_col, (chunk + 1) * DEPTH);
        }
        if (chunk + AHEAD < end)
            ask<EXTRAPOLATED>(job, strip, (chunk + AHEAD) * DEPTH);
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int q = 0; q < R / 16; q++) {
                uint32_t right[4];
                load_matrices(right, now + q * 16 * LD + step * 16 + along);
                multiply_add(sum[2 * q], left[step], right[0], right[1]);
                multiply_add(sum[2 * q + 1], left[step], right[2], right[3]);
            }
        if (chunk + 1 < end)
            put_b<R>(held_b, next);
    }

    float *z = job.z + static_cast<size_t>(part) * job.part_step + first_col + four;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row + 8 * h >= job.rows)
            continue;
        float *target = z + static_cast<size_t>(row + 8 * h) * job.ldz;
#pragma unroll
        for (int q = 0; q < R / 16; q++) {
            const int valid = job.cols - (first_col + four + 16 * q);
            const float4 value = make_float4(sum[2 * q][2 * h], sum[2 * q][2 * h + 1], sum[2 * q + 1][2 * h],
                                             sum[2 * q + 1][2 * h + 1]);
            if (job.z_in_fours)
                store_four<true>(target + 16 * q, valid, value);
            else
                store_four<false>(target + 16 * q, valid, value);
        }
    }
}

enum { ADD_SIDE = 16 };

/* z (rows, r) = the sum of parts, each (rows, 4 units), in their order. A thread has four neighbours. */
__global__ void __launch_bounds__(ADD_SIDE *ADD_SIDE)
    add_parts_kernel(int rows, int r, int units, int parts, const float4 *part, size_t part_step, float *z,
                     size_t ldz, bool fours) {
    const int unit = static_cast<int>(blockIdx.y) * ADD_SIDE + static_cast<int>(threadIdx.x) % ADD_SIDE;
    const int row = static_cast<int>(blockIdx.x) * ADD_SIDE + static_cast<int>(threadIdx.x) / ADD_SIDE;
    if (row >= rows || unit >= units)
        return;
    const float4 *at = part + static_cast<size_t>(row) * units + unit;
    float4 sum = *at;
#pragma unroll 4
    for (int p = 1; p < parts; p++) {
        at += part_step;
        const float4 v = *at;
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    float *target = z + static_cast<size_t>(row) * ldz + static_cast<size_t>(unit) * 4;
    if (fours)
        store_four<true>(target, r - unit * 4, sum);
    else
        store_four<false>(target, r - unit * 4, sum);
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

/* What fills a large GPU, where one block or two share a processor; a number of its own would make sums depend
 * on the device. */
constexpr size_t BLOCKS_WANTED = 256, BLOCKS_WANTED_WIDE = 128, CHUNKS_LEAST = 2;

} // namespace

ousac_status project_bf16(Context *c, size_t rows, size_t r, size_t n, float s, const float *x, size_t ldx,
                          const float *last, const float *before, size_t ld_past, const float *b, size_t ldb,
                          float *z, size_t ldz, ousac_error *error) {
    const size_t row_tiles = (rows - 1) / ROWS + 1, column_tiles = (r - 1) / R_MOST + 1;
    const size_t chunks = (n - 1) / DEPTH + 1, units = (r - 1) / 4 + 1;
    const size_t wide = ((r - 1) / column_tiles + 64) / 64 * 64; /* columns of Z a block */
    const size_t wanted = wide <= 64 ? BLOCKS_WANTED : BLOCKS_WANTED_WIDE;
    void *block = nullptr;
    if (row_tiles > INT_MAX / column_tiles)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "project_change: %zu x %zu outputs are too many", rows,
                          r);
    size_t parts = wanted / (row_tiles * column_tiles);
    parts = parts > chunks / CHUNKS_LEAST ? chunks / CHUNKS_LEAST : parts;
    parts = parts < 1 ? 1 : parts;
    Job job = {static_cast<int>(rows),
               static_cast<int>(r),
               static_cast<int>(chunks),
               static_cast<int>(parts),
               static_cast<int>(column_tiles),
               static_cast<int>(n),
               x,
               b,
               ldx,
               ldb,
               {last, before, ld_past, s},
               z,
               ldz,
               0,
               static_cast<int>(r),
               in_fours(b, ldb, n),
               in_fours(z, ldz, r)};
    if (parts > 1) {
        const ousac_status status =
            scratch(c, "project_change", parts * rows * units * sizeof(float4), &block, error);
        if (status)
            return status;
        job.z = static_cast<float *>(block);
        job.ldz = 4 * units;
        job.part_step = rows * job.ldz;
        job.cols = static_cast<int>(job.ldz);
        job.z_in_fours = true;
    }
    const bool fours = in_fours(x, ldx, n) && in_fours(last, ld_past, n) &&
                       (before == nullptr || in_fours(before, ld_past, n));
    const unsigned blocks = static_cast<unsigned>(row_tiles * column_tiles * parts);
    if (wide == 64)
        launch<64>(job, blocks, fours, c->stream);
    else if (wide == 128)
        launch<128>(job, blocks, fours, c->stream);
    else
        launch<192>(job, blocks, fours, c->stream);
    const ousac_status status = launched("project_change", error);
    if (status || parts == 1)
        return status;
    const dim3 grid(static_cast<unsigned>((rows - 1) / ADD_SIDE + 1),
                    static_cast<unsigned>((units - 1) / ADD_SIDE + 1));
    add_parts_kernel<<<grid, ADD_SIDE * ADD_SIDE, 0, c->stream>>>(
        job.rows, job.r, static_cast<int>(units), job.parts, static_cast<const float4 *>(block), rows * units,
        z, ldz, in_fours(z, ldz, r));
    return launched("project_change", error);
}

} // namespace ousac_cuda
