#include "pipeline/place.h"

#include "calib/choose/allocate.h"
#include "calib/choose/placement.h"
#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/budget.h"
#include "pipeline/factors.h"
#include "pipeline/gauge.h"
#include "pipeline/machine.h"
#include "pipeline/record.h"
#include "profile/run/probe.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A schedule with its gates decided, calibrated for itself. */
typedef struct contender {
    ousac_schedule schedule;
    ousac_factor_set *set;
    size_t *rank; /* per site: uniform */
    size_t uniform, full;
    ousac_forecast *forecast;
    double predicted, error;
} contender;

typedef struct search {
    const ousac_session *session;
    const ousac_place_options *options;
    const ousac_price *price; /* of the options, or of MACs */
    ousac_gauge gauge;
    int forecast; /* 1: the budget holds one */
    ousac_probe *probe;
    double *amplitude[OUSAC_BRANCHES];
    double probe_tail; /* of the corrections that the probe was made with */
    contender best, even;
    ousac_place_step *steps;
    size_t step_count;
} search;

static void contender_free(contender *c) {
    ousac_factor_set_free(c->set);
    ousac_free(c->rank);
    ousac_forecast_free(c->forecast);
    ousac_schedule_free(&c->schedule);
    memset(c, 0, sizeof *c);
}

void ousac_place_result_free(ousac_place_result *result) {
    ousac_calibration_free(result->calibration);
    ousac_schedule_free(&result->schedule);
    ousac_free(result->steps);
    memset(result, 0, sizeof *result);
}

int ousac_place_undecided(const ousac_schedule *schedule) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (ousac_mode_evaluates(schedule->steps[i].mode, b) &&
                schedule->steps[i].gate[b] == OUSAC_GATE_AUTO)
                return 1;
    return 0;
}

void ousac_place_evenly(ousac_schedule *schedule, size_t period) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            schedule->steps[i].gate[b] = i % period == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
}

/* --- costs --- */

ousac_status ousac_place_rank(const ousac_price *price, const ousac_schedule *schedule, int forecast,
                              uint64_t budget, size_t *rank, ousac_error *error) {
    ousac_price_parts parts;
    const ousac_status status = ousac_price_count(&parts, schedule, error);
    *rank = status ? 0 : ousac_price_rank(price, &parts, forecast, budget);
    return status;
}

ousac_status ousac_place_budget(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t step_macs,
                                uint64_t *macs, size_t *rank, ousac_error *error) {
    ousac_allocation uniform;
    ousac_cost_total cost;
    ousac_status status = ousac_allocate_uniform(arch, NULL, step_macs, &uniform, error);
    if (status)
        return status;
    const ousac_ranks ranks = {.rank = uniform.rank, .dense_fallback = 1};
    status = ousac_cost_trajectory(arch, schedule, &ranks, &cost, error);
    *macs = cost.schedule_cached;
    *rank = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        *rank = uniform.rank[s] > *rank ? uniform.rank[s] : *rank;
    ousac_allocation_free(&uniform);
    return status;
}

/* --- one contender --- */

static void add_step(search *s, const char *kind, const contender *c) {
    s->steps[s->step_count++] = (ousac_place_step){kind, c->full, c->uniform, c->predicted, c->error};
    ousac_session_note(s->session, "%s: %zu full, rank %zu: relative error %.4g", kind, c->full, c->uniform,
                       c->error);
}

static int spent(const search *s) {
    return s->step_count >= s->options->evaluations;
}

/* Factors of the contender's own deltas. */
static ousac_status make_factors(search *s, contender *c, ousac_error *error) {
    ousac_record_cost cost = {0};
    ousac_profile *pilot = NULL, *profile = NULL;
    const size_t samples = s->options->samples;
    ousac_status status = ousac_record_pilot(
        s->session, &c->schedule, samples < OUSAC_PLACE_PILOT_SAMPLES ? samples : OUSAC_PLACE_PILOT_SAMPLES,
        NULL, &pilot, &cost, error);
    const ousac_record_options options = {.range = {0, samples}, .segments = 1, .weights = pilot};
    if (!status)
        status = ousac_record_profile(s->session, &c->schedule, &options, &profile, &cost, error);
    if (!status)
        status = ousac_session_factors(s->session, profile, OUSAC_METHOD_DELTA_COV, &c->set, error);
    ousac_profile_free(profile);
    ousac_profile_free(pilot);
    return status;
}

