#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "tools/cli/files.h"
#include "tools/cli/session.h"
#include "tools/cmd/calibrate_parts.h"
#include "tools/cmd/commands.h"
#include "tools/report/table.h"
#include "tools/show/show.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const file_names[FILES] = {"schedule.json", "weights.oca", "profile.oca", "plan.oca",
                                              "bundle.oca",    "eval.json",   "samples.oca", "samples.png",
                                              "cost.json",     "report.html"};

static void free_work(calibration_work *work) {
    ousac_search_free(&work->found);
    ousac_eval_free(&work->result);
    ousac_calibration_free(work->calibration);
    ousac_bundle_close(work->bundle);
    ousac_choice_free(&work->choice);
    ousac_factor_set_free(work->set);
    ousac_profile_free(work->profile);
    ousac_profile_free(work->pilot);
    ousac_schedule_free(&work->schedule);
    ousac_schedule_free(&work->reference);
    ousac_model_free(work->model);
    ousac_partial_free(&work->partial);
    ousac_free(work->marker);
    ousac_free(work->gates);
    ousac_free(work->timing_path);
    ousac_free(work->record_path);
    for (int i = 0; i < FILES; i++)
        ousac_free(work->path[i]);
}

/* Makes the directory and those above it. */
static ousac_status make_directory(const char *path, ousac_error *error) {
    struct stat info;
    ousac_status status = OUSAC_STATUS_OK;
    char *copy = ousac_strdup(path);
    if (!copy)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    for (char *at = copy + 1; *at; at++)
        if (*at == '/') {
            *at = '\0';
            (void)mkdir(copy, 0777); /* one that cannot be made shows at the last */
            *at = '/';
        }
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot make the directory: %s", path, strerror(errno));
    else if (stat(copy, &info) != 0 || !S_ISDIR(info.st_mode))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: not a directory", path);
    ousac_free(copy);
    return status;
}

