/* The search for refreshes and the gates that a run decides by it: what they cost, what they keep, what they refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calib/cost.h"
#include "pipeline/gates.h"
#include "pipeline/gauge.h"
#include "pipeline/place.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 9, PERIOD = 3 };

static tiny_session tiny;
static ousac_schedule even;

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&even, STEPS, 2, 2, PERIOD);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&even);
    tiny_session_close(&tiny);
    return 0;
}

/* MACs of a trajectory at a uniform rank. */
static uint64_t cost_at(const ousac_schedule *schedule, size_t rank, int forecast) {
    size_t ranks[64];
    ousac_cost_total cost;
    ousac_error error = {0};
    const ousac_arch *arch = &tiny.model->arch;
    for (size_t i = 0; i < arch->site_count; i++)
        ranks[i] = rank;
    const ousac_ranks made = {.rank = ranks, .dense_fallback = 1, .forecast = forecast};
    must_succeed(ousac_cost_trajectory(arch, schedule, &made, &cost, &error), &error);
    return cost.schedule_cached;
}

static void even_spacing_refreshes_at_every_period(void **state) {
    ousac_schedule schedule = {0};
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_schedule_copy(&schedule, &even, &error), &error);
    ousac_place_evenly(&schedule, 4);
    assert_false(ousac_place_undecided(&schedule));
    for (size_t i = 0; i < STEPS; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            assert_int_equal(schedule.steps[i].gate[b], i % 4 == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED);
    schedule.steps[1].gate[0] = OUSAC_GATE_AUTO;
    assert_true(ousac_place_undecided(&schedule));
    /* of a branch that is not run, a gate says nothing */
    schedule.steps[1].gate[0] = OUSAC_GATE_CACHED;
    schedule.steps[1].gate[1] = OUSAC_GATE_AUTO;
    assert_false(ousac_place_undecided(&schedule));
    ousac_schedule_free(&schedule);
}

static void the_rank_is_the_largest_that_the_budget_holds(void **state) {
    ousac_error error = {0};
    ousac_price price = {0};
    size_t rank = 0;
    (void)state;
    must_succeed(ousac_price_of_macs(&price, &tiny.model->arch, &error), &error);
    for (int forecast = 0; forecast < 2; forecast++)
        for (size_t wanted = 1; wanted < 8; wanted++) {
            const uint64_t macs = cost_at(&even, wanted, forecast);
            must_succeed(ousac_place_rank(&price, &even, forecast, macs, &rank, &error), &error);
            assert_int_equal(rank, wanted);
            must_succeed(ousac_place_rank(&price, &even, forecast, macs - 1, &rank, &error), &error);
            assert_int_equal(rank, wanted - 1);
        }
    ousac_price_free(&price);
}

static void a_budget_a_step_is_that_of_the_whole(void **state) {
    ousac_error error = {0};
    uint64_t macs = 0;
    size_t rank = 0;
    (void)state;
    const uint64_t full = ousac_cost_full(&tiny.model->arch);
    must_succeed(ousac_place_budget(&tiny.model->arch, &even, full / 3, &macs, &rank, &error), &error);
    assert_true(rank > 0);
    assert_true(macs == cost_at(&even, rank, 0));
}

static ousac_place_options options_of(uint64_t macs, size_t evaluations) {
    return (ousac_place_options){.even = &even,
                                 .budget = macs,
                                 .samples = 4,
                                 .search_samples = 4,
                                 .probe_samples = 4,
                                 .horizon = OUSAC_PLACE_HORIZON,
                                 .stride = OUSAC_PLACE_STRIDE,
                                 .evaluations = evaluations};
}

static void what_is_found_is_measured_and_within_the_budget(void **state) {
    enum { EVALUATIONS = 6 };
    const ousac_place_options options = options_of(cost_at(&even, 5, 1), EVALUATIONS);
    const ousac_sample_range range = {4, 4};
    ousac_place_result found = {0}, again = {0};
    ousac_gauge gauge = {0};
    ousac_error error = {0};
    double measured = NAN;
    (void)state;
    must_succeed(ousac_place_search(&tiny.session, &options, &found, &error), &error);
    assert_true(found.step_count >= 2 && found.step_count <= EVALUATIONS);
    assert_string_equal(found.steps[0].kind, "even");
    assert_true(found.steps[0].error == found.even_error);
    assert_true(found.error <= found.even_error);
    assert_int_equal(found.placed, found.error < found.even_error);
    for (size_t i = 0; i < found.step_count; i++)
        assert_true(found.steps[i].error >= found.error);
    assert_true(cost_at(&found.schedule, found.rank, found.forecast) <= options.budget);
    assert_true(cost_at(&found.schedule, found.rank, found.forecast) == found.cost.schedule_cached);
    /* steps, branches and scales are those that were given; the first evaluation of a branch is full */
    assert_int_equal(found.schedule.step_count, even.step_count);
    for (size_t i = 0; i < STEPS; i++) {
        assert_true(found.schedule.steps[i].timestep == even.steps[i].timestep);
        assert_true(found.schedule.steps[i].scale == even.steps[i].scale);
        assert_int_equal(found.schedule.steps[i].mode, even.steps[i].mode);
    }
    /* the error is what a run with that calibration has on the samples behind the calibration's */
    must_succeed(ousac_gauge_create(&gauge, &tiny.session, &found.schedule, &range, &error), &error);
    const ousac_gauge_arm arm = {
        .label = "again", .schedule = &found.schedule, .calibration = found.calibration};
    must_succeed(ousac_gauge_measure(&gauge, &arm, NULL, &measured, &error), &error);
    assert_true(fabs(measured - found.error) <= 1e-6 * found.error);
    /* and the same search finds the same, whatever the threads */
    ousac_session alone = tiny.session;
    alone.threads = 1;
    must_succeed(ousac_place_search(&alone, &options, &again, &error), &error);
    assert_true(again.error == found.error && again.rank == found.rank);
    for (size_t i = 0; i < STEPS; i++)
        assert_memory_equal(again.schedule.steps[i].gate, found.schedule.steps[i].gate,
                            sizeof even.steps[i].gate);
    ousac_gauge_free(&gauge);
    ousac_place_result_free(&again);
    ousac_place_result_free(&found);
}

