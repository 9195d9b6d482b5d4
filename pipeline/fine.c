#include "pipeline/fine.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/place.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* 1 where the last timestep stands about as far from the end of the noise as from the one before it: the way from
 * there to the end is then a gap like the others. */
static int room_behind(const ousac_schedule *reference) {
    const size_t steps = reference->step_count;
    const double last = reference->steps[steps - 1].timestep;
    return steps == 1 || (last > 0 && 2 * last >= reference->steps[steps - 2].timestep - last);
}

size_t ousac_fine_steps(const ousac_schedule *reference, size_t times) {
    const size_t steps = reference->step_count;
    return room_behind(reference) ? times * steps : times * (steps - 1) + 1;
}

ousac_status ousac_fine_schedule(ousac_schedule *fine, const ousac_schedule *reference, size_t steps,
                                 ousac_error *error) {
    const size_t from = reference->step_count;
    const int behind = room_behind(reference);
    memset(fine, 0, sizeof *fine);
    if (steps <= from || steps > OUSAC_SCHEDULE_STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`fine` %zu: expected more steps than the reference's %zu, and at most %d", steps,
                          from, OUSAC_SCHEDULE_STEPS_MAX);
    fine->steps = ousac_malloc(steps, sizeof *fine->steps);
    if (!fine->steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu steps", steps);
    (void)snprintf(fine->name, sizeof fine->name, "%.100s, %zu steps", reference->name, steps);
    fine->solver = reference->solver;
    fine->step_count = steps;
    for (size_t i = 0; i < steps; i++) {
        /* in the reference's steps; whole where both coincide */
        const size_t gaps = behind ? from : from - 1, over = behind ? steps : steps - 1;
        const size_t whole = i * gaps / over < from ? i * gaps / over : from - 1;
        const double part = (double)(i * gaps - whole * over) / (double)over;
        const double here = reference->steps[whole].timestep;
        const double next = whole + 1 < from ? reference->steps[whole + 1].timestep : 0;
        fine->steps[i] = reference->steps[whole];
        fine->steps[i].timestep = here + part * (next - here);
    }
    ousac_place_evenly(fine, 1);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_fine_run(ousac_fine *fine, const ousac_session *session, const ousac_schedule *reference,
                            size_t steps, const ousac_sample_range *range, ousac_error *error) {
    const size_t size = ousac_model_sample_size(session->model);
    const ousac_arch *arch = &session->model->arch;
    ousac_schedule schedule = {0}, whole = {0};
    ousac_cost_total of_fine, of_reference;
    memset(fine, 0, sizeof *fine);
    ousac_status status = ousac_fine_schedule(&schedule, reference, steps, error);
    if (!status)
        status = ousac_run_check_schedule(session->model, &schedule, error);
    if (!status)
        status = ousac_schedule_copy(&whole, reference, error);
    if (status)
        goto done;
    ousac_place_evenly(&whole, 1);
    status = ousac_cost_trajectory(arch, &schedule, NULL, &of_fine, error);
    if (!status)
        status = ousac_cost_trajectory(arch, &whole, NULL, &of_reference, error);
    if (status)
        goto done;
    fine->samples =
        range->count > SIZE_MAX / size ? NULL : ousac_malloc(range->count * size, sizeof *fine->samples);
    if (!fine->samples) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %" PRIu64 " samples", range->count);
        goto done;
    }
    const ousac_session_run run = {.label = "fine",
                                   .schedule = &schedule,
                                   .range = *range,
                                   .exact = 1,
                                   .samples = fine->samples,
                                   .seconds = &fine->seconds};
    status = ousac_session_run_samples(session, &run, error);
    fine->steps = steps;
    fine->macs_share = (double)of_fine.schedule_full / (double)of_reference.schedule_full;
done:
    ousac_schedule_free(&schedule);
    ousac_schedule_free(&whole);
    return status;
}

ousac_status ousac_fine_add(ousac_fine *fine, const ousac_session *session, const ousac_headline_row *row,
                            const float *samples, const ousac_sample_range *range, ousac_error *error) {
    return ousac_headline_add(&fine->headline, row, samples, fine->samples, (size_t)range->count,
                              ousac_model_sample_size(session->model), session->seed, error);
}

void ousac_fine_free(ousac_fine *fine) {
    ousac_headline_free(&fine->headline);
    ousac_free(fine->samples);
    memset(fine, 0, sizeof *fine);
}
