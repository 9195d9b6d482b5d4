/* Y = Y0 + s (Y0 - Y1) + Z A on the matrix units, Z and A rounded to bfloat16: the second half of a cached
 * linear. Z (rows, r) and A (r, m) are thin, so the pass over Y0, Y1 and Y is what costs, and everything else
 * must hide behind it.
 *
 * A block has COLS columns, of which it holds A, rounded, in shared memory, and walks over tiles of rows. While
 * it multiplies one, the next one's Z is on its way into registers, and memory is asked for what else the next
 * one reads; Y0 of the one at hand is under way where there are registers for it. A warp has one strip of 16
 * rows, or two, and SIDE columns of a tile. Beyond the rank of which A is held, a block has one tile, a higher one, and
 * DEPTH of r are in shared memory at a time.
 *
 * Which output an element of a fragment is, is a choice of the order in which A's columns lie in shared
 * memory: of 16 of them, columns 4 t + 2 p + e take place 8 p + 2 t + e, so that lane t of four holds 4
 * neighbours of a row, reads and writes them as 16 bytes, and a warp whole lines.
 */
#include "calib/cuda/low_rank.h"
#include "calib/cuda/matrix_unit.h"
#include "calib/cuda/sequence.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { WARP = 32, THREADS = 256, STRIP = 16, COLS = 128, DEPTH = 64, UNIT = 8, LINE = 32 };
enum { SIDE = 32, ACROSS = COLS / SIDE, ALONG = THREADS / WARP / ACROSS }; /* warps of a tile */
/* The highest rank of which A is held; blocks that share all outputs then, three of a processor. */
enum { RANK_HELD = 128, BLOCKS_HELD = 3 * 132 };
enum { STRIPS_HELD = 1, STRIPS = 2, ROWS_HELD = ALONG * STRIPS_HELD * STRIP, ROWS = ALONG * STRIPS * STRIP };
/* An odd number of 16-byte units, so that the 8 rows of a matrix meet in no bank. */
enum { LD_Z = DEPTH + UNIT, LD_A = COLS + UNIT };
enum { COUNT_Z_HELD = ROWS_HELD * LD_Z, COUNT_Z = ROWS * LD_Z, COUNT_A = DEPTH * LD_A };
constexpr size_t SHARED_BYTES = (COUNT_Z + COUNT_A) * sizeof(uint16_t);
/* Z has two places, one to write while the other is read. */
constexpr size_t shared_bytes_held(int r) {
    return (2 * COUNT_Z_HELD + static_cast<size_t>((r - 1) / DEPTH + 1) * COUNT_A) * sizeof(uint16_t);
}
static_assert(SHARED_BYTES <= 48 * 1024 && shared_bytes_held(RANK_HELD) <= 48 * 1024,
              "more needs to be asked for");

struct Job : Expansion {
    /* x (rows, m), contiguous, += gate Y, gate as in add_gated; x NULL: nothing */
    struct {
        float *x;
        const float *gate;
        size_t rows_per_group, ld_mod;
    } gated;
    int walk; /* rows from a block's tile to its next, where A is held */
};

/* A tile's 4 neighbours in a row, rounded. */
__device__ inline void put_z(uint16_t *Z, int row, int k, const float4 &v) {
    *reinterpret_cast<uint2 *>(Z + row * LD_Z + k) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}
__device__ inline void put_a(uint16_t *A, int k, int col, const float4 &v) {
    uint16_t *const target = A + k * LD_A + col / 16 * 16 + col % 16 / 2;
    *reinterpret_cast<uint32_t *>(target) = pack_bf16(v.x, v.y);
    *reinterpret_cast<uint32_t *>(target + UNIT) = pack_bf16(v.z, v.w);
}

/* HIGH rows of WIDE units of four of a matrix whose first `rows` rows and `cols` columns exist, zeros beyond; a
 * thread has every THREADS-th of them. Where four floats can be read as one, `load` has all reads under way and
 * `put` waits for them; elsewhere `put` reads. */
