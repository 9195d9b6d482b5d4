/* A calibration in use: for each site the rank of a plan and the factors truncated to it, laid out for the
 * executor.
 */
#ifndef OUSAC_CALIBRATION_H
#define OUSAC_CALIBRATION_H

#include "calib/arch.h"
#include "calib/backend/backend.h"
#include "calib/cost.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The residual forecast: where a corrected site's input and output are extrapolated from the branch's last
 * two full evaluations, by s of their distance, before the correction is added:
 *
 *     y = y_c + s (y_c - y_cc) + A B (x - x_c - s (x_c - x_cc))
 *
 * coefficient[(step * OUSAC_BRANCHES + branch) * group_count + group] is s; it counts as 0 where the branch
 * has had only one full evaluation. */
typedef struct ousac_forecast {
    size_t step_count, group_count;
    float *coefficient; /* owned, host memory */
} ousac_forecast;

ousac_status ousac_forecast_create(ousac_forecast **forecast, size_t step_count, size_t group_count,
                                   ousac_error *error);
ousac_status ousac_forecast_copy(ousac_forecast **copy, const ousac_forecast *forecast, ousac_error *error);
void ousac_forecast_free(ousac_forecast *forecast);
float ousac_forecast_at(const ousac_forecast *forecast, size_t step, int branch, size_t group);

typedef struct ousac_calibration {
    size_t site_count, group_count;
    size_t *rank; /* (site_count), as planned */
    int dense_fallback;
    ousac_forecast *forecast; /* owned; NULL for none */
    ousac_path *path;         /* (site_count), by the cost model */
    int *live;                /* (module_count) */
    const float **a;          /* per site (rank, m), backend memory; NULL where the path is not LOW_RANK */
    const float **b;          /* per group, the B of its LOW_RANK sites one after another: (group_rank, n) */
    size_t *group_rank;       /* (group_count) */
    size_t rank_max;          /* largest group_rank */
    float *storage;           /* backend memory behind a and b */
    const ousac_backend *backend;
} ousac_calibration;

/* Fetches the first `rank` rows of a site's factors: A (rank, m) and B (rank, n), host memory. */
typedef ousac_status (*ousac_factor_source)(void *self, size_t site, size_t rank, float *a, float *b,
                                            ousac_error *error);

/* `forecast` NULL for none, else copied; it must be given where ranks->forecast is set and only there
 * (USAGE). Errors: MISMATCH or FORMAT of the source (a rank beyond the factors held), MEMORY. */
ousac_status ousac_calibration_create(ousac_calibration **calibration, const ousac_backend *backend,
                                      const ousac_arch *arch, const ousac_ranks *ranks,
                                      ousac_factor_source source, void *source_self,
                                      const ousac_forecast *forecast, ousac_error *error);
void ousac_calibration_free(ousac_calibration *calibration);

/* Sets one site's A to zero, so that its correction vanishes: an ablation. USAGE where the site has none. */
ousac_status ousac_calibration_zero_site(ousac_calibration *calibration, const ousac_arch *arch, size_t site,
                                         ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
