/* Reductions of the CUDA plug-in, in float64. The partition of the work and the order of every sum follow
 * from the shape alone: no atomics on floats, so results are the same from run to run and device to device.
 */
#include "calib/cuda/device.h"
#include "calib/cuda/sequence.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { THREADS = 256, TILE_COLS = 32, TILE_ROWS = THREADS / TILE_COLS, CHUNK_ROWS = 128 };
constexpr size_t PART_ELEMENTS = 16384;
/* A pass over what a recorder sees is short: parts small enough to fill the device. */
constexpr size_t MEASURED_ELEMENTS = 4096;

/* The value that is summed: of x, or of a - b with the difference taken in float64. */
template <bool DIFF> __device__ inline double value_at(const float *a, const float *b, size_t at, size_t bt) {
    return DIFF ? static_cast<double>(a[at]) - static_cast<double>(b[bt]) : static_cast<double>(a[at]);
}

/* The sum of the block's values, in thread 0. All threads must call it. */
__device__ inline double block_sum(double value) {
    __shared__ double part[THREADS];
    part[threadIdx.x] = value;
    __syncthreads();
    for (unsigned width = THREADS / 2; width > 0; width /= 2) {
        if (threadIdx.x < width)
            part[threadIdx.x] += part[threadIdx.x + width];
        __syncthreads();
    }
    return part[0];
}

/* Block p of a group sums the squares of its rows [p part_rows, (p + 1) part_rows): partial (groups, parts).
 */