template <int HIGH, int WIDE> struct Stage {
    enum { EACH = HIGH * WIDE / THREADS, STEP = THREADS / WIDE };
    float4 held[EACH];

    __device__ static int first() {
        return static_cast<int>(threadIdx.x) / WIDE;
    }
    __device__ static int col() {
        return static_cast<int>(threadIdx.x) % WIDE * 4;
    }
    __device__ void load(const float *__restrict__ source, size_t ld, int rows, int cols, bool fours) {
        const float *at = source + static_cast<size_t>(first()) * ld + col();
        if (!fours)
            return;
#pragma unroll
        for (int i = 0; i < EACH; i++, at += STEP * ld)
            held[i] = load_four<true>(at, first() + i * STEP < rows ? cols - col() : 0);
    }
    template <typename Put>
    __device__ void put(const float *__restrict__ source, size_t ld, int rows, int cols, bool fours,
                        uint16_t *tile, Put write) const {
        const float *at = source + static_cast<size_t>(first()) * ld + col();
        if (fours) {
#pragma unroll
            for (int i = 0; i < EACH; i++)
                write(tile, first() + i * STEP, col(), held[i]);
            return;
        }
#pragma unroll 1
        for (int i = 0; i < EACH; i++, at += STEP * ld)
            write(tile, first() + i * STEP, col(),
                  load_four<false>(at, first() + i * STEP < rows ? cols - col() : 0));
    }
};

/* What is done with an output on the way. */
enum Finish { PLAIN, ACTIVATED, GATED };

template <Finish FINISH> __device__ inline float finished(float value) {
    return FINISH == ACTIVATED ? gelu(value) : value;
}

/* x += gate v at four neighbours, as add_gated has it. */
__device__ inline void add_to_stream(const Job &job, int row, int col, const float4 &v) {
    float4 *const to = reinterpret_cast<float4 *>(job.gated.x + static_cast<size_t>(row) * job.m + col);
    /* In 32 bits, whose division is a small part of the other's work. */
    const size_t most = static_cast<size_t>(job.rows),
                 each = job.gated.rows_per_group < most ? job.gated.rows_per_group : most;
    const unsigned group = static_cast<unsigned>(row) / static_cast<unsigned>(each);
    const float4 gate = load_four<true>(job.gated.gate + group * job.gated.ld_mod + col, 4);
    const float4 x = *to;
    *to = make_float4(x.x + gate.x * v.x, x.y + gate.y * v.y, x.z + gate.z * v.z, x.w + gate.w * v.w);
}

/* What EIGHTS outputs of a lane are made from: of rows `row`, row + 8... those of 4 columns from col and from
 * col + 16. All of it is under way before the first is waited for. */
template <int EIGHTS, bool FOURS, bool EXTRAPOLATED> struct Origin {
    float4 last[EIGHTS][2], before[EXTRAPOLATED ? EIGHTS : 1][2];

    __device__ static int valid(const Job &job, int row, int col, int i, int j) {
        return row + 8 * i < job.rows ? job.m - (col + 16 * j) : 0;
    }
    __device__ void load(const Job &job, int row, int col) {
        const size_t at = static_cast<size_t>(row) * job.past.ld + col;
        const float *from = job.past.last + at, *older = EXTRAPOLATED ? job.past.before + at : nullptr;
#pragma unroll
        for (int i = 0; i < EIGHTS; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const size_t step = 8 * i * job.past.ld + 16 * j;
                last[i][j] = load_four<FOURS>(from + step, valid(job, row, col, i, j));
                if (EXTRAPOLATED)
                    before[i][j] = load_four<FOURS>(older + step, valid(job, row, col, i, j));
            }
    }
    /* sum: the warp's, whose eights of rows are those from `first` on. */
    template <Finish FINISH>
    __device__ void write(const Job &job, int row, int col, const float (*sum)[SIDE / 8][4],
                          int first) const {
        float *y = job.y + static_cast<size_t>(row) * job.ldy + col;
#pragma unroll
        for (int i = 0; i < EIGHTS; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int there = valid(job, row, col, i, j), strip = (first + i) / 2,
                          h = (first + i) % 2 * 2;
                const float *const low = sum[strip][2 * j], *const high = sum[strip][2 * j + 1];
                float4 v = last[i][j];
                if (EXTRAPOLATED)
                    v = forecast(v, before[i][j], job.past.s);
                v = make_float4(finished<FINISH>(v.x + low[h]), finished<FINISH>(v.y + low[h + 1]),
                                finished<FINISH>(v.z + high[h]), finished<FINISH>(v.w + high[h + 1]));
                store_four<FOURS>(y + 8 * i * job.ldy + 16 * j, there, v);
                if (FINISH == GATED && there > 0)
                    add_to_stream(job, row + 8 * i, col + 16 * j, v);
            }
    }
};

