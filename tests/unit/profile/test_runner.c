/* Whole trajectories against an independent one: the naive double-precision forward, a cache written here
 * site by site from the definition, and DDIM from its textbook form. Every mode and gate, both branches,
 * every path of a site. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "profile/model/dit.h"
#include "profile/run/runner.h"
#include "tests/support/naive_trajectory.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SITES_PER_BLOCK = 6, SEED = 11, SAMPLES = 3 };

static scratch directory;
static ousac_model *model;
static naive_dit *net;

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    options.depth = 3;
    options.seed = 3;
    scratch_create(&directory);
    if (random_dit_write(directory.path, &options, &error))
        return -1;
    scratch_join(file, directory.path, "model.safetensors");
    return ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error) ||
           naive_dit_load(&net, file, options.heads, &error);
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    naive_dit_free(net);
    scratch_remove(&directory);
    return 0;
}

/* --- the schedule: all modes, gates per branch, the unconditional branch late, rare and unevenly aged --- */

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[] = {
    {999, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)}, /* no cache yet: effectively full */
    {880, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)},
    {760, OUSAC_MODE_CFG, 4.5, GATES(CACHED, CACHED)}, /* the unconditional branch's first */
    {640, OUSAC_MODE_CFG, 2.5, GATES(FULL, CACHED)},
    {520, OUSAC_MODE_UNCOND, 1, GATES(REUSE, REUSE)},
    {400, OUSAC_MODE_COND, 1, GATES(REUSE, REUSE)},
    {280, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL)},
    {160, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)},
    {40, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)},
};
static const ousac_schedule every_kind = {
    .name = "every kind", .step_count = sizeof steps / sizeof *steps, .steps = steps};

/* --- random factors, and ranks that take every path --- */

static size_t rank_of(size_t site, int low_rank_only) {
    size_t block = site / SITES_PER_BLOCK, kind = site % SITES_PER_BLOCK;
    if (low_rank_only)
        return 3 + site % 4;
    static const size_t table[3][SITES_PER_BLOCK] = {
        {5, 0, 2, 4, 7, 1},    /* k frozen */
        {0, 0, 0, 6, 3, 1000}, /* attention dead by q = k = v = 0; fc2 dense */
        {1000, 2, 0, 3, 0, 4}, /* q dense, v frozen; MLP dead by fc1 = 0 */
    };
    return table[block][kind];
}

/* Uniform in [-1/2, 1/2). */
static float factor_value(size_t site, size_t row, size_t column, int which) {
    uint32_t words[4];
    ousac_philox_draw(1000 + site, OUSAC_STREAM_PROJECTION, row * 2 + (size_t)which, (uint32_t)column, words);
    return (float)words[0] / 4294967296.0f - 0.5f;
}

