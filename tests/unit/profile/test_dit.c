/* The DiT engine against the naive double-precision forward, and its refusals. */
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
#include "formats/schedule.h"
#include "profile/model/dit.h"
#include "profile/model/model.h"
#include "profile/run/executor.h"
#include "tests/support/naive_dit.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

#define SHIPPED "data/shapes-dit/model.safetensors"

static scratch directory;

static int set_up(void **state) {
    (void)state;
    scratch_create(&directory);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

/* Largest relative error of the engine over branches and some timesteps, `count` samples a batch. */
static double engine_error(const ousac_model *model, naive_dit *net, size_t count) {
    const double timesteps[] = {999, 421, 7, 0};
    const ousac_dit *dit = model->state;
    size_t size = ousac_model_sample_size(model);
    size_t naive_size = net->out_channels * model->height * model->width;
    float *x = malloc(count * size * sizeof *x), *out = malloc(count * size * sizeof *out);
    double *expected = malloc(naive_size * sizeof *expected), worst = 0;
    ousac_error error = {0};
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    ousac_gate effective;
    assert_true(x && out && expected);
    must(ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = count}, &error), &error);
    must(model->family->workspace_create(model, count, &workspace, &error), &error);
    must(model->family->set_inputs(model, workspace, 5, 40, count, &error), &error);
    ousac_model_draw_noise(model, 5, 40, count, x);
    for (size_t t = 0; t < sizeof timesteps / sizeof *timesteps; t++)
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
            must(ousac_executor_begin(executor, 0, branch, OUSAC_GATE_FULL, count, NULL, &effective, &error),
                 &error);
            must(ousac_executor_forward(executor, workspace, x, &(ousac_step){.timestep = timesteps[t]}, out,
                                        &error),
                 &error);
            ousac_executor_end(executor);
            for (size_t i = 0; i < count; i++) {
                size_t label =
                    branch == OUSAC_BRANCH_UNCOND
                        ? dit->classes
                        : ousac_philox_below(5, OUSAC_STREAM_LABEL, 40 + i, 0, (uint32_t)dit->classes);
                double difference = 0, norm = 0;
                must(naive_dit_forward(net, x + i * size, timesteps[t], label, expected, &error), &error);
                for (size_t j = 0; j < size; j++) { /* the noise channels come first */
                    double d = (double)out[i * size + j] - expected[j];
                    difference += d * d;
                    norm += expected[j] * expected[j];
                }
                assert_true(norm > 0);
                worst = fmax(worst, sqrt(difference / norm));
            }
        }
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    free(x);
    free(out);
    free(expected);
    return worst;
}

static void shipped_model_matches_naive_forward(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_model *model = NULL;
    naive_dit *net = NULL;
    must(ousac_model_load(&model, SHIPPED, NULL, ousac_backend_cpu(), &error), &error);
    must(naive_dit_load(&net, SHIPPED, 3, &error), &error);
    double worst = engine_error(model, net, 3);
    print_message("shipped model: relative error %.2e\n", worst);
    assert_true(worst <= 1e-5);
    naive_dit_free(net);
    ousac_model_free(model);
}

