/* The probe against fresh executors and trajectories of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "profile/run/executor.h"
#include "profile/run/probe.h"
#include "profile/run/runner.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SEED = 5, SAMPLES = 3, HORIZON = 3, STRIDE = 2, RANK = 2, SIZE = 3 * 8 * 8 };

static scratch directory;
static ousac_model *model;
static ousac_calibration *calibration;

#define FULL                                                                                                 \
    { OUSAC_GATE_FULL, OUSAC_GATE_FULL }
static ousac_step steps[] = {
    {900, OUSAC_MODE_CFG, 3, FULL},  {750, OUSAC_MODE_COND, 1, FULL}, {600, OUSAC_MODE_CFG, 2, FULL},
    {450, OUSAC_MODE_COND, 1, FULL}, {300, OUSAC_MODE_CFG, 4, FULL},  {150, OUSAC_MODE_COND, 1, FULL},
};
enum { STEPS = sizeof steps / sizeof *steps };
static ousac_schedule schedule = {.name = "probed", .step_count = STEPS, .steps = steps};

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static ousac_status random_factors(void *self, size_t site, size_t rank, float *a, float *b,
                                   ousac_error *error) {
    const ousac_site *s = &model->arch.sites[site];
    (void)self, (void)error;
    ousac_philox_normals(site, OUSAC_STREAM_PROJECTION, 0, rank * s->m, a);
    ousac_philox_normals(site, OUSAC_STREAM_PROJECTION, 1, rank * s->n, b);
    for (size_t i = 0; i < rank * s->m; i++)
        a[i] *= 0.05f;
    return OUSAC_STATUS_OK;
}

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    size_t rank[64];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must(random_dit_write(directory.path, &options, &error), &error);
    must(ousac_model_load(&model, scratch_path(&directory, "model.safetensors", file), NULL,
                          ousac_backend_cpu(), &error),
         &error);
    for (size_t s = 0; s < model->arch.site_count; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank};
    must(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks, random_factors, NULL,
                                  NULL, &error),
         &error);
    assert_int_equal(ousac_model_sample_size(model), SIZE);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_calibration_free(calibration);
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static ousac_status make(ousac_probe **probe, size_t micro_batch, size_t threads, ousac_error *error) {
    const ousac_probe_options options = {.model = model,
                                         .schedule = &schedule,
                                         .calibration = calibration,
                                         .seed = SEED,
                                         .count = SAMPLES,
                                         .micro_batch = micro_batch,
                                         .threads = threads,
                                         .horizon = HORIZON,
                                         .stride = STRIDE};
    return ousac_probe_create(probe, &options, error);
}

/* --- the same, one sample and one evaluation at a time --- */

typedef struct bench {
    void *workspace;
    ousac_executor *plain;
    double x[STEPS + 1][SIZE];
} bench;

static void predict(bench *b, ousac_executor *executor, size_t step, int branch, ousac_gate gate,
                    const double *x, float *eps) {
    float in[SIZE];
    ousac_gate effective;
    ousac_error error = {0};
    for (size_t i = 0; i < SIZE; i++)
        in[i] = (float)x[i];
    must(ousac_executor_begin(executor, step, branch, gate, 1, NULL, &effective, &error), &error);
    assert_int_equal(effective, gate);
    must(ousac_executor_forward(executor, b->workspace, in, &steps[step], eps, &error), &error);
    ousac_executor_end(executor);
}

/* DDIM from the guided prediction moved by `offset` (or not). */
static void step_on(bench *b, size_t k, const double *x, const double *offset, double *next) {
    float eps[2][SIZE];
    const double a = model->noise.alpha_bar[(size_t)steps[k].timestep];
    const double after = k + 1 < STEPS ? model->noise.alpha_bar[(size_t)steps[k + 1].timestep] : 1;
    for (int branch = 0; branch < 2; branch++)
        if (ousac_mode_evaluates(steps[k].mode, branch))
            predict(b, b->plain, k, branch, OUSAC_GATE_FULL, x, eps[branch]);
    for (size_t i = 0; i < SIZE; i++) {
        double e = (double)eps[0][i];
        if (steps[k].mode == OUSAC_MODE_CFG)
            e = (double)eps[1][i] + steps[k].scale * (e - (double)eps[1][i]);
        e += offset ? offset[i] : 0;
        next[i] = sqrt(after) * (x[i] - sqrt(1 - a) * e) / sqrt(a) + sqrt(1 - after) * e;
    }
}

