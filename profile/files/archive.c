#include "profile/files/archive.h"

#include "formats/foreign.h"
#include "formats/memory.h"
#include "profile/files/arch_text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT_VERSION "2"

enum { SHAPE_TEXT_BYTES = 112, REASON_BYTES = 128, NUMBER_BYTES = 40 };

/* The two enums are pinned to the same values by their formats; this file passes one for the other. */
_Static_assert((int)OUSAC_DTYPE_F64 == (int)OCA_F64 && (int)OUSAC_DTYPE_F32 == (int)OCA_F32 &&
                   (int)OUSAC_DTYPE_F16 == (int)OCA_F16 && (int)OUSAC_DTYPE_BF16 == (int)OCA_BF16 &&
                   (int)OUSAC_DTYPE_I8 == (int)OCA_I8 && (int)OUSAC_DTYPE_U8 == (int)OCA_U8 &&
                   (int)OUSAC_DTYPE_I32 == (int)OCA_I32 && (int)OUSAC_DTYPE_I64 == (int)OCA_I64,
               "dtypes of the writer and of the reader");

static void *allocate(void *context, size_t bytes) {
    (void)context;
    return ousac_malloc(bytes, 1);
}

static void release(void *context, void *block) {
    (void)context;
    ousac_free(block);
}

/* What a status of the standalone reader is among ousac's. */
static ousac_status status_of(oca_status status) {
    switch (status) {
    case OCA_OK:
        return OUSAC_STATUS_OK;
    case OCA_ERR_IO:
        return OUSAC_STATUS_IO;
    case OCA_ERR_MEMORY:
        return OUSAC_STATUS_MEMORY;
    case OCA_ERR_LIMIT:
    case OCA_ERR_UNSUPPORTED:
    case OCA_ERR_VERSION:
        return OUSAC_STATUS_UNSUPPORTED;
    case OCA_ERR_ARGUMENT:
    case OCA_ERR_RANGE:
    case OCA_ERR_TASK:
        return OUSAC_STATUS_INTERNAL;
    default:
        return OUSAC_STATUS_FORMAT;
    }
}

static ousac_status fail_open(const char *path, oca_status got, const oca_fault *fault, int code,
                              ousac_error *error) {
    char reason[REASON_BYTES];
    if (got == OCA_ERR_IO && code && strerror_r(code, reason, sizeof reason) == 0)
        return OUSAC_FAIL(error, status_of(got), "%s: cannot be read: %s", path, reason);
    const ousac_status status =
        fault->what ? OUSAC_FAIL(error, status_of(got), "%s: %s (%s, record %" PRIu64 ")", path,
                                 oca_status_string(got), fault->what, fault->item)
                    : OUSAC_FAIL(error, status_of(got), "%s: %s", path, oca_status_string(got));
    return ousac_known_explain_file(status, path, OUSAC_KNOWN_ARCHIVE, "an .oca archive", error);
}

static int read_at(void *context, uint64_t offset, void *target, size_t bytes) {
    const int fd = *(const int *)context;
    unsigned char *to = target;
    while (bytes) {
        const ssize_t got = pread(fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        to += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

/* Opens a regular file for reading; -1 with errno. */
static int open_regular(const char *path, uint64_t *size) {
    struct stat info;
    int fd, code = 0;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO without a writer must not hang */
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -1;
    if (fstat(fd, &info) != 0)
        code = errno;
    else if (!S_ISREG(info.st_mode))
        code = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    if (code) {
        (void)close(fd);
        errno = code;
        return -1;
    }
    *size = (uint64_t)info.st_size;
    return fd;
}

ousac_status ousac_archive_open(ousac_archive *archive, const char *path, const char *format,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    oca_fault fault = {NULL, 0};
    oca_options options = {0};
    memset(archive, 0, sizeof *archive);
    uint64_t size = 0;
    oca_status got = OCA_ERR_IO;
    archive->path = ousac_strdup(path);
    archive->descriptor = ousac_malloc(1, sizeof *archive->descriptor);
    if (archive->descriptor)
        *archive->descriptor = -1;
    if (!archive->path || !archive->descriptor) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
        goto done;
    }
    options.allocate = allocate;
    options.release = release;
    options.fault = &fault;
    errno = 0;
    *archive->descriptor = open_regular(path, &size);
    if (*archive->descriptor >= 0)
        got = oca_open_callback(&archive->file, read_at, archive->descriptor, size, &options);
    if (got != OCA_OK) {
        status = fail_open(path, got, &fault, errno, error);
        goto done;
    }
    const char *found = oca_metadata(archive->file, "format");
    const char *version = oca_metadata(archive->file, "format_version");
    if (!found)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: an archive without the metadata \"format\"; expected \"%s\"", path, format);
    else if (strcmp(found, format) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: a file of format \"%.64s\"; expected \"%s\"",
                            path, found, format);
    else if (!version)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: no metadata \"format_version\"", path);
    else if (strcmp(version, "1") != 0 && strcmp(version, FORMAT_VERSION) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                            "%s: version \"%.32s\" of format %s; this ousac reads versions 1 and %s", path,
                            version, format, FORMAT_VERSION);
    else
        archive->version = version[0] - '0';
done:
    if (status)
        ousac_archive_close(archive);
    return status;
}

