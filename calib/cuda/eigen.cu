/* Symmetric eigenproblems of the CUDA plug-in: cuSOLVER's 64-bit Xsyevd between two kernels, one that
 * prepares the matrix and one that puts the pairs in falling order with signs by convention.
 *
 * The lower triangle is mirrored, so that whatever stood above the diagonal is never read, and multiplied by
 * a power of two where its magnitudes are extreme, so that squares neither overflow nor vanish.
 */
#include "calib/cuda/context.h"

#include "formats/memory.h"

#include <cmath>
#include <cstring>

namespace ousac_cuda {
namespace {

enum { THREADS = 256, BLOCKS_MAX = 65535 };

/* Bits of the largest |a(i, j)|, j <= i, into *largest, which starts at 0. Magnitudes order as their bits do,
 * infinity and NaN above every finite one; the maximum of integers does not depend on the order. */
__global__ void __launch_bounds__(THREADS)
    largest_kernel(size_t n, const double *a, size_t lda, unsigned long long *largest) {
    unsigned long long most = 0;
    for (size_t i = blockIdx.x; i < n; i += gridDim.x)
        for (size_t j = threadIdx.x; j <= i; j += THREADS) {
            const unsigned long long bits =
                static_cast<unsigned long long>(__double_as_longlong(fabs(a[i * lda + j])));
            most = bits > most ? bits : most;
        }
    atomicMax(largest, most);
}

/* a(j, i) = a(i, j) *= scale for j <= i. A thread reads only the element below the diagonal that it owns. */
__global__ void __launch_bounds__(THREADS) prepare_kernel(size_t n, double scale, double *a, size_t lda) {
    for (size_t i = blockIdx.x; i < n; i += gridDim.x)
        for (size_t j = threadIdx.x; j <= i; j += THREADS) {
            const double value = scale * a[i * lda + j];
            a[i * lda + j] = value;
            a[j * lda + i] = value;
        }
}

/* The pairs of the zero matrix: the identity's rows. */
__global__ void __launch_bounds__(THREADS) identity_kernel(size_t n, double *a, size_t lda, double *values) {
    for (size_t i = blockIdx.x; i < n; i += gridDim.x) {
        for (size_t j = threadIdx.x; j < n; j += THREADS)
            a[i * lda + j] = i == j ? 1.0 : 0.0;
        if (threadIdx.x == 0)
            values[i] = 0;
    }
}

/* -1 where the component of largest magnitude (the first of equals) of the row is negative, else 1; the same
 * in every thread. All threads of the block must call it. */
__device__ double row_sign(size_t n, const double *row) {
    __shared__ double size[THREADS];
    __shared__ size_t place[THREADS];
    double most = -1;
    size_t at = 0;
    for (size_t j = threadIdx.x; j < n; j += THREADS)
        if (fabs(row[j]) > most) {
            most = fabs(row[j]);
            at = j;
        }
    size[threadIdx.x] = most;
    place[threadIdx.x] = at;
    __syncthreads();
    for (unsigned width = THREADS / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) {
            const double other = size[threadIdx.x + width];
            const size_t where = place[threadIdx.x + width];
            if (other > size[threadIdx.x] || (other == size[threadIdx.x] && where < place[threadIdx.x])) {
                size[threadIdx.x] = other;
                place[threadIdx.x] = where;
            }
        }
        __syncthreads();
    }
    const double sign = row[place[0]] < 0 ? -1.0 : 1.0;
    __syncthreads(); /* the arrays serve the next call, and the row is written only after all have read it */
    return sign;
}

/* Rows i and n - 1 - i change places, as do their values, which are divided by the scale; one block per pair.
 */
__global__ void __launch_bounds__(THREADS)
    order_kernel(size_t n, double unscale, double *a, size_t lda, double *values) {
    for (size_t i = blockIdx.x; i < (n + 1) / 2; i += gridDim.x) {
        const size_t k = n - 1 - i;
        double *upper = a + i * lda, *lower = a + k * lda;
        const double upper_sign = row_sign(n, upper), lower_sign = row_sign(n, lower);
        for (size_t j = threadIdx.x; j < n; j += THREADS) {
            const double from_upper = upper[j], from_lower = lower[j];
            upper[j] = lower_sign * from_lower;
            lower[j] = upper_sign * from_upper; /* the middle row of an odd order is its own partner */
        }
        if (threadIdx.x == 0) {
            const double first = values[i], last = values[k];
            values[i] = unscale * last;
            values[k] = unscale * first;
        }
        __syncthreads();
    }
}

unsigned blocks_for(size_t rows) {
    return static_cast<unsigned>(rows < BLOCKS_MAX ? rows : static_cast<size_t>(BLOCKS_MAX));
}

/* The largest magnitude of the lower triangle; NUMBER where one is not finite. */
ousac_status measure(Context *c, size_t n, const double *a, size_t lda, double *largest, ousac_error *error) {
    void *block = nullptr, *host = nullptr;
    ousac_status status;
    if ((status = scratch(c, "eigen64", sizeof(unsigned long long), &block, error)) ||
        (status = check(cudaMemsetAsync(block, 0, sizeof(unsigned long long), c->stream), "eigen64", error)))
        return status;
    largest_kernel<<<blocks_for(n), THREADS, 0, c->stream>>>(n, a, lda,
                                                             static_cast<unsigned long long *>(block));
    if ((status = launched("eigen64", error)) ||
        (status = fetch(c, "eigen64", block, sizeof(unsigned long long), &host, error)))
        return status;
    std::memcpy(largest, host, sizeof *largest);
    if (!std::isfinite(*largest))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "eigen64: a matrix of order %zu holds a value that is not finite", n);
    return OUSAC_STATUS_OK;
}

