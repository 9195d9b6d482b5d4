/* The FLUX family on a small model with every parameter random, against its oracle: forwards under both namings,
 * runs, caches, costs, profiles, factors, plans, bundles and memory plans, by stream; and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "calib/cost.h"
#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "pipeline/footprint.h"
#include "profile/bundle/bundle.h"
#include "profile/model/flux.h"
#include "profile/record/forecast_fit.h"
#include "profile/record/recorder.h"
#include "profile/run/history.h"
#include "profile/run/runner.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"
#include "tests/support/small_flux.h"
#include "tests/support/strict_backend.h"

enum { SEED = 5, SAMPLES = 5, STEPS = 7, CELLS = FLUX_JOINT * (FLUX_D + FLUX_HIDDEN), RANK = 3 };

static scratch directory;
static char inputs[SCRATCH_PATH_BYTES], weights[SCRATCH_PATH_BYTES], authors[SCRATCH_PATH_BYTES],
    unguided[SCRATCH_PATH_BYTES];
static ousac_model *model;
static naive_flux *oracle;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[STEPS] = {{1000, OUSAC_MODE_COND, 1, GATES(FULL, FULL), 1, 5.5},
                                  {871.5, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL), 1, 0.25},
                                  {700.25, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED), 0, 0},
                                  {512, OUSAC_MODE_CFG, 2.5, GATES(CACHED, FULL), 1, 4},
                                  {300.125, OUSAC_MODE_COND, 1, GATES(REUSE, FULL), 0, 0},
                                  {180, OUSAC_MODE_CFG, 1.5, GATES(CACHED, CACHED), 1, 0},
                                  {90.75, OUSAC_MODE_UNCOND, 1, GATES(FULL, CACHED), 1, 7}};
static const ousac_schedule schedule = {
    .name = "flux", .solver = OUSAC_SOLVER_FLOW_EULER, .step_count = STEPS, .steps = steps};

static int set_up(void **state) {
    ousac_error error = {0};
    (void)state;
    scratch_create(&directory);
    scratch_join(inputs, directory.path, "inputs.safetensors");
    scratch_join(weights, directory.path, "weights.safetensors");
    scratch_join(authors, directory.path, "authors.safetensors");
    scratch_join(unguided, directory.path, "unguided");
    assert_int_equal(mkdir(unguided, 0700), 0);
    scratch_join(unguided, unguided, "weights.safetensors");
    must_succeed(small_flux_write_inputs(inputs, 9, 1, 1, &error), &error);
    must_succeed(small_flux_write(weights, 2, SMALL_FLUX_DIFFUSERS, 1, &error), &error);
    must_succeed(small_flux_write(authors, 2, SMALL_FLUX_AUTHORS, 1, &error), &error);
    must_succeed(small_flux_write(unguided, 2, SMALL_FLUX_DIFFUSERS, 0, &error), &error);
    const ousac_model_options options = {.inputs_path = inputs};
    must_succeed(ousac_model_load(&model, weights, &options, ousac_backend_cpu(), &error), &error);
    must_succeed(naive_flux_open(&oracle, weights, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    naive_flux_close(oracle);
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

/* --- forwards --- */