static ousac_status make_paths(calibration_work *work, const char *directory, int searching,
                               ousac_error *error) {
    const size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    for (int i = 0; i < FILES; i++) {
        const size_t size = length + strlen(file_names[i]) + 2;
        work->path[i] = ousac_malloc(size, 1);
        if (!work->path[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
        (void)snprintf(work->path[i], size, "%s%s%s", directory, slash, file_names[i]);
    }
    work->marker = join_texts(directory, slash, "calibrate.part");
    work->gates = join_texts(directory, slash, searching ? "search.part" : "gates.part");
    work->timing_path = join_texts(directory, slash, "time.json");
    work->record_path = join_texts(directory, slash, "search.json");
    if (!work->marker || !work->gates || !work->timing_path || !work->record_path)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
    return OUSAC_STATUS_OK;
}

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return value + (unit - value % unit) % unit;
}

/* Calibration from 0, validation behind it and what a search used, test behind that, each from a multiple of
 * the micro-batch. */
static void split_samples(calibration_work *work, const calibrate_request *request, uint64_t count) {
    const size_t unit = request->micro_batch;
    const uint64_t used = count > work->searched.count ? count : work->searched.count;
    work->samples = (ousac_sample_range){0, count};
    work->validation = (ousac_sample_range){round_up(used, unit), request->validation};
    work->test =
        (ousac_sample_range){round_up(work->validation.first + request->validation, unit), request->test};
}

/* --- memory --- */

static size_t pilot_samples(const calibrate_request *request) {
    const int automatic = request->samples == 0;
    return request->samples < OUSAC_DEFAULT_PILOT_SAMPLES && !automatic ? request->samples
                                                                        : OUSAC_DEFAULT_PILOT_SAMPLES;
}

static int wants_magnitudes(const calibrate_request *request) {
    return request->made_of == OUSAC_METHOD_CA_SVD || request->made_of == OUSAC_METHOD_CD_SVD;
}

typedef struct memory_stages {
    ousac_memory_placing placing;
    int places; /* 1: gates are decided first */
    ousac_memory_recording recording;
    ousac_memory_allocating allocating;
    ousac_memory_packing packing;
    uint64_t test;
} memory_stages;

/* An ousac_memory_list; self is a memory_stages. */
static void list_phases(const void *self, ousac_memory_plan *plan) {
    const memory_stages *stages = self;
    if (stages->places)
        ousac_memory_list_placing(plan, &stages->placing);
    ousac_memory_list_recording(plan, &stages->recording);
    ousac_memory_list_allocating(plan, &stages->allocating);
    ousac_memory_list_packing(plan, &stages->packing);
    ousac_memory_list_evaluating(plan, &stages->allocating, stages->test);
}

/* How much memory it will take, and with how many threads. */
static ousac_status plan_memory(calibration_work *work, cli_common *common, const calibrate_request *request,
                                ousac_error *error) {
    ousac_session_model shapes = request->model;
    ousac_model *model = NULL;
    uint64_t macs = 0;
    double step = 0;
    int wanted = 0;
    ousac_status status = ousac_memory_parse(&request->memory, &work->memory, &wanted, error);
    if (!status && wanted && request->samples == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--memory and --dry-run: expected a number of samples, not --samples auto");
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = cli_load_model(&model, &shapes, error);
    if (!status)
        status =
            ousac_budget_solve(&model->arch, &work->schedule, &request->allocate.budget, &macs, &step, error);
    if (status)
        goto done;
    memory_stages stages = {
        .placing = {.model = model,
                    .schedule = &work->schedule,
                    .micro_batch = request->micro_batch,
                    .cached_macs = macs,
                    .evaluations = request->allocate.evaluations ? request->allocate.evaluations
                                                                 : OUSAC_PLACE_EVALUATIONS},
        .places = work->undecided,
        .recording = {.model = model,
                      .schedule = &work->schedule,
                      .pilot_samples = pilot_samples(request),
                      .samples = request->samples,
                      .micro_batch = request->micro_batch,
                      .segments = 1,
                      .tokens = request->tokens,
                      .magnitudes = wants_magnitudes(request)},
        .allocating = {.model = model,
                       .schedule = &work->schedule,
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
    status = ousac_memory_fit(&work->memory, common->threads, 1, request->memory.spill != NULL, list_phases,
                              &stages, error);
    if (status)
        goto done;
    common->threads = work->memory.threads;
    work->done = request->memory.dry_run;
    if (work->done) {
        status = make_paths(work, request->directory, request->schedule == NULL, error);
        for (int i = 0; !status && i < FILES; i++)
            ousac_memory_file(&work->memory, work->path[i]);
        if (!status)
            status = memory_print(&work->memory, common, "calibrate", error);
    }
done:
    ousac_model_free(model);
    return status;
}

/* --- the steps --- */

static ousac_search_options search_options(const calibration_work *work, const calibrate_request *request) {
    const int timed = calibrate_is_timed(request);
    return (ousac_search_options){.reference = &work->reference,
                                  .budget = timed ? request->budget_time : request->allocate.budget.total,
                                  .timing = timed ? &work->timing : NULL,
                                  .effort = request->effort,
                                  .kept = work->gates,
                                  .restart = request->partial.restart,
                                  .curve = 1};
}

static ousac_status take_times(calibration_work *work, const calibrate_request *request,
                               const ousac_session *session, ousac_error *error) {
    const ousac_search_time_options options = {.reference = &work->reference,
                                               .given = request->time,
                                               .measured = work->timing_path,
                                               .take_up = !request->partial.restart && work->gates &&
                                                          access(work->gates, F_OK) == 0};
    return ousac_search_time(session, &options, &work->timing, error);
}

/* Nothing but a reference and a budget is given: the schedule is searched for. */
static ousac_status prepare_search(calibration_work *work, const cli_common *common,
                                   const calibrate_request *request, ousac_error *error) {
    ousac_sample_range fitting, validation;
    if (!request->reference || (isnan(request->allocate.budget.total) && !calibrate_is_timed(request)))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "expected --schedule, or --reference with --budget-total or --budget-time to search "
            "for one");
    if (request->memory.limit || request->memory.dry_run)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--memory and --dry-run: expected --schedule, not a search for one");
    ousac_search_ranges(request->effort, request->micro_batch, &fitting, &validation);
    work->searched = (ousac_sample_range){0, validation.first + validation.count};
    ousac_status status = ousac_schedule_load(&work->reference, request->reference, error);
    const ousac_search_options options = search_options(work, request);
    if (!status)
        status = ousac_search_check(&options, error);
    if (!status && request->time) /* what is wrong with the file itself, before the model is loaded */
        status = ousac_timing_load(&work->timing, request->time, error);
    if (!status)
        status = cli_load_model(&work->model, &request->model, error);
    if (!status && request->time) {
        const ousac_session session = cli_session(common, work->model, request->seed, request->micro_batch);
        status = take_times(work, request, &session, error);
    }
    if (!status)
        status = make_directory(request->directory, error);
    if (!status)
        status = make_paths(work, request->directory, 1, error);
    return status;
}

static ousac_status prepare(calibration_work *work, cli_common *common, const calibrate_request *request,
                            ousac_error *error) {
    uint64_t macs = 0;
    double step = 0;
    if (!request->schedule)
        return prepare_search(work, common, request, error);
    ousac_status status = ousac_schedule_load(&work->schedule, request->schedule, error);
    if (!status && (work->undecided = ousac_place_undecided(&work->schedule)))
        ousac_place_evenly(&work->schedule, request->period);
    if (!status && work->undecided && request->samples &&
        request->samples < OUSAC_PLACE_SAMPLES + OUSAC_DEFAULT_SEARCH_SAMPLES)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--samples %zu: %s leaves its gates to a plan, whose search takes %d samples",
                            request->samples, request->schedule,
                            OUSAC_PLACE_SAMPLES + OUSAC_DEFAULT_SEARCH_SAMPLES);
    if (!status && request->reference)
        status = ousac_schedule_load(&work->reference, request->reference, error);
    if (!status)
        status = plan_memory(work, common, request, error);
    if (status || work->done)
        return status;
    status = cli_load_model(&work->model, &request->model, error);
    work->budget = request->allocate.budget;
    if (!status) /* a wrong budget is told before the directory is touched */
        status = ousac_budget_solve(&work->model->arch, &work->schedule, &work->budget, &macs, &step, error);
    if (!status)
        status = ousac_choice_check(&work->model->arch, &work->schedule, macs, &request->allocate, error);
    if (!status)
        status = ousac_record_check_tokens(work->model, request->tokens, error);
    if (!status)
        status = ousac_run_check_schedule(work->model, &work->schedule, error);
    if (!status && request->reference)
        status = ousac_run_check_schedule(work->model, &work->reference, error);
    if (!status)
        status = make_directory(request->directory, error);
    if (!status)
        status = make_paths(work, request->directory, request->schedule == NULL, error);
    return status;
}

/* Decides gates that the schedule leaves open. */
static ousac_status decide_gates(calibration_work *work, const calibrate_request *request,
                                 const ousac_session *session, ousac_error *error) {
    const ousac_gates_request open = {.even = &work->schedule,
                                      .evaluations = request->allocate.evaluations,
                                      .budget = work->budget,
                                      .kept = work->gates,
                                      .restart = request->partial.restart};
    ousac_gates_decision decision;
    ousac_status status = ousac_gates_decide(session, &open, &decision, error);
    if (!status) {
        ousac_schedule_free(&work->schedule);
        work->schedule = decision.schedule;
        memset(&decision.schedule, 0, sizeof decision.schedule);
        work->budget = decision.budget;
        work->searched = decision.searched;
    }
    ousac_gates_free(&decision);
    return status;
}

/* Searches for a schedule; work->done where fewer steps uncached are the best there is, and no bundle is made. */
static ousac_status search_schedule(calibration_work *work, const calibrate_request *request,
                                    const ousac_session *session, ousac_error *error) {
    ousac_status status = calibrate_is_timed(request) && !request->time
                              ? take_times(work, request, session, error)
                              : OUSAC_STATUS_OK;
    const ousac_search_options options = search_options(work, request);
    if (!status)
        status = ousac_search(session, &options, &work->found, error);
    if (status)
        return status;
    const ousac_search_candidate *best = &work->found.candidate[work->found.best];
    work->done = best->kind != OUSAC_SEARCH_CACHED;
    if (calibrate_is_timed(request)) {
        ousac_search_time_text(&work->timing, request->budget_time, work->budget_text);
        work->terms.remark = work->budget_text;
    }
    status = ousac_schedule_copy(&work->schedule, &best->schedule, error);
    if (!status && !work->done)
        status = ousac_search_terms(&options, &work->found, &work->model->arch, &work->terms, error);
    if (!status)
        status = calibrate_save_search(work, session, &options, error);
    work->budget = work->terms.budget;
    return status;
}

/* What the result takes beside the reference. */
static ousac_status measure_time(calibration_work *work, const ousac_session *session, ousac_error *error) {
    enum { REPEATS = 3 };
    return ousac_stopwatch_compare(&work->measured, session, &work->reference, &work->schedule,
                                   work->calibration, REPEATS, error);
}

/* The numbers once more, on the trajectory as it will ship. The profile keeps what it saw under the numbers before:
 * deltas hardly depend on them. */
static ousac_status fit_again(calibration_work *work, const ousac_session *session, ousac_error *error) {
    const ousac_model *model = session->model;
    const ousac_plan *plan = work->choice.plan;
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    ousac_calibration *calibration = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, work->set, plan->forecast, error);
    const ousac_fit_options options = {
        .numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.calibration = calibration}};
    if (!status)
        status = ousac_search_targets(session, &work->reference, &work->found, error);
    if (!status)
        status = ousac_fit_schedule(session, &options, &work->found.fitted, &work->found.validated,
                                    &work->schedule, &work->fit, error);
    if (!status) {
        ousac_schedule_free(&work->profile->schedule);
        status = ousac_schedule_copy(&work->profile->schedule, &work->schedule, error);
    }
    if (!status) {
        ousac_profile_digest(work->profile, work->choice.plan->profile_digest);
        status = ousac_schedule_save(&work->schedule, work->path[SCHEDULE], error);
    }
    ousac_calibration_free(calibration);
    return status;
}

