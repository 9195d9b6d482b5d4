#include "pipeline/search.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/guide.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/search_curve.h"
#include "pipeline/search_extrapolate.h"
#include "pipeline/search_kept.h"
#include "pipeline/search_outline.h"
#include "pipeline/search_sparse.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What an effort spends. */
static const struct spending {
    size_t fitting, validation, deciding; /* samples */
    size_t place_samples;                 /* of the placement's profiles */
    size_t evaluations;                   /* end-to-end runs of a placement */
    size_t cached;                        /* candidates, at most */
} spending[] = {
    [OUSAC_EFFORT_QUICK] = {16, 16, 24, 8, 3, 1},
    [OUSAC_EFFORT_FULL] = {32, 32, 48, 8, 5, 4},
};

enum { PERIOD_MOST = 8, PERIOD_DENSE = 4 };

/* Cached candidates have as many thirds of what the budget pays for uncached. */
enum { THIRDS_FIRST = 4, THIRDS_LAST = 8 };
#define REGULAR_RATIO 1.26 /* how near every p-th step must come: about the distance of two such numbers */

/* How the reference's steps are chosen where no cache is at work: powers of ousac_fit_spaced_steps. Cached ones are
 * chosen evenly: what wider gaps at the beginning cost there was as much as closer steps at the end gained. */
static const double powers[] = {1, 0.85, 0.72, OUSAC_FIT_TO_THE_END};
enum { POWERS = sizeof powers / sizeof *powers };
static const char *const how[POWERS] = {
    "evenly chosen:", "closer together at the end, power 0.85:", "closer together at the end, power 0.72:",
    "evenly chosen, but each of the last ones:"};

typedef struct search {
    const ousac_session *session;
    const ousac_search_options *options;
    ousac_search_result *result;
    ousac_price price; /* what the budget counts */
    uint64_t reference_price;
    uint64_t reference_macs;
} search;

const char *ousac_search_kind_name(ousac_search_kind kind) {
    static const char *const names[] = {"fewer steps", "fitted steps", "cached", "some guided",
                                        "extrapolated"};
    return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

ousac_search_samples ousac_search_samples_of(ousac_effort effort, size_t micro_batch) {
    const struct spending *s = &spending[effort];
    const size_t count[] = {s->fitting, s->validation, s->deciding};
    ousac_sample_range range[3];
    uint64_t first = 0;
    for (size_t i = 0; i < 3; i++) {
        range[i] = (ousac_sample_range){first, count[i]};
        first = (first + count[i] + micro_batch - 1) / micro_batch * micro_batch;
    }
    return (ousac_search_samples){range[0], range[1], range[2]};
}

void ousac_search_free(ousac_search_result *result) {
    for (size_t i = 0; i < result->count; i++)
        ousac_schedule_free(&result->candidate[i].schedule);
    ousac_fit_target_free(&result->fitted);
    ousac_fit_target_free(&result->validated);
    ousac_fit_target_free(&result->decided);
    memset(result, 0, sizeof *result);
}

/* --- what is asked --- */

ousac_status ousac_search_check(const ousac_search_options *options, ousac_error *error) {
    const ousac_schedule *reference = options->reference;
    if (!(options->budget > 0 && options->budget < 1))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "budget %g: expected a share of the reference's cost, above 0 and below 1",
                          options->budget);
    if (ousac_schedule_is_fitted(reference))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "reference %s: has fitted coefficients; expected the textbook's steps that are run today",
            reference->name);
    for (size_t i = 0; i < reference->step_count; i++) {
        const ousac_step *step = &reference->steps[i];
        if (step->mode != reference->steps[0].mode)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "reference %s, step %zu: mode %s after %s; expected one mode at all steps",
                              reference->name, i, ousac_mode_name(step->mode),
                              ousac_mode_name(reference->steps[0].mode));
    }
    if ((size_t)(options->budget * (double)reference->step_count) < 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "budget %g: below what one of the reference's %zu steps costs, %.4g",
                          options->budget, reference->step_count, 1 / (double)reference->step_count);
    return OUSAC_STATUS_OK;
}

