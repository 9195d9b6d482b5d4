/* Walks against runs of the same numbers, to the last bit: cached, with a forecast, forked at every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "profile/run/walk.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SEED = 5, FIRST = 2, SAMPLES = 5, SIZE = 3 * 8 * 8 };

static scratch directory;
static ousac_model *model;
static ousac_calibration *calibration;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[] = {
    {900, OUSAC_MODE_CFG, 3, GATES(FULL, FULL)},      {750, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},
    {600, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)}, {450, OUSAC_MODE_CFG, 4, GATES(CACHED, FULL)},
    {300, OUSAC_MODE_CFG, 4, GATES(REUSE, CACHED)},   {150, OUSAC_MODE_CFG, 2, GATES(CACHED, CACHED)},
};
enum { STEPS = sizeof steps / sizeof *steps };
static ousac_fitted fitted[STEPS];
static ousac_schedule schedule = {.name = "walked", .step_count = STEPS, .steps = steps, .fitted = fitted};

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
    ousac_forecast *forecast = NULL;
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_create(&directory);
    must(random_dit_write(directory.path, &options, &error), &error);
    must(ousac_model_load(&model, scratch_path(&directory, "model.safetensors", file), NULL,
                          ousac_backend_cpu(), &error),
         &error);
    for (size_t s = 0; s < model->arch.site_count; s++)
        rank[s] = s % 3;
    must(ousac_forecast_create(&forecast, STEPS, model->arch.group_count, &error), &error);
    for (size_t i = 0; i < (size_t)STEPS * OUSAC_BRANCHES * model->arch.group_count; i++)
        forecast->coefficient[i] = 0.5f + 0.1f * (float)(i % 7);
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1, .forecast = 1};
    must(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks, random_factors, NULL,
                                  forecast, &error),
         &error);
    ousac_forecast_free(forecast);
    for (size_t i = 0; i < STEPS; i++)
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            if (k != OUSAC_COEFFICIENT_HOLD || steps[i].mode != OUSAC_MODE_CFG)
                fitted[i].value[k] = 0.01 * (double)((int)(7 * i + 3 * (size_t)k) % 11 - 5);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_calibration_free(calibration);
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static ousac_walk_options walk_options(int exact) {
    return (ousac_walk_options){.model = model,
                                .schedule = &schedule,
                                .calibration = calibration,
                                .exact = exact,
                                .seed = SEED,
                                .first = FIRST,
                                .count = SAMPLES,
                                .micro_batch = 2,
                                .threads = 2};
}

static void run(const ousac_schedule *of, int exact, float *samples) {
    ousac_error error = {0};
    const ousac_run run = {.model = model,
                           .schedule = of,
                           .seed = SEED,
                           .first = FIRST,
                           .count = SAMPLES,
                           .micro_batch = 2,
                           .threads = 1,
                           .exact = exact,
                           .calibration = calibration,
                           .samples = samples};
    must(ousac_run_samples(&run, &error), &error);
}

static void a_walk_is_a_run(void **state) {
    static float samples[SAMPLES * SIZE];
    (void)state;
    for (int exact = 0; exact < 2; exact++) {
        const ousac_walk_options options = walk_options(exact);
        ousac_error error = {0};
        ousac_walk *walk = NULL;
        run(&schedule, exact, samples);
        must(ousac_walk_create(&walk, &options, &error), &error);
        for (int again = 0; again < 2; again++) { /* a reset forgets caches and memory */
            ousac_walk_reset(walk);
            must(ousac_walk_finish(walk, &schedule, &error), &error);
            assert_int_equal(ousac_walk_step(walk), STEPS);
            assert_memory_equal(ousac_walk_state(walk), samples, sizeof samples);
        }
        assert_int_equal(ousac_walk_evaluations(walk), 2 * SAMPLES * (2 * STEPS - 1));
        ousac_walk_free(walk);
    }
}

/* From every step on, with the numbers of that step moved: what a run of the moved schedule gives, while the walk
 * goes on as if nothing had been. */
static void a_fork_goes_its_own_way(void **state) {
    static float samples[SAMPLES * SIZE], moved[SAMPLES * SIZE];
    const ousac_walk_options options = walk_options(0);
    ousac_error error = {0};
    ousac_walk *walk = NULL, *fork = NULL;
    (void)state;
    run(&schedule, 0, samples);
    must(ousac_walk_create(&walk, &options, &error), &error);
    must(ousac_walk_fork(&fork, walk, &error), &error);
    for (size_t i = 0; i < STEPS; i++) {
        ousac_schedule other = {0};
        must(ousac_schedule_copy(&other, &schedule, &error), &error);
        other.steps[i].scale += steps[i].mode == OUSAC_MODE_CFG ? 0.5 : 0;
        other.fitted[i].value[OUSAC_COEFFICIENT_GAIN] += 0.1;
        run(&other, 0, moved);
        must(ousac_walk_evaluate(walk, &error), &error);
        must(ousac_walk_copy(fork, walk, &error), &error);
        must(ousac_walk_advance(fork, &other.steps[i], &other.fitted[i], &error), &error);
        must(ousac_walk_finish(fork, &schedule, &error), &error);
        assert_memory_equal(ousac_walk_state(fork), moved, sizeof moved);
        assert_memory_not_equal(moved, samples, sizeof moved);
        must(ousac_walk_advance(walk, &steps[i], &fitted[i], &error), &error);
        ousac_schedule_free(&other);
    }
    assert_memory_equal(ousac_walk_state(walk), samples, sizeof samples);
    ousac_walk_free(fork);
    ousac_walk_free(walk);
}

static void what_cannot_walk_is_refused(void **state) {
    ousac_walk_options options = walk_options(0);
    ousac_error error = {0};
    ousac_walk *walk = NULL;
    ousac_stop stop = {0};
    ousac_fitted huge = {{0}};
    (void)state;
    options.first = 1;
    assert_int_equal(ousac_walk_create(&walk, &options, &error), OUSAC_STATUS_USAGE);
    options = walk_options(0);
    options.stop = &stop;
    must(ousac_walk_create(&walk, &options, &error), &error);
    must(ousac_walk_evaluate(walk, &error), &error);
    huge.value[OUSAC_COEFFICIENT_GAIN] = 1e300;
    assert_int_equal(ousac_walk_advance(walk, &steps[0], &huge, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "step 0"));
    ousac_walk_reset(walk);
    ousac_stop_ask(&stop);
    assert_int_equal(ousac_walk_finish(walk, &schedule, &error), OUSAC_STATUS_INTERRUPTED);
    ousac_walk_free(walk);
    ousac_walk_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_walk_is_a_run),
        cmocka_unit_test(a_fork_goes_its_own_way),
        cmocka_unit_test(what_cannot_walk_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
