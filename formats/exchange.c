#include "formats/exchange.h"

#include "formats/foreign.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "formats/oca.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { NAMES_MAX = 4000000, QUOTED_BYTES = 120, REASON_BYTES = 128 };

/* The two enums are pinned to the same values by the format. */
_Static_assert((int)OUSAC_DTYPE_F64 == (int)OCA_F64 && (int)OUSAC_DTYPE_I64 == (int)OCA_I64 &&
                   (int)OUSAC_OCA_CODEC_SHUFFLE_ZSTD == (int)OCA_CODEC_SHUFFLE_ZSTD,
               "dtypes and codecs of the writer and of the reader");

static const char *const CODECS[] = {"raw", "zstd", "shuffle+zstd"};
enum { CODEC_COUNT = sizeof CODECS / sizeof *CODECS };

/* -1 for another name. */
static int parse_codec(ousac_oca_codec *codec, const char *name) {
    for (int i = 0; i < CODEC_COUNT; i++)
        if (strcmp(CODECS[i], name) == 0) {
            *codec = (ousac_oca_codec)i;
            return 0;
        }
    return -1;
}

const char *ousac_oca_codec_name(ousac_oca_codec codec) {
    return (int)codec >= 0 && (int)codec < CODEC_COUNT ? CODECS[codec] : NULL;
}

static ousac_status status_of(oca_status got) {
    switch (got) {
    case OCA_OK:
        return OUSAC_STATUS_OK;
    case OCA_ERR_MEMORY:
        return OUSAC_STATUS_MEMORY;
    case OCA_ERR_IO:
        return OUSAC_STATUS_IO;
    case OCA_ERR_VERSION:
    case OCA_ERR_LIMIT:
    case OCA_ERR_UNSUPPORTED:
        return OUSAC_STATUS_UNSUPPORTED;
    default:
        return OUSAC_STATUS_FORMAT;
    }
}

static ousac_status fail_archive(const char *path, const char *tensor, oca_status got, ousac_error *error) {
    if (tensor)
        return OUSAC_FAIL(error, status_of(got), "%s: tensor \"%.*s\": %s", path, QUOTED_BYTES, tensor,
                          oca_status_string(got));
    return OUSAC_FAIL(error, status_of(got), "%s: %s", path, oca_status_string(got));
}

/* Whether a value of "config" is what is said of an archive, and not somebody else's. */
static int is_own_config(const char *key, const char *value) {
    return strcmp(key, OUSAC_EXCHANGE_CONFIG_KEY) == 0 &&
           strncmp(value, OUSAC_EXCHANGE_CONFIG_BEGIN, sizeof OUSAC_EXCHANGE_CONFIG_BEGIN - 1) == 0;
}

static void *allocate(void *context, size_t size) {
    (void)context;
    return ousac_malloc(size, 1);
}

static void release(void *context, void *block) {
    (void)context;
    ousac_free(block);
}

/* ---- .oca to safetensors ---- */

typedef struct outward {
    const char *path, *config; /* config: NULL for none */
    oca_file *file;
    ousac_safetensors_entry *entries;
    ousac_safetensors_pair *pairs;
    size_t pair_count;
    char *codecs;  /* printed by cJSON */
    cJSON *scalar; /* array of names; NULL for none */
    unsigned char *buffer;
    size_t room;
} outward;

