/* The sums of a recording on a device, which stay there from micro-batch to micro-batch: to take all moments to the host
 * and back for each costs more than many forwards. The profile has them once they are fetched, all or none: moments, scalars
 * and ranges. So that a device that is lost takes little with it, they are fetched as often as takes a tenth of the time.
 *
 * They begin with what the profile holds, and micro-batches are added one by one: the sums are those of adding each to
 * the profile, to the bit.
 */
#ifndef OUSAC_DEVICE_SUMS_H
#define OUSAC_DEVICE_SUMS_H

#include "profile/record/profile.h"
#include "profile/record/witness.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_device_sums ousac_device_sums;

/* For a profile with moments (borrowed), which nobody else changes meanwhile. NULL where memory is short, of the device
 * or of the host. */
ousac_device_sums *ousac_device_sums_create(ousac_profile *profile, const ousac_backend *backend);
void ousac_device_sums_free(ousac_device_sums *sums);

/* Adds what a witness has seen of a micro-batch, and fetches all when it is time. One call at a time. */
ousac_status ousac_device_sums_collect(ousac_device_sums *sums, ousac_witness *witness, uint64_t first,
                                       size_t count, ousac_error *error);

/* Brings the profile up to date. Where that fails *whole is 1 while the profile is as it was when this succeeded last, or at
 * the beginning, and 0 where it is neither. */
ousac_status ousac_device_sums_fetch(ousac_device_sums *sums, int *whole, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
