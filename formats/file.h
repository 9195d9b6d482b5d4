/* Files as the formats need them: mapped for reading, and written so that the final name only ever holds a
 * whole file (temporary file beside it, sync, rename, sync of the directory). Knows nothing of any format.
 */
#ifndef OUSAC_FILE_H
#define OUSAC_FILE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A whole file, read-only in memory. The view is valid until ousac_file_unmap, and as long as nobody shortens
 * the file under it (ousac never does: it replaces files). */
typedef struct ousac_file_view {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
} ousac_file_view;

/* Errors: IO (missing, not a regular file, unreadable), with the path and the system's reason. */
ousac_status ousac_file_map(ousac_file_view *view, const char *path, ousac_error *error);
void ousac_file_unmap(ousac_file_view *view);
/* Lets go of the memory behind a part of the view, whose pages are read from the file again when they are
 * touched: whoever walks a large file once keeps no more of it than the part at hand. */
void ousac_file_drop(const ousac_file_view *view, const void *data, size_t size);

/* Reads a small text file, or a pipe to its end, whole, NUL-terminated, into a new block (ousac_free). FORMAT
 * where it is longer than `limit` bytes or holds a NUL byte. `size` may be NULL. */
ousac_status ousac_file_read_text(char **text, size_t *size, const char *path, size_t limit,
                                  ousac_error *error);

typedef struct ousac_file_writer ousac_file_writer;

/* Whether ousac_file_create and the commit would be allowed `path`, told before the work that fills it: IO where its
 * directory is missing or not writable, where it is no regular file, or where its name is too long. Writes nothing. */
ousac_status ousac_file_check_target(const char *path, ousac_error *error);

/* Opens a temporary file beside `path`, same directory. Nothing appears under `path` before the commit. A
 * symbolic link is followed and survives; what exists and is not a regular file (directory, device, pipe) is
 * refused. Interrupted calls (EINTR) and short writes are retried; every other failure is IO and names
 * `path`. Once a write has failed, all later ones and the commit fail too. */
ousac_status ousac_file_create(ousac_file_writer **writer, const char *path, ousac_error *error);
ousac_status ousac_file_write(ousac_file_writer *writer, const void *data, size_t size, ousac_error *error);
/* Overwrites `size` bytes at `offset`, which must already have been written (else USAGE); the end position
 * stays. */
ousac_status ousac_file_rewrite(ousac_file_writer *writer, size_t offset, const void *data, size_t size,
                                ousac_error *error);
/* Syncs, renames to `path`, syncs the directory. On failure the temporary file is gone and an older file
 * under `path` is untouched, except where only the last sync failed: the message then says that the file was
 * written. Consumes the writer either way. */
ousac_status ousac_file_commit(ousac_file_writer *writer, ousac_error *error);
/* The same, but between sync and rename `check` may look at what was written, under its temporary name, and
 * refuse it: the older file then stays. `check` may be NULL. */
typedef ousac_status (*ousac_file_check)(void *self, const char *path, ousac_error *error);
ousac_status ousac_file_commit_checked(ousac_file_writer *writer, ousac_file_check check, void *self,
                                       ousac_error *error);
/* Removes the temporary file. NULL is fine. */
void ousac_file_discard(ousac_file_writer *writer);

/* The above in one call. */
ousac_status ousac_file_replace(const char *path, const void *data, size_t size, ousac_error *error);

/* Makes a directory and those above it, where they are missing. IO, with the path and the system's reason, or where
 * something else has that name. */
ousac_status ousac_file_make_directory(const char *path, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
