#include "calib/spectra/spectral.h"

#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

ousac_status ousac_spectral_place(double **block, const ousac_backend *backend, size_t rows, size_t cols,
                                  const double *source, ousac_error *error) {
    if (cols != 0 && rows > (SIZE_MAX / sizeof(double) - 1) / cols)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "a matrix of %zu x %zu does not fit in memory", rows,
                          cols);
    *block =
        backend->alloc(backend, rows * cols + 1, sizeof(double)); /* never 0: a backend may refuse that */
    if (*block == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a matrix of %zu x %zu", rows, cols);
    return source == NULL ? OUSAC_STATUS_OK
                          : backend->upload(backend, *block, source, rows * cols * sizeof(double), error);
}

ousac_status ousac_spectral_lend(const ousac_backend *backend, size_t rows, size_t cols, const double *values,
                                 double **placed, const double **lent, ousac_error *error) {
    const ousac_status status =
        backend->host ? OUSAC_STATUS_OK : ousac_spectral_place(placed, backend, rows, cols, values, error);
    *lent = backend->host ? values : *placed;
    return status;
}

ousac_status ousac_spectral_reserve(double **block, size_t rows, size_t cols, ousac_error *error) {
    *block = cols != 0 && rows > SIZE_MAX / cols ? NULL : ousac_malloc(rows * cols, sizeof(double));
    if (*block == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a matrix of %zu x %zu", rows, cols);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_spectral_place_weights(double **block, const ousac_backend *backend, size_t m, size_t n,
                                          const float *w, const double *left, const double *right,
                                          ousac_error *error) {
    double *wide = NULL;
    ousac_status status = ousac_spectral_reserve(&wide, m, n, error);
    for (size_t i = 0; i < m && status == OUSAC_STATUS_OK; i++)
        for (size_t j = 0; j < n && status == OUSAC_STATUS_OK; j++) {
            const double value = (double)w[i * n + j];
            wide[i * n + j] = (left == NULL ? value : left[i] * value) * (right == NULL ? 1.0 : right[j]);
            if (!isfinite(value))
                status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "weight (%zu, %zu) is not finite", i, j);
        }
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place(block, backend, m, n, wide, error);
    ousac_free(wide);
    return status;
}

ousac_status ousac_spectral_decompose(const ousac_backend *backend, size_t order, double *a, double *values,
                                      ousac_error *error) {
    double *device_values = NULL;
    ousac_status status = ousac_spectral_place(&device_values, backend, 1, order, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->eigen64(backend, order, a, order, device_values, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, values, device_values, order * sizeof(double), error);
    backend->release(backend, device_values);
    return status;
}

size_t ousac_spectral_significant(const double *values, size_t count, size_t scale) {
    const double floor_value = count == 0 ? 0 : (double)scale * DBL_EPSILON * values[0];
    size_t kept = 0;
    while (kept < count && values[kept] > 0 && values[kept] > floor_value)
        kept++;
    return kept;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

ousac_status ousac_spectral_begin(ousac_factors *factors, size_t m, size_t n, const double *values,
                                  size_t count, size_t scale, size_t rank_max, ousac_error *error) {
    factors->m = m;
    factors->n = n;
    factors->lambda_count = least(m, n);
    factors->directions = ousac_spectral_significant(values, least(count, factors->lambda_count), scale);
    factors->rank = least(rank_max, factors->directions);
    factors->lambda = ousac_calloc(factors->lambda_count, sizeof *factors->lambda);
    factors->a = ousac_calloc(factors->rank * m, sizeof *factors->a);
    factors->b = ousac_calloc(factors->rank * n, sizeof *factors->b);
    if (factors->lambda == NULL || factors->a == NULL || factors->b == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY,
                          "no memory for factors of rank %zu of a site of %zu x %zu", factors->rank, m, n);
    if (factors->directions > 0)
        memcpy(factors->lambda, values, factors->directions * sizeof *values);
    return OUSAC_STATUS_OK;
}

/* Scales a row to unit length and makes its largest component (the first of equals) positive. */
static void normalise(size_t m, double *row) {
    double square = 0;
    size_t largest = 0;
    for (size_t j = 0; j < m; j++) {
        square += row[j] * row[j];
        if (fabs(row[j]) > fabs(row[largest]))
            largest = j;
    }
    if (square == 0)
        return;
    const double scale = (row[largest] < 0 ? -1.0 : 1.0) / sqrt(square);
    for (size_t j = 0; j < m; j++)
        row[j] *= scale;
}

/* Rounds to float32. */
static ousac_status round_all(size_t count, const double *source, float *target, ousac_error *error) {
    for (size_t i = 0; i < count; i++) {
        if (!(fabs(source[i]) <= (double)FLT_MAX))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "a factor holds %g, which float32 does not",
                              source[i]);
        target[i] = (float)source[i];
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_spectral_finish(ousac_factors *factors, const ousac_backend *backend, double *u,
                                   const double *weights, const double *left, ousac_error *error) {
    const size_t m = factors->m, n = factors->n, rank = factors->rank;
    double *host = NULL, *product = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (rank == 0)
        return OUSAC_STATUS_OK;
    status = ousac_spectral_reserve(&host, rank, m > n ? m : n, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, host, u, rank * m * sizeof *host, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < rank; i++)
        normalise(m, host + i * m);
    status = backend->upload(backend, u, host, rank * m * sizeof *host, error);
    for (size_t i = 0; left != NULL && i < rank * m; i++)
        host[i] /= left[i % m];
    if (status == OUSAC_STATUS_OK)
        status = round_all(rank * m, host, factors->a, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place(&product, backend, rank, n, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, 0, 0, rank, n, m, 1.0, u, m, weights, n, 0.0, product, n, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, host, product, rank * n * sizeof *host, error);
    if (status == OUSAC_STATUS_OK)
        status = round_all(rank * n, host, factors->b, error);
done:
    backend->release(backend, product);
    ousac_free(host);
    return status;
}