static void energies_and_influences_are_what_they_say(void **state) {
    double energy[2][STEPS][HORIZON] = {{{0}}}, moved[STEPS] = {0}, put_in[STEPS] = {0};
    ousac_error error = {0};
    ousac_probe *probe = NULL;
    (void)state;
    must(make(&probe, 2, 2, &error), &error);
    assert_int_equal(probe->evaluations[0], STEPS);
    assert_int_equal(probe->evaluations[1], 3);
    for (uint64_t sample = 0; sample < SAMPLES; sample++) {
        bench b = {0};
        float noise[SIZE];
        const ousac_executor_options plain = {.batch = 1};
        const ousac_executor_options keeping = {.calibration = calibration, .batch = 1, .keep = 1};
        must(model->family->workspace_create(model, 1, &b.workspace, &error), &error);
        must(model->family->set_inputs(model, b.workspace, SEED, sample, 1, &error), &error);
        must(ousac_executor_create(&b.plain, model, &plain, &error), &error);
        ousac_philox_normals(SEED, OUSAC_STREAM_NOISE, sample, SIZE, noise);
        for (size_t i = 0; i < SIZE; i++)
            b.x[0][i] = (double)noise[i];
        for (size_t k = 0; k < STEPS; k++)
            step_on(&b, k, b.x[k], NULL, b.x[k + 1]);
        for (int branch = 0; branch < 2; branch++)
            for (size_t j = 0; j < probe->evaluations[branch]; j++)
                for (size_t a = 1; a < HORIZON && a <= j; a++) {
                    const size_t now = probe->step[branch][j], then = probe->step[branch][j - a];
                    float cached[SIZE], exact[SIZE];
                    double offset[SIZE], next[SIZE], state_now[SIZE];
                    ousac_executor *executor = NULL;
                    must(ousac_executor_create(&executor, model, &keeping, &error), &error);
                    predict(&b, executor, then, branch, OUSAC_GATE_FULL, b.x[then], exact);
                    predict(&b, executor, now, branch, OUSAC_GATE_CACHED, b.x[now], cached);
                    predict(&b, b.plain, now, branch, OUSAC_GATE_FULL, b.x[now], exact);
                    ousac_executor_free(executor);
                    for (size_t i = 0; i < SIZE; i++) {
                        offset[i] = (double)cached[i] - (double)exact[i];
                        energy[branch][j][a] += offset[i] * offset[i] / SAMPLES;
                    }
                    if (branch || now % STRIDE != STRIDE / 2 || a != (j < 2 ? j : 2))
                        continue;
                    const double weight = steps[now].mode == OUSAC_MODE_CFG ? steps[now].scale : 1;
                    for (size_t i = 0; i < SIZE; i++) {
                        offset[i] *= weight;
                        put_in[now] += offset[i] * offset[i];
                    }
                    step_on(&b, now, b.x[now], offset, next);
                    for (size_t k = now + 1; k < STEPS; k++) {
                        memcpy(state_now, next, sizeof next);
                        step_on(&b, k, state_now, NULL, next);
                    }
                    double difference = 0, norm = 0;
                    for (size_t i = 0; i < SIZE; i++) {
                        difference += (next[i] - b.x[STEPS][i]) * (next[i] - b.x[STEPS][i]);
                        norm += b.x[STEPS][i] * b.x[STEPS][i];
                    }
                    moved[now] += difference / norm;
                }
        model->family->workspace_free(model, b.workspace);
        ousac_executor_free(b.plain);
    }
    for (int branch = 0; branch < 2; branch++)
        for (size_t j = 0; j < probe->evaluations[branch]; j++)
            for (size_t a = 0; a < HORIZON; a++) {
                const double got = probe->energy[branch][j * HORIZON + a], expected = energy[branch][j][a];
                assert_true(fabs(got - expected) <= 1e-4 * expected);
                assert_true((expected > 0) == (a >= 1 && a <= j));
            }
    for (size_t k = 1; k < STEPS; k += STRIDE) {
        assert_true(put_in[k] > 0);
        assert_true(fabs(probe->influence[k] / (moved[k] / put_in[k]) - 1) < 1e-3);
    }
    assert_true(fabs(probe->influence[0] / probe->influence[1] - 1) <
                1e-12); /* before the first probed step */
    assert_true(fabs(probe->influence[2] - sqrt(probe->influence[1] * probe->influence[3])) <=
                1e-12 * probe->influence[2]);
    double amplitude[STEPS * HORIZON];
    ousac_probe_amplitude(probe, &schedule, 1, amplitude);
    const double expected = 3 * sqrt(probe->influence[4] * probe->energy[1][2 * HORIZON + 1]); /* |1 - 4| */
    assert_true(fabs(amplitude[2 * HORIZON + 1] - expected) <= 1e-12 * expected);
    ousac_probe_free(probe);
}

/* `modes`: of each step c (conditional), u (unconditional) or g (guided). */
static void probe_modes(const char *modes, const ousac_model *of, size_t stride, ousac_probe **probe) {
    ousac_step own[STEPS];
    ousac_error error = {0};
    for (size_t k = 0; k < STEPS; k++) {
        const ousac_mode mode = modes[k] == 'c'   ? OUSAC_MODE_COND
                                : modes[k] == 'u' ? OUSAC_MODE_UNCOND
                                                  : OUSAC_MODE_CFG;
        own[k] = (ousac_step){steps[k].timestep, mode, modes[k] == 'g' ? 3 : 1, FULL};
    }
    const ousac_schedule of_modes = {.name = "modes", .step_count = STEPS, .steps = own};
    const ousac_probe_options options = {.model = of,
                                         .schedule = &of_modes,
                                         .calibration = of == model ? calibration : NULL,
                                         .seed = SEED,
                                         .count = SAMPLES,
                                         .micro_batch = 2,
                                         .threads = 2,
                                         .horizon = HORIZON,
                                         .stride = stride};
    must(ousac_probe_create(probe, &options, &error), &error);
}

