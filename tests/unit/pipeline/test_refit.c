/* Settings that fitted numbers are carried over to, known by hand, and what a run of them must find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "formats/memory.h"
#include "pipeline/refit.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 4 };

static tiny_session tiny;

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

/* Guided at scale 3 at every step but the second. */
static ousac_schedule schedule_of(ousac_step steps[], const double *timestep, size_t count) {
    for (size_t i = 0; i < count; i++)
        steps[i] =
            (ousac_step){timestep[i], i == 1 ? OUSAC_MODE_COND : OUSAC_MODE_CFG, i == 1 ? 1 : 3, {0, 0}};
    return (ousac_schedule){.name = "made", .step_count = count, .steps = steps};
}

static void twice_the_steps_lie_between(void **state) {
    static const double far[] = {900, 600, 300}, near[] = {900, 400, 0}, close[] = {900, 400, 20};
    static const double *const from[] = {far, near, close};
    static const double expected[][6] = {
        {900, 750, 600, 450, 300, 150}, {900, 650, 400, 200, 0}, {900, 650, 400, 210, 20}};
    static const size_t count[] = {6, 5, 5};
    ousac_error error = {0};
    (void)state;
    for (size_t c = 0; c < 3; c++) {
        ousac_step steps[3];
        ousac_schedule reference = schedule_of(steps, from[c], 3), twice = {0};
        must(ousac_refit_double_steps(&twice, &reference, &error), &error);
        assert_int_equal(twice.step_count, count[c]);
        for (size_t i = 0; i < count[c]; i++) {
            assert_true(twice.steps[i].timestep == expected[c][i]);
            assert_int_equal(twice.steps[i].mode, steps[i / 2].mode);
            assert_true(twice.steps[i].scale == steps[i / 2].scale);
            assert_int_equal(twice.steps[i].gate[0], OUSAC_GATE_FULL);
        }
        must(ousac_schedule_validate(&twice, "twice", &error), &error);
        ousac_schedule_free(&twice);
    }
}

static void the_textbook_has_the_scales_of_the_nearest_steps(void **state) {
    static const double fine[] = {900, 700, 500, 300}, coarse[] = {860, 560};
    ousac_step steps[4], own[2];
    ousac_schedule reference = schedule_of(steps, fine, 4), fitted = schedule_of(own, coarse, 2), plain = {0};
    ousac_error error = {0};
    (void)state;
    steps[0].scale = 5;
    steps[2].scale = 7;
    own[1] = (ousac_step){560, OUSAC_MODE_CFG, 2.5, {0, 0}};
    must(ousac_schedule_make_fitted(&fitted, &error), &error);
    fitted.fitted[0].value[OUSAC_COEFFICIENT_GAIN] = 0.1;
    must(ousac_refit_textbook(&plain, &fitted, &reference, &error), &error);
    assert_false(ousac_schedule_is_fitted(&plain));
    assert_true(plain.steps[0].scale == 5 && plain.steps[1].scale == 7);
    assert_true(plain.steps[0].timestep == 860 && plain.steps[1].timestep == 560);
    ousac_refit_scale(&fitted, 2);
    assert_true(own[0].scale == 6 && own[1].scale == 5);
    ousac_free(fitted.fitted);
    ousac_schedule_free(&plain);
}

