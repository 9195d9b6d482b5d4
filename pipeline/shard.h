/* Parts of a range of samples: contiguous, of whole micro-batches, as equal as these allow.
 */
#ifndef OUSAC_SHARD_H
#define OUSAC_SHARD_H

#include "tools/cli/cli.h"

#include <stddef.h>

/* Part `index` (from 0) of `parts` of the B micro-batches of `range`: those from floor(index B / parts) on,
 * up to the next part's. Count 0 where there are more parts than micro-batches and this one gets none. */
cli_range shard_of(const cli_range *range, size_t micro_batch, size_t index, size_t parts);

/* "K/N", K from 1 to N: `range` becomes that part. USAGE, also for a part that would be empty. */
ousac_status shard_parse(const char *text, cli_range *range, size_t micro_batch, ousac_error *error);

#endif
