/* Sessions tell, stop and share as they say; ranges, shards and budgets refuse by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/budget.h"
#include "pipeline/machine.h"
#include "pipeline/session.h"
#include "pipeline/shard.h"
#include "pipeline/workers.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SIZE = 3 * 8 * 8, SAMPLES = 6 };

static scratch directory;
static ousac_model *model;
static ousac_schedule schedule;

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    double scales[4] = {3, NAN, 3, NAN};
    ousac_gate gates[4] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_FULL, OUSAC_GATE_CACHED};
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must_succeed(random_dit_write(directory.path, &options, &error), &error);
    const ousac_session_model load = {.path = scratch_path(&directory, "model.safetensors", file)};
    must_succeed(ousac_session_load_model(&model, &load, NULL, &error), &error);
    const ousac_schedule_options steps = {"four",          4,      1000,  OUSAC_SPACING_LINSPACE,
                                          OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must_succeed(ousac_schedule_build(&schedule, &steps, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

/* --- telling and stopping --- */

typedef struct listener {
    size_t started, ended, noted;
    uint64_t done, total;
    char label[32], line[64];
    ousac_stop *stop; /* asked at the first update; NULL: never */
} listener;

static void *start(void *self, const char *label) {
    listener *l = self;
    l->started++;
    (void)snprintf(l->label, sizeof l->label, "%s", label);
    return l;
}

static void update(void *handle, uint64_t done, uint64_t total) {
    listener *l = handle;
    l->done = done > l->done ? done : l->done;
    l->total = total;
    if (l->stop)
        ousac_stop_ask(l->stop);
}

static void end(void *handle) {
    ((listener *)handle)->ended++;
}

static void note(void *self, const char *line) {
    listener *l = self;
    l->noted++;
    (void)snprintf(l->line, sizeof l->line, "%s", line);
}

static ousac_session session_of(const ousac_session_hooks *hooks, const ousac_stop *stop) {
    return (ousac_session){
        .model = model, .seed = 5, .micro_batch = 2, .threads = 1, .stop = stop, .hooks = hooks};
}

static void a_run_is_told_from_start_to_end(void **state) {
    listener l = {0};
    const ousac_session_hooks hooks = {&l, start, update, end, note};
    const ousac_session session = session_of(&hooks, NULL);
    float samples[SAMPLES * SIZE], silent[SAMPLES * SIZE];
    ousac_error error = {0};
    ousac_session_run run = {
        .label = "six", .schedule = &schedule, .range = {0, SAMPLES}, .exact = 1, .samples = samples};
    (void)state;
    must_succeed(ousac_session_run_samples(&session, &run, &error), &error);
    assert_int_equal(l.started, 1);
    assert_int_equal(l.ended, 1);
    assert_string_equal(l.label, "six");
    assert_true(l.total > 0 && l.done == l.total);
    ousac_session_note(&session, "%d of %s", 3, "them");
    assert_string_equal(l.line, "3 of them");
    /* Nobody to tell changes nothing. */
    const ousac_session alone = session_of(NULL, NULL);
    run.samples = silent;
    must_succeed(ousac_session_run_samples(&alone, &run, &error), &error);
    assert_memory_equal(samples, silent, sizeof samples);
    ousac_session_note(&alone, "nobody hears");
    assert_int_equal(l.noted, 1);
}

/* What is computed together depends on the number of samples and on nothing else, so that threads change no result. */
static void few_samples_are_shared_by_two_threads(void **state) {
    ousac_session session = session_of(NULL, NULL);
    (void)state;
    for (session.micro_batch = 1; session.micro_batch < 9; session.micro_batch++)
        for (uint64_t samples = 1; samples < 20; samples++) {
            const size_t batch = ousac_session_batch(&session, samples), whole = session.micro_batch;
            assert_true(batch >= 1 && whole % batch == 0); /* ranges stay aligned */
            assert_true(batch == whole || (samples <= whole && samples > batch));
            if (whole % 2 == 0 && samples == whole)
                assert_int_equal(batch, whole / 2);
        }
}

static void a_stop_ends_a_run(void **state) {
    ousac_stop stop = {0};
    listener l = {.stop = &stop};
    const ousac_session_hooks hooks = {&l, start, update, end, NULL};
    const ousac_session session = session_of(&hooks, &stop);
    float samples[SAMPLES * SIZE];
    ousac_error error = {0};
    const ousac_session_run run = {
        .label = "stopped", .schedule = &schedule, .range = {0, SAMPLES}, .exact = 1, .samples = samples};
    (void)state;
    assert_int_equal(ousac_session_run_samples(&session, &run, &error), OUSAC_STATUS_INTERRUPTED);
    assert_int_equal(l.ended, 1);
    assert_true(l.done < l.total);
}

/* --- workers --- */

static size_t shared_runs, polls;

static ousac_status share_run(const ousac_session *session, const ousac_session_run *run,
                              ousac_error *error) {
    shared_runs++;
    return ousac_session_run_here(session, run, error);
}

static void poll(void) {
    polls++;
}

static ousac_status see_nothing(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)self;
    (void)worker;
    (void)error;
    memset(observer, 0, sizeof *observer);
    return OUSAC_STATUS_OK;
}

static ousac_status keep_nothing(void *self, size_t worker, uint64_t first, size_t count,
                                 ousac_error *error) {
    (void)self;
    (void)worker;
    (void)first;
    (void)count;
    (void)error;
    return OUSAC_STATUS_OK;
}

