#include "tests/support/write_safetensors.h"

#include "formats/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 4096 };

/* Text that grows; `failed` is kept until the end, so that callers check once. */
typedef struct text {
    char *data;
    size_t size, room;
    int failed;
} text;

static void text_add(text *t, const char *data, size_t size) {
    if (t->failed)
        return;
    if (size > t->room - t->size) {
        size_t room = 2 * t->room + size;
        char *grown = ousac_regrow(t->data, t->room, room, 1);
        if (grown == NULL) {
            t->failed = 1;
            return;
        }
        t->data = grown;
        t->room = room;
    }
    memcpy(t->data + t->size, data, size);
    t->size += size;
}

static void text_print(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void text_print(text *t, const char *format, ...) {
    char line[128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line)
        t->failed = 1;
    else
        text_add(t, line, (size_t)length);
}

static void text_quote(text *t, const char *value) {
    text_add(t, "\"", 1);
    for (; *value != '\0'; value++) {
        unsigned char byte = (unsigned char)*value;
        if (byte == '"' || byte == '\\')
            text_add(t, "\\", 1);
        if (byte < 0x20)
            text_print(t, "\\u%04x", byte);
        else
            text_add(t, value, 1);
    }
    text_add(t, "\"", 1);
}

static const char *spelled(ousac_dtype dtype) {
    switch (dtype) {
    case OUSAC_DTYPE_F64:
        return "F64";
    case OUSAC_DTYPE_F32:
        return "F32";
    case OUSAC_DTYPE_F16:
        return "F16";
    case OUSAC_DTYPE_BF16:
        return "BF16";
    default:
        return NULL;
    }
}

static uint64_t element_count(const write_tensor *tensor) {
    uint64_t count = 1;
    for (size_t i = 0; i < tensor->dims; i++)
        count *= tensor->shape[i];
    return count;
}

static ousac_status write_header(text *header, const char *path, const write_tensor *tensors, size_t count,
                                 const write_metadata *metadata, size_t metadata_count, ousac_error *error) {
    uint64_t offset = 0;
    text_add(header, "{", 1);
    if (metadata_count > 0) {
        text_print(header, "\"__metadata__\":{");
        for (size_t i = 0; i < metadata_count; i++) {
            if (i > 0)
                text_add(header, ",", 1);
            text_quote(header, metadata[i].key);
            text_add(header, ":", 1);
            text_quote(header, metadata[i].value);
        }
        text_add(header, "}", 1);
    }
    for (size_t i = 0; i < count; i++) {
        const write_tensor *tensor = &tensors[i];
        if (spelled(tensor->dtype) == NULL || tensor->dims > WRITE_SAFETENSORS_DIMS)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "%s: tensor '%s': expected f64, f32, f16 or bf16 and at most %d dimensions",
                              path, tensor->name, (int)WRITE_SAFETENSORS_DIMS);
        if (i > 0 || metadata_count > 0)
            text_add(header, ",", 1);
        text_quote(header, tensor->name);
        text_print(header, ":{\"dtype\":\"%s\",\"shape\":[", spelled(tensor->dtype));
        for (size_t k = 0; k < tensor->dims; k++)
            text_print(header, "%s%" PRIu64, k > 0 ? "," : "", tensor->shape[k]);
        uint64_t end = offset + element_count(tensor) * ousac_dtype_bytes(tensor->dtype);
        text_print(header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset, end);
        offset = end;
    }
    text_add(header, "}", 1);
    while (!header->failed && header->size % 8 != 0)
        text_add(header, " ", 1);
    if (header->failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the header", path);
    return OUSAC_STATUS_OK;
}

static int write_values(FILE *file, const write_tensor *tensor) {
    double converted[CHUNK]; /* room for the widest element */
    uint64_t left = element_count(tensor);
    const float *source = tensor->data;
    while (left > 0) {
        size_t part = left < CHUNK ? (size_t)left : CHUNK;
        if (ousac_dtype_from_f32(tensor->dtype, source, part, converted) != 0 ||
            fwrite(converted, ousac_dtype_bytes(tensor->dtype), part, file) != part)
            return -1;
        source += part;
        left -= part;
    }
    return 0;
}

ousac_status write_safetensors(const char *path, const write_tensor *tensors, size_t count,
                               const write_metadata *metadata, size_t metadata_count, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    text header = {0};
    FILE *file = NULL;
    unsigned char length[8];

    status = write_header(&header, path, tensors, count, metadata, metadata_count, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header.size >> (8 * i));
    file = fopen(path, "wb");
    int lost = file == NULL || fwrite(length, 1, sizeof length, file) != sizeof length ||
               fwrite(header.data, 1, header.size, file) != header.size;
    for (size_t i = 0; i < count && !lost; i++)
        lost = write_values(file, &tensors[i]) != 0;
    if (file != NULL) {
        lost |= fclose(file) != 0;
        file = NULL;
    }
    if (lost)
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write: %s", path, strerror(errno));
done:
    ousac_free(header.data);
    return status;
}
