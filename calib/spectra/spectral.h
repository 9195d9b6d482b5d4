/* What the makers of factors share, internal to calib/: matrices of doubles on the backend, symmetric
 * eigenproblems, and factors from directions. No mathematics of its own: the formulas are those of factors.h
 * and scaled_svd.h.
 */
#ifndef OUSAC_SPECTRAL_H
#define OUSAC_SPECTRAL_H

#include "calib/backend/backend.h"
#include "calib/spectra/factors.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A (rows, cols) matrix of doubles on the backend, filled from `source` where that is not NULL. */
ousac_status ousac_spectral_place(double **block, const ousac_backend *backend, size_t rows, size_t cols,
                                  const double *source, ousac_error *error);
/* Doubles (rows, cols) of the host for the backend to read: `values` themselves where its memory is the host's,
 * else a copy in `placed`, which the caller releases and which is not touched elsewhere. */
ousac_status ousac_spectral_lend(const ousac_backend *backend, size_t rows, size_t cols, const double *values,
                                 double **placed, const double **lent, ousac_error *error);
/* A matrix in host memory, uninitialised. */
ousac_status ousac_spectral_reserve(double **block, size_t rows, size_t cols, ousac_error *error);
/* diag(left) W diag(right) in float64 on the backend, W (m, n) in host memory; left and right NULL for ones.
 * NUMBER where a weight is not finite. */
ousac_status ousac_spectral_place_weights(double **block, const ousac_backend *backend, size_t m, size_t n,
                                          const float *w, const double *left, const double *right,
                                          ousac_error *error);
/* Eigenpairs of a (order, order) on the backend: vectors stay in its rows, values, falling, come to the host.
 */
ousac_status ousac_spectral_decompose(const ousac_backend *backend, size_t order, double *a, double *values,
                                      ousac_error *error);
/* How many leading values stand above rounding error: values[i] > scale eps values[0], eps = 2^-52. */
size_t ousac_spectral_significant(const double *values, size_t count, size_t scale);

/* Shape, spectrum, rank and zeroed a and b from the first `count` eigenvalues, falling; `scale` sets the
 * rounding floor. What it allocated is released by ousac_factors_free, also where it fails. */
ousac_status ousac_spectral_begin(ousac_factors *factors, size_t m, size_t n, const double *values,
                                  size_t count, size_t scale, size_t rank_max, ousac_error *error);
/* a and b from the directions u (rank, m) on the backend, of any length and sign: with u_i at unit length and
 * its largest component (the first of equals) positive, row i of a is u_i / left and of b u_i^T M, where M
 * (m, n) on the backend is diag(left) W. `left` NULL for ones. NUMBER where a or b leaves float32's range. */
ousac_status ousac_spectral_finish(ousac_factors *factors, const ousac_backend *backend, double *u,
                                   const double *weights, const double *left, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
