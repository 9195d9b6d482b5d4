/* The FLUX family on a small model with every parameter random, against its oracle: forwards under both namings, which
 * inputs serve a sample, and what is refused. */
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

#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/model/flux.h"
#include "tests/support/flux_session.h"
#include "tests/support/profile_support.h"
#include "tests/support/strict_backend.h"

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
                worst = fmax(worst, flux_relative(got + s * FLUX_SIZE, expected, FLUX_SIZE));
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
    scratch_join(plain, flux.directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 0, 0, &error), &error);
    for (int strict = 0; strict < 2; strict++) {
        const ousac_backend *be = strict ? strict_backend() : ousac_backend_cpu();
        const double of[] = {forward_error(flux.weights, flux.inputs, flux.weights, be),
                             forward_error(flux.weights, plain, flux.weights, be),
                             forward_error(flux.authors, flux.inputs, flux.weights, be),
                             forward_error(flux.unguided, plain, flux.unguided, be)};
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
                .inputs_path = flux.inputs, .use = uses[u], .copy_weights = copies};
            ousac_model *net = NULL;
            ousac_error error = {0};
            must_succeed(ousac_model_load(&net, flux.authors, &options, ousac_backend_cpu(), &error), &error);
            assert_string_equal(net->digest, flux.model->digest);
            assert_string_equal(net->constants, flux.model->constants);
            for (size_t s = 0; s < FLUX_SITES; s++) {
                const ousac_site *site = &flux.model->arch.sites[s];
                must_succeed(ousac_model_site_weight(net, s, one, &error), &error);
                must_succeed(ousac_model_site_weight(flux.model, s, other, &error), &error);
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
        scratch_join(written, flux.directory.path, "other.json");
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
    must_refuse(flux.weights, NULL, NULL, "--inputs");
    must_refuse(flux.unguided, flux.inputs, NULL, "guidance");
    must_refuse(flux.weights, flux.inputs, "{" SIZES ", \"guidance_embeds\": false}",
                "\"guidance_embeds\" is false");
    must_refuse(flux.weights, flux.inputs, "{" SIZES ", \"num_single_layers\": 3}",
                "\"num_single_layers\" is 3");
    must_refuse(flux.weights, flux.inputs, "{" SIZES ", \"patch_size\": 2}", "\"patch_size\" is 2");
    must_refuse(flux.weights, flux.inputs, "{" SIZES ", \"_class_name\": \"SD3Transformer2DModel\"}",
                "\"_class_name\"");
    must_refuse(flux.weights, flux.inputs, "{" SIZES ", \"prediction_type\": \"v_prediction\"}", "flow");
    must_refuse(flux.weights, flux.inputs, "{}", "\"axes_dims_rope\"");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [2, 2, 2]}", "makes 6 channels");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [1, 3, 4]}", "even whole numbers");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [4, 4]}", "expected 3 numbers");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [2, 2, 4], \"sample_size\": 5}",
                "multiples of 2");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [2, 2, 4], \"text_tokens\": 0}",
                "\"text_tokens\" is 0");
    must_refuse(flux.weights, flux.inputs, "{\"axes_dims_rope\": [2, 2, 4], \"text_tokens\": 7}",
                "prompt_embeds");
#undef SIZES
}

/* Without negative inputs there is no second branch, and no room is kept for one. */
static void the_second_branch_is_the_inputs(void **state) {
    static float samples[FLUX_SAMPLES * FLUX_SIZE];
    char plain[SCRATCH_PATH_BYTES];
    ousac_model *net = NULL;
    ousac_error error = {0};
    (void)state;
    scratch_join(plain, flux.directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 0, 1, &error), &error);
    const ousac_model_options options = {.inputs_path = plain};
    must_succeed(ousac_model_load(&net, flux.weights, &options, ousac_backend_cpu(), &error), &error);
    assert_int_equal(net->has_uncond, 0);
    assert_int_equal(flux.model->has_uncond, 1);
    assert_true(net->family->workspace_bytes(net, 2) < flux.model->family->workspace_bytes(flux.model, 2));
    ousac_run run = flux_run_of(samples, NULL);
    run.model = net;
    must_fail(ousac_run_samples(&run, &error), OUSAC_STATUS_USAGE, &error, "has no negative_prompt_embeds");
    ousac_model_free(net);
}

/* A step that states guidance needs a model that is told one, and what a bundle was made for. */
static void guidance_by_step_needs_an_embedder(void **state) {
    static float samples[FLUX_SAMPLES * FLUX_SIZE];
    char plain[SCRATCH_PATH_BYTES];
    ousac_model *net = NULL;
    ousac_error error = {0};
    (void)state;
    scratch_join(plain, flux.directory.path, "plain.safetensors");
    must_succeed(small_flux_write_inputs(plain, 9, 1, 0, &error), &error);
    const ousac_model_options options = {.inputs_path = plain};
    must_succeed(ousac_model_load(&net, flux.unguided, &options, ousac_backend_cpu(), &error), &error);
    assert_false(net->takes_guidance);
    assert_true(flux.model->takes_guidance);
    ousac_run run = flux_run_of(samples, NULL);
    run.model = net;
    must_fail(ousac_run_samples(&run, &error), OUSAC_STATUS_USAGE, &error,
              "schedule flux, step 0: guidance 5.5, but ");
    ousac_model_free(net);
}

/* Rows of the inputs file serve samples by their index, whatever the batch. */
static void samples_take_their_rows(void **state) {
    static float together[FLUX_SAMPLES * FLUX_SIZE], alone[FLUX_SIZE];
    ousac_error error = {0};
    (void)state;
    ousac_run run = flux_run_of(together, NULL);
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < FLUX_SAMPLES; s++) {
        run = flux_run_of(alone, NULL);
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
        cmocka_unit_test(samples_take_their_rows),
    };
    return cmocka_run_group_tests(tests, flux_session_open, flux_session_close);
}
