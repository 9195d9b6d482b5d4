/* What a result without a cache is worth: fewer steps, plain or fitted, against the reference on test samples. */
#include "tools/cmd/calibrate_parts.h"

#include "formats/memory.h"

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
    for (size_t i = 0; i < headline->count && !status; i++)
        status = ousac_fine_add(&work->fine, session, &headline->row[i],
                                headline->fitted && i == 0 ? headline->fitted : headline->fewer, &work->test,
                                error);
    return status;
}

ousac_status calibrate_judge_uncached(calibration_work *work, const calibrate_request *request,
                                      const ousac_session *session, ousac_error *error) {
    const ousac_job *job = &work->job;
    const int fitted = job->found.candidate[job->found.best].kind != OUSAC_SEARCH_FEWER;
    const size_t size = ousac_model_sample_size(session->model), fine = calibrate_fine_steps(work, request);
    ousac_headline *headline = &work->headline;
    ousac_counters counters = {0};
    ousac_headline_run row = {.method = fitted ? "fitted-steps" : "fewer-steps",
                              .schedule = &job->schedule,
                              .range = work->test,
                              .keep = fitted ? &headline->fitted : &headline->fewer};
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
    if (!status)
        status = ousac_headline_run_and_add(headline, session, &row, error);
    for (size_t i = 0; i < job->found.count && fitted && !status; i++)
        if (job->found.candidate[i].kind == OUSAC_SEARCH_FEWER) {
            row.method = "fewer-steps";
            row.schedule = &job->found.candidate[i].schedule;
            row.keep = &headline->fewer;
            status = ousac_headline_run_and_add(headline, session, &row, error);
        }
    return status || !fine ? status : compare_with_fine(work, session, fine, error);
}
