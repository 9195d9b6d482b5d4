#include "formats/oca_chunk.h"

#include "formats/memory.h"

#include <zstd.h>

enum {
    BLOCK_HEADER_BYTES = 3, /* of a zstd block; a plane of each byte of an element ends one */
    ZSTD_LEVEL = 1          /* numbers have few repeats worth finding: above it files of factors grow */
};

struct ousac_oca_packer {
    unsigned char *shuffled, *packed;
    size_t packed_room;
    ZSTD_CCtx *zstd;
};

ousac_status ousac_oca_packer_create(ousac_oca_packer **packer, size_t bytes, ousac_error *error) {
    ousac_oca_packer *made = ousac_calloc(1, sizeof *made);
    *packer = NULL;
    if (made) {
        made->packed_room = ZSTD_compressBound(bytes) + 8 * BLOCK_HEADER_BYTES;
        made->shuffled = ousac_malloc(bytes, 1);
        made->packed = ousac_malloc(made->packed_room, 1);
        made->zstd = ZSTD_createCCtx();
    }
    if (!made || !made->shuffled || !made->packed || !made->zstd) {
        ousac_oca_packer_free(made);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an archive's buffers");
    }
    *packer = made;
    return OUSAC_STATUS_OK;
}

void ousac_oca_packer_free(ousac_oca_packer *packer) {
    if (!packer)
        return;
    ousac_free(packer->shuffled);
    ousac_free(packer->packed);
    (void)ZSTD_freeCCtx(packer->zstd);
    ousac_free(packer);
}

/* One frame of `planes` equal parts, each of which ends a block: bytes of one significance are coded by
 * statistics of their own, and those that do not compress are stored as they are. Returns the frame's size or
 * a zstd error. */
static size_t compress_planes(ousac_oca_packer *p, const unsigned char *data, size_t bytes, size_t planes) {
    ZSTD_outBuffer out = {p->packed, p->packed_room, 0};
    size_t left = ZSTD_CCtx_reset(p->zstd, ZSTD_reset_session_and_parameters);
    if (!ZSTD_isError(left))
        left = ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    if (!ZSTD_isError(left))
        left = ZSTD_CCtx_setPledgedSrcSize(p->zstd, bytes);
    for (size_t k = 0; !ZSTD_isError(left) && k < planes; k++) {
        ZSTD_inBuffer in = {data + k * (bytes / planes), bytes / planes, 0};
        do
            left = ZSTD_compressStream2(p->zstd, &out, &in, k + 1 < planes ? ZSTD_e_flush : ZSTD_e_end);
        while (!ZSTD_isError(left) && left > 0 && out.pos < out.size);
        if (!ZSTD_isError(left) && left > 0)
            return bytes; /* no room: the chunk is stored as it is */
    }
    return ZSTD_isError(left) ? left : out.pos;
}

ousac_status ousac_oca_pack(ousac_oca_packer *p, const char *name, ousac_dtype dtype, ousac_oca_codec codec,
                            const unsigned char *data, size_t bytes, const unsigned char **stored,
                            size_t *stored_bytes, ousac_error *error) {
    const unsigned char *source = data;
    size_t planes = 1;
    *stored = data;
    *stored_bytes = bytes;
    if (codec == OUSAC_OCA_CODEC_RAW)
        return OUSAC_STATUS_OK;
    if (codec == OUSAC_OCA_CODEC_SHUFFLE_ZSTD) {
        planes = ousac_dtype_bytes(dtype);
        const size_t count = bytes / planes;
        for (size_t i = 0; i < count; i++)
            for (size_t k = 0; k < planes; k++)
                p->shuffled[k * count + i] = data[i * planes + k];
        source = p->shuffled;
    }
    const size_t packed = compress_planes(p, source, bytes, planes);
    if (ZSTD_isError(packed))
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "tensor '%s': zstd: %s", name,
                          ZSTD_getErrorName(packed));
    if (packed < bytes) {
        *stored = p->packed;
        *stored_bytes = packed;
    }
    return OUSAC_STATUS_OK;
}