void ousac_archive_close(ousac_archive *archive) {
    oca_close(archive->file);
    if (archive->descriptor && *archive->descriptor >= 0)
        (void)close(*archive->descriptor);
    ousac_free(archive->descriptor);
    ousac_free(archive->path);
    memset(archive, 0, sizeof *archive);
}

ousac_status ousac_archive_text(const ousac_archive *archive, const char *key, const char **value,
                                ousac_error *error) {
    *value = oca_metadata(archive->file, key);
    if (!*value)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: no metadata \"%s\"", archive->path, key);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_copy_text(const ousac_archive *archive, const char *key, char *value, size_t size,
                                     ousac_error *error) {
    const char *text = NULL;
    ousac_status status = ousac_archive_text(archive, key, &text, error);
    if (status)
        return status;
    size_t length = strlen(text);
    if (length >= size)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" has %zu bytes; at most %zu expected", archive->path, key,
                          length, size - 1);
    memcpy(value, text, length + 1);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_u64(const ousac_archive *archive, const char *key, uint64_t min, uint64_t max,
                               uint64_t *value, ousac_error *error) {
    const char *text = NULL;
    ousac_status status = ousac_archive_text(archive, key, &text, error);
    if (status)
        return status;
    uint64_t number = 0;
    int valid = text[0] != '\0' && (text[0] != '0' || text[1] == '\0');
    for (const char *c = text; valid && *c; c++) {
        unsigned digit = (unsigned)(unsigned char)*c - '0';
        valid = digit <= 9 && number <= (UINT64_MAX - digit) / 10;
        if (valid)
            number = number * 10 + digit;
    }
    if (!valid || number < min || number > max)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" is \"%.40s\"; expected a number from %" PRIu64 " to %" PRIu64,
                          archive->path, key, text, min, max);
    *value = number;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_f64(const ousac_archive *archive, const char *key, double *value,
                               ousac_error *error) {
    const char *text = NULL;
    ousac_status status = ousac_archive_text(archive, key, &text, error);
    if (status)
        return status;
    char *end = NULL;
    /* strtod alone would also take white space, hexadecimal, "inf" and "nan" */
    double number = strspn(text, "0123456789+-.eE") == strlen(text) ? strtod(text, &end) : 0;
    if (!end || end == text || *end || !isfinite(number))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" is \"%.40s\"; expected a finite decimal number", archive->path,
                          key, text);
    *value = number;
    return OUSAC_STATUS_OK;
}

int ousac_digest_is_valid(const char *digest) {
    return strlen(digest) == OUSAC_DIGEST_CHARS - 1 &&
           strspn(digest, "0123456789abcdef") == OUSAC_DIGEST_CHARS - 1;
}

