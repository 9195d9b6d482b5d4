/* Elementwise kernels and the packed sums of the CUDA plug-in.
 *
 * Matrices are walked by a two-dimensional grid whose x runs along rows of memory; every loop strides by the
 * grid, so that any size is covered by any grid. Four columns at a time where pointers and leading dimensions
 * allow it. No kernel reads an element that another thread of it writes.
 */
#include "calib/cuda/context.h"
#include "calib/cuda/device.h"

#include <climits>

namespace ousac_cuda {
namespace {

enum { THREADS = 256, WARP = 32, GRID_Y_MAX = 65535 };
constexpr size_t GRID_X_MAX = 1U << 20;

struct Cover {
    dim3 grid, block;
};

/* Threads for rows of `units` elements: whole warps, as few idle as may be, of one row or more. */
Cover cover(size_t rows, size_t units) {
    const size_t passes = (units + THREADS - 1) / THREADS, each = (units + passes - 1) / passes;
    const unsigned wide = static_cast<unsigned>((each + WARP - 1) / WARP * WARP), high = THREADS / wide;
    size_t x = (units + wide - 1) / wide, y = (rows + high - 1) / high;
    x = x < GRID_X_MAX ? x : GRID_X_MAX;
    y = y < GRID_Y_MAX ? y : static_cast<size_t>(GRID_Y_MAX);
    return {dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), dim3(wide, high)};
}

__device__ inline size_t first_row() {
    return blockIdx.y * static_cast<size_t>(blockDim.y) + threadIdx.y;
}
__device__ inline size_t row_step() {
    return gridDim.y * static_cast<size_t>(blockDim.y);
}
__device__ inline size_t first_col() {
    return blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
}
__device__ inline size_t col_step() {
    return gridDim.x * static_cast<size_t>(blockDim.x);
}

/* --- maps: y(i, j) = f(a(i, j), ...), on floats or on vectors of four --- */

template <typename F> __device__ inline float apply(F f, float a) {
    return f(a);
}
template <typename F> __device__ inline float4 apply(F f, float4 a) {
    return make_float4(f(a.x), f(a.y), f(a.z), f(a.w));
}
template <typename F> __device__ inline float apply(F f, float a, float b) {
    return f(a, b);
}
template <typename F> __device__ inline float4 apply(F f, float4 a, float4 b) {
    return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}
template <typename F> __device__ inline float apply(F f, float a, float b, float c) {
    return f(a, b, c);
}
template <typename F> __device__ inline float4 apply(F f, float4 a, float4 b, float4 c) {
    return make_float4(f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z), f(a.w, b.w, c.w));
}

/* A matrix argument; `step` is its leading dimension, or 0 for one row that serves for all. */
template <typename T> struct Operand {
    T *data;
    size_t step;
};

template <typename T, typename F>
__global__ void __launch_bounds__(THREADS)
    map_kernel(size_t rows, size_t units, Operand<T> y, F f, Operand<const T> a) {
    for (size_t i = first_row(); i < rows; i += row_step())
        for (size_t j = first_col(); j < units; j += col_step())
            y.data[i * y.step + j] = apply(f, a.data[i * a.step + j]);
}

template <typename T, typename F>
__global__ void __launch_bounds__(THREADS)
    map_kernel(size_t rows, size_t units, Operand<T> y, F f, Operand<const T> a, Operand<const T> b) {
    for (size_t i = first_row(); i < rows; i += row_step())
        for (size_t j = first_col(); j < units; j += col_step())
            y.data[i * y.step + j] = apply(f, a.data[i * a.step + j], b.data[i * b.step + j]);
}

template <typename T, typename F>
__global__ void __launch_bounds__(THREADS)
    map_kernel(size_t rows, size_t units, Operand<T> y, F f, Operand<const T> a, Operand<const T> b,
               Operand<const T> c) {
    for (size_t i = first_row(); i < rows; i += row_step())
        for (size_t j = first_col(); j < units; j += col_step())
            y.data[i * y.step + j] =
                apply(f, a.data[i * a.step + j], b.data[i * b.step + j], c.data[i * c.step + j]);
}