/* Between -0.5 and 1.5; of one group, none. */
static float coefficient_at(size_t step, int branch, size_t group) {
    return group == 2 ? 0 : 0.5f + 2 * factor_value(50 + group, step, (size_t)branch, 0);
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

/* --- the independent cache --- */

typedef struct naive_cache {
    int filled;               /* full evaluations so far */
    size_t step, step_before; /* of the last two */
    double *x[64], *y[64], *out[32];
    double *x_before[64], *y_before[64], *out_before[32];
    int evaluated;        /* evaluations so far, of any gate */
    double *queue[2][32]; /* what each module gave at the last two of them */
} naive_cache;

typedef struct naive_run {
    int exact, low_rank_only, dense_fallback, calibrated, forecast, gradient;
    size_t step;
    int branch;
    naive_cache cache[2];
    naive_cache *current;
    int gate;
    const ousac_schedule *schedule;
} naive_run;

static double *keep(double *old, const double *values, size_t count) {
    double *copy = old ? old : malloc(count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static void on_begin(void *self, size_t step, int branch) {
    naive_run *run = self;
    run->current = &run->cache[branch];
    run->step = step;
    run->branch = branch;
    run->gate =
        run->exact || !run->current->filled ? OUSAC_GATE_FULL : (int)run->schedule->steps[step].gate[branch];
    if (run->gate == OUSAC_GATE_FULL) {
        run->current->filled++;
        run->current->step_before = run->current->step;
        run->current->step = step;
    }
}

static void on_site(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y) {
    naive_run *run = self;
    size_t rank = rank_of(site, run->low_rank_only);
    if (run->gate == OUSAC_GATE_FULL) {
        double *x_older = run->current->x_before[site], *y_older = run->current->y_before[site];
        run->current->x_before[site] = run->current->x[site];
        run->current->y_before[site] = run->current->y[site];
        run->current->x[site] = keep(x_older, x, rows * n);
        run->current->y[site] = keep(y_older, y, rows * m);
        return;
    }
    if (run->gate != OUSAC_GATE_CACHED || !run->calibrated ||
        (run->dense_fallback && rank * (m + n) >= m * n))
        return; /* exact, or its module is replaced anyway */
    const double *xc = run->current->x[site], *yc = run->current->y[site];
    const double *xcc = run->current->x_before[site], *ycc = run->current->y_before[site];
    double s = run->forecast && run->current->filled > 1 && rank
                   ? (double)coefficient_at(run->step, run->branch, model->arch.sites[site].group)
                   : 0;
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < m; i++)
            y[row * m + i] = yc[row * m + i] + (s != 0 ? s * (yc[row * m + i] - ycc[row * m + i]) : 0);
        for (size_t r = 0; r < rank; r++) {
            double z = 0;
            for (size_t j = 0; j < n; j++) {
                size_t e = row * n + j;
                z += (double)factor_value(site, r, j, 1) *
                     (x[e] - xc[e] - (s != 0 ? s * (xc[e] - xcc[e]) : 0));
            }
            for (size_t i = 0; i < m; i++)
                y[row * m + i] += (double)factor_value(site, r, i, 0) * z;
        }
    }
}

/* GOC as it is written: a queue of what a module gave at the last two evaluations of the branch, cached or not. */
enum { INFLECTION = 7 };
#define GRADIENT_WEIGHT 1.2
static void on_module_of_a_queue(naive_run *run, size_t module, size_t count, double *out) {
    naive_cache *c = run->current;
    if (run->gate != OUSAC_GATE_FULL)
        for (size_t i = 0; i < count; i++)
            out[i] = c->queue[0][module][i] +
                     (run->step == INFLECTION || !c->queue[1][module]
                          ? 0
                          : GRADIENT_WEIGHT * (c->queue[0][module][i] - c->queue[1][module][i]));
    double *older = c->queue[1][module];
    c->queue[1][module] = c->queue[0][module];
    c->queue[0][module] = keep(older, out, count);
}

static void on_module(void *self, size_t module, size_t rows, size_t d, double *out) {
    naive_run *run = self;
    if (run->gradient) {
        on_module_of_a_queue(run, module, rows * d, out);
        return;
    }
    size_t first = module / 2 * SITES_PER_BLOCK, r[SITES_PER_BLOCK];
    for (size_t i = 0; i < SITES_PER_BLOCK; i++)
        r[i] = rank_of(first + i, run->low_rank_only);
    int live = run->calibrated && (module % 2 == 0 ? (r[0] || r[1] || r[2]) && r[3] : r[4] && r[5]);
    naive_cache *c = run->current;
    if (run->gate == OUSAC_GATE_FULL) {
        double *older = c->out_before[module];
        c->out_before[module] = c->out[module];
        c->out[module] = keep(older, out, rows * d);
    } else if (run->gate != OUSAC_GATE_CACHED || !live) {
        /* the line through the last two full evaluations, in Lagrange's form */
        double t = (double)run->step, t0 = (double)c->step, t1 = (double)c->step_before;
        int line = run->gate == OUSAC_GATE_EXTRAPOLATE && c->filled > 1;
        double last = line ? (t - t1) / (t0 - t1) : 1, before = line ? (t - t0) / (t1 - t0) : 0;
        for (size_t i = 0; i < rows * d; i++)
            out[i] = last * c->out[module][i] + (before != 0 ? before * c->out_before[module][i] : 0);
    }
}

static void naive_cache_free(naive_cache *cache) {
    for (size_t i = 0; i < 64; i++)
        free(cache->x[i]), free(cache->y[i]), free(cache->x_before[i]), free(cache->y_before[i]);
    for (size_t i = 0; i < 32; i++)
        free(cache->out[i]), free(cache->out_before[i]), free(cache->queue[0][i]), free(cache->queue[1][i]);
}

typedef struct outcome {
    double error; /* worst over samples, against the naive run */
    float *samples;
    ousac_counters counters;
} outcome;

typedef struct setting {
    int exact, calibrated, low_rank_only, dense_fallback, forecast, extrapolate, gradient;
    size_t micro_batch, threads;
    ousac_solver solver;
    int fitted;
    ousac_prediction prediction;
    size_t guided; /* channels; 0: all */
    double later;  /* added to every timestep but the first */
    const ousac_run_observers *observers;
} setting;

/* Every coefficient of every step is another, those of no effect included. */
static void make_fitted(ousac_schedule *schedule) {
    must(ousac_schedule_make_fitted(schedule, NULL), NULL);
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            if (k != OUSAC_COEFFICIENT_HOLD || schedule->steps[i].mode != OUSAC_MODE_CFG)
                schedule->fitted[i].value[k] = 0.2 * (double)factor_value(i, (size_t)k, 7, 1);
}

static outcome compare(setting how) {
    ousac_schedule schedule = {0};
    must(ousac_schedule_copy(&schedule, &every_kind, NULL), NULL);
    schedule.solver = how.solver;
    if (how.extrapolate)
        ousac_schedule_replace_gate(&schedule, OUSAC_GATE_REUSE, OUSAC_GATE_EXTRAPOLATE);
    if (how.extrapolate && !how.calibrated)
        ousac_schedule_replace_gate(&schedule, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    if (how.fitted)
        make_fitted(&schedule);
    for (size_t i = 1; i < schedule.step_count; i++)
        schedule.steps[i].timestep += how.later;
    model->noise.prediction = how.prediction;
    model->guided_channels = how.guided ? how.guided : model->channels;
    size_t size = ousac_model_sample_size(model);
    outcome o = {.samples = calloc(SAMPLES * size, sizeof(float))};
    float *expected = calloc(size, sizeof *expected);
    size_t *rank = calloc(model->arch.site_count, sizeof *rank);
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    assert_true(o.samples && expected && rank);
    for (size_t s = 0; s < model->arch.site_count; s++)
        rank[s] = rank_of(s, how.low_rank_only);
    ousac_ranks ranks = {.rank = rank, .dense_fallback = how.dense_fallback, .forecast = how.forecast};
    ousac_forecast *coefficients = NULL;
    if (how.forecast) {
        must(ousac_forecast_create(&coefficients, schedule.step_count, model->arch.group_count, &error),
             &error);
        for (size_t i = 0; i < schedule.step_count; i++)
            for (int b = 0; b < OUSAC_BRANCHES; b++)
                for (size_t g = 0; g < model->arch.group_count; g++)
                    coefficients
                        ->coefficient[(i * OUSAC_BRANCHES + (size_t)b) * model->arch.group_count + g] =
                        coefficient_at(i, b, g);
    }
    if (how.calibrated)
        must(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks, random_factors,
                                      NULL, coefficients, &error),
             &error);
    ousac_forecast_free(coefficients);
    unsigned char inflection[sizeof steps / sizeof *steps] = {0};
    inflection[INFLECTION] = 1;
    const ousac_gradient gradient = {
        .weight = GRADIENT_WEIGHT, .step_count = schedule.step_count, .inflection = inflection};
    ousac_run run = {.model = model,
                     .schedule = &schedule,
                     .seed = SEED,
                     .first = 0,
                     .count = SAMPLES,
                     .micro_batch = how.micro_batch,
                     .threads = how.threads,
                     .exact = how.exact,
                     .calibration = calibration,
                     .gradient = how.gradient ? &gradient : NULL,
                     .observers = how.observers,
                     .samples = o.samples,
                     .counters = &o.counters};
    must(ousac_run_samples(&run, &error), &error);
    for (uint64_t i = 0; i < SAMPLES; i++) {
        naive_run naive = {.exact = how.exact,
                           .low_rank_only = how.low_rank_only,
                           .dense_fallback = how.dense_fallback,
                           .calibrated = how.calibrated,
                           .forecast = how.forecast,
                           .gradient = how.gradient,
                           .schedule = &schedule};
        naive_hooks hooks = {&naive, on_begin, on_site, on_module, how.prediction, how.guided};
        must(naive_trajectory(net, &schedule, SEED, i, ((const ousac_dit *)model->state)->classes, &hooks,
                              expected, &error),
             &error);
        o.error = fmax(o.error, naive_relative_error(o.samples + i * size, expected, size));
        naive_cache_free(&naive.cache[0]);
        naive_cache_free(&naive.cache[1]);
    }
    if (!how.exact && !how.gradient) { /* what was counted is what the cost model says */
        ousac_cost_total total;
        if (!how.calibrated)
            ranks.rank = NULL;
        must(ousac_cost_trajectory(&model->arch, &schedule, &ranks, &total, &error), &error);
        assert_true(o.counters.macs == total.schedule_cached * SAMPLES);
    }
    ousac_calibration_free(calibration);
    ousac_schedule_free(&schedule);
    free(rank);
    free(expected);
    return o;
}

static void exact_run_matches(void **state) {
    (void)state;
    outcome o = compare((setting){.exact = 1, .dense_fallback = 1, .micro_batch = 2, .threads = 1});
    print_message("exact: %.2e\n", o.error);
    assert_true(o.error < 1e-4);
    assert_int_equal(o.counters.forwards[OUSAC_GATE_CACHED] + o.counters.forwards[OUSAC_GATE_REUSE], 0);
    free(o.samples);
}

static void every_path_of_a_cached_run_matches(void **state) {
    (void)state;
    outcome o = compare((setting){.calibrated = 1, .dense_fallback = 1, .micro_batch = 2, .threads = 1});
    print_message("calibrated, every path: %.2e\n", o.error);
    assert_true(o.error < 1e-4);
    assert_true(o.counters.site_low_rank && o.counters.site_dense && o.counters.site_frozen &&
                o.counters.site_skipped);
    free(o.samples);
    o = compare((setting){.calibrated = 1, .low_rank_only = 1, .micro_batch = 3, .threads = 1});
    print_message("calibrated, low rank everywhere: %.2e\n", o.error);
    assert_true(o.error < 1e-4);
    assert_int_equal(o.counters.site_dense, 0);
    free(o.samples);
}

/* --- inputs that are consumed --- */

static ousac_status add_input(void *self, size_t group, size_t rows, const float *x, size_t ldx,
                              const float *y, size_t ldy, ousac_error *error) {
    double *sums = self;
    const size_t n = model->arch.sites[model->arch.groups[group].first_site].n;
    (void)y, (void)ldy, (void)error;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++)
            sums[group] += (double)x[i * ldx + j];
    return OUSAC_STATUS_OK;
}

