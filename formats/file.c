#define _XOPEN_SOURCE 700 /* realpath */

#include "formats/file.h"
#include "formats/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 1 << 20,
    CALL_BYTES_MAX = 1 << 30, /* one read or write call; above it some systems refuse or cut */
    TEXT_BYTES_FIRST = 1 << 14,
    TEMPORARY_TRIES = 100,
    TEMPORARY_BASE_BYTES = 200, /* of the base name, so that the temporary name stays under NAME_MAX = 255 */
    REASON_BYTES = 128
};

struct ousac_file_writer {
    int fd;
    int failed;      /* a write was lost: the commit must not publish what is there */
    char *path;      /* as the caller named it, for messages */
    char *target;    /* what the rename replaces: `path` with a symbolic link resolved */
    char *directory; /* of the target */
    char *temporary; /* NULL before it exists and after it was renamed or removed */
    unsigned char *buffer;
    size_t buffered;
    size_t flushed;
};

static const char *reason(int code, char text[REASON_BYTES]) {
    if (strerror_r(code, text, REASON_BYTES) != 0)
        (void)snprintf(text, REASON_BYTES, "system error %d", code);
    return text;
}

/* IO, naming the path, what was tried and errno's reason. */
#define FAIL_SYSTEM(error, path, what)                                                                       \
    do {                                                                                                     \
        char text_[REASON_BYTES];                                                                            \
        int code_ = errno;                                                                                   \
        status = OUSAC_FAIL((error), OUSAC_STATUS_IO, "%s: %s: %s", (path), (what), reason(code_, text_));   \
    } while (0)

#define FAIL_MEMORY(error, path)                                                                             \
    (status = OUSAC_FAIL((error), OUSAC_STATUS_MEMORY, "%s: out of memory", (path)))

/* ---- reading ---- */

static int open_retrying(const char *path, int flags) {
    int fd;
    do
        fd = open(path, flags);
    while (fd < 0 && errno == EINTR);
    return fd;
}

ousac_status ousac_file_map(ousac_file_view *view, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    struct stat info;
    void *data;
    int fd;

    view->data = NULL;
    view->size = 0;
    fd = open_retrying(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO without a writer must not hang */
    if (fd < 0) {
        FAIL_SYSTEM(error, path, "cannot open");
        goto done;
    }
    if (fstat(fd, &info) != 0) {
        FAIL_SYSTEM(error, path, "cannot stat");
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s, expected a regular file", path,
                            S_ISDIR(info.st_mode) ? "is a directory" : "is a device, pipe or socket");
        goto done;
    }
    if (info.st_size < 0 || (uintmax_t)info.st_size > SIZE_MAX) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: too large for the address space", path);
        goto done;
    }
    if (info.st_size == 0)
        goto done;
    data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        FAIL_SYSTEM(error, path, "cannot map");
        goto done;
    }
    view->data = data;
    view->size = (size_t)info.st_size;

done:
    if (fd >= 0)
        (void)close(fd);
    return status;
}

void ousac_file_unmap(ousac_file_view *view) {
    if (view->data)
        (void)munmap((void *)(uintptr_t)view->data, view->size);
    view->data = NULL;
    view->size = 0;
}

ousac_status ousac_file_read_text(char **text, size_t *size, const char *path, size_t limit,
                                  ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char *block = NULL;
    size_t capacity = 0, used = 0;
    int fd;

    *text = NULL;
    if (size)
        *size = 0;
    if (limit > SIZE_MAX - 2)
        limit = SIZE_MAX - 2;
    fd = open_retrying(path, O_RDONLY | O_CLOEXEC); /* a pipe is fine here */
    if (fd < 0) {
        FAIL_SYSTEM(error, path, "cannot open");
        goto done;
    }
    for (;;) {
        ssize_t got;
        size_t room;
        if (used == capacity) { /* limit + 1 bytes of room tell a text of `limit` bytes from a longer one */
            size_t grown = capacity ? (capacity > limit / 2 ? limit + 1 : capacity * 2) : TEXT_BYTES_FIRST;
            if (grown > limit + 1)
                grown = limit + 1;
            char *bigger = ousac_regrow(block, capacity + (capacity > 0), grown + 1, 1);
            if (!bigger) {
                FAIL_MEMORY(error, path);
                goto done;
            }
            block = bigger;
            capacity = grown;
        }
        room = capacity - used;
        got = read(fd, block + used, room < CALL_BYTES_MAX ? room : CALL_BYTES_MAX);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            FAIL_SYSTEM(error, path, "cannot read");
            goto done;
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > limit) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: longer than %zu bytes", path, limit);
            goto done;
        }
    }
    if (memchr(block, '\0', used)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: holds a NUL byte, expected text", path);
        goto done;
    }
    block[used] = '\0';
    *text = block;
    block = NULL;
    if (size)
        *size = used;

