#include "pipeline/job.h"

#include "calib/cost.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "pipeline/budget.h"
#include "pipeline/gates.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/shard.h"
#include "profile/bundle/plan_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *ousac_job_file_name(int file) {
    static const char *const names[OUSAC_JOB_FILES] = {
        "schedule.json", "weights.oca", "profile.oca", "plan.oca",       "bundle.oca",
        "time.json",     "gates.part",  "search.part", "calibrate.part", "profile.oca.part"};
    return names[file];
}

int ousac_job_searches(const ousac_job *job) {
    return job->options.schedule == NULL;
}

int ousac_job_is_timed(const ousac_job *job) {
    return !isnan(job->options.budget_time);
}

/* --- what can be said against it --- */

/* A budget in time is one of a search, and the only one. */
static ousac_status check_budgets(const ousac_job_options *o, ousac_error *error) {
    const ousac_budget *budget = &o->choose.budget;
    const int timed = !isnan(o->budget_time);
    if (o->time && !timed)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`time`: expected `budget_time` with it");
    if (timed && o->schedule)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`budget_time`: expected `reference` without `schedule`; a schedule's ranks have "
                          "budgets in MACs");
    if (timed && (!isnan(budget->total) || !isnan(budget->step)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of `budget_time`, `budget_total` and `budget_step`, not several");
    if (timed && !(o->choose.methods & 1U << OUSAC_ALLOCATOR_UNIFORM))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`budget_time`: expected uniform among `method`; other ranks have not been timed");
    if (!o->schedule && (!o->reference || (isnan(budget->total) && !timed)))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "expected `schedule`, or `reference` with `budget_total` or `budget_time` to search for one");
    return OUSAC_STATUS_OK;
}

ousac_search_options ousac_job_search_options(const ousac_job *job) {
    const int timed = ousac_job_is_timed(job);
    return (ousac_search_options){.reference = &job->reference,
                                  .budget =
                                      timed ? job->options.budget_time : job->options.choose.budget.total,
                                  .timing = timed ? &job->timing : NULL,
                                  .effort = job->options.effort,
                                  .kept = job->path[OUSAC_JOB_SEARCH],
                                  .restart = job->options.partial.restart,
                                  .curve = job->options.curve,
                                  .unused = job->next_sample + job->options.test};
}

