/* Temporary room on disk: what was put there comes back, nothing is left, and an archive whose tensors went
 * through it is byte for byte the one that was written from memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "formats/memory.h"
#include "formats/spill.h"
#include "tests/support/oca_items.h"

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static void what_was_spilled_comes_back(void **state) {
    (void)state;
    enum { BLOCKS = 40, VALUES = 3001 };
    ousac_error error = {0};
    ousac_spill *spill = NULL;
    uint64_t seed = 1, offset = 0, *block[BLOCKS], bytes[BLOCKS];
    must(ousac_spill_create(&spill, oca_test_directory, &error), &error);
    for (size_t b = 0; b < BLOCKS; b++) {
        void *mapped = NULL;
        must(ousac_spill_append(spill, &b, sizeof b, &bytes[b], &error), &error);
        must(ousac_spill_map(spill, VALUES * sizeof(uint64_t), &mapped, &error), &error);
        block[b] = mapped;
        for (size_t i = 0; i < VALUES; i++)
            assert_true(block[b][i] == 0);
        for (size_t i = 0; i < VALUES; i++)
            block[b][i] = oca_test_random(&seed);
        ousac_spill_drop(mapped, VALUES * sizeof(uint64_t));
    }
    seed = 1;
    for (size_t b = 0; b < BLOCKS; b++) {
        size_t back = 0;
        must(ousac_spill_read(spill, bytes[b], &back, sizeof back, &error), &error);
        assert_int_equal(back, b);
        for (size_t i = 0; i < VALUES; i++)
            assert_true(block[b][i] == oca_test_random(&seed));
    }
    must(ousac_spill_append(spill, "", 0, &offset, &error), &error);
    assert_int_equal(ousac_spill_read(spill, offset, &seed, 1, &error), OUSAC_STATUS_USAGE);
    ousac_spill_free(spill);
    ousac_spill_free(NULL);
}

static void a_missing_directory_is_named(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_spill *spill = NULL;
    assert_int_equal(ousac_spill_create(&spill, "/nowhere/at all", &error), OUSAC_STATUS_IO);
    assert_null(spill);
    assert_non_null(strstr(error.message, "/nowhere/at all"));
}

/* A disk that is full, as a limit on the size of files: an error, and no signal when the block is touched. */
static void a_full_disk_is_an_error(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_spill *spill = NULL;
    void *block = NULL;
    uint64_t offset = 0;
    struct rlimit limit, small;
    char *data = calloc(1, 1 << 20);
    assert_non_null(data);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 1 << 18;
    must(ousac_spill_create(&spill, oca_test_directory, &error), &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const ousac_status mapped = ousac_spill_map(spill, 1 << 20, &block, &error);
    const ousac_status appended = ousac_spill_append(spill, data, 1 << 20, &offset, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    (void)signal(SIGXFSZ, handler);
    assert_int_equal(mapped, OUSAC_STATUS_IO);
    assert_null(block);
    assert_int_equal(appended, OUSAC_STATUS_IO);
    assert_non_null(strstr(error.message, oca_test_directory));
    ousac_spill_free(spill);
    free(data);
}

/* Writes all with every tensor put, in an order that is not the file's, from a buffer that is overwritten. */
static ousac_status write_spilled(const items *all, ousac_error *error) {
    ousac_oca_writer *writer = NULL;
    size_t largest = 1;
    for (size_t i = 0; i < all->count; i++)
        largest = all->list[i].bytes > largest ? all->list[i].bytes : largest;
    unsigned char *buffer = malloc(largest);
    assert_non_null(buffer);
    ousac_status status = ousac_oca_writer_create(&writer, error);
    if (!status)
        status = ousac_oca_writer_spill(writer, oca_test_directory, error);
    for (size_t k = all->count; k > 0 && !status; k--) {
        const item *it = &all->list[k - 1];
        memcpy(buffer, it->data, it->bytes);
        status = ousac_oca_writer_tensor_put(writer, it->name, it->dtype, it->dims, it->shape, it->codec,
                                             buffer, error);
        memset(buffer, 0xee, it->bytes);
    }
    if (!status)
        status = ousac_oca_writer_save(writer, oca_test_path, error);
    ousac_oca_writer_free(writer);
    free(buffer);
    return status;
}

static ousac_status write_plain(const items *all, ousac_error *error) {
    ousac_oca_writer *writer = NULL;
    ousac_status status = ousac_oca_writer_create(&writer, error);
    for (size_t i = 0; i < all->count && !status; i++) {
        const item *it = &all->list[i];
        status = ousac_oca_writer_tensor(writer, it->name, it->dtype, it->dims, it->shape, it->codec,
                                         it->data, error);
    }
    if (!status)
        status = ousac_oca_writer_save(writer, oca_test_path, error);
    ousac_oca_writer_free(writer);
    return status;
}

static void a_spilled_archive_is_the_same_file(void **state) {
    (void)state;
    ousac_error error = {0};
    items all = items_everything();
    must(write_plain(&all, &error), &error);
    file_bytes plain = oca_test_slurp();
    must(write_spilled(&all, &error), &error);
    file_bytes spilled = oca_test_slurp();
    assert_int_equal(spilled.size, plain.size);
    assert_memory_equal(spilled.data, plain.data, plain.size);
    free(plain.data);
    free(spilled.data);
    items_free(&all);
}

static void a_refused_tensor_leaves_the_writer_usable(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_oca_writer *writer = NULL;
    const uint64_t shape = 2;
    const float values[2] = {1, 2};
    must(ousac_oca_writer_create(&writer, &error), &error);
    assert_int_equal(ousac_oca_writer_tensor_put(writer, "t", OUSAC_DTYPE_F32, 1, &shape, OUSAC_OCA_CODEC_RAW,
                                                 values, &error),
                     OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_oca_writer_spill(writer, "/nowhere/at all", &error), OUSAC_STATUS_IO);
    must(ousac_oca_writer_spill(writer, oca_test_directory, &error), &error);
    assert_int_equal(ousac_oca_writer_spill(writer, oca_test_directory, &error), OUSAC_STATUS_USAGE);
    for (int again = 0; again < 2; again++)
        assert_int_equal(ousac_oca_writer_tensor_put(writer, "t", OUSAC_DTYPE_F32, 1, &shape,
                                                     OUSAC_OCA_CODEC_RAW, values, &error),
                         again ? OUSAC_STATUS_USAGE : OUSAC_STATUS_OK);
    must(ousac_oca_writer_save(writer, oca_test_path, &error), &error);
    ousac_oca_writer_free(writer);
}

static void short_memory_is_an_error(void **state) {
    (void)state;
    items all = items_few();
    ousac_status status = OUSAC_STATUS_MEMORY;
    long n = 0;
    for (; status == OUSAC_STATUS_MEMORY && n < 1000; n++) {
        ousac_error error = {0};
        (void)ousac_memory_fail_after(n);
        status = write_spilled(&all, &error);
        (void)ousac_memory_fail_after(-1);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(n > 15);
    items_free(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_spilled_comes_back),
        cmocka_unit_test(a_missing_directory_is_named),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(a_spilled_archive_is_the_same_file),
        cmocka_unit_test(a_refused_tensor_leaves_the_writer_usable),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, oca_test_setup, oca_test_teardown);
}
