/* Writer of .oca archives (OCA.md). It shares nothing with the reader, not even the hash, so that each is a
 * check on the other.
 */
#include "formats/oca_write.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "formats/oca_chunk.h"
#include "formats/spill.h"
#include "formats/utf8.h"

#include <string.h>
#include <xxhash.h>

enum {
    HEADER_BYTES = 64,
    COUNTS_BYTES = 48,
    METADATA_BYTES = 32,
    TENSOR_BYTES = 104,
    CHUNK_BYTES = 24,
    ALIGNMENT = 64,
    VERSION_MAJOR = 1,
    VERSION_MINOR = 0,
    CHUNK_DECODED_BYTES = OUSAC_OCA_CHUNK_BYTES,
    INDEX_BYTES_MAX = 256 << 20 /* what readers take unless told otherwise */
};

static const char SCALE_SUFFIX[] = ".scale";

typedef struct text_pair {
    char *key, *value;
} text_pair;

/* A chunk as it will be stored, in the writer's spill. */
typedef struct spilled_chunk {
    uint64_t offset, stored, hash;
} spilled_chunk;

typedef struct tensor {
    char *name;
    ousac_dtype dtype;
    ousac_oca_codec codec;
    size_t dims;
    uint64_t shape[OUSAC_OCA_DIMS];
    size_t bytes;
    const unsigned char *data; /* NULL where it was spilled or is lent at the save */
    void *owned;               /* NULL where the data is borrowed */
    spilled_chunk *spilled;    /* of every chunk; NULL where it was not spilled */
    ousac_oca_source source;   /* lends the data; NULL where it is there or was spilled */
    void *source_self;
    size_t source_index;
} tensor;

struct ousac_oca_writer {
    text_pair *pairs; /* sorted by key */
    size_t pair_count, pair_room;
    tensor *tensors; /* sorted by name */
    size_t tensor_count, tensor_room;
    ousac_spill *spill;       /* NULL for none */
    ousac_oca_packer *packer; /* beside it */
};

/* Everything that one save needs; released as a whole. */
typedef struct save {
    const ousac_oca_writer *writer;
    ousac_file_writer *out;
    unsigned char *index;
    size_t index_bytes, chunk_count, text_bytes;
    ousac_oca_packer *packer;
    unsigned char *read_back; /* a chunk from the spill */
    uint64_t position;        /* bytes of the file so far */
} save;

static void put16(unsigned char *p, unsigned value) {
    p[0] = (unsigned char)value;
    p[1] = (unsigned char)(value >> 8);
}

static void put32(unsigned char *p, uint32_t value) {
    put16(p, value & 0xffff);
    put16(p + 2, value >> 16);
}

static void put64(unsigned char *p, uint64_t value) {
    put32(p, (uint32_t)value);
    put32(p + 4, (uint32_t)(value >> 32));
}

static size_t align(size_t value) {
    return (value + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Room for one more element; *items is left as it was on failure. */
static int reserve(void **items, size_t count, size_t *room, size_t size) {
    if (count < *room)
        return 1;
    if (*room > SIZE_MAX / 2 - 8)
        return 0;
    size_t wanted = 2 * *room + 8;
    void *grown = ousac_regrow(*items, *room, wanted, size);
    if (!grown)
        return 0;
    *items = grown;
    *room = wanted;
    return 1;
}

/* Position of the first element whose text, the first member of its struct, does not sort before `text`. */
static size_t position_of(const void *items, size_t count, size_t size, const char *text, int *present) {
    size_t low = 0, high = count;
    *present = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *there;
        memcpy(&there, (const char *)items + middle * size, sizeof there);
        int order = strcmp(there, text);
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
            *present = *present || !order;
        }
    }
    return low;
}

ousac_status ousac_oca_writer_create(ousac_oca_writer **writer, ousac_error *error) {
    *writer = ousac_calloc(1, sizeof **writer);
    if (!*writer)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an archive writer");
    return OUSAC_STATUS_OK;
}

void ousac_oca_writer_free(ousac_oca_writer *writer) {
    if (!writer)
        return;
    for (size_t i = 0; i < writer->pair_count; i++) {
        ousac_free(writer->pairs[i].key);
        ousac_free(writer->pairs[i].value);
    }
    for (size_t i = 0; i < writer->tensor_count; i++) {
        ousac_free(writer->tensors[i].name);
        ousac_free(writer->tensors[i].owned);
        ousac_free(writer->tensors[i].spilled);
    }
    ousac_oca_packer_free(writer->packer);
    ousac_spill_free(writer->spill);
    ousac_free(writer->pairs);
    ousac_free(writer->tensors);
    ousac_free(writer);
}

