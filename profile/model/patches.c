#include "profile/model/patches.h"

#include "formats/memory.h"

#include <math.h>

size_t ousac_patches_count(const ousac_patches *patches) {
    return patches->channels * patches->rows * patches->cols * patches->patch * patches->patch;
}

ousac_status ousac_patches_index(const ousac_patches *patches, const ousac_backend *be, const char *path,
                                 uint32_t **indices, ousac_error *error) {
    const size_t p = patches->patch, C = patches->channels, height = patches->rows * p,
                 width = patches->cols * p, count = ousac_patches_count(patches);
    uint32_t *host = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    *indices = NULL;
    if (height * width * patches->out_channels > UINT32_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "%s: samples of %zu values are too large", path,
                          count);
    host = ousac_malloc(2 * count, sizeof *host);
    *indices = be->alloc(be, 2 * count, sizeof *host);
    if (!host || !*indices) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for patch indices", path);
        goto done;
    }
    for (size_t c = 0; c < C; c++)
        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++) {
                const size_t token = y / p * patches->cols + x / p, row = y % p, column = x % p,
                             pixel = (c * height + y) * width + x;
                host[((token * C + c) * p + row) * p + column] = (uint32_t)pixel;
                host[count + pixel] =
                    (uint32_t)(((token * p + row) * p + column) * patches->out_channels + c);
            }
    status = be->upload(be, *indices, host, 2 * count * sizeof *host, error);
done:
    ousac_free(host);
    return status;
}

void ousac_patches_sincos(size_t rows, size_t cols, size_t d, double row_scale, double col_scale,
                          float *out) {
    const size_t quarter = d / 4;
    for (size_t token = 0; token < rows * cols; token++)
        for (size_t half = 0; half < 2; half++) {
            const double position =
                half == 0 ? (double)(token % cols) / col_scale : (double)(token / cols) / row_scale;
            for (size_t i = 0; i < quarter; i++) {
                const double phase = position * pow(10000.0, -(double)i / (double)quarter);
                float *row = out + token * d + half * 2 * quarter;
                row[i] = (float)sin(phase);
                row[quarter + i] = (float)cos(phase);
            }
        }
}
