#include "pipeline/budget.h"

#include <math.h>

/* NAN compares false, so that it is refused as well. */
static int within(double value, double low, double high) {
    return value >= low && value <= high;
}

ousac_status ousac_budget_solve(const ousac_arch *arch, const ousac_schedule *schedule,
                                const ousac_budget *budget, uint64_t *macs, double *step,
                                ousac_error *error) {
    const double full = (double)ousac_cost_full(arch), reuse = (double)ousac_cost_reuse(arch);
    ousac_cost_total cost;
    ousac_status status = OUSAC_STATUS_OK;

    if (!isnan(budget->step) && !isnan(budget->total))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of `budget_step` and `budget_total`, not both");
    if (isnan(budget->total)) {
        *step = isnan(budget->step) ? OUSAC_DEFAULT_BUDGET_STEP : budget->step;
        if (!within(*step, reuse / full, 1.0))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "`budget_step` %g: expected from %.6f (reuse alone) to 1 (every product exact)",
                              *step, ceil(1e6 * reuse / full) / 1e6);
    } else {
        status = ousac_cost_trajectory(arch, schedule, NULL, &cost, error);
        if (status)
            return status;
        const double constant = (double)cost.constant_guidance;
        if (cost.forwards_cached == 0)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "`budget_total`: the schedule has no cached evaluation, so no ranks change its cost");
        /* Steps gated reuse cost the same whatever the ranks, so the ceiling can lie below the uncached
         * schedule. */
        const double extrapolated = reuse + (double)ousac_cost_extrapolation(arch);
        const double fixed = (double)cost.forwards_full * full + (double)cost.forwards_reuse * reuse +
                             (double)cost.forwards_extrapolate * extrapolated + (double)cost.constant_groups;
        const double floor_total = (fixed + (double)cost.forwards_cached * reuse) / constant;
        const double ceiling_total = (fixed + (double)cost.forwards_cached * full) / constant;
        if (!within(budget->total, floor_total, ceiling_total))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "`budget_total` %g: under this schedule expected from %.6f (reuse alone) to %.6f "
                "(every product exact)",
                budget->total, ceil(1e6 * floor_total) / 1e6, floor(1e6 * ceiling_total) / 1e6);
        *step = (budget->total * constant - fixed) / (double)cost.forwards_cached / full;
    }
    *macs = (uint64_t)fmin(fmax(*step * full, reuse), full);
    return OUSAC_STATUS_OK;
}

uint64_t ousac_budget_forecast_macs(const ousac_arch *arch) {
    uint64_t macs = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        macs += (uint64_t)ousac_arch_site_tokens(arch, s) * (arch->sites[s].m + arch->sites[s].n);
    return macs;
}
