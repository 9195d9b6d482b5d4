/* The leading directions of a site's delta moment without a full eigenproblem: randomised subspace iteration
 * (Halko, Martinsson, Tropp, arXiv 0909.4061, algorithms 4.4 and 5.3) with a bound on what it missed.
 *
 * The factors and their meaning are those of factors.h. What differs is the spectrum: lambda[i] is
 * u_i^T K u_i for the directions held, so that error(r) = trace(K) - the first r of them is exact for these
 * factors at every rank r that they hold, and the entries beyond are equal: their sum is exact, their
 * distribution is not known.
 *
 * Solver measured for order 1152, rank 256, one core, milliseconds of processor time: dsyevd 257, dsyevr for
 * the 256 largest 251, the reduction to tridiagonal form alone (common to both, and to dsyevx) 106; so no
 * direct solver gains from the smaller number. Two sweeps over a block of 336 vectors and the look at what
 * they found are six products of 1152 x 1152 x 336 in float32, 40 together.
 */
#ifndef OUSAC_LEADING_H
#define OUSAC_LEADING_H

#include "calib/arch.h"
#include "calib/backend/backend.h"
#include "calib/spectra/factors.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The bound on the error that better directions would save, as a share of the error at the rank held. */
#define OUSAC_LEADING_EXCESS 0.01

/* Whether `rank` directions of a moment of this order are few enough for the iteration to pay. */
int ousac_leading_pays(size_t order, size_t rank);

/* Factors of exactly `rank` directions: `packed` as in factors.h, of order n (input side) or m (output side).
 * *done = 0, with nothing allocated, where ousac_leading_pays says no, the moment is singular to rounding, or
 * the bound is not met: the full solver then decides. NUMBER where moment or weights are not finite. The same
 * input gives the same factors. */
ousac_status ousac_leading_create(ousac_factors *factors, const ousac_backend *backend, ousac_side side,
                                  size_t m, size_t n, const double *packed, const float *w, size_t rank,
                                  int *done, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
