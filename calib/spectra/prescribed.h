/* Dense matrices with exactly prescribed singular values or eigenvalues, in random bases (calib/spectra/mixing.h):
 * W = U diag(sigma) V^T and C = Q diag(lambda) Q^T. Each costs O(m n log n), needs memory for little more
 * than the result, and is a function of sizes, spectrum and seeds alone: threads share out columns, which do
 * not depend on one another.
 */
#ifndef OUSAC_PRESCRIBED_H
#define OUSAC_PRESCRIBED_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* w (m, n), row-major: singular values sigma (min(m, n)) up to the rounding of its elements to float.
 * `sample` and `sample` + 1 choose the bases. USAGE for a size of 0. */
ousac_status ousac_prescribed_weight(size_t m, size_t n, const double *sigma, uint64_t seed, uint64_t sample,
                                     size_t threads, float *w, ousac_error *error);

/* packed (n (n + 1) / 2), element (i, j <= i) at i (i + 1) / 2 + j: eigenvalues lambda (n). Positive definite
 * where the smallest is above the rounding of the largest. */
ousac_status ousac_prescribed_moment(size_t n, const double *lambda, uint64_t seed, uint64_t sample,
                                     size_t threads, double *packed, ousac_error *error);

/* A law of decay: value i of n is proportional to t^-a (1 - t)^b exp(-c t), t = (i + 1/2) / n. It is linear
 * in a, b and c in the logarithm, so that least squares fit it, and does not change with n: widths share
 * laws. */
typedef struct ousac_decay {
    double a, b, c;
} ousac_decay;

/* values (n), falling where a, b and c are not negative, scaled so that the mean of their `moment`-th power
 * is 1: 1 for eigenvalues, 2 for singular values. */
void ousac_decay_fill(const ousac_decay *decay, size_t n, int moment, double *values);

#ifdef __cplusplus
}
#endif
#endif