static ousac_status watch_inputs(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer = (ousac_observer){.self = self, .linear = add_input};
    return OUSAC_STATUS_OK;
}

/* Whether inputs that nobody reads again are kept makes no difference, nor does an observer find any of them gone. */
static void consumed_inputs_change_nothing(void **state) {
    enum { GROUPS = 12 };
    const size_t bytes = SAMPLES * ousac_model_sample_size(model) * sizeof(float);
    ousac_arch *arch = &model->arch;
    int consumed[GROUPS];
    (void)state;
    assert_int_equal(arch->group_count, GROUPS);
    for (int forecast = 0; forecast < 2; forecast++) {
        double sums[2][GROUPS] = {{0}};
        outcome o[2][2];
        for (int kept = 0; kept < 2; kept++) {
            const ousac_run_observers observers = {.self = sums[kept], .attach = watch_inputs};
            for (size_t g = 0; g < GROUPS; g++) {
                consumed[g] = arch->groups[g].consumed;
                assert_int_equal(consumed[g], g % 4 == 3);
                if (kept)
                    arch->groups[g].consumed = 0;
            }
            for (int observed = 0; observed < 2; observed++)
                o[kept][observed] = compare((setting){.calibrated = 1,
                                                      .dense_fallback = 1,
                                                      .low_rank_only = !forecast,
                                                      .forecast = forecast,
                                                      .micro_batch = 2,
                                                      .threads = 1,
                                                      .observers = observed ? &observers : NULL});
            for (size_t g = 0; g < GROUPS; g++)
                arch->groups[g].consumed = consumed[g];
        }
        assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        for (int i = 0; i < 4; i++) {
            assert_memory_equal(o[i / 2][i % 2].samples, o[0][0].samples, bytes);
            if (i)
                free(o[i / 2][i % 2].samples);
        }
        free(o[0][0].samples);
    }
}

