/* Spectra of calibrated truncation and the factors that reach them.
 *
 * For a site W (m, n) with delta moment C = E[dx dx^T] (input side) or D = E[dy dy^T] (output side), the best
 * M of rank r in E || (W - M) dx ||^2 is U_r U_r^T W, where K = W C W^T = D has eigenpairs (lambda_i, u_i),
 * falling:
 *
 *     A = U_r (m, r),   B = U_r^T W (r, n),   error(r) = sum_{i > r} lambda_i
 *
 * (reduced-rank regression; Eckart-Young on W C^(1/2)). Both A and B are kept with r as the leading
 * dimension, so that a smaller rank is a prefix of both arrays. Output side: one eigenproblem of size m.
 * Input side: C = F F^T with F = E diag(sqrt(mu)) from the eigenpairs (mu, E) of C, then the eigenpairs
 * (s_i^2, v_i) of F^T W^T W F and u_i = W F v_i / s_i. Directions with mu_i <= n eps mu_1 or s_i^2 <= n eps
 * s_1^2 (eps = 2^-52) are dropped, which makes both sides safe for singular moments; a dropped direction has
 * lambda = 0 and no factor.
 */
#ifndef OUSAC_FACTORS_H
#define OUSAC_FACTORS_H

#include "calib/backend/backend.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The square root F (n, k) of an input-side moment, shared by the sites of a group. */
typedef struct ousac_root {
    size_t n, k;  /* k <= n: numerical rank of the moment; 0 for a zero moment */
    double *f;    /* (k, n), rows sqrt(mu_i) e_i: F^T */
    double trace; /* of the moment */
} ousac_root;

/* `packed`: lower triangle, n (n + 1) / 2 doubles, element (i, j <= i) at i (i + 1) / 2 + j. NUMBER where it
 * is not finite or clearly not positive semidefinite (an eigenvalue below -1e-6 of the largest). */
ousac_status ousac_root_create(ousac_root *root, const ousac_backend *backend, size_t n, const double *packed,
                               ousac_error *error);
void ousac_root_free(ousac_root *root);

typedef struct ousac_factors {
    size_t m, n;
    size_t rank;         /* directions held in a and b; may be below the rank asked for: see `directions` */
    size_t directions;   /* non-zero entries of `lambda` */
    size_t lambda_count; /* min(m, n) */
    double *lambda;      /* (lambda_count), falling, >= 0; error(r) = sum of lambda[r..] */
    float *a;            /* (rank, m): row i is u_i */
    float *b;            /* (rank, n): row i is u_i^T W */
} ousac_factors;

/* Factors of up to `rank_max` directions. w (m, n) row-major, host memory. Zero moments give rank 0.
 * The largest component of every u_i is positive. */
ousac_status ousac_factors_create_input(ousac_factors *factors, const ousac_backend *backend,
                                        const ousac_root *root, size_t m, const float *w, size_t rank_max,
                                        ousac_error *error);
/* `packed` (m (m + 1) / 2): the output-side moment D. */
ousac_status ousac_factors_create_output(ousac_factors *factors, const ousac_backend *backend, size_t m,
                                         size_t n, const double *packed, const float *w, size_t rank_max,
                                         ousac_error *error);
void ousac_factors_free(ousac_factors *factors);

/* error(rank) = sum of lambda[rank..lambda_count), summed from the smallest. */
double ousac_spectrum_tail(const double *lambda, size_t count, size_t rank);

#ifdef __cplusplus
}
#endif
#endif