static ousac_status begin(search *s, ousac_error *error) {
    const ousac_arch *arch = &s->session->model->arch;
    const ousac_search_options *options = s->options;
    ousac_search_result *result = s->result;
    ousac_cost_total cost;
    ousac_price_parts parts;
    ousac_schedule full = {0};
    const ousac_search_samples samples = ousac_search_samples_of(options->effort, s->session->micro_batch);
    result->fitting = samples.fitting;
    result->validation = samples.validation;
    result->deciding = samples.deciding;
    ousac_status status = options->timing ? ousac_timing_price(&s->price, options->timing, arch, error)
                                          : ousac_price_of_macs(&s->price, arch, error);
    if (!status)
        status = ousac_schedule_copy(&full, options->reference, error);
    if (!status) {
        ousac_place_evenly(&full, 1);
        status = ousac_cost_trajectory(arch, &full, NULL, &cost, error);
    }
    if (!status)
        status = ousac_price_count(&parts, &full, error);
    ousac_schedule_free(&full);
    if (status)
        return status;
    s->reference_macs = cost.schedule_full;
    s->reference_price = ousac_price_exact(&s->price, &parts);
    result->budget = (uint64_t)(options->budget * (double)s->reference_price);
    if (options->timing && !ousac_timing_cache_saves(options->timing))
        ousac_session_note(s->session,
                           "caching saves no time here: a cached evaluation takes %.4g s at rank 1, one in "
                           "full %.4g s; without factors is all there is",
                           options->timing->line[0].fixed + options->timing->line[0].per_rank,
                           options->timing->part[OUSAC_TIMING_FULL].median);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_search_targets(const ousac_session *session, const ousac_schedule *reference,
                                  ousac_search_result *result, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (!result->fitted.state)
        status = ousac_fit_target_create(&result->fitted, session, reference, &result->fitting, error);
    if (!status && !result->validated.state)
        status = ousac_fit_target_create(&result->validated, session, reference, &result->validation, error);
    return status;
}

/* --- candidates --- */

/* As many steps, guided at all of them or, in one branch, at none. */
static ousac_search_sparse everywhere(const search *s, size_t steps) {
    const int guided = s->options->reference->steps[0].mode == OUSAC_MODE_CFG;
    return (ousac_search_sparse){steps, guided ? steps : 0};
}

static void add(search *s, ousac_search_candidate *made) {
    ousac_search_result *result = s->result;
    ousac_search_candidate *c = &result->candidate[result->count];
    *c = *made;
    memset(made, 0, sizeof *made);
    if (c->decided < result->candidate[result->best].decided)
        result->best = result->count;
    result->count++;
    ousac_session_note(s->session,
                       "%s, %zu steps: %.1f %% of the %s, relative error %.4g, %.4g before the fit",
                       ousac_search_kind_name(c->kind), c->schedule.step_count, 100 * c->spent,
                       s->options->timing ? "time" : "MACs", c->decided, c->unfitted);
}

/* Measures a candidate once more, on the deciding samples, and adds it. */
static ousac_status decide(search *s, const ousac_calibration *calibration, ousac_search_candidate *c,
                           ousac_error *error) {
    const double validated = (double)s->result->validation.count,
                 deciding = (double)s->result->deciding.count;
    double relative = 0;
    ousac_status status = OUSAC_STATUS_OK;
    if (!s->result->decided.state)
        status = ousac_fit_target_create(&s->result->decided, s->session, s->options->reference,
                                         &s->result->deciding, error);
    if (!status)
        status =
            ousac_fit_measure(s->session, &(ousac_fit_arm){.calibration = calibration}, &s->result->decided,
                              &c->schedule, &relative, &s->result->evaluations, error);
    if (status)
        return status;
    c->decided =
        sqrt((validated * c->error * c->error + deciding * relative * relative) / (validated + deciding));
    add(s, c);
    return OUSAC_STATUS_OK;
}

static ousac_status fit(search *s, const ousac_calibration *calibration, ousac_search_candidate *c,
                        ousac_error *error) {
    const ousac_fit_options options = {
        .numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.calibration = calibration}};
    ousac_fit_report report;
    ousac_status status = ousac_search_targets(s->session, s->options->reference, s->result, error);
    if (!status)
        status = ousac_fit_schedule(s->session, &options, &s->result->fitted, &s->result->validated,
                                    &c->schedule, &report, error);
    if (status)
        return status;
    c->unfitted = report.before;
    c->error = report.after;
    s->result->evaluations += report.evaluations;
    return OUSAC_STATUS_OK;
}

