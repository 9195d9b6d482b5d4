/* What a result without factors is worth against the reference on test samples: fewer steps, plain or fitted, or ones that
 * extrapolate. */
#include "tools/cmd/calibrate_parts.h"

#include "formats/memory.h"

#include <string.h>

size_t calibrate_fine_steps(const calibration_work *work, const calibrate_request *request) {
    const ousac_job *job = &work->job;
    if (request->fine_given)
        return request->fine;
    if (!ousac_job_searches(job) || job->options.effort != OUSAC_EFFORT_FULL)
        return 0;
    const size_t steps = ousac_fine_steps(&job->reference, OUSAC_FINE_TIMES);
    return steps > job->reference.step_count && steps <= OUSAC_SCHEDULE_STEPS_MAX ? steps : 0;
}

/* The reference itself and every row against a fine run. */
static ousac_status compare_with_fine(calibration_work *work, const ousac_session *session, size_t steps,
                                      ousac_error *error) {
    const ousac_headline *headline = &work->headline;
    const ousac_headline_row today = {
        .method = "reference", .steps = work->job.reference.step_count, .macs_share = 1, .seconds_share = 1};
    ousac_status status =
        ousac_fine_run(&work->fine, session, &work->job.reference, steps, &work->test, error);
    if (!status)
        status = ousac_fine_add(&work->fine, session, &today, work->reference, &work->test, error);
    for (size_t i = 0; i < headline->count && !status; i++) {
        const char *method = headline->row[i].method;
        status = ousac_fine_add(&work->fine, session, &headline->row[i],
                                strcmp(method, "extrapolated") == 0   ? headline->extrapolated
                                : strcmp(method, "fitted-steps") == 0 ? headline->fitted
                                                                      : headline->fewer,
                                &work->test, error);
    }
    return status;
}

static const ousac_schedule *found(const ousac_job *job, ousac_search_kind kind) {
    for (size_t i = 0; i < job->found.count; i++)
        if (job->found.candidate[i].kind == kind)
            return &job->found.candidate[i].schedule;
    return NULL;
}

ousac_status calibrate_judge_uncached(calibration_work *work, const calibrate_request *request,
                                      const ousac_session *session, ousac_error *error) {
    const ousac_job *job = &work->job;
    const ousac_search_kind kind = job->found.candidate[job->found.best].kind;
    const size_t size = ousac_model_sample_size(session->model), fine = calibrate_fine_steps(work, request);
    ousac_headline *headline = &work->headline;
    ousac_counters counters = {0};
    ousac_headline_run row = {.range = work->test};
    /* The result first, then what it is held against. */
    const struct {
        const char *method;
        const ousac_schedule *schedule;
        float **keep;
    } rows[] = {
        {"extrapolated", kind == OUSAC_SEARCH_EXTRAPOLATED ? &job->schedule : NULL, &headline->extrapolated},
        {"fitted-steps",
         kind == OUSAC_SEARCH_EXTRAPOLATED ? found(job, OUSAC_SEARCH_FITTED)
         : kind == OUSAC_SEARCH_FEWER      ? NULL
                                           : &job->schedule,
         &headline->fitted},
        {"fewer-steps", kind == OUSAC_SEARCH_FEWER ? &job->schedule : found(job, OUSAC_SEARCH_FEWER),
         &headline->fewer},
    };
    work->reference =
        work->test.count > SIZE_MAX / size ? NULL : ousac_malloc(work->test.count * size, sizeof(float));
    if (!work->reference)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples",
                          (size_t)work->test.count);
    const ousac_session_run run = {.label = "reference",
                                   .schedule = &job->reference,
                                   .range = work->test,
                                   .exact = 1,
                                   .samples = work->reference,
                                   .counters = &counters,
                                   .seconds = &row.reference_seconds};
    ousac_status status = ousac_session_run_samples(session, &run, error);
    row.reference = work->reference;
    row.reference_macs = counters.macs / work->test.count;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !status; i++)
        if (rows[i].schedule) {
            row.method = rows[i].method;
            row.schedule = rows[i].schedule;
            row.keep = rows[i].keep;
            status = ousac_headline_run_and_add(headline, session, &row, error);
        }
    return status || !fine ? status : compare_with_fine(work, session, fine, error);
}
