#include "tests/support/oca_items.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

char oca_test_directory[64];
char oca_test_path[128];
const size_t oca_test_element_bytes[8] = {8, 4, 2, 2, 1, 1, 4, 8};

int oca_test_setup(void **state) {
    const char *base = getenv("TMPDIR");
    (void)state;
    if (!base || strlen(base) > 32)
        base = "/tmp";
    (void)snprintf(oca_test_directory, sizeof oca_test_directory, "%s/oca-test-XXXXXX", base);
    if (!mkdtemp(oca_test_directory))
        return -1;
    (void)snprintf(oca_test_path, sizeof oca_test_path, "%s/a.oca", oca_test_directory);
    return 0;
}

int oca_test_teardown(void **state) {
    (void)state;
    (void)unlink(oca_test_path);
    return rmdir(oca_test_directory); /* fails where a temporary file was left behind */
}

uint64_t oca_test_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

file_bytes oca_test_slurp(void) {
    FILE *stream = fopen(oca_test_path, "rb");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, 0, SEEK_END), 0);
    long size = ftell(stream);
    assert_true(size > 0);
    file_bytes bytes = {malloc((size_t)size), (size_t)size};
    assert_non_null(bytes.data);
    rewind(stream);
    assert_int_equal(fread(bytes.data, 1, bytes.size, stream), bytes.size);
    (void)fclose(stream);
    return bytes;
}

int oca_test_read_memory(void *context, uint64_t offset, void *target, size_t bytes) {
    const file_bytes *file = context;
    if (offset > file->size || bytes > file->size - offset)
        return -1;
    memcpy(target, file->data + offset, bytes);
    return 0;
}

items items_create(size_t room) {
    items all = {calloc(room, sizeof(item)), 0, room};
    assert_non_null(all.list);
    return all;
}

void items_free(items *all) {
    for (size_t i = 0; i < all->count; i++)
        free(all->list[i].data);
    free(all->list);
}

void items_add(items *all, const char *name, ousac_dtype dtype, ousac_oca_codec codec, size_t dims,
               const uint64_t *shape, int noise) {
    assert_true(all->count < all->room);
    item *it = &all->list[all->count];
    uint64_t seed = all->count++ + 1;
    memset(it, 0, sizeof *it);
    (void)snprintf(it->name, sizeof it->name, "%s", name);
    it->dtype = dtype;
    it->codec = codec;
    it->dims = dims;
    it->bytes = oca_test_element_bytes[dtype];
    for (size_t d = 0; d < dims; d++) {
        it->shape[d] = shape[d];
        it->bytes *= (size_t)shape[d];
    }
    it->data = malloc(it->bytes);
    assert_non_null(it->data);
    for (size_t i = 0; i < it->bytes; i++) {
        uint64_t r = oca_test_random(&seed);
        it->data[i] = (unsigned char)(noise ? r : r % 19 ? i / 1000 % 7 : r >> 8);
    }
}

items items_everything(void) {
    static const struct {
        size_t dims;
        uint64_t shape[4];
    } shapes[] = {
        {1, {1, 0, 0, 0}}, {1, {67, 0, 0, 0}}, {2, {9, 13, 0, 0}}, {3, {3, 5, 31, 0}}, {4, {5, 1, 7, 11}}};
    items all = items_create(256);
    for (int dtype = 0; dtype < 8; dtype++)
        for (int codec = 0; codec < 3; codec++) {
            char name[OCA_NAME_BYTES];
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
                (void)snprintf(name, sizeof name, "small/%d/%d/%zu", dtype, codec, s);
                items_add(&all, name, (ousac_dtype)dtype, (ousac_oca_codec)codec, shapes[s].dims,
                          shapes[s].shape, s % 2 == 0);
            }
            /* Rows that straddle chunks; the last chunk is short. */
            uint64_t wide[2] = {7, (uint64_t)(5 * OCA_MIB / 14) / oca_test_element_bytes[dtype] + 3};
            (void)snprintf(name, sizeof name, "large/%d/%d", dtype, codec);
            items_add(&all, name, (ousac_dtype)dtype, (ousac_oca_codec)codec, 2, wide, 0);
            /* One whole chunk, exactly. */
            uint64_t whole[1] = {(uint64_t)OCA_MIB / oca_test_element_bytes[dtype]};
            (void)snprintf(name, sizeof name, "whole/%d/%d", dtype, codec);
            items_add(&all, name, (ousac_dtype)dtype, (ousac_oca_codec)codec, 1, whole, dtype % 2);
        }
    return all;
}

items items_few(void) {
    items all = items_create(8);
    uint64_t shape[2] = {5, 60000}, scale[1] = {5};
    items_add(&all, "a", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_RAW, 2, shape, 1);
    items_add(&all, "b", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_ZSTD, 2, shape, 0);
    items_add(&all, "c", OUSAC_DTYPE_F16, OUSAC_OCA_CODEC_SHUFFLE_ZSTD, 2, shape, 0);
    items_add(&all, "d", OUSAC_DTYPE_I8, OUSAC_OCA_CODEC_SHUFFLE_ZSTD, 2, shape, 0);
    items_add(&all, "d.scale", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_RAW, 1, scale, 0);
    return all;
}

ousac_status items_write(const items *all, uint64_t order, ousac_error *error) {
    ousac_oca_writer *writer = NULL;
    size_t *turn = malloc((all->count + 1) * sizeof *turn);
    assert_non_null(turn);
    for (size_t i = 0; i < all->count; i++)
        turn[i] = i;
    for (size_t i = all->count; order && i > 1; i--) {
        size_t other = (size_t)(oca_test_random(&order) % i), kept = turn[i - 1];
        turn[i - 1] = turn[other];
        turn[other] = kept;
    }
    ousac_status status = ousac_oca_writer_create(&writer, error);
    static const char *const pairs[][2] = {
        {"b", "second"}, {"a", ""}, {"\xc3\xa9t\xc3\xa9", "\xf0\x9f\x9a\x80"}, {"a/b", "x\ny"}};
    for (size_t i = 0; !status && i < 4; i++) {
        size_t k = order ? 3 - i : i;
        status = ousac_oca_writer_metadata(writer, pairs[k][0], pairs[k][1], error);
    }
    for (size_t i = 0; !status && i < all->count; i++) {
        const item *it = &all->list[turn[i]];
        status = ousac_oca_writer_tensor(writer, it->name, it->dtype, it->dims, it->shape, it->codec,
                                         it->data, error);
    }
    if (!status)
        status = ousac_oca_writer_save(writer, oca_test_path, error);
    ousac_oca_writer_free(writer);
    free(turn);
    return status;
}
