/* A forecast carried over to another schedule.
 *
 * A fitted coefficient s is the product of two things: how far the evaluation lies along the line through the
 * branch's last two full evaluations, measured in timesteps,
 *
 *     p = (t_c - t) / (t_cc - t_c),
 *
 * which is the schedule's own, and how much of that way the residual really goes, a = s / p, which belongs to
 * the model at that timestep. The map keeps a: at a cached evaluation of the other schedule it is
 * interpolated in t between the nearest evaluations of the same branch for which it is known, held constant
 * beyond the first and the last of them, and multiplied by that evaluation's own p.
 */
#ifndef OUSAC_FORECAST_MAP_H
#define OUSAC_FORECAST_MAP_H

#include "formats/schedule.h"
#include "profile/run/calibration.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `forecast` was fitted under `from`; *mapped is for `to`: 0 at its full evaluations, where the branch has
 * had only one, and for a branch of which `from` knows nothing. The same schedule gives the same
 * coefficients, to rounding. MISMATCH where the forecast has other steps than `from`; USAGE where a schedule
 * leaves gates to a plan; MEMORY. */
ousac_status ousac_forecast_map(const ousac_forecast *forecast, const ousac_schedule *from,
                                const ousac_schedule *to, ousac_forecast **mapped, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
