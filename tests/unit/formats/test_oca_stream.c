/* An archive whose tensors are lent one at a time is the archive of the same tensors held in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "formats/file.h"
#include "formats/oca_write.h"
#include "tests/support/scratch.h"

enum { COUNT = 300000, TENSORS = 3, NONE = 99 };

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

typedef struct lender {
    double *block; /* one for all: what it held before is gone with the next call */
    size_t calls, fail_at;
} lender;

static void fill(double *block, size_t index) {
    for (size_t i = 0; i < COUNT; i++)
        block[i] = (double)(i * (index + 1) % 1009) / 7;
}

static ousac_status lend(void *self, size_t index, const void **data, ousac_error *error) {
    lender *l = self;
    l->calls++;
    if (index == l->fail_at)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "no more");
    fill(l->block, index);
    *data = l->block;
    return OUSAC_STATUS_OK;
}

static ousac_status write_archive(const char *path, int streamed, lender *l, ousac_error *error) {
    static const char *const names[TENSORS] = {"b", "c", "a"};
    const uint64_t shape = COUNT;
    double *blocks[TENSORS] = {NULL};
    ousac_oca_writer *writer = NULL;
    ousac_status status;
    assert_int_equal(ousac_oca_writer_create(&writer, error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_metadata(writer, "key", "value", error), OUSAC_STATUS_OK);
    for (size_t i = 0; i < TENSORS; i++) {
        const ousac_oca_codec codec = i ? OUSAC_OCA_CODEC_SHUFFLE_ZSTD : OUSAC_OCA_CODEC_RAW;
        if (streamed) {
            status = ousac_oca_writer_tensor_stream(writer, names[i], OUSAC_DTYPE_F64, 1, &shape, codec, lend,
                                                    l, i, error);
        } else {
            assert_non_null(blocks[i] = malloc(COUNT * sizeof(double)));
            fill(blocks[i], i);
            status = ousac_oca_writer_tensor(writer, names[i], OUSAC_DTYPE_F64, 1, &shape, codec, blocks[i],
                                             error);
        }
        assert_int_equal(status, OUSAC_STATUS_OK);
    }
    status = ousac_oca_writer_save(writer, path, error);
    ousac_oca_writer_free(writer);
    for (size_t i = 0; i < TENSORS; i++)
        free(blocks[i]);
    return status;
}

static void streamed_bytes_are_those_of_memory(void **state) {
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    lender l = {.block = malloc(COUNT * sizeof(double)), .fail_at = NONE};
    ousac_error error = {0};
    ousac_file_view whole;
    (void)state;
    assert_non_null(l.block);
    assert_int_equal(write_archive(scratch_path(&directory, "a.oca", a), 0, &l, &error), OUSAC_STATUS_OK);
    assert_int_equal(l.calls, 0);
    assert_int_equal(write_archive(scratch_path(&directory, "b.oca", b), 1, &l, &error), OUSAC_STATUS_OK);
    assert_int_equal(l.calls, TENSORS);
    assert_int_equal(ousac_file_map(&whole, a, &error), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&directory, "b.oca", whole.data, whole.size));
    ousac_file_unmap(&whole);
    free(l.block);
}

static void a_failing_source_leaves_no_file(void **state) {
    char path[SCRATCH_PATH_BYTES];
    lender l = {.block = malloc(COUNT * sizeof(double)), .fail_at = 1};
    ousac_error error = {0};
    const size_t before = scratch_entries(&directory);
    (void)state;
    assert_non_null(l.block);
    assert_int_equal(write_archive(scratch_path(&directory, "never.oca", path), 1, &l, &error),
                     OUSAC_STATUS_INTERRUPTED);
    assert_string_equal(error.message, "no more");
    assert_int_equal(scratch_entries(&directory), before);
    free(l.block);
}

static void data_or_a_source_must_be_given(void **state) {
    const uint64_t shape = 1;
    ousac_oca_writer *writer = NULL;
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_oca_writer_create(&writer, &error), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_tensor_stream(writer, "a", OUSAC_DTYPE_F64, 1, &shape,
                                                    OUSAC_OCA_CODEC_RAW, NULL, NULL, 0, &error),
                     OUSAC_STATUS_USAGE);
    ousac_oca_writer_free(writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_bytes_are_those_of_memory),
        cmocka_unit_test(a_failing_source_leaves_no_file),
        cmocka_unit_test(data_or_a_source_must_be_given),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
