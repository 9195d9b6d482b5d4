#include "pipeline/machine.h"
#include "tools/cli/print.h"
#include "tools/cmd/calibrate_parts.h"
#include "tools/report/report.h"
#include "tools/report/samples.h"
#include "tools/report/table.h"
#include "tools/show/show.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "profile/record/ranges.h"

#include <inttypes.h>
#include <string.h>

static const char *const result_keys[] = {"schedule", "weights", "profile", "plan", "bundle"};
static const char *const file_keys[FILES] = {"eval", "raw_samples", "samples", "cost", "report"};
static const char *const time_keys[OUSAC_JOB_STEPS] = {"placement", "profiling", "allocation_and_packing"};

static timed_result timed_of(const calibration_work *work) {
    const ousac_job *job = &work->job;
    return (timed_result){.timing = &job->timing,
                          .budget = job->options.budget_time,
                          .modelled = job->found.candidate[job->found.best].spent,
                          .measured = work->measured};
}

/* The file of measurements, where there is one. */
static const char *time_file(const calibration_work *work) {
    const ousac_job *job = &work->job;
    if (!ousac_job_is_timed(job))
        return NULL;
    return job->options.time ? job->options.time : job->path[OUSAC_JOB_TIME];
}

ousac_status calibrate_draw(const calibration_work *work, const ousac_session *session, ousac_error *error) {
    enum { COLUMNS_MAX = 8 };
    const ousac_eval_run *run = work->result.run;
    samples_grid drawn;
    samples shown = {
        .count = work->test.count < COLUMNS_MAX ? (size_t)work->test.count : COLUMNS_MAX,
        .channels = work->model->channels,
        .height = work->model->height,
        .width = work->model->width,
        .first = work->test.first,
        .seed = session->seed,
    };
    if (work->job.uncached) {
        shown.run[SAMPLES_TODAY] = work->reference;
        shown.run[SAMPLES_EXTRAPOLATED] = work->headline.extrapolated;
        if (!work->headline.extrapolated)
            shown.run[SAMPLES_FITTED] = work->headline.fitted;
        shown.run[SAMPLES_FEWER] = work->headline.fewer;
    } else if (work->job.found.count) {
        shown.run[SAMPLES_TODAY] = run[OUSAC_EVAL_REFERENCE].samples;
        shown.run[SAMPLES_CALIBRATED] = run[OUSAC_EVAL_CALIBRATED].samples;
        shown.run[SAMPLES_FEWER] = work->result.headline.fewer;
    } else {
        shown.run[SAMPLES_EXACT] = run[OUSAC_EVAL_EXACT].samples;
        shown.run[SAMPLES_CALIBRATED] = run[OUSAC_EVAL_CALIBRATED].samples;
        shown.run[SAMPLES_REUSE] = run[OUSAC_EVAL_REUSE].samples;
    }
    memcpy(shown.data_range, work->model->data_range, sizeof shown.data_range);
    memcpy(shown.model_digest, work->model->digest, sizeof shown.model_digest);
    ousac_schedule_digest(&work->job.schedule, shown.schedule_digest);
    const ousac_status status = samples_save(&shown, work->path[RAW_SAMPLES], error);
    return status ? status : samples_draw(&shown, shown.count, 1, work->path[SAMPLES], &drawn, error);
}

