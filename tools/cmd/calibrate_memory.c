/* What `ousac calibrate` will take of memory, and, where it searches, of evaluations. */
#include "pipeline/budget.h"
#include "pipeline/fit.h"
#include "pipeline/memory_search.h"
#include "pipeline/place.h"
#include "pipeline/search_bill.h"
#include "tools/cli/session.h"
#include "tools/cmd/calibrate_parts.h"
#include "tools/show/show.h"

#include <math.h>

typedef struct memory_stages {
    ousac_memory_placing placing;
    int places; /* 1: gates are decided first */
    ousac_memory_searching searching;
    int searches; /* 1: the schedule is searched for */
    ousac_memory_recording recording;
    ousac_memory_allocating allocating;
    ousac_memory_packing packing;
    uint64_t test;
    uint64_t search_macs; /* of a search and all that follows it; else counted stage by stage */
} memory_stages;

/* An ousac_memory_list; self is a memory_stages. */
static void list_phases(const void *self, ousac_memory_plan *plan) {
    const memory_stages *stages = self;
    if (stages->places)
        ousac_memory_list_placing(plan, &stages->placing);
    if (stages->searches)
        ousac_memory_list_searching(plan, &stages->searching);
    ousac_memory_list_recording(plan, &stages->recording);
    ousac_memory_list_allocating(plan, &stages->allocating);
    if (stages->searches)
        ousac_memory_list_shipping(plan, &stages->searching, &stages->allocating);
    ousac_memory_list_packing(plan, &stages->packing);
    ousac_memory_list_evaluating(plan, &stages->allocating, stages->test);
    if (stages->searches)
        plan->macs = stages->search_macs;
}

static ousac_status check(const calibrate_request *request, ousac_error *error) {
    if (request->samples == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--memory and --dry-run: expected a number of samples, not --samples auto");
    if (!request->schedule && !isnan(request->budget_time) && !request->time)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "--memory and --dry-run: expected --time beside --budget-time: how many steps it pays for is "
            "not known before evaluations were timed");
    return OUSAC_STATUS_OK;
}

/* The longest schedule that the search may come to, evenly spaced; where there is no cached one, as many steps as the
 * budget pays for. */
static ousac_status longest_schedule(ousac_schedule *schedule, const ousac_schedule *reference,
                                     const ousac_search_outline *outline, ousac_error *error) {
    const ousac_search_cached *longest = ousac_search_longest(outline);
    const ousac_status status =
        ousac_fit_fewer_steps(schedule, reference, longest ? longest->steps : outline->fewer, error);
    if (!status)
        ousac_place_evenly(schedule, longest ? longest->period : 1);
    return status;
}

static ousac_search_follows follows(const memory_stages *stages, size_t fine) {
    const ousac_memory_allocating *a = &stages->allocating;
    return (ousac_search_follows){.pilot = stages->recording.pilot_samples,
                                  .samples = stages->recording.samples,
                                  .validation = a->validation,
                                  .fitting = a->fitting,
                                  .searched = a->searched,
                                  .candidates = a->candidates,
                                  .forecasts = a->forecasts,
                                  .evaluations = a->evaluations,
                                  .test = stages->test,
                                  .fine = fine};
}

static void list_files(calibration_work *work) {
    ousac_memory_plan *plan = &work->memory;
    for (int i = 0; i <= OUSAC_JOB_BUNDLE; i++)
        ousac_memory_file(plan, work->job.path[i]);
    for (int i = 0; i < FILES; i++)
        ousac_memory_file(plan, work->path[i]);
    if (ousac_job_searches(&work->job))
        ousac_memory_file(plan, work->record);
}

ousac_status calibrate_plan_memory(calibration_work *work, cli_common *common,
                                   const calibrate_request *request, int *done, ousac_error *error) {
    ousac_job *job = &work->job;
    const int searches = ousac_job_searches(job);
    ousac_session_model shapes = request->model;
    ousac_model *model = NULL;
    ousac_schedule longest = {0};
    ousac_search_outline outline;
    ousac_search_bill bill;
    uint64_t macs = 0;
    double step = 0;
    int wanted = 0;
    ousac_status status = ousac_memory_parse(&request->memory, &work->memory, &wanted, error);
    if (!status && wanted)
        status = check(request, error);
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = cli_load_model(&model, &shapes, error);
    const ousac_session session = cli_session(common, model, request->seed, request->micro_batch);
    if (!status) /* what the run would refuse */
        status = ousac_model_check_inputs(model, error);
    if (!status)
        status = ousac_job_check(job, &session, error);
    const ousac_search_options options = ousac_job_search_options(job);
    if (!status && searches)
        status = ousac_search_outline_make(&session, &options, &outline, error);
    if (!status && searches)
        status = longest_schedule(&longest, &job->reference, &outline, error);
    if (!status && !searches)
        status =
            ousac_budget_solve(&model->arch, &job->schedule, &request->allocate.budget, &macs, &step, error);
    if (status)
        goto done;
    const ousac_schedule *schedule = searches ? &longest : &job->schedule;
    memory_stages stages = {
        .placing = {.model = model,
                    .schedule = schedule,
                    .micro_batch = request->micro_batch,
                    .cached_macs = macs,
                    .evaluations = request->allocate.evaluations ? request->allocate.evaluations
                                                                 : OUSAC_PLACE_EVALUATIONS},
        .places = job->open,
        .searching = {.session = &session, .reference = &job->reference, .outline = &outline},
        .searches = searches,
        .recording = {.model = model,
                      .schedule = schedule,
                      .pilot_samples = ousac_job_pilot(&job->options),
                      .samples = request->samples,
                      .micro_batch = request->micro_batch,
                      .segments = 1,
                      .tokens = request->tokens,
                      .magnitudes = ousac_job_magnitudes(&job->options)},
        .allocating = {.model = model,
                       .schedule = schedule,
                       .made_of = request->made_of,
                       .micro_batch = request->micro_batch,
                       .cached_macs = macs,
                       .whole_profile = 1,
                       .segments = 1},
        .test = request->test,
    };
    ousac_memory_take_options(&stages.allocating, &request->allocate);
    stages.allocating.runs = 1;
    stages.allocating.validation = request->validation;
    stages.packing = (ousac_memory_packing){.from = &stages.allocating, .whole_set = 1};
    if (searches) {
        const ousac_search_follows behind = follows(&stages, calibrate_fine_steps(work, request));
        ousac_search_bill_make(&model->arch, &job->reference, &outline, &behind, &bill);
        stages.search_macs = bill.macs;
    }
    status = ousac_memory_fit(&work->memory, common->threads, 1, request->memory.spill != NULL, list_phases,
                              &stages, error);
    if (status)
        goto done;
    common->threads = work->memory.threads;
    if (work->memory.spilled && !request->memory.spill)
        job->options.spill = request->directory;
    *done = request->memory.dry_run;
    if (*done) {
        const dry_search search = {&options, &outline, &bill};
        list_files(work);
        status = memory_print(&work->memory, common, "calibrate", searches ? &search : NULL, error);
    }
done:
    ousac_schedule_free(&longest);
    ousac_model_free(model);
    return status;
}
