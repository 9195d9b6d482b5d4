/* Every class of malformed .oca archive, by name, with the status that it must get. A valid archive is built,
 * one thing in it is changed, and the checksums are sealed again (by libxxhash), so that the check meant is
 * the check that fires.
 */
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "tests/support/oca_items.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>
#include <zstd.h>

/* Tensors of the archive, in order. */
enum { RAW, SMALL, SHUFFLED, Q, Q_SCALE, LAST, TENSORS };
enum { LAST_BYTES = 5000, RAW_BYTES = 4 * 3 * 7 };

typedef struct image {
    unsigned char *data;
    size_t size;
} image;

static uint64_t get(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

static void put(unsigned char *p, int bytes, uint64_t value) {
    for (int i = 0; i < bytes; i++, value >>= 8)
        p[i] = (unsigned char)value;
}

/* Sections of the file. */
enum { HEADER, COUNTS, METADATA, TENSOR, CHUNK, TEXT, PAYLOAD };

static size_t place(const image *im, int section, size_t record) {
    const unsigned char *counts = im->data + 64;
    size_t metadata = 64 + 48, tensors = metadata + 32 * (size_t)get(counts, 8);
    size_t chunks = tensors + 104 * (size_t)get(counts + 8, 8),
           text = chunks + 24 * (size_t)get(counts + 16, 8);
    switch (section) {
    case HEADER:
        return 0;
    case COUNTS:
        return 64;
    case METADATA:
        return metadata + 32 * record;
    case TENSOR:
        return tensors + 104 * record;
    case CHUNK:
        return chunks + 24 * record;
    case TEXT:
        return text;
    default: /* the stored bytes of a chunk */
        return (size_t)get(im->data + chunks + 24 * record, 8);
    }
}

static unsigned char *at(const image *im, int section, size_t record, size_t offset) {
    return im->data + place(im, section, record) + offset;
}

static void seal_header(image *im) {
    put(im->data + 56, 8, XXH64(im->data, 56, 0));
}

static void seal(image *im) {
    uint64_t index = get(im->data + 24, 8);
    if (index <= im->size - 64)
        put(im->data + 48, 8, XXH64(im->data + 64, (size_t)index, 0));
    seal_header(im);
}

/* Makes the data of the last tensor: compressible, and all of it known. */
static void last_bytes(unsigned char *data) {
    for (size_t i = 0; i < LAST_BYTES; i++)
        data[i] = (unsigned char)(i / 50);
}

static image build(int tensors) {
    ousac_oca_writer *writer = NULL;
    static const uint64_t raw[2] = {3, 7}, small[1] = {65}, shuffled[1] = {1000}, q[2] = {2, 3},
                          scale[1] = {2}, last[1] = {LAST_BYTES};
    static unsigned char data[LAST_BYTES], ramp[8000];
    last_bytes(data);
    for (size_t i = 0; i < sizeof ramp; i++)
        ramp[i] = (unsigned char)(i / 100 + i % 8 * 31);
    assert_int_equal(ousac_oca_writer_create(&writer, NULL), OUSAC_STATUS_OK);
    ousac_status s = ousac_oca_writer_metadata(writer, "k0", "\xf0\x9f\x9a\x80", NULL);
    s = s ? s : ousac_oca_writer_metadata(writer, "k1", "", NULL);
    s = s ? s : ousac_oca_writer_metadata(writer, "k2", "value", NULL);
    if (tensors) {
        s = s ? s
              : ousac_oca_writer_tensor(writer, "a0", OUSAC_DTYPE_F32, 2, raw, OUSAC_OCA_CODEC_RAW, data,
                                        NULL);
        s = s ? s
              : ousac_oca_writer_tensor(writer, "a1", OUSAC_DTYPE_U8, 1, small, OUSAC_OCA_CODEC_RAW, data,
                                        NULL);
        s = s ? s
              : ousac_oca_writer_tensor(writer, "c", OUSAC_DTYPE_I64, 1, shuffled,
                                        OUSAC_OCA_CODEC_SHUFFLE_ZSTD, ramp, NULL);
        s = s ? s
              : ousac_oca_writer_tensor(writer, "q", OUSAC_DTYPE_I8, 2, q, OUSAC_OCA_CODEC_RAW, data, NULL);
        s = s ? s
              : ousac_oca_writer_tensor(writer, "q.scale", OUSAC_DTYPE_F32, 1, scale, OUSAC_OCA_CODEC_RAW,
                                        data, NULL);
        s = s ? s
              : ousac_oca_writer_tensor(writer, "z", OUSAC_DTYPE_U8, 1, last, OUSAC_OCA_CODEC_ZSTD, data,
                                        NULL);
    }
    s = s ? s : ousac_oca_writer_save(writer, oca_test_path, NULL);
    assert_int_equal(s, OUSAC_STATUS_OK);
    ousac_oca_writer_free(writer);
    file_bytes bytes = oca_test_slurp();
    return (image){bytes.data, bytes.size};
}

/* --- the judge: opens, reads, verifies --- */

typedef struct largest {
    size_t bytes, live;
} largest;

static void *allocate(void *context, size_t bytes) {
    largest *l = context;
    l->bytes = bytes > l->bytes ? bytes : l->bytes;
    l->live++;
    return malloc(bytes);
}

static void release(void *context, void *block) {
    ((largest *)context)->live--;
    free(block);
}

/* Status of opening; else, of verifying. Nothing may be allocated that the archive's own size does not
 * warrant. */
static oca_status judge(const image *im, int *opened) {
    largest l = {0, 0};
    oca_fault fault = {NULL, 0};
    oca_options options = {.allocate = allocate, .release = release, .memory_context = &l, .fault = &fault};
    oca_file *file = NULL;
    unsigned char *exact = malloc(im->size ? im->size : 1); /* so that ASan sees the first byte behind it */
    assert_non_null(exact);
    if (im->size)
        memcpy(exact, im->data, im->size);
    oca_status status = oca_open_memory(&file, exact, im->size, &options);
    *opened = file != NULL;
    assert_int_equal(*opened, status == OCA_OK);
    assert_int_equal(fault.what != NULL, status != OCA_OK);
    assert_true(l.bytes <= (im->size > 1024 ? im->size : 1024));
    if (file) {
        l.bytes = 0;
        status = oca_verify(file, NULL);
        assert_true(l.bytes <= OCA_CHUNK_BYTES_MAX);
        for (size_t i = 0; i < oca_tensor_count(file);
             i++) { /* reading finds the same, unless it is padding */
            oca_tensor t;
            assert_int_equal(oca_tensor_at(file, i, &t), OCA_OK);
            if (t.bytes <= OCA_MIB) {
                void *target = malloc((size_t)t.bytes);
                oca_status one = oca_verify_tensor(file, i);
                oca_status read = oca_read(file, i, 0, t.shape[0], t.dtype, target, (size_t)t.bytes);
                assert_true(read == one || (one == OCA_ERR_PADDING && read == OCA_OK));
                free(target);
            }
        }
        oca_close(file);
    }
    assert_int_equal(l.live, 0);
    free(exact);
    return status;
}

/* --- one field changed --- */

enum op { SET, ADD, XOR };

typedef struct poke {
    const char *name;
    int section;
    size_t record, offset;
    int bytes;
    enum op op;
    uint64_t value;
    oca_status expected;
} poke;

#define MINUS(x) (UINT64_MAX - (x) + 1)

/* Found when opening, once sealed again. */
static const poke pokes[] = {
    {"magic: high bit stripped", HEADER, 0, 0, 1, XOR, 0x80, OCA_ERR_MAGIC},
    {"magic: line end converted", HEADER, 0, 4, 1, SET, '\n', OCA_ERR_MAGIC},
    {"magic: last byte", HEADER, 0, 7, 1, XOR, 1, OCA_ERR_MAGIC},
    {"newer major", HEADER, 0, 8, 2, SET, 2, OCA_ERR_VERSION},
    {"major 0", HEADER, 0, 8, 2, SET, 0, OCA_ERR_VERSION},
    {"major in the high byte", HEADER, 0, 9, 1, SET, 1, OCA_ERR_VERSION},
    {"newer minor is accepted", HEADER, 0, 10, 2, SET, 9, OCA_OK},
    {"header zeros: low bit", HEADER, 0, 12, 4, SET, 1, OCA_ERR_RESERVED},
    {"header zeros: high bit", HEADER, 0, 15, 1, SET, 0x80, OCA_ERR_RESERVED},
    {"index offset 0", HEADER, 0, 16, 8, SET, 0, OCA_ERR_LAYOUT},
    {"index offset 128", HEADER, 0, 16, 8, SET, 128, OCA_ERR_LAYOUT},
    {"index size 0", HEADER, 0, 24, 8, SET, 0, OCA_ERR_LAYOUT},
    {"index size below its counts", HEADER, 0, 24, 8, SET, 47, OCA_ERR_LAYOUT},
    {"index size one more", HEADER, 0, 24, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"index size one less", HEADER, 0, 24, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"index size beyond the file", HEADER, 0, 24, 8, SET, 1 << 20, OCA_ERR_LAYOUT},
    {"index size 2^64 - 1", HEADER, 0, 24, 8, SET, UINT64_MAX, OCA_ERR_LAYOUT},
    {"payload offset one less", HEADER, 0, 32, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"payload offset 64 more", HEADER, 0, 32, 8, ADD, 64, OCA_ERR_LAYOUT},
    {"payload offset 64 less", HEADER, 0, 32, 8, ADD, MINUS(64), OCA_ERR_LAYOUT},
    {"payload offset 2^64 - 64", HEADER, 0, 32, 8, SET, MINUS(64), OCA_ERR_LAYOUT},
    {"file size one more", HEADER, 0, 40, 8, ADD, 1, OCA_ERR_TRUNCATED},
    {"file size 2^64 - 1", HEADER, 0, 40, 8, SET, UINT64_MAX, OCA_ERR_TRUNCATED},
    {"file size one less", HEADER, 0, 40, 8, ADD, MINUS(1), OCA_ERR_TRAILING},
    {"file size 0", HEADER, 0, 40, 8, SET, 0, OCA_ERR_TRAILING},

    {"metadata count one more", COUNTS, 0, 0, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"metadata count one less", COUNTS, 0, 0, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"metadata count whose product wraps", COUNTS, 0, 0, 8, ADD, UINT64_C(1) << 59, OCA_ERR_LAYOUT},
    {"tensor count one more", COUNTS, 0, 8, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"tensor count one less", COUNTS, 0, 8, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"tensor count 2^64 - 1", COUNTS, 0, 8, 8, SET, UINT64_MAX, OCA_ERR_LAYOUT},
    {"tensor count whose product wraps", COUNTS, 0, 8, 8, ADD, UINT64_C(1) << 61, OCA_ERR_LAYOUT},
    {"chunk count one more", COUNTS, 0, 16, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"chunk count one less", COUNTS, 0, 16, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"chunk count whose product wraps", COUNTS, 0, 16, 8, ADD, UINT64_C(1) << 61, OCA_ERR_LAYOUT},
    {"text bytes one more", COUNTS, 0, 24, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"text bytes one less", COUNTS, 0, 24, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},
    {"text bytes 2^64 - 1", COUNTS, 0, 24, 8, SET, UINT64_MAX, OCA_ERR_LAYOUT},
    {"extension bytes that are not there", COUNTS, 0, 32, 8, SET, 1, OCA_ERR_LAYOUT},
    {"index zeros: low bit", COUNTS, 0, 40, 8, SET, 1, OCA_ERR_RESERVED},
    {"index zeros: high bit", COUNTS, 0, 47, 1, SET, 0x80, OCA_ERR_RESERVED},

    {"key offset one more", METADATA, 0, 0, 8, ADD, 1, OCA_ERR_TEXT},
    {"second key at the first's place", METADATA, 1, 0, 8, SET, 0, OCA_ERR_TEXT},
    {"key offset 2^64 - 1", METADATA, 1, 0, 8, SET, UINT64_MAX, OCA_ERR_TEXT},
    {"empty key", METADATA, 0, 8, 8, SET, 0, OCA_ERR_TEXT},
    {"key size one less", METADATA, 0, 8, 8, ADD, MINUS(1), OCA_ERR_TEXT},
    {"key size one more", METADATA, 0, 8, 8, ADD, 1, OCA_ERR_TEXT},
    {"key size 2^64 - 1", METADATA, 0, 8, 8, SET, UINT64_MAX, OCA_ERR_TEXT},
    {"value offset one more", METADATA, 0, 16, 8, ADD, 1, OCA_ERR_TEXT},
    {"value size one less", METADATA, 0, 24, 8, ADD, MINUS(1), OCA_ERR_TEXT},
    {"value size beyond the text", METADATA, 2, 24, 8, SET, 1000, OCA_ERR_TEXT},
    {"value size 2^64 - 1", METADATA, 2, 24, 8, SET, UINT64_MAX, OCA_ERR_TEXT},
    {"key not UTF-8", TEXT, 0, 0, 1, SET, 0xff, OCA_ERR_TEXT},
    {"key with a NUL", TEXT, 0, 1, 1, SET, 0, OCA_ERR_TEXT},
    {"key without its NUL", TEXT, 0, 2, 1, SET, 'x', OCA_ERR_TEXT},
    {"value without its NUL", TEXT, 0, 7, 1, SET, 'x', OCA_ERR_TEXT},
    {"keys not sorted", TEXT, 0, 1, 1, SET, '9', OCA_ERR_ORDER},
    {"key twice", TEXT, 0, 1, 1, SET, '1', OCA_ERR_DUPLICATE},

    {"name offset one more", TENSOR, 0, 0, 8, ADD, 1, OCA_ERR_TEXT},
    {"second name at the first's place", TENSOR, 1, 0, 8, ADD, MINUS(3), OCA_ERR_TEXT},
    {"name offset 2^64 - 1", TENSOR, 0, 0, 8, SET, UINT64_MAX, OCA_ERR_TEXT},
    {"empty name", TENSOR, 0, 8, 8, SET, 0, OCA_ERR_TEXT},
    {"name size one more", TENSOR, 0, 8, 8, ADD, 1, OCA_ERR_TEXT},
    {"last name beyond the text", TENSOR, LAST, 8, 8, ADD, 1, OCA_ERR_TEXT},
    {"name size 2^64 - 1", TENSOR, LAST, 8, 8, SET, UINT64_MAX, OCA_ERR_TEXT},
    {"name not UTF-8", TEXT, 0, 21, 1, SET, 0x80, OCA_ERR_TEXT},
    {"name twice", TEXT, 0, 22, 1, SET, '1', OCA_ERR_DUPLICATE},
    {"names not sorted", TEXT, 0, 21, 1, SET, 'b', OCA_ERR_ORDER},

    {"unknown dtype", TENSOR, RAW, 16, 4, SET, 8, OCA_ERR_DTYPE},
    {"dtype 2^32 - 1", TENSOR, RAW, 16, 4, SET, UINT32_MAX, OCA_ERR_DTYPE},
    {"dtype of another size", TENSOR, RAW, 16, 4, SET, 0, OCA_ERR_SHAPE},
    {"unknown codec", TENSOR, RAW, 20, 4, SET, 3, OCA_ERR_CODEC},
    {"codec 2^31", TENSOR, RAW, 20, 4, SET, UINT64_C(1) << 31, OCA_ERR_CODEC},
    {"compressed chunk of a raw tensor", TENSOR, LAST, 20, 4, SET, 0, OCA_ERR_CHUNK},
    {"no dimension", TENSOR, RAW, 24, 4, SET, 0, OCA_ERR_SHAPE},
    {"five dimensions", TENSOR, RAW, 24, 4, SET, 5, OCA_ERR_SHAPE},
    {"2^32 - 1 dimensions", TENSOR, RAW, 24, 4, SET, UINT32_MAX, OCA_ERR_SHAPE},
    {"a dimension fewer than lengths", TENSOR, RAW, 24, 4, SET, 1, OCA_ERR_RESERVED},
    {"a dimension more than lengths", TENSOR, RAW, 24, 4, SET, 3, OCA_ERR_SHAPE},
    {"tensor zeros: low bit", TENSOR, RAW, 28, 4, SET, 1, OCA_ERR_RESERVED},
    {"tensor zeros: high bit", TENSOR, LAST, 31, 1, SET, 0x80, OCA_ERR_RESERVED},
    {"length beyond the dimensions", TENSOR, RAW, 48, 8, SET, 1, OCA_ERR_RESERVED},
    {"zero first dimension", TENSOR, RAW, 32, 8, SET, 0, OCA_ERR_SHAPE},
    {"zero last dimension", TENSOR, RAW, 40, 8, SET, 0, OCA_ERR_SHAPE},
    {"product of dimensions wraps", TENSOR, RAW, 32, 8, ADD, UINT64_C(1) << 63, OCA_ERR_SHAPE},
    {"product with the element wraps", TENSOR, SHUFFLED, 32, 8, ADD, UINT64_C(1) << 61, OCA_ERR_SHAPE},
    {"another length", TENSOR, RAW, 32, 8, SET, 4, OCA_ERR_SHAPE},
    {"decoded size one more", TENSOR, RAW, 88, 8, ADD, 1, OCA_ERR_SHAPE},
    {"decoded size 0", TENSOR, RAW, 88, 8, SET, 0, OCA_ERR_SHAPE},
    {"first chunk one more", TENSOR, RAW, 64, 8, ADD, 1, OCA_ERR_CHUNK},
    {"first chunk another tensor's", TENSOR, SMALL, 64, 8, SET, 0, OCA_ERR_CHUNK},
    {"first chunk outside the table", TENSOR, LAST, 64, 8, SET, UINT64_MAX, OCA_ERR_CHUNK},
    {"no chunks", TENSOR, RAW, 72, 8, SET, 0, OCA_ERR_CHUNK},
    {"a chunk too many", TENSOR, LAST, 72, 8, ADD, 1, OCA_ERR_CHUNK},
    {"2^64 - 1 chunks", TENSOR, LAST, 72, 8, SET, UINT64_MAX, OCA_ERR_CHUNK},
    {"chunk size 0", TENSOR, RAW, 80, 8, SET, 0, OCA_ERR_CHUNK},
    {"chunk size no multiple of 64", TENSOR, RAW, 80, 8, SET, 1000, OCA_ERR_CHUNK},
    {"chunk size below the tensor's", TENSOR, RAW, 80, 8, SET, 64, OCA_ERR_CHUNK},
    {"largest chunk size is accepted", TENSOR, RAW, 80, 8, SET, 16 << 20, OCA_OK},
    {"chunk size above 16 MiB", TENSOR, RAW, 80, 8, SET, (16 << 20) + 64, OCA_ERR_CHUNK},
    {"chunk size 2^64 - 64", TENSOR, RAW, 80, 8, SET, MINUS(64), OCA_ERR_CHUNK},
    {"ignored field set is accepted", TENSOR, RAW, 96, 8, SET, UINT64_MAX, OCA_OK},

    {"gap before a chunk", CHUNK, 1, 0, 8, ADD, 64, OCA_ERR_LAYOUT},
    {"chunk over the one before", CHUNK, 1, 0, 8, ADD, MINUS(64), OCA_ERR_LAYOUT},
    {"chunk at another's place", CHUNK, 1, 0, 8, ADD, MINUS(128), OCA_ERR_LAYOUT},
    {"chunk not aligned", CHUNK, 1, 0, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"first chunk in the index", CHUNK, 0, 0, 8, SET, 64, OCA_ERR_LAYOUT},
    {"chunk offset 2^64 - 64", CHUNK, 0, 0, 8, SET, MINUS(64), OCA_ERR_LAYOUT},
    {"stored size 0", CHUNK, LAST, 8, 8, SET, 0, OCA_ERR_CHUNK},
    {"stored size above the decoded", CHUNK, LAST, 8, 8, SET, LAST_BYTES + 1, OCA_ERR_CHUNK},
    {"stored size 2^64 - 1", CHUNK, LAST, 8, 8, SET, UINT64_MAX, OCA_ERR_CHUNK},
    {"stored size of a raw chunk one less", CHUNK, RAW, 8, 8, ADD, MINUS(1), OCA_ERR_CHUNK},
    {"last chunk ends beyond the file", CHUNK, LAST, 8, 8, ADD, 1, OCA_ERR_LAYOUT},
    {"bytes behind the last chunk", CHUNK, LAST, 8, 8, ADD, MINUS(1), OCA_ERR_LAYOUT},

    {"scales of another dtype", TENSOR, Q_SCALE, 16, 4, SET, OCA_I32, OCA_ERR_SCALE},
};

/* Found when the chunk is decoded, or the tensor verified. */
static const poke late_pokes[] = {
    {"checksum of a chunk", CHUNK, RAW, 16, 8, XOR, 1, OCA_ERR_DATA_CHECKSUM},
    {"checksum of a compressed chunk", CHUNK, LAST, 23, 1, XOR, 0x80, OCA_ERR_DATA_CHECKSUM},
    {"raw byte", PAYLOAD, RAW, 5, 1, XOR, 1, OCA_ERR_DATA_CHECKSUM},
    {"last raw byte", PAYLOAD, SMALL, 64, 1, XOR, 1, OCA_ERR_DATA_CHECKSUM},
    {"padding behind a chunk: first byte", PAYLOAD, RAW, RAW_BYTES, 1, SET, 1, OCA_ERR_PADDING},
    {"padding behind a chunk: last byte", PAYLOAD, RAW, 127, 1, SET, 0x80, OCA_ERR_PADDING},
    {"zstd magic", PAYLOAD, LAST, 0, 1, XOR, 1, OCA_ERR_COMPRESSED},
    {"zstd dictionary", PAYLOAD, LAST, 4, 1, XOR, 1, OCA_ERR_COMPRESSED},
    {"zstd reserved bit", PAYLOAD, LAST, 4, 1, XOR, 8, OCA_ERR_COMPRESSED},
    {"zstd checksum announced, absent", PAYLOAD, LAST, 4, 1, XOR, 4, OCA_ERR_COMPRESSED},
    {"zstd declared size one more", PAYLOAD, LAST, 5, 1, ADD, 1, OCA_ERR_COMPRESSED},
    {"zstd block not the last", PAYLOAD, LAST, 7, 1, XOR, 1, OCA_ERR_COMPRESSED},
    {"zstd reserved block type", PAYLOAD, LAST, 7, 1, XOR, 2, OCA_ERR_COMPRESSED},
    {"zstd block one byte longer", PAYLOAD, LAST, 7, 1, ADD, 8, OCA_ERR_COMPRESSED},
    {"zstd block one byte shorter", PAYLOAD, LAST, 7, 1, ADD, MINUS(8), OCA_ERR_COMPRESSED},
};

static void apply(image *im, const poke *p) {
    unsigned char *field = at(im, p->section, p->record, p->offset);
    uint64_t value = get(field, p->bytes);
    put(field, p->bytes, p->op == SET ? p->value : p->op == ADD ? value + p->value : value ^ p->value);
}

static int run_pokes(const image *good, const poke *list, size_t count, int late) {
    int wrong = 0;
    for (size_t i = 0; i < count; i++) {
        image im = {malloc(good->size), good->size};
        int opened;
        assert_non_null(im.data);
        memcpy(im.data, good->data, good->size);
        apply(&im, &list[i]);
        seal(&im);
        oca_status status = judge(&im, &opened);
        if (status != list[i].expected || (late && !opened)) {
            print_error("%s: %s (%d), expected %d\n", list[i].name, oca_status_string(status), status,
                        list[i].expected);
            wrong++;
        }
        free(im.data);
    }
    return wrong;
}

static void test_every_malformed_field_gets_its_status(void **state) {
    (void)state;
    image good = build(1);
    int opened;
    assert_int_equal(judge(&good, &opened), OCA_OK);
    assert_int_equal(get(at(&good, COUNTS, 0, 16), 8), TENSORS); /* one chunk each: tensor i has chunk i */
    assert_true(get(at(&good, CHUNK, LAST, 8), 8) < LAST_BYTES);
    assert_int_equal(run_pokes(&good, pokes, sizeof pokes / sizeof *pokes, 0), 0);
    assert_int_equal(run_pokes(&good, late_pokes, sizeof late_pokes / sizeof *late_pokes, 1), 0);
    free(good.data);
}

/* --- several fields changed --- */

static image copy(const image *good, size_t room) {
    image im = {calloc(good->size + room, 1), good->size};
    assert_non_null(im.data);
    memcpy(im.data, good->data, good->size);
    return im;
}

/* Makes room for `bytes` zeros, a multiple of 64, at `offset` of the index, and moves the payload. */
static image widen_index(const image *good, size_t offset, size_t bytes) {
    image im = copy(good, bytes);
    size_t chunks = (size_t)get(at(&im, COUNTS, 0, 16), 8), table = place(&im, CHUNK, 0);
    memmove(im.data + offset + bytes, im.data + offset, im.size - offset);
    memset(im.data + offset, 0, bytes);
    im.size += bytes;
    if (offset <= table)
        table += bytes;
    for (size_t i = 0; i < chunks; i++)
        put(im.data + table + 24 * i, 8, get(im.data + table + 24 * i, 8) + bytes);
    put(im.data + 24, 8, get(im.data + 24, 8) + bytes);
    put(im.data + 32, 8, get(im.data + 32, 8) + bytes);
    put(im.data + 40, 8, im.size);
    return im;
}

static oca_status judge_and_free(image *im) {
    int opened;
    seal(im);
    oca_status status = judge(im, &opened);
    free(im->data);
    return status;
}

static void add(image *im, int section, size_t record, size_t offset, uint64_t value) {
    unsigned char *field = at(im, section, record, offset);
    put(field, 8, get(field, 8) + value);
}

static void test_sections_with_more_than_they_need(void **state) {
    (void)state;
    image good = build(1);
    size_t text_end = place(&good, TEXT, 0) + (size_t)get(at(&good, COUNTS, 0, 24), 8);
    image im = widen_index(&good, text_end, 64); /* an extension, which is ignored */
    put(at(&im, COUNTS, 0, 32), 8, 64);
    memset(im.data + text_end, 0xee, 64);
    assert_int_equal(judge_and_free(&im), OCA_OK);
    im = widen_index(&good, text_end, 64);
    assert_int_equal(judge_and_free(&im), OCA_ERR_LAYOUT);
    im = widen_index(&good, text_end, 64);
    add(&im, COUNTS, 0, 24, 64); /* text behind the last name */
    assert_int_equal(judge_and_free(&im), OCA_ERR_TEXT);
    im = widen_index(&good, place(&good, TEXT, 0), 192);
    add(&im, COUNTS, 0, 16, 8); /* eight chunks that are nobody's */
    assert_int_equal(judge_and_free(&im), OCA_ERR_CHUNK);
    free(good.data);

    good = build(0);
    im = copy(&good, 64); /* a payload of nobody's */
    im.size += 64;
    put(im.data + 40, 8, im.size);
    assert_int_equal(judge_and_free(&im), OCA_ERR_LAYOUT);
    im = copy(&good, 0); /* not even the padding behind the index */
    im.size = 64 + (size_t)get(im.data + 24, 8);
    put(im.data + 40, 8, im.size);
    assert_int_not_equal(im.size % 64, 0);
    assert_int_equal(judge_and_free(&im), OCA_ERR_LAYOUT);
    free(good.data);
}

static void test_shapes_that_lie(void **state) {
    (void)state;
    image good = build(1), im = copy(&good, 0);
    put(at(&im, TENSOR, RAW, 32), 8, 6); /* twice the rows, and the size to match: the chunk is too small */
    put(at(&im, TENSOR, RAW, 88), 8, 2 * RAW_BYTES);
    assert_int_equal(judge_and_free(&im), OCA_ERR_CHUNK);
    im = copy(&good, 0); /* 2^40 bytes in 2^24 chunks of 64 KiB: beyond the table */
    put(at(&im, TENSOR, LAST, 32), 8, UINT64_C(1) << 40);
    put(at(&im, TENSOR, LAST, 88), 8, UINT64_C(1) << 40);
    put(at(&im, TENSOR, LAST, 72), 8, UINT64_C(1) << 24);
    put(at(&im, TENSOR, LAST, 80), 8, UINT64_C(1) << 16);
    assert_int_equal(judge_and_free(&im), OCA_ERR_CHUNK);
    im = copy(&good, 0); /* 16 MiB declared where 5000 bytes are compressed */
    put(at(&im, TENSOR, LAST, 32), 8, 1 << 24);
    put(at(&im, TENSOR, LAST, 88), 8, 1 << 24);
    put(at(&im, TENSOR, LAST, 80), 8, 1 << 24);
    assert_int_equal(judge_and_free(&im), OCA_ERR_COMPRESSED);
    im = copy(&good, 0); /* a smaller tensor than its frame holds */
    put(at(&im, TENSOR, LAST, 32), 8, LAST_BYTES - 1);
    put(at(&im, TENSOR, LAST, 88), 8, LAST_BYTES - 1);
    assert_int_equal(judge_and_free(&im), OCA_ERR_COMPRESSED);
    im = copy(&good, 0); /* (2, 3) i8 as (3, 2): two scales for three rows */
    put(at(&im, TENSOR, Q, 32), 8, 3);
    put(at(&im, TENSOR, Q, 40), 8, 2);
    assert_int_equal(judge_and_free(&im), OCA_ERR_SCALE);
    im = copy(&good, 0); /* scales (2) as (1, 2) */
    put(at(&im, TENSOR, Q_SCALE, 24), 4, 2);
    put(at(&im, TENSOR, Q_SCALE, 32), 8, 1);
    put(at(&im, TENSOR, Q_SCALE, 40), 8, 2);
    assert_int_equal(judge_and_free(&im), OCA_ERR_SCALE);
    im = copy(&good, 0); /* contents changed with their checksum: nothing is wrong */
    at(&im, PAYLOAD, RAW, 0)[3] ^= 1;
    put(at(&im, CHUNK, RAW, 16), 8, XXH64(at(&im, PAYLOAD, RAW, 0), RAW_BYTES, 0));
    assert_int_equal(judge_and_free(&im), OCA_OK);
    free(good.data);
}

/* Fields that are consistent with one another in 64-bit arithmetic that wraps. */
static void test_sums_and_products_that_wrap(void **state) {
    (void)state;
    image good = build(1), im = copy(&good, 0);
    put(im.data + 24, 8, 47); /* an index smaller than its counts, with the payload where it would be */
    put(im.data + 32, 8, 128);
    assert_int_equal(judge_and_free(&im), OCA_ERR_LAYOUT);
    im = copy(&good, 0);
    put(im.data + 24, 8, MINUS(64)); /* 64 + index size is 0 */
    put(im.data + 32, 8, 0);
    assert_int_equal(judge_and_free(&im), OCA_ERR_LAYOUT);
    im = copy(&good, 0); /* 5 x is 21, the number of elements, modulo 2^64 */
    put(at(&im, TENSOR, RAW, 32), 8, UINT64_C(0xcccccccccccccccd) * 21);
    put(at(&im, TENSOR, RAW, 40), 8, 5);
    assert_int_equal(judge_and_free(&im), OCA_ERR_SHAPE);
    im = copy(&good, 0); /* nothing at all, in no chunks */
    put(at(&im, TENSOR, RAW, 32), 8, 0);
    put(at(&im, TENSOR, RAW, 72), 8, 0);
    put(at(&im, TENSOR, RAW, 88), 8, 0);
    assert_int_equal(judge_and_free(&im), OCA_ERR_SHAPE);
    im = widen_index(&good, place(&good, TEXT, 0),
                     192); /* eight chunks more than the last tensor has bytes for */
    add(&im, COUNTS, 0, 16, 8);
    put(at(&im, TENSOR, LAST, 72), 8, 9);
    im.data = realloc(im.data, im.size + 1024);
    assert_non_null(im.data);
    memset(im.data + im.size, 0, 1024);
    for (size_t i = LAST + 1; i < LAST + 9; i++) {
        put(at(&im, CHUNK, i, 0), 8, (im.size + 63) / 64 * 64);
        put(at(&im, CHUNK, i, 8), 8, 64);
        im.size = (im.size + 63) / 64 * 64 + 64;
    }
    put(im.data + 40, 8, im.size);
    assert_int_equal(judge_and_free(&im), OCA_ERR_CHUNK);
    free(good.data);
}

static int read_header_only(void *context, uint64_t offset, void *target, size_t bytes) {
    if (offset || bytes > 64)
        return -1;
    memcpy(target, context, bytes);
    return 0;
}

/* A source may claim any size; nothing is allocated or read on the strength of it. */
static void test_enormous_sources(void **state) {
    (void)state;
    static const struct {
        uint64_t file, index, payload;
        oca_status expected;
    } cases[] = {
        {UINT64_MAX, 1 << 20, (1 << 20) + 64, OCA_ERR_LAYOUT},
        {UINT64_C(1) << 63, 1 << 20, (1 << 20) + 64, OCA_ERR_LAYOUT},
        {INT64_MAX, UINT64_C(1) << 62, (UINT64_C(1) << 62) + 64, OCA_ERR_LIMIT},
        {INT64_MAX, (256 << 20) + 64, (256 << 20) + 128, OCA_ERR_LIMIT},
        {INT64_MAX, 1 << 20, (1 << 20) + 64, OCA_ERR_IO}, /* well-formed so far: the index is asked for */
    };
    image good = build(0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        oca_file *file = NULL;
        put(good.data + 24, 8, cases[i].index);
        put(good.data + 32, 8, cases[i].payload);
        put(good.data + 40, 8, cases[i].file);
        seal_header(&good);
        assert_int_equal(oca_open_callback(&file, read_header_only, good.data, cases[i].file, NULL),
                         cases[i].expected);
        assert_null(file);
    }
    free(good.data);
}

static void test_utf8_is_decided_at_its_edges(void **state) {
    (void)state;
    static const struct {
        const char *bytes; /* four, the value of the first key */
        oca_status expected;
    } cases[] = {
        {"\xf0\x90\x80\x80", OCA_OK},       {"\xf4\x8f\xbf\xbf", OCA_OK},
        {"\xed\x9f\xbfz", OCA_OK},          {"\xee\x80\x80z", OCA_OK},
        {"\xe0\xa0\x80z", OCA_OK},          {"\xc2\x80\xdf\xbf", OCA_OK},
        {"\x01\x7f\n\t", OCA_OK},           {"\xf4\x90\x80\x80", OCA_ERR_TEXT},
        {"\xf5\x80\x80\x80", OCA_ERR_TEXT}, {"\xf0\x8f\xbf\xbf", OCA_ERR_TEXT},
        {"\xe0\x9f\xbfz", OCA_ERR_TEXT},    {"\xed\xa0\x80z", OCA_ERR_TEXT},
        {"\xed\xbf\xbfz", OCA_ERR_TEXT},    {"\xc0\x80zz", OCA_ERR_TEXT},
        {"\xc1\xbfzz", OCA_ERR_TEXT},       {"\x80zzz", OCA_ERR_TEXT},
        {"zzz\xc3", OCA_ERR_TEXT},          {"zz\xe2\x82", OCA_ERR_TEXT},
        {"z\xf0\x9f\x9a", OCA_ERR_TEXT},    {"\xc3zzz", OCA_ERR_TEXT},
        {"\xff\xfezz", OCA_ERR_TEXT},       {"z\0zz", OCA_ERR_TEXT},
    };
    image good = build(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image im = copy(&good, 0);
        memcpy(at(&im, TEXT, 0, 3), cases[i].bytes, 4);
        oca_status status = judge_and_free(&im);
        if (status != cases[i].expected)
            fail_msg("case %zu: %s", i, oca_status_string(status));
    }
    free(good.data);
}

/* --- checksums not sealed again, truncation --- */

static void test_unsealed_changes_of_header_and_index_are_seen(void **state) {
    (void)state;
    image good = build(1);
    size_t index_end = 64 + (size_t)get(good.data + 24, 8), payload = (size_t)get(good.data + 32, 8);
    assert_true(payload > index_end);
    for (size_t i = 0; i < payload; i++)
        for (int bit = 0; bit < 8; bit++) {
            image im = copy(&good, 0);
            int opened;
            im.data[i] ^= (unsigned char)(1 << bit);
            oca_status expected = i < 8           ? OCA_ERR_MAGIC
                                  : i < 10        ? OCA_ERR_VERSION
                                  : i < 64        ? OCA_ERR_HEADER_CHECKSUM
                                  : i < index_end ? OCA_ERR_INDEX_CHECKSUM
                                                  : OCA_ERR_PADDING;
            oca_status status = judge(&im, &opened);
            if (status != expected || opened)
                fail_msg("bit %d of byte %zu: %s", bit, i, oca_status_string(status));
            free(im.data);
        }
    image im = copy(&good, 0);
    int opened;
    im.data[48] ^= 1; /* the index's checksum, under a header that is whole */
    seal_header(&im);
    assert_int_equal(judge(&im, &opened), OCA_ERR_INDEX_CHECKSUM);
    free(im.data);
    free(good.data);
}

/* Every tensor of `file` reads as in `whole`, byte for byte. */
static void assert_same_tensors(const oca_file *whole, const oca_file *file) {
    assert_int_equal(oca_tensor_count(file), oca_tensor_count(whole));
    for (size_t i = 0; i < oca_tensor_count(whole); i++) {
        oca_tensor tensor;
        assert_int_equal(oca_tensor_at(whole, i, &tensor), OCA_OK);
        const size_t bytes = (size_t)tensor.bytes;
        unsigned char *expected = malloc(bytes), *found = malloc(bytes);
        assert_true(expected && found);
        assert_int_equal(oca_read(whole, i, 0, tensor.shape[0], tensor.dtype, expected, bytes), OCA_OK);
        assert_int_equal(oca_read(file, i, 0, tensor.shape[0], tensor.dtype, found, bytes), OCA_OK);
        assert_memory_equal(found, expected, bytes);
        free(expected);
        free(found);
    }
}

/* A changed payload is either seen, or a zstd frame that still decodes to the same bytes. */
static void test_unsealed_changes_of_the_payload_are_seen(void **state) {
    (void)state;
    image good = build(1);
    oca_file *whole = NULL;
    size_t missed = 0;
    assert_int_equal(oca_open_memory(&whole, good.data, good.size, NULL), OCA_OK);
    for (size_t i = (size_t)get(good.data + 32, 8); i < good.size; i++) {
        image im = copy(&good, 0);
        oca_file *file = NULL;
        im.data[i] ^= 0x10;
        assert_int_equal(oca_open_memory(&file, im.data, im.size, NULL), OCA_OK);
        if (oca_verify(file, NULL) == OCA_OK) {
            missed++;
            assert_same_tensors(whole, file);
        }
        oca_close(file);
        free(im.data);
    }
    /* zstd can say the same in several ways; the writer makes a small frame of every byte plane */
    assert_true(missed < 20);
    oca_close(whole);
    free(good.data);
}

static void test_truncated_at_every_byte(void **state) {
    (void)state;
    for (int tensors = 0; tensors < 2; tensors++) {
        image good = build(tensors);
        int opened;
        for (size_t size = 0; size < good.size; size++) {
            image cut = {good.data, size};
            oca_status status = judge(&cut, &opened);
            if (status != OCA_ERR_TRUNCATED)
                fail_msg("%zu of %zu bytes: %s", size, good.size, oca_status_string(status));
        }
        image longer = copy(&good, 1);
        longer.size++;
        assert_int_equal(judge(&longer, &opened), OCA_ERR_TRAILING);
        free(longer.data);
        free(good.data);
    }
}

/* --- compressed data --- */

/* Puts `bytes` bytes in place of the stored bytes of the last chunk. */
static image replace_last(const image *good, const void *data, size_t bytes) {
    image im = copy(good, bytes);
    im.size = place(&im, PAYLOAD, LAST) + bytes;
    memcpy(at(&im, PAYLOAD, LAST, 0), data, bytes);
    put(at(&im, CHUNK, LAST, 8), 8, bytes);
    put(im.data + 40, 8, im.size);
    return im;
}

typedef struct frame {
    int has_size, has_checksum;
} frame;

static size_t compress(unsigned char *target, size_t room, const void *data, size_t bytes, frame kind) {
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    assert_non_null(zstd);
    (void)ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, kind.has_size);
    (void)ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, kind.has_checksum);
    size_t packed = ZSTD_compress2(zstd, target, room, data, bytes);
    assert_false(ZSTD_isError(packed));
    (void)ZSTD_freeCCtx(zstd);
    return packed;
}

