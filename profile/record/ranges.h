/* Ranges of samples as JSON, [first, end], and lists of them with what each was used for.
 */
#ifndef OUSAC_RANGES_H
#define OUSAC_RANGES_H

#include "formats/json_build.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

enum { OUSAC_USED_RANGES_MAX = 64 };

/* Ranges of samples and what each was used for: static texts. */
typedef struct ousac_used_ranges {
    size_t count;
    ousac_sample_range range[OUSAC_USED_RANGES_MAX];
    const char *use[OUSAC_USED_RANGES_MAX]; /* "calibration", "pilot", "validation", "placement", "search" */
} ousac_used_ranges;

/* Adds [first, end] to a JSON object under `key`, or to an array. */
void ousac_range_put(ousac_json_doc *doc, cJSON *object, const char *key, uint64_t first, uint64_t count);

/* 1, and the range, where `item` is one, of at least one sample. */
int ousac_range_take(const cJSON *item, ousac_sample_range *range);

/* Adds the range that `item` is; 0 where it is none or the list is full. One that is there already under the same use
 * is not added again. */
int ousac_used_ranges_take(ousac_used_ranges *ranges, const cJSON *item, const char *use);

#endif
