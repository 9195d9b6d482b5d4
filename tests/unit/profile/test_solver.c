/* The solvers' coefficients: order of convergence on a model whose exact solution is known, and what a step
 * must do whatever the model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "profile/run/solver.h"

enum { STEPS_MAX = 640 };

/* Data from a Gaussian (mu, s): noised to abar they are Gaussian of mean alpha mu and this variance, whose
 * score gives the exact eps = sigma (x - alpha mu) / variance. The probability flow keeps (x - alpha mu) /
 * sqrt(variance). */
static const double MU = 1.5, S = 0.4;

static double spread(double abar) {
    return sqrt(abar * S * S + 1 - abar);
}

static double exact_eps(double x, double abar) {
    return sqrt(1 - abar) * (x - sqrt(abar) * MU) / (spread(abar) * spread(abar));
}

/* Of a model that predicts noise under alpha_bar. */
static ousac_status steps_of(ousac_solver solver, const double *abar, size_t count, ousac_solver_step *steps,
                             ousac_error *error) {
    static ousac_noise_level level[STEPS_MAX + 1];
    for (size_t i = 0; i <= count; i++)
        level[i] = (ousac_noise_level){abar[i], 1 - abar[i]};
    return ousac_solver_steps(solver, OUSAC_PREDICTION_EPSILON, level, count, steps, error);
}

static double run(const ousac_solver_step *steps, const double *abar, size_t count, double x) {
    double data = NAN; /* nothing may look at it before the first step */
    for (size_t i = 0; i < count; i++) {
        const double eps = exact_eps(x, abar[i]), next = steps[i].x * x + steps[i].eps * eps;
        const double back = steps[i].before != 0 ? steps[i].before * data : 0;
        data = steps[i].data_x * x + steps[i].data_eps * eps;
        x = next + back;
    }
    return x;
}

/* abar falls in time as a cosine, from 0.001 to `last`; uneven in lambda. */
static void make_grid(double *abar, size_t count, double last) {
    for (size_t i = 0; i <= count; i++) {
        const double from = acos(sqrt(0.001)), to = acos(sqrt(last)),
                     t = from + (to - from) * (double)i / (double)count;
        abar[i] = cos(t) * cos(t);
    }
    abar[count] = last;
}

static double error_after(ousac_solver solver, size_t count, double last) {
    static double abar[STEPS_MAX + 1];
    static ousac_solver_step steps[STEPS_MAX];
    const double z = 1.3;
    make_grid(abar, count, last);
    assert_int_equal(steps_of(solver, abar, count, steps, NULL), OUSAC_STATUS_OK);
    const double x = run(steps, abar, count, sqrt(abar[0]) * MU + z * spread(abar[0]));
    return fabs(x - (sqrt(last) * MU + z * spread(last)));
}

/* Halving the steps divides the error by 2^order. */
static void orders_are_one_and_two(void **state) {
    (void)state;
    for (size_t count = 40; count <= 320; count *= 2) {
        const double ddim =
            error_after(OUSAC_SOLVER_DDIM, count, 0.995) / error_after(OUSAC_SOLVER_DDIM, 2 * count, 0.995);
        const double second = error_after(OUSAC_SOLVER_DPMPP_2M, count, 0.995) /
                              error_after(OUSAC_SOLVER_DPMPP_2M, 2 * count, 0.995);
        print_message("%zu steps: order %.3f and %.3f, errors %.2e and %.2e\n", count, log2(ddim),
                      log2(second), error_after(OUSAC_SOLVER_DDIM, count, 0.995),
                      error_after(OUSAC_SOLVER_DPMPP_2M, count, 0.995));
        assert_true(fabs(log2(ddim) - 1) < 0.1);
        assert_true(fabs(log2(second) - 2) < 0.2);
    }
}

/* To alpha_bar 1, as trajectories end, the second order still wins. */
static void a_trajectory_to_the_end_is_nearer(void **state) {
    (void)state;
    for (size_t count = 10; count <= 100; count += 30)
        assert_true(error_after(OUSAC_SOLVER_DPMPP_2M, count, 1) <
                    0.5 * error_after(OUSAC_SOLVER_DDIM, count, 1));
}