/* Whichever branch a step session, and wherever its first cached evaluation falls, the influence is measured: at the
 * step itself with stride 1, at some step with any stride. */
static void every_branch_that_a_step_runs_is_seen(void **state) {
    static const char *const modes[] = {"uuuuuu", "cccccc", "uuuggu", "ucucuc", "cuuuuu"};
    (void)state;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        for (size_t stride = 1; stride <= STEPS; stride++) {
            ousac_probe *probe = NULL;
            probe_modes(modes[i], model, stride, &probe);
            for (size_t k = 0; k < STEPS; k++)
                assert_true(probe->influence[k] > 0);
            for (int b = 0; b < 2; b++)
                for (size_t j = 1; j < probe->evaluations[b]; j++)
                    assert_true(probe->energy[b][j * HORIZON + 1] > 0);
            ousac_probe_free(probe);
        }
}

/* The conditional branch's first evaluation, at step 3, has no age: the other's error is what moves the end. */
static void a_first_evaluation_leaves_the_probe_to_the_other_branch(void **state) {
    ousac_probe *probe = NULL;
    (void)state;
    probe_modes("uuuguu", model, 1, &probe);
    /* not interpolated: a step between two measured ones lies on the line of their logarithms */
    assert_true(fabs(probe->influence[3] / sqrt(probe->influence[2] * probe->influence[4]) - 1) > 1e-9);
    ousac_probe_free(probe);
}

/* A model whose last layer is zero, as training begins with, predicts 0 whatever it is given. */
static void a_model_that_predicts_nothing_gives_zeros(void **state) {
    char file[SCRATCH_PATH_BYTES], zeroed[SCRATCH_PATH_BYTES];
    ousac_model *zero = NULL;
    ousac_probe *probe = NULL;
    ousac_error error = {0};
    (void)state;
    random_dit_options options = random_dit_defaults();
    options.zero_final = 1;
    must(random_dit_write(scratch_path(&directory, "zero", zeroed), &options, &error), &error);
    must(ousac_model_load(&zero, scratch_path(&directory, "zero/model.safetensors", file), NULL,
                          ousac_backend_cpu(), &error),
         &error);
    probe_modes("ggcggc", zero, 2, &probe);
    for (size_t k = 0; k < STEPS; k++)
        assert_true(probe->influence[k] == 0);
    ousac_probe_free(probe);
    ousac_model_free(zero);
}

static void threads_do_not_change_a_bit(void **state) {
    ousac_probe *one = NULL, *three = NULL;
    ousac_error error = {0};
    (void)state;
    must(make(&one, 1, 1, &error), &error);
    must(make(&three, 1, 3, &error), &error);
    assert_memory_equal(one->influence, three->influence, STEPS * sizeof(double));
    for (int b = 0; b < 2; b++)
        assert_memory_equal(one->energy[b], three->energy[b], one->evaluations[b] * HORIZON * sizeof(double));
    ousac_probe_free(one);
    ousac_probe_free(three);
}

static void bad_probes_are_refused(void **state) {
    ousac_error error = {0};
    ousac_probe *probe = NULL;
    const ousac_stop stop = {1};
    ousac_probe_options options = {.model = model,
                                   .schedule = &schedule,
                                   .calibration = calibration,
                                   .count = 2,
                                   .micro_batch = 2,
                                   .threads = 1,
                                   .horizon = 1,
                                   .stride = 1};
    (void)state;
    assert_int_equal(ousac_probe_create(&probe, &options, &error), OUSAC_STATUS_USAGE);
    options.horizon = 2;
    options.stop = &stop;
    assert_int_equal(ousac_probe_create(&probe, &options, &error), OUSAC_STATUS_INTERRUPTED);
    assert_null(probe);
    for (long n = 0;; n++) {
        (void)ousac_memory_fail_after(n);
        const ousac_status status = make(&probe, 2, 2, &error);
        (void)ousac_memory_fail_after(-1);
        if (!status) {
            assert_true(n > 20);
            break;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
        assert_null(probe);
    }
    ousac_probe_free(probe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(energies_and_influences_are_what_they_say),
        cmocka_unit_test(every_branch_that_a_step_runs_is_seen),
        cmocka_unit_test(a_first_evaluation_leaves_the_probe_to_the_other_branch),
        cmocka_unit_test(a_model_that_predicts_nothing_gives_zeros),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(bad_probes_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
