/* The PixArt family against its oracle (tests/support/naive_pixart.h): forwards, every path of cached runs, costs,
 * what a profile records, and the way to a bundle; and what configs and inputs files may say. */
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
#include "formats/memory.h"
#include "pipeline/footprint.h"
#include "profile/bundle/bundle.h"
#include "profile/model/pixart.h"
#include "profile/record/recorder.h"
#include "profile/run/executor.h"
#include "profile/run/runner.h"
#include "tests/support/family_oracle.h"
#include "tests/support/naive_pixart.h"
#include "tests/support/naive_trajectory.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_pixart.h"
#include "tests/support/scratch.h"
#include "tests/support/strict_backend.h"

enum {
    SEED = 5,
    SAMPLES = 4,
    STEPS = 7,
    RANK = 3,
    SIZE = 3 * 6 * 6,
    SITES = 16,
    D = 24,
    HIDDEN = 40,
    N = 9,
    M = 5
};

static scratch directory;
static char model_path[SCRATCH_PATH_BYTES], inputs_path[SCRATCH_PATH_BYTES];
static ousac_model *model;
static naive_pixart naive;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[STEPS] = {
    {999, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},   {870, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL)},
    {700, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},  {512, OUSAC_MODE_CFG, 2.5, GATES(CACHED, FULL)},
    {300, OUSAC_MODE_COND, 1, GATES(REUSE, FULL)},  {180, OUSAC_MODE_CFG, 1.5, GATES(CACHED, CACHED)},
    {90, OUSAC_MODE_UNCOND, 1, GATES(FULL, CACHED)}};
static const ousac_schedule schedule = {
    .name = "pixart", .solver = OUSAC_SOLVER_DDIM, .step_count = STEPS, .steps = steps};

/* Model, oracle and inputs of the options; what was there before is closed. */
static void open_all(const random_pixart_options *options, const ousac_backend *backend) {
    ousac_error error = {0};
    const ousac_model_options given = {.inputs_path = inputs_path};
    ousac_model_free(model);
    naive_pixart_close(&naive);
    model = NULL;
    must_succeed(random_pixart_write(directory.path, options, &error), &error);
    must_succeed(ousac_model_load(&model, model_path, &given, backend, &error), &error);
    must_succeed(naive_pixart_open(&naive, model_path, inputs_path, &error), &error);
    naive.heads = options->heads;
    naive.side = options->sample_size / options->patch;
    naive.rows = model->height / options->patch;
    naive.cols = model->width / options->patch;
    naive.caption_tokens = options->caption_tokens;
    naive.norm_eps = 1e-6;
    naive.interpolation = options->interpolation > 0 ? options->interpolation : 1;
}

static int set_up(void **state) {
    const random_pixart_options options = random_pixart_defaults();
    (void)state;
    scratch_create(&directory);
    scratch_join(model_path, directory.path, "diffusion_pytorch_model.safetensors");
    scratch_join(inputs_path, directory.path, "inputs.safetensors");
    open_all(&options, ousac_backend_cpu());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    naive_pixart_close(&naive);
    scratch_remove(&directory);
    return 0;
}

/* --- forwards --- */

