/* What leaving out guidance costs, against runs that do; where it is left out; and the candidates of a search that are
 * made so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/fit.h"
#include "pipeline/guide.h"
#include "pipeline/place.h"
#include "pipeline/search.h"
#include "profile/run/walk.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 9, SAMPLES = 4, SIZE = 3 * 8 * 8, VALUES = SAMPLES * SIZE };

static const double scale = 2.5;
static const ousac_sample_range range = {0, SAMPLES};
static tiny_session tiny;
static ousac_schedule guided;
static ousac_guide guide;
static float difference[STEPS][VALUES], end[VALUES];

/* e_c - e_u of every step, and the samples. */
static void walk_guided(void) {
    ousac_walk *walk = NULL;
    ousac_error error = {0};
    const ousac_walk_options options = {.model = tiny.model,
                                        .schedule = &guided,
                                        .exact = 1,
                                        .seed = tiny.session.seed,
                                        .count = SAMPLES,
                                        .micro_batch = tiny.session.micro_batch,
                                        .threads = 1};
    must_succeed(ousac_walk_create(&walk, &options, &error), &error);
    for (size_t j = 0; j < STEPS; j++) {
        must_succeed(ousac_walk_evaluate(walk, &error), &error);
        for (size_t i = 0; i < VALUES; i++)
            difference[j][i] = ousac_walk_predicted(walk, OUSAC_BRANCH_COND)[i] -
                               ousac_walk_predicted(walk, OUSAC_BRANCH_UNCOND)[i];
        must_succeed(ousac_walk_advance(walk, &guided.steps[j], NULL, &error), &error);
    }
    memcpy(end, ousac_walk_state(walk), sizeof end);
    ousac_walk_free(walk);
}

static int set_up(void **state) {
    ousac_error error = {0};
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&guided, STEPS, scale, 1, 1);
    walk_guided();
    must_succeed(ousac_guide_create(&guide, &tiny.session, &guided, &range, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_guide_free(&guide);
    ousac_schedule_free(&guided);
    tiny_session_close(&tiny);
    return 0;
}

static double inner(size_t j, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < VALUES; i++)
        sum += (double)difference[j][i] * (double)difference[k][i];
    return sum;
}

static double amplitude(size_t j, size_t age) {
    return guide.amplitude[j * guide.horizon + age];
}

