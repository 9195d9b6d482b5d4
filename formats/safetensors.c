#include "formats/safetensors.h"
#include "formats/file.h"
#include "formats/foreign.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "formats/safetensors_parts.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LENGTH_BYTES = 8, /* the header's length, little-endian, before the header */
    HEADER_BYTES_MAX = 100000000,
    VALUES_MAX = 4000000, /* of JSON in a header: bounds the parser's memory */
    QUOTED_BYTES = 120    /* of a hostile name in a message */
};

static const struct dtype_entry {
    const char *name;
    unsigned char bits; /* of an element; those of a tensor fill whole bytes */
    unsigned char readable;
    ousac_dtype dtype;
} dtypes[] = {
    {"BOOL", 8, 0, OUSAC_DTYPE_U8},        {"U8", 8, 0, OUSAC_DTYPE_U8},
    {"I8", 8, 0, OUSAC_DTYPE_I8},          {"F4", 4, 0, OUSAC_DTYPE_U8},
    {"F6_E2M3", 6, 0, OUSAC_DTYPE_U8},     {"F6_E3M2", 6, 0, OUSAC_DTYPE_U8},
    {"F8_E5M2", 8, 0, OUSAC_DTYPE_U8},     {"F8_E4M3", 8, 0, OUSAC_DTYPE_U8},
    {"F8_E5M2FNUZ", 8, 0, OUSAC_DTYPE_U8}, {"F8_E4M3FNUZ", 8, 0, OUSAC_DTYPE_U8},
    {"F8_E8M0", 8, 0, OUSAC_DTYPE_U8},     {"I16", 16, 0, OUSAC_DTYPE_U8},
    {"U16", 16, 0, OUSAC_DTYPE_U8},        {"F16", 16, 1, OUSAC_DTYPE_F16},
    {"BF16", 16, 1, OUSAC_DTYPE_BF16},     {"I32", 32, 0, OUSAC_DTYPE_I32},
    {"U32", 32, 0, OUSAC_DTYPE_U8},        {"F32", 32, 1, OUSAC_DTYPE_F32},
    {"F64", 64, 1, OUSAC_DTYPE_F64},       {"I64", 64, 0, OUSAC_DTYPE_I64},
    {"U64", 64, 0, OUSAC_DTYPE_U8},        {"C64", 64, 0, OUSAC_DTYPE_U8},
};

/* FORMAT about one tensor; `reason_` is a literal format. */
#define FAIL_TENSOR(error, path, tensor, reason_, ...)                                                       \
    OUSAC_FAIL((error), OUSAC_STATUS_FORMAT, "%s: tensor \"%.*s\": " reason_, (path), QUOTED_BYTES,          \
               (tensor), __VA_ARGS__)

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* The members of an object sorted by name, in a new block; FORMAT where a name occurs twice. */
static ousac_status sort_members(const cJSON *object, const cJSON ***sorted, size_t *count, const char *path,
                                 ousac_error *error) {
    const cJSON *item, **items;
    size_t used = 0;

    *sorted = NULL;
    *count = 0;
    for (item = object->child; item; item = item->next)
        ++*count;
    items = ousac_malloc(*count, sizeof *items);
    if (!items)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for %zu names", path, *count);
    for (item = object->child; item; item = item->next)
        items[used++] = item;
    qsort(items, used, sizeof *items, compare_names);
    for (size_t i = 1; i < used; i++)
        if (strcmp(items[i - 1]->string, items[i]->string) == 0) {
            ousac_status status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: name \"%.*s\" occurs twice",
                                             path, QUOTED_BYTES, items[i]->string);
            ousac_free(items);
            return status;
        }
    *sorted = items;
    return OUSAC_STATUS_OK;
}

static ousac_status check_metadata(const cJSON *metadata, const char *path, ousac_error *error) {
    const cJSON **sorted, *item;
    size_t count;
    ousac_status status;

    if (cJSON_IsNull(metadata)) /* the format's own reader takes it for none */
        return OUSAC_STATUS_OK;
    if (!cJSON_IsObject(metadata))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: __metadata__ must be an object", path);
    for (item = metadata->child; item; item = item->next)
        if (!cJSON_IsString(item))
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: __metadata__ \"%.*s\" must be a string", path,
                              QUOTED_BYTES, item->string);
    status = sort_members(metadata, &sorted, &count, path, error);
    ousac_free(sorted);
    return status;
}