/* Fits as many steps, chosen in each way, and keeps the best. */
static ousac_status fit_spaced(search *s, size_t steps, ousac_search_candidate *best, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < POWERS && !status; i++) {
        ousac_search_candidate c = {.kind = OUSAC_SEARCH_FITTED, .power = powers[i]};
        status = ousac_fit_spaced_steps(&c.schedule, s->options->reference, steps, powers[i], error);
        if (!status) {
            ousac_place_evenly(&c.schedule, 1);
            status = fit(s, NULL, &c, error);
        }
        if (!status && i > 0)
            ousac_session_note(s->session, "fitted steps %s %.4g, the best before %.4g", how[i], c.error,
                               best->error);
        if (!status && (i == 0 || c.error < best->error)) {
            ousac_search_candidate worse = *best;
            *best = c;
            c = worse;
        }
        ousac_schedule_free(&c.schedule);
    }
    return status;
}

/* What a schedule that is run without factors costs. */
static ousac_status set_shares(const search *s, ousac_search_candidate *c, ousac_error *error) {
    ousac_cost_total cost;
    ousac_price_parts parts;
    ousac_status status = ousac_cost_trajectory(&s->session->model->arch, &c->schedule, NULL, &cost, error);
    if (!status)
        status = ousac_price_count(&parts, &c->schedule, error);
    if (status)
        return status;
    const int keeps = cost.forwards_extrapolate > 0;
    const uint64_t price =
        keeps ? ousac_price_trajectory(&s->price, &parts, 0, 0) : ousac_price_exact(&s->price, &parts);
    c->share = (double)cost.schedule_cached / (double)s->reference_macs;
    c->spent = (double)price / (double)s->reference_price;
    c->full = keeps ? cost.forwards_full : 0;
    return OUSAC_STATUS_OK;
}

/* As many steps as the budget pays for, plain and fitted. */
static ousac_status try_fewer(search *s, size_t steps, ousac_error *error) {
    const double since = ousac_clock_s();
    const ousac_fit_arm arm = {0};
    ousac_search_candidate plain = {.kind = OUSAC_SEARCH_FEWER, .power = 1},
                           fitted = {.kind = OUSAC_SEARCH_FITTED, .power = 1};
    uint64_t evaluations = 0;
    ousac_status status = ousac_fit_fewer_steps(&plain.schedule, s->options->reference, steps, error);
    ousac_place_evenly(&plain.schedule, 1);
    if (!status)
        status = set_shares(s, &plain, error);
    if (!status)
        status = fit_spaced(s, steps, &fitted, error);
    if (!status)
        status = ousac_fit_measure(s->session, &arm, &s->result->validated, &plain.schedule, &plain.error,
                                   &evaluations, error);
    if (!status) {
        plain.unfitted = plain.error;
        plain.guided = fitted.guided = everywhere(s, steps).guided;
        fitted.share = plain.share;
        fitted.spent = plain.spent;
        s->result->evaluations += evaluations;
        status = decide(s, NULL, &plain, error);
    }
    if (!status) {
        fitted.seconds = ousac_clock_s() - since;
        status = decide(s, NULL, &fitted, error);
    }
    ousac_schedule_free(&plain.schedule);
    ousac_schedule_free(&fitted.schedule);
    return status;
}

