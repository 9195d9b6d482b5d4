/* The contract on a family that a DiT is not (tests/support/duo.h), against its oracle: runs, caches, costs,
 * profiles, factors, plans, bundles and memory plans, by stream. It says little of how good a cache is on a model
 * that steps so far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/choose/descent.h"
#include "calib/cost.h"
#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "pipeline/budget.h"
#include "pipeline/footprint.h"
#include "profile/bundle/bundle.h"
#include "profile/record/forecast_fit.h"
#include "profile/record/recorder.h"
#include "profile/run/history.h"
#include "profile/run/runner.h"
#include "tests/support/duo.h"
#include "tests/support/family_oracle.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

enum { SEED = 5, SAMPLES = 5, STEPS = 7, CELLS = DUO_JOINT * (DUO_D + DUO_HIDDEN), RANK = 3 };

static scratch directory;
static char inputs[SCRATCH_PATH_BYTES];
static ousac_model *model;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[STEPS] = {
    {1000, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},     {871.5, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL)},
    {700.25, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},  {512, OUSAC_MODE_CFG, 2.5, GATES(CACHED, FULL)},
    {300.125, OUSAC_MODE_COND, 1, GATES(REUSE, FULL)}, {180, OUSAC_MODE_CFG, 1.5, GATES(CACHED, CACHED)},
    {90.75, OUSAC_MODE_UNCOND, 1, GATES(FULL, CACHED)}};
static const ousac_schedule schedule = {
    .name = "duo", .solver = OUSAC_SOLVER_FLOW_EULER, .step_count = STEPS, .steps = steps};

static int set_up(void **state) {
    ousac_error error = {0};
    (void)state;
    scratch_create(&directory);
    scratch_join(inputs, directory.path, "inputs.safetensors");
    must_succeed(duo_write_inputs(inputs, 9, &error), &error);
    must_succeed(duo_create(&model, 2, inputs, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static double relative(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)a[i] - (double)b[i], 2);
        norm += pow((double)b[i], 2);
    }
    return sqrt(difference / norm);
}

static ousac_run run_of(float *samples, ousac_counters *counters) {
    return (ousac_run){.model = model,
                       .schedule = &schedule,
                       .seed = SEED,
                       .count = SAMPLES,
                       .micro_batch = 2,
                       .threads = 2,
                       .samples = samples,
                       .counters = counters};
}

/* --- runs --- */

/* A run, against the oracle's; `ranks` NULL: reuse. `extrapolate`: what is reused, but not within a cached
 * evaluation. */
static void compare(const char *what, int is_exact, const ousac_ranks *ranks, int extrapolate) {
    static float got[SAMPLES * DUO_SIZE], expected[DUO_SIZE];
    ousac_calibration *calibration = NULL;
    ousac_forecast *forecast = NULL;
    ousac_counters counters;
    ousac_cost_total total;
    ousac_error error = {0};
    double worst = 0;
    ousac_schedule gated = family_gated(&schedule, ranks, extrapolate);
    if (ranks && ranks->forecast) {
        must_succeed(ousac_forecast_create(&forecast, STEPS, DUO_GROUPS, &error), &error);
        for (size_t i = 0; i < STEPS * 2 * DUO_GROUPS; i++)
            forecast->coefficient[i] =
                family_coefficient(i / DUO_GROUPS / 2, (int)(i / DUO_GROUPS % 2), i % DUO_GROUPS);
    }
    if (ranks)
        must_succeed(ousac_calibration_create(&calibration, model->backend, &model->arch, ranks,
                                              family_factors, &model->arch, forecast, &error),
                     &error);
    ousac_run run = run_of(got, &counters);
    run.exact = is_exact;
    run.calibration = calibration;
    run.schedule = &gated;
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        family_cache *cache = family_cache_create(&(family_caching){&model->arch, &gated, ranks});
        const family_hooks h = family_cache_hooks(cache);
        const duo_hooks hooks = {h.self, h.begin, h.skip, h.site, h.output};
        duo_naive_trajectory(model, &gated, SEED, s, is_exact ? NULL : &hooks, expected);
        worst = fmax(worst, relative(got + s * DUO_SIZE, expected, DUO_SIZE));
        family_cache_free(cache);
    }
    print_message("%s: %.2e\n", what, worst);
    assert_true(worst < 2e-5);
    if (!is_exact) {
        must_succeed(ousac_cost_trajectory(&model->arch, &gated, ranks, &total, &error), &error);
        assert_true(counters.macs == SAMPLES * total.schedule_cached);
    }
    ousac_calibration_free(calibration);
    ousac_forecast_free(forecast);
    ousac_schedule_free(&gated);
}

