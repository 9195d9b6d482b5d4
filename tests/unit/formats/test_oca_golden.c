/* The committed archives of tests/golden still hold what golden.json says, so that a change of the format
 * that both reader and writer share does not go unseen. Run from the repository root.
 */
#include "formats/oca.h"
#include "formats/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

static cJSON *load_json(void) {
    static char text[1 << 16];
    FILE *stream = fopen("tests/golden/golden.json", "rb");
    assert_non_null(stream);
    size_t bytes = fread(text, 1, sizeof text - 1, stream);
    (void)fclose(stream);
    text[bytes] = '\0';
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    return json;
}

static void check_digest(const oca_file *file, const oca_tensor *t, oca_dtype as, const cJSON *expected) {
    char digest[OUSAC_DIGEST_CHARS];
    ousac_sha256 state;
    size_t bytes = (size_t)t->count * oca_dtype_bytes(as);
    void *target = malloc(bytes);
    assert_non_null(target);
    assert_non_null(expected);
    assert_int_equal(oca_read(file, t->index, 0, t->shape[0], as, target, bytes), OCA_OK);
    ousac_sha256_begin(&state);
    ousac_sha256_add(&state, target, bytes);
    ousac_sha256_end(&state, digest);
    assert_string_equal(digest, expected->valuestring);
    free(target);
}

static void check_tensor(const oca_file *file, const cJSON *expected) {
    static const char *const names[8] = {"f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"};
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(expected, "shape");
    const cJSON *f32 = cJSON_GetObjectItemCaseSensitive(expected, "f32_sha256");
    oca_tensor t;
    assert_int_equal(oca_tensor_find(file, expected->string, &t), OCA_OK);
    assert_string_equal(names[t.dtype], cJSON_GetObjectItemCaseSensitive(expected, "dtype")->valuestring);
    assert_int_equal(t.dims, cJSON_GetArraySize(shape));
    for (size_t d = 0; d < t.dims; d++)
        assert_true((double)t.shape[d] == cJSON_GetArrayItem(shape, (int)d)->valuedouble);
    check_digest(file, &t, t.dtype, cJSON_GetObjectItemCaseSensitive(expected, "sha256"));
    if (f32)
        check_digest(file, &t, OCA_F32, f32);
    else
        assert_true(t.dtype >= OCA_I8);
}

static void test_golden_archives_read_as_recorded(void **state) {
    (void)state;
    cJSON *json = load_json();
    const cJSON *archive, *entry;
    int archives = 0;
    cJSON_ArrayForEach(archive, json) {
        char path[256];
        size_t tensors = 0, pairs = 0;
        oca_file *file = NULL;
        (void)snprintf(path, sizeof path, "tests/golden/%s", archive->string);
        assert_int_equal(oca_open_path(&file, path, NULL), OCA_OK);
        assert_int_equal(oca_verify(file, NULL), OCA_OK);
        cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(archive, "metadata")) {
            const char *value = oca_metadata(file, entry->string);
            assert_non_null(value);
            assert_string_equal(value, entry->valuestring);
            pairs++;
        }
        cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(archive, "tensors")) {
            check_tensor(file, entry);
            tensors++;
        }
        assert_int_equal(oca_metadata_count(file), pairs);
        assert_int_equal(oca_tensor_count(file), tensors);
        assert_int_equal(oca_minor_version(file), strcmp(archive->string, "newer-minor.oca") ? 0 : 3);
        oca_close(file);
        archives++;
    }
    assert_int_equal(archives, 4);
    cJSON_Delete(json);
}

/* Without them the golden archives would not show that compressed chunks still decode. */
static void test_golden_archives_hold_compressed_and_plain_chunks(void **state) {
    (void)state;
    oca_file *file = NULL;
    oca_tensor t;
    assert_int_equal(oca_open_path(&file, "tests/golden/chunks.oca", NULL), OCA_OK);
    assert_int_equal(oca_tensor_find(file, "mixed", &t), OCA_OK);
    assert_int_equal(t.chunks, 3);
    assert_true(t.stored_bytes > 3000 && t.stored_bytes < 4000); /* two that shrink to little, one of noise */
    assert_int_equal(oca_tensor_find(file, "ramp", &t), OCA_OK);
    assert_true(t.chunks == 3 && t.stored_bytes < t.bytes / 100);
    oca_close(file);
    assert_int_equal(oca_open_path(&file, "tests/golden/dtypes.oca", NULL), OCA_OK);
    for (size_t i = 0; i < oca_tensor_count(file); i++) {
        assert_int_equal(oca_tensor_at(file, i, &t), OCA_OK);
        assert_true(t.codec == OCA_CODEC_RAW || t.stored_bytes < t.bytes);
    }
    oca_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_archives_read_as_recorded),
        cmocka_unit_test(test_golden_archives_hold_compressed_and_plain_chunks),
    };
    return cmocka_run_group_tests_name("oca_golden", tests, NULL, NULL);
}
