/* realpath's limit */
#define _XOPEN_SOURCE 700

#include "tools/cli/files.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "tools/cli/streams.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS_MAX = 40 };

typedef struct named {
    char *label, *path;
    int written, argument; /* argument: given without an option */
    int inside;            /* in a directory that may still have to be made */
    int known;             /* 0: not to be told from others, such as a pipe */
    int exists;            /* then `device` and `inode` are the file's, else its directory's */
    dev_t device;
    ino_t inode;
    char *base; /* of one that does not exist */
} named;

struct cli_files {
    named *list;
    size_t count, room;
    int failed; /* 1: memory was short */
};

/* --- which file a name means --- */

/* Follows links, also to what is not there. 0 where that does not end. */
static int follow(const char *path, char current[PATH_MAX]) {
    if (strlen(path) >= PATH_MAX)
        return 0;
    (void)strcpy(current, path);
    for (int hop = 0; hop < LINKS_MAX; hop++) {
        struct stat info;
        char target[PATH_MAX];
        if (lstat(current, &info) != 0 || !S_ISLNK(info.st_mode))
            return 1;
        const ssize_t got = readlink(current, target, sizeof target - 1);
        if (got <= 0)
            return 0;
        target[got] = '\0';
        char *slash = strrchr(current, '/');
        const size_t head = *target == '/' || !slash ? 0 : (size_t)(slash - current) + 1;
        if (head + (size_t)got >= PATH_MAX)
            return 0;
        memcpy(current + head, target, (size_t)got + 1);
    }
    return 0;
}

static void identify(named *file, cli_files *files) {
    char path[PATH_MAX];
    struct stat info;
    if (!follow(file->path, path))
        return;
    if (stat(path, &info) == 0) {
        /* What is written to a device or read from a pipe meets no other there. */
        file->known = S_ISREG(info.st_mode);
        file->exists = 1;
    } else {
        char *slash = strrchr(path, '/');
        const char *directory = !slash ? "." : slash == path ? "/" : path;
        file->base = ousac_strdup(slash ? slash + 1 : path);
        files->failed |= !file->base;
        if (slash)
            *slash = '\0';
        file->known = stat(directory, &info) == 0;
    }
    file->device = info.st_dev;
    file->inode = info.st_ino;
}

static int is_same(const named *a, const named *b) {
    return a->known && b->known && a->exists == b->exists && a->device == b->device && a->inode == b->inode &&
           (a->exists || strcmp(a->base, b->base) == 0);
}

/* --- the list --- */

/* Takes `path` over. */
static named *add(cli_files *files, const char *label, char *path, int written) {
    if (files->count == files->room) {
        const size_t room = files->room ? 2 * files->room : 16;
        named *grown = ousac_regrow(files->list, files->room, room, sizeof *grown);
        if (!grown) {
            files->failed = 1;
            ousac_free(path);
            return NULL;
        }
        files->list = grown;
        files->room = room;
    }
    named *file = &files->list[files->count++];
    *file = (named){.label = ousac_strdup(label), .path = path, .written = written};
    files->failed |= !file->label || !path;
    if (path)
        identify(file, files);
    return file;
}

static void free_files(cli_files *files) {
    for (size_t i = 0; i < files->count; i++) {
        ousac_free(files->list[i].label);
        ousac_free(files->list[i].path);
        ousac_free(files->list[i].base);
    }
    ousac_free(files->list);
}

static char *join(const char *head, size_t length, const char *between, const char *tail) {
    const size_t bytes = length + strlen(between) + strlen(tail) + 1;
    char *text = ousac_malloc(bytes, 1);
    if (text)
        (void)snprintf(text, bytes, "%.*s%s%s", (int)length, head, between, tail);
    return text;
}

static char *beside(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return join(path, slash ? (size_t)(slash - path) + 1 : 0, "", name);
}

void cli_files_read(cli_files *files, const char *label, const char *path) {
    if (path)
        (void)add(files, label, ousac_strdup(path), 0);
}

void cli_files_written(cli_files *files, const char *label, const char *path) {
    if (path)
        (void)add(files, label, ousac_strdup(path), 1);
}

static void read_beside(cli_files *files, const char *label, const char *path, const char *name) {
    if (path)
        (void)add(files, label, beside(path, name), 0);
}

void cli_files_written_beside(cli_files *files, const char *label, const char *path, const char *name) {
    if (path)
        (void)add(files, label, beside(path, name), 1);
}

void cli_files_written_as(cli_files *files, const char *label, const char *path, const char *ending) {
    if (path)
        (void)add(files, label, join(path, strlen(path), "", ending), 1);
}

void cli_files_read_in(cli_files *files, const char *label, const char *directory, const char *name) {
    if (directory)
        (void)add(files, label, join(directory, strlen(directory), "/", name), 0);
}

void cli_files_written_in(cli_files *files, const char *label, const char *directory, const char *name) {
    named *file = directory ? add(files, label, join(directory, strlen(directory), "/", name), 1) : NULL;
    if (file)
        file->inside = 1;
}

/* --- the check --- */

static void list_options(cli_files *files, const cli_call *call, const void *request) {
    const char *model = NULL;
    int configured = 1;
    for (const cli_option *option = call->command->options; option->kind != CLI_END; option++) {
        char label[64];
        if (option->kind != CLI_INPUT && option->kind != CLI_OUTPUT)
            continue;
        const char *path = *(const char *const *)((const char *)request + option->at);
        (void)snprintf(label, sizeof label, "--%s", option->name);
        if (option->kind == CLI_OUTPUT)
            cli_files_written(files, label, path);
        else
            cli_files_read(files, label, path);
        if (strcmp(option->name, "model") == 0)
            model = path;
        if (strcmp(option->name, "config") == 0)
            configured = path != NULL;
    }
    if (!configured)
        read_beside(files, "the model's config", model, "config.json");
}

static ousac_status compare(const cli_files *files, int replaces_arguments, ousac_error *error) {
    for (size_t i = 0; i < files->count; i++)
        for (size_t j = 0; files->list[i].written && j < files->count; j++) {
            const named *out = &files->list[i], *other = &files->list[j];
            if (i == j || !is_same(out, other) || (replaces_arguments && other->argument))
                continue;
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s %s: is the same file as %s %s; expected another",
                              out->label, out->path, other->label, other->path);
        }
    return OUSAC_STATUS_OK;
}

/* What standard output takes has become no file before this. */
static ousac_status refuse_stdout(const cli_files *files, ousac_error *error) {
    for (size_t i = 0; i < files->count; i++) {
        const named *file = &files->list[i];
        if (file->written && cli_is_stdout(file->path))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "%s %s: this is not written to standard output; expected the name of a file",
                              file->label, file->path);
    }
    return OUSAC_STATUS_OK;
}

ousac_status cli_files_check(const cli_call *call, const void *request, ousac_error *error) {
    const cli_command *command = call->command;
    cli_files files = {.list = NULL};
    ousac_status status = OUSAC_STATUS_OK;
    list_options(&files, call, request);
    for (size_t i = 0; i < call->file_count; i++) {
        named *file = add(&files, "the file", ousac_strdup(call->files[i]), 0);
        if (file)
            file->argument = 1;
    }
    if (command->files)
        command->files(call, request, &files);
    if (files.failed)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the names of files");
    if (!status)
        status = refuse_stdout(&files, error);
    if (!status)
        status = compare(&files, command->replaces_arguments, error);
    for (size_t i = 0; !status && i < files.count; i++)
        if (files.list[i].written && (files.list[i].known || !files.list[i].inside))
            status = ousac_file_check_target(files.list[i].path, error);
    free_files(&files);
    return status;
}