static void runs_match_the_oracle(void **state) {
    size_t rank[DUO_SITES];
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    compare("exact", 1, NULL, 0);
    compare("reuse", 0, NULL, 0);
    compare("reuse, extrapolated", 0, NULL, 1);
    for (size_t s = 0; s < DUO_SITES; s++)
        rank[s] = RANK;
    compare("rank 3", 0, &ranks, 0);
    ranks.forecast = 1;
    compare("rank 3 with forecast", 0, &ranks, 0);
    for (size_t s = 0; s < DUO_SITES; s++) /* all paths, and modules that are not live */
        rank[s] = s % 5 == 1 ? 0 : s % 5 == 2 ? 99 : 1 + s % RANK;
    rank[6] = rank[7] = 0; /* the first joint attention's second stage */
    rank[10] = 0;          /* an MLP's only first site */
    compare("every path", 0, &ranks, 0);
    compare("every path, extrapolated", 0, &ranks, 1);
}

/* The formulas by hand: 2 doubles and 1 single. */
static void costs_go_by_stream(void **state) {
    enum { D = DUO_D, H = DUO_HIDDEN, I = DUO_IMAGE, T = DUO_TEXT, J = DUO_JOINT };
    const uint64_t joint = 4 * (I + T) * D * D + 2 * J * J * D, cross = 2 * I * D * D + 2 * I * T * D,
                   mlps = 2 * (I + T) * D * H, single = J * (3 * D + H) * D + J * D * (D + H) + 2 * J * J * D;
    const uint64_t full = D * D + 2 * (joint + cross + mlps) + single, constant = 2 * T * 2 * D * DUO_EMBED;
    ousac_cost_total total;
    ousac_error error = {0};
    size_t rank[DUO_SITES] = {0};
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    assert_true(ousac_cost_full(&model->arch) == full);
    assert_true(ousac_cost_constant(&model->arch) == constant);
    must_succeed(ousac_cost_trajectory(&model->arch, &schedule, NULL, &total, &error), &error);
    assert_true(total.constant_guidance == 2 * constant + 2 * STEPS * full);
    assert_true(total.schedule_full == 2 * constant + 11 * full);
    assert_true(total.constant_groups == 2 * constant);
    /* what a share of the trajectory leaves for a cached evaluation, constant groups paid for */
    const ousac_budget budget = {.step = NAN, .total = 0.5};
    uint64_t macs = 0;
    double step = 0;
    must_succeed(ousac_budget_solve(&model->arch, &schedule, &budget, &macs, &step, &error), &error);
    const double spent = (double)(2 * constant + total.forwards_full * full + total.forwards_reuse * D * D) +
                         (double)total.forwards_cached * step * (double)full;
    assert_true(fabs(spent - 0.5 * (double)total.constant_guidance) < 1);
    rank[6] = rank[0] = 1; /* of the joint attention the image's side alone, one rank of one site a stage */
    assert_true(ousac_cost_cached(&model->arch, &ranks) == D * D + 2 * J * J * D + 2 * I * 2 * D);
    rank[6] = 0, rank[7] = 1; /* the second stage on the text's side */
    assert_true(ousac_cost_cached(&model->arch, &ranks) == D * D + 2 * J * J * D + (I + T) * 2 * D);
    assert_true(ousac_cost_extrapolation(&model->arch) == D * (2 * ((I + T) + I + I + T) + J));
}

/* --- recording --- */