ousac_status ousac_oca_writer_metadata(ousac_oca_writer *writer, const char *key, const char *value,
                                       ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    text_pair pair = {NULL, NULL};
    void *items = writer->pairs;
    int present;
    if (!*key || !ousac_utf8_valid(key, strlen(key)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "metadata key '%s': expected non-empty UTF-8", key);
    if (!ousac_utf8_valid(value, strlen(value)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "metadata '%s': expected a value in UTF-8", key);
    size_t at = position_of(writer->pairs, writer->pair_count, sizeof pair, key, &present);
    if (present)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "metadata '%s': expected each key once", key);
    pair.key = ousac_strdup(key);
    pair.value = ousac_strdup(value);
    if (!pair.key || !pair.value ||
        !reserve(&items, writer->pair_count, &writer->pair_room, sizeof *writer->pairs)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for metadata '%s'", key);
        goto done;
    }
    writer->pairs = items;
    memmove(writer->pairs + at + 1, writer->pairs + at, (writer->pair_count - at) * sizeof pair);
    writer->pairs[at] = pair;
    writer->pair_count++;
    pair.key = pair.value = NULL;
done:
    ousac_free(pair.key);
    ousac_free(pair.value);
    return status;
}

/* Bytes of the data, or 0 where a dimension is 0 or the product does not fit. */
static size_t data_bytes(size_t dims, const uint64_t *shape, size_t element) {
    size_t bytes = element;
    for (size_t d = 0; d < dims; d++) {
        if (!shape[d] || bytes > (SIZE_MAX / 2) / shape[d])
            return 0;
        bytes *= (size_t)shape[d];
    }
    return bytes;
}

/* Takes dtype, codec, dims and where the data is from `given`. */
static ousac_status add_tensor(ousac_oca_writer *writer, const char *name, const tensor *given,
                               const uint64_t *shape, ousac_error *error) {
    tensor t = *given;
    const ousac_dtype dtype = t.dtype;
    const ousac_oca_codec codec = t.codec;
    const size_t dims = t.dims;
    void *items = writer->tensors;
    size_t element = ousac_dtype_bytes(dtype);
    int present;
    if (!*name || !ousac_utf8_valid(name, strlen(name)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor name '%s': expected non-empty UTF-8", name);
    if (!element)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': %d is no dtype", name, (int)dtype);
    if (codec != OUSAC_OCA_CODEC_RAW && codec != OUSAC_OCA_CODEC_ZSTD &&
        codec != OUSAC_OCA_CODEC_SHUFFLE_ZSTD)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': %d is no codec", name, (int)codec);
    if (dims < 1 || dims > OUSAC_OCA_DIMS)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': expected 1 to %d dimensions, got %zu",
                          name, OUSAC_OCA_DIMS, dims);
    t.bytes = data_bytes(dims, shape, element);
    if (!t.bytes)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "tensor '%s': expected dimensions of at least 1 whose product fits in memory",
                          name);
    if (!t.data && !t.source)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': expected data", name);
    size_t at = position_of(writer->tensors, writer->tensor_count, sizeof t, name, &present);
    if (present)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': expected each name once", name);
    memcpy(t.shape, shape, dims * sizeof *shape);
    t.name = ousac_strdup(name);
    if (!t.name || !reserve(&items, writer->tensor_count, &writer->tensor_room, sizeof *writer->tensors)) {
        ousac_free(t.name);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for tensor '%s'", name);
    }
    writer->tensors = items;
    memmove(writer->tensors + at + 1, writer->tensors + at, (writer->tensor_count - at) * sizeof t);
    writer->tensors[at] = t;
    writer->tensor_count++;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_oca_writer_tensor(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                     size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                     const void *data, ousac_error *error) {
    const tensor given = {.dtype = dtype, .codec = codec, .dims = dims, .data = data};
    return add_tensor(writer, name, &given, shape, error);
}

ousac_status ousac_oca_writer_tensor_take(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                          size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                          void *data, ousac_error *error) {
    const tensor given = {.dtype = dtype, .codec = codec, .dims = dims, .data = data, .owned = data};
    return add_tensor(writer, name, &given, shape, error);
}

ousac_status ousac_oca_writer_tensor_stream(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                            size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                            ousac_oca_source source, void *self, size_t index,
                                            ousac_error *error) {
    const tensor given = {.dtype = dtype,
                          .codec = codec,
                          .dims = dims,
                          .source = source,
                          .source_self = self,
                          .source_index = index};
    return add_tensor(writer, name, &given, shape, error);
}

static size_t chunks_of(const tensor *t) {
    return (t->bytes - 1) / CHUNK_DECODED_BYTES + 1;
}

ousac_status ousac_oca_writer_spill(ousac_oca_writer *writer, const char *directory, ousac_error *error) {
    if (writer->spill)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: expected one spill of an archive writer",
                          directory);
    ousac_status status = ousac_oca_packer_create(&writer->packer, CHUNK_DECODED_BYTES, error);
    if (!status)
        status = ousac_spill_create(&writer->spill, directory, error);
    if (status) {
        ousac_oca_packer_free(writer->packer);
        writer->packer = NULL;
    }
    return status;
}

/* Packs every chunk of a tensor into the spill, and lets go of the data. */
static ousac_status spill_tensor(ousac_oca_writer *writer, tensor *t, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    spilled_chunk *chunks = ousac_malloc(chunks_of(t), sizeof *chunks);
    if (!chunks)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the chunks of tensor '%s'", t->name);
    for (size_t i = 0; !status && i < chunks_of(t); i++) {
        const unsigned char *data = t->data + i * CHUNK_DECODED_BYTES, *stored = NULL;
        const size_t left = t->bytes - i * CHUNK_DECODED_BYTES;
        const size_t bytes = left < CHUNK_DECODED_BYTES ? left : CHUNK_DECODED_BYTES;
        size_t stored_bytes = 0;
        status = ousac_oca_pack(writer->packer, t->name, t->dtype, t->codec, data, bytes, &stored,
                                &stored_bytes, error);
        chunks[i] = (spilled_chunk){0, stored_bytes, XXH64(data, bytes, 0)};
        if (!status)
            status = ousac_spill_append(writer->spill, stored, stored_bytes, &chunks[i].offset, error);
    }
    if (status) {
        ousac_free(chunks);
        return status;
    }
    t->spilled = chunks;
    t->data = NULL;
    return status;
}

/* Takes a tensor back that was added last under this name. */
static void remove_tensor(ousac_oca_writer *writer, size_t at) {
    ousac_free(writer->tensors[at].name);
    writer->tensor_count--;
    memmove(writer->tensors + at, writer->tensors + at + 1,
            (writer->tensor_count - at) * sizeof *writer->tensors);
}

ousac_status ousac_oca_writer_tensor_put(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                         size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                         const void *data, ousac_error *error) {
    int present;
    if (!writer->spill)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': expected a spill to put it into", name);
    const tensor given = {.dtype = dtype, .codec = codec, .dims = dims, .data = data};
    ousac_status status = add_tensor(writer, name, &given, shape, error);
    if (status)
        return status;
    const size_t at =
        position_of(writer->tensors, writer->tensor_count, sizeof *writer->tensors, name, &present);
    status = spill_tensor(writer, &writer->tensors[at], error);
    if (status)
        remove_tensor(writer, at);
    return status;
}

/* Where an i8 tensor has a companion "<name>.scale", that must be f32, one for each innermost row. */
static ousac_status check_scale(const ousac_oca_writer *w, const tensor *t, ousac_error *error) {
    int present;
    size_t dims = t->dims > 1 ? t->dims - 1 : 1, length = strlen(t->name);
    char *name = ousac_malloc(length + sizeof SCALE_SUFFIX, 1);
    if (!name)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to look for the scales of '%s'", t->name);
    memcpy(name, t->name, length);
    memcpy(name + length, SCALE_SUFFIX, sizeof SCALE_SUFFIX);
    const tensor *scale = w->tensors + position_of(w->tensors, w->tensor_count, sizeof *t, name, &present);
    ousac_free(name);
    if (!present)
        return OUSAC_STATUS_OK;
    int fits = scale->dtype == OUSAC_DTYPE_F32 && scale->dims == dims;
    for (size_t d = 0; fits && d < dims; d++)
        fits = scale->shape[d] == (t->dims > 1 ? t->shape[d] : 1);
    if (!fits)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "tensor '%s': expected f32, one for each row of '%s'",
                          scale->name, t->name);
    return OUSAC_STATUS_OK;
}