/* The worst relative error of one forward of each sample, in a batch of three, on both branches. */
static double worst_forward(void) {
    enum { COUNT = 3 };
    const size_t size = ousac_model_sample_size(model);
    const ousac_backend *be = model->backend;
    const family_forward forward = naive_pixart_forward(&naive);
    float *x = malloc(COUNT * size * sizeof *x), *out = malloc(COUNT * size * sizeof *out);
    float *device_x = be->alloc(be, COUNT * size, sizeof *x),
          *device_out = be->alloc(be, COUNT * size, sizeof *x);
    double *wide = malloc(size * sizeof *wide), *exact = malloc(size * sizeof *exact), worst = 0;
    float *expected = malloc(size * sizeof *expected);
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    ousac_error error = {0};
    ousac_gate effective;
    assert_true(x && out && wide && exact && expected && device_x && device_out);
    ousac_philox_normals(3, 77, 0, COUNT * size, x);
    must_succeed(be->upload(be, device_x, x, COUNT * size * sizeof *x, &error), &error);
    must_succeed(ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = COUNT}, &error),
                 &error);
    must_succeed(model->family->workspace_create(model, COUNT, &workspace, &error), &error);
    must_succeed(model->family->set_inputs(model, workspace, 0, 1, COUNT, &error), &error);
    for (int t = 0; t < 2; t++) /* the second time keys and values are there */
        for (int b = 0; b < OUSAC_BRANCHES; b++) {
            const ousac_step step = {.timestep = t ? 999 : 37.5};
            must_succeed(
                ousac_executor_begin(executor, 0, b, OUSAC_GATE_FULL, COUNT, NULL, &effective, &error),
                &error);
            must_succeed(ousac_executor_forward(executor, workspace, device_x, &step, device_out, &error),
                         &error);
            ousac_executor_end(executor);
            must_succeed(be->download(be, out, device_out, COUNT * size * sizeof *out, &error), &error);
            for (size_t s = 0; s < COUNT; s++) {
                for (size_t i = 0; i < size; i++)
                    wide[i] = (double)x[s * size + i];
                forward.run(forward.self, 1 + s, b, step.timestep, wide, NULL, exact);
                for (size_t i = 0; i < size; i++)
                    expected[i] = (float)exact[i];
                worst = fmax(worst, naive_relative_error(out + s * size, expected, size));
            }
        }
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    be->release(be, device_x), be->release(be, device_out);
    free(x), free(out), free(wide), free(exact), free(expected);
    return worst;
}

static void forwards_match_the_oracle(void **state) {
    random_pixart_options options = random_pixart_defaults();
    (void)state;
    for (int kind = 0; kind < 7; kind++) {
        options = random_pixart_defaults();
        options.seed = 10 + (uint64_t)kind;
        options.micro = kind < 2;
        options.learn_sigma = kind != 2;
        options.interpolation = kind == 3 ? 2.5 : 0;
        options.width = kind == 4 ? 144 : 24; /* heads of 72 */
        options.caption_tokens = kind == 4 ? 33 : 5;
        options.more = kind == 1   ? "\"interpolation_scale\": null,"
                       : kind == 5 ? "\"sample_height\": 4, \"sample_width\": 10,"
                       : kind == 6 ? "\"sample_height\": 8, \"interpolation_scale\": 2,"
                                   : NULL;
        open_all(&options, kind == 1 || kind == 6 ? strict_backend() : ousac_backend_cpu());
        if (kind == 6)
            naive.interpolation = 2;
        const double worst = worst_forward();
        print_message("model %d: %.2e\n", kind, worst);
        assert_true(worst < 1e-5);
    }
    options = random_pixart_defaults();
    open_all(&options, ousac_backend_cpu());
}

/* --- runs --- */

static ousac_run run_of(float *samples, ousac_counters *counters) {
    return (ousac_run){.model = model,
                       .schedule = &schedule,
                       .seed = SEED,
                       .count = SAMPLES,
                       .micro_batch = 3,
                       .threads = 2,
                       .samples = samples,
                       .counters = counters};
}

/* A run, against the oracle's; `ranks` NULL: reuse. `extrapolate`: what is reused, but not within a cached
 * evaluation. */