ousac_status ousac_archive_digest(const ousac_archive *archive, const char *key, int may_be_empty,
                                  char digest[OUSAC_DIGEST_CHARS], ousac_error *error) {
    const char *text = NULL;
    ousac_status status = ousac_archive_text(archive, key, &text, error);
    if (status)
        return status;
    if (!ousac_digest_is_valid(text) && !(may_be_empty && !*text))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" is \"%.64s\"; expected 64 lower-case hexadecimal digits",
                          archive->path, key, text);
    memcpy(digest, text, strlen(text) + 1);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_subject(const ousac_archive *archive, ousac_arch *arch, ousac_schedule *schedule,
                                   ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *text = NULL;
    char name[OUSAC_ERROR_MESSAGE_BYTES];
    char recorded[OUSAC_DIGEST_CHARS], computed[OUSAC_DIGEST_CHARS];
    memset(arch, 0, sizeof *arch);
    memset(schedule, 0, sizeof *schedule);
    status = ousac_archive_text(archive, "arch", &text, error);
    if (status)
        goto done;
    (void)snprintf(name, sizeof name, "%.400s: metadata \"arch\"", archive->path);
    status = ousac_arch_parse(arch, text, archive->version, name, error);
    if (!status)
        status = ousac_archive_text(archive, "schedule", &text, error);
    if (status)
        goto done;
    (void)snprintf(name, sizeof name, "%.400s: metadata \"schedule\"", archive->path);
    status = ousac_schedule_parse(schedule, text, strlen(text), name, error);
    if (!status)
        ousac_schedule_set_file(schedule, archive->path);
    if (!status)
        status = ousac_archive_digest(archive, "schedule_digest", 0, recorded, error);
    if (status)
        goto done;
    ousac_schedule_digest(schedule, computed);
    if (strcmp(recorded, computed) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"schedule_digest\" is %.12s; that of the schedule is %.12s",
                            archive->path, recorded, computed);
done:
    if (status) {
        ousac_arch_free(arch);
        ousac_schedule_free(schedule);
    }
    return status;
}

static void print_shape(char text[SHAPE_TEXT_BYTES], size_t dims, const uint64_t *shape) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < dims && used < SHAPE_TEXT_BYTES; i++)
        used += (size_t)snprintf(text + used, SHAPE_TEXT_BYTES - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
}

ousac_status ousac_archive_find(const ousac_archive *archive, const char *name, ousac_dtype dtype,
                                size_t dims, const uint64_t *shape, oca_tensor *tensor, ousac_error *error) {
    oca_status got = oca_tensor_find(archive->file, name, tensor);
    if (got == OCA_ERR_NOT_FOUND)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: no tensor \"%s\"", archive->path, name);
    if (got != OCA_OK)
        return OUSAC_FAIL(error, status_of(got), "%s: tensor \"%s\": %s", archive->path, name,
                          oca_status_string(got));
    if ((int)tensor->dtype != (int)dtype)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\" is %s; expected %s", archive->path,
                          name, ousac_dtype_name((ousac_dtype)tensor->dtype), ousac_dtype_name(dtype));
    if (tensor->dims != dims || memcmp(tensor->shape, shape, dims * sizeof *shape) != 0) {
        char found[SHAPE_TEXT_BYTES], expected[SHAPE_TEXT_BYTES];
        print_shape(found, tensor->dims, tensor->shape);
        print_shape(expected, dims, shape);
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\" has the shape (%s); expected (%s)",
                          archive->path, name, found, expected);
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_read_rows(const ousac_archive *archive, const oca_tensor *tensor, uint64_t rows,
                                     ousac_dtype dtype, void *target, size_t bytes, ousac_error *error) {
    oca_status got = oca_read(archive->file, tensor->index, 0, rows, (oca_dtype)(int)dtype, target, bytes);
    if (got != OCA_OK)
        return OUSAC_FAIL(error, status_of(got), "%s: tensor \"%s\": %s", archive->path, tensor->name,
                          oca_status_string(got));
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_read(const ousac_archive *archive, const char *name, ousac_dtype dtype,
                                size_t dims, const uint64_t *shape, void *target, ousac_error *error) {
    oca_tensor tensor;
    ousac_status status = ousac_archive_find(archive, name, dtype, dims, shape, &tensor, error);
    if (!status)
        status = ousac_archive_read_rows(archive, &tensor, tensor.shape[0], dtype, target,
                                         (size_t)tensor.bytes, error);
    return status;
}

ousac_status ousac_archive_check_f64(const ousac_archive *archive, const char *name, const double *values,
                                     size_t count, double least, ousac_error *error) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]) || values[i] < least)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\": element %zu is %g, %s",
                              archive->path, name, i, values[i],
                              isfinite(values[i]) ? "too small" : "not finite");
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_verify(const ousac_archive *archive, ousac_error *error) {
    size_t failed = 0;
    oca_status got = oca_verify(archive->file, &failed);
    if (got == OCA_OK)
        return OUSAC_STATUS_OK;
    oca_tensor tensor;
    if (oca_tensor_at(archive->file, failed, &tensor) != OCA_OK)
        return OUSAC_FAIL(error, status_of(got), "%s: %s", archive->path, oca_status_string(got));
    return OUSAC_FAIL(error, status_of(got), "%s: tensor \"%s\": %s", archive->path, tensor.name,
                      oca_status_string(got));
}

