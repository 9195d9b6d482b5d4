/* Profiles, factors, plans, bundles and memory plans of a small FLUX, by stream, against its oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/cost.h"
#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "pipeline/footprint.h"
#include "profile/bundle/bundle.h"
#include "profile/record/forecast_fit.h"
#include "profile/record/recorder.h"
#include "profile/run/history.h"
#include "tests/support/family_oracle.h"
#include "tests/support/flux_session.h"
#include "tests/support/profile_support.h"

enum { CELLS = FLUX_JOINT * (FLUX_D + FLUX_HIDDEN), RANK = 3 };

/* --- recording --- */

typedef struct watching {
    size_t tokens, step, samples;
    uint64_t sample;
    int gate, branch, filled[2];
    uint32_t chosen[2][3][FLUX_JOINT], next[3][FLUX_JOINT]; /* per stream */
    int all[3];
    double x[2][FLUX_SITES][CELLS], y[2][FLUX_SITES][CELLS], out[2][FLUX_MODULES][2][FLUX_JOINT * FLUX_D];
    double scalar[OUSAC_SCALAR_COUNT][FLUX_STEPS * 2 * FLUX_SITES];
    double moment[FLUX_GROUPS][64 * 65 / 2];
    double magnitude[FLUX_GROUPS][FLUX_D + FLUX_HIDDEN];
} watching;

static size_t used(const watching *w, size_t stream) {
    const size_t n = flux.model->arch.stream[stream].tokens;
    return w->tokens < n ? w->tokens : n;
}

/* As formats/PROFILE.md says: the first K of a shuffle, streams one behind another in the draws. */
static void choose(watching *w, size_t stream) {
    const size_t n = flux.model->arch.stream[stream].tokens, k = used(w, stream);
    uint32_t order[FLUX_JOINT];
    size_t before = 0;
    for (size_t s = 0; s < stream; s++)
        before += FLUX_STEPS * flux.model->arch.stream[s].tokens;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; i < k; i++) {
        const size_t j =
            i + ousac_philox_below(FLUX_SEED, OUSAC_STREAM_TOKENS, w->sample,
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
    w->gate = w->filled[branch] ? (int)flux_steps[step].gate[branch] : OUSAC_GATE_FULL;
    for (size_t s = 0; s < 3; s++) {
        if (w->gate == OUSAC_GATE_FULL)
            choose(w, s);
        if (!w->filled[branch]) /* seen at those drawn now */
            memcpy(w->chosen[branch][s], w->next[s], sizeof w->next[s]);
    }
}

static double *entry(watching *w, ousac_scalar scalar, size_t index) {
    return &w->scalar[scalar][(w->step * 2 + (size_t)w->branch) *
                                  ousac_profile_scalar_width(&flux.model->arch, scalar) +
                              index];
}

/* Sums over the rows seen, times the share. */
static void watch(watching *w, size_t stream, size_t cols, const double *now, const double *then,
                  double *square, double *change) {
    const double share = (double)flux.model->arch.stream[stream].tokens / (double)used(w, stream);
    for (size_t i = 0; i < used(w, stream); i++)
        for (size_t j = 0; j < cols; j++) {
            const size_t at = w->chosen[w->branch][stream][i] * cols + j;
            *square += share * now[at] * now[at];
            if (w->filled[w->branch])
                *change += share * (now[at] - then[at]) * (now[at] - then[at]);
        }
}

static void watch_moment(watching *w, size_t group, size_t dim, const double *now, const double *then) {
    const size_t stream = flux.model->arch.groups[group].stream;
    const double share = (double)flux.model->arch.stream[stream].tokens / (double)used(w, stream);
    for (size_t r = 0; r < used(w, stream); r++) {
        const size_t row = w->chosen[w->branch][stream][r] * dim;
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j <= i; j++)
                w->moment[group][i * (i + 1) / 2 + j] +=
                    share * (now[row + i] - then[row + i]) * (now[row + j] - then[row + j]);
    }
}

