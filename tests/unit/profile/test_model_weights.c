/* The weights of a model, however it is loaded: mapped or copied, for running or for its factors alone, give
 * the same digest and by site the values of the naive loader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profile/model/model.h"
#include "profile/run/executor.h"
#include "profile/run/runner.h"
#include "tests/support/naive_dit.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

static scratch directory;

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

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

/* Writes a checkpoint and returns its path in `file`; `config` gets that of its config. */
static void write_model(const char *name, const random_dit_options *options, char file[SCRATCH_PATH_BYTES],
                        char config[SCRATCH_PATH_BYTES]) {
    char path[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    scratch_join(path, directory.path, name);
    must(random_dit_write(path, options, &error), &error);
    scratch_join(file, path, random_dit_file(options->layout));
    scratch_join(config, path, "config.json");
}

/* Moves the data of a file one byte on, by a blank at the end of its header. */
static void misalign(const char *path) {
    FILE *file = fopen(path, "rb");
    unsigned char length[8];
    uint64_t header = 0;
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long size = ftell(file);
    assert_true(size > 8);
    unsigned char *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    rewind(file);
    assert_int_equal(fread(bytes, 1, (size_t)size, file), (size_t)size);
    (void)fclose(file);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | bytes[i];
    memmove(bytes + 8 + header + 1, bytes + 8 + header, (size_t)size - 8 - (size_t)header);
    bytes[8 + header] = ' ';
    header++;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)(header >> 8 * i);
    memcpy(bytes, length, 8);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, (size_t)size + 1, file), (size_t)size + 1);
    assert_int_equal(fclose(file), 0);
    free(bytes);
}

static const double *naive_weight(const naive_dit *net, size_t site) {
    const naive_block *block = &net->blocks[site / 6];
    const naive_linear *linear[] = {&block->qkv,  &block->qkv, &block->qkv,
                                    &block->proj, &block->fc1, &block->fc2};
    return linear[site % 6]->weight + (site % 6 < 3 ? site % 6 * net->d * net->d : 0);
}

static void compare_sites(const ousac_model *model, const naive_dit *net) {
    ousac_error error = {0};
    for (size_t s = 0; s < model->arch.site_count; s++) {
        const ousac_site *site = &model->arch.sites[s];
        const double *expected = naive_weight(net, s);
        float *w = malloc(site->m * site->n * sizeof *w), *rows = malloc(2 * site->n * sizeof *rows);
        assert_true(w && rows);
        must(ousac_model_site_weight(model, s, w, &error), &error);
        for (size_t i = 0; i < site->m * site->n; i++)
            assert_true((double)w[i] == expected[i]);
        must(ousac_model_site_rows(model, s, site->m - 2, 2, rows, &error), &error);
        assert_memory_equal(rows, w + (site->m - 2) * site->n, 2 * site->n * sizeof *rows);
        free(rows);
        free(w);
    }
}

