/* A forecast under another schedule: what of a coefficient stays and what is the schedule's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "formats/memory.h"
#include "profile/bundle/forecast_map.h"

#include <math.h>
#include <string.h>

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }

enum { GROUPS = 2 };

/* Conditional: full at 900, 800, 400. Unconditional: full at 900 and 500, cached at 400 alone. */
static ousac_step from_steps[] = {
    {900, OUSAC_MODE_CFG, 2, GATES(FULL, FULL)},    {800, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},
    {700, OUSAC_MODE_COND, 1, GATES(CACHED, FULL)}, {500, OUSAC_MODE_CFG, 2, GATES(CACHED, FULL)},
    {400, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},  {300, OUSAC_MODE_COND, 1, GATES(CACHED, FULL)},
};
static ousac_schedule from = {
    .name = "from", .step_count = sizeof from_steps / sizeof *from_steps, .steps = from_steps};

/* Conditional: full at 950, 850, 450. Unconditional: full at 950 and 250. */
static ousac_step to_steps[] = {
    {950, OUSAC_MODE_CFG, 3, GATES(FULL, FULL)},      {850, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},
    {800, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)}, {600, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)},
    {450, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},     {350, OUSAC_MODE_COND, 1, GATES(CACHED, FULL)},
    {250, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL)},    {50, OUSAC_MODE_CFG, 3, GATES(REUSE, CACHED)},
};
static ousac_schedule to = {
    .name = "to", .step_count = sizeof to_steps / sizeof *to_steps, .steps = to_steps};

static void set(ousac_forecast *forecast, size_t step, int branch, float first, float second) {
    forecast->coefficient[(step * OUSAC_BRANCHES + (size_t)branch) * GROUPS] = first;
    forecast->coefficient[(step * OUSAC_BRANCHES + (size_t)branch) * GROUPS + 1] = second;
}

/* Slopes, by hand: conditional p = 1 at 700, 3 at 500, 1/4 at 300; unconditional 1/4 at 400. */
static ousac_forecast *make(void) {
    ousac_forecast *forecast = NULL;
    assert_int_equal(ousac_forecast_create(&forecast, from.step_count, GROUPS, NULL), OUSAC_STATUS_OK);
    set(forecast, 2, OUSAC_BRANCH_COND, 1.0f, 0);       /* slopes 1.0, 0 */
    set(forecast, 3, OUSAC_BRANCH_COND, 6.0f, 3.0f);    /* slopes 2.0, 1 */
    set(forecast, 5, OUSAC_BRANCH_COND, 0.25f, 0.75f);  /* slopes 1.0, 3 */
    set(forecast, 4, OUSAC_BRANCH_UNCOND, 0.5f, 0.25f); /* slopes 2.0, 1 */
    return forecast;
}

static void the_same_schedule_keeps_every_coefficient(void **unused) {
    ousac_forecast *forecast = make(), *mapped = NULL;
    (void)unused;
    assert_int_equal(ousac_forecast_map(forecast, &from, &from, &mapped, NULL), OUSAC_STATUS_OK);
    assert_int_equal(mapped->step_count, from.step_count);
    for (size_t i = 0; i < from.step_count * OUSAC_BRANCHES * GROUPS; i++)
        assert_true(fabsf(mapped->coefficient[i] - forecast->coefficient[i]) < 1e-6f);
    ousac_forecast_free(mapped);
    ousac_forecast_free(forecast);
}

