/* Zip: PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end).
 * Pickle: opcodes of Python's pickletools. A tensor is
 *
 *     torch._utils._rebuild_tensor_v2(persistent_id, offset, size, stride, requires_grad, OrderedDict())
 *
 * with the persistent id ("storage", torch.FloatStorage, KEY, "cpu", elements) and its bytes in the member
 * data/KEY.
 */
#include "formats/torch_write.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <stdio.h>
#include <string.h>

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    NAME_BYTES = 64,
    ALIGNMENT = 64, /* of every member's data, as torch.save has it, so that storages can be mapped */
    MEMBERS_MAX = 65534,
    PADDING_HEAD = 4,   /* id and size of an extra field */
    PADDING_ID = 0x4246 /* "FB", the extra field that torch pads with */
};

static const char ROOT[] = "archive/";

/* Bytes that grow; once memory was short, `failed` stays set. */
typedef struct bytes {
    unsigned char *data;
    size_t size, room;
    int failed;
} bytes;

static void add(bytes *b, const void *data, size_t size) {
    if (b->failed || size > SIZE_MAX / 4 - b->size) {
        b->failed = 1;
        return;
    }
    if (b->size + size > b->room) {
        size_t room = 2 * (b->size + size) + 1024;
        unsigned char *grown = ousac_regrow(b->data, b->room, room, 1);
        if (!grown) {
            b->failed = 1;
            return;
        }
        b->data = grown;
        b->room = room;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void add_u8(bytes *b, unsigned value) {
    unsigned char byte = (unsigned char)value;
    add(b, &byte, 1);
}

static void add_u16(bytes *b, unsigned value) {
    add_u8(b, value & 0xff);
    add_u8(b, value >> 8);
}

static void add_u32(bytes *b, uint32_t value) {
    add_u16(b, value & 0xffff);
    add_u16(b, value >> 16);
}

/* ---- pickle ---- */

static void add_text(bytes *b, const char *text) { /* BINUNICODE */
    add_u8(b, 'X');
    add_u32(b, (uint32_t)strlen(text));
    add(b, text, strlen(text));
}

static void add_int(bytes *b, size_t value) { /* BININT; values are checked to fit 31 bits */
    add_u8(b, 'J');
    add_u32(b, (uint32_t)value);
}

static void add_global(bytes *b, const char *module_and_name) { /* GLOBAL: "module\nname\n" */
    add_u8(b, 'c');
    add(b, module_and_name, strlen(module_and_name));
}

static void add_tensor(bytes *b, const ousac_torch_matrix *matrix, size_t key) {
    char number[NAME_BYTES];
    (void)snprintf(number, sizeof number, "%zu", key);
    add_global(b, "torch._utils\n_rebuild_tensor_v2\n");
    add(b, "((", 2); /* MARK MARK */
    add_text(b, "storage");
    add_global(b, "torch\nFloatStorage\n");
    add_text(b, number);
    add_text(b, "cpu");
    add_int(b, matrix->rows * matrix->cols);
    add(b, "tQ", 2); /* TUPLE BINPERSID */
    add_int(b, 0);
    add_int(b, matrix->rows);
    add_int(b, matrix->cols);
    add_u8(b, 0x86); /* TUPLE2 */
    add_int(b, matrix->cols ? matrix->cols : 1);
    add_int(b, 1);
    add_u8(b, 0x86);
    add_u8(b, 0x89); /* NEWFALSE */
    add_global(b, "collections\nOrderedDict\n");
    add(b, ")R", 2); /* EMPTY_TUPLE REDUCE */
    add(b, "tR", 2); /* TUPLE REDUCE */
}

static void build_pickle(bytes *b, const char *outer, const ousac_torch_list *lists, size_t list_count) {
    size_t key = 0;
    add(b, "\x80\x02}", 3); /* PROTO 2, EMPTY_DICT */
    add_text(b, outer);
    add_u8(b, '}');
    for (size_t l = 0; l < list_count; l++) {
        add_text(b, lists[l].name);
        add(b, "](", 2); /* EMPTY_LIST MARK */
        for (size_t i = 0; i < lists[l].count; i++)
            add_tensor(b, &lists[l].items[i], key++);
        add(b, "es", 2); /* APPENDS SETITEM */
    }
    add(b, "s.", 2); /* SETITEM STOP */
}

/* ---- zip ---- */

typedef struct zip {
    ousac_file_writer *out;
    bytes scratch, central;
    size_t members;
    uint64_t position;
    uint32_t table[256];
} zip;

/* CRC-32 of IEEE 802.3, reflected, as zip uses it. */
static void crc_table(uint32_t table[256]) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
}

static uint32_t crc(const uint32_t table[256], const unsigned char *data, size_t size) {
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < size; i++)
        c = table[(c ^ data[i]) & 0xff] ^ (c >> 8);
    return ~c;
}

/* What local header and central directory have in common: version 2.0, names in UTF-8, stored, 1980-01-01. */
static void add_common(bytes *b, uint32_t checksum, size_t size, size_t name) {
    add_u16(b, 20);
    add_u16(b, 0x0800);
    add_u16(b, 0);
    add_u16(b, 0);
    add_u16(b, 0x21);
    add_u32(b, checksum);
    add_u32(b, (uint32_t)size);
    add_u32(b, (uint32_t)size);
    add_u16(b, (unsigned)name);
}