/* The rank that the budget leaves, the forecast at that rank, and the error. `set` NULL: factors of its own.
 */
static ousac_status measure(search *s, const char *kind, contender *c, ousac_factor_set *set,
                            ousac_error *error) {
    const ousac_arch *arch = &s->session->model->arch;
    const ousac_sample_range fit = {0, s->options->samples < OUSAC_DEFAULT_FORECAST_SAMPLES
                                           ? s->options->samples
                                           : OUSAC_DEFAULT_FORECAST_SAMPLES};
    ousac_cost_total cost;
    ousac_status status = ousac_cost_trajectory(arch, &c->schedule, NULL, &cost, error);
    c->full = cost.forwards_full;
    if (!status)
        status =
            ousac_place_rank(s->price, &c->schedule, s->forecast, s->options->budget, &c->uniform, error);
    if (!status && !set) {
        status = make_factors(s, c, error);
        set = c->set;
    }
    if (status)
        return status;
    c->rank = ousac_malloc(arch->site_count, sizeof *c->rank);
    if (!c->rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks");
    ousac_cost_uniform(arch, c->uniform, c->rank);
    ousac_factor_set_clip(set, arch, c->rank);
    if (s->forecast)
        status = ousac_session_fit_forecast(s->session, &c->schedule, &fit, set, c->rank, kind, &c->forecast,
                                            error);
    if (!status)
        status = ousac_gauge_measure_ranks(&s->gauge, kind, &c->schedule, set, c->rank, c->forecast,
                                           &c->error, error);
    if (!status)
        add_step(s, kind, c);
    return status;
}

/* Keeps the contender where it is better, else frees it; *better says which. */
static void take(search *s, contender *c, int *better) {
    *better = c->error < s->best.error;
    if (*better) {
        contender_free(&s->best);
        s->best = *c;
        memset(c, 0, sizeof *c);
    } else {
        contender_free(c);
    }
}

/* --- the placement's model --- */

/* Mean over sites of the part of the spectrum that a uniform rank leaves. */
static double mean_tail(const ousac_factor_set *set, size_t rank) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < set->site_count; i++) {
        const ousac_factors *f = &set->site[i];
        const double energy = ousac_spectrum_tail(f->lambda, f->lambda_count, 0);
        if (!(energy > 0))
            continue;
        sum += ousac_spectrum_tail(f->lambda, f->lambda_count, rank) / energy;
        count++;
    }
    return count ? sum / (double)count : 0;
}

/* Probes ages and influences with the corrections of a contender, without its forecast. */
static ousac_status probe(search *s, const contender *c, ousac_error *error) {
    const ousac_model *model = s->session->model;
    const ousac_place_options *o = s->options;
    const ousac_ranks ranks = {.rank = c->rank, .dense_fallback = 1};
    ousac_calibration *calibration = NULL;
    ousac_probe *made = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, c->set, NULL, error);
    if (status)
        return status;
    ousac_progress progress = ousac_session_progress(s->session, "probe");
    const ousac_probe_options options = {
        .model = model,
        .schedule = &c->schedule,
        .calibration = calibration,
        .seed = s->session->seed,
        .count = o->probe_samples,
        .micro_batch = ousac_session_batch(s->session, o->probe_samples),
        .threads = ousac_session_threads(s->session),
        .horizon = o->horizon,
        .stride = o->stride < c->schedule.step_count ? o->stride : 1,
        .progress = ousac_progress_update,
        .progress_self = &progress,
        .stop = s->session->stop,
    };
    status = ousac_probe_create(&made, &options, error);
    ousac_progress_end(&progress);
    ousac_calibration_free(calibration);
    if (status)
        return status;
    ousac_probe_free(s->probe);
    s->probe = made;
    s->probe_tail = mean_tail(c->set, c->uniform);
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_free(s->amplitude[b]);
        s->amplitude[b] = ousac_calloc(made->evaluations[b] * made->horizon, sizeof *s->amplitude[b]);
        if (!s->amplitude[b])
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the placement");
        ousac_probe_amplitude(made, &c->schedule, b, s->amplitude[b]);
    }
    return OUSAC_STATUS_OK;
}