static ousac_status parse_shape(ousac_safetensors_tensor *tensor, const cJSON *shape, const char *path,
                                ousac_error *error) {
    const cJSON *item;
    if (!cJSON_IsArray(shape))
        return FAIL_TENSOR(error, path, tensor->name, "\"%s\" must be present and an array", "shape");
    tensor->count = 1;
    for (item = shape->child; item; item = item->next) {
        unsigned long long dim;
        if (tensor->dims == OUSAC_SAFETENSORS_DIMS)
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: tensor \"%.*s\": more than %d dimensions are not supported", path,
                              QUOTED_BYTES, tensor->name, OUSAC_SAFETENSORS_DIMS);
        if (!ousac_json_whole(item, &dim))
            return FAIL_TENSOR(error, path, tensor->name, "dimension %zu is not an integer below 2^53",
                               tensor->dims);
        if (dim && tensor->count > UINT64_MAX / dim)
            return FAIL_TENSOR(error, path, tensor->name, "dimensions up to %zu overflow", tensor->dims);
        tensor->count *= dim;
        tensor->shape[tensor->dims++] = dim;
    }
    return OUSAC_STATUS_OK;
}

/* Fills one tensor from the member `item`; `data` and `data_size` are the file's data section. */
static ousac_status parse_tensor(ousac_safetensors_tensor *tensor, const cJSON *item,
                                 const unsigned char *data, uint64_t data_size, const char *path,
                                 ousac_error *error) {
    const cJSON *member, *dtype = NULL, *shape = NULL, *offsets = NULL;
    const struct dtype_entry *entry = NULL;
    unsigned long long begin, end;
    ousac_status status;

    tensor->name = item->string;
    if (!cJSON_IsObject(item))
        return FAIL_TENSOR(error, path, tensor->name, "expected an %s", "object");
    for (member = item->child; member;
         member = member->next) { /* other keys are ignored, as the format's own reader does */
        const cJSON **slot = strcmp(member->string, "dtype") == 0          ? &dtype
                             : strcmp(member->string, "shape") == 0        ? &shape
                             : strcmp(member->string, "data_offsets") == 0 ? &offsets
                                                                           : NULL;
        if (slot && *slot)
            return FAIL_TENSOR(error, path, tensor->name, "key \"%s\" occurs twice", member->string);
        if (slot)
            *slot = member;
    }

    if (!cJSON_IsString(dtype))
        return FAIL_TENSOR(error, path, tensor->name, "\"%s\" must be present and a string", "dtype");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes && !entry; i++)
        if (strcmp(dtype->valuestring, dtypes[i].name) == 0)
            entry = &dtypes[i];
    if (!entry)
        return FAIL_TENSOR(error, path, tensor->name, "unknown dtype \"%.*s\"", QUOTED_BYTES,
                           dtype->valuestring);
    tensor->dtype_name = entry->name;
    tensor->readable = entry->readable;
    tensor->dtype = entry->dtype;

    status = parse_shape(tensor, shape, path, error);
    if (status)
        return status;
    if (tensor->count > UINT64_MAX / entry->bits)
        return FAIL_TENSOR(error, path, tensor->name, "the size of %llu elements overflows",
                           (unsigned long long)tensor->count);
    if (tensor->count * entry->bits % CHAR_BIT)
        return FAIL_TENSOR(error, path, tensor->name,
                           "%llu elements of %u bits (dtype %s) do not fill whole bytes",
                           (unsigned long long)tensor->count, (unsigned)entry->bits, entry->name);
    tensor->bytes = tensor->count * entry->bits / CHAR_BIT;

    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !ousac_json_whole(cJSON_GetArrayItem(offsets, 0), &begin) ||
        !ousac_json_whole(cJSON_GetArrayItem(offsets, 1), &end))
        return FAIL_TENSOR(error, path, tensor->name, "\"%s\" must be two integers below 2^53",
                           "data_offsets");
    if (begin > end || end > data_size)
        return FAIL_TENSOR(error, path, tensor->name,
                           "bytes %llu to %llu lie outside the data section of %llu", begin, end,
                           (unsigned long long)data_size);
    if (end - begin != tensor->bytes)
        return FAIL_TENSOR(error, path, tensor->name, "has %llu bytes, its shape and dtype %s need %llu",
                           end - begin, tensor->dtype_name, (unsigned long long)tensor->bytes);
    tensor->data = data + begin;
    return OUSAC_STATUS_OK;
}

