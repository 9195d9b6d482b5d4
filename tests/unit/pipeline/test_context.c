/* The public interface on a tiny model: its files are the program's, its figures those of the parts, its errors name
 * fields. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <ousac/ousac.h>
#include <stdlib.h>
#include <string.h>

#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "profile/bundle/provenance.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

static scratch directory;
static char model_path[SCRATCH_PATH_BYTES], schedule_path[SCRATCH_PATH_BYTES],
    profile_path[SCRATCH_PATH_BYTES], plan_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES];
static ousac_context *context;
static size_t progressed;

static void progress(void *self, const char *label, uint64_t done, uint64_t total) {
    (void)self;
    if (*label && done <= total)
        __atomic_add_fetch(&progressed, 1, __ATOMIC_RELAXED);
}

static void open_context(void) {
    ousac_context_options options;
    ousac_error error = {0};
    ousac_context_options_init(&options);
    options.model = model_path;
    options.micro_batch = 2;
    options.threads = 2;
    options.progress = progress;
    must_succeed(ousac_context_open(&context, &options, &error), &error);
}

static int set_up(void **state) {
    double scales[8];
    ousac_gate gates[8];
    ousac_schedule schedule = {0};
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must_succeed(random_dit_write(directory.path, &options, &error), &error);
    for (size_t i = 0; i < 8; i++) {
        scales[i] = 2;
        gates[i] = i % 3 == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    const ousac_schedule_options steps = {"eight",         8,      1000,  OUSAC_SPACING_LINSPACE,
                                          OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must_succeed(ousac_schedule_build(&schedule, &steps, &error), &error);
    (void)scratch_path(&directory, "model.safetensors", model_path);
    (void)scratch_path(&directory, "profile.oca", profile_path);
    (void)scratch_path(&directory, "plan.oca", plan_path);
    (void)scratch_path(&directory, "bundle.oca", bundle_path);
    must_succeed(
        ousac_schedule_save(&schedule, scratch_path(&directory, "schedule.json", schedule_path), &error),
        &error);
    ousac_schedule_free(&schedule);
    open_context();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_context_close(context);
    scratch_remove(&directory);
    return 0;
}

static void the_whole_way(void **state) {
    ousac_context_profile_options record;
    ousac_context_plan_options budget;
    ousac_context_evaluate_options test;
    ousac_context_evaluation found;
    ousac_provenance provenance;
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    (void)state;
    ousac_context_profile_options_init(&record);
    record.count = 8;
    record.pilot = 4;
    must_succeed(ousac_context_profile(context, schedule_path, &record, profile_path, &error), &error);
    assert_true(progressed > 0);
    ousac_context_plan_options_init(&budget);
    budget.budget_step = 0.6;
    must_succeed(ousac_context_plan(context, profile_path, &budget, plan_path, &error), &error);
    must_succeed(ousac_context_pack(context, profile_path, plan_path, bundle_path, &error), &error);
    /* The plan itself says what validated it, and the bundle passes that on. */
    must_succeed(ousac_plan_load(&plan, plan_path, &error), &error);
    assert_true(plan->validation.first == 8 && plan->validation.count > 0);
    must_succeed(ousac_provenance_read(bundle_path, &provenance, &error), &error);
    int calibration = 0, pilot = 0, validation = 0;
    for (size_t i = 0; i < provenance.used.count; i++) {
        const ousac_sample_range *range = &provenance.used.range[i];
        calibration |= strcmp(provenance.used.use[i], "calibration") == 0 && range->count == 8;
        pilot |= strcmp(provenance.used.use[i], "pilot") == 0 && range->count == 4;
        validation |= strcmp(provenance.used.use[i], "validation") == 0 &&
                      range->first == plan->validation.first && range->count == plan->validation.count;
    }
    assert_true(provenance.known && calibration && pilot && validation);

    ousac_context_evaluate_options_init(&test);
    ousac_context_evaluation_init(&found);
    test.first = 40;
    test.count = 6;
    must_succeed(ousac_context_evaluate(context, bundle_path, &test, &found, &error), &error);
    assert_true(found.held_out && found.calibrated.mean > 0 && found.calibrated.mean < found.reuse.mean);
    assert_true(found.calibrated.low <= found.calibrated.mean &&
                found.calibrated.mean <= found.calibrated.high);
    assert_true(found.macs_share > 0 && found.macs_share < 1);
    /* Rewording a plan's note changes nothing of what guards the samples. */
    memset(plan->note, 0, sizeof plan->note);
    must_succeed(ousac_plan_save(plan, plan_path, &error), &error);
    must_succeed(ousac_context_pack(context, profile_path, plan_path, bundle_path, &error), &error);
    test.first = plan->validation.first;
    test.count = 2;
    must_fail(ousac_context_evaluate(context, bundle_path, &test, &found, &error), OUSAC_STATUS_USAGE, &error,
              "validation");
    test.first = 0;
    must_fail(ousac_context_evaluate(context, bundle_path, &test, &found, &error), OUSAC_STATUS_USAGE, &error,
              "expected held-out samples");
    ousac_plan_free(plan);
}

