/* Reads archives on any machine, 32-bit or big-endian, with oca.c and the C library alone, and writes what it
 * saw to standard output for check_portable.py, little-endian whatever the machine:
 *
 *     reader_portable FRAMES ARCHIVE...
 *
 * For every tensor a line "NAME DTYPE BYTES F32BYTES" and then the bytes as stored and as float32 (none where
 * the reader does not convert). There is no zstd here: FRAMES holds every compressed chunk of the archives
 * beside its content, as u32 sizes, frame, content, and the reader's `decompress` callback looks frames up.
 */
#include "formats/oca.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    unsigned char *data;
    size_t size;
} bytes;

static int load(const char *path, bytes *file) {
    FILE *stream = fopen(path, "rb");
    long size;
    file->data = NULL;
    file->size = 0;
    if (!stream)
        return 0;
    if (fseek(stream, 0, SEEK_END) == 0 && (size = ftell(stream)) >= 0 && fseek(stream, 0, SEEK_SET) == 0) {
        file->data = (unsigned char *)malloc((size_t)size + 1);
        if (file->data)
            file->size = fread(file->data, 1, (size_t)size, stream);
    }
    (void)fclose(stream);
    return file->data != NULL;
}

static size_t get32(const unsigned char *p) {
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

/* oca_options.decompress */
static int look_up(void *context, void *target, size_t target_bytes, const void *source,
                   size_t source_bytes) {
    const bytes *frames = (const bytes *)context;
    size_t at = 0;
    while (at + 8 <= frames->size) {
        const size_t packed = get32(frames->data + at), content = get32(frames->data + at + 4);
        at += 8;
        if (packed > frames->size - at || content > frames->size - at - packed)
            return 1;
        if (packed == source_bytes && content == target_bytes &&
            memcmp(frames->data + at, source, packed) == 0) {
            memcpy(target, frames->data + at + packed, content);
            return 0;
        }
        at += packed + content;
    }
    return 1;
}

static int read_at(void *context, uint64_t offset, void *target, size_t size) {
    const bytes *file = (const bytes *)context;
    if (offset > file->size || size > file->size - (size_t)offset)
        return 1;
    memcpy(target, file->data + (size_t)offset, size);
    return 0;
}

/* Elements of this machine's byte order, to standard output in the other where this one is big-endian. */
static void put(unsigned char *data, size_t size, size_t element) {
    const unsigned one = 1;
    size_t i, k;
    if (*(const unsigned char *)&one != 1)
        for (i = 0; i + element <= size; i += element)
            for (k = 0; k < element / 2; k++) {
                const unsigned char byte = data[i + k];
                data[i + k] = data[i + element - 1 - k];
                data[i + element - 1 - k] = byte;
            }
    (void)fwrite(data, 1, size, stdout);
}

static int show(const oca_file *file, size_t index) {
    oca_tensor tensor;
    unsigned char *stored, *numbers;
    size_t size, floats;
    oca_status status = oca_tensor_at(file, index, &tensor), converted;
    if (status != OCA_OK || tensor.count > SIZE_MAX / 8) {
        fprintf(stderr, "tensor %lu: %s\n", (unsigned long)index, oca_status_string(status));
        return 1;
    }
    size = (size_t)tensor.bytes;
    floats = (size_t)tensor.count * 4;
    stored = (unsigned char *)malloc(size);
    numbers = (unsigned char *)malloc(floats);
    if (!stored || !numbers)
        status = OCA_ERR_MEMORY;
    if (status == OCA_OK)
        status = oca_verify_tensor(file, index);
    if (status == OCA_OK)
        status = oca_read(file, index, 0, tensor.shape[0], tensor.dtype, stored, size);
    if (status == OCA_OK) {
        converted = oca_read(file, index, 0, tensor.shape[0], OCA_F32, numbers, floats);
        if (converted != OCA_OK)
            floats = 0;
        printf("%s %d %lu %lu\n", tensor.name, (int)tensor.dtype, (unsigned long)size, (unsigned long)floats);
        put(stored, size, oca_dtype_bytes(tensor.dtype));
        put(numbers, floats, 4);
    } else {
        fprintf(stderr, "%s: %s\n", tensor.name, oca_status_string(status));
    }
    free(numbers);
    free(stored);
    return status != OCA_OK;
}

int main(int argc, char **argv) {
    bytes frames, data;
    oca_options options;
    int i, failed = 0;
    if (argc < 2 || !load(argv[1], &frames)) {
        fprintf(stderr, "usage: reader_portable FRAMES ARCHIVE...\n");
        return 2;
    }
    memset(&options, 0, sizeof options);
    options.decompress = look_up;
    options.decompress_context = &frames;
    for (i = 2; i < argc && !failed; i++) {
        oca_file *file[3] = {NULL, NULL, NULL}; /* by path, from memory, through the callback */
        size_t t, k;
        if (!load(argv[i], &data))
            return 2;
        if (oca_open_path(&file[0], argv[i], &options) != OCA_OK ||
            oca_open_memory(&file[1], data.data, data.size, &options) != OCA_OK ||
            oca_open_callback(&file[2], read_at, &data, data.size, &options) != OCA_OK) {
            fprintf(stderr, "%s: cannot be opened\n", argv[i]);
            failed = 1;
        }
        for (k = 0; k < 3 && !failed; k++) {
            printf("%s %lu\n", argv[i], (unsigned long)oca_tensor_count(file[k]));
            for (t = 0; t < oca_tensor_count(file[k]) && !failed; t++)
                failed = show(file[k], t);
        }
        for (k = 0; k < 3; k++)
            oca_close(file[k]);
        free(data.data);
    }
    free(frames.data);
    return failed;
}
