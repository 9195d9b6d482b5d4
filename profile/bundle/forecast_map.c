#include "profile/bundle/forecast_map.h"

#include "formats/memory.h"

/* Writes p of every cached evaluation whose branch has had two full ones before it, else 0: (S, branches). */
static ousac_status progress_of(const ousac_schedule *schedule, double **progress, ousac_error *error) {
    const size_t entries = schedule->step_count * OUSAC_BRANCHES;
    ousac_status status = OUSAC_STATUS_OK;
    int *gate = ousac_calloc(entries, sizeof *gate);
    double *made = ousac_calloc(entries, sizeof *made);
    *progress = NULL;
    if (!gate || !made) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to map the forecasts of %zu steps",
                            schedule->step_count);
        goto done;
    }
    status = ousac_schedule_effective_gates(schedule, gate, error);
    if (status)
        goto done;
    for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
        size_t filled = 0;
        double last = 0, before = 0; /* timesteps, where so many are filled */
        for (size_t step = 0; step < schedule->step_count; step++) {
            const size_t at = step * OUSAC_BRANCHES + (size_t)branch;
            const double t = schedule->steps[step].timestep;
            if (gate[at] == OUSAC_GATE_CACHED && filled == 2)
                made[at] = (last - t) / (before - last);
            if (gate[at] == OUSAC_GATE_FULL) {
                before = last;
                last = t;
                filled += filled < 2;
            }
        }
    }
    *progress = made;
    made = NULL;
done:
    ousac_free(made);
    ousac_free(gate);
    return status;
}

/* The steps of `from` between which timestep t of the branch lies, and how far from the first to the second;
 * both the same where it lies beyond them. 0 where the branch has none. */
static int bracket(const ousac_schedule *from, const double *progress, int branch, double t, size_t step[2],
                   double *way) {
    int found = 0;
    step[0] = step[1] = 0;
    *way = 0;
    for (size_t i = 0; i < from->step_count; i++) {
        if (progress[i * OUSAC_BRANCHES + (size_t)branch] == 0)
            continue;
        const double here = from->steps[i].timestep; /* falling */
        if (!found || here >= t) {
            step[0] = step[1] = i;
            found = 1;
            if (here <= t)
                return 1;
        } else {
            const double above = from->steps[step[0]].timestep;
            step[1] = i;
            *way = (above - t) / (above - here);
            return 1;
        }
    }
    return found;
}

ousac_status ousac_forecast_map(const ousac_forecast *forecast, const ousac_schedule *from,
                                const ousac_schedule *to, ousac_forecast **mapped, ousac_error *error) {
    const size_t groups = forecast->group_count;
    double *from_progress = NULL, *to_progress = NULL;
    ousac_forecast *made = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    *mapped = NULL;
    if (forecast->step_count != from->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "a forecast of %zu steps for schedule %s of %zu",
                          forecast->step_count, ousac_schedule_called(from), from->step_count);
    status = progress_of(from, &from_progress, error);
    if (!status)
        status = progress_of(to, &to_progress, error);
    if (!status)
        status = ousac_forecast_create(&made, to->step_count, groups, error);
    if (status)
        goto done;
    for (size_t at = 0; at < to->step_count * OUSAC_BRANCHES; at++) {
        const int branch = (int)(at % OUSAC_BRANCHES);
        size_t step[2];
        double way;
        if (to_progress[at] == 0 ||
            !bracket(from, from_progress, branch, to->steps[at / OUSAC_BRANCHES].timestep, step, &way))
            continue;
        for (size_t g = 0; g < groups; g++) {
            double slope[2];
            for (int i = 0; i < 2; i++)
                slope[i] = (double)ousac_forecast_at(forecast, step[i], branch, g) /
                           from_progress[step[i] * OUSAC_BRANCHES + (size_t)branch];
            made->coefficient[at * groups + g] =
                (float)(to_progress[at] * ((1 - way) * slope[0] + way * slope[1]));
        }
    }
    *mapped = made;
    made = NULL;
done:
    ousac_forecast_free(made);
    ousac_free(to_progress);
    ousac_free(from_progress);
    return status;
}
