/* Budgets: what a cached evaluation, or the whole trajectory, may cost in multiply-accumulates.
 */
#ifndef OUSAC_BUDGET_H
#define OUSAC_BUDGET_H

#include "calib/cost.h"
#include "formats/schedule.h"
#include "formats/status.h"

#include <stdint.h>

#define OUSAC_DEFAULT_BUDGET_STEP 0.25

/* Asked for: one of the two, the other NAN. Both NAN: OUSAC_DEFAULT_BUDGET_STEP. */
typedef struct ousac_budget {
    double step;  /* MACs of a cached evaluation over a full one */
    double total; /* MACs of the trajectory over the constant-guidance, uncached one */
} ousac_budget;

/* The budget in MACs of one cached forward, and as a fraction of a full one. USAGE where both are given, where the
 * schedule has no cached evaluation, or where the budget lies outside what ranks can reach: floor and ceiling are
 * named. */
ousac_status ousac_budget_solve(const ousac_arch *arch, const ousac_schedule *schedule,
                                const ousac_budget *budget, uint64_t *macs, double *step, ousac_error *error);

/* MACs that a forecast adds to a cached evaluation in which every site is corrected. */
uint64_t ousac_budget_forecast_macs(const ousac_arch *arch);

#endif
