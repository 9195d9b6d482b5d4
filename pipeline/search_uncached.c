#include "pipeline/search_parts.h"

#include "pipeline/machine.h"
#include "pipeline/place.h"

#include <math.h>

/* How the reference's steps are chosen where no cache is at work: powers of ousac_fit_spaced_steps. Cached ones are
 * chosen evenly: what wider gaps at the beginning cost there was as much as closer steps at the end gained. */
static const double powers[] = {1, 0.85, 0.72, OUSAC_FIT_TO_THE_END};
enum { POWERS = sizeof powers / sizeof *powers };
static const char *const how[POWERS] = {
    "evenly chosen:", "closer together at the end, power 0.85:", "closer together at the end, power 0.72:",
    "evenly chosen, but each of the last ones:"};

size_t ousac_search_ways(void) {
    return POWERS;
}

/* Fits as many steps, chosen in each way, and keeps the best. */
static ousac_status fit_spaced(ousac_searching *s, size_t steps, ousac_search_candidate *best,
                               ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < POWERS && !status; i++) {
        ousac_search_candidate c = {.kind = OUSAC_SEARCH_FITTED, .power = powers[i]};
        status = ousac_fit_spaced_steps(&c.schedule, s->options->reference, steps, powers[i], error);
        if (!status) {
            ousac_place_evenly(&c.schedule, 1);
            status = ousac_search_fit(s, NULL, &c, error);
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
static ousac_status set_shares(const ousac_searching *s, ousac_search_candidate *c, ousac_error *error) {
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

ousac_status ousac_search_try_fewer(ousac_searching *s, size_t steps, ousac_error *error) {
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
        plain.guided = fitted.guided = ousac_search_everywhere(s, steps).guided;
        fitted.share = plain.share;
        fitted.spent = plain.spent;
        s->result->evaluations += evaluations;
        status = ousac_search_decide(s, NULL, &plain, error);
    }
    if (!status) {
        fitted.seconds = ousac_clock_s() - since;
        status = ousac_search_decide(s, NULL, &fitted, error);
    }
    ousac_schedule_free(&plain.schedule);
    ousac_schedule_free(&fitted.schedule);
    return status;
}

ousac_status ousac_search_try_sparse(ousac_searching *s, size_t fewer, double power, ousac_error *error) {
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
            status = ousac_search_fit(s, NULL, &c, error);
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
        status = ousac_search_decide(s, NULL, &best, error);
    }
    ousac_schedule_free(&best.schedule);
    return status;
}

ousac_status ousac_search_try_extrapolated(ousac_searching *s, ousac_error *error) {
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
            status = ousac_search_fit(s, NULL, &c, error);
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
        best.guided = ousac_search_everywhere(s, best.schedule.step_count).guided;
        best.seconds = ousac_clock_s() - since;
        status = ousac_search_decide(s, NULL, &best, error);
    }
    ousac_schedule_free(&best.schedule);
    return status;
}
