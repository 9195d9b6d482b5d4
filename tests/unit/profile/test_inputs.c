/* The inputs file: what it may hold, its digest, its rows; a DiT that takes labels and noise from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "profile/model/model.h"
#include "profile/run/runner.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"
#include "tests/support/write_safetensors.h"

enum { SIZE = 3 * 8 * 8 };

static scratch directory;
static char model_path[SCRATCH_PATH_BYTES], path[SCRATCH_PATH_BYTES];

static int set_up(void **state) {
    random_dit_options options = random_dit_defaults();
    ousac_error error = {0};
    (void)state;
    scratch_create(&directory);
    scratch_join(model_path, directory.path, "model.safetensors");
    scratch_join(path, directory.path, "inputs.safetensors");
    return random_dit_write(directory.path, &options, &error);
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

/* Labels alone, of `bytes` bytes each. */
static void write_labels(const int64_t *labels, size_t count, size_t bytes) {
    char header[256];
    const int length = snprintf(header, sizeof header,
                                "{\"label\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}",
                                bytes == 8 ? "I64" : "I32", count, count * bytes);
    const uint64_t size = (uint64_t)length;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&size, sizeof size, 1, file), 1);
    assert_int_equal(fwrite(header, 1, (size_t)length, file), (size_t)length);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(fwrite(&labels[i], bytes, 1, file), 1); /* little-endian */
    assert_int_equal(fclose(file), 0);
}

static void write_tensors(const write_tensor *tensors, size_t count) {
    ousac_error error = {0};
    must_succeed(write_safetensors(path, tensors, count, NULL, 0, &error), &error);
}

static void rows_are_read_and_digested(void **state) {
    static const float embeds[2 * 2 * 3] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, mask[4] = {1, 1, 1, 0};
    write_tensor tensors[] = {{"prompt_embeds", OUSAC_DTYPE_F32, 3, {2, 2, 3}, embeds},
                              {"prompt_mask", OUSAC_DTYPE_F32, 2, {2, 2}, mask}};
    char digests[5][OUSAC_DIGEST_CHARS];
    ousac_inputs *in = NULL;
    ousac_error error = {0};
    float row[6];
    (void)state;
    for (int turn = 0; turn < 5; turn++) {
        float other[12];
        memcpy(other, embeds, sizeof other);
        tensors[0].data = other;
        tensors[0].dtype = turn == 1 ? OUSAC_DTYPE_BF16 : OUSAC_DTYPE_F32; /* which holds these exactly */
        if (turn == 2)
            other[11] = 13;
        tensors[0].shape[1] = turn == 3 ? 3 : 2;
        tensors[0].shape[2] = turn == 3 ? 2 : 3;
        write_tensors(tensors, turn == 4 ? 1 : 2);
        must_succeed(ousac_inputs_open(&in, path, &error), &error);
        memcpy(digests[turn], ousac_inputs_digest(in), sizeof digests[turn]);
        assert_int_equal(ousac_inputs_rows(in), 2);
        assert_true(ousac_inputs_has(in, OUSAC_INPUT_PROMPT_EMBEDS));
        assert_int_equal(ousac_inputs_has(in, OUSAC_INPUT_PROMPT_MASK), turn < 4);
        assert_false(ousac_inputs_has(in, OUSAC_INPUT_LABEL));
        ousac_inputs_read(in, OUSAC_INPUT_PROMPT_EMBEDS, 7, row); /* 7 mod 2 */
        assert_memory_equal(row, other + 6, sizeof row);
        ousac_inputs_close(in);
    }
    assert_string_equal(digests[0], digests[1]);
    for (int a = 1; a < 5; a++)
        for (int b = 2; b < a; b++)
            assert_string_not_equal(digests[a], digests[b]);
    assert_false(ousac_inputs_has(NULL, OUSAC_INPUT_LABEL));
}

static void what_is_no_input_is_named(void **state) {
    static const float values[8] = {1, 1, 1, 1, 1, 1, 1, 1}, half[4] = {1, 0.5f, 1, 0},
                       nan_[4] = {1, NAN, 0, 0};
    const struct {
        const char *why;
        size_t count;
        write_tensor tensors[2];
    } cases[] = {
        {"no input has that name", 1, {{"prompts", OUSAC_DTYPE_F32, 2, {2, 2}, values}}},
        {"dimensions", 1, {{"pooled", OUSAC_DTYPE_F32, 1, {2}, values}}},
        {"rows",
         2,
         {{"pooled", OUSAC_DTYPE_F32, 2, {2, 2}, values}, {"guidance", OUSAC_DTYPE_F32, 1, {4}, values}}},
        {"expected I64", 1, {{"label", OUSAC_DTYPE_F32, 1, {2}, values}}},
        {"element 1 is 0.5", 1, {{"prompt_mask", OUSAC_DTYPE_F32, 2, {2, 2}, half}}},
        {"finite", 1, {{"pooled", OUSAC_DTYPE_F32, 2, {2, 2}, nan_}}},
        {"at least one", 1, {{"pooled", OUSAC_DTYPE_F32, 2, {2, 0}, values}}},
        {"holds no input", 0, {{NULL, OUSAC_DTYPE_F32, 0, {0}, NULL}}},
    };
    ousac_inputs *in = NULL;
    ousac_error error = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_tensors(cases[i].tensors, cases[i].count);
        const ousac_status status = ousac_inputs_open(&in, path, &error);
        assert_int_not_equal(status, OUSAC_STATUS_OK);
        must_fail(status, status, &error, cases[i].why);
        must_fail(status, status, &error, path);
        assert_null(in);
    }
    write_labels((const int64_t[]){3, -1}, 2, 8);
    must_fail(ousac_inputs_open(&in, path, &error), OUSAC_STATUS_FORMAT, &error, "row 1 is -1");
}