/* What an interrupted run left: a partial profile, or, where it got further, the whole one. */
static ousac_status take_up(calibration_work *work, const calibrate_request *request, ousac_error *error) {
    const int further = access(work->marker, F_OK) == 0;
    if (request->partial.restart)
        (void)unlink(work->marker);
    return ousac_partial_open(&work->partial, work->path[PROFILE], &request->partial, OUSAC_WEIGHTS_PILOT,
                              further ? work->path[PROFILE] : NULL, error);
}

static ousac_status record(calibration_work *work, const calibrate_request *request,
                           const ousac_session *session, ousac_error *error) {
    static const char mark[] = "profile.oca is complete; the same command goes on from it\n";
    const int automatic = request->samples == 0; /* its rounds cannot be taken up in the middle */
    const size_t pilot = pilot_samples(request);
    ousac_status status = automatic ? OUSAC_STATUS_OK : take_up(work, request, error);
    /* The pilot's own sums are in its file alone: without that it is run again. */
    const int have_weights =
        ousac_partial_has_weights(&work->partial) && access(work->path[WEIGHTS], R_OK) == 0;
    const int again = automatic || (ousac_partial_has_weights(&work->partial) && !have_weights);
    if (!status)
        status = ousac_record_pilot(session, &work->schedule, pilot, again ? NULL : &work->partial,
                                    &work->pilot, &work->cost, error);
    if (!status && !have_weights)
        status = ousac_record_save(session, work->pilot, work->path[WEIGHTS], &work->cost, 0, error);
    if (status)
        return status;
    const ousac_record_options options = {.range = work->samples,
                                          .magnitudes = wants_magnitudes(request),
                                          .tokens = request->tokens,
                                          .segments = 1,
                                          .weights = work->pilot,
                                          .partial = automatic ? NULL : &work->partial,
                                          .spill = request->memory.spill  ? request->memory.spill
                                                   : work->memory.spilled ? request->directory
                                                                          : NULL};
    ousac_record_auto_options stop_rule = request->automatic;
    stop_rule.budget = work->budget;
    if (automatic)
        status = ousac_record_auto(session, &work->schedule, &options, &stop_rule, &work->profile,
                                   &work->cost, error);
    else
        status = ousac_record_profile(session, &work->schedule, &options, &work->profile, &work->cost, error);
    if (!status)
        split_samples(work, request, ousac_profile_samples(work->profile));
    if (!status)
        status = ousac_file_replace(work->marker, mark, sizeof mark - 1, error);
    if (!status)
        status = ousac_record_save(session, work->profile, work->path[PROFILE], &work->cost, 0, error);
    if (!status)
        ousac_partial_remove(&work->partial, session);
    return status;
}