/* More steps than `fewer`, not all of them guided: from few to more as long as that helps; the best is a candidate. */
static ousac_status try_sparse(search *s, size_t fewer, double power, ousac_error *error) {
    const double since = ousac_clock_s();
    ousac_search_sparse list[OUSAC_SEARCH_SPARSE_MAX];
    const size_t count = ousac_search_sparse_list(s->options, &s->price, s->result->budget + 1, fewer, list);
    ousac_search_candidate best = {.error = INFINITY};
    ousac_status status = OUSAC_STATUS_OK;
    int better = 1;
    for (size_t i = 0; i < count && better && !status; i++) {
        ousac_search_candidate c = {.kind = OUSAC_SEARCH_SPARSE, .power = power, .guided = list[i].guided};
        status = ousac_search_sparse_make(s->session, s->options->reference, &list[i], power, &c.schedule,
                                          &s->result->evaluations, error);
        if (!status)
            status = fit(s, NULL, &c, error);
        if (!status)
            status = set_shares(s, &c, error);
        if (!status)
            ousac_session_note(s->session, "%zu steps, %zu of them guided: %.4g", list[i].steps,
                               list[i].guided, c.error);
        better = !status && c.error < best.error;
        if (status == OUSAC_STATUS_NUMBER) { /* as of a fit that diverges: it is left out */
            ousac_session_note(s->session, "%zu steps, %zu of them guided: states are not finite",
                               list[i].steps, list[i].guided);
            status = OUSAC_STATUS_OK;
        }
        if (better) {
            ousac_search_candidate worse = best;
            best = c;
            c = worse;
        }
        ousac_schedule_free(&c.schedule);
    }
    if (!status && isfinite(best.error)) {
        best.seconds = ousac_clock_s() - since;
        status = decide(s, NULL, &best, error);
    }
    ousac_schedule_free(&best.schedule);
    return status;
}

/* All of the reference's steps, some in full under each pattern; the best is a candidate. */
static ousac_status try_extrapolated(search *s, ousac_error *error) {
    const double since = ousac_clock_s();
    ousac_search_pattern list[OUSAC_SEARCH_EXTRAPOLATE_MAX];
    ousac_search_candidate best = {.error = INFINITY};
    size_t count = 0;
    ousac_status status =
        ousac_search_patterns(s->options, &s->price, s->result->budget + 1, list, &count, error);
    for (size_t i = 0; i < count && !status; i++) {
        const ousac_search_pattern *p = &list[i];
        ousac_search_candidate c = {.kind = OUSAC_SEARCH_EXTRAPOLATED, .power = 1};
        status = ousac_search_extrapolate_make(s->options->reference, p, &c.schedule, error);
        if (!status)
            status = fit(s, NULL, &c, error);
        if (!status)
            status = set_shares(s, &c, error);
        if (!status)
            ousac_session_note(s->session,
                               "extrapolated, refreshed every %zu steps %zu times, then closer: %.4g",
                               p->period, p->before[OUSAC_BRANCH_COND], c.error);
        if (status == OUSAC_STATUS_NUMBER) { /* as of a fit that diverges: it is left out */
            ousac_session_note(s->session,
                               "extrapolated, refreshed every %zu steps %zu times: states are not finite",
                               p->period, p->before[OUSAC_BRANCH_COND]);
            status = OUSAC_STATUS_OK;
        } else if (!status && c.error < best.error) {
            ousac_search_candidate worse = best;
            best = c;
            c = worse;
        }
        ousac_schedule_free(&c.schedule);
    }
    if (!status && isfinite(best.error)) {
        best.guided = everywhere(s, best.schedule.step_count).guided;
        best.seconds = ousac_clock_s() - since;
        status = decide(s, NULL, &best, error);
    }
    ousac_schedule_free(&best.schedule);
    return status;
}

/* Evenly spaced refreshes to begin a placement from: as dense as leaves a cached evaluation what the price wants for it,
 * about which the best placements lie; 0 where not even rank 1 is left. */
static ousac_status even_period(const search *s, ousac_schedule *even, size_t *period, ousac_error *error) {
    const double budget = (double)s->result->budget;
    ousac_status status = OUSAC_STATUS_OK;
    for (*period = 2; *period <= PERIOD_MOST && !status; ++*period) {
        ousac_price_parts parts;
        ousac_place_evenly(even, *period);
        status = ousac_price_count(&parts, even, error);
        if (status)
            break;
        const double wanted = (double)s->price.wanted * (double)parts.cached;
        const ousac_price_parts beside = {
            .steps = parts.steps, .branches = parts.branches, .full = parts.full};
        const double left = budget - (double)ousac_price_trajectory(&s->price, &beside, 0, 0);
        if (ousac_price_rank(&s->price, &parts, 1, s->result->budget) > 0 && left >= wanted)
            return OUSAC_STATUS_OK;
    }
    *period = 0;
    return status;
}