/* One sample at a fractional timestep, on both branches where there are two; the worst relative error. */
static double forward_error(const char *path, const char *conditions, const char *oracles,
                            const ousac_backend *be) {
    ousac_model *net = NULL;
    ousac_executor *executor = NULL;
    naive_flux *naive = NULL;
    void *workspace = NULL;
    ousac_error error = {0};
    float x[2 * FLUX_SIZE], got[2 * FLUX_SIZE], expected[FLUX_SIZE];
    double state[FLUX_SIZE], flow[FLUX_SIZE], worst = 0;
    const ousac_model_options options = {.inputs_path = conditions};
    must_succeed(ousac_model_load(&net, path, &options, be, &error), &error);
    must_succeed(naive_flux_open(&naive, oracles, &error), &error);
    must_succeed(ousac_executor_create(&executor, net, &(ousac_executor_options){.batch = 2}, &error),
                 &error);
    must_succeed(net->family->workspace_create(net, 2, &workspace, &error), &error);
    must_succeed(net->family->set_inputs(net, workspace, 0, 1, 2, &error), &error);
    ousac_philox_normals(3, 1, 0, 2 * FLUX_SIZE, x);
    float *dx = be->alloc(be, 2 * FLUX_SIZE, sizeof *x), *dy = be->alloc(be, 2 * FLUX_SIZE, sizeof *x);
    must_succeed(be->upload(be, dx, x, sizeof x, &error), &error);
    for (int b = 0; b < 1 + net->has_uncond; b++)
        for (int again = 0; again < 2 + net->takes_guidance;
             again++) { /* the second finds the constant parts ready */
            ousac_gate effective;
            const ousac_step step = {
                .timestep = again ? 987.25 : 3.5, .scale = 2.25, .tells = again == 2, .guidance = 6.5};
            must_succeed(ousac_executor_begin(executor, 0, b, OUSAC_GATE_FULL, 2, NULL, &effective, &error),
                         &error);
            must_succeed(ousac_executor_forward(executor, workspace, dx, &step, dy, &error), &error);
            ousac_executor_end(executor);
            must_succeed(be->download(be, got, dy, sizeof got, &error), &error);
            for (size_t s = 0; s < 2; s++) {
                for (size_t i = 0; i < FLUX_SIZE; i++)
                    state[i] = (double)x[s * FLUX_SIZE + i];
                naive_flux_forward(naive, net->inputs, 1 + s, b, &step, state, NULL, flow);
                for (size_t i = 0; i < FLUX_SIZE; i++)
                    expected[i] = (float)flow[i];
                worst = fmax(worst, relative(got + s * FLUX_SIZE, expected, FLUX_SIZE));
            }
        }
    be->release(be, dx), be->release(be, dy);
    net->family->workspace_free(net, workspace);
    ousac_executor_free(executor);
    naive_flux_close(naive);
    ousac_model_free(net);
    return worst;
}

static void forwards_match_the_oracle(void **state) {
    char plain[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    (void)state;
    scratch_join(plain, directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 0, 0, &error), &error);
    for (int strict = 0; strict < 2; strict++) {
        const ousac_backend *be = strict ? strict_backend() : ousac_backend_cpu();
        const double of[] = {
            forward_error(weights, inputs, weights, be), forward_error(weights, plain, weights, be),
            forward_error(authors, inputs, weights, be), forward_error(unguided, plain, unguided, be)};
        for (size_t i = 0; i < 4; i++) {
            print_message("forward %zu: %.2e\n", i, of[i]);
            assert_true(of[i] < 1e-5);
        }
    }
}

/* The same model under both namings: one digest, one set of weights, whichever way it was loaded. */
static void namings_give_one_model(void **state) {
    static const ousac_model_use uses[] = {OUSAC_MODEL_RUN, OUSAC_MODEL_FACTORS};
    float one[4096], other[4096];
    (void)state;
    for (size_t u = 0; u < 2; u++)
        for (int copies = 0; copies < 2; copies++) {
            const ousac_model_options options = {
                .inputs_path = inputs, .use = uses[u], .copy_weights = copies};
            ousac_model *net = NULL;
            ousac_error error = {0};
            must_succeed(ousac_model_load(&net, authors, &options, ousac_backend_cpu(), &error), &error);
            assert_string_equal(net->digest, model->digest);
            assert_string_equal(net->constants, model->constants);
            for (size_t s = 0; s < FLUX_SITES; s++) {
                const ousac_site *site = &model->arch.sites[s];
                must_succeed(ousac_model_site_weight(net, s, one, &error), &error);
                must_succeed(ousac_model_site_weight(model, s, other, &error), &error);
                assert_memory_equal(one, other, site->m * site->n * sizeof *one);
            }
            ousac_model_free(net);
        }
}

static void must_refuse(const char *path, const char *conditions, const char *config, const char *text) {
    char written[SCRATCH_PATH_BYTES];
    ousac_model *net = NULL;
    ousac_error error = {0};
    ousac_model_options options = {.inputs_path = conditions};
    if (config) {
        scratch_join(written, directory.path, "other.json");
        must_succeed(ousac_file_replace(written, config, strlen(config), &error), &error);
        options.config_path = written;
    }
    const ousac_status status = ousac_model_load(&net, path, &options, ousac_backend_cpu(), &error);
    must_fail(status, status, &error, text);
    assert_int_not_equal(status, OUSAC_STATUS_OK);
}