static void a_number_of_refreshes_that_is_asked_for_is_kept(void **state) {
    ousac_place_options options = options_of(cost_at(&even, 6, 1), 4);
    ousac_place_result found = {0};
    ousac_cost_total cost;
    ousac_error error = {0};
    (void)state;
    options.full = 5;
    must_succeed(ousac_place_search(&tiny.session, &options, &found, &error), &error);
    must_succeed(ousac_cost_trajectory(&tiny.model->arch, &found.schedule, NULL, &cost, &error), &error);
    if (found.placed)
        assert_int_equal(cost.forwards_full, 5);
    ousac_place_result_free(&found);
    options.full = 1000;
    must_fail(ousac_place_search(&tiny.session, &options, &found, &error), OUSAC_STATUS_USAGE, &error,
              "`full`");
}

static void a_budget_without_a_rank_is_refused(void **state) {
    const ousac_place_options options = options_of(cost_at(&even, 1, 0) - 1, 4);
    ousac_place_result found = {0};
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_place_search(&tiny.session, &options, &found, &error), OUSAC_STATUS_USAGE, &error,
              "rank 1");
}

/* Its prediction is 0 in every evaluation, so no refresh is better than another. */
static void of_a_model_that_predicts_nothing_spacing_stays_even(void **state) {
    random_dit_options nothing = random_dit_defaults();
    tiny_session other;
    ousac_place_result found = {0};
    ousac_error error = {0};
    (void)state;
    nothing.zero_final = 1;
    tiny_session_open(&other, &nothing);
    const ousac_place_options options = options_of(cost_at(&even, 5, 1), 4);
    must_succeed(ousac_place_search(&other.session, &options, &found, &error), &error);
    assert_int_equal(found.placed, 0);
    for (size_t i = 0; i < STEPS; i++)
        assert_int_equal(found.schedule.steps[i].gate[0], even.steps[i].gate[0]);
    ousac_place_result_free(&found);
    tiny_session_close(&other);
}

/* --- gates --- */

static size_t notes;

static void note(void *self, const char *line) {
    (void)self;
    (void)line;
    notes++;
}

static void a_decision_is_kept_for_the_same_run_alone(void **state) {
    const ousac_session_hooks hooks = {.note = note};
    ousac_session session = tiny.session;
    char kept[SCRATCH_PATH_BYTES];
    ousac_gates_decision first = {0}, second = {0};
    ousac_error error = {0};
    (void)state;
    session.hooks = &hooks;
    ousac_gates_request request = {.even = &even,
                                   .evaluations = 3,
                                   .budget = {0.5, NAN},
                                   .kept = scratch_path(&tiny.directory, "gates.part", kept)};
    must_succeed(ousac_gates_decide(&session, &request, &first, &error), &error);
    assert_int_equal(first.resumed, 0);
    assert_true(notes > 0);
    assert_false(ousac_place_undecided(&first.schedule));
    assert_true(first.searched.first == 0 && first.searched.count >= 16);
    /* the budget is what even spacing would have cost */
    assert_true(isnan(first.budget.step));
    must_succeed(ousac_gates_decide(&session, &request, &second, &error), &error);
    assert_int_equal(second.resumed, 1);
    for (size_t i = 0; i < STEPS; i++)
        assert_memory_equal(second.schedule.steps[i].gate, first.schedule.steps[i].gate,
                            sizeof even.steps[i].gate);
    assert_true(second.budget.total == first.budget.total);
    ousac_gates_free(&second);
    /* another seed is another run */
    session.seed++;
    must_succeed(ousac_gates_decide(&session, &request, &second, &error), &error);
    assert_int_equal(second.resumed, 0);
    ousac_gates_free(&second);
    /* that one is kept now; unless it is not to be looked at, or cannot be read */
    must_succeed(ousac_gates_decide(&session, &request, &second, &error), &error);
    assert_int_equal(second.resumed, 1);
    ousac_gates_free(&second);
    request.restart = 1;
    must_succeed(ousac_gates_decide(&session, &request, &second, &error), &error);
    assert_int_equal(second.resumed, 0);
    ousac_gates_free(&second);
    request.restart = 0;
    scratch_put(&tiny.directory, "gates.part", "gates of", 8);
    must_succeed(ousac_gates_decide(&session, &request, &second, &error), &error);
    assert_int_equal(second.resumed, 0);
    ousac_gates_free(&second);
    ousac_gates_free(&first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_spacing_refreshes_at_every_period),
        cmocka_unit_test(the_rank_is_the_largest_that_the_budget_holds),
        cmocka_unit_test(a_budget_a_step_is_that_of_the_whole),
        cmocka_unit_test(what_is_found_is_measured_and_within_the_budget),
        cmocka_unit_test(a_number_of_refreshes_that_is_asked_for_is_kept),
        cmocka_unit_test(a_budget_without_a_rank_is_refused),
        cmocka_unit_test(of_a_model_that_predicts_nothing_spacing_stays_even),
        cmocka_unit_test(a_decision_is_kept_for_the_same_run_alone),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