/* Which evaluations refresh, by branch, as the placement's model has it. */
typedef struct refreshes {
    unsigned char *at[OUSAC_BRANCHES];
} refreshes;

static void refreshes_free(refreshes *r) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_free(r->at[b]);
}

static ousac_status refreshes_create(const search *s, refreshes *r, ousac_error *error) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        if (!(r->at[b] = ousac_calloc(s->probe->evaluations[b] + 1, 1)))
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the placement");
    return OUSAC_STATUS_OK;
}

/* 1 where some placement is worse than another: not of a model that predicts 0, corrections that are exact, or
 * a branch's first evaluations alone. */
static int any_error(const search *s) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t i = 0; i < s->probe->evaluations[b] * s->probe->horizon; i++)
            if (s->amplitude[b][i] > 0)
                return 1;
    return 0;
}

static void set_branches(const search *s, ousac_placement_branch branches[OUSAC_BRANCHES]) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        branches[b] = (ousac_placement_branch){s->probe->evaluations[b], s->amplitude[b]};
}

static ousac_status read_gates(const search *s, const ousac_schedule *schedule, refreshes *r,
                               ousac_error *error) {
    int *effective = ousac_malloc(schedule->step_count, OUSAC_BRANCHES * sizeof *effective);
    if (!effective)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the placement");
    const ousac_status status = ousac_schedule_effective_gates(schedule, effective, error);
    for (int b = 0; !status && b < OUSAC_BRANCHES; b++)
        for (size_t j = 0; j < s->probe->evaluations[b]; j++)
            r->at[b][j] = effective[s->probe->step[b][j] * OUSAC_BRANCHES + (size_t)b] == OUSAC_GATE_FULL;
    ousac_free(effective);
    return status;
}

/* The gates of a branch that a step does not evaluate are as the other's. */
static void write_gates(const search *s, const refreshes *r, ousac_schedule *schedule) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t j = 0; j < s->probe->evaluations[b]; j++)
            schedule->steps[s->probe->step[b][j]].gate[b] = r->at[b][j] ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (!ousac_mode_evaluates(schedule->steps[i].mode, b))
                schedule->steps[i].gate[b] = schedule->steps[i].gate[1 - b];
}

/* What the model says of a placement; NAN beyond the horizon. */
static double predict(const search *s, const refreshes *r) {
    ousac_placement_branch branches[OUSAC_BRANCHES];
    unsigned char *at[OUSAC_BRANCHES] = {r->at[0], r->at[1]};
    double error = 0;
    set_branches(s, branches);
    return ousac_placement_error(branches, OUSAC_BRANCHES, s->probe->horizon, at, &error, NULL) ? NAN : error;
}

/* The best placement of `full` refreshes, the rank that the budget then leaves and the predicted error of
 * both; *predicted is INFINITY where the number cannot be had. */
static ousac_status path(const search *s, const contender *like, size_t full, refreshes *r, double *predicted,
                         ousac_error *error) {
    ousac_placement_branch branches[OUSAC_BRANCHES];
    unsigned char *at[OUSAC_BRANCHES] = {r->at[0], r->at[1]};
    ousac_schedule schedule = {0};
    size_t rank = 0;
    *predicted = INFINITY;
    set_branches(s, branches);
    if (ousac_placement_solve(branches, OUSAC_BRANCHES, s->probe->horizon, full, at, predicted, NULL)) {
        *predicted = INFINITY;
        return OUSAC_STATUS_OK;
    }
    ousac_status status = ousac_schedule_copy(&schedule, &like->schedule, error);
    if (status)
        return status;
    write_gates(s, r, &schedule);
    status = ousac_place_rank(s->price, &schedule, s->forecast, s->options->budget, &rank, error);
    ousac_schedule_free(&schedule);
    if (rank == 0)
        *predicted = INFINITY;
    else if (s->probe_tail > 0)
        *predicted *= sqrt(mean_tail(like->set, rank) / s->probe_tail);
    return status;
}

/* --- the search --- */