static void what_does_not_fit_is_refused(void **state) {
#define SIZES "\"axes_dims_rope\": [2, 2, 4], \"sample_height\": 4, \"sample_width\": 6, \"text_tokens\": 4"
    (void)state;
    must_refuse(weights, NULL, NULL, "--inputs");
    must_refuse(unguided, inputs, NULL, "guidance");
    must_refuse(weights, inputs, "{" SIZES ", \"guidance_embeds\": false}", "\"guidance_embeds\" is false");
    must_refuse(weights, inputs, "{" SIZES ", \"num_single_layers\": 3}", "\"num_single_layers\" is 3");
    must_refuse(weights, inputs, "{" SIZES ", \"patch_size\": 2}", "\"patch_size\" is 2");
    must_refuse(weights, inputs, "{" SIZES ", \"_class_name\": \"SD3Transformer2DModel\"}",
                "\"_class_name\"");
    must_refuse(weights, inputs, "{" SIZES ", \"prediction_type\": \"v_prediction\"}", "flow");
    must_refuse(weights, inputs, "{}", "\"axes_dims_rope\"");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [2, 2, 2]}", "makes 6 channels");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [1, 3, 4]}", "even whole numbers");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [4, 4]}", "expected 3 numbers");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [2, 2, 4], \"sample_size\": 5}", "multiples of 2");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [2, 2, 4], \"text_tokens\": 0}",
                "\"text_tokens\" is 0");
    must_refuse(weights, inputs, "{\"axes_dims_rope\": [2, 2, 4], \"text_tokens\": 7}", "prompt_embeds");
#undef SIZES
}

/* Without negative inputs there is no second branch, and no room is kept for one. */
static void the_second_branch_is_the_inputs(void **state) {
    static float samples[SAMPLES * FLUX_SIZE];
    char plain[SCRATCH_PATH_BYTES];
    ousac_model *net = NULL;
    ousac_error error = {0};
    (void)state;
    scratch_join(plain, directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 0, 1, &error), &error);
    const ousac_model_options options = {.inputs_path = plain};
    must_succeed(ousac_model_load(&net, weights, &options, ousac_backend_cpu(), &error), &error);
    assert_int_equal(net->has_uncond, 0);
    assert_int_equal(model->has_uncond, 1);
    assert_true(net->family->workspace_bytes(net, 2) < model->family->workspace_bytes(model, 2));
    ousac_run run = run_of(samples, NULL);
    run.model = net;
    must_fail(ousac_run_samples(&run, &error), OUSAC_STATUS_USAGE, &error, "has no negative_prompt_embeds");
    ousac_model_free(net);
}

/* A step that states guidance needs a model that is told one, and what a bundle was made for. */
static void guidance_by_step_needs_an_embedder(void **state) {
    static float samples[SAMPLES * FLUX_SIZE];
    char plain[SCRATCH_PATH_BYTES];
    ousac_model *net = NULL;
    ousac_error error = {0};
    (void)state;
    scratch_join(plain, directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 1, 0, &error), &error);
    const ousac_model_options options = {.inputs_path = plain};
    must_succeed(ousac_model_load(&net, unguided, &options, ousac_backend_cpu(), &error), &error);
    assert_false(net->takes_guidance);
    assert_true(model->takes_guidance);
    ousac_run run = run_of(samples, NULL);
    run.model = net;
    must_fail(ousac_run_samples(&run, &error), OUSAC_STATUS_USAGE, &error,
              "schedule flux, step 0: guidance 5.5, but ");
    ousac_model_free(net);
}

/* --- the oracle's caches --- */

typedef struct cache {
    int filled; /* full evaluations, at most 2 */
    size_t full_step[2];
    double x[2][FLUX_SITES][CELLS], y[2][FLUX_SITES][CELLS], out[2][FLUX_MODULES][2][FLUX_JOINT * FLUX_D];
} cache;

typedef struct caching {
    const ousac_ranks *ranks; /* NULL: reuse */
    const ousac_schedule *schedule;
    cache branch[2], *now;
    size_t step;
    int gate, at_branch;
} caching;

static float coefficient(size_t step, int branch, size_t group) {
    return 0.3f + 0.1f * (float)((step + (size_t)branch + group) % 5);
}

