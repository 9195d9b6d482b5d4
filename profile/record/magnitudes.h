/* Channel magnitudes along a run, one thread's: what the published channel-aware factors are scaled by (arXiv
 * 2505.05829).
 *
 * At every evaluation of a sample: the mean over tokens of |x| and |y| of every channel, and of |x - x'| and
 * |y - y'|, the change since the branch's evaluation before. Each is min-max normalised over the channels, v
 * becoming (v - min + 1e-6) / (max - min + 1e-6), so that no step decides alone; sites that share an input
 * count as one layer in this, as in a fused qkv. Then averaged over the sample's evaluations, and summed over
 * samples.
 */
#ifndef OUSAC_MAGNITUDES_H
#define OUSAC_MAGNITUDES_H

#include "calib/backend/backend.h"
#include "profile/record/profile.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_magnitudes ousac_magnitudes;

/* For evaluations of at most `batch` samples under the profile's schedule; the profile (borrowed) holds
 * magnitudes. */
ousac_status ousac_magnitudes_create(ousac_magnitudes **magnitudes, const ousac_profile *profile,
                                     const ousac_backend *backend, size_t batch, ousac_error *error);
void ousac_magnitudes_free(ousac_magnitudes *magnitudes);

/* A group of the evaluation under way: x (rows, n), y (rows, sum of m), whole samples, backend memory. */
ousac_status ousac_magnitudes_see(ousac_magnitudes *magnitudes, int branch, size_t group, size_t rows,
                                  const float *x, size_t ldx, const float *y, size_t ldy, ousac_error *error);
/* The evaluation of the branch is complete. */
void ousac_magnitudes_end(ousac_magnitudes *magnitudes, int branch);

/* Adds what was seen to the profile's sums and clears it; the next trajectory begins. */
void ousac_magnitudes_collect(ousac_magnitudes *magnitudes, ousac_profile *profile);

#ifdef __cplusplus
}
#endif
#endif
