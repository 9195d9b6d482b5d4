/* The ratio of two errors on the same samples, its interval, and what it decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/stats/paired.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <string.h>

static void a_common_factor_has_no_spread(void **unused) {
    double over[12], under[12];
    uint64_t state = 3;
    ousac_interval ratio;
    (void)unused;
    /* Samples of very different difficulty, each of which the one run does 1.5 times worse than the other. */
    for (size_t i = 0; i < 12; i++) {
        under[i] = exp(3 * calib_normal(&state));
        over[i] = 2.25 * under[i] * (1 + 1e-6 * calib_normal(&state));
    }
    assert_int_equal(ousac_paired_ratio(over, under, 12, 1, &ratio, NULL), OUSAC_STATUS_OK);
    assert_true(fabs(ratio.mean - 1.5) < 1e-5 && fabs(ratio.low - 1.5) < 1e-5 &&
                fabs(ratio.high - 1.5) < 1e-5);
    assert_true(ratio.low < ratio.mean && ratio.mean < ratio.high);
}

/* One pair, or pairs of one ratio, decide nothing, on whichever side of the threshold they lie. */
static void pairs_without_an_interval_leave_it_undecided(void **unused) {
    double over[12], under[12];
    uint64_t state = 3;
    ousac_interval ratio;
    (void)unused;
    for (size_t i = 0; i < 12; i++) {
        under[i] = exp(3 * calib_normal(&state));
        over[i] = 2.25 * under[i];
    }
    for (size_t count = 1; count <= 12; count += 11) {
        assert_int_equal(ousac_paired_ratio(over, under, count, 1, &ratio, NULL), OUSAC_STATUS_OK);
        assert_true(fabs(ratio.mean - 1.5) < 1e-12 && !ousac_interval_known(&ratio));
        for (double threshold = 1.1; threshold < 2; threshold += 0.8) {
            assert_int_equal(ousac_paired_decide(&ratio, threshold), OUSAC_PAIRED_UNDECIDED);
            assert_int_equal(ousac_paired_more(&ratio, threshold, count), 0);
        }
    }
}

/* Two pairs, the first at ratio^2 4, the second at 1, equal denominators: a resample of two has the first 0,
 * 1 or 2 times, with probabilities 1/4, 1/2, 1/4: ratios 1, sqrt(5/2), 2. */
static void few_pairs_have_known_intervals(void **unused) {
    const double over[] = {4, 1}, under[] = {1, 1};
    ousac_interval ratio;
    (void)unused;
    assert_int_equal(ousac_paired_ratio(over, under, 2, 9, &ratio, NULL), OUSAC_STATUS_OK);
    assert_true(fabs(ratio.mean - sqrt(2.5)) < 1e-15 && ratio.low == 1 && ratio.high == 2);
    /* 16 pairs, 8 of either kind, k of the first: sqrt((16 + 3 k) / 16). Binomial(16, 1/2): P(<= 3) = 0.0106,
     * P(<= 4) = 0.0384; by symmetry from k = 4 to k = 12. */
    double many[16], ones[16];
    for (size_t i = 0; i < 16; i++) {
        many[i] = i % 2 ? 4 : 1;
        ones[i] = 1;
    }
    assert_int_equal(ousac_paired_ratio(many, ones, 16, 9, &ratio, NULL), OUSAC_STATUS_OK);
    assert_true(fabs(ratio.low - sqrt(28.0 / 16)) < 1e-12 && fabs(ratio.high - sqrt(52.0 / 16)) < 1e-12);
}

/* Against the normal theory of a ratio of means: for r = mean(x) / mean(y), sd(log r) is that of
 * mean(x / X - y / Y), X and Y the true means; half of it for the root. */
static void the_interval_is_as_wide_as_the_delta_method_says(void **unused) {
    enum { COUNT = 400 };
    double over[COUNT], under[COUNT], sum_over = 0, sum_under = 0, spread = 0;
    uint64_t state = 8;
    ousac_interval ratio;
    (void)unused;
    for (size_t i = 0; i < COUNT; i++) {
        const double hard = exp(0.5 * calib_normal(&state));
        over[i] = 1.44 * hard * exp(0.3 * calib_normal(&state));
        under[i] = hard * exp(0.3 * calib_normal(&state));
        sum_over += over[i];
        sum_under += under[i];
    }
    for (size_t i = 0; i < COUNT; i++)
        spread += pow(over[i] * COUNT / sum_over - under[i] * COUNT / sum_under, 2);
    const double expected = 1.96 * sqrt(spread / COUNT / COUNT) / 2;
    assert_int_equal(ousac_paired_ratio(over, under, COUNT, 4, &ratio, NULL), OUSAC_STATUS_OK);
    assert_true(fabs(ratio.mean - sqrt(sum_over / sum_under)) < 1e-12);
    assert_true(fabs(log(ratio.high / ratio.mean) / expected - 1) < 0.1);
    assert_true(fabs(log(ratio.mean / ratio.low) / expected - 1) < 0.1);
}

