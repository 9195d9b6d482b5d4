/* The bundle: what ships. Factors of every site, nested by rank, plans that choose prefixes of them, the
 * schedule they were made for and the identity of the model. File form (.oca): formats/BUNDLE.md.
 */
#ifndef OUSAC_BUNDLE_H
#define OUSAC_BUNDLE_H

#include "formats/dtype.h"
#include "formats/oca_write.h"
#include "formats/schedule.h"
#include "profile/bundle/factorise.h"
#include "profile/bundle/plan.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"
#include "profile/run/calibration.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_bundle_options {
    ousac_dtype dtype; /* of the stored factors: F32, BF16, F16 or I8 */
    int choose; /* 1: instead the cheapest that adds little (profile/bundle/storage.h), factor by factor */
    ousac_oca_codec codec;  /* of the stored factors */
    int keep_all;           /* 1: store every direction of `set`; 0: only what the largest plan needs */
    const char *provenance; /* JSON of how it was made, metadata "provenance"; may be NULL */
    /* NULL, or looks at the whole file under its temporary name and may refuse it before it replaces an older
     * one */
    ousac_status (*check)(void *self, const char *path, ousac_error *error);
    void *check_self;
    int force; /* 1: profile and plans may name another model digest (the shapes must fit all the same) */
} ousac_bundle_options;

/* Writes the file. Every plan is checked against the sites and the factors held: MISMATCH, naming plan and
 * site, for a rank beyond them. No plans at all need keep_all. */
ousac_status ousac_bundle_save(const char *path, const ousac_model *model, const ousac_profile *profile,
                               const ousac_factor_set *set, const ousac_plan *const *plans, size_t plan_count,
                               const ousac_bundle_options *options, ousac_error *error);

/* The same without a set: makes the factors by `factors` (whose rank_max is not looked at: what is needed is
 * made) and writes them as they come, through a nameless file beside `path`. The file is the one that
 * ousac_bundle_save writes of a set of those ranks. The model may be loaded for its factors alone, the
 * profile opened instead of loaded. */
ousac_status ousac_bundle_stream(const char *path, const ousac_model *model, const ousac_profile *profile,
                                 const ousac_factorise_options *factors, const ousac_plan *const *plans,
                                 size_t plan_count, const ousac_bundle_options *options, ousac_error *error);

/* A bundle opened for use: factors stay in the file until they are read. */
typedef struct ousac_bundle ousac_bundle;

/* Errors: IO; FORMAT naming the file and what is wrong in it. Every checksum of what is read is verified. */
ousac_status ousac_bundle_open(ousac_bundle **bundle, const char *path, ousac_error *error);
void ousac_bundle_close(ousac_bundle *bundle);

const ousac_schedule *ousac_bundle_schedule(const ousac_bundle *bundle);
const char *ousac_bundle_model_digest(const ousac_bundle *bundle);
const ousac_arch *ousac_bundle_arch(const ousac_bundle *bundle);
size_t ousac_bundle_plan_count(const ousac_bundle *bundle);
/* By index; plans are sorted by name. */
const ousac_plan *ousac_bundle_plan(const ousac_bundle *bundle, size_t index);
/* NULL where there is none of that name; name NULL: the plan named "default", or the only one. */
const ousac_plan *ousac_bundle_find_plan(const ousac_bundle *bundle, const char *name);

/* MISMATCH where the bundle was not made for this model: other noise levels, prediction or guided channels, or
 * another digest. The same weights in another dtype are accepted by the recorded projections, every one within
 * 6 * 2^-8 of the root mean square of its site's weights, which holds for any rounding no coarser than bf16
 * (formats/BUNDLE.md), where the constants of the forward are the same too. `note` (may be NULL) then says so,
 * in one line for people, or that a file of version 1 does not state all of this; else it is "". */
ousac_status ousac_bundle_check_model(const ousac_bundle *bundle, const ousac_model *model,
                                      char note[OUSAC_ERROR_MESSAGE_BYTES], ousac_error *error);
ousac_status ousac_bundle_check_schedule(const ousac_bundle *bundle, const ousac_schedule *schedule,
                                         ousac_error *error);

/* Truncated factors of a plan, ready to run. `arch` must have the bundle's sites and shapes: MISMATCH
 * otherwise. */
ousac_status ousac_bundle_calibration(const ousac_bundle *bundle, const ousac_plan *plan,
                                      const ousac_arch *arch, const ousac_backend *backend,
                                      ousac_calibration **calibration, ousac_error *error);

/* Reads everything and checks every invariant: checksums, shapes, ranks within the factors, spectra falling
 * and finite, schedule digest, factors finite. */
ousac_status ousac_bundle_verify(const ousac_bundle *bundle, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