static ousac_status open_archive(outward *o, ousac_error *error) {
    char reason[REASON_BYTES];
    oca_fault fault = {NULL, 0};
    oca_options options = {0};
    options.allocate = allocate;
    options.release = release;
    options.fault = &fault;
    errno = 0;
    oca_status got = oca_open_path(&o->file, o->path, &options);
    if (got == OCA_OK)
        return OUSAC_STATUS_OK;
    if (got == OCA_ERR_IO && errno && strerror_r(errno, reason, sizeof reason) == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot be read: %s", o->path, reason);
    const ousac_status status =
        fault.what ? OUSAC_FAIL(error, status_of(got), "%s: %s (%s, record %llu)", o->path,
                                oca_status_string(got), fault.what, (unsigned long long)fault.item)
                   : fail_archive(o->path, NULL, got, error);
    return ousac_known_explain_file(status, o->path, OUSAC_KNOWN_ARCHIVE, "an .oca archive", error);
}

/* Tells entry `i` that it is a scalar, if the archive says so of a tensor that can be one. */
static ousac_status take_scalars(outward *o, ousac_error *error) {
    const char *text = oca_metadata(o->file, OUSAC_EXCHANGE_SCALAR_KEY);
    const cJSON *item;
    oca_tensor tensor;
    if (!text)
        return OUSAC_STATUS_OK;
    ousac_status status =
        ousac_json_parse(&o->scalar, text, strlen(text), NAMES_MAX, OUSAC_JSON_NUMBERS_ANY, o->path, error);
    if (status)
        return status;
    int valid = cJSON_IsArray(o->scalar);
    for (item = valid ? o->scalar->child : NULL; item && valid; item = item->next) {
        valid = cJSON_IsString(item) && oca_tensor_find(o->file, item->valuestring, &tensor) == OCA_OK &&
                tensor.count == 1 && tensor.dims == 1;
        if (valid)
            o->entries[tensor.index].dims = 0;
    }
    if (!valid)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" must be an array of names of tensors of shape (1)", o->path,
                          OUSAC_EXCHANGE_SCALAR_KEY);
    return OUSAC_STATUS_OK;
}

static ousac_status list_tensors(outward *o, ousac_exchange_counts *counts, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t count = oca_tensor_count(o->file);
    cJSON *codecs = cJSON_CreateObject();
    int kept = codecs != NULL;
    o->entries = ousac_calloc(count, sizeof *o->entries);
    if (!o->entries || !codecs) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu tensors", o->path, count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        ousac_safetensors_entry *entry = &o->entries[i];
        oca_tensor tensor;
        oca_status got = oca_tensor_at(o->file, i, &tensor);
        if (got != OCA_OK) {
            status = fail_archive(o->path, NULL, got, error);
            goto done;
        }
        if (strcmp(tensor.name, "__metadata__") == 0) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                                "%s: no safetensors file can hold a tensor named \"__metadata__\"", o->path);
            goto done;
        }
        entry->name = tensor.name;
        entry->dtype = (ousac_dtype)(int)tensor.dtype;
        entry->dims = tensor.dims;
        memcpy(entry->shape, tensor.shape, sizeof tensor.shape);
        counts->bytes += tensor.bytes;
        if (tensor.codec != OCA_CODEC_RAW)
            kept = kept && cJSON_AddStringToObject(codecs, tensor.name, CODECS[tensor.codec]);
    }
    counts->tensors = count;
    if (codecs->child)
        o->codecs = cJSON_PrintUnformatted(codecs);
    if (!kept || (codecs->child && !o->codecs))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu codecs", o->path, count);
    if (!status)
        status = take_scalars(o, error);
done:
    cJSON_Delete(codecs);
    return status;
}

static ousac_status list_metadata(outward *o, ousac_exchange_counts *counts, ousac_error *error) {
    const size_t count = oca_metadata_count(o->file);
    o->pairs = ousac_calloc(count + 2, sizeof *o->pairs);
    if (!o->pairs)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu metadata", o->path, count);
    for (size_t i = 0; i < count; i++) {
        ousac_safetensors_pair *pair = &o->pairs[o->pair_count];
        oca_status got = oca_metadata_at(o->file, i, &pair->key, &pair->value);
        if (got != OCA_OK)
            return fail_archive(o->path, NULL, got, error);
        if (strcmp(pair->key, OUSAC_EXCHANGE_CODEC_KEY) == 0 || is_own_config(pair->key, pair->value) ||
            (o->config && strcmp(pair->key, OUSAC_EXCHANGE_CONFIG_KEY) == 0))
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: metadata \"%s\" cannot be carried: the way back would take it for its own",
                              o->path, pair->key);
        o->pair_count += strcmp(pair->key, OUSAC_EXCHANGE_SCALAR_KEY) != 0;
    }
    counts->metadata = o->pair_count;
    if (o->config)
        o->pairs[o->pair_count++] = (ousac_safetensors_pair){OUSAC_EXCHANGE_CONFIG_KEY, o->config};
    if (o->codecs)
        o->pairs[o->pair_count++] = (ousac_safetensors_pair){OUSAC_EXCHANGE_CODEC_KEY, o->codecs};
    return OUSAC_STATUS_OK;
}