/* Adds count * size to *total; 0 where that does not fit. */
static int add_product(size_t *total, size_t count, size_t size) {
    if (count > (SIZE_MAX / 2 - *total) / size)
        return 0;
    *total += count * size;
    return 1;
}

/* Sizes and allocates the index and the work buffers. */
static ousac_status prepare(save *s, ousac_error *error) {
    const ousac_oca_writer *w = s->writer;
    size_t largest = 1, bytes = COUNTS_BYTES;
    int fits = 1, spilled = 0;
    for (size_t i = 0; i < w->pair_count; i++) {
        fits = fits && add_product(&s->text_bytes, strlen(w->pairs[i].key) + 1, 1);
        fits = fits && add_product(&s->text_bytes, strlen(w->pairs[i].value) + 1, 1);
    }
    for (size_t i = 0; i < w->tensor_count; i++) {
        const tensor *t = &w->tensors[i];
        if (t->dtype == OUSAC_DTYPE_I8) {
            ousac_status status = check_scale(w, t, error);
            if (status)
                return status;
        }
        fits = fits && add_product(&s->text_bytes, strlen(t->name) + 1, 1);
        fits = fits && add_product(&s->chunk_count, chunks_of(t), 1);
        if (t->codec != OUSAC_OCA_CODEC_RAW || t->spilled) {
            size_t chunk = t->bytes < CHUNK_DECODED_BYTES ? t->bytes : CHUNK_DECODED_BYTES;
            spilled |= t->spilled != NULL;
            largest = chunk > largest ? chunk : largest;
        }
    }
    fits = fits && add_product(&bytes, w->pair_count, METADATA_BYTES);
    fits = fits && add_product(&bytes, w->tensor_count, TENSOR_BYTES);
    fits = fits && add_product(&bytes, s->chunk_count, CHUNK_BYTES);
    fits = fits && add_product(&bytes, s->text_bytes, 1);
    if (!fits || bytes > INDEX_BYTES_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "an archive's names, metadata and chunk tables: expected at most %d MiB",
                          INDEX_BYTES_MAX >> 20);
    s->index_bytes = bytes;
    s->index = ousac_calloc(bytes, 1);
    if (spilled)
        s->read_back = ousac_malloc(largest, 1);
    if (!s->index || (spilled && !s->read_back))
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an archive's index and buffers");
    return ousac_oca_packer_create(&s->packer, largest, error);
}