/* Odd shapes, every layout; the diffusers file is compared with the naive forward of the same weights. */
static void random_models_match_naive_forward(void **state) {
    (void)state;
    const struct {
        const char *name;
        size_t depth, width, heads, hidden, patch, channels, input_size, classes, batch;
        int learn_sigma, diffusers; /* 2: with an embedder of its own in every block */
        ousac_dtype dtype;
    } cases[] = {
        {"small", 2, 24, 2, 96, 2, 3, 8, 5, 2, 0, 0, OUSAC_DTYPE_F32},
        {"one block, one head, one channel", 1, 12, 1, 48, 1, 1, 5, 1, 1, 0, 0, OUSAC_DTYPE_F32},
        {"learned sigma, odd hidden", 3, 40, 5, 77, 2, 4, 6, 7, 3, 1, 0, OUSAC_DTYPE_F32},
        {"bf16, 49 tokens", 2, 36, 3, 144, 3, 2, 21, 11, 2, 0, 0, OUSAC_DTYPE_BF16},
        {"f16, one token", 4, 16, 4, 64, 4, 3, 4, 3, 5, 1, 0, OUSAC_DTYPE_F16},
        {"deep", 9, 20, 2, 80, 2, 3, 10, 4, 2, 0, 0, OUSAC_DTYPE_F32},
        {"diffusers names", 3, 40, 5, 160, 2, 4, 6, 7, 3, 1, 1, OUSAC_DTYPE_F32},
        {"diffusers names, bf16", 2, 36, 3, 144, 3, 2, 21, 11, 2, 0, 1, OUSAC_DTYPE_BF16},
        {"an embedder a block", 3, 24, 2, 96, 2, 3, 8, 5, 3, 0, 2, OUSAC_DTYPE_F32},
        {"an embedder a block, bf16", 4, 36, 3, 144, 3, 2, 21, 11, 2, 1, 2, OUSAC_DTYPE_BF16},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char plain[SCRATCH_PATH_BYTES], other[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES], name[32];
        ousac_error error = {0};
        ousac_model *model = NULL;
        naive_dit *net = NULL;
        random_dit_options options = random_dit_defaults();
        options.seed = 100 + c;
        options.depth = cases[c].depth, options.width = cases[c].width, options.heads = cases[c].heads;
        options.hidden = cases[c].hidden, options.patch = cases[c].patch,
        options.channels = cases[c].channels;
        options.input_size = cases[c].input_size, options.classes = cases[c].classes;
        options.learn_sigma = cases[c].learn_sigma, options.dtype = cases[c].dtype;
        options.own_embedders = cases[c].diffusers == 2;
        (void)snprintf(name, sizeof name, "plain%zu", c);
        scratch_join(plain, directory.path, name);
        must(random_dit_write(plain, &options, &error), &error);
        scratch_join(file, plain, "model.safetensors");
        must(naive_dit_load(&net, file, options.heads, &error), &error);
        if (cases[c].diffusers) {
            (void)snprintf(name, sizeof name, "other%zu", c);
            scratch_join(other, directory.path, name);
            options.layout = RANDOM_DIT_DIFFUSERS;
            options.norm_eps = 1e-3; /* large enough that ignoring it would show */
            must(random_dit_write(other, &options, &error), &error);
            scratch_join(file, other, random_dit_file(RANDOM_DIT_DIFFUSERS));
            net->frequency_denominator -= 1;
            net->mlp_norm_eps = 1e-3;
            /* the public file holds the embedding in the file's dtype, the other file none: both computed
             * here */
            must(naive_dit_set_sincos(net, options.input_size / options.patch, &error), &error);
        }
        must(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error), &error);
        double worst = engine_error(model, net, cases[c].batch);
        print_message("%s: relative error %.2e\n", cases[c].name, worst);
        assert_true(worst <= 1e-5);
        naive_dit_free(net);
        ousac_model_free(model);
    }
}

/* The digest is of values under canonical names: the same for both layouts where the constants agree. */
static void digest_ignores_layout_and_sees_weights(void **state) {
    (void)state;
    char path[3][SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES];
    char digest[3][OUSAC_DIGEST_CHARS];
    ousac_error error = {0};
    for (int i = 0; i < 3; i++) {
        ousac_model *model = NULL;
        random_dit_options options = random_dit_defaults();
        char name[32];
        options.seed = i == 2 ? 8 : 7;
        options.layout = i == 1 ? RANDOM_DIT_DIFFUSERS : RANDOM_DIT_PUBLIC;
        (void)snprintf(name, sizeof name, "digest%d", i);
        scratch_join(path[i], directory.path, name);
        must(random_dit_write(path[i], &options, &error), &error);
        scratch_join(file, path[i], random_dit_file(options.layout));
        scratch_join(config, path[0], "config.json"); /* one dialect for all three */
        ousac_model_options load = {.config_path = config};
        must(ousac_model_load(&model, file, &load, ousac_backend_cpu(), &error), &error);
        memcpy(digest[i], model->digest, sizeof digest[i]);
        ousac_model_free(model);
    }
    assert_string_equal(digest[0], digest[1]);
    assert_string_not_equal(digest[0], digest[2]);
}

