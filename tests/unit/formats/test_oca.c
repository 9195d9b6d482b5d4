/* What is written to an .oca archive is what is read from it: every dtype, codec, source and range of rows;
 * the same contents give the same bytes; what the format forbids is refused. The oracle is the data that went
 * in.
 */
#include "formats/memory.h"
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "tests/support/oca_items.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_item(const oca_file *file, const item *it, int from_callback) {
    oca_tensor t;
    const void *lent = NULL;
    unsigned char *target = malloc(it->bytes);
    assert_non_null(target);
    assert_int_equal(oca_tensor_find(file, it->name, &t), OCA_OK);
    assert_string_equal(t.name, it->name);
    assert_int_equal(t.dtype, it->dtype);
    assert_int_equal(t.codec, it->codec);
    assert_int_equal(t.dims, it->dims);
    assert_memory_equal(t.shape, it->shape, sizeof t.shape);
    assert_int_equal(t.bytes, it->bytes);
    assert_int_equal(t.count, it->bytes / oca_test_element_bytes[it->dtype]);
    assert_int_equal(t.chunks, (it->bytes + OCA_MIB - 1) / OCA_MIB);
    memset(target, 0xa5, it->bytes);
    assert_int_equal(oca_read(file, t.index, 0, it->shape[0], t.dtype, target, it->bytes), OCA_OK);
    assert_memory_equal(target, it->data, it->bytes);
    assert_int_equal(oca_verify_tensor(file, t.index), OCA_OK);
    oca_status status = oca_borrow(file, t.index, &lent);
    if (from_callback || t.stored_bytes < t.bytes) {
        assert_int_equal(status, OCA_ERR_UNSUPPORTED);
        assert_null(lent);
    } else {
        assert_int_equal(status, OCA_OK);
        assert_memory_equal(lent, it->data, it->bytes);
    }
    if (it->codec == OUSAC_OCA_CODEC_RAW)
        assert_int_equal(t.stored_bytes, t.bytes);
    free(target);
}

static void test_round_trip_from_memory_path_and_callback(void **state) {
    (void)state;
    items all = items_everything();
    ousac_error error = {0};
    assert_int_equal(items_write(&all, 0, &error), OUSAC_STATUS_OK);
    file_bytes bytes = oca_test_slurp();
    for (int source = 0; source < 3; source++) {
        oca_file *file = NULL;
        oca_status status = source == 0 ? oca_open_memory(&file, bytes.data, bytes.size, NULL)
                            : source == 1
                                ? oca_open_path(&file, oca_test_path, NULL)
                                : oca_open_callback(&file, oca_test_read_memory, &bytes, bytes.size, NULL);
        assert_int_equal(status, OCA_OK);
        assert_int_equal(oca_tensor_count(file), all.count);
        for (size_t i = 0; i < all.count; i++)
            check_item(file, &all.list[i], source == 2);
        assert_int_equal(oca_verify(file, NULL), OCA_OK);
        for (size_t i = 1; i < all.count; i++) {
            oca_tensor before, after;
            assert_int_equal(oca_tensor_at(file, i - 1, &before), OCA_OK);
            assert_int_equal(oca_tensor_at(file, i, &after), OCA_OK);
            assert_true(strcmp(before.name, after.name) < 0);
        }
        oca_tensor t;
        assert_int_equal(oca_tensor_find(file, "small/0/0/", &t), OCA_ERR_NOT_FOUND);
        assert_int_equal(oca_tensor_find(file, "", &t), OCA_ERR_NOT_FOUND);
        assert_int_equal(oca_tensor_at(file, all.count, &t), OCA_ERR_ARGUMENT);
        oca_close(file);
    }
    free(bytes.data);
    items_free(&all);
}

