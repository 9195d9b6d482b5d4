#include "calib/spectra/scaled_svd.h"

#include "calib/spectra/spectral.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

#define RATIO_MAX 1000.0
#define SCALE_ADDED 1e-6

ousac_status ousac_scaled_svd_weights(size_t count, const double *magnitude, double *scale,
                                      ousac_error *error) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(magnitude[i] >= 0 && isfinite(magnitude[i])))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "the mean magnitude of channel %zu is %g; expected a finite number, 0 or more",
                              i, magnitude[i]);
        largest = fmax(largest, sqrt(magnitude[i]));
    }
    for (size_t i = 0; i < count; i++)
        scale[i] = fmax(sqrt(magnitude[i]), largest / RATIO_MAX) + SCALE_ADDED;
    return OUSAC_STATUS_OK;
}

static ousac_status check_scale(const char *side, size_t count, const double *scale, ousac_error *error) {
    for (size_t i = 0; scale != NULL && i < count; i++)
        if (!(scale[i] > 0 && isfinite(scale[i])))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "the scale of %s channel %zu is %g; expected a finite number above 0", side, i,
                              scale[i]);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_scaled_svd_create(ousac_factors *factors, const ousac_backend *backend, size_t m, size_t n,
                                     const float *w, const double *left, const double *right, size_t rank_max,
                                     ousac_error *error) {
    const int wide = m <= n; /* then S S^T (m, m) has the u_i for eigenvectors, else S^T S (n, n) the v_i */
    const size_t order = wide ? m : n, longer = wide ? n : m;
    double *scaled = NULL, *weights = NULL, *gram = NULL, *u = NULL, *values = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    memset(factors, 0, sizeof *factors);
    if (m == 0 || n == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "site of %zu x %zu: expected at least 1 x 1", m, n);
    status = check_scale("output", m, left, error);
    if (status == OUSAC_STATUS_OK)
        status = check_scale("input", n, right, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_reserve(&values, 1, order, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place_weights(&scaled, backend, m, n, w, left, right, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place(&gram, backend, order, order, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = backend->gemm64(backend, !wide, wide, order, order, longer, 1.0, scaled, n, scaled, n, 0.0,
                                 gram, order, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_decompose(backend, order, gram, values, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_begin(factors, m, n, values, order, longer, rank_max, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    if (!wide) { /* s_i u_i = S v_i */
        status = ousac_spectral_place(&u, backend, factors->rank, m, NULL, error);
        if (status == OUSAC_STATUS_OK)
            status = backend->gemm64(backend, 0, 1, factors->rank, m, n, 1.0, gram, n, scaled, n, 0.0, u, m,
                                     error);
    }
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_place_weights(&weights, backend, m, n, w, left, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = ousac_spectral_finish(factors, backend, wide ? gram : u, weights, left, error);
done:
    if (status != OUSAC_STATUS_OK)
        ousac_factors_free(factors);
    backend->release(backend, u);
    backend->release(backend, gram);
    backend->release(backend, weights);
    backend->release(backend, scaled);
    ousac_free(values);
    return status;
}