/* A model that always sees the same data is solved exactly by any step of either solver: x' = alpha' D +
 * sigma' eps. */
static void constant_data_is_solved_exactly(void **state) {
    static const double abar[] = {0.01, 0.02, 0.3, 0.31, 0.9, 0.99, 1};
    enum { COUNT = sizeof abar / sizeof *abar - 1 };
    (void)state;
    for (int solver = 0; solver < 2; solver++) {
        ousac_solver_step steps[COUNT];
        double x = 0.1 * 0.7 + sqrt(0.99) * -1.1, before = NAN;
        assert_int_equal(steps_of((ousac_solver)solver, abar, COUNT, steps, NULL), OUSAC_STATUS_OK);
        for (size_t i = 0; i < COUNT; i++) {
            const double eps = (x - sqrt(abar[i]) * 0.7) / sqrt(1 - abar[i]);
            const double data = steps[i].data_x * x + steps[i].data_eps * eps;
            assert_true(fabs(data - 0.7) < 1e-12);
            x = steps[i].x * x + steps[i].eps * eps + (steps[i].before != 0 ? steps[i].before * before : 0);
            before = data;
            assert_true(fabs(x - (sqrt(abar[i + 1]) * 0.7 + sqrt(1 - abar[i + 1]) * -1.1)) < 1e-12);
        }
        assert_true(x == 0.7 || fabs(x - 0.7) < 1e-12);
    }
}

static void first_last_and_standing_steps_look_nowhere(void **state) {
    static const double abar[] = {0.01, 0.02, 0.02, 0.3, 0.9, 1};
    ousac_solver_step steps[5], ddim[5];
    (void)state;
    assert_int_equal(steps_of(OUSAC_SOLVER_DPMPP_2M, abar, 5, steps, NULL), OUSAC_STATUS_OK);
    assert_int_equal(steps_of(OUSAC_SOLVER_DDIM, abar, 5, ddim, NULL), OUSAC_STATUS_OK);
    static const int looks[5] = {0, 0, 0, 1,
                                 0}; /* step 1 does not move, so that step 2 has no line to follow */
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(steps[i].before != 0, looks[i]);
        assert_true(ddim[i].before == 0);
        if (!looks[i])
            assert_true(fabs(steps[i].x - ddim[i].x) < 1e-15 && fabs(steps[i].eps - ddim[i].eps) < 1e-15);
    }
    assert_true(fabs(steps[1].x - 1) < 1e-12 && fabs(steps[1].eps) < 1e-12);
    assert_true(ousac_solver_looks_back(OUSAC_SOLVER_DPMPP_2M) &&
                !ousac_solver_looks_back(OUSAC_SOLVER_DDIM));
}

static void what_cannot_be_solved_is_named(void **state) {
    double abar[] = {0.1, 0.5, 1};
    ousac_solver_step steps[2];
    ousac_error error = {0};
    (void)state;
    assert_int_equal(steps_of((ousac_solver)3, abar, 2, steps, &error), OUSAC_STATUS_USAGE);
    abar[1] = 1;
    assert_int_equal(steps_of(OUSAC_SOLVER_DDIM, abar, 2, steps, &error), OUSAC_STATUS_OK);
    assert_int_equal(steps_of(OUSAC_SOLVER_DPMPP_2M, abar, 2, steps, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "step 1"));
    static const double bad[] = {0, -0.1, 1.1, NAN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        abar[1] = bad[i];
        for (int solver = 0; solver < 2; solver++)
            assert_int_equal(steps_of((ousac_solver)solver, abar, 2, steps, &error), OUSAC_STATUS_NUMBER);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_are_one_and_two),
        cmocka_unit_test(a_trajectory_to_the_end_is_nearer),
        cmocka_unit_test(constant_data_is_solved_exactly),
        cmocka_unit_test(first_last_and_standing_steps_look_nowhere),
        cmocka_unit_test(what_cannot_be_solved_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
