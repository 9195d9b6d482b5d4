/* Packing: factors, plans and their provenance into a bundle that is verified before it gets its name.
 */
#ifndef OUSAC_PACK_H
#define OUSAC_PACK_H

#include "formats/dtype.h"
#include "formats/oca_write.h"
#include "pipeline/session.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/factorise.h"
#include "profile/bundle/provenance.h"

/* How a bundle stores factors. */
typedef struct ousac_pack_storage {
    int choose; /* 1: per layer the cheapest type that adds little to its error; `dtype` is then not looked at */
    ousac_dtype dtype;
    ousac_oca_codec codec;
} ousac_pack_storage;

/* Writes the bundle with its provenance, `behind` and `budget` as in ousac_provenance_put; opened again and verified as a whole before
 * it gets its name. */
ousac_status ousac_pack(const char *path, const ousac_model *model, const ousac_profile *profile,
                        const ousac_used_ranges *behind, const ousac_factor_set *set,
                        const ousac_plan *const *plans, size_t plan_count, const char *budget,
                        const ousac_pack_storage *storage, int keep_all, ousac_error *error);

/* The same without a set: factors by `method` are made and written group by group, with progress. */
ousac_status ousac_pack_stream(const char *path, const ousac_session *session, const ousac_profile *profile,
                               const ousac_used_ranges *behind, ousac_method method,
                               const ousac_plan *const *plans, size_t plan_count,
                               const ousac_pack_storage *storage, int keep_all, ousac_error *error);

#endif