static void test_compression_shrinks_what_can_be_shrunk(void **state) {
    (void)state;
    items all = items_create(4);
    uint64_t shape[1] = {100000};
    items_add(&all, "noise", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_ZSTD, 1, shape, 1);
    items_add(&all, "plain", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_ZSTD, 1, shape, 0);
    items_add(&all, "ramp.shuffled", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_SHUFFLE_ZSTD, 1, shape, 0);
    items_add(&all, "ramp", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_ZSTD, 1, shape, 0);
    for (uint32_t i = 0; i < 100000;
         i++) { /* in [1, 1.5): equal in sign and exponent, noise in the mantissa */
        uint64_t seed = i;
        float value = 1.0f + (float)(oca_test_random(&seed) >> 42) * 0x1p-23f;
        memcpy(all.list[2].data + 4 * i, &value, 4);
        memcpy(all.list[3].data + 4 * i, &value, 4);
    }
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    oca_file *file = NULL;
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    oca_tensor noise, plain, ramp, shuffled;
    assert_int_equal(oca_tensor_find(file, "noise", &noise), OCA_OK);
    assert_int_equal(oca_tensor_find(file, "plain", &plain), OCA_OK);
    assert_int_equal(oca_tensor_find(file, "ramp", &ramp), OCA_OK);
    assert_int_equal(oca_tensor_find(file, "ramp.shuffled", &shuffled), OCA_OK);
    assert_int_equal(noise.stored_bytes, noise.bytes);
    assert_true(plain.stored_bytes < plain.bytes / 2);
    assert_true(shuffled.stored_bytes < ramp.stored_bytes);
    for (size_t i = 0; i < all.count; i++)
        check_item(file, &all.list[i], 0);
    oca_close(file);
    items_free(&all);
}

/* Every tail length of the hash: the writer's is libxxhash's, the reader's its own. */
static void test_checksums_agree_for_every_length(void **state) {
    (void)state;
    items all = items_create(300);
    for (uint64_t n = 1; n <= 300; n++) {
        char name[OCA_NAME_BYTES];
        (void)snprintf(name, sizeof name, "%u", (unsigned)n);
        items_add(&all, name, OUSAC_DTYPE_U8, OUSAC_OCA_CODEC_RAW, 1, &n, 1);
    }
    assert_int_equal(items_write(&all, 5, NULL), OUSAC_STATUS_OK);
    oca_file *file = NULL;
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    assert_int_equal(oca_verify(file, NULL), OCA_OK);
    oca_close(file);
    items_free(&all);
}

static void test_same_contents_same_bytes_in_any_order(void **state) {
    (void)state;
    items all = items_everything();
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes first = oca_test_slurp();
    for (uint64_t order = 1; order < 4; order++) {
        assert_int_equal(items_write(&all, order, NULL), OUSAC_STATUS_OK);
        file_bytes other = oca_test_slurp();
        assert_int_equal(other.size, first.size);
        assert_memory_equal(other.data, first.data, first.size);
        free(other.data);
    }
    free(first.data);
    items_free(&all);
}

static void test_metadata(void **state) {
    (void)state;
    items none = {NULL, 0, 0};
    const char *key = NULL, *value = NULL;
    assert_int_equal(items_write(&none, 0, NULL), OUSAC_STATUS_OK);
    oca_file *file = NULL;
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    assert_int_equal(oca_tensor_count(file), 0);
    assert_int_equal(oca_metadata_count(file), 4);
    static const char *const keys[4] = {"a", "a/b", "b", "\xc3\xa9t\xc3\xa9"};
    static const char *const values[4] = {"", "x\ny", "second", "\xf0\x9f\x9a\x80"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(oca_metadata_at(file, i, &key, &value), OCA_OK);
        assert_string_equal(key, keys[i]);
        assert_string_equal(value, values[i]);
        assert_string_equal(oca_metadata(file, keys[i]), values[i]);
    }
    assert_int_equal(oca_metadata_at(file, 4, &key, &value), OCA_ERR_ARGUMENT);
    assert_null(oca_metadata(file, ""));
    assert_null(oca_metadata(file, "a/"));
    assert_null(oca_metadata(file, "zz"));
    assert_int_equal(oca_minor_version(file), 0);
    oca_close(file);
}