done:
    ousac_free(block);
    if (fd >= 0)
        (void)close(fd);
    return status;
}

/* ---- writing ---- */

/* "DIRECTORY/.BASE.XXXXXX.tmp"; `salt` sets the six characters. Returns NULL where memory is short. */
static char *temporary_name(const char *directory, const char *base, uint64_t salt) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    size_t kept = strlen(base) < TEMPORARY_BASE_BYTES ? strlen(base) : TEMPORARY_BASE_BYTES;
    size_t bytes = strlen(directory) + kept + sizeof "/..XXXXXX.tmp";
    char suffix[7], *name = ousac_malloc(bytes, 1);
    if (!name)
        return NULL;
    for (int i = 0; i < 6; i++) {
        suffix[i] = letters[salt % 36];
        salt /= 36;
    }
    suffix[6] = '\0';
    (void)snprintf(name, bytes, "%s/.%.*s.%s.tmp", directory, (int)kept, base, suffix);
    return name;
}

/* Differs between processes, writers and tries; O_EXCL makes a clash harmless. */
static uint64_t temporary_salt(const void *writer, unsigned attempt) {
    struct timespec now = {0, 0};
    uint64_t x;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    x = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    x ^= (uint64_t)getpid() << 40;
    x ^= (uint64_t)(uintptr_t)writer;
    x += (attempt + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9); /* the splitmix64 finaliser */
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Sets writer->target: the path itself, or what a symbolic link leads to, so that the link survives. Only a
 * regular file may be replaced: a rename over a device or a pipe would remove it. */
static ousac_status resolve_target(ousac_file_writer *writer, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *path = writer->path, *slash = strrchr(path, '/');
    char *resolved = NULL;
    struct stat info;
    int exists = 0;

    if (!*path || (slash && !slash[1])) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: names no file", *path ? path : "(empty path)");
        goto done;
    }
    if (lstat(path, &info) == 0) {
        exists = 1;
        if (S_ISLNK(info.st_mode)) {
            resolved = realpath(path, NULL);
            if (!resolved || stat(resolved, &info) != 0) {
                FAIL_SYSTEM(error, path, "cannot write through the symbolic link");
                goto done;
            }
        }
    } else if (errno != ENOENT) {
        FAIL_SYSTEM(error, path, "cannot write");
        goto done;
    }
    if (exists && !S_ISREG(info.st_mode)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s; only a regular file can be replaced", path,
                            S_ISDIR(info.st_mode) ? "is a directory" : "is a device, pipe or socket");
        goto done;
    }
    writer->target = ousac_strdup(resolved ? resolved : path);
    if (!writer->target)
        FAIL_MEMORY(error, path);

done:
    free(resolved); /* realpath's own allocation */
    return status;
}

/* Splits writer->target: `directory` is the writer's, *base lies in `target`. */
static ousac_status split_target(ousac_file_writer *writer, const char **base, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char *slash;
    writer->directory = ousac_malloc(strlen(writer->target) + sizeof ".", 1);
    if (!writer->directory) {
        FAIL_MEMORY(error, writer->path);
        goto done;
    }
    (void)strcpy(writer->directory, writer->target);
    slash = strrchr(writer->directory, '/');
    *base = slash ? writer->target + (slash + 1 - writer->directory) : writer->target;
    if (slash)
        slash[slash == writer->directory] = '\0'; /* "/name" lies in "/" */
    else
        memcpy(writer->directory, ".", 2);
done:
    return status;
}

