/* Patterns of extrapolated candidates: what they cost, where they refresh, and that a search measures them as they run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/cost.h"
#include "pipeline/place.h"
#include "pipeline/search_extrapolate.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 24 };

static tiny_session tiny;

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tiny_session_close(&tiny);
    return 0;
}

static uint64_t price_of(const ousac_price *price, const ousac_schedule *schedule) {
    ousac_price_parts parts;
    ousac_error error = {0};
    must_succeed(ousac_price_count(&parts, schedule, &error), &error);
    return ousac_price_trajectory(price, &parts, 0, 0);
}

static size_t full_of(const ousac_schedule *schedule, int branch) {
    size_t count = 0;
    for (size_t i = 0; i < schedule->step_count; i++) {
        assert_true(schedule->steps[i].gate[branch] == OUSAC_GATE_FULL ||
                    schedule->steps[i].gate[branch] == OUSAC_GATE_EXTRAPOLATE);
        count += schedule->steps[i].gate[branch] == OUSAC_GATE_FULL;
    }
    return count;
}

/* Every p-th to the turning point, then no wider and as evenly as whole steps are, to within one of the last. */
static void check_gaps(const ousac_schedule *schedule, const ousac_search_pattern *p, int branch) {
    size_t before = 0, narrowest = SIZE_MAX, widest = 0, found = 1;
    assert_int_equal(schedule->steps[0].gate[branch], OUSAC_GATE_FULL);
    for (size_t i = 1; i < schedule->step_count; i++)
        if (schedule->steps[i].gate[branch] == OUSAC_GATE_FULL) {
            const size_t gap = i - before;
            if (found < p->before[branch]) {
                assert_int_equal(gap, p->period);
            } else {
                narrowest = gap < narrowest ? gap : narrowest;
                widest = gap > widest ? gap : widest;
            }
            before = i;
            found++;
        }
    assert_true(found == p->before[branch] || (widest <= p->period && widest - narrowest <= 1));
    assert_true(schedule->step_count - before <= p->period);
}

/* Within the budget, which does not hold one full evaluation more. */
static void patterns_spend_the_budget(void **state) {
    ousac_schedule reference, made;
    ousac_search_pattern list[OUSAC_SEARCH_EXTRAPOLATE_MAX];
    ousac_price price;
    ousac_error error = {0};
    size_t seen = 0;
    (void)state;
    must_succeed(ousac_price_of_macs(&price, &tiny.model->arch, &error), &error);
    for (size_t steps = 4; steps <= 50; steps += 23)
        for (int guided = 0; guided < 2; guided++)
            for (int part = 1; part < 20; part++) {
                tiny_schedule(&reference, steps, 3, 1, 1);
                for (size_t i = 0; i < steps && !guided; i++) {
                    reference.steps[i].mode = OUSAC_MODE_COND;
                    reference.steps[i].scale = 1;
                }
                ousac_price_parts parts;
                must_succeed(ousac_price_count(&parts, &reference, &error), &error);
                const uint64_t budget = (uint64_t)(0.05 * part * (double)ousac_price_exact(&price, &parts));
                const ousac_search_options options = {.reference = &reference, .effort = OUSAC_EFFORT_FULL};
                size_t count = 0;
                must_succeed(ousac_search_patterns(&options, &price, budget, list, &count, &error), &error);
                for (size_t k = 0; k < count; k++) {
                    ousac_search_pattern more = list[k];
                    must_succeed(ousac_search_extrapolate_make(&reference, &list[k], &made, &error), &error);
                    must_succeed(ousac_schedule_validate(&made, "made", &error), &error);
                    assert_true(price_of(&price, &made) <= budget);
                    for (int b = 0; b < 1 + guided; b++) {
                        assert_int_equal(full_of(&made, b), list[k].full[b]);
                        check_gaps(&made, &list[k], b);
                    }
                    if (!guided)
                        assert_int_equal(list[k].full[OUSAC_BRANCH_UNCOND], 0);
                    else
                        assert_true(list[k].full[0] - list[k].full[1] <= 1);
                    ousac_schedule_free(&made);
                    /* one more of the branch whose turn it is */
                    more.full[guided && more.full[0] > more.full[1]]++;
                    more.before[0] = more.before[1] = more.period = 1;
                    must_succeed(ousac_search_extrapolate_make(&reference, &more, &made, &error), &error);
                    assert_true(price_of(&price, &made) > budget);
                    ousac_schedule_free(&made);
                    seen++;
                }
                ousac_schedule_free(&reference);
            }
    assert_true(seen > 50);
    ousac_price_free(&price);
}