typedef struct watching {
    size_t tokens, step, samples;
    uint64_t sample;
    int gate, branch, filled[2];
    uint32_t chosen[2][3][DUO_JOINT], next[3][DUO_JOINT]; /* per stream */
    int all[3];
    double x[2][DUO_SITES][CELLS], y[2][DUO_SITES][CELLS], out[2][DUO_MODULES][2][DUO_JOINT * DUO_D];
    double scalar[OUSAC_SCALAR_COUNT][STEPS * 2 * DUO_SITES];
    double moment[DUO_GROUPS][64 * 65 / 2];
    double magnitude[DUO_GROUPS][DUO_D + DUO_HIDDEN];
} watching;

static size_t used(const watching *w, size_t stream) {
    const size_t n = model->arch.stream[stream].tokens;
    return w->tokens < n ? w->tokens : n;
}

/* As formats/PROFILE.md says: the first K of a shuffle, streams one behind another in the draws. */
static void choose(watching *w, size_t stream) {
    const size_t n = model->arch.stream[stream].tokens, k = used(w, stream);
    uint32_t order[DUO_JOINT];
    size_t before = 0;
    for (size_t s = 0; s < stream; s++)
        before += STEPS * model->arch.stream[s].tokens;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; i < k; i++) {
        const size_t j =
            i + ousac_philox_below(SEED, OUSAC_STREAM_TOKENS, w->sample,
                                   (uint32_t)((before + w->step * n + i) * 64), (uint32_t)(n - i));
        const uint32_t held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
    memcpy(w->next[stream], order, sizeof order);
}

static void watch_begin(void *self, size_t step, int branch) {
    watching *w = self;
    w->step = step;
    w->branch = branch;
    w->gate = w->filled[branch] ? (int)steps[step].gate[branch] : OUSAC_GATE_FULL;
    for (size_t s = 0; s < 3; s++) {
        if (w->gate == OUSAC_GATE_FULL)
            choose(w, s);
        if (!w->filled[branch]) /* seen at those drawn now */
            memcpy(w->chosen[branch][s], w->next[s], sizeof w->next[s]);
    }
}

static double *entry(watching *w, ousac_scalar scalar, size_t index) {
    return &w->scalar[scalar]
                     [(w->step * 2 + (size_t)w->branch) * ousac_profile_scalar_width(&model->arch, scalar) +
                      index];
}

/* Sums over the rows seen, times the share. */
static void watch(watching *w, size_t stream, size_t cols, const double *now, const double *then,
                  double *square, double *change) {
    const double share = (double)model->arch.stream[stream].tokens / (double)used(w, stream);
    for (size_t i = 0; i < used(w, stream); i++)
        for (size_t j = 0; j < cols; j++) {
            const size_t at = w->chosen[w->branch][stream][i] * cols + j;
            *square += share * now[at] * now[at];
            if (w->filled[w->branch])
                *change += share * (now[at] - then[at]) * (now[at] - then[at]);
        }
}

static void watch_moment(watching *w, size_t group, size_t dim, const double *now, const double *then) {
    const size_t stream = model->arch.groups[group].stream;
    const double share = (double)model->arch.stream[stream].tokens / (double)used(w, stream);
    for (size_t r = 0; r < used(w, stream); r++) {
        const size_t row = w->chosen[w->branch][stream][r] * dim;
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j <= i; j++)
                w->moment[group][i * (i + 1) / 2 + j] +=
                    share * (now[row + i] - then[row + i]) * (now[row + j] - then[row + j]);
    }
}

static void watch_magnitude(watching *w, size_t group, size_t rows, size_t n, const double *x) {
    double mean[DUO_D + DUO_HIDDEN] = {0}, least = INFINITY, most = 0;
    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < rows; i++)
            mean[j] += fabs(x[i * n + j]) / (double)rows;
        least = fmin(least, mean[j]);
        most = fmax(most, mean[j]);
    }
    for (size_t j = 0; j < n; j++) /* 11 evaluations a sample */
        w->magnitude[group][j] += (mean[j] - least + 1e-6) / (most - least + 1e-6) / 11;
}

