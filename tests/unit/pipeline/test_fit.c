/* Fits against references whose numbers are known, and searches for what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/fit.h"
#include "pipeline/fit_parts.h"
#include "pipeline/search.h"
#include "tests/support/tiny_session.h"

enum { SIZE = 3 * 8 * 8, STEPS = 8 };

static tiny_session tiny;
static const ousac_sample_range fitting_range = {0, 8}, validation_range = {8, 6};

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

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

/* `count` steps from 990 down, evenly; guided at every `every`-th. */
static void make_schedule(ousac_schedule *schedule, size_t count, double scale, size_t every) {
    double scales[64];
    ousac_gate gates[64];
    ousac_error error = {0};
    for (size_t i = 0; i < count; i++) {
        scales[i] = i % every == 0 ? scale : NAN;
        gates[i] = OUSAC_GATE_FULL;
    }
    const ousac_schedule_options options = {"made",          count,  1000,  OUSAC_SPACING_LINSPACE,
                                            OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must(ousac_schedule_build(schedule, &options, &error), &error);
}

static void make_targets(const ousac_schedule *reference, ousac_fit_target *fitting,
                         ousac_fit_target *validation) {
    ousac_error error = {0};
    must(ousac_fit_target_create(fitting, &tiny.session, reference, &fitting_range, &error), &error);
    must(ousac_fit_target_create(validation, &tiny.session, reference, &validation_range, &error), &error);
}

static ousac_fit_options fit_options(int stepwise, size_t jacobians) {
    return (ousac_fit_options){.numbers = OUSAC_FIT_NUMBERS,
                               .stepwise = stepwise,
                               .jacobians = jacobians,

                               .arm = {.exact = 1}};
}

/* The error of a schedule by runs of its own. */
static double measure(const ousac_schedule *schedule, const ousac_schedule *reference,
                      const ousac_sample_range *range) {
    static float a[16 * SIZE], b[16 * SIZE];
    double sum = 0;
    ousac_error error = {0};
    ousac_run run = {.model = tiny.model,
                     .schedule = schedule,
                     .seed = tiny.session.seed,
                     .first = range->first,
                     .count = range->count,
                     .micro_batch = 2,
                     .threads = 1,
                     .exact = 1,
                     .samples = a};
    must(ousac_run_samples(&run, &error), &error);
    run.schedule = reference;
    run.samples = b;
    must(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < range->count; s++) {
        double difference = 0, norm = 0;
        for (size_t i = s * SIZE; i < (s + 1) * SIZE; i++) {
            difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            norm += (double)b[i] * (double)b[i];
        }
        sum += difference / norm;
    }
    return sqrt(sum / (double)range->count);
}

/* Same steps, other scales and a held difference where the reference is guided: what was changed is found again. */
static void numbers_that_were_moved_are_found(void **state) {
    (void)state;
    for (int newton = 0; newton < 2; newton++) {
        ousac_schedule reference = {0}, schedule = {0};
        ousac_fit_target fitting, validation;
        ousac_fit_report report;
        ousac_error error = {0};
        make_schedule(&reference, STEPS, 3, 1);
        make_schedule(&schedule, STEPS, 1.5, 1);
        make_targets(&reference, &fitting, &validation);
        const ousac_fit_options options = fit_options(!newton, newton ? 4 : 0);
        const double before = measure(&schedule, &reference, &validation_range);
        must(ousac_fit_schedule(&tiny.session, &options, &fitting, &validation, &schedule, &report, &error),
             &error);
        const double after = measure(&schedule, &reference, &validation_range);
        print_message("%s: %.3g to %.3g, fitted %.3g, %zu steps\n", newton ? "newton" : "stepwise", before,
                      after, report.fitted, report.steps);
        assert_true(fabs(report.before - before) < 1e-6 * before);
        assert_true(fabs(report.after - after) < 1e-6 * after + 1e-9);
        assert_true(after < 0.02 * before);
        assert_true(report.evaluations > 0);
        assert_false(report.diverged);
        ousac_fit_target_free(&fitting);
        ousac_fit_target_free(&validation);
        ousac_schedule_free(&reference);
        ousac_schedule_free(&schedule);
    }
}

/* Fewer steps, and fewer guided steps; Gauss-Newton goes on where the stepwise fit ends. */
static void fewer_steps_come_nearer(void **state) {
    (void)state;
    for (size_t every = 1; every <= 2; every++) {
        ousac_schedule reference = {0}, schedule = {0}, again = {0};
        ousac_fit_target fitting, validation;
        ousac_fit_report stepwise, both;
        ousac_error error = {0};
        make_schedule(&reference, 2 * STEPS, 3, 1);
        must(ousac_fit_fewer_steps(&schedule, &reference, STEPS, &error), &error);
        assert_int_equal(schedule.step_count, STEPS);
        for (size_t i = 0; i < STEPS; i++) {
            assert_true(schedule.steps[i].timestep == reference.steps[2 * i].timestep);
            if (i % every)
                schedule.steps[i] = (ousac_step){schedule.steps[i].timestep, OUSAC_MODE_COND, 1, {0, 0}};
        }
        must(ousac_schedule_copy(&again, &schedule, &error), &error);
        make_targets(&reference, &fitting, &validation);
        ousac_fit_options options = fit_options(1, 0);
        must(ousac_fit_schedule(&tiny.session, &options, &fitting, &validation, &schedule, &stepwise, &error),
             &error);
        options = fit_options(1, 2);
        options.knots = 4;
        must(ousac_fit_schedule(&tiny.session, &options, &fitting, &validation, &again, &both, &error),
             &error);
        print_message("guided at every %zu: %.3g, stepwise %.3g, newton %.3g (%zu columns, %zu steps)\n",
                      every, stepwise.before, stepwise.after, both.after, both.columns, both.steps);
        assert_true(stepwise.after < 0.6 * stepwise.before);
        assert_true(both.stepwise == stepwise.after && both.after <= both.stepwise);
        assert_int_equal(both.columns % (every == 1 ? 16 : 20), 0); /* 4 knots of 4 or 5 kinds */
        assert_true(both.steps > 0);
        if (every == 2)
            assert_true(schedule.fitted[1].value[OUSAC_COEFFICIENT_HOLD] != 0);
        must(ousac_schedule_validate(&schedule, "fitted", &error), &error);
        ousac_fit_target_free(&fitting);
        ousac_fit_target_free(&validation);
        ousac_schedule_free(&reference);
        ousac_schedule_free(&schedule);
        ousac_schedule_free(&again);
    }
}

/* By two groups of samples: the mean of what each by itself gives, weighted by how many they are. */
static void groups_are_fitted_and_averaged(void **state) {
    static const ousac_sample_range other_range = {14, 4};
    ousac_schedule reference = {0}, by[3];
    ousac_fit_target fitting, validation, other;
    ousac_fit_report report;
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    make_targets(&reference, &fitting, &validation);
    must(ousac_fit_target_create(&other, &tiny.session, &reference, &other_range, &error), &error);
    for (int i = 0; i < 3; i++) {
        ousac_fit_options options = fit_options(1, 0);
        options.beside = i == 2 ? &other : NULL;
        must(ousac_fit_fewer_steps(&by[i], &reference, STEPS / 2, &error), &error);
        must(ousac_fit_schedule(&tiny.session, &options, i == 1 ? &other : &fitting, &validation, &by[i],
                                &report, &error),
             &error);
        assert_true(report.after < report.before);
    }
    const double share = (double)other_range.count / (double)(fitting_range.count + other_range.count);
    for (size_t i = 0; i < by[2].step_count; i++) {
        const double one = by[0].steps[i].scale, two = by[1].steps[i].scale;
        assert_true(fabs(one + share * (two - one) - by[2].steps[i].scale) < 1e-12);
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++) {
            const double a = by[0].fitted[i].value[k], b = by[1].fitted[i].value[k];
            assert_true(fabs(a + share * (b - a) - by[2].fitted[i].value[k]) < 1e-12);
        }
    }
    for (int i = 0; i < 3; i++)
        ousac_schedule_free(&by[i]);
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    ousac_fit_target_free(&other);
    ousac_schedule_free(&reference);
}