static ousac_status put_member(zip *z, const char *base, const void *data, size_t size, ousac_error *error) {
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s%s", ROOT, base);
    const size_t length = strlen(name), before = (size_t)(z->position % ALIGNMENT) + LOCAL_BYTES + length;
    const size_t padding = (2 * ALIGNMENT - (before + PADDING_HEAD) % ALIGNMENT) % ALIGNMENT;
    const uint32_t checksum = crc(z->table, data, size);
    const uint64_t offset = z->position;
    if (offset + size > UINT32_MAX - ((uint64_t)1 << 24) || z->members == MEMBERS_MAX)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "the file would pass 4 GiB or %d tensors, which this zip form cannot hold; choose smaller "
            "ranks",
            MEMBERS_MAX);
    z->scratch.size = 0;
    add(&z->scratch, "PK\3\4", 4);
    add_common(&z->scratch, checksum, size, length);
    add_u16(&z->scratch, (unsigned)(PADDING_HEAD + padding));
    add(&z->scratch, name, length);
    add_u16(&z->scratch, PADDING_ID);
    add_u16(&z->scratch, (unsigned)padding);
    for (size_t i = 0; i < padding; i++)
        add_u8(&z->scratch, 'Z');

    add(&z->central, "PK\1\2", 4);
    add_u16(&z->central, 20);
    add_common(&z->central, checksum, size, length);
    for (int i = 0; i < 6; i++) /* no extra field, no comment, first disk, no attributes */
        add_u16(&z->central, 0);
    add_u32(&z->central, (uint32_t)offset);
    add(&z->central, name, length);
    if (z->scratch.failed || z->central.failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the directory of %zu tensors",
                          z->members);
    z->members++;
    z->position += z->scratch.size + size;
    ousac_status status = ousac_file_write(z->out, z->scratch.data, z->scratch.size, error);
    return status ? status : ousac_file_write(z->out, data, size, error);
}

static ousac_status put_directory(zip *z, ousac_error *error) {
    const size_t size = z->central.size;
    bytes *b = &z->central;
    add(b, "PK\5\6", 4);
    add_u32(b, 0);
    add_u16(b, (unsigned)z->members);
    add_u16(b, (unsigned)z->members);
    add_u32(b, (uint32_t)size);
    add_u32(b, (uint32_t)z->position);
    add_u16(b, 0);
    if (b->failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the directory of %zu tensors",
                          z->members);
    return ousac_file_write(z->out, b->data, b->size, error);
}

/* The storage of one matrix, as little-endian floats: this machine's, as everywhere where ousac writes. */
static ousac_status put_storage(zip *z, const ousac_torch_matrix *matrix, size_t key, size_t list,
                                size_t item, ousac_torch_source source, void *self, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t count = matrix->rows * matrix->cols;
    char name[NAME_BYTES];
    float *values = ousac_malloc(count, sizeof *values);
    if (!values)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a tensor of %zu values", count);
    (void)snprintf(name, sizeof name, "data/%zu", key);
    if (count)
        status = source(self, list, item, values, error);
    if (!status)
        status = put_member(z, name, values, count * sizeof *values, error);
    ousac_free(values);
    return status;
}

static ousac_status check_sizes(const ousac_torch_list *lists, size_t list_count, ousac_error *error) {
    for (size_t l = 0; l < list_count; l++)
        for (size_t i = 0; i < lists[l].count; i++) {
            const ousac_torch_matrix *matrix = &lists[l].items[i];
            if (matrix->rows > INT32_MAX || matrix->cols > INT32_MAX ||
                (matrix->cols && matrix->rows > INT32_MAX / sizeof(float) / matrix->cols))
                return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                                  "%s: a tensor (%zu, %zu) is larger than this zip form can hold",
                                  lists[l].name, matrix->rows, matrix->cols);
        }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_torch_save(const char *path, const char *outer, const ousac_torch_list *lists,
                              size_t list_count, ousac_torch_source source, void *self, ousac_error *error) {
    ousac_status status = check_sizes(lists, list_count, error);
    bytes pickle = {0};
    zip z = {0};
    size_t key = 0;

    if (status)
        goto done;
    crc_table(z.table);
    build_pickle(&pickle, outer, lists, list_count);
    if (pickle.failed) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the index of %s", path);
        goto done;
    }
    status = ousac_file_create(&z.out, path, error);
    if (!status)
        status = put_member(&z, "data.pkl", pickle.data, pickle.size, error);
    for (size_t l = 0; l < list_count; l++)
        for (size_t i = 0; !status && i < lists[l].count; i++, key++)
            status = put_storage(&z, &lists[l].items[i], key, l, i, source, self, error);
    if (!status)
        status = put_member(&z, "version", "3\n", 2, error);
    if (!status)
        status = put_directory(&z, error);
    if (status)
        goto done;
    status = ousac_file_commit(z.out, error);
    z.out = NULL;
done:
    ousac_file_discard(z.out);
    ousac_free(pickle.data);
    ousac_free(z.scratch.data);
    ousac_free(z.central.data);
    return status;
}
