/* Parts of a range of samples: contiguous, of whole micro-batches, as equal as these allow.
 */
#ifndef OUSAC_SHARD_H
#define OUSAC_SHARD_H

#include "formats/status.h"
#include "profile/record/profile.h"

#include <stddef.h>

/* Part `index` (from 0) of `parts` of the B micro-batches of `range`: those from floor(index B / parts) on,
 * up to the next part's. Count 0 where there are more parts than micro-batches and this one gets none. */
ousac_sample_range ousac_shard_of(const ousac_sample_range *range, size_t micro_batch, size_t index,
                                  size_t parts);

/* "K/N", K from 1 to N: `range` becomes that part. USAGE, also for a part that would be empty. */
ousac_status ousac_shard_parse(const char *text, ousac_sample_range *range, size_t micro_batch,
                               ousac_error *error);

/* 1 where the range shares a sample with [first, first + count). */
int ousac_range_overlaps(const ousac_sample_range *range, uint64_t first, uint64_t count);

/* USAGE, naming `field`, where the range is empty or does not begin at a multiple of the micro-batch. */
ousac_status ousac_range_check(const char *field, const ousac_sample_range *range, size_t micro_batch,
                               ousac_error *error);

#endif
