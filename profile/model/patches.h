/* What models share that cut a sample into square patches: where a patch's values lie, and fixed positions. */
#ifndef OUSAC_PATCHES_H
#define OUSAC_PATCHES_H

#include "calib/backend/backend.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tokens of a sample (C, rows p, cols p): the patches row by row. */
typedef struct ousac_patches {
    size_t rows, cols;   /* of patches; N = rows cols tokens */
    size_t patch;        /* p, values along a patch's edge */
    size_t channels;     /* C of the sample */
    size_t out_channels; /* of the last linear: C or more, of which the first C are the sample's */
} ousac_patches;

/* Both tables in one block of the backend, of ousac_patches_count elements each, the caller's to release:
 * first, of every value of the tokens' inputs (N, C, p, p), which value of the sample it is; then, of every value of
 * the sample, which one of the tokens' outputs (N, p, p, out_channels). UNSUPPORTED where a sample is too large;
 * MEMORY. `path` for messages. */
ousac_status ousac_patches_index(const ousac_patches *patches, const ousac_backend *backend, const char *path,
                                 uint32_t **indices, ousac_error *error);
size_t ousac_patches_count(const ousac_patches *patches);

/* 2-D sines and cosines (the DiT code's, after MAE), out (rows cols, d), d a multiple of 4: the first half of the
 * channels from the column, the second from the row, each half sines, then cosines, of position /
 * 10000^(i / (d / 4)); a patch is 1 / row_scale below, or 1 / col_scale right of, the one before. */
void ousac_patches_sincos(size_t rows, size_t cols, size_t d, double row_scale, double col_scale, float *out);

#ifdef __cplusplus
}
#endif
#endif