ousac_status make_solver(Context *c, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (c->solver == nullptr && (status = check(cusolverDnCreate(&c->solver), "eigen64", error)))
        return status;
    if ((status = check(cusolverDnSetStream(c->solver, c->stream), "eigen64", error)))
        return status;
    if (c->solver_params == nullptr)
        status = check(cusolverDnCreateParams(&c->solver_params), "eigen64", error);
    return status;
}

/* Ascending pairs, vectors in the columns of the column-major a: our rows. */
ousac_status decompose(Context *c, size_t n, double *a, size_t lda, double *values, ousac_error *error) {
    size_t device_bytes = 0, host_bytes = 0;
    void *block = nullptr, *info_host = nullptr, *host = nullptr;
    const int64_t order = static_cast<int64_t>(n), leading = static_cast<int64_t>(lda);
    ousac_status status;
    if ((status = make_solver(c, error)) ||
        (status =
             check(cusolverDnXsyevd_bufferSize(c->solver, c->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                               CUBLAS_FILL_MODE_UPPER, order, CUDA_R_64F, a, leading,
                                               CUDA_R_64F, values, CUDA_R_64F, &device_bytes, &host_bytes),
                   "eigen64", error)))
        return status;
    /* The solver's workspace, then its verdict, 256-byte aligned as an allocation would be. */
    const size_t info_at = (device_bytes + 255) / 256 * 256;
    if ((status = scratch(c, "eigen64", info_at + sizeof(int), &block, error)))
        return status;
    int *info = reinterpret_cast<int *>(static_cast<char *>(block) + info_at);
    if ((host = ousac_malloc(host_bytes, 1)) == nullptr)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "eigen64: no memory for the workspace of order %zu", n);
    if ((status = check(cudaMemsetAsync(info, 0, sizeof(int), c->stream), "eigen64", error)) ||
        (status = check(cusolverDnXsyevd(c->solver, c->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                         CUBLAS_FILL_MODE_UPPER, order, CUDA_R_64F, a, leading, CUDA_R_64F,
                                         values, CUDA_R_64F, block, device_bytes, host, host_bytes, info),
                        "eigen64", error)) ||
        (status = fetch(c, "eigen64", info, sizeof(int), &info_host, error)))
        goto done;
    if (*static_cast<const int *>(info_host) != 0)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "eigen64: order %zu did not converge (cuSOLVER syevd: %d)",
                       n, *static_cast<const int *>(info_host));
done:
    if (status) /* the host workspace must outlive what is queued */
        (void)cudaStreamSynchronize(c->stream);
    ousac_free(host);
    return status;
}

} // namespace

ousac_status eigen64(const ousac_backend *backend, size_t n, double *a, size_t lda, double *values,
                     ousac_error *error) {
    Context *c = nullptr;
    void *host = nullptr;
    double largest = 0, scale = 1;
    ousac_status status = check_view("eigen64", "A", n, n, lda, sizeof *a, error);
    if (status || n == 0)
        return status;
    if ((status = enter(backend, "eigen64", &c, error)) || (status = measure(c, n, a, lda, &largest, error)))
        return status;
    if (largest == 0) {
        identity_kernel<<<blocks_for(n), THREADS, 0, c->stream>>>(n, a, lda, values);
        return launched("eigen64", error);
    }
    if (largest < 1e-100 || largest > 1e100) {
        const int exponent = -std::ilogb(largest);
        scale = std::ldexp(1.0, exponent > 1000 ? 1000 : exponent < -1000 ? -1000 : exponent);
    }
    prepare_kernel<<<blocks_for(n), THREADS, 0, c->stream>>>(n, scale, a, lda);
    if ((status = launched("eigen64", error)) || (status = decompose(c, n, a, lda, values, error)))
        return status;
    order_kernel<<<blocks_for((n + 1) / 2), THREADS, 0, c->stream>>>(n, 1 / scale, a, lda, values);
    if ((status = launched("eigen64", error)) ||
        (status = fetch(c, "eigen64", values, n * sizeof *values, &host, error)))
        return status;
    for (size_t i = 0; i < n; i++)
        if (!std::isfinite(static_cast<const double *>(host)[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "eigen64: eigenvalue %zu of order %zu is not finite", i, n);
    return OUSAC_STATUS_OK;
}

} // namespace ousac_cuda
