/* The whole calibration through the public interface: gates decided, interrupted, gone on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ousac/ousac.h>
#include <stdio.h>
#include <string.h>

#include "formats/file.h"
#include "profile/bundle/provenance.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 6 };

static scratch directory;
static char model_path[SCRATCH_PATH_BYTES], schedule_path[SCRATCH_PATH_BYTES];
static char parts[SCRATCH_PATH_BYTES]; /* the directory of the run that is interrupted */
static ousac_context *context;
static int
    stop_at; /* updates of the profile's progress, once gates are decided, until the interrupt; below 0: never */

static int stands(const char *folder, const char *name) {
    char path[SCRATCH_PATH_BYTES];
    return file_exists(scratch_join(path, folder, name));
}

static void progress(void *self, const char *label, uint64_t done, uint64_t total) {
    (void)self;
    (void)total;
    if (done && strcmp(label, "profile") == 0 && stands(parts, "gates.part") &&
        __atomic_sub_fetch(&stop_at, 1, __ATOMIC_RELAXED) == 0)
        ousac_context_interrupt(context);
}

static void open_context(void) {
    ousac_context_options options;
    ousac_error error = {0};
    ousac_context_options_init(&options);
    options.model = model_path;
    options.micro_batch = 4;
    options.threads = 1;
    options.progress = progress;
    must_succeed(ousac_context_open(&context, &options, &error), &error);
}