ousac_status ousac_archive_directory(const char *path, char **directory, ousac_error *error) {
    const char *slash = strrchr(path, '/');
    const size_t length = !slash ? 1 : slash == path ? 1 : (size_t)(slash - path);
    *directory = ousac_malloc(length + 1, 1);
    if (!*directory)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    memcpy(*directory, slash ? path : ".", length);
    (*directory)[length] = '\0';
    return OUSAC_STATUS_OK;
}

ousac_status ousac_archive_begin(ousac_oca_writer **writer, const char *format, ousac_error *error) {
    *writer = NULL;
    ousac_status status = ousac_oca_writer_create(writer, error);
    if (!status)
        status = ousac_oca_writer_metadata(*writer, "format", format, error);
    if (!status)
        status = ousac_oca_writer_metadata(*writer, "format_version", FORMAT_VERSION, error);
    if (!status)
        status = ousac_oca_writer_metadata(*writer, "ousac_version", OUSAC_VERSION, error);
    if (status) {
        ousac_oca_writer_free(*writer);
        *writer = NULL;
    }
    return status;
}

ousac_status ousac_archive_put_u64(ousac_oca_writer *writer, const char *key, uint64_t value,
                                   ousac_error *error) {
    char text[NUMBER_BYTES];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return ousac_oca_writer_metadata(writer, key, text, error);
}

ousac_status ousac_archive_put_f64(ousac_oca_writer *writer, const char *key, double value,
                                   ousac_error *error) {
    char text[NUMBER_BYTES];
    if (!isfinite(value))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "metadata \"%s\" would be %g; expected a finite number",
                          key, value);
    (void)snprintf(text, sizeof text, "%.17g", value);
    return ousac_oca_writer_metadata(writer, key, text, error);
}

ousac_status ousac_archive_put_subject(ousac_oca_writer *writer, const ousac_arch *arch,
                                       const ousac_schedule *schedule, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char *arch_text = NULL, *schedule_text = NULL;
    char digest[OUSAC_DIGEST_CHARS];
    status = ousac_arch_print(arch, &arch_text, error);
    if (!status)
        status = ousac_schedule_print(schedule, &schedule_text, error);
    if (status)
        goto done;
    ousac_schedule_digest(schedule, digest);
    status = ousac_oca_writer_metadata(writer, "arch", arch_text, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "schedule", schedule_text, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "schedule_digest", digest, error);
done:
    ousac_free(arch_text);
    ousac_free(schedule_text);
    return status;
}

ousac_status ousac_archive_fail(const char *path, const char *name, oca_status got, ousac_error *error) {
    return OUSAC_FAIL(error, status_of(got), "%s: tensor %s: %s", path, name, oca_status_string(got));
}

ousac_status ousac_archive_open_any(oca_file **file, const char *path, ousac_error *error) {
    oca_fault fault = {NULL, 0};
    oca_options options = {0};

    options.fault = &fault;
    errno = 0;
    oca_status got = oca_open_path(file, path, &options);
    if (got == OCA_OK) {
        return OUSAC_STATUS_OK;
    }
    if (got == OCA_ERR_IO && errno != 0) {
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot be read: %s", path, strerror(errno));
    }
    if (fault.what != NULL) {
        return OUSAC_FAIL(error, status_of(got), "%s: %s (%s, record %" PRIu64 ")", path,
                          oca_status_string(got), fault.what, fault.item);
    }
    return OUSAC_FAIL(error, status_of(got), "%s: %s", path, oca_status_string(got));
}