static void release(save *s) {
    ousac_file_discard(s->out);
    ousac_free(s->index);
    ousac_free(s->read_back);
    ousac_oca_packer_free(s->packer);
}

static size_t put_text(unsigned char *text, size_t at, unsigned char *record, const char *value) {
    size_t length = strlen(value);
    put64(record, at);
    put64(record + 8, length);
    memcpy(text + at, value, length + 1);
    return at + length + 1;
}

/* Everything of the index but the chunk table, which fills as chunks are written. */
static void fill_index(save *s) {
    const ousac_oca_writer *w = s->writer;
    unsigned char *p = s->index;
    unsigned char *text = s->index + (s->index_bytes - s->text_bytes);
    size_t at = 0, chunk = 0;
    put64(p, w->pair_count);
    put64(p + 8, w->tensor_count);
    put64(p + 16, s->chunk_count);
    put64(p + 24, s->text_bytes);
    p += COUNTS_BYTES;
    for (size_t i = 0; i < w->pair_count; i++, p += METADATA_BYTES) {
        at = put_text(text, at, p, w->pairs[i].key);
        at = put_text(text, at, p + 16, w->pairs[i].value);
    }
    for (size_t i = 0; i < w->tensor_count; i++, p += TENSOR_BYTES) {
        const tensor *t = &w->tensors[i];
        at = put_text(text, at, p, t->name);
        put32(p + 16, (uint32_t)t->dtype);
        put32(p + 20, (uint32_t)t->codec);
        put32(p + 24, (uint32_t)t->dims);
        for (size_t d = 0; d < t->dims; d++)
            put64(p + 32 + 8 * d, t->shape[d]);
        put64(p + 64, chunk);
        put64(p + 72, chunks_of(t));
        put64(p + 80, CHUNK_DECODED_BYTES);
        put64(p + 88, t->bytes);
        chunk += chunks_of(t);
    }
}