static void test_any_range_of_rows(void **state) {
    (void)state;
    items all = items_create(16);
    static const ousac_dtype dtypes[4] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_U8, OUSAC_DTYPE_I64, OUSAC_DTYPE_BF16};
    for (int d = 0; d < 4; d++)
        for (int codec = 0; codec < 3; codec++) {
            char name[OCA_NAME_BYTES];
            uint64_t shape[3] = {9, 3, (uint64_t)OCA_MIB / 8 / oca_test_element_bytes[dtypes[d]] + 1};
            (void)snprintf(name, sizeof name, "%d/%d", d, codec);
            items_add(&all, name, dtypes[d], (ousac_oca_codec)codec, 3, shape, 0);
        }
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    oca_file *file = NULL;
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    for (size_t i = 0; i < all.count; i++) {
        const item *it = &all.list[i];
        size_t row = it->bytes / 9;
        unsigned char *target = malloc(it->bytes + 1);
        oca_tensor t;
        assert_int_equal(oca_tensor_find(file, it->name, &t), OCA_OK);
        for (uint64_t first = 0; first <= 9; first++)
            for (uint64_t rows = 0; first + rows <= 9; rows += 1 + first % 2) {
                size_t bytes = (size_t)rows * row;
                target[bytes] = 0x5a;
                assert_int_equal(oca_read(file, t.index, first, rows, t.dtype, target, bytes), OCA_OK);
                assert_memory_equal(target, it->data + first * row, bytes);
                assert_int_equal(target[bytes], 0x5a);
            }
        assert_int_equal(oca_read(file, t.index, 0, 10, t.dtype, target, 10 * row), OCA_ERR_RANGE);
        assert_int_equal(oca_read(file, t.index, 10, 0, t.dtype, target, 0), OCA_ERR_RANGE);
        assert_int_equal(oca_read(file, t.index, UINT64_MAX, 2, t.dtype, target, 2 * row), OCA_ERR_RANGE);
        assert_int_equal(oca_read(file, t.index, 0, 2, t.dtype, target, 2 * row - 1), OCA_ERR_RANGE);
        assert_int_equal(oca_read(file, t.index, 0, 2, t.dtype, target, 2 * row + 1), OCA_ERR_RANGE);
        assert_int_equal(oca_read(file, t.index, 0, 2, (oca_dtype)8, target, 2 * row), OCA_ERR_ARGUMENT);
        assert_int_equal(oca_read(file, all.count, 0, 2, t.dtype, target, 2 * row), OCA_ERR_ARGUMENT);
        free(target);
    }
    oca_close(file);
    items_free(&all);
}

static void test_borrowed_bytes_are_checked_only_on_request(void **state) {
    (void)state;
    items all = items_create(2);
    uint64_t shape[1] = {700000};
    items_add(&all, "a", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_RAW, 1, shape, 1);
    items_add(&all, "b", OUSAC_DTYPE_U8, OUSAC_OCA_CODEC_RAW, 1, shape, 1);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes bytes = oca_test_slurp();
    oca_file *file = NULL;
    const void *lent = NULL;
    size_t failed = 99;
    assert_int_equal(oca_open_memory(&file, bytes.data, bytes.size, NULL), OCA_OK);
    assert_int_equal(oca_borrow(file, 0, &lent), OCA_OK);
    assert_int_equal(((size_t)((const unsigned char *)lent - bytes.data)) % 64, 0);
    assert_memory_equal(lent, all.list[0].data, all.list[0].bytes);
    bytes.data[(size_t)((const unsigned char *)lent - bytes.data) + 2 * OCA_MIB + 5] ^=
        1; /* in the third chunk */
    assert_int_equal(oca_borrow(file, 0, &lent), OCA_OK);
    assert_int_equal(oca_verify_tensor(file, 0), OCA_ERR_DATA_CHECKSUM);
    assert_int_equal(oca_verify_tensor(file, 1), OCA_OK);
    assert_int_equal(oca_verify(file, &failed), OCA_ERR_DATA_CHECKSUM);
    assert_int_equal(failed, 0);
    float *target = malloc(4 * OCA_MIB);
    assert_int_equal(oca_read(file, 0, 0, 2 * OCA_MIB / 4, OCA_F32, target, 2 * OCA_MIB),
                     OCA_OK); /* the sound chunks */
    assert_int_equal(oca_read(file, 0, 0, 2 * OCA_MIB / 4 + 1, OCA_F32, target, 2 * OCA_MIB + 4),
                     OCA_ERR_DATA_CHECKSUM);
    free(target);
    oca_close(file);
    free(bytes.data);
    items_free(&all);
}

