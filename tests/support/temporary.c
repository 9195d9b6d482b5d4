#define _XOPEN_SOURCE 700

#include "tests/support/temporary.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

int temporary_create(char path[TEMPORARY_PATH_BYTES]) {
    const char *base = getenv("TMPDIR");
    (void)snprintf(path, TEMPORARY_PATH_BYTES, "%s/ousac-test-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(path) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

void temporary_remove(const char *path) {
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void temporary_join(char path[TEMPORARY_PATH_BYTES], const char *directory, const char *name) {
    (void)snprintf(path, TEMPORARY_PATH_BYTES, "%s/%s", directory, name);
}