/* The relative error of a schedule's samples against those that are guided everywhere. */
static double error_of(const ousac_schedule *schedule) {
    float samples[VALUES];
    double sum = 0;
    ousac_error error = {0};
    const ousac_session_run run = {
        .label = "test", .schedule = schedule, .range = range, .exact = 1, .samples = samples};
    must_succeed(ousac_session_run_here(&tiny.session, &run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        double off2 = 0, length2 = 0;
        for (size_t i = s * SIZE; i < (s + 1) * SIZE; i++) {
            off2 += pow((double)samples[i] - (double)end[i], 2);
            length2 += pow((double)end[i], 2);
        }
        sum += off2 / length2;
    }
    return sqrt(sum / SAMPLES);
}

/* With step j alone holding the difference before it, brought as near as one factor can. */
static void the_amplitude_of_one_step_is_the_error_of_leaving_it_out(void **state) {
    ousac_error error = {0};
    (void)state;
    for (size_t j = 1; j < STEPS; j++) {
        ousac_schedule held = {0};
        must_succeed(ousac_schedule_copy(&held, &guided, &error), &error);
        must_succeed(ousac_schedule_make_fitted(&held, &error), &error);
        held.steps[j].mode = OUSAC_MODE_COND;
        held.steps[j].scale = 1;
        held.fitted[j].value[OUSAC_COEFFICIENT_HOLD] = (scale - 1) * inner(j, j - 1) / inner(j - 1, j - 1);
        const double measured = error_of(&held);
        assert_true(measured > 0 && fabs(amplitude(j, 1) - measured) < 1e-4 * measured);
        ousac_schedule_free(&held);
    }
}

static void older_differences_count_by_what_a_factor_leaves(void **state) {
    (void)state;
    for (size_t j = 2; j < STEPS; j++)
        for (size_t age = 2; age <= j; age++) {
            const double rest = inner(j, j) - pow(inner(j, j - age), 2) / inner(j - age, j - age),
                         last = inner(j, j) - pow(inner(j, j - 1), 2) / inner(j - 1, j - 1);
            const double expected = amplitude(j, 1) * sqrt(rest / last);
            assert_true(fabs(amplitude(j, age) - expected) < 1e-4 * expected);
        }
}

/* Of all sets of one size the one with the least sum of squares of what its intervals add, in amplitude. */
static double cost_of(unsigned set) {
    double sum = 0, interval = 0;
    size_t last = 0;
    for (size_t j = 0; j < STEPS; j++) {
        if (set >> j & 1) {
            sum += interval * interval;
            interval = 0;
            last = j;
        } else {
            interval += amplitude(j, j - last);
        }
    }
    return sqrt(sum + interval * interval);
}

static void guidance_is_kept_where_it_is_worth_most(void **state) {
    ousac_error error = {0};
    (void)state;
    for (size_t count = 1; count <= STEPS; count++) {
        ousac_schedule sparse = {0};
        double predicted = 0, least = INFINITY;
        unsigned chosen = 0;
        must_succeed(ousac_guide_place(&guide, &guided, count, &sparse, &predicted, &error), &error);
        must_succeed(ousac_schedule_validate(&sparse, "sparse", &error), &error);
        for (size_t j = 0; j < STEPS; j++) {
            const int kept = sparse.steps[j].mode == OUSAC_MODE_CFG;
            chosen |= (unsigned)kept << j;
            assert_true(kept ? sparse.steps[j].scale == scale
                             : sparse.fitted[j].value[OUSAC_COEFFICIENT_HOLD] == scale - 1);
        }
        assert_int_equal(__builtin_popcount(chosen), count);
        assert_true(chosen & 1);
        for (unsigned set = 1; set < 1u << STEPS; set += 2)
            if (__builtin_popcount(set) == (int)count)
                least = fmin(least, cost_of(set));
        assert_true(fabs(cost_of(chosen) - least) <= 1e-9 * least);
        assert_true(fabs(predicted - least) <= 1e-9 * least);
        ousac_schedule_free(&sparse);
    }
}

static void what_cannot_be_is_refused(void **state) {
    ousac_guide none;
    ousac_schedule sparse = {0}, every_second;
    double predicted = 0;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&every_second, STEPS, scale, 2, 1);
    must_fail(ousac_guide_create(&none, &tiny.session, &every_second, &range, &error), OUSAC_STATUS_USAGE,
              &error, "step 1: mode cond, expected cfg");
    must_fail(ousac_guide_place(&guide, &guided, STEPS + 1, &sparse, &predicted, &error), OUSAC_STATUS_USAGE,
              &error, "10");
    assert_null(sparse.steps);
    /* 13 steps need two guided ones: ages go to 11 */
    assert_int_equal(ousac_guide_least(12), 1);
    assert_int_equal(ousac_guide_least(13), 2);
    ousac_schedule_free(&every_second);
}

/* At scale 1 the unconditional branch adds nothing: a sparse candidate is as good as that many guided steps, and takes
 * what they would cost more. */
static void a_search_leaves_out_what_adds_nothing(void **state) {
    ousac_schedule reference;
    ousac_search_result found;
    ousac_error error = {0};
    const ousac_search_options options = {
        .reference = &reference, .budget = 0.5, .effort = OUSAC_EFFORT_QUICK};
    const ousac_search_candidate *sparse = NULL, *fitted = NULL;
    (void)state;
    tiny_schedule(&reference, 24, 1, 1, 1);
    must_succeed(ousac_search(&tiny.session, &options, &found, &error), &error);
    for (size_t i = 0; i < found.count; i++) {
        sparse = found.candidate[i].kind == OUSAC_SEARCH_SPARSE ? &found.candidate[i] : sparse;
        fitted = found.candidate[i].kind == OUSAC_SEARCH_FITTED ? &found.candidate[i] : fitted;
    }
    assert_non_null(sparse);
    assert_non_null(fitted);
    assert_true(sparse->schedule.step_count == 14 && sparse->guided == 10 && fitted->guided == 12);
    assert_true(sparse->share <= 0.5 && fabs(sparse->share - 24.0 / 48) < 1e-9);
    ousac_schedule plain;
    double error_there = 0;
    uint64_t evaluations = 0;
    const ousac_fit_arm exact = {.exact = 1};
    must_succeed(ousac_fit_spaced_steps(&plain, &reference, 14, sparse->power, &error), &error);
    must_succeed(ousac_fit_measure(&tiny.session, &exact, &found.validated, &plain, &error_there,
                                   &evaluations, &error),
                 &error);
    assert_true(fabs(sparse->unfitted - error_there) < 1e-4 * error_there);
    assert_true(sparse->error < fitted->error);
    ousac_schedule_free(&plain);
    ousac_search_free(&found);
    ousac_schedule_free(&reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_amplitude_of_one_step_is_the_error_of_leaving_it_out),
        cmocka_unit_test(older_differences_count_by_what_a_factor_leaves),
        cmocka_unit_test(guidance_is_kept_where_it_is_worth_most),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_search_leaves_out_what_adds_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
