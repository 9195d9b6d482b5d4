/* Writing safetensors files (format: the README of the safetensors project, "Format"). Deterministic: the
 * same tensors and metadata give the same bytes, in whatever order they are listed: by falling size of an
 * element, then by name, so that every tensor is aligned to its elements; metadata by key; the header padded
 * to 8 bytes.
 */
#ifndef OUSAC_SAFETENSORS_WRITE_H
#define OUSAC_SAFETENSORS_WRITE_H

#include "formats/dtype.h"
#include "formats/safetensors.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_safetensors_pair {
    const char *key, *value;
} ousac_safetensors_pair;

typedef struct ousac_safetensors_entry {
    const char *name;
    ousac_dtype dtype;
    size_t dims; /* 0: a scalar */
    uint64_t shape[OUSAC_SAFETENSORS_DIMS];
} ousac_safetensors_entry;

/* Lends the bytes of entry `index`, row-major and little-endian, until the next call. */
typedef ousac_status (*ousac_safetensors_source)(void *self, size_t index, const void **data,
                                                 ousac_error *error);

/* The spelling of a dtype in these files: "F32". */
const char *ousac_safetensors_dtype_name(ousac_dtype dtype);

/* Writes the file: temporary file, sync, rename. Errors: USAGE, naming the tensor or key, for a name twice,
 * the name
 * "__metadata__", text that is not UTF-8, sizes that overflow, or a header beyond the format's 100,000,000
 * bytes; IO; MEMORY; what the source returns. */
ousac_status ousac_safetensors_save(const char *path, const ousac_safetensors_pair *metadata,
                                    size_t metadata_count, const ousac_safetensors_entry *entries,
                                    size_t entry_count, ousac_safetensors_source source, void *self,
                                    ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
