/* The files that a command reads and writes, known before it works: none that is written may be another of them, and each
 * must be one that can be written.
 *
 * The rows of the table (CLI_INPUT, CLI_OUTPUT) and the arguments are listed by the driver; what a command reads and
 * writes besides, beside its output or in a directory, it adds in its `files`.
 */
#ifndef OUSAC_CLI_FILES_H
#define OUSAC_CLI_FILES_H

#include "tools/cli/cli.h"

/* `label` says which file in messages, "--output" or "the config"; it and `path` are copied. A missing input is not
 * told here. A NULL path is none. */
void cli_files_read(cli_files *files, const char *label, const char *path);
void cli_files_written(cli_files *files, const char *label, const char *path);
/* The same of a file in the directory of `beside`, and of `path` with `ending` behind it. */
void cli_files_written_beside(cli_files *files, const char *label, const char *beside, const char *name);
void cli_files_written_as(cli_files *files, const char *label, const char *path, const char *ending);
/* A file in a directory. */
void cli_files_read_in(cli_files *files, const char *label, const char *directory, const char *name);
void cli_files_written_in(cli_files *files, const char *label, const char *directory, const char *name);

/* USAGE where two of them are one file, by device and inode behind links, one that is not there yet by its directory and
 * name, or where an output names standard output; IO where an output cannot be written. */
ousac_status cli_files_check(const cli_call *call, const void *request, ousac_error *error);

#endif
