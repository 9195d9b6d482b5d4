#include "calib/spectra/factors.h"

#include "calib/spectra/spectral.h"
#include "formats/memory.h"

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

/* Eigenpairs of a packed symmetric matrix; *vectors (order, order) on the backend. NUMBER where it is
 * indefinite. */
static ousac_status decompose_packed(double **vectors, double *values, const ousac_backend *backend,
                                     size_t order, const double *packed, ousac_error *error) {
    double *full = NULL;
    ousac_status status = ousac_spectral_reserve(&full, order, order, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < order; i++)
        for (size_t j = 0; j <= i; j++)
            full[i * order + j] = full[j * order + i] = packed[i * (i + 1) / 2 + j];
    status = ousac_spectral_place(vectors, backend, order, order, full, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_decompose(backend, order, *vectors, values, error);
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
    status = ousac_spectral_reserve(&values, 1, n, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose_packed(&vectors, values, backend, n, packed, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    root->n = n;
    root->k = ousac_spectral_significant(values, n, n);
    for (size_t i = 0; i < n; i++)
        root->trace += packed[i * (i + 1) / 2 + i];
    status = ousac_spectral_reserve(&root->f, root->k, n, error);
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

static void drop(const ousac_backend *backend, double **block) {
    backend->release(backend, *block);
    *block = NULL;
}

void ousac_factors_free(ousac_factors *factors) {
    if (factors == NULL)
        return;
    ousac_free(factors->lambda);
    ousac_free(factors->a);
    ousac_free(factors->b);
    memset(factors, 0, sizeof *factors);
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
    status = ousac_spectral_reserve(&values, 1, order, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place_weights(&weights, backend, m, n, w, NULL, NULL, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (k == 0) {
        status = ousac_spectral_begin(factors, m, n, values, 0, n, rank_max, error);
        goto done;
    }
    /* G = W F, so that G G^T = W C W^T = K. */
    status = ousac_spectral_place(&f, backend, k, n, root->f, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place(&g, backend, m, k, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, 0, 1, m, k, n, 1.0, weights, n, f, n, 0.0, g, k, error);
    /* Beside the eigenproblem lies no more than it needs: the weights come again for the finish. */
    drop(backend, &f);
    drop(backend, &weights);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place(&gram, backend, order, order, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = k <= m ? backend->gemm64(backend, 1, 0, k, k, m, 1.0, g, k, g, k, 0.0, gram, k, error)
                        : backend->gemm64(backend, 0, 1, m, m, k, 1.0, g, k, g, k, 0.0, gram, m, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_decompose(backend, order, gram, values, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_begin(factors, m, n, values, order, n, rank_max, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (k <=
        m) { /* u_i = G v_i / s_i; finishing divides by the length, which is s_i but better known for small ones */
        status = ousac_spectral_place(&u, backend, factors->rank, m, NULL, error);
        if (status == OUSAC_STATUS_OK)
            status =
                backend->gemm64(backend, 0, 1, factors->rank, m, k, 1.0, gram, k, g, k, 0.0, u, m, error);
        drop(backend, &gram);
    }
    drop(backend, &g);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place_weights(&weights, backend, m, n, w, NULL, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_finish(factors, backend, k <= m ? u : gram, weights, NULL, error);
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
    status = ousac_spectral_reserve(&values, 1, m, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place_weights(&weights, backend, m, n, w, NULL, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = decompose_packed(&vectors, values, backend, m, packed, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_begin(factors, m, n, values, m, m, rank_max, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_finish(factors, backend, vectors, weights, NULL, error);
    if (status != OUSAC_STATUS_OK)
        ousac_factors_free(factors);
    backend->release(backend, vectors);
    backend->release(backend, weights);
    ousac_free(values);
    return status;
}