static void workers_share_what_nobody_watches(void **state) {
    const ousac_workers workers = {.run = share_run, .poll = poll};
    ousac_session session = session_of(NULL, NULL);
    const ousac_run_observers observers = {.attach = see_nothing, .collect = keep_nothing};
    ousac_error error = {0};
    ousac_session_run run = {.label = "shared", .schedule = &schedule, .range = {0, 2}, .exact = 1};
    (void)state;
    session.workers = &workers;
    must_succeed(ousac_session_run_samples(&session, &run, &error), &error);
    assert_int_equal(shared_runs, 1);
    assert_true(polls > 0);
    run.observers = &observers;
    must_succeed(ousac_session_run_samples(&session, &run, &error), &error);
    assert_int_equal(shared_runs, 1);
}

/* --- loading --- */

static void undecided_gates_are_refused_by_file(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_schedule open = {0}, loaded = {0};
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_schedule_copy(&open, &schedule, &error), &error);
    open.steps[1].gate[OUSAC_BRANCH_COND] = open.steps[1].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_AUTO;
    must_succeed(ousac_schedule_save(&open, scratch_path(&directory, "open.json", path), &error), &error);
    must_fail(ousac_session_load_schedule(&loaded, path, &error), OUSAC_STATUS_USAGE, &error, "open.json");
    assert_null(loaded.steps);
    ousac_schedule_free(&open);
}

/* --- ranges and shards --- */

static void shards_are_whole_batches_that_cover_the_range(void **state) {
    (void)state;
    for (size_t parts = 1; parts < 9; parts++)
        for (uint64_t count = 1; count < 40; count++) {
            const ousac_sample_range range = {12, count};
            uint64_t next = range.first, most = 0, least = UINT64_MAX;
            for (size_t i = 0; i < parts; i++) {
                const ousac_sample_range part = ousac_shard_of(&range, 4, i, parts);
                const uint64_t batches = (part.count + 3) / 4;
                most = batches > most ? batches : most;
                least = batches < least ? batches : least;
                if (part.count == 0)
                    continue;
                assert_true(part.first == next && part.first % 4 == 0);
                next += part.count;
            }
            assert_true(next == range.first + count);
            assert_true(most - least <= 1);
        }
}

static void bad_ranges_name_their_field(void **state) {
    const ousac_sample_range none = {0, 0}, odd = {3, 4};
    ousac_sample_range range = {0, 8};
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_range_check("first", &none, 4, &error), OUSAC_STATUS_USAGE, &error, "`first`");
    must_fail(ousac_range_check("samples", &odd, 4, &error), OUSAC_STATUS_USAGE, &error, "`samples`");
    static const char *const bad[] = {"0/2", "3/2", "1", "1/", "/2", "1/2/3", "1/99", "a/b", "-1/2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        must_fail(ousac_shard_parse(bad[i], &range, 4, &error), OUSAC_STATUS_USAGE, &error, "`shard`");
        assert_true(range.first == 0 && range.count == 8);
    }
    must_succeed(ousac_shard_parse("2/2", &range, 4, &error), &error);
    assert_true(range.first == 4 && range.count == 4);
    assert_true(ousac_range_overlaps(&range, 7, 9) && ousac_range_overlaps(&range, 0, 5));
    assert_false(ousac_range_overlaps(&range, 8, 9) || ousac_range_overlaps(&range, 0, 4) ||
                 ousac_range_overlaps(&none, 0, 9));
}

/* --- budgets --- */

static void budgets_are_solved_or_say_what_would_do(void **state) {
    const ousac_arch *arch = &model->arch;
    const double full = (double)ousac_cost_full(arch);
    ousac_cost_total cost;
    ousac_error error = {0};
    uint64_t macs = 0;
    double step = 0;
    (void)state;
    must_succeed(ousac_budget_solve(arch, &schedule, &(ousac_budget){NAN, NAN}, &macs, &step, &error),
                 &error);
    assert_true(step == OUSAC_DEFAULT_BUDGET_STEP && fabs((double)macs - step * full) <= 1);
    /* A total of so much leaves cached evaluations what full ones do not take. */
    must_succeed(ousac_cost_trajectory(arch, &schedule, NULL, &cost, &error), &error);
    const double total = ((double)cost.forwards_full + 0.4 * (double)cost.forwards_cached) * full /
                         (double)cost.constant_guidance;
    must_succeed(ousac_budget_solve(arch, &schedule, &(ousac_budget){NAN, total}, &macs, &step, &error),
                 &error);
    assert_true(fabs(step - 0.4) < 1e-9);
    must_fail(ousac_budget_solve(arch, &schedule, &(ousac_budget){0.5, 0.5}, &macs, &step, &error),
              OUSAC_STATUS_USAGE, &error, "`budget_total`");
    must_fail(ousac_budget_solve(arch, &schedule, &(ousac_budget){1.5, NAN}, &macs, &step, &error),
              OUSAC_STATUS_USAGE, &error, "expected from");
    must_fail(ousac_budget_solve(arch, &schedule, &(ousac_budget){NAN, 1e-6}, &macs, &step, &error),
              OUSAC_STATUS_USAGE, &error, "`budget_total`");
}

static void the_machine_is_known(void **state) {
    const double before = ousac_clock_s();
    (void)state;
    assert_true(ousac_processors() >= 1);
    assert_true(ousac_peak_bytes() > 1 << 20);
    assert_true(ousac_clock_s() >= before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_told_from_start_to_end),
        cmocka_unit_test(few_samples_are_shared_by_two_threads),
        cmocka_unit_test(a_stop_ends_a_run),
        cmocka_unit_test(workers_share_what_nobody_watches),
        cmocka_unit_test(undecided_gates_are_refused_by_file),
        cmocka_unit_test(shards_are_whole_batches_that_cover_the_range),
        cmocka_unit_test(bad_ranges_name_their_field),
        cmocka_unit_test(budgets_are_solved_or_say_what_would_do),
        cmocka_unit_test(the_machine_is_known),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