static void forecasts_match(void **state) {
    (void)state;
    outcome o = compare(
        (setting){.calibrated = 1, .dense_fallback = 1, .forecast = 1, .micro_batch = 2, .threads = 1});
    print_message("forecast, every path: %.2e\n", o.error);
    assert_true(o.error < 1e-4);
    outcome without =
        compare((setting){.calibrated = 1, .dense_fallback = 1, .micro_batch = 2, .threads = 1});
    double moved = naive_relative_error(o.samples, without.samples, SAMPLES * ousac_model_sample_size(model));
    print_message("the forecast moves the samples by %.2e\n", moved);
    assert_true(moved > 1e-5);
    free(o.samples);
    free(without.samples);
}

static void reuse_without_correction_matches(void **state) {
    (void)state;
    outcome o = compare((setting){.dense_fallback = 1, .micro_batch = 1, .threads = 1});
    print_message("reuse: %.2e\n", o.error);
    assert_true(o.error < 1e-4);
    assert_int_equal(o.counters.site_low_rank, 0);
    free(o.samples);
}

static void the_multistep_solver_matches(void **state) {
    (void)state;
    outcome o =
        compare((setting){.exact = 1, .micro_batch = 2, .threads = 1, .solver = OUSAC_SOLVER_DPMPP_2M});
    outcome ddim = compare((setting){.exact = 1, .micro_batch = 2, .threads = 1});
    double moved = naive_relative_error(o.samples, ddim.samples, SAMPLES * ousac_model_sample_size(model));
    print_message("dpmpp-2m: %.2e; it moves the samples by %.2e\n", o.error, moved);
    assert_true(o.error < 1e-5);
    assert_true(moved > 1e-3);
    free(o.samples);
    free(ddim.samples);
    /* the state that it looks back at is each sample's own, and each trajectory's */
    o = compare((setting){.calibrated = 1,
                          .dense_fallback = 1,
                          .forecast = 1,
                          .micro_batch = 1,
                          .threads = 2,
                          .solver = OUSAC_SOLVER_DPMPP_2M});
    print_message("dpmpp-2m, calibrated: %.2e\n", o.error);
    assert_true(o.error < 1e-5);
    free(o.samples);
}