static ousac_model *load(const char *inputs) {
    ousac_model *model = NULL;
    ousac_error error = {0};
    must_succeed(ousac_model_load(&model, model_path, &(ousac_model_options){.inputs_path = inputs},
                                  ousac_backend_cpu(), &error),
                 &error);
    return model;
}

static void sample(const ousac_model *model, uint64_t first, float *out) {
    ousac_step steps[] = {{900, OUSAC_MODE_COND, 1, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}},
                          {300, OUSAC_MODE_COND, 1, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}}};
    const ousac_schedule schedule = {.name = "two", .step_count = 2, .steps = steps};
    const ousac_run run = {.model = model,
                           .schedule = &schedule,
                           .seed = 3,
                           .first = first,
                           .count = 1,
                           .micro_batch = 1,
                           .threads = 1,
                           .samples = out};
    ousac_error error = {0};
    must_succeed(ousac_run_samples(&run, &error), &error);
}

/* What would have been drawn, given by file, gives the same samples; other labels and noise give others. */
static void a_dit_takes_labels_and_noise(void **state) {
    ousac_model *drawn = load(NULL), *given = NULL;
    float expected[SIZE], got[SIZE], noise[2 * SIZE];
    int64_t labels[2];
    char text[64], wanted[64];
    (void)state;
    sample(drawn, 5, expected);
    for (size_t bytes = 4; bytes <= 8; bytes += 4) {
        for (size_t i = 0; i < 2; i++) /* row 1 serves sample 5 */
            labels[i] = (int64_t)ousac_philox_below(3, OUSAC_STREAM_LABEL, i ? 5 : 4, 0, 5);
        write_labels(labels, 2, bytes);
        given = load(path);
        sample(given, 5, got);
        assert_memory_equal(got, expected, sizeof got);
        given->family->describe_input(given, 3, 5, text, sizeof text);
        (void)snprintf(wanted, sizeof wanted, "class %d", (int)labels[1]);
        assert_string_equal(text, wanted);
        ousac_model_free(given);
        labels[1] = (labels[1] + 1) % 5;
        write_labels(labels, 2, bytes);
        given = load(path);
        sample(given, 5, got);
        assert_memory_not_equal(got, expected, sizeof got);
        ousac_model_free(given);
    }
    for (size_t i = 0; i < 2; i++)
        ousac_philox_normals(3, OUSAC_STREAM_NOISE, 4 + i, SIZE, noise + i * SIZE);
    write_tensors((const write_tensor[]){{"noise", OUSAC_DTYPE_F32, 4, {2, 3, 8, 8}, noise}}, 1);
    given = load(path);
    sample(given, 5, got);
    assert_memory_equal(got, expected, sizeof got);
    sample(given, 4, got);
    assert_memory_not_equal(got, expected, sizeof got);
    ousac_model_free(given);
    ousac_model_free(drawn);
}

static void inputs_of_another_kind_are_refused(void **state) {
    static const float values[SIZE] = {0};
    ousac_model *model = NULL;
    ousac_error error = {0};
    const ousac_model_options options = {.inputs_path = path};
    (void)state;
    write_tensors((const write_tensor[]){{"pooled", OUSAC_DTYPE_F32, 2, {2, 2}, values}}, 1);
    must_fail(ousac_model_load(&model, model_path, &options, ousac_backend_cpu(), &error),
              OUSAC_STATUS_FORMAT, &error, "family dit has no such input");
    write_tensors((const write_tensor[]){{"noise", OUSAC_DTYPE_F32, 4, {1, 3, 8, 4}, values}}, 1);
    must_fail(ousac_model_load(&model, model_path, &options, ousac_backend_cpu(), &error),
              OUSAC_STATUS_FORMAT, &error, "dimension 3 is 4; the model has 8");
    write_labels((const int64_t[]){4, 5}, 2, 8);
    must_fail(ousac_model_load(&model, model_path, &options, ousac_backend_cpu(), &error),
              OUSAC_STATUS_FORMAT, &error, "row 1 is 5; the model has classes 0 to 4");
    assert_null(model);
}

static void short_memory_is_an_error(void **state) {
    static const float values[4] = {1, 2, 3, 4};
    ousac_inputs *in = NULL;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long n = 0;
    (void)state;
    write_tensors((const write_tensor[]){{"pooled", OUSAC_DTYPE_F32, 2, {2, 2}, values}}, 1);
    for (; status == OUSAC_STATUS_MEMORY && n < 1000; n++) {
        (void)ousac_memory_fail_after(n);
        status = ousac_inputs_open(&in, path, &error);
        (void)ousac_memory_fail_after(-1);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(n > 3);
    ousac_inputs_close(in);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read_and_digested),   cmocka_unit_test(what_is_no_input_is_named),
        cmocka_unit_test(a_dit_takes_labels_and_noise), cmocka_unit_test(inputs_of_another_kind_are_refused),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