static void watch_magnitude(watching *w, size_t group, size_t rows, size_t n, const double *x) {
    double mean[FLUX_D + FLUX_HIDDEN] = {0}, least = INFINITY, most = 0;
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
    const size_t g = flux.model->arch.sites[s].group;
    const ousac_group *group = &flux.model->arch.groups[g];
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
    watch(w, flux.model->arch.modules[module].output[o].stream, width, out, then,
          entry(w, OUSAC_SCALAR_MODULE2, module), entry(w, OUSAC_SCALAR_DMODULE2, module));
    if (w->gate == OUSAC_GATE_FULL)
        memcpy(then, out, rows * width * sizeof *out);
    if (w->gate == OUSAC_GATE_FULL && module + 1 == FLUX_MODULES) { /* the evaluation is over */
        for (size_t s = 0; s < 3; s++)
            memcpy(w->chosen[w->branch][s], w->next[s], sizeof w->next[s]);
        w->filled[w->branch] = 1;
    }
}

static ousac_profile *record(size_t tokens, int magnitudes, uint64_t first, uint64_t count) {
    ousac_profile_identity identity = {
        .seed = FLUX_SEED, .micro_batch = 2, .tokens_used = tokens, .segments = 1, .magnitudes = magnitudes};
    ousac_profile *profile = NULL;
    ousac_recorder *recorder = NULL;
    ousac_error error = {0};
    memcpy(identity.model_digest, flux.model->digest, sizeof identity.model_digest);
    memcpy(identity.model_constants, flux.model->constants, sizeof identity.model_constants);
    memcpy(identity.model_process, flux.model->process, sizeof identity.model_process);
    memcpy(identity.inputs_digest, ousac_inputs_digest(flux.model->inputs), sizeof identity.inputs_digest);
    must_succeed(
        ousac_profile_create(&profile, &flux.model->arch, &flux_schedule, &identity, NULL, 1, &error),
        &error);
    must_succeed(ousac_recorder_create(&recorder, profile, flux.model->backend, 2, 2, &error), &error);
    ousac_run run = flux_run_of(NULL, NULL);
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
    static const size_t tokens[] = {FLUX_JOINT, 5, 3}; /* all; all of the text alone; some of each */
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        ousac_profile *profile = record(tokens[t], 1, 0, FLUX_SAMPLES);
        watching *w = calloc(1, sizeof *w);
        float x[FLUX_SIZE];
        assert_non_null(w);
        w->tokens = tokens[t];
        const naive_flux_hooks hooks = {w, watch_begin, NULL, watch_site, watch_output};
        for (w->sample = 0; w->sample < FLUX_SAMPLES; w->sample++) {
            w->filled[0] = w->filled[1] = 0;
            naive_flux_trajectory(flux.oracle, flux.model->inputs, &flux_schedule, FLUX_SEED, w->sample,
                                  &hooks, x);
        }
        for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
            const size_t width = ousac_profile_scalar_width(&flux.model->arch, (ousac_scalar)k);
            for (size_t i = 0; i < FLUX_STEPS * 2 * width; i++)
                if (!near(profile->scalar[k][i], w->scalar[k][i], 1))
                    fail_msg("%s, step %zu, branch %zu, %zu: %g, not %g", ousac_scalar_name((ousac_scalar)k),
                             i / width / 2, i / width % 2, i % width, profile->scalar[k][i], w->scalar[k][i]);
        }
        for (size_t g = 0; g < FLUX_GROUPS; g++) {
            const size_t n = flux.model->arch.sites[flux.model->arch.groups[g].first_site].n;
            const size_t at = ousac_profile_magnitude_offset(&flux.model->arch, OUSAC_MAGNITUDE_X, g);
            double trace = 0;
            for (size_t i = 0; i < flux.model->arch.groups[g].dim; i++)
                trace += w->moment[g][i * (i + 1) / 2 + i];
            assert_true(trace > 0);
            for (size_t i = 0; i < ousac_profile_moment_size(&flux.model->arch.groups[g]); i++)
                if (!near(profile->moment[g][i], w->moment[g][i], 100 * trace))
                    fail_msg("moment of %s, %zu: %g, not %g", flux.model->arch.groups[g].name, i,
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
    size_t copy[FLUX_SITES];
    memcpy(copy, rank, sizeof copy);
    const ousac_ranks ranks = {.rank = copy, .dense_fallback = 1};
    const ousac_allocation allocation = {.rank = copy, .cost = ousac_cost_cached(&flux.model->arch, &ranks)};
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    must_succeed(ousac_plan_create(&plan, &flux.model->arch, "default", "uniform", &allocation, &error),
                 &error);
    memcpy(plan->model_digest, profile->identity.model_digest, sizeof plan->model_digest);
    memcpy(plan->model_process, profile->identity.model_process, sizeof plan->model_process);
    plan->forecast = forecast;
    return plan;
}

static ousac_forecast *fit_forecast(const ousac_calibration *calibration) {
    ousac_forecast_fit *fit = NULL;
    ousac_forecast *forecast = NULL;
    ousac_error error = {0};
    must_succeed(ousac_forecast_fit_create(&fit, flux.model, &flux_schedule, calibration, 2, 2, &error),
                 &error);
    ousac_run run = flux_run_of(NULL, NULL);
    run.exact = 1;
    run.observers = ousac_forecast_fit_observers(fit);
    must_succeed(ousac_run_samples(&run, &error), &error);
    must_succeed(ousac_forecast_fit_solve(fit, 0, &forecast, &error), &error);
    ousac_forecast_fit_free(fit);
    return forecast;
}

static void a_bundle_goes_all_the_way(void **state) {
    static float exact[FLUX_SAMPLES * FLUX_SIZE], calibrated[FLUX_SAMPLES * FLUX_SIZE],
        reused[FLUX_SAMPLES * FLUX_SIZE], direct[FLUX_SAMPLES * FLUX_SIZE];
    char profile_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES], note[OUSAC_ERROR_MESSAGE_BYTES];
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    const ousac_factorise_options factors = {.threads = 1};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    ousac_profile *profile = record(FLUX_JOINT, 0, 0, 2), *more = record(FLUX_JOINT, 0, 2, 4), *loaded = NULL;
    ousac_factor_set *set = NULL;
    ousac_bundle *bundle = NULL;
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    size_t rank[FLUX_SITES];
    (void)state;
    must_succeed(ousac_profile_merge(profile, more, &error), &error);
    scratch_join(profile_path, flux.directory.path, "profile.oca");
    scratch_join(bundle_path, flux.directory.path, "bundle.oca");
    must_succeed(ousac_profile_save(profile, profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, profile_path, &error), &error);
    ousac_profile_digest(profile, before);
    ousac_profile_digest(loaded, after);
    assert_string_equal(before, after);
    assert_int_equal(loaded->arch.stream_count, 3);
    assert_int_equal(loaded->arch.modules[0].output_count, 2);
    must_succeed(ousac_factor_set_create(&set, flux.model, loaded, &factors, &error), &error);
    for (size_t s = 0; s < FLUX_SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    must_succeed(ousac_calibration_create(&calibration, flux.model->backend, &flux.model->arch, &ranks,
                                          ousac_factor_set_source, set, NULL, &error),
                 &error);
    ousac_plan *plan = plan_of(loaded, rank, fit_forecast(calibration));
    ousac_calibration_free(calibration);
    const ousac_ranks planned = ousac_plan_ranks(plan);
    must_succeed(ousac_calibration_create(&calibration, flux.model->backend, &flux.model->arch, &planned,
                                          ousac_factor_set_source, set, plan->forecast, &error),
                 &error);
    ousac_run run = flux_run_of(direct, NULL);
    run.calibration = calibration;
    must_succeed(ousac_run_samples(&run, &error), &error);
    ousac_calibration_free(calibration);
    must_succeed(ousac_bundle_save(bundle_path, flux.model, loaded, set, (const ousac_plan *const *)&plan, 1,
                                   &options, &error),
                 &error);
    must_succeed(ousac_bundle_open(&bundle, bundle_path, &error), &error);
    must_succeed(ousac_bundle_verify(bundle, &error), &error);
    must_succeed(ousac_bundle_check_model(bundle, flux.model, note, &error), &error);
    assert_string_equal(note, "");
    must_succeed(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 0), &flux.model->arch,
                                          flux.model->backend, &calibration, &error),
                 &error);
    run = flux_run_of(exact, NULL);
    run.exact = 1;
    must_succeed(ousac_run_samples(&run, &error), &error);
    run = flux_run_of(reused, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    run = flux_run_of(calibrated, NULL);
    run.calibration = calibration;
    must_succeed(ousac_run_samples(&run, &error), &error);
    const double error_reuse = flux_relative(reused, exact, FLUX_SAMPLES * FLUX_SIZE),
                 error_calibrated = flux_relative(calibrated, exact, FLUX_SAMPLES * FLUX_SIZE);
    print_message("reuse %.4f, calibrated %.4f\n", error_reuse, error_calibrated);
    assert_true(error_calibrated < 0.8 * error_reuse);
    assert_memory_equal(calibrated, direct, sizeof direct); /* the file changes nothing */
    assert_int_equal(ousac_bundle_schedule(bundle)->steps[1].tells, 1);
    assert_true(ousac_bundle_schedule(bundle)->steps[1].guidance == 0.25);
    ousac_schedule other = {0};
    must_succeed(ousac_schedule_copy(&other, &flux_schedule, &error), &error);
    other.steps[3].guidance = 4.5;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 3 has guidance 4.5, not 4");
    other.steps[0].tells = 0;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 0 has no guidance, not one");
    ousac_schedule_free(&other);
    /* under other noise levels, or with other heads in another file, it is another model's */
    flux.model->noise.train_steps = 999;
    ousac_model_describe_process(flux.model);
    must_fail(ousac_bundle_check_model(bundle, flux.model, note, &error), OUSAC_STATUS_MISMATCH, &error,
              "flow/999");
    flux.model->noise.train_steps = 1000;
    ousac_model_describe_process(flux.model);
    ousac_calibration_free(calibration);
    ousac_bundle_close(bundle);
    ousac_plan_free(plan);
    ousac_factor_set_free(set);
    ousac_profile_free(loaded);
    ousac_profile_free(more);
    ousac_profile_free(profile);
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
    const ousac_backend *given = flux.model->backend;
    ousac_history history;
    ousac_executor *executor = NULL;
    ousac_recorder *recorder = NULL;
    ousac_calibration *calibration = NULL;
    void *workspace = NULL;
    size_t rank[FLUX_SITES];
    ousac_error error = {0};
    (void)state;
    counting.alloc = count_alloc;
    for (size_t tokens = 3; tokens <= FLUX_JOINT; tokens++) {
        counted = 0;
        must_succeed(ousac_history_create(&history, &flux.model->arch, &counting, 2, tokens, 2, NULL, &error),
                     &error);
        assert_true(counted == ousac_footprint_history(&flux.model->arch, 2, tokens, 2));
        ousac_history_free(&history);
    }
    for (size_t s = 0; s < FLUX_SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    must_succeed(ousac_calibration_create(&calibration, given, &flux.model->arch, &ranks, family_factors,
                                          &flux.model->arch, NULL, &error),
                 &error);
    flux.model->backend = &counting;
    counted = 0;
    must_succeed(ousac_executor_create(
                     &executor, flux.model,
                     &(ousac_executor_options){.calibration = calibration, .batch = 3, .keep = 1}, &error),
                 &error);
    const uint64_t executes = ousac_footprint_executor(flux.model, 3, 1, RANK);
    assert_true(counted <= executes && executes < 2 * counted);
    ousac_executor_free(executor);
    counted = 0;
    must_succeed(flux.model->family->workspace_create(flux.model, 3, &workspace, &error), &error);
    assert_true(counted == flux.model->family->workspace_bytes(flux.model, 3));
    flux.model->family->workspace_free(flux.model, workspace);
    flux.model->backend = given;
    ousac_calibration_free(calibration);
    for (size_t tokens = 3; tokens <= FLUX_JOINT; tokens += 7) {
        ousac_profile *profile = record(tokens, 0, 0, 2);
        counted = 0;
        must_succeed(ousac_recorder_create(&recorder, profile, &counting, 1, 2, &error), &error);
        const uint64_t witnesses =
            ousac_footprint_witness(&flux.model->arch, &flux_schedule, 2, tokens, 1, 0, 0);
        assert_true(counted <= witnesses && witnesses < 2 * counted);
        ousac_recorder_free(recorder);
        ousac_profile_free(profile);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profiles_match_the_oracle),
        cmocka_unit_test(a_bundle_goes_all_the_way),
        cmocka_unit_test(plans_of_memory_hold),
    };
    return cmocka_run_group_tests(tests, flux_session_open, flux_session_close);
}