static void fitted_coefficients_match(void **state) {
    (void)state;
    const ousac_solver solvers[] = {OUSAC_SOLVER_DDIM, OUSAC_SOLVER_DPMPP_2M};
    for (size_t i = 0; i < 2; i++) {
        setting how = {.exact = 1, .micro_batch = 2, .threads = 2, .solver = solvers[i]};
        outcome plain = compare(how);
        how.fitted = 1;
        outcome o = compare(how);
        double moved =
            naive_relative_error(o.samples, plain.samples, SAMPLES * ousac_model_sample_size(model));
        print_message("%s, fitted: %.2e; it moves the samples by %.2e\n", ousac_solver_name(solvers[i]),
                      o.error, moved);
        assert_true(o.error < 1e-5);
        assert_true(moved > 1e-2);
        free(o.samples);
        free(plain.samples);
    }
}

/* Whatever is predicted, at timesteps between the whole ones, with guidance on some channels alone. */
static void predictions_levels_and_guided_channels_match(void **state) {
    static const ousac_prediction of[] = {OUSAC_PREDICTION_EPSILON, OUSAC_PREDICTION_V,
                                          OUSAC_PREDICTION_SAMPLE};
    const size_t size = SAMPLES * ousac_model_sample_size(model);
    (void)state;
    setting plain = {.exact = 1, .micro_batch = 2, .threads = 1};
    outcome whole = compare(plain);
    for (int solver = 0; solver < 2; solver++)
        for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
            setting how = plain;
            how.solver = (ousac_solver)solver;
            how.prediction = of[i];
            how.guided = 2;
            how.later = 0.375;
            how.fitted = i == 1;
            outcome o = compare(how);
            print_message("%s, %s: %.2e\n", ousac_prediction_name(of[i]),
                          ousac_solver_name((ousac_solver)solver), o.error);
            assert_true(o.error < 1e-4);
            assert_true(naive_relative_error(o.samples, whole.samples, size) > 1e-4);
            free(o.samples);
        }
    free(whole.samples);
    model->noise.prediction = OUSAC_PREDICTION_EPSILON;
    model->guided_channels = model->channels;
}