static ousac_status plan_and_pack(calibration_work *work, const calibrate_request *request,
                                  const ousac_session *session, ousac_error *error) {
    ousac_choice_options options = work->terms;
    ousac_status status = ousac_session_factors(session, work->profile, request->made_of, &work->set, error);
    options.validation = work->validation;
    options.budget = work->budget;
    if (!status)
        status = ousac_choice_create(session, work->profile, work->set, &options, &work->choice, error);
    if (!status && !request->schedule) {
        const ousac_search_options searched = search_options(work, request);
        status = fit_again(work, session, error);
        if (!status)
            status = calibrate_save_search(work, session, &searched, error);
    }
    if (!status)
        status = ousac_plan_save(work->choice.plan, work->path[PLAN], error);
    if (status)
        return status;
    const ousac_plan *plan = work->choice.plan;
    const ousac_used_ranges pilots = {work->searched.count ? 2 : 1,
                                      {work->cost.pilot, work->searched},
                                      {"pilot", request->schedule ? "placement" : "search"}};
    const ousac_pack_storage storage = options_pack_storage(&request->storage);
    return ousac_pack(work->path[BUNDLE], work->model, work->profile, &pilots, work->set, &plan, 1,
                      *work->budget_text ? work->budget_text : NULL, &storage, 0, error);
}

