/* Truncated SVD of a weight whose channels are scaled: the published baselines of increment-calibrated
 * caching (arXiv 2505.05829).
 *
 * With l > 0 per output and p > 0 per input channel, S = diag(l) W diag(p) = sum_i s_i u_i v_i^T. The best M
 * of rank r in || diag(l) (W - M) diag(p) ||_F is diag(1/l) U_r U_r^T diag(l) W; p enters through the u_i
 * alone:
 *
 *     A = diag(1/l) U_r (m, r),   B = U_r^T diag(l) W (r, n)
 *
 *     svd      l = p = 1
 *     ca-svd   l and p from the mean magnitudes |y|, |x| of the channels
 *     cd-svd   the same from those of the differences |dy|, |dx| between adjacent steps
 *
 * The lambda of the factors are the s_i^2, so that error(r) is the squared Frobenius norm above: an error of
 * the scaled weight, not of any activation.
 */
#ifndef OUSAC_SCALED_SVD_H
#define OUSAC_SCALED_SVD_H

#include "calib/backend/backend.h"
#include "calib/spectra/factors.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The scale of each channel from its mean magnitude, as the authors' code has it: the root, at least a
 * thousandth of the largest root, plus 1e-6. NUMBER where a magnitude is negative or not finite. */
ousac_status ousac_scaled_svd_weights(size_t count, const double *magnitude, double *scale,
                                      ousac_error *error);

/* Factors of up to `rank_max` directions. w (m, n) row-major, host memory; left (m) is l and right (n) is p,
 * NULL for ones. Through the smaller Gram matrix of S: directions with s_i^2 <= max(m, n) eps s_1^2 are
 * dropped. The rows of a and b are nested by rank; the largest component (the first of equals) of every u_i,
 * before 1/l, is positive. NUMBER where a weight or scale is not finite, a scale not positive. */
ousac_status ousac_scaled_svd_create(ousac_factors *factors, const ousac_backend *backend, size_t m, size_t n,
                                     const float *w, const double *left, const double *right, size_t rank_max,
                                     ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