template <bool DIFF>
__global__ void __launch_bounds__(THREADS)
    squares_kernel(size_t cols, const float *a, size_t lda, const float *b, size_t ldb, size_t rows_per_group,
                   size_t parts, size_t part_rows, double *partial) {
    const size_t group = blockIdx.x / parts, part = blockIdx.x % parts;
    const size_t first = part * part_rows;
    const size_t last = first + part_rows < rows_per_group ? first + part_rows : rows_per_group;
    double sum = 0;
    for (size_t i = group * rows_per_group + first; i < group * rows_per_group + last; i++)
        for (size_t j = threadIdx.x; j < cols; j += THREADS) {
            const double value = value_at<DIFF>(a, b, i * lda + j, i * ldb + j);
            sum += value * value;
        }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

/* What measure_kernel is given: as in ousac_backend, but `cols`, and the steps of x and past, in the units that it reads.
 * Where `delta` is not NULL, its row i (delta_step) is `scale` times what was compared. */
template <typename T> struct Measured {
    size_t rows, cols;
    const uint32_t *index, *next;
    const T *x;
    size_t step;
    T *past;
    size_t past_step;
    bool keep;
    T *delta;
    size_t delta_step;
    float scale;
};

__device__ inline double square_of(float value) {
    return static_cast<double>(value) * static_cast<double>(value);
}
__device__ inline double square_of(const float4 &v) {
    return (square_of(v.x) + square_of(v.y)) + (square_of(v.z) + square_of(v.w));
}
__device__ inline double change_of(float now, float then) {
    const double moved = static_cast<double>(now) - static_cast<double>(then);
    return moved * moved;
}
__device__ inline double change_of(const float4 &now, const float4 &then) {
    return (change_of(now.x, then.x) + change_of(now.y, then.y)) +
           (change_of(now.z, then.z) + change_of(now.w, then.w));
}
__device__ inline float scaled_change(float scale, float now, float then) {
    return scale * (now - then);
}
__device__ inline float4 scaled_change(float scale, const float4 &now, const float4 &then) {
    return make_float4(scaled_change(scale, now.x, then.x), scaled_change(scale, now.y, then.y),
                       scaled_change(scale, now.z, then.z), scaled_change(scale, now.w, then.w));
}

/* Block p looks at the rows [p part_rows, (p + 1) part_rows) of past and those of x that they stand for: partial (2,
 * parts), of squares and, where COMPARE, of squared changes. The block that is done last adds them up, in an order that
 * does not depend on which it is: result (2). *done counts blocks and is 0 again at the end. */
template <bool COMPARE, typename T>
__global__ void __launch_bounds__(THREADS)
    measure_kernel(Measured<T> m, size_t part_rows, double *partial, double *result, unsigned *done) {
    __shared__ bool is_last;
    const size_t first = blockIdx.x * part_rows;
    const size_t last = first + part_rows < m.rows ? first + part_rows : m.rows;
    const unsigned cols = static_cast<unsigned>(m.cols), count = static_cast<unsigned>(last - first) * cols;
    double square = 0, change = 0;
#pragma unroll 4
    for (unsigned e = threadIdx.x; e < count; e += THREADS) {
        const size_t i = first + e / cols, j = e % cols;
        const T value = m.x[(m.index != nullptr ? m.index[i] : i) * m.step + j];
        square += square_of(value);
        if (COMPARE) {
            const T then = m.past[i * m.past_step + j];
            change += change_of(value, then);
            if (m.delta != nullptr)
                m.delta[i * m.delta_step + j] = scaled_change(m.scale, value, then);
        }
        if (m.keep)
            m.past[i * m.past_step + j] = m.x[(m.next != nullptr ? m.next[i] : i) * m.step + j];
    }
    square = block_sum(square);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = square;
    if (COMPARE) {
        __syncthreads(); /* the sum's shared memory serves again */
        change = block_sum(change);
        if (threadIdx.x == 0)
            partial[gridDim.x + blockIdx.x] = change;
    }
    if (threadIdx.x == 0) {
        __threadfence(); /* what this block leaves is seen before its being counted */
        is_last = atomicAdd(done, 1U) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    const volatile double *const all = partial; /* of other blocks: not from this processor's cache */
    for (unsigned k = 0; k < (COMPARE ? 2U : 1U); k++) {
        double sum = 0;
        for (size_t p = threadIdx.x; p < gridDim.x; p += THREADS)
            sum += all[k * gridDim.x + p];
        __syncthreads();
        sum = block_sum(sum);
        if (threadIdx.x == 0)
            result[k] = sum;
    }
    if (threadIdx.x == 0)
        *done = 0;
}

/* result[group] = sum of its parts; one block per group. */
__global__ void __launch_bounds__(THREADS)
    finish_squares_kernel(size_t parts, const double *partial, double *result) {
    double sum = 0;
    for (size_t p = threadIdx.x; p < parts; p += THREADS)
        sum += partial[blockIdx.x * parts + p];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        result[blockIdx.x] = sum;
}

/* One block per tile of TILE_COLS columns and chunk of CHUNK_ROWS rows of a group: partial (groups, chunks,
 * cols). */
template <bool DIFF>
__global__ void __launch_bounds__(THREADS)
    abs_columns_kernel(size_t cols, const float *a, size_t lda, const float *b, size_t ldb,
                       size_t rows_per_group, size_t tiles, size_t chunks, double *partial) {
    __shared__ double sums[TILE_ROWS][TILE_COLS];
    const size_t tile = blockIdx.x % tiles, slot = blockIdx.x / tiles; /* slot: group * chunks + chunk */
    const size_t group = slot / chunks, first = slot % chunks * CHUNK_ROWS;
    const size_t last = first + CHUNK_ROWS < rows_per_group ? first + CHUNK_ROWS : rows_per_group;
    const unsigned x = threadIdx.x % TILE_COLS, y = threadIdx.x / TILE_COLS;
    const size_t col = tile * TILE_COLS + x;
    double sum = 0;
    if (col < cols)
        for (size_t r = first + y; r < last; r += TILE_ROWS) {
            const size_t i = group * rows_per_group + r;
            sum += fabs(value_at<DIFF>(a, b, i * lda + col, i * ldb + col));
        }
    sums[y][x] = sum;
    __syncthreads();
    if (y == 0 && col < cols) {
        for (unsigned k = 1; k < TILE_ROWS; k++)
            sum += sums[k][x];
        partial[slot * cols + col] = sum;
    }
}

/* result (groups, cols): the sum over chunks, in order. */
__global__ void __launch_bounds__(THREADS)
    finish_columns_kernel(size_t cols, size_t chunks, size_t count, const double *partial, double *result) {
    for (size_t e = blockIdx.x * static_cast<size_t>(THREADS) + threadIdx.x; e < count;
         e += gridDim.x * static_cast<size_t>(THREADS)) {
        const size_t group = e / cols, col = e % cols;
        double sum = 0;
        for (size_t k = 0; k < chunks; k++)
            sum += partial[(group * chunks + k) * cols + col];
        result[e] = sum;
    }
}

/* Every thread that finds one writes the same value. */
__global__ void __launch_bounds__(THREADS)
    find_non_finite_kernel(size_t rows, size_t cols, const float *x, size_t ldx, int *found) {
    int bad = 0;
    for (size_t i = blockIdx.x; i < rows; i += gridDim.x)
        for (size_t j = threadIdx.x; j < cols; j += THREADS)
            bad |= !isfinite(x[i * ldx + j]);
    if (bad)
        atomicOr(found, 1);
}

ousac_status too_many(const char *operation, size_t rows, size_t cols, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %zu x %zu values in too many groups", operation, rows,
                      cols);
}

/* Where `out` is NULL, the sums are left in the sequence's results, from `offset` on. */
template <bool DIFF>
ousac_status sum_of_squares(const ousac_backend *backend, const char *operation, size_t rows, size_t cols,
                            const float *a, size_t lda, const float *b, size_t ldb, size_t rows_per_group,
                            double *out, size_t offset, ousac_error *error) {
    Context *c = nullptr;
    void *block = nullptr, *host = nullptr;
    ousac_status status = check_whole_groups(operation, rows, rows_per_group, error);
    if (status || (status = check_view(operation, DIFF ? "a" : "x", rows, cols, lda, sizeof *a, error)) ||
        (DIFF && (status = check_view(operation, "b", rows, cols, ldb, sizeof *b, error))) || rows == 0 ||
        cols == 0)
        return status;
    const size_t part_rows = cols >= PART_ELEMENTS ? 1 : PART_ELEMENTS / cols;
    const size_t groups = rows / rows_per_group, parts = (rows_per_group - 1) / part_rows + 1;
    if (groups > INT_MAX / parts)
        return too_many(operation, rows, cols, error);
    if ((status = enter(backend, operation, &c, error)) ||
        (status = scratch(c, operation, groups * (parts + 1) * sizeof(double), &block, error)))
        return status;
    double *partial = static_cast<double *>(block) + groups;
    double *result = out != nullptr ? static_cast<double *>(block) : sequence_results(c, offset);
    squares_kernel<DIFF><<<static_cast<unsigned>(groups * parts), THREADS, 0, c->stream>>>(
        cols, a, lda, b, ldb, rows_per_group, parts, part_rows, partial);
    finish_squares_kernel<<<static_cast<unsigned>(groups), THREADS, 0, c->stream>>>(parts, partial, result);
    if ((status = launched(operation, error)) || out == nullptr ||
        (status = fetch(c, operation, result, groups * sizeof(double), &host, error)))
        return status;
    for (size_t g = 0; g < groups; g++)
        out[g] += static_cast<const double *>(host)[g];
    return OUSAC_STATUS_OK;
}

template <bool DIFF>
ousac_status sum_of_columns(const ousac_backend *backend, const char *operation, size_t rows, size_t cols,
                            const float *a, size_t lda, const float *b, size_t ldb, size_t rows_per_group,
                            double *out, ousac_error *error) {
    Context *c = nullptr;
    void *block = nullptr, *host = nullptr;
    ousac_status status = check_whole_groups(operation, rows, rows_per_group, error);
    if (status || (status = check_view(operation, DIFF ? "a" : "x", rows, cols, lda, sizeof *a, error)) ||
        (DIFF && (status = check_view(operation, "b", rows, cols, ldb, sizeof *b, error))) || rows == 0 ||
        cols == 0)
        return status;
    const size_t groups = rows / rows_per_group, chunks = (rows_per_group - 1) / CHUNK_ROWS + 1;
    const size_t tiles = (cols - 1) / TILE_COLS + 1, count = groups * cols;
    if (groups > INT_MAX / chunks || groups * chunks > INT_MAX / tiles)
        return too_many(operation, rows, cols, error);
    if ((status = enter(backend, operation, &c, error)) ||
        (status = scratch(c, operation, count * (chunks + 1) * sizeof(double), &block, error)))
        return status;
    double *result = static_cast<double *>(block), *partial = result + count;
    abs_columns_kernel<DIFF><<<static_cast<unsigned>(groups * chunks * tiles), THREADS, 0, c->stream>>>(
        cols, a, lda, b, ldb, rows_per_group, tiles, chunks, partial);
    const size_t blocks = (count - 1) / THREADS + 1;
    finish_columns_kernel<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), THREADS, 0, c->stream>>>(
        cols, chunks, count, partial, result);
    if ((status = launched(operation, error)) ||
        (status = fetch(c, operation, result, count * sizeof(double), &host, error)))
        return status;
    for (size_t e = 0; e < count; e++)
        out[e] += static_cast<const double *>(host)[e];
    return OUSAC_STATUS_OK;
}

