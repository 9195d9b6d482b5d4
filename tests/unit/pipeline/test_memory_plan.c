/* Memory plans: sizes as they are written, phases and their peak, threads and spill that fit a limit, and lists that
 * grow with what they are lists of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calib/cost.h"
#include "pipeline/memory_plan.h"
#include "pipeline/memory_stages.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

static tiny_session tiny;
static ousac_schedule schedule;

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&schedule, 8, 2, 2, 3);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&schedule);
    tiny_session_close(&tiny);
    return 0;
}

static void sizes_have_units(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"1", 1},      {"800MB", 800000000},      {"6GiB", (uint64_t)6 << 30}, {"1.5k", 1536},
                {"2kB", 2000}, {"3M", (uint64_t)3 << 20}, {"1TiB", (uint64_t)1 << 40}, {"0.5GB", 500000000},
                {"7B", 7}};
    static const char *const bad[] = {"",     "0",    "-1",  "1.2.3", "GiB",   "5 GiB",
                                      "5gib", "1e30", "nan", "inf",   "5GiBs", "0.1"};
    ousac_memory_plan plan;
    ousac_error error = {0};
    int wanted = -1;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const ousac_memory_options options = {.limit = good[i].text};
        must_succeed(ousac_memory_parse(&options, &plan, &wanted, &error), &error);
        assert_int_equal(wanted, 1);
        assert_true(plan.limit == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const ousac_memory_options options = {.limit = bad[i]};
        must_fail(ousac_memory_parse(&options, &plan, &wanted, &error), OUSAC_STATUS_USAGE, &error,
                  "`memory`");
    }
    must_succeed(ousac_memory_parse(&(ousac_memory_options){0}, &plan, &wanted, &error), &error);
    assert_int_equal(wanted, 0);
    must_succeed(ousac_memory_parse(&(ousac_memory_options){.dry_run = 1}, &plan, &wanted, &error), &error);
    assert_int_equal(wanted, 1);
    assert_true(plan.limit == 0);
}

static void the_peak_is_that_of_the_largest_phase(void **state) {
    ousac_memory_plan plan = {.threads = 1};
    (void)state;
    ousac_memory_phase(&plan, "small");
    ousac_memory_add(&plan, "a", 1000);
    ousac_memory_phase_end(&plan);
    const uint64_t small = plan.peak;
    ousac_memory_phase(&plan, "large");
    ousac_memory_add(&plan, "a", 64000);
    ousac_memory_add(&plan, "nothing", 0);
    ousac_memory_add(&plan, "b", 64000);
    ousac_memory_phase_end(&plan);
    assert_string_equal(plan.phase, "large");
    assert_true(plan.peak - small >= 127000 && plan.peak - small <= 129000 + 128000 / 64);
    uint64_t sum = 0;
    for (size_t i = 0; i < plan.part_count; i++) {
        assert_string_not_equal(plan.part[i].name, "nothing");
        sum += plan.part[i].bytes;
    }
    assert_true(sum == plan.peak);
    ousac_memory_phase(&plan, "last");
    ousac_memory_phase_end(&plan);
    assert_string_equal(plan.phase, "large");
}

/* What a command might list: so much a thread, and moments unless they are spilled. */
enum { EACH = 100 << 20, MOMENTS = 300 << 20 };

static void list(const void *self, ousac_memory_plan *plan) {
    (void)self;
    ousac_memory_phase(plan, "working");
    ousac_memory_add(plan, "caches", plan->threads * (uint64_t)EACH);
    if (!plan->spilled)
        ousac_memory_add(plan, "moments", MOMENTS);
    ousac_memory_phase_end(plan);
}