static void compare(const char *what, int is_exact, const ousac_ranks *ranks, int extrapolate) {
    static float got[SAMPLES * SIZE], expected[SIZE];
    const family_forward forward = naive_pixart_forward(&naive);
    ousac_calibration *calibration = NULL;
    ousac_forecast *forecast = NULL;
    ousac_counters counters;
    ousac_cost_total total;
    ousac_error error = {0};
    double worst = 0;
    const size_t groups = model->arch.group_count;
    ousac_schedule gated = family_gated(&schedule, ranks, extrapolate);
    if (ranks && ranks->forecast) {
        must_succeed(ousac_forecast_create(&forecast, STEPS, groups, &error), &error);
        for (size_t i = 0; i < STEPS * 2 * groups; i++)
            forecast->coefficient[i] = family_coefficient(i / groups / 2, (int)(i / groups % 2), i % groups);
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
        const family_hooks hooks = family_cache_hooks(cache);
        family_trajectory(&forward, SIZE, &gated, SEED, s, is_exact ? NULL : &hooks, expected);
        worst = fmax(worst, naive_relative_error(got + s * SIZE, expected, SIZE));
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
    size_t rank[SITES];
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    assert_int_equal(model->arch.site_count, SITES);
    compare("exact", 1, NULL, 0);
    compare("reuse", 0, NULL, 0);
    compare("reuse, extrapolated", 0, NULL, 1);
    for (size_t s = 0; s < SITES; s++)
        rank[s] = RANK;
    compare("rank 3", 0, &ranks, 0);
    ranks.forecast = 1;
    compare("rank 3 with forecast", 0, &ranks, 0);
    for (size_t s = 0; s < SITES; s++) /* all paths, and modules that are not live */
        rank[s] = s % 5 == 1 ? 0 : s % 5 == 2 ? 99 : 1 + s % RANK;
    rank[4] = 0;  /* the first block's cross attention */
    rank[15] = 0; /* the second's MLP */
    compare("every path", 0, &ranks, 0);
    compare("every path, extrapolated", 0, &ranks, 1);
}

/* The formulas by hand. */
static void costs_are_those_of_the_papers(void **state) {
    const uint64_t block = 4 * N * D * D + 2 * N * N * D + 2 * N * D * D + 2 * N * M * D + 2 * N * D * HIDDEN,
                   constant = M * (7 * D + D * D) + 2 * M * 2 * D * D;
    size_t rank[SITES] = {0};
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    ousac_error error = {0};
    (void)state;
    for (size_t g = 0; g < model->arch.group_count; g++)
        assert_int_equal(model->arch.groups[g].consumed, strstr(model->arch.groups[g].name, ".fc2") != NULL);
    assert_true(ousac_cost_full(&model->arch) == 6 * D * D + 2 * block);
    assert_true(ousac_cost_constant(&model->arch) == constant);
    rank[4] = rank[5] = 2; /* cross attention of the first block */
    assert_true(ousac_cost_cached(&model->arch, &ranks) == 6 * D * D + 2 * N * M * D + 2 * N * 2 * 2 * D);
    /* PixArt-alpha at 256, 512 and 1024 pixels: keys and values of the captions are in the published figures */
    static const struct {
        size_t tokens;
        double giga;
    } published[] = {{256, 148.3}, {1024, 617.2}, {4096, 3253.8}};
    for (size_t i = 0; i < 3; i++) {
        const ousac_pixart sizes = {.L = 28,
                                    .N = published[i].tokens,
                                    .d = 1152,
                                    .hidden = 4608,
                                    .caption_tokens = 120,
                                    .caption_channels = 4096};
        ousac_arch arch;
        must_succeed(ousac_arch_create_pixart(&arch, &sizes, &error), &error);
        double macs = (double)ousac_cost_full(&arch);
        for (size_t c = 2; c < arch.constant_count; c++)
            macs += 120.0 * (double)arch.constants[c].m * (double)arch.constants[c].n;
        assert_true(fabs(1e-9 * macs - published[i].giga) < 0.05);
        ousac_arch_free(&arch);
    }
}

/* --- recording, and the way to a bundle --- */

static ousac_profile *record(uint64_t first, uint64_t count) {
    ousac_profile_identity identity = {.seed = SEED, .micro_batch = 2, .tokens_used = N, .segments = 1};
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
    run.micro_batch = 2;
    run.exact = 1;
    run.first = first;
    run.count = count;
    run.observers = ousac_recorder_observers(recorder);
    must_succeed(ousac_run_samples(&run, &error), &error);
    ousac_recorder_free(recorder);
    return profile;
}

static void profiles_match_the_oracle(void **state) {
    const family_forward forward = naive_pixart_forward(&naive);
    ousac_profile *profile = record(0, SAMPLES);
    family_watch *watch = family_watch_create(&model->arch, &schedule);
    const family_hooks hooks = family_watch_hooks(watch);
    float x[SIZE];
    (void)state;
    for (uint64_t s = 0; s < SAMPLES; s++) {
        family_watch_sample(watch);
        family_trajectory(&forward, SIZE, &schedule, SEED, s, &hooks, x);
    }
    const double *const sums[OUSAC_SCALAR_COUNT] = {watch->x2,  watch->dx2,     watch->y2,
                                                    watch->dy2, watch->module2, watch->dmodule2};
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
        const size_t width = ousac_profile_scalar_width(&model->arch, (ousac_scalar)k);
        for (size_t i = 0; i < STEPS * 2 * width; i++)
            if (!(fabs(profile->scalar[k][i] - sums[k][i]) <= 1e-4 * sums[k][i] + 1e-4))
                fail_msg("%s, step %zu, branch %zu, %zu: %g, not %g", ousac_scalar_name((ousac_scalar)k),
                         i / width / 2, i / width % 2, i % width, profile->scalar[k][i], sums[k][i]);
    }
    for (size_t g = 0; g < model->arch.group_count; g++) {
        double trace = 0;
        for (size_t i = 0; i < model->arch.groups[g].dim; i++)
            trace += watch->moment[g][i * (i + 3) / 2];
        assert_true(trace > 0);
        for (size_t i = 0; i < ousac_profile_moment_size(&model->arch.groups[g]); i++)
            if (!(fabs(profile->moment[g][i] - watch->moment[g][i]) <= 1e-5 * trace))
                fail_msg("moment of %s, %zu: %g, not %g", model->arch.groups[g].name, i,
                         profile->moment[g][i], watch->moment[g][i]);
    }
    ousac_profile_free(profile);
    family_watch_free(watch);
}

