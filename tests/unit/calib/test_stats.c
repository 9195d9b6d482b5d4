/* Means and their bootstrap intervals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/stats/stats.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <string.h>

/* A width of zero would be read as certainty. */
static void one_value_or_equal_ones_have_no_interval(void **unused) {
    const double values[] = {2.25, 2.25, 2.25, 2.25}, zeros[3] = {0};
    const double third[] = {1.0 / 3, 1.0 / 3, 1.0 / 3}; /* whose mean is rounded */
    char text[OUSAC_INTERVAL_BYTES];
    ousac_interval interval;
    (void)unused;
    for (size_t count = 1; count <= 4; count++) {
        assert_int_equal(ousac_stats_mean(values, count, 1, &interval, NULL), OUSAC_STATUS_OK);
        assert_true(interval.mean == 2.25 && isnan(interval.low) && isnan(interval.high));
        assert_int_equal(ousac_interval_known(&interval), 0);
        assert_int_equal(ousac_stats_root_mean(values, count, 1, &interval, NULL), OUSAC_STATUS_OK);
        assert_true(interval.mean == 1.5 && isnan(interval.low) && isnan(interval.high));
    }
    assert_int_equal(ousac_stats_mean(third, 3, 1, &interval, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_interval_known(&interval), 0);
    assert_int_equal(ousac_stats_root_mean(zeros, 3, 1, &interval, NULL), OUSAC_STATUS_OK);
    assert_true(interval.mean == 0 && !ousac_interval_known(&interval));
    assert_string_equal(ousac_interval_text(&interval, "%.4f", text), "[no interval]");
}

static void intervals_are_written_as_asked(void **unused) {
    const ousac_interval interval = {0.5, 0.25, 1.0 / 3}, huge = {1e300, -1e300, 1e300};
    char text[OUSAC_INTERVAL_BYTES];
    (void)unused;
    assert_string_equal(ousac_interval_text(&interval, "%.4f", text), "[0.2500, 0.3333]");
    assert_string_equal(ousac_interval_text(&interval, "%.2g", text), "[0.25, 0.33]");
    assert_true(strlen(ousac_interval_text(&huge, "%.4f", text)) < OUSAC_INTERVAL_BYTES);
}

static void seed_and_values_decide_the_interval(void **unused) {
    double values[30];
    uint64_t state = 1;
    ousac_interval first, again, other;
    (void)unused;
    for (size_t i = 0; i < 30; i++)
        values[i] = calib_normal(&state);
    assert_int_equal(ousac_stats_mean(values, 30, 11, &first, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_stats_mean(values, 30, 11, &again, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_stats_mean(values, 30, 12, &other, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(&first, &again, sizeof first);
    assert_true(first.mean == other.mean && first.low != other.low);
    assert_true(first.low < first.mean && first.mean < first.high);
}

/* Two values, resampled twice: the mean is their middle half of the time, either end a quarter of it, so that
 * the 2.5 % points are the ends. */
static void small_samples_have_known_intervals(void **unused) {
    const double values[] = {0, 1, 0, 1};
    ousac_interval interval;
    (void)unused;
    assert_int_equal(ousac_stats_mean(values, 2, 3, &interval, NULL), OUSAC_STATUS_OK);
    assert_true(interval.low == 0 && interval.mean == 0.5 && interval.high == 1);
    /* Binomial(4, 1/2) / 4: P(0) = 1/16. */
    assert_int_equal(ousac_stats_mean(values, 4, 3, &interval, NULL), OUSAC_STATUS_OK);
    assert_true(interval.low == 0 && interval.high == 1);
    const double many[] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
    /* Binomial(16, 1/2): P(<= 3) = 0.0106, P(<= 4) = 0.0384; by symmetry from 4/16 to 12/16. */
    assert_int_equal(ousac_stats_mean(many, 16, 3, &interval, NULL), OUSAC_STATUS_OK);
    assert_true(interval.low == 0.25 && interval.high == 0.75);
}

static void intervals_cover_the_truth_about_as_often_as_they_say(void **unused) {
    enum { TRIALS = 200, COUNT = 40 };
    uint64_t state = 5;
    size_t covered = 0, covered_root = 0;
    (void)unused;
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        double values[COUNT], squares[COUNT];
        ousac_interval interval;
        for (size_t i = 0; i < COUNT; i++) {
            values[i] = 3 + calib_normal(&state);
            squares[i] = (values[i] - 3) * (values[i] - 3);
        }
        assert_int_equal(ousac_stats_mean(values, COUNT, trial, &interval, NULL), OUSAC_STATUS_OK);
        covered += interval.low <= 3 && 3 <= interval.high;
        assert_int_equal(ousac_stats_root_mean(squares, COUNT, trial, &interval, NULL), OUSAC_STATUS_OK);
        covered_root += interval.low <= 1 && 1 <= interval.high;
    }
    /* 95 % less the small-sample loss of percentiles, more or less four standard errors of the count. */
    assert_true(covered >= 172 && covered <= 199);
    assert_true(covered_root >= 160 && covered_root <= 199);
}

static void bad_values_are_refused(void **unused) {
    static const double bad[][3] = {
        {1, NAN, 2}, {INFINITY, 1, 2}, {1, 2, -INFINITY}, {1.7e308, 1.7e308, 1.7e308}};
    const double negative[] = {1, -1e-9};
    ousac_interval interval;
    ousac_error error = {0};
    (void)unused;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(ousac_stats_mean(bad[i], 3, 0, &interval, &error), OUSAC_STATUS_NUMBER);
    assert_int_equal(ousac_stats_root_mean(negative, 2, 0, &interval, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "square 1 of 2"));
    assert_int_equal(ousac_stats_mean(negative, 0, 0, &interval, &error), OUSAC_STATUS_USAGE);
    ousac_memory_fail_after(0);
    assert_int_equal(ousac_stats_mean(negative, 2, 0, &interval, &error), OUSAC_STATUS_MEMORY);
    ousac_memory_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_value_or_equal_ones_have_no_interval),
        cmocka_unit_test(intervals_are_written_as_asked),
        cmocka_unit_test(seed_and_values_decide_the_interval),
        cmocka_unit_test(small_samples_have_known_intervals),
        cmocka_unit_test(intervals_cover_the_truth_about_as_often_as_they_say),
        cmocka_unit_test(bad_values_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