static int set_up(void **state) {
    double scales[STEPS];
    ousac_gate gates[STEPS];
    ousac_schedule schedule = {0};
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must_succeed(random_dit_write(directory.path, &options, &error), &error);
    for (size_t i = 0; i < STEPS; i++) {
        scales[i] = 2;
        gates[i] = OUSAC_GATE_AUTO;
    }
    const ousac_schedule_options steps = {"six",           STEPS,  1000,  OUSAC_SPACING_LINSPACE,
                                          OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must_succeed(ousac_schedule_build(&schedule, &steps, &error), &error);
    (void)scratch_path(&directory, "model.safetensors", model_path);
    (void)scratch_path(&directory, "schedule.json", schedule_path);
    must_succeed(ousac_schedule_save(&schedule, schedule_path, &error), &error);
    ousac_schedule_free(&schedule);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

static ousac_status calibrate(const char *into, ousac_context_calibration *made, ousac_error *error) {
    ousac_context_calibrate_options options;
    ousac_context_calibrate_options_init(&options);
    ousac_context_calibration_init(made);
    options.schedule = schedule_path;
    options.budget_total = 0.7;
    options.samples = 24;
    options.validation = 4;
    return ousac_context_calibrate(context, &options, into, made, error);
}

static void must_agree(const char *a, const char *b, const char *name) {
    char path[SCRATCH_PATH_BYTES], other[SCRATCH_PATH_BYTES];
    ousac_file_view view[2];
    ousac_error error = {0};
    must_succeed(ousac_file_map(&view[0], scratch_join(path, a, name), &error), &error);
    must_succeed(ousac_file_map(&view[1], scratch_join(other, b, name), &error), &error);
    assert_true(view[0].size == view[1].size && memcmp(view[0].data, view[1].data, view[0].size) == 0);
    ousac_file_unmap(&view[0]);
    ousac_file_unmap(&view[1]);
}

/* The files of an interrupted and continued calibration are those of one in a go. */
static void an_interrupted_calibration_goes_on(void **state) {
    char whole[SCRATCH_PATH_BYTES];
    ousac_context_calibration made, again;
    ousac_error error = {0};
    (void)state;
    (void)scratch_path(&directory, "whole/of/it", whole);
    (void)scratch_path(&directory, "parts", parts);
    stop_at = -1;
    open_context();
    must_succeed(calibrate(whole, &made, &error), &error);
    ousac_context_close(context);
    assert_true(made.cached && made.steps == STEPS && made.next_sample == 28);
    assert_false(stands(whole, "gates.part") || stands(whole, "calibrate.part") ||
                 stands(whole, "profile.oca.part"));
    stop_at = 20; /* of 36: a step of a micro-batch each */
    open_context();
    assert_int_equal(calibrate(parts, &again, &error), OUSAC_STATUS_INTERRUPTED);
    ousac_context_close(context);
    assert_true(stands(parts, "gates.part"));
    assert_true(stands(parts, "profile.oca.part"));
    assert_false(stands(parts, "profile.oca") || stands(parts, "bundle.oca"));
    stop_at = -1;
    open_context();
    must_succeed(calibrate(parts, &again, &error), &error);
    ousac_context_close(context);
    assert_true(again.next_sample == made.next_sample);
    must_agree(whole, parts, "schedule.json");
    must_agree(whole, parts, "plan.oca");
    must_agree(whole, parts, "bundle.oca");
    assert_false(stands(parts, "gates.part") || stands(parts, "profile.oca.part"));
}

static void too_few_samples_for_the_gates_are_refused_first(void **state) {
    char nowhere[SCRATCH_PATH_BYTES];
    ousac_context_calibrate_options options;
    ousac_context_calibration made;
    ousac_error error = {0};
    (void)state;
    (void)scratch_path(&directory, "nowhere", nowhere);
    stop_at = -1;
    open_context();
    ousac_context_calibrate_options_init(&options);
    ousac_context_calibration_init(&made);
    options.schedule = schedule_path;
    options.budget_total = 0.7;
    options.samples = 8;
    must_fail(ousac_context_calibrate(context, &options, nowhere, &made, &error), OUSAC_STATUS_USAGE, &error,
              "`samples` 8");
    options.samples = 24;
    options.tokens = 1 << 20;
    must_fail(ousac_context_calibrate(context, &options, nowhere, &made, &error), OUSAC_STATUS_USAGE, &error,
              "tokens");
    options.tokens = 0;
    options.budget_total = 0.01;
    must_fail(ousac_context_calibrate(context, &options, nowhere, &made, &error), OUSAC_STATUS_USAGE, &error,
              "`budget_total`");
    options.schedule = NULL;
    must_fail(ousac_context_calibrate(context, &options, nowhere, &made, &error), OUSAC_STATUS_USAGE, &error,
              "`reference`");
    assert_false(file_exists(nowhere));
    ousac_context_close(context);
}

/* Where an evaluation may begin is behind all that a search used, a second look at near candidates too. */
static void the_next_sample_is_behind_a_search(void **state) {
    enum {
        DECIDED = 56,
        AGAIN = 40
    }; /* of the quick effort: behind the deciding samples; of a second look */
    static const double budgets[] = {0.3, 0.4, 0.5};
    int searches[3] = {0}; /* ranges that a search used: two where it looked again */
    char into[SCRATCH_PATH_BYTES], path[SCRATCH_PATH_BYTES], reference[SCRATCH_PATH_BYTES];
    ousac_schedule today = {0};
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&today, 24, 3, 1, 1);
    (void)scratch_path(&directory, "today.json", reference);
    must_succeed(ousac_schedule_save(&today, reference, &error), &error);
    ousac_schedule_free(&today);
    stop_at = -1;
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        ousac_context_calibrate_options options;
        ousac_context_calibration made;
        ousac_provenance provenance;
        char name[16];
        ousac_context_calibrate_options_init(&options);
        ousac_context_calibration_init(&made);
        options.reference = reference;
        options.budget_total = budgets[i];
        options.effort = 0;
        options.samples = 8;
        options.validation = 4;
        (void)snprintf(name, sizeof name, "search%zu", i);
        open_context();
        must_succeed(
            ousac_context_calibrate(context, &options, scratch_path(&directory, name, into), &made, &error),
            &error);
        ousac_context_close(context);
        assert_true(made.cached);
        must_succeed(ousac_provenance_read(scratch_join(path, into, "bundle.oca"), &provenance, &error),
                     &error);
        for (size_t k = 0; k < provenance.used.count; k++) {
            const ousac_sample_range *used = &provenance.used.range[k];
            assert_true(used->first + used->count <= made.next_sample);
            searches[i] += strcmp(provenance.used.use[k], "search") == 0;
        }
        assert_int_equal(made.next_sample, searches[i] == 2 ? DECIDED + AGAIN : DECIDED);
    }
    assert_true(searches[0] == 2 && searches[2] == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_interrupted_calibration_goes_on),
        cmocka_unit_test(too_few_samples_for_the_gates_are_refused_first),
        cmocka_unit_test(the_next_sample_is_behind_a_search),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