template <typename T> bool in_fours(size_t rows, const Operand<T> &o) {
    return reinterpret_cast<uintptr_t>(o.data) % sizeof(float4) == 0 && (rows == 1 || o.step % 4 == 0);
}

Operand<float4> fours(const Operand<float> &o) {
    return {reinterpret_cast<float4 *>(o.data), o.step / 4};
}
Operand<const float4> fours(const Operand<const float> &o) {
    return {reinterpret_cast<const float4 *>(o.data), o.step / 4};
}

/* Launches a map of (rows, cols); sizes and views are checked. Contiguous matrices are walked as one row. */
template <typename F, typename... Inputs>
ousac_status map(const ousac_backend *backend, const char *operation, size_t rows, size_t cols, F f,
                 Operand<float> y, ousac_error *error, Inputs... inputs) {
    Context *c = nullptr;
    if (rows == 0 || cols == 0)
        return OUSAC_STATUS_OK;
    ousac_status status = enter(backend, operation, &c, error);
    if (status)
        return status;
    if (y.step == cols && (... && (inputs.step == cols))) {
        cols *= rows;
        rows = 1;
    }
    if (cols % 4 == 0 && in_fours(rows, y) && (... && in_fours(rows, inputs))) {
        const Cover over = cover(rows, cols / 4);
        map_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols / 4, fours(y), f, fours(inputs)...);
    } else {
        const Cover over = cover(rows, cols);
        map_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, y, f, inputs...);
    }
    return launched(operation, error);
}

struct Identity {
    __device__ float operator()(float a) const {
        return a;
    }
};
struct Gelu {
    __device__ float operator()(float x) const {
        return gelu(x);
    }
};
struct Silu {
    __device__ float operator()(float x) const {
        return x / (1.0F + expf(-x));
    }
};
struct Subtract {
    __device__ float operator()(float a, float b) const {
        return a - b;
    }
};
struct Extrapolate {
    float s;
    __device__ float operator()(float a, float b) const {
        return a + s * (a - b);
    }
};
/* Rounds as the difference to the forecast does. */
struct Delta {
    float s;
    __device__ float operator()(float x, float a, float b) const {
        return x - (a + s * (a - b));
    }
};
struct Axpy {
    float alpha;
    __device__ float operator()(float x, float y) const {
        return y + alpha * x;
    }
};

/* --- kernels that are no maps --- */

/* x += gate y. */
struct Gated {
    __device__ float operator()(float x, float y, float gate) const {
        return x + gate * y;
    }
};

template <typename T>
__global__ void __launch_bounds__(THREADS) add_gated_kernel(size_t rows, size_t units, T *x, const T *y,
                                                            Operand<const T> gate, size_t rows_per_group) {
    for (size_t i = first_row(); i < rows; i += row_step()) {
        const T *multiply = gate.data + i / rows_per_group * gate.step;
        for (size_t j = first_col(); j < units; j += col_step())
            x[i * units + j] = apply(Gated{}, x[i * units + j], y[i * units + j], multiply[j]);
    }
}

/* y = gelu(x), and the same in bfloat16. */
__global__ void __launch_bounds__(THREADS)
    gelu_round_kernel(size_t units, const float4 *x, float4 *y, Rounded *rounded) {
    for (size_t j = first_col(); j < units; j += col_step()) {
        const float4 value = apply(Gelu{}, x[j]);
        y[j] = value;
        round_unit(value, &rounded[j]);
    }
}

__global__ void __launch_bounds__(THREADS)
    subtract_rows_kernel(size_t rows, size_t cols, const uint32_t *index, float scale, const float *a,
                         size_t lda, const float *b, size_t ldb, float *y, size_t ldy) {
    for (size_t i = first_row(); i < rows; i += row_step()) {
        const size_t row = index != nullptr ? index[i] : i;
        for (size_t j = first_col(); j < cols; j += col_step())
            y[i * ldy + j] = scale * (a[row * lda + j] - b[i * ldb + j]);
    }
}

