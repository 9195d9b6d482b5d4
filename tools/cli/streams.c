/* memfd_create is of no standard. */
#define _GNU_SOURCE

#include "tools/cli/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 16 };

int cli_is_stdout(const char *path) {
    static const char *const names[] = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(path, names[i]) == 0)
            return 1;
    return 0;
}

static void take_output(cli_call *call, const cli_option *option, const char **path) {
    if (!cli_is_stdout(*path) || option->high == 0)
        return;
    call->common.json |= option->high == CLI_STDOUT_JSON;
    *path = NULL;
}

/* All of `from` into `to`; 0, or -1 with errno. */
static int copy(int from, int to) {
    char block[BLOCK_BYTES];
    for (;;) {
        ssize_t got = read(from, block, sizeof block);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -1 : 0;
        for (ssize_t put = 0, at = 0; at < got; at += put) {
            put = write(to, block + at, (size_t)(got - at));
            if (put < 0 && errno != EINTR)
                return -1;
            put = put < 0 ? 0 : put;
        }
    }
}

static ousac_status take_input(cli_call *call, const char **path, ousac_error *error) {
    struct stat info;
    ousac_status status = OUSAC_STATUS_OK;
    int from = -1, to = -1;
    /* A pipe without a writer, which a name in the file system may be, would not end. */
    if (stat(*path, &info) != 0 || !S_ISFIFO(info.st_mode) || call->stream_count == CLI_STREAMS_MAX)
        return OUSAC_STATUS_OK;
    from = open(*path, O_RDONLY | O_CLOEXEC);
    to = from < 0 ? -1 : memfd_create("ousac", 0);
    if (to < 0 || copy(from, to) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot be read: %s", *path, strerror(errno));
        goto done;
    }
    char *name = call->stream[call->stream_count++];
    (void)snprintf(name, sizeof call->stream[0], "/proc/self/fd/%d", to);
    *path = name;
    to = -1; /* open until the program ends */
done:
    if (from >= 0)
        (void)close(from);
    if (to >= 0)
        (void)close(to);
    return status;
}

ousac_status cli_take_streams(cli_call *call, void *request, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (const cli_option *option = call->command->options; !status && option->kind != CLI_END; option++) {
        if (option->kind != CLI_INPUT && option->kind != CLI_OUTPUT)
            continue;
        const char **path = (const char **)((char *)request + option->at);
        if (*path && option->kind == CLI_OUTPUT)
            take_output(call, option, path);
        else if (*path)
            status = take_input(call, path, error);
    }
    for (size_t i = 0; !status && i < call->file_count; i++) {
        const char *path = call->files[i];
        status = take_input(call, &path, error);
        call->files[i] = (char *)path;
    }
    return status;
}
