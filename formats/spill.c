#define _GNU_SOURCE /* O_TMPFILE; madvise */

#include "formats/spill.h"

#include "formats/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REASON_BYTES = 128, CALL_BYTES_MAX = 1 << 30 };

typedef struct mapping {
    void *block;
    size_t size;
} mapping;

struct ousac_spill {
    int fd;
    char *directory;
    uint64_t size; /* of the file */
    mapping *mappings;
    size_t count, room;
};

static ousac_status fail_system(const ousac_spill *spill, const char *what, int code, ousac_error *error) {
    char reason[REASON_BYTES];
    const char *text = strerror_r(code, reason, sizeof reason); /* the GNU one, under _GNU_SOURCE */
    return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s: %s", spill->directory, what, text);
}

/* A file without a name where the file system offers that, else one whose name is removed at once. */
static int open_nameless(const char *directory, char *name) {
    int fd;
    do
        fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
        (void)unlink(name);
    return fd;
}

ousac_status ousac_spill_create(ousac_spill **spill, const char *directory, ousac_error *error) {
    static const char pattern[] = "/.ousac-spill-XXXXXX";
    const size_t length = strlen(directory);
    ousac_status status = OUSAC_STATUS_OK;
    ousac_spill *made = ousac_calloc(1, sizeof *made);
    char *name = ousac_malloc(length + sizeof pattern, 1);
    *spill = NULL;
    if (made) {
        made->fd = -1;
        made->directory = ousac_strdup(directory);
    }
    if (!made || !name || !made->directory) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for a temporary file", directory);
        goto done;
    }
    memcpy(name, directory, length);
    memcpy(name + length, pattern, sizeof pattern);
    made->fd = open_nameless(directory, name);
    if (made->fd < 0) {
        status = fail_system(made, "cannot create a temporary file in it", errno, error);
        goto done;
    }
    *spill = made;
    made = NULL;
done:
    ousac_free(name);
    ousac_spill_free(made);
    return status;
}

void ousac_spill_free(ousac_spill *spill) {
    if (!spill)
        return;
    for (size_t i = 0; i < spill->count; i++)
        (void)munmap(spill->mappings[i].block, spill->mappings[i].size);
    if (spill->fd >= 0)
        (void)close(spill->fd);
    ousac_free(spill->mappings);
    ousac_free(spill->directory);
    ousac_free(spill);
}

ousac_status ousac_spill_append(ousac_spill *spill, const void *data, size_t size, uint64_t *offset,
                                ousac_error *error) {
    const unsigned char *from = data;
    *offset = spill->size;
    while (size) {
        const ssize_t put =
            pwrite(spill->fd, from, size < CALL_BYTES_MAX ? size : CALL_BYTES_MAX, (off_t)spill->size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fail_system(spill, "cannot write to a temporary file in it", put < 0 ? errno : ENOSPC,
                               error);
        from += put;
        size -= (size_t)put;
        spill->size += (uint64_t)put;
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_spill_read(ousac_spill *spill, uint64_t offset, void *data, size_t size,
                              ousac_error *error) {
    unsigned char *to = data;
    if (offset > spill->size || size > spill->size - offset)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: bytes beyond the end of a temporary file in it",
                          spill->directory);
    while (size) {
        const ssize_t got =
            pread(spill->fd, to, size < CALL_BYTES_MAX ? size : CALL_BYTES_MAX, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail_system(spill, "cannot read a temporary file in it", got < 0 ? errno : EIO, error);
        to += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return OUSAC_STATUS_OK;
}

/* Room for one more mapping. */
static int reserve(ousac_spill *spill) {
    if (spill->count < spill->room)
        return 1;
    const size_t wanted = 2 * spill->room + 16;
    mapping *grown = ousac_regrow(spill->mappings, spill->room, wanted, sizeof *grown);
    if (!grown)
        return 0;
    spill->mappings = grown;
    spill->room = wanted;
    return 1;
}

ousac_status ousac_spill_map(ousac_spill *spill, size_t size, void **block, ousac_error *error) {
    const long page = sysconf(_SC_PAGESIZE);
    const uint64_t unit = page > 0 ? (uint64_t)page : 4096, begin = (spill->size + unit - 1) / unit * unit;
    const size_t whole = size ? (size_t)((size + unit - 1) / unit * unit) : (size_t)unit;
    int code;
    *block = NULL;
    if (size > SIZE_MAX - (size_t)unit || !reserve(spill))
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory to map %zu bytes", spill->directory,
                          size);
    do
        code = posix_fallocate(spill->fd, (off_t)begin, (off_t)whole);
    while (code == EINTR);
    if (code)
        return fail_system(spill, "cannot set room aside in a temporary file in it", code, error);
    void *mapped = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED, spill->fd, (off_t)begin);
    if (mapped == MAP_FAILED)
        return fail_system(spill, "cannot map a temporary file in it", errno, error);
    spill->size = begin + whole;
    spill->mappings[spill->count++] = (mapping){mapped, whole};
    *block = mapped;
    return OUSAC_STATUS_OK;
}

void ousac_spill_drop(void *block, size_t size) {
    /* Of a shared mapping of a file: the pages, written or not, stay the file's. */
    (void)madvise(block, size, MADV_DONTNEED);
}