static int count_calls(void *context, void *target, size_t target_bytes, const void *source, size_t bytes) {
    memset(target, 0xdd, target_bytes);
    (void)source;
    (void)bytes;
    ++*(int *)context;
    return 0;
}

static oca_status judge_frame(const image *good, const void *data, size_t bytes) {
    image im = replace_last(good, data, bytes);
    int calls = 0;
    seal(&im);
    oca_options options = {.decompress = count_calls, .decompress_context = &calls};
    oca_file *file = NULL;
    assert_int_equal(oca_open_memory(&file, im.data, im.size, &options), OCA_OK);
    oca_status checked = oca_verify_tensor(file, LAST);
    oca_close(file);
    oca_status status = judge_and_free(&im);
    if (status == OCA_ERR_COMPRESSED && !calls) /* refused before anything is decompressed */
        return OCA_ERR_COMPRESSED;
    assert_int_equal(calls, 1);
    assert_int_equal(checked, OCA_ERR_DATA_CHECKSUM); /* by the decompressor above */
    return status == OCA_ERR_COMPRESSED ? OCA_ERR_TASK : status;
}

static void test_zstd_frames(void **state) {
    (void)state;
    static const frame plain = {1, 0}, checked = {1, 1}, sizeless = {0, 0};
    static const unsigned char skippable[12] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    image good = build(1);
    unsigned char data[LAST_BYTES], packed[LAST_BYTES];
    last_bytes(data);
    size_t n = compress(packed, sizeof packed, data, LAST_BYTES, plain);
    assert_int_equal(judge_frame(&good, packed, n), OCA_OK);
    assert_int_equal(judge_frame(&good, packed, n - 1), OCA_ERR_COMPRESSED); /* cut */
    packed[n] = 0;
    assert_int_equal(judge_frame(&good, packed, n + 1), OCA_ERR_COMPRESSED); /* a byte behind it */
    memcpy(packed + n, skippable, sizeof skippable);
    assert_int_equal(judge_frame(&good, packed, n + sizeof skippable), OCA_ERR_COMPRESSED);
    memmove(packed + sizeof skippable, packed, n);
    memcpy(packed, skippable, sizeof skippable);
    assert_int_equal(judge_frame(&good, packed, n + sizeof skippable), OCA_ERR_COMPRESSED);
    for (size_t bytes = 1; bytes < 12; bytes++)
        assert_int_equal(judge_frame(&good, packed + sizeof skippable, bytes), OCA_ERR_COMPRESSED);
    n = compress(packed, sizeof packed, data, LAST_BYTES, checked);
    assert_int_equal(judge_frame(&good, packed, n), OCA_OK);
    n = compress(packed, sizeof packed, data, LAST_BYTES, sizeless);
    assert_int_equal(judge_frame(&good, packed, n), OCA_ERR_COMPRESSED);
    n = compress(packed, sizeof packed, data, LAST_BYTES / 2,
                 plain); /* two frames, together of the right size */
    n += compress(packed + n, sizeof packed - n, data + LAST_BYTES / 2, LAST_BYTES / 2, plain);
    assert_int_equal(judge_frame(&good, packed, n), OCA_ERR_COMPRESSED);
    data[100] ^= 1; /* a sound frame of other contents */
    n = compress(packed, sizeof packed, data, LAST_BYTES, plain);
    assert_int_equal(judge_frame(&good, packed, n), OCA_ERR_DATA_CHECKSUM);
    unsigned char *zeros = calloc(64, OCA_MIB); /* a bomb: 64 MiB from a few kilobytes */
    assert_non_null(zeros);
    n = compress(packed, sizeof packed, zeros, (size_t)64 * OCA_MIB, plain);
    assert_int_equal(judge_frame(&good, packed, n), OCA_ERR_COMPRESSED);
    /* The same, declaring what is expected (single segment, two-byte size less 256): zstd finds it out. */
    size_t header = (packed[4] & 0x20 ? 5u : 6u) + ((size_t)1 << (packed[4] >> 6));
    unsigned char *lying = malloc(n + 7);
    assert_non_null(lying);
    memcpy(lying, packed, 4);
    lying[4] = 0x60;
    put(lying + 5, 2, LAST_BYTES - 256);
    memcpy(lying + 7, packed + header, n - header);
    image im = replace_last(&good, lying, n - header + 7);
    assert_int_equal(judge_and_free(&im), OCA_ERR_COMPRESSED);
    free(lying);
    free(zeros);
    free(good.data);
}