ousac_status sum_squares_now(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                             size_t ldx, size_t rows_per_group, double *out, ousac_error *error) {
    return sum_of_squares<false>(backend, "sum_squares", rows, cols, x, ldx, x, ldx, rows_per_group, out, 0,
                                 error);
}

ousac_status sum_squares_late(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                              size_t ldx, size_t rows_per_group, size_t offset, ousac_error *error) {
    return sum_of_squares<false>(backend, "sum_squares", rows, cols, x, ldx, x, ldx, rows_per_group, nullptr,
                                 offset, error);
}

ousac_status sum_squares_diff_now(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                                  size_t lda, const float *b, size_t ldb, size_t rows_per_group, double *out,
                                  ousac_error *error) {
    return sum_of_squares<true>(backend, "sum_squares_diff", rows, cols, a, lda, b, ldb, rows_per_group, out,
                                0, error);
}

ousac_status sum_squares_diff_late(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                                   size_t lda, const float *b, size_t ldb, size_t rows_per_group,
                                   size_t offset, ousac_error *error) {
    return sum_of_squares<true>(backend, "sum_squares_diff", rows, cols, a, lda, b, ldb, rows_per_group,
                                nullptr, offset, error);
}

template <typename T>
void launch_measure(Context *c, const Measured<T> &m, bool compare, size_t part_rows, size_t parts,
                    double *partial, double *result) {
    const unsigned blocks = static_cast<unsigned>(parts);
    unsigned *done = c->blocks_done;
    if (compare)
        measure_kernel<true><<<blocks, THREADS, 0, c->stream>>>(m, part_rows, partial, result, done);
    else
        measure_kernel<false><<<blocks, THREADS, 0, c->stream>>>(m, part_rows, partial, result, done);
}