static void a_bundle_goes_all_the_way(void **state) {
    static float exact[SAMPLES * SIZE], calibrated[SAMPLES * SIZE], reused[SAMPLES * SIZE],
        direct[SAMPLES * SIZE];
    char profile_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES], note[OUSAC_ERROR_MESSAGE_BYTES];
    const ousac_factorise_options factors = {.threads = 1};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    ousac_profile *profile = record(0, 2), *more = record(2, 2), *loaded = NULL;
    ousac_factor_set *set = NULL;
    ousac_bundle *bundle = NULL;
    ousac_calibration *calibration = NULL;
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    size_t rank[SITES];
    (void)state;
    must_succeed(ousac_profile_merge(profile, more, &error), &error);
    scratch_join(profile_path, directory.path, "profile.oca");
    scratch_join(bundle_path, directory.path, "bundle.oca");
    must_succeed(ousac_profile_save(profile, profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, profile_path, &error), &error);
    assert_int_equal(loaded->arch.constant_count, 4);
    must_succeed(ousac_factor_set_create(&set, model, loaded, &factors, &error), &error);
    for (size_t s = 0; s < SITES; s++)
        rank[s] = 8;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    const ousac_allocation allocation = {.rank = rank, .cost = ousac_cost_cached(&model->arch, &ranks)};
    must_succeed(ousac_plan_create(&plan, &model->arch, "default", "uniform", &allocation, &error), &error);
    memcpy(plan->model_digest, loaded->identity.model_digest, sizeof plan->model_digest);
    memcpy(plan->model_process, loaded->identity.model_process, sizeof plan->model_process);
    must_succeed(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                          ousac_factor_set_source, set, NULL, &error),
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
    const double error_reuse = naive_relative_error(reused, exact, SAMPLES * SIZE),
                 error_calibrated = naive_relative_error(calibrated, exact, SAMPLES * SIZE);
    print_message("reuse %.4f, calibrated %.4f\n", error_reuse, error_calibrated);
    assert_true(error_calibrated < 0.8 * error_reuse);
    assert_memory_equal(calibrated, direct, sizeof direct); /* the file changes nothing */
    ousac_calibration_free(calibration);
    ousac_bundle_close(bundle);
    ousac_plan_free(plan);
    ousac_factor_set_free(set);
    ousac_profile_free(loaded);
    ousac_profile_free(more);
    ousac_profile_free(profile);
}