static ousac_status load_schedule(ousac_job *job, ousac_error *error) {
    const ousac_job_options *o = &job->options;
    const size_t least = OUSAC_PLACE_SAMPLES + OUSAC_DEFAULT_SEARCH_SAMPLES;
    ousac_status status = ousac_schedule_load(&job->schedule, o->schedule, error);
    if (status)
        return status;
    job->open = ousac_place_undecided(&job->schedule);
    if (!job->open)
        return OUSAC_STATUS_OK;
    ousac_place_evenly(&job->schedule, o->period ? o->period : OUSAC_PLACE_PERIOD);
    if (o->samples && o->samples < least)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` %zu: %s leaves its gates to a plan, whose search takes %zu samples",
                          o->samples, o->schedule, least);
    return OUSAC_STATUS_OK;
}

static ousac_status make_paths(ousac_job *job, ousac_error *error) {
    const char *directory = job->options.directory;
    const size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    for (int i = 0; i < OUSAC_JOB_FILES; i++) {
        const size_t size = length + strlen(ousac_job_file_name(i)) + 2;
        job->path[i] = ousac_malloc(size, 1);
        if (!job->path[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
        (void)snprintf(job->path[i], size, "%s%s%s", directory, slash, ousac_job_file_name(i));
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_job_begin(ousac_job *job, const ousac_job_options *options, ousac_error *error) {
    *job = (ousac_job){.options = *options, .choose = options->choose};
    ousac_status status = check_budgets(options, error);
    if (!status && !options->validation)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`validation`: expected at least one sample");
    if (!status)
        status = make_paths(job, error);
    if (!status && options->schedule)
        status = load_schedule(job, error);
    if (!status && options->reference)
        status = ousac_schedule_load(&job->reference, options->reference, error);
    if (status || options->schedule)
        return status;
    const ousac_search_options search = ousac_job_search_options(job);
    status = ousac_search_check(&search, error);
    if (!status && options->time) /* what is wrong with the file itself */
        status = ousac_timing_load(&job->timing, options->time, error);
    return status;
}

void ousac_job_free(ousac_job *job) {
    ousac_search_free(&job->found);
    ousac_choice_free(&job->choice);
    ousac_factor_set_free(job->set);
    ousac_profile_free(job->profile);
    ousac_profile_free(job->pilot);
    ousac_schedule_free(&job->schedule);
    ousac_schedule_free(&job->reference);
    ousac_partial_free(&job->partial);
    for (int i = 0; i < OUSAC_JOB_FILES; i++)
        ousac_free(job->path[i]);
}

size_t ousac_job_pilot(const ousac_job_options *options) {
    return options->samples && options->samples < OUSAC_DEFAULT_PILOT_SAMPLES ? options->samples
                                                                              : OUSAC_DEFAULT_PILOT_SAMPLES;
}

int ousac_job_magnitudes(const ousac_job_options *options) {
    return options->made_of == OUSAC_METHOD_CA_SVD || options->made_of == OUSAC_METHOD_CD_SVD;
}

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return value + (unit - value % unit) % unit;
}

/* Behind the last sample that the search decided on, but for a second look. */
static uint64_t decided_end(const ousac_job *job, const ousac_session *session) {
    const ousac_search_samples s = ousac_search_samples_of(job->options.effort, session->micro_batch, 0);
    return s.deciding.first + s.deciding.count;
}

/* What is tested begins at `used`, or behind the samples of a second look where it would reach into them. */
static void set_next_sample(ousac_job *job, const ousac_session *session, uint64_t used) {
    const ousac_sample_range *again = &job->found.again;
    job->next_sample = round_up(used, session->micro_batch);
    const ousac_sample_range test = {job->next_sample, job->options.test ? job->options.test : 1};
    if (job->found.looked_again && ousac_range_overlaps(&test, again->first, again->count))
        job->next_sample = round_up(again->first + again->count, session->micro_batch);
}

/* Calibration from 0, validation behind it and what a search was fitted to, each from a multiple of the micro-batch; what a
 * search decided on may be among them. */
static void split_samples(ousac_job *job, const ousac_session *session, uint64_t count) {
    const size_t unit = session->micro_batch;
    const uint64_t used = count > job->searched.count ? count : job->searched.count;
    job->samples = (ousac_sample_range){0, count};
    job->validation = (ousac_sample_range){round_up(used, unit), job->options.validation};
    uint64_t end = job->validation.first + job->validation.count;
    if (ousac_job_searches(job) && decided_end(job, session) > end)
        end = decided_end(job, session);
    set_next_sample(job, session, end);
}

/* Takes what evaluations take from the file that is given, or measures it. */
static ousac_status take_times(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const ousac_search_time_options options = {.reference = &job->reference,
                                               .given = job->options.time,
                                               .measured = job->path[OUSAC_JOB_TIME],
                                               .take_up = !job->options.partial.restart &&
                                                          access(job->path[OUSAC_JOB_SEARCH], F_OK) == 0};
    return ousac_search_time(session, &options, &job->timing, error);
}

ousac_status ousac_job_check(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const ousac_model *model = session->model;
    const ousac_job_options *o = &job->options;
    uint64_t macs = 0;
    double step = 0;
    ousac_status status = OUSAC_STATUS_OK;
    if (o->effort == OUSAC_EFFORT_AUTO) {
        const int large = (double)ousac_cost_full(&model->arch) > OUSAC_EFFORT_AUTO_MACS;
        job->options.effort = large ? OUSAC_EFFORT_QUICK : OUSAC_EFFORT_FULL;
        job->effort_decided = 1;
    }
    if (ousac_job_searches(job)) {
        const ousac_search_samples s = ousac_search_samples_of(job->options.effort, session->micro_batch, 0);
        job->searched = (ousac_sample_range){0, s.validation.first + s.validation.count};
        if (o->time && model->use != OUSAC_MODEL_SHAPES) /* whose shapes alone do not say which model it is */
            status = take_times(job, session, error);
    } else {
        status = ousac_budget_solve(&model->arch, &job->schedule, &o->choose.budget, &macs, &step, error);
        if (!status)
            status = ousac_choice_check(&model->arch, &job->schedule, macs, &o->choose, error);
        if (!status)
            status = ousac_run_check_schedule(model, &job->schedule, error);
    }
    if (!status)
        status = ousac_record_check_tokens(model, o->tokens, error);
    if (!status && o->reference)
        status = ousac_run_check_schedule(model, &job->reference, error);
    split_samples(job, session, o->samples);
    return status;
}

/* --- the schedule --- */

static ousac_status decide_gates(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const ousac_gates_request open = {.even = &job->schedule,
                                      .evaluations = job->choose.evaluations,
                                      .budget = job->choose.budget,
                                      .kept = job->path[OUSAC_JOB_GATES],
                                      .restart = job->options.partial.restart};
    ousac_gates_decision decision;
    ousac_status status = ousac_gates_decide(session, &open, &decision, error);
    if (!status) {
        ousac_schedule_free(&job->schedule);
        job->schedule = decision.schedule;
        memset(&decision.schedule, 0, sizeof decision.schedule);
        job->choose.budget = decision.budget;
        job->searched = decision.searched;
    }
    ousac_gates_free(&decision);
    return status;
}

static ousac_status search_schedule(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const int timed = ousac_job_is_timed(job);
    ousac_status status = timed && !job->options.time ? take_times(job, session, error) : OUSAC_STATUS_OK;
    const ousac_search_options options = ousac_job_search_options(job);
    if (!status)
        status = ousac_search(session, &options, &job->found, error);
    if (status)
        return status;
    const ousac_search_candidate *best = &job->found.candidate[job->found.best];
    job->uncached = best->kind != OUSAC_SEARCH_CACHED;
    if (job->uncached)
        set_next_sample(job, session, decided_end(job, session));
    if (timed) {
        ousac_search_time_text(&job->timing, job->options.budget_time, job->budget_text);
        job->choose.remark = job->budget_text;
    }
    status = ousac_schedule_copy(&job->schedule, &best->schedule, error);
    if (!status && !job->uncached)
        status = ousac_search_terms(&options, &job->found, &session->model->arch, &job->choose, error);
    return status;
}

/* --- the profile --- */

/* What an interrupted run left: a partial profile, or, where it got further, the whole one. */
static ousac_status take_up(ousac_job *job, ousac_error *error) {
    const char *marker = job->path[OUSAC_JOB_MARKER], *profile = job->path[OUSAC_JOB_PROFILE];
    const int further = access(marker, F_OK) == 0;
    if (job->options.partial.restart)
        (void)unlink(marker);
    return ousac_partial_open(&job->partial, profile, &job->options.partial, OUSAC_WEIGHTS_PILOT,
                              further ? profile : NULL, error);
}

static ousac_status record(ousac_job *job, const ousac_session *session, ousac_error *error) {
    static const char mark[] = "profile.oca is complete; the same command goes on from it\n";
    const ousac_job_options *o = &job->options;
    const int automatic = o->samples == 0; /* its rounds cannot be taken up in the middle */
    ousac_status status = automatic ? OUSAC_STATUS_OK : take_up(job, error);
    /* The pilot's own sums are in its file alone: without that it is run again. */
    const int have_weights =
        ousac_partial_has_weights(&job->partial) && access(job->path[OUSAC_JOB_WEIGHTS], R_OK) == 0;
    const int again = automatic || (ousac_partial_has_weights(&job->partial) && !have_weights);
    if (!status)
        status = ousac_record_pilot(session, &job->schedule, ousac_job_pilot(o), again ? NULL : &job->partial,
                                    &job->pilot, &job->cost, error);
    if (!status && !have_weights)
        status = ousac_record_save(session, job->pilot, job->path[OUSAC_JOB_WEIGHTS], &job->cost, 0, error);
    if (status)
        return status;
    const ousac_record_options options = {.range = job->samples,
                                          .magnitudes = ousac_job_magnitudes(o),
                                          .tokens = o->tokens,
                                          .segments = 1,
                                          .weights = job->pilot,
                                          .partial = automatic ? NULL : &job->partial,
                                          .spill = o->spill};
    ousac_record_auto_options stop_rule = o->automatic;
    stop_rule.budget = job->choose.budget;
    if (automatic)
        status = ousac_record_auto(session, &job->schedule, &options, &stop_rule, &job->profile, &job->cost,
                                   error);
    else
        status = ousac_record_profile(session, &job->schedule, &options, &job->profile, &job->cost, error);
    if (!status)
        split_samples(job, session, ousac_profile_samples(job->profile));
    if (!status)
        status = ousac_file_replace(job->path[OUSAC_JOB_MARKER], mark, sizeof mark - 1, error);
    if (!status)
        status = ousac_record_save(session, job->profile, job->path[OUSAC_JOB_PROFILE], &job->cost, 0, error);
    if (!status)
        ousac_partial_remove(&job->partial, session);
    return status;
}

/* --- the bundle --- */

/* The numbers once more, on the trajectory as it will ship. The profile keeps what it saw under the numbers before:
 * deltas hardly depend on them. */
static ousac_status fit_again(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const ousac_model *model = session->model;
    const ousac_plan *plan = job->choice.plan;
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    ousac_calibration *calibration = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, job->set, plan->forecast, error);
    if (!status)
        status = ousac_search_fit_last(session, &job->reference, calibration, &job->found, &job->schedule,
                                       &job->fit, error);
    if (!status) {
        ousac_schedule_free(&job->profile->schedule);
        status = ousac_schedule_copy(&job->profile->schedule, &job->schedule, error);
    }
    if (!status) {
        ousac_profile_digest(job->profile, job->choice.plan->profile_digest);
        status = ousac_schedule_save(&job->schedule, job->path[OUSAC_JOB_SCHEDULE], error);
    }
    ousac_calibration_free(calibration);
    return status;
}

static ousac_status plan_and_pack(ousac_job *job, const ousac_session *session, ousac_error *error) {
    const int searches = ousac_job_searches(job);
    ousac_status status =
        ousac_session_factors(session, job->profile, job->options.made_of, &job->set, error);
    job->choose.validation = job->validation;
    if (!status)
        status = ousac_choice_create(session, job->profile, job->set, &job->choose, &job->choice, error);
    if (!status && searches)
        status = fit_again(job, session, error);
    if (!status)
        status = ousac_plan_save(job->choice.plan, job->path[OUSAC_JOB_PLAN], error);
    if (status)
        return status;
    const ousac_plan *plan = job->choice.plan;
    const ousac_sample_range decided = {0, decided_end(job, session)};
    const ousac_used_ranges behind = {job->found.looked_again ? 3
                                      : job->searched.count   ? 2
                                                              : 1,
                                      {job->cost.pilot, searches ? decided : job->searched, job->found.again},
                                      {"pilot", searches ? "search" : "placement", "search"}};
    return ousac_pack(job->path[OUSAC_JOB_BUNDLE], session->model, job->profile, &behind, job->set, &plan, 1,
                      *job->budget_text ? job->budget_text : NULL, &job->options.storage, 0, error);
}

/* --- all of it --- */

ousac_status ousac_job_run(ousac_job *job, const ousac_session *session, ousac_error *error) {
    ousac_status status = ousac_job_check(job, session, error);
    if (!status)
        status = ousac_file_make_directory(job->options.directory, error);
    if (!status && ousac_job_searches(job) && job->effort_decided)
        ousac_session_note(
            session,
            "effort %s: an evaluation takes %.3g multiply-accumulates, and up to %g are searched in full",
            job->options.effort == OUSAC_EFFORT_QUICK ? "quick" : "full",
            (double)ousac_cost_full(&session->model->arch), OUSAC_EFFORT_AUTO_MACS);
    double since = ousac_clock_s();
    if (!status && job->open)
        status = decide_gates(job, session, error);
    if (!status && ousac_job_searches(job))
        status = search_schedule(job, session, error);
    if (!status && !job->uncached)
        split_samples(job, session, job->options.samples);
    if (!status)
        status = ousac_schedule_save(&job->schedule, job->path[OUSAC_JOB_SCHEDULE], error);
    job->seconds[OUSAC_JOB_PLACING] = ousac_clock_s() - since;
    if (status || job->uncached)
        return status;
    since = ousac_clock_s();
    status = record(job, session, error);
    job->seconds[OUSAC_JOB_PROFILING] = ousac_clock_s() - since;
    since = ousac_clock_s();
    if (!status)
        status = plan_and_pack(job, session, error);
    job->seconds[OUSAC_JOB_PACKING] = ousac_clock_s() - since;
    return status;
}

ousac_status ousac_job_finish(ousac_job *job, const ousac_session *session, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    (void)unlink(job->path[OUSAC_JOB_MARKER]);
    if (!job->uncached && ousac_job_searches(job)) /* what could be gone on from was under other numbers */
        status = ousac_record_save(session, job->profile, job->path[OUSAC_JOB_PROFILE], &job->cost, 0, error);
    if (status)
        return status;
    (void)unlink(job->path[OUSAC_JOB_SEARCH]);
    (void)unlink(job->path[OUSAC_JOB_GATES]);
    return OUSAC_STATUS_OK;
}