/* The outputs of ALL_STRIPS of a warp, AT_ONCE eights of rows at a time. */
template <int ALL_STRIPS, int AT_ONCE, bool FOURS, bool EXTRAPOLATED, Finish FINISH>
__device__ inline void write_strips(const Job &job, int row, int col, const float (*sum)[SIDE / 8][4]) {
#pragma unroll
    for (int i = 0; i < 2 * ALL_STRIPS; i += AT_ONCE) {
        Origin<AT_ONCE, FOURS, EXTRAPOLATED> origin;
        origin.load(job, row + 8 * i, col);
        origin.template write<FINISH>(job, row + 8 * i, col, sum, i);
    }
}

/* Asks memory for what a tile's outputs are made from. */
template <int HIGH, bool EXTRAPOLATED, Finish FINISH>
__device__ inline void ask_for(const Job &job, int first_row, int first_col) {
    constexpr int WIDE = COLS / LINE;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < HIGH * WIDE; i += THREADS) {
        const int row = first_row + i / WIDE, col = first_col + i % WIDE * LINE;
        if (row >= job.rows || col >= job.m)
            continue;
        const size_t at = static_cast<size_t>(row) * job.past.ld + col;
        prefetch(job.past.last + at);
        if (EXTRAPOLATED)
            prefetch(job.past.before + at);
        if (FINISH == GATED)
            prefetch(job.gated.x + static_cast<size_t>(row) * job.m + col);
    }
}

/* sum += Z A of up to DEPTH of r, `depth` of them there. Z and A: where this lane's rows of the matrices begin. */
template <int ALL_STRIPS>
__device__ inline void multiply(float (*sum)[SIDE / 8][4], const uint16_t *Z, const uint16_t *A, int depth) {
    const int steps = depth < DEPTH ? (depth + 15) / 16 : DEPTH / 16;
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++) {
        if (step >= steps)
            break;
        uint32_t left[ALL_STRIPS][4];
#pragma unroll
        for (int i = 0; i < ALL_STRIPS; i++)
            load_matrices(left[i], Z + i * STRIP * LD_Z + step * 16);
#pragma unroll
        for (int n = 0; n < SIDE / 16; n++) {
            uint32_t right[4];
            load_matrices_transposed(right, A + step * 16 * LD_A + n * 16);
#pragma unroll
            for (int i = 0; i < ALL_STRIPS; i++) {
                multiply_add(sum[i][2 * n], left[i], right[0], right[1]);
                multiply_add(sum[i][2 * n + 1], left[i], right[2], right[3]);
            }
        }
    }
}

/* Where a thread's warp has its outputs in a tile of ALL_STRIPS for each warp, and this lane its row of each of four
 * matrices, in either factor. */
template <int ALL_STRIPS> struct Place {
    int warp_row, warp_col, lane;

    __device__ Place() {
        const int warp = static_cast<int>(threadIdx.x) / WARP;
        lane = static_cast<int>(threadIdx.x) % WARP;
        warp_row = warp / ACROSS * ALL_STRIPS * STRIP, warp_col = warp % ACROSS * SIDE;
    }
    __device__ int in_z() const {
        return (warp_row + lane % 16) * LD_Z + lane / 16 * UNIT;
    }
    __device__ int in_a() const {
        return lane % 16 * LD_A + warp_col + lane / 16 * UNIT;
    }
    __device__ int row() const {
        return warp_row + lane / 4;
    }
    __device__ int col() const {
        return warp_col + lane % 4 * 4;
    }
};

