#include <ousac/ousac.h>

#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/context_parts.h"
#include "pipeline/factors.h"
#include "pipeline/pack.h"
#include "pipeline/record.h"
#include "pipeline/search.h"
#include "pipeline/search_time.h"
#include "profile/bundle/plan_file.h"
#include "profile/bundle/provenance.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { SCHEDULE, PROFILE, PLAN, BUNDLE, KEPT, TIMES, FILES };

typedef struct work {
    const ousac_session *session;
    char *path[FILES];
    ousac_schedule reference, schedule;
    ousac_choice_options choose; /* how ranks are chosen */
    ousac_timing timing;         /* under a budget in time */
    char budget_text[OUSAC_SEARCH_TIME_BYTES];
    ousac_search_result found;
    ousac_sample_range samples, validation, searched;
    ousac_record_cost cost;
    ousac_profile *pilot, *profile;
    ousac_factor_set *set;
    ousac_choice choice;
    ousac_fit_report fit;
} work;

static ousac_status make_paths(work *w, const char *directory, ousac_error *error) {
    static const char *const names[FILES] = {"schedule.json", "profile.oca", "plan.oca", "bundle.oca",
                                             "search.part"};
    for (size_t i = 0; i < FILES; i++) {
        const size_t bytes = strlen(directory) + strlen(names[i]) + 2;
        w->path[i] = ousac_malloc(bytes, 1);
        if (!w->path[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", directory);
        (void)snprintf(w->path[i], bytes, "%s/%s", directory, names[i]);
    }
    return OUSAC_STATUS_OK;
}

static void end(work *w) {
    ousac_choice_free(&w->choice);
    ousac_factor_set_free(w->set);
    ousac_profile_free(w->profile);
    ousac_profile_free(w->pilot);
    ousac_search_free(&w->found);
    ousac_schedule_free(&w->reference);
    ousac_schedule_free(&w->schedule);
    for (size_t i = 0; i < FILES; i++)
        ousac_free(w->path[i]);
}

static uint64_t round_up(uint64_t value, size_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* The schedule to calibrate for, searched for or given, and the budget of its plan. */
static ousac_status choose_schedule(work *w, const ousac_context_calibrate_options *o, int *cached,
                                    ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    *cached = 1;
    w->choose.budget = (ousac_budget){NAN, o->budget_total};
    if (o->schedule)
        return ousac_session_load_schedule(&w->schedule, o->schedule, error);
    const int timed = !isnan(o->budget_time);
    const ousac_search_options options = {.reference = &w->reference,
                                          .budget = timed ? o->budget_time : o->budget_total,
                                          .timing = timed ? &w->timing : NULL,
                                          .effort = o->effort ? OUSAC_EFFORT_FULL : OUSAC_EFFORT_QUICK,
                                          .kept = w->path[KEPT]};
    ousac_sample_range fitting, validation;
    ousac_search_ranges(options.effort, w->session->micro_batch, &fitting, &validation);
    w->searched = (ousac_sample_range){0, validation.first + validation.count};
    status = ousac_schedule_load(&w->reference, o->reference, error);
    if (!status)
        status = ousac_search_check(&options, error);
    const ousac_search_time_options times = {.reference = &w->reference,
                                             .given = o->time,
                                             .measured = w->path[TIMES],
                                             .take_up = access(w->path[KEPT], F_OK) == 0};
    if (!status && timed)
        status = ousac_search_time(w->session, &times, &w->timing, error);
    if (!status && timed) {
        ousac_search_time_text(&w->timing, o->budget_time, w->budget_text);
        w->choose.remark = w->budget_text;
    }
    if (!status)
        status = ousac_search(w->session, &options, &w->found, error);
    if (status)
        return status;
    const ousac_search_candidate *best = &w->found.candidate[w->found.best];
    *cached = best->kind == OUSAC_SEARCH_CACHED;
    status = ousac_schedule_copy(&w->schedule, &best->schedule, error);
    return status || !*cached
               ? status
               : ousac_search_terms(&options, &w->found, &w->session->model->arch, &w->choose, error);
}

/* The free numbers once more, on the trajectory as it will ship. */
static ousac_status fit_again(work *w, ousac_error *error) {
    const ousac_model *model = w->session->model;
    const ousac_plan *plan = w->choice.plan;
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    ousac_calibration *calibration = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, w->set, plan->forecast, error);
    const ousac_fit_options options = {
        .numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.calibration = calibration}};
    if (!status)
        status = ousac_search_targets(w->session, &w->reference, &w->found, error);
    if (!status)
        status = ousac_fit_schedule(w->session, &options, &w->found.fitted, &w->found.validated, &w->schedule,
                                    &w->fit, error);
    if (!status) {
        ousac_schedule_free(&w->profile->schedule);
        status = ousac_schedule_copy(&w->profile->schedule, &w->schedule, error);
    }
    if (!status) {
        ousac_profile_digest(w->profile, w->choice.plan->profile_digest);
        status = ousac_schedule_save(&w->schedule, w->path[SCHEDULE], error);
    }
    ousac_calibration_free(calibration);
    return status;
}

static ousac_status make_bundle(work *w, const ousac_context_calibrate_options *o, ousac_error *error) {
    const ousac_pack_storage storage = {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD};
    const uint64_t pilot =
        o->samples < OUSAC_DEFAULT_PILOT_SAMPLES ? o->samples : OUSAC_DEFAULT_PILOT_SAMPLES;
    ousac_status status =
        ousac_record_pilot(w->session, &w->schedule, (size_t)pilot, NULL, &w->pilot, &w->cost, error);
    const ousac_record_options record = {
        .range = w->samples, .tokens = o->tokens, .segments = 1, .weights = w->pilot};
    if (!status)
        status = ousac_record_profile(w->session, &w->schedule, &record, &w->profile, &w->cost, error);
    if (!status)
        status = ousac_record_save(w->session, w->profile, w->path[PROFILE], &w->cost, 0, error);
    if (!status)
        status = ousac_session_factors(w->session, w->profile, OUSAC_METHOD_DELTA_COV, &w->set, error);
    w->choose.validation = w->validation;
    if (!status)
        status = ousac_choice_create(w->session, w->profile, w->set, &w->choose, &w->choice, error);
    if (!status && !o->schedule)
        status = fit_again(w, error);
    if (!status)
        status = ousac_plan_save(w->choice.plan, w->path[PLAN], error);
    if (status)
        return status;
    const ousac_plan *plan = w->choice.plan;
    const ousac_used_ranges pilots = {
        w->searched.count ? 2 : 1, {w->cost.pilot, w->searched}, {"pilot", "search"}};
    return ousac_pack(w->path[BUNDLE], w->session->model, w->profile, &pilots, w->set, &plan, 1,
                      *w->budget_text ? w->budget_text : NULL, &storage, 0, error);
}

void ousac_context_calibrate_options_init(ousac_context_calibrate_options *options) {
    *options = (ousac_context_calibrate_options){.size = sizeof *options,
                                                 .budget_total = NAN,
                                                 .budget_time = NAN,
                                                 .effort = 1,
                                                 .samples = OUSAC_DEFAULT_CALIBRATION_SAMPLES,
                                                 .validation = OUSAC_DEFAULT_VALIDATION_SAMPLES};
}

void ousac_context_calibration_init(ousac_context_calibration *result) {
    *result = (ousac_context_calibration){.size = sizeof *result};
}

ousac_status ousac_context_calibrate(ousac_context *context, const ousac_context_calibrate_options *options,
                                     const char *directory, ousac_context_calibration *result,
                                     ousac_error *error) {
    const size_t unit = context->session.micro_batch;
    ousac_context_calibrate_options o;
    ousac_context_calibration out;
    int cached = 0;
    work w = {.session = &context->session,
              .choose = {.name = "default",
                         .methods = OUSAC_ALLOCATORS_AUTO,
                         .forecast = OUSAC_FORECAST_AUTO,
                         .granularity = OUSAC_DEFAULT_GRANULARITY,
                         .rank_min = OUSAC_DEFAULT_RANK_MIN}};
    TAKE_OPTIONS(ousac_context_calibrate_options, o, options, error);
    TAKE_OPTIONS(ousac_context_calibration, out, result, error);
    const int timed = !isnan(o.budget_time);
    if (!o.reference == !o.schedule || (!timed && !(o.budget_total > 0)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of `reference` and `schedule`, and `budget_total` above 0");
    if (timed && (o.schedule || !isnan(o.budget_total)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`budget_time`: expected `reference`, without `schedule` and `budget_total`");
    if (o.time && !timed)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`time`: expected `budget_time` with it");
    if (!o.samples || !o.validation)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` and `validation`: expected at least one each");
    ousac_status status = make_paths(&w, directory, error);
    if (!status)
        status = choose_schedule(&w, &o, &cached, error);
    if (!status)
        status = ousac_schedule_save(&w.schedule, w.path[SCHEDULE], error);
    const uint64_t used = o.samples > w.searched.count ? o.samples : w.searched.count;
    w.samples = (ousac_sample_range){0, o.samples};
    w.validation = (ousac_sample_range){round_up(used, unit), o.validation};
    if (!status && cached)
        status = make_bundle(&w, &o, error);
    if (status)
        goto done;
    (void)unlink(w.path[KEPT]);
    out.cached = cached;
    out.steps = w.schedule.step_count;
    out.validation_error = w.found.count ? w.found.candidate[w.found.best].error : NAN;
    out.next_sample = cached ? round_up(w.validation.first + w.validation.count, unit) : round_up(used, unit);
    out.size = result->size;
    memcpy(result, &out, result->size);
done:
    end(&w);
    return status;
}
