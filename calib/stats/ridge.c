#include "calib/stats/ridge.h"

#include "formats/memory.h"

#include <math.h>

/* l l^T = a, in place in the lower triangle; -1 where a is not positive definite to double precision. */
static int cholesky(size_t n, double *a) {
    for (size_t j = 0; j < n; j++) {
        double diagonal = a[j * n + j];
        for (size_t k = 0; k < j; k++)
            diagonal -= a[j * n + k] * a[j * n + k];
        if (!(diagonal > 1e-14 * a[j * n + j]) || !isfinite(diagonal))
            return -1;
        a[j * n + j] = sqrt(diagonal);
        for (size_t i = j + 1; i < n; i++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < j; k++)
                sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = sum / a[j * n + j];
        }
    }
    return 0;
}

ousac_status ousac_ridge_solve(size_t n, const double *gram, const double *right, const double *penalty,
                               double *t, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (n == 0)
        return OUSAC_STATUS_OK;
    double *a = ousac_malloc(n * n, sizeof *a);
    if (!a)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu unknowns", n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            a[i * n + j] = gram[i * n + j];
    for (size_t i = 0; i < n; i++) {
        a[i * n + i] += penalty[i];
        if (a[i * n + i] == 0) /* nothing depends on it */
            a[i * n + i] = 1;
    }
    if (cholesky(n, a)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                            "the equations of %zu unknowns are singular or not finite", n);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        double sum = right[i];
        for (size_t k = 0; k < i; k++)
            sum -= a[i * n + k] * t[k];
        t[i] = sum / a[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        double sum = t[i];
        for (size_t k = i + 1; k < n; k++)
            sum -= a[k * n + i] * t[k];
        t[i] = sum / a[i * n + i];
    }
    for (size_t i = 0; i < n; i++)
        if (!isfinite(t[i])) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "unknown %zu of %zu is not finite", i, n);
            goto done;
        }
done:
    ousac_free(a);
    return status;
}
