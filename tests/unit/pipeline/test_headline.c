/* The row that a user asks for: errors of single samples known by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "pipeline/headline.h"

enum { SIZE = 2 };

static void errors_median_and_worst_are_of_single_samples(void **state) {
    /* references of norm 5; differences of 0, 1, 2, 4 of it: errors 0, 0.2, 0.4, 0.8 */
    static const float reference[] = {3, 4, 3, 4, 3, 4, 3, 4};
    static const float samples[] = {3, 4, 3, 5, 5, 4, 3, 0};
    const ousac_headline_row row = {
        .method = "calibrated", .steps = 7, .macs_share = 0.25, .seconds_share = 0.5};
    ousac_headline headline = {0};
    (void)state;
    assert_int_equal(ousac_headline_add(&headline, &row, samples, reference, 4, SIZE, 1, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_headline_add(&headline, &row, samples, reference, 3, SIZE, 1, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(headline.count, 2);
    const ousac_headline_row *four = &headline.row[0], *three = &headline.row[1];
    assert_string_equal(four->method, "calibrated");
    assert_true(four->steps == 7 && four->macs_share == 0.25 && four->seconds_share == 0.5);
    assert_true(fabs(four->error.mean - sqrt((0.04 + 0.16 + 0.64) / 4)) < 1e-12);
    assert_true(four->error.low <= four->error.mean && four->error.mean <= four->error.high);
    assert_true(fabs(four->median - 0.3) < 1e-12 && fabs(four->worst - 0.8) < 1e-12);
    assert_true(fabs(three->median - 0.2) < 1e-12 && fabs(three->worst - 0.4) < 1e-12);
    ousac_headline_free(&headline);
    assert_int_equal(headline.count, 0);
}

/* Squares of both rows are known: the ratio of the roots of their sums, and none where the samples are others. */
static void errors_are_compared_with_the_first_row(void **state) {
    static const float reference[] = {3, 4, 3, 4}, ours[] = {3, 5, 3, 5}, other[] = {5, 4, 3, 8},
                       none[] = {3, 4, 3, 5};
    const ousac_headline_row row = {.method = "calibrated"};
    ousac_headline headline = {0};
    (void)state;
    assert_int_equal(ousac_headline_add(&headline, &row, ours, reference, 2, SIZE, 1, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_headline_add(&headline, &row, other, reference, 2, SIZE, 1, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_headline_add(&headline, &row, none, reference, 2, SIZE, 1, NULL), OUSAC_STATUS_OK);
    assert_true(isnan(headline.row[0].ratio.mean));
    assert_true(fabs(headline.row[1].ratio.mean - sqrt((0.04 + 0.04) / (0.16 + 0.64))) < 1e-12);
    assert_true(headline.row[1].ratio.low <= headline.row[1].ratio.mean);
    assert_true(headline.row[1].ratio.high >= headline.row[1].ratio.mean);
    assert_true(isnan(headline.row[2].ratio.mean)); /* a sample without an error */
    ousac_headline_free(&headline);
}

static void rows_that_cannot_be_are_refused(void **state) {
    static const float zero[SIZE] = {0, 0}, one[SIZE] = {1, 1};
    const ousac_headline_row row = {.method = "calibrated"};
    ousac_headline headline = {0};
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_headline_add(&headline, &row, one, zero, 1, SIZE, 1, &error), OUSAC_STATUS_NUMBER);
    assert_int_equal(headline.count, 0);
    for (int i = 0; i < OUSAC_HEADLINE_ROWS; i++)
        assert_int_equal(ousac_headline_add(&headline, &row, one, one, 1, SIZE, 1, &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_headline_add(&headline, &row, one, one, 1, SIZE, 1, &error),
                     OUSAC_STATUS_INTERNAL);
    ousac_headline_free(&headline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_median_and_worst_are_of_single_samples),
        cmocka_unit_test(errors_are_compared_with_the_first_row),
        cmocka_unit_test(rows_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
