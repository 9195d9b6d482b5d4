/* Status codes and the error object of every fallible function.
 *
 * Library code reports; it never prints, exits or aborts. The values are pinned: they are part of the ABI.
 * Thread-safety: an ousac_error belongs to one thread at a time; the functions hold no global state.
 */
#ifndef OUSAC_STATUS_H
#define OUSAC_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_status {
    OUSAC_STATUS_OK = 0,
    OUSAC_STATUS_USAGE = -1,       /* an argument or option is wrong, unknown or out of range */
    OUSAC_STATUS_IO = -2,          /* the operating system refused: open, read, write, sync, rename */
    OUSAC_STATUS_FORMAT = -3,      /* a file is not what its format says it must be */
    OUSAC_STATUS_MISMATCH = -4,    /* files are well-formed but were not made for one another */
    OUSAC_STATUS_MEMORY = -5,      /* an allocation failed */
    OUSAC_STATUS_NUMBER = -6,      /* a value is not finite, or a numerical routine did not converge */
    OUSAC_STATUS_UNSUPPORTED = -7, /* recognised, but this build or this machine cannot do it */
    OUSAC_STATUS_INTERRUPTED = -8, /* the caller asked to stop */
    OUSAC_STATUS_INTERNAL = -9     /* a broken invariant of ousac itself */
} ousac_status;

enum { OUSAC_ERROR_MESSAGE_BYTES = 512 };

/* Caller-owned; zero-initialise. Every function that takes one accepts NULL and then drops the message. */
typedef struct ousac_error {
    ousac_status status;
    const char *file; /* source file that raised it; static storage */
    int line;
    char message
        [OUSAC_ERROR_MESSAGE_BYTES]; /* one line of UTF-8; where too long, long names lose their middles */
} ousac_error;

/* Short lower-case name of a status, static storage; "unknown" for a value that is none. */
const char *ousac_status_name(ousac_status status);

/* Records the error (where `error` is not NULL) and returns `status`. What a terminal would obey in the message,
 * which may quote hostile input, is replaced by '?' (ousac_utf8_show), so that it is always one printable line. */
ousac_status ousac_error_set(ousac_error *error, ousac_status status, const char *file, int line,
                             const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 5, 6)))
#endif
    ;

/* Puts "PREFIX: " before the recorded message, to name a file or a tensor that the callee could not know.
 * Returns error->status (OUSAC_STATUS_OK where `error` is NULL). */
ousac_status ousac_error_prefix(ousac_error *error, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

#define OUSAC_FAIL(error, status, ...) ousac_error_set((error), (status), __FILE__, __LINE__, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