/* --- limits and noise --- */

static void test_the_limit_on_the_index(void **state) {
    (void)state;
    image good = build(1);
    uint64_t bytes = get(good.data + 24, 8);
    oca_fault fault = {NULL, 0};
    oca_options options = {.max_index_bytes = bytes, .fault = &fault};
    oca_file *file = NULL;
    assert_int_equal(oca_open_memory(&file, good.data, good.size, &options), OCA_OK);
    oca_close(file);
    options.max_index_bytes = bytes - 1;
    assert_int_equal(oca_open_memory(&file, good.data, good.size, &options), OCA_ERR_LIMIT);
    assert_null(file);
    assert_string_equal(fault.what, "index size above the limit");
    free(good.data);
}

static void test_the_fault_names_the_record(void **state) {
    (void)state;
    image good = build(1);
    oca_fault fault = {NULL, 0};
    oca_options options = {.fault = &fault};
    oca_file *file = NULL;
    put(at(&good, TENSOR, SHUFFLED, 16), 4, 77);
    seal(&good);
    assert_int_equal(oca_open_memory(&file, good.data, good.size, &options), OCA_ERR_DTYPE);
    assert_int_equal(fault.item, SHUFFLED);
    assert_string_equal(fault.what, "unknown dtype");
    free(good.data);
}

