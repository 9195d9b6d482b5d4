/* Schedules of diffusers' schedulers, against their formulas worked out here; tests/interop/test_schedulers_torch.sh
 * compares with diffusers itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "profile/run/scheduler.h"
#include "tests/support/profile_support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static ousac_status read_config(ousac_schedule *schedule, ousac_scheduler_terms *terms, const char *config,
                                size_t steps, size_t height, size_t width, int own, ousac_error *error) {
    const ousac_scheduler_request request = {steps, height, width, own};
    return ousac_scheduler_schedule(schedule, terms, config, strlen(config), "config.json", &request, error);
}

static void must_read(ousac_schedule *schedule, ousac_scheduler_terms *terms, const char *config,
                      size_t steps) {
    ousac_error error = {0};
    must_succeed(read_config(schedule, terms, config, steps, 0, 0, 0, &error), &error);
}

static void must_refuse(const char *config, size_t steps, size_t size, ousac_status expected,
                        const char *text) {
    ousac_schedule schedule;
    ousac_scheduler_terms terms;
    ousac_error error = {0};
    must_fail(read_config(&schedule, &terms, config, steps, size, size, 0, &error), expected, &error, text);
    assert_null(schedule.steps);
}

/* The product of 1 - beta up to t, betas linear from 1e-4 to 0.02 over 1000. */
static double alpha_bar(size_t t) {
    double product = 1;
    for (size_t i = 0; i <= t; i++)
        product *= 1 - (1e-4 + (0.02 - 1e-4) * (double)i / 999);
    return product;
}

static void assert_near_to(double value, double expected) {
    if (!(fabs(value - expected) <= 1e-9 * fabs(expected)))
        fail_msg("%.17g, not %.17g", value, expected);
}

/* x' = A x + B eps of a step, with the file's coefficients, between the levels of the schedule itself. */
static void step_of(const ousac_schedule *s, size_t i, double *A, double *B) {
    const double a = alpha_bar((size_t)s->steps[i].timestep),
                 b = i + 1 < s->step_count ? alpha_bar((size_t)s->steps[i + 1].timestep) : 1;
    const double *value = s->fitted ? s->fitted[i].value : (const double[OUSAC_COEFFICIENTS]){0};
    *A = sqrt(b / a) * (1 + value[OUSAC_COEFFICIENT_STATE]);
    *B = (sqrt(1 - b) - sqrt(b * (1 - a) / a)) * (1 + value[OUSAC_COEFFICIENT_GAIN]);
}

static void ddim_goes_to_its_own_timesteps(void **unused) {
    static const double trailing[] = {999, 749, 499, 249};
    ousac_schedule s;
    ousac_scheduler_terms terms;
    (void)unused;
    must_read(&s, &terms,
              "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false, \"set_alpha_to_one\": false, "
              "\"timestep_spacing\": \"trailing\"}",
              4);
    assert_string_equal(terms.scheduler, "DDIMScheduler");
    assert_int_equal(s.solver, OUSAC_SOLVER_DDIM);
    assert_int_equal(terms.prediction, OUSAC_PREDICTION_EPSILON);
    assert_true(terms.start == 1 && terms.train_steps == 1000 && terms.kind == OUSAC_NOISE_DIFFUSION);
    for (size_t i = 0; i < 4; i++) { /* each to t - 250, the last to the first alpha */
        const double to = trailing[i] - 250 >= 0 ? alpha_bar((size_t)trailing[i] - 250) : alpha_bar(0),
                     at = alpha_bar((size_t)trailing[i]);
        double A, B;
        assert_true(s.steps[i].timestep == trailing[i]);
        step_of(&s, i, &A, &B);
        assert_near_to(A, sqrt(to / at));
        assert_near_to(B, sqrt(1 - to) - sqrt(to * (1 - at) / at));
    }
    assert_true(s.fitted &&
                s.fitted[0].value[OUSAC_COEFFICIENT_STATE] == 0); /* 999 to 749 is the solver's own */
    ousac_schedule_free(&s);
    /* linspace at 3 steps: 999, 500 (499.5 to even), 0, each to t - 333 */
    must_read(
        &s, &terms,
        "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false, \"timestep_spacing\": \"linspace\"}",
        3);
    double A, B;
    assert_true(s.steps[1].timestep == 500 && s.steps[2].timestep == 0);
    step_of(&s, 1, &A, &B);
    assert_near_to(A, sqrt(alpha_bar(167) / alpha_bar(500)));
    assert_near_to(B,
                   sqrt(1 - alpha_bar(167)) - sqrt(alpha_bar(167) * (1 - alpha_bar(500)) / alpha_bar(500)));
    ousac_schedule_free(&s);
}

static void whole_steps_need_no_coefficients(void **unused) {
    static const char *const configs[] = {
        "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false}",
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"lambda_min_clipped\": -Infinity}",
        ("{\"_class_name\": \"EulerDiscreteScheduler\", \"timestep_spacing\": \"leading\", "
         "\"steps_offset\": 1}")};
    static const double first[] = {900, 999, 901}, last[] = {0, 100, 1};
    static const ousac_solver solver[] = {OUSAC_SOLVER_DDIM, OUSAC_SOLVER_DPMPP_2M, OUSAC_SOLVER_DDIM};
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        ousac_schedule s;
        ousac_scheduler_terms terms;
        must_read(&s, &terms, configs[i], 10);
        assert_int_equal(s.solver, solver[i]);
        assert_int_equal(ousac_schedule_is_fitted(&s), 0);
        assert_true(s.steps[0].timestep == first[i] && s.steps[9].timestep == last[i] && terms.start == 1);
        ousac_schedule_free(&s);
    }
}

