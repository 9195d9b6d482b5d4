#include "formats/safetensors_parts.h"

#include "formats/file.h"
#include "formats/json.h"
#include "formats/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 64 << 20, VALUES_MAX = 4000000, SHARDS_MAX = 4096, QUOTED_BYTES = 120 };

/* Of the names of shards, in the order in which they are first met; borrowed from the index. */
typedef struct names {
    const char *list[SHARDS_MAX];
    size_t count;
} names;

/* The place of a name, which is added where it is new; SHARDS_MAX where there is no more room. */
static size_t place_of(names *shards, const char *name) {
    size_t i = 0;
    while (i < shards->count && strcmp(shards->list[i], name) != 0)
        i++;
    if (i == shards->count && i < SHARDS_MAX)
        shards->list[shards->count++] = name;
    return i;
}

/* A shard lies beside its index: no folder, and none above it. */
static int is_plain(const char *name) {
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static ousac_status collect(const cJSON *map, names *shards, const char *path, ousac_error *error) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, map) {
        if (!cJSON_IsString(item) || !is_plain(item->valuestring))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_FORMAT,
                "%s: \"weight_map\": tensor \"%.*s\": expected the name of a file beside the index", path,
                QUOTED_BYTES, item->string);
        if (place_of(shards, item->valuestring) == SHARDS_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %d shards", path, SHARDS_MAX);
    }
    return shards->count ? OUSAC_STATUS_OK
                         : OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"weight_map\" names no tensor", path);
}

static ousac_status open_shards(ousac_safetensors *file, const names *shards, const char *path,
                                ousac_error *error) {
    const char *slash = strrchr(path, '/');
    const size_t directory = slash ? (size_t)(slash - path) + 1 : 0;
    file->shards = ousac_calloc(shards->count, sizeof(ousac_safetensors *));
    if (!file->shards)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < shards->count; i++) {
        const size_t bytes = directory + strlen(shards->list[i]) + 1;
        char *name = ousac_malloc(bytes, 1);
        if (!name)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
        (void)snprintf(name, bytes, "%.*s%s", (int)directory, path, shards->list[i]);
        const ousac_status status = ousac_safetensors_open(&file->shards[i], name, error);
        ousac_free(name);
        if (status)
            return status;
        file->shard_count++;
        file->count += ousac_safetensors_count(file->shards[i]);
    }
    return OUSAC_STATUS_OK;
}

static int compare_tensors(const void *a, const void *b) {
    return strcmp(((const ousac_safetensors_tensor *)a)->name, ((const ousac_safetensors_tensor *)b)->name);
}

/* The tensors of all shards, which must be those of the map, each where it says. */
static ousac_status gather(ousac_safetensors *file, const cJSON *map, const names *shards, const char *path,
                           ousac_error *error) {
    const cJSON *item = NULL;
    size_t used = 0;
    file->tensors = ousac_malloc(file->count ? file->count : 1, sizeof *file->tensors);
    if (!file->tensors)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    for (size_t s = 0; s < file->shard_count; s++)
        for (size_t i = 0; i < ousac_safetensors_count(file->shards[s]); i++)
            file->tensors[used++] = *ousac_safetensors_at(file->shards[s], i);
    qsort(file->tensors, used, sizeof *file->tensors, compare_tensors);
    for (size_t i = 0; i < used; i++) {
        const char *name = file->tensors[i].name;
        if (i && strcmp(file->tensors[i - 1].name, name) == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%.*s\" is in two shards", path,
                              QUOTED_BYTES, name);
    }
    used = 0;
    cJSON_ArrayForEach(item, map) {
        const char *shard = item->valuestring;
        size_t s = 0;
        while (strcmp(shards->list[s], shard) != 0)
            s++;
        if (!ousac_safetensors_find(file->shards[s], item->string))
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "%s: tensor \"%.*s\": not in %.*s, where the index has it", path, QUOTED_BYTES,
                              item->string, QUOTED_BYTES, shard);
        used++;
    }
    if (used != file->count)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu tensors, but its shards hold %zu", path, used,
                          file->count);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_safetensors_open_index(ousac_safetensors **result, const char *path, ousac_error *error) {
    char *text = NULL;
    size_t size = 0;
    cJSON *root = NULL;
    const cJSON *map = NULL;
    names *shards = ousac_calloc(1, sizeof *shards);
    ousac_safetensors *file = ousac_calloc(1, sizeof *file);
    ousac_status status = OUSAC_STATUS_OK;
    *result = NULL;
    if (!file || !shards)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    if (!status)
        status = ousac_file_read_text(&text, &size, path, INDEX_BYTES_MAX, error);
    if (!status)
        status = ousac_json_parse(&root, text, size, VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    if (!status)
        status = ousac_json_check_unique(root, path, error);
    if (!status) {
        map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
        if (!cJSON_IsObject(map))
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                                "%s: not an index of shards: \"weight_map\" must be an object", path);
    }
    if (!status)
        status = collect(map, shards, path, error);
    if (!status)
        status = open_shards(file, shards, path, error);
    if (!status)
        status = gather(file, map, shards, path, error);
    cJSON_Delete(root);
    ousac_free(text);
    ousac_free(shards);
    if (status)
        ousac_safetensors_close(file);
    else
        *result = file;
    return status;
}