/* r up to RANK_HELD. A block's tiles are job.walk rows apart. */
template <bool FOURS, bool EXTRAPOLATED, Finish FINISH>
__global__ void __launch_bounds__(THREADS, FOURS ? 3 : 1) expand_held_kernel(Job job) {
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const Z = reinterpret_cast<uint16_t *>(shared_tiles), *const A = Z + 2 * COUNT_Z_HELD;
    const Place<STRIPS_HELD> at;
    const int first_col = static_cast<int>(blockIdx.x) % job.column_tiles * COLS;
    int first_row = static_cast<int>(blockIdx.x) / job.column_tiles * ROWS_HELD;

    Stage<ROWS_HELD, DEPTH / 4> of_z;
    ask_for<ROWS_HELD, EXTRAPOLATED, FINISH>(job, first_row, first_col);
    of_z.load(job.z + static_cast<size_t>(first_row) * job.ldz, job.ldz, job.rows - first_row, job.r,
              job.z_in_fours);
#pragma unroll 1
    for (int start = 0; start < job.r; start += DEPTH) {
        const float *const a = job.a + static_cast<size_t>(start) * job.lda + first_col;
        Stage<DEPTH, COLS / 4> of_a;
        of_a.load(a, job.lda, job.r - start, job.m - first_col, job.a_in_fours);
        of_a.put(a, job.lda, job.r - start, job.m - first_col, job.a_in_fours, A + start * LD_A, put_a);
    }
    /* What does not fit into the registers: Y0 that is under way from the start of a tile, the next tile's Z while
     * this one is written. */
    enum { EARLY_Y = FOURS && !EXTRAPOLATED && FINISH != ACTIVATED };
    enum { EARLY_Z = !EXTRAPOLATED || FINISH != ACTIVATED };
    int place = 0; /* of Z */
    for (;;) {
        const int rows = job.rows - first_row; /* what is left, perhaps more than a tile */
        const int row = first_row + at.row(), col = first_col + at.col();
        const bool last = rows <= job.walk;
        Origin<2 * STRIPS_HELD, FOURS, false> origin;
        if (EARLY_Y)
            origin.load(job, row, col);
        float sum[STRIPS_HELD][SIDE / 8][4] = {};
#pragma unroll 1
        for (int start = 0; start < job.r; start += DEPTH) {
            const int depth = job.r - start; /* what is left */
            const float *const z = job.z + static_cast<size_t>(first_row) * job.ldz + start;
            of_z.put(z, job.ldz, rows, depth, job.z_in_fours, Z + place, put_z);
            __syncthreads(); /* this place is written, the other has been read */
            if (depth > DEPTH) {
                of_z.load(z + DEPTH, job.ldz, rows, depth - DEPTH, job.z_in_fours);
            } else if (!last) {
                if (EARLY_Z)
                    of_z.load(job.z + static_cast<size_t>(first_row + job.walk) * job.ldz, job.ldz,
                              rows - job.walk, job.r, job.z_in_fours);
                ask_for<ROWS_HELD, EXTRAPOLATED, FINISH>(job, first_row + job.walk, first_col);
            }
            multiply<STRIPS_HELD>(sum, Z + place + at.in_z(), A + start * LD_A + at.in_a(), depth);
            place = COUNT_Z_HELD - place;
        }
        if (EARLY_Y)
            origin.template write<FINISH>(job, row, col, sum, 0);
        else
            write_strips<STRIPS_HELD, 1, FOURS, EXTRAPOLATED, FINISH>(job, row, col, sum);
        if (last)
            break;
        if (!EARLY_Z)
            of_z.load(job.z + static_cast<size_t>(first_row + job.walk) * job.ldz, job.ldz, rows - job.walk,
                      job.r, job.z_in_fours);
        first_row += job.walk;
    }
}

/* Any r; a block has one tile. */
template <bool FOURS, bool EXTRAPOLATED, Finish FINISH>
__global__ void __launch_bounds__(THREADS, FOURS ? 2 : 1) expand_bf16_kernel(Job job) {
    extern __shared__ uint4 shared_tiles[];
    uint16_t *const Z = reinterpret_cast<uint16_t *>(shared_tiles), *const A = Z + COUNT_Z;
    const Place<STRIPS> at;
    const int first_col = static_cast<int>(blockIdx.x) % job.column_tiles * COLS;
    const int first_row = static_cast<int>(blockIdx.x) / job.column_tiles * ROWS;
    const int rows = job.rows - first_row,
              cols = job.m - first_col; /* what is left, perhaps more than a tile */
    ask_for<ROWS, EXTRAPOLATED, FINISH>(job, first_row, first_col);
    float sum[STRIPS][SIDE / 8][4] = {};
#pragma unroll 1
    for (int start = 0; start < job.r; start += DEPTH) {
        const int depth = job.r - start; /* what is left */
        const float *const z = job.z + static_cast<size_t>(first_row) * job.ldz + start;
        const float *const a = job.a + static_cast<size_t>(start) * job.lda + first_col;
        Stage<ROWS, DEPTH / 4> of_z;
        Stage<DEPTH, COLS / 4> of_a;
        of_z.load(z, job.ldz, rows, depth, job.z_in_fours);
        of_a.load(a, job.lda, depth, cols, job.a_in_fours);
        if (start > 0)
            __syncthreads(); /* the last product has read both tiles */
        of_z.put(z, job.ldz, rows, depth, job.z_in_fours, Z, put_z);
        of_a.put(a, job.lda, depth, cols, job.a_in_fours, A, put_a);
        __syncthreads();
        multiply<STRIPS>(sum, Z + at.in_z(), A + at.in_a(), depth);
    }
    /* All of them at once take too many registers where more than one past is read. */
    enum { AT_ONCE = FOURS && !EXTRAPOLATED && FINISH != GATED ? 2 * STRIPS : 2 };
    write_strips<STRIPS, AT_ONCE, FOURS, EXTRAPOLATED, FINISH>(job, first_row + at.row(),
                                                               first_col + at.col(), sum);
}