static void threads_are_lowered_before_anything_is_refused(void **state) {
    ousac_memory_plan plan;
    ousac_error error = {0};
    uint64_t peak[5][2];
    (void)state;
    for (size_t threads = 1; threads < 5; threads++)
        for (int spilled = 0; spilled < 2; spilled++) {
            plan = (ousac_memory_plan){.threads = 0};
            must_succeed(ousac_memory_fit(&plan, threads, 1, spilled, list, NULL, &error), &error);
            assert_true(plan.threads == threads &&
                        plan.spilled == spilled); /* without a limit nothing gives way */
            peak[threads][spilled] = plan.peak;
        }
    for (size_t threads = 1; threads < 5; threads++)
        for (int spilled = 0; spilled < 2; spilled++) {
            plan = (ousac_memory_plan){.limit = peak[threads][spilled]};
            must_succeed(ousac_memory_fit(&plan, 4, 1, 0, list, NULL, &error), &error);
            assert_true(plan.peak <= plan.limit);
            assert_true(plan.threads >= threads);
            /* not less than could be had */
            for (size_t more = plan.threads + 1; more < 5; more++)
                assert_true(peak[more][0] > plan.limit && peak[more][1] > plan.limit);
            assert_true(!plan.spilled || peak[plan.threads][0] > plan.limit);
        }
    plan = (ousac_memory_plan){.limit = peak[1][0] - 1};
    must_fail(ousac_memory_fit(&plan, 4, 0, 0, list, NULL, &error), OUSAC_STATUS_MEMORY, &error, "working");
    plan = (ousac_memory_plan){.limit = peak[1][1] - 1};
    must_fail(ousac_memory_fit(&plan, 4, 1, 0, list, NULL, &error), OUSAC_STATUS_MEMORY, &error, "`memory`");
}

static ousac_memory_plan recording(uint64_t samples, size_t threads, size_t batch, int magnitudes) {
    ousac_memory_plan plan = {.threads = threads};
    const ousac_memory_recording r = {.model = tiny.model,
                                      .schedule = &schedule,
                                      .pilot_samples = 4,
                                      .samples = samples,
                                      .micro_batch = batch,
                                      .segments = 1,
                                      .magnitudes = magnitudes};
    ousac_memory_list_recording(&plan, &r);
    return plan;
}

static void recording_grows_with_what_is_recorded(void **state) {
    (void)state;
    assert_true(recording(8, 2, 2, 0).peak > recording(8, 1, 2, 0).peak);
    assert_true(recording(8, 1, 4, 0).peak > recording(8, 1, 2, 0).peak);
    assert_true(recording(8, 1, 2, 1).peak >= recording(8, 1, 2, 0).peak);
    assert_true(recording(800, 1, 2, 0).peak == recording(8, 1, 2, 0).peak); /* sums, not samples */
    /* forwards of pilot and profile, both exact; the moments' products are besides */
    ousac_cost_total cost;
    ousac_error error = {0};
    must_succeed(ousac_cost_trajectory(&tiny.model->arch, &schedule, NULL, &cost, &error), &error);
    assert_true(recording(8, 1, 2, 0).macs >= 12 * cost.schedule_full);
    assert_true(recording(16, 1, 2, 0).macs - recording(8, 1, 2, 0).macs >= 8 * cost.schedule_full);
}

static void a_run_costs_its_full_and_cached_evaluations(void **state) {
    size_t full = 0, cached = 0;
    int met[OUSAC_BRANCHES] = {0, 0};
    const uint64_t each = ousac_cost_full(&tiny.model->arch);
    (void)state;
    for (size_t i = 0; i < schedule.step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (ousac_mode_evaluates(schedule.steps[i].mode, b)) {
                *(schedule.steps[i].gate[b] == OUSAC_GATE_FULL || !met[b] ? &full : &cached) += 1;
                met[b] = 1;
            }
    assert_true(full > 0 && cached > 0);
    assert_true(ousac_memory_run_macs(&tiny.model->arch, &schedule, 5, each) == 5 * (full + cached) * each);
    assert_true(ousac_memory_run_macs(&tiny.model->arch, &schedule, 5, 0) <= 5 * (full + cached) * each);
}

static void workers_are_no_more_than_micro_batches(void **state) {
    const ousac_memory_plan plan = {.threads = 8};
    (void)state;
    assert_int_equal(ousac_memory_workers(&plan, 100, 2), 8);
    assert_int_equal(ousac_memory_workers(&plan, 6, 2), 3);
    assert_int_equal(ousac_memory_workers(&plan, 5, 2), 3);
    assert_int_equal(ousac_memory_workers(&plan, 1, 4), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(the_peak_is_that_of_the_largest_phase),
        cmocka_unit_test(threads_are_lowered_before_anything_is_refused),
        cmocka_unit_test(recording_grows_with_what_is_recorded),
        cmocka_unit_test(a_run_costs_its_full_and_cached_evaluations),
        cmocka_unit_test(workers_are_no_more_than_micro_batches),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
