/* Noise levels and what is predicted of them: the tables, fractions of timesteps, and steps of every solver on
 * data and noise that are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "profile/model/noise.h"
#include "profile/run/solver.h"

static ousac_noise parse(const char *text) {
    ousac_noise noise = {0};
    ousac_error error = {0};
    if (ousac_noise_parse(text, "here", &noise, &error))
        fail_msg("%s", error.message);
    return noise;
}

static void tables_and_fractions(void **state) {
    ousac_noise noise = parse("scaled_linear 0.00085 0.012 1000");
    ousac_noise_level at, below, above;
    (void)state;
    double bar = 1;
    for (int t = 0; t <= 700; t++)
        bar *= 1 - pow(sqrt(0.00085) + (sqrt(0.012) - sqrt(0.00085)) * t / 999, 2);
    assert_int_equal(ousac_noise_at(&noise, 700, &at), 0);
    assert_true(fabs(at.alpha2 - bar) < 1e-14 && fabs(at.sigma2 - (1 - bar)) < 1e-14);
    assert_int_equal(ousac_noise_at(&noise, 701, &above), 0);
    below = at;
    assert_int_equal(ousac_noise_at(&noise, 700.25, &at), 0);
    assert_true(fabs(at.alpha2 - pow(below.alpha2, 0.75) * pow(above.alpha2, 0.25)) < 1e-14);
    assert_true(ousac_noise_last(&noise) == 999);
    static const double outside[] = {-0.5, 999.25, NAN, INFINITY};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        assert_int_equal(ousac_noise_at(&noise, outside[i], &at), -1);
    ousac_noise_free(&noise);
    noise = parse("flow 1000");
    assert_true(ousac_noise_last(&noise) == 1000);
    assert_int_equal(ousac_noise_at(&noise, 1000, &at), 0);
    assert_true(at.alpha2 == 0 && at.sigma2 == 1);
    assert_int_equal(ousac_noise_at(&noise, 250.5, &at), 0);
    assert_true(fabs(sqrt(at.sigma2) - 0.2505) < 1e-15 && fabs(sqrt(at.alpha2) - 0.7495) < 1e-15);
    ousac_noise_free(&noise);
}

static void words_tell_levels_apart(void **state) {
    static const char *const texts[] = {"linear 1e-4 0.02 1000", "linear 1e-4 0.02 999",
                                        "scaled_linear 1e-4 0.02 1000", "flow 1000", "flow 999"};
    enum { COUNT = sizeof texts / sizeof *texts };
    char words[COUNT][OUSAC_NOISE_WORD_BYTES], again[OUSAC_NOISE_WORD_BYTES];
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        ousac_noise noise = parse(texts[i]);
        ousac_noise_word(&noise, words[i]);
        assert_null(strpbrk(words[i], " \n"));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(words[i], words[j]);
        ousac_noise_free(&noise);
    }
    ousac_noise same = parse("linear 0.0001 0.020 1000");
    ousac_noise_word(&same, again);
    assert_string_equal(again, words[0]);
    ousac_noise_free(&same);
}

static void bad_texts_are_named(void **state) {
    static const char *const bad[] = {"",
                                      "cosine 1 2 3",
                                      "linear 0 0.02 1000",
                                      "linear 1e-4 1 1000",
                                      "linear 1e-4 0.02",
                                      "linear 1e-4 0.02 0",
                                      "linear 1e-4 0.02 10 x",
                                      "flow",
                                      "flow 0",
                                      "flow 1000 x",
                                      "linear nan 0.02 1000",
                                      "flow1000",
                                      "flow 1000 ",
                                      "linear 1e-40.02 1000",
                                      "linear  1e-4 0.02 10",
                                      " linear 1e-4 0.02 10",
                                      "linear .1 0.02 10",
                                      "linear 0x1p-9 0.02 10",
                                      "linear 1e-4 0.02 99999999999999999999"};
    ousac_noise noise = {0};
    ousac_error error = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ousac_noise_parse(bad[i], "a.json", &noise, &error), OUSAC_STATUS_FORMAT);
        assert_non_null(strstr(error.message, "a.json"));
    }
    noise = parse("flow 10");
    noise.prediction = OUSAC_PREDICTION_V;
    assert_int_equal(ousac_noise_check(&noise, "a.json", &error), OUSAC_STATUS_UNSUPPORTED);
    noise.prediction = OUSAC_PREDICTION_FLOW;
    assert_int_equal(ousac_noise_check(&noise, "a.json", &error), OUSAC_STATUS_OK);
    noise = parse("linear 1e-4 0.02 10");
    noise.prediction = OUSAC_PREDICTION_FLOW;
    assert_int_equal(ousac_noise_check(&noise, "a.json", &error), OUSAC_STATUS_UNSUPPORTED);
    ousac_noise_free(&noise);
}

static void predictions_have_names(void **state) {
    ousac_prediction prediction;
    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ousac_prediction_parse(&prediction, ousac_prediction_name((ousac_prediction)i)), 0);
        assert_int_equal(prediction, i);
    }
    assert_int_equal(ousac_prediction_parse(&prediction, "v_prediction"), 0);
    assert_int_equal(prediction, OUSAC_PREDICTION_V);
    assert_int_equal(ousac_prediction_parse(&prediction, "flow_prediction"), 0);
    assert_int_equal(prediction, OUSAC_PREDICTION_FLOW);
    static const char *const none[] = {"", "Epsilon", "epsilon_prediction", "velocity", "v_", "vprediction"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(ousac_prediction_parse(&prediction, none[i]), -1);
}

/* With predictions of data D and noise E that never change, every solver goes to alpha' D + sigma' E. */
static void known_data_and_noise_are_kept(void **state) {
    static const double D = 0.7, E = -1.1;
    static const double timesteps[] = {999.5, 870, 500.25, 499, 30, 0.5};
    enum { COUNT = sizeof timesteps / sizeof *timesteps };
    (void)state;
    for (int flows = 0; flows < 2; flows++)
        for (int p = 0; p < 4; p++)
            for (int solver = 0; solver < 3; solver++) {
                ousac_noise noise = parse(flows ? "flow 1000" : "linear 1e-4 0.02 1001");
                ousac_noise_level level[COUNT + 1];
                ousac_solver_step steps[COUNT];
                noise.prediction = (ousac_prediction)p;
                if (ousac_noise_check(&noise, "x", NULL) || (solver == OUSAC_SOLVER_FLOW_EULER && !flows)) {
                    ousac_noise_free(&noise);
                    continue;
                }
                for (size_t i = 0; i < COUNT; i++)
                    assert_int_equal(ousac_noise_at(&noise, timesteps[i], &level[i]), 0);
                level[COUNT] = OUSAC_NOISE_NONE;
                assert_int_equal(
                    ousac_solver_steps((ousac_solver)solver, noise.prediction, level, COUNT, steps, NULL),
                    OUSAC_STATUS_OK);
                double x = sqrt(level[0].alpha2) * D + sqrt(level[0].sigma2) * E, before = NAN;
                for (size_t i = 0; i < COUNT; i++) {
                    const double a = sqrt(level[i].alpha2), s = sqrt(level[i].sigma2);
                    const double predicted[] = {E, a * E - s * D, E - D, D};
                    const double data = steps[i].data_x * x + steps[i].data_eps * predicted[p];
                    assert_true(fabs(data - D) < 1e-9);
                    x = steps[i].x * x + steps[i].eps * predicted[p] +
                        (steps[i].before != 0 ? steps[i].before * before : 0);
                    before = data;
                    const double wanted = sqrt(level[i + 1].alpha2) * D + sqrt(level[i + 1].sigma2) * E;
                    if (!(fabs(x - wanted) < 1e-9))
                        fail_msg("prediction %d, solver %d, step %zu: %.12g, not %.12g", p, solver, i, x,
                                 wanted);
                }
                ousac_noise_free(&noise);
            }
}