/* The rows of a tile of columns are shared out evenly, over no more blocks than that takes. */
unsigned share_out(Job *job, unsigned tiles) {
    const unsigned column_tiles = static_cast<unsigned>(job->column_tiles), row_tiles = tiles / column_tiles;
    const unsigned most = column_tiles < BLOCKS_HELD ? BLOCKS_HELD / column_tiles : 1;
    const unsigned each = (row_tiles - 1) / most + 1, blocks = (row_tiles - 1) / each + 1;
    job->walk = static_cast<int>(blocks * ROWS_HELD);
    return blocks * column_tiles;
}

/* tiles: as many as expansion_of says. */
template <bool FOURS, bool EXTRAPOLATED, Finish FINISH>
void launch_past(Job job, unsigned tiles, cudaStream_t stream) {
    if (job.r <= RANK_HELD) {
        const unsigned blocks = share_out(&job, tiles);
        expand_held_kernel<FOURS, EXTRAPOLATED, FINISH>
            <<<blocks, THREADS, shared_bytes_held(job.r), stream>>>(job);
    } else {
        expand_bf16_kernel<FOURS, EXTRAPOLATED, FINISH><<<tiles, THREADS, SHARED_BYTES, stream>>>(job);
    }
}
template <bool FOURS, Finish FINISH> void launch(const Job &job, unsigned tiles, cudaStream_t stream) {
    if (job.past.before != nullptr)
        launch_past<FOURS, true, FINISH>(job, tiles, stream);
    else
        launch_past<FOURS, false, FINISH>(job, tiles, stream);
}

/* Whether x (rows, m) is apart from all that other blocks of the kernel still read. */
bool is_nobodys(const float *x, const Job &job) {
    const size_t rows = static_cast<size_t>(job.rows), m = static_cast<size_t>(job.m),
                 r = static_cast<size_t>(job.r);
    const size_t past = (rows - 1) * job.past.ld + m;
    return apart(x, rows * m, job.z, (rows - 1) * job.ldz + r) &&
           apart(x, rows * m, job.a, (r - 1) * job.lda + m) && apart(x, rows * m, job.past.last, past) &&
           apart(x, rows * m, job.past.before, past);
}

/* Where the sum that Y is added to comes next, it is made on the way. */
bool take_gate(Context *c, Job *job) {
    std::tuple<size_t, size_t, float *, const float *, const float *, size_t, size_t, ousac_error *> next;
    if (!Recorded<add_gated>::follows(c, &next))
        return false;
    const auto [rows, d, x, y, gate, rows_per_group, ld_mod, error] = next;
    (void)error;
    const size_t m = static_cast<size_t>(job->m);
    if (rows != static_cast<size_t>(job->rows) || d != m || job->ldy != m || y != job->y ||
        rows_per_group == 0 || d > ld_mod || !in_fours(x, m, m) || !in_fours(gate, ld_mod, m) ||
        !is_nobodys(x, *job))
        return false;
    job->gated = {x, gate, rows_per_group, ld_mod};
    c->calls_done = 1;
    return true;
}

} // namespace

ousac_status expand_bf16(Context *c, size_t rows, size_t m, size_t r, const float *z, size_t ldz,
                         const float *a, size_t lda, float s, const float *last, const float *before,
                         size_t ld_past, bool activated, float *y, size_t ldy, ousac_error *error) {
    Job job = {};
    unsigned blocks = 0;
    const size_t high = static_cast<size_t>(r <= RANK_HELD ? ROWS_HELD : ROWS);
    const ousac_status status = expansion_of(high, COLS, rows, m, r, z, ldz, a, lda,
                                             {last, before, ld_past, s}, y, ldy, &job, &blocks, error);
    if (status)
        return status;
    if (!outputs_in_fours(job))
        activated ? launch<false, ACTIVATED>(job, blocks, c->stream)
                  : launch<false, PLAIN>(job, blocks, c->stream);
    else if (activated)
        launch<true, ACTIVATED>(job, blocks, c->stream);
    else if (take_gate(c, &job))
        launch<true, GATED>(job, blocks, c->stream);
    else
        launch<true, PLAIN>(job, blocks, c->stream);
    return launched("expand_onto", error);
}

} // namespace ousac_cuda
