/* Runs files, and the files in directories, through the fuzz target it is linked with: the corpus as a plain
 * test, with any compiler, and the way to look at a crash.
 *
 *     replay PATH...
 */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_BYTES = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int replay_file(const char *path, size_t size) {
    FILE *stream = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1);
    int ok = stream && data && fread(data, 1, size, stream) == size;
    if (ok)
        (void)LLVMFuzzerTestOneInput(data, size);
    else
        perror(path);
    if (stream)
        (void)fclose(stream);
    free(data);
    return ok ? 0 : -1;
}

static int replay(const char *path, size_t *count);

/* In the order of names, so that a run can be repeated. */
static int replay_directory(const char *path, size_t *count) {
    DIR *directory = opendir(path);
    char **names = NULL;
    size_t n = 0;
    int failed = 0;
    const struct dirent *entry;
    if (!directory) {
        perror(path);
        return -1;
    }
    while (!failed && (entry = readdir(directory))) {
        char **grown = NULL;
        if (entry->d_name[0] == '.')
            continue;
        grown = realloc(names, (n + 1) * sizeof *names);
        if (grown) {
            names = grown;
            names[n] = strdup(entry->d_name);
        }
        failed = !grown || !names[n++];
    }
    (void)closedir(directory);
    if (n)
        qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        char below[PATH_BYTES];
        int length = snprintf(below, sizeof below, "%s/%s", path, names[i] ? names[i] : "");
        failed |= length < 0 || (size_t)length >= sizeof below || replay(below, count);
        free(names[i]);
    }
    free(names);
    return failed ? -1 : 0;
}

static int replay(const char *path, size_t *count) {
    struct stat info;
    if (stat(path, &info)) {
        perror(path);
        return -1;
    }
    if (S_ISDIR(info.st_mode))
        return replay_directory(path, count);
    ++*count;
    return replay_file(path, (size_t)info.st_size);
}

int main(int argc, char **argv) {
    size_t count = 0;
    int failed = argc < 2;
    if (argc < 2)
        (void)fputs("usage: replay PATH...\n", stderr);
    for (int i = 1; i < argc; i++)
        failed |= replay(argv[i], &count) != 0;
    (void)printf("replayed %zu inputs\n", count);
    return failed;
}