/* From the file just written: what ships is what is measured. */
static ousac_status evaluate(calibration_work *work, const calibrate_request *request,
                             const ousac_session *session, ousac_error *error) {
    ousac_provenance provenance;
    ousac_eval_options options = {
        .schedule = &work->schedule,
        .reference = request->reference ? &work->reference : NULL,
        .reference_scale = request->reference_scale,
        .range = work->test,
    };
    ousac_status status = ousac_bundle_open(&work->bundle, work->path[BUNDLE], error);
    if (!status)
        status = ousac_provenance_read(work->path[BUNDLE], &provenance, error);
    if (!status)
        status = ousac_eval_check_samples(session, &provenance, &work->test, session->seed, 0,
                                          &options.held_out, error);
    if (status)
        return status;
    options.plan = ousac_bundle_find_plan(work->bundle, NULL);
    if (!options.plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: the plan just packed is not there",
                          work->path[BUNDLE]);
    status = ousac_bundle_calibration(work->bundle, options.plan, &work->model->arch, work->model->backend,
                                      &work->calibration, error);
    options.calibration = work->calibration;
    for (size_t i = 0; i < work->found.count; i++)
        if (work->found.candidate[i].kind == OUSAC_SEARCH_FITTED)
            options.fitted = &work->found.candidate[i].schedule;
    if (!status)
        status = ousac_eval_create(&work->result, session, &options, error);
    if (!status)
        status = evaluation_save(&work->result, work->path[EVAL], error);
    return status;
}

