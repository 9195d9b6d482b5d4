#include "pipeline/shard.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 1 << 20 };

static uint64_t batches_of(const ousac_sample_range *range, size_t micro_batch) {
    return range->count == 0 ? 0 : (range->count - 1) / micro_batch + 1;
}

/* floor(index * batches / parts) without the product, which may not fit. */
static uint64_t share(uint64_t batches, uint64_t index, uint64_t parts) {
    return batches / parts * index + batches % parts * index / parts;
}

ousac_sample_range ousac_shard_of(const ousac_sample_range *range, size_t micro_batch, size_t index,
                                  size_t parts) {
    const uint64_t batches = batches_of(range, micro_batch);
    const uint64_t first = share(batches, index, parts), end = share(batches, index + 1, parts);
    if (first == end)
        return (ousac_sample_range){range->first, 0};
    const uint64_t offset = first * micro_batch;
    return (ousac_sample_range){range->first + offset,
                                end == batches ? range->count - offset : (end - first) * micro_batch};
}

/* Digits up to `stop`; 0 for none or too large a number. */
static size_t take(const char **text, char stop) {
    char *end = NULL;
    if (**text < '0' || **text > '9')
        return 0;
    const unsigned long long number = strtoull(*text, &end, 10);
    if (*end != stop || number > PARTS_MAX)
        return 0;
    *text = end + (stop != '\0');
    return (size_t)number;
}

ousac_status ousac_shard_parse(const char *text, ousac_sample_range *range, size_t micro_batch,
                               ousac_error *error) {
    const uint64_t batches = batches_of(range, micro_batch);
    const char *at = text;
    const size_t index = take(&at, '/'), parts = index ? take(&at, '\0') : 0;
    if (index == 0 || index > parts)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`shard` expects K/N with K from 1 to N, and N at most %d, not '%s'", PARTS_MAX,
                          text);
    if (parts > batches)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`shard` %s: samples %" PRIu64 ":%" PRIu64 " have %" PRIu64
                          " micro-batches of %zu; expected at most as many shards",
                          text, range->first, range->first + range->count, batches, micro_batch);
    *range = ousac_shard_of(range, micro_batch, index - 1, parts);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_range_check(const char *field, const ousac_sample_range *range, size_t micro_batch,
                               ousac_error *error) {
    if (range->count == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`%s`: expected at least one sample", field);
    if (range->first % micro_batch != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`%s`: begins at sample %" PRIu64 ", expected a multiple of the micro-batch, %zu",
                          field, range->first, micro_batch);
    return OUSAC_STATUS_OK;
}

int ousac_range_overlaps(const ousac_sample_range *range, uint64_t first, uint64_t count) {
    if (range->count == 0 || count == 0)
        return 0;
    return range->first < first ? first - range->first < range->count : range->first - first < count;
}
