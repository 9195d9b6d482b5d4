/* Carrying archives to safetensors and back: nothing is lost, what cannot be carried is refused by name, and
 * the files are deterministic. What other programs make of the files: tests/interop/test_exchange.py.
 */
#include "formats/exchange.h"
#include "formats/memory.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"
#include "formats/torch_write.h"
#include "tests/support/oca_items.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static file_bytes slurp(const char *path) {
    file_bytes file = {NULL, 0};
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, 0, SEEK_END), 0);
    file.size = (size_t)ftell(stream);
    rewind(stream);
    file.data = malloc(file.size + 1);
    assert_int_equal(fread(file.data, 1, file.size, stream), file.size);
    (void)fclose(stream);
    return file;
}

static void assert_same_file(const char *a, const char *b) {
    file_bytes x = slurp(a), y = slurp(b);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    free(x.data);
    free(y.data);
}

static void test_archive_returns_byte_for_byte(void **state) {
    items all = items_everything();
    ousac_exchange_counts out = {0}, in = {0};
    char st[SCRATCH_PATH_BYTES], again[SCRATCH_PATH_BYTES], st2[SCRATCH_PATH_BYTES];
    uint64_t bytes = 0;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "a.safetensors", st);
    scratch_path(&dir, "again.oca", again);
    scratch_path(&dir, "again.safetensors", st2);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_export_safetensors(oca_test_path, st, NULL, &out, NULL), OUSAC_STATUS_OK);
    /* the codec asked for is for files that say nothing */
    assert_int_equal(ousac_import_safetensors(st, again, OUSAC_OCA_CODEC_ZSTD, &in, NULL), OUSAC_STATUS_OK);
    assert_same_file(oca_test_path, again);
    assert_int_equal(ousac_export_safetensors(again, st2, NULL, NULL, NULL), OUSAC_STATUS_OK);
    assert_same_file(st, st2);
    for (size_t i = 0; i < all.count; i++)
        bytes += all.list[i].bytes;
    assert_int_equal(out.tensors, all.count);
    assert_int_equal(out.bytes, bytes);
    assert_int_equal(out.metadata, 4);
    assert_memory_equal(&out, &in, sizeof in);

    /* the values, by another reader than the archive's */
    ousac_safetensors *file = NULL;
    assert_int_equal(ousac_safetensors_open(&file, st, NULL), OUSAC_STATUS_OK);
    for (size_t i = 0; i < all.count; i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_find(file, all.list[i].name);
        assert_non_null(t);
        assert_int_equal(t->bytes, all.list[i].bytes);
        assert_memory_equal(t->data, all.list[i].data, all.list[i].bytes);
        assert_int_equal(t->dims, all.list[i].dims);
        assert_memory_equal(t->shape, all.list[i].shape, t->dims * sizeof *t->shape);
        assert_string_equal(t->dtype_name, ousac_safetensors_dtype_name(all.list[i].dtype));
        /* aligned to its elements in the file */
        const size_t element = oca_test_element_bytes[all.list[i].dtype];
        assert_int_equal((uintptr_t)t->data % element, 0); /* the map begins at a page */
    }
    ousac_safetensors_close(file);
    items_free(&all);
    scratch_remove(&dir);
}

static void put_safetensors(const scratch *dir, const char *name, const char *header, const void *data,
                            size_t size) {
    const size_t length = strlen(header);
    unsigned char *bytes = calloc(1, 8 + length + size + 1);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    memcpy(bytes + 8 + length, data, size);
    scratch_put(dir, name, bytes, 8 + length + size);
    free(bytes);
}

