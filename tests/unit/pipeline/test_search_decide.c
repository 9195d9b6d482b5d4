/* Which candidate is taken, by what samples; and that a second look is of samples that nothing else uses, measures what it
 * says, and is gone on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "pipeline/search_parts.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 24, UNUSED = 90 };

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

static void ranges_lie_behind_each_other(void **state) {
    (void)state;
    for (int effort = OUSAC_EFFORT_QUICK; effort <= OUSAC_EFFORT_FULL; effort++)
        for (uint64_t unused = 0; unused < 300; unused += 23)
            for (size_t batch = 1; batch < 9; batch++) {
                const ousac_search_samples s = ousac_search_samples_of((ousac_effort)effort, batch, unused);
                const ousac_sample_range range[] = {s.fitting, s.validation, s.deciding, s.again};
                uint64_t end = 0;
                for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
                    assert_true(range[i].first >= end && range[i].first % batch == 0 && range[i].count > 0);
                    end = range[i].first + range[i].count;
                }
                assert_true(s.again.first >= unused);
            }
}

/* By what both were measured on; a state that was not finite loses. */
static void the_best_is_of_common_samples(void **state) {
    static const struct {
        double decided[2], again[2];
        size_t best;
    } cases[] = {
        {{0.02, 0.01}, {NAN, NAN}, 1},        {{0.01, 0.02}, {NAN, NAN}, 0},
        {{0.01, 0.011}, {0.02, 0.01}, 1},     {{0.01, 0.011}, {0.01, 0.02}, 0},
        {{0.01, 0.011}, {0.02, NAN}, 0},      {{0.01, 0.011}, {INFINITY, 0.01}, 1},
        {{0.01, 0.011}, {0.01, INFINITY}, 0}, {{0.011, 0.01}, {INFINITY, INFINITY}, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ousac_search_result found = {.validation = {0, 16}, .deciding = {16, 24}, .again = {40, 64}};
        for (int k = 0; k < 2; k++) {
            ousac_search_candidate c = {
                .kind = OUSAC_SEARCH_FITTED, .decided = cases[i].decided[k], .again = cases[i].again[k]};
            ousac_search_add(&found, &c);
        }
        assert_int_equal(found.count, 2);
        assert_int_equal(found.best, cases[i].best);
        assert_int_equal(found.looked_again, !isnan(cases[i].again[0]) || !isnan(cases[i].again[1]));
    }
}

static double error_on(const ousac_schedule *reference, const ousac_sample_range *range,
                       const ousac_schedule *schedule) {
    ousac_fit_target target;
    ousac_error error = {0};
    double relative = 0;
    uint64_t evaluations = 0;
    must_succeed(ousac_fit_target_create(&target, &tiny.session, reference, range, &error), &error);
    must_succeed(ousac_fit_measure(&tiny.session, &(ousac_fit_arm){0}, &target, schedule, &relative,
                                   &evaluations, &error),
                 &error);
    ousac_fit_target_free(&target);
    return relative;
}

static void a_second_look_is_measured_and_kept(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    ousac_schedule reference;
    ousac_search_result found, again;
    ousac_error error = {0};
    size_t looked = 0;
    (void)state;
    tiny_schedule(&reference, STEPS, 3, 1, 1);
    scratch_create(&dir);
    const ousac_search_options options = {.reference = &reference,
                                          .budget = 0.4,
                                          .effort = OUSAC_EFFORT_QUICK,
                                          .kept = scratch_path(&dir, "search.part", path),
                                          .unused = UNUSED};
    must_succeed(ousac_search(&tiny.session, &options, &found, &error), &error);
    assert_true(found.looked_again && found.again.first >= UNUSED);
    for (size_t i = 0; i < found.count; i++) {
        const ousac_search_candidate *c = &found.candidate[i], *best = &found.candidate[found.best];
        if (!isnan(c->again))
            looked++;
        /* but fitted steps and what is taken, whose numbers were fitted once more behind that */
        if (!isnan(c->again) && (c->kind == OUSAC_SEARCH_SPARSE || c->kind == OUSAC_SEARCH_EXTRAPOLATED) &&
            c != best)
            assert_true(fabs(error_on(&reference, &found.again, &c->schedule) - c->again) < 1e-6 * c->again);
        if (!isnan(c->again) && !isnan(best->again))
            assert_true(ousac_search_error(&found, best) <= ousac_search_error(&found, c));
    }
    assert_true(looked >= 2);

    must_succeed(ousac_search(&tiny.session, &options, &again, &error), &error);
    assert_true(again.evaluations < found.evaluations / 2); /* the last fits */
    assert_int_equal(again.count, found.count);
    assert_int_equal(again.best, found.best);
    assert_int_equal(again.looked_again, 1);
    for (size_t i = 0; i < found.count; i++) {
        assert_int_equal(isnan(again.candidate[i].again), isnan(found.candidate[i].again));
        if (!isnan(found.candidate[i].again))
            assert_true(fabs(again.candidate[i].again - found.candidate[i].again) < 1e-14);
    }
    scratch_remove(&dir);
    ousac_search_free(&again);
    ousac_search_free(&found);
    ousac_schedule_free(&reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_lie_behind_each_other),
        cmocka_unit_test(the_best_is_of_common_samples),
        cmocka_unit_test(a_second_look_is_measured_and_kept),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
