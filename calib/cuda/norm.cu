/* The layer norm of the CUDA plug-in: one warp per row, which it holds in registers where that is possible. */
#include "calib/cuda/context.h"
#include "calib/cuda/device.h"

namespace ousac_cuda {
namespace {

enum { THREADS = 256, WARP = 32, ROWS_AT_ONCE = THREADS / WARP };
constexpr size_t BLOCKS_MAX = 1U << 20;

__device__ inline size_t first_row() {
    return blockIdx.x * static_cast<size_t>(ROWS_AT_ONCE) + threadIdx.x / WARP;
}
__device__ inline size_t row_step() {
    return gridDim.x * static_cast<size_t>(ROWS_AT_ONCE);
}

/* One over the standard deviation, from the sums over centred values; `correction` is their mean, which is the rounding
 * error of the mean that was taken off. */
__device__ inline float inverse_deviation(float squares, float correction, size_t d, float eps) {
    float variance = squares / static_cast<float>(d) - correction * correction;
    variance = variance < 0 ? 0 : variance; /* keeps NaN */
    return 1.0F / sqrtf(variance + eps);
}

__device__ inline float modulated(float normed, float scale, float shift) {
    return normed * (1.0F + scale) + shift;
}

/* Rows of `units` times four values, at most EACH units a lane. scale NULL: no modulation; rounded NULL: not wanted. */
template <int EACH>
__global__ void __launch_bounds__(THREADS)
    norm_held_kernel(size_t rows, size_t units, const float4 *x, float eps, const float4 *shift,
                     const float4 *scale, size_t rows_per_group, size_t step, float4 *y, Rounded *rounded) {
    const unsigned lane = threadIdx.x % WARP;
    const float count = static_cast<float>(4 * units);
    for (size_t i = first_row(); i < rows; i += row_step()) {
        float4 value[EACH];
        float sum = 0, squares = 0, rest = 0;
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            const size_t j = lane + static_cast<size_t>(u) * WARP;
            value[u] = j < units ? x[i * units + j] : make_float4(0, 0, 0, 0);
            sum += (value[u].x + value[u].y) + (value[u].z + value[u].w);
        }
        const float mean = warp_sum(sum) / count;
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (lane + static_cast<size_t>(u) * WARP >= units)
                continue;
            float4 &v = value[u];
            v = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
            squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
            rest += (v.x + v.y) + (v.z + v.w);
        }
        const float correction = warp_sum(rest) / count;
        const float inverse = inverse_deviation(warp_sum(squares), correction, 4 * units, eps);
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            const size_t j = lane + static_cast<size_t>(u) * WARP;
            if (j >= units)
                continue;
            const float4 v = value[u];
            float4 out = make_float4((v.x - correction) * inverse, (v.y - correction) * inverse,
                                     (v.z - correction) * inverse, (v.w - correction) * inverse);
            if (scale != nullptr) {
                const float4 s = scale[i / rows_per_group * step + j],
                             b = shift[i / rows_per_group * step + j];
                out = make_float4(modulated(out.x, s.x, b.x), modulated(out.y, s.y, b.y),
                                  modulated(out.z, s.z, b.z), modulated(out.w, s.w, b.w));
            }
            y[i * units + j] = out;
            if (rounded != nullptr)
                round_unit(out, &rounded[i * units + j]);
        }
    }
}

/* Any row: its readings after the first come from the cache. */
__global__ void __launch_bounds__(THREADS)
    norm_kernel(size_t rows, size_t d, const float *x, float eps, const float *shift, const float *scale,
                size_t rows_per_group, size_t ld_mod, float *y) {
    const unsigned lane = threadIdx.x % WARP;
    for (size_t i = first_row(); i < rows; i += row_step()) {
        const float *source = x + i * d;
        float *target = y + i * d;
        float sum = 0, squares = 0, rest = 0;
        for (size_t j = lane; j < d; j += WARP)
            sum += source[j];
        const float mean = warp_sum(sum) / static_cast<float>(d);
        for (size_t j = lane; j < d; j += WARP) {
            const float centred = source[j] - mean;
            squares += centred * centred;
            rest += centred;
        }
        const float correction = warp_sum(rest) / static_cast<float>(d);
        const float inverse = inverse_deviation(warp_sum(squares), correction, d, eps);
        const float *add = shift + (scale != nullptr ? i / rows_per_group * ld_mod : 0);
        const float *multiply = scale + (scale != nullptr ? i / rows_per_group * ld_mod : 0);
        for (size_t j = lane; j < d; j += WARP) {
            const float normed = ((source[j] - mean) - correction) * inverse;
            target[j] = scale != nullptr ? modulated(normed, multiply[j], add[j]) : normed;
        }
    }
}