/* Reuse along the line of the last two full evaluations, alone and beside cached evaluations. */
static void extrapolated_modules_match(void **state) {
    (void)state;
    const size_t size = SAMPLES * ousac_model_sample_size(model);
    for (int calibrated = 0; calibrated < 2; calibrated++)
        for (int forecast = 0; forecast <= calibrated; forecast++) {
            setting how = {.calibrated = calibrated,
                           .forecast = forecast,
                           .dense_fallback = 1,
                           .extrapolate = 1,
                           .micro_batch = 2,
                           .threads = 1};
            outcome o = compare(how);
            how.extrapolate = 0;
            outcome without = compare(how);
            const double moved = naive_relative_error(o.samples, without.samples, size);
            print_message("extrapolated%s%s: %.2e; it moves the samples by %.2e\n",
                          calibrated ? ", calibrated" : "", forecast ? " with forecast" : "", o.error, moved);
            assert_true(o.error < 1e-4);
            assert_true(moved > 20 * o.error);
            assert_true(o.counters.macs > without.counters.macs);
            free(o.samples);
            free(without.samples);
        }
}

/* Reuse along the change between the last two evaluations, cached ones included, but at an inflection. */
static void gradients_of_a_queue_match(void **state) {
    (void)state;
    const size_t size = SAMPLES * ousac_model_sample_size(model);
    outcome without = compare((setting){.micro_batch = 2, .threads = 1});
    outcome extrapolated = compare((setting){.extrapolate = 1, .micro_batch = 2, .threads = 1});
    for (size_t batch = 1; batch <= 2; batch++) {
        outcome o = compare((setting){.gradient = 1, .micro_batch = batch, .threads = 3 - batch});
        const double moved = naive_relative_error(o.samples, without.samples, size);
        print_message("GOC: %.2e; it moves the samples by %.2e\n", o.error, moved);
        assert_true(o.error < 1e-4);
        assert_true(moved > 20 * o.error);
        assert_true(naive_relative_error(o.samples, extrapolated.samples, size) > 20 * o.error);
        assert_true(o.counters.macs > without.counters.macs);
        free(o.samples);
    }
    free(without.samples);
    free(extrapolated.samples);
}

