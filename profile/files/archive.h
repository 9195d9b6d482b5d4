/* Archives as the profile layer uses them: opened and checked to be of one of ousac's formats, with typed
 * metadata and tensors of a shape that is known beforehand. Every message names the file, and the tensor or
 * key.
 *
 * Every archive of ousac carries the metadata "format", "format_version" and "ousac_version".
 */
#ifndef OUSAC_ARCHIVE_H
#define OUSAC_ARCHIVE_H

#include "calib/arch.h"
#include "formats/dtype.h"
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "formats/schedule.h"
#include "formats/sha256.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OUSAC_FORMAT_PROFILE "ousac-profile"
#define OUSAC_FORMAT_PLAN "ousac-plan"
#define OUSAC_FORMAT_BUNDLE "ousac-bundle"

enum { OUSAC_TENSOR_NAME_BYTES = 256, OUSAC_KEY_BYTES = 256 };

/* Immutable after opening; safe to share between threads. */
typedef struct ousac_archive {
    char *path; /* as given, for messages */
    oca_file *file;
    int version;     /* of the format: 1 or 2; what is written is of version 2 */
    int *descriptor; /* read from, not mapped: what was read of a large file does not stay in memory */
} ousac_archive;

/* Errors: IO; FORMAT where it is no archive or an archive of another format, saying what was found and what
 * was expected; UNSUPPORTED for a format version that this ousac does not know. */
ousac_status ousac_archive_open(ousac_archive *archive, const char *path, const char *format,
                                ousac_error *error);
void ousac_archive_close(ousac_archive *archive);

/* Metadata. FORMAT where the key is absent or the value is not of the kind asked for. */
ousac_status ousac_archive_text(const ousac_archive *archive, const char *key, const char **value,
                                ousac_error *error);
/* The same, copied; FORMAT where it does not fit `size` bytes. */
ousac_status ousac_archive_copy_text(const ousac_archive *archive, const char *key, char *value, size_t size,
                                     ousac_error *error);
/* A decimal number from min to max, without sign or leading zeros. */
ousac_status ousac_archive_u64(const ousac_archive *archive, const char *key, uint64_t min, uint64_t max,
                               uint64_t *value, ousac_error *error);
/* A finite decimal number. */
ousac_status ousac_archive_f64(const ousac_archive *archive, const char *key, double *value,
                               ousac_error *error);
/* 64 lower-case hexadecimal digits, or nothing where may_be_empty is 1. */
ousac_status ousac_archive_digest(const ousac_archive *archive, const char *key, int may_be_empty,
                                  char digest[OUSAC_DIGEST_CHARS], ousac_error *error);
/* 1 for 64 lower-case hexadecimal digits. */
int ousac_digest_is_valid(const char *digest);

/* What profiles and bundles are about: metadata "arch", "schedule" and "schedule_digest", parsed, and the
 * digest compared. On failure both are freed. */
ousac_status ousac_archive_subject(const ousac_archive *archive, ousac_arch *arch, ousac_schedule *schedule,
                                   ousac_error *error);

/* Finds a tensor and checks dtype and shape. FORMAT where it is missing or other than that. */
ousac_status ousac_archive_find(const ousac_archive *archive, const char *name, ousac_dtype dtype,
                                size_t dims, const uint64_t *shape, oca_tensor *tensor, ousac_error *error);
/* Reads rows [0, rows) of a tensor as `dtype` into target, `bytes` in all. */
ousac_status ousac_archive_read_rows(const ousac_archive *archive, const oca_tensor *tensor, uint64_t rows,
                                     ousac_dtype dtype, void *target, size_t bytes, ousac_error *error);
/* ousac_archive_find, and the whole tensor into `target`, which holds its elements. */
ousac_status ousac_archive_read(const ousac_archive *archive, const char *name, ousac_dtype dtype,
                                size_t dims, const uint64_t *shape, void *target, ousac_error *error);
/* FORMAT, naming the tensor, where a value is not finite or below `least`. */
ousac_status ousac_archive_check_f64(const ousac_archive *archive, const char *name, const double *values,
                                     size_t count, double least, ousac_error *error);
/* Reads and checks every chunk of the file. */
ousac_status ousac_archive_verify(const ousac_archive *archive, ousac_error *error);

/* The directory that a file of this path lies in, "." for a bare name; ousac_free. */
ousac_status ousac_archive_directory(const char *path, char **directory, ousac_error *error);

/* A writer with the metadata that every archive carries. */
ousac_status ousac_archive_begin(ousac_oca_writer **writer, const char *format, ousac_error *error);
ousac_status ousac_archive_put_u64(ousac_oca_writer *writer, const char *key, uint64_t value,
                                   ousac_error *error);
/* %.17g, so that reading gives the same number. */
ousac_status ousac_archive_put_f64(ousac_oca_writer *writer, const char *key, double value,
                                   ousac_error *error);
ousac_status ousac_archive_put_subject(ousac_oca_writer *writer, const ousac_arch *arch,
                                       const ousac_schedule *schedule, ousac_error *error);

/* Opens an archive of any format; the message names the path. Close with oca_close. */
ousac_status ousac_archive_open_any(oca_file **file, const char *path, ousac_error *error);
/* The status and message of a failed oca_ call on the tensor `name` of `path`. */
ousac_status ousac_archive_fail(const char *path, const char *name, oca_status got, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