static int compare_ranges(const void *a, const void *b) {
    const ousac_safetensors_tensor *x = *(const ousac_safetensors_tensor *const *)a;
    const ousac_safetensors_tensor *y = *(const ousac_safetensors_tensor *const *)b;
    const unsigned char *p = x->data, *q = y->data;
    if (p != q)
        return p < q ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* the empty ones at an offset come first */
}

/* The tensors must tile the data section: no byte unowned, none owned twice. */
static ousac_status check_tiling(const ousac_safetensors *file, const unsigned char *data, uint64_t data_size,
                                 const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_safetensors_tensor **order = ousac_malloc(file->count, sizeof *order);
    uint64_t reached = 0;

    if (!order)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for %zu tensors", path, file->count);
    for (size_t i = 0; i < file->count; i++)
        order[i] = &file->tensors[i];
    qsort(order, file->count, sizeof *order, compare_ranges);
    for (size_t i = 0; i < file->count; i++) {
        uint64_t begin = (uint64_t)((const unsigned char *)order[i]->data - data);
        if (begin != reached) {
            status = FAIL_TENSOR(
                error, path, order[i]->name, "starts at byte %llu of the data section, %s %llu",
                (unsigned long long)begin,
                begin < reached ? "overlapping the one before, which ends at" : "leaving a gap after",
                (unsigned long long)reached);
            goto done;
        }
        reached = begin + order[i]->bytes;
    }
    if (reached != data_size)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %llu bytes of data, the tensors account for %llu",
                       path, (unsigned long long)data_size, (unsigned long long)reached);

done:
    ousac_free(order);
    return status;
}

static ousac_status parse_file(ousac_safetensors *file, const unsigned char *bytes, size_t size,
                               const char *path, ousac_error *error) {
    const cJSON **members = NULL;
    const unsigned char *data;
    uint64_t header_size = 0, data_size;
    size_t member_count;
    ousac_status status;

    if (size < LENGTH_BYTES) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu bytes, too short for a safetensors file",
                            path, size);
        goto done;
    }
    for (int i = 0; i < LENGTH_BYTES; i++)
        header_size |= (uint64_t)bytes[i] << (8 * i);
    if (header_size > HEADER_BYTES_MAX || header_size > size - LENGTH_BYTES) {
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_FORMAT,
            "%s: a header of %llu bytes; the file has %zu after the length, and at most %d are allowed", path,
            (unsigned long long)header_size, size - LENGTH_BYTES, HEADER_BYTES_MAX);
        goto done;
    }
    if (header_size == 0 || bytes[LENGTH_BYTES] != '{') {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: the header does not begin with '{'", path);
        goto done;
    }
    data = bytes + LENGTH_BYTES + header_size;
    data_size = size - LENGTH_BYTES - header_size;
    status = ousac_json_parse(&file->header, (const char *)bytes + LENGTH_BYTES, (size_t)header_size,
                              VALUES_MAX, OUSAC_JSON_NUMBERS_MARKED, path, error);
    if (status)
        goto done;
    status = sort_members(file->header, &members, &member_count, path, error);
    if (status)
        goto done;
    file->tensors = ousac_calloc(member_count, sizeof *file->tensors);
    if (!file->tensors) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for %zu tensors", path, member_count);
        goto done;
    }
    for (size_t i = 0; i < member_count; i++) {
        if (strcmp(members[i]->string, "__metadata__") == 0) {
            file->metadata = members[i];
            status = check_metadata(file->metadata, path, error);
        } else {
            status = parse_tensor(&file->tensors[file->count], members[i], data, data_size, path, error);
            file->count++;
        }
        if (status)
            goto done;
    }
    status = check_tiling(file, data, data_size, path, error);

done:
    ousac_free(members);
    return status;
}