static void test_scalars_and_text_return(void **state) {
    static const char header[] = "{\"__metadata__\":{\"\\u00e9\\\"\\\\\\n\":\"\\u0001 \xf0\x9f\x8e\xb2\"},"
                                 "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                 "\"v\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[4,12]},"
                                 "\"w\\n\":{\"dtype\":\"U8\",\"shape\":[2,1],\"data_offsets\":[12,14]}}";
    char from[SCRATCH_PATH_BYTES], oca[SCRATCH_PATH_BYTES], back[SCRATCH_PATH_BYTES];
    ousac_safetensors *file = NULL;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    put_safetensors(&dir, "from", header, "0123456789abcd", 14);
    scratch_path(&dir, "from", from);
    scratch_path(&dir, "oca", oca);
    scratch_path(&dir, "back", back);
    assert_int_equal(ousac_import_safetensors(from, oca, OUSAC_OCA_CODEC_RAW, NULL, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_export_safetensors(oca, back, NULL, NULL, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_safetensors_open(&file, back, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_safetensors_count(file), 3);
    assert_string_equal(ousac_safetensors_metadata(file, "\xc3\xa9\"\\\n"), "\x01 \xf0\x9f\x8e\xb2");
    assert_null(ousac_safetensors_metadata(file, OUSAC_EXCHANGE_SCALAR_KEY));
    const ousac_safetensors_tensor *s = ousac_safetensors_find(file, "s"),
                                   *v = ousac_safetensors_find(file, "v");
    assert_int_equal(s->dims, 0);
    assert_memory_equal(s->data, "0123", 4);
    assert_int_equal(v->dims, 1);
    assert_memory_equal(v->data, "456789ab", 8);
    assert_memory_equal(ousac_safetensors_find(file, "w\n")->data, "cd", 2);
    ousac_safetensors_close(file);
    scratch_remove(&dir);
}

static void test_what_an_archive_cannot_hold_is_named(void **state) {
    static const struct {
        const char *header, *said;
        ousac_status status;
    } cases[] = {
        {"{\"t\":{\"dtype\":\"BOOL\",\"shape\":[4],\"data_offsets\":[0,4]}}", "\"t\" (BOOL)",
         OUSAC_STATUS_UNSUPPORTED},
        {"{\"t\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", "F8_E4M3",
         OUSAC_STATUS_UNSUPPORTED},
        {"{\"t\":{\"dtype\":\"U16\",\"shape\":[2],\"data_offsets\":[0,4]}}", "U16", OUSAC_STATUS_UNSUPPORTED},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,2,2,1],\"data_offsets\":[0,4]}}", "4 dimensions",
         OUSAC_STATUS_UNSUPPORTED},
        {"{\"e\":{\"dtype\":\"U8\",\"shape\":[0,3],\"data_offsets\":[0,0]},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "dimension of 0", OUSAC_STATUS_UNSUPPORTED},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "an empty name",
         OUSAC_STATUS_UNSUPPORTED},
        {"{\"__metadata__\":{\"\":\"x\"},\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "metadata", OUSAC_STATUS_UNSUPPORTED},
        {"{\"__metadata__\":{\"safetensors.scalar\":\"[]\"},\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[0,4]}}",
         "safetensors.scalar", OUSAC_STATUS_UNSUPPORTED},
        {"{\"__metadata__\":{\"oca.codec\":\"no "
         "JSON\"},\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "", OUSAC_STATUS_FORMAT},
        {"{\"__metadata__\":{\"oca.codec\":\"[]\"},\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,"
         "4]}}",
         "JSON object", OUSAC_STATUS_FORMAT},
        {"{\"__metadata__\":{\"oca.codec\":\"{\\\"t\\\":\\\"lzma\\\"}\"},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "expected raw", OUSAC_STATUS_FORMAT},
        {"{\"t\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"t.scale\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
         "t", OUSAC_STATUS_USAGE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char from[SCRATCH_PATH_BYTES], to[SCRATCH_PATH_BYTES];
        ousac_error error = {0};
        scratch dir;
        scratch_create(&dir);
        put_safetensors(&dir, "from", cases[i].header, "0123", 4);
        scratch_path(&dir, "from", from);
        scratch_path(&dir, "to", to);
        const ousac_status got = ousac_import_safetensors(from, to, OUSAC_OCA_CODEC_RAW, NULL, &error);
        if (got != cases[i].status || !strstr(error.message, cases[i].said))
            fail_msg("%s\n gave %s: %s", cases[i].header, ousac_status_name(got), error.message);
        assert_int_equal(scratch_entries(&dir), 1);
        scratch_remove(&dir);
    }
}

static void test_what_safetensors_cannot_hold_is_named(void **state) {
    static const uint64_t shape[] = {2};
    static const struct {
        const char *tensor, *key, *value;
        ousac_status status;
    } cases[] = {
        {"__metadata__", "k", "v", OUSAC_STATUS_UNSUPPORTED},
        {"t", OUSAC_EXCHANGE_CODEC_KEY, "{}", OUSAC_STATUS_UNSUPPORTED},
        {"t", OUSAC_EXCHANGE_CONFIG_KEY, OUSAC_EXCHANGE_CONFIG_BEGIN "plan\"}", OUSAC_STATUS_UNSUPPORTED},
        {"t", OUSAC_EXCHANGE_SCALAR_KEY, "{}", OUSAC_STATUS_FORMAT},
        {"t", OUSAC_EXCHANGE_SCALAR_KEY, "[\"u\"]", OUSAC_STATUS_FORMAT},
        {"t", OUSAC_EXCHANGE_SCALAR_KEY, "[\"t\"]", OUSAC_STATUS_FORMAT}, /* two elements */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ousac_oca_writer *writer = NULL;
        char to[SCRATCH_PATH_BYTES];
        scratch dir;
        scratch_create(&dir);
        assert_int_equal(ousac_oca_writer_create(&writer, NULL), OUSAC_STATUS_OK);
        assert_int_equal(ousac_oca_writer_metadata(writer, cases[i].key, cases[i].value, NULL),
                         OUSAC_STATUS_OK);
        assert_int_equal(ousac_oca_writer_tensor(writer, cases[i].tensor, OUSAC_DTYPE_U8, 1, shape,
                                                 OUSAC_OCA_CODEC_RAW, "ab", NULL),
                         OUSAC_STATUS_OK);
        assert_int_equal(ousac_oca_writer_save(writer, oca_test_path, NULL), OUSAC_STATUS_OK);
        ousac_oca_writer_free(writer);
        assert_int_equal(
            ousac_export_safetensors(oca_test_path, scratch_path(&dir, "to", to), NULL, NULL, NULL),
            cases[i].status);
        assert_int_equal(scratch_entries(&dir), 0);
        scratch_remove(&dir);
    }
}

/* What is said for loaders comes along, and goes again; what is somebody else's stays. */
static void test_config_comes_and_goes(void **state) {
    static const char own[] = OUSAC_EXCHANGE_CONFIG_BEGIN "bundle\",\"version\":2}",
                      other[] = "{\"format\":\"else\"}";
    static const uint64_t shape[] = {2};
    char st[SCRATCH_PATH_BYTES], again[SCRATCH_PATH_BYTES], st2[SCRATCH_PATH_BYTES];
    ousac_exchange_counts out = {0}, in = {0};
    ousac_safetensors *file = NULL;
    items all = items_few();
    scratch dir;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "st", st);
    scratch_path(&dir, "again", again);
    scratch_path(&dir, "st2", st2);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_export_safetensors(oca_test_path, st, own, &out, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_safetensors_open(&file, st, NULL), OUSAC_STATUS_OK);
    assert_string_equal(ousac_safetensors_metadata(file, "config"), own);
    ousac_safetensors_close(file);
    assert_int_equal(ousac_import_safetensors(st, again, OUSAC_OCA_CODEC_RAW, &in, NULL), OUSAC_STATUS_OK);
    assert_same_file(oca_test_path, again);
    assert_memory_equal(&out, &in, sizeof in);

    ousac_oca_writer *writer = NULL;
    assert_int_equal(ousac_oca_writer_create(&writer, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_metadata(writer, "config", other, NULL), OUSAC_STATUS_OK);
    assert_int_equal(
        ousac_oca_writer_tensor(writer, "t", OUSAC_DTYPE_U8, 1, shape, OUSAC_OCA_CODEC_RAW, "ab", NULL),
        OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_save(writer, again, NULL), OUSAC_STATUS_OK);
    ousac_oca_writer_free(writer);
    assert_int_equal(ousac_export_safetensors(again, st, NULL, NULL, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_import_safetensors(st, st2, OUSAC_OCA_CODEC_RAW, NULL, NULL), OUSAC_STATUS_OK);
    assert_same_file(again, st2);
    assert_int_equal(ousac_export_safetensors(again, st2, own, NULL, NULL),
                     OUSAC_STATUS_UNSUPPORTED); /* two of one key */
    items_free(&all);
    scratch_remove(&dir);
}

static void test_a_damaged_chunk_is_not_exported(void **state) {
    items all = items_few();
    char to[SCRATCH_PATH_BYTES];
    scratch dir;
    (void)state;
    scratch_create(&dir);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes file = slurp(oca_test_path);
    file.data[file.size - 1] ^= 1;
    scratch_put(&dir, "damaged", file.data, file.size);
    char from[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    assert_int_equal(ousac_export_safetensors(scratch_path(&dir, "damaged", from),
                                              scratch_path(&dir, "to", to), NULL, NULL, &error),
                     OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "tensor"));
    assert_int_equal(scratch_entries(&dir), 1);
    free(file.data);
    items_free(&all);
    scratch_remove(&dir);
}

static void test_every_allocation_may_fail(void **state) {
    items all = items_few();
    char st[SCRATCH_PATH_BYTES], again[SCRATCH_PATH_BYTES];
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "st", st);
    scratch_path(&dir, "again", again);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_export_safetensors(oca_test_path, st, NULL, NULL, NULL);
        if (!status)
            status = ousac_import_safetensors(st, again, OUSAC_OCA_CODEC_RAW, NULL, NULL);
        (void)ousac_memory_fail_after(-1);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 20);
    assert_same_file(oca_test_path, again);
    items_free(&all);
    scratch_remove(&dir);
}

/* ---- files for torch ---- */

static ousac_status count_up(void *self, size_t list, size_t which, float *target, ousac_error *error) {
    const ousac_torch_list *lists = self;
    const ousac_torch_matrix *matrix = &lists[list].items[which];
    (void)error;
    for (size_t i = 0; i < matrix->rows * matrix->cols; i++)
        target[i] = (float)(1000 * list + 100 * which + i);
    return OUSAC_STATUS_OK;
}

static void test_torch_files_are_deterministic_and_survive_failures(void **state) {
    static const ousac_torch_matrix a[] = {{3, 2}, {3, 0}}, b[] = {{2, 4}, {0, 4}};
    ousac_torch_list lists[] = {{"q_wa", 2, a}, {"q_wb", 2, b}};
    char one[SCRATCH_PATH_BYTES], two[SCRATCH_PATH_BYTES];
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "one", one);
    scratch_path(&dir, "two", two);
    assert_int_equal(ousac_torch_save(one, "decomp_weight", lists, 2, count_up, lists, NULL),
                     OUSAC_STATUS_OK);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_torch_save(two, "decomp_weight", lists, 2, count_up, lists, NULL);
        (void)ousac_memory_fail_after(-1);
        assert_int_equal(scratch_entries(&dir), status ? 1 : 2);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 5);
    assert_same_file(one, two);
    static const ousac_torch_matrix huge = {1 << 20, 1 << 20};
    lists[0] = (ousac_torch_list){"q_wa", 1, &huge};
    assert_int_equal(ousac_torch_save(two, "x", lists, 1, count_up, lists, NULL), OUSAC_STATUS_UNSUPPORTED);
    scratch_remove(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_archive_returns_byte_for_byte),
        cmocka_unit_test(test_scalars_and_text_return),
        cmocka_unit_test(test_what_an_archive_cannot_hold_is_named),
        cmocka_unit_test(test_what_safetensors_cannot_hold_is_named),
        cmocka_unit_test(test_config_comes_and_goes),
        cmocka_unit_test(test_a_damaged_chunk_is_not_exported),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_torch_files_are_deterministic_and_survive_failures),
    };
    return cmocka_run_group_tests(tests, oca_test_setup, oca_test_teardown);
}