/* From pure noise: alpha 0, sigma 1. */
static void a_flow_starts_at_noise_alone(void **state) {
    const ousac_noise_level level[] = {{0, 1}, {0.25, 0.25}, {1, 0}};
    ousac_solver_step steps[2];
    ousac_error error = {0};
    (void)state;
    assert_int_equal(
        ousac_solver_steps(OUSAC_SOLVER_FLOW_EULER, OUSAC_PREDICTION_FLOW, level, 2, steps, &error),
        OUSAC_STATUS_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_true(steps[i].x == 1 && steps[i].eps == -0.5 && steps[i].before == 0);
    }
    assert_int_equal(ousac_solver_steps(OUSAC_SOLVER_DDIM, OUSAC_PREDICTION_FLOW, level, 2, steps, &error),
                     OUSAC_STATUS_OK);
    assert_true(steps[0].x == 1 && steps[0].eps == -0.5);
    assert_int_equal(
        ousac_solver_steps(OUSAC_SOLVER_FLOW_EULER, OUSAC_PREDICTION_EPSILON, level, 2, steps, &error),
        OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "step 0"));
    const ousac_noise_level curved[] = {{0.5, 0.5}, {1, 0}};
    assert_int_equal(
        ousac_solver_steps(OUSAC_SOLVER_FLOW_EULER, OUSAC_PREDICTION_EPSILON, curved, 1, steps, &error),
        OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "flow-euler"));
}