static ousac_status random_factors(void *self, size_t site, size_t rank, float *a, float *b,
                                   ousac_error *error) {
    const ousac_site *s = &model->arch.sites[site];
    (void)self, (void)error;
    ousac_philox_normals(site, 4000, 0, rank * s->m, a);
    ousac_philox_normals(site, 4001, 0, rank * s->n, b);
    for (size_t i = 0; i < rank * s->m; i++)
        a[i] *= 0.2f;
    return OUSAC_STATUS_OK;
}

static void begin(void *self, size_t step, int branch) {
    caching *c = self;
    c->now = &c->branch[branch];
    c->step = step;
    c->at_branch = branch;
    c->gate = c->now->filled ? (int)c->schedule->steps[step].gate[branch] : OUSAC_GATE_FULL;
    if (c->gate == OUSAC_GATE_FULL) {
        c->now->filled += c->now->filled < 2;
        c->now->full_step[1] = c->now->full_step[0];
        c->now->full_step[0] = step;
    }
}

static int is_skipped(void *self, size_t module) {
    const caching *c = self;
    return c->gate != OUSAC_GATE_FULL && !(c->gate == OUSAC_GATE_CACHED && c->ranks &&
                                           ousac_cost_module_live(&model->arch, module, c->ranks));
}

static void site(void *self, size_t s, size_t rows, size_t m, size_t n, const double *x, double *y) {
    caching *c = self;
    double(*cx)[FLUX_SITES][CELLS] = c->now->x, (*cy)[FLUX_SITES][CELLS] = c->now->y;
    if (c->gate == OUSAC_GATE_FULL) {
        memcpy(cx[1][s], cx[0][s], sizeof cx[0][s]);
        memcpy(cy[1][s], cy[0][s], sizeof cy[0][s]);
        memcpy(cx[0][s], x, rows * n * sizeof *x);
        memcpy(cy[0][s], y, rows * m * sizeof *y);
        return;
    }
    const ousac_path path = ousac_cost_path(&model->arch, s, c->ranks);
    if (path == OUSAC_PATH_DENSE)
        return;
    if (path == OUSAC_PATH_FROZEN) {
        memcpy(y, cy[0][s], rows * m * sizeof *y);
        return;
    }
    const size_t rank = c->ranks->rank[s];
    const double f = c->ranks->forecast && c->now->filled == 2
                         ? (double)coefficient(c->step, c->at_branch, model->arch.sites[s].group)
                         : 0;
    float a[RANK * 64], b[RANK * 64];
    assert_int_equal(random_factors(NULL, s, rank, a, b, NULL), OUSAC_STATUS_OK);
    for (size_t i = 0; i < rows; i++) {
        double z[RANK] = {0};
        for (size_t r = 0; r < rank; r++)
            for (size_t k = 0; k < n; k++)
                z[r] += (double)b[r * n + k] * (x[i * n + k] - cx[0][s][i * n + k] -
                                                f * (cx[0][s][i * n + k] - cx[1][s][i * n + k]));
        for (size_t j = 0; j < m; j++) {
            y[i * m + j] = cy[0][s][i * m + j] + f * (cy[0][s][i * m + j] - cy[1][s][i * m + j]);
            for (size_t r = 0; r < rank; r++)
                y[i * m + j] += z[r] * (double)a[r * m + j];
        }
    }
}

static void output(void *self, size_t module, size_t o, size_t rows, size_t width, double *out) {
    caching *c = self;
    double *last = c->now->out[0][module][o], *before = c->now->out[1][module][o];
    if (c->gate == OUSAC_GATE_FULL) {
        memcpy(before, last, rows * width * sizeof *last);
        memcpy(last, out, rows * width * sizeof *last);
    } else if (is_skipped(c, module)) {
        const size_t *full = c->now->full_step;
        const double s = c->gate == OUSAC_GATE_EXTRAPOLATE && c->now->filled == 2
                             ? (double)(c->step - full[0]) / (double)(full[0] - full[1])
                             : 0;
        for (size_t i = 0; i < rows * width; i++)
            out[i] = last[i] + s * (last[i] - before[i]);
    }
}

/* A run, against the oracle's; `ranks` NULL: reuse. `extrapolate`: what is reused, but not within a cached
 * evaluation. */