static void a_gradient_stands_alone(void **state) {
    (void)state;
    ousac_executor *executor = NULL;
    ousac_error error = {0};
    const ousac_gradient gradient = {.weight = 1, .step_count = 1};
    const ousac_executor_options both = {.batch = 1, .keep = 1, .extrapolate = 1, .gradient = &gradient};
    assert_int_equal(ousac_executor_create(&executor, model, &both, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "gradient"));
    const ousac_executor_options alone = {.batch = 1, .keep = 1, .gradient = &gradient};
    must(ousac_executor_create(&executor, model, &alone, &error), &error);
    ousac_gate effective;
    assert_int_equal(ousac_executor_begin(executor, 1, 0, OUSAC_GATE_FULL, 1, NULL, &effective, &error),
                     OUSAC_STATUS_MISMATCH);
    assert_non_null(strstr(error.message, "1 steps"));
    ousac_executor_free(executor);
}

static void threads_do_not_change_a_bit(void **state) {
    (void)state;
    outcome one = compare((setting){
                .calibrated = 1, .dense_fallback = 1, .forecast = 1, .micro_batch = 1, .threads = 1}),
            three = compare((setting){
                .calibrated = 1, .dense_fallback = 1, .forecast = 1, .micro_batch = 1, .threads = 3});
    assert_memory_equal(one.samples, three.samples, SAMPLES * ousac_model_sample_size(model) * sizeof(float));
    assert_memory_equal(&one.counters, &three.counters, sizeof one.counters);
    free(one.samples);
    free(three.samples);
}

static ousac_status run_with(ousac_schedule *s, uint64_t first, const ousac_stop *stop, ousac_error *error) {
    ousac_run run = {.model = model,
                     .schedule = s,
                     .seed = SEED,
                     .first = first,
                     .count = 4,
                     .micro_batch = 2,
                     .threads = 2,
                     .stop = stop};
    return ousac_run_samples(&run, error);
}

static void bad_runs_are_refused(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_step one[] = {{999.5, OUSAC_MODE_COND, 1, GATES(FULL, FULL)}};
    ousac_schedule s = {.name = "bad", .step_count = 1, .steps = one};
    assert_int_equal(run_with(&s, 0, NULL, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "999.5"));
    one[0].timestep = 1000;
    assert_int_equal(run_with(&s, 0, NULL, &error), OUSAC_STATUS_USAGE);
    one[0].timestep = 3;
    assert_int_equal(run_with(&s, 1, NULL, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "micro-batch"));
    one[0].gate[0] = OUSAC_GATE_AUTO;
    assert_int_equal(run_with(&s, 0, NULL, &error), OUSAC_STATUS_USAGE);
    one[0].gate[0] = OUSAC_GATE_FULL;
    const ousac_stop stop = {1};
    assert_int_equal(run_with(&s, 0, &stop, &error), OUSAC_STATUS_INTERRUPTED);
    one[0].mode = OUSAC_MODE_CFG;
    one[0].scale = 1e60; /* finite in double, beyond what the float32 state holds */
    assert_int_equal(run_with(&s, 0, NULL, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "step 0"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_run_matches),
        cmocka_unit_test(every_path_of_a_cached_run_matches),
        cmocka_unit_test(consumed_inputs_change_nothing),
        cmocka_unit_test(forecasts_match),
        cmocka_unit_test(reuse_without_correction_matches),
        cmocka_unit_test(the_multistep_solver_matches),
        cmocka_unit_test(fitted_coefficients_match),
        cmocka_unit_test(predictions_levels_and_guided_channels_match),
        cmocka_unit_test(extrapolated_modules_match),
        cmocka_unit_test(gradients_of_a_queue_match),
        cmocka_unit_test(a_gradient_stands_alone),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(bad_runs_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
