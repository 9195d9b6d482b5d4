#include "calib/factors.h"

#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* An eigenvalue this far below zero, relative to the largest, is no rounding error of a sum of squares. */
#define INDEFINITE 1e-6

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

double ousac_spectrum_tail(const double *lambda, size_t count, size_t rank) {
    double sum = 0;
    for (size_t i = count; i > rank; i--)
        sum += lambda[i - 1];
    return sum;
}

/* --- backend memory --- */

/* A matrix of doubles on the backend, and where it came from. */
static ousac_status place(double **block, const ousac_backend *backend, size_t rows, size_t cols,
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

/* A host matrix of doubles. */
static ousac_status reserve(double **block, size_t rows, size_t cols, ousac_error *error) {
    *block = cols != 0 && rows > SIZE_MAX / cols ? NULL : ousac_malloc(rows * cols, sizeof(double));
    if (*block == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a matrix of %zu x %zu", rows, cols);
    return OUSAC_STATUS_OK;
}

/* W widened to float64, on the backend. */
static ousac_status place_weights(double **block, const ousac_backend *backend, size_t m, size_t n,
                                  const float *w, ousac_error *error) {
    double *wide = NULL;
    ousac_status status = reserve(&wide, m, n, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    for (size_t i = 0; i < m * n && status == OUSAC_STATUS_OK; i++) {
        wide[i] = (double)w[i];
        if (!isfinite(w[i]))
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "weight (%zu, %zu) is not finite", i / n, i % n);
    }
    if (status == OUSAC_STATUS_OK)
        status = place(block, backend, m, n, wide, error);
    ousac_free(wide);
    return status;
}

/* Eigenpairs of a (order, order) on the backend: vectors stay in its rows, values come to the host. */
static ousac_status decompose(const ousac_backend *backend, size_t order, double *a, double *values,
                              ousac_error *error) {
    double *device_values = NULL;
    ousac_status status = place(&device_values, backend, 1, order, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->eigen64(backend, order, a, order, device_values, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, values, device_values, order * sizeof(double), error);
    backend->release(backend, device_values);
    return status;
}

/* Eigenpairs of a packed symmetric matrix; *vectors (order, order) on the backend. NUMBER where it is
 * indefinite. */
static ousac_status decompose_packed(double **vectors, double *values, const ousac_backend *backend,
                                     size_t order, const double *packed, ousac_error *error) {
    double *full = NULL;
    ousac_status status = reserve(&full, order, order, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < order; i++)
        for (size_t j = 0; j <= i; j++)
            full[i * order + j] = full[j * order + i] = packed[i * (i + 1) / 2 + j];
    status = place(vectors, backend, order, order, full, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose(backend, order, *vectors, values, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    const double largest = fmax(values[0], -values[order - 1]);
    if (values[order - 1] < -INDEFINITE * largest)
        status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                            "moment of order %zu has the eigenvalue %g beside %g: expected none below zero",
                            order, values[order - 1], values[0]);
done:
    ousac_free(full);
    return status;
}

/* How many leading values stand above rounding error: values[i] > scale eps values[0]. */
static size_t significant(const double *values, size_t count, size_t scale) {
    const double floor_value = (double)scale * DBL_EPSILON * values[0];
    size_t kept = 0;
    while (kept < count && values[kept] > 0 && values[kept] > floor_value)
        kept++;
    return kept;
}

/* --- the root of a moment --- */

void ousac_root_free(ousac_root *root) {
    if (root == NULL)
        return;
    ousac_free(root->f);
    memset(root, 0, sizeof *root);
}

ousac_status ousac_root_create(ousac_root *root, const ousac_backend *backend, size_t n, const double *packed,
                               ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double *vectors = NULL, *values = NULL;
    memset(root, 0, sizeof *root);
    if (n == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "moment of order 0: expected at least 1");
    status = reserve(&values, 1, n, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose_packed(&vectors, values, backend, n, packed, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    root->n = n;
    root->k = significant(values, n, n);
    for (size_t i = 0; i < n; i++)
        root->trace += packed[i * (i + 1) / 2 + i];
    status = reserve(&root->f, root->k, n, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, root->f, vectors, root->k * n * sizeof *root->f, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < root->k; i++) {
        const double scale = sqrt(values[i]);
        for (size_t j = 0; j < n; j++)
            root->f[i * n + j] *= scale;
    }
done:
    if (status != OUSAC_STATUS_OK)
        ousac_root_free(root);
    backend->release(backend, vectors);
    ousac_free(values);
    return status;
}

/* --- factors --- */

void ousac_factors_free(ousac_factors *factors) {
    if (factors == NULL)
        return;
    ousac_free(factors->lambda);
    ousac_free(factors->a);
    ousac_free(factors->b);
    memset(factors, 0, sizeof *factors);
}

/* Spectrum and rank from the eigenvalues of the (values_count) problem, falling; `scale` sets the rounding
 * floor. */
static ousac_status set_spectrum(ousac_factors *factors, size_t m, size_t n, const double *values,
                                 size_t values_count, size_t scale, size_t rank_max, ousac_error *error) {
    factors->m = m;
    factors->n = n;
    factors->lambda_count = least(m, n);
    factors->directions =
        values_count == 0 ? 0 : significant(values, least(values_count, factors->lambda_count), scale);
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

/* a and b from the directions u (rank, m) on the backend, of any length and sign; `weights` is W on the
 * backend. */
static ousac_status set_factors(ousac_factors *factors, const ousac_backend *backend, double *u,
                                const double *weights, ousac_error *error) {
    const size_t m = factors->m, n = factors->n, rank = factors->rank;
    double *host = NULL, *product = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (rank == 0)
        return OUSAC_STATUS_OK;
    status = reserve(&host, rank, m > n ? m : n, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, host, u, rank * m * sizeof *host, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < rank; i++)
        normalise(m, host + i * m);
    for (size_t i = 0; i < rank * m; i++)
        factors->a[i] = (float)host[i];
    status = backend->upload(backend, u, host, rank * m * sizeof *host, error);
    if (status == OUSAC_STATUS_OK)
        status = place(&product, backend, rank, n, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, 0, 0, rank, n, m, 1.0, u, m, weights, n, 0.0, product, n, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->download(backend, host, product, rank * n * sizeof *host, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < rank * n; i++)
        factors->b[i] = (float)host[i];
done:
    backend->release(backend, product);
    ousac_free(host);
    return status;
}

ousac_status ousac_factors_create_input(ousac_factors *factors, const ousac_backend *backend,
                                        const ousac_root *root, size_t m, const float *w, size_t rank_max,
                                        ousac_error *error) {
    const size_t n = root->n, k = root->k;
    const size_t order = least(k, m); /* the smaller Gram matrix of G */
    double *weights = NULL, *f = NULL, *g = NULL, *gram = NULL, *u = NULL, *values = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    memset(factors, 0, sizeof *factors);
    if (m == 0 || n == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "site of %zu x %zu: expected at least 1 x 1", m, n);
    status = reserve(&values, 1, order, error);
    if (status == OUSAC_STATUS_OK)
        status = place_weights(&weights, backend, m, n, w, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (k == 0) {
        status = set_spectrum(factors, m, n, values, 0, n, rank_max, error);
        goto done;
    }
    /* G = W F, so that G G^T = W C W^T = K. */
    status = place(&f, backend, k, n, root->f, error);
    if (status == OUSAC_STATUS_OK)
        status = place(&g, backend, m, k, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, 0, 1, m, k, n, 1.0, weights, n, f, n, 0.0, g, k, error);
    if (status == OUSAC_STATUS_OK)
        status = place(&gram, backend, order, order, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = k <= m ? backend->gemm64(backend, 1, 0, k, k, m, 1.0, g, k, g, k, 0.0, gram, k, error)
                        : backend->gemm64(backend, 0, 1, m, m, k, 1.0, g, k, g, k, 0.0, gram, m, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose(backend, order, gram, values, error);
    if (status == OUSAC_STATUS_OK)
        status = set_spectrum(factors, m, n, values, order, n, rank_max, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (k > m) {
        status = set_factors(factors, backend, gram, weights, error);
        goto done;
    }
    /* u_i = G v_i / s_i; set_factors divides by the length, which is s_i but better known for small ones. */
    status = place(&u, backend, factors->rank, m, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, 0, 1, factors->rank, m, k, 1.0, gram, k, g, k, 0.0, u, m, error);
    if (status == OUSAC_STATUS_OK)
        status = set_factors(factors, backend, u, weights, error);
done:
    if (status != OUSAC_STATUS_OK)
        ousac_factors_free(factors);
    backend->release(backend, u);
    backend->release(backend, gram);
    backend->release(backend, g);
    backend->release(backend, f);
    backend->release(backend, weights);
    ousac_free(values);
    return status;
}

ousac_status ousac_factors_create_output(ousac_factors *factors, const ousac_backend *backend, size_t m,
                                         size_t n, const double *packed, const float *w, size_t rank_max,
                                         ousac_error *error) {
    double *weights = NULL, *vectors = NULL, *values = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    memset(factors, 0, sizeof *factors);
    if (m == 0 || n == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "site of %zu x %zu: expected at least 1 x 1", m, n);
    status = reserve(&values, 1, m, error);
    if (status == OUSAC_STATUS_OK)
        status = place_weights(&weights, backend, m, n, w, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose_packed(&vectors, values, backend, m, packed, error);
    if (status == OUSAC_STATUS_OK)
        status = set_spectrum(factors, m, n, values, m, m, rank_max, error);
    if (status == OUSAC_STATUS_OK)
        status = set_factors(factors, backend, vectors, weights, error);
    if (status != OUSAC_STATUS_OK)
        ousac_factors_free(factors);
    backend->release(backend, vectors);
    backend->release(backend, weights);
    ousac_free(values);
    return status;
}
