#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "tools/cli/files.h"
#include "tools/cli/session.h"
#include "tools/cmd/calibrate_parts.h"
#include "tools/cmd/commands.h"
#include "tools/report/table.h"
#include "tools/show/show.h"

#include "formats/memory.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const file_names[FILES] = {"eval.json", "samples.oca", "samples.png", "cost.json",
                                              "report.html"};
static const char record_name[] = "search.json";

static void free_work(calibration_work *work) {
    ousac_eval_free(&work->result);
    ousac_headline_free(&work->headline);
    ousac_fine_free(&work->fine);
    ousac_free(work->reference);
    ousac_calibration_free(work->calibration);
    ousac_bundle_close(work->bundle);
    ousac_job_free(&work->job);
    ousac_model_free(work->model);
    for (int i = 0; i < FILES; i++)
        ousac_free(work->path[i]);
    ousac_free(work->record);
}

static ousac_status make_paths(calibration_work *work, const char *directory, ousac_error *error) {
    const size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    for (int i = 0; i < FILES; i++) {
        work->path[i] = join_texts(directory, slash, file_names[i]);
        if (!work->path[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
    }
    work->record = join_texts(directory, slash, record_name);
    return work->record ? OUSAC_STATUS_OK
                        : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
}

static ousac_job_options job_options(const calibrate_request *request) {
    return (ousac_job_options){.directory = request->directory,
                               .schedule = request->schedule,
                               .reference = request->reference,
                               .period = request->period,
                               .effort = request->effort,
                               .curve = 1,
                               .budget_time = request->budget_time,
                               .time = request->time,
                               .samples = request->samples,
                               .validation = request->validation,
                               .test = request->test,
                               .automatic = request->automatic,
                               .tokens = request->tokens,
                               .made_of = request->made_of,
                               .choose = request->allocate,
                               .storage = options_pack_storage(&request->storage),
                               .partial = request->partial,
                               .spill = request->memory.spill};
}

/* --- what follows the job --- */

/* From the file just written: what ships is what is measured. */
static ousac_status evaluate(calibration_work *work, const calibrate_request *request,
                             const ousac_session *session, ousac_error *error) {
    ousac_job *job = &work->job;
    const char *path = job->path[OUSAC_JOB_BUNDLE];
    ousac_provenance provenance;
    ousac_eval_options options = {
        .schedule = &job->schedule,
        .reference = request->reference ? &job->reference : NULL,
        .reference_scale = request->reference_scale,
        .range = work->test,
        .fine = calibrate_fine_steps(work, request),
    };
    ousac_status status = ousac_bundle_open(&work->bundle, path, error);
    if (!status)
        status = ousac_provenance_read(path, &provenance, error);
    if (!status)
        status = ousac_eval_check_samples(session, &provenance, &work->test, session->seed, 0,
                                          &options.held_out, error);
    if (status)
        return status;
    options.plan = ousac_bundle_find_plan(work->bundle, NULL);
    if (!options.plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: the plan just packed is not there", path);
    status = ousac_bundle_calibration(work->bundle, options.plan, &work->model->arch, work->model->backend,
                                      &work->calibration, error);
    options.calibration = work->calibration;
    for (size_t i = 0; i < job->found.count; i++)
        if (job->found.candidate[i].kind == OUSAC_SEARCH_FITTED)
            options.fitted = &job->found.candidate[i].schedule;
    if (!status)
        status = ousac_eval_create(&work->result, session, &options, error);
    if (!status)
        status = evaluation_save(&work->result, work->path[EVAL], error);
    return status;
}

/* What the result takes beside the reference. */
static ousac_status measure_time(calibration_work *work, const ousac_session *session, ousac_error *error) {
    enum { REPEATS = 3 };
    if (!ousac_job_is_timed(&work->job))
        return OUSAC_STATUS_OK;
    return ousac_stopwatch_compare(&work->measured, session, &work->job.reference, &work->job.schedule,
                                   work->calibration, REPEATS, error);
}

static ousac_status execute(cli_common *common, const calibrate_request *request, ousac_error *error) {
    calibration_work work = {.start = ousac_clock_s()};
    const ousac_job_options asked = job_options(request);
    int done = 0;
    ousac_status status = ousac_job_begin(&work.job, &asked, error);

    if (!status)
        status = make_paths(&work, request->directory, error);
    if (!status && request->fine) { /* told before anything is run */
        const ousac_schedule *today = request->reference ? &work.job.reference : &work.job.schedule;
        ousac_schedule fine;
        status = ousac_fine_schedule(&fine, today, request->fine, error);
        ousac_schedule_free(&fine);
    }
    if (!status)
        status = calibrate_plan_memory(&work, common, request, &done, error);
    if (!status && !done)
        status = cli_load_model(&work.model, &request->model, error);
    if (status || done)
        goto done;
    const ousac_session session = cli_session(common, work.model, request->seed, request->micro_batch);
    status = ousac_job_run(&work.job, &session, error);
    const double since = ousac_clock_s();
    work.test = (ousac_sample_range){work.job.next_sample, request->test};
    if (!status && work.job.uncached)
        status = calibrate_judge_uncached(&work, request, &session, error);
    if (!status && ousac_job_searches(&work.job))
        status = calibrate_save_search(&work, &session, error);
    if (!status && !work.job.uncached)
        status = evaluate(&work, request, &session, error);
    if (!status)
        status = measure_time(&work, &session, error);
    work.evaluating = ousac_clock_s() - since;
    if (!status)
        status = calibrate_draw(&work, &session, error);
    if (!status)
        status = calibrate_save_cost(&work, &session, error);
    if (!status)
        status = ousac_job_finish(&work.job, &session, error);
    if (!status)
        status = calibrate_write_report(common, &work, error);
    if (!status)
        status = work.job.uncached ? calibrate_report_search(common, &work, error)
                                   : calibrate_report(common, &work, &session, error);
done:
    free_work(&work);
    return status;
}

#define AT(member) offsetof(calibrate_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule to calibrate for (default: searched for, from --reference and --budget-total or --budget-time)", 0, 0},
    {"effort", 0, CLI_CHOICE, AT(effort), "quick|full|auto", "auto",
     "of such a search: how many candidates and samples it takes; auto: quick where an evaluation takes more than 1e10 "
     "multiply-accumulates, else full", 0, 0},
    {"period", 0, CLI_SIZE, AT(period), "P", CLI_TEXT_OF(OUSAC_PLACE_PERIOD),
     "of a schedule that leaves its gates to a plan: place refreshes within the cost of every P-th step", 1, OUSAC_SCHEDULE_STEPS_MAX},
    OPTIONS_BUDGET(AT(allocate.budget)),
    {"budget-time", 0, CLI_REAL, AT(budget_time), "X", NULL,
     "of a search, instead: seconds of the trajectory over the reference's, as measured on this machine or by --time", 0, 0},
    {"time", 0, CLI_INPUT, AT(time), "FILE", NULL,
     "of --budget-time: what evaluations take, by `ousac time` (default: measured first, into DIR/time.json)", 0, 0},
    {"samples", 0, CLI_SIZE_OR_AUTO, AT(samples), "N", CLI_TEXT_OF(OUSAC_DEFAULT_CALIBRATION_SAMPLES),
     "calibration samples, from 0, or auto: enough of them", 1, OUSAC_SAMPLES_MAX},
    OPTIONS_RECORD_AUTO(AT(automatic)),
    {"validation", 0, CLI_SIZE, AT(validation), "N", CLI_TEXT_OF(OUSAC_DEFAULT_VALIDATION_SAMPLES),
     "validation samples, behind those", 1, OUSAC_SAMPLES_MAX},
    {"test", 0, CLI_SIZE, AT(test), "N", CLI_TEXT_OF(OUSAC_DEFAULT_TEST_SAMPLES),
     "test samples, behind those", 1, OUSAC_SAMPLES_MAX},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_METHOD(AT(allocate)),
    {"evaluations", 0, CLI_SIZE, AT(allocate.evaluations), "N", NULL,
     "end-to-end runs that a search may spend (default 24 on gates, 40 on ranks)", 2, OUSAC_SAMPLES_MAX},
    OPTIONS_FORECAST(AT(allocate)),
    OPTIONS_FACTORS(AT(made_of)),
    OPTIONS_STORAGE(AT(storage)),
    {"tokens", 0, CLI_SIZE, AT(tokens), "K", NULL,
     "tokens of each sample that are recorded, drawn anew at each refresh (default: all, at most 64)", 1, 1 << 24},
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"reference", 0, CLI_INPUT, AT(reference), "FILE", NULL,
     "schedule that is run today, in full whatever its gates: what errors and costs are measured against "
     "(default: constant guidance)", 0, 0},
    {"reference-scale", 0, CLI_REAL, AT(reference_scale), "W", NULL,
     "scale of the constant guidance (default: the median of the guided scales)", 0, 0},
    {"fine", 0, CLI_SIZE, AT(fine), "N", NULL,
     "the evaluation also says how far the reference itself and the result are from a run of N steps by the reference's "
     "solver and guidance (default: after a search with --effort full four times the reference's steps, else none; 0: none)",
     0, OUSAC_SCHEDULE_STEPS_MAX},
    OPTIONS_PARTIAL(AT(partial)),
    OPTIONS_MEMORY(AT(memory)),
    OPTIONS_SPILL(AT(memory)),
    {"output", 'o', CLI_INTO, AT(directory), "DIR", CLI_REQUIRED,
     "directory to write into; made where missing", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    calibrate_request *request = values;
    request->fine_given = cli_given(call, "fine");
    request->allocate.name = "default";
    request->allocate.granularity = OUSAC_DEFAULT_GRANULARITY;
    request->allocate.rank_min = OUSAC_DEFAULT_RANK_MIN;
    if (request->reference && !isnan(request->reference_scale))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of --reference and --reference-scale, not both");
    const ousac_status status =
        request->samples ? OUSAC_STATUS_OK
                         : ousac_record_auto_check(&request->automatic, request->micro_batch, error);
    return status ? status : execute(&call->common, request, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const calibrate_request *request = values;
    const int measures = !isnan(request->budget_time) && !request->time;
    (void)call;
    for (int i = 0; i < OUSAC_JOB_RESULTS; i++)
        if (i != OUSAC_JOB_TIME || measures)
            cli_files_written_in(files, "the result", request->directory, ousac_job_file_name(i));
    for (int i = 0; i < FILES; i++)
        cli_files_written_in(files, "the result", request->directory, file_names[i]);
    if (!request->schedule)
        cli_files_written_in(files, "the result", request->directory, record_name);
    for (int i = OUSAC_JOB_RESULTS; i < OUSAC_JOB_FILES; i++)
        cli_files_written_in(files, "the partial result", request->directory, ousac_job_file_name(i));
}

const cli_command command_calibrate = {
    .name = "calibrate",
    .summary = "the whole pipeline: model + schedule + budget -> bundle, evaluation, plots, report",
    .arguments = "",
    .details =
        "Runs every step in one go: for a schedule whose gates are auto the placement of the refreshes (as "
        "`ousac place`), a pilot for the step weights, the profile, the allocation (both "
        "methods, compared "
        "on validation samples), the bundle, its verification, and the evaluation on test samples. "
        "Calibration, "
        "validation and test samples are disjoint.\n"
        "\n"
        "Without --schedule it begins a step earlier: from the reference, what is run today, and "
        "--budget-total, here a "
        "share of the reference's MACs, it searches for the number of steps, those that are guided, the "
        "refreshes of each branch "
        "and the ranks, "
        "with the free numbers of every candidate fitted (as `ousac fit`) on the trajectory with cache and "
        "forecast at "
        "work. Fewer steps, plain and fitted, are always among the candidates: where no cache is better on "
        "validation "
        "samples, their schedule is the result, beside what it is worth on test samples: search.json, "
        "samples and their image, cost.json and a report. An "
        "interrupted search goes on from search.part.\n"
        "\n"
        "With --budget-time the budget is a share of the reference's seconds. What evaluations take is "
        "measured first "
        "(as `ousac time`), or read from --time, which may have been measured on another machine; ranks are "
        "uniform "
        "then, as they were timed. Where a cached evaluation is hardly faster than one in full, fitted fewer "
        "steps are "
        "the result.\n"
        "\n"
        "A search also measures fewer steps, plain and fitted, at other costs, and leaves in search.json "
        "what "
        "it compared and what each stage gained; the report and `ousac plot curve` draw both.\n"
        "\n"
        "With --samples auto the profile takes as many samples as it needs (`ousac profile --help`), judged "
        "at "
        "the budget's uniform ranks.\n"
        "\n"
        "Writes into DIR: schedule.json, weights.oca, profile.oca, plan.oca, bundle.oca, eval.json, "
        "samples.oca and samples.png (exact, calibrated, reuse and the differences; after a search today's, "
        "calibrated, "
        "fewer steps and the differences; a column is one sample), "
        "cost.json, the plots and their tables in plots/, and report.html, one page about it all. Each "
        "appears when it is complete. An interrupted run leaves those that were finished, the gates that it "
        "decided in gates.part, and what its profile has of samples in profile.oca.part; the same command "
        "goes on from there, and --restart begins anew. Without gnuplot there are no plots, and the report "
        "has the tables.",
    .example = "build/ousac calibrate --model data/shapes-dit/model.safetensors \\\n"
               "    --schedule data/schedules/constant.json --budget-step 0.3 -o build/demo/constant\n"
               "build/ousac calibrate --model data/shapes-dit/model.safetensors \\\n"
               "    --reference data/schedules/constant.json --budget-total 0.3 -o build/demo/searched",
    .options = options,
    .request_size = sizeof(calibrate_request),
    .files = list_files,
    .run = run,
};
