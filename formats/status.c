#include "formats/status.h"

#include "formats/utf8.h"

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

/* Before a message is cut to its size: two paths of the system's longest and what is said of them. */
enum { WHOLE_BYTES = 3 * 4096, WORD_KEPT = 40 };

/* The longest run of bytes other than blanks. */
static char *longest_word(char *text, size_t *length) {
    char *longest = text;
    *length = 0;
    for (char *at = text; *at;) {
        const size_t word = strcspn(at, " ");
        if (word > *length) {
            longest = at;
            *length = word;
        }
        at += word + strspn(at + word, " ");
    }
    return longest;
}

/* Makes a text fit: long words, which are paths and names, lose their middles, so that neither their ends nor
 * the reason behind them are lost; then the end is cut. */
static void shorten(char *text, size_t room) {
    for (size_t size = strlen(text); size >= room; size = strlen(text)) {
        size_t length = 0;
        char *word = longest_word(text, &length);
        if (length <= WORD_KEPT)
            break;
        const size_t excess = size - (room - 1) + 3; /* and the dots */
        const size_t cut = excess < length - WORD_KEPT ? excess : length - WORD_KEPT;
        char *from = word + (length - cut) / 2;
        if (cut <= 3)
            break;
        memcpy(from, "...", 3);
        memmove(from + 3, from + cut, strlen(from + cut) + 1);
    }
}

static void keep(ousac_error *error, char *whole) {
    shorten(whole, sizeof error->message);
    (void)ousac_utf8_show(whole, strlen(whole), error->message, sizeof error->message);
}

ousac_status ousac_error_set(ousac_error *error, ousac_status status, const char *file, int line,
                             const char *format, ...) {
    if (error) {
        char whole[WHOLE_BYTES];
        va_list args;
        error->status = status;
        error->file = file;
        error->line = line;
        va_start(args, format);
        (void)vsnprintf(whole, sizeof whole, format, args);
        va_end(args);
        keep(error, whole);
    }
    return status;
}

ousac_status ousac_error_prefix(ousac_error *error, const char *format, ...) {
    char whole[WHOLE_BYTES + OUSAC_ERROR_MESSAGE_BYTES + 2];
    va_list args;
    if (!error)
        return OUSAC_STATUS_OK;
    va_start(args, format);
    (void)vsnprintf(whole, WHOLE_BYTES, format, args);
    va_end(args);
    (void)strcat(whole, ": ");
    (void)strcat(whole, error->message);
    keep(error, whole);
    return error->status;
}
