/* The .oca reader and writer when something fails (every read, every allocation), and with many threads: the
 * status is the right one, nothing leaks, an older file survives, results are those of one thread.
 */
#include "formats/memory.h"
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "tests/support/oca_items.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct flaky {
    const file_bytes *bytes;
    long reads_left, allocations_left; /* negative: no limit */
    long live;
} flaky;

static int flaky_read(void *context, uint64_t offset, void *target, size_t bytes) {
    flaky *f = context;
    if (f->reads_left == 0)
        return -1;
    f->reads_left--;
    return oca_test_read_memory((void *)(uintptr_t)f->bytes, offset, target, bytes);
}

static void *flaky_allocate(void *context, size_t bytes) {
    flaky *f = context;
    if (f->allocations_left == 0)
        return NULL;
    f->allocations_left--;
    f->live++;
    return malloc(bytes);
}

static void flaky_release(void *context, void *block) {
    flaky *f = context;
    assert_non_null(block);
    f->live--;
    free(block);
}

/* Opens, reads every tensor as float and verifies; the first failure ends it. */
static oca_status read_everything(const file_bytes *bytes, flaky *f, int by_callback) {
    oca_options options = {.allocate = flaky_allocate, .release = flaky_release, .memory_context = f};
    oca_file *file = NULL;
    float *target = malloc(4 * 300000);
    oca_status status = by_callback ? oca_open_callback(&file, flaky_read, f, bytes->size, &options)
                                    : oca_open_memory(&file, bytes->data, bytes->size, &options);
    assert_true(!status == !!file);
    for (size_t i = 0; !status && i < oca_tensor_count(file); i++) {
        oca_tensor t;
        assert_int_equal(oca_tensor_at(file, i, &t), OCA_OK);
        status = oca_read(file, i, 0, t.shape[0], OCA_F32, target, (size_t)t.count * 4);
        if (!status)
            status = oca_verify_tensor(file, i);
    }
    oca_close(file);
    free(target);
    assert_int_equal(f->live, 0);
    return status;
}

static void test_every_failing_read_is_reported(void **state) {
    (void)state;
    items all = items_few();
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes bytes = oca_test_slurp();
    oca_status status = OCA_ERR_IO;
    long n = 0;
    for (; status == OCA_ERR_IO && n < 1000; n++) {
        flaky f = {&bytes, n, -1, 0};
        status = read_everything(&bytes, &f, 1);
    }
    assert_int_equal(status, OCA_OK);
    assert_true(n > 10);
    free(bytes.data);
    items_free(&all);
}

static void test_every_failing_allocation_of_the_reader_is_reported(void **state) {
    (void)state;
    items all = items_few();
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes bytes = oca_test_slurp();
    for (int by_callback = 0; by_callback < 2; by_callback++) {
        oca_status status = OCA_ERR_MEMORY;
        long n = 0;
        for (; status == OCA_ERR_MEMORY && n < 1000; n++) {
            flaky f = {&bytes, -1, n, 0};
            status = read_everything(&bytes, &f, by_callback);
        }
        assert_int_equal(status, OCA_OK);
        assert_true(n > 5);
    }
    free(bytes.data);
    items_free(&all);
}