Measured<float4> fours(const Measured<float> &m) {
    return {m.rows,
            m.cols / 4,
            m.index,
            m.next,
            reinterpret_cast<const float4 *>(m.x),
            m.step / 4,
            reinterpret_cast<float4 *>(m.past),
            m.past_step / 4,
            m.keep,
            reinterpret_cast<float4 *>(m.delta),
            m.delta_step / 4,
            m.scale};
}

/* Where the same difference is asked for next, it is written on the way. */
void take_difference(Context *c, Measured<float> *m) {
    std::tuple<size_t, size_t, const uint32_t *, float, const float *, size_t, const float *, size_t, float *,
               size_t, ousac_error *>
        next;
    if (!Recorded<subtract_rows>::follows(c, &next))
        return;
    const auto [rows, cols, index, scale, a, lda, b, ldb, y, ldy, error] = next;
    (void)error;
    if (rows != m->rows || cols != m->cols || index != m->index || a != m->x || lda != m->step ||
        b != m->past || ldb != m->past_step || ldy < cols)
        return;
    m->delta = y;
    m->delta_step = ldy;
    m->scale = scale;
    c->calls_done = 1;
}

/* Adds the sums to *square and *change; where these are NULL, leaves them in the sequence's results, from
 * `offset` on. */
ousac_status measure(const ousac_backend *backend, size_t rows, size_t cols, const uint32_t *index,
                     const uint32_t *next, const float *x, size_t ldx, float *past, size_t ld_past,
                     int compare, int keep, double *square, double *change, size_t offset,
                     ousac_error *error) {
    Context *c = nullptr;
    void *block = nullptr, *host = nullptr;
    const char *operation = "measure_change";
    ousac_status status = check_view(operation, "x", rows, cols, ldx, sizeof *x, error);
    if (status || (status = check_view(operation, "past", rows, cols, ld_past, sizeof *past, error)) ||
        rows == 0 || cols == 0)
        return status;
    const size_t part_rows = cols >= MEASURED_ELEMENTS ? 1 : MEASURED_ELEMENTS / cols;
    const size_t parts = (rows - 1) / part_rows + 1, count = compare ? 2 : 1;
    if (parts > INT_MAX || cols > INT_MAX)
        return too_many(operation, rows, cols, error);
    if ((status = enter(backend, operation, &c, error)) ||
        (status = scratch(c, operation, count * (parts + 1) * sizeof(double), &block, error)))
        return status;
    double *partial = static_cast<double *>(block) + count;
    double *result = square != nullptr ? static_cast<double *>(block) : sequence_results(c, offset);
    Measured<float> m = {rows, cols, index, next, x, ldx, past, ld_past, keep != 0, nullptr, 0, 0};
    if (compare && !keep)
        take_difference(c, &m);
    if (cols % 4 == 0 && in_fours(x, ldx) && in_fours(past, ld_past) && in_fours(m.delta, m.delta_step))
        launch_measure(c, fours(m), compare, part_rows, parts, partial, result);
    else
        launch_measure(c, m, compare, part_rows, parts, partial, result);
    if ((status = launched(operation, error)) || square == nullptr ||
        (status = fetch(c, operation, result, count * sizeof(double), &host, error)))
        return status;
    *square += static_cast<const double *>(host)[0];
    if (compare)
        *change += static_cast<const double *>(host)[1];
    return OUSAC_STATUS_OK;
}