/* What the fitted samples say is not taken where the validation samples say otherwise. */
static void validation_decides(void **state) {
    ousac_schedule reference = {0}, other = {0}, schedule = {0};
    ousac_fit_target fitting, validation, unused;
    ousac_fit_report report;
    ousac_error error = {0};
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    make_schedule(&other, STEPS, 6, 1);
    make_schedule(&schedule, STEPS, 3, 1);
    must(ousac_fit_target_create(&fitting, &tiny.session, &other, &fitting_range, &error), &error);
    must(ousac_fit_target_create(&validation, &tiny.session, &reference, &validation_range, &error), &error);
    memset(&unused, 0, sizeof unused);
    ousac_schedule_digest(&schedule, before);
    const ousac_fit_options options = fit_options(1, 1);
    must(ousac_fit_schedule(&tiny.session, &options, &fitting, &validation, &schedule, &report, &error),
         &error);
    ousac_schedule_digest(&schedule, after);
    assert_string_equal(before, after);
    assert_true(report.after == report.before && report.before < 1e-6);
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    ousac_schedule_free(&reference);
    ousac_schedule_free(&other);
    ousac_schedule_free(&schedule);
}

/* Between two of the reference's timesteps its state is where a step of DDIM with its own prediction lands. */
static void states_between_timesteps_are_ddims(void **state) {
    static float between[8 * SIZE];
    ousac_schedule reference = {0}, part = {0};
    ousac_fit_target target;
    ousac_error error = {0};
    double alpha = 0, sigma = 0;
    ousac_walk *walk = NULL;
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    must(ousac_fit_target_create(&target, &tiny.session, &reference, &fitting_range, &error), &error);
    must(ousac_schedule_copy(&part, &reference, &error), &error);
    part.steps[1].timestep = 0.3 * reference.steps[0].timestep + 0.7 * reference.steps[1].timestep;
    const ousac_fit_arm exact = {.exact = 1};
    must(ousac_fit_walk(&tiny.session, &exact, &fitting_range, &part, &walk, &error), &error);
    must(ousac_walk_evaluate(walk, &error), &error);
    must(ousac_walk_advance(walk, &part.steps[0], NULL, &error), &error);
    must(ousac_fit_level(tiny.model, part.steps[1].timestep, &alpha, &sigma, &error), &error);
    ousac_fit_state_at(&target, part.steps[1].timestep, alpha, sigma, between);
    for (size_t i = 0; i < sizeof between / sizeof *between; i++)
        assert_true(fabs((double)between[i] - (double)ousac_walk_state(walk)[i]) < 1e-4);
    ousac_walk_free(walk);
    ousac_fit_target part_of;
    must(ousac_fit_target_part(&part_of, &target, 3, &error), &error);
    assert_memory_equal(ousac_fit_target_samples(&part_of), ousac_fit_target_samples(&target),
                        3 * SIZE * sizeof(float));
    ousac_fit_target_free(&part_of);
    assert_int_equal(ousac_fit_target_part(&part_of, &target, 9, &error), OUSAC_STATUS_USAGE);
    ousac_fit_target_free(&target);
    ousac_schedule_free(&reference);
    ousac_schedule_free(&part);
}

