/* How a bundle was made: its metadata "provenance" (formats/BUNDLE.md), its one author and its one reader.
 */
#ifndef OUSAC_PROVENANCE_H
#define OUSAC_PROVENANCE_H

#include "formats/json_build.h"
#include "formats/oca.h"
#include "profile/bundle/factorise.h"
#include "profile/bundle/plan.h"
#include "profile/record/profile.h"
#include "profile/record/ranges.h"

#include <stddef.h>
#include <stdint.h>

/* The members. `behind`: samples behind the step weights ("pilot"), and behind the gates ("placement") or the whole
 * schedule ("search") where that was decided here. `budget` says what the plans were chosen within, where that is not plain multiply-accumulates; else
 * NULL. */
void ousac_provenance_put(ousac_json_doc *doc, const ousac_profile *profile, const ousac_used_ranges *behind,
                          ousac_method factors, const ousac_plan *const *plans, size_t plan_count,
                          const char *budget);

typedef struct ousac_provenance {
    int known; /* 0: the bundle does not say */
    uint64_t seed;
    int of_weights; /* 1: the factors are of the weights, as published, and not of the deltas */
    ousac_used_ranges used;
} ousac_provenance;

/* FORMAT where the file, called `name`, says something else than a provenance. */
ousac_status ousac_provenance_of(ousac_provenance *provenance, const oca_file *file, const char *name,
                                 ousac_error *error);
ousac_status ousac_provenance_read(const char *path, ousac_provenance *provenance, ousac_error *error);

#endif
