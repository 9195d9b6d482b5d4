/* How far one run's samples are from another's. Samples are float32, (count, size), host memory.
 */
#ifndef OUSAC_EVALUATE_H
#define OUSAC_EVALUATE_H

#include "calib/stats/stats.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_difference {
    ousac_interval relative_error; /* root of the mean over samples of ||x - ref||^2 / ||ref||^2 */
    ousac_interval psnr_db;        /* mean over samples of 10 log10(peak^2 / mse), from -120 to 120 */
} ousac_difference;

/* `range` are the least and the largest value that a sample can have: both are clamped to it, and the peak of the
 * PSNR is their distance. NULL, of latents: the peak is that of the reference sample's own values, and nothing is
 * clamped.
 *
 * Per sample: relative2[j] = ||x_j - ref_j||^2 / ||ref_j||^2 and psnr_db[j]; either may be NULL. NUMBER where
 * a reference is all zero or a value is not finite. */
ousac_status ousac_evaluate_samples(const float *x, const float *reference, size_t count, size_t size,
                                    const double *range, double *relative2, double *psnr_db,
                                    ousac_error *error);

ousac_status ousac_evaluate_difference(const float *x, const float *reference, size_t count, size_t size,
                                       const double *range, uint64_t seed, ousac_difference *difference,
                                       ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