static ousac_status put(save *s, const void *data, size_t bytes, ousac_error *error) {
    ousac_status status = ousac_file_write(s->out, data, bytes, error);
    s->position += bytes;
    return status;
}

static ousac_status pad(save *s, ousac_error *error) {
    static const unsigned char zeros[ALIGNMENT];
    return put(s, zeros, (ALIGNMENT - s->position % ALIGNMENT) % ALIGNMENT, error);
}

static ousac_status write_tensor(save *s, const tensor *t, unsigned char *chunk, ousac_error *error) {
    const void *all = t->data;
    ousac_status lent = t->source ? t->source(t->source_self, t->source_index, &all, error) : OUSAC_STATUS_OK;
    if (lent)
        return lent;
    for (size_t i = 0; i < chunks_of(t); i++, chunk += CHUNK_BYTES) {
        const size_t begin = i * CHUNK_DECODED_BYTES;
        const size_t bytes = t->bytes - begin < CHUNK_DECODED_BYTES ? t->bytes - begin : CHUNK_DECODED_BYTES;
        const unsigned char *stored = s->read_back;
        size_t stored_bytes = 0;
        uint64_t hash = 0;
        ousac_status status = pad(s, error);
        if (!status && t->spilled) {
            hash = t->spilled[i].hash;
            stored_bytes = (size_t)t->spilled[i].stored;
            status =
                ousac_spill_read(s->writer->spill, t->spilled[i].offset, s->read_back, stored_bytes, error);
        } else if (!status) {
            const unsigned char *data = (const unsigned char *)all + begin;
            hash = XXH64(data, bytes, 0);
            status = ousac_oca_pack(s->packer, t->name, t->dtype, t->codec, data, bytes, &stored,
                                    &stored_bytes, error);
        }
        if (status)
            return status;
        put64(chunk, s->position);
        put64(chunk + 8, stored_bytes);
        put64(chunk + 16, hash);
        status = put(s, stored, stored_bytes, error);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_oca_writer_save(ousac_oca_writer *writer, const char *path, ousac_error *error) {
    return ousac_oca_writer_save_checked(writer, path, NULL, NULL, error);
}

ousac_status ousac_oca_writer_save_checked(ousac_oca_writer *writer, const char *path, ousac_file_check check,
                                           void *self, ousac_error *error) {
    static const unsigned char magic[8] = {0x89, 'O', 'C', 'A', '\r', '\n', 0x1a, '\n'};
    ousac_status status;
    unsigned char header[HEADER_BYTES] = {0};
    save s = {.writer = writer};
    status = prepare(&s, error);
    if (status)
        goto done;
    fill_index(&s);
    status = ousac_file_create(&s.out, path, error);
    if (status)
        goto done;
    status = put(&s, header, sizeof header, error);
    if (!status)
        status = put(&s, s.index, s.index_bytes, error);
    if (!status)
        status = pad(&s, error);
    unsigned char *chunk = s.index + (s.index_bytes - s.text_bytes - s.chunk_count * CHUNK_BYTES);
    for (size_t i = 0; !status && i < writer->tensor_count; i++) {
        status = write_tensor(&s, &writer->tensors[i], chunk, error);
        chunk += chunks_of(&writer->tensors[i]) * CHUNK_BYTES;
    }
    if (status)
        goto done;
    memcpy(header, magic, sizeof magic);
    put16(header + 8, VERSION_MAJOR);
    put16(header + 10, VERSION_MINOR);
    put64(header + 16, HEADER_BYTES);
    put64(header + 24, s.index_bytes);
    put64(header + 32, align(HEADER_BYTES + s.index_bytes));
    put64(header + 40, s.position);
    put64(header + 48, XXH64(s.index, s.index_bytes, 0));
    put64(header + 56, XXH64(header, 56, 0));
    status = ousac_file_rewrite(s.out, HEADER_BYTES, s.index, s.index_bytes, error);
    if (!status)
        status = ousac_file_rewrite(s.out, 0, header, sizeof header, error);
    if (!status) {
        ousac_file_writer *out = s.out;
        s.out = NULL; /* the commit consumes it */
        status = ousac_file_commit_checked(out, check, self, error);
    }
done:
    release(&s);
    return status;
}
