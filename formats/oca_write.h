/* Writing .oca archives (formats/OCA.md). Deterministic: the same tensors and metadata give the same bytes,
 * in whatever order they were added. Nothing appears under the final name before the commit.
 */
#ifndef OUSAC_OCA_WRITE_H
#define OUSAC_OCA_WRITE_H

#include "formats/dtype.h"
#include "formats/file.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_OCA_DIMS = 4 };

typedef enum ousac_oca_codec {
    OUSAC_OCA_CODEC_RAW = 0,
    OUSAC_OCA_CODEC_ZSTD = 1,
    OUSAC_OCA_CODEC_SHUFFLE_ZSTD = 2 /* bytes grouped by significance, then zstd */
} ousac_oca_codec;

typedef struct ousac_oca_writer ousac_oca_writer;

ousac_status ousac_oca_writer_create(ousac_oca_writer **writer, ousac_error *error);
void ousac_oca_writer_free(ousac_oca_writer *writer);

/* Both texts are copied. USAGE for a duplicate key or text that is not UTF-8. */
ousac_status ousac_oca_writer_metadata(ousac_oca_writer *writer, const char *key, const char *value,
                                       ousac_error *error);

/* Adds a tensor: row-major, little-endian host. `data` is borrowed until the writer is freed. dims <= 4; a
 * dimension may not be 0; USAGE for a duplicate or non-UTF-8 name, naming it. */
ousac_status ousac_oca_writer_tensor(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                     size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                     const void *data, ousac_error *error);

/* As above, but takes over `data`, a block of ousac_malloc, on success; frees it with the writer. */
ousac_status ousac_oca_writer_tensor_take(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                          size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                          void *data, ousac_error *error);

/* As above, for data that does not fit in memory beside the rest: every save asks `source` for the bytes of
 * tensor `index` once, in the order of the names, and is done with them at the next call. */
typedef ousac_status (*ousac_oca_source)(void *self, size_t index, const void **data, ousac_error *error);
ousac_status ousac_oca_writer_tensor_stream(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                            size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                            ousac_oca_source source, void *self, size_t index,
                                            ousac_error *error);
/* Opens a nameless temporary file in a directory, for tensors that are put. At most once. Errors: IO, MEMORY.
 */
ousac_status ousac_oca_writer_spill(ousac_oca_writer *writer, const char *directory, ousac_error *error);
/* As ousac_oca_writer_tensor, but packs the tensor into the spill at once: `data` is needed no longer than
 * the call, and the file will hold the same bytes. USAGE without a spill. */
ousac_status ousac_oca_writer_tensor_put(ousac_oca_writer *writer, const char *name, ousac_dtype dtype,
                                         size_t dims, const uint64_t *shape, ousac_oca_codec codec,
                                         const void *data, ousac_error *error);

/* Writes the file: temporary file, sync, rename. The writer stays usable and must still be freed. USAGE where
 * an i8 tensor's companion "<name>.scale" is not f32, one for each row, or names and metadata exceed 256 MiB.
 */
ousac_status ousac_oca_writer_save(ousac_oca_writer *writer, const char *path, ousac_error *error);
/* The same; `check` (NULL for none) may open the file under its temporary name, and refuse it before it
 * replaces an older one. */
ousac_status ousac_oca_writer_save_checked(ousac_oca_writer *writer, const char *path, ousac_file_check check,
                                           void *self, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