/* So many of the reference's steps, so many of them guided where not all are, cached; *made 0 where the budget holds
 * none. */
static ousac_status try_cached(search *s, const ousac_search_sparse *wanted, int *made, ousac_error *error) {
    const struct spending *spent = &spending[s->options->effort];
    const double since = ousac_clock_s();
    ousac_search_candidate c = {.kind = OUSAC_SEARCH_CACHED, .power = 1};
    ousac_schedule even = {0};
    ousac_place_result placed = {0};
    size_t period = 0;
    *made = 0;
    ousac_status status = wanted->guided > 0 && wanted->guided < wanted->steps
                              ? ousac_search_sparse_make(s->session, s->options->reference, wanted, 1, &even,
                                                         &s->result->evaluations, error)
                              : ousac_fit_fewer_steps(&even, s->options->reference, wanted->steps, error);
    if (!status)
        status = even_period(s, &even, &period, error);
    if (status || period == 0)
        goto done;
    (void)snprintf(even.name, sizeof even.name, "%.60s in %zu steps at %.4g", s->options->reference->name,
                   wanted->steps, s->options->budget);
    const ousac_place_options options = {.even = &even,
                                         .price = &s->price,
                                         .budget = s->result->budget,
                                         .samples = spent->place_samples,
                                         .probe_samples = OUSAC_PLACE_PROBE_SAMPLES / 2,
                                         .horizon = OUSAC_PLACE_HORIZON / 2,
                                         .stride = OUSAC_PLACE_STRIDE,
                                         .evaluations = spent->evaluations};
    status = ousac_place_search(s->session, &options, &placed, error);
    if (!status)
        status = ousac_schedule_copy(&c.schedule, &placed.schedule, error);
    if (!status)
        status = fit(s, placed.calibration, &c, error);
    if (status)
        goto done;
    c.guided = wanted->guided;
    c.full = placed.cost.forwards_full;
    c.rank = placed.rank;
    c.forecast = placed.forecast;
    c.spent = (double)placed.price / (double)s->reference_price;
    c.share = (double)placed.cost.schedule_cached / (double)s->reference_macs;
    c.seconds = ousac_clock_s() - since;
    status = decide(s, placed.calibration, &c, error);
    *made = !status;
done:
    ousac_place_result_free(&placed);
    ousac_schedule_free(&even);
    ousac_schedule_free(&c.schedule);
    return status;
}

/* The first candidate of a kind, of an earlier run or of this one. */
static const ousac_search_candidate *find(const search *s, ousac_search_kind kind) {
    for (size_t i = 0; i < s->result->count; i++)
        if (s->result->candidate[i].kind == kind)
            return &s->result->candidate[i];
    return NULL;
}

/* The cached one of so many steps, so many of them guided. */
static const ousac_search_candidate *find_cached(const search *s, const ousac_search_sparse *wanted) {
    for (size_t i = 0; i < s->result->count; i++) {
        const ousac_search_candidate *c = &s->result->candidate[i];
        if (c->kind == OUSAC_SEARCH_CACHED && c->schedule.step_count == wanted->steps &&
            c->guided == wanted->guided)
            return c;
    }
    return NULL;
}

static ousac_status keep(search *s, ousac_error *error) {
    return s->options->kept ? ousac_search_keep(s->options, s->session, s->result, error) : OUSAC_STATUS_OK;
}

/* Measures it unless it is known; *error_at INFINITY where the budget holds none. */
static ousac_status cached_error(search *s, const ousac_search_sparse *wanted, double *error_at,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int made = 0;
    if (!find_cached(s, wanted)) {
        status = try_cached(s, wanted, &made, error);
        if (!status && made)
            status = keep(s, error);
    }
    const ousac_search_candidate *c = find_cached(s, wanted);
    *error_at = c ? c->error : INFINITY;
    return status;
}