ousac_status measure_change_now(const ousac_backend *backend, size_t rows, size_t cols, const uint32_t *index,
                                const uint32_t *next, const float *x, size_t ldx, float *past, size_t ld_past,
                                int compare, int keep, double *square, double *change, ousac_error *error) {
    return measure(backend, rows, cols, index, next, x, ldx, past, ld_past, compare, keep, square, change, 0,
                   error);
}

ousac_status measure_change_late(const ousac_backend *backend, size_t rows, size_t cols,
                                 const uint32_t *index, const uint32_t *next, const float *x, size_t ldx,
                                 float *past, size_t ld_past, int compare, int keep, size_t offset,
                                 ousac_error *error) {
    return measure(backend, rows, cols, index, next, x, ldx, past, ld_past, compare, keep, nullptr, nullptr,
                   offset, error);
}

/* Sums that have a value, of whole groups. */
bool can_wait(size_t rows, size_t cols, size_t rows_per_group) {
    return rows > 0 && cols > 0 && rows_per_group > 0 && rows % rows_per_group == 0;
}

} // namespace

ousac_status sum_squares(const ousac_backend *backend, size_t rows, size_t cols, const float *x, size_t ldx,
                         size_t rows_per_group, double *out, ousac_error *error) {
    size_t offset = 0;
    if (can_wait(rows, cols, rows_per_group) &&
        reserve_results(backend, rows / rows_per_group, &out, 1, &offset) != nullptr)
        return Recorded<sum_squares_late>::call(backend, rows, cols, x, ldx, rows_per_group, offset, error);
    return Direct<sum_squares_now>::call(backend, rows, cols, x, ldx, rows_per_group, out, error);
}