/* Its state is x / alpha and its sigma linear between whole timesteps. */
static void euler_steps_between_timesteps(void **unused) {
    ousac_schedule s;
    ousac_scheduler_terms terms;
    double A, B;
    (void)unused;
    must_read(&s, &terms,
              "{\"_class_name\": \"EulerDiscreteScheduler\", \"timestep_spacing\": \"trailing\", "
              "\"final_sigmas_type\": \"sigma_min\"}",
              5);
    const double at = sqrt(1 / alpha_bar(199) - 1), to = sqrt(1 / alpha_bar(0) - 1);
    step_of(&s, 4, &A, &B);
    assert_near_to(A, sqrt(1 + at * at)); /* of x / alpha, the last state too */
    assert_near_to(B, to - at);
    assert_near_to(terms.start, sqrt(1 - alpha_bar(999)));
    ousac_schedule_free(&s);
    must_read(&s, &terms, "{\"_class_name\": \"EulerDiscreteScheduler\"}", 3); /* 999, 499.5, 0 */
    assert_true(s.steps[1].timestep == 499.5 && ousac_schedule_is_fitted(&s));
    assert_true(s.fitted[0].value[OUSAC_COEFFICIENT_GAIN] != 0 &&
                s.fitted[2].value[OUSAC_COEFFICIENT_GAIN] == 0);
    ousac_schedule_free(&s);
}

static void flows_shift_their_timesteps(void **unused) {
    ousac_schedule s;
    ousac_scheduler_terms terms;
    ousac_error error = {0};
    (void)unused;
    must_read(&s, &terms, "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0}", 4);
    for (size_t i = 0; i < 4; i++) {
        const double even = 1 - (double)i / 4;
        assert_near_to(s.steps[i].timestep, 1000 * 3 * even / (1 + 2 * even));
    }
    assert_true(s.solver == OUSAC_SOLVER_FLOW_EULER && terms.kind == OUSAC_NOISE_FLOW && !s.fitted);
    assert_int_equal(terms.prediction, OUSAC_PREDICTION_FLOW);
    ousac_schedule_free(&s);
    /* FLUX.1 dev at 1024 x 1024: mu 1.15 at 4096 tokens */
    must_succeed(read_config(&s, &terms,
                             "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0, "
                             "\"use_dynamic_shifting\": true}",
                             28, 1024, 1024, 0, &error),
                 &error);
    assert_near_to(s.steps[14].timestep, 1000 * exp(1.15) / (exp(1.15) + 1));
    assert_true(s.steps[0].timestep == 1000);
    ousac_schedule_free(&s);
    /* its own levels end where training's do, shifted twice */
    must_succeed(read_config(&s, &terms,
                             "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0}", 5, 0,
                             0, 1, &error),
                 &error);
    const double once = 3e-3 / (1 + 2e-3);
    assert_near_to(s.steps[4].timestep, 1000 * 3 * once / (1 + 2 * once));
    ousac_schedule_free(&s);
}

static void what_no_schedule_says_is_refused(void **unused) {
#define DDIM "{\"_class_name\": \"DDIMScheduler\""
#define DPM "{\"_class_name\": \"DPMSolverMultistepScheduler\", "
#define FLOW "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", "
    (void)unused;
    must_refuse("[]", 4, 0, OUSAC_STATUS_FORMAT, "not a JSON object");
    must_refuse("{}", 4, 0, OUSAC_STATUS_FORMAT, "\"_class_name\"");
    must_refuse("{\"_class_name\": \"PNDMScheduler\"}", 4, 0, OUSAC_STATUS_UNSUPPORTED, "PNDMScheduler");
    must_refuse(DDIM "}", 4, 0, OUSAC_STATUS_UNSUPPORTED, "\"clip_sample\" is true");
    must_refuse(DDIM ", \"clip_sample\": 0}", 4, 0, OUSAC_STATUS_FORMAT, "\"clip_sample\"");
    must_refuse(DDIM ", \"clip_sample\": false, \"steps_offset\": 300}", 4, 0, OUSAC_STATUS_USAGE,
                "steps_offset");
    must_refuse(DDIM ", \"clip_sample\": false}", 1001, 0, OUSAC_STATUS_USAGE, "--steps 1001");
    must_refuse(DPM "\"solver_order\": 3}", 4, 0, OUSAC_STATUS_UNSUPPORTED, "\"solver_order\" is 3");
    must_refuse(DPM "\"lambda_min_clipped\": -5}", 4, 0, OUSAC_STATUS_UNSUPPORTED,
                "\"lambda_min_clipped\" is -5");
    must_refuse(DPM "\"final_sigmas_type\": \"sigma_min\"}", 15, 0, OUSAC_STATUS_UNSUPPORTED, "second order");
    must_refuse(FLOW "\"use_dynamic_shifting\": true}", 4, 0, OUSAC_STATUS_USAGE, "--size");
    must_refuse(FLOW "\"use_dynamic_shifting\": true}", 4, 1000, OUSAC_STATUS_USAGE, "multiples of 16");
    must_refuse(FLOW "\"shift\": 0}", 4, 0, OUSAC_STATUS_FORMAT, "\"shift\" 0");
    must_refuse(FLOW "\"shift\": 1}", 4, 64, OUSAC_STATUS_USAGE, "--size");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ddim_goes_to_its_own_timesteps),
        cmocka_unit_test(whole_steps_need_no_coefficients),
        cmocka_unit_test(euler_steps_between_timesteps),
        cmocka_unit_test(flows_shift_their_timesteps),
        cmocka_unit_test(what_no_schedule_says_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
