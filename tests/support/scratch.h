/* A temporary directory of a test's own, under $TMPDIR or /tmp, and plain file access that does not go
 * through the code under test. Every function fails the running cmocka test where the system refuses.
 */
#ifndef OUSAC_TESTS_SCRATCH_H
#define OUSAC_TESTS_SCRATCH_H

#include <stddef.h>

enum { SCRATCH_PATH_BYTES = 1024 };

typedef struct scratch {
    char path[SCRATCH_PATH_BYTES];
} scratch;

void scratch_create(scratch *dir);
/* Removes the directory and everything in it. */
void scratch_remove(scratch *dir);

/* "DIRECTORY/name" into `path`, SCRATCH_PATH_BYTES long; returns `path`. */
const char *scratch_path(const scratch *dir, const char *name, char *path);

/* The same for any directory. */
const char *scratch_join(char path[SCRATCH_PATH_BYTES], const char *directory, const char *name);

void scratch_put(const scratch *dir, const char *name, const void *data, size_t size);
/* 1 where the file exists and holds exactly these bytes. */
int scratch_holds(const scratch *dir, const char *name, const void *data, size_t size);

/* How many entries the directory has, without "." and "..". */
size_t scratch_entries(const scratch *dir);

#endif
