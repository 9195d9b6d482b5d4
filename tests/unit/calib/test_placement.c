/* Placements against every placement there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/choose/placement.h"
#include "calib/stats/philox.h"
#include "formats/memory.h"

enum { MOST = 9, HORIZON = 5 };

static double value(uint64_t seed, uint32_t index) {
    uint32_t words[4];
    ousac_philox_draw(seed, 0, 0, index, words);
    return pow(10.0, -3.0 * words[0] / 4294967296.0);
}

/* Least squared error over all subsets of each branch with `refreshes` in all, by counting. */
static double brute(const ousac_placement_branch *branch, size_t branches, size_t refreshes) {
    double best = INFINITY;
    const unsigned all0 = 1u << branch[0].count, all1 = branches > 1 ? 1u << branch[1].count : 1;
    for (unsigned a = 0; a < all0; a++)
        for (unsigned b = 0; b < all1; b++) {
            unsigned char bits[2][MOST];
            unsigned char *rows[2] = {bits[0], bits[1]};
            size_t used = 0;
            double error_value = 0;
            for (size_t j = 0; j < branch[0].count; j++)
                used += bits[0][j] = (unsigned char)(a >> j & 1);
            for (size_t j = 0; branches > 1 && j < branch[1].count; j++)
                used += bits[1][j] = (unsigned char)(b >> j & 1);
            if (used != refreshes)
                continue;
            if (!ousac_placement_error(branch, branches, HORIZON, rows, &error_value, NULL))
                best = fmin(best, error_value);
        }
    return best;
}

static void placements_are_the_best_of_all(void **state) {
    size_t compared = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        double amplitude[2][MOST * HORIZON];
        const size_t branches = 1 + seed % 2;
        ousac_placement_branch branch[2];
        size_t evaluations = 0;
        for (size_t b = 0; b < branches; b++) {
            branch[b].count = branches == 1 ? 1 + seed % MOST : 1 + (seed / 2 + 3 * b) % 6;
            branch[b].amplitude = amplitude[b];
            evaluations += branch[b].count;
            for (size_t i = 0; i < MOST * HORIZON; i++)
                amplitude[b][i] = value(seed * 2 + b, (uint32_t)i);
        }
        for (size_t refreshes = branches; refreshes <= evaluations; refreshes++) {
            unsigned char bits[2][MOST];
            unsigned char *const rows[2] = {bits[0], bits[1]};
            double got = -1, again = -1, expected = brute(branch, branches, refreshes);
            const ousac_status status =
                ousac_placement_solve(branch, branches, HORIZON, refreshes, rows, &got, NULL);
            if (!isfinite(expected)) {
                assert_int_equal(status, OUSAC_STATUS_USAGE);
                continue;
            }
            assert_int_equal(status, OUSAC_STATUS_OK);
            assert_true(fabs(got - expected) <= 1e-12 * expected);
            assert_int_equal(ousac_placement_error(branch, branches, HORIZON, rows, &again, NULL),
                             OUSAC_STATUS_OK);
            assert_true(fabs(got - again) <= 1e-12 * again);
            compared++;
        }
    }
    assert_true(compared > 200);
}

static void a_branch_that_is_never_evaluated_takes_nothing(void **state) {
    double amplitude[4 * 3] = {0, 0, 0, 0, 1, 0, 0, 1, 5, 0, 1, 5};
    const ousac_placement_branch branch[2] = {{4, amplitude}, {0, NULL}};
    unsigned char bits[4], none[1];
    unsigned char *const rows[2] = {bits, none};
    double got = -1;
    (void)state;
    assert_int_equal(ousac_placement_solve(branch, 2, 3, 2, rows, &got, NULL), OUSAC_STATUS_OK);
    assert_true(bits[0] == 1 && bits[1] == 0 && bits[2] == 1 && bits[3] == 0);
    assert_true(fabs(got - sqrt(2)) < 1e-12);
}

static void bad_problems_are_refused(void **state) {
    double amplitude[4 * 3] = {0, 0, 0, 0, 1, 0, 0, 1, 5, 0, -1, 5};
    const ousac_placement_branch branch = {4, amplitude};
    unsigned char bits[4];
    unsigned char *const rows[1] = {bits};
    double got = 0;
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_placement_solve(&branch, 1, 3, 2, rows, &got, &error), OUSAC_STATUS_NUMBER);
    amplitude[10] = NAN;
    assert_int_equal(ousac_placement_solve(&branch, 1, 3, 2, rows, &got, &error), OUSAC_STATUS_NUMBER);
    amplitude[10] = 1;
    assert_int_equal(ousac_placement_solve(&branch, 1, 3, 5, rows, &got, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "from 2 to 4"));
    assert_int_equal(ousac_placement_solve(&branch, 1, 3, 1, rows, &got, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_placement_solve(&branch, 1, 1, 4, rows, &got, &error), OUSAC_STATUS_USAGE);
    memset(bits, 0, sizeof bits);
    assert_int_equal(ousac_placement_error(&branch, 1, 3, rows, &got, &error), OUSAC_STATUS_USAGE);
    for (long n = 0;; n++) {
        (void)ousac_memory_fail_after(n);
        const ousac_status status = ousac_placement_solve(&branch, 1, 3, 2, rows, &got, &error);
        (void)ousac_memory_fail_after(-1);
        if (!status)
            break;
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placements_are_the_best_of_all),
        cmocka_unit_test(a_branch_that_is_never_evaluated_takes_nothing),
        cmocka_unit_test(bad_problems_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