/* An ousac_safetensors_source. */
static ousac_status lend(void *self, size_t index, const void **data, ousac_error *error) {
    outward *o = self;
    oca_tensor tensor;
    oca_status got = oca_tensor_at(o->file, index, &tensor);
    if (got == OCA_OK && oca_borrow(o->file, index, data) == OCA_OK)
        got = oca_verify_tensor(o->file, index);
    else if (got == OCA_OK) {
        if (tensor.bytes > SIZE_MAX / 2)
            return fail_archive(o->path, tensor.name, OCA_ERR_LIMIT, error);
        if (tensor.bytes > o->room) {
            ousac_free(o->buffer);
            o->room = 0;
            o->buffer = ousac_malloc((size_t)tensor.bytes, 1);
            if (!o->buffer)
                return fail_archive(o->path, tensor.name, OCA_ERR_MEMORY, error);
            o->room = (size_t)tensor.bytes;
        }
        *data = o->buffer;
        got = oca_read(o->file, index, 0, tensor.shape[0], tensor.dtype, o->buffer, (size_t)tensor.bytes);
    }
    return got == OCA_OK ? OUSAC_STATUS_OK : fail_archive(o->path, tensor.name, got, error);
}

ousac_status ousac_export_safetensors(const char *archive, const char *target, const char *config,
                                      ousac_exchange_counts *counts, ousac_error *error) {
    ousac_exchange_counts found = {0};
    outward o = {.path = archive, .config = config};
    ousac_status status = open_archive(&o, error);
    if (!status)
        status = list_tensors(&o, &found, error);
    if (!status)
        status = list_metadata(&o, &found, error);
    if (!status)
        status =
            ousac_safetensors_save(target, o.pairs, o.pair_count, o.entries, found.tensors, lend, &o, error);
    if (!status && counts)
        *counts = found;
    ousac_free(o.buffer);
    ousac_free(o.pairs);
    ousac_free(o.entries);
    cJSON_Delete(o.scalar);
    cJSON_free(o.codecs);
    oca_close(o.file);
    return status;
}

/* ---- safetensors to .oca ---- */

typedef struct inward {
    const char *path;
    ousac_safetensors *file;
    ousac_oca_writer *writer;
    cJSON *codecs; /* NULL where the file says nothing */
    ousac_oca_codec codec;
} inward;

static ousac_status carry_metadata(inward *in, ousac_exchange_counts *counts, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const void *position = NULL;
    const char *key, *value;
    while (!status && ousac_safetensors_metadata_next(in->file, &position, &key, &value)) {
        if (is_own_config(key, value))
            continue;
        if (strcmp(key, OUSAC_EXCHANGE_CODEC_KEY) == 0) {
            status = ousac_json_parse(&in->codecs, value, strlen(value), NAMES_MAX, OUSAC_JSON_NUMBERS_ANY,
                                      in->path, error);
            if (!status && !cJSON_IsObject(in->codecs))
                status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: metadata \"%s\" must be a JSON object",
                                    in->path, key);
        } else if (!*key || strcmp(key, OUSAC_EXCHANGE_SCALAR_KEY) == 0) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                                "%s: an .oca archive cannot carry the metadata \"%s\"", in->path, key);
        } else {
            status = ousac_oca_writer_metadata(in->writer, key, value, error);
            counts->metadata++;
        }
    }
    return status;
}

