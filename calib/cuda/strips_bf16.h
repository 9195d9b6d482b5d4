/* What the kernels that multiply a change by B^T share (project_bf16.cu, mlp_bf16.cu): a warp has a strip of 16 rows and R
 * columns of Z, blocks divide the inner dimension into parts, and factors go through shared memory.
 *
 * In shared memory the columns of a factor, and the rows of B, lie in the order of a lane's elements: of 16, those of
 * lane t of four are 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 to the matrix unit, and 4 neighbours in memory.
 *
 * A strip's sums of the parts are added by the warp that is last to leave its own, always in the order of the parts:
 * which it is changes nothing.
 */
#ifndef OUSAC_CUDA_STRIPS_BF16_H
#define OUSAC_CUDA_STRIPS_BF16_H

#include "calib/cuda/low_rank.h"
#include "calib/cuda/matrix_unit.h"

namespace ousac_cuda {
namespace {

enum { WARP = 32, WARPS = 8, THREADS = WARPS * WARP, STRIP = 16, ROWS = WARPS * STRIP, UNIT = 8, LINE = 32 };
/* Lines of a row that memory is asked for before they are read. */
enum { AHEAD = 4 };

/* Of a row of a tile DEPTH wide: an odd number of 16-byte units, so that the 8 rows of a matrix meet in no bank. */
template <int DEPTH> constexpr int LD = DEPTH + UNIT;

/* A thread's part of R rows of a factor and DEPTH of its columns: row thread / WIDE, every STEP-th after it, of each 4
 * neighbours. */
template <int R, int DEPTH> struct Factor {
    enum { WIDE = DEPTH / 4, STEP = THREADS / WIDE, EACH = R / STEP };
    static_assert(R % STEP == 0 && STEP % 16 == 0, "rows so far apart have places that far apart");
    float4 held[EACH];

    /* Rows [first_row, rows) and columns [first_col, cols) exist, zeros beyond. */
    template <bool FOURS>
    __device__ inline void fetch(const float *__restrict__ data, size_t ld, int rows, int cols, int first_row,
                                 int first_col) {
        const int row = first_row + static_cast<int>(threadIdx.x) / WIDE;
        const int col = first_col + static_cast<int>(threadIdx.x) % WIDE * 4;
        const float *at = data + static_cast<size_t>(row) * ld + col;
#pragma unroll
        for (int i = 0; i < EACH; i++, at += STEP * ld)
            held[i] = load_four<FOURS>(at, row + i * STEP < rows ? cols - col : 0);
    }
    /* EXCHANGED: of 16 rows too, 4 t + 2 p + e takes place 8 p + 2 t + e. */
    template <bool EXCHANGED> __device__ inline void put(uint16_t *tile) const {
        const int row = static_cast<int>(threadIdx.x) / WIDE, unit = static_cast<int>(threadIdx.x) % WIDE;
        const int place = EXCHANGED ? row / 16 * 16 + row / 2 % 2 * 8 + row % 16 / 4 * 2 + row % 2 : row;
        uint16_t *target = tile + place * LD<DEPTH> + unit / 4 * 16 + unit % 4 * 2;
#pragma unroll
        for (int i = 0; i < EACH; i++, target += STEP * LD<DEPTH>) {
            *reinterpret_cast<uint32_t *>(target) = pack_bf16(held[i].x, held[i].y);
            *reinterpret_cast<uint32_t *>(target + UNIT) = pack_bf16(held[i].z, held[i].w);
        }
    }
};

/* sum += a strip's `left` (16, DEPTH) times a tile of R rows of B, exchanged. */
template <int R, int DEPTH>
__device__ inline void multiply_strip(float (&sum)[R / 8][4], const uint32_t (&left)[DEPTH / 16][4],
                                      const uint16_t *tile) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    /* Where this lane's row of each of four matrices lies. */
    const uint16_t *const along = tile + (lane % 8 + lane / 16 * 8) * LD<DEPTH> + lane / 8 % 2 * UNIT;
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++)
#pragma unroll
        for (int q = 0; q < R / 16; q++) {
            uint32_t right[4];
            load_matrices(right, along + q * 16 * LD<DEPTH> + step * 16);
            multiply_add(sum[2 * q], left[step], right[0], right[1]);
            multiply_add(sum[2 * q + 1], left[step], right[2], right[3]);
        }
}

/* --- sums --- */

/* Where Z (rows, r) goes. Of several parts, each leaves its own in `part` (parts, rows, ld_part), columns to a multiple of
 * four, and counts itself in `done`, by strip and tile of columns; the counts are 0 before and after a kernel. */
struct Sums {
    int rows, r, parts, column_tiles;
    float *z;
    size_t ldz;
    bool in_fours;
    float *part;
    size_t ld_part;
    unsigned *done;
};