__global__ void __launch_bounds__(THREADS)
    gather_kernel(size_t batch, size_t count, const uint32_t *index, const float *x, size_t stride_x,
                  float *y, size_t stride_y) {
    for (size_t b = first_row(); b < batch; b += row_step())
        for (size_t i = first_col(); i < count; i += col_step())
            y[b * stride_y + i] = x[b * stride_x + index[i]];
}

template <typename From, typename To>
__global__ void __launch_bounds__(THREADS)
    round_kernel(size_t rows, size_t units, const From *x, size_t ldx, To *y) {
    for (size_t i = first_row(); i < rows; i += row_step())
        for (size_t j = first_col(); j < units; j += col_step())
            round_unit(x[i * ldx + j], &y[i * units + j]);
}

__global__ void __launch_bounds__(THREADS)
    accumulate_packed_kernel(size_t n, double weight, const float *g, size_t ldg, double *packed) {
    for (size_t i = first_row(); i < n; i += row_step())
        for (size_t j = first_col(); j <= i; j += col_step())
            packed[i * (i + 1) / 2 + j] += weight * static_cast<double>(g[i * ldg + j]);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    scale_rows_kernel(size_t rows, size_t cols, T beta, T *y, size_t ldy) {
    for (size_t i = first_row(); i < rows; i += row_step())
        for (size_t j = first_col(); j < cols; j += col_step())
            y[i * ldy + j] = beta == 0 ? 0 : beta * y[i * ldy + j];
}

__global__ void __launch_bounds__(THREADS) clear_lower_kernel(size_t n, float *g, size_t ldg) {
    for (size_t i = first_row(); i < n; i += row_step())
        for (size_t j = first_col(); j <= i; j += col_step())
            g[i * ldg + j] = 0;
}

/* One warp per head, a pair a lane and turn. The inverse root of the mean square is the warp's before any lane
 * writes, so that y may be x. */
__global__ void __launch_bounds__(THREADS)
    rotate_heads_kernel(size_t units, size_t heads, size_t head_dim, const float *x, size_t ldx, float eps,
                        const float *weight, const float *table, size_t positions, float *y, size_t ldy) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t warps = static_cast<size_t>(gridDim.x) * (THREADS / WARP);
    for (size_t u = blockIdx.x * static_cast<size_t>(THREADS / WARP) + threadIdx.x / WARP; u < units;
         u += warps) {
        const size_t i = u / heads, h = u % heads;
        const float *source = x + i * ldx + h * head_dim;
        float *target = y + i * ldy + h * head_dim;
        float inverse = 1;
        if (weight != nullptr) {
            float squares = 0;
            for (size_t j = lane; j < head_dim; j += WARP)
                squares += source[j] * source[j];
            inverse = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + eps);
        }
        if (table == nullptr) {
            for (size_t j = lane; j < head_dim; j += WARP)
                target[j] = weight != nullptr ? source[j] * inverse * weight[j] : source[j];
            continue;
        }
        const float *turn = table + i % positions * head_dim;
        for (size_t j = 2 * static_cast<size_t>(lane); j < head_dim; j += 2 * WARP) {
            float even = source[j], odd = source[j + 1];
            if (weight != nullptr) {
                even = even * inverse * weight[j];
                odd = odd * inverse * weight[j + 1];
            }
            target[j] = even * turn[j] - odd * turn[j + 1];
            target[j + 1] = odd * turn[j] + even * turn[j + 1];
        }
    }
}

} // namespace

/* --- operations --- */

