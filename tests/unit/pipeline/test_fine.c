/* Fine runs: which steps they have, and what distances from them are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "pipeline/fine.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

enum { SAMPLES = 4 };

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

/* Timesteps 999 to 0, every second step guided: nothing lies behind the last. */
static void steps_lie_between_the_reference_s(void **state) {
    ousac_schedule reference, fine;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&reference, 6, 3, 2, 2);
    assert_true(reference.steps[5].timestep == 0);
    assert_int_equal(ousac_fine_steps(&reference, 4), 21);
    must_succeed(ousac_fine_schedule(&fine, &reference, 21, &error), &error);
    assert_int_equal(fine.step_count, 21);
    for (size_t i = 0; i < 21; i++) {
        const ousac_step *own = &fine.steps[i], *of = &reference.steps[i / 4];
        const double next = i / 4 < 5 ? reference.steps[i / 4 + 1].timestep : 0;
        assert_true(fabs(own->timestep - (of->timestep + (double)(i % 4) / 4 * (next - of->timestep))) <
                    1e-9);
        assert_true(own->mode == of->mode &&
                    (isnan(own->scale) ? isnan(of->scale) : own->scale == of->scale));
        assert_true(own->gate[0] == OUSAC_GATE_FULL && own->gate[1] == OUSAC_GATE_FULL);
        assert_true(i == 0 || own->timestep < fine.steps[i - 1].timestep);
    }
    ousac_schedule_free(&fine);
    must_succeed(ousac_fine_schedule(&fine, &reference, 7, &error),
                 &error); /* any number above the reference's */
    for (size_t i = 1; i < 7; i++)
        assert_true(fine.steps[i].timestep < fine.steps[i - 1].timestep);
    assert_true(fine.steps[0].timestep == 999 && fine.steps[6].timestep == 0);
    ousac_schedule_free(&fine);
    must_fail(ousac_fine_schedule(&fine, &reference, 6, &error), OUSAC_STATUS_USAGE, &error,
              "`fine` 6: expected more steps than the reference's 6");
    must_fail(ousac_fine_schedule(&fine, &reference, OUSAC_SCHEDULE_STEPS_MAX + 1, &error),
              OUSAC_STATUS_USAGE, &error, "at most");
    ousac_schedule_free(&reference);
}

/* A reference that ends a whole gap before 0: the way behind its last step is divided as well. */
static void room_behind_the_last_step_is_used(void **state) {
    ousac_schedule reference, fine;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&reference, 6, 3, 1, 1);
    reference.step_count = 5; /* 999 ... 200 */
    assert_int_equal(ousac_fine_steps(&reference, 4), 20);
    must_succeed(ousac_fine_schedule(&fine, &reference, 20, &error), &error);
    for (size_t i = 0; i < 5; i++)
        assert_true(fabs(fine.steps[4 * i].timestep - reference.steps[i].timestep) < 1e-9);
    assert_true(fabs(fine.steps[19].timestep - reference.steps[4].timestep / 4) < 1e-9);
    ousac_schedule_free(&fine);
    reference.step_count = 1;
    assert_int_equal(ousac_fine_steps(&reference, 4), 4);
    must_succeed(ousac_fine_schedule(&fine, &reference, 4, &error), &error);
    assert_true(fabs(fine.steps[3].timestep - reference.steps[0].timestep / 4) < 1e-9);
    ousac_schedule_free(&fine);
    ousac_schedule_free(&reference);
}

/* More steps come nearer to a still finer run, as a solver of first order does: about in proportion. */
static void finer_runs_are_nearer(void **state) {
    const ousac_sample_range range = {0, SAMPLES};
    const size_t steps[] = {33, 65};
    ousac_schedule reference;
    ousac_fine fine;
    ousac_error error = {0};
    const size_t size = ousac_model_sample_size(tiny.model);
    float *samples = test_malloc(SAMPLES * size * sizeof *samples);
    (void)state;
    tiny_schedule(&reference, 17, 2, 1, 1);
    must_succeed(ousac_fine_run(&fine, &tiny.session, &reference, 257, &range, &error), &error);
    assert_true(fine.steps == 257 && fabs(fine.macs_share - 257.0 / 17) < 1e-12);
    for (size_t i = 0; i < 2; i++) {
        ousac_schedule middle;
        must_succeed(ousac_fine_schedule(&middle, &reference, steps[i], &error), &error);
        const ousac_session_run run = {
            .label = "test", .schedule = &middle, .range = range, .exact = 1, .samples = samples};
        const ousac_headline_row row = {.method = i ? "calibrated" : "reference", .steps = steps[i]};
        must_succeed(ousac_session_run_samples(&tiny.session, &run, &error), &error);
        must_succeed(ousac_fine_add(&fine, &tiny.session, &row, samples, &range, &error), &error);
        ousac_schedule_free(&middle);
    }
    const ousac_headline_row *found = fine.headline.row;
    assert_true(found[1].error.mean < 0.7 * found[0].error.mean);
    assert_true(fabs(found[1].ratio.mean - found[0].error.mean / found[1].error.mean) < 1e-9);
    must_succeed(ousac_fine_add(&fine, &tiny.session, &found[0], fine.samples, &range, &error), &error);
    assert_true(found[2].error.mean == 0); /* of itself */
    ousac_fine_free(&fine);
    ousac_schedule_free(&reference);
    test_free(samples);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_lie_between_the_reference_s),
        cmocka_unit_test(room_behind_the_last_step_is_used),
        cmocka_unit_test(finer_runs_are_nearer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
