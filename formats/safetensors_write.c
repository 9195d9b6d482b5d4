#include "formats/safetensors_write.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "formats/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LENGTH_BYTES = 8,
    HEADER_BYTES_MAX = 100000000,
    ALIGNMENT = 8,
    NUMBER_BYTES = 24,
    QUOTED_BYTES = 120 /* of a name in a message */
};

static const char METADATA[] = "__metadata__";

const char *ousac_safetensors_dtype_name(ousac_dtype dtype) {
    switch (dtype) {
    case OUSAC_DTYPE_F64:
        return "F64";
    case OUSAC_DTYPE_F32:
        return "F32";
    case OUSAC_DTYPE_F16:
        return "F16";
    case OUSAC_DTYPE_BF16:
        return "BF16";
    case OUSAC_DTYPE_I8:
        return "I8";
    case OUSAC_DTYPE_U8:
        return "U8";
    case OUSAC_DTYPE_I32:
        return "I32";
    case OUSAC_DTYPE_I64:
        return "I64";
    }
    return NULL;
}

/* A text that grows. Once memory was short, `failed` stays set and nothing more is added. */
typedef struct text {
    char *data;
    size_t size, room;
    int failed;
} text;

static void add_bytes(text *t, const char *bytes, size_t size) {
    if (t->failed || size > SIZE_MAX / 4 - t->size) {
        t->failed = 1;
        return;
    }
    if (t->size + size > t->room) {
        size_t room = 2 * (t->size + size) + 1024;
        char *grown = ousac_regrow(t->data, t->room, room, 1);
        if (!grown) {
            t->failed = 1;
            return;
        }
        t->data = grown;
        t->room = room;
    }
    memcpy(t->data + t->size, bytes, size);
    t->size += size;
}

static void add(text *t, const char *bytes) {
    add_bytes(t, bytes, strlen(bytes));
}

static void add_number(text *t, uint64_t value) {
    char number[NUMBER_BYTES];
    (void)snprintf(number, sizeof number, "%" PRIu64, value);
    add(t, number);
}

/* A JSON string (RFC 8259, section 7): quotes, backslashes and control characters escaped. */
static void add_string(text *t, const char *value) {
    add(t, "\"");
    while (*value) {
        size_t plain = 0;
        while (value[plain] && value[plain] != '"' && value[plain] != '\\' &&
               (unsigned char)value[plain] >= 0x20)
            plain++;
        add_bytes(t, value, plain);
        value += plain;
        if (*value) {
            char escape[8];
            if (*value == '"' || *value == '\\')
                (void)snprintf(escape, sizeof escape, "\\%c", *value);
            else
                (void)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*value);
            add(t, escape);
            value++;
        }
    }
    add(t, "\"");
}

static int compare_entries(const void *a, const void *b) {
    const ousac_safetensors_entry *x = *(const ousac_safetensors_entry *const *)a;
    const ousac_safetensors_entry *y = *(const ousac_safetensors_entry *const *)b;
    size_t p = ousac_dtype_bytes(x->dtype), q = ousac_dtype_bytes(y->dtype);
    return p != q ? (p > q ? -1 : 1) : strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const ousac_safetensors_entry *const *)a)->name,
                  (*(const ousac_safetensors_entry *const *)b)->name);
}

static int compare_keys(const void *a, const void *b) {
    return strcmp((*(const ousac_safetensors_pair *const *)a)->key,
                  (*(const ousac_safetensors_pair *const *)b)->key);
}

/* Everything that one save needs; released as a whole. */
typedef struct save {
    const char *path;
    const ousac_safetensors_entry **order;
    const ousac_safetensors_pair **keys;
    text header;
    ousac_file_writer *out;
} save;

/* Bytes of an entry; USAGE where they do not fit. */
static ousac_status entry_bytes(const ousac_safetensors_entry *entry, uint64_t *bytes, ousac_error *error) {
    uint64_t product = ousac_dtype_bytes(entry->dtype);
    int fits = product > 0 && entry->dims <= OUSAC_SAFETENSORS_DIMS;
    for (size_t d = 0; fits && d < entry->dims; d++) {
        fits = entry->shape[d] == 0 || product <= (uint64_t)(SIZE_MAX / 2) / entry->shape[d];
        product = fits ? product * entry->shape[d] : 0;
    }
    if (!fits)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "tensor \"%.*s\": its dtype, rank or size cannot be written", QUOTED_BYTES,
                          entry->name);
    *bytes = product;
    return OUSAC_STATUS_OK;
}