/* Measures the shortest path of `full` refreshes and takes it where it is better. */
static ousac_status try_path(search *s, const char *kind, size_t full, int *better, ousac_error *error) {
    contender c = {0};
    refreshes r = {{NULL, NULL}}, now = {{NULL, NULL}};
    int same = 1;
    *better = 0;
    ousac_status status = refreshes_create(s, &r, error);
    if (!status)
        status = refreshes_create(s, &now, error);
    if (!status)
        status = path(s, &s->best, full, &r, &c.predicted, error);
    if (!status)
        status = read_gates(s, &s->best.schedule, &now, error);
    if (status || isinf(c.predicted))
        goto done;
    same = !s->options->full;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        same &= memcmp(r.at[b], now.at[b], s->probe->evaluations[b]) == 0;
    if (same)
        goto done;
    status = ousac_schedule_copy(&c.schedule, &s->best.schedule, error);
    if (status)
        goto done;
    write_gates(s, &r, &c.schedule);
    status = measure(s, kind, &c, NULL, error);
    if (!status)
        take(s, &c, better);
done:
    contender_free(&c);
    refreshes_free(&r);
    refreshes_free(&now);
    return status;
}

/* The number of refreshes of least predicted error. */
static ousac_status predict_number(search *s, size_t *full, ousac_error *error) {
    const size_t most = s->probe->evaluations[0] + s->probe->evaluations[1];
    double least = INFINITY;
    refreshes r = {{NULL, NULL}};
    ousac_status status = refreshes_create(s, &r, error);
    *full = s->even.full;
    for (size_t n = 1; n < most && !status; n++) {
        double predicted = INFINITY;
        status = path(s, &s->best, n, &r, &predicted, error);
        if (predicted < least) {
            least = predicted;
            *full = n;
        }
    }
    refreshes_free(&r);
    return status;
}

static int was_tried(const search *s, size_t full) {
    for (size_t i = 1; i < s->step_count; i++)
        if (s->steps[i].full == full)
            return 1;
    return 0;
}

/* Numbers of refreshes from `at`, up and down as long as that helps, in steps that shrink. */
static ousac_status walk_numbers(search *s, size_t at, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t step = at / 8 > 0 ? at / 8 : 1; step > 0; step /= 2)
        for (int up = 1; up >= 0; up--) {
            int better = 1;
            while (better && !spent(s) && (up || at > step)) {
                const size_t next = up ? at + step : at - step;
                if (was_tried(s, next))
                    break;
                if ((status = try_path(s, "path", next, &better, error)))
                    return status;
                if (better)
                    at = next;
            }
        }
    return status;
}

/* Why a number of refreshes cannot be placed: the solver's words, or the budget's. */
static ousac_status refuse_number(const search *s, size_t full, ousac_error *error) {
    ousac_placement_branch branches[OUSAC_BRANCHES];
    refreshes r = {{NULL, NULL}};
    double predicted = 0;
    ousac_status status = refreshes_create(s, &r, error);
    set_branches(s, branches);
    if (!status)
        status =
            ousac_placement_solve(branches, OUSAC_BRANCHES, s->probe->horizon, full, r.at, &predicted, error);
    if (!status)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "`full` %zu: the budget of the trajectory holds no rank with so many", full);
    refreshes_free(&r);
    return status;
}

/* From the better of the number predicted and that of the even spacing. */
static ousac_status search_number(search *s, ousac_error *error) {
    size_t at = s->options->full;
    int better = 0;
    ousac_status status = OUSAC_STATUS_OK;
    if (at) { /* asked for: as placed, whatever even spacing would have given */
        s->best.error = INFINITY;
        status = try_path(s, "path", at, &better, error);
        return status || better ? status : refuse_number(s, at, error);
    }
    status = predict_number(s, &at, error);
    if (!status)
        status = try_path(s, "path", at, &better, error);
    if (!status && at != s->even.full && !spent(s)) {
        status = try_path(s, "path", s->even.full, &better, error);
        if (better)
            at = s->even.full;
    }
    return status ? status : walk_numbers(s, at, error);
}

typedef struct move {
    int branch;
    size_t from, to;
    double predicted;
} move;