static void test_the_writer_refuses_what_the_format_forbids(void **state) {
    (void)state;
    static const unsigned char data[64];
    static const struct {
        const char *name;
        int dtype, codec;
        size_t dims;
        uint64_t shape[5];
    } cases[] = {
        {"", 1, 0, 1, {1}},
        {"\xff", 1, 0, 1, {1}},
        {"\xc0\x80", 1, 0, 1, {1}},
        {"\xed\xa0\x80", 1, 0, 1, {1}},
        {"\xf4\x90\x80\x80", 1, 0, 1, {1}},
        {"cut\xe2\x82", 1, 0, 1, {1}},
        {"present", 1, 0, 1, {1}},
        {"x", 8, 0, 1, {1}},
        {"x", 1, 3, 1, {1}},
        {"x", 1, 0, 0, {1}},
        {"x", 1, 0, 5, {1, 1, 1, 1, 1}},
        {"x", 1, 0, 2, {1, 0}},
        {"x", 1, 0, 2, {UINT64_MAX / 2, 3}},
        {"x", 0, 0, 4, {1u << 31, 1u << 31, 1u << 31, 2}},
    };
    ousac_oca_writer *writer = NULL;
    uint64_t one[2] = {1, 1};
    ousac_error error = {0};
    assert_int_equal(ousac_oca_writer_create(&writer, &error), OUSAC_STATUS_OK);
    assert_int_equal(
        ousac_oca_writer_tensor(writer, "present", OUSAC_DTYPE_I8, 1, one, OUSAC_OCA_CODEC_RAW, data, &error),
        OUSAC_STATUS_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(&error, 0, sizeof error);
        ousac_status status =
            ousac_oca_writer_tensor(writer, cases[i].name, (ousac_dtype)cases[i].dtype, cases[i].dims,
                                    cases[i].shape, (ousac_oca_codec)cases[i].codec, data, &error);
        assert_int_equal(status, OUSAC_STATUS_USAGE);
        assert_true(strlen(error.message) > 10);
    }
    assert_int_equal(ousac_oca_writer_metadata(writer, "", "v", &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_oca_writer_metadata(writer, "k\x80", "v", &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_oca_writer_metadata(writer, "k", "\xc1", &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_oca_writer_metadata(writer, "k", "v", &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_metadata(writer, "k", "w", &error), OUSAC_STATUS_USAGE);
    /* Scales that are not one f32 for each row are found at saving, whatever the order. */
    assert_int_equal(ousac_oca_writer_tensor(writer, "present.scale", OUSAC_DTYPE_F32, 2, one,
                                             OUSAC_OCA_CODEC_RAW, data, &error),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_save(writer, oca_test_path, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "present.scale"));
    ousac_oca_writer_free(writer);
}

static void test_taken_data_is_freed_and_a_missing_directory_is_io(void **state) {
    (void)state;
    ousac_oca_writer *writer = NULL;
    ousac_error error = {0};
    uint64_t shape[1] = {16};
    float *data = ousac_calloc(16, sizeof *data);
    assert_int_equal(ousac_oca_writer_create(&writer, &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_tensor_take(writer, "x", OUSAC_DTYPE_F32, 1, shape,
                                                  OUSAC_OCA_CODEC_ZSTD, data, &error),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_save(writer, "/nonexistent/directory/a.oca", &error), OUSAC_STATUS_IO);
    assert_int_equal(ousac_oca_writer_save(writer, oca_test_path, &error), OUSAC_STATUS_OK);
    file_bytes first = oca_test_slurp();
    assert_int_equal(ousac_oca_writer_save(writer, oca_test_path, &error), OUSAC_STATUS_OK);
    file_bytes second = oca_test_slurp();
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    free(first.data);
    free(second.data);
    ousac_oca_writer_free(writer); /* and with it `data` */
}

static void *never(void *context, size_t bytes) {
    (void)context;
    (void)bytes;
    return NULL;
}

static void test_opening_reports_what_cannot_be_opened(void **state) {
    (void)state;
    oca_file *file = NULL;
    char missing[160];
    (void)snprintf(missing, sizeof missing, "%s/missing", oca_test_directory);
    assert_int_equal(oca_open_path(&file, missing, NULL), OCA_ERR_IO);
    assert_int_equal(oca_open_path(&file, oca_test_directory, NULL), OCA_ERR_IO);
    assert_int_equal(oca_open_path(&file, NULL, NULL), OCA_ERR_ARGUMENT);
    assert_int_equal(oca_open_path(NULL, oca_test_path, NULL), OCA_ERR_ARGUMENT);
    assert_int_equal(oca_open_memory(&file, NULL, 1, NULL), OCA_ERR_ARGUMENT);
    assert_int_equal(oca_open_memory(&file, NULL, 0, NULL), OCA_ERR_TRUNCATED);
    assert_int_equal(oca_open_callback(&file, NULL, NULL, 0, NULL), OCA_ERR_ARGUMENT);
    oca_options half = {.allocate = never};
    assert_int_equal(oca_open_memory(&file, NULL, 0, &half), OCA_ERR_ARGUMENT);
    assert_null(file);
    FILE *empty = fopen(oca_test_path, "wb");
    assert_non_null(empty);
    (void)fclose(empty);
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_ERR_TRUNCATED);
    oca_close(NULL);
    assert_int_equal(oca_tensor_count(NULL), 0);
    assert_int_equal(oca_metadata_count(NULL), 0);
    assert_null(oca_metadata(NULL, "a"));
}

static void test_statuses_are_pinned_and_explained(void **state) {
    (void)state;
    assert_int_equal(OCA_ERR_TASK, -8);
    assert_int_equal(OCA_ERR_MAGIC, -20);
    assert_int_equal(OCA_ERR_DATA_CHECKSUM, -26);
    assert_int_equal(OCA_ERR_PADDING, -36);
    assert_int_equal(OCA_ERR_COMPRESSED, -38);
    for (int value = 0; value >= -50; value--) {
        int is_known = value >= -8 || (value <= -20 && value >= -38);
        assert_int_equal(strcmp(oca_status_string((oca_status)value), "unknown status") != 0, is_known);
    }
    assert_string_equal(oca_status_string((oca_status)1), "unknown status");
    assert_string_equal(oca_status_string(OCA_ERR_MAGIC), "not an oca archive");
    assert_string_equal(oca_status_string(OCA_ERR_COMPRESSED), "malformed compressed data");
    assert_string_equal(oca_status_string(OCA_ERR_TASK), "parallel tasks failed to run");
    for (int dtype = 0; dtype < 8; dtype++)
        assert_int_equal(oca_dtype_bytes((oca_dtype)dtype), oca_test_element_bytes[dtype]);
    assert_int_equal(oca_dtype_bytes((oca_dtype)8), 0);
    assert_int_equal((int)OCA_I64, (int)OUSAC_DTYPE_I64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_from_memory_path_and_callback),
        cmocka_unit_test(test_compression_shrinks_what_can_be_shrunk),
        cmocka_unit_test(test_checksums_agree_for_every_length),
        cmocka_unit_test(test_same_contents_same_bytes_in_any_order),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_any_range_of_rows),
        cmocka_unit_test(test_borrowed_bytes_are_checked_only_on_request),
        cmocka_unit_test(test_the_writer_refuses_what_the_format_forbids),
        cmocka_unit_test(test_taken_data_is_freed_and_a_missing_directory_is_io),
        cmocka_unit_test(test_opening_reports_what_cannot_be_opened),
        cmocka_unit_test(test_statuses_are_pinned_and_explained),
    };
    return cmocka_run_group_tests_name("oca", tests, oca_test_setup, oca_test_teardown);
}