static void samples_are_those_of_the_evaluation(void **state) {
    size_t shape[3];
    ousac_error error = {0};
    (void)state;
    ousac_context_sample_shape(context, shape);
    assert_true(shape[0] == 3 && shape[1] == 8 && shape[2] == 8);
    const size_t values = 2 * shape[0] * shape[1] * shape[2];
    float *exact = malloc(values * sizeof *exact), *cached = malloc(values * sizeof *cached);
    assert_non_null(exact);
    assert_non_null(cached);
    must_succeed(ousac_context_sample(context, schedule_path, NULL, 40, 2, exact, &error), &error);
    must_succeed(ousac_context_sample(context, NULL, bundle_path, 40, 2, cached, &error), &error);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < values; i++) {
        difference += pow((double)cached[i] - (double)exact[i], 2);
        norm += pow((double)exact[i], 2);
    }
    assert_true(difference > 0 && difference < norm);
    must_fail(ousac_context_sample(context, schedule_path, bundle_path, 40, 2, cached, &error),
              OUSAC_STATUS_USAGE, &error, "`bundle`");
    must_fail(ousac_context_sample(context, schedule_path, NULL, 41, 2, cached, &error), OUSAC_STATUS_USAGE,
              &error, "`first`");
    free(cached);
    free(exact);
}

static void what_is_wrong_is_named_and_nothing_is_written(void **state) {
    char nowhere[SCRATCH_PATH_BYTES];
    ousac_context *none = NULL;
    ousac_context_options options;
    ousac_context_plan_options budget;
    ousac_error error = {0};
    (void)state;
    ousac_context_options_init(&options);
    must_fail(ousac_context_open(&none, &options, &error), OUSAC_STATUS_USAGE, &error, "`model`");
    options.model = model_path;
    options.size = sizeof options + 8;
    must_fail(ousac_context_open(&none, &options, &error), OUSAC_STATUS_USAGE, &error, "`size`");
    assert_null(none);
    ousac_context_plan_options_init(&budget);
    budget.budget_step = 7;
    (void)scratch_path(&directory, "never.oca", nowhere);
    must_fail(ousac_context_plan(context, profile_path, &budget, nowhere, &error), OUSAC_STATUS_USAGE, &error,
              "`budget_step`");
    assert_false(file_exists(nowhere));
    must_fail(ousac_context_pack(context, profile_path, schedule_path, nowhere, &error), OUSAC_STATUS_FORMAT,
              &error, "schedule.json");
    assert_false(file_exists(nowhere));
}

/* A program of an older header, whose structure ended earlier. */
static void shorter_structures_take_defaults(void **state) {
    ousac_context *older = NULL;
    ousac_context_options options;
    ousac_error error = {0};
    (void)state;
    ousac_context_options_init(&options);
    options.model = model_path;
    options.note = (void (*)(void *, const char *))(intptr_t)1; /* beyond its end: not to be read */
    options.size = offsetof(ousac_context_options, note);
    must_succeed(ousac_context_open(&older, &options, &error), &error);
    must_succeed(
        ousac_context_evaluate(
            older, bundle_path,
            &(ousac_context_evaluate_options){sizeof(ousac_context_evaluate_options), 40, 4, NULL, 0},
            &(ousac_context_evaluation){.size = sizeof(ousac_context_evaluation)}, &error),
        &error);
    ousac_context_close(older);
}

/* The library writes no byte behind the end that an older header knows, whatever its own structure has grown to. */
static void an_init_keeps_to_the_caller_s_size(void **state) {
    enum { SHORT = offsetof(ousac_context_calibrate_options, budget_time), ROOM = 512, MARK = 0x5a };
    union {
        ousac_context_calibrate_options options;
        unsigned char byte[ROOM];
    } mine;
    (void)state;
    memset(&mine, MARK, sizeof mine);
    ousac_context_calibrate_options_init_sized(&mine.options, SHORT);
    assert_true(mine.options.size == SHORT && mine.options.effort == 1);
    for (size_t i = SHORT; i < ROOM; i++)
        assert_int_equal(mine.byte[i], MARK);
    /* and leaves nothing undefined in a longer one */
    ousac_context_calibrate_options_init_sized(&mine.options, ROOM);
    assert_true(mine.options.size == ROOM && isnan(mine.options.budget_time));
    for (size_t i = sizeof mine.options; i < ROOM; i++)
        assert_int_equal(mine.byte[i], 0);
}

static void an_interrupt_ends_the_work(void **state) {
    char nowhere[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    (void)state;
    (void)scratch_path(&directory, "interrupted.oca", nowhere);
    ousac_context_interrupt(context);
    assert_int_equal(ousac_context_profile(context, schedule_path, NULL, nowhere, &error),
                     OUSAC_STATUS_INTERRUPTED);
    assert_false(file_exists(nowhere));
}

static void versions_agree(void **state) {
    (void)state;
    assert_string_equal(ousac_version(), OUSAC_VERSION);
    assert_true(ousac_version_number() == OUSAC_VERSION_NUMBER);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_way),
        cmocka_unit_test(samples_are_those_of_the_evaluation),
        cmocka_unit_test(what_is_wrong_is_named_and_nothing_is_written),
        cmocka_unit_test(shorter_structures_take_defaults),
        cmocka_unit_test(an_init_keeps_to_the_caller_s_size),
        cmocka_unit_test(an_interrupt_ends_the_work),
        cmocka_unit_test(versions_agree),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