/* --- memory, samples --- */

static size_t counted; /* bytes */

static void *count_alloc(const ousac_backend *backend, size_t count, size_t size) {
    (void)backend;
    counted += count * size;
    return ousac_backend_cpu()->alloc(ousac_backend_cpu(), count, size);
}

static void workspaces_are_as_large_as_stated(void **state) {
    ousac_backend counting = *ousac_backend_cpu();
    const ousac_backend *given = model->backend;
    void *workspace = NULL;
    ousac_error error = {0};
    (void)state;
    counting.alloc = count_alloc;
    model->backend = &counting;
    for (size_t batch = 1; batch < 4; batch++) {
        counted = 0;
        must_succeed(model->family->workspace_create(model, batch, &workspace, &error), &error);
        assert_true(counted == model->family->workspace_bytes(model, batch));
        model->family->workspace_free(model, workspace);
    }
    model->backend = given;
}

static void samples_take_their_rows(void **state) {
    static float together[SAMPLES * SIZE], alone[SIZE];
    ousac_error error = {0};
    (void)state;
    ousac_run run = run_of(together, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        run = run_of(alone, NULL);
        run.first = s;
        run.count = run.micro_batch = 1;
        must_succeed(ousac_run_samples(&run, &error), &error);
        same_but_for_rounding(alone, together + s * SIZE, SIZE);
    }
}

/* --- what files may say --- */

static void load_must_fail(const char *more, int with_inputs, ousac_status expected, const char *text) {
    random_pixart_options options = random_pixart_defaults();
    const ousac_model_options given = {.inputs_path = with_inputs ? inputs_path : NULL};
    ousac_model *loaded = NULL;
    ousac_error error = {0};
    options.more = more;
    must_succeed(random_pixart_write(directory.path, &options, &error), &error);
    must_fail(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), expected, &error,
              text);
    assert_null(strchr(error.message, '\n'));
}