static ousac_status tensor_codec(const inward *in, const char *name, ousac_oca_codec *codec,
                                 ousac_error *error) {
    const cJSON *said = in->codecs ? cJSON_GetObjectItemCaseSensitive(in->codecs, name) : NULL;
    *codec = in->codecs ? OUSAC_OCA_CODEC_RAW : in->codec;
    if (said && (!cJSON_IsString(said) || parse_codec(codec, said->valuestring)))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\": tensor \"%.*s\": expected raw, zstd or shuffle+zstd",
                          in->path, OUSAC_EXCHANGE_CODEC_KEY, QUOTED_BYTES, name);
    return OUSAC_STATUS_OK;
}

static int dtype_of(const char *name, ousac_dtype *dtype) {
    for (int d = OUSAC_DTYPE_F64; d <= OUSAC_DTYPE_I64; d++)
        if (strcmp(name, ousac_safetensors_dtype_name((ousac_dtype)d)) == 0) {
            *dtype = (ousac_dtype)d;
            return 1;
        }
    return 0;
}

static ousac_status carry_tensor(inward *in, const ousac_safetensors_tensor *tensor, cJSON *scalars,
                                 ousac_error *error) {
    static const uint64_t one[] = {1};
    ousac_dtype dtype = OUSAC_DTYPE_F32;
    ousac_oca_codec codec = OUSAC_OCA_CODEC_RAW;
    const char *reason = NULL;
    if (!dtype_of(tensor->dtype_name, &dtype))
        reason = "a dtype that .oca archives do not have";
    else if (tensor->count == 0)
        reason = "a dimension of 0, which .oca archives do not have";
    else if (tensor->dims > OUSAC_OCA_DIMS)
        reason = "more than 4 dimensions";
    else if (!*tensor->name)
        reason = "an empty name";
    if (reason)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: tensor \"%.*s\" (%s) cannot be carried: it has %s", in->path, QUOTED_BYTES,
                          tensor->name, tensor->dtype_name, reason);
    ousac_status status = tensor_codec(in, tensor->name, &codec, error);
    if (status)
        return status;
    if (tensor->dims == 0) {
        cJSON *name = cJSON_CreateString(tensor->name);
        if (!name || !cJSON_AddItemToArray(scalars, name)) {
            cJSON_Delete(name);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a name", in->path);
        }
    }
    return ousac_oca_writer_tensor(in->writer, tensor->name, dtype, tensor->dims ? tensor->dims : 1,
                                   tensor->dims ? tensor->shape : one, codec, tensor->data, error);
}

static ousac_status carry_tensors(inward *in, ousac_exchange_counts *counts, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t count = ousac_safetensors_count(in->file);
    cJSON *scalars = cJSON_CreateArray();
    char *text = NULL;
    if (!scalars) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for names", in->path);
        goto done;
    }
    for (size_t i = 0; !status && i < count; i++) {
        const ousac_safetensors_tensor *tensor = ousac_safetensors_at(in->file, i);
        status = carry_tensor(in, tensor, scalars, error);
        counts->bytes += tensor->bytes;
    }
    counts->tensors = count;
    if (status || !scalars->child)
        goto done;
    text = cJSON_PrintUnformatted(scalars);
    if (!text)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for names", in->path);
    else
        status = ousac_oca_writer_metadata(in->writer, OUSAC_EXCHANGE_SCALAR_KEY, text, error);
done:
    cJSON_free(text);
    cJSON_Delete(scalars);
    return status;
}

ousac_status ousac_import_safetensors(const char *source, const char *target, ousac_oca_codec codec,
                                      ousac_exchange_counts *counts, ousac_error *error) {
    ousac_exchange_counts found = {0};
    inward in = {.path = source, .codec = codec};
    ousac_status status = ousac_safetensors_open(&in.file, source, error);
    if (!status)
        status = ousac_oca_writer_create(&in.writer, error);
    if (!status)
        status = carry_metadata(&in, &found, error);
    if (!status)
        status = carry_tensors(&in, &found, error);
    if (!status)
        status = ousac_oca_writer_save(in.writer, target, error);
    if (!status && counts)
        *counts = found;
    cJSON_Delete(in.codecs);
    ousac_oca_writer_free(in.writer);
    ousac_safetensors_close(in.file);
    return status;
}