static void compare(const char *what, int is_exact, const ousac_ranks *ranks, int extrapolate) {
    static float got[SAMPLES * FLUX_SIZE], expected[FLUX_SIZE];
    ousac_calibration *calibration = NULL;
    ousac_forecast *forecast = NULL;
    ousac_counters counters;
    ousac_cost_total total;
    ousac_error error = {0};
    double worst = 0;
    ousac_schedule gated;
    must_succeed(ousac_schedule_copy(&gated, &schedule, &error), &error);
    if (extrapolate)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_REUSE, OUSAC_GATE_EXTRAPOLATE);
    if (extrapolate && !ranks)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    if (ranks && ranks->forecast) {
        must_succeed(ousac_forecast_create(&forecast, STEPS, FLUX_GROUPS, &error), &error);
        for (size_t i = 0; i < STEPS * 2 * FLUX_GROUPS; i++)
            forecast->coefficient[i] =
                coefficient(i / FLUX_GROUPS / 2, (int)(i / FLUX_GROUPS % 2), i % FLUX_GROUPS);
    }
    if (ranks)
        must_succeed(ousac_calibration_create(&calibration, model->backend, &model->arch, ranks,
                                              random_factors, NULL, forecast, &error),
                     &error);
    ousac_run run = run_of(got, &counters);
    run.exact = is_exact;
    run.calibration = calibration;
    run.schedule = &gated;
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        caching *c = calloc(1, sizeof *c);
        assert_non_null(c);
        c->ranks = ranks;
        c->schedule = &gated;
        const naive_flux_hooks hooks = {c, begin, is_skipped, site, output};
        naive_flux_trajectory(oracle, model->inputs, &gated, SEED, s, is_exact ? NULL : &hooks, expected);
        worst = fmax(worst, relative(got + s * FLUX_SIZE, expected, FLUX_SIZE));
        free(c);
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
    size_t rank[FLUX_SITES];
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    compare("exact", 1, NULL, 0);
    compare("reuse", 0, NULL, 0);
    compare("reuse, extrapolated", 0, NULL, 1);
    for (size_t s = 0; s < FLUX_SITES; s++)
        rank[s] = RANK;
    compare("rank 3", 0, &ranks, 0);
    ranks.forecast = 1;
    compare("rank 3 with forecast", 0, &ranks, 0);
    for (size_t s = 0; s < FLUX_SITES; s++) /* all paths, and modules that are not live */
        rank[s] = s % 5 == 1 ? 0 : s % 5 == 2 ? 99 : 1 + s % RANK;
    rank[6] = rank[7] = 0; /* the first joint attention's second stage */
    rank[10] = 0;          /* an MLP's only first site */
    compare("every path", 0, &ranks, 0);
    compare("every path, extrapolated", 0, &ranks, 1);
}

/* The formulas by hand. */
static void costs_go_by_stream(void **state) {
    enum { D = FLUX_D, H = FLUX_HIDDEN, I = FLUX_IMAGE, T = FLUX_TEXT, J = FLUX_JOINT };
    const uint64_t other = 2 * 12 * D * D + 2 * 3 * D * D,
                   doubles = J * (4 * D * D + 2 * D * H) + 2 * J * J * D,
                   singles = J * (3 * D + H) * D + J * D * (D + H) + 2 * J * J * D;
    const uint64_t full = other + 2 * (doubles + singles);
    ousac_cost_total total;
    ousac_error error = {0};
    size_t rank[FLUX_SITES] = {0};
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    assert_true(ousac_cost_full(&model->arch) == full);
    assert_true(ousac_cost_constant(&model->arch) == 0);
    must_succeed(ousac_cost_trajectory(&model->arch, &schedule, NULL, &total, &error), &error);
    assert_true(total.schedule_full == 11 * full);
    rank[6] = rank[0] = 1; /* of the joint attention the image's side alone, one rank of one site a stage */
    assert_true(ousac_cost_cached(&model->arch, &ranks) == other + 2 * J * J * D + 2 * I * 2 * D);
    rank[6] = 0, rank[7] = 1; /* the second stage on the text's side */
    assert_true(ousac_cost_cached(&model->arch, &ranks) == other + 2 * J * J * D + (I + T) * 2 * D);
    assert_true(ousac_cost_extrapolation(&model->arch) == D * J * (2 * 2 + 2));
    assert_int_equal(ousac_arch_find_site(&model->arch, "transformer_blocks.1.attn.add_v_proj"), 12 + 5);
    assert_int_equal(ousac_arch_find_site(&model->arch, "single_transformer_blocks.1.proj_mlp"), 24 + 5 + 3);
    assert_string_equal(model->arch.groups[FLUX_GROUPS - 2].name, "single_transformer_blocks.1.qkv_mlp");
    assert_string_equal(model->arch.modules[2].name, "transformer_blocks.0.ff_context");
    for (size_t g = 0; g < FLUX_GROUPS; g++) { /* the second linears of the double blocks' MLPs */
        const char *name = model->arch.groups[g].name;
        assert_int_equal(model->arch.groups[g].consumed, strstr(name, ".net.2") != NULL);
    }
}