ousac_status ousac_file_check_target(const char *path, ousac_error *error) {
    ousac_file_writer *writer = ousac_calloc(1, sizeof *writer);
    ousac_status status = OUSAC_STATUS_OK;
    const char *base = NULL;
    struct stat info;

    if (!writer || !(writer->path = ousac_strdup(path))) {
        FAIL_MEMORY(error, path);
        goto done;
    }
    writer->fd = -1;
    status = resolve_target(writer, error);
    if (!status)
        status = split_target(writer, &base, error);
    if (status)
        goto done;
    if (stat(writer->directory, &info) != 0) {
        FAIL_SYSTEM(error, path, "cannot write into its directory");
        goto done;
    }
    if (!S_ISDIR(info.st_mode)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s is not a directory", path, writer->directory);
        goto done;
    }
    if (access(writer->directory, W_OK | X_OK) != 0) {
        FAIL_SYSTEM(error, path, "cannot write into its directory");
        goto done;
    }
    writer->temporary = temporary_name(writer->directory, base, 0);
    if (!writer->temporary) {
        FAIL_MEMORY(error, path);
        goto done;
    }
    if (lstat(writer->temporary, &info) != 0 && errno != ENOENT)
        FAIL_SYSTEM(error, path, "cannot create a temporary file beside it");
    ousac_free(writer->temporary); /* only its name was tried */
    writer->temporary = NULL;

done:
    ousac_file_discard(writer);
    return status;
}

ousac_status ousac_file_create(ousac_file_writer **result, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_file_writer *writer = NULL;
    const char *base = NULL;

    *result = NULL;
    writer = ousac_calloc(1, sizeof *writer);
    if (!writer) {
        FAIL_MEMORY(error, path);
        goto done;
    }
    writer->fd = -1;
    writer->path = ousac_strdup(path);
    writer->buffer = ousac_malloc(BUFFER_BYTES, 1);
    if (!writer->path || !writer->buffer) {
        FAIL_MEMORY(error, path);
        goto done;
    }
    status = resolve_target(writer, error);
    if (status)
        goto done;
    status = split_target(writer, &base, error);
    if (status)
        goto done;

    for (unsigned attempt = 0; writer->fd < 0; attempt++) {
        ousac_free(writer->temporary);
        writer->temporary = temporary_name(writer->directory, base, temporary_salt(writer, attempt));
        if (!writer->temporary) {
            FAIL_MEMORY(error, path);
            goto done;
        }
        writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->fd < 0 && ((errno != EEXIST && errno != EINTR) || attempt + 1 == TEMPORARY_TRIES)) {
            FAIL_SYSTEM(error, path, "cannot create a temporary file beside it");
            ousac_free(writer->temporary); /* not ours to remove */
            writer->temporary = NULL;
            goto done;
        }
    }
    *result = writer;
    writer = NULL;

done:
    ousac_file_discard(writer);
    return status;
}

/* All of `data` at the file's position, or at `offset` where that is not negative. */
static ousac_status write_all(ousac_file_writer *writer, const unsigned char *data, size_t size, off_t offset,
                              ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    while (size) {
        size_t part = size < CALL_BYTES_MAX ? size : CALL_BYTES_MAX;
        ssize_t put = offset < 0 ? write(writer->fd, data, part) : pwrite(writer->fd, data, part, offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            if (put == 0)
                errno = ENOSPC; /* a regular file that takes nothing, and no reason given */
            FAIL_SYSTEM(error, writer->path, "cannot write");
            writer->failed = 1;
            break;
        }
        data += put;
        size -= (size_t)put;
        if (offset >= 0)
            offset += put;
    }
    return status;
}

static ousac_status flush(ousac_file_writer *writer, ousac_error *error) {
    ousac_status status = write_all(writer, writer->buffer, writer->buffered, -1, error);
    if (!status) {
        writer->flushed += writer->buffered;
        writer->buffered = 0;
    }
    return status;
}

static ousac_status refuse_after_failure(const ousac_file_writer *writer, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: an earlier write to it failed", writer->path);
}

ousac_status ousac_file_write(ousac_file_writer *writer, const void *data, size_t size, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (writer->failed)
        return refuse_after_failure(writer, error);
    if (size > BUFFER_BYTES - writer->buffered) {
        status = flush(writer, error);
        if (status)
            return status;
    }
    if (size >= BUFFER_BYTES) {
        status = write_all(writer, data, size, -1, error);
        if (!status)
            writer->flushed += size;
    } else if (size) {
        memcpy(writer->buffer + writer->buffered, data, size);
        writer->buffered += size;
    }
    return status;
}

