/* What a file is that was taken for another: told from its first bytes, never from its name.
 *
 * Files of other programs land under the names that ousac reads: Git LFS pointers and HTML pages of a download
 * that failed, weights in other formats, indices of shards. They are named, with what to do where that is known.
 */
#ifndef OUSAC_FOREIGN_H
#define OUSAC_FOREIGN_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_known {
    OUSAC_KNOWN_NONE = 0, /* nothing that has a name here */
    OUSAC_KNOWN_ARCHIVE,  /* .oca */
    OUSAC_KNOWN_SAFETENSORS,
    OUSAC_KNOWN_JSON, /* begins like a JSON object; whether it is one is the parser's to say */
    OUSAC_KNOWN_INDEX,
    OUSAC_KNOWN_LFS,
    OUSAC_KNOWN_HTML,
    OUSAC_KNOWN_XML,
    OUSAC_KNOWN_GGUF,
    OUSAC_KNOWN_ZIP,
    OUSAC_KNOWN_PICKLE,
    OUSAC_KNOWN_NUMPY,
    OUSAC_KNOWN_HDF5,
    OUSAC_KNOWN_TAR,
    OUSAC_KNOWN_GZIP,
    OUSAC_KNOWN_ZSTD,
    OUSAC_KNOWN_XZ,
    OUSAC_KNOWN_BZIP2,
    OUSAC_KNOWN_PNG,
    OUSAC_KNOWN_JPEG,
    OUSAC_KNOWN_PDF,
    OUSAC_KNOWN_ELF
} ousac_known;

/* So much of a file decides. */
enum { OUSAC_KNOWN_BYTES = 64 << 10 };

/* Of the first OUSAC_KNOWN_BYTES of a file, or of all of a shorter one. */
ousac_known ousac_known_detect(const void *data, size_t size);
/* "a Git LFS pointer"; "a file of no known format" for NONE. Static text. */
const char *ousac_known_name(ousac_known known);

/* To be called with what reading a file gave that was expected to be of the kind `own`, `wanted` in words ("a
 * schedule"): where that is FORMAT and the bytes are those of another known kind, the message becomes "PATH: is a Git
 * LFS pointer, expected a schedule: ..."; else nothing changes. Returns `status`. */
ousac_status ousac_known_explain(ousac_status status, const char *path, const void *data, size_t size,
                                 ousac_known own, const char *wanted, ousac_error *error);
/* The same of a regular file that is not in memory; nothing where it cannot be read. */
ousac_status ousac_known_explain_file(ousac_status status, const char *path, ousac_known own,
                                      const char *wanted, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
