/* Symmetric eigenproblems of one order on a GPU, as the CUDA backend solves them, one after another by
 * cuSOLVER's Xsyevd, and together by its XsyevBatched:
 *
 *     bench_eigen ORDER BATCH REPEATS
 *
 * One line of JSON: seconds for all of them, medians of REPEATS. Both ways are checked first: pairs against
 * their definition, values against each other's. Exit status 77: no device.
 */
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr double TOLERANCE = 1e-11; /* of the largest eigenvalue */
enum { PAIRS = 16 };                /* of a problem that are checked */

void must(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "bench_eigen: %s\n", what);
        std::exit(1);
    }
}
void must(cudaError_t result) {
    must(result == cudaSuccess, cudaGetErrorString(result));
}
void must(cusolverStatus_t result) {
    must(result == CUSOLVER_STATUS_SUCCESS, "cuSOLVER failed");
}

template <typename T> T *device_room(size_t count) {
    void *block = nullptr;
    must(cudaMalloc(&block, count * sizeof(T)));
    return static_cast<T *>(block);
}

struct Problem {
    size_t order, batch;
    std::vector<double> matrices; /* (batch, order, order), symmetric */
    double *pristine, *a, *values;
    int *info;
    void *block;
    size_t device_bytes;
    std::vector<char> host;
    cudaStream_t stream;
    cusolverDnHandle_t solver;
    cusolverDnParams_t params;

    int64_t n() const {
        return static_cast<int64_t>(order);
    }
    size_t size() const {
        return order * order;
    }
    double *matrix(size_t i) const {
        return a + i * size();
    }
};

/* With values that decay, as those of moments do. */
void fill(Problem &p) {
    uint64_t state = 1;
    p.matrices.resize(p.batch * p.size());
    for (size_t b = 0; b < p.batch; b++)
        for (size_t i = 0; i < p.order; i++)
            for (size_t j = 0; j <= i; j++) {
                state = state * 6364136223846793005U + 1442695040888963407U;
                const double uniform = static_cast<double>(state >> 11) / 9007199254740992.0 - 0.5;
                const double scale = 1.0 / std::sqrt(static_cast<double>((1 + i) * (1 + j)));
                double *matrix = &p.matrices[b * p.size()];
                matrix[i * p.order + j] = matrix[j * p.order + i] =
                    scale * (i == j ? 1.5 + uniform : uniform);
            }
}

void looped_sizes(const Problem &p, size_t *device, size_t *host) {
    must(cusolverDnXsyevd_bufferSize(p.solver, p.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER,
                                     p.n(), CUDA_R_64F, p.a, p.n(), CUDA_R_64F, p.values, CUDA_R_64F, device,
                                     host));
}
void batched_sizes(const Problem &p, size_t *device, size_t *host) {
    must(cusolverDnXsyevBatched_bufferSize(
        p.solver, p.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, p.n(), CUDA_R_64F, p.a, p.n(),
        CUDA_R_64F, p.values, CUDA_R_64F, device, host, static_cast<int64_t>(p.batch)));
}
void solve_looped(Problem &p) {
    for (size_t i = 0; i < p.batch; i++)
        must(cusolverDnXsyevd(p.solver, p.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, p.n(),
                              CUDA_R_64F, p.matrix(i), p.n(), CUDA_R_64F, p.values + i * p.order, CUDA_R_64F,
                              p.block, p.device_bytes, p.host.data(), p.host.size(), p.info + i));
}
void solve_batched(Problem &p) {
    must(cusolverDnXsyevBatched(p.solver, p.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, p.n(),
                                CUDA_R_64F, p.a, p.n(), CUDA_R_64F, p.values, CUDA_R_64F, p.block,
                                p.device_bytes, p.host.data(), p.host.size(), p.info,
                                static_cast<int64_t>(p.batch)));
}

void restore(const Problem &p) {
    must(cudaMemcpyAsync(p.a, p.pristine, p.batch * p.size() * sizeof(double), cudaMemcpyDeviceToDevice,
                         p.stream));
    must(cudaStreamSynchronize(p.stream));
}

template <typename T> std::vector<T> fetch(const Problem &p, const T *source, size_t count) {
    std::vector<T> target(count);
    must(cudaMemcpyAsync(target.data(), source, count * sizeof(T), cudaMemcpyDeviceToHost, p.stream));
    must(cudaStreamSynchronize(p.stream));
    return target;
}