__device__ inline void store_sum(const Sums &to, int row, int col, const float4 &value) {
    float *const target = to.z + static_cast<size_t>(row) * to.ldz + col;
    if (to.in_fours)
        store_four<true>(target, to.r - col, value);
    else
        store_four<false>(target, to.r - col, value);
}

/* Adds up what all parts have left of this lane's elements: rows `row` and row + 8, each 4 columns from col on. */
template <int R> __device__ inline void add_parts(const Sums &to, int row, int col) {
    enum { AT_ONCE = 4 };
    static_assert(R / 16 % AT_ONCE == 0, "columns are added in groups");
    const size_t step = static_cast<size_t>(to.rows) * to.ld_part;
#pragma unroll 1
    for (int q = 0; q < R / 16; q += AT_ONCE) {
        float4 sum[2][AT_ONCE];
        const float *from = to.part + static_cast<size_t>(row) * to.ld_part + col + 16 * q;
#pragma unroll 2
        for (int part = 0; part < to.parts; part++, from += step)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const bool there = row + 8 * h < to.rows && col + 16 * (q + i) < to.r;
                    const float4 v = there ? __ldcg(reinterpret_cast<const float4 *>(
                                                 from + static_cast<size_t>(8 * h) * to.ld_part + 16 * i))
                                           : zeros();
                    sum[h][i] = part == 0 ? v
                                          : make_float4(sum[h][i].x + v.x, sum[h][i].y + v.y,
                                                        sum[h][i].z + v.z, sum[h][i].w + v.w);
                }
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (row + 8 * h < to.rows)
                    store_sum(to, row + 8 * h, col + 16 * (q + i), sum[h][i]);
    }
}

/* Leaves a strip's sums of one part; `first`: its row. */
template <int R>
__device__ inline void leave_sums(const Sums &to, const float (&sum)[R / 8][4], int part, int tile,
                                  int first) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = first + lane / 4, col = tile * R + lane % 4 * 4;
    if (first >= to.rows)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int at = row + 8 * h;
        if (at >= to.rows)
            continue;
        float *const target =
            to.part +
            (static_cast<size_t>(part) * static_cast<size_t>(to.rows) + static_cast<size_t>(at)) * to.ld_part;
#pragma unroll
        for (int q = 0; q < R / 16; q++) {
            const float4 value = make_float4(sum[2 * q][2 * h], sum[2 * q][2 * h + 1], sum[2 * q + 1][2 * h],
                                             sum[2 * q + 1][2 * h + 1]);
            if (to.parts == 1)
                store_sum(to, at, col + 16 * q, value);
            else
                store_four<true>(target + col + 16 * q, to.r - (col + 16 * q), value);
        }
    }
    if (to.parts == 1)
        return;
    unsigned *const done = to.done + static_cast<size_t>(first / STRIP) * to.column_tiles + tile;
    __threadfence(); /* what this warp leaves is seen before its being counted */
    __syncwarp();
    if (!any_lane(lane == 0 && atomicAdd(done, 1U) == static_cast<unsigned>(to.parts) - 1))
        return;
    __threadfence();
    add_parts<R>(to, row, col);
    if (lane == 0)
        *done = 0;
}

/* --- on the host --- */

/* What fills a large GPU, where one block or two share a processor; a number of its own would make sums depend
 * on the device. */
constexpr size_t BLOCKS_WANTED = 256, BLOCKS_WANTED_WIDE = 128, LINES_LEAST = 2;

/* Parts of n, in lines of LINE columns, for so many blocks a part, of `wide` columns of Z. */
inline size_t parts_of(size_t blocks, size_t wide, size_t n) {
    const size_t lines = (n - 1) / LINE + 1, wanted = wide <= 64 ? BLOCKS_WANTED : BLOCKS_WANTED_WIDE;
    size_t parts = wanted / blocks;
    parts = parts > lines / LINES_LEAST ? lines / LINES_LEAST : parts;
    return parts < 1 ? 1 : parts;
}

/* Room for the parts' sums, where there are several. */
inline ousac_status make_sums(Context *c, const char *operation, size_t rows, size_t r, size_t parts,
                              size_t column_tiles, float *z, size_t ldz, Sums *sums, ousac_error *error) {
    const size_t units = (r - 1) / 4 + 1, strips = (rows - 1) / STRIP + 1;
    void *block = nullptr;
    *sums = {static_cast<int>(rows),
             static_cast<int>(r),
             static_cast<int>(parts),
             static_cast<int>(column_tiles),
             z,
             ldz,
             in_fours(z, ldz, r),
             nullptr,
             4 * units,
             nullptr};
    if (parts == 1)
        return OUSAC_STATUS_OK;
    ousac_status status = scratch(c, operation, parts * rows * units * sizeof(float4), &block, error);
    if (!status)
        status = counts(c, operation, strips * column_tiles, &sums->done, error);
    sums->part = static_cast<float *>(block);
    return status;
}

} // namespace
} // namespace ousac_cuda
#endif