/* As many of the reference's steps as every p-th of them, for the p that comes nearest, or the number itself where none
 * comes near: steps of one length are fitted better than a mixture of two. */
static size_t regular(size_t most, size_t steps) {
    size_t nearest = steps;
    double least = REGULAR_RATIO;
    for (size_t p = 1; p <= most; p++) {
        const size_t here = (most + p - 1) / p;
        const double ratio = here > steps ? (double)here / (double)steps : (double)steps / (double)here;
        if (ratio < least) {
            least = ratio;
            nearest = here;
        }
    }
    return nearest;
}

/* Steps of the cached candidates, rising, and the one to begin with. */
typedef struct numbers {
    size_t steps[THIRDS_LAST - THIRDS_FIRST + 1], count, first;
} numbers;

static size_t thirds(const search *s, size_t fewer, size_t k) {
    const size_t steps = (k * fewer + 1) / 3, most = s->options->reference->step_count;
    return regular(most, steps < most ? steps : most);
}

/* The walk begins at five thirds, or, where the budget would then hold only refreshes that are far apart, at four. */
static ousac_status list_numbers(const search *s, size_t fewer, numbers *list, ousac_error *error) {
    ousac_schedule even = {0};
    size_t period = 0;
    *list = (numbers){.count = 0};
    ousac_status status = ousac_fit_fewer_steps(&even, s->options->reference, thirds(s, fewer, 5), error);
    if (!status)
        status = even_period(s, &even, &period, error);
    ousac_schedule_free(&even);
    const size_t begin_at = thirds(s, fewer, period > 0 && period <= PERIOD_DENSE ? 5 : 4);
    for (size_t k = THIRDS_FIRST; k <= THIRDS_LAST; k++) {
        const size_t steps = thirds(s, fewer, k);
        if (list->count > 0 && steps <= list->steps[list->count - 1])
            continue;
        if (steps == begin_at)
            list->first = list->count;
        list->steps[list->count++] = steps;
    }
    return status;
}

/* The best cached one with as large a part of its steps guided as the sparse one has, where that one was better than the
 * fitted. */
static ousac_status try_both(search *s, size_t steps, ousac_error *error) {
    const ousac_search_candidate *fitted = find(s, OUSAC_SEARCH_FITTED),
                                 *sparse = find(s, OUSAC_SEARCH_SPARSE);
    double here = INFINITY;
    if (s->options->effort == OUSAC_EFFORT_QUICK || !fitted || !sparse || sparse->error >= fitted->error)
        return OUSAC_STATUS_OK;
    const size_t most = sparse->schedule.step_count;
    ousac_search_sparse wanted = {steps, (sparse->guided * steps + most / 2) / most};
    if (wanted.guided < ousac_guide_least(steps))
        wanted.guided = ousac_guide_least(steps);
    if (wanted.guided >= steps)
        return OUSAC_STATUS_OK;
    ousac_status status = cached_error(s, &wanted, &here, error);
    if (status == OUSAC_STATUS_NUMBER) {
        ousac_session_note(s->session, "cached, %zu steps, %zu of them guided: states are not finite", steps,
                           wanted.guided);
        status = OUSAC_STATUS_OK;
    }
    return status;
}

/* From there to more steps, then to fewer, as long as that helps. */
static ousac_status walk(search *s, size_t fewer, ousac_error *error) {
    const size_t most = spending[s->options->effort].cached;
    size_t tried = 1;
    double least = INFINITY;
    numbers list;
    ousac_status status = list_numbers(s, fewer, &list, error);
    size_t at = list.first;
    ousac_search_sparse wanted = everywhere(s, list.steps[at]);
    if (!status)
        status = cached_error(s, &wanted, &least, error);
    for (int up = 1; up >= 0 && !status; up--)
        for (int better = 1; better && tried < most && !status; tried++) {
            double here = INFINITY;
            if (up ? at + 1 == list.count : at == 0)
                break;
            const size_t next = up ? at + 1 : at - 1;
            wanted = everywhere(s, list.steps[next]);
            status = cached_error(s, &wanted, &here, error);
            better = here < least;
            if (better) {
                at = next;
                least = here;
            }
        }
    return status || !isfinite(least) ? status : try_both(s, list.steps[at], error);
}