ousac_status ousac_file_rewrite(ousac_file_writer *writer, size_t offset, const void *data, size_t size,
                                ousac_error *error) {
    ousac_status status;
    size_t end = writer->flushed + writer->buffered;
    if (writer->failed)
        return refuse_after_failure(writer, error);
    if (offset > end || size > end - offset)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: rewriting bytes %zu + %zu of only %zu written",
                          writer->path, offset, size, end);
    status = flush(writer, error);
    if (status)
        return status;
    return write_all(writer, data, size, (off_t)offset, error);
}

static int sync_retrying(int fd) {
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Makes the rename durable. A directory that may be written but not read, or a file system that cannot sync
 * directories, is no error: nothing more can be done there. */
static ousac_status sync_directory(const ousac_file_writer *writer, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int fd = open_retrying(writer->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        if (errno != EACCES)
            FAIL_SYSTEM(error, writer->path, "written, but its directory cannot be opened to sync it");
        return status;
    }
    if (sync_retrying(fd) != 0 && errno != EINVAL && errno != ENOTSUP)
        FAIL_SYSTEM(error, writer->path, "written, but its directory cannot be synced");
    (void)close(fd);
    return status;
}

ousac_status ousac_file_commit(ousac_file_writer *writer, ousac_error *error) {
    return ousac_file_commit_checked(writer, NULL, NULL, error);
}

ousac_status ousac_file_commit_checked(ousac_file_writer *writer, ousac_file_check check, void *self,
                                       ousac_error *error) {
    ousac_status status;
    int closed;

    if (writer->failed) {
        status = refuse_after_failure(writer, error);
        goto done;
    }
    status = flush(writer, error);
    if (status)
        goto done;
    if (sync_retrying(writer->fd) != 0) {
        FAIL_SYSTEM(error, writer->path, "cannot sync");
        goto done;
    }
    closed = close(writer->fd);
    writer->fd = -1;
    if (closed != 0 && errno != EINTR) { /* interrupted: closed all the same, and synced before */
        FAIL_SYSTEM(error, writer->path, "cannot close");
        goto done;
    }
    if (check) {
        status = check(self, writer->temporary, error);
        if (status) {
            (void)ousac_error_prefix(error, "%s: not written, since what was to be its content does not hold",
                                     writer->path);
            goto done;
        }
    }
    if (rename(writer->temporary, writer->target) != 0) {
        FAIL_SYSTEM(error, writer->path, "cannot rename the temporary file to it");
        goto done;
    }
    ousac_free(writer->temporary);
    writer->temporary = NULL;
    status = sync_directory(writer, error);

done:
    ousac_file_discard(writer);
    return status;
}

void ousac_file_discard(ousac_file_writer *writer) {
    if (!writer)
        return;
    if (writer->fd >= 0)
        (void)close(writer->fd);
    if (writer->temporary)
        (void)unlink(writer->temporary);
    ousac_free(writer->temporary);
    ousac_free(writer->directory);
    ousac_free(writer->target);
    ousac_free(writer->path);
    ousac_free(writer->buffer);
    ousac_free(writer);
}

ousac_status ousac_file_replace(const char *path, const void *data, size_t size, ousac_error *error) {
    ousac_file_writer *writer = NULL;
    ousac_status status = ousac_file_create(&writer, path, error);
    if (status)
        goto done;
    status = ousac_file_write(writer, data, size, error);
    if (status)
        goto done;
    status = ousac_file_commit(writer, error);
    writer = NULL;

done:
    ousac_file_discard(writer);
    return status;
}

ousac_status ousac_file_make_directory(const char *path, ousac_error *error) {
    struct stat info;
    ousac_status status = OUSAC_STATUS_OK;
    char *copy = ousac_strdup(path);
    if (!copy)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    for (char *at = copy + (*copy != '\0'); *at; at++)
        if (*at == '/') {
            *at = '\0';
            (void)mkdir(copy, 0777); /* one that cannot be made shows at the last */
            *at = '/';
        }
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot make the directory: %s", path, strerror(errno));
    else if (stat(copy, &info) != 0 || !S_ISDIR(info.st_mode))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: not a directory", path);
    ousac_free(copy);
    return status;
}