static void watch_site(void *self, size_t s, size_t rows, size_t m, size_t n, const double *x, double *y) {
    watching *w = self;
    const size_t g = model->arch.sites[s].group;
    const ousac_group *group = &model->arch.groups[g];
    double *then_x = w->x[w->branch][s], *then_y = w->y[w->branch][s];
    if (group->first_site == s) {
        watch(w, group->stream, n, x, then_x, entry(w, OUSAC_SCALAR_X2, g), entry(w, OUSAC_SCALAR_DX2, g));
        watch_magnitude(w, g, rows, n, x);
    }
    watch(w, group->stream, m, y, then_y, entry(w, OUSAC_SCALAR_Y2, s), entry(w, OUSAC_SCALAR_DY2, s));
    if (w->gate == OUSAC_GATE_CACHED && group->first_site == s)
        watch_moment(w, g, group->dim, group->side == OUSAC_SIDE_INPUT ? x : y,
                     group->side == OUSAC_SIDE_INPUT ? then_x : then_y);
    if (w->gate == OUSAC_GATE_FULL) {
        memcpy(then_x, x, rows * n * sizeof *x);
        memcpy(then_y, y, rows * m * sizeof *y);
    }
}

static void watch_output(void *self, size_t module, size_t o, size_t rows, size_t width, double *out) {
    watching *w = self;
    double *then = w->out[w->branch][module][o];
    watch(w, model->arch.modules[module].output[o].stream, width, out, then,
          entry(w, OUSAC_SCALAR_MODULE2, module), entry(w, OUSAC_SCALAR_DMODULE2, module));
    if (w->gate == OUSAC_GATE_FULL)
        memcpy(then, out, rows * width * sizeof *out);
    if (w->gate == OUSAC_GATE_FULL && module + 1 == DUO_MODULES) { /* the evaluation is over */
        for (size_t s = 0; s < 3; s++)
            memcpy(w->chosen[w->branch][s], w->next[s], sizeof w->next[s]);
        w->filled[w->branch] = 1;
    }
}

static ousac_profile *record(size_t tokens, int magnitudes, uint64_t first, uint64_t count) {
    ousac_profile_identity identity = {
        .seed = SEED, .micro_batch = 2, .tokens_used = tokens, .segments = 1, .magnitudes = magnitudes};
    ousac_profile *profile = NULL;
    ousac_recorder *recorder = NULL;
    ousac_error error = {0};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    memcpy(identity.model_constants, model->constants, sizeof identity.model_constants);
    memcpy(identity.model_process, model->process, sizeof identity.model_process);
    memcpy(identity.inputs_digest, ousac_inputs_digest(model->inputs), sizeof identity.inputs_digest);
    must_succeed(ousac_profile_create(&profile, &model->arch, &schedule, &identity, NULL, 1, &error), &error);
    must_succeed(ousac_recorder_create(&recorder, profile, model->backend, 2, 2, &error), &error);
    ousac_run run = run_of(NULL, NULL);
    run.exact = 1;
    run.first = first;
    run.count = count;
    run.observers = ousac_recorder_observers(recorder);
    must_succeed(ousac_run_samples(&run, &error), &error);
    ousac_recorder_free(recorder);
    return profile;
}

static int near(double a, double b, double scale) {
    return fabs(a - b) <= 1e-4 * fabs(b) + 1e-6 * scale;
}

