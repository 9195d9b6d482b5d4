/* Factors and forecasts of a profile, shared over the session's workers, with progress.
 */
#ifndef OUSAC_SESSION_FACTORS_H
#define OUSAC_SESSION_FACTORS_H

#include "pipeline/session.h"
#include "profile/bundle/factorise.h"
#include "profile/record/forecast_fit.h"

#include <stddef.h>

/* Calibration samples that a forecast is fitted on. */
#define OUSAC_DEFAULT_FORECAST_SAMPLES 16
/* A forecast that takes a smaller fraction off the squared residual of a step is left out. */
#define OUSAC_FORECAST_LEAST_GAIN 0.02

ousac_status ousac_session_factors(const ousac_session *session, const ousac_profile *profile,
                                   ousac_method method, ousac_factor_set **set, ousac_error *error);
/* The same, at most rank_max[site] directions of each: spectra alone where those are 0. */
ousac_status ousac_session_factors_within(const ousac_session *session, const ousac_profile *profile,
                                          ousac_method method, const size_t *rank_max, ousac_factor_set **set,
                                          ousac_error *error);
/* In this process alone; `rank_max` as in ousac_factorise_options, `groups` NULL for all, else per group 1 where its
 * factors are wanted. */
ousac_status ousac_session_factors_here(const ousac_session *session, const ousac_profile *profile,
                                        ousac_method method, const size_t *rank_max,
                                        const unsigned char *groups, ousac_factor_set **set,
                                        ousac_error *error);

/* The residual forecast of ranks (per site), fitted along the exact trajectory of `range`. */
ousac_status ousac_session_fit_forecast(const ousac_session *session, const ousac_schedule *schedule,
                                        const ousac_sample_range *range, ousac_factor_set *set,
                                        const size_t *rank, const char *label, ousac_forecast **forecast,
                                        ousac_error *error);

#endif
