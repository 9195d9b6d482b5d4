/* The fitted coefficients of the residual forecast against the same least squares along the naive trajectory,
 * and their way through plan files. */
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
#include "profile/bundle/plan.h"
#include "profile/model/dit.h"
#include "profile/record/forecast_fit.h"
#include "tests/support/naive_trajectory.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SEED = 9, SAMPLES = 3, BLOCKS = 2, SITES = 6 * BLOCKS, GROUPS = 4 * BLOCKS, RANK = 3 };

static scratch directory;
static ousac_model *model;
static naive_dit *net;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[] = {
    {960, OUSAC_MODE_CFG, 2, GATES(FULL, FULL)},     {840, OUSAC_MODE_CFG, 4, GATES(CACHED, CACHED)},
    {720, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},   {600, OUSAC_MODE_CFG, 2, GATES(CACHED, FULL)},
    {480, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)}, {360, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},
    {240, OUSAC_MODE_COND, 1, GATES(REUSE, REUSE)},  {120, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)},
};
enum { STEPS = sizeof steps / sizeof *steps };
static ousac_schedule schedule = {.name = "mixed", .step_count = STEPS, .steps = steps};

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    options.depth = BLOCKS;
    scratch_create(&directory);
    must(random_dit_write(directory.path, &options, &error), &error);
    scratch_path(&directory, "model.safetensors", file);
    must(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error), &error);
    must(naive_dit_load(&net, file, options.heads, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    naive_dit_free(net);
    scratch_remove(&directory);
    return 0;
}

/* Small random factors; uniform in [-0.05, 0.05). */
static float factor_value(size_t site, size_t row, size_t column, int which) {
    uint32_t words[4];
    ousac_philox_draw(500 + site, OUSAC_STREAM_PROJECTION, row * 2 + (size_t)which, (uint32_t)column, words);
    return 0.1f * ((float)words[0] / 4294967296.0f - 0.5f);
}

static ousac_status random_factors(void *self, size_t site, size_t rank, float *a, float *b,
                                   ousac_error *error) {
    const ousac_site *s = &model->arch.sites[site];
    (void)self, (void)error;
    for (size_t r = 0; r < rank; r++) {
        for (size_t i = 0; i < s->m; i++)
            a[r * s->m + i] = factor_value(site, r, i, 0);
        for (size_t j = 0; j < s->n; j++)
            b[r * s->n + j] = factor_value(site, r, j, 1);
    }
    return OUSAC_STATUS_OK;
}

/* --- the same sums, naively --- */

typedef struct sums {
    int corrected;
    size_t step;
    int branch, filled[2];
    double *x[2][2][SITES], *y[2][2][SITES]; /* [branch][last or before][site] */
    double uv[STEPS][2][GROUPS], vv[STEPS][2][GROUPS], uu[STEPS][2][GROUPS];
} sums;

static void on_begin(void *self, size_t step, int branch) {
    sums *s = self;
    s->step = step;
    s->branch = branch;
}

/* (y - y0) - A B (x - x0) of one row */
static double left(const sums *s, size_t site, size_t m, size_t n, size_t row, size_t i, const double *x,
                   const double *x0, const double *y, const double *y0) {
    double value = y[row * m + i] - y0[row * m + i];
    for (size_t r = 0; s->corrected && r < RANK; r++) {
        double z = 0;
        for (size_t j = 0; j < n; j++)
            z += (double)factor_value(site, r, j, 1) * (x[row * n + j] - x0[row * n + j]);
        value -= (double)factor_value(site, r, i, 0) * z;
    }
    return value;
}

static void on_site(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y) {
    sums *s = self;
    int b = s->branch, gate = s->filled[b] ? (int)steps[s->step].gate[b] : OUSAC_GATE_FULL;
    size_t g = model->arch.sites[site].group;
    double **xc = &s->x[b][0][site], **xcc = &s->x[b][1][site], **yc = &s->y[b][0][site],
           **ycc = &s->y[b][1][site];
    if (gate == OUSAC_GATE_CACHED && s->filled[b] > 1)
        for (size_t row = 0; row < rows; row++)
            for (size_t i = 0; i < m; i++) {
                double u = left(s, site, m, n, row, i, x, *xc, y, *yc);
                double v = left(s, site, m, n, row, i, *xc, *xcc, *yc, *ycc);
                s->uv[s->step][b][g] += u * v;
                s->vv[s->step][b][g] += v * v;
                s->uu[s->step][b][g] += u * u;
            }
    if (gate == OUSAC_GATE_FULL) {
        free(*xcc), free(*ycc);
        *xcc = *xc, *ycc = *yc;
        *xc = malloc(rows * n * sizeof **xc), *yc = malloc(rows * m * sizeof **yc);
        assert_true(*xc && *yc);
        memcpy(*xc, x, rows * n * sizeof *x);
        memcpy(*yc, y, rows * m * sizeof *y);
    }
    if (site == SITES - 1 && gate == OUSAC_GATE_FULL)
        s->filled[b]++;
}

static ousac_forecast *fit(int corrected, double least_gain, size_t threads) {
    size_t rank[SITES];
    ousac_error error = {0};
    ousac_calibration *calibration = NULL;
    ousac_forecast_fit *fitted = NULL;
    ousac_forecast *forecast = NULL;
    for (size_t s = 0; s < SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank};
    if (corrected)
        must(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks, random_factors,
                                      NULL, NULL, &error),
             &error);
    must(ousac_forecast_fit_create(&fitted, model, &schedule, calibration, threads, 1, &error), &error);
    ousac_run run = {.model = model,
                     .schedule = &schedule,
                     .seed = SEED,
                     .count = SAMPLES,
                     .micro_batch = 1,
                     .threads = threads,
                     .exact = 1,
                     .observers = ousac_forecast_fit_observers(fitted)};
    must(ousac_run_samples(&run, &error), &error);
    must(ousac_forecast_fit_solve(fitted, least_gain, &forecast, &error), &error);
    ousac_forecast_fit_free(fitted);
    ousac_calibration_free(calibration);
    return forecast;
}

