#include "pipeline/machine.h"
#include "tools/cli/files.h"
#include "tools/cli/print.h"
#include "tools/cmd/calibrate_parts.h"
#include "tools/report/report.h"
#include "tools/report/samples.h"
#include "tools/report/table.h"
#include "tools/show/show.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static const char *const file_keys[FILES] = {"schedule", "weights",     "profile", "plan", "bundle",
                                             "eval",     "raw_samples", "samples", "cost", "report"};
static const char *const time_keys[TIMES] = {"placement", "profiling", "allocation_and_packing",
                                             "evaluation"};

static timed_result timed_of(const calibration_work *work, const calibrate_request *request) {
    return (timed_result){.timing = &work->timing,
                          .budget = request->budget_time,
                          .modelled = work->found.candidate[work->found.best].spent,
                          .measured = work->measured};
}

ousac_status calibrate_draw(const calibration_work *work, ousac_error *error) {
    enum { COLUMNS_MAX = 8 };
    const ousac_eval_run *run = work->result.run;
    samples_grid drawn;
    samples shown = {
        .count = work->test.count < COLUMNS_MAX ? (size_t)work->test.count : COLUMNS_MAX,
        .channels = work->model->channels,
        .height = work->model->height,
        .width = work->model->width,
        .first = work->test.first,
        .seed = work->result.seed,
    };
    if (work->found.count) {
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
    ousac_schedule_digest(&work->schedule, shown.schedule_digest);
    const ousac_status status = samples_save(&shown, work->path[RAW_SAMPLES], error);
    return status ? status : samples_draw(&shown, shown.count, 1, work->path[SAMPLES], &drawn, error);
}

ousac_status calibrate_save_search(const calibration_work *work, const ousac_session *session,
                                   const ousac_search_options *options, ousac_error *error) {
    const ousac_arch *arch = &work->model->arch;
    ousac_cost_total reference, shipped;
    search_record record = {
        .options = options, .found = &work->found, .model = work->model, .seed = session->seed};
    if (work->choice.plan) {
        const ousac_ranks ranks = ousac_plan_ranks(work->choice.plan);
        ousac_status status = ousac_cost_trajectory(arch, &work->reference, NULL, &reference, error);
        if (!status)
            status = ousac_cost_trajectory(arch, &work->schedule, &ranks, &shipped, error);
        if (status)
            return status;
        record.shipped = &work->fit;
        record.shipped_share = (double)shipped.schedule_cached / (double)reference.schedule_full;
    }
    return search_record_save(&record, work->record_path, error);
}

ousac_status calibrate_save_cost(const calibration_work *work, const ousac_session *session,
                                 ousac_error *error) {
    ousac_json_doc doc;
    char *text = NULL;

    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "kind", "ousac calibration cost");
    ousac_json_put_u64(&doc, doc.root, "version", 1);
    cJSON *times = ousac_json_put_object(&doc, doc.root, "wall_s");
    for (int i = 0; i < TIMES; i++)
        ousac_json_put_real(&doc, times, time_keys[i], work->seconds[i]);
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

ousac_status calibrate_write_report(const cli_common *common, const calibrate_request *request,
                                    const calibration_work *work, ousac_error *error) {
    const size_t length = strlen(request->directory);
    const char *slash = length > 0 && request->directory[length - 1] == '/' ? "" : "/";
    char *const files[] = {work->path[BUNDLE],      work->path[PROFILE], work->path[EVAL],
                           work->path[RAW_SAMPLES], work->path[COST],    work->record_path};
    char *plots = join_texts(request->directory, slash, "plots");
    size_t plotted = 0;
    const report_request about = {
        .files = files,
        .file_count = sizeof files / sizeof *files - (work->found.count == 0),
        .output = work->path[REPORT],
        .plots = plots,
    };
    const ousac_status status =
        plots == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", request->directory)
                      : report_write(common, &about, &plotted, error);
    ousac_free(plots);
    return status;
}

ousac_status calibrate_report_search(const cli_common *common, const calibrate_request *request,
                                     const calibration_work *work, ousac_error *error) {
    const timed_result timed = timed_of(work, request);
    ousac_json_doc doc;
    (void)unlink(work->gates);
    if (!common->json) {
        search_print(&work->found, calibrate_is_timed(request));
        if (calibrate_is_timed(request))
            timed_print(&timed);
        cli_printf("no cache pays at this budget: %s is all, to be run uncached\n", work->path[SCHEDULE]);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    cJSON *files = ousac_json_put_object(&doc, doc.root, "files");
    ousac_json_put_text(&doc, files, file_keys[SCHEDULE], work->path[SCHEDULE]);
    ousac_json_put_text(&doc, files, "search", work->record_path);
    if (calibrate_is_timed(request))
        ousac_json_put_text(&doc, files, "time", request->time ? request->time : work->timing_path);
    search_put(&doc, ousac_json_put_object(&doc, doc.root, "search"), &work->found,
               calibrate_is_timed(request));
    if (calibrate_is_timed(request))
        timed_put(&doc, ousac_json_put_object(&doc, doc.root, "time"), &timed);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

ousac_status calibrate_report(const cli_common *common, const calibrate_request *request,
                              const calibration_work *work, const ousac_session *session, double seconds,
                              ousac_error *error) {
    const int timed = calibrate_is_timed(request);
    timed_result in_time = {0};
    ousac_json_doc doc;
    cJSON *files = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    if (timed)
        in_time = timed_of(work, request);
    if (!common->json) {
        if (work->found.count)
            search_print(&work->found, timed);
        cli_printf("calibrated on samples 0:%" PRIu64 ": %" PRIu64 " forwards in %.1f s\n",
                   work->samples.count, work->cost.forwards, work->cost.seconds);
        if (work->cost.convergence.rounds > 0)
            convergence_print(&work->cost.convergence);
        cli_printf("\n");
        choice_print(&work->choice, &work->model->arch);
        cli_printf("\n");
        evaluation_print(&work->result);
        cli_printf("\n");
        if (timed)
            timed_print(&in_time);
        cli_printf("%.1f s in all; wrote\n", seconds);
        for (int i = 0; i < FILES; i++)
            cli_printf("  %s\n", work->path[i]);
        if (work->found.count)
            cli_printf("  %s\n", work->record_path);
        if (timed && !request->time)
            cli_printf("  %s\n", work->timing_path);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    files = ousac_json_put_object(&doc, doc.root, "files");
    for (int i = 0; i < FILES; i++)
        ousac_json_put_text(&doc, files, file_keys[i], work->path[i]);
    if (work->found.count)
        ousac_json_put_text(&doc, files, "search", work->record_path);
    if (timed)
        ousac_json_put_text(&doc, files, "time", request->time ? request->time : work->timing_path);
    ousac_json_put_real(&doc, doc.root, "wall_s", seconds);
    ousac_record_cost_put(&doc, ousac_json_put_object(&doc, doc.root, "profiling"), session, &work->cost, 0);
    if (work->found.count)
        search_put(&doc, ousac_json_put_object(&doc, doc.root, "search"), &work->found, timed);
    if (timed)
        timed_put(&doc, ousac_json_put_object(&doc, doc.root, "time"), &in_time);
    choice_put(&doc, ousac_json_put_object(&doc, doc.root, "allocation"), &work->choice, &work->model->arch);
    evaluation_put(&doc, ousac_json_put_object(&doc, doc.root, "evaluation"), &work->result);
    status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}