static void there_is_none_where_none_can_be(void **state) {
    ousac_schedule reference;
    ousac_search_pattern list[OUSAC_SEARCH_EXTRAPOLATE_MAX];
    ousac_price price;
    ousac_error error = {0};
    size_t count = 9;
    (void)state;
    must_succeed(ousac_price_of_macs(&price, &tiny.model->arch, &error), &error);
    const ousac_search_options options = {.reference = &reference};
    tiny_schedule(&reference, 3, 3, 1, 1); /* too few steps */
    must_succeed(ousac_search_patterns(&options, &price, 4 * price.full, list, &count, &error), &error);
    assert_int_equal(count, 0);
    ousac_schedule_free(&reference);
    tiny_schedule(&reference, STEPS, 3, 1, 1); /* one full evaluation a branch */
    must_succeed(ousac_search_patterns(&options, &price, 2 * price.full + 50 * price.extrapolate, list,
                                       &count, &error),
                 &error);
    assert_int_equal(count, 0);
    must_succeed(ousac_search_patterns(&options, &price, UINT64_MAX, list, &count, &error), &error);
    assert_int_equal(count, 0); /* all of them */
    ousac_schedule_free(&reference);
    ousac_price_free(&price);
}

/* The candidate of a search is at work with its gates: what it says before the fit is the error of such a run, at the cost
 * that it says. */
static void a_search_measures_them_as_they_run(void **state) {
    ousac_schedule reference;
    ousac_search_result found;
    ousac_error error = {0};
    const ousac_search_candidate *c = NULL;
    (void)state;
    tiny_schedule(&reference, STEPS, 3, 1, 1);
    const ousac_search_options options = {
        .reference = &reference, .budget = 0.4, .effort = OUSAC_EFFORT_QUICK};
    must_succeed(ousac_search(&tiny.session, &options, &found, &error), &error);
    for (size_t i = 0; i < found.count; i++)
        c = found.candidate[i].kind == OUSAC_SEARCH_EXTRAPOLATED ? &found.candidate[i] : c;
    assert_non_null(c);
    assert_true(ousac_schedule_has_gate(&c->schedule, OUSAC_GATE_EXTRAPOLATE));
    assert_int_equal(c->full, full_of(&c->schedule, 0) + full_of(&c->schedule, 1));
    assert_true(c->share <= 0.4 && c->share > 0.35 && c->share == c->spent);
    assert_true(c->error < c->unfitted && c->decided > 0);

    ousac_fit_target target;
    ousac_schedule plain;
    double relative = 0;
    uint64_t evaluations = 0;
    must_succeed(ousac_schedule_copy(&plain, &reference, &error), &error);
    for (size_t i = 0; i < STEPS; i++)
        memcpy(plain.steps[i].gate, c->schedule.steps[i].gate, sizeof plain.steps[i].gate);
    must_succeed(ousac_fit_target_create(&target, &tiny.session, &reference, &found.validation, &error),
                 &error);
    must_succeed(ousac_fit_measure(&tiny.session, &(ousac_fit_arm){0}, &target, &plain, &relative,
                                   &evaluations, &error),
                 &error);
    assert_true(fabs(relative - c->unfitted) < 1e-6 * relative);
    must_succeed(ousac_fit_measure(&tiny.session, &(ousac_fit_arm){0}, &target, &c->schedule, &relative,
                                   &evaluations, &error),
                 &error);
    assert_true(fabs(relative - c->error) < 1e-6 * relative);
    ousac_fit_target_free(&target);
    ousac_schedule_free(&plain);
    ousac_search_free(&found);
    ousac_schedule_free(&reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_spend_the_budget),
        cmocka_unit_test(there_is_none_where_none_can_be),
        cmocka_unit_test(a_search_measures_them_as_they_run),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