static void profiles_match_the_oracle(void **state) {
    static const size_t tokens[] = {DUO_JOINT, 5, 3}; /* all; all of the text alone; some of each */
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        ousac_profile *profile = record(tokens[t], 1, 0, SAMPLES);
        watching *w = calloc(1, sizeof *w);
        float x[DUO_SIZE];
        assert_non_null(w);
        w->tokens = tokens[t];
        const duo_hooks hooks = {w, watch_begin, NULL, watch_site, watch_output};
        for (w->sample = 0; w->sample < SAMPLES; w->sample++) {
            w->filled[0] = w->filled[1] = 0;
            duo_naive_trajectory(model, &schedule, SEED, w->sample, &hooks, x);
        }
        for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
            const size_t width = ousac_profile_scalar_width(&model->arch, (ousac_scalar)k);
            for (size_t i = 0; i < STEPS * 2 * width; i++)
                if (!near(profile->scalar[k][i], w->scalar[k][i], 1))
                    fail_msg("%s, step %zu, branch %zu, %zu: %g, not %g", ousac_scalar_name((ousac_scalar)k),
                             i / width / 2, i / width % 2, i % width, profile->scalar[k][i], w->scalar[k][i]);
        }
        for (size_t g = 0; g < DUO_GROUPS; g++) {
            const size_t n = model->arch.sites[model->arch.groups[g].first_site].n;
            const size_t at = ousac_profile_magnitude_offset(&model->arch, OUSAC_MAGNITUDE_X, g);
            double trace = 0;
            for (size_t i = 0; i < model->arch.groups[g].dim; i++)
                trace += w->moment[g][i * (i + 1) / 2 + i];
            assert_true(trace > 0);
            for (size_t i = 0; i < ousac_profile_moment_size(&model->arch.groups[g]); i++)
                if (!near(profile->moment[g][i], w->moment[g][i], 100 * trace))
                    fail_msg("moment of %s, %zu: %g, not %g", model->arch.groups[g].name, i,
                             profile->moment[g][i], w->moment[g][i]);
            for (size_t j = 0; j < n; j++)
                assert_true(near(profile->magnitude[OUSAC_MAGNITUDE_X][at + j], w->magnitude[g][j], 10));
        }
        ousac_profile_free(profile);
        free(w);
    }
}

/* --- from profile to bundle --- */

static ousac_plan *plan_of(const ousac_profile *profile, const size_t *rank, ousac_forecast *forecast) {
    size_t copy[DUO_SITES];
    memcpy(copy, rank, sizeof copy);
    const ousac_ranks ranks = {.rank = copy, .dense_fallback = 1};
    const ousac_allocation allocation = {.rank = copy, .cost = ousac_cost_cached(&model->arch, &ranks)};
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    must_succeed(ousac_plan_create(&plan, &model->arch, "default", "uniform", &allocation, &error), &error);
    memcpy(plan->model_digest, profile->identity.model_digest, sizeof plan->model_digest);
    memcpy(plan->model_process, profile->identity.model_process, sizeof plan->model_process);
    plan->forecast = forecast;
    return plan;
}

static ousac_forecast *fit_forecast(const ousac_calibration *calibration) {
    ousac_forecast_fit *fit = NULL;
    ousac_forecast *forecast = NULL;
    ousac_error error = {0};
    must_succeed(ousac_forecast_fit_create(&fit, model, &schedule, calibration, 2, 2, &error), &error);
    ousac_run run = run_of(NULL, NULL);
    run.exact = 1;
    run.observers = ousac_forecast_fit_observers(fit);
    must_succeed(ousac_run_samples(&run, &error), &error);
    must_succeed(ousac_forecast_fit_solve(fit, 0, &forecast, &error), &error);
    ousac_forecast_fit_free(fit);
    return forecast;
}

