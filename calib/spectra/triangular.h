/* Cholesky factors of small matrices in host memory, for the solver of leading directions (calib/spectra/leading.h),
 * which needs them between products that run on a backend. Internal to calib/.
 */
#ifndef OUSAC_TRIANGULAR_H
#define OUSAC_TRIANGULAR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* G (n, n) = L L^T: reads the upper triangle, leaves L in the lower one and L^T in the upper. 0 where G is
 * not positive definite to rounding; its contents are then undefined. */
int ousac_cholesky(size_t n, double *g);
/* inverse (n, n) = L^-1, lower, zeros above; reads the lower triangle of l (n, n) alone. */
void ousac_invert_lower(size_t n, const double *l, double *inverse);

#ifdef __cplusplus
}
#endif
#endif