/* FLUX.1 dev at 256, 512 and 1024 pixels: 5.2, 10.7 and 37.2 TMAC, 57 times what a DiT's block of all tokens takes. */
static void the_public_model_costs_what_it_should(void **state) {
    static const double tera[] = {5.2, 10.7, 37.2};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const size_t edge = (size_t)16 << i;
        const uint64_t d = 3072, tokens = edge * edge + 512;
        const ousac_flux flux = {.d = d,
                                 .hidden = 4 * d,
                                 .heads = 24,
                                 .head_dim = 128,
                                 .doubles = 19,
                                 .singles = 38,
                                 .image = edge * edge,
                                 .text = 512,
                                 .joint = tokens};
        ousac_arch arch = {0};
        ousac_error error = {0};
        must_succeed(ousac_arch_create_flux(&arch, &flux, &error), &error);
        const uint64_t full = ousac_cost_full(&arch);
        assert_true(full ==
                    57 * (12 * tokens * d * d + 2 * tokens * tokens * d) + (12 * 19 + 3 * 38) * d * d);
        assert_true(fabs((double)full / 1e12 - tera[i]) < 0.05);
        assert_int_equal(arch.site_count, 418);
        ousac_arch_free(&arch);
    }
}

/* --- recording --- */

typedef struct watching {
    size_t tokens, step, samples;
    uint64_t sample;
    int gate, branch, filled[2];
    uint32_t chosen[2][3][FLUX_JOINT], next[3][FLUX_JOINT]; /* per stream */
    int all[3];
    double x[2][FLUX_SITES][CELLS], y[2][FLUX_SITES][CELLS], out[2][FLUX_MODULES][2][FLUX_JOINT * FLUX_D];
    double scalar[OUSAC_SCALAR_COUNT][STEPS * 2 * FLUX_SITES];
    double moment[FLUX_GROUPS][64 * 65 / 2];
    double magnitude[FLUX_GROUPS][FLUX_D + FLUX_HIDDEN];
} watching;

static size_t used(const watching *w, size_t stream) {
    const size_t n = model->arch.stream[stream].tokens;
    return w->tokens < n ? w->tokens : n;
}

