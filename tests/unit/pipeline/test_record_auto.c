/* Recording until it settles: the same sums as one recording of as many samples, in memory or spilled, under the
 * identity that was asked for; and a profile's metadata says what it cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "formats/memory.h"
#include "pipeline/record_auto.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

static scratch directory;
static ousac_model *model;
static ousac_schedule schedule;
static ousac_session session;

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    double scales[6] = {2, 2, 2, 2, 2, 2};
    ousac_gate gates[6];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must_succeed(random_dit_write(directory.path, &options, &error), &error);
    const ousac_session_model load = {.path = scratch_path(&directory, "model.safetensors", file)};
    must_succeed(ousac_session_load_model(&model, &load, NULL, &error), &error);
    for (size_t i = 0; i < 6; i++)
        gates[i] = i % 3 == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    const ousac_schedule_options steps = {"six",           6,      1000,  OUSAC_SPACING_LINSPACE,
                                          OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must_succeed(ousac_schedule_build(&schedule, &steps, &error), &error);
    session = (ousac_session){.model = model, .seed = 1, .micro_batch = 2, .threads = 2};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static void same_sums(const ousac_profile *a, const ousac_profile *b) {
    assert_int_equal(ousac_profile_samples(a), ousac_profile_samples(b));
    for (size_t g = 0; g < a->arch.group_count; g++)
        assert_memory_equal(a->moment[g], b->moment[g],
                            ousac_profile_moment_size(&a->arch.groups[g]) * sizeof(double));
}

static ousac_profile *record(const char *spill, ousac_record_cost *cost) {
    const ousac_record_options options = {.segments = 1, .tokens = 5, .magnitudes = 1, .spill = spill};
    const ousac_record_auto_options automatic = {1e-6, 16, {0.5, NAN}};
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    must_succeed(ousac_record_auto(&session, &schedule, &options, &automatic, &profile, cost, &error),
                 &error);
    return profile;
}

static void spilled_or_not_the_sums_are_those_of_one_recording(void **state) {
    const ousac_record_options plain = {.range = {0, 16}, .segments = 1, .tokens = 5, .magnitudes = 1};
    ousac_record_cost cost = {0}, spilled_cost = {0}, whole_cost = {0};
    ousac_profile *whole = NULL;
    ousac_error error = {0};
    (void)state;
    ousac_profile *kept = record(NULL, &cost), *spilled = record(directory.path, &spilled_cost);
    must_succeed(ousac_record_profile(&session, &schedule, &plain, &whole, &whole_cost, &error), &error);
    assert_null(kept->spill);
    assert_non_null(spilled->spill);
    same_sums(kept, whole);
    same_sums(spilled, whole);
    assert_memory_equal(&kept->identity, &whole->identity, sizeof whole->identity);
    assert_true(cost.convergence.rounds > 0 && !cost.convergence.converged);
    assert_true(cost.forwards == whole_cost.forwards);
    assert_true(cost.convergence.round[cost.convergence.rounds - 1].samples == 16);
    ousac_profile_free(whole);
    ousac_profile_free(spilled);
    ousac_profile_free(kept);
}

static void what_cannot_converge_is_refused_by_field(void **state) {
    const ousac_record_auto_options few = {0.02, 7, {0.5, NAN}};
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_record_auto_check(&few, 2, &error), OUSAC_STATUS_USAGE, &error, "`samples_max` 7");
}

static void a_reproducible_cost_says_nothing_of_the_run(void **state) {
    const ousac_record_cost cost = {.seconds = 12, .forwards = 34, .pilot = {0, 8}};
    ousac_json_doc loud, quiet;
    char *text = NULL, *bare = NULL;
    ousac_error error = {0};
    (void)state;
    ousac_json_begin(&loud);
    ousac_json_begin(&quiet);
    ousac_record_cost_put(&loud, loud.root, &session, &cost, 0);
    ousac_record_cost_put(&quiet, quiet.root, &session, &cost, 1);
    must_succeed(ousac_json_text(&loud, 0, &text, &error), &error);
    must_succeed(ousac_json_text(&quiet, 0, &bare, &error), &error);
    assert_non_null(strstr(text, "\"wall_s\":"));
    assert_non_null(strstr(text, "\"forwards\":34"));
    assert_null(strstr(bare, "wall_s"));
    assert_null(strstr(bare, "threads"));
    assert_non_null(strstr(bare, "\"forwards\":34"));
    assert_non_null(strstr(bare, "\"pilot\":[0,8]"));
    ousac_free(text);
    ousac_free(bare);
    ousac_json_end(&loud);
    ousac_json_end(&quiet);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spilled_or_not_the_sums_are_those_of_one_recording),
        cmocka_unit_test(what_cannot_converge_is_refused_by_field),
        cmocka_unit_test(a_reproducible_cost_says_nothing_of_the_run),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