static void coefficients_match_naive_least_squares(void **state) {
    (void)state;
    float x[3 * 8 * 8];
    ousac_error error = {0};
    for (int corrected = 0; corrected < 2; corrected++) {
        sums *s = calloc(1, sizeof *s);
        size_t compared = 0;
        assert_non_null(s);
        assert_int_equal(ousac_model_sample_size(model), sizeof x / sizeof *x);
        s->corrected = corrected;
        for (uint64_t sample = 0; sample < SAMPLES; sample++) {
            naive_hooks hooks = {.self = s, .begin = on_begin, .site = on_site};
            s->filled[0] = s->filled[1] = 0;
            must(naive_trajectory(net, &schedule, SEED, sample, ((const ousac_dit *)model->state)->classes,
                                  &hooks, x, &error),
                 &error);
        }
        ousac_forecast *forecast = fit(corrected, 0, 2);
        for (size_t i = 0; i < STEPS; i++)
            for (int b = 0; b < 2; b++)
                for (size_t g = 0; g < GROUPS; g++) {
                    double got = (double)ousac_forecast_at(forecast, i, b, g);
                    if (s->vv[i][b][g] == 0) {
                        assert_true(got == 0);
                        continue;
                    }
                    double expected = s->uv[i][b][g] / s->vv[i][b][g];
                    double scale = sqrt(s->uu[i][b][g] / s->vv[i][b][g]); /* of a perfect fit */
                    assert_true(fabs(got - expected) <= 1e-4 * scale);
                    compared++;
                }
        assert_int_equal(compared, 5 * GROUPS);          /* cond at 3, 4, 7; uncond at 4, 7 */
        ousac_forecast *strict = fit(corrected, 1.1, 1); /* no fit gains more than everything */
        for (size_t i = 0; i < STEPS * 2 * GROUPS; i++)
            assert_true(strict->coefficient[i] == 0);
        ousac_forecast_free(strict);
        ousac_forecast_free(forecast);
        for (int b = 0; b < 2; b++)
            for (int k = 0; k < 2; k++)
                for (size_t site = 0; site < SITES; site++)
                    free(s->x[b][k][site]), free(s->y[b][k][site]);
        free(s);
    }
}

static void a_plan_keeps_its_forecast(void **state) {
    (void)state;
    size_t rank[SITES] = {0};
    ousac_error error = {0};
    char file[SCRATCH_PATH_BYTES];
    ousac_plan *plan = NULL, *copy = NULL, *loaded = NULL;
    const ousac_allocation allocation = {.rank = rank};
    scratch_path(&directory, "plan.oca", file);
    must(ousac_plan_create(&plan, &model->arch, "p", "uniform+forecast", &allocation, &error), &error);
    plan->forecast = fit(1, 0, 1);
    must(ousac_plan_copy(&copy, plan, &error), &error);
    must(ousac_plan_save(copy, file, &error), &error);
    must(ousac_plan_load(&loaded, file, &error), &error);
    assert_non_null(loaded->forecast);
    assert_int_equal(loaded->forecast->step_count, STEPS);
    assert_int_equal(loaded->forecast->group_count, GROUPS);
    assert_memory_equal(loaded->forecast->coefficient, plan->forecast->coefficient,
                        STEPS * 2 * GROUPS * sizeof(float));
    assert_int_equal(ousac_plan_ranks(loaded).forecast, 1);
    plan->forecast->coefficient[3] = NAN;
    assert_int_equal(ousac_plan_save(plan, file, &error), OUSAC_STATUS_NUMBER);
    plan->forecast->group_count--;
    assert_int_equal(ousac_plan_check(plan, &model->arch, "p", &error), OUSAC_STATUS_MISMATCH);
    plan->forecast->group_count++;
    ousac_plan_free(plan);
    ousac_plan_free(copy);
    ousac_plan_free(loaded);
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    ousac_error error = {0};
    for (long n = 0;; n++) {
        ousac_forecast_fit *fitted = NULL;
        (void)ousac_memory_fail_after(n);
        ousac_status status = ousac_forecast_fit_create(&fitted, model, &schedule, NULL, 2, 2, &error);
        (void)ousac_memory_fail_after(-1);
        ousac_forecast_fit_free(fitted);
        if (!status) {
            assert_true(n > 20);
            return;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
        assert_null(fitted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coefficients_match_naive_least_squares),
        cmocka_unit_test(a_plan_keeps_its_forecast),
        cmocka_unit_test(allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
