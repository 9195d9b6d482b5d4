/* A small writer of safetensors files for tests. Shares nothing with the reader but the element conversion,
 * so that a misreading of the format on one side is seen on the other.
 */
#ifndef OUSAC_TESTS_WRITE_SAFETENSORS_H
#define OUSAC_TESTS_WRITE_SAFETENSORS_H

#include "formats/dtype.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

enum { WRITE_SAFETENSORS_DIMS = 8 };

typedef struct write_tensor {
    const char *name;  /* UTF-8; escaped as JSON asks */
    ousac_dtype dtype; /* F64, F32, F16 or BF16; another is USAGE */
    size_t dims;
    uint64_t shape[WRITE_SAFETENSORS_DIMS];
    const float *data; /* row-major, product of shape; converted to dtype, rounded to nearest even */
} write_tensor;

typedef struct write_metadata {
    const char *key, *value;
} write_metadata;

/* Writes header entries and data in the order given, whatever the names. `metadata` may be NULL with count 0;
 * there is then no __metadata__ entry. Names are not checked for duplicates. */
ousac_status write_safetensors(const char *path, const write_tensor *tensors, size_t count,
                               const write_metadata *metadata, size_t metadata_count, ousac_error *error);

#endif
