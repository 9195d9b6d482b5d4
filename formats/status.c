#include "formats/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *ousac_status_name(ousac_status status) {
    switch (status) {
    case OUSAC_STATUS_OK:
        return "ok";
    case OUSAC_STATUS_USAGE:
        return "usage";
    case OUSAC_STATUS_IO:
        return "io";
    case OUSAC_STATUS_FORMAT:
        return "format";
    case OUSAC_STATUS_MISMATCH:
        return "mismatch";
    case OUSAC_STATUS_MEMORY:
        return "memory";
    case OUSAC_STATUS_NUMBER:
        return "number";
    case OUSAC_STATUS_UNSUPPORTED:
        return "unsupported";
    case OUSAC_STATUS_INTERRUPTED:
        return "interrupted";
    case OUSAC_STATUS_INTERNAL:
        return "internal";
    }
    return "unknown";
}

static void make_one_line(char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f)
            *text = '?';
    }
}

ousac_status ousac_error_set(ousac_error *error, ousac_status status, const char *file, int line,
                             const char *format, ...) {
    if (error) {
        va_list args;
        error->status = status;
        error->file = file;
        error->line = line;
        va_start(args, format);
        (void)vsnprintf(error->message, sizeof error->message, format, args);
        va_end(args);
        make_one_line(error->message);
    }
    return status;
}

ousac_status ousac_error_prefix(ousac_error *error, const char *format, ...) {
    char prefix[OUSAC_ERROR_MESSAGE_BYTES / 2]; /* the message matters more than a very long name */
    va_list args;
    if (!error)
        return OUSAC_STATUS_OK;
    va_start(args, format);
    (void)vsnprintf(prefix, sizeof prefix - 2, format, args);
    va_end(args);
    (void)strcat(prefix, ": ");
    const size_t used = strlen(prefix), room = sizeof error->message - 1 - used;
    size_t kept = strlen(error->message);
    kept = kept < room ? kept : room;
    memmove(error->message + used, error->message, kept);
    memcpy(error->message, prefix, used);
    error->message[used + kept] = '\0';
    make_one_line(error->message);
    return error->status;
}