ousac_status ousac_safetensors_open_memory(ousac_safetensors **result, const void *data, size_t size,
                                           const char *name, ousac_error *error) {
    ousac_safetensors *file = ousac_calloc(1, sizeof *file);
    ousac_status status;

    *result = NULL;
    if (!file)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", name);
    status = parse_file(file, data, size, name, error);
    status =
        ousac_known_explain(status, name, data, size, OUSAC_KNOWN_SAFETENSORS, "a safetensors file", error);
    if (status)
        ousac_safetensors_close(file);
    else
        *result = file;
    return status;
}

ousac_status ousac_safetensors_open(ousac_safetensors **result, const char *path, ousac_error *error) {
    ousac_file_view view;
    ousac_status status;

    *result = NULL;
    status = ousac_file_map(&view, path, error);
    if (status)
        return status;
    status = ousac_safetensors_open_memory(result, view.data, view.size, path, error);
    if (status)
        ousac_file_unmap(&view);
    else
        (*result)->view = view;
    return status;
}

void ousac_safetensors_close(ousac_safetensors *file) {
    if (!file)
        return;
    for (size_t i = 0; i < file->shard_count; i++)
        ousac_safetensors_close(file->shards[i]);
    ousac_free(file->shards);
    cJSON_Delete(file->header);
    ousac_free(file->tensors);
    ousac_file_unmap(&file->view);
    ousac_free(file);
}

size_t ousac_safetensors_count(const ousac_safetensors *file) {
    return file->count;
}

const ousac_safetensors_tensor *ousac_safetensors_at(const ousac_safetensors *file, size_t index) {
    return index < file->count ? &file->tensors[index] : NULL;
}

static int compare_key(const void *key, const void *tensor) {
    return strcmp(key, ((const ousac_safetensors_tensor *)tensor)->name);
}

const ousac_safetensors_tensor *ousac_safetensors_find(const ousac_safetensors *file, const char *name) {
    return bsearch(name, file->tensors, file->count, sizeof *file->tensors, compare_key);
}

const char *ousac_safetensors_metadata(const ousac_safetensors *file, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(file->metadata, key));
}

int ousac_safetensors_metadata_next(const ousac_safetensors *file, const void **position, const char **key,
                                    const char **value) {
    const cJSON *last = *position, *item = last ? last->next : file->metadata ? file->metadata->child : NULL;
    if (!item)
        return 0;
    *position = item;
    *key = item->string;
    *value = item->valuestring;
    return 1;
}

ousac_status ousac_safetensors_read_f32(const ousac_safetensors_tensor *tensor, uint64_t first,
                                        uint64_t count, float *target, ousac_error *error) {
    if (!tensor->readable)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "tensor \"%.*s\": dtype %s cannot be read as float32, expected F64, F32, F16 or BF16",
            QUOTED_BYTES, tensor->name, tensor->dtype_name);
    if (first > tensor->count || count > tensor->count - first)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor \"%.*s\": elements %llu + %llu of only %llu",
                          QUOTED_BYTES, tensor->name, (unsigned long long)first, (unsigned long long)count,
                          (unsigned long long)tensor->count);
    if (ousac_dtype_to_f32(tensor->dtype,
                           (const unsigned char *)tensor->data + first * ousac_dtype_bytes(tensor->dtype),
                           (size_t)count, target) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "tensor \"%.*s\": dtype %s has no conversion",
                          QUOTED_BYTES, tensor->name, tensor->dtype_name);
    for (uint64_t i = 0; i < count; i++)
        if (!isfinite(target[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "tensor \"%.*s\": element %llu is not finite in float32", QUOTED_BYTES,
                              tensor->name, (unsigned long long)(first + i));
    return OUSAC_STATUS_OK;
}

void ousac_safetensors_drop(const ousac_safetensors *file, const ousac_safetensors_tensor *tensor,
                            uint64_t first, uint64_t count) {
    const uint64_t element = tensor->count ? tensor->bytes / tensor->count : 0;
    for (size_t i = 0; i < file->shard_count; i++)
        if (ousac_safetensors_find(file->shards[i], tensor->name)) {
            ousac_safetensors_drop(file->shards[i], tensor, first, count);
            return;
        }
    if (first <= tensor->count && count <= tensor->count - first)
        ousac_file_drop(&file->view, (const unsigned char *)tensor->data + first * element,
                        (size_t)(count * element));
}