/* Random changes, sealed: whatever the status, nothing is read or written out of bounds (with sanitizers) and
 * nothing is allocated beyond the bounds that judge() checks. */
static void test_random_changes_are_survived(void **state) {
    (void)state;
    image good = build(1);
    uint64_t seed = 2026;
    size_t accepted = 0, refused = 0;
    for (int i = 0; i < 20000; i++) {
        image im = copy(&good, 0);
        int opened;
        for (uint64_t changes = 1 + oca_test_random(&seed) % 3; changes; changes--) {
            static const uint64_t edges[] = {0, 1, 63, 64, 65, UINT32_MAX, UINT64_MAX, UINT64_MAX / 2 + 1};
            uint64_t r = oca_test_random(&seed);
            size_t offset = 8 + (size_t)((r >> 8) % (im.size - 16)) / (r & 1 ? 1 : 8) * (r & 1 ? 1 : 8);
            if (r & 2)
                im.data[offset] ^= (unsigned char)(1 << (r >> 4 & 7));
            else
                put(im.data + offset, 8, edges[r >> 5 & 7]);
        }
        put(im.data + 8, 2, 1);
        seal(&im);
        *(judge(&im, &opened) == OCA_OK ? &accepted : &refused) += 1;
        free(im.data);
    }
    assert_true(refused > accepted);
    free(good.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_malformed_field_gets_its_status),
        cmocka_unit_test(test_sections_with_more_than_they_need),
        cmocka_unit_test(test_shapes_that_lie),
        cmocka_unit_test(test_sums_and_products_that_wrap),
        cmocka_unit_test(test_enormous_sources),
        cmocka_unit_test(test_utf8_is_decided_at_its_edges),
        cmocka_unit_test(test_unsealed_changes_of_header_and_index_are_seen),
        cmocka_unit_test(test_unsealed_changes_of_the_payload_are_seen),
        cmocka_unit_test(test_truncated_at_every_byte),
        cmocka_unit_test(test_zstd_frames),
        cmocka_unit_test(test_the_limit_on_the_index),
        cmocka_unit_test(test_the_fault_names_the_record),
        cmocka_unit_test(test_random_changes_are_survived),
    };
    return cmocka_run_group_tests_name("oca_malformed", tests, oca_test_setup, oca_test_teardown);
}
