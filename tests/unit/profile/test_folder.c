/* Models in shards and in folders of diffusers: the same model as in one file, and what is no model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/memory.h"
#include "formats/safetensors.h"
#include "profile/model/folder.h"
#include "profile/model/model.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"
#include "tests/support/write_safetensors.h"

#define WHOLE "diffusion_pytorch_model.safetensors"
#define INDEX "diffusion_pytorch_model.safetensors.index.json"
#define ALONE "diffusion_pytorch_model-00001-of-00002.safetensors"

enum { TENSORS_MAX = 128 };

/* one/: the model in one file. two/: in two shards. pipe/: a pipeline with two/ as its transformer. */
static scratch directory, one, two, pipeline;
static char config[4096];

static void make_folder(scratch *made, const char *name) {
    (void)scratch_path(&directory, name, made->path);
    assert_int_equal(mkdir(made->path, 0777), 0);
}

static void put(const scratch *folder, const char *name, const char *text) {
    scratch_put(folder, name, text, strlen(text));
}

/* Every second tensor into the second shard, `left_out` (NULL: none) into neither; the index says all of them. */
static void write_shards(const scratch *folder, const char *left_out) {
    static const char *const names[] = {ALONE, "diffusion_pytorch_model-00002-of-00002.safetensors"};
    static char index[1 << 16];
    char path[SCRATCH_PATH_BYTES];
    write_tensor shard[2][TENSORS_MAX];
    size_t count[2] = {0, 0}, at = 0;
    ousac_safetensors *file = NULL;
    ousac_error error = {0};
    must_succeed(ousac_safetensors_open(&file, scratch_path(&one, WHOLE, path), &error), &error);
    at = (size_t)snprintf(index, sizeof index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (size_t i = 0; i < ousac_safetensors_count(file); i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_at(file, i);
        const size_t s = i % 2;
        at += (size_t)snprintf(index + at, sizeof index - at, "%s\"%s\": \"%s\"", i ? ", " : "", t->name,
                               names[s]);
        if (left_out && strcmp(left_out, t->name) == 0)
            continue;
        write_tensor *w = &shard[s][count[s]++];
        *w = (write_tensor){.name = t->name, .dtype = OUSAC_DTYPE_F32, .dims = t->dims, .data = t->data};
        memcpy(w->shape, t->shape, sizeof w->shape);
        assert_true(count[s] < TENSORS_MAX);
    }
    (void)snprintf(index + at, sizeof index - at, "}}");
    put(folder, INDEX, index);
    for (size_t s = 0; s < 2; s++)
        must_succeed(
            write_safetensors(scratch_path(folder, names[s], path), shard[s], count[s], NULL, 0, &error),
            &error);
    ousac_safetensors_close(file);
}

static int set_up(void **state) {
    char path[SCRATCH_PATH_BYTES];
    random_dit_options options = random_dit_defaults();
    ousac_error error = {0};
    (void)state;
    options.layout = RANDOM_DIT_DIFFUSERS;
    scratch_create(&directory);
    make_folder(&one, "one");
    make_folder(&two, "two");
    make_folder(&pipeline, "pipe");
    must_succeed(random_dit_write(one.path, &options, &error), &error);
    FILE *file = fopen(scratch_path(&one, "config.json", path), "r");
    assert_non_null(file);
    config[fread(config, 1, sizeof config - 1, file)] = '\0';
    assert_int_equal(fclose(file), 0);
    put(&two, "config.json", config);
    write_shards(&two, NULL);
    put(&pipeline, "model_index.json", "{}");
    assert_int_equal(symlink(two.path, scratch_path(&pipeline, "transformer", path)), 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

static ousac_model *load(const char *path) {
    ousac_model *model = NULL;
    ousac_error error = {0};
    must_succeed(ousac_model_load(&model, path, NULL, ousac_backend_cpu(), &error), &error);
    return model;
}

static void refuse(const scratch *folder, const char *name, ousac_status expected, const char *text) {
    char path[SCRATCH_PATH_BYTES];
    ousac_model *model = NULL;
    ousac_error error = {0};
    must_fail(ousac_model_load(&model, scratch_path(folder, name, path), NULL, ousac_backend_cpu(), &error),
              expected, &error, text);
    assert_null(model);
}

static void one_model_however_it_lies(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_model *whole = load(scratch_path(&one, WHOLE, path));
    const char *const others[] = {one.path, scratch_path(&two, INDEX, path), two.path, pipeline.path};
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        ousac_model *other = load(others[i]);
        float a[24 * 24], b[24 * 24];
        ousac_error error = {0};
        assert_string_equal(other->digest, whole->digest);
        assert_string_equal(other->constants, whole->constants);
        assert_string_equal(other->process, whole->process);
        /* values of a linear, from whichever shard; the memory behind them can be let go */
        for (size_t s = 0; s < 4; s++) {
            must_succeed(ousac_model_site_weight(whole, s, a, &error), &error);
            must_succeed(ousac_model_site_weight(other, s, b, &error), &error);
            assert_memory_equal(a, b, sizeof a);
        }
        ousac_model_free(other);
    }
    ousac_model_free(whole);
}

static void an_index_is_one_file(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_safetensors *whole = NULL, *shards = NULL;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_safetensors_open(&whole, scratch_path(&one, WHOLE, path), &error), &error);
    must_succeed(ousac_safetensors_open_index(&shards, scratch_path(&two, INDEX, path), &error), &error);
    assert_int_equal(ousac_safetensors_count(shards), ousac_safetensors_count(whole));
    for (size_t i = 0; i < ousac_safetensors_count(whole); i++) {
        const ousac_safetensors_tensor *a = ousac_safetensors_at(whole, i),
                                       *b = ousac_safetensors_at(shards, i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        ousac_safetensors_drop(shards, b, 0, b->count);
        assert_memory_equal(a->data, b->data, a->bytes);
        assert_ptr_equal(ousac_safetensors_find(shards, a->name), b);
    }
    assert_null(ousac_safetensors_metadata(shards, "format"));
    ousac_safetensors_close(shards);
    ousac_safetensors_close(whole);
}

static void the_scheduler_is_believed(void **state) {
    static const char scheduler[] =
        "{\"_class_name\": \"DDIMScheduler\", \"beta_schedule\": \"scaled_linear\", \"beta_start\": "
        "0.00085, \"beta_end\": 0.012, \"num_train_timesteps\": 500, \"prediction_type\": "
        "\"v_prediction\", \"clip_sample\": false, \"lambda_min_clipped\": -Infinity, \"of\": [NaN, "
        "Infinity]}";
    char path[SCRATCH_PATH_BYTES], own[4200];
    scratch folder;
    (void)state;
    (void)scratch_path(&pipeline, "scheduler", folder.path);
    assert_int_equal(mkdir(folder.path, 0777), 0);
    put(&folder, "scheduler_config.json", scheduler);
    ousac_model *model = load(pipeline.path);
    assert_int_equal(model->noise.train_steps, 500);
    assert_int_equal(model->noise.prediction, OUSAC_PREDICTION_V);
    ousac_model_free(model);
    /* the config's own word counts more */
    (void)snprintf(own, sizeof own, "{\"betas\": \"linear 1e-4 0.02 1000\", \"prediction\": \"epsilon\", %s",
                   strchr(config, '{') + 1);
    put(&two, "config.json", own);
    model = load(pipeline.path);
    assert_int_equal(model->noise.train_steps, 1000);
    assert_int_equal(model->noise.prediction, OUSAC_PREDICTION_EPSILON);
    ousac_model_free(model);
    put(&two, "config.json", config);
    /* what it knows and cannot be run is refused, what it says wrongly is told */
    put(&folder, "scheduler_config.json", "{\"beta_schedule\": \"squaredcos_cap_v2\"}");
    refuse(&directory, "pipe", OUSAC_STATUS_UNSUPPORTED, "squaredcos_cap_v2");
    put(&folder, "scheduler_config.json",
        "{\"beta_schedule\": \"linear\", \"beta_start\": NaN, \"beta_end\": 0.02}");
    refuse(&directory, "pipe", OUSAC_STATUS_FORMAT, "beta_start");
    put(&folder, "scheduler_config.json", "[]");
    refuse(&directory, "pipe", OUSAC_STATUS_FORMAT, "scheduler_config.json");
    assert_int_equal(remove(scratch_path(&folder, "scheduler_config.json", path)), 0);
}

static void what_is_no_model_is_named(void **state) {
    char path[SCRATCH_PATH_BYTES];
    scratch folder;
    (void)state;
    refuse(&two, ALONE, OUSAC_STATUS_UNSUPPORTED, "one shard of several");
    make_folder(&folder, "empty");
    refuse(&directory, "empty", OUSAC_STATUS_IO, "a folder without weights");
    put(&folder, "diffusion_pytorch_model.bin", "PK");
    refuse(&directory, "empty", OUSAC_STATUS_UNSUPPORTED, "ousac.convert");
    put(&folder, "model_index.json", "{}");
    refuse(&directory, "empty", OUSAC_STATUS_UNSUPPORTED, "without a folder \"transformer\"");
    refuse(&directory, "absent", OUSAC_STATUS_IO, "absent");
    const write_tensor compiled = {
        .name = "_orig_mod.x", .dtype = OUSAC_DTYPE_F32, .dims = 1, .shape = {1}, .data = (float[]){1}};
    const write_tensor lora = {
        .name = "x.lora_A.weight", .dtype = OUSAC_DTYPE_F32, .dims = 1, .shape = {1}, .data = (float[]){1}};
    ousac_error error = {0};
    must_succeed(
        write_safetensors(scratch_path(&folder, "c.safetensors", path), &compiled, 1, NULL, 0, &error),
        &error);
    refuse(&folder, "c.safetensors", OUSAC_STATUS_UNSUPPORTED, "compiled module");
    must_succeed(write_safetensors(scratch_path(&folder, "l.safetensors", path), &lora, 1, NULL, 0, &error),
                 &error);
    refuse(&folder, "l.safetensors", OUSAC_STATUS_UNSUPPORTED, "a LoRA");
}

static void an_index_that_is_not_its_shards_is_refused(void **state) {
    static const struct {
        const char *text;
        ousac_status status;
        const char *message;
    } bad[] = {
        {"{", OUSAC_STATUS_FORMAT, "index.json"},
        {"{\"weight_map\": []}", OUSAC_STATUS_FORMAT, "must be an object"},
        {"{\"weight_map\": {}}", OUSAC_STATUS_FORMAT, "names no tensor"},
        {"{\"weight_map\": {\"a\": 1}}", OUSAC_STATUS_FORMAT, "beside the index"},
        {"{\"weight_map\": {\"a\": \"../one/" WHOLE "\"}}", OUSAC_STATUS_FORMAT, "beside the index"},
        {"{\"weight_map\": {\"a\": \"absent.safetensors\"}}", OUSAC_STATUS_IO, "absent.safetensors"},
        {"{\"weight_map\": {\"a\": \"" ALONE "\"}}", OUSAC_STATUS_FORMAT, "\"a\": not in"},
        {"{\"weight_map\": {\"a\": \"" ALONE "\", \"a\": \"" ALONE "\"}}", OUSAC_STATUS_FORMAT, "\"a\""},
    };
    char path[SCRATCH_PATH_BYTES];
    scratch folder;
    ousac_safetensors *file = NULL;
    ousac_error error = {0};
    (void)state;
    make_folder(&folder, "bad");
    write_shards(&folder, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(&folder, INDEX, bad[i].text);
        must_fail(ousac_safetensors_open_index(&file, scratch_path(&folder, INDEX, path), &error),
                  bad[i].status, &error, bad[i].message);
        assert_null(file);
    }
    write_shards(&folder, "transformer_blocks.0.attn1.to_q.weight");
    refuse(&folder, INDEX, OUSAC_STATUS_FORMAT, "to_q.weight\": not in");
}

static void short_memory_is_an_error(void **state) {
    ousac_status status = OUSAC_STATUS_MEMORY;
    ousac_error error = {0};
    long allowed;
    (void)state;
    for (allowed = 0; status; allowed++) {
        ousac_model *model = NULL;
        (void)ousac_memory_fail_after(allowed);
        status = ousac_model_load(&model, pipeline.path, NULL, ousac_backend_cpu(), &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        ousac_model_free(model);
    }
    assert_true(allowed > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_model_however_it_lies),
        cmocka_unit_test(an_index_is_one_file),
        cmocka_unit_test(the_scheduler_is_believed),
        cmocka_unit_test(what_is_no_model_is_named),
        cmocka_unit_test(an_index_that_is_not_its_shards_is_refused),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
