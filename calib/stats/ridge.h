/* Least squares with a penalty: minimise |A t - b|^2 + sum_j penalty_j t_j^2 by its normal equations, in
 * double. Small: as many unknowns as a schedule has numbers.
 */
#ifndef OUSAC_RIDGE_H
#define OUSAC_RIDGE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* gram (n, n) = A^T A, of which the lower triangle is read; right (n) = A^T b; penalty (n), not negative;
 * t (n). An unknown whose column is zero is 0. NUMBER where something is not finite or the penalty leaves the
 * equations singular. */
ousac_status ousac_ridge_solve(size_t n, const double *gram, const double *right, const double *penalty,
                               double *t, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
