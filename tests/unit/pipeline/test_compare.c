/* A comparison of methods in one cell: what a row may cost, what is held out, what an interruption leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calib/cost.h"
#include "pipeline/compare.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

static tiny_session tiny;
static ousac_schedule schedule;

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&schedule, 9, 2, 2, 1);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&schedule);
    tiny_session_close(&tiny);
    return 0;
}

static ousac_compare_options options_of(void) {
    return (ousac_compare_options){.schedule = &schedule,
                                   .period = 3,
                                   .budget_step = 0.4,
                                   .evaluations = 4,
                                   .calibration = 8,
                                   .validation = 4,
                                   .test = {12, 4}};
}

static const ousac_compare_row *find_row(const ousac_compare_cell *cell, const char *method,
                                         const char *allocator, int placed) {
    for (size_t i = 0; i < cell->row_count; i++)
        if (strcmp(cell->row[i].method, method) == 0 && strcmp(cell->row[i].allocator, allocator) == 0 &&
            cell->row[i].placed == placed)
            return &cell->row[i];
    fail_msg("no row %s %s", method, allocator);
    return NULL;
}

static void every_row_is_measured_within_the_budget(void **state) {
    const ousac_compare_options options = options_of();
    ousac_compare_cell cell, again;
    ousac_cost_total cost;
    ousac_error error = {0};
    size_t shipped = 0;
    (void)state;
    must_succeed(ousac_compare_run(&tiny.session, &options, &cell, &error), &error);
    assert_true(cell.rank > 0);
    must_succeed(ousac_cost_trajectory(&tiny.model->arch, &schedule, NULL, &cost, &error), &error);
    for (size_t i = 0; i < cell.row_count; i++) {
        const ousac_compare_row *row = &cell.row[i];
        assert_true(row->measured);
        shipped += (size_t)row->shipped;
        assert_true(!row->shipped || row->ours);
        if (strcmp(row->method, "exact") == 0) {
            /* what is compared with: no error, and no interval of it */
            assert_true(row->error.mean == 0 && isnan(row->error.low) && isnan(row->error.high));
            assert_true(row->macs_total == (double)cost.schedule_full / (double)cost.constant_guidance);
            continue;
        }
        assert_true(row->macs_total <= cell.budget_total * (1 + 1e-12));
        assert_true(row->error.mean > 0 && row->error.low <= row->error.mean &&
                    row->error.mean <= row->error.high);
    }
    assert_int_equal(shipped, 1);
    /* at the same refreshes and rank, what each method makes of it */
    const char *const methods[] = {"svd", "ca-svd", "cd-svd", "delta-cov"};
    for (size_t i = 0; i < 4; i++)
        assert_true(find_row(&cell, methods[i], "uniform", 0)->macs_total ==
                    find_row(&cell, "svd", "uniform", 0)->macs_total);
    assert_true(find_row(&cell, "reuse", "", 0)->macs_total <
                find_row(&cell, "svd", "uniform", 0)->macs_total);
    /* the same figures again */
    must_succeed(ousac_compare_run(&tiny.session, &options, &again, &error), &error);
    assert_int_equal(again.row_count, cell.row_count);
    for (size_t i = 0; i < cell.row_count; i++)
        assert_true(again.row[i].error.mean == cell.row[i].error.mean &&
                    again.row[i].shipped == cell.row[i].shipped);
    ousac_compare_free(&again);
    ousac_compare_free(&cell);
}

static void samples_that_were_seen_are_refused(void **state) {
    ousac_compare_options options = options_of();
    ousac_compare_cell cell;
    ousac_error error = {0};
    (void)state;
    options.test.first = 10;
    must_fail(ousac_compare_run(&tiny.session, &options, &cell, &error), OUSAC_STATUS_USAGE, &error,
              "`samples` 10:14");
    options = options_of();
    options.calibration = 2;
    must_fail(ousac_compare_run(&tiny.session, &options, &cell, &error), OUSAC_STATUS_USAGE, &error,
              "`calibration` 2: expected at least 4");
    options = options_of();
    options.budget_step = 0.01;
    must_fail(ousac_compare_run(&tiny.session, &options, &cell, &error), OUSAC_STATUS_USAGE, &error,
              "budget_step");
    assert_int_equal(cell.row_count, 0);
}

/* --- interruptions --- */

static ousac_stop stop;
static size_t started, stop_at;

static void *start(void *self, const char *label) {
    (void)self;
    (void)label;
    if (++started == stop_at)
        ousac_stop_ask(&stop);
    return NULL;
}

static void an_interruption_leaves_whole_rows(void **state) {
    const ousac_compare_options options = options_of();
    const ousac_session_hooks hooks = {.start = start};
    ousac_session session = tiny.session;
    ousac_compare_cell whole, cell;
    ousac_error error = {0};
    size_t most = 0;
    (void)state;
    must_succeed(ousac_compare_run(&session, &options, &whole, &error), &error);
    session.hooks = &hooks;
    session.stop = &stop;
    for (stop_at = 1; stop_at < 64; stop_at += 4) {
        started = 0;
        memset(&stop, 0, sizeof stop);
        const ousac_status status = ousac_compare_run(&session, &options, &cell, &error);
        if (!status) {
            ousac_compare_free(&cell);
            break;
        }
        assert_int_equal(status, OUSAC_STATUS_INTERRUPTED);
        for (size_t i = 0; i < cell.row_count; i++)
            assert_true(cell.row[i].measured && cell.row[i].error.mean == whole.row[i].error.mean);
        most = cell.row_count > most ? cell.row_count : most;
        ousac_compare_free(&cell);
    }
    assert_true(most > 3);
    ousac_compare_free(&whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_measured_within_the_budget),
        cmocka_unit_test(samples_that_were_seen_are_refused),
        cmocka_unit_test(an_interruption_leaves_whole_rows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