ousac_status ousac_search_affordable(const ousac_price *price, const ousac_schedule *reference,
                                     uint64_t budget, size_t *steps, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (*steps = reference->step_count; *steps > 0; --*steps) {
        ousac_schedule plain = {0};
        ousac_price_parts parts;
        status = ousac_fit_fewer_steps(&plain, reference, *steps, error);
        ousac_place_evenly(&plain, 1);
        if (!status)
            status = ousac_price_count(&parts, &plain, error);
        ousac_schedule_free(&plain);
        if (status || ousac_price_exact(price, &parts) <= budget)
            break;
    }
    return status;
}

ousac_status ousac_search(const ousac_session *session, const ousac_search_options *options,
                          ousac_search_result *result, ousac_error *error) {
    const double since = ousac_clock_s();
    search s = {.session = session, .options = options, .result = result};
    memset(result, 0, sizeof *result);
    ousac_status status = ousac_search_check(options, error);
    if (!status)
        status = begin(&s, error);
    if (status)
        goto done;
    size_t fewer = 0;
    status = ousac_search_affordable(&s.price, options->reference, result->budget + 1, &fewer,
                                     error); /* the budget was rounded down */
    if (!status && fewer == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "budget %g: below what one of the reference's %zu steps costs", options->budget,
                            options->reference->step_count);
    if (status)
        goto done;
    if (options->kept && !options->restart)
        ousac_search_take_up(options, session, result);
    if (!find(&s, OUSAC_SEARCH_FITTED)) {
        status = try_fewer(&s, fewer, error);
        if (!status)
            status = keep(&s, error);
    }
    if (!status && !find(&s, OUSAC_SEARCH_SPARSE)) {
        status = try_sparse(&s, fewer, find(&s, OUSAC_SEARCH_FITTED)->power, error);
        if (!status)
            status = keep(&s, error);
    }
    if (!status && !find(&s, OUSAC_SEARCH_EXTRAPOLATED)) {
        status = try_extrapolated(&s, error);
        if (!status)
            status = keep(&s, error);
    }
    if (!status)
        status = walk(&s, fewer, error);
    if (!status && options->curve) {
        const ousac_search_prices prices = {&s.price, s.reference_price, s.reference_macs};
        const size_t before = result->point_count;
        status = ousac_search_measure_curve(session, options, &prices, fewer, result, error);
        if (!status && result->point_count > before)
            status = keep(&s, error);
    }
    result->seconds = ousac_clock_s() - since;
done:
    ousac_fit_target_free(&result->decided);
    ousac_price_free(&s.price);
    if (status)
        ousac_search_free(result);
    return status;
}

ousac_status ousac_search_terms(const ousac_search_options *options, const ousac_search_result *result,
                                const ousac_arch *arch, ousac_choice_options *choice, ousac_error *error) {
    const ousac_search_candidate *best = &result->candidate[result->best];
    ousac_cost_total cost;
    ousac_price macs;
    ousac_status status = OUSAC_STATUS_OK;
    /* Half a MAC more, so that rounding loses no rank. */
    if (!options->timing) {
        status = ousac_cost_trajectory(arch, &best->schedule, NULL, &cost, error);
        if (!status)
            choice->budget =
                (ousac_budget){NAN, ((double)result->budget + 0.5) / (double)cost.constant_guidance};
        return status;
    }
    status = ousac_price_of_macs(&macs, arch, error);
    if (status)
        return status;
    if (best->rank > macs.rank_most) { /* of a kept candidate, in a file that may say anything */
        ousac_price_free(&macs);
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "a kept candidate of rank %zu: this model has none",
                          best->rank);
    }
    const int forecast = best->forecast && choice->forecast != OUSAC_FORECAST_OFF;
    const double cached = (double)macs.cached[forecast][best->rank];
    if (choice->forecast == OUSAC_FORECAST_ON && !forecast)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "`forecast` on: the budget in time holds no cached evaluation with one");
    choice->budget = (ousac_budget){fmin((cached + 0.5) / (double)macs.full, 1), NAN};
    choice->methods = 1U << OUSAC_ALLOCATOR_UNIFORM;
    choice->forecast = forecast ? OUSAC_FORECAST_ON : OUSAC_FORECAST_OFF;
    ousac_price_free(&macs);
    return status;
}

