/* From a profile and its model to spectra and factors of every site.
 */
#ifndef OUSAC_FACTORISE_H
#define OUSAC_FACTORISE_H

#include "calib/spectra/factors.h"
#include "formats/stop.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"
#include "profile/run/calibration.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the factors of a set are made of. */
typedef enum ousac_method {
    OUSAC_METHOD_DELTA_COV = 0, /* the profile's delta moments (calib/spectra/factors.h) */
    OUSAC_METHOD_SVD = 1,       /* the weights alone (calib/spectra/scaled_svd.h), as those that follow */
    OUSAC_METHOD_CA_SVD = 2,    /* the weights, scaled by the profile's magnitudes |x| and |y| */
    OUSAC_METHOD_CD_SVD = 3,    /* the weights, scaled by those of the adjacent differences */
    OUSAC_METHOD_COUNT = 4
} ousac_method;

const char *ousac_method_name(ousac_method method); /* "delta-cov", "svd", "ca-svd", "cd-svd" */
/* The reverse; returns 0, or -1 for an unknown name. */
int ousac_method_parse(ousac_method *method, const char *name);

typedef struct ousac_factor_set {
    ousac_method method;
    size_t site_count;
    ousac_factors *site; /* (site_count) */
} ousac_factor_set;

/* Factors of every site by the method (delta-cov: from the profile's moments, segments added up), at most
 * rank_max[site] directions each; rank_max NULL: the site's dense rank less 1, beyond which the exact product
 * is cheaper. Groups are spread over `threads`; results do not depend on it. MISMATCH where the profile is of
 * another model (unless `force`) or does not hold the moments or magnitudes that the method needs. `progress`
 * and `stop` as in ousac_run, counting groups. */
typedef struct ousac_factorise_options {
    ousac_method method;
    const size_t *rank_max;
    const unsigned char *groups; /* (group_count): 1 for those wanted, the others' sites get no factors; NULL:
                                    all of them */
    int whole_spectra; /* 1: by the full solver also where few directions are wanted, so that every eigenvalue
                          is known and the factors are those of any larger rank, cut */
    size_t threads;
    int force;
    void (*progress)(void *self, uint64_t done, uint64_t total);
    void *progress_self;
    const ousac_stop *stop;
} ousac_factorise_options;

/* Takes the factors of a site. Called once for each site, from any of the threads, several at once, in no
 * order that could be relied on. What the sink leaves in `factors` is freed after it. */
typedef ousac_status (*ousac_factor_sink)(void *self, size_t site, ousac_factors *factors,
                                          ousac_error *error);

/* Makes the factors group by group and hands them over, so that no more of them is in memory than the threads
 * are working on. The model may be loaded for its factors alone, the profile opened instead of loaded. */
ousac_status ousac_factorise_each(const ousac_model *model, const ousac_profile *profile,
                                  const ousac_factorise_options *options, ousac_factor_sink sink, void *self,
                                  ousac_error *error);

ousac_status ousac_factor_set_create(ousac_factor_set **set, const ousac_model *model,
                                     const ousac_profile *profile, const ousac_factorise_options *options,
                                     ousac_error *error);
void ousac_factor_set_free(ousac_factor_set *set);

/* Shares the groups out over `parts` so that the work is as even as the largest groups allow: owner
 * (group_count) receives 0 .. parts - 1. A function of its arguments alone. */
ousac_status ousac_factorise_share(const ousac_arch *arch, ousac_method method, size_t parts, size_t *owner,
                                   ousac_error *error);

/* An ousac_factor_source; self is the set. MISMATCH for a rank beyond the directions held. */
ousac_status ousac_factor_set_source(void *self, size_t site, size_t rank, float *a, float *b,
                                     ousac_error *error);

/* Lowers each rank that exceeds what the spectrum of its site holds (the rest is exactly zero) to that
 * number. Ranks at or above the dense rank stay. */
void ousac_factor_set_clip(const ousac_factor_set *set, const ousac_arch *arch, size_t *rank);

#ifdef __cplusplus
}
#endif
#endif
