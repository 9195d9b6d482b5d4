/* Which candidate is taken: the best on the validation and the deciding samples. These are some forty, and the error is of a
 * few of them. Where a new candidate and the best so far are near each other, both are therefore measured on as many
 * samples again, the best only where it needs no factors, since those of an earlier candidate are gone.
 */
#include "pipeline/search_parts.h"

#include <math.h>
#include <string.h>

/* Two are near where neither error is below this part of the other: on so few samples the 95 % interval of an error reaches
 * about a quarter to either side. */
#define NEAR 0.75

static double together(double one, double count_one, double other, double count_other) {
    return sqrt((count_one * one * one + count_other * other * other) / (count_one + count_other));
}

double ousac_search_error(const ousac_search_result *result, const ousac_search_candidate *candidate) {
    const double before = (double)(result->validation.count + result->deciding.count);
    return isnan(candidate->again)
               ? candidate->decided
               : together(candidate->decided, before, candidate->again, (double)result->again.count);
}

/* On the samples that both were measured on. */
static int is_better(const ousac_search_result *result, const ousac_search_candidate *one,
                     const ousac_search_candidate *other) {
    const double a = ousac_search_error(result, one), b = ousac_search_error(result, other);
    const int both = !isnan(one->again) && !isnan(other->again);
    return both && a != b ? a < b : one->decided < other->decided;
}

void ousac_search_add(ousac_search_result *result, ousac_search_candidate *c) {
    result->candidate[result->count] = *c;
    memset(c, 0, sizeof *c);
    if (is_better(result, &result->candidate[result->count], &result->candidate[result->best]))
        result->best = result->count;
    result->looked_again |= !isnan(result->candidate[result->count].again);
    result->count++;
}

/* *relative: INFINITY where a state is not finite. */
static ousac_status measure(ousac_searching *s, const ousac_calibration *calibration,
                            const ousac_search_candidate *c, ousac_fit_target *target,
                            const ousac_sample_range *range, double *relative, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (!target->state)
        status = ousac_fit_target_create(target, s->session, s->options->reference, range, error);
    if (status)
        return status;
    status = ousac_fit_measure(s->session, &(ousac_fit_arm){.calibration = calibration}, target, &c->schedule,
                               relative, &s->result->evaluations, error);
    if (status != OUSAC_STATUS_NUMBER)
        return status;
    *relative = INFINITY;
    return OUSAC_STATUS_OK;
}

static ousac_status look_again(ousac_searching *s, const ousac_calibration *calibration,
                               ousac_search_candidate *c, ousac_error *error) {
    if (!isnan(c->again))
        return OUSAC_STATUS_OK;
    ousac_status status = measure(s, calibration, c, &s->result->looked, &s->result->again, &c->again, error);
    if (!status)
        ousac_session_note(s->session, "%s, %zu steps: near another, so looked at on %llu samples more: %.4g",
                           ousac_search_kind_name(c->kind), c->schedule.step_count,
                           (unsigned long long)s->result->again.count, c->again);
    return status;
}

/* Both of them, where they are near; one of fewer steps as they are is only there to compare. */
static ousac_status look_at_near(ousac_searching *s, const ousac_calibration *calibration,
                                 ousac_search_candidate *c, ousac_error *error) {
    ousac_search_candidate *best = &s->result->candidate[s->result->best];
    const int can = best->kind != OUSAC_SEARCH_CACHED || !isnan(best->again);
    if (s->result->count == 0 || best->kind == OUSAC_SEARCH_FEWER || !can ||
        c->decided < NEAR * best->decided || best->decided < NEAR * c->decided)
        return OUSAC_STATUS_OK;
    const ousac_status status = look_again(s, NULL, best, error);
    return status ? status : look_again(s, calibration, c, error);
}

ousac_status ousac_search_decide(ousac_searching *s, const ousac_calibration *calibration,
                                 ousac_search_candidate *c, ousac_error *error) {
    ousac_search_result *result = s->result;
    double relative = 0;
    ousac_status status = measure(s, calibration, c, &result->decided, &result->deciding, &relative, error);
    if (!status && !isfinite(relative) && c->kind > OUSAC_SEARCH_FITTED) {
        ousac_session_note(s->session, "%s, %zu steps: states are not finite on the deciding samples",
                           ousac_search_kind_name(c->kind), c->schedule.step_count);
        return OUSAC_STATUS_OK;
    }
    if (!status && !isfinite(relative))
        status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "%s, %zu steps: states are not finite",
                            ousac_search_kind_name(c->kind), c->schedule.step_count);
    if (status)
        return status;
    c->decided =
        together(c->error, (double)result->validation.count, relative, (double)result->deciding.count);
    c->again = NAN;
    status = look_at_near(s, calibration, c, error);
    if (status)
        return status;
    ousac_session_note(s->session,
                       "%s, %zu steps: %.1f %% of the %s, relative error %.4g, %.4g before the fit",
                       ousac_search_kind_name(c->kind), c->schedule.step_count, 100 * c->spent,
                       s->options->timing ? "time" : "MACs", ousac_search_error(result, c), c->unfitted);
    ousac_search_add(result, c);
    return OUSAC_STATUS_OK;
}