static void test_every_failing_allocation_of_the_writer_leaves_the_old_file(void **state) {
    (void)state;
    items all = items_few(), none = {NULL, 0, 0};
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes expected = oca_test_slurp();
    assert_int_equal(items_write(&none, 0, NULL), OUSAC_STATUS_OK);
    file_bytes old = oca_test_slurp();
    ousac_status status = OUSAC_STATUS_MEMORY;
    long n = 0;
    for (; status == OUSAC_STATUS_MEMORY && n < 1000; n++) {
        ousac_error error = {0};
        (void)ousac_memory_fail_after(n);
        status = items_write(&all, 0, &error);
        (void)ousac_memory_fail_after(-1);
        assert_int_equal(error.status, status);
        file_bytes now = oca_test_slurp();
        const file_bytes *wanted = status ? &old : &expected;
        assert_int_equal(now.size, wanted->size);
        assert_memory_equal(now.data, wanted->data, wanted->size);
        free(now.data);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(n > 10);
    free(old.data);
    free(expected.data);
    items_free(&all);
}

/* --- threads --- */

typedef struct reader {
    const oca_file *file;
    const items *all;
    size_t turn;
    int wrong;
} reader;

static void *read_all(void *argument) {
    reader *r = argument;
    for (size_t k = 0; k < r->all->count; k++) {
        const item *it = &r->all->list[(k + r->turn * 13) % r->all->count];
        unsigned char *target = malloc(it->bytes);
        oca_tensor t;
        r->wrong |= oca_tensor_find(r->file, it->name, &t) != OCA_OK || !target ||
                    oca_read(r->file, t.index, 0, t.shape[0], t.dtype, target, it->bytes) != OCA_OK ||
                    memcmp(target, it->data, it->bytes) != 0;
        free(target);
    }
    return NULL;
}

typedef struct task_call {
    void (*task)(void *, size_t);
    void *argument;
    size_t index;
} task_call;

static void *run_task(void *argument) {
    task_call *call = argument;
    call->task(call->argument, call->index);
    return NULL;
}

typedef struct pool {
    size_t calls, largest;
    int fail, skip_last;
} pool;

static int parallel(void *context, size_t count, void (*task)(void *, size_t), void *argument) {
    pool *p = context;
    pthread_t threads[OCA_LANES_MAX];
    task_call calls[OCA_LANES_MAX];
    assert_true(count > 0 && count <= OCA_LANES_MAX);
    p->calls++;
    p->largest = count > p->largest ? count : p->largest;
    if (p->skip_last)
        count--;
    for (size_t i = count; i-- > 0;) {
        calls[i] = (task_call){task, argument, i};
        assert_int_equal(pthread_create(&threads[i], NULL, run_task, &calls[i]), 0);
    }
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    return p->fail;
}

static void test_concurrent_reads_of_one_handle(void **state) {
    (void)state;
    enum { THREADS = 4 };
    items all = items_everything();
    oca_file *file = NULL;
    pthread_t threads[THREADS];
    reader readers[THREADS];
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    for (size_t i = 0; i < THREADS; i++) {
        readers[i] = (reader){file, &all, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(readers[i].wrong);
    }
    oca_close(file);
    items_free(&all);
}

static void check_item(const oca_file *file, const item *it) {
    unsigned char *target = malloc(it->bytes);
    oca_tensor t;
    assert_non_null(target);
    assert_int_equal(oca_tensor_find(file, it->name, &t), OCA_OK);
    assert_int_equal(oca_read(file, t.index, 0, t.shape[0], t.dtype, target, it->bytes), OCA_OK);
    assert_memory_equal(target, it->data, it->bytes);
    assert_int_equal(oca_verify_tensor(file, t.index), OCA_OK);
    free(target);
}

static void test_chunks_decode_in_parallel(void **state) {
    (void)state;
    items all = items_create(3);
    uint64_t shape[2] = {1000, 1200};
    for (int codec = 0; codec < 3; codec++)
        items_add(&all,
                  codec == 0   ? "a"
                  : codec == 1 ? "b"
                               : "c",
                  OUSAC_DTYPE_F32, (ousac_oca_codec)codec, 2, shape, 0);
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    file_bytes bytes = oca_test_slurp();
    for (size_t lanes = 0; lanes < 7; lanes++) {
        pool p = {0};
        oca_options options = {.parallel = parallel, .parallel_context = &p, .lanes = lanes};
        oca_file *file = NULL;
        assert_int_equal(oca_open_callback(&file, oca_test_read_memory, &bytes, bytes.size, &options),
                         OCA_OK);
        for (size_t i = 0; i < all.count; i++)
            check_item(file, &all.list[i]);
        assert_int_equal(p.largest, lanes == 0 || lanes > 5 ? 5
                                    : lanes == 1            ? 0
                                                            : lanes); /* five chunks each */
        p.fail = 1;
        assert_int_equal(oca_verify_tensor(file, 0), lanes == 1 ? OCA_OK : OCA_ERR_TASK);
        p.fail = 0;
        p.skip_last = 1;
        assert_int_equal(oca_verify_tensor(file, 0), lanes == 1 ? OCA_OK : OCA_ERR_TASK);
        oca_close(file);
    }
    oca_tensor t;
    oca_file *file = NULL;
    oca_fault fault = {"untouched", 3};
    oca_options options = {.lanes = OCA_LANES_MAX + 1, .fault = &fault};
    assert_int_equal(oca_open_memory(&file, bytes.data, bytes.size, &options), OCA_ERR_ARGUMENT);
    assert_non_null(fault.what);
    options.lanes = OCA_LANES_MAX;
    assert_int_equal(oca_open_memory(&file, bytes.data, bytes.size, &options), OCA_OK);
    assert_null(fault.what);
    assert_int_equal(oca_tensor_at(file, 0, &t), OCA_OK);
    oca_close(file);
    free(bytes.data);
    items_free(&all);
}

static int count_and_fail(void *context, void *target, size_t target_bytes, const void *source,
                          size_t bytes) {
    (void)target;
    (void)source;
    assert_true(bytes < target_bytes);
    ++*(int *)context;
    return -1;
}

static void test_the_callers_decompressor_is_used(void **state) {
    (void)state;
    items all = items_few();
    int calls = 0;
    oca_options options = {.decompress = count_and_fail, .decompress_context = &calls};
    oca_file *file = NULL;
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(oca_open_path(&file, oca_test_path, &options), OCA_OK);
    assert_int_equal(oca_verify_tensor(file, 0), OCA_OK);
    assert_int_equal(calls, 0);
    assert_int_equal(oca_verify_tensor(file, 1), OCA_ERR_COMPRESSED);
    assert_int_equal(calls, 1);
    oca_close(file);
    items_free(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_failing_read_is_reported),
        cmocka_unit_test(test_every_failing_allocation_of_the_reader_is_reported),
        cmocka_unit_test(test_every_failing_allocation_of_the_writer_leaves_the_old_file),
        cmocka_unit_test(test_concurrent_reads_of_one_handle),
        cmocka_unit_test(test_chunks_decode_in_parallel),
        cmocka_unit_test(test_the_callers_decompressor_is_used),
    };
    return cmocka_run_group_tests_name("oca_robust", tests, oca_test_setup, oca_test_teardown);
}