static void missing_heads_is_an_error(void **state) {
    (void)state;
    char path[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    ousac_model *model = NULL;
    random_dit_options options = random_dit_defaults();
    scratch_join(path, directory.path, "heads");
    must(random_dit_write(path, &options, &error), &error);
    scratch_join(file, path, "config.json");
    assert_int_equal(remove(file), 0);
    scratch_join(file, path, "model.safetensors");
    assert_int_equal(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error), OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "`heads`"));
    ousac_model_options wrong = {.heads = 5};
    assert_int_equal(ousac_model_load(&model, file, &wrong, ousac_backend_cpu(), &error),
                     OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "do not divide"));
    ousac_model_options right = {.heads = options.heads};
    must(ousac_model_load(&model, file, &right, ousac_backend_cpu(), &error), &error);
    ousac_model_free(model);
}

static void a_config_that_contradicts_the_tensors_is_refused(void **state) {
    (void)state;
    const char *texts[] = {"{\"num_heads\": 2, \"depth\": 3}",
                           "{\"num_heads\": 2, \"hidden_size\": 32}",
                           "{\"num_heads\": 2, \"num_classes\": 9}",
                           "{\"num_heads\": 2, \"input_size\": 16}",
                           "{\"num_heads\": -2}",
                           "{\"num_heads\": 2, \"betas\": \"cosine\"}",
                           "[1]",
                           "{"};
    char path[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    scratch_join(path, directory.path, "config");
    must(random_dit_write(path, &options, &error), &error);
    scratch_join(file, path, "model.safetensors");
    scratch_join(config, path, "config.json");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ousac_model *model = NULL;
        FILE *out = fopen(config, "w");
        assert_non_null(out);
        (void)fputs(texts[i], out);
        (void)fclose(out);
        assert_int_equal(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error),
                         OUSAC_STATUS_FORMAT);
        assert_null(model);
        assert_non_null(strstr(error.message, "config.json"));
    }
}

/* What is wrong with a key is said with its name: another kind, a fraction, twice, contradicting another key, or
 * known to matter and not supported. */