static ousac_schedule reference_of(size_t count) {
    double scales[64];
    ousac_gate gates[64];
    ousac_schedule made = {0};
    ousac_error error = {0};
    for (size_t i = 0; i < count; i++) {
        scales[i] = 3;
        gates[i] = OUSAC_GATE_FULL;
    }
    const ousac_schedule_options options = {"made",          count,  1000,  OUSAC_SPACING_LINSPACE,
                                            OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must(ousac_schedule_build(&made, &options, &error), &error);
    return made;
}

static const ousac_refit_row *row_of(const ousac_refit *result, ousac_refit_setting setting, double value) {
    for (size_t i = 0; i < result->row_count; i++)
        if (result->row[i].setting == setting && (isnan(value) || result->row[i].value == value))
            return &result->row[i];
    fail_msg("no row %d %g", (int)setting, value);
    return NULL;
}

/* What was fitted on the very samples is found again; under every setting fitting again is no worse than the
 * textbook, and the ratio is that of the two errors. */
static void every_setting_is_measured(void **state) {
    static const double scales[] = {2};
    ousac_schedule reference = reference_of(3 * STEPS), schedule = {0};
    ousac_fit_target fitting = {0}, validation = {0};
    ousac_fit_report report;
    ousac_refit result;
    ousac_error error = {0};
    (void)state;
    must(ousac_fit_fewer_steps(&schedule, &reference, STEPS, &error), &error);
    must(ousac_fit_target_create(&fitting, &tiny.session, &reference, &(ousac_sample_range){0, 8}, &error),
         &error);
    must(ousac_fit_target_create(&validation, &tiny.session, &reference, &(ousac_sample_range){8, 6}, &error),
         &error);
    const ousac_fit_options fit = {.numbers = OUSAC_FIT_NUMBERS, .stepwise = 1, .arm = {.exact = 1}};
    must(ousac_fit_schedule(&tiny.session, &fit, &fitting, &validation, &schedule, &report, &error), &error);
    assert_true(ousac_schedule_is_fitted(&schedule));
    const ousac_refit_options options = {.schedule = &schedule,
                                         .reference = &reference,
                                         .arm = {.exact = 1},
                                         .numbers = OUSAC_FIT_NUMBERS,
                                         .settings = ~0U,
                                         .scale = scales,
                                         .scale_count = 1,
                                         .fitting = 8,
                                         .validation = 6,
                                         .test = {14, 6},
                                         .threshold = OUSAC_REFIT_THRESHOLD};
    must(ousac_refit_run(&tiny.session, &options, &result, &error), &error);
    assert_int_equal(result.row_count, 5);
    const ousac_refit_row *own = row_of(&result, OUSAC_REFIT_AS_FITTED, NAN);
    assert_true(fabs(own->ratio.mean - 1) < 1e-9);
    assert_int_equal(own->verdict, OUSAC_PAIRED_BELOW);
    assert_true(row_of(&result, OUSAC_REFIT_OTHER_SEED, 4)->transferred.mean != own->transferred.mean);
    (void)row_of(&result, OUSAC_REFIT_OTHER_SCALE, 2);
    (void)row_of(&result, OUSAC_REFIT_OTHER_STEPS, 6);
    (void)row_of(&result, OUSAC_REFIT_OTHER_STEPS, 23); /* linspace ends at timestep 0 */
    for (size_t i = 0; i < result.row_count; i++) {
        const ousac_refit_row *r = &result.row[i];
        print_message("%s %g: %.3g, %.3g, %.3g, ratio %.3g\n", ousac_refit_setting_name(r->setting), r->value,
                      r->textbook.mean, r->transferred.mean, r->refitted.mean, r->ratio.mean);
        assert_true(r->refitted.mean < r->textbook.mean);
        assert_true(fabs(r->ratio.mean - r->transferred.mean / r->refitted.mean) < 1e-9 * r->ratio.mean);
        assert_true(r->evaluations > 0 && !r->diverged);
    }
    assert_int_equal(result.point_count, 3); /* 2, 4, 8: one sample is no micro-batch */
    assert_int_equal(result.point[2].samples, 8);
    assert_true(fabs(result.point[2].test.mean - own->refitted.mean) < 1e-9);
    assert_true(fabs(result.point[2].validation - report.after) < 1e-9);
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    ousac_schedule_free(&reference);
    ousac_schedule_free(&schedule);
}

static void what_cannot_be_is_refused(void **state) {
    static const double bad[] = {-1};
    ousac_schedule reference = reference_of(8), fitted = reference_of(4);
    ousac_error error = {0};
    (void)state;
    must(ousac_schedule_make_fitted(&fitted, &error), &error);
    ousac_refit_options options = {.schedule = &fitted,
                                   .reference = &reference,
                                   .fitting = 3,
                                   .validation = 2,
                                   .test = {6, 2},
                                   .threshold = 1.1};
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "no fitted coefficients"));
    fitted.fitted[0].value[OUSAC_COEFFICIENT_GAIN] = 0.1;
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_OK);
    options.test.first = 4;
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "test samples from 6 on"));
    options.test.first = 6;
    options.scale = bad;
    options.scale_count = 1;
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_USAGE);
    for (size_t i = 0; i < reference.step_count; i++)
        reference.steps[i] = (ousac_step){reference.steps[i].timestep, OUSAC_MODE_COND, 1, {0, 0}};
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "guides no step"));
    options.scale_count = 0;
    options.reference = &fitted;
    assert_int_equal(ousac_refit_check(&options, 2, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "has fitted coefficients"));
    ousac_schedule_free(&reference);
    ousac_schedule_free(&fitted);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twice_the_steps_lie_between),
        cmocka_unit_test(the_textbook_has_the_scales_of_the_nearest_steps),
        cmocka_unit_test(every_setting_is_measured),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