static void seed_and_values_decide_the_interval(void **unused) {
    double over[9], under[9];
    uint64_t state = 2;
    ousac_interval first, again, other;
    (void)unused;
    for (size_t i = 0; i < 9; i++) {
        over[i] = exp(calib_normal(&state));
        under[i] = exp(calib_normal(&state));
    }
    assert_int_equal(ousac_paired_ratio(over, under, 9, 5, &first, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_paired_ratio(over, under, 9, 5, &again, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_paired_ratio(over, under, 9, 6, &other, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(&first, &again, sizeof first);
    assert_true(first.mean == other.mean && first.low != other.low);
}

static void intervals_decide_where_they_exclude_the_threshold(void **unused) {
    const ousac_interval above = {1.3, 1.2, 1.4}, below = {0.9, 0.8, 1.05}, across = {1.2, 1.0, 1.44};
    const ousac_interval exact = {1.1, 1.0, 1.2}, none = {0, 0, 0};
    (void)unused;
    assert_int_equal(ousac_paired_decide(&above, 1.1), OUSAC_PAIRED_ABOVE);
    assert_int_equal(ousac_paired_decide(&below, 1.1), OUSAC_PAIRED_BELOW);
    assert_int_equal(ousac_paired_decide(&across, 1.1), OUSAC_PAIRED_UNDECIDED);
    assert_int_equal(ousac_paired_decide(&none, 1.1), OUSAC_PAIRED_BELOW);
    assert_int_equal(ousac_paired_more(&above, 1.1, 16), 0);
    assert_int_equal(ousac_paired_more(&below, 1.1, 16), 0);
    assert_int_equal(ousac_paired_more(&exact, 1.1, 16), 0); /* no number decides */
    /* log(1.2 / 1.0) reaches 1.9 times as far as log(1.2 / threshold): 1.9^2 * 16 = 57.76 samples. */
    const double way = pow(1.2, 1 / 1.9);
    assert_int_equal(ousac_paired_more(&across, 1.2 / way, 16), 42);
    /* A threshold above the mean is reached from the other end, as far away here. */
    assert_int_equal(ousac_paired_more(&across, 1.2 * way, 16), 42);
    assert_int_equal(ousac_paired_more(&across, 1.2 * pow(1.2, 1 / 10.1), 16), 0); /* 102 times as many */
}

static void bad_pairs_are_refused(void **unused) {
    static const double bad[][2] = {{-1, 1},       {1, 0},        {NAN, 1}, {1, NAN},
                                    {INFINITY, 1}, {1, INFINITY}, {1, -1}};
    ousac_interval ratio;
    ousac_error error = {0};
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const double over[] = {1, bad[i][0]}, under[] = {1, bad[i][1]};
        assert_int_equal(ousac_paired_ratio(over, under, 2, 0, &ratio, &error), OUSAC_STATUS_NUMBER);
        assert_non_null(strstr(error.message, "pair 1 of 2"));
    }
    const double one = 1;
    assert_int_equal(ousac_paired_ratio(&one, &one, 0, 0, &ratio, &error), OUSAC_STATUS_USAGE);
    ousac_memory_fail_after(0);
    assert_int_equal(ousac_paired_ratio(&one, &one, 1, 0, &ratio, &error), OUSAC_STATUS_MEMORY);
    ousac_memory_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_common_factor_has_no_spread),
        cmocka_unit_test(pairs_without_an_interval_leave_it_undecided),
        cmocka_unit_test(few_pairs_have_known_intervals),
        cmocka_unit_test(the_interval_is_as_wide_as_the_delta_method_says),
        cmocka_unit_test(seed_and_values_decide_the_interval),
        cmocka_unit_test(intervals_decide_where_they_exclude_the_threshold),
        cmocka_unit_test(bad_pairs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