ousac_status add_gated(const ousac_backend *backend, size_t rows, size_t d, float *x, const float *y,
                       const float *gate, size_t rows_per_group, size_t ld_mod, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = check_groups("add_gated", rows, rows_per_group, error);
    if (status || (status = check_view("add_gated", "x", rows, d, d, sizeof *x, error)) ||
        (status = check_view("add_gated", "gate", rows / rows_per_group + (rows % rows_per_group != 0), d,
                             ld_mod, sizeof *gate, error)) ||
        rows == 0 || d == 0)
        return status;
    if ((status = enter(backend, "add_gated", &c, error)))
        return status;
    const Operand<float> target = {x, d};
    const Operand<const float> added = {y, d}, gates = {gate, ld_mod};
    if (d % 4 == 0 && in_fours(rows, target) && in_fours(rows, added) && in_fours(2, gates)) {
        const Cover over = cover(rows, d / 4);
        add_gated_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, d / 4, reinterpret_cast<float4 *>(x),
                                                                  reinterpret_cast<const float4 *>(y),
                                                                  fours(gates), rows_per_group);
    } else {
        const Cover over = cover(rows, d);
        add_gated_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, d, x, y, gates, rows_per_group);
    }
    return launched("add_gated", error);
}

ousac_status gelu_tanh(const ousac_backend *backend, size_t count, const float *x, float *y,
                       ousac_error *error) {
    const Operand<float> target = {y, count};
    const Operand<const float> source = {x, count};
    Context *c = present(backend);
    uint16_t *ahead = c != nullptr && count % 4 == 0 && in_fours(1, target) && in_fours(1, source)
                          ? round_ahead(c, y, count)
                          : nullptr;
    if (ahead != nullptr) {
        const Cover over = cover(1, count / 4);
        gelu_round_kernel<<<over.grid, over.block, 0, c->stream>>>(
            count / 4, reinterpret_cast<const float4 *>(x), reinterpret_cast<float4 *>(y),
            reinterpret_cast<Rounded *>(ahead));
        return launched("gelu_tanh", error);
    }
    return map(backend, "gelu_tanh", 1, count, Gelu{}, Operand<float>{y, count}, error,
               Operand<const float>{x, count});
}

ousac_status silu(const ousac_backend *backend, size_t count, const float *x, float *y, ousac_error *error) {
    return map(backend, "silu", 1, count, Silu{}, Operand<float>{y, count}, error,
               Operand<const float>{x, count});
}

ousac_status gelu_tanh_rows(const ousac_backend *backend, size_t rows, size_t cols, const float *x,
                            size_t ldx, float *y, size_t ldy, ousac_error *error) {
    ousac_status status;
    if ((status = check_view("gelu_tanh_rows", "x", rows, cols, ldx, sizeof *x, error)) ||
        (status = check_view("gelu_tanh_rows", "y", rows, cols, ldy, sizeof *y, error)))
        return status;
    return map(backend, "gelu_tanh_rows", rows, cols, Gelu{}, Operand<float>{y, ldy}, error,
               Operand<const float>{x, ldx});
}

ousac_status rotate_heads(const ousac_backend *backend, size_t rows, size_t heads, size_t head_dim,
                          const float *x, size_t ldx, float eps, const float *weight, const float *table,
                          size_t positions, float *y, size_t ldy, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status;
    if (head_dim > 0 && heads > SIZE_MAX / head_dim)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "rotate_heads: sizes %zu, %zu, %zu: expected each to be at most %d", rows, heads,
                          head_dim, INT_MAX);
    if ((status = check_view("rotate_heads", "x", rows, heads * head_dim, ldx, sizeof *x, error)) ||
        (status = check_view("rotate_heads", "y", rows, heads * head_dim, ldy, sizeof *y, error)))
        return status;
    if (table != nullptr && (head_dim % 2 != 0 || positions == 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "rotate_heads: heads of %zu and %zu positions: expected pairs, and at least 1",
                          head_dim, positions);
    if (table != nullptr &&
        (status = check_view("rotate_heads", "table", positions, head_dim, head_dim, sizeof *table, error)))
        return status;
    if (rows == 0 || heads == 0 || head_dim == 0)
        return OUSAC_STATUS_OK;
    if ((status = enter(backend, "rotate_heads", &c, error)))
        return status;
    const size_t units = rows * heads, blocks = (units - 1) / (THREADS / WARP) + 1;
    rotate_heads_kernel<<<static_cast<unsigned>(blocks < GRID_X_MAX ? blocks : GRID_X_MAX), THREADS, 0,
                          c->stream>>>(units, heads, head_dim, x, ldx, eps, weight, table, positions, y, ldy);
    return launched("rotate_heads", error);
}

