/* Which samples made a file: the pilots that a profile's metadata "run" names, and the metadata "provenance" of a
 * bundle (formats/PROFILE.md, formats/BUNDLE.md).
 */
#ifndef OUSAC_PROVENANCE_H
#define OUSAC_PROVENANCE_H

#include "formats/json_build.h"
#include "profile/bundle/factorise.h"
#include "profile/bundle/plan.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

enum { OUSAC_USED_RANGES_MAX = 64 };

/* Ranges of samples and what each was used for: static texts. */
typedef struct ousac_used_ranges {
    size_t count;
    ousac_sample_range range[OUSAC_USED_RANGES_MAX];
    const char *use[OUSAC_USED_RANGES_MAX]; /* "calibration", "pilot", "validation" */
} ousac_used_ranges;

/* The samples behind the step weights of a saved profile, from what it records of its runs; none where it says
 * nothing. */
ousac_status ousac_provenance_read_pilots(const char *path, ousac_used_ranges *pilots, ousac_error *error);

/* The members of a bundle's provenance. `budget` says what the plans were chosen within, where that is not plain
 * multiply-accumulates; else NULL. */
void ousac_provenance_put(ousac_json_doc *doc, const ousac_profile *profile, const ousac_used_ranges *pilots,
                          ousac_method factors, const ousac_plan *const *plans, size_t plan_count,
                          const char *budget);

typedef struct ousac_provenance {
    int known; /* 0: the bundle does not say */
    uint64_t seed;
    ousac_used_ranges used;
} ousac_provenance;
ousac_status ousac_provenance_read(const char *path, ousac_provenance *provenance, ousac_error *error);

#endif
