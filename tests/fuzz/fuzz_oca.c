/* Fuzz target of the .oca reader: open, list, read, convert, truncate, verify and lend, from memory and by
 * callback. Checksums are sealed first, or hardly any input would come past them. Every allocation is
 * bounded.
 *
 *     clang -fsanitize=fuzzer,address,undefined -DOCA_WITH_ZSTD -I. tests/fuzz/fuzz_oca.c formats/oca.c
 * -lxxhash -lzstd
 *
 * tests/fuzz/replay.c runs inputs through it without the fuzzer.
 */
#include "formats/oca.h"
#include "tests/fuzz/seal.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALLOCATION_MAX = 1 << 26, READ_MAX = 1 << 22 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    const unsigned char *data;
    size_t size;
} input;

static void *allocate(void *context, size_t bytes) {
    (void)context;
    if (bytes > ALLOCATION_MAX)
        abort(); /* the bound that the reader promises for an input of this size */
    return malloc(bytes);
}

static void release(void *context, void *block) {
    (void)context;
    free(block);
}

static int read_at(void *context, uint64_t offset, void *target, size_t bytes) {
    const input *in = context;
    if (offset > in->size || bytes > in->size - offset)
        abort(); /* the reader promises never to ask */
    memcpy(target, in->data + offset, bytes);
    return 0;
}

static int run_backwards(void *context, size_t count, void (*task)(void *, size_t), void *argument) {
    (void)context;
    while (count)
        task(argument, --count);
    return 0;
}

static void read_rows(const oca_file *file, const oca_tensor *t, uint64_t first, uint64_t rows,
                      oca_dtype as) {
    uint64_t row = t->count / t->shape[0], wide = oca_dtype_bytes(as);
    if (rows && row > READ_MAX / wide / rows)
        return;
    unsigned char *target = malloc((size_t)(rows * row * wide) + 1);
    if (!target)
        return;
    if (oca_read(file, t->index, first, rows, as, target, (size_t)(rows * row * wide)) == OCA_ERR_ARGUMENT)
        abort();
    free(target);
}

static void use(const oca_file *file) {
    const char *key = NULL, *value = NULL;
    size_t characters = 0;
    for (size_t i = 0; i < oca_metadata_count(file); i++)
        if (oca_metadata_at(file, i, &key, &value) || oca_metadata(file, key) != value)
            abort();
    for (size_t i = 0; i < oca_tensor_count(file) && i < 32; i++) {
        oca_tensor t, found;
        const void *lent = NULL;
        if (oca_tensor_at(file, i, &t) || oca_tensor_find(file, t.name, &found) || found.index != i)
            abort();
        characters += strlen(t.name);
        if (t.bytes <= READ_MAX)
            (void)oca_verify_tensor(file, i);
        if (!oca_borrow(file, i, &lent)) /* what is lent can be read to its end */
            characters += ((const unsigned char *)lent)[0] + ((const unsigned char *)lent)[t.bytes - 1];
        for (int as = 0; as < 8; as++)
            read_rows(file, &t, 0, t.shape[0], (oca_dtype)as);
        read_rows(file, &t, t.shape[0] / 2, t.shape[0] - t.shape[0] / 2, OCA_F32);
        read_rows(file, &t, t.shape[0] - 1, 1, t.dtype);
        read_rows(file, &t, t.shape[0], 1, t.dtype);
    }
    (void)characters;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned char *copy = malloc(size ? size : 1);
    oca_options options;
    oca_file *file = NULL;
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    if (size > 64 && !(copy[size - 1] & 1))
        seal_archive(copy, size);
    memset(&options, 0, sizeof options);
    options.allocate = allocate;
    options.release = release;
    if (!oca_open_memory(&file, copy, size, &options))
        use(file);
    oca_close(file);
    input in = {copy, size};
    options.parallel = run_backwards;
    options.lanes = 3;
    if (!oca_open_callback(&file, read_at, &in, size, &options))
        use(file);
    oca_close(file);
    free(copy);
    return 0;
}
