/* How far factors from a finite number of samples are from the best ones, estimated from the samples alone.
 *
 * Factors of rank r from n samples leave, of the deltas they were not made of, more than the best of that
 * rank would: by a fraction x(n), the excess, that falls as c / n. Two halves of the samples measure it: the
 * directions of half A leave on the moment of half B
 *
 *     tr(K_B) - sum over the r directions u of A of u^T K_B u = (1 + e_AB) tail_B(r),
 *
 * tail_B(r) being what half B's own best r directions leave. A's directions are off by c / (n / 2), and B's
 * own tail looks smaller than it is by as much again, since its directions were fitted to it; so e = 4 c / n
 * to first order, and x(n) = e / 4.
 *
 * With the samples dealt in turn into four parts there are three ways to pair these into halves, whose
 * differences are orthogonal contrasts: three estimates of x(n), independent to first order, each of all
 * samples (balanced half-samples; McCarthy 1969). Their mean is reported, with the upper end of its one-sided
 * 95 % interval by Student's t with two degrees of freedom.
 *
 * No formula here knows what the moments are of. Internal products are in float64.
 */
#ifndef OUSAC_CONVERGENCE_H
#define OUSAC_CONVERGENCE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_CONVERGENCE_PARTS = 4, OUSAC_CONVERGENCE_SPLITS = 3 };

/* Whether part 0..3 belongs to the first half of split 0..2: {0, 1}, {0, 2}, {0, 3}. */
int ousac_convergence_in_half(size_t split, size_t part);

/* sum over i < rank of d_i^T S d_i: `directions` (rank, dim) row-major, S by its packed lower triangle,
 * element (i, j <= i) at i (i + 1) / 2 + j. */
double ousac_convergence_captured(const float *directions, size_t rank, size_t dim, const double *packed);

/* e of one site: `lambda` (count), falling, is the spectrum of half B, and `captured` what the directions of
 * half A hold of it. NAN where what B's own best leaves is below 1e-6 of its total: float32 directions cannot
 * tell, and nothing is left to improve. Rounding below 0 counts as 0. */
double ousac_convergence_excess(const double *lambda, size_t count, size_t rank, double captured);

typedef struct ousac_convergence {
    double excess;     /* x(n), averaged over sites */
    double upper;      /* its one-sided 95 % limit; infinite where no site could be judged */
    double worst;      /* the largest x(n) of a site */
    size_t worst_site; /* its index */
    size_t sites;      /* judged */
} ousac_convergence;

/* From e of every split and site, averaged over the two directions: e[split * sites + site], NAN for a site
 * that cannot be judged. */
void ousac_convergence_estimate(const double *e, size_t sites, ousac_convergence *estimate);

/* How many samples to have next, as c / n would have it: `samples` times upper / tolerance, rounded up to a
 * multiple of `unit`, at least a quarter and at most as many again as there are. upper > tolerance > 0. */
size_t ousac_convergence_next(size_t samples, double upper, double tolerance, size_t unit);

#ifdef __cplusplus
}
#endif
#endif
