#define _XOPEN_SOURCE 700 /* nftw */

#include "tests/support/scratch.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

void scratch_create(scratch *dir) {
    const char *parent = getenv("TMPDIR");
    int length =
        snprintf(dir->path, sizeof dir->path, "%s/ousac-test-XXXXXX", parent && *parent ? parent : "/tmp");
    assert_in_range(length, 1, SCRATCH_PATH_BYTES / 2);
    assert_non_null(mkdtemp(dir->path));
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

void scratch_remove(scratch *dir) {
    assert_int_equal(nftw(dir->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

const char *scratch_join(char path[SCRATCH_PATH_BYTES], const char *directory, const char *name) {
    int length = snprintf(path, SCRATCH_PATH_BYTES, "%s/%s", directory, name);
    assert_in_range(length, 1, SCRATCH_PATH_BYTES - 1);
    return path;
}

const char *scratch_path(const scratch *dir, const char *name, char *path) {
    return scratch_join(path, dir->path, name);
}

void scratch_put(const scratch *dir, const char *name, const void *data, size_t size) {
    char path[SCRATCH_PATH_BYTES];
    FILE *file = fopen(scratch_path(dir, name, path), "wb");
    assert_non_null(file);
    if (size)
        assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

int scratch_holds(const scratch *dir, const char *name, const void *data, size_t size) {
    char path[SCRATCH_PATH_BYTES];
    FILE *file = fopen(scratch_path(dir, name, path), "rb");
    unsigned char *found;
    size_t got;
    if (!file)
        return 0;
    found = malloc(size + 1); /* one more byte than expected, so that a longer file shows */
    assert_non_null(found);
    got = fread(found, 1, size + 1, file);
    int same = got == size && (size == 0 || memcmp(found, data, size) == 0);
    free(found);
    assert_int_equal(fclose(file), 0);
    return same;
}

size_t scratch_entries(const scratch *dir) {
    DIR *open = opendir(dir->path);
    struct dirent *entry;
    size_t count = 0;
    assert_non_null(open);
    while ((entry = readdir(open)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    assert_int_equal(closedir(open), 0);
    return count;
}
