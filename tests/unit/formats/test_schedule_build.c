/* Schedules built from options: timesteps by their formulas, modes, scales, gates, and what is refused. Expected timesteps
 * were computed by another program; the commands stand beside them. */
#include "formats/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* python3, whose round() takes ties to even:
 *   linspace: [round((T - 1) * (S - 1 - i) / (S - 1)) for i in range(S)]
 *   leading: [(S - 1 - i) * (T // S) for i in range(S)]
 *   trailing: [round((S - i) * T / S) - 1 for i in range(S)] */
static void spacings_follow_their_formulas(void **state) {
    static const struct {
        ousac_spacing spacing;
        size_t steps, train_steps;
        size_t count; /* of the expected timesteps below */
        double first[8];
    } cases[] = {
        {OUSAC_SPACING_LINSPACE, 4, 1000, 4, {999, 666, 333, 0}},
        {OUSAC_SPACING_LINSPACE, 50, 1000, 8, {999, 979, 958, 938, 917, 897, 877, 856}},
        {OUSAC_SPACING_LINSPACE, 19, 1000, 8, {999, 944, 888, 832, 777, 722, 666, 610}}, /* ties to even */
        {OUSAC_SPACING_LINSPACE, 1, 1000, 1, {999}},
        {OUSAC_SPACING_LINSPACE, 3, 3, 3, {2, 1, 0}},
        {OUSAC_SPACING_LINSPACE, 1, 1, 1, {0}},
        {OUSAC_SPACING_LEADING, 50, 1000, 8, {980, 960, 940, 920, 900, 880, 860, 840}},
        {OUSAC_SPACING_LEADING, 7, 1000, 7, {852, 710, 568, 426, 284, 142, 0}},
        {OUSAC_SPACING_TRAILING, 50, 1000, 8, {999, 979, 959, 939, 919, 899, 879, 859}},
        {OUSAC_SPACING_TRAILING, 7, 1000, 7, {999, 856, 713, 570, 428, 285, 142}},
        {OUSAC_SPACING_TRAILING, 16, 1000, 8, {999, 937, 874, 811, 749, 687, 624, 561}}, /* ties to even */
    };
    double scales[50];
    ousac_gate gates[50] = {0};
    (void)state;
    for (size_t i = 0; i < 50; i++)
        scales[i] = 1.5;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        ousac_schedule_options options = {
            NULL,   cases[c].steps, cases[c].train_steps, cases[c].spacing, OUSAC_MODE_COND,
            scales, gates,          OUSAC_SOLVER_DDIM};
        ousac_schedule schedule;
        assert_int_equal(ousac_schedule_build(&schedule, &options, NULL), OUSAC_STATUS_OK);
        assert_int_equal(ousac_schedule_validate(&schedule, "built", NULL), OUSAC_STATUS_OK);
        assert_int_equal(schedule.step_count, cases[c].steps);
        for (size_t i = 0; i < cases[c].count; i++)
            if (schedule.steps[i].timestep != cases[c].first[i])
                fail_msg("case %zu, step %zu: %g, expected %g", c, i, schedule.steps[i].timestep,
                         cases[c].first[i]);
        ousac_schedule_free(&schedule);
    }
}

/* Every length and spacing gives a valid, strictly falling schedule that ends near 0. */
static void every_length_builds(void **state) {
    static double scales[64];
    static ousac_gate gates[64];
    (void)state;
    for (size_t train = 1; train <= 64; train++)
        for (size_t steps = 1; steps <= train; steps++)
            for (int spacing = 0; spacing < 3; spacing++) {
                ousac_schedule_options options = {"x",
                                                  steps,
                                                  train,
                                                  (ousac_spacing)spacing,
                                                  OUSAC_MODE_COND,
                                                  scales,
                                                  gates,
                                                  OUSAC_SOLVER_DDIM};
                ousac_schedule schedule;
                assert_int_equal(ousac_schedule_build(&schedule, &options, NULL), OUSAC_STATUS_OK);
                assert_int_equal(ousac_schedule_validate(&schedule, "built", NULL), OUSAC_STATUS_OK);
                assert_true(schedule.steps[0].timestep <= (double)(train - 1));
                ousac_schedule_free(&schedule);
            }
}

static void build_takes_modes_scales_and_gates(void **state) {
    const double scales[3] = {4, NAN, -0.5};
    const ousac_gate gates[3] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_AUTO};
    ousac_schedule_options options = {"built",           3,      10,    OUSAC_SPACING_LEADING,
                                      OUSAC_MODE_UNCOND, scales, gates, OUSAC_SOLVER_DDIM};
    ousac_schedule schedule;
    (void)state;
    assert_int_equal(ousac_schedule_build(&schedule, &options, NULL), OUSAC_STATUS_OK);
    assert_string_equal(schedule.name, "built");
    assert_int_equal(schedule.steps[0].mode, OUSAC_MODE_CFG);
    assert_int_equal(schedule.steps[1].mode, OUSAC_MODE_UNCOND);
    assert_int_equal(schedule.steps[2].mode, OUSAC_MODE_CFG);
    assert_true(schedule.steps[0].scale == 4);
    assert_true(schedule.steps[1].scale == 1);
    assert_true(schedule.steps[2].scale == -0.5);
    for (int i = 0; i < 3; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            assert_int_equal(schedule.steps[i].gate[b], gates[i]);
    ousac_schedule_free(&schedule);
}

static void bad_options_are_refused(void **state) {
    enum { BREAKS = 14 };
    static const char *const expected[BREAKS] = {"",
                                                 "0 steps",
                                                 "11 steps, expected 1 to 10",
                                                 "0 training",
                                                 "training",
                                                 "100001 steps, expected 1 to 100000",
                                                 "spacing 3",
                                                 "mode of the unguided",
                                                 "scale and a gate",
                                                 "scale and a gate",
                                                 "step 2: guidance scale",
                                                 "step 1: gate 5",
                                                 "name must",
                                                 "solver 3"};
    char name[OUSAC_SCHEDULE_NAME_BYTES + 1];
    (void)state;
    memset(name, 'n', sizeof name);
    name[OUSAC_SCHEDULE_NAME_BYTES] = '\0';
    for (int which = 0; which < BREAKS; which++) {
        double scales[3] = {4, NAN, 1};
        ousac_gate gates[3] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_AUTO};
        ousac_schedule_options options = {"built",         3,      10,    OUSAC_SPACING_LEADING,
                                          OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
        ousac_schedule schedule;
        ousac_error error = {0};
        ousac_status status;
        if (which == 1)
            options.steps = 0;
        if (which == 2)
            options.steps = 11;
        if (which == 3)
            options.train_steps = 0;
        if (which == 4)
            options.train_steps = SIZE_MAX;
        if (which == 5) {
            options.steps = 100001;
            options.train_steps = 1000000;
        }
        if (which == 6)
            options.spacing = (ousac_spacing)3;
        if (which == 7)
            options.other_mode = OUSAC_MODE_CFG;
        if (which == 8)
            options.scales = NULL;
        if (which == 9)
            options.gates = NULL;
        if (which == 10)
            scales[2] = -INFINITY;
        if (which == 11)
            gates[1] = (ousac_gate)5;
        if (which == 12)
            options.name = name;
        if (which == 13)
            options.solver = (ousac_solver)3;
        status = ousac_schedule_build(&schedule, &options, &error);
        assert_int_equal(status, which ? OUSAC_STATUS_USAGE : OUSAC_STATUS_OK);
        if (status && !strstr(error.message, expected[which]))
            fail_msg("break %d: expected \"%s\" in: %s", which, expected[which], error.message);
        if (status)
            assert_null(schedule.steps);
        ousac_schedule_free(&schedule);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spacings_follow_their_formulas),
        cmocka_unit_test(every_length_builds),
        cmocka_unit_test(build_takes_modes_scales_and_gates),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