/* Every single refresh moved by one evaluation, the least predicted error first. Returns how many. */
static size_t list_moves(const search *s, refreshes *r, move *moves) {
    size_t count = 0;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t j = 1; j < s->probe->evaluations[b]; j++)
            for (int up = 0; up < 2; up++) {
                const size_t to = up ? j + 1 : j - 1;
                if (!r->at[b][j] || to == 0 || to >= s->probe->evaluations[b] || r->at[b][to])
                    continue;
                r->at[b][j] = 0;
                r->at[b][to] = 1;
                const move m = {b, j, to, predict(s, r)};
                r->at[b][j] = 1;
                r->at[b][to] = 0;
                if (isnan(m.predicted))
                    continue;
                size_t k = count++;
                for (; k > 0 && moves[k - 1].predicted > m.predicted; k--)
                    moves[k] = moves[k - 1];
                moves[k] = m;
            }
    return count;
}

/* Tries moves with the best contender's factors, which one refresh more or less late hardly changes. */
static ousac_status search_moves(search *s, ousac_error *error) {
    const size_t evaluations = s->probe->evaluations[0] + s->probe->evaluations[1];
    refreshes r = {{NULL, NULL}};
    move *moves = ousac_malloc(2 * evaluations, sizeof *moves);
    ousac_factor_set *set = s->best.set; /* kept alive through the contenders that borrow it */
    ousac_status status = moves ? refreshes_create(s, &r, error)
                                : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the placement");
    s->best.set = NULL;
    if (!status)
        status = read_gates(s, &s->best.schedule, &r, error);
    for (int improved = 1; improved && !status && !spent(s);) {
        const size_t count = list_moves(s, &r, moves);
        improved = 0;
        for (size_t k = 0; k < count && !improved && !status && !spent(s); k++) {
            contender c = {.predicted = moves[k].predicted};
            r.at[moves[k].branch][moves[k].from] = 0;
            r.at[moves[k].branch][moves[k].to] = 1;
            status = ousac_schedule_copy(&c.schedule, &s->best.schedule, error);
            if (!status) {
                write_gates(s, &r, &c.schedule);
                status = measure(s, "move", &c, set, error);
            }
            if (!status)
                take(s, &c, &improved);
            if (!improved) {
                r.at[moves[k].branch][moves[k].from] = 1;
                r.at[moves[k].branch][moves[k].to] = 0;
            }
            contender_free(&c);
        }
    }
    s->best.set = set;
    refreshes_free(&r);
    ousac_free(moves);
    return status;
}

static ousac_status begin(search *s, ousac_error *error) {
    const ousac_place_options *o = s->options;
    const size_t batch = s->session->micro_batch;
    const ousac_sample_range range = {(o->samples + batch - 1) / batch * batch,
                                      o->search_samples ? o->search_samples : OUSAC_DEFAULT_SEARCH_SAMPLES};
    char budget[OUSAC_PRICE_TEXT_BYTES];
    size_t rank = 0;
    ousac_status status = ousac_place_rank(s->price, o->even, 1, o->budget, &rank, error);
    s->forecast = rank > 0;
    if (!status && !s->forecast)
        status = ousac_place_rank(s->price, o->even, 0, o->budget, &rank, error);
    if (!status && rank == 0) {
        ousac_price_text(s->price, o->budget, budget);
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "the budget of %s a sample does not hold rank 1 at the spacing given", budget);
    }
    s->steps = ousac_calloc(o->evaluations, sizeof *s->steps);
    if (!status && !s->steps)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the search");
    if (!status)
        status = ousac_gauge_create(&s->gauge, s->session, o->even, &range, error);
    if (!status)
        status = ousac_schedule_copy(&s->even.schedule, o->even, error);
    s->even.predicted = NAN;
    return status ? status : measure(s, "even", &s->even, NULL, error);
}

/* A copy to search from; its factors stay with the even contender. */
static ousac_status start_from_even(search *s, ousac_error *error) {
    s->best = s->even;
    memset(&s->best.schedule, 0, sizeof s->best.schedule);
    s->best.set = NULL;
    s->best.rank = NULL;
    s->best.forecast = NULL;
    return ousac_schedule_copy(&s->best.schedule, &s->even.schedule, error);
}