ousac_status subtract(const ousac_backend *backend, size_t rows, size_t cols, const float *a, size_t lda,
                      const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error) {
    ousac_status status;
    if ((status = check_view("subtract", "a", rows, cols, lda, sizeof *a, error)) ||
        (status = check_view("subtract", "b", rows, cols, ldb, sizeof *b, error)) ||
        (status = check_view("subtract", "y", rows, cols, ldy, sizeof *y, error)))
        return status;
    return map(backend, "subtract", rows, cols, Subtract{}, Operand<float>{y, ldy}, error,
               Operand<const float>{a, lda}, Operand<const float>{b, ldb});
}

ousac_status subtract_rows(const ousac_backend *backend, size_t rows, size_t cols, const uint32_t *index,
                           float scale, const float *a, size_t lda, const float *b, size_t ldb, float *y,
                           size_t ldy, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status;
    if ((status = check_view("subtract_rows", "a", rows, cols, lda, sizeof *a, error)) ||
        (status = check_view("subtract_rows", "b", rows, cols, ldb, sizeof *b, error)) ||
        (status = check_view("subtract_rows", "y", rows, cols, ldy, sizeof *y, error)) || rows == 0 ||
        cols == 0)
        return status;
    if ((status = enter(backend, "subtract_rows", &c, error)))
        return status;
    const Cover over = cover(rows, cols);
    subtract_rows_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, index, scale, a, lda, b, ldb, y,
                                                                  ldy);
    return launched("subtract_rows", error);
}

ousac_status extrapolate(const ousac_backend *backend, size_t rows, size_t cols, float s, const float *a,
                         size_t lda, const float *b, size_t ldb, float *y, size_t ldy, ousac_error *error) {
    ousac_status status;
    if ((status = check_view("extrapolate", "a", rows, cols, lda, sizeof *a, error)) ||
        (status = check_view("extrapolate", "b", rows, cols, ldb, sizeof *b, error)) ||
        (status = check_view("extrapolate", "y", rows, cols, ldy, sizeof *y, error)))
        return status;
    return map(backend, "extrapolate", rows, cols, Extrapolate{s}, Operand<float>{y, ldy}, error,
               Operand<const float>{a, lda}, Operand<const float>{b, ldb});
}

ousac_status gather(const ousac_backend *backend, size_t batch, size_t count, const uint32_t *index,
                    const float *x, size_t stride_x, float *y, size_t stride_y, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = check_view("gather", "y", batch, count, stride_y, sizeof *y, error);
    if (status || batch == 0 || count == 0)
        return status;
    if ((status = enter(backend, "gather", &c, error)))
        return status;
    const Cover over = cover(batch, count);
    gather_kernel<<<over.grid, over.block, 0, c->stream>>>(batch, count, index, x, stride_x, y, stride_y);
    return launched("gather", error);
}

ousac_status copy(const ousac_backend *backend, size_t rows, size_t cols, const float *a, size_t lda,
                  float *y, size_t ldy, ousac_error *error) {
    ousac_status status;
    if ((status = check_view("copy", "a", rows, cols, lda, sizeof *a, error)) ||
        (status = check_view("copy", "y", rows, cols, ldy, sizeof *y, error)))
        return status;
    return map(backend, "copy", rows, cols, Identity{}, Operand<float>{y, ldy}, error,
               Operand<const float>{a, lda});
}