/* Guidance on the first values of each sample alone. */
static void unguided_values_follow_the_conditional_branch(void **state) {
    const ousac_solver_step solver = {.x = 0, .eps = 1};
    const ousac_solver_layout layout = {.sample = 3, .guided = 2};
    const float cond[] = {1, 2, 3, 4, 5, 6}, uncond[] = {10, 20, 30, 40, 50, 60};
    ousac_step step = {.mode = OUSAC_MODE_CFG, .scale = 3};
    ousac_solver_memory memory = {0};
    float x[6] = {0};
    (void)state;
    assert_int_equal(ousac_solver_advance(&solver, &step, NULL, &layout, 6, cond, uncond, x, &memory), 0);
    for (size_t i = 0; i < 6; i++)
        assert_true(x[i] == (i % 3 < 2 ? uncond[i] + 3 * (cond[i] - uncond[i]) : cond[i]));
    step.mode = OUSAC_MODE_UNCOND;
    assert_int_equal(ousac_solver_advance(&solver, &step, NULL, &layout, 6, cond, uncond, x, &memory), 0);
    assert_memory_equal(x, uncond, sizeof x);
}

/* Rows of a guided prediction are given the length of the conditional one's: against the sums written out, and the
 * derivative by the scale against differences. */
static void guided_rows_have_the_conditional_length(void **state) {
    enum { ROW = 3, VALUES = 9 };
    const ousac_solver_step solver = {.x = 0, .eps = 1};
    const ousac_solver_layout layout = {.sample = VALUES, .guided = VALUES, .row = ROW};
    const float cond[VALUES] = {1, -2, 3, 0.5F, 0.25F, -1, 0, 2, 0},
                uncond[VALUES] = {0.5F, 1, -1, 2, 0, 1, 0, 3, 0}; /* the last row's is 0 at scale 3 */
    ousac_step step = {.mode = OUSAC_MODE_CFG, .scale = 3};
    ousac_solver_memory memory = {0};
    float x[VALUES] = {0};
    (void)state;
    assert_int_equal(ousac_solver_advance(&solver, &step, NULL, &layout, VALUES, cond, uncond, x, &memory),
                     0);
    for (size_t r = 0; r < VALUES; r += ROW) {
        double e[ROW], c2 = 0, e2 = 0;
        for (size_t i = 0; i < ROW; i++) {
            e[i] = uncond[r + i] + 3.0 * ((double)cond[r + i] - uncond[r + i]);
            c2 += (double)cond[r + i] * cond[r + i];
            e2 += e[i] * e[i];
        }
        for (size_t i = 0; i < ROW; i++)
            assert_true(fabs(x[r + i] - (e2 > 0 ? e[i] * sqrt(c2 / e2) : 0)) < 1e-6);
        const double by = 1e-6;
        const ousac_solver_row at = ousac_solver_rescale(3, cond + r, uncond + r, ROW),
                               on = ousac_solver_rescale(3 + by, cond + r, uncond + r, ROW);
        for (size_t i = 0; i < ROW && e2 > 0; i++) {
            const double d = (double)cond[r + i] - uncond[r + i];
            const double slope = (on.factor * (e[i] + by * d) - at.factor * e[i]) / by;
            assert_true(fabs(at.factor * (d - at.along * e[i]) - slope) < 1e-4);
        }
    }
    step.mode = OUSAC_MODE_COND; /* nothing is guided, nothing rescaled */
    assert_int_equal(ousac_solver_advance(&solver, &step, NULL, &layout, VALUES, cond, uncond, x, &memory),
                     0);
    assert_memory_equal(x, cond, sizeof x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_and_fractions),
        cmocka_unit_test(words_tell_levels_apart),
        cmocka_unit_test(bad_texts_are_named),
        cmocka_unit_test(predictions_have_names),
        cmocka_unit_test(known_data_and_noise_are_kept),
        cmocka_unit_test(a_flow_starts_at_noise_alone),
        cmocka_unit_test(unguided_values_follow_the_conditional_branch),
        cmocka_unit_test(guided_rows_have_the_conditional_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