static void slopes_are_interpolated_and_progress_is_the_new_schedules(void **unused) {
    /* (step, branch) -> p and slopes at its timestep, by hand */
    static const struct {
        size_t step;
        int branch;
        double progress, slope[GROUPS];
    } expected[] = {
        {2, OUSAC_BRANCH_COND, 50.0 / 100, {1.0, 0}},     /* 800: before the first, 700 */
        {3, OUSAC_BRANCH_COND, 250.0 / 100, {1.5, 0.5}},  /* 600: half way from 700 to 500 */
        {5, OUSAC_BRANCH_COND, 100.0 / 400, {1.25, 2.5}}, /* 350: three quarters of the way from 500 to 300 */
        {6, OUSAC_BRANCH_COND, 200.0 / 400, {1.0, 3}},    /* 250: behind the last, 300 */
        {7, OUSAC_BRANCH_UNCOND, 200.0 / 700, {2.0, 1}},  /* 50: the one value of the branch */
    };
    ousac_forecast *forecast = make(), *mapped = NULL;
    size_t nonzero = 0;
    (void)unused;
    assert_int_equal(ousac_forecast_map(forecast, &from, &to, &mapped, NULL), OUSAC_STATUS_OK);
    assert_int_equal(mapped->step_count, to.step_count);
    assert_int_equal(mapped->group_count, GROUPS);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        for (size_t g = 0; g < GROUPS; g++) {
            const double want = expected[i].progress * expected[i].slope[g];
            assert_true(fabs(ousac_forecast_at(mapped, expected[i].step, expected[i].branch, g) - want) <
                        1e-6);
            nonzero += want != 0;
        }
    /* and nothing anywhere else: full, reused and unevaluated steps, and those after one full evaluation */
    for (size_t i = 0; i < to.step_count * OUSAC_BRANCHES * GROUPS; i++)
        nonzero -= mapped->coefficient[i] != 0;
    assert_int_equal(nonzero, 0);
    ousac_forecast_free(mapped);
    ousac_forecast_free(forecast);
}

static void a_branch_that_was_never_fitted_gets_none(void **unused) {
    ousac_step steps[sizeof from_steps / sizeof *from_steps];
    ousac_schedule alone = {.name = "alone", .step_count = from.step_count, .steps = steps};
    ousac_forecast *forecast = make(), *mapped = NULL;
    (void)unused;
    memcpy(steps, from_steps, sizeof steps);
    for (size_t i = 0; i < alone.step_count; i++) {
        steps[i].mode = OUSAC_MODE_COND;
        steps[i].scale = 1;
    }
    assert_int_equal(ousac_forecast_map(forecast, &alone, &to, &mapped, NULL), OUSAC_STATUS_OK);
    assert_true(ousac_forecast_at(mapped, 7, OUSAC_BRANCH_UNCOND, 0) == 0);
    assert_true(ousac_forecast_at(mapped, 6, OUSAC_BRANCH_COND, 0) != 0);
    ousac_forecast_free(mapped);
    ousac_forecast_free(forecast);
}

static void what_does_not_fit_is_refused(void **unused) {
    ousac_step undecided[] = {{900, OUSAC_MODE_COND, 1, GATES(AUTO, AUTO)}};
    const ousac_schedule automatic = {.name = "auto", .step_count = 1, .steps = undecided};
    ousac_forecast *forecast = make(), *mapped = NULL;
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(ousac_forecast_map(forecast, &to, &from, &mapped, &error), OUSAC_STATUS_MISMATCH);
    assert_null(mapped);
    assert_int_equal(ousac_forecast_map(forecast, &from, &automatic, &mapped, &error), OUSAC_STATUS_USAGE);
    assert_null(mapped);
    int failures = 0; /* every allocation in turn fails, until there are enough */
    for (ousac_status status = OUSAC_STATUS_MEMORY; status; failures++) {
        ousac_memory_fail_after(failures);
        status = ousac_forecast_map(forecast, &from, &to, &mapped, &error);
        ousac_memory_fail_after(-1);
        assert_true(status ? status == OUSAC_STATUS_MEMORY && !mapped : mapped != NULL);
    }
    assert_true(failures > 4);
    ousac_forecast_free(mapped);
    ousac_forecast_free(forecast);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_schedule_keeps_every_coefficient),
        cmocka_unit_test(slopes_are_interpolated_and_progress_is_the_new_schedules),
        cmocka_unit_test(a_branch_that_was_never_fitted_gets_none),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