/* States of one D and one E lie on their lines, also those after a flow's first, which is noise alone. */
static void states_of_a_flow_begin_at_noise(void **state) {
    double timestep[] = {1000, 400}, alpha[] = {0, 0.6}, sigma[] = {1, 0.4};
    float states[3], between;
    const double D = 0.75, E = -1.5;
    const ousac_fit_target target = {.range = {0, 1},
                                     .size = 1,
                                     .step_count = 2,
                                     .timestep = timestep,
                                     .alpha = alpha,
                                     .sigma = sigma,
                                     .state = states};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        states[i] = (float)(i == 2 ? D : alpha[i] * D + sigma[i] * E);
    for (double t = 1000; t >= 0; t -= 50) {
        ousac_fit_state_at(&target, t, 1 - t / 1000, t / 1000, &between);
        if (t > 0)
            assert_true(fabs((double)between - ((1 - t / 1000) * D + t / 1000 * E)) < 1e-6);
    }
    ousac_fit_state_at(&target, -1, 1, 0, &between);
    assert_true(between == states[2]);
}

static void more_samples_are_told_apart(void **state) {
    ousac_schedule reference = {0}, schedule = {0};
    ousac_fit_target fitting, validation;
    ousac_fit_curve curve;
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    must(ousac_fit_fewer_steps(&schedule, &reference, STEPS / 2, &error), &error);
    make_targets(&reference, &fitting, &validation);
    const ousac_fit_options options = fit_options(1, 0);
    must(ousac_fit_learning(&tiny.session, &options, &fitting, &validation, &schedule, &curve, &error),
         &error);
    assert_int_equal(curve.points, 3);
    for (size_t k = 0; k < curve.points; k++) {
        assert_int_equal(curve.samples[k], 2u << k);
        assert_true(curve.error[k] > 0 && isfinite(curve.error[k]));
    }
    assert_true(curve.enough >= 2 && curve.enough <= 8);
    assert_false(ousac_schedule_is_fitted(&schedule));
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    ousac_schedule_free(&reference);
    ousac_schedule_free(&schedule);
}

/* A start that runs away: told, and nothing is spoilt. */
static void what_diverges_is_left_out(void **state) {
    ousac_schedule reference = {0}, schedule = {0};
    ousac_fit_target fitting, validation;
    ousac_fit_report report;
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    make_schedule(&schedule, STEPS, 3, 1);
    make_targets(&reference, &fitting, &validation);
    for (size_t i = 0; i < (size_t)STEPS * 8 * SIZE; i++)
        fitting.state[i] = 3e38f; /* what no step can reach and stay finite */
    const ousac_fit_options options = fit_options(1, 0);
    must(ousac_fit_schedule(&tiny.session, &options, &fitting, &validation, &schedule, &report, &error),
         &error);
    assert_true(report.diverged);
    assert_true(report.after == report.before);
    assert_false(ousac_schedule_is_fitted(&schedule));
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    ousac_schedule_free(&reference);
    ousac_schedule_free(&schedule);
}