ousac_status calibrate_save_search(const calibration_work *work, const ousac_session *session,
                                   ousac_error *error) {
    const ousac_job *job = &work->job;
    const ousac_arch *arch = &work->model->arch;
    const int timed = ousac_job_is_timed(job);
    const ousac_search_options options = {.reference = &job->reference,
                                          .budget = timed ? job->options.budget_time
                                                          : job->options.choose.budget.total,
                                          .timing = timed ? &job->timing : NULL,
                                          .effort = job->options.effort};
    ousac_cost_total reference, shipped;
    search_record record = {.options = &options,
                            .found = &job->found,
                            .model = work->model,
                            .seed = session->seed,
                            .schedule = &job->schedule,
                            .headline = &work->headline,
                            .fine = &work->fine,
                            .test = work->test};
    if (!job->uncached) {
        const ousac_ranks ranks = ousac_plan_ranks(job->choice.plan);
        ousac_status status = ousac_cost_trajectory(arch, &job->reference, NULL, &reference, error);
        if (!status)
            status = ousac_cost_trajectory(arch, &job->schedule, &ranks, &shipped, error);
        if (status)
            return status;
        record.shipped = &job->fit;
        record.shipped_share = (double)shipped.schedule_cached / (double)reference.schedule_full;
    }
    return search_record_save(&record, work->record, error);
}

ousac_status calibrate_save_cost(const calibration_work *work, const ousac_session *session,
                                 ousac_error *error) {
    ousac_json_doc doc;
    char *text = NULL;

    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "kind", "ousac calibration cost");
    ousac_json_put_u64(&doc, doc.root, "version", 1);
    cJSON *times = ousac_json_put_object(&doc, doc.root, "wall_s");
    for (int i = 0; i < OUSAC_JOB_STEPS; i++)
        ousac_json_put_real(&doc, times, time_keys[i], work->job.seconds[i]);
    ousac_json_put_real(&doc, times, "evaluation", work->evaluating);
    ousac_json_put_real(&doc, times, "total", ousac_clock_s() - work->start);
    ousac_json_put_u64(&doc, doc.root, "peak_bytes", ousac_peak_bytes());
    ousac_json_put_u64(&doc, doc.root, "threads", ousac_session_threads(session));
    ousac_json_put_text(&doc, doc.root, "backend", session->model->backend->detail);
    ousac_status status = ousac_json_text(&doc, 1, &text, error);
    if (!status)
        status = ousac_file_replace(work->path[COST], text, strlen(text), error);
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}

ousac_status calibrate_write_report(const cli_common *common, const calibration_work *work,
                                    ousac_error *error) {
    const char *directory = work->job.options.directory;
    const size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    const int uncached = work->job.uncached;
    char *const files[] = {work->job.path[OUSAC_JOB_BUNDLE],
                           work->job.path[OUSAC_JOB_PROFILE],
                           work->path[EVAL],
                           work->path[RAW_SAMPLES],
                           work->path[COST],
                           work->record};
    char *const without[] = {work->job.path[OUSAC_JOB_SCHEDULE], work->path[RAW_SAMPLES], work->path[COST],
                             work->record};
    char *plots = join_texts(directory, slash, "plots");
    size_t plotted = 0;
    const report_request about = {
        .files = uncached ? without : files,
        .file_count = uncached ? sizeof without / sizeof *without
                               : sizeof files / sizeof *files - !ousac_job_searches(&work->job),
        .output = work->path[REPORT],
        .plots = plots,
    };
    const ousac_status status = plots == NULL
                                    ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory)
                                    : report_write(common, &about, &plotted, error);
    ousac_free(plots);
    return status;
}

