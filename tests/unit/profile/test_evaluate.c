/* Distances between samples, against numbers worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "formats/memory.h"
#include "profile/run/evaluate.h"
#include "tests/support/profile_support.h"

static const double IMAGES[] = {-1, 1};

static void errors_and_psnr_are_those_worked_out_by_hand(void **state) {
    static const float reference[3][4] = {{1, -1, 1, -1}, {0.5F, 0, 0, 0}, {3, 0, 0, 4}};
    static const float x[3][4] = {{1, -1, 1, 1}, {0.5F, 0.25F, 0, 0}, {3, 0, 0, 2}};
    double relative2[3], psnr[3];
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_evaluate_samples(x[0], reference[0], 3, 4, IMAGES, relative2, psnr, &error), &error);
    assert_true(relative2[0] == 4.0 / 4);
    assert_true(relative2[1] == 0.0625 / 0.25);
    assert_true(relative2[2] == 4.0 / 25);
    assert_true(fabs(psnr[0] - 10 * log10(4.0 / (4.0 / 4))) < 1e-12);
    assert_true(fabs(psnr[1] - 10 * log10(4.0 / (0.0625 / 4))) < 1e-12);
    assert_true(psnr[2] == 120); /* equal once clamped */
    must_succeed(ousac_evaluate_samples(x[0], reference[0], 3, 4, NULL, NULL, NULL, &error), &error);
}

static void psnr_never_exceeds_120_db(void **state) {
    static const float reference[1] = {0.5F};
    const float x[1] = {nextafterf(0.5F, 1)};
    double psnr[1];
    ousac_error error = {0};
    (void)state;
    /* 10 log10(4 / 2^-48) is about 150 */
    must_succeed(ousac_evaluate_samples(x, reference, 1, 1, IMAGES, NULL, psnr, &error), &error);
    assert_true(psnr[0] == 120);
}

static void psnr_of_latents_takes_the_peak_of_the_reference(void **state) {
    static const float reference[2][4] = {{3, -5, 0, 1}, {2, 2, 2, 2}};
    static const float x[2][4] = {{3, -5, 0, 5}, {2, 2, 2, 3}};
    double psnr[2];
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_evaluate_samples(x[0], reference[0], 2, 4, NULL, NULL, psnr, &error), &error);
    assert_true(fabs(psnr[0] - 10 * log10(64.0 / 4)) < 1e-12);
    assert_true(psnr[1] == -120); /* without a peak */
}

static void sums_are_taken_in_double(void **state) {
    enum { SIZE = 100000 };
    float *x = ousac_malloc(SIZE, sizeof *x), *reference = ousac_malloc(SIZE, sizeof *reference);
    double relative2[1];
    ousac_error error = {0};
    (void)state;
    assert_true(x && reference);
    for (size_t i = 0; i < SIZE; i++) {
        reference[i] = i ? 0.25F : 16384;
        x[i] = i ? 0.5F : 16384;
    }
    must_succeed(ousac_evaluate_samples(x, reference, 1, SIZE, NULL, relative2, NULL, &error), &error);
    /* in float32 the small squares would vanish beside 2^28 */
    const double expected = (SIZE - 1) * 0.0625 / (268435456.0 + (SIZE - 1) * 0.0625);
    assert_true(fabs(relative2[0] - expected) < 1e-12 * expected);
    ousac_free(x);
    ousac_free(reference);
}

static void what_has_no_distance_is_refused(void **state) {
    static const float zero[4] = {0}, one[4] = {1, 1, 1, 1}, bad[4] = {1, 1, INFINITY, 1},
                       nan[4] = {1, NAN, 1, 1};
    double relative2[2], psnr[2];
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_evaluate_samples(one, zero, 1, 4, IMAGES, relative2, psnr, &error), OUSAC_STATUS_NUMBER,
              &error, "all zero");
    must_fail(ousac_evaluate_samples(one, zero, 1, 4, NULL, NULL, psnr, &error), OUSAC_STATUS_NUMBER, &error,
              "all zero");
    must_fail(ousac_evaluate_samples(bad, one, 1, 4, NULL, NULL, psnr, &error), OUSAC_STATUS_NUMBER, &error,
              "sample 0: element 2 of the result");
    must_fail(ousac_evaluate_samples(one, nan, 1, 4, NULL, NULL, psnr, &error), OUSAC_STATUS_NUMBER, &error,
              "sample 0: element 1 of the reference");
}

static void a_difference_is_the_root_mean_over_samples(void **state) {
    static const float reference[2][2] = {{1, 0}, {0, 1}};
    static const float x[2][2] = {{1, 0.6F}, {0.8F, 1}};
    ousac_difference difference, again;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_evaluate_difference(x[0], reference[0], 2, 2, IMAGES, 7, &difference, &error), &error);
    const double a = (double)0.6F * (double)0.6F, b = (double)0.8F * (double)0.8F;
    assert_true(fabs(difference.relative_error.mean - sqrt((a + b) / 2)) < 1e-12);
    assert_true(fabs(difference.psnr_db.mean - (10 * log10(8 / a) + 10 * log10(8 / b)) / 2) < 1e-12);
    /* of two samples the interval is that of the samples themselves */
    assert_true(fabs(difference.relative_error.low - sqrt(a)) < 1e-12);
    assert_true(fabs(difference.relative_error.high - sqrt(b)) < 1e-12);
    assert_true(fabs(difference.psnr_db.low - 10 * log10(8 / b)) < 1e-12);
    must_succeed(ousac_evaluate_difference(x[0], reference[0], 2, 2, IMAGES, 7, &again, &error), &error);
    assert_memory_equal(&difference, &again, sizeof again);
    must_fail(ousac_evaluate_difference(x[0], reference[0], 0, 2, IMAGES, 7, &difference, &error),
              OUSAC_STATUS_USAGE, &error, "");
}

static void short_memory_is_an_error(void **state) {
    static const float reference[2][2] = {{1, 0}, {0, 1}}, x[2][2] = {{1, 0.6F}, {0.8F, 1}};
    ousac_difference difference;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_evaluate_difference(x[0], reference[0], 2, 2, IMAGES, 7, &difference, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
    }
    assert_true(allowed > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_and_psnr_are_those_worked_out_by_hand),
        cmocka_unit_test(psnr_never_exceeds_120_db),
        cmocka_unit_test(psnr_of_latents_takes_the_peak_of_the_reference),
        cmocka_unit_test(sums_are_taken_in_double),
        cmocka_unit_test(what_has_no_distance_is_refused),
        cmocka_unit_test(a_difference_is_the_root_mean_over_samples),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
