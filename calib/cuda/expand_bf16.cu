/* Y = Y0 + s (Y0 - Y1) + Z A on the matrix units, Z and A rounded to bfloat16: the second half of a cached
 * linear. Z (rows, r) and A (r, m) are thin, so the pass over Y0, Y1 and Y is what costs, and everything else
 * must hide behind it.
 *
 * A block computes a tile of ROWS x COLS outputs, a warp SIDE x SIDE of them; DEPTH of r are in shared memory at
 * a time. While the factors are on their way, memory is asked for the tile's Y0 and Y1.
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

enum { WARP = 32, THREADS = 256, STRIP = 16, ROWS = 64, COLS = 128, DEPTH = 64, UNIT = 8, LINE = 32 };
enum { SIDE = 32, ACROSS = COLS / SIDE }; /* of a warp's outputs; warps across the tile */
/* An odd number of 16-byte units, so that the 8 rows of a matrix meet in no bank. */
enum { LD_Z = DEPTH + UNIT, LD_A = COLS + UNIT };
constexpr size_t SHARED_BYTES = (ROWS * LD_Z + DEPTH * LD_A) * sizeof(uint16_t);
static_assert(ROWS / SIDE * ACROSS * WARP == THREADS && ROWS * COLS / LINE == THREADS,
              "as tiles are shared out");
static_assert(SHARED_BYTES <= 48 * 1024, "more needs to be asked for");

struct Job : Expansion {
    /* x (rows, m), contiguous, += gate Y, gate as in add_gated; x NULL: nothing */
    struct {
        float *x;
        const float *gate;
        size_t rows_per_group, ld_mod;
    } gated;
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
    const float4 gate = load_four<true>(
        job.gated.gate + static_cast<size_t>(row) / job.gated.rows_per_group * job.gated.ld_mod + col, 4);
    const float4 x = *to;
    *to = make_float4(x.x + gate.x * v.x, x.y + gate.y * v.y, x.z + gate.z * v.z, x.w + gate.w * v.w);
}

/* STRIPS of a warp's outputs: a lane holds rows `row`, row + 8... of each 4 columns from col and col + 16. What
 * they read is all under way before the first is waited for. */
template <int STRIPS, bool FOURS, bool EXTRAPOLATED, Finish FINISH>
__device__ inline void write_strips(const Job &job, int row, int col, const float (*sum)[SIDE / 8][4]) {
    enum { EIGHTS = STRIPS * 2 };
    const size_t at = static_cast<size_t>(row) * job.past.ld + col;
    const float *last = job.past.last + at, *before = EXTRAPOLATED ? job.past.before + at : nullptr;
    float *y = job.y + static_cast<size_t>(row) * job.ldy + col;
    float4 value[EIGHTS][2], older[EXTRAPOLATED ? EIGHTS : 1][2];
#pragma unroll
    for (int i = 0; i < EIGHTS; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int valid = row + 8 * i < job.rows ? job.m - (col + 16 * j) : 0;
            value[i][j] = load_four<FOURS>(last + 8 * i * job.past.ld + 16 * j, valid);
            if (EXTRAPOLATED)
                older[i][j] = load_four<FOURS>(before + 8 * i * job.past.ld + 16 * j, valid);
        }
#pragma unroll
    for (int i = 0; i < EIGHTS; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int valid = row + 8 * i < job.rows ? job.m - (col + 16 * j) : 0, h = i % 2 * 2;
            const float *const low = sum[i / 2][2 * j], *const high = sum[i / 2][2 * j + 1];
            float4 v = value[i][j];
            if (EXTRAPOLATED)
                v = forecast(v, older[i][j], job.past.s);
            v = make_float4(finished<FINISH>(v.x + low[h]), finished<FINISH>(v.y + low[h + 1]),
                            finished<FINISH>(v.z + high[h]), finished<FINISH>(v.w + high[h + 1]));
            store_four<FOURS>(y + 8 * i * job.ldy + 16 * j, valid, v);
            if (FINISH == GATED && valid > 0)
                add_to_stream(job, row + 8 * i, col + 16 * j, v);
        }
}

template <bool FOURS, bool EXTRAPOLATED, Finish FINISH>
__global__ void __launch_bounds__(THREADS, FOURS ? 2 : 1) expand_bf16_kernel(Job job) {
    extern __shared__ uint4 shared_tiles[]; /* uint4: 16-byte alignment */
    uint16_t *const Z = reinterpret_cast<uint16_t *>(shared_tiles);
    uint16_t *const A = Z + ROWS * LD_Z;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP, warp = thread / WARP;
    const int warp_row = warp / ACROSS * SIDE, warp_col = warp % ACROSS * SIDE;
    /* Where this lane's row of each of four matrices lies, in either tile. */
    const int in_z = (warp_row + lane % 16) * LD_Z + lane / 16 * UNIT;
    const int in_a = lane % 16 * LD_A + warp_col + lane / 16 * UNIT;
    const int first_col = static_cast<int>(blockIdx.x) % job.column_tiles * COLS;
    const int first_row = static_cast<int>(blockIdx.x) / job.column_tiles * ROWS;
    const int rows = job.rows - first_row,
              cols = job.m - first_col; /* what is left, perhaps more than a tile */
    {
        const int row = thread / (COLS / LINE), col = thread % (COLS / LINE) * LINE;
        const size_t at = static_cast<size_t>(first_row + row) * job.past.ld + first_col + col;
        if (row < rows && col < cols) {
            prefetch(job.past.last + at);
            if (EXTRAPOLATED)
                prefetch(job.past.before + at);
        }
    }
    float sum[SIDE / STRIP][SIDE / 8][4] = {};
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
        const int steps = depth < DEPTH ? (depth + 15) / 16 : DEPTH / 16;
#pragma unroll
        for (int step = 0; step < DEPTH / 16; step++) {
            if (step >= steps)
                break;
            uint32_t left[SIDE / STRIP][4];
#pragma unroll
            for (int i = 0; i < SIDE / STRIP; i++)
                load_matrices(left[i], Z + in_z + i * STRIP * LD_Z + step * 16);
#pragma unroll
            for (int n = 0; n < SIDE / 16; n++) {
                uint32_t right[4];
                load_matrices_transposed(right, A + in_a + step * 16 * LD_A + n * 16);
#pragma unroll
                for (int i = 0; i < SIDE / STRIP; i++) {
                    multiply_add(sum[i][2 * n], left[i], right[0], right[1]);
                    multiply_add(sum[i][2 * n + 1], left[i], right[2], right[3]);
                }
            }
        }
    }
    /* All of them at once take too many registers where more than one past is read. */
    enum { AT_ONCE = FOURS && !EXTRAPOLATED && FINISH != GATED ? SIDE / STRIP : 1 };
    const int row = first_row + warp_row + lane / 4, col = first_col + warp_col + lane % 4 * 4;
#pragma unroll
    for (int i = 0; i < SIDE / STRIP; i += AT_ONCE)
        write_strips<AT_ONCE, FOURS, EXTRAPOLATED, FINISH>(job, row + i * STRIP, col, sum + i);
}

template <bool FOURS, Finish FINISH> void launch(const Job &job, unsigned blocks, cudaStream_t stream) {
    if (job.past.before != nullptr)
        expand_bf16_kernel<FOURS, true, FINISH><<<blocks, THREADS, SHARED_BYTES, stream>>>(job);
    else
        expand_bf16_kernel<FOURS, false, FINISH><<<blocks, THREADS, SHARED_BYTES, stream>>>(job);
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
    const ousac_status status = expansion_of(ROWS, COLS, rows, m, r, z, ldz, a, lda,
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