/* A number of refreshes that no placement has is told before any is measured. */
static ousac_status check_full(const ousac_place_options *options, ousac_error *error) {
    size_t most = 0, least = 0;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        size_t count = 0;
        for (size_t i = 0; i < options->even->step_count; i++)
            count += (size_t)ousac_mode_evaluates(options->even->steps[i].mode, b);
        most += count;
        least += (count + options->horizon - 1) / options->horizon;
    }
    if (options->full && (options->full < least || options->full > most))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`full` %zu: expected from %zu to %zu full evaluations",
                          options->full, least, most);
    return OUSAC_STATUS_OK;
}

static ousac_status search_all(search *s, ousac_error *error) {
    refreshes r = {{NULL, NULL}};
    int better = 0;
    ousac_status status = begin(s, error);
    if (!status)
        status = probe(s, &s->even, error);
    if (!status)
        status = refreshes_create(s, &r, error);
    if (!status)
        status = read_gates(s, &s->even.schedule, &r, error);
    if (status)
        goto done;
    s->even.predicted = s->steps[0].predicted = predict(s, &r);
    status = start_from_even(s, error);
    if (!status) /* until a contender is better, paths are scaled by the spectra of the even one */
        s->best.set = s->even.set;
    s->even.set = NULL;
    if (!status && !any_error(s) && !s->options->full)
        goto done; /* even spacing is as good as any */
    if (!status)
        status = search_number(s, error);
    if (!status && s->best.rank && !spent(s)) {
        status = probe(s, &s->best, error);
        if (!status)
            status = try_path(s, "probe", s->best.full, &better, error);
    }
    if (!status && s->best.rank && !spent(s))
        status = search_moves(s, error);
done:
    refreshes_free(&r);
    return status;
}

ousac_status ousac_place_search(const ousac_session *session, const ousac_place_options *options,
                                ousac_place_result *result, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const double since = ousac_clock_s();
    ousac_price macs = {0};
    search s = {.session = session, .options = options, .price = options->price ? options->price : &macs};
    ousac_price_parts parts;
    memset(result, 0, sizeof *result);
    ousac_status status = check_full(options, error);
    if (!status && !options->price)
        status = ousac_price_of_macs(&macs, arch, error);
    if (!status)
        status = search_all(&s, error);
    if (status)
        goto done;
    result->placed = s.best.rank != NULL;
    result->schedule = s.best.schedule;
    memset(&s.best.schedule, 0, sizeof s.best.schedule);
    result->rank = s.best.uniform;
    result->forecast = s.forecast;
    result->even_error = s.even.error;
    result->even_predicted = s.even.predicted;
    result->error = s.best.error;
    result->predicted = s.best.predicted;
    result->steps = s.steps;
    s.steps = NULL;
    result->step_count = s.step_count;
    const ousac_ranks even = {.rank = s.even.rank, .dense_fallback = 1, .forecast = s.forecast};
    const ousac_ranks best = {
        .rank = s.best.rank ? s.best.rank : s.even.rank, .dense_fallback = 1, .forecast = s.forecast};
    status = ousac_calibration_create(&result->calibration, session->model->backend, arch, &best,
                                      ousac_factor_set_source, s.best.set,
                                      s.best.rank ? s.best.forecast : s.even.forecast, error);
    if (!status)
        status = ousac_cost_trajectory(arch, &s.even.schedule, &even, &result->even_cost, error);
    if (!status)
        status = ousac_cost_trajectory(arch, &result->schedule, &best, &result->cost, error);
    if (!status)
        status = ousac_price_count(&parts, &result->schedule, error);
    if (!status)
        result->price = ousac_price_trajectory(s.price, &parts, result->rank, result->forecast);
    if (!status && result->price > options->budget)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "the placement's price is %" PRIu64 " of %" PRIu64,
                            result->price, options->budget);
done:
    result->seconds = ousac_clock_s() - since;
    contender_free(&s.best);
    contender_free(&s.even);
    ousac_gauge_free(&s.gauge);
    ousac_probe_free(s.probe);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_free(s.amplitude[b]);
    ousac_free(s.steps);
    ousac_price_free(&macs);
    if (status)
        ousac_place_result_free(result);
    return status;
}