static ousac_status execute(cli_common *common, const calibrate_request *request, ousac_error *error) {
    calibration_work work = {.start = ousac_clock_s(), .terms = request->allocate};
    ousac_status status = prepare(&work, common, request, error);

    if (status || work.done)
        goto done;
    const ousac_session session = cli_session(common, work.model, request->seed, request->micro_batch);
    split_samples(&work, request, request->samples);
    double since = ousac_clock_s();
    if (work.undecided)
        status = decide_gates(&work, request, &session, error);
    if (!request->schedule) {
        status = search_schedule(&work, request, &session, error);
        split_samples(&work, request, request->samples);
    }
    if (!status)
        status = ousac_schedule_save(&work.schedule, work.path[SCHEDULE], error);
    work.seconds[TIME_PLACEMENT] = ousac_clock_s() - since;
    if (!status && work.done && calibrate_is_timed(request))
        status = measure_time(&work, &session, error);
    if (!status && work.done)
        status = calibrate_report_search(common, request, &work, error);
    if (status || work.done)
        goto done;
    since = ousac_clock_s();
    if (!status)
        status = record(&work, request, &session, error);
    work.seconds[TIME_PROFILING] = ousac_clock_s() - since;
    since = ousac_clock_s();
    if (!status)
        status = plan_and_pack(&work, request, &session, error);
    work.seconds[TIME_ALLOCATION] = ousac_clock_s() - since;
    since = ousac_clock_s();
    if (!status)
        status = evaluate(&work, request, &session, error);
    if (!status && calibrate_is_timed(request))
        status = measure_time(&work, &session, error);
    work.seconds[TIME_EVALUATION] = ousac_clock_s() - since;
    if (!status)
        status = calibrate_draw(&work, error);
    if (!status)
        status = calibrate_save_cost(&work, &session, error);
    if (!status)
        (void)unlink(work.marker);
    if (!status &&
        !request->schedule) /* under the numbers that ship; what can be gone on from was under others */
        status = ousac_record_save(&session, work.profile, work.path[PROFILE], &work.cost, 0, error);
    if (!status)
        status = calibrate_write_report(common, request, &work, error);
    if (!status && (work.undecided || !request->schedule))
        (void)unlink(work.gates);
    if (!status)
        status = calibrate_report(common, request, &work, &session, ousac_clock_s() - work.start, error);
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
    {"effort", 0, CLI_CHOICE, AT(effort), "quick|full", "full",
     "of such a search: how many candidates and samples it takes", 0, 0},
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
    OPTIONS_PARTIAL(AT(partial)),
    OPTIONS_MEMORY(AT(memory)),
    OPTIONS_SPILL(AT(memory)),
    {"output", 'o', CLI_INTO, AT(directory), "DIR", CLI_REQUIRED,
     "directory to write into; made where missing", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

/* A budget in time is one of a search, and the only one. */
static ousac_status check_time(const calibrate_request *request, ousac_error *error) {
    if (request->time && !calibrate_is_timed(request))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--time: expected --budget-time with it");
    if (!calibrate_is_timed(request))
        return OUSAC_STATUS_OK;
    if (!isnan(request->allocate.budget.total) || !isnan(request->allocate.budget.step))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of --budget-time, --budget-total and --budget-step, not several");
    if (request->schedule)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--budget-time: expected --reference without --schedule; a schedule's ranks have "
                          "budgets in MACs");
    if (!(request->allocate.methods & 1U << OUSAC_ALLOCATOR_UNIFORM))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--budget-time: expected uniform among --method; other ranks have not been timed");
    return OUSAC_STATUS_OK;
}

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    calibrate_request *request = values;
    ousac_status status = check_time(request, error);
    if (status)
        return status;
    request->allocate.name = "default";
    request->allocate.granularity = OUSAC_DEFAULT_GRANULARITY;
    request->allocate.rank_min = OUSAC_DEFAULT_RANK_MIN;
    request->automatic.budget = request->allocate.budget;
    if (request->reference && !isnan(request->reference_scale))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of --reference and --reference-scale, not both");
    status = request->samples ? OUSAC_STATUS_OK
                              : ousac_record_auto_check(&request->automatic, request->micro_batch, error);
    return status ? status : execute(&call->common, request, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    static const char *const parts[] = {"profile.oca.part", "calibrate.part", "gates.part", "search.part"};
    const calibrate_request *request = values;
    (void)call;
    if (calibrate_is_timed(request) && !request->time)
        cli_files_written_in(files, "the result", request->directory, "time.json");
    if (!request->schedule)
        cli_files_written_in(files, "the result", request->directory, "search.json");
    for (int i = 0; i < FILES; i++)
        cli_files_written_in(files, "the result", request->directory, file_names[i]);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cli_files_written_in(files, "the partial result", request->directory, parts[i]);
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
        "share of the reference's MACs, it searches for the number of steps, the refreshes of each branch "
        "and the ranks, "
        "with the free numbers of every candidate fitted (as `ousac fit`) on the trajectory with cache and "
        "forecast at "
        "work. Fewer steps, plain and fitted, are always among the candidates: where no cache is better on "
        "validation "
        "samples, their schedule is all that is written. An interrupted search goes on from search.part.\n"
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
        "it compared and what each stage gained; report and `ousac plot curve` draw both.\n"
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