static void keys_are_read_strictly(void **state) {
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"{\"num_heads\": 2, \"num_heads\": 2}", "\"num_heads\" is there twice"},
        {"{\"num_heads\": 2, \"extra\": [{\"a\": 1, \"a\": 1}]}", "\"a\" is there twice"},
        {"{\"num_heads\": 2} trailing", "after the end"},
        {"{\"num_heads\": 2, \"num_classes\": 4.7}", "\"num_classes\": expected a whole number"},
        {"{\"num_heads\": 2, \"num_classes\": 1e300}", "\"num_classes\": expected a whole number"},
        {"{\"num_heads\": 2, \"num_classes\": \"5\"}", "\"num_classes\": expected a whole number"},
        {"{\"num_heads\": \"2\"}", "\"num_heads\": expected a whole number"},
        {"{\"num_heads\": 2, \"num_attention_heads\": 4}",
         "\"num_heads\" is 2, but \"num_attention_heads\" is 4"},
        {"{\"num_attention_heads\": 2, \"attention_head_dim\": 8}", "\"attention_head_dim\" 8"},
        {"{\"num_heads\": 2, \"num_classes\": 5, \"num_embeds_ada_norm\": 4}", "num_embeds_ada_norm"},
        {"{\"num_heads\": 2, \"input_size\": 8, \"sample_size\": 16}", "sample_size"},
        {"{\"num_heads\": 2, \"mlp_ratio\": 3}", "\"mlp_ratio\" is 3"},
        {"{\"num_heads\": 2, \"learn_sigma\": true}", "\"learn_sigma\" is true"},
        {"{\"num_heads\": 2, \"learn_sigma\": 0}", "\"learn_sigma\": expected true or false"},
        {"{\"num_heads\": 2, \"classes\": [\"a\"]}", "\"classes\": expected the names of 5"},
        {"{\"num_heads\": 2, \"classes\": [\"a\", \"b\", \"c\", \"d\", 5]}", "name 4 is not a text"},
        {"{\"num_heads\": 2, \"betas\": [0.1, 0.2]}", "\"betas\": expected a text"},
        {"{\"num_heads\": 2, \"prediction\": 1}", "\"prediction\": expected a text"},
        {"{\"num_heads\": 2, \"prediction_type\": \"velocity\"}", "\"prediction_type\" is \"velocity\""},
        {"{\"num_heads\": 2, \"prediction\": \"epsilon\", \"prediction_type\": \"v_prediction\"}", "differ"},
        {"{\"num_heads\": 2, \"prediction_type\": \"flow\"}", "predicts flow"},
        {"{\"num_heads\": 2, \"beta_schedule\": \"squaredcos_cap_v2\"}",
         "\"beta_schedule\" is \"squaredcos_cap_v2\""},
        {"{\"num_heads\": 2, \"beta_start\": 0.1}", "\"beta_schedule\" is absent"},
        {"{\"num_heads\": 2, \"beta_schedule\": \"linear\", \"betas\": \"linear 1e-4 0.02 10\"}",
         "both state"},
        {"{\"num_heads\": 2, \"trained_betas\": [0.1]}", "\"trained_betas\""},
        {"{\"num_heads\": 2, \"rescale_betas_zero_snr\": true}", "\"rescale_betas_zero_snr\" is true"},
        {"{\"num_heads\": 2, \"guided_channels\": 4}", "\"guided_channels\" is 4; expected 1 to 3"},
        {"{\"num_heads\": 2, \"guided_channels\": 1.5}", "\"guided_channels\": expected a whole number"},
        {"{\"num_heads\": 2, \"activation_fn\": \"geglu\"}", "\"activation_fn\" is \"geglu\""},
        {"{\"num_heads\": 2, \"norm_type\": 1}", "\"norm_type\": expected a text"},
        {"{\"num_heads\": 2, \"norm_elementwise_affine\": true}", "\"norm_elementwise_affine\" is true"},
        {"{\"num_heads\": 2, \"caption_channels\": 4096}", "\"caption_channels\""},
        {"{\"num_attention_heads\": 2, \"norm_eps\": -1}", "\"norm_eps\" is -1"},
        {"{\"num_attention_heads\": 2, \"norm_eps\": \"1e-5\"}", "\"norm_eps\": expected a finite number"},
    };
    static const struct {
        const char *text, *process;
    } same[] = {
        {"{\"num_heads\": 2, \"prediction_type\": \"v_prediction\", \"betas\": \"scaled_linear 0.00085 0.012 "
         "1000\", "
         "\"guided_channels\": 2}",
         "predicts v, guidance on 2 of 3 channels"},
        {"{\"num_heads\": 2, \"prediction\": \"v\", \"beta_schedule\": \"scaled_linear\", \"beta_start\": "
         "0.00085, "
         "\"beta_end\": 0.012, \"num_train_timesteps\": 1000, \"trained_betas\": null, \"guided_channels\": "
         "2}",
         "predicts v, guidance on 2 of 3 channels"},
    };
    char path[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES], first[OUSAC_PROCESS_BYTES] = "";
    ousac_error error = {0};
    ousac_model *model = NULL;
    random_dit_options options = random_dit_defaults();
    (void)state;
    scratch_join(path, directory.path, "keys");
    must(random_dit_write(path, &options, &error), &error);
    scratch_join(file, path, "model.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_put(&directory, "keys/config.json", cases[i].text, strlen(cases[i].text));
        assert_int_not_equal(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error),
                             OUSAC_STATUS_OK);
        assert_null(model);
        if (!strstr(error.message, cases[i].why) || !strstr(error.message, "config.json"))
            fail_msg("%s: %s", cases[i].text, error.message);
    }
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        scratch_put(&directory, "keys/config.json", same[i].text, strlen(same[i].text));
        must(ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error), &error);
        assert_non_null(strstr(model->process, same[i].process));
        if (i)
            assert_string_equal(model->process, first);
        memcpy(first, model->process, sizeof first);
        ousac_model_free(model);
        model = NULL;
    }
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    char path[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    scratch_join(path, directory.path, "memory");
    must(random_dit_write(path, &options, &error), &error);
    scratch_join(file, path, "model.safetensors");
    for (long n = 0;; n++) {
        ousac_model *model = NULL;
        (void)ousac_memory_fail_after(n);
        ousac_status status = ousac_model_load(&model, file, NULL, ousac_backend_cpu(), &error);
        (void)ousac_memory_fail_after(-1);
        if (!status) {
            ousac_model_free(model);
            assert_true(n > 5);
            return;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
        assert_null(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_model_matches_naive_forward),
        cmocka_unit_test(random_models_match_naive_forward),
        cmocka_unit_test(digest_ignores_layout_and_sees_weights),
        cmocka_unit_test(missing_heads_is_an_error),
        cmocka_unit_test(a_config_that_contradicts_the_tensors_is_refused),
        cmocka_unit_test(keys_are_read_strictly),
        cmocka_unit_test(allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
