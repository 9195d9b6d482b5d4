/* A directory of its own for a test, removed afterwards.
 */
#ifndef OUSAC_TESTS_TEMPORARY_H
#define OUSAC_TESTS_TEMPORARY_H

#include <stddef.h>

enum { TEMPORARY_PATH_BYTES = 512 };

/* Makes a fresh directory under TMPDIR (or /tmp) and writes its path. Returns 0, or -1. */
int temporary_create(char path[TEMPORARY_PATH_BYTES]);
/* Removes the directory and all in it. */
void temporary_remove(const char *path);
/* "DIRECTORY/NAME" into `path`. */
void temporary_join(char path[TEMPORARY_PATH_BYTES], const char *directory, const char *name);

#endif