/* --- before anything is run --- */

static ousac_status outline_cached(const search *s, size_t steps, ousac_search_outline *outline,
                                   ousac_error *error) {
    ousac_search_cached *c = &outline->cached[outline->cached_count];
    ousac_schedule even = {0};
    ousac_price macs = {0};
    ousac_price_parts parts;
    ousac_status status = ousac_fit_fewer_steps(&even, s->options->reference, steps, error);
    c->steps = steps;
    if (!status)
        status = even_period(s, &even, &c->period, error);
    if (status || c->period == 0)
        goto done;
    ousac_place_evenly(&even, c->period);
    status = ousac_price_count(&parts, &even, error);
    if (!status)
        status = ousac_price_of_macs(&macs, &s->session->model->arch, error);
    if (status)
        goto done;
    c->rank = ousac_price_rank(&s->price, &parts, 0, s->result->budget);
    c->rank = c->rank < macs.rank_most ? c->rank : macs.rank_most;
    c->macs = s->options->timing ? ousac_price_trajectory(&macs, &parts, c->rank, 0) : s->result->budget;
    outline->cached_count++;
done:
    ousac_price_free(&macs);
    ousac_schedule_free(&even);
    return status;
}

ousac_status ousac_search_outline_make(const ousac_session *session, const ousac_search_options *options,
                                       ousac_search_outline *outline, ousac_error *error) {
    const struct spending *spent = &spending[options->effort];
    ousac_search_result result = {0};
    search s = {.session = session, .options = options, .result = &result};
    numbers list;
    memset(outline, 0, sizeof *outline);
    ousac_status status = ousac_search_check(options, error);
    if (!status)
        status = begin(&s, error);
    if (!status)
        status =
            ousac_search_affordable(&s.price, options->reference, result.budget + 1, &outline->fewer, error);
    if (!status && outline->fewer == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "budget %g: below what one of the reference's %zu steps costs", options->budget,
                            options->reference->step_count);
    if (!status)
        status = list_numbers(&s, outline->fewer, &list, error);
    if (status)
        goto done;
    outline->fitting = result.fitting;
    outline->validation = result.validation;
    outline->deciding = result.deciding;
    outline->ways = POWERS;
    outline->sparse_count =
        ousac_search_sparse_list(options, &s.price, result.budget + 1, outline->fewer, outline->sparse);
    status = ousac_search_patterns(options, &s.price, result.budget + 1, outline->pattern,
                                   &outline->pattern_count, error);
    if (status)
        goto done;
    outline->both = outline->sparse_count > 0 && options->effort == OUSAC_EFFORT_FULL;
    outline->cached_most = spent->cached;
    outline->place_samples = spent->place_samples;
    outline->probe_samples = OUSAC_PLACE_PROBE_SAMPLES / 2;
    outline->horizon = OUSAC_PLACE_HORIZON / 2;
    outline->stride = OUSAC_PLACE_STRIDE;
    outline->place_evaluations = spent->evaluations;
    for (size_t k = list.first, n = 0; k < list.count && n < spent->cached && !status; k++, n++)
        status = outline_cached(&s, list.steps[k], outline, error);
    for (size_t k = list.first; k > 0 && spent->cached > 1 && !status; k--)
        status = outline_cached(&s, list.steps[k - 1], outline, error);
    if (options->curve)
        ousac_search_outline_curve(options->effort, outline->fewer, options->reference->step_count,
                                   outline->curve, &outline->curve_count, &outline->curve_ways);
done:
    ousac_price_free(&s.price);
    return status;
}