static ousac_status check_names(save *s, const ousac_safetensors_pair *metadata, size_t metadata_count,
                                const ousac_safetensors_entry *entries, size_t entry_count,
                                ousac_error *error) {
    for (size_t i = 0; i < entry_count; i++) {
        s->order[i] = &entries[i];
        if (strcmp(entries[i].name, METADATA) == 0 ||
            !ousac_utf8_valid(entries[i].name, strlen(entries[i].name)))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "no safetensors file can hold a tensor named \"%.*s\"", QUOTED_BYTES,
                              entries[i].name);
    }
    for (size_t i = 0; i < metadata_count; i++) {
        s->keys[i] = &metadata[i];
        if (!ousac_utf8_valid(metadata[i].key, strlen(metadata[i].key)) ||
            !ousac_utf8_valid(metadata[i].value, strlen(metadata[i].value)))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "metadata \"%.*s\": expected UTF-8", QUOTED_BYTES,
                              metadata[i].key);
    }
    if (metadata_count)
        qsort(s->keys, metadata_count, sizeof *s->keys, compare_keys);
    for (size_t i = 1; i < metadata_count; i++)
        if (strcmp(s->keys[i - 1]->key, s->keys[i]->key) == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "metadata \"%.*s\": expected each key once",
                              QUOTED_BYTES, s->keys[i]->key);
    if (entry_count)
        qsort(s->order, entry_count, sizeof *s->order, compare_names);
    for (size_t i = 1; i < entry_count; i++)
        if (strcmp(s->order[i - 1]->name, s->order[i]->name) == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor \"%.*s\": expected each name once",
                              QUOTED_BYTES, s->order[i]->name);
    if (entry_count)
        qsort(s->order, entry_count, sizeof *s->order, compare_entries);
    return OUSAC_STATUS_OK;
}

/* The header with its length in front, padded so that the data begin at a multiple of ALIGNMENT. */
static ousac_status build_header(save *s, size_t metadata_count, size_t entry_count, ousac_error *error) {
    text *t = &s->header;
    uint64_t offset = 0;
    add_bytes(t, "\0\0\0\0\0\0\0\0", LENGTH_BYTES);
    add(t, "{");
    if (metadata_count) {
        add(t, "\"__metadata__\":{");
        for (size_t i = 0; i < metadata_count; i++) {
            add(t, i ? "," : "");
            add_string(t, s->keys[i]->key);
            add(t, ":");
            add_string(t, s->keys[i]->value);
        }
        add(t, "}");
    }
    for (size_t i = 0; i < entry_count; i++) {
        const ousac_safetensors_entry *entry = s->order[i];
        uint64_t bytes = 0;
        ousac_status status = entry_bytes(entry, &bytes, error);
        if (!status && bytes > (uint64_t)INT64_MAX / 2 - offset)
            status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "the tensors together are too large to write");
        if (status)
            return status;
        add(t, i || metadata_count ? "," : "");
        add_string(t, entry->name);
        add(t, ":{\"dtype\":\"");
        add(t, ousac_safetensors_dtype_name(entry->dtype));
        add(t, "\",\"shape\":[");
        for (size_t d = 0; d < entry->dims; d++) {
            add(t, d ? "," : "");
            add_number(t, entry->shape[d]);
        }
        add(t, "],\"data_offsets\":[");
        add_number(t, offset);
        add(t, ",");
        add_number(t, offset + bytes);
        add(t, "]}");
        offset += bytes;
    }
    add(t, "}");
    while (!t->failed && t->size % ALIGNMENT)
        add(t, " ");
    if (t->failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the header of %zu tensors", entry_count);
    if (t->size - LENGTH_BYTES > HEADER_BYTES_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "names, shapes and metadata take %zu bytes; a safetensors header holds at most %d",
                          t->size - LENGTH_BYTES, HEADER_BYTES_MAX);
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        t->data[i] = (char)(unsigned char)((t->size - LENGTH_BYTES) >> (8 * i));
    return OUSAC_STATUS_OK;
}

ousac_status ousac_safetensors_save(const char *path, const ousac_safetensors_pair *metadata,
                                    size_t metadata_count, const ousac_safetensors_entry *entries,
                                    size_t entry_count, ousac_safetensors_source source, void *self,
                                    ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    save s = {.path = path};
    int named = 0; /* messages of the file writer and of the source name their file by themselves */

    s.order = ousac_malloc(entry_count, sizeof *s.order);
    s.keys = ousac_malloc(metadata_count, sizeof *s.keys);
    if (!s.order || !s.keys) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu tensors", entry_count);
        goto done;
    }
    status = check_names(&s, metadata, metadata_count, entries, entry_count, error);
    if (!status)
        status = build_header(&s, metadata_count, entry_count, error);
    if (status)
        goto done;
    named = 1;
    status = ousac_file_create(&s.out, path, error);
    if (!status)
        status = ousac_file_write(s.out, s.header.data, s.header.size, error);
    for (size_t i = 0; !status && i < entry_count; i++) {
        const void *data = NULL;
        uint64_t bytes = 0;
        status = entry_bytes(s.order[i], &bytes, error);
        if (!status && bytes)
            status = source(self, (size_t)(s.order[i] - entries), &data, error);
        if (!status && bytes)
            status = ousac_file_write(s.out, data, (size_t)bytes, error);
    }
    if (status)
        goto done;
    status = ousac_file_commit(s.out, error);
    s.out = NULL;
done:
    if (status && !named)
        (void)ousac_error_prefix(error, "%s", path);
    ousac_file_discard(s.out);
    ousac_free(s.header.data);
    ousac_free(s.keys);
    ousac_free(s.order);
    return status;
}
