/* A plan's fields as metadata and its ranks as a tensor, as plan files and bundles share them
 * (formats/PLAN.md).
 */
#ifndef OUSAC_PLAN_FILE_H
#define OUSAC_PLAN_FILE_H

#include "profile/bundle/plan.h"
#include "profile/files/archive.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Letters, digits, '-', '_' and '.', at least one: names are parts of keys, tensor names and command lines.
 */
int ousac_plan_name_is_valid(const char *name);

/* Every field but the name, under the key PREFIX "method" and so on, the ranks as the tensor `ranks` and the
 * forecast, where there is one, as the tensor `forecast`. */
ousac_status ousac_plan_put(ousac_oca_writer *writer, const ousac_plan *plan, const char *prefix,
                            const char *ranks, const char *forecast, ousac_error *error);
/* The reverse, into a plan whose site_count and sites are set. FORMAT. */
ousac_status ousac_plan_take(const ousac_archive *archive, ousac_plan *plan, const char *prefix,
                             const char *ranks, const char *forecast, ousac_error *error);

/* A plan with room for `sites` sites, zeroed. */
ousac_status ousac_plan_allocate(ousac_plan **plan, size_t sites, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
