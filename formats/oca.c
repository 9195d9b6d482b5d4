/* Reader of .oca archives; the contract is oca.h, the format OCA.md. */
#if defined(OCA_WITH_MMAP)
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#endif

#include "oca.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(OCA_WITH_MMAP)
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#if defined(OCA_WITH_ZSTD)
#include <zstd.h>
#endif

#define HEADER_BYTES 64
#define COUNTS_BYTES 48
#define ALIGNMENT 64
#define VERSION_MAJOR 1
#define SCALE_SUFFIX ".scale"
#define CONVERT_BLOCK 256

/* The sections of the index, in order. */
enum { METADATA, TENSORS, CHUNKS, TEXT, SECTIONS };
static const unsigned char record_bytes[SECTIONS] = {32, 104, 24, 1};

struct oca_file {
    oca_options options;
    const unsigned char *data; /* the whole archive; NULL where it is read through read_at */
    int (*read_at)(void *context, uint64_t offset, void *target, size_t bytes);
    void *read_context;
    uint64_t size;
    void *loaded;         /* owned copy of a file opened by path, or its mapping */
    unsigned char *index; /* owned; the sections point into it */
    size_t index_size;
    const unsigned char *section[SECTIONS];
    size_t count[SECTIONS];
    uint64_t payload;
    unsigned minor;
};

/* One tensor, as its record has it, and one read of it. */
typedef struct record {
    oca_tensor info;
    size_t element;
    size_t first_chunk;
} record;

typedef struct job {
    const oca_file *file;
    const record *tensor;
    uint64_t begin, end; /* decoded bytes asked for */
    oca_dtype as;
    unsigned char *target; /* NULL: verify only */
    const float *scales; /* or NULL; of an i8 tensor's rows from `scale_first` on, of `scale_run` elements */
    uint64_t scale_first, scale_run;
    size_t chunk_first, chunk_end, lanes;
    oca_status status[OCA_LANES_MAX];
} job;

const char *oca_status_string(oca_status status) {
    static const char texts[] = /* in the order of the enum */
        "success\0wrong argument\0cannot be read\0out of memory\0larger than this reader takes\0"
        "not supported by this reader\0no such tensor\0rows outside the tensor, or a target of the wrong "
        "size\0"
        "parallel tasks failed to run\0not an oca archive\0unknown major version\0truncated\0"
        "longer than its header says\0wrong header checksum\0wrong index checksum\0wrong data checksum\0"
        "a field that must be zero is not\0sections or chunks out of place\0malformed text\0"
        "keys or names not sorted\0a key or name occurs twice\0unknown dtype\0unknown codec\0invalid shape\0"
        "invalid chunk table\0padding is not zero\0scales missing or of the wrong kind\0"
        "malformed compressed data";
    const char *text = texts;
    int value = (int)status, skip = OCA_OK - value;
    if (value <= OCA_ERR_MAGIC)
        skip = OCA_OK - OCA_ERR_TASK + 1 + OCA_ERR_MAGIC - value;
    if (value > OCA_OK || value < OCA_ERR_COMPRESSED || (value < OCA_ERR_TASK && value > OCA_ERR_MAGIC))
        return "unknown status";
    for (; skip; skip--)
        text += strlen(text) + 1;
    return text;
}

size_t oca_dtype_bytes(oca_dtype dtype) {
    static const unsigned char bytes[] = {8, 4, 2, 2, 1, 1, 4, 8};
    int value = (int)dtype;
    return value >= 0 && value <= OCA_I64 ? bytes[value] : 0;
}

/* --- bytes --- */