/* The arguments of a launch. */
struct Job {
    size_t rows, d;
    const float *x;
    float eps;
    const float *shift, *scale;
    size_t rows_per_group, ld_mod;
    float *y;
    uint16_t *rounded;
};

template <int EACH> void launch_held(const Job &job, unsigned blocks, cudaStream_t stream) {
    norm_held_kernel<EACH><<<blocks, THREADS, 0, stream>>>(
        job.rows, job.d / 4, reinterpret_cast<const float4 *>(job.x), job.eps,
        reinterpret_cast<const float4 *>(job.shift), reinterpret_cast<const float4 *>(job.scale),
        job.rows_per_group, job.ld_mod / 4, reinterpret_cast<float4 *>(job.y),
        reinterpret_cast<Rounded *>(job.rounded));
}

/* 0 where rows do not fit a warp's registers, or cannot be read in fours. */
enum { HELD_MAX = 24 };
size_t units_held(const Job &job) {
    const size_t units = job.d / 4, each = (units + WARP - 1) / WARP;
    const uintptr_t together = reinterpret_cast<uintptr_t>(job.x) | reinterpret_cast<uintptr_t>(job.y) |
                               reinterpret_cast<uintptr_t>(job.shift) |
                               reinterpret_cast<uintptr_t>(job.scale);
    if (job.d % 4 != 0 || together % sizeof(float4) != 0 || (job.scale != nullptr && job.ld_mod % 4 != 0))
        return 0;
    return each <= HELD_MAX ? each : 0;
}

} // namespace

ousac_status norm_modulate(const ousac_backend *backend, size_t rows, size_t d, const float *x, float eps,
                           const float *shift, const float *scale, size_t rows_per_group, size_t ld_mod,
                           float *y, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = check_view("norm_modulate", "x", rows, d, d, sizeof *x, error);
    if (status)
        return status;
    if ((shift == nullptr) != (scale == nullptr))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "norm_modulate: one of shift and scale: expected both or neither");
    if (shift != nullptr &&
        ((status = check_groups("norm_modulate", rows, rows_per_group, error)) ||
         (status = check_view("norm_modulate", "shift", rows / rows_per_group + (rows % rows_per_group != 0),
                              d, ld_mod, sizeof *x, error))))
        return status;
    if (rows == 0 || d == 0)
        return OUSAC_STATUS_OK;
    if ((status = enter(backend, "norm_modulate", &c, error)))
        return status;
    Job job = {rows, d, x, eps, shift, scale, rows_per_group, ld_mod, y, nullptr};
    const size_t all = (rows - 1) / ROWS_AT_ONCE + 1, each = units_held(job);
    const unsigned blocks = static_cast<unsigned>(all < BLOCKS_MAX ? all : BLOCKS_MAX);
    if (each > 0)
        job.rounded = round_ahead(c, y, rows * d);
    if (each == 0)
        norm_kernel<<<blocks, THREADS, 0, c->stream>>>(rows, d, x, eps, shift, scale, rows_per_group, ld_mod,
                                                       y);
    else if (each <= 2)
        launch_held<2>(job, blocks, c->stream);
    else if (each <= 4)
        launch_held<4>(job, blocks, c->stream);
    else if (each <= 6)
        launch_held<6>(job, blocks, c->stream);
    else if (each <= 9)
        launch_held<9>(job, blocks, c->stream);
    else if (each <= 12)
        launch_held<12>(job, blocks, c->stream);
    else if (each <= 16)
        launch_held<16>(job, blocks, c->stream);
    else
        launch_held<HELD_MAX>(job, blocks, c->stream);
    return launched("norm_modulate", error);
}

} // namespace ousac_cuda