static void every_way_of_loading_gives_the_same_weights(void **state) {
    (void)state;
    const struct {
        const char *name;
        size_t width;
        random_dit_layout layout;
        ousac_dtype dtype;
        int misaligned;
    } cases[] = {
        {"f32", 24, RANDOM_DIT_PUBLIC, OUSAC_DTYPE_F32, 0},
        {"f32-misaligned", 24, RANDOM_DIT_PUBLIC, OUSAC_DTYPE_F32, 1},
        {"bf16", 24, RANDOM_DIT_PUBLIC, OUSAC_DTYPE_BF16, 0},
        {"f16-diffusers", 24, RANDOM_DIT_DIFFUSERS, OUSAC_DTYPE_F16, 0},
        {"f32-diffusers", 24, RANDOM_DIT_DIFFUSERS, OUSAC_DTYPE_F32, 0},
        {"tensors of several parts", 448, RANDOM_DIT_PUBLIC, OUSAC_DTYPE_F32, 0},
        {"bf16 in several parts", 448, RANDOM_DIT_PUBLIC, OUSAC_DTYPE_BF16, 0},
    };
    const ousac_model_options ways[] = {
        {.use = OUSAC_MODEL_RUN}, {.use = OUSAC_MODEL_RUN, .copy_weights = 1}, {.use = OUSAC_MODEL_FACTORS}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char plain[SCRATCH_PATH_BYTES], file[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES], name[64];
        char digest[OUSAC_DIGEST_CHARS] = "";
        double probes[12 * OUSAC_PROBE_COUNT] = {0}, others[12 * OUSAC_PROBE_COUNT];
        ousac_error error = {0};
        naive_dit *net = NULL;
        random_dit_options options = random_dit_defaults();
        options.seed = 40 + c;
        options.width = cases[c].width, options.hidden = 2 * options.width;
        options.dtype = cases[c].dtype;
        (void)snprintf(name, sizeof name, "plain%zu", c);
        write_model(name, &options, plain, config);
        must(naive_dit_load(&net, plain, options.heads, &error), &error);
        options.layout = cases[c].layout;
        (void)snprintf(name, sizeof name, "other%zu", c);
        write_model(name, &options, file, config);
        if (cases[c].misaligned)
            misalign(file);
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            ousac_model *model = NULL;
            must(ousac_model_load(&model, file, &ways[i], ousac_backend_cpu(), &error), &error);
            const int mapped =
                model->weight[5] && (const void *)model->weight[5] == model->source[5].tensor->data;
            assert_int_equal(mapped, i == 0 && cases[c].dtype == OUSAC_DTYPE_F32 && !cases[c].misaligned);
            assert_int_equal(model->weight[0] != NULL, ways[i].use == OUSAC_MODEL_RUN);
            if (i == 0)
                memcpy(digest, model->digest, sizeof digest);
            assert_string_equal(digest, model->digest);
            compare_sites(model, net);
            must(ousac_model_probes(model, i == 0 ? probes : others, &error), &error);
            if (i > 0)
                assert_memory_equal(others, probes, sizeof probes);
            ousac_model_free(model);
        }
        naive_dit_free(net);
    }
}

static void mapped_and_copied_weights_run_alike(void **state) {
    (void)state;
    char file[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES];
    float samples[2][2 * 3 * 8 * 8];
    ousac_error error = {0};
    const random_dit_options options = random_dit_defaults();
    ousac_step steps[] = {{900, OUSAC_MODE_CFG, 3, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}},
                          {400, OUSAC_MODE_COND, 1, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}}};
    const ousac_schedule schedule = {.name = "two steps", .step_count = 2, .steps = steps};
    write_model("run", &options, file, config);
    for (int copied = 0; copied < 2; copied++) {
        ousac_model *model = NULL;
        const ousac_model_options load = {.copy_weights = copied};
        must(ousac_model_load(&model, file, &load, ousac_backend_cpu(), &error), &error);
        const ousac_run run = {.model = model,
                               .schedule = &schedule,
                               .count = 2,
                               .micro_batch = 2,
                               .threads = 1,
                               .exact = 1,
                               .samples = samples[copied]};
        assert_int_equal(ousac_model_sample_size(model), 3 * 8 * 8);
        must(ousac_run_samples(&run, &error), &error);
        ousac_model_free(model);
    }
    assert_memory_equal(samples[0], samples[1], sizeof samples[0]);
}

static void a_model_for_factors_refuses_to_run(void **state) {
    (void)state;
    char file[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    ousac_model *model = NULL;
    ousac_executor *executor = NULL;
    const random_dit_options options = random_dit_defaults();
    const ousac_model_options load = {.use = OUSAC_MODEL_FACTORS};
    write_model("factors", &options, file, config);
    must(ousac_model_load(&model, file, &load, ousac_backend_cpu(), &error), &error);
    const ousac_executor_options run = {.batch = 1};
    assert_int_equal(ousac_executor_create(&executor, model, &run, &error), OUSAC_STATUS_USAGE);
    assert_null(executor);
    assert_non_null(strstr(error.message, "cannot be run"));
    ousac_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_of_loading_gives_the_same_weights),
        cmocka_unit_test(mapped_and_copied_weights_run_alike),
        cmocka_unit_test(a_model_for_factors_refuses_to_run),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