ousac_status sum_squares_diff(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                              size_t lda, const float *b, size_t ldb, size_t rows_per_group, double *out,
                              ousac_error *error) {
    size_t offset = 0;
    if (can_wait(rows, cols, rows_per_group) &&
        reserve_results(backend, rows / rows_per_group, &out, 1, &offset) != nullptr)
        return Recorded<sum_squares_diff_late>::call(backend, rows, cols, a, lda, b, ldb, rows_per_group,
                                                     offset, error);
    return Direct<sum_squares_diff_now>::call(backend, rows, cols, a, lda, b, ldb, rows_per_group, out,
                                              error);
}

ousac_status measure_change(const ousac_backend *backend, size_t rows, size_t cols, const uint32_t *index,
                            const uint32_t *next, const float *x, size_t ldx, float *past, size_t ld_past,
                            int compare, int keep, double *square, double *change, ousac_error *error) {
    double *const sums[] = {square, change};
    const size_t count = compare ? 2 : 1;
    size_t offset = 0;
    if (rows > 0 && cols > 0 && reserve_results(backend, 1, sums, count, &offset) != nullptr)
        return Recorded<measure_change_late>::call(backend, rows, cols, index, next, x, ldx, past, ld_past,
                                                   compare, keep, offset, error);
    return Direct<measure_change_now>::call(backend, rows, cols, index, next, x, ldx, past, ld_past, compare,
                                            keep, square, change, error);
}

ousac_status sum_abs_columns(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                             size_t ldx, size_t rows_per_group, double *out, ousac_error *error) {
    return sum_of_columns<false>(backend, "sum_abs_columns", rows, cols, x, ldx, x, ldx, rows_per_group, out,
                                 error);
}

ousac_status sum_abs_columns_diff(const ousac_backend *backend, size_t rows, size_t cols, const float *a,
                                  size_t lda, const float *b, size_t ldb, size_t rows_per_group, double *out,
                                  ousac_error *error) {
    return sum_of_columns<true>(backend, "sum_abs_columns_diff", rows, cols, a, lda, b, ldb, rows_per_group,
                                out, error);
}

ousac_status all_finite(const ousac_backend *backend, size_t rows, size_t cols, const float *x, size_t ldx,
                        int *finite, ousac_error *error) {
    Context *c = nullptr;
    void *block = nullptr, *host = nullptr;
    ousac_status status = check_view("all_finite", "x", rows, cols, ldx, sizeof *x, error);
    if (status)
        return status;
    *finite = 1;
    if (rows == 0 || cols == 0)
        return OUSAC_STATUS_OK;
    if ((status = enter(backend, "all_finite", &c, error)) ||
        (status = scratch(c, "all_finite", sizeof(int), &block, error)) ||
        (status = check(cudaMemsetAsync(block, 0, sizeof(int), c->stream), "all_finite", error)))
        return status;
    find_non_finite_kernel<<<static_cast<unsigned>(rows < 65536 ? rows : 65536), THREADS, 0, c->stream>>>(
        rows, cols, x, ldx, static_cast<int *>(block));
    if ((status = launched("all_finite", error)) ||
        (status = fetch(c, "all_finite", block, sizeof(int), &host, error)))
        return status;
    *finite = *static_cast<const int *>(host) == 0;
    return OUSAC_STATUS_OK;
}

} // namespace ousac_cuda