static uint32_t load16(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t load32(const unsigned char *p) {
    return load16(p) | load16(p + 2) << 16;
}

static uint64_t load64(const unsigned char *p) {
    return (uint64_t)load32(p) | (uint64_t)load32(p + 4) << 32;
}

static int is_little_endian(void) {
    const uint16_t one = 1;
    unsigned char low;
    memcpy(&low, &one, 1);
    return low == 1;
}

/* To the next multiple of ALIGNMENT; `value` is at most a file size, checked to be far from overflow. */
static uint64_t align(uint64_t value) {
    return (value + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* XXH64 with seed 0, from its specification (xxHash project, "XXH64 algorithm description"). */
#define PRIME1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME3 UINT64_C(0x165667B19E3779F9)
#define PRIME4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME5 UINT64_C(0x27D4EB2F165667C5)

static uint64_t rotate(uint64_t x, unsigned bits) {
    return x << bits | x >> (64 - bits);
}

static uint64_t xxh_round(uint64_t lane, uint64_t input) {
    return rotate(lane + input * PRIME2, 31) * PRIME1;
}

static uint64_t xxh_merge(uint64_t hash, uint64_t lane) {
    return (hash ^ xxh_round(0, lane)) * PRIME1 + PRIME4;
}

static uint64_t xxh64(const unsigned char *p, size_t bytes) {
    size_t left = bytes;
    uint64_t hash = PRIME5;
    if (left >= 32) {
        uint64_t a = PRIME1 + PRIME2, b = PRIME2, c = 0, d = UINT64_C(0) - PRIME1;
        for (; left >= 32; left -= 32, p += 32) {
            a = xxh_round(a, load64(p));
            b = xxh_round(b, load64(p + 8));
            c = xxh_round(c, load64(p + 16));
            d = xxh_round(d, load64(p + 24));
        }
        hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
        hash = xxh_merge(xxh_merge(xxh_merge(xxh_merge(hash, a), b), c), d);
    }
    hash += (uint64_t)bytes;
    for (; left >= 8; left -= 8, p += 8)
        hash = rotate(hash ^ xxh_round(0, load64(p)), 27) * PRIME1 + PRIME4;
    if (left >= 4) {
        hash = rotate(hash ^ (uint64_t)load32(p) * PRIME1, 23) * PRIME2 + PRIME3;
        left -= 4;
        p += 4;
    }
    for (; left; left--, p++)
        hash = rotate(hash ^ *p * PRIME5, 11) * PRIME1;
    hash = (hash ^ hash >> 33) * PRIME2;
    hash = (hash ^ hash >> 29) * PRIME3;
    return hash ^ hash >> 32;
}

/* Well-formed UTF-8 without NUL: shortest forms, no surrogates, at most U+10FFFF. */
static int is_text(const unsigned char *p, size_t bytes) {
    static const uint32_t smallest[4] = {1, 0x80, 0x800, 0x10000};
    size_t i = 0;
    while (i < bytes) {
        unsigned lead = p[i++];
        unsigned more = lead < 0x80       ? 0
                        : lead >> 5 == 6  ? 1
                        : lead >> 4 == 14 ? 2
                        : lead >> 3 == 30 ? 3
                                          : 4,
                 k;
        uint32_t point = more ? lead & (0x3fu >> more) : lead;
        if (more == 4 || more > bytes - i)
            return 0;
        for (k = more; k; k--, i++) {
            if (p[i] >> 6 != 2)
                return 0;
            point = point << 6 | (p[i] & 0x3fu);
        }
        if (point < smallest[more] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return 0;
    }
    return 1;
}

/* --- memory and input --- */

static void *take(const oca_options *options, size_t bytes) {
    return options->allocate ? options->allocate(options->memory_context, bytes) : malloc(bytes);
}

static void give(const oca_options *options, void *block) {
    if (!block)
        return;
    if (options->release)
        options->release(options->memory_context, block);
    else
        free(block);
}

/* The range must lie within the file. */
static oca_status read_bytes(const oca_file *file, uint64_t offset, void *target, size_t bytes) {
    if (file->data)
        memcpy(target, file->data + (size_t)offset, bytes);
    else if (bytes && file->read_at(file->read_context, offset, target, bytes))
        return OCA_ERR_IO;
    return OCA_OK;
}

static oca_status check_zeros(const oca_file *file, uint64_t offset, uint64_t end) {
    unsigned char padding[ALIGNMENT];
    size_t bytes = (size_t)(end - offset), i;
    oca_status status = read_bytes(file, offset, padding, bytes);
    for (i = 0; !status && i < bytes; i++)
        if (padding[i])
            status = OCA_ERR_PADDING;
    return status;
}

/* --- opening --- */

static oca_status fail(const oca_file *file, oca_status status, uint64_t item, const char *what) {
    if (file->options.fault) {
        file->options.fault->what = what;
        file->options.fault->item = item;
    }
    return status;
}

#define REQUIRE(condition, status, item, what)                                                               \
    do                                                                                                       \
        if (!(condition))                                                                                    \
            return fail(file, status, item, what);                                                           \
    while (0)

static oca_status parse_header(oca_file *file) {
    static const unsigned char magic[8] = {0x89, 'O', 'C', 'A', '\r', '\n', 0x1a, '\n'};
    unsigned char h[HEADER_BYTES];
    size_t have = file->size < HEADER_BYTES ? (size_t)file->size : HEADER_BYTES;
    uint64_t index_size, file_size, hash, limit = file->options.max_index_bytes;
    oca_status status = read_bytes(file, 0, h, have);
    REQUIRE(!status, status, 0, "the header cannot be read");
    REQUIRE(!memcmp(h, magic, have < sizeof magic ? have : sizeof magic), OCA_ERR_MAGIC, 0, "no magic");
    REQUIRE(have == HEADER_BYTES, OCA_ERR_TRUNCATED, 0, "shorter than a header");
    /* The version comes first: another major version may lay out all that follows differently. */
    REQUIRE(load16(h + 8) == VERSION_MAJOR, OCA_ERR_VERSION, load16(h + 8), "major version other than 1");
    REQUIRE(load64(h + 56) == xxh64(h, 56), OCA_ERR_HEADER_CHECKSUM, 0, "header against its checksum");
    REQUIRE(!load32(h + 12), OCA_ERR_RESERVED, 0, "header bytes 12 to 15");
    file_size = load64(h + 40);
    REQUIRE(file->size >= file_size, OCA_ERR_TRUNCATED, 0, "shorter than the header says");
    REQUIRE(file->size <= file_size, OCA_ERR_TRAILING, 0, "longer than the header says");
    REQUIRE(file_size <= UINT64_MAX / 2, OCA_ERR_LAYOUT, 0, "file size of 2^63 or more");
    index_size = load64(h + 24);
    file->payload = load64(h + 32);
    REQUIRE(load64(h + 16) == HEADER_BYTES, OCA_ERR_LAYOUT, 0, "index offset other than 64");
    REQUIRE(index_size >= COUNTS_BYTES, OCA_ERR_LAYOUT, 0, "index too small");
    REQUIRE(index_size <= file_size - HEADER_BYTES, OCA_ERR_LAYOUT, 0, "index beyond the file");
    REQUIRE(file->payload == align(HEADER_BYTES + index_size), OCA_ERR_LAYOUT, 0, "payload offset");
    REQUIRE(file->payload <= file_size, OCA_ERR_LAYOUT, 0, "payload beyond the file");
    limit = limit ? limit : OCA_INDEX_BYTES_DEFAULT;
    REQUIRE(index_size <= limit && index_size <= SIZE_MAX, OCA_ERR_LIMIT, 0, "index size above the limit");
    file->minor = (unsigned)load16(h + 10);
    file->index_size = (size_t)index_size;
    file->index = (unsigned char *)take(&file->options, file->index_size);
    REQUIRE(file->index, OCA_ERR_MEMORY, 0, "no memory for the index");
    status = read_bytes(file, HEADER_BYTES, file->index, file->index_size);
    REQUIRE(!status, status, 0, "the index cannot be read");
    hash = xxh64(file->index, file->index_size);
    REQUIRE(load64(h + 48) == hash, OCA_ERR_INDEX_CHECKSUM, 0, "index against its checksum");
    status = check_zeros(file, HEADER_BYTES + index_size, file->payload);
    REQUIRE(!status, status, 0, "padding behind the index");
    return OCA_OK;
}

static const unsigned char *entry(const oca_file *file, int section, size_t i) {
    return file->section[section] + i * record_bytes[section];
}

static const char *text_at(const oca_file *file, const unsigned char *at) {
    return (const char *)file->section[TEXT] + (size_t)load64(at);
}

/* Key or name of a record. */
static const char *text_of(const oca_file *file, int section, size_t i) {
    return text_at(file, entry(file, section, i));
}

static oca_status parse_counts(oca_file *file) {
    const unsigned char *p = file->index + COUNTS_BYTES;
    size_t left = file->index_size - COUNTS_BYTES;
    int i;
    for (i = 0; i < SECTIONS; i++) {
        uint64_t n = load64(file->index + 8 * i);
        REQUIRE(n <= left / record_bytes[i], OCA_ERR_LAYOUT, 0, "index smaller than its counts need");
        file->count[i] = (size_t)n;
        file->section[i] = p;
        p += file->count[i] * record_bytes[i];
        left -= file->count[i] * record_bytes[i];
    }
    REQUIRE(load64(file->index + 32) == left, OCA_ERR_LAYOUT, 0, "index larger than its sections");
    REQUIRE(!load64(file->index + 40), OCA_ERR_RESERVED, 0, "index bytes 40 to 47");
    return OCA_OK;
}

/* The text at `*cursor` must be what the record says; advances behind its NUL. */
static int parse_text(const oca_file *file, const unsigned char *at, size_t *cursor, int may_be_empty) {
    uint64_t offset = load64(at), size = load64(at + 8);
    const unsigned char *text = file->section[TEXT] + *cursor;
    if (offset != *cursor || size >= file->count[TEXT] - *cursor || (!size && !may_be_empty))
        return 0;
    *cursor += (size_t)size + 1;
    return !text[size] && is_text(text, (size_t)size);
}

static oca_status check_order(const oca_file *file, int section, size_t i) {
    int order = i ? strcmp(text_of(file, section, i - 1), text_of(file, section, i)) : -1;
    REQUIRE(order, OCA_ERR_DUPLICATE, i, "key or name that occurs twice");
    REQUIRE(order < 0, OCA_ERR_ORDER, i, "key or name out of order");
    return OCA_OK;
}

static oca_status parse_metadata(const oca_file *file, size_t *text) {
    oca_status status = OCA_OK;
    size_t i;
    for (i = 0; !status && i < file->count[METADATA]; i++) {
        const unsigned char *at = entry(file, METADATA, i);
        REQUIRE(parse_text(file, at, text, 0), OCA_ERR_TEXT, i, "metadata key");
        REQUIRE(parse_text(file, at + 16, text, 1), OCA_ERR_TEXT, i, "metadata value");
        status = check_order(file, METADATA, i);
    }
    return status;
}

static oca_status parse_shape(const oca_file *file, size_t i, record *out) {
    const unsigned char *at = entry(file, TENSORS, i);
    oca_tensor *t = &out->info;
    uint32_t dtype = load32(at + 16), codec = load32(at + 20), dims = load32(at + 24), d;
    REQUIRE(dtype <= OCA_I64, OCA_ERR_DTYPE, i, "unknown dtype");
    REQUIRE(codec <= OCA_CODEC_SHUFFLE_ZSTD, OCA_ERR_CODEC, i, "unknown codec");
    REQUIRE(dims >= 1 && dims <= OCA_DIMS_MAX, OCA_ERR_SHAPE, i, "number of dimensions");
    REQUIRE(!load32(at + 28), OCA_ERR_RESERVED, i, "tensor record bytes 28 to 31");
    t->name = text_of(file, TENSORS, i);
    t->index = i;
    t->dtype = (oca_dtype)dtype;
    t->codec = (oca_codec)codec;
    t->dims = dims;
    t->count = 1;
    out->element = oca_dtype_bytes(t->dtype);
    for (d = 0; d < OCA_DIMS_MAX; d++) {
        t->shape[d] = load64(at + 32 + 8 * d);
        REQUIRE(d < dims || !t->shape[d], OCA_ERR_RESERVED, i, "lengths beyond the last dimension");
        if (d < dims) {
            REQUIRE(t->shape[d], OCA_ERR_SHAPE, i, "dimension of length 0");
            REQUIRE(t->count <= UINT64_MAX / t->shape[d], OCA_ERR_SHAPE, i, "number of elements");
            t->count *= t->shape[d];
        }
    }
    REQUIRE(t->count <= UINT64_MAX / out->element, OCA_ERR_SHAPE, i, "decoded size of 2^64 or more");
    t->bytes = t->count * out->element;
    REQUIRE(t->bytes == load64(at + 88), OCA_ERR_SHAPE, i, "decoded size against shape and dtype");
    return OCA_OK;
}

static size_t chunk_decoded(const oca_tensor *t, size_t chunk) {
    uint64_t left = t->bytes - (uint64_t)chunk * t->chunk_bytes;
    return left < t->chunk_bytes ? (size_t)left : t->chunk_bytes;
}

/* The chunk table of one tensor; *chunk and *end run on over all of them, and must end with the file. */
static oca_status parse_chunks(const oca_file *file, record *r, size_t *chunk, uint64_t *end) {
    const unsigned char *at = entry(file, TENSORS, r->info.index);
    oca_tensor *t = &r->info;
    uint64_t chunk_bytes = load64(at + 80), chunks = load64(at + 72);
    size_t i;
    REQUIRE(chunk_bytes && chunk_bytes <= OCA_CHUNK_BYTES_MAX, OCA_ERR_CHUNK, t->index, "chunk size");
    REQUIRE(chunk_bytes % ALIGNMENT == 0, OCA_ERR_CHUNK, t->index, "chunk size that is no multiple of 64");
    REQUIRE(chunks == (t->bytes - 1) / chunk_bytes + 1, OCA_ERR_CHUNK, t->index, "number of chunks");
    REQUIRE(load64(at + 64) == *chunk, OCA_ERR_CHUNK, t->index, "first chunk");
    REQUIRE(chunks <= file->count[CHUNKS] - *chunk, OCA_ERR_CHUNK, t->index, "chunks beyond the chunk table");
    t->chunk_bytes = (size_t)chunk_bytes;
    t->chunks = (size_t)chunks;
    t->stored_bytes = 0;
    r->first_chunk = *chunk;
    for (i = 0; i < t->chunks; i++, ++*chunk) {
        const unsigned char *c = entry(file, CHUNKS, *chunk);
        uint64_t offset = load64(c), stored = load64(c + 8);
        size_t decoded = chunk_decoded(t, i);
        REQUIRE(stored && stored <= decoded, OCA_ERR_CHUNK, *chunk, "stored size of 0 or above the decoded");
        REQUIRE(stored == decoded || t->codec != OCA_CODEC_RAW, OCA_ERR_CHUNK, *chunk, "stored size, raw");
        REQUIRE(offset == align(*end), OCA_ERR_LAYOUT, *chunk, "chunk not right behind the one before it");
        *end = offset + stored;
        t->stored_bytes += stored;
    }
    return OCA_OK;
}

/* The record of a tensor; every field has been checked when the archive was opened, so nothing here fails. */
static void get_record(const oca_file *file, size_t index, record *out) {
    size_t chunk = (size_t)load64(entry(file, TENSORS, index) + 64);
    uint64_t end = load64(entry(file, CHUNKS, chunk));
    memset(out, 0, sizeof *out);
    (void)parse_shape(file, index, out);
    (void)parse_chunks(file, out, &chunk, &end);
}

/* Index of the record whose text is `name` followed by `suffix`, or the section's count. */
static size_t find(const oca_file *file, int section, const char *name, const char *suffix) {
    size_t low = 0, high = file->count[section], length = strlen(name);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *text = text_of(file, section, middle);
        int order = strncmp(text, name, length);
        if (!order)
            order = strcmp(text + length, suffix);
        if (!order)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return file->count[section];
}

/* Rows of an i8 tensor are its innermost: one scale for each. */
static int is_scale_of(const oca_tensor *scale, const oca_tensor *t) {
    size_t d, dims = t->dims > 1 ? t->dims - 1 : 1;
    if (scale->dtype != OCA_F32 || scale->dims != dims)
        return 0;
    for (d = 0; d < dims; d++)
        if (scale->shape[d] != (t->dims > 1 ? t->shape[d] : 1))
            return 0;
    return 1;
}

static oca_status parse_tensors(const oca_file *file, size_t *text) {
    oca_status status = OCA_OK;
    uint64_t end = file->payload;
    size_t i, chunk = 0;
    record r;
    for (i = 0; !status && i < file->count[TENSORS]; i++) {
        const unsigned char *at = entry(file, TENSORS, i);
        memset(&r, 0, sizeof r);
        REQUIRE(parse_text(file, at, text, 0), OCA_ERR_TEXT, i, "tensor name");
        status = check_order(file, TENSORS, i);
        if (!status)
            status = parse_shape(file, i, &r);
        if (!status)
            status = parse_chunks(file, &r, &chunk, &end);
    }
    if (status)
        return status;
    REQUIRE(*text == file->count[TEXT], OCA_ERR_TEXT, 0, "text beyond the last name");
    REQUIRE(chunk == file->count[CHUNKS], OCA_ERR_CHUNK, chunk, "chunks beyond the last tensor's");
    REQUIRE(end == file->size, OCA_ERR_LAYOUT, 0, "bytes behind the last chunk");
    for (i = 0; i < file->count[TENSORS]; i++) {
        record scale;
        size_t at;
        get_record(file, i, &r);
        at = r.info.dtype == OCA_I8 ? find(file, TENSORS, r.info.name, SCALE_SUFFIX) : file->count[TENSORS];
        if (at < file->count[TENSORS]) {
            get_record(file, at, &scale);
            REQUIRE(is_scale_of(&scale.info, &r.info), OCA_ERR_SCALE, at, "scales of an i8 tensor's rows");
        }
    }
    return OCA_OK;
}

#if defined(OCA_WITH_MMAP)
static oca_status load_path(oca_file *file, const char *path) {
    oca_status status = OCA_ERR_IO;
    struct stat st;
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return status;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size >= 0) {
        file->size = (uint64_t)st.st_size;
        status = file->size > SIZE_MAX ? OCA_ERR_LIMIT : OCA_OK;
        if (!status && file->size) {
            void *map = mmap(NULL, (size_t)file->size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (map == MAP_FAILED)
                status = OCA_ERR_IO;
            else
                file->loaded = map;
        }
    }
    (void)close(fd);
    return status;
}
#else
static oca_status load_path(oca_file *file, const char *path) {
    oca_status status = OCA_ERR_IO;
    long size = -1;
    FILE *stream = fopen(path, "rb");
    if (!stream)
        return status;
    if (getc(stream) == EOF && ferror(stream)) /* a directory */
        size = -1;
    else if (!fseek(stream, 0, SEEK_END) && (size = ftell(stream)) >= 0 && !fseek(stream, 0, SEEK_SET)) {
        file->size = (uint64_t)size;
        file->loaded = file->size < SIZE_MAX ? take(&file->options, (size_t)size + 1) : NULL;
        if (!file->loaded)
            status = OCA_ERR_MEMORY;
        else if (fread(file->loaded, 1, (size_t)size, stream) == (size_t)size)
            status = OCA_OK;
    }
    (void)fclose(stream);
    return status;
}
#endif

/* From `path` where it is not NULL, else through `read_at` where that is not, else from `data`. */
static oca_status open_file(oca_file **out, const void *data, uint64_t size, const char *path,
                            int (*read_at)(void *, uint64_t, void *, size_t), void *context,
                            const oca_options *options) {
    oca_file *file, start;
    oca_status status = OCA_OK;
    size_t text = 0;
    memset(&start, 0, sizeof start);
    if (options)
        start.options = *options;
    (void)fail(&start, OCA_OK, 0, NULL);
    if (!start.options.allocate != !start.options.release || start.options.lanes > OCA_LANES_MAX)
        return fail(&start, OCA_ERR_ARGUMENT, 0, "inconsistent options");
    file = (oca_file *)take(&start.options, sizeof *file);
    if (!file)
        return fail(&start, OCA_ERR_MEMORY, 0, "no memory for the handle");
    *file = start;
    file->size = size;
    file->read_at = read_at;
    file->read_context = context;
    if (path) {
        status = load_path(file, path);
        (void)fail(file, status, 0, status ? "not to be opened as a regular file" : NULL);
        data = file->loaded;
    }
    if (!read_at)
        file->data = data ? (const unsigned char *)data : (const unsigned char *)"";
    if (!status)
        status = parse_header(file);
    if (!status)
        status = parse_counts(file);
    if (!status)
        status = parse_metadata(file, &text);
    if (!status)
        status = parse_tensors(file, &text);
    file->options.fault = NULL; /* it may not outlive this call */
    if (status)
        oca_close(file);
    else
        *out = file;
    return status;
}

oca_status oca_open_memory(oca_file **file, const void *data, size_t size, const oca_options *options) {
    if (file)
        *file = NULL;
    if (!file || (!data && size))
        return OCA_ERR_ARGUMENT;
    return open_file(file, data, size, NULL, NULL, NULL, options);
}

oca_status oca_open_path(oca_file **file, const char *path, const oca_options *options) {
    if (file)
        *file = NULL;
    if (!file || !path)
        return OCA_ERR_ARGUMENT;
    return open_file(file, NULL, 0, path, NULL, NULL, options);
}

oca_status oca_open_callback(oca_file **file,
                             int (*read_at)(void *context, uint64_t offset, void *target, size_t bytes),
                             void *context, uint64_t size, const oca_options *options) {
    if (file)
        *file = NULL;
    if (!file || !read_at)
        return OCA_ERR_ARGUMENT;
    return open_file(file, NULL, size, NULL, read_at, context, options);
}

void oca_close(oca_file *file) {
    oca_options options;
    if (!file)
        return;
    options = file->options;
#if defined(OCA_WITH_MMAP)
    if (file->loaded)
        (void)munmap(file->loaded, (size_t)file->size);
#else
    give(&options, file->loaded);
#endif
    give(&options, file->index);
    give(&options, file);
}

/* --- what is in it --- */

unsigned oca_minor_version(const oca_file *file) {
    return file ? file->minor : 0;
}

size_t oca_metadata_count(const oca_file *file) {
    return file ? file->count[METADATA] : 0;
}

oca_status oca_metadata_at(const oca_file *file, size_t index, const char **key, const char **value) {
    if (!file || !key || !value || index >= file->count[METADATA])
        return OCA_ERR_ARGUMENT;
    *key = text_at(file, entry(file, METADATA, index));
    *value = text_at(file, entry(file, METADATA, index) + 16);
    return OCA_OK;
}

const char *oca_metadata(const oca_file *file, const char *key) {
    size_t i;
    if (!file || !key)
        return NULL;
    i = find(file, METADATA, key, "");
    return i < file->count[METADATA] ? text_at(file, entry(file, METADATA, i) + 16) : NULL;
}

size_t oca_tensor_count(const oca_file *file) {
    return file ? file->count[TENSORS] : 0;
}

oca_status oca_tensor_at(const oca_file *file, size_t index, oca_tensor *tensor) {
    record r;
    if (!file || !tensor || index >= file->count[TENSORS])
        return OCA_ERR_ARGUMENT;
    get_record(file, index, &r);
    *tensor = r.info;
    return OCA_OK;
}

oca_status oca_tensor_find(const oca_file *file, const char *name, oca_tensor *tensor) {
    size_t index;
    if (!file || !name || !tensor)
        return OCA_ERR_ARGUMENT;
    index = find(file, TENSORS, name, "");
    return index < file->count[TENSORS] ? oca_tensor_at(file, index, tensor) : OCA_ERR_NOT_FOUND;
}

oca_status oca_borrow(const oca_file *file, size_t tensor, const void **data) {
    record r;
    if (!file || !data || tensor >= file->count[TENSORS])
        return OCA_ERR_ARGUMENT;
    *data = NULL;
    get_record(file, tensor, &r);
    /* Whole chunks are multiples of 64 bytes, so a tensor without compressed chunks is contiguous. */
    if (!file->data || r.info.stored_bytes != r.info.bytes || (r.element > 1 && !is_little_endian()))
        return OCA_ERR_UNSUPPORTED;
    *data = file->data + (size_t)load64(entry(file, CHUNKS, r.first_chunk));
    return OCA_OK;
}

/* --- conversion --- */

/* A double's bits, rounded to a binary format of `mantissa` stored bits and an exponent of `width` bits. */
static uint32_t narrow(uint64_t bits, unsigned width, unsigned mantissa) {
    uint32_t sign = (uint32_t)(bits >> 63) << (width + mantissa);
    uint32_t top = ((uint32_t)1 << width) - 1;
    int exponent = (int)(bits >> 52 & 0x7ff);
    uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1), rest, half, kept;
    unsigned shift = 52 - mantissa;
    int e = exponent - 1023 + (int)(top >> 1);
    if (exponent == 0x7ff && fraction) /* NaN: quiet */
        return sign | top << mantissa | (uint32_t)1 << (mantissa - 1) | (uint32_t)(fraction >> shift);
    if (e >= (int)top)
        return sign | top << mantissa;
    if (exponent == 0 || e < -(int)mantissa) /* below half of the smallest subnormal */
        return sign;
    fraction |= UINT64_C(1) << 52;
    if (e <= 0) { /* subnormal: no implicit bit */
        shift += (unsigned)(1 - e);
        e = 1;
    }
    half = UINT64_C(1) << (shift - 1);
    rest = fraction & (2 * half - 1);
    kept = fraction >> shift;
    kept += rest > half || (rest == half && (kept & 1));
    /* The implicit bit of `kept` adds one to the exponent, and so does a carry, up to infinity. */
    return sign | (((uint32_t)(e - 1) << mantissa) + (uint32_t)kept);
}

/* The reverse, exact: the bits of the double of equal value. */
static uint64_t widen(uint32_t bits, unsigned width, unsigned mantissa) {
    uint64_t sign = (uint64_t)(bits >> (width + mantissa) & 1) << 63;
    uint32_t top = ((uint32_t)1 << width) - 1, exponent = bits >> mantissa & top;
    uint64_t fraction = bits & (((uint32_t)1 << mantissa) - 1);
    uint64_t e = (uint64_t)exponent + 1023 - (top >> 1);
    if (exponent == top)
        e = 0x7ff;
    if (!exponent) {
        if (!fraction)
            return sign;
        e++;
        for (; !(fraction >> mantissa); e--)
            fraction <<= 1;
        fraction &= ((uint64_t)1 << mantissa) - 1;
    }
    return sign | e << 52 | fraction << (52 - mantissa);
}

static void load_doubles(oca_dtype dtype, const unsigned char *source, size_t count, double *target) {
    uint64_t bits;
    size_t i;
    for (i = 0; i < count; i++) {
        if (dtype == OCA_I8) {
            target[i] = (double)(source[i] < 128 ? (int)source[i] : (int)source[i] - 256);
            continue;
        }
        if (dtype == OCA_F64)
            bits = load64(source + 8 * i);
        else if (dtype == OCA_F32)
            bits = widen(load32(source + 4 * i), 8, 23);
        else if (dtype == OCA_F16)
            bits = widen(load16(source + 2 * i), 5, 10);
        else
            bits = widen(load16(source + 2 * i), 8, 7);
        memcpy(target + i, &bits, sizeof bits);
    }
}

static void store_doubles(oca_dtype dtype, const double *source, size_t count, unsigned char *target) {
    size_t i;
    if (dtype == OCA_F64) {
        memcpy(target, source, count * sizeof *source);
        return;
    }
    for (i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, source + i, sizeof bits);
        if (dtype == OCA_F32) {
            uint32_t value = narrow(bits, 8, 23);
            memcpy(target + 4 * i, &value, sizeof value);
        } else {
            uint16_t value = (uint16_t)(dtype == OCA_F16 ? narrow(bits, 5, 10) : narrow(bits, 8, 7));
            memcpy(target + 2 * i, &value, sizeof value);
        }
    }
}

/* Elements of the same dtype, to the byte order of this machine. */
static void copy_elements(size_t element, const unsigned char *source, size_t bytes, unsigned char *target) {
    size_t i;
    if (element == 1 || is_little_endian()) {
        if (target != source)
            memcpy(target, source, bytes);
        return;
    }
    for (i = 0; i < bytes; i++)
        target[i] = source[i / element * element + (element - 1 - i % element)];
}

/* What a chunk, decoded bytes begin .. begin + bytes - 1 of the tensor, holds of the rows asked for. */
static void convert(const job *j, const unsigned char *decoded, uint64_t begin, size_t bytes) {
    size_t element = j->tensor->element, wide = oca_dtype_bytes(j->as), i, count;
    uint64_t first = begin > j->begin ? begin : j->begin;
    uint64_t last = begin + bytes < j->end ? begin + bytes : j->end;
    unsigned char *target = j->target + (size_t)((first - j->begin) / element) * wide;
    decoded += (size_t)(first - begin);
    if (j->as == j->tensor->info.dtype) {
        copy_elements(element, decoded, (size_t)(last - first), target);
        return;
    }
    count = (size_t)((last - first) / element);
    for (i = 0; i < count; i += CONVERT_BLOCK) {
        double block[CONVERT_BLOCK];
        size_t n = count - i < CONVERT_BLOCK ? count - i : CONVERT_BLOCK, k;
        load_doubles(j->tensor->info.dtype, decoded + i * element, n, block);
        if (j->scales) /* an i8 by a float: exact in double, so the result is rounded once */
            for (k = 0; k < n; k++)
                block[k] *=
                    (double)j->scales[(size_t)((first / element + i + k) / j->scale_run - j->scale_first)];
        store_doubles(j->as, block, n, target + i * wide);
    }
}

/* --- decoding --- */

/* Whether the bytes are one zstd frame (RFC 8878, section 3.1.1), whole, without a dictionary, that declares
 * to hold `content` bytes. Makes sure of it before anything is decompressed. */
static int is_frame(const unsigned char *p, size_t bytes, uint64_t content) {
    static const unsigned field_bytes[4] = {1, 2, 4, 8};
    size_t at, field, i;
    uint64_t declared = 0;
    int last = 0;
    if (bytes < 5 || load32(p) != 0xFD2FB528u || (p[4] & 0x0b))
        return 0;
    field = field_bytes[p[4] >> 6];
    at = p[4] & 0x20 ? 5 : 6;  /* a single segment has no window descriptor */
    if (at == 6 && field == 1) /* no declared size */
        return 0;
    if (bytes < at + field)
        return 0;
    for (i = field; i--;)
        declared = declared << 8 | p[at + i];
    if (field == 2)
        declared += 256;
    if (declared != content)
        return 0;
    for (at += field; !last;) {
        uint32_t header, type;
        size_t stored;
        if (bytes - at < 3)
            return 0;
        header = load16(p + at) | (uint32_t)p[at + 2] << 16;
        last = (int)(header & 1);
        type = header >> 1 & 3;
        stored = type == 1 ? 1 : (size_t)(header >> 3);
        at += 3;
        if (type == 3 || bytes - at < stored)
            return 0;
        at += stored;
    }
    return bytes - at == (p[4] & 0x04 ? 4u : 0u);
}

/* A lane's own memory. */
typedef struct scratch {
    unsigned char *work[2];
    void *zstd;
} scratch;

static oca_status decompress(const oca_file *file, void *zstd, unsigned char *target, size_t target_bytes,
                             const unsigned char *source, size_t bytes) {
    if (!is_frame(source, bytes, target_bytes))
        return OCA_ERR_COMPRESSED;
    if (file->options.decompress)
        return file->options.decompress(file->options.decompress_context, target, target_bytes, source, bytes)
                   ? OCA_ERR_COMPRESSED
                   : OCA_OK;
#if defined(OCA_WITH_ZSTD)
    return ZSTD_decompressDCtx((ZSTD_DCtx *)zstd, target, target_bytes, source, bytes) == target_bytes
               ? OCA_OK
               : OCA_ERR_COMPRESSED;
#else
    (void)zstd;
    return OCA_ERR_UNSUPPORTED;
#endif
}

/* Byte k of element i, from position k * count + i. */
static void unshuffle(const unsigned char *source, size_t element, size_t bytes, unsigned char *target) {
    const size_t count = bytes / element;
    const unsigned char *p = source;
    size_t i, k;
    switch (element) { /* with the number known, compilers make vector instructions of it */
    case 2:
        for (i = 0; i < count; i++)
            for (k = 0; k < 2; k++)
                target[i * 2 + k] = p[k * count + i];
        return;
    case 4:
        for (i = 0; i < count; i++)
            for (k = 0; k < 4; k++)
                target[i * 4 + k] = p[k * count + i];
        return;
    default: /* 8 */
        for (i = 0; i < count; i++)
            for (k = 0; k < 8; k++)
                target[i * 8 + k] = p[k * count + i];
        return;
    }
}

/* Decodes and verifies one chunk of the tensor and hands what was asked for to the target. */
static oca_status decode_chunk(const job *j, size_t chunk, const scratch *s) {
    const oca_file *file = j->file;
    const oca_tensor *t = &j->tensor->info;
    const unsigned char *at = entry(file, CHUNKS, j->tensor->first_chunk + chunk);
    uint64_t offset = load64(at), begin = (uint64_t)chunk * t->chunk_bytes;
    size_t stored = (size_t)load64(at + 8), bytes = chunk_decoded(t, chunk);
    const unsigned char *source = file->data ? file->data + (size_t)offset : s->work[0];
    int direct = j->target && j->as == t->dtype && (j->tensor->element == 1 || is_little_endian()) &&
                 begin >= j->begin && begin + bytes <= j->end;
    unsigned char *whole = direct ? j->target + (size_t)(begin - j->begin) : NULL;
    oca_status status = OCA_OK;
    if (!file->data)
        status = read_bytes(file, offset, s->work[0], stored);
    if (!status && stored < bytes) {
        int shuffled = t->codec == OCA_CODEC_SHUFFLE_ZSTD && j->tensor->element > 1;
        unsigned char *plain = shuffled || !whole ? s->work[1] : whole;
        status = decompress(file, s->zstd, plain, bytes, source, stored);
        source = plain;
        if (!status && shuffled) {
            plain = whole ? whole : s->work[0];
            unshuffle(source, j->tensor->element, bytes, plain);
            source = plain;
        }
    } else if (!status && whole) {
        memcpy(whole, source, bytes);
        source = whole;
    }
    if (!status && xxh64(source, bytes) != load64(at + 16))
        status = OCA_ERR_DATA_CHECKSUM;
    if (!status && j->target)
        convert(j, source, begin, bytes);
    if (!status && !j->target) {
        size_t next = j->tensor->first_chunk + chunk + 1;
        if (next < file->count[CHUNKS])
            status = check_zeros(file, offset + stored, load64(entry(file, CHUNKS, next)));
    }
    return status;
}

/* Task `lane` of a read: chunks lane, lane + lanes, ... */
static void run_lane(void *argument, size_t lane) {
    job *j = (job *)argument;
    const oca_options *o = &j->file->options;
    const oca_tensor *t = &j->tensor->info;
    size_t work_bytes = chunk_decoded(t, 0), chunk;
    oca_status status = OCA_OK;
    scratch s = {{NULL, NULL}, NULL};
    int needs[2];
    if (lane >= j->lanes)
        return;
    needs[0] = !j->file->data || t->codec == OCA_CODEC_SHUFFLE_ZSTD;
    needs[1] = t->codec != OCA_CODEC_RAW;
    if (needs[0])
        s.work[0] = (unsigned char *)take(o, work_bytes);
    if (needs[1])
        s.work[1] = (unsigned char *)take(o, work_bytes);
    if ((needs[0] && !s.work[0]) || (needs[1] && !s.work[1]))
        status = OCA_ERR_MEMORY;
#if defined(OCA_WITH_ZSTD)
    if (!status && needs[1] && !o->decompress) {
        s.zstd = ZSTD_createDCtx();
        status = s.zstd ? OCA_OK : OCA_ERR_MEMORY;
    }
#endif
    for (chunk = j->chunk_first + lane; !status && chunk < j->chunk_end; chunk += j->lanes)
        status = decode_chunk(j, chunk, &s);
#if defined(OCA_WITH_ZSTD)
    (void)ZSTD_freeDCtx((ZSTD_DCtx *)s.zstd);
#endif
    give(o, s.work[0]);
    give(o, s.work[1]);
    j->status[lane] = status;
}

/* Runs the lanes of a job whose file, tensor, range and target are set; begin < end. */
static oca_status run(job *j) {
    const oca_options *o = &j->file->options;
    uint64_t chunk_bytes = j->tensor->info.chunk_bytes;
    size_t chunks, i;
    j->chunk_first = (size_t)(j->begin / chunk_bytes);
    j->chunk_end = (size_t)((j->end - 1) / chunk_bytes) + 1;
    chunks = j->chunk_end - j->chunk_first;
    j->lanes = o->parallel ? o->lanes ? o->lanes : 8 : 1;
    if (j->lanes > chunks)
        j->lanes = chunks;
    for (i = 0; i < j->lanes; i++)
        j->status[i] = OCA_ERR_TASK;
    if (j->lanes == 1)
        run_lane(j, 0);
    else if (o->parallel(o->parallel_context, j->lanes, run_lane, j))
        return OCA_ERR_TASK;
    for (i = 0; i < j->lanes; i++)
        if (j->status[i])
            return j->status[i];
    return OCA_OK;
}

static int is_float(oca_dtype dtype) {
    return dtype == OCA_F64 || dtype == OCA_F32 || dtype == OCA_F16 || dtype == OCA_BF16;
}

/* The scales of the rows asked for, into a block that is the caller's to give. */
static oca_status read_scales(job *j, uint64_t first_row, uint64_t rows, float **scales) {
    const oca_file *file = j->file;
    const oca_tensor *t = &j->tensor->info;
    size_t at = find(file, TENSORS, t->name, SCALE_SUFFIX), bytes;
    uint64_t each;
    record scale;
    oca_status status;
    if (at == file->count[TENSORS])
        return OCA_ERR_SCALE;
    get_record(file, at, &scale);
    if (t->dims == 1) { /* one scale for all */
        first_row = 0;
        rows = 1;
    }
    each = scale.info.count / scale.info.shape[0];
    if (rows * each > SIZE_MAX / sizeof **scales)
        return OCA_ERR_LIMIT;
    bytes = (size_t)(rows * each) * sizeof **scales;
    *scales = (float *)take(&file->options, bytes);
    if (!*scales)
        return OCA_ERR_MEMORY;
    status = oca_read(file, at, first_row, rows, OCA_F32, *scales, bytes);
    j->scales = *scales;
    j->scale_first = first_row * each;
    j->scale_run = t->shape[t->dims - 1];
    return status;
}

oca_status oca_read(const oca_file *file, size_t tensor, uint64_t first_row, uint64_t rows, oca_dtype as,
                    void *target, size_t target_bytes) {
    float *scales = NULL;
    oca_status status = OCA_OK;
    uint64_t row, wide = oca_dtype_bytes(as);
    record r;
    job j;
    if (!file || tensor >= file->count[TENSORS] || !wide || (!target && target_bytes))
        return OCA_ERR_ARGUMENT;
    get_record(file, tensor, &r);
    if (as != r.info.dtype && !(is_float(as) && (is_float(r.info.dtype) || r.info.dtype == OCA_I8)))
        return OCA_ERR_UNSUPPORTED;
    if (first_row > r.info.shape[0] || rows > r.info.shape[0] - first_row)
        return OCA_ERR_RANGE;
    row = r.info.count / r.info.shape[0];
    if (rows && row > UINT64_MAX / wide / rows)
        return OCA_ERR_RANGE;
    if (target_bytes != rows * row * wide)
        return OCA_ERR_RANGE;
    if (!rows)
        return OCA_OK;
    memset(&j, 0, sizeof j);
    j.file = file;
    j.tensor = &r;
    j.begin = first_row * row * r.element;
    j.end = j.begin + rows * row * r.element;
    j.as = as;
    j.target = (unsigned char *)target;
    if (r.info.dtype == OCA_I8 && as != OCA_I8)
        status = read_scales(&j, first_row, rows, &scales);
    if (!status)
        status = run(&j);
    give(&file->options, scales);
    return status;
}

oca_status oca_verify_tensor(const oca_file *file, size_t tensor) {
    record r;
    job j;
    if (!file || tensor >= file->count[TENSORS])
        return OCA_ERR_ARGUMENT;
    get_record(file, tensor, &r);
    memset(&j, 0, sizeof j);
    j.file = file;
    j.tensor = &r;
    j.end = r.info.bytes;
    return run(&j);
}

oca_status oca_verify(const oca_file *file, size_t *failed) {
    size_t i;
    if (!file)
        return OCA_ERR_ARGUMENT;
    for (i = 0; i < file->count[TENSORS]; i++) {
        oca_status status = oca_verify_tensor(file, i);
        if (status) {
            if (failed)
                *failed = i;
            return status;
        }
    }
    return OCA_OK;
}