static void references_and_budgets_that_cannot_be_are_refused(void **state) {
    ousac_schedule reference = {0};
    ousac_search_result result;
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, STEPS, 3, 1);
    ousac_search_options options = {.reference = &reference, .budget = 1.5};
    assert_int_equal(ousac_search(&tiny.session, &options, &result, &error), OUSAC_STATUS_USAGE);
    options.budget = NAN;
    assert_int_equal(ousac_search(&tiny.session, &options, &result, &error), OUSAC_STATUS_USAGE);
    options.budget = 0.1;
    assert_int_equal(ousac_search(&tiny.session, &options, &result, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "below what one of the reference's 8 steps costs, 0.125"));
    options.budget = 0.5;
    reference.steps[3].mode = OUSAC_MODE_COND;
    reference.steps[3].scale = 1;
    assert_int_equal(ousac_search(&tiny.session, &options, &result, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "step 3"));
    reference.steps[3] = reference.steps[2];
    reference.steps[3].timestep -= 1;
    must(ousac_schedule_make_fitted(&reference, &error), &error);
    reference.fitted[1].value[OUSAC_COEFFICIENT_GAIN] = 0.5;
    assert_int_equal(ousac_search(&tiny.session, &options, &result, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "fitted coefficients"));
    ousac_schedule_free(&reference);
}

static void steps_are_chosen_in_each_way(void **state) {
    static const struct {
        size_t steps;
        double power;
        size_t want[8];
    } cases[] = {
        {4, 1, {0, 2, 4, 6}},
        {3, 1, {0, 2, 5}},
        {4, 0.5, {0, 4, 5, 6}},
        {4, 2, {0, 1, 2, 4}},
        {8, 0.5, {0, 1, 2, 3, 4, 5, 6, 7}},
        {2, 0.72, {0, 4}},
        {1, 0.72, {0}},
        {5, OUSAC_FIT_TO_THE_END, {0, 2, 4, 6, 7}},
        {4, OUSAC_FIT_TO_THE_END, {0, 3, 6, 7}},
        {6, OUSAC_FIT_TO_THE_END, {0, 2, 4, 5, 6, 7}},
        {3, OUSAC_FIT_TO_THE_END, {0, 6, 7}},
        {2, OUSAC_FIT_TO_THE_END, {0, 4}},
        {1, OUSAC_FIT_TO_THE_END, {0}},
        {8, OUSAC_FIT_TO_THE_END, {0, 1, 2, 3, 4, 5, 6, 7}},
    };
    ousac_schedule reference = {0};
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, 8, 3, 1);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        ousac_schedule chosen = {0};
        must(ousac_fit_spaced_steps(&chosen, &reference, cases[c].steps, cases[c].power, &error), &error);
        assert_int_equal(chosen.step_count, cases[c].steps);
        for (size_t i = 0; i < cases[c].steps; i++)
            assert_true(chosen.steps[i].timestep == reference.steps[cases[c].want[i]].timestep);
        ousac_schedule_free(&chosen);
    }
    ousac_schedule_free(&reference);
}

/* By hand: 14 for two branches and 20 for each guided step. */
static void what_a_branch_costs_once_is_paid_first(void **state) {
    static const struct {
        uint64_t budget;
        size_t steps;
    } cases[] = {{0, 0}, {33, 0}, {34, 1}, {99, 4}, {113, 4}, {114, 5}, {174, 8}, {100000, 8}};
    ousac_schedule reference = {0};
    ousac_price price;
    ousac_error error = {0};
    (void)state;
    make_schedule(&reference, 8, 3, 1);
    must(ousac_price_create(&price, OUSAC_PRICE_MACS, 1, &error), &error);
    price.exact = 10;
    price.branch = 7;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t steps = 99;
        must(ousac_search_affordable(&price, &reference, cases[c].budget, &steps, &error), &error);
        assert_int_equal(steps, cases[c].steps);
    }
    ousac_price_free(&price);
    ousac_schedule_free(&reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_that_were_moved_are_found),
        cmocka_unit_test(steps_are_chosen_in_each_way),
        cmocka_unit_test(what_a_branch_costs_once_is_paid_first),
        cmocka_unit_test(fewer_steps_come_nearer),
        cmocka_unit_test(groups_are_fitted_and_averaged),
        cmocka_unit_test(validation_decides),
        cmocka_unit_test(states_between_timesteps_are_ddims),
        cmocka_unit_test(states_of_a_flow_begin_at_noise),
        cmocka_unit_test(more_samples_are_told_apart),
        cmocka_unit_test(what_diverges_is_left_out),
        cmocka_unit_test(references_and_budgets_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