/* As formats/PROFILE.md says: the first K of a shuffle, streams one behind another in the draws. */
static void choose(watching *w, size_t stream) {
    const size_t n = model->arch.stream[stream].tokens, k = used(w, stream);
    uint32_t order[FLUX_JOINT];
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
    if (w->gate == OUSAC_GATE_FULL && module + 1 == FLUX_MODULES) { /* the evaluation is over */
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
    static const size_t tokens[] = {FLUX_JOINT, 5, 3}; /* all; all of the text alone; some of each */
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        ousac_profile *profile = record(tokens[t], 1, 0, SAMPLES);
        watching *w = calloc(1, sizeof *w);
        float x[FLUX_SIZE];
        assert_non_null(w);
        w->tokens = tokens[t];
        const naive_flux_hooks hooks = {w, watch_begin, NULL, watch_site, watch_output};
        for (w->sample = 0; w->sample < SAMPLES; w->sample++) {
            w->filled[0] = w->filled[1] = 0;
            naive_flux_trajectory(oracle, model->inputs, &schedule, SEED, w->sample, &hooks, x);
        }
        for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
            const size_t width = ousac_profile_scalar_width(&model->arch, (ousac_scalar)k);
            for (size_t i = 0; i < STEPS * 2 * width; i++)
                if (!near(profile->scalar[k][i], w->scalar[k][i], 1))
                    fail_msg("%s, step %zu, branch %zu, %zu: %g, not %g", ousac_scalar_name((ousac_scalar)k),
                             i / width / 2, i / width % 2, i % width, profile->scalar[k][i], w->scalar[k][i]);
        }
        for (size_t g = 0; g < FLUX_GROUPS; g++) {
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
    size_t copy[FLUX_SITES];
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
    static float exact[SAMPLES * FLUX_SIZE], calibrated[SAMPLES * FLUX_SIZE], reused[SAMPLES * FLUX_SIZE],
        direct[SAMPLES * FLUX_SIZE];
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
    scratch_join(profile_path, directory.path, "profile.oca");
    scratch_join(bundle_path, directory.path, "bundle.oca");
    must_succeed(ousac_profile_save(profile, profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, profile_path, &error), &error);
    ousac_profile_digest(profile, before);
    ousac_profile_digest(loaded, after);
    assert_string_equal(before, after);
    assert_int_equal(loaded->arch.stream_count, 3);
    assert_int_equal(loaded->arch.modules[0].output_count, 2);
    must_succeed(ousac_factor_set_create(&set, model, loaded, &factors, &error), &error);
    for (size_t s = 0; s < FLUX_SITES; s++)
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
    const double error_reuse = relative(reused, exact, SAMPLES * FLUX_SIZE),
                 error_calibrated = relative(calibrated, exact, SAMPLES * FLUX_SIZE);
    print_message("reuse %.4f, calibrated %.4f\n", error_reuse, error_calibrated);
    assert_true(error_calibrated < 0.8 * error_reuse);
    assert_memory_equal(calibrated, direct, sizeof direct); /* the file changes nothing */
    assert_int_equal(ousac_bundle_schedule(bundle)->steps[1].tells, 1);
    assert_true(ousac_bundle_schedule(bundle)->steps[1].guidance == 0.25);
    ousac_schedule other = {0};
    must_succeed(ousac_schedule_copy(&other, &schedule, &error), &error);
    other.steps[3].guidance = 4.5;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 3 has guidance 4.5, not 4");
    other.steps[0].tells = 0;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 0 has no guidance, not one");
    ousac_schedule_free(&other);
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
    size_t rank[FLUX_SITES];
    ousac_error error = {0};
    (void)state;
    counting.alloc = count_alloc;
    for (size_t tokens = 3; tokens <= FLUX_JOINT; tokens++) {
        counted = 0;
        must_succeed(ousac_history_create(&history, &model->arch, &counting, 2, tokens, 2, NULL, &error),
                     &error);
        assert_true(counted == ousac_footprint_history(&model->arch, 2, tokens, 2));
        ousac_history_free(&history);
    }
    for (size_t s = 0; s < FLUX_SITES; s++)
        rank[s] = RANK;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    must_succeed(ousac_calibration_create(&calibration, given, &model->arch, &ranks, random_factors, NULL,
                                          NULL, &error),
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
    for (size_t tokens = 3; tokens <= FLUX_JOINT; tokens += 7) {
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
    static float together[SAMPLES * FLUX_SIZE], alone[FLUX_SIZE];
    ousac_error error = {0};
    (void)state;
    ousac_run run = run_of(together, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SAMPLES; s++) {
        run = run_of(alone, NULL);
        run.first = s;
        run.count = run.micro_batch = 1;
        must_succeed(ousac_run_samples(&run, &error), &error);
        same_but_for_rounding(alone, together + s * FLUX_SIZE, FLUX_SIZE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forwards_match_the_oracle),
        cmocka_unit_test(namings_give_one_model),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(the_second_branch_is_the_inputs),
        cmocka_unit_test(guidance_by_step_needs_an_embedder),
        cmocka_unit_test(runs_match_the_oracle),
        cmocka_unit_test(costs_go_by_stream),
        cmocka_unit_test(the_public_model_costs_what_it_should),
        cmocka_unit_test(profiles_match_the_oracle),
        cmocka_unit_test(a_bundle_goes_all_the_way),
        cmocka_unit_test(plans_of_memory_hold),
        cmocka_unit_test(samples_take_their_rows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