ousac_status axpy(const ousac_backend *backend, size_t count, float alpha, const float *x, float *y,
                  ousac_error *error) {
    return map(backend, "axpy", 1, count, Axpy{alpha}, Operand<float>{y, count}, error,
               Operand<const float>{x, count}, Operand<const float>{y, count});
}

ousac_status accumulate_packed(const ousac_backend *backend, size_t n, double weight, const float *g,
                               size_t ldg, double *packed, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = check_view("accumulate_packed", "g", n, n, ldg, sizeof *g, error);
    if (status || n == 0)
        return status;
    if ((status = enter(backend, "accumulate_packed", &c, error)))
        return status;
    const Cover over = cover(n, n);
    accumulate_packed_kernel<<<over.grid, over.block, 0, c->stream>>>(n, weight, g, ldg, packed);
    return launched("accumulate_packed", error);
}

/* --- for other files --- */

ousac_status subtract_past(const ousac_backend *backend, const char *operation, size_t rows, size_t n,
                           float s, const float *x, size_t ldx, const float *last, const float *before,
                           size_t ld_past, float *work, ousac_error *error) {
    const Operand<float> target = {work, n};
    const Operand<const float> now = {x, ldx}, then = {last, ld_past}, older = {before, ld_past};
    return before == nullptr ? map(backend, operation, rows, n, Subtract{}, target, error, now, then)
                             : map(backend, operation, rows, n, Delta{s}, target, error, now, then, older);
}

ousac_status fill_rows(Context *c, const char *operation, size_t rows, size_t cols, const float *row,
                       float *y, size_t ldy, ousac_error *error) {
    const Operand<const float> repeated = {row, 0};
    const Operand<float> target = {y, ldy};
    if (cols % 4 == 0 && in_fours(rows, repeated) && in_fours(rows, target)) {
        const Cover over = cover(rows, cols / 4);
        map_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols / 4, fours(target), Identity{},
                                                            fours(repeated));
    } else {
        const Cover over = cover(rows, cols);
        map_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, target, Identity{}, repeated);
    }
    return launched(operation, error);
}

ousac_status round_rows(Context *c, const char *operation, size_t rows, size_t cols, const float *x,
                        size_t ldx, uint16_t *y, ousac_error *error) {
    const Operand<const float> from = {x, ldx};
    if (cols % 4 == 0 && in_fours(rows, from) && reinterpret_cast<uintptr_t>(y) % sizeof(Rounded) == 0) {
        const Cover over = cover(rows, cols / 4);
        round_kernel<<<over.grid, over.block, 0, c->stream>>>(
            rows, cols / 4, reinterpret_cast<const float4 *>(x), ldx / 4, reinterpret_cast<Rounded *>(y));
    } else {
        const Cover over = cover(rows, cols);
        round_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, x, ldx, y);
    }
    return launched(operation, error);
}

ousac_status scale_rows(Context *c, const char *operation, size_t rows, size_t cols, float beta, float *y,
                        size_t ldy, ousac_error *error) {
    const Cover over = cover(rows, cols);
    scale_rows_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, beta, y, ldy);
    return launched(operation, error);
}

ousac_status scale_rows(Context *c, const char *operation, size_t rows, size_t cols, double beta, double *y,
                        size_t ldy, ousac_error *error) {
    const Cover over = cover(rows, cols);
    scale_rows_kernel<<<over.grid, over.block, 0, c->stream>>>(rows, cols, beta, y, ldy);
    return launched(operation, error);
}

ousac_status clear_lower(Context *c, const char *operation, size_t n, float *g, size_t ldg,
                         ousac_error *error) {
    const Cover over = cover(n, n);
    clear_lower_kernel<<<over.grid, over.block, 0, c->stream>>>(n, g, ldg);
    return launched(operation, error);
}

} // namespace ousac_cuda