/* The values, after a look at the pairs that were just found. */
std::vector<double> verify(const Problem &p) {
    const std::vector<double> values = fetch(p, p.values, p.batch * p.order);
    const std::vector<double> vectors = fetch(p, p.a, p.batch * p.size());
    for (int info : fetch(p, p.info, p.batch))
        must(info == 0, "a problem did not converge");
    const size_t step = p.order > PAIRS ? p.order / PAIRS : 1;
    for (size_t b = 0; b < p.batch; b++) {
        const double *matrix = &p.matrices[b * p.size()], *value = &values[b * p.order];
        const double largest = std::fmax(std::fabs(value[0]), std::fabs(value[p.order - 1]));
        double trace = 0, sum = 0;
        for (size_t i = 0; i < p.order; i++) {
            trace += matrix[i * p.order + i];
            sum += value[i];
            must(i == 0 || value[i - 1] <= value[i], "values are not in order");
        }
        must(std::fabs(trace - sum) < TOLERANCE * largest * static_cast<double>(p.order), "not the trace");
        for (size_t i = 0; i < p.order; i += step) {
            const double *v = &vectors[b * p.size() + i * p.order];
            double length = 0, off = 0;
            for (size_t r = 0; r < p.order; r++) {
                double image = 0;
                for (size_t c = 0; c < p.order; c++)
                    image += matrix[r * p.order + c] * v[c];
                off = std::fmax(off, std::fabs(image - value[i] * v[r]));
                length += v[r] * v[r];
            }
            must(std::fabs(length - 1) < TOLERANCE && off < TOLERANCE * largest, "a pair is none");
        }
    }
    return values;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

/* Median time of all problems; *values as found, *bytes the workspace. */
double measure(Problem &p, size_t repeats, void (*sizes)(const Problem &, size_t *, size_t *),
               void (*solve)(Problem &), std::vector<double> *values, size_t *bytes) {
    std::vector<double> seconds;
    size_t host_bytes = 0;
    sizes(p, &p.device_bytes, &host_bytes);
    p.block = device_room<char>(p.device_bytes > 0 ? p.device_bytes : 1);
    p.host.resize(host_bytes);
    *bytes = p.device_bytes;
    restore(p);
    solve(p);
    *values = verify(p);
    for (size_t r = 0; r < repeats; r++) {
        restore(p);
        const auto start = std::chrono::steady_clock::now();
        solve(p);
        must(cudaStreamSynchronize(p.stream));
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    must(cudaFree(p.block));
    return median(seconds);
}

} // namespace

int main(int argc, char **argv) {
    int devices = 0;
    if (argc != 4) {
        std::fprintf(stderr, "usage: bench_eigen ORDER BATCH REPEATS\n");
        return 2;
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
        return 77;
    Problem p = {};
    p.order = std::strtoul(argv[1], nullptr, 10);
    p.batch = std::strtoul(argv[2], nullptr, 10);
    const size_t repeats = std::strtoul(argv[3], nullptr, 10);
    must(p.order > 0 && p.batch > 0 && repeats > 0 && p.order < 1U << 14 && p.batch < 1U << 14,
         "expected numbers above 0");
    must(cudaSetDevice(0));
    must(cudaStreamCreateWithFlags(&p.stream, cudaStreamNonBlocking));
    must(cusolverDnCreate(&p.solver));
    must(cusolverDnSetStream(p.solver, p.stream));
    must(cusolverDnCreateParams(&p.params));
    fill(p);
    p.pristine = device_room<double>(p.matrices.size());
    p.a = device_room<double>(p.matrices.size());
    p.values = device_room<double>(p.batch * p.order);
    p.info = device_room<int>(p.batch);
    must(cudaMemcpyAsync(p.pristine, p.matrices.data(), p.matrices.size() * sizeof(double),
                         cudaMemcpyHostToDevice, p.stream));
    std::vector<double> first, second;
    size_t first_bytes = 0, second_bytes = 0;
    const double looped = measure(p, repeats, looped_sizes, solve_looped, &first, &first_bytes);
    const double batched = measure(p, repeats, batched_sizes, solve_batched, &second, &second_bytes);
    const double largest = std::fabs(*std::max_element(
        first.begin(), first.end(), [](double a, double b) { return std::fabs(a) < std::fabs(b); }));
    for (size_t i = 0; i < first.size(); i++)
        must(std::fabs(first[i] - second[i]) < TOLERANCE * largest, "the two ways differ");
    std::printf("{\"order\":%zu,\"batch\":%zu,\"looped\":%.9g,\"batched\":%.9g,\"looped_bytes\":%zu,"
                "\"batched_bytes\":%zu}\n",
                p.order, p.batch, looped, batched, first_bytes, second_bytes);
    for (void *block : {static_cast<void *>(p.pristine), static_cast<void *>(p.a),
                        static_cast<void *>(p.values), static_cast<void *>(p.info)})
        must(cudaFree(block));
    must(cusolverDnDestroyParams(p.params));
    must(cusolverDnDestroy(p.solver));
    must(cudaStreamDestroy(p.stream));
    return 0;
}