static void a_bundle_goes_all_the_way(void **state) {
    static float exact[SAMPLES * DUO_SIZE], calibrated[SAMPLES * DUO_SIZE], reused[SAMPLES * DUO_SIZE],
        direct[SAMPLES * DUO_SIZE];
    char profile_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES], note[OUSAC_ERROR_MESSAGE_BYTES];
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    const ousac_factorise_options factors = {.threads = 1};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    ousac_profile *profile = record(DUO_JOINT, 0, 0, 2), *more = record(DUO_JOINT, 0, 2, 4), *loaded = NULL;
    ousac_factor_set *set = NULL;
    ousac_bundle *bundle = NULL;
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    size_t rank[DUO_SITES];
    (void)state;
    must_succeed(ousac_profile_merge(profile, more, &error), &error);
    scratch_join(profile_path, directory.path, "profile.oca");
    scratch_join(bundle_path, directory.path, "bundle.oca");
    must_succeed(ousac_profile_save(profile, profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, profile_path, &error), &error);
    ousac_profile_digest(profile, before);
    ousac_profile_digest(loaded, after);
    assert_string_equal(before, after);
    assert_int_equal(loaded->arch.stream_count, 3);
    assert_int_equal(loaded->arch.constant_count, DUO_DOUBLES);
    assert_int_equal(loaded->arch.modules[0].output_count, 2);
    must_succeed(ousac_factor_set_create(&set, model, loaded, &factors, &error), &error);
    for (size_t s = 0; s < DUO_SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    must_succeed(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                          ousac_factor_set_source, set, NULL, &error),
                 &error);
    ousac_plan *plan = plan_of(loaded, rank, fit_forecast(calibration));
    ousac_calibration_free(calibration);
    const ousac_ranks planned = ousac_plan_ranks(plan);
    must_succeed(ousac_calibration_create(&calibration, model->backend, &model->arch, &planned,
                                          ousac_factor_set_source, set, plan->forecast, &error),
                 &error);
    ousac_run run = run_of(direct, NULL);
    run.calibration = calibration;
    must_succeed(ousac_run_samples(&run, &error), &error);
    ousac_calibration_free(calibration);
    must_succeed(ousac_bundle_save(bundle_path, model, loaded, set, (const ousac_plan *const *)&plan, 1,
                                   &options, &error),
                 &error);
    must_succeed(ousac_bundle_open(&bundle, bundle_path, &error), &error);
    must_succeed(ousac_bundle_verify(bundle, &error), &error);
    must_succeed(ousac_bundle_check_model(bundle, model, note, &error), &error);
    assert_string_equal(note, "");
    must_succeed(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 0), &model->arch, model->backend,
                                          &calibration, &error),
                 &error);
    run = run_of(exact, NULL);
    run.exact = 1;
    must_succeed(ousac_run_samples(&run, &error), &error);
    run = run_of(reused, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    run = run_of(calibrated, NULL);
    run.calibration = calibration;
    must_succeed(ousac_run_samples(&run, &error), &error);
    const double error_reuse = relative(reused, exact, SAMPLES * DUO_SIZE),
                 error_calibrated = relative(calibrated, exact, SAMPLES * DUO_SIZE);
    print_message("reuse %.4f, calibrated %.4f\n", error_reuse, error_calibrated);
    assert_true(error_calibrated < 0.8 * error_reuse);
    assert_memory_equal(calibrated, direct, sizeof direct); /* the file changes nothing */
    /* under other noise levels, or with other heads in another file, it is another model's */
    model->noise.train_steps = 999;
    ousac_model_describe_process(model);
    must_fail(ousac_bundle_check_model(bundle, model, note, &error), OUSAC_STATUS_MISMATCH, &error,
              "flow/999");
    model->noise.train_steps = 1000;
    ousac_model_describe_process(model);
    ousac_calibration_free(calibration);
    ousac_bundle_close(bundle);
    ousac_plan_free(plan);
    ousac_factor_set_free(set);
    ousac_profile_free(loaded);
    ousac_profile_free(more);
    ousac_profile_free(profile);
}

static ousac_status prefer_singles(void *self, const size_t *rank, double *value, ousac_error *error) {
    (void)self, (void)error;
    *value = 1;
    for (size_t s = 0; s < DUO_SITES; s++)
        *value += (s < DUO_DOUBLES * 14 ? 0.01 : 1) / (1 + (double)rank[s]);
    return OUSAC_STATUS_OK;
}

static void searches_take_kinds_for_classes(void **state) {
    double lambda[DUO_SITES][DUO_HIDDEN];
    ousac_curve curves[DUO_SITES];
    size_t start[DUO_SITES];
    ousac_allocation allocation;
    ousac_descent_report report;
    ousac_error error = {0};
    (void)state;
    for (size_t s = 0; s < DUO_SITES; s++) {
        const size_t count =
            model->arch.sites[s].m < model->arch.sites[s].n ? model->arch.sites[s].m : model->arch.sites[s].n;
        start[s] = 2;
        for (size_t i = 0; i < count; i++)
            lambda[s][i] = pow(0.5, (double)i);
        curves[s] = (ousac_curve){.lambda = lambda[s], .count = count, .weight = 1};
    }
    const ousac_ranks ranks = {.rank = start, .dense_fallback = 1};
    const ousac_descent_options options = {.regions = 2,
                                           .granularity = 1,
                                           .curves = curves,
                                           .start = start,
                                           .evaluations_max = 60,
                                           .evaluate = prefer_singles};
    must_succeed(ousac_allocate_descent(&model->arch, ousac_cost_cached(&model->arch, &ranks), &options,
                                        &allocation, &report, &error),
                 &error);
    assert_int_equal(report.classes, 2 * 12); /* 10 kinds of groups of doubles, 2 of singles */
    assert_true(report.best < report.start);
    ousac_allocation_free(&allocation);
}

