/* Fitting the residual forecast: per step, branch and group the coefficient s that least squares asks for,
 *
 *     s = sum <P dy, P dy_c> / sum || P dy_c ||^2,    dy = y - y_c,  dy_c = y_c - y_cc,
 *
 * over samples and tokens, where P keeps what the calibration's factors do not express, P dy = dy - A B dx
 * (all of it without a calibration). A second streamed pass along the exact trajectory.
 */
#ifndef OUSAC_FORECAST_FIT_H
#define OUSAC_FORECAST_FIT_H

#include "profile/model/model.h"
#include "profile/run/calibration.h"
#include "profile/run/runner.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_forecast_fit ousac_forecast_fit;

/* `calibration` may be NULL; all pointers are borrowed. Room for `workers` threads and micro-batches of
 * `batch`. */
ousac_status ousac_forecast_fit_create(ousac_forecast_fit **fit, const ousac_model *model,
                                       const ousac_schedule *schedule, const ousac_calibration *calibration,
                                       size_t workers, size_t batch, ousac_error *error);
void ousac_forecast_fit_free(ousac_forecast_fit *fit);

/* The observers to put into an exact ousac_run of the schedule. */
const ousac_run_observers *ousac_forecast_fit_observers(ousac_forecast_fit *fit);

/* The sums behind the coefficients, *count values: those of runs over disjoint samples add up. */
double *ousac_forecast_fit_sums(ousac_forecast_fit *fit, size_t *count);

/* The coefficients of what was seen: 0 where the branch had had only one full evaluation, and where the
 * forecast takes less than `least_gain` (a fraction, for instance 0.02) off the squared residual. */
ousac_status ousac_forecast_fit_solve(const ousac_forecast_fit *fit, double least_gain,
                                      ousac_forecast **forecast, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