static void other_models_are_refused_by_name(void **state) {
    static const struct {
        const char *more;
        ousac_status status;
        const char *text;
    } cases[] = {
        {"\"activation_fn\": \"geglu\",", OUSAC_STATUS_UNSUPPORTED, "activation_fn"},
        {"\"attention_bias\": false,", OUSAC_STATUS_UNSUPPORTED, "attention_bias"},
        {"\"attention_type\": \"gated\",", OUSAC_STATUS_UNSUPPORTED, "attention_type"},
        {"\"norm_elementwise_affine\": true,", OUSAC_STATUS_UNSUPPORTED, "norm_elementwise_affine"},
        {"\"only_cross_attention\": true,", OUSAC_STATUS_UNSUPPORTED, "only_cross_attention"},
        {"\"num_vector_embeds\": 8,", OUSAC_STATUS_UNSUPPORTED, "num_vector_embeds"},
        {"\"num_layers\": 3,", OUSAC_STATUS_FORMAT, "num_layers"},
        {"\"out_channels\": 3,", OUSAC_STATUS_FORMAT, "out_channels"},
        {"\"cross_attention_dim\": 25,", OUSAC_STATUS_FORMAT, "cross_attention_dim"},
        {"\"caption_channels\": 8,", OUSAC_STATUS_FORMAT, "caption_channels"},
        {"\"norm_eps\": -1,", OUSAC_STATUS_FORMAT, "norm_eps"},
        {"\"interpolation_scale\": 0,", OUSAC_STATUS_FORMAT, "interpolation_scale"},
        {"\"prediction_type\": \"flow\",", OUSAC_STATUS_UNSUPPORTED, "flow"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        load_must_fail(cases[i].more, 1, cases[i].status, cases[i].text);
    load_must_fail(NULL, 0, OUSAC_STATUS_USAGE, "prompt_embeds");
}

static void inputs_must_fit(void **state) {
    const ousac_model_options given = {.inputs_path = inputs_path};
    random_pixart_options options = random_pixart_defaults();
    char other[SCRATCH_PATH_BYTES];
    ousac_model *loaded = NULL;
    ousac_error error = {0};
    FILE *config = NULL;
    (void)state;
    /* a caption of another length */
    must_succeed(random_pixart_write(directory.path, &options, &error), &error);
    scratch_join(other, directory.path, "config.json");
    assert_non_null(config = fopen(other, "w"));
    (void)fputs("{\"num_attention_heads\": 2, \"sample_size\": 6, \"use_additional_conditions\": true}",
                config);
    (void)fclose(config);
    must_fail(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), OUSAC_STATUS_FORMAT,
              &error, "caption_tokens");
    assert_non_null(strstr(error.message, "the model has 120"));
    /* the config and the tensors must agree on what it is told */
    assert_non_null(config = fopen(other, "w"));
    (void)fputs("{\"num_attention_heads\": 2, \"sample_size\": 6, \"caption_tokens\": 5}", config);
    (void)fclose(config);
    must_fail(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), OUSAC_STATUS_FORMAT,
              &error, "use_additional_conditions");
    assert_non_null(config = fopen(other, "w"));
    (void)fputs("{\"num_attention_heads\": 2, \"use_additional_conditions\": true}", config);
    (void)fclose(config);
    must_fail(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), OUSAC_STATUS_FORMAT,
              &error, "sample_size");
    /* samples that are not of whole patches */
    assert_non_null(config = fopen(other, "w"));
    (void)fputs("{\"num_attention_heads\": 2, \"sample_size\": 6, \"sample_width\": 5}", config);
    (void)fclose(config);
    must_fail(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), OUSAC_STATUS_FORMAT,
              &error, "a sample of 6 x 5");
    /* sizes that the model is not told */
    options.micro = 0;
    must_succeed(random_pixart_write(directory.path, &options, &error), &error);
    must_succeed(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), &error);
    assert_true(loaded->has_uncond);
    ousac_model_free(loaded);
    /* an unconditional branch needs its captions */
    options = random_pixart_defaults();
    options.negative = 0;
    must_succeed(random_pixart_write(directory.path, &options, &error), &error);
    must_succeed(ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error), &error);
    assert_false(loaded->has_uncond);
    must_fail(ousac_run_check_schedule(loaded, &schedule, &error), OUSAC_STATUS_USAGE, &error,
              "negative_prompt_embeds");
    ousac_model_free(loaded);
}

/* The n-th allocation fails, for every n: an error, and nothing is lost. */
static void memory_may_be_short_anywhere(void **state) {
    const random_pixart_options options = random_pixart_defaults();
    const ousac_model_options given = {.inputs_path = inputs_path};
    ousac_error error = {0};
    size_t failures = 0;
    int done = 0;
    (void)state;
    must_succeed(random_pixart_write(directory.path, &options, &error), &error);
    for (long allowed = 0; !done; allowed++) {
        ousac_model *loaded = NULL;
        void *workspace = NULL;
        (void)ousac_memory_fail_after(allowed);
        ousac_status status = ousac_model_load(&loaded, model_path, &given, ousac_backend_cpu(), &error);
        if (!status)
            status = loaded->family->workspace_create(loaded, 2, &workspace, &error);
        (void)ousac_memory_fail_after(-1);
        done = !status;
        failures += !done;
        assert_true(!status || status == OUSAC_STATUS_MEMORY);
        if (loaded)
            loaded->family->workspace_free(loaded, workspace);
        ousac_model_free(loaded);
    }
    assert_true(failures > 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forwards_match_the_oracle),
        cmocka_unit_test(runs_match_the_oracle),
        cmocka_unit_test(costs_are_those_of_the_papers),
        cmocka_unit_test(profiles_match_the_oracle),
        cmocka_unit_test(a_bundle_goes_all_the_way),
        cmocka_unit_test(workspaces_are_as_large_as_stated),
        cmocka_unit_test(samples_take_their_rows),
        cmocka_unit_test(other_models_are_refused_by_name),
        cmocka_unit_test(inputs_must_fit),
        cmocka_unit_test(memory_may_be_short_anywhere),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