/* --- memory --- */

static size_t counted; /* bytes */

static void *count_alloc(const ousac_backend *backend, size_t count, size_t size) {
    (void)backend;
    counted += count * size;
    return ousac_backend_cpu()->alloc(ousac_backend_cpu(), count, size);
}

static void plans_of_memory_hold(void **state) {
    ousac_backend counting = *ousac_backend_cpu();
    const ousac_backend *given = model->backend;
    ousac_history history;
    ousac_executor *executor = NULL;
    ousac_recorder *recorder = NULL;
    ousac_calibration *calibration = NULL;
    void *workspace = NULL;
    size_t rank[DUO_SITES];
    ousac_error error = {0};
    (void)state;
    counting.alloc = count_alloc;
    for (size_t tokens = 3; tokens <= DUO_JOINT; tokens++) {
        counted = 0;
        must_succeed(ousac_history_create(&history, &model->arch, &counting, 2, tokens, 2, NULL, &error),
                     &error);
        assert_true(counted == ousac_footprint_history(&model->arch, 2, tokens, 2));
        ousac_history_free(&history);
    }
    for (size_t s = 0; s < DUO_SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    must_succeed(ousac_calibration_create(&calibration, given, &model->arch, &ranks, family_factors,
                                          &model->arch, NULL, &error),
                 &error);
    model->backend = &counting;
    counted = 0;
    must_succeed(ousac_executor_create(
                     &executor, model,
                     &(ousac_executor_options){.calibration = calibration, .batch = 3, .keep = 1}, &error),
                 &error);
    const uint64_t executes = ousac_footprint_executor(model, 3, 1, RANK);
    assert_true(counted <= executes && executes < 2 * counted);
    ousac_executor_free(executor);
    counted = 0;
    must_succeed(model->family->workspace_create(model, 3, &workspace, &error), &error);
    assert_true(counted == model->family->workspace_bytes(model, 3));
    model->family->workspace_free(model, workspace);
    model->backend = given;
    ousac_calibration_free(calibration);
    for (size_t tokens = 3; tokens <= DUO_JOINT; tokens += 7) {
        ousac_profile *profile = record(tokens, 0, 0, 2);
        counted = 0;
        must_succeed(ousac_recorder_create(&recorder, profile, &counting, 1, 2, &error), &error);
        const uint64_t witnesses = ousac_footprint_witness(&model->arch, &schedule, 2, tokens, 1, 0, 0);
        assert_true(counted <= witnesses && witnesses < 2 * counted);
        ousac_recorder_free(recorder);
        ousac_profile_free(profile);
    }
}

/* Rows of the inputs file serve samples by their index, whatever the batch. */
static void samples_take_their_rows(void **state) {
    static float together[SAMPLES * DUO_SIZE], alone[DUO_SIZE];
    ousac_error error = {0};
    (void)state;
    ousac_run run = run_of(together, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        run = run_of(alone, NULL);
        run.first = s;
        run.count = run.micro_batch = 1;
        must_succeed(ousac_run_samples(&run, &error), &error);
        same_but_for_rounding(alone, together + s * DUO_SIZE, DUO_SIZE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_match_the_oracle),           cmocka_unit_test(costs_go_by_stream),
        cmocka_unit_test(profiles_match_the_oracle),       cmocka_unit_test(a_bundle_goes_all_the_way),
        cmocka_unit_test(searches_take_kinds_for_classes), cmocka_unit_test(plans_of_memory_hold),
        cmocka_unit_test(samples_take_their_rows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