ousac_status calibrate_report_search(const cli_common *common, const calibration_work *work,
                                     ousac_error *error) {
    const ousac_job *job = &work->job;
    const int timed = ousac_job_is_timed(job);
    const char *schedule = job->path[OUSAC_JOB_SCHEDULE];
    const timed_result in_time = timed_of(work);
    ousac_json_doc doc;
    if (!common->json) {
        search_print(&job->found, timed);
        headline_print(&work->headline);
        cli_printf("(against the reference on test samples %" PRIu64 ":%" PRIu64 ")\n", work->test.first,
                   work->test.first + work->test.count);
        fine_print(&work->fine);
        cli_printf("\n");
        if (timed)
            timed_print(&in_time);
        cli_printf("%s at this budget: %s is all, to be run %s\nwrote it,\n",
                   work->headline.extrapolated ? "no factors pay" : "no cache pays", schedule,
                   work->headline.extrapolated ? "as its gates say" : "uncached");
        for (int i = RAW_SAMPLES; i < FILES; i++)
            cli_printf("  %s\n", work->path[i]);
        cli_printf("  %s\n", work->record);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    cJSON *files = ousac_json_put_object(&doc, doc.root, "files");
    ousac_json_put_text(&doc, files, result_keys[OUSAC_JOB_SCHEDULE], schedule);
    for (int i = RAW_SAMPLES; i < FILES; i++)
        ousac_json_put_text(&doc, files, file_keys[i], work->path[i]);
    ousac_json_put_text(&doc, files, "search", work->record);
    if (timed)
        ousac_json_put_text(&doc, files, "time", time_file(work));
    search_put(&doc, ousac_json_put_object(&doc, doc.root, "search"), &job->found, timed);
    ousac_range_put(&doc, doc.root, "test", work->test.first, work->test.count);
    headline_put(&doc, doc.root, &work->headline);
    fine_put(&doc, doc.root, &work->fine);
    if (timed)
        timed_put(&doc, ousac_json_put_object(&doc, doc.root, "time"), &in_time);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

ousac_status calibrate_report(const cli_common *common, const calibration_work *work,
                              const ousac_session *session, ousac_error *error) {
    const ousac_job *job = &work->job;
    const ousac_arch *arch = &work->model->arch;
    const int timed = ousac_job_is_timed(job);
    const double seconds = ousac_clock_s() - work->start;
    timed_result in_time = {0};
    ousac_json_doc doc;
    cJSON *files = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    if (timed)
        in_time = timed_of(work);
    if (!common->json) {
        if (job->found.count)
            search_print(&job->found, timed);
        cli_printf("calibrated on samples 0:%" PRIu64 ": %" PRIu64 " forwards in %.1f s\n",
                   job->samples.count, job->cost.forwards, job->cost.seconds);
        if (job->cost.convergence.rounds > 0)
            convergence_print(&job->cost.convergence);
        cli_printf("\n");
        choice_print(&job->choice, arch);
        cli_printf("\n");
        evaluation_print(&work->result);
        cli_printf("\n");
        if (timed)
            timed_print(&in_time);
        cli_printf("%.1f s in all; wrote\n", seconds);
        for (int i = 0; i <= OUSAC_JOB_BUNDLE; i++)
            cli_printf("  %s\n", job->path[i]);
        for (int i = 0; i < FILES; i++)
            cli_printf("  %s\n", work->path[i]);
        if (ousac_job_searches(job))
            cli_printf("  %s\n", work->record);
        if (timed && !job->options.time)
            cli_printf("  %s\n", time_file(work));
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    files = ousac_json_put_object(&doc, doc.root, "files");
    for (int i = 0; i <= OUSAC_JOB_BUNDLE; i++)
        ousac_json_put_text(&doc, files, result_keys[i], job->path[i]);
    for (int i = 0; i < FILES; i++)
        ousac_json_put_text(&doc, files, file_keys[i], work->path[i]);
    if (ousac_job_searches(job))
        ousac_json_put_text(&doc, files, "search", work->record);
    if (timed)
        ousac_json_put_text(&doc, files, "time", time_file(work));
    ousac_json_put_real(&doc, doc.root, "wall_s", seconds);
    ousac_record_cost_put(&doc, ousac_json_put_object(&doc, doc.root, "profiling"), session, &job->cost, 0);
    if (job->found.count)
        search_put(&doc, ousac_json_put_object(&doc, doc.root, "search"), &job->found, timed);
    if (timed)
        timed_put(&doc, ousac_json_put_object(&doc, doc.root, "time"), &in_time);
    choice_put(&doc, ousac_json_put_object(&doc, doc.root, "allocation"), &job->choice, arch);
    evaluation_put(&doc, ousac_json_put_object(&doc, doc.root, "evaluation"), &work->result);
    status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}
